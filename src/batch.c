/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  A batch's users: collecting them, locking and reading their profiles.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_profiles_go);

/* An empty batch in a memory context of its own below the current one. */
AudBatch *
aud_batch_begin(const AudDefinitions *defs, const char *reason)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "audience batch",
											   ALLOCSET_DEFAULT_SIZES);
	AudBatch   *batch = MemoryContextAllocZero(mcxt, sizeof(AudBatch));

	batch->mcxt = mcxt;
	batch->defs = defs;
	batch->reason = reason;
	aud_clock_init(&batch->clock);
	return batch;
}

/* Frees the batch. */
void
aud_batch_end(AudBatch *batch)
{
	MemoryContextDelete(batch->mcxt);
}

/*
 * Adds a user, whose id is copied; users come in C order of their ids, each
 * once.  The result is valid until the next call.
 */
AudUser *
aud_batch_add(AudBatch *batch, const char *id, int id_len)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	AudUser    *user;

	if (batch->nusers == batch->max_users)
	{
		batch->max_users = batch->max_users ? batch->max_users * 2 : 16;
		batch->users = batch->users ?
			repalloc_huge(batch->users, batch->max_users * sizeof(AudUser)) :
			palloc(batch->max_users * sizeof(AudUser));
	}
	user = &batch->users[batch->nusers++];
	memset(user, 0, sizeof(*user));
	user->id = pnstrdup(id, id_len);
	user->id_len = id_len;
	MemoryContextSwitchTo(old);
	return user;
}

/* The ids of those users that have a profile, or of those that have none. */
static Datum
user_ids(AudBatch *batch, bool exists, int *n)
{
	const char **ids = palloc(Max(batch->nusers, 1) * sizeof(char *));
	int		   *lengths = palloc(Max(batch->nusers, 1) * sizeof(int));

	*n = 0;
	for (int i = 0; i < batch->nusers; i++)
		if (batch->users[i].exists == exists)
		{
			ids[*n] = batch->users[i].id;
			lengths[(*n)++] = batch->users[i].id_len;
		}
	return aud_store_text_array(ids, lengths, *n);
}

/* The ids of all users that have a profile, as text[]. */
Datum
aud_batch_user_ids(AudBatch *batch)
{
	int			n;

	return user_ids(batch, true, &n);
}

/*
 * The user that a row's text column names, walking on from *at; rows come in
 * the users' order.
 */
static AudUser *
next_user(AudBatch *batch, HeapTuple tuple, TupleDesc tupdesc, int *at)
{
	bool		isnull;
	text	   *id = DatumGetTextPP(SPI_getbinval(tuple, tupdesc, 1, &isnull));
	int			len = VARSIZE_ANY_EXHDR(id);

	while (*at < batch->nusers &&
		   (batch->users[*at].id_len != len ||
			memcmp(batch->users[*at].id, VARDATA_ANY(id), len) != 0))
		(*at)++;
	if (*at >= batch->nusers)
		elog(ERROR, "a row for a user that was not asked for");
	return &batch->users[*at];
}

/* Sets a user from its profile's row; the row must outlive the batch. */
void
aud_batch_set_row(AudBatch *batch, AudUser *user, HeapTuple tuple, TupleDesc tupdesc)
{
	bool		isnull;
	Datum		datum;

	user->exists = true;
	datum = SPI_getbinval(tuple, tupdesc, AUD_PROFILE_ATTRIBUTES, &isnull);
	user->attributes = DatumGetJsonbP(datum);
	datum = SPI_getbinval(tuple, tupdesc, AUD_PROFILE_FIRST_SEEN, &isnull);
	user->first_seen = isnull ? PG_INT64_MAX : DatumGetTimestampTz(datum);
	datum = SPI_getbinval(tuple, tupdesc, AUD_PROFILE_LAST_SEEN, &isnull);
	user->last_seen = isnull ? PG_INT64_MIN : DatumGetTimestampTz(datum);
	datum = SPI_getbinval(tuple, tupdesc, AUD_PROFILE_EVALUATED_AT, &isnull);
	user->as_of = DatumGetTimestampTz(datum);
	datum = SPI_getbinval(tuple, tupdesc, AUD_PROFILE_STATE, &isnull);
	user->is_new = isnull;
	aud_user_state_read(batch->defs, user, isnull ? NULL : DatumGetByteaPP(datum));
	aud_user_set_now(user, &batch->clock);
	if (tupdesc->natts >= AUD_PROFILE_PLACE && !batch->read_only)
		user->place = *(ItemPointer) DatumGetPointer(SPI_getbinval(tuple, tupdesc, AUD_PROFILE_PLACE, &isnull));
}

/* Reads the rows of one of the statements that return profiles. */
static void
read_rows(AudBatch *batch, AudStatement statement)
{
	Datum		args[1];
	uint64		n;
	int			at = 0;

	args[0] = aud_batch_user_ids(batch);
	n = aud_store_execute(statement, args, NULL, batch->read_only);
	for (uint64 i = 0; i < n; i++)
		aud_batch_set_row(batch,
						  next_user(batch, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &at),
						  SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
}

/* Reads the profiles without locking them; users without one do not exist. */
void
aud_batch_read(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);

	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].exists = true;
	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].states = NULL;
	read_rows(batch, AUD_READ_PROFILES);
	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].exists = batch->users[i].states != NULL;
	MemoryContextSwitchTo(old);
}

