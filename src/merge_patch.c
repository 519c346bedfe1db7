/*-------------------------------------------------------------------------
 *
 * merge_patch.c
 *	  JSON Merge Patch, RFC 7396.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "pass.h"

/* The object that a value is, NULL if it is none. */
static JsonbContainer *
as_object(const JsonbValue *value)
{
	if (value != NULL && value->type == jbvBinary &&
		JsonContainerIsObject(value->val.binary.data))
		return value->val.binary.data;
	return NULL;
}

static JsonbValue *push_merged(JsonbParseState **state, JsonbContainer *target, JsonbContainer *patch);

/* Pushes the patched value of one key. */
static void
push_value(JsonbParseState **state, const JsonbValue *target, JsonbValue *patch)
{
	JsonbContainer *object = as_object(patch);

	if (object != NULL)
		push_merged(state, as_object(target), object);
	else
		pushJsonbValue(state, WJB_VALUE, patch);
}

/*
 * Pushes, as an object, the target's keys with the patch's over them; where
 * the patch has null, none.  The target may be NULL for an empty one.  Returns
 * the object, if it is the outermost.
 */
static JsonbValue *
push_merged(JsonbParseState **state, JsonbContainer *target, JsonbContainer *patch)
{
	JsonbIterator *it;
	JsonbValue	key,
				value;
	JsonbIteratorToken token;

	check_stack_depth();
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	if (target != NULL)
	{
		it = JsonbIteratorInit(target);
		while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
		{
			if (token != WJB_KEY)
				continue;
			(void) JsonbIteratorNext(&it, &value, true);
			if (getKeyJsonValueFromContainer(patch, key.val.string.val,
											 key.val.string.len, NULL) != NULL)
				continue;
			pushJsonbValue(state, WJB_KEY, &key);
			pushJsonbValue(state, WJB_VALUE, &value);
		}
	}
	it = JsonbIteratorInit(patch);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		JsonbValue *old = NULL;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		if (value.type == jbvNull)
			continue;
		if (target != NULL)
			old = getKeyJsonValueFromContainer(target, key.val.string.val,
											   key.val.string.len, NULL);
		pushJsonbValue(state, WJB_KEY, &key);
		push_value(state, old, &value);
	}
	return pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* The target with the patch applied, both objects; palloc'ed. */
Jsonb *
aud_merge_patch(Jsonb *target, Jsonb *patch)
{
	JsonbParseState *state = NULL;

	return JsonbValueToJsonb(push_merged(&state, &target->root, &patch->root));
}
