-- Privileges: what PUBLIC keeps, and grant_access.
--
-- This part is the last, so that it covers whatever stands before it.
--
-- Functions for users that read or write tables run as the extension's owner
-- (SECURITY DEFINER) or, where they commit, are procedures.  By that they are
-- told from internal functions, which nobody is granted: those run as their
-- caller, and would come to nothing without privileges on the tables.  Some
-- few look at who calls them, and run as their caller for that; they are named.

CREATE FUNCTION audience.grant_access(role regrole, level text) RETURNS void
AS $$
DECLARE
	grantee text;
	routine regprocedure;
	relation regclass;
	-- what reads the segments, memberships, profiles and history
	readers constant text[] := ARRAY[
		'segment_get', 'segment_members', 'segment_count', 'segment_preview', 'segment_diff',
		'segment_members_at', 'segment_explain', 'segment_dependents', 'segment_id',
		'rule_explain', 'rule_score', 'profile_get', 'user_segments',
		'profile_match', 'match_profile',
		-- a view's functions run as whoever reads the view
		'engine_statistics', 'scheduler_statistics', 'retention_setting', 'event_retention_limit',
		'kafka_partition_statistics', 'kafka_sink_statistics', 'kafka_errors', 'kafka_is_here'];
	writers constant text[] := ARRAY['event_ingest', 'events_ingest', 'profile_set', 'profiles_set'];
	-- what is for "admin", and looks at who calls it
	asking constant text[] := ARRAY['kafka_cluster_set', 'profile_set'];
	-- what the workers that exchange messages with Kafka call
	bridge constant text[] := ARRAY[
		'kafka_take_events', 'kafka_take_segment', 'kafka_set_origin', 'kafka_source_stop', 'kafka_source_hold',
		'kafka_is_here', 'kafka_outbox_messages', 'note_kafka', 'segment_put', 'segment_delete'];
BEGIN
	IF grant_access.level IS NULL OR grant_access.level NOT IN ('ingest', 'read', 'kafka', 'admin') THEN
		RAISE EXCEPTION 'unknown level of access "%"', grant_access.level USING ERRCODE = '22023',
			HINT = 'The levels are "ingest", "read", "kafka" and "admin".';
	END IF;
	SELECT quote_ident(r.rolname) INTO grantee FROM pg_roles r WHERE r.oid = grant_access.role;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'role must exist' USING ERRCODE = '22023';
	END IF;

	EXECUTE format('GRANT USAGE ON SCHEMA audience TO %s', grantee);
	IF grant_access.level IN ('ingest', 'kafka', 'admin') THEN
		-- received_at is the engine's
		EXECUTE format('GRANT INSERT (user_id, occurred_at, event_id, event_type, properties, context) '
			'ON audience.events TO %s', grantee);
	END IF;
	IF grant_access.level IN ('read', 'admin') THEN
		FOR relation IN
			SELECT c.oid::regclass FROM pg_class c
			WHERE c.relnamespace = 'audience'::regnamespace
				AND (c.relkind = 'v' OR c.relkind = 'r' AND c.relname IN ('segments', 'profiles', 'traits')
					OR c.relkind = 'r' AND c.relname IN ('events', 'kafka_clusters', 'kafka_dead_letters') AND grant_access.level = 'admin')
		LOOP
			EXECUTE format('GRANT SELECT ON %s TO %s', relation, grantee);
		END LOOP;
	END IF;
	IF grant_access.level = 'kafka' THEN
		EXECUTE format('GRANT SELECT ON audience.kafka_installation, audience.kafka_clusters, audience.kafka_sinks, audience.segment_numbers, '
			'audience.segments TO %s', grantee);
		-- what a source is, is not for those who read it to say
		EXECUTE format('GRANT SELECT, UPDATE (discovered, cluster_id, stopped) ON audience.kafka_sources TO %s', grantee);
		EXECUTE format('GRANT SELECT, INSERT (source, partition, start), UPDATE (next_offset, epoch, moved_at) ON audience.kafka_offsets TO %s', grantee);
		EXECUTE format('GRANT SELECT, INSERT, UPDATE ON audience.kafka_dead_letters TO %s', grantee);
		EXECUTE format('GRANT SELECT, DELETE ON audience.kafka_outbox TO %s', grantee);
		EXECUTE format('GRANT USAGE ON SEQUENCE audience.kafka_dead_letter_seq TO %s', grantee);
	END IF;
	FOR routine IN
		SELECT p.oid::regprocedure FROM pg_proc p
		WHERE p.pronamespace = 'audience'::regnamespace
			AND CASE grant_access.level
				WHEN 'ingest' THEN p.proname = ANY (writers)
				WHEN 'read' THEN p.proname = ANY (readers)
				WHEN 'kafka' THEN p.proname = ANY (bridge)
				ELSE p.proname = ANY (readers || asking)
					OR (p.prosecdef OR p.prokind = 'p') AND p.prorettype <> 'trigger'::regtype
				END
	LOOP
		EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %s', routine, grantee);
	END LOOP;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.grant_access(regrole, text) IS
	'grants a role what it needs to "ingest" events and attributes, to "read" segments, memberships, profiles and history, to be audience.kafka_role ("kafka"), or all ("admin")';

DO $$
DECLARE
	routine regprocedure;
	-- the type's own functions, those that tables' defaults and rules' texts need,
	-- and those with which memberships and transitions, if one may read these
	-- views, unpack what is stored: a view's functions run as who reads it
	public_routines constant text[] := ARRAY[
		'rule_in', 'rule_out', 'rule_recv', 'rule_send', 'rule', 'jsonb',
		'rule_eq', 'rule_ne', 'rule_lt', 'rule_le', 'rule_gt', 'rule_ge', 'rule_cmp',
		'rule_hash', 'rule_hash_extended',
		'rule_validate', 'rule_expression', 'rule_holds',
		'jsonb_match', 'jsonb_match_commutator', 'jsonb_match_support',
		'row_match', 'row_match_commutator', 'row_match_support', 'row_recheck', 'row_recheck_support',
		'match_sel', 'match_joinsel',
		'now', 'timestamp_text', 'member_since', 'transition_entries'];
BEGIN
	FOR routine IN
		SELECT p.oid::pg_catalog.regprocedure FROM pg_catalog.pg_proc p
		WHERE p.pronamespace = 'audience'::pg_catalog.regnamespace
			AND p.proname <> ALL (public_routines)
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine);
	END LOOP;
END
$$;
-- nothing is granted on these by itself, but default privileges may say otherwise
REVOKE ALL ON ALL TABLES IN SCHEMA audience FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA audience FROM PUBLIC;
REVOKE ALL ON SCHEMA audience FROM PUBLIC;
