# AudKafkaLoad: load for tests of the Kafka bridge, and what must be true of the
# tables and topics afterwards.
#
#     my $producer = start_child(sub { produce_events($kafka, 'in', 40000) });
#     ...
#     child_ok($producer, 'all is produced');
#     all_read($node, $kafka, 'in');           # the bridge has come to its end
#     events_are($node, $kafka, 'in', 40000);  # each event of the topic once
#     load_sent($node, $kafka, 'out');         # tables sent, first_sent, committed_transitions
#
# What was produced is taken from the topic itself, as a broker that dies may
# leave a message there that its producer had to send again.
package AudKafkaLoad;

use strict;
use warnings;

use AudTest;
use AudWorkers;
use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

our @EXPORT = qw(
  start_child child_ok produce_events make_bands all_read load_topic events_are load_sent transitions_sent);

# users whom events are of
our $users = 400;

my $owner = $$;
my %children;

END
{
	local $?;
	kill 'KILL', keys %children if $$ == $owner;
}

# Runs code in a process of its own, which ends with the test; its number.
sub start_child
{
	my ($code) = @_;
	my $seed = int(rand(2**31));
	my $pid = fork() // die "could not fork: $!";

	if ($pid == 0)
	{
		srand($seed);
		my $done = eval { $code->(); 1 };
		print STDERR $@ unless $done;
		POSIX::_exit($done ? 0 : 1);
	}
	$children{$pid} = 1;
	return $pid;
}

