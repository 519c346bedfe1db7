/*-------------------------------------------------------------------------
 *
 * take.c
 *	  Taking a batch's profiles, bringing them to now and writing them, in one
 *	  statement.
 *
 * Ingestion meets mostly users that have a profile.  To look each up, lock it,
 * read it, compute, and update it by further statements descends the index
 * more than once and copies rows to and fro.  Instead one INSERT ... ON
 * CONFLICT DO UPDATE goes through the users in C order; for each that it
 * meets and has locked, its SET clause calls take_profile() with the row,
 * which does the work of the engine for that user there and then:
 *
 *	  take_profile(...)		events in, windows moved, memberships decided;
 *							returns first_seen
 *	  taken_time(...)		last_seen, evaluated_at
 *	  taken_state(...)		state
 *	  taken_members(...)	members
 *
 * (PostgreSQL computes the SET clause in the order of the columns, of which
 * first_seen is the first; were it otherwise, the others would notice.)
 *
 * A profile that the statement makes is without a state until the second
 * statement of aud_batch_take gives it one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_take_profile);
PG_FUNCTION_INFO_V1(aud_taken_time);
PG_FUNCTION_INFO_V1(aud_taken_state);
PG_FUNCTION_INFO_V1(aud_taken_members);

/* the batch that is being taken; a trigger on profiles may begin another */
typedef struct Taking
{
	AudBatch   *batch;
	AudAdvance *advance;
	AudDecider *decider;
	MemoryContext user_mcxt;	/* of what only the user taken last needs */
	int			at;				/* index of the user taken last, -1: none */
} Taking;

static Taking *taking = NULL;

/* Does the text name this user? */
static bool
is_user(const AudUser *user, const text *id)
{
	return user->id_len == VARSIZE_ANY_EXHDR(id) &&
		memcmp(user->id, VARDATA_ANY(id), user->id_len) == 0;
}

/* Refuses a call that is not one of the statement's. */
static void
refuse_call(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("this function is for the engine's own statements")));
}

/* The user taken last, which must be the one that the text names. */
static AudUser *
taken_user(const text *id)
{
	AudUser    *user;

	if (taking == NULL || taking->at < 0)
		refuse_call();
	user = &taking->batch->users[taking->at];
	if (!is_user(user, id))
		elog(ERROR, "user \"%s\" was not taken", text_to_cstring(id));
	return user;
}

/* Brings one user to now, and decides its memberships. */
static void
process_user(AudUser *user)
{
	aud_user_set_now(user, &taking->batch->clock);
	aud_advance_user(taking->advance, user);
	aud_decide_user(taking->batch, taking->decider, user - taking->batch->users);
	user->exists = true;
}

/*
 * take_profile(user_id, first_seen, last_seen, evaluated_at, state, members,
 * attributes) → first_seen: for the locked row of a user of the batch being
 * taken.
 */
Datum
aud_take_profile(PG_FUNCTION_ARGS)
{
	text	   *id;
	AudUser    *user;
	MemoryContext old;

	if (taking == NULL)
		refuse_call();
	id = PG_GETARG_TEXT_PP(0);
	/* users come in the batch's order; those that were made are passed over */
	do
		taking->at++;
	while (taking->at < taking->batch->nusers &&
		   !is_user(&taking->batch->users[taking->at], id));
	if (taking->at >= taking->batch->nusers)
		elog(ERROR, "user \"%s\" is not in the batch", text_to_cstring(id));
	user = &taking->batch->users[taking->at];

	user->first_seen = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_TIMESTAMPTZ(1);
	user->last_seen = PG_ARGISNULL(2) ? PG_INT64_MIN : PG_GETARG_TIMESTAMPTZ(2);
	user->as_of = PG_GETARG_TIMESTAMPTZ(3);
	user->members = PG_ARGISNULL(5) ? NULL : PG_GETARG_BYTEA_PP(5);
	user->attributes = PG_GETARG_JSONB_P(6);
	MemoryContextReset(taking->user_mcxt);
	old = MemoryContextSwitchTo(taking->user_mcxt);
	user->is_new = PG_ARGISNULL(4);
	aud_user_state_read(taking->batch->defs, user,
						user->is_new ? NULL : PG_GETARG_BYTEA_P_COPY(4));
	process_user(user);
	MemoryContextSwitchTo(old);
	if (user->first_seen == PG_INT64_MAX)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(user->first_seen);
}

