/*-------------------------------------------------------------------------
 *
 * definitions.c
 *	  Loading the definitions into backend memory, and knowing when to.
 *
 * They are read with the latest snapshot, whatever the transaction's own:
 * under the definitions lock that is the one set that is in force.  A change
 * of definitions sends a relcache invalidation for table segments (trigger
 * definitions_changed), whose arrival marks the loaded set stale; the next
 * one who asks loads it anew.  A set that may still be in use further up the
 * stack stays until the transaction's end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "definitions.h"
#include "nodes_hash.h"
#include "stats.h"

PG_FUNCTION_INFO_V1(aud_definitions_changed);

/* event types that are remembered */
#define MAX_EVENT_TYPES		2000

static AudDefinitions *loaded = NULL;
static bool loaded_is_stale = false;
static bool loaded_in_parallel = false;	/* with an older snapshot, perhaps */
static Oid	segments_oid = InvalidOid;

typedef struct IdEntry
{
	char		id[NAMEDATALEN * 4];
	int			index;
} IdEntry;

typedef struct NumberEntry
{
	int32		number;
	int			index;
} NumberEntry;

typedef struct TypeEntry
{
	char		type[256];
	AudEventType value;
} TypeEntry;

/* Relcache invalidation: of table segments, or of everything. */
static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == segments_oid)
		loaded_is_stale = true;
}

/*
 * The oid of one of the extension's tables; an error (0A000) where the
 * extension is not installed.
 */
Oid
aud_definitions_table(const char *name)
{
	Oid			namespace = get_namespace_oid("audience", true);
	Oid			relid = OidIsValid(namespace) ? get_relname_relid(name, namespace) : InvalidOid;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("extension \"audience_manager\" is not installed in this database")));
	return relid;
}

/* Makes a hash table in the definitions' context. */
static HTAB *
make_hash(AudDefinitions *defs, const char *name, Size keysize, Size entrysize, int flags)
{
	HASHCTL		ctl = {.keysize = keysize, .entrysize = entrysize, .hcxt = defs->mcxt};

	return hash_create(name, 256, &ctl, HASH_ELEM | HASH_CONTEXT | flags);
}

/* A copy of a text column; NULL where it is null. */
static char *
column_text(HeapTuple tuple, TupleDesc tupdesc, int column)
{
	return SPI_getvalue(tuple, tupdesc, column);
}

/* A detoasted copy of a rule column in the current context; NULL where null. */
static const AudRule *
column_rule(HeapTuple tuple, TupleDesc tupdesc, int column)
{
	bool		isnull;
	Datum		datum = SPI_getbinval(tuple, tupdesc, column, &isnull);

	if (isnull)
		return NULL;
	return (AudRule *) PG_DETOAST_DATUM_COPY(datum);
}

/* Runs one of the loading queries; rows are in SPI_tuptable. */
static void
load(const char *query)
{
	aud_stats_count(AUD_COUNT_SQL, 1);
	if (SPI_execute(query, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read definitions: %s", query);
}

/* Reads table aggregates. */
static void
load_aggregates(AudDefinitions *defs)
{
	load("SELECT number, definition, coalesce(pending, 0) FROM audience.aggregates ORDER BY number");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;
		int32		number = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		int64		pending = DatumGetInt64(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 3, &isnull));
		MemoryContext old = MemoryContextSwitchTo(defs->mcxt);
		const AudRule *rule = column_rule(tuple, SPI_tuptable->tupdesc, 2);

		aud_definitions_add_aggregate(defs, number, pending, rule, AUD_RULE_ROOT(rule));
		MemoryContextSwitchTo(old);
	}
}

/* Reads table traits; their aggregates are there already. */
static void
load_traits(AudDefinitions *defs)
{
	load("SELECT name, aggregate_number FROM audience.traits ORDER BY name COLLATE \"C\"");
	defs->ntraits = 0;
	defs->traits = MemoryContextAlloc(defs->mcxt, (SPI_processed + 1) * sizeof(AudTrait));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;
		int32		number = DatumGetInt32(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 2, &isnull));
		AudTrait   *trait = &defs->traits[defs->ntraits];

		trait->name = MemoryContextStrdup(defs->mcxt,
										  column_text(tuple, SPI_tuptable->tupdesc, 1));
		trait->aggregate = aud_definitions_find_number(defs, number);
		if (trait->aggregate >= 0)
			defs->ntraits++;
	}
}

