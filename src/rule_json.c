/*-------------------------------------------------------------------------
 *
 * rule_json.c
 *	  Rules as canonical JSON (SPEC 2.1, 2.2).
 *
 * The form is spaced as jsonb's output is.  Two rules are equal if it is equal,
 * so everything in a rule shows in it and everything has one spelling.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/shortest_dec.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "eval.h"
#include "rule_parse.h"

/* Appends the digits of a number, without an exponent. */
void
aud_append_number(StringInfo buf, Numeric number)
{
	char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
															 NumericGetDatum(number)));

	appendStringInfoString(buf, digits);
	pfree(digits);
}

/*
 * Appends a percentage with the fewest digits that give the same float8 back,
 * without an exponent.
 */
void
aud_append_percent(StringInfo buf, float8 percent)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];
	Datum		number;

	double_to_shortest_decimal_buf(percent, digits);
	number = DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
								 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	aud_append_number(buf, DatumGetNumeric(number));
}


/* Appends a duration as a JSON string. */
static void
append_json_duration(StringInfo buf, int64 duration)
{
	appendStringInfoChar(buf, '"');
	aud_duration_append(buf, duration);
	appendStringInfoChar(buf, '"');
}

/* Appends a timestamp as a JSON string. */
static void
append_json_time(StringInfo buf, TimestampTz t)
{
	appendStringInfoChar(buf, '"');
	aud_timestamp_append(buf, t);
	appendStringInfoChar(buf, '"');
}

/* Appends a constant. */
static void
append_value(StringInfo buf, const AudRule *rule, const AudValue *value)
{
	switch (value->type)
	{
		case AUD_VALUE_BOOL:
			appendStringInfoString(buf, value->len ? "true" : "false");
			break;
		case AUD_VALUE_NUMBER:
			aud_append_number(buf, AUD_VALUE_NUMERIC(value));
			break;
		case AUD_VALUE_TEXT:
			escape_json(buf, AUD_VALUE_TEXT_PTR(value));
			break;
		case AUD_VALUE_JSON:
			(void) JsonbToCString(buf, &AUD_VALUE_JSONB(value)->root, value->len);
			break;
		case AUD_VALUE_LIST:
			appendStringInfoChar(buf, '[');
			for (uint32 i = 0; i < value->len; i++)
			{
				CHECK_FOR_INTERRUPTS();
				if (i > 0)
					appendStringInfoString(buf, ", ");
				append_value(buf, rule, AUD_VALUE_ITEM(rule, value, i));
			}
			appendStringInfoChar(buf, ']');
			break;
		case AUD_VALUE_TIME:
			append_json_time(buf, AUD_VALUE_INT64(value));
			break;
		case AUD_VALUE_DURATION:
			append_json_duration(buf, AUD_VALUE_INT64(value));
			break;
	}
}

/* Appends a path as a JSON string. */
static void
append_path(StringInfo buf, const AudRule *rule, const AudPath *path, bool in_where)
{
	StringInfoData text;

	initStringInfo(&text);
	aud_path_append_json(&text, rule, path, in_where);
	escape_json(buf, text.data);
	pfree(text.data);
}

/* Appends the event types of an event or a step. */
static void
append_names(StringInfo buf, const AudRule *rule, const AudNames *names)
{
	if (names->is_list)
		appendStringInfoChar(buf, '[');
	for (uint32 i = 0; i < names->nnames; i++)
	{
		const AudName *name = &names->names[i];
		char	   *text = psprintf("%s%s", (const char *) AUD_AT(rule, name->name),
									name->is_prefix ? "*" : "");

		if (i > 0)
			appendStringInfoString(buf, ", ");
		escape_json(buf, text);
		pfree(text);
	}
	if (names->is_list)
		appendStringInfoChar(buf, ']');
}

