/*-------------------------------------------------------------------------
 *
 * nodes_hash.h
 *	  Hash table from a rule's node, by what it means, to a number.
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
	bool		identity;		/* see aud_node_hash */
} AudNodeRef;

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
#define SH_HASH_KEY(tb, key) ((uint32) aud_node_hash((key).rule, (key).node, (key).identity))
#define SH_EQUAL(tb, a, b) aud_node_equal((a).rule, (a).node, (b).rule, (b).node, (a).identity)
#define SH_SCOPE static inline
#define SH_STORE_HASH
#define SH_GET_HASH(tb, a) ((a)->hash)
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#endif							/* AUD_NODES_HASH_H */
