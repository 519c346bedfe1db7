/*-------------------------------------------------------------------------
 *
 * aggregate_state.c
 *	  An aggregate's state as bytes, for the profile's row.
 *
 * Numbers are little-endian base-128 ("varint"), signed ones folded so that
 * small magnitudes are short; times are varints of microseconds.  By kind:
 *
 *	  COUNT		count [oldest queue]
 *	  SUM		count [decimal [oldest queue]]
 *	  EDGE		count [time id-length id [value]]
 *	  EXTREME	count [decimal]
 *	  VALUES	count [oldest] n, n times (value | day) count; with more than
 *				the caller allows only n and, where the aggregate is one of
 *				them, a value
 *	  SEQUENCE	holds time
 *
 * before each a byte of flags; what is in brackets only where count > 0, and
 * "oldest" only for sliding windows.  A value is a length and a jsonb; a
 * decimal a scale and a mantissa, or 255, a length and a numeric; a queue a
 * length, and for each event the time since the one before (for the first: the
 * oldest) and a decimal, if it is a sum's.
 *
 * The bytes are the engine's own, written and read by the same code; a
 * reader still never runs past their end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "aggregate.h"
#include "varint.h"

#define FLAG_OVERFLOW		0x01
#define SCALE_IS_NUMERIC	255

/* Appends a decimal. */
static void
append_decimal(StringInfo buf, const AudDecimal *d)
{
	if (d->big != NULL)
	{
		appendStringInfoCharMacro(buf, (char) SCALE_IS_NUMERIC);
		aud_varint_append(buf, VARSIZE(d->big));
		appendBinaryStringInfo(buf, (char *) d->big, VARSIZE(d->big));
	}
	else
	{
		appendStringInfoCharMacro(buf, (char) d->scale);
		aud_varint_append_signed(buf, d->mantissa);
	}
}

/* Appends a jsonb with its length. */
static void
append_value(StringInfo buf, Jsonb *value)
{
	aud_varint_append(buf, VARSIZE(value));
	appendBinaryStringInfo(buf, (char *) value, VARSIZE(value));
}

/* Appends a queue. */
static void
append_queue(StringInfo buf, const AudAggregateDef *def, const AudAggregateState *state)
{
	TimestampTz previous = state->oldest;

	aud_varint_append(buf, state->nqueue);
	for (int i = 0; i < state->nqueue; i++)
	{
		aud_varint_append_signed(buf, state->queue[i].time - previous);
		previous = state->queue[i].time;
		if (def->state == AUD_STATE_SUM)
			append_decimal(buf, &state->queue[i].amount);
	}
}

/* Appends the value of an aggregate over too many of them, if it has one. */
static void
append_overflow_value(StringInfo buf, const AudAggregateDef *def,
					  const AudAggregateState *state)
{
	AudAggregateValue value;
	JsonbValue	room;
	JsonbValue	copy;

	if (aud_aggregate_is_size(def))
		return;
	aud_aggregate_value(def, state, &value);
	copy = *aud_aggregate_json(&value, &room);
	append_value(buf, JsonbValueToJsonb(&copy));
}

/*
 * Appends one state, with at most so many distinct values; the caller frames it
 * with its number and length.
 */
void
aud_state_append(StringInfo buf, const AudAggregateDef *def,
				 const AudAggregateState *state, int max_values)
{
	bool		overflow = state->overflow ||
		(def->state == AUD_STATE_VALUES && state->nvalues > max_values);

	appendStringInfoCharMacro(buf, overflow ? FLAG_OVERFLOW : 0);
	aud_varint_append(buf, state->count);
	if (def->state == AUD_STATE_SEQUENCE)
	{
		aud_varint_append_signed(buf, state->time);
		return;
	}
	if (state->count > 0)
	{
		if (def->state == AUD_STATE_SUM || def->state == AUD_STATE_EXTREME)
			append_decimal(buf, &state->sum);
		if (def->state == AUD_STATE_EDGE)
		{
			aud_varint_append_signed(buf, state->time);
			aud_varint_append(buf, state->id_len);
			appendBinaryStringInfo(buf, state->id, state->id_len);
			if (state->value != NULL)
				append_value(buf, state->value);
		}
		else if (def->last != 0)
			aud_varint_append_signed(buf, state->oldest);
		if (aud_aggregate_has_queue(def))
			append_queue(buf, def, state);
	}
	if (def->state == AUD_STATE_VALUES)
		aud_varint_append(buf, state->nvalues);
	if (overflow)
		append_overflow_value(buf, def, state);
	else if (def->state == AUD_STATE_VALUES)
	{
		for (int i = 0; i < state->nvalues; i++)
		{
			if (def->kind == AUD_AGG_DAYS_ACTIVE)
				aud_varint_append_signed(buf, state->values[i].day);
			else
				append_value(buf, state->values[i].value);
			aud_varint_append(buf, state->values[i].count);
		}
	}
}

