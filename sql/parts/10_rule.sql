-- The type audience.rule: input and output, casts, comparison.

CREATE TYPE audience.rule;

CREATE FUNCTION audience.rule_in(cstring) RETURNS audience.rule
	AS 'MODULE_PATHNAME', 'aud_rule_in'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION audience.rule_in(cstring) IS 'I/O';

CREATE FUNCTION audience.rule_out(audience.rule) RETURNS cstring
	AS 'MODULE_PATHNAME', 'aud_rule_out'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.rule_out(audience.rule) IS 'I/O';

CREATE FUNCTION audience.rule_recv(internal) RETURNS audience.rule
	AS 'MODULE_PATHNAME', 'aud_rule_recv'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION audience.rule_recv(internal) IS 'I/O';

CREATE FUNCTION audience.rule_send(audience.rule) RETURNS bytea
	AS 'MODULE_PATHNAME', 'aud_rule_send'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.rule_send(audience.rule) IS 'I/O';

CREATE TYPE audience.rule (
	INPUT = audience.rule_in,
	OUTPUT = audience.rule_out,
	RECEIVE = audience.rule_recv,
	SEND = audience.rule_send,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = double,
	STORAGE = extended
);
COMMENT ON TYPE audience.rule IS 'a condition over a profile and its events';

-- casts

CREATE FUNCTION audience.rule(jsonb) RETURNS audience.rule
	AS 'MODULE_PATHNAME', 'aud_rule_from_jsonb'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION audience.rule(jsonb) IS 'the rule that a JSON value describes';

CREATE FUNCTION audience.jsonb(audience.rule) RETURNS pg_catalog.jsonb
	AS 'MODULE_PATHNAME', 'aud_rule_to_jsonb'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.jsonb(audience.rule) IS 'the canonical JSON of a rule';

CREATE CAST (pg_catalog.jsonb AS audience.rule)
	WITH FUNCTION audience.rule(pg_catalog.jsonb) AS IMPLICIT;
COMMENT ON CAST (pg_catalog.jsonb AS audience.rule) IS 'the rule that a JSON value describes';

CREATE CAST (audience.rule AS pg_catalog.jsonb)
	WITH FUNCTION audience.jsonb(audience.rule) AS ASSIGNMENT;
COMMENT ON CAST (audience.rule AS pg_catalog.jsonb) IS 'the canonical JSON of a rule';

-- checking and printing

CREATE FUNCTION audience.rule_validate(rule text, OUT valid bool, OUT error text, OUT location text)
	AS 'MODULE_PATHNAME', 'aud_rule_validate_text'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION audience.rule_validate(text) IS 'whether a text is a rule, and if not, what is wrong and where';

CREATE FUNCTION audience.rule_validate(rule jsonb, OUT valid bool, OUT error text, OUT location text)
	AS 'MODULE_PATHNAME', 'aud_rule_validate_jsonb'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION audience.rule_validate(jsonb) IS 'whether a JSON value is a rule, and if not, what is wrong and where';

CREATE FUNCTION audience.rule_expression(rule audience.rule) RETURNS text
	AS 'MODULE_PATHNAME', 'aud_rule_expression'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_expression(audience.rule) IS 'the text form of a rule';

-- comparison, by the canonical JSON

CREATE FUNCTION audience.rule_eq(audience.rule, audience.rule) RETURNS bool
	AS 'MODULE_PATHNAME', 'aud_rule_eq'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_eq(audience.rule, audience.rule) IS 'implementation of = operator';

CREATE FUNCTION audience.rule_ne(audience.rule, audience.rule) RETURNS bool
	AS 'MODULE_PATHNAME', 'aud_rule_ne'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_ne(audience.rule, audience.rule) IS 'implementation of <> operator';

CREATE FUNCTION audience.rule_lt(audience.rule, audience.rule) RETURNS bool
	AS 'MODULE_PATHNAME', 'aud_rule_lt'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_lt(audience.rule, audience.rule) IS 'implementation of < operator';

CREATE FUNCTION audience.rule_le(audience.rule, audience.rule) RETURNS bool
	AS 'MODULE_PATHNAME', 'aud_rule_le'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_le(audience.rule, audience.rule) IS 'implementation of <= operator';

CREATE FUNCTION audience.rule_gt(audience.rule, audience.rule) RETURNS bool
	AS 'MODULE_PATHNAME', 'aud_rule_gt'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_gt(audience.rule, audience.rule) IS 'implementation of > operator';

