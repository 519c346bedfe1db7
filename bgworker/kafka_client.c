/*-------------------------------------------------------------------------
 *
 * kafka_client.c
 *	  Kafka as the bridge uses it: the only file that includes librdkafka.
 *
 * librdkafka has threads of its own.  None of them ever calls us: what they
 * have to say waits in queues that the worker's process empties (the event
 * API), and a byte in a pipe wakes it.  So no error of PostgreSQL's can jump
 * across librdkafka's frames, and nothing of PostgreSQL's is touched by two
 * threads.  Signals are for the process's own thread: they are blocked while
 * threads are made.
 *
 * A consumer reads the partitions that it is told to, from the offsets that it
 * is told: offsets are kept in a table, so there are no groups, rebalances or
 * commits, and an offset that is not there is an error, not a reason to go on
 * from somewhere else.  It is not moved, but closed and opened anew (which
 * takes milliseconds): librdkafka before 2.1 may lose or repeat messages where
 * partitions are paused or sought while batches are read.
 *
 * A producer is for one topic, idempotent, waits for all replicas, and gives
 * nothing up by itself, however long it takes: one message given up and sent
 * later would come after its successors.  Where one is refused all the same,
 * the client is closed, and everything that was not acknowledged is sent again
 * in order by another.
 *
 * Whatever is open is closed when the process ends (aud_kafka_close, from
 * before_shmem_exit): threads that run on while a process is being taken down
 * have crashed others.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

#include "kafka_client.h"
#include "storage/ipc.h"

/* clients of one process, at most */
#define CLIENTS_MAX			64
/* topics of one client, at most */
#define TOPICS_MAX			256
/* events that one call takes from the queue of what is not messages */
#define EVENTS_AT_ONCE		1000
/* log level of syslog's up to which librdkafka's lines are passed on: warnings */
#define LOG_LEVEL_MAX		4

struct AudKafkaClient
{
	rd_kafka_t *rk;
	rd_kafka_queue_t *events;	/* all but messages */
	rd_kafka_queue_t *messages; /* of a consumer */
	rd_kafka_topic_t *topics[TOPICS_MAX];
	int			ntopics;
	int64	   *acked;			/* tags, malloc'ed */
	int			nacked;
	int			room;			/* in acked */
	bool		unreachable;	/* the last call that failed did so for want of a broker */
	char		trouble[AUD_KAFKA_ERROR];	/* what was told of the brokers since they answered last; or empty */
	char		error[AUD_KAFKA_ERROR];
};

static AudKafkaClient *clients[CLIENTS_MAX];
static int	wake_pipe[2] = {-1, -1};

/* Closes all clients, at exit. */
static void
close_all(int code, Datum arg)
{
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (clients[i] != NULL)
			aud_kafka_close(clients[i]);
}

/*
 * Makes the pipe by which librdkafka's threads wake this process, and sees to
 * it that clients are closed at exit.  Callbacks that give back what has been
 * received are to be registered afterwards: they must run before.
 */
void
aud_kafka_prepare(void)
{
	if (pipe(wake_pipe) < 0)
		ereport(ERROR, (errcode_for_file_access(), errmsg("could not create a pipe: %m")));
	for (int i = 0; i < 2; i++)
		if (fcntl(wake_pipe[i], F_SETFL, O_NONBLOCK) < 0 || fcntl(wake_pipe[i], F_SETFD, FD_CLOEXEC) < 0)
			ereport(ERROR, (errcode_for_socket_access(), errmsg("could not set up a pipe: %m")));
	before_shmem_exit(close_all, (Datum) 0);
}

/* The descriptor that can be read from when there is something to receive or to serve. */
int
aud_kafka_wake_fd(void)
{
	return wake_pipe[0];
}

/* Empties the pipe: call it before looking at queues. */
void
aud_kafka_clear_wake(void)
{
	char		bytes[256];

	while (read(wake_pipe[0], bytes, sizeof(bytes)) > 0)
		;
}

/* What went wrong in the last call that failed. */
const char *
aud_kafka_error(const AudKafkaClient *client)
{
	return client->error;
}

