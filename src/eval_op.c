/*-------------------------------------------------------------------------
 *
 * eval_op.c
 *	  The operators: does a leaf hold for a value?
 *
 * Every operator is decided in its positive form, for one value:
 *
 *	  contains*, exists, is_empty	look at the value as it is
 *	  all others					hold for the value or, where it is an
 *									array, for any of its elements (one level)
 *
 * and then turned over if the leaf is the negated twin.  So a negated operator
 * is exactly the negation of its twin, whatever the value: missing, of another
 * type, or an array.  A path with [*] reaches several values; the positive
 * form holds if it does for any of them.
 *
 * Nothing is raised for what a value holds, and nothing is allocated but for
 * folding and for regular expressions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/int.h"
#include "miscadmin.h"

#include "eval.h"
#include "eval_op.h"
#include "jsonb_walk.h"

/* How many constants the test's value holds. */
static inline int
count_items(const AudTest *test)
{
	Assert(test->value != NULL);
	return test->value->type == AUD_VALUE_LIST ? (int) test->value->len : 1;
}

/* The i-th of them. */
static inline const AudValue *
get_item(const AudTest *test, int i)
{
	Assert(test->value != NULL);
	return test->value->type == AUD_VALUE_LIST ?
		AUD_VALUE_ITEM(test->rule, test->value, i) : test->value;
}

/* The bytes of the i-th constant, a text, folded where the test folds. */
static inline AudBytes
get_text(const AudTest *test, int i)
{
	const AudValue *item;

	if (test->prepared != NULL && test->prepared->folded != NULL)
		return test->prepared->folded[i];
	item = get_item(test, i);
	return (AudBytes) {AUD_VALUE_TEXT_PTR(item), item->len};
}

/* Does the test compare folded texts? */
static inline bool
is_folding(const AudTest *test)
{
	return (test->leaf->flags & AUD_CI) != 0 || test->leaf->op == AUD_OP_ILIKE;
}

/* Is a value, its text folded, equal to the i-th constant? */
static inline bool
equals_item(const AudTest *test, int i, const JsonbValue *value)
{
	bool		ci = (test->leaf->flags & AUD_CI) != 0;

	Assert(!ci || test->prepared != NULL);
	return aud_value_equal(test->rule, get_item(test, i),
						   ci ? &test->prepared->folded[i] : NULL, ci, value);
}

/* Is a value, its text folded, equal to one of the constants? */
static bool
equals_any_item(const AudTest *test, const JsonbValue *value)
{
	if (test->prepared != NULL && test->prepared->set != NULL)
		return aud_value_set_has(test->prepared->set, value);
	for (int i = 0; i < count_items(test); i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (equals_item(test, i, value))
			return true;
	}
	return false;
}

/*
 * The order of a value and a constant of the same scalar type in *order.
 * False when they are not of one ordered type.
 */
static inline bool
compare(const JsonbValue *value, const AudValue *constant, int *order)
{
	Assert(constant != NULL);
	switch ((AudValueType) constant->type)
	{
		case AUD_VALUE_NUMBER:
			if (value->type != jbvNumeric)
				return false;
			*order = aud_numeric_compare(value->val.numeric,
										 AUD_VALUE_NUMERIC(constant));
			return true;
		case AUD_VALUE_TEXT:
			if (value->type != jbvString)
				return false;
			*order = memcmp(value->val.string.val, AUD_VALUE_TEXT_PTR(constant),
							Min(value->val.string.len, (int) constant->len));
			if (*order == 0)
				*order = value->val.string.len - (int) constant->len;
			return true;
		case AUD_VALUE_BOOL:
			if (value->type != jbvBool)
				return false;
			*order = (int) value->val.boolean - (int) (constant->len != 0);
			return true;
		default:
			return false;
	}
}

/* The operators from GT to LTE, on one value. */
static inline bool
is_ordered(AudOp op, const AudValue *constant, const JsonbValue *value)
{
	int			order;

	if (!compare(value, constant, &order))
		return false;
	switch (op)
	{
		case AUD_OP_GT:
			return order > 0;
		case AUD_OP_GTE:
			return order >= 0;
		case AUD_OP_LT:
			return order < 0;
		default:
			return order <= 0;
	}
}

