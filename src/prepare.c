/*-------------------------------------------------------------------------
 *
 * prepare.c
 *	  Working out of a leaf's constants what need not be worked out for every
 *	  value: folded texts, patterns as PostgreSQL's regex cache wants them, and
 *	  long lists arranged for looking up.
 *
 * A rule itself is flat and shared, and its form on disk is not the place for
 * a hash table; so this lives beside it, made by whoever will evaluate the
 * rule many times.  aud_value_holds() makes what a leaf cannot do without for
 * one value and frees it again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"

#include "eval.h"
#include "eval_op.h"
#include "prepare.h"

/* shorter lists are searched as they are */
#define SET_THRESHOLD	8

/*
 * A list arranged by type.  Texts are in an open hash table of a power of two
 * of slots, at most half full; numbers are sorted.
 */
struct AudValueSet
{
	const AudRule *rule;
	bool		ci;
	bool		has_bool[2];
	uint32		slot_mask;
	AudBytes   *slots;			/* data NULL: empty */
	int			nnumbers;
	Numeric    *numbers;
	int			njsons;
	const AudValue **jsons;
};

/* How many constants a leaf's value holds. */
static int
count_items(const AudValue *value)
{
	return value->type == AUD_VALUE_LIST ? (int) value->len : 1;
}

/* The i-th constant of a leaf's value. */
static const AudValue *
get_item(const AudRule *rule, const AudValue *value, int i)
{
	return value->type == AUD_VALUE_LIST ? AUD_VALUE_ITEM(rule, value, i) : value;
}

/* qsort comparator of Numerics. */
static int
compare_numbers(const void *a, const void *b)
{
	CHECK_FOR_INTERRUPTS();
	return aud_numeric_compare(*(const Numeric *) a, *(const Numeric *) b);
}

/*
 * The slot of a text: the one that holds it, or the empty one where it would
 * be put.
 */
static AudBytes *
find_slot(const AudValueSet *set, const char *data, int len)
{
	uint32		i = hash_bytes((const unsigned char *) data, len);

	for (;; i++)
	{
		AudBytes   *slot = &set->slots[i & set->slot_mask];

		if (slot->data == NULL ||
			(slot->len == len && memcmp(slot->data, data, len) == 0))
			return slot;
	}
}

/* Arranges a list, its texts as "folded" has them if that is not NULL. */
static AudValueSet *
make_set(const AudRule *rule, const AudValue *list, const AudBytes *folded)
{
	AudValueSet *set = palloc0(sizeof(AudValueSet));
	uint32		nslots = pg_nextpower2_32(list->len * 2);

	set->rule = rule;
	set->ci = folded != NULL;
	set->slot_mask = nslots - 1;
	set->slots = palloc0(sizeof(AudBytes) * nslots);
	set->numbers = palloc(sizeof(Numeric) * list->len);
	set->jsons = palloc(sizeof(AudValue *) * list->len);
	for (int i = 0; i < (int) list->len; i++)
	{
		const AudValue *item = AUD_VALUE_ITEM(rule, list, i);

		CHECK_FOR_INTERRUPTS();
		switch ((AudValueType) item->type)
		{
			case AUD_VALUE_TEXT:
				{
					AudBytes	text = {AUD_VALUE_TEXT_PTR(item), item->len};

					if (folded != NULL)
						text = folded[i];
					*find_slot(set, text.data, text.len) = text;
				}
				break;
			case AUD_VALUE_NUMBER:
				set->numbers[set->nnumbers++] = AUD_VALUE_NUMERIC(item);
				break;
			case AUD_VALUE_BOOL:
				set->has_bool[item->len != 0] = true;
				break;
			default:
				set->jsons[set->njsons++] = item;
				break;
		}
	}
	qsort(set->numbers, set->nnumbers, sizeof(Numeric), compare_numbers);
	return set;
}

/* Is the value in the set?  A text comes in folded where the leaf says ci. */
bool
aud_value_set_has(const AudValueSet *set, const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return find_slot(set, value->val.string.val,
							 value->val.string.len)->data != NULL;
		case jbvNumeric:
			return set->nnumbers > 0 &&
				bsearch(&value->val.numeric, set->numbers, set->nnumbers,
						sizeof(Numeric), compare_numbers) != NULL;
		case jbvBool:
			return set->has_bool[value->val.boolean];
		default:
			for (int i = 0; i < set->njsons; i++)
			{
				CHECK_FOR_INTERRUPTS();
				if (aud_value_equal(set->rule, set->jsons[i], NULL, set->ci,
									value))
					return true;
			}
			return false;
	}
}

