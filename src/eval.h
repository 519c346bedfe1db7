/*-------------------------------------------------------------------------
 *
 * eval.h
 *	  Evaluating rules: one piece of code for the operators, the trigger,
 *	  previews and explanations.
 *
 * A rule is evaluated against a document.  What a document is (a jsonb, a
 * row, a user with traits and events, one event) is hidden behind AudDoc.
 * Values are JsonbValues that point into the document: nothing is copied.
 *
 * Evaluation never raises for what a document holds (SPEC 2.1).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVAL_H
#define AUD_EVAL_H

#include "common/int.h"

#include "rule.h"

/* the instant an evaluation is made for */
typedef struct AudClock
{
	TimestampTz now;
	int64		max_future_skew;	/* us */
} AudClock;

typedef struct AudDoc AudDoc;
struct AudDoc
{
	AudClock	clock;

	/*
	 * The document itself, where it is nothing but an object: paths of one
	 * key are looked up there.  NULL: "start" is asked.
	 */
	const JsonbContainer *object;

	/*
	 * Where a path starts: the value to walk from, or NULL when there is
	 * none, and in *nused how many of the path's steps that value has used up
	 * already.  May use *room.
	 */
	const JsonbValue *(*start) (AudDoc *doc, const AudRule *rule,
								const AudPath *path, JsonbValue *room,
								int *nused);

	/* EVENT, SEQUENCE, SEGMENT and SAMPLE nodes; NULL: they raise 0A000 */
	bool		(*leaf) (AudDoc *doc, const AudRule *rule, const AudNode *node);
};

/* eval.c: the whole rule, or one subtree */
extern bool aud_eval_rule(const AudRule *rule, AudDoc *doc);
extern bool aud_eval_node(const AudRule *rule, const AudNode *node, AudDoc *doc);

/*
 * eval_path.c: the single value at a path without [*], starting at "from"
 * (NULL: missing) after nused steps; NULL when missing.  A found JSON null is
 * returned as such.  *room is used for the result when needed.
 */
extern const JsonbValue *aud_path_value(const AudRule *rule, const AudPath *path,
										int nused, const JsonbValue *from,
										JsonbValue *room);

/*
 * A path's value as one jsonb, for explanations and for the "property" of an
 * aggregate: as aud_path_value; with [*] an array of all values found, NULL
 * if none.
 */
extern const JsonbValue *aud_path_collect(const AudRule *rule, const AudPath *path,
										  int nused, const JsonbValue *from,
										  JsonbValue *room);

/*
 * eval_op.c: does the leaf's operator hold for this value (NULL: missing)?
 * Negation, "any element of an array" and ci are applied.
 */
extern bool aud_value_holds(const AudRule *rule, const AudNode *leaf,
							const JsonbValue *value, const AudClock *clock);

/*
 * eval_op.c: does the leaf's time operator hold for an instant?  As for its
 * text, where it is one that prints as a timestamp.
 */
extern bool aud_instant_holds(const AudRule *rule, const AudNode *leaf,
							  TimestampTz t, const AudClock *clock);

/* Makes *due the instant t + d, if that lies ahead of the clock and is nearer. */
static inline void
aud_look_at(TimestampTz t, int64 d, const AudClock *clock, TimestampTz *due)
{
	if (!pg_add_s64_overflow(t, d, &t) && t > clock->now && t < *due)
		*due = t;
}

/*
 * eval_op.c: lowers *due to the next instant after clock->now at which a leaf
 * with a relative time operator may turn over, over an instant or a value
 * (NULL: missing) that stays as it is.
 */
extern void aud_instant_next_turn(const AudRule *rule, const AudNode *leaf,
								  TimestampTz t, const AudClock *clock, TimestampTz *due);
extern void aud_value_next_turn(const AudRule *rule, const AudNode *leaf,
								const JsonbValue *value, const AudClock *clock, TimestampTz *due);

/* eval_op.c: leaf FIELD or EVENT's property path walked from a start, [*] included */
extern bool aud_path_holds(const AudRule *rule, const AudNode *leaf,
						   const AudPath *path, int nused,
						   const JsonbValue *from, const AudClock *clock);

/* numeric_order.c: exact order of two finite numerics without a function call */
extern int	aud_numeric_compare(Numeric a, Numeric b);

/* the instants that print as timestamps: years 0001 to 9999 */
#define AUD_FIRST_INSTANT	(-INT64CONST(730119) * USECS_PER_DAY)
#define AUD_END_OF_INSTANTS	(INT64CONST(2921940) * USECS_PER_DAY)

/* timestamp_text.c: the timestamps of SPEC 2.3, strictly; false: not one */
extern bool aud_timestamp_parse(const char *s, int len, TimestampTz *result);
extern void aud_timestamp_append(StringInfo buf, TimestampTz t);

/*
 * duration_text.c: "30 days" to us.  On failure false and *problem, a lower-case
 * clause ("months have no fixed length"), static.
 */
extern bool aud_duration_parse(const char *s, int len, int64 *result, const char **problem);
extern void aud_duration_append(StringInfo buf, int64 duration);

/* semver.c: strict semantic versions 2.0.0 */
extern bool aud_semver_valid(const char *s, int len);
extern int	aud_semver_compare(const char *a, int alen, const char *b, int blen);

/* sample.c: is this user in the sample? */
extern bool aud_sample_holds(const AudRule *rule, const AudNode *node,
							 const char *user_id, int len);

/*
 * eval_jsonb.c: documents over a jsonb container and over one event.  The
 * event's members may be NULL where it has none.
 */
typedef struct AudJsonbDoc
{
	AudDoc		doc;
	JsonbValue	root;
} AudJsonbDoc;

extern void aud_jsonb_doc_init(AudJsonbDoc *doc, Jsonb *jsonb, const AudClock *clock);

typedef struct AudEventDoc
{
	AudDoc		doc;
	JsonbValue	properties;		/* jbvBinary, or jbvNull */
	JsonbValue	context;		/* jbvBinary, or jbvNull */
	const char *type;
	int			type_len;
	const char *id;
	int			id_len;
	TimestampTz time;
	char		time_text[64];	/* room for $time's text */
} AudEventDoc;

/* fills doc.start and the members above from one event; pointers are kept, not copied */
extern void aud_event_doc_init(AudEventDoc *doc, const AudClock *clock,
							   const char *type, int type_len,
							   TimestampTz time, const char *id, int id_len,
							   Jsonb *properties, Jsonb *context);

/* settings.c: the clock of this transaction (SPEC 2.3) */
extern TimestampTz aud_now(void);
extern bool aud_now_is_set(void);	/* by audience.now */
extern void aud_clock_init(AudClock *clock);
extern int64 aud_max_future_skew(void); /* us */

#endif							/* AUD_EVAL_H */
