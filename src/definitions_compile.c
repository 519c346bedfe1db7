/*-------------------------------------------------------------------------
 *
 * definitions_compile.c
 *	  From rules to leaves, programs and routes.
 *
 * Every rule is taken apart into its leaves, equal ones being shared, and a
 * program of groups over leaf numbers.  From the leaves over an aggregate a
 * route is made: which of them a change of its value can turn over.
 *
 *	  value moves from v0 to v1		looked at
 *	  numbers						leaves with a constant between the two
 *	  texts							eq and in leaves with one of the two
 *	  anything						leaves of other kinds
 *
 * so that the work depends on how many leaves turn over, not on how many
 * there are (compare "A Novel Approach to Event Matching", Fabret et al.,
 * SIGMOD 2001, which counts predicates per event in the same way).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"

#include "definitions.h"
#include "nodes_hash.h"

/* Makes room for one more element of a growing array. */
#define GROW(array, used, max) \
	do { \
		if ((used) == (max)) \
		{ \
			(max) = (max) ? (max) * 2 : 4; \
			(array) = (array) ? repalloc(array, (max) * sizeof(*(array))) \
				: palloc((max) * sizeof(*(array))); \
		} \
	} while (0)

/*
 * Adds an aggregate made of an EVENT or SEQUENCE node.  Stored ones come in
 * the order of their numbers, before those that are not.
 */
void
aud_definitions_add_aggregate(AudDefinitions *defs, int32 number, int64 pending,
							  const AudRule *rule, const AudNode *node)
{
	bool		found;
	AudNodeRef	key = {rule, node, true};

	GROW(defs->aggregates, defs->naggregates, defs->max_aggregates);
	aud_aggregate_init(&defs->aggregates[defs->naggregates], number, rule, node);
	defs->aggregates[defs->naggregates].pending = pending;
	nodes_insert(defs->aggregate_index, key, &found)->index = defs->naggregates;
	defs->naggregates++;
}

/* The aggregate that an EVENT or SEQUENCE node asks for, -1 if there is none. */
int
aud_definitions_find_aggregate(const AudDefinitions *defs, const AudRule *rule,
							   const AudNode *node)
{
	AudNodeRef	key = {rule, node, true};
	AudNodeEntry *entry = nodes_lookup(defs->aggregate_index, key);

	return entry != NULL ? entry->index : -1;
}

/* Orders windows by length. */
static int
compare_windows(const void *a, const void *b)
{
	int64		x = ((const AudWindow *) a)->last;
	int64		y = ((const AudWindow *) b)->last;

	return (x > y) - (x < y);
}

/*
 * Groups the aggregates by sliding window, and lists those that must be looked
 * at whenever time has passed and those that are pending.
 */
void
aud_definitions_index_aggregates(AudDefinitions *defs)
{
	defs->windows = palloc0(Max(defs->naggregates, 1) * sizeof(AudWindow));
	defs->moving = palloc(Max(defs->naggregates, 1) * sizeof(int));
	defs->pending_aggregates = palloc(Max(defs->naggregates, 1) * sizeof(int));
	defs->nwindows = defs->nmoving = defs->npending_aggregates = 0;
	for (int i = 0; i < defs->naggregates; i++)
	{
		AudAggregateDef *def = &defs->aggregates[i];
		int			w;

		if (def->pending != 0)
			defs->pending_aggregates[defs->npending_aggregates++] = i;
		defs->newest_pending = Max(defs->newest_pending, def->pending);
		if (def->state == AUD_STATE_SEQUENCE || def->where_moves)
		{
			defs->moving[defs->nmoving++] = i;
			continue;
		}
		if (def->last == 0)
			continue;
		for (w = 0; w < defs->nwindows; w++)
			if (defs->windows[w].last == def->last)
				break;
		if (w == defs->nwindows)
		{
			defs->windows[w].last = def->last;
			defs->windows[w].aggregates = palloc(defs->naggregates * sizeof(int));
			defs->nwindows++;
		}
		defs->windows[w].aggregates[defs->windows[w].naggregates++] = i;
	}
	qsort(defs->windows, defs->nwindows, sizeof(AudWindow), compare_windows);
}

