#!/usr/bin/perl
#
# generate_rules.pl busy|seldom N [SEED]: N random rules for the benchmark, each
# in two spellings: kind, number, audience rule (JSON), jsonpath predicate,
# tab-separated for COPY.  The same arguments give the same rules.
#
# A busy rule has one to four conditions: 40 % thresholds on totals, 20 %
# equality of an attribute, 15 % an attribute in a list, 25 % recency or
# frequency in a window.  Most rules want all of them, one in ten any, one in
# twenty nests.
#
# A rule that seldom changes hands wants five attributes, an age, and one
# threshold or window: events turn the last condition over as often as that of
# a busy rule, but of few users who fit the others.

use strict;
use warnings;
use POSIX qw(floor);

my ($kind, $count, $seed) = @ARGV;
die "usage: generate_rules.pl busy|seldom N [SEED]\n" unless ($kind // '') =~ /^(busy|seldom)$/ && ($count // '') =~ /^\d+$/;
srand($seed // 7);

my %values = (
	country  => [qw(DE US FR GB ES IT NL PL SE BR IN JP CA AU MX TR CH AT BE DK NO FI PT CZ GR RO HU IE ZA KR)],
	plan     => [qw(free basic pro enterprise)],
	device   => [qw(ios android web tablet)],
	language => [qw(en de fr es it nl pl sv pt ja tr ko)],
	channel  => [qw(organic ads social referral partner email tv store)]);
my @totals = (
	[ 'totalSpent', 20, 5000 ], [ 'orderCount', 1, 40 ], [ 'eventCount', 3, 600 ],
	[ 'pageViews', 2, 400 ], [ 'cartAdds', 1, 80 ], [ 'age', 18, 70 ]);
my @windows = (
	[ 'purchases30d', 1, 8 ], [ 'spend30d', 20, 800 ], [ 'views7d', 1, 30 ],
	[ 'carts7d', 1, 8 ], [ 'lastPurchase', 2, 50 ]);
my %sign = (gt => '>', gte => '>=', lt => '<', lte => '<=');

sub any
{
	return $_[ floor(rand(@_)) ];
}

# The first ones more often.
sub skewed
{
	return $_[ floor(@_ * rand() * rand()) ];
}

# An integer, small ones more often.
sub magnitude
{
	my ($low, $high) = @_;
	return floor(exp(log($low) + rand() * log($high / $low)) + 0.5);
}

# Both spellings of a comparison with a number.
sub compare
{
	my ($field, $operator, $number) = @_;
	return [ qq({"field":"$field","operator":"$operator","value":$number}), "\$.$field $sign{$operator} $number" ];
}

# A field with a text attribute's value, the first ones more often.
sub attribute
{
	my ($field) = @_;
	my $value = skewed(@{ $values{$field} });
	return [ qq({"field":"$field","operator":"eq","value":"$value"}), qq(\$.$field == "$value") ];
}

# A threshold on a total.
sub total
{
	my ($field, $low, $high) = @{ any(@totals) };
	return compare($field, any(qw(gt gte gte gt lt)), magnitude($low, $high));
}

# Recency or frequency in a window.
sub window
{
	my ($field, $low, $high) = @{ any(@windows) };
	my $number = magnitude($low, $high);
	return compare($field, 'gte', $number) if $field ne 'lastPurchase';

	# the hand-written peer counts whole days since the last purchase
	my $recent = rand() < 0.67;
	return [
		sprintf('{"field":"lastPurchase","operator":"%s","value":"%d days"}', $recent ? 'within_last' : 'before_last', $number),
		sprintf('$.daysSincePurchase %s %d', $recent ? '<' : '>=', $number) ];
}

# An attribute in a list.
sub in_list
{
	my $field  = any(qw(country language channel));
	my $wanted = 2 + floor(rand(4));
	my (%seen, @list);
	while (@list < $wanted)
	{
		my $value = skewed(@{ $values{$field} });
		push @list, qq("$value") unless $seen{$value}++;
	}
	return [
		qq({"field":"$field","operator":"in","value":[) . join(',', @list) . ']}',
		'(' . join(' || ', map { "\$.$field == $_" } @list) . ')' ];
}

sub condition
{
	my $x = rand();
	return total() if $x < 0.40;
	return window() if $x >= 0.75;
	return in_list() if $x >= 0.60;
	my $field = any(qw(country plan device language channel emailOptIn));
	return attribute($field) if $field ne 'emailOptIn';
	my $value = any(qw(true true false));
	return [ qq({"field":"emailOptIn","operator":"eq","value":$value}), "\$.emailOptIn == $value" ];
}

# Joins conditions to one.
sub group
{
	my ($kind, @conditions) = @_;
	return [
		qq({"$kind":[) . join(',', map { $_->[0] } @conditions) . ']}',
		'(' . join($kind eq 'all' ? ' && ' : ' || ', map { $_->[1] } @conditions) . ')' ];
}

sub busy
{
	my $x = rand();
	my $size = $x < 0.15 ? 1 : $x < 0.60 ? 2 : $x < 0.90 ? 3 : 4;
	my $shape = rand();
	my ($first, @rest) = map { condition() } 1 .. $size;
	return group('all', $first, group('any', @rest)) if $shape < 0.05 && $size >= 3;
	return group('any', $first, @rest) if $shape >= 0.05 && $shape < 0.15 && $size > 1;
	return group('all', $first, @rest);
}

sub seldom
{
	return group('all', (map { attribute($_) } qw(country language channel device plan)),
		compare('age', any(qw(gte lt)), 18 + floor(rand(60))), rand() < 0.6 ? total() : window());
}

foreach my $n (1 .. $count)
{
	print join("\t", $kind, $n, @{ $kind eq 'busy' ? busy() : seldom() }), "\n";
}
