/*-------------------------------------------------------------------------
 *
 * rule_path.c
 *	  Paths: reading them, and printing them in both forms.
 *
 *	  path := key { '.' key | '[' integer ']' | '[*]' }
 *	  key  := characters without . [ ] "  |  '"' characters, " doubled '"'
 *
 * This is the path of the JSON form.  The text form builds the same text from
 * its tokens; there a key that is not a plain name is quoted, here only one
 * that would be read as something else.
 *
 * An unquoted key that is an integer as we would print it addresses an
 * object's key or an array's element; quoted, it is a key only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "rule_parse.h"

/* the first keys that mean something else in "where" */
static const struct
{
	const char *name;
	AudPathRoot root;
}			roots[] =
{
	{"$context", AUD_ROOT_CONTEXT},
	{"$type", AUD_ROOT_TYPE},
	{"$time", AUD_ROOT_TIME},
	{"$id", AUD_ROOT_ID}
};

/* words of the text form that are names only in quotes, but after a point */
static const char *const reserved_words[] = {
	"and", "or", "not", "in", "true", "false", "null", "where"
};

/* What this first key starts from in "where"; AUD_ROOT_DOCUMENT: it is a key. */
static AudPathRoot
find_root(const char *key, int len)
{
	for (size_t i = 0; i < lengthof(roots); i++)
	{
		if (strlen(roots[i].name) == (size_t) len && memcmp(roots[i].name, key, len) == 0)
			return roots[i].root;
	}
	return AUD_ROOT_DOCUMENT;
}

/* Is this an integer exactly as it would be printed, and of 32 bits? */
static bool
read_integer(const char *s, int len, int *result)
{
	int64		value = 0;
	int			i = 0;
	bool		negative = len > 0 && s[0] == '-';

	if (negative)
		i++;
	if (len - i < 1 || len - i > 10 || (s[i] == '0' && (negative || len - i > 1)))
		return false;
	for (; i < len; i++)
	{
		if (s[i] < '0' || s[i] > '9')
			return false;
		value = value * 10 + (s[i] - '0');
	}
	if (negative)
		value = -value;
	if (value < PG_INT32_MIN || value > PG_INT32_MAX)
		return false;
	*result = (int) value;
	return true;
}

/*
 * Reads the step at *pos, which is moved behind it.  False and a failure if
 * there is none.  *quoted: was it a key in quotes?
 */
static bool
read_step(AudParse *parse, const AudJson *json, int *pos, AudItemStep *step,
		  bool *quoted)
{
	const char *s = json->text;
	int			end = *pos;

	*quoted = false;
	memset(step, 0, sizeof(AudItemStep));

	if (s[*pos] == '[')
	{
		end = *pos + 1;
		while (s[end] != ']' && s[end] != '\0')
			end++;
		if (s[end] == '\0')
		{
			aud_rule_fail(parse, json, "\"[\" in a path needs a \"]\"");
			return false;
		}
		if (end == *pos + 2 && s[*pos + 1] == '*')
			step->kind = AUD_STEP_EACH;
		else if (read_integer(s + *pos + 1, end - *pos - 1, &step->index))
			step->kind = AUD_STEP_INDEX;
		else
		{
			aud_rule_fail(parse, json, "brackets in a path hold an integer or \"*\"");
			return false;
		}
		*pos = end + 1;
		return true;
	}

	step->kind = AUD_STEP_KEY;
	if (s[*pos] == '"')
	{
		char	   *key;

		*quoted = true;
		for (end = *pos + 1; s[end] != '"' || s[end + 1] == '"'; end++)
		{
			if (s[end] == '\0')
			{
				aud_rule_fail(parse, json, "a quoted key in a path has no closing quote");
				return false;
			}
			if (s[end] == '"')
				end++;
		}
		key = palloc(end - *pos);
		for (int i = *pos + 1; i < end; i++)
		{
			if (s[i] == '"')
				i++;
			key[step->keylen++] = s[i];
		}
		key[step->keylen] = '\0';
		step->key = key;
		*pos = end + 1;
		return true;
	}

	while (s[end] != '\0' && strchr(".[]\"", s[end]) == NULL)
		end++;
	if (s[end] == '"' || s[end] == ']')
	{
		aud_rule_fail(parse, json, "a key with \"%s\" in it must be quoted in a path",
					  s[end] == ']' ? "]" : "\\\"");
		return false;
	}
	if (end == *pos)
	{
		aud_rule_fail(parse, json, json->len == 0 ? "a path cannot be empty" :
					  "a path has an empty key; quote it if that is meant");
		return false;
	}
	step->keylen = end - *pos;
	step->key = pnstrdup(s + *pos, step->keylen);
	if (read_integer(step->key, step->keylen, &step->index))
		step->kind = AUD_STEP_INTEGER_KEY;
	*pos = end;
	return true;
}

