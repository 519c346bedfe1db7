/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  Runs libFuzzer inside a backend.
 *
 * What is fuzzed needs a backend around it (memory contexts, ereport, the
 * catalogs), so libFuzzer is a guest: the function fuzz_run, called in a
 * single-user server, hands libFuzzer's driver the arguments of its command
 * line, and each input is then a call from there.  The driver does not
 * return; it ends the process by exit(), which shuts the server down.
 *
 * This file and its neighbours are linked into a copy of the extension's
 * module that is built with clang's instrumentation (run.sh); they are part
 * of no other build.
 *
 * AddressSanitizer sees what malloc gives out, and a memory context asks for
 * blocks of many chunks.  So contexts made by the module are told to give each
 * chunk a block of its own: what reads or writes beyond it, or after it is
 * freed, is found.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "fuzz.h"

PG_FUNCTION_INFO_V1(fuzz_run);

/* of libFuzzer */
extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*callback) (const uint8 *data, size_t size));

/* aset.c's, up to the field that is changed */
typedef struct AllocSetHead
{
	MemoryContextData header;
	void	   *blocks;
	void	   *freelist[11];
	Size		initBlockSize;
	Size		maxBlockSize;
	Size		nextBlockSize;
	Size		allocChunkLimit;
} AllocSetHead;

/* the linker has the module's calls of the one come to the other */
extern MemoryContext __real_AllocSetContextCreateInternal(MemoryContext parent, const char *name,
														  Size minContextSize, Size initBlockSize,
														  Size maxBlockSize);
extern MemoryContext __wrap_AllocSetContextCreateInternal(MemoryContext parent, const char *name,
														  Size minContextSize, Size initBlockSize,
														  Size maxBlockSize);

const char *fuzz_silent = NULL;

static const FuzzTarget *target;
static MemoryContext input_context;

/* Makes a context that gives each chunk a block of its own. */
MemoryContext
__wrap_AllocSetContextCreateInternal(MemoryContext parent, const char *name, Size minContextSize,
									 Size initBlockSize, Size maxBlockSize)
{
	MemoryContext context = __real_AllocSetContextCreateInternal(parent, name, minContextSize,
																 initBlockSize, maxBlockSize);
	AllocSetHead *set = (AllocSetHead *) context;

	/* what is not at its place is another PostgreSQL's */
	if (set->initBlockSize != initBlockSize || set->allocChunkLimit > maxBlockSize)
		elog(FATAL, "memory contexts are not what this was written for");
	/* an empty chunk takes eight bytes, and is told apart from one in a block of its own by this */
	set->allocChunkLimit = 8;
	return context;
}

/* See fuzz.h.  Ends the process; libFuzzer keeps the input. */
void
fuzz_fail(const char *format,...)
{
	va_list		args;

	fprintf(stderr, "fuzz: ");
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\n");
	abort();
}

/* See fuzz.h: noon of a day, and an hour's skew. */
AudClock
fuzz_clock(void)
{
	AudClock	clock;

	clock.now = INT64CONST(848404800000000);
	clock.max_future_skew = USECS_PER_HOUR;
	return clock;
}

/* See fuzz.h. */
Jsonb *
fuzz_jsonb(const char *text)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

/* Divides an input into its pieces. */
static void
divide(FuzzInput *input)
{
	const char *at = input->data;
	const char *end = at + input->len;

	for (int i = 0; i < FUZZ_PIECES; i++)
	{
		FuzzPiece  *piece = &input->pieces[i];
		const char *nul = at < end ? memchr(at, '\0', end - at) : NULL;
		int			valid = 0;

		piece->len = (nul ? nul : end) - at;
		piece->data = palloc(piece->len + 1);
		memcpy(piece->data, at, piece->len);
		piece->data[piece->len] = '\0';
		while ((valid += pg_encoding_verifymbstr(GetDatabaseEncoding(), piece->data + valid,
												 piece->len - valid)) < piece->len)
			piece->data[valid] = '?';
		at = nul ? nul + 1 : end;
	}
}

/* Runs the target on an input, and judges the error it ends with, if any. */
static void
run_guarded(FuzzInput *input)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		divide(input);
		target->run(input);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(input_context);
		error = CopyErrorData();
		FlushErrorState();
		if (fuzz_silent != NULL)
			fuzz_fail("%s raises %s: %s (%s:%d)", fuzz_silent, unpack_sql_state(error->sqlerrcode),
					  error->message, error->filename, error->lineno);
		if (error->sqlerrcode == ERRCODE_INTERNAL_ERROR)
			fuzz_fail("internal error: %s (%s:%d)", error->message, error->filename, error->lineno);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
}

/* Takes one input: libFuzzer calls it. */
static int
take_input(const uint8 *data, size_t size)
{
	FuzzInput	input;
	MemoryContext caller = MemoryContextSwitchTo(input_context);

	memset(&input, 0, sizeof(input));
	input.data = (const char *) data;
	input.len = size;
	fuzz_silent = NULL;
	run_guarded(&input);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(input_context);
	CHECK_FOR_INTERRUPTS();
	return 0;
}

/* The target of a name, NULL if there is none. */
static const FuzzTarget *
find_target(const char *name)
{
	const FuzzTarget *const groups[] = {fuzz_rule_targets, fuzz_value_targets, fuzz_event_targets};

	for (size_t g = 0; g < lengthof(groups); g++)
		for (const FuzzTarget *t = groups[g]; t->name != NULL; t++)
			if (strcmp(t->name, name) == 0)
				return t;
	return NULL;
}

/* fuzz_run(target text, arguments text[]): runs libFuzzer; does not return. */
Datum
fuzz_run(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum	   *arguments;
	int			n;
	char	  **argv;
	int			argc;

	target = find_target(name);
	if (target == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no target \"%s\"", name)));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &arguments, NULL, &n);
	argv = palloc0((n + 2) * sizeof(char *));
	argv[0] = pstrdup("fuzz");
	for (int i = 0; i < n; i++)
		argv[i + 1] = TextDatumGetCString(arguments[i]);
	argc = n + 1;
	input_context = AllocSetContextCreate(TopMemoryContext, "fuzz input", ALLOCSET_DEFAULT_SIZES);

	/*
	 * libFuzzer sets a signal handler for the time that an input may take,
	 * and counts on the signal being let through.
	 */
	pqsignal(SIGALRM, SIG_DFL);
	LLVMFuzzerRunDriver(&argc, &argv, take_input);
	/* given files to run, it does return */
	PG_RETURN_VOID();
}
