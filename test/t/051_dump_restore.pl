# pg_dump and restore give the same back, timers included, and evaluate nothing
# on the way in:
# plain, custom in parallel, and the schema first with the data after it.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('dump');

$node->safe_psql('postgres', <<'SQL');
SET audience.now = '2026-03-01T12:00:00Z';
SELECT audience.trait_create('logins', 'count', 'login', time_window => '7 days');
SELECT audience.trait_create('items', 'count_distinct', 'purchase', 'item', filter => 'item STARTS WITH ''a''');
SELECT audience.segment_create('Spenders', 'totalSpent > 100.5', description => 'who''s "rich"');
SELECT audience.segment_create('Lately', 'count(login, LAST ''2 days'') >= 1');
SELECT audience.segment_create('Silent', '{"event":"*","window":{"last":"14 days"},"operator":"eq","value":0}');
SELECT audience.segment_create('Both', 'IN SEGMENT ''spenders'' AND NOT IN SEGMENT ''silent''');
SELECT audience.segment_create('Items', 'items >= 2 OR SEQUENCE(login, purchase WITHIN ''1 day'')');
SELECT audience.segment_create('Expiring', 'until WITHIN NEXT ''3 days'' OR SEQUENCE(purchase WHERE $time BEFORE LAST ''1 day'', NOT login WITHIN ''1 day'')');
SELECT audience.segment_create('Off', 'true', active => false);
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1', 'listed only']);
SELECT audience.segment_create('Closed list', type => 'static', active => false);
SELECT audience.segment_add('closed_list', ARRAY['u2']);
SELECT audience.segment_create('Forgotten', 'count() >= 10');
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context)
SELECT 'u' || n % 50, timestamptz '2026-03-01 12:00Z' - n * interval '7 hours', 'e' || n,
	(ARRAY['login', 'purchase', 'view'])[1 + n % 3],
	jsonb_build_object('amount', n % 60 + 0.25, 'item', (ARRAY['a1', 'a2', 'b'])[1 + n % 3]),
	CASE WHEN n % 7 = 0 THEN '{"device":"ü \\ tab\t"}'::jsonb END
FROM generate_series(1, 1000) n;
SELECT audience.profile_set('u' || n, jsonb_build_object('country', 'DE', 'n', n)) FROM generate_series(1, 10) n;
SELECT audience.profile_set('attributes only', '{"country":"FR","until":"2026-03-09T00:00:00Z"}');
SELECT audience.profile_merge('u7', 'u8');
SELECT audience.profile_erase('u9');
SET audience.now = '2026-03-02T12:00:00Z';
SELECT audience.segment_update('spenders', rules => 'totalSpent > 300');
SELECT audience.segment_delete('forgotten');
SELECT audience.event_ingest('{"userId":"u1","eventType":"purchase","eventId":"last","properties":{"amount":1000}}');
CREATE TABLE uses_rules (id int PRIMARY KEY, rule audience.rule);
INSERT INTO uses_rules SELECT row_number() OVER (ORDER BY id), rules FROM audience.segments;
CREATE INDEX ON uses_rules (rule);
CREATE TABLE documents (d jsonb, hit bool GENERATED ALWAYS AS (audience.rule_holds(d, '{"field":"a","operator":"gt","value":1}'::audience.rule)) STORED);
INSERT INTO documents VALUES ('{"a":2}'), ('{"a":1}');
SQL
verify_empty($node);

# Everything that callers see, as text in a fixed order.
sub contents
{
	my ($db) = @_;
	my @queries = (
		'SELECT name, aggregate, event_type, property, filter, time_window FROM audience.traits ORDER BY name',
		'SELECT * FROM audience.segments ORDER BY id',
		'SELECT * FROM audience.events ORDER BY user_id, occurred_at, event_id',
		'SELECT user_id, attributes, first_seen, last_seen, updated_at, audience.profile_get(user_id) FROM audience.profiles ORDER BY user_id',
		'SELECT segment_id, user_id, entered_at, source FROM audience.memberships ORDER BY segment_id, user_id',
		'SELECT * FROM audience.transitions ORDER BY user_id, seq',
		# and what it is made of
		'SELECT user_id, evaluated_at, members, (SELECT array_agg(v ORDER BY aggregate) FROM audience.profile_values(ARRAY[user_id], false) v) FROM audience.profiles ORDER BY user_id',
		'SELECT * FROM audience.timers ORDER BY user_id',
		'SELECT * FROM audience.transition_log ORDER BY user_id, seq',
		'SELECT * FROM audience.segment_numbers ORDER BY number',
		'SELECT * FROM uses_rules ORDER BY id',
		'SELECT * FROM documents ORDER BY d');
	return join "\n--\n", map { $node->safe_psql($db, $_) } @queries;
}

