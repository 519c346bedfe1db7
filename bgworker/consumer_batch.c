/*-------------------------------------------------------------------------
 *
 * consumer_batch.c
 *	  Storing a batch of messages of one source, exactly once.
 *
 * One transaction stores the messages and moves the offsets of their
 * partitions.  It first locks the rows of kafka_offsets and compares them with
 * what this worker believes: if anybody has moved them meanwhile (a seek, a
 * pause, another worker, a restore), nothing is stored.
 *
 * Messages that cannot be taken become dead letters in the same transaction.
 * The batch is tried whole, in a subtransaction.  If the database refuses it
 * for what is in it (kafka_fault.h), each message is looked at by itself, which
 * finds what is no JSON or no event; the rest is tried again, and halved until
 * the guilty ones are alone: n bad ones among m cost about n log m
 * subtransactions.  Any other error ends the transaction, and the same messages
 * are tried again later.
 *
 * If too many messages of a partition are bad, the whole topic is wrong, or its
 * producer; then nothing is stored, and the source is stopped for somebody to
 * look at it.
 *
 * Definitions (stream "segments") are taken one after the other, as each may
 * refer to those before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "consumer.h"
#include "kafka_check.h"
#include "kafka_fault.h"
#include "store.h"
#include "worker_frame.h"

/* messages of a partition before it is asked whether too many are bad, and after which counting starts anew */
#define RECENT_MIN		200
#define RECENT_MAX		10000

/* A message that cannot be taken. */
typedef struct Bad
{
	int			message;		/* index in messages */
	int			sqlstate;
	char	   *text;
} Bad;

typedef struct Batch
{
	MemoryContext mcxt;			/* of all that must outlive subtransactions */
	AudSource  *source;
	const char *cluster;
	const AudKafkaMessage *messages;
	const int  *indexes;		/* of the source's, in order */
	int			n;
	int64		ntaken;			/* events that were new, or definitions */
	int			ngood;			/* messages taken */
	Bad		   *bad;
	int			nbad;
	bool		looked;			/* each was looked at by itself */
	AudBatchResult result;
	/* for each partition of the source: */
	int64	   *next;			/* offset after the last message; -1: none of it */
	int		   *count;			/* messages */
	int		   *count_bad;
} Batch;

/* Notes that a message cannot be taken. */
static void
add_bad(Batch *batch, int message, int sqlstate, const char *text)
{
	Bad		   *bad = &batch->bad[batch->nbad++];

	bad->message = message;
	bad->sqlstate = sqlstate;
	bad->text = MemoryContextStrdup(batch->mcxt, text);
}

/* A message's timestamp; *isnull: it has none. */
static TimestampTz
message_time(const AudKafkaMessage *message, bool *isnull)
{
	/* what a producer says may be anything; beyond year 9999 it says nothing */
	*isnull = message->timestamp < 0 || message->timestamp >= INT64CONST(253402300800000);
	return *isnull ? 0 : message->timestamp * 1000 -
		(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/* Bytes as a bytea; NULL as null. */
static Datum
bytes_datum(const char *bytes, size_t len, char *isnull)
{
	bytea	   *result;

	*isnull = bytes == NULL ? 'n' : ' ';
	if (bytes == NULL)
		return (Datum) 0;
	result = palloc(VARHDRSZ + len);
	SET_VARSIZE(result, VARHDRSZ + len);
	memcpy(VARDATA(result), bytes, len);
	return PointerGetDatum(result);
}

/* An array of these values, of which there may be nulls. */
static Datum
array_datum(Datum *values, bool *nulls, int n, Oid type, int16 len, bool byval, char align)
{
	int			dims = n;
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &dims, &lower, type, len, byval, align));
}

