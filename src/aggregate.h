/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *	  Aggregates over a user's events: definition, state and value.
 *
 * An aggregate is what a trait or an event node asks of the events: which
 * ones, over which window, and what of them.  Two that ask the same are one
 * (aud_node_equal with "identity"), and their state is kept once per user.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_AGGREGATE_H
#define AUD_AGGREGATE_H

#include "postgres.h"

#include "decimal.h"
#include "eval.h"

/* an event as the engine handles it; pointers are into a batch's memory */
typedef struct AudEvent
{
	const char *type;
	int			type_len;
	const char *id;
	int			id_len;
	TimestampTz time;
	TimestampTz received;
	Jsonb	   *properties;		/* these two: see aud_event_detoast */
	Jsonb	   *context;		/* may be NULL */

	/* of an event read back: what properties and context will be made of */
	Datum		stored_properties;
	Datum		stored_context; /* 0: null */
	MemoryContext mcxt;			/* where */
} AudEvent;

/* what of an aggregate is kept */
typedef enum AudStateKind
{
	AUD_STATE_COUNT,			/* count */
	AUD_STATE_SUM,				/* count, sum: sum, avg */
	AUD_STATE_EDGE,				/* one event's time, id and value: first, last, ... */
	AUD_STATE_EXTREME,			/* value: min, max without a window */
	AUD_STATE_VALUES,			/* distinct values and how often */
	AUD_STATE_SEQUENCE			/* holds, and until when that may change */
} AudStateKind;

typedef struct AudAggregateDef
{
	int32		number;			/* in table aggregates; 0: not stored */
	int64		pending;		/* number of the fill that makes its states, 0: all are made */
	const AudRule *rule;		/* an EVENT or SEQUENCE node's rule ... */
	const AudNode *node;		/* ... and the node in it */
	AudAggregate kind;
	AudStateKind state;
	const AudPath *property;	/* NULL: none */
	const AudNode *where;		/* NULL: none */
	int64		last;			/* us of a sliding window, 0: none */
	bool		where_moves;	/* "where" depends on now: no state can be kept */
	bool		reads_context;	/* looks at events' context */
	TimestampTz from;			/* absolute window; without: all of time */
	TimestampTz to;
} AudAggregateDef;

typedef struct AudDistinct
{
	Jsonb	   *value;			/* NULL for days_active */
	int64		day;			/* days since 2000-01-01, for days_active */
	int64		count;
} AudDistinct;

/*
 * The events of a sliding window that will leave it first, of a count or sum:
 * so many can leave before the events must be read.  It holds all that count
 * up to its last; when there are as many as the count, simply all.
 */
#define AUD_QUEUE_MAX	16

typedef struct AudQueued
{
	TimestampTz time;
	AudDecimal	amount;			/* of a sum */
} AudQueued;

/*
 * The state of one aggregate for one user, as of the user's as_of.  A zeroed
 * struct is the state over no events.
 */
typedef struct AudAggregateState
{
	int64		count;			/* events that count */
	AudDecimal	sum;
	TimestampTz oldest;			/* of a sliding window: no event in it is older; void at count 0 */
	AudQueued  *queue;			/* ordered by time; room for AUD_QUEUE_MAX + 1 */
	int			nqueue;
	TimestampTz gone;			/* up to here events have left by way of the queue */
	bool		reading;		/* events are being read for it */
	TimestampTz time;			/* EDGE: the event; SEQUENCE: next instant to look */
	TimestampTz look;			/* where "where" moves, once made anew: next instant to look */
	const char *id;				/* EDGE */
	int			id_len;
	char	   *id_room;		/* where the state keeps an id of its own */
	Jsonb	   *value;			/* EDGE, EXTREME: a scalar is wrapped as jsonb does */
	AudDistinct *values;		/* VALUES, sorted */
	int			nvalues;
	int			max_values;		/* allocated */
	bool		overflow;		/* too many values were stored: nvalues and value only */
	bool		stale;			/* must be made anew from the events */
	bool		fresh;			/* is being: nobody else has pointers into it */
	bool		known;			/* there is a state at all */
	bool		changed;		/* differs from what is stored */
	bool		touched;		/* its value before is noted */
} AudAggregateState;

