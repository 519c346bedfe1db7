/*-------------------------------------------------------------------------
 *
 * retention.c
 *	  Old events go: which may, and a chunk of them at a time.
 *
 * One instant, the watermark, holds for all users: earlier events are refused
 * from when it is set (ingest.c).  It stands with the definitions and changes
 * under their exclusive lock, so every session knows it before the first event
 * goes, and a replay of what is gone cannot count again.  SQL moves it
 * (sql/parts/78_retention.sql); here is how far it may be moved, and how a
 * chunk of users loses what lies before it:
 *
 *	  1	their profiles are locked, in C order, and brought to now: a state of
 *		long ago would still ask for the events behind its windows' old edges
 *	  2	their old events are deleted, and just those that were are counted by
 *		the users' bases (event_base.c)
 *
 * Memberships change only as time alone has changed them since the user was
 * last evaluated (step 1).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "event_base.h"
#include "events_guard.h"
#include "settings.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_retention_setting);
PG_FUNCTION_INFO_V1(aud_event_retention_limit);
PG_FUNCTION_INFO_V1(aud_event_retention_chunk);

/*
 * retention_setting(kind text) → interval: audience.transition_retention for
 * "transitions", audience.event_retention for "events"; null: for ever.
 */
Datum
aud_retention_setting(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			seconds = strcmp(kind, "events") == 0 ? aud_event_retention : aud_transition_retention;
	Interval   *result;

	if (seconds < 0)
		PG_RETURN_NULL();
	result = palloc0(sizeof(Interval));
	result->time = seconds * USECS_PER_SEC;
	PG_RETURN_INTERVAL_P(result);
}

/*
 * The instant before which nobody needs events as of "now": DT_NOBEGIN (what
 * "from" is without a window) if somebody needs all of them, DT_NOEND if nobody
 * needs any.  *aggregate becomes the index of the one that needs the earliest, -1: nobody does.
 */
static TimestampTz
deletable_before(const AudDefinitions *defs, TimestampTz now, int *aggregate)
{
	TimestampTz before = DT_NOEND;

	*aggregate = -1;
	for (int i = 0; i < defs->naggregates; i++)
	{
		const AudAggregateDef *def = &defs->aggregates[i];
		TimestampTz needed = def->last != 0 ? now - def->last : def->from;

		/* an event is in a sliding window only if it is later than its edge */
		if (aud_aggregate_has_base(def) || needed >= before)
			continue;
		before = needed;
		*aggregate = i;
	}
	return before;
}

/* A row of the function's type. */
static Datum
make_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
	TupleDesc	tupdesc;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/*
 * event_retention_limit() → (before timestamptz, aggregate int): before which
 * instant windows and sequences leave events alone, as of now (-infinity: they
 * need all; infinity: none), and the number of the aggregate that needs the
 * earliest.
 */
Datum
aud_event_retention_limit(PG_FUNCTION_ARGS)
{
	const AudDefinitions *defs = aud_definitions_get();
	AudClock	clock;
	int			aggregate;
	Datum		values[2];
	bool		nulls[2] = {false, false};

	aud_clock_init(&clock);
	values[0] = TimestampTzGetDatum(deletable_before(defs, clock.now, &aggregate));
	nulls[1] = aggregate < 0;
	if (aggregate >= 0)
		values[1] = Int32GetDatum(defs->aggregates[aggregate].number);
	return make_row(fcinfo, values, nulls);
}

/* Users who lose events, and before which instants. */
typedef struct Expiry
{
	int			nusers;
	const char **ids;
	int		   *lengths;
	Datum	   *before;
} Expiry;

/*
 * Finds out which of the users that follow "after" have events before an
 * instant, at most so many users and about so many events; allocated in the
 * current context.  Returns the last user who is done with that ("after": the
 * first has too many events for one chunk; NULL: no user is left).
 */
