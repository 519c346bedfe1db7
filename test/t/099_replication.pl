# Logical replication of the extension's tables: of all of them, which makes a
# copy that can take over, definitions included; of the events alone, from and to
# tables that know nothing of the extension, and in both directions.  Initial
# copies are made while others ingest; transactions are prepared, here and there,
# and on a standby that is promoted.
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

my $conf = "max_prepared_transactions = 20\nmax_connections = 50\nwal_receiver_status_interval = 1s\nmax_worker_processes = 20\nmax_logical_replication_workers = 10\nmax_sync_workers_per_subscription = 4\nlog_statement = none\n";
my $dir = PostgreSQL::Test::Utils::tempdir();
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical', extra => [ '--encoding=UTF8', '--locale=C' ]);
$publisher->append_conf('postgresql.conf', "audience.strict = on\ntimezone = 'UTC'\njit = off\nautovacuum = off\n$conf");
$publisher->start;
# with a scheduler, which must leave alone what is replicated
my $subscriber = start_node('subscriber', conf => worker_conf() . "audience.worker_naptime = 1\n$conf", no_extension => 1);
my $pg_version = $subscriber->safe_psql('postgres', q{SELECT current_setting('server_version_num')::int / 10000});

$publisher->safe_psql('postgres', <<'SQL');
CREATE EXTENSION audience_manager;
SELECT audience.trait_create('pages', 'count_distinct', 'view', 'page');
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.segment_create('Readers', 'pages >= 3 OR count(view, LAST ''1 day'') >= 5');
SELECT audience.segment_create('Now', 'count(*, LAST ''1 second'') >= 1');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1', 'listed']);
INSERT INTO audience.events (user_id, event_id, event_type, properties)
SELECT 'u' || n % 50, n, (ARRAY['view', 'purchase'])[1 + n % 2], jsonb_build_object('amount', n % 20, 'page', n % 7)
FROM generate_series(1, 1000) n;
CREATE PUBLICATION everything FOR ALL TABLES;
SQL

# Sessions that ingest, and perhaps change definitions, until they are stopped.
append_to_file("$dir/load.sql", <<'SQL');
\set u random(1, 60)
\set n random(1, 100000000)
INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u' || :u, 'view', jsonb_build_object('page', :n % 9)), ('v' || :n % 500, 'purchase', '{"amount":40}');
SELECT audience.profile_set('u' || :u, jsonb_build_object('v', :n));
SQL
append_to_file("$dir/define.sql", <<'SQL');
SELECT audience.segment_put(jsonb_build_object('name', 'Changing', 'rules', 'v > ' || (random() * 1e8)::int));
\sleep 100 ms
SELECT audience.run_due();
SQL

my $contents_sql = join ';', 'SELECT * FROM audience.traits ORDER BY name', 'SELECT * FROM audience.segments ORDER BY id', 'SELECT * FROM audience.aggregates ORDER BY number',
  'SELECT * FROM audience.events ORDER BY user_id, occurred_at, event_id', 'SELECT * FROM audience.profiles ORDER BY user_id',
  'SELECT * FROM audience.memberships ORDER BY segment_id, user_id', 'SELECT * FROM audience.transitions ORDER BY user_id, seq', 'SELECT * FROM audience.timers ORDER BY user_id',
  'SELECT * FROM audience.kafka_clusters', 'SELECT count(*) FROM audience.definition_version';
sub same
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$publisher->wait_for_catchup('everything');
	is($subscriber->safe_psql('postgres', $contents_sql), $publisher->safe_psql('postgres', $contents_sql), $label);
	return;
}

#
# all tables
#
$publisher->safe_psql('postgres', q{SELECT audience.segment_create('Published', 'count(view) >= 2'), audience.trait_create('views', 'count', 'view'), audience.kafka_cluster_set('main', '{"bootstrap.servers":"localhost:1"}'), audience.kafka_activate(), audience.profile_erase('u49')});
is($publisher->safe_psql('postgres', q{SELECT count(*) FROM audience.segments WHERE id = 'published'}), 1, 'all tables published: definitions can be changed');
verify_empty($publisher, 'all tables published: verify() finds no difference');

