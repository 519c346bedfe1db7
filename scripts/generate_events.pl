#!/usr/bin/perl
#
# generate_events.pl: an online shop's users and what they do, made up from a
# seed: the same arguments give the same output on every machine.  Needs
# perl-base only.
#
#     generate_events.pl events      lines for COPY: user_id, occurred_at,
#                                    event_id, event_type, properties, context
#     generate_events.pl script      the same as a psql script, a COPY into
#                                    audience.events for every batch, with
#                                    audience.now moved to the batch's end
#     generate_events.pl messages    the same as messages for Kafka, as
#                                    kafka.sh produce reads them
#     generate_events.pl attributes  lines for COPY: user_id, attributes
#
# Users come by with weight rank^-0.8, so few of them do much and many little.
# A visit has --visit events on average; 70 % are page views, 15 % carts, 10 %
# purchases, 5 % logins, and within a visit they come in that order of a sale:
# login, views, cart, purchase.  With --visit 1 each event stands alone.
# Events are in order of time and fill --days up to --until.

use strict;
use warnings;
use Getopt::Long;
use POSIX qw(strftime floor);

my $users  = 5000;
my $events = 100000;
my $seed   = 1;
my $days   = 60;
my $until  = time();
my $visit  = 6;
my $batch  = 1000;

my $mode = shift(@ARGV) // '';
GetOptions(
	'users=i'  => \$users,
	'events=i' => \$events,
	'seed=i'   => \$seed,
	'days=f'   => \$days,
	'until=i'  => \$until,
	'visit=f'  => \$visit,
	'batch=i'  => \$batch) or exit 2;
die "usage: generate_events.pl events|script|messages|attributes [--users N] [--events N]"
  . " [--seed N] [--days N] [--until EPOCH] [--visit N] [--batch N]\n"
  unless $mode =~ /^(events|script|messages|attributes)$/
  && $users > 0
  && $events > 0
  && $visit >= 1
  && $batch > 0;

my @countries  = qw(DE US FR GB ES IT NL PL SE BR IN JP CA AU MX TR CH AT BE DK NO FI PT CZ GR RO HU IE ZA KR);
my @plans      = qw(free basic pro enterprise);
my @devices    = qw(ios android web tablet);
my @languages  = qw(en de fr es it nl pl sv pt ja tr ko);
my @channels   = qw(organic ads social referral partner email tv store);
my @categories = qw(electronics fashion books home garden toys sports beauty food music tools outdoor);
my @currencies = qw(EUR USD GBP);
my @referrers  = qw(google direct newsletter facebook partner);

my %order = (login => 0, page_view => 1, add_to_cart => 2, purchase => 3);

# One of the list, the first ones more often.
sub skewed
{
	return $_[ floor(@_ * rand() * rand()) ];
}

# Any of the list.
sub any
{
	return $_[ floor(rand(@_)) ];
}

sub user_name
{
	return sprintf('user%06d', $_[0]);
}

sub timestamp
{
	my ($t) = @_;
	my $ms = floor(($t - floor($t)) * 1000);
	return strftime('%Y-%m-%d %H:%M:%S', gmtime(floor($t))) . sprintf('.%03d+00', $ms);
}

# The properties of an event of this type about a product of this category.
sub properties
{
	my ($type, $category) = @_;
	my $product = floor(rand(5000));

	return sprintf('{"method":"%s"}', rand() < 0.5 ? 'password' : 'sso') if $type eq 'login';
	return sprintf('{"category":"%s","productId":%d,"url":"/p/%d","referrer":"%s"}',
		$category, $product, $product, any(@referrers))
	  if $type eq 'page_view';
	return sprintf('{"category":"%s","productId":%d,"quantity":%d,"price":%.2f}',
		$category, $product, 1 + floor(rand(3)), 5 + rand(200))
	  if $type eq 'add_to_cart';
	return sprintf('{"amount":%.2f,"currency":"%s","category":"%s","productId":%d,"quantity":%d}',
		5 + 250 * rand() * rand(), skewed(@currencies), $category, $product, 1 + floor(rand(3)));
}

sub event_type
{
	my $x = rand();
	return $x < 0.70 ? 'page_view' : $x < 0.85 ? 'add_to_cart' : $x < 0.95 ? 'purchase' : 'login';
}

