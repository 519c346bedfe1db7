/*-------------------------------------------------------------------------
 *
 * definitions_order.c
 *	  Segments in the order in which they are decided, and found by id and by
 *	  number.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/memutils.h"

#include "compat.h"
#include "definitions.h"

/* Where the table by id has the segment with this id, or room for it. */
static uint32 *
id_slot(const AudDefinitions *defs, const char *id)
{
	uint32		i = hash_bytes((const unsigned char *) id, strlen(id));

	for (;; i++)
	{
		uint32	   *slot = &defs->by_id[i & defs->by_id_mask];

		if (*slot == 0 || strcmp(defs->segments[*slot - 1].id, id) == 0)
			return slot;
	}
}

/* The index of the segment with this id, -1: none. */
int
aud_definitions_find_segment(const AudDefinitions *defs, const char *id)
{
	return (int) *id_slot(defs, id) - 1;
}

/* The index of the segment with this number, -1: none. */
int
aud_definitions_find_segment_number(const AudDefinitions *defs, int32 number)
{
	int			low = 0,
				high = defs->nsegments;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			index = defs->by_number[middle];

		if (defs->segments[index].number == number)
			return index;
		if (defs->segments[index].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return -1;
}

/* a segment's number, for sorting */
typedef struct Numbered
{
	int32		number;
	int			place;
} Numbered;

/* Orders by number. */
static int
compare_numbers(const void *a, const void *b)
{
	int32		x = ((const Numbered *) a)->number;
	int32		y = ((const Numbered *) b)->number;

	return (x > y) - (x < y);
}

/* Depth-first search state of the topological sort. */
typedef struct OrderState
{
	const AudDefinitions *defs;
	bool		any_refers;		/* does any rule refer to a segment? */
	char	   *color;			/* 0: not seen, 1: on the path, 2: done */
	int		   *path;
	int			depth;
	int		   *order;
	int			norder;
} OrderState;

/* Reports the cycle that ends with the path's last segment. */
pg_noreturn static void
report_cycle(OrderState *state, int segment)
{
	StringInfoData text;
	int			i = 0;

	initStringInfo(&text);
	while (state->path[i] != segment)
		i++;
	for (; i < state->depth; i++)
		appendStringInfo(&text, "%s -> ", state->defs->segments[state->path[i]].id);
	appendStringInfoString(&text, state->defs->segments[segment].id);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("segments refer to one another in a cycle"),
			 errdetail("%s", text.data)));
}

/* Visits a segment after all that its rule refers to. */
static void
visit(OrderState *state, int segment)
{
	const AudDefinitions *defs = state->defs;
	const AudInstruction *program = defs->segments[segment].program;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (state->color[segment] == 2)
		return;
	if (state->color[segment] == 1)
		report_cycle(state, segment);
	state->color[segment] = 1;
	state->path[state->depth++] = segment;
	for (uint32 i = 0; state->any_refers && program != NULL && i < program->ninstructions; i++)
		if (program[i].kind == AUD_NODE_FIELD &&
			defs->leaves[program[i].operand].source == AUD_LEAF_SEGMENT)
		{
			int			other = aud_definitions_find_segment(defs, aud_leaf_segment_id(&defs->leaves[program[i].operand]));

			if (other >= 0)
				visit(state, other);
		}
	state->depth--;
	state->color[segment] = 2;
	state->order[state->norder++] = segment;
}

/*
 * Brings the segments, which come in any order, into one in which each stands
 * behind those that its rule refers to, and otherwise by number.  A cycle is
 * an error (42P17) that names it.  Returns where each has gone, in "work".
 */
int *
aud_definitions_order_segments(AudDefinitions *defs, MemoryContext work)
{
	int			n = defs->nsegments;
	uint32		nslots = pg_nextpower2_32(Max(n, 8) * 2);
	MemoryContext old;
	Numbered   *numbered;
	AudSegment *unordered;
	int		   *indexes;
	OrderState	state = {.defs = defs};

	defs->by_id_mask = nslots - 1;
	defs->by_id = palloc0(nslots * sizeof(uint32));
	defs->by_number = palloc((n + 1) * sizeof(int));
	for (int i = 0; i < n; i++)
		*id_slot(defs, defs->segments[i].id) = i + 1;

	old = MemoryContextSwitchTo(work);
	numbered = palloc((n + 1) * sizeof(Numbered));
	indexes = palloc((n + 1) * sizeof(int));
	state.color = palloc0(n + 1);
	state.path = palloc((n + 1) * sizeof(int));
	state.order = palloc((n + 1) * sizeof(int));
	unordered = palloc((n + 1) * sizeof(AudSegment));
	MemoryContextSwitchTo(old);
	for (int i = 0; i < n; i++)
	{
		numbered[i].number = defs->segments[i].number;
		numbered[i].place = i;
	}
	qsort(numbered, n, sizeof(Numbered), compare_numbers);
	for (int i = 0; i < defs->nleaves; i++)
		state.any_refers |= defs->leaves[i].source == AUD_LEAF_SEGMENT;
	for (int i = 0; i < n; i++)
		visit(&state, numbered[i].place);

	memcpy(unordered, defs->segments, n * sizeof(AudSegment));
	for (int i = 0; i < n; i++)
	{
		defs->segments[i] = unordered[state.order[i]];
		indexes[state.order[i]] = i;
	}
	for (int i = 0; i < n; i++)
		defs->by_number[i] = indexes[numbered[i].place];
	for (uint32 i = 0; i < nslots; i++)
		if (defs->by_id[i] != 0)
			defs->by_id[i] = indexes[defs->by_id[i] - 1] + 1;
	return indexes;
}
