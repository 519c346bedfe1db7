/*-------------------------------------------------------------------------
 *
 * decimal.c
 *	  Exact decimal sums (decimal.h).
 *
 * A numeric becomes fixed point when its digits fit into 64 bits and it has
 * at most AUD_DECIMAL_MAX_SCALE of them behind the point; all else stays a
 * numeric, and a sum that overflows becomes one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/int.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "decimal.h"
#include "eval.h"
#include "numeric_format.h"

static const int64 power_of_ten[AUD_DECIMAL_MAX_SCALE + 1] = {
	INT64CONST(1), INT64CONST(10), INT64CONST(100), INT64CONST(1000),
	INT64CONST(10000), INT64CONST(100000), INT64CONST(1000000),
	INT64CONST(10000000), INT64CONST(100000000), INT64CONST(1000000000),
	INT64CONST(10000000000), INT64CONST(100000000000),
	INT64CONST(1000000000000), INT64CONST(10000000000000),
	INT64CONST(100000000000000), INT64CONST(1000000000000000),
	INT64CONST(10000000000000000), INT64CONST(100000000000000000),
	INT64CONST(1000000000000000000)
};

/* Sets *d to an integer. */
void
aud_decimal_set_int(AudDecimal *d, int64 value)
{
	d->mantissa = value;
	d->scale = 0;
	d->big = NULL;
}

/*
 * Sets *d to a numeric.  If it does not fit, d->big is the argument itself,
 * which must then outlive *d.
 */
void
aud_decimal_set_numeric(AudDecimal *d, Numeric value)
{
	int			ndigits = AUD_NUMERIC_NDIGITS(value);
	int			weight = AUD_NUMERIC_WEIGHT(value);
	const int16 *digits = AUD_NUMERIC_DIGITS(value);
	int			fraction_groups = ndigits - weight - 1;
	int64		mantissa = 0;

	d->big = value;
	if (AUD_NUMERIC_IS_SPECIAL(value))
		return;
	if (fraction_groups < 0)
		fraction_groups = 0;
	if (weight > 4 || fraction_groups > 4)
		return;
	for (int i = 0; i <= weight + fraction_groups; i++)
	{
		int16		digit = i < ndigits ? digits[i] : 0;

		if (pg_mul_s64_overflow(mantissa, 10000, &mantissa) ||
			pg_add_s64_overflow(mantissa, digit, &mantissa))
			return;
	}
	d->mantissa = AUD_NUMERIC_IS_NEGATIVE(value) ? -mantissa : mantissa;
	d->scale = fraction_groups * 4;
	d->big = NULL;
	aud_decimal_trim(d);
}

/* Strips trailing zeros behind the point; a small numeric becomes fixed point. */
void
aud_decimal_trim(AudDecimal *d)
{
	if (d->big != NULL)
	{
		aud_decimal_set_numeric(d, d->big);
		return;
	}
	while (d->scale > 0 && d->mantissa % 10 == 0)
	{
		d->mantissa /= 10;
		d->scale--;
	}
}

/* Brings *d to a larger scale; false if it does not fit. */
static inline bool
rescale(const AudDecimal *d, int scale, int64 *mantissa)
{
	return scale <= AUD_DECIMAL_MAX_SCALE &&
		!pg_mul_s64_overflow(d->mantissa, power_of_ten[scale - d->scale],
							 mantissa);
}

/*
 * Adds *term to *sum, or takes it away.  A new numeric, if one is needed, is
 * palloc'ed in the current context.
 */
void
aud_decimal_add(AudDecimal *sum, const AudDecimal *term, bool subtract)
{
	if (sum->big == NULL && term->big == NULL)
	{
		int			scale = Max(sum->scale, term->scale);
		int64		a,
					b,
					result;

		if (rescale(sum, scale, &a) && rescale(term, scale, &b) &&
			!(subtract ? pg_sub_s64_overflow(a, b, &result)
			  : pg_add_s64_overflow(a, b, &result)))
		{
			sum->mantissa = result;
			sum->scale = scale;
			return;
		}
	}
	sum->big = DatumGetNumeric(DirectFunctionCall2(subtract ? numeric_sub : numeric_add,
												   NumericGetDatum(aud_decimal_numeric(sum)),
												   NumericGetDatum(aud_decimal_numeric(term))));
	aud_decimal_trim(sum);
}

/* Exact order: below, at or above 0 as *a is below, at or above *b. */
int
aud_decimal_compare(const AudDecimal *a, const AudDecimal *b)
{
	if (a->big == NULL && b->big == NULL)
	{
		int			scale = Max(a->scale, b->scale);
		int128		left = (int128) a->mantissa * power_of_ten[scale - a->scale];
		int128		right = (int128) b->mantissa * power_of_ten[scale - b->scale];

		return (left > right) - (left < right);
	}
	return aud_numeric_compare(aud_decimal_numeric(a), aud_decimal_numeric(b));
}

/* The value as a numeric without trailing zeros, palloc'ed unless it is d->big. */
Numeric
aud_decimal_numeric(const AudDecimal *d)
{
	AudDecimal	trimmed = *d;

	if (d->big != NULL)
		return d->big;
	aud_decimal_trim(&trimmed);
	if (trimmed.scale == 0)
		return int64_to_numeric(trimmed.mantissa);
	return int64_div_fast_to_numeric(trimmed.mantissa, trimmed.scale);
}

/* The nearest double or its neighbour; infinite where a numeric is beyond them. */
double
aud_decimal_double(const AudDecimal *d)
{
	if (d->big == NULL)
		return (double) d->mantissa / (double) power_of_ten[d->scale];
	else
	{
		char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
															   NumericGetDatum(d->big)));
		double		result = strtod(text, NULL);

		pfree(text);
		return result;
	}
}
