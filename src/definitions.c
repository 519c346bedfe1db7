/*-------------------------------------------------------------------------
 *
 * definitions.c
 *	  Having the definitions in backend memory, and knowing when to load them
 *	  anew.
 *
 * A change of definitions sends a relcache invalidation for table
 * definition_version (trigger definitions_changed), whose arrival marks the
 * loaded set stale; the next one who asks loads it anew.  (Not for table
 * segments: every cached plan that reads it would be made anew, too.)  DDL on one
 * of the tables that definitions are read from does so as well: whoever loads
 * rows with triggers disabled has disabled and enabled them.
 *
 * Whoever has asked for a set may go on using it, though others are loaded
 * meanwhile, as long as the memory context that was current lives: the set is
 * pinned to it.  A transaction may change definitions thousands of times, so
 * sets that are stale cannot wait for its end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_index.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "definitions.h"
#include "nodes_hash.h"
#include "restoring.h"
#include "stats.h"

PG_FUNCTION_INFO_V1(aud_definitions_changed);
PG_FUNCTION_INFO_V1(aud_definitions_check);

/* event types that are remembered */
#define MAX_EVENT_TYPES		2000

static AudDefinitions *loaded = NULL;
static bool loaded_is_stale = false;
static bool loaded_in_parallel = false;	/* with an older snapshot, perhaps */

/* the tables that definitions are read from, and where they were found last */
static const char *const source_names[] = {
	"definition_version", "aggregates", "traits", "segments", "retention", "kafka_sinks"
};
static Oid	source_oids[lengthof(source_names)];

typedef struct TypeEntry
{
	char		type[256];
	AudEventType value;
} TypeEntry;

/* Relcache invalidation: of one of the tables of definitions, or of everything. */
static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid)
		loaded_is_stale = true;
	for (int i = 0; i < (int) lengthof(source_oids); i++)
		if (relid == source_oids[i])
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

/*
 * The primary key of one of the extension's tables, which is open: its oid.  An
 * error (55000) where it does not begin with the table's first "ncolumns"
 * columns, because somebody has dropped it or made another.
 */
Oid
aud_definitions_key(Relation rel, int ncolumns)
{
	HeapTuple	tuple;
	Form_pg_index index;
	bool		as_made;

	list_free(RelationGetIndexList(rel));
	if (!OidIsValid(rel->rd_pkindex))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel))));
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(rel->rd_pkindex));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", rel->rd_pkindex);
	index = (Form_pg_index) GETSTRUCT(tuple);
	as_made = index->indnkeyatts >= ncolumns;
	for (int i = 0; as_made && i < ncolumns; i++)
		as_made = index->indkey.values[i] == i + 1;
	ReleaseSysCache(tuple);
	if (!as_made)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has another primary key than it was made with", RelationGetRelationName(rel)),
				 errdetail("Rows are looked up by that one.")));
	return rel->rd_pkindex;
}

/* what keeps a set for whoever has asked for it */
typedef struct Pin
{
	MemoryContextCallback callback;
	AudDefinitions *defs;
} Pin;

/* Frees a set that is neither loaded nor pinned. */
static void
free_unless_used(AudDefinitions *defs)
{
	if (defs != loaded && defs->npins == 0)
		MemoryContextDelete(defs->mcxt);
}

/* The memory context that a set was pinned to goes. */
static void
unpin(void *arg)
{
	AudDefinitions *defs = ((Pin *) arg)->defs;

	defs->npins--;
	free_unless_used(defs);
}

/* Keeps a set as long as the current memory context. */
static void
pin(AudDefinitions *defs)
{
	Pin		   *result = palloc(sizeof(Pin));

	result->defs = defs;
	result->callback.func = unpin;
	result->callback.arg = result;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &result->callback);
	defs->npins++;
}

/* Loads the definitions, in place of those that are loaded. */
static void
load(void)
{
	static uint64 serial = 0;
	AudDefinitions *old = loaded;
	AudDefinitions *defs;

	/* an invalidation that arrives while loading must not be lost */
	for (int i = 0; i < (int) lengthof(source_names); i++)
		source_oids[i] = aud_definitions_table(source_names[i]);
	loaded_is_stale = false;
	loaded_in_parallel = IsInParallelMode();
	PG_TRY();
	{
		defs = aud_definitions_load();
	}
	PG_CATCH();
	{
		loaded_is_stale = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
	MemoryContextSetParent(defs->mcxt, CacheMemoryContext);
	defs->serial = ++serial;
	loaded = defs;
	aud_stats_count(AUD_COUNT_LOADS, 1);
	aud_stats_count(AUD_COUNT_LOADED_BYTES, MemoryContextMemAllocated(defs->mcxt, true));
	if (old != NULL)
		free_unless_used(old);
}

/*
 * The definitions in force.  The result stays valid until the current memory
 * context is reset; it is the set in force as long as the definitions lock is
 * held.
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
		load();
	pin(loaded);
	return loaded;
}

/* Has this transaction counted up the definitions' version? */
static bool
has_counted(Oid version_table)
{
	Relation	rel = table_open(version_table, AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, SnapshotSelf, 0, NULL);
	HeapTuple	tuple = heap_getnext(scan, ForwardScanDirection);
	bool		result = tuple != NULL &&
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data));

	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Trigger on the tables of definitions, after each statement: a new version,
 * one for the whole transaction, and word to all backends.
 */
