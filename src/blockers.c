/*-------------------------------------------------------------------------
 *
 * blockers.c
 *	  Segments that cannot hold for a user, whatever else may be true.
 *
 * With ten thousand rules an event turns over leaves that hundreds of them
 * hold, and most of those are false before and after, because the user is
 * from another country or has not bought enough.  Rather than look at each,
 * they are taken out together.  The values that an attribute or aggregate
 * ("field") may have fall into cells:
 *
 *	  missing
 *	  true, false
 *	  a text that some rule names; any other text
 *	  the numbers between two of up to 32 constants
 *
 * and for a cell there is a bitmap of the segments whose rules need a leaf that
 * is false throughout the cell (or refuse one that is true).  Candidates are
 * stripped of the bitmaps of all the user's cells.  A value without a cell, as
 * an array, blocks nothing.
 *
 * Bitmaps are made when they are first needed, and kept with the definitions;
 * so many that they cannot take more than MAX_CELLS bits a segment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/hashfn.h"
#include "utils/float.h"
#include "utils/memutils.h"

#include "blockers.h"

/* cells that are made for a set of definitions, at most */
#define MAX_CELLS		512

/* constants between which numbers fall into cells, at most */
#define MAX_CUTS		32

typedef enum CellKind
{
	CELL_MISSING,
	CELL_BOOL,
	CELL_TEXT,					/* this one */
	CELL_OTHER_TEXT,			/* none that a rule names by eq or in */
	CELL_NUMBER					/* from low on, below high */
} CellKind;

/* values that are treated alike */
typedef struct Cell
{
	CellKind	kind;
	bool		boolean;
	const char *text;
	int			len;
	double		low;
	double		high;
	const uint64 *blocked;		/* NULL: not made yet */
} Cell;

/* a field's cells */
struct AudBlockCells
{
	const AudRoute *route;
	Cell		missing;
	Cell		booleans[2];
	Cell		other_text;
	Cell	  **texts;			/* by place in route->texts, the first with its hash */
	int			ncuts;
	double		cuts[MAX_CUTS];
	Cell		numbers[MAX_CUTS + 1];
};

/* Is a number surely below another, though both are only nearly what they stand for? */
static inline bool
is_below(double a, double b)
{
	return a + fabs(a) * 1e-14 < b;
}

/*
 * Does a number of the cell compare so with a constant?  1: all do, 0: none,
 * -1: some may.  The cell's numbers are exactly below constants at or above
 * its high end (the value is not placed where that is in doubt).
 */
static int
number_compares(AudOp op, const Cell *cell, double constant)
{
	bool		all_below = constant >= cell->high;
	bool		all_above = is_below(constant, cell->low - fabs(cell->low) * 1e-14);

	if (!all_below && !all_above)
		return -1;
	switch (op)
	{
		case AUD_OP_GT:
		case AUD_OP_GTE:
			return all_above;
		case AUD_OP_LT:
		case AUD_OP_LTE:
			return all_below;
		default:
			return 0;			/* equals none of them */
	}
}

/* As number_compares, for a leaf that turns only at its constants. */
static int
number_holds(const AudLeaf *leaf, const AudValue *value, const Cell *cell)
{
	int			result = 0;

	if (leaf->op == AUD_OP_BETWEEN)
	{
		int			low = number_compares(AUD_OP_GTE, cell, aud_constant_double(AUD_VALUE_ITEM(leaf->rule, value, 0)));
		int			high = number_compares(AUD_OP_LTE, cell, aud_constant_double(AUD_VALUE_ITEM(leaf->rule, value, 1)));

		return low == 0 || high == 0 ? 0 : low == 1 && high == 1 ? 1 : -1;
	}
	if (value->type == AUD_VALUE_NUMBER)
		return number_compares(leaf->op, cell, aud_constant_double(value));
	if (value->type == AUD_VALUE_LIST)
		for (uint32 i = 0; i < value->len; i++)
		{
			const AudValue *item = AUD_VALUE_ITEM(leaf->rule, value, i);

			if (item->type == AUD_VALUE_NUMBER)
				result |= number_compares(AUD_OP_EQ, cell, aud_constant_double(item));
		}
	return result;
}

