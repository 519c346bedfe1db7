-- What is not a rule, what is wrong with it, and where.
SET search_path = audience, public;

-- raised: message, detail, hint, SQLSTATE
\set SHOW_CONTEXT never
DO $$
DECLARE
	input text; state text; message text; detail text; hint text;
BEGIN
	FOREACH input IN ARRAY ARRAY[
		'{"conditions":[true,{"field":"a","operator":"nope","value":1}]}',
		'{}', 'a = ', '{"a": }', '{"any":[{"expr":"a = = 1"}]}',
		'{"field":"t","operator":"within_last","value":"1 month"}',
		'{"field":"t","operator":"after","value":"yesterday"}',
		repeat('{"not":', 64) || 'true' || repeat('}', 64),
		repeat('{"not":', 10000), repeat('{"not":', 100000), repeat('(', 10000), repeat('(', 100000), repeat('not ', 100000) || 'true',
		'{"field":"a","operator":"eq","value":' || repeat('[', 100000),
		'{"all":[' || repeat('true,', 10000) || 'true]}',
		'true' || repeat(' ', 1048576),
		'{"all":[' || repeat('{"field":"a","operator":"eq","value":1e131071},', 8) || 'true]}'] LOOP
		BEGIN
			PERFORM input::rule;
			RAISE NOTICE '% is a rule', left(input, 60);
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
				detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
			RAISE INFO '% | % | % | % | %', left(input, 60), state, message, detail, hint;
		END;
	END LOOP;
END $$;

