/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  The relay of a database: what is in the outbox goes out to Kafka.
 *
 * Whoever changes a membership or a segment puts a row into kafka_outbox in the
 * same transaction.  The relay reads committed rows, hands their messages to a
 * producer, and deletes a row when the brokers have all of its messages.  So a
 * message is sent at least once, and nothing of a transaction that failed ever;
 * one is sent twice only if the relay, the server or the connection breaks down
 * in between, and then with the same audience-event-id.  What becomes visible
 * is first made durable (synchronous_commit may be off): else a crash could
 * take back what the world has been told.  No transaction is open while brokers
 * are waited for.
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
 * Each sink has a producer of its own, so that none holds up another, nor one
 * that has no room: what was read for it waits until it has.  Where a producer
 * gives a message up, or fails, it is closed, its rows are forgotten,
 * and another begins from "low" again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "kafka_config.h"
#include "kafka_stats.h"
#include "worker_frame.h"

/* rows that are read at a time, and messages that may be on their way */
#define ROWS_AT_ONCE	5000
#define MESSAGES_MAX	50000
/* until a look at reports, should nothing wake us, and until another look for brokers */
#define LOOK_MS			1000
/* how long brokers have to answer that look */
#define ANSWER_MS		200

extern PGDLLEXPORT void aud_relay_main(Datum main_arg);

/* A row of the outbox on its way. */
typedef struct Row
{
	int64		id;				/* key */
	int			waiting;		/* messages that are not acknowledged */
	bool		sent;			/* all of its messages have been given to the producer */
} Row;

typedef struct Reading Reading;

typedef struct Sink
{
	MemoryContext mcxt;			/* of all of it */
	int			number;
	char	   *topic;
	AudKafkaCluster *cluster;
	AudKafkaClient *client;		/* NULL: to be opened, not before "not_before" */
	TimestampTz not_before;
	int			failures;		/* in a row */
	bool		connected;		/* brokers have answered, and have not gone since */
	TimestampTz asked_at;		/* when we looked for them last */
	HTAB	   *rows;			/* on their way */
	int			ndone;			/* of these are acknowledged, and can be deleted */
	int			waiting;		/* messages that are not acknowledged */
	Reading    *reading;		/* what is being given to the producer; NULL: nothing */
	int64		low;			/* no row below this will appear */
	int64		mark;			/* when all of mark_xmax have ended, low may be this; 0: none */
	TransactionId mark_xmax;
	bool		resending;		/* what is read next was sent before, maybe */
	AudKafkaSink *shared;		/* NULL: no room */
} Sink;

/* What a look at the outbox is about, what it finds, and how much of that the producer has. */
struct Reading
{
	Sink	   *sink;
	int64	   *ids;			/* that are new */
	int			nids;
	int			nmessages;
	int			nsent;			/* so many of them the producer has */
	int64	   *tags;			/* of each message: the row's id */
	char	  **keys;
	char	  **event_ids;
	char	  **messages;
	MemoryContext mcxt;			/* of all this */
};

/* what the configuration was read into */
typedef struct Setup
{
	MemoryContext mcxt;
	char	   *installation;	/* NULL: nothing may be sent from here */
	Sink	  **sinks;
	int			nsinks;
} Setup;

static AudJob jobs[2];
static Setup setup = {0};
static Sink *beginning = NULL;	/* whose rows are just being put among those on their way */