/* Reads a numeric or jsonb of "len" bytes into memory of its own, aligned. */
static void *
read_bytes(const char **p, const char *end, uint64 len)
{
	void	   *copy;

	if (len < VARHDRSZ || len > (uint64) (end - *p))
		aud_varint_corrupt();
	copy = palloc(len);
	memcpy(copy, *p, len);
	if (VARATT_IS_EXTENDED(copy) || VARSIZE(copy) != len)
		aud_varint_corrupt();
	*p += len;
	return copy;
}

/* Reads a length or number that is kept in an int. */
static int
read_int(const char **p, const char *end)
{
	uint64		value = aud_varint_read(p, end);

	if (value > INT_MAX)
		aud_varint_corrupt();
	return value;
}

/* Reads what append_decimal wrote. */
static void
read_decimal(const char **p, const char *end, AudDecimal *d)
{
	uint8		scale;

	if (*p >= end)
		aud_varint_corrupt();
	scale = (uint8) *(*p)++;
	d->big = NULL;
	if (scale == SCALE_IS_NUMERIC)
		d->big = read_bytes(p, end, aud_varint_read(p, end));
	else if (scale > AUD_DECIMAL_MAX_SCALE)
		aud_varint_corrupt();
	else
	{
		d->scale = scale;
		d->mantissa = aud_varint_read_signed(p, end);
	}
}

/* Reads what append_queue wrote. */
static void
read_queue(const char **p, const char *end, const AudAggregateDef *def,
		   AudAggregateState *state)
{
	TimestampTz previous = state->oldest;
	uint64		n = aud_varint_read(p, end);

	if (n > AUD_QUEUE_MAX)
		aud_varint_corrupt();
	for (uint64 i = 0; i < n; i++)
	{
		AudDecimal	amount = {0};

		previous += aud_varint_read_signed(p, end);
		if (def->state == AUD_STATE_SUM)
			read_decimal(p, end, &amount);
		aud_queue_append(state, previous, &amount);
	}
}

/*
 * Reads one state from its bytes; what it points to is allocated in the
 * current context, but for an id, which stays where it is.  Returns where the
 * state ends.
 */
const char *
aud_state_read(const char *p, const char *end, const AudAggregateDef *def,
			   AudAggregateState *state)
{
	memset(state, 0, sizeof(*state));
	if (p >= end)
		aud_varint_corrupt();
	state->known = true;
	state->overflow = (*p++ & FLAG_OVERFLOW) != 0;
	state->count = aud_varint_read(&p, end);
	if (state->count < 0)
		aud_varint_corrupt();
	if (def->state == AUD_STATE_SEQUENCE)
	{
		state->time = aud_varint_read_signed(&p, end);
		return p;
	}
	if (state->count > 0)
	{
		if (def->state == AUD_STATE_SUM || def->state == AUD_STATE_EXTREME)
			read_decimal(&p, end, &state->sum);
		if (def->state == AUD_STATE_EDGE)
		{
			state->time = aud_varint_read_signed(&p, end);
			state->id_len = read_int(&p, end);
			if (state->id_len > end - p)
				aud_varint_corrupt();
			state->id = p;
			p += state->id_len;
			if (def->kind == AUD_AGG_FIRST || def->kind == AUD_AGG_LAST)
				state->value = read_bytes(&p, end, aud_varint_read(&p, end));
		}
		else if (def->last != 0)
			state->oldest = aud_varint_read_signed(&p, end);
		if (aud_aggregate_has_queue(def))
			read_queue(&p, end, def, state);
	}
	if (def->state == AUD_STATE_VALUES)
		state->nvalues = state->max_values = read_int(&p, end);
	if (state->overflow)
	{
		if (!aud_aggregate_is_size(def))
			state->value = read_bytes(&p, end, aud_varint_read(&p, end));
	}
	else if (def->state == AUD_STATE_VALUES)
	{
		/* what counts has a value */
		if (state->nvalues > end - p || (state->nvalues == 0 && state->count > 0))
			aud_varint_corrupt();
		state->values = palloc0(state->nvalues * sizeof(AudDistinct));
		for (int i = 0; i < state->nvalues; i++)
		{
			if (def->kind == AUD_AGG_DAYS_ACTIVE)
				state->values[i].day = aud_varint_read_signed(&p, end);
			else
				state->values[i].value = read_bytes(&p, end, aud_varint_read(&p, end));
			state->values[i].count = aud_varint_read(&p, end);
		}
	}
	return p;
}
