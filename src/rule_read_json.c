/*-------------------------------------------------------------------------
 *
 * rule_read_json.c
 *	  JSON text to a tree of AudJson.
 *
 * The tokens come from PostgreSQL's JSON lexer, so what is JSON here is what
 * is JSON there.  The grammar is our own because pg_parse_json's actions
 * cannot stop it without raising an error, and because it does not limit the
 * nesting but by the stack.
 *
 * Duplicate keys are an error, wherever in the input they stand.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "compat.h"
#include "rule_parse.h"

typedef struct Reader
{
	AudParse   *parse;
	JsonLexContext *lex;
	const char *text;
	int			len;
	const AudJson *literal;		/* a JSON literal of the text form, or NULL */
	int			offset;			/* what the values get as theirs */
} Reader;

static bool read_value(Reader *reader, AudJson *json, int nesting);

/* A new value, all zero but for what is given; in the current context. */
AudJson *
aud_json_make(AudJsonType type, int offset)
{
	AudJson    *json = palloc0(sizeof(AudJson));

	json->type = type;
	json->offset = offset;
	return json;
}

/* A new text or number; the text is copied. */
AudJson *
aud_json_make_text(AudJsonType type, int offset, const char *text, int len)
{
	AudJson    *json = aud_json_make(type, offset);

	json->text = pnstrdup(text, len);
	json->len = len;
	return json;
}

/* Appends to the children of an array or object. */
static void
add_child(AudJson *parent, AudJson *child)
{
	child->parent = parent;
	child->index = parent->nitems++;
	child->next = NULL;
	if (parent->last == NULL)
		parent->first = child;
	else
		parent->last->next = child;
	parent->last = child;
}

/* Appends an item to an array, which owns it from then on. */
void
aud_json_add_item(AudJson *array, AudJson *item)
{
	item->key = NULL;
	add_child(array, item);
}

/* Appends a member to an object; the key is kept, not copied. */
void
aud_json_add_member(AudJson *object, const char *key, AudJson *value)
{
	value->key = key;
	value->keylen = strlen(key);
	add_child(object, value);
}

/* An object's member, NULL if there is none. */
const AudJson *
aud_json_member(const AudJson *object, const char *key)
{
	for (const AudJson *member = object->first; member; member = member->next)
	{
		if (strcmp(member->key, key) == 0)
			return member;
	}
	return NULL;
}

/* What a value is, for messages: "a number"; static. */
const char *
aud_json_type_name(const AudJson *json)
{
	switch (json->type)
	{
		case AUD_JSON_NULL:
			return "null";
		case AUD_JSON_BOOL:
			return "a boolean";
		case AUD_JSON_NUMBER:
			return "a number";
		case AUD_JSON_TEXT:
			return "a text";
		case AUD_JSON_ARRAY:
			return "a list";
		case AUD_JSON_OBJECT:
			return "an object";
	}
	return "a value";			/* keep compiler quiet */
}

/*
 * Records that the JSON is malformed at the current token: what was expected
 * there, or NULL if it is no token at all.  Always false.
 */
static bool
malformed(Reader *reader, const char *expected)
{
	JsonLexContext *lex = reader->lex;
	char	   *found = NULL;
	int			offset = reader->len;

	if (lex->token_start != NULL && lex->token_start < reader->text + reader->len)
	{
		int			len = lex->token_terminator - lex->token_start;

		offset = lex->token_start - reader->text;
		if (len > 40)
			len = pg_mbcliplen(lex->token_start, len, 40);
		found = pnstrdup(lex->token_start, Max(len, 0));
	}

	if (reader->literal != NULL)
		aud_rule_fail(reader->parse, reader->literal, "malformed JSON in the literal");
	else if (expected == NULL)
		aud_rule_fail_at(reader->parse, NULL, offset,
						 "malformed JSON: invalid token \"%s\"", found ? found : "");
	else if (found == NULL)
		aud_rule_fail_at(reader->parse, NULL, offset,
						 "malformed JSON: expected %s, but the input ends", expected);
	else
		aud_rule_fail_at(reader->parse, NULL, offset,
						 "malformed JSON: expected %s, not \"%s\"", expected, found);
	return false;
}

/* Does the database's encoding have a character? */
static bool
encoding_has(pg_wchar c)
{
	Oid			conversion = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN + 1];
	char		converted[MAX_MULTIBYTE_CHAR_LEN * MAX_CONVERSION_GROWTH + 1];
	int			len;

	unicode_to_utf8(c, utf8);
	len = pg_utf_mblen(utf8);
	return OidIsValid(conversion) &&
		pg_do_encoding_conversion_buf(conversion, PG_UTF8, GetDatabaseEncoding(), utf8, len,
									  (unsigned char *) converted, sizeof(converted), true) == len;
}