/* Does a leaf hold in a cell?  1: for all values, 0: for none, -1: for some, perhaps. */
static int
leaf_holds(const AudLeaf *leaf, const Cell *cell)
{
	static const AudClock no_clock = {0};
	const AudNode *node = leaf->node;
	const AudValue *value;
	JsonbValue	json;
	int			result;

	if (node->kind == AUD_NODE_SEQUENCE ||
		(node->kind == AUD_NODE_FIELD && AUD_NODE_PATH(leaf->rule, node)->nsteps != 1))
		return -1;
	/* what tells times from now looks at nothing here */
	if (cell->kind == CELL_MISSING)
		return aud_value_holds(leaf->rule, node, NULL, &no_clock);
	if (leaf->op >= AUD_OP_BEFORE && leaf->op <= AUD_OP_AFTER_NEXT)
		return -1;
	switch (cell->kind)
	{
		case CELL_BOOL:
			json.type = jbvBool;
			json.val.boolean = cell->boolean;
			return aud_value_holds(leaf->rule, node, &json, &no_clock);
		case CELL_TEXT:
			/* one that runs out of memory does not match; but only this time */
			if (leaf->op == AUD_OP_REGEX || leaf->op == AUD_OP_IREGEX)
				return -1;
			json.type = jbvString;
			json.val.string.val = unconstify(char *, cell->text);
			json.val.string.len = cell->len;
			return aud_value_holds(leaf->rule, node, &json, &no_clock);
		default:
			break;
	}
	if (!aud_leaf_turns_at_constants(leaf, &value))
		return -1;
	/* numbers are never equal to texts, nor in their order */
	result = cell->kind == CELL_NUMBER ? number_holds(leaf, value, cell) : 0;
	return result < 0 ? result : result != leaf->negated;
}

/* The bitmap of a cell (NULL: none); an empty one if there are too many already. */
static const uint64 *
blocked_in(const AudDefinitions *defs, const AudRoute *route, Cell *cell)
{
	AudBlockers *blockers = defs->blockers;
	uint64	   *blocked;

	if (cell == NULL)
		return blockers->none;
	if (cell->blocked != NULL)
		return cell->blocked;
	if (blockers->ncells >= MAX_CELLS)
		return blockers->none;
	blocked = MemoryContextAllocZero(blockers->mcxt, (blockers->nwords + 1) * sizeof(uint64));
	for (int i = 0; i < route->nleaves; i++)
	{
		const AudLeaf *leaf = &defs->leaves[route->leaves[i]];
		int			holds = leaf_holds(leaf, cell);
		uint8		role = holds ? AUD_ROLE_REFUSED : AUD_ROLE_NEEDED;

		if (holds < 0)
			continue;
		for (int s = 0; s < leaf->nsegments; s++)
			if (leaf->roles[s] & role)
				blocked[leaf->segments[s] / 64] |= UINT64CONST(1) << (leaf->segments[s] % 64);
	}
	blockers->ncells++;
	cell->blocked = blocked;
	return blocked;
}

