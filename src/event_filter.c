/*-------------------------------------------------------------------------
 *
 * event_filter.c
 *	  Reading the table of events for what some aggregates look at.
 *
 * Where the table is large, parallel workers read parts of it, as many as
 * PostgreSQL would have build an index (max_parallel_maintenance_workers).  What
 * they need of the aggregates is given to them as bytes of rules; they know
 * nothing of the definitions.  What they find comes back by queues of tuples.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "executor/tqueue.h"
#include "miscadmin.h"
#include "optimizer/paths.h"
#include "pgstat.h"
#include "port/pg_bswap.h"
#include "storage/bufmgr.h"
#include "storage/latch.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/wait_event.h"

#include "event_filter.h"
#include "stats.h"

PGDLLEXPORT void aud_event_filter_worker(dsm_segment *seg, shm_toc *toc);

/* what is in shared memory */
#define KEY_FILTER		UINT64CONST(1)
#define KEY_RULES		UINT64CONST(2)
#define KEY_EVALUATED	UINT64CONST(3)
#define KEY_SCAN		UINT64CONST(4)
#define KEY_QUEUES		UINT64CONST(5)
#define KEY_ROWS		UINT64CONST(6)

/* bytes of a worker's queue */
#define QUEUE_SIZE		65536

/* rows that the leader reads before it looks into the queues again */
#define ROWS_BETWEEN	200

static const char *const row_names[AUD_ROW_NCOLUMNS] = {
	"user_key", "user_id", "occurred_at", "event_id", "event_type", "properties", "context"
};
static const Oid row_types[AUD_ROW_NCOLUMNS] = {
	INT8OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID
};

/* an event type that has been met, and the aggregates it matters to */
typedef struct KnownType
{
	int			len;
	char	   *type;
	int			naggregates;
	const AudAggregateDef **aggregates;
} KnownType;

/* so many are remembered, and looked for one after the other */
#define MAX_KNOWN_TYPES		16

/* one process's reading */
typedef struct Reader
{
	const AudEventFilter *filter;
	const AudAggregateDef *const *aggregates;
	const uint16 *evaluated;
	Relation	events;
	TableScanDesc scan;
	TupleTableSlot *from;		/* a row of the table */
	TupleTableSlot *to;			/* and what is given out of it */
	int			columns[AUD_ROW_NCOLUMNS];	/* in the table; 0: not there */
	MemoryContext mcxt;
	MemoryContext row_mcxt;		/* of what belongs to the row at hand */
	int			nknown;
	KnownType	known[MAX_KNOWN_TYPES];
	uint64		nrows;
} Reader;

/* Is the aggregate one whose states depend on more than the events that count now? */
bool
aud_aggregate_needs_all(const AudAggregateDef *def)
{
	return def->state == AUD_STATE_SEQUENCE || def->where_moves;
}

/* The columns of what is given out, palloc'ed. */
TupleDesc
aud_event_row_desc(void)
{
	TupleDesc	tupdesc = CreateTemplateTupleDesc(AUD_ROW_NCOLUMNS);

	for (int i = 0; i < AUD_ROW_NCOLUMNS; i++)
		TupleDescInitEntry(tupdesc, i + 1, row_names[i], row_types[i], -1, 0);
	return tupdesc;
}

/* A text column of the slot, which has been taken apart that far; not copied. */
static const char *
slot_text(TupleTableSlot *slot, int column, int *len)
{
	text	   *value = DatumGetTextPP(slot->tts_values[column - 1]);

	*len = VARSIZE_ANY_EXHDR(value);
	return VARDATA_ANY(value);
}

/* The number in whose order ids are in C order, as far as it tells them apart. */
static int64
order_key(const AudEventFilter *filter, const char *id, int len)
{
	int			order = memcmp(id, filter->prefix, Min(len, filter->prefix_len));
	uint64		key = 0;

	if (order < 0 || (order == 0 && len < filter->prefix_len))
		return PG_INT64_MIN;
	if (order > 0)
		return PG_INT64_MAX;
	memcpy(&key, id + filter->prefix_len, Min(len - filter->prefix_len, (int) sizeof(key)));
	return (int64) (pg_ntoh64(key) ^ (UINT64CONST(1) << 63));
}

