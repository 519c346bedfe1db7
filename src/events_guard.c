/*-------------------------------------------------------------------------
 *
 * events_guard.c
 *	  Events are append-only: the trigger that says so, and the functions that
 *	  it lets through.
 *
 * Privileges alone would not do: they bind neither the owner nor superusers,
 * and an event that goes behind the engine's back leaves every state that
 * counted it wrong.  A user's events go as a whole, to nowhere (profile_erase)
 * or to another user (profile_merge), or, by retention, the oldest of them into
 * the user's base; and the callers of the functions here put the states right.
 *
 * What the engine is doing is kept in a variable of the session, set for the
 * length of one call and put back whichever way that ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"

#include "events_guard.h"
#include "stats.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_events_guard);
PG_FUNCTION_INFO_V1(aud_events_delete);
PG_FUNCTION_INFO_V1(aud_events_copy);

typedef enum Doing
{
	DOING_NOTHING,
	DOING_DELETE,
	DOING_COPY,
	DOING_EXPIRE
} Doing;

static Doing doing = DOING_NOTHING;

/* plans kept for the session */
static SPIPlanPtr delete_plan = NULL;
static SPIPlanPtr copy_plan = NULL;

/*
 * Are the events that are being inserted those of another user, moved?  They
 * have been checked before, and whoever moves them evaluates.
 */
bool
aud_events_copying(void)
{
	return doing == DOING_COPY;
}

/*
 * events_guard(): trigger before each statement that would change events that
 * are there.  0A000 unless it is one of this file's own.
 */
Datum
aud_events_guard(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"events_guard\" must be called by a trigger")));
	if (doing == DOING_NOTHING ||
		!TRIGGER_FIRED_BY_DELETE(((TriggerData *) fcinfo->context)->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("events are append-only"),
				 errhint("Use profile_erase to remove everything about a user.")));
	return PointerGetDatum(NULL);
}

/*
 * Runs one of the statements on a user's events, keeping its plan in *plan;
 * returns how many rows that was.  Connected to SPI.
 */
static int64
execute(SPIPlanPtr *plan, const char *statement, int nargs, Datum *args)
{
	static const Oid types[] = {TEXTOID, TEXTOID};
	int			result;

	Assert(nargs <= (int) lengthof(types));
	aud_stats_count(AUD_COUNT_SQL, 1);
	result = SPI_execute_plan(aud_store_plan(plan, statement, nargs, types, CURSOR_OPT_GENERIC_PLAN),
							  args, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", statement,
			 SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * Deletes each user's events before an instant: AUD_DELETE_OLD_EVENTS, with the
 * guard open to it; what was deleted is in SPI_tuptable.  Connected to SPI.  The
 * caller holds the profiles.
 */
uint64
aud_events_expire(Datum users, Datum instants)
{
	volatile uint64 count = 0;
	Doing		before = doing;
	Datum		args[2] = {users, instants};

	PG_TRY();
	{
		doing = DOING_EXPIRE;
		count = aud_store_execute(AUD_DELETE_OLD_EVENTS, args, NULL, false);
	}
	PG_FINALLY();
	{
		doing = before;
	}
	PG_END_TRY();
	return count;
}

/* Removes a user's events, how many.  Connected to SPI. */
static int64
delete_events(Datum user_id)
{
	return execute(&delete_plan,
				   "DELETE FROM audience.events e WHERE e.user_id = $1",
				   1, &user_id);
}

/*
 * Gives copies of one user's events to another, but those that it has; how
 * many.  received_at stays what it was.  In the order of the primary key, as
 * all who insert events of several users should.  Connected to SPI.
 */
static int64
copy_events(Datum from_user, Datum into_user)
{
	Datum		args[2] = {from_user, into_user};

	return execute(&copy_plan,
				   "INSERT INTO audience.events "
				   "(user_id, occurred_at, event_id, event_type, properties, context, received_at) "
				   "SELECT $2, e.occurred_at, e.event_id, e.event_type, e.properties, e.context, e.received_at "
				   "FROM audience.events e WHERE e.user_id = $1 "
				   "ORDER BY e.user_id, e.occurred_at, e.event_id "
				   "ON CONFLICT DO NOTHING",
				   2, args);
}

/*
 * Runs what one of the functions below asks for, with the guard open to it;
 * how many events were removed, or were new.
 */
static int64
run(Doing what, Datum from_user, Datum into_user)
{
	volatile int64 count = 0;
	Doing		before = doing;
	int			nestlevel;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	nestlevel = aud_store_begin();
	PG_TRY();
	{
		doing = what;
		count = what == DOING_COPY ? copy_events(from_user, into_user) :
			delete_events(from_user);
	}
	PG_FINALLY();
	{
		doing = before;
	}
	PG_END_TRY();
	aud_store_end(nestlevel);
	SPI_finish();
	return count;
}

/*
 * events_delete(user_id text) → bigint: removes a user's events, how many.
 * The caller holds the user's profile.
 */
Datum
aud_events_delete(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(run(DOING_DELETE, PG_GETARG_DATUM(0), (Datum) 0));
}

/*
 * events_copy(from_user text, into_user text) → bigint: gives a user copies of
 * another's events, equal ones once; how many were new.  Nothing is evaluated.
 * The caller need not hold the profiles.
 */
Datum
aud_events_copy(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(run(DOING_COPY, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)));
}
