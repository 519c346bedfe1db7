-- The engine: triggers on events and definitions, and the internal functions
-- that the functions for users are made of.

CREATE FUNCTION audience.events_inserted() RETURNS trigger
AS 'MODULE_PATHNAME', 'aud_events_inserted'
LANGUAGE C SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.events_inserted() IS 'evaluates the users whose events a statement has inserted';

CREATE TRIGGER events_inserted AFTER INSERT ON audience.events
	REFERENCING NEW TABLE AS new_events
	FOR EACH STATEMENT EXECUTE FUNCTION audience.events_inserted();
COMMENT ON TRIGGER events_inserted ON audience.events IS 'events become memberships here';

CREATE FUNCTION audience.events_guard() RETURNS trigger
AS 'MODULE_PATHNAME', 'aud_events_guard'
LANGUAGE C;
COMMENT ON FUNCTION audience.events_guard() IS 'refuses what would change events that are there';

CREATE TRIGGER events_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON audience.events
	FOR EACH STATEMENT EXECUTE FUNCTION audience.events_guard();
COMMENT ON TRIGGER events_guard ON audience.events IS 'events are append-only';

-- Events that came by way of a partitioned table, or of a parent, would not be
-- evaluated: its triggers would fire, not ours.  PostgreSQL lets no table with
-- such a trigger become a partition or a child.  It never fires: UPDATE is
-- refused before.
CREATE TRIGGER events_on_their_own AFTER UPDATE ON audience.events
	REFERENCING NEW TABLE AS new_events
	FOR EACH ROW EXECUTE FUNCTION audience.events_guard();
COMMENT ON TRIGGER events_on_their_own ON audience.events IS 'keeps the table from becoming a partition or a child';

CREATE FUNCTION audience.events_delete(user_id text) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_events_delete'
LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.events_delete(text) IS 'internal: removes a user''s events, for profile_erase and profile_merge; how many';

CREATE FUNCTION audience.definitions_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'aud_definitions_changed'
LANGUAGE C SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.definitions_changed() IS 'tells all sessions that definitions have changed';

CREATE TRIGGER definitions_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON audience.aggregates
	FOR EACH STATEMENT EXECUTE FUNCTION audience.definitions_changed();
COMMENT ON TRIGGER definitions_changed ON audience.aggregates IS 'tells all sessions';
CREATE TRIGGER definitions_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON audience.traits
	FOR EACH STATEMENT EXECUTE FUNCTION audience.definitions_changed();
COMMENT ON TRIGGER definitions_changed ON audience.traits IS 'tells all sessions';
CREATE TRIGGER definitions_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON audience.segments
	FOR EACH STATEMENT EXECUTE FUNCTION audience.definitions_changed();
COMMENT ON TRIGGER definitions_changed ON audience.segments IS 'tells all sessions';

-- Events before that instant are refused, and may be gone: all must know.
CREATE TRIGGER definitions_changed AFTER INSERT OR UPDATE OF complete_from ON audience.retention
	FOR EACH ROW WHEN (NEW.kind = 'events' AND NEW.complete_from IS NOT NULL) EXECUTE FUNCTION audience.definitions_changed();
COMMENT ON TRIGGER definitions_changed ON audience.retention IS 'tells all sessions from when on events are taken';

-- Limits (settings audience.max_...): of what is entered, so a restore knows nothing of them.

CREATE FUNCTION audience.limit_rule(rule audience.rule) RETURNS void
AS 'MODULE_PATHNAME', 'aud_limit_rule'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.limit_rule(audience.rule) IS
	'internal: refuses (54000, 54001) a rule that costs more than that of a segment or trait may';

CREATE FUNCTION audience.limit_users(users integer) RETURNS void
AS 'MODULE_PATHNAME', 'aud_limit_users'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.limit_users(integer) IS 'internal: refuses (54000) a call for so many users';

CREATE FUNCTION audience.limit_definitions(kind text, definitions bigint) RETURNS void
AS 'MODULE_PATHNAME', 'aud_limit_definitions'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.limit_definitions(text, bigint) IS
	'internal: refuses (54000) to have so many "traits", "segments" or "aggregates"';