/* The cell of a text, NULL: none. */
static Cell *
text_cell(const AudDefinitions *defs, struct AudBlockCells *cells, const char *text, int len)
{
	int			at = aud_route_first_text(cells->route, hash_bytes((const unsigned char *) text, len));
	Cell	   *cell;

	if (at < 0)
		return &cells->other_text;
	if (cells->texts == NULL)
		cells->texts = MemoryContextAllocZero(defs->blockers->mcxt,
											  cells->route->ntexts * sizeof(Cell *));
	cell = cells->texts[at];
	if (cell == NULL && defs->blockers->ncells < MAX_CELLS)
	{
		char	   *copy = MemoryContextAlloc(defs->blockers->mcxt, len + 1);

		memcpy(copy, text, len);
		cell = MemoryContextAllocZero(defs->blockers->mcxt, sizeof(Cell));
		cell->kind = CELL_TEXT;
		cell->text = copy;
		cell->len = len;
		cells->texts[at] = cell;
	}
	/* another with the same hash has none */
	if (cell != NULL && (cell->len != len || memcmp(cell->text, text, len) != 0))
		return NULL;
	return cell;
}

/* The cell of a number, NULL: it is too near to a constant to be placed. */
static Cell *
number_cell(struct AudBlockCells *cells, const AudDecimal *number)
{
	double		value = aud_decimal_double(number);
	int			low = 0,
				high = cells->ncuts;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (cells->cuts[middle] <= value)
			low = middle + 1;
		else
			high = middle;
	}
	if (!is_below(value, cells->numbers[low].high))
		return NULL;
	return &cells->numbers[low];
}

/*
 * The segments that a value of the field (NULL: missing) blocks, as far as is
 * known, one bit each.
 */
const uint64 *
aud_blockers_of_json(const AudDefinitions *defs, const AudBlockField *field,
					 const JsonbValue *value)
{
	struct AudBlockCells *cells = field->cells;
	Cell	   *cell = NULL;
	AudDecimal	number;

	if (value == NULL)
		cell = &cells->missing;
	else if (value->type == jbvBool)
		cell = &cells->booleans[value->val.boolean];
	else if (value->type == jbvString)
		cell = text_cell(defs, cells, value->val.string.val, value->val.string.len);
	else if (value->type == jbvNumeric)
	{
		aud_decimal_set_numeric(&number, value->val.numeric);
		cell = number_cell(cells, &number);
	}
	return blocked_in(defs, cells->route, cell);
}

/* The same for an aggregate's value. */
const uint64 *
aud_blockers_of_aggregate(const AudDefinitions *defs, const AudBlockField *field,
						  const AudAggregateValue *value)
{
	Cell	   *cell;

	switch (value->kind)
	{
		case AUD_AGGVALUE_MISSING:
			return aud_blockers_of_json(defs, field, NULL);
		case AUD_AGGVALUE_JSON:
			return aud_blockers_of_json(defs, field, &value->json);
		case AUD_AGGVALUE_NUMBER:
			cell = number_cell(field->cells, &value->number);
			return blocked_in(defs, field->cells->route, cell);
		default:
			return defs->blockers->none;
	}
}

/* Makes a field's cells, without bitmaps. */
static struct AudBlockCells *
make_cells(const AudRoute *route)
{
	struct AudBlockCells *cells = palloc0(sizeof(struct AudBlockCells));

	cells->route = route;
	cells->missing.kind = CELL_MISSING;
	cells->booleans[0].kind = cells->booleans[1].kind = CELL_BOOL;
	cells->booleans[1].boolean = true;
	cells->other_text.kind = CELL_OTHER_TEXT;
	/* every so many of the constants, each once */
	for (int i = 0; i < MAX_CUTS && route->nthresholds > 0; i++)
	{
		double		cut = route->thresholds[(int64) route->nthresholds * i / MAX_CUTS].value;

		if (cells->ncuts == 0 || cut > cells->cuts[cells->ncuts - 1])
			cells->cuts[cells->ncuts++] = cut;
	}
	for (int i = 0; i <= cells->ncuts; i++)
	{
		cells->numbers[i].kind = CELL_NUMBER;
		cells->numbers[i].low = i > 0 ? cells->cuts[i - 1] : -get_float8_infinity();
		cells->numbers[i].high = i < cells->ncuts ? cells->cuts[i] : get_float8_infinity();
	}
	return cells;
}

