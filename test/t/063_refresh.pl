# Fills in chunks while everything else goes on: nobody is missed or doubled,
# nobody waits for more than a chunk, and a fill that is broken off goes on
# where it was.
#
# In the first part four clients ingest (one more at REPEATABLE READ) while two
# sessions make, change, refresh, deactivate, refer to and delete segments, now
# and later.  What the segments were last told to be is written down beside, so
# that in the end members can be counted by plain SQL, independent of verify().
#
# In the second part 100,000 users are filled: how long does a statement that
# ingests wait at most?  The fill is canceled, its backend and its server are
# killed; and one that is half done is dumped and restored.
#
# AUD_TEST_SECONDS is how long the first part's run lasts, AUD_TEST_USERS how
# many users the second part has.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use IPC::Run;
use List::Util qw(min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = env_number('AUD_TEST_SECONDS', 5);
my $users = env_number('AUD_TEST_USERS', 100_000);
my $node = start_node('refresh', conf => "log_statement = none\ndeadlock_timeout = 200ms\nmax_wal_size = 4GB\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
my @connection = ('-h', $node->host, '-p', $node->port, '-U', $ENV{PGUSER} // (getpwuid $<)[0]);

everything_at_once();
long_fills();
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# Starts a program of PostgreSQL's; its output goes to the two scalars.
sub start_tool
{
	my ($out, $error, $name, @arguments) = @_;
	return IPC::Run::start([ $node->installed_command($name), @connection, @arguments ],
		'<', \undef, '>', $out, '2>', $error);
}

# Starts so many clients that ingest for a while, users 1 to "known" and a few
# new ones.
sub start_ingestion
{
	my ($out, $error, $db, $level, $clients, $time, @more) = @_;
	my %scripts = (
		batch => q{INSERT INTO audience.events (user_id, event_type, properties)
SELECT 'u' || to_char((random() ^ 2 * :known)::int, 'FM000000'), (ARRAY['visit', 'purchase'])[1 + (random())::int],
	jsonb_build_object('amount', (random() * 9)::int, 'page', (random() * 9)::int) FROM generate_series(1, 5);},
		one => q{\set u random(1, :known)
SELECT audience.event_ingest(jsonb_build_object('userId', 'u' || to_char(:u, 'FM000000'), 'eventType', 'visit', 'properties', '{"page":3}'::jsonb));},
		attributes => q{\set u random(1, :known)
SELECT audience.profile_set('u' || to_char(:u, 'FM000000'), jsonb_build_object('country', (ARRAY['DE', 'FR'])[1 + (random())::int]));});
	my %weights = (batch => 4, one => 4, attributes => 1);

	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=' . ($level =~ s/ /\\ /gr);
	foreach my $name (keys %scripts)
	{
		open my $file, '>', "$dir/$name.sql" or die $!;
		print $file "$scripts{$name}\n";
		close $file;
	}
	return start_tool($out, $error, 'pgbench', '-n', '-c', $clients, '-j', 1, '-T', $time, '--max-tries=0',
		@more, (map { ('-f', "$dir/$_.sql\@$weights{$_}") } sort keys %scripts), $db);
}

# pgbench has gone through, with no failure that a retry would not mend.
sub no_failure
{
	my ($label, $out, $error) = @_;
	unlike($error, qr/ERROR|aborted/, "$label: nobody fails");
	like($out, qr/number of transactions actually processed: [1-9]/, "$label: work done");
	like($out, qr/number of failed transactions: 0 /, "$label: nothing left undone");
	return;
}

# All fills that are left are brought to their ends.
sub finish_fills
{
	my ($db) = @_;
	my $rounds = 0;

	while (my ($id) = map { $_->[0] } rows_of($node, 'SELECT id FROM audience.segments WHERE pending IS NOT NULL LIMIT 1', $db))
	{
		$node->safe_psql($db, 'CALL audience.segment_refresh(' . quote($id) . ')');
		last if ++$rounds > 50;
	}
	is($node->safe_psql($db, q{SELECT id FROM audience.segments WHERE pending IS NOT NULL OR status <> 'ready'
UNION ALL SELECT number::text FROM audience.aggregates WHERE pending IS NOT NULL
UNION ALL SELECT segment_id FROM audience.segment_refresh_progress}),
		'', "$db: no fill is left");
	return;
}

# Segments and their members by what was written down of them, and as they are.
sub members_differ
{
	my ($node, $db) = @_;
	return $node->safe_psql($db, <<'SQL');
WITH facts AS MATERIALIZED (
	SELECT p.user_id, p.attributes->>'country' AS country,
		count(*) FILTER (WHERE e.event_type = 'visit') AS visits,
		coalesce(sum((e.properties->>'amount')::numeric) FILTER (WHERE e.event_type = 'purchase'), 0) AS spent,
		count(DISTINCT e.properties->'page') FILTER (WHERE e.event_type = 'visit') AS pages
	FROM audience.profiles p LEFT JOIN audience.events e ON e.user_id = p.user_id
	GROUP BY p.user_id),
base AS (
	SELECT s.id, f.user_id FROM said s JOIN facts f ON CASE s.kind
		WHEN 'visits' THEN f.visits >= s.n WHEN 'spent' THEN f.spent >= s.n WHEN 'pages' THEN f.pages >= s.n
		WHEN 'german' THEN f.country = 'DE' AND f.visits >= s.n ELSE false END
	WHERE s.active),
want AS (
	SELECT * FROM base
	UNION ALL
	SELECT s.id, f.user_id FROM said s CROSS JOIN facts f
	WHERE s.active AND s.kind IN ('in', 'not in')
		AND (s.kind = 'in') = EXISTS (SELECT FROM base b WHERE b.id = s.other AND b.user_id = f.user_id)),
got AS (
	SELECT segment_id, user_id FROM audience.memberships)
(SELECT 'missing', w.* FROM (TABLE want EXCEPT TABLE got) w
UNION ALL SELECT 'too many', g.* FROM (TABLE got EXCEPT TABLE want) g
UNION ALL SELECT 'definition', coalesce(s.id, d.id), NULL FROM said s FULL JOIN audience.segments d ON d.id = s.id
	WHERE s.id IS NULL OR d.id IS NULL) LIMIT 10
SQL
}

# What the definers of the first part do, over and over: each with segments of
# its own, some of which refer to the other's.  Told to be is what was
# committed.
sub definers_sql
{
	return <<'SQL';
CREATE TABLE said (id text PRIMARY KEY, kind text, n int, other text, active bool NOT NULL DEFAULT true);
CREATE TABLE done (what text);
CREATE FUNCTION told(kind text, n int, other text) RETURNS audience.rule LANGUAGE sql AS $$
SELECT CASE kind WHEN 'visits' THEN format('count(visit) >= %s', n) WHEN 'spent' THEN format('sum(purchase.amount) >= %s', n)
	WHEN 'pages' THEN format('count_distinct(visit.page) >= %s', n) WHEN 'german' THEN format('country = ''DE'' AND count(visit) >= %s', n)
	WHEN 'in' THEN format('IN SEGMENT ''%s''', other) ELSE format('NOT IN SEGMENT ''%s''', other) END::audience.rule $$;
CREATE PROCEDURE one_change(prefix text) LANGUAGE plpgsql AS $$
DECLARE
	n int := 1 + random() * 3;
	id text := prefix || n;
	kind text := (ARRAY['visits', 'spent', 'pages', 'german'])[1 + (random() * 3)::int];
	other text;
	refresh text := CASE WHEN random() < 0.75 THEN 'later' ELSE 'now' END;
	roll float := random();
BEGIN
	IF random() < 0.3 THEN
		id := prefix || '_refers' || n;
		kind := CASE WHEN random() < 0.5 THEN 'in' ELSE 'not in' END;
		other := (ARRAY['a', 'b'])[1 + (random())::int] || 1 + (random() * 3)::int;
	END IF;
	n := random() * 12;
	IF roll < 0.35 THEN
		PERFORM audience.segment_create(id, told(kind, n, other), id => id, refresh => refresh);
		INSERT INTO said VALUES (id, kind, n, other);
	ELSIF roll < 0.65 THEN
		PERFORM audience.segment_update(id, rules => told(kind, n, other), refresh => refresh);
		UPDATE said s SET kind = one_change.kind, n = one_change.n, other = one_change.other FROM (SELECT id, kind, n, other) one_change WHERE s.id = one_change.id;
	ELSIF roll < 0.8 THEN
		PERFORM audience.segment_update(id, active => roll < 0.73, refresh => refresh);
		UPDATE said s SET active = roll < 0.73 FROM (SELECT id) x WHERE s.id = x.id;
	ELSE
		PERFORM audience.segment_delete(id);
		DELETE FROM said s USING (SELECT id) x WHERE s.id = x.id;
	END IF;
	INSERT INTO done VALUES ('changed');
EXCEPTION
	-- what is not there, or there already, or referred to, is no failure
	WHEN undefined_object OR duplicate_object OR dependent_objects_still_exist OR lock_not_available THEN
		INSERT INTO done VALUES (sqlstate);
END $$;
CREATE PROCEDURE define(prefix text, seconds int) LANGUAGE plpgsql AS $$
DECLARE
	until timestamptz := clock_timestamp() + seconds * interval '1 second';
	id text;
BEGIN
	WHILE clock_timestamp() < until LOOP
		CALL one_change(prefix);
		COMMIT;
		SELECT s.id INTO id FROM audience.segments s WHERE s.id ~ ('^' || prefix) ORDER BY random() LIMIT 1;
		IF FOUND AND random() < 0.6 THEN
			CALL audience.segment_refresh(id);
			INSERT INTO done VALUES ('refreshed');
		END IF;
		COMMIT;
	END LOOP;
END $$;
SQL
}

sub everything_at_once
{
	my $db = 'postgres';
	my @output = map { my ($out, $error) = ('', ''); [ \$out, \$error ] } 1 .. 4;
	my $offset = -s $node->logfile;

	$node->safe_psql($db, definers_sql() . <<'SQL');
INSERT INTO audience.events (user_id, event_type, properties)
SELECT 'u' || to_char(n, 'FM000000'), 'visit', '{"page":1}' FROM generate_series(1, 1800) n;
SQL
	my @known = ('-D', 'known=2000');
	my @runs = (
		start_ingestion(@{ $output[0] }, $db, 'read committed', 4, $seconds, @known),
		start_ingestion(@{ $output[1] }, $db, 'repeatable read', 1, $seconds, @known),
		map { start_tool(@{ $output[ 2 + $_ ] }, 'psql', '-X', '-q', '-d', $db, '-c', "CALL define('" . ('a', 'b')[$_] . "', $seconds)") } 0, 1);
	$_->finish foreach @runs;

	no_failure('read committed', map { $$_ } @{ $output[0] });
	no_failure('repeatable read', map { $$_ } @{ $output[1] });
	is(${ $output[$_][1] }, '', "definer $_ goes through") foreach 2, 3;
	note('statements of the definers: ' . join ', ',
		map { "@$_" } rows_of($node, 'SELECT what, count(*) FROM done GROUP BY what ORDER BY what', $db));
	is(join("\n", slurp_file($node->logfile, $offset) =~ /(deadlock detected.{0,800})/sg), '', 'no deadlock');
	verify_empty($node, 'verify() while fills are not done', $db);
	finish_fills($db);
	is(members_differ($node, $db), '', 'members are those that plain SQL finds');
	verify_empty($node, 'verify() when all is done', $db);
	replay_ok($node, 'the history replayed is the memberships', $db);
	return;
}

# ---------------------------------------------------------------------------

sub progress
{
	my ($db, $id) = @_;
	my ($row) = rows_of($node, "SELECT fill, users_done, users_total FROM audience.segment_refresh_progress WHERE segment_id = '$id'", $db);
	return $row ? @$row : ();
}

# Waits until a fill has come so far.
sub wait_progress
{
	my ($db, $id, $done) = @_;

	foreach (1 .. 3000)
	{
		my @progress = progress($db, $id);
		return @progress if @progress && $progress[1] >= $done;
		usleep(10_000);
	}
	die "the fill for $id does not go on";
}

# SQL that holds the user who comes after such a part of all.
sub hold_sql
{
	my ($part) = @_;
	return sprintf q{BEGIN; SELECT FROM audience.profiles WHERE user_id = 'u' || to_char(%d, 'FM000000') FOR UPDATE}, $part * $users;
}

# Seconds that a statement takes.
sub seconds_of
{
	my ($db, $sql) = @_;
	my $from = time;
	$node->safe_psql($db, $sql);
	return time - $from;
}

sub long_fills
{
	my $db = 'long';
	my ($out, $error) = ('', '');
	my $visitors = "SELECT count(*) FROM audience.segment_members('visitors')";
	my $really = q{SELECT count(*) FROM (SELECT FROM audience.events WHERE event_type = 'visit' GROUP BY user_id HAVING count(*) >= 2) v};

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager;' . definers_sql() . <<"SQL");
INSERT INTO audience.events (user_id, occurred_at, event_type, properties)
SELECT 'u' || to_char(n, 'FM000000'), now() - k * interval '1 hour', (ARRAY['visit', 'purchase', 'visit'])[k], '{"amount":1,"page":2}'
FROM generate_series(1, $users) n, generate_series(1, CASE WHEN n % 3 = 0 THEN 3 ELSE 1 END) k;
SQL

	# how long a chunk takes, and what a fill does in a second, while nobody else is at it
	$node->safe_psql($db, q{SELECT audience.segment_create('spenders', 'totalSpent >= 1', refresh => 'later')});
	my ($chunk) = map { $_->[0] } rows_of($node, <<'SQL', $db);
SELECT round(1000 * max(b - a)::numeric, 1) FROM (
	SELECT extract(epoch FROM a) AS a, extract(epoch FROM clock_timestamp()) AS b
	FROM (SELECT clock_timestamp() AS a, audience.refresh_step(audience.refresh_pending('spenders'), 1000) OFFSET 0) x) y
SQL
	my $took = seconds_of($db, q{CALL audience.segment_refresh('spenders')});
	note(sprintf 'a chunk of 1000 users, trait rule: %s ms; alone %.0f users/s', $chunk, ($users - 1000) / $took);
	$node->safe_psql($db, q{SELECT audience.segment_create('visitors', 'count(visit, LAST ''30 days'') >= 2', refresh => 'later')});
	$took = seconds_of($db, q{CALL audience.segment_refresh('visitors')});
	note(sprintf 'behavioural rule with a window: alone %.0f users/s', $users / $took);
	$took = seconds_of($db, q{CALL audience.segment_refresh('visitors')});
	note(sprintf 'refresh of a healthy segment: alone %.0f users/s', $users / $took);

	# while four clients ingest
	my $run;
	my $n = 0;
	my @rules = ('totalSpent >= 2', 'count_distinct(visit.page) >= 2', 'count(visit) >= 2', 'eventCount >= 3');
	$node->safe_psql($db, "SELECT audience.segment_create('turns', '$rules[0]', refresh => 'later')");
	in_time(0.5, 'no statement that ingests waits for half a fill', sub {
		my @took;
		($out, $error) = ('', '');
		unlink glob "$dir/latency*";
		$run = start_ingestion(\$out, \$error, $db, 'read committed', 4, 6, '-D', "known=$users",
			'-l', "--log-prefix=$dir/latency");
		my $until = time + 5;
		do
		{
			$node->safe_psql($db, "SELECT audience.segment_update('turns', rules => '$rules[$n % @rules]', refresh => 'later')") if $n > 0;
			$n++;
			push @took, seconds_of($db, q{CALL audience.segment_refresh('turns')});
		} while (time < $until);
		$run->finish;
		no_failure('while fills go on', $out, $error);
		my @latencies = sort { $a <=> $b } map { (split / /)[2] / 1000 } map { split /\n/, slurp_file($_) } glob "$dir/latency*";
		note(sprintf 'ingestion: %d statements, median %.1f ms, longest %.0f ms; fills: %s users/s',
			scalar @latencies, $latencies[ @latencies / 2 ], $latencies[-1], join ', ', map { sprintf '%.0f', $users / $_ } @took);
		return $latencies[-1] / 1000 / min(@took);
	});

	# two at one fill take turns, and neither fails
	my @output = (['', ''], ['', '']);
	$node->safe_psql($db, q{SELECT audience.segment_update('visitors', rules => 'count(visit) >= 2', refresh => 'later')});
	my @runs = map { start_tool(\$_->[0], \$_->[1], 'psql', '-X', '-q', '-d', $db, '-c', q{SET client_min_messages = warning},
			'-c', q{CALL audience.segment_refresh('visitors')}) } @output;
	$_->finish foreach @runs;
	is("$output[0][1]$output[1][1]", '', 'two sessions work at one fill');
	is($node->safe_psql($db, $visitors), $node->safe_psql($db, $really), 'and it has everybody');

	# canceled: what is done is kept, and the rest is all that is left; somebody holds
	# a user in the middle, or it could be over before
	my $holder = $node->background_psql($db, on_error_stop => 0);
	$holder->query_safe(hold_sql(0.5));
	$node->safe_psql($db, q{SELECT audience.segment_update('visitors', rules => 'count(visit) >= 2 AND totalSpent >= 0', refresh => 'later')});
	($out, $error) = ('', '');
	$run = start_tool(\$out, \$error, 'psql', '-X', '-q', '-d', $db, '-c', q{CALL audience.segment_refresh('visitors')});
	my ($fill) = wait_progress($db, 'visitors', 5000);
	$node->safe_psql($db, q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL' AND state <> 'idle'});
	$run->finish;
	like($error, qr/canceling statement due to user request/, 'a fill is canceled');
	my ($same, $done, $total) = progress($db, 'visitors');
	is($same, $fill, 'it is still to be ended');
	cmp_ok($done, '>=', 5000, 'and what is done is done');
	cmp_ok($done, '<', $total, 'but not all of it');

	# its backend is killed, and the server with it
	$holder->query_safe('ROLLBACK');
	$holder->query_safe(hold_sql(0.8));
	$run = start_tool(\$out, \$error, 'psql', '-X', '-q', '-d', $db, '-c', q{CALL audience.segment_refresh('visitors')});
	(undef, my $more) = wait_progress($db, 'visitors', $done + 5000);
	$node->stop('immediate');
	$run->finish;
	eval { $holder->quit };
	$node->start;
	($same, my $kept, undef) = progress($db, 'visitors');
	is($same, $fill, 'it outlives a crash');
	cmp_ok($kept, '>=', $more, 'with what has been done');
	cmp_ok($kept, '<', $total, 'but not all of it');
	$node->safe_psql($db, q{SELECT audience.event_ingest(jsonb_build_object('userId', 'u' || to_char(n * 7919 % 100000, 'FM000000'), 'eventType', 'visit')) FROM generate_series(1, 20) n});
	$node->safe_psql($db, q{CALL audience.segment_refresh('visitors')});
	is($node->safe_psql($db, $visitors), $node->safe_psql($db, $really), 'taken up again, it misses nobody');
	finish_fills($db);
	replay_ok($node, 'nor is anybody entered twice', $db);

	dump_and_restore();
	return;
}

# A fill that is half done goes on in the copy where it was.
sub dump_and_restore
{
	$node->safe_psql('postgres', <<'SQL');
SELECT audience.segment_create('dumped', 'count_distinct(visit.page) >= 2 AND max(visit.page) >= 0', refresh => 'later');
SELECT audience.refresh_step(audience.refresh_pending('dumped'), 800);
SQL
	my $file = "$dir/dump.sql";
	my @before = progress('postgres', 'dumped');
	$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'pg_dump in the middle of a fill');
	$node->safe_psql('postgres', 'CREATE DATABASE copy');
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, $node->connstr('copy') ], 'restore');
	is_deeply([ progress('copy', 'dumped') ], \@before, 'the fill is where it was');
	$node->safe_psql('copy', q{INSERT INTO audience.events (user_id, event_type, properties)
SELECT 'u' || to_char(n * 17, 'FM000000'), 'visit', '{"page":77}' FROM generate_series(1, 100) n});
	verify_empty($node, 'verify() in the copy', 'copy');
	is($node->safe_psql('copy', q{SELECT audience.segment_create('next', 'max(visit.page) >= 7', refresh => 'later');
SELECT fill > } . $before[0] . q{ FROM audience.segment_refresh_progress WHERE segment_id = 'next'}),
		"next\nt", 'the next one gets a number behind it');
	$node->safe_psql('copy', q{CALL audience.segment_refresh('dumped')});
	finish_fills('copy');
	is($node->safe_psql('copy', q{SELECT count(*) FROM audience.segment_members('dumped')}),
		$node->safe_psql('copy', q{SELECT count(*) FROM (SELECT FROM audience.events WHERE event_type = 'visit'
GROUP BY user_id HAVING count(DISTINCT properties->'page') >= 2) v}),
		'the copy has its members');
	verify_empty($node, 'verify() when it is done in the copy', 'copy');
	replay_ok($node, 'the history replayed is the memberships in the copy', 'copy');
	return;
}
