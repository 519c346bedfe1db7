/*-------------------------------------------------------------------------
 *
 * members.c
 *	  A user's memberships, as the profile's column "members".
 *
 *	  int32		numbers of the segments, ascending
 *	  int64		for each, since when
 *
 * both unaligned, so many as the length says; null stands for none.
 *
 * Memberships stand in the user's own row because that row is written anyway
 * when they change: a row of their own, with its index entries, costs several
 * times what deciding the change does, and ten times the room.  A segment's
 * members are found by going through the profiles, at some 50 ns each.
 *
 * A static segment's entries stay while it is inactive: they are its list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "members.h"

PG_FUNCTION_INFO_V1(aud_member_since);
PG_FUNCTION_INFO_V1(aud_members_list);
PG_FUNCTION_INFO_V1(aud_members_remove);
PG_FUNCTION_INFO_V1(aud_members_valid);

#define ENTRY_SIZE	(sizeof(int32) + sizeof(TimestampTz))

/* How many there are; members may be NULL, as in all of these. */
int
aud_members_count(const bytea *members)
{
	return members == NULL ? 0 : VARSIZE_ANY_EXHDR(members) / ENTRY_SIZE;
}

/* The i-th segment's number. */
int32
aud_members_number(const bytea *members, int i)
{
	int32		number;

	memcpy(&number, VARDATA_ANY(members) + i * sizeof(int32), sizeof(int32));
	return number;
}

/* Since when the user is in the i-th segment. */
TimestampTz
aud_members_entered_at(const bytea *members, int i)
{
	TimestampTz entered_at;

	memcpy(&entered_at, VARDATA_ANY(members) + aud_members_count(members) * sizeof(int32) +
		   i * sizeof(TimestampTz), sizeof(TimestampTz));
	return entered_at;
}

/* The position of a segment's number, or where it would be. */
static int
position(const bytea *members, int32 number)
{
	int			low = 0,
				high = aud_members_count(members);

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (aud_members_number(members, middle) < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Is the segment among them?  Since when goes to *entered_at, if not NULL. */
bool
aud_members_find(const bytea *members, int32 number, TimestampTz *entered_at)
{
	int			at = position(members, number);

	if (at >= aud_members_count(members) || aud_members_number(members, at) != number)
		return false;
	if (entered_at != NULL)
		*entered_at = aud_members_entered_at(members, at);
	return true;
}

/* Orders changes by number. */
static int
compare_changes(const void *a, const void *b)
{
	int32		x = ((const AudMemberChange *) a)->number;
	int32		y = ((const AudMemberChange *) b)->number;

	return (x > y) - (x < y);
}

/*
 * The memberships with the changes made (which it sorts; each segment once):
 * palloc'ed, NULL if none are left.
 */
bytea *
aud_members_change(const bytea *members, AudMemberChange *changes, int nchanges)
{
	int			nold = aud_members_count(members);
	int32	   *numbers = palloc((nold + nchanges) * sizeof(int32));
	TimestampTz *times = palloc((nold + nchanges) * sizeof(TimestampTz));
	int			n = 0;
	int			c = 0;
	bytea	   *result;

	qsort(changes, nchanges, sizeof(AudMemberChange), compare_changes);
	for (int i = 0; i < nold || c < nchanges;)
	{
		int32		old = i < nold ? aud_members_number(members, i) : PG_INT32_MAX;

		if (c < nchanges && changes[c].number <= old)
		{
			if (i < nold && changes[c].number == old)
				i++;
			if (changes[c].enter)
			{
				numbers[n] = changes[c].number;
				times[n++] = changes[c].entered_at;
			}
			c++;
		}
		else
		{
			numbers[n] = old;
			times[n++] = aud_members_entered_at(members, i++);
		}
	}
	if (n == 0)
		return NULL;
	result = palloc(VARHDRSZ + n * ENTRY_SIZE);
	SET_VARSIZE(result, VARHDRSZ + n * ENTRY_SIZE);
	memcpy(VARDATA(result), numbers, n * sizeof(int32));
	memcpy(VARDATA(result) + n * sizeof(int32), times, n * sizeof(TimestampTz));
	return result;
}

/* members_valid(members) → bool: is it as the engine writes it? */
Datum
aud_members_valid(PG_FUNCTION_ARGS)
{
	bytea	   *members = PG_GETARG_BYTEA_PP(0);
	int			n = aud_members_count(members);

	if (n == 0 || VARSIZE_ANY_EXHDR(members) % ENTRY_SIZE != 0)
		PG_RETURN_BOOL(false);
	for (int i = 1; i < n; i++)
		if (aud_members_number(members, i - 1) >= aud_members_number(members, i))
			PG_RETURN_BOOL(false);
	PG_RETURN_BOOL(true);
}

/* member_since(members, segment_number) → timestamptz: null where it is not among them */
Datum
aud_member_since(PG_FUNCTION_ARGS)
{
	TimestampTz entered_at;

	if (!aud_members_find(PG_GETARG_BYTEA_PP(0), PG_GETARG_INT32(1), &entered_at))
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(entered_at);
}

/* members_list(members) → setof (segment_number, entered_at) */
Datum
aud_members_list(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bytea	   *members = PG_GETARG_BYTEA_PP(0);

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < aud_members_count(members); i++)
	{
		Datum		values[2] = {
			Int32GetDatum(aud_members_number(members, i)),
			TimestampTzGetDatum(aud_members_entered_at(members, i))
		};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* members_remove(members, segment_number) → members: null if none are left */
Datum
aud_members_remove(PG_FUNCTION_ARGS)
{
	AudMemberChange change = {.number = PG_GETARG_INT32(1), .enter = false};
	bytea	   *result = aud_members_change(PG_GETARG_BYTEA_PP(0), &change, 1);

	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(result);
}
