/*-------------------------------------------------------------------------
 *
 * eval.c
 *	  Evaluating a rule: groups, with short circuit, over leaves.
 *
 * Two-valued: every node is true or false.  The children of a group are
 * evaluated in the order they are written in, until the group is decided.
 * The depth of a rule is limited at input (AUD_MAX_DEPTH).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "eval.h"
#include "eval_op.h"
#include "jsonb_walk.h"
#include "prepare.h"

/* what stays the same during one evaluation */
typedef struct Evaluation
{
	const AudRule *rule;
	const AudPrepared *prepared;	/* NULL: leaves prepare themselves */
	AudDoc	   *doc;
} Evaluation;

static bool eval_node(const Evaluation *evaluation, const AudNode *node);

/* Is there a child of the group that evaluates to "wanted"? */
static bool
any_child(const Evaluation *evaluation, const AudNode *group, bool wanted)
{
	const AudNode *child = AUD_FIRST_CHILD(group);

	check_stack_depth();
	for (uint32 i = 0; i < group->nchildren; i++)
	{
		if (eval_node(evaluation, child) == wanted)
			return true;
		child = AUD_NEXT_SIBLING(child);
	}
	return false;
}

/* A condition on a field. */
static inline bool
eval_field(const Evaluation *evaluation, const AudNode *node)
{
	const AudRule *rule = evaluation->rule;
	AudDoc	   *doc = evaluation->doc;
	AudLeafPrepared *prepared = NULL;
	const AudPath *path;
	const JsonbValue *from;
	JsonbValue	room;
	int			nused = 0;

	if (evaluation->prepared != NULL)
	{
		prepared = evaluation->prepared->leaves[node - rule->nodes];
		if (prepared->key != NULL && doc->object != NULL)
			return aud_value_holds_prepared(rule, node, prepared,
											aud_jsonb_key_hinted(doc->object,
																 prepared->key,
																 prepared->keylen,
																 &prepared->hint,
																 &room),
											&doc->clock);
	}
	path = AUD_NODE_PATH(rule, node);
	from = doc->start(doc, rule, path, &room, &nused);
	if (prepared == NULL)
		return aud_path_holds(rule, node, path, nused, from, &doc->clock);
	return aud_path_holds_prepared(rule, node, prepared, path, nused, from,
								   &doc->clock);
}

/* A leaf that only some documents can answer; raises 0A000 for the others. */
static bool
eval_leaf(const Evaluation *evaluation, const AudNode *node)
{
	AudDoc	   *doc = evaluation->doc;

	if (doc->leaf == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("conditions on events, segments and samples cannot be evaluated here")));
	return doc->leaf(doc, evaluation->rule, node);
}

/* One subtree. */
static bool
eval_node(const Evaluation *evaluation, const AudNode *node)
{
	switch ((AudNodeKind) node->kind)
	{
		case AUD_NODE_TRUE:
			return true;
		case AUD_NODE_FALSE:
			return false;
		case AUD_NODE_ALL:
			return !any_child(evaluation, node, false);
		case AUD_NODE_ANY:
			return any_child(evaluation, node, true);
		case AUD_NODE_NONE:
		case AUD_NODE_NOT:
			return !any_child(evaluation, node, true);
		case AUD_NODE_FIELD:
			return eval_field(evaluation, node);
		case AUD_NODE_EVENT:
		case AUD_NODE_SEQUENCE:
		case AUD_NODE_SEGMENT:
		case AUD_NODE_SAMPLE:
			return eval_leaf(evaluation, node);
		case AUD_NODE_STEP:
			break;
	}
	elog(ERROR, "unexpected kind of rule node: %d", node->kind);
	return false;				/* keep compiler quiet */
}

/* Does the subtree hold for the document? */
bool
aud_eval_node(const AudRule *rule, const AudNode *node, AudDoc *doc)
{
	Evaluation	evaluation = {rule, NULL, doc};

	return eval_node(&evaluation, node);
}

/* Does the rule hold for the document? */
bool
aud_eval_rule(const AudRule *rule, AudDoc *doc)
{
	return aud_eval_node(rule, AUD_RULE_ROOT(rule), doc);
}

/* As aud_eval_node, with what aud_prepare() made of the rule. */
bool
aud_eval_node_prepared(const AudPrepared *prepared, const AudNode *node,
					   AudDoc *doc)
{
	Evaluation	evaluation = {prepared->rule, prepared, doc};

	return eval_node(&evaluation, node);
}

/* As aud_eval_rule, with what aud_prepare() made of the rule. */
bool
aud_eval_prepared(const AudPrepared *prepared, AudDoc *doc)
{
	return aud_eval_node_prepared(prepared, AUD_RULE_ROOT(prepared->rule), doc);
}
