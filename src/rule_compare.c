/*-------------------------------------------------------------------------
 *
 * rule_compare.c
 *	  Equality, order and hashing of rules and of their subtrees.
 *
 * All of it goes by the canonical JSON.  Rules are built so that equal ones
 * have equal bytes, which saves printing in the usual case, but nothing relies
 * on it.  (By form, which is quick: rule_form.c.)
 *
 * Subtrees are printed as if they stood in "where": there a key that is called
 * like "$type" is quoted, so that it differs from the event's type.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"

#include "rule_parse.h"

PG_FUNCTION_INFO_V1(aud_rule_eq);
PG_FUNCTION_INFO_V1(aud_rule_ne);
PG_FUNCTION_INFO_V1(aud_rule_lt);
PG_FUNCTION_INFO_V1(aud_rule_le);
PG_FUNCTION_INFO_V1(aud_rule_gt);
PG_FUNCTION_INFO_V1(aud_rule_ge);
PG_FUNCTION_INFO_V1(aud_rule_cmp);
PG_FUNCTION_INFO_V1(aud_rule_hash);
PG_FUNCTION_INFO_V1(aud_rule_hash_extended);

/* The canonical form of a rule; the buffer's data is palloc'ed. */
static StringInfoData
print_rule(const AudRule *rule)
{
	StringInfoData buf;

	initStringInfo(&buf);
	aud_rule_append_json(&buf, rule, AUD_RULE_ROOT(rule));
	return buf;
}

/* Below, equal to or above 0 as two byte strings compare. */
static int
compare_bytes(const StringInfoData *a, const StringInfoData *b)
{
	int			result = memcmp(a->data, b->data, Min(a->len, b->len));

	return result != 0 ? result : a->len - b->len;
}

/* Below, equal to or above 0 as two rules compare. */
static int
compare_rules(const AudRule *a, const AudRule *b)
{
	StringInfoData text_a;
	StringInfoData text_b;
	int			result;

	if (VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0)
		return 0;
	text_a = print_rule(a);
	text_b = print_rule(b);
	result = compare_bytes(&text_a, &text_b);
	pfree(text_a.data);
	pfree(text_b.data);
	return result;
}

/* Compares the two arguments of a function and frees their copies. */
static int
compare_arguments(FunctionCallInfo fcinfo)
{
	AudRule    *a = PG_GETARG_AUDRULE_P(0);
	AudRule    *b = PG_GETARG_AUDRULE_P(1);
	int			result = compare_rules(a, b);

	PG_FREE_IF_COPY(a, 0);
	PG_FREE_IF_COPY(b, 1);
	return result;
}

/* rule = rule */
Datum
aud_rule_eq(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_arguments(fcinfo) == 0);
}

/* rule <> rule */
Datum
aud_rule_ne(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_arguments(fcinfo) != 0);
}

/* rule < rule */
Datum
aud_rule_lt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_arguments(fcinfo) < 0);
}

/* rule <= rule */
Datum
aud_rule_le(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_arguments(fcinfo) <= 0);
}

/* rule > rule */
Datum
aud_rule_gt(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_arguments(fcinfo) > 0);
}

/* rule >= rule */
Datum
aud_rule_ge(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(compare_arguments(fcinfo) >= 0);
}

/* rule_cmp(rule, rule) -> int: the btree support function */
Datum
aud_rule_cmp(PG_FUNCTION_ARGS)
{
	int			result = compare_arguments(fcinfo);

	PG_RETURN_INT32(result < 0 ? -1 : result > 0 ? 1 : 0);
}

/* rule_hash(rule) -> int: the hash support function */
Datum
aud_rule_hash(PG_FUNCTION_ARGS)
{
	AudRule    *rule = PG_GETARG_AUDRULE_P(0);
	StringInfoData text = print_rule(rule);
	uint32		hash = hash_bytes((unsigned char *) text.data, text.len);

	pfree(text.data);
	PG_FREE_IF_COPY(rule, 0);
	PG_RETURN_UINT32(hash);
}

/* rule_hash_extended(rule, bigint) -> bigint: the hash with a seed */
Datum
aud_rule_hash_extended(PG_FUNCTION_ARGS)
{
	AudRule    *rule = PG_GETARG_AUDRULE_P(0);
	uint64		seed = PG_GETARG_INT64(1);
	StringInfoData text = print_rule(rule);
	uint64		hash = hash_bytes_extended((unsigned char *) text.data, text.len, seed);

	pfree(text.data);
	PG_FREE_IF_COPY(rule, 0);
	PG_RETURN_UINT64(hash);
}

/* What two nodes have in common if they ask the same of the events. */
static StringInfoData
print_identity(const AudRule *rule, const AudNode *node)
{
	StringInfoData buf;

	initStringInfo(&buf);
	aud_rule_append_json_flags(&buf, rule, node, AUD_PRINT_IN_WHERE | AUD_PRINT_IDENTITY);
	return buf;
}

/* See rule.h. */
uint64
aud_node_identity_hash(const AudRule *rule, const AudNode *node)
{
	StringInfoData text = print_identity(rule, node);
	uint64		hash = hash_bytes_extended((unsigned char *) text.data, text.len, 0);

	pfree(text.data);
	return hash;
}

/* See rule.h. */
bool
aud_node_identity_equal(const AudRule *rule_a, const AudNode *a,
						const AudRule *rule_b, const AudNode *b)
{
	StringInfoData text_a;
	StringInfoData text_b;
	bool		result;

	if (a->kind != b->kind || a->nnodes != b->nnodes)
		return false;
	text_a = print_identity(rule_a, a);
	text_b = print_identity(rule_b, b);
	result = compare_bytes(&text_a, &text_b) == 0;
	pfree(text_a.data);
	pfree(text_b.data);
	return result;
}

/* See rule.h. */
AudRule *
aud_rule_extract(const AudRule *rule, const AudNode *node, bool identity)
{
	AudItem    *item = aud_rule_unbuild(rule, node);

	if (identity && node->kind == AUD_NODE_EVENT)
	{
		item->node.op = AUD_OP_EXISTS;
		item->node.flags &= ~(AUD_NEGATED | AUD_CI);
		item->value = NULL;
	}
	return aud_rule_build(item);
}
