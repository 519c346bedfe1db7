# Dumps in the forms that 051_dump_restore.pl leaves out: taken while others
# ingest, with triggers disabled, of single tables, without the extension, of the
# whole server, for another owner, over what is there, and into databases that have
# the extension already, whose scheduler is at work.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $conf = worker_conf() . "audience.databases = 'live, live2'\naudience.worker_naptime = 1\n";
my $node = start_node('restore', conf => $conf, no_extension => 1);
my $dir = PostgreSQL::Test::Utils::tempdir();
my $pg_version = $node->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int / 10000});

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', <<'SQL');
CREATE ROLE shop;
CREATE EXTENSION audience_manager;
SELECT audience.grant_access('shop', 'ingest');
SET audience.now = '2020-03-01T12:00:00Z';
SELECT audience.trait_create('logins', 'count', 'login', time_window => '7 days');
SELECT audience.trait_create('items', 'count_distinct', 'purchase', 'item');
SELECT audience.segment_create('Spenders', 'totalSpent > 100.5');
SELECT audience.segment_create('Lately', 'count(login, LAST ''2 days'') >= 1');
SELECT audience.segment_create('Silent', 'count(*, LAST ''14 days'') = 0');
SELECT audience.segment_create('Regulars', 'logins >= 2 AND items >= 1');
SELECT audience.segment_create('Both', 'IN SEGMENT ''spenders'' AND NOT IN SEGMENT ''silent''');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1', 'listed only']);
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'u' || n % 50, timestamptz '2020-03-01 12:00Z' - n * interval '3 hours', 'e' || n, (ARRAY['login', 'purchase', 'view'])[1 + n % 3],
	jsonb_build_object('amount', n % 60 + 0.25, 'item', (ARRAY['a1', 'a2', 'b'])[1 + n % 3])
FROM generate_series(1, 1000) n;
SELECT audience.profile_set('u' || n, jsonb_build_object('country', 'DE', 'n', n)) FROM generate_series(1, 10) n;
SELECT audience.segment_update('spenders', rules => 'totalSpent > 300');
CREATE TABLE public.uses (rule audience.rule);
INSERT INTO public.uses SELECT rules FROM audience.segments;
SQL

# What callers see, and what it is made of.
my $contents_sql = join ';', 'SELECT * FROM audience.traits ORDER BY name', 'SELECT * FROM audience.segments ORDER BY id',
  'SELECT * FROM audience.events ORDER BY user_id, occurred_at, event_id',
  'SELECT user_id, attributes, first_seen, last_seen, updated_at, evaluated_at, members, state FROM audience.profiles ORDER BY user_id',
  'SELECT * FROM audience.memberships ORDER BY segment_id, user_id', 'SELECT * FROM audience.transitions ORDER BY user_id, seq',
  'SELECT * FROM audience.timers ORDER BY user_id', 'SELECT * FROM audience.transition_log ORDER BY user_id, seq',
  'SELECT * FROM audience.segment_numbers ORDER BY number';
my $before = $node->safe_psql('source', $contents_sql);

# What becomes of the next event, and of years: the state that all must come to.
my $onward_sql = <<'SQL';
SET audience.now = '2020-03-02T12:00:00Z';
INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('u20', 'after', 'purchase', '{"amount":5000}'), ('someone new', 'after', 'login', '{}');
SET audience.now = '2020-05-01T12:00:00Z';
SELECT audience.run_due() > 0;
SELECT user_id, segment_id, action, reason, occurred_at, segment_version FROM audience.transitions WHERE occurred_at > '2020-03-01T12:00:00Z' ORDER BY user_id, occurred_at, segment_id, action;
SELECT segment_id, user_id, entered_at FROM audience.memberships ORDER BY 1, 2;
SQL
my $onward = $node->safe_psql('source', "BEGIN; $onward_sql; ROLLBACK");
like($onward, qr/\|expired\|/, 'time will bring changes');

# Runs a program of the server's version, which must succeed.
sub tool
{
	my ($name, @arguments) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->command_ok([ $name, @arguments ], join ' ', $name, grep { !m{/} } @arguments);
	return;
}
sub new_database
{
	my ($db, @statements) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, $_) foreach @statements;
	return;
}
sub play
{
	my ($db, $path, @more) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	tool('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', "$dir/out", '-d', $db, @more, '-f', $path);
	return;
}

