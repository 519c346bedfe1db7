/*-------------------------------------------------------------------------
 *
 * decimal.h
 *	  Exact decimal sums: 64-bit fixed point, numeric when that is too small.
 *
 * Adding an amount to a running total is the engine's commonest arithmetic.
 * As numeric it costs two allocations and a carry loop; as a 64-bit integer
 * with a decimal scale it costs an addition with an overflow check.  Both are
 * exact, so a sum from which an event is taken out again is what it would
 * have been without it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_DECIMAL_H
#define AUD_DECIMAL_H

#include "postgres.h"

#include "utils/numeric.h"

typedef struct AudDecimal
{
	int64		mantissa;		/* value = mantissa / 10^scale */
	int32		scale;			/* 0 to AUD_DECIMAL_MAX_SCALE */
	Numeric		big;			/* if not NULL, the value; the others are void */
} AudDecimal;

#define AUD_DECIMAL_MAX_SCALE	18

extern void aud_decimal_set_int(AudDecimal *d, int64 value);
extern void aud_decimal_set_numeric(AudDecimal *d, Numeric value);
extern void aud_decimal_add(AudDecimal *sum, const AudDecimal *term, bool subtract);
extern void aud_decimal_trim(AudDecimal *d);
extern int	aud_decimal_compare(const AudDecimal *a, const AudDecimal *b);
extern Numeric aud_decimal_numeric(const AudDecimal *d);
extern double aud_decimal_double(const AudDecimal *d);

#endif							/* AUD_DECIMAL_H */
