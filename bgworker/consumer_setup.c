/*-------------------------------------------------------------------------
 *
 * consumer_setup.c
 *	  What a consumer is to read: the configuration, read and taken over.
 *
 * The configuration is read again whenever there is word of a change, and now
 * and then.  If it is not what it was, everything received is dropped, clients
 * are closed, and all begins anew from the offsets in the table.
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

AudSetup	aud_consumer_setup = {0};
bool		aud_consumer_anew = true;

/* The index of a cluster's connection in a setup, which is made if need be.  With SPI. */
static int
get_connection(AudSetup *new, const char *name)
{
	for (int i = 0; i < new->nconnections; i++)
		if (strcmp(new->connections[i].cluster->name, name) == 0)
			return i;
	new->connections[new->nconnections].cluster = aud_kafka_read_cluster(name, AUD_KAFKA_CONSUMER, new->mcxt);
	return new->nconnections++;
}

/* Reads the sources that are to be read. */
static void
read_sources(AudSetup *new, char ***clusters)
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
	new->connections = MemoryContextAllocZero(new->mcxt, (n + 1) * sizeof(AudConnection));
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
read_partitions(AudSetup *new, AudSource *source)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT4OID, INT4OID};
	Datum		args[3];

	args[0] = Int32GetDatum(source->number);
	args[1] = Int32GetDatum(aud_kafka_consumers);
	args[2] = Int32GetDatum(aud_frame_slot->number);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT o.partition, o.next_offset, o.start, o.epoch FROM audience.kafka_offsets o "
										"WHERE o.source = $1 AND (o.partition::pg_catalog.int8 + $1) % $2 = $3 ORDER BY o.partition",
										lengthof(types), types, 0),
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
print_setup(AudSetup *new)
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

/* The body of a look at the configuration, into the AudSetup that arg is. */
static bool
read_setup(void *arg)
{
	AudSetup	   *new = arg;
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

/* Are the clusters' options, as configured in a, those that b was made from? */
static bool
same_clusters(const AudSetup *a, const AudSetup *b)
{
	if (a->nconnections != b->nconnections)
		return false;
	for (int i = 0; i < a->nconnections; i++)
	{
		const AudConnection *old = &b->connections[i];

		if (!aud_kafka_same_cluster(a->connections[i].cluster, old->refused ? old->refused : old->cluster))
			return false;
	}
	return true;
}

/*
 * Looks at a cluster's options that are not those of before.  If they cannot be
 * used and the old ones could, these stay in force.  What was refused once is
 * not tried, or told, again.
 */
static void
compare_connection(AudConnection *fresh, const AudConnection *old, const AudSetup *new)
{
	char		error[AUD_KAFKA_ERROR];

	if (aud_kafka_same_cluster(fresh->cluster, old->cluster))
	{
		fresh->works = old->works;
		return;
	}
	if (!old->works)
		return;
	fresh->works = true;
	if (old->refused == NULL || !aud_kafka_same_cluster(fresh->cluster, old->refused))
	{
		fresh->client = aud_consumer_open_client(fresh->cluster, error);
		if (fresh->client != NULL)
			return;
		ereport(LOG, (errmsg("new options of Kafka cluster \"%s\" cannot be used: %s", fresh->cluster->name, error),
					  errhidestmt(true)));
		for (int i = 0; i < new->nsources; i++)
			if (&new->connections[new->sources[i].cluster] == fresh)
				aud_kafka_stats_error(false, new->sources[i].number, -1, 0, error);
	}
	fresh->refused = fresh->cluster;
	fresh->cluster = aud_kafka_copy_cluster(old->cluster, new->mcxt);
}

/* Has the statistics show a source. */
static void
show_source(AudSource *source)
{
	if (source->nknown == 0 && aud_frame_slot->number == 0)
		source->shared = aud_kafka_stats_entry(false, source->number, -1);
	for (int i = 0; i < source->npartitions; i++)
		source->partitions[i].shared = aud_kafka_stats_entry(false, source->number, source->partitions[i].partition);
}

/* Takes over a new configuration. */
static void
take_over(AudSetup *new)
{
	aud_consumer_drop_received();
	for (int i = 0; i < new->nconnections; i++)
		for (int j = 0; j < aud_consumer_setup.nconnections; j++)
			if (strcmp(new->connections[i].cluster->name, aud_consumer_setup.connections[j].cluster->name) == 0)
				compare_connection(&new->connections[i], &aud_consumer_setup.connections[j], new);
	for (int j = 0; j < aud_consumer_setup.nconnections; j++)
		aud_consumer_close(&aud_consumer_setup.connections[j]);
	if (aud_consumer_setup.mcxt != NULL)
		MemoryContextDelete(aud_consumer_setup.mcxt);
	aud_consumer_setup = *new;
	aud_kafka_stats_leave(0, (Datum) 0);
	for (int i = 0; i < aud_consumer_setup.nsources; i++)
		show_source(&aud_consumer_setup.sources[i]);
	aud_consumer_anew = false;
	aud_consumer_begin_asking();
}

/* Reads the configuration, and takes it over if it has changed; false: the worker is leaving. */
bool
aud_consumer_read_setup(void)
{
	AudSetup	new = {0};

	new.mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience consumer configuration", ALLOCSET_SMALL_SIZES);
	if (!aud_frame_transaction("reading the configuration of sources", read_setup, &new))
	{
		MemoryContextDelete(new.mcxt);
		return false;
	}
	/* what is thrown before this leaves nothing behind */
	MemoryContextSetParent(new.mcxt, TopMemoryContext);
	if (aud_consumer_anew || strcmp(new.print.data, aud_consumer_setup.print.data) != 0 ||
		!same_clusters(&new, &aud_consumer_setup))
		take_over(&new);
	else
		MemoryContextDelete(new.mcxt);
	return true;
}
