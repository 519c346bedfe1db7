/*-------------------------------------------------------------------------
 *
 * fill.c
 *	  Passes over many users: after a change of definitions, for a rebuild,
 *	  and for the functions that set attributes or static memberships.
 *
 * A pass goes through the profiles in C order of the ids, a chunk at a time,
 * each chunk one batch: aggregates that are new are made from the events, the
 * segments asked for are compared with the stored memberships, and whatever
 * else time has changed about those users is put right with it.  Where the
 * rules of new segments need an event that only few users have, the others are
 * not visited at all.
 *
 * Under the exclusive definitions lock nobody else writes profiles, so they
 * are read without locking rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "batch.h"
#include "bounds.h"
#include "decider.h"
#include "event_feed.h"
#include "pass.h"
#include "stats.h"
#include "store.h"
#include "user_table.h"

PG_FUNCTION_INFO_V1(aud_fill);
PG_FUNCTION_INFO_V1(aud_fill_chunk);
PG_FUNCTION_INFO_V1(aud_rebuild);
PG_FUNCTION_INFO_V1(aud_set_attributes);
PG_FUNCTION_INFO_V1(aud_set_static);
PG_FUNCTION_INFO_V1(aud_leave_all);

/*
 * Reads the next chunk of profiles, those behind *after (NULL: from the
 * first), into an empty batch; *after moves to the last.  False: no more.
 */
bool
aud_pass_next(AudBatch *batch, char **after)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	Datum		args[2];
	uint64		n;

	args[0] = CStringGetTextDatum(*after ? *after : "");
	args[1] = Int64GetDatum(aud_batch_most_users(batch->defs));
	n = aud_store_execute(AUD_NEXT_PROFILES, args, NULL, batch->read_only);
	batch->rows = SPI_tuptable;
	for (uint64 i = 0; i < n; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		bool		isnull;
		text	   *id = DatumGetTextPP(SPI_getbinval(tuple, SPI_tuptable->tupdesc, 1, &isnull));
		AudUser    *user = aud_batch_add(batch, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));

		CHECK_FOR_INTERRUPTS();
		aud_batch_set_row(batch, user, tuple, SPI_tuptable->tupdesc);
	}
	MemoryContextSwitchTo(old);
	if (n > 0)
		*after = pstrdup(batch->users[n - 1].id);
	return n > 0;
}

/* The elements of an integer array argument, palloc'ed; of one that is null there are none. */
static int32 *
int_array(FunctionCallInfo fcinfo, int arg, int *n)
{
	Datum	   *elements = NULL;
	int32	   *result;

	*n = 0;
	if (!PG_ARGISNULL(arg))
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), INT4OID, sizeof(int32), true,
						  TYPALIGN_INT, &elements, NULL, n);
	result = palloc(Max(*n, 1) * sizeof(int32));
	for (int i = 0; i < *n; i++)
		result[i] = DatumGetInt32(elements[i]);
	return result;
}

/* what is known of a condition for users who have no event that new aggregates look at */
typedef enum Known
{
	KNOWN_FALSE,
	KNOWN_TRUE,
	UNKNOWN
} Known;

/*
 * A program's truth for users whose states of these aggregates (an array by
 * aggregate) are over no events, and who are otherwise anyone.
 */
