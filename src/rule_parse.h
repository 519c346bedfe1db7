/*-------------------------------------------------------------------------
 *
 * rule_parse.h
 *	  What the files that read rules share; nobody else includes this.
 *
 * Input goes through four steps:
 *
 *	  JSON text --(rule_read_json.c)--+
 *									  +--> tree of AudJson
 *	  text form --(rule_scan.l,-------+	   |
 *				   rule_gram.y)			  (rule_read.c, rule_read_event.c,
 *										   |	rule_check.c, rule_path.c)
 *										  tree of AudItem
 *										   |
 *										  (rule_build.c) --> flat AudRule
 *
 * The text form is turned into the tree that its JSON form would have, so
 * that all checks exist once.  Every AudJson knows where it was written, so
 * an error found at any step can say where it is.
 *
 * Nothing here raises an error for what the input holds: the first failure is
 * recorded in an AudRuleError, and functions return false or NULL.  So
 * rule_validate() needs no subtransaction and may run in parallel workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_RULE_PARSE_H
#define AUD_RULE_PARSE_H

#include "rule.h"

/*
 * How deep JSON may nest.  A rule of the greatest depth needs 2 levels for
 * each of its own and some more for the rest; constants may be deeper.  The
 * limit makes every recursion over an AudJson safe.
 */
#define AUD_MAX_JSON_NESTING	1000

/* keys and elements in one path */
#define AUD_MAX_PATH_STEPS		1000

/*
 * The longest duration in microseconds, a bit more than 100,000 years: far
 * enough from what int64 can hold that adding some to a timestamp is safe.
 */
#define AUD_MAX_DURATION		(INT64CONST(36600000) * USECS_PER_DAY)

typedef enum AudJsonType
{
	AUD_JSON_NULL,
	AUD_JSON_BOOL,
	AUD_JSON_NUMBER,			/* text: as written */
	AUD_JSON_TEXT,
	AUD_JSON_ARRAY,
	AUD_JSON_OBJECT
} AudJsonType;

/* one value of the input, as a tree in writing order */
typedef struct AudJson AudJson;
struct AudJson
{
	AudJsonType type;
	bool		boolean;
	int			offset;			/* byte of the text form; -1: written as JSON */
	int			index;			/* in an array */
	int			nitems;			/* of an array or object */
	int			keylen;
	int			len;			/* bytes of text */
	const char *key;			/* in an object, else NULL; NUL-terminated */
	const char *text;			/* TEXT, NUMBER; NUL-terminated */
	AudJson    *parent;			/* for a whole text form: the "expr" it is in */
	AudJson    *first;
	AudJson    *last;
	AudJson    *next;
};

/* what is wrong with an input; all strings palloc'ed or static */
typedef struct AudRuleError
{
	int			sqlerrcode;		/* 0: nothing */
	const char *message;		/* of a limit; NULL: "invalid rule" */
	const char *location;		/* what stands after "At "; NULL for limits */
	const char *problem;		/* a clause; for limits a whole sentence */
	const char *hint;			/* or NULL */
} AudRuleError;

typedef struct AudParse
{
	const char *input;
	int			len;
	int			nleaves;
	int64		ndigits;		/* that its numbers are printed with */
	AudRuleError *error;
} AudParse;

/* a constant before it is flattened */
typedef struct AudConst AudConst;
struct AudConst
{
	AudValueType type;
	int			len;			/* TEXT: bytes; LIST: items */
	bool		boolean;
	int64		int64value;		/* TIME, DURATION */
	const char *text;
	Numeric		number;
	Jsonb	   *json;
	AudConst  **items;
};

typedef struct AudItemStep
{
	AudStepKind kind;
	int			index;
	const char *key;
	int			keylen;
} AudItemStep;

typedef struct AudItemPath
{
	AudPathRoot root;
	int			nsteps;
	AudItemStep *steps;
} AudItemPath;

typedef struct AudItemName
{
	const char *name;
	int			len;
	bool		is_prefix;
} AudItemName;

typedef struct AudItemNames
{
	bool		is_list;
	int			nnames;
	AudItemName *names;
} AudItemNames;

/* a node before it is flattened; offsets and counts in "node" are not set */
typedef struct AudItem AudItem;
struct AudItem
{
	AudNode		node;
	AudItemPath *path;
	AudItemNames *names;
	AudConst   *value;
	AudItem    *first;
	AudItem    *last;
	AudItem    *next;
};

/* rule_parse.c */
extern AudRule *aud_rule_parse_soft(const char *input, int len, bool json_only,
									AudRuleError *error);
