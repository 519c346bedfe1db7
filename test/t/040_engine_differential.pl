# The engine against brute force, on random worlds.
#
# A seed gives traits, segments and a history of statements: events in random
# order and batches, late and early ones and duplicates among them, attributes,
# lists, changes of definitions, merges and erasures, while audience.now moves
# on, and sometimes back.  After each statement the memberships, the transitions
# it wrote and the touched users' profiles must be those that AudOracle finds
# from all events; now and then, and at the end, verify() must be empty and the
# history must replay to the memberships.
#
# After run_due, the memberships of all users must be those of now; the
# transitions it wrote must be so for each user just before and at the moments
# they carry, and in between.  At the end segment_members_at must know who was
# in which segment at any instant.
#
# AUD_TEST_SEED (first seed), AUD_TEST_SEEDS (how many) and AUD_TEST_STEPS (how
# long each history is) make it a longer run.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudOracle;
use AudTest;
use JSON::PP;
use List::Util qw(max min shuffle);
use Test::More;

my $first_seed = env_number('AUD_TEST_SEED', 1);
my $seeds = env_number('AUD_TEST_SEEDS', 5);
my $steps = env_number('AUD_TEST_STEPS', 60);

my $start = $AudOracle::START;
my @names = @AudOracle::NAMES;

my $node = start_node('differential');

