/*-------------------------------------------------------------------------
 *
 * eval_text.c
 *	  Text against text: folding case, substrings, LIKE, regular expressions.
 *
 * None of it raises for what a text holds, whatever its length.  That is why
 * LIKE is matched here: PostgreSQL's recurses once per '%' and gives up with
 * an error where the stack ends.  A regular expression that cannot be matched
 * for want of memory does not match.
 *
 * Folding is lower() in the database's collation.  Where that collation lowers
 * ASCII as C does (all but Turkish and its like), texts of ASCII alone are
 * folded without asking it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "regex/regex.h"
#include "utils/formatting.h"
#include "utils/memutils.h"

#include "compat.h"
#include "eval.h"
#include "eval_op.h"

/*
 * str_tolower() wants four bytes for each, in one allocation, and cannot be
 * cancelled: a megabyte takes some 10 ms.
 */
#define FOLD_AT_ONCE	(1024 * 1024)

/* Lowers one ASCII character. */
static inline char
lower_ascii(char c)
{
	return c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
}

/* Does the database's collation lower ASCII as C does?  Found out once. */
static bool
collation_lowers_ascii_plainly(void)
{
	static enum {UNKNOWN, NO, YES} answer = UNKNOWN;

	if (answer == UNKNOWN)
	{
		char		all[127];
		char	   *lowered;
		bool		plain;

		for (int i = 0; i < 127; i++)
			all[i] = i + 1;
		lowered = str_tolower(all, 127, DEFAULT_COLLATION_OID);
		plain = strlen(lowered) == 127;
		for (int i = 0; plain && i < 127; i++)
			plain = lowered[i] == lower_ascii(all[i]);
		pfree(lowered);
		answer = plain ? YES : NO;
	}
	return answer == YES;
}

/* Is there a byte with the high bit set? */
static inline bool
has_high_bit(const char *s, int len)
{
	for (int i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(s[i]))
			return true;
	}
	return false;
}

/*
 * How much of a text, too long for one call, is to be lowered next: up to a
 * blank, if there is one near, as a word's end may count (the Greek sigma's
 * does); else up to any character.
 */
static int
fold_part(const char *s, int len)
{
	int			part = pg_mbcliplen(s, len, FOLD_AT_ONCE);

	if (part < len)
		for (int i = part; i > part - 1000; i--)
			if (s[i - 1] == ' ')
				return i;
	return part;
}

/*
 * Lowers by the database's collation.  Texts too long for one call are
 * lowered in parts.  palloc'ed.
 */
static AudBytes
fold_by_collation(const char *s, int len)
{
	AudBytes	result;
	StringInfoData parts;

	if (len <= FOLD_AT_ONCE)
	{
		result.data = str_tolower(s, len, DEFAULT_COLLATION_OID);
		result.len = strlen(result.data);
		return result;
	}
	initStringInfo(&parts);
	while (len > 0)
	{
		int			part = fold_part(s, len);
		char	   *lowered = str_tolower(s, part, DEFAULT_COLLATION_OID);

		CHECK_FOR_INTERRUPTS();
		appendStringInfoString(&parts, lowered);
		pfree(lowered);
		s += part;
		len -= part;
	}
	result.data = parts.data;
	result.len = parts.len;
	return result;
}

/*
 * The folded text, in *room or, when long, palloc'ed by it: call
 * aud_text_fold_end() when done with the result.
 */
AudBytes
aud_text_fold(const char *s, int len, AudFoldRoom *room)
{
	AudBytes	result;

	if (collation_lowers_ascii_plainly() && !has_high_bit(s, len))
	{
		char	   *folded = room->local;

		room->allocated = NULL;
		if (len > (int) sizeof(room->local))
			folded = room->allocated = palloc(len);
		for (int i = 0; i < len; i++)
			folded[i] = lower_ascii(s[i]);
		result.data = folded;
		result.len = len;
		return result;
	}
	result = fold_by_collation(s, len);
	room->allocated = unconstify(char *, result.data);
	return result;
}

/* Gives back what aud_text_fold() allocated for this room, if anything. */
void
aud_text_fold_end(AudFoldRoom *room)
{
	if (room->allocated != NULL)
		pfree(room->allocated);
	room->allocated = NULL;
}

