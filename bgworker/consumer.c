/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  A consumer of a database: messages from Kafka become events and segments.
 *
 * A database has audience.kafka_consumers of them, each with a share of all
 * partitions.  One client per cluster reads them; librdkafka's threads fetch
 * ahead into bounded queues while this process is at the database.
 *
 * Two jobs.  One looks: it reads the configuration, opens clients, finds
 * partitions (the first consumer does it for all), and where they begin, and
 * asks the brokers now and then how far the topics are.  The other moves: it
 * takes what has come, as much as a transaction of a quarter of a second can
 * store, and stores it (consumer_batch.c).  What could not be stored for want
 * of a lock, disk or connection stays in memory and is tried again; meanwhile
 * nothing more is received, so queues fill and fetching stops.
 *
 * Whenever anything changes (the configuration, a partition's offset by
 * somebody else's hand, a broker's answer that does not fit), everything
 * received is dropped, clients are closed, and all begins anew from the offsets
 * in the table.  That costs milliseconds, and there is no state to go wrong.
 *
 * It is a source's end, until somebody looks at it (kafka_source_resume), if
 * its offsets are not there any more, if another cluster answers under the same
 * name, or if too many messages are bad.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "consumer.h"
#include "worker_frame.h"

/* what one receipt may come to: then it is stored */
#define BYTES_MAX		(8 * 1024 * 1024)
/* messages of a batch adapt to this time of a transaction, from so few on */
#define BATCH_MS		250
#define BATCH_FIRST		1000
#define BATCH_LEAST		100
/* until brokers are asked again, if all is well, and if not */
#define ASK_MS			10000
#define ASK_AGAIN_MS	1000
/* how long a partition may be silent although there should be something */
#define STALL_MS		60000

extern PGDLLEXPORT void aud_consumer_main(Datum main_arg);

/* A cluster, and the client that reads from it. */
typedef struct Connection
{
	AudKafkaCluster *cluster;
	AudKafkaClient *client;		/* NULL: to be opened */
	bool		assigned;		/* it reads what it is to read */
	bool		answered;		/* brokers have answered, and have not gone since */
} Connection;

/* what the configuration was read into */
typedef struct Setup
{
	MemoryContext mcxt;
	int			nconnections;
	Connection *connections;
	int			nsources;
	AudSource  *sources;
	StringInfoData print;		/* what there is to be compared */
} Setup;

static Setup setup = {0};
static bool anew = true;		/* begin anew, whatever the configuration says */
static AudReceived received = {0};
static int	batch_most = BATCH_FIRST;
static TimestampTz asked_at = DT_NOBEGIN;

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

/* Sets what the statistics say of a partition. */
void
aud_consumer_set_state(AudPartition *partition, AudKafkaState state)
{
	if (partition->shared == NULL || partition->shared->state == state)
		return;
	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	partition->shared->state = state;
	LWLockRelease(aud_kafka_stats->lock);
}

/* Sets the state of all partitions of a source. */
static void
set_states(AudSource *source, AudKafkaState state)
{
	for (int i = 0; i < source->npartitions; i++)
		aud_consumer_set_state(&source->partitions[i], state);
}

/* The index of a cluster's connection in a setup, which is made if need be.  With SPI. */
static int
get_connection(Setup *new, const char *name)
{
	for (int i = 0; i < new->nconnections; i++)
		if (strcmp(new->connections[i].cluster->name, name) == 0)
			return i;
	new->connections[new->nconnections].cluster = aud_kafka_read_cluster(name, AUD_KAFKA_CONSUMER, new->mcxt);
	return new->nconnections++;
}

