# AudOracle: rules, traits and memberships by brute force, in Perl.
#
# The other road to the truth for the random tests.  A world is made from a
# seed: traits, segments and their rules, each at once as the JSON that the
# extension gets and as a closure that decides it from all events of a user.
# Nothing is kept between evaluations and nothing is clever: that is the point.
#
# Values are tagged: ['n', thousandths, divisor], ['s', text, microseconds or
# undef], ['b', 0 or 1], ['a', items…], ['z'] for null; undef is missing.
# Numbers are rationals of integers, so every comparison is exact.  Times are
# microseconds since 1970.
package AudOracle;

use strict;
use warnings;

use Digest::SHA qw(sha256);
use Exporter 'import';
use List::Util qw(any all none sum0 min max);
use POSIX qw(floor strftime);
use Time::Local qw(timegm);

our @EXPORT = qw(
  pick chance json_of timestamp_of key_of
  random_event random_patch random_trait random_rule random_user
  apply_patch event_json evaluate trait_value lookup
  merge_user forget_user change_members);

use constant SECOND => 1_000_000;
use constant HOUR => 3600 * SECOND;
use constant DAY => 24 * HOUR;
use constant FUTURE_SKEW => HOUR;

# what worlds begin with
our $START = timegm(0, 0, 0, 1, 2, 2026) * SECOND;
our @NAMES = ((map { "u$_" } 1 .. 14), (map { "U$_" } 1 .. 4), "o'h", "\xc3\xbcber", 'a b', 'a,b', 'x"y', '~z');
our @BUILTIN = (
	{ name => 'totalSpent', aggregate => 'sum', property => 'amount', event_type => 'purchase', type => 'n' },
	{ name => 'eventCount', aggregate => 'count', type => 'n' },
	{ name => 'lastActivity', aggregate => 'last_time', type => 't' });

our @TYPES = qw(purchase page_view page_click login order.placed);
our @WORDS = qw(books toys Games shoes GAMES);

# ---------------------------------------------------------------------------
# Values

sub pick { return $_[ int rand @_ ]; }
sub chance { return rand() < $_[0]; }

# A number of thousandths as JSON, in one of its spellings.
sub number_json
{
	my ($thousandths, $plain) = @_;
	my $sign = $thousandths < 0 ? '-' : '';
	my $text = sprintf '%s%d.%03d', $sign, int(abs($thousandths) / 1000),
	  abs($thousandths) % 1000;
	return $text if !$plain && chance(0.2);
	$text =~ s/\.?0+\z//;
	return $text;
}

