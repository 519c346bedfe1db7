/*-------------------------------------------------------------------------
 *
 * worker_frame.c
 *	  What all background workers are built on.
 *
 * A worker is a slot in shared memory (see workers.h) and a list of jobs, most
 * urgent first.  The frame owns the process: signals, the slot, transactions,
 * sleep, errors.  In a loop it gives a step to the first job whose time has
 * come, and where there is none sleeps until the earliest, a session gives
 * word, or somebody wants something of the process.  No job is left without a
 * look for longer than audience.worker_naptime.
 *
 * An error ends the step's transaction, is logged and counted, and sets that
 * job back for a second, doubling up to a minute; the other jobs go on.
 *
 * Steps of jobs that talk to others over the network are outside of any
 * transaction, and make short ones of their own (aud_frame_transaction).
 *
 * Steps with SQL run as the extension's owner, whom each of them looks up:
 * that way it notices that the extension is gone, and leaves.  The switch is
 * SetUserIdAndSecContext's, as for a SECURITY DEFINER function: the process
 * has connected as the bootstrap superuser, and nothing that a step calls may
 * get back to that by RESET ROLE.  It lasts until after the commit, which runs
 * deferred triggers; a transaction that fails undoes it.
 *
 * SIGTERM asks the process to leave: from the postmaster at shutdown, from
 * ours before DROP DATABASE (see workers.c), from pg_terminate_backend.  It
 * cancels the running step, so leaving is prompt, and nothing of it is logged
 * as an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "worker_frame.h"

PG_MODULE_MAGIC;

#define EXTENSION_NAME		"audience_manager"
#define FIRST_BACKOFF_MS	1000
#define LONGEST_BACKOFF_MS	60000

AudWorkerSlot *aud_frame_slot = NULL;
int			aud_frame_reloads = 0;
int			aud_frame_fd = -1;
const char *aud_frame_waits_for = NULL;

static bool leaving = false;
static AudWorkerEnd leaving_end = AUD_END_FAILED;
static AudJob *running = NULL;	/* the job whose step runs */

/*
 * How long to wait after so many failures in a row, at least one: doubling
 * from a second to a minute.
 */
int
aud_frame_backoff_ms(int failures)
{
	int			ms = FIRST_BACKOFF_MS;

	while (--failures > 0 && ms < LONGEST_BACKOFF_MS)
		ms *= 2;
	return Min(ms, LONGEST_BACKOFF_MS);
}

/* The process ends when the current step has; why, for the launcher. */
void
aud_frame_leave(AudWorkerEnd end)
{
	leaving = true;
	leaving_end = end;
}

/* Has a job look at once, unless it is backing off. */
void
aud_frame_hurry(AudJob *job)
{
	if (job->failures == 0)
		job->again = DT_NOBEGIN;
}

/* SIGTERM: leave, and soon.  The flag is set first: it says what a cancel is for. */
static void
handle_leave(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
	errno = save_errno;
}

/*
 * At exit: gives the slot back.  Locks are gone by then, but the process still
 * counts as a session of the database, for some moments more.
 */
static void
end_slot(int code, Datum arg)
{
	AudWorkerSlot *slot = aud_frame_slot;

	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	slot->pid = 0;
	slot->latch = NULL;
	slot->end = slot->asked ? AUD_END_ASKED : leaving_end;
	/* nobody but the launcher looks after the launcher's */
	slot->state = slot->kind == AUD_WORKER_LAUNCHER ? AUD_WORKER_FREE : AUD_WORKER_ENDED;
	LWLockRelease(aud_workers->lock);
	ConditionVariableBroadcast(&aud_workers->gone);
	if (slot->kind != AUD_WORKER_LAUNCHER)
		aud_workers_call_launcher();
}

/*
 * Takes the slot that main_arg numbers; ends the process if it is not, or no
 * more, meant for it.
 */