/*
 * Does the next token, if it is a string, escape a character that the database's
 * encoding does not have?  15's lexer raises an error of its own then, so it is
 * looked for beforehand; the token is then the lexer's current one.
 */
static bool
escapes_untranslatable(Reader *reader)
{
	const char *s = reader->lex->token_terminator;
	const char *end = reader->text + reader->len;
	const char *start;
	pg_wchar	high = 0;		/* the first half of a character in two escapes */

	if (GetDatabaseEncoding() == PG_UTF8)
		return false;
	while (s < end && strchr(" \t\n\r", *s) != NULL)
		s++;
	start = s;
	if (s >= end || *s++ != '"')
		return false;
	while (s < end && *s != '"')
	{
		char		digits[5] = {0};
		pg_wchar	c;

		if (*s != '\\' || end - s < 6 || s[1] != 'u')
		{
			high = 0;
			s += *s == '\\' ? 2 : 1;
			continue;
		}
		memcpy(digits, s + 2, 4);
		if (strspn(digits, "0123456789abcdefABCDEF") < 4)
			return false;		/* which the lexer will say */
		c = strtoul(digits, NULL, 16);
		s += 6;
		if (high != 0 && is_utf16_surrogate_second(c))
			c = surrogate_pair_to_codepoint(high, c);
		high = is_utf16_surrogate_first(c) ? c : 0;
		if (c > 0x7F && !is_utf16_surrogate_first(c) && !is_utf16_surrogate_second(c) && !encoding_has(c))
		{
			reader->lex->token_start = reader->lex->input + (start - reader->text);
			return true;
		}
	}
	return false;
}

/* Moves to the next token.  False and a failure if there is no valid one. */
static bool
next_token(Reader *reader)
{
	const char *problem;

	switch (escapes_untranslatable(reader) ? JSON_UNICODE_HIGH_ESCAPE : json_lex(reader->lex))
	{
		case JSON_SUCCESS:
			return true;
		case JSON_ESCAPING_INVALID:
			problem = "strings have no such escape";
			break;
		case JSON_ESCAPING_REQUIRED:
			problem = "control characters must be escaped";
			break;
		case JSON_UNICODE_CODE_POINT_ZERO:
			problem = "\\u0000 cannot be converted to text";
			break;
		case JSON_UNICODE_ESCAPE_FORMAT:
			problem = "\\u must be followed by four hexadecimal digits";
			break;
		case JSON_UNICODE_HIGH_SURROGATE:
		case JSON_UNICODE_LOW_SURROGATE:
			problem = "surrogates must come in pairs, high before low";
			break;
		case JSON_UNICODE_HIGH_ESCAPE:
			problem = "the encoding has no such character";
			break;
		default:
			return malformed(reader, NULL);
	}
	if (reader->literal != NULL)
		aud_rule_fail(reader->parse, reader->literal,
					  "malformed JSON in the literal: %s", problem);
	else
		aud_rule_fail_at(reader->parse, NULL,
						 reader->lex->token_start - reader->text,
						 "malformed JSON: %s", problem);
	return false;
}

/* Orders members by key, those of one key as they were written. */
static int
compare_members(const void *a, const void *b)
{
	const AudJson *member_a = *(const AudJson *const *) a;
	const AudJson *member_b = *(const AudJson *const *) b;
	int			result = strcmp(member_a->key, member_b->key);

	CHECK_FOR_INTERRUPTS();
	if (result == 0)
		result = member_a->index - member_b->index;
	return result;
}

/* False and a failure if an object has a key twice. */
static bool
check_keys(Reader *reader, const AudJson *object)
{
	const AudJson **members;
	const AudJson *duplicate = NULL;
	int			n = 0;

	if (object->nitems < 2)
		return true;
	members = palloc(object->nitems * sizeof(AudJson *));
	for (const AudJson *member = object->first; member; member = member->next)
		members[n++] = member;
	qsort(members, n, sizeof(AudJson *), compare_members);
	for (int i = 1; i < n; i++)
	{
		if (strcmp(members[i - 1]->key, members[i]->key) == 0 &&
			(duplicate == NULL || members[i]->index < duplicate->index))
			duplicate = members[i];
	}
	pfree(members);

	if (duplicate != NULL)
		aud_rule_fail(reader->parse, duplicate, "duplicate key \"%s\"",
					  duplicate->key);
	return duplicate == NULL;
}

