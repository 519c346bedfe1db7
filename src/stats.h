/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  Counting what the engine does.
 *
 * Every session counts for itself, always: a counter is a plain variable, so
 * counting in the middle of a loop costs an addition.  engine_work() shows a
 * session's counters, for developers and for tests that guard against needless
 * work.  The first few are also added up for the whole server (stats.c), and
 * shown by view stat_engine.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_STATS_H
#define AUD_STATS_H

#include "postgres.h"

typedef enum AudCounter
{
	/* for the whole server, too; in the order of stat_engine's columns */
	AUD_COUNT_STATEMENTS,		/* that inserted events */
	AUD_COUNT_EVENTS,
	AUD_COUNT_USERS,			/* in batches, each once a batch */
	AUD_COUNT_RULES,			/* evaluated */
	AUD_COUNT_ROWS,				/* of events read back for windows and states */
	AUD_COUNT_TRANSITIONS,
	AUD_COUNT_WAITS,			/* of changes of definitions, for others */
	AUD_NSHARED_COUNTERS,

	/* of a session only */
	AUD_COUNT_FOLDS = AUD_NSHARED_COUNTERS, /* of events into states, also of those that do not count there */
	AUD_COUNT_LEAVES,			/* evaluated */
	AUD_COUNT_TURNED,			/* leaves that turned over */
	AUD_COUNT_SETTLED,			/* changes that were held against stored memberships */
	AUD_COUNT_EVENT_SCANS,		/* descents of the index of events */
	AUD_COUNT_LOOKUPS,			/* of a user's row of profiles or timers, */
	AUD_COUNT_INDEX_LOOKUPS,	/* and those of them by the index */
	AUD_COUNT_PROFILES_WRITTEN,
	AUD_COUNT_HISTORY_ROWS,		/* written */
	AUD_COUNT_TIMERS_SET,
	AUD_COUNT_TIMERS_REMOVED,
	AUD_COUNT_SQL,				/* statements that the engine ran */
	AUD_COUNT_LOADS,			/* of the definitions */
	AUD_COUNT_LOADED_BYTES,		/* that they took */
	AUD_COUNT_BATCHES,
	AUD_COUNT_BATCH_BYTES,		/* that batches held when they ended */
	AUD_COUNT_LARGEST_BATCH,	/* the most of these that one batch held */
	AUD_COUNT_LARGEST_USER,		/* bytes that what only one user needs took, at the most */
	AUD_COUNT_EVENT_BYTES,		/* that statements' events took before they were in batches */
	AUD_NCOUNTERS
} AudCounter;

/* the session's counters, since it began or they were reset */
extern uint64 aud_stats_counts[AUD_NCOUNTERS];

/* Adds to a counter. */
static inline void
aud_stats_count(AudCounter counter, uint64 n)
{
	aud_stats_counts[counter] += n;
}

/* Raises a counter that keeps the largest value there was. */
static inline void
aud_stats_raise(AudCounter counter, uint64 n)
{
	aud_stats_counts[counter] = Max(aud_stats_counts[counter], n);
}

extern void aud_stats_init(void);
extern void aud_stats_flush(void);

#endif							/* AUD_STATS_H */
