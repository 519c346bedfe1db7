/*-------------------------------------------------------------------------
 *
 * rule_build.c
 *	  Flattening a tree of AudItem to an AudRule, and back.
 *
 * The format is drawn in rule.h.  The nodes are counted first, so that the
 * place of everything after them is known while it is written.  All bytes that
 * mean nothing are zero: equal items give equal bytes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "rule_parse.h"

typedef struct Builder
{
	StringInfoData buf;			/* the rule as far as it is written */
	uint32		nnodes;			/* written */
	uint32		nleaves;
	int			depth;
	uint8		needs;
} Builder;

/* Appends a child to an item. */
void
aud_item_add(AudItem *parent, AudItem *child)
{
	child->next = NULL;
	if (parent->last == NULL)
		parent->first = child;
	else
		parent->last->next = child;
	parent->last = child;
}

/* How many nodes an item's subtree has. */
static uint32
count_nodes(const AudItem *item)
{
	uint32		n = 1;

	check_stack_depth();
	for (const AudItem *child = item->first; child; child = child->next)
		n += count_nodes(child);
	return n;
}

/* Makes room for size bytes, 8-aligned and zero; returns their offset. */
static uint32
reserve(Builder *builder, Size size)
{
	StringInfo	buf = &builder->buf;
	int			begin = MAXALIGN(buf->len);

	if (size > MaxAllocSize)
		elog(ERROR, "rule is too large");
	enlargeStringInfo(buf, begin - buf->len + size);
	memset(buf->data + buf->len, 0, begin - buf->len + size);
	buf->len = begin + size;
	return begin;
}

/* Writes len bytes and a NUL; returns their offset. */
static uint32
write_text(Builder *builder, const char *text, int len)
{
	uint32		offset = reserve(builder, len + 1);

	memcpy(builder->buf.data + offset, text, len);
	return offset;
}

/* Writes a path; returns its offset, 0 for none. */
static uint32
write_path(Builder *builder, const AudItemPath *path)
{
	uint32		offset;

	if (path == NULL)
		return 0;
	offset = reserve(builder, offsetof(AudPath, steps) +
					 path->nsteps * sizeof(AudPathStep));
	for (int i = 0; i < path->nsteps; i++)
	{
		const AudItemStep *from = &path->steps[i];
		uint32		key = 0;
		AudPath    *flat;

		/* writing may move the buffer */
		if (from->key != NULL)
			key = write_text(builder, from->key, from->keylen);
		flat = (AudPath *) (builder->buf.data + offset);
		flat->steps[i].kind = from->kind;
		flat->steps[i].index = from->index;
		flat->steps[i].key = key;
		flat->steps[i].keylen = from->keylen;
		if (from->kind == AUD_STEP_EACH)
			flat->has_each = true;
	}
	((AudPath *) (builder->buf.data + offset))->root = path->root;
	((AudPath *) (builder->buf.data + offset))->nsteps = path->nsteps;
	return offset;
}

/* Writes event types; returns their offset, 0 for none. */
static uint32
write_names(Builder *builder, const AudItemNames *names)
{
	uint32		offset;
	AudNames   *flat;

	if (names == NULL)
		return 0;
	offset = reserve(builder, offsetof(AudNames, names) +
					 names->nnames * sizeof(AudName));
	for (int i = 0; i < names->nnames; i++)
	{
		const AudItemName *from = &names->names[i];
		uint32		name = write_text(builder, from->name, from->len);

		flat = (AudNames *) (builder->buf.data + offset);
		flat->names[i].name = name;
		flat->names[i].len = from->len;
		flat->names[i].is_prefix = from->is_prefix;
	}
	flat = (AudNames *) (builder->buf.data + offset);
	flat->nnames = names->nnames;
	flat->is_list = names->is_list;
	return offset;
}

/* Writes a value's head and bytes; returns its offset. */
static uint32
write_bytes(Builder *builder, AudValueType type, uint32 len,
			const void *bytes, Size size)
{
	uint32		offset = reserve(builder, offsetof(AudValue, data) + size);
	AudValue   *flat = (AudValue *) (builder->buf.data + offset);

	flat->type = type;
	flat->len = len;
	if (bytes != NULL)
		memcpy(flat->data, bytes, size);
	return offset;
}

