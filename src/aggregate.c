/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *	  Folding events into aggregates, and taking them out again.
 *
 * A state is exact at one instant, the user's as_of.  An event is folded in
 * when it arrives, if the window as of that instant holds it.  When the
 * instant moves on, what has fallen out of a sliding window is taken out
 * again (advance.c reads it from the events), so a state needs neither
 * buckets nor the events.  The few aggregates that cannot be kept this way
 * (the first event of a window, too many distinct values, a "where" that
 * depends on now) are marked stale and made anew from the events.
 *
 * Memory: what a state points to is allocated in the current context, which
 * must outlive the state; nothing is freed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "aggregate.h"
#include "numeric_format.h"
#include "stats.h"

/*
 * Numbers of 10^131000 and more are not summed: numeric ends at 10^131072, and
 * no sum of smaller ones can get there.
 */
#define MAX_SUMMED_WEIGHT	(131000 / 4)

/* Which state an aggregate needs; a sliding window makes extremes need all values. */
static AudStateKind
state_kind(const AudNode *node)
{
	if (node->kind == AUD_NODE_SEQUENCE)
		return AUD_STATE_SEQUENCE;
	switch ((AudAggregate) node->aggregate)
	{
		case AUD_AGG_COUNT:
			return AUD_STATE_COUNT;
		case AUD_AGG_SUM:
		case AUD_AGG_AVG:
			return AUD_STATE_SUM;
		case AUD_AGG_MIN:
		case AUD_AGG_MAX:
			return (node->flags & AUD_WINDOW_LAST) ? AUD_STATE_VALUES : AUD_STATE_EXTREME;
		case AUD_AGG_FIRST:
		case AUD_AGG_LAST:
		case AUD_AGG_FIRST_TIME:
		case AUD_AGG_LAST_TIME:
			return AUD_STATE_EDGE;
		case AUD_AGG_COUNT_DISTINCT:
		case AUD_AGG_MOST_FREQUENT:
		case AUD_AGG_DAYS_ACTIVE:
			return AUD_STATE_VALUES;
	}
	elog(ERROR, "unrecognized aggregate: %d", node->aggregate);
}

/* Does a subtree's truth depend on now? */
static bool
moves_with_time(const AudNode *node)
{
	for (uint32 i = 0; i < node->nnodes; i++)
		if (node[i].kind == AUD_NODE_FIELD && AUD_OP_IS_RELATIVE_TIME(node[i].op))
			return true;
	return false;
}

/* Does a subtree look at events' context? */
static bool
reads_context(const AudRule *rule, const AudNode *node)
{
	for (uint32 i = 0; i < node->nnodes; i++)
		if (node[i].path != 0 && AUD_NODE_PATH(rule, &node[i])->root == AUD_ROOT_CONTEXT)
			return true;
	return false;
}

/*
 * Fills *def from an EVENT or SEQUENCE node; def keeps pointers into the rule.
 */
void
aud_aggregate_init(AudAggregateDef *def, int32 number,
				   const AudRule *rule, const AudNode *node)
{
	memset(def, 0, sizeof(*def));
	def->number = number;
	def->rule = rule;
	def->node = node;
	def->kind = (AudAggregate) node->aggregate;
	def->state = state_kind(node);
	def->from = PG_INT64_MIN;
	def->to = PG_INT64_MAX;
	if (node->flags & AUD_WINDOW_LAST)
		def->last = node->from;
	else if (node->flags & AUD_WINDOW_RANGE)
	{
		def->from = node->from;
		def->to = node->to;
	}
	def->where_moves = moves_with_time(node);
	def->reads_context = reads_context(rule, node);
	if (node->kind == AUD_NODE_EVENT)
	{
		if (node->path != 0)
			def->property = AUD_NODE_PATH(rule, node);
		if (node->nchildren > 0)
			def->where = AUD_FIRST_CHILD(node);
	}
}

