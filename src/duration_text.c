/*-------------------------------------------------------------------------
 *
 * duration_text.c
 *	  Durations as text: SQL intervals without months and years (SPEC 2.3).
 *
 *	  [@] {number unit [,]} [[days] [-]hours:minutes[:seconds]] [number] [ago]
 *	  P [nW] [nD] [T [nH] [nM] [nS]]
 *
 * A number without a unit counts seconds, as in SQL; numbers may have a sign
 * and a fraction.  This is not interval_in(), because that depends on the
 * setting intervalstyle, which a rule must not, and raises errors.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/int.h"

#include "eval.h"
#include "rule_parse.h"

/* digits of a fraction that are looked at */
#define MAX_FRACTION			18

#define USECS_PER_WEEK			(7 * USECS_PER_DAY)

static const char problem_syntax[] = "it is written as in \"30 days\", \"12:30:00\" or \"P1DT12H\"";
static const char problem_months[] = "months and years have no fixed length";
static const char problem_range[] = "it is too long";
static const char problem_sign[] = "it must be above zero";

typedef struct Unit
{
	const char *name;
	int64		usecs;			/* 0: of no fixed length */
} Unit;

/* the names that interval_in() knows */
static const Unit units[] = {
	{"us", 1}, {"usec", 1}, {"usecs", 1}, {"usecond", 1}, {"useconds", 1},
	{"microsecond", 1}, {"microseconds", 1},
	{"ms", 1000}, {"msec", 1000}, {"msecs", 1000}, {"msecond", 1000},
	{"mseconds", 1000}, {"millisecond", 1000}, {"milliseconds", 1000},
	{"s", USECS_PER_SEC}, {"sec", USECS_PER_SEC}, {"secs", USECS_PER_SEC},
	{"second", USECS_PER_SEC}, {"seconds", USECS_PER_SEC},
	{"m", USECS_PER_MINUTE}, {"min", USECS_PER_MINUTE}, {"mins", USECS_PER_MINUTE},
	{"minute", USECS_PER_MINUTE}, {"minutes", USECS_PER_MINUTE},
	{"h", USECS_PER_HOUR}, {"hr", USECS_PER_HOUR}, {"hrs", USECS_PER_HOUR},
	{"hour", USECS_PER_HOUR}, {"hours", USECS_PER_HOUR},
	{"d", USECS_PER_DAY}, {"day", USECS_PER_DAY}, {"days", USECS_PER_DAY},
	{"w", USECS_PER_WEEK}, {"week", USECS_PER_WEEK}, {"weeks", USECS_PER_WEEK},
	{"mon", 0}, {"mons", 0}, {"month", 0}, {"months", 0},
	{"qtr", 0}, {"quarter", 0}, {"quarters", 0},
	{"y", 0}, {"yr", 0}, {"yrs", 0}, {"year", 0}, {"years", 0},
	{"dec", 0}, {"decs", 0}, {"decade", 0}, {"decades", 0},
	{"c", 0}, {"cent", 0}, {"century", 0}, {"centuries", 0},
	{"mil", 0}, {"mils", 0}, {"millennium", 0}, {"millennia", 0}
};

/* a text while it is read, and what it has come to */
typedef struct Reader
{
	const char *s;
	const char *end;
	int64		total;
	const char *problem;
} Reader;

/* a number as written */
typedef struct Number
{
	bool		negative;
	int64		integer;
	int64		fraction;		/* in units of 10^-MAX_FRACTION */
	int			ndigits;		/* before the point */
	bool		has_fraction;
} Number;

/* Records what is wrong; always false. */
static bool
fail(Reader *reader, const char *problem)
{
	reader->problem = problem;
	return false;
}

/* The next character, 0 at the end. */
static char
peek(const Reader *reader)
{
	return reader->s < reader->end ? *reader->s : '\0';
}

/* Skips blanks. */
static void
skip_blanks(Reader *reader)
{
	while (reader->s < reader->end && strchr(" \t\n\r\f\v", *reader->s) != NULL)
		reader->s++;
}

