/*-------------------------------------------------------------------------
 *
 * definitions_lock.c
 *	  Definitions against ingestion.
 *
 * Whoever changes a user's state or memberships holds RowExclusiveLock on
 * table segments until its transaction ends: a fast-path lock, which costs
 * next to nothing and conflicts with no other of its kind.  Whoever changes
 * definitions holds ShareRowExclusiveLock: it waits for open transactions
 * that have ingested, and ingestion waits for it.  Reading, pg_dump included,
 * conflicts with neither.
 *
 * A lock request that waits makes all later ones queue behind it, so a change
 * that waited for a long transaction would stop ingestion meanwhile.  It
 * waits in short attempts instead, and lets the queue through between them.
 * Where it is not a long transaction that is in the way, but many of some
 * length that overlap, an attempt must be as long as they take to end: then
 * attempts become longer.
 *
 * An attempt ends by a timer of ours, which cancels the wait as a user would.
 * It must not swallow a user's cancel, or statement_timeout's, that comes while
 * it is just ending, as lock_timeout would: so meanwhile SIGINTs are counted, and
 * our timer sends none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "definitions.h"
#include "settings.h"
#include "stats.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_definitions_lock);

/*
 * How long an attempt waits: the first, the longest while a transaction lasts,
 * and the longest while they come and go.  Pauses are as long.
 */
#define FIRST_ATTEMPT_MS	10
#define LONGEST_ATTEMPT_MS	100
#define LONGEST_DRAIN_MS	500

/* transactions that hold a conflicting lock */
typedef struct Holders
{
	int			n;
	VirtualTransactionId *ids;	/* palloc'ed */
} Holders;

/* Keeps definitions from changing until the transaction ends. */
void
aud_definitions_lock_shared(void)
{
	LockRelationOid(aud_definitions_table("segments"), RowExclusiveLock);
}

/*
 * The definitions, kept from changing until the transaction ends.  Under a
 * snapshot for the whole transaction that is older than the definitions,
 * 40001: what it sees of the users was judged by others.  Connected to SPI.
 */
const AudDefinitions *
aud_definitions_get_shared(void)
{
	const AudDefinitions *defs;

	aud_definitions_lock_shared();
	defs = aud_definitions_get();
	if (IsolationUsesXactSnapshot())
	{
		bool		isnull;

		if (aud_store_execute(AUD_READ_VERSION, NULL, NULL, false) != 1 ||
			DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc,
										1, &isnull)) != defs->version)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to a concurrent change of definitions"),
					 errhint("The transaction might succeed if retried.")));
	}
	return defs;
}

static TimeoutId attempt_timer = MAX_TIMEOUTS;	/* registered when first needed */
static bool attempt_running = false;	/* SIGINTs are being counted */
static volatile sig_atomic_t attempt_over;	/* the timer has ended the attempt */
static volatile sig_atomic_t ncancels;	/* SIGINTs during the attempt */
static struct sigaction usual_cancel;	/* what they do otherwise */

