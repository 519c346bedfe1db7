/*-------------------------------------------------------------------------
 *
 * sequence.c
 *	  Does a user's history hold a sequence of events?
 *
 * An event is reached by a present step if some event reached by the present
 * step before it stands before it, near enough, with none of the forbidden
 * events between.  Nearness and absence both get easier the later the earlier
 * event is, so for each event only the latest one reached before it need be
 * tried.  Hence a step needs to know of but one event before, and the events can
 * be looked at one after the other as they are read: however many a user has,
 * nothing of them is kept.
 *
 * With a last absent step, those that the last present one has reached wait for
 * the next forbidden event.  When it comes, each of them is far enough before it,
 * and stays, or is out; of those that stay it only matters whether one's
 * time is over, and when that of the first of the others will be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "aggregate.h"

/* a present step, while events are looked at */
typedef struct PresentStep
{
	const AudNode *step;
	const AudNode *absent;		/* the first of the absent steps before it */
	int			nabsent;
	bool		any;			/* the step before has reached an event, */
	TimestampTz before;			/* the latest of them, */
	bool		blocked;		/* and a forbidden event has come since */
} PresentStep;

struct AudSequence
{
	const AudAggregateDef *def;
	AudClock	clock;
	TimestampTz due;			/* the next instant at which time alone may change it */
	bool		holds;			/* whatever may come */

	/* a last absent step; NULL: there is none */
	const AudNode *last_absent;
	TimestampTz at;				/* of the event looked at last */
	bool		reached_now;	/* one of that time has been reached */
	TimestampTz earliest;		/* reached earlier, and waiting: the first, PG_INT64_MAX: none; */
	TimestampTz earliest_open;	/* the first whose time is not over */

	int			nsteps;
	PresentStep steps[FLEXIBLE_ARRAY_MEMBER];
};

/* Is the event one that the step speaks of? */
static bool
step_matches(const AudAggregateDef *def, const AudNode *step, AudEvent *event,
			 const AudClock *clock)
{
	const AudRule *rule = def->rule;
	AudEventDoc doc;

	if (!aud_names_match(rule, step, event->type, event->type_len))
		return false;
	if (step->nchildren == 0)
		return true;
	aud_event_detoast(event, def->reads_context);
	aud_event_doc_init(&doc, clock, event->type, event->type_len, event->time,
					   event->id, event->id_len,
					   event->properties, event->context);
	return aud_eval_node(rule, AUD_FIRST_CHILD(step), &doc.doc);
}

/* Is the event one that one of "n" steps, the first of which is "step", speaks of? */
static bool
any_step_matches(const AudAggregateDef *def, const AudNode *step, int n,
				 AudEvent *event, const AudClock *clock)
{
	for (; n > 0; n--, step = AUD_NEXT_SIBLING(step))
		if (step_matches(def, step, event, clock))
			return true;
	return false;
}

/* Is the instant in the sequence's window? */
static bool
in_window(const AudAggregateDef *def, TimestampTz t, const AudClock *clock)
{
	if (def->last != 0)
		return t > clock->now - def->last &&
			t <= clock->now + clock->max_future_skew;
	return t >= def->from && t < def->to;
}

/*
 * Begins to evaluate a SEQUENCE node as of the clock; allocated in the current
 * context.
 */
AudSequence *
aud_sequence_begin(const AudAggregateDef *def, const AudClock *clock)
{
	AudSequence *sequence = palloc0(offsetof(AudSequence, steps) +
									def->node->nchildren * sizeof(PresentStep));
	const AudNode *step = AUD_FIRST_CHILD(def->node);
	const AudNode *absent = NULL;	/* the first of those since the last present step */
	int			nabsent = 0;

	sequence->def = def;
	sequence->clock = *clock;
	sequence->due = sequence->earliest = sequence->earliest_open = PG_INT64_MAX;
	sequence->at = PG_INT64_MIN;
	for (uint32 i = 0; i < def->node->nchildren; i++, step = AUD_NEXT_SIBLING(step))
	{
		if (step->flags & AUD_ABSENT)
		{
			if (nabsent++ == 0)
				absent = step;
		}
		else
		{
			PresentStep *present = &sequence->steps[sequence->nsteps++];

			present->step = step;
			present->absent = absent;
			present->nabsent = nabsent;
			nabsent = 0;
		}
	}
	/* the first step is present: rule_read_event.c sees to it */
	Assert(sequence->nsteps > 0 && sequence->steps[0].nabsent == 0);
	if (nabsent > 0)
		sequence->last_absent = absent;
	return sequence;
}

