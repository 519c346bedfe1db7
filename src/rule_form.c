/*-------------------------------------------------------------------------
 *
 * rule_form.c
 *	  Hash and equality of subtrees by their form: node by node, with all
 *	  that hangs on them, wherever in a rule it lies.
 *
 * For finding equal leaves among those of ten thousand rules, where printing
 * each (rule_compare.c) would take longer than everything else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "rule.h"

/* Mixes some bytes into a hash. */
static inline uint32
mix(uint32 hash, const void *data, int len)
{
	return hash_combine(hash, hash_bytes(data, len));
}

/* Mixes a constant into a hash. */
static uint32
mix_value(uint32 hash, const AudRule *rule, const AudValue *value)
{
	hash = mix(hash, value, offsetof(AudValue, data));
	switch ((AudValueType) value->type)
	{
		case AUD_VALUE_BOOL:
			break;
		case AUD_VALUE_LIST:
			for (uint32 i = 0; i < value->len; i++)
				hash = mix_value(hash, rule, AUD_VALUE_ITEM(rule, value, i));
			break;
		case AUD_VALUE_TIME:
		case AUD_VALUE_DURATION:
			hash = mix(hash, value->data, sizeof(int64));
			break;
		default:
			hash = mix(hash, value->data, value->len);
			break;
	}
	return hash;
}

/* Are two constants the same? */
static bool
same_values(const AudRule *rule_a, const AudValue *a,
			const AudRule *rule_b, const AudValue *b)
{
	if (a->type != b->type || a->len != b->len)
		return false;
	switch ((AudValueType) a->type)
	{
		case AUD_VALUE_BOOL:
			return true;
		case AUD_VALUE_LIST:
			for (uint32 i = 0; i < a->len; i++)
				if (!same_values(rule_a, AUD_VALUE_ITEM(rule_a, a, i),
								 rule_b, AUD_VALUE_ITEM(rule_b, b, i)))
					return false;
			return true;
		case AUD_VALUE_TIME:
		case AUD_VALUE_DURATION:
			return AUD_VALUE_INT64(a) == AUD_VALUE_INT64(b);
		default:
			return memcmp(a->data, b->data, a->len) == 0;
	}
}

/* Are two paths the same? */
static bool
same_paths(const AudRule *rule_a, const AudPath *a,
		   const AudRule *rule_b, const AudPath *b)
{
	if (a->root != b->root || a->nsteps != b->nsteps)
		return false;
	for (int i = 0; i < a->nsteps; i++)
	{
		const AudPathStep *x = &a->steps[i];
		const AudPathStep *y = &b->steps[i];

		if (x->kind != y->kind || x->index != y->index || x->keylen != y->keylen ||
			memcmp(AUD_AT(rule_a, x->key), AUD_AT(rule_b, y->key), x->keylen) != 0)
			return false;
	}
	return true;
}

/* Are two lists of event types the same? */
static bool
same_names(const AudRule *rule_a, const AudNames *a,
		   const AudRule *rule_b, const AudNames *b)
{
	if (a->nnames != b->nnames || a->is_list != b->is_list)
		return false;
	for (uint32 i = 0; i < a->nnames; i++)
	{
		const AudName *x = &a->names[i];
		const AudName *y = &b->names[i];

		if (x->len != y->len || x->is_prefix != y->is_prefix ||
			memcmp(AUD_AT(rule_a, x->name), AUD_AT(rule_b, y->name), x->len) != 0)
			return false;
	}
	return true;
}

/* See rule.h.  Of paths and event types only the words count. */
uint32
aud_node_hash(const AudRule *rule, const AudNode *node)
{
	uint32		hash = 0;

	for (uint32 i = 0; i < node->nnodes; i++)
	{
		const AudNode *at = &node[i];

		/* kind, operator, aggregate and flags */
		hash = mix(hash, at, offsetof(AudNode, nnodes));
		if (at->path != 0)
		{
			const AudPath *path = AUD_NODE_PATH(rule, at);

			for (int s = 0; s < path->nsteps; s++)
				hash = mix(hash, AUD_AT(rule, path->steps[s].key), path->steps[s].keylen);
		}
		if (at->names != 0)
		{
			const AudNames *names = AUD_NODE_NAMES(rule, at);

			for (uint32 n = 0; n < names->nnames; n++)
				hash = mix(hash, AUD_AT(rule, names->names[n].name), names->names[n].len);
		}
		if (at->value != 0)
			hash = mix_value(hash, rule, AUD_NODE_VALUE(rule, at));
		if (at->from != 0)
			hash = mix(hash, &at->from, sizeof(at->from));
	}
	return hash;
}

/* See rule.h. */
bool
aud_node_equal(const AudRule *rule_a, const AudNode *a,
			   const AudRule *rule_b, const AudNode *b)
{
	if (a->nnodes != b->nnodes)
		return false;
	for (uint32 i = 0; i < a->nnodes; i++)
	{
		const AudNode *x = &a[i];
		const AudNode *y = &b[i];

		if (memcmp(x, y, offsetof(AudNode, path)) != 0 ||
			x->from != y->from || x->to != y->to ||
			/* the bytes are the form.  NOLINTNEXTLINE(bugprone-suspicious-memory-comparison,cert-exp42-c,cert-flp37-c) */
			memcmp(&x->arg, &y->arg, sizeof(x->arg)) != 0 ||
			(x->path == 0) != (y->path == 0) ||
			(x->names == 0) != (y->names == 0) ||
			(x->value == 0) != (y->value == 0))
			return false;
		if ((x->path != 0 && !same_paths(rule_a, AUD_NODE_PATH(rule_a, x),
										 rule_b, AUD_NODE_PATH(rule_b, y))) ||
			(x->names != 0 && !same_names(rule_a, AUD_NODE_NAMES(rule_a, x),
										  rule_b, AUD_NODE_NAMES(rule_b, y))) ||
			(x->value != 0 && !same_values(rule_a, AUD_NODE_VALUE(rule_a, x),
										   rule_b, AUD_NODE_VALUE(rule_b, y))))
			return false;
	}
	return true;
}