static Known
truth_without_events(AudDecider *decider, const bool *aggregates, const AudInstruction *at)
{
	const AudInstruction *child = at + 1;
	Known		result;

	check_stack_depth();
	switch ((AudNodeKind) at->kind)
	{
		case AUD_NODE_TRUE:
			return KNOWN_TRUE;
		case AUD_NODE_FALSE:
			return KNOWN_FALSE;
		case AUD_NODE_NOT:
			result = truth_without_events(decider, aggregates, child);
			return result == UNKNOWN ? UNKNOWN : result == KNOWN_FALSE ? KNOWN_TRUE : KNOWN_FALSE;
		case AUD_NODE_ALL:
		case AUD_NODE_ANY:
		case AUD_NODE_NONE:
			/* all: false if one is; any: true if one is; none: the opposite of any */
			result = at->kind == AUD_NODE_ALL ? KNOWN_TRUE : KNOWN_FALSE;
			for (uint32 i = 0; i < at->operand; i++, child += child->ninstructions)
			{
				Known		one = truth_without_events(decider, aggregates, child);

				if (one == (at->kind == AUD_NODE_ALL ? KNOWN_FALSE : KNOWN_TRUE))
				{
					result = one;
					break;
				}
				if (one == UNKNOWN)
					result = UNKNOWN;
			}
			if (at->kind == AUD_NODE_NONE && result != UNKNOWN)
				result = result == KNOWN_FALSE ? KNOWN_TRUE : KNOWN_FALSE;
			return result;
		default:
			{
				const AudLeaf *leaf = &decider->defs->leaves[at->operand];

				if (leaf->source != AUD_LEAF_AGGREGATE || !aggregates[leaf->index])
					return UNKNOWN;
				return aud_decider_leaf_holds(decider, at->operand) ? KNOWN_TRUE : KNOWN_FALSE;
			}
	}
}

/*
 * Does a fill that makes these aggregates, and these segments, which nobody is
 * in, change nothing about users who have no event that the aggregates look at?
 */
static bool
only_with_events(const AudDefinitions *defs, const bool *segments, const bool *aggregates)
{
	AudDecider *decider = aud_decider_create(defs);
	AudUser		user = {0};
	AudClock	clock;
	bool		result = true;

	aud_clock_init(&clock);
	user.id = "";
	user.as_of = user.now = clock.now;
	user.states = palloc0(Max(defs->naggregates, 1) * sizeof(AudAggregateState));
	aud_decider_set_user(decider, &user, &clock);
	for (int i = 0; result && i < defs->nsegments; i++)
		if (segments[i] && defs->segments[i].program != NULL)
			result = truth_without_events(decider, aggregates, defs->segments[i].program) == KNOWN_FALSE;
	aud_decider_end(decider);
	return result;
}

/*
 * Adds the next users whom the batch's feed has events of to it, brings them to
 * now, and writes what has changed.  False: there are no more.
 */
static bool
take_fed_users(AudBatch *batch)
{
	MemoryContext old = MemoryContextSwitchTo(batch->mcxt);
	MemoryContext user_mcxt = AllocSetContextCreate(batch->mcxt, "audience user",
													ALLOCSET_DEFAULT_SIZES);
	AudUserTable *profiles = aud_user_table_open(AUD_PROFILES);
	AudAdvance *advance = aud_advance_begin(batch);
	AudDecider *decider = aud_decider_create(batch->defs);
	int			most = aud_batch_most_users(batch->defs);
	const char *id;
	int			len;

	while (batch->nusers < most && aud_event_feed_next_user(batch->feed, &id, &len))
	{
		AudUser    *user = aud_batch_add(batch, id, len);
		Datum	   *values;
		bool	   *nulls;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(user_mcxt);
		MemoryContextSwitchTo(user_mcxt);
		/* whose events were stored without evaluation may have no profile */
		if (!aud_user_table_find(profiles, user->id, user->id_len, false))
			continue;
		aud_user_table_columns(profiles, &values, &nulls);
		aud_batch_set_columns(batch, user, values, nulls);
		aud_advance_user(advance, user);
		aud_decide_user(batch, decider, batch->nusers - 1);
		if (!user->write)
			continue;
		aud_user_set_columns(batch, user, values, nulls);
		if (!aud_user_table_update(profiles))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent update"),
					 errhint("The transaction might succeed if retried.")));
		aud_stats_count(AUD_COUNT_PROFILES_WRITTEN, 1);
	}
	MemoryContextSwitchTo(batch->mcxt);
	aud_advance_end(advance);
	aud_decider_end(decider);
	aud_user_table_close(profiles);
	aud_batch_write_log(batch);
	aud_batch_write_timers(batch);
	MemoryContextSwitchTo(old);
	return batch->nusers > 0;
}

/*
 * fill(segments int[], aggregates int[], reason text, other_reason text, nobody_in
 * boolean): makes the states of the aggregates with these numbers anew for all
 * users, and brings the stored memberships of these segments in line, as
 * transitions with this reason.  Whatever else has changed about the users that
 * it visits gets the other reason.  "nobody_in": nobody is a member of the
 * segments yet.  Under the exclusive definitions lock.
 */