/*
 * Reads a path; palloc'ed.  NULL and a failure if it is none.  In "where" some
 * first keys lead to the event itself.
 */
AudItemPath *
aud_path_read(AudParse *parse, const AudJson *json, bool in_where)
{
	AudItemPath *path;
	int			pos = 0;
	int			allocated = 8;

	if (!aud_check_text(parse, json))
		return NULL;
	if (json->text[0] == '[' || (json->offset >= 0 && json->text[0] == '+'))
	{
		aud_rule_fail(parse, json, "a path begins with a key");
		return NULL;
	}

	path = palloc0(sizeof(AudItemPath));
	path->root = AUD_ROOT_DOCUMENT;
	path->steps = palloc(allocated * sizeof(AudItemStep));
	for (bool first = true; json->text[pos] != '\0' || first; first = false)
	{
		AudItemStep step;
		bool		quoted;

		if (path->nsteps >= AUD_MAX_PATH_STEPS)
		{
			aud_rule_fail(parse, json, "a path has at most %d steps", AUD_MAX_PATH_STEPS);
			return NULL;
		}
		if (!read_step(parse, json, &pos, &step, &quoted))
			return NULL;
		if (first && in_where && !quoted && step.key != NULL)
			path->root = find_root(step.key, step.keylen);
		if (!first || path->root == AUD_ROOT_DOCUMENT)
		{
			if (path->nsteps >= allocated)
			{
				allocated *= 2;
				path->steps = repalloc(path->steps, allocated * sizeof(AudItemStep));
			}
			path->steps[path->nsteps++] = step;
		}

		if (json->text[pos] == '.')
			pos++;
		else if (json->text[pos] == '[' || json->text[pos] == '\0')
			continue;
		else
		{
			aud_rule_fail(parse, json, "a path has something after a \"]\" or a quoted key");
			return NULL;
		}
		if (json->text[pos] == '[')
		{
			aud_rule_fail(parse, json, "a path has a \"[\" right after a point");
			return NULL;
		}
		if (json->text[pos] == '\0')
		{
			aud_rule_fail(parse, json, "a path cannot end in a point");
			return NULL;
		}
	}

	if (path->nsteps > 0 && path->root != AUD_ROOT_DOCUMENT &&
		path->root != AUD_ROOT_CONTEXT)
	{
		aud_rule_fail(parse, json, "nothing can follow \"%s\" in a path",
					  roots[path->root - AUD_ROOT_CONTEXT].name);
		return NULL;
	}
	return path;
}

/* Appends a key in double quotes, as both forms have it. */
void
aud_path_append_quoted(StringInfo buf, const char *key, int len)
{
	appendStringInfoChar(buf, '"');
	for (int i = 0; i < len; i++)
	{
		if (key[i] == '"')
			appendStringInfoChar(buf, '"');
		appendStringInfoChar(buf, key[i]);
	}
	appendStringInfoChar(buf, '"');
}

