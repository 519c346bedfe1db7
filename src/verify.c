/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  What the SQL that verify() generates needs and SQL lacks.
 *
 * verify() recomputes everything from the events by generated queries: groups
 * of a rule are SQL's AND, OR and NOT, aggregates are SQL's.  Two things have
 * no counterpart there: whether one predicate holds for one document at a
 * given instant, and the value at a property's path.  Both are made here from
 * the evaluator's own parts, so that an operator means one thing everywhere,
 * and over plain documents, so that the engine's (definitions, states,
 * batches) have no part in it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "eval.h"
#include "match.h"

PG_FUNCTION_INFO_V1(aud_verify_leaf);
PG_FUNCTION_INFO_V1(aud_verify_property);

/*
 * verify_leaf(document jsonb, leaf rule, at timestamptz) → boolean: as
 * document |= leaf, with "at" in place of now.  Rules that need a profile
 * are refused (0A000).
 */
Datum
aud_verify_leaf(PG_FUNCTION_ARGS)
{
	const AudRule *rule;
	AudMatchSite *site = aud_match_site(fcinfo, 1, false, &rule);
	AudClock	clock;
	AudJsonbDoc doc;

	clock.now = PG_GETARG_TIMESTAMPTZ(2);
	clock.max_future_skew = aud_max_future_skew();
	aud_jsonb_doc_init(&doc, PG_GETARG_JSONB_P(0), &clock);
	PG_RETURN_BOOL(aud_match_eval(site, rule, &doc.doc));
}

/*
 * verify_property(properties jsonb, definition rule) → jsonb: what the
 * property of an aggregate's event node is there; null where it is missing or
 * a JSON null.
 */
Datum
aud_verify_property(PG_FUNCTION_ARGS)
{
	const AudRule *rule = PG_GETARG_AUDRULE_P(1);
	const AudNode *node = AUD_RULE_ROOT(rule);
	AudClock	clock = {0};
	AudJsonbDoc doc;
	JsonbValue	room;
	const JsonbValue *value;

	if (node->kind != AUD_NODE_EVENT || node->path == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the rule is not one of an event's property")));
	aud_jsonb_doc_init(&doc, PG_GETARG_JSONB_P(0), &clock);
	value = aud_path_collect(rule, AUD_NODE_PATH(rule, node), 0,
							 &doc.root, &room);
	if (value == NULL || value->type == jbvNull)
		PG_RETURN_NULL();
	room = *value;
	PG_RETURN_JSONB_P(JsonbValueToJsonb(&room));
}
