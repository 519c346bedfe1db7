/*-------------------------------------------------------------------------
 *
 * memcheck.h
 *	  PostgreSQL's hints to valgrind, given to AddressSanitizer instead.
 *
 * AddressSanitizer knows what malloc has given out, and a memory context asks
 * for blocks of many chunks: on its own it sees neither who reads beyond a
 * chunk, nor who uses one that was freed.  But a server that is built with
 * USE_VALGRIND says at every step which bytes may be touched, by the macros of
 * valgrind's header <valgrind/memcheck.h>.  scripts/test-sanitized.sh puts this
 * file in that one's place, and so each hint poisons or unpoisons.
 *
 * What is undefined in valgrind's sense may be touched here: AddressSanitizer
 * does not know whether bytes have been written.
 *
 * A chunk that is freed needs no hint at MEMPOOL_FREE, which does not know the
 * chunk's size: before it, wipe_mem() of PostgreSQL has said NOACCESS of all of
 * it (USE_VALGRIND implies CLOBBER_FREED_MEMORY).
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_SANITIZE_MEMCHECK_H
#define AUD_SANITIZE_MEMCHECK_H

#include <stddef.h>
#include <stdint.h>

#include <sanitizer/asan_interface.h>

/* of AddressSanitizer's runtime: reports if a byte may not be read */
extern void __asan_loadN(uintptr_t address, uintptr_t size);

#define VALGRIND_MAKE_MEM_NOACCESS(address, size) \
	__asan_poison_memory_region((address), (size))
#define VALGRIND_MAKE_MEM_UNDEFINED(address, size) \
	__asan_unpoison_memory_region((address), (size))
#define VALGRIND_MAKE_MEM_DEFINED(address, size) \
	__asan_unpoison_memory_region((address), (size))
#define VALGRIND_CHECK_MEM_IS_DEFINED(address, size) \
	__asan_loadN((uintptr_t) (address), (size))

#define VALGRIND_CREATE_MEMPOOL(pool, redzone, is_zeroed)	((void) 0)
#define VALGRIND_DESTROY_MEMPOOL(pool)						((void) 0)
#define VALGRIND_MEMPOOL_ALLOC(pool, address, size) \
	__asan_unpoison_memory_region((address), (size))
#define VALGRIND_MEMPOOL_FREE(pool, address)				((void) 0)
#define VALGRIND_MEMPOOL_CHANGE(pool, before, after, size) \
	__asan_unpoison_memory_region((after), (size))

/* a server under valgrind names the query that an error came from */
#define RUNNING_ON_VALGRIND		0
#define VALGRIND_COUNT_ERRORS	0
#define VALGRIND_PRINTF(...)	((void) 0)

#endif							/* AUD_SANITIZE_MEMCHECK_H */