/* Reads a sink, in a context of its own. */
static Sink *
read_sink(const Setup *new, int number, const char *topic, const char *cluster)
{
	MemoryContext mcxt = AllocSetContextCreate(new->mcxt, "audience sink", ALLOCSET_SMALL_SIZES);
	HASHCTL		control = {.keysize = sizeof(int64), .entrysize = sizeof(Row), .hcxt = mcxt};
	Sink	   *sink = MemoryContextAllocZero(mcxt, sizeof(Sink));

	sink->mcxt = mcxt;
	sink->number = number;
	sink->topic = MemoryContextStrdup(mcxt, topic);
	sink->cluster = aud_kafka_read_cluster(cluster, AUD_KAFKA_PRODUCER, mcxt);
	sink->not_before = DT_NOBEGIN;
	sink->rows = hash_create("audience outbox rows", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return sink;
}

/* The body of a look at the configuration, into the Setup that arg is. */
static bool
read_setup(void *arg)
{
	Setup	   *new = arg;
	int			n;
	int		   *numbers;
	char	  **topics;
	char	  **clusters;

	if (SPI_execute("SELECT i.id::pg_catalog.text FROM audience.kafka_installation i WHERE audience.kafka_is_here(i)",
					true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_installation\"");
	if (SPI_processed == 0)
		return true;
	new->installation = aud_kafka_cell(0, 1, new->mcxt);
	if (SPI_execute("SELECT s.number, s.topic, s.cluster FROM audience.kafka_sinks s WHERE NOT s.paused ORDER BY s.number",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_sinks\"");
	n = SPI_processed;
	numbers = palloc((n + 1) * sizeof(int));
	topics = palloc((n + 1) * sizeof(char *));
	clusters = palloc((n + 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		numbers[i] = aud_kafka_cell_int(i, 1, 0);
		topics[i] = aud_kafka_cell(i, 2, CurrentMemoryContext);
		clusters[i] = aud_kafka_cell(i, 3, CurrentMemoryContext);
	}
	new->sinks = MemoryContextAllocZero(new->mcxt, (n + 1) * sizeof(Sink *));
	for (int i = 0; i < n; i++)
	{
		new->sinks[i] = read_sink(new, numbers[i], topics[i], clusters[i]);
		new->nsinks++;
	}
	return true;
}

/* Forgets what is on its way: whatever becomes of it, it will be read again. */
static void
forget_rows(Sink *sink)
{
	HASH_SEQ_STATUS status;
	Row		   *row;

	hash_seq_init(&status, sink->rows);
	while ((row = hash_seq_search(&status)) != NULL)
	{
		sink->resending = true;
		hash_search(sink->rows, &row->id, HASH_REMOVE, NULL);
	}
	sink->ndone = sink->waiting = 0;
	sink->low = sink->mark = 0;
	if (sink->reading != NULL)
		MemoryContextDelete(sink->reading->mcxt);
	sink->reading = NULL;
}

/* Closes the producer, if there is one. */
static void
close_sink(Sink *sink)
{
	if (sink->client != NULL)
		aud_kafka_close(sink->client);
	sink->client = NULL;
	sink->connected = false;
	forget_rows(sink);
}

/* Sets what the statistics say of a sink. */
static void
set_state(Sink *sink, AudKafkaState state)
{
	if (sink->shared == NULL || (sink->shared->state == state && sink->shared->in_flight == sink->waiting))
		return;
	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	sink->shared->state = state;
	sink->shared->in_flight = sink->waiting;
	LWLockRelease(aud_kafka_stats->lock);
}

/* Something is wrong with the sink: says so, and begins anew after a while. */
static void
fail_sink(Sink *sink, const char *error)
{
	/* it may be the client's, which is closed */
	char	   *why = pstrdup(error);

	close_sink(sink);
	sink->failures++;
	sink->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), aud_frame_backoff_ms(sink->failures));
	aud_kafka_stats_error(true, sink->number, -1, 0, why);
	set_state(sink, AUD_KAFKA_BACKING_OFF);
	ereport(LOG, (errmsg("could not send to Kafka topic \"%s\": %s", sink->topic, why), errhidestmt(true)));
}

/* Ends with a sink that is no more, is paused, or has been read anew. */
static void
drop_sink(Sink *sink)
{
	close_sink(sink);
	if (beginning == sink)
		beginning = NULL;
	if (sink->shared != NULL)
	{
		LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
		sink->shared->pid = 0;
		sink->shared->in_flight = 0;
		LWLockRelease(aud_kafka_stats->lock);
	}
	MemoryContextDelete(sink->mcxt);
}

/* Where a setup has the sink of this number; NULL: nowhere. */
static Sink **
find_sink(const Setup *in, int number)
{
	for (int i = 0; i < in->nsinks; i++)
		if (in->sinks[i] != NULL && in->sinks[i]->number == number)
			return &in->sinks[i];
	return NULL;
}

/*
 * Would a producer of the new cluster work at all?  A setting that cannot be
 * used leaves the old one in force.
 */
static bool
is_usable(const Sink *sink)
{
	char		error[AUD_KAFKA_ERROR];
	AudKafkaClient *client;

	strlcpy(error, sink->cluster->problem ? sink->cluster->problem : "", sizeof(error));
	if (sink->cluster->problem == NULL)
	{
		client = aud_kafka_open_producer(sink->cluster->options, sink->cluster->noptions, sink->topic, error);
		if (client != NULL)
		{
			aud_kafka_close(client);
			return true;
		}
	}
	aud_kafka_stats_error(true, sink->number, -1, 0, error);
	ereport(LOG, (errmsg("new options of Kafka cluster \"%s\" cannot be used: %s", sink->cluster->name, error), errhidestmt(true)));
	return false;
}

/*
 * Job: reads the configuration, and takes it over.  Sinks that have not changed
 * go on with what they are at.
 */
static void
look(AudStep *step)
{
	Setup		new = {0};

	new.mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience relay configuration", ALLOCSET_SMALL_SIZES);
	if (!aud_frame_transaction("reading the configuration of sinks", read_setup, &new))
		return;
	/* what is thrown before this leaves nothing behind */
	MemoryContextSetParent(new.mcxt, TopMemoryContext);
	for (int i = 0; i < new.nsinks; i++)
		MemoryContextSetParent(new.sinks[i]->mcxt, TopMemoryContext);
	for (int i = 0; i < new.nsinks; i++)
	{
		Sink	   *sink = new.sinks[i];
		Sink	  **old = find_sink(&setup, sink->number);

		if (old != NULL &&
			(aud_kafka_same_cluster(sink->cluster, (*old)->cluster) ||
			 ((*old)->client != NULL && !is_usable(sink))))
		{
			new.sinks[i] = *old;
			*old = NULL;
			MemoryContextDelete(sink->mcxt);
		}
	}
	for (int i = 0; i < setup.nsinks; i++)
		if (setup.sinks[i] != NULL)
			drop_sink(setup.sinks[i]);
	for (int i = 0; i < new.nsinks; i++)
		if (new.sinks[i]->shared == NULL)
			new.sinks[i]->shared = aud_kafka_stats_sink(new.sinks[i]->number);
	if (setup.mcxt != NULL)
		MemoryContextDelete(setup.mcxt);
	setup = new;
	/* whoever waited for something else may have taken the latch */
	aud_frame_hurry(&jobs[AUD_JOB_MOVE]);
}

/* The lowest id that is on its way; PG_INT64_MAX: none is. */
static int64
lowest_row(Sink *sink)
{
	HASH_SEQ_STATUS status;
	Row		   *row;
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
move_low(Sink *sink, int64 first, int64 last, bool complete)
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
find_rows(Reading *reading)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT8OID, INT8OID};
	Sink	   *sink = reading->sink;
	int64		most = hash_get_num_entries(sink->rows) + ROWS_AT_ONCE;
	Datum		values[3];
	int64		last = 0;
	int			messages = sink->waiting;
	bool		complete;

	values[0] = Int32GetDatum(sink->number);
	values[1] = Int64GetDatum(sink->low);
	values[2] = Int64GetDatum(most);
	if (SPI_execute_plan(aud_kafka_plan(&plan, "SELECT o.id, o.messages FROM audience.kafka_outbox o "
										"WHERE o.sink = $1 AND o.id >= $2 ORDER BY o.id LIMIT $3",
										lengthof(types), types),
						 values, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_outbox\"");
	reading->ids = MemoryContextAlloc(reading->mcxt, (SPI_processed + 1) * sizeof(int64));
	complete = SPI_processed < most;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64		id = aud_kafka_cell_int(i, 1, 0);

		if (hash_search(sink->rows, &id, HASH_FIND, NULL) == NULL)
		{
			messages += aud_kafka_cell_int(i, 2, 0);
			if (messages > MESSAGES_MAX && messages > aud_kafka_cell_int(i, 2, 0))
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
	Reading    *reading = arg;
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
	if (SPI_execute_plan(aud_kafka_plan(&plan, "SELECT m.id, m.key, m.event_id, m.message "
										"FROM audience.kafka_outbox_messages($1, $2) m",
										lengthof(types), types),
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

/* The brokers cannot be reached, or do not have the topic: aud_kafka_error says. */
static void
lose_brokers(Sink *sink)
{
	const char *why = aud_kafka_error(sink->client);

	/* once is enough, as long as it is the same */
	if (sink->shared == NULL || sink->shared->state != AUD_KAFKA_WAITING ||
		strncmp(sink->shared->last_error, why, AUD_KAFKA_ERROR_TEXT - 1) != 0)
		aud_kafka_stats_error(true, sink->number, -1, 0, why);
	sink->connected = false;
	set_state(sink, AUD_KAFKA_WAITING);
}

/* Where it is not known that brokers are there, asks them, every now and then. */
static void
find_brokers(Sink *sink)
{
	TimestampTz now = GetCurrentTimestamp();

	if (sink->connected || !TimestampDifferenceExceeds(sink->asked_at, now, LOOK_MS))
		return;
	sink->asked_at = now;
	if (aud_kafka_count_partitions(sink->client, sink->topic, ANSWER_MS) == 0)
	{
		lose_brokers(sink);
		return;
	}
	sink->connected = true;
	set_state(sink, AUD_KAFKA_RUNNING);
}

/* Takes what the producer has to say, but for what that changes in tables; false: the sink has failed. */
static bool
take_news(Sink *sink)
{
	AudKafkaNews news;

	aud_kafka_serve(sink->client, &news);
	for (int i = 0; i < news.nacked; i++)
	{
		Row		   *row = hash_search(sink->rows, &news.acked[i], HASH_FIND, NULL);

		if (row == NULL || row->waiting == 0)
			continue;
		sink->waiting--;
		if (--row->waiting == 0 && row->sent)
			sink->ndone++;
	}
	if (news.failed)
	{
		fail_sink(sink, aud_kafka_error(sink->client));
		return false;
	}
	if (news.nacked > 0)
	{
		sink->failures = 0;
		sink->connected = true;
		set_state(sink, AUD_KAFKA_RUNNING);
		if (sink->shared != NULL)
		{
			LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
			sink->shared->acked += news.nacked;
			sink->shared->last_ack_at = GetCurrentTimestamp();
			LWLockRelease(aud_kafka_stats->lock);
		}
	}
	else if (news.disconnected)
		lose_brokers(sink);
	return true;
}

/* Nothing more of a row is to be sent. */
static void
finish_row(Sink *sink, int64 id)
{
	Row		   *row = hash_search(sink->rows, &id, HASH_FIND, NULL);

	/* it may have come so far before, and be gone */
	if (row == NULL || row->sent)
		return;
	row->sent = true;
	if (row->waiting == 0)
		sink->ndone++;
}

/* Gives message n of a reading to the producer; how that went. */
static AudKafkaSent
send_message(Reading *reading, int n)
{
	char		event_id[128];
	AudKafkaHeader header = {.name = "audience-event-id", .value = event_id};
	AudKafkaOutgoing outgoing = {
		.key = reading->keys[n], .key_len = strlen(reading->keys[n]),
		.value = reading->messages[n], .value_len = strlen(reading->messages[n]),
		.headers = &header, .nheaders = 1, .tag = reading->tags[n]
	};

	header.value_len = snprintf(event_id, sizeof(event_id), "%s/%s", setup.installation, reading->event_ids[n]);
	return aud_kafka_send(reading->sink->client, &outgoing);
}

/*
 * Gives the messages of the sink's reading to the producer, as many as it has
 * room for; the others wait until it wakes us with reports, so that neither
 * other sinks nor the configuration wait for it.  False: the sink has failed.
 */
static bool
send_messages(Sink *sink)
{
	Reading    *reading = sink->reading;
	int			before = reading->nsent;

	while (reading->nsent < reading->nmessages)
	{
		int64		id = reading->tags[reading->nsent];
		Row		   *row;
		AudKafkaSent result = send_message(reading, reading->nsent);

		if (result == AUD_KAFKA_REFUSED)
		{
			fail_sink(sink, aud_kafka_error(sink->client));
			return false;
		}
		if (result == AUD_KAFKA_FULL)
			break;
		row = hash_search(sink->rows, &id, HASH_FIND, NULL);
		row->waiting++;
		sink->waiting++;
		reading->nsent++;
		if (reading->nsent == reading->nmessages || reading->tags[reading->nsent] != id)
			finish_row(sink, id);
	}
	if (sink->shared != NULL)
	{
		LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
		sink->shared->sent += reading->nsent - before;
		if (sink->resending)
			sink->shared->retried += reading->nsent - before;
		sink->shared->in_flight = sink->waiting;
		LWLockRelease(aud_kafka_stats->lock);
	}
	return true;
}

/* Puts the rows of a reading among those on their way. */
static void
add_rows(const Reading *reading)
{
	for (int i = 0; i < reading->nids; i++)
	{
		Row		   *row = hash_search(reading->sink->rows, &reading->ids[i], HASH_ENTER, NULL);

		row->waiting = 0;
		row->sent = false;
	}
}

/* Reads what is new in the outbox, as the sink's reading; false: there is nothing. */
static bool
read_new(Sink *sink)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience outbox reading", ALLOCSET_DEFAULT_SIZES);
	Reading    *reading = MemoryContextAllocZero(mcxt, sizeof(Reading));

	reading->sink = sink;
	reading->mcxt = mcxt;
	if (!aud_frame_transaction("reading the outbox", read_outbox, reading) || reading->nids == 0)
	{
		MemoryContextDelete(mcxt);
		return false;
	}
	flush_wal();
	/* should anything be thrown, the next step begins anew */
	beginning = sink;
	add_rows(reading);
	MemoryContextSetParent(mcxt, sink->mcxt);
	sink->reading = reading;
	beginning = NULL;
	return true;
}

/*
 * Sends what was read and had no room, or else what is new in the outbox; true
 * if there may be more at once.
 */
static bool
send_new(Sink *sink)
{
	Reading    *reading;
	bool		more;

	if (sink->reading == NULL && (sink->waiting > MESSAGES_MAX / 2 || !read_new(sink)))
		return false;
	reading = sink->reading;
	if (!send_messages(sink) || reading->nsent < reading->nmessages)
		return false;
	/* rows that came to no message, too */
	for (int i = 0; i < reading->nids; i++)
		finish_row(sink, reading->ids[i]);
	more = reading->nids >= ROWS_AT_ONCE;
	sink->resending = false;
	sink->reading = NULL;
	MemoryContextDelete(reading->mcxt);
	return more;
}

/* Rows to be deleted. */
typedef struct Done
{
	Sink	   *sink;
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
	if (SPI_execute_plan(aud_kafka_plan(&plan, "DELETE FROM audience.kafka_outbox o WHERE o.sink = $1 AND o.id = ANY ($2)",
										lengthof(types), types),
						 values, NULL, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not delete from table \"kafka_outbox\"");
	return true;
}

/* Deletes the rows all of whose messages the brokers have. */
static void
cross_off(Sink *sink)
{
	HASH_SEQ_STATUS status;
	Row		   *row;
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

/* Opens the sink's producer; false: it cannot be, for now. */
static bool
open_sink(Sink *sink)
{
	char		error[AUD_KAFKA_ERROR];

	if (sink->client != NULL)
		return true;
	if (sink->not_before > GetCurrentTimestamp())
		return false;
	if (sink->cluster->problem == NULL)
		sink->client = aud_kafka_open_producer(sink->cluster->options, sink->cluster->noptions, sink->topic, error);
	else
		strlcpy(error, sink->cluster->problem, sizeof(error));
	if (sink->client == NULL)
		fail_sink(sink, error);
	return sink->client != NULL;
}

/* Job: sends what there is, and takes the brokers' answers. */
static void
move(AudStep *step)
{
	bool		in_flight = false;
	bool		away = false;

	aud_kafka_clear_wake();
	if (beginning != NULL)
		close_sink(beginning);
	beginning = NULL;
	for (int i = 0; i < setup.nsinks; i++)
	{
		Sink	   *sink = setup.sinks[i];

		if (open_sink(sink) && take_news(sink))
		{
			cross_off(sink);
			if (send_new(sink))
				step->more = true;
		}
		if (sink->client == NULL)
			step->again = Min(step->again, sink->not_before);
		else
			find_brokers(sink);
		in_flight |= sink->waiting > 0;
		away |= !sink->connected;
	}
	if (in_flight || away)
		step->again = Min(step->again, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOOK_MS));
	aud_frame_waits_for = in_flight ? "waiting for Kafka to acknowledge" : "waiting for something to send";
}

static AudJob jobs[2] = {
	[AUD_JOB_LOOK] = {.name = "looking at sinks", .mode = AUD_STEP_FREE, .step = look},
	[AUD_JOB_MOVE] = {.name = "sending", .mode = AUD_STEP_FREE, .any_wake = true, .step = move},
};

/* A relay's process; main_arg is its slot. */
void
aud_relay_main(Datum main_arg)
{
	aud_frame_begin(AUD_WORKER_RELAY, main_arg);
	before_shmem_exit(aud_kafka_stats_leave, (Datum) 0);
	aud_kafka_prepare();
	aud_frame_fd = aud_kafka_wake_fd();
	aud_frame_run(jobs, lengthof(jobs));
	proc_exit(0);
}