Datum
aud_definitions_changed(PG_FUNCTION_ARGS)
{
	Oid			version_table = aud_definitions_table("definition_version");

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"definitions_changed\" was not called by a trigger")));
	if (!has_counted(version_table))
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		aud_stats_count(AUD_COUNT_SQL, 1);
		if (SPI_execute("UPDATE audience.definition_version SET version = version + 1", false, 0) != SPI_OK_UPDATE)
			elog(ERROR, "could not count up the definitions' version");
		SPI_finish();
	}
	CacheInvalidateRelcacheByRelid(version_table);
	if (TRIGGER_FIRED_BY_INSERT(((TriggerData *) fcinfo->context)->tg_event))
		aud_restoring_note();
	return PointerGetDatum(NULL);
}

/* definitions_check(): loads the definitions, and refuses (42P17) cycles of segments. */
Datum
aud_definitions_check(PG_FUNCTION_ARGS)
{
	(void) aud_definitions_get();
	PG_RETURN_VOID();
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

/* Makes the tables that a set is looked up by, in the current context; empty. */
void
aud_definitions_init(AudDefinitions *defs)
{
	HASHCTL		ctl = {
		.keysize = sizeof(((TypeEntry *) 0)->type),
		.entrysize = sizeof(TypeEntry),
		.hcxt = CurrentMemoryContext
	};

	defs->mcxt = CurrentMemoryContext;
	defs->aggregate_index = nodes_create(CurrentMemoryContext, 16, NULL);
	defs->naggregates = defs->max_aggregates = 0;
	defs->aggregates = NULL;
	defs->types = hash_create("audience event types", 64, &ctl,
							  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
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
	static const AudEventType none = {0};
	char		key[sizeof(((TypeEntry *) 0)->type)];
	TypeEntry  *entry;
	int		   *fed;
	int			nfed = 0;

	/* there are none as long, but who knows how the row got there */
	if (len >= (int) sizeof(key))
		return &none;
	memcpy(key, type, len);
	key[len] = '\0';
	entry = hash_search(defs->types, key, HASH_FIND, NULL);
	if (entry != NULL)
		return &entry->value;
	if (hash_get_num_entries(defs->types) >= MAX_EVENT_TYPES)
		forget_event_types(defs);
	for (int i = 0; i < defs->naggregates; i++)
		nfed += aud_aggregate_feeds(&defs->aggregates[i], type, len);
	/* only as many as there are, and before the entry: an error must leave none behind */
	fed = MemoryContextAlloc(defs->mcxt, Max(nfed, 1) * sizeof(int));
	entry = hash_search(defs->types, key, HASH_ENTER, NULL);
	entry->value.aggregates = fed;
	entry->value.naggregates = 0;
	for (int i = 0; i < defs->naggregates; i++)
		if (aud_aggregate_feeds(&defs->aggregates[i], type, len))
			fed[entry->value.naggregates++] = i;
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
						const AudInstruction **program)
{
	AudDefinitions *defs = palloc(sizeof(AudDefinitions));
	AudCompiler *compiler;

	*defs = *base;
	aud_definitions_init(defs);
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
	defs->blockers = NULL;
	defs->segments = palloc(Max(base->nsegments, 1) * sizeof(AudSegment));
	memcpy(defs->segments, base->segments, base->nsegments * sizeof(AudSegment));
	for (int i = 0; i < defs->nsegments; i++)
	{
		/* their programs speak of the base's leaves */
		defs->segments[i].nleaves = 0;
		defs->segments[i].program = NULL;
	}
	compiler = aud_compiler_begin(defs, CurrentMemoryContext);
	(void) aud_compiler_add_rule(compiler, rule, true, -1);
	*program = aud_compiler_finish(compiler);
	aud_definitions_route(defs, CurrentMemoryContext);
	return defs;
}
