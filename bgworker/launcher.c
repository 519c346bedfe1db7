/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  The launcher: the workers of each database that has the extension.
 *
 * The launcher is connected to no database, so it cannot see where the
 * extension is.  It starts a scheduler in each database once; that leaves
 * again where it finds nothing, and the launcher remembers it until there is
 * reason to look again: CREATE EXTENSION there (sessions give word of it, see
 * workers.c), or a reload of the configuration.  Few are started at a time, so
 * that looking around a server of many databases does not take all of
 * max_worker_processes.
 *
 * A scheduler that stays says in its slot what other workers its database
 * needs: a relay, and how many consumers.
 *
 * What it knows of databases is its own memory; what it knows of workers
 * stands in their slots, so that a launcher that was started again finds them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "worker_frame.h"

/* how many workers may be on their way at the same time */
#define STARTING_MAX		2
/* a worker that lived longer was started well, whatever ended it */
#define GOOD_LIFE_MS		60000

/* A worker that a database has or may have. */
typedef struct Post
{
	int			slot;			/* number; 0: none */
	BackgroundWorkerHandle *handle; /* of one that we started; owned */
	bool		no_room;		/* waits for a slot */
	int			failures;		/* in a row */
	TimestampTz not_before;		/* when to start one */
} Post;

/* posts of a database: the scheduler's, the relay's, and those of consumers */
#define POST_SCHEDULER		0
#define POST_RELAY			1
#define POST_CONSUMER		2
#define NPOSTS				(POST_CONSUMER + AUD_CONSUMERS_MAX)

typedef struct Database
{
	Oid			oid;			/* key */
	NameData	name;
	bool		wanted;			/* there, and to have a scheduler */
	bool		absent;			/* a scheduler found no extension */
	bool		news;			/* there was word since one was started */
	bool		wants_relay;	/* what its scheduler has said last */
	int			wants_consumers;
	Post		posts[NPOSTS];
} Database;

extern PGDLLEXPORT void aud_launcher_main(Datum main_arg);

static HTAB *databases = NULL;
static int	seen_reloads = 0;
static bool said_full = false;	/* logged that there are too many databases */
static bool said_processes = false; /* logged that max_worker_processes is short */

/* The entry of a database; NULL if there is none and none is to be made. */
static Database *
find_database(Oid oid, bool make)
{
	bool		found;
	Database   *database = hash_search(databases, &oid, make ? HASH_ENTER : HASH_FIND, &found);

	if (make && !found)
	{
		memset((char *) database + sizeof(Oid), 0, sizeof(Database) - sizeof(Oid));
		for (int i = 0; i < NPOSTS; i++)
			database->posts[i].not_before = DT_NOBEGIN;
	}
	return database;
}

/* Has the database a worker, of any kind? */
static bool
has_workers(const Database *database)
{
	for (int i = 0; i < NPOSTS; i++)
		if (database->posts[i].slot != 0)
			return true;
	return false;
}

/* Is there to be a worker at this post of the database? */
static bool
is_wanted(const Database *database, int post)
{
	if (!database->wanted || database->absent)
		return false;
	if (post == POST_SCHEDULER)
		return true;
	if (post == POST_RELAY)
		return database->wants_relay;
	return post - POST_CONSUMER < database->wants_consumers;
}

/* The post that a slot's worker has. */
static int
post_of(const AudWorkerSlot *slot)
{
	switch (slot->kind)
	{
		case AUD_WORKER_RELAY:
			return POST_RELAY;
		case AUD_WORKER_CONSUMER:
			return POST_CONSUMER + slot->number;
		default:
			return POST_SCHEDULER;
	}
}

/* Sets a post back after a failure. */
static void
back_off(Post *post, TimestampTz now)
{
	post->failures++;
	post->not_before = TimestampTzPlusMilliseconds(now, aud_frame_backoff_ms(post->failures));
}

