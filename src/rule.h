/*-------------------------------------------------------------------------
 *
 * rule.h
 *	  The type audience.rule: its flat form and the operators it knows.
 *
 * A rule is a varlena without pointers.  Every reference in it is an offset
 * in bytes from the start of the varlena, 8-aligned, 0 for "none":
 *
 *	  +--------------------+
 *	  | AudRule (header)   |
 *	  | AudNode nodes[n]   |  pre-order: a node, then its children's subtrees
 *	  | data               |  AudPath, AudNames, AudValue, AudText, 8-aligned
 *	  +--------------------+
 *
 * A node's subtree is the "nnodes" nodes that start with it, so the next
 * sibling is node + node->nnodes and skipping a subtree costs nothing.
 *
 * The flat form never leaves the server: text I/O and the binary protocol
 * carry the canonical JSON (the latter behind a version byte), and both are
 * checked by the parser.  So nothing that comes from outside is trusted to be
 * a valid flat form.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_RULE_H
#define AUD_RULE_H

#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#define AUD_RULE_VERSION		1

/* limits of the language (SPEC 2.1) */
#define AUD_MAX_DEPTH			64
#define AUD_MAX_LEAVES			10000
#define AUD_MAX_BYTES			(1024 * 1024)

/* bytes of a user's id, and of an event's type and id */
#define AUD_MAX_NAME_BYTES		255

typedef enum AudNodeKind
{
	AUD_NODE_TRUE,
	AUD_NODE_FALSE,
	AUD_NODE_ALL,
	AUD_NODE_ANY,
	AUD_NODE_NONE,
	AUD_NODE_NOT,
	AUD_NODE_FIELD,				/* predicate over a path */
	AUD_NODE_EVENT,				/* aggregate over events; child: where */
	AUD_NODE_SEQUENCE,			/* children: AUD_NODE_STEP */
	AUD_NODE_STEP,				/* child: where */
	AUD_NODE_SEGMENT,			/* in a segment; negated: not_in */
	AUD_NODE_SAMPLE
} AudNodeKind;

/*
 * Operators.  Each has a positive form; the negated twin ("neq", "not_in",
 * "contains_none", "not_exists", "not_empty", "semver_neq", ...) is the same
 * operator with AUD_NEGATED in the node's flags.
 */
typedef enum AudOp
{
	AUD_OP_NONE,				/* groups, sequences, samples */
	AUD_OP_EQ,
	AUD_OP_GT,
	AUD_OP_GTE,
	AUD_OP_LT,
	AUD_OP_LTE,
	AUD_OP_BETWEEN,
	AUD_OP_IN,
	AUD_OP_CONTAINS,
	AUD_OP_CONTAINS_ANY,		/* negated: contains_none */
	AUD_OP_CONTAINS_ALL,
	AUD_OP_STARTS_WITH,
	AUD_OP_ENDS_WITH,
	AUD_OP_LIKE,
	AUD_OP_ILIKE,
	AUD_OP_REGEX,
	AUD_OP_IREGEX,
	AUD_OP_EXISTS,
	AUD_OP_IS_EMPTY,
	AUD_OP_BEFORE,
	AUD_OP_AT_OR_BEFORE,
	AUD_OP_AFTER,
	AUD_OP_AT_OR_AFTER,
	AUD_OP_WITHIN_LAST,
	AUD_OP_BEFORE_LAST,
	AUD_OP_WITHIN_NEXT,
	AUD_OP_AFTER_NEXT,
	AUD_OP_SEMVER_EQ,
	AUD_OP_SEMVER_GT,
	AUD_OP_SEMVER_GTE,
	AUD_OP_SEMVER_LT,
	AUD_OP_SEMVER_LTE
} AudOp;

#define AUD_OP_IS_RELATIVE_TIME(op) \
	((op) >= AUD_OP_WITHIN_LAST && (op) <= AUD_OP_AFTER_NEXT)

typedef enum AudAggregate
{
	AUD_AGG_COUNT,
	AUD_AGG_SUM,
	AUD_AGG_AVG,
	AUD_AGG_MIN,
	AUD_AGG_MAX,
	AUD_AGG_FIRST,
	AUD_AGG_LAST,
	AUD_AGG_COUNT_DISTINCT,
	AUD_AGG_MOST_FREQUENT,
	AUD_AGG_DAYS_ACTIVE,
	AUD_AGG_FIRST_TIME,
	AUD_AGG_LAST_TIME
} AudAggregate;

