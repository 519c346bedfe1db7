/*-------------------------------------------------------------------------
 *
 * rule_parse.c
 *	  The entry points for reading rules, and the failures they report.
 *
 * The way from text to a rule is drawn in rule_parse.h.  It runs in a memory
 * context of its own, so that what it builds on the way needs no care; only
 * the flat rule or the error's texts leave it.
 *
 * A place in the input is a JSON pointer, a character, or a character inside
 * an "expr" (SPEC 2.1).  It is derived from the AudJson that is at fault:
 * going up from it, the first value with an offset stands in a text form, and
 * the first one without that holds this text form.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "compat.h"
#include "rule_parse.h"

/* Appends one key of a JSON pointer, escaped as RFC 6901 says. */
static void
append_pointer_key(StringInfo buf, const char *key)
{
	appendStringInfoChar(buf, '/');
	for (; *key != '\0'; key++)
	{
		if (*key == '~')
			appendStringInfoString(buf, "~0");
		else if (*key == '/')
			appendStringInfoString(buf, "~1");
		else
			appendStringInfoChar(buf, *key);
	}
}

/*
 * Appends the JSON pointer of a value; nothing for the root.  Recursion is
 * bounded by AUD_MAX_JSON_NESTING.
 */
static void
append_pointer(StringInfo buf, const AudJson *json)
{
	if (json->parent == NULL)
		return;
	append_pointer(buf, json->parent);
	if (json->key != NULL)
		append_pointer_key(buf, json->key);
	else
		appendStringInfo(buf, "/%d", json->index);
}

/* The place of a byte of the text form held by "holder" (NULL: the input). */
static char *
character_location(AudParse *parse, const AudJson *holder, int offset)
{
	const char *text = holder ? holder->text : parse->input;
	int			character = pg_mbstrlen_with_len(text, offset) + 1;
	StringInfoData buf;

	initStringInfo(&buf);
	if (holder != NULL)
	{
		append_pointer(&buf, holder);
		appendStringInfoString(&buf, ", ");
	}
	appendStringInfo(&buf, "character %d", character);
	return buf.data;
}

/* The place of a value of the input, as stands after "At "; palloc'ed. */
static char *
json_location(AudParse *parse, const AudJson *json)
{
	StringInfoData buf;

	if (json->offset >= 0)
	{
		const AudJson *holder = json;

		while (holder != NULL && holder->offset >= 0)
			holder = holder->parent;
		return character_location(parse, holder, json->offset);
	}

	initStringInfo(&buf);
	append_pointer(&buf, json);
	if (buf.len == 0)
		appendStringInfoString(&buf, "the root");
	return buf.data;
}

/* Records a failure if it is the first; "location" and the rest are kept. */
static void
record_failure(AudParse *parse, int sqlerrcode, const char *message,
			   const char *location, const char *problem)
{
	if (parse->error->sqlerrcode != 0)
		return;
	parse->error->sqlerrcode = sqlerrcode;
	parse->error->message = message;
	parse->error->location = location;
	parse->error->problem = problem;
	parse->error->hint = NULL;
}

static char *format_problem(const char *format, va_list args) pg_attribute_printf(1, 0);

/* Formats a failure's text; palloc'ed. */
static char *
format_problem(const char *format, va_list args)
{
	StringInfoData buf;
	int			save_errno = errno;

	initStringInfo(&buf);
	for (;;)
	{
		va_list		copy;
		int			needed;

		va_copy(copy, args);
		errno = save_errno;
		needed = appendStringInfoVA(&buf, format, copy);
		va_end(copy);
		if (needed == 0)
			return buf.data;
		enlargeStringInfo(&buf, needed);
	}
}

/*
 * Records what is wrong with a value of the input; only the first failure of
 * a parse counts.  The text is a clause: lower case, no period.
 */
void
aud_rule_fail(AudParse *parse, const AudJson *where, const char *format,...)
{
	va_list		args;
	char	   *problem;

	va_start(args, format);
	problem = format_problem(format, args);
	va_end(args);
	record_failure(parse, ERRCODE_INVALID_TEXT_REPRESENTATION, NULL,
				   json_location(parse, where), problem);
}

/*
 * As aud_rule_fail, for a byte of the text form in "holder", or of the input
 * if that is NULL.
 */
void
aud_rule_fail_at(AudParse *parse, const AudJson *holder, int offset,
				 const char *format,...)
{
	va_list		args;
	char	   *problem;

	va_start(args, format);
	problem = format_problem(format, args);
	va_end(args);
	record_failure(parse, ERRCODE_INVALID_TEXT_REPRESENTATION, NULL,
				   character_location(parse, holder, offset), problem);
}

/*
 * Records that a limit is exceeded.  "message" is a primary message, "detail"
 * a sentence.
 */
void
aud_rule_fail_limit(AudParse *parse, int sqlerrcode,
					const char *message, const char *detail)
{
	record_failure(parse, sqlerrcode, message, NULL, detail);
}

/* Adds a hint, a sentence, to the failure just recorded. */
void
aud_rule_hint(AudParse *parse, const char *hint)
{
	if (parse->error->hint == NULL)
		parse->error->hint = hint;
}

/* Is this byte blank, in JSON and the text form alike? */
static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Is the input JSON, and not the text form (SPEC 2.1)? */
static bool
looks_like_json(const char *input, int len)
{
	while (len > 0 && is_blank(input[0]))
	{
		input++;
		len--;
	}
	while (len > 0 && is_blank(input[len - 1]))
		len--;
	return (len > 0 && input[0] == '{') ||
		(len == 4 && memcmp(input, "true", 4) == 0) ||
		(len == 5 && memcmp(input, "false", 5) == 0);
}

