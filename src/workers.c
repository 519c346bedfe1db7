/*-------------------------------------------------------------------------
 *
 * workers.c
 *	  Background workers, as the sessions see them: the memory they share, and
 *	  the word that sessions give them.
 *
 * The workers themselves are in bgworker/, a module that only they load.  One
 * launcher per server starts a scheduler in each database with the extension,
 * and what that asks for: a relay and consumers, where there is Kafka.
 * All of it is there only where the library is preloaded; elsewhere nothing
 * here does anything.
 *
 * Sessions give word of four things, all of them when they commit:
 *
 *	- work that is due before the scheduler would wake for it (note, note_due);
 *	- extensions and databases that come, go or change: by an object access
 *	  hook, which sees CASCADE and scripts as well as statements;
 *	- settings of a database: likewise; the scheduler starts anew with them;
 *	- prepared transactions that commit: what they noted is forgotten.
 *
 * Statements that need a database without sessions (DROP DATABASE, RENAME, SET
 * TABLESPACE, CREATE DATABASE from it as template) would find its workers
 * connected.  A utility hook asks these to leave, waits for it, and holds the
 * database until the transaction ends, whichever way: the launcher starts
 * nothing in it meanwhile.  PostgreSQL's own lock on the database keeps out
 * one that is just connecting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/shmem.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "caller.h"
#include "compat.h"
#include "kafka_stats.h"
#include "workers.h"

PG_FUNCTION_INFO_V1(aud_scheduler_statistics);
PG_FUNCTION_INFO_V1(aud_note_fill);
PG_FUNCTION_INFO_V1(aud_note_kafka);
PG_FUNCTION_INFO_V1(aud_note_outbox);

#define TRANCHE				"audience_workers"
#define LAUNCHER_RESTART_S	5
/* due at once, but later than what a job that is awake says that it sleeps until */
#define LOOK_NOW			(DT_NOBEGIN + 1)
/* how long a statement waits for workers to leave, before it tries anyway */
#define LEAVE_WAIT_MS		30000

AudWorkers *aud_workers = NULL;
char	   *aud_worker_databases = NULL;
int			aud_worker_naptime = 60;
int			aud_kafka_consumers = 1;
char	   *aud_kafka_role = NULL;

/* Who hears which word. */
static const struct
{
	AudWord		word;
	AudWorkerKind kind;
	int			job;
}			hearers[] = {
	{AUD_WORD_TIMERS, AUD_WORKER_SCHEDULER, AUD_JOB_TIMERS},
	{AUD_WORD_FILLS, AUD_WORKER_SCHEDULER, AUD_JOB_FILLS},
	{AUD_WORD_KAFKA, AUD_WORKER_SCHEDULER, AUD_JOB_KAFKA},
	{AUD_WORD_KAFKA, AUD_WORKER_RELAY, AUD_JOB_LOOK},
	{AUD_WORD_KAFKA, AUD_WORKER_CONSUMER, AUD_JOB_LOOK},
	{AUD_WORD_OUTBOX, AUD_WORKER_RELAY, AUD_JOB_MOVE},
};

/*
 * What this transaction will give word of.  Kept over aborted subtransactions:
 * waking a worker for nothing is harmless.
 */
static bool pending_due = false;	/* something in dues */
static TimestampTz dues[AUD_NWORDS];	/* DT_NOEND: nothing */
static bool pending_extension = false;	/* in this database */
static bool pending_databases = false;
static bool pending_holds = false;	/* there are holds of this transaction */
static bool pending_all_settings = false;
static Oid	pending_settings = InvalidOid;	/* the database they belong to */

static shmem_request_hook_type next_shmem_request = NULL;
static shmem_startup_hook_type next_shmem_startup = NULL;
static object_access_hook_type next_object_access = NULL;
static ProcessUtility_hook_type next_utility = NULL;

/* Asks for the shared memory. */
static void
request_memory(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(AudWorkers)) + aud_kafka_stats_size());
	RequestNamedLWLockTranche(TRANCHE, 2);
}

