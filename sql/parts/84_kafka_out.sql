-- Kafka: what goes out, and what there is to see.
--
-- Transitions get into the outbox with the history itself (batch_write.c);
-- here is what becomes of segments.

CREATE FUNCTION audience.kafka_queue_segment(id text, action text) RETURNS void
AS $$
BEGIN
	INSERT INTO audience.kafka_outbox (sink, key, messages, message)
	SELECT k.number, kafka_queue_segment.id, 1, json_build_object(
		'segmentId', kafka_queue_segment.id, 'action', kafka_queue_segment.action,
		'segment', (
			SELECT json_build_object('id', s.id, 'name', s.name, 'type', s.type, 'rules', s.rules::jsonb,
				'description', s.description, 'active', s.active)
			FROM audience.segments s WHERE s.id = kafka_queue_segment.id),
		'timestamp', audience.timestamp_text(clock_timestamp()))
	FROM audience.kafka_sinks k
	-- what came from a topic is not sent back to it
	WHERE k.stream = 'segments' AND k.cluster || '/' || k.topic IS DISTINCT FROM current_setting('audience.kafka_origin', true);
	IF FOUND THEN
		PERFORM audience.note_outbox();
	END IF;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_queue_segment(text, text) IS
	'internal: has sinks say that a segment was "created", "updated" or "deleted"';

CREATE FUNCTION audience.kafka_outbox_messages(sink integer, ids bigint[], OUT id bigint, OUT key text,
	OUT event_id text, OUT message text) RETURNS SETOF record
AS $$
	SELECT o.id, o.key, to_hex(o.origin) || '/' || coalesce('t' || m.number, 's' || o.id), m.message
	FROM audience.kafka_outbox o
		CROSS JOIN LATERAL (
			SELECT (o.seq << 20) + e.ordinal, json_build_object(
				'userId', o.key, 'segmentId', n.segment_id,
				'action', CASE WHEN e.added THEN 'added' ELSE 'removed' END, 'reason', o.reason,
				'timestamp', audience.timestamp_text(o.occurred_at),
				'metadata', json_strip_nulls(json_build_object(
					'ruleScore', e.score, 'evaluationLatency', trim_scale(o.latency / 1000.0),
					'segmentVersion', e.version, 'eventId', o.event_id)))::text
			FROM audience.transition_entries(o.entries) e
				JOIN audience.segment_numbers n ON n.number = e.segment_number
			WHERE o.entries IS NOT NULL
			UNION ALL
			SELECT NULL, o.message::text WHERE o.message IS NOT NULL) m (number, message)
	WHERE o.sink = kafka_outbox_messages.sink AND o.id = ANY (kafka_outbox_messages.ids)
	ORDER BY o.id, m.number
$$ LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_outbox_messages(integer, bigint[]) IS
	'internal, for the relay: the messages that rows of the outbox are, in order';

CREATE FUNCTION audience.kafka_partition_statistics(OUT source integer, OUT partition integer, OUT pid integer,
	OUT state text, OUT low_offset bigint, OUT high_offset bigint, OUT messages bigint, OUT bytes bigint,
	OUT batches bigint, OUT dead_letters bigint, OUT duplicates bigint, OUT errors bigint,
	OUT last_message_at timestamptz, OUT last_commit_at timestamptz, OUT last_error text,
	OUT last_error_at timestamptz) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_kafka_partition_statistics'
LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION audience.kafka_partition_statistics() IS 'what view stat_kafka_source has from the workers';

CREATE FUNCTION audience.kafka_sink_statistics(OUT sink integer, OUT pid integer, OUT state text,
	OUT in_flight bigint, OUT sent bigint, OUT acked bigint, OUT retried bigint, OUT errors bigint,
	OUT last_ack_at timestamptz, OUT last_error text, OUT last_error_at timestamptz) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_kafka_sink_statistics'
LANGUAGE C VOLATILE ROWS 2;
COMMENT ON FUNCTION audience.kafka_sink_statistics() IS 'what view stat_kafka_sink has from the relay';

CREATE FUNCTION audience.kafka_errors(OUT at timestamptz, OUT of_sink boolean, OUT number integer,
	OUT partition integer, OUT sqlstate text, OUT message text) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'aud_kafka_errors'