Datum
aud_fill(PG_FUNCTION_ARGS)
{
	const AudDefinitions *defs;
	int			nsegments,
				naggregates;
	int32	   *segments = int_array(fcinfo, 0, &nsegments);
	int32	   *aggregates = int_array(fcinfo, 1, &naggregates);
	char	   *reason = text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *other_reason = text_to_cstring(PG_GETARG_TEXT_PP(3));
	bool	   *fill,
			   *refill;
	bool		nobody_in = PG_GETARG_BOOL(4);
	AudEventFeed *feed = NULL;
	bool		only_fed;
	char	   *after = NULL;
	bool		more = true;

	/* loading them refuses cycles, whatever there is to fill */
	defs = aud_definitions_get();
	if (nsegments == 0 && naggregates == 0)
		PG_RETURN_VOID();
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	fill = palloc0((defs->nsegments + 1) * sizeof(bool));
	refill = palloc0((defs->naggregates + 1) * sizeof(bool));
	for (int i = 0; i < nsegments; i++)
	{
		int			index = aud_definitions_find_segment_number(defs, segments[i]);

		if (index >= 0)
			fill[index] = true;
	}
	for (int i = 0; i < naggregates; i++)
	{
		int			index = aud_definitions_find_number(defs, aggregates[i]);

		if (index >= 0)
			refill[index] = true;
	}
	/* those of a fill that goes on are made for whoever is not whole */
	if (naggregates > 0 && defs->newest_pending == 0)
		feed = aud_event_feed_begin(defs, refill);
	/* a base may hold what deleted events had come to */
	only_fed = feed != NULL && (nobody_in || nsegments == 0) && defs->events_from == DT_NOBEGIN &&
		only_with_events(defs, fill, refill);
	while (more)
	{
		AudBatch   *batch = aud_batch_begin(defs, other_reason);

		batch->fill = fill;
		batch->fill_reason = reason;
		batch->refill = refill;
		batch->feed = feed;
		if (only_fed)
			more = take_fed_users(batch);
		else
		{
			more = aud_pass_next(batch, &after);
			if (more)
				aud_batch_run(batch);
		}
		aud_batch_end(batch);
	}
	if (feed != NULL)
		aud_event_feed_end(feed);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * fill_chunk(after text, most int) → (last text, users int): evaluates the next
 * users behind "after", so that they are whole for all fills that are going
 * on; the last of them, and how many (fewer than "most": there are no more).
 */
Datum
aud_fill_chunk(PG_FUNCTION_ARGS)
{
	const AudDefinitions *defs;
	AudBatch   *batch;
	TupleDesc	tupdesc;
	MemoryContext old;
	Datum		args[2];
	Datum		values[2];
	bool		nulls[2] = {false, false};
	HeapTuple	result;
	uint64		n;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	tupdesc = BlessTupleDesc(tupdesc);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	batch = aud_batch_begin(defs, "expired");
	batch->visiting = true;
	args[0] = PG_GETARG_DATUM(0);
	args[1] = Int64GetDatum(PG_GETARG_INT32(1));
	n = aud_store_execute(AUD_NEXT_IDS, args, NULL, false);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		text	   *id = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		aud_batch_add(batch, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	}
	SPI_freetuptable(SPI_tuptable);
	old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	nulls[0] = n == 0;
	if (n > 0)
		values[0] = CStringGetTextDatum(batch->users[n - 1].id);
	values[1] = Int32GetDatum(n);
	result = heap_form_tuple(tupdesc, values, nulls);
	MemoryContextSwitchTo(old);
	if (n > 0)
	{
		aud_batch_lock(batch, AUD_LOCK_EXISTING);
		aud_batch_run(batch);
	}
	aud_batch_end(batch);
	SPI_finish();
	PG_RETURN_DATUM(HeapTupleGetDatum(result));
}

/* C order of two ids; there may be a million. */
static int
compare_ids(const void *a, const void *b)
{
	CHECK_FOR_INTERRUPTS();
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* A text array argument's elements in C order, each once; nulls are refused. */
static char **
sorted_texts(ArrayType *array, int *n)
{
	Datum	   *elements;
	bool	   *nulls;
	char	  **result;
	int			kept = 0;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, n);
	result = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("user id must not be null")));
		result[i] = TextDatumGetCString(elements[i]);
	}
	qsort(result, *n, sizeof(char *), compare_ids);
	for (int i = 0; i < *n; i++)
		if (kept == 0 || strcmp(result[kept - 1], result[i]) != 0)
			result[kept++] = result[i];
	*n = kept;
	return result;
}

