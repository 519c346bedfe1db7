/*-------------------------------------------------------------------------
 *
 * rule_text.c
 *	  Rules in the text form (SPEC 2.4), so that reading the text gives an
 *	  equal rule.
 *
 * AND and OR stand for groups of two and more; shorter ones are written as
 * calls, because the text form has no other way to say that there is a group.
 * The parser's three levels decide where parentheses are needed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "eval.h"
#include "rule_parse.h"

/* what the grammar takes in a place */
typedef enum Level
{
	LEVEL_OR,					/* anything */
	LEVEL_AND,					/* no OR outside parentheses */
	LEVEL_NOT					/* no AND either */
} Level;

static void append_node(StringInfo buf, const AudRule *rule,
						const AudNode *node, Level level, bool in_where);

/* Appends text in single quotes. */
static void
append_string(StringInfo buf, const char *s)
{
	appendStringInfoChar(buf, '\'');
	for (; *s != '\0'; s++)
	{
		if (*s == '\'')
			appendStringInfoChar(buf, '\'');
		appendStringInfoChar(buf, *s);
	}
	appendStringInfoChar(buf, '\'');
}

/* Appends a duration in single quotes. */
static void
append_duration(StringInfo buf, int64 duration)
{
	appendStringInfoChar(buf, '\'');
	aud_duration_append(buf, duration);
	appendStringInfoChar(buf, '\'');
}

/* Appends a timestamp in single quotes. */
static void
append_time(StringInfo buf, TimestampTz t)
{
	appendStringInfoChar(buf, '\'');
	aud_timestamp_append(buf, t);
	appendStringInfoChar(buf, '\'');
}

/* Appends a constant. */
static void
append_value(StringInfo buf, const AudRule *rule, const AudValue *value)
{
	switch (value->type)
	{
		case AUD_VALUE_BOOL:
			appendStringInfoString(buf, value->len ? "TRUE" : "FALSE");
			break;
		case AUD_VALUE_NUMBER:
			aud_append_number(buf, AUD_VALUE_NUMERIC(value));
			break;
		case AUD_VALUE_TEXT:
			append_string(buf, AUD_VALUE_TEXT_PTR(value));
			break;
		case AUD_VALUE_JSON:
			appendStringInfoString(buf, "JSON ");
			append_string(buf, JsonbToCString(NULL, &AUD_VALUE_JSONB(value)->root,
											  value->len));
			break;
		case AUD_VALUE_LIST:
			appendStringInfoChar(buf, '(');
			for (uint32 i = 0; i < value->len; i++)
			{
				CHECK_FOR_INTERRUPTS();
				if (i > 0)
					appendStringInfoString(buf, ", ");
				append_value(buf, rule, AUD_VALUE_ITEM(rule, value, i));
			}
			appendStringInfoChar(buf, ')');
			break;
		case AUD_VALUE_TIME:
			append_time(buf, AUD_VALUE_INT64(value));
			break;
		case AUD_VALUE_DURATION:
			append_duration(buf, AUD_VALUE_INT64(value));
			break;
	}
}

/* Appends the event types of an event or a step. */
static void
append_names(StringInfo buf, const AudRule *rule, const AudNames *names)
{
	if (names->is_list)
		appendStringInfoChar(buf, '(');
	for (uint32 i = 0; i < names->nnames; i++)
	{
		const AudName *name = &names->names[i];
		const char *text = AUD_AT(rule, name->name);

		if (i > 0)
			appendStringInfoString(buf, ", ");
		if (name->len > 0 &&
			(!aud_word_is_name(text, name->len) || aud_word_is_reserved(text, name->len)))
			aud_path_append_quoted(buf, text, name->len);
		else
			appendStringInfoString(buf, text);
		if (name->is_prefix)
			appendStringInfoChar(buf, '*');
	}
	if (names->is_list)
		appendStringInfoChar(buf, ')');
}