/* Sets the client's error to what librdkafka says of a code; false. */
static bool
fail(AudKafkaClient *client, rd_kafka_resp_err_t err)
{
	strlcpy(client->error, rd_kafka_err2str(err), sizeof(client->error));
	client->unreachable = err == RD_KAFKA_RESP_ERR__TIMED_OUT || err == RD_KAFKA_RESP_ERR__TRANSPORT ||
		err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || err == RD_KAFKA_RESP_ERR__RESOLVE ||
		err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR__SSL;
	/* that nobody answered tells less than what was told of the connection */
	if (client->unreachable && client->trouble[0] != '\0')
		strlcpy(client->error, client->trouble, sizeof(client->error));
	return false;
}

/* Was there no answer at all in the last call that failed? */
bool
aud_kafka_is_unreachable(const AudKafkaClient *client)
{
	return client->unreachable;
}

/* Sets an option; false: "error" says why not, without repeating a secret. */
static bool
set_option(rd_kafka_conf_t *conf, const AudKafkaOption *option, char *error)
{
	char		why[AUD_KAFKA_ERROR];

	if (rd_kafka_conf_set(conf, option->name, option->value, why, sizeof(why)) == RD_KAFKA_CONF_OK)
		return true;
	if (option->secret)
		snprintf(error, AUD_KAFKA_ERROR, "invalid value of option \"%s\"", option->name);
	else
		strlcpy(error, why, AUD_KAFKA_ERROR);
	return false;
}

/* Some options. */
typedef struct Options
{
	const AudKafkaOption *options;
	int			n;
} Options;

/*
 * A configuration of several sets of options, the later ones above the earlier,
 * that has a client queue these events; NULL: "error" says why.
 */
static rd_kafka_conf_t *
make_conf(const Options *sets, int nsets, int events, char *error)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();

	for (int i = 0; i < nsets; i++)
		for (int j = 0; j < sets[i].n; j++)
			if (!set_option(conf, &sets[i].options[j], error))
			{
				rd_kafka_conf_destroy(conf);
				return NULL;
			}
	rd_kafka_conf_set_events(conf, events);
	return conf;
}

/* Has a queue wake the process. */
static void
wake_for(rd_kafka_queue_t *queue)
{
	rd_kafka_queue_io_event_enable(queue, wake_pipe[1], "x", 1);
}

/*
 * A client of some type, from a configuration, which it takes over; NULL:
 * "error" says why.
 */
