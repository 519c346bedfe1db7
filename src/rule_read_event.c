/*-------------------------------------------------------------------------
 *
 * rule_read_event.c
 *	  The nodes of rules that are about events: events and sequences.
 *
 * SPEC 2.2, 2.5.  Part of what rule_read.c does; "where" leads back there.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "rule_parse.h"

static const char *const step_keys[] = {"event", "where", "within", "absent", NULL};
static const char *const window_keys[] = {"last", "from", "to", NULL};

/* Reads an event type, a prefix with "*" or "*" into *name. */
static bool
read_name(AudParse *parse, const AudJson *json, AudItemName *name)
{
	if (!aud_check_text(parse, json))
		return false;
	if (json->len == 0)
	{
		aud_rule_fail(parse, json, "an event type cannot be empty");
		return false;
	}
	if (json->len > AUD_MAX_NAME_BYTES)
	{
		aud_rule_fail(parse, json, "an event type has at most %d bytes", AUD_MAX_NAME_BYTES);
		return false;
	}
	name->name = json->text;
	name->is_prefix = json->text[json->len - 1] == '*';
	name->len = name->is_prefix ? json->len - 1 : json->len;
	return true;
}

/* The event types of "event"; NULL and a failure if it has none. */
static AudItemNames *
read_names(AudParse *parse, const AudJson *json)
{
	AudItemNames *names = palloc0(sizeof(AudItemNames));

	names->is_list = json->type == AUD_JSON_ARRAY;
	if (!names->is_list)
	{
		if (json->type != AUD_JSON_TEXT)
		{
			aud_rule_fail(parse, json, "must be an event type or a list of them, not %s",
						  aud_json_type_name(json));
			return NULL;
		}
		names->nnames = 1;
		names->names = palloc0(sizeof(AudItemName));
		return read_name(parse, json, names->names) ? names : NULL;
	}

	if (json->nitems == 0)
	{
		aud_rule_fail(parse, json, "the list of event types is empty");
		return NULL;
	}
	names->names = palloc0(json->nitems * sizeof(AudItemName));
	for (const AudJson *item = json->first; item; item = item->next)
	{
		CHECK_FOR_INTERRUPTS();
		if (!read_name(parse, item, &names->names[names->nnames++]))
			return NULL;
	}
	return names;
}

/* Reads the "window" of an event or a sequence. */
static bool
read_window(AudParse *parse, const AudJson *json, AudItem *item)
{
	const AudJson *last;
	const AudJson *from;
	const AudJson *to;

	if (json->type != AUD_JSON_OBJECT)
	{
		aud_rule_fail(parse, json, "a window is an object with \"last\", or \"from\" and \"to\", not %s",
					  aud_json_type_name(json));
		return false;
	}
	if (!aud_read_check_keys(parse, json, NULL, window_keys))
		return false;
	last = aud_json_member(json, "last");
	from = aud_json_member(json, "from");
	to = aud_json_member(json, "to");

	if (last != NULL)
	{
		if (from != NULL || to != NULL)
		{
			aud_rule_fail(parse, from ? from : to, "a window with \"last\" has no \"%s\"",
						  from ? "from" : "to");
			return false;
		}
		item->node.flags |= AUD_WINDOW_LAST;
		return aud_check_duration(parse, last, &item->node.from);
	}
	if (from == NULL)
	{
		aud_rule_fail(parse, json, "a window needs \"last\" or \"from\"");
		return false;
	}

	item->node.flags |= AUD_WINDOW_RANGE;
	item->node.to = PG_INT64_MAX;
	if (!aud_check_time(parse, from, &item->node.from) ||
		(to != NULL && !aud_check_time(parse, to, &item->node.to)))
		return false;
	if (item->node.from >= item->node.to)
	{
		aud_rule_fail(parse, to, "a window must end after it begins");
		return false;
	}
	return true;
}

/* Reads the "where" of an event or a step, if there is one, as its child. */
static bool
read_where(AudParse *parse, const AudJson *object, int depth, AudItem *item)
{
	const AudJson *where = aud_json_member(object, "where");
	AudItem    *child;

	if (where == NULL)
		return true;
	child = aud_rule_read(parse, where, depth + 1, true);
	if (child == NULL)
		return false;
	aud_item_add(item, child);
	return true;
}

/* Reads which aggregate of which property an event node is of. */
static bool
read_aggregate(AudParse *parse, const AudJson *object, AudItem *item)
{
	const AudJson *json = aud_json_member(object, "aggregate");
	const AudJson *property = aud_json_member(object, "property");
	AudAggregate aggregate = AUD_AGG_COUNT;

	if (json != NULL)
	{
		if (!aud_check_text(parse, json))
			return false;
		if (!aud_aggregate_find(json->text, &aggregate))
		{
			aud_rule_fail(parse, json, "unknown aggregate \"%s\"", json->text);
			return false;
		}
	}
	item->node.aggregate = aggregate;

	if (property != NULL)
	{
		item->path = aud_path_read(parse, property, false);
		return item->path != NULL;
	}
	if (aud_aggregate_needs_property(aggregate))
	{
		Assert(json != NULL);	/* count, the default, needs none */
		aud_rule_fail(parse, json, "aggregate \"%s\" needs a property", json->text);
		return false;
	}
	return true;
}

