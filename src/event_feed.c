/*-------------------------------------------------------------------------
 *
 * event_feed.c
 *	  What some aggregates look at of all users' events, user after user.
 *
 * A fill that makes aggregates for everyone needs few events of each of very
 * many users.  To look for them by the primary key, user after user, costs a
 * descent of the index for each, and rows from all over the table, most of
 * which are about something else.  So the table is read once from its
 * beginning to its end, what the aggregates look at is sorted by user, time
 * and id, spilling to disk where it must, and given out in that order.
 *
 * Where the window is short, and most of the table is behind it, or where most
 * events matter, the other way is cheaper: aud_event_feed_begin estimates both.
 *
 * What has left the windows is given out, too, where it had not at the user's last
 * evaluation, however long ago that was: that a state that is not stored is over
 * no events must be true as of then (advance.c).  Since the events come in no
 * order of users, a table by hash of the user's id tells when that was.
 *
 * Ids of users mostly begin alike, and differ soon after that: the next eight
 * bytes as a number are sorted first.
 *
 * Nobody else may ingest meanwhile: the caller holds the exclusive definitions
 * lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "port/pg_bswap.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "event_feed.h"
#include "stats.h"

/* the columns of a sorted row */
enum
{
	ROW_USER_KEY = 1,			/* order_key of the next; the others as in the table */
	ROW_USER_ID,
	ROW_OCCURRED_AT,
	ROW_EVENT_ID,
	ROW_EVENT_TYPE,
	ROW_PROPERTIES,
	ROW_CONTEXT,
	ROW_NCOLUMNS = ROW_CONTEXT
};

static const char *const row_names[ROW_NCOLUMNS] = {
	"user_key", "user_id", "occurred_at", "event_id", "event_type", "properties", "context"
};
static const Oid row_types[ROW_NCOLUMNS] = {
	INT8OID, TEXTOID, TIMESTAMPTZOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID
};

/* an event type that has been met, and the aggregates it matters to */
typedef struct KnownType
{
	int			len;
	char	   *type;
	int			naggregates;
	int		   *aggregates;
} KnownType;

/* of AudEventFeed's evaluated: too many hours to tell */
#define AGES_AGO			PG_UINT16_MAX

/* so many are remembered, and looked for one after the other */
#define MAX_KNOWN_TYPES		16

struct AudEventFeed
{
	const AudDefinitions *defs;
	const bool *wanted;			/* by aggregate */
	AudClock	clock;
	MemoryContext mcxt;
	MemoryContext row_mcxt;		/* of what belongs to the row at hand */

	/* while the table is read */
	int			columns[ROW_NCOLUMNS];	/* in the table; 0: not there */
	int			prefix_len;
	char		prefix[256];	/* with which the users' ids mostly begin */
	double		nprofiles;		/* about */
	double		nold;			/* rows behind all windows so far */
	uint16	   *evaluated;		/* by hash of the id: hours since the first of them was
								 * last evaluated, rounded up; NULL: not needed yet */
	uint32		hash_mask;
	int			nknown;
	KnownType	known[MAX_KNOWN_TYPES];
	uint64		nrows;

	/* afterwards */
	Tuplesortstate *sort;
	TupleTableSlot *slot;		/* the row at hand; empty: there are no more */
	bool		used;			/* it has been given out */
	int			user_id_len;
	char		user_id[256];	/* whose events are being given out */
};

/* Is the aggregate one whose states depend on more than the events that count now? */
static bool
needs_all(const AudAggregateDef *def)
{
	return def->state == AUD_STATE_SEQUENCE || def->where_moves;
}

/*
 * Appends to a query the condition that an event's type is one that a node
 * (EVENT or STEP) names.
 */
static void
append_names(StringInfo query, const AudRule *rule, const AudNode *node)
{
	const AudNames *names = AUD_NODE_NAMES(rule, node);

	for (uint32 i = 0; i < names->nnames; i++)
		appendStringInfo(query, " OR e.event_type OPERATOR(pg_catalog.%s) %s",
						 names->names[i].is_prefix ? "^@" : "=",
						 quote_literal_cstr(pnstrdup(AUD_AT(rule, names->names[i].name),
													 names->names[i].len)));
}

