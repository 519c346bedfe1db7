/*-------------------------------------------------------------------------
 *
 * match_path.c
 *	  A rule's jsonpath, for GIN indexes on jsonb.
 *
 * Neither of PostgreSQL's opclasses for jsonb knows rules, but both know lax
 * jsonpath (@@).  What is derived here is weaker than the rule, never
 * stronger: a document for which the rule holds satisfies the path, so an
 * index scan by the path loses nothing, and the rule itself decides.
 *
 * Lax jsonpath, not @>: it unwraps arrays as the operators of rules look into
 * them, where @> would miss them.
 *
 *	eq, in			$.a == 1, joined by ||
 *	contains		the same, for values that cannot be part of a text
 *	contains_any	as in; contains_all: joined by &&
 *	all				what its children imply, joined by &&
 *	any				joined by ||, if every child implies something
 *
 * Negated leaves, none and not imply nothing that an index could find.  The
 * other positive leaves imply that their first key is there, which jsonb_ops
 * can look for by ? and ?|, though not by a jsonpath without a constant; it is
 * used where there is nothing better.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "match_plan.h"

/* more comparisons cost more in rechecks than they save */
#define MAX_COMPARISONS		200

/* as many keys in one condition, as many conditions on keys */
#define MAX_KEYS			32

typedef struct PathState
{
	const AudRule *rule;
	int			ncomparisons;
} PathState;

static char *derive(PathState *state, const AudNode *node);

/*
 * Joins parts[0..n) by an operator, in a balanced tree of parentheses so that
 * long lists do not make deep ones.
 */
static void
append_joined(StringInfo buf, char **parts, int n, const char *operator)
{
	int			half = n / 2;

	if (n == 1)
	{
		appendStringInfoString(buf, parts[0]);
		return;
	}
	appendStringInfoChar(buf, '(');
	append_joined(buf, parts, half, operator);
	appendStringInfo(buf, " %s ", operator);
	append_joined(buf, parts + half, n - half, operator);
	appendStringInfoChar(buf, ')');
}

/* As append_joined, into a text of its own; NULL if there are no parts. */
static char *
join(List *parts, const char *operator)
{
	StringInfoData buf;
	char	  **array;
	int			n = 0;
	ListCell   *cell;

	if (parts == NIL)
		return NULL;
	array = palloc(sizeof(char *) * list_length(parts));
	foreach(cell, parts)
		array[n++] = lfirst(cell);
	initStringInfo(&buf);
	append_joined(&buf, array, n, operator);
	return buf.data;
}

/*
 * The jsonpath of a field.  Indexes of arrays become [*], which reaches all
 * that they do.  NULL for a path with a step that may be a key or an index.
 */
static char *
path_text(const AudRule *rule, const AudPath *path)
{
	StringInfoData buf;

	if (path->root != AUD_ROOT_DOCUMENT || path->nsteps == 0)
		return NULL;
	initStringInfo(&buf);
	appendStringInfoChar(&buf, '$');
	for (int i = 0; i < path->nsteps; i++)
	{
		const AudPathStep *step = &path->steps[i];

		switch ((AudStepKind) step->kind)
		{
			case AUD_STEP_KEY:
				appendStringInfoChar(&buf, '.');
				escape_json(&buf, AUD_AT(rule, step->key));
				break;
			case AUD_STEP_INDEX:
			case AUD_STEP_EACH:
				appendStringInfoString(&buf, "[*]");
				break;
			case AUD_STEP_INTEGER_KEY:
				return NULL;
		}
	}
	return buf.data;
}

/* "path == constant"; NULL if the constant is not a scalar. */
static char *
comparison(PathState *state, const char *path, const AudValue *constant)
{
	StringInfoData buf;

	if (++state->ncomparisons > MAX_COMPARISONS)
		return NULL;
	initStringInfo(&buf);
	appendStringInfo(&buf, "%s == ", path);
	switch ((AudValueType) constant->type)
	{
		case AUD_VALUE_TEXT:
			escape_json(&buf, AUD_VALUE_TEXT_PTR(constant));
			break;
		case AUD_VALUE_NUMBER:
			appendStringInfoString(&buf,
								   DatumGetCString(DirectFunctionCall1(numeric_out,
																	   NumericGetDatum(AUD_VALUE_NUMERIC(constant)))));
			break;
		case AUD_VALUE_BOOL:
			appendStringInfoString(&buf, constant->len != 0 ? "true" : "false");
			break;
		default:
			return NULL;
	}
	return buf.data;
}

/*
 * Comparisons with all the constants of a list.  If they stand for
 * alternatives ("||") every one must be a scalar; else those that are do.
 */
