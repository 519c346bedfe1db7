--
-- result.sql: where measurements are kept.
--
CREATE SCHEMA bench;

CREATE UNLOGGED TABLE bench.result (
	at timestamptz NOT NULL DEFAULT clock_timestamp(),
	contestant text NOT NULL,
	segments int NOT NULL,
	events bigint NOT NULL,
	seconds float8 NOT NULL,
	cpu float8 NOT NULL,
	wal numeric NOT NULL,
	changes bigint NOT NULL
);
