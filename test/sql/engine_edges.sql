--
-- Edges of the engine that once were wrong
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
-- a cycle by way of an inactive segment
SELECT audience.segment_create('a', 'country = ''DE''', active => false);
SELECT audience.segment_create('b', 'IN SEGMENT ''a''');
SELECT pg_temp.try($$SELECT audience.segment_update('a', rules => 'IN SEGMENT ''b''')$$);
SELECT pg_temp.try($$SELECT audience.segment_put('{"id":"a","name":"a","rules":"IN SEGMENT ''a''","active":false}')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_type) VALUES ('u', 'x')$$);

-- a made-up row is no profile
SELECT audience.profile_set('real', '{"x": 1}');
SELECT ROW('real', NULL, NULL, NULL, NULL, NULL, NULL, NULL)::audience.profiles OPERATOR(audience.|=) 'x = 1'::audience.rule AS stored,
	ROW('nobody', NULL, NULL, NULL, NULL, '\x0102ff', '\x00', '{"x": 1}')::audience.profiles OPERATOR(audience.|=) 'x = 1'::audience.rule AS nobody,
	ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::audience.profiles OPERATOR(audience.|=) 'x = 1'::audience.rule AS nothing;

-- the engine's own functions are not for calling
SELECT audience.fill(ARRAY[1], NULL, NULL, NULL, NULL);

-- a count, which looks ahead, and distinct values over one window
SELECT audience.segment_create('many', 'count(a, LAST ''10 days'') >= 100');
SELECT audience.segment_create('some', 'count_distinct(b.p, LAST ''10 days'') >= 1');
SET audience.now = '2026-04-10T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id)
SELECT 'w', 'a', timestamptz '2026-04-01 00:00Z' + i * interval '20 minutes', 'a' || i FROM generate_series(1, 120) i;
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id, properties) VALUES
	('w', 'b', '2026-04-01 00:30Z', 'b0', '{"p": 0}'),
	('w', 'b', '2026-04-01 07:30Z', 'b1', '{"p": 1}'),
	('w', 'b', '2026-04-01 08:30Z', 'b2', '{"p": 2}');
SET audience.now = '2026-04-11T07:10:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('w', 'x', 'x1');
SET audience.now = '2026-04-11T09:10:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('w', 'x', 'x2');
SELECT segment_id FROM audience.user_segments('w');
SELECT * FROM audience.verify();

-- two counts over one window: one's next leavers end within an instant, and
-- the other's are read for beyond it
SELECT audience.segment_create('seven', 'count(c, LAST ''20 days'') >= 7');
SELECT audience.segment_create('two', 'count(d, LAST ''20 days'') >= 2');
SET audience.now = '2026-04-20T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id)
SELECT 'v', left(e, 1), timestamptz '2026-04-01 00:00Z' + substr(e, 2)::int * interval '1 hour', e || n
FROM unnest('{c1,c2,c3,c4,c5,c6,c7,c8,c9,c10,c11,c12,c12,c12,d1,d2,d3,d4,d5,d6,d7,d13,d14,d15}'::text[]) WITH ORDINALITY u (e, n);
SET audience.now = '2026-04-21T07:10:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('v', 'x', 'x1');
SELECT segment_id FROM audience.user_segments('v');
SET audience.now = '2026-04-21T12:00:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('v', 'x', 'x2');
SELECT segment_id FROM audience.user_segments('v');
SELECT * FROM audience.verify();

-- a segment, made at the instant of the user's last evaluation, that is the
-- first to ask for an aggregate whose filter looks at the clock
SELECT audience.trait_create('soon', 'count', 'e', filter => 'expires WITHIN NEXT ''3 days''');
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES ('t', 'e', '1', '{"expires": "2026-05-01"}');
SELECT audience.segment_create('expiring', 'soon >= 1');
SET audience.now = '2026-04-29T00:00:00Z';
SELECT * FROM audience.verify();
SELECT audience.run_due() > 0;
SELECT segment_id, entered_at FROM audience.user_segments('t') WHERE segment_id = 'expiring';
SELECT * FROM audience.verify();
SELECT audience.segment_delete('expiring');

-- sums beyond any double
SELECT audience.segment_create('debt', '{"event":"owe","aggregate":"sum","property":"v","operator":"lt","value":-5e310}');
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES ('d', 'owe', '1', '{"v": -1e310}');
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES ('d', 'owe', '2', '{"v": -1e311}');
SELECT segment_id FROM audience.user_segments('d');
SELECT * FROM audience.verify();

-- leaves over times turn over at the microsecond, as time passes and as the
-- time itself moves, also one still to come
SELECT audience.trait_create('lastBuy', 'last_time', 'buy');
SELECT audience.trait_create('firstBuy', 'first_time', 'buy');
SELECT audience.segment_create(id, rule::audience.rule) FROM (VALUES
	('last1', '{"field":"lastBuy","operator":"within_last","value":"1 day"}'),
	('last2', '{"field":"lastBuy","operator":"within_last","value":"2 days"}'),
	('ago1', '{"field":"lastBuy","operator":"before_last","value":"1 day"}'),
	('ago2', '{"field":"lastBuy","operator":"before_last","value":"2 days"}'),
	('not1', '{"not":{"field":"lastBuy","operator":"within_last","value":"1 day"}}'),
	('first1', '{"field":"firstBuy","operator":"within_last","value":"1 day"}'),
	('window1', '{"event":"buy","aggregate":"last_time","window":{"last":"36 hours"},"operator":"within_last","value":"1 day"}'),
	('next1', '{"field":"lastBuy","operator":"within_next","value":"1 hour"}'),
	('next2', '{"field":"lastBuy","operator":"after_next","value":"30 minutes"}'),
	('since', '{"field":"lastBuy","operator":"after","value":"2026-05-03"}')) s (id, rule);
