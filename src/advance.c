/*-------------------------------------------------------------------------
 *
 * advance.c
 *	  Bringing the states of a batch's users to now.
 *
 * A user's states are exact for its as_of, the instant of its last
 * evaluation.  In this order:
 *
 *	  1	new events are folded in as of that instant: so what is late, but
 *		still in a window then, is in, and step 2 takes it out if it must
 *	  2	what lies between a window's edge then and its edge now is read from
 *		the events and taken out
 *	  3	what cannot be kept so is made anew from the user's events
 *
 * Values before are noted for all aggregates that any of this touches.  Each
 * step reads for all users at once, and streams what it reads.
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

#define FETCH_ROWS 5000

/* a part of a user's history to take out of the aggregates of one window */
typedef struct Range
{
	int			user;
	int			window;
} Range;

typedef struct RangeList
{
	int			n;
	int			max;
	Range	   *ranges;
} RangeList;

/* Marks an aggregate to be made anew, its value before noted. */
static void
mark_stale(const AudDefinitions *defs, AudUser *user, int aggregate)
{
	aud_user_touch(defs, user, aggregate);
	user->states[aggregate].stale = true;
}

/*
 * The clock that a user's states are exact for, with a skew that reaches as
 * far as events are accepted now.
 */
static AudClock
clock_before(const AudBatch *batch, const AudUser *user)
{
	AudClock	clock;

	clock.now = user->as_of;
	clock.max_future_skew = user->now + batch->clock.max_future_skew - user->as_of;
	return clock;
}

/* The clock the user is evaluated for. */
static AudClock
clock_after(const AudBatch *batch, const AudUser *user)
{
	AudClock	clock;

	clock.now = user->now;
	clock.max_future_skew = batch->clock.max_future_skew;
	return clock;
}

/* Step 1 for one user. */
static void
fold_events(AudBatch *batch, AudUser *user)
{
	const AudDefinitions *defs = batch->defs;
	AudClock	clock = clock_before(batch, user);

	for (int e = 0; e < user->nevents; e++)
	{
		const AudEvent *event = &user->events[e];
		const AudEventType *type = aud_definitions_event_type(defs, event->type, event->type_len);

		user->first_seen = Min(user->first_seen, event->time);
		user->last_seen = Max(user->last_seen, event->time);
		for (int i = 0; i < type->naggregates; i++)
		{
			const AudAggregateDef *def = &defs->aggregates[type->aggregates[i]];
			AudAggregateState *state = &user->states[type->aggregates[i]];

			if (state->stale)
				continue;
			aud_user_touch(defs, user, type->aggregates[i]);
			if (def->state == AUD_STATE_SEQUENCE || def->where_moves || state->overflow)
				state->stale = true;
			else
				aud_aggregate_fold(def, state, event, &clock);
		}
	}
}

/* Adds a range to the list. */
static void
add_range(RangeList *list, int user, int window)
{
	if (list->n == list->max)
	{
		list->max = list->max ? list->max * 2 : 64;
		list->ranges = list->ranges ?
			repalloc(list->ranges, list->max * sizeof(Range)) :
			palloc(list->max * sizeof(Range));
	}
	list->ranges[list->n].user = user;
	list->ranges[list->n++].window = window;
}

/*
 * One aggregate over a window whose edge has moved: true if events must be
 * taken out of it.
 */
static bool
edge_moved(const AudDefinitions *defs, AudUser *user, int aggregate, TimestampTz edge)
{
	const AudAggregateDef *def = &defs->aggregates[aggregate];
	AudAggregateState *state = &user->states[aggregate];

	if (state->stale || (state->count == 0 && !state->overflow))
		return false;
	if (def->state == AUD_STATE_EDGE)
	{
		if (state->time > edge)
			return false;
		aud_user_touch(defs, user, aggregate);
		if (def->kind == AUD_AGG_FIRST || def->kind == AUD_AGG_FIRST_TIME)
			state->stale = true;
		else
		{
			/* the last one is out, so all are */
			state->count = 0;
			state->changed = true;
		}
		return false;
	}
	if (state->oldest > edge)
		return false;
	aud_user_touch(defs, user, aggregate);
	if (state->overflow)
	{
		state->stale = true;
		return false;
	}
	return true;
}

