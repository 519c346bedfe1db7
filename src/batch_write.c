/*-------------------------------------------------------------------------
 *
 * batch_write.c
 *	  Writing what a batch has come to: profiles, history and timers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "stats.h"
#include "store.h"
#include "user_table.h"
#include "workers.h"

PG_FUNCTION_INFO_V1(aud_kafka_origin);

/* Sets the columns of a profile to what its user has come to; allocated in the current context. */
void
aud_user_set_columns(const AudBatch *batch, const AudUser *user, Datum *values, bool *nulls)
{
	values[AUD_PROFILE_FIRST_SEEN - 1] = TimestampTzGetDatum(user->first_seen);
	nulls[AUD_PROFILE_FIRST_SEEN - 1] = user->first_seen == PG_INT64_MAX;
	values[AUD_PROFILE_LAST_SEEN - 1] = TimestampTzGetDatum(user->last_seen);
	nulls[AUD_PROFILE_LAST_SEEN - 1] = user->last_seen == PG_INT64_MIN;
	values[AUD_PROFILE_EVALUATED_AT - 1] = TimestampTzGetDatum(user->now);
	values[AUD_PROFILE_UPDATED_AT - 1] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[AUD_PROFILE_STATE - 1] = PointerGetDatum(aud_user_state_write(batch->defs, user));
	nulls[AUD_PROFILE_STATE - 1] = false;
	if (user->members_changed)
	{
		values[AUD_PROFILE_MEMBERS - 1] = PointerGetDatum(user->new_members);
		nulls[AUD_PROFILE_MEMBERS - 1] = user->new_members == NULL;
	}
	if (user->old_attributes != NULL)
		values[AUD_PROFILE_ATTRIBUTES - 1] = JsonbPGetDatum(user->attributes);
}