# The same is there, nothing was evaluated, and everything goes on.
sub same
{
	my ($db, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql($db, $contents_sql), $before, "$label: the same is there");
	is($node->safe_psql($db, $onward_sql), $onward, "$label: events and timers have the same effect");
	verify_empty($node, "$label: verify() finds no difference", $db);
	replay_ok($node, "$label: the history replayed is the memberships", $db);
	return;
}

#
# into databases that have the extension already
#
my @data = ('--data-only', '--schema=audience');
tool('pg_dump', '-d', 'source', '-f', "$dir/plain.sql");
tool('pg_dump', '-d', 'source', '--data-only', '-f', "$dir/data.sql");
tool('pg_dump', '-d', 'source', '-Fd', '-j2', '-f', "$dir/directory");
my $extension = 'CREATE EXTENSION audience_manager';
new_database('over_extension', $extension);
# the schema belongs to the extension, but is no part of it
$node->command_checks_all([ 'psql', '-X', '-q', '-o', "$dir/out", '-d', 'over_extension', '-f', "$dir/plain.sql" ],
	0, [], [qr/\A[^\n]*ERROR:  schema "audience" already exists\n\z/], 'psql, whole, over the extension: nothing but the schema is in the way');
same('over_extension', 'whole, over the extension');

# a session that has loaded the definitions before
new_database('triggers_off', $extension, 'CREATE TABLE public.uses (rule audience.rule)');
my $session = $node->background_psql('triggers_off');
$session->query_safe(q{SET audience.now = '2020-03-02T12:00:00Z'; INSERT INTO audience.events (user_id, event_type) VALUES ('x', 'y'); SELECT audience.profile_erase('x')});
tool('pg_dump', '-d', 'source', '--data-only', '--disable-triggers', '-f', "$dir/triggers_off.sql");
play('triggers_off', "$dir/triggers_off.sql");
$session->query_safe(q{INSERT INTO audience.events (user_id, event_id, event_type, properties) VALUES ('u20', 'after', 'purchase', '{"amount":5000}'), ('someone new', 'after', 'login', '{}')});
is($session->query_safe(q{SELECT string_agg(segment_id || ' ' || user_id, ', ' ORDER BY segment_id, user_id) FROM audience.transitions WHERE event_id = 'after'}),
	'both u20, lately someone new, spenders u20' =~ s/both u20, //r =~ s/^/both u20, /r, 'data only, triggers disabled: a session that was there before knows the definitions');
$session->quit;
verify_empty($node, 'data only, triggers disabled: verify() finds no difference', 'triggers_off');

# in parallel
new_database('parallel', $extension);
$node->command_checks_all([ 'pg_restore', '-d', 'parallel', '-j2', "$dir/directory" ],
	1, [], [qr/schema "audience" already exists.*errors ignored on restore: 1\n\z/s], 'pg_restore in parallel, over the extension: likewise');
play('parallel', "$dir/data.sql", '-v', 'ON_ERROR_STOP=0');
same('parallel', 'in parallel, over the extension, and again: what is there is refused by the keys');

# over what is there
tool('pg_restore', '--exit-on-error', '--clean', '--if-exists', '-d', 'parallel', "$dir/directory");
same('parallel', 'over what is there, --clean --if-exists');

# single tables: events without all else, and the schema's tables by name
tool('pg_dump', '-d', 'source', '-t', 'audience.events', '--data-only', '-f', "$dir/events.sql");
new_database('events', $extension, q{SELECT audience.segment_create('Spenders', 'totalSpent > 300')});
play('events', "$dir/events.sql");
is($node->safe_psql('events', 'SELECT (SELECT count(*) FROM audience.events), (SELECT count(*) FROM audience.profiles)'), '1000|0', 'table events alone: stored, not evaluated');
$node->safe_psql('events', q{SET audience.now = '2020-03-01T12:00:00Z'; SELECT audience.profile_rebuild()});
my $spenders = q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM audience.memberships WHERE segment_id = 'spenders'};
is($node->safe_psql('events', $spenders), $node->safe_psql('source', $spenders), 'table events alone: profile_rebuild() takes them in');
verify_empty($node, 'table events alone: verify() finds no difference', 'events');
tool('pg_dump', '-d', 'source', '-t', 'audience.*', '-f', "$dir/tables.sql");
new_database('tables', $extension, 'CREATE TABLE public.uses (rule audience.rule)');
play('tables', "$dir/tables.sql");
same('tables', 'all tables by their names');
tool('pg_dump', '-d', 'source', '-t', 'public.*', '-f', "$dir/public.sql");
new_database('users_own', $extension);
play('users_own', "$dir/public.sql");
is($node->safe_psql('users_own', 'SELECT count(*) FROM public.uses'), 6, 'tables of users alone: what users have made with the extension');

