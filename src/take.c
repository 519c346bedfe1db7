/*-------------------------------------------------------------------------
 *
 * take.c
 *	  Taking a batch's profiles, bringing them to now and writing them, one
 *	  user after the other in C order of their ids (see batch.c).
 *
 * Nothing of a user counts before its row has been written: if somebody else
 * has been at work on it meanwhile, all is forgotten and done again, with the
 * row locked.  Events are read after the row has been, so those that whoever
 * wrote it has brought are among them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "stats.h"
#include "store.h"
#include "user_table.h"

/* what taking a batch's users needs */
typedef struct Taking
{
	AudBatch   *batch;
	AudUserTable *profiles;
	AudAdvance *advance;
	AudDecider *decider;
	MemoryContext user_mcxt;	/* of what only the user being taken needs */
	Datum		no_attributes;	/* {} */
} Taking;

/* The columns of a profile for a user who has none: as if it had just been made. */
static void
set_new_profile(Taking *taking, const AudUser *user, Datum *values, bool *nulls)
{
	values[AUD_PROFILE_USER_ID - 1] = PointerGetDatum(cstring_to_text_with_len(user->id, user->id_len));
	values[AUD_PROFILE_EVALUATED_AT - 1] = TimestampTzGetDatum(taking->batch->clock.now);
	values[AUD_PROFILE_ATTRIBUTES - 1] = taking->no_attributes;
	nulls[AUD_PROFILE_USER_ID - 1] = nulls[AUD_PROFILE_EVALUATED_AT - 1] =
		nulls[AUD_PROFILE_UPDATED_AT - 1] = nulls[AUD_PROFILE_ATTRIBUTES - 1] = false;
}

/*
 * Takes one user.  With lock the row is locked first; else false if somebody
 * else has made or changed it meanwhile: then nothing is written, but the user
 * and the batch's history are not what they were.
 */
static bool
take_user(Taking *taking, int index, bool lock)
{
	AudBatch   *batch = taking->batch;
	AudUser    *user = &batch->users[index];
	MemoryContext old;
	Datum	   *values;
	bool	   *nulls;
	bool		found,
				written;

	MemoryContextReset(taking->user_mcxt);
	old = MemoryContextSwitchTo(taking->user_mcxt);
	found = aud_user_table_find(taking->profiles, user->id, user->id_len, lock);
	aud_user_table_columns(taking->profiles, &values, &nulls);
	if (!found)
		set_new_profile(taking, user, values, nulls);
	aud_batch_set_columns(batch, user, values, nulls);
	aud_advance_user(taking->advance, user);
	aud_decide_user(batch, taking->decider, index);
	aud_user_set_columns(batch, user, values, nulls);
	written = found ? aud_user_table_update(taking->profiles) :
		aud_user_table_insert(taking->profiles);
	aud_stats_count(AUD_COUNT_PROFILES_WRITTEN, written);
	aud_stats_raise(AUD_COUNT_LARGEST_USER, MemoryContextMemAllocated(taking->user_mcxt, true));
	MemoryContextSwitchTo(old);
	return written;
}

/*
 * Takes the batch's users, who have nothing but new events, and brings them
 * to now; what has changed is written.
 */
void
aud_batch_take(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Taking		taking = {.batch = batch};

	taking.user_mcxt = AllocSetContextCreate(batch->mcxt, "audience user",
											 ALLOCSET_DEFAULT_SIZES);
	taking.no_attributes = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	taking.profiles = aud_user_table_open(AUD_PROFILES);
	taking.advance = aud_advance_begin(batch);
	taking.decider = aud_decider_create(batch->defs);
	for (int i = 0; i < batch->nusers; i++)
	{
		AudUser		before = batch->users[i];
		int			nlog = batch->nlog;

		for (bool lock = false; !take_user(&taking, i, lock); lock = true)
		{
			batch->users[i] = before;
			batch->nlog = nlog;
		}
	}
	aud_advance_end(taking.advance);
	aud_decider_end(taking.decider);
	aud_user_table_close(taking.profiles);
	aud_batch_write_log(batch);
	aud_batch_write_timers(batch);
	MemoryContextSwitchTo(old);
}