/*
 * Users that this backend has found to have a profile, by a hash of the id: to
 * look for a profile only to find it there is the commonest case.  Forgotten
 * when profiles may have gone: when a transaction aborts, or at word from a
 * session that erases one (profiles_go).
 */
#define KNOWN_USERS 65536		/* a power of two */

static uint64 *known_users = NULL;
static bool known_users_valid = false;
static Oid	gate_oid = InvalidOid;

/* Transaction and subtransaction end: what an aborted one has made is gone. */
static void
forget_at_abort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		known_users_valid = false;
}

static void
forget_at_subabort(SubXactEvent event, SubTransactionId mine,
				   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		known_users_valid = false;
}

/* Relcache invalidation of the gate: profiles have gone. */
static void
forget_at_word(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == gate_oid)
		known_users_valid = false;
}

/* Makes sure that the known users are so. */
static void
prepare_known_users(void)
{
	if (known_users == NULL)
	{
		known_users = MemoryContextAlloc(CacheMemoryContext, KNOWN_USERS * sizeof(uint64));
		RegisterXactCallback(forget_at_abort, NULL);
		RegisterSubXactCallback(forget_at_subabort, NULL);
		CacheRegisterRelcacheCallback(forget_at_word, (Datum) 0);
	}
	if (!known_users_valid)
		memset(known_users, 0, KNOWN_USERS * sizeof(uint64));
	known_users_valid = true;
}

/* The entry for a user, and what it must hold if the user is known. */
static uint64 *
known_entry(const AudUser *user, uint64 *hash)
{
	*hash = hash_bytes_extended((const unsigned char *) user->id, user->id_len, 0) | 1;
	return &known_users[(*hash >> 32) & (KNOWN_USERS - 1)];
}

/* Marks the users that have a profile; are these all? */
static bool
find_profiles(AudBatch *batch)
{
	Datum		args[1];
	uint64		n;
	uint64		hash;
	int			at = 0;
	int			count;

	prepare_known_users();
	for (int i = 0; i < batch->nusers; i++)
	{
		uint64	   *entry = known_entry(&batch->users[i], &hash);

		batch->users[i].exists = *entry == hash;
	}
	args[0] = user_ids(batch, false, &count);
	if (count == 0)
		return true;
	n = aud_store_execute(AUD_FIND_PROFILES, args, NULL, false);
	for (uint64 i = 0; i < n; i++)
	{
		AudUser    *user = next_user(batch, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &at);
		uint64	   *entry = known_entry(user, &hash);

		user->exists = true;
		*entry = hash;
	}
	SPI_freetuptable(SPI_tuptable);
	return n == count;
}

/*
 * Locks the users' profiles and reads them.  With "create" all exist
 * afterwards; without, those that have no profile do not exist.
 *
 * So that no two statements can wait for each other, every one takes its users
 * in C order, be it by locking a profile or by making one.  If all profiles
 * are there, and none can go meanwhile, locking them in order does.  Else an
 * INSERT in order does both: it makes a profile, or locks the one that it
 * meets, waiting for a session that is just making it.
 *
 * That none can go meanwhile is what the gate is for: a weak lock (on table
 * definition_version), held only while users are taken, and only if it is to
 * be had at once.  Sessions that remove profiles hold a conflicting one.
 */
void
aud_batch_lock(AudBatch *batch, bool create)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	bool		gate;
	bool		all;

	gate_oid = aud_definitions_table("definition_version");
	gate = ConditionalLockRelationOid(gate_oid, RowExclusiveLock);
	all = find_profiles(batch);
	if (create && (!gate || !all))
	{
		Datum		args[2];

		for (int i = 0; i < batch->nusers; i++)
			batch->users[i].exists = true;
		args[0] = aud_batch_user_ids(batch);
		args[1] = TimestampTzGetDatum(batch->clock.now);
		aud_store_execute(AUD_ACQUIRE_PROFILES, args, NULL, false);
		read_rows(batch, AUD_READ_PROFILES);
	}
	else
		read_rows(batch, AUD_LOCK_PROFILES);
	if (gate)
		UnlockRelationOid(gate_oid, RowExclusiveLock);
	for (int i = 0; i < batch->nusers; i++)
	{
		if (batch->users[i].states == NULL && create)
			elog(ERROR, "a profile is gone while it was being locked");
		batch->users[i].exists = batch->users[i].states != NULL;
	}
	MemoryContextSwitchTo(old);
}

/*
 * profiles_go(): to be called before profiles are removed.  Closes the gate
 * until the transaction ends, and sends word to all sessions then.
 */
Datum
aud_profiles_go(PG_FUNCTION_ARGS)
{
	Oid			relid = aud_definitions_table("definition_version");

	LockRelationOid(relid, ShareLock);
	CacheInvalidateRelcacheByRelid(relid);
	PG_RETURN_VOID();
}

/* Reads the stored memberships of all users. */
void
aud_batch_read_members(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Datum		args[1];
	uint64		n;
	int			at = 0;

	args[0] = aud_batch_user_ids(batch);
	n = aud_store_execute(AUD_READ_MEMBERS, args, NULL, batch->read_only);
	for (uint64 i = 0; i < n; i++)
	{
		AudUser    *user = next_user(batch, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &at);
		bool		isnull;

		/* rows of one user stand together: room for all that are left */
		if (user->members == NULL)
			user->members = palloc((n - i) * sizeof(int32));
		user->members[user->nmembers++] =
			DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	MemoryContextSwitchTo(old);
}