/*
 * The rule's canonical form must be one that can be read again, so it obeys
 * the limit of the input too.
 */
static bool
check_output_size(AudParse *parse, const AudRule *rule)
{
	StringInfoData buf;

	initStringInfo(&buf);
	aud_rule_append_json(&buf, rule, AUD_RULE_ROOT(rule));
	if (buf.len <= AUD_MAX_BYTES)
		return true;
	aud_rule_fail_limit(parse, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						"rule is too large",
						psprintf("Its canonical form has %d bytes, the limit is %d.",
								 buf.len, AUD_MAX_BYTES));
	return false;
}

/* What aud_rule_parse_soft does inside its memory context. */
static AudRule *
parse_input(AudParse *parse, bool json_only)
{
	const AudJson *json;
	AudItem    *item;
	AudRule    *rule;

	if (parse->len > AUD_MAX_BYTES)
	{
		aud_rule_fail_limit(parse, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							"rule is too large",
							psprintf("It has %d bytes, the limit is %d.",
									 parse->len, AUD_MAX_BYTES));
		return NULL;
	}

	if (json_only || looks_like_json(parse->input, parse->len))
		json = aud_json_read(parse, parse->input, parse->len, NULL);
	else
		json = aud_rule_read_text(parse, parse->input, parse->len, NULL);
	if (json == NULL)
		return NULL;

	item = aud_rule_read(parse, json, 1, false);
	if (item == NULL)
		return NULL;

	rule = aud_rule_build(item);
	if (!check_output_size(parse, rule))
		return NULL;
	return rule;
}

/* A copy of a string in the current context; NULL stays NULL. */
static const char *
copy_string(const char *s)
{
	return s ? pstrdup(s) : NULL;
}

/*
 * Reads a rule in either form, or with json_only in JSON alone.  NULL and
 * *error filled if it is not one.  Result and error are palloc'ed in the
 * current context.
 */
AudRule *
aud_rule_parse_soft(const char *input, int len, bool json_only,
					AudRuleError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	AudParse	parse;
	AudRule    *rule;

	memset(error, 0, sizeof(AudRuleError));
	parse.input = input;
	parse.len = len;
	parse.nleaves = 0;
	parse.ndigits = 0;
	parse.error = error;

	context = AllocSetContextCreate(caller, "audience rule input",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	rule = parse_input(&parse, json_only);
	MemoryContextSwitchTo(caller);

	Assert((rule == NULL) == (error->sqlerrcode != 0));
	if (rule != NULL)
	{
		AudRule    *copy = palloc(VARSIZE(rule));

		memcpy(copy, rule, VARSIZE(rule));
		rule = copy;
	}
	else
	{
		error->message = copy_string(error->message);
		error->location = copy_string(error->location);
		error->problem = copy_string(error->problem);
		error->hint = copy_string(error->hint);
	}
	MemoryContextDelete(context);
	return rule;
}

/*
 * Reads a rule from jsonb: its JSON form, or a string that holds a rule in
 * either form.  Otherwise as aud_rule_parse_soft.
 *
 * The jsonb is printed and read again: one reader has all checks, and its
 * pointers are those of the jsonb.
 */
AudRule *
aud_rule_parse_jsonb_soft(Jsonb *input, AudRuleError *error)
{
	JsonbValue	scalar;
	StringInfoData buf;
	AudRule    *rule;

	/* in binary no JSON is ten times its text; do not print what is too large */
	if (VARSIZE(input) > 16 * AUD_MAX_BYTES)
	{
		memset(error, 0, sizeof(AudRuleError));
		error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		error->message = "rule is too large";
		error->problem = psprintf("The limit is %d bytes.", AUD_MAX_BYTES);
		return NULL;
	}

	if (JB_ROOT_IS_SCALAR(input) && JsonbExtractScalar(&input->root, &scalar) &&
		scalar.type == jbvString)
		return aud_rule_parse_soft(pnstrdup(scalar.val.string.val,
											scalar.val.string.len),
								   scalar.val.string.len, false, error);

	initStringInfo(&buf);
	(void) JsonbToCString(&buf, &input->root, VARSIZE(input));
	rule = aud_rule_parse_soft(buf.data, buf.len, true, error);
	pfree(buf.data);
	return rule;
}

/* Raises a recorded failure. */
pg_noreturn static void
throw_failure(const AudRuleError *error)
{
	if (error->location == NULL)
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("%s", error->message),
				 errdetail("%s", error->problem)));
	else
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("invalid rule"),
				 errdetail("At %s: %s.", error->location, error->problem),
				 error->hint ? errhint("%s", error->hint) : 0));
}

/* Reads a rule in either form; raises 22P02, 54000 or 54001 if it is none. */
AudRule *
aud_rule_parse(const char *input, int len)
{
	AudRuleError error;
	AudRule    *rule = aud_rule_parse_soft(input, len, false, &error);

	if (rule == NULL)
		throw_failure(&error);
	return rule;
}

/* As aud_rule_parse, JSON only: what the binary protocol carries. */
AudRule *
aud_rule_parse_json(const char *input, int len)
{
	AudRuleError error;
	AudRule    *rule = aud_rule_parse_soft(input, len, true, &error);

	if (rule == NULL)
		throw_failure(&error);
	return rule;
}

/* Reads a rule from jsonb; raises as aud_rule_parse. */
AudRule *
aud_rule_parse_jsonb(Jsonb *input)
{
	AudRuleError error;
	AudRule    *rule = aud_rule_parse_jsonb_soft(input, &error);

	if (rule == NULL)
		throw_failure(&error);
	return rule;
}