/* The timer of an attempt: ends the wait as a cancel does. */
static void
end_attempt(void)
{
	attempt_over = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/* SIGINT during an attempt: a cancel, or a timeout of PostgreSQL's. */
static void
count_cancel(int signal_number)
{
	ncancels++;
	usual_cancel.sa_handler(signal_number);
}

/* Begins an attempt of so many milliseconds. */
static void
start_timer(int ms)
{
	struct sigaction counting;

	if (attempt_timer == MAX_TIMEOUTS)
		attempt_timer = RegisterTimeout(USER_TIMEOUT, end_attempt);
	attempt_over = false;
	ncancels = 0;
	sigaction(SIGINT, NULL, &usual_cancel);
	counting = usual_cancel;
	counting.sa_handler = count_cancel;
	sigaction(SIGINT, &counting, NULL);
	attempt_running = true;
	enable_timeout_after(attempt_timer, ms);
}

/*
 * Ends it.  A cancel that is still pending is no more if it is the timer's only;
 * "thrown": an error has been, so it was the users' that had come until then.
 */
static void
stop_timer(bool thrown)
{
	disable_timeout(attempt_timer, false);
	if (attempt_over)
	{
		QueryCancelPending = false;
		/* in this order, as one may come in between */
		if (ncancels > 0 && !thrown)
			QueryCancelPending = true;
	}
	sigaction(SIGINT, &usual_cancel, NULL);
	attempt_running = false;
}

/* One attempt of at most "ms" milliseconds; false if it ran out. */
static bool
attempt(Oid relid, int ms)
{
	MemoryContext mcxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			lock_timeout = LockTimeout;
	volatile bool locked = true;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(mcxt);
	LockTimeout = 0;
	start_timer(ms);
	PG_TRY();
	{
		LockRelationOid(relid, ShareRowExclusiveLock);
		stop_timer(false);
		LockTimeout = lock_timeout;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;
		bool		cancelled;

		if (attempt_running)
			stop_timer(true);
		/* what was thrown is a user's cancel if there was one */
		cancelled = ncancels > 0 || ShutdownRequestPending;
		LockTimeout = lock_timeout;
		MemoryContextSwitchTo(mcxt);
		error = CopyErrorData();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_QUERY_CANCELED || !attempt_over || cancelled)
			ReThrowError(error);
		FlushErrorState();
		FreeErrorData(error);
		locked = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(mcxt);
	CurrentResourceOwner = owner;
	return locked;
}

/* Those who hold a conflicting lock now; allocated in the current context. */
static Holders
find_holders(Oid relid)
{
	Holders		holders;
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	holders.ids = GetLockConflicts(&tag, ShareRowExclusiveLock, &holders.n);
	return holders;
}

/* Is one of them among the others, too? */
static bool
share_one(const Holders *some, const Holders *others)
{
	for (int i = 0; i < some->n; i++)
		for (int j = 0; j < others->n; j++)
			if (VirtualTransactionIdEquals(some->ids[i], others->ids[j]))
				return true;
	return false;
}

/*
 * Who holds a lock that conflicts with ShareRowExclusiveLock: 'process 123, 456
 * and prepared transaction "x"'.  Asked of pg_locks: to the lock manager a
 * prepared transaction is who prepared it, or whoever has come to its slot since.
 */
static char *
blockers(Oid relid)
{
	Oid			types[1] = {OIDOID};
	Datum		args[1] = {ObjectIdGetDatum(relid)};
	MemoryContext mcxt = CurrentMemoryContext;
	char	   *text = NULL;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("SELECT pg_catalog.concat_ws(' and ', "
							  "'process ' || pg_catalog.string_agg(l.pid::text, ', ' ORDER BY l.pid), "
							  "'prepared transaction ' || pg_catalog.string_agg('\"' || p.gid || '\"', ', ' ORDER BY p.gid)) "
							  "FROM pg_catalog.pg_locks l "
							  "LEFT JOIN pg_catalog.pg_locks x ON l.pid IS NULL AND x.pid IS NULL "
							  "AND x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction "
							  "LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid "
							  "WHERE l.locktype = 'relation' AND l.relation = $1 AND l.granted "
							  "AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) "
							  "AND l.mode NOT IN ('AccessShareLock', 'RowShareLock') "
							  "AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()",
							  1, types, args, NULL, true, 1) == SPI_OK_SELECT && SPI_processed == 1)
		text = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	text = MemoryContextStrdup(mcxt, text != NULL && *text != '\0' ? text : "a process that has ended meanwhile");
	SPI_finish();
	return text;
}

/*
 * At REPEATABLE READ and above a change must see all that was ingested before
 * it got the lock: 40001 if the snapshot is older than that.
 */
static void
check_snapshot(void)
{
	Snapshot	latest,
				mine;

	if (!IsolationUsesXactSnapshot())
		return;
	mine = GetTransactionSnapshot();
	latest = GetLatestSnapshot();
	if (mine->xmax != latest->xmax || mine->xmin != latest->xmin ||
		mine->xcnt != latest->xcnt)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent transactions"),
				 errdetail("Definitions cannot be changed under a snapshot that is older than what has been committed."),
				 errhint("The transaction might succeed if retried.")));
}

/*
 * definitions_lock(): keeps everyone else from changing definitions and from
 * ingesting until the transaction ends.  Waits up to audience.definition_wait,
 * then 55P03 with who was waited for.
 */
Datum
aud_definitions_lock(PG_FUNCTION_ARGS)
{
	Oid			relid = aud_definitions_table("segments");
	TimestampTz start = GetCurrentTimestamp();
	bool		waited = false;
	int			ms = FIRST_ATTEMPT_MS;
	Holders		known = {0};	/* of whom one was there at each attempt since */

	while (!ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
	{
		int			left = aud_definition_wait -
			(int) TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
		Holders		holders;

		CHECK_FOR_INTERRUPTS();
		if (left <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not change definitions while others are using them"),
					 errdetail("Waited for %s.", blockers(relid)),
					 errhint("Try again when those transactions have ended, or raise \"audience.definition_wait\".")));
		if (!waited)
			aud_stats_count(AUD_COUNT_WAITS, 1);
		waited = true;
		if (attempt(relid, Min(left, ms)))
			break;
		holders = find_holders(relid);
		for (int paused = 0; paused < ms; paused += Min(ms, LONGEST_ATTEMPT_MS))
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(Min(ms, LONGEST_ATTEMPT_MS) * 1000L);
		}
		if (share_one(&known, &holders))
		{
			ms = Min(ms * 2, LONGEST_ATTEMPT_MS);
			pfree(holders.ids);
		}
		else
		{
			ms = Min(ms * 2, LONGEST_DRAIN_MS);
			if (known.ids != NULL)
				pfree(known.ids);
			known = holders;
		}
	}
	check_snapshot();
	PG_RETURN_VOID();
}