/* Sets a FIELD leaf's source by its path's first step. */
static void
resolve_field(AudDefinitions *defs, AudLeaf *leaf)
{
	const AudPath *path = AUD_NODE_PATH(leaf->rule, leaf->node);
	const AudPathStep *first = &path->steps[0];
	const char *key;

	leaf->source = AUD_LEAF_ATTRIBUTE;
	leaf->index = -1;
	leaf->nused = 0;
	if (first->kind != AUD_STEP_KEY)
		return;
	key = AUD_AT(leaf->rule, first->key);
	if (first->keylen == 6 && memcmp(key, "userId", 6) == 0)
		leaf->source = path->nsteps == 1 ? AUD_LEAF_USER_ID : AUD_LEAF_NEVER;
	else
	{
		int			trait = aud_definitions_find_trait(defs, key, first->keylen);

		if (trait >= 0)
		{
			leaf->source = AUD_LEAF_AGGREGATE;
			leaf->index = defs->traits[trait].aggregate;
			leaf->nused = 1;
		}
	}
}

/* Fills a leaf from its node: where its value comes from, and its threshold. */
static void
resolve_leaf(AudDefinitions *defs, AudLeaf *leaf)
{
	const AudNode *node = leaf->node;

	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_FIELD:
			resolve_field(defs, leaf);
			break;
		case AUD_NODE_EVENT:
		case AUD_NODE_SEQUENCE:
			leaf->source = AUD_LEAF_AGGREGATE;
			leaf->index = aud_definitions_find_aggregate(defs, leaf->rule, node);
			leaf->nused = 0;
			if (leaf->index < 0)
				elog(ERROR, "no aggregate for an event node");
			break;
		case AUD_NODE_SEGMENT:
			leaf->source = AUD_LEAF_SEGMENT;
			leaf->index = -1;	/* when the segments are in order */
			break;
		case AUD_NODE_SAMPLE:
			leaf->source = AUD_LEAF_SAMPLE;
			break;
		default:
			elog(ERROR, "node kind %d is not a leaf", node->kind);
	}
	leaf->relative = AUD_OP_IS_RELATIVE_TIME(node->op);
	leaf->is_instant = leaf->source == AUD_LEAF_AGGREGATE &&
		node->op >= AUD_OP_BEFORE && node->op <= AUD_OP_AFTER_NEXT &&
		(node->kind == AUD_NODE_EVENT ||
		 AUD_NODE_PATH(leaf->rule, node)->nsteps == 1);
	switch ((AudOp) node->op)
	{
		case AUD_OP_EQ:
		case AUD_OP_GT:
		case AUD_OP_GTE:
		case AUD_OP_LT:
		case AUD_OP_LTE:
			if (AUD_NODE_VALUE(leaf->rule, node)->type == AUD_VALUE_NUMBER &&
				leaf->source == AUD_LEAF_AGGREGATE &&
				(node->kind == AUD_NODE_EVENT ||
				 AUD_NODE_PATH(leaf->rule, node)->nsteps == 1))
			{
				leaf->is_decimal = true;
				aud_decimal_set_numeric(&leaf->threshold,
										AUD_VALUE_NUMERIC(AUD_NODE_VALUE(leaf->rule, node)));
			}
			break;
		default:
			break;
	}
}

/* The number of the leaf that a node is, and notes the segment that holds it. */
static int
intern_leaf(AudDefinitions *defs, const AudRule *rule, const AudNode *node,
			int segment)
{
	AudNodeRef	key = {rule, node, false};
	bool		found;
	AudNodeEntry *entry = nodes_insert(defs->leaf_index, key, &found);
	AudLeaf    *leaf;

	if (!found)
	{
		entry->index = defs->nleaves;
		GROW(defs->leaves, defs->nleaves, defs->max_leaves);
		leaf = &defs->leaves[defs->nleaves++];
		memset(leaf, 0, sizeof(*leaf));
		leaf->rule = rule;
		leaf->node = node;
		resolve_leaf(defs, leaf);
	}
	leaf = &defs->leaves[entry->index];
	if (segment >= 0 &&
		(leaf->nsegments == 0 || leaf->segments[leaf->nsegments - 1] != segment))
	{
		GROW(leaf->segments, leaf->nsegments, leaf->max_segments);
		leaf->segments[leaf->nsegments++] = segment;
	}
	return leaf - defs->leaves;
}

