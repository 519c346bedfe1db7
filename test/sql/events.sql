--
-- Events: every way in, and the transitions they cause
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT audience.segment_create('buyers', 'count(purchase) >= 1');
SELECT audience.segment_create('spenders', 'totalSpent > 100');
SELECT audience.segment_create('one login', 'count(login) = 1');

--
-- event_ingest
--
SELECT audience.event_ingest('{"eventId":"e1","userId":"ann","eventType":"purchase","timestamp":"2026-03-01T10:00:00.123456+02:00","properties":{"amount":10},"context":{"sessionId":"s"},"somethingElse":1}');
SELECT user_id, occurred_at, event_id, event_type, properties, context FROM audience.events;
SELECT received_at BETWEEN now() - interval '1 minute' AND clock_timestamp() FROM audience.events;
SELECT pg_temp.news();
-- again: nothing
SELECT audience.event_ingest('{"eventId":"e1","userId":"ann","eventType":"login","timestamp":"2026-03-01T08:00:00.123456Z","properties":{"amount":1000}}');
SELECT pg_temp.news();
SELECT count(*), max(event_type) FROM audience.events;
-- the same id at another time is another event
SELECT audience.event_ingest('{"eventId":"e1","userId":"ann","eventType":"purchase","timestamp":"2026-03-01T08:00:00.123457Z","properties":{"amount":90}}');
SELECT audience.profile_get('ann');
-- a user id that is a number, times in milliseconds
SELECT audience.event_ingest('{"eventId":"e1","userId":42,"eventType":"login","timestamp":1772359200123}');
SELECT user_id, occurred_at FROM audience.events WHERE user_id = '42';
-- bare dates, spaces, offsets, more digits than microseconds
SELECT audience.event_ingest(format('{"eventId":"t%s","userId":"times","eventType":"login","timestamp":"%s"}', n, t)::jsonb)
FROM unnest(ARRAY['2026-02-28', '2026-02-28 01:02', '2026-02-28T01:02:03-03', '2026-02-28T01:02:03.1234565+00:30']) WITH ORDINALITY x(t, n);
SELECT event_id, occurred_at FROM audience.events WHERE user_id = 'times' ORDER BY event_id;
-- without id and time
SELECT audience.event_ingest('{"userId":"nil","eventType":"login"}') ~ '^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$';
SELECT occurred_at, properties, context FROM audience.events WHERE user_id = 'nil';
SELECT pg_temp.news();

--
-- events_ingest
--
SELECT audience.events_ingest('[]');
SELECT audience.events_ingest('[
 {"eventId":"b1","userId":"bob","eventType":"login","timestamp":"2026-03-01T01:00:00Z"},
 {"eventId":"b2","userId":"bob","eventType":"purchase","timestamp":"2026-03-01T03:00:00Z","properties":{"amount":101}},
 {"eventId":"b3","userId":"bob","eventType":"page_view","timestamp":"2026-03-01T02:00:00Z"},
 {"eventId":"b2","userId":"bob","eventType":"purchase","timestamp":"2026-03-01T03:00:00Z","properties":{"amount":1}},
 {"eventId":"e1","userId":"ann","eventType":"purchase","timestamp":"2026-03-01T08:00:00.123457Z"}]');
SELECT pg_temp.news();
SELECT audience.events_ingest('[{"eventId":"b1","userId":"bob","eventType":"login","timestamp":"2026-03-01T01:00:00Z"}]');

--
-- INSERT, one net transition per user, segment and statement
--
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES
 ('cid', '2026-03-01 01:00', 'c1', 'login'),
 ('cid', '2026-03-01 02:00', 'c2', 'login');
SELECT pg_temp.news();
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('cid', '2026-03-01 05:00', 'c4', 'purchase', '{"amount":200}'),
 ('cid', '2026-03-01 06:00', 'c5', 'page_view', '{}'),
 ('cid', '2026-03-01 06:00', 'C6', 'page_view', '{}'),
 ('cid', '2026-03-01 04:00', 'c3', 'purchase', '{"amount":-150}'),
 ('dan', '2026-03-01 04:00', 'd1', 'login', '{}');
