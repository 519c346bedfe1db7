/*-------------------------------------------------------------------------
 *
 * rule_check.c
 *	  The test of a leaf: which operator, and is its value one it takes?
 *
 * SPEC 2.3.  All that can be wrong with a constant is found here, so that
 * evaluation never meets a pattern or version that is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "miscadmin.h"
#include "mb/pg_wchar.h"
#include "regex/regex.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "eval.h"
#include "rule_parse.h"

/* what an operator wants of its value */
typedef enum Wanted
{
	WANTED_ANY,					/* anything */
	WANTED_ORDERED,				/* a number, text or boolean */
	WANTED_RANGE,				/* two of these, in order */
	WANTED_LIST,
	WANTED_ONE,					/* anything but a list */
	WANTED_TEXTS,				/* a text or a list of texts */
	WANTED_NOTHING,
	WANTED_TIME,
	WANTED_DURATION,
	WANTED_SEMVER
} Wanted;

/* What an operator wants. */
static Wanted
wanted_by(AudOp op)
{
	switch (op)
	{
		case AUD_OP_NONE:
		case AUD_OP_EQ:
			return WANTED_ANY;
		case AUD_OP_GT:
		case AUD_OP_GTE:
		case AUD_OP_LT:
		case AUD_OP_LTE:
			return WANTED_ORDERED;
		case AUD_OP_BETWEEN:
			return WANTED_RANGE;
		case AUD_OP_IN:
		case AUD_OP_CONTAINS_ANY:
		case AUD_OP_CONTAINS_ALL:
			return WANTED_LIST;
		case AUD_OP_CONTAINS:
			return WANTED_ONE;
		case AUD_OP_STARTS_WITH:
		case AUD_OP_ENDS_WITH:
		case AUD_OP_LIKE:
		case AUD_OP_ILIKE:
		case AUD_OP_REGEX:
		case AUD_OP_IREGEX:
			return WANTED_TEXTS;
		case AUD_OP_EXISTS:
		case AUD_OP_IS_EMPTY:
			return WANTED_NOTHING;
		case AUD_OP_BEFORE:
		case AUD_OP_AT_OR_BEFORE:
		case AUD_OP_AFTER:
		case AUD_OP_AT_OR_AFTER:
			return WANTED_TIME;
		case AUD_OP_WITHIN_LAST:
		case AUD_OP_BEFORE_LAST:
		case AUD_OP_WITHIN_NEXT:
		case AUD_OP_AFTER_NEXT:
			return WANTED_DURATION;
		case AUD_OP_SEMVER_EQ:
		case AUD_OP_SEMVER_GT:
		case AUD_OP_SEMVER_GTE:
		case AUD_OP_SEMVER_LT:
		case AUD_OP_SEMVER_LTE:
			return WANTED_SEMVER;
	}
	return WANTED_ANY;			/* keep compiler quiet */
}

/* May an operator fold case?  LIKE and REGEX become ILIKE and IREGEX. */
static bool
takes_ci(AudOp op)
{
	switch (op)
	{
		case AUD_OP_EQ:
		case AUD_OP_IN:
		case AUD_OP_CONTAINS:
		case AUD_OP_CONTAINS_ANY:
		case AUD_OP_CONTAINS_ALL:
		case AUD_OP_STARTS_WITH:
		case AUD_OP_ENDS_WITH:
		case AUD_OP_LIKE:
		case AUD_OP_REGEX:
			return true;
		default:
			return false;
	}
}

/* The beginning of a text, for messages; palloc'ed if it was cut. */
static const char *
excerpt(const AudJson *json)
{
	if (json->len <= 60)
		return json->text;
	return psprintf("%s...", pnstrdup(json->text, pg_mbcliplen(json->text, json->len, 60)));
}

/* A boolean; false and a failure if it is something else. */
bool
aud_check_bool(AudParse *parse, const AudJson *json, bool *result)
{
	if (json->type != AUD_JSON_BOOL)
	{
		aud_rule_fail(parse, json, "must be true or false, not %s",
					  aud_json_type_name(json));
		return false;
	}
	*result = json->boolean;
	return true;
}

/* A text; false and a failure if it is something else. */
bool
aud_check_text(AudParse *parse, const AudJson *json)
{
	if (json->type == AUD_JSON_TEXT)
		return true;
	aud_rule_fail(parse, json, "must be a text, not %s", aud_json_type_name(json));
	return false;
}

