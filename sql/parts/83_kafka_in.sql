-- Kafka: messages that come in, and those that cannot be taken.

CREATE SEQUENCE audience.kafka_dead_letter_seq;
COMMENT ON SEQUENCE audience.kafka_dead_letter_seq IS 'numbers of dead letters';

CREATE TABLE audience.kafka_dead_letters (
	id bigint NOT NULL PRIMARY KEY DEFAULT pg_catalog.nextval('audience.kafka_dead_letter_seq'),
	source text NOT NULL,
	stream text NOT NULL,
	cluster text COLLATE "C" NOT NULL,
	topic text COLLATE "C" NOT NULL,
	partition integer NOT NULL,
	"offset" bigint NOT NULL,
	message_at timestamptz,
	key bytea,
	value bytea,
	headers jsonb,
	sqlstate text NOT NULL,
	message text NOT NULL,
	attempts integer NOT NULL DEFAULT 1,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	UNIQUE (cluster, topic, partition, "offset")
);
ALTER SEQUENCE audience.kafka_dead_letter_seq OWNED BY audience.kafka_dead_letters.id;
COMMENT ON TABLE audience.kafka_dead_letters IS
	'messages that could not be taken, as they came (kafka_dead_letter_retry, kafka_dead_letter_discard)';
COMMENT ON COLUMN audience.kafka_dead_letters.id IS 'its number';
COMMENT ON COLUMN audience.kafka_dead_letters.source IS 'id of the source';
COMMENT ON COLUMN audience.kafka_dead_letters.stream IS 'what it was to be: events or segments';
COMMENT ON COLUMN audience.kafka_dead_letters.cluster IS 'where it came from';
COMMENT ON COLUMN audience.kafka_dead_letters.topic IS 'where it came from';
COMMENT ON COLUMN audience.kafka_dead_letters.partition IS 'where it came from';
COMMENT ON COLUMN audience.kafka_dead_letters."offset" IS 'where it came from';
COMMENT ON COLUMN audience.kafka_dead_letters.message_at IS 'its timestamp; null: none';
COMMENT ON COLUMN audience.kafka_dead_letters.key IS 'its key; null: none';
COMMENT ON COLUMN audience.kafka_dead_letters.value IS 'its value; null: none';
COMMENT ON COLUMN audience.kafka_dead_letters.headers IS
	'its headers in order, as {"name","value"}, or {"name","bytes"} in hexadecimal where they are no text; null: none';
COMMENT ON COLUMN audience.kafka_dead_letters.sqlstate IS 'the class of what is wrong';
COMMENT ON COLUMN audience.kafka_dead_letters.message IS 'what is wrong';
COMMENT ON COLUMN audience.kafka_dead_letters.attempts IS 'how often it was tried';
COMMENT ON COLUMN audience.kafka_dead_letters.created_at IS 'when it came';

SELECT pg_catalog.pg_extension_config_dump('audience.kafka_dead_letters', '');
SELECT pg_catalog.pg_extension_config_dump('audience.kafka_dead_letter_seq', '');

CREATE FUNCTION audience.kafka_take_events(topic text, partitions integer[], offsets bigint[],
	times timestamptz[], messages bytea[]) RETURNS bigint
AS 'MODULE_PATHNAME', 'aud_kafka_take_events'
LANGUAGE C VOLATILE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_take_events(text, integer[], bigint[], timestamptz[], bytea[]) IS
	'internal, for consumers: stores messages as events, all or none; how many were new';

CREATE FUNCTION audience.kafka_set_origin(cluster text, topic text) RETURNS void
AS 'MODULE_PATHNAME', 'aud_kafka_set_origin'
LANGUAGE C VOLATILE;
COMMENT ON FUNCTION audience.kafka_set_origin(text, text) IS
	'internal: changes of segments from now on come from this topic, and do not go back there; null: from nowhere';

CREATE FUNCTION audience.kafka_take_segment(cluster text, topic text, key bytea, message bytea) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	content jsonb;
	action text;
	definition jsonb;
	segment_id text;
