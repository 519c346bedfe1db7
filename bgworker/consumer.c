/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  A consumer of a database: messages from Kafka become events and segments.
 *
 * A database has audience.kafka_consumers of them, each with a share of all
 * partitions.  One client per cluster reads them; librdkafka's threads fetch
 * ahead into bounded queues while this process is at the database.
 *
 * Two jobs.  One looks: it reads the configuration (consumer_setup.c) and asks
 * the brokers (consumer_brokers.c).  The other moves: it takes what has come,
 * as much as a transaction of a quarter of a second can store, and stores it
 * (consumer_batch.c).  What could not be stored for want of a lock, disk or
 * connection stays in memory and is tried again; meanwhile no more than a batch
 * is received, so queues fill and fetching stops.
 *
 * Whenever anything changes (the configuration, a partition's offset by
 * somebody else's hand, a broker's answer that does not fit), everything
 * received is dropped, clients are closed, and all begins anew from the offsets
 * in the table.  That costs milliseconds, and there is no state to go wrong.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "consumer.h"
#include "worker_frame.h"

/* what one receipt may come to: then it is stored */
#define BYTES_MAX		(8 * (Size) 1024 * 1024)
/* messages of a batch adapt to this time of a transaction, from so few on */
#define BATCH_MS		250
#define BATCH_FIRST		1000
#define BATCH_LEAST		100
/* until a look at the configuration and the brokers, if all is well, and if not */
#define LOOK_MS			10000
#define LOOK_AGAIN_MS	1000

extern PGDLLEXPORT void aud_consumer_main(Datum main_arg);

/* What has been received and is not stored: in order, of all sources. */
static struct
{
	AudKafkaMessage *messages;	/* room for AUD_CONSUMER_BATCH */
	int			nmessages;
	Size		bytes;
}			received;
static int	batch_most = BATCH_FIRST;

static AudJob jobs[2];

/* What this consumer knows of a partition; NULL: it does not have it. */
AudPartition *
aud_consumer_partition(AudSource *source, int partition)
{
	for (int i = 0; i < source->npartitions; i++)
		if (source->partitions[i].partition == partition)
			return &source->partitions[i];
	return NULL;
}

/* Sets what the statistics say of a partition; NULL: they have no room for it. */
void
aud_consumer_set_state(AudKafkaEntry *shared, AudKafkaState state)
{
	if (shared == NULL || shared->state == state)
		return;
	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	shared->state = state;
	LWLockRelease(aud_kafka_stats->lock);
}

/* Gives back all that has been received and not stored. */
void
aud_consumer_drop_received(void)
{
	for (int i = 0; i < received.nmessages; i++)
		if (received.messages[i].handle != NULL)
			aud_kafka_free(&received.messages[i]);
	received.nmessages = 0;
	received.bytes = 0;
}

/* The same, at exit. */
static void
drop_at_exit(int code, Datum arg)
{
	aud_consumer_drop_received();
}

/* Is there something that has been received and is not stored? */
bool
aud_consumer_has_received(void)
{
	return received.nmessages > 0;
}

/* Job: reads the configuration, and asks the brokers what is to be known. */
static void
look(AudStep *step)
{
	bool		good;

	if (!aud_consumer_read_setup())
		return;
	good = aud_consumer_see_to_brokers();
	/* a client wakes us once until it is asked, which it is not before it is to read */
	aud_frame_hurry(&jobs[AUD_JOB_MOVE]);
	step->more = aud_consumer_anew;
	step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), good ? LOOK_MS : LOOK_AGAIN_MS);
	aud_frame_waits_for = aud_consumer_setup.nsources > 0 ? "waiting for messages from Kafka" : "waiting for a source to be read";
}

/* The source of a topic in a connection's cluster; NULL: none, any more. */
static AudSource *
find_source(const AudConnection *connection, const char *topic)
{
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
	{
		AudSource  *source = &aud_consumer_setup.sources[i];

		if (&aud_consumer_setup.connections[source->cluster] == connection && strcmp(source->topic, topic) == 0)
			return source;
	}
	return NULL;
}

/*
 * Takes what came of a connection's client into what is to be stored.  What is
 * no message, or not to come yet, or any more, is dealt with at once.
 */
static void
sort_received(AudConnection *connection, int first, int n)
{
	TimestampTz now = GetCurrentTimestamp();
	int			kept = first;

	for (int i = first; i < first + n; i++)
	{
		AudKafkaMessage *message = &received.messages[i];
		AudSource  *source = find_source(connection, message->topic);
		AudPartition *partition = source ? aud_consumer_partition(source, message->partition) : NULL;

		if (partition != NULL)
			partition->heard_at = now;
		if (partition != NULL && message->kind == AUD_KAFKA_OUT_OF_RANGE && !aud_consumer_anew)
			aud_consumer_out_of_range(source, partition);
		else if (partition != NULL && message->kind == AUD_KAFKA_FAILED)
			aud_consumer_report(source, partition->partition, message->error);
		else if (partition != NULL && !aud_consumer_anew && message->offset >= partition->next &&
				 (message->kind == AUD_KAFKA_MESSAGE || message->offset > partition->next))
		{
			received.bytes += message->value_len + message->key_len;
			message->owner = source;
			/* never twice, should the next one have something thrown */
			if (kept < i)
			{
				received.messages[kept] = *message;
				message->handle = NULL;
			}
			kept++;
			continue;
		}
		aud_kafka_free(message);
	}
	received.nmessages = kept;
}