SELECT pg_temp.news();
SELECT user_id, segment_id, occurred_at, recorded_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS recorded,
 segment_version, (SELECT array_agg(k ORDER BY k) FROM jsonb_object_keys(metadata) k) AS keys,
 metadata->'ruleScore' AS score, metadata->'segmentVersion' AS version, metadata->'eventId' AS event,
 (metadata->>'evaluationLatency')::numeric >= 0 AS latency
FROM audience.transitions WHERE user_id = 'cid' ORDER BY seq;
-- defaults
INSERT INTO audience.events (user_id, event_type) VALUES ('defaults', 'login');
SELECT occurred_at = audience.now(), event_id ~ '^[0-9a-f-]{36}$' FROM audience.events WHERE user_id = 'defaults';
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('x', '2026-03-01', 'x', 'login') RETURNING event_id$$);
-- INSERT ... SELECT
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'many ' || n % 3, timestamptz '2026-02-01 00:00Z' + n * interval '1 hour', 'm' || n, 'purchase', jsonb_build_object('amount', n)
FROM generate_series(1, 30) n;
DELETE FROM seen; INSERT INTO seen SELECT max(seq) FROM audience.transitions;
SELECT * FROM audience.user_segments('many 1') ORDER BY 1;
-- COPY
COPY audience.events (user_id, occurred_at, event_id, event_type, properties) FROM STDIN;
copied	2026-03-01 00:00:00Z	k1	purchase	{"amount": 60}
copied	2026-02-01 00:00:00Z	k2	purchase	{"amount": 60}
copied	2026-03-01 00:00:01Z	k3	login	{}
\.
SELECT pg_temp.news();
COPY audience.events (user_id, event_type) FROM STDIN;
copied too	login
\.
SELECT pg_temp.news();
-- no rows
INSERT INTO audience.events (user_id, event_type) SELECT 'nobody', 'login' WHERE false;
SELECT count(*) FROM audience.profiles WHERE user_id = 'nobody';

--
-- duplicates
--
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('cid', '2026-03-01 01:00Z', 'c1', 'login')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('dup', '2026-03-01 01:00Z', 'c1', 'login'), ('dup', '2026-03-01 01:00Z', 'c1', 'login')$$);
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES
 ('cid', '2026-03-01 01:00Z', 'c1', 'login'),
 ('dup', '2026-03-01 01:00Z', 'c1', 'login'),
 ('dup', '2026-03-01 01:00Z', 'c1', 'purchase')
ON CONFLICT DO NOTHING;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES
 ('dup', '2026-03-01 01:00Z', 'c1', 'purchase')
ON CONFLICT (user_id, occurred_at, event_id) DO NOTHING;
SELECT pg_temp.news();
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES
 ('dup', '2026-03-01 01:00Z', 'c1', 'purchase') ON CONFLICT (user_id, occurred_at, event_id) DO UPDATE SET event_type = 'purchase'$$);

--
-- late events count where they belong
--
SELECT audience.segment_create('last bought books', 'last(purchase.category) = ''books''');
SELECT audience.segment_create('busy in January', '{"event":"*","window":{"from":"2026-01-01","to":"2026-02-01"},"operator":"gte","value":2}');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('late', '2026-02-02Z', 'l1', 'purchase', '{"category":"toys"}');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('late', '2026-01-02Z', 'l2', 'purchase', '{"category":"books"}');
SELECT pg_temp.news();
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('late', '2026-01-31 23:59:59.999999Z', 'l3', 'login', '{}'), ('late', '2026-02-03Z', 'l4', 'purchase', '{"category":"books"}');
SELECT pg_temp.news();

--
-- the transaction: seen at once, gone with it
--
BEGIN;
SELECT audience.event_ingest('{"eventId":"p1","userId":"trans","eventType":"purchase","properties":{"amount":101}}');
SELECT segment_id FROM audience.memberships WHERE user_id = 'trans' ORDER BY 1;
SAVEPOINT s;
SELECT audience.event_ingest('{"eventId":"p2","userId":"trans","eventType":"login"}');
SELECT audience.event_ingest('{"eventId":"p3","userId":"trans","eventType":"purchase","properties":{"amount":-50}}');
SELECT segment_id FROM audience.memberships WHERE user_id = 'trans' ORDER BY 1;
ROLLBACK TO s;
SELECT segment_id FROM audience.memberships WHERE user_id = 'trans' ORDER BY 1;
SAVEPOINT s2;
SELECT audience.event_ingest('{"eventId":"p2","userId":"trans","eventType":"login"}');
RELEASE s2;
DO $$
BEGIN
	PERFORM audience.event_ingest('{"eventId":"p4","userId":"trans","eventType":"login"}');
	RAISE EXCEPTION 'undone';
