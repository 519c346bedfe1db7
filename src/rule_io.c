/*-------------------------------------------------------------------------
 *
 * rule_io.c
 *	  What SQL calls to bring rules in and out.
 *
 * In binary a rule is a version byte and its canonical JSON in the client's
 * encoding (rule.h says why).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "rule_parse.h"

/* the version of the binary protocol's form */
#define WIRE_VERSION			1

PG_FUNCTION_INFO_V1(aud_rule_in);
PG_FUNCTION_INFO_V1(aud_rule_out);
PG_FUNCTION_INFO_V1(aud_rule_recv);
PG_FUNCTION_INFO_V1(aud_rule_send);
PG_FUNCTION_INFO_V1(aud_rule_from_jsonb);
PG_FUNCTION_INFO_V1(aud_rule_to_jsonb);
PG_FUNCTION_INFO_V1(aud_rule_validate_text);
PG_FUNCTION_INFO_V1(aud_rule_validate_jsonb);
PG_FUNCTION_INFO_V1(aud_rule_expression);

/* Appends the canonical JSON of a rule to a new buffer. */
static void
print_rule(StringInfo buf, const AudRule *rule)
{
	initStringInfo(buf);
	aud_rule_append_json(buf, rule, AUD_RULE_ROOT(rule));
}

/* rule_in(cstring) -> rule */
Datum
aud_rule_in(PG_FUNCTION_ARGS)
{
	char	   *input = PG_GETARG_CSTRING(0);

	PG_RETURN_AUDRULE_P(aud_rule_parse(input, strlen(input)));
}

/* rule_out(rule) -> cstring */
Datum
aud_rule_out(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	print_rule(&buf, PG_GETARG_AUDRULE_P(0));
	PG_RETURN_CSTRING(buf.data);
}

/* rule_recv(internal) -> rule */
Datum
aud_rule_recv(PG_FUNCTION_ARGS)
{
	StringInfo	buf = (StringInfo) PG_GETARG_POINTER(0);
	int			version;
	int			len;
	char	   *text;

	if (buf->cursor >= buf->len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("rule has no version number")));
	version = pq_getmsgbyte(buf);
	if (version != WIRE_VERSION)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("unsupported rule version number %d", version)));

	/* what is not text at all is told apart before it is converted */
	len = buf->len - buf->cursor;
	if (pg_encoding_verifymbstr(pg_get_client_encoding(),
								buf->data + buf->cursor, len) != len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid rule"),
				 errdetail("The bytes are not valid in encoding \"%s\".",
						   pg_get_client_encoding_name())));
	text = pq_getmsgtext(buf, len, &len);
	PG_RETURN_AUDRULE_P(aud_rule_parse_json(text, len));
}

/* rule_send(rule) -> bytea */
Datum
aud_rule_send(PG_FUNCTION_ARGS)
{
	StringInfoData text;
	StringInfoData buf;

	print_rule(&text, PG_GETARG_AUDRULE_P(0));
	pq_begintypsend(&buf);
	pq_sendint8(&buf, WIRE_VERSION);
	pq_sendtext(&buf, text.data, text.len);
	PG_RETURN_BYTEA_P(pq_endtypsend(&buf));
}

/* rule(jsonb) -> rule: the cast */
Datum
aud_rule_from_jsonb(PG_FUNCTION_ARGS)
{
	PG_RETURN_AUDRULE_P(aud_rule_parse_jsonb(PG_GETARG_JSONB_P(0)));
}

/* jsonb(rule) -> jsonb: the cast, to the canonical JSON */
Datum
aud_rule_to_jsonb(PG_FUNCTION_ARGS)
{
	StringInfoData buf;

	print_rule(&buf, PG_GETARG_AUDRULE_P(0));
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in, CStringGetDatum(buf.data)));
}

/* The row (valid, error, location) that rule_validate returns. */
static Datum
validation_result(FunctionCallInfo fcinfo, const AudRuleError *error)
{
	TupleDesc	tupdesc;
	Datum		values[3];
	bool		nulls[3] = {false, true, true};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	values[0] = BoolGetDatum(error->sqlerrcode == 0);
	if (error->sqlerrcode != 0)
	{
		const char *problem = error->problem;

		/* of a limit the message says more than the detail */
		if (error->message != NULL)
			problem = psprintf("%s: %s", error->message, error->problem);
		values[1] = CStringGetTextDatum(problem);
		nulls[1] = false;
	}
	if (error->location != NULL)
	{
		values[2] = CStringGetTextDatum(error->location);
		nulls[2] = false;
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls));
}

/* rule_validate(text) -> (valid, error, location) */
Datum
aud_rule_validate_text(PG_FUNCTION_ARGS)
{
	text	   *input = PG_GETARG_TEXT_PP(0);
	char	   *copy = text_to_cstring(input);
	AudRuleError error;

	(void) aud_rule_parse_soft(copy, strlen(copy), false, &error);
	PG_RETURN_DATUM(validation_result(fcinfo, &error));
}

/* rule_validate(jsonb) -> (valid, error, location) */
Datum
aud_rule_validate_jsonb(PG_FUNCTION_ARGS)
{
	AudRuleError error;

	(void) aud_rule_parse_jsonb_soft(PG_GETARG_JSONB_P(0), &error);
	PG_RETURN_DATUM(validation_result(fcinfo, &error));
}

/*
 * rule_expression(rule) -> text: the text form.  Doubled quotes can make it
 * longer than a rule may be; then 54000, as it could not be read again.
 */
Datum
aud_rule_expression(PG_FUNCTION_ARGS)
{
	AudRule    *rule = PG_GETARG_AUDRULE_P(0);
	StringInfoData buf;

	initStringInfo(&buf);
	aud_rule_append_text(&buf, rule, AUD_RULE_ROOT(rule));
	if (buf.len > AUD_MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rule is too large for the text form"),
				 errdetail("It has %d bytes, the limit is %d.", buf.len, AUD_MAX_BYTES)));
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, buf.len));
}
