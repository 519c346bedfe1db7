/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  The engine's unit of work: some users, what has happened to them, and
 *	  the memberships that follow.
 *
 *	  aud_batch_begin		an empty batch
 *	  aud_batch_add			its users, in C order of their ids
 *	  aud_batch_lock		profiles locked (new ones made) and read
 *	  (the caller)			gives users their events and attributes
 *	  aud_batch_run			all of:
 *		aud_batch_advance	states brought to now: events in, what fell out of
 *							windows out, what cannot be kept made anew
 *		aud_batch_decide	memberships that changed, settled
 *		aud_batch_write		profiles and history
 *
 * For users that have nothing but new events, aud_batch_take does all of that
 * but the history in one statement (take.c).
 *
 * Everything lives in the batch's memory context.  The caller holds the
 * definitions lock and has connected to SPI.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_BATCH_H
#define AUD_BATCH_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "lib/stringinfo.h"
#include "storage/itemptr.h"

#include "definitions.h"
#include "executor/spi.h"
#include "members.h"

/* an aggregate whose value may have changed, and what it was */
typedef struct AudTouched
{
	int			aggregate;
	AudAggregateValue before;
} AudTouched;

typedef struct AudUser
{
	const char *id;				/* NUL-terminated */
	int			id_len;
	bool		exists;			/* has a profile (after aud_batch_lock: always, if asked for) */
	bool		is_new;			/* never evaluated: its profile has no state yet */
	bool		write;			/* the profile's row must be written */
	ItemPointerData place;		/* where the row is */
	bool		rebuild;		/* all states are made anew from the events */
	bool		any_stale;		/* some states must be */

	Jsonb	   *attributes;
	Jsonb	   *old_attributes; /* before this batch changed them; NULL: it did not */
	TimestampTz first_seen;		/* PG_INT64_MAX: no event yet */
	TimestampTz last_seen;		/* PG_INT64_MIN: no event yet */
	TimestampTz as_of;			/* the states are exact for this instant */
	TimestampTz now;			/* what the user is evaluated for */
	TimestampTz horizon;		/* earliest event that was ahead of a window's end */
	TimestampTz armed;			/* what the user's timer is set to; PG_INT64_MAX: it has none */
	bool		arm;			/* the timer must be set anew */
	int64		filled;			/* number of the newest fill that has made this user whole */
	TimestampTz next_change;	/* of a batch that is expiring: what it would be set to */
	AudAggregateState *states;	/* one for each aggregate */

	const bytea *members;		/* stored memberships (members.c); NULL: none */
	bytea	   *new_members;	/* those after the batch, if members_changed */
	bool		members_changed;

	/* static segments that the caller enters the user into, or takes it out of */
	int			nstatics;
	int32	   *statics;		/* numbers */
	bool		statics_enter;
	const char *statics_reason;

	int			nevents;		/* new ones, in the order of time and id */
	AudEvent   *events;

	int			ntouched;
	int			max_touched;
	AudTouched *touched;
} AudUser;

/* which profiles a batch locks */
typedef enum AudLockKind
{
	AUD_LOCK_ALL,				/* all: those that are missing are made */
	AUD_LOCK_EXISTING,
	AUD_LOCK_FREE				/* those that nobody else has locked */
} AudLockKind;

/* one change of membership */
typedef struct AudChange
{
	int			segment;
	bool		added;
	float8		score;			/* below 0: none */
	const char *reason;
	bool		store;			/* changes the stored memberships ... */
	bool		anew;			/* ... also if the user is among them already */
	bool		log;			/* is a transition */
} AudChange;

/* a row of the history: one user's changes for one reason */
typedef struct AudLogRow
{
	int			user;
	TimestampTz at;				/* the instant they were evaluated for */
	const char *reason;
	int			nentries;
	bytea	   *entries;		/* transition_log.c */
} AudLogRow;

/* event_feed.c */
typedef struct AudEventFeed AudEventFeed;

