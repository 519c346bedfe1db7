--
-- Time: memberships that begin and end by themselves, to the microsecond
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SET intervalstyle = postgres;
CREATE FUNCTION pg_temp.set_now(at timestamptz) RETURNS void LANGUAGE sql AS $$
	SELECT set_config('audience.now', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), false)
$$;
-- what is wrong is raised, and what was done so undone
CREATE FUNCTION pg_temp.check_problems(label text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	problems text := (SELECT string_agg(v::text, ' ') FROM audience.verify() v);
BEGIN
	IF problems IS NOT NULL THEN
		RAISE EXCEPTION '%: %', label, problems USING ERRCODE = 'AU001';
	END IF;
END $$;
CREATE FUNCTION pg_temp.is_in() RETURNS boolean LANGUAGE sql AS $$
	SELECT EXISTS (SELECT FROM audience.memberships WHERE user_id = 'u' AND segment_id = 's')
$$;
-- makes segment "s" of the rule and user "u", in one of three orders
CREATE FUNCTION pg_temp.set_up(variant int, rule text, attributes jsonb, events text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF variant = 1 THEN
		PERFORM audience.segment_create('s', rule::audience.rule);
	ELSIF variant = 3 THEN
		PERFORM audience.segment_create('s', rule::audience.rule, active => false);
	END IF;
	PERFORM audience.profile_set('u', attributes);
	PERFORM audience.events_ingest(jsonb_agg(jsonb_build_object('userId', 'u', 'eventId', 'e' || n, 'eventType', m[1],
		'timestamp', (timestamptz '2026-03-01 00:00Z' + m[2]::numeric * interval '1 hour') AT TIME ZONE 'UTC',
		'properties', coalesce(m[3], '{}')::jsonb)))
	FROM unnest(events) WITH ORDINALITY e (spec, n), regexp_match(spec, '^(\w+)@([-\d.]+)({.*})?$') m
	HAVING count(*) > 0;
	IF variant = 2 THEN
		PERFORM audience.segment_create('s', rule::audience.rule);
	ELSIF variant = 3 THEN
		PERFORM audience.segment_update('s', active => true);
	END IF;
END $$;
-- When a user with these attributes and events (type@hour{properties}, hours
-- from T0, 2026-03-01 00:00Z) enters and leaves a rule's segment by time alone,
-- as intervals since T0.  It is found by one late run_due, once for each order
-- in which segment, attributes and events may come; and then, step by step, a
-- microsecond before each moment, at it and a microsecond after; and compared
-- with the rule's value as of every third hour.
CREATE FUNCTION pg_temp.course(rule text, attributes jsonb, VARIADIC events text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	t0 CONSTANT timestamptz := '2026-03-01 00:00Z';
	late CONSTANT timestamptz := t0 + interval '3650 days';
	begun boolean;
	moments timestamptz[];
	first_moments timestamptz[];
	result text;
	problem text;
	due bigint;
	m timestamptz;
	expected boolean;
BEGIN
	FOR variant IN 1 .. 3 LOOP
		BEGIN
			PERFORM pg_temp.set_now(t0);
			PERFORM pg_temp.set_up(variant, rule, attributes, events);
			begun := pg_temp.is_in();
			IF audience.run_due() <> 0 THEN
				RAISE EXCEPTION 'due at T0' USING ERRCODE = 'AU001';
			END IF;
			PERFORM pg_temp.set_now(late);
			PERFORM audience.run_due();
			PERFORM pg_temp.check_problems('after run_due');
			moments := coalesce((SELECT array_agg(t.occurred_at ORDER BY t.seq) FROM audience.transitions t WHERE t.reason = 'expired'), '{}');
			result := concat_ws(', ', CASE WHEN begun THEN 'in' ELSE 'out' END, (
				SELECT string_agg(CASE t.action WHEN 'added' THEN 'in at ' ELSE 'out at ' END || t.occurred_at - t0, ', ' ORDER BY t.seq)
				FROM audience.transitions t WHERE t.reason = 'expired'));
			IF audience.run_due() <> 0 THEN
				RAISE EXCEPTION 'due once more' USING ERRCODE = 'AU001';
			END IF;
			IF EXISTS (SELECT FROM audience.transitions t JOIN audience.memberships USING (user_id, segment_id)
				WHERE t.seq = (SELECT max(seq) FROM audience.transitions) AND entered_at <> occurred_at OR event_id IS NOT NULL AND reason = 'expired') THEN
				RAISE EXCEPTION 'wrong entered_at or event_id' USING ERRCODE = 'AU001';
			END IF;
			RAISE EXCEPTION USING ERRCODE = 'AU000';
		EXCEPTION
			WHEN SQLSTATE 'AU000' THEN
				first_moments := coalesce(first_moments, moments);
				IF moments <> first_moments THEN
					problem := concat_ws('; ', problem, format('order %s: %s', variant, result));
				END IF;
			WHEN SQLSTATE 'AU001' THEN
				problem := concat_ws('; ', problem, format('order %s: %s', variant, sqlerrm));
		END;
	END LOOP;
	-- step by step
	BEGIN
		PERFORM pg_temp.set_now(t0);
		PERFORM pg_temp.set_up(1, rule, attributes, events);
		begun := pg_temp.is_in();
		FOR h IN 1 .. 60 LOOP
			m := t0 + h * interval '3 hours';
			PERFORM pg_temp.set_now(m);
			expected := begun <> ((SELECT count(*) FROM unnest(moments) i WHERE i <= m) % 2 = 1);
			IF expected <> (SELECT p OPERATOR(audience.|=) rule::audience.rule FROM audience.profiles p) THEN
				RAISE EXCEPTION 'at % it should be %', m - t0, NOT expected USING ERRCODE = 'AU001';
			END IF;
		END LOOP;
		FOREACH m IN ARRAY moments LOOP
			PERFORM pg_temp.set_now(m - interval '1 microsecond');
			PERFORM audience.run_due();
			IF pg_temp.is_in() <> begun THEN
				RAISE EXCEPTION 'too early at %', m - t0 USING ERRCODE = 'AU001';
			END IF;
			PERFORM pg_temp.set_now(m);
			due := audience.run_due();
			begun := NOT begun;
			IF due <> 1 OR pg_temp.is_in() <> begun OR (SELECT t.occurred_at FROM audience.transitions t ORDER BY seq DESC LIMIT 1) <> m THEN
				RAISE EXCEPTION 'not at %', m - t0 USING ERRCODE = 'AU001';
			END IF;
			PERFORM pg_temp.check_problems('at ' || m - t0);
			PERFORM pg_temp.set_now(m + interval '1 microsecond');
			PERFORM audience.run_due();
			IF pg_temp.is_in() <> begun AND NOT m + interval '1 microsecond' = ANY (moments) THEN
				RAISE EXCEPTION 'back after %', m - t0 USING ERRCODE = 'AU001';
			END IF;
		END LOOP;
		RAISE EXCEPTION USING ERRCODE = 'AU000';
	EXCEPTION
		WHEN SQLSTATE 'AU000' THEN NULL;
		WHEN SQLSTATE 'AU001' THEN
			problem := concat_ws('; ', problem, 'step by step: ' || sqlerrm);
	END;
	PERFORM pg_temp.set_now(t0);
	RETURN coalesce(result || '; PROBLEM: ' || problem, result);
END $$;

-- windows lose events: each aggregate, leaving and entering
SELECT pg_temp.course('count(a, LAST ''2 days'') >= 2', '{}', 'a@-24', 'a@-36');
SELECT pg_temp.course('count(a, LAST ''2 days'') = 1', '{}', 'a@-24', 'a@-36');
SELECT pg_temp.course('count(a, LAST ''2 days'') = 0', '{}', 'a@-24', 'a@-36');
SELECT pg_temp.course('count(a, LAST ''2 days'') = 0', '{}', 'b@-24');
SELECT pg_temp.course('count(a, LAST ''2 days'') <= 3', '{}', 'a@-40', 'a@-40', 'a@-40', 'a@-30', 'a@-30', 'a@-30', 'a@-30', 'a@-30', 'a@-20');
SELECT pg_temp.course('NOT count(a, LAST ''2 days'') BETWEEN 1 AND 2', '{}', 'a@-24', 'a@-36', 'a@-40');
SELECT pg_temp.course('count(*.v, LAST ''2 days'') != 1', '{}', 'a@-24{"v":null}', 'a@-36{"v":1}', 'b@-40{"v":2}');
SELECT pg_temp.course('count(a WHERE v > 1, LAST ''2 days'') >= 1', '{}', 'a@-24{"v":1}', 'a@-36{"v":2}');
SELECT pg_temp.course('sum(a.v, LAST ''2 days'') > 5', '{}', 'a@-24{"v":5}', 'a@-36{"v":-1}', 'a@-40{"v":3}', 'a@-42{"v":-7}');
SELECT pg_temp.course('sum(a.v, LAST ''2 days'') = 0', '{}', 'a@-24{"v":5}', 'a@-36{"v":-5}', 'a@-47{"v":1}');
SELECT pg_temp.course('avg(a.v, LAST ''2 days'') >= 3', '{}', 'a@-24{"v":2}', 'a@-36{"v":4}', 'a@-40{"v":1}');
SELECT pg_temp.course('min(a.v, LAST ''2 days'') > 1', '{}', 'a@-24{"v":3}', 'a@-36{"v":1}', 'a@-40{"v":5}');
SELECT pg_temp.course('max(a.v, LAST ''2 days'') < 4', '{}', 'a@-24{"v":3}', 'a@-36{"v":4}', 'a@-40{"v":5}');
SELECT pg_temp.course('count_distinct(a.v, LAST ''2 days'') = 1', '{}', 'a@-24{"v":3}', 'a@-30{"v":"x"}', 'a@-40{"v":3}');
SELECT pg_temp.course('most_frequent(a.v, LAST ''2 days'') = ''x''', '{}', 'a@-24{"v":"y"}', 'a@-30{"v":"x"}', 'a@-40{"v":"y"}', 'a@-42{"v":"x"}', 'a@-43{"v":"x"}');
SELECT pg_temp.course('days_active(a, LAST ''3 days'') >= 2', '{}', 'a@-1', 'a@-20', 'a@-30', 'a@-40');
SELECT pg_temp.course('first(a.v, LAST ''2 days'') = 2', '{}', 'a@-24{"v":3}', 'a@-30{"v":2}', 'a@-40{"v":1}');
SELECT pg_temp.course('last(a.v, LAST ''2 days'') = 3', '{}', 'a@-24{"v":3}', 'a@-30{"v":2}');
SELECT pg_temp.course('NOT last(a.v, LAST ''2 days'') = 3', '{}', 'a@-24{"v":3}', 'a@-30{"v":2}');
SELECT pg_temp.course('first_time(a, LAST ''2 days'') AT OR AFTER ''2026-02-28''', '{}', 'a@-24', 'a@-30');
SELECT pg_temp.course('last_time(a, LAST ''2 days'') IS NULL', '{}', 'a@-24', 'a@-30');
-- two windows, one rule; an event ahead of now; windows of a microsecond and of ages
SELECT pg_temp.course('count(a, LAST ''1 day'') = 0 AND count(a, LAST ''3 days'') > 0', '{}', 'a@-12');
SELECT pg_temp.course('count(a, LAST ''1 day'') >= 1', '{}', 'a@1');
SELECT pg_temp.course('count(a, LAST 0.000001) >= 1', '{}', 'a@0');
SELECT pg_temp.course('count(a, LAST ''36600000 days'') >= 1', '{}', 'a@0');
-- fixed windows: nothing turns by time
SELECT pg_temp.course('count(a, FROM ''2026-02-28'' TO ''2026-03-02'') >= 1', '{}', 'a@-12');
SELECT pg_temp.course('count(a, FROM ''2026-03-01T12:00:00Z'') = 0', '{}', 'a@1');
SELECT pg_temp.course('until BEFORE ''2026-03-02''', '{"until":"2026-03-01T12:00:00Z"}');

-- attributes: each operator; timestamps ahead; arrays, paths, objects
SELECT pg_temp.course('until WITHIN LAST ''2 days''', '{"until":"2026-02-28"}');
SELECT pg_temp.course('until BEFORE LAST ''2 days''', '{"until":"2026-02-28"}');
SELECT pg_temp.course('until WITHIN NEXT ''2 days''', '{"until":"2026-03-04T00:00:00.000001Z"}');
SELECT pg_temp.course('until AFTER NEXT ''2 days''', '{"until":"2026-03-04T00:00:00.000001Z"}');
SELECT pg_temp.course('until WITHIN LAST ''2 days''', '{"until":"2026-03-01T05:00:00+01:00"}');
SELECT pg_temp.course('NOT until WITHIN LAST ''2 days''', '{"until":"2026-03-01T05:00:00+01:00"}');
SELECT pg_temp.course('NOT until WITHIN NEXT 60', '{"until":"2026-03-01 00:00:00.0000006"}');
SELECT pg_temp.course('until BEFORE LAST ''2 days''', '{"until":"2026-03-04"}');
SELECT pg_temp.course('NONE(until AFTER NEXT ''2 days'', until BEFORE LAST 3600)', '{"until":"2026-03-04"}');
SELECT pg_temp.course('dates WITHIN NEXT ''1 day''', '{"dates":["2026-03-03", "x", null, ["2026-03-09"], 7, "2026-03-07", {"d":"2026-03-09"}]}');
SELECT pg_temp.course('NOT dates WITHIN LAST ''1 day''', '{"dates":["2026-03-01", "2026-03-03"]}');
SELECT pg_temp.course('dates[1] AFTER NEXT ''1 day''', '{"dates":["2026-03-09", "2026-03-03"]}');
SELECT pg_temp.course('orders[*].due WITHIN NEXT ''1 day''', '{"orders":[{"due":"2026-03-03"}, {"x":1}, {"due":["2026-03-06", "2026-03-08T12:00Z"]}]}');
SELECT pg_temp.course('a."b.c".d BEFORE LAST ''1 day''', '{"a":{"b.c":{"d":"2026-03-03"}}}');
SELECT pg_temp.course('until WITHIN NEXT ''1 day'' OR since WITHIN LAST ''2 days''', '{"until":"2026-03-04","since":"2026-03-01"}');

-- aggregates that are instants, and values that hold timestamps
SELECT pg_temp.course('last_time(a) WITHIN LAST ''1 day''', '{}', 'a@-12', 'a@-6', 'b@0');
SELECT pg_temp.course('last_time(a) BEFORE LAST ''1 day''', '{}', 'a@-12', 'a@1');
SELECT pg_temp.course('NOT first_time(a) WITHIN LAST ''1 day''', '{}', 'a@-12', 'a@-6');
SELECT pg_temp.course('last_time(a) WITHIN NEXT ''10 minutes''', '{}', 'a@1');
SELECT pg_temp.course('last_time(a, LAST ''2 days'') BEFORE LAST ''1 day''', '{}', 'a@-12', 'a@-6');
SELECT pg_temp.course('first_time(a, LAST ''2 days'') WITHIN LAST ''1 day''', '{}', 'a@-30', 'a@-6');
SELECT pg_temp.course('last(a.expires) WITHIN NEXT ''1 day''', '{}', 'a@-6{"expires":"2026-03-05"}', 'a@-12{"expires":"2026-03-03"}');
SELECT pg_temp.course('most_frequent(a.expires, LAST ''5 days'') WITHIN NEXT ''1 day''', '{}', 'a@-6{"expires":["2026-03-03"]}', 'a@-12{"expires":["2026-03-08"]}', 'a@-13{"expires":["2026-03-03"]}');
SELECT pg_temp.course('lastActivity BEFORE LAST ''1 day''', '{}', 'b@-12');

-- "where" that looks at the clock
SELECT pg_temp.course('count(a WHERE expires WITHIN NEXT ''3 days'') >= 1', '{}', 'a@-6{"expires":"2026-03-05"}', 'a@-9{"expires":"2026-03-09"}');
SELECT pg_temp.course('count(a WHERE NOT expires AFTER NEXT ''3 days'') = 2', '{}', 'a@-6{"expires":"2026-03-05"}', 'a@-9{"expires":"2026-03-09"}');
SELECT pg_temp.course('count(* WHERE $time WITHIN LAST ''1 day'') >= 1', '{}', 'a@-6', 'b@-12', 'c@1');
SELECT pg_temp.course('sum(a.v WHERE $time BEFORE LAST ''1 day'', LAST ''2 days'') > 1', '{}', 'a@-6{"v":1}', 'a@-12{"v":1}');
SELECT pg_temp.course('last(a.v WHERE $time BEFORE LAST ''1 day'') = 2', '{}', 'a@-6{"v":1}', 'a@-12{"v":2}');
SELECT pg_temp.course('count_distinct(a.v WHERE dates[*] WITHIN LAST ''1 day'') = 1', '{}', 'a@-6{"v":1,"dates":["2026-03-02", "2026-03-04"]}', 'a@-12{"v":2,"dates":["2026-03-02T12:00Z"]}');
SELECT pg_temp.course('days_active(* WHERE ALL($type = ''a'', $time WITHIN LAST ''2 days''), LAST ''1 day'') = 0', '{}', 'a@-6', 'b@-1');

-- sequences
SELECT pg_temp.course('SEQUENCE(a, NOT b WITHIN ''1 day'')', '{}', 'a@-6');
SELECT pg_temp.course('SEQUENCE(a, NOT b WITHIN ''1 day'')', '{}', 'a@-6', 'b@-5', 'a@-4');
SELECT pg_temp.course('NOT SEQUENCE(a, b, NOT a WITHIN ''1 day'')', '{}', 'a@-6', 'b@-5');
SELECT pg_temp.course('SEQUENCE(a, b; LAST ''1 day'')', '{}', 'a@-6', 'b@-5', 'a@-3', 'b@-2');
SELECT pg_temp.course('SEQUENCE(a, NOT b WITHIN ''1 day''; LAST ''3 days'')', '{}', 'a@-6');
SELECT pg_temp.course('SEQUENCE(a, NOT b WITHIN ''1 day''; LAST ''1 day'')', '{}', 'a@-6');
SELECT pg_temp.course('SEQUENCE(a, NOT b WITHIN ''1 day''; FROM ''2026-02-28'')', '{}', 'a@-6', 'a@-60');
SELECT pg_temp.course('SEQUENCE(a WHERE expires WITHIN NEXT ''1 day'', b)', '{}', 'a@-6{"expires":"2026-03-03"}', 'b@-5', 'a@-4{"expires":"2026-03-07"}');
SELECT pg_temp.course('SEQUENCE(a, NOT b WHERE $time WITHIN LAST ''1 day'', c)', '{}', 'a@-6', 'b@-5', 'c@-4');
SELECT pg_temp.course('SEQUENCE(a, NOT b WHERE expires WITHIN LAST ''1 day'' WITHIN ''2 hours'')', '{}', 'a@-1', 'b@0{"expires":"2026-03-01"}');

-- traits: one whose filter looks at the clock is there, and known as of now,
-- before a rule asks for it
SELECT audience.trait_create('soon', 'count', 'a', filter => 'expires WITHIN NEXT ''3 days''');
SELECT audience.trait_create('lately', 'count', 'a', time_window => '2 days');
SELECT audience.trait_create('lastLogin', 'last_time', 'login', time_window => '5 days');
SELECT pg_temp.course('soon >= 1', '{}', 'a@-6{"expires":"2026-03-05"}');
SELECT pg_temp.course('lately = 0', '{"lately":7}', 'a@-6');
SELECT pg_temp.course('lastLogin BEFORE LAST ''1 day''', '{}', 'login@-6');
SELECT audience.trait_drop(t) FROM unnest('{soon,lately,lastLogin}'::text[]) t;

-- the history since the last look: who entered and left when, and why
CREATE FUNCTION pg_temp.turns() RETURNS SETOF text LANGUAGE sql AS $$
	WITH new AS (
		SELECT t.* FROM audience.transitions t, seen s WHERE t.seq > s.seq),
	mark AS (
		UPDATE seen SET seq = greatest(seq, (SELECT max(n.seq) FROM new n)))
	SELECT concat_ws(' ', user_id, action, segment_id, reason, audience.timestamp_text(occurred_at))
	FROM new ORDER BY user_id COLLATE "C", occurred_at, segment_id COLLATE "C"
$$;
-- segments of segments that expire: all move at the moments of the first, and
-- at their own; what happens at one moment is one row of history
SELECT audience.segment_create('a', 'count(a, LAST ''2 days'') >= 1');
SELECT audience.segment_create('b', 'NOT IN SEGMENT ''a'' AND count() > 0 AND lastActivity WITHIN LAST ''4 days''');
SELECT audience.segment_create('c', 'IN SEGMENT ''b'' OR until WITHIN NEXT ''1 day''');
SELECT audience.segment_create('d', 'NOT IN SEGMENT ''c''');
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id) VALUES ('u', 'a', '2026-02-28', '1');
SELECT audience.profile_set('u', '{"until":"2026-03-02T12:00:00Z"}');
SELECT * FROM pg_temp.turns();
SET audience.now = '2026-05-01T00:00:00Z';
SELECT audience.run_due(), audience.run_due();
SELECT * FROM pg_temp.turns();
SELECT count(DISTINCT seq >> 8) = count(DISTINCT occurred_at) FROM audience.transitions WHERE reason = 'expired';
SELECT segment_id, entered_at FROM audience.user_segments('u');
SELECT at, array(SELECT s.id FROM audience.segments s, audience.segment_members_at(s.id, at) ORDER BY 1) AS "in"
FROM unnest('{2026-03-01 11:59:59.999999,2026-03-01 12:00,2026-03-02,2026-03-02 12:00,2026-03-04,2026-04-01}'::timestamptz[]) at;
SELECT * FROM audience.verify();

-- activity that pushes an instant back: the timer looks, finds nothing, and is
-- set anew; a user whose event comes first leaves by that event's statement
SELECT audience.segment_delete(id) FROM unnest('{d,c,b,a}'::text[]) id;
SELECT audience.profile_erase('u') IS NOT NULL;
SELECT audience.segment_create('active', 'count(a, LAST ''2 days'') >= 1');
SELECT count(*) FROM pg_temp.turns();
SET audience.now = '2026-06-01T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u', 'a', '1'), ('v', 'a', '1');
SET audience.now = '2026-06-02T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u', 'a', '2');
SET audience.now = '2026-06-02T23:59:59.999999Z';
SELECT audience.run_due();
SET audience.now = '2026-06-03T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('v', 'b', '2');
SELECT audience.run_due();
SELECT * FROM pg_temp.turns();
SET audience.now = '2026-06-03T23:59:59.999999Z';
SELECT audience.run_due();
SET audience.now = '2026-06-09T00:00:00Z';
SELECT audience.run_due();
SELECT * FROM pg_temp.turns();
SELECT * FROM audience.verify();
SELECT count(*) FROM audience.timers;

