/*-------------------------------------------------------------------------
 *
 * transition_log.c
 *	  Transitions of one user and moment, as column "entries" of table
 *	  transition_log.
 *
 * One after the other:
 *
 *	  varint	2 * the segment's number, + 1 if removed
 *	  varint	4 * the version of its rule, + 0: no score, 1: the score is 1,
 *				2: the score follows
 *	  float8	the score, if it follows
 *
 * An event that moves a user through ten segments thus writes one row.  View
 * transitions shows a row for each, numbered by its place in the value.  So
 * that these numbers stay what they are when some transitions are removed
 * (retention), others leave a gap:
 *
 *	  varint	0, which is no segment's number
 *	  varint	how many are missing here
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "catalog/pg_type_d.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "transition_log.h"
#include "varint.h"

PG_FUNCTION_INFO_V1(aud_transition_entries);
PG_FUNCTION_INFO_V1(aud_transition_entries_remove);
PG_FUNCTION_INFO_V1(aud_transition_entry);

#define SCORE_NONE		0
#define SCORE_ONE		1
#define SCORE_FOLLOWS	2

/* Begins a value in buf, whose memory, if it has any, is used again. */
void
aud_transition_begin(StringInfo buf)
{
	if (buf->data == NULL)
		initStringInfo(buf);
	else
		resetStringInfo(buf);
	appendStringInfoSpaces(buf, VARHDRSZ);
}

/* Adds a transition; a score below 0 is none. */
void
aud_transition_append(StringInfo buf, int32 number, bool added, int32 version, float8 score)
{
	int			kind = score < 0 ? SCORE_NONE : score == 1 ? SCORE_ONE : SCORE_FOLLOWS;

	aud_varint_append(buf, (uint64) number * 2 + (added ? 0 : 1));
	aud_varint_append(buf, (uint64) version * 4 + kind);
	if (kind == SCORE_FOLLOWS)
		appendBinaryStringInfo(buf, (char *) &score, sizeof(score));
}

/* The value, palloc'ed. */
bytea *
aud_transition_finish(StringInfo buf)
{
	bytea	   *result = palloc(buf->len);

	memcpy(result, buf->data, buf->len);
	SET_VARSIZE(result, buf->len);
	return result;
}

/* one transition, read back */
typedef struct Entry
{
	int			ordinal;		/* its place, from 1 on */
	uint64		number;			/* 2 * the segment's, + 1 if removed */
	uint64		version;		/* 4 * the version, + what of the score */
	float8		score;
	const char *start;			/* its bytes */
	Size		len;
} Entry;

/*
 * Reads the next transition at *p and moves *p behind it; *ordinal is the
 * place of the one before, 0 at first, and moves on.  False: no more.
 */
static bool
next_entry(const char **p, const char *end, int *ordinal, Entry *entry)
{
	for (;;)
	{
		uint64		missing;

		if (*p >= end)
			return false;
		entry->start = *p;
		entry->number = aud_varint_read(p, end);
		if (entry->number != 0)
			break;
		missing = aud_varint_read(p, end);
		if (missing == 0 || missing > (uint64) (INT_MAX - *ordinal))
			aud_varint_corrupt();
		*ordinal += missing;
	}
	if (*ordinal == INT_MAX)
		aud_varint_corrupt();
	entry->ordinal = ++*ordinal;
	entry->version = aud_varint_read(p, end);
	entry->score = 1;
	if (entry->version % 4 == SCORE_FOLLOWS)
	{
		if ((size_t) (end - *p) < sizeof(entry->score))
			aud_varint_corrupt();
		memcpy(&entry->score, *p, sizeof(entry->score));
		*p += sizeof(entry->score);
	}
	entry->len = *p - entry->start;
	return true;
}

/* transition_entries(entries) → setof (ordinal, segment_number, added, version, score) */
Datum
aud_transition_entries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bytea	   *entries = PG_GETARG_BYTEA_PP(0);
	const char *p = VARDATA_ANY(entries);
	const char *end = p + VARSIZE_ANY_EXHDR(entries);
	int			ordinal = 0;
	Entry		entry;

	InitMaterializedSRF(fcinfo, 0);
	while (next_entry(&p, end, &ordinal, &entry))
	{
		Datum		values[5];
		bool		nulls[5] = {false, false, false, false, false};

		values[0] = Int32GetDatum(entry.ordinal);
		values[1] = Int32GetDatum(entry.number / 2);
		values[2] = BoolGetDatum(entry.number % 2 == 0);
		values[3] = Int32GetDatum(entry.version / 4);
		values[4] = Float8GetDatum(entry.score);
		nulls[4] = entry.version % 4 == SCORE_NONE;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * transition_entries_remove(entries bytea, ordinals int[]) → bytea: without the
 * transitions at these places, the others at theirs.
 */
Datum
aud_transition_entries_remove(PG_FUNCTION_ARGS)
{
	bytea	   *entries = PG_GETARG_BYTEA_PP(0);
	const char *p = VARDATA_ANY(entries);
	const char *end = p + VARSIZE_ANY_EXHDR(entries);
	Datum	   *remove;
	int			nremove;
	int			ordinal = 0,
				last = 0;		/* place of the last one that is kept */
	Entry		entry;
	StringInfoData buf = {0};

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), INT4OID, sizeof(int32), true,
					  TYPALIGN_INT, &remove, NULL, &nremove);
	aud_transition_begin(&buf);
	while (next_entry(&p, end, &ordinal, &entry))
	{
		bool		keep = true;

		for (int i = 0; keep && i < nremove; i++)
			keep = DatumGetInt32(remove[i]) != entry.ordinal;
		if (!keep)
			continue;
		if (entry.ordinal > last + 1)
		{
			aud_varint_append(&buf, 0);
			aud_varint_append(&buf, entry.ordinal - last - 1);
		}
		appendBinaryStringInfo(&buf, entry.start, entry.len);
		last = entry.ordinal;
	}
	PG_RETURN_BYTEA_P(aud_transition_finish(&buf));
}

/* transition_entry(segment_number, added, version) → entries: one, without a score */
Datum
aud_transition_entry(PG_FUNCTION_ARGS)
{
	StringInfoData buf = {0};

	aud_transition_begin(&buf);
	aud_transition_append(&buf, PG_GETARG_INT32(0), PG_GETARG_BOOL(1), PG_GETARG_INT32(2), -1);
	PG_RETURN_BYTEA_P(aud_transition_finish(&buf));
}