PostgreSQL::Test::Utils::system_or_bail($publisher->installed_command('pg_dump'), '-h', $publisher->host, '-p', $publisher->port, '--schema-only', '--no-publications', '-f', "$dir/schema.sql", 'postgres');
$subscriber->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-o', "$dir/out", '-d', 'postgres', '-f', "$dir/schema.sql" ], 'the schema on the subscriber');
# it has loaded the definitions, of which there are none yet
my $session = $subscriber->background_psql('postgres', timeout => 60);
is($session->query_safe(q{SELECT matching FROM audience.segment_preview('views >= 1')}), 0, 'a session of the subscriber');
my $load = start_load($publisher, [ "$dir/load.sql\@9", "$dir/define.sql\@1" ], rate => 60);
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '" . $publisher->connstr . " dbname=postgres' PUBLICATION everything WITH (two_phase = on)");
$subscriber->wait_for_subscription_sync($publisher, 'everything');
$subscriber->poll_query_until('postgres', q{SELECT subtwophasestate = 'e' FROM pg_subscription}) or die 'no two-phase commit';
wait_state($subscriber, 'idle: timers are replicated', 'the subscriber\'s scheduler leaves timers alone', within => 20);
sleep 1.5;
is($subscriber->safe_psql('postgres', 'SELECT done, errors FROM audience.stat_scheduler'), '0|0', 'it has run none');
end_load($load, 'a copy of all tables');
same('a copy of all tables is the same');
verify_empty($subscriber, 'a copy of all tables: verify() finds no difference');
replay_ok($subscriber, 'a copy of all tables: the history replayed is the memberships');
is($session->query_safe(q{SELECT matching > 0 FROM audience.segment_preview('views >= 1')}), 't', 'a session that was there before knows replicated definitions');
$publisher->safe_psql('postgres', q{SELECT audience.trait_drop('views')});
$publisher->wait_for_catchup('everything');
is($session->query_safe(q{SELECT matching FROM audience.segment_preview('views >= 1')}), 0, 'and those that are gone');

# prepared transactions
$publisher->safe_psql('postgres', q{BEGIN; INSERT INTO audience.events (user_id, event_type, properties) VALUES ('prepared', 'purchase', '{"amount":500}'); PREPARE TRANSACTION 'events'});
$publisher->wait_for_catchup('everything');
is($subscriber->safe_psql('postgres', q{SELECT count(*) FROM pg_prepared_xacts}), 1, 'a prepared transaction is prepared on the subscriber');
$subscriber->stop('immediate');
$subscriber->start;
$session->quit;
$session = $subscriber->background_psql('postgres', timeout => 60);
$session->query_safe(q{SELECT matching FROM audience.segment_preview('true')});
$publisher->safe_psql('postgres', q{COMMIT PREPARED 'events'});
$publisher->safe_psql('postgres', q{BEGIN; SELECT audience.segment_create('Prepared', 'totalSpent > 400'); PREPARE TRANSACTION 'definitions'});
$publisher->wait_for_catchup('everything');
$publisher->safe_psql('postgres', q{COMMIT PREPARED 'definitions'});
$publisher->safe_psql('postgres', q{BEGIN; INSERT INTO audience.events (user_id, event_type) VALUES ('rolled back', 'purchase'); PREPARE TRANSACTION 'undone'});
$publisher->safe_psql('postgres', q{ROLLBACK PREPARED 'undone'});
same('prepared transactions, and a crash: the same');
is($session->query_safe(q{SELECT matching > 0 FROM audience.segment_preview('IN SEGMENT ''prepared''')}), 't', 'a session knows definitions that were prepared');
verify_empty($subscriber, 'prepared transactions: verify() finds no difference');