/* The text operators, on one text, folded where the test folds. */
static bool
is_like(const AudTest *test, const char *s, int len)
{
	for (int i = 0; i < count_items(test); i++)
	{
		AudBytes	item = get_text(test, i);
		bool		found;

		CHECK_FOR_INTERRUPTS();
		switch (test->leaf->op)
		{
			case AUD_OP_CONTAINS:
				found = aud_text_contains(s, len, item.data, item.len);
				break;
			case AUD_OP_STARTS_WITH:
				found = aud_text_starts_with(s, len, item.data, item.len);
				break;
			case AUD_OP_ENDS_WITH:
				found = aud_text_ends_with(s, len, item.data, item.len);
				break;
			case AUD_OP_LIKE:
			case AUD_OP_ILIKE:
				found = aud_text_like(s, len, item.data, item.len);
				break;
			default:
				found = aud_text_matches(s, len, test->prepared->patterns[i],
										 test->leaf->op == AUD_OP_IREGEX);
				break;
		}
		if (found)
			return true;
	}
	return false;
}

/* t + d, or the end of time where that is beyond it. */
static inline int64
add_clamped(int64 t, int64 d)
{
	int64		sum;

	if (pg_add_s64_overflow(t, d, &sum))
		return d > 0 ? PG_INT64_MAX : PG_INT64_MIN;
	return sum;
}

/* Does a leaf's time operator hold for an instant? */
bool
aud_instant_holds(const AudRule *rule, const AudNode *leaf, TimestampTz t,
				  const AudClock *clock)
{
	int64		constant = AUD_VALUE_INT64(AUD_NODE_VALUE(rule, leaf));

	switch (leaf->op)
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
			return t > add_clamped(clock->now, -constant) &&
				t <= add_clamped(clock->now, clock->max_future_skew);
		case AUD_OP_BEFORE_LAST:
			return t <= add_clamped(clock->now, -constant);
		case AUD_OP_WITHIN_NEXT:
			return t > clock->now && t <= add_clamped(clock->now, constant);
		default:
			return t > add_clamped(clock->now, constant);
	}
}

/* See eval.h; what aud_instant_holds says changes at these instants only. */
void
aud_instant_next_turn(const AudRule *rule, const AudNode *leaf, TimestampTz t,
					  const AudClock *clock, TimestampTz *due)
{
	int64		constant = AUD_VALUE_INT64(AUD_NODE_VALUE(rule, leaf));

	switch (leaf->op)
	{
		case AUD_OP_WITHIN_LAST:
			aud_look_at(t, -clock->max_future_skew, clock, due);
			aud_look_at(t, constant, clock, due);
			break;
		case AUD_OP_BEFORE_LAST:
			aud_look_at(t, constant, clock, due);
			break;
		case AUD_OP_WITHIN_NEXT:
			aud_look_at(t, -constant, clock, due);
			aud_look_at(t, 0, clock, due);
			break;
		case AUD_OP_AFTER_NEXT:
			aud_look_at(t, -constant, clock, due);
			break;
		default:
			break;
	}
}

/*
 * See eval.h.  Every timestamp in the value counts, elements of arrays within
 * arrays too: an instant too many does no harm.
 */
void
aud_value_next_turn(const AudRule *rule, const AudNode *leaf,
					const JsonbValue *value, const AudClock *clock, TimestampTz *due)
{
	TimestampTz t;

	if (value == NULL)
		return;
	if (value->type == jbvString)
	{
		if (aud_timestamp_parse(value->val.string.val, value->val.string.len, &t))
			aud_instant_next_turn(rule, leaf, t, clock, due);
	}
	else if (value->type == jbvArray)
	{
		check_stack_depth();
		for (int i = 0; i < value->val.array.nElems; i++)
			aud_value_next_turn(rule, leaf, &value->val.array.elems[i], clock, due);
	}
	else if (value->type == jbvBinary)
	{
		JsonbIterator *it = JsonbIteratorInit(value->val.binary.data);
		JsonbIteratorToken token;
		JsonbValue	element;

		while ((token = JsonbIteratorNext(&it, &element, false)) != WJB_DONE)
			if (token == WJB_ELEM && element.type == jbvString)
				aud_value_next_turn(rule, leaf, &element, clock, due);
	}
}