/* Reads the test of an event node: without one, a count of at least 1. */
static bool
read_event_test(AudParse *parse, const AudJson *object, AudItem *item)
{
	const AudJson *value = aud_json_member(object, "value");
	const AudJson *ci = aud_json_member(object, "ci");
	const AudJson *op;
	AudJson    *one;
	bool		fold = false;

	if (!aud_read_operator(parse, object, &op))
		return false;
	if (op != NULL)
		return aud_check_test(parse, object, op, value, ci, item);

	if (item->node.aggregate != AUD_AGG_COUNT)
	{
		aud_rule_fail(parse, object, "aggregate \"%s\" needs an operator",
					  aud_aggregate_name(item->node.aggregate));
		return false;
	}
	if (value != NULL)
	{
		aud_rule_fail(parse, value, "a value needs an operator");
		return false;
	}
	if (ci != NULL && !aud_check_bool(parse, ci, &fold))
		return false;
	if (fold)
	{
		aud_rule_fail(parse, ci, "operator \"gte\" cannot ignore case");
		return false;
	}
	one = aud_json_make_text(AUD_JSON_NUMBER, -1, "1", 1);
	item->node.op = AUD_OP_GTE;
	item->value = aud_const_make(parse, one);
	return true;
}

/* Reads an event node. */
AudItem *
aud_read_event(AudParse *parse, const AudJson *object, int depth)
{
	AudItem    *item = aud_item_make(AUD_NODE_EVENT);
	const AudJson *window = aud_json_member(object, "window");

	item->names = read_names(parse, aud_json_member(object, "event"));
	if (item->names == NULL ||
		!read_where(parse, object, depth, item) ||
		!read_aggregate(parse, object, item) ||
		!read_event_test(parse, object, item) ||
		(window != NULL && !read_window(parse, window, item)))
		return NULL;
	return item;
}

/*
 * Reads one step of a sequence.  "previous" is the one before, or NULL; what
 * a step may have depends on where it stands.
 */
static AudItem *
read_step(AudParse *parse, const AudJson *json, int depth,
		  const AudItem *previous)
{
	AudItem    *item = aud_item_make(AUD_NODE_STEP);
	bool		is_last = json->next == NULL;
	const AudJson *event;
	const AudJson *within;
	const AudJson *absent;
	bool		is_absent = false;

	if (json->type != AUD_JSON_OBJECT)
	{
		aud_rule_fail(parse, json, "a step is an object with \"event\", not %s",
					  aud_json_type_name(json));
		return NULL;
	}
	if (!aud_read_check_keys(parse, json, NULL, step_keys))
		return NULL;
	event = aud_json_member(json, "event");
	within = aud_json_member(json, "within");
	absent = aud_json_member(json, "absent");
	if (event == NULL)
	{
		aud_rule_fail(parse, json, "a step needs \"event\"");
		return NULL;
	}
	item->names = read_names(parse, event);
	if (item->names == NULL ||
		!read_where(parse, json, depth, item) ||
		(absent != NULL && !aud_check_bool(parse, absent, &is_absent)))
		return NULL;
	if (within != NULL)
	{
		if (!aud_check_duration(parse, within, &item->node.arg.within))
			return NULL;
		item->node.flags |= AUD_HAS_WITHIN;
	}
	if (is_absent)
		item->node.flags |= AUD_ABSENT;

	if (previous == NULL && is_absent)
		aud_rule_fail(parse, absent, "the first step cannot be absent");
	else if (previous == NULL && within != NULL)
		aud_rule_fail(parse, within, "the first step cannot have \"within\"");
	else if (is_absent && !is_last && within != NULL)
		aud_rule_fail(parse, within, "only the last of the absent steps can have \"within\"");
	else if (is_absent && is_last && (previous->node.flags & AUD_ABSENT) != 0)
		aud_rule_fail(parse, absent, "two steps at the end cannot both be absent");
	else if (is_absent && is_last && within == NULL)
		aud_rule_fail(parse, json, "an absent last step needs \"within\"");
	else
		return item;
	return NULL;
}

/* Reads a sequence node. */
AudItem *
aud_read_sequence(AudParse *parse, const AudJson *object, int depth)
{
	AudItem    *item = aud_item_make(AUD_NODE_SEQUENCE);
	const AudJson *steps = aud_json_member(object, "sequence");
	const AudJson *window = aud_json_member(object, "window");

	if (steps->type != AUD_JSON_ARRAY || steps->nitems == 0)
	{
		aud_rule_fail(parse, steps, "a sequence is a list of at least one step");
		return NULL;
	}
	for (const AudJson *json = steps->first; json; json = json->next)
	{
		AudItem    *step = read_step(parse, json, depth, item->last);

		CHECK_FOR_INTERRUPTS();
		if (step == NULL)
			return NULL;
		aud_item_add(item, step);
	}
	if (window != NULL && !read_window(parse, window, item))
		return NULL;
	return item;
}
