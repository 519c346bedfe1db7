/*-------------------------------------------------------------------------
 *
 * user_table.c
 *	  A table with a row for each user, read and written without statements.
 *
 * Ingestion reads and writes one profile for each user of a statement.  What
 * INSERT ... ON CONFLICT DO UPDATE does for that is, for each of them: descend
 * the index, prune the page, lock the row (with a WAL record of its own),
 * compute, update.  Here it is: fetch, compute, update.
 *
 *	  - Where a row was seen last is remembered (a place, checked when it is
 *		used), so most look-ups need no index, and no walk along versions that an
 *		old snapshot keeps.
 *	  - The row is not locked first.  The update itself says whether
 *		somebody has changed it since it was read; only then the caller does its
 *		work again, with the row locked.  Whoever changes a user updates its row,
 *		so no change can go unnoticed.
 *	  - A page is pruned when the new version does not fit, not each time it is
 *		visited.
 *
 * What the executor does for a table besides is done here, too: constraints,
 * generated columns and triggers for each row (but not those for each
 * statement), where there are any: such a table is "not plain", and its rows
 * are locked first.
 *
 * After src/backend/executor/execReplication.c (applying changes to a table)
 * and nodeModifyTable.c (speculative insertion).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/skey.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "miscadmin.h"
#include "rewrite/rewriteHandler.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "definitions.h"
#include "store.h"
#include "stats.h"
#include "user_table.h"
#include "version.h"

/* where a user's row was seen last */
typedef struct Place
{
	uint32		hash;			/* of the user's id */
	ItemPointerData tid;		/* invalid: nothing is known */
} Place;

/*
 * The places of a table's rows, for the life of the session: as many as it has
 * come to need, but MAX_PLACES at most.  A user's is one of two, the newer first;
 * when a third comes the older is forgotten.
 */
typedef struct Places
{
	Oid			filenode;		/* of the table's file, which is another after a rewrite */
	uint32		nplaces;		/* a power of two; 0: none yet */
	uint32		nstored;		/* since there are so many, ... */
	uint32		nused;			/* ... and how many of them hold one */
	Place	   *places;
} Places;

#define MIN_PLACES	1024
#define MAX_PLACES	262144

/* how many rows are inserted at once, as COPY does */
#define MOST_APPENDED	1000

static Places all_places[AUD_NUSER_TABLES];

struct AudUserTable
{
	MemoryContext mcxt;			/* of the table as it is open */
	Relation	rel;
	bool		plain;			/* nothing but rows and indexes */
	BlockNumber nblocks;		/* there are at least so many; invalid: not asked yet */
	Places	   *places;
	CommandId	cid;
	Snapshot	snapshot;		/* of look-ups, registered */
	Relation	index;			/* the primary key, */
	IndexScanDesc scan;			/* opened when first needed */
	EState	   *estate;			/* for writing, */
	ResultRelInfo *result;		/* made when first needed */
	bool		may_update;		/* publications of the table have been asked, */
	bool		may_delete;		/* which may refuse these, but never an insert */
	List	   *arbiters;		/* its indexes that tell whether a user has a row; likewise */
	int			ncolumns;		/* that the engine knows: the first */
	ExprState **defaults;		/* of those that somebody has added, NULL: none; by column */
	TupleTableSlot *found;		/* the row that aud_user_table_find has found */
	uint32		hash;			/* of its user's id */
	Datum	   *values;			/* the columns, as the caller changes them */
	bool	   *nulls;
	TupleTableSlot *written;
	int			nappended;		/* rows that wait to be inserted */
	TupleTableSlot **appended;	/* MOST_APPENDED, made as they are needed */
	pg_attribute_aligned(8) char user_id[VARHDRSZ + 256];	/* a text, of at most 255 bytes */
};

/* Gives look-ups a snapshot of this instant. */
static void
refresh_snapshot(AudUserTable *table)
{
	table->snapshot = aud_store_renew_snapshot(table->snapshot);
	if (table->scan != NULL)
		table->scan->xs_snapshot = table->snapshot;
	if (table->estate != NULL)
		table->estate->es_snapshot = table->snapshot;
}

