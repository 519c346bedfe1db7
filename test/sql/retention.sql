--
-- Retention of transitions and of events
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SET intervalstyle = 'postgres';

-- a day's end, at which everything is brought up to date
CREATE FUNCTION pg_temp.day(day date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('audience.now', day::text, false);
	PERFORM audience.run_due();
END $$;
-- all that is to be done now, in small steps; how many
CREATE FUNCTION pg_temp.retain(chunk int DEFAULT 3) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	n int := 0;
BEGIN
	WHILE audience.run_retention(chunk) LOOP
		n := n + 1;
	END LOOP;
	RETURN n;
END $$;

--
-- Settings: -1 is for ever, and 0 is no retention
--
SHOW audience.transition_retention;
SHOW audience.event_retention;
SELECT pg_temp.try('SET audience.transition_retention = 0');
SELECT pg_temp.try('SET audience.event_retention = ''0d''');
SELECT pg_temp.try('SET audience.event_retention = -2');
SELECT pg_temp.try('SELECT audience.run_retention(0)');
SELECT pg_temp.try('SELECT audience.run_retention(NULL)');

-- nothing to do
SELECT audience.run_retention();
SELECT * FROM audience.retention;

--
-- Transitions: of the old ones the newest of each user and segment stays
--
SELECT pg_temp.day('2026-01-01');
SELECT audience.segment_create('Here', 'count(*, LAST ''2 days'') >= 1');
SELECT audience.segment_create('Rich', 'totalSpent >= 100');
SELECT audience.segment_create('Silver', 'totalSpent >= 50 AND NOT IN SEGMENT ''rich''');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', '{a,b}');
SELECT pg_temp.day(date '2026-01-01' + n) FROM generate_series(1, 3) n;
INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES
	('a', '1', 'purchase', '{"amount":60}'), ('b', '1', 'purchase', '{"amount":60}');
SELECT pg_temp.day('2026-01-10');
INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('a', '2', 'purchase', '{"amount":60}');
SELECT pg_temp.day('2026-01-15');
SELECT audience.segment_remove('list', '{b}');
SELECT pg_temp.day('2026-01-16');
CREATE TEMPORARY TABLE history AS SELECT * FROM audience.transitions;
CREATE TEMPORARY TABLE members AS
	SELECT s.id, t.at, m.user_id FROM audience.segments s, generate_series(timestamptz '2026-01-01', '2026-01-16', '12 hours') t (at),
		audience.segment_members_at(s.id, t.at) m (user_id);
SELECT user_id, segment_id, action, occurred_at::date, seq & 1048575 AS ordinal FROM history ORDER BY user_id, seq;
SET audience.transition_retention = '30d';
SELECT pg_temp.retain(), (SELECT count(*) FROM audience.transitions) = (SELECT count(*) FROM history) AS all_there;
-- nothing has been removed, so all can still be told
SELECT kind, complete_from, position, started_at FROM audience.retention;
SELECT * FROM audience.segment_members_at('here', '2026-01-04');
-- the next pass is not due; then it is
SET audience.transition_retention = '4d';
SELECT pg_temp.retain();
SELECT pg_temp.day('2026-01-17');
SELECT pg_temp.retain() > 1 AS steps;
SELECT kind, complete_from, position, started_at FROM audience.retention;
SELECT user_id, segment_id, action, occurred_at::date, seq & 1048575 AS ordinal FROM audience.transitions ORDER BY user_id, seq;
-- those that stay are what they were
SELECT count(*) FROM (SELECT * FROM audience.transitions EXCEPT SELECT * FROM history) d;
-- members at any instant from then on, and no earlier
SELECT pg_temp.try('SELECT audience.segment_members_at(''here'', ''2026-01-12T23:59:59Z'')');
SELECT count(*) FROM (
	SELECT s.id, t.at, m.user_id FROM audience.segments s, generate_series(timestamptz '2026-01-13', '2026-01-16', '12 hours') t (at),
		audience.segment_members_at(s.id, t.at) m (user_id)
	EXCEPT SELECT * FROM members) d;
SELECT count(*) FROM (
	SELECT * FROM members WHERE at >= '2026-01-13'
	EXCEPT SELECT s.id, t.at, m.user_id FROM audience.segments s, generate_series(timestamptz '2026-01-13', '2026-01-16', '12 hours') t (at),
		audience.segment_members_at(s.id, t.at) m (user_id)) d;
SELECT * FROM audience.verify();
-- a longer time brings nothing back, and takes nothing back of what was said
SET audience.transition_retention = '100d';
SELECT pg_temp.day('2026-02-17');
SELECT pg_temp.retain() > 0 AS steps, (SELECT complete_from FROM audience.retention WHERE kind = 'transitions');
-- what is left of a user who was merged, or of a segment that was deleted, is of the same kind
SELECT audience.profile_merge('a', 'b');
SELECT audience.segment_delete('silver');
-- one that is made again is the same segment
SELECT audience.segment_create('Silver', 'totalSpent >= 10');
SELECT audience.segment_delete('silver');
SELECT audience.segment_create('Silver', 'totalSpent >= 20');
SELECT user_id, segment_id, action, reason FROM audience.transitions WHERE segment_id = 'silver' ORDER BY user_id, seq;
SET audience.transition_retention = '1d';
SELECT pg_temp.day('2026-03-17');
SELECT pg_temp.retain() > 1 AS steps;
SELECT user_id, segment_id, action, reason FROM audience.transitions ORDER BY user_id, seq;
SELECT * FROM audience.verify();
-- places of removed transitions stay empty
SELECT e.ordinal, e.segment_number, e.added, e.version, e.score
FROM audience.transition_entries(audience.transition_entries_remove(audience.transition_entries_remove(
	audience.transition_entry(1, true, 1) || audience.transition_entry(2, true, 5) || audience.transition_entry(3, false, 7) ||
	audience.transition_entry(4, true, 1) || audience.transition_entry(5, false, 1), '{1,3}'), '{4}')) e;
SELECT audience.transition_entries_remove(audience.transition_entry(3, false, 7), '{1}');
SELECT pg_temp.try('SELECT audience.transition_entries(''\x0000'')');
SELECT pg_temp.try('SELECT audience.transition_entries(''\x00'')');
RESET audience.transition_retention;


--
-- Events: what is older than thirty days goes, and what it has counted stays
--
SELECT audience.profile_erase('b');
SELECT pg_temp.day('2026-05-01');
SELECT audience.trait_create('items', 'count_distinct', 'purchase', 'item');
SELECT audience.trait_create('favourite', 'most_frequent', 'purchase', 'item');
SELECT audience.trait_create('firstItem', 'first', 'purchase', 'item');
SELECT audience.trait_create('lastItem', 'last', 'purchase', 'item');
SELECT audience.trait_create('since', 'first_time');
SELECT audience.trait_create('days', 'days_active');
SELECT audience.trait_create('mean', 'avg', 'purchase', 'amount');
SELECT audience.trait_create('least', 'min', 'purchase', 'amount');
SELECT audience.trait_create('most', 'max', 'purchase', 'amount');
SELECT audience.trait_create('recent', 'sum', 'purchase', 'amount', time_window => '40 days');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT u, timestamptz '2026-05-01' - n * interval '36 hours', u || n, 'purchase',
	jsonb_build_object('amount', n * length(u) + 0.5, 'item', chr(97 + n % 5))
FROM unnest('{u,uu,uuu}'::text[]) u, generate_series(1, 40) n;
CREATE TEMPORARY TABLE documents AS SELECT user_id, first_seen, last_seen, audience.profile_get(user_id) AS document FROM audience.profiles;
SET audience.event_retention = '30d';
-- the first step only says from when on events are taken
SELECT audience.run_retention();
SELECT (SELECT count(*) FROM audience.events) AS events, complete_from, cutoff FROM audience.retention WHERE kind = 'events';
SELECT pg_temp.retain(25) AS steps;
SELECT count(*) AS events, min(occurred_at) FROM audience.events;
SELECT user_id, complete_from, first_seen, last_seen, events FROM audience.event_bases ORDER BY user_id;
-- a window of forty days keeps events for so long
SELECT kind, keep, complete_from, running, started_at, needed_from, needed_by FROM audience.retention_progress ORDER BY kind;
SELECT * FROM documents d JOIN audience.profiles p USING (user_id)
WHERE d.document <> audience.profile_get(user_id) OR (d.first_seen, d.last_seen) IS DISTINCT FROM (p.first_seen, p.last_seen);
SELECT * FROM audience.verify();
-- made anew they are the same, and one who reads more than there is finds the same
SELECT audience.profile_rebuild();
SET audience.max_distinct_values = 2;
SELECT audience.profile_rebuild();
SELECT audience.event_ingest('{"userId":"u","eventId":"now","eventType":"purchase","timestamp":"2026-04-29","properties":{"amount":0.25,"item":"b"}}');
SELECT audience.profile_get('u') - 'segments';
RESET audience.max_distinct_values;
SELECT * FROM documents d JOIN audience.profiles p USING (user_id)
WHERE p.user_id <> 'u' AND (d.document <> audience.profile_get(user_id) OR (d.first_seen, d.last_seen) IS DISTINCT FROM (p.first_seen, p.last_seen));
SELECT * FROM audience.verify();
-- older events are refused, on every road; later ones are not
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('u', '2026-03-21T23:59:59Z', 'old', 'login')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('u', timestamptz '2026-05-01' - 40 * interval '36 hours', 'u40', 'purchase') ON CONFLICT DO NOTHING$$);
SELECT pg_temp.try($$SELECT audience.event_ingest('{"userId":"new","eventId":"n","eventType":"login","timestamp":"2026-01-01"}')$$);
SELECT pg_temp.try($$SELECT audience.events_ingest('[{"userId":"new","eventType":"login"},{"userId":"new","eventId":"n","eventType":"login","timestamp":"2026-01-01"}]')$$);
COPY audience.events (user_id, occurred_at, event_id, event_type) FROM STDIN;
u	2026-01-01	copied	login
\.
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('u', '2026-03-22', 'late', 'login')$$);
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('u', '2026-03-22', 'late', 'login') ON CONFLICT DO NOTHING$$);
SELECT pg_temp.try('DELETE FROM audience.events');
-- a trait that is made later counts what is there
SELECT audience.trait_create('purchases', 'count', 'purchase');
SELECT user_id, audience.profile_get(user_id) -> 'purchases' AS purchases, audience.profile_get(user_id) -> 'eventCount' AS events
FROM audience.profiles ORDER BY user_id;
SELECT * FROM audience.verify();
-- a sequence without a window needs all events: none goes any more
SELECT audience.segment_create('Path', 'SEQUENCE(purchase, login)');
SELECT pg_temp.day('2026-06-20');
SELECT pg_temp.retain();
SELECT kind, complete_from, running, needed_from, needed_by FROM audience.retention_progress WHERE kind = 'events';
SELECT audience.segment_delete('path');
-- nor where "where" looks at the clock
SELECT audience.segment_create('Moving', 'count(purchase WHERE paid WITHIN LAST ''5 days'') >= 1');
SELECT pg_temp.day('2026-06-25');
SELECT pg_temp.retain();
SELECT kind, complete_from, running, needed_from, needed_by FROM audience.retention_progress WHERE kind = 'events';
SELECT audience.segment_delete('moving');
-- one with fixed bounds needs those from its beginning on
SELECT audience.segment_create('Bounded path', 'SEQUENCE(purchase, purchase; FROM ''2026-04-20'' TO ''2026-04-28'')');
SELECT audience.segment_count('bounded_path');
SELECT pg_temp.day('2026-07-01');
SELECT pg_temp.retain() > 1 AS steps;
SELECT complete_from FROM audience.retention WHERE kind = 'events';
SELECT audience.profile_rebuild();
SELECT audience.segment_count('bounded_path');
SELECT * FROM audience.verify();
SELECT audience.segment_delete('bounded_path');
-- a longer window that comes later sees what is there
SELECT audience.trait_create('long', 'count', 'purchase', time_window => '200 days');
SELECT pg_temp.day('2026-07-05');
SELECT pg_temp.retain();
SELECT user_id, audience.profile_get(user_id) -> 'long' AS long FROM audience.profiles ORDER BY user_id;
SELECT * FROM audience.verify();
SELECT audience.trait_drop('long');
-- merging unites what both have had
SELECT audience.event_ingest('{"userId":"v","eventId":"1","eventType":"purchase","properties":{"amount":1000,"item":"z"}}');
SELECT user_id, events FROM audience.event_bases ORDER BY user_id;
SELECT audience.profile_merge('u', 'uu');
SELECT audience.profile_merge('uu', 'v');
SELECT user_id, events, first_seen, last_seen FROM audience.event_bases ORDER BY user_id;
SELECT jsonb_pretty(audience.profile_get('v'));
SELECT * FROM audience.verify();
SELECT pg_temp.day('2027-01-01');
SELECT pg_temp.retain() > 1 AS steps;
SELECT count(*) FROM audience.events;
SELECT jsonb_pretty(audience.profile_get('v'));
SELECT * FROM audience.verify();
-- what is wrong with a base is found
BEGIN;
UPDATE audience.event_bases SET first_seen = first_seen - interval '1 day' WHERE user_id = 'v';
UPDATE audience.event_bases SET states = '\x01' WHERE user_id = 'uuu';
SELECT problem, user_id, segment_id, detail FROM audience.verify() ORDER BY problem, user_id, detail COLLATE "C";
ROLLBACK;
-- erasing removes the base
SELECT audience.profile_erase('v');
SELECT user_id FROM audience.event_bases;
SELECT * FROM audience.verify();
-- for ever again: what was refused stays refused
RESET audience.event_retention;
SELECT pg_temp.retain();
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('w', '2026-03-21', 'old', 'login')$$);
