--
-- Bad input: refused whole, with an SQLSTATE and a location, and nothing kept
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT audience.segment_create('everyone', 'true');

--
-- one event
--
SELECT doc, pg_temp.try(format('SELECT audience.event_ingest(%L)', doc)) FROM unnest(ARRAY[
 '[]', '"text"', '5', 'null', '{}',
 '{"userId":"u"}',
 '{"eventType":"t"}',
 '{"userId":null,"eventType":"t"}',
 '{"userId":"","eventType":"t"}',
 '{"userId":true,"eventType":"t"}',
 '{"userId":1.5,"eventType":"t"}',
 '{"userId":["u"],"eventType":"t"}',
 '{"userId":"u","eventType":""}',
 '{"userId":"u","eventType":null}',
 '{"userId":"u","eventType":7}',
 '{"userId":"u","eventType":"t","eventId":""}',
 '{"userId":"u","eventType":"t","eventId":{}}',
 '{"userId":"u","eventType":"t","timestamp":"yesterday"}',
 '{"userId":"u","eventType":"t","timestamp":"2026-02-30"}',
 '{"userId":"u","eventType":"t","timestamp":"2026-02-01T25:00:00Z"}',
 '{"userId":"u","eventType":"t","timestamp":"now"}',
 '{"userId":"u","eventType":"t","timestamp":"infinity"}',
 '{"userId":"u","eventType":"t","timestamp":""}',
 '{"userId":"u","eventType":"t","timestamp":true}',
 '{"userId":"u","eventType":"t","timestamp":1e300}',
 '{"userId":"u","eventType":"t","timestamp":-1e300}',
 '{"userId":"u","eventType":"t","timestamp":32503680000000}',
 '{"userId":"u","eventType":"t","properties":[]}',
 '{"userId":"u","eventType":"t","properties":"text"}',
 '{"userId":"u","eventType":"t","properties":5}',
 '{"userId":"u","eventType":"t","context":[]}',
 '{"userId":"u","eventType":"t","context":false}',
 '{"userId":"u\u0000","eventType":"t"}',
 '{"userId":"u","eventType":"t","properties":{"a":NaN}}',
 '{"userId":"u","eventType":"t",}']) WITH ORDINALITY d(doc, n) ORDER BY n;
-- null means not given
SELECT audience.event_ingest('{"userId":"nulls","eventType":"t","eventId":"n1","timestamp":null,"properties":null,"context":null}');
SELECT pg_temp.try($$SELECT audience.event_ingest(NULL)$$);
-- lengths, in bytes
SELECT name, n, left(pg_temp.try(format('SELECT audience.event_ingest(%L)',
	'{"userId":"u","eventType":"t","eventId":"len"}'::jsonb || jsonb_build_object(name, v))), 100)
FROM unnest(ARRAY['userId', 'eventType', 'eventId']) name,
	(VALUES (255, repeat('x', 255)), (256, repeat('x', 256)), (254, repeat('ü', 127)), (256, repeat('ü', 128))) x(n, v)
ORDER BY name, n, v;

--
-- many events: all or nothing, and where
--
SELECT doc, pg_temp.try(format('SELECT audience.events_ingest(%L)', doc)) FROM unnest(ARRAY[
 '{}', '"text"', 'null',
 '[5]', '[[]]', '[null]',
 '[{"userId":"a","eventType":"t"},{"eventType":"t"}]',
 '[{"userId":"a","eventType":"t"},{"userId":"a","eventType":"t"},{"userId":"a","eventType":"t"},{"userId":"a","eventType":"t","timestamp":"x"}]',
 '[{"userId":"a","eventType":"t"},{"userId":"a","eventType":"t","properties":[]}]',
 '[{"userId":"a","eventType":"t"},{"userId":"","eventType":"t"}]',
 '[{"userId":"a","eventType":"t"},{"userId":"a","eventType":5}]',
 '[{"userId":"a","eventType":"t"},{"userId":"a","eventType":"t","timestamp":"2027-01-01"}]']) WITH ORDINALITY d(doc, n) ORDER BY n;
SELECT count(*) FROM audience.events WHERE user_id = 'a';
SELECT pg_temp.try($$SELECT audience.events_ingest(NULL)$$);

