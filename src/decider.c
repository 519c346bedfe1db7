/*-------------------------------------------------------------------------
 *
 * decider.c
 *	  Evaluating leaves and programs for one user after the other.
 *
 * What has been found out about a user is remembered until the next one: marks
 * carry the number of the user's turn ("epoch"), so that nothing need be
 * cleared between two.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "decider.h"
#include "jsonb_walk.h"
#include "stats.h"

/* A decider for users under these definitions, in the current memory context. */
AudDecider *
aud_decider_create(const AudDefinitions *defs)
{
	AudDecider *decider = palloc0(sizeof(AudDecider));

	decider->defs = defs;
	decider->mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience decision",
										  ALLOCSET_DEFAULT_SIZES);
	decider->leaf_known = palloc0((defs->nleaves + 1) * sizeof(uint32));
	decider->leaf_holds = palloc0((defs->nleaves + 1) * sizeof(bool));
	decider->leaf_turned = palloc0((defs->nleaves + 1) * sizeof(uint32));
	decider->segment_known = palloc0((defs->nsegments + 1) * sizeof(uint32));
	decider->segment_holds = palloc0((defs->nsegments + 1) * sizeof(bool));
	decider->nwords = (defs->nsegments + 63) / 64;
	decider->candidates = palloc0((decider->nwords + 1) * sizeof(uint64));
	decider->words = palloc((decider->nwords + 1) * sizeof(int));
	decider->moving = palloc((decider->nwords + 1) * sizeof(uint64));
	decider->leaf_moving = palloc0((defs->nleaves + 1) * sizeof(uint32));
	return decider;
}

/*
 * Turns to a user: its as_of, now, states and attributes are what counts, and
 * the clock's skew.
 */
void
aud_decider_set_user(AudDecider *decider, AudUser *user, const AudClock *clock)
{
	decider->user = user;
	decider->epoch++;
	decider->before.now = user->as_of;
	decider->now.now = user->now;
	decider->before.max_future_skew = decider->now.max_future_skew = clock->max_future_skew;
	decider->any_turned = false;
	decider->fill_changed = false;
	decider->ncandidates = 0;
	decider->nblocked = 0;
}

/* The attributes as a value to walk from. */
static const JsonbValue *
attributes_value(Jsonb *attributes, JsonbValue *room)
{
	room->type = jbvBinary;
	room->val.binary.data = &attributes->root;
	room->val.binary.len = VARSIZE(attributes) - VARHDRSZ;
	return room;
}

/* The noted value before of an aggregate, NULL if it was not touched. */
const AudAggregateValue *
aud_user_value_before(const AudUser *user, int aggregate)
{
	if (user->states[aggregate].touched)
		for (int i = 0; i < user->ntouched; i++)
			if (user->touched[i].aggregate == aggregate)
				return &user->touched[i].before;
	return NULL;
}

/* The segments that an attribute's value blocks. */
static const uint64 *
blocked_by_attribute(const AudDecider *decider, const AudBlockField *field, Jsonb *attributes)
{
	JsonbValue	room;

	return aud_blockers_of_json(decider->defs, field,
								aud_jsonb_key(&attributes->root, field->attribute->key,
											  field->attribute->keylen, &room));
}

/* Asks the next field which segments the user's value blocks, now and before. */
static void
ask_field(AudDecider *decider)
{
	const AudDefinitions *defs = decider->defs;
	const AudUser *user = decider->user;
	int			i = decider->nblocked++;
	const AudBlockField *field = &defs->blockers->fields[i];
	const uint64 *before,
			   *now;

	if (field->attribute != NULL)
	{
		before = now = blocked_by_attribute(decider, field, user->attributes);
		if (user->old_attributes != NULL)
			before = blocked_by_attribute(decider, field, user->old_attributes);
	}
	else
	{
		const AudAggregateDef *def = &defs->aggregates[field->aggregate];
		const AudAggregateValue *old = aud_user_value_before(user, field->aggregate);
		AudAggregateValue value;

		aud_aggregate_value(def, &user->states[field->aggregate], &value);
		before = now = aud_blockers_of_aggregate(defs, field, &value);
		if (old != NULL)
			before = aud_blockers_of_aggregate(defs, field, old);
	}
	decider->blocked[i] = now;
	decider->blocked_before[i] = before;
}

