# Retention takes nothing from anyone: two databases are given the same random
# stream, one of them removes old events and transitions all along, and what
# traits and memberships come to is the same.  Then: sessions that ingest, merge
# and erase while retention is at work.
#
# AUD_TEST_SEED makes it another run, AUD_TEST_DAYS and AUD_TEST_SECONDS a longer one.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = env_number('AUD_TEST_SEED', 1);
my $days = env_number('AUD_TEST_DAYS', 35);
my $seconds = env_number('AUD_TEST_SECONDS', 3);
srand($seed);
note("AUD_TEST_SEED=$seed");

my $node = start_node('retention', conf => "audience.max_distinct_values = 4\ndeadlock_timeout = 200ms\n");
my $start = 1767225600;			# 2026-01-01
my $now = $start;

# A moment as the engine writes it, with some microseconds.
sub instant
{
	my ($seconds) = @_;
	my $micros = int(($seconds - int($seconds)) * 1e6);
	return strftime('%Y-%m-%dT%H:%M:%S', gmtime(int($seconds))) . sprintf('.%06dZ', $micros);
}

sub pick { return $_[ int rand @_ ] }

# Runs the same in both databases, at the same moment.
sub both
{
	my ($sql, $label) = @_;
	my @out = map {
		$node->safe_psql($_, "SET audience.now = '" . instant($now) . "';\n$sql")
	} qw(postgres kept);
	if (defined $label)
	{
		# only what differs
		my ($all, $kept) = map { my %lines = map { $_ => 1 } split /\n/; \%lines } @out;
		is(join("\n", grep { !$all->{$_} } sort keys %$kept), join("\n", grep { !$kept->{$_} } sort keys %$all), $label);
	}
	return;
}

my $definitions = join "\n", map { "SELECT $_;" } (
	# all of time: these begin with what is kept of deleted events
	q{audience.trait_create('spent', 'sum', 'buy', 'amount')},
	q{audience.trait_create('mean', 'avg', 'buy', 'amount')},
	q{audience.trait_create('least', 'min', '*', 'amount')},
	q{audience.trait_create('most', 'max', '*', 'amount')},
	q{audience.trait_create('one', 'first', '*', 'item')},
	q{audience.trait_create('other', 'last', 'b*', 'item')},
	q{audience.trait_create('items', 'count_distinct', '*', 'item')},
	q{audience.trait_create('favourite', 'most_frequent', '*', 'item')},
	q{audience.trait_create('days', 'days_active')},
	q{audience.trait_create('since', 'first_time', 'buy')},
	q{audience.trait_create('until', 'last_time', 'see')},
	q{audience.trait_create('dear', 'count', 'buy', filter => 'amount > 5 AND item != ''i3''')},
	q{audience.segment_create('Early', 'count(*, FROM ''2026-01-05'' TO ''2026-01-15'') >= 3')},
	q{audience.segment_create('Early sum', 'sum(buy.amount, FROM ''2026-01-08'') >= 40')},
	q{audience.segment_create('Loyal', 'days >= 10 AND items >= 5')},
	q{audience.segment_create('Rich', 'spent > 100 AND one != ''i1''')},
	q{audience.segment_create('Old', 'since BEFORE LAST ''12 days''')},
	# sliding windows: these need the events
	q{audience.trait_create('recent', 'sum', 'buy', 'amount', time_window => '3 days')},
	q{audience.trait_create('recentMost', 'max', '*', 'amount', time_window => '5 days')},
	q{audience.trait_create('recentItems', 'count_distinct', '*', 'item', time_window => '6 days')},
	q{audience.trait_create('recentFirst', 'first', '*', 'item', time_window => '4 days')},
	q{audience.segment_create('Lately', 'count(*, LAST ''2 days'') >= 2')},
	q{audience.segment_create('Silent', 'count(*, LAST ''4 days'') = 0')},
	q{audience.segment_create('Path', 'SEQUENCE(see, buy WITHIN ''2 days''; LAST ''6 days'')')},
	q{audience.segment_create('Left', 'SEQUENCE(see, NOT buy WITHIN ''36 hours''; LAST ''5 days'')')},
	q{audience.segment_create('Moving', 'count(see WHERE $time WITHIN LAST ''3 days'', LAST ''6 days'') >= 2')},
	q{audience.segment_create('Both', 'IN SEGMENT ''loyal'' AND NOT IN SEGMENT ''silent''')});

