%{
/*-------------------------------------------------------------------------
 *
 * rule_gram.y
 *	  Grammar of the text form of rules (SPEC 2.4).
 *
 * Its result is the tree that the JSON form of the rule would have, each value
 * with the place of its token.  So nothing is checked here but what the tree
 * cannot say: operators, constants, windows and sequences are checked once, for
 * both forms, by rule_read.c and rule_check.c.
 *
 * AND and OR make one group of all their operands; parentheses only hold
 * together.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "rule_scan.h"

#define YYMALLOC palloc
#define YYFREE	 pfree

#define YYLLOC_DEFAULT(Current, Rhs, N) \
	((Current) = (N) ? (Rhs)[1] : (Rhs)[0])

static AudJson *make_word(const char *word, int location);
static AudJson *make_string(AudTextString str, int location);
static AudJson *make_number(AudTextString str, int location);
static AudJson *make_bool(bool value, int location);
static AudJson *make_object(const char *key, AudJson *value, int location);
static AudJson *make_list(AudJson *item, int location);
static AudJson *add_item(AudJson *list, AudJson *item);
static AudJson *make_group(const char *key, AudJson *list);
static AudJson *make_test(const char *operator, int location, AudJson *value, int ci);
static AudJson *merge(AudJson *into, AudJson *from);
static AudJson *read_literal(AudText *text, AudTextString str, int location);
static AudJson *make_event(AudText *text, AudTextString str, bool is_prefix, int location);
static StringInfo start_path(AudTextString key, bool quoted);
static StringInfo join_path(StringInfo path, StringInfo more);
static AudJson *finish_path(StringInfo path, int location);

/* the name of a test with NOT before it */
#define NEGATED(operator) psprintf("not_%s", (operator))
%}

%code requires {
#include "rule_scan.h"
}

%define api.pure full
%define api.prefix {aud_rule_yy}
%define api.location.type {int}
%locations
%expect 0
%parse-param {AudText *text} {void *scanner}
%lex-param {void *scanner}

/* bison counts errors for a macro that we do not use; compilers notice */
%initial-action { (void) yynerrs; }

%union
{
	AudTextString str;
	const char *word;
	AudJson    *json;
	StringInfo	path;
	int			location;
}

%{
int			aud_rule_yylex(AUD_RULE_YYSTYPE *lval, int *location, void *scanner);
int			aud_rule_yylex_init_extra(AudText *text, void **scanner);
int			aud_rule_yylex_destroy(void *scanner);
void	   *aud_rule_yy_scan_buffer(char *buffer, size_t size, void *scanner);

static void aud_rule_yyerror(int *location, AudText *text, void *scanner,
							 const char *message);
%}

%token <str>	WORD QUOTED_NAME STRING NUMBER POINT_INTEGER
%token			EQ NE LT LE GT GE MATCH IMATCH NOT_MATCH NOT_IMATCH
%token			SCAN_ERROR SCAN_OTHER

/* names only in quotes */
%token <str>	AND_P OR_P NOT_P IN_P TRUE_P FALSE_P NULL_P WHERE_P

/* names too */
%token <str>	AFTER_P AT_P BEFORE_P BETWEEN_P CI_P CONTAINS_P EMPTY_P ENDS_P
				FROM_P ILIKE_P IS_P JSON_P LAST_P LIKE_P NEXT_P SEGMENT_P
				SEMVER_P STARTS_P TO_P WITH_P WITHIN_P

/* words right before an opening parenthesis */
%token <str>	ALL_CALL ANY_CALL NONE_CALL EXISTS_CALL SAMPLE_CALL
				SEQUENCE_CALL AGGREGATE

%type <json>	or_rule or_list and_rule and_list not_rule not_other primary
				in_segment optional_rules rules
%type <json>	operand aggregated events event event_list
%type <json>	test negatable literal list literals argument
%type <json>	where window window_after_comma window_after_semicolon duration
%type <json>	steps step step_body
%type <path>	path rest_of_path property key
%type <str>		name unreserved any_word
%type <word>	comparison text_operator match_operator
%type <location> ci

%%

result:
	or_rule						{ text->result = $1; }
	;

/* rules */

or_rule:
	or_list						{ $$ = $1->nitems == 1 ? $1->first : make_group("any", $1); }
	;

or_list:
	and_rule					{ $$ = make_list($1, $1->offset); }
	| or_list OR_P and_rule		{ $$ = add_item($1, $3); }
	;

