/*-------------------------------------------------------------------------
 *
 * kafka_check.c
 *	  Which messages cannot be taken, whatever the database says: the only file
 *	  that includes jansson.
 *
 * A batch of messages goes to the database as it came.  Only if that refuses
 * it are its messages looked at one by one, here first: what is no JSON, or
 * not the JSON of an event, is found without a transaction to be undone for
 * each.  Whatever passes may still be refused; then the batch is halved until
 * the guilty ones are alone (consumer.c).  So this may be too kind, but must
 * not refuse what audience.kafka_take_events takes.
 *
 * jansson's own limits are therefore not ours: a number too large for a double
 * is none for jsonb, and depth is judged by the database.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <jansson.h>

#include "kafka_check.h"

/* of ids and types */
#define MAX_TEXT	255

/* Says what is wrong, in ASCII: what is quoted of the message may be anything; false. */
static bool pg_attribute_printf(3, 4)
refuse(AudKafkaProblem *problem, int sqlstate, const char *format,...)
{
	va_list		args;

	problem->sqlstate = sqlstate;
	va_start(args, format);
	vsnprintf(problem->text, sizeof(problem->text), format, args);
	va_end(args);
	for (char *c = problem->text; *c != '\0'; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return false;
}

/* Is a member absent, or null? */
static bool
is_missing(const json_t *member)
{
	return member == NULL || json_is_null(member);
}

/* Is a member a text of 1 to 255 bytes, or, with "numbers", an integer? */
static bool
check_text(const json_t *event, const char *key, bool required, bool numbers, AudKafkaProblem *problem)
{
	const json_t *member = json_object_get(event, key);
	size_t		len;

	if (is_missing(member))
		return !required ||
			refuse(problem, ERRCODE_INVALID_PARAMETER_VALUE, "invalid event: at /%s: it must be given", key);
	if (numbers && json_is_number(member))
		return true;
	if (!json_is_string(member))
		return refuse(problem, ERRCODE_INVALID_PARAMETER_VALUE, "invalid event: at /%s: it must be a string%s",
					  key, numbers ? " or an integer" : "");
	len = json_string_length(member);
	return (len >= 1 && len <= MAX_TEXT) ||
		refuse(problem, ERRCODE_INVALID_PARAMETER_VALUE, "invalid event: at /%s: it must be 1 to %d bytes long, not %zu",
			   key, MAX_TEXT, len);
}

/* Is a member an object, if it is there? */
static bool
check_object(const json_t *event, const char *key, AudKafkaProblem *problem)
{
	const json_t *member = json_object_get(event, key);

	return is_missing(member) || json_is_object(member) ||
		refuse(problem, ERRCODE_INVALID_PARAMETER_VALUE, "invalid event: at /%s: it must be an object", key);
}

/* Are the members of an event what they must be? */
static bool
check_members(const json_t *event, AudKafkaProblem *problem)
{
	const json_t *timestamp;

	if (!json_is_object(event))
		return refuse(problem, ERRCODE_INVALID_PARAMETER_VALUE, "invalid event: at the root: it must be an object");
	timestamp = json_object_get(event, "timestamp");
	if (!is_missing(timestamp) && !json_is_string(timestamp) && !json_is_number(timestamp))
		return refuse(problem, ERRCODE_INVALID_PARAMETER_VALUE,
					  "invalid event: at /timestamp: it must be a string or a number of milliseconds since 1970");
	return check_text(event, "userId", true, true, problem) &&
		check_text(event, "eventType", true, false, problem) &&
		check_text(event, "eventId", false, true, problem) &&
		check_object(event, "properties", problem) &&
		check_object(event, "context", problem);
}

/* True unless a message certainly is no event; then what is wrong with it. */
bool
aud_kafka_check_event(const char *value, size_t len, AudKafkaProblem *problem)
{
	json_error_t error;
	json_t	   *event = json_loadb(value, len, JSON_DECODE_ANY, &error);
	bool		good;

	if (event == NULL)
	{
		enum json_error_code code = json_error_code(&error);

		if (code == json_error_numeric_overflow || code == json_error_stack_overflow ||
			code == json_error_out_of_memory)
			return true;
		return refuse(problem, ERRCODE_INVALID_TEXT_REPRESENTATION, "invalid JSON: %s at byte %d",
					  error.text, error.position);
	}
	good = check_members(event, problem);
	json_decref(event);
	return good;
}
