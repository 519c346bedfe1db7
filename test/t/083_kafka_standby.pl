# The bridge and streaming replication: on a standby nothing of Kafka runs; once
# it is promoted, under load and behind the primary, the bridge goes on from
# where the data stands.
#
# What the old primary had committed and not replicated is lost on the new one,
# offsets and events alike: so it is read once more.  Transitions that the old
# primary had sent by then may be in the topic; those of the new one all are.
#
# AUD_KAFKA_EVENTS is how many events are produced.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudKafkaLoad;
use AudTest;
use AudWorkers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $events = env_number('AUD_KAFKA_EVENTS', 20000);
my $kafka = start_kafka();
my $bootstrap = $kafka->bootstrap;
my $primary = start_node('primary',
	conf => worker_conf() . "audience.kafka_consumers = 2\nwal_level = replica\nmax_wal_senders = 4\nhot_standby = on\n");

$kafka->create_topic('in', 8);
$kafka->create_topic('out', 3);
make_bands($primary);
$primary->safe_psql('postgres', qq{
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers":"$bootstrap"}');
SELECT audience.kafka_sink_create('out', 'transitions');
SELECT audience.kafka_source_create('in');});

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('backup');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# How far the source has been read.
my $position = 'SELECT coalesce(sum(next_offset), 0) FROM audience.kafka_offsets';

# Waits until it is so much further than it was.
sub wait_further
{
	my ($node, $before, $by, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($node, $name, "SELECT ($position) >= $before + $by", within => 60);
}

#
# before
#
my $producer = start_child(sub { produce_events($kafka, 'in', $events) });
wait_further($primary, 0, $events / 10, 'the primary reads');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
cmp_ok($standby->safe_psql('postgres', $position), '>=', $events / 10, 'the standby has what it reads');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'audience%'"),
	0, 'nothing runs on the standby');
is($standby->safe_psql('postgres', 'SELECT DISTINCT state FROM audience.stat_kafka_source'), 'not running', 'its view of sources says so');
is($standby->safe_psql('postgres', 'SELECT state FROM audience.stat_kafka_sink'), 'not running', 'that of sinks as well');

#
# the standby falls behind, and the primary dies
#
my $receiver = $standby->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver'");
kill 'STOP', $receiver;
my $acked = $primary->safe_psql('postgres', 'SELECT acked FROM audience.stat_kafka_sink');
wait_further($primary, $primary->safe_psql('postgres', $position), $events / 5, 'the primary goes on');
wait_for($primary, 'and sends', "SELECT acked > $acked + 100 FROM audience.stat_kafka_sink", within => 60);
my $at_death = $primary->safe_psql('postgres', $position);
$primary->stop('immediate');
kill 'KILL', $receiver;

# which has the standby begin anew with all it has
wait_for($standby, 'the standby answers', 'SELECT pg_is_in_recovery()', within => 60);
my $at_promotion = $standby->safe_psql('postgres', $position);
note("read by the primary $at_death, of that replicated $at_promotion");
cmp_ok($at_promotion, '<', $at_death, 'it does not have all that the primary had read');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'audience%'"),
	0, 'still nothing runs there');

#
# it is promoted
#
$standby->promote;
wait_for($standby, 'now there are workers', <<'SQL', is => 'audience consumer 2, audience launcher 1, audience relay 1, audience scheduler 1');
SELECT string_agg(kind, ', ' ORDER BY kind) FROM (
	SELECT backend_type || ' ' || count(*) FROM pg_stat_activity WHERE backend_type LIKE 'audience%' GROUP BY backend_type) k (kind)
SQL
wait_further($standby, $at_promotion, 1, 'which go on where the data stands');
child_ok($producer, 'all is produced');
all_read($standby, $kafka, 'in');
wait_for($standby, 'everything is sent', 'SELECT depth, in_flight, state FROM audience.stat_kafka_sink', is => '0|0|running', within => 60);
is($standby->safe_psql('postgres', 'SELECT sum(duplicates) FROM audience.stat_kafka_source'), 0, 'what was lost is new, and nothing else is read again');

events_are($standby, $kafka, 'in', $events);
load_sent($standby, $kafka, 'out');
cmp_ok($standby->safe_psql('postgres', 'SELECT count(*) FROM committed_transitions'), '>', $events / 50, 'there are many transitions');
transitions_sent($standby);
cmp_ok($standby->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM sent GROUP BY seq HAVING count(DISTINCT origin) > 1) r'),
	'>', 0, 'numbers that the old primary had sent and not replicated were used again, with another id');
is($standby->safe_psql('postgres', <<'SQL'), '', 'in order per user, on the new primary');
SELECT * FROM (
	SELECT key, seq, lag(seq) OVER (PARTITION BY key ORDER BY first) AS before FROM (
		SELECT key, seq, min("offset") AS first FROM sent WHERE origin = to_hex(audience.kafka_origin()) GROUP BY key, seq) f) o
WHERE seq <= before LIMIT 5
SQL
verify_empty($standby);
replay_ok($standby);

done_testing();