/* Has the table triggers for each row? */
static bool
has_row_triggers(Relation rel)
{
	const TriggerDesc *triggers = rel->trigdesc;

	return triggers != NULL &&
		(triggers->trig_insert_before_row || triggers->trig_insert_after_row ||
		 triggers->trig_update_before_row || triggers->trig_update_after_row ||
		 triggers->trig_delete_before_row || triggers->trig_delete_after_row);
}

/*
 * Is there nothing about the table that only the executor knows how to do?  A
 * column that somebody has added may not allow null.
 */
static bool
is_plain(Relation rel, int ncolumns)
{
	const TupleConstr *constr = RelationGetDescr(rel)->constr;

	return rel->rd_rel->relkind == RELKIND_RELATION && !has_row_triggers(rel) &&
		!rel->rd_rel->relispartition && RelationGetNumberOfAttributes(rel) == ncolumns &&
		(constr == NULL || (constr->num_check == 0 && !constr->has_generated_stored));
}

/*
 * Opens a table for the session's user to read and write, until
 * aud_user_table_close; locks it against changes of its definition.  The result
 * is a context of its own below the current one.
 */
AudUserTable *
aud_user_table_open(AudUserTableName name)
{
	static const struct
	{
		const char *name;
		int			ncolumns;
	}			tables[AUD_NUSER_TABLES] = {
		[AUD_PROFILES] = {"profiles", AUD_PROFILE_ATTRIBUTES},
		[AUD_TIMERS] = {"timers", AUD_TIMER_DUE_AT},
		[AUD_TRANSITION_LOG] = {"transition_log", AUD_LOG_ENTRIES},
		[AUD_KAFKA_OUTBOX] = {"kafka_outbox", AUD_OUTBOX_MESSAGE},
	};
	MemoryContext mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience user table",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);
	AudUserTable *table = palloc0(sizeof(AudUserTable));

	/* so that what this transaction has done before is seen */
	CommandCounterIncrement();
	table->mcxt = mcxt;
	table->rel = table_open(aud_definitions_table(tables[name].name), RowExclusiveLock);
	table->ncolumns = tables[name].ncolumns;
	if (RelationGetNumberOfAttributes(table->rel) < table->ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" lacks columns", RelationGetRelationName(table->rel)),
				 AUD_HINT_UPDATE));
	table->plain = is_plain(table->rel, table->ncolumns);
	table->nblocks = InvalidBlockNumber;
	table->cid = GetCurrentCommandId(true);
	table->places = &all_places[name];
	if (table->places->filenode != aud_compat_file_of(table->rel))
	{
		/* the table has been rewritten, or the extension made anew */
		for (uint32 i = 0; i < table->places->nplaces; i++)
			ItemPointerSetInvalid(&table->places->places[i].tid);
		table->places->nused = 0;
		table->places->filenode = aud_compat_file_of(table->rel);
	}
	refresh_snapshot(table);
	table->found = table_slot_create(table->rel, NULL);
	table->values = palloc(RelationGetNumberOfAttributes(table->rel) * sizeof(Datum));
	table->nulls = palloc(RelationGetNumberOfAttributes(table->rel) * sizeof(bool));
	table->written = MakeSingleTupleTableSlot(RelationGetDescr(table->rel), &TTSOpsHeapTuple);
	MemoryContextSwitchTo(old);
	return table;
}

/* The first of the two places where that of the user with this hash may be. */
static inline Place *
places_of(const Places *places, uint32 hash)
{
	return &places->places[hash & (places->nplaces - 1) & ~1];
}

/* Remembers a place. */
static void
store_place(Places *places, Place place)
{
	Place	   *two = places_of(places, place.hash);

	if (two[0].hash != place.hash)
	{
		if (two[1].hash != place.hash)
		{
			places->nstored++;
			places->nused += !ItemPointerIsValid(&two[1].tid);
		}
		two[1] = two[0];
	}
	two[0] = place;
}

