/*-------------------------------------------------------------------------
 *
 * members.c
 *	  A user's memberships, as the profile's column "members".
 *
 *	  uint32	2 * how many instants there are, + 1 if numbers take 4 bytes
 *	  int64		the instants at which the user entered
 *	  uint16	numbers of the segments, ascending (uint32 if one is above 65535)
 *	  uint8		for each, which of the instants (uint16 with more than 256 of
 *				them, uint32 with more than 65536)
 *
 * all unaligned, so many segments as the length says; null stands for none.
 * Widths are fixed so that a segment is found by bisection; an instant is kept
 * once, since an event moves a user through several segments.
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

/* memberships taken apart: where their parts are in the value */
typedef struct Members
{
	int			n;
	uint32		ninstants;
	int			number_size;	/* bytes */
	int			slot_size;
	const char *instants;
	const char *numbers;
	const char *slots;			/* positions among the instants */
} Members;

/* How many bytes a position among so many instants takes. */
static int
slot_size(uint32 ninstants)
{
	return ninstants <= 256 ? 1 : ninstants <= 65536 ? 2 : 4;
}

/* Takes memberships apart; NULL, or what is damaged, are none. */
static Members
take_apart(const bytea *members)
{
	Members		result = {0};
	Size		len = members == NULL ? 0 : VARSIZE_ANY_EXHDR(members);
	uint32		head;
	uint32		ninstants;

	if (len < sizeof(head))
		return result;
	memcpy(&head, VARDATA_ANY(members), sizeof(head));
	len -= sizeof(head);
	ninstants = head / 2;
	if (ninstants == 0 || ninstants > len / sizeof(TimestampTz))
		return result;
	len -= ninstants * sizeof(TimestampTz);
	result.ninstants = ninstants;
	result.number_size = head % 2 ? sizeof(uint32) : sizeof(uint16);
	result.slot_size = slot_size(ninstants);
	result.n = len / (result.number_size + result.slot_size);
	result.instants = VARDATA_ANY(members) + sizeof(head);
	result.numbers = result.instants + ninstants * sizeof(TimestampTz);
	result.slots = result.numbers + (Size) result.n * result.number_size;
	return result;
}

/* The i-th of an array of integers of this size. */
static inline uint32
read_integer(const char *array, int size, int i)
{
	uint16		two;
	uint32		four;

	Assert(array != NULL);
	switch (size)
	{
		case 1:
			return (uint8) array[i];
		case 2:
			memcpy(&two, array + i * sizeof(two), sizeof(two));
			return two;
		default:
			memcpy(&four, array + i * sizeof(four), sizeof(four));
			return four;
	}
}

/* Writes n integers of this size each; returns where they end. */
static char *
write_integers(char *to, int size, const uint32 *values, int n)
{
	switch (size)
	{
		case 1:
			for (int i = 0; i < n; i++)
				to[i] = (char) values[i];
			break;
		case 2:
			for (int i = 0; i < n; i++)
			{
				uint16		two = values[i];

				memcpy(to + i * sizeof(two), &two, sizeof(two));
			}
			break;
		default:
			memcpy(to, values, n * sizeof(uint32));
	}
	return to + (Size) n * size;
}

/* The i-th segment's number. */
static inline int32
number_at(const Members *members, int i)
{
	return (int32) read_integer(members->numbers, members->number_size, i);
}

/* Which of the instants is the i-th segment's; never beyond them. */
static inline uint32
slot_at(const Members *members, int i)
{
	return Min(read_integer(members->slots, members->slot_size, i), members->ninstants - 1);
}

/* One of the instants. */
static inline TimestampTz
instant_at(const Members *members, uint32 slot)
{
	TimestampTz instant;

	memcpy(&instant, members->instants + slot * sizeof(instant), sizeof(instant));
	return instant;
}

/* How many there are; members may be NULL, as in all of these. */
int
aud_members_count(const bytea *members)
{
	return take_apart(members).n;
}

/* The i-th segment's number. */
int32
aud_members_number(const bytea *members, int i)
{
	Members		parts = take_apart(members);

	return number_at(&parts, i);
}

/* Is the segment among them?  Since when goes to *entered_at, if not NULL. */
bool
aud_members_find(const bytea *members, int32 number, TimestampTz *entered_at)
{
	Members		parts = take_apart(members);
	int			low = 0,
				high = parts.n;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (number_at(&parts, middle) < number)
			low = middle + 1;
		else
			high = middle;
	}
	if (low >= parts.n || number_at(&parts, low) != number)
		return false;
	if (entered_at != NULL)
		*entered_at = instant_at(&parts, slot_at(&parts, low));
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
 * Packs memberships: their numbers, ascending, and which of the instants is
 * whose.  Instants that are nobody's are left out.  palloc'ed.
 */