/* A timestamp; false and a failure if it is none. */
bool
aud_check_time(AudParse *parse, const AudJson *json, TimestampTz *result)
{
	if (json->type != AUD_JSON_TEXT)
	{
		aud_rule_fail(parse, json, "must be a timestamp, not %s",
					  aud_json_type_name(json));
		return false;
	}
	if (aud_timestamp_parse(json->text, json->len, result))
		return true;
	aud_rule_fail(parse, json, "\"%s\" is not a timestamp", excerpt(json));
	aud_rule_hint(parse, "Timestamps are written as in \"2026-11-20T09:38:00Z\".");
	return false;
}

/* A number of seconds as a duration, in microseconds; false if it is none. */
static bool
seconds_to_duration(AudParse *parse, const AudJson *json, int64 *result)
{
	Numeric		seconds = aud_const_number(parse, json);
	Datum		usecs;
	Datum		limit;

	if (seconds == NULL)
		return false;

	/* compared before the conversion, which would raise an error */
	limit = DirectFunctionCall1(int8_numeric, Int64GetDatum(USECS_PER_SEC));
	usecs = DirectFunctionCall2(numeric_mul, NumericGetDatum(seconds), limit);
	usecs = DirectFunctionCall2(numeric_round, usecs, Int32GetDatum(0));
	limit = DirectFunctionCall1(int8_numeric, Int64GetDatum(AUD_MAX_DURATION));
	if (DatumGetBool(DirectFunctionCall2(numeric_gt, usecs, limit)))
	{
		aud_rule_fail(parse, json, "the duration is too long");
		return false;
	}
	limit = DirectFunctionCall1(int8_numeric, Int64GetDatum(0));
	if (DatumGetBool(DirectFunctionCall2(numeric_le, usecs, limit)))
	{
		aud_rule_fail(parse, json, "a duration must be above zero");
		return false;
	}
	*result = DatumGetInt64(DirectFunctionCall1(numeric_int8, usecs));
	return true;
}

/* A duration in microseconds; false and a failure if it is none. */
bool
aud_check_duration(AudParse *parse, const AudJson *json, int64 *result)
{
	const char *problem;

	if (json->type == AUD_JSON_NUMBER)
		return seconds_to_duration(parse, json, result);
	if (json->type != AUD_JSON_TEXT)
	{
		aud_rule_fail(parse, json, "must be a duration or a number of seconds, not %s",
					  aud_json_type_name(json));
		return false;
	}
	if (aud_duration_parse(json->text, json->len, result, &problem))
		return true;
	aud_rule_fail(parse, json, "\"%s\" is not a duration: %s", excerpt(json), problem);
	if (strstr(problem, "fixed length") != NULL)
		aud_rule_hint(parse, "Months and years have no fixed length; write the duration in days, as in \"30 days\".");
	return false;
}

/*
 * A regular expression as the ~ and ~* operators take it; false and a failure
 * if it is none.  pg_regcomp returns what is wrong, RE_compile would raise it.
 */
static bool
check_regex(AudParse *parse, const AudJson *json, AudOp op)
{
	int			flags = REG_ADVANCED | REG_NOSUB;
	pg_wchar   *pattern = palloc((json->len + 1) * sizeof(pg_wchar));
	int			len = pg_mb2wchar_with_len(json->text, pattern, json->len);
	regex_t		regex;
	int			result;

	if (op == AUD_OP_IREGEX)
		flags |= REG_ICASE;
	result = pg_regcomp(&regex, pattern, len, flags, DEFAULT_COLLATION_OID);
	pfree(pattern);
	if (result == REG_OKAY)
	{
		pg_regfree(&regex);
		return true;
	}

	/* a cancelled compilation says nothing about the expression */
	CHECK_FOR_INTERRUPTS();
	{
		char		problem[100];

		pg_regerror(result, &regex, problem, sizeof(problem));
		aud_rule_fail(parse, json, "invalid regular expression: %s", problem);
	}
	return false;
}

/* A LIKE pattern; false and a failure if it ends in a lone backslash. */
static bool
check_like(AudParse *parse, const AudJson *json)
{
	for (int i = 0; i < json->len; i += pg_mblen(json->text + i))
	{
		if (json->text[i] != '\\')
			continue;
		if (++i < json->len)
			continue;
		aud_rule_fail(parse, json, "the pattern must not end in a lone backslash");
		return false;
	}
	return true;
}