/* The segments that the user's value of a field blocks now; *before: what blocked them before. */
static const uint64 *
blocked_by(AudDecider *decider, int field, const uint64 **before)
{
	while (decider->nblocked <= field)
		ask_field(decider);
	*before = decider->blocked_before[field];
	return decider->blocked[field];
}

/* Lists the words of a bitmap of segments that are not empty; returns how many. */
static int
list_words(AudDecider *decider, const uint64 *segments)
{
	int			n = 0;

	for (int w = 0; w < decider->nwords; w++)
	{
		decider->words[n] = w;
		n += segments[w] != 0;
	}
	return n;
}

/*
 * Takes blocked segments out of the words listed, and those that are empty then
 * off the list: after two or three fields few are left.  Returns how many.
 */
static int
strike(AudDecider *decider, uint64 *segments, int nwords, const uint64 *blocked)
{
	int		   *words = decider->words;
	int			n = 0;

	for (int i = 0; i < nwords; i++)
	{
		int			w = words[i];
		uint64		left = segments[w] & ~blocked[w];

		segments[w] = left;
		words[n] = w;
		n += left != 0;
	}
	return n;
}

/*
 * Takes the segments out of a bitmap that are blocked: now, and with "before"
 * were so as well, so that nothing about them can have changed.
 */
void
aud_decider_strike_blocked(AudDecider *decider, uint64 *segments, bool before)
{
	int			nfields = decider->defs->blockers->nfields;
	int			n = list_words(decider, segments);
	int			changed[AUD_MAX_BLOCK_FIELDS];
	int			nchanged = 0;

	for (int i = 0; i < nfields && n > 0; i++)
	{
		const uint64 *then;
		const uint64 *now = blocked_by(decider, i, &then);

		if (!before || now == then)
			n = strike(decider, segments, n, now);
		else
			changed[nchanged++] = i;
	}
	/* one field may block now what another one has blocked before */
	for (int i = 0; i < n && nchanged > 0; i++)
	{
		int			w = decider->words[i];
		uint64		now = 0;
		uint64		then = 0;

		for (int c = 0; c < nchanged; c++)
		{
			now |= decider->blocked[changed[c]][w];
			then |= decider->blocked_before[changed[c]][w];
		}
		segments[w] &= ~(now & then);
	}
}

/* of fewer segments the leaves are marked, of more each leaf is looked up */
#define FEW_MOVING	64

/* Marks the leaves of the segments that time alone may change, in the words listed. */
static void
mark_moving(AudDecider *decider, int nwords)
{
	for (int i = 0; i < nwords; i++)
	{
		int			w = decider->words[i];

		for (uint64 left = decider->moving[w]; left != 0; left &= left - 1)
		{
			const AudInstruction *program =
				decider->defs->segments[w * 64 + pg_rightmost_one_pos64(left)].program;

			for (uint32 at = 0; at < program->ninstructions; at++)
				if (program[at].kind == AUD_NODE_FIELD)
					decider->leaf_moving[program[at].operand] = decider->epoch;
		}
	}
}

/*
 * Finds the segments that time alone may change for the user: those that hold
 * a leaf it may turn over, and that nothing blocks all the time.
 */
