-- Every operator against every kind of value.
--
-- A line of a matrix is a condition, a column of it a value: 1 where the
-- condition holds.  Each is evaluated twice, as a constant of the query and as
-- a value out of a table, and the two must agree.
SET search_path = audience, public;
SET audience.now = '2026-11-20T12:00:00Z';

CREATE TEMP TABLE value (n int PRIMARY KEY, doc jsonb);
CREATE TEMP TABLE condition (n int PRIMARY KEY, rule text);

CREATE FUNCTION pg_temp.matrix(OUT line text, OUT "condition" text) RETURNS SETOF record
LANGUAGE plpgsql AS $$
DECLARE
    c record;
    as_value text;
BEGIN
    FOR c IN SELECT * FROM condition ORDER BY n LOOP
        "condition" := c.rule;
        EXECUTE format('SELECT string_agg(CASE WHEN doc |= %L THEN ''1'' ELSE ''.'' END, '''' ORDER BY n) FROM value', c.rule)
            INTO line;
        SELECT string_agg(CASE WHEN v.doc |= r.rule THEN '1' ELSE '.' END, '' ORDER BY v.n)
            INTO as_value FROM value v, (SELECT x.rule::audience.rule FROM condition x WHERE x.n = c.n) r;
        IF line <> as_value THEN
            RAISE WARNING 'constant % and value % differ for %', line, as_value, c.rule;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;

INSERT INTO value
SELECT n, doc::jsonb
FROM unnest(ARRAY[
    '{}', '{"v":null}', '{"v":true}', '{"v":false}', '{"v":0}', '{"v":5}', '{"v":5.00}', '{"v":-1.5}',
    '{"v":""}', '{"v":"a"}', '{"v":"A"}', '{"v":"abc"}', '{"v":"5"}', '{"v":"true"}',
    '{"v":[]}', '{"v":["abc", 5, true]}', '{"v":[["abc"]]}', '{"v":[null, ""]}', '{"v":["A","B"]}',
    '{"v":{}}', '{"v":{"a":1}}', '{"v":[{"a":1}]}', '{"v":{"a":1.0, "b":["X"]}}']) WITH ORDINALITY v(doc, n);
SELECT n, doc->'v' AS value FROM value ORDER BY n;

INSERT INTO condition
SELECT n, format('{"field":"v",%s}', c)
FROM unnest(ARRAY[
    '"operator":"eq","value":5', '"operator":"neq","value":5',
    '"operator":"eq","value":true', '"operator":"neq","value":true',
    '"operator":"eq","value":"abc"', '"operator":"neq","value":"abc"',
    '"operator":"eq","value":"a"', '"operator":"eq","value":"a","ci":true', '"operator":"neq","value":"A","ci":true',
    '"operator":"eq","value":""',
    '"operator":"eq","value":null', '"operator":"neq","value":null',
    '"operator":"eq","value":{"a":1}', '"operator":"neq","value":{"a":1.0}', '"operator":"eq","value":{}',
    '"operator":"eq","value":{"b":["x"],"a":1}', '"operator":"eq","value":{"b":["x"],"a":1},"ci":true',
    '"operator":"gt","value":0', '"operator":"gte","value":5', '"operator":"lt","value":0', '"operator":"lte","value":0',
    '"operator":"gt","value":"A"', '"operator":"gte","value":"a"', '"operator":"lt","value":"a"', '"operator":"lte","value":"5"',
    '"operator":"gt","value":false', '"operator":"gte","value":false', '"operator":"lt","value":true', '"operator":"lte","value":false',
    '"operator":"between","value":[-2,0]', '"operator":"not_between","value":[-2,0]',
    '"operator":"between","value":["A","a"]', '"operator":"between","value":[false,true]',
    '"operator":"in","value":[]', '"operator":"not_in","value":[]',
    '"operator":"in","value":[0,"a",false]', '"operator":"not_in","value":[0,"a",false]',
    '"operator":"in","value":["ABC","a"],"ci":true',
    '"operator":"in","value":[5,true,"abc",1,2,3,4,"x","y",{"a":1},{}]', '"operator":"not_in","value":[5,true,"abc",1,2,3,4,"x","y",{"a":1},{}]',
    '"operator":"in","value":[5,true,"ABC",1,2,3,4,"x","y",{"a":1,"b":["x"]}],"ci":true',
    '"operator":"contains","value":"b"', '"operator":"not_contains","value":"b"', '"operator":"contains","value":"B","ci":true',
    '"operator":"contains","value":""', '"operator":"contains","value":5', '"operator":"contains","value":true',
    '"operator":"contains","value":{"a":1}',
    '"operator":"contains_any","value":["abc","zzz"]', '"operator":"contains_none","value":["abc","zzz"]', '"operator":"contains_any","value":["b","zzz"],"ci":true',
    '"operator":"contains_all","value":["abc",5]', '"operator":"contains_all","value":["b","a"],"ci":true', '"operator":"contains_all","value":[]', '"operator":"contains_any","value":[]', '"operator":"contains_none","value":[]',
    '"operator":"starts_with","value":"a"', '"operator":"not_starts_with","value":"a"', '"operator":"starts_with","value":["x","AB"],"ci":true', '"operator":"starts_with","value":""',
    '"operator":"ends_with","value":"c"', '"operator":"not_ends_with","value":"c"', '"operator":"ends_with","value":["BC","x"],"ci":true',
    '"operator":"like","value":"a%"', '"operator":"not_like","value":"a%"', '"operator":"like","value":["_","__c"]', '"operator":"ilike","value":"A%"', '"operator":"not_ilike","value":"A%"',
    '"operator":"regex","value":"^a"', '"operator":"not_regex","value":"^a"', '"operator":"regex","value":["^$","b.?$"]', '"operator":"iregex","value":"^A"', '"operator":"not_iregex","value":"^A"',
    '"operator":"exists"', '"operator":"not_exists"', '"operator":"is_empty"', '"operator":"not_empty"']) WITH ORDINALITY c(c, n);
SELECT * FROM pg_temp.matrix();

-- a negated operator is the negation of its twin
SELECT count(*) AS wrong
FROM (VALUES ('eq','neq','5'), ('eq','neq','{"a":1}'), ('eq','neq','"abc"'), ('between','not_between','[0,5]'), ('between','not_between','["a","b"]'),
             ('in','not_in','["abc",5]'), ('contains','not_contains','"b"'), ('contains','not_contains','5'),
             ('contains_any','contains_none','["abc"]'), ('starts_with','not_starts_with','"a"'), ('ends_with','not_ends_with','"c"'),
             ('like','not_like','"%b%"'), ('ilike','not_ilike','"%B%"'), ('regex','not_regex','"b"'), ('iregex','not_iregex','"B"'),
             ('semver_eq','semver_neq','"1.0.0"')) o(yes, no, arg), value v
WHERE (doc |= format('{"field":"v","operator":"%s","value":%s}', yes, arg)::rule) =
      (doc |= format('{"field":"v","operator":"%s","value":%s}', no, arg)::rule)
   OR (doc |= format('{"not":{"field":"v","operator":"%s","value":%s}}', yes, arg)::rule) <>
      (doc |= format('{"field":"v","operator":"%s","value":%s}', no, arg)::rule);

-- timestamps: what is one, and what only looks like it
TRUNCATE value, condition;
INSERT INTO value
SELECT n, jsonb_build_object('v', v)
FROM unnest(ARRAY[
    '2026-11-20T12:00:00Z', '2026-11-20T12:00:00.000001Z', '2026-11-20T11:59:59.999999Z', '2026-11-20 12:00', '2026-11-20', '2026-11-21',
    '2026-11-20T14:00:00+02', '2026-11-20T14:30:00+02:30', '2026-11-20T07:00:00-05:00', '2026-11-20T12:00:00.0000004Z', '2026-11-20T12:00:00.0000005Z',
    '2026-11-20T13:00:00Z', '2026-11-20T13:00:00.000001Z', '2026-11-19T12:00:00Z', '2026-11-19T12:00:00.000001Z', '2026-11-21T12:00:00Z', '2026-11-21T12:00:00.000001Z',
    '0001-01-01', '9999-12-31T23:59:59.999999Z', '2024-02-29', '2000-02-29',
    -- none of these
    '2026-11-20Z', '2026-11-20T12', '2026-11-20T12:00:60Z', '2026-11-20T24:00:00Z', '2026-02-29', '1900-02-29', '2026-13-01', '2026-00-01', '2026-01-32', '0000-01-01',
    '2026-11-20T12:00:00.Z', '2026-11-20T12:00:00z', '2026-11-20t12:00:00Z', '2026-11-20T12:00:00+2', '2026-11-20T12:00:00+02:60', '2026-11-20T12:00:00+16', '2026-11-20T12:00:00+0200',
    ' 2026-11-20', '2026-11-20 ', '2026-11-20T12:00:00ZZ', '2026-1-1', '20261120', '12026-11-20', 'infinity', 'now', '', '9999-12-31T23:59:59.9999999Z', '0001-01-01T00:00+00:01', '2026-11-20T12:00:00 Z']) WITH ORDINALITY v(v, n);
INSERT INTO value VALUES (51, '{"v":1795176000}'), (52, '{"v":["x","2026-11-20T12:00:00Z"]}'), (53, '{}'), (54, '{"v":null}'), (55, '{"v":{"a":1}}');
INSERT INTO condition
SELECT n, format('{"field":"v","operator":"%s","value":"%s"}', split_part(c, ' ', 1), substr(c, strpos(c, ' ') + 1))
FROM unnest(ARRAY['before 2026-11-20T12:00:00Z', 'at_or_before 2026-11-20T12:00:00Z', 'after 2026-11-20T12:00:00Z', 'at_or_after 2026-11-20T12:00:00Z',
    'within_last 1 day', 'before_last 1 day', 'within_next 1 day', 'after_next 1 day']) WITH ORDINALITY c(c, n);
SELECT * FROM pg_temp.matrix();
SELECT count(*) FROM value WHERE doc |= '{"any":[{"field":"v","operator":"before","value":"2026-11-20"},{"field":"v","operator":"at_or_after","value":"2026-11-20"}]}';
SET audience.max_future_skew = 0;
SELECT * FROM pg_temp.matrix() WHERE condition ~ 'within_last';
RESET audience.max_future_skew;
-- durations as long as they get
SELECT '{"v":"0001-01-01"}'::jsonb |= '{"field":"v","operator":"within_last","value":"36600000 days"}' AS within,
       '{"v":"9999-12-31"}'::jsonb |= '{"field":"v","operator":"within_next","value":"36600000 days"}' AS next,
       '{"v":"0001-01-01"}'::jsonb |= '{"field":"v","operator":"before_last","value":"36600000 days"}' AS before,
       '{"v":"9999-12-31"}'::jsonb |= '{"field":"v","operator":"after_next","value":"36600000 days"}' AS after;

-- versions
TRUNCATE value, condition;
INSERT INTO value
SELECT n, jsonb_build_object('v', v)
FROM unnest(ARRAY[
    '1.0.0-alpha', '1.0.0-alpha.1', '1.0.0-alpha.beta', '1.0.0-beta', '1.0.0-beta.2', '1.0.0-beta.11', '1.0.0-rc.1', '1.0.0', '1.0.0+build', '1.0.1', '1.2.0', '1.10.0', '2.0.0',
    '99999999999999999999.0.0', '1.0.0--', '1.0.0-0a', '1.0.0+01',
    '1.0', 'v1.0.0', '01.0.0', '1.0.0-01', '1.0.0-', '1.0.0+', '1.0.0-a..b', '1.0.0 ', '1.0.0.0', '', '1.0.0-é']) WITH ORDINALITY v(v, n);
INSERT INTO value VALUES (29, '{"v":1}'), (30, '{"v":["x","1.0.0"]}'), (31, '{}'), (32, '{"v":null}');
INSERT INTO condition
SELECT n, format('{"field":"v","operator":"semver_%s","value":"%s"}', split_part(c, ' ', 1), split_part(c, ' ', 2))
FROM unnest(ARRAY['eq 1.0.0', 'neq 1.0.0', 'gt 1.0.0', 'gte 1.0.0', 'lt 1.0.0', 'lte 1.0.0', 'gt 1.0.0-beta.2', 'lt 1.0.0-beta.2', 'eq 1.0.0-rc.1+x', 'gte 1.9.0']) WITH ORDINALITY c(c, n);
SELECT * FROM pg_temp.matrix();

-- numbers, exactly
TRUNCATE value, condition;
INSERT INTO value
SELECT n, format('{"v":%s}', v)::jsonb
FROM unnest(ARRAY['0', '-0', '0.0', '1e-30', '-1e-30', '1000', '1000.99', '1000.990', '9007199254740992', '9007199254740993', '-9007199254740993', '1e100', '1e200', '-1e200',
    '123456789012345678901234567890.5', '0.1', '0.10000000000000000000000001', '9999', '10000', '10001', '99990000']) WITH ORDINALITY v(v, n);
INSERT INTO condition
SELECT row_number() OVER (), format('{"field":"v","operator":"%s","value":%s}', op, x)
FROM unnest(ARRAY['0', '1000', '9007199254740992', '9007199254740993', '0.1', '1e200', '10000', '-1e-30']) x, unnest(ARRAY['eq', 'gt', 'lte']) op;
SELECT * FROM pg_temp.matrix();
-- as numeric orders, over pairs of all sizes
WITH n(x) AS (SELECT s * m * 10::numeric ^ e FROM unnest(ARRAY[-1, 1]) s, unnest(ARRAY[0, 1, 9.5, 123.456, 9999, 10000, 10000.0001, 99999999]) m, unnest(ARRAY[-300, -41, -4, -1, 0, 3, 5, 64, 300]) e)
SELECT count(*) AS pairs, count(*) FILTER (WHERE
    (jsonb_build_object('v', a.x) |= format('{"field":"v","operator":"gt","value":%s}', b.x)::rule) <> (a.x > b.x) OR
    (jsonb_build_object('v', a.x) |= format('{"field":"v","operator":"eq","value":%s}', b.x)::rule) <> (a.x = b.x)) AS wrong
FROM n a, n b;

-- text: patterns and escapes
TRUNCATE value, condition;
INSERT INTO value
SELECT n, jsonb_build_object('v', v)
FROM unnest(ARRAY['a%b', 'a_b', 'axxb', 'a\b', E'a\nb', 'aab', repeat('Ab', 200)]) WITH ORDINALITY v(v, n);
INSERT INTO condition
SELECT n, format('{"field":"v",%s}', c)
FROM unnest(ARRAY['"operator":"like","value":"___"', '"operator":"like","value":"a\\%b"', '"operator":"like","value":"a\\_b"', '"operator":"like","value":"a\\\\b"', '"operator":"like","value":"%a%b"',
    '"operator":"like","value":"%%_b"', '"operator":"like","value":""', '"operator":"like","value":"%"', '"operator":"like","value":"a%x%b%"',
    '"operator":"ilike","value":"abab%AB"', '"operator":"regex","value":"^a.b$"', '"operator":"regex","value":"^\\w+$"', '"operator":"regex","value":"(ab){200}"', '"operator":"iregex","value":"(ab){200}"',
    '"operator":"starts_with","value":"AB","ci":true', '"operator":"ends_with","value":["B","x"],"ci":true']) WITH ORDINALITY c(c, n);
SELECT * FROM pg_temp.matrix();
-- other letters than ASCII, folded as lower() does in this database's collation
WITH v(v) AS (SELECT unnest(ARRAY['ÄÖÜ', 'äöü', 'xäöüx', 'AÄ', 'aä', 'İI', 'ß', 'ΑΣ', 'ας', '日本', 'a', repeat('Ä', 300), repeat('Ab', 300)])),
     c(c) AS (SELECT unnest(ARRAY['ÄöÜ', 'äöü', 'aÄ', 'i', 'SS', 'ΑΣ', '日', 'A', '_', repeat('ä', 300), 'ö', '']))
SELECT count(*) AS pairs, count(*) FILTER (WHERE
    (doc |= jsonb_build_object('field', 'v', 'operator', 'eq', 'value', c, 'ci', true)::rule) <> (lower(v) = lower(c)) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'eq', 'value', c)::rule) <> (v = c) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'contains', 'value', c, 'ci', true)::rule) <> (strpos(lower(v), lower(c)) > 0) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'contains', 'value', c)::rule) <> (strpos(v, c) > 0) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'starts_with', 'value', c, 'ci', true)::rule) <> starts_with(lower(v), lower(c)) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'ends_with', 'value', c, 'ci', true)::rule) <> (right(lower(v), length(lower(c))) = lower(c)) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'like', 'value', '_' || c || '%')::rule) <> (v LIKE '_' || c || '%') OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'ilike', 'value', '%' || c || '_')::rule) <> (v ILIKE '%' || c || '_') OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'regex', 'value', '^\w' || c)::rule) <> (v ~ ('^\w' || c)) OR
    (doc |= jsonb_build_object('field', 'v', 'operator', 'iregex', 'value', c || '$')::rule) <> (v ~* (c || '$'))) AS wrong
FROM v, c, LATERAL (SELECT jsonb_build_object('v', v) AS doc) d;
-- a pattern and a text that PostgreSQL's own LIKE would run out of stack for
SELECT jsonb_build_object('v', repeat('ab', 100000) || 'a') |= jsonb_build_object('field', 'v', 'operator', 'like', 'value', repeat('%a', 100000) || 'c')::rule AS long_pattern;
-- as LIKE has it, over all short texts and patterns
WITH RECURSIVE s(x) AS (SELECT '' UNION ALL SELECT x || c FROM s, unnest(ARRAY['a', 'b']) c WHERE length(x) < 4),
     p(x) AS (SELECT '' UNION ALL SELECT x || c FROM p, unnest(ARRAY['a', 'b', '%', '_']) c WHERE length(x) < 4)
SELECT count(*) AS pairs, count(*) FILTER (WHERE (jsonb_build_object('v', s.x) |= r.r) <> (s.x LIKE p)) AS wrong
FROM s, (SELECT x AS p, jsonb_build_object('field', 'v', 'operator', 'like', 'value', x)::rule AS r FROM p) r;

-- paths
TRUNCATE value, condition;
INSERT INTO value
SELECT n, v::jsonb
FROM unnest(ARRAY['{"a":{"b":1}}', '{"a":[{"b":1},{"b":2}]}', '{"a":[1,2,3]}', '{"a":{"0":1}}', '{"a":{"-1":3}}', '{"a.b":1}', '{"a":[[1],[2,3]]}', '{"a":[]}', '{"a":null}', '{"a":[null]}', '{"a":1}', '[1]', '1', '"x"', '[{"a":1}]', '{"a":{"b":null}}']) WITH ORDINALITY v(v, n);
INSERT INTO condition
SELECT n, format('{"field":%s}', c)
FROM unnest(ARRAY['"a.b","operator":"eq","value":1', '"\"a.b\"","operator":"eq","value":1', '"a[0]","operator":"eq","value":1', '"a.0","operator":"eq","value":1', '"a[-1]","operator":"eq","value":3', '"a[9]","operator":"not_exists"',
    '"a[*]","operator":"eq","value":1', '"a[*]","operator":"neq","value":1', '"a[*].b","operator":"eq","value":2', '"a[*].b","operator":"neq","value":2', '"a[*]","operator":"exists"', '"a[*]","operator":"not_exists"', '"a[*]","operator":"is_empty"', '"a[*]","operator":"not_empty"',
    '"a[*][*]","operator":"gt","value":2', '"a[*]","operator":"gt","value":2', '"a[*].b","operator":"exists"', '"a","operator":"exists"', '"a","operator":"eq","value":[1,2,3]', '"a","operator":"eq","value":[[1],[2,3]]', '"a[0]","operator":"contains","value":1']) WITH ORDINALITY c(c, n);
SELECT n, doc FROM value ORDER BY n;
SELECT * FROM pg_temp.matrix();
-- many keys, long keys, many elements
SELECT count(*) FILTER (WHERE doc |= r.r) AS found, count(*) FILTER (WHERE doc |= n.r) AS not_found
FROM (SELECT jsonb_object_agg(repeat('k', i % 7) || i, i) AS doc FROM generate_series(1, 200) i) d,
     (SELECT format('{"field":"%s","operator":"eq","value":%s}', repeat('k', i % 7) || i, i)::rule AS r FROM generate_series(1, 200) i) r,
     (SELECT '{"field":"kkk","operator":"exists"}'::rule AS r) n;
SELECT count(*) AS found
FROM generate_series(1, 40) size, LATERAL (SELECT jsonb_object_agg('k' || i, i) || jsonb_build_object('a', jsonb_agg(i)) AS doc FROM generate_series(1, size) i) d,
     LATERAL (SELECT format('{"all":[{"field":"k%s","operator":"eq","value":%s},{"field":"a[%s]","operator":"eq","value":%s}]}', i, i, i - 1, i)::rule AS r FROM generate_series(1, size) i) r
WHERE doc |= r;

-- where keys are is learned from row to row: documents of one shape, of another, of none
CREATE TEMP TABLE shape (n int, doc jsonb);
INSERT INTO shape
SELECT i * 100 + n, d
FROM generate_series(1, 3) i, LATERAL (VALUES
    (1, '{"a":1,"key":1}'), (2, '{"a":1,"kex":2,"key":1}'), (3, '{"a":1,"kex":1}'), (4, '{"b":1,"key":"1"}'), (5, '{"key":1}'), (6, '{}'), (7, '{"":1}'),
    (8, '1'), (9, '"key"'), (10, 'null'), (11, '[]'), (12, '["key",1]'), (13, '[{"key":1}]'), (14, '{"key":[0,1]}'), (15, '{"key":[[1]]}'), (16, '{"key":{"key":1}}'),
    (17, '{"key":null}'), (18, '{"key":true}'), (19, '{"a":{"key":1},"key":1.00}'), (20, '{"a":[1],"key":1}'), (21, '{"a":[1,2,3],"kez":1}')) v(n, j),
    LATERAL (SELECT j::jsonb AS d) x;
-- of 1 to 70 pairs, all keys of one length; values of any; some compressed or out of line
INSERT INTO shape
SELECT 1000 + size, (SELECT jsonb_object_agg('k' || to_char(i, 'FM00'), CASE i % 4 WHEN 0 THEN to_jsonb(i) WHEN 1 THEN to_jsonb(repeat('x', i)) WHEN 2 THEN 'true' ELSE '[1]' END) FROM generate_series(1, size) i) || '{"key":1}'
FROM generate_series(1, 70) size;
INSERT INTO shape
SELECT 2000 + i, jsonb_build_object('a', repeat('x', i * 1000), 'key', i % 2) FROM generate_series(1, 12) i;
ALTER TABLE shape ALTER doc SET STORAGE EXTERNAL;
INSERT INTO shape
SELECT 3000 + i, jsonb_build_object('a', repeat('x', i * 1000), 'key', i % 2) FROM generate_series(1, 12) i;
CREATE FUNCTION pg_temp.shape_differs(condition text, expected text) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    differ bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM (SELECT doc FROM shape ORDER BY n) s WHERE (doc |= %L) IS DISTINCT FROM coalesce(%s, false)', condition, expected)
        INTO differ;
    RETURN differ;
END $$;
SELECT c AS condition, pg_temp.shape_differs(c, e) AS differ
FROM (VALUES
    ('{"field":"key","operator":"eq","value":1}', $$doc->'key' = '1' OR doc->'key' @> '[1]'$$),
    ('{"field":"key","operator":"neq","value":1}', $$NOT coalesce(doc->'key' = '1' OR doc->'key' @> '[1]', false)$$),
    ('{"field":"key","operator":"eq","value":"1"}', $$doc->'key' = '"1"'$$),
    ('{"field":"key","operator":"gt","value":0}', $$doc->'key' = '1' OR doc->'key' @> '[1]'$$),
    ('{"field":"key","operator":"exists"}', $$jsonb_typeof(doc->'key') <> 'null'$$),
    ('{"field":"key","operator":"is_empty"}', $$coalesce(doc->'key', 'null') = 'null'$$),
    ('{"field":"key.key","operator":"eq","value":1}', $$doc->'key'->'key' = '1'$$),
    ('{"field":"a.key","operator":"eq","value":1}', $$doc->'a'->'key' = '1'$$),
    ('{"field":"k40","operator":"eq","value":40}', $$doc->'k40' = '40'$$),
    ('{"field":"k29","operator":"eq","value":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}', $$doc->'k29' = to_jsonb(repeat('x', 29))$$),
    ('{"any":[{"field":"k03","operator":"eq","value":1},{"all":[{"field":"a","operator":"eq","value":1},{"field":"key","operator":"eq","value":1}]}]}',
     $$doc->'k03' = '[1]' OR ((doc->'a' = '1' OR doc->'a' @> '[1]') AND (doc->'key' = '1' OR doc->'key' @> '[1]'))$$)) v(c, e);

-- numbers of every size against each other, as numeric has them
CREATE TEMP TABLE number AS
SELECT s * m::numeric AS n
FROM unnest(ARRAY[-1, 1]) s,
     unnest(ARRAY['0', '0.00', '1', '1.0', '1.50', '2', '9999', '9999.0001', '10000', '10000.0001', '10001', '20000', '100000000', '100000001', '123456789.123456789', '123456789.1234567891',
                  '0.1', '0.0001', '0.00010001', '0.00001', '1e20', '1.00010001e20', '1e-20', '1e200', '1e-200', '1e600', '1.5e600', '1e-600', '1e100000']) m;
CREATE FUNCTION pg_temp.number_differs() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    differ bigint := 0;
    found bigint;
    c numeric;
BEGIN
    FOR c IN SELECT n FROM number LOOP
        EXECUTE format($q$SELECT count(*) FROM (SELECT n, to_jsonb(n) AS v, jsonb_build_object('v', n) AS doc FROM number) d
            WHERE (doc |= '{"field":"v","operator":"eq","value":%1$s}') <> (n = %1$s) OR (doc |= '{"field":"v","operator":"gt","value":%1$s}') <> (n > %1$s)
               OR (doc |= '{"field":"v","operator":"gte","value":%1$s}') <> (n >= %1$s) OR (doc |= '{"field":"v","operator":"lt","value":%1$s}') <> (n < %1$s)
               OR (doc |= '{"field":"v","operator":"lte","value":%1$s}') <> (n <= %1$s) OR (doc |= '{"field":"v","operator":"between","value":[%1$s,%1$s]}') <> (n = %1$s)$q$, c)
            INTO found;
        differ := differ + found;
    END LOOP;
    RETURN differ;
END $$;
SELECT count(*), pg_temp.number_differs() AS differ FROM number;
-- texts of every length about the sizes of words
SELECT count(*) AS texts, count(*) FILTER (WHERE (jsonb_build_object('v', a) |= format('{"field":"v","operator":"eq","value":"%s"}', b)::rule) <> (a = b)) AS differ
FROM (SELECT repeat('x', i) AS a, overlay(repeat('x', i) PLACING c FROM at) AS b
      FROM generate_series(1, 20) i, generate_series(1, 20) at, unnest(ARRAY['x', 'y']) c WHERE at <= i) t;

-- groups
SELECT r, '{"t":1}'::jsonb |= r::rule AS holds
FROM unnest(ARRAY['true', 'false', '{"all":[]}', '{"any":[]}', '{"none":[]}', '{"all":[true,false]}', '{"all":[true,true]}', '{"any":[false,true]}', '{"any":[false,false]}', '{"none":[false,true]}', '{"none":[false]}', '{"not":true}', '{"not":{"all":[]}}',
    '{"not":{"not":{"field":"t","operator":"eq","value":1}}}', '{"all":[{"field":"t","operator":"eq","value":1},{"any":[{"field":"x","operator":"exists"},{"none":[{"field":"y","operator":"exists"}]}]}]}']) r;

-- samples: first 8 bytes of sha256(seed || 0x00 || id) below percent/100 * 2^64
WITH u AS (SELECT 'user' || i AS id FROM generate_series(1, 1000) i),
     h AS (SELECT id, (('x' || encode(substr(sha256(convert_to('seed', 'UTF8') || '\x00' || convert_to(id, 'UTF8')), 1, 8), 'hex'))::bit(64)::bigint::numeric + 18446744073709551616) % 18446744073709551616 AS hash FROM u)
SELECT p, count(*) FILTER (WHERE sampled) AS sampled, count(*) FILTER (WHERE sampled <> (hash < p / 100 * 18446744073709551616)) AS wrong
FROM h, unnest(ARRAY[0, 0.5, 10, 50, 99.9, 100]) p,
     LATERAL (SELECT jsonb_build_object('userId', id) |= format('{"sample":{"percent":%s,"seed":"seed"}}', p)::rule AS sampled) s
GROUP BY p ORDER BY p;
SELECT doc, doc |= '{"sample":{"percent":100,"seed":"s"}}' AS sampled
FROM unnest(ARRAY['{}', '{"userId":"u"}', '{"user_id":"u"}', '{"userId":7}', '{"userId":null}', '{"userId":{}}', '[]', '"u"']::jsonb[]) doc;

-- commutator, null, functions
SELECT '{"field":"a","operator":"eq","value":1}'::rule =| '{"a":1}'::jsonb AS commuted, rule_holds('{"a":1}', '{"field":"a","operator":"eq","value":1}') AS function,
       NULL::jsonb |= 'true'::rule AS null_doc, '{}'::jsonb |= NULL::rule AS null_rule;

-- what needs a profile, or the time
SELECT '{}'::jsonb |= '{"any":[true,{"event":"purchase"}]}';
\echo :SQLSTATE
SELECT '{}'::jsonb |= '{"sequence":[{"event":"a"},{"event":"b"}]}';
\echo :SQLSTATE
SELECT '{}'::jsonb |= '{"all":[false,{"segment":"vip"}]}';
\echo :SQLSTATE
SELECT rule_holds('{}', '{"field":"a","operator":"within_last","value":"1 day"}');
\echo :SQLSTATE
SELECT rule_holds('{}', '{"event":"purchase"}');
\echo :SQLSTATE
SELECT rule_holds('{}', '{"segment":"vip"}');
\echo :SQLSTATE
SELECT doc |= r::rule FROM (VALUES ('{}'::jsonb, '{"event":"purchase"}')) v(doc, r);
\echo :SQLSTATE
SELECT rule_holds('{"a":"2026-01-01"}', '{"field":"a","operator":"before","value":"2026-11-20"}') AS fixed_time,
       rule_holds('{"userId":"u"}', '{"sample":{"percent":100,"seed":"s"}}') AS sample;

-- generated columns and expression indexes
CREATE TEMP TABLE customer (id int, doc jsonb, rich boolean GENERATED ALWAYS AS (audience.rule_holds(doc, '{"field":"spent","operator":"gt","value":100}')) STORED);
INSERT INTO customer VALUES (1, '{"spent":50}'), (2, '{"spent":500}'), (3, NULL);
SELECT id, rich FROM customer ORDER BY id;
