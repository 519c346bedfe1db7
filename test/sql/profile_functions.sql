--
-- Functions on profiles: edges of their arguments, net transitions of a merge,
-- erasing, rebuilding, and who may call what
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers

--
-- profiles_set
--
SELECT audience.profiles_set('[{"userId":7,"attributes":{"a":1}},{"userId":"7","attributes":{"b":2}},{"userId":7.0,"attributes":{"a":null}}]');
SELECT user_id, attributes FROM audience.profiles ORDER BY user_id;
SELECT doc, pg_temp.try(format('SELECT audience.profiles_set(%L)', doc)) FROM unnest(ARRAY[
 'null', '5',
 '[{"userId":"p","attributes":{}},null]',
 '[{"userId":1.5,"attributes":{}}]',
 '[{"userId":true,"attributes":{}}]',
 '[{"userId":null,"attributes":{}}]',
 '[{"userId":"p","attributes":null}]',
 '[{"userId":"p","attributes":[]},{"userId":"","attributes":{}}]']) WITH ORDINALITY d (doc, n) ORDER BY n;
SELECT pg_temp.try('SELECT audience.profiles_set(NULL)');
SELECT count(*) FROM audience.profiles WHERE user_id = 'p';

--
-- profile_get: the fixed keys win, and traits are as of now
--
SELECT audience.trait_create('segments', 'count', 'visit');
SELECT audience.trait_create('attributes', 'count', 'visit');
SELECT audience.trait_create('visits_1h', 'count', 'visit', time_window => '1 hour');
SELECT audience.event_ingest('{"userId":"t","eventId":"t1","eventType":"visit","timestamp":"2026-03-01T11:30:00Z"}');
SELECT audience.profile_get('t');
SET audience.now = '2026-03-01T12:30:00Z';
SELECT audience.profile_get('t')->'visits_1h';
SET audience.now = '2026-03-01T12:00:00Z';
SELECT audience.profile_get(NULL) IS NULL;
SELECT audience.trait_drop('segments');
SELECT audience.trait_drop('attributes');

--
-- user_segments
--
SELECT audience.segment_create('Everyone', 'true', id => 'b');
SELECT audience.segment_create('List', type => 'static', id => 'A');
SELECT audience.segment_add('A', ARRAY['t']);
SELECT * FROM audience.user_segments('t');
SELECT count(*) FROM audience.user_segments('nobody');
SELECT count(*) FROM audience.user_segments(NULL);

--
-- profile_merge: one net transition per user and segment, though events,
-- attributes and static memberships all change
--
DELETE FROM seen; INSERT INTO seen SELECT max(seq) FROM audience.transitions;
SELECT audience.segment_create('listed and poor', 'IN SEGMENT ''A'' AND totalSpent <= 100');
SELECT audience.segment_create('unlisted and rich', 'NOT IN SEGMENT ''A'' AND totalSpent > 100');
SELECT audience.segment_create('listed and rich', 'IN SEGMENT ''A'' AND totalSpent > 100');
SELECT audience.segment_create('second list', type => 'static');
SELECT audience.segment_create('sleeping list', type => 'static', active => false);
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('from', '2026-02-01', '1', 'purchase', '{"amount":150}'), ('from', '2026-02-02', '2', 'visit', '{}'),
 ('into', '2026-02-02', '2', 'visit', '{"kept":true}');
SELECT audience.segment_add('A', ARRAY['from']), audience.segment_add('second_list', ARRAY['from', 'into']);
SELECT audience.segment_add('sleeping_list', ARRAY['from']);
SELECT audience.profile_set('from', '{"a":{"x":1,"y":1},"only":"from"}'), audience.profile_set('into', '{"a":{"x":2},"mine":[null]}');
SELECT pg_temp.news();
CREATE TEMPORARY TABLE received AS SELECT event_id, received_at FROM audience.events WHERE user_id = 'from';
SELECT audience.profile_merge('from', 'into');
SELECT pg_temp.news();
SELECT event_id, properties, r.received_at = e.received_at AS received_at_kept FROM audience.events e LEFT JOIN received r USING (event_id) WHERE user_id = 'into' ORDER BY 1;
SELECT audience.profile_get('into');
SELECT segment_id, reason, occurred_at, segment_version, metadata FROM audience.transitions WHERE user_id = 'from' AND action = 'removed' ORDER BY 1;
SELECT count(*) FROM audience.events WHERE user_id = 'from';
SELECT count(*) FROM audience.profiles WHERE user_id = 'from';
-- a membership of an inactive list went along
SELECT audience.segment_update('sleeping_list', active => true);
SELECT user_id FROM audience.segment_members('sleeping_list');
-- refused whole
SELECT pg_temp.try($$SELECT audience.profile_merge('into', 'nobody')$$);
SELECT pg_temp.try($$SELECT audience.profile_merge('nobody', 'into')$$);
SELECT pg_temp.try($$SELECT audience.profile_merge('nobody', 'no one')$$);
SELECT pg_temp.try($$SELECT audience.profile_merge(NULL, 'into')$$);
SELECT pg_temp.try($$SELECT audience.profile_merge('into', 'into')$$);
SELECT count(*) FROM audience.events WHERE user_id = 'into';
-- into a user that was never evaluated
SELECT audience.profile_merge('into', '7');
SELECT audience.profile_get('7');
-- undone with its transaction
BEGIN;
SELECT audience.profile_merge('7', 't');
ROLLBACK;
SELECT audience.profile_get('7')->'segments';
-- by the real clock, no transition is before those that the user had
RESET audience.now;
SELECT audience.profile_set('clock 1', '{}'), audience.profile_set('clock 2', '{}');
SELECT audience.profile_merge('clock 1', 'clock 2');
SELECT user_id, segment_id, action, occurred_at >= lag(occurred_at, 1, occurred_at) OVER (PARTITION BY user_id ORDER BY seq) AS in_order
FROM audience.transitions WHERE user_id ~ '^clock' ORDER BY user_id, seq;
SET audience.now = '2026-03-01T12:00:00Z';
SELECT audience.profile_erase('clock 2');