static char *
comparisons(PathState *state, const char *path, const AudValue *list,
			const char *operator)
{
	List	   *parts = NIL;
	bool		alternatives = operator[0] == '|';

	if (list->len > MAX_COMPARISONS)
		return NULL;
	for (int i = 0; i < (int) list->len; i++)
	{
		char	   *part = comparison(state, path,
									  AUD_VALUE_ITEM(state->rule, list, i));

		if (part != NULL)
			parts = lappend(parts, part);
		else if (alternatives)
			return NULL;
	}
	return join(parts, operator);
}

/* What equality with constants a leaf implies; NULL: none. */
static char *
derive_equality(PathState *state, const AudNode *leaf, const char *path)
{
	const AudValue *value;

	if (leaf->value == 0 || (leaf->flags & AUD_CI))
		return NULL;
	value = AUD_NODE_VALUE(state->rule, leaf);
	switch ((AudOp) leaf->op)
	{
		case AUD_OP_EQ:
			return comparison(state, path, value);
		case AUD_OP_CONTAINS:
			return value->type == AUD_VALUE_TEXT ? NULL :
				comparison(state, path, value);
		case AUD_OP_IN:
		case AUD_OP_CONTAINS_ANY:
			return comparisons(state, path, value, "||");
		case AUD_OP_CONTAINS_ALL:
			return comparisons(state, path, value, "&&");
		default:
			return NULL;
	}
}

/* Is a leaf on a field false for a document that does not have it? */
static bool
needs_field(const AudNode *leaf)
{
	return (leaf->flags & AUD_NEGATED) == 0 && leaf->op != AUD_OP_IS_EMPTY;
}

/* What a leaf on a field implies; NULL: nothing. */
static char *
derive_field(PathState *state, const AudNode *leaf)
{
	char	   *path;

	if (!needs_field(leaf))
		return NULL;
	path = path_text(state->rule, AUD_NODE_PATH(state->rule, leaf));
	return path == NULL ? NULL : derive_equality(state, leaf, path);
}

/* What the children of a group imply, joined; NULL: nothing. */
static char *
derive_group(PathState *state, const AudNode *group)
{
	bool		alternatives = group->kind == AUD_NODE_ANY;
	const AudNode *child = AUD_FIRST_CHILD(group);
	List	   *parts = NIL;

	check_stack_depth();
	for (uint32 i = 0; i < group->nchildren; i++)
	{
		char	   *part = derive(state, child);

		if (part != NULL)
			parts = lappend(parts, part);
		else if (alternatives)
			return NULL;
		child = AUD_NEXT_SIBLING(child);
	}
	return join(parts, alternatives ? "||" : "&&");
}

/* What a subtree implies; NULL: nothing. */
static char *
derive(PathState *state, const AudNode *node)
{
	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
			return derive_group(state, node);
		case AUD_NODE_FIELD:
			return derive_field(state, node);
		default:
			return NULL;
	}
}

/* A jsonpath predicate that a subtree implies.  See match_plan.h. */
char *
aud_match_path(const AudRule *rule, const AudNode *node)
{
	PathState	state = {rule, 0};

	return derive(&state, node);
}

/* The sets of keys that a leaf on a field asks for. */
static List *
field_keys(const AudRule *rule, const AudNode *leaf)
{
	const AudPath *path = AUD_NODE_PATH(rule, leaf);

	if (!needs_field(leaf) || path->root != AUD_ROOT_DOCUMENT ||
		path->nsteps == 0 || path->steps[0].kind != AUD_STEP_KEY)
		return NIL;
	return list_make1(list_make1(makeString(unconstify(char *,
													   (const char *) AUD_AT(rule, path->steps[0].key)))));
}

/* Keys of which a document has one of each set.  See match_plan.h. */
List *
aud_match_keys(const AudRule *rule, const AudNode *node)
{
	const AudNode *child = AUD_FIRST_CHILD(node);
	List	   *sets = NIL;
	List	   *any = NIL;

	check_stack_depth();
	if (node->kind == AUD_NODE_FIELD)
		return field_keys(rule, node);
	if (node->kind != AUD_NODE_ALL && node->kind != AUD_NODE_ANY)
		return NIL;
	for (uint32 i = 0; i < node->nchildren; i++)
	{
		List	   *part = aud_match_keys(rule, child);
		ListCell   *cell;

		if (node->kind == AUD_NODE_ALL)
		{
			foreach(cell, part)
			{
				if (list_length(sets) < MAX_KEYS)
					sets = list_append_unique(sets, lfirst(cell));
			}
		}
		else
		{
			/* one set of each child will do: the first is as good as any */
			if (part == NIL || list_length(any) > MAX_KEYS)
				return NIL;
			any = list_union(any, linitial(part));
		}
		child = AUD_NEXT_SIBLING(child);
	}
	return any != NIL ? list_make1(any) : sets;
}