static char *
find_old_events(Expiry *expiry, char *after, TimestampTz before, int most)
{
	MemoryContext mcxt = CurrentMemoryContext;
	Datum		args[3];
	const char **ids;
	int			n;
	int64		nevents = 0;
	char	   *last;

	memset(expiry, 0, sizeof(*expiry));
	args[0] = CStringGetTextDatum(after);
	args[1] = Int64GetDatum(most);
	n = aud_store_execute(AUD_NEXT_IDS, args, NULL, false);
	if (n == 0)
		return NULL;
	ids = palloc(n * sizeof(char *));
	for (int i = 0; i < n; i++)
		ids[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
	SPI_freetuptable(SPI_tuptable);
	last = pstrdup(ids[n - 1]);

	args[0] = aud_store_text_array(ids, NULL, n);
	args[1] = TimestampTzGetDatum(before);
	args[2] = Int64GetDatum(most);
	n = aud_store_execute(AUD_OLD_EVENTS, args, NULL, false);
	expiry->nusers = n;
	expiry->ids = palloc(Max(n, 1) * sizeof(char *));
	expiry->lengths = palloc(Max(n, 1) * sizeof(int));
	expiry->before = palloc(Max(n, 1) * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		expiry->ids[i] = MemoryContextStrdup(mcxt, SPI_getvalue(tuple, tupdesc, 1));
		expiry->lengths[i] = strlen(expiry->ids[i]);
		expiry->before[i] = TimestampTzGetDatum(before);
		nevents += DatumGetInt64(SPI_getbinval(tuple, tupdesc, 2, &isnull));
		if (i == n - 1 && nevents >= most)
		{
			/* it may have more: up to the last one that was seen, then */
			TimestampTz upto = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, 3, &isnull));

			expiry->before[i] = TimestampTzGetDatum(Min(before, upto + 1));
			last = n > 1 ? pstrdup(expiry->ids[n - 2]) : after;
		}
	}
	SPI_freetuptable(SPI_tuptable);
	return last;
}

/* For bsearch: a user's id against an element of ids. */
static int
compare_id(const void *key, const void *element)
{
	return strcmp(key, *(const char *const *) element);
}

/* An event from a row of AUD_DELETE_OLD_EVENTS; *user: whose, among ids. */
static void
read_event(HeapTuple tuple, TupleDesc tupdesc, const Expiry *expiry, int *user, AudEvent *event)
{
	bool		isnull;
	const char **found;
	text	   *value;

	found = bsearch(SPI_getvalue(tuple, tupdesc, 1), expiry->ids, expiry->nusers,
					sizeof(char *), compare_id);
	if (found == NULL)
		elog(ERROR, "an event of a user that was not asked for");
	*user = found - expiry->ids;
	memset(event, 0, sizeof(*event));
	event->time = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, 2, &isnull));
	value = DatumGetTextPP(SPI_getbinval(tuple, tupdesc, 3, &isnull));
	event->id = VARDATA_ANY(value);
	event->id_len = VARSIZE_ANY_EXHDR(value);
	value = DatumGetTextPP(SPI_getbinval(tuple, tupdesc, 4, &isnull));
	event->type = VARDATA_ANY(value);
	event->type_len = VARSIZE_ANY_EXHDR(value);
	event->stored_properties = SPI_getbinval(tuple, tupdesc, 5, &isnull);
	event->stored_context = SPI_getbinval(tuple, tupdesc, 6, &isnull);
	if (isnull)
		event->stored_context = (Datum) 0;
	event->mcxt = CurrentMemoryContext;
}

/*
 * Deletes the events, whose users' profiles are locked, and writes the bases
 * that have counted them; how many.  Connected to SPI.
 */
