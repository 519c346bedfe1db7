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
	int64		lead;			/* see take_apart() */
	int			ndigits;
	const int16 *digits;		/* the first is not 0 */
} Parts;

/*
 * Takes "num" apart.  Sign, weight and first digit make one integer, the lead,
 * that is ordered as the numbers are.  It decides about most pairs, and where
 * two are the same only the digits behind are left to compare.
 */
static pg_attribute_always_inline void
take_apart(Numeric num, Parts *parts)
{
	int			weight;

	parts->digits = NULL;
	parts->ndigits = 0;
	if (unlikely(AUD_NUMERIC_IS_SPECIAL(num)))
	{
		int			rank = AUD_NUMERIC_SPECIAL_RANK(num);

		parts->lead = rank < 0 ? PG_INT64_MIN : PG_INT64_MAX - 2 + rank;
		return;
	}
	weight = AUD_NUMERIC_WEIGHT(num);
	parts->digits = AUD_NUMERIC_DIGITS(num);
	parts->ndigits = AUD_NUMERIC_NDIGITS(num);

	/* stored values have no leading zeros, but whoever made this may not know */
	while (parts->ndigits > 0 && unlikely(parts->digits[0] == 0))
	{
		parts->digits++;
		parts->ndigits--;
		weight--;
	}
	if (parts->ndigits == 0)
	{
		parts->lead = 0;
		return;
	}

	/* a digit is below 2^14, and no weight makes the upper part negative */
	parts->lead = ((int64) (weight + 0x40000000) << 14) + parts->digits[0];
	if (AUD_NUMERIC_IS_NEGATIVE(num))
		parts->lead = -parts->lead;
}

/* Order of what is behind the first digits, as if both were positive. */
static int
compare_tails(const Parts *a, const Parts *b)
{
	int			common = Min(a->ndigits, b->ndigits);

	for (int i = 1; i < common; i++)
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
	if (pa.lead != pb.lead)
		return pa.lead < pb.lead ? -1 : 1;
	return pa.lead > 0 ? compare_tails(&pa, &pb) : compare_tails(&pb, &pa);
}
