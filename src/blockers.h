/*-------------------------------------------------------------------------
 *
 * blockers.h
 *	  Segments that cannot hold for a user, whatever else may be true
 *	  (blockers.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_BLOCKERS_H
#define AUD_BLOCKERS_H

#include "definitions.h"

/* fields that are asked, at most: those that most rules need something of */
#define AUD_MAX_BLOCK_FIELDS	24

/* what an aggregate or attribute is looked up as */
typedef struct AudBlockField
{
	const AudAttribute *attribute;	/* NULL: an aggregate */
	int			aggregate;
	bool		lasts;			/* its value stays while only time passes */
	struct AudBlockCells *cells;
} AudBlockField;

typedef struct AudBlockers
{
	int			nfields;
	AudBlockField fields[AUD_MAX_BLOCK_FIELDS];
	int			nwords;			/* of each bitmap */
	const uint64 *moving;		/* segments whose rules hold a leaf that time alone may turn over */
	const uint64 *none;			/* one that is empty */
	int			ncells;			/* that have been made, of all fields */
	MemoryContext mcxt;
} AudBlockers;

extern AudBlockers *aud_blockers_create(const AudDefinitions *defs, MemoryContext work);
extern const uint64 *aud_blockers_of_aggregate(const AudDefinitions *defs, const AudBlockField *field, const AudAggregateValue *value);
extern const uint64 *aud_blockers_of_json(const AudDefinitions *defs, const AudBlockField *field, const JsonbValue *value);

#endif							/* AUD_BLOCKERS_H */
