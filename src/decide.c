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
 * For segments that are being filled, or were not when the user was last
 * evaluated, the stored membership is what was before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "decider.h"
#include "jsonb_walk.h"
#include "stats.h"

/* Makes the segments whose rules hold a leaf candidates. */
static void
add_candidates(AudDecider *decider, const AudLeaf *leaf)
{
	for (int i = 0; i < leaf->nsegments; i++)
		decider->candidates[leaf->segments[i] / 64] |=
			UINT64CONST(1) << (leaf->segments[i] % 64);
	decider->ncandidates += leaf->nsegments;
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
	aud_stats_count(AUD_COUNT_TURNED, 1);
	add_candidates(decider, &decider->defs->leaves[leaf]);
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
		before = aud_user_value_before(user, leaf->index);
	holds = aud_decider_leaf_holds(decider, index);
	if (holds != aud_decider_evaluate_leaf(decider, leaf,
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

/* The first of a route's texts with this hash, -1: none. */
int
aud_route_first_text(const AudRoute *route, uint32 hash)
{
	int			low = 0,
				high = route->ntexts;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (route->texts[middle].hash < hash)
			low = middle + 1;
		else
			high = middle;
	}
	return low < route->ntexts && route->texts[low].hash == hash ? low : -1;
}

/* Looks at the eq and in leaves that name this text. */
static void
compare_text(AudDecider *decider, const AudRoute *route, const JsonbValue *value)
{
	uint32		hash;
	int			i;

	if (value->type != jbvString)
		return;
	hash = hash_bytes((const unsigned char *) value->val.string.val, value->val.string.len);
	i = aud_route_first_text(route, hash);
	for (; i >= 0 && i < route->ntexts && route->texts[i].hash == hash; i++)
		compare_leaf(decider, route->texts[i].leaf);
}

/*
 * How long ago a time was; negative if it is still to come, or none that
 * prints as a timestamp.
 */
static int64
age(TimestampTz time, TimestampTz now)
{
	return time >= AUD_FIRST_INSTANT && time < AUD_END_OF_INSTANTS ? now - time : -1;
}

/* The first of a route's ages whose duration is above this. */
int
aud_route_first_age(const AudRoute *route, int64 age)
{
	int			low = 0,
				high = route->nages;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (route->ages[middle].duration <= age)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * Looks at the within_last and before_last leaves that a time may have turned
 * over, which was so long ago before and is so long ago now: those whose
 * duration it has passed.  With a negative age that is not all there is to it
 * (max_future_skew), so all are looked at.
 */
static void
compare_ages(AudDecider *decider, const AudRoute *route, int64 before, int64 now)
{
	int64		from = Min(before, now);
	int64		to = Max(before, now);

	for (int i = from < 0 ? 0 : aud_route_first_age(route, from);
		 i < route->nages && (from < 0 || route->ages[i].duration <= to); i++)
		compare_leaf(decider, route->ages[i].leaf);
}

/* The leaves that the passing of time may have turned over, of untouched aggregates. */
static void
compare_aged(AudDecider *decider)
{
	const AudDefinitions *defs = decider->defs;
	AudUser    *user = decider->user;

	for (int i = 0; i < defs->naged; i++)
	{
		int			aggregate = defs->aged[i];
		AudAggregateValue value;

		if (user->states[aggregate].touched)
			continue;
		aud_aggregate_value(&defs->aggregates[aggregate], &user->states[aggregate], &value);
		if (value.kind == AUD_AGGVALUE_TIME)
			compare_ages(decider, &defs->routes[aggregate],
						 age(value.time, user->as_of), age(value.time, user->now));
	}
}

/* Is a value one that the routes cannot place: an array or an object? */
static bool
is_container(const AudAggregateValue *value)
{
	return value->kind == AUD_AGGVALUE_JSON && value->json.type == jbvBinary;
}

/*
 * The thresholds between two numbers, from *first to before *end.  Doubles only
 * find the neighbourhood: a hair wider than the move.
 */
void
aud_route_thresholds_between(const AudRoute *route, const AudDecimal *x, const AudDecimal *y,
							 int *first, int *end)
{
	double		a = aud_decimal_double(x);
	double		b = aud_decimal_double(y);

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
	*first = *end = first_threshold(route, a);
	while (*end < route->nthresholds && route->thresholds[*end].value <= b)
		(*end)++;
}

/* Looks at the leaves that a move from one number to another may have turned over. */
static void
compare_numbers(AudDecider *decider, const AudRoute *route, const AudDecimal *before,
				   const AudDecimal *after)
{
	int			i,
				end;

	aud_route_thresholds_between(route, before, after, &i, &end);
	for (; i < end; i++)
	{
		int			index = route->thresholds[i].leaf;
		const AudLeaf *leaf = &decider->defs->leaves[index];
		bool		holds;

		if (!leaf->is_decimal)
		{
			compare_leaf(decider, index);
			continue;
		}
		aud_stats_count(AUD_COUNT_LEAVES, 2);
		holds = aud_decider_number_holds(leaf, after);
		if (holds != aud_decider_number_holds(leaf, before))
			turn(decider, index, holds);
	}
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
		if (aud_decimal_compare(&before->number, &after.number) == 0)
			return;
		compare_numbers(decider, route, &before->number, &after.number);
	}
	else if (before->kind == AUD_AGGVALUE_JSON && after.kind == AUD_AGGVALUE_JSON &&
			 !is_container(before) && !is_container(&after))
	{
		/* neither is a number: those are of the other kind */
		compare_text(decider, route, &before->json);
		compare_text(decider, route, &after.json);
	}
	else if (before->kind == AUD_AGGVALUE_TIME && after.kind == AUD_AGGVALUE_TIME)
		compare_ages(decider, route, age(before->time, decider->user->as_of),
					 age(after.time, decider->user->now));
	else
	{
		for (int i = 0; i < route->nleaves; i++)
			compare_leaf(decider, route->leaves[i]);
		return;
	}
	for (int i = 0; i < route->nothers; i++)
		compare_leaf(decider, route->others[i]);
}

/* Finds the leaves that a change of one attribute turned over. */
static void
compare_attribute(AudDecider *decider, const AudAttribute *attribute)
{
	const AudRoute *route = &attribute->route;
	const AudUser *user = decider->user;
	JsonbValue	rooms[2];
	const JsonbValue *before = NULL,
			   *after = NULL;

	if (attribute->key != NULL)
	{
		before = aud_jsonb_key(&user->old_attributes->root, attribute->key, attribute->keylen, &rooms[0]);
		after = aud_jsonb_key(&user->attributes->root, attribute->key, attribute->keylen, &rooms[1]);
		if (before == NULL && after == NULL)
			return;
	}
	if (before != NULL && after != NULL &&
		before->type == jbvString && after->type == jbvString)
	{
		if (before->val.string.len == after->val.string.len &&
			memcmp(before->val.string.val, after->val.string.val, after->val.string.len) == 0)
			return;
		/* neither is a number: those are of the other kind */
		compare_text(decider, route, before);
		compare_text(decider, route, after);
	}
	else if (before != NULL && after != NULL &&
			 before->type == jbvNumeric && after->type == jbvNumeric)
	{
		AudDecimal	x,
					y;

		aud_decimal_set_numeric(&x, before->val.numeric);
		aud_decimal_set_numeric(&y, after->val.numeric);
		if (aud_decimal_compare(&x, &y) == 0)
			return;
		compare_numbers(decider, route, &x, &y);
	}
	else
	{
		if (before != NULL && after != NULL && before->type == after->type &&
			(before->type == jbvNull ||
			 (before->type == jbvBool && before->val.boolean == after->val.boolean) ||
			 (before->type == jbvBinary && before->val.binary.len == after->val.binary.len &&
			  memcmp(before->val.binary.data, after->val.binary.data, after->val.binary.len) == 0)))
			return;
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
	{
		compare_aged(decider);
		for (int i = 0; i < defs->nrelative; i++)
			compare_leaf(decider, defs->relative[i]);
	}
	if (user->old_attributes != NULL)
		for (int i = 0; i < defs->nattributes; i++)
			compare_attribute(decider, &defs->attributes[i]);
}

/*
 * A segment's leaves turn over, because the user has entered or left it (one
 * that is building has no members yet); the change is noted, and returned
 * (valid until the next).
 */
static AudChange *
change_membership(AudBatch *batch, AudDecider *decider, int index, bool added,
				  float8 rule_score, const char *reason)
{
	const AudSegment *segment = &batch->defs->segments[index];

	for (int i = 0; i < segment->nleaves && !segment->is_building; i++)
		turn(decider, segment->leaves[i],
			 added != batch->defs->leaves[segment->leaves[i]].negated);
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

/*
 * Has the membership in a segment that is pending for the user changed by the
 * fill's reason?  Not if the rule, as the user was before, gave what is stored:
 * then it is the statement's doing.  What was before is not known of aggregates
 * that are pending; nor is it, once the fill has changed another membership.
 */
static bool
is_fills_change(const AudBatch *batch, const AudDecider *decider, int index, bool rule_before,
				bool stored)
{
	const AudDefinitions *defs = batch->defs;

	if (batch->visiting || decider->fill_changed || rule_before != stored)
		return true;
	for (int i = 0; i < defs->npending_aggregates; i++)
	{
		int			aggregate = defs->pending_aggregates[i];
		const AudRoute *route = &defs->routes[aggregate];

		if (defs->aggregates[aggregate].pending <= decider->user->filled)
			continue;
		for (int l = 0; l < route->nleaves; l++)
		{
			const AudLeaf *leaf = &defs->leaves[route->leaves[l]];

			for (int s = 0; s < leaf->nsegments; s++)
				if (leaf->segments[s] == index)
					return true;
		}
	}
	return false;
}

/* Decides one candidate. */
static void
decide_segment(AudBatch *batch, AudDecider *decider, int index)
{
	const AudSegment *segment = &batch->defs->segments[index];
	AudUser    *user = decider->user;
	bool		fill = batch->fill_all || (batch->fill != NULL && batch->fill[index]);
	bool		pending = !fill && segment->pending > user->filled;
	const char *reason = fill ? batch->fill_reason : batch->reason;
	bool		before,
				after;

	CHECK_FOR_INTERRUPTS();
	if (segment->is_static)
	{
		if (fill)
			fill_static(batch, decider, index);
		return;
	}
	if (segment->program == NULL)
		return;
	aud_stats_count(AUD_COUNT_RULES, 1);
	after = aud_decider_belongs(decider, index);
	if (user->is_new)
		before = false;
	else if (fill || pending)
		before = aud_members_find(user->members, segment->number, NULL);
	else
		before = segment->is_member_source &&
			aud_decider_run(decider, segment->program, true);
	if (before == after)
		return;
	if (pending && !user->is_new &&
		is_fills_change(batch, decider, index,
						segment->is_member_source &&
						aud_decider_run(decider, segment->program, true), before))
	{
		reason = segment->pending_reason;
		decider->fill_changed = true;
	}
	/* a rule that holds scores 1: each group has what it needs */
	change_membership(batch, decider, index, after,
					  after ? 1 : aud_decider_score(decider, segment->program), reason);
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

/* with fewer candidates each is looked at */
#define MIN_CANDIDATES	16

/*
 * Makes all segments candidates of which the user, who may be in any of them
 * or in none (a new one), may become or may be a member.
 */
static void
add_all_candidates(AudDecider *decider)
{
	const AudDefinitions *defs = decider->defs;
	const AudUser *user = decider->user;
	int			nmembers = user->is_new ? 0 : aud_members_count(user->members);

	memset(decider->candidates, 0xFF, decider->nwords * sizeof(uint64));
	if (defs->nsegments % 64 != 0)
		decider->candidates[decider->nwords - 1] = (UINT64CONST(1) << (defs->nsegments % 64)) - 1;
	if (defs->nsegments >= MIN_CANDIDATES)
		aud_decider_strike_blocked(decider, decider->candidates, false);
	for (int i = 0; i < nmembers; i++)
	{
		int			index = aud_definitions_find_segment_number(defs, aud_members_number(user->members, i));

		if (index >= 0)
			decider->candidates[index / 64] |= UINT64CONST(1) << (index % 64);
	}
}

/*
 * Takes out the candidates about which nothing can have changed.  Not where
 * what is stored, and not what the rules gave, is what was before.
 */
static void
strike_blocked(const AudBatch *batch, AudDecider *decider)
{
	if (batch->fill_all || decider->ncandidates < MIN_CANDIDATES)
		return;
	aud_decider_strike_blocked(decider, decider->candidates, true);
}

/* Makes all segments to be filled candidates. */
static void
add_fill_candidates(const AudBatch *batch, AudDecider *decider)
{
	const AudDefinitions *defs = batch->defs;

	for (int i = 0; i < defs->npending_segments; i++)
	{
		int			index = defs->pending_segments[i];

		if (defs->segments[index].pending > decider->user->filled)
			decider->candidates[index / 64] |= UINT64CONST(1) << (index % 64);
	}
	if (batch->fill == NULL)
		return;
	if (decider->fill != batch->fill)
	{
		decider->fill = batch->fill;
		decider->fills = MemoryContextAlloc(batch->mcxt, (defs->nsegments + 1) * sizeof(int));
		for (int i = 0; i < defs->nsegments; i++)
			if (batch->fill[i])
				decider->fills[decider->nfills++] = i;
	}
	for (int i = 0; i < decider->nfills; i++)
		decider->candidates[decider->fills[i] / 64] |= UINT64CONST(1) << (decider->fills[i] % 64);
}

/*
 * Finds the memberships of one user that changed, in topological order of the
 * segments, and settles them; then when time alone may change the next one,
 * for which the user's timer is set if it is not set to an earlier instant.
 */
void
aud_decide_user(AudBatch *batch, AudDecider *decider, int index)
{
	AudUser    *user = &batch->users[index];
	MemoryContext old = MemoryContextSwitchTo(decider->mcxt);
	TimestampTz due;

	aud_decider_set_user(decider, user, &batch->clock);
	aud_stats_count(AUD_COUNT_USERS, 1);
	change_statics(batch, decider);
	if (user->is_new || batch->fill_all)
		add_all_candidates(decider);
	if (!user->is_new && !user->rebuild)
	{
		find_turned(decider);
		strike_blocked(batch, decider);
	}
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
	user->filled = batch->defs->newest_pending;
	due = aud_decider_next_change(decider,
								  batch->expiring || user->armed <= user->now || user->rebuild ?
								  PG_INT64_MAX : user->armed);
	if (batch->expiring)
		user->next_change = due;
	else if (due < user->armed || user->armed <= user->now || user->rebuild)
	{
		/* one that comes too early is left: it looks, and is set anew */
		user->armed = due;
		user->arm = user->write = true;
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(decider->mcxt);
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
