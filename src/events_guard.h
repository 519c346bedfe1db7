/*-------------------------------------------------------------------------
 *
 * events_guard.h
 *	  What the engine itself does to events that are there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVENTS_GUARD_H
#define AUD_EVENTS_GUARD_H

/* events_guard.c: are the events being inserted those of a profile_merge? */
extern bool aud_events_copying(void);

#endif							/* AUD_EVENTS_GUARD_H */
