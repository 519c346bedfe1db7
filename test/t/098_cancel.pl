# Whatever the engine is at, statement_timeout and a cancel are answered within
# 100 ms, or on a slow machine within what it takes to count to half a million:
# each kind of long work is begun, interrupted at moments all over its course, and
# what passes until the error is measured.
#
# Machines are busy with other things, too.  So a moment that is answered late is
# tried again up to four times; a loop without CHECK_FOR_INTERRUPTS is late each
# time.  That, and a median above the bound (of more than one), is a failure; what
# was late once is noted.
#
# AUD_CANCEL_TRIES is how many moments there are of each work, AUD_CANCEL_SCALE
# how much larger than usual it is, AUD_TEST_SEED where the moments begin.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudSession;
use AudTest;
use List::Util qw(min max);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $tries = env_number('AUD_CANCEL_TRIES', 2);
my $scale = env_number('AUD_CANCEL_SCALE', 1);
my $seed = env_number('AUD_TEST_SEED', 1);
srand($seed);
note("AUD_TEST_SEED=$seed AUD_CANCEL_TRIES=$tries AUD_CANCEL_SCALE=$scale");

my $users = 1500 * $scale;
my $whale = 15000 * $scale;
my $node = start_node('cancel', conf => "fsync = off\nshared_buffers = 256MB\nmax_wal_size = 2GB\nwork_mem = 16MB\n");
my $file = PostgreSQL::Test::Utils::tempdir() . '/events.copy';

$node->safe_psql('postgres', <<"SQL");
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'user' || i % $users, now() - i * interval '1 s', 'e' || i, CASE i % 3 WHEN 0 THEN 'purchase' ELSE 'view' END,
	jsonb_build_object('amount', i % 100, 'page', 'p' || i % 7)
FROM generate_series(1, $users * 10) i;
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'whale', now() - i * interval '1 s', 'w' || i, CASE i % 3 WHEN 0 THEN 'purchase' ELSE 'view' END,
	jsonb_build_object('amount', i, 'page', 'p' || i)
FROM generate_series(1, $whale) i;
SELECT audience.profiles_set((SELECT jsonb_agg(jsonb_build_object('userId', 'user' || i, 'attributes', jsonb_build_object('country', i % 5,
	't', audience.timestamp_text(now() + i * interval '1 ms')))) FROM generate_series(0, $users - 1) i));
CREATE TABLE public.new_events AS SELECT jsonb_agg(jsonb_build_object('userId', 'n' || i % 1000, 'eventType', 'view', 'eventId', 'x' || i)) AS j
FROM generate_series(1, $users * 10) i;
CREATE TABLE public.new_profiles AS SELECT jsonb_agg(jsonb_build_object('userId', 'n' || i, 'attributes', jsonb_build_object('country', i))) AS j
FROM generate_series(1, $users * 10) i;
CREATE TABLE public.ids AS SELECT array_agg('n' || (i * 7919) % ($users * 10)) AS a FROM generate_series(1, $users * 10) i;
CREATE TABLE public.docs AS SELECT jsonb_build_object('s', string_agg(CASE WHEN random() < 0.5 THEN 'a' ELSE 'b' END, '')) AS j
FROM generate_series(1, 100) k, generate_series(1, 5000) GROUP BY k;
COPY (SELECT 'c' || i % $users, 'view', 'c' || i FROM generate_series(1, $users * 10) i) TO '$file';
SELECT audience.segment_create('list', type => 'static'), audience.segment_create('everyone', 'true');
VACUUM ANALYZE;
SQL

# a rule of so many conditions of one form, in which %d is their number
sub many
{
	my ($n, $form) = @_;
	return "(SELECT ('{\"any\":[' || string_agg(format('" . ($form =~ s/%d/%1\$s/gr) . "', i), ',') || ']}') FROM generate_series(1, $n) i)::audience.rule";
}

my $conditions = many(10000, '{"field":"f%d","operator":"regex","value":"x%d"}');
my $windows = many(2000, '{"event":"view","window":{"last":%d}}');
my $hard = "'country = 1 OR SEQUENCE(view, NOT x, purchase WITHIN ''1 day'', NOT view WITHIN ''1 s'')"
  . " OR min(view.amount, LAST ''500 days'') < 5 OR count_distinct(view.page) > 3 OR count(view WHERE at WITHIN LAST ''1 day'') > 3'";

