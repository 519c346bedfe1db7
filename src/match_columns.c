/*-------------------------------------------------------------------------
 *
 * match_columns.c
 *	  Conditions on columns that a rule over a row implies, for B-tree and
 *	  other ordinary indexes, and for GIN indexes on jsonb columns.
 *
 * What is derived is implied by the rule, so "derived AND rule" is the rule,
 * for rows that are null, too, and under NOT.  Where it is the rule itself
 * (is_exact) and each column is tested for null, it can take the rule's place;
 * without these tests where only rows that it is true for count.
 * What a column's value means to a rule is not always what its type's operators
 * see, so only these are used:
 *
 *	text, varchar, bpchar	= and IN: equal bytes are equal in any collation;
 *							ordering (not bpchar) in the C collation
 *	integers, numeric		all; fractions are rounded towards the integers
 *							that can meet them, and NaN, which is a text to
 *							rules, is merely let through
 *	floats					all but IN, with bounds so wide that the text that a
 *							float is to rules, as short as extra_float_digits
 *							may make it, cannot lie beyond them
 *	boolean					=
 *	date, timestamp(tz)		comparisons with an instant; infinity, which is no
 *							timestamp to rules, is let through
 *	jsonb					col |= the leaf without its first step, where there
 *							is a GIN index that could use it
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/relation.h"
#include "access/stratnum.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"

#include "compat.h"
#include "decimal.h"
#include "eval.h"
#include "match_plan.h"

/* one column and what it is compared by */
typedef struct Column
{
	Expr	   *expr;			/* the column as opclass type "type" */
	Oid			type;
	Oid			opfamily;		/* B-tree */
	Oid			collation;
	bool		estimating;		/* conditions are to be the leaf's own, as near as can be, not what it implies */
} Column;

/*
 * Sees the row operand of |= as columns: a whole-row reference to a table, or
 * a ROW of columns.  False for any other.
 */
bool
aud_row_operand_init(AudRowOperand *operand, PlannerInfo *root, Node *node)
{
	memset(operand, 0, sizeof(*operand));
	if (IsA(node, RowExpr))
	{
		operand->row = (RowExpr *) node;
		return true;
	}
	if (IsA(node, Var) && root != NULL)
	{
		const Var  *var = (Var *) node;
		RangeTblEntry *rte;

		if (var->varattno != InvalidAttrNumber || var->varlevelsup != 0 ||
			var->varno < 1 || var->varno > list_length(root->parse->rtable))
			return false;
		rte = rt_fetch(var->varno, root->parse->rtable);
		if (rte->rtekind != RTE_RELATION)
			return false;
		operand->whole_row = var;
		operand->relid = rte->relid;
		return true;
	}
	return false;
}

/* The column of that name, a Var palloc'ed anew, or NULL. */
static Var *
find_whole_row_column(const AudRowOperand *operand, const char *name)
{
	const Var  *whole_row = operand->whole_row;
	AttrNumber	attnum = get_attnum(operand->relid, name);
	Oid			type;
	int32		typmod;
	Oid			collation;

	/* system columns are not part of a row */
	if (attnum <= 0)
		return NULL;
	get_atttypetypmodcoll(operand->relid, attnum, &type, &typmod, &collation);
	return aud_compat_column_of_row(whole_row, attnum, type, typmod, collation);
}

/* The field of a ROW, where it is a plain column, or NULL. */
static Var *
find_row_field(const RowExpr *row, const char *name)
{
	ListCell   *cell;
	int			i = 0;
	TupleDesc	tupdesc = NULL;
	Var		   *result = NULL;

	if (row->row_typeid != RECORDOID)
		tupdesc = lookup_rowtype_tupdesc_domain(row->row_typeid, -1, true);
	foreach(cell, row->args)
	{
		const char *field = NULL;

		if (tupdesc != NULL)
		{
			if (i < tupdesc->natts && !TupleDescAttr(tupdesc, i)->attisdropped)
				field = NameStr(TupleDescAttr(tupdesc, i)->attname);
		}
		else if (i < list_length(row->colnames))
			field = strVal(list_nth(row->colnames, i));
		if (field != NULL && strcmp(field, name) == 0)
		{
			if (IsA(lfirst(cell), Var))
				result = copyObject((Var *) lfirst(cell));
			break;
		}
		i++;
	}
	if (tupdesc != NULL)
		ReleaseTupleDesc(tupdesc);
	return result;
}

