/*-------------------------------------------------------------------------
 *
 * match_selectivity.c
 *	  How many documents or rows a rule holds for, and what asking costs.
 *
 * Over a jsonb column the rule is tried on the column's most common values
 * and its histogram: a hundred real documents say more than any formula.
 * Where there are none (wide documents are not sampled), and over rows, the
 * leaves are estimated one by one and combined as if independent; over rows a
 * leaf takes the statistics of its column.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/selfuncs.h"

#include "eval.h"
#include "match_plan.h"

/* what a rule is taken to hold for when it is not known while planning */
#define UNKNOWN_RULE_SELECTIVITY	0.1

PG_FUNCTION_INFO_V1(aud_match_sel);
PG_FUNCTION_INFO_V1(aud_match_joinsel);

/* what estimating one rule needs at every node */
typedef struct Estimate
{
	PlannerInfo *root;
	const AudRule *rule;
	const AudRowOperand *operand;	/* NULL: no columns */
	int			varRelid;
	JoinType	jointype;
	SpecialJoinInfo *sjinfo;
} Estimate;

/* The constant rule among the arguments of |=.  See match_plan.h. */
const AudRule *
aud_match_const_rule(Oid function, List *args, int *position, Oid *rule_type)
{
	Oid		   *types;
	int			ntypes;
	Node	   *argument;

	(void) get_func_signature(function, &types, &ntypes);
	if (ntypes != 2 || list_length(args) != 2)
		return NULL;

	/* the other argument is a jsonb or a row */
	*position = types[1] == JSONBOID || type_is_rowtype(types[1]) ? 0 : 1;
	*rule_type = types[*position];
	argument = list_nth(args, *position);
	if (!IsA(argument, Const) || ((Const *) argument)->constisnull ||
		((Const *) argument)->consttype != *rule_type)
		return NULL;
	return DatumGetAudRuleP(((Const *) argument)->constvalue);
}

/* The selectivity of a positive operator on a field of unknown values. */
static Selectivity
default_selectivity(const AudRule *rule, const AudNode *leaf)
{
	const AudValue *value = leaf->value != 0 ? AUD_NODE_VALUE(rule, leaf) : NULL;

	switch ((AudOp) leaf->op)
	{
		case AUD_OP_EQ:
		case AUD_OP_SEMVER_EQ:
			Assert(value != NULL);
			/* half of the profiles have a flag set */
			return value->type == AUD_VALUE_BOOL ? 0.5 : DEFAULT_EQ_SEL;
		case AUD_OP_IN:
		case AUD_OP_CONTAINS_ANY:
			Assert(value != NULL);
			return Min(DEFAULT_EQ_SEL * value->len, 0.5);
		case AUD_OP_CONTAINS:
		case AUD_OP_CONTAINS_ALL:
			return DEFAULT_EQ_SEL;
		case AUD_OP_BETWEEN:
			return DEFAULT_INEQ_SEL * DEFAULT_INEQ_SEL;
		case AUD_OP_STARTS_WITH:
		case AUD_OP_ENDS_WITH:
		case AUD_OP_LIKE:
		case AUD_OP_ILIKE:
		case AUD_OP_REGEX:
		case AUD_OP_IREGEX:
			return 0.02;
		case AUD_OP_EXISTS:
			return 0.9;
		case AUD_OP_IS_EMPTY:
			return 0.1;
		default:
			return DEFAULT_INEQ_SEL;
	}
}

/* A condition on a field, by its column's statistics where it has one. */
static Selectivity
field_selectivity(const Estimate *estimate, const AudNode *leaf)
{
	List	   *quals = NIL;
	Selectivity result;

	if (estimate->operand != NULL)
		quals = aud_row_leaf_quals(estimate->operand, estimate->rule, leaf);
	if (quals != NIL)
		result = clauselist_selectivity(estimate->root, quals,
										estimate->varRelid, estimate->jointype,
										estimate->sjinfo);
	else
		result = default_selectivity(estimate->rule, leaf);
	return leaf->flags & AUD_NEGATED ? 1.0 - result : result;
}