/* Makes room for more places; those that are known are kept. */
static void
grow_places(Places *places)
{
	uint32		nold = places->nplaces;
	uint32		n = Max(MIN_PLACES, nold * 4);
	Place	   *old = places->places;

	places->places = MemoryContextAllocZero(TopMemoryContext, n * sizeof(Place));
	places->nplaces = n;
	places->nstored = places->nused = 0;
	/* the older of two first */
	for (uint32 i = nold; i-- > 0;)
		if (ItemPointerIsValid(&old[i].tid))
			store_place(places, old[i]);
	if (old != NULL)
		pfree(old);
}

/* Remembers where the row of the user last looked for is. */
static void
remember_place(AudUserTable *table, ItemPointer tid)
{
	Places	   *places = table->places;
	Place		place = {.hash = table->hash, .tid = *tid};

	/* users that share their two places do not ask for ever more of them */
	if (places->nstored >= places->nplaces / 2 && places->nplaces < MAX_PLACES &&
		places->nused >= places->nplaces / 8)
		grow_places(places);
	store_place(places, place);
}

/* Is the row found the one of the user whose id is in table->user_id? */
static bool
found_is_user(AudUserTable *table)
{
	bool		isnull;
	text	   *id = DatumGetTextPP(slot_getattr(table->found, 1, &isnull));

	return VARSIZE_ANY_EXHDR(id) == VARSIZE(table->user_id) - VARHDRSZ &&
		memcmp(VARDATA_ANY(id), VARDATA(table->user_id), VARSIZE_ANY_EXHDR(id)) == 0;
}

/* Looks where the user's row was seen last.  What is visible there and bears its id is it. */
static bool
find_at_place(AudUserTable *table)
{
	Place	   *two;

	if (table->places->nplaces == 0)
		return false;
	if (table->nblocks == InvalidBlockNumber)
		table->nblocks = RelationGetNumberOfBlocks(table->rel);
	two = places_of(table->places, table->hash);
	for (int i = 0; i < 2; i++)
	{
		if (two[i].hash != table->hash || !ItemPointerIsValid(&two[i].tid) ||
			ItemPointerGetBlockNumber(&two[i].tid) >= table->nblocks ||
			!table_tuple_fetch_row_version(table->rel, &two[i].tid, table->snapshot, table->found))
			continue;
		if (found_is_user(table))
			return true;
		ExecClearTuple(table->found);
	}
	return false;
}

/*
 * The row that the index scan is at, as index_getnext_slot, but in a heap, and
 * without pruning the page: that is done when room is needed (make_room).
 */
static bool
next_unpruned(AudUserTable *table)
{
	ItemPointer tid;

	while ((tid = index_getnext_tid(table->scan, ForwardScanDirection)) != NULL)
	{
		Buffer		buffer = ReadBuffer(table->rel, ItemPointerGetBlockNumber(tid));
		HeapTuple	tuple = &((BufferHeapTupleTableSlot *) table->found)->base.tupdata;
		bool		all_dead;
		bool		found;

		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		found = heap_hot_search_buffer(tid, table->rel, buffer, table->snapshot, tuple,
									   &all_dead, true);
		LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
		if (found)
		{
			tuple->t_tableOid = RelationGetRelid(table->rel);
			ExecStorePinnedBufferHeapTuple(tuple, table->found, buffer);
			return true;
		}
		ReleaseBuffer(buffer);
		if (!table->scan->xactStartedInRecovery)
			table->scan->kill_prior_tuple = all_dead;
	}
	return false;
}

/* Looks the user's row up in the primary key. */
static bool
find_by_index(AudUserTable *table)
{
	ScanKeyData key;

	if (table->scan == NULL)
	{
		table->index = index_open(aud_definitions_key(table->rel, 1), RowExclusiveLock);
		table->scan = aud_compat_index_beginscan(table->rel, table->index, table->snapshot, 1);
	}
	ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, TEXTOID, C_COLLATION_OID,
						   F_TEXTEQ, PointerGetDatum(table->user_id));
	index_rescan(table->scan, &key, 1, NULL, 0);
	aud_stats_count(AUD_COUNT_INDEX_LOOKUPS, 1);
	if (table->rel->rd_tableam == GetHeapamTableAmRoutine())
		return next_unpruned(table);
	return index_getnext_slot(table->scan, ForwardScanDirection, table->found);
}

