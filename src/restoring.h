/*-------------------------------------------------------------------------
 *
 * restoring.h
 *	  Word that a dump is being restored into this database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_RESTORING_H
#define AUD_RESTORING_H

extern void aud_restoring_note(void);

#endif							/* AUD_RESTORING_H */
