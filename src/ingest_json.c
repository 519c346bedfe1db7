/*-------------------------------------------------------------------------
 *
 * ingest_json.c
 *	  Events as JSON: event_ingest, events_ingest, and messages from Kafka.
 *
 *	  {"eventId", "userId", "eventType", "timestamp", "properties", "context"}
 *
 * The whole input is read and checked first, then goes into table events by
 * one INSERT, whose trigger (ingest.c) does the rest.  So a bad event is
 * reported with its place in the input, before anything is written, and many
 * events cost what one large INSERT costs.  The trigger checks again what is
 * checked here: rows reach it by other ways too.
 *
 * The rows are inserted in the order of the primary key, so that two sessions
 * that bring the same events wait for one another and do not deadlock.  Of
 * events that are the same, the first in the input counts.
 *
 * Everything is allocated in the context of the call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "bounds.h"
#include "compat.h"
#include "eval.h"
#include "settings.h"
#include "stats.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_event_ingest);
PG_FUNCTION_INFO_V1(aud_events_ingest);
PG_FUNCTION_INFO_V1(aud_kafka_take_events);

/* lengths of ids and types (SPEC 3) */
#define MAX_TEXT	255

/* years 0001 to 9999, the instants that the language has a text for */
#define MIN_TIME \
	((date2j(1, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)
#define END_TIME \
	((date2j(10000, 1, 1) - POSTGRES_EPOCH_JDATE) * USECS_PER_DAY)
/* from 0001-01-01 to 1970-01-01, in microseconds */
#define UNIX_EPOCH_OFFSET \
	((date2j(1970, 1, 1) - date2j(1, 1, 1)) * USECS_PER_DAY)

/* the events read so far, as the columns of the INSERT */
typedef struct Events
{
	AudClock	clock;
	bool		is_array;		/* the input is an array of events */
	TimestampTz default_time;	/* of an event without one */
	text	   *default_id;		/* of an event without one; NULL: a new one for each */
	int			n;
	Datum	   *user_ids;
	Datum	   *times;
	Datum	   *event_ids;
	Datum	   *types;
	Datum	   *properties;
	Datum	   *contexts;
	bool	   *no_context;
} Events;

static SPIPlanPtr insert_plan = NULL;

/*
 * Where the event that is being read, or one of its members, stands in the
 * input, as errors have it: "/3/timestamp", "the root".
 */
static const char *
location(const Events *events, const char *key)
{
	if (events->is_array)
		return key ? psprintf("/%d/%s", events->n, key) : psprintf("/%d", events->n);
	return key ? psprintf("/%s", key) : "the root";
}

pg_noreturn static void refuse(const Events *events, const char *key, const char *problem);

/* Refuses the event that is being read; key NULL: as a whole. */
static void
refuse(const Events *events, const char *key, const char *problem)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid event"),
			 errdetail("At %s: %s.", location(events, key), problem)));
}

/* The value of a key, NULL where it is absent or null.  Uses *room. */
static JsonbValue *
member(JsonbContainer *event, const char *key, JsonbValue *room)
{
	JsonbValue *value = getKeyJsonValueFromContainer(event, key, strlen(key), room);

	return value != NULL && value->type == jbvNull ? NULL : value;
}

/* The digits of a number that is an integer; of another: refused. */
static text *
integer_text(const Events *events, const char *key, Numeric number)
{
	char	   *digits = numeric_normalize(number);

	/* a jsonb number is finite */
	if (strchr(digits, '.') != NULL)
		refuse(events, key, "a number here must be an integer");
	return cstring_to_text(digits);
}

/*
 * A member that is a text of 1 to 255 bytes, or with "numbers" an integer
 * too; NULL where it is absent.
 */
static text *
read_text(const Events *events, JsonbContainer *event, const char *key, bool numbers)
{
	JsonbValue	room;
	JsonbValue *value = member(event, key, &room);
	text	   *result;

	if (value == NULL)
		return NULL;
	if (value->type == jbvString)
		result = cstring_to_text_with_len(value->val.string.val, value->val.string.len);
	else if (value->type == jbvNumeric && numbers)
		result = integer_text(events, key, value->val.numeric);
	else
		refuse(events, key, numbers ? "it must be a string or an integer" : "it must be a string");
	if (VARSIZE_ANY_EXHDR(result) < 1 || VARSIZE_ANY_EXHDR(result) > MAX_TEXT)
		refuse(events, key, psprintf("it must be 1 to %d bytes long, not %d",
									 MAX_TEXT, (int) VARSIZE_ANY_EXHDR(result)));
	return result;
}