/* The column that a path begins with, or NULL. */
static Var *
find_column(const AudRowOperand *operand, const AudRule *rule,
			const AudPath *path)
{
	const char *name;

	if (path->root != AUD_ROOT_DOCUMENT || path->nsteps == 0 ||
		(path->steps[0].kind != AUD_STEP_KEY &&
		 path->steps[0].kind != AUD_STEP_INTEGER_KEY))
		return NULL;
	name = AUD_AT(rule, path->steps[0].key);
	return operand->whole_row != NULL ?
		find_whole_row_column(operand, name) :
		find_row_field(operand->row, name);
}

/* Fills *column for comparing a Var; false if its type has no B-tree order. */
static bool
set_column(Column *column, Var *var, bool estimating)
{
	Oid			type = getBaseType(var->vartype);
	TypeCacheEntry *entry = lookup_type_cache(type, TYPECACHE_BTREE_OPFAMILY);

	if (!OidIsValid(entry->btree_opf))
		return false;
	column->type = type == VARCHAROID ? TEXTOID : type;
	column->opfamily = entry->btree_opf;
	column->collation = var->varcollid;
	column->estimating = estimating;
	column->expr = (Expr *) var;
	if (column->type != var->vartype)
		column->expr = (Expr *) makeRelabelType((Expr *) var, column->type, -1,
												var->varcollid,
												COERCE_IMPLICIT_CAST);
	return true;
}

/* "column <strategy> constant" by the column's B-tree operators; NIL: none. */
static List *
compare_column(const Column *column, int strategy, Oid type, Oid collation,
			   Datum constant)
{
	Oid			operator = get_opfamily_member(column->opfamily, column->type,
											   type, strategy);
	int16		len;
	bool		byval;

	if (!OidIsValid(operator))
		return NIL;
	get_typlenbyval(type, &len, &byval);
	return list_make1(make_opclause(operator, BOOLOID, false,
									copyObject(column->expr),
									(Expr *) makeConst(type, -1, collation, len,
													   constant, false, byval),
									InvalidOid, collation));
}

/* A text constant's datum. */
static Datum
text_datum(const AudValue *constant)
{
	return PointerGetDatum(cstring_to_text_with_len(AUD_VALUE_TEXT_PTR(constant),
													constant->len));
}

/* "column <strategy> constant" for a column of text; NIL: none. */
static List *
compare_text(const Column *column, int strategy, const AudValue *constant)
{
	bool		is_equality = strategy == BTEqualStrategyNumber;

	if (constant->type != AUD_VALUE_TEXT ||
		(column->type == BPCHAROID && !is_equality))
		return NIL;
	return compare_column(column, strategy, column->type,
						  is_equality ? column->collation : C_COLLATION_OID,
						  text_datum(constant));
}

/* A numeric function of one argument. */
static Numeric
call_numeric(PGFunction function, Numeric argument)
{
	return DatumGetNumeric(DirectFunctionCall1(function,
											   NumericGetDatum(argument)));
}

/*
 * The bound for integers that meets the same ones: true with *result, or false
 * if none or all of int8 do.
 */
static bool
integer_bound(int strategy, Numeric constant, int64 *result)
{
	/* x > 1.5 as x > 1, x >= 1.5 as x >= 2, and so on */
	bool		down = strategy == BTGreaterStrategyNumber ||
		strategy == BTLessEqualStrategyNumber;
	Numeric		whole = call_numeric(down ? numeric_floor : numeric_ceil,
									 constant);

	if (strategy == BTEqualStrategyNumber &&
		aud_numeric_compare(whole, constant) != 0)
		return false;
	if (aud_numeric_compare(whole, int64_to_numeric(PG_INT64_MIN)) < 0 ||
		aud_numeric_compare(whole, int64_to_numeric(PG_INT64_MAX)) > 0)
		return false;
	*result = DatumGetInt64(DirectFunctionCall1(numeric_int8,
												NumericGetDatum(whole)));
	return true;
}