/* Is the event type one of those that an EVENT or STEP node names? */
bool
aud_names_match(const AudRule *rule, const AudNode *node, const char *type, int len)
{
	const AudNames *names = AUD_NODE_NAMES(rule, node);

	for (uint32 i = 0; i < names->nnames; i++)
	{
		const AudName *name = &names->names[i];

		if ((name->is_prefix ? name->len <= len : name->len == len) &&
			memcmp(AUD_AT(rule, name->name), type, name->len) == 0)
			return true;
	}
	return false;
}

/* May an event of this type matter to the aggregate? */
bool
aud_aggregate_feeds(const AudAggregateDef *def, const char *type, int len)
{
	const AudNode *step;

	if (def->node->kind == AUD_NODE_EVENT)
		return aud_names_match(def->rule, def->node, type, len);
	step = AUD_FIRST_CHILD(def->node);
	for (uint32 i = 0; i < def->node->nchildren; i++, step = AUD_NEXT_SIBLING(step))
		if (aud_names_match(def->rule, step, type, len))
			return true;
	return false;
}

/* Makes sure that an event's properties are there and, if asked for, its context. */
void
aud_event_detoast(AudEvent *event, bool with_context)
{
	MemoryContext old;

	with_context = with_context && event->context == NULL && event->stored_context != (Datum) 0;
	if (event->properties != NULL && !with_context)
		return;
	old = MemoryContextSwitchTo(event->mcxt);
	if (event->properties == NULL)
		event->properties = DatumGetJsonbP(event->stored_properties);
	if (with_context)
		event->context = DatumGetJsonbP(event->stored_context);
	MemoryContextSwitchTo(old);
}

/* The order of a user's events: time, then id in C collation (SPEC 2.5). */
static int
event_order(TimestampTz atime, const char *aid, int alen,
			TimestampTz btime, const char *bid, int blen)
{
	int			order;

	if (atime != btime)
		return atime < btime ? -1 : 1;
	order = memcmp(aid, bid, Min(alen, blen));
	return order != 0 ? order : alen - blen;
}

/* Days since 2000-01-01 UTC. */
static int64
day_of(TimestampTz t)
{
	return t >= 0 ? t / USECS_PER_DAY : -((-t + USECS_PER_DAY - 1) / USECS_PER_DAY);
}

