# pg_upgrade takes a server with the extension to the version of PostgreSQL that
# is tested: nothing is lost or evaluated anew, events and timers go on, and
# nothing is exchanged with Kafka until somebody says that the original has
# stopped.
#
# AUDIENCE_OLD_PG names the installation that it starts from, of a version that
# is not newer, with the extension (scripts/test-pg.sh); without it that is
# the tested one, too.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $bootstrap = $kafka->bootstrap;
my $old = start_node('old', conf => worker_conf(), install_path => $ENV{AUDIENCE_OLD_PG}, initdb => ['--data-checksums']);

$kafka->create_topic('user-events', 2);
$kafka->create_topic('user-segments', 1);

# one database whose time stands still, so that what is due waits
$old->safe_psql('postgres', q(CREATE DATABASE still));
$old->safe_psql('postgres', q(ALTER DATABASE still SET audience.now = '2020-03-02T12:00:00Z'));
$old->safe_psql('still', <<'SQL');
CREATE EXTENSION audience_manager;
SET audience.now = '2020-03-01T12:00:00Z';
SELECT audience.trait_create('logins', 'count', 'login', time_window => '7 days');
SELECT audience.trait_create('items', 'count_distinct', 'purchase', 'item', filter => 'item STARTS WITH ''a''');
SELECT audience.segment_create('Spenders', 'totalSpent > 100.5', description => 'who''s "rich"');
SELECT audience.segment_create('Lately', 'count(login, LAST ''2 days'') >= 1');
SELECT audience.segment_create('Silent', '{"event":"*","window":{"last":"14 days"},"operator":"eq","value":0}');
SELECT audience.segment_create('Both', 'IN SEGMENT ''spenders'' AND NOT IN SEGMENT ''silent''');
SELECT audience.segment_create('Items', 'items >= 2 OR SEQUENCE(login, purchase WITHIN ''1 day'')');
SELECT audience.segment_create('Expiring', 'until WITHIN NEXT ''3 days''');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1', 'listed only']);
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context)
SELECT 'u' || n % 50, timestamptz '2020-03-01 12:00Z' - n * interval '7 hours', 'e' || n,
	(ARRAY['login', 'purchase', 'view'])[1 + n % 3],
	jsonb_build_object('amount', n % 60 + 0.25, 'item', (ARRAY['a1', 'a2', 'b'])[1 + n % 3]),
	CASE WHEN n % 7 = 0 THEN jsonb_build_object('device', 'ü', 'long', repeat('x' || n, 2000)) END
FROM generate_series(1, 1000) n;
SELECT audience.profile_set('u' || n, jsonb_build_object('country', 'DE', 'n', n)) FROM generate_series(1, 10) n;
SELECT audience.profile_set('attributes only', '{"country":"FR","until":"2020-03-09T00:00:00Z"}');
SELECT audience.profile_merge('u7', 'u8');
SET audience.now = '2020-03-02T12:00:00Z';
SELECT audience.segment_update('spenders', rules => 'totalSpent > 300');
CREATE TABLE uses_rules (id int PRIMARY KEY, rule audience.rule);
INSERT INTO uses_rules SELECT row_number() OVER (ORDER BY id), rules FROM audience.segments;
CREATE INDEX ON uses_rules (rule);
CREATE TABLE documents (d jsonb, hit bool GENERATED ALWAYS AS (audience.rule_holds(d, '{"field":"a","operator":"gt","value":1}'::audience.rule)) STORED);
INSERT INTO documents VALUES ('{"a":2}'), ('{"a":1}');
SQL
verify_empty($old, 'before: verify() finds no difference', 'still');