/* Emits one subtree's instructions; returns how many. */
static uint32
emit(AudDefinitions *defs, const AudRule *rule, const AudNode *node, int segment,
	 AudInstruction *out)
{
	check_stack_depth();
	memset(out, 0, sizeof(*out));
	out->ninstructions = 1;
	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_TRUE:
		case AUD_NODE_FALSE:
			out->kind = node->kind;
			break;
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
		case AUD_NODE_NOT:
			{
				const AudNode *child = AUD_FIRST_CHILD(node);

				out->kind = node->kind;
				out->nchildren = node->nchildren;
				for (uint32 i = 0; i < node->nchildren; i++, child = AUD_NEXT_SIBLING(child))
					out->ninstructions += emit(defs, rule, child, segment,
											   out + out->ninstructions);
				break;
			}
		default:
			out->kind = AUD_NODE_FIELD;
			out->leaf = intern_leaf(defs, rule, node, segment);
			break;
	}
	return out->ninstructions;
}

/*
 * Compiles a rule; "segment" (its index, or -1) is noted at each leaf.  The
 * rule must live as long as the definitions.
 */
AudInstruction *
aud_definitions_compile_rule(AudDefinitions *defs, const AudRule *rule, int segment)
{
	AudInstruction *program = palloc(rule->nnodes * sizeof(AudInstruction));

	emit(defs, rule, AUD_RULE_ROOT(rule), segment, program);
	return program;
}

/* Depth-first search state of the topological sort. */
typedef struct SortState
{
	AudDefinitions *defs;
	char	   *color;			/* 0: not seen, 1: on the path, 2: done */
	int		   *path;
	int			depth;
	int		   *order;
	int			norder;
} SortState;

/* Reports the cycle that ends with the path's last segment. */
static void
report_cycle(SortState *state, int segment)
{
	StringInfoData text;
	int			i = 0;

	initStringInfo(&text);
	while (state->path[i] != segment)
		i++;
	for (; i < state->depth; i++)
		appendStringInfo(&text, "%s -> ", state->defs->segments[state->path[i]].id);
	appendStringInfoString(&text, state->defs->segments[segment].id);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("segments refer to one another in a cycle"),
			 errdetail("%s", text.data)));
}

/* Visits a segment after all that its rule refers to. */
static void
visit(SortState *state, int segment)
{
	const AudRule *rule = state->defs->segments[segment].rule;

	check_stack_depth();
	if (state->color[segment] == 2)
		return;
	if (state->color[segment] == 1)
		report_cycle(state, segment);
	state->color[segment] = 1;
	state->path[state->depth++] = segment;
	if (rule != NULL && (rule->needs & AUD_NEEDS_SEGMENTS))
		for (uint32 i = 0; i < rule->nnodes; i++)
			if (rule->nodes[i].kind == AUD_NODE_SEGMENT)
			{
				int			other = aud_definitions_find_segment(state->defs,
																 AUD_VALUE_TEXT_PTR(AUD_NODE_VALUE(rule, &rule->nodes[i])));

				if (other >= 0)
					visit(state, other);
			}
	state->depth--;
	state->color[segment] = 2;
	state->order[state->norder++] = segment;
}

/*
 * Brings the segments into an order in which each stands behind those that its
 * rule refers to.  A cycle is an error (42P17) that names it.
 */
void
aud_definitions_sort_segments(AudDefinitions *defs)
{
	int			n = defs->nsegments;
	SortState	state = {.defs = defs};
	AudSegment *sorted = palloc(Max(n, 1) * sizeof(AudSegment));

	state.color = palloc0(n + 1);
	state.path = palloc((n + 1) * sizeof(int));
	state.order = palloc((n + 1) * sizeof(int));
	for (int i = 0; i < n; i++)
		visit(&state, i);
	for (int i = 0; i < n; i++)
	{
		sorted[i] = defs->segments[state.order[i]];
		sorted[i].rank = i;
	}
	defs->segments = sorted;
}

