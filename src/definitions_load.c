/*-------------------------------------------------------------------------
 *
 * definitions_load.c
 *	  Reading the definitions from their tables.
 *
 * A session with ten thousand segments should not wait for its first event,
 * so the tables are scanned directly, and a rule is taken apart where it
 * stands, in the buffer: it is kept only if it brings a leaf that no rule
 * before it has.
 *
 * They are read with the latest snapshot, whatever the transaction's own:
 * under the definitions lock that is the one set that is in force.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "blockers.h"
#include "version.h"

/* columns of a table that are read, at most */
#define MAX_COLUMNS		9

/* a table being scanned */
typedef struct Scan
{
	Relation	rel;
	TableScanDesc scan;
	TupleTableSlot *slot;
	AttrNumber	numbers[MAX_COLUMNS];	/* of the columns asked for */
} Scan;

/* Begins to scan a table for some of its columns. */
static void
scan_begin(Scan *scan, const char *table, const char *const *columns, int ncolumns)
{
	TupleDesc	tupdesc;

	Assert(ncolumns <= MAX_COLUMNS);
	scan->rel = table_open(aud_definitions_table(table), AccessShareLock);
	tupdesc = RelationGetDescr(scan->rel);
	for (int c = 0; c < ncolumns; c++)
	{
		scan->numbers[c] = InvalidAttrNumber;
		for (int i = 0; i < tupdesc->natts; i++)
			if (!TupleDescAttr(tupdesc, i)->attisdropped &&
				strcmp(NameStr(TupleDescAttr(tupdesc, i)->attname), columns[c]) == 0)
				scan->numbers[c] = i + 1;
		if (scan->numbers[c] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table \"%s\" has no column \"%s\"", table, columns[c]),
					 AUD_HINT_UPDATE));
	}
	scan->slot = table_slot_create(scan->rel, NULL);
	scan->scan = table_beginscan(scan->rel, GetActiveSnapshot(), 0, NULL);
}

/* Moves to the next row; false: there is none. */
static bool
scan_next(Scan *scan)
{
	CHECK_FOR_INTERRUPTS();
	return table_scan_getnextslot(scan->scan, ForwardScanDirection, scan->slot);
}

/* A column of the row, by its place among those asked for; in the buffer. */
static Datum
scan_column(Scan *scan, int column, bool *isnull)
{
	return slot_getattr(scan->slot, scan->numbers[column], isnull);
}