/* The words of an operator, after the negation if it takes one. */
static const char *
operator_words(const AudNode *node)
{
	bool		negated = (node->flags & AUD_NEGATED) != 0;

	switch ((AudOp) node->op)
	{
		case AUD_OP_EQ:
			return negated ? "!=" : "=";
		case AUD_OP_GT:
			return ">";
		case AUD_OP_GTE:
			return ">=";
		case AUD_OP_LT:
			return "<";
		case AUD_OP_LTE:
			return "<=";
		case AUD_OP_BETWEEN:
			return negated ? "NOT BETWEEN" : "BETWEEN";
		case AUD_OP_IN:
			return negated ? "NOT IN" : "IN";
		case AUD_OP_CONTAINS:
			return negated ? "NOT CONTAINS" : "CONTAINS";
		case AUD_OP_CONTAINS_ANY:
			return negated ? "CONTAINS NONE" : "CONTAINS ANY";
		case AUD_OP_CONTAINS_ALL:
			return "CONTAINS ALL";
		case AUD_OP_STARTS_WITH:
			return negated ? "NOT STARTS WITH" : "STARTS WITH";
		case AUD_OP_ENDS_WITH:
			return negated ? "NOT ENDS WITH" : "ENDS WITH";
		case AUD_OP_LIKE:
			return negated ? "NOT LIKE" : "LIKE";
		case AUD_OP_ILIKE:
			return negated ? "NOT ILIKE" : "ILIKE";
		case AUD_OP_REGEX:
			return negated ? "!~" : "~";
		case AUD_OP_IREGEX:
			return negated ? "!~*" : "~*";
		case AUD_OP_EXISTS:
			return negated ? "IS NULL" : "IS NOT NULL";
		case AUD_OP_IS_EMPTY:
			return negated ? "IS NOT EMPTY" : "IS EMPTY";
		case AUD_OP_BEFORE:
			return "BEFORE";
		case AUD_OP_AT_OR_BEFORE:
			return "AT OR BEFORE";
		case AUD_OP_AFTER:
			return "AFTER";
		case AUD_OP_AT_OR_AFTER:
			return "AT OR AFTER";
		case AUD_OP_WITHIN_LAST:
			return "WITHIN LAST";
		case AUD_OP_BEFORE_LAST:
			return "BEFORE LAST";
		case AUD_OP_WITHIN_NEXT:
			return "WITHIN NEXT";
		case AUD_OP_AFTER_NEXT:
			return "AFTER NEXT";
		case AUD_OP_SEMVER_EQ:
			return negated ? "SEMVER !=" : "SEMVER =";
		case AUD_OP_SEMVER_GT:
			return "SEMVER >";
		case AUD_OP_SEMVER_GTE:
			return "SEMVER >=";
		case AUD_OP_SEMVER_LT:
			return "SEMVER <";
		case AUD_OP_SEMVER_LTE:
			return "SEMVER <=";
		case AUD_OP_NONE:
			break;
	}
	elog(ERROR, "unrecognized rule operator: %d", (int) node->op);
	return NULL;				/* keep compiler quiet */
}

/* Appends the test of a leaf after its operand. */
static void
append_test(StringInfo buf, const AudRule *rule, const AudNode *node)
{
	appendStringInfo(buf, " %s", operator_words(node));
	if (node->op == AUD_OP_BETWEEN)
	{
		const AudValue *range = AUD_NODE_VALUE(rule, node);

		appendStringInfoChar(buf, ' ');
		append_value(buf, rule, AUD_VALUE_ITEM(rule, range, 0));
		appendStringInfoString(buf, " AND ");
		append_value(buf, rule, AUD_VALUE_ITEM(rule, range, 1));
	}
	else if (node->value != 0)
	{
		appendStringInfoChar(buf, ' ');
		append_value(buf, rule, AUD_NODE_VALUE(rule, node));
	}
	if (node->flags & AUD_CI)
		appendStringInfoString(buf, " CI");
}

/* Appends a window after a separator, if there is one. */
static void
append_window(StringInfo buf, const AudNode *node, const char *separator)
{
	if (node->flags & AUD_WINDOW_LAST)
	{
		appendStringInfo(buf, "%sLAST ", separator);
		append_duration(buf, node->from);
	}
	else if (node->flags & AUD_WINDOW_RANGE)
	{
		appendStringInfo(buf, "%sFROM ", separator);
		append_time(buf, node->from);
		if (node->to != PG_INT64_MAX)
		{
			appendStringInfoString(buf, " TO ");
			append_time(buf, node->to);
		}
	}
}

/* Appends the children after one another. */
static void
append_children(StringInfo buf, const AudRule *rule, const AudNode *node,
				const char *separator, Level level, bool in_where)
{
	const AudNode *child = AUD_FIRST_CHILD(node);

	for (uint32 i = 0; i < node->nchildren; i++, child = AUD_NEXT_SIBLING(child))
	{
		CHECK_FOR_INTERRUPTS();
		if (i > 0)
			appendStringInfoString(buf, separator);
		append_node(buf, rule, child, level, in_where);
	}
}

/* Appends a group: with AND or OR if it can be, or as a call. */
static void
append_group(StringInfo buf, const AudRule *rule, const AudNode *node,
			 Level level, bool in_where)
{
	bool		is_all = node->kind == AUD_NODE_ALL;
	Level		own = is_all ? LEVEL_AND : LEVEL_OR;

	if (node->kind == AUD_NODE_NONE || node->nchildren < 2)
	{
		appendStringInfoString(buf, node->kind == AUD_NODE_NONE ? "NONE (" :
							   is_all ? "ALL (" : "ANY (");
		append_children(buf, rule, node, ", ", LEVEL_OR, in_where);
		appendStringInfoChar(buf, ')');
		return;
	}

	/* a group in a group of its kind needs parentheses to stay one */
	if (level > own)
		appendStringInfoChar(buf, '(');
	append_children(buf, rule, node, is_all ? " AND " : " OR ",
					is_all ? LEVEL_NOT : LEVEL_AND, in_where);
	if (level > own)
		appendStringInfoChar(buf, ')');
}

