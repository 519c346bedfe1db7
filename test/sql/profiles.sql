--
-- Profiles: attributes, documents, merging and erasing
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT audience.segment_create('german', 'country = ''DE''');
SELECT audience.segment_create('berlin', '"address.city" = ''x'' OR address.city = ''Berlin''');
SELECT audience.segment_create('quiet', 'count() = 0');
SELECT audience.segment_create('by id', 'userId = ''ann''');

--
-- profile_set: a merge patch
--
SELECT audience.profile_set('ann', '{"country":"DE","address":{"city":"Berlin","zip":"10115"},"tags":["a","b"],"n":1.50}');
SELECT pg_temp.news();
SELECT audience.profile_set('ann', '{"address":{"zip":null,"street":{"name":"x"}},"tags":["c"]}');
SELECT audience.profile_set('ann', '{"address":{"street":{"name":null}}}');
SELECT audience.profile_set('ann', '{"country":null}');
SELECT pg_temp.news();
SELECT audience.profile_set('ann', '{"address":"none"}');
SELECT audience.profile_set('ann', '{"address":{"city":{"deep":null,"er":1}}}');
SELECT audience.profile_set('ann', '{}');
SELECT pg_temp.news();
SELECT audience.profile_set('empty', '{}');
SELECT pg_temp.news();
SELECT audience.profiles_set('[{"userId":"bob","attributes":{"country":"DE"}},{"userId":7,"attributes":{"country":"FR"}},{"userId":"bob","attributes":{"plan":"pro"}}]');
SELECT pg_temp.news();
SELECT audience.profiles_set('[]');
SELECT user_id, attributes FROM audience.profiles ORDER BY user_id COLLATE "C";

--
-- profile_get
--
SELECT audience.profile_get('ann');
SELECT audience.profile_get('nobody') IS NULL;
SELECT audience.trait_create('visits', 'count', 'visit');
SELECT audience.trait_create('country', 'last', 'visit', 'country');
SELECT audience.event_ingest('{"eventId":"1","userId":"bob","eventType":"purchase","timestamp":"2026-02-01T00:00:00.5Z","properties":{"amount":12.50}}');
SELECT audience.profile_get('bob');
SELECT k FROM jsonb_object_keys(audience.profile_get('bob')) k ORDER BY k;
-- a trait hides an attribute of its name even while it is missing
SELECT audience.segment_count('german');
SELECT audience.event_ingest('{"eventId":"2","userId":"bob","eventType":"visit","timestamp":"2026-02-02","properties":{"country":"DE"}}');
SELECT audience.profile_get('bob');
SELECT audience.segment_count('german');
SELECT first_seen, last_seen FROM audience.profiles WHERE user_id = 'bob';
SELECT first_seen, last_seen FROM audience.profiles WHERE user_id = 'ann';
SELECT audience.event_ingest('{"eventId":"3","userId":"bob","eventType":"visit","timestamp":"2026-01-02"}');
SELECT first_seen, last_seen FROM audience.profiles WHERE user_id = 'bob';
SELECT * FROM audience.user_segments('bob') ORDER BY 1;
SELECT pg_temp.news();

--
-- profile_merge
--
SELECT audience.segment_create('list', type => 'static');
SELECT audience.segment_create('five visits', 'visits >= 5');
SELECT audience.segment_create('first seen in France', 'first(visit.country) = ''FR''');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('anonymous', '2026-02-01', 'a1', 'visit', '{"country":"FR"}'),
 ('anonymous', '2026-02-02', '2', 'visit', '{"country":"IT"}'),
 ('anonymous', '2026-02-03', 'a3', 'visit', '{}'),
 ('known', '2026-02-02', '2', 'visit', '{"country":"DE"}'),
 ('known', '2026-02-04', 'k2', 'visit', '{}'),
 ('known', '2026-02-05', 'k3', 'visit', '{}');
SELECT audience.profiles_set('[{"userId":"anonymous","attributes":{"plan":"free","lang":"fr"}},{"userId":"known","attributes":{"plan":"pro"}}]');
SELECT audience.segment_add('list', ARRAY['anonymous']);
SELECT pg_temp.news();
SELECT audience.profile_merge('anonymous', 'known');
SELECT pg_temp.news();
SELECT audience.profile_get('anonymous') IS NULL, audience.profile_get('known');
SELECT user_id, event_id, properties FROM audience.events WHERE user_id IN ('anonymous', 'known') ORDER BY 2;
SELECT user_id, segment_id, source FROM audience.memberships WHERE user_id IN ('anonymous', 'known') ORDER BY 2;
SELECT count(*) > 0 FROM audience.transitions WHERE user_id = 'anonymous';
SELECT first_seen, last_seen FROM audience.profiles WHERE user_id = 'known';
SELECT pg_temp.try($$SELECT audience.profile_merge('anonymous', 'known')$$);
SELECT pg_temp.try($$SELECT audience.profile_merge('known', 'nobody')$$);
SELECT pg_temp.try($$SELECT audience.profile_merge('known', 'known')$$);
SELECT * FROM audience.verify();
-- events of the old id later make a new profile
SELECT audience.event_ingest('{"eventId":"9","userId":"anonymous","eventType":"visit","timestamp":"2026-02-06","properties":{"country":"FR"}}');
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- profile_erase
--
SELECT jsonb_object_agg(key, value ORDER BY key) FROM jsonb_each(audience.profile_erase('known'));
SELECT count(*) FROM audience.events WHERE user_id = 'known';
SELECT count(*) FROM audience.profiles WHERE user_id = 'known';
SELECT count(*) FROM audience.memberships WHERE user_id = 'known';
SELECT count(*) FROM audience.transitions WHERE user_id = 'known';
SELECT audience.profile_get('known') IS NULL;
SELECT pg_temp.try($$SELECT audience.profile_erase('known')$$);
SELECT * FROM audience.segment_members('list');
SELECT audience.event_ingest('{"eventId":"9","userId":"known","eventType":"visit","timestamp":"2026-02-06"}');
SELECT audience.profile_get('known');
SELECT * FROM audience.verify();

