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
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "event_feed.h"
#include "event_filter.h"
#include "store.h"

struct AudEventFeed
{
	MemoryContext row_mcxt;		/* of what belongs to the row at hand */
	Tuplesortstate *sort;
	TupleTableSlot *slot;		/* the row at hand; empty: there are no more */
	bool		used;			/* it has been given out */
	int			user_id_len;
	char		user_id[256];	/* whose events are being given out */
};

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

/* What the planner's statistics say. */
typedef struct Estimate
{
	double		pages;			/* of the table, exactly */
	double		rows;
	double		of_types;		/* that the aggregates are about */
	double		in_windows;		/* of any type, in the longest window */
	double		old;			/* of the types, behind all windows */
	double		profiles;
} Estimate;

/* Appends to a query that occurred_at lies before or after an instant. */
static void
append_time(StringInfo query, const char *operator, TimestampTz t)
{
	appendStringInfo(query, " AND e.occurred_at OPERATOR(pg_catalog.%s) '", operator);
	aud_timestamp_append(query, t);
	appendStringInfoChar(query, '\'');
}

/* Sets *estimate.  Connected to SPI. */
static void
estimate_events(Estimate *estimate, const AudAggregateDef *const *aggregates, int naggregates,
				const AudClock *clock, Relation events)
{
	StringInfoData of_types;
	StringInfoData in_windows;
	TimestampTz from = PG_INT64_MAX;

	initStringInfo(&of_types);
	appendStringInfoString(&of_types, "SELECT FROM audience.events e WHERE (false");
	for (int i = 0; i < naggregates; i++)
	{
		const AudAggregateDef *def = aggregates[i];
		const AudNode *step;

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
	appendStringInfoChar(&of_types, ')');
	initStringInfo(&in_windows);
	appendStringInfoString(&in_windows, "SELECT FROM audience.events e WHERE true");
	estimate->pages = RelationGetNumberOfBlocks(events);
	estimate->rows = expected_rows("SELECT FROM audience.events e");
	estimate->of_types = expected_rows(of_types.data);
	estimate->profiles = expected_rows("SELECT FROM audience.profiles p");
	estimate->old = 0;
	if (from >= AUD_FIRST_INSTANT)
	{
		append_time(&in_windows, ">", from);
		append_time(&of_types, "<=", from);
		estimate->old = expected_rows(of_types.data);
	}
	estimate->in_windows = expected_rows(in_windows.data);
}

/*
 * Is reading the whole table cheaper than looking for each user's events?  In
 * the planner's units, by measurement: from memory, a descent of the index
 * costs as much as reading 25 rows in order, a row by way of the index as 5,
 * and sorting one as 10.
 */
static bool
is_cheaper(const Estimate *estimate)
{
	double		uncached = Max(0, 1 - effective_cache_size / Max(estimate->pages, 1));

	return estimate->pages * seq_page_cost * Max(uncached, 0.1) +
		(estimate->rows + 10 * estimate->of_types) * cpu_tuple_cost <
		25 * cpu_tuple_cost * estimate->profiles +
		(5 * cpu_tuple_cost + uncached * random_page_cost) * estimate->in_windows;
}

/* A text column of the slot, which has been taken apart that far; not copied. */
static const char *
slot_text(TupleTableSlot *slot, int column, int *len)
{
	text	   *value = DatumGetTextPP(slot->tts_values[column - 1]);

	*len = VARSIZE_ANY_EXHDR(value);
	return VARDATA_ANY(value);
}

/*
 * Sets the prefix that all users' ids have in common.  Should one come that does
 * not, it is in its place all the same.
 */
static void
find_prefix(AudEventFilter *filter)
{
	char	   *first;
	char	   *last;

	if (SPI_execute("SELECT min(e.user_id), max(e.user_id) FROM audience.events e", false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the users' ids");
	first = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	last = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2);
	if (first != NULL && last != NULL)
		while (filter->prefix_len < AUD_MAX_NAME_BYTES && first[filter->prefix_len] != '\0' &&
			   first[filter->prefix_len] == last[filter->prefix_len])
		{
			filter->prefix[filter->prefix_len] = first[filter->prefix_len];
			filter->prefix_len++;
		}
	SPI_freetuptable(SPI_tuptable);
}

/*
 * The table that tells when users were last evaluated (event_filter.h), palloc'ed;
 * sets the filter's mask for it.
 */
static uint16 *
read_evaluated(AudEventFilter *filter, double nprofiles, Snapshot snapshot)
{
	Relation	profiles = table_open(aud_definitions_table("profiles"), AccessShareLock);
	int			user_id = SPI_fnumber(RelationGetDescr(profiles), "user_id");
	int			evaluated_at = SPI_fnumber(RelationGetDescr(profiles), "evaluated_at");
	TupleTableSlot *slot = table_slot_create(profiles, NULL);
	TableScanDesc scan = table_beginscan(profiles, snapshot, 0, NULL);
	uint16	   *result;
	Size		size = 1024;

	/* a table that is too small for all of them only lets more through */
	while (size < nprofiles * 2 && size * 2 * sizeof(uint16) <= maintenance_work_mem * (Size) 512)
		size *= 2;
	filter->evaluated_mask = size - 1;
	result = MemoryContextAllocExtended(CurrentMemoryContext, size * sizeof(uint16),
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
		evaluated = &result[hash_bytes((const unsigned char *) id, len) & filter->evaluated_mask];
		age = filter->clock.now - DatumGetTimestampTz(slot->tts_values[evaluated_at - 1]);
		age = age <= 0 ? 0 : (age - 1) / USECS_PER_HOUR + 1;
		*evaluated = Max(*evaluated, Min(age, AUD_AGES_AGO));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(profiles, NoLock);
	return result;
}

/* Reads what is wanted of the table into a new sort; allocates in the current context. */
static Tuplesortstate *
sort_events(AudEventFilter *filter, const AudAggregateDef *const *aggregates,
			const Estimate *estimate, Relation events)
{
	AttrNumber	keys[4] = {AUD_ROW_USER_KEY, AUD_ROW_USER_ID, AUD_ROW_OCCURRED_AT, AUD_ROW_EVENT_ID};
	Oid			operators[4] = {
		lookup_type_cache(INT8OID, TYPECACHE_LT_OPR)->lt_opr,
		TextLessOperator,
		lookup_type_cache(TIMESTAMPTZOID, TYPECACHE_LT_OPR)->lt_opr,
		TextLessOperator
	};
	Oid			collations[4] = {InvalidOid, C_COLLATION_OID, InvalidOid, C_COLLATION_OID};
	bool		nulls_first[4] = {false, false, false, false};
	Tuplesortstate *sort = tuplesort_begin_heap(aud_event_row_desc(), 4, keys, operators, collations,
												nulls_first, maintenance_work_mem, NULL, TUPLESORT_NONE);
	uint16	   *evaluated = NULL;
	Snapshot	snapshot;

	PushActiveSnapshot(GetTransactionSnapshot());
	UpdateActiveSnapshotCommandId();
	snapshot = RegisterSnapshot(GetActiveSnapshot());
	PopActiveSnapshot();
	/* not worth it for a few */
	if (estimate->old > estimate->profiles / 32)
		evaluated = read_evaluated(filter, estimate->profiles, snapshot);
	aud_event_filter_run(filter, aggregates, evaluated, events, snapshot, sort);
	UnregisterSnapshot(snapshot);
	if (evaluated != NULL)
		pfree(evaluated);
	tuplesort_performsort(sort);
	return sort;
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
	const AudAggregateDef **aggregates = palloc(Max(defs->naggregates, 1) * sizeof(AudAggregateDef *));
	AudEventFilter filter = {0};
	AudEventFeed *feed = NULL;
	Estimate	estimate;

	aud_clock_init(&filter.clock);
	filter.table = RelationGetRelid(events);
	for (int i = 0; i < defs->naggregates; i++)
		if (wanted[i])
			aggregates[filter.naggregates++] = &defs->aggregates[i];
	estimate_events(&estimate, aggregates, filter.naggregates, &filter.clock, events);
	if (is_cheaper(&estimate))
	{
		find_prefix(&filter);
		feed = palloc0(sizeof(AudEventFeed));
		feed->row_mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience event",
											   ALLOCSET_SMALL_SIZES);
		feed->slot = MakeSingleTupleTableSlot(aud_event_row_desc(), &TTSOpsMinimalTuple);
		feed->sort = sort_events(&filter, aggregates, &estimate, events);
		next_row(feed);
	}
	pfree(aggregates);
	table_close(events, NoLock);
	return feed;
}

/* C order of the row at hand's user and another. */
static int
compare_user(const AudEventFeed *feed, const char *user_id, int user_id_len)
{
	int			len;
	const char *id;
	int			order;

	slot_getsomeattrs(feed->slot, AUD_ROW_USER_ID);
	id = slot_text(feed->slot, AUD_ROW_USER_ID, &len);
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
	slot_getsomeattrs(feed->slot, AUD_ROW_USER_ID);
	*user_id = slot_text(feed->slot, AUD_ROW_USER_ID, len);
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

	aud_store_check_user_id(len);
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
	event->time = DatumGetTimestampTz(slot->tts_values[AUD_ROW_OCCURRED_AT - 1]);
	event->id = slot_text(slot, AUD_ROW_EVENT_ID, &event->id_len);
	event->type = slot_text(slot, AUD_ROW_EVENT_TYPE, &event->type_len);
	event->stored_properties = slot->tts_values[AUD_ROW_PROPERTIES - 1];
	if (!slot->tts_isnull[AUD_ROW_CONTEXT - 1])
		event->stored_context = slot->tts_values[AUD_ROW_CONTEXT - 1];
	event->mcxt = feed->row_mcxt;
	feed->used = true;
	return true;
}

/* Ends giving out. */
void
aud_event_feed_end(AudEventFeed *feed)
{
	ExecDropSingleTupleTableSlot(feed->slot);
	tuplesort_end(feed->sort);
	MemoryContextDelete(feed->row_mcxt);
}
