-- Rules over rows: columns by name, then into the columns' values.
SET search_path = audience, public;
SET TimeZone = 'America/New_York';
SET audience.now = '2026-11-20T12:00:00Z';

CREATE TYPE address AS (city text, zip int, moved timestamptz, "Old" text[]);
CREATE DOMAIN score AS int CHECK (VALUE >= 0);
CREATE DOMAIN mark AS score;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE person (
    id bigint, "userId" text, dropped int, "Name" varchar(20), code char(5), tag name, small smallint, age int, points score, marks mark[],
    balance numeric, weight float8, height float4, vip boolean, born date, seen timestamptz, local timestamp, at time,
    doc jsonb, raw json, addr address, addrs address[], tags text[], grid int[], times timestamptz[], feeling mood, uid uuid, bytes bytea, span interval, nothing text);
ALTER TABLE person DROP COLUMN dropped;
INSERT INTO person VALUES (
    9007199254740993, 'u1', 'Ann', 'ab', 'nm', 7, 41, 3, ARRAY[1,2], 1000.990, 0.1, 1.5, true, '1985-02-03', '2026-11-20 11:00:00.5+00', '2026-11-20 11:00:00', '10:20:30',
    '{"plan":"pro","n":[1,2,{"x":5}],"0":"zero"}', '{"k":{"v":1}, "k2": "ü"}', ROW('Rome', 123, '2026-11-20 10:00:00+00', ARRAY['a','b'])::address, ARRAY[ROW('Oslo', 1, NULL, NULL)::address], ARRAY['x','y'], ARRAY[[1,2],[3,4]],
    ARRAY['2026-11-20 11:00:00+00'::timestamptz, NULL], 'happy', '6d1a4d5e-0000-4000-8000-000000000001', '\x0102', '1 day 02:00', NULL);
INSERT INTO person (id, weight, balance, height, seen, local, born, doc, tags) VALUES (2, 'NaN', 'NaN', 'Infinity', 'infinity', '-infinity', 'infinity', '5', '{}');
INSERT INTO person (id, doc, weight, balance) VALUES (3, 'null', -0.0, 'Infinity');

-- a column is what to_jsonb makes of it, timestamps in UTC
CREATE TEMP TABLE condition (n int, rule text);
INSERT INTO condition
SELECT n, c FROM unnest(ARRAY[
    'id = 9007199254740993', 'id = 9007199254740992', 'id = ''2''', 'id = 2', '"Name" = ''Ann''', 'name = ''Ann''', 'code = ''ab   ''', 'code = ''ab''', 'tag = ''nm''', 'small = 7', 'age BETWEEN 41 AND 41', 'points > 2', 'marks = 2',
    'balance = 1000.99', 'balance > 0', 'balance = ''NaN''', 'balance = ''Infinity''', 'weight = 0.1', 'weight = 0', 'weight = ''NaN''', 'height = 1.5', 'height = ''Infinity''', 'vip = true', 'vip IS NULL',
    'born = ''1985-02-03''', 'born AFTER ''1985-02-02''', 'born BEFORE ''1985-02-03''', 'born AT OR BEFORE ''1985-02-03''', 'seen = ''2026-11-20T11:00:00.5Z''', 'seen WITHIN LAST ''2 hours''', 'seen AFTER ''2026-11-20T11:00:00Z''', 'seen = ''infinity''', 'local = ''2026-11-20T11:00:00Z''', 'local BEFORE ''2026-11-20T11:00:01Z''', 'at = ''10:20:30''',
    'doc.plan = ''pro''', 'doc.n[-1].x = 5', 'doc.n = 2', 'doc.0 = ''zero''', 'doc = 5', 'doc IS NULL', 'doc.missing IS NULL', 'raw.k.v = 1', 'raw.k2 = ''ü''',
    'addr.city = ''Rome''', 'addr.zip < 200', 'addr.moved = ''2026-11-20T10:00:00Z''', 'addr."Old"[1] = ''b''', 'addrs[0].city = ''Oslo''', 'addrs[*].zip = 1', 'addrs[0].moved IS NULL', 'tags = ''y''', 'tags CONTAINS ALL (''x'',''y'')', 'tags IS EMPTY', 'grid[1][0] = 3', 'grid[*][*] = 4', 'times = ''2026-11-20T11:00:00Z''', 'times[1] IS NULL', 'times[0] AFTER ''2026-11-20T10:59:59Z''',
    'feeling = ''happy''', 'uid = ''6d1a4d5e-0000-4000-8000-000000000001''', 'bytes = ''\x0102''', 'span = ''1 day 02:00:00''', 'nothing IS NULL', 'nothing IS EMPTY', 'dropped IS NULL', 'ctid IS NULL', 'nowhere.x != 5', 'NOT EXISTS(person)', '"userId" STARTS WITH ''u''']) WITH ORDINALITY c(c, n);
