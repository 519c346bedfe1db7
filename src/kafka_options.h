/*-------------------------------------------------------------------------
 *
 * kafka_options.h
 *	  Which settings of librdkafka a cluster may have.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_KAFKA_OPTIONS_H
#define AUD_KAFKA_OPTIONS_H

#include "postgres.h"

/* what a value of such a setting is */
typedef enum AudKafkaOptionKind
{
	AUD_KAFKA_PLAIN,
	AUD_KAFKA_SECRET,			/* given as "file:/path", and is what that file holds */
	AUD_KAFKA_PATH				/* of a file that librdkafka reads */
} AudKafkaOptionKind;

/* who understands it */
typedef enum AudKafkaOptionUse
{
	AUD_KAFKA_BOTH,
	AUD_KAFKA_CONSUMER,
	AUD_KAFKA_PRODUCER
} AudKafkaOptionUse;

typedef struct AudKafkaOptionRule
{
	const char *name;
	AudKafkaOptionKind kind;
	AudKafkaOptionUse use;
} AudKafkaOptionRule;

#define AUD_KAFKA_FILE_PREFIX	"file:"

extern PGDLLEXPORT const AudKafkaOptionRule *aud_kafka_option_rule(const char *name);

#endif							/* AUD_KAFKA_OPTIONS_H */
