-- Background workers, as SQL sees them.

-- Neither dumped nor replicated, and nobody's when the server has crashed.
CREATE UNLOGGED TABLE audience.restoring (
	pid integer NOT NULL,
	started_at timestamptz NOT NULL
);
COMMENT ON TABLE audience.restoring IS
	'sessions that have restored rows of a dump, until that is over: the scheduler waits';
COMMENT ON COLUMN audience.restoring.pid IS 'its process';
COMMENT ON COLUMN audience.restoring.started_at IS 'when it began';
-- a dump's script turns row_security off before it creates the extension
INSERT INTO audience.restoring
SELECT a.pid, a.backend_start FROM pg_catalog.pg_stat_activity a
WHERE a.pid = pg_catalog.pg_backend_pid() AND pg_catalog.current_setting('row_security') = 'off';

CREATE FUNCTION audience.rows_restored() RETURNS trigger
AS 'MODULE_PATHNAME', 'aud_rows_restored'
LANGUAGE C SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.rows_restored() IS 'notes that a dump is being restored, where rows come as those of a dump do';

-- the engine sets timers without statements
CREATE TRIGGER rows_restored AFTER INSERT ON audience.timers
	FOR EACH STATEMENT EXECUTE FUNCTION audience.rows_restored();
COMMENT ON TRIGGER rows_restored ON audience.timers IS 'has the scheduler wait for a restore';
CREATE TRIGGER rows_restored AFTER INSERT ON audience.refreshes
	FOR EACH STATEMENT EXECUTE FUNCTION audience.rows_restored();
COMMENT ON TRIGGER rows_restored ON audience.refreshes IS 'has the scheduler wait for a restore';

-- Timers wait for whatever else the scheduler is at, so it waits for nobody long:
-- neither for definitions in use nor for a user that an open transaction has
-- locked.  Such a step is tried again later; and so is one that was given up
-- because such a transaction in turn waited for it.

-- The newest fill does the work of older ones.  A fill is ended in another
-- transaction than its last step, which has locked the definitions for sharing.
CREATE FUNCTION audience.refresh_work() RETURNS integer
AS $$
DECLARE
	refresh audience.refreshes;
BEGIN
	SELECT r.* INTO refresh FROM audience.refreshes r ORDER BY r.fill DESC LIMIT 1;
	IF NOT FOUND THEN
		RETURN 0;
	ELSIF refresh.finishing THEN
		PERFORM audience.refresh_finish(refresh.fill);
	ELSE
		PERFORM audience.refresh_step(refresh.fill);
	END IF;
	RETURN 1;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
	RETURN 2;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET audience.definition_wait = '200ms' SET lock_timeout = '200ms';
COMMENT ON FUNCTION audience.refresh_work() IS
	'internal, for the scheduler: a step of the newest fill; 0: there is none, 1: there may be more, 2: others are in the way, later';

CREATE FUNCTION audience.retention_work() RETURNS integer
AS $$
BEGIN
	RETURN audience.run_retention()::integer;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
	RETURN 2;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET audience.definition_wait = '200ms' SET lock_timeout = '200ms';
COMMENT ON FUNCTION audience.retention_work() IS
	'internal, for the scheduler: a step of retention; 0: nothing to do, 1: there may be more, 2: others are in the way, later';

CREATE FUNCTION audience.scheduler_statistics(OUT pid integer, OUT state text, OUT started_at timestamptz,
	OUT next_due_at timestamptz, OUT done bigint, OUT last_run_at timestamptz,
	OUT errors bigint, OUT last_error text, OUT last_error_at timestamptz)
AS 'MODULE_PATHNAME', 'aud_scheduler_statistics'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.scheduler_statistics() IS 'what view stat_scheduler has from the scheduler itself';

CREATE VIEW audience.stat_scheduler AS
SELECT s.pid, s.state, s.started_at, s.next_due_at, t.due, audience.now() - t.oldest AS lag,
	s.done, s.last_run_at, s.errors, s.last_error, s.last_error_at
FROM audience.scheduler_statistics() s,
	(SELECT count(*) AS due, min(due_at) AS oldest FROM audience.timers WHERE due_at <= audience.now()) t;
COMMENT ON VIEW audience.stat_scheduler IS
	'what the scheduler of this database is at; needs shared_preload_libraries';
COMMENT ON COLUMN audience.stat_scheduler.pid IS 'its process; null if it is not running';
COMMENT ON COLUMN audience.stat_scheduler.state IS
	'"running", "sleeping", "idle: audience.now is set", "idle: a dump is being restored", "idle: timers are replicated" (by a subscription), "backing off" (after an error) or "not running"';
COMMENT ON COLUMN audience.stat_scheduler.started_at IS 'since when it runs';
COMMENT ON COLUMN audience.stat_scheduler.next_due_at IS 'the next timer that it knows of';
COMMENT ON COLUMN audience.stat_scheduler.due IS 'users whose timer is due, and who wait to be looked at';
COMMENT ON COLUMN audience.stat_scheduler.lag IS 'how long the first of them has waited; null if there is none';
COMMENT ON COLUMN audience.stat_scheduler.done IS 'users it has looked at since it was started';
COMMENT ON COLUMN audience.stat_scheduler.last_run_at IS 'when it last looked for users who are due';
COMMENT ON COLUMN audience.stat_scheduler.errors IS 'errors since it was started';
COMMENT ON COLUMN audience.stat_scheduler.last_error IS
	'the message of the last one, for the extension''s owner and members of pg_read_all_stats';
COMMENT ON COLUMN audience.stat_scheduler.last_error_at IS 'when that was';
