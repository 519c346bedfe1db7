/*-------------------------------------------------------------------------
 *
 * numeric_format.h
 *	  Reading numeric's on-disk format in place.
 *
 * PostgreSQL keeps the layout to numeric.c, but it is on disk and pg_upgrade
 * depends on it, so it does not change.  Two forms, told apart by the two
 * high bits of the first 16:
 *
 *	  short (10): sign, display scale and weight in those 16 bits, digits
 *	  long (00, 01): sign and display scale, a 16-bit weight, digits
 *	  special (11): NaN and the infinities
 *
 * Digits are base 10000, most significant first, without leading or trailing
 * zero digits; the weight is the first digit's power of 10000.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_NUMERIC_FORMAT_H
#define AUD_NUMERIC_FORMAT_H

#include "postgres.h"

#include "utils/numeric.h"

#define AUD_NUMERIC_HEADER(n)		(*(const uint16 *) VARDATA_ANY(n))
#define AUD_NUMERIC_IS_SPECIAL(n)	((AUD_NUMERIC_HEADER(n) & 0xC000) == 0xC000)
#define AUD_NUMERIC_IS_SHORT(n)		((AUD_NUMERIC_HEADER(n) & 0x8000) != 0)

/* of a special one: -1 and 1 the infinities, 2 NaN, as they are ordered */
#define AUD_NUMERIC_SPECIAL_RANK(n) \
	((AUD_NUMERIC_HEADER(n) & 0xF000) == 0xD000 ? 1 : \
	 (AUD_NUMERIC_HEADER(n) & 0xF000) == 0xF000 ? -1 : 2)

#define AUD_NUMERIC_IS_NEGATIVE(n) \
	(AUD_NUMERIC_IS_SHORT(n) ? \
	 (AUD_NUMERIC_HEADER(n) & 0x2000) != 0 : \
	 (AUD_NUMERIC_HEADER(n) & 0xC000) == 0x4000)

/* a short form's weight is a 7-bit two's complement number */
#define AUD_NUMERIC_WEIGHT(n) \
	(AUD_NUMERIC_IS_SHORT(n) ? \
	 (int) ((AUD_NUMERIC_HEADER(n) & 0x0040 ? ~0x003F : 0) | \
			(AUD_NUMERIC_HEADER(n) & 0x003F)) : \
	 (int) ((const int16 *) VARDATA_ANY(n))[1])

#define AUD_NUMERIC_DIGITS(n) \
	((const int16 *) (VARDATA_ANY(n) + (AUD_NUMERIC_IS_SHORT(n) ? 2 : 4)))

/* one that is read in place is never compressed or out of line */
#define AUD_NUMERIC_NDIGITS(n) \
	((int) (((VARATT_IS_1B(n) ? VARSIZE_1B(n) - VARHDRSZ_SHORT : \
			  VARSIZE_4B(n) - VARHDRSZ) - \
			 (AUD_NUMERIC_IS_SHORT(n) ? 2 : 4)) / sizeof(int16)))

#endif							/* AUD_NUMERIC_FORMAT_H */
