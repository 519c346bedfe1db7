/*-------------------------------------------------------------------------
 *
 * version.c
 *	  The library and the objects of the extension: do they fit together?
 *
 * A new version of the extension comes in two steps.  "make install" puts the
 * library in place, for sessions that begin from then on; ALTER EXTENSION
 * UPDATE, some time later and in each database, makes the objects new.
 *
 *	  library	objects
 *	  1.1		1.0		between the two steps: the library serves all versions of
 *						objects up to its own (what it misses, the function that
 *						needs it says)
 *	  1.0		1.1		a session, or a preloaded library, that was there before
 *						both: refused, it would misread what others have written
 *
 * A third number, as in 1.0.1, counts changes of objects that the library of
 * 1.0 can serve, too, so it is left out of account.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "version.h"

#define EXTENSION_NAME	"audience_manager"

/* The first two numbers of a version, "major" and "minor"; what is missing is 0. */
static void
read_numbers(const char *version, long numbers[2])
{
	for (int i = 0; i < 2; i++)
	{
		char	   *end;

		numbers[i] = strtol(version, &end, 10);
		version = *end == '.' ? end + 1 : end;
	}
}

/* Is a version newer than another? */
static bool
is_newer(const char *version, const char *other)
{
	long		a[2],
				b[2];

	read_numbers(version, a);
	read_numbers(other, b);
	return a[0] != b[0] ? a[0] > b[0] : a[1] > b[1];
}

/* The version of the objects in this database, palloc'ed; NULL: there are none. */
static char *
installed_version(void)
{
	Relation	extensions = table_open(ExtensionRelationId, AccessShareLock);
	char	   *result = NULL;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(EXTENSION_NAME));
	scan = systable_beginscan(extensions, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
										   RelationGetDescr(extensions), &isnull);

		result = TextDatumGetCString(version);
	}
	systable_endscan(scan);
	table_close(extensions, AccessShareLock);
	return result;
}

/* Refuses (55000) objects that are newer than the library. */
void
aud_version_check(void)
{
	char	   *version = installed_version();

	if (version != NULL && is_newer(version, AUD_VERSION))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("library of extension \"%s\" is older than its objects in this database", EXTENSION_NAME),
				 errdetail("The library is of version %s, the objects are of version %s.", AUD_VERSION, version),
				 errhint("Reconnect; where the library is preloaded, restart the server. If that does not help, install the library of version %s.", version)));
	if (version != NULL)
		pfree(version);
}
