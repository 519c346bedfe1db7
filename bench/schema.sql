--
-- schema.sql: the stream of the benchmark, the feed and the measurements.
--
-- All contestants take the same rows into an event table of the same shape:
-- bare.events (nothing on it), peer.events (peer.sql) and audience.events.
--
\ir result.sql
CREATE SCHEMA bare;

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

CREATE UNLOGGED TABLE bench.rules (n int PRIMARY KEY, rule text NOT NULL, path jsonpath NOT NULL);

CREATE TABLE bare.events (
	user_id text NOT NULL,
	occurred_at timestamptz NOT NULL,
	event_id text NOT NULL,
	event_type text NOT NULL,
	properties jsonb NOT NULL,
	context jsonb NOT NULL,
	received_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (user_id, occurred_at, event_id)
);

-- Seconds of CPU that this backend has used (Linux).
CREATE FUNCTION bench.cpu() RETURNS float8 LANGUAGE sql AS $$
	SELECT (field[12]::float8 + field[13]::float8) / 100
	FROM (SELECT string_to_array(split_part(pg_read_file('/proc/self/stat'), ') ', 2), ' ') AS field) stat
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
			PERFORM set_config('audience.now',
				to_char(max(occurred_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), false)
			FROM bench.stage WHERE id BETWEEN first AND upto;
		END IF;
		EXECUTE command USING first, upto;
		COMMIT;
		first := upto + 1;
	END LOOP;
END $$;

-- The same, measured; changes are the rows that it adds to the history named.
CREATE PROCEDURE bench.run(contestant text, segments int, target regclass, history text,
						   batch int, first bigint, last bigint) LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz;
	cpu float8;
	lsn pg_lsn;
	seconds float8;
	wal numeric;
	before bigint := 0;
	after bigint := 0;
BEGIN
	IF history IS NOT NULL THEN
		EXECUTE format('SELECT count(*) FROM %s', history) INTO before;
	END IF;
	COMMIT;
	started := clock_timestamp();
	cpu := bench.cpu();
	lsn := pg_current_wal_insert_lsn();
	CALL bench.feed(target, batch, first, last);
	seconds := extract(epoch FROM clock_timestamp() - started);
	cpu := bench.cpu() - cpu;
	wal := pg_current_wal_insert_lsn() - lsn;
	IF history IS NOT NULL THEN
		EXECUTE format('SELECT count(*) FROM %s', history) INTO after;
	END IF;
	INSERT INTO bench.result (contestant, segments, events, seconds, cpu, wal, changes)
	VALUES (contestant, segments, last - first + 1, seconds, cpu, wal, after - before);
	COMMIT;
END $$;

-- Times a query that returns one number: its seconds and what it said.
CREATE FUNCTION bench.time(query text, OUT seconds float8, OUT said bigint) LANGUAGE plpgsql AS $$
DECLARE
	started timestamptz := clock_timestamp();
BEGIN
	EXECUTE query INTO said;
	seconds := extract(epoch FROM clock_timestamp() - started);
END $$;
