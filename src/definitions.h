/*-------------------------------------------------------------------------
 *
 * definitions.h
 *	  Traits, segments and aggregates in backend memory, and which of them an
 *	  event may concern.
 *
 * Loaded once and kept until the definitions change (a relcache invalidation
 * on table segments says so).  Everything in an AudDefinitions lives in its
 * own memory context and is read-only but for the cache of event types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_DEFINITIONS_H
#define AUD_DEFINITIONS_H

#include "postgres.h"

#include "aggregate.h"
#include "utils/hsearch.h"

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
	int			index;			/* of the aggregate or segment */
	int			nused;			/* steps of its path that the aggregate stands for */
	bool		relative;		/* its truth moves with time by itself */
	bool		is_instant;		/* a time operator over the aggregate's value itself */
	bool		is_decimal;		/* compares with one number: threshold */
	AudDecimal	threshold;
	int			nsegments;		/* whose rules hold it */
	int			max_segments;
	int		   *segments;
} AudLeaf;

/* a rule as groups over leaf numbers, pre-order like the rule itself */
typedef struct AudInstruction
{
	uint8		kind;			/* AudNodeKind of a group, TRUE, FALSE; FIELD: a leaf */
	uint32		ninstructions;	/* of this subtree */
	uint32		nchildren;
	int			leaf;
} AudInstruction;

typedef struct AudSegment
{
	int32		number;
	char	   *id;
	bool		is_static;
	bool		is_member_source;	/* active: can have members */
	bool		is_building;	/* not yet whole: they are not seen */
	int64		pending;		/* number of the fill that is going on, 0: none */
	char	   *pending_reason; /* of its transitions */
	int32		version;
	const AudRule *rule;		/* NULL for static ones */
	AudInstruction *program;
	int			rank;			/* position in topological order */
	int			nleaves;		/* leaves "in this segment" and "not in" it */
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

/* which leaves a change of an aggregate's value may turn over */
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
	int64		version;

	TimestampTz events_from;	/* earlier events are refused; DT_NOBEGIN: none */

	int			naggregates;	/* ordered by number, then those not stored */
	int			max_aggregates;
	AudAggregateDef *aggregates;
	AudRoute   *routes;			/* one for each aggregate */
	int			nwindows;
	AudWindow  *windows;
	int			nmoving;		/* aggregates to be looked at whenever time has passed: */
	int		   *moving;			/* sequences, and those whose "where" moves */

	int			ntraits;		/* ordered by name */
	AudTrait   *traits;

	int			nleaves;
	int			max_leaves;
	AudLeaf    *leaves;
	int			nrelative;		/* leaves whose truth moves with time, */
	int		   *relative;		/* but those in their routes' ages */
	int			naged;			/* aggregates that have such */
	int		   *aged;

	int			nsegments;		/* in topological order: rank is the index */
	AudSegment *segments;

	/* what a fill has not yet made for all users (see docs/design.md) */
	int64		newest_pending; /* 0: nothing is pending */
	int			npending_segments;
	int		   *pending_segments;
	int			npending_aggregates;
	int		   *pending_aggregates;

	struct nodes_hash *leaf_index;	/* node -> leaf */
	struct nodes_hash *aggregate_index; /* node's identity -> aggregate */
	HTAB	   *types;			/* event type -> AudEventType */
	HTAB	   *by_id;			/* segment id -> index */
	HTAB	   *by_number;		/* segment number -> index */
} AudDefinitions;

/* definitions.c */
extern const AudDefinitions *aud_definitions_get(void);
extern Oid	aud_definitions_table(const char *name);
extern int	aud_definitions_find_aggregate(const AudDefinitions *defs, const AudRule *rule, const AudNode *node);
extern int	aud_definitions_find_number(const AudDefinitions *defs, int32 number);
extern int	aud_definitions_find_segment(const AudDefinitions *defs, const char *id);
extern int	aud_definitions_find_segment_number(const AudDefinitions *defs, int32 number);
extern int	aud_definitions_find_trait(const AudDefinitions *defs, const char *name, int len);
extern const AudEventType *aud_definitions_event_type(const AudDefinitions *defs, const char *type, int len);

extern AudDefinitions *aud_definitions_overlay(const AudDefinitions *base, const AudRule *rule, AudInstruction **program);

/* definitions_compile.c: building one in its memory context */
extern void aud_definitions_add_aggregate(AudDefinitions *defs, int32 number, int64 pending, const AudRule *rule, const AudNode *node);
extern void aud_definitions_index_aggregates(AudDefinitions *defs);
extern AudInstruction *aud_definitions_compile_rule(AudDefinitions *defs, const AudRule *rule, int segment);
extern void aud_definitions_sort_segments(AudDefinitions *defs);
extern void aud_definitions_route(AudDefinitions *defs);

/* definitions_lock.c */
extern void aud_definitions_lock_shared(void);
extern const AudDefinitions *aud_definitions_get_shared(void);

#endif							/* AUD_DEFINITIONS_H */
