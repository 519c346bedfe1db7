# A crash while run_due works through many users loses what was not committed,
# and nothing else: run once more, every user has every transition once.
#
# The server is stopped at once while batches follow each other, each a
# transaction of its own, and then while all who are left are one.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $users = 5000;
my $node = start_node('run_due_crash');

$node->safe_psql('postgres', <<"SQL");
SET audience.now = '2026-03-01T00:00:00Z';
SELECT audience.segment_create('Lately', 'count(login, LAST ''1 day'') >= 1');
SELECT audience.segment_create('Lost', 'NOT IN SEGMENT ''lately'' AND lastActivity WITHIN LAST ''5 days''');
SELECT audience.segment_create('Silent', 'count(*, LAST ''3 days'') = 0');
INSERT INTO audience.events (user_id, event_type, event_id, occurred_at)
SELECT 'u' || n, 'login', 'e', timestamptz '2026-03-01 00:00Z' - n * interval '1 second' FROM generate_series(1, $users) n;
SQL

# Starts statements as of a month later, in a session of their own.
sub start_statements
{
	my (@statements) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/statements.sql';

	append_to_file($path, join "\n", "SET audience.now = '2026-04-01T00:00:00Z';", @statements, '');
	return IPC::Run::start(
		[ $node->installed_command('psql'), '-X', '-q', '-d', $node->connstr('postgres'), '-f', $path ],
		'>', '/dev/null', '2>', '/dev/null');
}

# Stops the server at once, and starts it; the session's end is waited for.
sub crash
{
	my ($session) = @_;

	$node->stop('immediate');
	$session->finish;
	$node->start;
	return;
}

my $done = q{SELECT count(DISTINCT user_id) FROM audience.transitions WHERE reason = 'expired'};

# as long between the batches as in them, or all are done before we have seen some
my $session = start_statements(map { ('SELECT audience.run_due(50);', 'SELECT pg_sleep(0.01);') } 1 .. 95);
$node->poll_query_until('postgres', "SELECT ($done) >= 300") or die 'nobody is done';
crash($session);
my $after = $node->safe_psql('postgres', $done);
ok($after >= 300 && $after < $users && $after % 50 == 0, "$after users are done after a crash between batches");
verify_empty($node, 'verify() after it');
replay_ok($node);

# all who are left are one transaction; it holds their profiles when it ends
$session = start_statements('BEGIN;', 'SELECT audience.run_due();', 'SELECT pg_sleep(600);');
$node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid())})
  or die 'it does not get there';
crash($session);
is($node->safe_psql('postgres', $done), $after, 'nobody more after a crash before the commit');
verify_empty($node, 'verify() after it');

is($node->safe_psql('postgres', "SET audience.now = '2026-04-01T00:00:00Z'; SELECT audience.run_due(), audience.run_due()"),
	($users - $after) . '|0', 'then the others follow');
is($node->safe_psql('postgres', <<"SQL"), "$users|0", 'every user has each transition once, at its moment');
WITH expected AS (
	SELECT 'u' || n AS user_id, segment_id, action, timestamptz '2026-03-01 00:00Z' - n * interval '1 second' + after AS occurred_at
	FROM generate_series(1, $users) n, (VALUES ('lately', 'removed', interval '1 day'), ('lost', 'added', '1 day'),
		('silent', 'added', '3 days'), ('lost', 'removed', '5 days')) v (segment_id, action, after)),
got AS (
	SELECT user_id, segment_id, action, occurred_at FROM audience.transitions WHERE reason = 'expired')
SELECT (SELECT count(*) FROM audience.profiles),
	(SELECT count(*) FROM ((TABLE expected EXCEPT ALL TABLE got) UNION ALL (TABLE got EXCEPT ALL TABLE expected)) d)
SQL
verify_empty($node);
replay_ok($node);
is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.timers'), '0', 'and no timer any more');

$node->stop;
done_testing();
