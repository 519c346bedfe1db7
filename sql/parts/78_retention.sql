-- Retention: old transitions and events go, in small steps.
--
-- For each of the two there are passes over all users, in the order of their
-- ids.  A pass begins when a tenth of the time that is kept has gone by since
-- the last one began, but no more than once an hour and at least once a day;
-- row of table retention remembers where it is.  Whoever makes a step holds that
-- row, and only that, so several take turns.  All times are audience.now()'s.

CREATE FUNCTION audience.retention_setting(kind text) RETURNS interval
AS 'MODULE_PATHNAME', 'aud_retention_setting'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.retention_setting(text) IS
	'how long "transitions" or "events" are kept, null: for ever; for view retention_progress';

CREATE FUNCTION audience.event_retention_limit(OUT before timestamptz, OUT aggregate integer)
AS 'MODULE_PATHNAME', 'aud_event_retention_limit'
LANGUAGE C STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.event_retention_limit() IS
	'before which instant no window or sequence needs events now, and the aggregate that needs the earliest; for view retention_progress';

CREATE FUNCTION audience.event_retention_chunk(after text, before timestamptz, most integer,
	OUT last text, OUT events bigint)
AS 'MODULE_PATHNAME', 'aud_event_retention_chunk'
LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.event_retention_chunk(text, timestamptz, integer) IS
	'internal: the next users'' events before an instant go into their bases; the last who is done (null: all are), and how many went';

CREATE FUNCTION audience.event_base_items(states bytea, OUT aggregate integer, OUT occurred_at timestamptz,
	OUT event_id text, OUT value jsonb, OUT count bigint) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_event_base_items'
LANGUAGE C STABLE STRICT ROWS 20;
COMMENT ON FUNCTION audience.event_base_items(bytea) IS
	'internal, for verify: what a base holds, as events that stand for several each';

CREATE VIEW audience.retention_progress AS
	SELECT k.kind, pg_catalog.justify_hours(audience.retention_setting(k.kind)) AS keep, r.complete_from,
		r.position IS NOT NULL AS running, r.position AS users_up_to, r.started_at,
		CASE WHEN k.kind = 'events' THEN nullif(l.before, 'infinity') END AS needed_from,
		CASE WHEN k.kind = 'events' THEN l.definition END AS needed_by
	FROM (VALUES ('transitions'), ('events')) k (kind)
		LEFT JOIN audience.retention r ON r.kind = k.kind
		CROSS JOIN (SELECT n.before, a.definition FROM audience.event_retention_limit() n
			LEFT JOIN audience.aggregates a ON a.number = n.aggregate) l;
COMMENT ON VIEW audience.retention_progress IS 'what is kept of transitions and events, and what keeps events from going';
COMMENT ON COLUMN audience.retention_progress.kind IS 'transitions or events';
COMMENT ON COLUMN audience.retention_progress.keep IS 'how long they are to be kept; null: for ever';
COMMENT ON COLUMN audience.retention_progress.complete_from IS
	'from then on all are there, and events are taken; null: none have gone';
COMMENT ON COLUMN audience.retention_progress.running IS 'is a pass over the users going on?';
COMMENT ON COLUMN audience.retention_progress.users_up_to IS 'the last user who is done in it, in the order of ids';
COMMENT ON COLUMN audience.retention_progress.started_at IS 'when the last pass began';
COMMENT ON COLUMN audience.retention_progress.needed_from IS
	'events from then on are needed by a window or sequence (-infinity: all are), however short they are to be kept';
COMMENT ON COLUMN audience.retention_progress.needed_by IS 'what needs the earliest of them';

CREATE FUNCTION audience.retention_row(kind text) RETURNS audience.retention
AS $$
#variable_conflict use_variable
DECLARE
	result audience.retention;
BEGIN
	LOOP
		SELECT r.* INTO result FROM audience.retention r WHERE r.kind = kind FOR UPDATE;
		EXIT WHEN FOUND;
		INSERT INTO audience.retention (kind, started_at, stepped_at) VALUES (kind, '-infinity', '-infinity')
		ON CONFLICT DO NOTHING;
	END LOOP;
	RETURN result;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.retention_row(text) IS 'internal: the row of table retention for these, locked';

CREATE FUNCTION audience.retention_is_due(last_began timestamptz, keep interval) RETURNS boolean
AS $$
	-- an instant ahead is one of a clock that has been put back
	SELECT audience.now() < last_began
		OR audience.now() >= last_began + least(greatest(keep / 10, interval '1 hour'), interval '24 hours')
$$ LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.retention_is_due(timestamptz, interval) IS
	'internal: is it time for the next pass?';

-- transitions

