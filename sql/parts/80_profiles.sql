-- Profiles: attributes, documents, erasing, merging and rebuilding.
--
-- Functions that lock profiles do so in C order of the users' ids, after the
-- definitions lock.  They rely on each statement's seeing what was committed
-- before it began: what others did to a user before its profile was locked is
-- seen by the statements behind that.

CREATE FUNCTION audience.profile_patch(user_id text, attributes jsonb, whole boolean) RETURNS jsonb
AS $$
#variable_conflict use_variable
BEGIN
	IF user_id IS NULL OR octet_length(user_id) NOT BETWEEN 1 AND 255 THEN
		RAISE EXCEPTION 'user id must be 1 to 255 bytes long' USING ERRCODE = '22023';
	END IF;
	IF attributes IS NULL OR jsonb_typeof(attributes) <> 'object' THEN
		RAISE EXCEPTION 'attributes must be a JSON object' USING ERRCODE = '22023';
	END IF;
	PERFORM audience.set_attributes(ARRAY[user_id], ARRAY[attributes]);
	IF whole THEN
		RETURN (SELECT p.attributes FROM audience.profiles p WHERE p.user_id = profile_patch.user_id);
	END IF;
	RETURN audience.merge_patch('{}', attributes);
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_patch(text, jsonb, boolean) IS
	'internal, for profile_set: merges an object into a user''s attributes and evaluates the user; the attributes after, or only what of them is of this object';

-- not SECURITY DEFINER: it must know who calls it (caller.c)
CREATE FUNCTION audience.profile_set(user_id text, attributes jsonb) RETURNS jsonb
AS 'MODULE_PATHNAME', 'aud_profile_set'
LANGUAGE C VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_set(text, jsonb) IS
	'merges an object into a user''s attributes (RFC 7396) and evaluates the user; the attributes after, or for those who may not read them what they have set';

CREATE FUNCTION audience.profiles_set(profiles jsonb) RETURNS bigint
AS $$
DECLARE
	problem text;
	ids text[];
	patches jsonb[];
