/*-------------------------------------------------------------------------
 *
 * scheduler.c
 *	  The scheduler of a database: what must happen without anybody asking.
 *
 * Its jobs, most urgent first, stand in a table at the end; each does a small
 * part of its work in a step, and timers come before each of them.
 *
 * Timers: audience.run_due looks at users whose timer is due, some at a time.
 * When nothing is due any more the job sleeps until the first timer that is
 * left.  Sessions that commit an earlier one give word (aud_workers_note);
 * what came into the table by other ways is found within
 * audience.worker_naptime.  Where audience.now is set for the database (or the
 * server), time is somebody else's: nothing happens by itself.
 *
 * While a dump is being restored it waits: timers and fills may be there before
 * the users and events that they are about (src/restoring.c).  And it waits where
 * timers come by a subscription, from a database that runs them itself.
 *
 * Fills: audience.refresh_work goes on, a chunk of users at a time, with what
 * "refresh => 'later'" or an interrupted segment_refresh has left.
 *
 * Retention: audience.run_retention, a small step at a time.
 *
 * Kafka: tells the launcher whether a relay is needed, and consumers, and
 * forgets the statistics of what is no more.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "kafka_stats.h"
#include "store.h"
#include "worker_frame.h"

/* users of one transaction */
#define TIMERS_BATCH		1000
/* until another look at users whom some other transaction has locked */
#define LOCKED_MS			200
/* how long after the last sign of a restore it counts as over, and until another look */
#define RESTORE_GAP_MS		5000
#define RESTORE_LOOK_MS		1000
/* until another try where others were in the way */
#define BUSY_MS				1000

extern PGDLLEXPORT void aud_scheduler_main(Datum main_arg);

/*
 * The only value of a query that gives one; sees what the step has changed so
 * far.  By reference in memory of the SPI connection.
 */
static Datum
query_value(SPIPlanPtr plan, bool *isnull)
{
	int			result = SPI_execute_plan(plan, NULL, NULL, false, 0);

	if (result != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "unexpected result of a query: %s", SPI_result_code_string(result));
	return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, isnull);
}

/* Is audience.now set for this database? */
static bool
time_is_set(void)
{
	const char *now = GetConfigOption("audience.now", true, false);

	return now != NULL && *now != '\0';
}

/*
 * Is a session of a restore there, one of those that table restoring has, or one
 * of pg_restore's?  The rows are in SPI_tuptable.
 */
static bool
restorer_is_there(void)
{
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
		const PgBackendStatus *backend = aud_compat_backend(i);

		if (backend->st_databaseid != MyDatabaseId)
			continue;
		if (strncmp(backend->st_appname, "pg_restore", strlen("pg_restore")) == 0)
			return true;
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[row];
			bool		isnull;

			if (backend->st_procpid == DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull)) &&
				backend->st_proc_start_timestamp ==
				DatumGetTimestampTz(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull)))
				return true;
		}
	}
	return false;
}

/*
 * Is a restore at work on this database?  Table restoring says which sessions
 * have put rows of a dump here; one of these, or one of pg_restore's, is there,
 * or was a moment ago: parallel ones come and go.
 */
static bool
restore_goes_on(void)
{
	static SPIPlanPtr read_plan = NULL;
	static SPIPlanPtr forget_plan = NULL;
	static TimestampTz last_seen = DT_NOBEGIN;
	TimestampTz now = GetCurrentTimestamp();

	if (SPI_execute_plan(aud_store_plan(&read_plan, "SELECT pid, started_at FROM audience.restoring", 0, NULL, 0),
						 NULL, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"restoring\"");
	if (SPI_processed == 0)
	{
		last_seen = DT_NOBEGIN;
		return false;
	}
	if (last_seen == DT_NOBEGIN || restorer_is_there())
		last_seen = now;
	if (!TimestampDifferenceExceeds(last_seen, now, RESTORE_GAP_MS))
		return true;
	if (SPI_execute_plan(aud_store_plan(&forget_plan, "DELETE FROM audience.restoring", 0, NULL, 0),
						 NULL, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not empty table \"restoring\"");
	last_seen = DT_NOBEGIN;
	return false;
}

/*
 * Do timers come from elsewhere, by a subscription?  Then they are that
 * database's to run, and what came of it comes as well.
 */
static bool
timers_are_replicated(void)
{
	static SPIPlanPtr plan = NULL;
	bool		isnull;

	return DatumGetBool(query_value(aud_store_plan(&plan,
												   "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription_rel r "
												   "WHERE r.srrelid = 'audience.timers'::pg_catalog.regclass)",
												   0, NULL, 0),
									&isnull));
}

/* Is there a reason to do nothing?  Then the step says so. */
static bool
must_wait(AudStep *step)
{
	if (time_is_set())
		step->idle = AUD_ACTIVITY_PAUSED;
	else if (restore_goes_on())
	{
		step->idle = AUD_ACTIVITY_RESTORE;
		step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESTORE_LOOK_MS);
	}
	else if (timers_are_replicated())
	{
		step->idle = AUD_ACTIVITY_REPLICA;
		step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESTORE_LOOK_MS);
	}
	return step->idle != AUD_ACTIVITY_SLEEPING;
}

/* Puts into the statistics what a step with timers came to. */
static void
report_timers(int64 done, TimestampTz next_due_at)
{
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	aud_frame_slot->done += done;
	aud_frame_slot->last_run_at = GetCurrentTransactionStartTimestamp();
	aud_frame_slot->next_due_at = next_due_at;
	LWLockRelease(aud_workers->lock);
}

