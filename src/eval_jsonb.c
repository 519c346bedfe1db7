/*-------------------------------------------------------------------------
 *
 * eval_jsonb.c
 *	  Documents over one jsonb and over one event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "eval.h"

/* AudDoc.start of a jsonb: the whole of it. */
static const JsonbValue *
jsonb_start(AudDoc *doc, const AudRule *rule, const AudPath *path,
			JsonbValue *room, int *nused)
{
	*nused = 0;
	if (path->root != AUD_ROOT_DOCUMENT)
		return NULL;
	return &((AudJsonbDoc *) doc)->root;
}

/*
 * Makes *value stand for a jsonb, or for nothing (jbvNull) where that is
 * NULL.  What is a scalar at the top is that scalar, not the array it is
 * stored in.
 */
static void
set_value(JsonbValue *value, Jsonb *jsonb)
{
	if (jsonb == NULL)
		value->type = jbvNull;
	else if (!JB_ROOT_IS_SCALAR(jsonb))
	{
		value->type = jbvBinary;
		value->val.binary.data = &jsonb->root;
		value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	else if (!JsonbExtractScalar(&jsonb->root, value))
		elog(ERROR, "could not extract scalar of jsonb");
}

/*
 * A document over a jsonb, which must outlive it.  EVENT, SEQUENCE, SEGMENT
 * and SAMPLE nodes raise until "leaf" is set.
 */
void
aud_jsonb_doc_init(AudJsonbDoc *doc, Jsonb *jsonb, const AudClock *clock)
{
	doc->doc.clock = *clock;
	doc->doc.start = jsonb_start;
	doc->doc.leaf = NULL;
	doc->doc.object = JB_ROOT_IS_OBJECT(jsonb) ? &jsonb->root : NULL;
	set_value(&doc->root, jsonb);
}

/* Makes *room the text s[0..len), or returns NULL where s is. */
static const JsonbValue *
text_value(JsonbValue *room, const char *s, int len)
{
	if (s == NULL)
		return NULL;
	room->type = jbvString;
	room->val.string.val = unconstify(char *, s);
	room->val.string.len = len;
	return room;
}

/*
 * AudDoc.start of an event: its properties, or what the path's root names.
 * $time becomes text when it is first asked for.
 */
static const JsonbValue *
event_start(AudDoc *doc, const AudRule *rule, const AudPath *path,
			JsonbValue *room, int *nused)
{
	AudEventDoc *event = (AudEventDoc *) doc;

	*nused = 0;
	switch ((AudPathRoot) path->root)
	{
		case AUD_ROOT_DOCUMENT:
			return &event->properties;
		case AUD_ROOT_CONTEXT:
			return &event->context;
		case AUD_ROOT_TYPE:
			return text_value(room, event->type, event->type_len);
		case AUD_ROOT_ID:
			return text_value(room, event->id, event->id_len);
		case AUD_ROOT_TIME:
			if (event->time_text[0] == '\0')
			{
				StringInfoData text;

				/* the longest timestamp fits, so this never grows */
				text.data = event->time_text;
				text.maxlen = sizeof(event->time_text);
				resetStringInfo(&text);
				aud_timestamp_append(&text, event->time);
			}
			return text_value(room, event->time_text,
							  strlen(event->time_text));
	}
	return NULL;
}

/* A document over one event.  See eval.h. */
void
aud_event_doc_init(AudEventDoc *doc, const AudClock *clock,
				   const char *type, int type_len, TimestampTz time,
				   const char *id, int id_len,
				   Jsonb *properties, Jsonb *context)
{
	doc->doc.clock = *clock;
	doc->doc.start = event_start;
	doc->doc.leaf = NULL;
	doc->doc.object = NULL;
	set_value(&doc->properties, properties);
	set_value(&doc->context, context);
	doc->type = type;
	doc->type_len = type_len;
	doc->id = id;
	doc->id_len = id_len;
	doc->time = time;
	doc->time_text[0] = '\0';
}
