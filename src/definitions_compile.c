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
#include "port/pg_bitutils.h"

#include "definitions.h"
#include "nodes_hash.h"

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

	AUD_GROW(defs->aggregates, defs->naggregates, defs->max_aggregates);
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

/* an aggregate over a sliding window, for sorting */
typedef struct Windowed
{
	int64		last;
	int			aggregate;
} Windowed;

/* Orders by the window's length, then as the aggregates are. */
static int
compare_windowed(const void *a, const void *b)
{
	const Windowed *x = a;
	const Windowed *y = b;

	if (x->last != y->last)
		return x->last < y->last ? -1 : 1;
	return (x->aggregate > y->aggregate) - (x->aggregate < y->aggregate);
}

/* Groups the aggregates by their windows, the shortest first. */
static void
group_by_window(AudDefinitions *defs, Windowed *windowed, int n)
{
	int		   *aggregates = palloc(Max(n, 1) * sizeof(int));

	qsort(windowed, n, sizeof(Windowed), compare_windowed);
	defs->nwindows = 0;
	for (int i = 0; i < n; i++)
		defs->nwindows += i == 0 || windowed[i].last != windowed[i - 1].last;
	defs->windows = palloc0(Max(defs->nwindows, 1) * sizeof(AudWindow));
	for (int i = 0, w = -1; i < n; i++)
	{
		if (i == 0 || windowed[i].last != windowed[i - 1].last)
		{
			defs->windows[++w].last = windowed[i].last;
			defs->windows[w].aggregates = &aggregates[i];
		}
		defs->windows[w].naggregates++;
		aggregates[i] = windowed[i].aggregate;
	}
}

/*
 * Groups the aggregates by sliding window, and lists those that must be looked
 * at whenever time has passed and those that are pending.
 */
