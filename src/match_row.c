/*-------------------------------------------------------------------------
 *
 * match_row.c
 *	  Rows as documents: a path's first step names a column, the rest of it
 *	  leads into the column's value.
 *
 * Only the columns that the evaluation comes to are fetched and converted, and
 * each at most once per row.  Which column a path begins with is looked up
 * once per call site: the rule's paths lie at known offsets, so a table by
 * offset answers for each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "utils/typcache.h"

#include "eval.h"
#include "match.h"
#include "row_value.h"

/* the entry of a path whose column is not there, or not looked up yet */
#define NO_COLUMN		(-1)
#define UNKNOWN_COLUMN	(-2)

/* offsets in a rule are 8-aligned */
#define PATH_INDEX(rule, path) \
	(((const char *) (path) - (const char *) (rule)) / 8)

typedef struct RowColumn
{
	AudConverter *converter;	/* NULL: never needed yet */
	uint64		row;			/* the row that "value" is of; 0: none */
	JsonbValue	value;
} RowColumn;

struct AudRowColumns
{
	TupleDesc	tupdesc;
	uint64		tupdesc_id;		/* by which another row type is noticed */
	uint64		row;			/* counts the rows seen */
	RowColumn  *columns;		/* by column */
	int16	   *column_of_path; /* by PATH_INDEX; NULL: the rule may change */
};

typedef struct RowDoc
{
	AudDoc		doc;
	AudMatchSite *site;
	AudRowColumns *columns;
	HeapTupleData tuple;
} RowDoc;

/* What a call site keeps of a row type, in the call site's context. */
static AudRowColumns *
make_columns(const AudMatchSite *site, Oid type, int32 typmod, uint64 id)
{
	MemoryContext old = MemoryContextSwitchTo(site->mcxt);
	AudRowColumns *result = palloc0(sizeof(AudRowColumns));

	result->tupdesc = lookup_rowtype_tupdesc_copy(type, typmod);
	result->tupdesc_id = id;
	result->columns = palloc0(sizeof(RowColumn) *
							  Max(result->tupdesc->natts, 1));
	if (site->prepared != NULL)
	{
		int			npaths = VARSIZE(site->prepared->rule) / 8 + 1;

		result->column_of_path = palloc(sizeof(int16) * npaths);
		for (int i = 0; i < npaths; i++)
			result->column_of_path[i] = UNKNOWN_COLUMN;
	}
	MemoryContextSwitchTo(old);
	return result;
}

/* Frees what make_columns() made, but for converters: types change rarely. */
static void
free_columns(AudRowColumns *columns)
{
	FreeTupleDesc(columns->tupdesc);
	pfree(columns->columns);
	if (columns->column_of_path != NULL)
		pfree(columns->column_of_path);
	pfree(columns);
}

/* The index of the column of that name, or NO_COLUMN. */
static int
find_column(TupleDesc tupdesc, const char *name)
{
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);

		if (!attribute->attisdropped &&
			strcmp(NameStr(attribute->attname), name) == 0)
			return i;
	}
	return NO_COLUMN;
}

/* The index of the column that a path begins with, or NO_COLUMN. */
static int
column_of_path(AudRowColumns *columns, const AudRule *rule,
			   const AudPath *path)
{
	const AudPathStep *step = &path->steps[0];
	int16	   *known = NULL;
	int			column = NO_COLUMN;

	if (columns->column_of_path != NULL)
	{
		known = &columns->column_of_path[PATH_INDEX(rule, path)];
		if (*known != UNKNOWN_COLUMN)
			return *known;
	}
	if (path->root == AUD_ROOT_DOCUMENT && path->nsteps > 0 &&
		(step->kind == AUD_STEP_KEY || step->kind == AUD_STEP_INTEGER_KEY))
		column = find_column(columns->tupdesc, AUD_AT(rule, step->key));
	if (known != NULL)
		*known = column;
	return column;
}

/* The value of a column in the row at hand, converted when first asked for. */
static const JsonbValue *
column_value(RowDoc *row, int index)
{
	RowColumn  *column = &row->columns->columns[index];
	TupleDesc	tupdesc = row->columns->tupdesc;
	Datum		datum;
	bool		isnull;

	if (column->row == row->columns->row)
		return &column->value;
	if (column->converter == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(row->site->mcxt);

		column->converter = aud_converter_make(TupleDescAttr(tupdesc, index)->atttypid);
		MemoryContextSwitchTo(old);
	}
	datum = heap_getattr(&row->tuple, index + 1, tupdesc, &isnull);
	if (isnull)
		column->value.type = jbvNull;
	else
		aud_converter_run(column->converter, datum, &column->value);
	column->row = row->columns->row;
	return &column->value;
}

/* AudDoc.start of a row: the column's value, with one step used up. */
static const JsonbValue *
row_start(AudDoc *doc, const AudRule *rule, const AudPath *path,
		  JsonbValue *room, int *nused)
{
	RowDoc	   *row = (RowDoc *) doc;
	int			column = column_of_path(row->columns, rule, path);

	*nused = 1;
	return column == NO_COLUMN ? NULL : column_value(row, column);
}

/* AudDoc.leaf of a row: its user is in column "userId" or else "user_id". */
static bool
row_leaf(AudDoc *doc, const AudRule *rule, const AudNode *node)
{
	RowDoc	   *row = (RowDoc *) doc;
	TupleDesc	tupdesc = row->columns->tupdesc;
	int			column = find_column(tupdesc, "userId");

	if (column == NO_COLUMN)
		column = find_column(tupdesc, "user_id");
	return aud_match_leaf(rule, node,
						  column == NO_COLUMN ? NULL : column_value(row, column));
}

/* Does the rule hold for a row? */
bool
aud_match_row(AudMatchSite *site, const AudRule *rule, HeapTupleHeader header)
{
	Oid			type = HeapTupleHeaderGetTypeId(header);
	int32		typmod = HeapTupleHeaderGetTypMod(header);
	uint64		id = assign_record_type_identifier(type, typmod);
	RowDoc		row;

	if (site->columns != NULL && site->columns->tupdesc_id != id)
	{
		free_columns(site->columns);
		site->columns = NULL;
	}
	if (site->columns == NULL)
		site->columns = make_columns(site, type, typmod, id);
	site->columns->row++;

	aud_match_clock(rule, &row.doc.clock);
	row.doc.object = NULL;
	row.doc.start = row_start;
	row.doc.leaf = row_leaf;
	/* row_start and row_leaf get at them by way of row.doc */
	/* cppcheck-suppress unreadVariable */
	row.site = site;
	/* cppcheck-suppress unreadVariable */
	row.columns = site->columns;
	row.tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	row.tuple.t_data = header;
	ItemPointerSetInvalid(&row.tuple.t_self);
	row.tuple.t_tableOid = InvalidOid;
	return aud_match_eval(site, rule, &row.doc);
}