# A statement of some events, unique all over; times up to five days ago.
my $event = 0;
sub events
{
	my @rows = map {
		sprintf("('u%d', '%s', 'e%d', '%s', '{\"amount\": %s, \"item\": \"i%d\"}')",
			rand 9, instant(rand() < 0.2 ? $now - rand 5 * 86400 : $now - rand 3600), $event++,
			pick('see', 'buy', 'buzz', 'go'), pick(1, 2.5, 7, '3.25', '"no"', 'null', 11), rand 8)
	} 1 .. 1 + rand 12;
	return 'INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES '
	  . join(', ', @rows) . ';';
}

my $profiles = <<'SQL';
SELECT user_id, first_seen, last_seen, audience.profile_get(user_id) FROM audience.profiles ORDER BY user_id;
SQL
my $memberships = 'SELECT * FROM audience.memberships ORDER BY 1, 2;';

# All steps that there are now.
sub retain
{
	my ($chunk) = @_;
	$node->safe_psql('kept', <<"SQL");
SET audience.now = '@{[instant($now)]}';
SET audience.event_retention = '7d';
SET audience.transition_retention = '5d';
SELECT FROM generate_series(1, @{[pick(3, 10, 1000)]}) WHERE audience.run_retention($chunk);
SQL
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE kept');
$node->safe_psql('kept', 'CREATE EXTENSION audience_manager');
both($definitions);
for my $day (1 .. $days)
{
	my $label = 'day ' . $day;

	for (1 .. 2 + rand 3)
	{
		$now += rand 86400 / 3;
		my $roll = rand;
		both('SELECT audience.run_due();' . (
				$roll < 0.85 ? events()
				: $roll < 0.90 ? sprintf(q{SELECT audience.profile_rebuild(ARRAY(SELECT 'u%d' WHERE EXISTS (SELECT FROM audience.profiles WHERE user_id = 'u%1$d')));}, rand 9)
				: $roll < 0.96 ? sprintf(q{SELECT audience.profile_merge(a.user_id, b.user_id) FROM audience.profiles a, audience.profiles b WHERE a.user_id = 'u%d' AND b.user_id = 'u%d' AND a.user_id <> b.user_id;}, rand 9, rand 9)
				: $roll < 0.98 ? sprintf(q{SELECT audience.profile_erase(user_id) FROM audience.profiles WHERE user_id = 'u%d';}, rand 9)
				: 'SELECT audience.profile_rebuild();'));
		retain(pick(1, 3, 20, 1000));
	}
	if ($day == int($days / 2))
	{
		# a trait that comes later counts from the watermark on, and goes on so
		$now += 86400;
		both('SELECT audience.run_due();');
		retain(1000) foreach 1 .. 20;
		my ($from, $running) = split /\|/, $node->safe_psql('kept',
			q{SELECT audience.timestamp_text(complete_from), position FROM audience.retention WHERE kind = 'events'}), -1;
		is($running, '', 'the pass is over');
		for my $more (['purchases', "'count', 'buy'"], ['goItems', "'count_distinct', 'go', 'item'"], ['initial', "'first', 'see', 'item'"])
		{
			$node->safe_psql('kept', "SET audience.now = '" . instant($now) . "'; SELECT audience.trait_create('$more->[0]', $more->[1])");
			$node->safe_psql('postgres', "SET audience.now = '" . instant($now) . "'; SELECT audience.trait_create('$more->[0]', $more->[1], filter => '\$time AT OR AFTER ''$from''')");
		}
	}
	next unless $day % 5 == 0 || $day == $days;
	both('SELECT audience.run_due();');
	both($profiles, "$label: the profiles");
	both($memberships, "$label: the memberships");
	verify_empty($node, "$label: verify() finds no difference", 'kept');
}

# at last all that may go goes
$now += 86400;
both('SELECT audience.run_due();');
retain(1000) foreach 1 .. 20;
is($node->safe_psql('kept', 'SELECT count(*) FROM audience.events e, audience.retention r WHERE e.occurred_at < r.complete_from AND r.kind = \'events\''),
	'0', 'no old event is left');
foreach my $what ('events', 'transitions')
{
	my ($all, $left) = map { $node->safe_psql($_, "SELECT count(*) FROM audience.$what") } qw(postgres kept);
	cmp_ok($left, '<', $all, "$what are gone: $left of $all are left");
}
both($profiles, 'the profiles');
both($memberships, 'the memberships');
verify_empty($node, 'verify() finds no difference', 'kept');

# what history can still tell is what it tells where all is there
my $from = $node->safe_psql('kept', q{SELECT extract(epoch FROM complete_from) FROM audience.retention WHERE kind = 'transitions'});
for (1 .. 10)
{
	my $at = $from + rand($now - $from);
	both("SELECT s.id, m FROM audience.segments s, audience.segment_members_at(s.id, '" . instant($at) . "') m ORDER BY 1, 2;",
		'members at ' . instant($at));
}
both('SELECT audience.profile_rebuild();');
both($profiles, 'the profiles made anew');
both($memberships, 'the memberships made anew');
verify_empty($node, 'verify() finds no difference', 'kept');

# a dump brings it all back, refuses what is refused, and counts on
my $dump = PostgreSQL::Test::Utils::tempdir() . '/kept.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, 'kept' ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-j2', '-d', 'restored', $dump ], 'pg_restore');
foreach my $query ($profiles, $memberships, 'SELECT * FROM audience.event_bases ORDER BY 1', 'SELECT * FROM audience.retention ORDER BY 1')
{
	is($node->safe_psql('restored', "SET audience.now = '" . instant($now) . "'; $query"),
		$node->safe_psql('kept', "SET audience.now = '" . instant($now) . "'; $query"), 'the same back');
}
verify_empty($node, 'verify() of the restored finds no difference', 'restored');
my ($status, undef, $error) = $node->psql('restored', "SET audience.now = '" . instant($now) . "'; "
	  . "INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) VALUES ('u1', '" . instant($start + 7200) . "', 'e0', 'see') ON CONFLICT DO NOTHING");