static void
find_moving(AudDecider *decider)
{
	const AudBlockers *blockers = decider->defs->blockers;
	int			n;

	memcpy(decider->moving, blockers->moving, decider->nwords * sizeof(uint64));
	n = list_words(decider, decider->moving);
	for (int i = 0; i < blockers->nfields && n > 0; i++)
	{
		const uint64 *then;

		if (blockers->fields[i].lasts)
			n = strike(decider, decider->moving, n, blocked_by(decider, i, &then));
	}
	decider->nmoving = 0;
	for (int i = 0; i < n; i++)
		decider->nmoving += pg_popcount64(decider->moving[decider->words[i]]);
	if (decider->nmoving <= FEW_MOVING)
		mark_moving(decider, n);
}

/* Are there segments that time alone may change for the user? */
bool
aud_decider_any_moves(AudDecider *decider)
{
	if (decider->moving_known != decider->epoch)
	{
		decider->moving_known = decider->epoch;
		find_moving(decider);
	}
	return decider->nmoving > 0;
}

/*
 * May a membership of the user change as the leaf turns over, while nothing
 * but time passes?  Not if all rules that hold it are blocked all the time.
 *
 * Among thousands of segments a user has a few that are not, but hundreds of
 * leaves may be asked about: so those few tell which leaves matter.
 */
bool
aud_decider_leaf_matters(AudDecider *decider, int leaf)
{
	const AudLeaf *at;

	if (!aud_decider_any_moves(decider))
		return false;
	at = &decider->defs->leaves[leaf];
	/* others are not looked for */
	Assert(at->nsegments == 0 || decider->defs->blockers->moving[at->segments[0] / 64] >> (at->segments[0] % 64) & 1);
	if (decider->nmoving <= FEW_MOVING)
		return decider->leaf_moving[leaf] == decider->epoch;
	for (int s = 0; s < at->nsegments; s++)
		if ((decider->moving[at->segments[s] / 64] >> (at->segments[s] % 64)) & 1)
			return true;
	return false;
}

/* Does a leaf that compares with one number hold for this one? */
bool
aud_decider_number_holds(const AudLeaf *leaf, const AudDecimal *number)
{
	int			order = aud_decimal_compare(number, &leaf->threshold);
	bool		holds;

	switch ((AudOp) leaf->op)
	{
		case AUD_OP_EQ:
			holds = order == 0;
			break;
		case AUD_OP_GT:
			holds = order > 0;
			break;
		case AUD_OP_GTE:
			holds = order >= 0;
			break;
		case AUD_OP_LT:
			holds = order < 0;
			break;
		default:
			holds = order <= 0;
			break;
	}
	return holds != leaf->negated;
}

/* Does a leaf over an aggregate hold for this value? */
static bool
value_holds(const AudLeaf *leaf, const AudAggregateValue *value, const AudClock *clock)
{
	const AudNode *node = leaf->node;
	JsonbValue	room;

	if (value->kind == AUD_AGGVALUE_BOOL)
		return value->holds;
	if (leaf->is_decimal && value->kind == AUD_AGGVALUE_NUMBER)
		return aud_decider_number_holds(leaf, &value->number);
	if (leaf->is_instant && value->kind == AUD_AGGVALUE_TIME &&
		value->time >= AUD_FIRST_INSTANT && value->time < AUD_END_OF_INSTANTS)
		return aud_instant_holds(leaf->rule, node, value->time, clock);
	if (leaf->nused > 0 && AUD_NODE_PATH(leaf->rule, node)->nsteps > leaf->nused)
		return aud_path_holds(leaf->rule, node, AUD_NODE_PATH(leaf->rule, node),
							  leaf->nused, aud_aggregate_json(value, &room), clock);
	return aud_value_holds(leaf->rule, node, aud_aggregate_json(value, &room), clock);
}

/*
 * Does the user belong to the segment, as decided for this user's now?  Also
 * where the segment is building, and nobody sees its members yet.
 */
