/*-------------------------------------------------------------------------
 *
 * due.c
 *	  When time alone may next change a user's memberships.
 *
 * A rule can turn over without an event in these ways:
 *
 *	  a leaf with a relative time operator	its timestamp passes now - d, now + d,
 *											or now + max_future_skew
 *	  a sliding window						its next event leaves
 *	  a sequence							an absent step's time is over, or its
 *											window's edge passes an event
 *	  a "where" that looks at the clock		one of its timestamps is passed
 *
 * The earliest of these instants is the user's due time.  It may come too
 * early (the leaf need not turn over then), never too late.  For a count or
 * sum the queue of next leavers tells which of them first brings the value
 * past a constant that some leaf compares it with, so that a window that loses
 * event after event is not looked at each time.  Leaves do not matter whose
 * rules are all false because of what time does not change (blockers.c).
 *
 * Each function here lowers *due to the next instant that it knows of.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "decider.h"

/* Does any of a route's leaves matter, while only time passes? */
static bool
any_matters(AudDecider *decider, const AudRoute *route)
{
	for (int i = 0; i < route->nleaves; i++)
		if (aud_decider_leaf_matters(decider, route->leaves[i]))
			return true;
	return false;
}

/* May a move of a count or sum turn over a leaf that matters?  If false, it does not. */
static bool
may_turn(AudDecider *decider, const AudRoute *route, const AudAggregateValue *before,
		 const AudAggregateValue *after)
{
	int			first,
				end;

	if (before->kind != AUD_AGGVALUE_NUMBER || after->kind != AUD_AGGVALUE_NUMBER)
		return any_matters(decider, route);
	if (aud_decimal_compare(&before->number, &after->number) == 0)
		return false;
	aud_route_thresholds_between(route, &before->number, &after->number, &first, &end);
	for (; first < end; first++)
		if (aud_decider_leaf_matters(decider, route->thresholds[first].leaf))
			return true;
	for (int i = 0; i < route->nothers; i++)
		if (aud_decider_leaf_matters(decider, route->others[i]))
			return true;
	return false;
}

/*
 * When a count or sum may turn a leaf over by losing events: the first of its
 * next leavers that does, or the last one that is known, if more follow.
 */
static void
look_at_queue(AudDecider *decider, int aggregate, const AudAggregateState *state,
			  TimestampTz *due)
{
	const AudAggregateDef *def = &decider->defs->aggregates[aggregate];
	AudAggregateState ahead = *state;
	AudAggregateValue before,
				after;

	aud_aggregate_value(def, state, &before);
	if (def->kind == AUD_AGG_COUNT)
	{
		/* it only falls: if none at all turns over nothing that matters, nothing on the way does */
		ahead.count = 0;
		aud_aggregate_value(def, &ahead, &after);
		if (!may_turn(decider, &decider->defs->routes[aggregate], &before, &after))
			return;
		ahead.count = state->count;
	}
	for (int i = 0; i < state->nqueue; i++)
	{
		ahead.count--;
		if (def->state == AUD_STATE_SUM)
			aud_decimal_add(&ahead.sum, &state->queue[i].amount, true);
		/* those of one instant leave together */
		if (i + 1 < state->nqueue && state->queue[i + 1].time == state->queue[i].time)
			continue;
		/* the others leave later still */
		if (*due - def->last <= state->queue[i].time)
			return;
		aud_aggregate_value(def, &ahead, &after);
		if (may_turn(decider, &decider->defs->routes[aggregate], &before, &after) ||
			(i + 1 == state->nqueue && state->nqueue < state->count))
		{
			aud_look_at(state->queue[i].time, def->last, &decider->now, due);
			return;
		}
		before = after;
	}
}

/* When an aggregate over a sliding window may next change by time. */
static void
look_at_window(AudDecider *decider, int aggregate, TimestampTz *due)
{
	const AudAggregateDef *def = &decider->defs->aggregates[aggregate];
	const AudAggregateState *state = &decider->user->states[aggregate];

	if (state->count == 0 && !state->overflow)
		return;
	/* an average is not worth looking ahead for: it costs a division each time */
	if (state->nqueue > 0 && def->kind != AUD_AGG_AVG)
		look_at_queue(decider, aggregate, state, due);
	else
		aud_look_at(def->state == AUD_STATE_EDGE ? state->time : state->oldest,
					def->last, &decider->now, due);
}

