-- Segments: making, changing, deleting and asking them.

CREATE FUNCTION audience.segment_row(id text) RETURNS audience.segments
AS $$
#variable_conflict use_variable
DECLARE
	segment audience.segments;
BEGIN
	SELECT s.* INTO segment FROM audience.segments s WHERE s.id = segment_row.id;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'segment "%" does not exist', id USING ERRCODE = '42704';
	END IF;
	RETURN segment;
END
$$ LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_row(text) IS 'internal: the segment with this id; unknown: 42704';

CREATE FUNCTION audience.dependents(numbers integer[]) RETURNS integer[]
AS $$
	WITH RECURSIVE reached (number, id) AS (
		SELECT s.number, s.id FROM audience.segments s WHERE s.number = ANY (numbers)
		UNION
		SELECT s.number, s.id FROM reached r, audience.segments s
		WHERE s.active AND r.id IN (SELECT audience.rule_segments(s.rules))
	)
	SELECT coalesce(pg_catalog.array_agg(number), '{}') FROM reached
$$ LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.dependents(integer[]) IS
	'internal: these segments and the active ones that refer to them, directly or not';

CREATE FUNCTION audience.segment_dependents(id text) RETURNS SETOF text
AS $$
BEGIN
	PERFORM audience.segment_row(segment_dependents.id);
	RETURN QUERY SELECT s.id FROM audience.segments s
		WHERE segment_dependents.id IN (SELECT audience.rule_segments(s.rules)) ORDER BY s.id;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_dependents(text) IS 'the segments whose rules refer to this one';

CREATE FUNCTION audience.segment_check(id text, name text, type text, rules audience.rule) RETURNS void
AS $$
DECLARE
	missing text;
BEGIN
	IF name IS NULL OR name = '' THEN
		RAISE EXCEPTION 'name of a segment must not be empty' USING ERRCODE = '22023';
	END IF;
	IF id IS NULL OR octet_length(id) NOT BETWEEN 1 AND 255 THEN
		RAISE EXCEPTION 'id of a segment must be 1 to 255 bytes long' USING ERRCODE = '22023',
			HINT = 'Give an id where none can be made from the name.';
	END IF;
	IF type IS NULL OR type NOT IN ('dynamic', 'static') THEN
		RAISE EXCEPTION 'type of a segment must be "dynamic" or "static"' USING ERRCODE = '22023';
	END IF;
	IF type = 'dynamic' AND rules IS NULL THEN
		RAISE EXCEPTION 'a dynamic segment needs rules' USING ERRCODE = '22023',
			HINT = 'A segment of type "static" has members but no rules.';
	END IF;
	IF type = 'static' AND rules IS NOT NULL THEN
		RAISE EXCEPTION 'a static segment has no rules' USING ERRCODE = '22023';
	END IF;
	SELECT r.id INTO missing FROM audience.rule_segments(rules) r (id)
	WHERE r.id <> segment_check.id
		AND NOT EXISTS (SELECT FROM audience.segments s WHERE s.id = r.id)
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'segment "%" does not exist', missing USING ERRCODE = '42704',
			DETAIL = 'The rules refer to it.';
	END IF;
END
$$ LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_check(text, text, text, audience.rule) IS
	'internal: refuses what no segment can be made of';

CREATE FUNCTION audience.segment_check_references(rules audience.rule) RETURNS void
AS $$
BEGIN
	IF EXISTS (SELECT FROM audience.rule_segments(rules)) THEN
		PERFORM audience.definitions_check();
	END IF;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_check_references(audience.rule) IS
	'internal: refuses a rule, which has just been stored, with which segments refer to one another in a cycle';

CREATE FUNCTION audience.segment_id(name text) RETURNS text
AS $$
	SELECT pg_catalog.rtrim(pg_catalog.left(pg_catalog.ltrim(
		pg_catalog.regexp_replace(pg_catalog.lower(name), '[^a-z0-9]+', '_', 'g'), '_'), 63), '_')
$$ LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_id(text) IS 'the id that a segment of this name gets';

