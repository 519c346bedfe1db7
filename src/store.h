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
#include "utils/snapshot.h"

typedef enum AudStatement
{
	AUD_ACQUIRE_PROFILES,		/* users, instant: each locked, or made, in order */
	AUD_LOCK_PROFILES,			/* users -> rows, locked in order */
	AUD_LOCK_FREE_PROFILES,		/* the same, but for those that somebody else has locked */
	AUD_READ_PROFILES,			/* users -> rows */
	AUD_NEXT_PROFILES,			/* user, limit -> rows of those behind it, in order */
	AUD_NEXT_IDS,				/* user, limit -> ids of those behind it, in order */
	AUD_REMOVE_ORPHAN_TIMERS,	/* users: those without a profile */
	AUD_DUE_TIMERS,				/* instant, behind: instant and user, limit -> users, instants */
	AUD_OLD_EVENTS,				/* users, instant, limit -> users who have earlier ones, how many, up to when */
	AUD_DELETE_OLD_EVENTS,		/* users, instants -> the events before, which are deleted */
	AUD_READ_BASES,				/* users -> event_bases */
	AUD_WRITE_BASES,			/* rows of event_bases */
	AUD_READ_VERSION,			/* version of the definitions in the transaction's snapshot */
	AUD_NSTATEMENTS
} AudStatement;

/* columns of a profile's row, of AUD_LOCK_PROFILES and AUD_READ_PROFILES */
#define AUD_PROFILE_USER_ID			1
#define AUD_PROFILE_FIRST_SEEN		2
#define AUD_PROFILE_LAST_SEEN		3
#define AUD_PROFILE_EVALUATED_AT	4
#define AUD_PROFILE_UPDATED_AT		5
#define AUD_PROFILE_STATE			6
#define AUD_PROFILE_MEMBERS			7
#define AUD_PROFILE_ATTRIBUTES		8
#define AUD_PROFILE_PLACE			9	/* ctid; not in a row of the table's type */

/* columns of a timer's row */
#define AUD_TIMER_USER_ID			1
#define AUD_TIMER_DUE_AT			2

/* columns of a row of the history */
#define AUD_LOG_SEQ					1
#define AUD_LOG_USER_ID				2
#define AUD_LOG_OCCURRED_AT			3
#define AUD_LOG_RECORDED_AT			4
#define AUD_LOG_REASON				5
#define AUD_LOG_EVENT_ID			6
#define AUD_LOG_LATENCY				7
#define AUD_LOG_ENTRIES				8

/* columns of a row of the outbox */
#define AUD_OUTBOX_SINK				1
#define AUD_OUTBOX_ID				2
#define AUD_OUTBOX_KEY				3
#define AUD_OUTBOX_RECORDED_AT		4
#define AUD_OUTBOX_MESSAGES			5
#define AUD_OUTBOX_ORIGIN			6
#define AUD_OUTBOX_SEQ				7
#define AUD_OUTBOX_OCCURRED_AT		8
#define AUD_OUTBOX_REASON			9
#define AUD_OUTBOX_EVENT_ID			10
#define AUD_OUTBOX_LATENCY			11
#define AUD_OUTBOX_ENTRIES			12
#define AUD_OUTBOX_MESSAGE			13

/*
 * Plans a query once and keeps the plan: *plan, NULL at first.  Connected to SPI.
 * "options": CURSOR_OPT_...
 */
extern PGDLLEXPORT SPIPlanPtr aud_store_plan(SPIPlanPtr *plan, const char *query,
											 int nargs, const Oid *types, int options);

/* Between begin and end, statements are planned for many small look-ups; aud_store_execute sees to it itself. */
extern int	aud_store_begin(void);
extern void aud_store_end(int nestlevel);

/*
 * With read_only a statement sees what the active snapshot sees, else all that
 * is committed when it starts (at READ COMMITTED).
 */
extern uint64 aud_store_execute(AudStatement statement, Datum *values, const char *nulls, bool read_only);

/* for reading without statements: what one would see that begins now */
extern Snapshot aud_store_renew_snapshot(Snapshot old);

/* refuses a user's id that is too long */
extern void aud_store_check_user_id(int len);

/* arrays for statements' arguments */
extern Datum aud_store_text_array(const char *const *strings, const int *lengths, int n);
extern Datum aud_store_array(Datum *values, bool *nulls, int n, Oid type);

#endif							/* AUD_STORE_H */
