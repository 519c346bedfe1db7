/*-------------------------------------------------------------------------
 *
 * numeric_order.c
 *	  The exact order of two numerics, read where they lie.
 *
 * numeric_cmp() costs a call through the function manager, a detoast check
 * and an unpacking for each side; a rule over a million profiles compares
 * numbers a million times and more.  The stored form has been the same since
 * PostgreSQL 9.1 and cannot change without breaking pg_upgrade, so it is read
 * here directly:
 *
 *	  varlena header | uint16 header | [int16 weight] | int16 digits[]
 *
 * in base 10000.  The two top bits of the header tell a short form (sign,
 * scale and a 7-bit weight in the header itself) from a long one (sign and
 * scale in the header, the weight after it) and from NaN and the infinities,
 * which JSON cannot hold but which are put in PostgreSQL's order all the same:
 * -Infinity, all numbers, Infinity, NaN.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "eval.h"

#define SIGN_MASK			0xC000
#define SIGN_NEGATIVE		0x4000
#define FORM_SHORT			0x8000
#define FORM_SPECIAL		0xC000

#define SPECIAL_MASK		0xF000
#define SPECIAL_INFINITY	0xD000
#define SPECIAL_MINUS_INFINITY	0xF000

#define SHORT_NEGATIVE		0x2000
#define SHORT_WEIGHT_SIGN	0x0040
#define SHORT_WEIGHT_MASK	0x003F

/* a numeric taken apart; digits point into it */
typedef struct Parts
{
	int			rank;			/* -1, 1: infinities; 2: NaN; 0: a number */
	int			sign;			/* -1, 0, 1 */
	int			weight;			/* of the first digit, in powers of 10000 */
	int			ndigits;
	const int16 *digits;		/* the first is not 0 */
} Parts;

/* Takes "num" apart. */
static inline void
take_apart(Numeric num, Parts *parts)
{
	const char *data = VARDATA_ANY(num);
	const char *end = data + VARSIZE_ANY_EXHDR(num);
	uint16		header = *(const uint16 *) data;
	bool		negative;

	memset(parts, 0, sizeof(*parts));
	if ((header & SIGN_MASK) == FORM_SHORT)
	{
		negative = (header & SHORT_NEGATIVE) != 0;
		parts->weight = (header & SHORT_WEIGHT_SIGN ? ~SHORT_WEIGHT_MASK : 0) |
			(header & SHORT_WEIGHT_MASK);
		parts->digits = (const int16 *) (data + sizeof(uint16));
	}
	else if ((header & SIGN_MASK) == FORM_SPECIAL)
	{
		parts->rank = (header & SPECIAL_MASK) == SPECIAL_INFINITY ? 1 :
			(header & SPECIAL_MASK) == SPECIAL_MINUS_INFINITY ? -1 : 2;
		return;
	}
	else
	{
		negative = (header & SIGN_MASK) == SIGN_NEGATIVE;
		parts->weight = *(const int16 *) (data + sizeof(uint16));
		parts->digits = (const int16 *) (data + sizeof(uint16) + sizeof(int16));
	}
	parts->ndigits = (end - (const char *) parts->digits) / (int) sizeof(int16);

	/* stored values have no leading zeros, but whoever made this may not know */
	while (parts->ndigits > 0 && parts->digits[0] == 0)
	{
		parts->digits++;
		parts->ndigits--;
		parts->weight--;
	}
	parts->sign = parts->ndigits == 0 ? 0 : negative ? -1 : 1;
}

/* Order of the absolute values of two numbers that are not 0. */
static inline int
compare_magnitudes(const Parts *a, const Parts *b)
{
	int			common = Min(a->ndigits, b->ndigits);

	if (a->weight != b->weight)
		return a->weight < b->weight ? -1 : 1;
	for (int i = 0; i < common; i++)
	{
		if (a->digits[i] != b->digits[i])
			return a->digits[i] < b->digits[i] ? -1 : 1;
	}
	for (int i = common; i < a->ndigits; i++)
	{
		if (a->digits[i] != 0)
			return 1;
	}
	for (int i = common; i < b->ndigits; i++)
	{
		if (b->digits[i] != 0)
			return -1;
	}
	return 0;
}

/*
 * -1, 0 or 1 as a is below, equal to or above b, by value: 1.0 equals 1.
 * Neither may be compressed or out of line.
 */
int
aud_numeric_compare(Numeric a, Numeric b)
{
	Parts		pa;
	Parts		pb;

	take_apart(a, &pa);
	take_apart(b, &pb);
	if (pa.rank != 0 || pb.rank != 0)
		return pa.rank < pb.rank ? -1 : pa.rank > pb.rank;
	if (pa.sign != pb.sign)
		return pa.sign < pb.sign ? -1 : 1;
	if (pa.sign == 0)
		return 0;
	return pa.sign > 0 ? compare_magnitudes(&pa, &pb) :
		compare_magnitudes(&pb, &pa);
}
