/*-------------------------------------------------------------------------
 *
 * rules.c
 *	  Targets: rules as text, in binary, as jsonb; keys and paths; documents.
 *
 * What is read goes through everything that can be done with a rule: printed
 * in each of its forms and read again, it must be the same; evaluated over
 * documents, it must not raise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"

#include "eval.h"
#include "eval_op.h"
#include "fuzz.h"
#include "rule_parse.h"

extern Datum aud_rule_recv(PG_FUNCTION_ARGS);
extern Datum aud_rule_send(PG_FUNCTION_ARGS);
extern Datum aud_rule_to_jsonb(PG_FUNCTION_ARGS);
extern Datum aud_rule_aggregates(PG_FUNCTION_ARGS);

/* documents for every rule */
static const char *const documents[] = {
	"{}", "null", "[]", "0", "\"a\"",
	("{\"a\": 1, \"b\": \"x\", \"c\": [1, \"x\", null, {\"a\": [2]}], \"amount\": 10.50,"
	 " \"country\": \"US\", \"name\": \"Ann\\u00e9\", \"at\": \"2026-11-20T09:38:00Z\", \"version\": \"1.2.3\"}")
};

/* The canonical JSON of a rule. */
static StringInfoData
json_of(const AudRule *rule)
{
	StringInfoData buf;

	initStringInfo(&buf);
	aud_rule_append_json(&buf, rule, AUD_RULE_ROOT(rule));
	return buf;
}

/* Is it the same rule, by form, by print and by hash? */
static void
check_same(const AudRule *rule, const StringInfoData *json, const AudRule *other, const char *way)
{
	StringInfoData printed;

	fuzz_check(other != NULL, "%s is not accepted again: %s", way, json->data);
	printed = json_of(other);
	fuzz_check(strcmp(printed.data, json->data) == 0, "%s gives another rule:\n%s\n%s",
			   way, json->data, printed.data);
	fuzz_check(aud_node_equal(rule, AUD_RULE_ROOT(rule), other, AUD_RULE_ROOT(other)),
			   "%s gives a rule of another form: %s", way, json->data);
	fuzz_check(aud_node_hash(rule, AUD_RULE_ROOT(rule)) == aud_node_hash(other, AUD_RULE_ROOT(other)),
			   "%s gives a rule of another hash: %s", way, json->data);
	fuzz_check(rule->needs == other->needs && rule->depth == other->depth && rule->nleaves == other->nleaves,
			   "%s gives a rule of other needs: %s", way, json->data);
}

/* AudDoc.leaf: an event's filters are evaluated over an event with the document's members. */
static bool
leaf_holds(AudDoc *doc, const AudRule *rule, const AudNode *node)
{
	AudEventDoc event;
	Jsonb	   *members = (Jsonb *) ((AudJsonbDoc *) doc)->root.val.binary.data;
	bool		result = false;

	if (node->kind == AUD_NODE_SAMPLE)
		return aud_sample_holds(rule, node, "ann", 3);
	if (node->kind == AUD_NODE_SEGMENT)
		return (node->flags & AUD_NEGATED) != 0;
	if (((AudJsonbDoc *) doc)->root.type == jbvBinary)
		members = (Jsonb *) ((char *) members - VARHDRSZ);
	else
		members = NULL;
	aud_event_doc_init(&event, &doc->clock, "purchase", 8, doc->clock.now, "id", 2, members, members);
	for (uint32 i = 1; i < node->nnodes; i += 1)
	{
		const AudNode *at = &node[i];

		/* the filters' nodes are predicates and groups; steps hold filters */
		if (at->kind == AUD_NODE_STEP)
			continue;
		result ^= aud_eval_node(rule, at, &event.doc);
	}
	if (node->path != 0)
	{
		JsonbValue	room;

		(void) aud_path_collect(rule, AUD_NODE_PATH(rule, node), 0, &event.properties, &room);
	}
	return result;
}

