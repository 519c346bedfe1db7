--
-- Views stat_engine and stat_scheduler where the library is not preloaded:
-- everything works, and what is missing says so
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT current_setting('shared_preload_libraries') ~ 'audience_manager';
SELECT pg_temp.try('SELECT * FROM audience.stat_engine');
SELECT pg_temp.try('SELECT audience.engine_statistics()');
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'audience.stat_engine'::regclass AND attnum > 0 ORDER BY attnum;
SELECT pg_temp.try('SELECT * FROM audience.stat_scheduler');
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'audience.stat_scheduler'::regclass AND attnum > 0 ORDER BY attnum;
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.event_ingest('{"userId":"u","eventId":"1","eventType":"purchase","timestamp":"2026-02-01","properties":{"amount":101}}');
SELECT user_id FROM audience.segment_members('spenders');
SELECT * FROM audience.verify();
