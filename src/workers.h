/*-------------------------------------------------------------------------
 *
 * workers.h
 *	  What background workers and sessions share: see workers.c.
 *
 * Both modules include this: audience_manager, which lays the memory out and
 * stays in the postmaster for as long as the server runs, and
 * audience_worker, which each worker loads when it starts and which an upgrade
 * may have replaced meanwhile.  So whoever changes what is in here changes
 * AUD_WORKERS_LAYOUT.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_WORKERS_H
#define AUD_WORKERS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lwlock.h"

#define AUD_WORKERS_LAYOUT	20261122

#define AUD_WORKER_LIBRARY	"audience_worker"

/* workers of databases, all kinds together; the launcher comes on top */
#define AUD_WORKERS_MAX		64
/* databases that a statement keeps workers out of, at the same time */
#define AUD_WORKERS_HOLDS	32
/* databases that the launcher is to look at; if it is more, at all */
#define AUD_WORKERS_NEWS	32
/* kinds of work of one worker */
#define AUD_WORKER_JOBS		4

/* of an error that a worker met; what is longer is cut */
#define AUD_WORKER_MESSAGE	256

/* consumers of one database, at most */
#define AUD_CONSUMERS_MAX	16

typedef enum AudWorkerKind
{
	AUD_WORKER_LAUNCHER,
	AUD_WORKER_SCHEDULER,
	AUD_WORKER_RELAY,
	AUD_WORKER_CONSUMER
} AudWorkerKind;

/* The jobs of a scheduler, most urgent first. */
typedef enum AudSchedulerJob
{
	AUD_JOB_TIMERS,
	AUD_JOB_FILLS,
	AUD_JOB_RETENTION,
	AUD_JOB_KAFKA
} AudSchedulerJob;

/* The jobs of a relay, and of a consumer. */
typedef enum AudBridgeJob
{
	AUD_JOB_LOOK,
	AUD_JOB_MOVE
} AudBridgeJob;

/* What sessions give word of; workers.c says to which jobs. */
typedef enum AudWord
{
	AUD_WORD_TIMERS,			/* timers are due */
	AUD_WORD_FILLS,				/* a fill is to be worked on */
	AUD_WORD_KAFKA,				/* what connects this database with Kafka has changed */
	AUD_WORD_OUTBOX,			/* there is something to send */
	AUD_NWORDS
} AudWord;

/*
 * The life of a slot:
 *
 *	          launcher              finds the extension
 *	FREE ----------------> STARTING --------------------> RUNNING
 *	 ^                       |   |                           |
 *	 |   never got its slot  |   | nothing there, or asked   | leaves
 *	 +-----------------------+   v                           v
 *	 +------------------------ ENDED <-----------------------+
 *	          launcher
 *
 * Only launchers go along the arrows from and to FREE, only the process itself
 * along the others; a launcher's own slot is FREE or RUNNING.
 */
typedef enum AudWorkerState
{
	AUD_WORKER_FREE,			/* nobody's */
	AUD_WORKER_STARTING,		/* asked for; pid 0 until there is a process */
	AUD_WORKER_RUNNING,			/* has found the extension, and stays */
	AUD_WORKER_ENDED			/* gone; the launcher has not seen it yet */
} AudWorkerState;

/* Why a worker went. */
typedef enum AudWorkerEnd
{
	AUD_END_FAILED,				/* something went wrong, or somebody sent it away */
	AUD_END_ASKED,				/* one of us asked it to */
	AUD_END_ABSENT				/* no extension in the database */
} AudWorkerEnd;

/* What a running worker is at. */
typedef enum AudWorkerActivity
{
	AUD_ACTIVITY_RUNNING,
	AUD_ACTIVITY_SLEEPING,
	AUD_ACTIVITY_PAUSED,		/* audience.now is set */
	AUD_ACTIVITY_RESTORE,		/* a dump is being restored */
	AUD_ACTIVITY_REPLICA,		/* timers come by logical replication */
	AUD_ACTIVITY_BACKING_OFF
} AudWorkerActivity;

/*
 * How sessions give word to a job.  A session that commits sets "noted" to the
 * earliest instant it knows of, then reads "again", and sets the latch if that
 * is later.  The worker says "now" in "again" while it looks for itself, sets
 * "noted" back before it looks, and reads it after having said in "again"
 * until when it will sleep.  With a barrier between each one's two steps,
 * neither can miss the other.
 */
typedef struct AudWorkerJobWord
{
	pg_atomic_uint64 noted;		/* TimestampTz; DT_NOEND: nothing */
	pg_atomic_uint64 again;		/* TimestampTz until which the job sleeps */
} AudWorkerJobWord;

/*
 * A worker.  All but the atomics is changed under the lock, exclusively; what
 * comes after "latch", while there is a process, by it only.
 */
typedef struct AudWorkerSlot
{
	AudWorkerState state;
	AudWorkerKind kind;
	AudWorkerEnd end;			/* of one that ended */
	bool		asked;			/* to leave */
	Oid			database;		/* InvalidOid: launcher, or free */
	uint32		generation;		/* which use of the slot this is */
	int			pid;			/* 0: none yet, or no more */
	Latch	   *latch;			/* of pid */
	TimestampTz started_at;
	int			number;			/* a consumer's, from 0 on */
	bool		wants_said;		/* a scheduler has said what it wants: */
	bool		wants_relay;	/* a relay, */
	int			wants_consumers;	/* and so many consumers */
	AudWorkerActivity activity;
	TimestampTz next_due_at;	/* the timers' next; DT_NOEND: none */
	TimestampTz last_run_at;	/* DT_NOBEGIN: never */
	int64		done;
	int64		errors;
	TimestampTz last_error_at;	/* DT_NOBEGIN: never */
	char		last_error[AUD_WORKER_MESSAGE];
	AudWorkerJobWord jobs[AUD_WORKER_JOBS];
} AudWorkerSlot;

/* A database that workers keep out of while a transaction is at it. */
typedef struct AudWorkerHold
{
	Oid			database;		/* InvalidOid: unused */
	int			pid;			/* whose transaction */
} AudWorkerHold;

typedef struct AudWorkers
{
	uint32		layout;
	LWLock	   *lock;
	ConditionVariable gone;		/* a worker has left */
	AudWorkerHold holds[AUD_WORKERS_HOLDS];
	int			nused;			/* slots up to this number have been used */
	int			nnews;			/* > AUD_WORKERS_NEWS: look at all */
	Oid			news[AUD_WORKERS_NEWS];
	AudWorkerSlot slots[AUD_WORKERS_MAX + 1];	/* slot 0: the launcher */
} AudWorkers;

/* NULL where the library is not preloaded */
extern PGDLLEXPORT AudWorkers *aud_workers;

/* settings */
extern PGDLLEXPORT char *aud_worker_databases;
extern PGDLLEXPORT int aud_worker_naptime;	/* s */
extern PGDLLEXPORT int aud_kafka_consumers;
extern PGDLLEXPORT char *aud_kafka_role;

extern void aud_workers_init(void);
extern void aud_workers_note(AudWord word, TimestampTz due);
extern void aud_workers_note_now(AudWord word);
extern bool aud_workers_sees_errors(Oid function);

/* for the worker module; these expect the lock, and throw nothing */
extern PGDLLEXPORT bool aud_workers_held(Oid database);
extern PGDLLEXPORT void aud_workers_ask(AudWorkerSlot *slot);

/* for the worker module; this takes no lock */
extern PGDLLEXPORT void aud_workers_call_launcher(void);

#endif							/* AUD_WORKERS_H */