/* Stores some messages as events.  Throws if any of them cannot be. */
static void
take_events(Batch *batch, const int *indexes, int n)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, BYTEAARRAYOID};
	Datum	   *columns[4];
	bool	   *no_time = palloc(n * sizeof(bool));
	bool	   *no_value = palloc(n * sizeof(bool));
	Datum		args[5];

	for (int c = 0; c < 4; c++)
		columns[c] = palloc(n * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		const AudKafkaMessage *message = &batch->messages[indexes[i]];
		char		isnull;

		columns[0][i] = Int32GetDatum(message->partition);
		columns[1][i] = Int64GetDatum(message->offset);
		columns[2][i] = TimestampTzGetDatum(message_time(message, &no_time[i]));
		columns[3][i] = bytes_datum(message->value, message->value_len, &isnull);
		no_value[i] = isnull == 'n';
	}
	args[0] = CStringGetTextDatum(batch->source->topic);
	args[1] = array_datum(columns[0], NULL, n, INT4OID, sizeof(int32), true, TYPALIGN_INT);
	args[2] = array_datum(columns[1], NULL, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	args[3] = array_datum(columns[2], no_time, n, TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	args[4] = array_datum(columns[3], no_value, n, BYTEAOID, -1, false, TYPALIGN_INT);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT audience.kafka_take_events($1, $2, $3, $4, $5)",
										lengthof(types), types, 0),
						 args, NULL, false, 0) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not store events");
	batch->ntaken += aud_kafka_cell_int(0, 1, 0);
}

/* Does what a message of stream "segments" says.  Throws if that cannot be done. */
static void
take_segment(Batch *batch, int index)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, TEXTOID, BYTEAOID, BYTEAOID};
	const AudKafkaMessage *message = &batch->messages[index];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	Datum		args[4];

	args[0] = CStringGetTextDatum(batch->cluster);
	args[1] = CStringGetTextDatum(batch->source->topic);
	args[2] = bytes_datum(message->key, message->key_len, &nulls[2]);
	args[3] = bytes_datum(message->value, message->value_len, &nulls[3]);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT audience.kafka_take_segment($1, $2, $3, $4)",
										lengthof(types), types, 0),
						 args, nulls, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not take a definition");
	batch->ntaken++;
}

/*
 * Tries to take some messages, all or none.  NULL: they are taken; else what the
 * database says against them.  An error that is not theirs is thrown on.
 */
static ErrorData *
try_messages(Batch *batch, const int *indexes, int n)
{
	MemoryContext mcxt = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext work = AllocSetContextCreate(mcxt, "audience messages", ALLOCSET_DEFAULT_SIZES);
	int64		taken = batch->ntaken;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(work);
	PG_TRY();
	{
		if (batch->source->of_segments)
			take_segment(batch, indexes[0]);
		else
			take_events(batch, indexes, n);
		MemoryContextSwitchTo(mcxt);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(mcxt);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(mcxt);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(mcxt);
		CurrentResourceOwner = owner;
		if (!aud_kafka_is_fault(error->sqlerrcode, batch->source->of_segments))
			ReThrowError(error);
		batch->ntaken = taken;
	}
	PG_END_TRY();
	/* a copy of the messages: what is halved again and again is not to keep them all */
	MemoryContextDelete(work);
	if (error == NULL)
		batch->ngood += n;
	return error;
}

/* Takes note of a message that the database refuses by itself. */
static void
refuse_message(Batch *batch, int index, const ErrorData *error)
{
	if (error->detail != NULL && error->detail[0] != '\0')
		add_bad(batch, index, error->sqlerrcode, psprintf("%s: %s", error->message, error->detail));
	else
		add_bad(batch, index, error->sqlerrcode, error->message);
}

static void take_messages(Batch *batch, const int *indexes, int n);

/* Takes what passes a look at each message by itself; the others are bad. */
static void
take_passing(Batch *batch, const int *indexes, int n)
{
	int		   *passing = palloc(n * sizeof(int));
	int			npassing = 0;
	AudKafkaProblem problem;

	for (int i = 0; i < n; i++)
	{
		const AudKafkaMessage *message = &batch->messages[indexes[i]];

		CHECK_FOR_INTERRUPTS();
		if (message->value == NULL)
			add_bad(batch, indexes[i], ERRCODE_INVALID_PARAMETER_VALUE, "invalid event: the message has no value");
		else if (aud_kafka_check_event(message->value, message->value_len, &problem))
			passing[npassing++] = indexes[i];
		else
			add_bad(batch, indexes[i], problem.sqlstate, problem.text);
	}
	take_messages(batch, passing, npassing);
}

