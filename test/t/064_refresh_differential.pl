# Fills in chunks against brute force, on random worlds.
#
# A seed gives traits, segments and a history of statements, as in
# 040_engine_differential.pl, but segments are made, changed, activated and
# refreshed "later", and fills go on a few users at a time between all else:
# several at once, superseded, given up and ended by newer ones, while users
# are made, merged, erased and overtaken by time.
#
# After each step every user's memberships in the segments that are ready must
# be what AudOracle finds for the definitions and the instant of the user's own
# last evaluation.  That says all there is to say of a fill: whoever has been
# touched, by a statement or by a chunk, is right from then on, and nobody else
# has changed.  Read-only evaluation (segment_preview) must be right at any
# time.  When all fills have been ended verify() is empty, and the history
# replays to the memberships.
#
# AUD_TEST_SEED (first seed), AUD_TEST_SEEDS (how many) and AUD_TEST_STEPS (how
# long each history is) make it a longer run.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudOracle;
use AudTest;
use List::Util qw(shuffle);
use Test::More;

my $first_seed = env_number('AUD_TEST_SEED', 1);
my $seeds = env_number('AUD_TEST_SEEDS', 3);
my $steps = env_number('AUD_TEST_STEPS', 80);

my $start = $AudOracle::START;
my @names = @AudOracle::NAMES;

my $node = start_node('refresh_differential');
my @sessions;					# of the world at hand
my @log;						# its statements

run_seed($_) foreach $first_seed .. $first_seed + $seeds - 1;
$node->stop;
done_testing();

# ---------------------------------------------------------------------------

# One world.  It has two sessions, so that what one does the other must learn.
sub run_seed
{
	my ($seed) = @_;
	my $db = "seed_$seed";
	my $world = {
		now => $start + 10 * AudOracle::DAY, users => {}, segments => [],
		traits => [@AudOracle::BUILTIN], next_segment => 0, next_trait => 0 };
	my $wrong = '';

	srand($seed);
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager');
	@log = ();
	@sessions = map { $node->background_psql($db) } 1 .. 2;
	my $distinct = pick(1, 2, 1000);
	$_->query_safe("SET client_min_messages = warning; SET audience.max_distinct_values = $distinct")
	  foreach @sessions;

	eval {
		add_trait($world) for 1 .. 5;
		insert_events($world, 60);
		set_attributes($world) for 1 .. 4;
		foreach my $step (1 .. $steps)
		{
			$world->{now} += pick(0, 1, AudOracle::HOUR, int rand AudOracle::DAY, AudOracle::DAY + 1);
			random_step($world);
			$wrong = difference($world) || preview_difference($world);
			last if $wrong;
		}
		finish_all($world) unless $wrong;
		$wrong ||= difference($world)
		  || ask($world, 'SELECT * FROM audience.verify() LIMIT 5')
		  || ask($world, replay_sql() . ' LIMIT 5');
		1;
	} or $wrong = $@;
	eval { $_->quit } foreach @sessions;
	is($wrong, '', "seed $seed: $steps steps as by brute force");
	diag(join "\n", grep { !/memberships$|preview|position FROM|id, status/ } @log) if $wrong;
	$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
	return;
}

# What a statement gives, run by either session as of the world's now.
sub ask
{
	my ($world, $sql) = @_;
	my $now = timestamp_of($world->{now});

	push @log, "[$now] $sql";
	$log[-1] = substr($log[-1], 0, 700);
	return pick(@sessions)->query_safe("SET audience.now = '$now';\n$sql;");
}

# Its rows, as array references of text.
sub rows
{
	my ($world, $sql) = @_;
	return map { [ split /\|/, $_, -1 ] } split /\n/, ask($world, $sql);
}