-- JSON
CREATE TEMP TABLE bad (n int GENERATED ALWAYS AS IDENTITY, bad text);
INSERT INTO bad (bad) VALUES
	-- not JSON
	('{'), ('{"a"'), ('{"a":1,}'), ('{"a":1 "b":2}'), ('{"all":[1 2]}'), ('{"a":tru}'), ('{"é":"ü", x}'), ('{} {}'), ('{"a":"\u0000"}'),
	('{"a":"\ud800"}'), ('{"a":"\x"}'), ('{"a":"unterminated'), ('{"a":01}'), ('{1:2}'), ('{"a" 1}'),
	-- keys
	('{"all":[],"all":[]}'), ('{"all":[{"field":"a","operator":"eq","operator":"eq","value":1}]}'),
	('{"field":"a","operator":"eq","value":{"x":[{"k":1,"k":2}]}}'),
	('{"field":"a","operator":"eq","valu":1}'), ('{"foo":1}'), ('{"value":1,"operator":"eq"}'), ('{"field":"a","event":"b"}'),
	('{"all":[],"any":[]}'), ('{"conditions":[],"rules":[]}'), ('{"all":[],"logic":"any"}'), ('{"conditions":[],"logic":"any","operator":"any"}'),
	('{"not":true,"x":1}'), ('{"field":"a","op":"eq","operator":"eq","value":1}'), ('{"a/b~c":1}'), ('{"expr":"true","x":1}'),
	-- wrong types
	('{"all":{}}'), ('{"all":[1]}'), ('{"all":[[]]}'), ('{"all":[null]}'), ('{"not":[]}'), ('{"not":"a"}'), ('{"conditions":[],"logic":1}'),
	('{"conditions":[],"logic":"xor"}'), ('{"conditions":[],"logic":"not"}'), ('{"field":1,"operator":"exists"}'), ('{"field":"a","operator":1,"value":1}'),
	('{"expr":1}'), ('{"field":"a","operator":"eq","value":1,"ci":1}'), ('{"field":"a"}'), ('{"field":"a","operator":"eq"}'),
	-- paths
	('{"field":"","operator":"exists"}'), ('{"field":"a..b","operator":"exists"}'), ('{"field":".a","operator":"exists"}'), ('{"field":"a.","operator":"exists"}'),
	('{"field":"a[","operator":"exists"}'), ('{"field":"a[x]","operator":"exists"}'), ('{"field":"a[01]","operator":"exists"}'), ('{"field":"a]","operator":"exists"}'),
	('{"field":"[0]","operator":"exists"}'), ('{"field":"a.[0]","operator":"exists"}'), ('{"field":"a\"b","operator":"exists"}'), ('{"field":"\"a","operator":"exists"}'),
	('{"field":"\"a\"b","operator":"exists"}'), ('{"field":"a[0]b","operator":"exists"}'), ('{"field":"a[3000000000]","operator":"exists"}'),
	('{"event":"e","where":{"field":"$type.x","operator":"exists"}}'), ('{"event":"e","where":{"field":"$id[0]","operator":"exists"}}'),
	-- events
	('{"event":[]}'), ('{"event":""}'), ('{"event":["a",""]}'), ('{"event":1}'), ('{"event":["a",1]}'), ('{"event":null}'),
	('{"event":"e","aggregate":"median","operator":"gt","value":1}'), ('{"event":"e","aggregate":"sum","operator":"gt","value":1}'),
	('{"event":"e","aggregate":"sum","property":"p"}'), ('{"event":"e","aggregate":"days_active"}'), ('{"event":"e","value":1}'), ('{"event":"e","operator":"gt"}'),
	('{"event":"e","ci":true}'), ('{"event":"e","aggregate":1}'), ('{"event":"e","property":1}'), ('{"event":"e","field":"a"}'),
	('{"event":"e","where":{"event":"x"}}'), ('{"event":"e","where":{"all":[{"sequence":[{"event":"e"}]}]}}'), ('{"event":"e","where":{"segment":"x"}}'),
	('{"event":"e","where":{"not":{"sample":{"percent":1,"seed":"x"}}}}'), ('{"event":"e","where":{"expr":"a = 1 AND count(x) > 1"}}'), ('{"event":"e","where":1}'),
	-- windows
	('{"event":"e","window":{}}'), ('{"event":"e","window":"30 days"}'), ('{"event":"e","window":{"last":"30 days","from":"2026-01-01"}}'), ('{"event":"e","window":{"to":"2026-01-01"}}'),
	('{"event":"e","window":{"from":"2026-01-01","to":"2026-01-01"}}'), ('{"event":"e","window":{"from":"2026-01-02","to":"2026-01-01"}}'), ('{"event":"e","window":{"from":1}}'),
	('{"event":"e","window":{"since":"2026-01-01"}}'), ('{"event":"e","window":{"last":null}}'), ('{"event":"e","window":{"from":"2026-01-01","to":null}}'),
	-- sequences
	('{"sequence":[]}'), ('{"sequence":{}}'), ('{"sequence":["a"]}'), ('{"sequence":[{"where":true}]}'), ('{"sequence":[{"event":"a","absent":true}]}'),
	('{"sequence":[{"event":"a","within":1}]}'), ('{"sequence":[{"event":"a"},{"event":"b","absent":true,"within":1},{"event":"c"}]}'),
	('{"sequence":[{"event":"a"},{"event":"b","absent":true}]}'), ('{"sequence":[{"event":"a"},{"event":"b","absent":true},{"event":"c","absent":true,"within":1}]}'),
	('{"sequence":[{"event":"a"},{"event":"b","absent":1}]}'), ('{"sequence":[{"event":"a","operator":"gt"}]}'), ('{"sequence":[{"event":"a","where":{"segment":"x"}}]}'),
	-- segments, samples
	('{"segment":""}'), ('{"segment":1}'), ('{"segment":"a","operator":"eq"}'), ('{"segment":"a","value":1}'),
	('{"sample":{"percent":10}}'), ('{"sample":{"seed":"x"}}'), ('{"sample":{"percent":101,"seed":"x"}}'), ('{"sample":{"percent":-1e-9,"seed":"x"}}'),
	('{"sample":{"percent":"10","seed":"x"}}'), ('{"sample":{"percent":10,"seed":1}}'), ('{"sample":10}'), ('{"sample":{"percent":10,"seed":"x","salt":1}}'),
	-- expr: characters count, not bytes
	('{"any":[{"expr":"ключ = = 1"}]}'), ('{"expr":""}'), ('{"not":{"expr":"a > JSON ''{''"}}'), ('{"expr":"{\"not\":true}"}');
