/*-------------------------------------------------------------------------
 *
 * relay_outbox.c
 *	  The rows of the outbox that are to be sent, and those that were.
 *
 * Order.  Ids of rows rise within a key, since they are taken while the user is
 * locked.  They do not say when a row is committed: of two users the later id
 * may be seen first, and a row may appear below others that have long been
 * sent.  Each look therefore starts from "low", below which no row can appear
 * any more, and takes what it finds in order; rows that are on their way
 * already are in a hash table and left out.  "low" moves to a mark, an id that
 * was behind all rows seen at some time, when all transactions of that time
 * have ended: those that had an xid, as whoever takes an id of a row has one
 * before.  Starting from the last id seen would lose late ones, or send them
 * after their successors.
 *
 * Durable first.  What was committed with synchronous_commit = off can be seen
 * before it is safe.  It is made so before it is sent: else a crash could take
 * back what the world has been told.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "relay.h"
#include "store.h"
#include "worker_frame.h"

AudSink    *aud_relay_beginning = NULL;

/* The lowest id that is on its way; PG_INT64_MAX: none is. */
static int64
lowest_row(AudSink *sink)
{
	HASH_SEQ_STATUS status;
	AudOutboxRow *row;
	int64		lowest = PG_INT64_MAX;

	hash_seq_init(&status, sink->rows);
	while ((row = hash_seq_search(&status)) != NULL)
		lowest = Min(lowest, row->id);
	return lowest;
}

/*
 * Moves "low", or sets a mark for that, after a look with the active snapshot
 * that began at "low", saw rows up to the id "last" and, if complete, all; the
 * first that is not on its way yet is "first".
 */
static void
move_low(AudSink *sink, int64 first, int64 last, bool complete)
{
	Snapshot	snapshot = GetActiveSnapshot();

	if (sink->mark != 0 && !TransactionIdPrecedes(snapshot->xmin, sink->mark_xmax) &&
		(complete || last >= sink->mark))
	{
		sink->low = Min(Min(sink->mark, first), lowest_row(sink));
		sink->mark = 0;
	}
	if (sink->mark == 0 && last > 0)
	{
		sink->mark = last + 1;
		/* not the snapshot's xmax: transactions that run may be above that, and have lower ids of rows */
		sink->mark_xmax = ReadNextTransactionId();
	}
}

/* Finds rows that are not on their way yet. */
static void
find_rows(AudReading *reading)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT8OID, INT8OID};
	AudSink	   *sink = reading->sink;
	int64		most = hash_get_num_entries(sink->rows) + AUD_RELAY_ROWS;
	Datum		values[3];
	int64		last = 0;
	int			messages = sink->waiting;
	bool		complete;

	values[0] = Int32GetDatum(sink->number);
	values[1] = Int64GetDatum(sink->low);
	values[2] = Int64GetDatum(most);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT o.id, o.messages FROM audience.kafka_outbox o "
										"WHERE o.sink = $1 AND o.id >= $2 ORDER BY o.id LIMIT $3",
										lengthof(types), types, 0),
						 values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_outbox\"");
	reading->ids = MemoryContextAlloc(reading->mcxt, (SPI_processed + 1) * sizeof(int64));
	complete = SPI_processed < (uint64) most;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64		id = aud_kafka_cell_int(i, 1, 0);

		if (hash_search(sink->rows, &id, HASH_FIND, NULL) == NULL)
		{
			messages += aud_kafka_cell_int(i, 2, 0);
			if (messages > AUD_RELAY_MESSAGES && messages > aud_kafka_cell_int(i, 2, 0))
			{
				complete = false;
				break;
			}
			reading->ids[reading->nids++] = id;
		}
		last = id;
	}
	move_low(sink, reading->nids > 0 ? reading->ids[0] : PG_INT64_MAX, last, complete);
}

/* A column of a row of the last query as the world has it, in UTF-8. */
static char *
utf8_cell(int row, int column, MemoryContext mcxt)
{
	char	   *text = aud_kafka_cell(row, column, mcxt);
	char	   *result = pg_server_to_any(text, strlen(text), PG_UTF8);

	return result == text ? text : MemoryContextStrdup(mcxt, result);
}

