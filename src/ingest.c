/*-------------------------------------------------------------------------
 *
 * ingest.c
 *	  The trigger on table events: from a statement's new events to
 *	  memberships.
 *
 *	  1 check	each event; those of a dump's rows are left alone (whether
 *				retention still takes it: when it comes to its batch)
 *	  2 sort	by user, time and id
 *	  3 run		batches of users (batch.h)
 *
 * A statement of more events than a batch holds is sorted by tuplesort, which
 * spills to disk, and run in several batches: users are then met in C order
 * of their ids across all of them, so that they are locked in one order, and
 * each user is in one batch only, so that its transitions are the statement's
 * net ones.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"

#include "batch.h"
#include "bounds.h"
#include "compat.h"
#include "events_guard.h"
#include "restoring.h"
#include "settings.h"
#include "stats.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_events_inserted);

/* what is sorted in memory, and about what makes a batch */
#define BATCH_EVENTS	20000
#define BATCH_BYTES		(64 * (Size) 1024 * 1024)

/* positions of the columns in the firing relation */
typedef struct EventColumns
{
	int			user_id;
	int			occurred_at;
	int			event_id;
	int			event_type;
	int			properties;
	int			context;
	int			received_at;
} EventColumns;

/* an event with its user, before users are made of them */
typedef struct NewEvent
{
	const char *user_id;
	int			user_id_len;
	AudEvent	event;
} NewEvent;

/* what events in memory are sorted by: most users differ in their first bytes */
typedef struct SortKey
{
	uint64		prefix;			/* the user id's first bytes as a number, in the ids' order */
	const NewEvent *event;
} SortKey;

/* a statement's events, in order, from memory or from a sort */
typedef struct EventSource
{
	EventColumns columns;
	TupleTableSlot *slot;
	AudClock	clock;
	TimestampTz transaction_start;
	SortKey    *events;			/* in memory */
	int			nevents;
	int			at;
	Tuplesortstate *sort;		/* else NULL */
	bool		has_pending;	/* the sort's slot holds the next event */
	bool		restored;		/* some events have come from a dump */
} EventSource;

/* The position of a column of the firing relation. */
static int
column(TupleDesc tupdesc, const char *name)
{
	int			number = SPI_fnumber(tupdesc, name);

	if (number <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" does not exist in the table of events", name)));
	return number;
}

/* Finds the columns by name. */
static void
find_columns(TupleDesc tupdesc, EventColumns *columns)
{
	columns->user_id = column(tupdesc, "user_id");
	columns->occurred_at = column(tupdesc, "occurred_at");
	columns->event_id = column(tupdesc, "event_id");
	columns->event_type = column(tupdesc, "event_type");
	columns->properties = column(tupdesc, "properties");
	columns->context = column(tupdesc, "context");
	columns->received_at = column(tupdesc, "received_at");
}

/* Refuses a text that is not 1 to 255 bytes long. */
static void
check_text(const char *name, int len)
{
	if (len < 1 || len > AUD_MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of an event must be 1 to %d bytes long", name, AUD_MAX_NAME_BYTES),
				 errdetail("It is %d bytes long.", len)));
}

/* The same for the three names of the row in the slot. */
static void
check_texts(const EventColumns *columns, TupleTableSlot *slot)
{
	static const char *const names[] = {"user_id", "event_type", "event_id"};
	int			numbers[] = {columns->user_id, columns->event_type, columns->event_id};

	for (size_t i = 0; i < lengthof(names); i++)
		check_text(names[i], toast_raw_datum_size(slot->tts_values[numbers[i] - 1]) - VARHDRSZ);
}

/* Refuses an event because of its time. */
pg_noreturn static void
refuse_time(const NewEvent *new, const AudClock *clock)
{
	StringInfoData occurred;
	StringInfoData now;

	initStringInfo(&occurred);
	initStringInfo(&now);
	aud_timestamp_append(&occurred, new->event.time);
	aud_timestamp_append(&now, clock->now);
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("event is too far in the future or not in time at all"),
			 errdetail("Event \"%s\" of user \"%s\" occurred at %s; now is %s.",
					   new->event.id, new->user_id, occurred.data, now.data),
			 errhint("Events may be ahead of now by \"audience.max_future_skew\".")));
}

/*
 * Refuses an event that is earlier than what retention keeps: it may have been
 * counted and deleted.  Under the definitions lock, so that none gets in
 * while the instant moves on.
 */