--
-- rows
--
-- (a failing row's DETAIL shows when it was received)
SELECT v, regexp_replace(pg_temp.try('INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context) VALUES (' || v || ')'), 'Failing row.*', 'Failing row')
FROM unnest(ARRAY[
 $$NULL, '2026-02-01', 'r', 't', '{}', '{}'$$,
 $$'', '2026-02-01', 'r', 't', '{}', '{}'$$,
 $$'r', NULL, 'r', 't', '{}', '{}'$$,
 $$'r', '2026-02-01', NULL, 't', '{}', '{}'$$,
 $$'r', '2026-02-01', '', 't', '{}', '{}'$$,
 $$'r', '2026-02-01', 'r', NULL, '{}', '{}'$$,
 $$'r', '2026-02-01', 'r', '', '{}', '{}'$$,
 $$'r', '2026-02-01', 'r', 't', '[]', '{}'$$,
 $$'r', '2026-02-01', 'r', 't', '5', '{}'$$,
 $$'r', '2026-02-01', 'r', 't', '{}', '"x"'$$,
 $$'r', '2026-02-01', 'r', 't', '{"a":"\u0000"}', '{}'$$]) WITH ORDINALITY x(v, n) ORDER BY n;
SELECT split_part(pg_temp.try(format('INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES (%L, ''2026-02-01'', %L, %L)', u, e, t)), ':', 1)
FROM (VALUES (repeat('x', 256), 'e', 't'), ('u', repeat('x', 256), 't'), ('u', 'e', repeat('x', 256)), (repeat('x', 255), repeat('x', 255), repeat('x', 255))) x(u, e, t);

--
-- sizes
--
SELECT pg_temp.try(format('SELECT audience.event_ingest(%L)',
	jsonb_build_object('userId', 'big', 'eventType', 't', 'eventId', 'big ' || n, 'timestamp', '2026-02-01', 'properties', jsonb_build_object('a', repeat('x', n)))))
FROM unnest(ARRAY[1000000, 1048576 + 100]) n;
SELECT pg_temp.try(format('INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context) VALUES (''big'', ''2026-02-01'', ''both'', ''t'', %L, %L)',
	jsonb_build_object('a', repeat('x', 600000)), jsonb_build_object('a', repeat('x', 600000))));
SET audience.max_event_size = '1kB';
SELECT pg_temp.try(format('SELECT audience.event_ingest(%L)',
	jsonb_build_object('userId', 'big', 'eventType', 't', 'eventId', 'small', 'properties', jsonb_build_object('a', repeat('x', 2000)))));
RESET audience.max_event_size;
-- depth 10,000, in what is stored and in what a rule walks over
SELECT audience.segment_create('deep', '{"event":"t","where":{"field":"a","operator":"contains","value":1}}');
SELECT audience.segment_create('deep equal', '{"event":"t","where":{"field":"a","operator":"eq","value":[[1]]}}');
SELECT audience.segment_create('deep distinct', '{"event":"t","aggregate":"count_distinct","property":"a","operator":"gte","value":1}');
SELECT left(pg_temp.try(format('SELECT audience.event_ingest(%L)',
	'{"userId":"deep","eventType":"t","eventId":"deep","properties":{"a":' || repeat('[', n) || repeat(']', n) || '}}')), 100)
FROM unnest(ARRAY[2000]) n;
SELECT split_part(pg_temp.try(format('SELECT audience.event_ingest(%L)',
	'{"userId":"deep","eventType":"t","eventId":"deeper","properties":{"a":' || repeat('[', 10000) || repeat(']', 10000) || '}}')), ':', 1) IN ('ok', '54001');
-- numbers of any size, exactly
SELECT audience.segment_create('huge', 'totalSpent > 1');
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"huge","eventType":"purchase","eventId":"1","timestamp":"2026-02-01","properties":{"amount":1e1000}}')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"huge","eventType":"purchase","eventId":"2","timestamp":"2026-02-01","properties":{"amount":-1e1000}}')$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"huge","eventType":"purchase","eventId":"3","timestamp":"2026-02-01","properties":{"amount":1e-1000}}')$$);
SELECT (audience.profile_get('huge')->>'totalSpent')::numeric = 1e-1000;
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"huge","eventType":"purchase","eventId":"4","timestamp":"2026-02-01","properties":{"amount":1e131071}}')$$);
SELECT audience.segment_members('huge');
-- a regular expression that backtracks meets a long text
SELECT audience.segment_create('regex', '{"event":"t","where":{"field":"s","operator":"regex","value":"^(a+)+\\1$"}}');
SET statement_timeout = '20s';
SELECT pg_temp.try(format('SELECT audience.event_ingest(%L)',
	jsonb_build_object('userId', 'regex', 'eventType', 't', 'eventId', 'regex', 'properties', jsonb_build_object('s', repeat('a', 25) || 'b'))));
RESET statement_timeout;
SELECT * FROM audience.verify();

--
-- attributes
--
SELECT args, left(pg_temp.try('SELECT audience.profile_set(' || args || ')'), 300) FROM unnest(ARRAY[
 $$NULL, '{}'$$, $$'', '{}'$$, $$'p', NULL$$, $$'p', '[]'$$, $$'p', '"x"'$$, $$'p', 'null'$$,
 $$'p', '{"a":"\u0000"}'$$, $$repeat('x', 256), '{}'$$]) WITH ORDINALITY x(args, n) ORDER BY n;
SELECT doc, pg_temp.try(format('SELECT audience.profiles_set(%L)', doc)) FROM unnest(ARRAY[
 '{}', '[5]',
 '[{"userId":"p","attributes":{}},{"attributes":{}}]',
 '[{"userId":"p","attributes":{}},{"userId":"p"}]',
 '[{"userId":"p","attributes":{}},{"userId":"p","attributes":[]}]',
 '[{"userId":"p","attributes":{}},{"userId":"","attributes":{}}]']) WITH ORDINALITY d(doc, n) ORDER BY n;
SELECT count(*) FROM audience.profiles WHERE user_id = 'p';
SELECT pg_temp.try($$SELECT audience.profile_erase(NULL)$$);
SELECT pg_temp.try($$SELECT audience.profile_merge('a', NULL)$$);

--
-- settings
--
SELECT pg_temp.try($$SET audience.now = 'tomorrow'$$);
SELECT pg_temp.try($$SET audience.nothing = 1$$);
SELECT pg_temp.try($$SET audience.max_future_skew = '-1s'$$);
CREATE ROLE regress_audience_plain;
SET ROLE regress_audience_plain;
SELECT pg_temp.try($$SET audience.now = '2026-01-01'$$);
SELECT pg_temp.try($$SET audience.strict = off$$);
SELECT pg_temp.try($$SET audience.definition_wait = '1s'$$);
RESET ROLE;
DROP ROLE regress_audience_plain;
