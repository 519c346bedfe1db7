/*-------------------------------------------------------------------------
 *
 * bounds.c
 *	  What a definition, a user or a statement may cost at the most.
 *
 * A definition costs everyone: each session that ingests loads it, and each
 * user it may concern is judged by it.  So what segments and traits are made of
 * is held to the settings audience.max_... here, when it is entered.  A rule that a
 * session makes for itself costs that session, and is held to the type's own
 * limits only.
 *
 * What a regular expression costs is told by its automaton.  Matching takes at
 * most as many steps as the text has characters, each of which looks at all of
 * the automaton's states in the worst case; but with lookaround the text is
 * gone through again at each character, and with back references PostgreSQL
 * tries one way after the other.  Hence audience.linear_regex.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "regex/regexport.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "bounds.h"
#include "compat.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(aud_limit_rule);
PG_FUNCTION_INFO_V1(aud_limit_users);
PG_FUNCTION_INFO_V1(aud_limit_definitions);
PG_FUNCTION_INFO_V1(aud_limit_attributes);

/* Refuses a rule: it has so much of something that a setting limits. */
pg_noreturn static void
refuse_rule(int sqlerrcode, const char *message, const char *what, int64 value,
			const char *setting)
{
	ereport(ERROR,
			(errcode(sqlerrcode),
			 errmsg_internal("%s", message),
			 errdetail("%s " INT64_FORMAT "; \"%s\" is %s.", what, value, setting,
					   GetConfigOptionByName(setting, NULL, false)),
			 errhint("A superuser can raise the setting, up to what rules may be at all.")));
}

/* The beginning of a pattern, for messages; palloc'ed. */
static char *
excerpt(const AudValue *pattern)
{
	const char *text = AUD_VALUE_TEXT_PTR(pattern);

	if (pattern->len <= 60)
		return pnstrdup(text, pattern->len);
	return psprintf("%s...", pnstrdup(text, pg_mbcliplen(text, pattern->len, 60)));
}

/*
 * Refuses a regular expression whose automaton is too large, or which takes more
 * than linear time.  It was compiled before, when the rule was made.
 */
static void
check_regex(const AudValue *pattern, bool ignore_case)
{
	pg_wchar   *wide = palloc((pattern->len + 1) * sizeof(pg_wchar));
	int			len = pg_mb2wchar_with_len(AUD_VALUE_TEXT_PTR(pattern), wide, pattern->len);
	regex_t		regex;
	int			nstates;
	bool		linear;

	if (pg_regcomp(&regex, wide, len,
				   REG_ADVANCED | REG_NOSUB | (ignore_case ? REG_ICASE : 0),
				   DEFAULT_COLLATION_OID) != REG_OKAY)
	{
		/* it was valid a moment ago: there is no memory, or a cancel came */
		CHECK_FOR_INTERRUPTS();
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not compile regular expression \"%s\"", excerpt(pattern))));
	}
	nstates = pg_reg_getnumstates(&regex);
	linear = (regex.re_info & (REG_UBACKREF | REG_ULOOKAROUND)) == 0;
	pg_regfree(&regex);
	pfree(wide);

	if (nstates > aud_max_regex_states)
		refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "regular expression is too complex",
					psprintf("The number of states of \"%s\" is", excerpt(pattern)),
					nstates, "audience.max_regex_states");
	if (aud_linear_regex && !linear)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("regular expression may take too long"),
				 errdetail("\"%s\" has back references, lookahead or lookbehind; \"audience.linear_regex\" is on.",
						   excerpt(pattern))));
}

/* Refuses a constant of a leaf that is too long a list, or has too long a pattern. */
static void
check_value(const AudRule *rule, const AudNode *leaf)
{
	const AudValue *value = AUD_NODE_VALUE(rule, leaf);
	bool		is_list = value->type == AUD_VALUE_LIST;
	bool		is_regex = leaf->op == AUD_OP_REGEX || leaf->op == AUD_OP_IREGEX;

	if (is_list && (int) value->len > aud_max_list_length)
		refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "list in a rule is too long",
					"Its number of values is", value->len, "audience.max_list_length");
	if (!is_regex && leaf->op != AUD_OP_LIKE && leaf->op != AUD_OP_ILIKE &&
		leaf->op != AUD_OP_CONTAINS)
		return;
	for (uint32 i = 0; i < (is_list ? value->len : 1); i++)
	{
		const AudValue *item = is_list ? AUD_VALUE_ITEM(rule, value, i) : value;

		CHECK_FOR_INTERRUPTS();
		if (item->type != AUD_VALUE_TEXT)
			continue;
		if ((int) item->len > aud_max_pattern_length)
			refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "pattern in a rule is too long",
						"Its number of bytes is", item->len, "audience.max_pattern_length");
		if (is_regex)
			check_regex(item, leaf->op == AUD_OP_IREGEX);
	}
}

