# Everything at once: sessions that ingest, set attributes, run what is due,
# change definitions, merge and erase, over the same few users, at each
# isolation level.
#
# Nobody may fail but by a serialization failure that a retry mends (or, where
# a user or segment is gone meanwhile, as the statement says), no statement may
# deadlock with another over users, and afterwards verify() is empty and the
# history replays to the memberships.
#
# AUD_TEST_SECONDS is how long each run lasts.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = env_number('AUD_TEST_SECONDS', 6);
my $node = start_node('concurrency', conf => "log_statement = none\ndeadlock_timeout = 200ms\n");

$node->safe_psql('postgres', <<'SQL');
SELECT audience.trait_create('logins', 'count', 'login');
SELECT audience.segment_create('Spenders', 'totalSpent >= 50', id => 'spenders');
SELECT audience.segment_create('Lately', 'count(login, LAST ''1 hour'') >= 3', id => 'lately');
SELECT audience.segment_create('Odd', 'logins >= 5 AND NOT IN SEGMENT ''spenders''', id => 'odd');
SELECT audience.segment_create('Path', 'SEQUENCE(login, purchase WITHIN ''1 hour'')', id => 'path');
SELECT audience.segment_create('German', 'country = ''DE''', id => 'german');
SELECT audience.segment_create('Silent', 'count() = 0', id => 'silent');
SELECT audience.segment_create('List', type => 'static', id => 'list');
-- those that time turns over again and again
SELECT audience.segment_create('Now', 'count(login, LAST ''1 second'') >= 1', id => 'now');
SELECT audience.segment_create('Quiet', 'count(*, LAST ''1.5 seconds'') = 0 AND NOT IN SEGMENT ''now''', id => 'quiet');
SELECT audience.segment_create('Left', 'SEQUENCE(login, NOT purchase WITHIN ''1 second''; LAST ''3 seconds'')', id => 'left');
SELECT audience.segment_create('Recent', 'sum(purchase.amount WHERE $time WITHIN LAST ''2 seconds'') > 20', id => 'recent');

-- Events of random users in any order, in one statement; times within the hour
-- before, half of them within three seconds.
CREATE FUNCTION ingest(n int) RETURNS void LANGUAGE sql AS $$
INSERT INTO audience.events (user_id, occurred_at, event_type, properties)
SELECT 'u' || (random() * 12)::int, now() - random() * CASE WHEN random() < 0.5 THEN interval '1 hour' ELSE interval '3 seconds' END,
	(ARRAY['login', 'purchase', 'view'])[1 + (random() * 2)::int],
	jsonb_build_object('amount', (random() * 20)::int)
FROM generate_series(1, n) $$;

CREATE FUNCTION ingest_json(n int) RETURNS bigint LANGUAGE sql AS $$
SELECT audience.events_ingest(jsonb_agg(jsonb_build_object(
	'userId', 'u' || (random() * 12)::int, 'eventType', 'purchase', 'eventId', (random() * 100)::int::text,
	'timestamp', '2026-01-01', 'properties', '{"amount":1}'::jsonb)))
FROM generate_series(1, n) $$;

