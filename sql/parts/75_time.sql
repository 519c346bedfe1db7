-- Time: memberships that follow the clock.

CREATE FUNCTION audience.run_due("limit" integer DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_run_due'
LANGUAGE C VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.run_due(integer) IS
	'evaluates the users whose timers are due, at most so many: what the scheduler does; how many it looked at';

CREATE FUNCTION audience.state_timer(state bytea) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'aud_state_timer'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.state_timer(bytea) IS
	'internal: what a profile''s timer is set to; null: it has none';
