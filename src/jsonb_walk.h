/*-------------------------------------------------------------------------
 *
 * jsonb_walk.h
 *	  Walking a stored jsonb without allocating.
 *
 * PostgreSQL's own functions return palloc'ed values for array elements and
 * search keys by bisection, where every probe adds up lengths from the last
 * stored offset.  In the small objects that profiles are, one pass over the
 * keys that adds up the lengths on its way is the faster search: keys are
 * sorted by length first, so that few are compared at all.
 *
 * Results point into the container.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_JSONB_WALK_H
#define AUD_JSONB_WALK_H

#include "postgres.h"

#include "utils/jsonb.h"

/* up to so many pairs a pass over the keys beats bisection */
#define AUD_JSONB_SCAN_PAIRS	32

/* the elements of an array, one after the other */
typedef struct AudJsonbElements
{
	const JsonbContainer *container;
	int			count;
	int			next;			/* index of the next element */
	uint32		offset;			/* where its data begins */
} AudJsonbElements;

/* Is the value an array? */
static inline bool
aud_jsonb_is_array(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsArray(value->val.binary.data);
}

/* Are two stretches of len bytes equal?  Short ones without a call. */
static inline bool
aud_bytes_equal(const char *a, const char *b, uint32 len)
{
	if (len >= sizeof(uint64) && len <= 2 * sizeof(uint64))
	{
		uint64		first_a;
		uint64		first_b;
		uint64		last_a;
		uint64		last_b;

		/* the two words overlap unless there are 16 bytes */
		memcpy(&first_a, a, sizeof(uint64));
		memcpy(&first_b, b, sizeof(uint64));
		memcpy(&last_a, a + len - sizeof(uint64), sizeof(uint64));
		memcpy(&last_b, b + len - sizeof(uint64), sizeof(uint64));
		return ((first_a ^ first_b) | (last_a ^ last_b)) == 0;
	}
	if (len >= sizeof(uint32) && len < sizeof(uint64))
	{
		uint32		first_a;
		uint32		first_b;
		uint32		last_a;
		uint32		last_b;

		memcpy(&first_a, a, sizeof(uint32));
		memcpy(&first_b, b, sizeof(uint32));
		memcpy(&last_a, a + len - sizeof(uint32), sizeof(uint32));
		memcpy(&last_b, b + len - sizeof(uint32), sizeof(uint32));
		return ((first_a ^ first_b) | (last_a ^ last_b)) == 0;
	}
	if (len >= 1 && len < sizeof(uint32))
		return ((a[0] ^ b[0]) | (a[len / 2] ^ b[len / 2]) |
				(a[len - 1] ^ b[len - 1])) == 0;
	return memcmp(a, b, len) == 0;
}

/*
 * Where the data of entry "index" begins, counted from the end of the
 * entries, when that of an entry "from" before it begins at "offset": the
 * lengths of the entries between, back to the last that tells its end.  They
 * are added up two by two; 28 bits each cannot overflow into each other, a
 * container being smaller than that.
 */
static inline uint32
aud_jsonb_offset_after(const JsonbContainer *container, int from,
					   uint32 offset, int index)
{
	const uint64 has_end = ((uint64) JENTRY_HAS_OFF << 32) | JENTRY_HAS_OFF;
	const uint64 length = ((uint64) JENTRY_OFFLENMASK << 32) | JENTRY_OFFLENMASK;
	uint64		pairs = 0;

	while (index >= from + 4)
	{
		uint64		pair[2];

		memcpy(pair, &container->children[index - 4], sizeof(pair));
		if ((pair[0] | pair[1]) & has_end)
			break;
		pairs += (pair[0] & length) + (pair[1] & length);
		index -= 4;
	}
	while (--index >= from)
	{
		JEntry		entry = container->children[index];

		if (JBE_HAS_OFF(entry))
		{
			offset = JBE_OFFLENFLD(entry);
			break;
		}
		pairs += JBE_OFFLENFLD(entry);
	}
	return offset + (uint32) pairs + (uint32) (pairs >> 32);
}

/* The same from the first entry. */
static inline uint32
aud_jsonb_offset(const JsonbContainer *container, int index)
{
	return aud_jsonb_offset_after(container, 0, 0, index);
}

/*
 * Fills *result with entry "index", whose data begins at "offset" behind the
 * container's "nentries" entries.
 */
