# Who may do what, and that nobody can make the engine do otherwise.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use Test::More;

my $node = start_node('privileges');

$node->safe_psql('postgres', <<'SQL');
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.event_ingest('{"userId":"ann","eventType":"purchase","eventId":"1","properties":{"amount":500}}');
CREATE ROLE plain LOGIN;
CREATE ROLE hostile LOGIN;
CREATE ROLE minimal LOGIN;
CREATE ROLE ingester LOGIN;
CREATE ROLE reader LOGIN;
CREATE ROLE administrator LOGIN;
CREATE SCHEMA evil AUTHORIZATION hostile;
SQL

# What a statement gives for a role: 'ok' or the SQLSTATE.
sub attempt
{
	my ($role, $sql) = @_;
	my ($status, $out, $error) = $node->psql('postgres',
		"\\set VERBOSITY sqlstate\n$sql;\n",
		extra_params => [ '-U', $role ]);
	return 'ok' if $status == 0;
	return $error =~ /(?:ERROR|FATAL):\s+([0-9A-Z]{5})/ ? $1 : $error;
}

#
# PUBLIC: nothing
#
is($node->safe_psql('postgres', <<'SQL'), '', 'PUBLIC has no privilege on the schema or a table, view, sequence in it');
SELECT n.nspname, c.relname, acl.privilege_type
FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f'),
	aclexplode(c.relacl) acl
WHERE n.nspname = 'audience' AND acl.grantee = 0
UNION ALL
SELECT nspname, NULL, acl.privilege_type
FROM pg_namespace, aclexplode(nspacl) acl
WHERE nspname = 'audience' AND acl.grantee = 0
SQL

my $public = $node->safe_psql('postgres', <<'SQL');
SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'audience' AND has_function_privilege('plain', p.oid, 'EXECUTE')
	AND p.proname ~ '^(segment|trait|event|events|profile|profiles|user|run|verify|grant|kafka)(_|$)'
SQL
is($public, '', 'PUBLIC may execute no function that reads or writes data');
note('PUBLIC may execute: ' . $node->safe_psql('postgres', <<'SQL'));
SELECT string_agg(DISTINCT p.proname, ' ' ORDER BY p.proname)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'audience' AND has_function_privilege('plain', p.oid, 'EXECUTE')
SQL
is(attempt('plain', 'SELECT * FROM audience.events'), '42501', 'plain: events');
is(attempt('plain', "SELECT audience.verify()"), '42501', 'plain: verify');
is(attempt('plain', "SELECT '{}'::jsonb OPERATOR(audience.|=) 'true'"), '42501', 'plain: not even the type');

# behind USAGE of the schema, the type is everybody's
$node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA audience TO plain, hostile, minimal');
is(attempt('plain', $_), 'ok', "plain, with USAGE: $_")
  foreach (
	"SELECT '{\"a\":1}'::jsonb OPERATOR(audience.|=) 'a = 1'::audience.rule",
	"SELECT 'a = 1'::audience.rule OPERATOR(audience.=|) '{\"a\":1}'::jsonb",
	"SELECT r OPERATOR(audience.|=) 'a = 1'::audience.rule FROM (SELECT 1 AS a) r",
	"SELECT audience.rule_holds('{\"a\":1}', 'a = 1')",
	"SELECT audience.rule_validate('a = ')",
	"SELECT audience.rule_validate('{}'::jsonb)",
	"SELECT audience.rule_expression('a = 1')",
	"SELECT 'a = 1'::audience.rule::jsonb",
	"SELECT '{\"field\":\"a\",\"operator\":\"eq\",\"value\":1}'::jsonb::audience.rule",
	"SELECT 'a = 1'::audience.rule OPERATOR(audience.=) 'a = 1'::audience.rule",
	"SELECT r FROM (VALUES ('a = 1'::audience.rule), ('b = 1')) v(r) WHERE false GROUP BY r ORDER BY r");