/* One text of a text operator; false and a failure if it will not do. */
static bool
check_one_text(AudParse *parse, const AudJson *json, const char *opname, AudOp op)
{
	if (json->type != AUD_JSON_TEXT)
	{
		aud_rule_fail(parse, json, "operator \"%s\" takes a text or a list of texts, not %s%s",
					  opname,
					  json->key == NULL && json->parent != NULL &&
					  json->parent->type == AUD_JSON_ARRAY ? "a list with " : "",
					  aud_json_type_name(json));
		return false;
	}
	switch (op)
	{
		case AUD_OP_LIKE:
		case AUD_OP_ILIKE:
			return check_like(parse, json);
		case AUD_OP_REGEX:
		case AUD_OP_IREGEX:
			return check_regex(parse, json, op);
		default:
			return true;
	}
}

/* A new list constant with room for the items of an array. */
static AudConst *
make_list(const AudJson *json)
{
	AudConst   *list = palloc0(sizeof(AudConst));

	list->type = AUD_VALUE_LIST;
	list->items = palloc0((json->nitems + 1) * sizeof(AudConst *));
	return list;
}

/* Appends an item to a list constant; false if a failure left none. */
static bool
add_to_list(AudConst *list, AudConst *item)
{
	if (item == NULL)
		return false;
	list->items[list->len++] = item;
	return true;
}

/* -1, 0 or 1 as two constants of one type that has an order compare. */
static int
compare_constants(const AudConst *a, const AudConst *b)
{
	switch (a->type)
	{
		case AUD_VALUE_BOOL:
			return (int) a->boolean - (int) b->boolean;
		case AUD_VALUE_NUMBER:
			return DatumGetInt32(DirectFunctionCall2(numeric_cmp,
													 NumericGetDatum(a->number),
													 NumericGetDatum(b->number)));
		default:
			{
				int			result = memcmp(a->text, b->text, Min(a->len, b->len));

				return result != 0 ? result : a->len - b->len;
			}
	}
}

/* Has this value an order? */
static bool
is_ordered(const AudJson *json)
{
	return json->type == AUD_JSON_NUMBER || json->type == AUD_JSON_TEXT ||
		json->type == AUD_JSON_BOOL;
}

/* A single value that has an order; NULL and a failure if it has none. */
static AudConst *
read_ordered(AudParse *parse, const AudJson *json, const char *opname)
{
	if (!is_ordered(json))
	{
		aud_rule_fail(parse, json, "operator \"%s\" takes a number, a text or a boolean, not %s",
					  opname, aud_json_type_name(json));
		return NULL;
	}
	return aud_const_make(parse, json);
}

/* The two ends of a range; NULL and a failure if they are none. */
static AudConst *
read_range(AudParse *parse, const AudJson *json, const char *opname)
{
	AudConst   *list;

	if (json->type != AUD_JSON_ARRAY || json->nitems != 2)
	{
		aud_rule_fail(parse, json, "operator \"%s\" takes a list of two values, low and high",
					  opname);
		return NULL;
	}
	list = make_list(json);
	for (const AudJson *item = json->first; item; item = item->next)
	{
		if (!add_to_list(list, read_ordered(parse, item, opname)))
			return NULL;
	}
	if (list->items[0]->type != list->items[1]->type)
	{
		aud_rule_fail(parse, json, "low and high must be of one type, not %s and %s",
					  aud_json_type_name(json->first), aud_json_type_name(json->last));
		return NULL;
	}
	if (compare_constants(list->items[0], list->items[1]) > 0)
	{
		aud_rule_fail(parse, json, "low is above high");
		return NULL;
	}
	return list;
}

/* A list of any values but null; NULL and a failure if it is none. */
static AudConst *
read_list(AudParse *parse, const AudJson *json, const char *opname)
{
	AudConst   *list;

	if (json->type != AUD_JSON_ARRAY)
	{
		aud_rule_fail(parse, json, "operator \"%s\" takes a list, not %s",
					  opname, aud_json_type_name(json));
		return NULL;
	}
	list = make_list(json);
	for (const AudJson *item = json->first; item; item = item->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (item->type == AUD_JSON_NULL)
		{
			aud_rule_fail(parse, item, "a list cannot have null in it");
			return NULL;
		}
		if (!add_to_list(list, aud_const_make(parse, item)))
			return NULL;
	}
	return list;
}

/* A text or a list of texts; NULL and a failure if it is neither. */
static AudConst *
read_texts(AudParse *parse, const AudJson *json, const char *opname, AudOp op)
{
	AudConst   *list;

	if (json->type != AUD_JSON_ARRAY)
	{
		if (!check_one_text(parse, json, opname, op))
			return NULL;
		return aud_const_make(parse, json);
	}
	list = make_list(json);
	for (const AudJson *item = json->first; item; item = item->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (!check_one_text(parse, item, opname, op) ||
			!add_to_list(list, aud_const_make(parse, item)))
			return NULL;
	}
	return list;
}

