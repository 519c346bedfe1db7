/*-------------------------------------------------------------------------
 *
 * definitions.h
 *	  Traits, segments and aggregates in backend memory, and which of them an
 *	  event may concern.
 *
 * Loaded once and kept until the definitions change (a relcache invalidation
 * on table definition_version says so).  Everything in an AudDefinitions lives
 * in its own memory context and is read-only but for the caches of event types
 * and of blocked segments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_DEFINITIONS_H
#define AUD_DEFINITIONS_H

#include "postgres.h"

#include "aggregate.h"
#include "utils/hsearch.h"
#include "utils/relcache.h"

/* where a leaf's value comes from */
typedef enum AudLeafSource
{
	AUD_LEAF_ATTRIBUTE,			/* a path into the attributes */
	AUD_LEAF_USER_ID,
	AUD_LEAF_AGGREGATE,			/* a trait, an EVENT or a SEQUENCE */
	AUD_LEAF_SEGMENT,
	AUD_LEAF_SAMPLE,
	AUD_LEAF_NEVER				/* nothing there: a missing value */
} AudLeafSource;

/* a leaf; leaves that are equal in several rules are one */
typedef struct AudLeaf
{
	const AudRule *rule;
	const AudNode *node;
	AudLeafSource source;
	int			index;			/* of the aggregate, segment or attribute */
	int			nused;			/* steps of its path that the aggregate stands for */
	uint8		op;				/* of the node */
	bool		negated;
	bool		relative;		/* its truth moves with time by itself */
	bool		is_instant;		/* a time operator over the aggregate's value itself */
	bool		is_decimal;		/* compares with one number: threshold */
	AudDecimal	threshold;
	int			nsegments;		/* active ones whose rules hold it */
	int		   *segments;
	uint8	   *roles;			/* what it is to each of them */
} AudLeaf;

/* what a leaf is to a rule, whatever else may be true */
#define AUD_ROLE_NEEDED		0x01	/* the rule is false if the leaf is */
#define AUD_ROLE_REFUSED	0x02	/* the rule is false if the leaf is true */

/* a rule as groups over leaf numbers, pre-order like the rule itself */
typedef struct AudInstruction
{
	uint32		kind:8;			/* AudNodeKind of a group, TRUE, FALSE; FIELD: a leaf */
	uint32		ninstructions:24;	/* of this subtree */
	uint32		operand;		/* how many children; FIELD: number of the leaf */
} AudInstruction;

typedef struct AudSegment
{
	int32		number;
	int32		version;
	const char *id;
	const AudInstruction *program;	/* NULL for static ones */
	int64		pending;		/* number of the fill that is going on, 0: none */
	const char *pending_reason; /* of its transitions */
	bool		is_static;
	bool		is_member_source;	/* active: can have members */
	bool		is_building;	/* not yet whole: they are not seen */
	uint8		nleaves;		/* leaves "in this segment" and "not in" it */
	int			leaves[2];
} AudSegment;

typedef struct AudTrait
{
	char	   *name;
	int			aggregate;
} AudTrait;

/* one threshold of a leaf over an aggregate, ordered by value */
typedef struct AudThreshold
{
	double		value;
	int			leaf;
} AudThreshold;

/* one constant text of an eq or in leaf over an aggregate, ordered by hash */
typedef struct AudTextKey
{
	uint32		hash;
	int			leaf;
} AudTextKey;

/* one duration of a within_last or before_last leaf, ordered by duration */
typedef struct AudAge
{
	int64		duration;		/* us */
	int			leaf;
} AudAge;

/* which leaves a change of an aggregate's, or attribute's, value may turn over */
typedef struct AudRoute
{
	int			nthresholds;
	AudThreshold *thresholds;
	int			ntexts;
	AudTextKey *texts;
	int			nages;			/* of an aggregate that is a time: by how long ago it is */
	AudAge	   *ages;
	int			nothers;		/* to be looked at after any change */
	int		   *others;
	int			nleaves;		/* all of them */
	int		   *leaves;
} AudRoute;

/* a key of the attributes that rules look at, and the leaves that do */
typedef struct AudAttribute
{
	const char *key;			/* NULL: those that look at no key, but at all of them */
	int			keylen;
	AudRoute	route;
} AudAttribute;

/* aggregates that share a sliding window */
typedef struct AudWindow
{
	int64		last;			/* us */
	int			naggregates;
	int		   *aggregates;
} AudWindow;

/* what an event type feeds */
typedef struct AudEventType
{
	int			naggregates;
	int		   *aggregates;
} AudEventType;