SELECT n, bad, location, error FROM bad, rule_validate(bad) ORDER BY n;
-- the same from jsonb, where it is JSON at all and has no duplicate keys
SELECT n, j.location, t.location FROM bad, rule_validate(bad) t, LATERAL (SELECT 1 WHERE t.location NOT LIKE 'character%' AND t.error NOT LIKE 'duplicate%') ok,
	rule_validate(bad::jsonb) j WHERE j.location IS DISTINCT FROM t.location;
SELECT * FROM rule_validate('[]'::jsonb);
SELECT * FROM rule_validate('null'::jsonb);
SELECT * FROM rule_validate('1'::jsonb);
SELECT * FROM rule_validate('"a >"'::jsonb);
SELECT '[1]'::jsonb::rule;

-- values of operators
SELECT op, v, e.location, e.error FROM (VALUES
	('gt', 'null'), ('gt', '[1]'), ('gt', '{}'), ('in', '1'), ('in', '[1,null]'), ('not_in', '{}'), ('contains', '[1]'), ('contains', 'null'), ('contains_any', '"x"'),
	('contains_none', '[null]'), ('between', '1'), ('between', '[1]'), ('between', '[1,2,3]'), ('between', '[2,1]'), ('between', '["b","a"]'), ('between', '["a","B"]'),
	('not_between', '[true,false]'), ('between', '[1,"2"]'), ('between', '[1,null]'), ('between', '[[1],[2]]'),
	('starts_with', '1'), ('ends_with', '["a",1]'), ('like', '"a\\"'), ('like', '"a\\\\"'), ('ilike', '["x","\\\\\\"]'), ('regex', '"("'), ('iregex', '["a","["]'), ('not_regex', '"a{2,1}"'), ('regex', '"\\"'), ('regex', '"*"'),
	('exists', '1'), ('not_exists', 'true'), ('is_empty', 'true'), ('not_empty', 'null'),
	('before', '"2026-13-01"'), ('before', '"now"'), ('before', '1'), ('after', '["2026-01-01"]'), ('at_or_after', '"infinity"'), ('at_or_before', 'null'),
	('within_last', '0'), ('within_last', '-5'), ('within_last', '1e-9'), ('within_last', '1e300'), ('within_last', '"0 days"'), ('within_last', '"-1 day"'), ('within_last', '"1 month"'),
	('before_last', '"1 year 2 days"'), ('within_next', '"P1M"'), ('after_next', '"P1Y2D"'), ('within_last', '"1 fortnight"'), ('within_last', '""'), ('within_last', '"days"'), ('within_last', '"2 hours ago"'), ('within_last', '"1 day ago 2 hours"'), ('within_last', '"1 day,, 2 hours"'), ('within_last', '"12:60"'),
	('within_last', '"1 2 days"'), ('within_last', '"P"'), ('within_last', '"PT"'), ('within_last', '"99999999999 days"'), ('within_last', '"99999999999999999999 s"'), ('within_last', 'true'), ('within_last', '"36600001 days"'),
	('semver_gt', '"1.2"'), ('semver_eq', '"v1.2.3"'), ('semver_lt', '"01.2.3"'), ('semver_neq', '1'), ('semver_lte', '["1.0.0"]'),
	('eq', '1e131072'), ('neq', '[{"a":1e-16384}]'),
	('EQ', '1'), ('', '1'), ('greater', '1')) t(op, v),
	LATERAL rule_validate('{"field":"x","operator":"' || op || '","value":' || v || '}') e;