-- years in one pass: every moment, in its order
SELECT audience.segment_create('n' || n, format('count(h, LAST ''%s hours'') = %s', 100 * n, n)::audience.rule) FROM generate_series(1, 4) n;
SELECT audience.segment_create('step', 'SEQUENCE(h WHERE until WITHIN NEXT ''1 hour'', NOT x WITHIN ''1 hour'')');
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id, properties)
SELECT 'y' || u, 'h', timestamptz '2026-06-08 00:00Z' + u * interval '1 second' + (n * n % 23) * interval '1 hour', n, jsonb_build_object('until', '2027-01-01'::date + n * n % 29)
FROM generate_series(1, 3) u, generate_series(1, 25) n;
SELECT count(*) FROM pg_temp.turns();
SET audience.now = '2031-06-09T00:00:00Z';
SELECT audience.run_due(), audience.run_due();
SELECT user_id, segment_id, count(*), min(occurred_at), max(occurred_at) FROM audience.transitions, seen WHERE transitions.seq > seen.seq GROUP BY 1, 2 ORDER BY 1, 2;
SELECT count(*) FROM (SELECT occurred_at, lag(occurred_at) OVER (PARTITION BY user_id ORDER BY seq) AS before FROM audience.transitions) t WHERE before > occurred_at;
-- the moments of the counts, from the events
WITH event AS (
	SELECT user_id, occurred_at FROM audience.events WHERE event_type = 'h'),
