-- Fills in chunks: segments that are made or changed "later", and segment_refresh.
--
-- A fill has a number.  Segments whose members it brings in line, and aggregates
-- whose states it makes, carry it as "pending"; a user's state says up to which
-- number the user is whole.  Whoever evaluates a user, ingestion too, makes it
-- whole, so all that a fill adds is to go through those that nobody else has
-- touched.  It goes in the order of the ids and remembers where it is; a user
-- that is made behind its back is whole from the start.

CREATE FUNCTION audience.refresh_later(refresh text) RETURNS boolean
AS $$
BEGIN
	IF refresh IS NULL OR refresh NOT IN ('now', 'later') THEN
		RAISE EXCEPTION 'refresh must be "now" or "later"' USING ERRCODE = '22023';
	END IF;
	RETURN refresh = 'later';
END
$$ LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_later(text) IS 'internal: is it "later"?  other than "now": 22023';

CREATE FUNCTION audience.refreshes_prune() RETURNS void
AS $$
	DELETE FROM audience.refreshes r
	WHERE NOT EXISTS (SELECT FROM audience.segments s WHERE s.pending = r.fill)
$$ LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refreshes_prune() IS 'internal: gives up the fills that no segment waits for any more';

CREATE FUNCTION audience.refresh_forget(numbers integer[], fill bigint) RETURNS void
AS $$
BEGIN
	UPDATE audience.segments s SET pending = NULL, pending_reason = NULL, status = 'ready'
	WHERE s.number = ANY (numbers) AND s.pending = fill;
	PERFORM audience.refreshes_prune();
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_forget(integer[], bigint) IS
	'internal: these segments do not wait for that fill any more, because they are filled otherwise';

CREATE FUNCTION audience.refresh_schedule(segment_number integer, concerned integer[], rules audience.rule, reason text)
	RETURNS void
AS $$
DECLARE
	new_fill bigint;
BEGIN
	INSERT INTO audience.refreshes (segment_number) VALUES (refresh_schedule.segment_number)
	RETURNING fill INTO new_fill;
	PERFORM audience.aggregates_add(rules, new_fill);
	UPDATE audience.segments s SET pending = new_fill, pending_reason = reason
	WHERE s.number = ANY (concerned);
	PERFORM audience.refreshes_prune();
	PERFORM audience.note_fill();
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_schedule(integer, integer[], audience.rule, text) IS
	'internal: a new fill for these segments, on behalf of one of them; under the exclusive definitions lock';

CREATE FUNCTION audience.refresh_begin(id text) RETURNS bigint
AS $$
DECLARE
	segment audience.segments := audience.segment_row(refresh_begin.id);
BEGIN
	IF segment.type = 'static' THEN
		RAISE EXCEPTION 'segment "%" is static', segment.id USING ERRCODE = '42809',
			DETAIL = 'It has no rules to evaluate.';
	END IF;
	IF segment.pending IS NULL AND segment.active THEN
		PERFORM audience.definitions_change();
		segment := audience.segment_row(refresh_begin.id);
		IF segment.pending IS NULL AND segment.active THEN
			PERFORM audience.refresh_schedule(segment.number, ARRAY[segment.number], segment.rules, 'refresh');
			segment := audience.segment_row(refresh_begin.id);
		END IF;
	END IF;
	RETURN segment.pending;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_begin(text) IS
	'begins to evaluate everyone anew for a segment, or goes on with what has begun; the fill''s number, null for an inactive segment; for segment_refresh';

-- Whoever works on a fill holds its row for a chunk's time, so several take turns.
-- Ingestion may have to wait for a chunk, and some users take a thousand times as
-- long as others: the last chunk's rate says how many users take a tenth of a second.
CREATE FUNCTION audience.refresh_step(fill bigint, users integer DEFAULT NULL) RETURNS boolean
AS $$
DECLARE
	refresh audience.refreshes;
	most integer;
	chunk record;
	start timestamptz;
	seconds double precision;
BEGIN
	PERFORM audience.definitions_lock_shared();
	SELECT r.* INTO refresh FROM audience.refreshes r WHERE r.fill = refresh_step.fill FOR UPDATE;
	IF NOT FOUND OR refresh.finishing THEN
		RETURN false;
	END IF;
	-- not when it was scheduled: nobody ingests then
	IF refresh.users_total IS NULL THEN
		UPDATE audience.refreshes r SET users_total = (
			-- counting many would take long; an estimate does as well
			SELECT CASE WHEN c.reltuples > 1000000 THEN c.reltuples ELSE (SELECT count(*) FROM audience.profiles) END
			FROM pg_class c WHERE c.oid = 'audience.profiles'::regclass)
		WHERE r.fill = refresh_step.fill;
	END IF;
	most := coalesce(users, refresh.next_users);
	start := clock_timestamp();
	chunk := audience.fill_chunk(refresh.position, most);
	seconds := extract(epoch FROM clock_timestamp() - start);
	UPDATE audience.refreshes r
	SET position = coalesce(chunk.last, r.position), users_done = r.users_done + chunk.users,
		finishing = chunk.users < most, worked_seconds = r.worked_seconds + seconds,
		next_users = least(5000, greatest(10, most / 10, least(most * 10, chunk.users * 0.1 / greatest(seconds, 0.0001))))
	WHERE r.fill = refresh_step.fill;
	RETURN chunk.users = most;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_step(bigint, integer) IS
	'evaluates the next users for a fill, so many or as many as take a tenth of a second; false: there are no more; for segment_refresh and the scheduler';

