/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *	  Rules over users, asked from SQL: profile |= rule, scans, explanations
 *	  and scores.
 *
 * A rule is compiled beside the definitions (aud_definitions_overlay): what
 * traits and segments' rules already keep is taken from the profile's state;
 * what only this rule asks is made from each user's events as the scan comes
 * to it (event_scan.c).  Nothing is written.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "batch.h"
#include "pass.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_profile_match);
PG_FUNCTION_INFO_V1(aud_rule_scan);
PG_FUNCTION_INFO_V1(aud_rule_explain);
PG_FUNCTION_INFO_V1(aud_rule_score);
PG_FUNCTION_INFO_V1(aud_profile_values);

/* a rule, compiled beside a set of definitions */
typedef struct Compiled
{
	MemoryContext mcxt;
	uint64		serial;			/* of that set */
	const AudRule *rule;
	AudDefinitions *defs;
	const AudInstruction *program;
	bool	   *refill;			/* aggregates whose state is not stored */
	AudDecider *decider;
} Compiled;

/* Compiles a rule in a context of its own below "parent". */
static Compiled *
compile(const AudRule *rule, MemoryContext parent)
{
	const AudDefinitions *base = aud_definitions_get();
	MemoryContext mcxt = AllocSetContextCreate(parent, "audience rule", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	Compiled   *compiled = palloc(sizeof(Compiled));
	AudRule    *copy = palloc(VARSIZE(rule));

	memcpy(copy, rule, VARSIZE(rule));
	compiled->mcxt = mcxt;
	compiled->serial = base->serial;
	compiled->rule = copy;
	compiled->defs = aud_definitions_overlay(base, copy, &compiled->program);
	compiled->refill = palloc0((compiled->defs->naggregates + 1) * sizeof(bool));
	for (int i = 0; i < compiled->defs->naggregates; i++)
		compiled->refill[i] = compiled->defs->aggregates[i].number == 0;
	compiled->decider = aud_decider_create(compiled->defs);
	MemoryContextSwitchTo(old);
	return compiled;
}

/* An empty batch for evaluating a compiled rule. */
static AudBatch *
begin(const Compiled *compiled)
{
	AudBatch   *batch = aud_batch_begin(compiled->defs, NULL);

	batch->read_only = true;
	batch->refill = compiled->refill;
	return batch;
}

/*
 * Reads a user's stored profile, as the active snapshot sees it, into the
 * batch, whose only user it becomes; false: there is none.
 */
static bool
read_stored(AudBatch *batch, const text *user_id)
{
	Relation	profiles = table_open(aud_definitions_table("profiles"), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);

	ScanKeyEntryInitialize(&key, 0, AUD_PROFILE_USER_ID, BTEqualStrategyNumber, TEXTOID,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(user_id));
	scan = systable_beginscan(profiles, aud_definitions_key(profiles, 1), true,
							  GetActiveSnapshot(), 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		aud_batch_set_row(batch,
						  aud_batch_add(batch, VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id)),
						  heap_copytuple(tuple), RelationGetDescr(profiles));
	systable_endscan(scan);
	table_close(profiles, NoLock);
	MemoryContextSwitchTo(old);
	return batch->nusers > 0;
}

/*
 * profile_match(profiles, rule) → boolean: operator |= on a row of table
 * profiles.  Of the row only the user's id is taken, and the stored profile
 * read by it: the packed columns of a row that anyone can make up cannot be
 * trusted.  False for an id that has none.  The compiled rule is kept for the
 * call site.
 */
Datum
aud_profile_match(PG_FUNCTION_ARGS)
{
	HeapTupleHeader header = PG_GETARG_HEAPTUPLEHEADER(0);
	AudRule    *rule = PG_GETARG_AUDRULE_P(1);
	Compiled   *compiled = fcinfo->flinfo->fn_extra;
	AudBatch   *batch;
	bool		isnull;
	Datum		id;
	bool		result = false;

	if (compiled == NULL || compiled->serial != aud_definitions_get()->serial ||
		VARSIZE(compiled->rule) != VARSIZE(rule) ||
		memcmp(compiled->rule, rule, VARSIZE(rule)) != 0)
	{
		if (compiled != NULL)
			MemoryContextDelete(compiled->mcxt);
		fcinfo->flinfo->fn_extra = NULL;
		compiled = compile(rule, fcinfo->flinfo->fn_mcxt);
		fcinfo->flinfo->fn_extra = compiled;
	}
	id = GetAttributeByNum(header, AUD_PROFILE_USER_ID, &isnull);
	if (isnull)
		PG_RETURN_BOOL(false);
	batch = begin(compiled);
	if (read_stored(batch, DatumGetTextPP(id)))
	{
		aud_batch_advance(batch);
		aud_decider_set_user(compiled->decider, &batch->users[0], &batch->clock);
		result = aud_decider_holds(compiled->decider, compiled->program);
	}
	aud_batch_end(batch);
	PG_RETURN_BOOL(result);
}

/* rule_scan(rule) → setof text: the users for whom a rule holds, in C order. */
Datum
aud_rule_scan(PG_FUNCTION_ARGS)
{
	AudRule    *rule = PG_GETARG_AUDRULE_P(0);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Compiled   *compiled;
	char	   *after = NULL;
	bool		more = true;

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	compiled = compile(rule, CurrentMemoryContext);
	while (more)
	{
		AudBatch   *batch = begin(compiled);

		more = aud_pass_next(batch, &after);
		if (more)
		{
			aud_batch_advance(batch);
			for (int i = 0; i < batch->nusers; i++)
			{
				CHECK_FOR_INTERRUPTS();
				aud_decider_set_user(compiled->decider, &batch->users[i], &batch->clock);
				if (aud_decider_holds(compiled->decider, compiled->program))
				{
					Datum		value = CStringGetTextDatum(batch->users[i].id);
					bool		isnull = false;

					tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
				}
			}
		}
		aud_batch_end(batch);
	}
	SPI_finish();
	return (Datum) 0;
}

/* One stored user, advanced to now, for a rule; unknown: 42704. */
static AudBatch *
read_one(const Compiled *compiled, text *user_id)
{
	AudBatch   *batch = begin(compiled);

	aud_batch_add(batch, VARDATA_ANY(user_id), VARSIZE_ANY_EXHDR(user_id));
	aud_batch_read(batch);
	if (!batch->users[0].exists)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("user \"%s\" does not exist", text_to_cstring(user_id))));
	aud_batch_advance(batch);
	return batch;
}