/* Makes the slots, or finds them. */
static void
start_memory(void)
{
	bool		found;

	if (next_shmem_startup)
		next_shmem_startup();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	aud_workers = ShmemInitStruct("audience workers", sizeof(AudWorkers), &found);
	if (!found)
	{
		memset(aud_workers, 0, sizeof(AudWorkers));
		aud_workers->layout = AUD_WORKERS_LAYOUT;
		aud_workers->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
		ConditionVariableInit(&aud_workers->gone);
		for (int i = 0; i <= AUD_WORKERS_MAX; i++)
			for (int j = 0; j < AUD_WORKER_JOBS; j++)
			{
				pg_atomic_init_u64(&aud_workers->slots[i].jobs[j].noted, (uint64) DT_NOEND);
				pg_atomic_init_u64(&aud_workers->slots[i].jobs[j].again, (uint64) DT_NOBEGIN);
			}
	}
	aud_kafka_stats_start(&GetNamedLWLockTranche(TRANCHE)[1].lock);
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Tells a job of an instant at which there is something to do, and wakes the
 * worker if it would sleep longer.  Throws nothing; takes the lock only to
 * wake.
 */
static void
give_word(AudWorkerSlot *slot, int job, TimestampTz due)
{
	AudWorkerJobWord *word = &slot->jobs[job];
	uint64		old = pg_atomic_read_u64(&word->noted);

	while (due < (TimestampTz) old &&
		   !pg_atomic_compare_exchange_u64(&word->noted, &old, (uint64) due))
		;
	/* the other half of what AudWorkerJobWord says */
	pg_memory_barrier();
	if (due >= (TimestampTz) pg_atomic_read_u64(&word->again))
		return;
	LWLockAcquire(aud_workers->lock, LW_SHARED);
	if (slot->pid != 0)
		SetLatch(slot->latch);
	LWLockRelease(aud_workers->lock);
}

/* Has the launcher look at things now.  Throws nothing. */
void
aud_workers_call_launcher(void)
{
	if (aud_workers != NULL)
		give_word(&aud_workers->slots[0], 0, LOOK_NOW);
}

/* Is a statement at work on the database? */
bool
aud_workers_held(Oid database)
{
	for (int i = 0; i < AUD_WORKERS_HOLDS; i++)
		if (aud_workers->holds[i].database == database)
			return true;
	return false;
}

/* Asks a worker to leave. */
void
aud_workers_ask(AudWorkerSlot *slot)
{
	slot->asked = true;
	/* one without a process sees it when it begins */
	if (slot->pid != 0)
		kill(slot->pid, SIGTERM);
}

/*
 * Asks the workers of a database to leave, InvalidOid: of all.  Returns how
 * many there are.  The caller holds the lock.
 */
static int
ask_workers(Oid database)
{
	int			n = 0;

	for (int i = 1; i <= AUD_WORKERS_MAX; i++)
	{
		AudWorkerSlot *slot = &aud_workers->slots[i];

		if ((slot->state == AUD_WORKER_STARTING || slot->state == AUD_WORKER_RUNNING) &&
			(slot->database == database || database == InvalidOid))
		{
			if (!slot->asked)
				aud_workers_ask(slot);
			n++;
		}
	}
	return n;
}

/*
 * Gets the workers out of a database, and keeps them out until the transaction
 * ends.  Should one not leave in time, or should no hold be free, returns as
 * well: the statement then says itself that there are sessions.
 */
static void
hold_database(Oid database)
{
	TimestampTz until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LEAVE_WAIT_MS);

	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AUD_WORKERS_HOLDS; i++)
		if (aud_workers->holds[i].database == InvalidOid)
		{
			aud_workers->holds[i].database = database;
			aud_workers->holds[i].pid = MyProcPid;
			pending_holds = true;
			break;
		}
	LWLockRelease(aud_workers->lock);

	ConditionVariablePrepareToSleep(&aud_workers->gone);
	for (;;)
	{
		int			n;

		LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
		n = ask_workers(database);
		LWLockRelease(aud_workers->lock);
		if (n == 0 || GetCurrentTimestamp() >= until)
			break;
		(void) ConditionVariableTimedSleep(&aud_workers->gone, 1000, PG_WAIT_EXTENSION);
	}
	ConditionVariableCancelSleep();
}

