/*-------------------------------------------------------------------------
 *
 * numeric_order.c
 *	  The exact order of two numerics, read where they lie.
 *
 * numeric_cmp() costs a call through the function manager, a detoast check
 * and an unpacking for each side; a rule over a million profiles compares
 * numbers a million times and more.  The stored form has been the same since
 * PostgreSQL 9.1 and cannot change without breaking pg_upgrade, so it is read
 * here directly (numeric_format.h).  NaN and the infinities, which JSON cannot
 * hold, are put in PostgreSQL's order all the same: -Infinity, all numbers,
 * Infinity, NaN.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "eval.h"
#include "numeric_format.h"

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
	memset(parts, 0, sizeof(*parts));
	if (AUD_NUMERIC_IS_SPECIAL(num))
	{
		parts->rank = AUD_NUMERIC_SPECIAL_RANK(num);
		return;
	}
	parts->weight = AUD_NUMERIC_WEIGHT(num);
	parts->digits = AUD_NUMERIC_DIGITS(num);
	parts->ndigits = AUD_NUMERIC_NDIGITS(num);

	/* stored values have no leading zeros, but whoever made this may not know */
	while (parts->ndigits > 0 && parts->digits[0] == 0)
	{
		parts->digits++;
		parts->ndigits--;
		parts->weight--;
	}
	parts->sign = parts->ndigits == 0 ? 0 : AUD_NUMERIC_IS_NEGATIVE(num) ? -1 : 1;
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