/* The aggregates that an event type matters to. */
static const KnownType *
know_type(Reader *reader, const char *type, int len)
{
	KnownType  *known;

	for (int i = 0; i < reader->nknown; i++)
		if (reader->known[i].len == len && memcmp(reader->known[i].type, type, len) == 0)
			return &reader->known[i];
	if (reader->nknown < MAX_KNOWN_TYPES)
		reader->nknown++;
	known = &reader->known[reader->nknown - 1];
	if (known->aggregates == NULL)
	{
		known->type = MemoryContextAlloc(reader->mcxt, AUD_MAX_NAME_BYTES + 1);
		known->aggregates = MemoryContextAlloc(reader->mcxt,
											   reader->filter->naggregates * sizeof(AudAggregateDef *));
	}
	known->len = len;
	memcpy(known->type, type, len);
	known->naggregates = 0;
	for (int i = 0; i < reader->filter->naggregates; i++)
		if (aud_aggregate_feeds(reader->aggregates[i], type, len))
			known->aggregates[known->naggregates++] = reader->aggregates[i];
	return known;
}

/*
 * Could an event behind all windows have been in one at its user's last
 * evaluation?  If false, it had left them all.
 */
static bool
may_have_counted(Reader *reader, const KnownType *type, TimestampTz time)
{
	const char *id;
	int			len;
	int64		evaluated;

	if (reader->evaluated == NULL)
		return true;
	id = slot_text(reader->from, reader->columns[AUD_ROW_USER_ID - 1], &len);
	evaluated = reader->evaluated[hash_bytes((const unsigned char *) id, len) & reader->filter->evaluated_mask];
	if (evaluated == AUD_AGES_AGO)
		return true;
	for (int i = 0; i < type->naggregates; i++)
		if (time > reader->filter->clock.now - evaluated * USECS_PER_HOUR - type->aggregates[i]->last)
			return true;
	return false;
}

/*
 * Does the event that has been read matter to one of the aggregates?  In *old
 * whether it is behind all their windows, so that only its being there counts.
 */
static bool
is_wanted(Reader *reader, bool *old)
{
	TupleTableSlot *slot = reader->from;
	const int  *columns = reader->columns;
	const AudClock *clock = &reader->filter->clock;
	const KnownType *type;
	AudEvent	event;
	int			len,
				user_id_len;
	const char *name;
	bool		wanted = false;
	bool		isnull;
	MemoryContext outer;

	slot_getsomeattrs(slot, columns[AUD_ROW_EVENT_TYPE - 1]);
	name = slot_text(slot, columns[AUD_ROW_EVENT_TYPE - 1], &len);
	if (len > AUD_MAX_NAME_BYTES)
		return false;
	type = know_type(reader, name, len);
	if (type->naggregates == 0)
		return false;
	(void) slot_text(slot, columns[AUD_ROW_USER_ID - 1], &user_id_len);
	if (user_id_len > AUD_MAX_NAME_BYTES)
		return false;

	MemoryContextReset(reader->row_mcxt);
	outer = MemoryContextSwitchTo(reader->row_mcxt);
	memset(&event, 0, sizeof(event));
	event.type = name;
	event.type_len = len;
	event.time = DatumGetTimestampTz(slot_getattr(slot, columns[AUD_ROW_OCCURRED_AT - 1], &isnull));
	event.id = slot_text(slot, columns[AUD_ROW_EVENT_ID - 1], &event.id_len);
	event.stored_properties = slot_getattr(slot, columns[AUD_ROW_PROPERTIES - 1], &isnull);
	event.stored_context = slot_getattr(slot, columns[AUD_ROW_CONTEXT - 1], &isnull);
	if (isnull)
		event.stored_context = (Datum) 0;
	event.mcxt = reader->row_mcxt;
	*old = true;
	for (int i = 0; i < type->naggregates && *old; i++)
		*old = !aud_aggregate_needs_all(type->aggregates[i]) && type->aggregates[i]->last != 0 &&
			event.time <= clock->now - type->aggregates[i]->last;
	if (!*old || may_have_counted(reader, type, event.time))
		for (int i = 0; i < type->naggregates && !wanted; i++)
			wanted = aud_aggregate_needs_all(type->aggregates[i]) ||
				aud_aggregate_matches(type->aggregates[i], &event, clock);
	MemoryContextSwitchTo(outer);
	return wanted;
}