/*
 * The database by name that the statement needs empty, if the user could do
 * with it what the statement wants: else it will fail, and nobody is to be
 * disturbed for that.
 */
static void
hold_by_name(const char *name)
{
	Oid			database = get_database_oid(name, true);

	if (OidIsValid(database) && aud_compat_owns_database(database))
		hold_database(database);
}

/* Has the launcher look at a database again.  Takes the lock. */
static void
add_news(Oid database)
{
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	if (aud_workers->nnews < AUD_WORKERS_NEWS)
		aud_workers->news[aud_workers->nnews] = database;
	if (aud_workers->nnews <= AUD_WORKERS_NEWS)
		aud_workers->nnews++;
	LWLockRelease(aud_workers->lock);
}

/* Ends this transaction's holds.  Takes the lock. */
static void
release_holds(void)
{
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AUD_WORKERS_HOLDS; i++)
		if (aud_workers->holds[i].pid == MyProcPid)
		{
			aud_workers->holds[i].database = InvalidOid;
			aud_workers->holds[i].pid = 0;
		}
	LWLockRelease(aud_workers->lock);
}

/*
 * Gives this database's workers the word that the transaction had for them.
 * Reads without the lock: a worker that is just beginning looks at everything
 * anyway, and word given to one that has just gone is not missed by the next,
 * either.
 */
static void
give_dues(void)
{
	int			nused = aud_workers->nused;

	for (int n = 1; n <= nused; n++)
	{
		AudWorkerSlot *slot = &aud_workers->slots[n];

		if (slot->database != MyDatabaseId)
			continue;
		if (pending_extension)
		{
			for (int i = 0; i < AUD_WORKER_JOBS; i++)
				give_word(slot, i, LOOK_NOW);
			continue;
		}
		for (size_t i = 0; i < lengthof(hearers); i++)
			if (slot->kind == hearers[i].kind && dues[hearers[i].word] != DT_NOEND)
				give_word(slot, hearers[i].job, dues[hearers[i].word]);
	}
}

/* Gives the word that the transaction had to give; it can be seen already. */
static void
give_pending(void)
{
	if (pending_due || pending_extension)
		give_dues();
	if (pending_extension)
		add_news(MyDatabaseId);
	if (pending_all_settings || pending_settings != InvalidOid)
	{
		LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
		(void) ask_workers(pending_all_settings ? InvalidOid : pending_settings);
		LWLockRelease(aud_workers->lock);
	}
	if (pending_extension || pending_databases)
		aud_workers_call_launcher();
}

/* Nothing to give word of to jobs. */
static void
forget_dues(void)
{
	for (int i = 0; i < AUD_NWORDS; i++)
		dues[i] = DT_NOEND;
	pending_due = false;
}

/* At the end of each transaction, of all processes. */
static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			give_pending();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}
	if (pending_holds)
	{
		release_holds();
		aud_workers_call_launcher();
	}
	if (pending_due)
		forget_dues();
	pending_extension = pending_databases = pending_holds = pending_all_settings = false;
	pending_settings = InvalidOid;
}

/*
 * Says that this transaction leaves work for this database's workers, due then;
 * on commit those that sleep longer will be woken.  Cheap.
 */
void
aud_workers_note(AudWord word, TimestampTz due)
{
	if (aud_workers == NULL || due >= dues[word])
		return;
	dues[word] = due;
	pending_due = true;
}

/* The same, for work to be done at once. */
void
aud_workers_note_now(AudWord word)
{
	aud_workers_note(word, LOOK_NOW);
}

/* note_fill(): this transaction leaves a fill to be worked on. */
Datum
aud_note_fill(PG_FUNCTION_ARGS)
{
	aud_workers_note_now(AUD_WORD_FILLS);
	PG_RETURN_VOID();
}

/* note_kafka(): this transaction changes how the database is connected with Kafka. */
Datum
aud_note_kafka(PG_FUNCTION_ARGS)
{
	aud_workers_note_now(AUD_WORD_KAFKA);
	PG_RETURN_VOID();
}