/* Orders thresholds by value. */
static int
compare_thresholds(const void *a, const void *b)
{
	double		x = ((const AudThreshold *) a)->value;
	double		y = ((const AudThreshold *) b)->value;

	return (x > y) - (x < y);
}

/* Orders text keys by hash. */
static int
compare_text_keys(const void *a, const void *b)
{
	uint32		x = ((const AudTextKey *) a)->hash;
	uint32		y = ((const AudTextKey *) b)->hash;

	return (x > y) - (x < y);
}

/* Orders ages by duration. */
static int
compare_durations(const void *a, const void *b)
{
	int64		x = ((const AudAge *) a)->duration;
	int64		y = ((const AudAge *) b)->duration;

	return (x > y) - (x < y);
}

/* The double nearest to a constant. */
static double
constant_double(const AudValue *value)
{
	AudDecimal	number;

	aud_decimal_set_numeric(&number, AUD_VALUE_NUMERIC(value));
	return aud_decimal_double(&number);
}

/* Room for what one route is made of, while it grows. */
typedef struct RouteBuilder
{
	AudRoute   *route;
	int			max_thresholds;
	int			max_texts;
	int			max_ages;
} RouteBuilder;

/* Adds a constant of a leaf to its route. */
static void
add_constant(RouteBuilder *builder, const AudValue *value, int leaf)
{
	AudRoute   *route = builder->route;

	if (value->type == AUD_VALUE_NUMBER)
	{
		GROW(route->thresholds, route->nthresholds, builder->max_thresholds);
		route->thresholds[route->nthresholds].value = constant_double(value);
		route->thresholds[route->nthresholds++].leaf = leaf;
	}
	else
	{
		GROW(route->texts, route->ntexts, builder->max_texts);
		route->texts[route->ntexts].hash =
			hash_bytes((const unsigned char *) AUD_VALUE_TEXT_PTR(value), value->len);
		route->texts[route->ntexts++].leaf = leaf;
	}
}

/*
 * Can the leaf's truth change only where the value passes, or is, one of its
 * constants?  True for comparisons with numbers, and for eq and in with texts,
 * over the aggregate's value itself.
 */
static bool
turns_at_constants(const AudLeaf *leaf, const AudValue **value)
{
	const AudNode *node = leaf->node;

	*value = NULL;
	if ((node->flags & AUD_CI) || node->kind == AUD_NODE_SEQUENCE ||
		(node->kind == AUD_NODE_FIELD &&
		 AUD_NODE_PATH(leaf->rule, node)->nsteps > 1))
		return false;
	switch ((AudOp) node->op)
	{
		case AUD_OP_EQ:
		case AUD_OP_GT:
		case AUD_OP_GTE:
		case AUD_OP_LT:
		case AUD_OP_LTE:
		case AUD_OP_BETWEEN:
		case AUD_OP_IN:
			break;
		default:
			return false;
	}
	*value = AUD_NODE_VALUE(leaf->rule, node);
	if ((*value)->type == AUD_VALUE_LIST)
	{
		for (uint32 i = 0; i < (*value)->len; i++)
		{
			const AudValue *item = AUD_VALUE_ITEM(leaf->rule, *value, i);

			if (item->type != AUD_VALUE_NUMBER &&
				(item->type != AUD_VALUE_TEXT || node->op != AUD_OP_IN))
				return false;
		}
		return true;
	}
	return (*value)->type == AUD_VALUE_NUMBER ||
		((*value)->type == AUD_VALUE_TEXT && node->op == AUD_OP_EQ);
}

/*
 * Can the leaf's truth change only where the time that its aggregate is
 * becomes older, or newer, than the leaf's duration?
 */