# Everything that callers see, and what it is made of, as text in a fixed order.
sub contents
{
	my ($node) = @_;
	my @queries = (
		'SELECT name, aggregate, event_type, property, filter, time_window FROM audience.traits ORDER BY name',
		'SELECT * FROM audience.segments ORDER BY id',
		'SELECT * FROM audience.events ORDER BY user_id, occurred_at, event_id',
		'SELECT user_id, attributes, first_seen, last_seen, updated_at, audience.profile_get(user_id) FROM audience.profiles ORDER BY user_id',
		'SELECT segment_id, user_id, entered_at, source FROM audience.memberships ORDER BY segment_id, user_id',
		'SELECT * FROM audience.transitions ORDER BY user_id, seq',
		'SELECT user_id, evaluated_at, members, (SELECT array_agg(v ORDER BY aggregate) FROM audience.profile_values(ARRAY[user_id], false) v) FROM audience.profiles ORDER BY user_id',
		'SELECT * FROM audience.timers ORDER BY user_id',
		'SELECT * FROM audience.transition_log ORDER BY user_id, seq',
		'SELECT * FROM audience.segment_numbers ORDER BY number',
		'SELECT * FROM uses_rules ORDER BY id',
		'SELECT * FROM documents ORDER BY d');
	return join "\n--\n", map { $node->safe_psql('still', $_) } @queries;
}

# What becomes of new events, and of a month, undone.
my $effect_sql = <<'SQL';
BEGIN;
CREATE TEMPORARY TABLE last AS SELECT max(seq) AS seq FROM audience.transitions;
INSERT INTO audience.events (user_id, event_id, occurred_at, event_type, properties) VALUES ('u20', 'after', '2020-03-02', 'purchase', '{"amount":5000}'), ('someone new', 'after', '2020-03-02', 'login', '{}');
SET audience.now = '2020-04-01T12:00:00Z';
SELECT audience.run_due(20), audience.run_due(), audience.run_due();
SELECT t.user_id, t.segment_id, t.action, t.reason, t.occurred_at FROM audience.transitions t, last WHERE t.seq > last.seq ORDER BY t.user_id, t.seq, 2;
SELECT * FROM audience.timers ORDER BY user_id;
SELECT * FROM audience.verify();
ROLLBACK;
SQL
my $before = contents($old);
my $effect = $old->safe_psql('still', $effect_sql);
like($effect, qr/u20\|spenders\|added\|/, 'before: events have an effect');
like($effect, qr/\|expired\|/, 'before: time will bring changes');

# one that exchanges messages, and leaves some that could not be sent
$old->safe_psql('postgres', <<"SQL");
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers": "$bootstrap"}');
SELECT audience.kafka_source_create('user-events');
SELECT audience.kafka_sink_create('user-segments', 'transitions');
SQL

# A purchase as a message.
sub purchase
{
	my ($user) = @_;
	return { key => $user, value => qq({"userId":"$user","eventType":"purchase","properties":{"amount":150}}) };
}

$kafka->produce('user-events', map { purchase("before$_") } 1 .. 20);
wait_for($old, 'before: what was sent came in', 'SELECT count(*) FROM audience.memberships', is => 20);
wait_for($old, 'before: what became of it went out', 'SELECT depth = 0 AND acked = 20 FROM audience.stat_kafka_sink');
$kafka->stop;
$old->safe_psql('postgres', q(SELECT audience.event_ingest('{"userId":"waiting","eventType":"purchase","properties":{"amount":150}}')));
my $offsets_sql = 'SELECT partition, next_offset FROM audience.kafka_offsets ORDER BY 1';
my $offsets = $old->safe_psql('postgres', $offsets_sql);
is($old->safe_psql('postgres', 'SELECT depth FROM audience.stat_kafka_sink'), '1', 'before: a message waits for the broker');
$old->stop;