/* Finds what the passing of time asks of one user: ranges, and stale states. */
static void
move_windows(AudBatch *batch, int index, RangeList *list)
{
	const AudDefinitions *defs = batch->defs;
	AudUser    *user = &batch->users[index];
	bool		back = user->now < user->as_of ||
		user->horizon <= user->now + batch->clock.max_future_skew;

	if (back)
		user->horizon = PG_INT64_MAX;
	for (int i = 0; i < defs->nmoving; i++)
	{
		int			aggregate = defs->moving[i];
		const AudAggregateState *state = &user->states[aggregate];

		if (back || (state->known && state->time <= user->now &&
					 user->now != user->as_of) ||
			(defs->aggregates[aggregate].where_moves && user->now != user->as_of))
			mark_stale(defs, user, aggregate);
	}
	if (user->now == user->as_of && !back)
		return;
	for (int w = 0; w < defs->nwindows; w++)
	{
		const AudWindow *window = &defs->windows[w];
		bool		read = false;

		for (int i = 0; i < window->naggregates; i++)
		{
			if (back)
				mark_stale(defs, user, window->aggregates[i]);
			else
				read |= edge_moved(defs, user, window->aggregates[i],
								   user->now - window->last);
		}
		if (read)
			add_range(list, index, w);
	}
}

/* Sets an event from a row; detoasted values are allocated in the current context. */
static void
event_from_row(HeapTuple tuple, TupleDesc tupdesc, AudEvent *event)
{
	bool		isnull;
	text	   *value;
	Datum		datum;

	event->time = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, AUD_EVENT_TIME, &isnull));
	value = DatumGetTextPP(SPI_getbinval(tuple, tupdesc, AUD_EVENT_ID, &isnull));
	event->id = VARDATA_ANY(value);
	event->id_len = VARSIZE_ANY_EXHDR(value);
	value = DatumGetTextPP(SPI_getbinval(tuple, tupdesc, AUD_EVENT_TYPE, &isnull));
	event->type = VARDATA_ANY(value);
	event->type_len = VARSIZE_ANY_EXHDR(value);
	event->properties = DatumGetJsonbP(SPI_getbinval(tuple, tupdesc, AUD_EVENT_PROPERTIES, &isnull));
	datum = SPI_getbinval(tuple, tupdesc, AUD_EVENT_CONTEXT, &isnull);
	event->context = isnull ? NULL : DatumGetJsonbP(datum);
	event->received = 0;
}

typedef void (*RowFunction) (AudBatch *batch, void *arg, HeapTuple tuple, TupleDesc tupdesc,
							 MemoryContext row_mcxt);

/*
 * Runs a statement through a cursor and hands each row to "function", which
 * may leave garbage in row_mcxt; the current context is the batch's.
 */
static void
stream(AudBatch *batch, AudStatement statement, Datum *args,
	   RowFunction function, void *arg)
{
	Portal		portal = aud_store_open(statement, args, batch->read_only);
	MemoryContext row_mcxt = AllocSetContextCreate(batch->mcxt, "audience row",
												   ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		SPITupleTable *table;

		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		table = SPI_tuptable;
		if (SPI_processed == 0)
			break;
		aud_stats_count(AUD_COUNT_ROWS, SPI_processed);
		for (uint64 i = 0, n = SPI_processed; i < n; i++)
		{
			CHECK_FOR_INTERRUPTS();
			function(batch, arg, table->vals[i], table->tupdesc, row_mcxt);
			MemoryContextReset(row_mcxt);
		}
		SPI_freetuptable(table);
	}
	SPI_cursor_close(portal);
	MemoryContextDelete(row_mcxt);
}

