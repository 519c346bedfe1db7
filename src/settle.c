/*-------------------------------------------------------------------------
 *
 * settle.c
 *	  From a user's decided changes to its stored memberships and history.
 *
 * What is stored has the last word: a change that it does not bear out (an
 * entry of one who is in, an exit of one who is not) is none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "batch.h"
#include "stats.h"
#include "transition_log.h"

/*
 * Adds a change of the user being decided; a score below 0 is none.  The
 * result is valid until the next call.
 */
AudChange *
aud_batch_add_change(AudBatch *batch, int segment, bool added,
					 float8 rule_score, const char *reason)
{
	AudChange  *change;

	if (batch->nchanges == batch->max_changes)
	{
		batch->max_changes = batch->max_changes ? batch->max_changes * 2 : 64;
		batch->changes = batch->changes ?
			repalloc_huge(batch->changes, batch->max_changes * sizeof(AudChange)) :
			MemoryContextAlloc(batch->mcxt, batch->max_changes * sizeof(AudChange));
	}
	change = &batch->changes[batch->nchanges++];
	change->segment = segment;
	change->added = added;
	change->score = rule_score;
	change->reason = reason;
	change->store = change->log = true;
	change->anew = false;
	return change;
}

/* Adds a row to the history: the changes that have this reason. */
static void
add_log_row(AudBatch *batch, const AudUser *user, const char *reason)
{
	AudLogRow  *row;

	if (batch->nlog == batch->max_log)
	{
		batch->max_log = batch->max_log ? batch->max_log * 2 : 64;
		batch->log = batch->log ?
			repalloc_huge(batch->log, batch->max_log * sizeof(AudLogRow)) :
			palloc(batch->max_log * sizeof(AudLogRow));
	}
	row = &batch->log[batch->nlog++];
	row->user = user - batch->users;
	row->at = user->now;
	row->reason = reason;
	row->nentries = 0;
	aud_transition_begin(&batch->entries);
	for (int i = 0; i < batch->nchanges; i++)
	{
		AudChange  *change = &batch->changes[i];
		const AudSegment *segment = &batch->defs->segments[change->segment];

		if (!change->log || strcmp(change->reason, reason) != 0)
			continue;
		aud_transition_append(&batch->entries, segment->number, change->added,
							  segment->version, change->score);
		row->nentries++;
		change->log = false;
	}
	row->entries = aud_transition_finish(&batch->entries);
}

/*
 * Settles the changes in batch->changes, which are this user's: its new
 * memberships and the rows of its history are made, in the batch's memory,
 * and the changes are forgotten.
 */
void
aud_batch_settle(AudBatch *batch, AudUser *user)
{
	MemoryContext old;
	AudMemberChange *stored;
	int			nstored = 0;
	int			kept = 0;

	if (batch->nchanges == 0)
		return;
	aud_stats_count(AUD_COUNT_SETTLED, batch->nchanges);
	old = MemoryContextSwitchTo(batch->mcxt);
	stored = palloc(batch->nchanges * sizeof(AudMemberChange));
	for (int i = 0; i < batch->nchanges; i++)
	{
		const AudChange *change = &batch->changes[i];
		int32		number = batch->defs->segments[change->segment].number;

		if (change->store)
		{
			if (!change->anew &&
				aud_members_find(user->members, number, NULL) == change->added)
				continue;
			stored[nstored].number = number;
			stored[nstored++].enter = change->added;
		}
		batch->changes[kept++] = *change;
	}
	batch->nchanges = kept;
	if (nstored > 0)
	{
		user->new_members = aud_members_change(user->members, stored, nstored, user->now);
		user->members_changed = true;
		user->write = true;
	}
	pfree(stored);
	for (int i = 0; i < batch->nchanges; i++)
		if (batch->changes[i].log)
			add_log_row(batch, user, batch->changes[i].reason);
	batch->nchanges = 0;
	MemoryContextSwitchTo(old);
}