/*
 * The value of an operator as what the operator wants.  NULL and a failure if
 * it is not that.
 */
static AudConst *
read_value(AudParse *parse, const AudJson *json, const char *opname, AudOp op)
{
	Wanted		wanted = wanted_by(op);
	AudConst   *constant;

	if (json->type == AUD_JSON_NULL)
	{
		aud_rule_fail(parse, json, "operator \"%s\" does not take null", opname);
		return NULL;
	}
	if (json->type == AUD_JSON_ARRAY &&
		(wanted == WANTED_ORDERED || wanted == WANTED_ONE ||
		 wanted == WANTED_TIME || wanted == WANTED_DURATION ||
		 wanted == WANTED_SEMVER))
	{
		aud_rule_fail(parse, json, "operator \"%s\" takes one value, not a list", opname);
		return NULL;
	}

	switch (wanted)
	{
		case WANTED_ANY:
		case WANTED_ONE:
			return aud_const_make(parse, json);
		case WANTED_ORDERED:
			return read_ordered(parse, json, opname);
		case WANTED_RANGE:
			return read_range(parse, json, opname);
		case WANTED_LIST:
			return read_list(parse, json, opname);
		case WANTED_TEXTS:
			return read_texts(parse, json, opname, op);
		case WANTED_TIME:
			constant = palloc0(sizeof(AudConst));
			constant->type = AUD_VALUE_TIME;
			if (!aud_check_time(parse, json, &constant->int64value))
				return NULL;
			return constant;
		case WANTED_DURATION:
			constant = palloc0(sizeof(AudConst));
			constant->type = AUD_VALUE_DURATION;
			if (!aud_check_duration(parse, json, &constant->int64value))
				return NULL;
			return constant;
		case WANTED_SEMVER:
			if (!aud_check_text(parse, json))
				return NULL;
			if (aud_semver_valid(json->text, json->len))
				return aud_const_make(parse, json);
			aud_rule_fail(parse, json, "\"%s\" is not a semantic version", excerpt(json));
			aud_rule_hint(parse, "Versions are written as in \"1.4.0\" or \"2.0.0-rc.1\".");
			return NULL;
		case WANTED_NOTHING:
			break;
	}
	aud_rule_fail(parse, json, "operator \"%s\" takes no value", opname);
	return NULL;
}

/*
 * Reads the test of a leaf into an item: operator, negation, ci and value.
 * "value" and "ci" may be NULL; "node" is blamed for a value that is missing.
 * False and a failure if something is wrong.
 */
bool
aud_check_test(AudParse *parse, const AudJson *node, const AudJson *op,
			   const AudJson *value, const AudJson *ci, AudItem *item)
{
	AudOp		found;
	bool		negated;
	bool		fold = false;

	if (!aud_check_text(parse, op))
		return false;
	if (!aud_op_find(op->text, &found, &negated))
	{
		aud_rule_fail(parse, op, "unknown operator \"%s\"", excerpt(op));
		return false;
	}

	/* other ways to say that something exists */
	if (found == AUD_OP_EQ && value != NULL && value->type == AUD_JSON_NULL)
	{
		found = AUD_OP_EXISTS;
		negated = !negated;
		value = NULL;
	}
	else if (found == AUD_OP_EXISTS && !negated && value != NULL)
	{
		bool		exists;

		if (!aud_check_bool(parse, value, &exists))
			return false;
		negated = !exists;
		value = NULL;
	}

	if (ci != NULL && !aud_check_bool(parse, ci, &fold))
		return false;
	if (fold && !takes_ci(found))
	{
		aud_rule_fail(parse, ci, "operator \"%s\" cannot ignore case",
					  aud_op_name(found, negated));
		return false;
	}
	if (fold && (found == AUD_OP_LIKE || found == AUD_OP_REGEX))
	{
		found = found == AUD_OP_LIKE ? AUD_OP_ILIKE : AUD_OP_IREGEX;
		fold = false;
	}

	item->node.op = found;
	if (negated)
		item->node.flags |= AUD_NEGATED;
	if (fold)
		item->node.flags |= AUD_CI;

	if (value == NULL)
	{
		if (wanted_by(found) == WANTED_NOTHING)
			return true;
		aud_rule_fail(parse, node, "operator \"%s\" needs a value",
					  aud_op_name(found, negated));
		return false;
	}
	item->value = read_value(parse, value, aud_op_name(found, negated), found);
	return item->value != NULL;
}