/* Takes one event out of the aggregates of its range's window. */
static void
unfold_row(AudBatch *batch, void *arg, HeapTuple tuple, TupleDesc tupdesc,
		   MemoryContext row_mcxt)
{
	const RangeList *list = arg;
	bool		isnull;
	int64		ordinal = DatumGetInt64(SPI_getbinval(tuple, tupdesc, AUD_EVENT_ORDINAL, &isnull));
	const Range *range = &list->ranges[ordinal - 1];
	const AudWindow *window = &batch->defs->windows[range->window];
	AudUser    *user = &batch->users[range->user];
	AudClock	clock = clock_before(batch, user);
	AudEvent	event;
	MemoryContext old = MemoryContextSwitchTo(row_mcxt);

	event_from_row(tuple, tupdesc, &event);
	MemoryContextSwitchTo(old);
	for (int i = 0; i < window->naggregates; i++)
	{
		const AudAggregateDef *def = &batch->defs->aggregates[window->aggregates[i]];

		if (def->state != AUD_STATE_EDGE &&
			aud_aggregate_feeds(def, event.type, event.type_len))
			aud_aggregate_unfold(def, &user->states[window->aggregates[i]],
								 &event, &clock);
	}
}

/* Sets the oldest event's time of a range's aggregates to the next event's. */
static void
next_row(AudBatch *batch, void *arg, HeapTuple tuple, TupleDesc tupdesc,
		 MemoryContext row_mcxt)
{
	const RangeList *list = arg;
	bool		isnull;
	int64		ordinal = DatumGetInt64(SPI_getbinval(tuple, tupdesc, 1, &isnull));
	Datum		next = SPI_getbinval(tuple, tupdesc, 2, &isnull);
	const Range *range = &list->ranges[ordinal - 1];
	const AudWindow *window = &batch->defs->windows[range->window];
	AudUser    *user = &batch->users[range->user];
	TimestampTz edge = user->now - window->last;

	for (int i = 0; i < window->naggregates; i++)
	{
		AudAggregateState *state = &user->states[window->aggregates[i]];

		if (state->stale || state->count == 0 || state->oldest > edge ||
			batch->defs->aggregates[window->aggregates[i]].state == AUD_STATE_EDGE)
			continue;
		/* none is left in the events, but some are counted: deleted behind us */
		if (isnull)
			state->stale = true;
		else
			state->oldest = DatumGetTimestampTz(next);
	}
}

/* Step 2 for all users. */
static void
unfold_ranges(AudBatch *batch, RangeList *list)
{
	const char **ids = palloc(list->n * sizeof(char *));
	int		   *lengths = palloc(list->n * sizeof(int));
	Datum	   *low = palloc(list->n * sizeof(Datum));
	Datum	   *high = palloc(list->n * sizeof(Datum));
	Datum		args[3];

	for (int i = 0; i < list->n; i++)
	{
		const AudUser *user = &batch->users[list->ranges[i].user];
		int64		last = batch->defs->windows[list->ranges[i].window].last;

		ids[i] = user->id;
		lengths[i] = user->id_len;
		low[i] = TimestampTzGetDatum(user->as_of - last);
		high[i] = TimestampTzGetDatum(user->now - last);
	}
	args[0] = aud_store_text_array(ids, lengths, list->n);
	args[1] = aud_store_array(low, NULL, list->n, TIMESTAMPTZOID);
	args[2] = aud_store_array(high, NULL, list->n, TIMESTAMPTZOID);
	stream(batch, AUD_READ_RANGES, args, unfold_row, list);
	args[1] = args[2];
	stream(batch, AUD_READ_NEXT, args, next_row, list);
}

/* What is being made anew while a user's events pass by. */
typedef struct Recompute
{
	int			at;				/* index of the user whose events come */
	bool	   *stale;			/* by aggregate: is being made anew, for that user */
	AudEvent  **events;			/* by aggregate: a sequence's events so far */
	int		   *nevents;
	int		   *max_events;
	MemoryContext mcxt;			/* of those events; reset for each user */
} Recompute;

/* Begins the user at recompute->at: its stale states become empty ones. */
static void
recompute_begin(AudBatch *batch, Recompute *recompute)
{
	AudUser    *user = &batch->users[recompute->at];

	MemoryContextReset(recompute->mcxt);
	for (int i = 0; i < batch->defs->naggregates; i++)
	{
		AudAggregateState *state = &user->states[i];

		recompute->stale[i] = state->stale;
		recompute->events[i] = NULL;
		recompute->nevents[i] = recompute->max_events[i] = 0;
		if (state->stale)
		{
			memset(state, 0, sizeof(*state));
			state->touched = state->changed = state->known = true;
		}
	}
	if (user->rebuild)
	{
		user->first_seen = PG_INT64_MAX;
		user->last_seen = PG_INT64_MIN;
		user->horizon = PG_INT64_MAX;
	}
}