/* The time operators, on one text. */
static bool
is_in_time(const AudTest *test, const char *s, int len)
{
	TimestampTz t;

	return aud_timestamp_parse(s, len, &t) &&
		aud_instant_holds(test->rule, test->leaf, t, test->clock);
}

/* The version operators, on one text. */
static bool
is_version(const AudTest *test, const char *s, int len)
{
	int			order;

	Assert(test->value != NULL);
	if (!aud_semver_valid(s, len))
		return false;
	order = aud_semver_compare(s, len, AUD_VALUE_TEXT_PTR(test->value),
							   test->value->len);
	switch (test->leaf->op)
	{
		case AUD_OP_SEMVER_EQ:
			return order == 0;
		case AUD_OP_SEMVER_GT:
			return order > 0;
		case AUD_OP_SEMVER_GTE:
			return order >= 0;
		case AUD_OP_SEMVER_LT:
			return order < 0;
		default:
			return order <= 0;
	}
}

/*
 * Does the positive operator hold for this one value, its text folded where
 * the test folds?  Elements of arrays are no longer looked into.
 */
static inline bool
holds_for_folded(const AudTest *test, const JsonbValue *value)
{
	switch ((AudOp) test->leaf->op)
	{
		case AUD_OP_EQ:
			return equals_item(test, 0, value);
		case AUD_OP_IN:
			return equals_any_item(test, value);
		case AUD_OP_GT:
		case AUD_OP_GTE:
		case AUD_OP_LT:
		case AUD_OP_LTE:
			return is_ordered(test->leaf->op, test->value, value);
		case AUD_OP_BETWEEN:
			return is_ordered(AUD_OP_GTE, get_item(test, 0), value) &&
				is_ordered(AUD_OP_LTE, get_item(test, 1), value);
		case AUD_OP_STARTS_WITH:
		case AUD_OP_ENDS_WITH:
		case AUD_OP_LIKE:
		case AUD_OP_ILIKE:
		case AUD_OP_REGEX:
		case AUD_OP_IREGEX:
			return value->type == jbvString &&
				is_like(test, value->val.string.val, value->val.string.len);
		case AUD_OP_CONTAINS:
			Assert(test->value != NULL);
			/* a text holds another; of an array these are the elements */
			return value->type == jbvString &&
				test->value->type == AUD_VALUE_TEXT &&
				is_like(test, value->val.string.val, value->val.string.len);
		case AUD_OP_BEFORE:
		case AUD_OP_AT_OR_BEFORE:
		case AUD_OP_AFTER:
		case AUD_OP_AT_OR_AFTER:
		case AUD_OP_WITHIN_LAST:
		case AUD_OP_BEFORE_LAST:
		case AUD_OP_WITHIN_NEXT:
		case AUD_OP_AFTER_NEXT:
			return value->type == jbvString &&
				is_in_time(test, value->val.string.val, value->val.string.len);
		case AUD_OP_SEMVER_EQ:
		case AUD_OP_SEMVER_GT:
		case AUD_OP_SEMVER_GTE:
		case AUD_OP_SEMVER_LT:
		case AUD_OP_SEMVER_LTE:
			return value->type == jbvString &&
				is_version(test, value->val.string.val, value->val.string.len);
		default:
			return false;
	}
}

typedef bool (*ValueTest) (const AudTest *test, const JsonbValue *value);

/* Folds the value, a text, and asks "holds" about it. */
static pg_noinline bool
test_folded(const AudTest *test, const JsonbValue *value, ValueTest holds)
{
	AudFoldRoom room;
	AudBytes	bytes;
	JsonbValue	folded;
	bool		result;

	bytes = aud_text_fold(value->val.string.val, value->val.string.len, &room);
	folded.type = jbvString;
	folded.val.string.val = unconstify(char *, bytes.data);
	folded.val.string.len = bytes.len;
	result = holds(test, &folded);
	aud_text_fold_end(&room);
	return result;
}

/*
 * Asks "holds" about the value, its text folded if the test folds.  The room
 * for that is in another function's frame: most tests do without.
 */
static inline bool
fold_and_test(const AudTest *test, const JsonbValue *value, ValueTest holds)
{
	if (likely(value->type != jbvString || !is_folding(test)))
		return holds(test, value);
	return test_folded(test, value, holds);
}