CREATE FUNCTION audience.segment_create(name text, rules audience.rule DEFAULT NULL,
	type text DEFAULT 'dynamic', id text DEFAULT NULL, description text DEFAULT NULL,
	active boolean DEFAULT true, refresh text DEFAULT 'now') RETURNS text
AS $$
#variable_conflict use_variable
DECLARE
	new_id text := coalesce(id, audience.segment_id(name));
	new_type text := lower(type);
	new_active boolean := coalesce(active, true);
	later boolean := audience.refresh_later(refresh) AND new_type = 'dynamic' AND new_active;
	new_number integer;
	added integer[];
BEGIN
	PERFORM audience.definitions_change();
	IF EXISTS (SELECT FROM audience.segments s WHERE s.id = new_id) THEN
		RAISE EXCEPTION 'segment "%" already exists', new_id USING ERRCODE = '42710';
	END IF;
	PERFORM audience.segment_check(new_id, name, new_type, rules);
	PERFORM audience.limit_definition(rules);
	INSERT INTO audience.segment_numbers (segment_id) VALUES (new_id) RETURNING number INTO new_number;
	-- numbers are not used again, so there is mostly no need to count
	IF new_number > current_setting('audience.max_segments')::integer THEN
		PERFORM audience.limit_definitions('segments', (SELECT count(*) + 1 FROM audience.segments));
	END IF;
	INSERT INTO audience.segments (id, name, type, rules, description, active, status, number)
	VALUES (new_id, name, new_type, rules, description, new_active,
		CASE WHEN later THEN 'building' ELSE 'ready' END, new_number);
	IF later THEN
		PERFORM audience.refresh_schedule(new_number, ARRAY[new_number], rules, 'backfill');
	ELSIF new_type = 'dynamic' THEN
		added := audience.aggregates_add(rules);
		PERFORM audience.fill_now(ARRAY[new_number], added, 'backfill', 'expired', true);
	END IF;
	PERFORM audience.segment_check_references(rules);
	PERFORM audience.kafka_queue_segment(new_id, 'created');
	RETURN new_id;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_create(text, audience.rule, text, text, text, boolean, text) IS
	'makes a segment and fills it from the profiles and events there are, now or later in chunks; its id';

CREATE FUNCTION audience.segment_change(segment audience.segments, name text, rules audience.rule,
	description text, active boolean, later boolean DEFAULT false) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	new_rules boolean := coalesce(NOT (rules OPERATOR(audience.=) segment.rules), false);
	added integer[] := '{}';
	concerned integer[];
BEGIN
	PERFORM audience.segment_check(segment.id, name, segment.type, rules);
	IF new_rules THEN
		PERFORM audience.limit_definition(rules);
	END IF;
	UPDATE audience.segments s
	SET name = name, rules = rules, description = description, active = active,
		version = s.version + new_rules::integer, updated_at = now()
	WHERE s.number = segment.number;
	concerned := audience.dependents(ARRAY[segment.number]);
	IF later AND active AND segment.type = 'dynamic' AND (new_rules OR NOT segment.active) THEN
		IF NOT segment.active THEN
			UPDATE audience.segments s SET status = 'building' WHERE s.number = segment.number;
		END IF;
		PERFORM audience.refresh_schedule(segment.number, concerned, rules, 'backfill');
	ELSE
		IF new_rules THEN
			added := audience.aggregates_add(rules);
		END IF;
		IF new_rules OR active <> segment.active THEN
			-- whoever leaves is not filled, and nor are those that refer to it
			PERFORM audience.refresh_forget(CASE WHEN active THEN concerned ELSE ARRAY[segment.number] END, segment.pending);
		END IF;
		IF NOT active AND segment.active THEN
			PERFORM audience.fill_now(ARRAY[segment.number], added, 'deactivated', 'rule_evaluation');
		ELSIF active AND (new_rules OR NOT segment.active) THEN
			PERFORM audience.fill_now(concerned, added, 'backfill', 'expired');
		ELSE
			PERFORM audience.fill_now('{}', added, 'backfill', 'expired');
		END IF;
	END IF;
	IF new_rules THEN
		PERFORM audience.segment_check_references(rules);
		PERFORM audience.aggregates_prune();
	END IF;
	-- what changes nothing is not told: two that tell each other would never end
	IF new_rules OR (name, description, active) IS DISTINCT FROM (segment.name, segment.description, segment.active) THEN
		PERFORM audience.kafka_queue_segment(segment.id, 'updated');
	END IF;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_change(audience.segments, text, audience.rule, text, boolean, boolean) IS
	'internal: gives a segment these properties, and the members that follow, now or later in chunks';

