/*-------------------------------------------------------------------------
 *
 * stats.h
 *	  What the engine has done since the server's start (view stat_engine).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_STATS_H
#define AUD_STATS_H

#include "postgres.h"

typedef enum AudCounter
{
	AUD_COUNT_STATEMENTS,		/* that inserted events */
	AUD_COUNT_EVENTS,
	AUD_COUNT_USERS,			/* in batches, each once a batch */
	AUD_COUNT_RULES,			/* evaluated */
	AUD_COUNT_ROWS,				/* of events read back for windows and states */
	AUD_COUNT_TRANSITIONS,
	AUD_COUNT_WAITS,			/* of changes of definitions, for others */
	AUD_NCOUNTERS
} AudCounter;

extern void aud_stats_init(void);
extern void aud_stats_count(AudCounter counter, uint64 n);

#endif							/* AUD_STATS_H */