/* ValueTest: is the value equal to the first constant? */
static bool
equals_first_item(const AudTest *test, const JsonbValue *value)
{
	return equals_item(test, 0, value);
}

/* Does "holds" say yes of any element of an array? */
static bool
any_element(const AudTest *test, const JsonbValue *array, ValueTest holds)
{
	AudJsonbElements elements;
	JsonbValue	element;

	aud_jsonb_elements_begin(&elements, array->val.binary.data);
	while (aud_jsonb_elements_next(&elements, &element))
	{
		CHECK_FOR_INTERRUPTS();
		if (fold_and_test(test, &element, holds))
			return true;
	}
	return false;
}

/* Is every constant among the elements of an array? */
static bool
has_all_items(const AudTest *test, const JsonbValue *array)
{
	for (int i = 0; i < count_items(test); i++)
	{
		AudTest		one = *test;
		AudLeafPrepared prepared;

		/* as if the i-th constant were the only one */
		one.value = get_item(test, i);
		if (test->prepared != NULL)
		{
			prepared = *test->prepared;
			if (prepared.folded != NULL)
				prepared.folded += i;
			one.prepared = &prepared;
		}
		if (!any_element(&one, array, equals_first_item))
			return false;
	}
	return true;
}

/* Is it null, "", [] or {}? */
static bool
is_empty(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return true;
		case jbvString:
			return value->val.string.len == 0;
		case jbvBinary:
			return JsonContainerSize(value->val.binary.data) == 0;
		default:
			return false;
	}
}

/* Does the positive operator hold for a value that is there? */
static inline bool
holds_for_value(const AudTest *test, const JsonbValue *value)
{
	bool		is_array = aud_jsonb_is_array(value);

	switch ((AudOp) test->leaf->op)
	{
		case AUD_OP_EXISTS:
			return value->type != jbvNull;
		case AUD_OP_IS_EMPTY:
			return is_empty(value);
		case AUD_OP_CONTAINS:
			return is_array ? any_element(test, value, equals_first_item) :
				fold_and_test(test, value, holds_for_folded);
		case AUD_OP_CONTAINS_ANY:
			return is_array && any_element(test, value, equals_any_item);
		case AUD_OP_CONTAINS_ALL:
			return is_array && has_all_items(test, value);
		default:
			return fold_and_test(test, value, holds_for_folded) ||
				(is_array && any_element(test, value, holds_for_folded));
	}
}

/* Does the positive operator hold for a value, or for a missing one (NULL)? */
static inline bool
holds(const AudTest *test, const JsonbValue *value)
{
	if (value == NULL)
		return test->leaf->op == AUD_OP_IS_EMPTY;
	return holds_for_value(test, value);
}

/* Sets up a test of a leaf. */
static inline void
test_init(AudTest *test, const AudRule *rule, const AudNode *leaf,
		  const AudLeafPrepared *prepared, const AudClock *clock)
{
	test->rule = rule;
	test->leaf = leaf;
	test->value = leaf->value != 0 ? AUD_NODE_VALUE(rule, leaf) : NULL;
	test->clock = clock;
	test->prepared = prepared;
}

/*
 * Does the positive operator hold for any of the values that the steps from
 * "istep" on reach?  Counts them in *nreached, up to the first that it holds
 * for.
 */
static bool
any_reached(const AudTest *test, const AudPath *path, int istep,
			const JsonbValue *value, int64 *nreached)
{
	JsonbValue	room;
	AudJsonbElements elements;
	JsonbValue	element;

	check_stack_depth();
	for (; value != NULL && istep < path->nsteps &&
		 path->steps[istep].kind != AUD_STEP_EACH; istep++)
		value = aud_path_step(test->rule, &path->steps[istep], value, &room);
	if (value == NULL)
		return false;
	if (istep == path->nsteps)
	{
		(*nreached)++;
		return holds(test, value);
	}
	if (!aud_jsonb_is_array(value))
		return false;
	aud_jsonb_elements_begin(&elements, value->val.binary.data);
	while (aud_jsonb_elements_next(&elements, &element))
	{
		CHECK_FOR_INTERRUPTS();
		if (any_reached(test, path, istep + 1, &element, nreached))
			return true;
	}
	return false;
}

/*
 * Is this a comparison of a single value that needs no folding?  Most leaves
 * are, and they need nothing of a test but the constant.
 */
