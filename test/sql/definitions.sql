--
-- Definitions in a session's memory: when they are loaded, and that sets which
-- are no longer in force go
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
CREATE FUNCTION public.loaded_sets() RETURNS bigint LANGUAGE sql AS
	'SELECT count(*) FROM pg_backend_memory_contexts WHERE name = ''audience definitions''';

-- without users, making segments loads nothing, however many there are
\c -
SELECT count(audience.segment_create('s' || i, format('count(a) >= %s', i)::audience.rule)) FROM generate_series(1, 300) i;
SELECT audience.segment_create('s301', 'count(a) >= 301 AND k = 1', refresh => 'later');
SELECT loaded_sets();
-- but for a rule over segments: cycles are refused
SELECT audience.segment_create('of_s1', 'IN SEGMENT ''s1''');
SELECT loaded_sets();

-- one set for a session, also where one transaction makes one after the other
SELECT audience.event_ingest('{"userId":"u","eventId":"1","eventType":"a"}');
SELECT count(audience.segment_create('t' || i, format('count(a) >= %s', i % 4)::audience.rule)) FROM generate_series(1, 50) i;
SELECT loaded_sets();
DO $$
BEGIN
	FOR i IN 1..5 LOOP
		PERFORM audience.segment_create('v' || i, 'k = 1');
		PERFORM audience.profile_set('u', '{"k": 1}');
		BEGIN
			PERFORM audience.segment_create('w' || i, 'IN SEGMENT ''s1''');
			PERFORM audience.profile_set('u', '{"k": 2}');
			RAISE EXCEPTION 'back';
		EXCEPTION WHEN raise_exception THEN
		END;
	END LOOP;
END $$;
SELECT loaded_sets();
SELECT count(*) FROM audience.memberships WHERE user_id = 'u';
SELECT * FROM audience.verify();

-- one version for a transaction; a savepoint that is rolled back gives it back
SELECT version AS before FROM audience.definition_version \gset
BEGIN;
SAVEPOINT s;
SELECT audience.segment_create('x1', 'k = 1');
ROLLBACK TO s;
SELECT version - :before AS counted FROM audience.definition_version;
SELECT audience.segment_create('x2', 'k = 1');
SELECT audience.segment_create('x3', 'k = 1');
COMMIT;
SELECT version - :before AS counted FROM audience.definition_version;
SELECT segment_id FROM audience.memberships WHERE user_id = 'u' AND segment_id LIKE 'x%' ORDER BY 1;

-- a set stays for whoever is using it: a trigger changes definitions while a
-- statement evaluates by those that it began with
CREATE FUNCTION public.makes_segments() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM audience.segments WHERE id = 'y1') THEN
		PERFORM audience.segment_create('y' || n, format('k = %s', n)::audience.rule) FROM generate_series(1, 20) n;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER makes_segments AFTER UPDATE ON audience.profiles FOR EACH STATEMENT
	EXECUTE FUNCTION public.makes_segments();
SELECT audience.profiles_set('[{"userId": "u", "attributes": {"k": 3}}]');
DROP TRIGGER makes_segments ON audience.profiles;
SELECT audience.profile_rebuild('{u}');
SELECT segment_id FROM audience.memberships WHERE user_id = 'u' AND segment_id ~ '^[vxy]' ORDER BY 1;
SELECT loaded_sets();
SELECT * FROM audience.verify();

-- a cycle by way of a rule that is to be filled later
SELECT audience.segment_create('c1', 'k = 9');
SELECT audience.segment_create('c2', 'IN SEGMENT ''c1''');
\set VERBOSITY terse
SELECT audience.segment_update('c1', rules => 'IN SEGMENT ''c2''', refresh => 'later');
SELECT audience.segment_create('c3', 'IN SEGMENT ''c3''', refresh => 'later');
SELECT audience.event_ingest('{"userId":"u","eventId":"2","eventType":"a"}');
DROP FUNCTION public.loaded_sets(), public.makes_segments();
