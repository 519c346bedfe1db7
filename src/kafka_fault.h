/*-------------------------------------------------------------------------
 *
 * kafka_fault.h
 *	  Whose fault an error is: a message's, which is then a dead letter, or that
 *	  of the circumstances, which are waited out.
 *
 * A message is blamed only for what will come again whenever it is tried.  What
 * is in doubt is waited out: a source that stands still is seen and mended, a
 * good message among the dead letters may not be.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_KAFKA_FAULT_H
#define AUD_KAFKA_FAULT_H

#include "postgres.h"

#include "utils/elog.h"

/* Is an error of this SQLSTATE the fault of the message that was tried? */
static inline bool
aud_kafka_is_fault(int sqlstate, bool of_segment)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case MAKE_SQLSTATE('2', '1', '0', '0', '0'):	/* cardinality violation */
		case ERRCODE_DATA_EXCEPTION:
		case ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION:
		case ERRCODE_WITH_CHECK_OPTION_VIOLATION:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_PLPGSQL_ERROR: /* RAISE in somebody's trigger */
			return true;
	}
	if (!of_segment)
		return false;
	switch (sqlstate)
	{
		case ERRCODE_UNDEFINED_OBJECT:	/* a segment it refers to */
		case ERRCODE_DUPLICATE_OBJECT:
		case ERRCODE_WRONG_OBJECT_TYPE:
		case ERRCODE_INVALID_OBJECT_DEFINITION: /* a cycle */
		case ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST:
		case ERRCODE_FEATURE_NOT_SUPPORTED:
			return true;
	}
	return false;
}

#endif							/* AUD_KAFKA_FAULT_H */