/* Appends the members that are a leaf's test, each after a comma. */
static void
append_test(StringInfo buf, const AudRule *rule, const AudNode *node)
{
	appendStringInfo(buf, ", \"operator\": \"%s\"",
					 aud_op_name(node->op, (node->flags & AUD_NEGATED) != 0));
	if (node->value != 0)
	{
		appendStringInfoString(buf, ", \"value\": ");
		append_value(buf, rule, AUD_NODE_VALUE(rule, node));
	}
	if (node->flags & AUD_CI)
		appendStringInfoString(buf, ", \"ci\": true");
}

/* Appends the member "window" after a comma, if there is a window. */
static void
append_window(StringInfo buf, const AudNode *node)
{
	if (node->flags & AUD_WINDOW_LAST)
	{
		appendStringInfoString(buf, ", \"window\": {\"last\": ");
		append_json_duration(buf, node->from);
		appendStringInfoChar(buf, '}');
	}
	else if (node->flags & AUD_WINDOW_RANGE)
	{
		appendStringInfoString(buf, ", \"window\": {\"from\": ");
		append_json_time(buf, node->from);
		if (node->to != PG_INT64_MAX)
		{
			appendStringInfoString(buf, ", \"to\": ");
			append_json_time(buf, node->to);
		}
		appendStringInfoChar(buf, '}');
	}
}

/* Appends the children as a list. */
static void
append_children(StringInfo buf, const AudRule *rule, const AudNode *node, int flags)
{
	const AudNode *child = AUD_FIRST_CHILD(node);

	appendStringInfoChar(buf, '[');
	for (uint32 i = 0; i < node->nchildren; i++, child = AUD_NEXT_SIBLING(child))
	{
		CHECK_FOR_INTERRUPTS();
		if (i > 0)
			appendStringInfoString(buf, ", ");
		aud_rule_append_json_flags(buf, rule, child, flags);
	}
	appendStringInfoChar(buf, ']');
}

/* Appends the child of an event or a step, if it has one, as "where". */
static void
append_where(StringInfo buf, const AudRule *rule, const AudNode *node, int flags)
{
	if (node->nchildren == 0)
		return;
	appendStringInfoString(buf, ", \"where\": ");
	aud_rule_append_json_flags(buf, rule, AUD_FIRST_CHILD(node),
							   flags | AUD_PRINT_IN_WHERE);
}

/* Appends an event node; "identity": without its test. */
static void
append_event(StringInfo buf, const AudRule *rule, const AudNode *node,
			 int flags, bool identity)
{
	appendStringInfoString(buf, "{\"event\": ");
	append_names(buf, rule, AUD_NODE_NAMES(rule, node));
	append_where(buf, rule, node, flags);
	if (node->aggregate != AUD_AGG_COUNT)
		appendStringInfo(buf, ", \"aggregate\": \"%s\"",
						 aud_aggregate_name(node->aggregate));
	if (node->path != 0)
	{
		appendStringInfoString(buf, ", \"property\": ");
		append_path(buf, rule, AUD_NODE_PATH(rule, node), false);
	}
	if (!identity && !aud_node_has_default_test(rule, node))
		append_test(buf, rule, node);
	append_window(buf, node);
	appendStringInfoChar(buf, '}');
}

/* Appends a step of a sequence. */
static void
append_step(StringInfo buf, const AudRule *rule, const AudNode *node, int flags)
{
	appendStringInfoString(buf, "{\"event\": ");
	append_names(buf, rule, AUD_NODE_NAMES(rule, node));
	append_where(buf, rule, node, flags);
	if (node->flags & AUD_HAS_WITHIN)
	{
		appendStringInfoString(buf, ", \"within\": ");
		append_json_duration(buf, node->arg.within);
	}
	if (node->flags & AUD_ABSENT)
		appendStringInfoString(buf, ", \"absent\": true");
	appendStringInfoChar(buf, '}');
}