SET audience.max_future_skew = '2h';
CREATE FUNCTION pg_temp.step(at text, type text, occurred text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('audience.now', at, false);
	INSERT INTO audience.events (user_id, event_type, event_id, occurred_at)
	VALUES ('t', type, at || type, coalesce(occurred, at)::timestamptz);
	RETURN (SELECT string_agg(segment_id, ' ' ORDER BY segment_id) FROM audience.user_segments('t'));
END $$;
SELECT pg_temp.step('2026-04-30T00:00:00Z', 'x');
SELECT pg_temp.step('2026-05-01T00:00:00Z', 'buy');
SELECT pg_temp.step('2026-05-01T23:59:59.999999Z', 'x');
SELECT pg_temp.step('2026-05-02T00:00:00Z', 'x');
SELECT pg_temp.step('2026-05-02T00:00:00.000001Z', 'x');
SELECT pg_temp.step('2026-05-02T23:59:59.999999Z', 'x');
SELECT pg_temp.step('2026-05-03T00:00:00Z', 'x');
SELECT pg_temp.step('2026-05-03T00:00:00.000001Z', 'buy');
SELECT pg_temp.step('2026-05-03T12:00:00Z', 'buy', '2026-04-30T12:00Z');
SELECT pg_temp.step('2026-05-05T12:00:00Z', 'buy', '2026-05-04T12:00Z');
SELECT pg_temp.step('2026-05-05T12:00:00.000001Z', 'buy', '2026-05-04T12:00:00.000002Z');
SELECT pg_temp.step('2026-05-05T12:00:00.000002Z', 'x');
SELECT pg_temp.step('2026-05-06T00:00:00Z', 'buy', '2026-05-06T01:00Z');
SELECT pg_temp.step('2026-05-06T00:29:59.999999Z', 'x');
SELECT pg_temp.step('2026-05-06T00:30:00Z', 'x');
SELECT pg_temp.step('2026-05-06T00:59:59.999999Z', 'x');
SELECT pg_temp.step('2026-05-06T01:00:00Z', 'x');
SELECT pg_temp.step('2026-05-07T00:59:59.999999Z', 'x');
SELECT pg_temp.step('2026-05-07T01:00:00Z', 'x');
SELECT pg_temp.step('2027-05-07T01:00:00Z', 'x');
SELECT segment_id, count(*) FILTER (WHERE action = 'added') AS added, count(*) FILTER (WHERE action = 'removed') AS removed, max(occurred_at) AS last
FROM audience.transitions WHERE user_id = 't' GROUP BY 1 ORDER BY 1;
SELECT * FROM audience.verify();
RESET audience.max_future_skew;
SET audience.now = '2026-04-11T09:10:00Z';

-- before Christ there are no events
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_type, event_id, occurred_at) VALUES ('bc', 'x', '1', '4000-01-01 BC')$$);

-- more bytes than a batch is to hold in memory: sorted outside of it
INSERT INTO audience.events (user_id, event_type, event_id, properties)
SELECT 'big' || i % 7, 'page', 'p' || i, jsonb_build_object('text', repeat('x', 900000)) FROM generate_series(1, 90) i;
SELECT user_id, audience.profile_get(user_id)->'eventCount' AS events FROM audience.profiles WHERE user_id LIKE 'big%' ORDER BY 1;

-- before 2000 windows slide, too; last, since a user's clock does not run back
SELECT audience.segment_create('old', 'count_distinct(c.p, LAST ''10 days'') >= 1');
DELETE FROM audience.profiles;
SET audience.now = '1999-01-01T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id, properties) VALUES
	('o', 'c', '1998-12-31 00:00Z', 'c0', '{"p": 0}'), ('o', 'c', '1999-01-01 00:00Z', 'c1', '{"p": 1}');
SELECT segment_id FROM audience.user_segments('o') WHERE segment_id = 'old';
SET audience.now = '1999-01-10T12:00:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('o', 'x', '1');
SET audience.now = '1999-02-10T12:00:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('o', 'x', '2');
SELECT segment_id FROM audience.user_segments('o') WHERE segment_id = 'old';
SELECT user_id, detail FROM audience.verify() WHERE user_id = 'o';

-- names that are too long do not come in by the road of dumps either; should a
-- table hold them all the same, nothing breaks
SET audience.now = '2026-06-01T00:00:00Z';
INSERT INTO audience.events (user_id, event_type) VALUES ('n', 'login');
SET row_security = off;
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_type, received_at) VALUES (repeat('u', 300), 'a', '2026-01-01')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_type, received_at) VALUES ('n', repeat('t', 100000), '2026-01-01')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_id, event_type, received_at) VALUES ('n', repeat('i', 256), 'a', '2026-01-01')$$);
RESET row_security;
ALTER TABLE audience.events DISABLE TRIGGER USER;
INSERT INTO audience.events (user_id, event_id, event_type) VALUES (repeat('u', 300), 'a', 'a'), ('n', 'a', repeat('t', 100000)), ('n', repeat('i', 300), 'last');
ALTER TABLE audience.events ENABLE TRIGGER USER;
SELECT audience.segment_create('anything', 'count(*, LAST ''10 days'') >= 1 AND count(t*) = 0 AND last(last.x) = 1');
SELECT audience.segment_create('ever', 'count(*) >= 1000 OR count(q) >= 1');
SELECT audience.profile_rebuild('{n}');
SELECT pg_temp.try(format('SELECT audience.profile_rebuild(ARRAY[%L])', repeat('u', 300)));
