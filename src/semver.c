/*-------------------------------------------------------------------------
 *
 * semver.c
 *	  Semantic versions as semver.org 2.0.0 writes and orders them:
 *
 *		MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD]
 *
 * Strictly: three numbers without leading zeros, identifiers of [0-9A-Za-z-]
 * that are not empty, numeric identifiers of a prerelease without leading
 * zeros, no "v" in front.  Numbers may have any number of digits: they are
 * compared as text, the longer one being the greater.
 *
 * Build metadata has no part in the order, so 1.0.0+a and 1.0.0+b are equal.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "eval.h"

/* Is it one of 0 to 9? */
static inline bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* May it stand in an identifier? */
static inline bool
is_identifier_char(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		c == '-';
}

/* The first character from s on that is not a digit. */
static const char *
skip_digits(const char *s, const char *end)
{
	while (s < end && is_digit(*s))
		s++;
	return s;
}

/* The first character from s on that cannot be in an identifier. */
static const char *
skip_identifier(const char *s, const char *end)
{
	while (s < end && is_identifier_char(*s))
		s++;
	return s;
}

/* Is s[0..end) one number as versions have it: no leading zero, not empty? */
static bool
is_number(const char *s, const char *end)
{
	return end > s && (s[0] != '0' || end == s + 1);
}

/*
 * Reads dot-separated identifiers at *s and moves *s behind them.  With
 * "no_leading_zeros" those of digits alone must be numbers.
 */
static bool
read_identifiers(const char **s, const char *end, bool no_leading_zeros)
{
	for (;;)
	{
		const char *start = *s;

		*s = skip_identifier(start, end);
		if (*s == start)
			return false;
		if (no_leading_zeros && skip_digits(start, *s) == *s &&
			!is_number(start, *s))
			return false;
		if (*s == end || **s != '.')
			return true;
		(*s)++;
	}
}

/* Is the whole of s[0..len) a semantic version? */
bool
aud_semver_valid(const char *s, int len)
{
	const char *end = s + len;

	for (int i = 0; i < 3; i++)
	{
		const char *start = s;

		s = skip_digits(start, end);
		if (!is_number(start, s))
			return false;
		if (i < 2)
		{
			if (s == end || *s != '.')
				return false;
			s++;
		}
	}
	if (s < end && *s == '-')
	{
		s++;
		if (!read_identifiers(&s, end, true))
			return false;
	}
	if (s < end && *s == '+')
	{
		s++;
		if (!read_identifiers(&s, end, false))
			return false;
	}
	return s == end;
}

/* Order of two texts of digits without leading zeros. */
static int
compare_numbers(const char *a, int alen, const char *b, int blen)
{
	if (alen != blen)
		return alen < blen ? -1 : 1;
	return memcmp(a, b, alen);
}

/* Order of two identifiers of a prerelease: numbers before words. */
static int
compare_identifiers(const char *a, int alen, const char *b, int blen)
{
	bool		a_is_number = skip_digits(a, a + alen) == a + alen;
	bool		b_is_number = skip_digits(b, b + blen) == b + blen;
	int			result;

	if (a_is_number != b_is_number)
		return a_is_number ? -1 : 1;
	if (a_is_number)
		return compare_numbers(a, alen, b, blen);
	result = memcmp(a, b, Min(alen, blen));
	return result != 0 ? result : alen - blen;
}

/*
 * Order of two valid versions: below, at or above 0.  What it returns for
 * others is undefined, though it stays within their bounds.
 */
int
aud_semver_compare(const char *a, int alen, const char *b, int blen)
{
	const char *a_end = a + alen;
	const char *b_end = b + blen;

	for (int i = 0; i < 3; i++)
	{
		const char *a_next = skip_digits(a, a_end);
		const char *b_next = skip_digits(b, b_end);
		int			result = compare_numbers(a, a_next - a, b, b_next - b);

		if (result != 0)
			return result;
		a = a_next;
		b = b_next;
		if (i < 2)
		{
			if (a == a_end || b == b_end)
				return 0;
			a++;
			b++;
		}
	}

	/* a version with a prerelease comes before the one without */
	if ((a < a_end && *a == '-') != (b < b_end && *b == '-'))
		return (a < a_end && *a == '-') ? -1 : 1;
	if (a == a_end || *a != '-')
		return 0;

	/* both stand at the '-' or, from the second round on, at a '.' */
	for (;;)
	{
		const char *a_next = skip_identifier(a + 1, a_end);
		const char *b_next = skip_identifier(b + 1, b_end);
		int			result = compare_identifiers(a + 1, a_next - (a + 1),
												 b + 1, b_next - (b + 1));
		bool		a_more;
		bool		b_more;

		if (result != 0)
			return result;
		a = a_next;
		b = b_next;
		a_more = a < a_end && *a == '.';
		b_more = b < b_end && *b == '.';
		if (!a_more || !b_more)
			return (int) a_more - (int) b_more;
	}
}