LANGUAGE C VOLATILE ROWS 10;
COMMENT ON FUNCTION audience.kafka_errors() IS 'what view stat_kafka_errors has from the workers';

CREATE VIEW audience.stat_kafka_source AS
SELECT s.id AS source, s.cluster, s.topic, s.stream, o.partition,
	CASE WHEN NOT coalesce((SELECT audience.kafka_is_here(i) FROM audience.kafka_installation i LIMIT 1), false)
			THEN 'not activated'
		WHEN s.stopped IS NOT NULL THEN 'stopped'
		WHEN s.paused THEN 'paused'
		WHEN p.pid IS NULL THEN 'not running'
		ELSE p.state END AS state,
	o.next_offset, p.low_offset, p.high_offset, greatest(p.high_offset - o.next_offset, 0) AS lag,
	coalesce(p.messages, 0) AS messages, coalesce(p.bytes, 0) AS bytes, coalesce(p.batches, 0) AS batches,
	coalesce(p.duplicates, 0) AS duplicates, coalesce(p.dead_letters, 0) AS dead_letters,
	p.last_message_at, o.moved_at AS last_commit_at, coalesce(p.errors, 0) AS errors,
	coalesce(s.stopped, p.last_error) AS last_error, p.last_error_at, p.pid
FROM audience.kafka_sources s
	LEFT JOIN audience.kafka_offsets o ON o.source = s.number
	LEFT JOIN audience.kafka_partition_statistics() p ON p.source = s.number AND p.partition = coalesce(o.partition, -1);
COMMENT ON VIEW audience.stat_kafka_source IS
	'the partitions of each source: how far, how fast, what is wrong; counts since the server was started; needs shared_preload_libraries';
COMMENT ON COLUMN audience.stat_kafka_source.source IS 'id of the source';
COMMENT ON COLUMN audience.stat_kafka_source.cluster IS 'its cluster';
COMMENT ON COLUMN audience.stat_kafka_source.topic IS 'its topic';
COMMENT ON COLUMN audience.stat_kafka_source.stream IS 'events or segments';
COMMENT ON COLUMN audience.stat_kafka_source.partition IS 'the partition; null: none is known yet';
COMMENT ON COLUMN audience.stat_kafka_source.state IS
	'"connecting", "running", "waiting for broker", "backing off" (after an error of the database), "stalled" (connected anew), "paused", "stopped" (see last_error; kafka_source_resume), "not running" or "not activated" (kafka_activate)';
COMMENT ON COLUMN audience.stat_kafka_source.next_offset IS 'the first offset that is not stored; null: to be found';
COMMENT ON COLUMN audience.stat_kafka_source.low_offset IS 'the first offset that the brokers have, as last heard';
COMMENT ON COLUMN audience.stat_kafka_source.high_offset IS 'the next offset that will be given, as last heard';
COMMENT ON COLUMN audience.stat_kafka_source.lag IS 'messages that wait';
COMMENT ON COLUMN audience.stat_kafka_source.messages IS 'messages taken, bad ones too';
COMMENT ON COLUMN audience.stat_kafka_source.bytes IS 'of their values';
COMMENT ON COLUMN audience.stat_kafka_source.batches IS 'transactions';
COMMENT ON COLUMN audience.stat_kafka_source.duplicates IS 'events that were there already';
COMMENT ON COLUMN audience.stat_kafka_source.dead_letters IS 'messages that could not be taken';
COMMENT ON COLUMN audience.stat_kafka_source.last_message_at IS 'timestamp of the latest message';
COMMENT ON COLUMN audience.stat_kafka_source.last_commit_at IS 'when the offset last moved';
COMMENT ON COLUMN audience.stat_kafka_source.errors IS 'errors met';
COMMENT ON COLUMN audience.stat_kafka_source.last_error IS 'the last one, or why the source has stopped';
COMMENT ON COLUMN audience.stat_kafka_source.last_error_at IS 'when that was';
COMMENT ON COLUMN audience.stat_kafka_source.pid IS 'process of the consumer that has the partition';

