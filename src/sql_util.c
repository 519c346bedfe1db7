/*-------------------------------------------------------------------------
 *
 * sql_util.c
 *	  Small functions of the engine as SQL has them: the clock, timestamps as
 *	  text, the definitions lock, merge patches, static memberships in states,
 *	  and what a rule asks for.
 *
 * What a rule asks for is told by its nodes in pre-order, passing over what
 * stands below event and sequence nodes: their "where" is about an event, not
 * about the profile.  What is asked twice is told twice; the callers, which
 * are SQL, make sets of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "batch.h"
#include "pass.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_now_sql);
PG_FUNCTION_INFO_V1(aud_timestamp_text);
PG_FUNCTION_INFO_V1(aud_definitions_lock_shared_sql);
PG_FUNCTION_INFO_V1(aud_merge_patch_sql);
PG_FUNCTION_INFO_V1(aud_rule_aggregates);
PG_FUNCTION_INFO_V1(aud_rule_fields);
PG_FUNCTION_INFO_V1(aud_rule_segments);

/* now() → timestamptz: the instant rules are evaluated for. */
Datum
aud_now_sql(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(aud_now());
}

/* timestamp_text(timestamptz) → text: as the engine prints timestamps. */
Datum
aud_timestamp_text(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	initStringInfo(&buf);
	aud_timestamp_append(&buf, PG_GETARG_TIMESTAMPTZ(0));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}

/*
 * definitions_lock_shared(): keeps definitions from changing until the
 * transaction ends.
 */
Datum
aud_definitions_lock_shared_sql(PG_FUNCTION_ARGS)
{
	aud_definitions_lock_shared();
	PG_RETURN_VOID();
}

/*
 * merge_patch(target jsonb, patch jsonb) → jsonb: both must be objects, else
 * 22023.
 */
Datum
aud_merge_patch_sql(PG_FUNCTION_ARGS)
{
	Jsonb	   *target = PG_GETARG_JSONB_P(0);
	Jsonb	   *patch = PG_GETARG_JSONB_P(1);

	if (!JB_ROOT_IS_OBJECT(target) || !JB_ROOT_IS_OBJECT(patch))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only JSON objects can be merged")));
	PG_RETURN_JSONB_P(aud_merge_patch(target, patch));
}

/*
 * What a node adds to the answer; false: nothing.  palloc'ed in the current
 * context.
 */
typedef bool (*NodeAnswer) (const AudRule *rule, const AudNode *node, Datum *value);

/*
 * The body of a function rule → setof something: the answers of all nodes that
 * are about the profile.
 */
static Datum
answer_rule(FunctionCallInfo fcinfo, NodeAnswer answer)
{
	const AudRule *rule = PG_GETARG_AUDRULE_P(0);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (uint32 i = 0; i < rule->nnodes;)
	{
		const AudNode *node = &rule->nodes[i];
		Datum		value;
		bool		isnull = false;

		CHECK_FOR_INTERRUPTS();
		if (answer(rule, node, &value))
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
		if (node->kind == AUD_NODE_EVENT || node->kind == AUD_NODE_SEQUENCE)
			i += node->nnodes;
		else
			i++;
	}
	return (Datum) 0;
}

/* An event or sequence node as table aggregates keeps it. */
static bool
node_aggregate(const AudRule *rule, const AudNode *node, Datum *value)
{
	if (node->kind != AUD_NODE_EVENT && node->kind != AUD_NODE_SEQUENCE)
		return false;
	*value = PointerGetDatum(aud_rule_extract(rule, node, true));
	return true;
}

/* The first key of a field's path; an array's element has none. */
static bool
node_field(const AudRule *rule, const AudNode *node, Datum *value)
{
	const AudPath *path;

	if (node->kind != AUD_NODE_FIELD)
		return false;
	path = AUD_NODE_PATH(rule, node);
	if (path->nsteps == 0 || (path->steps[0].kind != AUD_STEP_KEY &&
							  path->steps[0].kind != AUD_STEP_INTEGER_KEY))
		return false;
	*value = PointerGetDatum(cstring_to_text_with_len(AUD_AT(rule, path->steps[0].key),
													  path->steps[0].keylen));
	return true;
}

/* The id of the segment that a node refers to. */
static bool
node_segment(const AudRule *rule, const AudNode *node, Datum *value)
{
	const AudValue *id;

	if (node->kind != AUD_NODE_SEGMENT)
		return false;
	id = AUD_NODE_VALUE(rule, node);
	*value = PointerGetDatum(cstring_to_text_with_len(AUD_VALUE_TEXT_PTR(id), id->len));
	return true;
}

/* rule_aggregates(rule) → setof rule: what the rule asks of events. */
Datum
aud_rule_aggregates(PG_FUNCTION_ARGS)
{
	return answer_rule(fcinfo, node_aggregate);
}

/* rule_fields(rule) → setof text: first keys of the profile's fields it asks for. */
Datum
aud_rule_fields(PG_FUNCTION_ARGS)
{
	return answer_rule(fcinfo, node_field);
}

/* rule_segments(rule) → setof text: ids of the segments that it refers to. */
Datum
aud_rule_segments(PG_FUNCTION_ARGS)
{
	return answer_rule(fcinfo, node_segment);
}