# what goes on: name, statement, and before it, in the same transaction; or else
# instead of a transaction; and how many times as many moments as usual
my @works = (
	[ 'segment_create, events in one pass', q{SELECT audience.segment_create('c', 'count(purchase WHERE amount > 50, LAST ''30 days'') >= 3')} ],
	[ 'segment_create, user by user', "SELECT audience.segment_create('c', $hard)" ],
	[ 'segment_create, attributes', q{SELECT audience.segment_create('c', 'country > 2 OR t BEFORE LAST ''1 s''')} ],
	[ 'segment_create, 10,000 conditions', "SELECT audience.segment_create('c', $conditions)" ],
	[ 'segment_create, 2,000 windows', "SELECT audience.segment_create('c', $windows)" ],
	[ 'segment_update', "SELECT audience.segment_update('everyone', rules => 'country > 3')" ],
	[ 'segment_delete', "SELECT audience.segment_delete('everyone')" ],
	[ 'segment_refresh', "CALL audience.segment_refresh('refreshed')", undef,
		"SELECT audience.segment_update('refreshed', rules => ('country > 1 AND count(view) > ' || (random() * 1e9)::integer || ' OR min(view.amount, LAST ''1 hour'') > 3')::audience.rule, refresh => 'later')" ],
	[ 'trait_create', "SELECT audience.trait_create('c', 'count_distinct', 'view', 'page')" ],
	[ 'segment_preview', "SELECT audience.segment_preview('count(purchase, LAST ''3 days'') > 2 OR SEQUENCE(view, view, purchase)')" ],
	[ 'segment_diff', "SELECT count(*) FROM audience.segment_diff('everyone', 'country > 3')" ],
	[ 'rule_explain', "SELECT count(*) FROM audience.rule_explain($conditions, 'user1')" ],
	[ 'profile |= rule', "SELECT count(*) FROM audience.profiles p WHERE p OPERATOR(audience.|=) 'count(view, LAST ''1 day'') > 3'" ],
	[ 'run_due', 'SELECT audience.run_due()',
		"SELECT audience.segment_create('r', 't BEFORE LAST ''1 s'' OR count(view, LAST ''6 days'') < 2'); SET LOCAL audience.now = '2127-01-01T00:00:00Z'" ],
	[ 'INSERT', "INSERT INTO audience.events (user_id, event_id, event_type) SELECT 'user' || i % $users, 'z' || i, 'view' FROM generate_series(1, $users * 10) i" ],
	[ 'INSERT, one user', "INSERT INTO audience.events (user_id, event_id, event_type, properties) SELECT 'one', 'z' || i, 'view', '{\"amount\":1}' FROM generate_series(1, $users * 10) i" ],
	[ 'INSERT, a user with very many', "INSERT INTO audience.events (user_id, occurred_at, event_id, event_type) SELECT 'whale', now() - interval '1 month', 'z' || i, 'view' FROM generate_series(1, 5) i",
		"SELECT audience.segment_create('w', $hard, refresh => 'later')" ],
	[ 'COPY', "COPY audience.events (user_id, event_type, event_id) FROM '$file'" ],
	[ 'events_ingest', 'SELECT audience.events_ingest((SELECT j FROM public.new_events))' ],
	[ 'profiles_set', 'SELECT audience.profiles_set((SELECT j FROM public.new_profiles))' ],
	[ 'segment_add', q{SELECT audience.segment_add('list', (SELECT a FROM public.ids))} ],
	[ 'verify', 'SELECT count(*) FROM audience.verify()' ],
	[ 'profile_rebuild', 'SELECT audience.profile_rebuild()' ],
	[ 'profile_rebuild, a user with very many', q{SELECT audience.profile_rebuild('{whale}')}, "SELECT audience.segment_create('w', $hard, refresh => 'later')" ],
	[ 'profile_merge', q{SELECT audience.profile_merge('whale', 'user1')} ],
	[ 'profile_erase', q{SELECT audience.profile_erase('whale')} ],
	[ 'run_retention, events', 'SELECT audience.run_retention(1000000)', "SET LOCAL audience.event_retention = '1s'; SELECT audience.run_retention()" ],
	[ 'run_retention, transitions', 'SELECT audience.run_retention(1000000)', "SET LOCAL audience.now = '2127-01-01T00:00:00Z'; SET LOCAL audience.transition_retention = '1s'" ],
	[ 'rule_validate, conditions', "SELECT audience.rule_validate(${conditions}::text)" ],
	[ 'rule_validate, list', q<SELECT audience.rule_validate('{"field":"a","operator":"in","value":[' || repeat('1,', 520000) || '1]}')> ],
	[ 'rule_validate, text form', q{SELECT audience.rule_validate((SELECT string_agg(format('f%s = %s', i, repeat('1', 60)), ' AND ') FROM generate_series(1, 10000) i))} ],
	[ 'rule_validate, regular expressions', "SELECT audience.rule_validate(" . many(30, '{"field":"f%d","operator":"regex","value":"(x{1,100}){1,99}"}') . '::text)' ],
	[ 'a too complex regular expression', q<SELECT audience.rule_validate('{"field":"a","operator":"regex","value":"(((x{1,255}){1,255}){1,255})"}')> ],
	[ '|=, many states', q<SELECT count(*) FROM public.docs WHERE j OPERATOR(audience.|=) '{"field":"s","operator":"regex","value":"a(a|b){250}c"}'> ],
	[ '|=, lookahead', q<SELECT count(*) FROM public.docs WHERE j OPERATOR(audience.|=) '{"field":"s","operator":"regex","value":"a(?=[ab]*c)"}'> ],
	[ '|=, back references', q<SELECT jsonb_build_object('s', repeat('a', 60) || 'x' || repeat('a', 59)) OPERATOR(audience.|=) '{"field":"s","operator":"regex","value":"^(a*)(a*)(a*)(a*)(a*)(a*)x\\\\1\\\\2\\\\3\\\\4\\\\5\\\\6$"}'> ],
	[ '|=, LIKE', q<SELECT jsonb_build_object('s', repeat('a', 300000)) OPERATOR(audience.|=) format('s LIKE ''%%%sb''', repeat('a', 4000))::audience.rule> ],
	[ '|=, contains', q<SELECT jsonb_build_object('s', repeat('a', 3000000)) OPERATOR(audience.|=) format('s CONTAINS ''%sb''', repeat('a', 100000))::audience.rule> ],
	[ '|=, folding', q<SELECT jsonb_build_object('s', repeat('Ä', 10000000)) OPERATOR(audience.|=) 's ILIKE ''%x'''::audience.rule> ],
	[ '|=, a long list', "SELECT count(*) FROM public.docs WHERE (j || '{\"s\":0}') OPERATOR(audience.|=) "
		  . q<(SELECT ('{"field":"s","operator":"in","value":[' || string_agg(i::text, ',') || ']}') FROM generate_series(1, 99999) i)::audience.rule> ],
	[ '|=, list against list', q<SELECT jsonb_build_object('s', (SELECT jsonb_agg(i) FROM generate_series(1, 20000) i)) OPERATOR(audience.|=) (SELECT ('{"field":"s","operator":"contains_all","value":[' || string_agg(i::text, ',') || ']}') FROM generate_series(1, 20000) i)::audience.rule> ],
	# in short attempts, whose ends must not swallow a cancel
	[ 'waiting for definitions', "SELECT audience.segment_create('c', 'true')", undef, undef, 10 ],
	[ 'waiting for a profile', q{SELECT audience.event_ingest('{"userId":"held","eventType":"t"}')} ],
	[ 'waiting for an event', q{SELECT audience.event_ingest('{"userId":"held","eventType":"t","eventId":"same","timestamp":"2026-01-01"}')} ],
	[ 'definitions, many', 'SELECT audience.definitions_check()', 'UPDATE audience.traits SET name = name' ],
);
my @only = split /;/, $ENV{AUD_CANCEL_ONLY} // '';