/* Writes the rows of those users that must be. */
static void
write_profiles(AudBatch *batch)
{
	MemoryContext user_mcxt = AllocSetContextCreate(batch->mcxt, "audience written user",
													ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(user_mcxt);
	AudUserTable *profiles = NULL;

	for (int i = 0; i < batch->nusers; i++)
	{
		AudUser    *user = &batch->users[i];
		Datum	   *values;
		bool	   *nulls;

		if (!user->exists || !user->write)
			continue;
		if (profiles == NULL)
		{
			MemoryContextSwitchTo(batch->mcxt);
			profiles = aud_user_table_open(AUD_PROFILES);
			MemoryContextSwitchTo(user_mcxt);
		}
		MemoryContextReset(user_mcxt);
		if (!aud_user_table_find_at(profiles, user->id, user->id_len, &user->place))
			elog(ERROR, "the profile of user \"%s\" is gone, although it is locked", user->id);
		aud_user_table_columns(profiles, &values, &nulls);
		aud_user_set_columns(batch, user, values, nulls);
		if (!aud_user_table_update(profiles))
			elog(ERROR, "the profile of user \"%s\" has been changed, although it is locked", user->id);
		aud_stats_count(AUD_COUNT_PROFILES_WRITTEN, 1);
	}
	MemoryContextSwitchTo(old);
	if (profiles != NULL)
		aud_user_table_close(profiles);
	MemoryContextDelete(user_mcxt);
}

/* Sets the columns of a row of the history. */
static void
set_log_columns(const AudBatch *batch, const AudLogRow *row, int64 seq, TimestampTz decided,
				Datum *values, bool *nulls)
{
	const AudUser *user = &batch->users[row->user];
	const AudEvent *event = user->nevents > 0 ? &user->events[user->nevents - 1] : NULL;

	nulls[AUD_LOG_EVENT_ID - 1] = nulls[AUD_LOG_LATENCY - 1] = event == NULL;
	values[AUD_LOG_SEQ - 1] = Int64GetDatum(seq);
	values[AUD_LOG_USER_ID - 1] = PointerGetDatum(cstring_to_text_with_len(user->id, user->id_len));
	values[AUD_LOG_OCCURRED_AT - 1] = TimestampTzGetDatum(row->at);
	values[AUD_LOG_RECORDED_AT - 1] = TimestampTzGetDatum(decided);
	values[AUD_LOG_REASON - 1] = CStringGetTextDatum(row->reason);
	if (event != NULL)
	{
		values[AUD_LOG_EVENT_ID - 1] = PointerGetDatum(cstring_to_text_with_len(event->id, event->id_len));
		values[AUD_LOG_LATENCY - 1] = Int64GetDatum(Max(decided - event->received, 0));
	}
	values[AUD_LOG_ENTRIES - 1] = PointerGetDatum(row->entries);
}

/*
 * Where rows of the outbox are written: a number of this server, database and
 * timeline.  A restored copy, or a promoted standby, goes on with sequences from
 * where they stood at some time, so numbers of rows alone are not unique among
 * all that a topic has been told.
 */
static int64
outbox_origin(void)
{
	uint64		server = hash_combine64(GetSystemIdentifier(), (uint64) MyDatabaseId);

	return (int64) hash_combine64(server, (uint64) GetWALInsertionTimeLine());
}

/* kafka_origin(): the same, for rows that SQL writes. */
Datum
aud_kafka_origin(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(outbox_origin());
}

/*
 * Puts the row of the history that has just been made into the outbox of each
 * sink.
 */
static void
queue_log_row(const AudBatch *batch, const AudLogRow *row, AudUserTable *outbox, Oid sequence,
			  const Datum *log, const bool *log_nulls)
{
	Datum	   *values;
	bool	   *nulls;

	for (int i = 0; i < batch->defs->nsinks; i++)
	{
		aud_user_table_columns(outbox, &values, &nulls);
		memset(nulls, false, AUD_OUTBOX_MESSAGE * sizeof(bool));
		values[AUD_OUTBOX_SINK - 1] = Int32GetDatum(batch->defs->sinks[i]);
		values[AUD_OUTBOX_ID - 1] = Int64GetDatum(nextval_internal(sequence, false));
		values[AUD_OUTBOX_KEY - 1] = log[AUD_LOG_USER_ID - 1];
		values[AUD_OUTBOX_RECORDED_AT - 1] = log[AUD_LOG_RECORDED_AT - 1];
		values[AUD_OUTBOX_MESSAGES - 1] = Int32GetDatum(row->nentries);
		values[AUD_OUTBOX_ORIGIN - 1] = Int64GetDatum(outbox_origin());
		values[AUD_OUTBOX_SEQ - 1] = log[AUD_LOG_SEQ - 1];
		values[AUD_OUTBOX_OCCURRED_AT - 1] = log[AUD_LOG_OCCURRED_AT - 1];
		values[AUD_OUTBOX_REASON - 1] = log[AUD_LOG_REASON - 1];
		values[AUD_OUTBOX_EVENT_ID - 1] = log[AUD_LOG_EVENT_ID - 1];
		nulls[AUD_OUTBOX_EVENT_ID - 1] = log_nulls[AUD_LOG_EVENT_ID - 1];
		values[AUD_OUTBOX_LATENCY - 1] = log[AUD_LOG_LATENCY - 1];
		nulls[AUD_OUTBOX_LATENCY - 1] = log_nulls[AUD_LOG_LATENCY - 1];
		values[AUD_OUTBOX_ENTRIES - 1] = log[AUD_LOG_ENTRIES - 1];
		nulls[AUD_OUTBOX_MESSAGE - 1] = true;
		aud_user_table_append(outbox);
	}
}

/* Writes the rows of the history that the batch has come to, and what sinks are to say of them. */
void
aud_batch_write_log(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	bool		has_sinks = batch->defs->nsinks > 0;
	TimestampTz decided;
	Oid			sequence,
				outbox_sequence = InvalidOid;
	uint64		ntransitions = 0;
	AudUserTable *log,
			   *outbox = NULL;
	Datum	   *values;
	bool	   *nulls;

	if (batch->nlog > 0)
	{
		decided = GetCurrentTimestamp();
		sequence = aud_definitions_table("transition_seq");
		log = aud_user_table_open(AUD_TRANSITION_LOG);
		if (has_sinks)
		{
			outbox_sequence = aud_definitions_table("kafka_outbox_seq");
			outbox = aud_user_table_open(AUD_KAFKA_OUTBOX);
			/* the relay counts on it that who has a number of the outbox has a transaction id */
			(void) GetTopTransactionId();
			aud_workers_note_now(AUD_WORD_OUTBOX);
		}
		aud_user_table_columns(log, &values, &nulls);
		memset(nulls, false, AUD_LOG_ENTRIES * sizeof(bool));
		for (int i = 0; i < batch->nlog; i++)
		{
			set_log_columns(batch, &batch->log[i], nextval_internal(sequence, false), decided,
							values, nulls);
			aud_user_table_append(log);
			if (has_sinks)
				queue_log_row(batch, &batch->log[i], outbox, outbox_sequence, values, nulls);
			ntransitions += batch->log[i].nentries;
		}
		if (has_sinks)
			aud_user_table_close(outbox);
		aud_user_table_close(log);
	}
	aud_stats_count(AUD_COUNT_TRANSITIONS, ntransitions);
	aud_stats_count(AUD_COUNT_HISTORY_ROWS, batch->nlog);
	MemoryContextSwitchTo(old);
}

/* Sets the timer of a user, who may have had one.  The user's profile is locked. */
static void
set_timer(AudUserTable *timers, const AudUser *user)
{
	Datum	   *values;
	bool	   *nulls;
	bool		written;

	for (bool lock = false;; lock = true)
	{
		bool		found = aud_user_table_find(timers, user->id, user->id_len, lock);

		aud_user_table_columns(timers, &values, &nulls);
		values[AUD_TIMER_DUE_AT - 1] = TimestampTzGetDatum(user->armed);
		nulls[AUD_TIMER_DUE_AT - 1] = false;
		if (found)
			written = aud_user_table_update(timers);
		else
		{
			values[AUD_TIMER_USER_ID - 1] =
				PointerGetDatum(cstring_to_text_with_len(user->id, user->id_len));
			nulls[AUD_TIMER_USER_ID - 1] = false;
			written = aud_user_table_insert(timers);
		}
		if (written)
			return;
	}
}

/*
 * Sets the timers of the users who are to be armed anew, and removes those of
 * the users who need none any more.
 */
void
aud_batch_write_timers(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	TimestampTz first = DT_NOEND;
	AudUserTable *timers = NULL;

	for (int i = 0; i < batch->nusers; i++)
	{
		const AudUser *user = &batch->users[i];

		if (!user->arm)
			continue;
		if (timers == NULL)
			timers = aud_user_table_open(AUD_TIMERS);
		if (user->armed != PG_INT64_MAX)
			set_timer(timers, user);
		else if (aud_user_table_find(timers, user->id, user->id_len, true))
			aud_user_table_delete(timers);
		first = Min(first, user->armed);
		aud_stats_count(user->armed != PG_INT64_MAX ? AUD_COUNT_TIMERS_SET : AUD_COUNT_TIMERS_REMOVED, 1);
	}
	if (timers != NULL)
		aud_user_table_close(timers);
	if (first != DT_NOEND)
		aud_workers_note(AUD_WORD_TIMERS, first);
	MemoryContextSwitchTo(old);
}

/*
 * Writes what has been settled.  Profiles are locked by the batch (or nobody
 * else can write, as under the exclusive definitions lock).
 */
void
aud_batch_write(AudBatch *batch)
{
	write_profiles(batch);
	aud_batch_write_log(batch);
	aud_batch_write_timers(batch);
}

/* Brings the batch's users, whose profiles have been read, to now; writes them. */
void
aud_batch_run(AudBatch *batch)
{
	aud_batch_advance(batch);
	aud_batch_decide(batch);
	aud_batch_write(batch);
}
