/*-------------------------------------------------------------------------
 *
 * decide.c
 *	  From what has changed about a user to changed memberships.
 *
 * For each touched aggregate, attribute or instant, the leaves whose truth
 * turned over are found (definitions_compile.c's routes); only segments whose
 * rules hold such a leaf are looked at.  Their rules are evaluated twice over
 * the same leaves: as they are, and with those that turned over turned back,
 * which is what the rule gave before.  Where the two differ, the membership
 * changes.  Segments are walked in topological order, so that a change of one
 * turns over the leaves that speak of it before a later one is looked at.
 *
 * A user whose profile is new has been in no segment, so all are looked at.
 * For segments that are being filled, the stored membership is what was
 * before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "batch.h"
#include "stats.h"

struct AudDecider
{
	const AudDefinitions *defs;
	AudUser    *user;
	AudClock	before;			/* the user's as_of */
	AudClock	now;

	uint32		epoch;			/* of the user: what is marked with it is the user's */
	uint32	   *leaf_known;		/* epoch in which leaf_holds was set */
	bool	   *leaf_holds;
	uint32	   *leaf_turned;	/* epoch in which the leaf turned over */
	uint32	   *segment_known;	/* epoch in which segment_holds was set */
	bool	   *segment_holds;

	uint64	   *candidates;		/* bit for each segment by rank */
	int			nwords;
	bool		any_turned;
	uint64		nusers;
	uint64		nevaluated;		/* rules */
	MemoryContext mcxt;			/* of what one user's decision leaves behind */
};

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

/*
 * Does a time operator hold for an instant?  The same as the evaluator says of
 * its text, without making that.
 */
static bool
instant_holds(const AudLeaf *leaf, TimestampTz t, const AudClock *clock)
{
	int64		constant = AUD_VALUE_INT64(AUD_NODE_VALUE(leaf->rule, leaf->node));

	switch ((AudOp) leaf->node->op)
	{
		case AUD_OP_BEFORE:
			return t < constant;
		case AUD_OP_AT_OR_BEFORE:
			return t <= constant;
		case AUD_OP_AFTER:
			return t > constant;
		case AUD_OP_AT_OR_AFTER:
			return t >= constant;
		case AUD_OP_WITHIN_LAST:
			return t > clock->now - constant && t <= clock->now + clock->max_future_skew;
		case AUD_OP_BEFORE_LAST:
			return t <= clock->now - constant;
		case AUD_OP_WITHIN_NEXT:
			return t > clock->now && t <= clock->now + constant;
		case AUD_OP_AFTER_NEXT:
			return t > clock->now + constant;
		default:
			elog(ERROR, "operator %d is not about time", leaf->node->op);
	}
}

/* Does a leaf over an aggregate hold for this value? */
static bool
value_holds(const AudLeaf *leaf, const AudAggregateValue *value, const AudClock *clock)
{
	const AudNode *node = leaf->node;
	JsonbValue	room;
	bool		holds;

	if (value->kind == AUD_AGGVALUE_BOOL)
		return value->holds;
	if (leaf->is_decimal && value->kind == AUD_AGGVALUE_NUMBER)
	{
		int			order = aud_decimal_compare(&value->number, &leaf->threshold);

		switch ((AudOp) node->op)
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
		return holds != ((node->flags & AUD_NEGATED) != 0);
	}
	if (leaf->is_instant && value->kind == AUD_AGGVALUE_TIME &&
		value->time >= AUD_FIRST_INSTANT && value->time < AUD_END_OF_INSTANTS)
		return instant_holds(leaf, value->time, clock);
	if (leaf->nused > 0 && AUD_NODE_PATH(leaf->rule, node)->nsteps > leaf->nused)
		return aud_path_holds(leaf->rule, node, AUD_NODE_PATH(leaf->rule, node),
							  leaf->nused, aud_aggregate_json(value, &room), clock);
	return aud_value_holds(leaf->rule, node, aud_aggregate_json(value, &room), clock);
}