BEGIN
	IF message IS NULL THEN
		IF key IS NULL THEN
			RAISE EXCEPTION 'invalid segment message' USING ERRCODE = '22023',
				DETAIL = 'It has neither a key nor a value.';
		END IF;
		segment_id := convert_from(key, 'UTF8');
		action := 'deleted';
	ELSE
		content := convert_from(message, 'UTF8')::jsonb;
		IF jsonb_typeof(content) <> 'object' THEN
			RAISE EXCEPTION 'invalid segment message' USING ERRCODE = '22023', DETAIL = 'At the root: it must be an object.';
		END IF;
		action := content->>'action';
		definition := nullif(content->'segment', 'null');
		segment_id := coalesce(content->>'segmentId', definition->>'id');
		IF action IS NULL OR action NOT IN ('created', 'updated', 'deleted') THEN
			RAISE EXCEPTION 'invalid segment message' USING ERRCODE = '22023',
				DETAIL = 'At /action: it must be "created", "updated" or "deleted".';
		END IF;
		IF segment_id IS NULL OR jsonb_typeof(coalesce(content->'segmentId', definition->'id')) <> 'string' THEN
			RAISE EXCEPTION 'invalid segment message' USING ERRCODE = '22023', DETAIL = 'At /segmentId: it must be a string.';
		END IF;
		IF action <> 'deleted' AND jsonb_typeof(definition) IS DISTINCT FROM 'object' THEN
			RAISE EXCEPTION 'invalid segment message' USING ERRCODE = '22023', DETAIL = 'At /segment: it must be an object.';
		END IF;
		IF definition->>'id' <> segment_id THEN
			RAISE EXCEPTION 'invalid segment message' USING ERRCODE = '22023',
				DETAIL = 'At /segment/id: it is not that of /segmentId.';
		END IF;
	END IF;

	PERFORM audience.kafka_set_origin(cluster, topic);
	IF action = 'deleted' THEN
		IF EXISTS (SELECT FROM audience.segments s WHERE s.id = segment_id) THEN
			PERFORM audience.segment_delete(segment_id);
		END IF;
	ELSE
		-- what there may be more in it than segment_put knows, such as a version, is not ours
		SELECT jsonb_object_agg(d.key, d.value) INTO definition FROM jsonb_each(definition) d
		WHERE d.key IN ('name', 'type', 'rules', 'description', 'active');
		PERFORM audience.segment_put(coalesce(definition, '{}') || jsonb_build_object('id', segment_id));
	END IF;
	PERFORM audience.kafka_set_origin(NULL, NULL);
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_take_segment(text, text, bytea, bytea) IS
	'internal, for consumers: does what a message of stream "segments" says';

CREATE FUNCTION audience.kafka_is_fault_of_message(sqlstate text, stream text) RETURNS boolean
AS 'MODULE_PATHNAME', 'aud_kafka_is_fault_of_message'
LANGUAGE C IMMUTABLE STRICT;
COMMENT ON FUNCTION audience.kafka_is_fault_of_message(text, text) IS
	'internal: would an error of this SQLSTATE come again, whenever a message is tried?';

CREATE FUNCTION audience.kafka_dead_letter(id bigint) RETURNS audience.kafka_dead_letters
AS $$
DECLARE
	letter audience.kafka_dead_letters;
BEGIN
	SELECT d.* INTO letter FROM audience.kafka_dead_letters d WHERE d.id = kafka_dead_letter.id FOR UPDATE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'dead letter % does not exist', kafka_dead_letter.id USING ERRCODE = '42704';
	END IF;
	RETURN letter;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_dead_letter(bigint) IS 'internal: a dead letter, locked';

CREATE FUNCTION audience.kafka_dead_letter_retry(id bigint) RETURNS boolean
AS $$
DECLARE
	letter audience.kafka_dead_letters := audience.kafka_dead_letter(kafka_dead_letter_retry.id);
	state text;
	problem text;
	detail text;
BEGIN
	IF letter.stream = 'events' THEN
		PERFORM audience.kafka_take_events(letter.topic, ARRAY[letter.partition], ARRAY[letter."offset"],
			ARRAY[letter.message_at], ARRAY[letter.value]);
	ELSE
		PERFORM audience.kafka_take_segment(letter.cluster, letter.topic, letter.key, letter.value);
	END IF;
	DELETE FROM audience.kafka_dead_letters d WHERE d.id = letter.id;
	RETURN true;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, problem = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
	IF NOT audience.kafka_is_fault_of_message(state, letter.stream) THEN
		RAISE;
	END IF;
	UPDATE audience.kafka_dead_letters d
	SET attempts = d.attempts + 1, sqlstate = state,
		message = concat_ws(': ', problem, nullif(detail, ''))
	WHERE d.id = letter.id;
	RETURN false;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_dead_letter_retry(bigint) IS
	'tries a message once more; true: it was taken and is no dead letter any more, false: it is still bad';

CREATE FUNCTION audience.kafka_dead_letter_discard(id bigint) RETURNS void
AS $$
BEGIN
	PERFORM audience.kafka_dead_letter(kafka_dead_letter_discard.id);
	DELETE FROM audience.kafka_dead_letters d WHERE d.id = kafka_dead_letter_discard.id;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.kafka_dead_letter_discard(bigint) IS 'gives a message up';
