--
-- Limits of what a definition, a user or a statement may cost: each is refused
-- with an error that names its setting, and binds what is entered only
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
-- settings, their defaults and bounds, and who may set them
SELECT name, current_setting(name), min_val, max_val, unit, context FROM pg_settings
WHERE name ~ '^audience\.(max_|linear)' ORDER BY name COLLATE "C";
CREATE ROLE regress_limited;
SET ROLE regress_limited;
SET audience.max_rule_depth = 3;
SET audience.max_statement_events = 0;
RESET ROLE;
DROP ROLE regress_limited;
SELECT pg_temp.try('SET audience.max_rule_depth = 65'), pg_temp.try('SET audience.max_rule_conditions = 10001'), pg_temp.try('SET audience.max_rule_size = ''1025kB''');

-- each in turn: at the limit, and one above
CREATE FUNCTION pg_temp.both(limit_name text, value text, good audience.rule, bad audience.rule)
RETURNS TABLE (what text, result text) AS $$
BEGIN
	PERFORM set_config(limit_name, value, true);
	what := limit_name || ' = ' || value;
	result := pg_temp.try(format('SELECT audience.segment_create(''good'', %L)', good));
	RETURN NEXT;
	what := 'create';
	-- versions of PostgreSQL may count states differently
	result := regexp_replace(pg_temp.try(format('SELECT audience.segment_create(''bad'', %L)', bad)), 'is [0-9]+; ("audience.max_regex)', 'is N; \1');
	RETURN NEXT;
	what := 'later';
	result := split_part(pg_temp.try(format('SELECT audience.segment_create(''bad'', %L, refresh => ''later'')', bad)), E'\n', 1);
	RETURN NEXT;
	what := 'update';
	result := split_part(pg_temp.try(format('SELECT audience.segment_update(''good'', rules => %L)', bad)), E'\n', 1);
	RETURN NEXT;
	what := 'put';
	result := split_part(pg_temp.try(format('SELECT audience.segment_put(%L)', jsonb_build_object('name', 'good', 'rules', bad::jsonb))), E'\n', 1);
	RETURN NEXT;
	PERFORM audience.segment_delete('good');
	-- what a session asks for itself is not bound
	what := 'preview';
	result := pg_temp.try(format('SELECT audience.segment_preview(%L)', bad));
	RETURN NEXT;
	-- what is stored is not, either: it goes on, and can be changed in all else
	PERFORM set_config(limit_name, (SELECT s.boot_val FROM pg_settings s WHERE s.name = limit_name), true);
	PERFORM audience.segment_create('stored', bad);
	PERFORM set_config(limit_name, value, true);
	what := 'stored';
	result := concat_ws(', ',
		pg_temp.try('SELECT audience.segment_update(''stored'', name => ''renamed'')'),
		pg_temp.try(format('SELECT audience.segment_update(''stored'', rules => %L)', bad)),
		pg_temp.try('SELECT audience.segment_update(''stored'', active => false)'),
		pg_temp.try('SELECT audience.segment_update(''stored'', active => true)'),
		pg_temp.try('SELECT audience.events_ingest(''[{"userId":"u","eventType":"t"}]'')'),
		pg_temp.try('SELECT audience.profile_rebuild(''{u}'')'),
		(SELECT s.rules::text::audience.rule OPERATOR(audience.=) bad AND s.rules::jsonb::audience.rule OPERATOR(audience.=) bad AND (audience.rule_validate(s.rules::text)).valid
			FROM audience.segments s WHERE s.id = 'stored'));
	RETURN NEXT;
	PERFORM audience.segment_delete('stored');
END
$$ LANGUAGE plpgsql;
SELECT b.* FROM pg_temp.both('audience.max_rule_depth', '3', '{"all":[{"not":{"field":"a","operator":"exists"}}]}',
	'{"all":[{"not":{"not":{"field":"a","operator":"exists"}}}]}') b;
SELECT b.* FROM pg_temp.both('audience.max_rule_conditions', '2', 'a = 1 AND b = 2', 'a = 1 AND b = 2 AND c = 3') b;
SELECT b.* FROM pg_temp.both('audience.max_rule_size', '1kB', format('a = ''%s''', repeat('x', 1024 - 45))::audience.rule,
	format('a = ''%s''', repeat('x', 1024 - 44))::audience.rule) b;