static inline bool
is_plain_comparison(const AudNode *leaf, const JsonbValue *value)
{
	return leaf->op >= AUD_OP_EQ && leaf->op <= AUD_OP_LTE &&
		(leaf->flags & AUD_CI) == 0 &&
		value != NULL && value->type != jbvBinary;
}

/* Does the leaf hold for this value (NULL: missing)?  See eval_op.h. */
bool
aud_value_holds_prepared(const AudRule *rule, const AudNode *leaf,
						 const AudLeafPrepared *prepared,
						 const JsonbValue *value, const AudClock *clock)
{
	bool		result;

	if (likely(is_plain_comparison(leaf, value)))
	{
		const AudValue *constant = AUD_NODE_VALUE(rule, leaf);

		result = leaf->op == AUD_OP_EQ ?
			aud_value_equal(rule, constant, NULL, false, value) :
			is_ordered(leaf->op, constant, value);
	}
	else
	{
		AudTest		test;

		test_init(&test, rule, leaf, prepared, clock);
		result = holds(&test, value);
	}
	return result != ((leaf->flags & AUD_NEGATED) != 0);
}

/*
 * The value at a path without [*], its first step taken by the leaf's hint.
 */
static inline const JsonbValue *
find_value(const AudRule *rule, AudLeafPrepared *prepared, const AudPath *path,
		   int nused, const JsonbValue *from, JsonbValue *room)
{
	const AudPathStep *step = &path->steps[nused];

	if (prepared == NULL || from == NULL || from->type != jbvBinary ||
		nused >= path->nsteps || step->kind != AUD_STEP_KEY ||
		!JsonContainerIsObject(from->val.binary.data))
		return aud_path_value(rule, path, nused, from, room);
	from = aud_jsonb_key_hinted(from->val.binary.data, AUD_AT(rule, step->key),
								step->keylen, &prepared->hint, room);
	if (likely(nused + 1 == path->nsteps))
		return from;
	return aud_path_value(rule, path, nused + 1, from, room);
}

/* As aud_path_holds_prepared, for a path with [*]. */
static bool
any_holds(const AudRule *rule, const AudNode *leaf,
		  const AudLeafPrepared *prepared, const AudPath *path, int nused,
		  const JsonbValue *from, const AudClock *clock)
{
	AudTest		test;
	int64		nreached = 0;
	bool		result;

	test_init(&test, rule, leaf, prepared, clock);
	result = from != NULL && any_reached(&test, path, nused, from, &nreached);
	if (!result && nreached == 0)
		result = holds(&test, NULL);
	return result != ((leaf->flags & AUD_NEGATED) != 0);
}

/* Does the leaf hold at a path, [*] included?  See eval_op.h. */
bool
aud_path_holds_prepared(const AudRule *rule, const AudNode *leaf,
						AudLeafPrepared *prepared, const AudPath *path,
						int nused, const JsonbValue *from,
						const AudClock *clock)
{
	JsonbValue	room;

	if (path->has_each)
		return any_holds(rule, leaf, prepared, path, nused, from, clock);
	return aud_value_holds_prepared(rule, leaf, prepared,
									find_value(rule, prepared, path, nused,
											   from, &room),
									clock);
}

/* Does the leaf hold for this value (NULL: missing)?  See eval.h. */
bool
aud_value_holds(const AudRule *rule, const AudNode *leaf,
				const JsonbValue *value, const AudClock *clock)
{
	AudLeafPrepared *prepared = aud_leaf_prepare(rule, leaf, false);
	bool		result = aud_value_holds_prepared(rule, leaf, prepared, value,
												  clock);

	if (prepared != NULL)
		aud_leaf_prepared_free(prepared, leaf, rule);
	return result;
}

/* Does the leaf hold at a path, [*] included?  See eval.h. */
bool
aud_path_holds(const AudRule *rule, const AudNode *leaf, const AudPath *path,
			   int nused, const JsonbValue *from, const AudClock *clock)
{
	AudLeafPrepared *prepared = aud_leaf_prepare(rule, leaf, false);
	bool		result = aud_path_holds_prepared(rule, leaf, prepared, path,
												 nused, from, clock);

	if (prepared != NULL)
		aud_leaf_prepared_free(prepared, leaf, rule);
	return result;
}
