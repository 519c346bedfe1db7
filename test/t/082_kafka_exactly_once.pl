# Nothing lost, nothing twice: while events come in from Kafka and by SQL, and
# transitions go out, processes are killed, servers crash, the broker is killed
# or holds its breath, and the configuration changes, at random.
#
# Afterwards the events are those of the topic, each once, and of the SQL client
# what it has committed; and in the output topic are the committed transitions,
# every one, as they are, in order per user, and nothing else.
#
# What was produced is taken from the topic itself, as a broker that dies may
# leave a message there that its producer had to send again.
#
# AUD_KAFKA_EVENTS is how many events are produced (40000; 200000 is the long
# form, in which more happens, too), AUD_TEST_SEED makes it another run.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use List::Util qw(shuffle);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $events = env_number('AUD_KAFKA_EVENTS', 40000);
my $seed = env_number('AUD_TEST_SEED', 1);
my $users = 400;
my $began = time();

note("AUD_TEST_SEED=$seed AUD_KAFKA_EVENTS=$events");
srand($seed);

my $kafka = start_kafka();
my $bootstrap = $kafka->bootstrap;
my $node = start_node('chaos', conf => worker_conf() . "audience.kafka_consumers = 2\ndeadlock_timeout = 200ms\nlog_statement = none\n");

$kafka->create_topic('in', 8);
$kafka->create_topic('out', 3);
# bands that users enter and leave as they go on, and one that time turns over
$node->safe_psql('postgres', qq{
SELECT audience.segment_create('band' || n, format('totalSpent >= %s AND totalSpent < %s', n * 100, n * 100 + 100)::audience.rule)
FROM generate_series(0, 9) n;
SELECT audience.segment_create('odd', 'IN SEGMENT ''band1'' OR IN SEGMENT ''band3'' OR IN SEGMENT ''band5''');
SELECT audience.segment_create('lately', 'count(purchase, LAST ''6 seconds'') >= 2');
SELECT audience.segment_create('flagged', 'flag = true');
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers":"$bootstrap"}');
SELECT audience.kafka_sink_create('out', 'transitions');
SELECT audience.kafka_source_create('in');});

#
# two processes that write
#
my @children;
my $owner = $$;

END
{
	local $?;
	kill 'KILL', @children if defined $owner && $$ == $owner;
}

# Runs code in a process of its own, which ends with it.
sub start_child
{
	my ($code) = @_;
	my $pid = fork() // die "could not fork: $!";

	if ($pid == 0)
	{
		srand($seed + 1 + @children);
		my $done = eval { $code->(); 1 };
		print STDERR $@ unless $done;
		POSIX::_exit($done ? 0 : 1);
	}
	push @children, $pid;
	return $pid;
}

# Event number n as a message.  One in three has an id; one in four no time.
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

# Produces all events, over the time that the faults take, more or less.
sub produce_all
{
	my $client = $kafka->client(config => { 'enable.idempotence' => 'true' });
	my $chunk = $events / 100;

	for (my $first = 0; $first < $events; $first += $chunk)
	{
		my @messages = map { make_message($_) } $first .. $first + $chunk - 1;

		until (eval { $client->produce('in', @messages); 1 })
		{
			note("producing again from $first: $@");
			$client->close;
			sleep 0.3;
		}
		sleep 0.2;
	}
	$client->close;
	return;
}

