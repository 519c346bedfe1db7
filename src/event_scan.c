/*-------------------------------------------------------------------------
 *
 * event_scan.c
 *	  Reading users' events back, in their order.
 *
 * Windows and states made anew read the events of one user after the other,
 * each from some instant on, by the primary key (user_id, occurred_at,
 * event_id).  Most of these scans return a handful of rows, so what a query
 * costs besides them would be most of the cost: the index is scanned without
 * one.  Only reading is done this way.
 *
 * Properties and context are detoasted when somebody looks at them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "definitions.h"
#include "event_scan.h"
#include "stats.h"
#include "store.h"

struct AudEventScan
{
	Relation	events;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	Snapshot	snapshot;		/* its own, registered; NULL: the active one */
	MemoryContext mcxt;			/* of the scan: the index keeps things of its own */
	MemoryContext row_mcxt;		/* of what belongs to the row at hand */
	pg_attribute_aligned(8) char user_id[VARHDRSZ + 256];	/* a text, of at most 255 bytes */
	int			event_id;		/* columns */
	int			occurred_at;
	int			event_type;
	int			properties;
	int			context;
};

/* Gives the scan a snapshot of this instant. */
static void
refresh_snapshot(AudEventScan *scan)
{
	scan->snapshot = aud_store_renew_snapshot(scan->snapshot);
	if (scan->scan != NULL)
		scan->scan->xs_snapshot = scan->snapshot;
}

/*
 * Begins to read events: with read_only, those that the active snapshot sees,
 * else for each user all that is committed when the scan turns to it (at READ
 * COMMITTED), and this transaction's own.  Allocated in the current context.
 */
AudEventScan *
aud_event_scan_begin(bool read_only)
{
	AudEventScan *scan = palloc0(sizeof(AudEventScan));
	TupleDesc	tupdesc;

	scan->events = table_open(aud_definitions_table("events"), AccessShareLock);
	scan->index = index_open(aud_definitions_key(scan->events, 3), AccessShareLock);
	if (!read_only)
		refresh_snapshot(scan);
	scan->scan = aud_compat_index_beginscan(scan->events, scan->index,
											read_only ? GetActiveSnapshot() : scan->snapshot, 2);
	scan->slot = table_slot_create(scan->events, NULL);
	scan->mcxt = CurrentMemoryContext;
	scan->row_mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience event",
										   ALLOCSET_SMALL_SIZES);
	tupdesc = RelationGetDescr(scan->events);
	scan->event_id = SPI_fnumber(tupdesc, "event_id");
	scan->occurred_at = SPI_fnumber(tupdesc, "occurred_at");
	scan->event_type = SPI_fnumber(tupdesc, "event_type");
	scan->properties = SPI_fnumber(tupdesc, "properties");
	scan->context = SPI_fnumber(tupdesc, "context");
	return scan;
}

/*
 * Turns to a user's events later than "after" (DT_NOBEGIN: all of them).  The
 * user's profile is locked, or nothing is to be written.
 */
void
aud_event_scan_user(AudEventScan *scan, const char *user_id, int len, TimestampTz after)
{
	ScanKeyData keys[2];
	MemoryContext old = MemoryContextSwitchTo(scan->mcxt);

	MemoryContextReset(scan->row_mcxt);
	aud_store_check_user_id(len);
	SET_VARSIZE(scan->user_id, VARHDRSZ + len);
	memcpy(VARDATA(scan->user_id), user_id, len);
	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, TEXTOID,
						   C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(scan->user_id));
	ScanKeyEntryInitialize(&keys[1], 0, 2, BTGreaterStrategyNumber, TIMESTAMPTZOID,
						   InvalidOid, F_TIMESTAMPTZ_GT, TimestampTzGetDatum(after));
	if (scan->snapshot != NULL)
		refresh_snapshot(scan);
	index_rescan(scan->scan, keys, 2, NULL, 0);
	aud_stats_count(AUD_COUNT_EVENT_SCANS, 1);
	MemoryContextSwitchTo(old);
}

/* The user's next event, false: no more.  It is valid until the next call. */
bool
aud_event_scan_next(AudEventScan *scan, AudEvent *event)
{
	MemoryContext old = MemoryContextSwitchTo(scan->mcxt);
	bool		found;
	bool		isnull;
	text	   *value;

	CHECK_FOR_INTERRUPTS();
	MemoryContextReset(scan->row_mcxt);
	found = index_getnext_slot(scan->scan, ForwardScanDirection, scan->slot);
	MemoryContextSwitchTo(old);
	if (!found)
		return false;
	aud_stats_count(AUD_COUNT_ROWS, 1);
	MemoryContextSwitchTo(scan->row_mcxt);
	memset(event, 0, sizeof(*event));
	event->time = DatumGetTimestampTz(slot_getattr(scan->slot, scan->occurred_at, &isnull));
	value = DatumGetTextPP(slot_getattr(scan->slot, scan->event_id, &isnull));
	event->id = VARDATA_ANY(value);
	event->id_len = VARSIZE_ANY_EXHDR(value);
	value = DatumGetTextPP(slot_getattr(scan->slot, scan->event_type, &isnull));
	event->type = VARDATA_ANY(value);
	event->type_len = VARSIZE_ANY_EXHDR(value);
	event->stored_properties = slot_getattr(scan->slot, scan->properties, &isnull);
	event->stored_context = slot_getattr(scan->slot, scan->context, &isnull);
	if (isnull)
		event->stored_context = (Datum) 0;
	event->mcxt = scan->row_mcxt;
	MemoryContextSwitchTo(old);
	return true;
}

/* Ends reading. */
void
aud_event_scan_end(AudEventScan *scan)
{
	ExecDropSingleTupleTableSlot(scan->slot);
	index_endscan(scan->scan);
	if (scan->snapshot != NULL)
		UnregisterSnapshot(scan->snapshot);
	index_close(scan->index, NoLock);
	table_close(scan->events, NoLock);
	MemoryContextDelete(scan->row_mcxt);
}
