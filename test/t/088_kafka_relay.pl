# The workers of the bridge where commits, databases and brokers are not as
# simple as usual: rows that become visible late, encodings, refusals; and that
# consumers start at once.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
# memory that is freed is overwritten: who reads it all the same is found out
local $ENV{MALLOC_PERTURB_} = 165;
my $node = start_node('relay', conf => worker_conf() . "max_prepared_transactions = 2\n");

# SQL that connects a database with the broker.
sub connect_sql
{
	my $bootstrap = $kafka->bootstrap;
	return qq{SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers":"$bootstrap"}');};
}

# SQL of an event that enters a user into segment "buyers".
sub buy_sql
{
	my ($user) = @_;
	return qq{SELECT audience.event_ingest('{"userId":"$user","eventId":"e-$user","eventType":"purchase","properties":{"amount":1}}');};
}

# The keys of the messages of a topic, in order.
sub keys_of
{
	return join ' ', map { $_->{key} } $kafka->consume($_[0], timeout => 60);
}

#
# a source is read as soon as it is there
#
$kafka->create_topic('in', 2);
# Sends a message about a user who has looked at something.
sub view
{
	my ($n) = @_;
	$kafka->produce('in', { key => 'u', value => qq({"userId":"viewer","eventId":"$n","eventType":"view"}) });
	return;
}

view(1);
$node->safe_psql('postgres', connect_sql() . q{
SELECT audience.segment_create('buyers', 'count(purchase) >= 1');
SELECT audience.kafka_source_create('in');});
wait_for($node, 'a message is stored', 'SELECT count(*) FROM audience.events', is => 1);
foreach my $n (2 .. 6)
{
	$node->safe_psql('postgres', q{SELECT audience.kafka_source_pause('in')});
	view($n);
	$node->safe_psql('postgres', q{SELECT audience.kafka_source_resume('in')});
	wait_for($node, "and another when it is resumed: $n", 'SELECT count(*) FROM audience.events', is => $n);
}
is($node->safe_psql('postgres', 'SELECT at, message FROM audience.stat_kafka_errors'), '', 'no broker was waited for');

# partitions that are added are found, though nothing else happens
$kafka->add_partitions('in', 3);
$kafka->produce('in', { key => 'u', partition => 2, value => '{"userId":"viewer","eventId":"7","eventType":"view"}' });
wait_for($node, 'a message of a new partition', 'SELECT count(*) FROM audience.events', is => 7);

# nor is one waited for longer than it is away, should nothing come of it
$kafka->kill;
wait_for($node, 'the broker is away', 'SELECT DISTINCT state FROM audience.stat_kafka_source', is => 'waiting for broker');
$kafka->start;
wait_for($node, 'it is back', 'SELECT DISTINCT state FROM audience.stat_kafka_source', is => 'running', within => 5);
$node->safe_psql('postgres', q{SELECT audience.kafka_source_drop('in')});

#
# rows that become visible late: the transaction with the higher xid has the
# lower id of a row, and runs on while others commit
#
$kafka->create_topic('late', 1);
$node->safe_psql('postgres', q{SELECT audience.kafka_sink_create('late', 'transitions')});
wait_for($node, 'the sink runs', 'SELECT state FROM audience.stat_kafka_sink', is => 'running');

my $older = $node->background_psql('postgres');
my $younger = $node->background_psql('postgres');
$older->query_safe('BEGIN; SELECT pg_current_xact_id()');
$younger->query_safe('BEGIN;' . buy_sql('late'));
$older->query_safe(buy_sql('early'));
$older->query_safe('COMMIT');
wait_for($node, 'the one that commits first is sent', 'SELECT acked, depth FROM audience.stat_kafka_sink', is => '1|0');
foreach my $n (1 .. 3)
{
	$node->safe_psql('postgres', buy_sql("between$n"));
	wait_for($node, "and so are others: $n", 'SELECT acked, depth FROM audience.stat_kafka_sink', is => 1 + $n . '|0');
}
$younger->query_safe('COMMIT');
wait_for($node, 'the one that was there all the time, too', 'SELECT acked, depth FROM audience.stat_kafka_sink', is => '5|0');

# the same, of one that is prepared and outlives the server
$older->query_safe('BEGIN; SELECT pg_current_xact_id()');
$younger->query_safe('BEGIN;' . buy_sql('prepared'));
$older->query_safe(buy_sql('before'));
$younger->query_safe(q{PREPARE TRANSACTION 'p'});
$older->query_safe('COMMIT');
wait_for($node, 'beside one that is prepared', 'SELECT acked, depth FROM audience.stat_kafka_sink', is => '6|0');
$_->quit foreach $older, $younger;
$node->restart;
wait_for($node, 'the relay is back', 'SELECT state FROM audience.stat_kafka_sink', is => 'running');
foreach my $n (1 .. 2)
{
	$node->safe_psql('postgres', buy_sql("after$n"));
	wait_for($node, "after a restart: $n", 'SELECT acked, depth FROM audience.stat_kafka_sink', is => "$n|0");
}
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
wait_for($node, 'it is committed and sent', 'SELECT acked, depth FROM audience.stat_kafka_sink', is => '3|0');
is(keys_of('late'), 'early between1 between2 between3 late before after1 after2 prepared', 'each of them once');
is($node->safe_psql('postgres', 'SELECT retried, errors FROM audience.stat_kafka_sink'), '0|0', 'and nothing had to be sent again');

#
# a restored copy goes on with numbers that the original uses as well
#
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->safe_psql('postgres', q{SELECT audience.kafka_sink_pause('late')} . ';' . buy_sql('waiting'));
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'a dump');
$node->safe_psql('postgres', q{SELECT audience.kafka_sink_resume('late')} . ';' . buy_sql('original'));
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copy'), $dump ], 'is restored');
$node->safe_psql('copy', buy_sql('copy'));
is($node->safe_psql('copy', 'SELECT state, depth FROM audience.stat_kafka_sink'), 'not activated|2', 'the copy keeps to itself');
$node->safe_psql('copy', q{SELECT audience.kafka_sink_resume('late'), audience.kafka_activate()});
wait_for($node, "$_ has sent all", 'SELECT depth FROM audience.stat_kafka_sink', db => $_, is => 0) foreach qw(postgres copy);
my %ids;
push @{ $ids{ $_->{headers}[0][1] } }, $_->{key} foreach (grep { $_->{key} =~ /waiting|original|copy/ } $kafka->consume('late'));
is_deeply([ sort map { join '+', @$_ } values %ids ], [ 'copy', 'original', 'waiting+waiting' ],
	'what both have has one id, and nothing else');
