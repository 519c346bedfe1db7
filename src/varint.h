/*-------------------------------------------------------------------------
 *
 * varint.h
 *	  Integers of seven bits a byte, for the profile's state and the history.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_VARINT_H
#define AUD_VARINT_H

#include "postgres.h"

#include "lib/stringinfo.h"

#include "compat.h"

/* Reports a packed value that cannot have been written by the engine. */
pg_noreturn static inline void
aud_varint_corrupt(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("damaged packed value in a profile or in the history"),
			 errhint("A profile's is made anew by audience.profile_rebuild().")));
}

/* Appends an unsigned integer. */
static inline void
aud_varint_append(StringInfo buf, uint64 value)
{
	enlargeStringInfo(buf, 10);
	while (value >= 0x80)
	{
		buf->data[buf->len++] = (char) (value | 0x80);
		value >>= 7;
	}
	buf->data[buf->len++] = (char) value;
	buf->data[buf->len] = '\0';
}

/* Appends a signed integer, small magnitudes short. */
static inline void
aud_varint_append_signed(StringInfo buf, int64 value)
{
	aud_varint_append(buf, ((uint64) value << 1) ^ (uint64) (value >> 63));
}

/* Reads an unsigned integer at *p and moves *p behind it. */
static inline uint64
aud_varint_read(const char **p, const char *end)
{
	uint64		value = 0;

	for (int shift = 0; shift < 64; shift += 7)
	{
		uint8		byte;

		if (*p >= end)
			break;
		byte = (uint8) *(*p)++;
		value |= (uint64) (byte & 0x7F) << shift;
		if (byte < 0x80)
			return value;
	}
	aud_varint_corrupt();
	return 0;
}

/* Reads what aud_varint_append_signed wrote. */
static inline int64
aud_varint_read_signed(const char **p, const char *end)
{
	uint64		value = aud_varint_read(p, end);

	return (int64) (value >> 1) ^ -(int64) (value & 1);
}

#endif							/* AUD_VARINT_H */