# Ingests by SQL until told to stop; writes down what is known to be committed.
sub write_by_sql
{
	my ($stop, $committed) = @_;
	open(my $file, '>', $committed) or die "could not open $committed: $!";
	$file->autoflush;

	for (my $n = 0; !-e $stop; $n++)
	{
		# of a transaction that commits, and of what is rolled back
		my ($kept, $lost) = map {
			my $kind = $_;
			'SELECT audience.events_ingest(jsonb_build_array(' . join(',', map {
					sprintf(q{'{"eventId":"sql/%s/%d/%d","userId":"u%d","eventType":"purchase","properties":{"amount":%d}}'::jsonb},
						$kind, $n, $_, int(rand($users)), 30 + rand(100)) } 1 .. 4) . '));'
		} qw(kept lost);
		my $user = 'u' . int(rand($users));
		my $flag = rand() < 0.5 ? 'true' : 'false';
		my $sql = (
			$kept,
			"BEGIN; $lost SELECT audience.profile_set('$user', '{\"flag\":$flag}'); ROLLBACK;",
			"BEGIN; $kept SAVEPOINT s; $lost ROLLBACK TO s; SELECT pg_sleep(0.3); COMMIT;",
			"BEGIN; SAVEPOINT s; $kept RELEASE s; SELECT audience.profile_set('$user', '{\"flag\":$flag}'); COMMIT;",
			"DO \$\$ BEGIN PERFORM pg_sleep(0.1); $lost RAISE EXCEPTION 'no'; END \$\$;" =~ s/ SELECT / PERFORM /r)[ $n % 5 ];
		my ($status) = $node->psql('postgres', "SET synchronous_commit = on; $sql", on_error_stop => 1);

		print $file "$n\n" if $status == 0 && $sql =~ m{sql/kept};
		sleep 0.05;
	}
	close $file;
	return;
}

#
# what goes wrong
#
# The answer to a query, whatever becomes of the server meanwhile.
sub ask
{
	my ($sql) = @_;
	my $until = time() + 60;

	while (1)
	{
		my ($status, $out) = $node->psql('postgres', $sql);
		return $out if defined $status && $status == 0;
		die "no answer to $sql" if time() > $until;
		sleep 0.1;
	}
}

# Some process of a kind; undef where there is none now.
sub some_process
{
	my ($kind) = @_;
	my @pids = split /\n/,
	  ask("SELECT pid FROM pg_stat_activity WHERE backend_type = '$kind' AND pid <> pg_backend_pid() ORDER BY pid");
	return @pids ? $pids[ rand @pids ] : undef;
}

# kill -9, after which the postmaster starts everything anew.
sub kill_process
{
	my ($kind) = @_;
	my $pid = some_process($kind);
	kill 'KILL', $pid if defined $pid;
	return;
}

# A statement about some process of a kind.
sub signal_process
{
	my ($function, $kind) = @_;
	my $pid = some_process($kind);
	ask("SELECT $function($pid)") if defined $pid;
	return;
}

# Sets a parameter, and reloads the configuration.
sub set_parameter
{
	my ($name, $value) = @_;
	$node->append_conf('postgresql.conf', "$name = $value");
	$node->reload;
	return;
}

sub short_while { sleep(0.2 + rand(1)); return; }

my $partitions = 8;
my %faults = (
	'consumer killed' => sub { kill_process('audience consumer') },
	'relay killed' => sub { kill_process('audience relay') },
	'launcher killed' => sub { kill_process('audience launcher') },
	'scheduler killed' => sub { kill_process('audience scheduler') },
	'session killed' => sub { kill_process('client backend') },
	'consumer terminated' => sub { signal_process('pg_terminate_backend', 'audience consumer') },
	'relay terminated' => sub { signal_process('pg_terminate_backend', 'audience relay') },
	'scheduler terminated' => sub { signal_process('pg_terminate_backend', 'audience scheduler') },
	'consumer canceled' => sub { signal_process('pg_cancel_backend', 'audience consumer') },
	'relay canceled' => sub { signal_process('pg_cancel_backend', 'audience relay') },
	'server restarted immediately' => sub { $node->restart('immediate') },
	'server restarted' => sub { $node->restart('fast') },
	'commits not waited for' => sub { ask('ALTER DATABASE postgres SET synchronous_commit = off') },
	'commits waited for' => sub { ask('ALTER DATABASE postgres SET synchronous_commit = on') },
	'source paused' => sub {
		ask(q{SELECT audience.kafka_source_pause('in')});
		short_while();
		ask(q{SELECT audience.kafka_source_resume('in')});
	},
	'sink paused' => sub {
		ask(q{SELECT audience.kafka_sink_pause('out')});
		short_while();
		ask(q{SELECT audience.kafka_sink_resume('out')});
	},
	(map { my $n = $_; ("$n consumers" => sub { set_parameter('audience.kafka_consumers', $n) }) } 1 .. 3),
	'broker restarted' => sub { $kafka->restart });