/* Refuses to write what a trigger on the table has written meanwhile. */
pg_noreturn static void
refuse_result(AudUserTable *table, TM_Result result)
{
	if (result == TM_SelfModified || result == TM_Invisible)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
				 errmsg("row of table \"%s\" was already modified by an operation triggered by the current command",
						RelationGetRelationName(table->rel))));
	elog(ERROR, "unexpected result %d for a row of table \"%s\"", result,
		 RelationGetRelationName(table->rel));
}

/* Refuses to go on under a snapshot for the whole transaction that is too old. */
static void
refuse_if_snapshot_is_fixed(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent update"),
				 errhint("The transaction might succeed if retried.")));
}

/* Locks the row found, and makes it its newest version.  False: it is gone. */
static bool
lock_found(AudUserTable *table)
{
	TM_FailureData failure;
	ItemPointerData tid = table->found->tts_tid;
	TM_Result	result = table_tuple_lock(table->rel, &tid, table->snapshot, table->found,
										  table->cid, LockTupleNoKeyExclusive, LockWaitBlock,
										  IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
										  &failure);

	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			refuse_if_snapshot_is_fixed();
			return false;
		default:
			refuse_result(table, result);
	}
}

/* Sets whose row is looked for. */
static void
set_user(AudUserTable *table, const char *id, int len)
{
	aud_store_check_user_id(len);
	SET_VARSIZE(table->user_id, VARHDRSZ + len);
	memcpy(VARDATA(table->user_id), id, len);
	table->hash = hash_bytes((const unsigned char *) id, len);
}

/*
 * Finds the row of a user; false: there is none.  With lock, and in a table that
 * is not plain, it is the newest version, locked until the transaction ends;
 * else it is the one that the table's snapshot sees, and aud_user_table_update
 * says whether there is a newer one.  Valid until the next call of a function
 * of this table.
 */
bool
aud_user_table_find(AudUserTable *table, const char *id, int len, bool lock)
{
	MemoryContext old = MemoryContextSwitchTo(table->mcxt);
	bool		found;

	aud_stats_count(AUD_COUNT_LOOKUPS, 1);
	set_user(table, id, len);
	lock |= !table->plain;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		ExecClearTuple(table->found);
		if (lock)
			refresh_snapshot(table);
		found = find_at_place(table) || find_by_index(table);
		if (!found || !lock || lock_found(table))
			break;
	}
	if (found)
		remember_place(table, &table->found->tts_tid);
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Finds the row of a user that this transaction has locked, at the place where it
 * was then; false: it is not there.
 */