typedef struct AudBatch
{
	MemoryContext mcxt;
	const AudDefinitions *defs;
	AudClock	clock;
	const char *reason;			/* of transitions, but those of "fill" segments */
	bool		read_only;		/* nothing is written: see what the active snapshot sees */
	bool		expiring;		/* from one due instant of a user to the next (timers.c) */
	bool		visiting;		/* for a fill: what it finds has changed by its reason */
	bool	   *refill;			/* by aggregate: made anew for every user; NULL: none */
	AudEventFeed *feed;			/* the events that those look at; NULL: they are read from the table */

	int			nusers;
	int			max_users;
	AudUser    *users;
	SPITupleTable *rows;		/* what they were read from */

	/* segments whose stored membership counts, not what it should be */
	bool	   *fill;			/* by segment index; NULL: none */
	bool		fill_all;
	const char *fill_reason;

	int			nchanges;		/* of the user being decided */
	int			max_changes;
	AudChange  *changes;

	int			nlog;			/* of all users */
	int			max_log;
	AudLogRow  *log;
	StringInfoData entries;		/* of the row at hand */
} AudBatch;

extern AudBatch *aud_batch_begin(const AudDefinitions *defs, const char *reason);
extern void aud_batch_end(AudBatch *batch);
extern int	aud_batch_most_users(const AudDefinitions *defs);
extern AudUser *aud_batch_add(AudBatch *batch, const char *id, int id_len);
extern void aud_batch_lock(AudBatch *batch, AudLockKind kind);
extern void aud_batch_read(AudBatch *batch);
extern void aud_batch_set_columns(AudBatch *batch, AudUser *user, const Datum *values, const bool *nulls);
extern void aud_batch_set_row(AudBatch *batch, AudUser *user, HeapTuple tuple, TupleDesc tupdesc);
extern Datum aud_batch_user_ids(AudBatch *batch);
extern void aud_batch_take(AudBatch *batch);
extern void aud_batch_advance(AudBatch *batch);
extern void aud_batch_decide(AudBatch *batch);
extern void aud_batch_run(AudBatch *batch);
extern void aud_batch_write_log(AudBatch *batch);
extern void aud_batch_write_timers(AudBatch *batch);
extern void aud_batch_settle(AudBatch *batch, AudUser *user);
extern AudChange *aud_batch_add_change(AudBatch *batch, int segment, bool added, float8 rule_score, const char *reason);
extern void aud_batch_write(AudBatch *batch);
extern void aud_user_set_columns(const AudBatch *batch, const AudUser *user, Datum *values, bool *nulls);

/* user_state.c: the profile's state column */
extern bytea *aud_user_state_write(const AudDefinitions *defs, const AudUser *user);
extern void aud_states_append(StringInfo buf, const AudDefinitions *defs, const AudAggregateState *states, int max_values);
extern void aud_states_read(const char *p, const char *end, const AudDefinitions *defs, AudAggregateState *states);
extern void aud_user_state_read(const AudDefinitions *defs, AudUser *user, const bytea *state);
extern void aud_user_set_now(AudUser *user, const AudClock *clock);
extern void aud_user_touch(const AudDefinitions *defs, AudUser *user, int aggregate);

/* decide.c: evaluation of one user */
typedef struct AudDecider AudDecider;
extern AudDecider *aud_decider_create(const AudDefinitions *defs);
extern void aud_decider_set_user(AudDecider *decider, AudUser *user, const AudClock *clock);
extern bool aud_decider_leaf_holds(AudDecider *decider, int leaf);
extern bool aud_decider_holds(AudDecider *decider, const AudInstruction *program);
extern float8 aud_decider_score(AudDecider *decider, const AudInstruction *program);
extern Jsonb *aud_decider_leaf_actual(AudDecider *decider, int leaf);
extern void aud_decide_user(AudBatch *batch, AudDecider *decider, int index);
extern void aud_decider_end(AudDecider *decider);

/* due.c: when time alone may change something */
extern TimestampTz aud_decider_next_change(AudDecider *decider, TimestampTz limit);

/* advance.c: one user after the other */
typedef struct AudAdvance AudAdvance;
extern AudAdvance *aud_advance_begin(AudBatch *batch);
extern void aud_advance_user(AudAdvance *advance, AudUser *user);
extern void aud_advance_end(AudAdvance *advance);

#endif							/* AUD_BATCH_H */