/* Reads the sources that are to be read. */
static void
read_sources(Setup *new, char ***clusters)
{
	int			n;

	if (SPI_execute("SELECT s.number, s.id, s.topic, s.stream, s.cluster_id, s.cluster, "
					"coalesce((s.options->>'max_bad')::pg_catalog.float8, 0.5), coalesce(s.options->>'out_of_range', 'stop'), "
					"(SELECT pg_catalog.count(*) FROM audience.kafka_offsets o WHERE o.source = s.number) "
					"FROM audience.kafka_sources s WHERE NOT s.paused AND s.stopped IS NULL "
					"AND EXISTS (SELECT FROM audience.kafka_installation i WHERE audience.kafka_is_here(i)) ORDER BY s.number",
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_sources\"");
	n = SPI_processed;
	new->sources = MemoryContextAllocZero(new->mcxt, (n + 1) * sizeof(AudSource));
	new->connections = MemoryContextAllocZero(new->mcxt, (n + 1) * sizeof(Connection));
	*clusters = palloc((n + 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		AudSource  *source = &new->sources[new->nsources++];
		char	   *stream = aud_kafka_cell(i, 4, CurrentMemoryContext);
		char	   *max_bad = aud_kafka_cell(i, 7, CurrentMemoryContext);

		source->number = aud_kafka_cell_int(i, 1, 0);
		source->id = aud_kafka_cell(i, 2, new->mcxt);
		source->topic = aud_kafka_cell(i, 3, new->mcxt);
		source->of_segments = strcmp(stream, "segments") == 0;
		source->cluster_id = aud_kafka_cell(i, 5, new->mcxt);
		(*clusters)[i] = aud_kafka_cell(i, 6, CurrentMemoryContext);
		source->max_bad = strtod(max_bad, NULL);
		source->out_of_range = aud_kafka_cell(i, 8, new->mcxt);
		source->nknown = aud_kafka_cell_int(i, 9, 0);
	}
}

/* Reads the partitions of a source that this consumer has. */
static void
read_partitions(Setup *new, AudSource *source)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT4OID, INT4OID};
	Datum		args[3];

	args[0] = Int32GetDatum(source->number);
	args[1] = Int32GetDatum(aud_kafka_consumers);
	args[2] = Int32GetDatum(aud_frame_slot->number);
	if (SPI_execute_plan(aud_kafka_plan(&plan, "SELECT o.partition, o.next_offset, o.start, o.epoch FROM audience.kafka_offsets o "
										"WHERE o.source = $1 AND (o.partition::pg_catalog.int8 + $1) % $2 = $3 ORDER BY o.partition",
										lengthof(types), types),
						 args, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_offsets\"");
	source->partitions = MemoryContextAllocZero(new->mcxt, (SPI_processed + 1) * sizeof(AudPartition));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		AudPartition *partition = &source->partitions[source->npartitions++];

		partition->partition = aud_kafka_cell_int(i, 1, 0);
		partition->next = aud_kafka_cell_int(i, 2, -1);
		partition->start = aud_kafka_cell_int(i, 3, 0);
		partition->epoch = aud_kafka_cell_int(i, 4, 0);
		partition->high = -1;
		partition->heard_at = GetCurrentTimestamp();
	}
}

/* Writes down all that makes it necessary to begin anew if it changes. */
static void
print_setup(Setup *new)
{
	MemoryContext old = MemoryContextSwitchTo(new->mcxt);

	initStringInfo(&new->print);
	for (int i = 0; i < new->nsources; i++)
	{
		const AudSource *source = &new->sources[i];

		appendStringInfo(&new->print, "%d %s %s %d %g %s %s %d %s\n", source->number, source->id, source->topic,
						 source->of_segments, source->max_bad, source->out_of_range,
						 source->cluster_id ? source->cluster_id : "", source->nknown,
						 new->connections[source->cluster].cluster->name);
		for (int j = 0; j < source->npartitions; j++)
			appendStringInfo(&new->print, "%d " INT64_FORMAT "\n", source->partitions[j].partition,
							 source->partitions[j].epoch);
	}
	MemoryContextSwitchTo(old);
}

/* The body of a look at the configuration, into the Setup that arg is. */
static bool
read_setup(void *arg)
{
	Setup	   *new = arg;
	char	  **clusters;

	read_sources(new, &clusters);
	for (int i = 0; i < new->nsources; i++)
	{
		new->sources[i].cluster = get_connection(new, clusters[i]);
		read_partitions(new, &new->sources[i]);
	}
	print_setup(new);
	return true;
}

/* Gives back all that has been received and not stored; also at exit. */
static void
drop_received(int code, Datum arg)
{
	for (int i = 0; i < received.nmessages; i++)
		if (received.messages[i].handle != NULL)
			aud_kafka_free(&received.messages[i]);
	received.nmessages = 0;
	received.bytes = 0;
}