--
-- profile_rebuild
--
SELECT audience.profile_rebuild() = (SELECT count(*) FROM audience.profiles);
SELECT audience.profile_rebuild(ARRAY['ann', 'bob', 'nobody']);
SELECT audience.profile_rebuild(ARRAY[]::text[]);
DELETE FROM seen; INSERT INTO seen SELECT max(seq) FROM audience.transitions;
-- events stored without evaluation, as logical replication stores them
SET session_replication_role = replica;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) SELECT 'replica', '2026-02-06', n, 'visit' FROM generate_series(1, 5) n;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('ann', '2026-02-06', 'r', 'visit');
RESET session_replication_role;
SELECT pg_temp.news();
SELECT audience.profile_rebuild(ARRAY['ann', 'replica']);
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- a user's clock never runs back, whatever audience.now says; another's may be
-- behind
--
SELECT audience.segment_create('lately', 'count(ping, LAST ''1 hour'') >= 1');
SET audience.now = '2026-03-01T14:00:00Z';
SELECT audience.event_ingest('{"eventId":"1","userId":"ahead","eventType":"ping","timestamp":"2026-03-01T13:30:00Z"}');
SET audience.now = '2026-03-01T12:00:00Z';
SELECT audience.event_ingest('{"eventId":"2","userId":"ahead","eventType":"ping","timestamp":"2026-03-01T12:00:00Z"}');
SELECT audience.event_ingest('{"eventId":"1","userId":"behind","eventType":"ping","timestamp":"2026-03-01T12:00:00Z"}');
SELECT audience.profile_set('ahead', '{"country":"DE"}');
SELECT audience.profile_rebuild(ARRAY['ahead', 'behind']);
SELECT user_id, evaluated_at FROM audience.profiles WHERE user_id IN ('ahead', 'behind') ORDER BY 1;
SELECT user_id, segment_id, action, occurred_at FROM audience.transitions WHERE user_id IN ('ahead', 'behind') ORDER BY user_id, seq;
SET audience.now = '2026-03-01T14:30:00Z';
SELECT audience.profile_set('ahead', '{}');
SELECT user_id, segment_id, entered_at FROM audience.memberships WHERE user_id = 'ahead' ORDER BY 2;
SET audience.now = '2026-03-01T12:00:00Z';
SELECT audience.segment_update('lately', rules => 'count(ping, LAST ''2 hours'') >= 1');
SELECT segment_id, action, reason, occurred_at FROM audience.transitions WHERE user_id = 'ahead' AND segment_id = 'lately' ORDER BY seq;
SELECT * FROM audience.verify();

--
-- verify notices what was bent by force
--
-- a profile's memberships with one more, packed by hand in the machine's byte
-- order: twice the count and 1, times in microseconds from 2000 on, numbers,
-- ascending, and which time is whose
CREATE FUNCTION pg_temp.native(big_endian bytea) RETURNS bytea LANGUAGE sql AS $$
	SELECT CASE WHEN audience.member_since('\x0300000000000000000000000100000000', 1) IS NULL THEN big_endian
		ELSE (SELECT string_agg(substring(big_endian FROM i FOR 1), '' ORDER BY i DESC)
			FROM generate_series(1, length(big_endian)) i) END
$$;
CREATE FUNCTION pg_temp.members_with(members bytea, segment_id text) RETURNS bytea LANGUAGE sql AS $$
	SELECT pg_temp.native(int4send(count(*)::int * 2 + 1)) ||
		string_agg(pg_temp.native(int8send((extract(epoch FROM at - '2000-01-01Z') * 1000000)::bigint)), '' ORDER BY number) ||
		string_agg(pg_temp.native(int4send(number)), '' ORDER BY number) ||
		string_agg(substring(int4send(slot::int) FROM 4), '' ORDER BY number)
	FROM (SELECT number, at, row_number() OVER (ORDER BY number) - 1 AS slot FROM (SELECT * FROM audience.members_list(members) UNION ALL
		SELECT s.number, now() FROM audience.segments s WHERE s.id = segment_id) l (number, at)) m
$$;
BEGIN;
UPDATE audience.profiles SET members = audience.members_remove(members, (SELECT number FROM audience.segments WHERE id = 'by_id')) WHERE user_id = 'ann';
SELECT problem, user_id, segment_id FROM audience.verify() ORDER BY 1, 2, 3;
ROLLBACK;
BEGIN;
UPDATE audience.profiles SET members = pg_temp.members_with(members, 'german') WHERE user_id = 'ann';
SELECT DISTINCT problem, user_id, segment_id FROM audience.verify() ORDER BY 1, 2, 3;
ROLLBACK;
BEGIN;
UPDATE audience.profiles SET first_seen = '2020-01-01' WHERE user_id = 'bob';
SELECT DISTINCT problem, user_id FROM audience.verify() ORDER BY 1, 2;
ROLLBACK;
BEGIN;
DELETE FROM audience.profiles WHERE user_id = 'bob';
SELECT DISTINCT problem = 'orphan' OR problem IN ('profile', 'membership', 'trait', 'timer', 'transition'), user_id FROM audience.verify() WHERE user_id = 'bob';
ROLLBACK;
BEGIN;
SET session_replication_role = replica;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('bob', '2026-02-06', 'r', 'visit');
SELECT DISTINCT problem, user_id FROM audience.verify() WHERE problem = 'trait' ORDER BY 1, 2;
ROLLBACK;
SELECT * FROM audience.verify();