/*
 * rebuild(user_ids text[], reason text, statics int[]) → bigint: makes the
 * states of these users anew from the events, and their memberships from the
 * rules, making the profiles that are missing; they also enter these static
 * segments.  How many users.
 */
Datum
aud_rebuild(PG_FUNCTION_ARGS)
{
	int			n;
	char	  **ids = sorted_texts(PG_GETARG_ARRAYTYPE_P(0), &n);
	char	   *reason = text_to_cstring(PG_GETARG_TEXT_PP(1));
	int			nstatics;
	int32	   *statics = int_array(fcinfo, 2, &nstatics);
	const AudDefinitions *defs;
	int64		count = 0;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	for (int i = 0; i < n;)
	{
		AudBatch   *batch = aud_batch_begin(defs, reason);

		for (int end = Min(n, i + aud_batch_most_users(defs)); i < end; i++)
			aud_batch_add(batch, ids[i], strlen(ids[i]));
		batch->fill_all = true;
		batch->fill_reason = reason;
		aud_batch_lock(batch, AUD_LOCK_ALL);
		for (int u = 0; u < batch->nusers; u++)
		{
			batch->users[u].rebuild = true;
			batch->users[u].is_new = false;
			batch->users[u].nstatics = nstatics;
			batch->users[u].statics = statics;
			batch->users[u].statics_enter = true;
			batch->users[u].statics_reason = reason;
		}
		count += batch->nusers;
		aud_batch_run(batch);
		aud_batch_end(batch);
	}
	SPI_finish();
	PG_RETURN_INT64(count);
}

/* A user's patch, for sorting. */
typedef struct Patch
{
	char	   *user_id;
	int			position;
	Jsonb	   *attributes;
} Patch;

/* Orders patches by user, then as they came. */
static int
compare_patches(const void *a, const void *b)
{
	const Patch *x = a;
	const Patch *y = b;
	int			order = strcmp(x->user_id, y->user_id);

	CHECK_FOR_INTERRUPTS();
	return order != 0 ? order : (x->position > y->position) - (x->position < y->position);
}

/*
 * Merges the patches of the next users, as many as make a batch, from the
 * i-th of n patches on.  Returns where the rest begin.
 */
static int
patch_users(const AudDefinitions *defs, const Patch *patches, int i, int n)
{
	AudBatch   *batch = aud_batch_begin(defs, "rule_evaluation");
	int			most = aud_batch_most_users(defs);
	int			end = i;
	MemoryContext work = AllocSetContextCreate(batch->mcxt, "audience merge patch",
											   ALLOCSET_DEFAULT_SIZES);

	for (; end < n; end++)
		if (end == i || strcmp(patches[end - 1].user_id, patches[end].user_id) != 0)
		{
			if (batch->nusers == most)
				break;
			aud_batch_add(batch, patches[end].user_id, strlen(patches[end].user_id));
		}
	aud_batch_lock(batch, AUD_LOCK_ALL);
	for (int u = 0; i < end; i++)
	{
		AudUser    *user;
		Jsonb	   *before,
				   *merged;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		while (strcmp(batch->users[u].id, patches[i].user_id) != 0)
			u++;
		user = &batch->users[u];
		before = user->attributes;
		old = MemoryContextSwitchTo(work);
		merged = aud_merge_patch(before, patches[i].attributes);
		MemoryContextSwitchTo(old);
		user->attributes = memcpy(MemoryContextAlloc(batch->mcxt, VARSIZE(merged)),
								  merged, VARSIZE(merged));
		MemoryContextReset(work);
		/* of many patches of one user only what the last one comes to is kept */
		if (user->old_attributes == NULL)
			user->old_attributes = before;
		else
			pfree(before);
		user->write = true;
	}
	MemoryContextDelete(work);
	for (int u = 0; u < batch->nusers; u++)
		aud_bounds_check_attributes(batch->users[u].id, batch->users[u].attributes,
									batch->users[u].old_attributes);
	aud_batch_run(batch);
	aud_batch_end(batch);
	return end;
}

