/*-------------------------------------------------------------------------
 *
 * transition_log.h
 *	  Transitions of one user and moment, packed into one value.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_TRANSITION_LOG_H
#define AUD_TRANSITION_LOG_H

#include "postgres.h"

#include "lib/stringinfo.h"

extern void aud_transition_begin(StringInfo buf);
extern void aud_transition_append(StringInfo buf, int32 number, bool added, int32 version, float8 score);
extern bytea *aud_transition_finish(StringInfo buf);

#endif							/* AUD_TRANSITION_LOG_H */
