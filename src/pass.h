/*-------------------------------------------------------------------------
 *
 * pass.h
 *	  Going through all profiles, and merging attributes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_PASS_H
#define AUD_PASS_H

#include "batch.h"

/* fill.c */
extern bool aud_pass_next(AudBatch *batch, char **after);

/* merge_patch.c */
extern Jsonb *aud_merge_patch(Jsonb *target, Jsonb *patch);

#endif							/* AUD_PASS_H */
