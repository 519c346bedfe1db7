-- Tables: events, profiles, and the definitions.
--
-- No foreign keys: a parallel restore loads tables in any order, and a key to
-- a definition would be a hot row.  Every per-user table has user_id in its
-- keys.  Ids are in the C collation, the order in which locks are taken.

CREATE FUNCTION audience.now() RETURNS timestamptz
AS 'MODULE_PATHNAME', 'aud_now_sql'
LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION audience.now() IS
	'the instant that rules are evaluated for: the transaction''s start, or the setting audience.now';

CREATE FUNCTION audience.timestamp_text(timestamptz) RETURNS text
AS 'MODULE_PATHNAME', 'aud_timestamp_text'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.timestamp_text(timestamptz) IS
	'a timestamp as the engine prints it everywhere: 2026-11-20T09:38:00.123456Z';

CREATE TABLE audience.events (
	user_id text COLLATE "C" NOT NULL,
	occurred_at timestamptz NOT NULL DEFAULT audience.now(),
	event_id text COLLATE "C" NOT NULL DEFAULT pg_catalog.gen_random_uuid()::text,
	event_type text NOT NULL,
	properties jsonb NOT NULL DEFAULT '{}',
	context jsonb,
	received_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (user_id, occurred_at, event_id)
);
COMMENT ON TABLE audience.events IS
	'what users did; append-only; inserting here evaluates the users'' segments in the same statement';
COMMENT ON COLUMN audience.events.user_id IS 'whose event, 1 to 255 bytes';
COMMENT ON COLUMN audience.events.occurred_at IS 'when it happened';
COMMENT ON COLUMN audience.events.event_id IS 'an event is the same if user, time and id are';
COMMENT ON COLUMN audience.events.event_type IS 'what happened: purchase, page_view, ...';
COMMENT ON COLUMN audience.events.properties IS 'a JSON object';
COMMENT ON COLUMN audience.events.context IS 'a JSON object: session, device, ...';
COMMENT ON COLUMN audience.events.received_at IS 'start of the transaction that stored it; the engine''s, not to be given';

-- the columns that change stand before those that seldom do, so that WAL holds
-- little else
CREATE TABLE audience.profiles (
	user_id text COLLATE "C" NOT NULL PRIMARY KEY,
	first_seen timestamptz,
	last_seen timestamptz,
	evaluated_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	state bytea,
	members bytea,
	attributes jsonb NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70, toast_tuple_target = 8160);
-- both are written again and again: compressing them costs more than it saves
ALTER TABLE audience.profiles
	ALTER state SET STORAGE EXTERNAL,
	ALTER members SET STORAGE EXTERNAL;
COMMENT ON TABLE audience.profiles IS 'one row per user: attributes, and the state of the user''s traits';
COMMENT ON COLUMN audience.profiles.user_id IS '1 to 255 bytes';
COMMENT ON COLUMN audience.profiles.attributes IS 'what is set, not computed (profile_set)';
COMMENT ON COLUMN audience.profiles.first_seen IS 'time of the user''s earliest event';
COMMENT ON COLUMN audience.profiles.last_seen IS 'time of the user''s latest event';
COMMENT ON COLUMN audience.profiles.evaluated_at IS 'the instant that state is exact for';
COMMENT ON COLUMN audience.profiles.state IS 'the engine''s: states of aggregates';
COMMENT ON COLUMN audience.profiles.members IS 'the engine''s: memberships; see view memberships';
COMMENT ON COLUMN audience.profiles.updated_at IS 'start of the transaction that last changed the row';

CREATE TABLE audience.timers (
	user_id text COLLATE "C" NOT NULL PRIMARY KEY,
	due_at timestamptz NOT NULL
);
CREATE INDEX timers_due_at_idx ON audience.timers (due_at, user_id);
COMMENT ON TABLE audience.timers IS 'when time alone may next change a user''s memberships (run_due)';
COMMENT ON COLUMN audience.timers.user_id IS 'whose; time alone changes nothing for a user without a row';
COMMENT ON COLUMN audience.timers.due_at IS 'the earliest such instant; may come too early, never too late';
COMMENT ON INDEX audience.timers_due_at_idx IS 'the next ones due';

CREATE SEQUENCE audience.aggregate_number_seq AS integer START 1000;
COMMENT ON SEQUENCE audience.aggregate_number_seq IS 'numbers of aggregates; those below 1000 are built in';