/*
 * set_attributes(user_ids text[], patches jsonb[]): merges each patch into the
 * user's attributes, several of one user in their order, and brings the
 * memberships in line.  Makes the profiles that are missing.
 */
Datum
aud_set_attributes(PG_FUNCTION_ARGS)
{
	Datum	   *ids,
			   *values;
	int			n,
				nvalues;
	Patch	   *patches;
	const AudDefinitions *defs;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &ids, NULL, &n);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), JSONBOID, -1, false, TYPALIGN_INT, &values, NULL, &nvalues);
	if (n != nvalues)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("arrays must be of one length")));
	patches = palloc(Max(n, 1) * sizeof(Patch));
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		patches[i].user_id = TextDatumGetCString(ids[i]);
		patches[i].position = i;
		patches[i].attributes = DatumGetJsonbP(values[i]);
		if (!JB_ROOT_IS_OBJECT(patches[i].attributes))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("attributes must be an object")));
	}
	qsort(patches, n, sizeof(Patch), compare_patches);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	for (int i = 0; i < n;)
		i = patch_users(defs, patches, i, n);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * set_static(segment int, user_ids text[], add bool, reason text) → bigint:
 * enters users into a static segment (making the profiles that are missing)
 * or takes them out; how many that changed.
 */
Datum
aud_set_static(PG_FUNCTION_ARGS)
{
	int32		number = PG_GETARG_INT32(0);
	int			n;
	char	  **ids = sorted_texts(PG_GETARG_ARRAYTYPE_P(1), &n);
	bool		add = PG_GETARG_BOOL(2);
	char	   *reason = text_to_cstring(PG_GETARG_TEXT_PP(3));
	const AudDefinitions *defs;
	int64		count = 0;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	for (int i = 0; i < n;)
	{
		AudBatch   *batch = aud_batch_begin(defs, "rule_evaluation");

		for (int end = Min(n, i + aud_batch_most_users(defs)); i < end; i++)
			aud_batch_add(batch, ids[i], strlen(ids[i]));
		aud_batch_lock(batch, add ? AUD_LOCK_ALL : AUD_LOCK_EXISTING);
		for (int u = 0; u < batch->nusers; u++)
		{
			AudUser    *user = &batch->users[u];

			user->nstatics = 1;
			user->statics = &number;
			user->statics_enter = add;
			user->statics_reason = reason;
			count += user->exists &&
				aud_members_find(user->members, number, NULL) != add;
		}
		aud_batch_run(batch);
		aud_batch_end(batch);
	}
	SPI_finish();
	PG_RETURN_INT64(count);
}

/*
 * leave_all(user_id text, reason text): the user, whose profile is locked,
 * leaves all segments that it is in.
 */
Datum
aud_leave_all(PG_FUNCTION_ARGS)
{
	text	   *id = PG_GETARG_TEXT_PP(0);
	char	   *reason = text_to_cstring(PG_GETARG_TEXT_PP(1));
	const AudDefinitions *defs;
	AudBatch   *batch;
	AudUser    *user;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	defs = aud_definitions_get_shared();
	batch = aud_batch_begin(defs, reason);
	user = aud_batch_add(batch, VARDATA_ANY(id), VARSIZE_ANY_EXHDR(id));
	aud_batch_lock(batch, AUD_LOCK_EXISTING);
	for (int i = 0; user->exists && i < aud_members_count(user->members); i++)
	{
		int			index = aud_definitions_find_segment_number(defs,
																aud_members_number(user->members, i));

		if (index >= 0)
			aud_batch_add_change(batch, index, false, -1, reason)->log =
				defs->segments[index].is_member_source;
	}
	aud_batch_settle(batch, user);
	aud_batch_write(batch);
	aud_batch_end(batch);
	SPI_finish();
	PG_RETURN_VOID();
}