/* Does a present step reach the event? */
static bool
reaches(AudSequence *sequence, int i, AudEvent *event)
{
	const AudAggregateDef *def = sequence->def;
	const PresentStep *present = &sequence->steps[i];

	if (!in_window(def, event->time, &sequence->clock) ||
		(i > 0 && !present->any) ||
		!step_matches(def, present->step, event, &sequence->clock))
		return false;
	if (def->last != 0)
		aud_look_at(event->time, def->last, &sequence->clock, &sequence->due);
	return i == 0 ||
		(!present->blocked &&
		 (!(present->step->flags & AUD_HAS_WITHIN) ||
		  event->time - present->before <= present->step->arg.within));
}

/* Is an instant further before a forbidden event than so long?  PG_INT64_MAX: there is none. */
static inline bool
is_clear(TimestampTz t, TimestampTz forbidden, int64 within)
{
	return forbidden == PG_INT64_MAX || forbidden - t > within;
}

/*
 * A forbidden event has come, or (PG_INT64_MAX) there is no more: those that
 * wait, and are far enough before it, stay, and nobody waits any more.
 */
static void
settle_waiting(AudSequence *sequence, TimestampTz forbidden)
{
	int64		within = sequence->last_absent->arg.within;

	if (sequence->earliest != PG_INT64_MAX &&
		is_clear(sequence->earliest, forbidden, within) &&
		sequence->clock.now - sequence->earliest > within)
		sequence->holds = true;
	if (sequence->earliest_open != PG_INT64_MAX &&
		is_clear(sequence->earliest_open, forbidden, within))
		aud_look_at(sequence->earliest_open, within + 1, &sequence->clock, &sequence->due);
	sequence->earliest = sequence->earliest_open = PG_INT64_MAX;
}

/* To another instant: what was reached at the one before waits from now on. */
static void
move_on(AudSequence *sequence, TimestampTz time)
{
	if (sequence->reached_now)
	{
		if (sequence->earliest == PG_INT64_MAX)
			sequence->earliest = sequence->at;
		if (sequence->earliest_open == PG_INT64_MAX &&
			sequence->clock.now - sequence->at <= sequence->last_absent->arg.within)
			sequence->earliest_open = sequence->at;
	}
	sequence->reached_now = false;
	sequence->at = time;
}

/*
 * Takes the user's next event that one of the steps may speak of: they come in
 * their order.
 */
void
aud_sequence_take(AudSequence *sequence, AudEvent *event)
{
	const AudAggregateDef *def = sequence->def;

	if (sequence->last_absent != NULL && event->time != sequence->at)
		move_on(sequence, event->time);

	/* the last step first: what this event is to the one before it comes after that */
	for (int i = sequence->nsteps - 1; i >= 0; i--)
	{
		PresentStep *next = i + 1 < sequence->nsteps ? &sequence->steps[i + 1] : NULL;
		bool		reached = reaches(sequence, i, event);

		if (next == NULL)
		{
			if (reached && sequence->last_absent == NULL)
				sequence->holds = true;
			else if (reached)
				sequence->reached_now = true;
		}
		else if (reached)
		{
			next->any = true;
			next->before = event->time;
			next->blocked = false;
		}
		else if (next->any && !next->blocked)
			next->blocked = any_step_matches(def, next->absent, next->nabsent, event, &sequence->clock);
	}
	/* events of the same instant are not after one another here */
	if (sequence->last_absent != NULL && sequence->earliest != PG_INT64_MAX &&
		step_matches(def, sequence->last_absent, event, &sequence->clock))
		settle_waiting(sequence, event->time);
}

/*
 * All events have been taken.  Sets state->count to 1 or 0 and state->time to
 * the next instant at which that may change by time alone (no later).
 */
void
aud_sequence_end(AudSequence *sequence, AudAggregateState *state)
{
	if (sequence->last_absent != NULL)
	{
		move_on(sequence, PG_INT64_MAX);
		settle_waiting(sequence, PG_INT64_MAX);
	}
	state->changed |= state->count != sequence->holds || state->time != sequence->due;
	state->count = sequence->holds;
	state->time = sequence->due;
	state->known = true;
}