static AudKafkaClient *
open_client(rd_kafka_type_t type, rd_kafka_conf_t *conf, char *error)
{
	AudKafkaClient *client = NULL;
	sigset_t	all,
				before;
	int			n = 0;

	while (n < CLIENTS_MAX && clients[n] != NULL)
		n++;
	if (n < CLIENTS_MAX)
		client = calloc(1, sizeof(AudKafkaClient));
	if (client == NULL)
	{
		strlcpy(error, n < CLIENTS_MAX ? "out of memory" : "too many Kafka clients in one process", AUD_KAFKA_ERROR);
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	client->rk = rd_kafka_new(type, conf, error, AUD_KAFKA_ERROR);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (client->rk == NULL)
	{
		rd_kafka_conf_destroy(conf);
		free(client);
		return NULL;
	}
	clients[n] = client;
	client->events = rd_kafka_queue_get_main(client->rk);
	wake_for(client->events);
	(void) rd_kafka_set_log_queue(client->rk, NULL);
	if (type == RD_KAFKA_CONSUMER)
	{
		client->messages = rd_kafka_queue_get_consumer(client->rk);
		if (client->messages == NULL)
		{
			strlcpy(error, "could not get the consumer's queue", AUD_KAFKA_ERROR);
			aud_kafka_close(client);
			return NULL;
		}
		wake_for(client->messages);
	}
	return client;
}

/*
 * A consumer.  "group" names it to the brokers, which know nothing else of it.
 * NULL: "error", with room for AUD_KAFKA_ERROR bytes, says why.
 */
AudKafkaClient *
aud_kafka_open_consumer(const AudKafkaOption *options, int noptions, const char *group, char *error)
{
	const AudKafkaOption defaults[] = {
		/* more than a second of messages: a partition that has enough is left alone for so long */
		{"queued.max.messages.kbytes", "65536"},
		{"queued.min.messages", "200000"},
		{"fetch.error.backoff.ms", "100"},
		{"fetch.message.max.bytes", "4194304"},
		{"reconnect.backoff.max.ms", "2000"},
		{"topic.metadata.refresh.interval.ms", "10000"},
	};
	const AudKafkaOption ours[] = {
		{"group.id", group},
		{"enable.auto.commit", "false"},
		{"enable.auto.offset.store", "false"},
		{"auto.offset.reset", "error"},
		{"enable.partition.eof", "true"},
		{"isolation.level", "read_committed"},
		{"check.crcs", "true"},
		{"allow.auto.create.topics", "false"},
		{"log.queue", "true"},
		{"log.connection.close", "false"},
	};
	const Options sets[] = {{defaults, lengthof(defaults)}, {options, noptions}, {ours, lengthof(ours)}};
	rd_kafka_conf_t *conf = make_conf(sets, lengthof(sets), RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG, error);

	return conf == NULL ? NULL : open_client(RD_KAFKA_CONSUMER, conf, error);
}

/* The handle of a topic, made when it is first asked for; NULL: "error". */
static rd_kafka_topic_t *
get_topic(AudKafkaClient *client, const char *topic)
{
	rd_kafka_topic_t *made;

	for (int i = 0; i < client->ntopics; i++)
		if (strcmp(rd_kafka_topic_name(client->topics[i]), topic) == 0)
			return client->topics[i];
	if (client->ntopics == TOPICS_MAX)
	{
		strlcpy(client->error, "too many topics of one cluster", sizeof(client->error));
		return NULL;
	}
	made = rd_kafka_topic_new(client->rk, topic, NULL);
	if (made == NULL)
		fail(client, rd_kafka_last_error());
	else
		client->topics[client->ntopics++] = made;
	return made;
}

/* A producer for a topic; as aud_kafka_open_consumer. */
AudKafkaClient *
aud_kafka_open_producer(const AudKafkaOption *options, int noptions, const char *topic, char *error)
{
	const AudKafkaOption defaults[] = {
		{"linger.ms", "5"},
		{"compression.codec", "lz4"},
		{"reconnect.backoff.max.ms", "2000"},
		{"queue.buffering.max.messages", "200000"},
		{"queue.buffering.max.kbytes", "65536"},
	};
	const AudKafkaOption ours[] = {
		{"enable.idempotence", "true"},
		{"acks", "all"},
		{"message.timeout.ms", "0"},
		{"partitioner", "murmur2_random"},
		{"allow.auto.create.topics", "false"},
		{"log.queue", "true"},
		{"log.connection.close", "false"},
	};
	const Options sets[] = {{defaults, lengthof(defaults)}, {options, noptions}, {ours, lengthof(ours)}};
	rd_kafka_conf_t *conf = make_conf(sets, lengthof(sets), RD_KAFKA_EVENT_DR | RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG, error);
	AudKafkaClient *client = conf == NULL ? NULL : open_client(RD_KAFKA_PRODUCER, conf, error);

	if (client != NULL && get_topic(client, topic) == NULL)
	{
		strlcpy(error, client->error, AUD_KAFKA_ERROR);
		aud_kafka_close(client);
		return NULL;
	}
	return client;
}

/*
 * Closes a client without waiting for brokers.  What was received with it must
 * have been freed; what it has not sent is forgotten.
 */
void
aud_kafka_close(AudKafkaClient *client)
{
	for (int i = 0; i < CLIENTS_MAX; i++)
		if (clients[i] == client)
			clients[i] = NULL;
	if (rd_kafka_type(client->rk) == RD_KAFKA_PRODUCER)
		(void) rd_kafka_purge(client->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
							  RD_KAFKA_PURGE_F_NON_BLOCKING);
	for (int i = 0; i < client->ntopics; i++)
		rd_kafka_topic_destroy(client->topics[i]);
	if (client->messages != NULL)
	{
		rd_kafka_queue_io_event_enable(client->messages, -1, NULL, 0);
		rd_kafka_queue_destroy(client->messages);
	}
	rd_kafka_queue_io_event_enable(client->events, -1, NULL, 0);
	rd_kafka_queue_destroy(client->events);
	rd_kafka_destroy_flags(client->rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	free(client->acked);
	free(client);
}

/* What the cluster calls itself; false: not known in that time. */
bool
aud_kafka_cluster_id(AudKafkaClient *client, int timeout_ms, char *id, size_t room)
{
	char	   *answer = rd_kafka_clusterid(client->rk, timeout_ms);

	if (answer == NULL)
		return fail(client, RD_KAFKA_RESP_ERR__TIMED_OUT);
	strlcpy(id, answer, room);
	rd_kafka_mem_free(client->rk, answer);
	return true;
}

/* How many partitions a topic has; 0: "error". */
int
aud_kafka_count_partitions(AudKafkaClient *client, const char *topic, int timeout_ms)
{
	rd_kafka_topic_t *handle = get_topic(client, topic);
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t err;
	int			count = 0;

	if (handle == NULL)
		return 0;
	err = rd_kafka_metadata(client->rk, 0, handle, &metadata, timeout_ms);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (metadata->topic_cnt != 1)
			err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		else if ((err = metadata->topics[0].err) == RD_KAFKA_RESP_ERR_NO_ERROR)
			count = metadata->topics[0].partition_cnt;
		rd_kafka_metadata_destroy(metadata);
	}
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		fail(client, err);
	else
		client->trouble[0] = '\0';
	return count;
}

/* librdkafka's form of places; the caller's, to be destroyed. */
static rd_kafka_topic_partition_list_t *
make_list(const AudKafkaPlace *places, int nplaces)
{
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(nplaces);

	for (int i = 0; i < nplaces; i++)
		rd_kafka_topic_partition_list_add(list, places[i].topic, places[i].partition)->offset = places[i].offset;
	return list;
}

/*
 * Turns instants (milliseconds since 1970, AUD_KAFKA_BEGINNING or
 * AUD_KAFKA_END) in "offset" into the offsets of the first messages from then
 * on.  An instant after the last message becomes the end.
 */
bool
aud_kafka_find_offsets(AudKafkaClient *client, AudKafkaPlace *places, int nplaces, int timeout_ms)
{
	rd_kafka_topic_partition_list_t *list = make_list(places, nplaces);
	rd_kafka_resp_err_t err;
	bool		again = false;

	err = rd_kafka_offsets_for_times(client->rk, list, timeout_ms);
	for (int i = 0; i < nplaces && err == RD_KAFKA_RESP_ERR_NO_ERROR; i++)
	{
		rd_kafka_topic_partition_t *found =
			rd_kafka_topic_partition_list_find(list, places[i].topic, places[i].partition);

		err = found == NULL ? RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION : found->err;
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		/* none that late; an end there must be */
		if (found->offset < 0)
		{
			if (places[i].offset == AUD_KAFKA_END)
			{
				err = RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
				break;
			}
			places[i].offset = AUD_KAFKA_END;
			again = true;
		}
		else
			places[i].offset = found->offset;
	}
	rd_kafka_topic_partition_list_destroy(list);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return fail(client, err);
	if (!again)
		return true;
	for (int i = 0; i < nplaces; i++)
		if (places[i].offset == AUD_KAFKA_END && !aud_kafka_find_offsets(client, &places[i], 1, timeout_ms))
			return false;
	return true;
}

/* The first and the next offset of an assigned partition, as last heard; false: not yet. */
bool
aud_kafka_watermarks(AudKafkaClient *client, const char *topic, int32 partition, int64 *low, int64 *high)
{
	return rd_kafka_get_watermark_offsets(client->rk, topic, partition, low, high) ==
		RD_KAFKA_RESP_ERR_NO_ERROR && *high >= 0;
}

/* Has a consumer read these partitions, and no others. */
bool
aud_kafka_assign(AudKafkaClient *client, const AudKafkaPlace *places, int nplaces)
{
	rd_kafka_topic_partition_list_t *list = make_list(places, nplaces);
	rd_kafka_resp_err_t err;

	err = rd_kafka_assign(client->rk, list);
	rd_kafka_topic_partition_list_destroy(list);
	return err == RD_KAFKA_RESP_ERR_NO_ERROR || fail(client, err);
}

/* What a received thing is. */
static AudKafkaKind
kind_of(rd_kafka_resp_err_t err)
{
	switch (err)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			return AUD_KAFKA_MESSAGE;
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			return AUD_KAFKA_AT_END;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			return AUD_KAFKA_OUT_OF_RANGE;
		default:
			return AUD_KAFKA_FAILED;
	}
}