# while the broker is away, something else goes wrong
my @of_server = grep { !/broker/ } sort keys %faults;

sub some_fault
{
	my $fault = $of_server[ rand @of_server ];
	note("  $fault");
	$faults{$fault}->();
	return;
}
$faults{'broker killed'} = sub {
	$kafka->kill;
	some_fault();
	$kafka->start;
};
$faults{'broker paused'} = sub {
	$kafka->pause;
	some_fault();
	sleep 1 + rand(2);
	$kafka->continue;
};
foreach my $n (1, 2)
{
	$faults{"partitions added $n"} = sub {
		$partitions += 2;
		$kafka->add_partitions('in', $partitions);
	};
}

my $rounds = $events > 100000 ? 4 : 1;
my $stop = PostgreSQL::Test::Utils::tempdir() . '/stop';
my $committed = PostgreSQL::Test::Utils::tempdir() . '/committed';
my $producer = start_child(\&produce_all);
my $client = start_child(sub { write_by_sql($stop, $committed) });

wait_for($node, 'events come in', 'SELECT count(*) > 0 FROM audience.events WHERE event_id NOT LIKE $$sql/%$$');
foreach my $round (1 .. $rounds)
{
	foreach my $fault (shuffle sort keys %faults)
	{
		next if $round > 1 && $fault =~ /partitions/;
		short_while();
		note(sprintf '%.1f s: %s', time() - $began, $fault);
		$faults{$fault}->();
	}
}
waitpid($producer, 0);
is($?, 0, 'all is produced');
append_to_file($stop, '');
waitpid($client, 0);
is($?, 0, 'the SQL client has come to its end');
@children = ();
note(sprintf '%.1f s: the faults are over', time() - $began);

#
# it comes to rest
#
is($partitions, 12, 'partitions were added');
my $high = join ' ', map { $_->[1] } $kafka->watermarks('in');
wait_for($node, 'everything is read',
	q{SELECT string_agg(next_offset::text, ' ' ORDER BY partition) FROM audience.kafka_offsets}, is => $high, within => 180);
wait_for($node, 'the view says so', 'SELECT count(*), sum(lag), string_agg(DISTINCT state, $$ $$) FROM audience.stat_kafka_source',
	is => '12|0|running', within => 60);
wait_for($node, 'no time is left that turns anything over', 'SELECT count(*) FROM audience.timers', is => 0, within => 60);
wait_for($node, 'everything is sent', 'SELECT depth, in_flight, state FROM audience.stat_kafka_sink', is => '0|0|running', within => 120);
note(sprintf '%.1f s: at rest', time() - $began);

#
# events: what the topic has
#
# Puts the messages of a topic into a table.
sub load_topic
{
	my ($topic) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . "/$topic";

	append_to_file($path, $kafka->script('consume', $topic));
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE topic_$topic (partition int, "offset" bigint, key text, value jsonb, headers text);
\\copy topic_$topic FROM '$path' WITH (FORMAT csv, DELIMITER E'\\t', QUOTE E'\\x01')
SQL
	return;
}

load_topic('in');
load_topic('out');
$node->safe_psql('postgres', <<'SQL');
CREATE VIEW expected_events AS
SELECT DISTINCT value->>'userId' AS user_id, coalesce(value->>'eventId', format('in/%s/%s', partition, "offset")) AS event_id,
	value->>'eventType' AS event_type, value->'properties' AS properties, (value->>'timestamp')::bigint AS at
FROM topic_in;
CREATE VIEW stored_events AS
SELECT e.user_id, e.event_id, e.event_type, e.properties,
	CASE WHEN (e.properties->>'n')::int % 4 > 0 THEN (extract(epoch FROM e.occurred_at) * 1000)::bigint END AS at
FROM audience.events e WHERE e.event_id NOT LIKE 'sql/%';
SQL
is($node->safe_psql('postgres', q{SELECT count(DISTINCT value->'properties'->>'n'), count(*) >= } . $events . q{ FROM topic_in}),
	"$events|t", 'the topic has what was to be produced');