/* Takes over what sessions have given word of, and what a reload means. */
static void
read_news(void)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	Oid			news[AUD_WORKERS_NEWS];
	int			nnews;
	bool		reloaded = seen_reloads != aud_frame_reloads;

	seen_reloads = aud_frame_reloads;
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	nnews = aud_workers->nnews;
	memcpy(news, aud_workers->news, sizeof(news));
	aud_workers->nnews = 0;
	LWLockRelease(aud_workers->lock);

	if (reloaded)
		said_full = said_processes = false;
	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
	{
		bool		about = reloaded || nnews > AUD_WORKERS_NEWS;

		for (int i = 0; i < nnews && !about; i++)
			about = news[i] == database->oid;
		if (!about)
			continue;
		database->absent = false;
		database->news = true;
		for (int i = 0; i < NPOSTS; i++)
		{
			database->posts[i].no_room = false;
			database->posts[i].failures = 0;
			database->posts[i].not_before = DT_NOBEGIN;
		}
	}
}

/* A worker of the database is gone: what that means for the next. */
static void
end_worker(Database *database, Post *post, AudWorkerEnd end, TimestampTz started_at, TimestampTz now)
{
	post->slot = 0;
	if (post->handle != NULL)
		pfree(post->handle);
	post->handle = NULL;
	switch (end)
	{
		case AUD_END_ASKED:
			break;
		case AUD_END_ABSENT:
			if (post == &database->posts[POST_SCHEDULER])
				database->absent = !database->news;
			/* the scheduler of an extension that is made anew says it again */
			database->wants_relay = false;
			database->wants_consumers = 0;
			post->failures = 0;
			break;
		case AUD_END_FAILED:
			if (TimestampDifferenceExceeds(started_at, now, GOOD_LIFE_MS))
				post->failures = 0;
			back_off(post, now);
			break;
	}
}

/*
 * Goes through the slots: frees those whose workers are gone, and takes over
 * those that a launcher before this one has filled.  Returns how many workers
 * are on their way.
 */
static int
read_slots(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	Database   *database;
	int			starting = 0;
	bool		room = false;

	for (int i = 1; i <= aud_workers->nused; i++)
	{
		AudWorkerSlot *slot = &aud_workers->slots[i];
		Post	   *post;
		pid_t		pid;
		bool		gone;

		/* only launchers fill slots, so a free one stays so */
		if (slot->state == AUD_WORKER_FREE)
			continue;
		database = find_database(slot->database, true);
		post = &database->posts[post_of(slot)];
		post->slot = i;
		LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
		if (slot->state == AUD_WORKER_RUNNING && slot->wants_said)
		{
			database->wants_relay = slot->wants_relay;
			database->wants_consumers = slot->wants_consumers;
		}
		gone = slot->state == AUD_WORKER_ENDED;
		/* one that never came as far as its slot */
		if (slot->state == AUD_WORKER_STARTING && slot->pid == 0 &&
			(post->handle == NULL ||
			 GetBackgroundWorkerPid(post->handle, &pid) == BGWH_STOPPED))
		{
			gone = true;
			slot->end = slot->asked ? AUD_END_ASKED : AUD_END_FAILED;
		}
		if (gone)
		{
			slot->state = AUD_WORKER_FREE;
			slot->database = InvalidOid;
			slot->generation++;
		}
		else if (slot->state == AUD_WORKER_STARTING)
			starting++;
		LWLockRelease(aud_workers->lock);
		if (gone)
			end_worker(database, post, slot->end, slot->started_at, now);
		room |= gone;
	}
	if (room)
	{
		hash_seq_init(&status, databases);
		while ((database = hash_seq_search(&status)) != NULL)
			for (int i = 0; i < NPOSTS; i++)
				database->posts[i].no_room = false;
	}
	return starting;
}

/* Is the database among those that audience.databases names? */
static bool
is_named(List *names, const char *name)
{
	ListCell   *cell;

	if (names == NIL)
		return true;
	foreach(cell, names)
		if (strcmp((const char *) lfirst(cell), name) == 0)
			return true;
	return false;
}

