/*-------------------------------------------------------------------------
 *
 * match.c
 *	  The operators |= and =| for jsonb and for rows, and rule_holds().
 *
 * A rule is mostly a constant of the query, and profiles come by the million.
 * So a call site (fn_extra) fetches, checks and prepares a constant once.  A
 * parameter is prepared, too, and compared with the one before at every call:
 * PL/pgSQL keeps its call sites while its variables change, which is why
 * get_fn_expr_arg_stable() is of no use here.  Rules that come out of rows are
 * evaluated as they are.
 *
 * Events, sequences and segments need a user's profile.  A rule with one of
 * them is refused before anything is evaluated, so that it does not depend on
 * the data whether there is an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "eval.h"
#include "jsonb_walk.h"
#include "match.h"

/* of the processor; another size than this costs time only */
#define CACHE_LINE		64

/* the largest row, in bytes, of which all is asked for ahead */
#define PREFETCH_MAX	1024

/* a macro, as gcc finds that a function of nothing else has no effect */
#ifdef __GNUC__
#define prefetch_memory(p)	__builtin_prefetch(p)
#else
#define prefetch_memory(p)	((void) (p))
#endif

PG_FUNCTION_INFO_V1(aud_jsonb_match);
PG_FUNCTION_INFO_V1(aud_jsonb_match_commutator);
PG_FUNCTION_INFO_V1(aud_row_match);
PG_FUNCTION_INFO_V1(aud_row_match_commutator);
PG_FUNCTION_INFO_V1(aud_rule_holds);

/*
 * Raises 0A000 if the rule depends on more than a document or, with
 * "immutable", on time.
 */
static void
check_needs(const AudRule *rule, bool immutable)
{
	if (rule->needs & AUD_NEEDS_EVENTS)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a rule with conditions on events can be evaluated for profiles only"),
				 errhint("Use it in a segment, or with the operator |= on a value of type audience.profiles.")));
	if (rule->needs & AUD_NEEDS_SEGMENTS)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a rule with conditions on segments can be evaluated for profiles only"),
				 errhint("Use it in a segment, or with the operator |= on a value of type audience.profiles.")));
	if (immutable && (rule->needs & AUD_NEEDS_TIME))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a rule that depends on the current time is not immutable"),
				 errhint("Use the operator |=.")));
}

/* Where argument "arg" of a call comes from. */
static AudRuleOrigin
find_origin(FmgrInfo *flinfo, int arg)
{
	List	   *args = NIL;
	Node	   *node;

	/* an element of an array (ScalarArrayOpExpr) is not what the array is */
	if (flinfo->fn_expr == NULL)
		return AUD_RULE_VARYING;
	if (IsA(flinfo->fn_expr, FuncExpr))
		args = ((FuncExpr *) flinfo->fn_expr)->args;
	else if (IsA(flinfo->fn_expr, OpExpr))
		args = ((OpExpr *) flinfo->fn_expr)->args;
	if (arg >= list_length(args))
		return AUD_RULE_VARYING;
	node = list_nth(args, arg);
	if (IsA(node, Const))
		return AUD_RULE_CONSTANT;
	return IsA(node, Param) ? AUD_RULE_PARAMETER : AUD_RULE_VARYING;
}

/* Makes the state of a call site, in its FmgrInfo. */
static AudMatchSite *
make_site(FmgrInfo *flinfo, int rule_arg)
{
	AudMatchSite *site = MemoryContextAllocZero(flinfo->fn_mcxt,
												sizeof(AudMatchSite));

	site->origin = find_origin(flinfo, rule_arg);
	site->mcxt = AllocSetContextCreate(flinfo->fn_mcxt,
									   "audience rule call site",
									   ALLOCSET_SMALL_SIZES);
	flinfo->fn_extra = site;
	return site;
}

/* Prepares the rule of a call site, in place of the one before. */
static void
prepare_site(AudMatchSite *site, const AudRule *rule, bool immutable)
{
	MemoryContext old;
	AudRule    *copy;

	site->prepared = NULL;
	site->columns = NULL;
	MemoryContextReset(site->mcxt);
	check_needs(rule, immutable);
	old = MemoryContextSwitchTo(site->mcxt);
	copy = palloc(VARSIZE(rule));
	memcpy(copy, rule, VARSIZE(rule));
	site->prepared = aud_prepare(copy);
	MemoryContextSwitchTo(old);
}

/*
 * The state of the call site and, in *rule, the rule to evaluate: argument
 * "rule_arg" of the call.  Raises 0A000 for rules that cannot be evaluated
 * here.
 */
AudMatchSite *
aud_match_site(FunctionCallInfo fcinfo, int rule_arg, bool immutable,
			   const AudRule **rule)
{
	AudMatchSite *site = fcinfo->flinfo->fn_extra;
	const AudRule *argument;

	if (likely(site != NULL && site->origin == AUD_RULE_CONSTANT &&
			   site->prepared != NULL))
	{
		*rule = site->prepared->rule;
		return site;
	}
	if (site == NULL)
		site = make_site(fcinfo->flinfo, rule_arg);
	argument = PG_GETARG_AUDRULE_P(rule_arg);
	if (site->origin == AUD_RULE_VARYING)
	{
		check_needs(argument, immutable);
		*rule = argument;
		return site;
	}
	if (site->prepared == NULL ||
		VARSIZE(site->prepared->rule) != VARSIZE(argument) ||
		memcmp(site->prepared->rule, argument, VARSIZE(argument)) != 0)
		prepare_site(site, argument, immutable);
	*rule = site->prepared->rule;
	return site;
}