/* a field that may be one, and how many segments need or refuse something of it */
typedef struct Choice
{
	AudBlockField field;
	const AudRoute *route;
	int64		weight;
} Choice;

/* Orders by weight, the greatest first. */
static int
compare_choices(const void *a, const void *b)
{
	const Choice *x = a;
	const Choice *y = b;

	return (x->weight < y->weight) - (x->weight > y->weight);
}

/* Does an aggregate keep its value while only time passes? */
static bool
value_lasts(const AudAggregateDef *def)
{
	return def->last == 0 && def->state != AUD_STATE_SEQUENCE && !def->where_moves;
}

/* How many segments need or refuse something of a field. */
static int64
route_weight(const AudDefinitions *defs, const AudRoute *route)
{
	int64		weight = 0;

	for (int i = 0; i < route->nleaves; i++)
	{
		const AudLeaf *leaf = &defs->leaves[route->leaves[i]];

		for (int s = 0; s < leaf->nsegments; s++)
			weight += leaf->roles[s] != 0;
	}
	return weight;
}

/* Sets the bits of the segments whose rules hold a leaf. */
static void
add_segments(const AudLeaf *leaf, uint64 *bitmap)
{
	for (int s = 0; s < leaf->nsegments; s++)
		bitmap[leaf->segments[s] / 64] |= UINT64CONST(1) << (leaf->segments[s] % 64);
}

/*
 * The segments whose rules hold a leaf that may turn over while only time
 * passes: all that due.c looks at.
 */
static const uint64 *
moving_segments(const AudDefinitions *defs, int nwords)
{
	uint64	   *moving = palloc0((nwords + 1) * sizeof(uint64));

	for (int i = 0; i < defs->nrelative; i++)
		add_segments(&defs->leaves[defs->relative[i]], moving);
	for (int i = 0; i < defs->naggregates; i++)
	{
		const AudRoute *route = &defs->routes[i];

		if (!value_lasts(&defs->aggregates[i]) || route->nages > 0)
			for (int l = 0; l < route->nleaves; l++)
				add_segments(&defs->leaves[route->leaves[l]], moving);
	}
	return moving;
}

/*
 * Chooses the fields, in the current context, after routes are made; what is
 * only needed meanwhile goes to "work".
 */
AudBlockers *
aud_blockers_create(const AudDefinitions *defs, MemoryContext work)
{
	AudBlockers *blockers;
	Choice	   *choices;
	int			n = 0;

	choices = MemoryContextAllocZero(work, (defs->naggregates + defs->nattributes + 1) * sizeof(Choice));
	for (int i = 0; i < defs->naggregates; i++)
	{
		choices[n].field.aggregate = i;
		choices[n].field.lasts = value_lasts(&defs->aggregates[i]);
		choices[n++].route = &defs->routes[i];
	}
	for (int i = 0; i < defs->nattributes; i++)
		if (defs->attributes[i].key != NULL)
		{
			choices[n].field.attribute = &defs->attributes[i];
			choices[n].field.lasts = true;
			choices[n++].route = &defs->attributes[i].route;
		}
	for (int i = 0; i < n; i++)
		choices[i].weight = route_weight(defs, choices[i].route);
	qsort(choices, n, sizeof(Choice), compare_choices);

	blockers = palloc0(sizeof(AudBlockers));
	blockers->nwords = (defs->nsegments + 63) / 64;
	blockers->none = palloc0((blockers->nwords + 1) * sizeof(uint64));
	blockers->moving = moving_segments(defs, blockers->nwords);
	blockers->mcxt = AllocSetContextCreate(CurrentMemoryContext, "audience blockers",
										   ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n && i < AUD_MAX_BLOCK_FIELDS && choices[i].weight > 0; i++)
	{
		blockers->fields[i] = choices[i].field;
		blockers->fields[i].cells = make_cells(choices[i].route);
		blockers->nfields++;
	}
	return blockers;
}
