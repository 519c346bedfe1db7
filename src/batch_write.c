/*-------------------------------------------------------------------------
 *
 * batch_write.c
 *	  Writing what a batch has come to: profiles, memberships, transitions.
 *
 * One statement each.  A transition is written only where the membership's
 * row was really inserted or deleted: what is stored has the last word.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "stats.h"
#include "store.h"

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
	Datum	   *columns[6];
	bool	   *nulls[2];
	Datum		args[7];

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
		columns[5][n] = JsonbPGetDatum(user->attributes);
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
	if (with_attributes)
		args[6] = aud_store_array(columns[5], NULL, n, JSONBOID);
	if (aud_store_execute(with_attributes ? AUD_UPDATE_WITH_ATTRIBUTES : AUD_UPDATE_PROFILES,
						  args, NULL, false) != n)
		elog(ERROR, "a locked profile is gone");
}

/* A change by what it is about, for finding it again. */
typedef struct ChangeKey
{
	int			user;
	int32		number;
} ChangeKey;

/* Orders keys. */
static int
compare_keys(const void *a, const void *b)
{
	const ChangeKey *x = a;
	const ChangeKey *y = b;

	if (x->user != y->user)
		return x->user < y->user ? -1 : 1;
	return (x->number > y->number) - (x->number < y->number);
}

/* The index of the user with this id. */
static int
find_user(const AudBatch *batch, const char *id, int len)
{
	int			low = 0,
				high = batch->nusers;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		const AudUser *user = &batch->users[middle];
		int			order = memcmp(user->id, id, Min(user->id_len, len));

		if (order == 0)
			order = user->id_len - len;
		if (order == 0)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	elog(ERROR, "a row for a user that was not asked for");
}

/*
 * Some rows were there already, or were not: drops the changes that
 * SPI_tuptable's rows do not confirm.
 */
static void
keep_confirmed(AudBatch *batch, bool added)
{
	int			n = SPI_processed;
	ChangeKey  *keys = palloc(Max(n, 1) * sizeof(ChangeKey));
	int			kept = 0;

	for (int i = 0; i < n; i++)
	{
		bool		isnull;
		HeapTuple	tuple = SPI_tuptable->vals[i];
		text	   *id = DatumGetTextPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));

		keys[i].user = find_user(batch, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
		keys[i].number = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
	}
	qsort(keys, n, sizeof(ChangeKey), compare_keys);
	for (int i = 0; i < batch->nchanges; i++)
	{
		const AudChange *change = &batch->changes[i];
		ChangeKey	key = {change->user, batch->defs->segments[change->segment].number};

		if (change->added != added ||
			bsearch(&key, keys, n, sizeof(ChangeKey), compare_keys) != NULL)
			batch->changes[kept++] = *change;
	}
	batch->nchanges = kept;
}

/* Writes the memberships that begin, or those that end. */
static void
write_members(AudBatch *batch, bool added)
{
	int			n = 0;
	const char **ids = palloc(Max(batch->nchanges, 1) * sizeof(char *));
	int		   *lengths = palloc(Max(batch->nchanges, 1) * sizeof(int));
	Datum	   *numbers = palloc(Max(batch->nchanges, 1) * sizeof(Datum));
	Datum	   *instants = palloc(Max(batch->nchanges, 1) * sizeof(Datum));
	Datum		args[3];

	for (int i = 0; i < batch->nchanges; i++)
	{
		const AudChange *change = &batch->changes[i];
		const AudUser *user = &batch->users[change->user];

		if (change->added != added)
			continue;
		ids[n] = user->id;
		lengths[n] = user->id_len;
		numbers[n] = Int32GetDatum(batch->defs->segments[change->segment].number);
		instants[n++] = TimestampTzGetDatum(user->now);
	}
	if (n == 0)
		return;
	args[0] = aud_store_text_array(ids, lengths, n);
	args[1] = aud_store_array(numbers, NULL, n, INT4OID);
	args[2] = aud_store_array(instants, NULL, n, TIMESTAMPTZOID);
	if (aud_store_execute(added ? AUD_ENTER : AUD_LEAVE, args, NULL, false) != n)
		keep_confirmed(batch, added);
	SPI_freetuptable(SPI_tuptable);
}