/* "column <strategy> constant" for a column of numbers; NIL: none. */
static List *
compare_number(const Column *column, int strategy, const AudValue *constant)
{
	int64		bound;

	if (constant->type != AUD_VALUE_NUMBER)
		return NIL;
	if (column->type == NUMERICOID)
		return compare_column(column, strategy, NUMERICOID, InvalidOid,
							  PointerGetDatum(PG_DETOAST_DATUM_COPY(PointerGetDatum(AUD_VALUE_NUMERIC(constant)))));
	if (!integer_bound(strategy, AUD_VALUE_NUMERIC(constant), &bound))
		return NIL;
	return compare_column(column, strategy, INT8OID, InvalidOid,
						  Int64GetDatum(bound));
}

/*
 * A bound for floats, below or above all those whose text is a number beyond the
 * other side of "constant".  Of one digit, the least there may be, the text is
 * off by a third of the float; more so where floats are about to end.
 */
static double
float_bound(double constant, bool above)
{
	return constant * ((constant > 0) == above ? 1.6 : 0.7);
}

/*
 * "column <strategy> constant" for a column of floats; NIL: none.  What is not
 * finite is a text to rules: whether it is let through does not matter.
 */
static List *
compare_float(const Column *column, int strategy, const AudValue *constant)
{
	AudDecimal	decimal;
	double		value;

	if (constant->type != AUD_VALUE_NUMBER)
		return NIL;
	aud_decimal_set_numeric(&decimal, AUD_VALUE_NUMERIC(constant));
	value = aud_decimal_double(&decimal);
	if (value != 0 && (fabs(value) < 1e-300 || fabs(value) > 1e300))
		return NIL;
	if (column->estimating)
		return compare_column(column, strategy, FLOAT8OID, InvalidOid, Float8GetDatum(value));
	switch (strategy)
	{
		case BTEqualStrategyNumber:
			return list_concat(compare_float(column, BTGreaterEqualStrategyNumber, constant),
							   compare_float(column, BTLessEqualStrategyNumber, constant));
		case BTGreaterStrategyNumber:
		case BTGreaterEqualStrategyNumber:
			return compare_column(column, BTGreaterEqualStrategyNumber, FLOAT8OID, InvalidOid,
								  Float8GetDatum(float_bound(value, false)));
		default:
			return compare_column(column, BTLessEqualStrategyNumber, FLOAT8OID, InvalidOid,
								  Float8GetDatum(float_bound(value, true)));
	}
}

/* "column <strategy> constant" for text, numbers and booleans; NIL: none. */
static List *
compare_scalar(const Column *column, int strategy, const AudValue *constant)
{
	switch (column->type)
	{
		case TEXTOID:
		case BPCHAROID:
			return compare_text(column, strategy, constant);
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
			return compare_number(column, strategy, constant);
		case FLOAT4OID:
		case FLOAT8OID:
			return compare_float(column, strategy, constant);
		case BOOLOID:
			return constant->type != AUD_VALUE_BOOL || strategy != BTEqualStrategyNumber ? NIL :
				compare_column(column, strategy, BOOLOID, InvalidOid, BoolGetDatum(constant->len != 0));
		default:
			return NIL;
	}
}

/* Is a text what a numeric that is no number is to rules? */
static bool
names_numeric(const AudValue *text)
{
	static const char *const names[] = {"NaN", "Infinity", "-Infinity"};

	for (size_t i = 0; i < lengthof(names); i++)
		if (text->len == strlen(names[i]) && memcmp(AUD_VALUE_TEXT_PTR(text), names[i], text->len) == 0)
			return true;
	return false;
}

/*
 * "column = ANY (constants)" of a list, those left out that are not of the
 * column's type; NIL: none.
 */
