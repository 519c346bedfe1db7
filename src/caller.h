/*-------------------------------------------------------------------------
 *
 * caller.h
 *	  Functions that must know who calls them, and then run as the extension's
 *	  owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_CALLER_H
#define AUD_CALLER_H

#include "postgres.h"

#include "executor/spi.h"
#include "fmgr.h"

/* The owner of a function; of one of the extension's: the owner of the extension. */
extern Oid aud_function_owner(Oid function);

/*
 * Runs a query of one value as the owner of the function that "fcinfo" calls,
 * who is the extension's; *plan, NULL at first, keeps its plan for the session.
 * The value is in the current context.
 */
extern NullableDatum aud_call_as_owner(FunctionCallInfo fcinfo, SPIPlanPtr *plan, const char *query,
									   int nargs, const Oid *types, const NullableDatum *args);

#endif							/* AUD_CALLER_H */