/* Takes messages, in order; those that cannot be taken are bad afterwards. */
static void
take_messages(Batch *batch, const int *indexes, int n)
{
	ErrorData  *error;
	int			half;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (n == 0)
		return;
	error = try_messages(batch, indexes, n);
	if (error == NULL)
		return;
	if (n == 1)
	{
		refuse_message(batch, indexes[0], error);
		return;
	}
	FreeErrorData(error);
	if (!batch->looked)
	{
		batch->looked = true;
		take_passing(batch, indexes, n);
		return;
	}
	half = n / 2;
	take_messages(batch, indexes, half);
	take_messages(batch, indexes + half, n - half);
}

/* Adds bytes as a JSON member: as text where they are one, else in hexadecimal. */
static void
append_value(StringInfo json, const char *value, size_t len)
{
	bool		is_text = pg_verify_mbstr(PG_UTF8, value, len, true);

	for (size_t i = 0; i < len && is_text && GetDatabaseEncoding() != PG_UTF8; i++)
		is_text = !IS_HIGHBIT_SET(value[i]);
	appendStringInfoString(json, is_text ? ",\"value\":" : ",\"bytes\":\"");
	if (is_text)
		escape_json(json, pnstrdup(value, len));
	else
	{
		for (size_t i = 0; i < len; i++)
			appendStringInfo(json, "%02x", (unsigned char) value[i]);
		appendStringInfoChar(json, '"');
	}
}

/* A message's headers as jsonb; *isnull 'n': it has none. */
static Datum
headers_datum(const AudKafkaMessage *message, char *isnull)
{
	StringInfoData json;
	AudKafkaHeader header;
	int			n = 0;

	initStringInfo(&json);
	while (aud_kafka_header(message, n, &header))
	{
		appendStringInfoString(&json, n++ > 0 ? ",{\"name\":" : "[{\"name\":");
		if (pg_verify_mbstr(GetDatabaseEncoding(), header.name, strlen(header.name), true))
			escape_json(&json, header.name);
		else
			appendStringInfoString(&json, "null");
		if (header.value == NULL)
			appendStringInfoString(&json, ",\"value\":null");
		else
			append_value(&json, header.value, header.value_len);
		appendStringInfoChar(&json, '}');
	}
	*isnull = n == 0 ? 'n' : ' ';
	if (n == 0)
		return (Datum) 0;
	appendStringInfoChar(&json, ']');
	return CStringGetTextDatum(json.data);
}

/* Stores the dead letters.  One that is there already was tried once more. */
static void
store_dead_letters(const Batch *batch)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INT8OID,
	TIMESTAMPTZOID, BYTEAOID, BYTEAOID, TEXTOID, TEXTOID, TEXTOID};

	for (int i = 0; i < batch->nbad; i++)
	{
		const Bad  *bad = &batch->bad[i];
		const AudKafkaMessage *message = &batch->messages[bad->message];
		Datum		args[12];
		char		nulls[12];
		bool		no_time;

		memset(nulls, ' ', sizeof(nulls));
		args[0] = CStringGetTextDatum(batch->source->id);
		args[1] = CStringGetTextDatum(batch->source->of_segments ? "segments" : "events");
		args[2] = CStringGetTextDatum(batch->cluster);
		args[3] = CStringGetTextDatum(batch->source->topic);
		args[4] = Int32GetDatum(message->partition);
		args[5] = Int64GetDatum(message->offset);
		args[6] = TimestampTzGetDatum(message_time(message, &no_time));
		nulls[6] = no_time ? 'n' : ' ';
		args[7] = bytes_datum(message->key, message->key_len, &nulls[7]);
		args[8] = bytes_datum(message->value, message->value_len, &nulls[8]);
		args[9] = headers_datum(message, &nulls[9]);
		args[10] = CStringGetTextDatum(unpack_sql_state(bad->sqlstate));
		args[11] = CStringGetTextDatum(bad->text);
		if (SPI_execute_plan(aud_store_plan(&plan,
											"INSERT INTO audience.kafka_dead_letters AS d (source, stream, cluster, topic, partition, "
											"\"offset\", message_at, key, value, headers, sqlstate, message) "
											"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::pg_catalog.jsonb, $11, $12) "
											"ON CONFLICT (cluster, topic, partition, \"offset\") DO UPDATE SET attempts = d.attempts + 1, "
											"source = EXCLUDED.source, stream = EXCLUDED.stream, message_at = EXCLUDED.message_at, "
											"key = EXCLUDED.key, value = EXCLUDED.value, headers = EXCLUDED.headers, "
											"sqlstate = EXCLUDED.sqlstate, message = EXCLUDED.message",
											lengthof(types), types, 0),
							 args, nulls, false, 0) < 0)
			elog(ERROR, "could not store a dead letter");
	}
}