/* Closes a connection's client. */
static void
close_connection(Connection *connection)
{
	if (connection->client != NULL)
		aud_kafka_close(connection->client);
	connection->client = NULL;
	connection->assigned = connection->answered = false;
}

/* Something is wrong with a source, for now, and its brokers are waited for. */
static void
report(AudSource *source, int partition, const char *why)
{
	bool		known = false;

	for (int i = 0; i < source->npartitions; i++)
		known |= source->partitions[i].shared != NULL &&
			source->partitions[i].shared->state == AUD_KAFKA_WAITING &&
			strncmp(source->partitions[i].shared->last_error, why, AUD_KAFKA_ERROR_TEXT - 1) == 0;
	/* once is enough, as long as it is the same */
	if (!known)
		aud_kafka_stats_error(false, source->number, partition, 0, why);
	set_states(source, AUD_KAFKA_WAITING);
}

/* The same for all sources of a connection. */
static void
report_all(Connection *connection, const char *why)
{
	for (int i = 0; i < setup.nsources; i++)
		if (&setup.connections[setup.sources[i].cluster] == connection)
			report(&setup.sources[i], -1, why);
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
	if (SPI_execute_plan(aud_kafka_plan(&plan, "SELECT audience.kafka_source_stop($1, $2) "
										"FROM audience.kafka_sources s WHERE s.number = $1 AND s.stopped IS NULL",
										lengthof(types), types),
						 args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not stop a source");
	return true;
}

/* Stops a source for a reason that somebody must look at. */
static void
stop(AudSource *source, int partition, const char *reason)
{
	Stop		arg = {.source = source, .reason = reason};

	aud_kafka_stats_error(false, source->number, partition, 0, reason);
	ereport(LOG, (errmsg("stopping Kafka source \"%s\": %s", source->id, reason), errhidestmt(true)));
	(void) aud_frame_transaction("stopping a source", stop_source, &arg);
	anew = true;
}

/*
 * Opens a connection's client if it has none; NULL: "error" says why it cannot
 * be.  The group's name says who we are, for those who look at the brokers.
 */
static AudKafkaClient *
open_client(const AudKafkaCluster *cluster, char *error)
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

/*
 * Takes over a new configuration.  Options of a cluster that cannot be used
 * leave those in force that could.
 */
static void
take_over(Setup *new)
{
	drop_received(0, (Datum) 0);
	for (int i = 0; i < new->nconnections; i++)
		for (int j = 0; j < setup.nconnections; j++)
		{
			Connection *fresh = &new->connections[i];
			Connection *old = &setup.connections[j];
			char		error[AUD_KAFKA_ERROR];

			if (strcmp(fresh->cluster->name, old->cluster->name) != 0 || old->client == NULL ||
				aud_kafka_same_cluster(fresh->cluster, old->cluster))
				continue;
			fresh->client = open_client(fresh->cluster, error);
			if (fresh->client != NULL)
				continue;
			ereport(LOG, (errmsg("new options of Kafka cluster \"%s\" cannot be used: %s", fresh->cluster->name, error),
						  errhidestmt(true)));
			for (int k = 0; k < new->nsources; k++)
				if (new->sources[k].cluster == i)
					aud_kafka_stats_error(false, new->sources[k].number, -1, 0, error);
			fresh->cluster = aud_kafka_copy_cluster(old->cluster, new->mcxt);
		}
	for (int j = 0; j < setup.nconnections; j++)
		close_connection(&setup.connections[j]);
	if (setup.mcxt != NULL)
		MemoryContextDelete(setup.mcxt);
	setup = *new;
	aud_kafka_stats_leave(0, (Datum) 0);
	for (int i = 0; i < setup.nsources; i++)
		for (int j = 0; j < setup.sources[i].npartitions; j++)
			setup.sources[i].partitions[j].shared =
				aud_kafka_stats_partition(setup.sources[i].number, setup.sources[i].partitions[j].partition);
	anew = false;
	asked_at = DT_NOBEGIN;
}

/* Are the clusters' options what they were? */
static bool
same_clusters(const Setup *a, const Setup *b)
{
	if (a->nconnections != b->nconnections)
		return false;
	for (int i = 0; i < a->nconnections; i++)
		if (!aud_kafka_same_cluster(a->connections[i].cluster, b->connections[i].cluster))
			return false;
	return true;
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
	if (SPI_execute_plan(aud_kafka_plan(&insert, "INSERT INTO audience.kafka_offsets (source, partition, start) "
										"SELECT s.number, p, CASE WHEN s.discovered THEN -2 ELSE s.start END "
										"FROM audience.kafka_sources s, pg_catalog.generate_series(0, $2 - 1) p "
										"WHERE s.number = $1 ON CONFLICT DO NOTHING",
										lengthof(insert_types), insert_types),
						 args, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not store partitions");
	args[1] = CStringGetTextDatum(found->cluster_id);
	if (SPI_execute_plan(aud_kafka_plan(&update, "UPDATE audience.kafka_sources s SET discovered = true, cluster_id = $2 "
										"WHERE s.number = $1",
										lengthof(update_types), update_types),
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
find_partitions(Connection *connection, AudSource *source)
{
	char		id[256];
	int			n;
	Found		found = {.source = source, .cluster_id = id};

	if (!aud_kafka_cluster_id(connection->client, AUD_KAFKA_PATIENCE_MS, id, sizeof(id)) ||
		(n = aud_kafka_count_partitions(connection->client, source->topic, AUD_KAFKA_PATIENCE_MS)) == 0)
	{
		report(source, -1, aud_kafka_error(connection->client));
		return false;
	}
	if (source->cluster_id != NULL && strcmp(source->cluster_id, id) != 0)
	{
		stop(source, -1, psprintf("cluster \"%s\" calls itself \"%s\" now, not \"%s\": its offsets are not those of before",
								  connection->cluster->name, id, source->cluster_id));
		return false;
	}
	if (n == source->nknown && source->cluster_id != NULL)
		return true;
	if (n < source->nknown)
	{
		stop(source, -1, psprintf("topic \"%s\" has %d partitions, fewer than before: it has been made anew", source->topic, n));
		return false;
	}
	found.npartitions = n;
	/* note_kafka has us look anew */
	(void) aud_frame_transaction("storing partitions", store_found, &found);
	anew = true;
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
	if (SPI_execute_plan(aud_kafka_plan(&plan, "UPDATE audience.kafka_offsets o SET next_offset = $4, moved_at = pg_catalog.clock_timestamp() "
										"WHERE o.source = $1 AND o.partition = $2 AND o.epoch = $3 AND o.next_offset IS NOT DISTINCT FROM $5",
										lengthof(types), types),
						 args, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not store an offset");
	found->stored = SPI_processed == 1;
	return true;
}

/* Finds where the partitions begin of which that is not known.  False: not all could be. */
static bool
find_starts(Connection *connection, AudSource *source)
{
	for (int i = 0; i < source->npartitions; i++)
	{
		AudPartition *partition = &source->partitions[i];
		AudKafkaPlace place = {.topic = source->topic, .partition = partition->partition, .offset = partition->start};
		FoundOffset found = {.source = source, .partition = partition};

		if (partition->next >= 0)
			continue;
		if (!aud_kafka_find_offsets(connection->client, &place, 1, AUD_KAFKA_PATIENCE_MS))
		{
			report(source, partition->partition, aud_kafka_error(connection->client));
			return false;
		}
		found.offset = place.offset;
		if (!aud_frame_transaction("storing where a partition begins", store_offset, &found) || !found.stored)
		{
			anew = true;
			return false;
		}
		partition->next = place.offset;
	}
	return true;
}

/* Has a connection's client read the partitions of its sources that are ready. */
static void
assign(Connection *connection)
{
	AudKafkaPlace *places;
	int			n = 0;

	for (int i = 0; i < setup.nsources; i++)
		n += setup.sources[i].npartitions;
	places = palloc((n + 1) * sizeof(AudKafkaPlace));
	n = 0;
	for (int i = 0; i < setup.nsources; i++)
	{
		AudSource  *source = &setup.sources[i];

		if (&setup.connections[source->cluster] != connection || !source->ready)
			continue;
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
		report_all(connection, aud_kafka_error(connection->client));
		return;
	}
	connection->assigned = true;
}

/*
 * Asks brokers how far a source's partitions are.  False: they did not answer.
 * One that should have had something for a minute, and did not, is read anew.
 */
static bool
ask_high(Connection *connection, AudSource *source)
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
		!aud_kafka_find_offsets(connection->client, places, source->npartitions, AUD_KAFKA_PATIENCE_MS))
	{
		report(source, -1, aud_kafka_error(connection->client));
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
				aud_consumer_set_state(partition, AUD_KAFKA_RUNNING);
		}
		if (partition->high <= partition->next || received.nmessages > 0)
			partition->heard_at = now;
		else if (TimestampDifferenceExceeds(partition->heard_at, now, STALL_MS))
		{
			aud_kafka_stats_error(false, source->number, partition->partition, 0,
								  "nothing came for a minute although there is something: connecting anew");
			aud_consumer_set_state(partition, AUD_KAFKA_STALLED);
			anew = true;
		}
	}
	return true;
}

/* Brings a source as far as it goes.  False: not as far as it should. */
static bool
see_to_source(Connection *connection, AudSource *source)
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
			anew = true;
			return false;
		}
	}
	return ask_high(connection, source);
}

/* Brings a connection as far as it goes.  False: not as far as it should, try again soon. */
static bool
see_to_connection(Connection *connection)
{
	char		error[AUD_KAFKA_ERROR];
	bool		good = true;

	if (connection->client == NULL)
	{
		connection->client = open_client(connection->cluster, error);
		if (connection->client == NULL)
		{
			report_all(connection, error);
			return false;
		}
	}
	for (int i = 0; i < setup.nsources; i++)
	{
		AudSource  *source = &setup.sources[i];

		if (&setup.connections[source->cluster] != connection || see_to_source(connection, source))
			continue;
		if (anew)
			return false;
		good = false;
		/* nor would it answer to the others */
		if (aud_kafka_is_unreachable(connection->client))
		{
			report_all(connection, aud_kafka_error(connection->client));
			connection->answered = false;
			return false;
		}
	}
	if (!connection->assigned)
		assign(connection);
	connection->answered = good;
	return good && connection->assigned;
}

/* Job: reads the configuration, and asks the brokers what is to be known. */
static void
look(AudStep *step)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		good = true;
	Setup		new = {0};

	new.mcxt = AllocSetContextCreate(TopMemoryContext, "audience consumer configuration", ALLOCSET_SMALL_SIZES);
	if (!aud_frame_transaction("reading the configuration of sources", read_setup, &new))
	{
		MemoryContextDelete(new.mcxt);
		return;
	}
	if (anew || strcmp(new.print.data, setup.print.data) != 0 || !same_clusters(&new, &setup))
		take_over(&new);
	else
		MemoryContextDelete(new.mcxt);

	for (int i = 0; i < setup.nconnections; i++)
	{
		Connection *connection = &setup.connections[i];

		if (connection->assigned && connection->answered && !TimestampDifferenceExceeds(asked_at, now, ASK_MS))
			continue;
		good &= see_to_connection(connection);
		if (anew)
			break;
	}
	if (good && TimestampDifferenceExceeds(asked_at, now, ASK_MS))
		asked_at = now;
	step->more = anew;
	step->again = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), good ? ASK_MS : ASK_AGAIN_MS);
	aud_frame_waits_for = setup.nsources > 0 ? "waiting for messages from Kafka" : "waiting for a source to be read";
}

