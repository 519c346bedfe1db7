-- Traits and aggregates.

CREATE FUNCTION audience.aggregates_add(rule audience.rule, fill bigint DEFAULT NULL) RETURNS integer[]
AS $$
	WITH wanted AS (
		SELECT DISTINCT d.definition FROM audience.rule_aggregates(rule) d (definition)
	), added AS (
		INSERT INTO audience.aggregates (definition, pending)
		SELECT w.definition, fill FROM wanted w
		WHERE NOT EXISTS (SELECT FROM audience.aggregates a WHERE a.definition OPERATOR(audience.=) w.definition)
		RETURNING number
	)
	SELECT coalesce(pg_catalog.array_agg(number), '{}') FROM (
		SELECT number FROM added
		UNION ALL
		SELECT a.number FROM audience.aggregates a JOIN wanted w ON w.definition OPERATOR(audience.=) a.definition
		WHERE a.pending IS NOT NULL) n
$$ LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.aggregates_add(audience.rule, bigint) IS
	'internal: enters the aggregates of a rule that are not kept yet, pending if a fill is to make them; the numbers of those not made for all';

CREATE FUNCTION audience.limit_definition(rules audience.rule) RETURNS void
AS $$
DECLARE
	asked bigint := (SELECT count(*) FROM audience.rule_aggregates(rules));
BEGIN
	PERFORM audience.limit_rule(rules);
	-- Numbers begin at 1000 and are not used again, so there is mostly no need to count.
	IF asked > 0 AND (SELECT max(a.number) FROM audience.aggregates a) - 900 + asked >
		current_setting('audience.max_aggregates')::integer THEN
		PERFORM audience.limit_definitions('aggregates', n.kept + n.new)
		FROM (
			SELECT (SELECT count(*) FROM audience.aggregates) AS kept, count(DISTINCT d.definition) AS new
			FROM audience.rule_aggregates(rules) d (definition)
			WHERE NOT EXISTS (SELECT FROM audience.aggregates a WHERE a.definition OPERATOR(audience.=) d.definition)
		) n WHERE n.new > 0;
	END IF;
END
$$ LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.limit_definition(audience.rule) IS
	'internal: refuses (54000, 54001) a rule that costs more than that of a segment or trait may, also with all others; under the definitions lock';

-- What was due before a change is judged by the old definitions, at its moment:
-- the fill would only see that it has happened.
CREATE FUNCTION audience.definitions_change() RETURNS void
AS $$
BEGIN
	PERFORM audience.definitions_lock();
	IF (SELECT min(t.due_at) FROM audience.timers t) <= audience.now() THEN
		PERFORM audience.run_due();
	END IF;
END
$$ LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.definitions_change() IS
	'internal: the exclusive definitions lock, for a change that evaluates users';

-- Without users there is nothing to load the definitions for, which takes the
-- longer the more there are.
CREATE FUNCTION audience.fill_now(segments integer[], aggregates integer[], reason text, other_reason text,
	nobody_in boolean DEFAULT false) RETURNS void
AS $$
BEGIN
	IF EXISTS (SELECT FROM audience.profiles) THEN
		PERFORM audience.fill(segments, aggregates, reason, other_reason, nobody_in);
	END IF;
	-- whoever goes through all users makes what is pending, too; where nothing is,
	-- even an UPDATE of no row would count as a change of definitions
	IF cardinality(segments) + cardinality(aggregates) > 0
		AND EXISTS (SELECT FROM audience.aggregates a WHERE a.pending IS NOT NULL) THEN
		UPDATE audience.aggregates SET pending = NULL WHERE pending IS NOT NULL;
	END IF;
END
$$ LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.fill_now(integer[], integer[], text, text, boolean) IS
	'internal: fill, after which no aggregate is pending';

CREATE FUNCTION audience.aggregates_prune() RETURNS void
AS $$
	DELETE FROM audience.aggregates a
	WHERE a.number >= 1000
		AND NOT EXISTS (SELECT FROM audience.traits t WHERE t.aggregate_number = a.number)
		AND NOT EXISTS (
			SELECT FROM audience.segments s, audience.rule_aggregates(s.rules) d (definition)
			WHERE d.definition OPERATOR(audience.=) a.definition)
$$ LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.aggregates_prune() IS
	'internal: forgets the aggregates that nobody asks for any more';

CREATE FUNCTION audience.trait_definition(aggregate text, event_type text, property text,
	filter audience.rule, time_window interval) RETURNS audience.rule
AS $$
DECLARE
	node jsonb;
	problem record;
