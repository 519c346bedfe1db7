/*-------------------------------------------------------------------------
 *
 * sequence.c
 *	  Does a user's history hold a sequence of events?
 *
 * Dynamic programming over the steps.  An event is reached by a present step
 * if some event reached by the present step before it stands before it, near
 * enough, with none of the forbidden events between.  Nearness and absence
 * both get easier the later the earlier event is, so for each event only the
 * latest one reached before it need be tried, and a step costs one pass over
 * the events.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "aggregate.h"

/* Is the event one that the step speaks of? */
static bool
step_matches(const AudRule *rule, const AudNode *step, const AudEvent *event,
			 const AudClock *clock)
{
	AudEventDoc doc;

	if (!aud_names_match(rule, step, event->type, event->type_len))
		return false;
	if (step->nchildren == 0)
		return true;
	aud_event_doc_init(&doc, clock, event->type, event->type_len, event->time,
					   event->id, event->id_len,
					   event->properties, event->context);
	return aud_eval_node(rule, AUD_FIRST_CHILD(step), &doc.doc);
}

/* Is the event one that one of "n" steps, the first of which is "step", speaks of? */
static bool
any_step_matches(const AudRule *rule, const AudNode *step, int n,
				 const AudEvent *event, const AudClock *clock)
{
	for (; n > 0; n--, step = AUD_NEXT_SIBLING(step))
		if (step_matches(rule, step, event, clock))
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
 * One present step: from the events reached so far to those that it reaches.
 * "absent" is the first of the "nabsent" absent steps before it; reached is
 * NULL for the first step.
 */
static bool *
take_step(const AudAggregateDef *def, const AudNode *step, const AudNode *absent, int nabsent,
		  const bool *reached, const AudEvent *events, int nevents,
		  const AudClock *clock, TimestampTz *due)
{
	bool	   *result = palloc0(nevents * sizeof(bool));
	int			before = -1;	/* the latest event reached */
	bool		blocked = false;	/* a forbidden event since */

	for (int i = 0; i < nevents; i++)
	{
		const AudEvent *event = &events[i];

		CHECK_FOR_INTERRUPTS();
		if (in_window(def, event->time, clock) &&
			(reached == NULL || before >= 0) &&
			step_matches(def->rule, step, event, clock))
		{
			if (def->last != 0)
				aud_look_at(event->time, def->last, clock, due);
			if (reached == NULL)
				result[i] = true;
			else
				result[i] = !blocked &&
					(!(step->flags & AUD_HAS_WITHIN) ||
					 event->time - events[before].time <= step->arg.within);
		}
		/* only now may this event be the one before, or forbidden */
		if (reached != NULL && reached[i])
		{
			before = i;
			blocked = false;
		}
		else if (any_step_matches(def->rule, absent, nabsent, event, clock))
			blocked = true;
	}
	return result;
}

/*
 * A last absent step: does one of the events reached have none of the
 * forbidden within the step's time, and is that time over?
 */
static bool
stays_absent(const AudAggregateDef *def, const AudNode *step,
			 const bool *reached, const AudEvent *events, int nevents,
			 const AudClock *clock, TimestampTz *due)
{
	TimestampTz next = PG_INT64_MAX;	/* the nearest forbidden event later than i's time */
	TimestampTz next_same = PG_INT64_MAX;	/* as next, for the time of the group above */
	bool		holds = false;

	for (int i = nevents - 1; i >= 0; i--)
	{
		CHECK_FOR_INTERRUPTS();
		/* events of the same instant are not after one another here */
		if (i == nevents - 1 || events[i].time != events[i + 1].time)
			next = Min(next, next_same);
		if (reached[i] &&
			(next == PG_INT64_MAX || next - events[i].time > step->arg.within))
		{
			if (clock->now - events[i].time > step->arg.within)
				holds = true;
			else
				aud_look_at(events[i].time, step->arg.within + 1, clock, due);
		}
		if (step_matches(def->rule, step, &events[i], clock))
			next_same = events[i].time;
	}
	return holds;
}

/*
 * Evaluates a SEQUENCE node over all events of a user that its steps speak
 * of, in their order.  Sets state->count to 1 or 0 and state->time to the
 * next instant at which that may change by time alone (no later).
 */
void
aud_sequence_evaluate(const AudAggregateDef *def, AudAggregateState *state,
					  const AudEvent *events, int nevents, const AudClock *clock)
{
	const AudNode *step = AUD_FIRST_CHILD(def->node);
	const AudNode *absent = NULL;	/* the first of those since the last present step */
	int			nabsent = 0;
	bool	   *reached = NULL;
	bool		holds = false;
	TimestampTz due = PG_INT64_MAX;

	for (uint32 i = 0; i < def->node->nchildren; i++, step = AUD_NEXT_SIBLING(step))
	{
		if (step->flags & AUD_ABSENT)
		{
			if (nabsent++ == 0)
				absent = step;
		}
		else
		{
			reached = take_step(def, step, absent, nabsent, reached,
								events, nevents, clock, &due);
			nabsent = 0;
		}
	}
	/* the first step is present: rule_read_event.c sees to it */
	Assert(reached != NULL);
	if (nabsent > 0)
		holds = stays_absent(def, absent, reached, events, nevents, clock, &due);
	else
		for (int i = 0; i < nevents && !holds; i++)
			holds = reached[i];

	state->changed |= state->count != holds || state->time != due;
	state->count = holds;
	state->time = due;
	state->known = true;
}
