/*-------------------------------------------------------------------------
 *
 * eval_op.h
 *	  What the files that evaluate leaves share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVAL_OP_H
#define AUD_EVAL_OP_H

#include "eval.h"

/* bytes that are not NUL-terminated */
typedef struct AudBytes
{
	const char *data;
	int			len;
} AudBytes;

/* a long list of "in", arranged for looking up (prepare.c) */
typedef struct AudValueSet AudValueSet;

/*
 * What can be worked out of a leaf's constants before the first value is
 * seen, and what is learned from the values.  Leaves with "ci", ILIKE, REGEX
 * and IREGEX cannot do without.
 */
typedef struct AudLeafPrepared
{
	AudBytes   *folded;			/* ci, ILIKE: folded text by item, or NULL */
	text	  **patterns;		/* REGEX, IREGEX: by item, NULL: none */
	AudValueSet *set;			/* IN, CONTAINS_ANY: NULL: search the list */
	const char *key;			/* FIELD: all of its path, or NULL */
	int			keylen;
	int			hint;			/* where the first key was found last */
} AudLeafPrepared;

/* a leaf about to be tested on values */
typedef struct AudTest
{
	const AudRule *rule;
	const AudNode *leaf;
	const AudValue *value;		/* NULL: the operator has none */
	const AudClock *clock;
	const AudLeafPrepared *prepared;
} AudTest;

/* prepare.c */

/*
 * Prepares one leaf in the current context.  What is only of use for many
 * values is done with "lasting" alone; without it, NULL when there is nothing
 * to prepare.
 */
extern AudLeafPrepared *aud_leaf_prepare(const AudRule *rule,
										 const AudNode *leaf, bool lasting);
extern void aud_leaf_prepared_free(AudLeafPrepared *prepared,
								   const AudNode *leaf, const AudRule *rule);

/* Is the value, with its text folded if the leaf says ci, in the set? */
extern bool aud_value_set_has(const AudValueSet *set, const JsonbValue *value);

/*
 * eval_op.c: as aud_value_holds and aud_path_holds of eval.h, with what was
 * prepared; NULL will do for a leaf that can do without.
 */
extern bool aud_value_holds_prepared(const AudRule *rule, const AudNode *leaf,
									 const AudLeafPrepared *prepared,
									 const JsonbValue *value,
									 const AudClock *clock);
extern bool aud_path_holds_prepared(const AudRule *rule, const AudNode *leaf,
									AudLeafPrepared *prepared,
									const AudPath *path, int nused,
									const JsonbValue *from,
									const AudClock *clock);

/* eval_path.c: one step that is not [*]; NULL: missing.  value may be room */
extern const JsonbValue *aud_path_step(const AudRule *rule,
									   const AudPathStep *step,
									   const JsonbValue *value,
									   JsonbValue *room);

/* eval_equal.c */
extern bool aud_value_equal(const AudRule *rule, const AudValue *constant,
							const AudBytes *folded, bool ci,
							const JsonbValue *value);

/* eval_text.c */

/* room for a folded text that is short */
typedef struct AudFoldRoom
{
	char	   *allocated;		/* palloc'ed, or NULL */
	char		local[256];
} AudFoldRoom;

extern AudBytes aud_text_fold(const char *s, int len, AudFoldRoom *room);
extern void aud_text_fold_end(AudFoldRoom *room);
extern bool aud_text_contains(const char *s, int len,
							  const char *part, int part_len);
extern bool aud_text_starts_with(const char *s, int len,
								 const char *part, int part_len);
extern bool aud_text_ends_with(const char *s, int len,
							   const char *part, int part_len);
extern bool aud_text_like(const char *s, int len,
						  const char *pattern, int pattern_len);
extern bool aud_text_matches(const char *s, int len, text *pattern,
							 bool ignore_case);

#endif							/* AUD_EVAL_OP_H */
