# Crashes: whatever is going on when a process is killed, or the server, or a
# standby takes over, what was confirmed is there, what is there is whole, and
# everything goes on.
#
# Each round, sessions do everything at once (AudLoad.pm) until, at a random
# moment, one of these happens:
#   postmaster	kill -9 of the postmaster; the others notice, or not, as they can
#   everybody	kill -9 of the postmaster and all its processes
#   backend		kill -9 of a session
#   worker		kill -9 of the scheduler or the launcher
#   process		kill -9 of another process: checkpointer, WAL writer, ...
#   immediate	an immediate shutdown
#   promotion	a standby is promoted, before or after the primary is killed
# Before that, sessions are canceled and ended in some rounds, and statements
# are run by every isolation level.  full_page_writes, synchronous_commit,
# and whether a checkpoint has just been made vary, too; and a standby is
# synchronous or not.
#
# AUD_CRASH_ROUNDS is how many rounds there are, AUD_TEST_SEED where they begin.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudLoad;
use AudTest;
use AudWorkers;
use Cwd qw(abs_path);
use File::Path qw(rmtree);
use List::Util qw(max sum);
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $rounds = env_number('AUD_CRASH_ROUNDS', 20);
my $seed = env_number('AUD_TEST_SEED', 1);
srand($seed);
# others that are tested beside this have deadlines
POSIX::nice(5);
note("AUD_TEST_SEED=$seed AUD_CRASH_ROUNDS=$rounds");

# rounds that share a database
my $rounds_per_database = 8;
# one round in so many has a standby
my $rounds_per_standby = 10;

my $conf = $AudLoad::conf . <<'CONF';
wal_level = replica
max_wal_senders = 5
max_connections = 40
log_min_messages = warning
deadlock_timeout = 200ms
checkpoint_timeout = 30s
wal_receiver_status_interval = 1s
CONF

my $node = start_node('crash', conf => $conf, no_extension => 1);
my $dir = PostgreSQL::Test::Utils::tempdir();
my ($load, $db);
my %kills;
my %seconds;
my %sums;
my $standbys = 0;

# how often each of the ways to go comes
my @ways = (('postmaster') x 3, ('everybody') x 4, ('backend') x 4, ('worker') x 3, 'process', 'immediate');

foreach my $round (1 .. $rounds)
{
	my $from = time;

	new_database($round) if ($round - 1) % $rounds_per_database == 0;
	my $standby = $round % $rounds_per_standby == 5;
	run_round($round, $standby ? 'promotion' : $ways[ int rand @ways ]);
	$seconds{all} += time - $from;
	last if !Test::More->builder->is_passing && $ENV{AUD_CRASH_STOP};
}

note("AUD_TEST_SEED=$seed: $rounds rounds: " . join ', ', map { "$kills{$_} $_" } sort keys %kills);
note(join ', ', map { sprintf '%s %.1f s', $_, $seconds{$_} } sort keys %seconds);
note('clients: ' . $load->summary);
note(join ', ', map { "$sums{$_} $_" } sort keys %sums);
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Begins with a new database; the last one goes.
sub new_database
{
	my ($round) = @_;
	my $old = $load;
	my $last = $db;

	$db = "load$round";
	$node->safe_psql('postgres', "DROP DATABASE $last") if defined $last;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager; CREATE EXTENSION amcheck');
	$load = AudLoad->new(db => $db, seed => $seed + $round, dir => $dir, maintenance => ['REINDEX TABLE'],
		crowd => ($round / $rounds_per_database) % 3 == 1 ? 800 : 50);
	$load->{counts} = $old->{counts} if $old;
	$load->prepare($node);
	return;
}

# The processes below the postmaster, as { pid => title }.
sub children
{
	my ($postmaster) = @_;
	my %children;

	foreach my $path (glob '/proc/[0-9]*/stat')
	{
		my ($pid) = $path =~ m{(\d+)};
		open my $file, '<', $path or next;
		my $stat = <$file> // next;
		next unless $stat =~ /\) \S (\d+)/ && $1 == $postmaster;
		open my $title, '<', "/proc/$pid/cmdline" or next;
		$children{$pid} = (<$title> // '') =~ s/\0.*//sr;
	}
	return %children;
}