BEGIN
	IF profiles_set.profiles IS NULL OR jsonb_typeof(profiles_set.profiles) <> 'array' THEN
		RAISE EXCEPTION 'invalid profile' USING ERRCODE = '22023',
			DETAIL = 'At the root: it must be an array of profiles.';
	END IF;
	PERFORM audience.limit_users(jsonb_array_length(profiles_set.profiles));
	WITH given AS (
		SELECT e.ordinal - 1 AS at, e.value, e.value->'userId' AS id, e.value->'attributes' AS patch
		FROM jsonb_array_elements(profiles_set.profiles) WITH ORDINALITY e (value, ordinal)
	), texts AS (
		SELECT g.*, CASE jsonb_typeof(g.id)
			WHEN 'string' THEN g.id #>> '{}'
			WHEN 'number' THEN trim_scale((g.id #>> '{}')::numeric)::text END AS id_text
		FROM given g
	), checked AS (
		SELECT t.*, CASE
			WHEN jsonb_typeof(t.value) <> 'object'
				THEN format('At /%s: it must be an object.', t.at)
			WHEN t.id IS NULL OR jsonb_typeof(t.id) = 'null'
				THEN format('At /%s/userId: it must be given.', t.at)
			WHEN t.id_text IS NULL
				THEN format('At /%s/userId: it must be a string or an integer.', t.at)
			WHEN jsonb_typeof(t.id) = 'number' AND strpos(t.id_text, '.') > 0
				THEN format('At /%s/userId: a number here must be an integer.', t.at)
			WHEN octet_length(t.id_text) NOT BETWEEN 1 AND 255
				THEN format('At /%s/userId: it must be 1 to 255 bytes long, not %s.', t.at, octet_length(t.id_text))
			WHEN t.patch IS NULL OR jsonb_typeof(t.patch) = 'null'
				THEN format('At /%s/attributes: it must be given.', t.at)
			WHEN jsonb_typeof(t.patch) <> 'object'
				THEN format('At /%s/attributes: it must be an object.', t.at)
			END AS problem
		FROM texts t
	)
	SELECT (array_agg(c.problem ORDER BY c.at) FILTER (WHERE c.problem IS NOT NULL))[1],
		array_agg(c.id_text ORDER BY c.at), array_agg(c.patch ORDER BY c.at)
	INTO problem, ids, patches
	FROM checked c;
	IF problem IS NOT NULL THEN
		RAISE EXCEPTION 'invalid profile' USING ERRCODE = '22023', DETAIL = problem;
	END IF;
	IF ids IS NULL THEN
		RETURN 0;
	END IF;
	PERFORM audience.set_attributes(ids, patches);
	RETURN cardinality(ids);
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profiles_set(jsonb) IS
	'profile_set for an array of {"userId","attributes"}, all or none, those of one user in their order; how many';

CREATE FUNCTION audience.profile_get(user_id text) RETURNS jsonb
AS $$
BEGIN
	-- the fixed keys win over traits of their names
	RETURN (
		SELECT coalesce((
				SELECT jsonb_object_agg(t.name, v.value)
				FROM audience.profile_values(ARRAY[profile_get.user_id], true) v
				JOIN audience.traits t ON t.aggregate_number = v.aggregate
			), '{}') || jsonb_build_object(
			'userId', p.user_id,
			'segments', coalesce((
				SELECT jsonb_agg(m.segment_id ORDER BY m.segment_id)
				FROM audience.memberships m WHERE m.user_id = profile_get.user_id
			), '[]'),
			'attributes', p.attributes)
		FROM audience.profiles p WHERE p.user_id = profile_get.user_id);
END
$$ LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_get(text) IS
	'a user''s segments, traits as of now, and attributes; null for an unknown user';

CREATE FUNCTION audience.user_segments(user_id text)
	RETURNS TABLE (segment_id text, name text, entered_at timestamptz, source text)
AS $$
	SELECT m.segment_id, s.name, m.entered_at, m.source
	FROM audience.memberships m JOIN audience.segments s ON s.id = m.segment_id
	WHERE m.user_id = user_segments.user_id
	ORDER BY m.segment_id
$$ LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.user_segments(text) IS
	'the segments that a user is in; none for an unknown user';

CREATE FUNCTION audience.profile_erase(user_id text) RETURNS jsonb
AS $$
DECLARE
	events bigint;
	memberships bigint;
	transitions bigint;
BEGIN
	IF profile_erase.user_id IS NULL THEN
		RAISE EXCEPTION 'user id must not be null' USING ERRCODE = '22023';
	END IF;
	PERFORM audience.definitions_lock_shared();
	PERFORM FROM audience.profiles p WHERE p.user_id = profile_erase.user_id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'user "%" does not exist', profile_erase.user_id USING ERRCODE = '42704';
	END IF;
	memberships := (SELECT count(*) FROM audience.memberships m WHERE m.user_id = profile_erase.user_id);
	transitions := (SELECT count(*) FROM audience.transitions t WHERE t.user_id = profile_erase.user_id);
	IF EXISTS (SELECT FROM audience.kafka_sinks k WHERE k.stream = 'transitions') THEN
		PERFORM audience.leave_all(profile_erase.user_id, 'erased');
	END IF;
	DELETE FROM audience.transition_log l WHERE l.user_id = profile_erase.user_id;
	events := audience.events_delete(profile_erase.user_id);
	DELETE FROM audience.event_bases b WHERE b.user_id = profile_erase.user_id;
	DELETE FROM audience.timers t WHERE t.user_id = profile_erase.user_id;
	DELETE FROM audience.profiles p WHERE p.user_id = profile_erase.user_id;
	RETURN jsonb_build_object('events', events, 'profiles', 1,
		'memberships', memberships, 'transitions', transitions);
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_erase(text) IS
	'removes everything about a user, history too; how many rows of what';

CREATE FUNCTION audience.events_copy(from_user text, into_user text) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_events_copy'
LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.events_copy(text, text) IS
	'internal: gives a user copies of another''s events, equal ones once, without evaluation; how many were new';

CREATE FUNCTION audience.event_bases_merge(from_user text, into_user text) RETURNS void
AS 'MODULE_PATHNAME', 'aud_event_bases_merge'
LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.event_bases_merge(text, text) IS
	'internal: gives a user what is kept of another''s deleted events, too';

CREATE FUNCTION audience.profile_merge(from_user text, into_user text) RETURNS void
AS $$
#variable_conflict use_column
DECLARE
	source audience.profiles;
	target audience.profiles;
	profile audience.profiles;
	statics integer[];
	merged jsonb;
	deleted bigint;
BEGIN
	IF from_user IS NULL OR into_user IS NULL THEN
		RAISE EXCEPTION 'user id must not be null' USING ERRCODE = '22023';
	END IF;
	IF from_user = into_user THEN
		RAISE EXCEPTION 'cannot merge user "%" into itself', from_user USING ERRCODE = '22023';
	END IF;
	PERFORM audience.definitions_lock_shared();

	-- Events are copied before profiles are locked: whoever is just ingesting
	-- one of them is waited for, and waits for the profiles afterwards.  If more
	-- came before the profiles were locked, all that is undone, locks included;
	-- and so if some were deleted by retention, whose copies would count again.
	LOOP
		deleted := coalesce((SELECT b.events FROM audience.event_bases b WHERE b.user_id = from_user), 0);
		BEGIN
			PERFORM audience.events_copy(from_user, into_user);
			FOR profile IN
				SELECT p.* FROM audience.profiles p WHERE p.user_id IN (from_user, into_user)
				ORDER BY p.user_id FOR UPDATE
			LOOP
				IF profile.user_id = from_user THEN
					source := profile;
				ELSE
					target := profile;
				END IF;
			END LOOP;
			IF source.user_id IS NULL OR target.user_id IS NULL THEN
				RAISE EXCEPTION 'user "%" does not exist',
					CASE WHEN source.user_id IS NULL THEN from_user ELSE into_user END
					USING ERRCODE = '42704';
			END IF;
			EXIT WHEN NOT EXISTS (
				SELECT FROM audience.events e WHERE e.user_id = from_user
					AND NOT EXISTS (
						SELECT FROM audience.events i
						WHERE i.user_id = into_user AND i.occurred_at = e.occurred_at AND i.event_id = e.event_id))
				AND deleted = coalesce((SELECT b.events FROM audience.event_bases b WHERE b.user_id = from_user), 0);
			RAISE EXCEPTION 'events came or went in between' USING ERRCODE = '40001';
		EXCEPTION WHEN serialization_failure THEN
			-- under a snapshot for the whole transaction there is no second try
			IF current_setting('transaction_isolation') <> 'read committed' THEN
				RAISE;
			END IF;
			source := NULL;
			target := NULL;
		END;
	END LOOP;
	PERFORM audience.events_delete(from_user);
	PERFORM audience.event_bases_merge(from_user, into_user);
	DELETE FROM audience.event_bases b WHERE b.user_id = from_user;

	statics := ARRAY(
		SELECT m.segment_number
		FROM audience.members_list(source.members) m JOIN audience.segments s ON s.number = m.segment_number
		WHERE s.type = 'static');
	PERFORM audience.leave_all(from_user, 'merge');
	DELETE FROM audience.timers t WHERE t.user_id = from_user;
	DELETE FROM audience.profiles p WHERE p.user_id = from_user;

	merged := audience.merge_patch(source.attributes, target.attributes);
	PERFORM audience.limit_attributes(into_user, merged, target.attributes);
	UPDATE audience.profiles p SET attributes = merged, updated_at = now()
	WHERE p.user_id = into_user;
	PERFORM audience.rebuild(ARRAY[into_user], 'merge', statics);
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_merge(text, text) IS
	'makes two users one: events, attributes and static memberships of the first go to the second';

CREATE FUNCTION audience.profile_rebuild(user_ids text[] DEFAULT NULL) RETURNS bigint
AS $$
DECLARE
	-- users whose events were stored but not evaluated may have no profile
	without_profile text[];
	chunk text[];
	last text := '';
	count bigint := 0;
BEGIN
	PERFORM audience.definitions_lock_shared();
	IF profile_rebuild.user_ids IS NOT NULL THEN
		IF array_position(profile_rebuild.user_ids, NULL) IS NOT NULL THEN
			RAISE EXCEPTION 'user id must not be null' USING ERRCODE = '22023';
		END IF;
		PERFORM audience.limit_users(cardinality(profile_rebuild.user_ids));
		RETURN audience.rebuild(ARRAY(
			SELECT u.user_id FROM unnest(profile_rebuild.user_ids) u (user_id)
			WHERE EXISTS (SELECT FROM audience.events e WHERE e.user_id = u.user_id)
				OR EXISTS (SELECT FROM audience.profiles p WHERE p.user_id = u.user_id)), 'refresh', '{}');
	END IF;
	without_profile := ARRAY(
		SELECT DISTINCT e.user_id FROM audience.events e
		WHERE NOT EXISTS (SELECT FROM audience.profiles p WHERE p.user_id = e.user_id));
	LOOP
		SELECT array_agg(n.user_id ORDER BY n.user_id) INTO chunk
		FROM (
			SELECT u.user_id FROM (
				SELECT p.user_id FROM audience.profiles p WHERE p.user_id > last
				UNION ALL
				SELECT w.user_id COLLATE "C" FROM unnest(without_profile) w (user_id)
				WHERE w.user_id COLLATE "C" > last
			) u ORDER BY u.user_id LIMIT 50000
		) n;
		EXIT WHEN chunk IS NULL;
		count := count + audience.rebuild(chunk, 'refresh', '{}');
		last := chunk[cardinality(chunk)];
	END LOOP;
	RETURN count;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_rebuild(text[]) IS
	'makes these users'' states and memberships (null: everyone''s) anew from the events; how many users';