-- Of each user's oldest rows, up to the first that is younger, only the last
-- transition of each segment stays.  So memberships at any instant from "before"
-- on can still be told, and what stays is still an alternation of entering and
-- leaving, whatever the user's clock has done.  A segment is its id: one that was
-- deleted and made again has had several numbers.
--
-- No profile is locked.  New rows are of no interest here, and nobody changes
-- old ones but profile_erase, which deletes all of a user's: rows are taken
-- without waiting for anyone, so nobody can be waited for in a circle, and a user
-- whose rows cannot all be had is left for the next pass.
CREATE FUNCTION audience.transition_retention_chunk(after text, before timestamptz, most integer,
	OUT last text, OUT removed bigint)
AS $$
#variable_conflict use_column
DECLARE
	users text[];
	seqs bigint[];
	kept bytea[];
	counts bigint[];
BEGIN
	-- the users of the next rows, but the last of them, who may have more; a user
	-- alone is taken with all there are
	SELECT CASE WHEN count(*) < most THEN max(n.user_id)
			ELSE coalesce(max(n.user_id) FILTER (WHERE n.user_id <> n.last), max(n.user_id)) END
	INTO transition_retention_chunk.last
	FROM (
		SELECT l.user_id, max(l.user_id) OVER () AS last FROM (
			SELECT l.user_id FROM audience.transition_log l
			WHERE l.user_id > transition_retention_chunk.after
			ORDER BY l.user_id, l.seq LIMIT most
		) l
	) n;
	removed := 0;

	WITH old AS MATERIALIZED (
		SELECT r.user_id, r.seq, r.entries FROM (
			SELECT l.user_id, l.seq, l.entries,
				bool_and(l.occurred_at <= transition_retention_chunk.before) OVER (PARTITION BY l.user_id ORDER BY l.seq) AS is_old
			FROM audience.transition_log l
			WHERE l.user_id > transition_retention_chunk.after AND l.user_id <= transition_retention_chunk.last
		) r WHERE r.is_old
	), entry AS (
		SELECT o.user_id, o.seq, o.entries, e.ordinal,
			lead(o.seq) OVER (PARTITION BY o.user_id, n.segment_id, CASE WHEN n.segment_id IS NULL THEN e.segment_number END
				ORDER BY o.seq, e.ordinal) IS NOT NULL AS superseded
		FROM old o CROSS JOIN LATERAL audience.transition_entries(o.entries) e
			LEFT JOIN audience.segment_numbers n ON n.number = e.segment_number
	), gone AS (
		SELECT e.user_id, e.seq,
			CASE WHEN NOT bool_and(e.superseded) THEN
				audience.transition_entries_remove(e.entries, array_agg(e.ordinal) FILTER (WHERE e.superseded)) END AS kept,
			count(*) OVER (PARTITION BY e.user_id) AS count
		FROM entry e GROUP BY e.user_id, e.seq, e.entries
		HAVING bool_or(e.superseded)
	)
	SELECT array_agg(g.user_id), array_agg(g.seq), array_agg(g.kept), array_agg(g.count)
	INTO users, seqs, kept, counts FROM gone g;

	IF users IS NOT NULL THEN
		WITH locked AS MATERIALIZED (
			SELECT g.user_id, g.seq, g.kept, g.count
			FROM unnest(users, seqs, kept, counts) g (user_id, seq, kept, count)
				JOIN audience.transition_log l ON l.user_id = g.user_id AND l.seq = g.seq
			FOR UPDATE OF l SKIP LOCKED
		), whole AS MATERIALIZED (
			SELECT w.* FROM (
				SELECT l.*, count(*) OVER (PARTITION BY l.user_id) AS locked FROM locked l
			) w WHERE w.locked = w.count
		), deleted AS (
			DELETE FROM audience.transition_log l USING whole w
			WHERE l.user_id = w.user_id AND l.seq = w.seq AND w.kept IS NULL RETURNING 1
		), updated AS (
			UPDATE audience.transition_log l SET entries = w.kept FROM whole w
			WHERE l.user_id = w.user_id AND l.seq = w.seq AND w.kept IS NOT NULL RETURNING 1
		)
		SELECT (SELECT count(*) FROM deleted) + (SELECT count(*) FROM updated)
		INTO transition_retention_chunk.removed;
	END IF;
END
$$ LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off;
COMMENT ON FUNCTION audience.transition_retention_chunk(text, timestamptz, integer) IS
	'internal: the next users'' transitions that were superseded by an instant go; the last user who is done (null: all are), and how many rows were changed';