# it takes over, as docs/operations.md says
my ($sequences) = slurp_file('docs/operations.md') =~ /^    (SELECT format\('SELECT setval.*?;)$/ms or die 'no statement for sequences in docs/operations.md';
$subscriber->safe_psql('postgres', $_) foreach split /\n/, $publisher->safe_psql('postgres', $sequences);
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION everything');
$session->query_safe(q{SELECT audience.segment_create('Here', 'count(view) >= 1'), audience.trait_create('here', 'count', 'view')});
$session->query_safe(q{INSERT INTO audience.events (user_id, event_type, properties) SELECT 'u' || n, 'purchase', '{"amount":300}' FROM generate_series(1, 70) n; SELECT audience.run_due()});
wait_for($subscriber, 'the copy takes over: its scheduler runs what is due', q{SELECT NOT EXISTS (SELECT FROM audience.timers WHERE due_at <= now() - interval '2 seconds') AND done > 0 FROM audience.stat_scheduler}, within => 20);
verify_empty($subscriber, 'the copy takes over: verify() finds no difference');
replay_ok($subscriber, 'the copy takes over: the history replayed is the memberships');
is($subscriber->safe_psql('postgres', q{SELECT state FROM audience.stat_kafka_source UNION SELECT 'here' FROM audience.kafka_installation i WHERE audience.kafka_is_here(i)}), '', 'the copy is not activated');
$session->quit;
$publisher->safe_psql('postgres', 'DROP PUBLICATION everything');

#
# events alone, while others ingest
#
$subscriber->safe_psql('postgres', 'DROP EXTENSION audience_manager; CREATE EXTENSION audience_manager');
$subscriber->safe_psql('postgres', q{SELECT audience.segment_create('Spenders', 'totalSpent > 100'), audience.segment_create('Readers', 'count(view) >= 5')});
$publisher->safe_psql('postgres', 'CREATE PUBLICATION events FOR TABLE audience.events');
$load = start_load($publisher, ["$dir/load.sql"], rate => 60);
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION events CONNECTION '" . $publisher->connstr . " dbname=postgres' PUBLICATION events");
$subscriber->wait_for_subscription_sync($publisher, 'events');
sleep 0.3;
end_load($load, 'events');
$publisher->wait_for_catchup('events');
is($subscriber->safe_psql('postgres', q{SELECT (SELECT count(*) FROM audience.profiles), (SELECT count(*) FROM audience.transitions)}), '0|0', 'events: stored, not evaluated');
my $ids = 'SELECT user_id, occurred_at, event_id, received_at FROM audience.events ORDER BY 1, 2, 3';
is($subscriber->safe_psql('postgres', $ids), $publisher->safe_psql('postgres', $ids), 'events: all of them');
$subscriber->safe_psql('postgres', 'SELECT audience.profile_rebuild()');
my $spenders = q{SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM audience.memberships WHERE segment_id = 'spenders'};
is($subscriber->safe_psql('postgres', $spenders), $publisher->safe_psql('postgres', $spenders), 'events: profile_rebuild() evaluates them');
verify_empty($subscriber, 'events: verify() finds no difference');

# the subscriber's own, for the same users, and what is erased there
$subscriber->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u1', 'purchase', '{"amount":1}'), ('own', 'purchase', '{"amount":1000}')});
$publisher->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u1', 'purchase', '{"amount":2}'), ('late', 'purchase', '{"amount":1000}'); SELECT audience.profile_erase('u2'), audience.profile_merge('u3', 'u4')});
$publisher->wait_for_catchup('events');
is($subscriber->safe_psql('postgres', q{SELECT (SELECT count(*) FROM audience.events WHERE user_id IN ('u2', 'u3')), (SELECT count(*) FROM audience.events WHERE user_id = 'u4')}), '0|' . $publisher->safe_psql('postgres', q{SELECT count(*) FROM audience.events WHERE user_id = 'u4'}), 'events that are erased or moved are so there, too');
is($subscriber->safe_psql('postgres', q{SELECT count(DISTINCT user_id) FROM audience.verify() WHERE user_id IN ('u1', 'u2', 'u3', 'u4', 'late')}), 5, 'verify() tells whom that concerns');
$subscriber->safe_psql('postgres', q{SELECT audience.profile_rebuild(ARRAY['u1', 'u2', 'u3', 'u4', 'late'])});
verify_empty($subscriber, 'rebuilt: verify() finds no difference');
replay_ok($subscriber, 'rebuilt: the history replayed is the memberships');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION events');

#
# from and to tables of others, and both directions
#
my $columns = 'user_id text COLLATE "C" NOT NULL, occurred_at timestamptz NOT NULL DEFAULT now(), event_id text COLLATE "C" NOT NULL DEFAULT gen_random_uuid()::text, event_type text NOT NULL, properties jsonb NOT NULL DEFAULT \'{}\', context jsonb, received_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, occurred_at, event_id)';
$publisher->safe_psql('postgres', "CREATE DATABASE plain");
$publisher->safe_psql('plain', "CREATE SCHEMA audience; CREATE TABLE audience.events ($columns); CREATE PUBLICATION plain FOR TABLE audience.events; INSERT INTO audience.events (user_id, event_type, properties) SELECT 'plain' || n, 'purchase', '{\"amount\":200}' FROM generate_series(1, 5) n");
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION plain CONNECTION '" . $publisher->connstr . " dbname=plain' PUBLICATION plain");
$subscriber->wait_for_subscription_sync($publisher, 'plain');
$publisher->safe_psql('plain', q{INSERT INTO audience.events (user_id, event_type, properties) VALUES ('plain6', 'purchase', '{"amount":200}')});
$publisher->wait_for_catchup('plain');
$subscriber->safe_psql('postgres', 'SELECT audience.profile_rebuild(array_agg(DISTINCT user_id)) FROM audience.events WHERE user_id LIKE \'plain%\'');
is($subscriber->safe_psql('postgres', q{SELECT count(*) FROM audience.memberships WHERE user_id LIKE 'plain%'}), 6, 'from a table that is nothing but a table');
verify_empty($subscriber, 'from a table: verify() finds no difference');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION plain');
$subscriber->safe_psql('postgres', 'CREATE DATABASE warehouse');
$subscriber->safe_psql('warehouse', "CREATE SCHEMA audience; CREATE TABLE audience.events ($columns)");
$subscriber->safe_psql('warehouse', "CREATE SUBSCRIPTION warehouse CONNECTION '" . $publisher->connstr . " dbname=postgres' PUBLICATION events");
$subscriber->wait_for_subscription_sync($publisher, 'warehouse', 'warehouse');
$publisher->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type) VALUES ('to the warehouse', 'view')});
$publisher->wait_for_catchup('warehouse');
is($subscriber->safe_psql('warehouse', $ids), $publisher->safe_psql('postgres', $ids), 'to a table that is nothing but a table');
$subscriber->safe_psql('warehouse', 'DROP SUBSCRIPTION warehouse');