/* The source of a topic in a connection's cluster; NULL: none, any more. */
static AudSource *
find_source(const Connection *connection, const char *topic)
{
	for (int i = 0; i < setup.nsources; i++)
		if (&setup.connections[setup.sources[i].cluster] == connection && strcmp(setup.sources[i].topic, topic) == 0)
			return &setup.sources[i];
	return NULL;
}

/* There is no such offset in a partition. */
static void
see_out_of_range(AudSource *source, AudPartition *partition)
{
	FoundOffset found = {.source = source, .partition = partition};
	AudKafkaPlace place = {.topic = source->topic, .partition = partition->partition};
	Connection *connection = &setup.connections[source->cluster];

	anew = true;
	if (strcmp(source->out_of_range, "stop") == 0)
	{
		stop(source, partition->partition,
			 psprintf("offset " INT64_FORMAT " of partition %d is not there: what was to come next has been deleted, or the topic was made anew",
					  partition->next, partition->partition));
		return;
	}
	place.offset = strcmp(source->out_of_range, "latest") == 0 ? AUD_KAFKA_END : AUD_KAFKA_BEGINNING;
	if (!aud_kafka_find_offsets(connection->client, &place, 1, AUD_KAFKA_PATIENCE_MS))
		return;
	aud_kafka_stats_error(false, source->number, partition->partition, 0,
						  psprintf("offset " INT64_FORMAT " is not there; going on from " INT64_FORMAT, partition->next, place.offset));
	found.offset = place.offset;
	(void) aud_frame_transaction("moving to where messages are", store_offset, &found);
}

