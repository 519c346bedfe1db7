--
-- kafka.sql: the events that part kafka measures with, in the last ten minutes,
-- and their way in by SQL.
--
CREATE UNLOGGED TABLE bench.arriving (LIKE bench.stage INCLUDING ALL);

-- As messages have them: key and value.
CREATE VIEW bench.arriving_messages AS
	SELECT id, user_id AS key, json_build_object('eventId', event_id, 'userId', user_id, 'eventType', event_type,
		'timestamp', audience.timestamp_text(occurred_at), 'properties', properties, 'context', context) AS value
	FROM bench.arriving;

-- All of them, in statements of so many rows, a commit each; events a second.
CREATE PROCEDURE bench.arrive(batch int, INOUT rate float8 = NULL) LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT max(id) FROM bench.arriving);
	started timestamptz := clock_timestamp();
BEGIN
	FOR lowest IN 1..last BY batch LOOP
		INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context)
		SELECT user_id, occurred_at, event_id, event_type, properties, context
		FROM bench.arriving WHERE id BETWEEN lowest AND lowest + batch - 1;
		COMMIT;
	END LOOP;
	rate := last / extract(epoch FROM clock_timestamp() - started);
END $$;