/* Begins to read with the scan, which is the reader's from now on. */
static void
begin_reading(Reader *reader, const AudEventFilter *filter, const AudAggregateDef *const *aggregates,
			  const uint16 *evaluated, Relation events, TableScanDesc scan)
{
	memset(reader, 0, sizeof(*reader));
	reader->filter = filter;
	reader->aggregates = aggregates;
	reader->evaluated = evaluated;
	reader->events = events;
	reader->scan = scan;
	reader->from = table_slot_create(events, NULL);
	reader->to = MakeSingleTupleTableSlot(aud_event_row_desc(), &TTSOpsVirtual);
	reader->mcxt = CurrentMemoryContext;
	reader->row_mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience event",
											 ALLOCSET_SMALL_SIZES);
	for (int i = 0; i < AUD_ROW_NCOLUMNS; i++)
		if (i != AUD_ROW_USER_KEY - 1)
			reader->columns[i] = SPI_fnumber(RelationGetDescr(events), row_names[i]);
}

/*
 * Reads up to so many rows.  True: the last of them is wanted, and in "to";
 * else in *more whether there may be further ones.
 */
static bool
read_rows(Reader *reader, int most, bool *more)
{
	TupleTableSlot *to = reader->to;
	bool		old;
	const char *id;
	int			len;

	*more = true;
	for (int n = 0; n < most; n++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!table_scan_getnextslot(reader->scan, ForwardScanDirection, reader->from))
		{
			*more = false;
			return false;
		}
		reader->nrows++;
		if (!is_wanted(reader, &old))
			continue;
		ExecClearTuple(to);
		for (int i = 0; i < AUD_ROW_NCOLUMNS; i++)
			if (reader->columns[i] != 0)
				to->tts_values[i] = slot_getattr(reader->from, reader->columns[i], &to->tts_isnull[i]);
		id = slot_text(to, AUD_ROW_USER_ID, &len);
		to->tts_values[AUD_ROW_USER_KEY - 1] = Int64GetDatum(order_key(reader->filter, id, len));
		to->tts_isnull[AUD_ROW_USER_KEY - 1] = false;
		if (old)
			to->tts_isnull[AUD_ROW_PROPERTIES - 1] = to->tts_isnull[AUD_ROW_CONTEXT - 1] = true;
		ExecStoreVirtualTuple(to);
		return true;
	}
	return false;
}

/* Ends reading; how many rows that were. */
static uint64
end_reading(Reader *reader)
{
	table_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->from);
	ExecDropSingleTupleTableSlot(reader->to);
	MemoryContextDelete(reader->row_mcxt);
	return reader->nrows;
}

/* How many workers shall read the table: one more whenever it is three times as large. */
static int
choose_workers(Relation events)
{
	BlockNumber pages = RelationGetNumberOfBlocks(events);
	BlockNumber size = Max(min_parallel_table_scan_size, 1);
	int			workers = 0;

	while (workers < max_parallel_maintenance_workers && pages >= size)
	{
		workers++;
		if (size > MaxBlockNumber / 3)
			break;
		size *= 3;
	}
	return workers;
}

/* The bytes that the aggregates' rules take: for each its node's position, and the rule. */
static Size
rules_size(const AudAggregateDef *const *aggregates, int n)
{
	Size		size = 0;

	for (int i = 0; i < n; i++)
		size += MAXIMUM_ALIGNOF + MAXALIGN(VARSIZE(aggregates[i]->rule));
	return size;
}

/* Writes them. */
static void
write_rules(char *p, const AudAggregateDef *const *aggregates, int n)
{
	for (int i = 0; i < n; i++)
	{
		const AudRule *rule = aggregates[i]->rule;

		*(uint32 *) p = aggregates[i]->node - rule->nodes;
		memcpy(p + MAXIMUM_ALIGNOF, rule, VARSIZE(rule));
		p += MAXIMUM_ALIGNOF + MAXALIGN(VARSIZE(rule));
	}
}