SKIP:
{
	skip 'pg_dump of 17 and later can exclude extensions', 6 if $pg_version < 17;
	tool('pg_dump', '-d', 'source', '--exclude-extension=audience_manager', '-f', "$dir/without.sql");
	new_database('without', $extension);
	$node->command_checks_all([ 'psql', '-X', '-q', '-o', "$dir/out", '-d', 'without', '-f', "$dir/without.sql" ],
		0, [qr/\A\z/], [ qr/\A[^\n]*ERROR:  schema "audience" already exists\n\z/ ], 'psql, without the extension: nothing but the schema is in the way');
	is($node->safe_psql('without', 'SELECT (SELECT count(*) FROM public.uses), (SELECT count(*) FROM audience.events)'), '6|0', 'without the extension: what users have made with it');
}

# another owner
$node->safe_psql('postgres', 'CREATE ROLE other SUPERUSER LOGIN');
new_database('other_owner');
tool('pg_restore', '--exit-on-error', '--no-owner', '--no-privileges', '-U', 'other', '-d', 'other_owner', "$dir/directory");
is($node->safe_psql('other_owner', q{SELECT (SELECT extowner::regrole FROM pg_extension WHERE extname = 'audience_manager'), (SELECT string_agg(DISTINCT proowner::regrole::text, ' ') FROM pg_proc WHERE pronamespace = 'audience'::regnamespace)}),
	'other|other', 'without its owner: it is the restorer\'s');
same('other_owner', 'another owner');

#
# while others ingest, and maintain
#
new_database('busy');
tool('pg_restore', '--exit-on-error', '-d', 'busy', "$dir/directory");
append_to_file("$dir/load.sql", <<'SQL');
\set u random(1, 60)
\set n random(1, 100000000)
INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u' || :u, 'login', '{}'), ('v' || :n % 2000, 'purchase', '{"amount":400}');
SELECT audience.profile_set('u' || :u, jsonb_build_object('v', :n));
SELECT audience.run_due(5);
SQL
append_to_file("$dir/define.sql", <<'SQL');
SELECT audience.segment_put(jsonb_build_object('name', 'Changing', 'rules', 'v > ' || (random() * 1e8)::int));
\sleep 200 ms
SQL
my $load = start_load($node, [ "$dir/load.sql\@9", "$dir/define.sql\@1" ], clients => 2, db => 'busy');
foreach my $k (1 .. 3)
{
	sleep 0.2;
	tool('pg_dump', '-d', 'busy', '-Fd', '-j2', '-f', "$dir/busy$k");
}
end_load($load, 'taken meanwhile');
foreach my $k (1 .. 3)
{
	new_database("busy$k");
	tool('pg_restore', '--exit-on-error', '-d', "busy$k", '-j2', "$dir/busy$k");
	verify_empty($node, "taken while others ingest: verify() finds no difference: $k", "busy$k");
	replay_ok($node, "taken while others ingest: the history replayed is the memberships: $k", "busy$k");
	$node->safe_psql("busy$k", q{SELECT audience.segment_create('New', 'count(login) >= 1'), audience.trait_create('another', 'count', 'login'); INSERT INTO audience.events (user_id, event_type) SELECT 'u' || n, 'login' FROM generate_series(1, 100) n; SELECT audience.run_due()});
	verify_empty($node, "taken while others ingest: and goes on: $k", "busy$k");
}

