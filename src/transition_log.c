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
 * transitions shows a row for each.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "transition_log.h"
#include "varint.h"

PG_FUNCTION_INFO_V1(aud_transition_entries);
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

/* transition_entries(entries) → setof (ordinal, segment_number, added, version, score) */
Datum
aud_transition_entries(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bytea	   *entries = PG_GETARG_BYTEA_PP(0);
	const char *p = VARDATA_ANY(entries);
	const char *end = p + VARSIZE_ANY_EXHDR(entries);

	InitMaterializedSRF(fcinfo, 0);
	for (int ordinal = 1; p < end; ordinal++)
	{
		uint64		number = aud_varint_read(&p, end);
		uint64		version = aud_varint_read(&p, end);
		float8		score = 1;
		Datum		values[5];
		bool		nulls[5] = {false, false, false, false, false};

		if (version % 4 == SCORE_FOLLOWS)
		{
			if (end - p < sizeof(score))
				aud_varint_corrupt();
			memcpy(&score, p, sizeof(score));
			p += sizeof(score);
		}
		values[0] = Int32GetDatum(ordinal);
		values[1] = Int32GetDatum(number / 2);
		values[2] = BoolGetDatum(number % 2 == 0);
		values[3] = Int32GetDatum(version / 4);
		values[4] = Float8GetDatum(score);
		nulls[4] = version % 4 == SCORE_NONE;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
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
