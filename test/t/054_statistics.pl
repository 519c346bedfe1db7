# Where the library is preloaded, the counters of view stat_engine rise with
# what the engine does, in every session and every database, and begin anew
# with the server.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use Test::More;

my $node = start_node('statistics', conf => <<'CONF');
shared_preload_libraries = 'audience_manager'
# no scheduler that would count, too
audience.databases = 'none'
CONF
my @counters = qw(statements events users rules_evaluated rows_read transitions waits);
my $columns = join ', ', @counters;
my $now = "SET audience.now = '2026-06-10T12:00:00Z';\n";
my %last;

# The counters, by name.
sub counters
{
	my %now;
	@now{@counters} = @{ (rows_of($node, "SELECT $columns FROM audience.stat_engine"))[0] };
	return %now;
}

# What the counters have risen by since this was asked for the last time.
sub rise_of
{
	my %now = counters();
	my %rise = map { $_ => $now{$_} - $last{$_} } @counters;
	%last = %now;
	return \%rise;
}

is($node->safe_psql('postgres', 'SELECT * FROM audience.stat_engine'), join('|', (0) x @counters), 'to begin with, nothing');
%last = counters();

$node->safe_psql('postgres', <<'SQL');
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.segment_create('Lately', 'count(login, LAST ''1 day'') >= 2');
SQL
is_deeply(
	{ %{ rise_of() }, rules_evaluated => 0 },
	{ map { $_ => 0 } @counters },
	'definitions over nobody count nothing');

# three users, seven events, in one statement; one enters each segment
$node->safe_psql('postgres', $now . <<'SQL');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
('a', '2026-06-01', '1', 'purchase', '{"amount":70}'), ('a', '2026-06-02', '2', 'purchase', '{"amount":70}'),
('b', '2026-06-10', '1', 'login', '{}'), ('b', '2026-06-10', '2', 'login', '{}'),
('c', '2026-06-10', '1', 'login', '{}'), ('c', '2026-06-01', '2', 'login', '{}'), ('c', '2026-06-01', '3', 'purchase', '{"amount":1}');
SQL
my $rise = rise_of();
is($rise->{statements}, 1, 'one statement');
is($rise->{events}, 7, 'of seven events');
is($rise->{users}, 3, 'of three users');
is($rise->{transitions}, 2, 'two of whom enter a segment');
cmp_ok($rise->{rules_evaluated}, '>=', 3, 'rules were evaluated');
is($rise->{waits}, 0, 'nobody waited');

# by the other ways in
$node->safe_psql('postgres', $now . <<'SQL');
SELECT audience.event_ingest('{"userId":"d","eventId":"1","eventType":"purchase","properties":{"amount":101}}');
SELECT audience.events_ingest('[{"userId":"e","eventId":"1","eventType":"view"},{"userId":"d","eventId":"2","eventType":"view"}]');
COPY audience.events (user_id, event_id, event_type) FROM STDIN;
f	1	view
f	2	view
\.
SQL
$rise = rise_of();
is($rise->{statements}, 3, 'three more statements');
is($rise->{events}, 5, 'of five events');
is($rise->{users}, 4, 'of a user, two and one');
is($rise->{transitions}, 1, 'one enters');

# of users who are known
$node->safe_psql('postgres', $now . <<'SQL');
INSERT INTO audience.events (user_id, event_id, event_type) VALUES ('e', '2', 'view'), ('f', '3', 'view'), ('f', '4', 'view');
SQL
$rise = rise_of();
is("$rise->{statements} $rise->{events} $rise->{users} $rise->{transitions}", '1 3 2 0', 'known users: two of three events');

# no new event, no event counted
$node->safe_psql('postgres', $now . <<'SQL');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('f', '2026-06-10T12:00:00Z', '1', 'view') ON CONFLICT DO NOTHING;
SQL
$rise = rise_of();
is($rise->{$_}, 0, "one that is there already: no more $_") foreach qw(events users transitions);