/* A step of timers: one batch of users, and when the next is due. */
static void
run_timers(AudStep *step)
{
	static SPIPlanPtr run_plan = NULL;
	static SPIPlanPtr next_plan = NULL;
	TimestampTz next = DT_NOEND;
	int64		done;
	bool		isnull;

	if (must_wait(step))
	{
		LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
		aud_frame_slot->next_due_at = DT_NOEND;
		LWLockRelease(aud_workers->lock);
		return;
	}
	done = DatumGetInt64(query_value(aud_store_plan(&run_plan, "SELECT audience.run_due(" CppAsString2(TIMERS_BATCH) ")",
													0, NULL, 0),
									 &isnull));
	if (isnull)
		done = 0;
	step->more = done >= TIMERS_BATCH;
	if (!step->more)
	{
		Datum		value = query_value(aud_store_plan(&next_plan, "SELECT pg_catalog.min(due_at) FROM audience.timers",
													   0, NULL, 0),
										&isnull);

		if (!isnull)
			next = DatumGetTimestampTz(value);
		step->again = next;
		if (next <= GetCurrentTransactionStartTimestamp())
		{
			/* due, and left alone: locked by others, unless it is new */
			step->more = done > 0;
			step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
		}
	}
	else
		next = aud_frame_slot->next_due_at;
	report_timers(done, next);
}

/*
 * A step by a function that says what is left: 0 nothing, 1 perhaps more, 2 more
 * later, because others are in the way.
 */
static void
run_work(AudStep *step, SPIPlanPtr *plan, const char *query)
{
	bool		isnull;
	int32		left;

	if (must_wait(step))
		return;
	left = DatumGetInt32(query_value(aud_store_plan(plan, query, 0, NULL, 0), &isnull));
	step->more = left == 1;
	if (left == 2)
		step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_MS);
}

/* A step of the fills that go on: one chunk of users. */
static void
run_fills(AudStep *step)
{
	static SPIPlanPtr plan = NULL;

	run_work(step, &plan, "SELECT audience.refresh_work()");
}

/* A step of retention; where there is nothing to do, again within the naptime. */
static void
run_retention(AudStep *step)
{
	static SPIPlanPtr plan = NULL;

	run_work(step, &plan, "SELECT audience.retention_work()");
}

/* The numbers in an array of integers, palloc'ed. */
static int *
int_array(Datum array, int *n)
{
	Datum	   *values;
	int		   *result;

	deconstruct_array(DatumGetArrayTypeP(array), INT4OID, sizeof(int32), true, TYPALIGN_INT, &values, NULL, n);
	result = palloc((*n + 1) * sizeof(int));
	for (int i = 0; i < *n; i++)
		result[i] = DatumGetInt32(values[i]);
	return result;
}

/* A step that says which workers Kafka needs. */
static void
see_to_kafka(AudStep *step)
{
	static SPIPlanPtr plan = NULL;
	Datum		values[4];
	bool		isnull;
	int		   *sources,
			   *sinks;
	int			nsources,
				nsinks;
	bool		relay = false;
	int			consumers = 0;

	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT w.relay, w.consumers, w.sources, w.sinks FROM audience.kafka_wants() w", 0, NULL, 0),
						 NULL, NULL, true, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not find out what is exchanged with Kafka");
	for (size_t i = 0; i < lengthof(values); i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1, &isnull);
	sources = int_array(values[2], &nsources);
	sinks = int_array(values[3], &nsinks);
	aud_kafka_stats_keep(sources, nsources, sinks, nsinks);
	if (restore_goes_on())
	{
		step->idle = AUD_ACTIVITY_RESTORE;
		step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RESTORE_LOOK_MS);
	}
	else
	{
		relay = DatumGetBool(values[0]);
		consumers = DatumGetBool(values[1]) ? aud_kafka_consumers : 0;
	}
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	aud_frame_slot->wants_said = true;
	aud_frame_slot->wants_relay = relay;
	aud_frame_slot->wants_consumers = consumers;
	LWLockRelease(aud_workers->lock);
	aud_workers_call_launcher();
}

/* The jobs, in the order of AudSchedulerJob. */
static AudJob jobs[] = {
	[AUD_JOB_TIMERS] = {.name = "SELECT audience.run_due(" CppAsString2(TIMERS_BATCH) ")",
	.mode = AUD_STEP_SQL, .step = run_timers},
	[AUD_JOB_FILLS] = {.name = "SELECT audience.refresh_work()", .mode = AUD_STEP_SQL, .step = run_fills},
	[AUD_JOB_KAFKA] = {.name = "SELECT audience.kafka_wants()", .mode = AUD_STEP_SQL, .step = see_to_kafka},
	[AUD_JOB_RETENTION] = {.name = "SELECT audience.retention_work()", .mode = AUD_STEP_SQL, .step = run_retention},
};

StaticAssertDecl(lengthof(jobs) <= AUD_WORKER_JOBS, "too many jobs");

/* A scheduler's process; main_arg is its slot. */
void
aud_scheduler_main(Datum main_arg)
{
	aud_frame_begin(AUD_WORKER_SCHEDULER, main_arg);
	aud_frame_run(jobs, lengthof(jobs));
	proc_exit(0);
}
