\echo Use "CREATE EXTENSION audience_manager" to load this file. \quit

-- Whoever can create something in the schema can give the engine, which runs as
-- the extension's owner, functions and operators of theirs to call: a name that
-- is qualified may still have several meanings.  So where the schema is there
-- already, as in a restore, it must be a superuser's, and so must all in it.
DO $$
DECLARE
	stranger text;
BEGIN
	SELECT CASE WHEN w.role OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN 'PUBLIC' ELSE pg_catalog.quote_ident(r.rolname) END INTO stranger
	FROM (
		SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'audience'
		UNION ALL
		SELECT a.grantee FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a
		WHERE n.nspname OPERATOR(pg_catalog.=) 'audience' AND a.privilege_type OPERATOR(pg_catalog.=) 'CREATE'
		UNION ALL
		SELECT o.owner FROM (
			SELECT p.pronamespace, p.proowner FROM pg_catalog.pg_proc p
			UNION ALL SELECT c.relnamespace, c.relowner FROM pg_catalog.pg_class c
			UNION ALL SELECT t.typnamespace, t.typowner FROM pg_catalog.pg_type t
			UNION ALL SELECT s.oprnamespace, s.oprowner FROM pg_catalog.pg_operator s) o (namespace, owner)
			JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) o.namespace
		WHERE n.nspname OPERATOR(pg_catalog.=) 'audience') w (role)
		LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) w.role
	WHERE r.rolsuper IS NOT TRUE
	LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "audience" is not safe from others' USING ERRCODE = '42501',
			DETAIL = pg_catalog.format('It, or something in it, belongs to %s, or %s may create objects in it.', stranger, stranger),
			HINT = 'Drop or rename the schema, or see to it that all in it is a superuser''s and that nobody else may create objects there.';
	END IF;
END
$$;

COMMENT ON SCHEMA audience IS 'audience_manager: events, traits, rules, segments and memberships';