extern AudRule *aud_rule_parse_jsonb_soft(Jsonb *input, AudRuleError *error);
extern AudRule *aud_rule_parse_json(const char *input, int len);
extern void aud_rule_fail(AudParse *parse, const AudJson *where,
						  const char *format,...) pg_attribute_printf(3, 4);
extern void aud_rule_fail_at(AudParse *parse, const AudJson *holder, int offset,
							 const char *format,...) pg_attribute_printf(4, 5);
extern void aud_rule_fail_limit(AudParse *parse, int sqlerrcode,
								const char *message, const char *detail);
extern void aud_rule_hint(AudParse *parse, const char *hint);

/* rule_read_json.c */
extern AudJson *aud_json_make(AudJsonType type, int offset);
extern AudJson *aud_json_make_text(AudJsonType type, int offset,
								   const char *text, int len);
extern void aud_json_add_item(AudJson *array, AudJson *item);
extern void aud_json_add_member(AudJson *object, const char *key, AudJson *value);
extern const AudJson *aud_json_member(const AudJson *object, const char *key);
extern AudJson *aud_json_read(AudParse *parse, const char *text, int len,
							  const AudJson *literal);
extern const char *aud_json_type_name(const AudJson *json);

/* rule_gram.y */
extern AudJson *aud_rule_read_text(AudParse *parse, const char *text, int len,
								   AudJson *holder);

/* rule_read.c */
extern AudItem *aud_rule_read(AudParse *parse, const AudJson *json, int depth,
							  bool in_where);
extern AudItem *aud_item_make(AudNodeKind kind);
extern bool aud_read_check_keys(AudParse *parse, const AudJson *object,
								const char *own, const char *const *others);
extern bool aud_read_operator(AudParse *parse, const AudJson *object,
							  const AudJson **op);

/* rule_read_event.c */
extern AudItem *aud_read_event(AudParse *parse, const AudJson *object, int depth);
extern AudItem *aud_read_sequence(AudParse *parse, const AudJson *object,
								  int depth);

/* rule_check.c */
extern bool aud_check_test(AudParse *parse, const AudJson *node,
						   const AudJson *op, const AudJson *value,
						   const AudJson *ci, AudItem *item);
extern bool aud_check_bool(AudParse *parse, const AudJson *json, bool *result);
extern bool aud_check_text(AudParse *parse, const AudJson *json);
extern bool aud_check_time(AudParse *parse, const AudJson *json,
						   TimestampTz *result);
extern bool aud_check_duration(AudParse *parse, const AudJson *json,
							   int64 *result);

/* rule_const.c */
extern AudConst *aud_const_make(AudParse *parse, const AudJson *json);
extern AudConst *aud_const_make_text(const char *text, int len);
extern Numeric aud_const_number(AudParse *parse, const AudJson *json);

/* rule_path.c */
extern AudItemPath *aud_path_read(AudParse *parse, const AudJson *json,
								  bool in_where);
extern void aud_path_append_json(StringInfo buf, const AudRule *rule,
								 const AudPath *path, bool in_where);
extern void aud_path_append_text(StringInfo buf, const AudRule *rule,
								 const AudPath *path, bool in_where,
								 bool is_property);
extern void aud_path_append_quoted(StringInfo buf, const char *key, int len);
extern bool aud_word_is_name(const char *word, int len);
extern bool aud_word_is_reserved(const char *word, int len);

/* rule_names.c */
extern const char *aud_op_name(AudOp op, bool negated);
extern bool aud_op_find(const char *name, AudOp *op, bool *negated);
extern const char *aud_aggregate_name(AudAggregate aggregate);
extern bool aud_aggregate_find(const char *name, AudAggregate *aggregate);
extern bool aud_aggregate_needs_property(AudAggregate aggregate);

/* rule_build.c */
extern AudRule *aud_rule_build(const AudItem *root);
extern AudItem *aud_rule_unbuild(const AudRule *rule, const AudNode *node);
extern void aud_item_add(AudItem *parent, AudItem *child);

/* rule_json.c: how a subtree is printed */
#define AUD_PRINT_IN_WHERE		0x01	/* "$type" and the like are not keys */
#define AUD_PRINT_IDENTITY		0x02	/* the top EVENT without its test */

extern void aud_rule_append_json_flags(StringInfo buf, const AudRule *rule,
									   const AudNode *node, int flags);
extern bool aud_node_is_in_where(const AudRule *rule, const AudNode *node);
extern bool aud_node_has_default_test(const AudRule *rule, const AudNode *node);
extern void aud_append_percent(StringInfo buf, float8 percent);
extern void aud_append_number(StringInfo buf, Numeric number);

#endif							/* AUD_RULE_PARSE_H */