sub text_json
{
	my ($text) = @_;
	$text =~ s/(["\\])/\\$1/g;
	return "\"$text\"";
}

# Any value as JSON; "plain" gives each value one spelling.
sub json_of
{
	my ($value, $plain) = @_;
	return 'null' if !defined $value || $value->[0] eq 'z';
	my ($tag, @rest) = @$value;
	return number_json($rest[0], $plain) if $tag eq 'n';
	return text_json($rest[0]) if $tag eq 's';
	return $rest[0] ? 'true' : 'false' if $tag eq 'b';
	return '[' . join(',', map { json_of($_, $plain) } @rest) . ']' if $tag eq 'a';
	return '{' . join(',',
		map { text_json($_) . ':' . json_of($rest[0]{$_}, $plain) }
		sort keys %{ $rest[0] }) . '}';
}

# What tells values apart: equal values, however spelled, have one key.
sub key_of
{
	my ($value) = @_;
	return json_of($value, 1);
}

# Microseconds as the timestamp that rules and profiles print.
sub timestamp_of
{
	my ($us) = @_;
	my $text = strftime('%Y-%m-%dT%H:%M:%S', gmtime(floor($us / SECOND)));
	my $fraction = $us % SECOND;

	$text .= sprintf('.%06d', $fraction) =~ s/0+\z//r if $fraction;
	return $text . 'Z';
}

sub time_value
{
	my ($us) = @_;
	return [ 's', timestamp_of($us), $us ];
}

# -1, 0, 1; undef where the two are not of one ordered type.
sub compare
{
	my ($a, $b) = @_;
	return undef if $a->[0] ne $b->[0];
	return $a->[1] * ($b->[2] // 1) <=> $b->[1] * ($a->[2] // 1) if $a->[0] eq 'n';
	return $a->[1] cmp $b->[1] if $a->[0] eq 's';
	return $a->[1] <=> $b->[1] if $a->[0] eq 'b';
	return undef;
}

sub equal
{
	my ($a, $b) = @_;
	return 0 if $a->[0] ne $b->[0];
	my $order = compare($a, $b);
	return $order == 0 if defined $order;
	return key_of($a) eq key_of($b);
}

# Order of values as jsonb has it, for scalars of a C collation.
sub jsonb_order
{
	my ($a, $b) = @_;
	my %rank = (s => 1, n => 2, b => 3, a => 4);
	return $rank{ $a->[0] } <=> $rank{ $b->[0] } || (compare($a, $b) // (
		@$a <=> @$b || key_of($a) cmp key_of($b)));
}

sub fold
{
	my ($value) = @_;
	return [ 's', lc $value->[1] ] if $value->[0] eq 's';
	return [ 'a', map { fold($_) } @$value[ 1 .. $#$value ] ] if $value->[0] eq 'a';
	return $value;
}

# ---------------------------------------------------------------------------
# Operators

my %NEGATED = (
	neq => 'eq', not_in => 'in', not_between => 'between',
	not_contains => 'contains', contains_none => 'contains_any',
	not_starts_with => 'starts_with', not_ends_with => 'ends_with',
	not_like => 'like', not_exists => 'exists', not_empty => 'is_empty');

# Whether one value, or an element where it is an array, passes a test.
sub some
{
	my ($value, $test) = @_;
	return 1 if $test->($value);
	return $value->[0] eq 'a' && any { $test->($_) } @$value[ 1 .. $#$value ];
}

# Does the operator hold for these values (none: missing)?
sub holds
{
	my ($operator, $constant, $now, $ci, @values) = @_;

	return !holds($NEGATED{$operator}, $constant, $now, $ci, @values)
	  if $NEGATED{$operator};
	return any { $_->[0] ne 'z' } @values if $operator eq 'exists';
	if ($operator eq 'is_empty')
	{
		return !@values || all {
			$_->[0] eq 'z' || $_->[0] eq 's' && $_->[1] eq '' || $_->[0] eq 'a' && @$_ == 1
			  || $_->[0] eq 'o' && !%{ $_->[1] }
		} @values;
	}
	if ($ci)
	{
		@values = map { fold($_) } @values;
		$constant = $constant->[0] eq 'list'
		  ? [ 'list', map { fold($_) } @$constant[ 1 .. $#$constant ] ]
		  : fold($constant);
	}
	my @list = defined $constant && $constant->[0] eq 'list' ? @$constant[ 1 .. $#$constant ] : ($constant);
	my %test = (
		eq => sub { equal($_[0], $constant) },
		in => sub { my $v = $_[0]; any { equal($v, $_) } @list },
		gt => sub { (compare($_[0], $constant) // 0) > 0 },
		gte => sub { (compare($_[0], $constant) // -1) >= 0 },
		lt => sub { (compare($_[0], $constant) // 0) < 0 },
		lte => sub { (compare($_[0], $constant) // 1) <= 0 },
		between => sub { (compare($_[0], $list[0]) // -1) >= 0 && (compare($_[0], $list[1]) // 1) <= 0 },
		starts_with => sub { my $v = $_[0]; $v->[0] eq 's' && any { index($v->[1], $_->[1]) == 0 } @list },
		ends_with => sub { my $v = $_[0]; $v->[0] eq 's' && any { length $v->[1] >= length $_->[1] && substr($v->[1], length($v->[1]) - length($_->[1])) eq $_->[1] } @list },
		like => sub { my $v = $_[0]; my $p = $constant->[1] =~ s/%//gr; $v->[0] eq 's' && index($v->[1], $p) >= 0 },
		before => sub { defined $_[0][2] && $_[0][0] eq 's' && $_[0][2] < $constant->[2] },
		at_or_before => sub { defined $_[0][2] && $_[0][0] eq 's' && $_[0][2] <= $constant->[2] },
		after => sub { defined $_[0][2] && $_[0][0] eq 's' && $_[0][2] > $constant->[2] },
		at_or_after => sub { defined $_[0][2] && $_[0][0] eq 's' && $_[0][2] >= $constant->[2] },
		within_last => sub { defined $_[0][2] && $_[0][0] eq 's' && $now - $constant->[1] < $_[0][2] && $_[0][2] <= $now + FUTURE_SKEW },
		before_last => sub { defined $_[0][2] && $_[0][0] eq 's' && $_[0][2] <= $now - $constant->[1] },
		within_next => sub { defined $_[0][2] && $_[0][0] eq 's' && $now < $_[0][2] && $_[0][2] <= $now + $constant->[1] },
		after_next => sub { defined $_[0][2] && $_[0][0] eq 's' && $_[0][2] > $now + $constant->[1] });
	if (my $test = $test{$operator})
	{
		return any { some($_, $test) } @values;
	}
	foreach my $value (@values)
	{
		if ($operator eq 'contains')
		{
			return 1 if $value->[0] eq 's' && $constant->[0] eq 's' && index($value->[1], $constant->[1]) >= 0;
			return 1 if $value->[0] eq 'a' && any { equal($_, $constant) } @$value[ 1 .. $#$value ];
			next;
		}
		next if $value->[0] ne 'a';
		my @has = grep { my $c = $_; any { equal($_, $c) } @$value[ 1 .. $#$value ] } @list;
		return 1 if $operator eq 'contains_any' ? @has > 0 : @has == @list;
	}
	return 0;
}

# ---------------------------------------------------------------------------
# Random constants and tests

sub random_number { return [ 'n', chance(0.7) ? 1000 * int rand 12 : int rand 60_000 ]; }
sub random_word { return [ 's', pick(@WORDS) ]; }

sub random_constant
{
	my ($type) = @_;
	return random_word() if $type eq 's' || $type eq 'a';
	return [ 'b', int rand 2 ] if $type eq 'b';
	return random_number();
}

sub random_duration
{
	my $hours = pick(1, 6, 24, 36, 72, 240, 720);
	my $us = $hours * HOUR;
	my $json = chance(0.3) ? $hours * 3600
	  : $hours % 24 == 0 ? '"' . ($hours / 24) . ' days"' : "\"$hours hours\"";
	return ($us, $json);
}

# An operator that suits a type, its value, and what decides it: the JSON of
# both, and a closure over (now, values).
sub random_test
{
	my ($type, $start) = @_;
	my %operators = (
		n => [qw(eq neq gt gte lt lte gt gte between not_between in not_in exists not_exists is_empty starts_with)],
		s => [qw(eq neq gt lte in not_in contains not_contains starts_with not_starts_with ends_with not_ends_with like not_like exists not_exists is_empty not_empty)],
		b => [qw(eq neq gt lt exists not_exists)],
		a => [qw(eq neq in contains not_contains contains_any contains_all contains_none starts_with exists is_empty not_empty)],
		t => [qw(before at_or_before after at_or_after within_last before_last within_next after_next within_last within_next exists not_exists)]);
	my $operator = pick(@{ $operators{$type} });
	my ($constant, $json, $ci);
	my $scalar = $type eq 'n' && $operator eq 'starts_with' ? 's' : $type;

	if ($operator =~ /exists|empty/) { }
	elsif ($operator =~ /_(last|next)\z/)
	{
		(my $us, $json) = random_duration();
		$constant = [ 'duration', $us ];
	}
	elsif ($type eq 't')
	{
		$constant = time_value($start + HOUR * int rand 24 * 60);
		$json = json_of($constant);
	}
	elsif ($operator =~ /between/)
	{
		my @range = sort { compare($a, $b) } random_constant($scalar), random_constant($scalar);
		$constant = [ 'list', @range ];
	}
	elsif ($operator =~ /\A(not_)?in\z/ || $operator =~ /_(any|all|none)\z/)
	{
		$constant = [ 'list', map { random_constant($scalar) } 0 .. int rand 3 ];
	}
	elsif ($operator =~ /(starts|ends)_with/)
	{
		$constant = [ 's', pick('b', 'bo', 's', 'S', 'G', 'es') ];
	}
	elsif ($operator =~ /like/) { $constant = [ 's', pick('%oo%', '%s%', '%AM%') ]; }
	else { $constant = random_constant($scalar); }

	$ci = $operator =~ /\A(eq|neq|in|not_in|contains.*|not_contains|starts_with|ends_with|not_starts_with|not_ends_with)\z/
	  && chance(0.3);
	$json //= $constant->[0] eq 'list'
	  ? '[' . join(',', map { json_of($_) } @$constant[ 1 .. $#$constant ]) . ']'
	  : json_of($constant)
	  if defined $constant;
	return (
		"\"operator\":\"$operator\"" . (defined $json ? ",\"value\":$json" : '')
		  . ($ci ? ',"ci":true' : ''),
		sub { my ($now, @values) = @_; holds($operator, $constant, $now, $ci, @values) });
}

# ---------------------------------------------------------------------------
# Events

# The values at a path: none, one, or with [*] each.
sub lookup
{
	my ($document, $path) = @_;
	my @values = ([ 'o', $document ]);

	foreach my $step ($path =~ /([^.\[\]]+|\[[^\]]*\])/g)
	{
		if ($step eq '[*]')
		{
			@values = map { $_->[0] eq 'a' ? @$_[ 1 .. $#$_ ] : () } @values;
		}
		elsif ($step =~ /\A\[(-?\d+)\]\z/)
		{
			my $index = $1;
			@values = map {
				my $n = @$_ - 1;
				my $at = $index < 0 ? $n + $index : $index;
				$_->[0] eq 'a' && $at >= 0 && $at < $n ? $_->[ $at + 1 ] : ()
			} @values;
		}
		else
		{
			@values = map { $_->[0] eq 'o' && exists $_->[1]{$step} ? $_->[1]{$step} : () } @values;
		}
	}
	return @values;
}

my %PROPERTY_TYPE = (
	amount => 'n', qty => 'n', category => 's', tags => 'a', flag => 'b',
	'a.b' => 'n', when => 't', 'tags[0]' => 's', 'tags[-1]' => 's', 'tags[*]' => 's',
	'$context.device' => 's', '$type' => 's', '$time' => 't', nothing => 'n');

sub event_values
{
	my ($event, $path) = @_;
	return [ 's', $event->{type} ] if $path eq '$type';
	return time_value($event->{time}) if $path eq '$time';
	return lookup($event->{context}, $1) if $path =~ /\A\$context\.(.*)/;
	return lookup($event->{properties}, $path);
}

# An event of a user at a time, with what it has of properties; timestamps
# among them lie in the 40 days from "start" on.
sub random_event
{
	my ($time, $id, $start) = @_;
	my %properties;

	$properties{amount} = pick([ 'n', int rand 50_000 ], [ 'n', 1000 * int rand 10 ], [ 'n', 1000 * int rand 10 ]) if chance(0.8);
	$properties{amount} = pick([ 's', '12' ], ['z'], [ 'b', 1 ], [ 'n', -2500 ]) if chance(0.1);
	$properties{qty} = [ 'n', 1000 * int rand 4 ] if chance(0.7);
	$properties{category} = random_word() if chance(0.8);
	$properties{category} = pick(['z'], [ 'n', 1000 ], [ 's', '' ]) if chance(0.08);
	$properties{tags} = [ 'a', map { random_word() } 0 .. int rand 3 ] if chance(0.5);
	$properties{flag} = [ 'b', int rand 2 ] if chance(0.5);
	$properties{a} = [ 'o', { b => random_number() } ] if chance(0.4);
	$properties{when} = chance(0.8) ? time_value($start + HOUR * int rand 24 * 40) : random_word() if chance(0.4);
	return {
		time => $time,
		id => $id,
		type => pick(@TYPES),
		properties => \%properties,
		context => chance(0.3) ? { device => random_word() } : {} };
}

sub event_json
{
	my ($event) = @_;
	return (json_of([ 'o', $event->{properties} ]), json_of([ 'o', $event->{context} ]));
}

# A rule over one event: JSON and closure over (now, event).
sub random_where
{
	my ($start, $depth) = @_;
	my $roll = rand;

	if ($depth > 0 && $roll < 0.25)
	{
		my $group = pick(qw(all any none not));
		my @parts = map { [ random_where($start, $depth - 1) ] } 1 .. ($group eq 'not' ? 1 : 2);
		my $json = $group eq 'not' ? $parts[0][0] : '[' . join(',', map { $_->[0] } @parts) . ']';
		return ("{\"$group\":$json}", grouped($group, map { $_->[1] } @parts));
	}
	my $path = pick(sort(keys %PROPERTY_TYPE), qw($time when when));
	my ($json, $test) = random_test($PROPERTY_TYPE{$path}, $start);
	($json, $test) = random_test('s', $start)
	  while $path eq 'tags[*]' && $json =~ /contains|exists|empty/;
	return ("{\"field\":" . text_json($path) . ",$json}",
		sub { my ($now, $event) = @_; $test->($now, event_values($event, $path)) });
}

# A group's closure from its members' closures.
sub grouped
{
	my ($group, @members) = @_;
	return sub { my @a = @_; all { $_->(@a) } @members } if $group eq 'all';
	return sub { my @a = @_; any { $_->(@a) } @members } if $group eq 'any';
	return sub { my @a = @_; none { $_->(@a) } @members };
}

# Which types an event node takes: JSON and closure over an event.
sub random_types
{
	my $roll = rand;
	if ($roll < 0.5)
	{
		my $type = pick(@TYPES);
		return (text_json($type), sub { $_[0]{type} eq $type });
	}
	if ($roll < 0.7)
	{
		my ($a, $b) = (pick(@TYPES), pick(@TYPES));
		return ("[\"$a\",\"$b\"]", sub { $_[0]{type} eq $a || $_[0]{type} eq $b });
	}
	return ('"page*"', sub { index($_[0]{type}, 'page') == 0 }) if $roll < 0.85;
	return ('"*"', sub { 1 });
}

# A window: JSON and closure over (now, time).
sub random_window
{
	my ($start) = @_;
	if (chance(0.7))
	{
		my ($us, $json) = random_duration();
		return ("{\"last\":$json}",
			sub { $_[0] - $us < $_[1] && $_[1] <= $_[0] + FUTURE_SKEW });
	}
	my $from = $start + DAY * int rand 30;
	my $to = chance(0.6) ? $from + DAY * (1 + int rand 15) : undef;
	return ('{"from":"' . timestamp_of($from) . '"'
		  . (defined $to ? ',"to":"' . timestamp_of($to) . '"' : '') . '}',
		sub { $from <= $_[1] && (!defined $to || $_[1] < $to) });
}

# ---------------------------------------------------------------------------
# Aggregates

my @AGGREGATES = qw(count sum avg min max first last count_distinct
  most_frequent days_active first_time last_time);

# What an aggregate makes of events, in their order; undef: missing.
sub aggregate
{
	my ($aggregate, $property, @events) = @_;
	my @values;

	if (defined $property)
	{
		my @kept;
		foreach my $event (@events)
		{
			my ($value) = event_values($event, $property);
			next if !defined $value || $value->[0] eq 'z';
			push @kept, $event;
			push @values, $value;
		}
		@events = @kept;
	}
	return [ 'n', 1000 * @events ] if $aggregate eq 'count';
	if ($aggregate eq 'days_active')
	{
		my %days = map { floor($_->{time} / DAY) => 1 } @events;
		return [ 'n', 1000 * keys %days ];
	}
	if ($aggregate eq 'count_distinct')
	{
		my %distinct = map { key_of($_) => 1 } @values;
		return [ 'n', 1000 * keys %distinct ];
	}
	my @numbers = map { $_->[1] } grep { $_->[0] eq 'n' } @values;
	return [ 'n', sum0 @numbers ] if $aggregate eq 'sum';
	if ($aggregate =~ /\A(avg|min|max)\z/)
	{
		return undef unless @numbers;
		return [ 'n', sum0(@numbers), scalar @numbers ] if $aggregate eq 'avg';
		return [ 'n', $aggregate eq 'min' ? min(@numbers) : max(@numbers) ];
	}
	return undef unless @events;
	return time_value($events[0]{time}) if $aggregate eq 'first_time';
	return time_value($events[-1]{time}) if $aggregate eq 'last_time';
	return $values[0] if $aggregate eq 'first';
	return $values[-1] if $aggregate eq 'last';
	my (%count, %value);
	foreach my $value (@values)
	{
		$count{ key_of($value) }++;
		$value{ key_of($value) } = $value;
	}
	my ($best) = sort {
		$count{$b} <=> $count{$a} || jsonb_order($value{$a}, $value{$b})
	} keys %count;
	return $value{$best};
}

# An aggregate with its property, if any, and the type of what it gives.
sub random_aggregate
{
	my $aggregate = pick(@AGGREGATES, 'count', 'sum');
	my $property;

	if ($aggregate =~ /\A(sum|avg|min|max)\z/) { $property = pick(qw(amount qty a.b)); }
	elsif ($aggregate =~ /\A(first|last|count_distinct|most_frequent)\z/)
	{
		$property = pick(qw(amount category flag qty));
		$property = 'tags' if $aggregate ne 'most_frequent' && chance(0.15);
		$property = 'when' if $aggregate =~ /\A(first|last)\z/ && chance(0.15);
	}
	elsif (chance(0.2)) { $property = pick(qw(amount category)); }
	my $type = $aggregate =~ /_time\z/ ? 't'
	  : $aggregate =~ /\A(first|last|most_frequent)\z/ ? $PROPERTY_TYPE{$property} : 'n';
	return ($aggregate, $property, $type);
}

# ---------------------------------------------------------------------------
# Traits

# A trait: the arguments of trait_create as SQL, and what trait_value needs.
sub random_trait
{
	my ($name, $start) = @_;
	my ($aggregate, $property, $type) = random_aggregate();
	my $event_type = chance(0.7) ? pick(@TYPES) : undef;
	my ($where_json, $where) = chance(0.4) ? random_where($start, 1) : ();
	my ($window_us, $window_sql);

	if (chance(0.5))
	{
		my $hours = pick(6, 24, 36, 72, 240);
		($window_us, $window_sql) = ($hours * HOUR, "interval '$hours hours'");
	}
	my $sql = sprintf 'audience.trait_create(%s, %s, %s, %s, %s, %s)',
	  map { defined ? $_ : 'NULL' }
	  "'$name'", "'$aggregate'",
	  (defined $event_type ? "'$event_type'" : undef),
	  (defined $property ? "'$property'" : undef),
	  (defined $where_json ? "'" . ($where_json =~ s/'/''/gr) . "'" : undef),
	  $window_sql;
	return {
		name => $name, type => $type, sql => $sql, aggregate => $aggregate,
		property => $property, event_type => $event_type, where => $where,
		window => $window_us };
}

sub trait_value
{
	my ($trait, $now, @events) = @_;
	return aggregate(
		$trait->{aggregate},
		$trait->{property},
		grep {
			(!defined $trait->{event_type} || $_->{type} eq $trait->{event_type})
			  && (!defined $trait->{window}
				|| $now - $trait->{window} < $_->{time} && $_->{time} <= $now + FUTURE_SKEW)
			  && (!defined $trait->{where} || $trait->{where}->($now, $_))
		} @events);
}

# ---------------------------------------------------------------------------
# Rules: JSON and closure over a context {user, now, events, document, in}

sub random_event_node
{
	my ($start) = @_;
	my ($types_json, $types) = random_types();
	my ($where_json, $where) = chance(0.5) ? random_where($start, 1) : ();
	my ($window_json, $window) = chance(0.7) ? random_window($start) : ();
	my $json = "\"event\":$types_json";
	my ($aggregate, $property, $test) = ('count');

	$json .= ",\"where\":$where_json" if $where;
	if (chance(0.15))
	{
		$test = sub { $_[1][1] > 0 };
	}
	else
	{
		($aggregate, $property, my $type) = random_aggregate();
		(my $test_json, $test) = random_test($type, $start);
		$json .= ",\"aggregate\":\"$aggregate\"" if $aggregate ne 'count' || chance(0.5);
		$json .= ',"property":' . text_json($property) if defined $property;
		$json .= ",$test_json";
	}
	$json .= ",\"window\":$window_json" if $window;
	return (
		"{$json}",
		sub {
			my ($context) = @_;
			my $now = $context->{now};
			my $value = aggregate($aggregate, $property, grep {
				$types->($_) && (!$window || $window->($now, $_->{time}))
				  && (!$where || $where->($now, $_))
			} @{ $context->{events} });
			return $test->($now, defined $value ? $value : ());
		});
}

sub random_sequence
{
	my ($start) = @_;
	my (@steps, @json);
	my $present = 1 + int rand 3;
	my ($window_json, $window) = chance(0.4) ? random_window($start) : ();

	foreach my $n (1 .. $present)
	{
		push @steps, { absent => 1 } if $n > 1 && chance(0.3);
		push @steps, { absent => 1 } if $n > 1 && $steps[-1]{absent} && chance(0.5);
		push @steps, { timed => $n > 1 && chance(0.5) };
	}
	push @steps, { absent => 1, timed => 1 } if chance(0.3);
	foreach my $step (@steps)
	{
		(my $types_json, $step->{types}) = random_types();
		my $json = "\"event\":$types_json";
		if (chance(0.4))
		{
			(my $where_json, $step->{where}) = random_where($start, 0);
			$json .= ",\"where\":$where_json";
		}
		if ($step->{timed})
		{
			($step->{within}, my $duration_json) = random_duration();
			$json .= ",\"within\":$duration_json";
		}
		$json .= ',"absent":true' if $step->{absent};
		push @json, "{$json}";
	}
	return (
		'{"sequence":[' . join(',', @json) . ']'
		  . ($window ? ",\"window\":$window_json" : '') . '}',
		sub {
			my ($context) = @_;
			return fits($context, $window, 0, -1, [], @steps);
		});
}

# Is there a choice of events for the remaining steps after event "previous"?
sub fits
{
	my ($context, $window, $n, $previous, $absent, @steps) = @_;
	my ($events, $now) = @$context{qw(events now)};
	my $takes = sub {
		my ($step, $event) = @_;
		$step->{types}->($event) && (!$step->{where} || $step->{where}->($now, $event));
	};
	return 1 if $n == @steps;
	my $step = $steps[$n];

	if ($step->{absent} && $n == $#steps)
	{
		my $since = $events->[$previous]{time};
		my $until = $since + $step->{within};
		return $now > $until && none {
			$_->{time} > $since && $_->{time} <= $until && $takes->($step, $_)
		} @$events;
	}
	return fits($context, $window, $n + 1, $previous, [ @$absent, $step ], @steps)
	  if $step->{absent};
	for my $i ($previous + 1 .. $#$events)
	{
		my $event = $events->[$i];

		last if defined $step->{within}
		  && $event->{time} - $events->[$previous]{time} > $step->{within};
		return 1
		  if (!$window || $window->($now, $event->{time}))
		  && $takes->($step, $event)
		  && fits($context, $window, $n + 1, $i, [], @steps);
		# from here on this event would lie between
		last if any { $takes->($_, $event) } @$absent;
	}
	return 0;
}

# A rule: "traits" may be read, and membership of the segments "refer" names.
sub random_rule
{
	my ($start, $depth, $traits, @refer) = @_;
	my $roll = rand;

	if ($depth > 0 && $roll < 0.5)
	{
		my $group = pick(qw(all all any any none not));
		my @parts = map { [ random_rule($start, $depth - 1, $traits, @refer) ] }
		  1 .. ($group eq 'not' ? 1 : 2 + int rand 2);
		my $json = $group eq 'not' ? $parts[0][0] : '[' . join(',', map { $_->[0] } @parts) . ']';
		return ("{\"$group\":$json}", grouped($group, map { $_->[1] } @parts));
	}
	$roll = rand;
	return random_event_node($start) if $roll < 0.4;
	return random_sequence($start) if $roll < 0.55;
	if ($roll < 0.63 && @refer)
	{
		my $id = pick(@refer);
		return chance(0.5)
		  ? ("{\"segment\":\"$id\"}", sub { $_[0]{in}{$id} })
		  : ("{\"segment\":\"$id\",\"operator\":\"not_in\"}", sub { !$_[0]{in}{$id} });
	}
	if ($roll < 0.68)
	{
		my ($percent, $seed) = (pick(0, 25, 50, 100), pick('a', 'b'));
		return ("{\"sample\":{\"percent\":$percent,\"seed\":\"$seed\"}}", sub {
			my ($context) = @_;
			my $hash = unpack 'N', sha256("$seed\0$context->{user}");
			return $hash < $percent / 100 * 2**32;
		});
	}
	return chance(0.5) ? ('true', sub { 1 }) : ('false', sub { 0 }) if $roll < 0.70;

	my %fields = (
		country => 's', plan => 's', age => 'n', 'address.city' => 's', vip => 'b',
		lang => 'a', totalSpent => 'n', eventCount => 'n', lastActivity => 't',
		nothing => 's', since => 't', userId => 's', dates => 't', 'dates[*]' => 't',
		'dates[-1]' => 't', 'offers[*].until' => 't');
	$fields{ $_->{name} } = $_->{type} foreach @$traits;
	my $field = chance(0.5) ? pick(map { $_->{name} } @$traits)
	  : pick(sort(keys %fields), qw(since lastActivity));
	my ($json, $test) = random_test($fields{$field}, $start);
	# with [*] the whole is no value, so these mean something else
	($json, $test) = random_test($fields{$field}, $start)
	  while $field =~ /\*/ && $json =~ /exists|empty/;
	return ("{\"field\":\"$field\",$json}", sub {
		my ($context) = @_;
		return $test->($context->{now}, lookup($context->{document}, $field));
	});
}

# ---------------------------------------------------------------------------
# Users

sub random_user
{
	return { events => {}, attributes => {}, in => {} };
}

sub random_instant
{
	my ($start) = @_;
	return time_value($start + HOUR * (int rand 24 * 40) + pick(0, 0, 1, int rand HOUR));
}

# A merge patch of attributes; null takes one away.  Timestamps lie in the 40
# days from "start" on.
sub random_patch
{
	my ($start) = @_;
	my %patch;

	foreach my $n (0 .. int rand 3)
	{
		my $key = pick(qw(country plan age address vip lang since since dates offers t0 t1));
		$patch{$key} =
		    $key eq 'age' ? random_number()
		  : $key eq 'vip' ? [ 'b', int rand 2 ]
		  : $key eq 'lang' ? [ 'a', map { random_word() } 0 .. int rand 2 ]
		  : $key eq 'address' ? [ 'o', { city => random_word() } ]
		  : $key eq 'since' ? random_instant($start)
		  : $key eq 'dates' ? [ 'a', map { chance(0.9) ? random_instant($start) : random_word() } 0 .. int rand 3 ]
		  : $key eq 'offers' ? [ 'a', map { [ 'o', { until => random_instant($start) } ] } 0 .. int rand 3 ]
		  : random_word();
		$patch{$key} = ['z'] if chance(0.15);
	}
	return \%patch;
}

sub apply_patch
{
	my ($user, $patch) = @_;
	foreach my $key (keys %$patch)
	{
		if ($patch->{$key}[0] eq 'z') { delete $user->{attributes}{$key}; }
		elsif ($key eq 'address') { $user->{attributes}{$key} = [ 'o', { %{ $patch->{$key}[1] } } ]; }
		else { $user->{attributes}{$key} = $patch->{$key}; }
	}
	return;
}

# One user becomes part of another, lists included; the one that is no more.
sub merge_user
{
	my ($world, $from, $into) = @_;
	my $old = delete $world->{users}{$from};
	my $user = $world->{users}{$into};

	$user->{events} = { %{ $old->{events} }, %{ $user->{events} } };
	$user->{attributes} = { %{ $old->{attributes} }, %{ $user->{attributes} } };
	foreach my $list (grep { $_->{members} } @{ $world->{segments} })
	{
		$list->{members}{$into} = 1 if delete $list->{members}{$from};
	}
	return $old;
}

# A user is no more, in lists neither.
sub forget_user
{
	my ($world, $name) = @_;
	delete $world->{users}{$name};
	delete $_->{members}{$name} foreach grep { $_->{members} } @{ $world->{segments} };
	return;
}

# Puts users on a list, or takes them off it; those who are evaluated by that:
# users made by the way, or those that there are.
sub change_members
{
	my ($world, $list, $add, @who) = @_;
	if ($add)
	{
		$list->{members}{$_} = 1 foreach @who;
		return @who;
	}
	delete $list->{members}{$_} foreach @who;
	return grep { $world->{users}{$_} } @who;
}

# Decides all segments of a user as of now, in order; sets $user->{in} and
# $user->{traits}.
sub evaluate
{
	my ($user, $id, $now, $traits, @segments) = @_;
	my @events = sort { $a->{time} <=> $b->{time} || $a->{id} cmp $b->{id} }
	  values %{ $user->{events} };
	my %document = %{ $user->{attributes} };
	my %in;

	$user->{traits} = {};
	foreach my $trait (@$traits)
	{
		my $value = trait_value($trait, $now, @events);
		delete $document{ $trait->{name} };
		$document{ $trait->{name} } = $user->{traits}{ $trait->{name} } = $value
		  if defined $value;
	}
	$document{userId} = [ 's', $id ];
	my $context = {
		user => $id, now => $now, events => \@events,
		document => \%document, in => \%in };
	foreach my $segment (@segments)
	{
		next unless $segment->{active};
		$in{ $segment->{id} } = 1
		  if $segment->{members}
		  ? $segment->{members}{$id}
		  : $segment->{rule}->($context);
	}
	$user->{in} = \%in;
	return;
}

1;
