/*-------------------------------------------------------------------------
 *
 * event_scan.h
 *	  Reading users' events back, in their order.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVENT_SCAN_H
#define AUD_EVENT_SCAN_H

#include "aggregate.h"

typedef struct AudEventScan AudEventScan;

extern AudEventScan *aud_event_scan_begin(bool read_only);
extern void aud_event_scan_user(AudEventScan *scan, const char *user_id, int len, TimestampTz after);
extern bool aud_event_scan_next(AudEventScan *scan, AudEvent *event);
extern void aud_event_scan_end(AudEventScan *scan);

#endif							/* AUD_EVENT_SCAN_H */
