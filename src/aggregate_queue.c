/*-------------------------------------------------------------------------
 *
 * aggregate_queue.c
 *	  The next events to leave a sliding window, kept with a count or sum.
 *
 * Without it, whoever is seen again and again would have a little of the
 * events read each time, since each time some have left the window.  With it,
 * AUD_QUEUE_MAX events leave before the events are read, and reading fills it
 * again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "aggregate.h"

/* Puts an event at a position. */
static void
put(AudAggregateState *state, int at, TimestampTz time, const AudDecimal *amount)
{
	if (state->queue == NULL)
		state->queue = palloc((AUD_QUEUE_MAX + 1) * sizeof(AudQueued));
	memmove(&state->queue[at + 1], &state->queue[at],
			(state->nqueue - at) * sizeof(AudQueued));
	state->queue[at].time = time;
	if (amount != NULL)
		state->queue[at].amount = *amount;
	state->nqueue++;
}

/*
 * A new event is about to be counted: it belongs into the queue if that holds
 * all events, or its time is before the last one's.
 */
void
aud_queue_insert(AudAggregateState *state, TimestampTz time, const AudDecimal *amount)
{
	int			at = state->nqueue;

	if (state->nqueue != state->count &&
		(state->nqueue == 0 || time > state->queue[state->nqueue - 1].time))
		return;
	while (at > 0 && state->queue[at - 1].time > time)
		at--;
	put(state, at, time, amount);
	if (state->nqueue > AUD_QUEUE_MAX)
		aud_queue_cut(state, state->queue[AUD_QUEUE_MAX].time);
}

/* Adds an event, the next one in order, to a queue that has room. */
void
aud_queue_append(AudAggregateState *state, TimestampTz time, const AudDecimal *amount)
{
	put(state, state->nqueue, time, amount);
}

/*
 * Takes the events of this time and later out of the queue; there may be more
 * of them that it does not hold.
 */
void
aud_queue_cut(AudAggregateState *state, TimestampTz time)
{
	while (state->nqueue > 0 && state->queue[state->nqueue - 1].time >= time)
		state->nqueue--;
}

/* Lets the queued events up to the window's edge leave. */
void
aud_queue_expire(const AudAggregateDef *def, AudAggregateState *state, TimestampTz edge)
{
	int			n = 0;

	while (n < state->nqueue && state->queue[n].time <= edge)
	{
		state->count--;
		if (def->state == AUD_STATE_SUM)
			aud_decimal_add(&state->sum, &state->queue[n].amount, true);
		n++;
	}
	if (n == 0)
		return;
	state->changed = true;
	state->gone = state->queue[n - 1].time;
	state->nqueue -= n;
	memmove(state->queue, &state->queue[n], state->nqueue * sizeof(AudQueued));
	if (state->nqueue > 0)
		state->oldest = state->queue[0].time;
}
