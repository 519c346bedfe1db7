/*-------------------------------------------------------------------------
 *
 * rule_read.c
 *	  The nodes of rules: from the JSON form's tree to a tree of AudItem.
 *
 * SPEC 2.2.  Which keys an object has decides what node it is.  Events and
 * sequences are read by rule_read_event.c, the tests of leaves by rule_check.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "rule_parse.h"

/* the keys that decide what an object is */
typedef enum KeyKind
{
	KEY_GROUP,					/* all and the like */
	KEY_NOT,
	KEY_CONDITIONS,				/* a group with its logic beside it */
	KEY_FIELD,
	KEY_EVENT,
	KEY_SEQUENCE,
	KEY_SEGMENT,
	KEY_SAMPLE,
	KEY_EXPR
} KeyKind;

typedef struct NodeKey
{
	const char *key;
	KeyKind		kind;
	AudNodeKind node;			/* of KEY_GROUP */
	const char *const *others;	/* the keys that may stand beside it */
} NodeKey;

static const char *const no_keys[] = {NULL};
static const char *const conditions_keys[] = {"logic", "combinator", "operator", "op", NULL};
static const char *const field_keys[] = {"operator", "op", "value", "ci", NULL};
static const char *const event_keys[] = {
	"where", "aggregate", "property", "operator", "op", "value", "ci", "window", NULL
};
static const char *const sequence_keys[] = {"window", NULL};
static const char *const segment_keys[] = {"operator", "op", NULL};
static const char *const sample_keys[] = {"percent", "seed", NULL};

static const NodeKey node_keys[] = {
	{"all", KEY_GROUP, AUD_NODE_ALL, no_keys},
	{"and", KEY_GROUP, AUD_NODE_ALL, no_keys},
	{"any", KEY_GROUP, AUD_NODE_ANY, no_keys},
	{"or", KEY_GROUP, AUD_NODE_ANY, no_keys},
	{"none", KEY_GROUP, AUD_NODE_NONE, no_keys},
	{"not", KEY_NOT, AUD_NODE_NOT, no_keys},
	{"conditions", KEY_CONDITIONS, AUD_NODE_ALL, conditions_keys},
	{"rules", KEY_CONDITIONS, AUD_NODE_ALL, conditions_keys},
	{"field", KEY_FIELD, AUD_NODE_FIELD, field_keys},
	{"event", KEY_EVENT, AUD_NODE_EVENT, event_keys},
	{"sequence", KEY_SEQUENCE, AUD_NODE_SEQUENCE, sequence_keys},
	{"segment", KEY_SEGMENT, AUD_NODE_SEGMENT, segment_keys},
	{"sample", KEY_SAMPLE, AUD_NODE_SAMPLE, no_keys},
	{"expr", KEY_EXPR, AUD_NODE_TRUE, no_keys}
};

/* The row of a key that decides, or NULL. */
static const NodeKey *
find_node_key(const char *key)
{
	for (size_t i = 0; i < lengthof(node_keys); i++)
	{
		if (strcmp(node_keys[i].key, key) == 0)
			return &node_keys[i];
	}
	return NULL;
}

/* Is a key one of a list that ends with NULL? */
static bool
is_one_of(const char *key, const char *const *keys)
{
	for (; *keys != NULL; keys++)
	{
		if (strcmp(*keys, key) == 0)
			return true;
	}
	return false;
}

/* False and a failure if a key of an object is neither "own" nor in the list. */
bool
aud_read_check_keys(AudParse *parse, const AudJson *object, const char *own,
					const char *const *others)
{
	for (const AudJson *member = object->first; member; member = member->next)
	{
		if ((own != NULL && strcmp(member->key, own) == 0) ||
			is_one_of(member->key, others))
			continue;
		aud_rule_fail(parse, member, "unknown key \"%s\"", member->key);
		return false;
	}
	return true;
}

/* A new item of a kind. */
AudItem *
aud_item_make(AudNodeKind kind)
{
	AudItem    *item = palloc0(sizeof(AudItem));

	item->node.kind = kind;
	return item;
}

/*
 * The operator of an object under either of its keys, NULL if it has none.
 * False and a failure if it has both.
 */
bool
aud_read_operator(AudParse *parse, const AudJson *object, const AudJson **op)
{
	const AudJson *shorter = aud_json_member(object, "op");

	*op = aud_json_member(object, "operator");
	if (*op != NULL && shorter != NULL)
	{
		aud_rule_fail(parse, shorter, "\"operator\" is there already");
		return false;
	}
	if (*op == NULL)
		*op = shorter;
	return true;
}