/* As read_text, for a member that must be there. */
static text *
require_text(const Events *events, JsonbContainer *event, const char *key, bool numbers)
{
	text	   *result = read_text(events, event, key, numbers);

	if (result == NULL)
		refuse(events, key, "it must be given");
	return result;
}

/* A version 4 UUID as text. */
static text *
new_event_id(void)
{
	/* gen_random_uuid looks at no argument */
	Datum		uuid = DirectFunctionCall1(gen_random_uuid, (Datum) 0);

	return cstring_to_text(DatumGetCString(DirectFunctionCall1(uuid_out, uuid)));
}

/*
 * Unix milliseconds to an instant, fractions rounded to microseconds, halves
 * up.  False: not in the years 0001 to 9999.
 */
static bool
from_milliseconds(Numeric number, TimestampTz *result)
{
	double		approximate =
		DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(number)));
	Numeric		sum;

	/* far outside; what is left cannot overflow */
	if (fabs(approximate) > 1e15)
		return false;
	/* from year 1 on nothing is negative, so that half up is half away from 0 */
	sum = numeric_add_opt_error(numeric_mul_opt_error(number, int64_to_numeric(1000), NULL),
								int64_to_numeric(UNIX_EPOCH_OFFSET), NULL);
	sum = DatumGetNumeric(DirectFunctionCall2(numeric_round, NumericGetDatum(sum), Int32GetDatum(0)));
	*result = DatumGetInt64(DirectFunctionCall1(numeric_int8, NumericGetDatum(sum))) + MIN_TIME;
	return *result >= MIN_TIME && *result < END_TIME;
}

/* The event's time: now where it is absent. */
static TimestampTz
read_time(const Events *events, JsonbContainer *event)
{
	JsonbValue	room;
	JsonbValue *value = member(event, "timestamp", &room);
	TimestampTz result = events->default_time;

	if (value == NULL)
		;
	else if (value->type == jbvString)
	{
		if (!aud_timestamp_parse(value->val.string.val, value->val.string.len, &result))
			refuse(events, "timestamp", "it must be a timestamp such as \"2026-11-20T09:38:00Z\"");
	}
	else if (value->type == jbvNumeric)
	{
		if (!from_milliseconds(value->val.numeric, &result))
			refuse(events, "timestamp", "milliseconds since 1970 must lie in the years 0001 to 9999");
	}
	else
		refuse(events, "timestamp", "it must be a string or a number of milliseconds since 1970");
	if (result > events->clock.now + events->clock.max_future_skew)
	{
		StringInfoData times;

		initStringInfo(&times);
		appendStringInfoString(&times, "it is ");
		aud_timestamp_append(&times, result);
		appendStringInfoString(&times, ", and now is ");
		aud_timestamp_append(&times, events->clock.now);
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("event is too far in the future"),
				 errdetail("At %s: %s.", location(events, "timestamp"), times.data),
				 errhint("Events may be ahead of now by \"audience.max_future_skew\".")));
	}
	return result;
}

/* A member that is an object; NULL where it is absent. */
static Jsonb *
read_object(const Events *events, JsonbContainer *event, const char *key)
{
	JsonbValue	room;
	JsonbValue *value = member(event, key, &room);

	if (value == NULL)
		return NULL;
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		refuse(events, key, "it must be an object");
	return JsonbValueToJsonb(value);
}

/* An object without members. */
static Jsonb *
empty_object(void)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* Reads one event and adds it; anything wrong with it is an error. */
static void
add_event(Events *events, JsonbContainer *event)
{
	int			n = events->n;
	text	   *event_id;
	Jsonb	   *properties;
	Jsonb	   *context;
	Size		size;

	events->user_ids[n] = PointerGetDatum(require_text(events, event, "userId", true));
	events->types[n] = PointerGetDatum(require_text(events, event, "eventType", false));
	event_id = read_text(events, event, "eventId", true);
	if (event_id == NULL)
		event_id = events->default_id ? events->default_id : new_event_id();
	events->event_ids[n] = PointerGetDatum(event_id);
	events->times[n] = TimestampTzGetDatum(read_time(events, event));
	properties = read_object(events, event, "properties");
	if (properties == NULL)
		properties = empty_object();
	context = read_object(events, event, "context");
	size = VARSIZE(properties) + (context ? VARSIZE(context) : 0);
	if (size > (Size) aud_max_event_size * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("properties and context of an event are too large"),
				 errdetail("At %s: they have %zu bytes; \"audience.max_event_size\" is %d kB.",
						   location(events, NULL), size, aud_max_event_size)));
	events->properties[n] = JsonbPGetDatum(properties);
	events->contexts[n] = JsonbPGetDatum(context);
	events->no_context[n] = context == NULL;
	events->n++;
}

