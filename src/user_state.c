/*-------------------------------------------------------------------------
 *
 * user_state.c
 *	  The engine's state of one user, as the profile's column "state".
 *
 *	  byte		version (1)
 *	  varint	which of these follow: 1 the horizon, 2 the instant of the timer,
 *				4 the fill up to which the user is whole (while one is going on)
 *	  then		for each aggregate with a state: its number as difference, the
 *				length of what follows, the state (aggregate_state.c)
 *
 * An aggregate that is not there is in its state over no events.  One that is
 * there but no longer defined is passed over, and gone at the next write.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "batch.h"
#include "settings.h"
#include "varint.h"

PG_FUNCTION_INFO_V1(aud_state_timer);

#define STATE_VERSION	1
#define HAS_HORIZON		1
#define HAS_TIMER		2
#define HAS_FILLED		4

/* Is the state what it would be over no events? */
static bool
is_empty(const AudAggregateDef *def, const AudAggregateState *state)
{
	if (def->state == AUD_STATE_SEQUENCE)
		return state->count == 0 && (!state->known || state->time == PG_INT64_MAX);
	return state->count == 0 && !state->overflow;
}

/*
 * Appends the states of all stored aggregates that are not empty, one for each
 * aggregate.  Of more than "max_values" distinct values only their number and
 * what it comes to.
 */
void
aud_states_append(StringInfo buf, const AudDefinitions *defs,
				  const AudAggregateState *states, int max_values)
{
	StringInfoData one;
	int32		previous = 0;

	initStringInfo(&one);
	for (int i = 0; i < defs->naggregates; i++)
	{
		const AudAggregateDef *def = &defs->aggregates[i];

		if (def->number == 0 || is_empty(def, &states[i]))
			continue;
		resetStringInfo(&one);
		aud_state_append(&one, def, &states[i], max_values);
		aud_varint_append(buf, def->number - previous);
		aud_varint_append(buf, one.len);
		appendBinaryStringInfo(buf, one.data, one.len);
		previous = def->number;
	}
	pfree(one.data);
}

/*
 * Reads what aud_states_append wrote, from p up to end, into states, one for
 * each aggregate; those that are not there, or not defined any more, are
 * passed over.  Ids stay in the bytes, which must outlive the states; the rest
 * is allocated in the current context.
 */
void
aud_states_read(const char *p, const char *end, const AudDefinitions *defs,
				AudAggregateState *states)
{
	int32		number = 0;
	int			aggregate = 0;

	while (p < end)
	{
		uint64		len;

		number += aud_varint_read(&p, end);
		len = aud_varint_read(&p, end);
		if (len > (uint64) (end - p))
			aud_varint_corrupt();
		while (aggregate < defs->naggregates &&
			   defs->aggregates[aggregate].number != 0 &&
			   defs->aggregates[aggregate].number < number)
			aggregate++;
		if (aggregate < defs->naggregates &&
			defs->aggregates[aggregate].number == number)
			aud_state_read(p, p + len, &defs->aggregates[aggregate], &states[aggregate]);
		p += len;
	}
}

/* The column's value for a user, palloc'ed. */
bytea *
aud_user_state_write(const AudDefinitions *defs, const AudUser *user)
{
	StringInfoData buf;
	bool		has_filled = defs->newest_pending != 0 && user->filled != 0;

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendStringInfoCharMacro(&buf, STATE_VERSION);
	aud_varint_append(&buf, (user->horizon != PG_INT64_MAX ? HAS_HORIZON : 0) |
					  (user->armed != PG_INT64_MAX ? HAS_TIMER : 0) |
					  (has_filled ? HAS_FILLED : 0));
	if (user->horizon != PG_INT64_MAX)
		aud_varint_append_signed(&buf, user->horizon);
	if (user->armed != PG_INT64_MAX)
		aud_varint_append_signed(&buf, user->armed);
	if (has_filled)
		aud_varint_append(&buf, user->filled);
	aud_states_append(&buf, defs, user->states, aud_max_distinct_values);
	SET_VARSIZE(buf.data, buf.len);
	return (bytea *) buf.data;
}

/*
 * Begins to read the column's value: what comes before the states goes to
 * *horizon, *armed and *filled; returns where the states begin.
 */
static const char *
read_header(const char *p, const char *end, TimestampTz *horizon, TimestampTz *armed,
			int64 *filled)
{
	uint64		has;

	if (p >= end || *p++ != STATE_VERSION)
		aud_varint_corrupt();
	has = aud_varint_read(&p, end);
	*horizon = (has & HAS_HORIZON) ? aud_varint_read_signed(&p, end) : PG_INT64_MAX;
	*armed = (has & HAS_TIMER) ? aud_varint_read_signed(&p, end) : PG_INT64_MAX;
	*filled = (has & HAS_FILLED) ? aud_varint_read(&p, end) : 0;
	return p;
}

/*
 * state_timer(state bytea) → timestamptz: the instant that a profile's timer is
 * set to; null: it has none.
 */
Datum
aud_state_timer(PG_FUNCTION_ARGS)
{
	bytea	   *state = PG_GETARG_BYTEA_PP(0);
	TimestampTz horizon,
				armed;
	int64		filled;

	(void) read_header(VARDATA_ANY(state), VARDATA_ANY(state) + VARSIZE_ANY_EXHDR(state),
					   &horizon, &armed, &filled);
	if (armed == PG_INT64_MAX)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(armed);
}

/*
 * Sets the user's states, horizon and timer from the column's value
 * (NULL: a user without any).  Ids in the states stay in the value, which must
 * outlive the user; the rest is allocated in the current context.
 */
void
aud_user_state_read(const AudDefinitions *defs, AudUser *user, const bytea *state)
{
	const char *p,
			   *end;

	user->states = palloc0(Max(defs->naggregates, 1) * sizeof(AudAggregateState));
	user->horizon = user->armed = PG_INT64_MAX;
	user->filled = 0;
	if (state == NULL)
		return;
	end = VARDATA_ANY(state) + VARSIZE_ANY_EXHDR(state);
	p = read_header(VARDATA_ANY(state), end, &user->horizon, &user->armed, &user->filled);
	aud_states_read(p, end, defs, user->states);
}

/*
 * Sets the instant the user is evaluated for: the later of now and its last
 * evaluation, so that its clock never runs back; without audience.now the
 * latter counts only as far as the real clock has come (SPEC 2.3).
 */
void
aud_user_set_now(AudUser *user, const AudClock *clock)
{
	user->now = clock->now;
	if (user->as_of > user->now)
		user->now = aud_now_is_set() ? user->as_of :
			Max(user->now, Min(user->as_of, GetCurrentTimestamp()));
}

/*
 * Notes the aggregate's value before its state changes, once; only if some
 * leaf looks at it.
 */
void
aud_user_touch(const AudDefinitions *defs, AudUser *user, int aggregate)
{
	AudAggregateState *state = &user->states[aggregate];
	AudTouched *touched;

	if (state->touched)
		return;
	state->touched = true;
	if (defs->routes[aggregate].nleaves == 0)
		return;
	if (user->ntouched == user->max_touched)
	{
		user->max_touched = user->max_touched ? user->max_touched * 2 : 8;
		user->touched = user->touched ?
			repalloc(user->touched, user->max_touched * sizeof(AudTouched)) :
			palloc(user->max_touched * sizeof(AudTouched));
	}
	touched = &user->touched[user->ntouched++];
	touched->aggregate = aggregate;
	aud_aggregate_value(&defs->aggregates[aggregate], state, &touched->before);
}