/* Ends the user: sequences are evaluated over what they collected. */
static void
recompute_finish(AudBatch *batch, Recompute *recompute)
{
	AudUser    *user = &batch->users[recompute->at];
	AudClock	clock = clock_after(batch, user);

	for (int i = 0; i < batch->defs->naggregates; i++)
		if (recompute->stale[i] &&
			batch->defs->aggregates[i].state == AUD_STATE_SEQUENCE)
			aud_sequence_evaluate(&batch->defs->aggregates[i], &user->states[i],
								  recompute->events[i], recompute->nevents[i], &clock);
}

/* Does the user have something to be made anew? */
static bool
has_stale(const AudBatch *batch, const AudUser *user)
{
	if (!user->exists)
		return false;
	for (int i = 0; i < batch->defs->naggregates; i++)
		if (user->states[i].stale)
			return true;
	return user->rebuild;
}

/* Finishes the current user and moves to the next one that has work. */
static void
recompute_next(AudBatch *batch, Recompute *recompute)
{
	if (recompute->at >= 0)
		recompute_finish(batch, recompute);
	do
		recompute->at++;
	while (recompute->at < batch->nusers &&
		   !has_stale(batch, &batch->users[recompute->at]));
	if (recompute->at < batch->nusers)
		recompute_begin(batch, recompute);
}

/* Keeps a copy of an event for a sequence. */
static void
keep_event(Recompute *recompute, int aggregate, const AudEvent *event)
{
	MemoryContext old = MemoryContextSwitchTo(recompute->mcxt);
	AudEvent   *copy;

	if (recompute->nevents[aggregate] == recompute->max_events[aggregate])
	{
		int			max = Max(16, recompute->max_events[aggregate] * 2);

		recompute->events[aggregate] = recompute->events[aggregate] ?
			repalloc_huge(recompute->events[aggregate], max * sizeof(AudEvent)) :
			palloc(max * sizeof(AudEvent));
		recompute->max_events[aggregate] = max;
	}
	copy = &recompute->events[aggregate][recompute->nevents[aggregate]++];
	*copy = *event;
	copy->type = pnstrdup(event->type, event->type_len);
	copy->id = pnstrdup(event->id, event->id_len);
	copy->properties = (Jsonb *) memcpy(palloc(VARSIZE(event->properties)),
										event->properties, VARSIZE(event->properties));
	if (event->context != NULL)
		copy->context = (Jsonb *) memcpy(palloc(VARSIZE(event->context)),
										 event->context, VARSIZE(event->context));
	MemoryContextSwitchTo(old);
}

/* One event of a user that has stale states. */
static void
recompute_row(AudBatch *batch, void *arg, HeapTuple tuple, TupleDesc tupdesc,
			  MemoryContext row_mcxt)
{
	Recompute  *recompute = arg;
	const AudDefinitions *defs = batch->defs;
	const AudEventType *type;
	AudUser    *user;
	AudClock	clock;
	AudEvent	event;
	bool		isnull;
	text	   *id = DatumGetTextPP(SPI_getbinval(tuple, tupdesc, AUD_EVENT_USER_ID, &isnull));
	MemoryContext old;

	while (batch->users[recompute->at].id_len != VARSIZE_ANY_EXHDR(id) ||
		   memcmp(batch->users[recompute->at].id, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id)) != 0)
		recompute_next(batch, recompute);
	user = &batch->users[recompute->at];
	clock = clock_after(batch, user);

	old = MemoryContextSwitchTo(row_mcxt);
	event_from_row(tuple, tupdesc, &event);
	MemoryContextSwitchTo(old);
	if (event.time > user->now + batch->clock.max_future_skew)
		user->horizon = Min(user->horizon, event.time);
	if (user->rebuild)
	{
		user->first_seen = Min(user->first_seen, event.time);
		user->last_seen = Max(user->last_seen, event.time);
	}
	type = aud_definitions_event_type(defs, event.type, event.type_len);
	for (int i = 0; i < type->naggregates; i++)
	{
		int			aggregate = type->aggregates[i];

		if (!recompute->stale[aggregate])
			continue;
		if (defs->aggregates[aggregate].state == AUD_STATE_SEQUENCE)
			keep_event(recompute, aggregate, &event);
		else
			aud_aggregate_fold(&defs->aggregates[aggregate],
							   &user->states[aggregate], &event, &clock);
	}
}

