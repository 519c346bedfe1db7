/*-------------------------------------------------------------------------
 *
 * worker_frame.h
 *	  What all background workers are built on: see worker_frame.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_WORKER_FRAME_H
#define AUD_WORKER_FRAME_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "workers.h"

/* What a step of a job came to. */
typedef struct AudStep
{
	bool		more;			/* there is more to do: now, but for jobs before this one */
	AudWorkerActivity idle;		/* why it does nothing, for the statistics; or SLEEPING */
	TimestampTz again;			/* without more: when to look again; DT_NOEND: when woken */
} AudStep;

/*
 * A kind of work.  The step does a small part of it, in a transaction of its
 * own, which the frame starts and commits; with "sql", connected to SPI, with
 * a snapshot, as the extension's owner.  It may throw.  "step" is zeroed but
 * for "again", which is DT_NOEND, and "idle".
 */
typedef struct AudJob
{
	const char *name;			/* what pg_stat_activity shows */
	bool		sql;
	bool		any_wake;		/* look whenever somebody sets the latch */
	void		(*step) (AudStep *step);
	/* from here on the frame's */
	TimestampTz again;
	int			failures;		/* in a row; > 0: backing off until "again" */
	AudWorkerActivity idle;
} AudJob;

/* this process's slot; for changes the lock, see workers.h */
extern AudWorkerSlot *aud_frame_slot;
/* how often the configuration was read again */
extern int	aud_frame_reloads;

extern void aud_frame_begin(AudWorkerKind kind, Datum main_arg);
extern void aud_frame_run(AudJob *jobs, int njobs);
extern void aud_frame_leave(AudWorkerEnd end);
extern int	aud_frame_backoff_ms(int failures);

#endif							/* AUD_WORKER_FRAME_H */