/* Evaluates the rule of a call site. */
bool
aud_match_eval(const AudMatchSite *site, const AudRule *rule, AudDoc *doc)
{
	return site->prepared != NULL ? aud_eval_prepared(site->prepared, doc) :
		aud_eval_rule(rule, doc);
}

/* The clock for a rule; only rules that look at it have it set. */
void
aud_match_clock(const AudRule *rule, AudClock *clock)
{
	if (rule->needs & AUD_NEEDS_TIME)
		aud_clock_init(clock);
	else
		memset(clock, 0, sizeof(*clock));
}

/*
 * A leaf on a document whose user's id is "user_id" (NULL: missing).  An id
 * that is a number counts as its text; any other value is no id, and no id is
 * in no sample.
 */
bool
aud_match_leaf(const AudRule *rule, const AudNode *node,
			   const JsonbValue *user_id)
{
	if (node->kind != AUD_NODE_SAMPLE)
		check_needs(rule, false);
	if (user_id == NULL)
		return false;
	if (user_id->type == jbvString)
		return aud_sample_holds(rule, node, user_id->val.string.val,
								user_id->val.string.len);
	if (user_id->type == jbvNumeric)
	{
		char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
															   NumericGetDatum(user_id->val.numeric)));

		return aud_sample_holds(rule, node, text, strlen(text));
	}
	return false;
}

/* AudDoc.leaf of a jsonb: its user id is in "userId" or else "user_id". */
static bool
jsonb_leaf(AudDoc *doc, const AudRule *rule, const AudNode *node)
{
	JsonbValue *root = &((AudJsonbDoc *) doc)->root;
	const JsonbContainer *object;
	const JsonbValue *user_id;
	JsonbValue	room;

	if (root->type != jbvBinary ||
		!JsonContainerIsObject(root->val.binary.data))
		return aud_match_leaf(rule, node, NULL);
	object = root->val.binary.data;
	user_id = aud_jsonb_key(object, "userId", strlen("userId"), &room);
	if (user_id == NULL)
		user_id = aud_jsonb_key(object, "user_id", strlen("user_id"), &room);
	return aud_match_leaf(rule, node, user_id);
}

/*
 * Does the rule hold for a jsonb?
 *
 * Waiting for a row's memory takes longer than evaluating a rule, so that of
 * the row which a scan comes to next is asked for first.  A page is filled
 * from its end: a next row of much the same size lies in front of this one,
 * where its jsonb stands unchanged in the page.  A guess that is wrong, or
 * outside of any memory, does no harm.
 */
static inline bool
match_jsonb(FunctionCallInfo fcinfo, int jsonb_arg, int rule_arg,
			bool immutable)
{
	const AudRule *rule;
	AudMatchSite *site = aud_match_site(fcinfo, rule_arg, immutable, &rule);
	Jsonb	   *jsonb = (Jsonb *) PG_GETARG_POINTER(jsonb_arg);
	AudClock	clock;
	AudJsonbDoc doc;

	if (unlikely(VARATT_IS_EXTENDED(jsonb)))
		jsonb = PG_GETARG_JSONB_P(jsonb_arg);
	else
	{
		/* two lines more for the row's header and the columns in front */
		int			size = Min(VARSIZE(jsonb), PREFETCH_MAX) + 2 * CACHE_LINE;

		for (int i = CACHE_LINE; i <= size; i += CACHE_LINE)
			prefetch_memory((const char *) jsonb - i);
	}
	aud_match_clock(rule, &clock);
	aud_jsonb_doc_init(&doc, jsonb, &clock);
	doc.doc.leaf = jsonb_leaf;
	return aud_match_eval(site, rule, &doc.doc);
}

/* SQL: jsonb |= rule */
Datum
aud_jsonb_match(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(match_jsonb(fcinfo, 0, 1, false));
}

/* SQL: rule =| jsonb */
Datum
aud_jsonb_match_commutator(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(match_jsonb(fcinfo, 1, 0, false));
}

/* SQL: rule_holds(jsonb, rule) */
Datum
aud_rule_holds(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(match_jsonb(fcinfo, 0, 1, true));
}

/* SQL: record |= rule, and the recheck that the planner puts in its place */
Datum
aud_row_match(PG_FUNCTION_ARGS)
{
	const AudRule *rule;
	AudMatchSite *site = aud_match_site(fcinfo, 1, false, &rule);

	PG_RETURN_BOOL(aud_match_row(site, rule, PG_GETARG_HEAPTUPLEHEADER(0)));
}

/* SQL: rule =| record */
Datum
aud_row_match_commutator(PG_FUNCTION_ARGS)
{
	const AudRule *rule;
	AudMatchSite *site = aud_match_site(fcinfo, 0, false, &rule);

	PG_RETURN_BOOL(aud_match_row(site, rule, PG_GETARG_HEAPTUPLEHEADER(1)));
}