/* Reads pg_database; forgets databases that are no more.  In a transaction. */
static void
read_databases(void)
{
	List	   *names = NIL;
	HASH_SEQ_STATUS status;
	Database   *database;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	/* the setting's check hook has seen to it that this succeeds */
	(void) SplitIdentifierString(pstrdup(aud_worker_databases), ',', &names);

	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
		database->wanted = false;

	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		CHECK_FOR_INTERRUPTS();
		if (!form->datallowconn || form->datistemplate ||
			form->datconnlimit == DATCONNLIMIT_INVALID_DB ||
			!is_named(names, NameStr(form->datname)))
			continue;
		database = find_database(form->oid, true);
		database->wanted = true;
		database->name = form->datname;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);

	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
		if (!database->wanted && !has_workers(database))
			hash_search(databases, &database->oid, HASH_REMOVE, NULL);
}

/*
 * Reserves a slot for a worker of the database; 0 if none is free, -1 if a
 * statement keeps workers out of the database.
 */
static int
take_free_slot(Oid database, AudWorkerKind kind, int number)
{
	int			taken = 0;

	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	if (aud_workers_held(database))
		taken = -1;
	for (int i = 1; i <= AUD_WORKERS_MAX && taken == 0; i++)
	{
		AudWorkerSlot *slot = &aud_workers->slots[i];

		if (slot->state != AUD_WORKER_FREE)
			continue;
		slot->state = AUD_WORKER_STARTING;
		slot->kind = kind;
		slot->number = number;
		slot->wants_said = slot->wants_relay = false;
		slot->wants_consumers = 0;
		slot->end = AUD_END_FAILED;
		slot->asked = false;
		slot->database = database;
		slot->generation++;
		slot->pid = 0;
		slot->latch = NULL;
		slot->started_at = GetCurrentTimestamp();
		slot->activity = AUD_ACTIVITY_RUNNING;
		slot->next_due_at = DT_NOEND;
		slot->last_run_at = slot->last_error_at = DT_NOBEGIN;
		slot->done = slot->errors = 0;
		slot->last_error[0] = '\0';
		for (int j = 0; j < AUD_WORKER_JOBS; j++)
		{
			pg_atomic_write_u64(&slot->jobs[j].noted, (uint64) DT_NOEND);
			pg_atomic_write_u64(&slot->jobs[j].again, (uint64) DT_NOBEGIN);
		}
		aud_workers->nused = Max(aud_workers->nused, i);
		taken = i;
	}
	LWLockRelease(aud_workers->lock);
	return taken;
}

/* Gives back a slot for which no process could be registered. */
static void
give_back_slot(AudWorkerSlot *slot)
{
	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	slot->state = AUD_WORKER_FREE;
	slot->database = InvalidOid;
	slot->generation++;
	LWLockRelease(aud_workers->lock);
	/* a statement may wait for it to be free */
	ConditionVariableBroadcast(&aud_workers->gone);
}

/*
 * Starts a worker at a post of the database; true if it is on its way.  Where
 * no slot or no process is free, says so once; the post waits for a slot, or is
 * set back.
 */