static void
take_slot(AudWorkerKind kind, Datum main_arg)
{
	AudWorkerSlot *slot = &aud_workers->slots[DatumGetInt32(main_arg)];
	uint32		generation;
	bool		mine;

	memcpy(&generation, MyBgworkerEntry->bgw_extra, sizeof(generation));
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	if (kind == AUD_WORKER_LAUNCHER)
		mine = slot->pid == 0;
	else
		mine = slot->state == AUD_WORKER_STARTING && slot->pid == 0 &&
			slot->kind == kind && slot->generation == generation;
	if (mine)
	{
		slot->kind = kind;
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->started_at = GetCurrentTimestamp();
		if (kind == AUD_WORKER_LAUNCHER)
			slot->state = AUD_WORKER_RUNNING;
	}
	LWLockRelease(aud_workers->lock);
	if (!mine)
		proc_exit(0);
	aud_frame_slot = slot;
	before_shmem_exit(end_slot, (Datum) 0);
	if (slot->asked)
		proc_exit(0);
}

/*
 * The beginning of a worker's main function: signals, slot, connection,
 * settings.  main_arg is the slot's number, bgw_extra its generation.  Ends
 * the process where there is nothing for it.
 */
void
aud_frame_begin(AudWorkerKind kind, Datum main_arg)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, handle_leave);
	pqsignal(SIGINT, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();

	if (aud_workers == NULL || aud_workers->layout != AUD_WORKERS_LAYOUT)
	{
		ereport(LOG,
				(errmsg("\"%s\" is not of the version of \"%s\" that the server was started with",
						AUD_WORKER_LIBRARY, EXTENSION_NAME),
				 errhint("Restart the server.")));
		proc_exit(0);
	}
	take_slot(kind, main_arg);
	if (OidIsValid(aud_frame_slot->database))
		BackgroundWorkerInitializeConnectionByOid(aud_frame_slot->database, InvalidOid, 0);
	else
		BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	/* settings that are meant for sessions of people */
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", MyBgworkerEntry->bgw_type, PGC_USERSET, PGC_S_OVERRIDE);
}

/* The extension, and in *owner whose it is; InvalidOid: it is not there.  In a transaction. */
static Oid
find_extension(Oid *owner)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			extension = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(EXTENSION_NAME));
	scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		extension = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	}
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	return extension;
}

/*
 * The extension's owner; InvalidOid: it is not there.  Locks it until the
 * transaction ends, before any of its tables: DROP EXTENSION, which locks it
 * first as well, waits for us, or we for it, and neither deadlocks over tables.
 */
static Oid
hold_extension(void)
{
	Oid			owner = InvalidOid;
	Oid			extension = find_extension(&owner);

	while (OidIsValid(extension))
	{
		Oid			held = extension;

		LockDatabaseObject(ExtensionRelationId, held, 0, AccessShareLock);
		extension = find_extension(&owner);
		if (extension == held)
			return owner;
	}
	return InvalidOid;
}

/* The extension is there: what has been a look becomes a worker that stays. */
static void
stay(void)
{
	if (aud_frame_slot->state == AUD_WORKER_RUNNING)
		return;
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	aud_frame_slot->state = AUD_WORKER_RUNNING;
	LWLockRelease(aud_workers->lock);
	ereport(LOG,
			(errmsg("%s for database \"%s\" started",
					MyBgworkerEntry->bgw_type, get_database_name(MyDatabaseId)),
			 errhidestmt(true)));
	/* which starts few at a time */
	aud_workers_call_launcher();
}

/* Sets what the statistics say that the worker is at. */
static void
set_activity(AudWorkerActivity activity)
{
	if (aud_frame_slot->activity == activity)
		return;
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	aud_frame_slot->activity = activity;
	LWLockRelease(aud_workers->lock);
}

/* Starts a transaction that pg_stat_activity and the log call by this name. */
static void
begin_transaction(const char *name, bool sql)
{
	debug_query_string = sql ? name : NULL;
	pgstat_report_activity(STATE_RUNNING, name);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
}

/*
 * Makes the transaction one for SQL: connected to SPI, with a snapshot, as the
 * extension's owner, or audience.kafka_role.  False, and leaves, if the
 * extension is not there.
 */
static bool
begin_sql(void)
{
	Oid			owner = hold_extension();

	if (!OidIsValid(owner))
	{
		aud_frame_leave(AUD_END_ABSENT);
		return false;
	}
	stay();
	if (aud_frame_slot->kind != AUD_WORKER_SCHEDULER && aud_kafka_role[0] != '\0')
		owner = get_role_oid(aud_kafka_role, false);
	SPI_connect();
	PushActiveSnapshot(GetTransactionSnapshot());
	SetUserIdAndSecContext(owner, SECURITY_LOCAL_USERID_CHANGE);
	return true;
}