my $before = contents('postgres');
my $dir = PostgreSQL::Test::Utils::tempdir();

# The connection and the tool, from the path of this server.
sub tool
{
	my ($name, @arguments) = @_;
	$node->command_ok([ $name, @arguments ], join ' ', $name, grep { !m{/} } @arguments);
	return;
}

# What run_due does within a month, undone.
my $due_sql = <<'SQL';
BEGIN;
SET audience.now = '2026-04-01T12:00:00Z';
CREATE TEMPORARY TABLE last AS SELECT max(seq) AS seq FROM audience.transitions;
SELECT audience.run_due(20), audience.run_due(), audience.run_due();
SELECT t.user_id, t.segment_id, t.action, t.reason, t.occurred_at FROM audience.transitions t, last WHERE t.seq > last.seq ORDER BY t.user_id, t.seq, 2;
SELECT * FROM audience.timers ORDER BY user_id;
SELECT * FROM audience.verify();
ROLLBACK;
SQL
my $due = $node->safe_psql('postgres', $due_sql);
like($due, qr/\|expired\|/, 'time will bring changes');

# A restored database: the same contents, nothing evaluated, and in working
# order, the next event and the next timer included.
sub check
{
	my ($db, $label) = @_;

	is(contents($db), $before, "$label: the same back");
	verify_empty($node, "$label: verify() finds no difference", $db);
	replay_ok($node, "$label: the history replayed is the memberships", $db);
	is($node->safe_psql($db, $due_sql), $due, "$label: run_due has the same effect");
	is( $node->safe_psql($db, <<'SQL'),
SET audience.now = '2026-03-03T12:00:00Z';
CREATE TEMPORARY TABLE last AS SELECT max(seq) AS seq FROM audience.transitions;
INSERT INTO audience.events (user_id, event_id, occurred_at, event_type, properties) VALUES ('u20', 'after', '2026-03-03', 'purchase', '{"amount":5000}'), ('someone new', 'after', '2026-03-03', 'login', '{}');
SELECT user_id, segment_id, action FROM audience.transitions t, last WHERE t.seq > last.seq AND segment_id IN ('spenders', 'both', 'lately') ORDER BY 1, 2;
SQL
		$node->safe_psql('postgres', <<'SQL'), "$label: events have the same effect");
BEGIN;
SET audience.now = '2026-03-03T12:00:00Z';
CREATE TEMPORARY TABLE last AS SELECT max(seq) AS seq FROM audience.transitions;
INSERT INTO audience.events (user_id, event_id, occurred_at, event_type, properties) VALUES ('u20', 'after', '2026-03-03', 'purchase', '{"amount":5000}'), ('someone new', 'after', '2026-03-03', 'login', '{}');
SELECT user_id, segment_id, action FROM audience.transitions t, last WHERE t.seq > last.seq AND segment_id IN ('spenders', 'both', 'lately') ORDER BY 1, 2;
ROLLBACK;
SQL
	verify_empty($node, "$label: verify() after new events", $db);

	# numbers that are given out go on where they were
	$node->safe_psql($db, <<'SQL');
SELECT audience.trait_create('new_trait', 'count', 'login');
SELECT audience.segment_create('New', 'new_trait >= 1');
SELECT audience.segment_update('closed_list', active => true);
SQL
	is($node->safe_psql($db, <<'SQL'), 't|t|u2', "$label: new numbers are new, and lists are kept");
SELECT (SELECT number FROM audience.segments WHERE id = 'new') > (SELECT max(number) FROM audience.segment_numbers WHERE segment_id <> 'new'),
	(SELECT aggregate_number FROM audience.traits WHERE name = 'new_trait') > ALL (SELECT aggregate_number FROM audience.traits WHERE name <> 'new_trait'),
	(SELECT string_agg(user_id, ' ') FROM audience.segment_members('closed_list'))
SQL
	verify_empty($node, "$label: verify() after new definitions", $db);
	return;
}