CREATE FUNCTION audience.segment_update(id text, name text DEFAULT NULL, rules audience.rule DEFAULT NULL,
	description text DEFAULT NULL, active boolean DEFAULT NULL, refresh text DEFAULT 'now') RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	segment audience.segments;
	later boolean := audience.refresh_later(refresh);
BEGIN
	PERFORM audience.definitions_change();
	segment := audience.segment_row(id);
	IF segment.type = 'static' AND rules IS NOT NULL THEN
		RAISE EXCEPTION 'segment "%" is static', id USING ERRCODE = '42809',
			DETAIL = 'A static segment has no rules.';
	END IF;
	PERFORM audience.segment_change(segment, coalesce(name, segment.name), coalesce(rules, segment.rules),
		coalesce(description, segment.description), coalesce(active, segment.active), later);
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_update(text, text, audience.rule, text, boolean, text) IS
	'changes a segment; null leaves as it is; members enter and leave as the new rules say, now or later in chunks';

CREATE FUNCTION audience.segment_delete(id text) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	segment audience.segments;
	dependents text;
BEGIN
	PERFORM audience.definitions_change();
	segment := audience.segment_row(id);
	SELECT string_agg(format('Segment "%s" refers to it.', d), E'\n' ORDER BY d) INTO dependents
	FROM audience.segment_dependents(id) d WHERE d <> segment.id;
	IF dependents IS NOT NULL THEN
		RAISE EXCEPTION 'cannot delete segment "%" because other segments refer to it', id
			USING ERRCODE = '2BP01', DETAIL = dependents;
	END IF;
	WITH gone AS (
		UPDATE audience.profiles p SET members = audience.members_remove(p.members, segment.number)
		WHERE audience.member_since(p.members, segment.number) IS NOT NULL RETURNING p.user_id
	), ordered AS (
		SELECT g.user_id FROM gone g WHERE segment.active ORDER BY g.user_id
	), logged AS (
		INSERT INTO audience.transition_log AS l (user_id, reason, occurred_at, entries)
		SELECT o.user_id, 'segment_deleted', audience.now(),
			audience.transition_entry(segment.number, false, segment.version)
		FROM ordered o
		RETURNING l.*
	)
	INSERT INTO audience.kafka_outbox (sink, key, recorded_at, messages, seq, occurred_at, reason, entries)
	SELECT k.number, l.user_id, l.recorded_at, 1, l.seq, l.occurred_at, l.reason, l.entries
	FROM logged l, audience.kafka_sinks k WHERE k.stream = 'transitions' ORDER BY l.seq;
	IF FOUND THEN
		PERFORM audience.note_outbox();
	END IF;
	DELETE FROM audience.segments s WHERE s.number = segment.number;
	PERFORM audience.kafka_queue_segment(segment.id, 'deleted');
	PERFORM audience.refreshes_prune();
	PERFORM audience.aggregates_prune();
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_delete(text) IS
	'deletes a segment that no other refers to; its members leave, its history stays';

CREATE FUNCTION audience.segment_put(segment jsonb) RETURNS text
AS $$
#variable_conflict use_variable
DECLARE
	new_id text;
	new_type text;
	new_rules audience.rule;
	new_active boolean;
	key text;
	value jsonb;
	existing audience.segments;