/* Enters every segment into the hash by id and by number. */
static void
index_segments(AudDefinitions *defs)
{
	bool		found;

	for (int i = 0; i < defs->nsegments; i++)
	{
		AudSegment *segment = &defs->segments[i];

		((IdEntry *) hash_search(defs->by_id, segment->id, HASH_ENTER, &found))->index = i;
		((NumberEntry *) hash_search(defs->by_number, &segment->number, HASH_ENTER, &found))->index = i;
	}
}

/* Reads table segments: orders them, and compiles their rules. */
static void
load_segments(AudDefinitions *defs)
{
	MemoryContext old;

	load("SELECT number, id, type = 'static', active, version, rules, status = 'building', "
		 "coalesce(pending, 0), coalesce(pending_reason, 'backfill') "
		 "FROM audience.segments ORDER BY number");
	old = MemoryContextSwitchTo(defs->mcxt);
	defs->nsegments = SPI_processed;
	defs->segments = palloc0((SPI_processed + 1) * sizeof(AudSegment));
	for (int i = 0; i < defs->nsegments; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		AudSegment *segment = &defs->segments[i];
		bool		isnull;

		segment->number = DatumGetInt32(SPI_getbinval(tuple, tupdesc, 1, &isnull));
		segment->id = pstrdup(column_text(tuple, tupdesc, 2));
		segment->is_static = DatumGetBool(SPI_getbinval(tuple, tupdesc, 3, &isnull));
		segment->is_member_source = DatumGetBool(SPI_getbinval(tuple, tupdesc, 4, &isnull));
		segment->version = DatumGetInt32(SPI_getbinval(tuple, tupdesc, 5, &isnull));
		segment->rule = segment->is_static ? NULL : column_rule(tuple, tupdesc, 6);
		segment->is_building = DatumGetBool(SPI_getbinval(tuple, tupdesc, 7, &isnull));
		segment->pending = DatumGetInt64(SPI_getbinval(tuple, tupdesc, 8, &isnull));
		segment->pending_reason = pstrdup(column_text(tuple, tupdesc, 9));
	}
	index_segments(defs);
	aud_definitions_sort_segments(defs);
	index_segments(defs);
	defs->pending_segments = palloc((defs->nsegments + 1) * sizeof(int));
	for (int i = 0; i < defs->nsegments; i++)
	{
		AudSegment *segment = &defs->segments[i];

		if (segment->pending != 0)
			defs->pending_segments[defs->npending_segments++] = i;
		defs->newest_pending = Max(defs->newest_pending, segment->pending);
		if (segment->rule != NULL)
			segment->program = aud_definitions_compile_rule(defs, segment->rule,
															segment->is_member_source ? i : -1);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Reads from when on events are taken.  Retention counts as a definition: who
 * has loaded them knows which events may be gone.
 */
static void
load_retention(AudDefinitions *defs)
{
	bool		isnull = true;
	Datum		from = (Datum) 0;

	load("SELECT complete_from FROM audience.retention WHERE kind = 'events'");
	if (SPI_processed > 0)
		from = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	defs->events_from = isnull ? DT_NOBEGIN : DatumGetTimestampTz(from);
}

/* Loads a new set; the caller has connected to nothing. */
static AudDefinitions *
load_all(void)
{
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext,
											   "audience definitions",
											   ALLOCSET_DEFAULT_SIZES);
	AudDefinitions *defs = MemoryContextAllocZero(mcxt, sizeof(AudDefinitions));
	bool		isnull;

	defs->mcxt = mcxt;
	defs->leaf_index = nodes_create(mcxt, 256, NULL);
	defs->aggregate_index = nodes_create(mcxt, 256, NULL);
	defs->by_id = make_hash(defs, "audience segments by id", sizeof(((IdEntry *) 0)->id),
							sizeof(IdEntry), HASH_STRINGS);
	defs->by_number = make_hash(defs, "audience segments by number", sizeof(int32),
								sizeof(NumberEntry), HASH_BLOBS);
	defs->types = make_hash(defs, "audience event types", sizeof(((TypeEntry *) 0)->type),
							sizeof(TypeEntry), HASH_STRINGS);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	/* a parallel operation has but one snapshot */
	PushActiveSnapshot(IsInParallelMode() ? GetActiveSnapshot() : GetLatestSnapshot());
	load("SELECT version FROM audience.definition_version");
	if (SPI_processed != 1)
		elog(ERROR, "table audience.definition_version must hold one row");
	defs->version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
												SPI_tuptable->tupdesc, 1, &isnull));
	load_retention(defs);
	load_aggregates(defs);
	load_traits(defs);
	load_segments(defs);
	PopActiveSnapshot();
	SPI_finish();

	{
		MemoryContext old = MemoryContextSwitchTo(mcxt);

		aud_definitions_index_aggregates(defs);
		aud_definitions_route(defs);
		MemoryContextSwitchTo(old);
	}
	return defs;
}