/* Counts a leaf; false and a failure if there are too many. */
static bool
count_leaf(AudParse *parse)
{
	if (++parse->nleaves <= AUD_MAX_LEAVES)
		return true;
	aud_rule_fail_limit(parse, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						"rule has too many leaves",
						psprintf("The limit is %d.", AUD_MAX_LEAVES));
	return false;
}

/* Reads the rules of a group into it. */
static bool
read_children(AudParse *parse, const AudJson *list, int depth, bool in_where,
			  AudItem *group)
{
	if (list->type != AUD_JSON_ARRAY)
	{
		aud_rule_fail(parse, list, "\"%s\" takes a list of rules, not %s",
					  list->key, aud_json_type_name(list));
		return false;
	}
	for (const AudJson *child = list->first; child; child = child->next)
	{
		AudItem    *item = aud_rule_read(parse, child, depth + 1, in_where);

		if (item == NULL)
			return false;
		aud_item_add(group, item);
	}
	return true;
}

/* The kind of group that "conditions" or "rules" makes. */
static bool
read_logic(AudParse *parse, const AudJson *object, AudItem *group)
{
	const AudJson *logic = NULL;
	char	   *word;
	const NodeKey *found;

	for (const AudJson *member = object->first; member; member = member->next)
	{
		if (!is_one_of(member->key, conditions_keys))
			continue;
		if (logic != NULL)
		{
			aud_rule_fail(parse, member, "\"%s\" is there already", logic->key);
			return false;
		}
		logic = member;
	}
	if (logic == NULL)
		return true;
	if (!aud_check_text(parse, logic))
		return false;

	word = pstrdup(logic->text);
	for (char *p = word; *p != '\0'; p++)
		*p = pg_ascii_tolower((unsigned char) *p);
	found = find_node_key(word);
	if (found == NULL || found->kind != KEY_GROUP)
	{
		aud_rule_fail(parse, logic, "unknown logic \"%s\"; it is \"all\", \"any\" or \"none\"",
					  logic->text);
		return false;
	}
	group->node.kind = found->node;
	return true;
}

/* Reads a segment node. */
static AudItem *
read_segment(AudParse *parse, const AudJson *object)
{
	AudItem    *item = aud_item_make(AUD_NODE_SEGMENT);
	const AudJson *id = aud_json_member(object, "segment");
	const AudJson *op;

	if (!aud_check_text(parse, id) || !aud_read_operator(parse, object, &op))
		return NULL;
	if (id->len == 0)
	{
		aud_rule_fail(parse, id, "a segment's id cannot be empty");
		return NULL;
	}
	item->value = aud_const_make_text(id->text, id->len);
	if (op == NULL)
		return item;

	if (!aud_check_text(parse, op))
		return NULL;
	if (strcmp(op->text, "not_in") == 0)
		item->node.flags |= AUD_NEGATED;
	else if (strcmp(op->text, "in") != 0)
	{
		aud_rule_fail(parse, op, "unknown operator \"%s\"; of a segment it is \"in\" or \"not_in\"",
					  op->text);
		return NULL;
	}
	return item;
}

/* Reads a sample node. */
static AudItem *
read_sample(AudParse *parse, const AudJson *json)
{
	AudItem    *item = aud_item_make(AUD_NODE_SAMPLE);
	const AudJson *percent;
	const AudJson *seed;

	if (json->type != AUD_JSON_OBJECT)
	{
		aud_rule_fail(parse, json, "a sample is an object with \"percent\" and \"seed\", not %s",
					  aud_json_type_name(json));
		return NULL;
	}
	if (!aud_read_check_keys(parse, json, NULL, sample_keys))
		return NULL;
	percent = aud_json_member(json, "percent");
	seed = aud_json_member(json, "seed");
	if (percent == NULL || seed == NULL)
	{
		aud_rule_fail(parse, json, "a sample needs \"%s\"", percent ? "seed" : "percent");
		return NULL;
	}
	if (percent->type != AUD_JSON_NUMBER)
	{
		aud_rule_fail(parse, percent, "must be a number, not %s", aud_json_type_name(percent));
		return NULL;
	}

	/* what JSON calls a number, strtod() takes whole; -0 becomes 0 */
	item->node.arg.percent = strtod(percent->text, NULL) + 0.0;
	if (!(item->node.arg.percent >= 0 && item->node.arg.percent <= 100))
	{
		aud_rule_fail(parse, percent, "a percentage is between 0 and 100");
		return NULL;
	}
	if (!aud_check_text(parse, seed))
		return NULL;
	item->value = aud_const_make_text(seed->text, seed->len);
	return item;
}