BEGIN
	IF segment IS NULL OR jsonb_typeof(segment) <> 'object' THEN
		RAISE EXCEPTION 'invalid segment' USING ERRCODE = '22023', DETAIL = 'At the root: it must be an object.';
	END IF;
	FOR key, value IN SELECT * FROM jsonb_each(segment) LOOP
		IF key NOT IN ('name', 'type', 'rules', 'id', 'description', 'active') THEN
			RAISE EXCEPTION 'invalid segment' USING ERRCODE = '22023',
				DETAIL = format('At /%s: unknown key.', replace(replace(key, '~', '~0'), '/', '~1'));
		END IF;
		IF key IN ('name', 'type', 'id', 'description') AND jsonb_typeof(value) NOT IN ('string', 'null') THEN
			RAISE EXCEPTION 'invalid segment' USING ERRCODE = '22023', DETAIL = format('At /%s: it must be a string.', key);
		END IF;
		IF key = 'active' AND jsonb_typeof(value) NOT IN ('boolean', 'null') THEN
			RAISE EXCEPTION 'invalid segment' USING ERRCODE = '22023', DETAIL = 'At /active: it must be true or false.';
		END IF;
	END LOOP;
	new_id := coalesce(segment->>'id', audience.segment_id(segment->>'name'));
	new_type := lower(coalesce(segment->>'type', 'dynamic'));
	new_active := coalesce((segment->>'active')::boolean, true);
	IF jsonb_typeof(segment->'rules') = 'string' THEN
		new_rules := (segment->>'rules')::audience.rule;
	ELSIF jsonb_typeof(segment->'rules') <> 'null' THEN
		new_rules := (segment->'rules')::audience.rule;
	END IF;

	PERFORM audience.definitions_change();
	SELECT s.* INTO existing FROM audience.segments s WHERE s.id = new_id;
	IF FOUND AND existing.type = new_type THEN
		PERFORM audience.segment_change(existing, segment->>'name', new_rules,
			segment->>'description', new_active);
		RETURN new_id;
	END IF;
	IF FOUND THEN
		PERFORM audience.segment_delete(new_id);
	END IF;
	RETURN audience.segment_create(segment->>'name', new_rules, new_type, new_id,
		segment->>'description', new_active);
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_put(jsonb) IS
	'makes a segment, or replaces the one with its id as a whole; its id';

CREATE FUNCTION audience.segment_get(id text) RETURNS jsonb
AS $$
DECLARE
	s audience.segments := audience.segment_row(segment_get.id);
BEGIN
	RETURN jsonb_build_object('id', s.id, 'name', s.name, 'type', s.type, 'rules', s.rules::jsonb,
		'description', s.description, 'active', s.active, 'status', s.status, 'version', s.version,
		'createdAt', audience.timestamp_text(s.created_at), 'updatedAt', audience.timestamp_text(s.updated_at));
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_get(text) IS 'a segment''s definition as JSON';

CREATE FUNCTION audience.segment_members(id text)
	RETURNS TABLE (user_id text, entered_at timestamptz, source text)
AS $$
BEGIN
	PERFORM audience.segment_row(segment_members.id);
	RETURN QUERY SELECT m.user_id, m.entered_at, m.source FROM audience.memberships m
		WHERE m.segment_id = segment_members.id;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_members(text) IS 'who is in a segment';

CREATE FUNCTION audience.segment_count(id text) RETURNS bigint
AS $$
BEGIN
	PERFORM audience.segment_row(segment_count.id);
	RETURN (SELECT count(*) FROM audience.memberships m WHERE m.segment_id = segment_count.id);
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_count(text) IS 'how many users are in a segment';

CREATE FUNCTION audience.static_change(id text, users text[], add boolean) RETURNS bigint
AS $$
#variable_conflict use_variable
DECLARE
	segment audience.segments;
BEGIN
	IF users IS NULL THEN
		RAISE EXCEPTION 'list of users must not be null' USING ERRCODE = '22023';
	END IF;
	IF EXISTS (SELECT FROM unnest(users) u WHERE u IS NULL OR octet_length(u) NOT BETWEEN 1 AND 255) THEN
		RAISE EXCEPTION 'user id must be 1 to 255 bytes long' USING ERRCODE = '22023';
	END IF;
	PERFORM audience.limit_users(cardinality(users));
	PERFORM audience.definitions_lock_shared();
	segment := audience.segment_row(id);
	IF segment.type <> 'static' THEN
		RAISE EXCEPTION 'segment "%" is dynamic', id USING ERRCODE = '42809',
			DETAIL = 'Its rules decide who is in it.';
	END IF;
	RETURN audience.set_static(segment.number, users, add, 'manual');
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.static_change(text, text[], boolean) IS
	'internal: enters users into the static segment with this id or takes them out; how many that changed';

