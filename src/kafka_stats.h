/*-------------------------------------------------------------------------
 *
 * kafka_stats.h
 *	  What the workers that talk to Kafka tell the world: see kafka_stats.c.
 *
 * Both modules include this, as they do workers.h: whoever changes it changes
 * AUD_WORKERS_LAYOUT.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_KAFKA_STATS_H
#define AUD_KAFKA_STATS_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "storage/lwlock.h"

/* partitions and sinks of the server, all databases together */
#define AUD_KAFKA_ENTRIES_MAX		1024
/* errors that are remembered */
#define AUD_KAFKA_ERRORS_MAX		256
/* of an error's text; what is longer is cut */
#define AUD_KAFKA_ERROR_TEXT		256

typedef enum AudKafkaState
{
	AUD_KAFKA_CONNECTING,		/* nothing heard of a broker yet */
	AUD_KAFKA_RUNNING,
	AUD_KAFKA_WAITING,			/* for a broker, or a topic */
	AUD_KAFKA_BACKING_OFF,		/* after an error of the database */
	AUD_KAFKA_STALLED			/* connected anew, as nothing came where something should */
} AudKafkaState;

/*
 * A partition of a source's topic, or a sink.  Changed under the lock,
 * exclusively, by the worker that has it.
 */
typedef struct AudKafkaEntry
{
	Oid			database;		/* InvalidOid: unused */
	bool		of_sink;
	int			number;			/* of the source or sink */
	int			partition;		/* -1: of a sink, or of a source whose partitions are not known */
	int			pid;			/* 0: no worker */
	AudKafkaState state;
	int64		errors;
	TimestampTz last_error_at;	/* DT_NOBEGIN: never */
	char		last_error[AUD_KAFKA_ERROR_TEXT];
	/* of a partition */
	int64		low;			/* offsets of the brokers'; -1: not known */
	int64		high;
	int64		messages;
	int64		bytes;
	int64		batches;
	int64		dead_letters;
	int64		duplicates;		/* events that were there already */
	TimestampTz last_message_at;	/* by its timestamp; DT_NOBEGIN: never */
	TimestampTz last_commit_at;
	/* of a sink */
	int64		in_flight;		/* messages that brokers have not acknowledged */
	int64		sent;
	int64		acked;
	int64		retried;		/* sent once more */
	TimestampTz last_ack_at;
} AudKafkaEntry;

/* Something that went wrong. */
typedef struct AudKafkaError
{
	Oid			database;		/* InvalidOid: unused */
	TimestampTz at;
	bool		of_sink;
	int			number;			/* of the source or sink */
	int			partition;		/* -1: none in particular */
	int			sqlstate;		/* 0: not the database's */
	char		text[AUD_KAFKA_ERROR_TEXT];
} AudKafkaError;

typedef struct AudKafkaStats
{
	LWLock	   *lock;
	AudKafkaEntry entries[AUD_KAFKA_ENTRIES_MAX];
	int64		nerrors;		/* ever; error n is at n % AUD_KAFKA_ERRORS_MAX */
	AudKafkaError errors[AUD_KAFKA_ERRORS_MAX];
} AudKafkaStats;

/* NULL where the library is not preloaded */
extern PGDLLEXPORT AudKafkaStats *aud_kafka_stats;

extern Size aud_kafka_stats_size(void);
extern void aud_kafka_stats_start(LWLock *lock);

/* for the worker module; these take the lock */
extern PGDLLEXPORT AudKafkaEntry *aud_kafka_stats_entry(bool of_sink, int number, int partition);
extern PGDLLEXPORT void aud_kafka_stats_leave(int code, Datum arg);
extern PGDLLEXPORT void aud_kafka_stats_keep(const int *sources, int nsources, const int *sinks, int nsinks);
extern PGDLLEXPORT void aud_kafka_stats_error(bool of_sink, int number, int partition, int sqlstate, const char *text);

#endif							/* AUD_KAFKA_STATS_H */
