-- The JSON form: what is understood, and its canonical output.
SET search_path = audience, public;

-- each kind of node
SELECT r::rule FROM (VALUES
	('{"conditions":[{"field":"totalSpent","operator":"gt","value":1000}]}'),
	('{"all":[true,false,{"any":[]},{"none":[{"not":true}]}]}'),
	('{"event":"purchase"}'),
	('{"event":["purchase","cart*"],"where":{"field":"amount","operator":"gt","value":50},"aggregate":"sum","property":"amount","operator":"gte","value":500,"window":{"last":"30 days"}}'),
	('{"sequence":[{"event":"signup"},{"event":"*","where":{"field":"$type","operator":"starts_with","value":"x"},"within":"1 day"},{"event":"purchase","absent":true,"within":3600}],"window":{"from":"2026-01-01","to":"2026-02-01T00:00:00+01"}}'),
	('{"segment":"vip"}'),
	('{"segment":"vip","operator":"not_in"}'),
	('{"sample":{"percent":12.50,"seed":"s"}}'),
	('{"expr":"a = 1 OR b = 2"}'),
	(' true '),
	(E'\n\tfalse')) t(r);

-- aliases
SELECT r::rule FROM (VALUES
	('{"and":[{"or":[]}]}'),
	('{"rules":[],"combinator":"OR"}'),
	('{"conditions":[],"logic":"Any"}'),
	('{"logic":"none","conditions":[]}'),
	('{"conditions":[],"operator":"AND"}'),
	('{"op":"or","conditions":[]}'),
	('{"all":[{"field":"a","op":"=","value":1},{"field":"a","op":"==","value":1},{"field":"a","operator":"equals","value":1}]}'),
	('{"all":[{"field":"a","op":"!=","value":1},{"field":"a","op":"<>","value":1}]}'),
	('{"all":[{"field":"a","op":">","value":1},{"field":"a","op":">=","value":1},{"field":"a","op":"<","value":1},{"field":"a","op":"<=","value":1}]}'),
	('{"field":"a","operator":"exists","value":false}'),
	('{"field":"a","operator":"exists","value":true}'),
	('{"field":"a","operator":"eq","value":null}'),
	('{"field":"a","operator":"neq","value":null}'),
	('{"field":"a","operator":"like","value":"x%","ci":true}'),
	('{"field":"a","operator":"not_regex","value":["x"],"ci":true}')) t(r);

-- structure stays: nothing is sorted, flattened, merged or dropped
SELECT '{"all":[{"all":[{"field":"b","operator":"exists"},{"field":"a","operator":"exists"},{"field":"a","operator":"exists"}]},{"not":{"not":true}}]}'::rule;

-- defaults are left out
SELECT r::rule FROM (VALUES
	('{"field":"a","operator":"eq","value":1,"ci":false}'),
	('{"field":"a","operator":"gt","value":1,"ci":false}'),
	('{"segment":"s","operator":"in"}'),
	('{"event":"e","aggregate":"count","operator":"gte","value":1.0}'),
	('{"event":"e","aggregate":"count"}'),
	('{"event":"e","operator":">","value":1}'),
	('{"event":["e"],"aggregate":"count","property":"p"}'),
	('{"sequence":[{"event":"e","absent":false}]}')) t(r);

-- numbers
SELECT v, ('{"field":"a","operator":"eq","value":' || v || '}')::rule::jsonb -> 'value'
FROM (VALUES ('1.0'), ('1e3'), ('1E+3'), ('-0'), ('-0.0e7'), ('0.10e1'), ('1.50'), ('100'), ('1e-7'),
	('9007199254740993'), ('0.1000000000000000000000000000000000000001'), ('[1.0, {"a": 2.50}]')) t(v);
SELECT length('{"field":"a","operator":"eq","value":1e400}'::rule::text);
SELECT length('{"field":"a","operator":"eq","value":1e131071}'::rule::text);
SELECT p, ('{"sample":{"seed":"","percent":' || p || '}}')::rule FROM (VALUES ('1e-7'), ('33.30'), ('1e2'), ('-0'), ('0.1')) t(p);