CREATE TABLE audience.aggregates (
	number integer NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('audience.aggregate_number_seq'),
	definition audience.rule NOT NULL,
	pending bigint
);
ALTER SEQUENCE audience.aggregate_number_seq OWNED BY audience.aggregates.number;
CREATE INDEX aggregates_definition_idx ON audience.aggregates USING hash (definition);
CREATE INDEX aggregates_pending_idx ON audience.aggregates (pending) WHERE pending IS NOT NULL;
COMMENT ON TABLE audience.aggregates IS
	'what traits and rules ask of events, each once, whoever asks; its state is kept per user under its number';
COMMENT ON INDEX audience.aggregates_definition_idx IS 'is it kept already?';
COMMENT ON INDEX audience.aggregates_pending_idx IS 'those whose states are being made';
COMMENT ON COLUMN audience.aggregates.number IS 'key of its state in profiles; never used again';
COMMENT ON COLUMN audience.aggregates.pending IS 'number of the fill that is making its states; null: all are made';
COMMENT ON COLUMN audience.aggregates.definition IS 'an event node with operator exists, or a sequence node';

CREATE TABLE audience.traits (
	name text COLLATE "C" NOT NULL PRIMARY KEY,
	aggregate text NOT NULL,
	event_type text,
	property text,
	filter audience.rule,
	time_window interval,
	aggregate_number integer NOT NULL,
	built_in boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE audience.traits IS 'what is computed from each user''s events, by name (trait_create)';
COMMENT ON COLUMN audience.traits.name IS 'the field that rules know it by';
COMMENT ON COLUMN audience.traits.aggregate IS 'count, sum, avg, min, max, first, last, ...';
COMMENT ON COLUMN audience.traits.event_type IS 'which events; null: all; a trailing * makes it a prefix';
COMMENT ON COLUMN audience.traits.property IS 'path into their properties';
COMMENT ON COLUMN audience.traits.filter IS 'rule over their properties';
COMMENT ON COLUMN audience.traits.time_window IS 'sliding window; null: all events';
COMMENT ON COLUMN audience.traits.aggregate_number IS 'the aggregate that keeps it';
COMMENT ON COLUMN audience.traits.built_in IS 'there from the start; cannot be dropped';

CREATE SEQUENCE audience.segment_number_seq AS integer;
COMMENT ON SEQUENCE audience.segment_number_seq IS 'numbers of segments';

CREATE TABLE audience.segment_numbers (
	number integer NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('audience.segment_number_seq'),
	segment_id text COLLATE "C" NOT NULL
);
ALTER SEQUENCE audience.segment_number_seq OWNED BY audience.segment_numbers.number;
COMMENT ON TABLE audience.segment_numbers IS 'the numbers under which memberships and history know segments, deleted ones too';
COMMENT ON COLUMN audience.segment_numbers.number IS 'never used again';
COMMENT ON COLUMN audience.segment_numbers.segment_id IS 'the segment that has or had it';

CREATE TABLE audience.segments (
	id text COLLATE "C" NOT NULL PRIMARY KEY,
	name text NOT NULL,
	type text NOT NULL,
	rules audience.rule,
	description text,
	active boolean NOT NULL DEFAULT true,
	status text NOT NULL DEFAULT 'ready',
	version integer NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	number integer NOT NULL UNIQUE,
	pending bigint,
	pending_reason text,
	CHECK (type IN ('dynamic', 'static')),
	CHECK (status IN ('ready', 'building')),
	CHECK ((type = 'dynamic') = (rules IS NOT NULL))
);
COMMENT ON TABLE audience.segments IS
	'named sets of users (segment_create); a lock on it keeps definitions and ingestion apart';
COMMENT ON COLUMN audience.segments.id IS '1 to 255 bytes, made from the name if not given';
COMMENT ON COLUMN audience.segments.name IS 'for people';
COMMENT ON COLUMN audience.segments.type IS 'dynamic: the rule decides; static: a list';
COMMENT ON COLUMN audience.segments.rules IS 'the rule of a dynamic segment';
COMMENT ON COLUMN audience.segments.description IS 'for people';
COMMENT ON COLUMN audience.segments.active IS 'an inactive segment has no members';
COMMENT ON COLUMN audience.segments.status IS 'ready, or building: not yet filled';
COMMENT ON COLUMN audience.segments.version IS 'counts changes of the rule';
COMMENT ON COLUMN audience.segments.created_at IS 'when it was made';
COMMENT ON COLUMN audience.segments.updated_at IS 'when its definition last changed';
COMMENT ON COLUMN audience.segments.number IS 'what memberships and history know it by (segment_numbers)';

COMMENT ON COLUMN audience.segments.pending IS 'number of the fill that is bringing its members in line; null: they are';
COMMENT ON COLUMN audience.segments.pending_reason IS 'reason of that fill''s transitions';

CREATE SEQUENCE audience.fill_seq;
COMMENT ON SEQUENCE audience.fill_seq IS 'numbers of fills';

CREATE TABLE audience.refreshes (
	fill bigint NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('audience.fill_seq'),
	segment_number integer NOT NULL,
	position text COLLATE "C" NOT NULL DEFAULT '',
	finishing boolean NOT NULL DEFAULT false,
	users_done bigint NOT NULL DEFAULT 0,
	users_total bigint,
	started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	worked_seconds double precision NOT NULL DEFAULT 0,
	next_users integer NOT NULL DEFAULT 100
);
ALTER SEQUENCE audience.fill_seq OWNED BY audience.refreshes.fill;
COMMENT ON TABLE audience.refreshes IS
	'fills that go through the users in chunks; see view segment_refresh_progress';
COMMENT ON COLUMN audience.refreshes.fill IS 'its number; rises';
COMMENT ON COLUMN audience.refreshes.segment_number IS 'the segment it is for; others that refer to it may be filled with it';
COMMENT ON COLUMN audience.refreshes.position IS 'the last user that is done, in the order of ids';
COMMENT ON COLUMN audience.refreshes.finishing IS 'all users are done; what is left is to say so';
COMMENT ON COLUMN audience.refreshes.users_done IS 'users done';
COMMENT ON COLUMN audience.refreshes.users_total IS 'users when the first of them were done';
COMMENT ON COLUMN audience.refreshes.started_at IS 'when it began';
COMMENT ON COLUMN audience.refreshes.worked_seconds IS 'time that its chunks have taken';
COMMENT ON COLUMN audience.refreshes.next_users IS 'how many users make a chunk that is neither long nor tiny';

CREATE TABLE audience.definition_version (
	version bigint NOT NULL
);
COMMENT ON TABLE audience.definition_version IS 'one row, counted up by every change of traits, aggregates and segments';
COMMENT ON COLUMN audience.definition_version.version IS 'how many changes there have been';
-- a database whose tables are published must be able to count it up
ALTER TABLE audience.definition_version REPLICA IDENTITY FULL;
INSERT INTO audience.definition_version VALUES (1);

CREATE FUNCTION audience.member_since(members bytea, segment_number integer) RETURNS timestamptz
AS 'MODULE_PATHNAME', 'aud_member_since'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.member_since(bytea, integer) IS
	'internal: since when a profile''s memberships hold a segment; null: they do not';

CREATE FUNCTION audience.members_list(members bytea, OUT segment_number integer, OUT entered_at timestamptz)
	RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_members_list'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 20;
COMMENT ON FUNCTION audience.members_list(bytea) IS 'internal: a profile''s memberships';

CREATE FUNCTION audience.members_remove(members bytea, segment_number integer) RETURNS bytea
AS 'MODULE_PATHNAME', 'aud_members_remove'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.members_remove(bytea, integer) IS 'internal: a profile''s memberships without one segment';

CREATE FUNCTION audience.members_valid(members bytea) RETURNS boolean
AS 'MODULE_PATHNAME', 'aud_members_valid'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.members_valid(bytea) IS 'internal: are a profile''s memberships as the engine writes them?';

-- for one user, or one segment, a pass over the other: see docs/design.md
CREATE VIEW audience.memberships WITH (security_barrier) AS
	SELECT s.id AS segment_id, p.user_id, audience.member_since(p.members, s.number) AS entered_at,
		CASE s.type WHEN 'static' THEN 'manual' ELSE 'rule' END AS source
	FROM audience.segments s JOIN audience.profiles p
		ON audience.member_since(p.members, s.number) IS NOT NULL
	WHERE s.status = 'ready' AND s.active;
COMMENT ON VIEW audience.memberships IS 'who is in which segment, since when, and why';
COMMENT ON COLUMN audience.memberships.segment_id IS 'the segment';
COMMENT ON COLUMN audience.memberships.user_id IS 'the member';
COMMENT ON COLUMN audience.memberships.entered_at IS 'the instant the user entered';
COMMENT ON COLUMN audience.memberships.source IS 'rule, or manual for static segments';

CREATE SEQUENCE audience.transition_seq;
COMMENT ON SEQUENCE audience.transition_seq IS 'numbers of rows of the history';

CREATE TABLE audience.transition_log (
	seq bigint NOT NULL DEFAULT pg_catalog.nextval('audience.transition_seq'),
	user_id text COLLATE "C" NOT NULL,
	occurred_at timestamptz NOT NULL,
	recorded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	reason text NOT NULL,
	event_id text COLLATE "C",
	latency bigint,
	entries bytea NOT NULL,
	PRIMARY KEY (user_id, seq)
);
ALTER SEQUENCE audience.transition_seq OWNED BY audience.transition_log.seq;
COMMENT ON TABLE audience.transition_log IS
	'every change of membership, a row for each user, moment and reason; append-only; see view transitions';
COMMENT ON COLUMN audience.transition_log.seq IS 'rises within a user; no order between users';
COMMENT ON COLUMN audience.transition_log.user_id IS 'who';
COMMENT ON COLUMN audience.transition_log.occurred_at IS 'the instant it was evaluated for';
COMMENT ON COLUMN audience.transition_log.recorded_at IS 'the clock when it was written';
COMMENT ON COLUMN audience.transition_log.reason IS
	'rule_evaluation, manual, expired, backfill, refresh, merge, erased, deactivated or segment_deleted';
COMMENT ON COLUMN audience.transition_log.event_id IS 'the user''s latest event of the statement that caused it';
COMMENT ON COLUMN audience.transition_log.latency IS 'from that event''s reception to the decision, in microseconds';
COMMENT ON COLUMN audience.transition_log.entries IS 'the engine''s: which segments, in or out, version and score';

CREATE FUNCTION audience.transition_entries(entries bytea, OUT ordinal integer, OUT segment_number integer,
	OUT added boolean, OUT version integer, OUT score double precision) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_transition_entries'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 3;
COMMENT ON FUNCTION audience.transition_entries(bytea) IS 'internal: the transitions that a row of the history holds';

CREATE FUNCTION audience.transition_entry(segment_number integer, added boolean, version integer) RETURNS bytea
AS 'MODULE_PATHNAME', 'aud_transition_entry'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.transition_entry(integer, boolean, integer) IS
	'internal: column entries of a row of the history that holds one transition';

CREATE FUNCTION audience.transition_entries_remove(entries bytea, ordinals integer[]) RETURNS bytea
AS 'MODULE_PATHNAME', 'aud_transition_entries_remove'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.transition_entries_remove(bytea, integer[]) IS
	'internal: a row of the history without the transitions of these ordinals; the others keep theirs';

CREATE VIEW audience.transitions AS
	SELECT (l.seq << 20) + e.ordinal AS seq, l.user_id, n.segment_id,
		CASE WHEN e.added THEN 'added' ELSE 'removed' END AS action,
		l.reason, l.occurred_at, l.recorded_at, l.event_id, e.version AS segment_version,
		pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
			'ruleScore', e.score, 'evaluationLatency', pg_catalog.trim_scale(l.latency / 1000.0),
			'segmentVersion', e.version, 'eventId', l.event_id)) AS metadata
	FROM audience.transition_log l
		CROSS JOIN LATERAL audience.transition_entries(l.entries) e
		JOIN audience.segment_numbers n ON n.number = e.segment_number;