# How many events a visit has: geometric, $visit on average.
sub visit_length
{
	return 1 if $visit <= 1;
	return 1 + floor(log(1 - rand()) / log(1 - 1 / $visit));
}

sub print_attributes
{
	srand($seed + 1);
	foreach my $user (1 .. $users)
	{
		printf qq(%s\t{"age":%d,"country":"%s","plan":"%s","device":"%s","language":"%s","emailOptIn":%s,"channel":"%s"}\n),
		  user_name($user), 18 + floor(rand(60)), skewed(@countries), skewed(@plans), skewed(@devices),
		  skewed(@languages), rand() < 0.6 ? 'true' : 'false', skewed(@channels);
	}
	return;
}

# Calls $emit->($time, $line) for every event, in order of time.
sub each_event
{
	my ($emit) = @_;

	srand($seed);

	# users by rank: cumulated weights, and the ranks scattered over the names
	my (@cumulated, $sum);
	foreach my $rank (1 .. $users)
	{
		$sum += $rank**-0.8;
		push @cumulated, $sum;
	}
	my @names = (1 .. $users);
	foreach my $i (reverse 1 .. $#names)
	{
		my $j = floor(rand($i + 1));
		@names[ $i, $j ] = @names[ $j, $i ];
	}

	# no visit starts in the last minutes, where it would reach past the end
	my $start  = $until - $days * 86400;
	my $length = $days * 86400 - ($visit > 1 ? 3 * 3600 : 0);

	my @open;    # events that a later visit may still get before: [time, line]
	my $made = 0;
	my $visits = 0;
	while ($made < $events)
	{
		my $at = $start + $length * $made / $events;
		my ($low, $high) = (0, $users - 1);
		my $x = rand($sum);
		while ($low < $high)
		{
			my $middle = ($low + $high) >> 1;
			if ($cumulated[$middle] < $x) { $low = $middle + 1; }
			else                          { $high = $middle; }
		}
		my $user     = user_name($names[$low]);
		my $category = skewed(@categories);
		my $n        = visit_length();
		$n = 100            if $n > 100;
		$n = $events - $made if $n > $events - $made;
		$visits++;

		@open = sort { $a->[0] <=> $b->[0] } @open if $visit > 1;
		while (@open && $open[0][0] <= $at)
		{
			$emit->(@{ shift @open });
		}

		my $t = $at;
		foreach my $type (sort { $order{$a} <=> $order{$b} } map { event_type() } 1 .. $n)
		{
			$made++;
			push @open, [ $t, join("\t", $user, timestamp($t), "e$seed-$made", $type, properties($type, $category),
				$visit > 1 ? qq({"sessionId":"s$visits"}) : '{}') ];
			$t += 2 + rand(90);
		}
	}
	$emit->(@$_) foreach sort { $a->[0] <=> $b->[0] } @open;
	return;
}

sub print_events
{
	each_event(sub { print $_[1], "\n"; });
	return;
}

# As messages of a topic like user-events: the key, a tab, the JSON.
sub print_messages
{
	each_event(
		sub {
			my ($user, $at, $id, $type, $properties, $context) = split /\t/, $_[1];

			print qq($user\t{"eventId":"$id","userId":"$user","eventType":"$type","timestamp":"$at",)
			  . qq("properties":$properties,"context":$context}\n);
		});
	return;
}

sub print_script
{
	my (@lines, $last);
	my $done  = 0;
	my $flush = sub {
		return unless @lines;
		$done += @lines;
		print "SET audience.now = '", timestamp($last), "';\n",
		  "COPY audience.events (user_id, occurred_at, event_id, event_type, properties, context) FROM stdin;\n",
		  join("\n", @lines), "\n\\.\n\\echo $done\n";
		@lines = ();
	};
	each_event(
		sub {
			($last) = @_;
			push @lines, $_[1];
			$flush->() if @lines == $batch;
		});
	$flush->();
	return;
}

if    ($mode eq 'attributes') { print_attributes(); }
elsif ($mode eq 'events')     { print_events(); }
elsif ($mode eq 'messages')   { print_messages(); }
else                          { print_script(); }