and_rule:
	and_list					{ $$ = $1->nitems == 1 ? $1->first : make_group("all", $1); }
	;

and_list:
	not_rule					{ $$ = make_list($1, $1->offset); }
	| and_list AND_P not_rule	{ $$ = add_item($1, $3); }
	;

/* NOT IN SEGMENT is one test; every other NOT turns over the rule after it */
not_rule:
	primary
	| in_segment
	| NOT_P in_segment
		{
			$$ = $2;
			aud_json_add_member($$, "operator", make_word("not_in", @1));
		}
	| NOT_P not_other			{ $$ = make_object("not", $2, @1); }
	;

not_other:
	primary
	| NOT_P in_segment
		{
			$$ = $2;
			aud_json_add_member($$, "operator", make_word("not_in", @1));
		}
	| NOT_P not_other			{ $$ = make_object("not", $2, @1); }
	;

in_segment:
	IN_P SEGMENT_P STRING		{ $$ = make_object("segment", make_string($3, @3), @1); }
	;

primary:
	'(' or_rule ')'				{ $$ = $2; }
	| ALL_CALL '(' optional_rules ')'	{ $$ = make_object("all", $3, @1); }
	| ANY_CALL '(' optional_rules ')'	{ $$ = make_object("any", $3, @1); }
	| NONE_CALL '(' optional_rules ')'	{ $$ = make_object("none", $3, @1); }
	| TRUE_P					{ $$ = make_bool(true, @1); }
	| FALSE_P					{ $$ = make_bool(false, @1); }
	| EXISTS_CALL '(' path ')'
		{
			$$ = make_object("field", finish_path($3, @3), @1);
			aud_json_add_member($$, "operator", make_word("exists", @1));
		}
	| SAMPLE_CALL '(' NUMBER ',' STRING ')'
		{
			AudJson    *sample = make_object("percent", make_number($3, @3), @1);

			aud_json_add_member(sample, "seed", make_string($5, @5));
			$$ = make_object("sample", sample, @1);
		}
	| SEQUENCE_CALL '(' steps window_after_semicolon ')'
		{
			$$ = make_object("sequence", $3, @1);
			if ($4)
				aud_json_add_member($$, "window", $4);
		}
	| operand test				{ $$ = merge($1, $2); }
	;

optional_rules:
	%empty						{ $$ = aud_json_make(AUD_JSON_ARRAY, @$); }
	| rules
	;

rules:
	or_rule						{ $$ = make_list($1, $1->offset); }
	| rules ',' or_rule			{ $$ = add_item($1, $3); }
	;

/* what is tested */

operand:
	path						{ $$ = make_object("field", finish_path($1, @1), @1); }
	| AGGREGATE '(' aggregated where window_after_comma ')'
		{
			$$ = $3;
			$$->offset = @1;
			if ($4)
				aud_json_add_member($$, "where", $4);
			aud_json_add_member($$, "aggregate", make_string($1, @1));
			if ($5)
				aud_json_add_member($$, "window", $5);
		}
	;

aggregated:
	%empty						{ $$ = make_object("event", make_word("*", @$), @$); }
	| events					{ $$ = make_object("event", $1, @1); }
	| events property
		{
			$$ = make_object("event", $1, @1);
			aud_json_add_member($$, "property", finish_path($2, @2));
		}
	;

events:
	event
	| '(' event_list ')'		{ $$ = $2; }
	;

event_list:
	event						{ $$ = make_list($1, @1); }
	| event_list ',' event		{ $$ = add_item($1, $3); }
	;

event:
	name						{ $$ = make_event(text, $1, false, @1); if ($$ == NULL) YYABORT; }
	| QUOTED_NAME				{ $$ = make_event(text, $1, false, @1); if ($$ == NULL) YYABORT; }
	| name '*'					{ $$ = make_event(text, $1, true, @1); }
	| QUOTED_NAME '*'			{ $$ = make_event(text, $1, true, @1); }
	| '*'						{ $$ = make_word("*", @1); }
	;

where:
	%empty						{ $$ = NULL; }
	| WHERE_P or_rule			{ $$ = $2; }
	;

window_after_comma:
	%empty						{ $$ = NULL; }
	| ',' window				{ $$ = $2; }
	;

window_after_semicolon:
	%empty						{ $$ = NULL; }
	| ';' window				{ $$ = $2; }
	;