typedef struct AudDefinitions
{
	MemoryContext mcxt;
	uint64		serial;			/* of the set in this session: no two have the same */
	int			npins;			/* who has asked for it (definitions.c) */
	int64		version;		/* one for each transaction that has changed definitions */

	TimestampTz events_from;	/* earlier events are refused; DT_NOBEGIN: none */
	int			nsinks;			/* of transitions */
	int32	   *sinks;			/* their numbers */

	int			naggregates;	/* ordered by number, then those not stored */
	int			max_aggregates;
	AudAggregateDef *aggregates;
	AudRoute   *routes;			/* one for each aggregate */
	int			nattributes;
	AudAttribute *attributes;
	struct AudBlockers *blockers;	/* of segments that cannot hold (blockers.c) */
	int			nwindows;
	AudWindow  *windows;
	int			nmoving;		/* aggregates to be looked at whenever time has passed: */
	int		   *moving;			/* sequences, and those whose "where" moves */

	int			ntraits;		/* ordered by name */
	AudTrait   *traits;

	int			nleaves;
	AudLeaf    *leaves;
	int			nrelative;		/* leaves whose truth moves with time, */
	int		   *relative;		/* but those in their routes' ages */
	int			naged;			/* aggregates that have such */
	int		   *aged;

	int			nsegments;		/* in topological order */
	AudSegment *segments;
	int		   *by_number;		/* their indexes in the order of their numbers */
	uint32	   *by_id;			/* hash table of their indexes + 1, 0: empty */
	uint32		by_id_mask;

	/* what a fill has not yet made for all users (see docs/design.md) */
	int64		newest_pending; /* 0: nothing is pending */
	int			npending_segments;
	int		   *pending_segments;
	int			npending_aggregates;
	int		   *pending_aggregates;

	struct nodes_hash *aggregate_index; /* node's identity -> aggregate */
	HTAB	   *types;			/* event type -> AudEventType */
} AudDefinitions;

/* The id that a leaf "in segment" or "not in segment" names. */
static inline const char *
aud_leaf_segment_id(const AudLeaf *leaf)
{
	return AUD_VALUE_TEXT_PTR(AUD_NODE_VALUE(leaf->rule, leaf->node));
}

/* Makes room for one more element of a growing array, in the current context. */
#define AUD_GROW(array, used, max) \
	do { \
		if ((used) == (max)) \
		{ \
			(max) = (max) ? (max) * 2 : 4; \
			(array) = (array) ? repalloc_huge(array, (max) * sizeof(*(array))) \
				: palloc((max) * sizeof(*(array))); \
		} \
	} while (0)

/* definitions.c */
extern const AudDefinitions *aud_definitions_get(void);
extern Oid	aud_definitions_table(const char *name);
extern Oid	aud_definitions_key(Relation rel, int ncolumns);
extern void aud_definitions_init(AudDefinitions *defs);
extern int	aud_definitions_find_aggregate(const AudDefinitions *defs, const AudRule *rule, const AudNode *node);
extern int	aud_definitions_find_number(const AudDefinitions *defs, int32 number);
extern int	aud_definitions_find_trait(const AudDefinitions *defs, const char *name, int len);
extern const AudEventType *aud_definitions_event_type(const AudDefinitions *defs, const char *type, int len);

extern AudDefinitions *aud_definitions_overlay(const AudDefinitions *base, const AudRule *rule, const AudInstruction **program);

/* definitions_load.c: reading them from the tables */
extern AudDefinitions *aud_definitions_load(void);

/* definitions_compile.c: building a set in its memory context */
typedef struct AudCompiler AudCompiler;
extern void aud_definitions_add_aggregate(AudDefinitions *defs, int32 number, int64 pending, const AudRule *rule, const AudNode *node);
extern void aud_definitions_index_aggregates(AudDefinitions *defs);
extern AudCompiler *aud_compiler_begin(AudDefinitions *defs, MemoryContext work);
extern int	aud_compiler_add_rule(AudCompiler *compiler, const AudRule *rule, bool lasting, int segment);
extern const AudInstruction *aud_compiler_finish(AudCompiler *compiler);
extern void aud_compiler_note_segments(AudCompiler *compiler, const int *indexes);
extern void aud_definitions_route(AudDefinitions *defs, MemoryContext work);
extern bool aud_leaf_turns_at_constants(const AudLeaf *leaf, const AudValue **value);
extern double aud_constant_double(const AudValue *value);

/* decide.c: the first text of a route with this hash, -1: none */
extern int	aud_route_first_text(const AudRoute *route, uint32 hash);

/* definitions_order.c: segments in order, and found by id and number */
extern int *aud_definitions_order_segments(AudDefinitions *defs, MemoryContext work);
extern int	aud_definitions_find_segment(const AudDefinitions *defs, const char *id);
extern int	aud_definitions_find_segment_number(const AudDefinitions *defs, int32 number);

/* definitions_lock.c */
extern void aud_definitions_lock_shared(void);
extern const AudDefinitions *aud_definitions_get_shared(void);

#endif							/* AUD_DEFINITIONS_H */