/* Evaluates a rule over a document, by each of the ways there are. */
static void
check_evaluation(const AudRule *rule, Jsonb *document)
{
	AudClock	clock = fuzz_clock();
	AudJsonbDoc doc;
	bool		first;

	aud_jsonb_doc_init(&doc, document, &clock);
	doc.doc.leaf = leaf_holds;
	fuzz_silent = "evaluation";
	first = aud_eval_rule(rule, &doc.doc);
	fuzz_check(first == aud_eval_rule(rule, &doc.doc), "evaluation is not stable");
	/* prepared or not is the same */
	for (uint32 i = 0; i < rule->nnodes && i < 200; i++)
	{
		const AudNode *node = &rule->nodes[i];
		const AudPath *path;
		AudLeafPrepared *prepared;
		AudLeafPrepared *once;
		bool		holds;
		TimestampTz due = PG_INT64_MAX;

		if (node->kind != AUD_NODE_FIELD)
			continue;
		path = AUD_NODE_PATH(rule, node);
		if (path->root != AUD_ROOT_DOCUMENT)
			continue;
		once = aud_leaf_prepare(rule, node, false);
		prepared = aud_leaf_prepare(rule, node, true);
		holds = aud_path_holds(rule, node, path, 0, &doc.root, &clock);
		fuzz_check(holds == aud_path_holds_prepared(rule, node, prepared, path, 0, &doc.root, &clock),
				   "a leaf that is prepared for long holds otherwise");
		fuzz_check(holds == aud_path_holds_prepared(rule, node, once, path, 0, &doc.root, &clock),
				   "a leaf that is prepared holds otherwise");
		if (AUD_OP_IS_RELATIVE_TIME(node->op) && !path->has_each)
		{
			JsonbValue	room;
			const JsonbValue *value = aud_path_value(rule, path, 0, &doc.root, &room);

			aud_value_next_turn(rule, node, value, &clock, &due);
			if (due < PG_INT64_MAX && due > clock.now + 1)
			{
				AudClock	later = clock;

				/* nothing turns before it says so */
				later.now = due - 1;
				fuzz_check(holds == aud_path_holds(rule, node, path, 0, &doc.root, &later),
						   "a leaf turns over before its time");
			}
		}
		/* what is prepared for long goes with its context */
		if (once != NULL)
			aud_leaf_prepared_free(once, node, rule);
	}
	fuzz_silent = NULL;
}

/* All that must hold of a rule. */
static void
check_rule(AudRule *rule)
{
	StringInfoData json;
	StringInfoData text;
	StringInfoData wire;
	StringInfoData again;
	AudRuleError error;
	bytea	   *sent;
	AudRule    *other;

	fuzz_silent = "printing a rule and reading it again";
	json = json_of(rule);
	/* as long as it may be, and still longer in its canonical form, it may not come back */
	if (json.len <= AUD_MAX_BYTES)
	{
		check_same(rule, &json, aud_rule_parse_soft(json.data, json.len, false, &error), "JSON");
		sent = DatumGetByteaPP(DirectFunctionCall1(aud_rule_send, PointerGetDatum(rule)));
		initStringInfo(&wire);
		appendBinaryStringInfo(&wire, VARDATA_ANY(sent), VARSIZE_ANY_EXHDR(sent));
		check_same(rule, &json, DatumGetAudRuleP(DirectFunctionCall1(aud_rule_recv, PointerGetDatum(&wire))),
				   "the binary form");
		other = aud_rule_parse_jsonb_soft(DatumGetJsonbP(DirectFunctionCall1(aud_rule_to_jsonb,
																			  PointerGetDatum(rule))),
										  &error);
		check_same(rule, &json, other, "jsonb");
	}

	initStringInfo(&text);
	aud_rule_append_text(&text, rule, AUD_RULE_ROOT(rule));
	if (text.len <= AUD_MAX_BYTES)
	{
		other = aud_rule_parse_soft(text.data, text.len, false, &error);
		fuzz_check(other != NULL, "the text form is not accepted: %s at %s: %s", error.problem,
				   error.location ? error.location : "-", text.data);
		check_same(rule, &json, other, "the text form");
		initStringInfo(&again);
		aud_rule_append_text(&again, other, AUD_RULE_ROOT(other));
		fuzz_check(strcmp(text.data, again.data) == 0, "the text form is not stable: %s", text.data);
	}
	check_same(rule, &json, aud_rule_extract(rule, AUD_RULE_ROOT(rule), false), "aud_rule_extract");
	/* of each leaf of events, the key of its state */
	for (uint32 i = 0; i < rule->nnodes && i < 200; i++)
	{
		const AudNode *node = &rule->nodes[i];

		if (node->kind != AUD_NODE_EVENT && node->kind != AUD_NODE_SEQUENCE)
			continue;
		other = aud_rule_extract(rule, node, true);
		fuzz_check(aud_node_identity_equal(rule, node, other, AUD_RULE_ROOT(other)) &&
				   aud_node_identity_hash(rule, node) == aud_node_identity_hash(other, AUD_RULE_ROOT(other)),
				   "the identity of a node is not that of its extract: %s", json.data);
	}
	fuzz_silent = NULL;
}

/* A rule over the documents that every rule sees, and one more (may be empty). */
static void
check_documents(const AudRule *rule, const FuzzPiece *document)
{
	for (size_t i = 0; i < lengthof(documents); i++)
		check_evaluation(rule, fuzz_jsonb(documents[i]));
	if (document->len > 0)
		check_evaluation(rule, fuzz_jsonb(document->data));
}

/*
 * What rule_validate says of a text is what reading it does; the rule, or
 * NULL.
 */
