/*-------------------------------------------------------------------------
 *
 * consumer_brokers.c
 *	  What a consumer finds out of brokers: partitions, where they begin, how far
 *	  they are, and what is wrong with them.
 *
 * The first consumer of a database looks for partitions, for all of them.  Those
 * that are there when a source is first read begin where it says, those that
 * are found later with their first message.
 *
 * Brokers that do not answer are waited for.  A source is stopped, until somebody
 * looks at it (kafka_source_resume), if its offsets are not there any more, if
 * another cluster answers under the same name, or if too many messages are bad.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "consumer.h"
#include "store.h"
#include "worker_frame.h"

/* until brokers are asked again how far they are */
#define ASK_MS			10000
/* how long a partition may be silent although there should be something */
#define STALL_MS		60000

/* how long to wait for brokers that did not answer the last time: they must not hold up what others have */
#define AWAY_MS			100

/* when brokers were asked last; 0, which is long ago: not yet (no difference to DT_NOBEGIN can be taken) */
static TimestampTz asked_at = 0;

/* How long brokers have to answer. */
static int
patience(const AudConnection *connection)
{
	return connection->away ? AWAY_MS : AUD_KAFKA_PATIENCE_MS;
}

/* Has brokers be asked soon, whenever they were last. */
void
aud_consumer_begin_asking(void)
{
	asked_at = 0;
}

/* Sets the state of all partitions of a source. */
void
aud_consumer_set_states(AudSource *source, AudKafkaState state)
{
	aud_consumer_set_state(source->shared, state);
	for (int i = 0; i < source->npartitions; i++)
		aud_consumer_set_state(source->partitions[i].shared, state);
}

/* Is it known already that brokers are waited for, and why? */
static bool
is_known(const AudKafkaEntry *shared, const char *why)
{
	return shared != NULL && shared->state == AUD_KAFKA_WAITING &&
		strncmp(shared->last_error, why, AUD_KAFKA_ERROR_TEXT - 1) == 0;
}

/* Something is wrong with a source that time may mend: its brokers are waited for. */
void
aud_consumer_report(AudSource *source, int partition, const char *why)
{
	bool		known = is_known(source->shared, why);

	for (int i = 0; i < source->npartitions; i++)
		known |= is_known(source->partitions[i].shared, why);
	/* once is enough, as long as it is the same */
	if (!known)
		aud_kafka_stats_error(false, source->number, partition, 0, why);
	aud_consumer_set_states(source, AUD_KAFKA_WAITING);
}

/* The same for all sources of a connection. */
void
aud_consumer_report_all(const AudConnection *connection, const char *why)
{
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
		if (&aud_consumer_setup.connections[aud_consumer_setup.sources[i].cluster] == connection)
			aud_consumer_report(&aud_consumer_setup.sources[i], -1, why);
}

/* A source to be stopped. */
typedef struct Stop
{
	const AudSource *source;
	const char *reason;
} Stop;

/* The body of stopping a source. */
static bool
stop_source(void *arg)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, TEXTOID};
	Stop	   *stop = arg;
	Datum		args[2];

	args[0] = Int32GetDatum(stop->source->number);
	args[1] = CStringGetTextDatum(stop->reason);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT audience.kafka_source_stop($1, $2) "
										"FROM audience.kafka_sources s WHERE s.number = $1 AND s.stopped IS NULL",
										lengthof(types), types, 0),
						 args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not stop a source");
	return true;
}

/* Stops a source for a reason that somebody must look at. */
void
aud_consumer_stop(AudSource *source, int partition, const char *reason)
{
	Stop		arg = {.source = source, .reason = reason};

	aud_kafka_stats_error(false, source->number, partition, 0, reason);
	ereport(LOG, (errmsg("stopping Kafka source \"%s\": %s", source->id, reason), errhidestmt(true)));
	(void) aud_frame_transaction("stopping a source", stop_source, &arg);
	aud_consumer_anew = true;
}

/* Closes a connection's clients. */
void
aud_consumer_close(AudConnection *connection)
{
	if (connection->client != NULL)
		aud_kafka_close(connection->client);
	if (connection->asker != NULL)
		aud_kafka_close(connection->asker);
	connection->client = connection->asker = NULL;
	connection->assigned = connection->answered = connection->away = false;
}

