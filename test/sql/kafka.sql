--
-- Kafka by SQL: clusters, sources, sinks, the outbox, messages taken, dead
-- letters, privileges; on a server without workers and without a broker
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
-- what waits to be sent, in order; the clock and ids that were made up are left out
CREATE FUNCTION pg_temp.outbox() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s %s %s', k.id, m.key, regexp_replace(
		m.message, '("(timestamp|evaluationLatency)" ?: ?)("[^"]*"|[0-9.]+)', '\1...', 'g'))
	FROM audience.kafka_sinks k, LATERAL (SELECT array_agg(o.id) FROM audience.kafka_outbox o WHERE o.sink = k.number) o (ids),
		audience.kafka_outbox_messages(k.number, o.ids) WITH ORDINALITY m (id, key, event_id, message, n)
	ORDER BY k.number, m.n
$$;
-- the same, and then it is sent
CREATE FUNCTION pg_temp.sent() RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT * FROM pg_temp.outbox();
	DELETE FROM audience.kafka_outbox;
END $$;
CREATE FUNCTION pg_temp.bytes(message text) RETURNS bytea LANGUAGE sql RETURN convert_to(message, 'UTF8');
-- messages of partition 0, from offset 0 on, all of one time
CREATE FUNCTION pg_temp.take(VARIADIC messages text[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT audience.kafka_take_events('t', array_agg(0 ORDER BY n), array_agg(n - 1 ORDER BY n),
		array_agg(timestamptz '2026-02-01Z' ORDER BY n), array_agg(convert_to(m, 'UTF8') ORDER BY n))
	FROM unnest(messages) WITH ORDINALITY u (m, n)
$$;
CREATE FUNCTION pg_temp.take_segment(key text, message text) RETURNS void LANGUAGE sql AS $$
	SELECT audience.kafka_take_segment('main', 'segment-updates', convert_to(key, 'UTF8'), convert_to(message, 'UTF8'))
$$;

--
-- clusters
--
SELECT pg_temp.try($$SELECT audience.kafka_source_create('t')$$);
SELECT pg_temp.try($$SELECT audience.kafka_sink_create('t', 'transitions')$$);
SELECT name, pg_temp.try(format('SELECT audience.kafka_cluster_set(%L, %L)', name, '{"bootstrap.servers":"h:1"}'))
FROM unnest(ARRAY['', 'a/b', 'a b', repeat('x', 64), 'ä', NULL]) name;
SELECT options, pg_temp.try(format('SELECT audience.kafka_cluster_set(''main'', %L)', options))
FROM unnest(ARRAY[NULL, 'null', '[]', '"x"', '{}', '{"client.id":"x"}',
	'{"bootstrap.servers":null}', '{"bootstrap.servers":["h:1"]}', '{"bootstrap.servers":{"h":1}}',
	'{"bootstrap.servers":"h:1","group.id":"x"}', '{"bootstrap.servers":"h:1","plugin.library.paths":"/tmp/x.so"}',
	'{"bootstrap.servers":"h:1","sasl.kerberos.kinit.cmd":"id"}', '{"bootstrap.servers":"h:1","sasl.oauthbearer.config":"x"}',
	'{"bootstrap.servers":"h:1","ssl.key.pem":"x"}', '{"bootstrap.servers":"h:1","debug":"all"}', '{"bootstrap.servers":"h:1","statistics.interval.ms":1}',
	'{"bootstrap.servers":"h:1","enable.auto.commit":"true"}', '{"bootstrap.servers":"h:1","acks":"0"}', '{"bootstrap.servers":"h:1","":"x"}',
	'{"bootstrap.servers":"h:1","sasl.password":"hunter2"}', '{"bootstrap.servers":"h:1","sasl.password":"file:relative"}',
	'{"bootstrap.servers":"h:1","sasl.password":1}', '{"bootstrap.servers":"h:1","ssl.key.password":true}',
	'{"bootstrap.servers":"h:1","ssl.keystore.password":"FILE:/x"}',
	'{"bootstrap.servers":"h:1","ssl.ca.location":"ca.pem"}', '{"bootstrap.servers":"h:1","ssl.ca.location":""}']) options;
SELECT count(*) FROM audience.kafka_clusters;
SELECT count(*) FROM audience.kafka_installation;
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers":"h:1,h:2","socket.timeout.ms":5000,"enable.ssl.certificate.verification":false,"security.protocol":"sasl_ssl","sasl.username":"u","sasl.password":"file:/run/password","ssl.ca.location":"/run/ca.pem"}');
SELECT audience.kafka_cluster_set('west', '{"bootstrap.servers":"w:1"}');
SELECT audience.kafka_cluster_set('west', '{"bootstrap.servers":"w:2"}');
SELECT * FROM audience.kafka_clusters ORDER BY name;
-- this database has become the one that may
SELECT count(*), bool_and(audience.kafka_is_here(i)) FROM audience.kafka_installation i;

-- who names a file must be one who may read it
CREATE ROLE kafka_admin;
CREATE ROLE kafka_filer IN ROLE pg_read_server_files;
SELECT audience.grant_access('kafka_admin', 'admin');
SELECT audience.grant_access('kafka_filer', 'admin');
CREATE FUNCTION pg_temp.as_role(role text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	result := pg_temp.try(statement);
	RESET ROLE;
	RETURN result;
END $$;
SELECT role, options, pg_temp.as_role(role, format('SELECT audience.kafka_cluster_set(''east'', %L)', options))
FROM unnest(ARRAY['kafka_admin', 'kafka_filer']) role, unnest(ARRAY[
	'{"bootstrap.servers":"h:1"}', '{"bootstrap.servers":"h:1","sasl.password":"file:/etc/passwd"}',
	'{"bootstrap.servers":"h:1","ssl.ca.location":"/etc/passwd"}', '{"bootstrap.servers":"h:1","ssl.keystore.location":"/etc/passwd"}',
	'{"bootstrap.servers":"h:1","sasl.password":"secret"}']) WITH ORDINALITY o (options, n)
ORDER BY role, n;
SELECT options FROM audience.kafka_clusters WHERE name = 'east';

--
-- sources
--
SELECT f, id, pg_temp.try(format('SELECT audience.%s(%L)', f, id))
FROM unnest(ARRAY['kafka_source_pause', 'kafka_source_resume', 'kafka_source_drop', 'kafka_sink_pause', 'kafka_sink_resume', 'kafka_sink_drop']) f,
	unnest(ARRAY['none', NULL]) id ORDER BY f, id;
SELECT pg_temp.try($$SELECT audience.kafka_source_seek('none', 'earliest')$$);
SELECT left(topic, 10), pg_temp.try(format('SELECT audience.kafka_source_create(%L)', topic))
FROM unnest(ARRAY[NULL, '', '.', '..', 'a/b', 'ä', repeat('x', 250)]) topic;
SELECT pg_temp.try($$SELECT audience.kafka_source_create('t', cluster => 'none')$$);
SELECT pg_temp.try($$SELECT audience.kafka_source_create('t', cluster => NULL)$$);
SELECT stream, pg_temp.try(format('SELECT audience.kafka_source_create(''t'', %L)', stream)) FROM unnest(ARRAY['transitions', '', NULL]) stream;
SELECT start, pg_temp.try(format('SELECT audience.kafka_source_create(''t'', start => %L)', start))
FROM unnest(ARRAY['yesterday', 'EARLIEST', '', '12', '1969-12-31T23:59:59Z', '2026-13-01', NULL]) start;
SELECT options, pg_temp.try(format('SELECT audience.kafka_source_create(''t'', options => %L)', options))
FROM unnest(ARRAY['[]', '1', NULL, '{"max_bad":"1"}', '{"max_bad":1.5}', '{"max_bad":-0.1}', '{"max_bad":null}', '{"out_of_range":"skip"}',
	'{"out_of_range":null}', '{"out_of_range":1}', '{"retries":3}', '{"max_bad":0.5,"x":1}']) options;
SELECT count(*) FROM audience.kafka_sources;
SELECT audience.kafka_source_create('user-events');
SELECT audience.kafka_source_create('segment-updates', 'segments', start => 'latest', options => '{"max_bad":1,"out_of_range":"earliest"}');
SELECT audience.kafka_source_create('user-events', cluster => 'west', start => '2026-01-01T00:00:00.5Z');
SELECT audience.kafka_source_create(repeat('x', 249), options => '{"max_bad":0}') = repeat('x', 249);
SELECT pg_temp.try($$SELECT audience.kafka_source_create('user-events', 'segments')$$);
SELECT left(id, 20), cluster, left(topic, 20), stream, start, options, cluster_id, discovered, paused, stopped FROM audience.kafka_sources ORDER BY number;
SELECT audience.kafka_source_drop(repeat('x', 249));
SELECT pg_temp.try($$SELECT audience.kafka_cluster_drop('none')$$);
SELECT pg_temp.try($$SELECT audience.kafka_cluster_drop('west')$$);
SELECT audience.kafka_cluster_drop('east');

-- as if a broker had been asked
INSERT INTO audience.kafka_offsets (source, partition, next_offset, start)
SELECT s.number, p, 100 + p, s.start FROM audience.kafka_sources s, generate_series(0, 1) p WHERE s.id = 'user-events';
UPDATE audience.kafka_sources s SET discovered = true, cluster_id = 'abc' WHERE s.id = 'user-events';
CREATE FUNCTION pg_temp.places() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', s.id, coalesce(o.partition::text, '-'), coalesce(o.next_offset::text, '-'), o.start, s.cluster_id,
		CASE WHEN s.paused THEN 'paused' END, 'stopped ' || s.stopped)
	FROM audience.kafka_sources s JOIN audience.kafka_offsets o ON o.source = s.number ORDER BY s.number, o.partition
$$;
CREATE FUNCTION pg_temp.epoch() RETURNS bigint LANGUAGE sql AS $$
	SELECT sum(o.epoch) FROM audience.kafka_offsets o JOIN audience.kafka_sources s ON s.number = o.source WHERE s.id = 'user-events' $$;
SELECT pg_temp.epoch() AS epoch \gset
SELECT audience.kafka_source_pause('user-events');
SELECT * FROM pg_temp.places();
SELECT pg_temp.epoch() > :epoch;
SELECT pg_temp.epoch() AS epoch \gset
SELECT audience.kafka_source_stop(s.number, 'for a reason') FROM audience.kafka_sources s WHERE s.id = 'user-events';
SELECT * FROM pg_temp.places();
SELECT audience.kafka_source_resume('user-events');
SELECT * FROM pg_temp.places();
SELECT pg_temp.epoch() > :epoch;
SELECT audience.kafka_source_seek('user-events', '5', 1);
SELECT * FROM pg_temp.places();
SELECT audience.kafka_source_seek('user-events', '7');
SELECT * FROM pg_temp.places();
SELECT audience.kafka_source_seek('user-events', 'latest', 0);
SELECT * FROM pg_temp.places();
SELECT audience.kafka_source_seek('user-events', '2026-01-01');
SELECT * FROM pg_temp.places();
SELECT start, pg_temp.try(format('SELECT audience.kafka_source_seek(''user-events'', %L)', start))
FROM unnest(ARRAY['-1', '1234567890123456789', '1.5', 'now', '', NULL]) start;
SELECT pg_temp.try($$SELECT audience.kafka_source_seek('user-events', '5', 2)$$);
SELECT pg_temp.try($$SELECT audience.kafka_source_seek('user-events', 'earliest', -1)$$);
-- no broker has been asked about these
SELECT start, pg_temp.try(format('SELECT audience.kafka_source_seek(''segment-updates'', %L)', start))
FROM unnest(ARRAY['5', 'now', NULL, 'earliest']) start;
SELECT start FROM audience.kafka_sources WHERE id = 'segment-updates';
SELECT * FROM pg_temp.places();
SELECT audience.kafka_source_drop('user-events');
SELECT * FROM pg_temp.places();
SELECT pg_temp.try($$SELECT audience.kafka_source_pause('user-events')$$);
SELECT id FROM audience.kafka_sources ORDER BY number;

--
-- sinks
--
SELECT pg_temp.try($$SELECT audience.kafka_sink_create('a b', 'transitions')$$);
SELECT stream, pg_temp.try(format('SELECT audience.kafka_sink_create(''t'', %L)', stream)) FROM unnest(ARRAY['events', 'notifications', '', NULL]) stream;
SELECT pg_temp.try($$SELECT audience.kafka_sink_create('t', 'transitions', options => '{"a":1}')$$);
SELECT pg_temp.try($$SELECT audience.kafka_sink_create('t', 'transitions', options => NULL)$$);
SELECT audience.segment_create('early', 'plan = ''pro''');
SELECT audience.profile_set('before', '{"plan":"pro"}');
SELECT audience.kafka_sink_create('user-segments', 'transitions');
SELECT audience.kafka_sink_create('segment-updates', 'segments');
SELECT audience.kafka_sink_create('mirror', 'segments', 'west');
SELECT pg_temp.try($$SELECT audience.kafka_sink_create('user-segments', 'segments')$$);
SELECT id, cluster, topic, stream, paused FROM audience.kafka_sinks ORDER BY number;
SELECT count(*) FROM audience.kafka_outbox;
SELECT pg_temp.try($$SELECT audience.kafka_cluster_drop('main')$$);
SELECT audience.kafka_sink_pause('user-segments');
SELECT id, paused FROM audience.kafka_sinks ORDER BY number;
SELECT audience.kafka_sink_resume('user-segments');
SELECT id, paused FROM audience.kafka_sinks ORDER BY number;
SELECT pg_temp.try($$SELECT audience.kafka_sink_pause('other')$$);
SELECT pg_temp.try($$SELECT audience.kafka_sink_drop('other')$$);

--
-- without preloading nothing is exchanged, and the views say so
--
SELECT v, pg_temp.try(format('SELECT count(*) FROM audience.%I', v))
FROM unnest(ARRAY['stat_kafka_source', 'stat_kafka_sink', 'stat_kafka_errors']) v;

--
-- what goes into the outbox
--
-- changes of segments
SELECT audience.segment_create('Buyers', 'count(purchase) >= 1', description => 'who buys');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_put('{"id":"put","name":"Put","rules":"spent > 10","active":false}');
SELECT * FROM pg_temp.sent();
-- events; one that is there already changes nothing
SELECT audience.events_ingest('[{"userId":"a","eventId":"1","eventType":"purchase","timestamp":"2026-02-01"},{"userId":"b","eventId":"2","eventType":"purchase","timestamp":"2026-02-02"},{"userId":"b","eventId":"3","eventType":"view","timestamp":"2026-02-03"}]');
SELECT audience.event_ingest('{"userId":"b","eventId":"3","eventType":"view","timestamp":"2026-02-03"}');
SELECT audience.segment_add('list', ARRAY['a', 'c']);
SELECT count(*), count(DISTINCT o.key), sum(o.messages), bool_and(o.recorded_at > now() - interval '1 minute') FROM audience.kafka_outbox o;
-- numbers do not change when asked again, and are all different
SELECT count(DISTINCT m.event_id), min(m.event_id) ~ '^[0-9a-f]+/t[0-9]+$' FROM audience.kafka_sinks k, LATERAL (SELECT array_agg(o.id) FROM audience.kafka_outbox o WHERE o.sink = k.number) o (ids),
	audience.kafka_outbox_messages(k.number, o.ids) m;
SELECT * FROM pg_temp.sent();
-- several segments at once
SELECT audience.profile_set('a', '{"plan":"pro","spent":11}');
SELECT audience.segment_update('put', active => true);
SELECT * FROM pg_temp.sent();
SELECT audience.segment_update('put', rules => 'spent > 20', name => 'More');
SELECT * FROM pg_temp.sent();
-- nothing of what was not committed
BEGIN;
SELECT audience.event_ingest('{"userId":"d","eventId":"1","eventType":"purchase"}');
SAVEPOINT s;
SELECT audience.segment_create('gone', 'false');
SELECT audience.profile_erase('a') IS NOT NULL;
ROLLBACK TO s;
SELECT count(*) FROM audience.kafka_outbox;
ROLLBACK;
SELECT * FROM pg_temp.sent();
-- what is still to be sent of a user stays, and is followed by the last of it
SELECT audience.segment_remove('list', ARRAY['c']);
SELECT audience.profile_erase('a');
SELECT * FROM pg_temp.sent();
-- one user becomes another
SELECT audience.profile_merge('b', 'before');
SELECT * FROM pg_temp.sent();
-- deactivation, deletion
SELECT audience.segment_update('early', active => false);
SELECT audience.segment_delete('buyers');
SELECT * FROM pg_temp.sent();
-- time
SELECT audience.segment_create('recent', 'count(view, LAST ''14 days'') >= 1');
SELECT audience.event_ingest('{"userId":"t","eventId":"1","eventType":"view","timestamp":"2026-02-28"}');
SELECT * FROM pg_temp.sent() WHERE sent LIKE 'user-segments %';
SET audience.now = '2026-03-20T12:00:00Z';
SELECT audience.run_due();
SELECT * FROM pg_temp.sent();
SET audience.now = '2026-03-01T12:00:00Z';
-- a sink that is dropped takes along what it has not sent
SELECT audience.segment_create('last', 'false');
SELECT audience.kafka_sink_drop('west/mirror');
SELECT * FROM pg_temp.sent();
SELECT audience.kafka_sink_drop('user-segments');
SELECT audience.event_ingest('{"userId":"t","eventId":"2","eventType":"view","timestamp":"2026-02-28"}');
SELECT count(*) FROM audience.kafka_outbox;

--
-- events taken
--
SELECT pg_temp.take('{"userId":"k","eventId":"1","eventType":"view","timestamp":"2026-02-02T00:00:00Z"}',
	'{"userId":"k","eventType":"view"}', '{"userId":7,"eventType":"view","timestamp":1769904000000,"other":[1e400]}',
	'{"userId":"k","eventId":"1","eventType":"view","timestamp":"2026-02-02T00:00:00Z","properties":{"second":true}}');
SELECT user_id, occurred_at, event_id, properties FROM audience.events WHERE user_id IN ('k', '7') ORDER BY 1, 2, 3;
SELECT pg_temp.take('{"userId":"k","eventId":"1","eventType":"view","timestamp":"2026-02-02T00:00:00Z"}', '{"userId":"k","eventType":"view"}', '{"userId":"new","eventType":"view"}');
SELECT user_id, occurred_at, event_id FROM audience.events WHERE event_id LIKE 't/%' ORDER BY 1, 2, 3;
-- a message without a time
SELECT audience.kafka_take_events('a/b', '{3}', '{9223372036854775807}', ARRAY[NULL]::timestamptz[], ARRAY[pg_temp.bytes('{"userId":"timeless","eventType":"view"}')]);
SELECT occurred_at, event_id FROM audience.events WHERE user_id = 'timeless';
SELECT audience.kafka_take_events('t', '{}', '{}', '{}', '{}');
SELECT message, pg_temp.try(format('SELECT audience.kafka_take_events(''t'', ''{0}'', ''{7}'', ''{2026-02-01Z}'', ARRAY[%L::bytea])', message))
FROM unnest(ARRAY[NULL, '', 'nonsense', '\xff', '\x7b7d00', '\xf500ff41', 'null', '"x"', '[]', '{}', '{"userId":"u"}', '{"userId":"","eventType":"t"}',
	'{"userId":true,"eventType":"t"}', '{"userId":"u","eventType":"t","timestamp":"2027-01-01"}', '{"userId":"u\\u0000","eventType":"t"}',
	'{"userId":"u","eventType":"t","properties":[]}']) message;
-- all or none, and of what was not taken nothing stays
SELECT pg_temp.try($$SELECT pg_temp.take('{"userId":"none","eventType":"view"}', '{"userId":"none"}')$$);
SELECT count(*) FROM audience.events WHERE user_id = 'none';
SELECT pg_temp.try($$SELECT audience.kafka_take_events('t', '{0}', '{1,2}', '{2026-02-01Z}', '{x}')$$);

--
-- segments taken; not sent back to where they came from
--
SELECT audience.kafka_sink_create('mirror', 'segments', 'west');
SELECT pg_temp.take_segment('k1', '{"segmentId":"k1","action":"created","segment":{"id":"k1","name":"K 1","type":"dynamic","rules":"plan = ''x''","version":99,"status":"building"},"timestamp":"2026-02-01T00:00:00Z"}');
SELECT pg_temp.take_segment(NULL, '{"action":"updated","segment":{"id":"k2","name":"K 2","rules":{"field":"plan","operator":"eq","value":"y"},"active":false}}');
SELECT pg_temp.take_segment('other key', '{"segmentId":"k1","action":"updated","segment":{"name":"K one","rules":"plan = ''z''"}}');
SELECT pg_temp.take_segment('k2', NULL);
SELECT pg_temp.take_segment('k2', NULL);
SELECT pg_temp.take_segment('x', '{"segmentId":"k3","action":"deleted"}');
SELECT id, name, rules, active FROM audience.segments WHERE id LIKE 'k%' ORDER BY id;
SELECT * FROM pg_temp.sent();
-- what changes nothing is not sent on: mirrors that face each other would go on for ever
SELECT pg_temp.take_segment(NULL, '{"action":"updated","segment":{"id":"k1","name":"K one","rules":{"field":"plan","operator":"eq","value":"z"},"active":true}}');
SELECT audience.segment_update('k1', name => 'K one', rules => 'plan = ''z''', active => true);
SELECT * FROM pg_temp.sent();
SELECT audience.segment_update('k1', description => 'one');
SELECT * FROM pg_temp.sent();
-- but what is done here is, also in the same transaction
BEGIN;
SELECT pg_temp.take_segment('k1', '{"segmentId":"k1","action":"deleted","segment":null}');
SELECT audience.segment_create('here', 'false');
SELECT current_setting('audience.kafka_origin');
COMMIT;
SELECT * FROM pg_temp.sent();
-- and what comes from a topic of the same name elsewhere
SELECT audience.kafka_take_segment('west', 'segment-updates', NULL, pg_temp.bytes('{"action":"created","segment":{"id":"k4","name":"K 4","rules":"true"}}'));
SELECT * FROM pg_temp.sent();
-- after one that fails, nothing is kept back
SELECT message, pg_temp.try(format('SELECT pg_temp.take_segment(NULL, %L)', message))
FROM unnest(ARRAY[NULL, '', 'x', '[]', '{}', '{"action":"renamed","segmentId":"k4"}', '{"action":"updated"}', '{"action":"updated","segmentId":7,"segment":{}}',
	'{"action":"updated","segmentId":"k4"}', '{"action":"updated","segmentId":"k4","segment":[]}', '{"action":"updated","segmentId":"k4","segment":{"id":"k5","name":"x"}}',
	'{"action":"updated","segmentId":"k4","segment":{}}', '{"action":"created","segment":{"id":"k6","name":"x","rules":"plan ??"}}',
	'{"action":"created","segment":{"id":"k6","name":"x","rules":"IN SEGMENT ''nowhere''"}}', '{"action":"created","segment":{"id":"k6","name":"x","type":"odd"}}']) message;
SELECT pg_temp.try($$SELECT audience.kafka_take_segment('main', 'segment-updates', '\xff', NULL)$$);
SELECT audience.segment_update('here', name => 'Here');
SELECT * FROM pg_temp.sent();
SELECT audience.segment_create('refers', 'IN SEGMENT ''k4''');
SELECT pg_temp.try($$SELECT pg_temp.take_segment('k4', NULL)$$);
DELETE FROM audience.kafka_outbox;

--
-- whose fault an error is
--
SELECT state, audience.kafka_is_fault_of_message(state, 'events') AS of_event, audience.kafka_is_fault_of_message(state, 'segments') AS of_segment
FROM unnest(ARRAY['22P02', '22023', '22008', '22021', '21000', '23505', '44000', '54001', '54000', 'P0001', '42704', '42710', '42809', '42P17', '2BP01', '0A000',
	'53100', '53200', '55P03', '40001', '40P01', '57014', '57P01', '58030', 'XX000', '42501', '42P01', '08006', '', '22']) state;

--
-- dead letters
--
INSERT INTO audience.kafka_dead_letters (source, stream, cluster, topic, partition, "offset", message_at, key, value, sqlstate, message)
VALUES ('user-events', 'events', 'main', 'user-events', 0, 5, '2026-02-03Z', 'u', '{"userId":"late","eventType":"purchase"}', '22008', 'x'),
	('user-events', 'events', 'main', 'user-events', 0, 6, '2026-02-03Z', 'u', '{"userId":"late"}', '22023', 'x'),
	('user-events', 'events', 'main', 'user-events', 0, 7, NULL, NULL, NULL, '22023', 'x'),
	('segment-updates', 'segments', 'main', 'segment-updates', 0, 5, NULL, NULL, '{"action":"created","segment":{"id":"dl","name":"Dl","rules":"IN SEGMENT ''later''"}}', '42704', 'x'),
	('segment-updates', 'segments', 'main', 'segment-updates', 0, 6, NULL, 'k4', NULL, '2BP01', 'x');
CREATE FUNCTION pg_temp.letters() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' ', d.id, d.source, d.sqlstate, d.attempts, d.message) FROM audience.kafka_dead_letters d ORDER BY d.id $$;
SELECT id, pg_temp.try(format('SELECT audience.kafka_dead_letter_%s(%L)', f, id)) FROM unnest(ARRAY['retry', 'discard']) f, unnest(ARRAY[0, 99, NULL]) id;
SELECT id, audience.kafka_dead_letter_retry(id) FROM generate_series(1, 5) id;
SELECT * FROM pg_temp.letters();
SELECT user_id, occurred_at, event_id FROM audience.events WHERE user_id = 'late';
SELECT audience.segment_create('later', 'false');
SELECT audience.segment_delete('refers');
SELECT id, audience.kafka_dead_letter_retry(id) FROM generate_series(4, 5) id;
SELECT * FROM pg_temp.letters();
SELECT id, rules FROM audience.segments WHERE id IN ('dl', 'k4');
SELECT * FROM pg_temp.sent() WHERE sent ~ ' (dl|k4) ';
SELECT audience.kafka_dead_letter_discard(2);
SELECT * FROM pg_temp.letters();
-- trouble that is not the message's fault is no answer
CREATE FUNCTION pg_temp.full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER disk_full BEFORE INSERT ON audience.events FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.full();
UPDATE audience.kafka_dead_letters SET value = '{"userId":"late","eventType":"view"}' WHERE id = 3;
SELECT pg_temp.try($$SELECT audience.kafka_dead_letter_retry(3)$$);
DROP TRIGGER disk_full ON audience.events;
SELECT * FROM pg_temp.letters();
SELECT audience.kafka_dead_letter_retry(3);
SELECT * FROM pg_temp.letters();

--
-- privileges
--
-- PUBLIC has nothing; readers see how it goes, but no messages and no options
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'audience'::regnamespace AND p.proname LIKE '%kafka%'
	AND has_function_privilege('public', p.oid, 'EXECUTE');
SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'audience'::regnamespace AND c.relname LIKE '%kafka%' AND c.relkind IN ('r', 'v', 'S')
	AND (has_table_privilege('public', c.oid, 'SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER') OR c.relkind = 'S' AND has_sequence_privilege('public', c.oid, 'USAGE'));
CREATE ROLE kafka_reader;
CREATE ROLE kafka_ingester;
SELECT audience.grant_access('kafka_reader', 'read');
SELECT audience.grant_access('kafka_ingester', 'ingest');
SELECT r AS role, string_agg(p.proname, ' ' ORDER BY p.proname)
FROM unnest(ARRAY['kafka_ingester', 'kafka_reader', 'kafka_admin']) r
	LEFT JOIN pg_proc p ON p.pronamespace = 'audience'::regnamespace AND p.proname LIKE '%kafka%' AND has_function_privilege(r, p.oid, 'EXECUTE')
GROUP BY r ORDER BY r;
SELECT r AS role, string_agg(c.relname || ' ' || x.privilege_type, ', ' ORDER BY c.relname, x.privilege_type)
FROM unnest(ARRAY['kafka_ingester', 'kafka_reader', 'kafka_admin']) r
	LEFT JOIN (pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) x) ON c.relnamespace = 'audience'::regnamespace AND c.relname LIKE '%kafka%' AND x.grantee = r::regrole
