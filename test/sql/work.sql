--
-- How much the engine does: guards that count work, so that what has become slow
-- is seen without a clock.
--
-- A case runs a statement and notes what the engine counted (engine_work), and
-- what PostgreSQL counted for the extension's own tables and indexes.  Who has
-- the engine do less writes the new numbers to expected/work.out; more wants a
-- reason.
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
CREATE TEMPORARY TABLE work (place serial, world text, case_name text, counter text, value bigint);
CREATE TEMPORARY VIEW table_work AS
SELECT relname || ': ' || what AS counter, value
FROM pg_class, LATERAL (VALUES
	(CASE WHEN relkind = 'i' THEN 'index scans' ELSE 'sequential scans' END, pg_stat_get_xact_numscans(oid)),
	('rows inserted', pg_stat_get_xact_tuples_inserted(oid)),
	('rows updated', pg_stat_get_xact_tuples_updated(oid)),
	('rows deleted', pg_stat_get_xact_tuples_deleted(oid))) v (what, value)
WHERE relnamespace = 'audience'::regnamespace AND relkind IN ('r', 'i');
-- notes what a statement takes
CREATE FUNCTION pg_temp.measure(world text, case_name text, statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	before jsonb;
BEGIN
	SELECT jsonb_object_agg(t.counter, t.value) INTO before FROM pg_temp.table_work t;
	PERFORM audience.engine_work_reset();
	EXECUTE statement;
	INSERT INTO work (world, case_name, counter, value)
	SELECT measure.world, measure.case_name, w.counter, w.value FROM audience.engine_work() w
	WHERE w.value <> 0
	UNION ALL
	(SELECT measure.world, measure.case_name, t.counter, t.value - coalesce((before ->> t.counter)::bigint, 0)
	FROM pg_temp.table_work t WHERE t.value <> coalesce((before ->> t.counter)::bigint, 0)
	ORDER BY t.counter COLLATE "C");
END $$;
-- the same for one case, shown; bytes depend on the machine
CREATE FUNCTION pg_temp.work_of(statement text) RETURNS TABLE (counter text, value bigint) LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM work w WHERE w.world = 'one';
	PERFORM pg_temp.measure('one', 'one', statement);
	RETURN QUERY SELECT w.counter, w.value FROM work w
		WHERE w.world = 'one' AND w.counter !~ 'bytes|largest' ORDER BY w.place;
END $$;
-- a counter of that case
CREATE FUNCTION pg_temp.last_work(counter text) RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce((SELECT w.value FROM work w WHERE w.world = 'one' AND w.counter = last_work.counter), 0)
$$;
CREATE FUNCTION pg_temp.tick(step interval) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('audience.now', audience.timestamp_text(audience.now() + step), false)
$$;
-- statements: so many events of so many users, in turns
CREATE FUNCTION pg_temp.events(users text, nusers int, nevents int, type text) RETURNS text LANGUAGE sql AS $$
	SELECT format('INSERT INTO audience.events (user_id, event_type, event_id, properties) '
		'SELECT %L || to_char(n %% %s, ''FM0000''), %L, %L || n, ''{"amount":1,"page":"home"}'' FROM generate_series(1, %s) n',
		users, nusers, type, 'e' || gen_random_uuid(), nevents)
$$;
-- segments s<first> to s<last>, as segment_create makes them, but in one go;
-- their constants are out of everybody's reach
CREATE FUNCTION pg_temp.make_segments(first int, last int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	added int[];
BEGIN
	PERFORM audience.definitions_change();
	WITH made AS (
		INSERT INTO audience.segment_numbers (segment_id)
		SELECT 's' || n FROM generate_series(first, last) n ORDER BY n
		RETURNING number, segment_id
	)
	INSERT INTO audience.segments (id, name, type, number, rules)
	SELECT segment_id, segment_id, 'dynamic', number, CASE n % 7
		WHEN 0 THEN format('totalSpent > %s', 1000000 + n)
		WHEN 1 THEN format('count(view) >= %s AND NOT country = ''c%s''', 1000000 + n, n)
		WHEN 2 THEN format('count(view, LAST ''7 days'') >= %s', 1000000 + n)
		WHEN 3 THEN format('sum(purchase.amount, LAST ''30 days'') > %s', 1000000 + n)
		WHEN 4 THEN format('last(view.page) = ''p%s'' OR country = ''c%s''', n, n)
		WHEN 5 THEN format('last_time(view) BEFORE LAST ''%s days''', 100 + n)
		ELSE format('IN SEGMENT ''s%s'' AND eventCount > %s', n - 1, 1000000 + n) END::audience.rule
	FROM made, substr(segment_id, 2) d, CAST(d AS int) n;
	added := ARRAY(SELECT a FROM audience.segments s, unnest(audience.aggregates_add(s.rules)) a);
	PERFORM audience.fill_now(ARRAY(SELECT number FROM audience.segments), added, 'backfill', 'expired');
END $$;
CREATE FUNCTION pg_temp.run_cases(world text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	c record;
BEGIN
	FOR c IN
		SELECT * FROM (VALUES
			(1, NULL, 'view', 1000, 1000),
			(2, NULL, 'purchase', 1000, 1000),
			(3, '1 event of a known user', 'view', 1, 1),
			(4, '1,000 events of 1,000 known users', 'view', 1000, 1000),
			(5, '1,000 events of 100 known users', 'purchase', 1000, 100),
			(6, '1,000 events of 1 known user', 'view', 1000, 1),
			(7, '1,000 events of a type that no rule names', 'unheard of', 1000, 1000)
		) c (place, case_name, type, events, users)
		ORDER BY place
	LOOP
		PERFORM pg_temp.tick('1 minute');
		IF c.case_name IS NULL THEN
			EXECUTE pg_temp.events('u', c.users, c.events, c.type);
		ELSE
			PERFORM pg_temp.measure(world, c.case_name, pg_temp.events('u', c.users, c.events, c.type));
		END IF;
	END LOOP;
END $$;
-- a new extension, and the memory of no other.  Vacuum and analyze would have
-- definitions loaded, and statements planned, anew.
CREATE FUNCTION pg_temp.new_world() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	relation regclass;
BEGIN
	DROP EXTENSION audience_manager;
	CREATE EXTENSION audience_manager;
	FOR relation IN SELECT oid FROM pg_class WHERE relnamespace = 'audience'::regnamespace AND relkind = 'r' LOOP
		EXECUTE format('ALTER TABLE %s SET (autovacuum_enabled = off)', relation);
	END LOOP;
END $$;
-- A statement of more events than a batch takes, of known users.  (It also has
-- the session remember where many rows are, so that those below find it alike.)
SELECT pg_temp.new_world();
SELECT pg_temp.make_segments(1, 14);
DO $$ BEGIN EXECUTE pg_temp.events('large', 5000, 5000, 'view'); END $$;
SELECT * FROM pg_temp.work_of(pg_temp.events('large', 5000, 25000, 'view'));
SELECT pg_temp.last_work('largest_batch') < 20000 * 700 AS bounded;

-- Where nobody enters or leaves: first in a world of 14 segments, then in one
-- of 1,400.
SELECT pg_temp.new_world();
SELECT pg_temp.make_segments(1, 14);
SELECT pg_temp.run_cases('few');
SELECT pg_temp.new_world();
SELECT pg_temp.make_segments(1, 1400);
SELECT pg_temp.run_cases('many');
SELECT case_name, counter, value FROM work WHERE world = 'few' AND counter !~ 'bytes|largest' ORDER BY place;
-- a hundred times the segments make no more work
SELECT case_name, counter, few.value, many.value
FROM (SELECT * FROM work WHERE world = 'few') few
FULL JOIN (SELECT * FROM work WHERE world = 'many') many USING (case_name, counter)
WHERE counter !~ 'bytes|largest' AND few.value IS DISTINCT FROM many.value
ORDER BY few.place, many.place;
-- and each takes a batch at most 60 bytes
SELECT case_name, many.value - few.value AS bytes
FROM work few JOIN work many USING (case_name, counter)
WHERE few.world = 'few' AND many.world = 'many' AND counter = 'largest_batch'
	AND many.value - few.value > (1400 - 14) * 60;
-- bytes an event: of a batch, of one user in it, and before there is a batch
SELECT world, case_name, counter, value
FROM work
WHERE case_name ~ '^1,000' AND value > 1000 * CASE counter
	WHEN 'largest_batch' THEN 500 WHEN 'largest_user' THEN 300 WHEN 'event_bytes' THEN 400 END;
-- users who are new: the rules that nothing they have blocks
SELECT * FROM pg_temp.work_of(pg_temp.events('new', 100, 100, 'view'));
SELECT pg_temp.last_work('largest_user') <= 16 * 1024 AS bounded;

-- What turns over, and no more: three thresholds of 400.
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u0001', 'purchase', '{"amount":1000000}')$$);
SELECT segment_id FROM audience.user_segments('u0001') ORDER BY 1;
-- nothing is settled anew for who is in segments
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u0001', 'purchase', '{"amount":0}')$$);
-- a new attribute, which no rule names: no leaf
SELECT * FROM pg_temp.work_of($$SELECT audience.profile_set('u0001', '{"language":"eo"}')$$);

-- Definitions: loaded once a change, and once more by who made it, after the
-- commit; not by every statement.
SELECT audience.segment_create('clicks', 'count(click, LAST ''7 days'') >= 1000000');
SELECT audience.segment_create('clicked', 'sum(click.amount, LAST ''7 days'') >= 1000000');
SELECT audience.engine_work_reset();
INSERT INTO audience.events (user_id, event_type) VALUES ('u0001', 'view');
SELECT counter, value FROM audience.engine_work() WHERE counter IN ('definition_loads', 'sql_statements');
INSERT INTO audience.events (user_id, event_type) VALUES ('u0001', 'view');
SELECT counter, value FROM audience.engine_work() WHERE counter IN ('definition_loads', 'sql_statements');
SELECT value < 1400 * 1024 AS bounded FROM audience.engine_work() WHERE counter = 'definition_bytes';

-- ten segments in one transaction: ten times
SELECT audience.engine_work_reset();
DO $$
BEGIN
	FOR n IN 1 .. 10 LOOP
		PERFORM audience.segment_create('together ' || n, 'count(click, LAST ''7 days'') >= 1000000');
	END LOOP;
END $$;
SELECT counter, value FROM audience.engine_work() WHERE counter IN ('definition_loads', 'sql_statements');
INSERT INTO audience.events (user_id, event_type) VALUES ('u0001', 'view');

-- Windows of few events, all of which leave: none is read.
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type) SELECT 'short' || n, 'click' FROM generate_series(1, 9) n, generate_series(1, 15)$$);
SELECT pg_temp.tick('8 days');
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type) SELECT 'short' || n, 'click' FROM generate_series(1, 9) n$$);