is($node->safe_psql('postgres', 'SELECT count(*) - (SELECT count(*) FROM expected_events) FROM stored_events'), 0, 'as many events as in the topic');
is($node->safe_psql('postgres', <<'SQL'), '', 'and the same');
(SELECT 'lost', * FROM (TABLE expected_events EXCEPT ALL TABLE stored_events) a LIMIT 10)
UNION ALL (SELECT 'not in the topic', * FROM (TABLE stored_events EXCEPT ALL TABLE expected_events) b LIMIT 10)
SQL
is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.kafka_dead_letters'), 0, 'no dead letters');
is($node->safe_psql('postgres', "SELECT count(*) FROM audience.events WHERE event_id LIKE 'sql/lost/%'"), 0, 'nothing that was rolled back');
$node->safe_psql('postgres', "CREATE TABLE committed (n int);\n\\copy committed FROM '$committed'");
is($node->safe_psql('postgres', <<'SQL'), 't|', 'by SQL: transactions as a whole, and all that were committed');
SELECT (SELECT count(*) > 20 FROM committed), (SELECT string_agg(n::text, ' ') FROM (
	SELECT n FROM committed c FULL JOIN (
		SELECT split_part(event_id, '/', 3)::int AS n, count(*) AS parts FROM audience.events
		WHERE event_id LIKE 'sql/%' GROUP BY 1) e USING (n)
	WHERE e.parts IS DISTINCT FROM 4) wrong)
SQL

#
# transitions: what the output topic has
#
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE sent AS
SELECT t.partition, t."offset", t.key, t.value, t.headers, (h.parts)[1] AS installation, (h.parts)[2]::bigint AS seq
FROM topic_out t LEFT JOIN LATERAL regexp_match(t.headers, '^audience-event-id=([0-9a-f-]{36})/t([0-9]+)$') h (parts) ON true;
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
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM committed_transitions'), '>', $events / 20, 'there are many transitions');
is($node->safe_psql('postgres', 'SELECT * FROM sent WHERE installation IS DISTINCT FROM (SELECT id::text FROM audience.kafka_installation) LIMIT 5'),
	'', 'each message has its id');
is($node->safe_psql('postgres', 'SELECT * FROM committed_transitions c WHERE NOT EXISTS (SELECT FROM sent s WHERE s.seq = c.seq) LIMIT 5'),
	'', 'every transition is there');
is($node->safe_psql('postgres', 'SELECT * FROM sent s WHERE NOT EXISTS (SELECT FROM committed_transitions c WHERE s.seq = c.seq) LIMIT 5'),
	'', 'and nothing that was not committed');
is($node->safe_psql('postgres', 'SELECT c.*, s.key, s.value FROM sent s JOIN committed_transitions c USING (seq) WHERE (s.key, s.value) IS DISTINCT FROM (c.user_id, c.value) LIMIT 5'),
	'', 'every time as it is in the table');
is($node->safe_psql('postgres', 'SELECT key FROM sent GROUP BY key HAVING count(DISTINCT partition) > 1 LIMIT 5'),
	'', 'a key is always in the same partition');
is($node->safe_psql('postgres', <<'SQL'), '', 'in order per user');
SELECT * FROM (SELECT key, seq, lag(seq) OVER (PARTITION BY key ORDER BY "offset") AS before FROM first_sent) f
WHERE seq <= before LIMIT 5
SQL
is($node->safe_psql('postgres', <<'SQL'), '', 'who follows the topic, each message once, knows the memberships');
WITH followed AS (
	SELECT DISTINCT ON (value->>'userId', value->>'segmentId') value->>'userId' AS user_id, value->>'segmentId' AS segment_id, value->>'action' AS action
	FROM first_sent ORDER BY value->>'userId', value->>'segmentId', "offset" DESC),
members AS (SELECT user_id, segment_id FROM followed WHERE action = 'added'),
stored AS (SELECT user_id, segment_id FROM audience.memberships)
SELECT * FROM (TABLE members EXCEPT TABLE stored) a UNION ALL SELECT * FROM (TABLE stored EXCEPT TABLE members) b LIMIT 5
SQL

verify_empty($node);
replay_ok($node);
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal (?!9\b)|PANIC|TRAP:/, 'no process has crashed by itself');
note(sprintf '%.1f s', time() - $began);

done_testing();
