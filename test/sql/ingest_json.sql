--
-- Events as JSON: what is read, what is refused and where, and what is stored
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT audience.segment_create('buyers', 'count(purchase) >= 1');

--
-- ids that are numbers: integers only, printed without exponent and zeros
--
SELECT audience.event_ingest('{"userId":42.0,"eventId":1e3,"eventType":"t","timestamp":"2026-02-01"}');
SELECT audience.event_ingest('{"userId":-7,"eventId":"n2","eventType":"t","timestamp":"2026-02-01"}');
SELECT audience.event_ingest('{"userId":123456789012345678901234567890,"eventId":"n3","eventType":"t","timestamp":"2026-02-01"}');
SELECT user_id, event_id FROM audience.events ORDER BY user_id;
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"u","eventId":1.5,"eventType":"t"}')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":1e300,"eventType":"t"}')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"u","eventId":false,"eventType":"t"}')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"u","eventType":["t"]}')$$);

--
-- times in milliseconds: to the microsecond, halves up, before 1970 too
--
SELECT audience.event_ingest(format('{"userId":"ms","eventId":%s,"eventType":"t","timestamp":%s}', n, ms)::jsonb)
FROM unnest(ARRAY['0', '-1', '0.0004', '0.0005', '-0.0005', '-0.00051', '1772359200123.4565', '-62135596800000', '1.7723592e12', '1e-300']) WITH ORDINALITY t (ms, n);
SELECT event_id, audience.timestamp_text(occurred_at) FROM audience.events WHERE user_id = 'ms' ORDER BY event_id;
SELECT ms, pg_temp.try(format('SELECT audience.event_ingest(%L)', format('{"userId":"ms","eventType":"t","timestamp":%s}', ms)))
FROM unnest(ARRAY['-62135596800000.001', '253402300799999.9995', '253402300799999', '1e16', '-1e16', '"1772359200123"']) WITH ORDINALITY t (ms, n) ORDER BY n;
-- the edge of what may be ahead of now
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"edge","eventId":"e","eventType":"t","timestamp":"2026-03-01T13:00:00Z"}')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"edge","eventId":"f","eventType":"t","timestamp":"2026-03-01T13:00:00.000001Z"}')$$);

--
-- properties and context
--
SELECT audience.event_ingest('{"userId":"p","eventId":"p1","eventType":"t","timestamp":"2026-02-01","properties":{"a":{"b":[1,{"c":null}]}},"context":{}}');
SELECT audience.event_ingest('{"userId":"p","eventId":"p2","eventType":"t","timestamp":"2026-02-01","properties":{}}');
SELECT event_id, properties, context, context IS NULL FROM audience.events WHERE user_id = 'p' ORDER BY 1;
SET audience.max_event_size = '1kB';
SELECT pg_temp.try(format('SELECT audience.events_ingest(%L)', jsonb_build_array(
	jsonb_build_object('userId', 'p', 'eventType', 't', 'eventId', 'p3', 'properties', jsonb_build_object('a', repeat('x', 600))),
	jsonb_build_object('userId', 'p', 'eventType', 't', 'eventId', 'p4', 'properties', jsonb_build_object('a', repeat('x', 600)),
		'context', jsonb_build_object('a', repeat('x', 600))))));
RESET audience.max_event_size;
SELECT count(*) FROM audience.events WHERE event_id IN ('p3', 'p4');

--
-- many events: the first of equal ones counts, whoever else is in between
--
SELECT audience.events_ingest(jsonb_agg(jsonb_build_object(
	'userId', 'u' || n % 7, 'eventId', 'e' || n % 500, 'eventType', 'purchase',
	'timestamp', '2026-02-01', 'properties', jsonb_build_object('n', n)) ORDER BY n))
FROM generate_series(1, 7000) n;
-- numbers of 1 to 3500 are the first of each pair (n modulo 7, n modulo 500)
SELECT count(*), max((properties->>'n')::int), count(DISTINCT (user_id, event_id)) FROM audience.events WHERE user_id ~ '^u\d$';
SELECT user_id, count(*) FROM pg_temp.news() n, split_part(n, ' ', 1) user_id GROUP BY 1 HAVING user_id ~ '^u' ORDER BY 1;
-- again: nothing is new
SELECT audience.events_ingest(jsonb_agg(jsonb_build_object(
	'userId', 'u' || n % 7, 'eventId', 'e' || n % 500, 'eventType', 'purchase', 'timestamp', '2026-02-01')))
FROM generate_series(1, 7000) n;
-- events without an id are never equal
SELECT audience.events_ingest('[{"userId":"same","eventType":"t","timestamp":"2026-02-01"},{"userId":"same","eventType":"t","timestamp":"2026-02-01"}]');
-- the place of what is wrong, and nothing of the rest is kept
SELECT pg_temp.try(format('SELECT audience.events_ingest(%L)', jsonb_agg(
	jsonb_build_object('userId', 'bad', 'eventType', CASE n WHEN 1234 THEN NULL ELSE 't' END) ORDER BY n)))
FROM generate_series(0, 2000) n;
SELECT count(*) FROM audience.events WHERE user_id = 'bad';
SELECT count(*) FROM audience.profiles WHERE user_id = 'bad';

--
-- received_at is the engine's: no JSON key sets it
--
SELECT audience.event_ingest('{"userId":"r","eventId":"r1","eventType":"t","timestamp":"2026-02-01","receivedAt":"2020-01-01","received_at":"2020-01-01"}');
SELECT received_at > '2021-01-01' FROM audience.events WHERE user_id = 'r';

--
-- the guard lets the engine through, and only while it is at work
--
SELECT audience.event_ingest('{"userId":"g1","eventId":"g1","eventType":"t","timestamp":"2026-02-01"}');
SELECT audience.event_ingest('{"userId":"g2","eventId":"g2","eventType":"t","timestamp":"2026-02-01"}');
BEGIN;
SELECT audience.events_copy('g1', 'g2');
SELECT audience.events_copy('g1', 'g2');
SELECT audience.events_delete('g1');
SELECT user_id, event_id FROM audience.events WHERE user_id ~ '^g' ORDER BY 1, 2;
SELECT audience.events_delete('g2');
SELECT pg_temp.try('DELETE FROM audience.events');
ROLLBACK;
SELECT pg_temp.try('DELETE FROM audience.events');
SELECT pg_temp.try('TRUNCATE audience.events');
-- also after an error in the middle of it
BEGIN;
CREATE FUNCTION pg_temp.stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'stop'; END $$;
CREATE TRIGGER stop BEFORE DELETE ON audience.events FOR EACH ROW EXECUTE FUNCTION pg_temp.stop();
SELECT pg_temp.try($$SELECT audience.events_delete('p')$$);
SELECT pg_temp.try('DELETE FROM audience.events');
ROLLBACK;
SELECT * FROM audience.verify();
