/*-------------------------------------------------------------------------
 *
 * settings.c
 *	  The extension's settings and the clock that hangs on one of them.
 *
 * "audience.now" replaces the transaction's start as the instant that rules
 * are evaluated for (SPEC 2.3).  It is parsed once, when it is set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "fmgr.h"
#include "utils/guc.h"

#include "compat.h"
#include "eval.h"
#include "settings.h"
#include "stats.h"
#include "workers.h"

PG_MODULE_MAGIC;

static char *audience_now = NULL;
static char *kafka_origin = NULL;	/* read by its name, in SQL */
static int	max_future_skew = 3600;

int			aud_max_event_size = 1024;
int			aud_max_distinct_values = 1000;
int			aud_definition_wait = 10000;
int			aud_transition_retention = -1;
int			aud_event_retention = -1;
bool		aud_strict = false;

int			aud_max_rule_depth = AUD_MAX_DEPTH;
int			aud_max_rule_conditions = AUD_MAX_LEAVES;
int			aud_max_rule_size = AUD_MAX_BYTES / 1024;
int			aud_max_list_length = 100000;
int			aud_max_sequence_steps = 100;
int			aud_max_pattern_length = 4096;
int			aud_max_regex_states = 10000;
bool		aud_linear_regex = false;
int			aud_max_traits = 1000;
int			aud_max_segments = 100000;
int			aud_max_aggregates = 20000;
int			aud_max_attributes_size = 1024;
int			aud_max_statement_events = 0;
int			aud_max_user_events_size = 1024 * 1024;
int			aud_max_call_users = 1000000;

/* the parsed form of audience.now; valid only while the setting is not empty */
static TimestampTz now_setting;

void		_PG_init(void);

/*
 * Checks audience.now: empty, or a timestamp as rules have it.  The parsed
 * instant goes to the assign hook in *extra.
 */
static bool
check_now(char **newval, void **extra, GucSource source)
{
	TimestampTz *parsed;

	if (*newval == NULL || **newval == '\0')
		return true;
	parsed = (TimestampTz *) aud_compat_guc_malloc(sizeof(TimestampTz));
	if (parsed == NULL)
		return false;
	if (!aud_timestamp_parse(*newval, strlen(*newval), parsed))
	{
		aud_compat_guc_free(parsed);
		GUC_check_errdetail("The value must be a timestamp such as \"2026-11-20T09:38:00Z\".");
		return false;
	}
	*extra = parsed;
	return true;
}

/* Takes over what check_now parsed. */
static void
assign_now(const char *newval, void *extra)
{
	if (extra != NULL)
		now_setting = *(TimestampTz *) extra;
}

/*
 * Checks a retention: 0 would remove all there is, and who sets it means
 * "none", more likely.
 */
static bool
check_retention(int *newval, void **extra, GucSource source)
{
	if (*newval != 0)
		return true;
	GUC_check_errdetail("The value must be above zero, or -1 to keep everything.");
	return false;
}

/* True if audience.now is set in this session. */
bool
aud_now_is_set(void)
{
	return audience_now != NULL && *audience_now != '\0';
}

/* The instant rules are evaluated for: audience.now, or the transaction's start. */
TimestampTz
aud_now(void)
{
	return aud_now_is_set() ? now_setting : GetCurrentTransactionStartTimestamp();
}

/* audience.max_future_skew, in microseconds. */
int64
aud_max_future_skew(void)
{
	return (int64) max_future_skew * USECS_PER_SEC;
}

/* Sets the clock to this transaction's now and the skew setting. */
void
aud_clock_init(AudClock *clock)
{
	clock->now = aud_now();
	clock->max_future_skew = aud_max_future_skew();
}

/*
 * Defines the limits.  Those of one rule can be lowered only: the constants are
 * what the type itself takes, whatever the settings, so that what is stored can
 * be read and restored everywhere.
 */
