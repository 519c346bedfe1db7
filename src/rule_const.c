/*-------------------------------------------------------------------------
 *
 * rule_const.c
 *	  Constants of rules: from the input's values to what is stored.
 *
 * Equal numbers are stored alike, so that equal rules are: a number is brought
 * to digits without leading and trailing zeros and a power of ten before it
 * becomes a numeric.  That also finds those that numeric_in() would raise an
 * error for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "rule_parse.h"

/* digits that a numeric can have before and after the point */
#define MAX_INTEGER_DIGITS		131072
#define MAX_FRACTION_DIGITS		16383

/*
 * Counts the digits that a number is printed with, which has so many and a
 * power of ten behind them.  False and a failure if those of all numbers are
 * more than a rule may have bytes: a few kilobytes with exponents would be
 * printed as gigabytes, before anybody could see that this is too much.
 */
static bool
count_digits(AudParse *parse, int64 ndigits, int64 exponent)
{
	parse->ndigits += exponent > 0 ? ndigits + exponent : Max(ndigits, -exponent);
	if (parse->ndigits <= (int64) AUD_MAX_BYTES)
		return true;
	aud_rule_fail_limit(parse, ERRCODE_PROGRAM_LIMIT_EXCEEDED,
						"rule is too large",
						psprintf("Its canonical form has more than %d bytes, which is the limit.",
								 AUD_MAX_BYTES));
	return false;
}

/*
 * A JSON number as numeric, palloc'ed.  NULL and a failure if it is out of
 * numeric's range, or one number too many.
 */
Numeric
aud_const_number(AudParse *parse, const AudJson *json)
{
	const char *s = json->text;
	bool		negative = false;
	char	   *digits = palloc(json->len + 32);
	int			ndigits = 0;
	int			nzeros = 0;		/* after the last digit kept */
	int64		exponent = 0;	/* of the digit after the last one kept */
	int64		written = 0;
	Numeric		result;

	if (*s == '-')
	{
		negative = true;
		s++;
	}
	digits[ndigits++] = negative ? '-' : '+';
	for (bool fraction = false; isdigit((unsigned char) *s) || *s == '.'; s++)
	{
		if (*s == '.')
		{
			fraction = true;
			continue;
		}
		if (fraction)
			exponent--;
		if (*s == '0')
		{
			if (ndigits > 1)
				nzeros++;
			continue;
		}
		memset(digits + ndigits, '0', nzeros);
		ndigits += nzeros;
		nzeros = 0;
		digits[ndigits++] = *s;
	}
	if (*s == 'e' || *s == 'E')
	{
		bool		down;

		s++;
		down = *s == '-';
		if (*s == '-' || *s == '+')
			s++;
		for (; isdigit((unsigned char) *s); s++)
		{
			if (written < PG_INT32_MAX)
				written = written * 10 + (*s - '0');
		}
		exponent += down ? -written : written;
	}
	exponent += nzeros;

	if (ndigits == 1)
	{
		digits[ndigits++] = '0';
		exponent = 0;
	}
	if (ndigits - 1 + exponent > MAX_INTEGER_DIGITS ||
		-exponent > MAX_FRACTION_DIGITS)
	{
		aud_rule_fail(parse, json, "the number is out of range");
		return NULL;
	}
	if (!count_digits(parse, ndigits - 1, exponent))
		return NULL;
	snprintf(digits + ndigits, 32, "e" INT64_FORMAT, exponent);
	result = DatumGetNumeric(DirectFunctionCall3(numeric_in,
												 CStringGetDatum(digits),
												 ObjectIdGetDatum(InvalidOid),
												 Int32GetDatum(-1)));
	pfree(digits);
	return result;
}

/*
 * Fills a JsonbValue from a scalar of the input.  False and a failure if it
 * is a number out of range.
 */
static bool
make_scalar(AudParse *parse, const AudJson *json, JsonbValue *value)
{
	switch (json->type)
	{
		case AUD_JSON_NULL:
			value->type = jbvNull;
			return true;
		case AUD_JSON_BOOL:
			value->type = jbvBool;
			value->val.boolean = json->boolean;
			return true;
		case AUD_JSON_TEXT:
			value->type = jbvString;
			value->val.string.val = unconstify(char *, json->text);
			value->val.string.len = json->len;
			return true;
		case AUD_JSON_NUMBER:
			value->type = jbvNumeric;
			value->val.numeric = aud_const_number(parse, json);
			return value->val.numeric != NULL;
		default:
			elog(ERROR, "unexpected type of JSON value: %d", (int) json->type);
	}
	return false;				/* keep compiler quiet */
}

/*
 * Pushes a value of the input as the next value or element ("token").  In
 * *result is what it became, if it is the outermost list or object.  False
 * after a failure.
 */
static bool
push_json(JsonbParseState **state, AudParse *parse, const AudJson *json,
		  JsonbIteratorToken token, JsonbValue **result)
{
	bool		is_object = json->type == AUD_JSON_OBJECT;
	JsonbValue	value;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();

	if (!is_object && json->type != AUD_JSON_ARRAY)
	{
		if (!make_scalar(parse, json, &value))
			return false;
		(void) pushJsonbValue(state, token, &value);
		return true;
	}

	(void) pushJsonbValue(state, is_object ? WJB_BEGIN_OBJECT : WJB_BEGIN_ARRAY, NULL);
	for (const AudJson *child = json->first; child; child = child->next)
	{
		if (is_object)
		{
			value.type = jbvString;
			value.val.string.val = unconstify(char *, child->key);
			value.val.string.len = child->keylen;
			(void) pushJsonbValue(state, WJB_KEY, &value);
		}
		if (!push_json(state, parse, child, is_object ? WJB_VALUE : WJB_ELEM, result))
			return false;
	}
	*result = pushJsonbValue(state, is_object ? WJB_END_OBJECT : WJB_END_ARRAY, NULL);
	return true;
}

/* A constant that is this text, which is kept, not copied. */
AudConst *
aud_const_make_text(const char *text, int len)
{
	AudConst   *constant = palloc0(sizeof(AudConst));

	constant->type = AUD_VALUE_TEXT;
	constant->text = text;
	constant->len = len;
	return constant;
}

/*
 * A constant that is this value, which is not null: a boolean, number, text,
 * or jsonb for lists and objects.  NULL and a failure if a number in it is out
 * of range.
 */
AudConst *
aud_const_make(AudParse *parse, const AudJson *json)
{
	AudConst   *constant;

	if (json->type == AUD_JSON_TEXT)
		return aud_const_make_text(json->text, json->len);

	constant = palloc0(sizeof(AudConst));
	switch (json->type)
	{
		case AUD_JSON_BOOL:
			constant->type = AUD_VALUE_BOOL;
			constant->boolean = json->boolean;
			break;
		case AUD_JSON_NUMBER:
			constant->type = AUD_VALUE_NUMBER;
			constant->number = aud_const_number(parse, json);
			if (constant->number == NULL)
				return NULL;
			break;
		case AUD_JSON_ARRAY:
		case AUD_JSON_OBJECT:
			{
				JsonbParseState *state = NULL;
				JsonbValue *value = NULL;

				if (!push_json(&state, parse, json, WJB_ELEM, &value))
					return NULL;
				constant->type = AUD_VALUE_JSON;
				constant->json = JsonbValueToJsonb(value);
				break;
			}
		default:
			elog(ERROR, "unexpected type of JSON value: %d", (int) json->type);
	}
	return constant;
}