static bool
turns_at_age(const AudDefinitions *defs, const AudLeaf *leaf)
{
	AudAggregate kind;

	if (leaf->source != AUD_LEAF_AGGREGATE || !leaf->is_instant)
		return false;
	kind = defs->aggregates[leaf->index].kind;
	return (kind == AUD_AGG_FIRST_TIME || kind == AUD_AGG_LAST_TIME) &&
		(leaf->node->op == AUD_OP_WITHIN_LAST || leaf->node->op == AUD_OP_BEFORE_LAST);
}

/* Adds a leaf to the route of its aggregate. */
static void
add_to_route(RouteBuilder *builder, const AudDefinitions *defs, int index)
{
	const AudLeaf *leaf = &defs->leaves[index];
	AudRoute   *route = builder->route;
	const AudValue *value;

	route->leaves[route->nleaves++] = index;
	if (turns_at_age(defs, leaf))
	{
		GROW(route->ages, route->nages, builder->max_ages);
		route->ages[route->nages].duration =
			AUD_VALUE_INT64(AUD_NODE_VALUE(leaf->rule, leaf->node));
		route->ages[route->nages++].leaf = index;
	}
	else if (!turns_at_constants(leaf, &value))
		route->others[route->nothers++] = index;
	else if (value->type == AUD_VALUE_LIST)
		for (uint32 i = 0; i < value->len; i++)
			add_constant(builder, AUD_VALUE_ITEM(leaf->rule, value, i), index);
	else
		add_constant(builder, value, index);
}

/*
 * Makes the routes, resolves the leaves over segments, and lists the leaves
 * that move with time.  After all rules are compiled.
 */
void
aud_definitions_route(AudDefinitions *defs)
{
	RouteBuilder *builders = palloc0(Max(defs->naggregates, 1) * sizeof(RouteBuilder));
	int		   *counts = palloc0(Max(defs->naggregates, 1) * sizeof(int));

	defs->routes = palloc0(Max(defs->naggregates, 1) * sizeof(AudRoute));
	defs->relative = palloc(Max(defs->nleaves, 1) * sizeof(int));
	defs->nrelative = 0;
	defs->aged = palloc(Max(defs->naggregates, 1) * sizeof(int));
	defs->naged = 0;
	for (int i = 0; i < defs->nleaves; i++)
		if (defs->leaves[i].source == AUD_LEAF_AGGREGATE)
			counts[defs->leaves[i].index]++;
	for (int i = 0; i < defs->naggregates; i++)
	{
		builders[i].route = &defs->routes[i];
		if (counts[i] > 0)
		{
			defs->routes[i].leaves = palloc(counts[i] * sizeof(int));
			defs->routes[i].others = palloc(counts[i] * sizeof(int));
		}
	}
	for (int i = 0; i < defs->nleaves; i++)
	{
		AudLeaf    *leaf = &defs->leaves[i];

		if (leaf->relative && !turns_at_age(defs, leaf))
			defs->relative[defs->nrelative++] = i;
		if (leaf->source == AUD_LEAF_AGGREGATE)
			add_to_route(&builders[leaf->index], defs, i);
		else if (leaf->source == AUD_LEAF_SEGMENT)
		{
			leaf->index = aud_definitions_find_segment(defs,
													   AUD_VALUE_TEXT_PTR(AUD_NODE_VALUE(leaf->rule, leaf->node)));
			if (leaf->index >= 0)
			{
				AudSegment *segment = &defs->segments[leaf->index];

				segment->leaves[segment->nleaves++] = i;
			}
		}
	}
	for (int i = 0; i < defs->naggregates; i++)
	{
		AudRoute   *route = &defs->routes[i];

		if (route->nthresholds > 1)
			qsort(route->thresholds, route->nthresholds, sizeof(AudThreshold), compare_thresholds);
		if (route->ntexts > 1)
			qsort(route->texts, route->ntexts, sizeof(AudTextKey), compare_text_keys);
		if (route->nages > 1)
			qsort(route->ages, route->nages, sizeof(AudAge), compare_durations);
		if (route->nages > 0)
			defs->aged[defs->naged++] = i;
	}
}
