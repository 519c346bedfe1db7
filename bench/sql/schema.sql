--
-- schema.sql: the stream of the benchmark, the feed and the measurements.
--
-- All contestants take the same rows into an event table of the same shape:
-- bare.events (nothing on it), peer.events (peer.sql) and audience.events.
--
CREATE SCHEMA bench;
CREATE SCHEMA bare;

-- the stream, in order of time
CREATE UNLOGGED TABLE bench.stage (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	user_id text NOT NULL,
	occurred_at timestamptz NOT NULL,
	event_id text NOT NULL,
	event_type text NOT NULL,
	properties jsonb NOT NULL,
	context jsonb NOT NULL
);

CREATE UNLOGGED TABLE bench.attributes (user_id text PRIMARY KEY, attributes jsonb NOT NULL);

-- rules of each kind (generate_rules.pl), in two spellings
CREATE UNLOGGED TABLE bench.rules (
	kind text NOT NULL,
	n int NOT NULL,
	rule text NOT NULL,
	path jsonpath NOT NULL,
	PRIMARY KEY (kind, n)
);

CREATE TABLE bare.events (LIKE audience.events INCLUDING ALL);
ALTER TABLE bare.events ALTER occurred_at SET DEFAULT now();

-- Seconds of CPU that this backend has used: Linux's count in nanoseconds, or
-- where it is not to be had, in ticks.
CREATE FUNCTION bench.cpu() RETURNS float8 LANGUAGE sql AS $$
	SELECT coalesce(
		split_part(pg_read_file('/proc/self/schedstat', 0, 1000, true), ' ', 1)::float8 / 1e9,
		(SELECT (field[12]::float8 + field[13]::float8) / 100
		 FROM (SELECT string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' ') AS field) stat))
$$;

-- An instant as the setting audience.now has it.
CREATE FUNCTION bench.clock(at timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Feeds the stream's events first to last, in statements of so many rows, a
-- commit each.  The clock of rules goes with the stream; the others, which
-- look at their events' times, do not need it.
CREATE PROCEDURE bench.feed(target regclass, batch int, first bigint, last bigint) LANGUAGE plpgsql AS $$
DECLARE
	command text := format(
		'INSERT INTO %s (user_id, occurred_at, event_id, event_type, properties, context)
		 SELECT user_id, occurred_at, event_id, event_type, properties, context
		 FROM bench.stage WHERE id BETWEEN $1 AND $2', target);
	moves_clock boolean := target = 'audience.events'::regclass;
	upto bigint;
BEGIN
	WHILE first <= last LOOP
		upto := least(first + batch - 1, last);
		IF moves_clock THEN
			PERFORM set_config('audience.now', bench.clock(occurred_at), false) FROM bench.stage WHERE id = upto;
		END IF;
		EXECUTE command USING first, upto;
		COMMIT;
		first := upto + 1;
	END LOOP;
END $$;

-- The same, measured but for the first event, with which a new session loads
-- what it needs: events a second of wall time and of the backend's CPU time,
-- its CPU time per event, and per event what the engine and the history say;
-- the WAL's ends are for pg_waldump.
CREATE PROCEDURE bench.run(
	target regclass, batch int, first bigint, last bigint,
	INOUT rate float8 = NULL, INOUT cpu_rate float8 = NULL, INOUT cpu_us float8 = NULL,
	INOUT changes float8 = NULL, INOUT users float8 = NULL, INOUT rules float8 = NULL, INOUT rows_read float8 = NULL,
	INOUT wal_from pg_lsn = NULL, INOUT wal_to pg_lsn = NULL
) LANGUAGE plpgsql AS $$
DECLARE
	number float8 := last - first;
	started timestamptz;
	history text := CASE target
		WHEN 'peer.events'::regclass THEN 'peer.changes WHERE at >= $1'
		WHEN 'audience.events'::regclass THEN 'audience.transitions WHERE recorded_at >= $1' END;
	before audience.stat_engine;
	after audience.stat_engine;
	start_cpu float8;
	cpu float8;
	seconds float8;
BEGIN
	CALL bench.feed(target, batch, first, first);
	SELECT * INTO before FROM audience.stat_engine;
	wal_from := pg_current_wal_insert_lsn();
	start_cpu := bench.cpu();
	started := clock_timestamp();
	COMMIT;
	CALL bench.feed(target, batch, first + 1, last);
	seconds := extract(epoch FROM clock_timestamp() - started);
	cpu := bench.cpu() - start_cpu;
	wal_to := pg_current_wal_insert_lsn();
	rate := number / seconds;
	cpu_rate := number / cpu;
	cpu_us := cpu / number * 1e6;
	IF history IS NOT NULL THEN
		EXECUTE 'SELECT count(*) FROM ' || history INTO changes USING started;
		changes := changes / number;
	END IF;
	IF target = 'audience.events'::regclass THEN
		SELECT * INTO after FROM audience.stat_engine;
		users := (after.users - before.users) / number;
		rules := (after.rules_evaluated - before.rules_evaluated) / number;
		rows_read := (after.rows_read - before.rows_read) / number;
	END IF;
END $$;

-- Measures a statement: its seconds, of wall and CPU time, and if it answers
-- with one number, that.
CREATE FUNCTION bench.measure(statement text, answers boolean = false,
							  OUT seconds float8, OUT cpu float8, OUT answer bigint) LANGUAGE plpgsql AS $$
DECLARE
	start_cpu float8 := bench.cpu();
	started timestamptz := clock_timestamp();
BEGIN
	IF answers THEN
		EXECUTE statement INTO answer;
	ELSE
		EXECUTE statement;
	END IF;
	seconds := extract(epoch FROM clock_timestamp() - started);
	cpu := bench.cpu() - start_cpu;
END $$;

-- audience.verify() for the users in a range of ids only, after < id <= upto.
CREATE FUNCTION bench.verify(after text, upto text) RETURNS SETOF text
SET enable_nestloop = off LANGUAGE plpgsql AS $$
DECLARE
	moved boolean;
BEGIN
	FOREACH moved IN ARRAY '{false,true}'::boolean[] LOOP
		RETURN QUERY EXECUTE format('SELECT concat_ws('' '', found.*) FROM (%s) found (problem, user_id, segment_id, detail)',
									audience.verify_statement(moved))
			USING after, upto;
	END LOOP;
END $$;

-- Deals a part of the stream out to so many clients, and puts what each gets
-- at the stream's end: by user, or event by event.  From where to where.
CREATE FUNCTION bench.split(first bigint, last bigint, clients int, by_user boolean)
	RETURNS TABLE (starts bigint, ends bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR client IN 0 .. clients - 1 LOOP
		RETURN QUERY
			WITH dealt AS (
				INSERT INTO bench.stage (user_id, occurred_at, event_id, event_type, properties, context)
				SELECT user_id, occurred_at, event_id, event_type, properties, context
				FROM bench.stage s
				WHERE s.id BETWEEN split.first AND split.last
					AND client = CASE WHEN by_user THEN abs(hashtext(user_id) % clients) ELSE s.id % clients END
				ORDER BY s.id
				RETURNING id
			)
			SELECT min(id), max(id) FROM dealt;
	END LOOP;
END $$;
