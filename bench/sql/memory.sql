--
-- memory.sql: what a new session's first event of :user into :target takes, and
-- what memory it leaves in use.  Lines of metric and value.
--
-- once before, so that what looking takes is not counted
SELECT sum(total_bytes) AS before FROM pg_backend_memory_contexts \gset
SELECT (regexp_match(pg_read_file('/proc/self/smaps_rollup'), 'Private_Dirty: *(\d+)'))[1] AS dirty_before \gset
SELECT sum(total_bytes) AS before FROM pg_backend_memory_contexts \gset

SELECT clock_timestamp() AS started \gset
INSERT INTO :target (user_id, event_type, properties) VALUES (:'user', 'page_view', '{}');
SELECT extract(epoch FROM clock_timestamp() - :'started') * 1000 AS first_ms \gset
SELECT clock_timestamp() AS started \gset
INSERT INTO :target (user_id, event_type, properties) VALUES (:'user', 'page_view', '{}');
SELECT extract(epoch FROM clock_timestamp() - :'started') * 1000 AS second_ms \gset

SELECT 'first_ms', :first_ms UNION ALL SELECT 'second_ms', :second_ms
UNION ALL
SELECT 'context_mb', (sum(total_bytes) - :before) / 1e6 FROM pg_backend_memory_contexts
UNION ALL
SELECT 'private_mb', ((regexp_match(pg_read_file('/proc/self/smaps_rollup'), 'Private_Dirty: *(\d+)'))[1]::numeric - :dirty_before) * 1024 / 1e6;