like($error, qr/event is older than what is kept/, 'a replay is refused there, too');

# Everything at once.
$node->safe_psql('postgres', 'CREATE DATABASE busy');
$node->safe_psql('busy', 'CREATE EXTENSION audience_manager');
$node->safe_psql('busy', "$definitions\n" . <<'SQL');
ALTER DATABASE busy SET audience.event_retention = '20s';
ALTER DATABASE busy SET audience.transition_retention = '1s';
-- windows of days would keep all
SELECT audience.segment_delete(id) FROM unnest('{both,silent,lately,path,left,moving}'::text[]) id;
SELECT audience.trait_drop(name) FROM unnest('{recent,recentMost,recentItems,recentFirst}'::text[]) name;
SELECT audience.segment_create('Just now', 'count(*, LAST ''1 second'') >= 2');
SELECT audience.segment_create('Odd', 'SEQUENCE(see, buy WITHIN ''1 second''; LAST ''10 seconds'')');
SELECT audience.segment_create('Few', 'sum(buy.amount, LAST ''15 seconds'') < 20');
CREATE FUNCTION ingest(n int, old interval) RETURNS void LANGUAGE sql AS $$
INSERT INTO audience.events (user_id, occurred_at, event_type, properties)
SELECT 'u' || (random() * 30)::int, now() - random() * old,
	(ARRAY['see', 'buy', 'buzz'])[1 + (random() * 2)::int],
	jsonb_build_object('amount', (random() * 20)::int, 'item', 'i' || (random() * 20)::int)
