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
 *	  3	what cannot be kept so is made anew from the user's events, and what a
 *		base has kept of those that are gone (event_base.c)
 *
 * Values before are noted for all aggregates that any of this touches.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "event_base.h"
#include "event_feed.h"
#include "event_scan.h"

/* What advancing a batch needs besides it. */
struct AudAdvance
{
	AudBatch   *batch;
	const AudDefinitions *defs;
	AudEventScan *scan;			/* NULL until events must be read */
	bool		feeding;		/* the user's events come from the batch's feed */

	/* while a user's stale states are made anew */
	bool	   *stale;			/* by aggregate */
	AudSequence **sequences;	/* by aggregate; NULL: it is none, or not stale */
	MemoryContext mcxt;			/* of those; reset for each user */
};

/* Marks an aggregate to be made anew, its value before noted. */
static void
mark_stale(const AudDefinitions *defs, AudUser *user, int aggregate)
{
	aud_user_touch(defs, user, aggregate);
	user->states[aggregate].stale = true;
	user->any_stale = true;
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

/* Begins to read a user's events later than "after". */
static AudEventScan *
scan_user(AudAdvance *advance, const AudUser *user, TimestampTz after)
{
	if (advance->scan == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(advance->batch->mcxt);

		advance->scan = aud_event_scan_begin(advance->batch->read_only);
		MemoryContextSwitchTo(old);
	}
	aud_event_scan_user(advance->scan, user->id, user->id_len, after);
	return advance->scan;
}

/* Step 1 for one user. */
static void
fold_events(AudAdvance *advance, AudUser *user)
{
	const AudDefinitions *defs = advance->defs;
	AudClock	clock = clock_before(advance->batch, user);

	for (int e = 0; e < user->nevents; e++)
	{
		AudEvent   *event = &user->events[e];
		const AudEventType *type = aud_definitions_event_type(defs, event->type, event->type_len);

		CHECK_FOR_INTERRUPTS();
		user->first_seen = Min(user->first_seen, event->time);
		user->last_seen = Max(user->last_seen, event->time);
		for (int i = 0; i < type->naggregates; i++)
		{
			int			aggregate = type->aggregates[i];
			const AudAggregateDef *def = &defs->aggregates[aggregate];
			AudAggregateState *state = &user->states[aggregate];

			if (state->stale)
				continue;
			if (def->state == AUD_STATE_SEQUENCE || def->where_moves || state->overflow)
				mark_stale(defs, user, aggregate);
			else
			{
				aud_user_touch(defs, user, aggregate);
				aud_aggregate_fold(def, state, event, &clock);
			}
		}
	}
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
		if (def->kind == AUD_AGG_FIRST || def->kind == AUD_AGG_FIRST_TIME)
			mark_stale(defs, user, aggregate);
		else
		{
			/* the last one is out, so all are */
			aud_user_touch(defs, user, aggregate);
			state->count = 0;
			state->changed = true;
		}
		return false;
	}
	if (state->oldest > edge)
		return false;
	if (state->overflow)
	{
		mark_stale(defs, user, aggregate);
		return false;
	}
	aud_user_touch(defs, user, aggregate);
	state->gone = PG_INT64_MIN;
	if (aud_aggregate_has_queue(def))
	{
		aud_queue_expire(def, state, edge);
		if (state->count == 0 || state->oldest > edge)
			return false;
	}
	state->reading = true;
	return true;
}

/*
 * An event behind the window's edge: into the queues of the aggregates being
 * read for that count it.  False: they are all full, or hold all there is.
 * Full is one too many: that tells whether the last instant is whole.
 */
static bool
queue_event(AudAdvance *advance, AudUser *user, const AudWindow *window,
			AudEvent *event, const AudClock *clock)
{
	bool		wanted = false;

	for (int i = 0; i < window->naggregates; i++)
	{
		const AudAggregateDef *def = &advance->defs->aggregates[window->aggregates[i]];
		AudAggregateState *state = &user->states[window->aggregates[i]];
		AudDecimal	amount = {0};

		if (!state->reading || !aud_aggregate_has_queue(def) ||
			state->nqueue > AUD_QUEUE_MAX || state->nqueue == state->count)
			continue;
		if (aud_aggregate_feeds(def, event->type, event->type_len) &&
			aud_aggregate_counts(def, event, clock, &amount))
			aud_queue_append(state, event->time, &amount);
		wanted |= state->nqueue <= AUD_QUEUE_MAX && state->nqueue < state->count;
	}
	return wanted;
}

