/*-------------------------------------------------------------------------
 *
 * store.h
 *	  The engine's statements on its tables, prepared once a session.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_STORE_H
#define AUD_STORE_H

#include "postgres.h"

#include "executor/spi.h"

typedef enum AudStatement
{
	AUD_FIND_PROFILES,			/* users -> those that have a profile */
	AUD_ACQUIRE_PROFILES,		/* users, instant: each locked, or made, in order */
	AUD_LOCK_PROFILES,			/* users -> rows, locked in order */
	AUD_READ_PROFILES,			/* users -> rows */
	AUD_NEXT_PROFILES,			/* user, limit -> rows of those behind it, in order */
	AUD_UPDATE_PROFILES,		/* users, places, states, first, last, as_of */
	AUD_UPDATE_WITH_ATTRIBUTES,		/* users, places, the same and attributes */
	AUD_READ_MEMBERS,			/* users -> user, segment number */
	AUD_ENTER,					/* users, segment numbers, instants -> those that were not there */
	AUD_LEAVE,					/* users, segment numbers -> those that were there */
	AUD_LOG,					/* transitions */
	AUD_READ_RANGES,			/* users, after, up to -> ordinal, event */
	AUD_READ_NEXT,				/* users, after -> ordinal, instant of the next event */
	AUD_READ_EVENTS,			/* users, after -> events in order */
	AUD_READ_VERSION,			/* version of the definitions in the transaction's snapshot */
	AUD_NSTATEMENTS
} AudStatement;

/* columns of a profile's row, of AUD_LOCK_PROFILES and AUD_READ_PROFILES */
#define AUD_PROFILE_USER_ID			1
#define AUD_PROFILE_ATTRIBUTES		2
#define AUD_PROFILE_FIRST_SEEN		3
#define AUD_PROFILE_LAST_SEEN		4
#define AUD_PROFILE_EVALUATED_AT	5
#define AUD_PROFILE_STATE			6
#define AUD_PROFILE_PLACE			7	/* ctid; not in a row of the table's type */

/* columns of an event, of AUD_READ_RANGES and AUD_READ_EVENTS */
#define AUD_EVENT_ORDINAL			1	/* of the range; of AUD_READ_EVENTS: none */
#define AUD_EVENT_USER_ID			2
#define AUD_EVENT_TIME				3
#define AUD_EVENT_ID				4
#define AUD_EVENT_TYPE				5
#define AUD_EVENT_PROPERTIES		6
#define AUD_EVENT_CONTEXT			7

/*
 * Between begin and end, statements are planned for many small look-ups.
 * With read_only they see what the active snapshot sees, else all that is
 * committed when they start (at READ COMMITTED).
 */
extern int	aud_store_begin(void);
extern void aud_store_end(int nestlevel);
extern uint64 aud_store_execute(AudStatement statement, Datum *values, const char *nulls, bool read_only);
extern Portal aud_store_open(AudStatement statement, Datum *values, bool read_only);

/* arrays for statements' arguments */
extern Datum aud_store_text_array(const char *const *strings, const int *lengths, int n);
extern Datum aud_store_array(Datum *values, bool *nulls, int n, Oid type);

#endif							/* AUD_STORE_H */