moment AS (
	SELECT n, e.user_id, e.occurred_at + n * interval '100 hours' AS at, count(o.*) FILTER (WHERE o.occurred_at > e.occurred_at) AS after,
		count(o.*) FILTER (WHERE o.occurred_at >= e.occurred_at) AS before
	FROM (SELECT DISTINCT * FROM event) e JOIN event o USING (user_id), generate_series(1, 4) n
	GROUP BY n, e.user_id, e.occurred_at),
expected AS (
	SELECT DISTINCT user_id, 'n' || n, CASE WHEN after = n THEN 'added' ELSE 'removed' END, at FROM moment WHERE (before = n) <> (after = n)),
got AS (
	SELECT user_id, segment_id, action, occurred_at FROM audience.transitions WHERE user_id LIKE 'y%' AND segment_id LIKE 'n_' AND reason = 'expired')
SELECT 'not got', * FROM (TABLE expected EXCEPT TABLE got) e UNION ALL SELECT 'not expected', * FROM (TABLE got EXCEPT TABLE expected) g;
SELECT count(*) FROM pg_temp.turns() t WHERE t LIKE '% n_ %';
SELECT * FROM audience.verify();

-- the clock set back: nothing is due, users stay where they are
SELECT audience.segment_create('new', 'created WITHIN LAST ''2 days''');
SELECT audience.profile_set('u', '{"created":"2031-06-08T00:00:00Z"}');
SET audience.now = '2031-06-01T00:00:00Z';
SELECT audience.run_due();
SELECT audience.profile_set('u', '{"x":1}'), audience.profile_set('w', '{"created":"2031-05-31T00:00:00Z"}');
SELECT * FROM pg_temp.turns();
SELECT * FROM audience.verify();
SET audience.now = '2031-06-09T12:00:00Z';
SELECT audience.run_due();
SET audience.now = '2031-06-11T00:00:00Z';
SELECT audience.run_due();
SELECT * FROM pg_temp.turns();
SELECT * FROM audience.verify();

