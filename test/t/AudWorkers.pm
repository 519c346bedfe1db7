# AudWorkers: what the tests of the background workers share.
#
# Waits are polls with a deadline, never sleeps of a fixed length, but where
# that something does not happen is what is tested.  A deadline is a number of
# polls: they take longer where all else does, and clocks may leap.
package AudWorkers;

use strict;
use warnings;

use AudTest;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

our @EXPORT = qw(
  worker_conf set_timers scheduler_field wait_for wait_state wait_log in_time scheduler_pids
  replace_run_due restore_run_due);

# Lines for postgresql.conf of a server with workers.
sub worker_conf
{
	return "shared_preload_libraries = 'audience_manager'\nrestart_after_crash = on\nmax_worker_processes = 20\n";
}

# SQL that makes the segment that set_timers needs, if it is not there.
sub make_timed
{
	return <<'SQL';
DO $do$
BEGIN
	IF NOT EXISTS (SELECT FROM audience.segments WHERE id = 'timed') THEN
		PERFORM audience.segment_create('timed', 'turns BEFORE LAST 0.000001');
	END IF;
END
$do$;
SQL
}

# SQL that gives users timers, from a query of user_id and due_at: an attribute
# that enters them into a segment at that instant, set as of a moment before.
sub set_timers
{
	my ($query) = @_;
	return make_timed() . <<"SQL";
DO \$do\$
DECLARE
	new jsonb;
	first timestamptz;
	now text := coalesce(current_setting('audience.now', true), '');
BEGIN
	SELECT jsonb_agg(jsonb_build_object('userId', user_id, 'attributes',
			jsonb_build_object('turns', audience.timestamp_text(due_at - interval '1 microsecond')))), min(due_at)
	INTO new, first FROM ($query) q (user_id, due_at);
	PERFORM set_config('audience.now', audience.timestamp_text(least(first - interval '1 second', clock_timestamp())), true);
	PERFORM audience.profiles_set(new);
	PERFORM set_config('audience.now', now, true);
END
\$do\$;
SQL
}

# A column of view stat_scheduler; '' for null, and where there is no answer.
sub scheduler_field
{
	my ($node, $column, $db) = @_;
	my (undef, $out) = try_psql($node, $db // 'postgres', "SELECT $column FROM audience.stat_scheduler");
	return $out // '';
}

# Polls until a query gives the value (default t), for about so many seconds at
# most; an assertion of that name.
sub wait_for
{
	my ($node, $name, $sql, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $expected = $option{is} // 't';
	my $out;

	foreach (0 .. ($option{within} // 20) / 0.05)
	{
		sleep 0.05 if $_ > 0;
		(undef, $out) = try_psql($node, $option{db} // 'postgres', $sql);
		last if defined $out && $out eq $expected;
	}
	return is($out, $expected, $name);
}

# Polls until the scheduler of a database is in a state.
sub wait_state
{
	my ($node, $state, $name, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($node, $name, 'SELECT state FROM audience.stat_scheduler', %option, is => $state);
}

# Polls until the server's log has something, for about so many seconds at most.
sub wait_log
{
	my ($node, $pattern, $name, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $log = slurp_file($node->logfile);

	foreach (1 .. ($option{within} // 20) / 0.1)
	{
		last if $log =~ $pattern;
		sleep 0.1;
		$log = slurp_file($node->logfile);
	}
	return like($log, $pattern, $name);
}

# What code gives is less than a bound: how many seconds something was late, or
# how much it took.  Machines are busy with other things, and their clocks leap;
# so it is tried again, up to four times in all.  What is late by itself is late
# each time.
sub in_time
{
	my ($bound, $name, $code) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $got;

	foreach (1 .. 4)
	{
		$got = $code->();
		last if $got < $bound;
		note("$name: $got, try $_");
	}
	return cmp_ok($got, '<', $bound, $name);
}

# The processes of schedulers, of one database or all.
sub scheduler_pids
{
	my ($node, $db) = @_;
	my $where = defined $db ? "AND datname = '$db'" : '';
	return $node->safe_psql('template1', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience scheduler' $where");
}

my %original;

# Puts a body (PL/pgSQL statements) in the place of run_due of a database.
sub replace_run_due
{
	my ($node, $db, $body) = @_;

	$original{$db} //= $node->safe_psql($db, "SELECT pg_get_functiondef('audience.run_due(integer)'::regprocedure)");
	# changes of definitions run what is due, too
	$node->safe_psql($db, make_timed() . <<"SQL");
CREATE OR REPLACE FUNCTION audience.run_due("limit" integer DEFAULT NULL) RETURNS bigint
AS \$\$ BEGIN $body; RETURN 0; END \$\$ LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp;
SQL
	return;
}

# Puts the function back that replace_run_due has replaced.
sub restore_run_due
{
	my ($node, $db) = @_;

	$node->safe_psql($db, $original{$db});
	return;
}

1;
