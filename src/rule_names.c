/*-------------------------------------------------------------------------
 *
 * rule_names.c
 *	  The names of operators and aggregates (SPEC 2.2, 2.3, 2.5), both ways.
 *
 * An operator and its negated twin are one AudOp; the table has a row for
 * each name.  The first row of an (operator, negated) pair is the one that is
 * printed, later ones are aliases that are only understood.
 *
 * The tables are small and searched from the front: rules are read when they
 * are defined, not when they are evaluated.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "rule_parse.h"

typedef struct OpName
{
	const char *name;
	AudOp		op;
	bool		negated;
} OpName;

static const OpName op_names[] = {
	{"eq", AUD_OP_EQ, false},
	{"neq", AUD_OP_EQ, true},
	{"gt", AUD_OP_GT, false},
	{"gte", AUD_OP_GTE, false},
	{"lt", AUD_OP_LT, false},
	{"lte", AUD_OP_LTE, false},
	{"between", AUD_OP_BETWEEN, false},
	{"not_between", AUD_OP_BETWEEN, true},
	{"in", AUD_OP_IN, false},
	{"not_in", AUD_OP_IN, true},
	{"contains", AUD_OP_CONTAINS, false},
	{"not_contains", AUD_OP_CONTAINS, true},
	{"contains_any", AUD_OP_CONTAINS_ANY, false},
	{"contains_none", AUD_OP_CONTAINS_ANY, true},
	{"contains_all", AUD_OP_CONTAINS_ALL, false},
	{"starts_with", AUD_OP_STARTS_WITH, false},
	{"not_starts_with", AUD_OP_STARTS_WITH, true},
	{"ends_with", AUD_OP_ENDS_WITH, false},
	{"not_ends_with", AUD_OP_ENDS_WITH, true},
	{"like", AUD_OP_LIKE, false},
	{"not_like", AUD_OP_LIKE, true},
	{"ilike", AUD_OP_ILIKE, false},
	{"not_ilike", AUD_OP_ILIKE, true},
	{"regex", AUD_OP_REGEX, false},
	{"not_regex", AUD_OP_REGEX, true},
	{"iregex", AUD_OP_IREGEX, false},
	{"not_iregex", AUD_OP_IREGEX, true},
	{"exists", AUD_OP_EXISTS, false},
	{"not_exists", AUD_OP_EXISTS, true},
	{"is_empty", AUD_OP_IS_EMPTY, false},
	{"not_empty", AUD_OP_IS_EMPTY, true},
	{"before", AUD_OP_BEFORE, false},
	{"at_or_before", AUD_OP_AT_OR_BEFORE, false},
	{"after", AUD_OP_AFTER, false},
	{"at_or_after", AUD_OP_AT_OR_AFTER, false},
	{"within_last", AUD_OP_WITHIN_LAST, false},
	{"before_last", AUD_OP_BEFORE_LAST, false},
	{"within_next", AUD_OP_WITHIN_NEXT, false},
	{"after_next", AUD_OP_AFTER_NEXT, false},
	{"semver_eq", AUD_OP_SEMVER_EQ, false},
	{"semver_neq", AUD_OP_SEMVER_EQ, true},
	{"semver_gt", AUD_OP_SEMVER_GT, false},
	{"semver_gte", AUD_OP_SEMVER_GTE, false},
	{"semver_lt", AUD_OP_SEMVER_LT, false},
	{"semver_lte", AUD_OP_SEMVER_LTE, false},

	{"=", AUD_OP_EQ, false},
	{"==", AUD_OP_EQ, false},
	{"equals", AUD_OP_EQ, false},
	{"!=", AUD_OP_EQ, true},
	{"<>", AUD_OP_EQ, true},
	{">", AUD_OP_GT, false},
	{">=", AUD_OP_GTE, false},
	{"<", AUD_OP_LT, false},
	{"<=", AUD_OP_LTE, false}
};

static const char *const aggregate_names[AUD_NAGGREGATES] = {
	[AUD_AGG_COUNT] = "count",
	[AUD_AGG_SUM] = "sum",
	[AUD_AGG_AVG] = "avg",
	[AUD_AGG_MIN] = "min",
	[AUD_AGG_MAX] = "max",
	[AUD_AGG_FIRST] = "first",
	[AUD_AGG_LAST] = "last",
	[AUD_AGG_COUNT_DISTINCT] = "count_distinct",
	[AUD_AGG_MOST_FREQUENT] = "most_frequent",
	[AUD_AGG_DAYS_ACTIVE] = "days_active",
	[AUD_AGG_FIRST_TIME] = "first_time",
	[AUD_AGG_LAST_TIME] = "last_time"
};

/* The name an operator is printed with; static.  A stored rule has no others. */
const char *
aud_op_name(AudOp op, bool negated)
{
	for (size_t i = 0; i < lengthof(op_names); i++)
	{
		if (op_names[i].op == op && op_names[i].negated == negated)
			return op_names[i].name;
	}
	elog(ERROR, "unrecognized rule operator: %d", (int) op);
	return NULL;				/* keep compiler quiet */
}

/* Finds an operator by one of its names; false if there is none. */
bool
aud_op_find(const char *name, AudOp *op, bool *negated)
{
	for (size_t i = 0; i < lengthof(op_names); i++)
	{
		if (strcmp(op_names[i].name, name) == 0)
		{
			*op = op_names[i].op;
			*negated = op_names[i].negated;
			return true;
		}
	}
	return false;
}

/* The name of an aggregate; static. */
const char *
aud_aggregate_name(AudAggregate aggregate)
{
	if (aggregate >= AUD_NAGGREGATES)
		elog(ERROR, "unrecognized rule aggregate: %d", (int) aggregate);
	return aggregate_names[aggregate];
}

/* Finds an aggregate by its name; false if there is none. */
bool
aud_aggregate_find(const char *name, AudAggregate *aggregate)
{
	for (int i = 0; i < AUD_NAGGREGATES; i++)
	{
		if (strcmp(aggregate_names[i], name) == 0)
		{
			*aggregate = (AudAggregate) i;
			return true;
		}
	}
	return false;
}

/* Must an aggregate say of which property of the events? */
bool
aud_aggregate_needs_property(AudAggregate aggregate)
{
	switch (aggregate)
	{
		case AUD_AGG_COUNT:
		case AUD_AGG_DAYS_ACTIVE:
		case AUD_AGG_FIRST_TIME:
		case AUD_AGG_LAST_TIME:
			return false;
		default:
			return true;
	}
}
