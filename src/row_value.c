/*-------------------------------------------------------------------------
 *
 * row_value.c
 *	  What a column's value means to a rule: what to_jsonb() makes of it, but
 *	  for timestamps, which are printed in UTC whatever the session's zone.
 *
 * Common types are converted without to_jsonb(); for text, jsonb and numeric
 * nothing is even copied.  Arrays and composites are walked here, so that the
 * timestamps in them are in UTC, too.  All other types go through to_jsonb()
 * itself, which knows casts to json and the rest.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/tupmacs.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "eval.h"
#include "row_value.h"

/*
 * A whole float below this is its own shortest text: its neighbours are at
 * most 1 away.
 */
#define WHOLE_FLOAT4_LIMIT	16777216.0	/* 2^24 */
#define WHOLE_FLOAT8_LIMIT	9007199254740992.0	/* 2^53 */

struct AudConverter
{
	Oid			type;			/* below any domain */
	Oid			element_type;	/* of an array, else InvalidOid */
	int16		element_len;
	bool		element_byval;
	char		element_align;
	bool		is_composite;
	AudConverter *element;		/* of an array */

	/* the composite type last seen, and a converter per attribute */
	uint64		tupdesc_id;
	AudConverter **attributes;

	FmgrInfo	to_jsonb;		/* for all other types */
	MemoryContext mcxt;			/* where this lives */
};

/* Sets up "finfo" to call to_jsonb() for values of a type. */
static void
setup_to_jsonb(FmgrInfo *finfo, Oid type)
{
	Const	   *argument = makeNullConst(type, -1, InvalidOid);

	/* to_jsonb(anyelement) asks its call expression for the type */
	fmgr_info(F_TO_JSONB, finfo);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(argument),
											 InvalidOid, InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   finfo);
}

/* How values of a type become JSON.  See row_value.h. */
AudConverter *
aud_converter_make(Oid type)
{
	AudConverter *converter = palloc0(sizeof(AudConverter));

	check_stack_depth();
	converter->mcxt = CurrentMemoryContext;
	converter->type = getBaseType(type);
	converter->element_type = get_element_type(converter->type);
	if (converter->type == RECORDARRAYOID)
		converter->element_type = RECORDOID;
	if (OidIsValid(converter->element_type))
	{
		get_typlenbyvalalign(converter->element_type, &converter->element_len,
							 &converter->element_byval,
							 &converter->element_align);
		converter->element = aud_converter_make(converter->element_type);
	}
	else if (type_is_rowtype(converter->type))
		converter->is_composite = true;
	else
		setup_to_jsonb(&converter->to_jsonb, converter->type);
	return converter;
}

/* *result becomes a text of len bytes. */
static void
set_text(JsonbValue *result, const char *s, int len)
{
	result->type = jbvString;
	result->val.string.val = unconstify(char *, s);
	result->val.string.len = len;
}

/* *result becomes a numeric. */
static void
set_numeric(JsonbValue *result, Numeric numeric)
{
	result->type = jbvNumeric;
	result->val.numeric = numeric;
}

/* *result becomes a jsonb; scalars at its top are taken out. */
static void
set_jsonb(JsonbValue *result, Jsonb *jsonb)
{
	if (JB_ROOT_IS_SCALAR(jsonb))
		(void) JsonbExtractScalar(&jsonb->root, result);
	else
	{
		result->type = jbvBinary;
		result->val.binary.data = &jsonb->root;
		result->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
}

/* *result becomes a timestamp's text. */
static void
set_timestamp(JsonbValue *result, TimestampTz t)
{
	StringInfoData text;

	initStringInfo(&text);
	aud_timestamp_append(&text, t);
	set_text(result, text.data, text.len);
}

/*
 * *result becomes a float: a number by its shortest text, as in to_jsonb(),
 * or that text where it is not finite.
 */
static void
set_float(JsonbValue *result, PGFunction output, Datum datum, double value,
		  double whole_limit)
{
	char	   *text;

	if (fabs(value) < whole_limit && value == rint(value))
	{
		set_numeric(result, int64_to_numeric((int64) value));
		return;
	}
	text = DatumGetCString(DirectFunctionCall1(output, datum));
	if (isfinite(value))
		set_numeric(result,
					DatumGetNumeric(DirectFunctionCall3(numeric_in,
														CStringGetDatum(text),
														ObjectIdGetDatum(InvalidOid),
														Int32GetDatum(-1))));
	else
		set_text(result, text, strlen(text));
}

/* Pushes a datum, which may be null, onto *state. */
static void
push_datum(JsonbParseState **state, JsonbIteratorToken token,
		   AudConverter *converter, Datum datum, bool isnull)
{
	JsonbValue	value;

	if (isnull)
		value.type = jbvNull;
	else
		aud_converter_run(converter, datum, &value);
	pushJsonbValue(state, token, &value);
}

/*
 * Pushes one dimension of an array, from *next on in the array's elements, and
 * those within it.
 */
static JsonbValue *
push_dimension(JsonbParseState **state, AudConverter *element, int ndims,
			   const int *dims, const Datum *datums, const bool *nulls,
			   int *next)
{
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < dims[0]; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (ndims > 1)
			push_dimension(state, element, ndims - 1, dims + 1, datums, nulls,
						   next);
		else
		{
			push_datum(state, WJB_ELEM, element, datums[*next], nulls[*next]);
			(*next)++;
		}
	}
	return pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/* The jsonb of an array. */
static Jsonb *
convert_array(AudConverter *converter, ArrayType *array)
{
	JsonbParseState *state = NULL;
	static const int no_elements = 0;
	Datum	   *datums;
	bool	   *nulls;
	int			count;
	int			next = 0;
	bool		is_empty = ARR_NDIM(array) == 0;

	deconstruct_array(array, converter->element_type, converter->element_len,
					  converter->element_byval, converter->element_align,
					  &datums, &nulls, &count);
	return JsonbValueToJsonb(push_dimension(&state, converter->element,
											is_empty ? 1 : ARR_NDIM(array),
											is_empty ? &no_elements : ARR_DIMS(array),
											datums, nulls, &next));
}

/*
 * Makes sure that there are converters for the attributes of a composite
 * type, kept until another one comes by (as it may in a column of records).
 */
static void
prepare_attributes(AudConverter *converter, TupleDesc tupdesc, uint64 id)
{
	AudConverter **attributes;
	MemoryContext old;

	if (converter->attributes != NULL && converter->tupdesc_id == id)
		return;
	old = MemoryContextSwitchTo(converter->mcxt);
	attributes = palloc0(sizeof(AudConverter *) * Max(tupdesc->natts, 1));
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);

		if (!attribute->attisdropped)
			attributes[i] = aud_converter_make(attribute->atttypid);
	}
	MemoryContextSwitchTo(old);
	/* both at once: an error before leaves those of the type before */
	converter->attributes = attributes;
	converter->tupdesc_id = id;
}