/* The instant behind which lies all that a user's stale states need. */
static TimestampTz
needed_from(const AudBatch *batch, const AudUser *user)
{
	TimestampTz from = PG_INT64_MAX;

	if (user->rebuild)
		return DT_NOBEGIN;
	for (int i = 0; i < batch->defs->naggregates; i++)
	{
		const AudAggregateDef *def = &batch->defs->aggregates[i];

		if (!user->states[i].stale)
			continue;
		if (def->last != 0)
			from = Min(from, user->now - def->last);
		else if (def->from != PG_INT64_MIN)
			from = Min(from, def->from - 1);
		else
			return DT_NOBEGIN;
	}
	return from;
}

/* Step 3 for all users. */
static void
recompute_stale(AudBatch *batch)
{
	int			naggregates = Max(batch->defs->naggregates, 1);
	const char **ids = palloc(Max(batch->nusers, 1) * sizeof(char *));
	int		   *lengths = palloc(Max(batch->nusers, 1) * sizeof(int));
	TimestampTz from = PG_INT64_MAX;
	Recompute	recompute = {.at = -1};
	Datum		args[2];
	int			n = 0;

	for (int i = 0; i < batch->nusers; i++)
	{
		const AudUser *user = &batch->users[i];

		if (!has_stale(batch, user))
			continue;
		ids[n] = user->id;
		lengths[n++] = user->id_len;
		from = Min(from, needed_from(batch, user));
	}
	if (n == 0)
		return;
	recompute.stale = palloc0(naggregates * sizeof(bool));
	recompute.events = palloc0(naggregates * sizeof(AudEvent *));
	recompute.nevents = palloc0(naggregates * sizeof(int));
	recompute.max_events = palloc0(naggregates * sizeof(int));
	recompute.mcxt = AllocSetContextCreate(batch->mcxt, "audience sequence events",
										   ALLOCSET_DEFAULT_SIZES);
	recompute_next(batch, &recompute);
	args[0] = aud_store_text_array(ids, lengths, n);
	args[1] = TimestampTzGetDatum(from);
	stream(batch, AUD_READ_EVENTS, args, recompute_row, &recompute);
	while (recompute.at < batch->nusers)
		recompute_next(batch, &recompute);
	MemoryContextDelete(recompute.mcxt);
}

/*
 * Brings the states of all users that exist to their now.  Afterwards each
 * user's touched list holds what may have changed, and "write" says whether
 * its row must be written.
 */
void
aud_batch_advance(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	RangeList	list = {0};

	for (int i = 0; i < batch->nusers; i++)
	{
		AudUser    *user = &batch->users[i];

		CHECK_FOR_INTERRUPTS();
		if (!user->exists)
			continue;
		for (int a = 0; a < batch->defs->naggregates; a++)
			if (user->rebuild || (batch->refill != NULL && batch->refill[a]))
				mark_stale(batch->defs, user, a);
		fold_events(batch, user);
		move_windows(batch, i, &list);
	}
	if (list.n > 0)
		unfold_ranges(batch, &list);
	recompute_stale(batch);

	for (int i = 0; i < batch->nusers; i++)
	{
		AudUser    *user = &batch->users[i];

		if (!user->exists)
			continue;
		user->write |= user->rebuild || user->nevents > 0 || user->is_new;
		for (int t = 0; t < batch->defs->naggregates && !user->write; t++)
			user->write = user->states[t].changed;
	}
	MemoryContextSwitchTo(old);
}