bool
aud_user_table_find_at(AudUserTable *table, const char *id, int len, ItemPointer place)
{
	MemoryContext old = MemoryContextSwitchTo(table->mcxt);
	bool		found;

	aud_stats_count(AUD_COUNT_LOOKUPS, 1);
	set_user(table, id, len);
	ExecClearTuple(table->found);
	found = table_tuple_fetch_row_version(table->rel, place, table->snapshot, table->found) &&
		found_is_user(table);
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * The columns of the row found, for the caller to change before it is written;
 * if none was found they are all null.  What they point to may be in the
 * row found.
 */
void
aud_user_table_columns(AudUserTable *table, Datum **values, bool **nulls)
{
	int			n = RelationGetNumberOfAttributes(table->rel);

	if (TTS_EMPTY(table->found))
		memset(table->nulls, true, n * sizeof(bool));
	else
	{
		slot_getallattrs(table->found);
		memcpy(table->values, table->found->tts_values, n * sizeof(Datum));
		memcpy(table->nulls, table->found->tts_isnull, n * sizeof(bool));
	}
	*values = table->values;
	*nulls = table->nulls;
}

/* Prepares the defaults of columns that somebody has added. */
static void
prepare_defaults(AudUserTable *table)
{
	TupleDesc	tupdesc = RelationGetDescr(table->rel);

	table->defaults = palloc0(tupdesc->natts * sizeof(ExprState *));
	for (int i = table->ncolumns; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		Expr	   *value;

		if (attribute->attisdropped || attribute->attgenerated)
			continue;
		value = (Expr *) build_column_default(table->rel, i + 1);
		if (value != NULL)
			table->defaults[i] = ExecPrepareExpr(value, table->estate);
	}
}

/* Sets those columns of a new row to their defaults. */
static void
set_defaults(AudUserTable *table)
{
	for (int i = table->ncolumns; i < RelationGetNumberOfAttributes(table->rel); i++)
		if (table->defaults[i] != NULL)
			table->values[i] = ExecEvalExprSwitchContext(table->defaults[i],
														 GetPerTupleExprContext(table->estate),
														 &table->nulls[i]);
}

/* Makes what writing needs. */
static void
begin_writing(AudUserTable *table)
{
	MemoryContext old;
	Bitmapset  *columns;

	if (table->estate != NULL)
		return;
	old = MemoryContextSwitchTo(table->mcxt);
	table->estate = CreateExecutorState();
	/* all columns but the id are updated */
	columns = bms_add_range(NULL, 2 - FirstLowInvalidHeapAttributeNumber,
							RelationGetNumberOfAttributes(table->rel) - FirstLowInvalidHeapAttributeNumber);
	aud_compat_init_range_table(table->estate, table->rel, RowExclusiveLock, columns);
	table->estate->es_output_cid = table->cid;
	table->estate->es_snapshot = table->snapshot;
	table->result = makeNode(ResultRelInfo);
	InitResultRelInfo(table->result, table->rel, 1, NULL, 0);
	ExecOpenIndices(table->result, true);
	if (!table->plain)
	{
		table->estate->es_opened_result_relations = list_make1(table->result);
		AfterTriggerBeginQuery();
		prepare_defaults(table);
	}
	MemoryContextSwitchTo(old);
}

/*
 * Refuses an update or delete that a publication of the table could not tell,
 * as the executor does; once for the table as it is open.
 */
static void
check_publications(AudUserTable *table, CmdType command, bool *may)
{
	if (*may)
		return;
	CheckCmdReplicaIdentity(table->rel, command);
	*may = true;
}

/*
 * Prunes the page of the row found, if a new version of so many bytes does not
 * fit there otherwise.  The row found is let go of.
 */
static void
make_room(AudUserTable *table, Size len)
{
	Buffer		buffer;

	if (table->rel->rd_tableam != GetHeapamTableAmRoutine() ||
		!TTS_IS_BUFFERTUPLE(table->found))
		return;
	buffer = ((BufferHeapTupleTableSlot *) table->found)->buffer;
	/* without a lock this is a guess, as where PostgreSQL itself prunes */
	if (!BufferIsValid(buffer) ||
		PageGetHeapFreeSpace(BufferGetPage(buffer)) >= MAXALIGN(len))
		return;
	IncrBufferRefCount(buffer);
	ExecClearTuple(table->found);
	heap_page_prune_opt(table->rel, buffer);
	ReleaseBuffer(buffer);
}

/*
 * Enters a row into the indexes, after an update into those that have to hear of
 * it; *conflict as ExecInsertIndexTuples sets it.
 */
static List *
insert_index_entries(AudUserTable *table, TupleTableSlot *slot, bool update, AudIndexNews news,
					 bool *conflict, List *arbiters)
{
	List	   *recheck = aud_compat_insert_index_tuples(table->result, slot, table->estate, update,
														 news, conflict, arbiters);

	ResetPerTupleExprContext(table->estate);
	return recheck;
}

/* Makes a row of the columns, in a slot. */
static HeapTuple
form_row(AudUserTable *table, TupleTableSlot *slot)
{
	HeapTuple	tuple = heap_form_tuple(RelationGetDescr(table->rel), table->values, table->nulls);

	tuple->t_tableOid = RelationGetRelid(table->rel);
	ExecStoreHeapTuple(tuple, slot, true);
	return tuple;
}

/* Updates a row that is locked, with all that the executor does by the way. */
static void
update_by_executor(AudUserTable *table)
{
	EPQState	epq;

	aud_compat_init_recheck(&epq, table->estate);
	ExecSimpleRelationUpdate(table->result, table->estate, &epq, table->found, table->written);
	EvalPlanQualEnd(&epq);
	ResetPerTupleExprContext(table->estate);
}

/*
 * Writes the row found as its columns have become; the user's id stays.  False:
 * somebody else has changed it since it was found, which cannot be if it was
 * locked; nothing is written.
 */
bool
aud_user_table_update(AudUserTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(table->mcxt);
	ItemPointerData tid = table->found->tts_tid;
	HeapTuple	tuple;
	AudIndexNews news;
	TM_Result	result = TM_Ok;

	begin_writing(table);
	tuple = form_row(table, table->written);
	if (!table->plain)
		update_by_executor(table);
	else
	{
		check_publications(table, CMD_UPDATE, &table->may_update);
		make_room(table, tuple->t_len);
		result = aud_compat_tuple_update(table->rel, &tid, table->written, table->cid,
										 table->snapshot, &news);
		if (result == TM_Ok && news != AUD_NO_INDEX)
			list_free(insert_index_entries(table, table->written, true, news, NULL, NIL));
	}
	if (result == TM_Ok)
		remember_place(table, &table->written->tts_tid);
	else if (result == TM_Updated || result == TM_Deleted)
		refuse_if_snapshot_is_fixed();
	else
		refuse_result(table, result);
	ExecClearTuple(table->found);
	ExecClearTuple(table->written);
	MemoryContextSwitchTo(old);
	return result == TM_Ok;
}

/* Deletes the row found, which must be locked, or one that nobody else may delete. */
void
aud_user_table_delete(AudUserTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(table->mcxt);
	EPQState	epq;

	begin_writing(table);
	if (table->plain)
	{
		check_publications(table, CMD_DELETE, &table->may_delete);
		simple_table_tuple_delete(table->rel, &table->found->tts_tid, table->snapshot);
	}
	else
	{
		aud_compat_init_recheck(&epq, table->estate);
		ExecSimpleRelationDelete(table->result, table->estate, &epq, table->found);
		EvalPlanQualEnd(&epq);
		ResetPerTupleExprContext(table->estate);
	}
	ExecClearTuple(table->found);
	MemoryContextSwitchTo(old);
}

/*
 * The indexes, among those that have been opened for writing, that tell whether
 * somebody else has made a row for the same user: the primary key, and the one
 * that REINDEX CONCURRENTLY is making in its place, or has left there.
 */
static List *
find_arbiters(AudUserTable *table)
{
	if (table->arbiters != NIL)
		return table->arbiters;
	for (int i = 0; i < table->result->ri_NumIndices; i++)
	{
		Relation	index = table->result->ri_IndexRelationDescs[i];

		if (index->rd_index->indisunique && index->rd_index->indimmediate &&
			index->rd_index->indnkeyatts == 1 && index->rd_index->indkey.values[0] == 1 &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
			table->arbiters = lappend_oid(table->arbiters, RelationGetRelid(index));
	}
	return table->arbiters;
}

/*
 * Inserts the columns as the row of the user last looked for, who has none.
 * False: somebody else has made one meanwhile (and has been waited for).
 */
bool
aud_user_table_insert(AudUserTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(table->mcxt);
	ItemPointerData other;
	bool		inserted = false;

	begin_writing(table);
	if (!table->plain)
		set_defaults(table);
	(void) form_row(table, table->written);
	if (!table->plain)
	{
		if (table->result->ri_TrigDesc && table->result->ri_TrigDesc->trig_insert_before_row &&
			!ExecBRInsertTriggers(table->estate, table->result, table->written))
		{
			/* a trigger does not want it: no news */
			MemoryContextSwitchTo(old);
			return true;
		}
		if (RelationGetDescr(table->rel)->constr &&
			RelationGetDescr(table->rel)->constr->has_generated_stored)
			ExecComputeStoredGenerated(table->result, table->estate, table->written, CMD_INSERT);
		ExecConstraints(table->result, table->written, table->estate);
		if (table->rel->rd_rel->relispartition)
			ExecPartitionCheck(table->result, table->written, table->estate, true);
	}
	while (!inserted)
	{
		uint32		token;
		List	   *recheck;
		bool		conflict = false;

		CHECK_FOR_INTERRUPTS();
		if (!aud_compat_no_conflict(table->result, table->written, table->estate,
									&other, find_arbiters(table)))
		{
			refuse_if_snapshot_is_fixed();
			break;
		}
		token = SpeculativeInsertionLockAcquire(GetCurrentTransactionId());
		table_tuple_insert_speculative(table->rel, table->written, table->cid, 0, NULL, token);
		recheck = insert_index_entries(table, table->written, false, AUD_ALL_INDEXES, &conflict, find_arbiters(table));
		table_tuple_complete_speculative(table->rel, table->written, token, !conflict);
		SpeculativeInsertionLockRelease(GetCurrentTransactionId());
		inserted = !conflict;
		if (inserted && !table->plain)
			ExecARInsertTriggers(table->estate, table->result, table->written, recheck, NULL);
		list_free(recheck);
	}
	if (inserted)
		remember_place(table, &table->written->tts_tid);
	ExecClearTuple(table->written);
	MemoryContextSwitchTo(old);
	return inserted;
}

/* Inserts the rows that have been appended. */
static void
insert_appended(AudUserTable *table)
{
	MemoryContext mcxt = AllocSetContextCreate(table->mcxt, "audience appended rows",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(mcxt);

	table_multi_insert(table->rel, table->appended, table->nappended, table->cid, 0, NULL);
	for (int i = 0; i < table->nappended; i++)
	{
		list_free(insert_index_entries(table, table->appended[i], false, AUD_ALL_INDEXES, NULL, NIL));
		ExecClearTuple(table->appended[i]);
	}
	table->nappended = 0;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(mcxt);
}

/*
 * Inserts the columns as a row that cannot conflict with any other; not before
 * the table is closed, maybe, or others have been appended, too.
 */
void
aud_user_table_append(AudUserTable *table)
{
	MemoryContext old = MemoryContextSwitchTo(table->mcxt);

	begin_writing(table);
	if (!table->plain)
	{
		set_defaults(table);
		(void) form_row(table, table->written);
		ExecSimpleRelationInsert(table->result, table->estate, table->written);
		ResetPerTupleExprContext(table->estate);
		ExecClearTuple(table->written);
	}
	else
	{
		if (table->appended == NULL)
			table->appended = palloc0(MOST_APPENDED * sizeof(TupleTableSlot *));
		if (table->appended[table->nappended] == NULL)
			table->appended[table->nappended] =
				MakeSingleTupleTableSlot(RelationGetDescr(table->rel), &TTSOpsHeapTuple);
		(void) form_row(table, table->appended[table->nappended++]);
		if (table->nappended == MOST_APPENDED)
			insert_appended(table);
	}
	MemoryContextSwitchTo(old);
}

/* Ends reading and writing; the lock on the table stays until the transaction ends. */
void
aud_user_table_close(AudUserTable *table)
{
	if (table->nappended > 0)
		insert_appended(table);
	for (int i = 0; table->appended && i < MOST_APPENDED && table->appended[i]; i++)
		ExecDropSingleTupleTableSlot(table->appended[i]);
	if (table->estate != NULL)
	{
		if (!table->plain)
		{
			PushActiveSnapshot(table->snapshot);
			AfterTriggerEndQuery(table->estate);
			PopActiveSnapshot();
			ExecResetTupleTable(table->estate->es_tupleTable, false);
		}
		ExecCloseIndices(table->result);
		FreeExecutorState(table->estate);
	}
	ExecDropSingleTupleTableSlot(table->found);
	ExecDropSingleTupleTableSlot(table->written);
	if (table->scan != NULL)
	{
		index_endscan(table->scan);
		index_close(table->index, NoLock);
	}
	UnregisterSnapshot(table->snapshot);
	table_close(table->rel, NoLock);
	MemoryContextDelete(table->mcxt);
	/* what was written is there for what comes next */
	CommandCounterIncrement();
}