bool
aud_decider_belongs(AudDecider *decider, int index)
{
	const AudSegment *segment = &decider->defs->segments[index];

	if (!segment->is_member_source)
		return false;
	if (segment->is_static)
		for (int i = 0; i < decider->user->nstatics; i++)
			if (decider->user->statics[i] == segment->number)
				return decider->user->statics_enter;
	/* without a program: static, or beside the definitions (an overlay) */
	if (segment->program == NULL)
		return aud_members_find(decider->user->members, segment->number, NULL);
	if (decider->segment_known[index] != decider->epoch)
	{
		check_stack_depth();
		decider->segment_holds[index] = aud_decider_holds(decider, segment->program);
		decider->segment_known[index] = decider->epoch;
	}
	return decider->segment_holds[index];
}

/* Is the user a member of the segment (-1: of one that is not there)? */
static bool
in_segment(AudDecider *decider, int index)
{
	return index >= 0 && !decider->defs->segments[index].is_building &&
		aud_decider_belongs(decider, index);
}

/* Does the leaf hold, over these attributes and at this instant? */
bool
aud_decider_evaluate_leaf(AudDecider *decider, const AudLeaf *leaf, Jsonb *attributes,
			  const AudAggregateValue *value, const AudClock *clock)
{
	const AudUser *user = decider->user;
	JsonbValue	room;
	AudAggregateValue current;

	aud_stats_count(AUD_COUNT_LEAVES, 1);
	switch (leaf->source)
	{
		case AUD_LEAF_ATTRIBUTE:
			return aud_path_holds(leaf->rule, leaf->node,
								  AUD_NODE_PATH(leaf->rule, leaf->node), 0,
								  attributes_value(attributes, &room), clock);
		case AUD_LEAF_USER_ID:
			room.type = jbvString;
			room.val.string.val = unconstify(char *, user->id);
			room.val.string.len = user->id_len;
			return aud_value_holds(leaf->rule, leaf->node, &room, clock);
		case AUD_LEAF_AGGREGATE:
			if (value == NULL)
			{
				aud_aggregate_value(&decider->defs->aggregates[leaf->index],
									&user->states[leaf->index], &current);
				value = &current;
			}
			return value_holds(leaf, value, clock);
		case AUD_LEAF_SEGMENT:
			return in_segment(decider, leaf->index) != leaf->negated;
		case AUD_LEAF_SAMPLE:
			return aud_sample_holds(leaf->rule, leaf->node, user->id, user->id_len);
		case AUD_LEAF_NEVER:
			return aud_value_holds(leaf->rule, leaf->node, NULL, clock);
	}
	return false;
}

/* Does the leaf hold for the user now?  Evaluated once. */
bool
aud_decider_leaf_holds(AudDecider *decider, int leaf)
{
	if (decider->leaf_known[leaf] != decider->epoch)
	{
		decider->leaf_holds[leaf] =
			aud_decider_evaluate_leaf(decider, &decider->defs->leaves[leaf],
						  decider->user->attributes, NULL, &decider->now);
		decider->leaf_known[leaf] = decider->epoch;
	}
	return decider->leaf_holds[leaf];
}

/* Evaluates a program; with "before", leaves that turned over are turned back. */
bool
aud_decider_run(AudDecider *decider, const AudInstruction *at, bool before)
{
	const AudInstruction *child;

	switch ((AudNodeKind) at->kind)
	{
		case AUD_NODE_TRUE:
			return true;
		case AUD_NODE_FALSE:
			return false;
		case AUD_NODE_ALL:
			child = at + 1;
			for (uint32 i = 0; i < at->operand; i++, child += child->ninstructions)
				if (!aud_decider_run(decider, child, before))
					return false;
			return true;
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
			child = at + 1;
			for (uint32 i = 0; i < at->operand; i++, child += child->ninstructions)
				if (aud_decider_run(decider, child, before))
					return at->kind == AUD_NODE_ANY;
			return at->kind == AUD_NODE_NONE;
		case AUD_NODE_NOT:
			return !aud_decider_run(decider, at + 1, before);
		default:
			return aud_decider_leaf_holds(decider, at->operand) !=
				(before && decider->leaf_turned[at->operand] == decider->epoch);
	}
}