/* The partitions of the batch, as an array; in values for each something of the caller's. */
static Datum
partitions_array(const Batch *batch, Datum **values, int *n)
{
	Datum	   *numbers = palloc(batch->source->npartitions * sizeof(Datum));

	*n = 0;
	*values = palloc(batch->source->npartitions * sizeof(Datum));
	for (int i = 0; i < batch->source->npartitions; i++)
	{
		if (batch->next[i] < 0)
			continue;
		numbers[*n] = Int32GetDatum(batch->source->partitions[i].partition);
		(*values)[(*n)++] = Int64GetDatum(batch->next[i]);
	}
	return array_datum(numbers, NULL, *n, INT4OID, sizeof(int32), true, TYPALIGN_INT);
}

/* Locks the offsets of the batch's partitions; false: they are not what we believe. */
static bool
lock_offsets(const Batch *batch)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT4ARRAYOID};
	Datum		args[2];
	Datum	   *next;
	int			n;

	args[0] = Int32GetDatum(batch->source->number);
	args[1] = partitions_array(batch, &next, &n);
	if (SPI_execute_plan(aud_store_plan(&plan, "SELECT o.partition, o.next_offset, o.epoch FROM audience.kafka_offsets o "
										"WHERE o.source = $1 AND o.partition = ANY ($2) ORDER BY o.partition FOR NO KEY UPDATE",
										lengthof(types), types, 0),
						 args, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read table \"kafka_offsets\"");
	if (SPI_processed != (uint64) n)
		return false;
	for (int i = 0; i < n; i++)
	{
		AudPartition *partition = aud_consumer_partition(batch->source, aud_kafka_cell_int(i, 1, -1));

		if (partition == NULL || partition->next != aud_kafka_cell_int(i, 2, -1) ||
			partition->epoch != aud_kafka_cell_int(i, 3, -1))
			return false;
	}
	return true;
}

/* Moves the offsets. */
static void
move_offsets(const Batch *batch)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {INT4OID, INT4ARRAYOID, INT8ARRAYOID};
	Datum		args[3];
	Datum	   *next;
	int			n;

	args[0] = Int32GetDatum(batch->source->number);
	args[1] = partitions_array(batch, &next, &n);
	args[2] = array_datum(next, NULL, n, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	if (SPI_execute_plan(aud_store_plan(&plan, "UPDATE audience.kafka_offsets o "
										"SET next_offset = u.next_offset, moved_at = pg_catalog.clock_timestamp() "
										"FROM ROWS FROM (pg_catalog.unnest($2), pg_catalog.unnest($3)) u (partition, next_offset) "
										"WHERE o.source = $1 AND o.partition = u.partition",
										lengthof(types), types, 0),
						 args, NULL, false, 0) != SPI_OK_UPDATE || SPI_processed != (uint64) n)
		elog(ERROR, "could not move offsets of source \"%s\"", batch->source->id);
}

/* Are too many messages of a partition bad? */
static bool
too_many_bad(const Batch *batch)
{
	for (int i = 0; i < batch->source->npartitions; i++)
	{
		const AudPartition *partition = &batch->source->partitions[i];
		int			all = partition->recent + batch->count[i];
		int			bad = partition->recent_bad + batch->count_bad[i];

		if (all >= RECENT_MIN && bad > batch->source->max_bad * all)
			return true;
	}
	return false;
}

