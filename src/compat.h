/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the versions of PostgreSQL that this is built for, 15
 *	  to 18.
 *
 * Nowhere else in the code a version is asked for: what has come to be called or
 * to behave differently is a function here, with what is needed of it, not all
 * that PostgreSQL's own can do.  Each says what the difference is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_COMPAT_H
#define AUD_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_database.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/makefuncs.h"
#include "regex/regex.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/sinvaladt.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/rel.h"

#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 190000
#error "this is for PostgreSQL 15 to 18"
#endif

/*
 * Marks a function that does not return, before its declaration.  18 has it, in
 * the place of pg_attribute_noreturn(), which stood behind or in the middle.
 */
#ifndef pg_noreturn
#define pg_noreturn __attribute__((noreturn))
#endif

/*
 * Memory for what a setting's check hook hands to its assign hook, NULL if there
 * is none.  PostgreSQL frees it: 15 as malloc'ed, later ones as what guc_malloc
 * gives.
 */
static inline void *
aud_compat_guc_malloc(size_t size)
{
#if PG_VERSION_NUM >= 160000
	return guc_malloc(LOG, size);
#else
	return malloc(size);
#endif
}

/* Frees it, if the hook refuses the value. */
static inline void
aud_compat_guc_free(void *memory)
{
#if PG_VERSION_NUM >= 160000
	guc_free(memory);
#else
	free(memory);
#endif
}

/*
 * A lexer of JSON text in the database's encoding, palloc'ed, which unescapes
 * strings.  17 lets the caller give it room.
 */
static inline JsonLexContext *
aud_compat_json_lexer(const char *text, int len)
{
#if PG_VERSION_NUM >= 170000
	return makeJsonLexContextCstringLen(NULL, text, len, GetDatabaseEncoding(), true);
#else
	return makeJsonLexContextCstringLen(unconstify(char *, text), len,
										GetDatabaseEncoding(), true);
#endif
}

/*
 * Was the match of a regular expression cancelled?  From 16 on pg_regexec
 * raises that itself.
 */
static inline bool
aud_compat_regex_is_cancelled(int result)
{
#if PG_VERSION_NUM >= 160000
	return false;
#else
	return result == REG_CANCEL;
#endif
}

/* The name of a table's file, another after each rewrite.  16 has renamed it. */
static inline Oid
aud_compat_file_of(Relation rel)
{
#if PG_VERSION_NUM >= 160000
	return rel->rd_locator.relNumber;
#else
	return rel->rd_node.relNode;
#endif
}

/* Begins a scan of an index.  18 counts its searches for EXPLAIN, where asked to. */
static inline IndexScanDesc
aud_compat_index_beginscan(Relation rel, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(rel, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(rel, index, snapshot, nkeys, 0);
#endif
}

/*
 * Makes a table the only one of an executor state's range table, to be written
 * with the lock held already; "columns" are those that are updated, as
 * ExecGetUpdatedCols gives them.  They stood in the entry itself until 16, which
 * has taken permissions apart from it; 18 asks which entries survive pruning.
 */
static inline void
aud_compat_init_range_table(EState *estate, Relation rel, LOCKMODE lock, Bitmapset *columns)
{
	RangeTblEntry *rte = makeNode(RangeTblEntry);

	rte->rtekind = RTE_RELATION;
	rte->relid = RelationGetRelid(rel);
	rte->relkind = rel->rd_rel->relkind;
	rte->rellockmode = lock;
#if PG_VERSION_NUM >= 160000
	{
		RTEPermissionInfo *permissions = makeNode(RTEPermissionInfo);

		permissions->relid = rte->relid;
		permissions->updatedCols = columns;
		rte->perminfoindex = 1;
#if PG_VERSION_NUM >= 180000
		ExecInitRangeTable(estate, list_make1(rte), list_make1(permissions), bms_make_singleton(1));
#else
		ExecInitRangeTable(estate, list_make1(rte), list_make1(permissions));
#endif
	}
#else
	rte->updatedCols = columns;
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* Prepares to recheck a row that was updated meanwhile.  16 wants to know which tables are written. */
static inline void
aud_compat_init_recheck(EPQState *epq, EState *estate)
{
#if PG_VERSION_NUM >= 160000
	EvalPlanQualInit(epq, estate, NULL, NIL, -1, NIL);
#else
	EvalPlanQualInit(epq, estate, NULL, NIL, -1);
#endif
}

/* What indexes have to hear of an update. */
typedef enum AudIndexNews
{
	AUD_NO_INDEX,
	AUD_SUMMARIZING_INDEXES,	/* as BRIN */
	AUD_ALL_INDEXES
} AudIndexNews;

/*
 * Updates a row, waiting for others that do; *news says what the indexes have to
 * hear of it.  From 16 on an update may stay within its page though a
 * summarizing index has the column; before, it was all indexes or none.
 */
static inline TM_Result
aud_compat_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid,
						Snapshot snapshot, AudIndexNews *news)
{
	TM_FailureData failure;
	LockTupleMode mode;
	TM_Result	result;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes indexes = TU_None;

	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
								&failure, &mode, &indexes);
	*news = indexes == TU_None ? AUD_NO_INDEX :
		indexes == TU_Summarizing ? AUD_SUMMARIZING_INDEXES : AUD_ALL_INDEXES;
#else
	bool		indexes = false;

	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
								&failure, &mode, &indexes);
	*news = indexes ? AUD_ALL_INDEXES : AUD_NO_INDEX;