/* Ends what begin_sql began, but for the user. */
static void
end_sql(void)
{
	PopActiveSnapshot();
	SPI_finish();
}

/* Does work in a transaction of its own: see worker_frame.h. */
bool
aud_frame_transaction(const char *name, bool (*work) (void *arg), void *arg)
{
	MemoryContext mcxt = CurrentMemoryContext;
	bool		done = false;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	begin_transaction(name, true);
	if (begin_sql())
	{
		done = work(arg);
		end_sql();
	}
	if (done)
		CommitTransactionCommand();
	else
		AbortCurrentTransaction();
	MemoryContextSwitchTo(mcxt);
	SetUserIdAndSecContext(user, context);
	(void) pgstat_report_stat(false);
	debug_query_string = NULL;
	return done;
}

/* A step in a transaction of the frame's. */
static void
run_in_transaction(AudJob *job, AudStep *step)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	begin_transaction(job->name, job->mode == AUD_STEP_SQL);
	if (job->mode == AUD_STEP_CATALOG)
		job->step(step);
	else if (begin_sql())
	{
		job->step(step);
		end_sql();
	}
	CommitTransactionCommand();
	SetUserIdAndSecContext(user, context);
	(void) pgstat_report_stat(false);
	debug_query_string = NULL;
}

/*
 * Gives a job one step, and sets when it looks again.  What it throws goes on
 * to the caller, with "running" set.
 */
static void
run_step(AudJob *job, AudWorkerJobWord *word)
{
	AudStep		step = {.again = DT_NOEND, .idle = AUD_ACTIVITY_SLEEPING};
	TimestampTz latest;

	/* we are looking: nobody need wake us, and what comes from now on is noted */
	pg_atomic_write_u64(&word->again, (uint64) DT_NOBEGIN);
	(void) pg_atomic_exchange_u64(&word->noted, (uint64) DT_NOEND);

	running = job;
	set_activity(AUD_ACTIVITY_RUNNING);
	if (job->mode == AUD_STEP_FREE)
		job->step(&step);
	else
		run_in_transaction(job, &step);
	running = NULL;

	job->failures = 0;
	job->idle = step.idle;
	latest = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) aud_worker_naptime * 1000);
	job->again = step.more ? DT_NOBEGIN : Min(step.again, latest);
	pg_atomic_write_u64(&word->again, (uint64) job->again);
	/* the other half of what AudWorkerJobWord says; "noted" is read next */
	pg_memory_barrier();
}

/*
 * Until when the worker may sleep, and in *first the job whose turn it is then.
 * A job that is backing off hears no word.
 */
static TimestampTz
next_job(AudJob *jobs, int njobs, int *first)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = DT_NOEND;

	*first = 0;
	for (int i = 0; i < njobs; i++)
	{
		TimestampTz again = jobs[i].again;

		if (jobs[i].failures == 0)
			again = Min(again, (TimestampTz) pg_atomic_read_u64(&aud_frame_slot->jobs[i].noted));
		if (again < until)
		{
			until = again;
			*first = i;
		}
		/* of those whose time has come the first in the list goes first */
		if (again <= now)
			break;
	}
	return until;
}

/* Sleeps; at most until an instant.  True if somebody woke the worker. */
static bool
sleep_until(TimestampTz until, AudJob *jobs, int njobs)
{
	AudWorkerActivity activity = AUD_ACTIVITY_SLEEPING;
	long		ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
	int			fd = -1;
	int			events;

	for (int i = 0; i < njobs; i++)
	{
		if (jobs[i].failures > 0)
			activity = AUD_ACTIVITY_BACKING_OFF;
		else if (activity == AUD_ACTIVITY_SLEEPING)
			activity = jobs[i].idle;
		/* what nobody reads would wake us again and again */
		if (jobs[i].any_wake && jobs[i].failures == 0)
			fd = aud_frame_fd;
	}
	set_activity(activity);
	(void) pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, aud_frame_waits_for);
	events = WaitLatchOrSocket(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH |
							   (fd >= 0 ? WL_SOCKET_READABLE : 0),
							   fd >= 0 ? fd : PGINVALID_SOCKET,
							   Min(ms, INT_MAX), PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	return (events & (WL_LATCH_SET | WL_SOCKET_READABLE)) != 0;
}