window:
	LAST_P duration				{ $$ = make_object("last", $2, @1); }
	| FROM_P STRING				{ $$ = make_object("from", make_string($2, @2), @1); }
	| FROM_P STRING TO_P STRING
		{
			$$ = make_object("from", make_string($2, @2), @1);
			aud_json_add_member($$, "to", make_string($4, @4));
		}
	;

duration:
	STRING						{ $$ = make_string($1, @1); }
	| NUMBER					{ $$ = make_number($1, @1); }
	;

steps:
	step						{ $$ = make_list($1, @1); }
	| steps ',' step			{ $$ = add_item($1, $3); }
	;

step:
	step_body
	| NOT_P step_body
		{
			$$ = $2;
			$$->offset = @1;
			aud_json_add_member($$, "absent", make_bool(true, @1));
		}
	;

step_body:
	events						{ $$ = make_object("event", $1, @1); }
	| events WHERE_P not_rule
		{
			$$ = make_object("event", $1, @1);
			aud_json_add_member($$, "where", $3);
		}
	| events WITHIN_P duration
		{
			$$ = make_object("event", $1, @1);
			aud_json_add_member($$, "within", $3);
		}
	| events WHERE_P not_rule WITHIN_P duration
		{
			$$ = make_object("event", $1, @1);
			aud_json_add_member($$, "where", $3);
			aud_json_add_member($$, "within", $5);
		}
	;

/* tests */

test:
	comparison literal ci		{ $$ = make_test($1, @1, $2, $3); }
	| negatable
	| NOT_P negatable
		{
			/* the operator is the first member */
			$$ = $2;
			$$->first->text = NEGATED($$->first->text);
			$$->first->len = strlen($$->first->text);
			$$->first->offset = @1;
		}
	| CONTAINS_P ANY_CALL list ci	{ $$ = make_test("contains_any", @1, $3, $4); }
	| CONTAINS_P ALL_CALL list ci	{ $$ = make_test("contains_all", @1, $3, $4); }
	| CONTAINS_P NONE_CALL list ci	{ $$ = make_test("contains_none", @1, $3, $4); }
	| IS_P NULL_P				{ $$ = make_test("not_exists", @1, NULL, -1); }
	| IS_P NOT_P NULL_P			{ $$ = make_test("exists", @1, NULL, -1); }
	| IS_P EMPTY_P				{ $$ = make_test("is_empty", @1, NULL, -1); }
	| IS_P NOT_P EMPTY_P		{ $$ = make_test("not_empty", @1, NULL, -1); }
	| BEFORE_P STRING			{ $$ = make_test("before", @1, make_string($2, @2), -1); }
	| AFTER_P STRING			{ $$ = make_test("after", @1, make_string($2, @2), -1); }
	| AT_P OR_P BEFORE_P STRING	{ $$ = make_test("at_or_before", @1, make_string($4, @4), -1); }
	| AT_P OR_P AFTER_P STRING	{ $$ = make_test("at_or_after", @1, make_string($4, @4), -1); }
	| WITHIN_P LAST_P duration	{ $$ = make_test("within_last", @1, $3, -1); }
	| BEFORE_P LAST_P duration	{ $$ = make_test("before_last", @1, $3, -1); }
	| WITHIN_P NEXT_P duration	{ $$ = make_test("within_next", @1, $3, -1); }
	| AFTER_P NEXT_P duration	{ $$ = make_test("after_next", @1, $3, -1); }
	| SEMVER_P comparison STRING
		{ $$ = make_test(psprintf("semver_%s", $2), @1, make_string($3, @3), -1); }
	| match_operator argument	{ $$ = make_test($1, @1, $2, -1); }
	;

negatable:
	BETWEEN_P literal AND_P literal
		{ $$ = make_test("between", @1, add_item(make_list($2, @2), $4), -1); }
	| IN_P list ci				{ $$ = make_test("in", @1, $2, $3); }
	| CONTAINS_P literal ci		{ $$ = make_test("contains", @1, $2, $3); }
	| text_operator argument ci	{ $$ = make_test($1, @1, $2, $3); }
	;

comparison:
	EQ							{ $$ = "eq"; }
	| NE						{ $$ = "neq"; }
	| LT						{ $$ = "lt"; }
	| LE						{ $$ = "lte"; }
	| GT						{ $$ = "gt"; }
	| GE						{ $$ = "gte"; }
	;

text_operator:
	LIKE_P						{ $$ = "like"; }
	| ILIKE_P					{ $$ = "ilike"; }
	| STARTS_P WITH_P			{ $$ = "starts_with"; }
	| ENDS_P WITH_P				{ $$ = "ends_with"; }
	;

