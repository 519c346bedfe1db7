-- Kafka: clusters, sources and sinks, as they are set up.
--
-- Background workers do the rest (bgworker/); nothing here talks to a broker.

CREATE TABLE audience.kafka_installation (
	id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
	system_identifier bigint NOT NULL,
	database oid NOT NULL
);
ALTER TABLE audience.kafka_installation REPLICA IDENTITY FULL;
COMMENT ON TABLE audience.kafka_installation IS
	'one row from the first cluster on: which database of which server may exchange messages; a restored copy is another (kafka_activate)';
COMMENT ON COLUMN audience.kafka_installation.id IS 'stands before origin and number in header audience-event-id; stays';
COMMENT ON COLUMN audience.kafka_installation.system_identifier IS 'the server''s, as pg_control_system() has it';
COMMENT ON COLUMN audience.kafka_installation.database IS 'the database''s oid';

CREATE TABLE audience.kafka_clusters (
	name text COLLATE "C" NOT NULL PRIMARY KEY,
	options jsonb NOT NULL
);
COMMENT ON TABLE audience.kafka_clusters IS 'Kafka clusters and how to reach them (kafka_cluster_set); holds no secrets';
COMMENT ON COLUMN audience.kafka_clusters.name IS 'what sources and sinks call it';
COMMENT ON COLUMN audience.kafka_clusters.options IS 'settings of librdkafka; secrets as "file:/path"';

CREATE SEQUENCE audience.kafka_source_seq AS integer;
COMMENT ON SEQUENCE audience.kafka_source_seq IS 'numbers of sources';

CREATE TABLE audience.kafka_sources (
	number integer NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('audience.kafka_source_seq'),
	id text COLLATE "C" NOT NULL UNIQUE,
	cluster text COLLATE "C" NOT NULL,
	topic text COLLATE "C" NOT NULL,
	stream text NOT NULL,
	start bigint NOT NULL,
	options jsonb NOT NULL,
	cluster_id text,
	discovered boolean NOT NULL DEFAULT false,
	paused boolean NOT NULL DEFAULT false,
	stopped text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (cluster, topic),
	CHECK (stream IN ('events', 'segments'))
);
ALTER SEQUENCE audience.kafka_source_seq OWNED BY audience.kafka_sources.number;
COMMENT ON TABLE audience.kafka_sources IS 'topics that are read (kafka_source_create)';
COMMENT ON COLUMN audience.kafka_sources.number IS 'what offsets and statistics know it by; never used again';
COMMENT ON COLUMN audience.kafka_sources.id IS 'the topic; of another cluster than "main": cluster/topic';
COMMENT ON COLUMN audience.kafka_sources.cluster IS 'where the topic is';
COMMENT ON COLUMN audience.kafka_sources.topic IS 'the topic';
COMMENT ON COLUMN audience.kafka_sources.stream IS 'what its messages are: events or segments';
COMMENT ON COLUMN audience.kafka_sources.start IS
	'where the partitions that are there at first begin: -2 the first message, -1 the next one, else milliseconds since 1970';
COMMENT ON COLUMN audience.kafka_sources.options IS 'max_bad, out_of_range';
COMMENT ON COLUMN audience.kafka_sources.cluster_id IS 'what the cluster calls itself, when it was first reached; another one stops the source';
COMMENT ON COLUMN audience.kafka_sources.discovered IS 'its first partitions are known: those that come later begin with their first message';
COMMENT ON COLUMN audience.kafka_sources.paused IS 'kafka_source_pause';
COMMENT ON COLUMN audience.kafka_sources.stopped IS 'why it was stopped by itself; kafka_source_resume';
COMMENT ON COLUMN audience.kafka_sources.created_at IS 'when it was made';