/* Is this a word that the text form takes for a name without quotes? */
bool
aud_word_is_name(const char *word, int len)
{
	if (len == 0)
		return false;
	for (int i = 0; i < len; i++)
	{
		char		c = word[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			  c == '_' || c == '$' || IS_HIGHBIT_SET(c) ||
			  (i > 0 && c >= '0' && c <= '9')))
			return false;
	}
	return true;
}

/* Is this a word that is a name only in quotes? */
bool
aud_word_is_reserved(const char *word, int len)
{
	for (size_t i = 0; i < lengthof(reserved_words); i++)
	{
		if (strlen(reserved_words[i]) == (size_t) len &&
			pg_strncasecmp(reserved_words[i], word, len) == 0)
			return true;
	}
	return false;
}

/* Must a key of the JSON form be quoted to be read as this key? */
static bool
needs_quotes_in_json(const char *key, int len)
{
	int			ignored;

	if (len == 0 || read_integer(key, len, &ignored))
		return true;
	for (int i = 0; i < len; i++)
	{
		if (strchr(".[]\"", key[i]) != NULL)
			return true;
	}
	return false;
}

/* Appends an element step. */
static void
append_index(StringInfo buf, const AudPathStep *step)
{
	if (step->kind == AUD_STEP_EACH)
		appendStringInfoString(buf, "[*]");
	else
		appendStringInfo(buf, "[%d]", step->index);
}

/* Appends what a path starts from; true if that was anything. */
static bool
append_root(StringInfo buf, const AudPath *path)
{
	if (path->root == AUD_ROOT_DOCUMENT)
		return false;
	appendStringInfoString(buf, roots[path->root - AUD_ROOT_CONTEXT].name);
	return true;
}

/*
 * Appends a path as the JSON form has it, not yet escaped as JSON.  "in_where":
 * the path stands where "$type" and the like are no keys.
 */
void
aud_path_append_json(StringInfo buf, const AudRule *rule, const AudPath *path,
					 bool in_where)
{
	bool		follows = append_root(buf, path);

	for (int i = 0; i < path->nsteps; i++)
	{
		const AudPathStep *step = &path->steps[i];
		const char *key = AUD_AT(rule, step->key);

		if (step->kind == AUD_STEP_EACH || step->kind == AUD_STEP_INDEX)
		{
			append_index(buf, step);
			continue;
		}
		if (follows || i > 0)
			appendStringInfoChar(buf, '.');
		if (step->kind == AUD_STEP_KEY &&
			(needs_quotes_in_json(key, step->keylen) ||
			 (i == 0 && !follows && in_where &&
			  find_root(key, step->keylen) != AUD_ROOT_DOCUMENT)))
			aud_path_append_quoted(buf, key, step->keylen);
		else
			appendBinaryStringInfo(buf, key, step->keylen);
	}
}

/*
 * Appends a path as the text form has it.  A property follows a point, so
 * that none of its words is a keyword.
 */
void
aud_path_append_text(StringInfo buf, const AudRule *rule, const AudPath *path,
					 bool in_where, bool is_property)
{
	bool		follows = append_root(buf, path);

	for (int i = 0; i < path->nsteps; i++)
	{
		const AudPathStep *step = &path->steps[i];
		const char *key = AUD_AT(rule, step->key);
		bool		first = i == 0 && !follows;

		if (step->kind == AUD_STEP_EACH || step->kind == AUD_STEP_INDEX)
		{
			append_index(buf, step);
			continue;
		}
		if (!first)
			appendStringInfoChar(buf, '.');
		if (step->kind == AUD_STEP_KEY &&
			(!aud_word_is_name(key, step->keylen) ||
			 (first && !is_property && aud_word_is_reserved(key, step->keylen)) ||
			 (first && in_where && find_root(key, step->keylen) != AUD_ROOT_DOCUMENT)))
			aud_path_append_quoted(buf, key, step->keylen);
		else
			appendBinaryStringInfo(buf, key, step->keylen);
	}
}