-- some at a time, who was due first comes first; undone with its transaction
SELECT count(audience.profile_set('l' || n, jsonb_build_object('created', timestamptz '2031-06-10 00:00Z' - n * interval '1 hour'))) FROM generate_series(1, 8) n;
SET audience.now = '2031-06-20T00:00:00Z';
SELECT pg_temp.try('SELECT audience.run_due(-1)');
SELECT pg_temp.try('SELECT audience.run_due("limit" => -2147483648)');
SELECT audience.run_due(0);
SELECT audience.run_due("limit" => 3);
SELECT t FROM pg_temp.turns() t WHERE t LIKE '% expired %';
BEGIN;
SELECT audience.run_due(4), audience.run_due(4), audience.run_due(4);
SELECT count(*) FROM audience.segment_members('new');
SELECT * FROM audience.verify();
ROLLBACK;
SELECT count(*) FROM audience.segment_members('new');
SELECT count(*) FROM audience.timers;
SELECT * FROM audience.verify();
SELECT audience.run_due(2), audience.run_due(NULL), audience.run_due();
SELECT * FROM pg_temp.turns();
SELECT count(*) FROM audience.timers;
SELECT * FROM audience.verify();

-- definitions come and go: who needs no timer any more is looked at once
SELECT audience.profile_set('w', '{"created":"2031-06-20T00:00:00Z"}');
SELECT audience.segment_update('new', active => false);
SET audience.now = '2031-06-30T00:00:00Z';
SELECT audience.run_due(), audience.run_due();
SELECT count(*) FROM audience.timers;
SELECT audience.profile_set('w', '{"created":"2031-06-30T00:00:00Z"}');
SELECT audience.segment_update('new', active => true);
SELECT audience.segment_update('new', rules => 'created WITHIN LAST ''1 day''');
SET audience.now = '2031-07-01T00:00:00Z';
SELECT audience.run_due(), audience.run_due();
SELECT t FROM pg_temp.turns() t WHERE t LIKE 'w %';
SELECT * FROM audience.verify();