/* The bytes of a rule's canonical form. */
static int
canonical_size(const AudRule *rule)
{
	StringInfoData buf;
	int			result;

	initStringInfo(&buf);
	aud_rule_append_json(&buf, rule, AUD_RULE_ROOT(rule));
	result = buf.len;
	pfree(buf.data);
	return result;
}

/* Refuses (54000, 54001) a rule that costs more than a definition's may. */
void
aud_bounds_check_rule(const AudRule *rule)
{
	int			size;

	if (rule->depth > aud_max_rule_depth)
		refuse_rule(ERRCODE_STATEMENT_TOO_COMPLEX, "rule is nested too deeply",
					"Its depth is", rule->depth, "audience.max_rule_depth");
	if ((int) rule->nleaves > aud_max_rule_conditions)
		refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "rule has too many conditions",
					"Their number is", rule->nleaves, "audience.max_rule_conditions");
	size = canonical_size(rule);
	if (size > aud_max_rule_size * 1024)
		refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "rule is too large",
					"Its number of bytes is", size, "audience.max_rule_size");
	for (uint32 i = 0; i < rule->nnodes; i++)
	{
		const AudNode *node = &rule->nodes[i];

		CHECK_FOR_INTERRUPTS();
		if (node->kind == AUD_NODE_SEQUENCE && (int) node->nchildren > aud_max_sequence_steps)
			refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "sequence has too many steps",
						"Their number is", node->nchildren, "audience.max_sequence_steps");
		if (node->names != 0 && (int) AUD_NODE_NAMES(rule, node)->nnames > aud_max_list_length)
			refuse_rule(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "list in a rule is too long",
						"Its number of event types is", AUD_NODE_NAMES(rule, node)->nnames,
						"audience.max_list_length");
		if (node->value != 0)
			check_value(rule, node);
	}
}

/* Refuses (54000) a statement that brings so many events. */
void
aud_bounds_check_events(int64 n)
{
	if (likely(aud_max_statement_events == 0 || n <= aud_max_statement_events))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("statement has too many events"),
			 errdetail("\"audience.max_statement_events\" is %d.", aud_max_statement_events),
			 errhint("Insert them by several statements.")));
}

/*
 * Refuses (54000) a statement whose events of one user take so much memory: all
 * of them are in it at once, as they make one net transition.
 */
void
aud_bounds_check_user_events(const char *user_id, Size bytes)
{
	if (likely(bytes <= (Size) aud_max_user_events_size * 1024))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("statement has too many events of one user"),
			 errdetail("Those of user \"%s\" take more memory than \"audience.max_user_events_size\", which is %s.",
					   user_id, GetConfigOptionByName("audience.max_user_events_size", NULL, false)),
			 errhint("Insert them by several statements.")));
}

/*
 * Refuses (54000) attributes that are too large, and larger than they were before
 * (NULL: there were none).
 */
void
aud_bounds_check_attributes(const char *user_id, const Jsonb *attributes, const Jsonb *before)
{
	Size		size = VARSIZE(attributes);

	if (likely(size <= (Size) aud_max_attributes_size * 1024) ||
		(before != NULL && size <= VARSIZE(before)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("attributes of a user are too large"),
			 errdetail("Those of user \"%s\" would have %zu bytes; \"audience.max_attributes_size\" is %s.",
					   user_id, size, GetConfigOptionByName("audience.max_attributes_size", NULL, false))));
}

/* limit_rule(rule): refuses a rule that no segment or trait may be made of. */
Datum
aud_limit_rule(PG_FUNCTION_ARGS)
{
	aud_bounds_check_rule(PG_GETARG_AUDRULE_P(0));
	PG_RETURN_VOID();
}

/* limit_users(n): refuses a call for so many users. */
Datum
aud_limit_users(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(0);

	if (n > aud_max_call_users)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("call is for too many users"),
				 errdetail("Their number is %d; \"audience.max_call_users\" is %d.",
						   n, aud_max_call_users),
				 errhint("Make several calls.")));
	PG_RETURN_VOID();
}

/* limit_definitions(kind, n): refuses to have so many traits, segments or aggregates. */
Datum
aud_limit_definitions(PG_FUNCTION_ARGS)
{
	char	   *kind = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		n = PG_GETARG_INT64(1);
	char	   *setting = psprintf("audience.max_%s", kind);
	int			limit = strcmp(kind, "segments") == 0 ? aud_max_segments :
		strcmp(kind, "traits") == 0 ? aud_max_traits : aud_max_aggregates;

	if (n > limit)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("there are too many %s", kind),
				 errdetail("There would be " INT64_FORMAT "; \"%s\" is %d.", n, setting, limit),
				 strcmp(kind, "aggregates") == 0 ?
				 errhint("Each different question that rules and traits ask of events is an aggregate.") : 0));
	PG_RETURN_VOID();
}

/* limit_attributes(user_id, attributes, before): see aud_bounds_check_attributes. */
Datum
aud_limit_attributes(PG_FUNCTION_ARGS)
{
	aud_bounds_check_attributes(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								PG_GETARG_JSONB_P(1), PG_GETARG_JSONB_P(2));
	PG_RETURN_VOID();
}
