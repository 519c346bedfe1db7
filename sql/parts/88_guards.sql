-- What keeps rows together: TRUNCATE, and rows that come by logical replication.
--
-- Triggers for each statement only on tables that the engine writes: those for
-- each row cost it its short way (src/user_table.c).

CREATE FUNCTION audience.truncate_guard() RETURNS trigger
AS $$
BEGIN
	RAISE EXCEPTION 'table "%" cannot be truncated', TG_TABLE_NAME USING ERRCODE = '0A000',
		DETAIL = 'Its rows and those of the extension''s other tables belong together.',
		HINT = 'DROP EXTENSION and CREATE EXTENSION remove everything.';
END
$$ LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.truncate_guard() IS 'refuses TRUNCATE of tables that others of the extension depend on';

CREATE FUNCTION audience.row_is_here() RETURNS trigger
AS $$
BEGIN
	RETURN NULL;
END
$$ LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.row_is_here() IS 'passes over a row that comes by logical replication and that the install script has made here, too';

DO $$
DECLARE
	name text;
BEGIN
	FOREACH name IN ARRAY ARRAY['profiles', 'timers', 'transition_log', 'event_bases', 'retention', 'definition_version',
		'aggregates', 'traits', 'segments', 'segment_numbers']
	LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER truncate_guard BEFORE TRUNCATE ON audience.%I '
			'FOR EACH STATEMENT EXECUTE FUNCTION audience.truncate_guard()', name);
		EXECUTE pg_catalog.format('COMMENT ON TRIGGER truncate_guard ON audience.%I IS %L', name, 'the rows belong to those of other tables');
	END LOOP;

	-- sessions of a subscriber must learn of replicated definitions, too: those
	-- rows fire no trigger for each statement, and only such as are for replicas
	FOREACH name IN ARRAY ARRAY['definition_version', 'aggregates', 'traits', 'segments', 'retention', 'kafka_sinks']
	LOOP
		EXECUTE pg_catalog.format('CREATE TRIGGER definitions_replicated AFTER INSERT OR UPDATE OR DELETE ON audience.%I '
			'FOR EACH ROW EXECUTE FUNCTION audience.definitions_changed()', name);
		EXECUTE pg_catalog.format('ALTER TABLE audience.%I ENABLE REPLICA TRIGGER definitions_replicated', name);
		EXECUTE pg_catalog.format('COMMENT ON TRIGGER definitions_replicated ON audience.%I IS %L', name,
			'tells all sessions of rows that come by logical replication');
	END LOOP;
END
$$;

-- a publication of all tables has these rows, and so has the subscriber
CREATE TRIGGER row_is_here BEFORE INSERT ON audience.definition_version
	FOR EACH ROW EXECUTE FUNCTION audience.row_is_here();
ALTER TABLE audience.definition_version ENABLE REPLICA TRIGGER row_is_here;
COMMENT ON TRIGGER row_is_here ON audience.definition_version IS 'each database counts for itself';
CREATE TRIGGER row_is_here BEFORE INSERT ON audience.aggregates
	FOR EACH ROW WHEN (NEW.number < 1000) EXECUTE FUNCTION audience.row_is_here();
ALTER TABLE audience.aggregates ENABLE REPLICA TRIGGER row_is_here;
COMMENT ON TRIGGER row_is_here ON audience.aggregates IS 'the built-in ones are there from the start';
CREATE TRIGGER row_is_here BEFORE INSERT ON audience.traits
	FOR EACH ROW WHEN (NEW.built_in) EXECUTE FUNCTION audience.row_is_here();
ALTER TABLE audience.traits ENABLE REPLICA TRIGGER row_is_here;
COMMENT ON TRIGGER row_is_here ON audience.traits IS 'the built-in ones are there from the start';