/* A copy of the folded text, palloc'ed with a NUL behind it. */
static AudBytes
fold_constant(const AudValue *constant)
{
	AudFoldRoom room;
	AudBytes	folded = aud_text_fold(AUD_VALUE_TEXT_PTR(constant),
									   constant->len, &room);
	AudBytes	result = {pnstrdup(folded.data, folded.len), folded.len};

	aud_text_fold_end(&room);
	return result;
}

/* Prepares one leaf in the current context.  See eval_op.h. */
AudLeafPrepared *
aud_leaf_prepare(const AudRule *rule, const AudNode *leaf, bool lasting)
{
	bool		fold = (leaf->flags & AUD_CI) != 0 || leaf->op == AUD_OP_ILIKE;
	bool		regex = leaf->op == AUD_OP_REGEX || leaf->op == AUD_OP_IREGEX;
	const AudValue *value;
	bool		arrange;
	AudLeafPrepared *result;
	int			nitems;

	if (leaf->value == 0)
		return lasting ? palloc0(sizeof(AudLeafPrepared)) : NULL;
	value = AUD_NODE_VALUE(rule, leaf);
	arrange = lasting && value->type == AUD_VALUE_LIST &&
		value->len >= SET_THRESHOLD &&
		(leaf->op == AUD_OP_IN || leaf->op == AUD_OP_CONTAINS_ANY);
	if (!lasting && !fold && !regex)
		return NULL;

	result = palloc0(sizeof(AudLeafPrepared));
	nitems = count_items(value);
	if (fold)
		result->folded = palloc0(sizeof(AudBytes) * Max(nitems, 1));
	if (regex)
		result->patterns = palloc0(sizeof(text *) * Max(nitems, 1));
	for (int i = 0; i < nitems && (fold || regex); i++)
	{
		const AudValue *item = get_item(rule, value, i);

		CHECK_FOR_INTERRUPTS();
		if (item->type != AUD_VALUE_TEXT)
			continue;
		if (fold)
			result->folded[i] = fold_constant(item);
		if (regex)
			result->patterns[i] = cstring_to_text_with_len(AUD_VALUE_TEXT_PTR(item),
														   item->len);
	}
	if (arrange)
		result->set = make_set(rule, value, result->folded);
	return result;
}

/* Frees what aud_leaf_prepare() made when it was not meant to last. */
void
aud_leaf_prepared_free(AudLeafPrepared *prepared, const AudNode *leaf,
					   const AudRule *rule)
{
	int			nitems = count_items(AUD_NODE_VALUE(rule, leaf));

	Assert(prepared->set == NULL);
	for (int i = 0; i < nitems; i++)
	{
		if (prepared->folded != NULL && prepared->folded[i].data != NULL)
			pfree(unconstify(char *, prepared->folded[i].data));
		if (prepared->patterns != NULL && prepared->patterns[i] != NULL)
			pfree(prepared->patterns[i]);
	}
	if (prepared->folded != NULL)
		pfree(prepared->folded);
	if (prepared->patterns != NULL)
		pfree(prepared->patterns);
	pfree(prepared);
}

/* Keeps the key at hand where a single one is all of a field's path. */
static void
prepare_key(const AudRule *rule, const AudPath *path,
			AudLeafPrepared *prepared)
{
	if (path->root != AUD_ROOT_DOCUMENT || path->nsteps != 1 ||
		path->steps[0].kind == AUD_STEP_INDEX ||
		path->steps[0].kind == AUD_STEP_EACH)
		return;
	prepared->key = AUD_AT(rule, path->steps[0].key);
	prepared->keylen = path->steps[0].keylen;
}

/*
 * Prepares a rule for being evaluated many times, in the current context.
 * The rule must live as long as the result.
 */
AudPrepared *
aud_prepare(const AudRule *rule)
{
	AudPrepared *result = palloc0(offsetof(AudPrepared, leaves) +
								  sizeof(AudLeafPrepared *) * rule->nnodes);

	result->rule = rule;
	for (uint32 i = 0; i < rule->nnodes; i++)
	{
		const AudNode *node = &rule->nodes[i];

		if (node->kind == AUD_NODE_FIELD || node->kind == AUD_NODE_EVENT)
			result->leaves[i] = aud_leaf_prepare(rule, node, true);
		if (node->kind == AUD_NODE_FIELD)
			prepare_key(rule, AUD_NODE_PATH(rule, node), result->leaves[i]);
	}
	return result;
}