COMMENT ON VIEW audience.transitions IS 'every change of membership';
COMMENT ON COLUMN audience.transitions.seq IS 'rises within a user; no order between users';
COMMENT ON COLUMN audience.transitions.user_id IS 'who';
COMMENT ON COLUMN audience.transitions.segment_id IS 'which segment';
COMMENT ON COLUMN audience.transitions.action IS 'added or removed';
COMMENT ON COLUMN audience.transitions.reason IS
	'rule_evaluation, manual, expired, backfill, refresh, merge, erased, deactivated or segment_deleted';
COMMENT ON COLUMN audience.transitions.occurred_at IS 'the instant it was evaluated for';
COMMENT ON COLUMN audience.transitions.recorded_at IS 'the clock when it was written';
COMMENT ON COLUMN audience.transitions.event_id IS 'the user''s latest event of the statement that caused it';
COMMENT ON COLUMN audience.transitions.segment_version IS 'version of the segment''s rule';
COMMENT ON COLUMN audience.transitions.metadata IS 'ruleScore, evaluationLatency (ms), segmentVersion, eventId, where they apply';

CREATE TABLE audience.retention (
	kind text NOT NULL PRIMARY KEY,
	complete_from timestamptz,
	cutoff timestamptz,
	position text COLLATE "C",
	started_at timestamptz NOT NULL,
	stepped_at timestamptz NOT NULL,
	CHECK (kind IN ('transitions', 'events'))
);
COMMENT ON TABLE audience.retention IS
	'how far retention has come, a row for what it has begun with; see view retention_progress';