/* Appends a rule turned over. */
static void
append_not(StringInfo buf, const AudRule *rule, const AudNode *node, bool in_where)
{
	const AudNode *child = AUD_FIRST_CHILD(node);
	bool		parentheses;

	/* NOT IN SEGMENT is something else; tests are easier to read so */
	parentheses = child->kind == AUD_NODE_FIELD || child->kind == AUD_NODE_EVENT ||
		child->kind == AUD_NODE_SEGMENT;
	appendStringInfoString(buf, parentheses ? "NOT (" : "NOT ");
	append_node(buf, rule, child, parentheses ? LEVEL_OR : LEVEL_NOT, in_where);
	if (parentheses)
		appendStringInfoChar(buf, ')');
}

/* Appends an event node. */
static void
append_event(StringInfo buf, const AudRule *rule, const AudNode *node)
{
	appendStringInfo(buf, "%s(", aud_aggregate_name(node->aggregate));
	append_names(buf, rule, AUD_NODE_NAMES(rule, node));
	if (node->path != 0)
	{
		appendStringInfoChar(buf, '.');
		aud_path_append_text(buf, rule, AUD_NODE_PATH(rule, node), false, true);
	}
	if (node->nchildren > 0)
	{
		appendStringInfoString(buf, " WHERE ");
		append_node(buf, rule, AUD_FIRST_CHILD(node), LEVEL_OR, true);
	}
	append_window(buf, node, ", ");
	appendStringInfoChar(buf, ')');
	append_test(buf, rule, node);
}

/* Appends a step of a sequence. */
static void
append_step(StringInfo buf, const AudRule *rule, const AudNode *node)
{
	if (node->flags & AUD_ABSENT)
		appendStringInfoString(buf, "NOT ");
	append_names(buf, rule, AUD_NODE_NAMES(rule, node));
	if (node->nchildren > 0)
	{
		appendStringInfoString(buf, " WHERE ");
		append_node(buf, rule, AUD_FIRST_CHILD(node), LEVEL_NOT, true);
	}
	if (node->flags & AUD_HAS_WITHIN)
	{
		appendStringInfoString(buf, " WITHIN ");
		append_duration(buf, node->arg.within);
	}
}

/* Appends a subtree where the grammar takes what "level" says. */
static void
append_node(StringInfo buf, const AudRule *rule, const AudNode *node,
			Level level, bool in_where)
{
	check_stack_depth();

	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_TRUE:
			appendStringInfoString(buf, "TRUE");
			break;
		case AUD_NODE_FALSE:
			appendStringInfoString(buf, "FALSE");
			break;
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
			append_group(buf, rule, node, level, in_where);
			break;
		case AUD_NODE_NOT:
			append_not(buf, rule, node, in_where);
			break;
		case AUD_NODE_FIELD:
			aud_path_append_text(buf, rule, AUD_NODE_PATH(rule, node), in_where, false);
			append_test(buf, rule, node);
			break;
		case AUD_NODE_EVENT:
			append_event(buf, rule, node);
			break;
		case AUD_NODE_SEQUENCE:
			appendStringInfoString(buf, "SEQUENCE (");
			append_children(buf, rule, node, ", ", LEVEL_OR, in_where);
			append_window(buf, node, "; ");
			appendStringInfoChar(buf, ')');
			break;
		case AUD_NODE_STEP:
			append_step(buf, rule, node);
			break;
		case AUD_NODE_SEGMENT:
			appendStringInfoString(buf, (node->flags & AUD_NEGATED) ?
								   "NOT IN SEGMENT " : "IN SEGMENT ");
			append_value(buf, rule, AUD_NODE_VALUE(rule, node));
			break;
		case AUD_NODE_SAMPLE:
			appendStringInfoString(buf, "SAMPLE (");
			aud_append_percent(buf, node->arg.percent);
			appendStringInfoString(buf, ", ");
			append_value(buf, rule, AUD_NODE_VALUE(rule, node));
			appendStringInfoChar(buf, ')');
			break;
	}
}

/* Appends the text form of a subtree. */
void
aud_rule_append_text(StringInfo buf, const AudRule *rule, const AudNode *node)
{
	append_node(buf, rule, node, LEVEL_OR, aud_node_is_in_where(rule, node));
}