#
# the upgrade
#
my $new = start_node('new', conf => worker_conf(), initdb => ['--data-checksums'], no_extension => 1);
my $here = PostgreSQL::Test::Utils::tempdir();
my $versions = join ' to ', map { slurp_file($_->data_dir . '/PG_VERSION') =~ s/\s//r } $old, $new;
$new->stop;
{
	# it keeps its files in the current directory
	chdir $here or die "could not enter $here: $!";
	$new->command_ok(
		[
			'pg_upgrade', '--no-sync',
			'-d', $old->data_dir, '-D', $new->data_dir,
			'-b', $old->config_data('--bindir'), '-B', $new->config_data('--bindir'),
			'-s', $new->host, '-p', $old->port, '-P', $new->port
		],
		"pg_upgrade from $versions");
}
$new->start;
is($new->safe_psql('still', 'SELECT extversion FROM pg_extension WHERE extname = \'audience_manager\''),
	$new->safe_psql('still', 'SELECT default_version FROM pg_available_extensions WHERE name = \'audience_manager\''),
	'the extension is there');
is(contents($new), $before, 'the same is there');
verify_empty($new, 'verify() finds no difference', 'still');
replay_ok($new, 'the history replayed is the memberships', 'still');
is($new->safe_psql('still', $effect_sql), $effect, 'events and timers have the same effect');

# numbers that are given out go on where they were
$new->safe_psql('still', <<'SQL');
SELECT audience.trait_create('new_trait', 'count', 'login');
SELECT audience.segment_create('New', 'new_trait >= 1');
SQL
is($new->safe_psql('still', <<'SQL'), 't|t', 'new numbers are new');
SELECT (SELECT number FROM audience.segments WHERE id = 'new') > (SELECT max(number) FROM audience.segment_numbers WHERE segment_id <> 'new'),
	(SELECT aggregate_number FROM audience.traits WHERE name = 'new_trait') > ALL (SELECT aggregate_number FROM audience.traits WHERE name <> 'new_trait')
SQL
verify_empty($new, 'verify() after new definitions', 'still');

# timers that are years late
$new->safe_psql('postgres', 'ALTER DATABASE still RESET audience.now');
wait_for($new, 'the scheduler does what has come due',
	q(SELECT NOT EXISTS (SELECT FROM audience.timers WHERE due_at <= now()) AND EXISTS (SELECT FROM audience.transitions WHERE reason = 'expired' AND segment_id = 'lately')), db => 'still');
verify_empty($new, 'verify() after what has come due', 'still');
replay_ok($new, 'the history replayed is the memberships after that', 'still');

# Kafka: all of it is there, and nothing happens
$kafka->start;
$kafka->produce('user-events', map { purchase("after$_") } 1 .. 20);
is($new->safe_psql('postgres', <<'SQL'), "not activated\nnot activated", 'sources and sinks are not activated');
SELECT DISTINCT state FROM audience.stat_kafka_source UNION ALL SELECT state FROM audience.stat_kafka_sink
SQL
is($new->safe_psql('postgres', $offsets_sql), $offsets, 'the offsets are there');
# the scheduler, which would start them, has looked
wait_state($new, 'sleeping', 'the scheduler has nothing to do');
is($new->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('audience relay', 'audience consumer'))), '0', 'nobody talks to Kafka');
$new->safe_psql('postgres', q(SELECT audience.event_ingest('{"userId":"upgraded","eventType":"purchase","properties":{"amount":150}}')));
is($new->safe_psql('postgres', 'SELECT (SELECT depth FROM audience.stat_kafka_sink), (SELECT count(*) FROM audience.memberships)'), '2|22', 'events go on, and what becomes of them waits');

$new->safe_psql('postgres', 'SELECT audience.kafka_activate()');
wait_for($new, 'once activated, what was sent meanwhile comes in', 'SELECT count(*) FROM audience.memberships', is => 42);
wait_for($new, 'and what waited goes out', 'SELECT depth = 0 AND acked = 22 FROM audience.stat_kafka_sink');
is($new->safe_psql('postgres', 'SELECT sum(duplicates), sum(messages) FROM audience.stat_kafka_source'), '0|20', 'nothing is read again');
my %times;
$times{ $_->{key} }++ foreach $kafka->consume('user-segments');
is_deeply(\%times, { map { $_ => 1 } 'waiting', 'upgraded', map { ("before$_", "after$_") } 1 .. 20 }, 'each has gone out once');
verify_empty($new, 'verify() finds no difference in the end');
replay_ok($new, 'the history replayed is the memberships in the end');
$new->stop;

done_testing();