/* taken_time(user_id, which) → last_seen (1) or evaluated_at (2) */
Datum
aud_taken_time(PG_FUNCTION_ARGS)
{
	AudUser    *user = taken_user(PG_GETARG_TEXT_PP(0));

	if (PG_GETARG_INT32(1) == 2)
		PG_RETURN_TIMESTAMPTZ(user->now);
	if (user->last_seen == PG_INT64_MIN)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(user->last_seen);
}

/* taken_state(user_id) → state */
Datum
aud_taken_state(PG_FUNCTION_ARGS)
{
	AudUser    *user = taken_user(PG_GETARG_TEXT_PP(0));

	PG_RETURN_BYTEA_P(aud_user_state_write(taking->batch->defs, user));
}

/* taken_members(user_id, members) → members, as they are or as they have become */
Datum
aud_taken_members(PG_FUNCTION_ARGS)
{
	AudUser    *user;

	if (PG_ARGISNULL(0))
		refuse_call();
	user = taken_user(PG_GETARG_TEXT_PP(0));
	if (user->members_changed ? user->new_members == NULL : PG_ARGISNULL(1))
		PG_RETURN_NULL();
	if (user->members_changed)
		PG_RETURN_BYTEA_P(user->new_members);
	PG_RETURN_DATUM(PG_GETARG_DATUM(1));
}

/*
 * The profiles that the statement has made, from user *at on: a batch of their
 * own, no larger than a pass's, reads them, and its users are processed and
 * written as these.  *at moves on.
 */
static void
take_made(AudBatch *batch, int *at)
{
	AudBatch   *made = aud_batch_begin(batch->defs, batch->reason);
	int			most = aud_batch_most_users(batch->defs);

	made->clock = batch->clock;
	for (; *at < batch->nusers && made->nusers < most; (*at)++)
	{
		const AudUser *user = &batch->users[*at];

		if (!user->exists)
		{
			AudUser    *copy = aud_batch_add(made, user->id, user->id_len);

			copy->nevents = user->nevents;
			copy->events = user->events;
		}
	}
	if (made->nusers > 0)
	{
		aud_batch_read(made);
		aud_batch_run(made);
	}
	aud_batch_end(made);
}

/*
 * Takes the batch's users, who have nothing but new events, and brings them
 * to now; what has changed is written.
 */
void
aud_batch_take(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Taking		mine = {.batch = batch, .at = -1};
	Taking	   *outer = taking;
	Datum		args[2];

	mine.user_mcxt = AllocSetContextCreate(batch->mcxt, "audience user",
										   ALLOCSET_DEFAULT_SIZES);
	mine.advance = aud_advance_begin(batch);
	mine.decider = aud_decider_create(batch->defs);
	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].exists = true;
	args[0] = aud_batch_user_ids(batch);
	args[1] = TimestampTzGetDatum(batch->clock.now);
	for (int i = 0; i < batch->nusers; i++)
		batch->users[i].exists = false;
	PG_TRY();
	{
		taking = &mine;
		aud_store_execute(AUD_TAKE_PROFILES, args, NULL, false);
	}
	PG_FINALLY();
	{
		taking = outer;
	}
	PG_END_TRY();
	aud_advance_end(mine.advance);
	aud_decider_end(mine.decider);
	for (int at = 0; at < batch->nusers;)
		take_made(batch, &at);
	aud_batch_write_log(batch);
	aud_batch_write_timers(batch);
	MemoryContextSwitchTo(old);
}