is(attempt('plain', $_), '42501', "plain, with USAGE: $_")
  foreach (
	'SELECT * FROM audience.events', 'SELECT * FROM audience.profiles',
	'SELECT * FROM audience.memberships', 'SELECT * FROM audience.transitions',
	'SELECT * FROM audience.transition_log', 'SELECT * FROM audience.segment_numbers',
	'SELECT * FROM audience.segments', 'SELECT * FROM audience.traits',
	"INSERT INTO audience.events (user_id, event_type) VALUES ('u', 't')",
	"SELECT audience.event_ingest('{}')", "SELECT audience.events_ingest('[]')",
	"SELECT audience.profile_set('u', '{}')", "SELECT audience.profiles_set('[]')",
	"SELECT audience.profile_get('u')",
	"SELECT audience.profile_erase('u')", "SELECT audience.profile_merge('u', 'v')",
	"SELECT audience.profile_rebuild()", "SELECT audience.user_segments('u')",
	"SELECT audience.segment_create('x', 'true')", "SELECT audience.segment_put('{}')",
	"SELECT audience.segment_update('x', name => 'y')", "SELECT audience.segment_delete('x')",
	"SELECT audience.segment_dependents('x')", "SELECT audience.segment_get('x')",
	"SELECT audience.segment_members('x')", "SELECT audience.segment_count('x')",
	"SELECT audience.segment_add('x', '{}')", "SELECT audience.segment_remove('x', '{}')",
	"SELECT audience.segment_preview('true')", "SELECT audience.segment_diff('x', 'true')",
	"SELECT audience.segment_members_at('x', now())", "SELECT audience.segment_explain('x', 'u')",
	"SELECT audience.rule_explain('true', 'u')", "SELECT audience.rule_score('true', 'u')",
	"SELECT audience.trait_create('x', 'count')", "SELECT audience.trait_drop('x')",
	"SELECT audience.verify()", "SELECT audience.grant_access('plain', 'admin')");

#
# a role with INSERT on events and SELECT on memberships needs nothing more
#
$node->safe_psql('postgres', 'GRANT INSERT ON audience.events TO minimal; GRANT SELECT ON audience.memberships TO minimal');
is(attempt('minimal', "INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('min', '1', 'purchase', '{\"amount\":101}')"),
	'ok', 'minimal: INSERT');
is(attempt('minimal', "COPY audience.events (user_id, event_id, event_type, properties) FROM STDIN;\nmin\t2\tpurchase\t{\"amount\":101}\n\\.\nSELECT 1"),
	'ok', 'minimal: COPY');
is($node->safe_psql('postgres', "SELECT segment_id FROM audience.memberships WHERE user_id = 'min'", extra_params => [ '-U', 'minimal' ]),
	'spenders', 'minimal: sees the membership');
is(attempt('minimal', $_), '42501', "minimal: $_")
  foreach ('SELECT * FROM audience.events', 'SELECT * FROM audience.profiles',
	'SELECT * FROM audience.transitions', 'SELECT * FROM audience.transition_log',
	"UPDATE audience.profiles SET members = NULL", "SELECT audience.segment_count('spenders')");
is(attempt('minimal', $_), '55000', "minimal: $_")
  foreach ('DELETE FROM audience.memberships', "INSERT INTO audience.memberships VALUES ('spenders', 'min')");
is(attempt('minimal', "INSERT INTO audience.events (user_id, event_type) VALUES ('min', 'x') RETURNING user_id"),
	'42501', 'minimal: RETURNING reads');

#
# hostile objects where the caller can put them
#
$node->safe_psql('postgres', <<'SQL');
GRANT INSERT ON audience.events TO hostile;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA audience TO hostile;
GRANT SELECT ON ALL TABLES IN SCHEMA audience TO hostile;
CREATE TABLE public.stolen (what text);
GRANT INSERT ON public.stolen TO hostile;
GRANT CREATE ON SCHEMA public TO hostile;
SQL
my $hostile = <<'SQL';
SET client_min_messages = warning;
-- says so when somebody else than its owner runs it
CREATE FUNCTION evil.caught(what text) RETURNS bool LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'hostile' THEN
		RAISE EXCEPTION 'caught: % as %', what, current_user;
	END IF;
	RAISE EXCEPTION 'used: %', what;