/* A column that is never null. */
static Datum
scan_value(Scan *scan, int column)
{
	bool		isnull;
	Datum		result = scan_column(scan, column, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in table %s", RelationGetRelationName(scan->rel));
	return result;
}

/* An int8 column, 0 where it is null. */
static int64
scan_int64(Scan *scan, int column)
{
	bool		isnull;
	Datum		result = scan_column(scan, column, &isnull);

	return isnull ? 0 : DatumGetInt64(result);
}

/* A copy of a text column. */
static char *
scan_text(Scan *scan, int column)
{
	return TextDatumGetCString(scan_value(scan, column));
}

/* Does a text column say this? */
static bool
scan_says(Scan *scan, int column, const char *word)
{
	text	   *value = DatumGetTextPP(scan_value(scan, column));

	return VARSIZE_ANY_EXHDR(value) == strlen(word) &&
		memcmp(VARDATA_ANY(value), word, strlen(word)) == 0;
}

/* Ends the scan. */
static void
scan_end(Scan *scan)
{
	table_endscan(scan->scan);
	ExecDropSingleTupleTableSlot(scan->slot);
	table_close(scan->rel, AccessShareLock);
}

/* Reads the version. */
static void
load_version(AudDefinitions *defs)
{
	static const char *const columns[] = {"version"};
	Scan		scan;

	scan_begin(&scan, "definition_version", columns, lengthof(columns));
	if (!scan_next(&scan))
		elog(ERROR, "table audience.definition_version must hold one row");
	defs->version = DatumGetInt64(scan_value(&scan, 0));
	scan_end(&scan);
}

/*
 * Reads from when on events are taken.  Retention counts as a definition: who
 * has loaded them knows which events may be gone.
 */
static void
load_retention(AudDefinitions *defs)
{
	static const char *const columns[] = {"kind", "complete_from"};
	Scan		scan;

	defs->events_from = DT_NOBEGIN;
	scan_begin(&scan, "retention", columns, lengthof(columns));
	while (scan_next(&scan))
	{
		bool		isnull;
		Datum		from = scan_column(&scan, 1, &isnull);

		if (scan_says(&scan, 0, "events") && !isnull)
			defs->events_from = DatumGetTimestampTz(from);
	}
	scan_end(&scan);
}

/* Reads which sinks transitions go to. */
static void
load_sinks(AudDefinitions *defs)
{
	static const char *const columns[] = {"number", "stream"};
	List	   *numbers = NIL;
	ListCell   *cell;
	Scan		scan;

	scan_begin(&scan, "kafka_sinks", columns, lengthof(columns));
	while (scan_next(&scan))
		if (scan_says(&scan, 1, "transitions"))
			numbers = lappend_int(numbers, DatumGetInt32(scan_value(&scan, 0)));
	scan_end(&scan);
	if (numbers == NIL)
		return;
	defs->sinks = palloc(list_length(numbers) * sizeof(int32));
	foreach(cell, numbers)
		defs->sinks[defs->nsinks++] = lfirst_int(cell);
}

/* a row of table aggregates */
typedef struct StoredAggregate
{
	int32		number;
	int64		pending;
	const AudRule *rule;
} StoredAggregate;

/* Orders aggregates by number. */
static int
compare_aggregates(const void *a, const void *b)
{
	int32		x = ((const StoredAggregate *) a)->number;
	int32		y = ((const StoredAggregate *) b)->number;

	return (x > y) - (x < y);
}

/* Reads table aggregates; what is only needed meanwhile goes to "work". */
static void
load_aggregates(AudDefinitions *defs, MemoryContext work)
{
	static const char *const columns[] = {"number", "pending", "definition"};
	Scan		scan;
	StoredAggregate *rows = NULL;
	int			n = 0;
	int			max = 0;

	scan_begin(&scan, "aggregates", columns, lengthof(columns));
	while (scan_next(&scan))
	{
		MemoryContext old = MemoryContextSwitchTo(work);

		AUD_GROW(rows, n, max);
		MemoryContextSwitchTo(old);
		rows[n].number = DatumGetInt32(scan_value(&scan, 0));
		rows[n].pending = scan_int64(&scan, 1);
		rows[n++].rule = (AudRule *) PG_DETOAST_DATUM_COPY(scan_value(&scan, 2));
	}
	scan_end(&scan);
	qsort(rows, n, sizeof(StoredAggregate), compare_aggregates);
	defs->max_aggregates = n;
	defs->aggregates = palloc((n + 1) * sizeof(AudAggregateDef));
	for (int i = 0; i < n; i++)
		aud_definitions_add_aggregate(defs, rows[i].number, rows[i].pending,
									  rows[i].rule, AUD_RULE_ROOT(rows[i].rule));
}

/* Orders traits by name. */
static int
compare_traits(const void *a, const void *b)
{
	return strcmp(((const AudTrait *) a)->name, ((const AudTrait *) b)->name);
}

/* Reads table traits; their aggregates are there already. */
static void
load_traits(AudDefinitions *defs)
{
	static const char *const columns[] = {"name", "aggregate_number"};
	Scan		scan;
	int			max = 0;

	defs->ntraits = 0;
	defs->traits = NULL;
	scan_begin(&scan, "traits", columns, lengthof(columns));
	while (scan_next(&scan))
	{
		int			aggregate = aud_definitions_find_number(defs, DatumGetInt32(scan_value(&scan, 1)));

		if (aggregate < 0)
			continue;
		AUD_GROW(defs->traits, defs->ntraits, max);
		defs->traits[defs->ntraits].name = scan_text(&scan, 0);
		defs->traits[defs->ntraits++].aggregate = aggregate;
	}
	scan_end(&scan);
	qsort(defs->traits, defs->ntraits, sizeof(AudTrait), compare_traits);
}

/* segments as they come */
typedef struct Loading
{
	AudSegment *segments;
	int			nsegments;
	int			max_segments;
	int		   *programs;		/* where each one's begins among all, -1: it has none */
	int			max_programs;
} Loading;

/* Reads a row of table segments, and takes its rule apart. */
static void
load_segment(Scan *scan, AudCompiler *compiler, Loading *loading, MemoryContext work)
{
	MemoryContext old = MemoryContextSwitchTo(work);
	AudSegment *segment;
	int			index = loading->nsegments;
	int			program = -1;

	AUD_GROW(loading->segments, index, loading->max_segments);
	AUD_GROW(loading->programs, index, loading->max_programs);
	MemoryContextSwitchTo(old);
	loading->nsegments++;
	segment = &loading->segments[index];
	memset(segment, 0, sizeof(*segment));
	segment->number = DatumGetInt32(scan_value(scan, 0));
	segment->id = scan_text(scan, 1);
	segment->is_static = scan_says(scan, 2, "static");
	segment->is_member_source = DatumGetBool(scan_value(scan, 3));
	segment->version = DatumGetInt32(scan_value(scan, 4));
	segment->is_building = scan_says(scan, 6, "building");
	segment->pending = scan_int64(scan, 7);
	if (segment->pending != 0)
	{
		bool		isnull;

		(void) scan_column(scan, 8, &isnull);
		segment->pending_reason = isnull ? "backfill" : scan_text(scan, 8);
	}
	if (!segment->is_static)
	{
		Datum		datum = scan_value(scan, 5);
		AudRule    *rule = DatumGetAudRuleP(datum);

		program = aud_compiler_add_rule(compiler, rule, false,
										segment->is_member_source ? index : -1);
		if (rule != (AudRule *) DatumGetPointer(datum))
			pfree(rule);
	}
	loading->programs[index] = program;
}

/* Reads table segments, compiles their rules and orders them. */
static void
load_segments(AudDefinitions *defs, MemoryContext work)
{
	static const char *const columns[] = {
		"number", "id", "type", "active", "version", "rules", "status", "pending", "pending_reason"
	};
	AudCompiler *compiler = aud_compiler_begin(defs, work);
	Loading		loading = {0};
	const AudInstruction *programs;
	Scan		scan;

	scan_begin(&scan, "segments", columns, lengthof(columns));
	while (scan_next(&scan))
		load_segment(&scan, compiler, &loading, work);
	scan_end(&scan);
	programs = aud_compiler_finish(compiler);

	defs->nsegments = loading.nsegments;
	defs->segments = palloc((defs->nsegments + 1) * sizeof(AudSegment));
	for (int i = 0; i < defs->nsegments; i++)
	{
		defs->segments[i] = loading.segments[i];
		if (loading.programs[i] >= 0)
			defs->segments[i].program = programs + loading.programs[i];
	}
	aud_compiler_note_segments(compiler, aud_definitions_order_segments(defs, work));

	defs->pending_segments = palloc((defs->nsegments + 1) * sizeof(int));
	for (int i = 0; i < defs->nsegments; i++)
	{
		if (defs->segments[i].pending != 0)
			defs->pending_segments[defs->npending_segments++] = i;
		defs->newest_pending = Max(defs->newest_pending, defs->segments[i].pending);
	}
}

/*
 * Loads the definitions into a memory context of their own, below the current
 * one.  A cycle of segments is an error (42P17).
 */
AudDefinitions *
aud_definitions_load(void)
{
	/* nothing in it is ever enlarged or freed, but what event types feed */
	MemoryContext mcxt = GenerationContextCreate(CurrentMemoryContext, "audience definitions",
												 0, 8 * (Size) 1024, 256 * (Size) 1024);
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "audience definitions loading",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	AudDefinitions *defs = palloc0(sizeof(AudDefinitions));

	aud_version_check();
	aud_definitions_init(defs);
	/* a parallel operation has but one snapshot */
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	load_version(defs);
	load_retention(defs);
	load_sinks(defs);
	load_aggregates(defs, work);
	load_traits(defs);
	load_segments(defs, work);
	PopActiveSnapshot();
	aud_definitions_index_aggregates(defs);
	aud_definitions_route(defs, work);
	defs->blockers = aud_blockers_create(defs, work);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
	return defs;
}
