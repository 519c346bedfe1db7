# The scheduler: timers are run in their moment, whoever sets them and however;
# it does nothing where time is set; an error in one database is none in
# another.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use Test::More;
use Time::HiRes qw(time sleep);

my $node = start_node('scheduler', conf => worker_conf() . "max_prepared_transactions = 2\n");

wait_state($node, 'sleeping', 'after CREATE EXTENSION there is a scheduler', within => 15);
is(scheduler_field($node, 'concat_ws(\'|\', next_due_at, due, lag, done, errors, last_error, last_error_at)'),
	'0|0|0', 'which has nothing to do');
is($node->safe_psql('postgres', "SELECT backend_type, application_name, state FROM pg_stat_activity WHERE backend_type LIKE 'audience%' ORDER BY 1"),
	"audience launcher|audience launcher|idle\naudience scheduler|audience scheduler|idle", 'pg_stat_activity shows it');

#
# how long after its moment a timer is run
#
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE public.ran (user_id text, late interval);
CREATE FUNCTION public.note_run() RETURNS trigger AS $$
BEGIN
	INSERT INTO public.ran VALUES (OLD.user_id, clock_timestamp() - OLD.due_at);
	RETURN NULL;
END $$ LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
CREATE TRIGGER note_run AFTER DELETE ON audience.timers FOR EACH ROW EXECUTE FUNCTION public.note_run();
SQL
# How late those were run that have been since this was asked for the last time:
# the most, in seconds.
sub most_late
{
	return $node->safe_psql('postgres', 'WITH new AS (DELETE FROM public.ran RETURNING late) SELECT extract(epoch FROM max(late)) FROM new');
}
my $done = 0;
in_time(1, 'each within a second', sub {
	$node->safe_psql('postgres', set_timers("SELECT 'u' || i, now() + i * interval '2 ms' FROM generate_series(1, 1000) i"));
	wait_for($node, '1,000 timers over two seconds are run', 'SELECT count(*) FROM public.ran', is => 1000);
	$done += 1000;
	is($node->safe_psql('postgres', "SELECT min(late) >= '0' FROM public.ran"), 't', 'none before its time');
	note 'late: ' . $node->safe_psql('postgres', 'SELECT percentile_disc(ARRAY[0.5, 0.95, 1]) WITHIN GROUP (ORDER BY late) FROM public.ran');
	return most_late();
});
wait_for($node, 'and counted', "SELECT done, due, state FROM audience.stat_scheduler", is => "$done|0|sleeping");

# more than a batch at once
$node->safe_psql('postgres', set_timers("SELECT 'b' || i, now() FROM generate_series(1, 3500) i"));
$done += 3500;
wait_for($node, 'more than a batch at once', 'SELECT done FROM audience.stat_scheduler', is => $done, within => 15);

#
# word of a timer
#
$node->safe_psql('postgres', set_timers("SELECT 'far', now() + interval '1 day'"));
wait_for($node, 'it sleeps until the next', "SELECT next_due_at > now() + interval '23 hours' FROM audience.stat_scheduler");
my $soon = "SELECT 'soon', clock_timestamp() + interval '0.3 s'";
my $gone = "SELECT NOT EXISTS (SELECT FROM audience.timers WHERE user_id = 'soon')";
most_late();
in_time(1, 'within a second', sub {
	$node->safe_psql('postgres', set_timers($soon));
	wait_for($node, 'a commit of an earlier one wakes it', $gone, within => 15);
	$done++;
	return most_late();
});

my $session = $node->background_psql('postgres');
in_time(1.5, 'at once', sub {
	$session->query_safe('BEGIN');
	$session->query_safe(set_timers("SELECT 'soon', clock_timestamp()"));
	$session->query_safe('SELECT pg_sleep(0.5)');
	$session->query_safe('COMMIT');
	wait_for($node, 'a long transaction with a timer that is due when it ends', $gone, within => 15);
	$done++;
	my $late = most_late();
	cmp_ok($late, '>=', 0.4, 'is run when it has ended');
	return $late;
});
wait_for($node, 'all are counted', 'SELECT done FROM audience.stat_scheduler', is => $done);

$session->query_safe('BEGIN');
$session->query_safe('SAVEPOINT a');
$session->query_safe(set_timers($soon));
$session->query_safe('ROLLBACK TO a');
$session->query_safe('COMMIT');
$session->query_safe('BEGIN');
$session->query_safe(set_timers($soon));
$session->query_safe('ROLLBACK');
is($node->safe_psql('postgres', 'SELECT done FROM audience.stat_scheduler'), $done, 'rolled back: nothing');