CREATE FUNCTION audience.rule_ge(audience.rule, audience.rule) RETURNS bool
	AS 'MODULE_PATHNAME', 'aud_rule_ge'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_ge(audience.rule, audience.rule) IS 'implementation of >= operator';

CREATE FUNCTION audience.rule_cmp(audience.rule, audience.rule) RETURNS int
	AS 'MODULE_PATHNAME', 'aud_rule_cmp'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_cmp(audience.rule, audience.rule) IS 'less-equal-greater';

CREATE FUNCTION audience.rule_hash(audience.rule) RETURNS int
	AS 'MODULE_PATHNAME', 'aud_rule_hash'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_hash(audience.rule) IS 'hash';

CREATE FUNCTION audience.rule_hash_extended(audience.rule, bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'aud_rule_hash_extended'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.rule_hash_extended(audience.rule, bigint) IS 'hash';

CREATE OPERATOR audience.= (
	FUNCTION = audience.rule_eq,
	LEFTARG = audience.rule,
	RIGHTARG = audience.rule,
	COMMUTATOR = OPERATOR(audience.=),
	NEGATOR = OPERATOR(audience.<>),
	RESTRICT = eqsel,
	JOIN = eqjoinsel,
	HASHES,
	MERGES
);
COMMENT ON OPERATOR audience.= (audience.rule, audience.rule) IS 'equal';

CREATE OPERATOR audience.<> (
	FUNCTION = audience.rule_ne,
	LEFTARG = audience.rule,
	RIGHTARG = audience.rule,
	COMMUTATOR = OPERATOR(audience.<>),
	NEGATOR = OPERATOR(audience.=),
	RESTRICT = neqsel,
	JOIN = neqjoinsel
);
COMMENT ON OPERATOR audience.<> (audience.rule, audience.rule) IS 'not equal';

CREATE OPERATOR audience.< (
	FUNCTION = audience.rule_lt,
	LEFTARG = audience.rule,
	RIGHTARG = audience.rule,
	COMMUTATOR = OPERATOR(audience.>),
	NEGATOR = OPERATOR(audience.>=),
	RESTRICT = scalarltsel,
	JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR audience.< (audience.rule, audience.rule) IS 'less than';

CREATE OPERATOR audience.<= (
	FUNCTION = audience.rule_le,
	LEFTARG = audience.rule,
	RIGHTARG = audience.rule,
	COMMUTATOR = OPERATOR(audience.>=),
	NEGATOR = OPERATOR(audience.>),
	RESTRICT = scalarlesel,
	JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR audience.<= (audience.rule, audience.rule) IS 'less than or equal';

CREATE OPERATOR audience.> (
	FUNCTION = audience.rule_gt,
	LEFTARG = audience.rule,
	RIGHTARG = audience.rule,
	COMMUTATOR = OPERATOR(audience.<),
	NEGATOR = OPERATOR(audience.<=),
	RESTRICT = scalargtsel,
	JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR audience.> (audience.rule, audience.rule) IS 'greater than';

CREATE OPERATOR audience.>= (
	FUNCTION = audience.rule_ge,
	LEFTARG = audience.rule,
	RIGHTARG = audience.rule,
	COMMUTATOR = OPERATOR(audience.<=),
	NEGATOR = OPERATOR(audience.<),
	RESTRICT = scalargesel,
	JOIN = scalargejoinsel
);
COMMENT ON OPERATOR audience.>= (audience.rule, audience.rule) IS 'greater than or equal';

CREATE OPERATOR CLASS audience.rule_ops
	DEFAULT FOR TYPE audience.rule USING btree AS
	OPERATOR 1 audience.<,
	OPERATOR 2 audience.<=,
	OPERATOR 3 audience.=,
	OPERATOR 4 audience.>=,
	OPERATOR 5 audience.>,
	FUNCTION 1 audience.rule_cmp(audience.rule, audience.rule);
COMMENT ON OPERATOR CLASS audience.rule_ops USING btree IS 'rules by their canonical JSON';
COMMENT ON OPERATOR FAMILY audience.rule_ops USING btree IS 'rules by their canonical JSON';

CREATE OPERATOR CLASS audience.rule_ops
	DEFAULT FOR TYPE audience.rule USING hash AS
	OPERATOR 1 audience.=,
	FUNCTION 1 audience.rule_hash(audience.rule),
	FUNCTION 2 audience.rule_hash_extended(audience.rule, bigint);
COMMENT ON OPERATOR CLASS audience.rule_ops USING hash IS 'rules by their canonical JSON';
COMMENT ON OPERATOR FAMILY audience.rule_ops USING hash IS 'rules by their canonical JSON';