static List *
compare_list(const Column *column, const AudRule *rule, const AudValue *list)
{
	bool		is_text = column->type == TEXTOID || column->type == BPCHAROID;
	bool		is_numeric = column->type == NUMERICOID;
	Oid			type = is_text || is_numeric ? column->type : INT8OID;
	Oid			collation = is_text ? column->collation : InvalidOid;
	Oid			operator = get_opfamily_member(column->opfamily, column->type,
											   type, BTEqualStrategyNumber);
	Datum	   *datums = palloc(sizeof(Datum) * Max(list->len, 1));
	int			ndatums = 0;
	ScalarArrayOpExpr *result;
	int16		len;
	bool		byval;
	char		align;
	ArrayType  *array;

	if (!OidIsValid(operator) || !OidIsValid(get_array_type(type)))
		return NIL;
	for (int i = 0; i < (int) list->len; i++)
	{
		const AudValue *item = AUD_VALUE_ITEM(rule, list, i);
		int64		bound;

		if (is_text && item->type == AUD_VALUE_TEXT)
			datums[ndatums++] = text_datum(item);
		else if (is_numeric && item->type == AUD_VALUE_NUMBER)
			datums[ndatums++] = NumericGetDatum(AUD_VALUE_NUMERIC(item));
		else if (is_numeric && item->type == AUD_VALUE_TEXT && names_numeric(item))
			return NIL;
		else if (!is_text && item->type == AUD_VALUE_NUMBER &&
				 integer_bound(BTEqualStrategyNumber, AUD_VALUE_NUMERIC(item),
							   &bound))
			datums[ndatums++] = Int64GetDatum(bound);
	}
	if (ndatums == 0)
		return NIL;
	get_typlenbyvalalign(type, &len, &byval, &align);
	array = construct_array(datums, ndatums, type, len, byval, align);
	result = makeNode(ScalarArrayOpExpr);
	result->opno = operator;
	result->opfuncid = get_opcode(operator);
	result->useOr = true;
	result->inputcollid = collation;
	result->args = list_make2(copyObject(column->expr),
							  makeConst(get_array_type(type), -1, collation, -1,
										PointerGetDatum(array), false, false));
	result->location = -1;
	return list_make1(result);
}

/* "column <strategy> instant" for dates and timestamps; NIL: none. */
static List *
compare_time(const Column *column, int strategy, const AudValue *constant)
{
	Oid			type;

	if (constant->type != AUD_VALUE_TIME)
		return NIL;
	switch (column->type)
	{
		case TIMESTAMPTZOID:
			type = TIMESTAMPTZOID;
			break;
		case TIMESTAMPOID:
		case DATEOID:
			/* without a zone they are in UTC, and so is the constant then */
			type = TIMESTAMPOID;
			break;
		default:
			return NIL;
	}
	return compare_column(column, strategy, type, InvalidOid,
						  TimestampTzGetDatum(AUD_VALUE_INT64(constant)));
}

/* A leaf's operator as conditions on a column; NIL: none. */
static List *
compare_by_leaf(const Column *column, const AudRule *rule, const AudNode *leaf)
{
	const AudValue *value = AUD_NODE_VALUE(rule, leaf);

	switch ((AudOp) leaf->op)
	{
		case AUD_OP_EQ:
			return compare_scalar(column, BTEqualStrategyNumber, value);
		case AUD_OP_GT:
			return compare_scalar(column, BTGreaterStrategyNumber, value);
		case AUD_OP_GTE:
			return compare_scalar(column, BTGreaterEqualStrategyNumber, value);
		case AUD_OP_LT:
			return compare_scalar(column, BTLessStrategyNumber, value);
		case AUD_OP_LTE:
			return compare_scalar(column, BTLessEqualStrategyNumber, value);
		case AUD_OP_BETWEEN:
			return list_concat(compare_scalar(column, BTGreaterEqualStrategyNumber,
											  AUD_VALUE_ITEM(rule, value, 0)),
							   compare_scalar(column, BTLessEqualStrategyNumber,
											  AUD_VALUE_ITEM(rule, value, 1)));
		case AUD_OP_IN:
			switch (column->type)
			{
				case TEXTOID:
				case BPCHAROID:
				case INT2OID:
				case INT4OID:
				case INT8OID:
				case NUMERICOID:
					return compare_list(column, rule, value);
				default:
					return NIL;
			}
		case AUD_OP_BEFORE:
			return compare_time(column, BTLessStrategyNumber, value);
		case AUD_OP_AT_OR_BEFORE:
			return compare_time(column, BTLessEqualStrategyNumber, value);
		case AUD_OP_AFTER:
			return compare_time(column, BTGreaterStrategyNumber, value);
		case AUD_OP_AT_OR_AFTER:
			return compare_time(column, BTGreaterEqualStrategyNumber, value);
		default:
			return NIL;
	}
}