#define AUD_NAGGREGATES			(AUD_AGG_LAST_TIME + 1)

/* AudNode.flags */
#define AUD_NEGATED				0x01	/* the operator's negated twin */
#define AUD_CI					0x02	/* fold case */
#define AUD_ABSENT				0x04	/* STEP: no such event */
#define AUD_HAS_WITHIN			0x08	/* STEP: within is set */
#define AUD_WINDOW_LAST			0x10	/* EVENT, SEQUENCE: from is a duration */
#define AUD_WINDOW_RANGE		0x20	/* EVENT, SEQUENCE: [from, to) */
#define AUD_WINDOW				(AUD_WINDOW_LAST | AUD_WINDOW_RANGE)

typedef struct AudNode
{
	uint8		kind;			/* AudNodeKind */
	uint8		op;				/* AudOp */
	uint8		aggregate;		/* AudAggregate, of EVENT */
	uint8		flags;
	uint32		nnodes;			/* in this subtree, itself included */
	uint32		nchildren;
	uint32		path;			/* AudPath: FIELD's field, EVENT's property */
	uint32		names;			/* AudNames: event types of EVENT and STEP */
	uint32		value;			/* AudValue; SEGMENT: id (text), SAMPLE: seed (text) */
	int64		from;			/* window: duration in us, or its begin */
	int64		to;				/* window's end (exclusive), PG_INT64_MAX: open */
	union
	{
		int64		within;		/* STEP: us */
		float8		percent;	/* SAMPLE: 0 to 100 */
	}			arg;
} AudNode;

/* AudRule.needs: what an evaluation of the rule depends on */
#define AUD_NEEDS_TIME			0x01	/* now */
#define AUD_NEEDS_EVENTS		0x02	/* EVENT or SEQUENCE nodes */
#define AUD_NEEDS_SEGMENTS		0x04	/* SEGMENT nodes */

typedef struct AudRule
{
	int32		vl_len_;		/* varlena header (do not touch directly) */
	uint8		version;		/* AUD_RULE_VERSION */
	uint8		needs;
	uint16		depth;
	uint32		nnodes;
	uint32		nleaves;
	AudNode		nodes[FLEXIBLE_ARRAY_MEMBER];
} AudRule;

#define AUD_RULE_ROOT(rule)		(&(rule)->nodes[0])
#define AUD_AT(rule, offset)	((const void *) ((const char *) (rule) + (offset)))
#define AUD_NODE_PATH(rule, node) \
	((const AudPath *) AUD_AT(rule, (node)->path))
#define AUD_NODE_NAMES(rule, node) \
	((const AudNames *) AUD_AT(rule, (node)->names))
#define AUD_NODE_VALUE(rule, node) \
	((const AudValue *) AUD_AT(rule, (node)->value))
#define AUD_FIRST_CHILD(node)	((node) + 1)
#define AUD_NEXT_SIBLING(node)	((node) + (node)->nnodes)

/* what a path starts from; all but the first only inside "where" */
typedef enum AudPathRoot
{
	AUD_ROOT_DOCUMENT,			/* the profile, row or jsonb; in "where": properties */
	AUD_ROOT_CONTEXT,			/* $context.x: steps are those after $context */
	AUD_ROOT_TYPE,				/* $type: no steps */
	AUD_ROOT_TIME,				/* $time: no steps */
	AUD_ROOT_ID					/* $id: no steps */
} AudPathRoot;

typedef enum AudStepKind
{
	AUD_STEP_KEY,				/* .name */
	AUD_STEP_INTEGER_KEY,		/* .0 : a key of an object, an element of an array */
	AUD_STEP_INDEX,				/* [0], [-1]: an element of an array only */
	AUD_STEP_EACH				/* [*] */
} AudStepKind;

typedef struct AudPathStep
{
	int32		kind;			/* AudStepKind */
	int32		index;			/* INTEGER_KEY, INDEX */
	uint32		key;			/* KEY, INTEGER_KEY: offset from the rule's start, NUL-terminated */
	uint32		keylen;			/* bytes */
} AudPathStep;

typedef struct AudPath
{
	uint8		root;			/* AudPathRoot */
	bool		has_each;		/* some step is [*] */
	uint16		nsteps;
	uint32		unused;
	AudPathStep steps[FLEXIBLE_ARRAY_MEMBER];
} AudPath;