CREATE VIEW audience.stat_kafka_sink AS
SELECT s.id AS sink, s.cluster, s.topic, s.stream,
	CASE WHEN NOT coalesce((SELECT audience.kafka_is_here(i) FROM audience.kafka_installation i LIMIT 1), false)
			THEN 'not activated'
		WHEN s.paused THEN 'paused'
		WHEN p.pid IS NULL THEN 'not running'
		ELSE p.state END AS state,
	coalesce((SELECT sum(o.messages) FROM audience.kafka_outbox o WHERE o.sink = s.number), 0) AS depth,
	(SELECT o.recorded_at FROM audience.kafka_outbox o WHERE o.sink = s.number ORDER BY o.id LIMIT 1) AS oldest,
	coalesce(p.in_flight, 0) AS in_flight, coalesce(p.sent, 0) AS sent, coalesce(p.acked, 0) AS acked,
	coalesce(p.retried, 0) AS retried, p.last_ack_at, coalesce(p.errors, 0) AS errors,
	p.last_error, p.last_error_at, p.pid
FROM audience.kafka_sinks s LEFT JOIN audience.kafka_sink_statistics() p ON p.sink = s.number;
COMMENT ON VIEW audience.stat_kafka_sink IS
	'each sink: what waits, what was sent, what is wrong; counts since the server was started; needs shared_preload_libraries';
COMMENT ON COLUMN audience.stat_kafka_sink.sink IS 'id of the sink';
COMMENT ON COLUMN audience.stat_kafka_sink.cluster IS 'its cluster';
COMMENT ON COLUMN audience.stat_kafka_sink.topic IS 'its topic';
COMMENT ON COLUMN audience.stat_kafka_sink.stream IS 'transitions or segments';
COMMENT ON COLUMN audience.stat_kafka_sink.state IS
	'"connecting", "running", "waiting for broker", "backing off" (after an error), "paused", "not running" or "not activated" (kafka_activate)';
COMMENT ON COLUMN audience.stat_kafka_sink.depth IS 'messages that the brokers do not have yet, or have and are not crossed off';
COMMENT ON COLUMN audience.stat_kafka_sink.oldest IS 'since when the first of them waits';
COMMENT ON COLUMN audience.stat_kafka_sink.in_flight IS 'messages on their way';
COMMENT ON COLUMN audience.stat_kafka_sink.sent IS 'messages given to the brokers';
COMMENT ON COLUMN audience.stat_kafka_sink.acked IS 'messages that all replicas have';
COMMENT ON COLUMN audience.stat_kafka_sink.retried IS 'messages sent once more, after the connection was made anew';
COMMENT ON COLUMN audience.stat_kafka_sink.last_ack_at IS 'when brokers last acknowledged one';
COMMENT ON COLUMN audience.stat_kafka_sink.errors IS 'errors met';
COMMENT ON COLUMN audience.stat_kafka_sink.last_error IS 'the last one';
COMMENT ON COLUMN audience.stat_kafka_sink.last_error_at IS 'when that was';
COMMENT ON COLUMN audience.stat_kafka_sink.pid IS 'process of the relay';

CREATE VIEW audience.stat_kafka_errors AS
SELECT e.at, CASE WHEN e.of_sink THEN 'sink' ELSE 'source' END AS kind, coalesce(k.id, s.id) AS id,
	e.partition, e.sqlstate, e.message
FROM audience.kafka_errors() e
	LEFT JOIN audience.kafka_sinks k ON e.of_sink AND k.number = e.number
	LEFT JOIN audience.kafka_sources s ON NOT e.of_sink AND s.number = e.number
ORDER BY e.at;
COMMENT ON VIEW audience.stat_kafka_errors IS 'the latest errors of sources and sinks; needs shared_preload_libraries';
COMMENT ON COLUMN audience.stat_kafka_errors.at IS 'when it was';
COMMENT ON COLUMN audience.stat_kafka_errors.kind IS 'source or sink';
COMMENT ON COLUMN audience.stat_kafka_errors.id IS 'its id; null: it has been dropped';
COMMENT ON COLUMN audience.stat_kafka_errors.partition IS 'the partition; null: none in particular';
COMMENT ON COLUMN audience.stat_kafka_errors.sqlstate IS 'null: not the database''s';
COMMENT ON COLUMN audience.stat_kafka_errors.message IS 'what was wrong';