/* Reads the rest of an array or object after its opening bracket. */
static bool
read_children(Reader *reader, AudJson *parent, int nesting)
{
	JsonLexContext *lex = reader->lex;
	bool		is_object = parent->type == AUD_JSON_OBJECT;
	JsonTokenType end = is_object ? JSON_TOKEN_OBJECT_END : JSON_TOKEN_ARRAY_END;
	const char *expected;

	if (!next_token(reader))
		return false;
	if (lex->token_type == end)
		return true;

	expected = is_object ? "a comma or \"}\"" : "a comma or \"]\"";
	for (;;)
	{
		const char *key = NULL;
		AudJson    *child;

		CHECK_FOR_INTERRUPTS();

		if (is_object)
		{
			if (lex->token_type != JSON_TOKEN_STRING)
				return malformed(reader, "a key in double quotes");
			key = pstrdup(lex->strval->data);
			if (!next_token(reader))
				return false;
			if (lex->token_type != JSON_TOKEN_COLON)
				return malformed(reader, "a colon");
			if (!next_token(reader))
				return false;
		}

		/* linked before it is read: a failure in it needs its pointer */
		child = aud_json_make(AUD_JSON_NULL, reader->offset);
		if (is_object)
			aud_json_add_member(parent, key, child);
		else
			aud_json_add_item(parent, child);
		if (!read_value(reader, child, nesting))
			return false;

		if (!next_token(reader))
			return false;
		if (lex->token_type == end)
			return true;
		if (lex->token_type != JSON_TOKEN_COMMA)
			return malformed(reader, expected);
		if (!next_token(reader))
			return false;
	}
}

/*
 * Reads the value that begins with the current token into *json, which is
 * linked into the tree already.  The current token is then its last one.
 */
static bool
read_value(Reader *reader, AudJson *json, int nesting)
{
	JsonLexContext *lex = reader->lex;

	check_stack_depth();

	if (nesting > AUD_MAX_JSON_NESTING)
	{
		aud_rule_fail_limit(reader->parse, ERRCODE_STATEMENT_TOO_COMPLEX,
							"rule is nested too deeply",
							psprintf("JSON in rules may be nested %d levels deep.",
									 AUD_MAX_JSON_NESTING));
		return false;
	}

	switch (lex->token_type)
	{
		case JSON_TOKEN_STRING:
			json->type = AUD_JSON_TEXT;
			json->text = pnstrdup(lex->strval->data, lex->strval->len);
			json->len = lex->strval->len;
			return true;
		case JSON_TOKEN_NUMBER:
			json->type = AUD_JSON_NUMBER;
			json->len = lex->token_terminator - lex->token_start;
			json->text = pnstrdup(lex->token_start, json->len);
			return true;
		case JSON_TOKEN_TRUE:
		case JSON_TOKEN_FALSE:
			json->type = AUD_JSON_BOOL;
			json->boolean = lex->token_type == JSON_TOKEN_TRUE;
			return true;
		case JSON_TOKEN_NULL:
			json->type = AUD_JSON_NULL;
			return true;
		case JSON_TOKEN_ARRAY_START:
			json->type = AUD_JSON_ARRAY;
			return read_children(reader, json, nesting + 1);
		case JSON_TOKEN_OBJECT_START:
			json->type = AUD_JSON_OBJECT;
			return read_children(reader, json, nesting + 1) &&
				check_keys(reader, json);
		default:
			return malformed(reader, "a value");
	}
}

/*
 * Reads JSON text.  With "literal", a value of the text form that holds the
 * JSON, every failure is at it and all values get its place.  NULL and a
 * failure recorded if the text is not JSON.
 */
AudJson *
aud_json_read(AudParse *parse, const char *text, int len, const AudJson *literal)
{
	Reader		reader;
	AudJson    *root;

	reader.parse = parse;
	reader.lex = aud_compat_json_lexer(text, len);
	reader.text = text;
	reader.len = len;
	reader.literal = literal;
	reader.offset = literal ? literal->offset : -1;

	root = aud_json_make(AUD_JSON_NULL, reader.offset);
	if (literal != NULL)
		root->parent = literal->parent;
	if (!next_token(&reader) || !read_value(&reader, root, 1) ||
		!next_token(&reader))
		return NULL;
	if (reader.lex->token_type != JSON_TOKEN_END)
	{
		malformed(&reader, "the end of the input");
		return NULL;
	}
	return root;
}
