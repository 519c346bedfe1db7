-- verify(): everything recomputed from the events, by SQL.
--
-- The engine folds events into states and evaluates compiled programs; here
-- an aggregate is a GROUP BY over the events, a sequence a chain of window
-- functions, and a rule an SQL condition, so that the two can disagree.  All of
-- it becomes one generated statement, run over one range of user ids after the
-- other.
--
-- What the generated parts see of a user: user_id, attributes, vals (values of
-- all aggregates by number), held (the segments the user must be in, as far
-- as they are decided), at (the instant of the last evaluation).  Of an event:
-- the columns of table events, and the user's at.

CREATE FUNCTION audience.verify_leaf(document jsonb, leaf audience.rule, at timestamptz) RETURNS boolean
AS 'MODULE_PATHNAME', 'aud_verify_leaf'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.verify_leaf(jsonb, audience.rule, timestamptz) IS
	'internal, for verify: does the rule hold for the document at that instant?';

CREATE FUNCTION audience.verify_property(properties jsonb, definition audience.rule) RETURNS jsonb
AS 'MODULE_PATHNAME', 'aud_verify_property'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
COMMENT ON FUNCTION audience.verify_property(jsonb, audience.rule) IS
	'internal, for verify: the value of an aggregate''s property; null where it is missing';

-- rules as conditions

-- A path's first key says which document to look at; a quoted one is neither
-- a trait's nor userId, nor does it lead out of the properties.
CREATE FUNCTION audience.verify_first_key(path text) RETURNS text
AS $$ SELECT pg_catalog.substring(path, '^[^."[]+') $$
LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_first_key(text) IS
	'internal, for verify: the first key of a canonical path; null where it is quoted';

-- An aggregate's value is the field named by its number.
CREATE FUNCTION audience.verify_user_leaf(node jsonb) RETURNS text
AS $$
#variable_conflict use_column
DECLARE
	key text := audience.verify_first_key(node ->> 'field');
	document text := 'attributes';
	aggregate integer;
BEGIN
	IF node ? 'segment' THEN
		RETURN format(CASE node ->> 'operator' WHEN 'not_in' THEN '%L <> ALL (held)' ELSE '%L = ANY (held)' END,
			node ->> 'segment');
	ELSIF node ? 'sample' THEN
		RETURN format('jsonb_build_object(''userId'', user_id) OPERATOR(audience.|=) %L::audience.rule', node);
	ELSIF node ? 'sequence' THEN
		SELECT number INTO aggregate FROM audience.aggregates
		WHERE definition OPERATOR(audience.=) node::audience.rule;
		RETURN format('vals -> %L = %L', aggregate, 'true');
	ELSIF node ? 'event' THEN
		SELECT number INTO aggregate FROM audience.aggregates
		WHERE definition OPERATOR(audience.=)
			(node - '{value,ci}'::text[] || '{"operator": "exists"}')::audience.rule;
		document := 'vals';
		node := jsonb_build_object('field', aggregate::text) ||
			CASE WHEN node ? 'operator' THEN node - '{event,where,aggregate,property,window}'::text[]
				ELSE '{"operator": "gte", "value": 1}' END;
	ELSIF key = 'userId' THEN
		document := 'jsonb_build_object(''userId'', user_id)';
	ELSE
		SELECT aggregate_number INTO aggregate FROM audience.traits WHERE name = key;
		IF FOUND THEN
			document := 'vals';
			node := node || jsonb_build_object('field', aggregate || substr(node ->> 'field', length(key) + 1));
		END IF;
	END IF;
	RETURN format('audience.verify_leaf(%s, %L::audience.rule, at)', document, node);
END
$$ LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_user_leaf(jsonb) IS
	'internal, for verify: the condition on a user that a leaf is';