/* Reads a predicate over a field. */
static AudItem *
read_field(AudParse *parse, const AudJson *object, bool in_where)
{
	AudItem    *item = aud_item_make(AUD_NODE_FIELD);
	const AudJson *op;

	item->path = aud_path_read(parse, aud_json_member(object, "field"), in_where);
	if (item->path == NULL || !aud_read_operator(parse, object, &op))
		return NULL;
	if (op == NULL)
	{
		aud_rule_fail(parse, object, "a field needs an operator");
		return NULL;
	}
	if (!aud_check_test(parse, object, op, aud_json_member(object, "value"),
						aud_json_member(object, "ci"), item))
		return NULL;
	return item;
}

/*
 * The key that decides what an object is, in *member.  NULL and a failure if
 * there is none, or more than one.
 */
static const NodeKey *
find_node_kind(AudParse *parse, const AudJson *object, const AudJson **member)
{
	const NodeKey *found = NULL;

	*member = NULL;
	for (const AudJson *other = object->first; other; other = other->next)
	{
		const NodeKey *key = find_node_key(other->key);

		if (key == NULL)
			continue;
		if (found != NULL)
		{
			aud_rule_fail(parse, object, "\"%s\" and \"%s\" cannot stand in one object",
						  (*member)->key, other->key);
			return NULL;
		}
		found = key;
		*member = other;
	}
	if (found != NULL)
		return found;

	for (const AudJson *other = object->first; other; other = other->next)
	{
		if (!is_one_of(other->key, event_keys) && !is_one_of(other->key, conditions_keys))
		{
			aud_rule_fail(parse, other, "unknown key \"%s\"", other->key);
			return NULL;
		}
	}
	if (object->nitems == 0)
		aud_rule_fail(parse, object, "an empty object is not a rule");
	else
		aud_rule_fail(parse, object, "a rule needs \"all\", \"any\", \"none\", \"not\", \"field\", \"event\", \"sequence\", \"segment\", \"sample\" or \"expr\"");
	return NULL;
}

/*
 * Reads a rule.  "depth" is the depth of this node, the root's being 1;
 * "in_where": it is about one event.  The item and what hangs on it may point
 * into the input's tree.  NULL and a failure if it is not a rule.
 */
AudItem *
aud_rule_read(AudParse *parse, const AudJson *json, int depth, bool in_where)
{
	const NodeKey *key;
	const AudJson *own;
	AudItem    *item;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	if (depth > AUD_MAX_DEPTH)
	{
		aud_rule_fail_limit(parse, ERRCODE_STATEMENT_TOO_COMPLEX,
							"rule is nested too deeply",
							psprintf("The limit is a depth of %d.", AUD_MAX_DEPTH));
		return NULL;
	}

	if (json->type == AUD_JSON_BOOL)
		return count_leaf(parse) ?
			aud_item_make(json->boolean ? AUD_NODE_TRUE : AUD_NODE_FALSE) : NULL;
	if (json->type != AUD_JSON_OBJECT)
	{
		aud_rule_fail(parse, json, "a rule is an object, true or false, not %s",
					  aud_json_type_name(json));
		return NULL;
	}

	key = find_node_kind(parse, json, &own);
	if (key == NULL || !aud_read_check_keys(parse, json, key->key, key->others))
		return NULL;

	switch (key->kind)
	{
		case KEY_GROUP:
			item = aud_item_make(key->node);
			return read_children(parse, own, depth, in_where, item) ? item : NULL;

		case KEY_CONDITIONS:
			item = aud_item_make(key->node);
			return read_logic(parse, json, item) &&
				read_children(parse, own, depth, in_where, item) ? item : NULL;

		case KEY_NOT:
			{
				AudItem    *child = aud_rule_read(parse, own, depth + 1, in_where);

				if (child == NULL)
					return NULL;
				item = aud_item_make(AUD_NODE_NOT);
				aud_item_add(item, child);
				return item;
			}

		case KEY_EXPR:
			if (!aud_check_text(parse, own))
				return NULL;
			json = aud_rule_read_text(parse, own->text, own->len,
									  unconstify(AudJson *, own));
			return json ? aud_rule_read(parse, json, depth, in_where) : NULL;

		case KEY_FIELD:
			return count_leaf(parse) ? read_field(parse, json, in_where) : NULL;

		case KEY_EVENT:
		case KEY_SEQUENCE:
		case KEY_SEGMENT:
		case KEY_SAMPLE:
			break;
	}

	if (in_where)
	{
		aud_rule_fail(parse, json, "\"%s\" cannot stand in \"where\"", key->key);
		return NULL;
	}
	if (!count_leaf(parse))
		return NULL;
	switch (key->kind)
	{
		case KEY_EVENT:
			return aud_read_event(parse, json, depth);
		case KEY_SEQUENCE:
			return aud_read_sequence(parse, json, depth);
		case KEY_SEGMENT:
			return read_segment(parse, json);
		default:
			return read_sample(parse, own);
	}
}
