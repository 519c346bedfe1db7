--
-- How memberships and history are kept: packed, a user's in its profile, a
-- moment's in one row; and how the views unpack them
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT audience.segment_create('s' || i, format('count() >= %s', i % 3)::audience.rule) FROM generate_series(1, 9) i;
SELECT audience.segment_create('mixed', 'count() >= 1 AND (country = ''DE'' OR ALL(plan = ''pro'', count() >= 0))');
SELECT audience.segment_create('list', type => 'static');
SELECT number, segment_id FROM audience.segment_numbers ORDER BY number;
SELECT count(*) FROM audience.segments s LEFT JOIN audience.segment_numbers n ON n.number = s.number AND n.segment_id = s.id WHERE n IS NULL;

--
-- one statement, one row of the log, a transition for each segment
--
SELECT audience.event_ingest('{"userId":"u","eventId":"1","eventType":"t","timestamp":"2026-02-01"}');
SELECT audience.event_ingest('{"userId":"u","eventId":"2","eventType":"t","timestamp":"2026-02-02"}');
SELECT audience.profile_set('u', '{"plan":"pro"}');
SELECT audience.profile_set('u', '{"plan":null}');
SELECT audience.profile_set('u', '{"plan":"pro"}');
SELECT audience.segment_add('list', '{u}');
SELECT dense_rank() OVER (ORDER BY l.seq) AS row, l.reason, l.event_id, l.latency IS NOT NULL AS latency, e.*
FROM audience.transition_log l, audience.transition_entries(l.entries) e WHERE l.user_id = 'u' ORDER BY l.seq, e.ordinal;
SELECT t.segment_id, t.action, t.reason, t.event_id, t.segment_version, t.metadata - 'evaluationLatency' AS metadata,
	jsonb_typeof(t.metadata->'evaluationLatency') AS latency, t.seq > lag(t.seq, 1, 0::bigint) OVER (ORDER BY l.seq, e.ordinal) AS rises
FROM audience.transition_log l, audience.transition_entries(l.entries) e, audience.segment_numbers n, audience.transitions t
WHERE l.user_id = 'u' AND n.number = e.segment_number
	AND t.user_id = l.user_id AND t.seq = (l.seq << 20) + e.ordinal AND t.segment_id = n.segment_id ORDER BY l.seq, e.ordinal;
SELECT count(*), count(DISTINCT seq) FROM audience.transitions;

--
-- the packed memberships, and the view
--
SELECT m.segment_number, s.id, m.entered_at, audience.member_since(p.members, s.number) = m.entered_at AS same
FROM audience.profiles p, audience.members_list(p.members) m JOIN audience.segments s ON s.number = m.segment_number
WHERE p.user_id = 'u' ORDER BY 1;
SELECT * FROM audience.memberships WHERE user_id = 'u' ORDER BY segment_id;
SELECT audience.member_since(members, 0), audience.member_since(members, -1), audience.member_since(members, 2147483647) FROM audience.profiles;
-- the others stay when one is taken out, wherever it is, and none is null
SELECT s.id, (SELECT string_agg(m.segment_number::text, ' ') FROM audience.members_list(audience.members_remove(p.members, s.number)) m) AS others,
	(SELECT bool_and(audience.member_since(p.members, m.segment_number) = m.entered_at) FROM audience.members_list(audience.members_remove(p.members, s.number)) m) AS times
FROM audience.profiles p, audience.segments s WHERE p.user_id = 'u' ORDER BY s.number;
SELECT audience.members_remove(members, 0) = members FROM audience.profiles WHERE user_id = 'u';
SELECT count(*) FROM audience.members_list(NULL);
SELECT audience.member_since(NULL, 1) IS NULL, audience.members_remove(NULL, 1) IS NULL, audience.member_since('', 1) IS NULL, audience.members_remove('', 1) IS NULL;

