--
-- So many segments that they are not looked at one by one: what blocks them
-- (blockers.c) must not hide a change.  Rules of all shapes over values of all
-- kinds, at constants, beside them and far from them.  The oracle is |=, which
-- evaluates a rule alone.
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
-- the i-th of these, the same at each run
CREATE FUNCTION pg_temp.pick(seed text, VARIADIC choices text[]) RETURNS text LANGUAGE sql AS
	'SELECT choices[1 + (''x'' || md5(seed))::bit(31)::integer % cardinality(choices)]';
CREATE FUNCTION pg_temp.number(seed text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.pick(seed, '-1', '0', '0.5', '1', '2', '2.9999999999999999', '3', '3.0000000000000001', '4', '5', '7', '10', '11.25', '20', '100', '1e40')
$$;
CREATE FUNCTION pg_temp.word(seed text) RETURNS text LANGUAGE sql AS $$
	SELECT pg_temp.pick(seed, 'DE', 'de', 'US', 'FR', '3', '', 'Dearborn')
$$;
-- a predicate over a number, a text, or anything
CREATE FUNCTION pg_temp.leaf(seed text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN x < 6 THEN
		format(pg_temp.pick(seed || 'o', '%1$s = %2$s', '%1$s != %2$s', '%1$s > %2$s', '%1$s >= %2$s', '%1$s < %2$s', '%1$s <= %2$s',
				'%1$s BETWEEN %2$s AND %3$s', '%1$s IN (%2$s, %3$s, ''DE'')', '%1$s NOT IN (%2$s, %3$s)', '%1$s IS NULL', '%1$s IS NOT NULL'),
			pg_temp.pick(seed || 'f', 'n', 'm', 'amount', 'bought', 'seen7', 'spent', 'lastn', 'count(buy, LAST ''3 days'')', 'max(buy.amount)'),
			least(pg_temp.number(seed || 'a')::numeric, pg_temp.number(seed || 'b')::numeric),
			greatest(pg_temp.number(seed || 'a')::numeric, pg_temp.number(seed || 'b')::numeric))
	WHEN x < 10 THEN
		format(pg_temp.pick(seed || 'o', '%1$s = %2$L', '%1$s != %2$L', '%1$s IN (%2$L, %3$L)', '%1$s NOT IN (%2$L, %3$L)',
				'%1$s STARTS WITH ''D''', '%1$s = %2$L CI', '%1$s IS NOT NULL', '%1$s IS NULL', '%1$s = TRUE', '%1$s = FALSE', '%1$s IS EMPTY'),
			pg_temp.pick(seed || 'f', 'country', 'plan', 'n', 'tags', 'lastc', 'lastn'), pg_temp.word(seed || 'a'), pg_temp.word(seed || 'b') || 'x')
	WHEN x < 11 THEN
		format(pg_temp.pick(seed || 'o', '%s WITHIN LAST ''%s days''', 'NOT (%s WITHIN LAST ''%s days'')'),
			pg_temp.pick(seed || 'f', 'lastBuy', 'when', 'last_time(buy)'), pg_temp.pick(seed || 'd', '1', '2', '3', '5', '6'))
	ELSE pg_temp.pick(seed || 'o', 'IN SEGMENT ''a1''', 'NOT IN SEGMENT ''a2''', 'SAMPLE(30, ''x'')', 'TRUE') END
	FROM (SELECT ('x' || md5(seed || 'k'))::bit(31)::integer % 12 AS x) k
$$;
CREATE FUNCTION pg_temp.rule(seed text) RETURNS text LANGUAGE sql AS $$
	SELECT format(pg_temp.pick(seed || 's', '%1$s', '%1$s AND %2$s', '%1$s AND %2$s', '%1$s AND NOT (%2$s)', '%1$s OR %2$s', '%1$s AND (%2$s OR %3$s)',
			'NOT (%1$s OR %2$s)', 'NONE(%1$s, %2$s)', 'NOT (%1$s AND %2$s)', 'ALL(%1$s, ANY(%2$s), NOT (NONE(%3$s)))', 'NOT (NOT (%1$s) OR NOT (%2$s))'),
		pg_temp.leaf(seed || '1'), pg_temp.leaf(seed || '2'), pg_temp.leaf(seed || '3'))
$$;
SELECT pg_temp.rule('1'), pg_temp.rule('4');
SELECT audience.trait_create('bought', 'count', 'buy'), audience.trait_create('seen7', 'count', 'see', time_window => '7 days'),
	audience.trait_create('amount', 'sum', 'buy', 'amount'), audience.trait_create('spent', 'sum', 'buy', 'amount', time_window => '5 days'),
	audience.trait_create('lastn', 'last', 'buy', 'amount'), audience.trait_create('lastc', 'last', 'see', 'c'),
	audience.trait_create('lastBuy', 'last_time', 'buy');
SELECT audience.segment_create('a1', 'bought >= 2 AND country = ''DE'''), audience.segment_create('a2', 'seen7 >= 1');
SELECT count(audience.segment_create('s' || i, pg_temp.rule(i::text)::audience.rule)) FROM generate_series(1, 400) i;

-- users come, by events or by attributes
CREATE FUNCTION pg_temp.attributes(seed text) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
		'country', CASE WHEN length(pg_temp.word(seed || 'c')) > 0 THEN pg_temp.word(seed || 'c') END,
		'plan', pg_temp.pick(seed || 'p', 'true', 'false', '"DE"', '"US"', '"Dearborn"', 'null', '[]')::jsonb,
		'n', pg_temp.pick(seed || 'n', '3', '"3"', '2.5', '-7', 'true', '"DE"', '["DE", 3]', '1e40', '0', '10')::jsonb,
		'm', pg_temp.number(seed || 'm')::numeric,
		'tags', pg_temp.pick(seed || 't', '["DE", "x"]', '[]', '"FRx"', '{"a": 1}', '[3]')::jsonb,
		'when', pg_temp.pick(seed || 'w', '"2026-02-28T00:00:00Z"', '"2026-03-03T00:00:00Z"', '"never"')::jsonb))