/* Adds one key of a transition's metadata. */
static void
add_metadata(JsonbParseState **state, const char *name, JsonbValue *value)
{
	JsonbValue	key = {.type = jbvString};

	key.val.string.val = (char *) name;
	key.val.string.len = strlen(name);
	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, value);
}

/* The metadata of a change: what of SPEC 5's list applies. */
static Jsonb *
make_metadata(const AudBatch *batch, const AudChange *change, const AudEvent *event,
			  TimestampTz decided)
{
	JsonbParseState *state = NULL;
	JsonbValue	value;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (change->score >= 0)
	{
		value.type = jbvNumeric;
		value.val.numeric = DatumGetNumeric(DirectFunctionCall1(float8_numeric,
																Float8GetDatum(change->score)));
		add_metadata(&state, "ruleScore", &value);
	}
	if (event != NULL)
	{
		value.type = jbvNumeric;
		value.val.numeric = int64_div_fast_to_numeric(Max(decided - event->received, 0), 3);
		add_metadata(&state, "evaluationLatency", &value);
	}
	value.type = jbvNumeric;
	value.val.numeric = int64_to_numeric(batch->defs->segments[change->segment].version);
	add_metadata(&state, "segmentVersion", &value);
	if (event != NULL)
	{
		value.type = jbvString;
		value.val.string.val = (char *) event->id;
		value.val.string.len = event->id_len;
		add_metadata(&state, "eventId", &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Writes the transitions of the changes that are left. */
static void
write_transitions(AudBatch *batch)
{
	int			n = batch->nchanges;
	const char **ids = palloc(n * sizeof(char *));
	const char **segments = palloc(n * sizeof(char *));
	const char **actions = palloc(n * sizeof(char *));
	const char **reasons = palloc(n * sizeof(char *));
	const char **events = palloc(n * sizeof(char *));
	int		   *event_lengths = palloc0(n * sizeof(int));
	Datum	   *instants = palloc(n * sizeof(Datum));
	Datum	   *versions = palloc(n * sizeof(Datum));
	Datum	   *metadata = palloc(n * sizeof(Datum));
	TimestampTz decided = GetCurrentTimestamp();
	Datum		args[8];

	for (int i = 0; i < n; i++)
	{
		const AudChange *change = &batch->changes[i];
		const AudUser *user = &batch->users[change->user];
		const AudSegment *segment = &batch->defs->segments[change->segment];
		const AudEvent *event = user->nevents > 0 ? &user->events[user->nevents - 1] : NULL;

		CHECK_FOR_INTERRUPTS();
		ids[i] = user->id;
		segments[i] = segment->id;
		actions[i] = change->added ? "added" : "removed";
		reasons[i] = change->reason;
		events[i] = event ? event->id : NULL;
		event_lengths[i] = event ? event->id_len : 0;
		instants[i] = TimestampTzGetDatum(user->now);
		versions[i] = Int32GetDatum(segment->version);
		metadata[i] = JsonbPGetDatum(make_metadata(batch, change, event, decided));
	}
	args[0] = aud_store_text_array(ids, NULL, n);
	args[1] = aud_store_text_array(segments, NULL, n);
	args[2] = aud_store_text_array(actions, NULL, n);
	args[3] = aud_store_text_array(reasons, NULL, n);
	args[4] = aud_store_array(instants, NULL, n, TIMESTAMPTZOID);
	args[5] = aud_store_text_array(events, event_lengths, n);
	args[6] = aud_store_array(versions, NULL, n, INT4OID);
	args[7] = aud_store_array(metadata, NULL, n, JSONBOID);
	aud_store_execute(AUD_LOG, args, NULL, false);
}

/* Writes the memberships and transitions of the batch's changes. */
void
aud_batch_write_changes(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);

	if (batch->nchanges > 0)
	{
		write_members(batch, true);
		write_members(batch, false);
	}
	if (batch->nchanges > 0)
		write_transitions(batch);
	aud_stats_count(AUD_COUNT_USERS, batch->nusers);
	aud_stats_count(AUD_COUNT_TRANSITIONS, batch->nchanges);
	MemoryContextSwitchTo(old);
}

/*
 * Writes the batch.  Profiles are locked by it (or nobody else can write, as
 * under the exclusive definitions lock).
 */
void
aud_batch_write(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);

	write_profiles(batch, false);
	write_profiles(batch, true);
	MemoryContextSwitchTo(old);
	aud_batch_write_changes(batch);
}