/* note_outbox(): this transaction leaves something to be sent. */
Datum
aud_note_outbox(PG_FUNCTION_ARGS)
{
	aud_workers_note_now(AUD_WORD_OUTBOX);
	PG_RETURN_VOID();
}

/* The object access hook: remembers what workers should know of. */
static void
see_object_access(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (next_object_access)
		next_object_access(access, class_id, object_id, sub_id, arg);
	if (class_id == ExtensionRelationId)
	{
		if (access == OAT_POST_CREATE || access == OAT_DROP)
			pending_extension = true;
	}
	else if (class_id == DatabaseRelationId)
	{
		if (access == OAT_POST_CREATE || access == OAT_POST_ALTER)
			pending_databases = true;
	}
	else if (class_id == DbRoleSettingRelationId && access == OAT_POST_ALTER)
	{
		ObjectAccessPostAlter *alter = arg;
		Oid			role = alter != NULL ? alter->auxiliary_id : InvalidOid;

		/* a scheduler has only the settings of everybody and of the superuser */
		if (role != InvalidOid && role != BOOTSTRAP_SUPERUSERID)
			return;
		if (object_id == InvalidOid ||
			(pending_settings != InvalidOid && pending_settings != object_id))
			pending_all_settings = true;
		pending_settings = object_id;
	}
}

/* The template's name in the options of CREATE DATABASE. */
static const char *
template_name(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst_node(DefElem, cell);

		if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return "template1";
}

/* Does ALTER DATABASE move it to another tablespace? */
static bool
is_move(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
		if (strcmp(lfirst_node(DefElem, cell)->defname, "tablespace") == 0)
			return true;
	return false;
}

/*
 * The utility hook: before statements that need a database without sessions,
 * gets its workers out.
 */
static void
see_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			ProcessUtilityContext context, ParamListInfo params,
			QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *statement = pstmt->utilityStmt;
	bool		commits_prepared = false;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			hold_by_name(((DropdbStmt *) statement)->dbname);
			break;
		case T_CreatedbStmt:
			hold_by_name(template_name(((CreatedbStmt *) statement)->options));
			break;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				hold_by_name(((RenameStmt *) statement)->subname);
			break;
		case T_AlterDatabaseStmt:
			if (is_move(((AlterDatabaseStmt *) statement)->options))
				hold_by_name(((AlterDatabaseStmt *) statement)->dbname);
			break;
		case T_TransactionStmt:
			commits_prepared =
				((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
			break;
		default:
			break;
	}

	if (next_utility)
		next_utility(pstmt, query, read_only_tree, context, params, environment,
					 dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, environment,
								dest, completion);

	/* whatever it was that it did */
	if (commits_prepared)
		pending_extension = true;
}

/* Registers the launcher. */
static void
register_launcher(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	snprintf(worker.bgw_name, BGW_MAXLEN, "audience launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "audience launcher");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_S;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, AUD_WORKER_LIBRARY);
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "aud_launcher_main");
	RegisterBackgroundWorker(&worker);
}

/* Checks audience.databases: a list of names. */
static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	bool		good = SplitIdentifierString(copy, ',', &names);

	if (!good)
		GUC_check_errdetail("The value must be a list of database names.");
	else
		list_free(names);
	pfree(copy);
	return good;
}

/*
 * At module load: defines the settings; memory, launcher and hooks, if the
 * library is being preloaded.
 */
