/*-------------------------------------------------------------------------
 *
 * event_feed.h
 *	  What some aggregates look at of all users' events, user after user.
 *
 *-------------------------------------------------------------------------
 */
#ifndef AUD_EVENT_FEED_H
#define AUD_EVENT_FEED_H

#include "batch.h"

extern AudEventFeed *aud_event_feed_begin(const AudDefinitions *defs, const bool *wanted);
extern bool aud_event_feed_next_user(AudEventFeed *feed, const char **user_id, int *len);
extern bool aud_event_feed_user(AudEventFeed *feed, const char *user_id, int len);
extern bool aud_event_feed_next(AudEventFeed *feed, AudEvent *event);
extern void aud_event_feed_end(AudEventFeed *feed);

#endif							/* AUD_EVENT_FEED_H */
