/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  What a consumer knows of its sources: see consumer.c and
 *	  consumer_batch.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_CONSUMER_H
#define AUD_CONSUMER_H

#include "postgres.h"

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
	AudKafkaPartition *shared;	/* NULL: no room */
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
	bool		ready;			/* it is known which partitions it has, and where to begin */
	int			nknown;			/* partitions that kafka_offsets has, all consumers' together */
	int			npartitions;
	AudPartition *partitions;
} AudSource;

/* What has been received and is not stored: in order, of all sources. */
typedef struct AudReceived
{
	AudKafkaMessage *messages;	/* room for AUD_CONSUMER_BATCH */
	int			nmessages;
	Size		bytes;
} AudReceived;

/* What came of a batch. */
typedef enum AudBatchResult
{
	AUD_BATCH_STORED,
	AUD_BATCH_MOVED,			/* the source has been paused, moved or dropped: look anew */
	AUD_BATCH_REFUSED,			/* too many are bad */
	AUD_BATCH_LEAVING			/* the extension is gone */
} AudBatchResult;

extern AudBatchResult aud_consumer_store(AudSource *source, const char *cluster,
										 const AudKafkaMessage *messages, const int *indexes, int n);

extern AudPartition *aud_consumer_partition(AudSource *source, int partition);
extern void aud_consumer_set_state(AudPartition *partition, AudKafkaState state);

#endif							/* AUD_CONSUMER_H */