static bytea *
pack(const uint32 *numbers, uint32 *slots, int n, const TimestampTz *instants, uint32 ninstants)
{
	uint32	   *moved = palloc0(ninstants * sizeof(uint32));
	uint32		nused = 0;
	bool		wide = numbers[n - 1] > PG_UINT16_MAX;
	int			number_size = wide ? sizeof(uint32) : sizeof(uint16);
	uint32		head;
	Size		size;
	bytea	   *result;
	char	   *to;

	for (int i = 0; i < n; i++)
		moved[slots[i]] = 1;
	for (uint32 i = 0; i < ninstants; i++)
		nused += moved[i];
	size = VARHDRSZ + sizeof(head) + nused * sizeof(TimestampTz) +
		(Size) n * (number_size + slot_size(nused));
	result = palloc(size);
	SET_VARSIZE(result, size);
	head = nused * 2 + wide;
	memcpy(VARDATA(result), &head, sizeof(head));
	to = VARDATA(result) + sizeof(head);
	nused = 0;
	for (uint32 i = 0; i < ninstants; i++)
		if (moved[i])
		{
			memcpy(to, &instants[i], sizeof(TimestampTz));
			to += sizeof(TimestampTz);
			moved[i] = nused++;
		}
	for (int i = 0; i < n; i++)
		slots[i] = moved[slots[i]];
	to = write_integers(to, number_size, numbers, n);
	write_integers(to, slot_size(nused), slots, n);
	pfree(moved);
	return result;
}

/*
 * The memberships with the changes made (which it sorts; each segment once),
 * those that are entered as of this instant: palloc'ed, NULL if none are left.
 */
bytea *
aud_members_change(const bytea *members, AudMemberChange *changes, int nchanges,
				   TimestampTz entered_at)
{
	Members		old = take_apart(members);
	uint32	   *numbers = palloc((old.n + nchanges) * sizeof(uint32));
	uint32	   *slots = palloc((old.n + nchanges) * sizeof(uint32));
	TimestampTz *instants = palloc((old.ninstants + 1) * sizeof(TimestampTz));
	uint32		entered = old.ninstants;
	int			n = 0;
	int			c = 0;
	bytea	   *result = NULL;

	for (uint32 i = 0; i < old.ninstants; i++)
	{
		instants[i] = instant_at(&old, i);
		if (instants[i] == entered_at)
			entered = i;
	}
	instants[old.ninstants] = entered_at;
	qsort(changes, nchanges, sizeof(AudMemberChange), compare_changes);
	for (int i = 0; i < old.n || c < nchanges;)
	{
		int32		number = i < old.n ? number_at(&old, i) : PG_INT32_MAX;

		if (c < nchanges && changes[c].number <= number)
		{
			if (i < old.n && changes[c].number == number)
				i++;
			if (changes[c].enter)
			{
				numbers[n] = changes[c].number;
				slots[n++] = entered;
			}
			c++;
		}
		else
		{
			numbers[n] = number;
			slots[n++] = slot_at(&old, i++);
		}
	}
	if (n > 0)
		result = pack(numbers, slots, n, instants, old.ninstants + 1);
	pfree(numbers);
	pfree(slots);
	pfree(instants);
	return result;
}

/* members_valid(members) → bool: is it as the engine writes it? */
Datum
aud_members_valid(PG_FUNCTION_ARGS)
{
	bytea	   *members = PG_GETARG_BYTEA_PP(0);
	Members		parts = take_apart(members);
	bool	   *used;

	/* no more instants than segments, so there is no more to allocate either */
	if (parts.n == 0 || parts.ninstants > (uint32) parts.n ||
		parts.slots + (Size) parts.n * parts.slot_size != VARDATA_ANY(members) + VARSIZE_ANY_EXHDR(members))
		PG_RETURN_BOOL(false);
	used = palloc0(parts.ninstants * sizeof(bool));
	for (int i = 0; i < parts.n; i++)
	{
		uint32		slot = read_integer(parts.slots, parts.slot_size, i);

		/* segments count from 1; beyond what an integer holds they look negative */
		if (slot >= parts.ninstants || number_at(&parts, i) < 1 ||
			(i > 0 && number_at(&parts, i - 1) >= number_at(&parts, i)))
			PG_RETURN_BOOL(false);
		used[slot] = true;
	}
	PG_RETURN_BOOL(memchr(used, 0, parts.ninstants) == NULL);
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
	Members		parts = take_apart(PG_GETARG_BYTEA_PP(0));

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < parts.n; i++)
	{
		Datum		values[2] = {
			Int32GetDatum(number_at(&parts, i)),
			TimestampTzGetDatum(instant_at(&parts, slot_at(&parts, i)))
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
	bytea	   *result = aud_members_change(PG_GETARG_BYTEA_PP(0), &change, 1, 0);

	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_BYTEA_P(result);
}
