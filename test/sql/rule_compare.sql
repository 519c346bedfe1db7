-- Equality, order, hashing, indexes and joins of rules.
SET search_path = audience, public;

SELECT a::rule = b::rule AS eq, a::rule <> b::rule AS ne, rule_hash(a::rule) = rule_hash(b::rule) AS hash,
	rule_hash_extended(a::rule, 42) = rule_hash_extended(b::rule, 42) AS hash_extended
FROM (VALUES
	('a > 1', '{"field":"a","op":">","value":1.00}'),
	('t within last ''24 hours''', '{"field":"t","operator":"within_last","value":86400}'),
	('count(e) >= 1', '{"event":"e"}'),
	('t before ''2026-01-01''', '{"field":"t","operator":"before","value":"2026-01-01T01:00:00+01:00"}'),
	('a = 1 or b = 2', '{"conditions":[{"field":"a","op":"==","value":1},{"expr":"b = 2"}],"logic":"OR"}'),
	('a = JSON ''{"x":1,"y":2.0}''', '{"field":"a","operator":"eq","value":{"y":2,"x":1.0}}'),
	('a = 1 and b = 2', 'b = 2 and a = 1'),
	('a = 1', 'all(a = 1)'),
	('count(e) >= 1', 'count((e)) >= 1'),
	('a = 1', 'a = ''1'''),
	('a."0" = 1', 'a.0 = 1')) t(a, b);

-- the order is that of the canonical form's bytes
CREATE TABLE rules (r rule);
INSERT INTO rules SELECT r::rule FROM unnest(ARRAY['true', 'b = 1', 'a = 1', 'a > 1', 'B = 1', 'not true', 'all()', 'a = 10', 'a = 1']) r;
SELECT r FROM rules ORDER BY r;
SELECT count(*) FROM rules a, rules b WHERE (a.r < b.r) <> (a.r::text COLLATE "C" < b.r::text COLLATE "C")
	OR (a.r <= b.r) <> (a.r::text COLLATE "C" <= b.r::text COLLATE "C")
	OR (a.r > b.r) <> (b.r < a.r) OR (a.r >= b.r) <> (b.r <= a.r)
	OR sign(rule_cmp(a.r, b.r)) <> -sign(rule_cmp(b.r, a.r));
SELECT DISTINCT r FROM rules ORDER BY r DESC LIMIT 2;
SELECT r, count(*) FROM rules GROUP BY r HAVING count(*) > 1;

-- joins of each kind
SET enable_nestloop = off; SET enable_mergejoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM rules a JOIN rules b USING (r);
SELECT count(*) FROM rules a JOIN rules b USING (r);
RESET enable_mergejoin; SET enable_hashjoin = off;
EXPLAIN (COSTS OFF) SELECT count(*) FROM rules a JOIN rules b USING (r);
SELECT count(*) FROM rules a JOIN rules b USING (r);
RESET ALL;
SET search_path = audience, public;

-- indexes
CREATE INDEX rules_btree ON rules (r);
CREATE INDEX rules_hash ON rules USING hash (r);
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM rules WHERE r = 'a = 1.0';
DROP INDEX rules_hash;
SELECT count(*) FROM rules WHERE r = 'a = 1.0';
RESET enable_seqscan; RESET enable_bitmapscan;
ALTER TABLE rules ADD CONSTRAINT one UNIQUE (r);
DELETE FROM rules WHERE ctid IN (SELECT max(ctid) FROM rules WHERE r = 'a = 1');
ALTER TABLE rules ADD CONSTRAINT one UNIQUE (r);
INSERT INTO rules VALUES ('{"field":"a","operator":"eq","value":1e0}');
CREATE TABLE parts (r rule) PARTITION BY HASH (r);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT r FROM rules;
SELECT count(*) FROM parts JOIN rules USING (r);
DROP TABLE rules, parts;

-- long rules are toasted and compressed
CREATE TABLE long (r rule);
INSERT INTO long SELECT (SELECT string_agg('a' || i || ' = ' || i, ' OR ') FROM generate_series(1, 5000) i)::rule;
SELECT pg_column_size(r) < 100000 AS compressed, length(r::text) FROM long;
SELECT r = r::text::rule, r = (r::text::rule)::text::rule FROM long;
DROP TABLE long;

-- the operator classes are whole
SELECT amname, opcname, opcdefault, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod
WHERE opcintype = 'audience.rule'::regtype ORDER BY 1;