/*
 * What there is to be received, up to "room" of it; does not wait.  Each is the
 * caller's, to be given to aud_kafka_free.
 */
int
aud_kafka_receive(AudKafkaClient *client, AudKafkaMessage *messages, int room)
{
	rd_kafka_message_t *received[1000];
	ssize_t		n = rd_kafka_consume_batch_queue(client->messages, 0, received, Min(room, (int) lengthof(received)));

	for (int i = 0; i < n; i++)
	{
		rd_kafka_message_t *from = received[i];
		AudKafkaMessage *to = &messages[i];
		rd_kafka_timestamp_type_t type;

		to->kind = kind_of(from->err);
		to->topic = from->rkt != NULL ? rd_kafka_topic_name(from->rkt) : "";
		to->partition = from->partition;
		to->offset = from->offset;
		to->handle = from;
		to->owner = NULL;
		to->key = to->value = to->error = NULL;
		to->key_len = to->value_len = 0;
		to->timestamp = -1;
		if (to->kind != AUD_KAFKA_MESSAGE)
		{
			to->error = rd_kafka_message_errstr(from);
			continue;
		}
		to->timestamp = rd_kafka_message_timestamp(from, &type);
		if (type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE)
			to->timestamp = -1;
		to->key = from->key;
		to->key_len = from->key_len;
		to->value = from->payload;
		to->value_len = from->len;
	}
	return Max(n, 0);
}

