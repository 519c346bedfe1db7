--
-- row |= rule above outer joins: conditions on columns of rows that may be null
-- as a whole, in places where the planner must know that they may be
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SET search_path = audience, public;
CREATE TEMPORARY TABLE a (id integer, flag boolean);
CREATE TEMPORARY TABLE t (id integer, x integer);
CREATE TEMPORARY TABLE u (id integer, y integer);
INSERT INTO a SELECT n, n % 7 = 0 FROM generate_series(1, 20) n;
INSERT INTO t SELECT n, n FROM generate_series(1, 10) n;
INSERT INTO u SELECT n, n FROM generate_series(5, 15) n;
-- each counts what the same condition on the column counts
SELECT count(*) FROM a LEFT JOIN t ON a.id = t.id WHERE a.flag OR t |= 'x > 3'::audience.rule;
SELECT count(*) FROM a LEFT JOIN t ON a.id = t.id WHERE a.flag OR t.x > 3;
SELECT count(*) FROM a LEFT JOIN t ON a.id = t.id LEFT JOIN u ON u.id = a.id WHERE u.y IS NULL OR t |= 'x > 3'::audience.rule;
SELECT count(*) FROM a LEFT JOIN t ON a.id = t.id LEFT JOIN u ON u.id = a.id WHERE u.y IS NULL OR t.x > 3;
SELECT count(*) FROM a LEFT JOIN t ON a.id = t.id LEFT JOIN u ON u.id = a.id WHERE u.y IS NULL OR NOT t |= 'x > 3'::audience.rule;
SELECT count(*) FROM a LEFT JOIN t ON a.id = t.id LEFT JOIN u ON u.id = a.id WHERE u.y IS NULL OR NOT t.x > 3;
SELECT count(*) FROM a FULL JOIN t ON a.id = t.id + 5 LEFT JOIN u ON u.id = a.id WHERE u.y IS NULL OR t |= 'x > 3'::audience.rule;
SELECT count(*) FROM a FULL JOIN t ON a.id = t.id + 5 LEFT JOIN u ON u.id = a.id WHERE u.y IS NULL OR t.x > 3;
SELECT count(*) FROM (SELECT a.id, t FROM a LEFT JOIN t ON a.id = t.id) s LEFT JOIN u ON u.id = s.id WHERE u.y IS NULL OR s.t |= 'x > 3'::audience.rule;
SELECT a.id, t |= 'x > 3'::audience.rule FROM a LEFT JOIN t ON a.id = t.id LEFT JOIN u ON u.id = a.id WHERE a.id IN (3, 4, 11) ORDER BY 1;
SELECT t |= 'x > 3'::audience.rule AS holds, count(*) FROM a LEFT JOIN t ON a.id = t.id LEFT JOIN u ON u.id = a.id GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM a LEFT JOIN LATERAL (SELECT t |= 'x > 3'::audience.rule AS holds FROM t WHERE t.id = a.id) s ON true LEFT JOIN u ON u.id = a.id WHERE s.holds;
