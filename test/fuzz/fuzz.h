/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *	  What the files of the fuzzing harness share; see README.md.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_FUZZ_H
#define AUD_FUZZ_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "eval.h"

/* most pieces of one input, divided by NUL bytes */
#define FUZZ_PIECES		4

/* a part of an input, NUL-terminated */
typedef struct FuzzPiece
{
	char	   *data;
	int			len;
} FuzzPiece;

/*
 * An input.  "pieces" are copies of what stands between its NUL bytes, with
 * whatever is not valid in the server's encoding replaced, as no text in a
 * server can hold it; those that are missing are empty.
 */
typedef struct FuzzInput
{
	const char *data;
	int			len;
	FuzzPiece	pieces[FUZZ_PIECES];
} FuzzInput;

/* one thing to fuzz: a name, and what is done with an input */
typedef struct FuzzTarget
{
	const char *name;
	void		(*run) (const FuzzInput *input);
} FuzzTarget;

/*
 * While this is set no error may be raised: what may not, for messages.  An
 * error without it ends the input, and is one of the ways it may end, unless
 * its SQLSTATE is XX000.
 */
extern const char *fuzz_silent;

/* fuzz.c */
extern void fuzz_fail(const char *format,...) pg_attribute_printf(1, 2) pg_attribute_noreturn();

#define fuzz_check(condition, ...) \
	do { \
		if (!(condition)) \
			fuzz_fail(__VA_ARGS__); \
	} while (0)

/* the clock that everything here is evaluated by */
extern AudClock fuzz_clock(void);

/* a text as jsonb; raises as jsonb_in does */
extern Jsonb *fuzz_jsonb(const char *text);

/* rules.c, values.c, events.c: their targets, ended by one without a name */
extern const FuzzTarget fuzz_rule_targets[];
extern const FuzzTarget fuzz_value_targets[];
extern const FuzzTarget fuzz_event_targets[];

#endif							/* AUD_FUZZ_H */
