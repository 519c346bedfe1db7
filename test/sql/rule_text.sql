-- The text form: what it means, and that what is printed is read as the same.
SET search_path = audience, public;

CREATE TEMP TABLE said (n int GENERATED ALWAYS AS IDENTITY, said text);
INSERT INTO said (said) VALUES
	('totalSpent > 1000 AND category == ''electronics'''),
	('count(purchase WHERE amount > 50, LAST ''30 days'') >= 3'),
	('sum(purchase.amount, LAST ''90 days'') > 500'),
	-- groups
	('a = 1 AND b = 2 AND c = 3'),
	('(a = 1 AND b = 2) AND c = 3'),
	('a = 1 OR b = 2 AND c = 3 OR (d = 4 OR e = 5)'),
	('((a = 1))'),
	('ALL() OR ANY() OR NONE()'),
	('ALL(a = 1) AND ANY(b = 2) AND NONE(a = 1, b = 2 OR c = 3)'),
	('all(a = 1, b = 2)'),
	('any(a = 1 and b = 2, true)'),
	('NOT a = 1'),
	('NOT NOT (a = 1 OR b = 2)'),
	('NOT ALL(TRUE, FALSE)'),
	-- tests
	('a = 1 AND a == 1 AND a != 1 AND a <> 1 AND a < 1 AND a <= 1 AND a > 1 AND a >= 1'),
	('a = ''x'' CI AND a != ''X'' ci'),
	('a = NULL OR a != NULL OR a IS NULL OR a IS NOT NULL OR EXISTS(a.b[0])'),
	('a IS EMPTY OR a IS NOT EMPTY'),
	('a BETWEEN 1 AND 2 AND b NOT BETWEEN ''a'' AND ''b'' AND c = 1'),
	('a IN (1, ''x'', TRUE, JSON ''{"k": [1.0]}'') OR a NOT IN () OR a IN (''X'') CI'),
	('a CONTAINS 1 OR a NOT CONTAINS ''x'' CI OR a CONTAINS ANY (1) OR a CONTAINS ALL (1, 2) OR a CONTAINS NONE () CI'),
	('a LIKE ''x%'' OR a NOT LIKE (''x'', ''y'') OR a ILIKE ''x'' OR a LIKE ''x'' CI OR a NOT ILIKE ''x'''),
	('a STARTS WITH ''x'' OR a NOT STARTS WITH (''x'') CI OR a ENDS WITH ''x'' OR a NOT ENDS WITH ''x'''),
	('a ~ ''x'' OR a ~* ''x'' OR a !~ ''x'' OR a !~* (''x'', ''y'')'),
	('t BEFORE ''2026-01-01'' OR t AFTER ''2026-01-01'' OR t AT OR BEFORE ''2026-01-01'' OR t AT OR AFTER ''2026-01-01'''),
	('t WITHIN LAST ''30 days'' OR t BEFORE LAST 3600 OR t WITHIN NEXT ''1 hour'' OR t AFTER NEXT 0.5'),
	('v SEMVER = ''1.0.0'' OR v SEMVER != ''1.0.0'' OR v SEMVER > ''1.0.0'' OR v SEMVER >= ''1.0.0'' OR v SEMVER < ''1.0.0'' OR v SEMVER <= ''1.0.0'''),
	('a = JSON ''{"it''''s": [1, null]}'' OR a = JSON ''[]'' OR a = JSON ''5'' OR a = JSON ''"x"'' OR a = JSON ''null'''),
	('a = -1 OR a = +1.50 OR a = 1e3 OR a = -1E-2'),
	('a = ''it''''s \ "q"'''),
	-- events
	('count(*) >= 1'),
	('count() >= 1'),
	('count(purchase) = 0'),
	('count((purchase, cart*)) > 1'),
	('count((purchase)) > 1'),
	('avg("page view".seconds) > 1.5 AND max(p*.a.b[0]) < 3 AND min(*.a) IS NOT NULL AND sum((a, b).c) > 0'),
	('first(e.p) = ''x'' CI AND last(e.p) IN (''x'') AND count_distinct(e.p) > 1 AND most_frequent(e.p) = ''x'''),
	('days_active(*) >= 7 AND first_time(*) WITHIN LAST ''7 days'' AND last_time(e) BEFORE LAST ''14 days'''),
	('count(e WHERE a = 1 OR b = 2, FROM ''2026-01-01'' TO ''2026-02-01'') > 1'),
	('count(e, FROM ''2026-01-01'') > 1'),
	('count(WHERE a = 1) > 1 AND count(, LAST 60) > 1'),
	('count(e WHERE $type = ''x'' AND $context.ip = ''y'' AND "$type" = ''z'' AND $time WITHIN LAST 60 AND $id = ''i'') > 1'),
	-- sequences, segments, samples
	('SEQUENCE(signup, purchase WHERE amount > 1 WITHIN ''1 day'', NOT refund WITHIN ''7 days''; LAST ''30 days'')'),
	('SEQUENCE(a, NOT b WHERE (x = 1 OR y = 2), (c, d*))'),
	('SEQUENCE(a WHERE NOT x = 1; FROM ''2026-01-01'')'),
	('IN SEGMENT ''vip'' AND NOT IN SEGMENT ''bots'' AND NOT (IN SEGMENT ''x'') AND NOT NOT IN SEGMENT ''y'''),
	('SAMPLE(12.5, ''seed'')'),
	-- names
	('"a.b".c = 1 AND "it""s" = 1 AND a."b c"[0][-1][*].d = 1'),
	('count = 1 AND all = 2 AND last = 3 AND sequence.any = 4 AND exists.not.in = 5'),
	('"not" = 1 AND "In" = 1 AND "true" = 1 AND a.or = 1'),
	('contains contains ''x'' AND is is null AND within within last 5 AND in_ in (1) AND segment = 1 AND ci = ''x'' ci'),
	('a.0 = 1 AND a.0.1[2].-3 = 1 AND 0 = 1 AND 0.1 = 1 AND a."0" = 1 AND "0" = 1 AND -1.x = 1'),
	('sum(e.in) > 1 AND sum(e.0.x) > 1 AND sum("where"."$type") > 1 AND count((last, all, "or"*)) > 1'),
	('ключ = ''значение'' AND $x = 1 AND _y1 = 2'),
	-- blanks, comments, case
	(E'a=1--comment\nAnD/* more /* nested */ */b=2\tand\r\nc>-5'),
	('CoUnT /* here */ ( purchase ) > 1'),
	('tRuE OR FALSE');

