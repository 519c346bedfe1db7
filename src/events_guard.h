/*-------------------------------------------------------------------------
 *
 * events_guard.h
 *	  What the engine itself does to events that are there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVENTS_GUARD_H
#define AUD_EVENTS_GUARD_H

/* are the events being inserted those of a profile_merge? */
extern bool aud_events_copying(void);

/* deletes each user's events before an instant; the rows are in SPI_tuptable */
extern uint64 aud_events_expire(Datum users, Datum instants);

#endif							/* AUD_EVENTS_GUARD_H */
