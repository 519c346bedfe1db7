/*-------------------------------------------------------------------------
 *
 * event_base.c
 *	  What is kept of a user's events that retention has deleted: its base.
 *
 * A user's events are, at any time, those in table events and those that its
 * base has counted, none in both.  For each aggregate over all of time the
 * base holds the state over the latter, whole, however many distinct values;
 * a state that is made anew begins with it.  Aggregates with a sliding
 * window, sequences, and those whose "where" looks at the clock need the
 * events themselves: nothing that they need is deleted (retention.c).
 *
 * The column "states" is a version byte and what aud_states_append writes.
 *
 * Whoever writes a base holds the user's profile, as everybody does who
 * changes what a user's state is made of.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "event_base.h"
#include "store.h"
#include "varint.h"

PG_FUNCTION_INFO_V1(aud_event_base_items);
PG_FUNCTION_INFO_V1(aud_event_bases_merge);

#define STATES_VERSION	1

/* The base over no events, its states in the current context. */
void
aud_event_base_init(const AudDefinitions *defs, AudEventBase *base)
{
	base->complete_from = DT_NOBEGIN;
	base->first_seen = PG_INT64_MAX;
	base->last_seen = PG_INT64_MIN;
	base->nevents = 0;
	base->states = palloc0(Max(defs->naggregates, 1) * sizeof(AudAggregateState));
}

/*
 * Reads column "states" into base->states; ids stay in the value, which must
 * outlive them, the rest is allocated in the current context.
 */
static void
read_states(const AudDefinitions *defs, AudEventBase *base, const bytea *value)
{
	const char *p = VARDATA_ANY(value);
	const char *end = p + VARSIZE_ANY_EXHDR(value);

	if (p >= end || *p++ != STATES_VERSION)
		aud_varint_corrupt();
	aud_states_read(p, end, defs, base->states);
}

/*
 * Reads a user's base, allocated in the current context; false, and the base
 * over no events, if it has none.  What is read is as a statement sees it that
 * begins now, or with read_only what the active snapshot sees.  Works whether
 * or not the caller has connected to SPI.
 */
bool
aud_event_base_load(const AudDefinitions *defs, const char *user_id, int len,
					bool read_only, AudEventBase *base)
{
	MemoryContext mcxt = CurrentMemoryContext;
	Datum		args[1];
	bytea	   *value = NULL;

	aud_event_base_init(defs, base);
	/* the caller may be within another statement of the engine's */
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	args[0] = aud_store_text_array(&user_id, &len, 1);
	if (aud_store_execute(AUD_READ_BASES, args, NULL, read_only) > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		bool		isnull;

		base->complete_from = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, 2, &isnull));
		base->first_seen = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, 3, &isnull));
		base->last_seen = DatumGetTimestampTz(SPI_getbinval(tuple, tupdesc, 4, &isnull));
		base->nevents = DatumGetInt64(SPI_getbinval(tuple, tupdesc, 5, &isnull));
		MemoryContextSwitchTo(mcxt);
		value = DatumGetByteaPCopy(SPI_getbinval(tuple, tupdesc, 6, &isnull));
	}
	SPI_finish();
	MemoryContextSwitchTo(mcxt);
	if (value == NULL)
		return false;
	read_states(defs, base, value);
	for (int i = 0; i < defs->naggregates; i++)
		base->states[i].fresh = true;
	return true;
}

/*
 * Counts an event that is being deleted.  What the states keep of it is
 * allocated in the current context.
 */
void
aud_event_base_fold(const AudDefinitions *defs, AudEventBase *base, AudEvent *event)
{
	const AudEventType *type = aud_definitions_event_type(defs, event->type, event->type_len);
	AudClock	clock = {0};	/* nobody here looks at it */

	base->nevents++;
	base->first_seen = Min(base->first_seen, event->time);
	base->last_seen = Max(base->last_seen, event->time);
	for (int i = 0; i < type->naggregates; i++)
	{
		const AudAggregateDef *def = &defs->aggregates[type->aggregates[i]];

		if (aud_aggregate_has_base(def))
			aud_aggregate_fold(def, &base->states[type->aggregates[i]], event, &clock);
	}
}

/* Column "states" of a base, palloc'ed. */
static bytea *
write_states(const AudDefinitions *defs, const AudEventBase *base)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendStringInfoCharMacro(&buf, STATES_VERSION);
	aud_states_append(&buf, defs, base->states, INT_MAX);
	SET_VARSIZE(buf.data, buf.len);
	return (bytea *) buf.data;
}