GROUP BY r ORDER BY r;
SELECT r, pg_temp.as_role(r, 'SELECT count(*) FROM audience.' || t) FROM unnest(ARRAY['kafka_ingester', 'kafka_reader', 'kafka_admin']) r,
	unnest(ARRAY['kafka_clusters', 'kafka_dead_letters', 'kafka_sources', 'kafka_outbox', 'stat_kafka_source', 'stat_kafka_sink', 'stat_kafka_errors']) t ORDER BY r, t;
SELECT pg_temp.as_role('kafka_reader', $$SELECT audience.kafka_source_pause('segment-updates')$$);
SELECT pg_temp.as_role('kafka_admin', $$SELECT audience.kafka_source_pause('segment-updates')$$);

--
-- every object says what it is
--
SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'audience'::regnamespace AND p.proname ~ 'kafka|note_outbox' AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.oid::regclass, a.attname FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S'
WHERE c.relnamespace = 'audience'::regnamespace AND c.relname LIKE '%kafka%' AND c.relkind IN ('r', 'v', 'S')
	AND (obj_description(c.oid, 'pg_class') IS NULL OR a.attnum IS NOT NULL AND col_description(c.oid, a.attnum) IS NULL);
SELECT t.tgrelid::regclass, t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
WHERE c.relnamespace = 'audience'::regnamespace AND c.relname LIKE 'kafka%' AND obj_description(t.oid, 'pg_trigger') IS NULL;

SELECT * FROM audience.verify();
DROP OWNED BY kafka_admin, kafka_filer, kafka_reader, kafka_ingester;
DROP ROLE kafka_admin, kafka_filer, kafka_reader, kafka_ingester;