/*
 * Are the conditions derived from a leaf met by the very values that it holds
 * for, and no others?  Floats, times and infinite numerics are more to their
 * operators than to rules.
 */
static bool
is_exact(const Column *column, const AudNode *leaf, const List *quals)
{
	bool		is_equality = leaf->op == AUD_OP_EQ || leaf->op == AUD_OP_IN;

	if (list_length(quals) != (leaf->op == AUD_OP_BETWEEN ? 2 : 1))
		return false;
	switch (column->type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
			return true;
		case NUMERICOID:
			return is_equality || leaf->op == AUD_OP_BETWEEN;
		case TEXTOID:
			return !is_equality || get_collation_isdeterministic(column->collation);
		default:
			return false;
	}
}

/* "column IS NOT NULL" */
static Expr *
test_null(const Var *var)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = (Expr *) copyObject(unconstify(Var *, var));
	test->nulltesttype = IS_NOT_NULL;
	test->location = -1;
	return (Expr *) test;
}

/*
 * Conditions on the column that a positive leaf names alone; NIL: none.
 * "estimating": its own, as near as can be.  "filters" and "exact" as for
 * aud_row_quals.
 */
static List *
leaf_quals(const AudRule *rule, const AudNode *leaf, Var *var, bool estimating, bool filters,
		   bool *exact)
{
	Column		column;
	List	   *quals;

	if ((leaf->flags & (AUD_NEGATED | AUD_CI)) || leaf->value == 0 ||
		AUD_NODE_PATH(rule, leaf)->nsteps != 1 || !set_column(&column, var, estimating))
		return NIL;
	quals = compare_by_leaf(&column, rule, leaf);
	if (exact != NULL)
	{
		*exact &= is_exact(&column, leaf, quals);
		if (*exact && !filters)
			quals = lappend(quals, test_null(var));
	}
	return quals;
}

/* Conditions that are a leaf's condition itself.  See match_plan.h. */
List *
aud_row_leaf_quals(const AudRowOperand *operand, const AudRule *rule,
				   const AudNode *leaf)
{
	AudNode		positive = *leaf;
	Var		   *var = find_column(operand, rule, AUD_NODE_PATH(rule, leaf));

	/* offsets count from the rule, so a copy of the node does as well */
	positive.flags &= ~AUD_NEGATED;
	return var == NULL ? NIL : leaf_quals(rule, &positive, var, true, false, NULL);
}

/* Does a table have a GIN index with this column? */
static bool
has_gin_index(Oid relid, AttrNumber attnum)
{
	/* the table is locked by the query */
	Relation	rel = relation_open(relid, NoLock);
	List	   *indexes = RelationGetIndexList(rel);
	bool		found = false;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (index->rd_rel->relam == GIN_AM_OID)
		{
			for (int i = 0; i < index->rd_index->indnkeyatts; i++)
			{
				if (index->rd_index->indkey.values[i] == attnum)
					found = true;
			}
		}
		index_close(index, AccessShareLock);
		if (found)
			break;
	}
	list_free(indexes);
	relation_close(rel, NoLock);
	return found;
}

/*
 * "column |= leaf without its first step" if an index could use it; NIL: none.
 */