/*
 * A client that reads from a cluster; NULL: "error" says why there is none.  The
 * group's name says who we are, for those who look at the brokers.
 */
AudKafkaClient *
aud_consumer_open_client(const AudKafkaCluster *cluster, char *error)
{
	char		group[64];

	if (cluster->problem != NULL)
	{
		strlcpy(error, cluster->problem, AUD_KAFKA_ERROR);
		return NULL;
	}
	snprintf(group, sizeof(group), "audience-manager-%u", MyDatabaseId);
	return aud_kafka_open_consumer(cluster->options, cluster->noptions, group, error);
}

/* Partitions, or the cluster's id, that have been found. */
typedef struct Found
{
	const AudSource *source;
	const char *cluster_id;
	int			npartitions;
} Found;

/* The body of storing what has been found.  Tells all consumers. */
static bool
store_found(void *arg)
{
	static SPIPlanPtr insert = NULL;
	static SPIPlanPtr update = NULL;
	static const Oid insert_types[] = {INT4OID, INT4OID};
	static const Oid update_types[] = {INT4OID, TEXTOID};
	Found	   *found = arg;
	Datum		args[2];

	args[0] = Int32GetDatum(found->source->number);
	args[1] = Int32GetDatum(found->npartitions);
	if (SPI_execute_plan(aud_store_plan(&insert, "INSERT INTO audience.kafka_offsets (source, partition, start) "
										"SELECT s.number, p, CASE WHEN s.discovered THEN -2 ELSE s.start END "
										"FROM audience.kafka_sources s, pg_catalog.generate_series(0, $2 - 1) p "
										"WHERE s.number = $1 FOR KEY SHARE OF s ON CONFLICT DO NOTHING",
										lengthof(insert_types), insert_types, 0),
						 args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store partitions");
	args[1] = CStringGetTextDatum(found->cluster_id);
	if (SPI_execute_plan(aud_store_plan(&update, "UPDATE audience.kafka_sources s SET discovered = true, cluster_id = $2 "
										"WHERE s.number = $1",
										lengthof(update_types), update_types, 0),
						 args, NULL, false, 0) != SPI_OK_UPDATE ||
		SPI_execute("SELECT audience.note_kafka()", false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not store what was found of a topic");
	return true;
}

/*
 * Looks for partitions of a source that are not known yet, and at which cluster
 * it is; the first consumer does it for all.  False: brokers did not answer.
 */
static bool
find_partitions(AudConnection *connection, AudSource *source)
{
	char		id[256];
	int			n;
	Found		found = {.source = source, .cluster_id = id};

	/* in this order: to wait for the id asks nobody, it comes with the answer about the topic */
	n = aud_kafka_count_partitions(connection->asker, source->topic, patience(connection));
	if (n == 0 || !aud_kafka_cluster_id(connection->asker, patience(connection), id, sizeof(id)))
	{
		aud_consumer_report(source, -1, aud_kafka_error(connection->asker));
		return false;
	}
	if (source->cluster_id != NULL && strcmp(source->cluster_id, id) != 0)
	{
		aud_consumer_stop(source, -1,
						  psprintf("cluster \"%s\" calls itself \"%s\" now, not \"%s\": its offsets are not those of before",
								   connection->cluster->name, id, source->cluster_id));
		return false;
	}
	if (n == source->nknown && source->cluster_id != NULL)
		return true;
	if (n < source->nknown)
	{
		aud_consumer_stop(source, -1,
						  psprintf("topic \"%s\" has %d partitions, fewer than before: it has been made anew",
								   source->topic, n));
		return false;
	}
	found.npartitions = n;
	/* note_kafka has us look anew */
	(void) aud_frame_transaction("storing partitions", store_found, &found);
	aud_consumer_anew = true;
	return false;
}

/* An offset that has been found for a partition. */
typedef struct FoundOffset
{
	const AudSource *source;
	const AudPartition *partition;
	int64		offset;
	bool		stored;
} FoundOffset;

/* The body of storing where a partition goes on. */
static bool
store_offset(void *arg)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT4OID, INT8OID, INT8OID, INT8OID};
	FoundOffset *found = arg;
	Datum		args[5];
	char		nulls[5] = {' ', ' ', ' ', ' ', found->partition->next < 0 ? 'n' : ' '};

	args[0] = Int32GetDatum(found->source->number);
	args[1] = Int32GetDatum(found->partition->partition);
	args[2] = Int64GetDatum(found->partition->epoch);
	args[3] = Int64GetDatum(found->offset);
	args[4] = Int64GetDatum(found->partition->next);
	if (SPI_execute_plan(aud_store_plan(&plan, "UPDATE audience.kafka_offsets o "
										"SET next_offset = $4, moved_at = pg_catalog.clock_timestamp() "
										"WHERE o.source = $1 AND o.partition = $2 AND o.epoch = $3 AND o.next_offset IS NOT DISTINCT FROM $5",
										lengthof(types), types, 0),
						 args, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store an offset");
	found->stored = SPI_processed == 1;
	return true;
}

/* Finds where the partitions begin of which that is not known.  False: not all could be. */
static bool
find_starts(AudConnection *connection, AudSource *source)
{
	for (int i = 0; i < source->npartitions; i++)
	{
		AudPartition *partition = &source->partitions[i];
		AudKafkaPlace place = {.topic = source->topic, .partition = partition->partition, .offset = partition->start};
		FoundOffset found = {.source = source, .partition = partition};

		if (partition->next >= 0)
			continue;
		if (!aud_kafka_find_offsets(connection->asker, &place, 1, patience(connection)))
		{
			aud_consumer_report(source, partition->partition, aud_kafka_error(connection->asker));
			return false;
		}
		found.offset = place.offset;
		if (!aud_frame_transaction("storing where a partition begins", store_offset, &found) || !found.stored)
		{
			aud_consumer_anew = true;
			return false;
		}
		partition->next = place.offset;
	}
	return true;
}

/* Has a connection's client read the partitions of its sources that are ready. */
static void
assign(AudConnection *connection)
{
	AudKafkaPlace *places;
	int			n = 0;

	for (int i = 0; i < aud_consumer_setup.nsources; i++)
		n += aud_consumer_setup.sources[i].npartitions;
	places = palloc((n + 1) * sizeof(AudKafkaPlace));
	n = 0;
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
	{
		AudSource  *source = &aud_consumer_setup.sources[i];

		if (&aud_consumer_setup.connections[source->cluster] != connection || !source->ready)
			continue;
		/* it finds out by itself who has the partitions, but only after a second */
		if (source->npartitions > 0 &&
			aud_kafka_count_partitions(connection->client, source->topic, patience(connection)) == 0 &&
			aud_kafka_is_unreachable(connection->client))
		{
			aud_consumer_report_all(connection, aud_kafka_error(connection->client));
			return;
		}
		for (int j = 0; j < source->npartitions; j++)
		{
			places[n].topic = source->topic;
			places[n].partition = source->partitions[j].partition;
			places[n++].offset = source->partitions[j].next;
			source->partitions[j].heard_at = GetCurrentTimestamp();
		}
	}
	if (n > 0 && !aud_kafka_assign(connection->client, places, n))
	{
		aud_consumer_report_all(connection, aud_kafka_error(connection->client));
		return;
	}
	connection->assigned = true;
}

/*
 * Asks brokers how far a source's partitions are.  False: they did not answer.
 * One that should have had something for a minute, and did not, is read anew.
 */
static bool
ask_high(AudConnection *connection, AudSource *source)
{
	AudKafkaPlace *places = palloc((source->npartitions + 1) * sizeof(AudKafkaPlace));
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < source->npartitions; i++)
	{
		places[i].topic = source->topic;
		places[i].partition = source->partitions[i].partition;
		places[i].offset = AUD_KAFKA_END;
	}
	if (source->npartitions > 0 &&
		!aud_kafka_find_offsets(connection->asker, places, source->npartitions, patience(connection)))
	{
		aud_consumer_report(source, -1, aud_kafka_error(connection->asker));
		return false;
	}
	for (int i = 0; i < source->npartitions; i++)
	{
		AudPartition *partition = &source->partitions[i];
		int64		low,
					high;

		partition->high = places[i].offset;
		if (partition->shared != NULL)
		{
			LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
			partition->shared->high = partition->high;
			if (aud_kafka_watermarks(connection->client, source->topic, partition->partition, &low, &high) && low >= 0)
				partition->shared->low = low;
			LWLockRelease(aud_kafka_stats->lock);
			if (partition->shared->state == AUD_KAFKA_WAITING || partition->shared->state == AUD_KAFKA_CONNECTING)
				aud_consumer_set_state(partition->shared, AUD_KAFKA_RUNNING);
		}
		if (partition->high <= partition->next || aud_consumer_has_received())
			partition->heard_at = now;
		else if (TimestampDifferenceExceeds(partition->heard_at, now, STALL_MS))
		{
			aud_kafka_stats_error(false, source->number, partition->partition, 0,
								  "nothing came for a minute although there is something: connecting anew");
			aud_consumer_set_state(partition->shared, AUD_KAFKA_STALLED);
			aud_consumer_anew = true;
		}
	}
	return true;
}

/* Brings a source as far as it goes.  False: not as far as it should. */
static bool
see_to_source(AudConnection *connection, AudSource *source)
{
	if (aud_frame_slot->number == 0 && !find_partitions(connection, source))
		return false;
	if (!source->ready)
	{
		if (!find_starts(connection, source))
			return false;
		source->ready = true;
		/* the others are being read already */
		if (connection->assigned)
		{
			aud_consumer_anew = true;
			return false;
		}
	}
	return ask_high(connection, source);
}

/* Brings a connection as far as it goes.  False: not as far as it should, try again soon. */
static bool
see_to_connection(AudConnection *connection)
{
	char		error[AUD_KAFKA_ERROR];
	bool		good = true;

	if (connection->client == NULL)
		connection->client = aud_consumer_open_client(connection->cluster, error);
	if (connection->client != NULL && connection->asker == NULL)
		connection->asker = aud_consumer_open_client(connection->cluster, error);
	if (connection->client == NULL || connection->asker == NULL)
	{
		aud_consumer_report_all(connection, error);
		return false;
	}
	connection->works = true;
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
	{
		AudSource  *source = &aud_consumer_setup.sources[i];

		if (&aud_consumer_setup.connections[source->cluster] != connection || see_to_source(connection, source))
			continue;
		if (aud_consumer_anew)
			return false;
		good = false;
		/* nor would it answer to the others */
		if (aud_kafka_is_unreachable(connection->asker))
		{
			aud_consumer_report_all(connection, aud_kafka_error(connection->asker));
			connection->answered = false;
			connection->away = true;
			return false;
		}
	}
	if (!connection->assigned)
		assign(connection);
	connection->answered = good;
	connection->away = false;
	return good && connection->assigned;
}

/* There is no such offset in a partition. */
void
aud_consumer_out_of_range(AudSource *source, AudPartition *partition)
{
	FoundOffset found = {.source = source, .partition = partition};
	AudKafkaPlace place = {.topic = source->topic, .partition = partition->partition};
	AudConnection *connection = &aud_consumer_setup.connections[source->cluster];

	aud_consumer_anew = true;
	if (strcmp(source->out_of_range, "stop") == 0)
	{
		aud_consumer_stop(source, partition->partition,
						  psprintf("offset " INT64_FORMAT " of partition %d is not there: "
								   "what was to come next has been deleted, or the topic was made anew",
								   partition->next, partition->partition));
		return;
	}
	place.offset = strcmp(source->out_of_range, "latest") == 0 ? AUD_KAFKA_END : AUD_KAFKA_BEGINNING;
	if (!aud_kafka_find_offsets(connection->asker, &place, 1, patience(connection)))
		return;
	aud_kafka_stats_error(false, source->number, partition->partition, 0,
						  psprintf("offset " INT64_FORMAT " is not there; going on from " INT64_FORMAT, partition->next, place.offset));
	found.offset = place.offset;
	(void) aud_frame_transaction("moving to where messages are", store_offset, &found);
}

/* Brings all connections as far as they go.  False: not as far as they should, try again soon. */
bool
aud_consumer_see_to_brokers(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		due = TimestampDifferenceExceeds(asked_at, now, ASK_MS);
	bool		good = true;

	for (int i = 0; i < aud_consumer_setup.nconnections; i++)
	{
		AudConnection *connection = &aud_consumer_setup.connections[i];

		if (connection->assigned && connection->answered && !due)
			continue;
		good &= see_to_connection(connection);
		if (aud_consumer_anew)
			return false;
	}
	if (good && due)
		asked_at = now;
	return good;
}
