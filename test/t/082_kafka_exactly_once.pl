# Nothing lost, nothing twice: while events come in from Kafka and by SQL, and
# transitions go out, processes are killed, servers crash, the broker is killed
# or holds its breath, and the configuration changes, at random.
#
# Afterwards the events are those of the topic, each once, and of the SQL client
# what it has committed; and in the output topic are the committed transitions,
# every one, as they are, in order per user, and nothing else.
#
# AUD_KAFKA_EVENTS is how many events are produced (40000; 200000 is the long
# form, in which more happens, too), AUD_TEST_SEED makes it another run.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudKafkaLoad;
use AudTest;
use AudWorkers;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $events = env_number('AUD_KAFKA_EVENTS', 40000);
my $seed = env_number('AUD_TEST_SEED', 1);
my $users = $AudKafkaLoad::users;
my $began = time();

note("AUD_TEST_SEED=$seed AUD_KAFKA_EVENTS=$events");
srand($seed);

my $kafka = start_kafka();
my $bootstrap = $kafka->bootstrap;
my $node = start_node('chaos', conf => worker_conf() . "audience.kafka_consumers = 2\ndeadlock_timeout = 200ms\nlog_statement = none\n");

$kafka->create_topic('in', 8);
$kafka->create_topic('out', 3);
make_bands($node);
# and one that time turns over; a crash takes back what was committed a moment
# before, but nothing of which the world has been told
$node->safe_psql('postgres', qq{
SELECT audience.segment_create('lately', 'count(purchase, LAST ''6 seconds'') >= 2');
SELECT audience.segment_create('flagged', 'flag = true');
ALTER DATABASE postgres SET synchronous_commit = off;
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers":"$bootstrap"}');
SELECT audience.kafka_sink_create('out', 'transitions');
SELECT audience.kafka_source_create('in');});

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
		my ($status) = try_psql($node, 'postgres', "SET synchronous_commit = on; $sql", on_error_stop => 1);

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
		my ($status, $out) = try_psql($node, 'postgres', $sql);
		return $out if $status == 0;
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
	'server restarted immediately' => sub { $node->stop('immediate'); $node->start; },
	'server restarted' => sub { $node->restart },
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
my $producer = start_child(sub { produce_events($kafka, 'in', $events) });
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
child_ok($producer, 'all is produced');
append_to_file($stop, '');
child_ok($client, 'the SQL client has come to its end');
note(sprintf '%.1f s: the faults are over', time() - $began);

#
# it comes to rest
#
is($partitions, 12, 'partitions were added');
all_read($node, $kafka, 'in');
wait_for($node, 'no time is left that turns anything over', 'SELECT count(*) FROM audience.timers', is => 0, within => 60);
wait_for($node, 'everything is sent', 'SELECT depth, in_flight, state FROM audience.stat_kafka_sink', is => '0|0|running', within => 120);
note(sprintf '%.1f s: at rest', time() - $began);

#
# events: what the topic has, and what was committed by SQL
#
events_are($node, $kafka, 'in', $events);
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
load_sent($node, $kafka, 'out');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM committed_transitions'), '>', $events / 50, 'there are many transitions');
transitions_sent($node);
is($node->safe_psql('postgres', 'SELECT * FROM sent s WHERE NOT EXISTS (SELECT FROM committed_transitions c WHERE s.seq = c.seq) LIMIT 5'),
	'', 'and nothing that was not committed');
is($node->safe_psql('postgres', 'SELECT c.*, s.key, s.value FROM sent s JOIN committed_transitions c USING (seq) WHERE (s.key, s.value) IS DISTINCT FROM (c.user_id, c.value) LIMIT 5'),
	'', 'every time as it is in the table');
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