/* The body of the transaction. */
static bool
store(void *arg)
{
	Batch	   *batch = arg;
	int		   *events = palloc(batch->n * sizeof(int));
	int			n = 0;

	if (!lock_offsets(batch))
	{
		batch->result = AUD_BATCH_MOVED;
		return false;
	}
	/* what only says where a partition ends is no message */
	for (int i = 0; i < batch->n; i++)
		if (batch->messages[batch->indexes[i]].kind == AUD_KAFKA_MESSAGE)
			events[n++] = batch->indexes[i];
	if (batch->source->of_segments)
		for (int i = 0; i < n; i++)
			take_messages(batch, &events[i], 1);
	else
		take_messages(batch, events, n);
	for (int i = 0; i < batch->nbad; i++)
	{
		AudPartition *partition = aud_consumer_partition(batch->source, batch->messages[batch->bad[i].message].partition);

		batch->count_bad[partition - batch->source->partitions]++;
	}
	if (too_many_bad(batch))
	{
		batch->result = AUD_BATCH_REFUSED;
		return false;
	}
	store_dead_letters(batch);
	move_offsets(batch);
	return true;
}

/* Puts into memory, shared and own, what has been committed. */
static void
account(const Batch *batch)
{
	TimestampTz now = GetCurrentTimestamp();
	int			duplicates = batch->source->of_segments ? 0 : batch->ngood - batch->ntaken;
	bool		first = true;

	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	for (int i = 0; i < batch->source->npartitions; i++)
	{
		AudPartition *partition = &batch->source->partitions[i];
		AudKafkaEntry *shared = partition->shared;

		if (batch->next[i] < 0)
			continue;
		partition->next = batch->next[i];
		partition->recent += batch->count[i];
		partition->recent_bad += batch->count_bad[i];
		if (partition->recent > RECENT_MAX)
			partition->recent = partition->recent_bad = 0;
		if (shared == NULL)
			continue;
		shared->state = AUD_KAFKA_RUNNING;
		shared->high = Max(shared->high, partition->next);
		shared->messages += batch->count[i];
		shared->dead_letters += batch->count_bad[i];
		shared->batches++;
		shared->last_commit_at = now;
		/* which partition's they are nobody knows; the sum is right */
		if (first)
			shared->duplicates += duplicates;
		first = false;
	}
	for (int i = 0; i < batch->n; i++)
	{
		const AudKafkaMessage *message = &batch->messages[batch->indexes[i]];
		AudKafkaEntry *shared = aud_consumer_partition(batch->source, message->partition)->shared;
		bool		no_time;
		TimestampTz at = message_time(message, &no_time);

		if (shared == NULL || message->kind != AUD_KAFKA_MESSAGE)
			continue;
		shared->bytes += message->value_len;
		if (!no_time)
			shared->last_message_at = Max(shared->last_message_at, at);
	}
	LWLockRelease(aud_kafka_stats->lock);
}

/*
 * Stores those of a source among received messages that indexes say, in order;
 * moves its offsets behind them.  They stay the caller's.  Throws what is not
 * the messages' fault; then nothing is stored.
 */
AudBatchResult
aud_consumer_store(AudSource *source, const char *cluster, const AudKafkaMessage *messages,
				   const int *indexes, int n)
{
	Batch		batch = {
		.mcxt = CurrentMemoryContext, .source = source, .cluster = cluster,
		.messages = messages, .indexes = indexes, .n = n, .result = AUD_BATCH_LEAVING
	};

	batch.bad = palloc(n * sizeof(Bad));
	batch.next = palloc(source->npartitions * sizeof(int64));
	batch.count = palloc0(source->npartitions * sizeof(int));
	batch.count_bad = palloc0(source->npartitions * sizeof(int));
	for (int i = 0; i < source->npartitions; i++)
		batch.next[i] = -1;
	for (int i = 0; i < n; i++)
	{
		const AudKafkaMessage *message = &messages[indexes[i]];
		int			which = aud_consumer_partition(source, message->partition) - source->partitions;
		bool		is_message = message->kind == AUD_KAFKA_MESSAGE;

		batch.next[which] = message->offset + is_message;
		batch.count[which] += is_message;
	}
	if (aud_frame_transaction("storing messages from Kafka", store, &batch))
	{
		account(&batch);
		return AUD_BATCH_STORED;
	}
	return batch.result;
}
