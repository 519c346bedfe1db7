/*-------------------------------------------------------------------------
 *
 * caller.c
 *	  Functions that must know who calls them, and then run as the extension's
 *	  owner.
 *
 * A SECURITY DEFINER function does not know who calls it: the user has been
 * changed before it begins, and the session's role is somebody else's as soon as
 * a function of one role runs in a session of another.  So these are ordinary
 * functions, which do by themselves what SECURITY DEFINER does, when they have
 * looked at who calls: they have a query run as their own owner.  What it calls is
 * granted to nobody, so that there is no way around them.
 *
 * An error leaves the user changed until the (sub)transaction has been undone,
 * which puts back who it was; as in a SECURITY DEFINER function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type_d.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "caller.h"
#include "definitions.h"
#include "store.h"

PG_FUNCTION_INFO_V1(aud_profile_set);

/* at most so many arguments of a query */
#define MOST_ARGS	4

/* The owner of a function. */
Oid
aud_function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Runs a query as the owner of the function called.  See caller.h. */
NullableDatum
aud_call_as_owner(FunctionCallInfo fcinfo, SPIPlanPtr *plan, const char *query,
				  int nargs, const Oid *types, const NullableDatum *args)
{
	Oid			owner = aud_function_owner(fcinfo->flinfo->fn_oid);
	Datum		values[MOST_ARGS];
	char		nulls[MOST_ARGS];
	NullableDatum result;
	Oid			user;
	int			context;

	Assert(nargs <= MOST_ARGS);
	for (int i = 0; i < nargs; i++)
	{
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE);
	if (SPI_execute_plan(aud_store_plan(plan, query, nargs, types, 0), values, nulls, false, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "unexpected result of \"%s\"", query);
	SetUserIdAndSecContext(user, context);
	result.value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &result.isnull);
	if (!result.isnull)
	{
		int16		len;
		bool		byval;

		get_typlenbyval(SPI_gettypeid(SPI_tuptable->tupdesc, 1), &len, &byval);
		result.value = SPI_datumTransfer(result.value, byval, len);
	}
	SPI_finish();
	return result;
}

/* May the current user read this column of table profiles? */
static bool
may_read(Oid profiles, AttrNumber column)
{
	return pg_class_aclcheck(profiles, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
		pg_attribute_aclcheck(profiles, column, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

/*
 * profile_set(user_id text, attributes jsonb) → jsonb: who may put attributes in
 * need not be allowed to read them, and is told then what of them it has set
 * itself, and no more.
 */
Datum
aud_profile_set(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {TEXTOID, JSONBOID, BOOLOID};
	Oid			profiles = aud_definitions_table("profiles");
	bool		whole = may_read(profiles, AUD_PROFILE_USER_ID) && may_read(profiles, AUD_PROFILE_ATTRIBUTES);
	NullableDatum args[] = {fcinfo->args[0], fcinfo->args[1], {.value = BoolGetDatum(whole)}};
	NullableDatum result = aud_call_as_owner(fcinfo, &plan, "SELECT audience.profile_patch($1, $2, $3)",
											 lengthof(types), types, args);

	if (result.isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result.value);
}