# Waits for its end; an assertion that it was a good one.
sub child_ok
{
	my ($pid, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	waitpid($pid, 0);
	delete $children{$pid};
	return is($?, 0, $name);
}

# Event number n as a message.  One in three has an id, one in four no time.
sub make_message
{
	my ($n) = @_;
	my $user = 'u' . int(rand($users));
	my $type = rand() < 0.5 ? 'purchase' : 'view';
	my $amount = 1 + int(rand(20));
	my $id = $n % 3 == 0 ? qq("eventId":"kafka/$n",) : '';
	my $time = $n % 4 == 0 ? '' : sprintf(',"timestamp":%d', time() * 1000);
	return { key => $user, value => qq({$id"userId":"$user","eventType":"$type"$time,"properties":{"n":$n,"amount":$amount}}) };
}

# Produces so many events, in a hundred pieces, some time apart, however long
# the broker is away.
sub produce_events
{
	my ($kafka, $topic, $count) = @_;
	my $client = $kafka->client(config => { 'enable.idempotence' => 'true' });
	my $piece = $count / 100;

	for (my $first = 0; $first < $count; $first += $piece)
	{
		my @messages = map { make_message($_) } $first .. $first + $piece - 1;

		until (eval { $client->produce($topic, @messages); 1 })
		{
			$client->close;
			sleep 0.3;
		}
		sleep 0.2;
	}
	$client->close;
	return;
}

# Makes segments that users enter and leave as they go on.
sub make_bands
{
	my ($node) = @_;

	$node->safe_psql('postgres', <<'SQL');
SELECT audience.segment_create('band' || n, format('totalSpent >= %s AND totalSpent < %s', n * 100, n * 100 + 100)::audience.rule)
FROM generate_series(0, 29) n;
SELECT audience.segment_create('odd', 'IN SEGMENT ''band1'' OR IN SEGMENT ''band3'' OR IN SEGMENT ''band5''');
SQL
	return;
}

# Waits until all of a topic, the only source, is stored.
sub all_read
{
	my ($node, $kafka, $topic) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @high = map { $_->[1] } $kafka->watermarks($topic);

	wait_for($node, 'everything is read', q{SELECT string_agg(next_offset::text, ' ' ORDER BY partition) FROM audience.kafka_offsets},
		is => "@high", within => 180);
	wait_for($node, 'the view says so', 'SELECT count(*), sum(lag), string_agg(DISTINCT state, $$ $$) FROM audience.stat_kafka_source',
		is => @high . '|0|running', within => 60);
	return;
}

# Puts the messages of a topic into a table.
sub load_topic
{
	my ($node, $kafka, $topic) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . "/$topic";

	append_to_file($path, $kafka->script('consume', $topic));
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE topic_$topic (partition int, "offset" bigint, key text, value jsonb, headers text);
\\copy topic_$topic FROM '$path' WITH (FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x01')
SQL
	return;
}

# The events that are there, but for those of SQL (sql/...), are those of the
# topic, to which so many have been produced; each once, as it is there.
sub events_are
{
	my ($node, $kafka, $topic, $count) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	load_topic($node, $kafka, $topic);
	$node->safe_psql('postgres', <<"SQL");
CREATE VIEW expected_events AS
SELECT DISTINCT value->>'userId' AS user_id, coalesce(value->>'eventId', format('$topic/%s/%s', partition, "offset")) AS event_id,
	value->>'eventType' AS event_type, value->'properties' AS properties, (value->>'timestamp')::bigint AS at
FROM topic_$topic;
CREATE VIEW stored_events AS
SELECT e.user_id, e.event_id, e.event_type, e.properties,
	CASE WHEN (e.properties->>'n')::int % 4 > 0 THEN (extract(epoch FROM e.occurred_at) * 1000)::bigint END AS at
FROM audience.events e WHERE e.event_id NOT LIKE 'sql/%';
SQL
	is($node->safe_psql('postgres', "SELECT count(DISTINCT value->'properties'->>'n'), count(*) >= $count FROM topic_$topic"),
		"$count|t", 'the topic has what was to be produced');
	is($node->safe_psql('postgres', 'SELECT count(*) - (SELECT count(*) FROM expected_events) FROM stored_events'),
		0, 'as many events as in the topic');
	is($node->safe_psql('postgres', <<'SQL'), '', 'and the same');
(SELECT 'lost', * FROM (TABLE expected_events EXCEPT ALL TABLE stored_events) a LIMIT 10)
UNION ALL (SELECT 'not in the topic', * FROM (TABLE stored_events EXCEPT ALL TABLE expected_events) b LIMIT 10)
SQL
	is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.kafka_dead_letters'), 0, 'no dead letters');
	return;
}

# Makes tables of what was sent, of each message's first occurrence, and of what
# should have been sent.
sub load_sent
{
	my ($node, $kafka, $topic) = @_;

	load_topic($node, $kafka, $topic);
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE sent AS
SELECT t.partition, t."offset", t.key, t.value, t.headers, (h.parts)[1] AS installation, (h.parts)[2] AS origin, (h.parts)[3]::bigint AS seq
FROM topic_$topic t LEFT JOIN LATERAL regexp_match(t.headers, '^audience-event-id=([0-9a-f-]{36})/([0-9a-f]+)/t([0-9]+)\$') h (parts) ON true;
CREATE INDEX ON sent (seq);
CREATE TABLE first_sent AS SELECT DISTINCT ON (seq) * FROM sent ORDER BY seq, partition, "offset";
CREATE TABLE committed_transitions AS
SELECT seq, user_id, jsonb_build_object('userId', user_id, 'segmentId', segment_id, 'action', action, 'reason', reason,
	'timestamp', audience.timestamp_text(occurred_at), 'metadata', metadata) AS value
FROM audience.transitions;
CREATE INDEX ON committed_transitions (seq);
SQL
	note('events: ' . $node->safe_psql('postgres', 'SELECT count(*) FROM audience.events')
		  . ', transitions: ' . $node->safe_psql('postgres', 'SELECT count(*) FROM committed_transitions')
		  . ', sent: ' . $node->safe_psql('postgres', 'SELECT count(*) FROM sent'));
	return;
}

# Every committed transition was sent, as it is; to be asked after load_sent.
sub transitions_sent
{
	my ($node) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql('postgres', 'SELECT * FROM sent WHERE installation IS DISTINCT FROM (SELECT id::text FROM audience.kafka_installation) LIMIT 5'),
		'', 'each message has its id');
	is($node->safe_psql('postgres', <<'SQL'), '', 'every transition is there, as it is in the table');
SELECT * FROM committed_transitions c
WHERE NOT EXISTS (SELECT FROM sent s WHERE s.seq = c.seq AND s.key = c.user_id AND s.value = c.value) LIMIT 5
SQL
	is($node->safe_psql('postgres', 'SELECT headers FROM sent GROUP BY headers HAVING count(DISTINCT (key, value)) > 1 LIMIT 5'),
		'', 'an id is always of the same message');
	is($node->safe_psql('postgres', 'SELECT key FROM sent GROUP BY key HAVING count(DISTINCT partition) > 1 LIMIT 5'),
		'', 'a key is always in the same partition');
	return;
}

1;