/* Position of a value in the sorted array, and whether it is there. */
static int
find_distinct(const AudAggregateState *state, Jsonb *value, int64 day, bool *found)
{
	int			low = 0,
				high = state->nvalues;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		const AudDistinct *d = &state->values[middle];
		int			order;

		if (value != NULL)
			order = compareJsonbContainers(&d->value->root, &value->root);
		else
			order = (d->day > day) - (d->day < day);
		if (order == 0)
		{
			*found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	*found = false;
	return low;
}

/* Counts so many more of a value, which is the state's then. */
static void
add_distinct(AudAggregateState *state, Jsonb *value, int64 day, int64 count)
{
	bool		found;
	int			at = find_distinct(state, value, day, &found);

	if (found)
	{
		state->values[at].count += count;
		if (value != NULL)
			pfree(value);
		return;
	}
	if (state->nvalues == state->max_values)
	{
		int			max = state->max_values ? state->max_values * 2 : 4;
		AudDistinct *values = palloc(max * sizeof(AudDistinct));

		if (state->nvalues > 0)
			memcpy(values, state->values, state->nvalues * sizeof(AudDistinct));
		state->values = values;
		state->max_values = max;
	}
	memmove(&state->values[at + 1], &state->values[at],
			(state->nvalues - at) * sizeof(AudDistinct));
	state->values[at].value = value;
	state->values[at].day = day;
	state->values[at].count = count;
	state->nvalues++;
}

/* Counts one less; what is not there was never counted: the state is stale. */
static void
remove_distinct(AudAggregateState *state, Jsonb *value, int64 day)
{
	bool		found;
	int			at = find_distinct(state, value, day, &found);

	if (!found)
		state->stale = true;
	else if (--state->values[at].count == 0)
	{
		memmove(&state->values[at], &state->values[at + 1],
				(state->nvalues - at - 1) * sizeof(AudDistinct));
		state->nvalues--;
	}
}

/*
 * Does the event count for the aggregate, whenever a sliding window holds it?
 * If so, true and in *value what its property holds (NULL without a property),
 * using *room.
 */
static bool
event_matches(const AudAggregateDef *def, AudEvent *event,
			  const AudClock *clock, const JsonbValue **value, JsonbValue *room)
{
	AudEventDoc doc;

	*value = NULL;
	if (event->time < def->from || event->time >= def->to)
		return false;
	if (def->where == NULL && def->property == NULL)
		return true;
	aud_event_detoast(event, def->reads_context);
	aud_event_doc_init(&doc, clock, event->type, event->type_len, event->time,
					   event->id, event->id_len,
					   event->properties, event->context);
	if (def->where != NULL &&
		!aud_eval_node(def->rule, def->where, &doc.doc))
		return false;
	if (def->property != NULL)
	{
		JsonbValue	start_room;
		const JsonbValue *start;
		int			nused;

		start = doc.doc.start(&doc.doc, def->rule, def->property, &start_room, &nused);
		*value = aud_path_collect(def->rule, def->property, nused, start, room);
		if (*value == NULL || (*value)->type == jbvNull)
			return false;
		if (def->kind == AUD_AGG_MIN || def->kind == AUD_AGG_MAX)
			return (*value)->type == jbvNumeric;
		if (def->state == AUD_STATE_SUM)
			return (*value)->type == jbvNumeric &&
				AUD_NUMERIC_WEIGHT((*value)->val.numeric) < MAX_SUMMED_WEIGHT;
	}
	return true;
}

/* The same, as of the clock. */
static bool
event_counts(const AudAggregateDef *def, AudEvent *event,
			 const AudClock *clock, const JsonbValue **value, JsonbValue *room)
{
	if (def->last != 0 &&
		(event->time <= clock->now - def->last ||
		 event->time > clock->now + clock->max_future_skew))
		return false;
	return event_matches(def, event, clock, value, room);
}

/*
 * Does the event, of a type that feeds the aggregate, count for it at some
 * instant?  Not for sequences, nor where "where" moves.
 */
bool
aud_aggregate_matches(const AudAggregateDef *def, AudEvent *event, const AudClock *clock)
{
	JsonbValue	room;
	const JsonbValue *value;

	return event_matches(def, event, clock, &value, &room);
}

/*
 * A copy of an event's value as a jsonb of its own.  What making it leaves behind
 * goes with the event, where that is one of very many that are read back.
 */
static Jsonb *
own_value(const AudEvent *event, const JsonbValue *value)
{
	JsonbValue	copy;
	Jsonb	   *made;
	MemoryContext old;

	/* only of aggregates with a property, without which no event counts */
	Assert(value != NULL);
	copy = *value;
	if (event->mcxt == NULL)
		return JsonbValueToJsonb(&copy);
	old = MemoryContextSwitchTo(event->mcxt);
	made = JsonbValueToJsonb(&copy);
	MemoryContextSwitchTo(old);
	return (Jsonb *) memcpy(palloc(VARSIZE(made)), made, VARSIZE(made));
}

/* Sets *number to a numeric value, which it keeps a copy of if it must. */
static void
own_number(const JsonbValue *value, AudDecimal *number)
{
	Assert(value != NULL);
	aud_decimal_set_numeric(number, value->val.numeric);
	if (number->big != NULL)
		number->big = (Numeric) memcpy(palloc(VARSIZE(number->big)), number->big,
									   VARSIZE(number->big));
}

/*
 * Does the event count for a count or sum as of this clock, and with what
 * amount?
 */
bool
aud_aggregate_counts(const AudAggregateDef *def, AudEvent *event,
					 const AudClock *clock, AudDecimal *amount)
{
	JsonbValue	room;
	const JsonbValue *value;

	if (!event_counts(def, event, clock, &value, &room))
		return false;
	if (def->state == AUD_STATE_SUM)
		own_number(value, amount);
	return true;
}

/* Makes the event the state's first or last, if it is. */
static void
fold_edge(const AudAggregateDef *def, AudAggregateState *state,
		  const AudEvent *event, const JsonbValue *value)
{
	bool		first = def->kind == AUD_AGG_FIRST || def->kind == AUD_AGG_FIRST_TIME;

	if (state->count > 0)
	{
		int			order = event_order(event->time, event->id, event->id_len,
										state->time, state->id, state->id_len);

		if (first ? order >= 0 : order <= 0)
			return;
	}
	if (event->id_len > AUD_MAX_NAME_BYTES)
		return;					/* such an event does not come in, but the table allows it */
	state->count = 1;
	state->time = event->time;
	/* the first value is the stored row's, and what it was before points to it */
	if (state->value != NULL && (state->fresh || state->id_room != NULL))
		pfree(state->value);
	state->value = NULL;
	if (state->id_room == NULL)
		state->id_room = palloc(AUD_MAX_NAME_BYTES + 1);
	memcpy(state->id_room, event->id, event->id_len);
	state->id = state->id_room;
	state->id_len = event->id_len;
	if (def->kind == AUD_AGG_FIRST || def->kind == AUD_AGG_LAST)
		state->value = own_value(event, value);
}

/*
 * Folds an event into the state, if it counts.  The clock is the one the state
 * is exact for; its skew must reach up to what is accepted now.
 */
void
aud_aggregate_fold(const AudAggregateDef *def, AudAggregateState *state,
				   AudEvent *event, const AudClock *clock)
{
	JsonbValue	room;
	const JsonbValue *value;
	AudDecimal	number;

	aud_stats_count(AUD_COUNT_FOLDS, 1);
	if (!event_counts(def, event, clock, &value, &room))
		return;

	state->changed = true;
	if (def->last != 0 && (state->count == 0 || event->time < state->oldest))
		state->oldest = event->time;
	switch (def->state)
	{
		case AUD_STATE_COUNT:
			if (def->last != 0)
				aud_queue_insert(state, event->time, NULL);
			state->count++;
			break;
		case AUD_STATE_SUM:
			own_number(value, &number);
			if (def->last != 0)
				aud_queue_insert(state, event->time, &number);
			state->count++;
			aud_decimal_add(&state->sum, &number, false);
			break;
		case AUD_STATE_EXTREME:
			own_number(value, &number);
			if (state->count == 0 ||
				(def->kind == AUD_AGG_MIN ?
				 aud_decimal_compare(&number, &state->sum) < 0 :
				 aud_decimal_compare(&number, &state->sum) > 0))
				state->sum = number;
			state->count = 1;
			break;
		case AUD_STATE_EDGE:
			fold_edge(def, state, event, value);
			break;
		case AUD_STATE_VALUES:
			state->count++;
			if (def->kind == AUD_AGG_DAYS_ACTIVE)
				add_distinct(state, NULL, day_of(event->time), 1);
			else
				add_distinct(state, own_value(event, value), 0, 1);
			break;
		case AUD_STATE_SEQUENCE:
			break;
	}
}

/*
 * For an aggregate whose "where" moves: lowers state->look to the next instant
 * at which the event may begin or cease to count by time alone.
 */
void
aud_aggregate_look(const AudAggregateDef *def, AudAggregateState *state,
				   AudEvent *event, const AudClock *clock)
{
	AudEventDoc doc;

	if (def->last != 0)
		aud_look_at(event->time, def->last, clock, &state->look);
	aud_event_detoast(event, def->reads_context);
	aud_event_doc_init(&doc, clock, event->type, event->type_len, event->time,
					   event->id, event->id_len,
					   event->properties, event->context);
	for (uint32 i = 0; i < def->node->nnodes; i++)
	{
		const AudNode *leaf = &def->node[i];
		const AudPath *path;
		const JsonbValue *value;
		JsonbValue	start_room;
		JsonbValue	room;
		int			nused;

		if (leaf->kind != AUD_NODE_FIELD || !AUD_OP_IS_RELATIVE_TIME(leaf->op))
			continue;
		path = AUD_NODE_PATH(def->rule, leaf);
		value = doc.doc.start(&doc.doc, def->rule, path, &start_room, &nused);
		aud_value_next_turn(def->rule, leaf,
							aud_path_collect(def->rule, path, nused, value, &room),
							clock, &state->look);
	}
}

/*
 * Takes an event out of the state that has left the window, if it counted as
 * of "clock", the instant the state is exact for.
 */
void
aud_aggregate_unfold(const AudAggregateDef *def, AudAggregateState *state,
					 AudEvent *event, const AudClock *clock)
{
	JsonbValue	room;
	const JsonbValue *value;
	AudDecimal	number;

	if (state->overflow || state->stale ||
		!event_counts(def, event, clock, &value, &room))
		return;

	state->changed = true;
	if (state->count <= 0)
	{
		/* it was stored without evaluation */
		state->stale = true;
		return;
	}
	state->count--;
	switch (def->state)
	{
		case AUD_STATE_SUM:
			Assert(value != NULL);
			aud_decimal_set_numeric(&number, value->val.numeric);
			aud_decimal_add(&state->sum, &number, true);
			break;
		case AUD_STATE_VALUES:
			if (def->kind == AUD_AGG_DAYS_ACTIVE)
				remove_distinct(state, NULL, day_of(event->time));
			else
			{
				Jsonb	   *own = own_value(event, value);

				remove_distinct(state, own, 0);
				pfree(own);
			}
			break;
		default:
			break;
	}
}

/*
 * Folds another state of the same aggregate into the state: what both have
 * counted.  Only for those whose state a base keeps (aud_aggregate_has_base);
 * the other's values become the state's.
 */
void
aud_aggregate_merge(const AudAggregateDef *def, AudAggregateState *state,
					const AudAggregateState *other)
{
	bool		first = def->kind == AUD_AGG_FIRST || def->kind == AUD_AGG_FIRST_TIME;
	int			order;

	Assert(aud_aggregate_has_base(def) && !state->overflow && !other->overflow);
	if (other->count == 0)
		return;
	if (state->count == 0)
	{
		*state = *other;
		return;
	}
	switch (def->state)
	{
		case AUD_STATE_COUNT:
			state->count += other->count;
			break;
		case AUD_STATE_SUM:
			state->count += other->count;
			aud_decimal_add(&state->sum, &other->sum, false);
			break;
		case AUD_STATE_EXTREME:
			order = aud_decimal_compare(&other->sum, &state->sum);
			if (def->kind == AUD_AGG_MIN ? order < 0 : order > 0)
				state->sum = other->sum;
			break;
		case AUD_STATE_EDGE:
			order = event_order(other->time, other->id, other->id_len,
								state->time, state->id, state->id_len);
			if (first ? order < 0 : order > 0)
				*state = *other;
			break;
		case AUD_STATE_VALUES:
			state->count += other->count;
			for (int i = 0; i < other->nvalues; i++)
				add_distinct(state, other->values[i].value, other->values[i].day,
							 other->values[i].count);
			break;
		case AUD_STATE_SEQUENCE:
			break;
	}
}

/* Sets *value to a jsonb of the state's. */
static void
set_json(AudAggregateValue *value, Jsonb *jsonb)
{
	Assert(jsonb != NULL);
	if (JB_ROOT_IS_SCALAR(jsonb))
		JsonbExtractScalar(&jsonb->root, &value->json);
	else
	{
		value->json.type = jbvBinary;
		value->json.val.binary.data = &jsonb->root;
		value->json.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	value->kind = AUD_AGGVALUE_JSON;
	if (value->json.type == jbvNumeric)
	{
		value->kind = AUD_AGGVALUE_NUMBER;
		aud_decimal_set_numeric(&value->number, value->json.val.numeric);
	}
}

/* Sets *value to the most frequent of the values, ties to the smallest. */
static void
set_most_frequent(AudAggregateValue *value, const AudAggregateState *state)
{
	int			best = 0;

	for (int i = 1; i < state->nvalues; i++)
		if (state->values[i].count > state->values[best].count)
			best = i;
	set_json(value, state->values[best].value);
}

/*
 * The aggregate's value.  It may point into the state.  Allocates in the
 * current context where it must.
 */
void
aud_aggregate_value(const AudAggregateDef *def, const AudAggregateState *state,
					AudAggregateValue *value)
{
	value->kind = AUD_AGGVALUE_MISSING;
	if (def->state == AUD_STATE_SEQUENCE)
	{
		value->kind = AUD_AGGVALUE_BOOL;
		value->holds = state->count > 0;
		return;
	}
	if (def->kind == AUD_AGG_COUNT)
	{
		value->kind = AUD_AGGVALUE_NUMBER;
		aud_decimal_set_int(&value->number, state->count);
		return;
	}
	if (aud_aggregate_is_size(def))
	{
		value->kind = AUD_AGGVALUE_NUMBER;
		aud_decimal_set_int(&value->number, state->nvalues);
		return;
	}
	if (state->overflow && state->value != NULL)
	{
		set_json(value, state->value);
		return;
	}
	if (state->count == 0)
	{
		if (def->kind == AUD_AGG_SUM)
		{
			value->kind = AUD_AGGVALUE_NUMBER;
			aud_decimal_set_int(&value->number, 0);
		}
		return;
	}
	switch (def->kind)
	{
		case AUD_AGG_SUM:
			value->kind = AUD_AGGVALUE_NUMBER;
			value->number = state->sum;
			break;
		case AUD_AGG_AVG:
			value->kind = AUD_AGGVALUE_NUMBER;
			aud_decimal_set_numeric(&value->number,
									DatumGetNumeric(DirectFunctionCall2(numeric_div,
																		NumericGetDatum(aud_decimal_numeric(&state->sum)),
																		NumericGetDatum(int64_to_numeric(state->count)))));
			break;
		case AUD_AGG_MIN:
		case AUD_AGG_MAX:
			if (def->state == AUD_STATE_EXTREME)
			{
				value->kind = AUD_AGGVALUE_NUMBER;
				value->number = state->sum;
			}
			else
				set_json(value, state->values[def->kind == AUD_AGG_MIN ? 0 : state->nvalues - 1].value);
			break;
		case AUD_AGG_FIRST:
		case AUD_AGG_LAST:
			set_json(value, state->value);
			break;
		case AUD_AGG_FIRST_TIME:
		case AUD_AGG_LAST_TIME:
			value->kind = AUD_AGGVALUE_TIME;
			value->time = state->time;
			break;
		case AUD_AGG_MOST_FREQUENT:
			set_most_frequent(value, state);
			break;
		default:
			break;
	}
}

/*
 * The value as jsonb has it (a time is its text), NULL when missing.  Uses
 * *room and allocates in the current context.
 */
const JsonbValue *
aud_aggregate_json(const AudAggregateValue *value, JsonbValue *room)
{
	StringInfoData text;

	switch (value->kind)
	{
		case AUD_AGGVALUE_MISSING:
			return NULL;
		case AUD_AGGVALUE_NUMBER:
			room->type = jbvNumeric;
			room->val.numeric = aud_decimal_numeric(&value->number);
			return room;
		case AUD_AGGVALUE_TIME:
			initStringInfo(&text);
			aud_timestamp_append(&text, value->time);
			room->type = jbvString;
			room->val.string.val = text.data;
			room->val.string.len = text.len;
			return room;
		case AUD_AGGVALUE_JSON:
			return &value->json;
		case AUD_AGGVALUE_BOOL:
			room->type = jbvBool;
			room->val.boolean = value->holds;
			return room;
	}
	elog(ERROR, "unrecognized value kind: %d", value->kind);
}