EXCEPTION WHEN raise_exception THEN
END $$;
COMMIT;
SELECT pg_temp.news();
BEGIN;
SELECT audience.event_ingest('{"eventId":"p9","userId":"undone","eventType":"purchase"}');
ROLLBACK;
SELECT count(*) FROM audience.profiles WHERE user_id = 'undone';
SELECT pg_temp.news();

--
-- prepared, in functions, in triggers of others
--
PREPARE ingest(text, text) AS INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ($1, '2026-03-01', $2, 'login');
EXECUTE ingest('prep', 'p1');
EXECUTE ingest('prep', 'p2');
SELECT pg_temp.news();
CREATE FUNCTION pg_temp.twice(who text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES (who, '2026-03-01', 'f1', 'login');
	INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES (who, '2026-03-01', 'f2', 'login');
	RETURN (SELECT string_agg(segment_id, ',') FROM audience.memberships WHERE user_id = who);
END $$;
SELECT pg_temp.twice('twice');
SELECT pg_temp.news();
CREATE TEMPORARY TABLE orders (id int, who text, amount numeric);
CREATE FUNCTION pg_temp.order_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
	SELECT who, '2026-03-01', 'order ' || id, 'purchase', jsonb_build_object('amount', amount) FROM new_orders;
	RETURN NULL;
END $$;
CREATE TRIGGER order_event AFTER INSERT ON orders REFERENCING NEW TABLE AS new_orders
FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.order_event();
INSERT INTO orders VALUES (1, 'shop', 60), (2, 'shop', 50), (3, 'shopper', 1);
SELECT pg_temp.news();
WITH new AS (
 INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('cte', '2026-03-01', 'w1', 'login') RETURNING user_id)
SELECT user_id FROM new;
SELECT pg_temp.news();

--
-- append-only
--
SELECT pg_temp.try('UPDATE audience.events SET event_type = ''x''');
SELECT pg_temp.try('UPDATE audience.events SET event_type = ''x'' WHERE false');
SELECT pg_temp.try('DELETE FROM audience.events');
SELECT pg_temp.try('TRUNCATE audience.events');
SELECT pg_temp.try('TRUNCATE audience.events CASCADE');

--
-- time
--
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('future', '2026-03-01 13:00:00.000001Z', 'f', 'login')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('future', '2026-03-01 13:00Z', 'f', 'login')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('future', 'infinity', 'f', 'login')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('future', '-infinity', 'f', 'login')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"future","eventType":"login","timestamp":"2026-03-01T13:00:00.000001Z"}')$$);
SELECT pg_temp.try($$SELECT audience.events_ingest('[{"userId":"future","eventType":"login"},{"userId":"future","eventType":"login","timestamp":"2027-03-01"}]')$$);
SET audience.max_future_skew = '2h';
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('future', '2026-03-01 14:00Z', 'f2', 'login')$$);
RESET audience.max_future_skew;
SELECT * FROM audience.verify();
-- windows slide to the microsecond
SELECT audience.segment_create('in the last hour', 'count(*, LAST ''1 hour'') >= 1');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES
 ('edge out', '2026-03-01 11:00Z', 'w', 'page_view'), ('edge in', '2026-03-01 11:00:00.000001Z', 'w', 'page_view'),
 ('edge ahead', '2026-03-01 13:00Z', 'w', 'page_view');
SELECT user_id FROM audience.segment_members('in_the_last_hour') WHERE user_id LIKE 'edge%' ORDER BY 1;
SET audience.now = '2026-03-01T12:00:00.000001Z';
SELECT audience.profile_rebuild(ARRAY['edge in', 'edge out', 'edge ahead']);
SELECT user_id FROM audience.segment_members('in_the_last_hour') WHERE user_id LIKE 'edge%' ORDER BY 1;
SELECT * FROM audience.verify();