END $$;
CREATE FUNCTION evil.texteq(text, text) RETURNS bool LANGUAGE sql AS $$ SELECT evil.caught('texteq') $$;
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.texteq);
CREATE FUNCTION evil.tsge(timestamptz, timestamptz) RETURNS bool LANGUAGE sql AS $$ SELECT evil.caught('timestamptz') $$;
CREATE OPERATOR evil.>= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.tsge);
CREATE OPERATOR evil.> (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.tsge);
CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.tsge);
CREATE OPERATOR evil.= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.tsge);
CREATE FUNCTION evil.anyeq(text, text[]) RETURNS bool LANGUAGE sql AS $$ SELECT evil.caught('array') $$;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.caught('now')::text::timestamptz $$;
CREATE FUNCTION evil.now(text) RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.caught('now')::text::timestamptz $$;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.caught('clock')::text::timestamptz $$;
CREATE FUNCTION evil.unnest(text[]) RETURNS SETOF text LANGUAGE sql AS $$ SELECT evil.caught('unnest')::text $$;
CREATE FUNCTION evil.nextval(regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT evil.caught('nextval')::int::bigint $$;
CREATE FUNCTION evil.jsonb_array_elements(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT to_jsonb(evil.caught('elements')) $$;
CREATE FUNCTION evil.to_jsonb(text) RETURNS jsonb LANGUAGE sql AS $$ SELECT evil.caught('to_jsonb')::text::jsonb $$;
CREATE FUNCTION evil.count(text) RETURNS bigint LANGUAGE sql AS $$ SELECT evil.caught('count')::int::bigint $$;
CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid LANGUAGE sql AS $$ SELECT evil.caught('uuid')::text::uuid $$;
CREATE FUNCTION evil.segment_get(text) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(evil.caught('segment_get')) $$;
CREATE TABLE evil.profiles (user_id text);
CREATE TABLE evil.memberships (segment_id text, user_id text);
CREATE TABLE evil.transitions (seq bigint);
CREATE TABLE evil.segments (id text);
CREATE TABLE evil.events (user_id text);
CREATE DOMAIN evil.rule AS text CHECK (false);
CREATE TYPE evil.jsonb AS (a int);
CREATE TEMPORARY TABLE events (user_id text);
CREATE TEMPORARY TABLE profiles (user_id text);
CREATE TEMPORARY TABLE memberships (segment_id text, user_id text);
CREATE TEMPORARY TABLE transitions (seq bigint);
CREATE TEMPORARY TABLE segments (id text);
CREATE TEMPORARY TABLE traits (id text);
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (false);
SET search_path = evil, pg_temp, audience, pg_catalog;
INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('h1', '1', 'purchase', '{"amount":101}');
SELECT pg_catalog.count(audience.event_ingest('{"userId":"h2","eventType":"purchase","properties":{"amount":101}}'));
SELECT audience.events_ingest('[{"userId":"h3","eventType":"purchase","properties":{"amount":101}},{"userId":"h4","eventType":"x"}]');
SELECT audience.profile_set('h4', '{"country":"DE"}');
SELECT audience.profiles_set('[{"userId":"h5","attributes":{}}]');
SELECT audience.segment_create('Hostile', 'totalSpent > 100 AND count(purchase, LAST ''1 day'') >= 1 AND NOT IN SEGMENT ''list''');
SELECT audience.segment_put('{"name":"Put","rules":{"field":"country","operator":"eq","value":"DE"}}');
SELECT audience.segment_update('hostile', rules => 'totalSpent > 100');
SELECT audience.segment_add('list', ARRAY['h1']);
SELECT audience.segment_remove('list', ARRAY['h1']);
SELECT audience.segment_get('hostile') IS NULL;
SELECT * FROM audience.segment_members('hostile');
SELECT audience.segment_count('hostile');
SELECT * FROM audience.segment_preview('totalSpent > 100');
SELECT * FROM audience.segment_diff('hostile', 'true');
SELECT * FROM audience.segment_members_at('hostile', pg_catalog.now());
SELECT * FROM audience.segment_explain('hostile', 'h1');
SELECT * FROM audience.rule_explain('totalSpent > 100', 'h1');
SELECT audience.rule_score('totalSpent > 100', 'h1');
SELECT audience.segment_dependents('list');
SELECT audience.trait_create('ht', 'sum', 'purchase', 'amount', time_window => '1 day');
SELECT audience.profile_get('h1');
SELECT * FROM audience.user_segments('h1');
SELECT audience.profile_merge('h2', 'h3');
SELECT audience.profile_erase('h3');
SELECT audience.profile_rebuild();
SELECT audience.segment_delete('hostile');
SELECT audience.segment_delete('put');
SELECT audience.trait_drop('ht');
SELECT * FROM audience.verify();
SQL
my ($status, $out, $error) = $node->psql('postgres', $hostile, extra_params => [ '-U', 'hostile' ]);
is($error, '', 'hostile objects change nothing');
unlike($error, qr/caught/, 'and run with nobody else\'s rights');
is($node->safe_psql('postgres', "SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM audience.memberships WHERE segment_id = 'spenders'"),
	'ann h1 min', 'memberships as without them');
verify_empty($node);

# triggers and policies of others
is(attempt('hostile', 'CREATE TRIGGER t AFTER INSERT ON audience.events EXECUTE FUNCTION evil.caught()'), '42501', 'hostile: no trigger on events');
is(attempt('hostile', 'ALTER TABLE audience.events DISABLE TRIGGER ALL'), '42501', 'hostile: no DISABLE TRIGGER');
is(attempt('hostile', "UPDATE audience.profiles SET members = NULL"), '42501', 'hostile: no DML on memberships');
is(attempt('hostile', "INSERT INTO audience.transition_log (user_id, occurred_at, reason, entries) VALUES ('x', now(), 'manual', audience.transition_entry(1, true, 1))"),
	'42501', 'hostile: no DML on history');
is(attempt('hostile', "INSERT INTO audience.events (user_id, event_type, received_at) VALUES ('forged', 'x', '2020-01-01')"), '0A000', 'hostile: received_at is not theirs to give');

# row-level security does not bind the engine
$node->safe_psql('postgres', <<'SQL');
ALTER TABLE audience.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience.segment_numbers ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience.transition_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience.segments ENABLE ROW LEVEL SECURITY;
SQL
is(attempt('minimal', "INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('rls', '1', 'purchase', '{\"amount\":101}')"),
	'ok', 'row-level security: INSERT works');
is($node->safe_psql('postgres', "SELECT count(*) FROM audience.memberships WHERE user_id = 'rls'"), '1', 'and the engine decides');
$node->safe_psql('postgres', <<'SQL');
ALTER TABLE audience.profiles DISABLE ROW LEVEL SECURITY;
ALTER TABLE audience.segment_numbers DISABLE ROW LEVEL SECURITY;
ALTER TABLE audience.transition_log DISABLE ROW LEVEL SECURITY;
ALTER TABLE audience.segments DISABLE ROW LEVEL SECURITY;
SQL

#
# grant_access
#
$node->safe_psql('postgres', <<'SQL');
SELECT audience.grant_access('ingester', 'ingest');
SELECT audience.grant_access('reader', 'read');
SELECT audience.grant_access('administrator', 'admin');
SQL
is(attempt('plain', "SELECT audience.grant_access('plain', 'read')"), '42501', 'grant_access is not for everybody');
is(attempt((getpwuid $<)[0], "SELECT audience.grant_access('plain', 'everything')"), '22023', 'unknown level');

# statement => the roles that may
my %allowed = (
	"INSERT INTO audience.events (user_id, event_type) VALUES ('g', 't')" => [qw(ingester administrator)],
	"INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('g', '2026-01-01', '1', 't') ON CONFLICT DO NOTHING" => [qw(ingester administrator)],
	"SET row_security = off; INSERT INTO audience.events (user_id, event_type, received_at) VALUES ('forged', 'x', '2020-01-01')" => [],
	"SELECT audience.event_ingest('{\"userId\":\"g\",\"eventType\":\"t\"}')" => [qw(ingester administrator)],
	"SELECT audience.events_ingest('[{\"userId\":\"g\",\"eventType\":\"t\"}]')" => [qw(ingester administrator)],
	"SELECT audience.profile_set('g', '{}')" => [qw(ingester administrator)],
	"SELECT audience.profiles_set('[]')" => [qw(ingester administrator)],
	'SELECT * FROM audience.segments' => [qw(reader administrator)],
	'SELECT * FROM audience.memberships' => [qw(reader administrator)],
	'SELECT * FROM audience.profiles' => [qw(reader administrator)],
	'SELECT * FROM audience.transitions' => [qw(reader administrator)],
	'SELECT * FROM audience.transition_log' => [],
	"SELECT audience.segment_get('spenders')" => [qw(reader administrator)],
	"SELECT * FROM audience.segment_members('spenders')" => [qw(reader administrator)],
	"SELECT audience.segment_count('spenders')" => [qw(reader administrator)],
	"SELECT audience.profile_get('ann')" => [qw(reader administrator)],
	"SELECT * FROM audience.user_segments('ann')" => [qw(reader administrator)],
	"SELECT * FROM audience.segment_members_at('spenders', now())" => [qw(reader administrator)],
	"SELECT audience.segment_create('x' || pg_backend_pid(), 'false')" => [qw(administrator)],
	"SELECT audience.segment_update('spenders', name => 'S')" => [qw(administrator)],
	"SELECT audience.segment_add('list', ARRAY['g'])" => [qw(administrator)],
	"SELECT audience.trait_create('x' || pg_backend_pid(), 'count')" => [qw(administrator)],
	"SELECT audience.profile_rebuild('{}')" => [qw(administrator)],
	"SELECT audience.profile_erase('g')" => [qw(administrator)],
	"SELECT * FROM audience.verify()" => [qw(administrator)]);
foreach my $sql (sort keys %allowed)
{
	my %may = map { $_ => 1 } @{ $allowed{$sql} };
	# the one that erases last, so that it is there for all
	is(attempt($_, $sql), $may{$_} ? 'ok' : '42501', "$_: $sql")
	  foreach sort { ($may{$a} // 0) <=> ($may{$b} // 0) } qw(ingester reader administrator);
}
is(attempt('administrator', $_), '42501', "administrator: $_")
  foreach ("UPDATE audience.profiles SET members = NULL", "UPDATE audience.profiles SET attributes = '{}'",
	"INSERT INTO audience.transition_log (user_id, occurred_at, reason, entries) VALUES ('x', now(), 'manual', '')",
	"UPDATE audience.segment_numbers SET segment_id = 'x'",
	'SELECT * FROM audience.engine_work()', 'SELECT audience.engine_work_reset()');
verify_empty($node);

#
# settings that are a superuser's, before the library is loaded and they are known
#
is($node->safe_psql('postgres', "SET audience.now = '2000-01-01'; SELECT audience.now() > '2020-01-01'", extra_params => [ '-U', 'reader' ]), 't',
	'audience.now is not the caller\'s to set, not even before the library is there');
is(attempt('reader', "SELECT audience.now(); SET audience.now = '2000-01-01'"), '42501', 'nor after');

#
# a schema that somebody else has made before
#
my $refused = qr/schema "audience" is not safe from others/;
$node->safe_psql('postgres', 'CREATE DATABASE prepared; CREATE ROLE superior SUPERUSER');
foreach my $case (
	[ 'CREATE SCHEMA audience AUTHORIZATION hostile', 'a schema of theirs' ],
	[ 'CREATE SCHEMA audience; GRANT CREATE ON SCHEMA audience TO hostile', 'one that they may create in' ],
	[ 'CREATE SCHEMA audience; GRANT CREATE ON SCHEMA audience TO PUBLIC', 'one that everybody may create in' ],
	[ "CREATE SCHEMA audience; CREATE FUNCTION audience.segment_row(varchar) RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION audience.segment_row(varchar) OWNER TO hostile", 'a function' ],
	[ 'CREATE SCHEMA audience; GRANT CREATE ON SCHEMA audience TO hostile; SET ROLE hostile; CREATE TABLE audience.profile (); RESET ROLE; REVOKE CREATE ON SCHEMA audience FROM hostile', 'a table' ],
	[ 'CREATE SCHEMA audience; CREATE DOMAIN audience.text AS int; ALTER DOMAIN audience.text OWNER TO hostile', 'a type' ],
	[ 'CREATE SCHEMA audience; CREATE OPERATOR audience.=== (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq); ALTER OPERATOR audience.=== (int, int) OWNER TO hostile', 'an operator' ],
	[ "CREATE SCHEMA audience AUTHORIZATION hostile; CREATE FUNCTION audience.\"=\"(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false'; CREATE OPERATOR audience.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = audience.\"=\")", 'operators for the check itself' ])
{
	my ($made, $label) = @$case;
	my $said = '';
	$node->safe_psql('prepared', $made);
	$node->psql('prepared', 'CREATE EXTENSION audience_manager', stderr => \$said);
	like($said, $refused, "CREATE EXTENSION refuses $label");
	$node->safe_psql('prepared', 'DROP SCHEMA audience CASCADE');
}
$node->safe_psql('prepared', "CREATE SCHEMA audience AUTHORIZATION superior; GRANT USAGE ON SCHEMA audience TO PUBLIC; CREATE EXTENSION audience_manager");
is($node->safe_psql('prepared', "SELECT has_schema_privilege('plain', 'audience', 'USAGE')"), 'f', 'but takes one of a superuser\'s, and shuts it');

# default privileges are about what is made later, but not about this
$node->safe_psql('prepared', <<'SQL');
CREATE TABLE before AS SELECT oid::regprocedure::text AS routine FROM pg_proc
WHERE pronamespace = 'audience'::regnamespace AND has_function_privilege('plain', oid, 'EXECUTE');
DROP EXTENSION audience_manager;
DROP SCHEMA audience;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO PUBLIC;
CREATE EXTENSION audience_manager;
SQL
is($node->safe_psql('prepared', <<'SQL'), '', 'default privileges give PUBLIC nothing of the extension');
SELECT relname FROM pg_class, aclexplode(relacl) a WHERE relnamespace = 'audience'::regnamespace AND a.grantee = 0
UNION ALL
SELECT nspname FROM pg_namespace, aclexplode(nspacl) a WHERE nspname = 'audience' AND a.grantee = 0
UNION ALL
(SELECT oid::regprocedure::text FROM pg_proc
	WHERE pronamespace = 'audience'::regnamespace AND has_function_privilege('plain', oid, 'EXECUTE')
	EXCEPT TABLE before)
SQL

$node->stop;
done_testing();