match_operator:
	MATCH						{ $$ = "regex"; }
	| IMATCH					{ $$ = "iregex"; }
	| NOT_MATCH					{ $$ = "not_regex"; }
	| NOT_IMATCH				{ $$ = "not_iregex"; }
	;

ci:
	%empty						{ $$ = -1; }
	| CI_P						{ $$ = @1; }
	;

/* constants */

literal:
	STRING						{ $$ = make_string($1, @1); }
	| NUMBER					{ $$ = make_number($1, @1); }
	| TRUE_P					{ $$ = make_bool(true, @1); }
	| FALSE_P					{ $$ = make_bool(false, @1); }
	| NULL_P					{ $$ = aud_json_make(AUD_JSON_NULL, @1); }
	| JSON_P STRING				{ $$ = read_literal(text, $2, @2); if ($$ == NULL) YYABORT; }
	;

list:
	'(' ')'						{ $$ = aud_json_make(AUD_JSON_ARRAY, @1); }
	| '(' literals ')'			{ $$ = $2; $$->offset = @1; }
	;

literals:
	literal						{ $$ = make_list($1, @1); }
	| literals ',' literal		{ $$ = add_item($1, $3); }
	;

argument:
	literal
	| list
	;

/* paths and names */

path:
	name rest_of_path			{ $$ = join_path(start_path($1, false), $2); }
	| QUOTED_NAME rest_of_path	{ $$ = join_path(start_path($1, true), $2); }
	| NUMBER rest_of_path		{ $$ = join_path(start_path($1, false), $2); }
	;

property:
	key rest_of_path			{ $$ = join_path($1, $2); }
	;

/* a key after a point is never a keyword */
key:
	'.' any_word				{ $$ = start_path($2, false); }
	| '.' QUOTED_NAME			{ $$ = start_path($2, true); }
	| POINT_INTEGER				{ $$ = start_path($1, false); }
	;

rest_of_path:
	%empty						{ $$ = makeStringInfo(); }
	| rest_of_path key
		{
			$$ = $1;
			appendStringInfoChar($$, '.');
			join_path($$, $2);
		}
	| rest_of_path '[' NUMBER ']'	{ $$ = $1; appendStringInfo($$, "[%s]", $3.text); }
	| rest_of_path '[' '*' ']'	{ $$ = $1; appendStringInfoString($$, "[*]"); }
	;

name:
	WORD
	| unreserved
	;

any_word:
	WORD
	| unreserved
	| AND_P
	| OR_P
	| NOT_P
	| IN_P
	| TRUE_P
	| FALSE_P
	| NULL_P
	| WHERE_P
	;

unreserved:
	AFTER_P
	| AT_P
	| BEFORE_P
	| BETWEEN_P
	| CI_P
	| CONTAINS_P
	| EMPTY_P
	| ENDS_P
	| FROM_P
	| ILIKE_P
	| IS_P
	| JSON_P
	| LAST_P
	| LIKE_P
	| NEXT_P
	| SEGMENT_P
	| SEMVER_P
	| STARTS_P
	| TO_P
	| WITH_P
	| WITHIN_P
	;

%%

/* A text that is not from the input. */
static AudJson *
make_word(const char *word, int location)
{
	return aud_json_make_text(AUD_JSON_TEXT, location, word, strlen(word));
}

/* A text. */
static AudJson *
make_string(AudTextString str, int location)
{
	return aud_json_make_text(AUD_JSON_TEXT, location, str.text, str.len);
}

/* A number; JSON has no plus sign. */
static AudJson *
make_number(AudTextString str, int location)
{
	int			skip = str.text[0] == '+' ? 1 : 0;

	return aud_json_make_text(AUD_JSON_NUMBER, location, str.text + skip, str.len - skip);
}

/* A boolean. */
static AudJson *
make_bool(bool value, int location)
{
	AudJson    *json = aud_json_make(AUD_JSON_BOOL, location);

	json->boolean = value;
	return json;
}

/* An object with one member. */
static AudJson *
make_object(const char *key, AudJson *value, int location)
{
	AudJson    *object = aud_json_make(AUD_JSON_OBJECT, location);

	aud_json_add_member(object, key, value);
	return object;
}

/* A list with one item. */
static AudJson *
make_list(AudJson *item, int location)
{
	return add_item(aud_json_make(AUD_JSON_ARRAY, location), item);
}

