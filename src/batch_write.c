/*-------------------------------------------------------------------------
 *
 * batch_write.c
 *	  Writing what a batch has come to: profiles, history and timers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "stats.h"
#include "store.h"
#include "user_table.h"
#include "workers.h"

/*
 * Writes the rows of those users that must be: those with new attributes, or
 * the others.
 */
static void
write_profiles(AudBatch *batch, bool with_attributes)
{
	int			n = 0;
	int			max = Max(batch->nusers, 1);
	const char **ids = palloc(max * sizeof(char *));
	int		   *lengths = palloc(max * sizeof(int));
	Datum	   *columns[7];
	bool	   *nulls[3];
	Datum		args[8];

	for (int i = 0; i < lengthof(columns); i++)
		columns[i] = palloc(max * sizeof(Datum));
	for (int i = 0; i < lengthof(nulls); i++)
		nulls[i] = palloc(max * sizeof(bool));
	for (int i = 0; i < batch->nusers; i++)
	{
		AudUser    *user = &batch->users[i];

		if (!user->exists || !user->write ||
			(user->old_attributes != NULL) != with_attributes)
			continue;
		ids[n] = user->id;
		lengths[n] = user->id_len;
		columns[0][n] = PointerGetDatum(&user->place);
		columns[1][n] = PointerGetDatum(aud_user_state_write(batch->defs, user));
		nulls[0][n] = user->first_seen == PG_INT64_MAX;
		columns[2][n] = TimestampTzGetDatum(user->first_seen);
		nulls[1][n] = user->last_seen == PG_INT64_MIN;
		columns[3][n] = TimestampTzGetDatum(user->last_seen);
		columns[4][n] = TimestampTzGetDatum(user->now);
		columns[5][n] = PointerGetDatum(user->members_changed ? user->new_members : user->members);
		nulls[2][n] = columns[5][n] == (Datum) 0;
		columns[6][n] = JsonbPGetDatum(user->attributes);
		n++;
	}
	if (n == 0)
		return;
	args[0] = aud_store_text_array(ids, lengths, n);
	args[1] = aud_store_array(columns[0], NULL, n, TIDOID);
	args[2] = aud_store_array(columns[1], NULL, n, BYTEAOID);
	args[3] = aud_store_array(columns[2], nulls[0], n, TIMESTAMPTZOID);
	args[4] = aud_store_array(columns[3], nulls[1], n, TIMESTAMPTZOID);
	args[5] = aud_store_array(columns[4], NULL, n, TIMESTAMPTZOID);
	args[6] = aud_store_array(columns[5], nulls[2], n, BYTEAOID);
	if (with_attributes)
		args[7] = aud_store_array(columns[6], NULL, n, JSONBOID);
	if (aud_store_execute(with_attributes ? AUD_UPDATE_WITH_ATTRIBUTES : AUD_UPDATE_PROFILES,
						  args, NULL, false) != n)
		elog(ERROR, "a locked profile is gone");
}

/* Writes the rows of the history that the batch has come to. */
void
aud_batch_write_log(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	int			n = batch->nlog;
	int			max = Max(n, 1);
	const char **ids = palloc(max * sizeof(char *));
	const char **reasons = palloc(max * sizeof(char *));
	const char **events = palloc(max * sizeof(char *));
	int		   *event_lengths = palloc0(max * sizeof(int));
	Datum	   *instants = palloc(max * sizeof(Datum));
	Datum	   *latencies = palloc(max * sizeof(Datum));
	bool	   *no_event = palloc(max * sizeof(bool));
	Datum	   *entries = palloc(max * sizeof(Datum));
	TimestampTz decided = GetCurrentTimestamp();
	uint64		ntransitions = 0;
	Datum		args[6];

	for (int i = 0; i < n; i++)
	{
		const AudLogRow *row = &batch->log[i];
		const AudUser *user = &batch->users[row->user];
		const AudEvent *event = user->nevents > 0 ? &user->events[user->nevents - 1] : NULL;

		ids[i] = user->id;
		reasons[i] = row->reason;
		instants[i] = TimestampTzGetDatum(row->at);
		events[i] = event ? event->id : NULL;
		event_lengths[i] = event ? event->id_len : 0;
		no_event[i] = event == NULL;
		if (event != NULL)
			latencies[i] = Int64GetDatum(Max(decided - event->received, 0));
		entries[i] = PointerGetDatum(row->entries);
		ntransitions += row->nentries;
	}
	if (n > 0)
	{
		args[0] = aud_store_text_array(ids, NULL, n);
		args[1] = aud_store_text_array(reasons, NULL, n);
		args[2] = aud_store_array(instants, NULL, n, TIMESTAMPTZOID);
		args[3] = aud_store_text_array(events, event_lengths, n);
		args[4] = aud_store_array(latencies, no_event, n, INT8OID);
		args[5] = aud_store_array(entries, NULL, n, BYTEAOID);
		aud_store_execute(AUD_LOG, args, NULL, false);
	}
	aud_stats_count(AUD_COUNT_TRANSITIONS, ntransitions);
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
	const char **ids = palloc(Max(batch->nusers, 1) * sizeof(char *));
	TimestampTz first = DT_NOEND;
	AudUserTable *timers = NULL;
	Datum		args[1];
	int			n = 0;

	for (int i = 0; i < batch->nusers; i++)
	{
		const AudUser *user = &batch->users[i];

		if (!user->arm)
			continue;
		if (user->armed == PG_INT64_MAX)
		{
			ids[n++] = user->id;
			continue;
		}
		if (timers == NULL)
			timers = aud_user_table_open(AUD_TIMERS);
		set_timer(timers, user);
		first = Min(first, user->armed);
	}
	if (timers != NULL)
	{
		aud_user_table_close(timers);
		aud_workers_note_due(first);
	}
	if (n > 0)
	{
		args[0] = aud_store_text_array(ids, NULL, n);
		aud_store_execute(AUD_REMOVE_TIMERS, args, NULL, false);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Writes what has been settled.  Profiles are locked by the batch (or nobody
 * else can write, as under the exclusive definitions lock).
 */
void
aud_batch_write(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);

	write_profiles(batch, false);
	write_profiles(batch, true);
	MemoryContextSwitchTo(old);
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
