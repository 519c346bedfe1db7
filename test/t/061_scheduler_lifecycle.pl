# The workers' lives: databases and extensions that come and go, statements
# that need a database without sessions, settings, crashes, standbys.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(time sleep);

my $node = start_node('lifecycle', no_extension => 1, conf => worker_conf() . "allow_in_place_tablespaces = on\n");
my $took;

# The number of processes of schedulers.
sub schedulers_sql
{
	my ($where) = @_;
	return "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'audience scheduler'" . ($where // '');
}

# What the server has logged.
sub slurp_log
{
	my ($of) = @_;
	open(my $file, '<', $of->logfile) or die 'no log';
	local $/;
	return <$file>;
}

# Runs a statement in template1, must succeed, and within so many seconds.
sub prompt_ok
{
	my ($sql, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $began = time();
	my ($status, undef, $error) = $node->psql('template1', $sql);
	$took = time() - $began;
	# a worker that does not leave is waited for half a minute
	return ok($status == 0 && $took < ($seconds // 20), $name) || diag("$took s, $error");
}

#
# the extension comes and goes
#
wait_for($node, 'without the extension no scheduler stays', schedulers_sql(), is => 0);
$node->safe_psql('postgres', 'BEGIN; CREATE EXTENSION audience_manager; ROLLBACK');
wait_for($node, 'rolled back: none', schedulers_sql(), is => 0);
$node->safe_psql('postgres', 'CREATE EXTENSION audience_manager');
wait_state($node, 'sleeping', 'CREATE EXTENSION', within => 15);
$node->safe_psql('postgres', 'DROP EXTENSION audience_manager');
wait_for($node, 'DROP EXTENSION: it leaves', schedulers_sql(), is => 0, within => 15);
$node->safe_psql('postgres', 'CREATE EXTENSION audience_manager');
wait_state($node, 'sleeping', 'and comes back', within => 15);
my $pid = scheduler_pids($node, 'postgres');
$node->safe_psql('postgres', 'BEGIN; DROP EXTENSION audience_manager; CREATE EXTENSION audience_manager; COMMIT');
wait_state($node, 'sleeping', 'dropped and made at once', within => 15);
is($node->safe_psql('postgres', 'SELECT errors FROM audience.stat_scheduler'), 0, 'without errors');

#
# statements that need a database without sessions
#
$node->safe_psql('postgres', 'CREATE DATABASE busy');
$node->safe_psql('busy', 'CREATE EXTENSION audience_manager');
wait_state($node, 'sleeping', 'a database', db => 'busy', within => 15);

prompt_ok('CREATE DATABASE copy TEMPLATE busy', 'it serves as a template');
wait_state($node, 'sleeping', 'its scheduler is back', db => 'busy', within => 15);
wait_state($node, 'sleeping', 'the copy has one', db => 'copy', within => 15);
my ($status) = $node->psql('copy', 'CREATE DATABASE copy2 TEMPLATE copy');
is($status, 0, 'the current database serves as a template');
prompt_ok('DROP DATABASE copy2', 'which is dropped while its scheduler starts');
prompt_ok('ALTER DATABASE copy RENAME TO renamed', 'renamed');
wait_state($node, 'sleeping', 'by the new name', db => 'renamed', within => 15);
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION ''");
prompt_ok('ALTER DATABASE renamed SET TABLESPACE space', 'moved');
wait_state($node, 'sleeping', 'and back', db => 'renamed', within => 15);
prompt_ok('DROP DATABASE renamed', 'dropped');

# in the middle of a step
$pid = scheduler_pids($node, 'busy');
replace_run_due($node, 'busy', 'PERFORM pg_sleep(100)');
$node->safe_psql('busy', set_timers("SELECT 'u', now()"));
wait_state($node, 'running', 'a step that takes long', db => 'busy', within => 15);
prompt_ok('CREATE DATABASE copy TEMPLATE busy', 'it stops for a statement');
wait_state($node, 'running', 'and begins again', db => 'busy', within => 15);
prompt_ok('DROP DATABASE copy', 'dropped in the middle of a step');

# statements that fail, and transactions that are open
restore_run_due($node, 'busy');
$node->psql('template1', 'ALTER DATABASE busy RENAME TO postgres');
wait_state($node, 'sleeping', 'a statement that fails: it is back', db => 'busy', within => 15);
my $session = $node->background_psql('template1');
$session->query_safe('BEGIN');
$session->query_safe('ALTER DATABASE busy RENAME TO lazy');
is(scheduler_pids($node, 'busy'), '', 'renamed in an open transaction: it is away');
sleep 0.5;
is(scheduler_pids($node, 'busy'), '', 'and stays away');
$session->query_safe('ROLLBACK');
wait_state($node, 'sleeping', 'until the transaction ends', db => 'busy', within => 15);
$session->query_safe('BEGIN');
$session->query_safe('ALTER DATABASE busy RENAME TO lazy');
my $holder = $session->query_safe('SELECT pg_backend_pid()');
$node->safe_psql('template1', "SELECT pg_terminate_backend($holder, 5000)");
eval { $session->quit };
wait_state($node, 'sleeping', 'or its process', db => 'busy', within => 15);
$pid = scheduler_pids($node, 'busy');
$node->safe_psql('postgres', 'CREATE ROLE nobody LOGIN CREATEDB');
$node->psql('template1', "SET ROLE nobody; $_")
  foreach ('DROP DATABASE busy', 'ALTER DATABASE busy RENAME TO mine', 'CREATE DATABASE mine TEMPLATE busy');
is(scheduler_pids($node, 'busy'), $pid, 'who must not do it disturbs nobody');

#
# which databases
#
$node->append_conf('postgresql.conf', "audience.databases = 'postgres, \"no such\"'");
$node->reload;
wait_for($node, 'audience.databases: only those', schedulers_sql(" AND datname <> 'postgres'"), is => 0, within => 15);
is(scheduler_field($node, 'state', 'busy'), 'not running', 'the view says so');
isnt(scheduler_pids($node, 'postgres'), '', 'those have one');
$node->append_conf('postgresql.conf', "audience.databases = ''");
$node->reload;
wait_state($node, 'sleeping', 'empty: all', db => 'busy', within => 15);
$node->safe_psql('postgres', 'ALTER DATABASE busy ALLOW_CONNECTIONS false');
wait_for($node, 'one that allows no connections: none', schedulers_sql(" AND datname = 'busy'"), is => 0, within => 15);
$node->safe_psql('postgres', 'ALTER DATABASE busy ALLOW_CONNECTIONS true');
wait_state($node, 'sleeping', 'allows them again', db => 'busy', within => 15);

#
# processes that end
#
$pid = scheduler_pids($node, 'busy');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
wait_for($node, 'terminated: a new one', schedulers_sql(" AND datname = 'busy' AND pid <> $pid"), is => 1, within => 15);
my $launcher = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience launcher'");
$pid = scheduler_pids($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
wait_for($node, 'the launcher terminated: a new one',
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'audience launcher' AND pid <> $launcher", is => 1);
is(scheduler_pids($node, 'postgres'), $pid, 'which takes over the schedulers');
prompt_ok('DROP DATABASE busy', 'and their databases');

sub survives
{
	my ($victim, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $old = scheduler_pids($node, 'postgres');

	kill 'KILL', $victim;
	wait_for($node, $name, "SELECT pid <> $old AND state = 'sleeping' FROM audience.stat_scheduler");
	$node->safe_psql('postgres', set_timers("SELECT 'u', now()"));
	wait_for($node, "$name: timers are run", 'SELECT done FROM audience.stat_scheduler', is => 1, within => 15);
}
survives(scheduler_pids($node, 'postgres'), 'kill -9 of the scheduler');
$session = $node->background_psql('postgres', on_error_stop => 0);
survives($session->query_safe('SELECT pg_backend_pid()'), 'kill -9 of a session');
eval { $session->quit };

#
# a restore: timers may be there before what they are about
#
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$session = $node->background_psql('restored');
$session->query_safe("SET row_security = off");
$session->query_safe('CREATE EXTENSION audience_manager');
wait_state($node, 'idle: a dump is being restored', 'while the session of a restore is there, nothing is done', db => 'restored', within => 15);
$session->query_safe(set_timers("SELECT 'u', now()"));
sleep 1.5;
is($node->safe_psql('restored', 'SELECT due, done FROM audience.stat_scheduler'), '1|0', 'timers wait');
$session->quit;
wait_for($node, 'some seconds later they are run', 'SELECT due, done, state FROM audience.stat_scheduler', db => 'restored', is => '0|1|sleeping', within => 20);
is($node->safe_psql('restored', 'SELECT count(*) FROM audience.restoring'), 0, 'and the restore is forgotten');
$node->safe_psql('postgres', 'DROP DATABASE restored');

#
# a standby
#
$node->append_conf('postgresql.conf', "wal_level = replica\nmax_wal_senders = 4\nhot_standby = on");
$node->restart;
wait_state($node, 'sleeping', 'after a restart', within => 15);
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
# due, but not by the primary
$node->append_conf('postgresql.conf', "audience.databases = 'none'");
$node->reload;
wait_state($node, 'not running', 'a primary without schedulers', within => 15);
$node->safe_psql('postgres', set_timers("SELECT 'later', now()"));
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'audience%'"), 0, 'nothing runs on a standby');
is(scheduler_field($standby, 'state'), 'not running', 'the view says so');
$node->stop;
$standby->promote;
wait_for($standby, 'after promotion it goes on', 'SELECT done, due FROM audience.stat_scheduler', is => '1|0', within => 15);

#
# too few processes; no preloading
#
$standby->append_conf('postgresql.conf', 'max_worker_processes = 2');
$standby->restart;
wait_state($standby, 'not running', 'max_worker_processes too small: no scheduler', within => 15);
wait_log($standby, qr/no background worker process is free for the audience scheduler/, 'the log says so', within => 10);

$standby->append_conf('postgresql.conf', "shared_preload_libraries = ''\nmax_worker_processes = 8");
$standby->restart;
my ($code, undef, $error) = $standby->psql('postgres', "\\set VERBOSITY verbose\nTABLE audience.stat_scheduler");
like($error, qr/55000.*HINT:  Add "audience_manager"/s, 'not preloaded: the view says what to do');
is($standby->safe_psql('postgres', set_timers("SELECT 'u', now()") . q{SELECT audience.event_ingest('{"userId":"u","eventId":"1","eventType":"view"}')}),
	'1', 'all else works');
verify_empty($standby);
$standby->safe_psql('postgres', $_)
  foreach ('CREATE DATABASE x TEMPLATE postgres', 'DROP DATABASE x', 'DROP EXTENSION audience_manager', 'CREATE EXTENSION audience_manager');

#
# shutdown in the middle of a step
#
replace_run_due($standby, 'postgres', 'PERFORM pg_sleep(100)');
$standby->append_conf('postgresql.conf', "shared_preload_libraries = 'audience_manager'");
$standby->restart;
foreach my $mode (qw(fast smart))
{
	# it begins with a look
	wait_state($standby, 'running', "in the middle of a step", within => 15);
	my $began = time();
	$standby->stop($mode);
	cmp_ok(time() - $began, '<', 30, "shutdown is prompt: $mode");
	$standby->start if $mode eq 'fast';
}
unlike(slurp_log($standby), qr/ERROR:  canceling statement/, 'and leaving is no error');

done_testing();
