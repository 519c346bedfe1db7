/*-------------------------------------------------------------------------
 *
 * events.c
 *	  Targets: events as JSON, one and many, and messages of Kafka.
 *
 * This file takes the place of ingest_json.c, which it includes for the
 * functions that are static there.
 *
 *-------------------------------------------------------------------------
 */
#include "../../src/ingest_json.c"	/* NOLINT(bugprone-suspicious-include): for its static functions */

#include "access/xact.h"
#include "utils/resowner.h"

#include "../../bgworker/kafka_check.h"
#include "fuzz.h"

/* What must hold of events that were read. */
static void
check_events(const Events *events)
{
	for (int i = 0; i < events->n; i++)
	{
		TimestampTz time = DatumGetTimestampTz(events->times[i]);
		text	   *texts[3] = {
			DatumGetTextPP(events->user_ids[i]), DatumGetTextPP(events->event_ids[i]), DatumGetTextPP(events->types[i])
		};

		for (int t = 0; t < 3; t++)
		{
			int			len = VARSIZE_ANY_EXHDR(texts[t]);

			fuzz_check(len >= 1 && len <= MAX_TEXT, "an id of %d bytes", len);
			fuzz_check(memchr(VARDATA_ANY(texts[t]), '\0', len) == NULL, "an id with a NUL byte");
		}
		fuzz_check(time >= MIN_TIME && time < END_TIME, "an event at no time");
		fuzz_check(JB_ROOT_IS_OBJECT(DatumGetJsonbP(events->properties[i])), "properties that are no object");
		fuzz_check(events->no_context[i] || JB_ROOT_IS_OBJECT(DatumGetJsonbP(events->contexts[i])),
				   "a context that is no object");
	}
}

/*
 * The whole input: a message of Kafka.  What is taken must have passed
 * the worker's check.
 */
static void
run_message(const FuzzInput *input)
{
	AudKafkaProblem problem = {0};
	bytea	   *message = palloc(VARHDRSZ + input->len);
	bool		passes;
	Events		events;
	Jsonb	   *event;

	SET_VARSIZE(message, VARHDRSZ + input->len);
	memcpy(VARDATA(message), input->data, input->len);
	fuzz_silent = "the check of a message";
	passes = aud_kafka_check_event(input->data, input->len, &problem);
	if (!passes)
		for (const char *c = problem.text; *c != '\0'; c++)
			fuzz_check(*c >= ' ' && *c <= '~', "what is wrong with a message is not ASCII");
	fuzz_check(passes == (problem.sqlstate == 0), "a message that passes with a problem, or neither");
	fuzz_silent = NULL;

	begin_events(&events, false, 1);
	events.default_id = cstring_to_text("topic/0/0");
	event = read_message(&events, PointerGetDatum(message));
	if (!JB_ROOT_IS_OBJECT(event))
		refuse(&events, NULL, "it must be an object");
	add_event(&events, &event->root);
	fuzz_check(passes, "the check refuses what the database takes: %s", problem.text);
	check_events(&events);
}

/*
 * Runs a statement with the input as its jsonb, in a subtransaction that is
 * rolled back; errors are the statement's own but for internal ones.  Then
 * verify() must find nothing, if it went well.
 */
static void
run_statement(const char *statement, Jsonb *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Oid			type = JSONBOID;
	Datum		datum = JsonbPGetDatum(argument);

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		SPI_connect();
		if (SPI_execute_with_args(statement, 1, &type, &datum, NULL, false, 0) < 0)
			fuzz_fail("%s fails", statement);
		fuzz_silent = "verify() after events";
		if (SPI_execute("SELECT v::text FROM audience.verify() v LIMIT 1", true, 0) < 0)
			fuzz_fail("verify() fails");
		if (SPI_processed > 0)
			fuzz_fail("verify() finds: %s", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
		fuzz_silent = NULL;
		SPI_finish();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		if (fuzz_silent != NULL || error->sqlerrcode == ERRCODE_INTERNAL_ERROR)
			fuzz_fail("%s raises %s: %s (%s:%d)", fuzz_silent ? fuzz_silent : statement,
					  unpack_sql_state(error->sqlerrcode), error->message, error->filename, error->lineno);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
}

/* Piece: an event or an array of events, as far as reading goes. */
static void
run_event(const FuzzInput *input)
{
	Jsonb	   *json = fuzz_jsonb(input->pieces[0].data);
	Events		events;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (JB_ROOT_IS_OBJECT(json))
	{
		begin_events(&events, false, 1);
		add_event(&events, &json->root);
		check_events(&events);
		return;
	}
	if (!JB_ROOT_IS_ARRAY(json) || JB_ROOT_IS_SCALAR(json))
		return;
	begin_events(&events, true, JB_ROOT_COUNT(json));
	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
			refuse(&events, NULL, "it must be an object");
		add_event(&events, value.val.binary.data);
	}
	check_events(&events);
}

/*
 * Piece: an array of events, that go all the way, by way of the segments that
 * run.sh makes; or an object: a user's attributes.
 */
static void
run_ingest(const FuzzInput *input)
{
	Jsonb	   *json = fuzz_jsonb(input->pieces[0].data);

	if (JB_ROOT_IS_OBJECT(json))
		run_statement("SELECT audience.profile_set('ann', $1)", json);
	else
		run_statement("SELECT audience.events_ingest($1)", json);
}

const FuzzTarget fuzz_event_targets[] = {
	{"message", run_message},
	{"event", run_event},
	{"ingest", run_ingest},
	{NULL}
};