/* Appends to a list and returns it. */
static AudJson *
add_item(AudJson *list, AudJson *item)
{
	aud_json_add_item(list, item);
	return list;
}

/* The group of a list of rules. */
static AudJson *
make_group(const char *key, AudJson *list)
{
	return make_object(key, list, list->offset);
}

/*
 * The members of a leaf that make its test; the operator is the first.  "ci" is
 * where CI stands, -1 if it does not.
 */
static AudJson *
make_test(const char *operator, int location, AudJson *value, int ci)
{
	AudJson    *test = make_object("operator", make_word(operator, location), location);

	if (value != NULL)
		aud_json_add_member(test, "value", value);
	if (ci >= 0)
		aud_json_add_member(test, "ci", make_bool(true, ci));
	return test;
}

/* Moves the members of an object to another one. */
static AudJson *
merge(AudJson *into, AudJson *from)
{
	AudJson    *next;

	for (AudJson *member = from->first; member; member = next)
	{
		next = member->next;
		aud_json_add_member(into, member->key, member);
	}
	return into;
}

/* The value of a JSON literal; NULL and a failure if it is none. */
static AudJson *
read_literal(AudText *text, AudTextString str, int location)
{
	AudJson    *literal = make_string(str, location);

	literal->parent = text->holder;
	return aud_json_read(text->parse, str.text, str.len, literal);
}

/*
 * An event type, or the prefix of some.  NULL and a failure for a type that the
 * JSON form would take for a prefix.
 */
static AudJson *
make_event(AudText *text, AudTextString str, bool is_prefix, int location)
{
	if (is_prefix)
		return make_word(psprintf("%s*", str.text), location);
	if (str.len > 0 && str.text[str.len - 1] == '*')
	{
		aud_rule_fail_at(text->parse, text->holder, location,
						 "an event type cannot end in \"*\"; a prefix has it outside the quotes");
		return NULL;
	}
	return make_string(str, location);
}

/* A path that begins with a key. */
static StringInfo
start_path(AudTextString key, bool quoted)
{
	StringInfo	path = makeStringInfo();

	if (quoted)
		aud_path_append_quoted(path, key.text, key.len);
	else
		appendBinaryStringInfo(path, key.text, key.len);
	return path;
}

/* Appends more of a path and returns it. */
static StringInfo
join_path(StringInfo path, StringInfo more)
{
	appendBinaryStringInfo(path, more->data, more->len);
	return path;
}

/* A path as a text. */
static AudJson *
finish_path(StringInfo path, int location)
{
	return aud_json_make_text(AUD_JSON_TEXT, location, path->data, path->len);
}

/*
 * Records that the grammar has no place for a token.  The other thing that
 * bison reports is that its stack is full.
 */
static void
aud_rule_yyerror(int *location, AudText *text, void *scanner, const char *message)
{
	int			len = text->token_end - *location;

	if (strcmp(message, "memory exhausted") == 0)
		aud_rule_fail_limit(text->parse, ERRCODE_STATEMENT_TOO_COMPLEX,
							"rule is nested too deeply",
							psprintf("The limit is a depth of %d.", AUD_MAX_DEPTH));
	else if (len <= 0)
		aud_rule_fail_at(text->parse, text->holder, *location,
						 "syntax error at end of input");
	else
		aud_rule_fail_at(text->parse, text->holder, *location,
						 "syntax error at or near \"%s\"",
						 pnstrdup(text->text + *location,
								  pg_mbcliplen(text->text + *location, len, 40)));
}

/*
 * Reads the text form of a rule into the tree of its JSON form.  "holder" is
 * the "expr" that it is in, or NULL.  NULL and a failure if it is not a rule.
 */
AudJson *
aud_rule_read_text(AudParse *parse, const char *input, int len, AudJson *holder)
{
	AudText		text;
	void	   *scanner;

	memset(&text, 0, sizeof(text));
	text.parse = parse;
	text.holder = holder;
	text.text = input;
	text.len = len;
	initStringInfo(&text.literal);

	/* the scanner wants two NULs at the end */
	text.buffer = palloc0(len + 2);
	memcpy(text.buffer, input, len);

	aud_rule_yylex_init_extra(&text, &scanner);
	aud_rule_yy_scan_buffer(text.buffer, len + 2, scanner);
	if (aud_rule_yyparse(&text, scanner) != 0)
		text.result = NULL;
	aud_rule_yylex_destroy(scanner);

	if (text.result != NULL)
		text.result->parent = holder;
	return text.result;
}