static bool
start_worker(Database *database, int n, TimestampTz now)
{
	static const struct
	{
		AudWorkerKind kind;
		const char *type;
		const char *main;
	}			kinds[] = {
		[POST_SCHEDULER] = {AUD_WORKER_SCHEDULER, "audience scheduler", "aud_scheduler_main"},
		[POST_RELAY] = {AUD_WORKER_RELAY, "audience relay", "aud_relay_main"},
		[POST_CONSUMER] = {AUD_WORKER_CONSUMER, "audience consumer", "aud_consumer_main"},
	};
	int			kind = Min(n, POST_CONSUMER);
	Post	   *post = &database->posts[n];
	BackgroundWorker worker;
	MemoryContext context;
	bool		registered;
	int			slot = take_free_slot(database->oid, kinds[kind].kind, n - kind);

	if (slot == 0)
	{
		if (!said_full)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no %s for database \"%s\": there are %d workers already",
							kinds[kind].type, NameStr(database->name), AUD_WORKERS_MAX),
					 errhint("Name the databases that need workers in \"audience.databases\".")));
		said_full = true;
		post->no_room = true;
		return false;
	}
	/* the end of the statement calls us */
	if (slot < 0)
		return false;

	memset(&worker, 0, sizeof(worker));
	if (kind == POST_CONSUMER)
		snprintf(worker.bgw_name, BGW_MAXLEN, "%s %d: %s", kinds[kind].type, n - kind + 1, NameStr(database->name));
	else
		snprintf(worker.bgw_name, BGW_MAXLEN, "%s: %s", kinds[kind].type, NameStr(database->name));
	snprintf(worker.bgw_type, BGW_MAXLEN, "%s", kinds[kind].type);
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, BGW_MAXLEN, AUD_WORKER_LIBRARY);
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "%s", kinds[kind].main);
	worker.bgw_main_arg = Int32GetDatum(slot);
	memcpy(worker.bgw_extra, &aud_workers->slots[slot].generation, sizeof(uint32));
	worker.bgw_notify_pid = MyProcPid;

	/* the handle outlives the step */
	context = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &post->handle);
	MemoryContextSwitchTo(context);
	if (!registered)
	{
		post->handle = NULL;
		give_back_slot(&aud_workers->slots[slot]);
		if (!said_processes)
			ereport(LOG,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("no background worker process is free for the %s of database \"%s\"",
							kinds[kind].type, NameStr(database->name)),
					 errhint("Increase \"max_worker_processes\".")));
		said_processes = true;
		back_off(post, now);
		return false;
	}
	post->slot = slot;
	if (kind == POST_SCHEDULER)
		database->news = false;
	return true;
}

/* Asks the worker at a post that is to have none to leave. */
static void
send_away(const Post *post)
{
	AudWorkerSlot *slot = &aud_workers->slots[post->slot];

	LWLockAcquire(aud_workers->lock, LW_EXCLUSIVE);
	if (!slot->asked && (slot->state == AUD_WORKER_STARTING || slot->state == AUD_WORKER_RUNNING))
		aud_workers_ask(slot);
	LWLockRelease(aud_workers->lock);
}

/* Sees to one post of a database; true if a worker for it has been started. */
static bool
fill_post(Database *database, int n, bool may_start, TimestampTz now, AudStep *step)
{
	Post	   *post = &database->posts[n];
	bool		started = false;

	if (post->slot != 0)
	{
		if (!is_wanted(database, n) && (n != POST_SCHEDULER || !database->wanted))
			send_away(post);
		return false;
	}
	if (!is_wanted(database, n) || post->no_room)
		return false;
	if (may_start && post->not_before <= now)
		started = start_worker(database, n, now);
	/* what waits for one on its way is looked at when that has come */
	if (post->slot == 0 && post->not_before > now)
		step->again = Min(step->again, post->not_before);
	return started;
}

/* The launcher's job, as a whole. */
static void
launch(AudStep *step)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS status;
	Database   *database;
	int			starting;

	read_news();
	starting = read_slots(now);
	read_databases();
	hash_seq_init(&status, databases);
	while ((database = hash_seq_search(&status)) != NULL)
		for (int n = 0; n < NPOSTS; n++)
			if (fill_post(database, n, starting < STARTING_MAX, now, step))
				starting++;
}

/* The launcher's process. */
void
aud_launcher_main(Datum main_arg)
{
	static AudJob job = {.name = "starting workers", .mode = AUD_STEP_CATALOG, .any_wake = true, .step = launch};
	HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(Database), .hcxt = TopMemoryContext};

	aud_frame_begin(AUD_WORKER_LAUNCHER, Int32GetDatum(0));
	databases = hash_create("audience databases", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	aud_frame_run(&job, 1);
	/* not 0: the postmaster is to start it again, unless it stops itself */
	proc_exit(1);
}