CREATE FUNCTION audience.limit_attributes(user_id text, attributes jsonb, before jsonb) RETURNS void
AS 'MODULE_PATHNAME', 'aud_limit_attributes'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.limit_attributes(text, jsonb, jsonb) IS
	'internal: refuses (54000) attributes that are too large, and larger than before';

CREATE FUNCTION audience.definitions_lock() RETURNS void
AS 'MODULE_PATHNAME', 'aud_definitions_lock'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.definitions_lock() IS
	'internal: keeps all others from ingesting and from changing definitions until the transaction ends';

CREATE FUNCTION audience.definitions_check() RETURNS void
AS 'MODULE_PATHNAME', 'aud_definitions_check'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.definitions_check() IS 'internal: loads the definitions, which refuses segments that refer to one another in a cycle';

CREATE FUNCTION audience.definitions_lock_shared() RETURNS void
AS 'MODULE_PATHNAME', 'aud_definitions_lock_shared_sql'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.definitions_lock_shared() IS
	'internal: keeps definitions from changing until the transaction ends';

CREATE FUNCTION audience.fill(segments integer[], aggregates integer[], reason text, other_reason text, nobody_in boolean)
	RETURNS void
AS 'MODULE_PATHNAME', 'aud_fill'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION audience.fill(integer[], integer[], text, text, boolean) IS
	'internal: makes these aggregates'' states, and these segments'' memberships, right for all users; the last argument: nobody is in them yet';

CREATE FUNCTION audience.fill_chunk(after text, most integer, OUT last text, OUT users integer)
AS 'MODULE_PATHNAME', 'aud_fill_chunk'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION audience.fill_chunk(text, integer) IS
	'internal: makes the next users whole for all fills that are going on; the last of them and how many';

CREATE FUNCTION audience.note_fill() RETURNS void
AS 'MODULE_PATHNAME', 'aud_note_fill'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.note_fill() IS 'internal: has the scheduler look for fills when the transaction has committed';

CREATE FUNCTION audience.rebuild(user_ids text[], reason text, statics integer[]) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_rebuild'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION audience.rebuild(text[], text, integer[]) IS
	'internal: makes these users'' states and memberships anew, and the profiles that are missing, and enters them into these static segments; how many users';

CREATE FUNCTION audience.set_attributes(user_ids text[], patches jsonb[]) RETURNS void
AS 'MODULE_PATHNAME', 'aud_set_attributes'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION audience.set_attributes(text[], jsonb[]) IS
	'internal: merges objects into users'' attributes and evaluates them';

CREATE FUNCTION audience.merge_patch(target jsonb, patch jsonb) RETURNS jsonb
AS 'MODULE_PATHNAME', 'aud_merge_patch_sql'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.merge_patch(jsonb, jsonb) IS 'internal: an object with another merged into it, as RFC 7396 says';

CREATE FUNCTION audience.set_static(segment integer, user_ids text[], add boolean, reason text) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_set_static'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION audience.set_static(integer, text[], boolean, text) IS
	'internal: enters users into a static segment or takes them out; how many that changed';

CREATE FUNCTION audience.profile_values(user_ids text[], moved boolean,
	OUT user_id text, OUT aggregate integer, OUT value jsonb) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_profile_values'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.profile_values(text[], boolean) IS
	'internal: these users'' aggregates (ids in C order) as of now, or as stored; missing ones are left out';

CREATE FUNCTION audience.leave_all(user_id text, reason text) RETURNS void
AS 'MODULE_PATHNAME', 'aud_leave_all'
LANGUAGE C VOLATILE STRICT;
COMMENT ON FUNCTION audience.leave_all(text, text) IS 'internal: a user leaves all segments';

CREATE FUNCTION audience.rule_scan(rule audience.rule) RETURNS SETOF text
AS 'MODULE_PATHNAME', 'aud_rule_scan'
LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION audience.rule_scan(audience.rule) IS 'internal: the users for whom a rule holds now';

CREATE FUNCTION audience.rule_aggregates(rule audience.rule) RETURNS SETOF audience.rule
AS 'MODULE_PATHNAME', 'aud_rule_aggregates'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 3;
COMMENT ON FUNCTION audience.rule_aggregates(audience.rule) IS
	'internal: what a rule asks of events, as table aggregates keeps it';