/* Writes a constant; returns its offset, 0 for none.  Lists are one level. */
static uint32
write_value(Builder *builder, const AudConst *value)
{
	uint32		offset;

	if (value == NULL)
		return 0;
	switch (value->type)
	{
		case AUD_VALUE_BOOL:
			return write_bytes(builder, value->type, value->boolean ? 1 : 0,
							   NULL, 0);
		case AUD_VALUE_NUMBER:
			return write_bytes(builder, value->type, VARSIZE(value->number),
							   value->number, VARSIZE(value->number));
		case AUD_VALUE_TEXT:
			offset = write_bytes(builder, value->type, value->len,
								 NULL, value->len + 1);
			memcpy(builder->buf.data + offset + offsetof(AudValue, data),
				   value->text, value->len);
			return offset;
		case AUD_VALUE_JSON:
			return write_bytes(builder, value->type, VARSIZE(value->json),
							   value->json, VARSIZE(value->json));
		case AUD_VALUE_LIST:
			offset = write_bytes(builder, value->type, value->len, NULL,
								 value->len * sizeof(uint32));
			for (int i = 0; i < value->len; i++)
			{
				uint32		item = write_value(builder, value->items[i]);
				AudValue   *flat = (AudValue *) (builder->buf.data + offset);

				CHECK_FOR_INTERRUPTS();
				((uint32 *) flat->data)[i] = item;
			}
			return offset;
		case AUD_VALUE_TIME:
		case AUD_VALUE_DURATION:
			return write_bytes(builder, value->type, sizeof(int64),
							   &value->int64value, sizeof(int64));
	}
	elog(ERROR, "unrecognized type of rule value: %d", (int) value->type);
	return 0;					/* keep compiler quiet */
}

/* What an evaluation of this node depends on, its children aside. */
static uint8
needs_of(const AudNode *node)
{
	uint8		needs = 0;

	if (node->kind == AUD_NODE_EVENT || node->kind == AUD_NODE_SEQUENCE)
		needs |= AUD_NEEDS_EVENTS;
	if (node->kind == AUD_NODE_SEGMENT)
		needs |= AUD_NEEDS_SEGMENTS;

	/* a last step that is absent holds only when its time is over */
	if (AUD_OP_IS_RELATIVE_TIME(node->op) ||
		(node->flags & AUD_WINDOW_LAST) != 0 ||
		(node->kind == AUD_NODE_STEP &&
		 (node->flags & AUD_ABSENT) != 0 && (node->flags & AUD_HAS_WITHIN) != 0))
		needs |= AUD_NEEDS_TIME;
	return needs;
}

/* How much deeper than a node its children are (SPEC 2.1). */
static int
depth_of_children(const AudNode *node)
{
	return node->kind == AUD_NODE_SEQUENCE ? 0 : 1;
}

/* Writes an item and its subtree. */
static void
write_item(Builder *builder, const AudItem *item, int depth)
{
	uint32		index = builder->nnodes++;
	AudNode		node = item->node;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	builder->needs |= needs_of(&node);
	builder->depth = Max(builder->depth, depth);
	if (node.kind == AUD_NODE_TRUE || node.kind == AUD_NODE_FALSE ||
		(node.kind >= AUD_NODE_FIELD && node.kind != AUD_NODE_STEP))
		builder->nleaves++;

	node.path = write_path(builder, item->path);
	node.names = write_names(builder, item->names);
	node.value = write_value(builder, item->value);
	node.nchildren = 0;
	for (const AudItem *child = item->first; child; child = child->next)
	{
		write_item(builder, child, depth + depth_of_children(&node));
		node.nchildren++;
	}
	node.nnodes = builder->nnodes - index;
	((AudRule *) builder->buf.data)->nodes[index] = node;
}

