/*-------------------------------------------------------------------------
 *
 * decider.h
 *	  What deciding about one user after the other works with.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_DECIDER_H
#define AUD_DECIDER_H

#include "batch.h"
#include "blockers.h"

struct AudDecider
{
	const AudDefinitions *defs;
	AudUser    *user;
	AudClock	before;			/* the user's as_of */
	AudClock	now;

	uint32		epoch;			/* of the user: what is marked with it is the user's */
	uint32	   *leaf_known;		/* epoch in which leaf_holds was set */
	bool	   *leaf_holds;
	uint32	   *leaf_turned;	/* epoch in which the leaf turned over */
	uint32	   *segment_known;	/* epoch in which segment_holds was set */
	bool	   *segment_holds;

	uint64	   *candidates;		/* bit for each segment by rank */
	int			nwords;
	int		   *words;			/* room for the numbers of as many */
	int			ncandidates;	/* how often one was set for a leaf */
	int			nblocked;		/* fields (blockers.c) that have been asked about the user */
	const uint64 *blocked[AUD_MAX_BLOCK_FIELDS];	/* segments that cannot hold: now, */
	const uint64 *blocked_before[AUD_MAX_BLOCK_FIELDS];
	uint32		moving_known;	/* epoch in which the next were set */
	int			nmoving;		/* segments that time alone may change, and that are not blocked: */
	uint64	   *moving;			/* bit for each by rank; */
	uint32	   *leaf_moving;	/* if there are few, epoch in which one of them was seen to hold the leaf */
	const bool *fill;			/* the batch's, of which these are the segments */
	int			nfills;
	int		   *fills;
	bool		any_turned;
	bool		fill_changed;	/* a membership of the user has changed by a fill's reason */
	MemoryContext mcxt;			/* of what one user's decision leaves behind */
};

extern bool aud_decider_evaluate_leaf(AudDecider *decider, const AudLeaf *leaf, Jsonb *attributes,
									  const AudAggregateValue *value, const AudClock *clock);
extern const JsonbValue *aud_decider_leaf_value(AudDecider *decider, const AudLeaf *leaf,
												JsonbValue *start, JsonbValue *room);
extern const AudAggregateValue *aud_user_value_before(const AudUser *user, int aggregate);
extern void aud_decider_strike_blocked(AudDecider *decider, uint64 *segments, bool before);
extern bool aud_decider_number_holds(const AudLeaf *leaf, const AudDecimal *number);
extern bool aud_decider_any_moves(AudDecider *decider);
extern bool aud_decider_leaf_matters(AudDecider *decider, int leaf);
extern bool aud_decider_belongs(AudDecider *decider, int index);
extern int	aud_route_first_age(const AudRoute *route, int64 age);
extern void aud_route_thresholds_between(const AudRoute *route, const AudDecimal *x, const AudDecimal *y,
										 int *first, int *end);
extern bool aud_decider_run(AudDecider *decider, const AudInstruction *at, bool before);

#endif							/* AUD_DECIDER_H */
