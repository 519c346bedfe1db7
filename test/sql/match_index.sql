-- Indexes under rules: that they are used, and that they lose nothing.
SET search_path = audience, public;

CREATE TABLE shopper (id int PRIMARY KEY, country text, plan varchar(10), code char(4), age int, spent numeric, born date, seen timestamptz, local timestamp, visits float8, doc jsonb);
INSERT INTO shopper
SELECT i, (ARRAY['DE','FR','IT','ES','PT','PL','NL','BE','AT','CH'])[1 + i % 10], 'p' || i % 200, 'c' || i % 300, i % 500, CASE i % 1000 WHEN 7 THEN 'NaN' ELSE (i % 2000) + 0.5 END,
       date '2000-01-01' + i % 3000, timestamptz '2026-01-01Z' + i * interval '1 minute', timestamp '2026-01-01' + i * interval '1 minute', i / 10.0,
       CASE i % 50
           WHEN 0 THEN jsonb_build_object('k', i % 400, 'tags', jsonb_build_array('t' || i % 300, i % 300), 'n', jsonb_build_object('x', i % 350))
           WHEN 1 THEN jsonb_build_object('k', jsonb_build_array(i % 400, 'x'), 'tags', 't' || i % 300, 'n', jsonb_build_array(jsonb_build_object('x', i % 350)))
           WHEN 2 THEN jsonb_build_object('k', null) || CASE i % 1000 WHEN 2 THEN jsonb_build_object('rare', i) ELSE '{}' END
           WHEN 3 THEN 'null'
           WHEN 4 THEN jsonb_build_array(jsonb_build_object('k', i % 400))
           ELSE jsonb_build_object('k', i % 400, 'tags', jsonb_build_array(), 'q"\', 'v' || i % 300, 'b', i % 100 = 5) END
FROM generate_series(1, 20000) i;
CREATE INDEX shopper_country ON shopper (country, age);
CREATE INDEX shopper_plan ON shopper (plan);
CREATE INDEX shopper_code ON shopper (code);
CREATE INDEX shopper_age ON shopper (age);
CREATE INDEX shopper_spent ON shopper (spent);
CREATE INDEX shopper_born ON shopper (born);
CREATE INDEX shopper_seen ON shopper (seen);
CREATE INDEX shopper_local ON shopper (local);
CREATE INDEX shopper_doc ON shopper USING gin (doc jsonb_path_ops);
ANALYZE shopper;

-- plans
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'k = 5';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE 'k IN (5, ''x'') AND b = true AND n.x > 5'::rule =| doc;
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= '"q""\" = ''v5'' OR tags CONTAINS ANY (''t9'', 4)';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE rule_holds(doc, 'n.x = 5');
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'plan = ''p5''';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'country = ''DE'' AND age IN (10, 20, 20.5, ''x'')';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE 'spent BETWEEN 10 AND 11'::rule =| s;
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'age > 497.5 AND plan != ''p1''';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'seen AFTER ''2026-01-14T20:00:00Z'' AND seen AT OR BEFORE ''2026-01-14T21:00:00Z''';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'doc.k = 5 AND country = ''FR''';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'plan = ''p5'' OR code = ''c7  ''';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'visits = 3';
-- nothing to be had from an index
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'NOT k = 5';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'k != 5 AND tags IS EMPTY';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'k = 5 OR k > 399';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'n.0 = 5';
EXPLAIN (COSTS OFF) SELECT * FROM shopper s WHERE s |= 'plan = ''P5'' CI';

-- with and without indexes the same
CREATE TEMP TABLE condition (n int, jsonb_rule boolean, rule text);
INSERT INTO condition
SELECT n, true, c FROM unnest(ARRAY[
    'k = 5', 'k = 51 AND k = ''x''', 'k IN (5, 51, 101)', 'k IN (5, ''x'')', 'tags = ''t50''', 'tags CONTAINS ''t50''', 'tags CONTAINS 50', 'tags CONTAINS ANY (''t50'', 51)', 'tags CONTAINS ALL (''t50'', 50)', 'tags CONTAINS ALL ()', 'tags CONTAINS NONE (''t50'')',
    'n.x = 50', 'n[0].x = 51', 'n[*].x = 51', 'n[-1].x IN (51, 101)', 'n.0.x = 51', '"q""\" = ''v5''', '"q""\" STARTS WITH ''v5''', 'b = true', 'b = false AND k = 7', 'k IS NULL', 'k IS NOT NULL', 'EXISTS(rare)', 'rare > 19000', 'k > 398', 'NOT k > 2', 'k != 5 AND k < 6',
    'k = 5 OR n.x = 50 OR tags = ''t9''', 'k = 5 OR k > 398', '(k = 5 OR k = 6) AND b = true', 'NONE(k != 5)', 'k = ''X'' CI', 'k = JSON ''[51, "x"]''', 'tags = JSON ''[]''', 'k BETWEEN 5 AND 5', 'tags LIKE ''t5_''', 'k IN ()', 'ANY()', 'ALL(k = 5, ANY())']) WITH ORDINALITY c(c, n);
INSERT INTO condition
SELECT n + 100, false, c FROM unnest(ARRAY[
    'country = ''DE'' AND age = 10', 'country IN (''DE'', ''XX'', 5) AND age < 20', 'country > ''PL''', 'country BETWEEN ''DE'' AND ''ES'' AND age >= 498', 'plan = ''p5''', 'plan IN (''p5'', ''p6'')', 'plan = 5', 'code = ''c7''', 'code = ''c7  ''', 'code IN (''c7  '', ''c8  '')',
    'age = 10', 'age = 10.5', 'age = 10.0', 'age > 497.5', 'age >= 497.5', 'age < 1.5', 'age <= 1.5', 'age > -1', 'age = 1e30', 'age < 1e30', 'age IN (10, 10.5, 99999999999999999999)', 'age IN (10.5)', 'age BETWEEN 1.5 AND 3.5', 'age = ''10''',
    'spent = 10.5', 'spent > 1990', 'spent < 3', 'spent IN (10.5, 11.5)', 'spent = ''NaN''', 'NOT spent > 5', 'visits = 3.5', 'visits > 1999',
    'born BEFORE ''2000-01-02''', 'born AT OR BEFORE ''2000-01-02''', 'born AFTER ''2008-03-18''', 'born AT OR AFTER ''2008-03-18''', 'born AFTER ''2008-03-17T12:00:00Z''', 'born = ''2000-01-05''',
    'seen AFTER ''2026-01-14T20:00:00Z''', 'seen BEFORE ''2026-01-01T00:05:00Z''', 'seen AT OR BEFORE ''2026-01-01T00:05:00Z''', 'local AT OR AFTER ''2026-01-14T21:00:00Z''', 'local BEFORE ''2026-01-01T01:05:00+01:00''', 'seen = ''2026-01-01T00:05:00Z''',
    'doc.k = 5', 'doc.k IN (5, ''x'') AND country = ''FR''', 'doc.n[*].x = 51', 'doc = JSON ''[{"k":4}]''', 'doc[0].k = 4', 'plan = ''p5'' OR code = ''c7  ''', 'plan = ''p5'' OR NOT code = ''c7  ''', 'NOT plan = ''p5''', 'plan != ''p5'' AND age = 3', 'NONE(plan = ''p5'') AND age = 5']) WITH ORDINALITY c(c, n);
CREATE FUNCTION pg_temp.compare(OUT matching bigint, OUT scanned boolean, OUT "condition" text) RETURNS SETOF record
LANGUAGE plpgsql AS $$
DECLARE
    c record;
    line text;
    expected bigint;
    with_index bigint;
BEGIN
    FOR c IN SELECT * FROM condition ORDER BY n LOOP
        "condition" := c.rule;
        -- the plain truth, the rule no constant
        EXECUTE format('SELECT count(*), sum(id) FROM shopper s, (SELECT %L::audience.rule AS r OFFSET 0) x WHERE %s |= r', c.rule, CASE WHEN c.jsonb_rule THEN 'doc' ELSE 's' END) INTO matching, expected;
        PERFORM set_config('enable_seqscan', 'off', true);
        EXECUTE format('SELECT sum(id) FROM shopper s WHERE %s |= %L', CASE WHEN c.jsonb_rule THEN 'doc' ELSE 's' END, c.rule) INTO with_index;
        scanned := true;
        FOR line IN EXECUTE format('EXPLAIN SELECT sum(id) FROM shopper s WHERE %s |= %L', CASE WHEN c.jsonb_rule THEN 'doc' ELSE 's' END, c.rule) LOOP
            IF line ~ 'Index' THEN scanned := false; END IF;
        END LOOP;
        PERFORM set_config('enable_seqscan', 'on', true);
        IF with_index IS DISTINCT FROM expected THEN
            RAISE WARNING 'index gives %, scan % for %', with_index, expected, c.rule;
        END IF;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT * FROM pg_temp.compare();

-- the same over jsonb_ops, which knows keys, too
DROP INDEX shopper_doc;
CREATE INDEX shopper_doc ON shopper USING gin (doc);
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'rare > 19000';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'EXISTS(rare)';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'rare > 19000 OR rarer STARTS WITH ''x''';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'k = 5';
EXPLAIN (COSTS OFF) SELECT * FROM shopper WHERE doc |= 'k > 5';
SELECT * FROM pg_temp.compare() WHERE condition !~ '(country|plan|code|age|spent|visits|born|seen|local) ';

-- other collations, domains, views, prepared statements
CREATE DOMAIN label AS text;
CREATE TABLE named (a text COLLATE "C", b label, c text COLLATE "POSIX");
INSERT INTO named SELECT 'a' || i, 'b' || i, 'c' || i FROM generate_series(1, 5000) i;
CREATE INDEX ON named (a);
CREATE INDEX ON named (b);
ANALYZE named;
EXPLAIN (COSTS OFF) SELECT * FROM named n WHERE n |= 'a > ''a4998''';
EXPLAIN (COSTS OFF) SELECT * FROM named n WHERE n |= 'b = ''b7''';
SELECT count(*) FILTER (WHERE n |= 'a > ''a4998''') AS scan, (SELECT count(*) FROM named n WHERE n |= 'a > ''a4998''') AS index FROM named n;
CREATE VIEW named_view AS SELECT a AS x, b AS y FROM named;
EXPLAIN (COSTS OFF) SELECT * FROM named_view v WHERE v |= 'y = ''b7''';
SELECT * FROM named_view v WHERE v |= 'y = ''b7''';
PREPARE by_rule (rule) AS SELECT b FROM named n WHERE n |= $1;
EXECUTE by_rule('b = ''b7''');
SET plan_cache_mode = force_generic_plan;
EXECUTE by_rule('b = ''b7''');
EXECUTE by_rule('b IN (''b8'', ''b9'')');
RESET plan_cache_mode;
UPDATE named n SET c = 'new' WHERE n |= 'b = ''b7''' RETURNING n |= 'c = ''new''' AS updated;
DELETE FROM named n WHERE n |= 'b = ''b7''';
SELECT count(*) FROM named;

-- estimates are of the right size
CREATE FUNCTION pg_temp.estimate(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan json;
    actual bigint;
    estimate bigint;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    estimate := (plan->0->'Plan'->>'Plan Rows')::float8;
    EXECUTE 'SELECT count(*) FROM (' || query || ') q' INTO actual;
    RETURN CASE WHEN estimate BETWEEN actual / 4.0 - 100 AND actual * 4.0 + 100 THEN 'good' ELSE format('estimate %s, actual %s', estimate, actual) END;
END $$;
SELECT rule, pg_temp.estimate(format('SELECT 1 FROM shopper WHERE doc |= %L', rule)) AS over_jsonb
FROM unnest(ARRAY['k > 200', 'k > 200 AND b = false', 'NOT k > 200', 'k IS NULL', 'EXISTS(k)', 'k < 40 OR k > 300']) rule;
SELECT rule, pg_temp.estimate(format('SELECT 1 FROM shopper s WHERE s |= %L', rule)) AS over_rows
FROM unnest(ARRAY['country = ''DE''', 'age > 250', 'NOT age > 50', 'country IN (''DE'', ''FR'') AND age < 250', 'country = ''DE'' OR age < 100', 'NONE(country = ''DE'', age < 100)', 'SAMPLE(20, ''s'')']) rule
WHERE rule !~ 'SAMPLE';

DROP VIEW named_view;
DROP TABLE shopper, named;
DROP DOMAIN label;
