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

/* limits (bounds.c) */
extern int	aud_max_rule_depth;
extern int	aud_max_rule_conditions;
extern int	aud_max_rule_size;	/* kB */
extern int	aud_max_list_length;
extern int	aud_max_sequence_steps;
extern int	aud_max_pattern_length; /* bytes */
extern int	aud_max_regex_states;
extern bool aud_linear_regex;
extern int	aud_max_traits;
extern int	aud_max_segments;
extern int	aud_max_aggregates;
extern int	aud_max_attributes_size;	/* kB */
extern int	aud_max_statement_events;	/* 0: any number */
extern int	aud_max_user_events_size;	/* kB */
extern int	aud_max_call_users;

#endif							/* AUD_SETTINGS_H */
