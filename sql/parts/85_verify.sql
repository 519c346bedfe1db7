-- verify(): everything recomputed from the events, by SQL.
--
-- The engine folds events into states and evaluates compiled programs; here
-- each aggregate is a GROUP BY over the events, a sequence is a chain of
-- EXISTS, and a rule is an SQL condition, so that the two can disagree.  All
-- of it becomes one generated statement, which is run over one range of user
-- ids after the other: each range is looked at under one snapshot.
--
-- What the generated parts see of a user: attributes; vals, the values of all
-- aggregates by number; held, the segments the user must be in, as far as
-- they are decided; at, the instant of the last evaluation.  Of an event: the
-- columns of table events, and the user's at.

CREATE FUNCTION audience.verify_leaf(document jsonb, leaf audience.rule, at timestamptz) RETURNS boolean
AS 'MODULE_PATHNAME', 'aud_verify_leaf'
LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION audience.verify_leaf(jsonb, audience.rule, timestamptz) IS
	'internal, for verify: does the rule hold for the document at that instant?';

CREATE FUNCTION audience.verify_property(properties jsonb, definition audience.rule) RETURNS jsonb
AS 'MODULE_PATHNAME', 'aud_verify_property'
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5;
COMMENT ON FUNCTION audience.verify_property(jsonb, audience.rule) IS
	'internal, for verify: the value of an aggregate''s property; null where missing';

-- A leaf over a user.  A field's path is read as a leaf of its own, so its
-- first key says which document to look at; an aggregate's value is the field
-- of its number.
CREATE FUNCTION audience.verify_user_leaf(node jsonb) RETURNS text
AS $$
DECLARE
	path text := node ->> 'field';
	-- a quoted first key is neither a trait's nor userId
	key text := substring(path FROM '^[^."[]+');
	number integer;
BEGIN
	IF node ? 'segment' THEN
		RETURN format('%s(held @> ARRAY[%L]::text[])',
			CASE node ->> 'operator' WHEN 'not_in' THEN 'NOT ' END, node ->> 'segment');
	ELSIF node ? 'sample' THEN
		RETURN format('audience.verify_sample(user_id, %L)', node -> 'sample');
	ELSIF node ? 'sequence' THEN
		SELECT a.number INTO number FROM audience.aggregates a
		WHERE a.definition OPERATOR(audience.=) node::audience.rule;
		RETURN format('(vals -> %L = %L)', number, 'true');
	ELSIF node ? 'event' THEN
		SELECT a.number INTO number FROM audience.aggregates a
		WHERE a.definition OPERATOR(audience.=)
			(node - '{value,ci}'::text[] || '{"operator": "exists"}')::audience.rule;
		-- left out: the default test
		node := '{"operator": "gte", "value": 1}'::jsonb || node
			- CASE WHEN node ? 'operator' AND NOT node ? 'value' THEN '' END;
		RETURN NULL;
	END IF;
	RETURN NULL;
END
$$ LANGUAGE plpgsql STABLE STRICT SET search_path = pg_catalog, pg_temp;
