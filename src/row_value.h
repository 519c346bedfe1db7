/*-------------------------------------------------------------------------
 *
 * row_value.h
 *	  What a column's value means to a rule.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_ROW_VALUE_H
#define AUD_ROW_VALUE_H

#include "utils/jsonb.h"

/* how values of one type become JSON; opaque */
typedef struct AudConverter AudConverter;

/* in the current context, for any type; keeps nothing of the catalogs */
extern AudConverter *aud_converter_make(Oid type);

/*
 * *result becomes the JSON value of a datum that is not null.  What it points
 * to is in the datum or palloc'ed in the current context.
 */
extern void aud_converter_run(AudConverter *converter, Datum datum,
							  JsonbValue *result);

#endif							/* AUD_ROW_VALUE_H */