my $session = AudSession->new($node);
my $bound = int max(100, min(map { $session->must('EXPLAIN (ANALYZE, TIMING OFF) SELECT count(*) FROM generate_series(1, 500000)') =~ /Execution Time: ([0-9.]+) ms/ } 1 .. 3));
note("to be answered within $bound ms");
$session->must(q{SELECT audience.segment_create('refreshed', 'country > 1', refresh => 'later')});
my $holder = AudSession->new($node);

my @table;
foreach my $work (@works)
{
	my ($name) = @$work;
	next if @only && !grep { index($name, $_) >= 0 } @only;
	hold($name);
	measure(@$work);
	release($name);
}
note(sprintf '%-42s %7s %5s %7s %7s', 'answered after (ms)', 'of', 'tries', 'median', 'max');
note(sprintf '%-42s %7.0f %5d %7.1f %7.1f', @$_) foreach @table;
$_->finish foreach $session, $holder;
verify_empty($node) unless @only;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# What others hold while a work waits.
sub hold
{
	my ($name) = @_;

	if ($name =~ /^waiting/)
	{
		$holder->must('BEGIN');
		$holder->must(q{SELECT audience.event_ingest('{"userId":"held","eventType":"t","eventId":"same","timestamp":"2026-01-01"}')});
	}
	elsif ($name eq 'definitions, many')
	{
		# inactive ones, so that nobody need be judged by them
		$holder->must(<<'SQL');
WITH new AS (
	INSERT INTO audience.segment_numbers (segment_id) SELECT 'm' || i FROM generate_series(1, 10000) i RETURNING number, segment_id)
INSERT INTO audience.segments (id, name, type, rules, active, number)
SELECT n.segment_id, n.segment_id, 'dynamic', format('country = %s AND plan%s = %s AND totalSpent > %s', n.number % 9, n.number, n.number, n.number)::audience.rule, false, n.number
FROM new n
SQL
	}
	return;
}