/*
 * The definitions in force.  The result stays valid until the transaction's
 * end; it is the set in force as long as the definitions lock is held.
 */
const AudDefinitions *
aud_definitions_get(void)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
		registered = true;
	}
	if (loaded == NULL || loaded_is_stale ||
		(loaded_in_parallel && !IsInParallelMode()))
	{
		AudDefinitions *defs;

		/* an invalidation that arrives while loading must not be lost */
		segments_oid = aud_definitions_table("segments");
		loaded_is_stale = false;
		loaded_in_parallel = IsInParallelMode();
		PG_TRY();
		{
			defs = load_all();
		}
		PG_CATCH();
		{
			loaded_is_stale = true;
			PG_RE_THROW();
		}
		PG_END_TRY();
		if (loaded != NULL)
			MemoryContextSetParent(loaded->mcxt, TopTransactionContext);
		MemoryContextSetParent(defs->mcxt, CacheMemoryContext);
		loaded = defs;
		aud_stats_count(AUD_COUNT_LOADS, 1);
		aud_stats_count(AUD_COUNT_LOADED_BYTES, MemoryContextMemAllocated(defs->mcxt, true));
	}
	return loaded;
}

/*
 * Trigger on the tables of definitions, after each statement: a new version,
 * and word to all backends.
 */