static AudRule *
read_rule(const char *text, int len, bool json_only)
{
	AudRuleError error;
	AudRule    *rule;

	fuzz_silent = "rule_validate";
	rule = aud_rule_parse_soft(text, len, json_only, &error);
	fuzz_silent = NULL;
	fuzz_check((rule == NULL) == (error.sqlerrcode != 0), "a rule and an error, or neither");
	if (rule == NULL)
	{
		fuzz_check(error.sqlerrcode == ERRCODE_INVALID_TEXT_REPRESENTATION ||
				   error.sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
				   error.sqlerrcode == ERRCODE_STATEMENT_TOO_COMPLEX,
				   "unexpected SQLSTATE %s: %s", unpack_sql_state(error.sqlerrcode), error.problem);
		fuzz_check(error.problem != NULL, "no word of what is wrong");
		fuzz_check(pg_encoding_verifymbstr(GetDatabaseEncoding(), error.problem, strlen(error.problem)) ==
				   (int) strlen(error.problem), "what is wrong is not valid in the encoding");
		fuzz_check(error.location == NULL ||
				   pg_encoding_verifymbstr(GetDatabaseEncoding(), error.location, strlen(error.location)) ==
				   (int) strlen(error.location), "the location is not valid in the encoding");
	}
	return rule;
}

/* Pieces: a rule in either form, a document. */
static void
run_rule(const FuzzInput *input)
{
	AudRule    *rule = read_rule(input->pieces[0].data, input->pieces[0].len, false);

	if (rule == NULL)
		return;
	check_rule(rule);
	check_documents(rule, &input->pieces[1]);
}

/* The whole input: a rule in binary. */
static void
run_recv(const FuzzInput *input)
{
	StringInfoData wire;
	AudRule    *rule;

	initStringInfo(&wire);
	appendBinaryStringInfo(&wire, input->data, input->len);
	rule = DatumGetAudRuleP(DirectFunctionCall1(aud_rule_recv, PointerGetDatum(&wire)));
	check_rule(rule);
}

/* Pieces: a rule as jsonb, a document. */
static void
run_jsonb(const FuzzInput *input)
{
	Jsonb	   *json = fuzz_jsonb(input->pieces[0].data);
	AudRuleError error;
	AudRule    *rule;
	AudRule    *read;

	fuzz_silent = "rule_validate of jsonb";
	rule = aud_rule_parse_jsonb_soft(json, &error);
	fuzz_silent = NULL;
	read = read_rule(input->pieces[0].data, input->pieces[0].len, true);
	/* what is strict about JSON's text may be lost in jsonb, but not the reverse */
	if (read != NULL)
	{
		StringInfoData printed = json_of(read);

		check_same(read, &printed, rule, "jsonb of the input");
	}
	if (rule == NULL)
		return;
	check_rule(rule);
	check_documents(rule, &input->pieces[1]);
}

/* Pieces: a path, a document; in JSON and in the text form. */
static void
run_path(const FuzzInput *input)
{
	const FuzzPiece *path = &input->pieces[0];
	StringInfoData text;
	AudRule    *rule;

	initStringInfo(&text);
	appendStringInfoString(&text, "{\"operator\": \"exists\", \"field\": ");
	escape_json(&text, path->data);
	appendStringInfoChar(&text, '}');
	rule = read_rule(text.data, text.len, false);
	if (rule != NULL)
	{
		check_rule(rule);
		check_documents(rule, &input->pieces[1]);
	}
	resetStringInfo(&text);
	appendStringInfo(&text, "count(purchase where %s exists) > 1 and sum(%s of \"*\") > 2",
					 path->data, path->data);
	rule = read_rule(text.data, text.len, false);
	if (rule != NULL)
		check_rule(rule);
	resetStringInfo(&text);
	appendStringInfo(&text, "%s exists", path->data);
	rule = read_rule(text.data, text.len, false);
	if (rule != NULL)
	{
		check_rule(rule);
		check_documents(rule, &input->pieces[1]);
	}
}

/*
 * Pieces: an operator, a value, a document: a leaf over "a" of the document,
 * with and without ci.  Where the mutator has no need to keep a whole rule
 * together it comes deeper into the operators.
 */
static void
run_operator(const FuzzInput *input)
{
	for (int ci = 0; ci < 2; ci++)
	{
		StringInfoData text;
		AudRule    *rule;

		initStringInfo(&text);
		appendStringInfoString(&text, "{\"field\": \"a[*]\", \"operator\": ");
		escape_json(&text, input->pieces[0].data);
		if (input->pieces[1].len > 0)
			appendStringInfo(&text, ", \"value\": %s", input->pieces[1].data);
		appendStringInfoString(&text, ci ? ", \"ci\": true}" : "}");
		rule = read_rule(text.data, text.len, false);
		if (rule == NULL)
			continue;
		check_rule(rule);
		if (input->pieces[2].len > 0)
		{
			StringInfoData document;

			check_evaluation(rule, fuzz_jsonb(input->pieces[2].data));
			initStringInfo(&document);
			appendStringInfo(&document, "{\"a\": [%s]}", input->pieces[2].data);
			check_evaluation(rule, fuzz_jsonb(document.data));
		}
	}
}

const FuzzTarget fuzz_rule_targets[] = {
	{"rule", run_rule},
	{"recv", run_recv},
	{"jsonb", run_jsonb},
	{"path", run_path},
	{"operator", run_operator},
	{NULL}
};