/* Does the program hold for the user now? */
bool
aud_decider_holds(AudDecider *decider, const AudInstruction *program)
{
	return aud_decider_run(decider, program, false);
}

/* A subtree's score (SPEC 2.6); with "negate", that of its negation. */
static float8
score(AudDecider *decider, const AudInstruction *at, bool negate)
{
	const AudInstruction *child = at + 1;
	bool		mean;
	float8		result = 0;

	check_stack_depth();
	switch ((AudNodeKind) at->kind)
	{
		case AUD_NODE_TRUE:
			return negate ? 0 : 1;
		case AUD_NODE_FALSE:
			return negate ? 1 : 0;
		case AUD_NODE_NOT:
			return score(decider, child, !negate);
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
			break;
		default:
			return aud_decider_leaf_holds(decider, at->operand) != negate ? 1 : 0;
	}

	/* none(a, b) = all(not a, not b); its negation = any(a, b) */
	if (at->kind == AUD_NODE_NONE)
	{
		mean = !negate;
		negate = !negate;
	}
	else
		mean = (at->kind == AUD_NODE_ALL) != negate;
	if (at->operand == 0)
		return mean ? 1 : 0;
	for (uint32 i = 0; i < at->operand; i++, child += child->ninstructions)
	{
		float8		one = score(decider, child, negate);

		result = mean ? result + one : Max(result, one);
	}
	return mean ? result / at->operand : result;
}

/* The user's score against a program, 0 to 1. */
float8
aud_decider_score(AudDecider *decider, const AudInstruction *program)
{
	return score(decider, program, false);
}

/*
 * What a leaf sees, NULL when missing; uses both rooms, and the current
 * context.
 */
const JsonbValue *
aud_decider_leaf_value(AudDecider *decider, const AudLeaf *leaf,
					   JsonbValue *start, JsonbValue *room)
{
	const AudUser *user = decider->user;
	const JsonbValue *value;
	AudAggregateValue current;

	switch (leaf->source)
	{
		case AUD_LEAF_ATTRIBUTE:
			return aud_path_collect(leaf->rule, AUD_NODE_PATH(leaf->rule, leaf->node), 0,
									attributes_value(user->attributes, start), room);
		case AUD_LEAF_USER_ID:
		case AUD_LEAF_SAMPLE:
			room->type = jbvString;
			room->val.string.val = unconstify(char *, user->id);
			room->val.string.len = user->id_len;
			return room;
		case AUD_LEAF_AGGREGATE:
			aud_aggregate_value(&decider->defs->aggregates[leaf->index],
								&user->states[leaf->index], &current);
			value = aud_aggregate_json(&current, start);
			if (value == &current.json)
			{
				*start = current.json;
				value = start;
			}
			if (leaf->nused == 0)
				return value;
			return aud_path_collect(leaf->rule, AUD_NODE_PATH(leaf->rule, leaf->node),
									leaf->nused, value, room);
		case AUD_LEAF_SEGMENT:
			room->type = jbvBool;
			room->val.boolean = in_segment(decider, leaf->index);
			return room;
		case AUD_LEAF_NEVER:
			break;
	}
	return NULL;
}

/* What a leaf sees, as jsonb in the current context; NULL when missing. */
Jsonb *
aud_decider_leaf_actual(AudDecider *decider, int index)
{
	JsonbValue	start,
				room;
	const JsonbValue *value = aud_decider_leaf_value(decider, &decider->defs->leaves[index],
													 &start, &room);

	if (value == NULL)
		return NULL;
	room = *value;
	return JsonbValueToJsonb(&room);
}

/* Lets go of what the decider has taken. */
void
aud_decider_end(AudDecider *decider)
{
	MemoryContextDelete(decider->mcxt);
}
