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
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $users = env_number('AUD_TEST_USERS', 100000);
my $node = start_node('herd', conf => worker_conf() . "fsync = off\nmax_wal_size = 4GB\n");

# How late the transitions of a segment's expiry of some users were recorded, in
# seconds: the median, the largest, and how many.
sub lateness
{
	my ($segment, $users) = @_;
	return split /\|/, $node->safe_psql('postgres', <<"SQL");
SELECT round(percentile_disc(0.5) WITHIN GROUP (ORDER BY late)::numeric, 3), round(max(late)::numeric, 3), count(*)
FROM (SELECT extract(epoch FROM recorded_at - occurred_at) AS late FROM audience.transitions
	WHERE segment_id = '$segment' AND reason = 'expired' AND user_id LIKE '$users%') l
SQL
}

# Ingests events of users of its own beside what the code does; the statements'
# latencies in ms, in order.
sub ingesting
{
	my ($code) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	append_to_file("$dir/ingest.sql", <<'SQL');
INSERT INTO audience.events (user_id, event_type, properties)
SELECT 'busy' || (random() * 5000)::int, 'view', '{"page": 1}' FROM generate_series(1, 20);
SQL
	my $load = start_load($node, ["$dir/ingest.sql"], clients => 1, log => "$dir/log");
	$code->();
	# so that what went on beside it is in the log
	sleep 1;
	end_load($load, 'beside that');
	my @latencies = sort { $a <=> $b } map { (split / /)[2] / 1000 }
	  map { slurp_file($_) =~ /^(.+)\n/mg } glob "$dir/log*";
	return @latencies;
}

#
# a window of two seconds
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('brief', 'count(tick, LAST ''2 seconds'') >= 1')});
my $try = 0;
in_time(1, 'everyone leaves within a second of the moment', sub {
	my $who = 'brief' . ++$try . '-';
	$node->safe_psql('postgres', qq{INSERT INTO audience.events (user_id, event_type) VALUES ('$who$_', 'tick')})
	  foreach 1 .. 10;
	$node->safe_psql('postgres', qq{INSERT INTO audience.events (user_id, event_type, occurred_at)
		SELECT '$who' || i, 'tick', now() + i * interval '1 ms' FROM generate_series(11, 1000) i});
	wait_for($node, 'a window of two seconds runs empty', "SELECT count(*) FROM audience.transitions WHERE segment_id = 'brief' AND reason = 'expired' AND user_id LIKE '$who%'",
		is => 1000);
	my ($median, $most, $n) = lateness('brief', $who);
	note "1,000 users, a window of 2 seconds: late by $median s (median), $most s (most)";
	return $most;
});

#
# 10,000 in one second, while events come in
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('until', 'until WITHIN NEXT ''1 hour''')});
$try = 0;
in_time(1, 'are done within a second of their moments', sub {
	my $who = 'until' . ++$try . '-';
	# setting them must be over before
	my $ahead = 4 * $try;
	ingesting(sub {
		$node->safe_psql('postgres', <<"SQL");
SELECT audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', '$who' || i,
	'attributes', jsonb_build_object('until', audience.timestamp_text(now() + interval '$ahead s' + i * interval '0.1 ms'))))
	FROM generate_series(1, 10000) i));
SQL
		wait_for($node, '10,000 users due within a second', "SELECT count(*) FROM audience.transitions WHERE segment_id = 'until' AND reason = 'expired' AND user_id LIKE '$who%'",
			is => 10000, within => 40);
	});
	my ($median, $most, $n) = lateness('until', $who);
	note "10,000 users due in one second: late by $median s (median), $most s (most)";
	return $most;
});

#
# a herd, due at one instant that is over when the loading commits
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('herd', 'midnight BEFORE LAST ''1 hour''')});
$try = 0;
in_time(1000, 'ingestion did not wait', sub {
	my $who = 'herd' . ++$try . '-';
	my $took;
	my @latencies = ingesting(sub {
		$node->safe_psql('postgres', <<"SQL");
DO \$\$
DECLARE
	midnight text := audience.timestamp_text(now() - interval '1 hour');
BEGIN
	PERFORM set_config('audience.now', audience.timestamp_text(now() - interval '1 minute'), true);
	FOR i IN 0 .. $users / 5000 - 1 LOOP
		PERFORM audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', '$who' || i * 5000 + j,
			'attributes', jsonb_build_object('midnight', midnight)))
			FROM generate_series(1, 5000) j));
	END LOOP;
END
\$\$
SQL
		my $began = time();
		wait_for($node, "$users users due at once", "SELECT count(*) FROM audience.transitions WHERE segment_id = 'herd' AND reason = 'expired' AND user_id LIKE '$who%'",
			is => $users, within => 60);
		$took = time() - $began;
	});
	note sprintf '%d users due at once: done in %.1f s, %.0f a second; %d ingesting statements meanwhile, median %.1f ms, 99 %% %.1f ms, longest %.1f ms',
	  $users, $took, $users / $took, scalar @latencies, $latencies[ @latencies / 2 ], $latencies[ @latencies * 0.99 ], $latencies[-1];
	return $latencies[-1];
});
is($node->safe_psql('postgres', q{SELECT due, errors FROM audience.stat_scheduler}), '0|0', 'nothing is left, and there was no error');
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT FROM audience.transitions WHERE segment_id = 'herd'
	GROUP BY user_id HAVING count(*) > 1) t}), 0, 'nobody twice');
verify_empty($node);

$node->stop;
done_testing();