-- What may be gone when its turn comes is no failure.
CREATE FUNCTION may_be_gone(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION
	WHEN undefined_object OR duplicate_object THEN
		RETURN sqlstate;
END $$;
SQL

my %scripts = (
	ingest => 'SELECT ingest(1 + (random() * 20)::int);',
	ingest_json => 'SELECT ingest_json(1 + (random() * 20)::int);',
	attributes => q{\set u random(0, 12)
SELECT audience.profile_set('u' || :u, jsonb_build_object('country', (ARRAY['DE', 'FR'])[1 + (random())::int]));},
	due => q{\set n random(0, 6)
SELECT audience.run_due(nullif(:n, 0));},
	list => q{SELECT audience.segment_add('list', ARRAY(SELECT 'u' || (random() * 12)::int FROM generate_series(1, 3)));
SELECT audience.segment_remove('list', ARRAY(SELECT 'u' || (random() * 12)::int FROM generate_series(1, 3)));},
	rebuild => q{SELECT audience.profile_rebuild(ARRAY(SELECT 'u' || (random() * 12)::int FROM generate_series(1, 5)));},
	merge => q{\set u random(0, 12)
\set v random(0, 11)
\set v case when :v >= :u then :v + 1 else :v end
SELECT may_be_gone('SELECT audience.profile_merge(''u' || :u || ''', ''u' || :v || ''')');},
	erase => q{\set u random(0, 12)
SELECT may_be_gone('SELECT audience.profile_erase(''u' || :u || ''')');},
	definitions => q{\set n random(1, 4)
\set roll random(1, 5)
\if :roll = 1
SELECT may_be_gone('SELECT audience.segment_create(''S' || :n || ''', ''totalSpent >= ' || :n * 10 || ''', id => ''s' || :n || ''')');
\elif :roll = 2
SELECT may_be_gone('SELECT audience.segment_update(''s' || :n || ''', rules => ''logins >= ' || :n || ''')');
\elif :roll = 3
SELECT may_be_gone('SELECT audience.segment_delete(''s' || :n || ''')');
\elif :roll = 4
SELECT audience.segment_update('odd', active => random() < 0.5);
\else
SELECT audience.segment_update('spenders', rules => format('totalSpent >= %s', (random() * 100)::int)::audience.rule);
\endif});
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/$_.sql", "$scripts{$_}\n") foreach keys %scripts;

# Runs scripts by weight for a while and expects no failure but retried ones.
sub run
{
	my ($label, $level, $clients, %weights) = @_;
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=" . ($level =~ s/ /\\ /gr);
	my @files = map { ('-f', "$dir/$_.sql\@$weights{$_}") } sort keys %weights;
	my ($out, $error) = run_command(
		[ $node->installed_command('pgbench'), '-n', '-h', $node->host, '-p', $node->port,
			'-U', $ENV{PGUSER} // (getpwuid $<)[0], '-c', $clients, '-j', 2, '-T', $seconds,
			'--max-tries=0', @files, 'postgres' ]);

	unlike($error, qr/ERROR|aborted/, "$label, $level: nobody fails");
	like($out, qr/number of transactions actually processed: [1-9]/, "$label, $level: work done");
	like($out, qr/number of failed transactions: 0 /, "$label, $level: nothing left undone");
	diag($error) if $out !~ /actually processed/ || $error =~ /ERROR|aborted/;
	verify_empty($node, "$label, $level: verify() finds no difference");
	replay_ok($node, "$label, $level: the history replayed is the memberships");
	return;
}

# The deadlocks in the server's log behind an offset, as who waited for whom.
sub deadlocks
{
	my ($offset) = @_;
	my $log = slurp_file($node->logfile, $offset);
	return join "\n", $log =~ /(deadlock detected.{0,800})/sg;
}

my $expired = 0;
foreach my $level ('read committed', 'repeatable read', 'serializable')
{
	my $offset = -s $node->logfile;

	run('events and attributes', $level, 4, ingest => 10, ingest_json => 4, attributes => 2, rebuild => 1, due => 6);
	is(deadlocks($offset), '', "events and attributes, $level: no deadlock");
	# before erasure takes it away
	$expired += $node->safe_psql('postgres', q{SELECT count(*) FROM audience.transitions WHERE reason = 'expired'});
	run('everything', $level, 3, ingest => 10, ingest_json => 2, attributes => 2, list => 2,
		merge => 2, erase => 2, definitions => 2, rebuild => 1, due => 6);
	is(deadlocks($offset), '', "everything, $level: no deadlock");
}

cmp_ok($expired, '>', 0, 'time has turned memberships over');

# what run_due leaves is what a rebuild gives
is($node->safe_psql('postgres', <<'SQL'), "0\n0", 'nobody was lost to run_due');
SET audience.now = '2029-01-01';
CREATE TEMPORARY TABLE looked AS SELECT audience.run_due();
SELECT audience.run_due();
CREATE TEMPORARY TABLE last AS SELECT max(seq) AS seq FROM audience.transitions;
CREATE TEMPORARY TABLE rebuilt AS SELECT audience.profile_rebuild();
SELECT count(*) FROM audience.transitions t, last WHERE t.seq > last.seq;
SQL

# what incremental work left behind is what a rebuild gives
$node->safe_psql('postgres', <<'SQL');
BEGIN;
SET audience.now = '2030-01-01';
SELECT audience.profile_rebuild();
COMMIT;
SQL
verify_empty($node, 'verify() after a rebuild');

# a definition waits for one who has ingested, and sees what he did
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe("SELECT audience.event_ingest('{\"userId\":\"waited\",\"eventType\":\"waited\"}')");
my $waiting = $node->background_psql('postgres');
$waiting->query_until(qr/started/,
	"SET audience.definition_wait = '60s';\n\\echo started\nSELECT audience.segment_create('Waited for', 'count(waited) = 1');\n");
is($node->poll_query_until('postgres',
		q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%Waited for%' AND state = 'active' AND pid <> pg_backend_pid()}),
	1, 'the definition is under way');
$node->safe_psql('postgres', 'SELECT ingest(5)') foreach 1 .. 20;
is($node->safe_psql('postgres', q{SELECT count(*) FROM audience.segments WHERE id = 'waited_for'}),
	'0', 'and waits, while others ingest');
$session->query_safe('COMMIT');
$session->quit;
$waiting->query_safe('SELECT 1');
$waiting->quit;
is($node->safe_psql('postgres', q{SELECT string_agg(user_id, ',') FROM audience.segment_members('waited_for')}),
	'waited', 'then it misses nobody');
verify_empty($node);

# nor does it starve where transactions overlap, each of them longer than the
# attempts to get between them are at first
append_to_file("$dir/overlap.sql", <<'SQL');
BEGIN;
SELECT audience.event_ingest(jsonb_build_object('userId', 'overlap' || :client_id, 'eventType', 'view'));
\sleep 250 ms
COMMIT;
SQL
my $overlap = start_load($node, ["$dir/overlap.sql"], clients => 10);
is($node->poll_query_until('postgres', q{SELECT count(*) = 10 FROM audience.profiles WHERE user_id ~ '^overlap'}), 1,
	'transactions overlap');
my @made = map {
	($node->psql('postgres', "SET audience.definition_wait = '10s'; SELECT audience.segment_create('Overlap $_', 'eventCount >= $_')"))[2]
} 1 .. 2;
is(join('', @made), '', 'definitions are changed between them');
end_load($overlap, 'overlapping transactions');
verify_empty($node);

$node->stop;
done_testing();