COMMENT ON COLUMN audience.retention.kind IS 'transitions or events';
COMMENT ON COLUMN audience.retention.complete_from IS
	'from then on all is there: earlier transitions may have been removed; earlier events are refused, and may have been deleted';
COMMENT ON COLUMN audience.retention.cutoff IS 'what is older may go in the pass that began last';
COMMENT ON COLUMN audience.retention.position IS 'the last user who is done in it, in the order of ids; null: it is over';
COMMENT ON COLUMN audience.retention.started_at IS 'when it began, as rules see the time';
COMMENT ON COLUMN audience.retention.stepped_at IS 'when the last step was made, by the clock: the two take turns';

CREATE TABLE audience.event_bases (
	user_id text COLLATE "C" NOT NULL PRIMARY KEY,
	complete_from timestamptz NOT NULL,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	events bigint NOT NULL,
	states bytea NOT NULL
) WITH (fillfactor = 80);
COMMENT ON TABLE audience.event_bases IS
	'what is kept of users'' events that retention has deleted; all-time traits are made of it and of the events that are there';
COMMENT ON COLUMN audience.event_bases.user_id IS 'whose; without a row none has been deleted';
COMMENT ON COLUMN audience.event_bases.complete_from IS 'no event from then on has been deleted';
COMMENT ON COLUMN audience.event_bases.first_seen IS 'time of the earliest event deleted';
COMMENT ON COLUMN audience.event_bases.last_seen IS 'time of the latest event deleted';
COMMENT ON COLUMN audience.event_bases.events IS 'how many have been deleted';
COMMENT ON COLUMN audience.event_bases.states IS 'the engine''s: states over them, of the aggregates over all of time';