static void
check_retention(const NewEvent *new, const AudDefinitions *defs)
{
	StringInfoData occurred;
	StringInfoData from;

	if (new->event.time >= defs->events_from)
		return;
	initStringInfo(&occurred);
	initStringInfo(&from);
	aud_timestamp_append(&occurred, new->event.time);
	aud_timestamp_append(&from, defs->events_from);
	ereport(ERROR,
			(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
			 errmsg("event is older than what is kept"),
			 errdetail("Event \"%.*s\" of user \"%.*s\" occurred at %s; events are kept from %s on.",
					   new->event.id_len, new->event.id,
					   new->user_id_len, new->user_id, occurred.data, from.data),
			 errhint("It may have been counted and deleted before; see \"audience.event_retention\".")));
}

/* Refuses an event that cannot be taken (SPEC 2.5, 3, 7). */
static void
check_event(const NewEvent *new, const AudClock *clock)
{
	const AudEvent *event = &new->event;
	Size		size = VARSIZE(event->properties) +
		(event->context ? VARSIZE(event->context) : 0);

	check_text("user_id", new->user_id_len);
	check_text("event_type", event->type_len);
	check_text("event_id", event->id_len);
	if (!JB_ROOT_IS_OBJECT(event->properties) ||
		(event->context != NULL && !JB_ROOT_IS_OBJECT(event->context)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("properties and context of an event must be JSON objects"),
				 errdetail("Event \"%s\" of user \"%s\".",
						   event->id, new->user_id)));
	if (size > (Size) aud_max_event_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("properties and context of an event are too large"),
				 errdetail("Event \"%s\" of user \"%s\" has %zu bytes; \"audience.max_event_size\" is %d kB.",
						   event->id, new->user_id,
						   size, aud_max_event_size)));
	if (event->time < AUD_FIRST_INSTANT ||
		event->time > clock->now + clock->max_future_skew)
		refuse_time(new, clock);
}

/* A text column of the slot, copied and NUL-terminated. */
static const char *
slot_text(TupleTableSlot *slot, int column_number, int *len)
{
	text	   *value = DatumGetTextPP(slot->tts_values[column_number - 1]);

	*len = VARSIZE_ANY_EXHDR(value);
	return pnstrdup(VARDATA_ANY(value), *len);
}

/* A jsonb column of the slot, copied. */
static Jsonb *
slot_jsonb(TupleTableSlot *slot, int column_number)
{
	return DatumGetJsonbPCopy(slot->tts_values[column_number - 1]);
}

/*
 * Is the slot's event one to be evaluated?  Its received_at is the
 * transaction's start then.  If not, it comes from a dump, and must have come
 * the way dumps do.
 */
static bool
is_live(EventSource *source, TupleTableSlot *slot)
{
	int			number = source->columns.received_at - 1;

	slot_getallattrs(slot);
	if (!slot->tts_isnull[number] &&
		DatumGetTimestampTz(slot->tts_values[number]) == source->transaction_start)
		return true;
	if (row_security)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"received_at\" of an event cannot be given"),
				 errhint("Leave it out: it is when the event was received.  (Dumps restore it with \"row_security\" off.)")));
	/* of a restored event only what the engine has no room for is refused */
	check_texts(&source->columns, slot);
	source->restored = true;
	return false;
}

/* Copies an event from the slot into the current context. */
static void
read_event(const EventSource *source, TupleTableSlot *slot, NewEvent *new)
{
	const EventColumns *columns = &source->columns;
	AudEvent   *event = &new->event;

	new->user_id = slot_text(slot, columns->user_id, &new->user_id_len);
	event->time = DatumGetTimestampTz(slot->tts_values[columns->occurred_at - 1]);
	event->id = slot_text(slot, columns->event_id, &event->id_len);
	event->type = slot_text(slot, columns->event_type, &event->type_len);
	event->properties = slot_jsonb(slot, columns->properties);
	event->context = slot->tts_isnull[columns->context - 1] ? NULL :
		slot_jsonb(slot, columns->context);
	event->stored_properties = event->stored_context = (Datum) 0;
	event->mcxt = NULL;
	event->received = source->transaction_start;
}

/* C order of two texts. */
static int
compare_text(const char *a, int alen, const char *b, int blen)
{
	int			order = memcmp(a, b, Min(alen, blen));

	return order != 0 ? order : alen - blen;
}