-- durations
SELECT d, ('{"field":"a","operator":"within_last","value":' || d || '}')::rule::jsonb ->> 'value'
FROM (VALUES ('"30 days"'), ('"24 hours"'), ('"36:00:00"'), ('"1.5 s"'), ('90'), ('0.000001'), ('"90 min"'), ('"PT36H"'),
	('"P2W"'), ('"1 12:00"'), ('"1 day -1 us"'), ('"2 weeks 1 day"'), ('"1d2h3m4s"'), ('"@ 10 Minutes"'), ('1e5'),
	('"0.5 days"'), ('"1500 ms"'), ('" 7  days "'), ('"+1 hour"'), ('"45"'), ('"36600000 days"'), ('"1 day, 2 hours"'), ('"-1 day -2 hours ago"')) t(d);
-- whatever intervalstyle is
SET intervalstyle = sql_standard;
SELECT '{"field":"a","operator":"within_last","value":"1 day 12:00:00"}'::rule;
RESET intervalstyle;

-- timestamps
SELECT t, ('{"field":"a","operator":"before","value":"' || t || '"}')::rule::jsonb ->> 'value'
FROM (VALUES ('2026-11-20'), ('2026-11-20 09:38'), ('2026-11-20T09:38:00.1234567+05:30'), ('2026-11-20T09:38:00.500Z')) t(t);
-- rounded as PostgreSQL rounds them: an event's time is its key, whichever way it comes
SELECT t FROM (
	SELECT '2026-11-20T09:38:00.' || CASE n % 3 WHEN 0 THEN lpad(n::text, 6, '0') || '5' WHEN 1 THEN lpad((n * 7919)::text, 9, '0')
		ELSE lpad((n * 31)::text, 6, '0') || '5' || repeat('0', n % 50) || '1' END || 'Z'
	FROM generate_series(1, 9999) n) f(t)
WHERE timestamp_text(t::timestamptz) <> ('{"field":"a","operator":"before","value":"' || t || '"}')::rule::jsonb ->> 'value';
SET timezone = 'Asia/Tokyo';
SELECT '{"field":"a","operator":"before","value":"2026-11-20"}'::rule;
RESET timezone;

-- paths
SELECT f, ('{"field":' || to_json(f) || ',"operator":"exists"}')::rule::jsonb ->> 'field'
FROM (VALUES ('a'), ('a.b'), ('"a.b"'), ('"a"."b"'), ('a[0].b[-1][*]'), ('a.0'), ('a."0"'), ('0'), ('a.007'), ('"a""b"'), ('first name'),
	('""'), ('a."".b'), ('$type'), ('$context.x'), ('a-b'), ('"[0]"'), ('ключ'), ('a.-1'), ('a.99999999999')) t(f);
-- in "where" some lead to the event; outside they are keys
SELECT '{"event":"e","property":"$type","where":{"all":[{"field":"$context.ip","operator":"exists"},{"field":"$type","operator":"exists"},
	{"field":"\"$type\"","operator":"exists"},{"field":"a.$type","operator":"exists"},{"field":"$typex","operator":"exists"},{"field":"$context","operator":"exists"}]}}'::rule;

-- the same from jsonb, and from a jsonb string in either form
SELECT '{"rules":[{"op":">","value":1e0,"field":"a"}]}'::jsonb::rule;
SELECT to_jsonb('a > 1'::text)::rule, to_jsonb('{"not":true}'::text)::rule, 'true'::jsonb::rule;
SELECT '{"field":"a","operator":"in","value":[1,"x",true,{"k":[null]},[]]}'::rule::jsonb;
CREATE TEMP TABLE t (r rule, j jsonb);
INSERT INTO t VALUES ('{"not":true}'::jsonb, '{"not":true}'::rule);
SELECT * FROM t;
SELECT 'a > 1'::text::rule, 'a > 1'::varchar::rule;

-- both forms, both types
SELECT * FROM rule_validate('a > 1');
SELECT * FROM rule_validate('{"field":"a","operator":"gt","value":1}'::jsonb);
SELECT * FROM rule_validate('"a > 1"'::jsonb);
SELECT * FROM rule_validate('"{\"not\": true}"'::jsonb);

-- the limits
SELECT length((repeat('{"not":', 63) || 'true' || repeat('}', 63))::rule::text);
SELECT jsonb_array_length(('{"all":[' || repeat('true,', 9999) || 'true]}')::rule::jsonb -> 'all');
SELECT length(('{"field":"a","operator":"eq","value":"' || repeat('x', 1048576 - 45) || '"}')::rule::text);