-- what a dump must hold; rows made here are not in it
SELECT pg_catalog.pg_extension_config_dump('audience.events', '');
SELECT pg_catalog.pg_extension_config_dump('audience.profiles', '');
SELECT pg_catalog.pg_extension_config_dump('audience.timers', '');
SELECT pg_catalog.pg_extension_config_dump('audience.aggregates', 'WHERE number >= 1000');
SELECT pg_catalog.pg_extension_config_dump('audience.aggregate_number_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audience.traits', 'WHERE NOT built_in');
SELECT pg_catalog.pg_extension_config_dump('audience.segments', '');
SELECT pg_catalog.pg_extension_config_dump('audience.segment_number_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audience.segment_numbers', '');
SELECT pg_catalog.pg_extension_config_dump('audience.refreshes', '');
SELECT pg_catalog.pg_extension_config_dump('audience.fill_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audience.transition_log', '');
SELECT pg_catalog.pg_extension_config_dump('audience.retention', '');
SELECT pg_catalog.pg_extension_config_dump('audience.event_bases', '');
SELECT pg_catalog.pg_extension_config_dump('audience.transition_seq', '');

INSERT INTO audience.aggregates (number, definition) VALUES
	(1, '{"event": "purchase", "aggregate": "sum", "property": "amount", "operator": "exists"}'),
	(2, '{"event": "*", "operator": "exists"}'),
	(3, '{"event": "*", "aggregate": "last_time", "operator": "exists"}');
INSERT INTO audience.traits (name, aggregate, event_type, property, aggregate_number, built_in) VALUES
	('totalSpent', 'sum', 'purchase', 'amount', 1, true),
	('eventCount', 'count', NULL, NULL, 2, true),
	('lastActivity', 'last_time', NULL, NULL, 3, true);