/* The nth header of a message, from 0 on; false: it has no more. */
bool
aud_kafka_header(const AudKafkaMessage *message, int n, AudKafkaHeader *header)
{
	rd_kafka_headers_t *headers;
	const void *value;

	if (rd_kafka_message_headers(message->handle, &headers) != RD_KAFKA_RESP_ERR_NO_ERROR ||
		rd_kafka_header_get_all(headers, n, &header->name, &value, &header->value_len) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return false;
	header->value = value;
	return true;
}

/* Gives back what was received. */
void
aud_kafka_free(AudKafkaMessage *message)
{
	rd_kafka_message_destroy(message->handle);
	message->handle = NULL;
}

/* Queues a copy of a message to be sent to the producer's topic. */
AudKafkaSent
aud_kafka_send(AudKafkaClient *client, const AudKafkaOutgoing *message)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(message->nheaders);
	rd_kafka_resp_err_t err;

	for (int i = 0; i < message->nheaders; i++)
		(void) rd_kafka_header_add(headers, message->headers[i].name, -1,
								   message->headers[i].value, message->headers[i].value_len);
	err = rd_kafka_producev(client->rk,
							RD_KAFKA_V_RKT(client->topics[0]),
							RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_KEY(unconstify(char *, message->key), message->key_len),
							RD_KAFKA_V_VALUE(unconstify(char *, message->value), message->value_len),
							RD_KAFKA_V_HEADERS(headers),
	/* librdkafka's way to carry an integer.  NOLINTNEXTLINE(performance-no-int-to-ptr) */
							RD_KAFKA_V_OPAQUE((void *) (intptr_t) message->tag),
							RD_KAFKA_V_END);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return AUD_KAFKA_QUEUED;
	rd_kafka_headers_destroy(headers);
	if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return AUD_KAFKA_FULL;
	fail(client, err);
	return AUD_KAFKA_REFUSED;
}