/* Is the user in the segment, as decided for this user's now? */
static bool
in_segment(AudDecider *decider, int index)
{
	const AudSegment *segment;

	if (index < 0)
		return false;
	segment = &decider->defs->segments[index];
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

/* Does the leaf hold, over these attributes and at this instant? */
static bool
evaluate_leaf(AudDecider *decider, const AudLeaf *leaf, Jsonb *attributes,
			  const AudAggregateValue *value, const AudClock *clock)
{
	const AudUser *user = decider->user;
	JsonbValue	room;
	AudAggregateValue current;

	switch (leaf->source)
	{
		case AUD_LEAF_ATTRIBUTE:
			return aud_path_holds(leaf->rule, leaf->node,
								  AUD_NODE_PATH(leaf->rule, leaf->node), 0,
								  attributes_value(attributes, &room), clock);
		case AUD_LEAF_USER_ID:
			room.type = jbvString;
			room.val.string.val = (char *) user->id;
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
			return in_segment(decider, leaf->index) !=
				((leaf->node->flags & AUD_NEGATED) != 0);
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
			evaluate_leaf(decider, &decider->defs->leaves[leaf],
						  decider->user->attributes, NULL, &decider->now);
		decider->leaf_known[leaf] = decider->epoch;
	}
	return decider->leaf_holds[leaf];
}

/* Evaluates a program; with "before", leaves that turned over are turned back. */
static bool
run_program(AudDecider *decider, const AudInstruction *at, bool before)
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
			for (uint32 i = 0; i < at->nchildren; i++, child += child->ninstructions)
				if (!run_program(decider, child, before))
					return false;
			return true;
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
			child = at + 1;
			for (uint32 i = 0; i < at->nchildren; i++, child += child->ninstructions)
				if (run_program(decider, child, before))
					return at->kind == AUD_NODE_ANY;
			return at->kind == AUD_NODE_NONE;
		case AUD_NODE_NOT:
			return !run_program(decider, at + 1, before);
		default:
			return aud_decider_leaf_holds(decider, at->leaf) !=
				(before && decider->leaf_turned[at->leaf] == decider->epoch);
	}
}

/* Does the program hold for the user now? */
bool
aud_decider_holds(AudDecider *decider, const AudInstruction *program)
{
	return run_program(decider, program, false);
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
			return aud_decider_leaf_holds(decider, at->leaf) != negate ? 1 : 0;
	}

	/* none(a, b) = all(not a, not b); its negation = any(a, b) */
	if (at->kind == AUD_NODE_NONE)
	{
		mean = !negate;
		negate = !negate;
	}
	else
		mean = (at->kind == AUD_NODE_ALL) != negate;
	if (at->nchildren == 0)
		return mean ? 1 : 0;
	for (uint32 i = 0; i < at->nchildren; i++, child += child->ninstructions)
	{
		float8		one = score(decider, child, negate);

		result = mean ? result + one : Max(result, one);
	}
	return mean ? result / at->nchildren : result;
}

/* The user's score against a program, 0 to 1. */
float8
aud_decider_score(AudDecider *decider, const AudInstruction *program)
{
	return score(decider, program, false);
}

/* What a leaf sees, as jsonb in the current context; NULL when missing. */
Jsonb *
aud_decider_leaf_actual(AudDecider *decider, int index)
{
	const AudLeaf *leaf = &decider->defs->leaves[index];
	const AudUser *user = decider->user;
	const JsonbValue *value = NULL;
	AudAggregateValue current;
	JsonbValue	room;
	JsonbValue	start;

	switch (leaf->source)
	{
		case AUD_LEAF_ATTRIBUTE:
			value = aud_path_collect(leaf->rule, AUD_NODE_PATH(leaf->rule, leaf->node), 0,
									 attributes_value(user->attributes, &start), &room);
			break;
		case AUD_LEAF_USER_ID:
		case AUD_LEAF_SAMPLE:
			room.type = jbvString;
			room.val.string.val = (char *) user->id;
			room.val.string.len = user->id_len;
			value = &room;
			break;
		case AUD_LEAF_AGGREGATE:
			aud_aggregate_value(&decider->defs->aggregates[leaf->index],
								&user->states[leaf->index], &current);
			value = aud_aggregate_json(&current, &start);
			if (leaf->nused > 0)
				value = aud_path_collect(leaf->rule, AUD_NODE_PATH(leaf->rule, leaf->node),
										 leaf->nused, value, &room);
			break;
		case AUD_LEAF_SEGMENT:
			room.type = jbvBool;
			room.val.boolean = in_segment(decider, leaf->index);
			value = &room;
			break;
		case AUD_LEAF_NEVER:
			break;
	}
	if (value == NULL)
		return NULL;
	room = *value;
	return JsonbValueToJsonb(&room);
}

/* Makes the segments whose rules hold a leaf candidates. */
static void
add_candidates(AudDecider *decider, const AudLeaf *leaf)
{
	for (int i = 0; i < leaf->nsegments; i++)
		decider->candidates[leaf->segments[i] / 64] |=
			UINT64CONST(1) << (leaf->segments[i] % 64);
}

/* Notes that a leaf, whose truth is now "holds", has turned over. */
static void
turn(AudDecider *decider, int leaf, bool holds)
{
	if (decider->leaf_turned[leaf] == decider->epoch)
		return;
	decider->leaf_turned[leaf] = decider->epoch;
	decider->leaf_holds[leaf] = holds;
	decider->leaf_known[leaf] = decider->epoch;
	decider->any_turned = true;
	add_candidates(decider, &decider->defs->leaves[leaf]);
}