#
# with a scheduler at work: timers that are years late, and no users yet
#
new_database('live', $extension, 'CREATE TABLE public.uses (rule audience.rule)');
new_database('live2', $extension, 'CREATE TABLE public.uses (rule audience.rule)');
$node->reload;
foreach my $db (qw(live live2))
{
	wait_state($node, 'sleeping', "$db has a scheduler", db => $db, within => 30);
}
# as a parallel restore may: timers first, users and definitions last
my $data = slurp_file("$dir/data.sql") =~ s/^\\(un)?restrict .*\n//gmr;
my ($head) = $data =~ /\A(.*?)^COPY /ms;
my %copies = $data =~ /^COPY (\S+) (.*?^\\\.\n)/gms;
my @rest = $data =~ /^(SELECT pg_catalog\.setval.*\n)/gm;
my @first = map { "audience.$_" } qw(timers transition_log events);
append_to_file("$dir/head.sql", $head);
append_to_file("$dir/first.sql", join '', map { "COPY $_ $copies{$_}" } @first);
append_to_file("$dir/second.sql", join '', (map { my $t = $_; (grep { $_ eq $t } @first) ? () : "COPY $t $copies{$t}" } sort keys %copies), @rest);
$session = $node->background_psql('live');
$session->query_safe("\\i $dir/head.sql");
$session->query_safe("\\i $dir/first.sql");
wait_state($node, 'idle: a dump is being restored', 'rows of a dump: the scheduler waits', db => 'live', within => 15);
$node->safe_psql('live', 'SELECT audience.run_due()');
$session->query_safe("\\i $dir/second.sql");
is($node->safe_psql('live', $contents_sql), $before, 'data only, a scheduler at work: the same is there');
$session->quit;
# and pg_restore, whose sessions come and go
tool('pg_restore', '--exit-on-error', '-d', 'live2', '-j2', '--data-only', "$dir/directory");
is($node->safe_psql('live2', $contents_sql), $before, 'data only in parallel, a scheduler at work: the same is there');
new_database('control', $extension, 'CREATE TABLE public.uses (rule audience.rule)');
play('control', "$dir/data.sql");
$node->safe_psql('control', 'SELECT audience.run_due()');
my $history = q{SELECT user_id, segment_id, action, reason, occurred_at FROM audience.transitions ORDER BY user_id, occurred_at, segment_id, action};
foreach my $db (qw(live live2))
{
	wait_for($node, "$db: some seconds later timers are run", 'SELECT NOT EXISTS (SELECT FROM audience.timers WHERE due_at <= now()) AND NOT EXISTS (SELECT FROM audience.restoring)', db => $db, within => 30);
	is($node->safe_psql($db, $history), $node->safe_psql('control', $history), "$db: as by hand");
	verify_empty($node, "$db: verify() finds no difference", $db);
}
# who changes definitions with row_security off is no restore
$node->safe_psql('live', q{SET row_security = off; SELECT audience.segment_create('Later', 'count(login) >= 1', refresh => 'later'), audience.trait_create('another', 'count', 'login'); INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'login')});
is($node->safe_psql('live', 'SELECT count(*) FROM audience.restoring'), 0, 'functions with row_security off: the scheduler does not wait');
wait_for($node, 'and fills', q{SELECT status FROM audience.segments WHERE id = 'later'}, db => 'live', is => 'ready');

#
# the whole server
#
$node->safe_psql('postgres', q{ALTER DATABASE source SET audience.event_retention = '3650d'});
$node->append_conf('postgresql.conf', "audience.databases = 'none'");
$node->restart;
$node->safe_psql('postgres', "DROP DATABASE $_")
  foreach split /\n/, $node->safe_psql('postgres', "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1', 'source')");
tool('pg_dumpall', '-f', "$dir/all.sql");
my $other = start_node('other', no_extension => 1, conf => "shared_preload_libraries = 'audience_manager'\naudience.databases = 'none'\n");
# the bootstrap role and databases are there
$other->command_ok([ 'psql', '-X', '-q', '-d', 'postgres', '-o', "$dir/out", '-f', "$dir/all.sql" ], 'pg_dumpall, on another server');
$node->stop;
$node = $other;
is($node->safe_psql('source', $contents_sql), $before, 'pg_dumpall: the same is there');
is($node->safe_psql('source', q{SHOW audience.event_retention}), '3650d', 'pg_dumpall: settings are there');
is($node->safe_psql('source', q{SELECT has_column_privilege('shop', 'audience.events', 'user_id', 'INSERT')}), 't', 'pg_dumpall: and access');
same('source', 'pg_dumpall');
$node->stop;
done_testing();