$node->safe_psql('postgres', 'DROP DATABASE copy');

#
# a broker that refuses a message: why is said as it is
#
$kafka->create_topic('small', 1, 'max.message.bytes' => '10');
$node->safe_psql('postgres', q{SELECT audience.kafka_sink_create('small', 'transitions')} . ';' . buy_sql('large'));
wait_for($node, 'a refusal is reported',
	q{SELECT DISTINCT last_error FROM audience.stat_kafka_sink WHERE sink = 'small' AND errors > 1},
	is => 'Broker: Message size too large');
wait_for($node, 'and the other sink goes on', q{SELECT depth FROM audience.stat_kafka_sink WHERE sink = 'late'}, is => 0);
is($node->safe_psql('postgres', q{SELECT audience.kafka_sink_drop('small')}), 1, 'what was not sent is counted');

#
# a producer that has no room: nothing else waits for it
#
$kafka->create_topic('narrow', 1);
$node->safe_psql('postgres', <<'SQL' . join ';', map { buy_sql("narrow$_") } 1 .. 9);
SELECT audience.kafka_cluster_set('away', '{"bootstrap.servers":"127.0.0.1:1","queue.buffering.max.messages":"2"}');
SELECT audience.kafka_sink_create('narrow', 'transitions', 'away');
SQL
wait_for($node, 'its broker is away', q{SELECT state, in_flight FROM audience.stat_kafka_sink WHERE sink = 'away/narrow'}, is => 'waiting for broker|2');
$node->safe_psql('postgres', buy_sql('more'));
wait_for($node, 'other sinks send', q{SELECT depth FROM audience.stat_kafka_sink WHERE sink = 'late'}, is => 0);
my $bootstrap = $kafka->bootstrap;
$node->safe_psql('postgres', qq{SELECT audience.kafka_cluster_set('away', '{"bootstrap.servers":"$bootstrap","queue.buffering.max.messages":"2"}')});
wait_for($node, 'and a new address is heard of', q{SELECT depth FROM audience.stat_kafka_sink WHERE sink = 'away/narrow'}, is => 0);
is(keys_of('narrow'), join(' ', (map { "narrow$_" } 1 .. 9), 'more'), 'everything is sent, in order');
$node->safe_psql('postgres', q{SELECT audience.kafka_sink_drop('away/narrow')});

#
# a database that is not in UTF-8
#
$kafka->create_topic('latin', 1);
$kafka->create_topic('latin-in', 1);
$node->safe_psql('postgres', q{CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'});
$node->safe_psql('latin', 'CREATE EXTENSION audience_manager;' . connect_sql() . q{
SELECT audience.segment_create('buyers', 'count(purchase) >= 1');
SELECT audience.kafka_sink_create('latin', 'transitions');
SELECT audience.kafka_source_create('latin-in');});
$kafka->produce('latin-in',
	{ key => 'k', value => qq({"userId":"J\xc3\xb6rg","eventId":"\xc3\xa9","eventType":"purchase"}) },
	{ key => 'k', value => qq({"userId":"\xe2\x82\xac","eventId":"no such character","eventType":"purchase"}) });
wait_for($node, 'transitions are sent', 'SELECT acked, depth, errors FROM audience.stat_kafka_sink', is => '1|0|0', db => 'latin');
my ($message) = $kafka->consume('latin');
is($message->{key}, "J\xc3\xb6rg", 'the key is UTF-8');
my $content = decode_json($message->{value});
is_deeply([ $content->{userId}, $content->{metadata}{eventId} ], [ "J\x{f6}rg", "\x{e9}" ], 'the message as well');
wait_for($node, 'what the encoding does not have is a dead letter',
	'SELECT partition, "offset", sqlstate FROM audience.kafka_dead_letters', is => '0|1|22P05', db => 'latin');
verify_empty($node, 'verify() in LATIN1', 'latin');

verify_empty($node);
replay_ok($node);
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal/, 'no process has crashed');

done_testing();
