/*-------------------------------------------------------------------------
 *
 * store.c
 *	  The engine's statements on its tables.
 *
 * Each is prepared at its first use in a session and kept, as a generic plan:
 * a custom plan of "= ANY(500 elements)" costs more than running it.  The
 * planner cannot know how long the arrays are, so while they are planned and
 * run, joins other than nested loops, and sequential scans, are off.
 *
 * Every statement on a per-user table names its users, either by
 * "user_id = ANY($1)" or by a join with the unnested list; audience.strict
 * checks that.  Those that join do not repeat "= ANY($1)": PostgreSQL 15 would
 * search the list anew for every row.
 *
 * Profiles, timers and history are written without statements (user_table.c).  A locked
 * profile stays where it is until it is updated, so its place (ctid) is read,
 * too, which saves a second descent of the index.
 *
 * Users are locked, or made, in C order of their ids, one after the other (see
 * batch.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "rule.h"
#include "settings.h"
#include "stats.h"
#include "store.h"

#define PROFILE_COLUMNS \
	"p.user_id, p.first_seen, p.last_seen, p.evaluated_at, p.updated_at, p.state, p.members, p.attributes, p.ctid"

typedef struct StatementText
{
	const char *text;
	bool		per_user;		/* is on a per-user table */
	int			nargs;
	Oid			args[9];
} StatementText;

static const StatementText texts[AUD_NSTATEMENTS] = {
	[AUD_ACQUIRE_PROFILES] = {
		"INSERT INTO audience.profiles AS p (user_id, evaluated_at) "
		"SELECT u.user_id, $2 FROM unnest($1) u (user_id) "
		"ON CONFLICT (user_id) DO UPDATE SET updated_at = p.updated_at WHERE false",
		true, 2, {TEXTARRAYOID, TIMESTAMPTZOID}
	},
	[AUD_LOCK_PROFILES] = {
		"SELECT " PROFILE_COLUMNS " FROM audience.profiles p WHERE p.user_id = ANY($1) ORDER BY p.user_id FOR UPDATE",
		true, 1, {TEXTARRAYOID}
	},
	[AUD_LOCK_FREE_PROFILES] = {
		"SELECT " PROFILE_COLUMNS " FROM audience.profiles p WHERE p.user_id = ANY($1) ORDER BY p.user_id FOR UPDATE SKIP LOCKED",
		true, 1, {TEXTARRAYOID}
	},
	[AUD_READ_PROFILES] = {
		"SELECT " PROFILE_COLUMNS " FROM audience.profiles p WHERE p.user_id = ANY($1) ORDER BY p.user_id",
		true, 1, {TEXTARRAYOID}
	},
	[AUD_NEXT_PROFILES] = {
		"SELECT " PROFILE_COLUMNS " FROM audience.profiles p WHERE p.user_id > $1 ORDER BY p.user_id LIMIT $2",
		false, 2, {TEXTOID, INT8OID}
	},
	[AUD_NEXT_IDS] = {
		"SELECT p.user_id FROM audience.profiles p WHERE p.user_id > $1 ORDER BY p.user_id LIMIT $2",
		false, 2, {TEXTOID, INT8OID}
	},
	[AUD_REMOVE_ORPHAN_TIMERS] = {
		"DELETE FROM audience.timers t WHERE t.user_id = ANY($1) "
		"AND NOT EXISTS (SELECT FROM audience.profiles p WHERE p.user_id = t.user_id) "
		"AND NOT EXISTS (SELECT FROM audience.restoring)",
		true, 1, {TEXTARRAYOID}
	},
	[AUD_DUE_TIMERS] = {
		"SELECT t.user_id, t.due_at FROM audience.timers t "
		"WHERE t.due_at <= $1 AND (t.due_at, t.user_id) > ($2, $3) "
		"ORDER BY t.due_at, t.user_id LIMIT $4",
		false, 4, {TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, INT8OID}
	},
	[AUD_OLD_EVENTS] = {
		"SELECT x.user_id, count(*), max(x.occurred_at) FROM ("
		"SELECT u.user_id, u.ordinal, e.occurred_at "
		"FROM unnest($1) WITH ORDINALITY u (user_id, ordinal) CROSS JOIN LATERAL ("
		"SELECT o.occurred_at FROM audience.events o WHERE o.user_id = u.user_id AND o.occurred_at < $2 "
		"ORDER BY o.occurred_at, o.event_id LIMIT $3) e "
		"ORDER BY u.ordinal LIMIT $3) x "
		"GROUP BY x.user_id, x.ordinal ORDER BY x.ordinal",
		true, 3, {TEXTARRAYOID, TIMESTAMPTZOID, INT8OID}
	},
	[AUD_DELETE_OLD_EVENTS] = {
		"DELETE FROM audience.events e USING (SELECT * FROM unnest($1, $2) n (user_id, before)) u "
		"WHERE e.user_id = u.user_id AND e.occurred_at < u.before "
		"RETURNING e.user_id, e.occurred_at, e.event_id, e.event_type, e.properties, e.context",
		true, 2, {TEXTARRAYOID, TIMESTAMPTZARRAYOID}
	},
	[AUD_READ_BASES] = {
		"SELECT b.user_id, b.complete_from, b.first_seen, b.last_seen, b.events, b.states "
		"FROM audience.event_bases b WHERE b.user_id = ANY($1)",
		true, 1, {TEXTARRAYOID}
	},
	[AUD_WRITE_BASES] = {
		"INSERT INTO audience.event_bases (user_id, complete_from, first_seen, last_seen, events, states) "
		"SELECT u.user_id, u.complete_from, u.first_seen, u.last_seen, u.events, u.states "
		"FROM unnest($1, $2, $3, $4, $5, $6) u (user_id, complete_from, first_seen, last_seen, events, states) "
		"ON CONFLICT (user_id) DO UPDATE SET complete_from = EXCLUDED.complete_from, first_seen = EXCLUDED.first_seen, "
		"last_seen = EXCLUDED.last_seen, events = EXCLUDED.events, states = EXCLUDED.states",
		true, 6, {TEXTARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID, BYTEAARRAYOID}
	},
	[AUD_READ_VERSION] = {
		"SELECT version FROM audience.definition_version",
		false, 0, {0}
	},
};