/* What explain_node needs on its way down. */
typedef struct Explanation
{
	ReturnSetInfo *rsinfo;
	AudDecider *decider;
	const AudRule *rule;
} Explanation;

/* Emits one node's row, then its children's. */
static void
explain_node(Explanation *explanation, const AudNode *node,
			 const AudInstruction *at, int depth)
{
	StringInfoData text;
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	initStringInfo(&text);
	aud_rule_append_text(&text, explanation->rule, node);
	values[0] = Int32GetDatum(depth);
	values[1] = CStringGetTextDatum(text.data);
	nulls[2] = true;
	if (at->kind == AUD_NODE_FIELD)
	{
		Jsonb	   *actual = aud_decider_leaf_actual(explanation->decider, at->operand);

		nulls[2] = actual == NULL;
		values[2] = JsonbPGetDatum(actual);
	}
	values[3] = BoolGetDatum(aud_decider_holds(explanation->decider, at));
	tuplestore_putvalues(explanation->rsinfo->setResult, explanation->rsinfo->setDesc,
						 values, nulls);
	if (at->kind != AUD_NODE_FIELD)
	{
		const AudNode *child = AUD_FIRST_CHILD(node);
		const AudInstruction *child_at = at + 1;

		for (uint32 i = 0; i < node->nchildren; i++)
		{
			explain_node(explanation, child, child_at, depth + 1);
			child = AUD_NEXT_SIBLING(child);
			child_at += child_at->ninstructions;
		}
	}
}

/* rule_explain(rule, user_id): every node of the rule, and what it came to. */
Datum
aud_rule_explain(PG_FUNCTION_ARGS)
{
	AudRule    *rule = PG_GETARG_AUDRULE_P(0);
	Explanation explanation;
	Compiled   *compiled;
	AudBatch   *batch;

	InitMaterializedSRF(fcinfo, 0);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	compiled = compile(rule, CurrentMemoryContext);
	batch = read_one(compiled, PG_GETARG_TEXT_PP(1));
	explanation.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	explanation.decider = compiled->decider;
	explanation.rule = compiled->rule;
	aud_decider_set_user(explanation.decider, &batch->users[0], &batch->clock);
	explain_node(&explanation, AUD_RULE_ROOT(compiled->rule), compiled->program, 0);
	SPI_finish();
	return (Datum) 0;
}

/* rule_score(rule, user_id) → float8 */
Datum
aud_rule_score(PG_FUNCTION_ARGS)
{
	AudRule    *rule = PG_GETARG_AUDRULE_P(0);
	Compiled   *compiled;
	AudBatch   *batch;
	float8		result;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	compiled = compile(rule, CurrentMemoryContext);
	batch = read_one(compiled, PG_GETARG_TEXT_PP(1));
	aud_decider_set_user(compiled->decider, &batch->users[0], &batch->clock);
	result = aud_decider_score(compiled->decider, compiled->program);
	SPI_finish();
	PG_RETURN_FLOAT8(result);
}

/*
 * profile_values(user_ids text[], moved bool) → setof (user_id, aggregate,
 * value): every stored aggregate of these users, whose ids are in C order,
 * that is not missing.  With "moved", as of now; else as of each user's last
 * evaluation, as the row has it.
 */
Datum
aud_profile_values(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		moved = PG_GETARG_BOOL(1);
	const AudDefinitions *defs;
	AudBatch   *batch;
	Datum	   *ids;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &ids, NULL, &n);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get();
	batch = aud_batch_begin(defs, NULL);
	batch->read_only = true;
	for (int i = 0; i < n; i++)
		aud_batch_add(batch, VARDATA_ANY(DatumGetTextPP(ids[i])),
					  VARSIZE_ANY_EXHDR(DatumGetTextPP(ids[i])));
	aud_batch_read(batch);
	if (moved)
		aud_batch_advance(batch);
	for (int i = 0; i < batch->nusers; i++)
		for (int a = 0; batch->users[i].exists && a < defs->naggregates; a++)
		{
			AudAggregateValue value;
			JsonbValue	room;
			const JsonbValue *json;
			Datum		values[3];
			bool		nulls[3] = {false, false, false};

			CHECK_FOR_INTERRUPTS();
			aud_aggregate_value(&defs->aggregates[a], &batch->users[i].states[a], &value);
			json = aud_aggregate_json(&value, &room);
			if (json == NULL)
				continue;
			room = *json;
			values[0] = CStringGetTextDatum(batch->users[i].id);
			values[1] = Int32GetDatum(defs->aggregates[a].number);
			values[2] = JsonbPGetDatum(JsonbValueToJsonb(&room));
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	SPI_finish();
	return (Datum) 0;
}