void
aud_workers_init(void)
{
	DefineCustomStringVariable("audience.databases",
							   "The databases that background workers look for the extension in.",
							   "Empty: all that allow connections.",
							   &aud_worker_databases, "", PGC_SIGHUP, GUC_LIST_INPUT,
							   check_databases, NULL, NULL);
	DefineCustomIntVariable("audience.worker_naptime",
							"The longest that background workers sleep before they look for work of themselves.",
							NULL, &aud_worker_naptime, 60, 1, 86400,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.kafka_consumers",
							"How many background workers of a database take messages from Kafka.",
							"The partitions of all topics are divided among them.",
							&aud_kafka_consumers, 1, 1, AUD_CONSUMERS_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("audience.kafka_role",
							   "The role that workers exchange messages with Kafka as.",
							   "Empty: the extension's owner.",
							   &aud_kafka_role, "", PGC_SUSET, 0, NULL, NULL, NULL);
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_memory;
	next_shmem_startup = shmem_startup_hook;
	shmem_startup_hook = start_memory;
	/* what pg_upgrade moves must not move by itself */
	if (IsBinaryUpgrade)
		return;
	next_object_access = object_access_hook;
	object_access_hook = see_object_access;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = see_utility;
	forget_dues();
	RegisterXactCallback(at_transaction_end, NULL);
	register_launcher();
}

/* What view stat_scheduler calls a scheduler's state. */
static const char *
state_name(const AudWorkerSlot *slot)
{
	if (slot->state != AUD_WORKER_RUNNING)
		return "not running";
	switch (slot->activity)
	{
		case AUD_ACTIVITY_RUNNING:
			return "running";
		case AUD_ACTIVITY_SLEEPING:
			return "sleeping";
		case AUD_ACTIVITY_PAUSED:
			return "idle: audience.now is set";
		case AUD_ACTIVITY_RESTORE:
			return "idle: a dump is being restored";
		case AUD_ACTIVITY_REPLICA:
			return "idle: timers are replicated";
		case AUD_ACTIVITY_BACKING_OFF:
			return "backing off";
	}
	return NULL;				/* keep the compiler quiet */
}

/*
 * May the user see the text of errors?  It may hold what is nobody's business,
 * so only those who read all statistics, and the owner of the extension, that
 * is of the function that asks.
 */
bool
aud_workers_sees_errors(Oid function)
{
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		has_privs_of_role(GetUserId(), aud_function_owner(function));
}

/* scheduler_statistics(): one row about this database's scheduler. */
Datum
aud_scheduler_statistics(PG_FUNCTION_ARGS)
{
	TupleDesc	tupdesc;
	AudWorkerSlot slot;
	TimestampTz noted = DT_NOEND;
	Datum		values[9];
	bool		nulls[9] = {false};

	if (aud_workers == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("audience_manager is not preloaded, so there is no scheduler"),
				 errhint("Add \"audience_manager\" to \"shared_preload_libraries\" and restart the server.")));
	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	memset(&slot, 0, sizeof(slot));
	LWLockAcquire(aud_workers->lock, LW_SHARED);
	for (int i = 1; i <= AUD_WORKERS_MAX; i++)
	{
		AudWorkerSlot *other = &aud_workers->slots[i];

		if (other->database == MyDatabaseId && other->kind == AUD_WORKER_SCHEDULER &&
			other->state == AUD_WORKER_RUNNING)
		{
			memcpy(&slot, other, sizeof(slot));
			noted = (TimestampTz) pg_atomic_read_u64(&other->jobs[AUD_JOB_TIMERS].noted);
		}
	}
	LWLockRelease(aud_workers->lock);

	values[1] = CStringGetTextDatum(state_name(&slot));
	if (slot.state != AUD_WORKER_RUNNING)
	{
		memset(nulls, true, sizeof(nulls));
		nulls[1] = false;
	}
	else
	{
		values[0] = Int32GetDatum(slot.pid);
		values[2] = TimestampTzGetDatum(slot.started_at);
		/* word of a later timer than it sleeps until does not wake it; it has it */
		if (noted > LOOK_NOW && noted < slot.next_due_at)
			slot.next_due_at = noted;
		values[3] = TimestampTzGetDatum(slot.next_due_at);
		nulls[3] = slot.next_due_at == DT_NOEND;
		values[4] = Int64GetDatum(slot.done);
		values[5] = TimestampTzGetDatum(slot.last_run_at);
		nulls[5] = slot.last_run_at == DT_NOBEGIN;
		values[6] = Int64GetDatum(slot.errors);
		nulls[7] = nulls[8] = slot.last_error_at == DT_NOBEGIN;
		if (!nulls[7])
			values[7] = CStringGetTextDatum(aud_workers_sees_errors(fcinfo->flinfo->fn_oid) ?
											slot.last_error : "<insufficient privilege>");
		values[8] = TimestampTzGetDatum(slot.last_error_at);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
