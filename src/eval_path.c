/*-------------------------------------------------------------------------
 *
 * eval_path.c
 *	  Walking a path through a document.
 *
 * A key is looked up in objects only, an index in arrays only (from the end
 * when negative), an integer key in either.  A step that finds nothing, or a
 * value it does not apply to, makes the path missing: there is no unwrapping
 * of arrays on the way, [*] says where elements are meant.
 *
 * Values found point into the document; nothing is copied or allocated but by
 * aud_path_collect().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "eval.h"
#include "eval_op.h"
#include "jsonb_walk.h"

/*
 * One step that is not [*] from a value.  Returns the value found, which is
 * *room, or NULL.  "value" may itself be *room.
 */
const JsonbValue *
aud_path_step(const AudRule *rule, const AudPathStep *step,
			  const JsonbValue *value, JsonbValue *room)
{
	const JsonbContainer *container;

	if (value->type != jbvBinary)
		return NULL;
	container = value->val.binary.data;
	if (JsonContainerIsObject(container))
	{
		if (step->kind == AUD_STEP_INDEX)
			return NULL;
		return aud_jsonb_key(container, AUD_AT(rule, step->key), step->keylen,
							 room);
	}
	if (step->kind == AUD_STEP_KEY)
		return NULL;
	return aud_jsonb_element(container, step->index, room);
}

/*
 * The value at a path without [*], from a value that has used up its first
 * "nused" steps.  See eval.h.
 */
const JsonbValue *
aud_path_value(const AudRule *rule, const AudPath *path, int nused,
			   const JsonbValue *from, JsonbValue *room)
{
	const JsonbValue *value = from;

	Assert(!path->has_each);
	for (int i = nused; i < path->nsteps && value != NULL; i++)
		value = aud_path_step(rule, &path->steps[i], value, room);
	return value;
}

/*
 * Pushes each value that the steps from "istep" on reach onto *state.
 * Returns how many there were.
 */
static int64
collect(const AudRule *rule, const AudPath *path, int istep,
		const JsonbValue *value, JsonbParseState **state)
{
	JsonbValue	room;
	AudJsonbElements elements;
	JsonbValue	element;
	int64		count = 0;

	check_stack_depth();
	for (; value != NULL && istep < path->nsteps &&
		 path->steps[istep].kind != AUD_STEP_EACH; istep++)
		value = aud_path_step(rule, &path->steps[istep], value, &room);
	if (value == NULL)
		return 0;
	if (istep == path->nsteps)
	{
		JsonbValue	copy = *value;

		pushJsonbValue(state, WJB_ELEM, &copy);
		return 1;
	}
	if (!aud_jsonb_is_array(value))
		return 0;
	aud_jsonb_elements_begin(&elements, value->val.binary.data);
	while (aud_jsonb_elements_next(&elements, &element))
	{
		CHECK_FOR_INTERRUPTS();
		count += collect(rule, path, istep + 1, &element, state);
	}
	return count;
}

/*
 * A path's value, or with [*] an array of all the values it reaches, made in
 * the current context; NULL when it reaches none.  See eval.h.
 */
const JsonbValue *
aud_path_collect(const AudRule *rule, const AudPath *path, int nused,
				 const JsonbValue *from, JsonbValue *room)
{
	JsonbParseState *state = NULL;
	Jsonb	   *jsonb;

	if (from == NULL)
		return NULL;
	if (!path->has_each)
		return aud_path_value(rule, path, nused, from, room);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	if (collect(rule, path, nused, from, &state) == 0)
		return NULL;
	jsonb = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	room->type = jbvBinary;
	room->val.binary.data = &jsonb->root;
	room->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	return room;
}
