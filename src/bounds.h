/*-------------------------------------------------------------------------
 *
 * bounds.h
 *	  What a definition, a user or a statement may cost at the most.
 *
 * The numbers are settings (settings.c).  They bind what is entered, not what
 * is there: the type's own limits are constants (rule.h), so what has been
 * stored can always be read, dumped and restored, whatever the settings say.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_BOUNDS_H
#define AUD_BOUNDS_H

#include "rule.h"

extern void aud_bounds_check_rule(const AudRule *rule);
extern void aud_bounds_check_events(int64 n);
extern void aud_bounds_check_user_events(const char *user_id, Size bytes);
extern void aud_bounds_check_attributes(const char *user_id, const Jsonb *attributes, const Jsonb *before);

#endif							/* AUD_BOUNDS_H */
