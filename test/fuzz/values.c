/*-------------------------------------------------------------------------
 *
 * values.c
 *	  Targets: timestamps, durations, versions, LIKE, numbers, merge patches,
 *	  and what is stored packed.
 *
 * Wherever PostgreSQL can do the same, it is asked too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "decimal.h"
#include "eval.h"
#include "eval_op.h"
#include "fuzz.h"
#include "members.h"
#include "pass.h"

extern Datum aud_members_valid(PG_FUNCTION_ARGS);

/* Piece: a timestamp. */
static void
run_timestamp(const FuzzInput *input)
{
	const FuzzPiece *text = &input->pieces[0];
	TimestampTz time;
	TimestampTz again;
	TimestampTz other;
	StringInfoData printed;

	fuzz_silent = "reading a timestamp";
	if (!aud_timestamp_parse(text->data, text->len, &time))
		return;
	fuzz_check(time >= AUD_FIRST_INSTANT && time < AUD_END_OF_INSTANTS,
			   "a timestamp that cannot be printed: %s", text->data);
	initStringInfo(&printed);
	aud_timestamp_append(&printed, time);
	fuzz_check(printed.len < 64, "a long timestamp: %s", printed.data);
	fuzz_check(aud_timestamp_parse(printed.data, printed.len, &again) && again == time,
			   "timestamp %s is printed as %s, another", text->data, printed.data);
	/* what the language takes is SQL's, and means the same, unless it has more digits than SQL has room for */
	if (text->len > 40)
		return;
	fuzz_silent = "timestamptz of a timestamp of the language";
	other = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(text->data),
													ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	/* but that SQL rounds what is below a microsecond by way of a double */
	fuzz_check(other - time >= -1 && other - time <= 1, "timestamp %s is %s here, and another in SQL",
			   text->data, printed.data);
}

/* Piece: a duration. */
static void
run_duration(const FuzzInput *input)
{
	const FuzzPiece *text = &input->pieces[0];
	const char *problem = NULL;
	int64		duration;
	int64		again;
	StringInfoData printed;

	fuzz_silent = "reading a duration";
	if (!aud_duration_parse(text->data, text->len, &duration, &problem))
	{
		fuzz_check(problem != NULL, "no word of what is wrong with a duration");
		return;
	}
	fuzz_check(duration > 0, "a duration that is none: %s", text->data);
	initStringInfo(&printed);
	aud_duration_append(&printed, duration);
	fuzz_check(aud_duration_parse(printed.data, printed.len, &again, &problem) && again == duration,
			   "duration %s is printed as %s, another", text->data, printed.data);
}

/* Pieces: three versions. */
static void
run_version(const FuzzInput *input)
{
	const FuzzPiece *p = input->pieces;
	int			order[3][3];

	fuzz_silent = "comparing versions";
	for (int i = 0; i < 3; i++)
		if (!aud_semver_valid(p[i].data, p[i].len))
			return;
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++)
		{
			int			result = aud_semver_compare(p[i].data, p[i].len, p[j].data, p[j].len);

			order[i][j] = (result > 0) - (result < 0);
		}
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 3; j++)
		{
			fuzz_check(order[i][j] == -order[j][i] && (i != j || order[i][j] == 0),
					   "versions %s and %s have no order", p[i].data, p[j].data);
			for (int k = 0; k < 3; k++)
				fuzz_check(order[i][j] > 0 || order[j][k] > 0 || order[i][k] <= 0,
						   "versions %s, %s, %s have no order", p[i].data, p[j].data, p[k].data);
		}
}

