/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  The engine's counters: a session's own, and their sums in shared memory.
 *
 * There is shared memory only where the library is preloaded by
 * shared_preload_libraries.  Elsewhere sessions count for themselves, and
 * asking for the server's sums says why there are none.  What a session has
 * counted is added to them when a batch or a transaction ends, whether or not
 * it commits: what was done was done.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"

#include "stats.h"

PG_FUNCTION_INFO_V1(aud_engine_statistics);
PG_FUNCTION_INFO_V1(aud_engine_work);
PG_FUNCTION_INFO_V1(aud_engine_work_reset);

/* as engine_work() names them */
static const char *const names[AUD_NCOUNTERS] = {
	[AUD_COUNT_STATEMENTS] = "statements",
	[AUD_COUNT_EVENTS] = "events",
	[AUD_COUNT_USERS] = "users",
	[AUD_COUNT_RULES] = "rules_evaluated",
	[AUD_COUNT_ROWS] = "rows_read",
	[AUD_COUNT_TRANSITIONS] = "transitions",
	[AUD_COUNT_WAITS] = "waits",
	[AUD_COUNT_FOLDS] = "folds",
	[AUD_COUNT_LEAVES] = "leaves_evaluated",
	[AUD_COUNT_TURNED] = "leaves_turned",
	[AUD_COUNT_SETTLED] = "changes_settled",
	[AUD_COUNT_EVENT_SCANS] = "event_scans",
	[AUD_COUNT_LOOKUPS] = "row_lookups",
	[AUD_COUNT_INDEX_LOOKUPS] = "index_lookups",
	[AUD_COUNT_PROFILES_WRITTEN] = "profiles_written",
	[AUD_COUNT_HISTORY_ROWS] = "history_rows",
	[AUD_COUNT_TIMERS_SET] = "timers_set",
	[AUD_COUNT_TIMERS_REMOVED] = "timers_removed",
	[AUD_COUNT_SQL] = "sql_statements",
	[AUD_COUNT_LOADS] = "definition_loads",
	[AUD_COUNT_LOADED_BYTES] = "definition_bytes",
	[AUD_COUNT_BATCHES] = "batches",
	[AUD_COUNT_BATCH_BYTES] = "batch_bytes",
	[AUD_COUNT_LARGEST_BATCH] = "largest_batch",
	[AUD_COUNT_LARGEST_USER] = "largest_user",
	[AUD_COUNT_EVENT_BYTES] = "event_bytes",
};

typedef struct Statistics
{
	pg_atomic_uint64 counters[AUD_NSHARED_COUNTERS];
} Statistics;

uint64		aud_stats_counts[AUD_NCOUNTERS];

/* what of them is in the server's sums */
static uint64 flushed[AUD_NSHARED_COUNTERS];

static Statistics *statistics = NULL;
static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;

/* Asks for the shared memory. */
static void
request_memory(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Statistics)));
}

/* Makes the server's sums, or finds them. */
static void
start_memory(void)
{
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	statistics = ShmemInitStruct("audience engine statistics", sizeof(Statistics), &found);
	if (!found)
		for (int i = 0; i < AUD_NSHARED_COUNTERS; i++)
			pg_atomic_init_u64(&statistics->counters[i], 0);
	LWLockRelease(AddinShmemInitLock);
}

/* At a transaction's end, however it ends. */
static void
end_transaction(XactEvent event, void *arg)
{
	aud_stats_flush();
}

/* At module load: adds up for the server, if the library is being preloaded. */
void
aud_stats_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_memory;
	RegisterXactCallback(end_transaction, NULL);
}

/* Adds what the session has counted since the last time to the server's sums. */
void
aud_stats_flush(void)
{
	if (statistics == NULL)
		return;
	for (int i = 0; i < AUD_NSHARED_COUNTERS; i++)
		if (aud_stats_counts[i] != flushed[i])
		{
			pg_atomic_fetch_add_u64(&statistics->counters[i],
									(int64) (aud_stats_counts[i] - flushed[i]));
			flushed[i] = aud_stats_counts[i];
		}
}

/* engine_statistics(): one row with all of the server's sums. */
Datum
aud_engine_statistics(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[AUD_NSHARED_COUNTERS];
	bool		nulls[AUD_NSHARED_COUNTERS] = {false};

	if (statistics == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("audience_manager is not preloaded, so it keeps no statistics"),
				 errhint("Add \"audience_manager\" to \"shared_preload_libraries\" and restart the server.")));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	aud_stats_flush();
	for (int i = 0; i < AUD_NSHARED_COUNTERS; i++)
		values[i] = Int64GetDatum(pg_atomic_read_u64(&statistics->counters[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}

/*
 * engine_work() → setof (counter text, value bigint): what the engine has done
 * in this session since it began or the counters were reset.
 */
Datum
aud_engine_work(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < AUD_NCOUNTERS; i++)
	{
		Datum		values[2];
		bool		nulls[2] = {false, false};

		values[0] = CStringGetTextDatum(names[i]);
		values[1] = Int64GetDatum((int64) aud_stats_counts[i]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* engine_work_reset(): the session counts from 0 again; the server's sums stay. */
Datum
aud_engine_work_reset(PG_FUNCTION_ARGS)
{
	aud_stats_flush();
	memset(aud_stats_counts, 0, sizeof(aud_stats_counts));
	memset(flushed, 0, sizeof(flushed));
	PG_RETURN_VOID();
}