CREATE FUNCTION audience.segment_add(id text, users text[]) RETURNS bigint
AS 'SELECT audience.static_change(id, users, true)'
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_add(text, text[]) IS
	'enters users into a static segment; unknown ones become profiles; how many are new in it';

CREATE FUNCTION audience.segment_remove(id text, users text[]) RETURNS bigint
AS 'SELECT audience.static_change(id, users, false)'
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_remove(text, text[]) IS
	'takes users out of a static segment; how many were in it';

CREATE FUNCTION audience.segment_preview(rule audience.rule, sample integer DEFAULT 10,
	OUT matching bigint, OUT total bigint, OUT users text[])
AS $$
	SELECT count(*), (SELECT count(*) FROM audience.profiles),
		coalesce(pg_catalog.array_agg(m.user_id ORDER BY m.ordinal) FILTER (WHERE m.ordinal <= sample), '{}')
	FROM audience.rule_scan(rule) WITH ORDINALITY m (user_id, ordinal)
$$ LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_preview(audience.rule, integer) IS
	'how many users a rule holds for, of how many, and the first of them';

CREATE FUNCTION audience.segment_diff(id text, rule audience.rule)
	RETURNS TABLE (user_id text, action text)
AS $$
DECLARE
	segment audience.segments := audience.segment_row(segment_diff.id);
BEGIN
	RETURN QUERY
		WITH holds AS MATERIALIZED (
			SELECT h.user_id FROM audience.rule_scan(segment_diff.rule) h (user_id)
		)
		SELECT h.user_id COLLATE "C", 'added' FROM holds h
		WHERE NOT EXISTS (SELECT FROM audience.profiles p
			WHERE p.user_id = h.user_id AND audience.member_since(p.members, segment.number) IS NOT NULL)
		UNION ALL
		SELECT p.user_id, 'removed' FROM audience.profiles p
		WHERE audience.member_since(p.members, segment.number) IS NOT NULL
			AND NOT EXISTS (SELECT FROM holds h WHERE h.user_id = p.user_id)
		ORDER BY 1;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_diff(text, audience.rule) IS
	'who would enter and leave if a segment had this rule';

CREATE FUNCTION audience.segment_members_at(id text, at timestamptz) RETURNS TABLE (user_id text)
AS $$
DECLARE
	complete_from timestamptz := (SELECT r.complete_from FROM audience.retention r WHERE r.kind = 'transitions');
BEGIN
	IF segment_members_at.at < complete_from THEN
		RAISE EXCEPTION 'history is not complete at that time' USING ERRCODE = '22023',
			DETAIL = format('It is complete from %s on.', audience.timestamp_text(complete_from)),
			HINT = 'Earlier transitions may have been removed; see "audience.transition_retention".';
	END IF;
	RETURN QUERY SELECT l.user_id FROM (
			SELECT DISTINCT ON (t.user_id) t.user_id, t.action FROM audience.transitions t
			WHERE t.segment_id = segment_members_at.id AND t.occurred_at <= segment_members_at.at
			ORDER BY t.user_id, t.seq DESC
		) l WHERE l.action = 'added' ORDER BY l.user_id;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_members_at(text, timestamptz) IS
	'who was in a segment at an instant, from history; a deleted segment''s history stays';

CREATE FUNCTION audience.segment_explain(id text, user_id text,
	OUT depth integer, OUT node text, OUT actual jsonb, OUT holds boolean) RETURNS SETOF record
AS $$
DECLARE
	segment audience.segments := audience.segment_row(segment_explain.id);
BEGIN
	IF segment.type = 'static' THEN
		RAISE EXCEPTION 'segment "%" is static', segment.id USING ERRCODE = '42809',
			DETAIL = 'It has no rules to explain.';
	END IF;
	RETURN QUERY SELECT e.depth, e.node, e.actual, e.holds
		FROM audience.rule_explain(segment.rules, segment_explain.user_id) e;
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.segment_explain(text, text) IS
	'every node of a segment''s rule, what it saw of the user, and whether it holds';
