/*-------------------------------------------------------------------------
 *
 * kafka_stats.c
 *	  What the workers that talk to Kafka are at, in shared memory, and the
 *	  functions that show it.
 *
 * Workers write it and any session reads it, without asking a broker or a
 * worker.  It is about this server since it was started; what must last stands
 * in tables.  Where there is no room, a partition or sink works all the same,
 * and is not seen here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "kafka_stats.h"
#include "workers.h"

PG_FUNCTION_INFO_V1(aud_kafka_partition_statistics);
PG_FUNCTION_INFO_V1(aud_kafka_sink_statistics);
PG_FUNCTION_INFO_V1(aud_kafka_errors);

AudKafkaStats *aud_kafka_stats = NULL;

/* How much shared memory it takes. */
Size
aud_kafka_stats_size(void)
{
	return MAXALIGN(sizeof(AudKafkaStats));
}

/* Makes or finds the shared memory; the caller holds AddinShmemInitLock. */
void
aud_kafka_stats_start(LWLock *lock)
{
	bool		found;

	aud_kafka_stats = ShmemInitStruct("audience kafka", sizeof(AudKafkaStats), &found);
	if (found)
		return;
	memset(aud_kafka_stats, 0, sizeof(AudKafkaStats));
	aud_kafka_stats->lock = lock;
}

/*
 * This database's entry of a source's partition or of a sink, which this process
 * has from now on; NULL: there is no room.
 */
AudKafkaEntry *
aud_kafka_stats_entry(bool of_sink, int number, int partition)
{
	AudKafkaEntry *result = NULL;

	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AUD_KAFKA_ENTRIES_MAX; i++)
	{
		AudKafkaEntry *entry = &aud_kafka_stats->entries[i];

		if (entry->database == MyDatabaseId && entry->of_sink == of_sink &&
			entry->number == number && entry->partition == partition)
		{
			result = entry;
			break;
		}
		if (entry->database == InvalidOid && result == NULL)
			result = entry;
	}
	if (result != NULL)
	{
		if (result->database == InvalidOid)
		{
			memset(result, 0, sizeof(*result));
			result->database = MyDatabaseId;
			result->of_sink = of_sink;
			result->number = number;
			result->partition = partition;
			result->low = result->high = -1;
			result->last_error_at = result->last_message_at = DT_NOBEGIN;
			result->last_commit_at = result->last_ack_at = DT_NOBEGIN;
		}
		result->pid = MyProcPid;
		result->state = AUD_KAFKA_CONNECTING;
		result->in_flight = 0;
	}
	LWLockRelease(aud_kafka_stats->lock);
	return result;
}

/* Gives back what this process has; also at exit. */
void
aud_kafka_stats_leave(int code, Datum arg)
{
	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AUD_KAFKA_ENTRIES_MAX; i++)
	{
		AudKafkaEntry *entry = &aud_kafka_stats->entries[i];

		if (entry->pid != MyProcPid)
			continue;
		entry->pid = 0;
		entry->in_flight = 0;
	}
	LWLockRelease(aud_kafka_stats->lock);
}

/* Is the number among them? */
static bool
is_among(int number, const int *numbers, int n)
{
	for (int i = 0; i < n; i++)
		if (numbers[i] == number)
			return true;
	return false;
}

/* Forgets this database's sources and sinks but these. */
void
aud_kafka_stats_keep(const int *sources, int nsources, const int *sinks, int nsinks)
{
	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	for (int i = 0; i < AUD_KAFKA_ENTRIES_MAX; i++)
	{
		AudKafkaEntry *entry = &aud_kafka_stats->entries[i];

		if (entry->database == MyDatabaseId && entry->pid == 0 &&
			!(entry->of_sink ? is_among(entry->number, sinks, nsinks) : is_among(entry->number, sources, nsources)))
			entry->database = InvalidOid;
	}
	LWLockRelease(aud_kafka_stats->lock);
}

/* Copies a text, cut between characters. */
static void
copy_text(char *into, const char *text)
{
	int			len = pg_mbcliplen(text, strlen(text), AUD_KAFKA_ERROR_TEXT - 1);

	memcpy(into, text, len);
	into[len] = '\0';
}

/*
 * Remembers that something went wrong, with the entries concerned and in the
 * list; partition -1: with all that this process has of the source or sink.
 */
void
aud_kafka_stats_error(bool of_sink, int number, int partition, int sqlstate, const char *text)
{
	TimestampTz now = GetCurrentTimestamp();
	AudKafkaError *error;

	LWLockAcquire(aud_kafka_stats->lock, LW_EXCLUSIVE);
	error = &aud_kafka_stats->errors[aud_kafka_stats->nerrors++ % AUD_KAFKA_ERRORS_MAX];
	error->database = MyDatabaseId;
	error->at = now;
	error->of_sink = of_sink;
	error->number = number;
	error->partition = partition;
	error->sqlstate = sqlstate;
	copy_text(error->text, text);
	for (int i = 0; i < AUD_KAFKA_ENTRIES_MAX; i++)
	{
		AudKafkaEntry *entry = &aud_kafka_stats->entries[i];

		if (entry->database != MyDatabaseId || entry->of_sink != of_sink || entry->number != number ||
			(partition >= 0 ? entry->partition != partition : entry->pid != MyProcPid))
			continue;
		entry->errors++;
		entry->last_error_at = now;
		copy_text(entry->last_error, text);
	}
	LWLockRelease(aud_kafka_stats->lock);
}

