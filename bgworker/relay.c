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
 * in between, and then with the same audience-event-id.  No transaction is open
 * while brokers are waited for.
 *
 * Each sink has a producer of its own, so that none holds up another, nor one
 * that has no room: what was read for it waits until it has.  Where a producer
 * gives a message up, or fails, it is closed, its rows are forgotten, and
 * another begins anew.  Which rows are to be sent, and in which order:
 * relay_outbox.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "relay.h"
#include "worker_frame.h"

/* until a look at reports, should nothing wake us, and until another look for brokers */
#define LOOK_MS			1000
/* how long brokers have to answer that look */
#define ANSWER_MS		200

extern PGDLLEXPORT void aud_relay_main(Datum main_arg);

/* what the configuration was read into */
typedef struct Setup
{
	MemoryContext mcxt;
	char	   *installation;	/* NULL: nothing may be sent from here */
	AudSink	  **sinks;
	int			nsinks;
} Setup;

static AudJob jobs[2];
static Setup setup = {0};

/* Reads a sink, in a context of its own. */
static AudSink *
read_sink(const Setup *new, int number, const char *topic, const char *cluster)
{
	MemoryContext mcxt = AllocSetContextCreate(new->mcxt, "audience sink", ALLOCSET_SMALL_SIZES);
	HASHCTL		control = {.keysize = sizeof(int64), .entrysize = sizeof(AudOutboxRow), .hcxt = mcxt};
	AudSink	   *sink = MemoryContextAllocZero(mcxt, sizeof(AudSink));

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
	new->sinks = MemoryContextAllocZero(new->mcxt, (n + 1) * sizeof(AudSink *));
	for (int i = 0; i < n; i++)
	{
		new->sinks[i] = read_sink(new, numbers[i], topics[i], clusters[i]);
		new->nsinks++;
	}
	return true;
}

