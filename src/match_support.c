/*-------------------------------------------------------------------------
 *
 * match_support.c
 *	  Planner support functions of |=, =| and rule_holds.
 *
 *	jsonb	index conditions for GIN indexes: the rule's jsonpath or its keys
 *			(match_path.c), lossy, so that the rule itself is checked after it
 *	row		no index has a whole row for its column, so index conditions are
 *			never asked for; instead the call is replaced by conditions on
 *			columns, of which any index can use some (match_columns.c), and
 *			where these are not all that the rule says, AND row_recheck(row, rule)
 *
 * and for all of them cost and, as functions, selectivity; as operators they
 * have their estimators (match_selectivity.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_statistic.h"
#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/optimizer.h"
#include "optimizer/plancat.h"
#include "parser/parse_func.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonpath.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"

#include "eval.h"
#include "match_plan.h"

PG_FUNCTION_INFO_V1(aud_jsonb_match_support);
PG_FUNCTION_INFO_V1(aud_row_match_support);
PG_FUNCTION_INFO_V1(aud_row_recheck_support);

/* A name in the schema of a function, for looking up. */
static List *
name_beside(Oid function, const char *name)
{
	char	   *schema = get_namespace_name(get_func_namespace(function));

	return list_make2(makeString(schema), makeString(pstrdup(name)));
}

/* A built-in operator on jsonb. */
static Oid
jsonb_operator(const char *name, Oid right)
{
	return OpernameGetOprid(list_make2(makeString(pstrdup("pg_catalog")),
									   makeString(pstrdup(name))),
							JSONBOID, right);
}

/* Answers a request for the cost of one call, if the rule is known. */
static Node *
estimate_cost(SupportRequestCost *request)
{
	List	   *args;
	int			position;
	Oid			rule_type;
	const AudRule *rule;

	if (request->node == NULL)
		return NULL;
	if (IsA(request->node, FuncExpr))
		args = ((FuncExpr *) request->node)->args;
	else if (IsA(request->node, OpExpr))
		args = ((OpExpr *) request->node)->args;
	else
		return NULL;
	rule = aud_match_const_rule(request->funcid, args, &position, &rule_type);
	if (rule == NULL)
		return NULL;
	request->startup = 0;
	request->per_tuple = aud_rule_cost(rule) * cpu_operator_cost;
	return (Node *) request;
}

/*
 * Answers a request for the selectivity of one call as a function over jsonb:
 * as the operator's.
 */
static Node *
estimate_jsonb_selectivity(SupportRequestSelectivity *request)
{
	int			position;
	Oid			rule_type;
	Oid			operator;

	if (request->is_join ||
		aud_match_const_rule(request->funcid, request->args, &position,
							 &rule_type) == NULL)
		return NULL;
	operator = position == 1 ?
		OpernameGetOprid(name_beside(request->funcid, "|="), JSONBOID, rule_type) :
		OpernameGetOprid(name_beside(request->funcid, "=|"), rule_type, JSONBOID);
	if (!OidIsValid(operator))
		return NULL;
	request->selectivity = restriction_selectivity(request->root, operator,
												   request->args, InvalidOid,
												   request->varRelid);
	return (Node *) request;
}

/*
 * Answers a request for the selectivity of one call as a function over rows;
 * with "is_recheck" of what the conditions on columns leave.
 */
static Node *
estimate_row_selectivity(SupportRequestSelectivity *request, bool is_recheck)
{
	int			position;
	Oid			rule_type;
	const AudRule *rule = aud_match_const_rule(request->funcid, request->args,
											   &position, &rule_type);
	AudRowOperand operand;
	bool		has_columns;

	if (rule == NULL)
		return NULL;
	has_columns = aud_row_operand_init(&operand, request->root,
									   list_nth(request->args, 1 - position));
	request->selectivity = aud_rule_selectivity(request->root, rule,
												has_columns ? &operand : NULL,
												request->varRelid,
												request->jointype,
												request->sjinfo);
	if (is_recheck && has_columns)
	{
		Oid			match = OpernameGetOprid(name_beside(request->funcid, "|="),
											 JSONBOID, rule_type);
		List	   *quals = aud_row_quals(&operand, rule, AUD_RULE_ROOT(rule),
										  match, NULL);
		Selectivity derived = clauselist_selectivity(request->root, quals,
													 request->varRelid,
													 request->jointype,
													 request->sjinfo);

		if (derived > 0)
			request->selectivity /= derived;
		CLAMP_PROBABILITY(request->selectivity);
	}
	return (Node *) request;
}

