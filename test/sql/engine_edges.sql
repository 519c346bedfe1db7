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
SELECT pg_temp.try('SELECT audience.take_profile(NULL, NULL, NULL, NULL, NULL, NULL, NULL)');
SELECT pg_temp.try('SELECT audience.taken_members(NULL, NULL)');
SELECT audience.fill(ARRAY[1], NULL, NULL, NULL);

-- a count, which looks ahead, and distinct values over one window
SELECT audience.segment_create('many', 'count(a, LAST ''10 days'') >= 100');
SELECT audience.segment_create('some', 'count_distinct(b.p, LAST ''10 days'') >= 1');
SET audience.now = '2026-04-10T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id)
SELECT 'w', 'a', timestamptz '2026-04-01 00:00Z' + i * interval '1 hour', 'a' || i FROM generate_series(1, 40) i;
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

-- sums beyond any double
SELECT audience.segment_create('debt', '{"event":"owe","aggregate":"sum","property":"v","operator":"lt","value":-5e310}');
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES ('d', 'owe', '1', '{"v": -1e310}');
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES ('d', 'owe', '2', '{"v": -1e311}');
SELECT segment_id FROM audience.user_segments('d');
SELECT * FROM audience.verify();

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