SELECT n, said::rule FROM said ORDER BY n;
SELECT n, rule_expression(said::rule) FROM said ORDER BY n;
SELECT n FROM said WHERE rule_expression(said::rule)::rule IS DISTINCT FROM said::rule;
SELECT n FROM said WHERE jsonb_build_object('expr', said)::rule IS DISTINCT FROM said::rule;

-- what JSON can say and AND and OR cannot
CREATE TEMP TABLE shapes (n int GENERATED ALWAYS AS IDENTITY, r rule);
INSERT INTO shapes (r) VALUES
	('{"all":[]}'), ('{"any":[{"all":[]}]}'), ('{"all":[{"all":[true,false]},{"all":[true]}]}'),
	('{"any":[{"any":[true,false]},{"all":[true,false]}]}'), ('{"all":[{"any":[true,false]},{"all":[true,false]}]}'),
	('{"not":{"all":[true,false]}}'), ('{"not":{"segment":"a"}}'), ('{"not":{"segment":"a","operator":"not_in"}}'),
	('{"not":{"not":{"segment":"a"}}}'), ('{"none":[{"any":[true,false]}]}'), ('{"none":[]}'),
	('{"sequence":[{"event":["a"],"where":{"all":[true,false]}},{"event":"x y*","where":{"not":true},"within":1}]}'),
	('{"event":["and","a b*","*","or"],"where":{"any":[]}}'),
	('{"field":"and.or.\"[x\"","operator":"exists"}');
SELECT n, rule_expression(r), rule_expression(r)::rule = r AS same FROM shapes ORDER BY n;
