/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  What a consumer knows of its sources, and does with them.
 *
 *	  consumer.c			the process: receives, and has it stored
 *	  consumer_setup.c		reads the configuration, and takes it over
 *	  consumer_brokers.c	finds out of brokers what is to be known
 *	  consumer_batch.c		stores a batch
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_CONSUMER_H
#define AUD_CONSUMER_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "kafka_config.h"
#include "kafka_stats.h"

/* how many messages one transaction takes, at most */
#define AUD_CONSUMER_BATCH	10000

/* A partition that this consumer has. */
typedef struct AudPartition
{
	int			partition;
	int64		next;			/* offset of the first message that is not stored; -1: to be found */
	int64		start;			/* where to find it, as kafka_offsets has it */
	int64		epoch;			/* as kafka_offsets has it */
	int64		high;			/* the next offset that will be given, as last heard; -1: not yet */
	TimestampTz heard_at;		/* when anything was received last */
	int			recent;			/* messages since bad ones were last counted anew, */
	int			recent_bad;		/* and how many of them were bad */
	AudKafkaEntry *shared;		/* NULL: no room */
} AudPartition;

typedef struct AudSource
{
	int			number;
	char	   *id;
	char	   *topic;
	bool		of_segments;	/* else of events */
	double		max_bad;
	char	   *out_of_range;	/* stop, earliest or latest */
	char	   *cluster_id;		/* NULL: not known */
	int			cluster;		/* index */
	AudKafkaEntry *shared;	/* for what is wrong while no partition is known; NULL: some are, or no room */
	bool		ready;			/* it is known which partitions it has, and where to begin */
	int			nknown;			/* partitions that kafka_offsets has, all consumers' together */
	int			npartitions;
	AudPartition *partitions;
} AudSource;

/*
 * A cluster, and the clients that read from it.  Questions have one of their
 * own: a broker answers a connection's requests in turn, and a question would
 * wait behind a fetch until there is something to fetch.
 */
typedef struct AudConnection
{
	AudKafkaCluster *cluster;
	AudKafkaCluster *refused;	/* what is configured, if it cannot be used; then "cluster" is what was before */
	bool		works;			/* a client could be opened with these options */
	AudKafkaClient *client;		/* NULL: to be opened */
	AudKafkaClient *asker;		/* NULL: to be opened */
	bool		assigned;		/* it reads what it is to read */
	bool		answered;		/* brokers have answered, and have not gone since */
	bool		away;			/* nobody answered when they were asked last */
} AudConnection;

/* What the configuration was read into, and stands in until it changes. */
typedef struct AudSetup
{
	MemoryContext mcxt;
	int			nconnections;
	AudConnection *connections;
	int			nsources;
	AudSource  *sources;
	StringInfoData print;		/* what there is to be compared */
} AudSetup;

/* What came of a batch. */
typedef enum AudBatchResult
{
	AUD_BATCH_STORED,
	AUD_BATCH_MOVED,			/* the source has been paused, moved or dropped: look anew */
	AUD_BATCH_REFUSED,			/* too many are bad */
	AUD_BATCH_LEAVING			/* the extension is gone */
} AudBatchResult;

/* consumer.c */
extern void aud_consumer_drop_received(void);
extern bool aud_consumer_has_received(void);

/* consumer_setup.c */
extern AudSetup aud_consumer_setup;
extern bool aud_consumer_anew;	/* begin anew, whatever the configuration says */
extern bool aud_consumer_read_setup(void);

/* consumer_brokers.c */
extern bool aud_consumer_see_to_brokers(void);
extern AudKafkaClient *aud_consumer_open_client(const AudKafkaCluster *cluster, char *error);
extern void aud_consumer_close(AudConnection *connection);
extern void aud_consumer_report(AudSource *source, int partition, const char *why);
extern void aud_consumer_report_all(const AudConnection *connection, const char *why);
extern void aud_consumer_stop(AudSource *source, int partition, const char *reason);
extern void aud_consumer_out_of_range(AudSource *source, AudPartition *partition);
extern void aud_consumer_begin_asking(void);

/* consumer_batch.c */
extern AudBatchResult aud_consumer_store(AudSource *source, const char *cluster,
										 const AudKafkaMessage *messages, const int *indexes, int n);

extern AudPartition *aud_consumer_partition(AudSource *source, int partition);
extern void aud_consumer_set_state(AudKafkaEntry *shared, AudKafkaState state);
extern void aud_consumer_set_states(AudSource *source, AudKafkaState state);

#endif							/* AUD_CONSUMER_H */