CREATE FUNCTION audience.refresh_finish(fill bigint) RETURNS bigint
AS $$
DECLARE
	built integer[];
	concerned integer[];
BEGIN
	PERFORM audience.definitions_lock();
	IF NOT EXISTS (SELECT FROM audience.refreshes r WHERE r.fill = refresh_finish.fill AND r.finishing) THEN
		RETURN NULL;
	END IF;
	-- everyone is whole up to this number, so older fills are done as well
	built := ARRAY(SELECT s.number FROM audience.segments s
		WHERE s.pending <= refresh_finish.fill AND s.status = 'building');
	-- those that refer to one of these now see its members; as long as they have not,
	-- such as are building themselves are not whole
	concerned := ARRAY(SELECT DISTINCT d FROM unnest(built) b, unnest(audience.dependents(ARRAY[b])) d WHERE d <> b);
	UPDATE audience.segments s SET pending = NULL, pending_reason = NULL,
		status = CASE WHEN s.number = ANY (concerned) THEN s.status ELSE 'ready' END
	WHERE s.pending <= refresh_finish.fill;
	UPDATE audience.aggregates a SET pending = NULL WHERE a.pending <= refresh_finish.fill;
	DELETE FROM audience.refreshes r WHERE r.fill <= refresh_finish.fill;
	IF concerned <> '{}' THEN
		PERFORM audience.refresh_schedule(concerned[1], concerned, NULL, 'backfill');
	END IF;
	RETURN (SELECT s.pending FROM audience.segments s WHERE s.number = concerned[1]);
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_finish(bigint) IS
	'ends a fill that has gone through all users: its segments are whole; the fill that follows, for those that refer to them, or null; for segment_refresh and the scheduler';

CREATE FUNCTION audience.refresh_pending(id text) RETURNS bigint
AS 'SELECT s.pending FROM audience.segments s WHERE s.id = refresh_pending.id'
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_pending(text) IS 'the fill that a segment waits for; for segment_refresh';

CREATE VIEW audience.segment_refresh_progress AS
	SELECT n.segment_id, CASE WHEN r.finishing THEN 'finishing' ELSE 'filling' END AS phase,
		r.users_done, CASE WHEN r.users_total IS NOT NULL THEN greatest(r.users_total, r.users_done) END AS users_total,
		pg_catalog.round((r.users_done / nullif(r.worked_seconds, 0))::numeric) AS users_per_second,
		pg_catalog.make_interval(secs => greatest(r.users_total - r.users_done, 0) * r.worked_seconds / nullif(r.users_done, 0)) AS time_left,
		r.started_at, r.fill
	FROM audience.refreshes r JOIN audience.segment_numbers n ON n.number = r.segment_number;
COMMENT ON VIEW audience.segment_refresh_progress IS 'fills that go through the users in chunks, one row each until it is done';
COMMENT ON COLUMN audience.segment_refresh_progress.segment_id IS 'the segment it is for';
COMMENT ON COLUMN audience.segment_refresh_progress.phase IS 'filling, or finishing: all users are done';
COMMENT ON COLUMN audience.segment_refresh_progress.users_done IS 'users done';
COMMENT ON COLUMN audience.segment_refresh_progress.users_total IS 'users there were when it began; null: they have not been counted yet';
COMMENT ON COLUMN audience.segment_refresh_progress.users_per_second IS 'users per second of work; null: none yet';
COMMENT ON COLUMN audience.segment_refresh_progress.time_left IS 'how long the rest will take at that rate';
COMMENT ON COLUMN audience.segment_refresh_progress.started_at IS 'when it began';
COMMENT ON COLUMN audience.segment_refresh_progress.fill IS 'its number; an older one is done when a newer one is';

CREATE FUNCTION audience.refresh_notice(fill bigint) RETURNS text
AS $$
	SELECT pg_catalog.format('%s: %s of %s users, %s a second, %s left', p.segment_id, p.users_done, p.users_total,
		p.users_per_second, pg_catalog.date_trunc('second', p.time_left))
	FROM audience.segment_refresh_progress p WHERE p.fill = refresh_notice.fill
$$ LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.refresh_notice(bigint) IS 'a fill''s progress in a line; for segment_refresh';

-- A procedure that commits cannot be SECURITY DEFINER or have settings: every
-- name in it is qualified.
CREATE PROCEDURE audience.segment_refresh(id text)
AS $$
DECLARE
	wanted bigint := audience.refresh_begin(id);
	following bigint;
	said pg_catalog.timestamptz := pg_catalog.clock_timestamp();
BEGIN
	COMMIT;
	WHILE wanted IS NOT NULL LOOP
		WHILE audience.refresh_step(wanted) LOOP
			COMMIT;
			IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) said OPERATOR(pg_catalog.>=) interval '1 second' THEN
				RAISE NOTICE '%', audience.refresh_notice(wanted);
				said := pg_catalog.clock_timestamp();
			END IF;
		END LOOP;
		COMMIT;
		following := audience.refresh_finish(wanted);
		COMMIT;
		-- a change of the segment meanwhile has begun another one; the newer of two does for both
		wanted := greatest(following, audience.refresh_pending(id));
	END LOOP;
END
$$ LANGUAGE plpgsql;
COMMENT ON PROCEDURE audience.segment_refresh(text) IS
	'evaluates everyone anew for a segment, and then for those that waited for it, in chunks that commit; goes on with a fill that was interrupted';