CREATE FUNCTION pg_temp.matrix(OUT line text, OUT "condition" text) RETURNS SETOF record
LANGUAGE plpgsql AS $$
DECLARE
    c record;
    as_value text;
BEGIN
    FOR c IN SELECT * FROM condition ORDER BY n LOOP
        "condition" := c.rule;
        EXECUTE format('SELECT string_agg(CASE WHEN p |= %L THEN ''1'' ELSE ''.'' END, '''' ORDER BY id) FROM person p', c.rule)
            INTO line;
        SELECT string_agg(CASE WHEN r.rule =| p THEN '1' ELSE '.' END, '' ORDER BY id)
            INTO as_value FROM person p, (SELECT x.rule::audience.rule FROM condition x WHERE x.n = c.n) r;
        IF line <> as_value THEN
            RAISE WARNING 'constant % and value % differ for %', line, as_value, c.rule;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT id FROM person ORDER BY id;
SELECT * FROM pg_temp.matrix();

-- every column that is no timestamp is what to_jsonb makes of it
SELECT key, p |= format('{"field":%s,"operator":"eq","value":%s}', to_json('"' || key || '"'), value)::rule AS equal
FROM person p, jsonb_each(to_jsonb(p)) WHERE id = 9007199254740993 AND value <> 'null' AND key NOT IN ('seen', 'local', 'addr', 'addrs', 'times') ORDER BY key;

-- floats of all sizes are what to_jsonb makes of them
SELECT count(*) AS wrong
FROM (SELECT (1 + i / 997.0) * s * 10 ^ e AS a, ((1 + i / 997.0) * s * 10 ^ (e / 2))::float4 AS b, trunc(i * 10 ^ (e / 3 + 7))::float4 AS c FROM generate_series(0, 60) i, generate_series(-30, 30) e, unnest(ARRAY[-1.0::float8, 1]) s) f
WHERE NOT f |= format('{"all":[{"field":"a","operator":"eq","value":%s},{"field":"b","operator":"eq","value":%s},{"field":"c","operator":"eq","value":%s}]}', to_jsonb(a), to_jsonb(b), to_jsonb(c))::rule;

-- what the planner derives for floats and booleans loses no row, however short a float's text is
CREATE TABLE measured AS
SELECT (1 + i * 0.15) * s * 10 ^ e AS a, ((1 + i * 0.15) * s * 10 ^ (e / 2))::float4 AS b, i % 2 = 0 AS c
FROM generate_series(0, 59) i, unnest(ARRAY[-30, -5, -1, 0, 1, 2, 20]) e, unnest(ARRAY[-1.0::float8, 1]) s
UNION ALL VALUES ('NaN'::float8, 'NaN'::float4, NULL::boolean), ('Infinity', '-Infinity', true), ('-Infinity', 'Infinity', false), (0, -0.0, true), (NULL, NULL, NULL), (5e-324, 1e-45, false), (1.7e308, 3e38, true);
EXPLAIN (COSTS OFF) SELECT * FROM measured m WHERE m |= 'a > 1000 AND b <= -1.5 AND c = true';
DO $$
DECLARE
    digits int;
    condition text;
    direct bigint;
    through bigint;
    met bigint := 0;
BEGIN
    FOREACH digits IN ARRAY ARRAY[-15, -3, 0, 1, 3] LOOP
        PERFORM set_config('extra_float_digits', digits::text, false);
        FOR condition IN
            SELECT format('%s %s %s', x, o, v) FROM unnest(ARRAY['a', 'b']) x, unnest(ARRAY['=', '>', '>=', '<', '<=']) o,
                unnest(ARRAY[0, 1, -1, 2, -2, 9.55, 10, -10, 95, 0.1, -0.25, 1e20, -1e20, 1e-30, 2e300, 4e-324, -4e-324, 1e400, -1e400]) v
            UNION ALL
            SELECT format('%s BETWEEN 1 AND 2', x) FROM unnest(ARRAY['a', 'b']) x
            UNION ALL
            SELECT unnest(ARRAY['c = true', 'c = false', 'NOT c = true', 'a = ''NaN''', 'NOT a > 1', 'a > 1 OR c = true', 'a = true', 'c = 1'])
        LOOP
            EXECUTE format('SELECT count(*) FROM measured m WHERE m |= %L', condition) INTO direct;
            EXECUTE format('SELECT count(*) FROM measured m WHERE m |= ANY (ARRAY[%L::rule])', condition) INTO through;
            IF direct <> through THEN
                RAISE WARNING '%: % rows instead of % with extra_float_digits %', condition, direct, through, digits;
            END IF;
            met := met + direct;
        END LOOP;
    END LOOP;
    IF met < 10000 THEN
        RAISE WARNING 'only % rows', met;
    END IF;
