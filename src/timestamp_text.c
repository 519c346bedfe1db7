/*-------------------------------------------------------------------------
 *
 * timestamp_text.c
 *	  Timestamps as text, by the strict rule of the language:
 *
 *		YYYY-MM-DD
 *		YYYY-MM-DD(T| )HH:MM[:SS[.f...]][Z|+HH[:MM]|-HH[:MM]]
 *
 * PostgreSQL's own input is not used: it takes hundreds of spellings, depends
 * on DateStyle and TimeZone, and raises.  Here a text is a timestamp or it is
 * not, the same in every session, so that a rule means one thing only.
 *
 * Details that the pattern leaves open: no zone is UTC, and a bare date is its
 * midnight in UTC and takes no zone; hour 24 and second 60 do not exist; a
 * zone is at most 15:59 away, as in PostgreSQL; fractions of any length are
 * rounded to microseconds just as PostgreSQL does it, so that an event's time is
 * the same whichever way it comes; the instant in UTC lies in the years 0001 to
 * 9999, so that what is printed can be read again.
 *
 * Nothing here allocates or raises (aud_timestamp_append: but for the
 * buffer's growth); it may be called from hooks of settings.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/datetime.h"

#include "eval.h"

#define MAX_ZONE_HOUR	15

/* digits of a fraction that are looked at; what follows hardly ever changes a float8 */
#define MAX_FRACTION	40

/*
 * Reads exactly "ndigits" digits at *s into *value and moves *s behind them.
 * Returns false, with *s undefined, when they are not there.
 */
static inline bool
read_digits(const char **s, const char *end, int ndigits, int *value)
{
	const char *p = *s;
	int			result = 0;

	if (end - p < ndigits)
		return false;
	for (int i = 0; i < ndigits; i++)
	{
		unsigned	digit = (unsigned char) p[i] - '0';

		if (digit > 9)
			return false;
		result = result * 10 + digit;
	}
	*s = p + ndigits;
	*value = result;
	return true;
}

/* Takes the character "c" at *s if it stands there; says whether it did. */
static inline bool
take(const char **s, const char *end, char c)
{
	if (*s >= end || **s != c)
		return false;
	(*s)++;
	return true;
}

/*
 * The digits of a fraction as microseconds, rounded by way of a float8, as
 * timestamptz_in does it (ParseFractionalSecond).
 */
static int
round_fraction(const char *digits, int ndigits)
{
	char		text[MAX_FRACTION + 2];

	ndigits = Min(ndigits, MAX_FRACTION);
	text[0] = '.';
	memcpy(text + 1, digits, ndigits);
	text[ndigits + 1] = '\0';
	return (int) rint(strtod(text, NULL) * USECS_PER_SEC);
}

/*
 * Reads HH:MM[:SS[.f...]] at *s into microseconds since midnight, which may
 * be a whole day where the fraction is rounded up.
 */
static bool
read_time(const char **s, const char *end, int64 *result)
{
	int			hour;
	int			minute;
	int			second = 0;
	int			micros = 0;

	if (!read_digits(s, end, 2, &hour) || !take(s, end, ':') ||
		!read_digits(s, end, 2, &minute) || hour > 23 || minute > 59)
		return false;
	if (take(s, end, ':'))
	{
		if (!read_digits(s, end, 2, &second) || second > 59)
			return false;
		if (take(s, end, '.'))
		{
			const char *digits = *s;
			int			ndigits = 0;

			for (; *s < end && **s >= '0' && **s <= '9'; (*s)++, ndigits++)
			{
				if (ndigits < 6)
					micros = micros * 10 + (**s - '0');
			}
			if (ndigits == 0)
				return false;
			if (ndigits > 6)
				micros = round_fraction(digits, ndigits);
			for (; ndigits < 6; ndigits++)
				micros *= 10;
		}
	}
	*result = ((int64) (hour * MINS_PER_HOUR + minute) * SECS_PER_MINUTE +
			   second) * USECS_PER_SEC + micros;
	return true;
}

