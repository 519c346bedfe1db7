/*-------------------------------------------------------------------------
 *
 * prepare.h
 *	  Rules prepared for being evaluated many times: folded texts, patterns
 *	  and long lists worked out once (prepare.c), and evaluation with them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_PREPARE_H
#define AUD_PREPARE_H

#include "eval_op.h"

typedef struct AudPrepared
{
	const AudRule *rule;
	AudLeafPrepared *leaves[FLEXIBLE_ARRAY_MEMBER]; /* by node, or NULL */
} AudPrepared;

/* prepare.c */
extern AudPrepared *aud_prepare(const AudRule *rule);

/* eval.c: as aud_eval_rule and aud_eval_node of eval.h */
extern bool aud_eval_prepared(const AudPrepared *prepared, AudDoc *doc);
extern bool aud_eval_node_prepared(const AudPrepared *prepared,
								   const AudNode *node, AudDoc *doc);

#endif							/* AUD_PREPARE_H */