END $$;
RESET extra_float_digits;

-- conditions that say all that the rule does take its place; a null column is no null result, a null row is
CREATE COLLATION audience_blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE fact (id int, small smallint, big bigint NOT NULL, name text, code varchar(5), mark char(3), sum numeric, yes boolean, blind text COLLATE audience_blind);
INSERT INTO fact
SELECT i, nullif(i % 5, 0), i * 1000000000000, nullif((ARRAY['', 'a', 'A', 'b', 'ä', 'zz'])[1 + i % 6], 'b'), nullif('c' || i % 4, 'c0'), nullif('m' || i % 3, 'm0'),
    CASE i % 7 WHEN 0 THEN NULL WHEN 1 THEN 'NaN' WHEN 2 THEN 'Infinity' WHEN 3 THEN '-Infinity' ELSE i + 0.50 END, nullif(i % 3, 0) = 1, nullif((ARRAY['a', 'A', 'b'])[1 + i % 3], 'b')
FROM generate_series(1, 40) i;
EXPLAIN (COSTS OFF) SELECT * FROM fact f WHERE f |= 'name = ''a'' AND (small BETWEEN 1 AND 3.5 OR sum IN (4.5, ''x'') OR code > ''c1'') AND yes = true';
EXPLAIN (COSTS OFF) SELECT * FROM fact f WHERE NOT f |= 'big > 5000000000000';
EXPLAIN (COSTS OFF) SELECT * FROM fact f WHERE f |= 'sum > 5 AND small = 1';
EXPLAIN (COSTS OFF) SELECT * FROM fact f WHERE f |= 'blind = ''a''';
-- null is as good as false to WHERE
EXPLAIN (COSTS OFF) SELECT id FROM fact f WHERE f |= 'name = ''a''';
EXPLAIN (COSTS OFF) UPDATE fact f SET small = 1 FROM generate_series(1, 2) n WHERE n = f.id AND f |= 'small = 2 OR code = ''c1'''  RETURNING id;
EXPLAIN (COSTS OFF) SELECT id FROM fact f WHERE f |= 'small = 1' OR id = 3;
EXPLAIN (COSTS OFF) SELECT f |= 'small = 1' FROM fact f WHERE f |= 'small = 1';
EXPLAIN (COSTS OFF) SELECT f.id FROM fact f JOIN fact g ON f |= 'small = 1' AND g.id = f.id;
WITH u AS (UPDATE fact f SET small = NULL WHERE f |= 'small = 1' RETURNING f |= 'small = 1' AS r, id) SELECT r, count(*) FROM u GROUP BY r;
UPDATE fact SET small = 1 WHERE id % 5 = 1;
SELECT f |= 'small = 1', count(*) FROM fact f WHERE f |= 'small = 1' GROUP BY GROUPING SETS ((f), ()) ORDER BY 2, 1;
EXPLAIN (COSTS OFF, VERBOSE) SELECT f |= 'small = 1' FROM (VALUES (1), (2)) v(n) LEFT JOIN fact f ON f.id = v.n;
DO $$
DECLARE
    form text;
    condition text;
    direct text;
    through text;
    seen text := '';