/* Forgets what is on its way: whatever becomes of it, it will be read again. */
static void
forget_rows(AudSink *sink)
{
	HASH_SEQ_STATUS status;
	AudOutboxRow *row;

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
close_sink(AudSink *sink)
{
	if (sink->client != NULL)
		aud_kafka_close(sink->client);
	sink->client = NULL;
	sink->connected = false;
	forget_rows(sink);
}

/* Sets what the statistics say of a sink. */
static void
set_state(AudSink *sink, AudKafkaState state)
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
fail_sink(AudSink *sink, const char *error)
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
drop_sink(AudSink *sink)
{
	close_sink(sink);
	if (aud_relay_beginning == sink)
		aud_relay_beginning = NULL;
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
static AudSink **
find_sink(const Setup *in, int number)
{
	for (int i = 0; i < in->nsinks; i++)
		if (in->sinks[i] != NULL && in->sinks[i]->number == number)
			return &in->sinks[i];
	return NULL;
}

/* Opens a producer for a sink; NULL: "error" says why not. */
static AudKafkaClient *
open_producer(const AudSink *sink, char *error)
{
	if (sink->cluster->problem != NULL)
	{
		strlcpy(error, sink->cluster->problem, AUD_KAFKA_ERROR);
		return NULL;
	}
	return aud_kafka_open_producer(sink->cluster->options, sink->cluster->noptions, sink->topic, error);
}

/*
 * Would a producer of the new cluster work at all?  A setting that cannot be
 * used leaves the old one in force.
 */
static bool
is_usable(const AudSink *sink)
{
	char		error[AUD_KAFKA_ERROR];
	AudKafkaClient *client = open_producer(sink, error);

	if (client != NULL)
	{
		aud_kafka_close(client);
		return true;
	}
	aud_kafka_stats_error(true, sink->number, -1, 0, error);
	ereport(LOG, (errmsg("new options of Kafka cluster \"%s\" cannot be used: %s", sink->cluster->name, error), errhidestmt(true)));
	return false;
}

/*
 * Is a sink as read anew to take the place of the old one, which works?  Options
 * that were refused once are not tried, or told of, again.
 */
static bool
replaces(const AudSink *sink, AudSink *old)
{
	if (old->refused != NULL && aud_kafka_same_cluster(sink->cluster, old->refused))
		return false;
	if (is_usable(sink))
		return true;
	old->refused = aud_kafka_copy_cluster(sink->cluster, old->mcxt);
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
		AudSink	   *sink = new.sinks[i];
		AudSink	  **old = find_sink(&setup, sink->number);

		if (old != NULL &&
			(aud_kafka_same_cluster(sink->cluster, (*old)->cluster) ||
			 ((*old)->works && !replaces(sink, *old))))
		{
			if (aud_kafka_same_cluster(sink->cluster, (*old)->cluster))
				(*old)->refused = NULL;
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
			new.sinks[i]->shared = aud_kafka_stats_entry(true, new.sinks[i]->number, -1);
	if (setup.mcxt != NULL)
		MemoryContextDelete(setup.mcxt);
	setup = new;
	/* whoever waited for something else may have taken the latch */
	aud_frame_hurry(&jobs[AUD_JOB_MOVE]);
}

/* The brokers cannot be reached, or do not have the topic: aud_kafka_error says. */
static void
lose_brokers(AudSink *sink)
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
find_brokers(AudSink *sink)
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
take_news(AudSink *sink)
{
	AudKafkaNews news;

	aud_kafka_serve(sink->client, &news);
	for (int i = 0; i < news.nacked; i++)
	{
		AudOutboxRow *row = hash_search(sink->rows, &news.acked[i], HASH_FIND, NULL);

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
finish_row(AudSink *sink, int64 id)
{
	AudOutboxRow *row = hash_search(sink->rows, &id, HASH_FIND, NULL);

	/* it may have come so far before, and be gone */
	if (row == NULL || row->sent)
		return;
	row->sent = true;
	if (row->waiting == 0)
		sink->ndone++;
}

/* Gives message n of a reading to the producer; how that went. */
static AudKafkaSent
send_message(AudReading *reading, int n)
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
send_messages(AudSink *sink)
{
	AudReading *reading = sink->reading;
	int			before = reading->nsent;

	while (reading->nsent < reading->nmessages)
	{
		int64		id = reading->tags[reading->nsent];
		AudOutboxRow *row;
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

/*
 * Sends what was read and had no room, or else what is new in the outbox; true
 * if there may be more at once.
 */
static bool
send_new(AudSink *sink)
{
	AudReading *reading;
	bool		more;

	if (sink->reading == NULL && (sink->waiting > AUD_RELAY_MESSAGES / 2 || !aud_relay_read(sink)))
		return false;
	reading = sink->reading;
	if (!send_messages(sink) || reading->nsent < reading->nmessages)
		return false;
	/* rows that came to no message, too */
	for (int i = 0; i < reading->nids; i++)
		finish_row(sink, reading->ids[i]);
	more = reading->nids >= AUD_RELAY_ROWS;
	sink->resending = false;
	sink->reading = NULL;
	MemoryContextDelete(reading->mcxt);
	return more;
}

/* Opens the sink's producer; false: it cannot be opened, or not yet. */
static bool
open_sink(AudSink *sink)
{
	char		error[AUD_KAFKA_ERROR];

	if (sink->client != NULL)
		return true;
	if (sink->not_before > GetCurrentTimestamp())
		return false;
	sink->client = open_producer(sink, error);
	if (sink->client == NULL)
		fail_sink(sink, error);
	else
		sink->works = true;
	return sink->client != NULL;
}

/* Job: sends what there is, and takes the brokers' answers. */
static void
move(AudStep *step)
{
	bool		in_flight = false;
	bool		away = false;

	aud_kafka_clear_wake();
	if (aud_relay_beginning != NULL)
		close_sink(aud_relay_beginning);
	aud_relay_beginning = NULL;
	for (int i = 0; i < setup.nsinks; i++)
	{
		AudSink	   *sink = setup.sinks[i];

		if (open_sink(sink) && take_news(sink))
		{
			aud_relay_cross_off(sink);
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