#endif
	return result;
}

/*
 * Enters a row into indexes, as ExecInsertIndexTuples; with "update", into those
 * that "news" of it is for.  Of that 16 and later only know.
 */
static inline List *
aud_compat_insert_index_tuples(ResultRelInfo *result, TupleTableSlot *slot, EState *estate,
							   bool update, AudIndexNews news, bool *conflict, List *arbiters)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(result, slot, estate, update, conflict != NULL, conflict,
								 arbiters, update && news == AUD_SUMMARIZING_INDEXES);
#else
	return ExecInsertIndexTuples(result, slot, estate, update, conflict != NULL, conflict, arbiters);
#endif
}

/*
 * Is there no row that a new one would conflict with?  *other is it, if there
 * is.  18 has a place for the row's own, which a new one has not got.
 */
static inline bool
aud_compat_no_conflict(ResultRelInfo *result, TupleTableSlot *slot, EState *estate,
					   ItemPointer other, List *arbiters)
{
#if PG_VERSION_NUM >= 180000
	ItemPointerData own;

	ItemPointerSetInvalid(&own);
	return ExecCheckIndexConstraints(result, slot, estate, other, &own, arbiters);
#else
	return ExecCheckIndexConstraints(result, slot, estate, other, arbiters);
#endif
}

/*
 * A column of the row that a whole-row reference of this query level stands
 * for.  From 16 on a Var says which outer joins can make it null, and the planner
 * finds no other; from 18 on, too, whether it is the old row or the new one that
 * RETURNING asks for.
 */
static inline Var *
aud_compat_column_of_row(const Var *row, AttrNumber attnum, Oid type, int32 typmod, Oid collation)
{
	Var		   *column = makeVar(row->varno, attnum, type, typmod, collation, 0);

#if PG_VERSION_NUM >= 160000
	column->varnullingrels = bms_copy(row->varnullingrels);
#endif
#if PG_VERSION_NUM >= 180000
	column->varreturningtype = row->varreturningtype;
#endif
	return column;
}

/* Is it RETURNING's old or new row, of which there may be none?  18 has these. */
static inline bool
aud_compat_is_old_or_new(const Var *row)
{
#if PG_VERSION_NUM >= 180000
	return row->varreturningtype != VAR_RETURNING_DEFAULT;
#else
	return false;
#endif
}

/* Does the current user own the database?  16 has one function for all objects. */
static inline bool
aud_compat_owns_database(Oid database)
{
#if PG_VERSION_NUM >= 160000
	return object_ownercheck(DatabaseRelationId, database, GetUserId());
#else
	return pg_database_ownercheck(database, GetUserId());
#endif
}

/* The status of a backend, by its place from 1 on; 16 has renamed the function. */
static inline const PgBackendStatus *
aud_compat_backend(int place)
{
#if PG_VERSION_NUM >= 160000
	return &pgstat_get_local_beentry_by_index(place)->backendStatus;
#else
	return &pgstat_fetch_stat_local_beentry(place)->backendStatus;
#endif
}

#endif							/* AUD_COMPAT_H */