static inline void
aud_jsonb_fill(const JsonbContainer *container, int nentries, int index,
			   uint32 offset, JsonbValue *result)
{
	JEntry		entry = container->children[index];
	char	   *base = (char *) unconstify(JEntry *, &container->children[nentries]);
	uint32		length = JBE_OFFLENFLD(entry);

	if (JBE_HAS_OFF(entry))
		length -= offset;
	switch (entry & JENTRY_TYPEMASK)
	{
		case JENTRY_ISSTRING:
			result->type = jbvString;
			result->val.string.val = base + offset;
			result->val.string.len = length;
			break;
		case JENTRY_ISNUMERIC:
			result->type = jbvNumeric;
			result->val.numeric = (Numeric) (base + INTALIGN(offset));
			break;
		case JENTRY_ISBOOL_TRUE:
		case JENTRY_ISBOOL_FALSE:
			result->type = jbvBool;
			result->val.boolean = JBE_ISBOOL_TRUE(entry);
			break;
		case JENTRY_ISCONTAINER:
			/* the padding in front of a container counts as its length */
			result->type = jbvBinary;
			result->val.binary.data = (JsonbContainer *) (base + INTALIGN(offset));
			result->val.binary.len = length - (INTALIGN(offset) - offset);
			break;
		default:
			result->type = jbvNull;
			break;
	}
}

/*
 * The value of a key in an object, in *room; NULL when the key is not there.
 *
 * *hint is where among the keys it was found the last time.  Documents of one
 * kind mostly have the same keys, so it is there again, and adding up the
 * lengths before it is all there is to do.
 */
static inline const JsonbValue *
aud_jsonb_key_hinted(const JsonbContainer *container, const char *key,
					 uint32 keylen, int *hint, JsonbValue *room)
{
	int			npairs = JsonContainerSize(container);
	const char *keys = (const char *) &container->children[npairs * 2];
	uint32		offset = 0;

	if (npairs > AUD_JSONB_SCAN_PAIRS)
		return getKeyJsonValueFromContainer(unconstify(JsonbContainer *, container),
											key, keylen, room);

	/* the first key's offset is 0 and its end is its length */
	if (*hint < npairs &&
		(*hint == 0 || !JBE_HAS_OFF(container->children[*hint])) &&
		JBE_OFFLENFLD(container->children[*hint]) == keylen)
	{
		int			index = npairs + *hint;

		offset = aud_jsonb_offset(container, *hint);
		if (aud_bytes_equal(keys + offset, key, keylen))
		{
			offset = aud_jsonb_offset_after(container, *hint, offset, index);
			aud_jsonb_fill(container, npairs * 2, index, offset, room);
			return room;
		}
		offset = 0;
	}
	for (int i = 0; i < npairs; i++)
	{
		JEntry		entry = container->children[i];
		uint32		end = JBE_HAS_OFF(entry) ? JBE_OFFLENFLD(entry) :
			offset + JBE_OFFLENFLD(entry);

		if (end - offset == keylen &&
			aud_bytes_equal(keys + offset, key, keylen))
		{
			*hint = i;
			aud_jsonb_fill(container, npairs * 2, npairs + i,
						   aud_jsonb_offset(container, npairs + i), room);
			return room;
		}
		if (end - offset > keylen)
			break;
		offset = end;
	}
	return NULL;
}

/* As aud_jsonb_key_hinted, without a hint to keep. */
static inline const JsonbValue *
aud_jsonb_key(const JsonbContainer *container, const char *key, uint32 keylen,
			  JsonbValue *room)
{
	int			hint = PG_INT32_MAX;

	return aud_jsonb_key_hinted(container, key, keylen, &hint, room);
}

/*
 * The element of an array at an index, counted from the end when negative, in
 * *room; NULL when there is none.
 */
static inline const JsonbValue *
aud_jsonb_element(const JsonbContainer *container, int32 index,
				  JsonbValue *room)
{
	int64		count = JsonContainerSize(container);
	int64		position = index < 0 ? count + index : index;

	if (position < 0 || position >= count)
		return NULL;
	aud_jsonb_fill(container, count, position,
				   aud_jsonb_offset(container, position), room);
	return room;
}

/* Begins at the first element of an array. */
static inline void
aud_jsonb_elements_begin(AudJsonbElements *elements,
						 const JsonbContainer *container)
{
	elements->container = container;
	elements->count = JsonContainerSize(container);
	elements->next = 0;
	elements->offset = 0;
}

/* Puts the next element into *element; false when there is none. */
static inline bool
aud_jsonb_elements_next(AudJsonbElements *elements, JsonbValue *element)
{
	if (elements->next >= elements->count)
		return false;
	aud_jsonb_fill(elements->container, elements->count, elements->next,
				   elements->offset, element);
	JBE_ADVANCE_OFFSET(elements->offset,
					   elements->container->children[elements->next]);
	elements->next++;
	return true;
}

#endif							/* AUD_JSONB_WALK_H */