/* The first bytes of a text as a number, in C order as far as they tell. */
static uint64
text_prefix(const char *text, int len)
{
	uint64		prefix = 0;

	memcpy(&prefix, text, Min(len, (int) sizeof(prefix)));
	return pg_ntoh64(prefix);
}

/* The order of events: user, time, id. */
static int
compare_events(const void *a, const void *b)
{
	const SortKey *s = a;
	const SortKey *t = b;
	const NewEvent *x = s->event;
	const NewEvent *y = t->event;
	int			order;

	if (s->prefix != t->prefix)
		return s->prefix < t->prefix ? -1 : 1;
	order = compare_text(x->user_id, x->user_id_len, y->user_id, y->user_id_len);
	if (order != 0)
		return order;
	if (x->event.time != y->event.time)
		return x->event.time < y->event.time ? -1 : 1;
	return compare_text(x->event.id, x->event.id_len, y->event.id, y->event.id_len);
}

/* The bytes that an event takes. */
static Size
event_size(const NewEvent *new)
{
	return sizeof(NewEvent) + VARSIZE(new->event.properties) +
		(new->event.context ? VARSIZE(new->event.context) : 0);
}

/*
 * Sets the source up over a small transition table: all events in memory.
 * False if they are too many bytes for that.
 */
static bool
read_all(EventSource *source, Tuplestorestate *store, int64 count)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "audience new events",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	Size		bytes = 0;
	NewEvent   *events;

	events = palloc(count * sizeof(NewEvent));
	source->events = palloc(count * sizeof(SortKey));
	for (;;)
	{
		NewEvent   *new = &events[source->nevents];
		bool		more;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(old);
		more = tuplestore_gettupleslot(store, true, false, source->slot);
		MemoryContextSwitchTo(mcxt);
		if (!more)
			break;
		if (!is_live(source, source->slot))
			continue;
		aud_bounds_check_events(source->nevents + 1);
		read_event(source, source->slot, new);
		check_event(new, &source->clock);
		source->events[source->nevents].prefix = text_prefix(new->user_id, new->user_id_len);
		source->events[source->nevents++].event = new;
		bytes += event_size(new);
		if (bytes > BATCH_BYTES)
		{
			MemoryContextSwitchTo(old);
			MemoryContextDelete(mcxt);
			source->nevents = 0;
			return false;
		}
	}
	MemoryContextSwitchTo(old);
	qsort(source->events, source->nevents, sizeof(SortKey), compare_events);
	return true;
}

/* Sets the source up over a large transition table: a sort that may spill. */
static void
sort_all(EventSource *source, Tuplestorestate *store)
{
	AttrNumber	keys[3] = {
		source->columns.user_id, source->columns.occurred_at, source->columns.event_id
	};
	Oid			operators[3] = {
		TextLessOperator,
		lookup_type_cache(TIMESTAMPTZOID, TYPECACHE_LT_OPR)->lt_opr,
		TextLessOperator
	};
	Oid			collations[3] = {C_COLLATION_OID, InvalidOid, C_COLLATION_OID};
	bool		nulls_first[3] = {false, false, false};
	MemoryContext row_mcxt = AllocSetContextCreate(CurrentMemoryContext,
												   "audience row", ALLOCSET_DEFAULT_SIZES);
	int64		nevents = 0;

	source->sort = tuplesort_begin_heap(source->slot->tts_tupleDescriptor, 3, keys,
										operators, collations, nulls_first,
										work_mem, NULL, TUPLESORT_NONE);
	while (tuplestore_gettupleslot(store, true, false, source->slot))
	{
		NewEvent	new;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		if (!is_live(source, source->slot))
			continue;
		aud_bounds_check_events(++nevents);
		old = MemoryContextSwitchTo(row_mcxt);
		read_event(source, source->slot, &new);
		check_event(&new, &source->clock);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row_mcxt);
		tuplesort_puttupleslot(source->sort, source->slot);
	}
	MemoryContextDelete(row_mcxt);
	tuplesort_performsort(source->sort);
}

/* To the first event. */
static void
start_source(EventSource *source)
{
	if (source->sort != NULL)
		source->has_pending = tuplesort_gettupleslot(source->sort, true, false,
													 source->slot, NULL);
}

/* Is there a further event? */
static bool
has_next(const EventSource *source)
{
	return source->sort == NULL ? source->at < source->nevents : source->has_pending;
}