BEGIN
    FOREACH form IN ARRAY ARRAY[
        'SELECT string_agg(coalesce((f %1$s)::text, ''null'') || coalesce((NOT f %1$s)::text, ''null''), '' '' ORDER BY id) FROM fact f',
        'SELECT string_agg(coalesce((f %1$s)::text, ''null''), '' '' ORDER BY n) FROM generate_series(0, 41) v(n) LEFT JOIN fact f ON f.id = v.n',
        'SELECT coalesce(string_agg(id::text, '' '' ORDER BY id), ''none'') FROM fact f WHERE f %1$s',
        'SELECT coalesce(string_agg(id::text, '' '' ORDER BY id), ''none'') FROM fact f, generate_series(1, 2) n WHERE n = 2 AND (f %1$s) AND f.id > 3',
        'SELECT coalesce(string_agg(id::text, '' '' ORDER BY id), ''none'') FROM fact f WHERE f %1$s AND (NOT f %1$s) IS NOT TRUE',
        'SELECT coalesce(string_agg(n::text, '' '' ORDER BY n), ''none'') FROM generate_series(0, 41) v(n) LEFT JOIN fact f ON f.id = v.n WHERE NOT f %1$s']
    LOOP
        FOR condition IN
            SELECT format('%s %s %s', x, o, v) FROM unnest(ARRAY['small', 'big', 'sum']) x, unnest(ARRAY['=', '!=', '>', '>=', '<', '<=']) o, unnest(ARRAY['3', '3.0', '3.5', '-1', '4000000000000', '1e30', '''3''']) v
            UNION ALL
            SELECT format('%s %s %s', x, o, v) FROM unnest(ARRAY['name', 'code', 'mark', 'blind']) x, unnest(ARRAY['=', '>', '<=']) o, unnest(ARRAY['''''', '''a''', '''c2''', '''m1''', '''m1 ''', '3']) v
            UNION ALL
            SELECT unnest(ARRAY['small BETWEEN 2 AND 3', 'small BETWEEN 2 AND 1e30', 'small IN (1, 2.0, 2.5, ''3'')', 'sum BETWEEN 5 AND 20', 'sum IN (4.5, 5.5, ''NaN'')', 'name BETWEEN ''A'' AND ''a''', 'name IN (''a'', ''zz'', 1)', 'blind IN (''a'')', 'code IN ()',
                'yes = true', 'yes = false', 'yes = 1', 'yes = true AND small = 1', 'yes = true OR small = 2', 'yes = true OR sum > 5', 'ALL(ANY(small = 1, small = 2), ANY(name = ''a'', code = ''c1''))', 'NONE(small = 1)', 'name = ''a'' CI', 'nowhere = 1', 'nowhere = 1 OR small = 1', 'ANY()', 'ALL()'])
        LOOP
            EXECUTE format(form, format('|= %L', condition)) INTO direct;
            EXECUTE format(form, format('|= ANY (ARRAY[%L::rule])', condition)) INTO through;
            IF direct <> through THEN
                RAISE WARNING '% instead of % for % in %', direct, through, condition, form;
            END IF;
            IF form ~ 'agg' AND form ~ 'FROM fact f$' THEN
                seen := seen || direct;
            END IF;
        END LOOP;
    END LOOP;
    IF seen !~ 'true' OR seen !~ 'false' OR seen ~ 'null' THEN
        RAISE WARNING 'not all kinds of results, or null';
    END IF;
