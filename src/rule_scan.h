/*-------------------------------------------------------------------------
 *
 * rule_scan.h
 *	  What the scanner and the grammar of the text form share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_RULE_SCAN_H
#define AUD_RULE_SCAN_H

#include "rule_parse.h"

/* the text of a token */
typedef struct AudTextString
{
	char	   *text;
	int			len;
} AudTextString;

/* one text form while it is read */
typedef struct AudText
{
	AudParse   *parse;
	AudJson    *holder;			/* the "expr" it is in, or NULL */
	const char *text;
	int			len;
	char	   *buffer;			/* the scanner's copy, which it changes */
	int			token_start;	/* of the token scanned last, for messages */
	int			token_end;
	StringInfoData literal;		/* string or quoted name being scanned */
	int			comment_depth;
	AudJson    *result;
} AudText;

#endif							/* AUD_RULE_SCAN_H */