/* The next event, copied into the current context; false: no more. */
static bool
peek(EventSource *source, NewEvent *new)
{
	if (!has_next(source))
		return false;
	if (source->sort == NULL)
		*new = *source->events[source->at].event;
	else
	{
		slot_getallattrs(source->slot);
		read_event(source, source->slot, new);
	}
	return true;
}

/* Moves on to the event behind the one that peek gives. */
static void
advance(EventSource *source)
{
	source->at++;
	if (source->sort != NULL)
		source->has_pending = tuplesort_gettupleslot(source->sort, true, false,
													 source->slot, NULL);
}

/*
 * Fills a batch with the next users and their events, whole users only, until
 * it has BATCH_EVENTS or BATCH_BYTES of them.
 */
static void
fill_batch(EventSource *source, AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	int			max_events = 256;
	int			nevents = 0;
	AudEvent   *events = palloc(max_events * sizeof(AudEvent));
	int			first = 0;
	Size		bytes = 0;
	Size		user_bytes = 0;
	NewEvent	new;

	while (peek(source, &new))
	{
		AudUser    *user = batch->nusers > 0 ? &batch->users[batch->nusers - 1] : NULL;

		CHECK_FOR_INTERRUPTS();
		check_retention(&new, batch->defs);
		if (user == NULL ||
			compare_text(user->id, user->id_len, new.user_id, new.user_id_len) != 0)
		{
			if (nevents >= BATCH_EVENTS || bytes >= BATCH_BYTES)
				break;
			user = aud_batch_add(batch, new.user_id, new.user_id_len);
			first = nevents;
			user_bytes = 0;
		}
		user_bytes += event_size(&new) + new.event.id_len + new.event.type_len + new.user_id_len;
		aud_bounds_check_user_events(user->id, user_bytes);
		if (nevents == max_events)
		{
			max_events *= 2;
			events = repalloc_huge(events, max_events * sizeof(AudEvent));
		}
		events[nevents++] = new.event;
		bytes += event_size(&new);
		user->nevents = nevents - first;
		advance(source);
	}
	/* the array does not move any more */
	for (int i = 0, at = 0; i < batch->nusers; i++)
	{
		batch->users[i].events = &events[at];
		at += batch->users[i].nevents;
	}
	aud_stats_count(AUD_COUNT_EVENTS, nevents);
	MemoryContextSwitchTo(old);
}

/* Runs the events of a source through the engine. */
static void
run(EventSource *source)
{
	const AudDefinitions *defs = aud_definitions_get_shared();

	start_source(source);
	aud_stats_count(AUD_COUNT_STATEMENTS, 1);
	while (has_next(source))
	{
		AudBatch   *batch = aud_batch_begin(defs, "rule_evaluation");

		fill_batch(source, batch);
		aud_batch_take(batch);
		aud_batch_end(batch);
	}
}

/*
 * events_inserted(): trigger after each statement that inserts events, with
 * the new rows as a transition table.  Runs as the extension's owner.
 */
Datum
aud_events_inserted(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	EventSource source = {0};
	int64		count;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) || trigger->tg_newtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"events_inserted\" must be called by a statement trigger after INSERT with a transition table")));
	count = tuplestore_tuple_count(trigger->tg_newtable);
	if (count == 0 || aud_events_copying())
		return PointerGetDatum(NULL);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	aud_clock_init(&source.clock);
	source.transaction_start = GetCurrentTransactionStartTimestamp();
	find_columns(RelationGetDescr(trigger->tg_relation), &source.columns);
	source.slot = MakeSingleTupleTableSlot(RelationGetDescr(trigger->tg_relation),
										   &TTSOpsMinimalTuple);
	/* others may have read the transition table before */
	tuplestore_select_read_pointer(trigger->tg_newtable,
								   tuplestore_alloc_read_pointer(trigger->tg_newtable, EXEC_FLAG_REWIND));
	tuplestore_rescan(trigger->tg_newtable);
	if (count > BATCH_EVENTS || !read_all(&source, trigger->tg_newtable, count))
	{
		tuplestore_rescan(trigger->tg_newtable);
		sort_all(&source, trigger->tg_newtable);
	}
	if (source.nevents > 0 || source.sort != NULL)
		run(&source);
	if (source.restored)
		aud_restoring_note();
	aud_stats_count(AUD_COUNT_EVENT_BYTES, MemoryContextMemAllocated(CurrentMemoryContext, true));
	if (source.sort != NULL)
		tuplesort_end(source.sort);
	ExecDropSingleTupleTableSlot(source.slot);
	SPI_finish();
	return PointerGetDatum(NULL);
}