/* Reads what may stand behind a number with its unit: a comma, or "ago" at the end. */
static void
skip_to_next(Reader *reader)
{
	skip_blanks(reader);
	if (reader->end - reader->s == 3 && pg_strncasecmp(reader->s, "ago", 3) == 0)
	{
		reader->total = -reader->total;
		reader->s = reader->end;
	}
	else if (peek(reader) == ',')
	{
		reader->s++;
		skip_blanks(reader);
	}
}

/* Reads digits with a sign and a fraction. */
static bool
read_number(Reader *reader, Number *number)
{
	int			nfraction = 0;

	memset(number, 0, sizeof(Number));
	if (peek(reader) == '-' || peek(reader) == '+')
		number->negative = *reader->s++ == '-';
	while (peek(reader) >= '0' && peek(reader) <= '9')
	{
		if (pg_mul_s64_overflow(number->integer, 10, &number->integer) ||
			pg_add_s64_overflow(number->integer, *reader->s - '0', &number->integer))
			return fail(reader, problem_range);
		number->ndigits++;
		reader->s++;
	}
	if (peek(reader) == '.')
	{
		number->has_fraction = true;
		reader->s++;
		for (; peek(reader) >= '0' && peek(reader) <= '9'; reader->s++)
		{
			if (nfraction >= MAX_FRACTION)
				continue;
			number->fraction = number->fraction * 10 + (*reader->s - '0');
			nfraction++;
		}
		if (nfraction == 0 && number->ndigits == 0)
			return fail(reader, problem_syntax);
		for (; nfraction < MAX_FRACTION; nfraction++)
			number->fraction *= 10;
	}
	else if (number->ndigits == 0)
		return fail(reader, problem_syntax);
	return true;
}

/* Adds a number of units to the total; parts of microseconds are rounded. */
static bool
add(Reader *reader, const Number *number, int64 usecs)
{
	int64		part = (int64) rint(number->fraction / 1e18 * usecs);
	int64		amount;

	if (pg_mul_s64_overflow(number->integer, usecs, &amount) ||
		pg_add_s64_overflow(amount, part, &amount) ||
		pg_add_s64_overflow(reader->total, number->negative ? -amount : amount,
							&reader->total))
		return fail(reader, problem_range);
	return true;
}

/* Reads the rest of hours:minutes[:seconds], "hours" being there, and adds it. */
static bool
read_clock(Reader *reader, const Number *hours)
{
	Number		minutes;
	Number		seconds;

	memset(&seconds, 0, sizeof(seconds));
	reader->s++;
	if (!read_number(reader, &minutes))
		return false;
	if (peek(reader) == ':')
	{
		reader->s++;
		if (!read_number(reader, &seconds))
			return false;
	}
	if (hours->has_fraction || minutes.has_fraction ||
		minutes.ndigits > 2 || minutes.integer >= 60 ||
		seconds.ndigits > 2 || seconds.integer >= 60 ||
		minutes.negative || seconds.negative)
		return fail(reader, problem_syntax);
	minutes.negative = seconds.negative = hours->negative;
	return add(reader, hours, USECS_PER_HOUR) &&
		add(reader, &minutes, USECS_PER_MINUTE) &&
		add(reader, &seconds, USECS_PER_SEC);
}

/* Reads a word in lower case into a buffer; longer words are cut. */
static void
read_word(Reader *reader, char *word, int size)
{
	int			len = 0;

	for (; pg_ascii_tolower((unsigned char) peek(reader)) >= 'a' &&
		 pg_ascii_tolower((unsigned char) peek(reader)) <= 'z'; reader->s++)
	{
		if (len < size - 1)
			word[len++] = pg_ascii_tolower((unsigned char) *reader->s);
	}
	word[len] = '\0';
}

/* Reads one number with its unit, or a time, and adds it. */
static bool
read_part(Reader *reader)
{
	Number		number;
	char		word[20];

	if (!read_number(reader, &number))
		return false;
	if (peek(reader) == ':')
		return read_clock(reader, &number);
	skip_blanks(reader);
	read_word(reader, word, sizeof(word));
	if (word[0] == '\0')
	{
		const char *s = reader->s;
		const char *number_end;

		/* "1 12:00:00": a number before a time counts days */
		while (s < reader->end && (*s == '-' || *s == '+'))
			s++;
		number_end = s;
		while (s < reader->end && *s >= '0' && *s <= '9')
			s++;
		if (s > number_end && s < reader->end && *s == ':')
			return add(reader, &number, USECS_PER_DAY);
		if (reader->s < reader->end)
			return fail(reader, problem_syntax);
		return add(reader, &number, USECS_PER_SEC);
	}
	for (size_t i = 0; i < lengthof(units); i++)
	{
		if (strcmp(units[i].name, word) != 0)
			continue;
		if (units[i].usecs == 0)
			return fail(reader, problem_months);
		return add(reader, &number, units[i].usecs);
	}
	return fail(reader, problem_syntax);
}