/* The jsonb of a composite value: an object by attribute names. */
static Jsonb *
convert_composite(AudConverter *converter, HeapTupleHeader header)
{
	Oid			type = HeapTupleHeaderGetTypeId(header);
	int32		typmod = HeapTupleHeaderGetTypMod(header);
	TupleDesc	tupdesc = lookup_rowtype_tupdesc(type, typmod);
	JsonbParseState *state = NULL;
	HeapTupleData tuple;
	JsonbValue *object;

	prepare_attributes(converter, tupdesc,
					   assign_record_type_identifier(type, typmod));
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(tupdesc, i);
		JsonbValue	key;
		Datum		datum;
		bool		isnull;

		if (attribute->attisdropped)
			continue;
		set_text(&key, NameStr(attribute->attname),
				 strlen(NameStr(attribute->attname)));
		pushJsonbValue(&state, WJB_KEY, &key);
		datum = heap_getattr(&tuple, i + 1, tupdesc, &isnull);
		push_datum(&state, WJB_VALUE, converter->attributes[i], datum, isnull);
	}
	object = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	ReleaseTupleDesc(tupdesc);
	return JsonbValueToJsonb(object);
}

/* *result becomes the JSON value of a datum.  See row_value.h. */
void
aud_converter_run(AudConverter *converter, Datum datum, JsonbValue *result)
{
	check_stack_depth();
	switch (converter->type)
	{
		case BOOLOID:
			result->type = jbvBool;
			result->val.boolean = DatumGetBool(datum);
			return;
		case INT2OID:
			set_numeric(result, int64_to_numeric(DatumGetInt16(datum)));
			return;
		case INT4OID:
			set_numeric(result, int64_to_numeric(DatumGetInt32(datum)));
			return;
		case INT8OID:
			set_numeric(result, int64_to_numeric(DatumGetInt64(datum)));
			return;
		case NUMERICOID:
			{
				Numeric		numeric = DatumGetNumeric(datum);

				if (numeric_is_nan(numeric) || numeric_is_inf(numeric))
				{
					char	   *text = DatumGetCString(DirectFunctionCall1(numeric_out,
																		   NumericGetDatum(numeric)));

					set_text(result, text, strlen(text));
				}
				else
					set_numeric(result, numeric);
				return;
			}
		case FLOAT4OID:
			set_float(result, float4out, datum, DatumGetFloat4(datum),
					  WHOLE_FLOAT4_LIMIT);
			return;
		case FLOAT8OID:
			set_float(result, float8out, datum, DatumGetFloat8(datum),
					  WHOLE_FLOAT8_LIMIT);
			return;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			{
				text	   *value = DatumGetTextPP(datum);

				set_text(result, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
				return;
			}
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			/* without a zone it is taken to be in UTC, as in rules */
			set_timestamp(result, DatumGetTimestampTz(datum));
			return;
		case JSONBOID:
			set_jsonb(result, DatumGetJsonbP(datum));
			return;
		case JSONOID:
			set_jsonb(result, DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
																 CStringGetDatum(TextDatumGetCString(datum)))));
			return;
		default:
			break;
	}
	if (OidIsValid(converter->element_type))
		set_jsonb(result, convert_array(converter, DatumGetArrayTypeP(datum)));
	else if (converter->is_composite)
		set_jsonb(result, convert_composite(converter,
											DatumGetHeapTupleHeader(datum)));
	else
		set_jsonb(result, DatumGetJsonbP(FunctionCall1(&converter->to_jsonb,
													   datum)));
}