/*
 * Sets what is the oldest event of an aggregate that has been read for.
 * "first" is the first event behind the edge (PG_INT64_MAX: there is none);
 * for queues, those up to "upto" have been looked at; "all": there are no
 * later ones.
 */
static void
finish_reading(const AudAggregateDef *def, AudAggregateState *state,
			   TimestampTz first, TimestampTz upto, bool all)
{
	state->reading = false;
	if (state->stale || state->count == 0)
		return;
	if (aud_aggregate_has_queue(def))
	{
		/* others of the last instant may not have been seen, or had no room */
		if (state->nqueue > AUD_QUEUE_MAX)
			aud_queue_cut(state, state->queue[AUD_QUEUE_MAX].time);
		else if (!all && state->nqueue < state->count)
			aud_queue_cut(state, upto);
		if (state->nqueue > 0)
		{
			state->oldest = state->queue[0].time;
			return;
		}
	}
	/* if none is left, but some are counted, events have gone */
	if (first == PG_INT64_MAX)
		state->stale = true;
	else
		state->oldest = first;
}

/* events that are looked at to fill queues, at most */
#define QUEUE_LOOK_AHEAD	100

/*
 * Takes the events between a window's edge at as_of and its edge now out of
 * the aggregates being read for; those behind it, as far as needed, fill their
 * queues, and tell what is the oldest now.
 */
static void
unfold_window(AudAdvance *advance, AudUser *user, const AudWindow *window)
{
	AudClock	clock = clock_before(advance->batch, user);
	TimestampTz edge = user->now - window->last;
	AudEventScan *scan = scan_user(advance, user, user->as_of - window->last);
	AudEvent	event;
	TimestampTz first;
	int			looked = 0;
	bool		more;

	while ((more = aud_event_scan_next(scan, &event)) && event.time <= edge)
		for (int i = 0; i < window->naggregates; i++)
		{
			const AudAggregateDef *def = &advance->defs->aggregates[window->aggregates[i]];
			AudAggregateState *state = &user->states[window->aggregates[i]];

			if (state->reading && event.time > state->gone &&
				aud_aggregate_feeds(def, event.type, event.type_len))
				aud_aggregate_unfold(def, state, &event, &clock);
		}
	first = more ? event.time : PG_INT64_MAX;
	while (more && queue_event(advance, user, window, &event, &clock) &&
		   looked++ < QUEUE_LOOK_AHEAD)
		more = aud_event_scan_next(scan, &event);
	for (int i = 0; i < window->naggregates; i++)
	{
		AudAggregateState *state = &user->states[window->aggregates[i]];

		if (state->reading)
			finish_reading(&advance->defs->aggregates[window->aggregates[i]], state,
						   first, event.time, !more);
		user->any_stale |= state->stale;
	}
}

/* Step 2 for one user; also finds what the passing of time makes stale. */
static void
move_windows(AudAdvance *advance, AudUser *user)
{
	const AudDefinitions *defs = advance->defs;
	bool		back = user->now < user->as_of ||
		user->horizon <= user->now + advance->batch->clock.max_future_skew;

	/*
	 * A segment being filled, now or later, may be the first to ask for an
	 * aggregate whose "where" moves: for its timer that must be looked at, too.
	 */
	if (user->now == user->as_of && !back && !advance->batch->expiring &&
		advance->batch->fill == NULL && user->filled >= defs->newest_pending)
		return;
	if (back)
		user->horizon = PG_INT64_MAX;
	for (int i = 0; i < defs->nmoving; i++)
	{
		const AudAggregateState *state = &user->states[defs->moving[i]];

		if (back || (state->known && state->time <= user->now) ||
			defs->aggregates[defs->moving[i]].where_moves)
			mark_stale(defs, user, defs->moving[i]);
	}
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
			unfold_window(advance, user, window);
	}
}

/*
 * If an aggregate without a state is over no events now, was it at the user's
 * last evaluation, too?  Then it need not be written: the row says for which
 * instant it is.  "any": there are events that it may look at.  Those that have
 * left its window since are found when the events are read (recompute).
 */
static bool
is_empty_if_now(const AudAggregateDef *def, bool any)
{
	return !any || (def->state != AUD_STATE_SEQUENCE && !def->where_moves);
}

/*
 * Where events have been deleted (retention), the stale states of aggregates
 * over all of time, and first and last seen of a rebuild, begin with what the
 * user's base has kept of them.  They have been emptied.
 */
