# Memberships follow the real clock, with the scheduler at work: a window of two
# seconds for a thousand users, ten thousand users due in one second and a herd
# of a hundred thousand due at one instant, both while events come in.
#
# AUD_TEST_USERS makes the herd smaller or larger.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $users = env_number('AUD_TEST_USERS', 100000);
my $node = start_node('herd', conf => worker_conf() . "fsync = off\nmax_wal_size = 4GB\n");

# How late the transitions of a segment's expiry were recorded, in seconds: the
# median, the largest, and how many.
sub lateness
{
	my ($segment) = @_;
	return split /\|/, $node->safe_psql('postgres', <<"SQL");
SELECT round(percentile_disc(0.5) WITHIN GROUP (ORDER BY late)::numeric, 3), round(max(late)::numeric, 3), count(*)
FROM (SELECT extract(epoch FROM recorded_at - occurred_at) AS late FROM audience.transitions
	WHERE segment_id = '$segment' AND reason = 'expired') l
SQL
}

# Ingests events of users of its own, for some seconds, beside what the code
# does; the statements' latencies in ms, in order.
sub ingesting
{
	my ($seconds, $code) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	append_to_file("$dir/ingest.sql", <<'SQL');
INSERT INTO audience.events (user_id, event_type, properties)
SELECT 'busy' || (random() * 5000)::int, 'view', '{"page": 1}' FROM generate_series(1, 20);
SQL
	my ($out, $error) = ('', '');
	my $run = IPC::Run::start(
		[ $node->installed_command('pgbench'), '-n', '-h', $node->host, '-p', $node->port, '-c', 1, '-T', $seconds,
			'-f', "$dir/ingest.sql", '-l', "--log-prefix=$dir/log", 'postgres' ],
		'>', \$out, '2>', \$error);
	$code->();
	$run->finish;
	unlike($error, qr/ERROR|aborted/, 'ingestion went on');
	my @latencies = sort { $a <=> $b } map { (split / /)[2] / 1000 }
	  map { split /\n/, slurp_file($_) } glob "$dir/log*";
	return @latencies;
}

#
# a window of two seconds
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('brief', 'count(tick, LAST ''2 seconds'') >= 1')});
$node->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type) VALUES ('brief' || } . $_ . q{, 'tick')})
  foreach 1 .. 10;
$node->safe_psql('postgres', q{INSERT INTO audience.events (user_id, event_type, occurred_at)
	SELECT 'brief' || i, 'tick', now() + i * interval '1 ms' FROM generate_series(11, 1000) i});
wait_for($node, 'a window of two seconds runs empty', q{SELECT count(*) FROM audience.transitions WHERE segment_id = 'brief' AND reason = 'expired'},
	is => 1000);
my ($median, $most, $n) = lateness('brief');
note "1,000 users, a window of 2 seconds: late by $median s (median), $most s (most)";
cmp_ok($most, '<', 1, 'everyone leaves within a second of the moment');

#
# 10,000 in one second, while events come in
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('until', 'until WITHIN NEXT ''1 hour''')});
my @latencies = ingesting(8, sub {
	$node->safe_psql('postgres', <<'SQL');
SELECT audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', 'until' || i,
	'attributes', jsonb_build_object('until', audience.timestamp_text(now() + interval '4 s' + i * interval '0.1 ms'))))
	FROM generate_series(1, 10000) i));
SQL
	wait_for($node, '10,000 users due within a second', q{SELECT count(*) FROM audience.transitions WHERE segment_id = 'until' AND reason = 'expired'},
		is => 10000);
});
($median, $most, $n) = lateness('until');
note "10,000 users due in one second: late by $median s (median), $most s (most)";
cmp_ok($most, '<', 1, 'are done within a second of their moments');

#
# a herd, due at one instant that is over when the loading commits
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('herd', 'midnight BEFORE LAST ''1 hour''')});
my $took;
@latencies = ingesting(14, sub {
	$node->safe_psql('postgres', <<"SQL");
DO \$\$
DECLARE
	midnight text := audience.timestamp_text(now() - interval '1 hour');
BEGIN
	PERFORM set_config('audience.now', audience.timestamp_text(now() - interval '1 minute'), true);
	FOR i IN 0 .. $users / 5000 - 1 LOOP
		PERFORM audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', 'herd' || i * 5000 + j,
			'attributes', jsonb_build_object('midnight', midnight)))
			FROM generate_series(1, 5000) j));
	END LOOP;
END
\$\$
SQL
	my $began = time();
	wait_for($node, "$users users due at once", q{SELECT count(*) FROM audience.transitions WHERE segment_id = 'herd' AND reason = 'expired'},
		is => $users, within => 60);
	$took = time() - $began;
});
note sprintf '%d users due at once: done in %.1f s, %.0f a second; %d ingesting statements meanwhile, median %.1f ms, 99 %% %.1f ms, longest %.1f ms',
  $users, $took, $users / $took, scalar @latencies, $latencies[ @latencies / 2 ], $latencies[ @latencies * 0.99 ], $latencies[-1];
cmp_ok($latencies[-1], '<', 1000, 'ingestion did not wait');
is($node->safe_psql('postgres', q{SELECT due, errors FROM audience.stat_scheduler}), '0|0', 'nothing is left, and there was no error');
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT FROM audience.transitions WHERE segment_id = 'herd'
	GROUP BY user_id HAVING count(*) > 1) t}), 0, 'nobody twice');
verify_empty($node);

$node->stop;
done_testing();