/* Writes the bases of n users, which have counted some event.  Connected to SPI. */
void
aud_event_bases_write(const AudDefinitions *defs, const char *const *ids,
					  const int *lengths, const AudEventBase *bases, int n)
{
	Datum	   *columns[5];
	Datum		args[6];

	if (n == 0)
		return;
	for (size_t i = 0; i < lengthof(columns); i++)
		columns[i] = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		columns[0][i] = TimestampTzGetDatum(bases[i].complete_from);
		columns[1][i] = TimestampTzGetDatum(bases[i].first_seen);
		columns[2][i] = TimestampTzGetDatum(bases[i].last_seen);
		columns[3][i] = Int64GetDatum(bases[i].nevents);
		columns[4][i] = PointerGetDatum(write_states(defs, &bases[i]));
	}
	args[0] = aud_store_text_array(ids, lengths, n);
	args[1] = aud_store_array(columns[0], NULL, n, TIMESTAMPTZOID);
	args[2] = aud_store_array(columns[1], NULL, n, TIMESTAMPTZOID);
	args[3] = aud_store_array(columns[2], NULL, n, TIMESTAMPTZOID);
	args[4] = aud_store_array(columns[3], NULL, n, INT8OID);
	args[5] = aud_store_array(columns[4], NULL, n, BYTEAOID);
	aud_store_execute(AUD_WRITE_BASES, args, NULL, false);
}

/*
 * event_bases_merge(from_user text, into_user text): gives the second user's
 * base what the first one's has counted.  The caller holds both profiles.
 * An event that both had, and of which one is deleted, counts twice: nobody
 * can tell any more.
 */
Datum
aud_event_bases_merge(PG_FUNCTION_ARGS)
{
	text	   *users[2] = {PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1)};
	const char *into = VARDATA_ANY(users[1]);
	int			into_len = VARSIZE_ANY_EXHDR(users[1]);
	const AudDefinitions *defs;
	AudEventBase bases[2];

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	if (aud_event_base_load(defs, VARDATA_ANY(users[0]), VARSIZE_ANY_EXHDR(users[0]),
							false, &bases[0]))
	{
		(void) aud_event_base_load(defs, into, into_len, false, &bases[1]);
		bases[1].complete_from = Max(bases[1].complete_from, bases[0].complete_from);
		bases[1].first_seen = Min(bases[1].first_seen, bases[0].first_seen);
		bases[1].last_seen = Max(bases[1].last_seen, bases[0].last_seen);
		bases[1].nevents += bases[0].nevents;
		for (int i = 0; i < defs->naggregates; i++)
			if (aud_aggregate_has_base(&defs->aggregates[i]))
				aud_aggregate_merge(&defs->aggregates[i], &bases[1].states[i],
									&bases[0].states[i]);
		aud_event_bases_write(defs, &into, &into_len, &bases[1], 1);
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* Adds a row to event_base_items' result; id, value NULL: null. */
static void
put_item(ReturnSetInfo *rsinfo, int32 number, TimestampTz *time,
		 const char *id, int id_len, Jsonb *value, int64 count)
{
	Datum		values[5];
	bool		nulls[5] = {false, time == NULL, id == NULL, value == NULL, false};

	values[0] = Int32GetDatum(number);
	values[1] = time ? TimestampTzGetDatum(*time) : (Datum) 0;
	values[2] = id ? PointerGetDatum(cstring_to_text_with_len(id, id_len)) : (Datum) 0;
	values[3] = JsonbPGetDatum(value);
	values[4] = Int64GetDatum(count);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* A decimal as jsonb. */
static Jsonb *
decimal_json(const AudDecimal *number)
{
	JsonbValue	value;

	value.type = jbvNumeric;
	value.val.numeric = aud_decimal_numeric(number);
	return JsonbValueToJsonb(&value);
}

/*
 * event_base_items(states bytea) → setof (aggregate, occurred_at, event_id,
 * value, count): what a base holds, as if it were a few events, each of which
 * stands for "count" of them: a sum is one event with all of the amount, a
 * day one at its midnight.  For verify(), which adds it up by SQL.
 */
Datum
aud_event_base_items(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const AudDefinitions *defs = aud_definitions_get();
	AudEventBase base;

	InitMaterializedSRF(fcinfo, 0);
	aud_event_base_init(defs, &base);
	read_states(defs, &base, PG_GETARG_BYTEA_PP(0));
	for (int i = 0; i < defs->naggregates; i++)
	{
		const AudAggregateDef *def = &defs->aggregates[i];
		AudAggregateState *state = &base.states[i];
		int32		number = def->number;

		if (state->count == 0)
			continue;
		switch (def->state)
		{
			case AUD_STATE_COUNT:
				put_item(rsinfo, number, NULL, NULL, 0, NULL, state->count);
				break;
			case AUD_STATE_SUM:
			case AUD_STATE_EXTREME:
				put_item(rsinfo, number, NULL, NULL, 0, decimal_json(&state->sum), state->count);
				break;
			case AUD_STATE_EDGE:
				put_item(rsinfo, number, &state->time, state->id, state->id_len, state->value, 1);
				break;
			case AUD_STATE_VALUES:
				for (int v = 0; v < state->nvalues; v++)
				{
					TimestampTz midnight = state->values[v].day * USECS_PER_DAY;

					put_item(rsinfo, number,
							 def->kind == AUD_AGG_DAYS_ACTIVE ? &midnight : NULL, NULL, 0,
							 state->values[v].value, state->values[v].count);
				}
				break;
			case AUD_STATE_SEQUENCE:
				break;
		}
	}
	return (Datum) 0;
}