END $$;
DROP TABLE fact;
DROP COLLATION audience_blind;

-- rows of any kind
SELECT ROW(1, 'x') |= 'f1 = 1 AND f2 = ''x''' AS anonymous;
SELECT s |= 'a = 1 AND b = ''x''' AS subquery FROM (SELECT 1 AS a, 'x'::text AS b) s;
SELECT v |= 'column1 = 1' AS "values" FROM (VALUES (1), (2)) v;
SELECT a |= 'city = ''Rome''' AS composite FROM (SELECT (addr).* FROM person WHERE id > 3) a;
SELECT addr |= 'city = ''Rome''' AS "column" FROM person ORDER BY id;
SELECT r |= 'a = 1' AS function FROM jsonb_to_record('{"a":1}') r(a int);
CREATE VIEW grown AS SELECT id, "Name", age FROM person;
SELECT id, g |= 'age > 40' AS view FROM grown g ORDER BY id;
SELECT p.id, p |= 'age > 40' AS outer_join FROM (VALUES (1), (2)) v(n) LEFT JOIN person p ON p.id = v.n ORDER BY n;
SELECT p |= 'id = 2', q |= 'id = 3' FROM person p JOIN person q ON q.id = 3 WHERE p |= 'id = 2';
-- inheritance: the rows of a child have its columns
CREATE TABLE student (school text) INHERITS (person);
INSERT INTO student (id, age, school) VALUES (10, 20, 'mit');
SELECT id, tableoid::regclass FROM person p WHERE p |= 'id >= 3 AND id IN (3, 10)' ORDER BY id;
SELECT id FROM student s WHERE s |= 'school = ''mit'' AND age <= 20' ORDER BY id;
-- another row type at the same call
CREATE FUNCTION pg_temp.holds(r record, rule rule) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RETURN r |= rule; END $$;
SELECT pg_temp.holds(p, 'age > 40'), pg_temp.holds(ROW(1), 'f1 = 1'), pg_temp.holds(s, 'b = 2') FROM (SELECT * FROM person WHERE id = 2) p, (SELECT 1 AS a, 2 AS b) s;
-- the same call with another rule; rules in an array
SELECT r, pg_temp.holds(ROW(1, 'a'), r) AS rows FROM unnest(ARRAY['f1 = 1', 'f1 = 2', 'f2 = ''a''', 'f2 = ''A'' CI']::rule[]) r;
SELECT '{"a":1}'::jsonb |= ANY (ARRAY['a = 2', 'a = 1']::rule[]) AS any, '{"a":1}'::jsonb |= ALL (ARRAY['a = 1', 'a = 2']::rule[]) AS "all";
BEGIN;
SELECT pg_temp.holds(p, 'extra = 1') FROM person p WHERE id = 2;
ALTER TABLE person ADD extra int DEFAULT 1;
SELECT pg_temp.holds(p, 'extra = 1') FROM person p WHERE id = 2;
ROLLBACK;

-- samples, null, and what needs a profile
SELECT id, p |= 'SAMPLE(100, ''s'')' AS sampled FROM person p ORDER BY id;
SELECT u |= 'SAMPLE(100, ''s'')' AS user_id, n |= 'SAMPLE(100, ''s'')' AS number FROM (SELECT 'x' AS user_id) u, (SELECT 5 AS "userId") n;
SELECT NULL::person |= 'true' AS null_row, ROW(NULL)::record |= 'f1 IS NULL' AS row_of_null;
SELECT p |= 'count(purchase) > 1' FROM person p;
SELECT p |= 'IN SEGMENT ''vip''' FROM person p;
SELECT 5 |= 'true'::rule;

DROP VIEW grown;
DROP TABLE student, person;
DROP TYPE address, mood;
DROP DOMAIN mark, score;