/*
 * When a sequence, or an aggregate whose "where" moves, may next change.  What
 * was not made anew at the user's now is not known to the instant: the user's
 * timer, set when it was, still holds.
 */
static void
look_at_moving(const AudAggregateDef *def, const AudAggregateState *state, const AudUser *user,
			   const AudClock *clock, TimestampTz *due)
{
	if (def->where_moves)
		aud_look_at(state->fresh ? state->look : user->armed, 0, clock, due);
	if (def->state == AUD_STATE_SEQUENCE && state->known)
		aud_look_at(state->time, 0, clock, due);
}

/* When a leaf with a relative time operator may next turn over. */
static void
look_at_leaf(AudDecider *decider, const AudLeaf *leaf, TimestampTz *due)
{
	const AudAggregateState *state;
	AudAggregateValue value;
	JsonbValue	start,
				room;

	if (leaf->is_instant)
	{
		state = &decider->user->states[leaf->index];
		aud_aggregate_value(&decider->defs->aggregates[leaf->index], state, &value);
		if (value.kind == AUD_AGGVALUE_TIME)
		{
			aud_instant_next_turn(leaf->rule, leaf->node, value.time, &decider->now, due);
			return;
		}
	}
	aud_value_next_turn(leaf->rule, leaf->node,
						aud_decider_leaf_value(decider, leaf, &start, &room),
						&decider->now, due);
}

/*
 * When a within_last or before_last leaf over a time may next turn over: as
 * the time passes the next duration, or, still to come, max_future_skew.
 */
static void
look_at_ages(AudDecider *decider, int aggregate, TimestampTz *due)
{
	const AudRoute *route = &decider->defs->routes[aggregate];
	const AudUser *user = decider->user;
	AudAggregateValue value;
	int			next;

	aud_aggregate_value(&decider->defs->aggregates[aggregate],
						&user->states[aggregate], &value);
	if (value.kind != AUD_AGGVALUE_TIME)
		return;
	next = aud_route_first_age(route, user->now - value.time);
	for (; next < route->nages && *due - route->ages[next].duration > value.time; next++)
		if (aud_decider_leaf_matters(decider, route->ages[next].leaf))
			aud_look_at(value.time, route->ages[next].duration, &decider->now, due);
	aud_look_at(value.time, -decider->now.max_future_skew, &decider->now, due);
}

/*
 * The earliest instant after the user's now, and before "limit", at which time
 * alone may change a membership of the user that the decider has decided;
 * "limit" if there is none.  Allocates in the current context.
 */
TimestampTz
aud_decider_next_change(AudDecider *decider, TimestampTz limit)
{
	const AudDefinitions *defs = decider->defs;
	const AudUser *user = decider->user;
	TimestampTz due = limit;

	if (aud_decider_any_moves(decider))
	{
		for (int i = 0; i < defs->nrelative; i++)
			if (aud_decider_leaf_matters(decider, defs->relative[i]))
				look_at_leaf(decider, &defs->leaves[defs->relative[i]], &due);
		for (int i = 0; i < defs->naged; i++)
			look_at_ages(decider, defs->aged[i], &due);
		for (int w = 0; w < defs->nwindows; w++)
			for (int i = 0; i < defs->windows[w].naggregates; i++)
			{
				int			aggregate = defs->windows[w].aggregates[i];

				if (defs->routes[aggregate].nleaves > 0)
					look_at_window(decider, aggregate, &due);
			}
	}
	/* these tell from the timer what they do not know, whether or not it matters now */
	for (int i = 0; i < defs->nmoving; i++)
		if (defs->routes[defs->moving[i]].nleaves > 0)
			look_at_moving(&defs->aggregates[defs->moving[i]],
						   &user->states[defs->moving[i]], user, &decider->now, &due);
	if (user->horizon != PG_INT64_MAX)
		aud_look_at(user->horizon, -decider->now.max_future_skew, &decider->now, &due);
	return due;
}