$session->query_safe('BEGIN');
$session->query_safe(set_timers("SELECT 'soon', clock_timestamp()"));
$session->query_safe("PREPARE TRANSACTION 'p'");
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
wait_for($node, 'a prepared transaction', $gone, within => 15);

# one that has ingested holds definitions until it is ended, and over a crash; it
# is named, not the session that has prepared it
my $define = q{SET audience.definition_wait = '100ms'; SELECT audience.segment_create('Waits', 'eventCount >= 1', active => false)};
$session->query_safe(q{BEGIN; INSERT INTO audience.events (user_id, event_type) VALUES ('prepared', 'view'); PREPARE TRANSACTION 'holds'});
like(($node->psql('postgres', $define))[2], qr/could not change definitions.*DETAIL:  Waited for prepared transaction "holds"\./s,
	'a prepared transaction that holds definitions is named');
$session->query_safe(q{BEGIN; INSERT INTO audience.events (user_id, event_type) VALUES ('open', 'view')});
my $pid = $session->query_safe('SELECT pg_backend_pid()');
like(($node->psql('postgres', $define))[2], qr/DETAIL:  Waited for process $pid and prepared transaction "holds"\./,
	'and so is a session');
$session->query_safe('ROLLBACK');
$session->quit;
$node->stop('immediate');
$node->start;
like(($node->psql('postgres', $define))[2], qr/DETAIL:  Waited for prepared transaction "holds"\./, 'after a crash as well');
$node->safe_psql('postgres', "COMMIT PREPARED 'holds'");
is($node->safe_psql('postgres', $define), 'waits', 'which makes room when it is ended');
is($node->safe_psql('postgres', q{SELECT audience.profile_get('prepared')->'eventCount'}), '1', 'with its events');
verify_empty($node);
wait_state($node, 'sleeping', 'the scheduler is back', within => 15);
$session = $node->background_psql('postgres');

# a user that others have locked waits, and holds up nobody
$node->safe_psql('postgres', "SELECT audience.profile_set('held', '{}')");
$session->query_safe('BEGIN');
$session->query_safe("SELECT FROM audience.profiles WHERE user_id = 'held' FOR UPDATE");
$node->safe_psql('postgres', "INSERT INTO audience.timers VALUES ('held', now())");
$node->safe_psql('postgres', set_timers($soon));
wait_for($node, 'beside one that is locked', $gone, within => 15);
is($node->safe_psql('postgres', 'SELECT due FROM audience.stat_scheduler'), 1, 'which is still due');
is($node->safe_psql('postgres', "SELECT lag > '0' FROM audience.stat_scheduler"), 't', 'and has waited');
$session->query_safe('COMMIT');
wait_for($node, 'until it is free', "SELECT NOT EXISTS (SELECT FROM audience.timers WHERE user_id = 'held')", within => 15);
$session->quit;

# one that came by another way, for nobody, is found at the next look, and removed
$node->safe_psql('postgres', 'ALTER SYSTEM SET audience.worker_naptime = 1');
$node->reload;
$node->safe_psql('postgres', "INSERT INTO audience.timers VALUES ('soon', now())");
wait_for($node, 'without word: within audience.worker_naptime', $gone, within => 15);
$node->safe_psql('postgres', 'ALTER SYSTEM RESET audience.worker_naptime');
$node->reload;

#
# audience.now
#
$pid = scheduler_field($node, 'pid');
$node->safe_psql('postgres', "ALTER DATABASE postgres SET audience.now = '2026-06-01T00:00:00Z'");
wait_state($node, 'idle: audience.now is set', 'where time is set, it is idle', within => 15);
isnt(scheduler_field($node, 'pid'), $pid, 'having started anew');
$node->safe_psql('postgres', set_timers("SELECT 'simulated', timestamptz '2026-05-01'"));
sleep 0.5;
is($node->safe_psql('postgres', "SELECT due, state FROM audience.stat_scheduler"), '1|idle: audience.now is set', 'what is due stays');
is($node->safe_psql('postgres', 'SELECT audience.run_due()'), 1, 'unless one runs it oneself');
$node->safe_psql('postgres', set_timers("SELECT 'simulated2', timestamptz '2026-05-01'") . 'ALTER DATABASE postgres RESET audience.now');
wait_for($node, 'when it is not set any more, it goes on', 'SELECT NOT EXISTS (SELECT FROM audience.timers WHERE user_id LIKE $$simulated%$$)', within => 15);
$node->safe_psql('postgres', "ALTER SYSTEM SET audience.now = '2026-06-01T00:00:00Z'");
$node->reload;
wait_state($node, 'idle: audience.now is set', 'set for the server', within => 15);
$node->safe_psql('postgres', 'ALTER SYSTEM RESET audience.now');
$node->reload;
wait_state($node, 'sleeping', 'and not any more', within => 15);