-- Timers.
CREATE FUNCTION pg_temp.each_minute(nevents int, users text, type text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. nevents LOOP
		PERFORM pg_temp.tick('1 minute');
		INSERT INTO audience.events (user_id, event_type, properties) VALUES (users, type, '{"amount":1}');
	END LOOP;
END $$;
SELECT audience.segment_create('recent', 'last_time(login) WITHIN LAST ''1 day''');
SELECT audience.run_due();
SELECT * FROM pg_temp.work_of('SELECT audience.run_due()');
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type) VALUES ('one', 'login')$$);
-- activity that pushes the instant back
SELECT * FROM pg_temp.work_of($$SELECT pg_temp.each_minute(100, 'one', 'login')$$);
-- a timer that comes too early
SELECT pg_temp.tick('1 day -1 minute');
SELECT * FROM pg_temp.work_of('SELECT audience.run_due()');
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type) SELECT 'a' || n, 'login' FROM generate_series(1, 100) n$$);
-- 101 that come in time; from PostgreSQL 17 on one scan of an index finds many keys
SELECT pg_temp.tick('1 day');
SELECT * FROM pg_temp.work_of('SELECT audience.run_due()') WHERE counter <> 'profiles_pkey: index scans';
SELECT pg_temp.last_work('profiles_pkey: index scans') BETWEEN 1 AND 101;
-- nobody is left
SELECT * FROM pg_temp.work_of('SELECT audience.run_due()');