# And that they let go of it.
sub release
{
	my ($name) = @_;

	$holder->must('ROLLBACK') if $name =~ /^waiting/;
	$holder->must(q{DELETE FROM audience.segments WHERE id LIKE 'm%'}) if $name eq 'definitions, many';
	return;
}

# Runs a work once, to be cancelled after so many ms by a timeout or by a signal;
# returns the SQLSTATE and for how many ms it went on after that.
sub run_once
{
	my ($sql, $before, $reset, $ms, $by_signal) = @_;

	$session->must($reset // 'BEGIN');
	$session->must($before) if defined $before;
	$session->must(sprintf 'SET statement_timeout = %d', $by_signal ? 0 : $ms);
	my $began = time;
	my $signalled;
	$session->begin($sql, 1);
	while ($by_signal && !$session->ended && !defined $signalled)
	{
		my $left = $began + $ms / 1000 - time;
		if ($left > 0)
		{
			sleep min($left, 0.005);
			$session->{psql}->pump_nb;
			next;
		}
		kill 'INT', $session->{pid};
		$signalled = time;
	}
	my $out = $session->wait;
	my $ended = time;
	my $state = $session->{state};
	my ($took) = $out =~ /Time: ([0-9.]+) ms/ or die "no time in: $out";
	$session->must('ROLLBACK') unless defined $reset;
	$session->must('RESET statement_timeout');
	return ($state, $by_signal ? 1000 * ($ended - ($signalled // $ended)) : $took - $ms, $took);
}

# Measures a work at moments all over its course.
sub measure
{
	my ($name, $sql, $before, $reset, $more) = @_;
	my $most = 250 * $scale;
	my $moments = $tries * ($more // 1);
	my ($state, undef, $took) = run_once($sql, $before, $reset, $most, 0);
	my $length = min($took, $most);
	my (@latencies, @wrong, @late);

	push @wrong, "$state at the first run" unless $state eq '00000' || $state eq '57014';
	for my $k (0 .. $moments - 1)
	{
		my $ms = max(1, int(0.97 * $length * ($k + rand) / $moments));
		my ($state, $latency);

		# what is faster than at the first time is cancelled earlier
		for (1 .. 4)
		{
			($state, $latency) = run_once($sql, $before, $reset, $ms, $k % 2);
			last if $state ne '00000';
			$ms = max(1, int($ms / 2));
		}
		next if $state eq '00000';
		push @wrong, "$state after $ms ms" if $state ne '57014';
		push @latencies, $latency;
		next if $latency <= $bound;
		note(sprintf '%s: %.0f ms after %d ms', $name, $latency, $ms);
		my @again;
		for (1 .. 4)
		{
			my ($state, $latency) = run_once($sql, $before, $reset, $ms, $_ % 2);
			push @again, $latency if $state eq '57014';
			last if $latency <= $bound;
		}
		push @late, sprintf '%.0f ms after %d ms', min($latency, @again), $ms if min($latency, @again) > $bound;
	}
	@latencies = sort { $a <=> $b } @latencies;
	my $median = @latencies ? $latencies[ $#latencies / 2 ] : 0;
	push @table, [ $name, $took, scalar @latencies, $median, $latencies[-1] // 0 ];
	push @late, "the median is $median ms" if $median > $bound && @latencies > 1;
	# one that is over before can be no later
	push @wrong, 'was never cancelled' if !@latencies && $took > $bound;
	is(join('; ', @wrong, @late), '', "$name: a cancel is answered within $bound ms");
	return;
}