$$;
CREATE PROCEDURE pg_temp.events(step integer) LANGUAGE sql AS $$
	INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
	SELECT 'u' || pg_temp.pick(step || 'u' || i, '1', '2', '3', '4', '5', '6', '7', '8', '9'),
		audience.now() - i % 5 * interval '11 hours', step || '-' || i, pg_temp.pick(step || 'e' || i, 'buy', 'see'),
		jsonb_build_object('amount', pg_temp.pick(step || 'a' || i, '1', '2', '0.5', '3', '-1', '"DE"', '2.9999999999999999', 'true', 'null', '1e39')::jsonb,
			'c', pg_temp.word(step || 'c' || i))
	FROM generate_series(1, 15) i
$$;
CREATE FUNCTION pg_temp.wrong() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s %s %s: %s', audience.now(), p.user_id, s.id, s.rules) FROM audience.profiles p, audience.segments s
	WHERE (p OPERATOR(audience.|=) s.rules) <> (audience.member_since(p.members, s.number) IS NOT NULL)
$$;
SELECT audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', 'u' || i, 'attributes', pg_temp.attributes(i::text))) FROM generate_series(1, 6) i));
SELECT * FROM pg_temp.wrong();
CALL pg_temp.events(0);
SELECT * FROM pg_temp.wrong();

-- and move: by events, attributes, and time
CREATE PROCEDURE pg_temp.move(steps integer, pace interval, active boolean) LANGUAGE plpgsql AS $$
DECLARE
	problem text;
BEGIN
	FOR step IN 1..steps LOOP
		PERFORM set_config('audience.now', audience.timestamp_text(audience.now() + pace), false);
		IF active THEN
			CALL pg_temp.events(step);
			PERFORM audience.profile_set('u' || i, pg_temp.attributes(step || '/' || i)) FROM generate_series(1, 9, 1 + step % 4) i;
		END IF;
		PERFORM audience.run_due();
		SELECT w INTO problem FROM pg_temp.wrong() w LIMIT 1;
		IF problem IS NOT NULL THEN
			RAISE EXCEPTION 'step %: %', step, problem;
		END IF;
	END LOOP;
END $$;
CALL pg_temp.move(40, '17 hours', true);
-- time alone: whoever changes has a timer, though not every leaf that turns has one
CALL pg_temp.move(40, '5 hours 20 minutes', false);
CALL pg_temp.move(5, '17 hours', true);
CALL pg_temp.move(10, '25 hours 1 second', false);
SELECT * FROM audience.verify();
SELECT audience.profile_rebuild();
SELECT count(*) FROM audience.transitions WHERE reason = 'refresh';
-- that segments were changed at all, both ways
SELECT count(*) > 2000, count(DISTINCT segment_id) > 250, count(DISTINCT action) FROM audience.transitions WHERE reason = 'rule_evaluation';
SELECT count(*) > 100 FROM audience.transitions WHERE reason = 'expired';