/* The flat rule of an item, palloc'ed. */
AudRule *
aud_rule_build(const AudItem *root)
{
	Builder		builder;
	uint32		nnodes = count_nodes(root);
	AudRule    *rule;

	memset(&builder, 0, sizeof(Builder));
	initStringInfo(&builder.buf);
	reserve(&builder, offsetof(AudRule, nodes) + nnodes * sizeof(AudNode));
	write_item(&builder, root, 1);
	Assert(builder.nnodes == nnodes);

	rule = (AudRule *) builder.buf.data;
	rule->version = AUD_RULE_VERSION;
	rule->needs = builder.needs;
	rule->depth = builder.depth;
	rule->nnodes = builder.nnodes;
	rule->nleaves = builder.nleaves;
	SET_VARSIZE(rule, builder.buf.len);
	return rule;
}

/* The item of a flat path; its keys stay in the rule. */
static AudItemPath *
unbuild_path(const AudRule *rule, const AudPath *flat)
{
	AudItemPath *path = palloc0(sizeof(AudItemPath));

	path->root = flat->root;
	path->nsteps = flat->nsteps;
	path->steps = palloc0((flat->nsteps + 1) * sizeof(AudItemStep));
	for (int i = 0; i < flat->nsteps; i++)
	{
		path->steps[i].kind = flat->steps[i].kind;
		path->steps[i].index = flat->steps[i].index;
		path->steps[i].keylen = flat->steps[i].keylen;
		if (flat->steps[i].key != 0)
			path->steps[i].key = AUD_AT(rule, flat->steps[i].key);
	}
	return path;
}

/* The item of flat event types; the names stay in the rule. */
static AudItemNames *
unbuild_names(const AudRule *rule, const AudNames *flat)
{
	AudItemNames *names = palloc0(sizeof(AudItemNames));

	names->is_list = flat->is_list != 0;
	names->nnames = flat->nnames;
	names->names = palloc0(flat->nnames * sizeof(AudItemName));
	for (uint32 i = 0; i < flat->nnames; i++)
	{
		names->names[i].name = AUD_AT(rule, flat->names[i].name);
		names->names[i].len = flat->names[i].len;
		names->names[i].is_prefix = flat->names[i].is_prefix != 0;
	}
	return names;
}

/* The constant of a flat value; what it points to stays in the rule. */
static AudConst *
unbuild_value(const AudRule *rule, const AudValue *flat)
{
	AudConst   *value = palloc0(sizeof(AudConst));

	value->type = flat->type;
	switch (value->type)
	{
		case AUD_VALUE_BOOL:
			value->boolean = flat->len != 0;
			break;
		case AUD_VALUE_NUMBER:
			value->number = AUD_VALUE_NUMERIC(flat);
			break;
		case AUD_VALUE_TEXT:
			value->text = AUD_VALUE_TEXT_PTR(flat);
			value->len = flat->len;
			break;
		case AUD_VALUE_JSON:
			value->json = AUD_VALUE_JSONB(flat);
			break;
		case AUD_VALUE_LIST:
			value->len = flat->len;
			value->items = palloc((flat->len + 1) * sizeof(AudConst *));
			for (uint32 i = 0; i < flat->len; i++)
				value->items[i] = unbuild_value(rule,
												AUD_VALUE_ITEM(rule, flat, i));
			break;
		case AUD_VALUE_TIME:
		case AUD_VALUE_DURATION:
			value->int64value = AUD_VALUE_INT64(flat);
			break;
	}
	return value;
}

/*
 * The item tree of a subtree, palloc'ed; texts and constants stay in the rule.
 * Building it again gives a rule of its own.
 */
AudItem *
aud_rule_unbuild(const AudRule *rule, const AudNode *node)
{
	AudItem    *item = palloc0(sizeof(AudItem));
	const AudNode *child = AUD_FIRST_CHILD(node);

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	item->node = *node;
	if (node->path != 0)
		item->path = unbuild_path(rule, AUD_NODE_PATH(rule, node));
	if (node->names != 0)
		item->names = unbuild_names(rule, AUD_NODE_NAMES(rule, node));
	if (node->value != 0)
		item->value = unbuild_value(rule, AUD_NODE_VALUE(rule, node));
	for (uint32 i = 0; i < node->nchildren; i++, child = AUD_NEXT_SIBLING(child))
		aud_item_add(item, aud_rule_unbuild(rule, child));
	return item;
}