SELECT * FROM audience.verify();

--
-- profile_erase
--
SELECT audience.profile_erase('7');
SELECT pg_temp.try($$SELECT audience.profile_erase('7')$$);
SELECT pg_temp.try($$SELECT audience.profile_erase('')$$);
SELECT user_id FROM audience.segment_members('A');

--
-- profile_rebuild
--
SET session_replication_role = replica;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('stored 2', '2026-02-01', 's', 'purchase', '{"amount":500}'), ('stored 1', '2026-02-01', 's', 'purchase', '{"amount":1}');
RESET session_replication_role;
DELETE FROM seen; INSERT INTO seen SELECT max(seq) FROM audience.transitions;
SELECT audience.profile_rebuild(ARRAY['stored 2', 'nobody', 'stored 2']);
SELECT pg_temp.news();
SELECT audience.profile_rebuild();
SELECT pg_temp.news();
SELECT audience.profile_rebuild();
SELECT pg_temp.news();
SELECT pg_temp.try('SELECT audience.profile_rebuild(ARRAY[NULL])');
SELECT * FROM audience.verify();

--
-- grant_access
--
CREATE ROLE "regress audience role";
SELECT pg_temp.try($$SELECT audience.grant_access('"regress audience role"', 'everything')$$);
SELECT pg_temp.try($$SELECT audience.grant_access('"regress audience role"', NULL)$$);
SELECT pg_temp.try($$SELECT audience.grant_access('"regress audience nobody"', 'read')$$);
SELECT pg_temp.try($$SELECT audience.grant_access(NULL, 'read')$$);
SELECT pg_temp.try($$SELECT audience.grant_access(0, 'read')$$);
-- what PUBLIC may execute
SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM pg_proc p
WHERE p.pronamespace = 'audience'::regnamespace AND has_function_privilege('regress audience role', p.oid, 'EXECUTE');
-- what each level adds
BEGIN;
SELECT audience.grant_access('"regress audience role"', 'ingest');
SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname) FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'audience'::regnamespace AND a.grantee = '"regress audience role"'::regrole;
SELECT has_column_privilege('regress audience role', 'audience.events', 'occurred_at', 'INSERT'),
	has_column_privilege('regress audience role', 'audience.events', 'received_at', 'INSERT'),
	has_table_privilege('regress audience role', 'audience.events', 'SELECT');
SET LOCAL ROLE "regress audience role";
INSERT INTO audience.events (user_id, event_type) VALUES ('by role', 't');
SELECT audience.event_ingest('{"userId":"by role","eventType":"t","eventId":"x"}');
SELECT audience.profile_set('by role', '{}');
ROLLBACK;
BEGIN;
SELECT audience.grant_access('"regress audience role"', 'read');
SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_class c
WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname !~ '^(stat|kafka)_'
	AND has_table_privilege('regress audience role', c.oid, 'SELECT');
SET LOCAL ROLE "regress audience role";
SELECT audience.profile_get('t');
SELECT p.user_id, p OPERATOR(audience.|=) 'userId = ''t''' FROM audience.profiles p ORDER BY 1;
SELECT segment_id FROM audience.user_segments('t');
SELECT segment_id, source FROM audience.memberships WHERE user_id = 't' ORDER BY 1;
SELECT segment_id, action FROM audience.transitions WHERE user_id = 't' ORDER BY seq;
SAVEPOINT s;
SELECT audience.profile_set('t', '{}');
ROLLBACK;
BEGIN;
SELECT audience.grant_access('"regress audience role"', 'admin');
-- nothing that is internal, and no way around the functions
SELECT p.proname FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'audience'::regnamespace AND a.grantee = '"regress audience role"'::regrole
	AND (obj_description(p.oid, 'pg_proc') ~ '^internal' OR p.prorettype = 'trigger'::regtype);
SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'audience'::regnamespace AND a.grantee = '"regress audience role"'::regrole AND a.privilege_type <> 'SELECT';
-- every function for users is among them
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'audience'::regnamespace AND NOT has_function_privilege('regress audience role', p.oid, 'EXECUTE')
	AND obj_description(p.oid, 'pg_proc') !~ '^internal' AND p.prorettype <> 'trigger'::regtype ORDER BY 1::text;
SET LOCAL ROLE "regress audience role";
SELECT audience.segment_create('by role', 'true');
SELECT audience.profile_rebuild(ARRAY['t']);
SELECT audience.profile_erase('t');
ROLLBACK;
DROP ROLE "regress audience role";