/* How many rows the planner expects of a query. */
static double
expected_rows(const char *query)
{
	SPIPlanPtr	plan = SPI_prepare(query, 0, NULL);
	CachedPlan *cached;
	double		rows;

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", query, SPI_result_code_string(SPI_result));
	cached = SPI_plan_get_cached_plan(plan);
	rows = linitial_node(PlannedStmt, cached->stmt_list)->planTree->plan_rows;
	ReleaseCachedPlan(cached, NULL);
	SPI_freeplan(plan);
	return rows;
}

/*
 * Is reading the whole table cheaper than looking for each user's events?  In
 * the planner's units, by measurement: from memory, a descent of the index
 * costs as much as reading 25 rows in order, a row by way of the index as 5,
 * and sorting one as 10.
 */
static bool
is_cheaper(const AudDefinitions *defs, const bool *wanted, const AudClock *clock, Relation events)
{
	StringInfoData of_types;
	StringInfoData of_window;
	TimestampTz from = PG_INT64_MAX;
	double		pages = RelationGetNumberOfBlocks(events);
	double		uncached = Max(0, 1 - effective_cache_size / Max(pages, 1));
	double		rows = expected_rows("SELECT FROM audience.events e");
	double		whole,
				scans;

	initStringInfo(&of_types);
	appendStringInfoString(&of_types, "SELECT FROM audience.events e WHERE false");
	for (int i = 0; i < defs->naggregates; i++)
	{
		const AudAggregateDef *def = &defs->aggregates[i];
		const AudNode *step;

		if (!wanted[i])
			continue;
		from = Min(from, def->last != 0 ? clock->now - def->last : def->from);
		if (def->node->kind == AUD_NODE_EVENT)
			append_names(&of_types, def->rule, def->node);
		else
		{
			step = AUD_FIRST_CHILD(def->node);
			for (uint32 s = 0; s < def->node->nchildren; s++, step = AUD_NEXT_SIBLING(step))
				append_names(&of_types, def->rule, step);
		}
	}
	initStringInfo(&of_window);
	appendStringInfoString(&of_window, "SELECT FROM audience.events e");
	if (from >= AUD_FIRST_INSTANT)
	{
		appendStringInfoString(&of_window, " WHERE e.occurred_at OPERATOR(pg_catalog.>) '");
		aud_timestamp_append(&of_window, from);
		appendStringInfoChar(&of_window, '\'');
	}
	whole = pages * seq_page_cost * Max(uncached, 0.1) +
		(rows + 10 * expected_rows(of_types.data)) * cpu_tuple_cost;
	scans = 25 * cpu_tuple_cost * expected_rows("SELECT FROM audience.profiles p") +
		(5 * cpu_tuple_cost + uncached * random_page_cost) * expected_rows(of_window.data);
	return whole < scans;
}

/* A text column of the slot, not copied. */
static const char *
slot_text(TupleTableSlot *slot, int column, int *len)
{
	text	   *value = DatumGetTextPP(slot->tts_values[column - 1]);

	*len = VARSIZE_ANY_EXHDR(value);
	return VARDATA_ANY(value);
}

/*
 * Sets the prefix that all users' ids have in common.  Should one come that does
 * not, order_key takes care of it.
 */