# Notes which segments are building.  Members of those are kept, but nobody
# sees them; their rules go to "hidden".
sub note_status
{
	my ($world) = @_;
	my %status = map { @$_ } rows($world, 'SELECT id, status FROM audience.segments');

	$_->{building} = ($status{ $_->{id} } // '') eq 'building' foreach @{ $world->{segments} };
	return;
}

# Evaluates users as of now.
sub touch
{
	my ($world, @who) = @_;

	foreach my $name (@who)
	{
		my $user = $world->{users}{$name} //= AudOracle::random_user();
		my %hidden;
		my @segments = map {
			my $segment = $_;
			!$segment->{building} ? $segment : { %$segment, rule => sub {
					$hidden{ $segment->{id} } = 1 if $segment->{rule}->(@_);
					return 0; } }
		} @{ $world->{segments} };

		evaluate($user, $name, $world->{now}, $world->{traits}, @segments);
		$user->{in} = { %{ $user->{in} }, %hidden };
	}
	return;
}

sub touch_all
{
	my ($world) = @_;
	touch($world, sort keys %{ $world->{users} });
	return;
}

# The segments that a user is seen in.
sub visible
{
	my ($world, $user) = @_;
	return map { $_->{id} => 1 } grep { $_->{active} && !$_->{building} && $user->{in}{ $_->{id} } }
	  @{ $world->{segments} };
}

# How the stored memberships differ from those expected; empty if not at all.
sub difference
{
	my ($world) = @_;
	my (%got, %want, @wrong);

	$got{"$_->[0] in $_->[1]"} = 1
	  foreach rows($world, 'SELECT user_id, segment_id FROM audience.memberships');
	foreach my $name (keys %{ $world->{users} })
	{
		my %visible = visible($world, $world->{users}{$name});
		$want{"$name in $_"} = 1 foreach keys %visible;
	}
	push @wrong, map { "$_, and should not be" } grep { !$want{$_} } sort keys %got;
	push @wrong, map { "$_ is missing" } grep { !$got{$_} } sort keys %want;
	return join "\n", @wrong;
}

# Is a preview right now, also of what no statement has brought in line yet?
# What it sees of other segments are the memberships as they are.
sub preview_difference
{
	my ($world) = @_;
	my ($segment) = shuffle grep { $_->{rule} } @{ $world->{segments} };
	return '' unless $segment;
	my $now = $world->{now};
	my @want;

	foreach my $name (sort keys %{ $world->{users} })
	{
		my $user = $world->{users}{$name};
		my %copy = %$user;
		my %visible = visible($world, $user);

		evaluate(\%copy, $name, $now, $world->{traits},
			(map { { id => $_, active => 1, rule => sub { 1 } } } sort keys %visible),
			{ id => ' asked', active => 1, rule => $segment->{rule} });
		push @want, $name if $copy{in}{' asked'};
	}
	my $got = ask($world, "SELECT array_to_string(users, '|') FROM audience.segment_preview("
		  . quote($segment->{json}) . ', 1000)');
	my $want = join '|', @want;
	return $got eq $want ? '' : "preview of $segment->{json}:\ngot  $got\nwant $want";
}

# ---------------------------------------------------------------------------
# Steps

sub random_step
{
	my ($world) = @_;
	my $roll = rand;

	return insert_events($world, pick(1, 1, 3, 7)) if $roll < 0.3;
	return set_attributes($world) if $roll < 0.36;
	return create_segment($world) if $roll < 0.46 || !@{ $world->{segments} };
	return change_segment($world) if $roll < 0.57;
	return begin_refresh($world) if $roll < 0.60;
	return step_fill($world) if $roll < 0.80;
	return finish_fill($world) if $roll < 0.86;
	return delete_segment($world) if $roll < 0.88;
	return expire($world) if $roll < 0.91;
	return change_list($world) if $roll < 0.93;
	return add_trait($world) if $roll < 0.94;
	return rebuild($world) if $roll < 0.96;
	return merge_users($world) if $roll < 0.98;
	return erase_user($world);
}

sub insert_events
{
	my ($world, $size) = @_;
	my @who = $size <= 7 ? (shuffle @names)[ 0 .. int rand 4 ] : @names;
	my (@rows, %new);

	foreach (1 .. $size)
	{
		my $name = pick(@who);
		my $time = $world->{now} - pick(0, AudOracle::HOUR * int rand 30, int rand 3 * AudOracle::DAY,
			AudOracle::DAY * int rand 40, -int rand AudOracle::HOUR);
		my $event = random_event($time, 'e' . ++$world->{event}, $start);
		my ($properties, $context) = event_json($event);

		push @rows, '(' . join(', ', map { quote($_) } $name, timestamp_of($time), $event->{id},
			$event->{type}, $properties, $context) . ')';
		$world->{users}{$name} //= AudOracle::random_user();
		$world->{users}{$name}{events}{"$time $event->{id}"} = $event;
		$new{$name} = 1;
	}
	ask($world, 'INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context) VALUES '
		  . join ', ', @rows);
	touch($world, sort keys %new);
	return;
}

sub set_attributes
{
	my ($world) = @_;
	my $name = pick(@names);
	my $patch = AudOracle::random_patch($start);

	AudOracle::apply_patch($world->{users}{$name} //= AudOracle::random_user(), $patch);
	ask($world, 'SELECT audience.profile_set(' . quote($name) . ', ' . quote(json_of([ 'o', $patch ])) . ')');
	touch($world, $name);
	return;
}

# A rule that may refer to the segments before this one.
sub rule_for
{
	my ($world, $segment) = @_;
	my @ids;

	foreach my $other (@{ $world->{segments} })
	{
		last if $segment && $other == $segment;
		push @ids, $other->{id};
	}
	# a reference more often than elsewhere
	return random_rule($start, 2, $world->{traits}, @ids) if !@ids || chance(0.6);
	my ($json, $rule) = random_rule($start, 1, $world->{traits}, @ids);
	my $id = pick(@ids);
	return ("{\"all\":[{\"not\":$json},{\"segment\":\"$id\"}]}",
		sub { !$rule->(@_) && $_[0]{in}{$id} })
	  if chance(0.5);
	return ("{\"any\":[$json,{\"segment\":\"$id\",\"operator\":\"not_in\"}]}",
		sub { $rule->(@_) || !$_[0]{in}{$id} });
}

sub create_segment
{
	my ($world) = @_;
	my $id = 's' . $world->{next_segment}++;
	my $when = chance(0.8) ? 'later' : 'now';

	touch_due($world);
	if ($world->{next_segment} % 9 == 3)
	{
		push @{ $world->{segments} }, { id => $id, active => 1, members => {} };
		ask($world, "SELECT audience.segment_create('$id', type => 'static', refresh => '$when')");
		return;
	}
	my ($json, $rule) = rule_for($world);
	my $segment = { id => $id, active => 1, rule => $rule, json => $json };

	# what another one that is building asks, too
	my ($twin) = shuffle grep { $_->{rule} } @{ $world->{segments} };
	@$segment{qw(json rule)} = @$twin{qw(json rule)} if $twin && chance(0.15);
	ask($world, "SELECT audience.segment_create('$id', " . quote($segment->{json}) . ", refresh => '$when')");
	push @{ $world->{segments} }, $segment;
	note_status($world);
	touch_all($world) if $when eq 'now';
	return;
}

# New rules, or inactive, or active again.
sub change_segment
{
	my ($world) = @_;
	my ($segment) = shuffle grep { $_->{rule} } @{ $world->{segments} };
	return unless $segment;
	my $when = chance(0.75) ? 'later' : 'now';
	my $sql = "SELECT audience.segment_update('$segment->{id}', refresh => '$when'";

	if ($segment->{active} && chance(0.75))
	{
		my ($json, $rule) = rule_for($world, $segment);
		return if ask($world, 'SELECT rules OPERATOR(audience.=) ' . quote($json)
			  . "::audience.rule FROM audience.segments WHERE id = '$segment->{id}'") eq 't';
		touch_due($world);
		@$segment{qw(json rule)} = ($json, $rule);
		ask($world, "$sql, rules => " . quote($json) . ')');
	}
	elsif ($segment->{active})
	{
		touch_due($world);
		$segment->{active} = 0;
		$when = 'now';
		ask($world, "$sql, active => false)");
	}
	else
	{
		touch_due($world);
		$segment->{active} = 1;
		ask($world, "$sql, active => true)");
	}
	note_status($world);
	touch_all($world) if $when eq 'now';
	return;
}

sub begin_refresh
{
	my ($world) = @_;
	my ($segment) = shuffle grep { $_->{rule} } @{ $world->{segments} };

	return unless $segment;
	expire($world);
	ask($world, "SELECT audience.refresh_begin('$segment->{id}')");
	return;
}

sub a_fill
{
	my ($world) = @_;
	my ($fill) = shuffle rows($world, 'SELECT fill, position FROM audience.refreshes ORDER BY fill');
	return $fill ? @$fill : ();
}

# A chunk: the users between where the fill was and where it is.
sub step_fill
{
	my ($world, $fill, $before) = @_;
	($fill, $before) = a_fill($world) unless defined $fill;
	return unless defined $fill;
	my $more = ask($world, "SELECT audience.refresh_step($fill, " . (1 + int rand 9) . ')');
	my ($after) = map { $_->[0] } rows($world, "SELECT position FROM audience.refreshes WHERE fill = $fill");

	touch($world, grep { ($_ cmp $before) > 0 && ($_ cmp $after) <= 0 } sort keys %{ $world->{users} });
	return $more eq 't';
}

sub finish_fill
{
	my ($world, $fill) = @_;
	($fill) = a_fill($world) unless defined $fill;
	return unless defined $fill;
	ask($world, "SELECT audience.refresh_finish($fill)");
	note_status($world);
	return;
}

# All fills that there are, and those that come of them, to their end; then
# refreshing everything changes nothing but what time has.
sub finish_all
{
	my ($world) = @_;

	while (my ($fill, $before) = a_fill($world))
	{
		1 while step_fill($world, $fill, ask($world, "SELECT position FROM audience.refreshes WHERE fill = $fill"));
		finish_fill($world, $fill);
	}
	die "some segment still waits\n"
	  if ask($world, q{SELECT id FROM audience.segments WHERE pending IS NOT NULL OR status = 'building'
UNION ALL SELECT number::text FROM audience.aggregates WHERE pending IS NOT NULL}) ne '';
	return;
}

sub delete_segment
{
	my ($world) = @_;
	my ($segment) = shuffle @{ $world->{segments} };

	return if ask($world, "SELECT audience.segment_dependents('$segment->{id}')") ne '';
	touch_due($world);
	ask($world, "SELECT audience.segment_delete('$segment->{id}')");
	@{ $world->{segments} } = grep { $_ != $segment } @{ $world->{segments} };
	return;
}

# Those whose timers are due are looked at, as a change of definitions does first,
# too; the others must not have changed, but for what a fill has yet to bring.
sub touch_due
{
	my ($world) = @_;

	touch($world, map { $_->[0] } rows($world, 'SELECT user_id FROM audience.timers WHERE due_at <= audience.now()'));
	return;
}

sub expire
{
	my ($world) = @_;

	touch_due($world);
	ask($world, 'SELECT audience.run_due()');
	return;
}

sub change_list
{
	my ($world) = @_;
	my ($list) = shuffle grep { $_->{members} } @{ $world->{segments} };
	return unless $list;
	my @who = (shuffle @names)[ 0 .. int rand 3 ];
	my $array = 'ARRAY[' . join(',', map { quote($_) } @who) . ']';
	my $add = chance(0.6);

	ask($world, 'SELECT audience.segment_' . ($add ? 'add' : 'remove') . "('$list->{id}', $array)");
	touch($world, change_members($world, $list, $add, @who));
	return;
}

# A trait goes through all users only if what it asks is not kept yet.
sub add_trait
{
	my ($world) = @_;
	my $trait = random_trait('t' . $world->{next_trait}++, $start);
	my $definition = $trait->{sql} =~ s/trait_create\('t\d+', /trait_definition(/r;
	my $kept = ask($world, "SELECT count(*) FROM audience.aggregates WHERE pending IS NULL AND definition OPERATOR(audience.=) $definition");

	touch_due($world);
	ask($world, "SELECT $trait->{sql}");
	push @{ $world->{traits} }, $trait;
	touch_all($world) unless $kept;
	return;
}

sub rebuild
{
	my ($world) = @_;
	my @who = (shuffle sort keys %{ $world->{users} })[ 0 .. 4 ];

	@who = grep { defined } @who;
	ask($world, 'SELECT audience.profile_rebuild(ARRAY[' . join(',', map { quote($_) } @who) . ']::text[])');
	touch($world, @who);
	return;
}

sub merge_users
{
	my ($world) = @_;
	my ($from, $into) = shuffle sort keys %{ $world->{users} };
	return unless defined $into;

	merge_user($world, $from, $into);
	ask($world, 'SELECT audience.profile_merge(' . quote($from) . ', ' . quote($into) . ')');
	touch($world, $into);
	return;
}

sub erase_user
{
	my ($world) = @_;
	my ($name) = shuffle sort keys %{ $world->{users} };
	return unless defined $name;

	forget_user($world, $name);
	ask($world, 'SELECT audience.profile_erase(' . quote($name) . ')');
	return;
}