/* What the process must do for others between steps. */
static void
serve_interrupts(AudJob *jobs, int njobs)
{
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		aud_frame_reloads++;
		for (int i = 0; i < njobs; i++)
			jobs[i].again = DT_NOBEGIN;
	}
	/* a cancel that came too late for its step is for nothing; SIGTERM's is seen by now */
	QueryCancelPending = false;
	if (ShutdownRequestPending)
	{
		leaving = true;
		return;
	}
	if (catchupInterruptPending)
		ProcessCatchupInterrupt();
	/* barriers above all: DROP DATABASE waits for every process */
	CHECK_FOR_INTERRUPTS();
}

/* One turn of the loop: a step or a sleep. */
static void
turn(AudJob *jobs, int njobs)
{
	int			next;
	TimestampTz until;

	serve_interrupts(jobs, njobs);
	if (leaving)
		return;
	until = next_job(jobs, njobs, &next);
	if (until <= GetCurrentTimestamp())
		run_step(&jobs[next], &aud_frame_slot->jobs[next]);
	else if (sleep_until(until, jobs, njobs))
	{
		for (int i = 0; i < njobs; i++)
			if (jobs[i].any_wake && jobs[i].failures == 0)
				jobs[i].again = DT_NOBEGIN;
	}
}

/*
 * After an error: back to a state in which the loop can go on.  Logs, counts,
 * and sets the job back whose step it was; not if it is the cancel with which
 * the process was asked to leave.  An error of no step sets all of them back.
 */
static void
recover(MemoryContext context, AudJob *jobs, int njobs)
{
	ErrorData  *error;
	AudJob	   *job = running;
	bool		quiet;

	HOLD_INTERRUPTS();
	QueryCancelPending = false;
	error_context_stack = NULL;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	quiet = ShutdownRequestPending && error->sqlerrcode == ERRCODE_QUERY_CANCELED;
	if (!quiet)
		EmitErrorReport();
	AbortCurrentTransaction();
	LWLockReleaseAll();
	ConditionVariableCancelSleep();
	pgstat_report_wait_end();
	MemoryContextSwitchTo(context);
	FlushErrorState();
	debug_query_string = NULL;
	running = NULL;
	if (!quiet)
	{
		TimestampTz now = GetCurrentTimestamp();
		const char *message = error->message ? error->message : "";
		int			len = pg_mbcliplen(message, strlen(message), AUD_WORKER_MESSAGE - 1);

		LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
		aud_frame_slot->errors++;
		aud_frame_slot->last_error_at = now;
		memcpy(aud_frame_slot->last_error, message, len);
		aud_frame_slot->last_error[len] = '\0';
		LWLockRelease(aud_workers->lock);
		for (int i = 0; i < njobs; i++)
		{
			if (job != NULL && job != &jobs[i])
				continue;
			if (jobs[i].failures < INT_MAX)
				jobs[i].failures++;
			jobs[i].idle = AUD_ACTIVITY_SLEEPING;
			jobs[i].again = TimestampTzPlusMilliseconds(now, aud_frame_backoff_ms(jobs[i].failures));
		}
	}
	FreeErrorData(error);
	RESUME_INTERRUPTS();
}

/* Runs the jobs until the process is to leave. */
void
aud_frame_run(AudJob *jobs, int njobs)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "audience worker",
												  ALLOCSET_DEFAULT_SIZES);

	Assert(njobs <= AUD_WORKER_JOBS);
	for (int i = 0; i < njobs; i++)
	{
		jobs[i].again = DT_NOBEGIN;
		jobs[i].idle = AUD_ACTIVITY_SLEEPING;
	}
	MemoryContextSwitchTo(context);
	while (!leaving)
	{
		PG_TRY();
		{
			turn(jobs, njobs);
		}
		PG_CATCH();
		{
			recover(context, jobs, njobs);
		}
		PG_END_TRY();
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
	}
}
