/*-------------------------------------------------------------------------
 *
 * kafka_client.h
 *	  Kafka as the bridge uses it: see kafka_client.c.
 *
 * Nothing here throws, allocates PostgreSQL's memory, or calls back.  Functions
 * that can fail say so by their result, and why by aud_kafka_error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_KAFKA_CLIENT_H
#define AUD_KAFKA_CLIENT_H

#include "postgres.h"

/* room for what went wrong */
#define AUD_KAFKA_ERROR		512

/* where a partition's messages begin and end, in place of an instant in milliseconds */
#define AUD_KAFKA_END		(-1)
#define AUD_KAFKA_BEGINNING	(-2)

typedef struct AudKafkaClient AudKafkaClient;

/* a setting of librdkafka's */
typedef struct AudKafkaOption
{
	const char *name;
	const char *value;
	bool		secret;			/* never to be repeated in an error */
} AudKafkaOption;

/* a partition, and an offset or something that becomes one */
typedef struct AudKafkaPlace
{
	const char *topic;
	int32		partition;
	int64		offset;
} AudKafkaPlace;

typedef enum AudKafkaKind
{
	AUD_KAFKA_MESSAGE,
	AUD_KAFKA_AT_END,			/* nothing at "offset" yet */
	AUD_KAFKA_OUT_OF_RANGE,		/* there is no such offset */
	AUD_KAFKA_FAILED			/* something else is wrong with the partition */
} AudKafkaKind;

/* something received; pointers are valid until aud_kafka_free */
typedef struct AudKafkaMessage
{
	AudKafkaKind kind;
	const char *topic;
	int32		partition;
	int64		offset;
	int64		timestamp;		/* milliseconds since 1970; -1: none */
	const char *key;			/* NULL: none */
	size_t		key_len;
	const char *value;			/* NULL: null */
	size_t		value_len;
	const char *error;			/* of those that are no message */
	void	   *handle;			/* NULL: freed */
	void	   *owner;			/* the caller's */
} AudKafkaMessage;

typedef struct AudKafkaHeader
{
	const char *name;
	const char *value;			/* NULL: null */
	size_t		value_len;
} AudKafkaHeader;

/* a message on its way out */
typedef struct AudKafkaOutgoing
{
	const char *key;
	size_t		key_len;
	const char *value;
	size_t		value_len;
	const AudKafkaHeader *headers;
	int			nheaders;
	int64		tag;			/* comes back with the report */
} AudKafkaOutgoing;

typedef enum AudKafkaSent
{
	AUD_KAFKA_QUEUED,
	AUD_KAFKA_FULL,				/* try again when reports have come */
	AUD_KAFKA_REFUSED			/* "error" says why */
} AudKafkaSent;

/* what aud_kafka_serve has to tell */
typedef struct AudKafkaNews
{
	int			nacked;
	const int64 *acked;			/* tags of messages that the brokers have; the client's, until it is called again */
	bool		failed;			/* a message was given up, or the client is unusable: "error" */
	bool		disconnected;	/* no broker can be reached: "error" */
} AudKafkaNews;

extern void aud_kafka_prepare(void);
extern AudKafkaClient *aud_kafka_open_consumer(const AudKafkaOption *options, int noptions,
											   const char *group, char *error);
extern AudKafkaClient *aud_kafka_open_producer(const AudKafkaOption *options, int noptions,
											   const char *topic, char *error);
extern void aud_kafka_close(AudKafkaClient *client);
extern int	aud_kafka_wake_fd(void);
extern void aud_kafka_clear_wake(void);
extern const char *aud_kafka_error(const AudKafkaClient *client);
extern bool aud_kafka_is_unreachable(const AudKafkaClient *client);

extern bool aud_kafka_cluster_id(AudKafkaClient *client, int timeout_ms, char *id, size_t room);
extern int	aud_kafka_count_partitions(AudKafkaClient *client, const char *topic, int timeout_ms);
extern bool aud_kafka_find_offsets(AudKafkaClient *client, AudKafkaPlace *places, int nplaces, int timeout_ms);
extern bool aud_kafka_watermarks(AudKafkaClient *client, const char *topic, int32 partition,
								 int64 *low, int64 *high);
extern bool aud_kafka_assign(AudKafkaClient *client, const AudKafkaPlace *places, int nplaces);
extern int	aud_kafka_receive(AudKafkaClient *client, AudKafkaMessage *messages, int room);
extern bool aud_kafka_header(const AudKafkaMessage *message, int n, AudKafkaHeader *header);
extern void aud_kafka_free(AudKafkaMessage *message);
extern AudKafkaSent aud_kafka_send(AudKafkaClient *client, const AudKafkaOutgoing *message);
extern void aud_kafka_serve(AudKafkaClient *client, AudKafkaNews *news);

#endif							/* AUD_KAFKA_CLIENT_H */