/* Refuses where there is no shared memory. */
static void
require_preload(void)
{
	if (aud_kafka_stats == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("audience_manager is not preloaded, so nothing is exchanged with Kafka"),
				 errhint("Add \"audience_manager\" to \"shared_preload_libraries\" and restart the server.")));
}

/* What views call a state. */
static const char *
state_name(AudKafkaState state)
{
	switch (state)
	{
		case AUD_KAFKA_CONNECTING:
			return "connecting";
		case AUD_KAFKA_RUNNING:
			return "running";
		case AUD_KAFKA_WAITING:
			return "waiting for broker";
		case AUD_KAFKA_BACKING_OFF:
			return "backing off";
		case AUD_KAFKA_STALLED:
			return "stalled";
	}
	return NULL;				/* keep the compiler quiet */
}

/* An instant, null where it never was. */
static Datum
instant(TimestampTz at, bool *isnull)
{
	*isnull = at == DT_NOBEGIN;
	return TimestampTzGetDatum(at);
}

/* An error's text, for those who may see it; null where there never was one. */
static Datum
error_text(const char *text, TimestampTz at, bool visible, bool *isnull)
{
	*isnull = at == DT_NOBEGIN;
	return CStringGetTextDatum(visible ? text : "<insufficient privilege>");
}

/*
 * A copy of this database's next entry of a kind, from the one at *place on,
 * which moves behind it.  False: there are no more.
 */
static bool
next_entry(int *place, bool of_sink, AudKafkaEntry *copy)
{
	bool		found = false;

	LWLockAcquire(aud_kafka_stats->lock, LW_SHARED);
	while (!found && *place < AUD_KAFKA_ENTRIES_MAX)
	{
		const AudKafkaEntry *entry = &aud_kafka_stats->entries[(*place)++];

		found = entry->database == MyDatabaseId && entry->of_sink == of_sink;
		if (found)
			*copy = *entry;
	}
	LWLockRelease(aud_kafka_stats->lock);
	return found;
}

/* kafka_partition_statistics(): a row for each partition that this database's workers have or had. */
Datum
aud_kafka_partition_statistics(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		visible = aud_workers_sees_errors(fcinfo->flinfo->fn_oid);
	AudKafkaEntry entry;
	int			place = 0;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	while (next_entry(&place, false, &entry))
	{
		Datum		values[16];
		bool		nulls[16] = {false};

		values[0] = Int32GetDatum(entry.number);
		values[1] = Int32GetDatum(entry.partition);
		values[2] = Int32GetDatum(entry.pid);
		nulls[2] = entry.pid == 0;
		values[3] = CStringGetTextDatum(state_name(entry.state));
		values[4] = Int64GetDatum(entry.low);
		nulls[4] = entry.low < 0;
		values[5] = Int64GetDatum(entry.high);
		nulls[5] = entry.high < 0;
		values[6] = Int64GetDatum(entry.messages);
		values[7] = Int64GetDatum(entry.bytes);
		values[8] = Int64GetDatum(entry.batches);
		values[9] = Int64GetDatum(entry.dead_letters);
		values[10] = Int64GetDatum(entry.duplicates);
		values[11] = Int64GetDatum(entry.errors);
		values[12] = instant(entry.last_message_at, &nulls[12]);
		values[13] = instant(entry.last_commit_at, &nulls[13]);
		values[14] = error_text(entry.last_error, entry.last_error_at, visible, &nulls[14]);
		values[15] = instant(entry.last_error_at, &nulls[15]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* kafka_sink_statistics(): a row for each sink that this database's relay has or had. */
Datum
aud_kafka_sink_statistics(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		visible = aud_workers_sees_errors(fcinfo->flinfo->fn_oid);
	AudKafkaEntry entry;
	int			place = 0;

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	while (next_entry(&place, true, &entry))
	{
		Datum		values[11];
		bool		nulls[11] = {false};

		values[0] = Int32GetDatum(entry.number);
		values[1] = Int32GetDatum(entry.pid);
		nulls[1] = entry.pid == 0;
		values[2] = CStringGetTextDatum(state_name(entry.state));
		values[3] = Int64GetDatum(entry.in_flight);
		values[4] = Int64GetDatum(entry.sent);
		values[5] = Int64GetDatum(entry.acked);
		values[6] = Int64GetDatum(entry.retried);
		values[7] = Int64GetDatum(entry.errors);
		values[8] = instant(entry.last_ack_at, &nulls[8]);
		values[9] = error_text(entry.last_error, entry.last_error_at, visible, &nulls[9]);
		values[10] = instant(entry.last_error_at, &nulls[10]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* kafka_errors(): the latest errors of this database's sources and sinks. */
Datum
aud_kafka_errors(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		visible = aud_workers_sees_errors(fcinfo->flinfo->fn_oid);

	require_preload();
	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < AUD_KAFKA_ERRORS_MAX; i++)
	{
		AudKafkaError error;
		Datum		values[6];
		bool		nulls[6] = {false};

		LWLockAcquire(aud_kafka_stats->lock, LW_SHARED);
		error = aud_kafka_stats->errors[i];
		LWLockRelease(aud_kafka_stats->lock);
		if (error.database != MyDatabaseId)
			continue;
		values[0] = TimestampTzGetDatum(error.at);
		values[1] = BoolGetDatum(error.of_sink);
		values[2] = Int32GetDatum(error.number);
		values[3] = Int32GetDatum(error.partition);
		nulls[3] = error.partition < 0;
		values[4] = CStringGetTextDatum(unpack_sql_state(error.sqlstate));
		nulls[4] = error.sqlstate == 0;
		values[5] = CStringGetTextDatum(visible ? error.text : "<insufficient privilege>");
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
