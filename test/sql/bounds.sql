--
-- What a few kilobytes of input may cost: memory goes by what there is, not by
-- how it was brought; and what tables hold that no event could have brought
-- does no harm
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
CREATE FUNCTION pg_temp.counted(counter text) RETURNS bigint LANGUAGE sql AS $$
	SELECT w.value FROM audience.engine_work() w WHERE w.counter = $1 $$;

--
-- numbers with exponents are not printed before they are found to be too long
--
SELECT (audience.rule_validate('{"field":"x","operator":"in","value":[' || string_agg('1e131071', ',') || ']}')).* FROM generate_series(1, 9000);
SELECT (audience.rule_validate('{"field":"x","operator":"in","value":[' || string_agg('1e-16000', ',') || ']}')).* FROM generate_series(1, 9000);
SELECT (audience.rule_validate('{"field":"x","operator":"eq","value":{"a":[' || string_agg('-3e131070', ',') || ']}}')).* FROM generate_series(1, 9000);
SELECT (audience.rule_validate('x IN (' || string_agg('1e131071', ',') || ')')).* FROM generate_series(1, 9000);
SELECT pg_temp.try(format('SELECT %L::audience.rule', '{"field":"x","operator":"in","value":[' || string_agg('1e131071', ',') || ']}')) FROM generate_series(1, 9);
-- so many, and it can be read again
SELECT length(r::text), r::text::audience.rule OPERATOR(audience.=) r
FROM (SELECT ('{"field":"x","operator":"in","value":[' || string_agg('1e131071', ',') || ']}')::audience.rule r FROM generate_series(1, 7)) s;

--
-- patches of one user: what each comes to is not kept
--
SELECT audience.engine_work_reset();
SELECT audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', 'u', 'attributes', jsonb_build_object('k' || n, n)) ORDER BY n)
	FROM generate_series(1, 1000) n));
SELECT pg_temp.counted('largest_batch') < 2000000;
SELECT count(*), sum(value::integer) FROM audience.profiles, jsonb_each(attributes) WHERE user_id = 'u';

--
-- windows of many lengths, and many aggregates beside many types of events
--
SELECT audience.segment_create('windows', ('{"any":[' || string_agg(format('{"event":"e","window":{"last":"%s seconds"}}', n), ',') || ']}')::audience.rule)
FROM generate_series(1, 3000) n;
SELECT audience.engine_work_reset();
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'w', '2026-03-01T11:30:00Z'::timestamptz + n * interval '1 second', n, 'e', '{}' FROM generate_series(1, 10) n;
SELECT pg_temp.counted('definition_bytes') < 10000000;
SELECT audience.segment_count('windows');
-- verify() does not take stack for each
SET max_stack_depth = '512kB';
SELECT * FROM audience.verify();
RESET max_stack_depth;
SELECT audience.segment_delete('windows');
SELECT audience.segment_create('types', ('{"any":[' || string_agg(format('{"event":"t%s"}', n), ',') || ']}')::audience.rule)
FROM generate_series(1, 3000) n;
SELECT audience.engine_work_reset();
INSERT INTO audience.events (user_id, event_id, event_type, properties) SELECT 'w', 'q' || n, 'q' || n, '{}' FROM generate_series(1, 1500) n;
SELECT sum(total_bytes) < 10000000 FROM pg_backend_memory_contexts WHERE name = 'audience definitions';
SELECT audience.segment_count('types');
INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('w', 't', 't2999', '{}');
SELECT audience.segment_count('types');
SELECT audience.segment_delete('types');

--
-- a user's id that is too long, which nothing but the table's owner can bring in
--
INSERT INTO audience.events (user_id, event_id, event_type, properties) SELECT 'f' || n, n, 'visit', '{}' FROM generate_series(1, 20000) n;
ANALYZE audience.events, audience.profiles;
INSERT INTO audience.profiles (user_id, evaluated_at) SELECT repeat('y', 2500) || n, now() FROM generate_series(1, 20) n;
SELECT audience.engine_work_reset();
SELECT pg_temp.try($$SELECT audience.segment_create('Visitors', 'count(visit) < 1000')$$);
-- the events were not looked for user after user
SELECT pg_temp.counted('event_scans');
DELETE FROM audience.profiles WHERE user_id LIKE 'yyy%';
SELECT audience.segment_create('Visitors', 'count(visit) < 1000');
SELECT audience.segment_count('visitors');

--
-- a publication that could not tell of updates does not keep rows from being inserted
--
SET client_min_messages = error;	-- of wal_level
CREATE PUBLICATION bounds FOR TABLE audience.transition_log WHERE (reason <> 'expired'), audience.timers WHERE (due_at > '2026-01-01');
SET client_min_messages = warning;
SELECT audience.event_ingest('{"userId":"p","eventId":"p","eventType":"visit"}');
SELECT count(*) FROM audience.transitions WHERE user_id = 'p';
SELECT audience.segment_create('Today', 'lastActivity WITHIN LAST ''1 day''');
SELECT audience.segment_count('today');
SET audience.now = '2026-03-02T12:00:01Z';
SELECT pg_temp.try('SELECT audience.run_due(1)');
DROP PUBLICATION bounds;
SELECT audience.run_due(1);
SELECT * FROM audience.verify();