/* Pieces: a pattern, a text. */
static void
run_like(const FuzzInput *input)
{
	const FuzzPiece *pattern = &input->pieces[0];
	const FuzzPiece *text = &input->pieces[1];
	AudFoldRoom room;
	AudBytes	folded;
	bool		holds;
	int			backslashes = 0;
	int			place;

	fuzz_silent = "matching texts";
	holds = aud_text_like(text->data, text->len, pattern->data, pattern->len);
	while (backslashes < pattern->len && pattern->data[pattern->len - 1 - backslashes] == '\\')
		backslashes++;
	/* there SQL's raises; and it is exponential in the number of '%' */
	if (backslashes % 2 == 0)
	{
		bool		other = DatumGetBool(DirectFunctionCall2Coll(textlike, C_COLLATION_OID,
																 PointerGetDatum(cstring_to_text_with_len(text->data, text->len)),
																 PointerGetDatum(cstring_to_text_with_len(pattern->data, pattern->len))));

		fuzz_check(holds == other, "'%s' LIKE '%s' is %d here, and not in SQL", text->data, pattern->data, holds);
	}
	place = DatumGetInt32(DirectFunctionCall2Coll(textpos, C_COLLATION_OID,
												  PointerGetDatum(cstring_to_text_with_len(text->data, text->len)),
												  PointerGetDatum(cstring_to_text_with_len(pattern->data, pattern->len))));
	fuzz_check(aud_text_contains(text->data, text->len, pattern->data, pattern->len) == (place > 0),
			   "position of '%s' in '%s' is %d in SQL", pattern->data, text->data, place);
	fuzz_check(!aud_text_starts_with(text->data, text->len, pattern->data, pattern->len) || place == 1,
			   "'%s' does not start with '%s' in SQL", text->data, pattern->data);
	folded = aud_text_fold(text->data, text->len, &room);
	fuzz_check(folded.len >= 0, "a folded text of negative length");
	aud_text_fold_end(&room);
}

/* A number as jsonb would hold it, or NULL. */
static Numeric
read_number(const FuzzPiece *piece)
{
	Jsonb	   *jsonb;
	JsonbValue	value;

	if (piece->len == 0 || (piece->data[0] != '-' && !isdigit((unsigned char) piece->data[0])))
		return NULL;
	jsonb = fuzz_jsonb(piece->data);
	if (!JsonbExtractScalar(&jsonb->root, &value) || value.type != jbvNumeric)
		return NULL;
	return value.val.numeric;
}

/* Pieces: two numbers. */
static void
run_number(const FuzzInput *input)
{
	Numeric		a = read_number(&input->pieces[0]);
	Numeric		b = read_number(&input->pieces[1]);
	AudDecimal	x,
				y,
				sum;
	Numeric		total;
	int			order;
	int			other;

	if (a == NULL || b == NULL)
		return;
	fuzz_silent = "numbers";
	order = aud_numeric_compare(a, b);
	other = DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(a), NumericGetDatum(b)));
	fuzz_check((order > 0) - (order < 0) == (other > 0) - (other < 0), "%s and %s compare otherwise in SQL",
			   input->pieces[0].data, input->pieces[1].data);
	aud_decimal_set_numeric(&x, a);
	aud_decimal_set_numeric(&y, b);
	order = aud_decimal_compare(&x, &y);
	fuzz_check((order > 0) - (order < 0) == (other > 0) - (other < 0), "decimals %s and %s compare otherwise in SQL",
			   input->pieces[0].data, input->pieces[1].data);
	sum = x;
	aud_decimal_add(&sum, &y, false);
	total = numeric_add_opt_error(a, b, NULL);
	fuzz_check(DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(aud_decimal_numeric(&sum)), NumericGetDatum(total))),
			   "%s + %s is something else in SQL", input->pieces[0].data, input->pieces[1].data);
	aud_decimal_add(&sum, &y, true);
	aud_decimal_trim(&sum);
	fuzz_check(aud_decimal_compare(&sum, &x) == 0, "%s + %s - the latter is another number",
			   input->pieces[0].data, input->pieces[1].data);
}

/* Are two jsonb the same? */
static bool
same_jsonb(Jsonb *a, Jsonb *b)
{
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

/* Pieces: an object, a patch. */
static void
run_merge(const FuzzInput *input)
{
	Jsonb	   *target = fuzz_jsonb(input->pieces[0].data);
	Jsonb	   *patch = fuzz_jsonb(input->pieces[1].data);
	Jsonb	   *merged;

	if (!JB_ROOT_IS_OBJECT(target) || !JB_ROOT_IS_OBJECT(patch))
		return;
	fuzz_silent = "merging";
	merged = aud_merge_patch(target, patch);
	fuzz_check(JB_ROOT_IS_OBJECT(merged), "a patch does not give an object");
	fuzz_check(same_jsonb(merged, aud_merge_patch(merged, patch)), "a patch is not idempotent");
	fuzz_check(same_jsonb(target, aud_merge_patch(target, fuzz_jsonb("{}"))), "an empty patch changes something");
	fuzz_check(same_jsonb(merged, fuzz_jsonb(JsonbToCString(NULL, &merged->root, VARSIZE(merged)))),
			   "a patched object is not what it prints as");
}

/* members_list of a value. */
static void
unpack_members(bytea *value)
{
	Oid			type = BYTEAOID;
	Datum		argument = PointerGetDatum(value);

	if (SPI_execute_with_args("SELECT count(*) FROM audience.members_list($1)",
							  1, &type, &argument, NULL, true, 0) < 0)
		fuzz_fail("members_list fails");
}

/* transition_entries of a value: their places ascend. */
static void
unpack_transitions(bytea *value)
{
	Oid			type = BYTEAOID;
	Datum		argument = PointerGetDatum(value);
	int32		last = 0;

	if (SPI_execute_with_args("SELECT ordinal FROM audience.transition_entries($1)",
							  1, &type, &argument, NULL, true, 0) < 0)
		fuzz_fail("transition_entries fails");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int32		ordinal = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		fuzz_check(ordinal > last, "places of transitions do not ascend: %d, %d", last, ordinal);
		last = ordinal;
	}
}