BEGIN
	IF time_window IS NOT NULL AND
		(extract(year FROM time_window) <> 0 OR extract(month FROM time_window) <> 0) THEN
		RAISE EXCEPTION 'invalid time window' USING ERRCODE = '22023',
			DETAIL = 'Months and years have no fixed length.', HINT = 'Give it in days.';
	END IF;
	IF time_window <= interval '0' THEN
		RAISE EXCEPTION 'invalid time window' USING ERRCODE = '22023',
			DETAIL = 'It must be above zero.';
	END IF;
	node := jsonb_strip_nulls(jsonb_build_object(
		'event', coalesce(event_type, '*'), 'aggregate', lower(aggregate), 'property', property,
		'operator', 'exists'));
	IF filter IS NOT NULL THEN
		node := node || jsonb_build_object('where', filter::jsonb);
	END IF;
	IF time_window IS NOT NULL THEN
		node := node || jsonb_build_object('window',
			jsonb_build_object('last', extract(epoch FROM time_window)));
	END IF;
	SELECT v.* INTO problem FROM audience.rule_validate(node) v;
	-- one without a place is a limit, which says so itself
	IF NOT problem.valid AND problem.location IS NOT NULL THEN
		RAISE EXCEPTION 'invalid trait' USING ERRCODE = '22023',
			DETAIL = format('At %s: %s.', problem.location, rtrim(problem.error, '.'));
	END IF;
	RETURN node::audience.rule;
END
$$ LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.trait_definition(text, text, text, audience.rule, interval) IS
	'internal: the aggregate that a trait asks for; bad arguments are 22023';

CREATE FUNCTION audience.trait_create(name text, aggregate text, event_type text DEFAULT NULL,
	property text DEFAULT NULL, filter audience.rule DEFAULT NULL, time_window interval DEFAULT NULL)
	RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	definition audience.rule;
	added integer[];
	concerned integer[];
BEGIN
	IF name IS NULL OR name !~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' THEN
		RAISE EXCEPTION 'invalid trait name' USING ERRCODE = '22023',
			DETAIL = 'A name begins with a letter or underscore and holds up to 63 letters, digits and underscores.';
	END IF;
	IF name = 'userId' THEN
		RAISE EXCEPTION 'trait name "userId" is reserved' USING ERRCODE = '22023';
	END IF;
	IF aggregate IS NULL THEN
		RAISE EXCEPTION 'aggregate must not be null' USING ERRCODE = '22023';
	END IF;
	definition := audience.trait_definition(aggregate, event_type, property, filter, time_window);
	PERFORM audience.definitions_change();
	IF EXISTS (SELECT FROM audience.traits t WHERE t.name = trait_create.name) THEN
		RAISE EXCEPTION 'trait "%" already exists', name USING ERRCODE = '42710';
	END IF;
	PERFORM audience.limit_definition(definition);
	PERFORM audience.limit_definitions('traits', (SELECT count(*) + 1 FROM audience.traits));
	added := audience.aggregates_add(definition);
	INSERT INTO audience.traits (name, aggregate, event_type, property, filter, time_window, aggregate_number)
	SELECT name, lower(aggregate), event_type, property, filter, time_window, a.number
	FROM audience.aggregates a WHERE a.definition OPERATOR(audience.=) definition;
	-- the trait hides an attribute of its name
	concerned := ARRAY(SELECT s.number FROM audience.segments s
		WHERE s.active AND name IN (SELECT audience.rule_fields(s.rules)));
	PERFORM audience.fill_now(audience.dependents(concerned), added, 'backfill', 'expired');
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.trait_create(text, text, text, text, audience.rule, interval) IS
	'makes a trait and fills it from the events there are';

CREATE FUNCTION audience.trait_drop(name text) RETURNS void
AS $$
#variable_conflict use_variable
DECLARE
	users text;
	trait audience.traits;
BEGIN
	PERFORM audience.definitions_lock();
	SELECT t.* INTO trait FROM audience.traits t WHERE t.name = trait_drop.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'trait "%" does not exist', name USING ERRCODE = '42704';
	END IF;
	IF trait.built_in THEN
		RAISE EXCEPTION 'cannot drop trait "%" because it is built in', name USING ERRCODE = '2BP01';
	END IF;
	SELECT string_agg(format('Segment "%s" uses it.', s.id), E'\n' ORDER BY s.id) INTO users
	FROM audience.segments s WHERE name IN (SELECT audience.rule_fields(s.rules));
	IF users IS NOT NULL THEN
		RAISE EXCEPTION 'cannot drop trait "%" because segments use it', name
			USING ERRCODE = '2BP01', DETAIL = users;
	END IF;
	DELETE FROM audience.traits t WHERE t.name = trait_drop.name;
	PERFORM audience.aggregates_prune();
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.trait_drop(text) IS 'drops a trait that no segment uses';