/*
 * Reads [Z|+HH[:MM]|-HH[:MM]] up to the end into microseconds east of UTC,
 * 0 when nothing is there.
 */
static bool
read_zone(const char *s, const char *end, int64 *result)
{
	int			hour;
	int			minute = 0;
	int			sign;

	*result = 0;
	if (s == end)
		return true;
	if (take(&s, end, 'Z'))
		return s == end;
	if (take(&s, end, '+'))
		sign = 1;
	else if (take(&s, end, '-'))
		sign = -1;
	else
		return false;
	if (!read_digits(&s, end, 2, &hour) || hour > MAX_ZONE_HOUR)
		return false;
	if (take(&s, end, ':') &&
		(!read_digits(&s, end, 2, &minute) || minute > 59))
		return false;
	*result = sign * ((int64) hour * MINS_PER_HOUR + minute) *
		(int64) SECS_PER_MINUTE * USECS_PER_SEC;
	return s == end;
}

/* Days from PostgreSQL's epoch to a date that exists. */
static inline int64
days_of(int year, int month, int day)
{
	return (int64) date2j(year, month, day) - POSTGRES_EPOCH_JDATE;
}

/*
 * Reads the whole of s[0..len) as a timestamp.  True with the instant in
 * *result, or false with *result undefined.
 */
bool
aud_timestamp_parse(const char *s, int len, TimestampTz *result)
{
	const char *end = s + len;
	int			year;
	int			month;
	int			day;
	int64		time = 0;
	int64		zone = 0;
	int64		t;

	if (!read_digits(&s, end, 4, &year) || !take(&s, end, '-') ||
		!read_digits(&s, end, 2, &month) || !take(&s, end, '-') ||
		!read_digits(&s, end, 2, &day))
		return false;
	if (year < 1 || month < 1 || month > MONTHS_PER_YEAR || day < 1 ||
		day > day_tab[isleap(year)][month - 1])
		return false;
	if (s < end)
	{
		if (!take(&s, end, 'T') && !take(&s, end, ' '))
			return false;
		if (!read_time(&s, end, &time) || !read_zone(s, end, &zone))
			return false;
	}

	/* four-digit years leave int64 far from its ends */
	t = days_of(year, month, day) * USECS_PER_DAY + time - zone;
	if (t < days_of(1, 1, 1) * USECS_PER_DAY ||
		t >= days_of(10000, 1, 1) * USECS_PER_DAY)
		return false;
	*result = t;
	return true;
}

/*
 * Appends t as 2026-11-20T09:38:00.123456Z, without the zeros that end the
 * fraction.  What the language has no text for is written so that it is not a
 * timestamp to it: "infinity", "-infinity", years of more than four digits,
 * and a trailing " BC".
 */
void
aud_timestamp_append(StringInfo buf, TimestampTz t)
{
	struct pg_tm tm;
	fsec_t		fraction;

	if (TIMESTAMP_IS_NOBEGIN(t))
		appendStringInfoString(buf, "-infinity");
	else if (TIMESTAMP_IS_NOEND(t))
		appendStringInfoString(buf, "infinity");
	else if (timestamp2tm(t, NULL, &tm, &fraction, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	else
	{
		bool		bc = tm.tm_year <= 0;

		appendStringInfo(buf, "%04d-%02d-%02dT%02d:%02d:%02d",
						 bc ? 1 - tm.tm_year : tm.tm_year,
						 tm.tm_mon, tm.tm_mday,
						 tm.tm_hour, tm.tm_min, tm.tm_sec);
		if (fraction != 0)
		{
			appendStringInfo(buf, ".%06d", (int) fraction);
			while (buf->data[buf->len - 1] == '0')
				buf->data[--buf->len] = '\0';
		}
		appendStringInfoString(buf, bc ? "Z BC" : "Z");
	}
}
