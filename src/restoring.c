/*-------------------------------------------------------------------------
 *
 * restoring.c
 *	  Word that a dump is being restored into this database.
 *
 * While that goes on, timers and fills may be there before the users,
 * definitions and events that they are about, and whoever acted on them would
 * spoil what is still to come: so the scheduler waits (scheduler.c).  Table
 * restoring says for whom.
 *
 * Where a dump's script creates the extension, the install script notices it.
 * Into a database that has the extension already, the rows tell: definitions,
 * events, timers and fills come by statements of a session with row_security
 * off, as dumps set it, which does not hold the lock that functions of the
 * extension hold where they change definitions.  The word is committed with the
 * rows, so nobody sees them without it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "definitions.h"
#include "restoring.h"

PG_FUNCTION_INFO_V1(aud_rows_restored);

/* Does this session change definitions by the extension's functions? */
static bool
changes_definitions(void)
{
	Relation	segments = table_open(aud_definitions_table("segments"), AccessShareLock);
	bool		result = CheckRelationLockedByMe(segments, ShareRowExclusiveLock, true);

	table_close(segments, AccessShareLock);
	return result;
}

/*
 * Rows have been stored: notes that a dump is being restored by this session, if
 * they came as those of a dump do.  The current user owns table restoring.
 */
void
aud_restoring_note(void)
{
	Oid			types[2] = {INT4OID, TIMESTAMPTZOID};
	Datum		args[2] = {Int32GetDatum(MyProcPid), TimestampTzGetDatum(MyStartTimestamp)};

	if (row_security || changes_definitions())
		return;
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (SPI_execute_with_args("INSERT INTO audience.restoring (pid, started_at) SELECT $1, $2 "
							  "WHERE NOT EXISTS (SELECT FROM audience.restoring r WHERE r.pid = $1 AND r.started_at = $2)",
							  2, types, args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not note that a dump is being restored");
	SPI_finish();
}

/* rows_restored(): trigger after each statement that inserts timers or fills. */
Datum
aud_rows_restored(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"rows_restored\" must be called by a trigger")));
	aud_restoring_note();
	return PointerGetDatum(NULL);
}