-- The plain rule "$type = ..." is about a key of that name.
CREATE FUNCTION audience.verify_event_leaf(node jsonb) RETURNS text
AS $$
	SELECT pg_catalog.format('audience.verify_leaf(%s, %L::audience.rule, at)',
		CASE audience.verify_first_key(node ->> 'field')
			WHEN '$context' THEN 'jsonb_build_object(''$context'', context)'
			WHEN '$type' THEN 'jsonb_build_object(''$type'', event_type)'
			WHEN '$time' THEN 'jsonb_build_object(''$time'', audience.timestamp_text(occurred_at))'
			WHEN '$id' THEN 'jsonb_build_object(''$id'', event_id)'
			ELSE 'properties' END,
		node)
$$ LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_event_leaf(jsonb) IS
	'internal, for verify: the condition on an event that a leaf of "where" is';

CREATE FUNCTION audience.verify_condition(node jsonb, in_where boolean) RETURNS text
AS $$
DECLARE
	kind text;
	children text;
BEGIN
	IF jsonb_typeof(node) = 'boolean' THEN
		RETURN node::text;
	ELSIF node ? 'not' THEN
		RETURN format('NOT (%s)', audience.verify_condition(node -> 'not', in_where));
	ELSIF node ?| '{all,any,none}' THEN
		kind := CASE WHEN node ? 'all' THEN 'all' WHEN node ? 'any' THEN 'any' ELSE 'none' END;
		SELECT string_agg(format('(%s)', audience.verify_condition(c.node, in_where)),
				CASE kind WHEN 'all' THEN ' AND ' ELSE ' OR ' END ORDER BY c.ordinal)
		INTO children
		FROM jsonb_array_elements(node -> kind) WITH ORDINALITY c (node, ordinal);
		children := coalesce(children, CASE kind WHEN 'all' THEN 'true' ELSE 'false' END);
		RETURN CASE kind WHEN 'none' THEN format('NOT (%s)', children) ELSE children END;
	ELSIF in_where THEN
		RETURN audience.verify_event_leaf(node);
	END IF;
	RETURN audience.verify_user_leaf(node);
END
$$ LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_condition(jsonb, boolean) IS
	'internal, for verify: the SQL condition that a rule, or with in_where an event''s, is';

-- aggregates as queries over CTE history

CREATE FUNCTION audience.verify_events(node jsonb) RETURNS text
AS $$
	SELECT pg_catalog.format('(%s)%s',
		(SELECT pg_catalog.string_agg(
				CASE WHEN n.name = '*' THEN 'true'
					WHEN n.name LIKE '%*' THEN pg_catalog.format('starts_with(event_type, %L)', pg_catalog.left(n.name, -1))
					ELSE pg_catalog.format('event_type = %L', n.name) END, ' OR ')
			FROM pg_catalog.jsonb_array_elements_text(
				CASE pg_catalog.jsonb_typeof(node -> 'event') WHEN 'array' THEN node -> 'event'
					ELSE pg_catalog.jsonb_build_array(node -> 'event') END) n (name)),
		' AND (' || audience.verify_condition(node -> 'where', true) || ')')
$$ LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_events(jsonb) IS
	'internal, for verify: the condition on an event to be one that an event node or a step speaks of';

