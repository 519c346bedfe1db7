/*-------------------------------------------------------------------------
 *
 * probe.c
 *	  Errors made on purpose, to see that they are reported.
 *
 * scripts/test-sanitized.sh builds this with the flags of the server, before
 * the tests, and calls each case in a single-user server.  A run that finds
 * nothing says something only where these are found.  It is part of no module
 * that is installed.
 *
 * Each error is in a function of its case's name, by which its report is known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(probe);

/* what must not be known to the compiler */
static volatile int one = 1;
static volatile int sink;

/* A byte behind a chunk is written. */
static pg_noinline void
probe_overrun(void)
{
	volatile char *chunk = palloc(100);

	chunk[99 + one] = 1;
}

/* A byte behind a chunk that fills its place to the end is read. */
static pg_noinline void
probe_overread(void)
{
	volatile char *chunk = palloc0(128);

	sink = chunk[127 + one];
}

/* A chunk is read after it is freed. */
static pg_noinline void
probe_freed(void)
{
	volatile char *chunk = palloc0(100);

	pfree((void *) chunk);
	sink = chunk[one];
}

/* A chunk is read after its context is reset. */
static pg_noinline void
probe_reset(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "probe", ALLOCSET_DEFAULT_SIZES);
	volatile char *chunk = MemoryContextAllocZero(context, 100);

	MemoryContextReset(context);
	sink = chunk[one];
}

/* A byte behind what repalloc has made smaller is read. */
static pg_noinline void
probe_shrunk(void)
{
	volatile char *chunk = repalloc(palloc0(200), 150);

	sink = chunk[149 + one];
}

/* A byte behind what malloc gave is read. */
static pg_noinline void
probe_malloced(void)
{
	volatile char *block = malloc(100);

	memset((char *) block, 0, 100);
	sink = block[99 + one];
	free((void *) block);
}

/* Something is done that depends on what was never written. */
static pg_noinline void
probe_unwritten(void)
{
	volatile char *chunk = palloc(100);

	if (chunk[one] == 'x')
		sink = 1;
}

/* A shift by more bits than there are: undefined behaviour. */
static pg_noinline void
probe_undefined(void)
{
	sink = one << (39 + one);
}

/* An assertion fails. */
static pg_noinline void
probe_assertion(void)
{
	Assert(one == 0);
}

/* probe(text): makes the error of that name. */
Datum
probe(PG_FUNCTION_ARGS)
{
	static const struct
	{
		const char *name;
		void		(*run) (void);
	}			cases[] = {
		{"overrun", probe_overrun},
		{"overread", probe_overread},
		{"freed", probe_freed},
		{"reset", probe_reset},
		{"shrunk", probe_shrunk},
		{"malloced", probe_malloced},
		{"unwritten", probe_unwritten},
		{"undefined", probe_undefined},
		{"assertion", probe_assertion}
	};
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	for (int i = 0; i < lengthof(cases); i++)
		if (strcmp(cases[i].name, name) == 0)
		{
			cases[i].run();
			PG_RETURN_VOID();
		}
	elog(ERROR, "there is no case \"%s\"", name);
}
