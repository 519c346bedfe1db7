/*-------------------------------------------------------------------------
 *
 * eval_equal.c
 *	  Is a value of a document equal to a constant of a rule?
 *
 * By JSON type: "5" is not 5.  Numbers are equal by value, texts by bytes (or
 * folded, with "ci"), objects and arrays deeply.  compareJsonbContainers() is
 * not used for the latter: it knows no folding and compares text by the
 * database's collation, which is slower and no more equal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "eval.h"
#include "eval_op.h"
#include "jsonb_walk.h"

/* Are two texts equal, folded if ci? */
static bool
texts_equal(const JsonbValue *a, const JsonbValue *b, bool ci)
{
	AudFoldRoom room_a;
	AudFoldRoom room_b;
	AudBytes	folded_a;
	AudBytes	folded_b;
	bool		result;

	if (a->val.string.len == b->val.string.len &&
		memcmp(a->val.string.val, b->val.string.val, a->val.string.len) == 0)
		return true;
	if (!ci)
		return false;
	folded_a = aud_text_fold(a->val.string.val, a->val.string.len, &room_a);
	folded_b = aud_text_fold(b->val.string.val, b->val.string.len, &room_b);
	result = folded_a.len == folded_b.len &&
		memcmp(folded_a.data, folded_b.data, folded_a.len) == 0;
	aud_text_fold_end(&room_a);
	aud_text_fold_end(&room_b);
	return result;
}

/* Are two scalars equal? */
static bool
scalars_equal(const JsonbValue *a, const JsonbValue *b, bool ci)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvString:
			return texts_equal(a, b, ci);
		case jbvNumeric:
			return aud_numeric_compare(a->val.numeric, b->val.numeric) == 0;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		default:
			return false;
	}
}

/* Frees an iterator that was not read to its end. */
static void
free_iterator(JsonbIterator *iterator)
{
	while (iterator != NULL)
	{
		JsonbIterator *parent = iterator->parent;

		pfree(iterator);
		iterator = parent;
	}
}

/*
 * Are two containers equal?  Both are read in step: keys are stored sorted
 * and once, so equal objects read the same.  Keys are never folded.
 */
static bool
containers_equal(JsonbContainer *a, JsonbContainer *b, bool ci)
{
	JsonbIterator *iterator_a;
	JsonbIterator *iterator_b;
	JsonbIteratorToken token;
	bool		equal;

	if (a->header != b->header)
		return false;
	iterator_a = JsonbIteratorInit(a);
	iterator_b = JsonbIteratorInit(b);
	do
	{
		JsonbValue	value_a;
		JsonbValue	value_b;

		CHECK_FOR_INTERRUPTS();
		token = JsonbIteratorNext(&iterator_a, &value_a, false);
		equal = JsonbIteratorNext(&iterator_b, &value_b, false) == token;
		if (!equal)
			break;
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				equal = value_a.val.array.nElems == value_b.val.array.nElems;
				break;
			case WJB_BEGIN_OBJECT:
				equal = value_a.val.object.nPairs == value_b.val.object.nPairs;
				break;
			case WJB_KEY:
				equal = scalars_equal(&value_a, &value_b, false);
				break;
			case WJB_VALUE:
			case WJB_ELEM:
				equal = scalars_equal(&value_a, &value_b, ci);
				break;
			default:
				break;
		}
		/* it takes enum constants that it does not know to be all there are */
		/* cppcheck-suppress knownConditionTrueFalse */
	} while (equal && token != WJB_DONE);
	free_iterator(iterator_a);
	free_iterator(iterator_b);
	return equal;
}

/*
 * Is the value equal to the constant?  With ci a text value comes in folded,
 * and "folded" is the constant's folded text where it is one.
 */
bool
aud_value_equal(const AudRule *rule, const AudValue *constant,
				const AudBytes *folded, bool ci, const JsonbValue *value)
{
	switch ((AudValueType) constant->type)
	{
		case AUD_VALUE_TEXT:
			if (value->type != jbvString)
				return false;
			if (ci)
				return value->val.string.len == folded->len &&
					aud_bytes_equal(value->val.string.val, folded->data,
									folded->len);
			return (uint32) value->val.string.len == constant->len &&
				aud_bytes_equal(value->val.string.val,
								AUD_VALUE_TEXT_PTR(constant), constant->len);
		case AUD_VALUE_NUMBER:
			return value->type == jbvNumeric &&
				aud_numeric_compare(value->val.numeric,
									AUD_VALUE_NUMERIC(constant)) == 0;
		case AUD_VALUE_BOOL:
			return value->type == jbvBool &&
				value->val.boolean == (constant->len != 0);
		case AUD_VALUE_JSON:
			return value->type == jbvBinary &&
				containers_equal(value->val.binary.data,
								 &AUD_VALUE_JSONB(constant)->root, ci);
		default:
			return false;
	}
}