-- Differences are compared, not instants: no duration leads out of the range.
CREATE FUNCTION audience.verify_window(node jsonb) RETURNS text
AS $$
	SELECT CASE
		WHEN node #> '{window,last}' IS NOT NULL THEN
			pg_catalog.format('at - occurred_at < %L::interval AND occurred_at - at <= %L::interval',
				node #>> '{window,last}', pg_catalog.current_setting('audience.max_future_skew'))
		WHEN node #> '{window,from}' IS NOT NULL THEN
			pg_catalog.format('occurred_at >= %L::timestamptz', node #>> '{window,from}') ||
			CASE WHEN node #> '{window,to}' IS NULL THEN ''
				ELSE pg_catalog.format(' AND occurred_at < %L::timestamptz', node #>> '{window,to}') END
		ELSE 'true' END
$$ LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_window(jsonb) IS
	'internal, for verify: the condition on an event to be in the window of an event or sequence node';

CREATE FUNCTION audience.verify_value(aggregate text) RETURNS text
AS $$
	SELECT CASE aggregate
		WHEN 'count' THEN 'to_jsonb(count(*))'
		WHEN 'sum' THEN 'to_jsonb(sum(v::numeric))'
		WHEN 'avg' THEN 'to_jsonb(trim_scale(sum(v::numeric)) / count(*))'
		WHEN 'min' THEN 'to_jsonb(min(v::numeric))'
		WHEN 'max' THEN 'to_jsonb(max(v::numeric))'
		WHEN 'first' THEN '(array_agg(v ORDER BY occurred_at, event_id))[1]'
		WHEN 'last' THEN '(array_agg(v ORDER BY occurred_at DESC, event_id DESC))[1]'
		WHEN 'count_distinct' THEN 'to_jsonb(count(DISTINCT v))'
		-- of equally frequent ones the first in the order: the smallest
		WHEN 'most_frequent' THEN 'mode() WITHIN GROUP (ORDER BY v)'
		WHEN 'days_active' THEN 'to_jsonb(count(DISTINCT (occurred_at AT TIME ZONE ''UTC'')::date))'
		WHEN 'first_time' THEN 'to_jsonb(audience.timestamp_text(min(occurred_at)))'
		WHEN 'last_time' THEN 'to_jsonb(audience.timestamp_text(max(occurred_at)))'
	END
$$ LANGUAGE sql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_value(text) IS
	'internal, for verify: the value of an aggregate over a user''s events that count, with v their property';

-- Where events have been deleted, what is kept of them, CTE base, is added as
-- events that stand for "n" each.  There are none for an aggregate that needs
-- the events themselves.
CREATE FUNCTION audience.verify_aggregate(number integer, definition audience.rule, with_base boolean) RETURNS text
AS $$
DECLARE
	node jsonb := definition::jsonb;
	aggregate text := coalesce(node ->> 'aggregate', 'count');
	counting text := format('SELECT user_id, occurred_at, event_id, v, 1 AS n FROM (SELECT *, %s AS v FROM history) e WHERE %s AND %s AND %s',
		CASE WHEN node ? 'property' THEN
			format('audience.verify_property(properties, %L::audience.rule)', definition)
			ELSE 'NULL::jsonb' END,
		audience.verify_events(node),
		audience.verify_window(node),
		CASE WHEN NOT node ? 'property' THEN 'true'
			WHEN aggregate IN ('min', 'max') THEN 'jsonb_typeof(v) = ''number'''
			-- larger ones are not summed
			WHEN aggregate IN ('sum', 'avg') THEN
				'CASE WHEN jsonb_typeof(v) = ''number'' THEN abs(v::numeric) < 1e131000 ELSE false END'
			ELSE 'v IS NOT NULL' END);
	value text := audience.verify_value(aggregate);
BEGIN
	IF with_base THEN
		counting := format('%s UNION ALL SELECT user_id, occurred_at, event_id, value, count FROM base WHERE aggregate = %s',
			counting, number);
		IF aggregate = 'most_frequent' THEN
			counting := format('SELECT user_id, v, sum(n) AS n FROM (%s) e GROUP BY user_id, v', counting);
			value := '(array_agg(v ORDER BY n DESC, v))[1]';
		ELSE
			value := replace(value, 'count(*)', 'sum(n)');
		END IF;
	END IF;
	RETURN format('SELECT user_id, %s AS number, %s AS value FROM (%s) e GROUP BY user_id', number, value, counting);
END
$$ LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_aggregate(integer, audience.rule, boolean) IS
	'internal, for verify: the query for an aggregate''s values, with what is kept of deleted events';

-- CTE h holds the events that any step speaks of: column n is an event's place
-- among them, mI whether step I speaks of it, and cI, of an absent step, how
-- many such events there are up to it.  Each present step adds rI: can the
-- steps up to it be fitted so that it is this event?  That takes an earlier
-- event that the steps before can end with.  The latest of these, at tI, is
-- the nearest, and has the fewest events of the absent steps between (dI such
-- events up to it), so that if any fits, it does.
CREATE FUNCTION audience.verify_sequence(number integer, definition audience.rule) RETURNS text
AS $$
DECLARE
	node jsonb := definition::jsonb;
	steps jsonb := node -> 'sequence';
	count integer := jsonb_array_length(steps);
	step jsonb;
	marks text := '';
	any_mark text;
	counts text := '';
	befores text;
	condition text;
	ctes text := '';
	source text := 'h';
	last integer;				-- the present step before
	ending text := '';
BEGIN
	FOR i IN 0 .. count - 1 LOOP
		step := steps -> i;
		marks := marks || format(', %s AS m%s', audience.verify_events(step), i);
		any_mark := concat_ws(' OR ', any_mark, 'm' || i);
		IF step ? 'absent' THEN
			counts := counts || format(', count(*) FILTER (WHERE m%s) OVER own AS c%s', i, i);
			CONTINUE;
		END IF;
		condition := format('m%s AND %s', i, audience.verify_window(node));
		IF last IS NOT NULL THEN
			befores := format('max(occurred_at) FILTER (WHERE r%s) OVER before AS t%s', last, i);
			condition := condition || format(' AND t%s IS NOT NULL', i);
			IF step ? 'within' THEN
				condition := condition || format(' AND occurred_at - t%s <= %L::interval', i, step ->> 'within');
			END IF;
			FOR absent IN last + 1 .. i - 1 LOOP
				befores := befores || format(', max(c%s) FILTER (WHERE r%s) OVER before AS d%s', absent, last, absent);
				condition := condition || format(' AND c%s - m%s::int = d%s', absent, absent, absent);
			END LOOP;
			ctes := ctes || format(', p%s AS (SELECT *, %s FROM %s WINDOW before AS (PARTITION BY user_id ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))',
				i, befores, source);
			source := 'p' || i;
		END IF;
		ctes := ctes || format(', s%s AS (SELECT *, %s AS r%s FROM %s)', i, condition, i, source);
		source := 's' || i;
		last := i;
	END LOOP;
	IF last < count - 1 THEN
		-- the next such event later than this one, not of the same instant
		ctes := ctes || format(', e AS (SELECT *, min(occurred_at) FILTER (WHERE m%s) OVER later AS next FROM %s '
			'WINDOW later AS (PARTITION BY user_id ORDER BY occurred_at DESC GROUPS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))',
			count - 1, source);
		source := 'e';
		ending := format(' AND at - occurred_at > %L::interval AND (next - occurred_at <= %L::interval) IS NOT TRUE',
			step ->> 'within', step ->> 'within');
	END IF;
	RETURN format('SELECT user_id, %s AS number, ''true''::jsonb AS value FROM ('
		'WITH marked AS (SELECT user_id, occurred_at, event_id, at%s FROM history), '
		'h AS (SELECT *, row_number() OVER own AS n%s FROM marked WHERE %s WINDOW own AS (PARTITION BY user_id ORDER BY occurred_at, event_id))'
		'%s SELECT DISTINCT user_id FROM %s WHERE r%s%s) q',
		number, marks, counts, any_mark, ctes, source, last, ending);
END
$$ LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_sequence(integer, audience.rule) IS
	'internal, for verify: the query for the users for whom a sequence holds';

-- segments

-- A fill brings a segment in line user by user: until it is done, nothing can be
-- said of it, nor of those that refer to it.
CREATE FUNCTION audience.verify_unsettled() RETURNS integer[]
AS $$
	SELECT audience.dependents(ARRAY(
		SELECT s.number FROM audience.segments s WHERE s.pending IS NOT NULL AND s.status = 'ready'))
$$ LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_unsettled() IS
	'internal, for verify: the segments that a fill has not yet brought in line';

-- A segment is decided after those that its rule refers to: each round adds to
-- "held" those of the segments whose turn it is.
CREATE FUNCTION audience.verify_rounds(OUT ctes text, OUT last integer)
AS $$
DECLARE
	unsettled integer[] := audience.verify_unsettled();
	undecided text[];
	ready text[];
	arms text;
BEGIN
	ctes := '';
	last := 0;
	SELECT array_agg(s.id) INTO undecided FROM audience.segments s
	WHERE s.type = 'dynamic' AND s.active AND s.status = 'ready' AND s.number <> ALL (unsettled);
	LOOP
		SELECT array_agg(s.id), string_agg(
				format('CASE WHEN %s THEN %L END', audience.verify_condition(s.rules::jsonb, false), s.id), ', ')
		INTO ready, arms
		FROM audience.segments s
		WHERE s.id = ANY (undecided) AND NOT EXISTS (
			SELECT FROM audience.rule_segments(s.rules) r (id) WHERE r.id = ANY (undecided));
		EXIT WHEN ready IS NULL;
		ctes := ctes || format(', round%s AS MATERIALIZED ('
			'SELECT user_id, attributes, at, vals, held || array_remove(ARRAY[%s]::text[], NULL) AS held FROM round%s)',
			last + 1, arms, last);
		last := last + 1;
		SELECT array_agg(p.id) INTO undecided FROM unnest(undecided) p (id) WHERE p.id <> ALL (ready);
	END LOOP;
END
$$ LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_rounds() IS
	'internal, for verify: CTEs that decide all dynamic segments, and the number of the last one';

-- the statement

CREATE FUNCTION audience.verify_statement(moved boolean) RETURNS text
AS $$
DECLARE
	-- how the values of an aggregate are called in a detail
	names text := $q$coalesce(
		(SELECT string_agg(format('trait "%s"', t.name), ', ' ORDER BY t.name) FROM audience.traits t WHERE t.aggregate_number = v.key::integer),
		(SELECT 'aggregate ' || a.definition::text FROM audience.aggregates a WHERE a.number = v.key::integer))$q$;
	queries text;
	defaults jsonb;
	rounds record;
	ctes text;
	-- the first event goes only after this, and not while verify goes on
	with_base boolean := EXISTS (
		SELECT FROM audience.retention r WHERE r.kind = 'events' AND r.complete_from IS NOT NULL);
BEGIN
	-- in groups: PostgreSQL's stack must be as deep as a UNION is long
	SELECT string_agg(format('(%s)', g.queries), ' UNION ALL ')
	INTO queries
	FROM (SELECT string_agg(
				CASE WHEN a.definition::jsonb ? 'sequence' THEN audience.verify_sequence(a.number, a.definition)
					ELSE audience.verify_aggregate(a.number, a.definition, with_base) END, ' UNION ALL ')
		FROM (SELECT row_number() OVER () AS n, number, definition FROM audience.aggregates WHERE pending IS NULL) a
		GROUP BY a.n / 100) g (queries);
	-- over no events
	SELECT jsonb_object_agg(a.number, CASE WHEN a.definition::jsonb ? 'sequence' THEN 'false' ELSE '0' END::jsonb)
	INTO defaults FROM audience.aggregates a
	WHERE a.pending IS NULL AND (a.definition::jsonb ? 'sequence' OR coalesce(a.definition::jsonb ->> 'aggregate', 'count')
		IN ('count', 'sum', 'count_distinct', 'days_active'));
	rounds := audience.verify_rounds();
	ctes := format($q$
WITH timer AS MATERIALIZED (
	SELECT user_id, due_at FROM audience.timers
	WHERE ($1 IS NULL OR user_id > $1) AND ($2 IS NULL OR user_id <= $2)
), profile AS MATERIALIZED (
	SELECT user_id, attributes, first_seen, last_seen, %5$s AS evaluated_at, members, state IS NULL AS is_new,
		audience.state_timer(state) AS due_at
	FROM audience.profiles
	WHERE ($1 IS NULL OR user_id > $1) AND ($2 IS NULL OR user_id <= $2) AND %6$s
), event AS MATERIALIZED (
	SELECT user_id, occurred_at, event_id, event_type, properties, context
	FROM audience.events
	WHERE ($1 IS NULL OR user_id > $1) AND ($2 IS NULL OR user_id <= $2)
), history AS MATERIALIZED (
	SELECT e.*, p.evaluated_at AS at FROM event e JOIN profile p USING (user_id)
), deleted AS MATERIALIZED (
	-- what is kept of deleted events
	SELECT user_id, first_seen, last_seen, events, states FROM audience.event_bases
	WHERE ($1 IS NULL OR user_id > $1) AND ($2 IS NULL OR user_id <= $2)
), base AS MATERIALIZED (
	SELECT d.user_id, i.* FROM deleted d JOIN profile USING (user_id)
		CROSS JOIN LATERAL audience.event_base_items(d.states) i
), seen AS (
	SELECT user_id, min(first_seen) AS first_seen, max(last_seen) AS last_seen, sum(count) AS count
	FROM (
		SELECT user_id, min(occurred_at) AS first_seen, max(occurred_at) AS last_seen, count(*) AS count
		FROM event GROUP BY user_id
		UNION ALL
		SELECT user_id, first_seen, last_seen, events FROM deleted
	) s GROUP BY user_id
), found AS (
	SELECT user_id, jsonb_object_agg(number, value) AS vals FROM (%1$s) f GROUP BY user_id
), recomputed AS MATERIALIZED (
	SELECT p.user_id, p.attributes, p.evaluated_at AS at, %2$L::jsonb || coalesce(f.vals, '{}') AS vals
	FROM profile p LEFT JOIN found f USING (user_id)
), ids AS MATERIALIZED (
	SELECT array_agg(user_id ORDER BY user_id) AS ids FROM profile
), stored AS (
	SELECT user_id, jsonb_object_agg(aggregate, value) AS vals
	FROM audience.profile_values((SELECT ids FROM ids), false)
	WHERE aggregate IN (SELECT number FROM audience.aggregates WHERE pending IS NULL)
	GROUP BY user_id
), transition_complete AS MATERIALIZED (
	SELECT coalesce(max(complete_from), '-infinity') AS complete_from
	FROM audience.retention WHERE kind = 'transitions'
), transition AS MATERIALIZED (
	SELECT t.user_id, t.segment_id AS id, t.seq, t.action, t.occurred_at,
		lag(t.action) OVER own AS before, lead(t.seq) OVER own IS NULL AS is_last
	FROM audience.transitions t LEFT JOIN audience.segments s ON s.id = t.segment_id
	WHERE ($1 IS NULL OR t.user_id > $1) AND ($2 IS NULL OR t.user_id <= $2)
		AND s.status IS DISTINCT FROM 'building'
	WINDOW own AS (PARTITION BY t.user_id, t.segment_id ORDER BY t.seq)
), statics AS (
	-- who is in a static list, as history has it
	SELECT t.user_id, array_agg(t.id) AS held
	FROM transition t JOIN audience.segments s ON s.id = t.id
	WHERE t.is_last AND t.action = 'added' AND s.type = 'static' AND s.active AND s.status = 'ready'
	GROUP BY t.user_id
), round0 AS MATERIALIZED (
	SELECT r.*, coalesce(s.held, '{}') AS held FROM recomputed r LEFT JOIN statics s USING (user_id)
)%3$s, expected AS (
	SELECT user_id, unnest(held) AS id FROM round%4$s
), member AS MATERIALIZED (
	-- an inactive static segment keeps its list, but has no members
	SELECT p.user_id, m.segment_number, m.entered_at, s.id, s.type, s.status
	FROM profile p CROSS JOIN LATERAL audience.members_list(p.members) m
		LEFT JOIN audience.segments s ON s.number = m.segment_number
	WHERE NOT coalesce(s.type = 'static' AND NOT s.active, false)
), wrong_member AS (
	SELECT coalesce(m.user_id, e.user_id) AS user_id, coalesce(m.id, e.id) AS id,
		m.id IS NOT NULL AS is_member, e.id IS NOT NULL AS should_be
	FROM (SELECT * FROM member WHERE status = 'ready' AND segment_number <> ALL (ARRAY(SELECT unnest(audience.verify_unsettled())))) m
		FULL JOIN expected e ON e.user_id = m.user_id AND e.id = m.id
	WHERE m.id IS NULL OR e.id IS NULL
)$q$, queries, coalesce(defaults, '{}'), rounds.ctes, rounds.last,
		CASE WHEN moved THEN 'greatest(evaluated_at, audience.now())' ELSE 'evaluated_at' END,
		-- those whose timer is due are for run_due
		CASE WHEN moved THEN 'evaluated_at < audience.now() AND (audience.state_timer(state) > audience.now()) IS NOT FALSE'
			ELSE 'true' END);
	IF moved THEN
		RETURN ctes || $q$
SELECT 'timer', user_id, id, CASE WHEN should_be THEN 'by time alone the user has entered, but no timer is due'
	ELSE 'by time alone the user has left, but no timer is due' END
FROM wrong_member$q$;
	END IF;
	RETURN ctes || format($q$
SELECT 'profile', coalesce(p.user_id, s.user_id)::text, NULL::text,
	CASE WHEN p.user_id IS NULL THEN format('there are events (%%s), but no profile', s.count)
		ELSE format('first and last seen are %%s and %%s, the events give %%s and %%s',
			coalesce(audience.timestamp_text(p.first_seen), 'missing'), coalesce(audience.timestamp_text(p.last_seen), 'missing'),
			coalesce(audience.timestamp_text(s.first_seen), 'missing'), coalesce(audience.timestamp_text(s.last_seen), 'missing')) END
FROM profile p FULL JOIN seen s ON s.user_id = p.user_id
WHERE p.user_id IS NULL OR (p.first_seen, p.last_seen) IS DISTINCT FROM (s.first_seen, s.last_seen)
UNION ALL
SELECT 'profile', user_id, NULL, 'it has not been evaluated: there is no state'
FROM profile WHERE is_new
UNION ALL
SELECT 'trait', r.user_id, NULL, format('%%s is %%s, the events give %%s', %1$s,
	coalesce(s.vals ->> v.key, 'missing'), coalesce(r.vals ->> v.key, 'missing'))
FROM recomputed r LEFT JOIN stored s USING (user_id),
	jsonb_object_keys(r.vals || coalesce(s.vals, '{}')) v (key)
WHERE r.vals IS DISTINCT FROM s.vals AND r.vals -> v.key IS DISTINCT FROM s.vals -> v.key
UNION ALL
SELECT CASE s.type WHEN 'static' THEN 'static' ELSE 'membership' END, d.user_id, d.id,
	CASE WHEN d.is_member THEN 'is a member, but '
		WHEN d.should_be THEN 'is no member, but ' END ||
	CASE WHEN s.type = 'static' AND d.should_be THEN 'history has it'
		WHEN s.type = 'static' THEN 'history does not have it, or the segment is inactive'
		WHEN d.should_be THEN 'the rule holds'
		WHEN s.active THEN 'the rule does not hold'
		ELSE 'the segment is inactive' END
FROM wrong_member d JOIN audience.segments s ON s.id = d.id
UNION ALL
SELECT 'timer', coalesce(p.user_id, t.user_id), NULL, format('it is set to %%s, the profile has %%s',
	coalesce(audience.timestamp_text(t.due_at), 'nothing'), coalesce(audience.timestamp_text(p.due_at), 'nothing'))
FROM profile p FULL JOIN timer t USING (user_id)
WHERE p.due_at IS DISTINCT FROM t.due_at
UNION ALL
SELECT 'membership', user_id, NULL, 'the packed memberships are damaged'
FROM profile WHERE NOT audience.members_valid(members)
UNION ALL
SELECT 'orphan', l.user_id, NULL, format('row %%s of the history is about segment number %%s, which never was', l.seq, e.segment_number)
FROM audience.transition_log l CROSS JOIN LATERAL audience.transition_entries(l.entries) e
WHERE ($1 IS NULL OR l.user_id > $1) AND ($2 IS NULL OR l.user_id <= $2)
	AND NOT EXISTS (SELECT FROM audience.segment_numbers n WHERE n.number = e.segment_number)
UNION ALL
SELECT 'orphan', NULL, s.id, format('its number %%s is not among segment_numbers', s.number)
FROM audience.segments s
WHERE $1 IS NULL AND NOT EXISTS (SELECT FROM audience.segment_numbers n WHERE n.number = s.number AND n.segment_id = s.id)
UNION ALL
SELECT 'orphan', user_id, id,
	format('is a member of segment number %%s, which does not exist', segment_number)
FROM member WHERE id IS NULL
UNION ALL
SELECT 'transition', user_id, id, format('number %%s, "%%s", follows %%s', seq, action,
	coalesce('"' || before || '"', 'none'))
FROM transition, transition_complete WHERE action = coalesce(before, 'removed')
	-- those before it may have gone
	AND NOT (before IS NULL AND occurred_at <= complete_from)
UNION ALL
SELECT 'transition', coalesce(t.user_id, m.user_id), coalesce(t.id, m.id),
	CASE WHEN m.id IS NULL THEN format('the last one is number %%s, "added", but there is no membership', t.seq)
		WHEN t.id IS NULL THEN 'there is a membership, but no transition'
		WHEN t.action <> 'added' THEN format('there is a membership, but the last one is number %%s, "%%s"', t.seq, t.action)
		ELSE format('the membership was entered at %%s, the last one, number %%s, occurred at %%s',
			audience.timestamp_text(m.entered_at), t.seq, audience.timestamp_text(t.occurred_at)) END
FROM (SELECT * FROM transition WHERE is_last) t
	FULL JOIN (SELECT * FROM member WHERE status = 'ready') m ON m.user_id = t.user_id AND m.id = t.id
WHERE ((t.action = 'added') IS DISTINCT FROM (m.id IS NOT NULL) OR t.occurred_at <> m.entered_at)
$q$, names);
END
$$ LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION audience.verify_statement(boolean) IS
	'internal, for verify: the statement that lists the differences of a range of users, $1 < id <= $2, as of their last evaluation; or, moved, the changes since that no timer is due for';

-- Each range is seen under one snapshot, so that those who write meanwhile are
-- seen whole or not at all.  Nested loops are off: without statistics the
-- planner would take large sides of joins for small ones.
CREATE FUNCTION audience.verify(OUT problem text, OUT user_id text, OUT segment_id text, OUT detail text)
	RETURNS SETOF record
AS $$
#variable_conflict use_column
DECLARE
	chunk CONSTANT integer := 20000;
	statement text;
	moved_statement text;
	-- does anything look at the clock?
	timed boolean;
	lower_id text;
	upper_id text;
BEGIN
	PERFORM audience.definitions_lock_shared();
	statement := audience.verify_statement(false);
	moved_statement := audience.verify_statement(true);
	timed := EXISTS (
		SELECT FROM (SELECT s.rules::text FROM audience.segments s WHERE s.active
			UNION ALL SELECT a.definition::text FROM audience.aggregates a) d (definition)
		WHERE d.definition ~ '"(last|within|sequence|within_last|before_last|within_next|after_next)"');
	RETURN QUERY SELECT 'orphan', NULL::text, NULL::text,
			format('trait "%s" is kept by aggregate number %s, which does not exist', t.name, t.aggregate_number)
		FROM audience.traits t
		WHERE NOT EXISTS (SELECT FROM audience.aggregates a WHERE a.number = t.aggregate_number);
	LOOP
		-- the last range is open, and so holds users without a profile, too
		SELECT CASE WHEN count(*) = chunk THEN max(c.id) END INTO upper_id
		FROM (SELECT p.user_id FROM audience.profiles p
			WHERE p.user_id > coalesce(lower_id, '') ORDER BY p.user_id LIMIT chunk) c (id);
		RETURN QUERY EXECUTE statement USING lower_id, upper_id;
		-- what is wrong already would only be said twice
		IF timed AND NOT FOUND THEN
			RETURN QUERY EXECUTE moved_statement USING lower_id, upper_id;
		END IF;
		EXIT WHEN upper_id IS NULL;
		lower_id := upper_id;
	END LOOP;
END
$$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_nestloop = off SET jit = off;
COMMENT ON FUNCTION audience.verify() IS
	'recomputes everything from the events, each user as of its last evaluation, and lists every difference; none on a healthy database';
