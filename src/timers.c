/*-------------------------------------------------------------------------
 *
 * timers.c
 *	  Memberships that follow the clock: run_due().
 *
 * A user whose memberships time alone may change has one timer, a row of table
 * timers, set to the earliest instant at which that may be (due.c); the same
 * instant stands in the profile's state.  It is set when the user is
 * evaluated and it would otherwise come too late, and left alone when it comes
 * too early: then it finds nothing, and is set anew.  So activity that only
 * pushes the instant back costs nothing.
 *
 * A timer's user is evaluated for the very instant, however late it is looked
 * at, and then for the next one, until that lies ahead: transitions carry the
 * moments at which they were due.
 *
 * Whoever changes a timer holds the profile's lock.  Timers are read without
 * one, so what counts is the instant in the profile once that is locked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "batch.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_run_due);

/* users whose timers are looked at together */
#define USERS_AT_ONCE	1000

/* what a user's states may take, with what earlier instants have left, in bytes */
#define USER_ROOM		(256 * (Size) 1024)

/* How far run_due has come in the order of the timers. */
typedef struct DueCursor
{
	TimestampTz due;
	char	   *user_id;		/* palloc'ed */
} DueCursor;

/*
 * Moves the user's states, which are in the current context, to a new one that
 * takes its place, if much has gathered there: states that are made anew leave
 * behind what they were.
 */
static void
tidy_states(const AudDefinitions *defs, AudUser *user)
{
	MemoryContext room = CurrentMemoryContext;
	MemoryContext next;

	if (MemoryContextMemAllocated(room, true) <= USER_ROOM)
		return;
	next = AllocSetContextCreate(MemoryContextGetParent(room), "audience due user",
								 ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(next);
	aud_user_state_read(defs, user, aud_user_state_write(defs, user));
	user->touched = NULL;
	user->ntouched = user->max_touched = 0;
	MemoryContextDelete(room);
}

/* Evaluates one user at its due instants, one after the other, up to now. */
static void
expire_user(AudBatch *batch, AudAdvance *advance, AudDecider *decider, int index)
{
	AudUser    *user = &batch->users[index];
	MemoryContext old = MemoryContextSwitchTo(AllocSetContextCreate(batch->mcxt, "audience due user",
																	ALLOCSET_SMALL_SIZES));

	/* a user who is ahead of the clock is not taken back to the timer's instant */
	if (user->as_of <= batch->clock.now)
		user->now = Max(user->armed, user->as_of);
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		aud_advance_user(advance, user);
		aud_decide_user(batch, decider, index);
		user->as_of = user->now;
		tidy_states(batch->defs, user);
		if (user->next_change > batch->clock.now)
			break;

		/* on to the next instant, from what this one has come to */
		if (user->members_changed)
			user->members = user->new_members;
		for (int i = 0; i < batch->defs->naggregates; i++)
			user->states[i].touched = false;
		user->ntouched = 0;
		user->any_stale = false;
		user->now = user->next_change;
	}
	user->armed = user->next_change;
	user->arm = user->write = true;
	MemoryContextSwitchTo(old);
}

/*
 * Fills an empty batch with the users of the next timers that are due, at
 * most so many; false if there are none.  *cursor moves on; nothing else is
 * left in the current context, as there may be any number of batches.
 */
static bool
next_due(AudBatch *batch, int64 most, DueCursor *cursor)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Datum		args[4];
	uint64		n;
	char	  **ids;

	args[0] = TimestampTzGetDatum(batch->clock.now);
	args[1] = TimestampTzGetDatum(cursor->due);
	args[2] = CStringGetTextDatum(cursor->user_id);
	args[3] = Int64GetDatum(most);
	n = aud_store_execute(AUD_DUE_TIMERS, args, NULL, false);
	ids = palloc((n + 1) * sizeof(char *));
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;

		ids[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		cursor->due = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	if (n > 0)
	{
		pfree(cursor->user_id);
		cursor->user_id = MemoryContextStrdup(old, ids[n - 1]);
	}
	qsort(ids, n, sizeof(char *), pg_qsort_strcmp);
	for (uint64 i = 0; i < n; i++)
		aud_batch_add(batch, ids[i], strlen(ids[i]));
	MemoryContextSwitchTo(old);
	return n > 0;
}

/*
 * Removes the timers of those users of the batch that have no profile.  There
 * are none; but a timer that nobody takes would be looked at for ever.  Those
 * of a dump that is being restored may only be early.
 */
static void
remove_orphans(AudBatch *batch)
{
	const char **ids = palloc(Max(batch->nusers, 1) * sizeof(char *));
	int			n = 0;
	Datum		args[1];

	for (int i = 0; i < batch->nusers; i++)
		if (!batch->users[i].exists)
			ids[n++] = batch->users[i].id;
	if (n == 0)
		return;
	args[0] = aud_store_text_array(ids, NULL, n);
	aud_store_execute(AUD_REMOVE_ORPHAN_TIMERS, args, NULL, false);
}

/*
 * Brings the batch's users, as far as nobody else is at work on them, to their
 * due instants, and writes what comes of it.  Returns how many were due.
 */
static int64
expire_batch(AudBatch *batch)
{
	MemoryContext old;
	AudAdvance *advance;
	AudDecider *decider;
	int64		count = 0;

	aud_batch_lock(batch, AUD_LOCK_FREE);
	old = MemoryContextSwitchTo(batch->mcxt);
	advance = aud_advance_begin(batch);
	decider = aud_decider_create(batch->defs);
	for (int i = 0; i < batch->nusers; i++)
	{
		AudUser    *user = &batch->users[i];

		if (user->exists && user->armed <= batch->clock.now)
		{
			expire_user(batch, advance, decider, i);
			count++;
		}
		else if (user->exists)
			user->arm = true;	/* somebody was faster, or the timer was wrong */
	}
	aud_advance_end(advance);
	aud_decider_end(decider);
	remove_orphans(batch);
	MemoryContextSwitchTo(old);
	aud_batch_write(batch);
	return count;
}

/*
 * run_due(limit int) → bigint: evaluates the users whose timers are due, at
 * most so many (null: all), with reason "expired"; how many it looked at.
 * Users that another session is at work on are left for the next time.
 */
Datum
aud_run_due(PG_FUNCTION_ARGS)
{
	int64		limit = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT32(0);
	DueCursor	cursor = {.due = DT_NOBEGIN};
	const AudDefinitions *defs;
	int64		count = 0;
	bool		more = true;

	if (limit < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("limit must not be negative")));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	cursor.user_id = pstrdup("");
	while (more && count < limit)
	{
		AudBatch   *batch = aud_batch_begin(defs, "expired");

		batch->expiring = true;
		more = next_due(batch, Min(limit - count, Min(USERS_AT_ONCE, aud_batch_most_users(defs))),
						&cursor);
		if (more)
			count += expire_batch(batch);
		aud_batch_end(batch);
	}
	SPI_finish();
	PG_RETURN_INT64(count);
}