/* One subtree. */
static Selectivity
node_selectivity(const Estimate *estimate, const AudNode *node)
{
	const AudNode *child = AUD_FIRST_CHILD(node);
	Selectivity all = 1.0;		/* children hold */
	Selectivity none = 1.0;		/* children do not hold */

	check_stack_depth();
	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_TRUE:
			return 1.0;
		case AUD_NODE_FALSE:
			return 0.0;
		case AUD_NODE_FIELD:
			return field_selectivity(estimate, node);
		case AUD_NODE_SAMPLE:
			return node->arg.percent / 100;
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
		case AUD_NODE_NOT:
			for (uint32 i = 0; i < node->nchildren; i++)
			{
				Selectivity one = node_selectivity(estimate, child);

				all *= one;
				none *= 1.0 - one;
				child = AUD_NEXT_SIBLING(child);
			}
			if (node->kind == AUD_NODE_ALL)
				return all;
			return node->kind == AUD_NODE_ANY ? 1.0 - none : none;
		default:
			return DEFAULT_INEQ_SEL;
	}
}

/* The selectivity of a rule, leaf by leaf.  See match_plan.h. */
Selectivity
aud_rule_selectivity(PlannerInfo *root, const AudRule *rule,
					 const AudRowOperand *operand, int varRelid,
					 JoinType jointype, SpecialJoinInfo *sjinfo)
{
	Estimate	estimate = {root, rule, operand, varRelid, jointype, sjinfo};
	Selectivity result = node_selectivity(&estimate, AUD_RULE_ROOT(rule));

	CLAMP_PROBABILITY(result);
	return result;
}

/* The cost of evaluating one leaf, in units of cpu_operator_cost. */
static double
leaf_cost(const AudRule *rule, const AudNode *node)
{
	int			nvalues = 1;

	if (node->value != 0 && AUD_NODE_VALUE(rule, node)->type == AUD_VALUE_LIST)
		nvalues = AUD_NODE_VALUE(rule, node)->len;
	switch ((AudOp) node->op)
	{
		case AUD_OP_REGEX:
		case AUD_OP_IREGEX:
			return 30.0 * nvalues;
		case AUD_OP_LIKE:
		case AUD_OP_ILIKE:
		case AUD_OP_STARTS_WITH:
		case AUD_OP_ENDS_WITH:
			return 3.0 + nvalues;
		default:
			return (node->flags & AUD_CI) ? 5.0 : 3.0;
	}
}

/* The cost of evaluating a rule once.  See match_plan.h. */
double
aud_rule_cost(const AudRule *rule)
{
	double		cost = 2.0;

	for (uint32 i = 0; i < rule->nnodes; i++)
	{
		if (rule->nodes[i].kind == AUD_NODE_FIELD)
			cost += leaf_cost(rule, &rule->nodes[i]);
		else if (rule->nodes[i].kind == AUD_NODE_SAMPLE)
			cost += 100.0;
	}
	return cost;
}

/* SQL: restriction selectivity of |= and =| */
Datum
aud_match_sel(PG_FUNCTION_ARGS)
{
	PlannerInfo *root = (PlannerInfo *) PG_GETARG_POINTER(0);
	Oid			operator = PG_GETARG_OID(1);
	List	   *args = (List *) PG_GETARG_POINTER(2);
	int			varRelid = PG_GETARG_INT32(3);
	int			position;
	Oid			rule_type;
	const AudRule *rule = aud_match_const_rule(get_opcode(operator), args,
											   &position, &rule_type);
	Node	   *document;
	AudRowOperand operand;
	bool		has_columns;
	Selectivity result;

	if (rule == NULL)
		PG_RETURN_FLOAT8(UNKNOWN_RULE_SELECTIVITY);
	document = list_nth(args, 1 - position);
	has_columns = aud_row_operand_init(&operand, root, document);
	result = aud_rule_selectivity(root, rule, has_columns ? &operand : NULL,
								  varRelid, JOIN_INNER, NULL);

	/* samples can be tried only where evaluating cannot raise */
	if (exprType(document) == JSONBOID &&
		(rule->needs & (AUD_NEEDS_EVENTS | AUD_NEEDS_SEGMENTS)) == 0)
		result = generic_restriction_selectivity(root, operator, InvalidOid,
												 args, varRelid, result);
	PG_RETURN_FLOAT8(result);
}

/* SQL: join selectivity of |= and =|: the rule comes out of a table. */
Datum
aud_match_joinsel(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT8(UNKNOWN_RULE_SELECTIVITY);
}