static SPIPlanPtr plans[AUD_NSTATEMENTS];

/* Sets the planner as the engine's statements want it; returns what aud_store_end wants. */
int
aud_store_begin(void)
{
	static const char *const off[] = {
		"enable_hashjoin", "enable_mergejoin", "enable_seqscan", "enable_bitmapscan", "jit"
	};
	int			nestlevel = NewGUCNestLevel();

	for (size_t i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/* Puts the planner settings back. */
void
aud_store_end(int nestlevel)
{
	AtEOXact_GUC(true, nestlevel);
}

/* Refuses a statement on a per-user table that does not name its users. */
static void
check_strict(const StatementText *text)
{
	if (aud_strict && text->per_user &&
		strstr(text->text, "user_id = ANY($1)") == NULL &&
		strstr(text->text, "FROM unnest($1") == NULL)
		elog(ERROR, "statement does not name its users: %s", text->text);
}

/* A query's plan, made once.  See store.h. */
SPIPlanPtr
aud_store_plan(SPIPlanPtr *plan, const char *query, int nargs, const Oid *types, int options)
{
	if (*plan == NULL)
	{
		SPIPlanPtr	made = SPI_prepare_cursor(query, nargs, unconstify(Oid *, types), options);

		if (made == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", query, SPI_result_code_string(SPI_result));
		if (SPI_keepplan(made) != 0)
			elog(ERROR, "SPI_keepplan failed");
		*plan = made;
	}
	return *plan;
}

/* The saved plan of a statement. */
static SPIPlanPtr
get_plan(AudStatement statement)
{
	const StatementText *text = &texts[statement];

	check_strict(text);
	return aud_store_plan(&plans[statement], text->text, text->nargs, text->args, CURSOR_OPT_GENERIC_PLAN);
}

/* Runs a statement; rows are in SPI_tuptable.  Returns how many. */
uint64
aud_store_execute(AudStatement statement, Datum *values, const char *nulls,
				  bool read_only)
{
	int			nestlevel = aud_store_begin();
	int			result = SPI_execute_plan(get_plan(statement), values, nulls,
										  read_only, 0);

	aud_stats_count(AUD_COUNT_SQL, 1);
	aud_store_end(nestlevel);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", texts[statement].text,
			 SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * A registered snapshot of this instant (at READ COMMITTED), which sees what this
 * transaction has done, too; the one before (NULL: none) is unregistered.
 */
Snapshot
aud_store_renew_snapshot(Snapshot old)
{
	Snapshot	renewed;

	PushActiveSnapshot(GetTransactionSnapshot());
	UpdateActiveSnapshotCommandId();
	renewed = RegisterSnapshot(GetActiveSnapshot());
	PopActiveSnapshot();
	if (old != NULL)
		UnregisterSnapshot(old);
	return renewed;
}

/*
 * Refuses a user's id of more than AUD_MAX_NAME_BYTES, which what holds one in
 * the engine has no room for.  No event comes in with it, but the tables allow it.
 */
void
aud_store_check_user_id(int len)
{
	if (len > AUD_MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a user's id must be at most %d bytes long", AUD_MAX_NAME_BYTES),
				 errdetail("There is one of %d bytes.", len)));
}

/* A text array; lengths may be NULL for NUL-terminated strings; a NULL string is null. */
Datum
aud_store_text_array(const char *const *strings, const int *lengths, int n)
{
	Datum	   *values = palloc(Max(n, 1) * sizeof(Datum));
	bool	   *nulls = palloc(Max(n, 1) * sizeof(bool));

	for (int i = 0; i < n; i++)
	{
		nulls[i] = strings[i] == NULL;
		if (!nulls[i])
			values[i] = PointerGetDatum(cstring_to_text_with_len(strings[i],
																 lengths ? lengths[i] : (int) strlen(strings[i])));
	}
	return aud_store_array(values, nulls, n, TEXTOID);
}

/* An array of any type; nulls may be NULL. */
Datum
aud_store_array(Datum *values, bool *nulls, int n, Oid type)
{
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			dims[1] = {n};
	int			lbs[1] = {1};

	get_typlenbyvalalign(type, &typlen, &typbyval, &typalign);
	if (n == 0)
		return PointerGetDatum(construct_empty_array(type));
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, type,
											  typlen, typbyval, typalign));
}