--
-- memberships packed by hand, in the machine's byte order: a head (twice the
-- number of instants, + 1 if numbers are wide), instants, numbers, positions
--
CREATE FUNCTION pg_temp.native(big_endian bytea) RETURNS bytea LANGUAGE sql AS $$
	SELECT CASE WHEN audience.member_since('\x0300000000000000000000000100000000', 1) IS NULL THEN big_endian
		ELSE (SELECT string_agg(substring(big_endian FROM i FOR 1), '' ORDER BY i DESC)
			FROM generate_series(1, length(big_endian)) i) END
$$;
CREATE FUNCTION pg_temp.packed(head bigint, seconds int[], numbers int[], slots int[]) RETURNS bytea LANGUAGE sql AS $$
	SELECT pg_temp.native(substring(int8send(head) FROM 5)) ||
		coalesce((SELECT string_agg(pg_temp.native(int8send(1000000::bigint * s)), '' ORDER BY i) FROM unnest(seconds) WITH ORDINALITY a (s, i)), '') ||
		coalesce((SELECT string_agg(pg_temp.native(substring(int4send(n) FROM CASE WHEN head % 2 = 1 THEN 1 ELSE 3 END)), '' ORDER BY i) FROM unnest(numbers) WITH ORDINALITY a (n, i)), '') ||
		coalesce((SELECT string_agg(pg_temp.native(substring(int4send(s) FROM CASE WHEN head / 2 <= 256 THEN 4 WHEN head / 2 <= 65536 THEN 3 ELSE 1 END)), '' ORDER BY i) FROM unnest(slots) WITH ORDINALITY a (s, i)), '')
$$;
SELECT name, audience.members_valid(v) AS valid,
	(SELECT string_agg(m.segment_number || ' ' || extract(epoch FROM m.entered_at - '2000-01-01Z')::int, ', ') FROM audience.members_list(v) m) AS list,
	audience.member_since(v, 2) IS NOT NULL AS has_2,
	(SELECT string_agg(m.segment_number || ' ' || extract(epoch FROM m.entered_at - '2000-01-01Z')::int, ', ') FROM audience.members_list(audience.members_remove(v, 1)) m) AS without_1,
	audience.members_valid(audience.members_remove(v, 1)) AS then_valid
FROM (VALUES
	(1, 'one', pg_temp.packed(2, '{10}', '{2}', '{0}')),
	(2, 'two of one instant', pg_temp.packed(2, '{10}', '{1,2}', '{0,0}')),
	(3, 'instants in any order', pg_temp.packed(6, '{30,10,20}', '{1,2,3}', '{1,2,0}')),
	(4, 'the highest narrow number', pg_temp.packed(2, '{10}', '{1,65535}', '{0,0}')),
	(5, 'wide numbers', pg_temp.packed(5, '{10,20}', '{1,2,65536,2147483647}', '{1,0,0,0}')),
	(6, 'wide without need', pg_temp.packed(3, '{10}', '{1,2}', '{0,0}')),
	(7, 'an instant of nobody', pg_temp.packed(4, '{10,20}', '{1,2}', '{1,1}')),
	(8, 'more instants than segments', pg_temp.packed(4, '{10,20}', '{2}', '{0}')),
	(9, 'a position beyond the instants', pg_temp.packed(2, '{10}', '{1,2}', '{0,1}')),
	(10, 'numbers that fall', pg_temp.packed(2, '{10}', '{2,1}', '{0,0}')),
	(11, 'a number twice', pg_temp.packed(2, '{10}', '{2,2}', '{0,0}')),
	(12, 'no instants', pg_temp.packed(0, '{}', '{2}', '{0}')),
	(13, 'instants beyond the end', pg_temp.packed(200, '{10}', '{2}', '{0}')),
	(14, 'as many as can be', pg_temp.packed(4294967295, '{10}', '{2}', '{0}')),
	(15, 'no segments', pg_temp.packed(2, '{10}', '{}', '{}')),
	(16, 'something behind', pg_temp.packed(2, '{10}', '{2}', '{0}') || '\x00'),
	(17, 'cut short', substring(pg_temp.packed(2, '{10}', '{1,2}', '{0,0}') FROM 1 FOR 16)),
	(18, 'a piece of the head', '\x0200'),
	(19, 'empty', '')) p (n, name, v) ORDER BY n;