typedef enum AudValueKind
{
	AUD_AGGVALUE_MISSING,
	AUD_AGGVALUE_NUMBER,
	AUD_AGGVALUE_TIME,
	AUD_AGGVALUE_JSON,
	AUD_AGGVALUE_BOOL			/* of a sequence: does it hold? */
} AudValueKind;

typedef struct AudAggregateValue
{
	AudValueKind kind;
	AudDecimal	number;
	TimestampTz time;
	JsonbValue	json;
	bool		holds;
} AudAggregateValue;

/* Is the value how many distinct values there are? */
static inline bool
aud_aggregate_is_size(const AudAggregateDef *def)
{
	return def->kind == AUD_AGG_COUNT_DISTINCT || def->kind == AUD_AGG_DAYS_ACTIVE;
}

/* Does the aggregate keep a queue? */
static inline bool
aud_aggregate_has_queue(const AudAggregateDef *def)
{
	return def->last != 0 &&
		(def->state == AUD_STATE_COUNT || def->state == AUD_STATE_SUM);
}

/*
 * Does a user's base keep its state?  Then events that it has counted can go.
 * The others need the events of their window.
 */
static inline bool
aud_aggregate_has_base(const AudAggregateDef *def)
{
	return def->last == 0 && def->state != AUD_STATE_SEQUENCE && !def->where_moves;
}

/* aggregate_queue.c */
extern void aud_queue_insert(AudAggregateState *state, TimestampTz time, const AudDecimal *amount);
extern void aud_queue_append(AudAggregateState *state, TimestampTz time, const AudDecimal *amount);
extern void aud_queue_expire(const AudAggregateDef *def, AudAggregateState *state, TimestampTz edge);
extern void aud_queue_cut(AudAggregateState *state, TimestampTz time);

/* aggregate.c */
extern bool aud_aggregate_counts(const AudAggregateDef *def, AudEvent *event, const AudClock *clock, AudDecimal *amount);
extern bool aud_aggregate_matches(const AudAggregateDef *def, AudEvent *event, const AudClock *clock);
extern void aud_event_detoast(AudEvent *event, bool with_context);
extern void aud_aggregate_init(AudAggregateDef *def, int32 number, const AudRule *rule, const AudNode *node);
extern bool aud_aggregate_feeds(const AudAggregateDef *def, const char *type, int len);
extern void aud_aggregate_fold(const AudAggregateDef *def, AudAggregateState *state,
							   AudEvent *event, const AudClock *clock);
extern void aud_aggregate_unfold(const AudAggregateDef *def, AudAggregateState *state,
								 AudEvent *event, const AudClock *clock);
extern void aud_aggregate_look(const AudAggregateDef *def, AudAggregateState *state,
							   AudEvent *event, const AudClock *clock);
extern void aud_aggregate_merge(const AudAggregateDef *def, AudAggregateState *state,
								const AudAggregateState *other);
extern void aud_aggregate_value(const AudAggregateDef *def, const AudAggregateState *state,
								AudAggregateValue *value);
extern const JsonbValue *aud_aggregate_json(const AudAggregateValue *value, JsonbValue *room);
extern bool aud_names_match(const AudRule *rule, const AudNode *node, const char *type, int len);

/* aggregate_state.c */
extern void aud_state_append(StringInfo buf, const AudAggregateDef *def, const AudAggregateState *state, int max_values);
extern const char *aud_state_read(const char *p, const char *end, const AudAggregateDef *def, AudAggregateState *state);

/* sequence.c */
typedef struct AudSequence AudSequence;
extern AudSequence *aud_sequence_begin(const AudAggregateDef *def, const AudClock *clock);
extern void aud_sequence_take(AudSequence *sequence, AudEvent *event);
extern void aud_sequence_end(AudSequence *sequence, AudAggregateState *state);

#endif							/* AUD_AGGREGATE_H */