static void
begin_with_base(AudAdvance *advance, AudUser *user)
{
	const AudDefinitions *defs = advance->defs;
	AudEventBase base;
	bool		needed = user->rebuild;

	if (defs->events_from == DT_NOBEGIN)
		return;
	for (int i = 0; !needed && i < defs->naggregates; i++)
		needed = advance->stale[i] && defs->aggregates[i].number != 0 &&
			aud_aggregate_has_base(&defs->aggregates[i]);
	if (!needed ||
		!aud_event_base_load(defs, user->id, user->id_len, advance->batch->read_only, &base))
		return;
	for (int i = 0; i < defs->naggregates; i++)
	{
		AudAggregateState *state = &user->states[i];

		if (!advance->stale[i] || !base.states[i].known)
			continue;
		*state = base.states[i];
		state->touched = state->changed = state->fresh = true;
		state->look = PG_INT64_MAX;
	}
	if (user->rebuild)
	{
		user->first_seen = base.first_seen;
		user->last_seen = base.last_seen;
	}
}

/*
 * Empties the states that are stale, and notes which they were.  "any": the user
 * has events that they may look at.
 */
static void
begin_recompute(AudAdvance *advance, AudUser *user, bool any)
{
	int			naggregates = advance->defs->naggregates;
	AudClock	clock = clock_after(advance->batch, user);
	MemoryContext old;

	if (advance->stale == NULL)
	{
		old = MemoryContextSwitchTo(advance->batch->mcxt);
		advance->stale = palloc(Max(naggregates, 1) * sizeof(bool));
		advance->sequences = palloc(Max(naggregates, 1) * sizeof(AudSequence *));
		advance->mcxt = AllocSetContextCreate(advance->batch->mcxt, "audience sequences",
											  ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(old);
	}
	MemoryContextReset(advance->mcxt);
	for (int i = 0; i < naggregates; i++)
	{
		AudAggregateState *state = &user->states[i];

		advance->stale[i] = state->stale;
		advance->sequences[i] = NULL;
		if (state->stale)
		{
			bool		unwritten = !state->known &&
				is_empty_if_now(&advance->defs->aggregates[i], any);

			memset(state, 0, sizeof(*state));
			state->changed = !unwritten;
			state->touched = state->known = state->fresh = true;
			state->look = PG_INT64_MAX;
			if (advance->defs->aggregates[i].state == AUD_STATE_SEQUENCE)
			{
				state->time = PG_INT64_MAX;
				old = MemoryContextSwitchTo(advance->mcxt);
				advance->sequences[i] = aud_sequence_begin(&advance->defs->aggregates[i], &clock);
				MemoryContextSwitchTo(old);
			}
		}
	}
	if (user->rebuild)
	{
		user->first_seen = PG_INT64_MAX;
		user->last_seen = PG_INT64_MIN;
		user->horizon = PG_INT64_MAX;
	}
	begin_with_base(advance, user);
}

/*
 * The instant behind which lies all that a user's stale states need; of those
 * that are not stored also what they would have held at the last evaluation.
 */
static TimestampTz
needed_from(const AudDefinitions *defs, const AudUser *user)
{
	TimestampTz from = PG_INT64_MAX;

	if (user->rebuild)
		return DT_NOBEGIN;
	for (int i = 0; i < defs->naggregates; i++)
	{
		const AudAggregateDef *def = &defs->aggregates[i];

		if (!user->states[i].stale)
			continue;
		if (def->last != 0)
			from = Min(from, (user->states[i].known ? user->now : Min(user->as_of, user->now)) - def->last);
		else if (def->from != PG_INT64_MIN)
			from = Min(from, def->from - 1);
		else
			return DT_NOBEGIN;
	}
	return from;
}

/* Does the batch's feed hold all that the user's stale states need? */
static bool
is_fed(const AudBatch *batch, const AudUser *user)
{
	if (batch->feed == NULL || user->rebuild)
		return false;
	Assert(batch->refill != NULL);
	for (int i = 0; i < batch->defs->naggregates; i++)
		if (user->states[i].stale && !batch->refill[i])
			return false;
	return true;
}

/* The next of the events that a user's stale states are made from, false: no more. */
static bool
next_event(AudAdvance *advance, AudEvent *event)
{
	return advance->feeding ? aud_event_feed_next(advance->batch->feed, event) :
		aud_event_scan_next(advance->scan, event);
}

/*
 * Had an event that is not in the aggregate's window now been in it at the
 * user's last evaluation?  A feed holds only what counts, and no properties of
 * what has left the windows.
 */
static bool
has_counted(const AudAdvance *advance, const AudUser *user, const AudAggregateDef *def,
			AudEvent *event)
{
	AudClock	clock = clock_after(advance->batch, user);

	if (def->last == 0 || event->time <= user->as_of - def->last ||
		(event->time > clock.now - def->last && event->time <= clock.now + clock.max_future_skew))
		return false;
	return advance->feeding || aud_aggregate_matches(def, event, &clock);
}

/* Step 3 for one user. */
static void
recompute(AudAdvance *advance, AudUser *user)
{
	const AudDefinitions *defs = advance->defs;
	AudClock	clock = clock_after(advance->batch, user);
	AudEvent	event;
	bool		any = user->last_seen != PG_INT64_MIN;

	advance->feeding = is_fed(advance->batch, user);
	if (advance->feeding)
		any = aud_event_feed_user(advance->batch->feed, user->id, user->id_len);
	else
		(void) scan_user(advance, user, needed_from(defs, user));
	begin_recompute(advance, user, any);
	while (next_event(advance, &event))
	{
		const AudEventType *type = aud_definitions_event_type(defs, event.type, event.type_len);

		if (event.time > user->now + clock.max_future_skew)
			user->horizon = Min(user->horizon, event.time);
		if (user->rebuild)
		{
			user->first_seen = Min(user->first_seen, event.time);
			user->last_seen = Max(user->last_seen, event.time);
		}
		for (int i = 0; i < type->naggregates; i++)
		{
			int			aggregate = type->aggregates[i];

			if (!advance->stale[aggregate])
				continue;
			if (!user->states[aggregate].changed)
				user->states[aggregate].changed =
					has_counted(advance, user, &defs->aggregates[aggregate], &event);
			if (defs->aggregates[aggregate].where_moves)
				aud_aggregate_look(&defs->aggregates[aggregate],
								   &user->states[aggregate], &event, &clock);
			if (advance->sequences[aggregate] != NULL)
				aud_sequence_take(advance->sequences[aggregate], &event);
			else
				aud_aggregate_fold(&defs->aggregates[aggregate],
								   &user->states[aggregate], &event, &clock);
		}
	}
	for (int i = 0; i < defs->naggregates; i++)
		if (advance->sequences[i] != NULL)
			aud_sequence_end(advance->sequences[i], &user->states[i]);
}

/* Must the user's row be written, for what has been done to its states? */
static bool
is_changed(const AudBatch *batch, const AudUser *user)
{
	if (user->rebuild || user->nevents > 0 || user->is_new)
		return true;
	for (int i = 0; i < batch->defs->naggregates; i++)
		if (user->states[i].changed)
			return true;
	return false;
}

/* Prepares for advancing users of a batch, in its memory context. */
AudAdvance *
aud_advance_begin(AudBatch *batch)
{
	AudAdvance *advance = MemoryContextAllocZero(batch->mcxt, sizeof(AudAdvance));

	advance->batch = batch;
	advance->defs = batch->defs;
	return advance;
}

/*
 * Brings a user's states to its now.  Afterwards its touched list holds what
 * may have changed, and "write" says whether its row must be written.  What
 * the states point to is allocated in the current context.
 */
void
aud_advance_user(AudAdvance *advance, AudUser *user)
{
	const AudBatch *batch = advance->batch;

	if (user->rebuild || batch->refill != NULL)
		for (int a = 0; a < batch->defs->naggregates; a++)
			if (user->rebuild || batch->refill[a])
				mark_stale(batch->defs, user, a);
	for (int i = 0; i < batch->defs->npending_aggregates; i++)
		if (batch->defs->aggregates[batch->defs->pending_aggregates[i]].pending > user->filled)
			mark_stale(batch->defs, user, batch->defs->pending_aggregates[i]);
	fold_events(advance, user);
	move_windows(advance, user);
	if (user->any_stale || user->rebuild)
		recompute(advance, user);
	user->write |= is_changed(batch, user);
}

/* Lets go of what advancing has taken. */
void
aud_advance_end(AudAdvance *advance)
{
	if (advance->scan != NULL)
		aud_event_scan_end(advance->scan);
}

/* Advances all users of a batch that exist. */
void
aud_batch_advance(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	AudAdvance *advance = aud_advance_begin(batch);

	for (int i = 0; i < batch->nusers; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (batch->users[i].exists)
			aud_advance_user(advance, &batch->users[i]);
	}
	aud_advance_end(advance);
	MemoryContextSwitchTo(old);
}