/* Does the column have values that a selectivity can be estimated by? */
static bool
has_sampled_values(PlannerInfo *root, Node *column)
{
	VariableStatData vardata;
	bool		result = false;

	examine_variable(root, column, 0, &vardata);
	if (HeapTupleIsValid(vardata.statsTuple))
	{
		AttStatsSlot slot;

		result = get_attstatsslot(&slot, vardata.statsTuple,
								  STATISTIC_KIND_HISTOGRAM, InvalidOid, 0) ||
			get_attstatsslot(&slot, vardata.statsTuple, STATISTIC_KIND_MCV,
							 InvalidOid, 0);
	}
	ReleaseVariableStats(vardata);
	return result;
}

/* A condition on an indexed column. */
static Expr *
make_index_condition(Oid operator, Node *column, Oid type, Datum constant)
{
	return make_opclause(operator, BOOLOID, false, (Expr *) column,
						 (Expr *) makeConst(type, -1,
											type == JSONPATHOID ? InvalidOid : DEFAULT_COLLATION_OID,
											-1, constant, false, false),
						 InvalidOid, InvalidOid);
}

/* "column ? key" or "column ?| keys" */
static Expr *
make_key_condition(Node *column, List *keys)
{
	Datum	   *datums = palloc(sizeof(Datum) * list_length(keys));
	int			n = 0;
	ListCell   *cell;

	foreach(cell, keys)
		datums[n++] = CStringGetTextDatum(strVal(lfirst(cell)));
	if (n == 1)
		return make_index_condition(jsonb_operator("?", TEXTOID), column,
									TEXTOID, datums[0]);
	return make_index_condition(jsonb_operator("?|", TEXTARRAYOID), column,
								TEXTARRAYOID,
								PointerGetDatum(construct_array(datums, n, TEXTOID,
																-1, false,
																TYPALIGN_INT)));
}

/*
 * Answers a request for conditions that an index on a jsonb column can use:
 * column @@ jsonpath or, if there is none, column ? key.  NIL if there are
 * none.
 *
 * That a key exists is asked for only where statistics tell how many have it:
 * without them the planner takes it to be rare, and would read an index for
 * nothing when every document has the key.
 */
static List *
derive_index_conditions(SupportRequestIndexCondition *request)
{
	Oid			path_operator = jsonb_operator("@@", JSONPATHOID);
	List	   *args;
	int			position;
	Oid			rule_type;
	const AudRule *rule;
	Node	   *column;
	char	   *path;
	List	   *conditions = NIL;
	ListCell   *cell;

	if (!op_in_opfamily(path_operator, request->opfamily))
		return NIL;
	if (IsA(request->node, OpExpr))
		args = ((OpExpr *) request->node)->args;
	else if (IsA(request->node, FuncExpr))
		args = ((FuncExpr *) request->node)->args;
	else
		return NIL;
	rule = aud_match_const_rule(request->funcid, args, &position, &rule_type);
	if (rule == NULL || request->indexarg == position)
		return NIL;
	column = list_nth(args, request->indexarg);
	request->lossy = true;
	path = aud_match_path(rule, AUD_RULE_ROOT(rule));
	if (path != NULL)
		return list_make1(make_index_condition(path_operator, column, JSONPATHOID,
											   DirectFunctionCall1(jsonpath_in,
																   CStringGetDatum(path))));
	if (!op_in_opfamily(jsonb_operator("?", TEXTOID), request->opfamily) ||
		!has_sampled_values(request->root, column))
		return NIL;
	foreach(cell, aud_match_keys(rule, AUD_RULE_ROOT(rule)))
		conditions = lappend(conditions, make_key_condition(column, lfirst(cell)));
	return conditions;
}

/* calls to be counted */
typedef struct CallCount
{
	const FuncExpr *call;		/* those of the same function and arguments */
	int			n;
} CallCount;

/* Is a node the same call, as a function or by the operator? */
static bool
is_same_call(const Node *node, const FuncExpr *call)
{
	if (IsA(node, OpExpr))
		return get_opcode(((const OpExpr *) node)->opno) == call->funcid &&
			equal(((const OpExpr *) node)->args, call->args);
	return IsA(node, FuncExpr) && ((const FuncExpr *) node)->funcid == call->funcid &&
		equal(((const FuncExpr *) node)->args, call->args);
}

/* Counts the same calls in a query or expression; for the walkers. */
static bool
count_calls(Node *node, CallCount *count)
{
	if (node == NULL)
		return false;
	if (is_same_call(node, count->call))
		count->n++;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, count_calls, count, 0);
	return expression_tree_walker(node, count_calls, count);
}

/*
 * Does a call decide which rows a query goes on with, and nothing else?  Then null
 * is as good as false.  That is so where it is one of the conditions that WHERE
 * joins by AND, over tables that are joined by nothing but their list, and stands
 * nowhere else in the query: what sees rows after WHERE, as RETURNING and grouping
 * sets do, may see others.
 */