-- ci
SELECT op, e.location, e.error FROM (VALUES
	('eq', '"x"'), ('not_in', '[]'), ('contains_all', '[]'), ('not_ends_with', '"x"'), ('like', '"x"'), ('not_regex', '"x"'),
	('gt', '"x"'), ('between', '["a","b"]'), ('ilike', '"x"'), ('not_iregex', '"x"'), ('before', '"2026-01-01"'), ('semver_eq', '"1.0.0"'), ('eq', 'null')) t(op, v),
	LATERAL rule_validate('{"field":"x","operator":"' || op || '","value":' || v || ',"ci":true}') e;

-- the text form
SELECT bad, e.location, e.error FROM (VALUES
	(''), ('   '), ('a'), ('a >'), ('a > b'), ('a = 1 AND'), ('a = 1 b = 2'), ('(a = 1'), ('a = 1)'), ('a = ''x'), ('"a = 1'), ('/* a = 1'), ('a = 1; b'), ('a & 1'), ('é = 1 &'),
	('AND a = 1'), ('a IN'), ('a IN 1'), ('a IN (1,)'), ('a = (1)'), ('a > NULL'), ('a IN (1, NULL)'), ('a BETWEEN 2 AND 1'), ('a BETWEEN 1 AND ''x'''), ('a LIKE 5'), ('a LIKE ''x\'''), ('a ~ ''('''),
	('a > 1 CI'), ('a ILIKE ''x'' CI'), ('a ~ ''x'' CI'), ('t BEFORE ''nope'''), ('t WITHIN LAST ''1 month'''), ('t WITHIN ''1 day'''), ('v SEMVER > ''1'''), ('a = JSON ''{'''), ('a = JSON ''{"k":1,"k":2}'''), ('a = JSON 1'), ('a = 01'), ('a = .5'), ('a = 1.'), ('a = 1x'),
	('a[x] = 1'), ('a[1.5] = 1'), ('[0] = 1'), ('a..b = 1'), ('a. = 1'), ('in = 1'), ('a.b.'), ('+1 = 1'),
	('median(e.p) > 1'), ('sum(e) > 1'), ('count(e)'), ('count(e) > ''x'' AND foo (x) > 1'), ('count(e.) > 1'), ('count(()) > 1'), ('count("") > 1'), ('count("a*") > 1'), ('count(a b) > 1'),
	('count(e, LAST ''1 month'') > 1'), ('count(e, LAST ''0 s'') > 1'), ('count(e, FROM ''2026-01-02'' TO ''2026-01-01'') > 1'), ('count(e, TO ''2026-01-01'') > 1'), ('count(e WHERE count(x) > 1) > 1'), ('count(e WHERE IN SEGMENT ''x'') > 1'), ('count(e WHERE $time.x = 1) > 1'),
	('SEQUENCE()'), ('SEQUENCE(NOT a, b)'), ('SEQUENCE(a WITHIN 5)'), ('SEQUENCE(a, NOT b)'), ('SEQUENCE(a, NOT b, NOT c WITHIN 5)'), ('SEQUENCE(a, NOT b WITHIN 5, c)'), ('SEQUENCE(a WHERE x = 1 OR y = 2)'),
	('SAMPLE(101, ''x'')'), ('SAMPLE(10)'), ('SAMPLE(''10'', ''x'')'), ('IN SEGMENT vip'), ('IN SEGMENT '''''), ('EXISTS(a = 1)'), ('EXISTS a'), ('ALL(a = 1,)'), ('NOT'), ('a NOT = 1'), ('a IS 1'),
	('[1]'), ('"x"'), ('1'), ('null'), ('TRUEx')) t(bad),
	LATERAL rule_validate(bad) e;

-- the form that rules are stored and sent in is limited as the input is
SELECT e.* FROM rule_validate('a IN (' || repeat('1e1000,', 1100) || '1)') e;
SELECT rule_expression(('{"field":"a","operator":"eq","value":"' || repeat('''', 600000) || '"}')::rule);
