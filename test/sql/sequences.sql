--
-- Sequences, at their edges: order, windows, within, absence
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
-- whether each sequence holds for events given as type@minute[/id], as of a
-- minute of that hour; live: kept up event by event, in the order given
CREATE FUNCTION pg_temp.holds(rules text[], at numeric, VARIADIC events text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	start constant timestamptz := '2026-03-01 00:00Z';
	who text := format('u%s', (SELECT count(*) FROM audience.profiles) + 1);
	live text;
	rebuilt text;
	problems text;
BEGIN
	PERFORM set_config('audience.now', to_char((start + at * interval '1 minute') AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), true);
	FOR n IN 1 .. cardinality(rules) LOOP
		PERFORM audience.segment_create('s' || n, rules[n]::audience.rule);
	END LOOP;
	FOR n IN 1 .. cardinality(events) LOOP
		INSERT INTO audience.events (user_id, occurred_at, event_id, event_type)
		SELECT who, start + split_part(split_part(events[n], '@', 2), '/', 1)::numeric * interval '1 minute',
			coalesce(nullif(split_part(events[n], '/', 2), ''), 'e' || n), split_part(events[n], '@', 1);
	END LOOP;
	live := (SELECT string_agg(CASE WHEN EXISTS (SELECT FROM audience.memberships WHERE user_id = who AND segment_id = 's' || i) THEN 't' ELSE 'f' END, '' ORDER BY i) FROM generate_series(1, cardinality(rules)) i);
	PERFORM audience.profile_rebuild();
	rebuilt := (SELECT string_agg(CASE WHEN EXISTS (SELECT FROM audience.memberships WHERE user_id = who AND segment_id = 's' || i) THEN 't' ELSE 'f' END, '' ORDER BY i) FROM generate_series(1, cardinality(rules)) i);
	problems := (SELECT string_agg(v::text, ' ') FROM audience.verify() v);
	FOR n IN 1 .. cardinality(rules) LOOP
		PERFORM audience.segment_delete('s' || n);
	END LOOP;
	PERFORM audience.profile_erase(who);
	IF live <> rebuilt OR problems IS NOT NULL THEN
		RETURN format('live %s, rebuilt %s, verify() %s', live, rebuilt, problems);
	END IF;
	RETURN live;
END $$;

-- one step, two steps; the order is (time, id in C order), not that of arrival
SELECT pg_temp.holds('{"SEQUENCE(a)","SEQUENCE(a, b)","SEQUENCE(b, a)","SEQUENCE(a, a)"}', 30, 'a@1', 'b@2');
SELECT pg_temp.holds('{"SEQUENCE(a)","SEQUENCE(a, b)","SEQUENCE(b, a)","SEQUENCE(a, a)"}', 30, 'b@2', 'a@1');
SELECT pg_temp.holds('{"SEQUENCE(a, b)","SEQUENCE(b, a)"}', 30, 'a@1/x', 'b@1/y');
SELECT pg_temp.holds('{"SEQUENCE(a, b)","SEQUENCE(b, a)"}', 30, 'a@1/x', 'b@1/Y');
-- distinct events
SELECT pg_temp.holds('{"SEQUENCE(*, *)","SEQUENCE((a, b), (a, b))","SEQUENCE(a*, a)"}', 30, 'a@1');
SELECT pg_temp.holds('{"SEQUENCE(*, *)","SEQUENCE((a, b), (a, b))","SEQUENCE(a*, a)"}', 30, 'ab@1', 'a@2');
-- within, to the microsecond, counts from the event chosen before
SELECT pg_temp.holds('{"SEQUENCE(a, b WITHIN ''10 minutes'')","SEQUENCE(a, b WITHIN 599.999999)","SEQUENCE(a, b WITHIN 0.000001)"}', 30, 'a@1', 'b@11');
SELECT pg_temp.holds('{"SEQUENCE(a, b WITHIN ''10 minutes'', c WITHIN ''10 minutes'')","SEQUENCE(a, b, c WITHIN ''10 minutes'')"}', 30, 'a@1', 'b@5', 'b@12', 'c@16', 'a@25');
SELECT pg_temp.holds('{"SEQUENCE(a, b WITHIN ''10 minutes'', c WITHIN ''10 minutes'')"}', 30, 'a@1', 'a@4', 'b@5', 'b@12', 'c@16');
-- the first choice is not always the right one
SELECT pg_temp.holds('{"SEQUENCE(a, b WITHIN ''1 minute'')","SEQUENCE(a, NOT c, b)"}', 30, 'a@1', 'c@2', 'a@3', 'b@4');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT c, b)","SEQUENCE(a, NOT c, NOT d, b)"}', 30, 'a@1', 'c@2', 'b@3', 'a@4', 'd@5', 'b@6');
-- absent: strictly between, by the order of events
SELECT pg_temp.holds('{"SEQUENCE(a, NOT c, b)"}', 30, 'c@1/a', 'a@1/b', 'b@2/c', 'c@2/d');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT c, b)"}', 30, 'a@1/b', 'c@1/c', 'b@2/c');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT *, b)","SEQUENCE(a, NOT a, b)","SEQUENCE(a, NOT b, b)"}', 30, 'a@1', 'a@2', 'b@3', 'b@4');
-- absent at the end: over only when now is past it
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 11, 'a@1');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 11.0000001, 'a@1');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 12, 'a@1');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 30, 'a@1', 'b@11');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 30, 'a@1', 'b@11.0000001');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 30, 'b@1/z', 'a@1/a');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 30, 'a@1', 'b@5', 'a@12');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes'')"}', 20, 'a@1', 'b@5', 'a@12');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT a WITHIN ''10 minutes'')"}', 20, 'a@1', 'a@5');
-- windows: from < t (last), from <= t < to (fixed); only the present steps lie in them
SELECT pg_temp.holds('{"SEQUENCE(a, b; LAST ''29 minutes'')","SEQUENCE(a, b; LAST 1740.000001)"}', 30, 'a@1', 'b@2');
SELECT pg_temp.holds('{"SEQUENCE(a, b; FROM ''2026-03-01T00:01:00Z'' TO ''2026-03-01T00:02:00Z'')","SEQUENCE(a, b; FROM ''2026-03-01T00:01:00Z'' TO ''2026-03-01T00:02:00.000001Z'')","SEQUENCE(a, b; FROM ''2026-03-01T00:01:00.000001Z'')"}', 30, 'a@1', 'b@2');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes''; FROM ''2026-03-01T00:00:00Z'' TO ''2026-03-01T00:05:00Z'')"}', 30, 'a@1', 'b@8');
SELECT pg_temp.holds('{"SEQUENCE(a, NOT b WITHIN ''10 minutes''; FROM ''2026-03-01T00:00:00Z'' TO ''2026-03-01T00:05:00Z'')"}', 30, 'a@1');
-- events ahead of now, up to the skew, are there
SELECT pg_temp.holds('{"SEQUENCE(a, b)","SEQUENCE(a, b; LAST ''1 minute'')","SEQUENCE(b, NOT a WITHIN ''1 second'')"}', 0, 'a@1', 'b@60');