CREATE FUNCTION audience.transition_retention_step(chunk integer) RETURNS boolean
AS $$
DECLARE
	keep interval := audience.retention_setting('transitions');
	retention audience.retention := audience.retention_row('transitions');
	before timestamptz;
	done record;
BEGIN
	IF retention.position IS NULL THEN
		-- another session may have begun it, and ended it
		IF NOT audience.retention_is_due(retention.started_at, keep) THEN
			RETURN true;
		END IF;
		retention.position := '';
		retention.started_at := audience.now();
		retention.cutoff := audience.now() - keep;
	END IF;
	-- the setting may have been raised since
	before := least(retention.cutoff, audience.now() - keep);
	done := audience.transition_retention_chunk(retention.position, before, chunk);
	UPDATE audience.retention r
	SET complete_from = CASE WHEN done.removed > 0 THEN greatest(r.complete_from, before) ELSE r.complete_from END,
		cutoff = retention.cutoff, position = done.last, started_at = retention.started_at,
		stepped_at = clock_timestamp()
	WHERE r.kind = 'transitions';
	RETURN true;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.transition_retention_step(integer) IS
	'internal: a step of the retention of transitions';

-- events

-- The step that begins a pass may move the watermark, and does nothing else: no
-- event goes before it is committed and everybody knows it.
CREATE FUNCTION audience.event_retention_step(chunk integer) RETURNS boolean
AS $$
DECLARE
	keep interval := audience.retention_setting('events');
	retention audience.retention := audience.retention_row('events');
	new_cutoff timestamptz;
	detail text;
	done record;
BEGIN
	IF retention.position IS NOT NULL THEN
		done := audience.event_retention_chunk(retention.position, least(retention.cutoff, audience.now() - keep), chunk);
		UPDATE audience.retention r SET position = done.last, stepped_at = clock_timestamp() WHERE r.kind = 'events';
		RETURN true;
	END IF;
	-- another session may have begun it, and ended it
	IF NOT audience.retention_is_due(retention.started_at, keep) THEN
		RETURN true;
	END IF;
	new_cutoff := least(audience.now() - keep, (audience.event_retention_limit()).before);
	IF new_cutoff > coalesce(retention.complete_from, '-infinity') THEN
		BEGIN
			PERFORM audience.definitions_lock();
		EXCEPTION WHEN lock_not_available THEN
			GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
			RAISE WARNING 'could not begin to remove events while others are using the definitions'
				USING ERRCODE = '55P03', DETAIL = detail, HINT = 'The next call tries again.';
			UPDATE audience.retention r SET stepped_at = clock_timestamp() WHERE r.kind = 'events';
			RETURN false;
		END;
		-- definitions may have changed before they were locked
		new_cutoff := least(new_cutoff, (audience.event_retention_limit()).before);
		IF new_cutoff > coalesce(retention.complete_from, '-infinity') THEN
			UPDATE audience.retention r SET complete_from = new_cutoff WHERE r.kind = 'events';
		END IF;
	END IF;
	UPDATE audience.retention r
	SET cutoff = new_cutoff, started_at = audience.now(), stepped_at = clock_timestamp(),
		position = CASE WHEN new_cutoff > '-infinity' THEN '' END
	WHERE r.kind = 'events';
	RETURN true;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.event_retention_step(integer) IS
	'internal: a step of the retention of events; false: definitions are busy';

CREATE FUNCTION audience.run_retention(chunk integer DEFAULT 1000) RETURNS boolean
AS $$
DECLARE
	next_kind text;
BEGIN
	IF run_retention.chunk IS NULL OR run_retention.chunk < 1 THEN
		RAISE EXCEPTION 'chunk must be above zero' USING ERRCODE = '22023';
	END IF;
	-- a step of one of the two, that which was longer ago: the transaction is to be
	-- short, and neither is to wait for the other's end
	SELECT k.kind INTO next_kind
	FROM (VALUES ('transitions', audience.retention_setting('transitions')), ('events', audience.retention_setting('events'))) k (kind, keep)
		LEFT JOIN audience.retention r ON r.kind = k.kind
	WHERE k.keep IS NOT NULL
		AND (r.kind IS NULL OR r.position IS NOT NULL OR audience.retention_is_due(r.started_at, k.keep))
	ORDER BY r.stepped_at NULLS FIRST, k.kind DESC
	LIMIT 1;
	IF next_kind = 'transitions' THEN
		RETURN audience.transition_retention_step(run_retention.chunk);
	ELSIF next_kind = 'events' THEN
		RETURN audience.event_retention_step(run_retention.chunk);
	END IF;
	RETURN false;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.run_retention(integer) IS
	'removes some of what "audience.transition_retention" and "audience.event_retention" do not keep; false: there is nothing to do at present';
