/*-------------------------------------------------------------------------
 *
 * event_base.h
 *	  What is kept of a user's events that retention has deleted.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVENT_BASE_H
#define AUD_EVENT_BASE_H

#include "postgres.h"

#include "definitions.h"

/* a row of table event_bases; zeroed but for the instants: of no events */
typedef struct AudEventBase
{
	TimestampTz complete_from;	/* from here on no event has been deleted */
	TimestampTz first_seen;		/* of those deleted; PG_INT64_MAX: none */
	TimestampTz last_seen;		/* PG_INT64_MIN: none */
	int64		nevents;		/* deleted */
	AudAggregateState *states;	/* one for each aggregate */
} AudEventBase;

extern void aud_event_base_init(const AudDefinitions *defs, AudEventBase *base);
extern bool aud_event_base_load(const AudDefinitions *defs, const char *user_id, int len, bool read_only, AudEventBase *base);
extern void aud_event_base_fold(const AudDefinitions *defs, AudEventBase *base, AudEvent *event);
extern void aud_event_bases_write(const AudDefinitions *defs, const char *const *ids, const int *lengths, const AudEventBase *bases, int n);

#endif							/* AUD_EVENT_BASE_H */
