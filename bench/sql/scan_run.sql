--
-- scan_run.sql: measures each spelling of each rule of scan.sql, :runs times by
-- turns after a round that only warms up.
--
CREATE TEMP TABLE turns AS
SELECT row_number() OVER (ORDER BY run, s.name, n) AS turn, run, s.name, form, query
FROM generate_series(0, :runs) run, bench.scans s, LATERAL (VALUES
	(1, 'document scan', 'bench.documents WHERE doc IS NOT NULL'),
	(2, 'jsonpath', format('bench.documents WHERE doc @@ %L', path)),
	(3, 'document |= rule', format('bench.documents WHERE doc OPERATOR(audience.|=) %L', rule)),
	(4, 'row scan', 'bench.typed WHERE country IS NOT NULL'),
	(5, 'typed columns', 'bench.typed WHERE ' || condition),
	(6, 'row |= rule', format('bench.typed t WHERE t OPERATOR(audience.|=) %L', rule))
) forms (n, form, query);

CREATE TEMP TABLE measured (name text, form text, run int, seconds float8, cpu float8, answer bigint);
DO $$
DECLARE
	t turns;
BEGIN
	FOR t IN SELECT * FROM turns ORDER BY turn LOOP
		INSERT INTO measured
		SELECT t.name, t.form, t.run, m.* FROM bench.measure('SELECT count(*) FROM ' || t.query, true) m;
	END LOOP;
	IF EXISTS (SELECT FROM measured WHERE form !~ 'scan' GROUP BY name HAVING min(answer) <> max(answer) OR min(answer) = 0) THEN
		RAISE EXCEPTION 'the spellings of a rule find different rows, or none';
	END IF;
END $$;
SELECT name, form, run, seconds * 1000, cpu * 1000 FROM measured WHERE run > 0 ORDER BY run, name;