SELECT b.* FROM pg_temp.both('audience.max_list_length', '3', 'a IN (1, 2, 3)', 'a IN (1, 2, 3, 4)') b;
SELECT b.* FROM pg_temp.both('audience.max_list_length', '3', 'count((a, b, c)) > 1', 'count((a, b, c, d)) > 1') b;
SELECT b.* FROM pg_temp.both('audience.max_sequence_steps', '2', 'SEQUENCE(a, b)', 'SEQUENCE(a, NOT x, b)') b;
SELECT b.* FROM pg_temp.both('audience.max_pattern_length', '5B', 'a LIKE ''%abc%''', 'a LIKE ''%abcd%''') b;
SELECT b.* FROM pg_temp.both('audience.max_pattern_length', '5B', 'a ~ ''abcde''', 'a ~ (''abc'', ''abcdef'')') b;
SELECT b.* FROM pg_temp.both('audience.max_pattern_length', '5B', 'a CONTAINS ''abcde'' AND b = ''abcdef''', 'count(t WHERE a CONTAINS ''abcdef'') > 1') b;
SELECT b.* FROM pg_temp.both('audience.max_regex_states', '20', 'a ~* ''^x{5}$''', 'a ~ ''^x{30}$''') b;
SELECT b.* FROM pg_temp.both('audience.linear_regex', 'on', 'a ~ ''(a|b)*\mc{2}$''', 'a ~ ''(a+)\1''') b;
SELECT b.* FROM pg_temp.both('audience.linear_regex', 'on', 'a ~ ''^a''', 'a ~ ''a(?!b)''') b;

-- numbers of definitions
SET audience.max_segments = 3;
SELECT pg_temp.try(format('SELECT audience.segment_create(%L, ''true'')', n)) FROM unnest(ARRAY['1', '2', '3', '4']) n;
SELECT pg_temp.try($$SELECT audience.segment_delete('1')$$), pg_temp.try($$SELECT audience.segment_put('{"name":"4","rules":true}')$$),
	pg_temp.try($$SELECT audience.segment_put('{"name":"5","type":"static"}')$$), pg_temp.try($$SELECT audience.segment_put('{"name":"4","rules":false}')$$);
RESET audience.max_segments;
SET audience.max_traits = 4;
SELECT pg_temp.try(format('SELECT audience.trait_create(%L, ''count'', ''x'')', n)) FROM unnest(ARRAY['t1', 't2']) n;
SELECT pg_temp.try($$SELECT audience.trait_drop('t1')$$), pg_temp.try($$SELECT audience.trait_create('t2', 'count', 'x')$$);
RESET audience.max_traits;
-- numbers of aggregates begin at 1000: below, a lower limit is not held exactly
SELECT count(*) FROM audience.aggregates \gset
SELECT set_config('audience.max_aggregates', (:count + 2)::text, false) IS NOT NULL;
SELECT pg_temp.try($$SELECT audience.segment_create('two more', 'count(m1) > 1 AND count(m2) > 2 AND count(m2) < 9')$$);
SELECT replace(pg_temp.try($$SELECT audience.segment_create('one more', 'count(m1) > 1 AND count(m3) > 2')$$), (:count + 2)::text, 'N');
SELECT replace(pg_temp.try($$SELECT audience.segment_update('two_more', rules => 'count(m1) > 1 AND count(m3) > 2')$$), (:count + 2)::text, 'N');
SELECT replace(pg_temp.try($$SELECT audience.trait_create('m3', 'count', 'm3')$$), (:count + 2)::text, 'N');
SELECT pg_temp.try($$SELECT audience.segment_create('the same', 'count(m1) > 5 AND count(m2) > 2')$$), pg_temp.try($$SELECT audience.trait_create('m2', 'count', 'm2')$$);
RESET audience.max_aggregates;
-- traits' filters; of a filter that is as deep as can be, the trait is one deeper
SET audience.max_rule_depth = 3;
SELECT pg_temp.try($$SELECT audience.trait_create('deep', 'count', 'x', filter => '{"not":{"field":"a","operator":"exists"}}')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('deeper', 'count', 'x', filter => '{"not":{"not":{"field":"a","operator":"exists"}}}')$$);
RESET audience.max_rule_depth;
SELECT pg_temp.try(format($$SELECT audience.trait_create('deepest', 'count', 'x', filter => %L)$$,
	(repeat('{"not":', 63) || 'true' || repeat('}', 63))::audience.rule));