/* Makes the aggregates of them again, palloc'ed; the rules stay where they are. */
static const AudAggregateDef *const *
read_rules(char *p, int n)
{
	const AudAggregateDef **result = palloc(n * sizeof(AudAggregateDef *));

	for (int i = 0; i < n; i++)
	{
		const AudRule *rule = (const AudRule *) (p + MAXIMUM_ALIGNOF);
		AudAggregateDef *def = palloc(sizeof(AudAggregateDef));

		aud_aggregate_init(def, 0, rule, &rule->nodes[*(uint32 *) p]);
		result[i] = def;
		p += MAXIMUM_ALIGNOF + MAXALIGN(VARSIZE(rule));
	}
	return result;
}

/* Entry of a parallel worker. */
void
aud_event_filter_worker(dsm_segment *seg, shm_toc *toc)
{
	const AudEventFilter *filter = shm_toc_lookup(toc, KEY_FILTER, false);
	const AudAggregateDef *const *aggregates =
		read_rules(shm_toc_lookup(toc, KEY_RULES, false), filter->naggregates);
	const uint16 *evaluated = shm_toc_lookup(toc, KEY_EVALUATED, true);
	char	   *queues = shm_toc_lookup(toc, KEY_QUEUES, false);
	uint64	   *nrows = shm_toc_lookup(toc, KEY_ROWS, false);
	shm_mq	   *queue = (shm_mq *) (queues + (Size) ParallelWorkerNumber * QUEUE_SIZE);
	Relation	events = table_open(filter->table, AccessShareLock);
	DestReceiver *receiver;
	Reader		reader;
	bool		more = true;

	shm_mq_set_sender(queue, MyProc);
	receiver = CreateTupleQueueDestReceiver(shm_mq_attach(queue, seg, NULL));
	begin_reading(&reader, filter, aggregates, evaluated, events,
				  table_beginscan_parallel(events, shm_toc_lookup(toc, KEY_SCAN, false)));
	while (more)
		if (read_rows(&reader, PG_INT32_MAX, &more) && !receiver->receiveSlot(reader.to, receiver))
			break;
	nrows[ParallelWorkerNumber] = end_reading(&reader);
	receiver->rShutdown(receiver);
	receiver->rDestroy(receiver);
	table_close(events, AccessShareLock);
}

/*
 * Puts what is in the workers' queues into the sort.  Queues that have come to
 * their end are set to NULL; false: all have.
 */
static bool
empty_queues(TupleQueueReader **queues, int nqueues, TupleTableSlot *slot, Tuplesortstate *sort)
{
	bool		more = false;

	for (int i = 0; i < nqueues; i++)
	{
		bool		done = false;
		MinimalTuple tuple;

		while (queues[i] != NULL)
		{
			tuple = TupleQueueReaderNext(queues[i], true, &done);
			if (done)
			{
				DestroyTupleQueueReader(queues[i]);
				queues[i] = NULL;
			}
			if (tuple == NULL)
				break;
			ExecStoreMinimalTuple(tuple, slot, false);
			tuplesort_puttupleslot(sort, slot);
		}
		more |= queues[i] != NULL;
	}
	return more;
}

/*
 * Reads the table together with workers, where there are any to be had; as
 * aud_event_filter_run.
 */