/* Sets *events up for at most n events. */
static void
begin_events(Events *events, bool is_array, int n)
{
	memset(events, 0, sizeof(*events));
	aud_clock_init(&events->clock);
	events->default_time = events->clock.now;
	events->is_array = is_array;
	n = Max(n, 1);
	events->user_ids = palloc(n * sizeof(Datum));
	events->times = palloc(n * sizeof(Datum));
	events->event_ids = palloc(n * sizeof(Datum));
	events->types = palloc(n * sizeof(Datum));
	events->properties = palloc(n * sizeof(Datum));
	events->contexts = palloc(n * sizeof(Datum));
	events->no_context = palloc(n * sizeof(bool));
}

/*
 * The plan of the INSERT, kept for the session; generic, as planning with the
 * arrays' contents would cost more than it could gain.
 */
static SPIPlanPtr
get_insert_plan(void)
{
	static const Oid types[] = {
		TEXTARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID,
		TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID
	};

	return aud_store_plan(&insert_plan,
						  "INSERT INTO audience.events "
						  "(user_id, occurred_at, event_id, event_type, properties, context) "
						  "SELECT u.user_id, u.occurred_at, u.event_id, u.event_type, u.properties, u.context "
						  "FROM unnest($1, $2, $3, $4, $5, $6) "
						  "u (user_id, occurred_at, event_id, event_type, properties, context) "
						  "ON CONFLICT DO NOTHING",
						  lengthof(types), types, CURSOR_OPT_GENERIC_PLAN);
}

/* Compares texts as the C collation does. */
static int
compare_texts(Datum a, Datum b)
{
	text	   *left = DatumGetTextPP(a);
	text	   *right = DatumGetTextPP(b);
	Size		left_len = VARSIZE_ANY_EXHDR(left);
	Size		right_len = VARSIZE_ANY_EXHDR(right);
	int			result = memcmp(VARDATA_ANY(left), VARDATA_ANY(right), Min(left_len, right_len));

	if (result != 0)
		return result;
	return left_len < right_len ? -1 : left_len > right_len ? 1 : 0;
}

/* Orders places of events by the primary key, and equal ones as they came. */
static int
compare_events(const void *a, const void *b, void *arg)
{
	const Events *events = arg;
	int			left = *(const int *) a;
	int			right = *(const int *) b;
	int			result = compare_texts(events->user_ids[left], events->user_ids[right]);
	TimestampTz left_time = DatumGetTimestampTz(events->times[left]);
	TimestampTz right_time = DatumGetTimestampTz(events->times[right]);

	CHECK_FOR_INTERRUPTS();
	if (result != 0)
		return result;
	if (left_time != right_time)
		return left_time < right_time ? -1 : 1;
	result = compare_texts(events->event_ids[left], events->event_ids[right]);
	return result != 0 ? result : left - right;
}

/* A column in another order, palloc'ed. */
static Datum *
reorder(const Datum *column, const int *order, int n)
{
	Datum	   *result = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		result[i] = column[order[i]];
	return result;
}

/* Puts the events in the order of the primary key. */
static void
sort_events(Events *events)
{
	int			n = events->n;
	int		   *order = palloc(n * sizeof(int));
	bool	   *no_context = palloc(n * sizeof(bool));

	for (int i = 0; i < n; i++)
		order[i] = i;
	qsort_arg(order, n, sizeof(int), compare_events, events);
	for (int i = 0; i < n; i++)
		no_context[i] = events->no_context[order[i]];
	events->user_ids = reorder(events->user_ids, order, n);
	events->times = reorder(events->times, order, n);
	events->event_ids = reorder(events->event_ids, order, n);
	events->types = reorder(events->types, order, n);
	events->properties = reorder(events->properties, order, n);
	events->contexts = reorder(events->contexts, order, n);
	events->no_context = no_context;
}

/* Inserts the events; how many were new. */
static int64
insert_events(Events *events)
{
	Datum		args[6];
	int64		count;
	int			result;

	if (events->n == 0)
		return 0;
	if (events->n > 1)
		sort_events(events);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	args[0] = aud_store_array(events->user_ids, NULL, events->n, TEXTOID);
	args[1] = aud_store_array(events->times, NULL, events->n, TIMESTAMPTZOID);
	args[2] = aud_store_array(events->event_ids, NULL, events->n, TEXTOID);
	args[3] = aud_store_array(events->types, NULL, events->n, TEXTOID);
	args[4] = aud_store_array(events->properties, NULL, events->n, JSONBOID);
	args[5] = aud_store_array(events->contexts, events->no_context, events->n, JSONBOID);
	aud_stats_count(AUD_COUNT_SQL, 1);
	result = SPI_execute_plan(get_insert_plan(), args, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "could not insert events: %s", SPI_result_code_string(result));
	count = SPI_processed;
	SPI_finish();
	return count;
}