/* The noted value before of an aggregate, NULL if it was not touched. */
static const AudAggregateValue *
value_before(const AudUser *user, int aggregate)
{
	if (user->states[aggregate].touched)
		for (int i = 0; i < user->ntouched; i++)
			if (user->touched[i].aggregate == aggregate)
				return &user->touched[i].before;
	return NULL;
}

/* Evaluates a leaf before and now; if the two differ, it has turned over. */
static void
compare_leaf(AudDecider *decider, int index)
{
	const AudLeaf *leaf = &decider->defs->leaves[index];
	AudUser    *user = decider->user;
	const AudAggregateValue *before = NULL;
	bool		holds;

	if (decider->leaf_turned[index] == decider->epoch)
		return;
	if (leaf->source == AUD_LEAF_AGGREGATE)
		before = value_before(user, leaf->index);
	holds = aud_decider_leaf_holds(decider, index);
	if (holds != evaluate_leaf(decider, leaf,
							   user->old_attributes ? user->old_attributes : user->attributes,
							   before, &decider->before))
		turn(decider, index, holds);
}

/* The first threshold at or above a value. */
static int
first_threshold(const AudRoute *route, double value)
{
	int			low = 0,
				high = route->nthresholds;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (route->thresholds[middle].value < value)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Looks at the eq and in leaves that name this text. */
static void
compare_text(AudDecider *decider, const AudRoute *route, const JsonbValue *value)
{
	uint32		hash;
	int			low = 0,
				high = route->ntexts;

	if (value->type != jbvString)
		return;
	hash = hash_bytes((const unsigned char *) value->val.string.val, value->val.string.len);
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (route->texts[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < route->ntexts && route->texts[low].hash == hash; low++)
		compare_leaf(decider, route->texts[low].leaf);
}

/* Is a value one that the routes cannot place: an array or an object? */
static bool
is_container(const AudAggregateValue *value)
{
	return value->kind == AUD_AGGVALUE_JSON && value->json.type == jbvBinary;
}

/* Finds the leaves that one touched aggregate turned over. */
static void
compare_aggregate(AudDecider *decider, const AudTouched *touched)
{
	const AudRoute *route = &decider->defs->routes[touched->aggregate];
	const AudAggregateValue *before = &touched->before;
	AudAggregateValue after;

	aud_aggregate_value(&decider->defs->aggregates[touched->aggregate],
						&decider->user->states[touched->aggregate], &after);
	if (before->kind == AUD_AGGVALUE_NUMBER && after.kind == AUD_AGGVALUE_NUMBER)
	{
		double		a,
					b;

		if (aud_decimal_compare(&before->number, &after.number) == 0)
			return;

		/* doubles only find the neighbourhood: a hair wider than the move */
		a = aud_decimal_double(&before->number);
		b = aud_decimal_double(&after.number);
		if (a > b)
		{
			double		swap = a;

			a = b;
			b = swap;
		}
		if (!isinf(a))
			a -= fabs(a) * 1e-14;
		if (!isinf(b))
			b += fabs(b) * 1e-14;
		for (int i = first_threshold(route, a);
			 i < route->nthresholds && route->thresholds[i].value <= b; i++)
			compare_leaf(decider, route->thresholds[i].leaf);
	}
	else if (before->kind == AUD_AGGVALUE_JSON && after.kind == AUD_AGGVALUE_JSON &&
			 !is_container(before) && !is_container(&after))
	{
		/* neither is a number: those are of the other kind */
		compare_text(decider, route, &before->json);
		compare_text(decider, route, &after.json);
	}
	else
	{
		for (int i = 0; i < route->nleaves; i++)
			compare_leaf(decider, route->leaves[i]);
		return;
	}
	for (int i = 0; i < route->nothers; i++)
		compare_leaf(decider, route->others[i]);
}

/* Finds all leaves that turned over for the user, and the candidates. */
static void
find_turned(AudDecider *decider)
{
	const AudDefinitions *defs = decider->defs;
	AudUser    *user = decider->user;

	for (int i = 0; i < user->ntouched; i++)
		compare_aggregate(decider, &user->touched[i]);
	if (user->now != user->as_of)
		for (int i = 0; i < defs->nrelative; i++)
			compare_leaf(decider, defs->relative[i]);
	if (user->old_attributes != NULL)
		for (int i = 0; i < defs->nleaves; i++)
			if (defs->leaves[i].source == AUD_LEAF_ATTRIBUTE)
				compare_leaf(decider, i);
}

/*
 * A segment's leaves turn over, because the user has entered or left it; the
 * change is noted, and returned (valid until the next).
 */
static AudChange *
change_membership(AudBatch *batch, AudDecider *decider, int index, bool added,
				  float8 rule_score, const char *reason)
{
	const AudSegment *segment = &batch->defs->segments[index];

	for (int i = 0; i < segment->nleaves; i++)
		turn(decider, segment->leaves[i],
			 added != ((batch->defs->leaves[segment->leaves[i]].node->flags & AUD_NEGATED) != 0));
	return aud_batch_add_change(batch, index, added, rule_score, reason);
}

/*
 * A static segment that becomes active or inactive: whoever is in its list
 * enters or leaves.
 */
static void
fill_static(AudBatch *batch, AudDecider *decider, int index)
{
	const AudSegment *segment = &batch->defs->segments[index];
	AudChange  *change;

	if (batch->fill_all ||
		!aud_members_find(decider->user->members, segment->number, NULL))
		return;
	change = change_membership(batch, decider, index, segment->is_member_source, -1,
							   batch->fill_reason);
	/* the list stays, but those in it enter anew */
	change->store = change->anew = segment->is_member_source;
}

/* Decides one candidate. */
static void
decide_segment(AudBatch *batch, AudDecider *decider, int index)
{
	const AudSegment *segment = &batch->defs->segments[index];
	AudUser    *user = decider->user;
	bool		fill = batch->fill_all || (batch->fill != NULL && batch->fill[index]);
	bool		before,
				after;

	if (segment->is_static)
	{
		if (fill)
			fill_static(batch, decider, index);
		return;
	}
	if (segment->program == NULL)
		return;
	decider->nevaluated++;
	after = in_segment(decider, index);
	if (user->is_new)
		before = false;
	else if (fill)
		before = aud_members_find(user->members, segment->number, NULL);
	else
		before = segment->is_member_source &&
			run_program(decider, segment->program, true);
	if (before == after)
		return;
	/* a rule that holds scores 1: each group has what it needs */
	change_membership(batch, decider, index, after,
					  after ? 1 : aud_decider_score(decider, segment->program),
					  fill ? batch->fill_reason : batch->reason);
}

/* The static segments that the caller enters the user into, or takes it out of. */
static void
change_statics(AudBatch *batch, AudDecider *decider)
{
	const AudUser *user = decider->user;

	for (int i = 0; i < user->nstatics; i++)
	{
		int			index = aud_definitions_find_segment_number(batch->defs, user->statics[i]);

		if (index < 0 ||
			aud_members_find(user->members, user->statics[i], NULL) == user->statics_enter)
			continue;
		if (batch->defs->segments[index].is_member_source)
			change_membership(batch, decider, index, user->statics_enter, -1,
							  user->statics_reason);
		else
			aud_batch_add_change(batch, index, user->statics_enter, -1,
								 user->statics_reason)->log = false;
	}
}

/* Makes all segments to be filled candidates, or all there are. */
static void
add_fill_candidates(const AudBatch *batch, AudDecider *decider)
{
	bool		all = decider->user->is_new || batch->fill_all;

	if (!all && batch->fill == NULL)
		return;
	for (int i = 0; i < batch->defs->nsegments; i++)
		if (all || batch->fill[i])
			decider->candidates[i / 64] |= UINT64CONST(1) << (i % 64);
}

/*
 * Finds the memberships of one user that changed, in topological order of the
 * segments, and settles them.
 */
void
aud_decide_user(AudBatch *batch, AudDecider *decider, int index)
{
	AudUser    *user = &batch->users[index];
	MemoryContext old = MemoryContextSwitchTo(decider->mcxt);

	aud_decider_set_user(decider, user, &batch->clock);
	decider->nusers++;
	change_statics(batch, decider);
	if (!user->is_new && !user->rebuild)
		find_turned(decider);
	add_fill_candidates(batch, decider);
	for (int w = 0; w < decider->nwords; w++)
		while (decider->candidates[w] != 0)
		{
			int			bit = pg_rightmost_one_pos64(decider->candidates[w]);

			decider->candidates[w] &= ~(UINT64CONST(1) << bit);
			decide_segment(batch, decider, w * 64 + bit);
		}
	user->write |= decider->any_turned;
	aud_batch_settle(batch, user);
	MemoryContextSwitchTo(old);
	MemoryContextReset(decider->mcxt);
}

/* Adds what the decider has done to the statistics. */
void
aud_decider_end(AudDecider *decider)
{
	aud_stats_count(AUD_COUNT_USERS, decider->nusers);
	aud_stats_count(AUD_COUNT_RULES, decider->nevaluated);
	MemoryContextDelete(decider->mcxt);
}

/* Decides all users of a batch that exist. */
void
aud_batch_decide(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	AudDecider *decider = aud_decider_create(batch->defs);

	for (int i = 0; i < batch->nusers; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (batch->users[i].exists)
			aud_decide_user(batch, decider, i);
	}
	aud_decider_end(decider);
	MemoryContextSwitchTo(old);
}
