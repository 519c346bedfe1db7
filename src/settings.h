/*-------------------------------------------------------------------------
 *
 * settings.h
 *	  The extension's settings (see docs/operations.md).  The clock's are in
 *	  eval.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_SETTINGS_H
#define AUD_SETTINGS_H

extern int	aud_max_event_size; /* kB: properties and context of one event */
extern int	aud_max_distinct_values;
extern int	aud_definition_wait;	/* ms */
extern int	aud_transition_retention;	/* s, -1: for ever */
extern int	aud_event_retention;	/* s, -1: for ever */
extern bool aud_strict;

#endif							/* AUD_SETTINGS_H */
