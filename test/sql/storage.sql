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