/* The body of a look at the outbox. */
static bool
read_outbox(void *arg)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT8ARRAYOID};
	AudReading *reading = arg;
	Datum		values[2];
	Datum	   *ids;

	find_rows(reading);
	if (reading->nids == 0)
		return true;
	ids = palloc(reading->nids * sizeof(Datum));
	for (int i = 0; i < reading->nids; i++)
		ids[i] = Int64GetDatum(reading->ids[i]);
	values[0] = Int32GetDatum(reading->sink->number);
	values[1] = PointerGetDatum(construct_array(ids, reading->nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT m.id, m.key, m.event_id, m.message "
										"FROM audience.kafka_outbox_messages($1, $2) m",
										lengthof(types), types, 0),
						 values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read messages from table \"kafka_outbox\"");
	reading->nmessages = SPI_processed;
	reading->tags = MemoryContextAlloc(reading->mcxt, (SPI_processed + 1) * sizeof(int64));
	reading->keys = MemoryContextAlloc(reading->mcxt, (SPI_processed + 1) * sizeof(char *));
	reading->event_ids = MemoryContextAlloc(reading->mcxt, (SPI_processed + 1) * sizeof(char *));
	reading->messages = MemoryContextAlloc(reading->mcxt, (SPI_processed + 1) * sizeof(char *));
	for (int i = 0; i < reading->nmessages; i++)
	{
		reading->tags[i] = aud_kafka_cell_int(i, 1, 0);
		/* here, as it takes a transaction */
		reading->keys[i] = utf8_cell(i, 2, reading->mcxt);
		reading->event_ids[i] = aud_kafka_cell(i, 3, reading->mcxt);
		reading->messages[i] = utf8_cell(i, 4, reading->mcxt);
	}
	return true;
}

/*
 * Makes all that can be seen durable.  An insert position right behind a page's
 * header means that the page is not there yet.
 */
static void
flush_wal(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	XLogFlush(end);
}

/* Puts the rows of a reading among those on their way. */
static void
add_rows(const AudReading *reading)
{
	for (int i = 0; i < reading->nids; i++)
	{
		AudOutboxRow *row = hash_search(reading->sink->rows, &reading->ids[i], HASH_ENTER, NULL);

		row->waiting = 0;
		row->sent = false;
	}
}

/* Reads what is new in the outbox, as the sink's reading; false: there is nothing. */
bool
aud_relay_read(AudSink *sink)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience outbox reading", ALLOCSET_DEFAULT_SIZES);
	AudReading *reading = MemoryContextAllocZero(mcxt, sizeof(AudReading));

	reading->sink = sink;
	reading->mcxt = mcxt;
	if (!aud_frame_transaction("reading the outbox", read_outbox, reading) || reading->nids == 0)
	{
		MemoryContextDelete(mcxt);
		return false;
	}
	flush_wal();
	/* should anything be thrown, the next step begins anew */
	aud_relay_beginning = sink;
	add_rows(reading);
	MemoryContextSetParent(mcxt, sink->mcxt);
	sink->reading = reading;
	aud_relay_beginning = NULL;
	return true;
}

/* Rows to be deleted. */
typedef struct Done
{
	AudSink	   *sink;
	Datum	   *ids;
	int			nids;
} Done;

/* The body of crossing rows off. */
static bool
delete_rows(void *arg)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT8ARRAYOID};
	Done	   *done = arg;
	Datum		values[2];

	values[0] = Int32GetDatum(done->sink->number);
	values[1] = PointerGetDatum(construct_array(done->ids, done->nids, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	if (SPI_execute_plan(aud_store_plan(&plan, "DELETE FROM audience.kafka_outbox o WHERE o.sink = $1 AND o.id = ANY ($2)",
										lengthof(types), types, 0),
						 values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from table \"kafka_outbox\"");
	return true;
}

/* Deletes the rows all of whose messages the brokers have. */
void
aud_relay_cross_off(AudSink *sink)
{
	HASH_SEQ_STATUS status;
	AudOutboxRow *row;
	Done		done = {.sink = sink};

	if (sink->ndone == 0)
		return;
	done.ids = palloc(sink->ndone * sizeof(Datum));
	hash_seq_init(&status, sink->rows);
	while ((row = hash_seq_search(&status)) != NULL)
		if (row->sent && row->waiting == 0)
			done.ids[done.nids++] = Int64GetDatum(row->id);
	Assert(done.nids == sink->ndone);
	if (!aud_frame_transaction("crossing off what was sent", delete_rows, &done))
		return;
	for (int i = 0; i < done.nids; i++)
	{
		int64		id = DatumGetInt64(done.ids[i]);

		hash_search(sink->rows, &id, HASH_REMOVE, NULL);
	}
	sink->ndone = 0;
}