/* Reads an ISO 8601 duration after its P. */
static bool
read_iso(Reader *reader)
{
	bool		in_time = false;
	bool		any = false;

	while (reader->s < reader->end)
	{
		Number		number;
		int64		usecs = 0;
		char		unit;

		if (!in_time && pg_ascii_tolower((unsigned char) *reader->s) == 't')
		{
			in_time = true;
			any = false;
			reader->s++;
			continue;
		}
		if (!read_number(reader, &number))
			return false;
		any = true;
		unit = pg_ascii_tolower((unsigned char) peek(reader));
		reader->s++;
		if (!in_time && (unit == 'y' || unit == 'm'))
			return fail(reader, problem_months);
		if (!in_time && unit == 'w')
			usecs = USECS_PER_WEEK;
		else if (!in_time && unit == 'd')
			usecs = USECS_PER_DAY;
		else if (in_time && unit == 'h')
			usecs = USECS_PER_HOUR;
		else if (in_time && unit == 'm')
			usecs = USECS_PER_MINUTE;
		else if (in_time && unit == 's')
			usecs = USECS_PER_SEC;
		else
			return fail(reader, problem_syntax);
		if (!add(reader, &number, usecs))
			return false;
	}
	return any ? true : fail(reader, problem_syntax);
}

/* See eval.h. */
bool
aud_duration_parse(const char *s, int len, int64 *result, const char **problem)
{
	Reader		reader;

	reader.s = s;
	reader.end = s + len;
	reader.total = 0;
	reader.problem = NULL;

	skip_blanks(&reader);
	while (reader.end > reader.s && strchr(" \t\n\r\f\v", reader.end[-1]) != NULL)
		reader.end--;
	if (peek(&reader) == 'P')
	{
		reader.s++;
		(void) read_iso(&reader);
	}
	else
	{
		if (peek(&reader) == '@')
		{
			reader.s++;
			skip_blanks(&reader);
		}
		if (reader.s >= reader.end)
			(void) fail(&reader, problem_syntax);
		while (reader.s < reader.end && reader.problem == NULL)
		{
			if (read_part(&reader))
				skip_to_next(&reader);
		}
	}

	if (reader.problem == NULL && reader.total <= 0)
		(void) fail(&reader, problem_sign);
	if (reader.problem == NULL && reader.total > AUD_MAX_DURATION)
		(void) fail(&reader, problem_range);
	*problem = reader.problem;
	*result = reader.total;
	return reader.problem == NULL;
}

/*
 * Appends a duration, in microseconds, in the largest of days, hours, minutes
 * and seconds that divides it; seconds may have a fraction.
 */
void
aud_duration_append(StringInfo buf, int64 duration)
{
	static const struct
	{
		int64		usecs;
		const char *name;
	}			printed[] =
	{
		{USECS_PER_DAY, "day"},
		{USECS_PER_HOUR, "hour"},
		{USECS_PER_MINUTE, "minute"},
		{USECS_PER_SEC, "second"}
	};
	int64		fraction = duration % USECS_PER_SEC;
	int			width = 6;

	for (size_t i = 0; i < lengthof(printed); i++)
	{
		int64		n = duration / printed[i].usecs;

		if (duration % printed[i].usecs != 0)
			continue;
		appendStringInfo(buf, INT64_FORMAT " %s%s", n, printed[i].name, n == 1 ? "" : "s");
		return;
	}

	while (fraction % 10 == 0)
	{
		fraction /= 10;
		width--;
	}
	appendStringInfo(buf, INT64_FORMAT ".%0*d seconds", duration / USECS_PER_SEC,
					 width, (int) fraction);
}