#
# errors
#
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION audience_manager; CREATE ROLE reader LOGIN; CREATE ROLE watcher LOGIN; GRANT pg_read_all_stats TO watcher');
$node->safe_psql('other', "SELECT audience.grant_access('reader', 'read'), audience.grant_access('watcher', 'read')");
wait_state($node, 'sleeping', 'a second database', db => 'other', within => 15);
my $began = $node->safe_psql('other', 'SELECT clock_timestamp()');
replace_run_due($node, 'other', q{RAISE EXCEPTION 'no luck with user %', 'müller'});
$node->safe_psql('other', set_timers("SELECT 'soon', now()"));
wait_state($node, 'backing off', 'an error', db => 'other', within => 15);
wait_for($node, 'and again', 'SELECT errors > 1 FROM audience.stat_scheduler', db => 'other', within => 15);
is($node->safe_psql('other', "SELECT last_error, last_error_at BETWEEN '$began' AND now(), due FROM audience.stat_scheduler"),
	'no luck with user müller|t|1', 'the view shows it');
# a second passes after the first, two after the next, and so on
my $errors = scheduler_field($node, 'errors', 'other');
cmp_ok($node->safe_psql('other', "SELECT extract(epoch FROM clock_timestamp() - '$began')"), '>=', 2**($errors - 1) - 1, 'not too often');
is($node->safe_psql('other', 'SELECT last_error FROM audience.stat_scheduler', extra_params => [ '-U', 'reader' ]),
	'<insufficient privilege>', 'but not to everybody');
is($node->safe_psql('other', 'SELECT last_error FROM audience.stat_scheduler', extra_params => [ '-U', 'watcher' ]),
	'no luck with user müller', 'but to who reads all statistics');
my ($status) = $node->psql('other', 'SELECT audience.run_due()', extra_params => [ '-U', 'reader' ]);
isnt($status, 0, 'a reader may look, not run');
$node->safe_psql('postgres', set_timers("SELECT 'soon', now()"));
wait_for($node, 'the first database goes on', $gone, within => 15);
is(scheduler_field($node, 'errors'), 0, 'and has no error');
restore_run_due($node, 'other');
wait_for($node, 'repaired, it goes on', 'SELECT done, due, state FROM audience.stat_scheduler', db => 'other', is => '1|0|sleeping');
cmp_ok(scheduler_field($node, 'errors', 'other'), '>=', $errors, 'the count of errors stays');
$errors = scheduler_field($node, 'errors', 'other');

# a reload is reason to try at once
replace_run_due($node, 'other', q{RAISE EXCEPTION 'again'});
$node->safe_psql('other', set_timers("SELECT 'soon', now()"));
# until it would wait for four seconds
wait_for($node, 'an error backs off', "SELECT errors > $errors + 2 AND state = 'backing off' FROM audience.stat_scheduler", db => 'other');
restore_run_due($node, 'other');
$node->reload;
wait_state($node, 'sleeping', 'a reload ends that', db => 'other', within => 2);

#
# whose rights it has: the extension's owner's, also when it commits
#
$node->safe_psql('other', 'DROP SCHEMA audience CASCADE; CREATE ROLE keeper SUPERUSER LOGIN');
$node->safe_psql('other', <<'SQL', extra_params => [ '-U', 'keeper' ]);
CREATE EXTENSION audience_manager;
CREATE TABLE audience.saw (moment text, who text);
CREATE FUNCTION audience.see() RETURNS trigger AS $$
BEGIN
	INSERT INTO audience.saw VALUES (TG_NAME, current_user);
	BEGIN
		SET ROLE NONE;
		INSERT INTO audience.saw VALUES (TG_NAME, 'after SET ROLE: ' || current_user);
	EXCEPTION WHEN insufficient_privilege THEN
		NULL;
	END;
	RETURN NULL;
END $$ LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp;
CREATE TRIGGER at_once AFTER DELETE ON audience.timers FOR EACH ROW EXECUTE FUNCTION audience.see();
CREATE CONSTRAINT TRIGGER deferred AFTER DELETE ON audience.timers
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audience.see();
ALTER ROLE keeper NOSUPERUSER;
SQL
$node->safe_psql('other', set_timers("SELECT 'soon', now()"));
wait_for($node, 'it works for an owner who is no superuser', 'SELECT done, errors FROM audience.stat_scheduler', db => 'other', is => '1|0', within => 15);
is($node->safe_psql('other', 'SELECT moment, who FROM audience.saw ORDER BY 1'), "at_once|keeper\ndeferred|keeper", 'with no more rights than that');

# who does not notice sleeps for a minute
$began = time();
$node->stop('fast');
cmp_ok(time() - $began, '<', 30, 'shutdown is prompt');
done_testing();