/*
 * event_ingest(event jsonb) → text: stores an event and evaluates its user;
 * the event's id.  One that is already there changes nothing.
 */
Datum
aud_event_ingest(PG_FUNCTION_ARGS)
{
	Jsonb	   *event = PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0);
	Events		events;

	begin_events(&events, false, 1);
	if (event == NULL || !JB_ROOT_IS_OBJECT(event))
		refuse(&events, NULL, "it must be an object");
	add_event(&events, &event->root);
	insert_events(&events);
	PG_RETURN_DATUM(events.event_ids[0]);
}

/*
 * events_ingest(events jsonb) → bigint: stores an array of events, all or
 * none, and evaluates their users; how many were new.
 */
Datum
aud_events_ingest(PG_FUNCTION_ARGS)
{
	Jsonb	   *array = PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0);
	Events		events;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (array == NULL || !JB_ROOT_IS_ARRAY(array) || JB_ROOT_IS_SCALAR(array))
	{
		begin_events(&events, false, 0);
		refuse(&events, NULL, "it must be an array of events");
	}
	aud_bounds_check_events(JB_ROOT_COUNT(array));
	begin_events(&events, true, JB_ROOT_COUNT(array));
	it = JsonbIteratorInit(&array->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token != WJB_ELEM)
			continue;
		if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
			refuse(&events, NULL, "it must be an object");
		add_event(&events, value.val.binary.data);
	}
	PG_RETURN_INT64(insert_events(&events));
}

/* The elements of an array argument; how many. */
static int
elements(FunctionCallInfo fcinfo, int argument, Oid type, int16 len, bool byval, char align,
		 Datum **values, bool **nulls)
{
	int			n;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(argument), type, len, byval, align, values, nulls, &n);
	return n;
}

/* A message's bytes, which must be UTF-8, as a JSON value in the server's encoding. */
static Jsonb *
read_message(const Events *events, Datum message)
{
	bytea	   *bytes = DatumGetByteaPP(message);
	int			len = VARSIZE_ANY_EXHDR(bytes);
	/* all of it, for the conversion looks at all: pnstrdup would end at a NUL byte */
	char	   *copy = palloc(len + 1);

	memcpy(copy, VARDATA_ANY(bytes), len);
	copy[len] = '\0';
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(pg_any_to_server(copy, len, PG_UTF8))));
}

/*
 * kafka_take_events(topic, partitions, offsets, times, messages bytea[]) →
 * bigint: stores messages as events, all or none, and evaluates their users;
 * how many were new.  An event without an id has its place as one, and one
 * without a time its message's (null: now).
 */
Datum
aud_kafka_take_events(PG_FUNCTION_ARGS)
{
	char	   *topic = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum	   *partitions,
			   *offsets,
			   *times,
			   *messages;
	bool	   *nulls,
			   *no_time,
			   *no_message;
	int			n = elements(fcinfo, 1, INT4OID, sizeof(int32), true, TYPALIGN_INT, &partitions, &nulls);
	Events		events;

	if (elements(fcinfo, 2, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &offsets, &nulls) != n ||
		elements(fcinfo, 3, TIMESTAMPTZOID, sizeof(TimestampTz), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &times, &no_time) != n ||
		elements(fcinfo, 4, BYTEAOID, -1, false, TYPALIGN_INT, &messages, &no_message) != n)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays must be of one length")));
	begin_events(&events, false, n);
	for (int i = 0; i < n; i++)
	{
		Jsonb	   *event;

		CHECK_FOR_INTERRUPTS();
		if (no_message[i])
			refuse(&events, NULL, "the message has no value");
		event = read_message(&events, messages[i]);
		if (!JB_ROOT_IS_OBJECT(event))
			refuse(&events, NULL, "it must be an object");
		events.default_id = cstring_to_text(psprintf("%s/%d/" INT64_FORMAT, topic, DatumGetInt32(partitions[i]),
													 DatumGetInt64(offsets[i])));
		events.default_time = no_time[i] ? events.clock.now : DatumGetTimestampTz(times[i]);
		add_event(&events, &event->root);
	}
	PG_RETURN_INT64(insert_events(&events));
}