/* one event type or prefix of an EVENT or STEP; "*" is the empty prefix */
typedef struct AudName
{
	uint32		name;			/* offset from the rule's start, NUL-terminated */
	uint16		len;			/* bytes, without the '*' of a prefix */
	uint16		is_prefix;
} AudName;

typedef struct AudNames
{
	uint32		nnames;
	uint32		is_list;		/* written as a JSON array (kept for output) */
	AudName		names[FLEXIBLE_ARRAY_MEMBER];
} AudNames;

typedef enum AudValueType
{
	AUD_VALUE_BOOL,				/* len: 0 or 1 */
	AUD_VALUE_NUMBER,			/* a Numeric varlena of len bytes, without trailing zeros */
	AUD_VALUE_TEXT,				/* len bytes and a NUL */
	AUD_VALUE_JSON,				/* a Jsonb varlena of len bytes: object or array */
	AUD_VALUE_LIST,				/* len offsets (uint32) of values from the rule's start */
	AUD_VALUE_TIME,				/* TimestampTz */
	AUD_VALUE_DURATION			/* int64 us */
} AudValueType;

/*
 * A constant.  BETWEEN has a LIST of two (low, high).  Operators that take
 * "a value or a list" (LIKE, STARTS_WITH, ...) have a TEXT or a LIST of TEXT.
 * Semantic versions, patterns and regular expressions are TEXT, checked when
 * the rule was made.
 */
typedef struct AudValue
{
	uint32		type;			/* AudValueType */
	uint32		len;
	char		data[FLEXIBLE_ARRAY_MEMBER];	/* 8-aligned in the rule */
} AudValue;

#define AUD_VALUE_TEXT_PTR(v)	((v)->data)
#define AUD_VALUE_NUMERIC(v)	((Numeric) unconstify(char *, (const char *) (v)->data))
#define AUD_VALUE_JSONB(v)		((Jsonb *) unconstify(char *, (const char *) (v)->data))
#define AUD_VALUE_INT64(v)		(*(const int64 *) ((v)->data))
#define AUD_VALUE_ITEM(rule, v, i) \
	((const AudValue *) AUD_AT(rule, ((const uint32 *) ((v)->data))[i]))

#define DatumGetAudRuleP(d)		((AudRule *) PG_DETOAST_DATUM(d))
#define PG_GETARG_AUDRULE_P(n)	DatumGetAudRuleP(PG_GETARG_DATUM(n))
#define PG_RETURN_AUDRULE_P(r)	PG_RETURN_POINTER(r)

/*
 * rule_parse.c: input.  Both raise 22P02, 54000 or 54001 as SPEC 2.1 says;
 * the result is palloc'ed in the current context.
 */
extern AudRule *aud_rule_parse(const char *input, int len);
extern AudRule *aud_rule_parse_jsonb(Jsonb *input);

/* rule_json.c, rule_text.c: output, appended to buf */
extern void aud_rule_append_json(StringInfo buf, const AudRule *rule, const AudNode *node);
extern void aud_rule_append_text(StringInfo buf, const AudRule *rule, const AudNode *node);

/* rule_compare.c */

/*
 * Hash and equality of two EVENT or SEQUENCE nodes by what they ask of the
 * events, whatever rule they stand in: an EVENT's operator, value and ci are
 * left out.  The key under which their state is kept.
 */
extern uint64 aud_node_identity_hash(const AudRule *rule, const AudNode *node);
extern bool aud_node_identity_equal(const AudRule *rule_a, const AudNode *a,
									const AudRule *rule_b, const AudNode *b);

/*
 * Hash and equality of two subtrees by their form.  What has the same form
 * means the same; the reverse is usual, but do not rely on it.
 */
extern uint32 aud_node_hash(const AudRule *rule, const AudNode *node);
extern bool aud_node_equal(const AudRule *rule_a, const AudNode *a,
						   const AudRule *rule_b, const AudNode *b);

/*
 * A rule of its own made of one subtree.  With "identity" an EVENT node at the
 * top gets the operator "exists" (aud_node_identity_equal of the two holds).  palloc'ed.
 */
extern AudRule *aud_rule_extract(const AudRule *rule, const AudNode *node, bool identity);

#endif							/* AUD_RULE_H */