void
aud_definitions_index_aggregates(AudDefinitions *defs)
{
	Windowed   *windowed = palloc(Max(defs->naggregates, 1) * sizeof(Windowed));
	int			nwindowed = 0;

	defs->moving = palloc(Max(defs->naggregates, 1) * sizeof(int));
	defs->pending_aggregates = palloc(Max(defs->naggregates, 1) * sizeof(int));
	defs->nmoving = defs->npending_aggregates = 0;
	for (int i = 0; i < defs->naggregates; i++)
	{
		AudAggregateDef *def = &defs->aggregates[i];

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
		windowed[nwindowed].last = def->last;
		windowed[nwindowed++].aggregate = i;
	}
	group_by_window(defs, windowed, nwindowed);
	pfree(windowed);
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

/*
 * Fills a leaf from its node: where its value comes from, and its threshold.
 * What finding its aggregate takes meanwhile is allocated in "work".
 */
static void
resolve_leaf(AudDefinitions *defs, AudLeaf *leaf, MemoryContext work)
{
	const AudNode *node = leaf->node;
	MemoryContext old;

	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_FIELD:
			resolve_field(defs, leaf);
			break;
		case AUD_NODE_EVENT:
		case AUD_NODE_SEQUENCE:
			leaf->source = AUD_LEAF_AGGREGATE;
			old = MemoryContextSwitchTo(work);
			leaf->index = aud_definitions_find_aggregate(defs, leaf->rule, node);
			MemoryContextSwitchTo(old);
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
	leaf->op = node->op;
	leaf->negated = (node->flags & AUD_NEGATED) != 0;
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
				(leaf->source == AUD_LEAF_AGGREGATE || leaf->source == AUD_LEAF_ATTRIBUTE) &&
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

/* a segment whose rule holds a leaf, and the leaf's posting before it */
typedef struct Posting
{
	int			segment;
	int			previous;		/* -1: none */
	uint8		roles;
} Posting;

/* Leaves and programs while rules are taken apart; grows in "work". */
struct AudCompiler
{
	AudDefinitions *defs;
	MemoryContext work;
	struct nodes_hash *leaf_index;	/* node -> leaf */
	AudLeaf    *leaves;			/* defs->nleaves of them */
	int			max_leaves;
	int		   *last_postings;	/* of each leaf, -1: none */
	int			max_last_postings;
	Posting    *postings;
	int			npostings;
	int			max_postings;
	AudInstruction *programs;	/* of all rules */
	int			nprograms;
	int			max_programs;

	/* the rule being added */
	const AudRule *rule;
	const AudRule *kept;		/* a copy that lasts, once one is needed */
	int			segment;
};

/* A compiler of rules into leaves of these definitions, of which there are none. */
AudCompiler *
aud_compiler_begin(AudDefinitions *defs, MemoryContext work)
{
	AudCompiler *compiler = MemoryContextAllocZero(work, sizeof(AudCompiler));

	compiler->defs = defs;
	compiler->work = work;
	compiler->leaf_index = nodes_create(work, 64, NULL);
	defs->nleaves = 0;
	return compiler;
}

/* Makes a leaf of a node that is the first of its kind; its rule is kept. */
static int
add_leaf(AudCompiler *compiler, const AudNode *node, AudNodeEntry *entry)
{
	AudDefinitions *defs = compiler->defs;
	int			index = defs->nleaves;
	AudLeaf    *leaf;
	MemoryContext old;

	if (compiler->kept == NULL)
	{
		AudRule    *copy = palloc(VARSIZE(compiler->rule));

		memcpy(copy, compiler->rule, VARSIZE(compiler->rule));
		compiler->kept = copy;
	}
	node = compiler->kept->nodes + (node - compiler->rule->nodes);
	entry->key.rule = compiler->kept;
	entry->key.node = node;
	entry->index = index;
	old = MemoryContextSwitchTo(compiler->work);
	AUD_GROW(compiler->leaves, defs->nleaves, compiler->max_leaves);
	AUD_GROW(compiler->last_postings, defs->nleaves, compiler->max_last_postings);
	MemoryContextSwitchTo(old);
	compiler->last_postings[index] = -1;
	defs->nleaves++;
	leaf = &compiler->leaves[index];
	memset(leaf, 0, sizeof(*leaf));
	leaf->rule = compiler->kept;
	leaf->node = node;
	resolve_leaf(defs, leaf, compiler->work);
	return index;
}

/* The number of the leaf that a node is; notes the segment that holds it, and as what. */
static int
intern_leaf(AudCompiler *compiler, const AudNode *node, uint8 role)
{
	AudNodeRef	key = {compiler->rule, node, false};
	bool		found;
	AudNodeEntry *entry = nodes_insert(compiler->leaf_index, key, &found);
	int			index = found ? entry->index : add_leaf(compiler, node, entry);
	int			last = compiler->last_postings[index];
	MemoryContext old;

	if (compiler->segment < 0)
		return index;
	if (last >= 0 && compiler->postings[last].segment == compiler->segment)
	{
		compiler->postings[last].roles |= role;
		return index;
	}
	old = MemoryContextSwitchTo(compiler->work);
	AUD_GROW(compiler->postings, compiler->npostings, compiler->max_postings);
	MemoryContextSwitchTo(old);
	compiler->postings[compiler->npostings].segment = compiler->segment;
	compiler->postings[compiler->npostings].previous = last;
	compiler->postings[compiler->npostings].roles = role;
	compiler->last_postings[index] = compiler->npostings++;
	compiler->leaves[index].nsegments++;
	return index;
}

/*
 * What the children of a group are to the rule, where the group itself is
 * needed, refused, or neither (0).
 */
static uint8
role_of_children(const AudNode *group, uint8 role)
{
	bool		negates = group->kind == AUD_NODE_NOT || group->kind == AUD_NODE_NONE;
	bool		is_all = group->kind == AUD_NODE_ALL || group->kind == AUD_NODE_NONE;

	/* one child of several that must not all hold, or of which one must: neither */
	if (group->nchildren != 1 && is_all != (role == AUD_ROLE_NEEDED))
		return 0;
	if (role == 0 || !negates)
		return role;
	return role == AUD_ROLE_NEEDED ? AUD_ROLE_REFUSED : AUD_ROLE_NEEDED;
}

/*
 * Emits one subtree's instructions, which is so to the rule; returns how many.
 */
static uint32
emit(AudCompiler *compiler, const AudNode *node, uint8 role)
{
	int			at = compiler->nprograms;
	AudInstruction out = {.kind = node->kind, .ninstructions = 1};
	MemoryContext old = MemoryContextSwitchTo(compiler->work);

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	AUD_GROW(compiler->programs, compiler->nprograms, compiler->max_programs);
	MemoryContextSwitchTo(old);
	compiler->nprograms++;
	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_TRUE:
		case AUD_NODE_FALSE:
			break;
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
		case AUD_NODE_NOT:
			{
				const AudNode *child = AUD_FIRST_CHILD(node);

				out.operand = node->nchildren;
				for (uint32 i = 0; i < node->nchildren; i++, child = AUD_NEXT_SIBLING(child))
					out.ninstructions += emit(compiler, child, role_of_children(node, role));
				break;
			}
		default:
			out.kind = AUD_NODE_FIELD;
			out.operand = intern_leaf(compiler, node, role);
			break;
	}
	compiler->programs[at] = out;
	return out.ninstructions;
}

/*
 * Compiles a rule, which must live as long as the definitions if it is
 * "lasting"; otherwise it is copied if need be.  "segment" (its index, or -1)
 * is noted at each leaf.  Returns where the program begins among all.
 */
int
aud_compiler_add_rule(AudCompiler *compiler, const AudRule *rule, bool lasting, int segment)
{
	int			at = compiler->nprograms;

	compiler->rule = rule;
	compiler->kept = lasting ? rule : NULL;
	compiler->segment = segment;
	(void) emit(compiler, AUD_RULE_ROOT(rule), AUD_ROLE_NEEDED);
	return at;
}

/*
 * Gives the definitions their leaves, once all rules are there; the programs
 * of all of them, in the current context.
 */
const AudInstruction *
aud_compiler_finish(AudCompiler *compiler)
{
	AudDefinitions *defs = compiler->defs;
	Size		size = compiler->nprograms * sizeof(AudInstruction);
	AudInstruction *programs = MemoryContextAllocHuge(CurrentMemoryContext, size + 1);

	if (size > 0)
		memcpy(programs, compiler->programs, size);
	size = defs->nleaves * sizeof(AudLeaf);
	defs->leaves = MemoryContextAllocHuge(CurrentMemoryContext, size + 1);
	if (size > 0)
		memcpy(defs->leaves, compiler->leaves, size);
	return programs;
}

/* Tells each leaf whose rules hold it; what was segment i is now indexes[i]. */
void
aud_compiler_note_segments(AudCompiler *compiler, const int *indexes)
{
	AudDefinitions *defs = compiler->defs;
	int		   *segments = MemoryContextAllocHuge(CurrentMemoryContext,
												  (compiler->npostings + 1) * sizeof(int));
	uint8	   *roles = MemoryContextAllocHuge(CurrentMemoryContext, compiler->npostings + 1);

	for (int i = 0; i < defs->nleaves; i++)
	{
		defs->leaves[i].segments = segments;
		defs->leaves[i].roles = roles;
		for (int p = compiler->last_postings[i]; p >= 0; p = compiler->postings[p].previous)
		{
			*segments++ = indexes[compiler->postings[p].segment];
			*roles++ = compiler->postings[p].roles;
		}
	}
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

/* The double nearest to a constant, or its neighbour. */
double
aud_constant_double(const AudValue *value)
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
	int			max_others;
	int			max_leaves;
} RouteBuilder;

/* Adds a constant of a leaf to its route. */
static void
add_constant(RouteBuilder *builder, const AudValue *value, int leaf)
{
	AudRoute   *route = builder->route;

	if (value->type == AUD_VALUE_NUMBER)
	{
		AUD_GROW(route->thresholds, route->nthresholds, builder->max_thresholds);
		route->thresholds[route->nthresholds].value = aud_constant_double(value);
		route->thresholds[route->nthresholds++].leaf = leaf;
	}
	else
	{
		AUD_GROW(route->texts, route->ntexts, builder->max_texts);
		route->texts[route->ntexts].hash =
			hash_bytes((const unsigned char *) AUD_VALUE_TEXT_PTR(value), value->len);
		route->texts[route->ntexts++].leaf = leaf;
	}
}

/*
 * Can the leaf's truth change only where the value passes, or is, one of its
 * constants?  True for comparisons with numbers, and for eq and in with texts,
 * over the aggregate's or attribute's value itself.  *value: those constants.
 */
bool
aud_leaf_turns_at_constants(const AudLeaf *leaf, const AudValue **value)
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

/* Adds a leaf to the route of its aggregate or attribute. */
static void
add_to_route(RouteBuilder *builder, const AudDefinitions *defs, int index)
{
	const AudLeaf *leaf = &defs->leaves[index];
	AudRoute   *route = builder->route;
	const AudValue *value;

	AUD_GROW(route->leaves, route->nleaves, builder->max_leaves);
	route->leaves[route->nleaves++] = index;
	if (turns_at_age(defs, leaf))
	{
		AUD_GROW(route->ages, route->nages, builder->max_ages);
		route->ages[route->nages].duration =
			AUD_VALUE_INT64(AUD_NODE_VALUE(leaf->rule, leaf->node));
		route->ages[route->nages++].leaf = index;
	}
	else if (!aud_leaf_turns_at_constants(leaf, &value))
	{
		AUD_GROW(route->others, route->nothers, builder->max_others);
		route->others[route->nothers++] = index;
	}
	else if (value->type == AUD_VALUE_LIST)
		for (uint32 i = 0; i < value->len; i++)
			add_constant(builder, AUD_VALUE_ITEM(leaf->rule, value, i), index);
	else
		add_constant(builder, value, index);
}

/* A copy of an array that has stopped growing, in the current context. */
static void *
settled(const void *array, Size size)
{
	return array == NULL || size == 0 ? NULL : memcpy(MemoryContextAllocHuge(CurrentMemoryContext, size), array, size);
}

/* Sorts what a route is made of, and moves it from where it has grown. */
static void
finish_route(AudRoute *route)
{
	qsort(route->thresholds, route->nthresholds, sizeof(AudThreshold), compare_thresholds);
	qsort(route->texts, route->ntexts, sizeof(AudTextKey), compare_text_keys);
	qsort(route->ages, route->nages, sizeof(AudAge), compare_durations);
	route->thresholds = settled(route->thresholds, route->nthresholds * sizeof(AudThreshold));
	route->texts = settled(route->texts, route->ntexts * sizeof(AudTextKey));
	route->ages = settled(route->ages, route->nages * sizeof(AudAge));
	route->others = settled(route->others, route->nothers * sizeof(int));
	route->leaves = settled(route->leaves, route->nleaves * sizeof(int));
}

/* Attributes as they are found. */
typedef struct AttributeBuilder
{
	AudAttribute *attributes;
	int			max_attributes;
	RouteBuilder *builders;		/* of their routes */
	int			max_builders;
	uint32	   *slots;			/* hash table of their numbers + 1, 0: empty */
	uint32		slot_mask;
} AttributeBuilder;

/* The number of the attribute that a leaf looks at; it is made if need be. */
static int
intern_attribute(AttributeBuilder *builder, AudDefinitions *defs, const AudLeaf *leaf)
{
	const AudPathStep *step = &AUD_NODE_PATH(leaf->rule, leaf->node)->steps[0];
	bool		has_key = step->kind == AUD_STEP_KEY;
	const char *key = has_key ? AUD_AT(leaf->rule, step->key) : NULL;
	int			keylen = has_key ? step->keylen : 0;
	uint32		i = has_key ? hash_bytes((const unsigned char *) key, keylen) : 0;

	for (;; i++)
	{
		uint32	   *slot = &builder->slots[i & builder->slot_mask];
		AudAttribute *attribute;
		int			nbuilders = defs->nattributes;

		if (*slot != 0)
		{
			attribute = &builder->attributes[*slot - 1];
			if ((attribute->key != NULL) == has_key && attribute->keylen == keylen &&
				(!has_key || memcmp(attribute->key, key, keylen) == 0))
				return *slot - 1;
			continue;
		}
		AUD_GROW(builder->attributes, defs->nattributes, builder->max_attributes);
		AUD_GROW(builder->builders, nbuilders, builder->max_builders);
		attribute = &builder->attributes[defs->nattributes];
		memset(attribute, 0, sizeof(*attribute));
		attribute->key = key;
		attribute->keylen = keylen;
		memset(&builder->builders[nbuilders], 0, sizeof(RouteBuilder));
		*slot = ++defs->nattributes;
		return nbuilders;
	}
}

/*
 * Makes the attributes and their routes, in the current context: all leaves
 * over attributes go to one.
 */
static void
route_attributes(AudDefinitions *defs, MemoryContext work)
{
	MemoryContext old = MemoryContextSwitchTo(work);
	AttributeBuilder builder = {0};
	uint32		nslots = pg_nextpower2_32(Max(defs->nleaves, 8) * 2);

	builder.slot_mask = nslots - 1;
	builder.slots = palloc0(nslots * sizeof(uint32));
	defs->nattributes = 0;
	for (int i = 0; i < defs->nleaves; i++)
		if (defs->leaves[i].source == AUD_LEAF_ATTRIBUTE)
		{
			int			index = intern_attribute(&builder, defs, &defs->leaves[i]);

			defs->leaves[i].index = index;
			builder.builders[index].route = &builder.attributes[index].route;
			add_to_route(&builder.builders[index], defs, i);
		}
	MemoryContextSwitchTo(old);
	defs->attributes = settled(builder.attributes, defs->nattributes * sizeof(AudAttribute));
	for (int i = 0; i < defs->nattributes; i++)
		finish_route(&defs->attributes[i].route);
}

/*
 * Makes the routes, resolves the leaves over segments, and lists the leaves
 * that move with time.  After all rules are compiled; what is only needed
 * meanwhile goes to "work".
 */
void
aud_definitions_route(AudDefinitions *defs, MemoryContext work)
{
	MemoryContext old;
	RouteBuilder *builders;
	int		   *relative;

	defs->routes = palloc0(Max(defs->naggregates, 1) * sizeof(AudRoute));
	defs->aged = palloc(Max(defs->naggregates, 1) * sizeof(int));
	defs->naged = defs->nrelative = 0;
	old = MemoryContextSwitchTo(work);
	builders = palloc0(Max(defs->naggregates, 1) * sizeof(RouteBuilder));
	relative = palloc(Max(defs->nleaves, 1) * sizeof(int));
	for (int i = 0; i < defs->naggregates; i++)
		builders[i].route = &defs->routes[i];
	for (int i = 0; i < defs->nleaves; i++)
	{
		AudLeaf    *leaf = &defs->leaves[i];

		CHECK_FOR_INTERRUPTS();
		if (leaf->relative && !turns_at_age(defs, leaf))
			relative[defs->nrelative++] = i;
		if (leaf->source == AUD_LEAF_AGGREGATE)
			add_to_route(&builders[leaf->index], defs, i);
		else if (leaf->source == AUD_LEAF_SEGMENT)
		{
			leaf->index = aud_definitions_find_segment(defs, aud_leaf_segment_id(leaf));
			if (leaf->index >= 0)
			{
				AudSegment *segment = &defs->segments[leaf->index];

				if (segment->nleaves == lengthof(segment->leaves))
					elog(ERROR, "segment \"%s\" has too many leaves", segment->id);
				segment->leaves[segment->nleaves++] = i;
			}
		}
	}
	MemoryContextSwitchTo(old);
	defs->relative = settled(relative, defs->nrelative * sizeof(int));
	for (int i = 0; i < defs->naggregates; i++)
	{
		finish_route(&defs->routes[i]);
		if (defs->routes[i].nages > 0)
			defs->aged[defs->naged++] = i;
	}
	route_attributes(defs, work);
}
