-- The operators |= and =| over jsonb and over rows, and rule_holds.

-- planner support

CREATE FUNCTION audience.jsonb_match_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'aud_jsonb_match_support'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.jsonb_match_support(internal) IS
    'planner support: index conditions, selectivity and cost of rules over jsonb';

CREATE FUNCTION audience.row_match_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'aud_row_match_support'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.row_match_support(internal) IS
    'planner support: conditions on columns and cost of rules over rows';

CREATE FUNCTION audience.row_recheck_support(internal) RETURNS internal
    AS 'MODULE_PATHNAME', 'aud_row_recheck_support'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.row_recheck_support(internal) IS
    'planner support: selectivity and cost of what remains of a rule over rows';

CREATE FUNCTION audience.match_sel(internal, oid, internal, integer) RETURNS float8
    AS 'MODULE_PATHNAME', 'aud_match_sel'
    LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.match_sel(internal, oid, internal, integer) IS
    'restriction selectivity of |= and =|';

CREATE FUNCTION audience.match_joinsel(internal, oid, internal, smallint, internal) RETURNS float8
    AS 'MODULE_PATHNAME', 'aud_match_joinsel'
    LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION audience.match_joinsel(internal, oid, internal, smallint, internal) IS
    'join selectivity of |= and =|';

-- jsonb

CREATE FUNCTION audience.jsonb_match(jsonb, audience.rule) RETURNS boolean
    AS 'MODULE_PATHNAME', 'aud_jsonb_match'
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    COST 5 SUPPORT audience.jsonb_match_support;
COMMENT ON FUNCTION audience.jsonb_match(jsonb, audience.rule) IS
    'implementation of |= operator';

CREATE FUNCTION audience.jsonb_match_commutator(audience.rule, jsonb) RETURNS boolean
    AS 'MODULE_PATHNAME', 'aud_jsonb_match_commutator'
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    COST 5 SUPPORT audience.jsonb_match_support;
COMMENT ON FUNCTION audience.jsonb_match_commutator(audience.rule, jsonb) IS
    'implementation of =| operator';

CREATE OPERATOR audience.|= (
    LEFTARG = jsonb, RIGHTARG = audience.rule,
    FUNCTION = audience.jsonb_match, COMMUTATOR = OPERATOR(audience.=|),
    RESTRICT = audience.match_sel, JOIN = audience.match_joinsel
);
COMMENT ON OPERATOR audience.|= (jsonb, audience.rule) IS 'rule holds for document';

CREATE OPERATOR audience.=| (
    LEFTARG = audience.rule, RIGHTARG = jsonb,
    FUNCTION = audience.jsonb_match_commutator, COMMUTATOR = OPERATOR(audience.|=),
    RESTRICT = audience.match_sel, JOIN = audience.match_joinsel
);
COMMENT ON OPERATOR audience.=| (audience.rule, jsonb) IS 'rule holds for document';

CREATE FUNCTION audience.rule_holds(jsonb, audience.rule) RETURNS boolean
    AS 'MODULE_PATHNAME', 'aud_rule_holds'
    LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
    COST 5 SUPPORT audience.jsonb_match_support;
COMMENT ON FUNCTION audience.rule_holds(jsonb, audience.rule) IS
    'rule holds for document; immutable, refuses rules that depend on time';

-- rows

CREATE FUNCTION audience.row_match(record, audience.rule) RETURNS boolean
    AS 'MODULE_PATHNAME', 'aud_row_match'
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    COST 10 SUPPORT audience.row_match_support;
COMMENT ON FUNCTION audience.row_match(record, audience.rule) IS
    'implementation of |= operator';

CREATE FUNCTION audience.row_match_commutator(audience.rule, record) RETURNS boolean
    AS 'MODULE_PATHNAME', 'aud_row_match_commutator'
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    COST 10 SUPPORT audience.row_match_support;
COMMENT ON FUNCTION audience.row_match_commutator(audience.rule, record) IS
    'implementation of =| operator';

CREATE FUNCTION audience.row_recheck(record, audience.rule) RETURNS boolean
    AS 'MODULE_PATHNAME', 'aud_row_match'
    LANGUAGE C STABLE STRICT PARALLEL SAFE
    COST 10 SUPPORT audience.row_recheck_support;
COMMENT ON FUNCTION audience.row_recheck(record, audience.rule) IS
    'what the planner leaves of row |= rule beside conditions on columns';

CREATE OPERATOR audience.|= (
    LEFTARG = record, RIGHTARG = audience.rule,
    FUNCTION = audience.row_match, COMMUTATOR = OPERATOR(audience.=|),
    RESTRICT = audience.match_sel, JOIN = audience.match_joinsel
);
COMMENT ON OPERATOR audience.|= (record, audience.rule) IS 'rule holds for row';

CREATE OPERATOR audience.=| (
    LEFTARG = audience.rule, RIGHTARG = record,
    FUNCTION = audience.row_match_commutator, COMMUTATOR = OPERATOR(audience.|=),
    RESTRICT = audience.match_sel, JOIN = audience.match_joinsel
);
COMMENT ON OPERATOR audience.=| (audience.rule, record) IS 'rule holds for row';