/* Adds to the tags that are acknowledged; false: there is no memory. */
static bool
add_acked(AudKafkaClient *client, int64 tag)
{
	if (client->nacked == client->room)
	{
		int			room = Max(client->room * 2, 1024);
		int64	   *larger = realloc(client->acked, room * sizeof(int64));

		if (larger == NULL)
			return false;
		client->acked = larger;
		client->room = room;
	}
	client->acked[client->nacked++] = tag;
	return true;
}

/* Takes over delivery reports. */
static void
take_reports(AudKafkaClient *client, rd_kafka_event_t *event, AudKafkaNews *news)
{
	const rd_kafka_message_t *message;

	while ((message = rd_kafka_event_message_next(event)) != NULL)
	{
		rd_kafka_resp_err_t err = message->err;

		if (err == RD_KAFKA_RESP_ERR_NO_ERROR && add_acked(client, (int64) (intptr_t) message->_private))
			continue;
		/* what comes of an error that came before tells less */
		if (!news->failed)
			fail(client, err == RD_KAFKA_RESP_ERR_NO_ERROR ? RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE : err);
		news->failed = true;
	}
}

/* Takes over an error of the client's. */
static void
take_error(AudKafkaClient *client, rd_kafka_event_t *event, AudKafkaNews *news)
{
	rd_kafka_resp_err_t err = rd_kafka_event_error(event);
	char	   *circumstances;

	if (news->failed)
		return;
	if (err == RD_KAFKA_RESP_ERR__FATAL)
	{
		(void) rd_kafka_fatal_error(client->rk, client->error, sizeof(client->error));
		news->failed = true;
		return;
	}
	/* others heal, and are told again where they do not; that all brokers are down is told behind the reason */
	if (err != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || client->trouble[0] == '\0')
	{
		strlcpy(client->trouble, rd_kafka_event_error_string(event), sizeof(client->trouble));
		/* how long it took and how often it was is never the same twice */
		circumstances = strstr(client->trouble, " (after ");
		if (circumstances != NULL)
			*circumstances = '\0';
	}
	strlcpy(client->error, client->trouble, sizeof(client->error));
	news->disconnected = true;
}

/* Passes a line of librdkafka's log on to the server's, if it is a warning or worse. */
static void
take_log(rd_kafka_event_t *event)
{
	const char *facility,
			   *text;
	int			level;

	if (rd_kafka_event_log(event, &facility, &text, &level) != 0 || level > LOG_LEVEL_MAX)
		return;
	/* so that nothing thrown leaves the event behind, at worst the line is lost */
	PG_TRY();
	{
		ereport(LOG, (errmsg("Kafka client: %s", text), errhidestmt(true)));
	}
	PG_CATCH();
	{
		FlushErrorState();
	}
	PG_END_TRY();
}

/*
 * Takes what there is to be told: reports on messages sent, errors, and
 * librdkafka's log.  Does not wait.
 */
void
aud_kafka_serve(AudKafkaClient *client, AudKafkaNews *news)
{
	rd_kafka_event_t *event;

	memset(news, 0, sizeof(*news));
	client->nacked = 0;
	for (int i = 0; i < EVENTS_AT_ONCE; i++)
	{
		event = rd_kafka_queue_poll(client->events, 0);
		if (event == NULL)
			break;
		switch (rd_kafka_event_type(event))
		{
			case RD_KAFKA_EVENT_DR:
				take_reports(client, event, news);
				break;
			case RD_KAFKA_EVENT_ERROR:
				take_error(client, event, news);
				break;
			case RD_KAFKA_EVENT_LOG:
				take_log(event);
				break;
			default:
				break;
		}
		rd_kafka_event_destroy(event);
	}
	news->acked = client->acked;
	news->nacked = client->nacked;
}
