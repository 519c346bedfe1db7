/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  What a relay knows of its sinks.
 *
 *	  relay.c			the process: producers, and what they say
 *	  relay_outbox.c	the rows that are to be sent, in the right order
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_RELAY_H
#define AUD_RELAY_H

#include "postgres.h"

#include "utils/hsearch.h"

#include "kafka_config.h"
#include "kafka_stats.h"

/* rows that are read at a time, and messages that may be on their way */
#define AUD_RELAY_ROWS		5000
#define AUD_RELAY_MESSAGES	50000

/* A row of the outbox on its way. */
typedef struct AudOutboxRow
{
	int64		id;				/* key */
	int			waiting;		/* messages that are not acknowledged */
	bool		sent;			/* all of its messages have been given to the producer */
} AudOutboxRow;

typedef struct AudReading AudReading;

typedef struct AudSink
{
	MemoryContext mcxt;			/* of all of it */
	int			number;
	char	   *topic;
	AudKafkaCluster *cluster;
	AudKafkaCluster *refused;	/* what is configured, if it cannot be used; then "cluster" is what was before */
	bool		works;			/* a producer could be opened with these options */
	AudKafkaClient *client;		/* NULL: to be opened, not before "not_before" */
	TimestampTz not_before;
	int			failures;		/* in a row */
	bool		connected;		/* brokers have answered, and have not gone since */
	TimestampTz asked_at;		/* when we looked for them last */
	HTAB	   *rows;			/* on their way */
	int			ndone;			/* of these are acknowledged, and can be deleted */
	int			waiting;		/* messages that are not acknowledged */
	AudReading *reading;		/* what is being given to the producer; NULL: nothing */
	int64		low;			/* no row below this will appear */
	int64		mark;			/* when all of mark_xmax have ended, low may be this; 0: none */
	TransactionId mark_xmax;
	bool		resending;		/* what is read next was sent before, maybe */
	AudKafkaEntry *shared;		/* NULL: no room */
} AudSink;

/* What a look at the outbox is about, what it finds, and how much of that the producer has. */
struct AudReading
{
	AudSink	   *sink;
	int64	   *ids;			/* that are new */
	int			nids;
	int			nmessages;
	int			nsent;			/* so many of them the producer has */
	int64	   *tags;			/* of each message: the row's id */
	char	  **keys;
	char	  **event_ids;
	char	  **messages;
	MemoryContext mcxt;			/* of all this */
};

/* whose rows are just being put among those on their way */
extern AudSink *aud_relay_beginning;

extern bool aud_relay_read(AudSink *sink);
extern void aud_relay_cross_off(AudSink *sink);

#endif							/* AUD_RELAY_H */