/*
 * Takes what came of a connection's client into what is to be stored.  What is
 * no message, or not to come yet, or any more, is dealt with at once.
 */
static void
sort_received(Connection *connection, int first, int n)
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
		if (partition != NULL && message->kind == AUD_KAFKA_OUT_OF_RANGE && !anew)
			see_out_of_range(source, partition);
		else if (partition != NULL && message->kind == AUD_KAFKA_FAILED)
			report(source, partition->partition, message->error);
		else if (partition != NULL && !anew && message->offset >= partition->next &&
				 (message->kind == AUD_KAFKA_MESSAGE || message->offset > partition->next))
		{
			received.bytes += message->value_len + message->key_len;
			message->owner = source;
			received.messages[kept++] = *message;
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

	for (int i = 0; i < setup.nconnections; i++)
	{
		Connection *connection = &setup.connections[i];

		if (connection->client == NULL)
			continue;
		aud_kafka_serve(connection->client, &news);
		if (news.failed || news.disconnected)
		{
			connection->answered = false;
			report_all(connection, aud_kafka_error(connection->client));
		}
		if (!connection->assigned)
			continue;
		while (received.nmessages < batch_most && received.bytes < BYTES_MAX && !anew)
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

	if (ms > 2 * BATCH_MS && n >= batch_most / 2)
		batch_most = Max(batch_most / 2, BATCH_LEAST);
	else if (ms < BATCH_MS && n >= batch_most)
		batch_most = Min(batch_most * 2, AUD_CONSUMER_BATCH);
}

/* Stores what has been received of a source. */
static void
store_source(AudSource *source)
{
	int		   *indexes = palloc((received.nmessages + 1) * sizeof(int));
	Connection *connection = &setup.connections[source->cluster];
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
			stop(source, -1, psprintf("more than %g %% of its latest messages are bad", source->max_bad * 100));
			break;
		case AUD_BATCH_MOVED:
			anew = true;
			break;
		case AUD_BATCH_LEAVING:
			break;
	}
}

/* Notes an error of the database with all sources that wait for it to be over. */
static void
see_error(const ErrorData *error)
{
	for (int i = 0; i < setup.nsources; i++)
	{
		aud_kafka_stats_error(false, setup.sources[i].number, -1, error->sqlerrcode, error->message);
		set_states(&setup.sources[i], AUD_KAFKA_BACKING_OFF);
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
		for (int i = 0; i < setup.nsources && !anew; i++)
			store_source(&setup.sources[i]);
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
	adapt(received.nmessages, started_at);
}

/* Job: receives and stores. */
static void
move(AudStep *step)
{
	int			n;

	aud_kafka_clear_wake();
	if (!anew)
		receive();
	n = received.nmessages;
	if (n > 0 && !anew)
		store_received();
	drop_received(0, (Datum) 0);
	step->more = n > 0 && !anew;
	if (anew)
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
	before_shmem_exit(drop_received, (Datum) 0);
	received.messages = MemoryContextAlloc(TopMemoryContext, AUD_CONSUMER_BATCH * sizeof(AudKafkaMessage));
	aud_frame_run(jobs, lengthof(jobs));
	proc_exit(0);
}
