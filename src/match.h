/*-------------------------------------------------------------------------
 *
 * match.h
 *	  What the files of the operator |= share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_MATCH_H
#define AUD_MATCH_H

#include "access/htup.h"
#include "fmgr.h"

#include "prepare.h"

/* columns of the row type last seen (match_row.c) */
typedef struct AudRowColumns AudRowColumns;

/* where a call site's rule comes from */
typedef enum AudRuleOrigin
{
	AUD_RULE_CONSTANT,			/* the query's text: always the same */
	AUD_RULE_PARAMETER,			/* mostly the same as at the call before */
	AUD_RULE_VARYING			/* another one each time, for all we know */
} AudRuleOrigin;

/* what a call site keeps from one call to the next */
typedef struct AudMatchSite
{
	AudRuleOrigin origin;
	MemoryContext mcxt;			/* of all below; reset for another rule */
	AudPrepared *prepared;		/* NULL: rules are evaluated as they come */
	AudRowColumns *columns;		/* of rows */
} AudMatchSite;

/* match.c */
extern AudMatchSite *aud_match_site(FunctionCallInfo fcinfo, int rule_arg,
									bool immutable, const AudRule **rule);
extern bool aud_match_eval(const AudMatchSite *site, const AudRule *rule,
						   AudDoc *doc);
extern void aud_match_clock(const AudRule *rule, AudClock *clock);
extern bool aud_match_leaf(const AudRule *rule, const AudNode *node,
						   const JsonbValue *user_id);

/*
 * match_row.c: does the rule hold for a row?
 */
extern bool aud_match_row(AudMatchSite *site, const AudRule *rule,
						  HeapTupleHeader row);

#endif							/* AUD_MATCH_H */
