# Sleeping costs nothing, however many timers are ahead.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use List::Util qw(max);
use Test::More;
use Time::HiRes qw(sleep);

my $node = start_node('idle', conf => worker_conf() . "fsync = off\nmax_wal_size = 4GB\n");

# The CPU time that a process has used, in ticks of 10 ms.
sub cpu_ticks
{
	my ($of) = @_;
	open(my $file, '<', "/proc/$of/stat") or die "no process $of";
	my @fields = split ' ', <$file> =~ s/^.*\) //r;
	close $file;
	return $fields[11] + $fields[12];
}

wait_state($node, 'sleeping', 'there is a scheduler');
$node->safe_psql('postgres', "INSERT INTO audience.timers SELECT i::text, now() + interval '1 hour' + i * interval '1 ms' FROM generate_series(1, 1000000) i");
$node->safe_psql('postgres', set_timers("SELECT 'one', now()"));
wait_for($node, 'a million timers ahead', "SELECT state, next_due_at > now() + interval '50 min' FROM audience.stat_scheduler", is => 'sleeping|t');
sleep 0.5;
my @pids = split /\n/, $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'audience%'");
is(scalar @pids, 2, 'launcher and scheduler');
in_time(2, 'idle: not two ticks of CPU in 3 seconds', sub {
	my %before = map { $_ => cpu_ticks($_) } @pids;
	sleep 3;
	return max(map { cpu_ticks($_) - $before{$_} } @pids);
});

$node->stop;
done_testing();
