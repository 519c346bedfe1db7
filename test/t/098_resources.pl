# Resources: what a backend, and the scheduler, hold in memory does not grow with
# what they have done; what a statement takes does not grow with its events; and
# limits that were lowered do not keep a dump from being restored.
#
# Memory is read from within (pg_backend_memory_contexts) and from outside
# (RssAnon in /proc: what is the process's own), at equal steps, after a part of
# the load that fills all caches.  AUD_RESOURCE_EVENTS is how many events one
# backend takes, AUD_RESOURCE_CHANGES how many changes of definitions it makes.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudSession;
use AudTest;
use AudWorkers;
use List::Util qw(max min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $nevents = env_number('AUD_RESOURCE_EVENTS', 100_000);
my $nchanges = env_number('AUD_RESOURCE_CHANGES', 500);
note("AUD_RESOURCE_EVENTS=$nevents AUD_RESOURCE_CHANGES=$nchanges");

# what may come and go from one look to the next: a block of malloc's, a cached plan
my $slack_contexts = 512 * 1024;
my $slack_rss = 4 * 1024 * 1024;

my $node = start_node('resources', conf => worker_conf() . "fsync = off\nmax_wal_size = 2GB\nlog_min_messages = warning\n");
$node->safe_psql('postgres', <<'SQL');
SELECT audience.trait_create('pages', 'count_distinct', 'view', 'page'),
	audience.trait_create('lately', 'sum', 'purchase', 'amount', time_window => '1 hour'),
	audience.segment_create('spender', 'totalSpent > 1000'), audience.segment_create('busy', 'count(view, LAST ''10 minutes'') > 3'),
	audience.segment_create('extreme', 'max(purchase.amount, LAST ''1 hour'') > 90'), audience.segment_create('reader', 'pages > 5 AND plan ~ ''^(a|b)+[0-9]$'''),
	audience.segment_create('sequence', 'SEQUENCE(view, NOT leave, purchase WITHIN ''1 minute''; LAST ''1 hour'')'),
	audience.segment_create('nested', 'IN SEGMENT ''busy'' AND NOT IN SEGMENT ''spender'''), audience.segment_create('list', type => 'static');
SQL

# what goes through all events comes before there are many
definitions();
scheduler();
events();
statement();
verify_empty($node);
replay_ok($node);
restore();
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# A process's own memory, in bytes; undef where there is no /proc.
sub rss
{
	my ($pid) = @_;

	open my $file, '<', "/proc/$pid/status" or return;
	my ($kb) = map { /^RssAnon:\s+([0-9]+) kB/ ? $1 : () } <$file>;
	close $file;
	return defined $kb ? $kb * 1024 : undef;
}

# What a session holds: in its memory contexts, all and by name, and of the system.
sub look
{
	my ($session) = @_;
	my %names = map { split /\|/ } split /\n/,
	  $session->must('SELECT name, sum(total_bytes) FROM pg_backend_memory_contexts GROUP BY name');
	my $sum = 0;

	$sum += $_ foreach values %names;
	return { names => \%names, contexts => $sum, rss => rss($session->{pid}) };
}

# What the looks in the second half of a series say: the least of its last quarter is
# not above the most of what was before.
sub flat
{
	my ($label, @looks) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @before = @looks[ $#looks / 2 .. $#looks * 3 / 4 ];
	my @after = @looks[ $#looks * 3 / 4 + 1 .. $#looks ];

	foreach my $what ([ contexts => $slack_contexts, 'memory contexts' ], [ rss => $slack_rss, 'private memory' ])
	{
		my ($key, $slack, $words) = @$what;
		if (grep { !defined $_->{$key} } @looks)
		{
			pass("$label: $words (cannot be read here)");
			next;
		}
		my $most = max(map { $_->{$key} } @before);
		my $least = min(map { $_->{$key} } @after);
		note(sprintf '%s: %s in kB: %s', $label, $words, join ' ', map { int($_->{$key} / 1024) } @looks);
		cmp_ok($least, '<=', $most + $slack, "$label: $words do not grow") or grown(@looks);
	}
	return;
}

# Says which contexts have grown.
sub grown
{
	my (@looks) = @_;
	my ($before, $after) = map { $_->{names} // {} } @looks[ $#looks / 2, $#looks ];

	foreach my $name (sort keys %$after)
	{
		my $growth = $after->{$name} - ($before->{$name} // 0);
		diag(sprintf '%s: %d more bytes', $name, $growth) if $growth > 50_000;
	}
	return;
}

# One backend takes events on all roads, for the same users.
sub events
{
	my $session = AudSession->new($node);
	my $steps = 16;
	my $each = int($nevents / $steps / 10);
	my $at = 0;
	my @looks;

	foreach my $step (1 .. $steps)
	{
		foreach my $part (1 .. 10)
		{
			my $from = $at;
			$at += $each;
			my $facts = "SELECT 'u' || (i::bigint * 7919) % 500 AS u, 'e' || i AS e, (ARRAY['view', 'purchase', 'leave', 'other' || i % 50])[1 + i % 4] AS t,"
			  . " jsonb_build_object('amount', i % 97, 'page', 'p' || i % 13) AS p FROM generate_series($from, $at - 1) i";
			if ($part % 3 == 0)
			{
				$session->must("SELECT audience.events_ingest(jsonb_agg(jsonb_build_object('userId', u, 'eventId', e, 'eventType', t, 'properties', p))) FROM ($facts) f");
			}
			else
			{
				$session->must("INSERT INTO audience.events (user_id, event_id, event_type, properties) SELECT u, e, t, p FROM ($facts) f");
			}
		}
		# and what else it may be asked
		$session->must("SELECT audience.event_ingest(jsonb_build_object('userId', 'u' || i, 'eventType', 'view')) FROM generate_series(1, 20) i");
		$session->must("SELECT audience.profiles_set(jsonb_agg(jsonb_build_object('userId', 'u' || i, 'attributes', jsonb_build_object('plan', 'ab' || (i + $step) % 10)))) FROM generate_series(1, 100) i");
		$session->must("SELECT audience.segment_preview(format('count(view) > %s AND plan ~ ''^a%s''', $step, $step)::audience.rule)");
		$session->must("SELECT count(*) FROM audience.profiles p, audience.rule_explain('pages > 3', p.user_id) WHERE p.user_id < 'u2'");
		$session->must("SELECT audience.segment_add('list', ARRAY['u1', 'u2']), audience.segment_remove('list', ARRAY['u1', 'u2'])");
		$session->must('SELECT audience.run_due(), audience.profile_rebuild(ARRAY[\'u1\', \'u2\'])');
		# errors, too
		$session->ask("SELECT audience.event_ingest('{\"userId\":\"u1\"}')");
		$session->ask("INSERT INTO audience.events (user_id, event_type) SELECT 'u' || i, CASE i WHEN 400 THEN '' ELSE 'view' END FROM generate_series(1, 400) i");
		push @looks, look($session);
	}
	$session->finish;
	flat("$at events", @looks);
	return;
}

# One backend changes definitions, and loads them after each change.
sub definitions
{
	my $session = AudSession->new($node);
	my $steps = 16;
	my $rounds = int($nchanges / $steps / 5) || 1;
	my $round = 0;
	my @looks;

	foreach my $step (1 .. $steps)
	{
		foreach (1 .. $rounds)
		{
			my $event = "SELECT audience.event_ingest('{\"userId\":\"u1\",\"eventType\":\"view\",\"properties\":{\"page\":\"p$round\"}}')";
			$round++;
			$session->must("SELECT audience.segment_create('changing', format('count(view WHERE page = ''p%s'', LAST ''%s s'') > 1 AND plan = ''%s''', $round, $round + 60, $round)::audience.rule)");
			$session->must($event);
			$session->must("SELECT audience.segment_update('changing', rules => format('sum(purchase.amount WHERE page = ''p%s'') > %s OR SEQUENCE(view, \"v$round\")', $round, $round)::audience.rule)");
			$session->must($event);
			$session->must("SELECT audience.trait_create('changing', 'max', 'purchase', 'x$round')");
			$session->must($event);
			$session->must("SELECT audience.segment_delete('changing')");
			$session->ask("SELECT audience.segment_create('changing', 'changing > 1 AND')");
			$session->must("SELECT audience.trait_drop('changing')");
		}
		push @looks, look($session);
	}
	$session->finish;
	flat(5 * $round . ' changes of definitions', @looks);
	return;
}

# What a statement takes does not depend on how many events it has.
sub statement
{
	my (@most, @rss);

	foreach my $n (25_000, 100_000)
	{
		my $session = AudSession->new($node);
		my $watcher = AudSession->new($node);
		my $peak = 0;

		$session->must("BEGIN; SET LOCAL work_mem = '4MB'; SELECT audience.engine_work_reset()");
		$session->begin("INSERT INTO audience.events (user_id, event_id, event_type, properties) SELECT 's' || i % 10000, 's' || i, 'view', '{\"page\":1}' FROM generate_series(1, $n) i");
		until ($session->ended)
		{
			$peak = max($peak, rss($session->{pid}) // 0);
			sleep 0.01;
			$session->{psql}->pump_nb;
		}
		$session->wait;
		is($session->{state}, '00000', "a statement of $n events");
		push @rss, $peak;
		push @most, $session->must("SELECT greatest(sum(value) FILTER (WHERE counter = 'largest_batch'), sum(value) FILTER (WHERE counter = 'event_bytes')) FROM audience.engine_work()");
		$session->must('ROLLBACK');
		$_->finish foreach $session, $watcher;
	}
	# and what is made anew of a user not on how many it has
	my @anew;
	foreach my $n (2_000, 20_000)
	{
		push @anew, (split /\n/, $node->safe_psql('postgres', <<"SQL"))[-1];
BEGIN;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'whale', now() - i * interval '1 ms', 's' || i, (ARRAY['view', 'purchase'])[1 + i % 2], '{"amount":1,"page":1}' FROM generate_series(1, $n) i;
SELECT audience.segment_create('not either', 'SEQUENCE(view, purchase, NOT view WITHIN ''1 minute'')', refresh => 'later');
SELECT audience.engine_work_reset();
SELECT audience.profile_rebuild('{whale}');
SELECT value FROM audience.engine_work() WHERE counter = 'largest_batch';
ROLLBACK;
SQL
	}
	cmp_ok($anew[1], '<', $anew[0] + 65536, "ten times a user's events do not take more memory to make its state anew");
	note(sprintf 'a user of 2,000 and of 20,000 events made anew: %d and %d bytes', @anew);
	note(sprintf 'statements of 25,000 and 100,000 events: largest batch or sort %s bytes, private memory %s bytes', join(' and ', @most), join ' and ', @rss);
	cmp_ok($most[1], '<', 1.5 * $most[0], 'four times the events do not take more memory in a batch');
	cmp_ok($rss[1], '<', $rss[0] + 16 * 1024 * 1024, 'nor in the process');
	return;
}

# The scheduler's memory, by herds of timers, fills and changes of definitions.
sub scheduler
{
	my $steps = 12;
	my $herd = int($nevents / 100);
	my @looks;
	my $done = 0;

	wait_state($node, 'sleeping', 'the scheduler sleeps', within => 60);
	my $pid = scheduler_pids($node, 'postgres');
	$node->safe_psql('postgres', set_timers("SELECT 't' || i, now() FROM generate_series(1, $herd) i"));
	foreach my $step (1 .. $steps)
	{
		$node->safe_psql('postgres', set_timers("SELECT 't' || i, now() + i * interval '10 us' FROM generate_series(1, $herd) i"));
		$node->safe_psql('postgres', "SELECT audience.segment_create('later', 'turns IS NOT NULL AND count(view) >= $step', refresh => 'later')");
		my $until = time + 60;
		until ($node->safe_psql('postgres', q{SELECT NOT EXISTS (SELECT FROM audience.timers WHERE due_at <= now()) AND NOT EXISTS (SELECT FROM audience.refreshes)}) eq 't')
		{
			die 'the scheduler does not come to an end' if time > $until;
			sleep 0.05;
		}
		$node->safe_psql('postgres', q{SELECT audience.segment_delete('later')});

		my $offset = -s $node->logfile;
		$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($pid)");
		my $total;
		until (defined $total)
		{
			die 'the scheduler does not say what it holds' if time > $until;
			($total) = slurp_file($node->logfile, $offset) =~ /Grand total: ([0-9]+) bytes/;
			sleep 0.05 unless defined $total;
		}
		push @looks, { contexts => $total, rss => rss($pid) };
	}
	is(scheduler_pids($node, 'postgres'), $pid, 'it is the same process all the time');
	is(scheduler_field($node, 'errors'), '0', 'without errors');
	flat('the scheduler', @looks);
	return;
}

# A dump is restored where every limit is as low as it can be.
sub restore
{
	my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';

	$node->safe_psql('postgres', <<'SQL');
SELECT audience.segment_create('large', '{"all":[{"any":[{"field":"a","operator":"in","value":[1,2,3]},{"field":"b","operator":"regex","value":"^(a+)x{30}\\1"}]},{"sequence":[{"event":["a","b"]},{"event":"c"}]}]}');
SELECT audience.profile_set('u1', jsonb_build_object('a', repeat('x', 5000)));
CREATE DATABASE target;
SQL
	my @limits = split /\n/, $node->safe_psql('postgres', <<'SQL');
SELECT name FROM pg_settings WHERE name ~ '^audience\.max_' AND name NOT IN ('audience.max_future_skew', 'audience.max_distinct_values')
SQL
	cmp_ok(scalar @limits, '>', 12, 'there are limits');
	$node->safe_psql('postgres', "ALTER DATABASE target SET $_ = " . ($_ eq 'audience.max_user_events_size' ? 64 : 1)) foreach @limits;
	$node->safe_psql('postgres', 'ALTER DATABASE target SET audience.linear_regex = on');
	$node->safe_psql('postgres', 'ALTER DATABASE target SET audience.max_distinct_values = 1000');
	$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'a dump');
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('target'), '-f', $dump ], 'is restored where all limits are at their lowest');
	verify_empty($node, 'and whole', 'target');
	is($node->safe_psql('target', 'SELECT count(*) FROM audience.events'), $node->safe_psql('postgres', 'SELECT count(*) FROM audience.events'), 'with all events');
	my ($status, undef, $error) = $node->psql('target', q{SELECT audience.segment_create('one more', 'a = 1')});
	like($error, qr/there are too many segments/, 'though nothing more can be entered');
	return;
}
