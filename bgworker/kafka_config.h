/*-------------------------------------------------------------------------
 *
 * kafka_config.h
 *	  How Kafka clusters are reached, as relay and consumers read it: see
 *	  kafka_config.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_KAFKA_CONFIG_H
#define AUD_KAFKA_CONFIG_H

#include "postgres.h"

#include "executor/spi.h"
#include "kafka_client.h"
#include "kafka_options.h"

/* how long a call may wait for brokers: nothing else is done meanwhile */
#define AUD_KAFKA_PATIENCE_MS	1000

/* a cluster, in the memory that it was read into */
typedef struct AudKafkaCluster
{
	char	   *name;
	int			noptions;
	AudKafkaOption *options;
	char	   *problem;		/* why it cannot be used; NULL: it can */
} AudKafkaCluster;

extern char *aud_kafka_cell(int row, int column, MemoryContext mcxt);
extern int64 aud_kafka_cell_int(int row, int column, int64 otherwise);

extern AudKafkaCluster *aud_kafka_read_cluster(const char *name, AudKafkaOptionUse use, MemoryContext mcxt);
extern bool aud_kafka_same_cluster(const AudKafkaCluster *a, const AudKafkaCluster *b);
extern AudKafkaCluster *aud_kafka_copy_cluster(const AudKafkaCluster *cluster, MemoryContext mcxt);

#endif							/* AUD_KAFKA_CONFIG_H */