/*
 * May the bytes of one character occur inside another's?  Not in UTF-8, nor
 * where a character is a byte.
 */
static inline bool
bytes_may_mislead(void)
{
	return GetDatabaseEncoding() != PG_UTF8 &&
		pg_database_encoding_max_length() > 1;
}

/* Does a character begin at s + position? */
static bool
is_character_start(const char *s, int position)
{
	int			i = 0;

	while (i < position)
		i += pg_mblen(s + i);
	return i == position;
}

/* Is "part" a substring of s[0..len)? */
bool
aud_text_contains(const char *s, int len, const char *part, int part_len)
{
	const char *at = s;
	const char *end = s + len;

	if (part_len == 0)
		return true;
	while (end - at >= part_len)
	{
		at = memchr(at, part[0], end - at - part_len + 1);
		if (at == NULL)
			return false;
		if (memcmp(at, part, part_len) == 0 &&
			(!bytes_may_mislead() || is_character_start(s, at - s)))
			return true;
		at++;
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

/* Does s[0..len) begin with "part"? */
bool
aud_text_starts_with(const char *s, int len, const char *part, int part_len)
{
	return len >= part_len && memcmp(s, part, part_len) == 0;
}

/* Does s[0..len) end with "part"? */
bool
aud_text_ends_with(const char *s, int len, const char *part, int part_len)
{
	return len >= part_len &&
		memcmp(s + len - part_len, part, part_len) == 0 &&
		(!bytes_may_mislead() || is_character_start(s, len - part_len));
}

/*
 * SQL's LIKE with the escape character '\': does the pattern match the whole
 * of s[0..len)?
 *
 * On a mismatch only the last '%' seen needs to take one character more: what
 * the earlier ones took was enough to get there, and more would leave less.
 * So there is nothing to recurse for, and the time is at most the product of
 * the two lengths.
 */
bool
aud_text_like(const char *s, int len, const char *pattern, int pattern_len)
{
	const char *end = s + len;
	const char *pattern_end = pattern + pattern_len;
	const char *after_percent = NULL;	/* the pattern behind the last '%' */
	const char *retry = NULL;	/* where the text behind that '%' is tried */

	for (;;)
	{
		if (pattern < pattern_end && *pattern == '%')
		{
			after_percent = ++pattern;
			retry = s;
			if (pattern == pattern_end)
				return true;
			continue;
		}
		if (pattern == pattern_end)
		{
			if (s == end)
				return true;
		}
		else if (s == end)
		{
			/* a longer '%' would leave even less for the rest */
			return false;
		}
		else if (*pattern == '_')
		{
			s += pg_mblen(s);
			pattern++;
			continue;
		}
		else
		{
			const char *literal = pattern;

			if (*literal == '\\' && literal + 1 < pattern_end)
				literal++;
			if (*s == *literal)
			{
				s++;
				pattern = literal + 1;
				continue;
			}
		}

		if (after_percent == NULL || retry == end)
			return false;
		CHECK_FOR_INTERRUPTS();
		retry += pg_mblen(retry);
		s = retry;
		pattern = after_percent;
	}
}

/*
 * Is the advanced regular expression found anywhere in s[0..len)?  The
 * pattern was checked when the rule was made; compiled ones are kept by
 * PostgreSQL's cache.  Raises only when it is cancelled.
 */
bool
aud_text_matches(const char *s, int len, text *pattern, bool ignore_case)
{
	regex_t    *regex = RE_compile_and_cache(pattern,
											 REG_ADVANCED | REG_NOSUB |
											 (ignore_case ? REG_ICASE : 0),
											 DEFAULT_COLLATION_OID);
	pg_wchar	local[256];
	pg_wchar   *wide = local;
	size_t		wide_len;
	int			result;

	if (len >= (int) lengthof(local))
		wide = MemoryContextAllocHuge(CurrentMemoryContext,
									  ((Size) len + 1) * sizeof(pg_wchar));
	wide_len = pg_mb2wchar_with_len(s, wide, len);
	result = pg_regexec(regex, wide, wide_len, 0, NULL, 0, NULL, 0);
	if (wide != local)
		pfree(wide);
	if (aud_compat_regex_is_cancelled(result))
	{
		CHECK_FOR_INTERRUPTS();
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling match of regular expression")));
	}
	return result == REG_OKAY;
}
