/*-------------------------------------------------------------------------
 *
 * match_plan.h
 *	  What the planner is told about |=: the files match_support.c,
 *	  match_path.c, match_columns.c and match_selectivity.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_MATCH_PLAN_H
#define AUD_MATCH_PLAN_H

#include "nodes/pathnodes.h"

#include "rule.h"

/*
 * match_path.c: a jsonpath predicate that holds for every jsonb that the
 * subtree holds for, fit for a GIN index; palloc'ed text, NULL if there is
 * none.
 */
extern char *aud_match_path(const AudRule *rule, const AudNode *node);

/*
 * Lists of keys (String nodes); a jsonb that the subtree holds for has at
 * least one key of each list at its top.  NIL if none.
 */
extern List *aud_match_keys(const AudRule *rule, const AudNode *node);

/* match_columns.c: the row operand of |=, seen as columns */
typedef struct AudRowOperand
{
	const Var  *whole_row;		/* or */
	const RowExpr *row;
	Oid			relid;			/* of whole_row */
	bool		filters;		/* null is as good as false to whoever asks */
} AudRowOperand;

extern bool aud_row_operand_init(AudRowOperand *operand, PlannerInfo *root,
								 Node *node);

/*
 * Conditions on columns, in implicit AND, that the subtree implies for the
 * row; NIL if none.  "match" is the operator jsonb |= rule.  With "exact", which
 * is to be true at first, they are to take the subtree's place: for a row that
 * is not null itself they are true or false, as the subtree is (with "filters",
 * null instead of false, too); or else *exact becomes false, and they are of no
 * use.
 */
extern List *aud_row_quals(const AudRowOperand *operand, const AudRule *rule,
						   const AudNode *node, Oid match, bool *exact);

extern bool aud_row_may_be_null(const AudRowOperand *operand, const PlannerInfo *root);

/*
 * The positive condition of one leaf in terms of its column, for estimating;
 * NIL if there is none.
 */
extern List *aud_row_leaf_quals(const AudRowOperand *operand,
								const AudRule *rule, const AudNode *leaf);

/* match_selectivity.c */

/*
 * The constant rule among the two arguments of a function for |=, detoasted
 * in the current context, or NULL; its position and its type's OID.
 */
extern const AudRule *aud_match_const_rule(Oid function, List *args,
										   int *position, Oid *rule_type);

/*
 * The fraction of documents or rows that the rule holds for, estimated leaf
 * by leaf; "operand" (NULL: none) gives statistics of columns.
 */
extern Selectivity aud_rule_selectivity(PlannerInfo *root, const AudRule *rule,
										const AudRowOperand *operand,
										int varRelid, JoinType jointype,
										SpecialJoinInfo *sjinfo);

/* The cost of evaluating the rule once, in units of cpu_operator_cost. */
extern double aud_rule_cost(const AudRule *rule);

#endif							/* AUD_MATCH_PLAN_H */
