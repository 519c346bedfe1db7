/*-------------------------------------------------------------------------
 *
 * nodes_hash.h
 *	  Hash table from a rule's node to a number: by what it asks of the events
 *	  (aud_node_identity_hash), or by its form (aud_node_hash).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_NODES_HASH_H
#define AUD_NODES_HASH_H

#include "rule.h"

typedef struct AudNodeRef
{
	const AudRule *rule;
	const AudNode *node;
	bool		identity;		/* goes by what it asks of the events */
} AudNodeRef;

/* The hash of a key. */
static inline uint32
aud_node_ref_hash(AudNodeRef key)
{
	return key.identity ? (uint32) aud_node_identity_hash(key.rule, key.node) :
		aud_node_hash(key.rule, key.node);
}

/* Are two keys of one table the same? */
static inline bool
aud_node_ref_equal(AudNodeRef a, AudNodeRef b)
{
	return a.identity ? aud_node_identity_equal(a.rule, a.node, b.rule, b.node) :
		aud_node_equal(a.rule, a.node, b.rule, b.node);
}

typedef struct AudNodeEntry
{
	AudNodeRef	key;
	int			index;
	uint32		hash;
	char		status;
} AudNodeEntry;

#define SH_PREFIX nodes
#define SH_ELEMENT_TYPE AudNodeEntry
#define SH_KEY_TYPE AudNodeRef
#define SH_KEY key
#define SH_HASH_KEY(tb, key) aud_node_ref_hash(key)
#define SH_EQUAL(tb, a, b) aud_node_ref_equal(a, b)
#define SH_SCOPE static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) ((a)->hash)
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#endif							/* AUD_NODES_HASH_H */