/* Has SQL unpack a value; the error that this may end with. */
static void
in_subtransaction(void (*unpack) (bytea *value), bytea *value, int allowed)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		SPI_connect();
		unpack(value);
		SPI_finish();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		fuzz_check(error->sqlerrcode == allowed, "what is packed raises %s: %s",
				   unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
}

/*
 * The whole input: a value as tables have it packed, which functions that
 * anybody may call take too.
 */
static void
run_packed(const FuzzInput *input)
{
	bytea	   *value = palloc(VARHDRSZ + input->len);
	AudMemberChange change = {.number = 7, .enter = true};
	bytea	   *changed;
	TimestampTz entered_at;
	bool		valid;

	SET_VARSIZE(value, VARHDRSZ + input->len);
	memcpy(VARDATA(value), input->data, input->len);

	fuzz_silent = "memberships";
	valid = DatumGetBool(DirectFunctionCall1(aud_members_valid, PointerGetDatum(value)));
	for (int i = 0; i < aud_members_count(value); i++)
	{
		int32		number = aud_members_number(value, i);
		bool		found = aud_members_find(value, number, &entered_at);

		fuzz_check(found || !valid, "a valid membership is not found");
	}
	changed = aud_members_change(value, &change, 1, fuzz_clock().now);
	fuzz_check(changed != NULL, "a membership added is not there");
	if (valid)
	{
		fuzz_check(aud_members_find(changed, 7, &entered_at) && entered_at == fuzz_clock().now,
				   "a membership added is not found");
		fuzz_check(DatumGetBool(DirectFunctionCall1(aud_members_valid, PointerGetDatum(changed))),
				   "what is valid is not when a membership is added");
		change.enter = false;
		changed = aud_members_change(changed, &change, 1, fuzz_clock().now);
		fuzz_check(changed == NULL || !aud_members_find(changed, 7, NULL), "a membership taken away is found");
	}
	fuzz_silent = NULL;

	in_subtransaction(unpack_members, value, ERRCODE_SUCCESSFUL_COMPLETION);
	in_subtransaction(unpack_transitions, value, ERRCODE_DATA_CORRUPTED);
}

/*
 * The whole input: a profile's state, which only the engine writes, but whose
 * reader has no excuse to leave it.
 */
static void
run_state(const FuzzInput *input)
{
	bytea	   *value = palloc(VARHDRSZ + input->len);
	AudUser		user = {0};

	SET_VARSIZE(value, VARHDRSZ + input->len);
	memcpy(VARDATA(value), input->data, input->len);
	aud_user_state_read(aud_definitions_get(), &user, value);
	for (int i = 0; i < aud_definitions_get()->naggregates; i++)
	{
		const AudAggregateState *state = &user.states[i];

		/* an id stays where it is */
		fuzz_check(state->id_len == 0 ||
				   (state->id >= VARDATA(value) && state->id_len >= 0 &&
					state->id + state->id_len <= VARDATA(value) + input->len),
				   "an id outside of its state");
		fuzz_check(state->nvalues >= 0 && state->count >= 0, "a negative count");
	}
}

const FuzzTarget fuzz_value_targets[] = {
	{"timestamp", run_timestamp},
	{"duration", run_duration},
	{"version", run_version},
	{"like", run_like},
	{"number", run_number},
	{"merge", run_merge},
	{"packed", run_packed},
	{"state", run_state},
	{NULL}
};