static void
run_parallel(const AudEventFilter *filter, const AudAggregateDef *const *aggregates, const uint16 *evaluated,
			 Relation events, Snapshot snapshot, Tuplesortstate *sort, int nworkers)
{
	Size		rules = rules_size(aggregates, filter->naggregates);
	Size		ages = evaluated == NULL ? 0 : (filter->evaluated_mask + (Size) 1) * sizeof(uint16);
	Size		scan_size = table_parallelscan_estimate(events, snapshot);
	ParallelContext *context;
	ParallelTableScanDesc scan;
	TupleQueueReader **queues;
	TupleTableSlot *slot = MakeSingleTupleTableSlot(aud_event_row_desc(), &TTSOpsMinimalTuple);
	uint64	   *nrows;
	char	   *p;
	Reader		reader;
	bool		more = true;

	EnterParallelMode();
	context = CreateParallelContext("$libdir/audience_manager", "aud_event_filter_worker", nworkers);
	shm_toc_estimate_chunk(&context->estimator, sizeof(AudEventFilter));
	shm_toc_estimate_chunk(&context->estimator, rules);
	shm_toc_estimate_chunk(&context->estimator, ages);
	shm_toc_estimate_chunk(&context->estimator, scan_size);
	shm_toc_estimate_chunk(&context->estimator, (Size) nworkers * QUEUE_SIZE);
	shm_toc_estimate_chunk(&context->estimator, nworkers * sizeof(uint64));
	shm_toc_estimate_keys(&context->estimator, 6);
	InitializeParallelDSM(context);

	p = shm_toc_allocate(context->toc, sizeof(AudEventFilter));
	memcpy(p, filter, sizeof(AudEventFilter));
	shm_toc_insert(context->toc, KEY_FILTER, p);
	p = shm_toc_allocate(context->toc, rules);
	write_rules(p, aggregates, filter->naggregates);
	shm_toc_insert(context->toc, KEY_RULES, p);
	if (evaluated != NULL)
	{
		p = shm_toc_allocate(context->toc, ages);
		memcpy(p, evaluated, ages);
		shm_toc_insert(context->toc, KEY_EVALUATED, p);
	}
	scan = shm_toc_allocate(context->toc, scan_size);
	table_parallelscan_initialize(events, scan, snapshot);
	shm_toc_insert(context->toc, KEY_SCAN, scan);
	nrows = shm_toc_allocate(context->toc, nworkers * sizeof(uint64));
	memset(nrows, 0, nworkers * sizeof(uint64));
	shm_toc_insert(context->toc, KEY_ROWS, nrows);
	p = shm_toc_allocate(context->toc, (Size) nworkers * QUEUE_SIZE);
	shm_toc_insert(context->toc, KEY_QUEUES, p);
	for (int i = 0; i < nworkers; i++)
		shm_mq_set_receiver(shm_mq_create(p + (Size) i * QUEUE_SIZE, QUEUE_SIZE), MyProc);

	LaunchParallelWorkers(context);
	queues = palloc0(Max(nworkers, 1) * sizeof(TupleQueueReader *));
	for (int i = 0; i < context->nworkers_launched; i++)
	{
		shm_mq_handle *handle = shm_mq_attach((shm_mq *) (p + (Size) i * QUEUE_SIZE), context->seg,
											  context->worker[i].bgwhandle);

		queues[i] = CreateTupleQueueReader(handle);
	}
	begin_reading(&reader, filter, aggregates, evaluated, events,
				  table_beginscan_parallel(events, scan));
	while (more)
	{
		if (read_rows(&reader, ROWS_BETWEEN, &more))
			tuplesort_puttupleslot(sort, reader.to);
		(void) empty_queues(queues, context->nworkers_launched, slot, sort);
	}
	aud_stats_count(AUD_COUNT_ROWS, end_reading(&reader));
	while (empty_queues(queues, context->nworkers_launched, slot, sort))
	{
		CHECK_FOR_INTERRUPTS();
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, 0, WAIT_EVENT_EXECUTE_GATHER);
		ResetLatch(MyLatch);
	}
	WaitForParallelWorkersToFinish(context);
	for (int i = 0; i < nworkers; i++)
		aud_stats_count(AUD_COUNT_ROWS, nrows[i]);
	DestroyParallelContext(context);
	ExitParallelMode();
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Reads the table as the snapshot sees it, and puts what matters to the
 * aggregates into the sort.  "evaluated" tells by hash of the user's id how many
 * hours ago the first of its users was last evaluated, rounded up (NULL: not
 * known).
 */
void
aud_event_filter_run(const AudEventFilter *filter, const AudAggregateDef *const *aggregates,
					 const uint16 *evaluated, Relation events, Snapshot snapshot,
					 Tuplesortstate *sort)
{
	int			nworkers = choose_workers(events);
	Reader		reader;
	bool		more = true;

	if (nworkers > 0)
	{
		run_parallel(filter, aggregates, evaluated, events, snapshot, sort, nworkers);
		return;
	}
	begin_reading(&reader, filter, aggregates, evaluated, events,
				  table_beginscan(events, snapshot, 0, NULL));
	while (more)
		if (read_rows(&reader, PG_INT32_MAX, &more))
			tuplesort_puttupleslot(sort, reader.to);
	aud_stats_count(AUD_COUNT_ROWS, end_reading(&reader));
}