CREATE TABLE audience.kafka_offsets (
	source integer NOT NULL,
	partition integer NOT NULL,
	next_offset bigint,
	start bigint NOT NULL DEFAULT -2,
	epoch bigint NOT NULL DEFAULT 0,
	moved_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (source, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE audience.kafka_offsets IS 'how far each partition of a source has been read; moves in the transaction that stores the messages';
COMMENT ON COLUMN audience.kafka_offsets.source IS 'number of the source';
COMMENT ON COLUMN audience.kafka_offsets.partition IS 'the partition';
COMMENT ON COLUMN audience.kafka_offsets.next_offset IS 'the first offset that is not done; null: to be found from "start"';
COMMENT ON COLUMN audience.kafka_offsets.start IS 'as in kafka_sources';
COMMENT ON COLUMN audience.kafka_offsets.epoch IS 'counts pauses, moves and stops: a worker that knows another one commits nothing';
COMMENT ON COLUMN audience.kafka_offsets.moved_at IS 'when it last moved';

CREATE SEQUENCE audience.kafka_sink_seq AS integer;
COMMENT ON SEQUENCE audience.kafka_sink_seq IS 'numbers of sinks';

CREATE TABLE audience.kafka_sinks (
	number integer NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('audience.kafka_sink_seq'),
	id text COLLATE "C" NOT NULL UNIQUE,
	cluster text COLLATE "C" NOT NULL,
	topic text COLLATE "C" NOT NULL,
	stream text NOT NULL,
	paused boolean NOT NULL DEFAULT false,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (cluster, topic),
	CHECK (stream IN ('transitions', 'segments'))
);
ALTER SEQUENCE audience.kafka_sink_seq OWNED BY audience.kafka_sinks.number;
COMMENT ON TABLE audience.kafka_sinks IS 'topics that are written (kafka_sink_create)';
COMMENT ON COLUMN audience.kafka_sinks.number IS 'what the outbox and statistics know it by; never used again';
COMMENT ON COLUMN audience.kafka_sinks.id IS 'the topic; of another cluster than "main": cluster/topic';
COMMENT ON COLUMN audience.kafka_sinks.cluster IS 'where the topic is';
COMMENT ON COLUMN audience.kafka_sinks.topic IS 'the topic';
COMMENT ON COLUMN audience.kafka_sinks.stream IS 'what goes there: transitions or segments';
COMMENT ON COLUMN audience.kafka_sinks.paused IS 'kafka_sink_pause: what is to be sent waits';
COMMENT ON COLUMN audience.kafka_sinks.created_at IS 'when it was made; what was committed since is sent';

-- sessions keep in mind which sinks transitions go to
CREATE TRIGGER definitions_changed AFTER INSERT OR DELETE OR TRUNCATE ON audience.kafka_sinks
	FOR EACH STATEMENT EXECUTE FUNCTION audience.definitions_changed();
COMMENT ON TRIGGER definitions_changed ON audience.kafka_sinks IS 'tells all sessions';

CREATE SEQUENCE audience.kafka_outbox_seq;
COMMENT ON SEQUENCE audience.kafka_outbox_seq IS 'numbers of rows of the outbox';

CREATE FUNCTION audience.kafka_origin() RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_kafka_origin'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.kafka_origin() IS 'internal: a number of this server, database and timeline';

-- the columns of transition_log, so that neither retention nor profile_erase takes away what is still to be sent
CREATE TABLE audience.kafka_outbox (
	sink integer NOT NULL,
	id bigint NOT NULL DEFAULT pg_catalog.nextval('audience.kafka_outbox_seq'),
	key text COLLATE "C" NOT NULL,
	recorded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	messages integer NOT NULL,
	origin bigint NOT NULL DEFAULT audience.kafka_origin(),
	seq bigint,
	occurred_at timestamptz,
	reason text,
	event_id text COLLATE "C",
	latency bigint,
	entries bytea,
	message json,
	PRIMARY KEY (sink, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
ALTER SEQUENCE audience.kafka_outbox_seq OWNED BY audience.kafka_outbox.id;
COMMENT ON TABLE audience.kafka_outbox IS 'what sinks have not sent yet: written with the change itself, removed when the brokers have it';
COMMENT ON COLUMN audience.kafka_outbox.sink IS 'number of the sink';
COMMENT ON COLUMN audience.kafka_outbox.id IS 'rises within a key: it is taken while the user, or the definitions, are locked';
COMMENT ON COLUMN audience.kafka_outbox.key IS 'of the messages: a user''s or segment''s id';
COMMENT ON COLUMN audience.kafka_outbox.recorded_at IS 'the clock when it was written';
COMMENT ON COLUMN audience.kafka_outbox.messages IS 'how many messages it is';
COMMENT ON COLUMN audience.kafka_outbox.origin IS 'where it was written (kafka_origin); a restored copy, or a promoted standby, uses numbers of others again';
COMMENT ON COLUMN audience.kafka_outbox.seq IS 'of the row of the history that it copies, with the columns that follow; null: a segment''s';
COMMENT ON COLUMN audience.kafka_outbox.occurred_at IS 'as in transition_log';
COMMENT ON COLUMN audience.kafka_outbox.reason IS 'as in transition_log';
COMMENT ON COLUMN audience.kafka_outbox.event_id IS 'as in transition_log';
COMMENT ON COLUMN audience.kafka_outbox.latency IS 'as in transition_log';
COMMENT ON COLUMN audience.kafka_outbox.entries IS 'as in transition_log';
COMMENT ON COLUMN audience.kafka_outbox.message IS 'the message about a segment';

SELECT pg_catalog.pg_extension_config_dump('audience.kafka_installation', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_clusters', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_sources', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_source_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_offsets', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_sinks', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_sink_seq', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_outbox', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_outbox_seq', '');

CREATE FUNCTION audience.note_kafka() RETURNS void
AS 'MODULE_PATHNAME', 'aud_note_kafka'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.note_kafka() IS 'internal: has the workers look at how the database is connected with Kafka when the transaction has committed';

CREATE FUNCTION audience.note_outbox() RETURNS void
AS 'MODULE_PATHNAME', 'aud_note_outbox'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.note_outbox() IS 'internal: has the relay look for something to send when the transaction has committed';

CREATE FUNCTION audience.kafka_start(start text) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_kafka_start'
LANGUAGE C IMMUTABLE;
COMMENT ON FUNCTION audience.kafka_start(text) IS
	'internal: "earliest", "latest" or a timestamp, as column start has it';

CREATE FUNCTION audience.kafka_is_here(installation audience.kafka_installation) RETURNS boolean
AS $$
	SELECT installation.system_identifier = (SELECT c.system_identifier FROM pg_catalog.pg_control_system() c)
		AND installation.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
$$ LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_is_here(audience.kafka_installation) IS
	'is this the database that may exchange messages with Kafka, and no copy of it?';

CREATE FUNCTION audience.kafka_activate() RETURNS void
AS $$
BEGIN
	DELETE FROM audience.kafka_installation i WHERE i.ctid <> (SELECT min(o.ctid) FROM audience.kafka_installation o);
	UPDATE audience.kafka_installation i SET database = d.oid, system_identifier = c.system_identifier
	FROM pg_control_system() c, pg_database d WHERE d.datname = current_database();
	IF NOT FOUND THEN
		INSERT INTO audience.kafka_installation (system_identifier, database)
		SELECT c.system_identifier, d.oid FROM pg_control_system() c, pg_database d WHERE d.datname = current_database();
	END IF;
	PERFORM audience.note_kafka();
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_activate() IS
	'lets a restored copy exchange messages with Kafka, as the database did that it is a copy of';

CREATE FUNCTION audience.kafka_cluster_store(name text, options jsonb) RETURNS void
AS $$
#variable_conflict use_variable
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z0-9_.-]{1,63}$' THEN
		RAISE EXCEPTION 'name of a Kafka cluster must be 1 to 63 letters, digits, "_", "." or "-"' USING ERRCODE = '22023';
	END IF;
	INSERT INTO audience.kafka_clusters AS c (name, options) VALUES (name, options)
	ON CONFLICT ON CONSTRAINT kafka_clusters_pkey DO UPDATE SET options = EXCLUDED.options;
	IF NOT EXISTS (SELECT FROM audience.kafka_installation) THEN
		PERFORM audience.kafka_activate();
	END IF;
	PERFORM audience.note_kafka();
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_cluster_store(text, jsonb) IS
	'internal, for kafka_cluster_set: enters a cluster whose options have been checked';

-- not SECURITY DEFINER: it must know who calls it (caller.c)
CREATE FUNCTION audience.kafka_cluster_set(name text, options jsonb) RETURNS void
AS 'MODULE_PATHNAME', 'aud_kafka_cluster_set'
LANGUAGE C VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_cluster_set(text, jsonb) IS
	'says how a Kafka cluster is reached: librdkafka''s settings by their names; secrets as "file:/path"';

CREATE FUNCTION audience.kafka_cluster_drop(name text) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	users text;
BEGIN
	PERFORM FROM audience.kafka_clusters c WHERE c.name = name FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'Kafka cluster "%" does not exist', name USING ERRCODE = '42704';
	END IF;
	SELECT string_agg(u.line, E'\n' ORDER BY u.line) INTO users FROM (
		SELECT format('Source "%s" reads from it.', s.id) FROM audience.kafka_sources s WHERE s.cluster = name
		UNION ALL
		SELECT format('Sink "%s" writes to it.', s.id) FROM audience.kafka_sinks s WHERE s.cluster = name) u (line);
	IF users IS NOT NULL THEN
		RAISE EXCEPTION 'cannot drop Kafka cluster "%" because it is in use', name USING ERRCODE = '2BP01', DETAIL = users;
	END IF;
	DELETE FROM audience.kafka_clusters c WHERE c.name = name;
	PERFORM audience.note_kafka();
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_cluster_drop(text) IS 'forgets a Kafka cluster that no source or sink uses';

CREATE FUNCTION audience.kafka_check_topic(topic text, cluster text) RETURNS text
AS $$
BEGIN
	IF topic IS NULL OR topic !~ '^[A-Za-z0-9_.-]{1,249}$' OR topic IN ('.', '..') THEN
		RAISE EXCEPTION 'invalid name of a topic' USING ERRCODE = '22023',
			DETAIL = 'It must be 1 to 249 letters, digits, "_", "." or "-".';
	END IF;
	-- held until the source or sink is there
	PERFORM FROM audience.kafka_clusters c WHERE c.name = kafka_check_topic.cluster FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'Kafka cluster "%" does not exist', cluster USING ERRCODE = '42704',
			HINT = 'Say how it is reached with audience.kafka_cluster_set().';
	END IF;
	RETURN CASE WHEN cluster = 'main' THEN topic ELSE cluster || '/' || topic END;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_check_topic(text, text) IS
	'internal: refuses an impossible topic and an unknown cluster; the id of a source or sink of this topic';

CREATE FUNCTION audience.kafka_source_create(topic text, stream text DEFAULT 'events', cluster text DEFAULT 'main',
	start text DEFAULT 'earliest', options jsonb DEFAULT '{}') RETURNS text
AS $$
#variable_conflict use_variable
DECLARE
	new_id text := audience.kafka_check_topic(topic, cluster);
	key text;
	value jsonb;
BEGIN
	IF stream IS NULL OR stream NOT IN ('events', 'segments') THEN
		RAISE EXCEPTION 'stream of a source must be "events" or "segments"' USING ERRCODE = '22023';
	END IF;
	IF options IS NULL OR jsonb_typeof(options) <> 'object' THEN
		RAISE EXCEPTION 'options of a source must be an object' USING ERRCODE = '22023';
	END IF;
	FOR key, value IN SELECT * FROM jsonb_each(options) LOOP
		IF key = 'max_bad' THEN
			IF jsonb_typeof(value) <> 'number' OR value::numeric NOT BETWEEN 0 AND 1 THEN
				RAISE EXCEPTION 'option "max_bad" must be a number from 0 to 1' USING ERRCODE = '22023';
			END IF;
		ELSIF key = 'out_of_range' THEN
			IF value NOT IN ('"stop"', '"earliest"', '"latest"') THEN
				RAISE EXCEPTION 'option "out_of_range" must be "stop", "earliest" or "latest"' USING ERRCODE = '22023';
			END IF;
		ELSE
			RAISE EXCEPTION 'unknown option "%" of a source', key USING ERRCODE = '22023',
				HINT = 'There are "max_bad" and "out_of_range".';
		END IF;
	END LOOP;
	INSERT INTO audience.kafka_sources (id, cluster, topic, stream, start, options)
	VALUES (new_id, cluster, topic, stream, audience.kafka_start(start), options)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" already exists', new_id USING ERRCODE = '42710';
	END IF;
	PERFORM audience.note_kafka();
	RETURN new_id;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_create(text, text, text, text, jsonb) IS
	'has a topic''s messages become events or segments, from "earliest", "latest" or a timestamp on; the source''s id';

CREATE FUNCTION audience.kafka_source_hold(id text) RETURNS integer
AS $$
#variable_conflict use_variable
DECLARE
	held integer;
BEGIN
	SELECT s.number INTO held FROM audience.kafka_sources s WHERE s.id = id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" does not exist', id USING ERRCODE = '42704';
	END IF;
	-- waits for whoever is just storing messages; what it read is not stored afterwards
	PERFORM FROM audience.kafka_offsets o WHERE o.source = held ORDER BY o.partition FOR UPDATE;
	UPDATE audience.kafka_offsets o SET epoch = o.epoch + 1 WHERE o.source = held;
	PERFORM audience.note_kafka();
	RETURN held;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_hold(text) IS
	'internal: the number of a source, of which no worker commits anything more before it has looked anew';

CREATE FUNCTION audience.kafka_source_pause(id text) RETURNS void
AS $$
DECLARE
	held integer := audience.kafka_source_hold(kafka_source_pause.id);
BEGIN
	UPDATE audience.kafka_sources s SET paused = true WHERE s.number = held;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_pause(text) IS 'has a source read nothing more until kafka_source_resume';

CREATE FUNCTION audience.kafka_source_resume(id text) RETURNS void
AS $$
DECLARE
	held integer := audience.kafka_source_hold(kafka_source_resume.id);
BEGIN
	UPDATE audience.kafka_sources s SET paused = false, stopped = NULL WHERE s.number = held;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_resume(text) IS
	'has a source go on where it stands, after kafka_source_pause or after it has stopped by itself';

CREATE FUNCTION audience.kafka_source_seek(id text, start text, partition integer DEFAULT NULL) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	held integer := audience.kafka_source_hold(id);
	is_offset boolean := coalesce(start ~ '^[0-9]{1,18}$', false);
	new_start bigint;
BEGIN
	IF NOT is_offset THEN
		new_start := audience.kafka_start(start);
	END IF;
	UPDATE audience.kafka_offsets o
	SET next_offset = CASE WHEN is_offset THEN start::bigint END, start = coalesce(new_start, o.start)
	WHERE o.source = held AND (partition IS NULL OR o.partition = partition);
	IF NOT FOUND AND partition IS NOT NULL THEN
		RAISE EXCEPTION 'partition % of source "%" is not known', partition, id
			USING ERRCODE = '42704', HINT = 'Partitions become known when a broker has been reached.';
	ELSIF NOT FOUND AND is_offset THEN
		RAISE EXCEPTION 'partitions of source "%" are not known', id
			USING ERRCODE = '42704', HINT = 'Partitions become known when a broker has been reached.';
	END IF;
	IF partition IS NULL AND NOT is_offset THEN
		UPDATE audience.kafka_sources s SET start = new_start WHERE s.number = held AND NOT s.discovered;
	END IF;
	-- the offsets may be those of another cluster from now on
	UPDATE audience.kafka_sources s SET cluster_id = NULL WHERE s.number = held AND partition IS NULL;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_seek(text, text, integer) IS
	'has a source, or one partition of it, go on from "earliest", "latest", a timestamp or an offset; for all partitions, of whatever cluster it finds';

CREATE FUNCTION audience.kafka_source_drop(id text) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	held integer := audience.kafka_source_hold(id);
BEGIN
	DELETE FROM audience.kafka_offsets o WHERE o.source = held;
	DELETE FROM audience.kafka_sources s WHERE s.number = held;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_drop(text) IS
	'forgets a source and how far it has been read; its dead letters stay';

CREATE FUNCTION audience.kafka_source_stop(source integer, reason text) RETURNS void
AS $$
BEGIN
	PERFORM audience.kafka_source_hold(s.id) FROM audience.kafka_sources s WHERE s.number = kafka_source_stop.source;
	UPDATE audience.kafka_sources s SET stopped = kafka_source_stop.reason WHERE s.number = kafka_source_stop.source;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_source_stop(integer, text) IS 'internal, for consumers: stops a source for a reason that somebody must look at';

CREATE FUNCTION audience.kafka_sink_create(topic text, stream text, cluster text DEFAULT 'main',
	options jsonb DEFAULT '{}') RETURNS text
AS $$
#variable_conflict use_variable
DECLARE
	new_id text := audience.kafka_check_topic(topic, cluster);
BEGIN
	IF stream IS NULL OR stream NOT IN ('transitions', 'segments') THEN
		RAISE EXCEPTION 'stream of a sink must be "transitions" or "segments"' USING ERRCODE = '22023';
	END IF;
	IF options IS DISTINCT FROM '{}' THEN
		RAISE EXCEPTION 'unknown options of a sink' USING ERRCODE = '22023', HINT = 'There are none.';
	END IF;
	-- all that is committed after this goes there, and nothing that was before
	PERFORM audience.definitions_lock();
	INSERT INTO audience.kafka_sinks (id, cluster, topic, stream) VALUES (new_id, cluster, topic, stream)
	ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'sink "%" already exists', new_id USING ERRCODE = '42710';
	END IF;
	PERFORM audience.note_kafka();
	RETURN new_id;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_sink_create(text, text, text, jsonb) IS
	'has all transitions, or changes of segments, from now on go to a topic; the sink''s id';

CREATE FUNCTION audience.kafka_sink_number(id text) RETURNS integer
AS $$
DECLARE
	number integer;
BEGIN
	SELECT s.number INTO number FROM audience.kafka_sinks s WHERE s.id = kafka_sink_number.id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'sink "%" does not exist', id USING ERRCODE = '42704';
	END IF;
	PERFORM audience.note_kafka();
	RETURN number;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_sink_number(text) IS 'internal: the number of a sink, which is about to be changed';

CREATE FUNCTION audience.kafka_sink_pause(id text) RETURNS void
AS $$
DECLARE
	held integer := audience.kafka_sink_number(kafka_sink_pause.id);
BEGIN
	UPDATE audience.kafka_sinks s SET paused = true WHERE s.number = held;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_sink_pause(text) IS 'has what is to be sent wait until kafka_sink_resume';

CREATE FUNCTION audience.kafka_sink_resume(id text) RETURNS void
AS $$
DECLARE
	held integer := audience.kafka_sink_number(kafka_sink_resume.id);
BEGIN
	UPDATE audience.kafka_sinks s SET paused = false WHERE s.number = held;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_sink_resume(text) IS 'has a sink send again';

CREATE FUNCTION audience.kafka_sink_drop(id text) RETURNS bigint
AS $$
#variable_conflict use_variable
DECLARE
	dropped integer;
	unsent bigint;
BEGIN
	PERFORM audience.definitions_lock();
	dropped := audience.kafka_sink_number(id);
	DELETE FROM audience.kafka_sinks s WHERE s.number = dropped;
	WITH gone AS (DELETE FROM audience.kafka_outbox o WHERE o.sink = dropped RETURNING o.messages)
	SELECT coalesce(sum(g.messages), 0) INTO unsent FROM gone g;
	RETURN unsent;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_sink_drop(text) IS
	'forgets a sink and what it has not sent; how many messages that were';

CREATE FUNCTION audience.kafka_wants(OUT relay boolean, OUT consumers boolean, OUT sources integer[], OUT sinks integer[])
AS $$
	SELECT i.here AND EXISTS (SELECT FROM audience.kafka_sinks k WHERE NOT k.paused),
		i.here AND EXISTS (SELECT FROM audience.kafka_sources s WHERE NOT s.paused AND s.stopped IS NULL),
		ARRAY(SELECT s.number FROM audience.kafka_sources s), ARRAY(SELECT k.number FROM audience.kafka_sinks k)
	FROM (SELECT coalesce((SELECT audience.kafka_is_here(k) FROM audience.kafka_installation k LIMIT 1), false)) i (here)
$$ LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_wants() IS 'internal, for the scheduler: which workers are needed, and which sources and sinks there are';
