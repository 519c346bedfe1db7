# Stress: many sessions that do everything to the same few users, at all
# isolation levels at once, with serialization failures tried again.  Nothing
# may fail but as the statement says, statements that ingest and are alone in
# their transactions must not deadlock with one another, and afterwards what
# was confirmed is there and everything is sound.
#
# The first run is of single statements that ingest and set attributes, and of
# what else takes users; there must be no deadlock at all.  In the second one there
# are transactions of several statements, which may deadlock, as with any
# UPDATE: each deadlock in the server's log must have one of them in it.  The
# third has changes of definitions, too.
#
# AUD_STRESS_SECONDS is how long all of it lasts, AUD_STRESS_CLIENTS how many
# sessions there are, AUD_TEST_SEED where it begins.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudLoad;
use AudTest;
use AudWorkers;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = env_number('AUD_STRESS_SECONDS', 30);
my $clients = env_number('AUD_STRESS_CLIENTS', 16);
my $seed = env_number('AUD_TEST_SEED', 1);
srand($seed);
# others that are tested beside this have deadlines
POSIX::nice(5);
note("AUD_TEST_SEED=$seed AUD_STRESS_SECONDS=$seconds AUD_STRESS_CLIENTS=$clients");

my $node = start_node('stress', conf => "$AudLoad::conf\ndeadlock_timeout = 100ms\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
my %sums;

stress('single statements', 0.3, { ingest => $clients - 3, care => 3, define => 0 }, single => 1, prepared => 0);
stress('transactions', 0.3, { ingest => $clients - 3, care => 3, define => 0 });
stress('definitions', 0.4, { ingest => $clients - 8, care => 4, define => 4 });
note("AUD_TEST_SEED=$seed: $clients sessions, $seconds seconds: " . join ', ', map { "$sums{$_} $_" } sort keys %sums);
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# The deadlocks in the server's log behind an offset, each as its DETAIL.
sub deadlocks
{
	my ($offset) = @_;
	return slurp_file($node->logfile, $offset) =~ /deadlock detected\n.*?DETAIL:  (.*?)\n[^\t\n][^\n]*HINT:/sg;
}

# What the processes of a deadlock were at, in a word each.
sub parties
{
	my ($detail) = @_;
	my %verbs;

	foreach my $query ($detail =~ /^\s*Process \d+: (.*)$/mg)
	{
		my ($verb) = $query =~ m{^(?:/\*.*?\*/ )?(?:SELECT |CALL )?(?:audience\.)?(\w+)};
		$verbs{ $query =~ m{^/\*in a transaction} ? "$verb in a transaction" : $verb }++;
	}
	return join ' + ', sort keys %verbs;
}

# A run of so much of the time, in a database of its own, and what must hold afterwards.
sub stress
{
	my ($label, $share, $kinds, %option) = @_;
	my $db = lc($label) =~ s/ /_/gr;
	my $offset = -s $node->logfile;
	my $from = time;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager; CREATE EXTENSION amcheck');
	my $load = AudLoad->new(db => $db, seed => $seed, dir => $dir, retry => 1, wait => '10s', clients => $kinds,
		crowd => 300);
	$load->prepare($node);
	my @problems;
	# what is rare must have been done, too, however slow the machine is
	my @kinds = ('insert', 'copy', 'events_ingest', 'profile_merge', 'profile_erase', 'retention');
	foreach (1 .. 4)
	{
		$load->start($node, $seconds * $share, pause => 0, %option);
		push @problems, $load->finish(within => $seconds * $share + 120);
		last unless grep { !$load->{counts}{$_}{ok} } @kinds;
	}
	push @problems, $load->differences($node);
	is(join("\n", @problems), '', "$label: nobody fails, and what was confirmed is there");
	note(sprintf '%s: %d statements in %.0f s; %s', $label, $load->{done}, time - $from, $load->summary);

	$sums{statements} += $load->{done};
	$sums{'serialization failures, tried again'} += $_->{40001} // 0 foreach values %{ $load->{counts} };

	my %deadlocks;
	my (@wrong, $first);
	foreach my $detail (deadlocks($offset))
	{
		$deadlocks{ parties($detail) }++;
		$sums{'deadlocks with transactions of several statements'}++;
		$first //= join "\n", map { substr $_, 0, 120 } split /\n/, $detail;
		push @wrong, $detail unless !$option{single} && $detail =~ m{/\*in a transaction\*/};
	}
	my @most = sort { $deadlocks{$b} <=> $deadlocks{$a} || $a cmp $b } keys %deadlocks;
	note(sprintf '%s: %d deadlocks: %s', $label, scalar(map { ($_) x $deadlocks{$_} } @most),
		join '; ', map { "$deadlocks{$_} of $_" } @most[ 0 .. ($#most < 9 ? $#most : 9) ]);
	note("the first: $first") if defined $first;
	is(join("\n", @wrong[ 0 .. ($#wrong < 4 ? $#wrong : 4) ]), '', "$label: no deadlock of single statements");
	cmp_ok($load->{counts}{$_}{ok} // 0, '>', 0, "$label: $_") foreach @kinds;

	wait_for($node, "$label: nothing is being filled for ever", q{SELECT string_agg(id, ', ') FROM (
SELECT id FROM audience.segments WHERE pending IS NOT NULL OR status <> 'ready'
UNION ALL SELECT number::text FROM audience.aggregates WHERE pending IS NOT NULL) p}, db => $db, is => '', within => 60);
	verify_empty($node, "$label: verify() finds no difference", $db);
	is($node->safe_psql($db, AudLoad::replay_kept_sql() . ' LIMIT 20'), '', "$label: the history replayed is the memberships");
	is($node->safe_psql($db, AudLoad::sound_sql()), '', "$label: tables and indexes are sound");
	is(scheduler_field($node, "errors || ' ' || coalesce(last_error, '')", $db), '0 ', "$label: the scheduler had no errors");
	is($node->safe_psql($db, <<'SQL'), "0\n0", "$label: nothing is left over");
SELECT count(*) FROM pg_prepared_xacts;
SELECT count(*) FROM pg_locks l WHERE l.relation = 'audience.segments'::regclass AND l.mode ~ 'Exclusive' AND l.pid IS NULL;
SQL
	return;
}