FROM generate_series(1, n) $$;
SELECT ingest(8000, '1 hour');
CREATE FUNCTION may_be_gone(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN undefined_object OR duplicate_object THEN
	RETURN sqlstate;
END $$;
SQL
my %scripts = (
	ingest => 'SELECT ingest(1 + (random() * 20)::int, \'1 second\');',
	due => 'SELECT audience.run_due();',
	rebuild => q{SELECT audience.profile_rebuild(ARRAY(SELECT 'u' || (random() * 30)::int FROM generate_series(1, 3)));},
	# what is kept of those who are not erased, nor merged into one who may be, stays
	merge => q{\set u random(0, 20)
\set v random(0, 19)
\set v case when :v >= :u then :v + 1 else :v end
SELECT may_be_gone('SELECT audience.profile_merge(''u' || :u || ''', ''u' || :v || ''')');},
	erase => q{\set u random(21, 30)
SELECT may_be_gone('SELECT audience.profile_erase(''u' || :u || ''')');},
	definitions => q{\set n random(1, 3)
SELECT may_be_gone(format('SELECT audience.segment_create(%L, %L)', 'S' || :n, 'items >= ' || :n || ' AND count(buy, LAST ' || :n || ') >= 1'));
SELECT may_be_gone('SELECT audience.segment_delete(''s' || :n || ''')');},
	# a pass follows another without the hour between
	retain => q{SELECT audience.run_retention(40) \gset
UPDATE audience.retention SET started_at = '-infinity' WHERE position IS NULL AND kind = 'transitions';
UPDATE audience.retention SET started_at = '-infinity' WHERE position IS NULL AND kind = 'events';});
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/$_.sql", "$scripts{$_}\n") foreach keys %scripts;
foreach my $level ('read committed', 'repeatable read')
{
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=" . ($level =~ s/ /\\ /gr);
	my $offset = -s $node->logfile;
	my ($out, $complaints) = run_command(
		[ $node->installed_command('pgbench'), '-n', '-h', $node->host, '-p', $node->port,
			'-U', $ENV{PGUSER} // (getpwuid $<)[0], '-c', 4, '-j', 2, '-T', $seconds, '--max-tries=0',
			(map { ('-f', "$dir/$_->[0].sql\@$_->[1]") }
				[ingest => 10], [due => 2], [rebuild => 1], [merge => 1], [erase => 1], [definitions => 1], [retain => 14]),
			'busy' ]);
	unlike($complaints, qr/ERROR|aborted/, "$level: nobody fails");
	diag($complaints) if $complaints =~ /ERROR|aborted/;
	like($out, qr/number of failed transactions: 0 /, "$level: nothing is left undone");
	unlike(slurp_file($node->logfile, $offset), qr/deadlock detected/, "$level: no deadlock");
	verify_empty($node, "$level: verify() finds no difference", 'busy');
}
cmp_ok($node->safe_psql('busy', 'SELECT coalesce(sum(events), 0) FROM audience.event_bases'), '>', 0, 'events have gone');
isnt($node->safe_psql('busy', q{SELECT complete_from FROM audience.retention WHERE kind = 'transitions'}), '', 'transitions have gone');
verify_empty($node, 'verify() finds no difference', 'busy');
$node->safe_psql('busy', 'SELECT audience.profile_rebuild()');
verify_empty($node, 'verify() finds none after a rebuild', 'busy');

# the watermark waits for a transaction that has ingested, and is put off
my $session = $node->background_psql('busy');
$session->query_safe('BEGIN');
$session->query_safe("INSERT INTO audience.events (user_id, event_type) VALUES ('waited for', 'see')");
my $step = "SET audience.transition_retention = -1; SET audience.definition_wait = '100ms'; SET audience.now = '2100-01-01'; SELECT audience.run_retention()";
$node->safe_psql('busy', 'UPDATE audience.retention SET position = NULL');
($status, my $out, $error) = $node->psql('busy', $step);
is($out, 'f', 'there is nothing to do while definitions are busy');
like($error, qr/WARNING:  could not begin to remove events.*DETAIL:  Waited for process \d+\./s, 'and it is said why');
$session->query_safe('COMMIT');
$session->quit;
is($node->safe_psql('busy', $step), 't', 'then there is');
is($node->safe_psql('busy', q{SELECT complete_from FROM audience.retention WHERE kind = 'events'}), '2099-12-31 23:59:40+00', 'and the watermark moves');

$node->stop;
done_testing();
