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

/* What a job's step runs in. */
typedef enum AudStepMode
{
	AUD_STEP_CATALOG,			/* a transaction */
	AUD_STEP_SQL,				/* the same, connected to SPI, with a snapshot, as the extension's owner or audience.kafka_role */
	AUD_STEP_FREE				/* none: it makes its own, by aud_frame_transaction */
} AudStepMode;

/*
 * A kind of work.  The step does a small part of it; what it runs in the frame
 * makes and ends.  It may throw.  "step" is zeroed but for "again", which is
 * DT_NOEND, and "idle".
 */
typedef struct AudJob
{
	const char *name;			/* what pg_stat_activity shows */
	AudStepMode mode;
	bool		any_wake;		/* look whenever somebody sets the latch, or aud_frame_fd is readable */
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
/* wakes the worker when it can be read from, which whoever sets it does; -1: none */
extern int	aud_frame_fd;
/* what pg_stat_activity shows while the worker sleeps; NULL: what it did last */
extern const char *aud_frame_waits_for;

extern void aud_frame_begin(AudWorkerKind kind, Datum main_arg);
extern void aud_frame_run(AudJob *jobs, int njobs);
extern void aud_frame_leave(AudWorkerEnd end);
extern int	aud_frame_backoff_ms(int failures);
extern void aud_frame_hurry(AudJob *job);

/*
 * For steps without a transaction: does some work in one, as AUD_STEP_SQL says,
 * which is committed if the work returns true, else undone.  True if it was
 * committed; false, too, if the extension is gone, and so the worker soon.
 */
extern bool aud_frame_transaction(const char *name, bool (*work) (void *arg), void *arg);

#endif							/* AUD_WORKER_FRAME_H */