tool('pg_dump', '-d', 'postgres', '-f', "$dir/plain.sql");
$node->safe_psql('postgres', 'CREATE DATABASE plain');
tool('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$dir/plain.sql");
check('plain', 'plain');

tool('pg_dump', '-d', 'postgres', '--inserts', '--rows-per-insert=100', '-f', "$dir/inserts.sql");
$node->safe_psql('postgres', 'CREATE DATABASE inserts');
tool('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'inserts', '-f', "$dir/inserts.sql");
check('inserts', 'as inserts');

tool('pg_dump', '-d', 'postgres', '-Fc', '-f', "$dir/custom.dump");
$node->safe_psql('postgres', 'CREATE DATABASE custom');
tool('pg_restore', '--exit-on-error', '-d', 'custom', '-j2', "$dir/custom.dump");
check('custom', 'custom, in parallel');

tool('pg_dump', '-d', 'postgres', '-Fd', '-j2', '-f', "$dir/directory");
$node->safe_psql('postgres', 'CREATE DATABASE directory');
tool('pg_restore', '--exit-on-error', '--single-transaction', '-d', 'directory', "$dir/directory");
check('directory', 'directory, in one transaction');

tool('pg_dump', '-d', 'postgres', '--schema-only', '-f', "$dir/schema.sql");
tool('pg_dump', '-d', 'postgres', '--data-only', '-f', "$dir/data.sql");
$node->safe_psql('postgres', 'CREATE DATABASE two_steps');
tool('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'two_steps', '-f', "$dir/schema.sql");
tool('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'two_steps', '-f', "$dir/data.sql");
check('two_steps', 'schema, then data');

# a dump of the restored database is the dump of the original; and a second
# generation restores as well
tool('pg_dump', '-d', 'plain', '-Fc', '-f', "$dir/second.dump");
$node->safe_psql('postgres', 'CREATE DATABASE second');
tool('pg_restore', '--exit-on-error', '-d', 'second', '-j2', "$dir/second.dump");
is(contents('second'), contents('plain'), 'second generation: the same back');
verify_empty($node, 'second generation: verify() finds no difference', 'second');

# a crash loses nothing that was committed
$node->safe_psql('plain', "SET audience.now = '2026-03-04T12:00:00Z'; SELECT count(audience.event_ingest(jsonb_build_object('userId', 'c' || n, 'eventType', 'purchase', 'properties', '{\"amount\":400}'::jsonb))) FROM generate_series(1, 50) n");
my $committed = contents('plain');
$node->stop('immediate');
$node->start;
is(contents('plain'), $committed, 'the same after a crash');
verify_empty($node, 'verify() after a crash', 'plain');

# gone without a trace, and there again
is($node->safe_psql('custom', <<'SQL'), "0\n0", 'DROP EXTENSION leaves nothing, CREATE EXTENSION starts empty');
SET client_min_messages = error;
DROP EXTENSION audience_manager CASCADE;
SELECT count(*) FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid LEFT JOIN pg_proc p ON p.pronamespace = n.oid LEFT JOIN pg_type t ON t.typnamespace = n.oid
WHERE n.nspname = 'audience' AND (c.oid IS NOT NULL OR p.oid IS NOT NULL OR t.oid IS NOT NULL);
CREATE EXTENSION audience_manager;
SELECT count(*) FROM audience.events;
SQL
$node->safe_psql('custom', "SELECT audience.segment_create('a', 'count() >= 1'); SELECT audience.event_ingest('{\"userId\":\"u\",\"eventType\":\"e\"}')");
is($node->safe_psql('custom', 'SELECT segment_id, user_id FROM audience.memberships'), 'a|u', 'and works');
verify_empty($node, 'verify() of the new one', 'custom');

$node->stop;
done_testing();
