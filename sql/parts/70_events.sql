-- Events as JSON.  (Rows go into table events by INSERT and COPY.)

CREATE FUNCTION audience.event_ingest(event jsonb) RETURNS text
AS 'MODULE_PATHNAME', 'aud_event_ingest'
LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.event_ingest(jsonb) IS
	'stores an event and evaluates its user; the event''s id; one that is already there changes nothing';

CREATE FUNCTION audience.events_ingest(events jsonb) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_events_ingest'
LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.events_ingest(jsonb) IS
	'stores an array of events, all or none, and evaluates their users; how many were new';
