/*-------------------------------------------------------------------------
 *
 * user_table.h
 *	  A table with a row for each user, read and written without statements.
 *
 *	  aud_user_table_open		for one batch
 *	  aud_user_table_find		a user's row, locked or not
 *	  aud_user_table_find_at	the same, where the caller knows it is
 *	  aud_user_table_columns	what it holds; the caller changes it there
 *	  aud_user_table_update		writes the row found as it has become
 *	  aud_user_table_insert		writes a row for a user who has none
 *	  aud_user_table_delete		removes the row found
 *	  aud_user_table_append		writes a further row, sooner or later
 *	  aud_user_table_close
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_USER_TABLE_H
#define AUD_USER_TABLE_H

#include "postgres.h"

#include "storage/itemptr.h"

/* the tables that are read and written so */
typedef enum AudUserTableName
{
	AUD_PROFILES,
	AUD_TIMERS,
	AUD_TRANSITION_LOG,			/* more than one row for each user: only appended to */
	AUD_KAFKA_OUTBOX,			/* likewise */
	AUD_NUSER_TABLES
} AudUserTableName;

typedef struct AudUserTable AudUserTable;

extern AudUserTable *aud_user_table_open(AudUserTableName name);
extern bool aud_user_table_find(AudUserTable *table, const char *id, int len, bool lock);
extern bool aud_user_table_find_at(AudUserTable *table, const char *id, int len, ItemPointer place);
extern void aud_user_table_columns(AudUserTable *table, Datum **values, bool **nulls);
extern bool aud_user_table_update(AudUserTable *table);
extern bool aud_user_table_insert(AudUserTable *table);
extern void aud_user_table_delete(AudUserTable *table);
extern void aud_user_table_append(AudUserTable *table);
extern void aud_user_table_close(AudUserTable *table);

#endif							/* AUD_USER_TABLE_H */
