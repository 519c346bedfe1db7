/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  A batch's users: collecting them, locking and reading their profiles.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "stats.h"
#include "store.h"

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

/* Frees the batch, and the rows that it has read; what it has done counts. */
void
aud_batch_end(AudBatch *batch)
{
	SPITupleTable *rows = batch->rows;
	Size		bytes = MemoryContextMemAllocated(batch->mcxt, true);

	aud_stats_count(AUD_COUNT_BATCHES, 1);
	aud_stats_count(AUD_COUNT_BATCH_BYTES, bytes);
	aud_stats_raise(AUD_COUNT_LARGEST_BATCH, bytes);
	aud_stats_flush();
	MemoryContextDelete(batch->mcxt);
	SPI_freetuptable(rows);
}

/*
 * How many users a batch should have at the most, by what their states take:
 * some 32 MB.
 */
int
aud_batch_most_users(const AudDefinitions *defs)
{
	Size		per_user = Max(defs->naggregates, 1) * sizeof(AudAggregateState);

	return Max(50, Min(5000, 32 * (Size) 1024 * 1024 / per_user));
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

/* The ids of all users that have a profile, as text[]. */
Datum
aud_batch_user_ids(AudBatch *batch)
{
	const char **ids = palloc(Max(batch->nusers, 1) * sizeof(char *));
	int		   *lengths = palloc(Max(batch->nusers, 1) * sizeof(int));
	int			n = 0;

	for (int i = 0; i < batch->nusers; i++)
		if (batch->users[i].exists)
		{
			ids[n] = batch->users[i].id;
			lengths[n++] = batch->users[i].id_len;
		}
	return aud_store_text_array(ids, lengths, n);
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

/*
 * Sets a user from the columns of its profile's row, which must outlive what
 * is done with the user; what must be taken apart is allocated in the current
 * context.
 */
void
aud_batch_set_columns(AudBatch *batch, AudUser *user, const Datum *values, const bool *nulls)
{
	user->exists = true;
	user->attributes = DatumGetJsonbP(values[AUD_PROFILE_ATTRIBUTES - 1]);
	user->first_seen = nulls[AUD_PROFILE_FIRST_SEEN - 1] ? PG_INT64_MAX :
		DatumGetTimestampTz(values[AUD_PROFILE_FIRST_SEEN - 1]);
	user->last_seen = nulls[AUD_PROFILE_LAST_SEEN - 1] ? PG_INT64_MIN :
		DatumGetTimestampTz(values[AUD_PROFILE_LAST_SEEN - 1]);
	user->as_of = DatumGetTimestampTz(values[AUD_PROFILE_EVALUATED_AT - 1]);
	user->members = nulls[AUD_PROFILE_MEMBERS - 1] ? NULL :
		DatumGetByteaPP(values[AUD_PROFILE_MEMBERS - 1]);
	user->is_new = nulls[AUD_PROFILE_STATE - 1];
	aud_user_state_read(batch->defs, user, user->is_new ? NULL :
						DatumGetByteaPP(values[AUD_PROFILE_STATE - 1]));
	aud_user_set_now(user, &batch->clock);
}

/* Sets a user from its profile's row; the row must outlive the batch. */
void
aud_batch_set_row(AudBatch *batch, AudUser *user, HeapTuple tuple, TupleDesc tupdesc)
{
	Datum	   *values = palloc(tupdesc->natts * sizeof(Datum));
	bool	   *nulls = palloc(tupdesc->natts * sizeof(bool));

	heap_deform_tuple(tuple, tupdesc, values, nulls);
	aud_batch_set_columns(batch, user, values, nulls);
	if (tupdesc->natts >= AUD_PROFILE_PLACE && !batch->read_only)
		user->place = *(ItemPointer) DatumGetPointer(values[AUD_PROFILE_PLACE - 1]);
	pfree(values);
	pfree(nulls);
}

/* Reads the rows of one of the statements that return profiles. */
static void
read_rows(AudBatch *batch, AudStatement statement)
{
	Datum		args[1];
	uint64		n;
	int			at = 0;

	args[0] = aud_batch_user_ids(batch);
	aud_stats_count(AUD_COUNT_LOOKUPS, batch->nusers);
	aud_stats_count(AUD_COUNT_INDEX_LOOKUPS, batch->nusers);
	n = aud_store_execute(statement, args, NULL, batch->read_only);
	batch->rows = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
	{
		AudUser    *user = next_user(batch, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, &at);

		CHECK_FOR_INTERRUPTS();

		/*
		 * A snapshot for the whole transaction still sees a profile that was
		 * removed after it, and the one that was made since.
		 */
		if (user->states != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent delete"),
					 errhint("The transaction might succeed if retried.")));
		aud_batch_set_row(batch, user, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
	}
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
 * Locks the users' profiles and reads them.  With AUD_LOCK_ALL all exist
 * afterwards; else those that have no profile, or are passed over because
 * somebody else has locked it, do not exist.
 *
 * So that no two statements can wait for each other, every one takes its users
 * in C order, one after the other, be it by locking a profile or by making
 * one: an INSERT in that order makes a profile, or locks the one that it
 * meets, waiting for a session that is just making or removing it.
 */
void
aud_batch_lock(AudBatch *batch, AudLockKind kind)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Datum		args[2];

	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].exists = true;
	if (kind == AUD_LOCK_ALL)
	{
		args[0] = aud_batch_user_ids(batch);
		args[1] = TimestampTzGetDatum(batch->clock.now);
		aud_stats_count(AUD_COUNT_LOOKUPS, batch->nusers);
		aud_stats_count(AUD_COUNT_INDEX_LOOKUPS, batch->nusers);
		aud_stats_count(AUD_COUNT_PROFILES_WRITTEN,
						aud_store_execute(AUD_ACQUIRE_PROFILES, args, NULL, false));
		read_rows(batch, AUD_READ_PROFILES);
	}
	else
		read_rows(batch, kind == AUD_LOCK_FREE ? AUD_LOCK_FREE_PROFILES : AUD_LOCK_PROFILES);
	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].exists = batch->users[i].states != NULL;
	MemoryContextSwitchTo(old);
}