SKIP:
{
	skip 'PostgreSQL 15 cannot tell what has come by replication itself', 4 if $pg_version < 16;
	$subscriber->append_conf('postgresql.conf', "wal_level = logical\nmax_wal_senders = 10\nmax_replication_slots = 10");
	$subscriber->restart;
	$subscriber->safe_psql('postgres', 'CREATE PUBLICATION events FOR TABLE audience.events');
	$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION there CONNECTION '" . $publisher->connstr . " dbname=postgres' PUBLICATION events WITH (origin = none, copy_data = off)");
	$publisher->safe_psql('postgres', "CREATE SUBSCRIPTION back CONNECTION '" . $subscriber->connstr . " dbname=postgres' PUBLICATION events WITH (origin = none, copy_data = off)");
	$subscriber->wait_for_subscription_sync($publisher, 'there');
	$publisher->wait_for_subscription_sync($subscriber, 'back');
	$publisher->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type, properties) VALUES ('both', 'purchase', '{"amount":60}')});
	$subscriber->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type, properties) VALUES ('both', 'purchase', '{"amount":50}')});
	$publisher->wait_for_catchup('there');
	$subscriber->wait_for_catchup('back');
	foreach my $node ($publisher, $subscriber)
	{
		$node->safe_psql('postgres', 'SELECT audience.profile_rebuild()');
		is($node->safe_psql('postgres', q{SELECT count(*) FROM audience.memberships WHERE segment_id = 'spenders' AND user_id = 'both'}), 1, 'both directions: ' . $node->name);
		verify_empty($node, 'both directions: verify() finds no difference: ' . $node->name);
	}
	$publisher->safe_psql('postgres', 'DROP SUBSCRIPTION back');
	$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION there');
}
$subscriber->stop;

#
# prepared transactions on a standby that is promoted
#
$publisher->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($publisher, 'backup', has_streaming => 1);
$standby->start;
$publisher->safe_psql('postgres', q{BEGIN; INSERT INTO audience.events (user_id, event_type, properties) VALUES ('over there', 'purchase', '{"amount":500}'), ('u1', 'view', '{}'); PREPARE TRANSACTION 'events'});
$publisher->safe_psql('postgres', q{BEGIN; INSERT INTO audience.events (user_id, event_type, properties) VALUES ('never', 'purchase', '{"amount":500}'); PREPARE TRANSACTION 'undone'});
$publisher->wait_for_catchup($standby, 'replay', $publisher->lsn('insert'));
my $reader = $standby->background_psql('postgres', timeout => 60);
$reader->query_safe(q{SELECT audience.profile_get('u1')});
$publisher->stop('immediate');
$standby->promote;
my (undef, undef, $error) = $standby->psql('postgres', q{SET audience.definition_wait = '100ms'; SELECT audience.segment_create('Waits', 'true')});
like($error, qr/Waited for prepared transaction "events", "undone"/, 'promoted: prepared ingestion keeps definitions');
$standby->safe_psql('postgres', q{COMMIT PREPARED 'events'});
$standby->safe_psql('postgres', q{ROLLBACK PREPARED 'undone'});
is($reader->query_safe(q{INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'view'), ('over there', 'view'); SELECT string_agg(user_id, ' ') FROM audience.memberships WHERE segment_id = 'spenders' AND user_id IN ('over there', 'never')}),
	'over there', 'promoted: what was prepared is committed and rolled back, and a session goes on');
$standby->safe_psql('postgres', q{BEGIN; SELECT audience.segment_create('Promoted', 'count(view) >= 1'); PREPARE TRANSACTION 'definitions'});
$standby->safe_psql('postgres', q{COMMIT PREPARED 'definitions'});
is($reader->query_safe(q{INSERT INTO audience.events (user_id, event_type) VALUES ('after', 'view'); SELECT count(*) FROM audience.memberships WHERE segment_id = 'promoted' AND user_id = 'after'}), 1, 'promoted: definitions are prepared there');
$reader->quit;
verify_empty($standby, 'promoted: verify() finds no difference');
replay_ok($standby, 'promoted: the history replayed is the memberships');
$standby->stop;

done_testing();