# The processes at work in a directory, as those of a server are in its data directory.
sub processes_in
{
	my ($dir) = @_;
	return grep { (readlink("/proc/$_/cwd") // '') eq $dir } map { m{(\d+)} } glob '/proc/[0-9]*';
}

# Removes what shared memory a server that was killed has left, which otherwise
# its next start would.
sub remove_memory
{
	my ($of) = @_;
	my (undef, $id) = split ' ', (split /\n/, slurp_file($of->data_dir . '/postmaster.pid'))[6];

	shmctl($id, 0, 0) or diag("could not remove shared memory $id: $!");    # 0: IPC_RMID
	return;
}

# Kills the server of a node as a whole: those, too, that are just being started.
# One that is left could wait for ever for a lock of another's.
sub kill_everybody
{
	my ($of) = @_;
	my $dir = abs_path($of->data_dir);

	kill 'KILL', $of->{_pid};
	wait_gone(30, $of->{_pid});
	while (my @left = processes_in($dir))
	{
		kill 'KILL', @left;
		sleep 0.01;
	}
	# it is not there any more
	$of->{_pid} = undef;
	return;
}

sub set_conf
{
	my (%settings) = @_;
	$node->safe_psql('postgres', join ';', (map { "ALTER SYSTEM SET $_ = $settings{$_}" } sort keys %settings), 'SELECT pg_reload_conf()');
	return;
}

# Cancels and ends sessions for a while.
sub disturb
{
	my ($until) = @_;

	while (time < $until)
	{
		my $what = rand() < 0.5 ? 'pg_cancel_backend' : 'pg_terminate_backend';
		try_psql($node, 'postgres', "SELECT $what(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = '$db' ORDER BY random() LIMIT 1");
		sleep rand(0.1);
	}
	return;
}

# Waits until these processes are gone.
sub wait_gone
{
	my ($within, @pids) = @_;
	my $until = time + $within;

	while (@pids = grep { kill 0, $_ } @pids)
	{
		return @pids if time > $until;
		sleep 0.01;
	}
	return;
}

# Waits until the server takes connections again.
sub wait_connect
{
	foreach (1 .. 1200)
	{
		my ($status, $out) = try_psql($node, $db, 'SELECT pg_is_in_recovery()');
		return 1 if $status == 0 && $out eq 'f';
		sleep 0.05;
	}
	return 0;
}

# A standby of the server, which is caught up.
sub make_standby
{
	my ($sync) = @_;
	my $standby = PostgreSQL::Test::Cluster->new('standby' . ++$standbys);

	$node->backup("backup$standbys");
	$standby->init_from_backup($node, "backup$standbys", has_streaming => 1);
	rmtree($node->backup_dir . "/backup$standbys");
	$standby->start;
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'})
	  or die 'the standby does not stream';
	set_conf(synchronous_standby_names => "'*'") if $sync;
	return $standby;
}

# Kills what the round is about; gives what went wrong.
sub strike
{
	my ($way, $standby) = @_;
	my $postmaster = $node->{_pid};
	my %children = children($postmaster);
	my @pids = keys %children;
	my @targets;

	if ($way eq 'everybody')
	{
		kill_everybody($node);
		return $node->start(fail_ok => 1) ? () : 'the server does not start';
	}
	if ($way eq 'postmaster')
	{
		my $dir = abs_path($node->data_dir);

		kill 'KILL', $postmaster;
		$node->{_pid} = undef;
		my @left = wait_gone(30, $postmaster, @pids, processes_in($dir));
		return 'still there without a postmaster: ' . join ', ', map { "$_ " . ($children{$_} // '') } @left if @left;
		return $node->start(fail_ok => 1) ? () : 'the server does not start';
	}
	if ($way eq 'immediate')
	{
		$node->stop('immediate');
		$node->start;
		return;
	}
	if ($way eq 'promotion')
	{
		my $first = rand() < 0.5;

		$standby->promote if $first;
		sleep rand(0.2) if $first;
		kill_everybody($node);
		$standby->promote if !$first;
		my $old = $node;
		$node = $standby;
		remove_memory($old);
		$old->clean_node;
		return;
	}
	@targets =
	  $way eq 'backend' ? grep { $children{$_} =~ / \Q$db\E \[local\]/ } @pids
	  : $way eq 'worker' ? grep { $children{$_} =~ /audience (scheduler|launcher)/ } @pids
	  : grep { $children{$_} =~ /checkpointer|background writer|walwriter|autovacuum|logical|parallel/ } @pids;
	# in the middle of something, if there is such a one
	my @busy = grep { $children{$_} !~ /idle/ } @targets;
	@targets = @busy if @busy && rand() < 0.8;
	return "there is no $way to kill: " . join ', ', values %children unless @targets;
	my $target = $targets[ int rand @targets ];
	note("kill -9 $children{$target}");
	kill 'KILL', $target;
	# that the postmaster has noticed is seen by the others' end
	my @left = wait_gone(30, grep { $_ != $target } @pids);
	return @left ? 'still there after a crash: ' . join ', ', map { "$_ $children{$_}" } @left : ();
}

sub run_round
{
	my ($round, $way) = @_;
	my $promotion = $way eq 'promotion';
	my $sync = $promotion && rand() < 0.6;
	my $lazy = !$promotion && rand() < 0.25;
	my $checkpoint = rand() < 0.4;
	my $pages = $checkpoint || rand() < 0.5;
	my $disturbed = !$sync && rand() < 0.3;
	my $label = "round $round: $way"
	  . ($sync ? ', synchronous' : '') . ($lazy ? ', synchronous_commit off' : '')
	  . ($checkpoint ? ', after a checkpoint' : '') . ($pages ? '' : ', full_page_writes off')
	  . ($disturbed ? ', sessions canceled' : '');
	my $length = 0.3 + rand(1.1);
	my ($standby, $reader);
	my @problems;

	set_conf(full_page_writes => $pages ? 'on' : 'off', synchronous_commit => $lazy ? 'off' : 'on',
		synchronous_standby_names => "''");
	if ($promotion)
	{
		$standby = make_standby($sync);
		# a session that has been there before is there after, too, and writes
		$reader = $standby->background_psql($db, on_error_stop => 0, timeout => 60);
		$reader->query(q{SELECT audience.profile_get('s1'), (SELECT count(*) FROM audience.memberships)});
	}
	$load->start($node, 120);
	my $clients = sum(values %{ $load->{clients} });
	$node->poll_query_until('postgres', "SELECT count(*) = $clients FROM pg_stat_activity WHERE application_name LIKE 'load %'")
	  or die 'the clients do not come';
	my $from = time;
	disturb($from + $length) if $disturbed;
	sleep max(0, $from + $length - time);
	if ($reader)
	{
		$reader->query(q{SELECT audience.profile_get('s2'), (SELECT count(*) FROM audience.memberships)});
	}
	if ($checkpoint)
	{
		try_psql($node, 'postgres', 'CHECKPOINT');
		sleep rand(0.02);
	}

	$from = time;
	$load->last_sessions;
	push @problems, strike($way, $standby);
	$kills{$way}++;
	$seconds{'strike and start'} += time - $from;
	if (@problems && !$node->{_pid})
	{
		$load->abandon;
		BAIL_OUT("$label: @problems");
	}
	push @problems, $load->finish(durable => !$lazy && (!$promotion || $sync));
	push @problems, 'the server takes no connections' unless wait_connect();
	set_conf(synchronous_standby_names => "''");
	# others wait for those that have changed definitions
	$sums{'prepared transactions left'} += $load->resolve_prepared($node);
	if ($reader)
	{
		$reader->query(q{INSERT INTO audience.events (user_id, event_type) SELECT 'after' || n, 'view' FROM generate_series(1, 3) n});
		push @problems, 'a session of the standby does not write'
		  if $reader->query(q{SELECT count(DISTINCT user_id) FROM audience.events WHERE user_id ~ '^after'}) ne '3';
		$reader->quit;
	}
	check($label, @problems);
	return;
}

# What must hold after each round.
sub check
{
	my ($label, @problems) = @_;
	my $from = time;
	my ($status, $out, $error);

	push @problems, $load->differences($node);
	is(join("\n", @problems[ 0 .. ($#problems < 19 ? $#problems : 19) ]), '', "$label: what was confirmed is there");
	$seconds{model} += time - $from;

	# before anything else is done to users
	$from = time;
	verify_empty($node, "$label: verify() finds no difference", $db);
	$seconds{verify} += time - $from;

	# nothing holds definitions: one is made, filled later, and deleted
	$from = time;
	($status, $out, $error) = $node->psql($db, <<'SQL');
SET audience.definition_wait = '30s';
SELECT audience.segment_create('Probe', 'buys >= 3 AND count(view, LAST ''1 minute'') >= 1', id => 'probe', refresh => 'later');
SELECT audience.trait_create('probed', 'count', 'purchase');
SQL
	is($error, '', "$label: definitions can be changed");
	# by the scheduler in one half of the rounds, and by both in the other
	if (rand() < 0.5)
	{
		($status, $out, $error) = $node->psql($db, q{SET client_min_messages = warning; CALL audience.segment_refresh('probe')});
		is($error, '', "$label: segment_refresh goes through");
	}
	wait_for($node, "$label: nothing is being filled for ever", q{SELECT string_agg(id, ', ') FROM (
SELECT id FROM audience.segments WHERE pending IS NOT NULL OR status <> 'ready'
UNION ALL SELECT number::text FROM audience.aggregates WHERE pending IS NOT NULL
UNION ALL SELECT segment_id FROM audience.segment_refresh_progress) p}, db => $db, is => '', within => 30);
	wait_for($node, "$label: nobody's timer is forgotten",
		q{SELECT count(*) FROM audience.timers WHERE due_at < clock_timestamp() - interval '1 second'}, db => $db, is => 0);
	($status, $out, $error) = $node->psql($db, <<'SQL');
SET audience.definition_wait = '30s';
SELECT audience.segment_delete('probe');
SELECT audience.trait_drop('probed');
SQL
	is($error, '', "$label: and changed again");
	$seconds{definitions} += time - $from;

	$from = time;
	verify_empty($node, "$label: nor after definitions have changed", $db);
	is($node->safe_psql($db, AudLoad::replay_kept_sql() . ' LIMIT 20'), '', "$label: the history replayed is the memberships");
	$seconds{verify} += time - $from;

	is($node->safe_psql($db, <<'SQL'), "1\n0\n0", "$label: statistics answer, and nothing is left over");
SELECT (SELECT count(*) FROM audience.stat_engine) * (SELECT count(*) FROM audience.stat_scheduler WHERE pid IS NOT NULL)
	+ 0 * ((SELECT count(*) FROM audience.retention_progress) + (SELECT count(*) FROM audience.stat_kafka_source)
	+ (SELECT count(*) FROM audience.stat_kafka_sink));
SELECT count(*) FROM pg_prepared_xacts;
SELECT errors FROM audience.stat_scheduler;
SQL

	$from = time;
	is($node->safe_psql($db, AudLoad::sound_sql()), '', "$label: tables and indexes are sound");
	$seconds{amcheck} += time - $from;
	if (grep { !$_ } (Test::More->builder->summary)[ -9 .. -1 ])
	{
		diag(sprintf 'AUD_TEST_SEED=%d, %d events, %d users', $seed,
			split /\|/, $node->safe_psql($db, 'SELECT (SELECT count(*) FROM audience.events), (SELECT count(*) FROM audience.profiles)'));
	}
	return;
}