run_seed($_) foreach $first_seed .. $first_seed + $seeds - 1;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# One world: writes its history as a script, with what to expect after each
# step, runs it and compares.
sub run_seed
{
	my ($seed) = @_;
	srand($seed);
	my $db = "seed_$seed";
	my $world = {
		now => $start + 10 * AudOracle::DAY, users => {}, segments => [],
		traits => [@AudOracle::BUILTIN], n => 0, next_segment => 0, next_trait => 0 };
	my $script = "\\pset null ''\n" . settings($world) . set_clock($world);
	my @expected;

	$script .= add_trait($world) for 1 .. 8;
	$script .= add_segment($world) for 1 .. 18;
	foreach my $step (1 .. $steps)
	{
		$script .= move_clock($world)
		  . "SELECT coalesce(max(seq), 0) AS seen FROM audience.transitions \\gset\n";
		my $sql = random_step($world);
		my $expect = delete $world->{expect};

		$expect->{sql} = $sql;
		# a new session now and then, so that nothing rests on what one remembers
		$script .= "\\c\n" . settings($world) if chance(0.1);
		$script .= set_clock($world) . "$sql\\echo step $step\n";
		$script .= "SELECT 'V', * FROM audience.verify() LIMIT 5;\n"
		  if $expect->{verify} || $step % 10 == 0 || $step == $steps;
		$script .= report_sql($world, $expect);
		$script .= members_at_sql($world, $expect) if $step == $steps;
		$expect->{rules} = { map { $_->{id} => $_->{json} } @{ $world->{segments} } };
		push @expected, $expect;
	}
	$script .= "\\echo replay\n" . replay_sql() . " LIMIT 5;\n";

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager');
	my ($status, $out, $error) = run_script($node, $script, $db);
	my @blocks = split /^(?:step \d+|replay)(?:\n|\z)/m, $out, -1;
	shift @blocks;

	foreach my $n (0 .. $#expected)
	{
		my $wrong = defined $blocks[$n] ? difference($expected[$n], $blocks[$n]) : '';
		$wrong = "error: $error" if $n == $#blocks && $status != 0 || !defined $blocks[$n];
		next unless $wrong;
		fail("seed $seed");
		diag("seed $seed, step " . ($n + 1) . ":\n"
			  . substr($expected[$n]{sql}, 0, 2000) . "\n$wrong");
		return;
	}
	is(($blocks[ $steps ] // "error: $error\n") =~ s/\n\z//r, '',
		"seed $seed: $steps steps as by brute force");
	return;
}

# What a session begins with.  Few distinct values to keep makes the engine
# read the events instead.
sub settings
{
	my ($world) = @_;
	$world->{distinct} //= pick(1, 2, 4, 1000);
	return "SET client_min_messages = warning;\n"
	  . "SET audience.max_distinct_values = $world->{distinct};\n";
}

# What is reported after a step: memberships of all, its transitions, and the
# profiles of the touched users.
sub report_sql
{
	my ($world, $expect) = @_;
	my @touched = grep { $world->{users}{$_} } sort keys %{ $expect->{touched} };
	my $list = join ',', map { quote($_) } @touched[ 0 .. ($#touched > 4 ? 4 : $#touched) ];

	$expect->{members} = {};
	foreach my $name (keys %{ $world->{users} })
	{
		my $ids = join ',', sort keys %{ $world->{users}{$name}{in} };
		$expect->{members}{$name} = $ids if length $ids;
	}
	foreach my $name (@touched)
	{
		my $user = $world->{users}{$name};
		$expect->{profiles}{$name} = {
			traits => { %{ $user->{traits} } },
			names => [ map { $_->{name} } @{ $world->{traits} } ],
			attributes => json_of([ 'o', { %{ $user->{attributes} } } ], 1) };
	}
	return <<"SQL" . ($list ? <<"MORE" : '');
SELECT 'M', user_id, string_agg(segment_id, ',' ORDER BY segment_id COLLATE "C") FROM audience.memberships GROUP BY user_id;
SELECT 'T', user_id, segment_id, action, reason, event_id, (extract(epoch FROM occurred_at) * 1000000)::bigint FROM audience.transitions WHERE seq > :seen ORDER BY seq;
SQL
SELECT 'P', user_id, audience.profile_get(user_id) FROM unnest(ARRAY[$list]) user_id;
MORE
}

# What differs between what was expected after a step and what was reported;
# empty if nothing.
sub difference
{
	my ($expect, $block) = @_;
	my (%members, %transitions, %due, @wrong);

	foreach my $line (split /\n/, $block)
	{
		my ($kind, @fields) = split /\|/, $line, -1;
		if ($kind eq 'V') { push @wrong, "verify: @fields"; }
		elsif ($kind eq 'M') { $members{ $fields[0] } = $fields[1]; }
		elsif ($kind eq 'T')
		{
			my ($user, $segment, $action, $reason, $event, $at) = @fields;
			push @{ $due{$user} }, [ $segment, $action, $at ];
			push @wrong, "reason $reason, event $event of $user and $segment after run_due"
			  if $expect->{before} && ($reason ne 'expired' || $event ne '');
			push @wrong, "two transitions of $user and $segment in one statement"
			  if $transitions{"$user|$segment"} && !$expect->{free_history};
			$transitions{"$user|$segment"} =
			  $expect->{reason} ? "$action|$reason|$event|$at" : $action;
		}
		elsif ($kind eq 'A') { push @wrong, members_at_difference($expect, @fields); }
		elsif ($kind eq 'P')
		{
			my ($user, $json) = split /\|/, substr($line, 2), 2;
			push @wrong, profile_difference($user, $expect->{profiles}{$user}, $json);
		}
	}
	foreach my $user (sort keys %{ { %members, %{ $expect->{members} } } })
	{
		my %got = map { $_ => 1 } split /,/, $members{$user} // '';
		my %want = map { $_ => 1 } split /,/, $expect->{members}{$user} // '';
		push @wrong, "$user is in $_ and should not be: " . ($expect->{rules}{$_} // 'static')
		  foreach grep { !$want{$_} } sort keys %got;
		push @wrong, "$user should be in $_: " . ($expect->{rules}{$_} // 'static')
		  foreach grep { !$got{$_} } sort keys %want;
	}
	if (!$expect->{free_history})
	{
		my $want = $expect->{transitions};
		push @wrong, "transition $_: got " . ($transitions{$_} // 'none') . ', expected '
		  . ($want->{$_} // 'none')
		  foreach grep { ($transitions{$_} // '') ne ($want->{$_} // '') }
		  sort keys %{ { %transitions, %$want } };
	}
	push @wrong, map { due_difference($expect, $_, @{ $due{$_} // [] }) } sort keys %{ $expect->{before} };
	return join "\n", grep { length } @wrong;
}

# The segments a user is in as of an instant, by brute force.
sub members_as_of
{
	my ($world, $name, $user, $at) = @_;
	my $copy = {%$user};

	evaluate($copy, $name, $at, $world->{traits}, @{ $world->{segments} });
	return join ',', sort keys %{ $copy->{in} };
}

# What is wrong about the transitions that run_due wrote of one user: they are
# replayed, and looked at just before and at some of their moments, and at some
# other instants.
sub due_difference
{
	my ($expect, $name, @transitions) = @_;
	my $user = $expect->{before}{$name};
	my ($from, $to) = ($user->{as_of}, $expect->{now});
	my %in = %{ $user->{in} };
	my @states = [ $from, join(',', sort keys %in) ];
	my @wrong;

	foreach my $transition (@transitions)
	{
		my ($segment, $action, $at) = @$transition;

		push @wrong, "transition of $name and $segment out of order: $at"
		  if $at <= $from || $at < $states[-1][0] || $at > $to;
		push @wrong, "transition of $name and $segment not in turns: $action"
		  if ($action eq 'added') == exists $in{$segment};
		if ($action eq 'added') { $in{$segment} = 1; }
		else { delete $in{$segment}; }
		push @states, [ $at, '' ] if $at != $states[-1][0];
		$states[-1][1] = join(',', sort keys %in);
	}
	return @wrong if @wrong || $to <= $from;
	my @instants = map { ($_->[0] - 1, $_->[0]) } (shuffle @states[ 1 .. $#states ])[ 0 .. min(2, $#states - 1) ];
	push @instants, $from + 1 + int rand($to - $from);
	foreach my $at (grep { $_ >= $from } @instants)
	{
		my ($state) = grep { $_->[0] <= $at } reverse @states;
		my $want = members_as_of($expect, $name, $user, $at);

		push @wrong, "$name after run_due at " . timestamp_of($at) . " in $state->[1], not in $want\n"
		  . join("\n", map { "$_: " . ($expect->{rules}{$_} // 'static') } in_one_only($state->[1], $want))
		  if $state->[1] ne $want;
	}
	return @wrong;
}

# The ids in one of two lists only.
sub in_one_only
{
	my ($a, $b) = @_;
	my %count;

	$count{$_}++ foreach split(/,/, $a), split(/,/, $b);
	return grep { $count{$_} == 1 } sort keys %count;
}

# Who was in the segments at some instants, random ones and moments of
# transitions.
sub members_at_sql
{
	my ($world, $expect) = @_;
	my $first = $start + 10 * AudOracle::DAY;
	my $instants = join ', ', map { quote(timestamp_of($first + int rand($world->{now} - $first))) . '::timestamptz' } 1 .. 3;

	@$expect{qw(record twice)} = @$world{qw(record twice)};
	return <<"SQL";
SELECT 'A', (extract(epoch FROM at) * 1000000)::bigint, s.id, coalesce((SELECT string_agg(m, chr(31)) FROM audience.segment_members_at(s.id, at) m), '')
FROM audience.segments s, (SELECT unnest(ARRAY[$instants]) UNION
	(SELECT occurred_at FROM (SELECT DISTINCT occurred_at FROM audience.transitions) t ORDER BY md5(occurred_at::text) LIMIT 3)) i (at);
SQL
}

# What is wrong about who was in a segment at an instant.
sub members_at_difference
{
	my ($expect, $at, $segment, $list) = @_;
	my $in = $expect->{in_at}{$at} //= members_at($expect->{record}, $at);
	my $want = join "\x1f", grep { !$expect->{twice}{$_} && $in->{$_} =~ /(?:\A|,)\Q$segment\E(?:,|\z)/ } sort keys %$in;

	$list = join "\x1f", grep { !$expect->{twice}{$_} } split /\x1f/, $list;
	return $list eq $want ? () : "in $segment at $at (" . timestamp_of($at) . "): $list, not $want";
}

# What each user was in at an instant, by what was noted.
sub members_at
{
	my ($record, $at) = @_;
	my %in;

	foreach my $name (keys %$record)
	{
		my $last;
		foreach my $piece (@{ $record->{$name} })
		{
			$last = $piece if ($piece->{from} // $piece->{at}) <= $at;
		}
		next unless $last;
		$in{$name} = $last->{due} && $at < $last->{at}
		  ? members_as_of($last->{due}, $name, $last->{due}{before}{$name}, $at)
		  : $last->{in};
	}
	return \%in;
}

sub profile_difference
{
	my ($name, $want, $json) = @_;
	my $got = $json eq '' ? {} : JSON::PP->new->utf8->decode($json);
	my $encoder = JSON::PP->new->canonical->allow_nonref;
	my @wrong;

	return "no profile of $name" unless %$got;
	push @wrong, "$name: attributes $got->{attributes}"
	  if $encoder->encode($got->{attributes}) ne
	  $encoder->encode(decode_json($want->{attributes}));
	foreach my $trait (@{ $want->{names} })
	{
		my $value = $want->{traits}{$trait};
		my $shown = exists $got->{$trait} ? $encoder->encode($got->{$trait}) : 'missing';
		my $right =
		    !defined $value ? $shown eq 'missing'
		  : $shown eq 'missing' ? 0
		  : $value->[0] eq 'n' ? abs($got->{$trait} - $value->[1] / ($value->[2] // 1) / 1000) < 1e-9
		  : $shown eq $encoder->encode($encoder->decode(json_of($value, 1)));
		push @wrong, "$name: trait $trait is $shown, not "
		  . (defined $value ? json_of($value, 1) : 'missing')
		  unless $right;
	}
	return @wrong;
}

# ---------------------------------------------------------------------------
# Steps: each returns its SQL, changes the world and says what to expect.

sub random_step
{
	my ($world) = @_;
	my $roll = rand;

	$world->{n}++;
	return run_due($world) if chance(0.2) && $world->{n} > 5;
	return insert_events($world, $world->{n} == 15 || $world->{n} == 40 ? 1000 : pick(1, 1, 1, 7))
	  if $roll < 0.6 || $world->{n} < 5 || $world->{n} == 15 || $world->{n} == 40;
	return several_statements($world) if $roll < 0.65;
	return set_attributes($world) if $roll < 0.74;
	return change_definitions($world) if $roll < 0.84;
	return change_list($world) if $roll < 0.90;
	return rebuild($world) if $roll < 0.93;
	return merge_users($world) if $roll < 0.96;
	return erase_user($world);
}

# The clock moves on: by little mostly, by years sometimes.  When it goes back,
# everyone has just been evaluated, so that it is known as of when.
sub move_clock
{
	my ($world) = @_;

	if (chance(0.06) && $world->{n} > 5)
	{
		my $sql = set_clock($world) . rebuild($world);
		delete $world->{expect};
		$world->{now} -= pick(1, AudOracle::HOUR, int rand 20 * AudOracle::DAY);
		return $sql . set_clock($world);
	}
	$world->{now} += pick(1, AudOracle::HOUR, AudOracle::HOUR, int rand AudOracle::DAY, AudOracle::DAY + 1);
	$world->{now} -= $world->{now} % AudOracle::HOUR, $world->{now} += AudOracle::HOUR
	  if chance(0.5);
	return set_clock($world);
}

sub set_clock
{
	my ($world) = @_;
	return "SET audience.now = '" . timestamp_of($world->{now}) . "';\n";
}

# What a user is evaluated for: a user's clock never runs back.
sub user_now
{
	my ($world, $user) = @_;
	return max($world->{now}, $user->{as_of} // $world->{now});
}

# Evaluates users as of now and notes their transitions.
sub touch
{
	my ($world, $reason, $event_of, @names) = @_;
	my $expect = $world->{expect} //= { transitions => {}, touched => {} };

	$expect->{reason} = $reason;
	foreach my $name (@names)
	{
		my $user = $world->{users}{$name} //= AudOracle::random_user();
		my %before = %{ $user->{in} };

		my $at = $user->{as_of} = user_now($world, $user);
		evaluate($user, $name, $at, $world->{traits}, @{ $world->{segments} });
		remember($world, $name, { at => $at });
		my $why = $reason ? "|$reason|" . ($event_of->{$name} // '') . "|$at" : '';
		$expect->{transitions}{"$name|$_"} = "added$why"
		  foreach grep { !$before{$_} } keys %{ $user->{in} };
		$expect->{transitions}{"$name|$_"} = "removed$why"
		  foreach grep { !$user->{in}{$_} } keys %before;
		$expect->{touched}{$name} = 1;
	}
	return;
}

# Notes what a user is in from an instant on.
sub remember
{
	my ($world, $name, $piece) = @_;
	my $user = $world->{users}{$name};
	my $pieces = $world->{record}{$name} //= [];

	$piece->{in} = $user ? join(',', sort keys %{ $user->{in} }) : '';
	# merged into another, and made anew with the clock set back
	$world->{twice}{$name} = 1 if @$pieces && $piece->{at} < $pieces->[-1]{at};
	push @$pieces, $piece;
	return;
}

# Brings those who are due to now.  Returns what everything was before, for
# comparison: between then and now, memberships are those of each moment.
sub expire_users
{
	my ($world) = @_;
	my $was = {
		now => $world->{now}, before => {}, traits => [ @{ $world->{traits} } ],
		segments => [ map { { %$_, members => $_->{members} && { %{ $_->{members} } } } } @{ $world->{segments} } ] };

	foreach my $name (keys %{ $world->{users} })
	{
		my $user = $world->{users}{$name};
		my $from = $user->{as_of};

		$was->{before}{$name} = {
			%$user, events => { %{ $user->{events} } }, attributes => { %{ $user->{attributes} } } };
		next if $from >= $world->{now};
		$user->{as_of} = $world->{now};
		evaluate($user, $name, $world->{now}, $world->{traits}, @{ $world->{segments} });
		remember($world, $name, { from => $from, at => $world->{now}, due => $was });
	}
	return $was;
}

# run_due after a while of up to years, at once or in parts.
sub run_due
{
	my ($world) = @_;

	$world->{now} += pick(0, 1, int rand AudOracle::DAY, int rand 3 * AudOracle::DAY,
		int rand 40 * AudOracle::DAY, chance(0.3) ? int rand 1000 * AudOracle::DAY : 0);
	$world->{expect} = {
		%{ expire_users($world) }, transitions => {}, touched => {}, free_history => 1 };
	my $some = join '', map { "DO 'BEGIN PERFORM audience.run_due($_); END';\n" } map { int rand 5 } 1 .. pick(0, 0, 2);
	return set_clock($world)
	  . "DO 'BEGIN ASSERT NOT EXISTS (SELECT FROM audience.verify()), (SELECT string_agg(v::text, chr(10)) FROM audience.verify() v); END';\n"
	  . "${some}DO 'BEGIN PERFORM audience.run_due(); END';\n"
	  . "DO 'BEGIN ASSERT audience.run_due() = 0, ''more are due''; END';\n";
}

sub random_time
{
	my ($now) = @_;
	my $time = $now - pick(0, 0, AudOracle::HOUR * int rand 30,
		int rand 3 * AudOracle::DAY, AudOracle::DAY * int rand 40,
		-int rand AudOracle::HOUR, -AudOracle::HOUR);
	$time -= $time % AudOracle::HOUR if chance(0.4);
	return $time;
}

sub insert_events
{
	my ($world, $size) = @_;
	my $now = $world->{now};
	my $method = $size == 1 ? pick(qw(insert ingest)) : $size == 7 ? pick(qw(insert conflict ingest copy)) : 'copy';
	my @names = $size == 7 ? (shuffle @names)[ 0 .. int rand 4 ] : @names;
	my (@rows, @json, %latest, %new);

	foreach (1 .. $size)
	{
		my $name = pick(@names);
		my $event = random_event(random_time($now), pick('e', 'E', '') . ++$world->{event}, $now - 10 * AudOracle::DAY);
		my $user = $world->{users}{$name};

		# one that is there already, with other properties
		if ($method =~ /ingest|conflict/ && $user && %{ $user->{events} } && chance(0.2))
		{
			my $old = $user->{events}{ pick(sort keys %{ $user->{events} }) };
			@$event{qw(time id)} = @$old{qw(time id)}
			  if $old->{time} <= $now + AudOracle::FUTURE_SKEW;
		}
		my $key = "$event->{time} $event->{id}";
		my ($properties, $context) = event_json($event);
		my $time = timestamp_of($event->{time});

		push @rows, [ $name, $time, $event->{id}, $event->{type}, $properties, $context ];
		push @json, sprintf '{"userId":%s,"timestamp":"%s","eventId":"%s","eventType":"%s","properties":%s,"context":%s}',
		  AudOracle::text_json($name), @{ $rows[-1] }[ 1 .. 5 ];
		next if $user && $user->{events}{$key};
		$user = $world->{users}{$name} //= AudOracle::random_user();
		$user->{events}{$key} = $event;
		$new{$name} = 1;
		my $latest = $latest{$name};
		$latest{$name} = $event
		  if !$latest || ($event->{time} <=> $latest->{time} || $event->{id} cmp $latest->{id}) > 0;
	}
	$world->{expect} = { transitions => {}, touched => {} };
	touch($world, 'rule_evaluation', { map { $_ => $latest{$_}{id} } keys %latest }, keys %new);

	my $columns = 'audience.events (user_id, occurred_at, event_id, event_type, properties, context)';
	return copy_rows($columns, @rows) if $method eq 'copy';
	return $size == 1
	  ? 'SELECT audience.event_ingest(' . quote($json[0]) . ");\n"
	  : 'SELECT audience.events_ingest(' . quote('[' . join(',', @json) . ']') . ");\n"
	  if $method eq 'ingest';
	return "INSERT INTO $columns VALUES "
	  . join(', ', map { '(' . join(', ', map { quote($_) } @$_) . ')' } @rows)
	  . ($method eq 'conflict' ? ' ON CONFLICT DO NOTHING' : '') . ";\n";
}

# Statements of one transaction, with one between them that is undone, and
# another transaction that is undone as a whole.
sub several_statements
{
	my ($world) = @_;
	my $now = timestamp_of($world->{now});
	my $undone = 'INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES '
	  . join(', ', map { sprintf "(%s, '%s', 'undone %d', '%s', '{\"amount\":1000,\"qty\":9}')",
		  quote(pick(@names)), timestamp_of(random_time($world->{now})), $_, pick(@AudOracle::TYPES) } 1 .. 5)
	  . ";\n";
	my $sql = "BEGIN;\nSELECT audience.segment_create('undone', 'eventCount > 0 AND count(login, LAST ''1 day'') >= 1');\n"
	  . "${undone}SELECT audience.profile_erase(user_id) FROM audience.profiles LIMIT 1;\n"
	  . "SET audience.now = '2033-01-01T00:00:00Z';\nDO 'BEGIN PERFORM audience.run_due(); END';\nROLLBACK;\n";

	$sql .= "BEGIN;\n" . insert_events($world, 1) . "SAVEPOINT s;\n$undone" . "ROLLBACK TO s;\n";
	my %touched = %{ $world->{expect}{touched} };
	$sql .= insert_events($world, 7) . "COMMIT;\n";
	$world->{expect}{touched}{$_} = 1 foreach keys %touched;
	$world->{expect}{free_history} = 1;
	return $sql;
}

sub set_attributes
{
	my ($world) = @_;
	my @who = (shuffle @names)[ 0 .. (chance(0.5) ? 0 : 2) ];
	my @items;

	foreach my $name (@who)
	{
		my $patch = AudOracle::random_patch($world->{now} - 10 * AudOracle::DAY);
		apply_patch($world->{users}{$name} //= AudOracle::random_user(), $patch);
		push @items, [ $name, json_of([ 'o', $patch ]) ];
	}
	touch($world, 'rule_evaluation', {}, @who);
	return 'SELECT audience.profile_set(' . quote($items[0][0]) . ', ' . quote($items[0][1]) . ");\n"
	  if @items == 1;
	return 'SELECT audience.profiles_set(' . quote('[' . join(',',
			map { '{"userId":' . AudOracle::text_json($_->[0]) . ",\"attributes\":$_->[1]}" } @items) . ']') . ");\n";
}

# The ids that a segment's rule may refer to: those before it.
sub earlier_ids
{
	my ($world, $segment) = @_;
	my @ids;

	foreach my $other (@{ $world->{segments} })
	{
		last if $segment && $other == $segment;
		push @ids, $other->{id};
	}
	return @ids;
}

sub add_trait
{
	my ($world) = @_;
	my $trait = random_trait('t' . $world->{next_trait}++, $start);

	push @{ $world->{traits} }, $trait;
	return "SELECT $trait->{sql};\n";
}

sub add_segment
{
	my ($world) = @_;
	my $id = 's' . $world->{next_segment}++;

	if ($world->{next_segment} % 9 == 3)
	{
		push @{ $world->{segments} }, { id => $id, active => 1, members => {} };
		return "SELECT audience.segment_create('$id', type => 'static');\n";
	}
	my ($json, $rule) = random_rule($start, 2, $world->{traits}, earlier_ids($world));
	push @{ $world->{segments} }, { id => $id, active => 1, rule => $rule, json => $json };
	return "SELECT audience.segment_create('$id', " . quote($json) . ");\n";
}

# A definition changes when every user has just been evaluated, or those who
# were due, so that both sides mean the same now.
sub change_definitions
{
	my ($world) = @_;
	my $sql = "DO 'BEGIN PERFORM audience.run_due(); END';\n";

	if (chance(0.5)) { $sql = rebuild($world); }
	else { expire_users($world); }
	my ($segment) = shuffle grep { $_->{rule} } @{ $world->{segments} };
	my $roll = rand;

	if ($roll < 0.4)
	{
		my ($json, $rule) = random_rule($start, 2, $world->{traits}, earlier_ids($world, $segment));
		@$segment{qw(json rule)} = ($json, $rule);
		$sql .= "SELECT audience.segment_update('$segment->{id}', rules => " . quote($json) . ");\n";
	}
	elsif ($roll < 0.65)
	{
		$segment->{active} = !$segment->{active};
		$sql .= "SELECT audience.segment_update('$segment->{id}', active => "
		  . ($segment->{active} ? 'true' : 'false') . ");\n";
	}
	elsif ($roll < 0.85) { $sql .= add_segment($world); }
	else { $sql .= add_trait($world); }
	touch($world, '', {}, keys %{ $world->{users} });
	$world->{expect}{free_history} = 1;
	$world->{expect}{verify} = 1;
	return $sql;
}

sub change_list
{
	my ($world) = @_;
	my ($list) = shuffle grep { $_->{members} && $_->{active} } @{ $world->{segments} };
	my @who = (shuffle @names)[ 0 .. int rand 5 ];
	my $array = 'ARRAY[' . join(',', map { quote($_) } @who) . ']';
	my $sql = rebuild($world);
	my $add = chance(0.6);

	$sql .= 'SELECT audience.segment_' . ($add ? 'add' : 'remove') . "('$list->{id}', $array);\n";

	touch($world, '', {}, change_members($world, $list, $add, @who));
	$world->{expect}{free_history} = 1;
	$world->{expect}{verify} = 1;
	return $sql;
}

sub rebuild
{
	my ($world) = @_;
	touch($world, '', {}, keys %{ $world->{users} });
	return "SELECT audience.profile_rebuild();\n";
}

sub merge_users
{
	my ($world) = @_;
	my ($from, $into) = shuffle sort keys %{ $world->{users} };
	return rebuild($world) unless defined $into;
	my $old = merge_user($world, $from, $into);

	touch($world, '', {}, $into);
	$world->{expect}{transitions}{"$from|$_"} = 'removed' foreach keys %{ $old->{in} };
	remember($world, $from, { at => user_now($world, $old) });
	$world->{expect}{verify} = 1;
	return 'SELECT audience.profile_merge(' . quote($from) . ', ' . quote($into) . ");\n";
}

sub erase_user
{
	my ($world) = @_;
	my ($name) = shuffle sort keys %{ $world->{users} };
	return rebuild($world) unless defined $name;

	forget_user($world, $name);
	delete $world->{record}{$name};
	touch($world, '', {});
	$world->{expect}{verify} = 1;
	return 'SELECT audience.profile_erase(' . quote($name) . ");\n";
}