-- A window of 10,000 events.
SELECT * FROM pg_temp.work_of($$
	INSERT INTO audience.events (user_id, event_type, occurred_at, properties)
	SELECT 'long', 'click', audience.now() - (10000 - n) * interval '1 minute', '{"amount":1}' FROM generate_series(1, 10000) n$$);
-- none leaves yet
SELECT * FROM pg_temp.work_of($$INSERT INTO audience.events (user_id, event_type, properties) VALUES ('long', 'click', '{"amount":1}')$$);
-- one leaves each minute: the events are read once for sixteen
SELECT pg_temp.tick('80 minutes');
SELECT * FROM pg_temp.work_of($$SELECT pg_temp.each_minute(160, 'long', 'click')$$);
SELECT pg_temp.last_work('largest_user') <= 16 * 1024 AS bounded;
-- an extreme is kept with the values below it: what has left is read
SELECT audience.segment_create('big_click', 'max(click.amount, LAST ''7 days'') >= 1000000');
SELECT audience.event_ingest('{"userId":"long","eventId":"one more","eventType":"click"}');
SELECT * FROM pg_temp.work_of($$SELECT pg_temp.each_minute(16, 'long', 'click')$$);
-- also by time alone
SELECT pg_temp.tick('16 minutes');
SELECT * FROM pg_temp.work_of('SELECT audience.run_due()');
SELECT * FROM audience.verify();

-- Who may ask, and from when on is counted.
SELECT proname FROM pg_proc
WHERE pronamespace = 'audience'::regnamespace AND proname ~ '^engine_work' AND (has_function_privilege('public', oid, 'EXECUTE') OR prosecdef);
SELECT audience.engine_work_reset();
SELECT * FROM audience.engine_work();