/* Receives what has come, if there is room. */
static void
receive(void)
{
	AudKafkaNews news;

	for (int i = 0; i < aud_consumer_setup.nconnections; i++)
	{
		AudConnection *connection = &aud_consumer_setup.connections[i];

		if (connection->client == NULL)
			continue;
		/* what is wrong with it is known from its answers, too */
		if (connection->asker != NULL)
			aud_kafka_serve(connection->asker, &news);
		aud_kafka_serve(connection->client, &news);
		if (news.failed || news.disconnected)
		{
			/* it is the look that finds out when they are back */
			if (connection->answered)
				aud_frame_hurry(&jobs[AUD_JOB_LOOK]);
			connection->answered = false;
			aud_consumer_report_all(connection, aud_kafka_error(connection->client));
		}
		if (!connection->assigned)
			continue;
		while (received.nmessages < batch_most && received.bytes < BYTES_MAX && !aud_consumer_anew)
		{
			int			first = received.nmessages;
			int			n = aud_kafka_receive(connection->client, &received.messages[first], batch_most - first);

			if (n == 0)
				break;
			/* so that what is thrown leaves nothing behind */
			received.nmessages += n;
			sort_received(connection, first, n);
		}
	}
}

/* Fits the size of batches to the time that the last one took. */
static void
adapt(int n, TimestampTz started_at)
{
	long		ms = TimestampDifferenceMilliseconds(started_at, GetCurrentTimestamp());

	if (ms > 2L * BATCH_MS && n >= batch_most / 2)
		batch_most = Max(batch_most / 2, BATCH_LEAST);
	else if (ms < BATCH_MS && n >= batch_most)
		batch_most = Min(batch_most * 2, AUD_CONSUMER_BATCH);
}

/* Stores what has been received of a source. */
static void
store_source(AudSource *source)
{
	int		   *indexes = palloc((received.nmessages + 1) * sizeof(int));
	AudConnection *connection = &aud_consumer_setup.connections[source->cluster];
	int			n = 0;

	for (int i = 0; i < received.nmessages; i++)
		if (received.messages[i].handle != NULL && received.messages[i].owner == source)
			indexes[n++] = i;
	if (n == 0)
		return;
	switch (aud_consumer_store(source, connection->cluster->name, received.messages, indexes, n))
	{
		case AUD_BATCH_STORED:
			for (int i = 0; i < n; i++)
				aud_kafka_free(&received.messages[indexes[i]]);
			break;
		case AUD_BATCH_REFUSED:
			aud_consumer_stop(source, -1, psprintf("more than %g %% of its latest messages are bad", source->max_bad * 100));
			break;
		case AUD_BATCH_MOVED:
			aud_consumer_anew = true;
			break;
		case AUD_BATCH_LEAVING:
			break;
	}
}

/* Notes an error of the database with all sources that wait for it to be over. */
static void
see_error(const ErrorData *error)
{
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
	{
		aud_kafka_stats_error(false, aud_consumer_setup.sources[i].number, -1, error->sqlerrcode, error->message);
		aud_consumer_set_states(&aud_consumer_setup.sources[i], AUD_KAFKA_BACKING_OFF);
	}
}

/* The database takes messages again: says so of the partitions as well for which there were none. */
static void
end_backing_off(void)
{
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
		for (int j = 0; j < aud_consumer_setup.sources[i].npartitions; j++)
		{
			AudKafkaEntry *shared = aud_consumer_setup.sources[i].partitions[j].shared;

			if (shared != NULL && shared->state == AUD_KAFKA_BACKING_OFF)
				aud_consumer_set_state(shared, AUD_KAFKA_RUNNING);
		}
}

/* Stores all that has been received. */
static void
store_received(void)
{
	TimestampTz started_at = GetCurrentTimestamp();
	MemoryContext mcxt = CurrentMemoryContext;

	PG_TRY();
	{
		for (int i = 0; i < aud_consumer_setup.nsources && !aud_consumer_anew; i++)
			store_source(&aud_consumer_setup.sources[i]);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(mcxt);
		/* the frame logs it, ends the transaction, and comes back later; a cancel is for leaving */
		if (!ShutdownRequestPending)
			see_error(CopyErrorData());
		PG_RE_THROW();
	}
	PG_END_TRY();
	end_backing_off();
	adapt(received.nmessages, started_at);
}

/* Job: receives and stores. */
static void
move(AudStep *step)
{
	int			n;

	aud_kafka_clear_wake();
	if (!aud_consumer_anew)
		receive();
	n = received.nmessages;
	if (n > 0 && !aud_consumer_anew)
		store_received();
	aud_consumer_drop_received();
	step->more = n > 0 && !aud_consumer_anew;
	if (aud_consumer_anew)
		aud_frame_hurry(&jobs[AUD_JOB_LOOK]);
}

static AudJob jobs[2] = {
	[AUD_JOB_LOOK] = {.name = "looking at sources", .mode = AUD_STEP_FREE, .step = look},
	[AUD_JOB_MOVE] = {.name = "receiving", .mode = AUD_STEP_FREE, .any_wake = true, .step = move},
};

/* A consumer's process; main_arg is its slot. */
void
aud_consumer_main(Datum main_arg)
{
	aud_frame_begin(AUD_WORKER_CONSUMER, main_arg);
	before_shmem_exit(aud_kafka_stats_leave, (Datum) 0);
	aud_kafka_prepare();
	aud_frame_fd = aud_kafka_wake_fd();
	before_shmem_exit(drop_at_exit, (Datum) 0);
	received.messages = MemoryContextAlloc(TopMemoryContext, AUD_CONSUMER_BATCH * sizeof(AudKafkaMessage));
	aud_frame_run(jobs, lengthof(jobs));
	proc_exit(0);
}
