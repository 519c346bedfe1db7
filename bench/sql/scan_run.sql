--
-- scan_run.sql: measures each spelling of each rule of scan.sql, :runs times by
-- turns after a round that only warms up.
--
CREATE TEMP TABLE measured AS
SELECT s.name, form, run, m.*
FROM generate_series(0, :runs) run, bench.scans s, LATERAL (VALUES
	('document scan', 'bench.documents WHERE doc IS NOT NULL'),
	('jsonpath', format('bench.documents WHERE doc @@ %L', path)),
	('document |= rule', format('bench.documents WHERE doc OPERATOR(audience.|=) %L', rule)),
	('row scan', 'bench.typed WHERE country IS NOT NULL'),
	('typed columns', 'bench.typed WHERE ' || condition),
	('row |= rule', format('bench.typed t WHERE t OPERATOR(audience.|=) %L', rule))
) forms (form, query), LATERAL bench.measure('SELECT count(*) FROM ' || query, true) m;

DO $$
BEGIN
	IF EXISTS (SELECT FROM measured WHERE form !~ 'scan' GROUP BY name HAVING min(answer) <> max(answer) OR min(answer) = 0) THEN
		RAISE EXCEPTION 'the spellings of a rule find different rows, or none';
	END IF;
END $$;
SELECT name, form, run, seconds * 1000, cpu * 1000 FROM measured WHERE run > 0 ORDER BY run, name;
