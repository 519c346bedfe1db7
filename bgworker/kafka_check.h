/*-------------------------------------------------------------------------
 *
 * kafka_check.h
 *	  Which messages cannot be taken, whatever the database says.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_KAFKA_CHECK_H
#define AUD_KAFKA_CHECK_H

#include "postgres.h"

/* what is wrong with a message */
typedef struct AudKafkaProblem
{
	int			sqlstate;
	char		text[256];
} AudKafkaProblem;

extern bool aud_kafka_check_event(const char *value, size_t len, AudKafkaProblem *problem);

#endif							/* AUD_KAFKA_CHECK_H */