-- attributes: may not grow beyond, but those that are larger can shrink
SET audience.max_attributes_size = '1kB';
SELECT left(pg_temp.try(format($$SELECT audience.profile_set('big', %L)$$, jsonb_build_object('a', repeat('x', 980)))), 20);
SELECT pg_temp.try(format($$SELECT audience.profile_set('big', %L)$$, jsonb_build_object('b', repeat('x', 980))));
SELECT pg_temp.try(format($$SELECT audience.profiles_set(%L)$$, jsonb_build_array(
	jsonb_build_object('userId', 'small', 'attributes', jsonb_build_object('b', 1)), jsonb_build_object('userId', 'big', 'attributes', jsonb_build_object('b', repeat('x', 980))))));
SELECT user_id, pg_column_size(attributes::text) > 900 AS full FROM audience.profiles WHERE user_id IN ('big', 'small');
RESET audience.max_attributes_size;
SELECT length(audience.profile_set('big', jsonb_build_object('b', repeat('x', 980)))::text), length(audience.profile_set('big2', jsonb_build_object('c', repeat('x', 980)))::text);
SET audience.max_attributes_size = '1kB';
SELECT pg_temp.try($$SELECT audience.profile_set('big', '{"c":1}')$$);
SELECT length(audience.profile_set('big', '{"a":null,"d":1}')::text);
SELECT pg_temp.try($$SELECT audience.profile_merge('big2', 'big')$$), pg_temp.try($$SELECT audience.events_ingest('[{"userId":"big","eventType":"t"}]')$$);
RESET audience.max_attributes_size;
SELECT audience.profile_merge('big2', 'big');

-- users of a call
SET audience.max_call_users = 2;
SELECT audience.segment_create('list', type => 'static');
SELECT pg_temp.try($$SELECT audience.segment_add('list', '{a,b}')$$), pg_temp.try($$SELECT audience.segment_add('list', '{a,b,c}')$$);
SELECT pg_temp.try($$SELECT audience.segment_remove('list', '{a,b,c}')$$), pg_temp.try($$SELECT audience.profile_rebuild('{a,b,c}')$$), pg_temp.try($$SELECT audience.profile_rebuild('{a,b}')$$);
SELECT pg_temp.try(format('SELECT audience.profiles_set(%L)', (SELECT jsonb_agg(jsonb_build_object('userId', i, 'attributes', jsonb_build_object())) FROM generate_series(1, n) i))) FROM unnest(ARRAY[2, 3]) n;
-- everyone is not a list
SELECT audience.profile_rebuild() > 2;
RESET audience.max_call_users;

-- events of a statement
SET audience.max_statement_events = 3;
SELECT pg_temp.try(format('SELECT audience.events_ingest(%L)', (SELECT jsonb_agg(jsonb_build_object('userId', 'e', 'eventType', 't')) FROM generate_series(1, n) i))) FROM unnest(ARRAY[3, 4]) n;
SELECT pg_temp.try(format('INSERT INTO audience.events (user_id, event_type) SELECT ''e'' || i, ''t'' FROM generate_series(1, %s) i', n)) FROM unnest(ARRAY[3, 4, 25000]) n;
COPY audience.events (user_id, event_type) FROM STDIN;
e	t
e	t
e	t
e	t
\.
RESET audience.max_statement_events;
SELECT count(*) FROM audience.events WHERE user_id LIKE 'e%';
-- and of one user in one
SET audience.max_user_events_size = '64kB';
SELECT pg_temp.try(format('INSERT INTO audience.events (user_id, event_type, properties) SELECT ''f'' || i %% %s, ''t'', jsonb_build_object(''p'', repeat(''x'', 1000)) FROM generate_series(1, 100) i', n)) FROM unnest(ARRAY[2, 1]) n;
RESET audience.max_user_events_size;
SELECT count(*) FROM audience.events WHERE user_id LIKE 'f%';
SELECT * FROM audience.verify();