static bool
only_filters(const PlannerInfo *root, const FuncExpr *call)
{
	const Query *query = root == NULL ? NULL : root->parse;
	CallCount	count = {call, 0};
	Node	   *where;
	ListCell   *cell;
	bool		found = false;

	if (query == NULL || query->jointree == NULL || query->jointree->quals == NULL ||
		(query->commandType != CMD_SELECT && query->commandType != CMD_UPDATE && query->commandType != CMD_DELETE))
		return false;
	foreach(cell, query->jointree->fromlist)
	{
		if (!IsA(lfirst(cell), RangeTblRef))
			return false;
	}
	where = query->jointree->quals;
	if (is_andclause(where))
	{
		foreach(cell, ((BoolExpr *) where)->args)
			found |= is_same_call(lfirst(cell), call);
	}
	else
		found = is_same_call(where, call);
	if (!found)
		return false;
	(void) query_tree_walker(unconstify(Query *, query), count_calls, &count, 0);
	return count.n == 1;
}

/*
 * Answers a request for something simpler than row |= rule: conditions on
 * columns, AND row_recheck(row, rule) unless they say it all.  NULL if the rule
 * implies none.
 */
static Node *
simplify_row_match(SupportRequestSimplify *request)
{
	FuncExpr   *call = request->fcall;
	int			position;
	Oid			rule_type;
	const AudRule *rule = aud_match_const_rule(call->funcid, call->args,
											   &position, &rule_type);
	Node	   *row;
	AudRowOperand operand;
	List	   *quals;
	Oid			types[2];
	Oid			match;
	Oid			recheck;
	bool		exact = true;

	if (rule == NULL)
		return NULL;
	row = list_nth(call->args, 1 - position);
	if (!aud_row_operand_init(&operand, request->root, row))
		return NULL;
	operand.filters = only_filters(request->root, call);
	/* sets that do not group by the row make it null, but not its columns */
	if (operand.whole_row != NULL && !operand.filters &&
		(request->root == NULL || request->root->parse->groupingSets != NIL))
		return NULL;
	match = OpernameGetOprid(name_beside(call->funcid, "|="), JSONBOID, rule_type);
	if (!aud_row_may_be_null(&operand, request->root))
	{
		quals = aud_row_quals(&operand, rule, AUD_RULE_ROOT(rule), match, &exact);
		if (exact)
			return (Node *) make_ands_explicit(quals);
	}
	quals = aud_row_quals(&operand, rule, AUD_RULE_ROOT(rule), match, NULL);
	types[0] = RECORDOID;
	types[1] = rule_type;
	recheck = LookupFuncName(name_beside(call->funcid, "row_recheck"), 2, types,
							 true);
	if (quals == NIL || !OidIsValid(recheck))
		return NULL;
	return (Node *) make_ands_explicit(lappend(quals,
											   makeFuncExpr(recheck, BOOLOID,
															list_make2(row, list_nth(call->args, position)),
															InvalidOid, InvalidOid,
															COERCE_EXPLICIT_CALL)));
}

/* SQL: support of jsonb_match, its commutator and rule_holds */
Datum
aud_jsonb_match_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Node	   *answer = NULL;

	if (IsA(request, SupportRequestIndexCondition))
		answer = (Node *) derive_index_conditions((SupportRequestIndexCondition *) request);
	else if (IsA(request, SupportRequestSelectivity))
		answer = estimate_jsonb_selectivity((SupportRequestSelectivity *) request);
	else if (IsA(request, SupportRequestCost))
		answer = estimate_cost((SupportRequestCost *) request);
	PG_RETURN_POINTER(answer);
}

/* SQL: support of row_match and its commutator */
Datum
aud_row_match_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Node	   *answer = NULL;

	if (IsA(request, SupportRequestSimplify))
		answer = simplify_row_match((SupportRequestSimplify *) request);
	else if (IsA(request, SupportRequestSelectivity))
		answer = estimate_row_selectivity((SupportRequestSelectivity *) request,
										  false);
	else if (IsA(request, SupportRequestCost))
		answer = estimate_cost((SupportRequestCost *) request);
	PG_RETURN_POINTER(answer);
}

/* SQL: support of row_recheck */
Datum
aud_row_recheck_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	Node	   *answer = NULL;

	if (IsA(request, SupportRequestSelectivity))
		answer = estimate_row_selectivity((SupportRequestSelectivity *) request,
										  true);
	else if (IsA(request, SupportRequestCost))
		answer = estimate_cost((SupportRequestCost *) request);
	PG_RETURN_POINTER(answer);
}