-- a timer that is gone is set anew by a rebuild
SELECT audience.profile_set('w', '{"created":"2031-07-01T00:00:00Z"}');
DELETE FROM audience.timers WHERE user_id = 'w';
SELECT user_id, problem FROM audience.verify();
SELECT audience.profile_rebuild('{w}');
SELECT due_at FROM audience.timers WHERE user_id = 'w';
SELECT * FROM audience.verify();

-- a fill sets the timer of a user who has just been evaluated, if its rule is
-- the first that moves with the clock
SELECT count(audience.event_ingest('{"userId":"v","eventType":"k","eventId":"1"}'));
SELECT due_at FROM audience.timers WHERE user_id = 'v';
SELECT audience.segment_create('fresh', 'count(k WHERE $time WITHIN LAST ''1 day'') >= 1', refresh => 'later');
CALL audience.segment_refresh('fresh');
SELECT due_at FROM audience.timers WHERE user_id = 'v';
SELECT * FROM audience.verify();
SELECT audience.segment_delete('fresh');

-- without audience.now, whoever was evaluated ahead of the real clock comes
-- back: what lies beyond the windows' skew then enters when it is near enough
SELECT audience.segment_create('two', 'count(k, LAST ''30 days'') >= 2');
SELECT audience.segment_create('ahead', 'last_time(k) WITHIN LAST ''30 days''');
SELECT audience.segment_create('no_b', 'count(b, LAST ''20 days'') = 0 AND count(k) > 0');
SELECT pg_temp.set_now(now() + interval '10 days');
SELECT count(audience.event_ingest(jsonb_build_object('userId', 'r', 'eventType', t, 'eventId', t))) FROM unnest('{k,b}'::text[]) t;
RESET audience.now;
SELECT count(audience.event_ingest('{"userId":"r","eventType":"k","eventId":"2"}'));
SELECT due_at - last_seen FROM audience.timers JOIN audience.profiles USING (user_id) WHERE user_id = 'r';
SELECT segment_id, action, reason, CASE WHEN occurred_at < now() + interval '1 day' THEN 'now' ELSE 'ahead' END FROM audience.transitions WHERE user_id = 'r' ORDER BY seq, 1;
SELECT user_id, problem, detail FROM audience.verify() WHERE user_id = 'r';
SELECT pg_temp.set_now(now() + interval '100 days');
SELECT audience.run_due() > 0;
SELECT segment_id, action, occurred_at - last_seen FROM audience.transitions JOIN audience.profiles USING (user_id) WHERE user_id = 'r' AND reason = 'expired' AND (segment_id, action) <> ('two', 'removed') ORDER BY seq, 1;
SELECT user_id, problem, detail FROM audience.verify() WHERE user_id = 'r';

-- a user with many instants due, at each of which states are made anew, takes
-- no more memory than one with few
SELECT audience.segment_create('many', 'count_distinct(m.v WHERE $time WITHIN LAST ''1 day'') >= 1000');
SET audience.now = '2040-01-01T00:00:00Z';
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id, properties)
SELECT 'm', 'm', timestamptz '2040-01-01 00:00Z' - n * interval '1 minute', n, jsonb_build_object('v', repeat('x', 200) || n) FROM generate_series(1, 600) n;
CREATE FUNCTION pg_temp.most_memory() RETURNS int LANGUAGE sql AS $$
	SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\s+(\d+)')::int
$$;
SELECT pg_temp.most_memory() AS before \gset
SET audience.now = '2041-01-01T00:00:00Z';
SELECT audience.run_due() > 0;
SELECT pg_temp.most_memory() - :before < 50000;
SELECT evaluated_at FROM audience.profiles WHERE user_id = 'm';
SELECT * FROM audience.verify();