# attributes, static lists and definitions change memberships, too
$node->safe_psql('postgres', $now . "SELECT audience.profile_set('a', '{}')");
$rise = rise_of();
is("$rise->{users} $rise->{events} $rise->{statements}", '1 0 0', 'an attribute: a user, but no event');
$node->safe_psql('postgres', $now . <<'SQL');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', '{a,b}');
SQL
is(rise_of()->{transitions}, 2, 'a static list: two enter');
$node->safe_psql('postgres', $now . "SELECT audience.segment_create('Everyone', 'true')");
$rise = rise_of();
is($rise->{transitions}, 6, 'a definition: six enter');
$node->safe_psql('postgres', $now . "SELECT audience.segment_create('Viewers', 'count(view) > 0')");
$rise = rise_of();
is($rise->{rows_read}, 15, 'a new aggregate: every event is read back once');
is("$rise->{users} $rise->{rules_evaluated} $rise->{transitions}", '3 3 3', 'whoever has none that it looks at is not visited');
$node->safe_psql('postgres', $now . "SELECT audience.segment_create('Never logged in', 'count(login, LAST ''30 days'') = 0')");
$rise = rise_of();
is("$rise->{users} $rise->{rules_evaluated} $rise->{transitions}", '6 6 4', 'but for a rule that holds without');
foreach my $workers (0, 2)
{
	my $more_than = 1 + $workers;
	$node->safe_psql('postgres', $now . <<"SQL");
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers = $workers;
SELECT audience.segment_create('More than $more_than', 'count(view, LAST ''4$workers days'') > $more_than');
SQL
	$rise = rise_of();
	is("$rise->{rows_read} $rise->{users}", '15 3', "$workers parallel workers read every event once, too");
	is($rise->{transitions}, $workers == 0 ? 2 : 1, 'and find the same');
}
$node->safe_psql('postgres', $now . "SELECT audience.segment_create('Old logins', 'count(login, FROM ''2026-06-01'' TO ''2026-06-09'') > 0 AND totalSpent > 5')");
$rise = rise_of();
is("$rise->{users} $rise->{rules_evaluated} $rise->{transitions}", '1 1 0', 'events outside a fixed window are not looked at');
$node->safe_psql('postgres', $now . "SELECT audience.segment_update('old_logins', rules => 'count(login, FROM ''2026-06-01'' TO ''2026-06-09'') > 0')");
$rise = rise_of();
is("$rise->{users} $rise->{transitions}", '6 1', 'a segment that is changed may have members: everyone is visited');

# time that leads out of a window
$node->safe_psql('postgres', "SET audience.now = '2026-06-12T12:00:00Z'; SELECT audience.profile_set('b', '{}')");
is(rise_of()->{transitions}, 1, 'a window has moved on: one leaves');

# a change of definitions that waits
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe("SELECT audience.event_ingest('{\"userId\":\"w\",\"eventType\":\"view\"}')");
my ($status) = $node->psql('postgres',
	"SET audience.definition_wait = '300ms'; SELECT audience.segment_create('Waited', 'false')");
isnt($status, 0, 'a definition waits in vain');
$session->query_safe('ROLLBACK');
$session->quit;
is(rise_of()->{waits}, 1, 'and is counted once');

# a session's own counters are another matter, and what was undone was done
is($node->safe_psql('postgres', $now . <<'SQL'), "1\n\n1", 'a session counts for itself');
SELECT audience.event_ingest('{"userId":"x","eventId":"1","eventType":"view"}');
SELECT audience.engine_work_reset();
BEGIN;
SELECT audience.event_ingest('{"userId":"x","eventId":"2","eventType":"click"}') \gset
SELECT value FROM audience.engine_work() WHERE counter = 'events';
ROLLBACK;
SQL
is(rise_of()->{events}, 2, 'a reset takes nothing from the sums, nor does ROLLBACK');

# one set of counters for the server
my %before = counters();
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION audience_manager; SELECT audience.event_ingest('{"userId":"o","eventType":"view"}')});
is($node->safe_psql('other', 'SELECT events FROM audience.stat_engine'), $before{events} + 1, 'databases count together');
verify_empty($node);
replay_ok($node);

$node->restart;
is($node->safe_psql('postgres', 'SELECT * FROM audience.stat_engine'), join('|', (0) x @counters), 'a restart begins anew');
$node->safe_psql('postgres', q{SELECT audience.event_ingest('{"userId":"r","eventType":"view"}')});
is(rise_of() && $last{events}, 1, 'and counts on');

# sessions at once lose no count
my @sessions = map { $node->background_psql('postgres') } 1 .. 4;
foreach my $i (1 .. 4)
{
	$sessions[ $i - 1 ]->query_safe(
		"SELECT count(audience.event_ingest(jsonb_build_object('userId', 's$i', 'eventType', 'view'))) FROM generate_series(1, 50)");
}
$_->quit foreach @sessions;
is(rise_of()->{events}, 200, 'four sessions: every event is counted');

$node->stop;
done_testing();
