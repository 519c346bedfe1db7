/*-------------------------------------------------------------------------
 *
 * members.h
 *	  A user's memberships, packed into one value (members.c).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_MEMBERS_H
#define AUD_MEMBERS_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* one membership to enter (or to enter anew), or to take out */
typedef struct AudMemberChange
{
	int32		number;			/* of the segment */
	bool		enter;
} AudMemberChange;

extern int	aud_members_count(const bytea *members);
extern int32 aud_members_number(const bytea *members, int i);
extern bool aud_members_find(const bytea *members, int32 number, TimestampTz *entered_at);
extern bytea *aud_members_change(const bytea *members, AudMemberChange *changes, int nchanges,
								 TimestampTz entered_at);

#endif							/* AUD_MEMBERS_H */