static int64
move_into_bases(const AudDefinitions *defs, const Expiry *expiry)
{
	int			n = expiry->nusers;
	AudEventBase *bases = palloc(n * sizeof(AudEventBase));
	SPITupleTable *rows;
	uint64		nevents;
	int			nwritten = 0;
	const char **ids = palloc(n * sizeof(char *));
	int		   *lengths = palloc(n * sizeof(int));

	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		(void) aud_event_base_load(defs, expiry->ids[i], expiry->lengths[i], false, &bases[i]);
		bases[i].complete_from = Max(bases[i].complete_from,
									 DatumGetTimestampTz(expiry->before[i]));
	}
	nevents = aud_events_expire(aud_store_text_array(expiry->ids, expiry->lengths, n),
								aud_store_array(expiry->before, NULL, n, TIMESTAMPTZOID));
	rows = SPI_tuptable;
	for (uint64 i = 0; i < nevents; i++)
	{
		AudEvent	event;
		int			user;

		CHECK_FOR_INTERRUPTS();
		read_event(rows->vals[i], rows->tupdesc, expiry, &user, &event);
		aud_event_base_fold(defs, &bases[user], &event);
	}
	for (int i = 0; i < n; i++)
		if (bases[i].nevents > 0)
		{
			bases[nwritten] = bases[i];
			ids[nwritten] = expiry->ids[i];
			lengths[nwritten++] = expiry->lengths[i];
		}
	aud_event_bases_write(defs, ids, lengths, bases, nwritten);
	SPI_freetuptable(rows);
	return nevents;
}

/* Takes the users out of the expiry whose profiles have gone meanwhile. */
static void
keep_existing(Expiry *expiry, const AudBatch *batch)
{
	int			kept = 0;

	for (int i = 0; i < batch->nusers; i++)
		if (batch->users[i].exists)
		{
			expiry->ids[kept] = expiry->ids[i];
			expiry->lengths[kept] = expiry->lengths[i];
			expiry->before[kept++] = expiry->before[i];
		}
	expiry->nusers = kept;
}

/*
 * event_retention_chunk(after text, before timestamptz, most int) →
 * (last text, events bigint): the users behind "after" lose their events
 * before an instant, as far as no window needs them; at most so many users,
 * and about so many events.  The last user who is done (null: all are), and
 * how many events went.  "before" must be no later than the watermark.
 */
Datum
aud_event_retention_chunk(PG_FUNCTION_ARGS)
{
	char	   *after = text_to_cstring(PG_GETARG_TEXT_PP(0));
	TimestampTz before = PG_GETARG_TIMESTAMPTZ(1);
	MemoryContext mcxt = CurrentMemoryContext;
	const AudDefinitions *defs;
	AudBatch   *batch;
	MemoryContext old;
	Expiry		expiry;
	char	   *last = NULL;
	int			aggregate;
	Datum		values[2];
	bool		nulls[2] = {false, false};
	int64		nevents = 0;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	batch = aud_batch_begin(defs, "expired");
	/* definitions may have come that need more than those at the watermark's time */
	before = Min(before, deletable_before(defs, batch->clock.now, &aggregate));
	before = Min(before, defs->events_from);
	old = MemoryContextSwitchTo(batch->mcxt);
	if (before != DT_NOBEGIN)
		last = find_old_events(&expiry, after, before,
							   Min(PG_GETARG_INT32(2), aud_batch_most_users(defs)));
	if (last != NULL && expiry.nusers > 0)
	{
		for (int i = 0; i < expiry.nusers; i++)
			aud_batch_add(batch, expiry.ids[i], expiry.lengths[i]);
		aud_batch_lock(batch, AUD_LOCK_EXISTING);
		/* the row says as of when the state is exact: after what it needs */
		for (int i = 0; i < batch->nusers; i++)
			batch->users[i].write = true;
		aud_batch_run(batch);
		keep_existing(&expiry, batch);
		if (expiry.nusers > 0)
			nevents = move_into_bases(defs, &expiry);
	}
	MemoryContextSwitchTo(mcxt);
	nulls[0] = last == NULL;
	if (last != NULL)
		values[0] = CStringGetTextDatum(last);
	values[1] = Int64GetDatum(nevents);
	MemoryContextSwitchTo(old);
	aud_batch_end(batch);
	SPI_finish();
	return make_row(fcinfo, values, nulls);
}
