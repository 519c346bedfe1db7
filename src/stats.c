/*-------------------------------------------------------------------------
 *
 * stats.c
 *	  The engine's counters, in shared memory.
 *
 * There is shared memory only where the library is preloaded by
 * shared_preload_libraries.  Elsewhere nothing is counted, and asking says
 * so.  Counters are added to once a batch, not once an event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

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

typedef struct Statistics
{
	pg_atomic_uint64 counters[AUD_NCOUNTERS];
} Statistics;

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

/* Makes the counters, or finds them. */
static void
start_memory(void)
{
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	statistics = ShmemInitStruct("audience engine statistics", sizeof(Statistics), &found);
	if (!found)
		for (int i = 0; i < AUD_NCOUNTERS; i++)
			pg_atomic_init_u64(&statistics->counters[i], 0);
	LWLockRelease(AddinShmemInitLock);
}

/* At module load: counts from now on, if the library is being preloaded. */
void
aud_stats_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_memory;
}

/* Adds to a counter. */
void
aud_stats_count(AudCounter counter, uint64 n)
{
	if (statistics != NULL && n > 0)
		pg_atomic_fetch_add_u64(&statistics->counters[counter], (int64) n);
}

/* engine_statistics(): one row with all counters. */
Datum
aud_engine_statistics(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	Datum		values[AUD_NCOUNTERS];
	bool		nulls[AUD_NCOUNTERS] = {false};

	if (statistics == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("audience_manager is not preloaded, so it keeps no statistics"),
				 errhint("Add \"audience_manager\" to \"shared_preload_libraries\" and restart the server.")));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < AUD_NCOUNTERS; i++)
		values[i] = Int64GetDatum(pg_atomic_read_u64(&statistics->counters[i]));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