/* Appends a subtree; flags are AUD_PRINT_*. */
void
aud_rule_append_json_flags(StringInfo buf, const AudRule *rule,
						   const AudNode *node, int flags)
{
	bool		identity = (flags & AUD_PRINT_IDENTITY) != 0;

	check_stack_depth();

	/* only the top is meant */
	flags &= ~AUD_PRINT_IDENTITY;

	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_TRUE:
			appendStringInfoString(buf, "true");
			return;
		case AUD_NODE_FALSE:
			appendStringInfoString(buf, "false");
			return;
		case AUD_NODE_ALL:
			appendStringInfoString(buf, "{\"all\": ");
			append_children(buf, rule, node, flags);
			break;
		case AUD_NODE_ANY:
			appendStringInfoString(buf, "{\"any\": ");
			append_children(buf, rule, node, flags);
			break;
		case AUD_NODE_NONE:
			appendStringInfoString(buf, "{\"none\": ");
			append_children(buf, rule, node, flags);
			break;
		case AUD_NODE_NOT:
			appendStringInfoString(buf, "{\"not\": ");
			aud_rule_append_json_flags(buf, rule, AUD_FIRST_CHILD(node), flags);
			break;
		case AUD_NODE_FIELD:
			appendStringInfoString(buf, "{\"field\": ");
			append_path(buf, rule, AUD_NODE_PATH(rule, node),
						(flags & AUD_PRINT_IN_WHERE) != 0);
			append_test(buf, rule, node);
			break;
		case AUD_NODE_EVENT:
			append_event(buf, rule, node, flags, identity);
			return;
		case AUD_NODE_SEQUENCE:
			appendStringInfoString(buf, "{\"sequence\": ");
			append_children(buf, rule, node, flags);
			append_window(buf, node);
			break;
		case AUD_NODE_STEP:
			append_step(buf, rule, node, flags);
			return;
		case AUD_NODE_SEGMENT:
			appendStringInfoString(buf, "{\"segment\": ");
			append_value(buf, rule, AUD_NODE_VALUE(rule, node));
			if (node->flags & AUD_NEGATED)
				appendStringInfoString(buf, ", \"operator\": \"not_in\"");
			break;
		case AUD_NODE_SAMPLE:
			appendStringInfoString(buf, "{\"sample\": {\"percent\": ");
			aud_append_percent(buf, node->arg.percent);
			appendStringInfoString(buf, ", \"seed\": ");
			append_value(buf, rule, AUD_NODE_VALUE(rule, node));
			appendStringInfoChar(buf, '}');
			break;
	}
	appendStringInfoChar(buf, '}');
}

/* Does an event node have the test that is left out: a count of at least 1? */
bool
aud_node_has_default_test(const AudRule *rule, const AudNode *node)
{
	const AudValue *value;

	if (node->aggregate != AUD_AGG_COUNT || node->op != AUD_OP_GTE)
		return false;
	value = AUD_NODE_VALUE(rule, node);
	return value->type == AUD_VALUE_NUMBER &&
		DatumGetBool(DirectFunctionCall2(numeric_eq,
										 NumericGetDatum(AUD_VALUE_NUMERIC(value)),
										 DirectFunctionCall1(int4_numeric, Int32GetDatum(1))));
}

/* Does a node stand in the "where" of an event or a step of its rule? */
bool
aud_node_is_in_where(const AudRule *rule, const AudNode *node)
{
	for (const AudNode *other = AUD_RULE_ROOT(rule); other < node; other++)
	{
		if ((other->kind == AUD_NODE_EVENT || other->kind == AUD_NODE_STEP) &&
			AUD_NEXT_SIBLING(other) > node)
			return true;
	}
	return false;
}

/* Appends the canonical JSON of a subtree. */
void
aud_rule_append_json(StringInfo buf, const AudRule *rule, const AudNode *node)
{
	aud_rule_append_json_flags(buf, rule, node,
							   aud_node_is_in_where(rule, node) ? AUD_PRINT_IN_WHERE : 0);
}