CREATE FUNCTION audience.rule_fields(rule audience.rule) RETURNS SETOF text
AS 'MODULE_PATHNAME', 'aud_rule_fields'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 3;
COMMENT ON FUNCTION audience.rule_fields(audience.rule) IS 'internal: the first keys of the fields that a rule asks of a profile';

CREATE FUNCTION audience.rule_segments(rule audience.rule) RETURNS SETOF text
AS 'MODULE_PATHNAME', 'aud_rule_segments'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 3;
COMMENT ON FUNCTION audience.rule_segments(audience.rule) IS 'internal: the segments that a rule refers to';

CREATE FUNCTION audience.rule_explain(rule audience.rule, user_id text,
	OUT depth integer, OUT node text, OUT actual jsonb, OUT holds boolean) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_rule_explain'
LANGUAGE C STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.rule_explain(audience.rule, text) IS
	'every node of a rule, what it saw of the user, and whether it holds';

CREATE FUNCTION audience.rule_score(rule audience.rule, user_id text) RETURNS double precision
AS 'MODULE_PATHNAME', 'aud_rule_score'
LANGUAGE C STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.rule_score(audience.rule, text) IS
	'how far a user meets a rule, 0 to 1: the mean over all, the maximum over any';

CREATE FUNCTION audience.profile_match(profile audience.profiles, rule audience.rule) RETURNS boolean
AS 'MODULE_PATHNAME', 'aud_profile_match'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.profile_match(audience.profiles, audience.rule) IS 'does the rule hold for the user now?';

CREATE FUNCTION audience.match_profile(rule audience.rule, profile audience.profiles) RETURNS boolean
AS 'SELECT audience.profile_match(profile, rule)'
LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION audience.match_profile(audience.rule, audience.profiles) IS 'does the rule hold for the user now?';

CREATE OPERATOR audience.|= (
	LEFTARG = audience.profiles, RIGHTARG = audience.rule,
	FUNCTION = audience.profile_match, COMMUTATOR = OPERATOR(audience.=|)
);
COMMENT ON OPERATOR audience.|= (audience.profiles, audience.rule) IS 'does the rule hold for the user now?';
CREATE OPERATOR audience.=| (
	LEFTARG = audience.rule, RIGHTARG = audience.profiles,
	FUNCTION = audience.match_profile, COMMUTATOR = OPERATOR(audience.|=)
);
COMMENT ON OPERATOR audience.=| (audience.rule, audience.profiles) IS 'does the rule hold for the user now?';

CREATE FUNCTION audience.engine_statistics(OUT statements bigint, OUT events bigint, OUT users bigint,
	OUT rules_evaluated bigint, OUT rows_read bigint, OUT transitions bigint, OUT waits bigint)
AS 'MODULE_PATHNAME', 'aud_engine_statistics'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.engine_statistics() IS 'the row of view stat_engine';

CREATE VIEW audience.stat_engine AS SELECT * FROM audience.engine_statistics();
COMMENT ON VIEW audience.stat_engine IS
	'what the engine has done since the server''s start; needs shared_preload_libraries';
COMMENT ON COLUMN audience.stat_engine.statements IS 'statements that inserted events';
COMMENT ON COLUMN audience.stat_engine.events IS 'events evaluated';
COMMENT ON COLUMN audience.stat_engine.users IS 'users looked at, once a batch';
COMMENT ON COLUMN audience.stat_engine.rules_evaluated IS 'segments'' rules evaluated';
COMMENT ON COLUMN audience.stat_engine.rows_read IS 'events read back, for windows and for states made anew';
COMMENT ON COLUMN audience.stat_engine.transitions IS 'changes of membership written';
COMMENT ON COLUMN audience.stat_engine.waits IS 'times that a change of definitions waited for others';

-- Not SECURITY DEFINER, so that nobody is granted them (90_privileges.sql).
CREATE FUNCTION audience.engine_work(OUT counter text, OUT value bigint) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_engine_work'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.engine_work() IS
	'internal, for developers: what the engine has done in this session since it began, or since engine_work_reset';

CREATE FUNCTION audience.engine_work_reset() RETURNS void
AS 'MODULE_PATHNAME', 'aud_engine_work_reset'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.engine_work_reset() IS 'internal, for developers: engine_work counts from 0 again';
