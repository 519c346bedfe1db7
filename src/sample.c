/*-------------------------------------------------------------------------
 *
 * sample.c
 *	  Sampling users: a user is in a sample of p percent when the first 8
 *	  bytes of sha256(seed || 0x00 || user id), as a big-endian integer, are
 *	  below p/100 * 2^64.
 *
 * The hash is fixed for good, so a sample is the same on every server and
 * anyone can compute it elsewhere; the seed makes samples independent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "port/pg_bswap.h"

#include "eval.h"

/*
 * The first 8 bytes of sha256(seed || 0x00 || user_id) as an integer.  Raises
 * only when the hash itself cannot be had.
 */
static uint64
sample_hash(const char *seed, int seed_len, const char *user_id, int len)
{
	static const uint8 separator = 0;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	uint64		prefix;
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);

	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) seed, seed_len) < 0 ||
		pg_cryptohash_update(context, &separator, 1) < 0 ||
		pg_cryptohash_update(context, (const uint8 *) user_id, len) < 0 ||
		pg_cryptohash_final(context, digest, sizeof(digest)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute hash of sample: %s",
						pg_cryptohash_error(context))));
	pg_cryptohash_free(context);
	memcpy(&prefix, digest, sizeof(prefix));
	return pg_ntoh64(prefix);
}

/* Is the user, an id of len bytes, in the sample of a SAMPLE node? */
bool
aud_sample_holds(const AudRule *rule, const AudNode *node,
				 const char *user_id, int len)
{
	const AudValue *seed = AUD_NODE_VALUE(rule, node);
	float8		percent = node->arg.percent;

	/* 2^64 itself is no uint64 */
	if (!(percent > 0))
		return false;
	if (percent >= 100)
		return true;
	return sample_hash(AUD_VALUE_TEXT_PTR(seed), seed->len, user_id, len) <
		(uint64) ceil(ldexp(percent / 100, 64));
}