static List *
jsonb_quals(const AudRowOperand *operand, const AudRule *rule,
			const AudNode *leaf, Var *var, Oid match)
{
	AudRule    *extracted;
	AudPath    *path;
	Oid			left;
	Oid			rule_type;

	if (operand->whole_row == NULL || var->vartype != JSONBOID ||
		AUD_NODE_PATH(rule, leaf)->nsteps < 2 ||
		!has_gin_index(operand->relid, var->varattno))
		return NIL;
	extracted = aud_rule_extract(rule, leaf, false);
	path = unconstify(AudPath *, AUD_NODE_PATH(extracted, AUD_RULE_ROOT(extracted)));
	path->nsteps--;
	memmove(&path->steps[0], &path->steps[1],
			sizeof(AudPathStep) * path->nsteps);
	if (aud_match_path(extracted, AUD_RULE_ROOT(extracted)) == NULL)
		return NIL;
	op_input_types(match, &left, &rule_type);
	return list_make1(make_opclause(match, BOOLOID, false, (Expr *) var,
									(Expr *) makeConst(rule_type, -1, InvalidOid,
													   -1, PointerGetDatum(extracted),
													   false, false),
									InvalidOid, InvalidOid));
}

/* What a leaf implies of columns, in implicit AND; NIL: nothing. */
static List *
field_quals(const AudRowOperand *operand, const AudRule *rule,
			const AudNode *leaf, Oid match, bool *exact)
{
	Var		   *var;

	if (leaf->flags & AUD_NEGATED)
		return NIL;
	var = find_column(operand, rule, AUD_NODE_PATH(rule, leaf));
	if (var == NULL)
		return NIL;
	if (AUD_NODE_PATH(rule, leaf)->nsteps == 1)
		return leaf_quals(rule, leaf, var, false, operand->filters, exact);
	if (exact != NULL)
		*exact = false;
	return jsonb_quals(operand, rule, leaf, var, match);
}

/* What "all" and "any" imply, as aud_row_quals. */
static List *
group_quals(const AudRowOperand *operand, const AudRule *rule,
			const AudNode *node, Oid match, bool *exact)
{
	List	   *quals = NIL;
	const AudNode *child = AUD_FIRST_CHILD(node);

	for (uint32 i = 0; i < node->nchildren; i++)
	{
		List	   *part = aud_row_quals(operand, rule, child, match, exact);

		if (node->kind == AUD_NODE_ALL)
			quals = list_concat(quals, part);
		else if (part == NIL)
			return NIL;
		else
			quals = lappend(quals, make_ands_explicit(part));
		child = AUD_NEXT_SIBLING(child);
	}
	if (node->kind == AUD_NODE_ANY && list_length(quals) > 1)
		return list_make1(make_orclause(quals));
	return quals;
}

/* Conditions on columns that a subtree implies.  See match_plan.h. */
List *
aud_row_quals(const AudRowOperand *operand, const AudRule *rule,
			  const AudNode *node, Oid match, bool *exact)
{
	List	   *quals = NIL;

	check_stack_depth();
	if (node->kind == AUD_NODE_FIELD)
		quals = field_quals(operand, rule, node, match, exact);
	else if ((node->kind == AUD_NODE_ALL || node->kind == AUD_NODE_ANY) && node->nchildren > 0)
		quals = group_quals(operand, rule, node, match, exact);
	if (quals == NIL && exact != NULL)
		*exact = false;
	return quals;
}

/* Can the row be null as a whole?  A table's can be where an outer join does not find one. */
bool
aud_row_may_be_null(const AudRowOperand *operand, const PlannerInfo *root)
{
	ListCell   *cell;

	if (operand->whole_row == NULL)
		return false;
	if (aud_compat_is_old_or_new(operand->whole_row))
		return true;
	foreach(cell, root->parse->rtable)
	{
		const RangeTblEntry *rte = lfirst_node(RangeTblEntry, cell);

		if (rte->rtekind == RTE_JOIN && IS_OUTER_JOIN(rte->jointype))
			return true;
	}
	return false;
}