-- positions take one byte, two or four, by how many instants there are
SELECT k, length(v), audience.members_valid(v) AS valid, audience.member_since(v, 1) AS first, audience.member_since(v, k) AS last,
	length(w), audience.members_valid(w) AS then_valid, audience.member_since(w, 1) AS then_first, audience.member_since(w, k) AS then_last,
	(SELECT bool_and(audience.member_since(v, m.segment_number) = m.entered_at) FROM audience.members_list(w) m WHERE m.segment_number % 100 = 0) AS same
FROM (SELECT k, v, audience.members_remove(v, 1) AS w FROM (SELECT k, pg_temp.packed(2 * k + 1, numbers, numbers, slots) AS v
	FROM (SELECT k, array_agg(i) AS numbers, array_agg(i - 1) AS slots FROM (VALUES (257), (65537)) c (k), generate_series(1, k) i GROUP BY k) a) b) c ORDER BY k;

--
-- one transition packed by hand, its limits
--
SELECT p.n, p.v, a.added, e.* FROM (VALUES (1, 1), (63, 31), (64, 32), (2147483647, 2147483647)) p (n, v), (VALUES (true), (false)) a (added),
	audience.transition_entries(audience.transition_entry(p.n, a.added, p.v)) e ORDER BY p.n, a.added;
SELECT * FROM audience.transition_entries(audience.transition_entry(7, true, 1) || audience.transition_entry(8, false, 300));
SELECT count(*) FROM audience.transition_entries('');

--
-- nobody in any segment: no memberships, not empty ones
--
SELECT audience.segment_update('s' || i, active => false) FROM generate_series(1, 9) i;
SELECT audience.segment_delete('mixed');
SELECT audience.segment_remove('list', '{u}');
SELECT user_id, members IS NULL FROM audience.profiles;
SELECT segment_id, action, reason FROM audience.transitions WHERE user_id = 'u' AND action = 'removed' ORDER BY segment_id;
SELECT * FROM audience.verify();

--
-- the numbers of what is deleted stay, and are nobody else's
--
SELECT audience.segment_delete('list');
SELECT audience.segment_create('list', 'count() >= 1');
SELECT number, segment_id FROM audience.segment_numbers WHERE segment_id IN ('list', 'mixed') ORDER BY number;
SELECT action, reason, segment_version, seq > lag(seq, 1, 0::bigint) OVER (ORDER BY seq) FROM audience.transitions WHERE user_id = 'u' AND segment_id = 'list' ORDER BY seq;
SELECT * FROM audience.memberships;
SELECT user_id FROM audience.segment_members_at('mixed', '2026-03-01T11:00Z') user_id;
-- another kind of segment of the same id has no member of the one before
SELECT audience.segment_put('{"name":"list","type":"static"}');
SELECT * FROM audience.memberships;
SELECT count(*) FROM audience.segment_numbers WHERE segment_id = 'list';
SELECT action, reason FROM audience.transitions WHERE user_id = 'u' AND segment_id = 'list' ORDER BY seq;
SELECT * FROM audience.verify();

--
-- an inactive list keeps its users and has no members
--
SELECT audience.segment_add('list', '{u,v}');
SELECT audience.segment_update('list', active => false);
SELECT count(*) FROM audience.memberships;
SELECT p.user_id, m.entered_at IS NOT NULL AS listed FROM audience.profiles p, audience.members_list(p.members) m ORDER BY 1;
SELECT audience.segment_remove('list', '{v}'), audience.segment_add('list', '{w,u}');
SELECT audience.segment_update('list', active => true);
SELECT user_id FROM audience.memberships ORDER BY 1;
SELECT user_id, action, reason FROM audience.transitions WHERE segment_id = 'list' AND user_id <> 'u' ORDER BY user_id, seq;
SELECT * FROM audience.verify();

--
-- the views are for reading
--
SELECT pg_temp.try($$INSERT INTO audience.memberships VALUES ('list', 'u', now(), 'manual')$$);
SELECT pg_temp.try('DELETE FROM audience.memberships');
SELECT pg_temp.try('UPDATE audience.transitions SET action = NULL');
SELECT pg_temp.try('DELETE FROM audience.transitions');
