/*-------------------------------------------------------------------------
 *
 * event_filter.h
 *	  Reading the table of events for what some aggregates look at.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVENT_FILTER_H
#define AUD_EVENT_FILTER_H

#include "access/tupdesc.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"
#include "utils/tuplesort.h"

#include "aggregate.h"

/* the columns of a row that is given out; those but the first as in the table */
enum
{
	AUD_ROW_USER_KEY = 1,		/* a number in whose order ids are, as far as it tells them apart */
	AUD_ROW_USER_ID,
	AUD_ROW_OCCURRED_AT,
	AUD_ROW_EVENT_ID,
	AUD_ROW_EVENT_TYPE,
	AUD_ROW_PROPERTIES,			/* null: the event is behind all windows */
	AUD_ROW_CONTEXT,
	AUD_ROW_NCOLUMNS = AUD_ROW_CONTEXT
};

/* what is looked for; flat, so that it can be given to other processes */
typedef struct AudEventFilter
{
	AudClock	clock;
	Oid			table;
	int			naggregates;
	int			prefix_len;
	char		prefix[256];	/* with which the users' ids mostly begin */
	uint32		evaluated_mask; /* of the table of last evaluations; 0: there is none */
} AudEventFilter;

/* of that table, by hash of the user's id: too many hours to tell */
#define AUD_AGES_AGO		PG_UINT16_MAX

extern bool aud_aggregate_needs_all(const AudAggregateDef *def);
extern TupleDesc aud_event_row_desc(void);
extern void aud_event_filter_run(const AudEventFilter *filter, const AudAggregateDef *const *aggregates,
								   const uint16 *evaluated, Relation events, Snapshot snapshot,
								   Tuplesortstate *sort);

#endif							/* AUD_EVENT_FILTER_H */
