-- What the regress tests share: a fresh extension, a fixed clock, and two
-- functions that show errors and transitions.  Included by each test, so that
-- none depends on what another left behind.
\set ECHO none
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS audience_manager CASCADE;
CREATE EXTENSION audience_manager;
SET audience.strict = on;
SET timezone = 'UTC';
SET datestyle = 'ISO, MDY';
SET audience.now = '2026-03-01T12:00:00Z';
-- what a statement raises, as SQLSTATE, message, DETAIL and HINT; its result
-- as text where it raises nothing.  The ranges of settings with units are left
-- out: versions of PostgreSQL print them differently.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	message text;
	detail text;
	hint text;
BEGIN
	IF statement ~* '^(SELECT|.*RETURNING)' THEN
		EXECUTE statement INTO result;
	ELSE
		EXECUTE statement;
	END IF;
	RETURN coalesce('ok: ' || result, 'ok');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT,
		detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN sqlstate || ': ' || regexp_replace(message, '( is outside the valid range for parameter .*) [(].*[)]$', '\1')
		|| coalesce(E'\n  DETAIL: ' || nullif(detail, ''), '')
		|| coalesce(E'\n  HINT: ' || nullif(hint, ''), '');
END $$;
-- the transitions since this was asked for the last time; ids that were made up
-- are not the same twice
CREATE TEMPORARY TABLE seen (seq bigint);
INSERT INTO seen VALUES (0);
CREATE FUNCTION pg_temp.news() RETURNS SETOF text LANGUAGE sql AS $$
	WITH new AS (
		SELECT t.* FROM audience.transitions t, seen s WHERE t.seq > s.seq),
	mark AS (
		UPDATE seen SET seq = greatest(seq, (SELECT max(n.seq) FROM new n)))
	SELECT concat_ws(' ', user_id, action, segment_id, reason, 'event',
		coalesce(regexp_replace(event_id, '^[0-9a-f-]{36}$', '(uuid)'), '-'))
	FROM new ORDER BY user_id COLLATE "C", segment_id COLLATE "C", seq
$$;
\set ECHO all