static void
define_limits(void)
{
	DefineCustomIntVariable("audience.max_rule_depth",
							"How deep the rule of a segment or trait may be nested.",
							NULL, &aud_max_rule_depth, AUD_MAX_DEPTH, 1, AUD_MAX_DEPTH,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_rule_conditions",
							"How many conditions the rule of a segment or trait may have.",
							NULL, &aud_max_rule_conditions, AUD_MAX_LEAVES, 1, AUD_MAX_LEAVES,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_rule_size",
							"Largest size of the rule of a segment or trait, in its canonical form.",
							NULL, &aud_max_rule_size, AUD_MAX_BYTES / 1024, 1, AUD_MAX_BYTES / 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_list_length",
							"How many values, or event types, a list in the rule of a segment or trait may have.",
							NULL, &aud_max_list_length, 100000, 1, AUD_MAX_BYTES,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_sequence_steps",
							"How many steps a sequence in the rule of a segment may have.",
							NULL, &aud_max_sequence_steps, 100, 1, AUD_MAX_BYTES,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_pattern_length",
							"Longest pattern, or text to be contained, in the rule of a segment or trait.",
							NULL, &aud_max_pattern_length, 4096, 1, AUD_MAX_BYTES,
							PGC_SUSET, GUC_UNIT_BYTE, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_regex_states",
							"How many states the automaton of a regular expression in the rule of a segment or trait may have.",
							NULL, &aud_max_regex_states, 10000, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("audience.linear_regex",
							 "Refuses back references, lookahead and lookbehind in the rules of segments and traits.",
							 "They can take more than linear time.",
							 &aud_linear_regex, false,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_traits",
							"How many traits there may be.",
							NULL, &aud_max_traits, 1000, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_segments",
							"How many segments there may be.",
							NULL, &aud_max_segments, 100000, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_aggregates",
							"How many different questions traits and segments may ask of events.",
							NULL, &aud_max_aggregates, 20000, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_attributes_size",
							"Largest size of a user's attributes.",
							NULL, &aud_max_attributes_size, 1024, 1, 1024 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_statement_events",
							"How many events one statement may bring.",
							"0: any number.",
							&aud_max_statement_events, 0, 0, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_user_events_size",
							"How much memory the events of one user in one statement may take.",
							NULL, &aud_max_user_events_size, 1024 * 1024, 64, MAX_KILOBYTES,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_call_users",
							"How many users one call of a function may be for.",
							NULL, &aud_max_call_users, 1000000, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
}

/* Module load: defines the settings; counting and workers begin where they can. */
void
_PG_init(void)
{
	DefineCustomStringVariable("audience.now",
							   "The instant that rules are evaluated for, in place of the transaction's start.",
							   "Empty: the transaction's start.",
							   &audience_now, "", PGC_SUSET, 0,
							   check_now, assign_now, NULL);
	DefineCustomIntVariable("audience.max_future_skew",
							"How far ahead of now an event's time may be.",
							NULL, &max_future_skew, 3600, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_event_size",
							"Largest size of an event's properties and context together.",
							NULL, &aud_max_event_size, 1024, 1, 1024 * 1024,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.max_distinct_values",
							"How many distinct values an aggregate keeps per user before it reads the events instead.",
							NULL, &aud_max_distinct_values, 1000, 1, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.definition_wait",
							"How long a change of definitions waits for open transactions that have ingested.",
							NULL, &aud_definition_wait, 10000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("audience.transition_retention",
							"How long superseded transitions are kept.",
							"-1: for ever.  The newest of each user and segment is always kept.",
							&aud_transition_retention, -1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, check_retention, NULL, NULL);
	DefineCustomIntVariable("audience.event_retention",
							"How long events are kept that no window or sequence needs any more.",
							"-1: for ever.  What all-time traits have counted stays counted.",
							&aud_event_retention, -1, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, check_retention, NULL, NULL);
	DefineCustomBoolVariable("audience.strict",
							 "Refuses nested statements on per-user tables that do not name their users (for developers).",
							 NULL, &aud_strict, false,
							 PGC_SUSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("audience.kafka_origin",
							   "The topic that changes of segments come from (the engine's own).",
							   NULL, &kafka_origin, "", PGC_SUSET,
							   GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
	define_limits();
	aud_workers_init();
	MarkGUCPrefixReserved("audience");
	aud_stats_init();
}