Datum
aud_definitions_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"definitions_changed\" was not called by a trigger")));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	aud_stats_count(AUD_COUNT_SQL, 1);
	if (SPI_execute("UPDATE audience.definition_version SET version = version + 1", false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not count up the definitions' version");
	SPI_finish();
	CacheInvalidateRelcacheByRelid(aud_definitions_table("segments"));
	return PointerGetDatum(NULL);
}

/* The index of the stored aggregate with this number, -1: none. */
int
aud_definitions_find_number(const AudDefinitions *defs, int32 number)
{
	int			low = 0,
				high = defs->naggregates;

	while (high > 0 && defs->aggregates[high - 1].number == 0)
		high--;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (defs->aggregates[middle].number == number)
			return middle;
		if (defs->aggregates[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return -1;
}

/* The index of the segment with this id, -1: none. */
int
aud_definitions_find_segment(const AudDefinitions *defs, const char *id)
{
	IdEntry    *entry;

	if (strlen(id) >= sizeof(entry->id))
		return -1;
	entry = hash_search(defs->by_id, id, HASH_FIND, NULL);
	return entry != NULL ? entry->index : -1;
}

/* The index of the segment with this number, -1: none. */
int
aud_definitions_find_segment_number(const AudDefinitions *defs, int32 number)
{
	NumberEntry *entry = hash_search(defs->by_number, &number, HASH_FIND, NULL);

	return entry != NULL ? entry->index : -1;
}

/* The index of the trait with this name, -1: none. */
int
aud_definitions_find_trait(const AudDefinitions *defs, const char *name, int len)
{
	int			low = 0,
				high = defs->ntraits;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			order = strncmp(defs->traits[middle].name, name, len);

		if (order == 0 && defs->traits[middle].name[len] != '\0')
			order = 1;
		if (order == 0)
			return middle;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return -1;
}

/* Forgets what event types feed: there were too many of them to be types. */
static void
forget_event_types(const AudDefinitions *defs)
{
	HASH_SEQ_STATUS status;
	TypeEntry  *entry;

	hash_seq_init(&status, defs->types);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		pfree(entry->value.aggregates);
		hash_search(defs->types, entry->type, HASH_REMOVE, NULL);
	}
}

/*
 * Which aggregates an event of this type (1 to 255 bytes) may concern.  Looked
 * up among the aggregates at the type's first sight, then remembered.
 */
const AudEventType *
aud_definitions_event_type(const AudDefinitions *defs, const char *type, int len)
{
	char		key[sizeof(((TypeEntry *) 0)->type)];
	TypeEntry  *entry;
	bool		found;

	memcpy(key, type, len);
	key[len] = '\0';
	if (hash_get_num_entries(defs->types) >= MAX_EVENT_TYPES)
		forget_event_types(defs);
	entry = hash_search(defs->types, key, HASH_ENTER, &found);
	if (!found)
	{
		entry->value.naggregates = 0;
		entry->value.aggregates = MemoryContextAlloc(defs->mcxt,
													 Max(defs->naggregates, 1) * sizeof(int));
		for (int i = 0; i < defs->naggregates; i++)
			if (aud_aggregate_feeds(&defs->aggregates[i], type, len))
				entry->value.aggregates[entry->value.naggregates++] = i;
	}
	return &entry->value;
}

/*
 * A set with one more rule, for evaluating what no segment holds: the traits
 * and segments of "base", its aggregates and those that the rule asks for
 * besides (number 0: no state is stored), and the rule's leaves alone.
 * Allocated in the current context; base and rule must outlive it.
 */
AudDefinitions *
aud_definitions_overlay(const AudDefinitions *base, const AudRule *rule,
						AudInstruction **program)
{
	AudDefinitions *defs = palloc(sizeof(AudDefinitions));

	*defs = *base;
	defs->mcxt = CurrentMemoryContext;
	defs->aggregate_index = nodes_create(CurrentMemoryContext, 16, NULL);
	defs->naggregates = defs->max_aggregates = 0;
	defs->aggregates = NULL;
	for (int i = 0; i < base->naggregates; i++)
		aud_definitions_add_aggregate(defs, base->aggregates[i].number,
									  base->aggregates[i].pending,
									  base->aggregates[i].rule,
									  base->aggregates[i].node);
	for (uint32 i = 0; i < rule->nnodes; i++)
	{
		const AudNode *node = &rule->nodes[i];

		if (node->kind == AUD_NODE_EVENT || node->kind == AUD_NODE_SEQUENCE)
		{
			if (aud_definitions_find_aggregate(defs, rule, node) < 0)
				aud_definitions_add_aggregate(defs, 0, 0, rule, node);
			i += node->nnodes - 1;
		}
	}
	aud_definitions_index_aggregates(defs);
	defs->leaf_index = nodes_create(CurrentMemoryContext, 16, NULL);
	defs->nleaves = defs->max_leaves = 0;
	defs->leaves = NULL;
	defs->segments = palloc(Max(base->nsegments, 1) * sizeof(AudSegment));
	memcpy(defs->segments, base->segments, base->nsegments * sizeof(AudSegment));
	for (int i = 0; i < defs->nsegments; i++)
	{
		/* their programs speak of the base's leaves */
		defs->segments[i].nleaves = 0;
		defs->segments[i].program = NULL;
	}
	defs->types = make_hash(defs, "audience event types",
							sizeof(((TypeEntry *) 0)->type),
							sizeof(TypeEntry), HASH_STRINGS);
	*program = aud_definitions_compile_rule(defs, rule, -1);
	aud_definitions_route(defs);
	return defs;
}