static void
find_prefix(AudEventFeed *feed)
{
	char	   *first;
	char	   *last;

	if (SPI_execute("SELECT min(e.user_id), max(e.user_id) FROM audience.events e", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the users' ids");
	first = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	last = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (first != NULL && last != NULL)
		while (first[feed->prefix_len] != '\0' && first[feed->prefix_len] == last[feed->prefix_len])
		{
			feed->prefix[feed->prefix_len] = first[feed->prefix_len];
			feed->prefix_len++;
		}
	SPI_freetuptable(SPI_tuptable);
}

/* A number in whose order ids are in C order, as far as it tells them apart. */
static int64
order_key(const AudEventFeed *feed, const char *id, int len)
{
	int			order = memcmp(id, feed->prefix, Min(len, feed->prefix_len));
	uint64		key = 0;

	if (order < 0 || (order == 0 && len < feed->prefix_len))
		return PG_INT64_MIN;
	if (order > 0)
		return PG_INT64_MAX;
	memcpy(&key, id + feed->prefix_len, Min(len - feed->prefix_len, sizeof(key)));
	return (int64) (pg_ntoh64(key) ^ (UINT64CONST(1) << 63));
}

/* Notes when all users were last evaluated. */
static void
read_evaluated(AudEventFeed *feed, Snapshot snapshot)
{
	Relation	profiles = table_open(aud_definitions_table("profiles"), AccessShareLock);
	int			user_id = SPI_fnumber(RelationGetDescr(profiles), "user_id");
	int			evaluated_at = SPI_fnumber(RelationGetDescr(profiles), "evaluated_at");
	TupleTableSlot *slot = table_slot_create(profiles, NULL);
	TableScanDesc scan = table_beginscan(profiles, snapshot, 0, NULL);
	Size		size = 1024;

	/* a table that is too small for all of them only lets more through */
	while (size < feed->nprofiles * 2 && size * 2 * sizeof(uint16) <= maintenance_work_mem * (Size) 512)
		size *= 2;
	feed->hash_mask = size - 1;
	feed->evaluated = MemoryContextAllocExtended(feed->mcxt, size * sizeof(uint16),
												 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		const char *id;
		int			len;
		uint16	   *evaluated;
		int64		age;

		CHECK_FOR_INTERRUPTS();
		slot_getsomeattrs(slot, Max(user_id, evaluated_at));
		id = slot_text(slot, user_id, &len);
		evaluated = &feed->evaluated[hash_bytes((const unsigned char *) id, len) & feed->hash_mask];
		age = feed->clock.now - DatumGetTimestampTz(slot->tts_values[evaluated_at - 1]);
		age = age <= 0 ? 0 : (age - 1) / USECS_PER_HOUR + 1;
		*evaluated = Max(*evaluated, Min(age, AGES_AGO));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(profiles, NoLock);
}

/* The aggregates that an event type matters to. */
static const KnownType *
know_type(AudEventFeed *feed, const char *type, int len)
{
	const AudEventType *all;
	KnownType  *known;

	for (int i = 0; i < feed->nknown; i++)
		if (feed->known[i].len == len && memcmp(feed->known[i].type, type, len) == 0)
			return &feed->known[i];
	if (feed->nknown < MAX_KNOWN_TYPES)
		feed->nknown++;
	known = &feed->known[feed->nknown - 1];
	if (known->aggregates == NULL)
	{
		known->type = MemoryContextAlloc(feed->mcxt, 256);
		known->aggregates = MemoryContextAlloc(feed->mcxt, feed->defs->naggregates * sizeof(int));
	}
	known->len = len;
	memcpy(known->type, type, len);
	known->naggregates = 0;
	all = aud_definitions_event_type(feed->defs, type, len);
	for (int i = 0; i < all->naggregates; i++)
		if (feed->wanted[all->aggregates[i]])
			known->aggregates[known->naggregates++] = all->aggregates[i];
	return known;
}

/*
 * Could an event behind all windows have been in one at its user's last
 * evaluation?  If false, it had left them all.
 */
static bool
may_have_counted(AudEventFeed *feed, const KnownType *type, TupleTableSlot *slot,
				 TimestampTz time, Snapshot snapshot)
{
	const char *id;
	int			len;
	int64		evaluated;

	/* not worth it for a few */
	if (++feed->nold < feed->nprofiles / 32)
		return true;
	if (feed->evaluated == NULL)
		read_evaluated(feed, snapshot);
	id = slot_text(slot, feed->columns[ROW_USER_ID - 1], &len);
	evaluated = feed->evaluated[hash_bytes((const unsigned char *) id, len) & feed->hash_mask];
	if (evaluated == AGES_AGO)
		return true;
	for (int i = 0; i < type->naggregates; i++)
		if (time > feed->clock.now - evaluated * USECS_PER_HOUR -
			feed->defs->aggregates[type->aggregates[i]].last)
			return true;
	return false;
}

/*
 * Does the event in the slot matter to one of the aggregates?  In *old whether
 * it is behind all their windows, so that only its being there counts.
 */
static bool
is_wanted(AudEventFeed *feed, TupleTableSlot *slot, Snapshot snapshot, bool *old)
{
	const KnownType *type;
	AudEvent	event;
	int			len;
	const char *name;
	bool		wanted = false;
	bool		isnull;
	MemoryContext outer;

	slot_getsomeattrs(slot, feed->columns[ROW_EVENT_TYPE - 1]);
	name = slot_text(slot, feed->columns[ROW_EVENT_TYPE - 1], &len);
	type = know_type(feed, name, len);
	if (type->naggregates == 0)
		return false;

	MemoryContextReset(feed->row_mcxt);
	outer = MemoryContextSwitchTo(feed->row_mcxt);
	memset(&event, 0, sizeof(event));
	event.type = name;
	event.type_len = len;
	event.time = DatumGetTimestampTz(slot_getattr(slot, feed->columns[ROW_OCCURRED_AT - 1], &isnull));
	event.id = slot_text(slot, feed->columns[ROW_EVENT_ID - 1], &event.id_len);
	event.stored_properties = slot_getattr(slot, feed->columns[ROW_PROPERTIES - 1], &isnull);
	event.stored_context = slot_getattr(slot, feed->columns[ROW_CONTEXT - 1], &isnull);
	if (isnull)
		event.stored_context = (Datum) 0;
	event.mcxt = feed->row_mcxt;
	*old = true;
	for (int i = 0; i < type->naggregates && *old; i++)
	{
		const AudAggregateDef *def = &feed->defs->aggregates[type->aggregates[i]];

		*old = !needs_all(def) && def->last != 0 && event.time <= feed->clock.now - def->last;
	}
	if (!*old || may_have_counted(feed, type, slot, event.time, snapshot))
		for (int i = 0; i < type->naggregates && !wanted; i++)
		{
			const AudAggregateDef *def = &feed->defs->aggregates[type->aggregates[i]];

			wanted = needs_all(def) || aud_aggregate_matches(def, &event, &feed->clock);
		}
	MemoryContextSwitchTo(outer);
	return wanted;
}

/* Reads the table, and puts what is wanted into the sort. */
static void
read_table(AudEventFeed *feed, Relation events)
{
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *from = table_slot_create(events, NULL);
	TupleTableSlot *to = MakeSingleTupleTableSlot(feed->slot->tts_tupleDescriptor, &TTSOpsVirtual);

	PushActiveSnapshot(GetTransactionSnapshot());
	UpdateActiveSnapshotCommandId();
	snapshot = RegisterSnapshot(GetActiveSnapshot());
	PopActiveSnapshot();
	scan = table_beginscan(events, snapshot, 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, from))
	{
		bool		is_old;
		const char *id;
		int			len;

		CHECK_FOR_INTERRUPTS();
		feed->nrows++;
		if (!is_wanted(feed, from, snapshot, &is_old))
			continue;
		ExecClearTuple(to);
		for (int i = 0; i < ROW_NCOLUMNS; i++)
			if (feed->columns[i] != 0)
				to->tts_values[i] = slot_getattr(from, feed->columns[i], &to->tts_isnull[i]);
		id = slot_text(to, ROW_USER_ID, &len);
		to->tts_values[ROW_USER_KEY - 1] = Int64GetDatum(order_key(feed, id, len));
		to->tts_isnull[ROW_USER_KEY - 1] = false;
		if (is_old)
			to->tts_isnull[ROW_PROPERTIES - 1] = to->tts_isnull[ROW_CONTEXT - 1] = true;
		ExecStoreVirtualTuple(to);
		tuplesort_puttupleslot(feed->sort, to);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(from);
	ExecDropSingleTupleTableSlot(to);
}

/* Turns to the next sorted row. */
static void
next_row(AudEventFeed *feed)
{
	feed->used = false;
	if (!tuplesort_gettupleslot(feed->sort, true, false, feed->slot, NULL))
		ExecClearTuple(feed->slot);
}

/*
 * Reads and sorts the events that the wanted aggregates look at (an array by
 * aggregate, which must outlive the feed).  NULL: looking for each user's
 * events is cheaper.  Allocated in the current context; the caller has
 * connected to SPI and holds the exclusive definitions lock.
 */
AudEventFeed *
aud_event_feed_begin(const AudDefinitions *defs, const bool *wanted)
{
	Relation	events = table_open(aud_definitions_table("events"), AccessShareLock);
	AudEventFeed *feed;
	AudClock	clock;
	TupleDesc	tupdesc;
	AttrNumber	keys[4] = {ROW_USER_KEY, ROW_USER_ID, ROW_OCCURRED_AT, ROW_EVENT_ID};
	Oid			operators[4] = {
		lookup_type_cache(INT8OID, TYPECACHE_LT_OPR)->lt_opr,
		TextLessOperator,
		lookup_type_cache(TIMESTAMPTZOID, TYPECACHE_LT_OPR)->lt_opr,
		TextLessOperator
	};
	Oid			collations[4] = {InvalidOid, C_COLLATION_OID, InvalidOid, C_COLLATION_OID};
	bool		nulls_first[4] = {false, false, false, false};

	aud_clock_init(&clock);
	if (!is_cheaper(defs, wanted, &clock, events))
	{
		table_close(events, NoLock);
		return NULL;
	}
	feed = palloc0(sizeof(AudEventFeed));
	feed->defs = defs;
	feed->wanted = wanted;
	feed->clock = clock;
	feed->mcxt = CurrentMemoryContext;
	feed->row_mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience event",
										   ALLOCSET_SMALL_SIZES);
	tupdesc = CreateTemplateTupleDesc(ROW_NCOLUMNS);
	for (int i = 0; i < ROW_NCOLUMNS; i++)
	{
		TupleDescInitEntry(tupdesc, i + 1, row_names[i], row_types[i], -1, 0);
		if (i != ROW_USER_KEY - 1)
			feed->columns[i] = SPI_fnumber(RelationGetDescr(events), row_names[i]);
	}
	find_prefix(feed);
	feed->nprofiles = expected_rows("SELECT FROM audience.profiles p");
	feed->slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
	feed->sort = tuplesort_begin_heap(tupdesc, 4, keys, operators, collations, nulls_first,
									  maintenance_work_mem, NULL, TUPLESORT_NONE);
	read_table(feed, events);
	tuplesort_performsort(feed->sort);
	table_close(events, NoLock);
	next_row(feed);
	return feed;
}

/* C order of the row at hand's user and another. */
static int
compare_user(const AudEventFeed *feed, const char *user_id, int user_id_len)
{
	int			len;
	const char *id;
	int			order;

	slot_getsomeattrs(feed->slot, ROW_USER_ID);
	id = slot_text(feed->slot, ROW_USER_ID, &len);
	order = memcmp(id, user_id, Min(len, user_id_len));
	return order != 0 ? order : len - user_id_len;
}

/*
 * Turns to the next user that there are events of; false: no more.  The id is
 * valid until the next call of any of these functions.
 */
bool
aud_event_feed_next_user(AudEventFeed *feed, const char **user_id, int *len)
{
	while (!TTS_EMPTY(feed->slot) &&
		   (feed->used || compare_user(feed, feed->user_id, feed->user_id_len) <= 0))
	{
		CHECK_FOR_INTERRUPTS();
		next_row(feed);
	}
	if (TTS_EMPTY(feed->slot))
		return false;
	slot_getsomeattrs(feed->slot, ROW_USER_ID);
	*user_id = slot_text(feed->slot, ROW_USER_ID, len);
	memcpy(feed->user_id, *user_id, *len);
	feed->user_id_len = *len;
	return true;
}

/*
 * Turns to a user, behind those before in C order; false if there are no events
 * of this user.
 */
bool
aud_event_feed_user(AudEventFeed *feed, const char *user_id, int len)
{
	int			order = 1;

	memcpy(feed->user_id, user_id, len);
	feed->user_id_len = len;
	if (feed->used)
		next_row(feed);
	while (!TTS_EMPTY(feed->slot) && (order = compare_user(feed, user_id, len)) < 0)
	{
		CHECK_FOR_INTERRUPTS();
		next_row(feed);
	}
	return order == 0 && !TTS_EMPTY(feed->slot);
}

/* The user's next event, false: no more.  It is valid until the next call. */
bool
aud_event_feed_next(AudEventFeed *feed, AudEvent *event)
{
	TupleTableSlot *slot = feed->slot;

	CHECK_FOR_INTERRUPTS();
	if (feed->used)
		next_row(feed);
	if (TTS_EMPTY(slot) || compare_user(feed, feed->user_id, feed->user_id_len) != 0)
		return false;
	slot_getallattrs(slot);
	MemoryContextReset(feed->row_mcxt);
	memset(event, 0, sizeof(*event));
	event->time = DatumGetTimestampTz(slot->tts_values[ROW_OCCURRED_AT - 1]);
	event->id = slot_text(slot, ROW_EVENT_ID, &event->id_len);
	event->type = slot_text(slot, ROW_EVENT_TYPE, &event->type_len);
	event->stored_properties = slot->tts_values[ROW_PROPERTIES - 1];
	if (!slot->tts_isnull[ROW_CONTEXT - 1])
		event->stored_context = slot->tts_values[ROW_CONTEXT - 1];
	event->mcxt = feed->row_mcxt;
	feed->used = true;
	return true;
}

/* Ends giving out. */
void
aud_event_feed_end(AudEventFeed *feed)
{
	aud_stats_count(AUD_COUNT_ROWS, feed->nrows);
	ExecDropSingleTupleTableSlot(feed->slot);
	tuplesort_end(feed->sort);
	MemoryContextDelete(feed->row_mcxt);
}
