/*-------------------------------------------------------------------------
 *
 * version.h
 *	  The version of the library.
 *
 * The same as EXTVERSION in the Makefile and default_version in the control
 * file; test/t/099_upgrade.pl compares them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_VERSION_H
#define AUD_VERSION_H

#define AUD_VERSION		"1.0"

/* of errors that come from objects that are older than the library */
#define AUD_HINT_UPDATE	errhint("If the objects are of an older version of the extension than the library, run ALTER EXTENSION audience_manager UPDATE.")

extern void aud_version_check(void);

#endif							/* AUD_VERSION_H */
