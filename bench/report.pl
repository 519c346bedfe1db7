#!/usr/bin/perl
#
# report.pl: what the benchmark has found, from its results.
#
#     report.pl RESULTS              tables for the terminal
#     report.pl --into FILE RESULTS  the same in Markdown, in place of what stands
#                                    between FILE's two markers
#     report.pl --chart RESULTS      a chart, as a script for gnuplot
#
# RESULTS is what run.sh writes; figures.tsv beside this script says which
# figures are made of it.  Each figure is a median, or a ratio of two.

use strict;
use warnings;
use File::Basename qw(dirname);
use Getopt::Long;

my ($into, $chart);
GetOptions('into=s' => \$into, 'chart' => \$chart) && @ARGV == 1
  or die "usage: report.pl [--into FILE | --chart] RESULTS\n";

# samples: $values{part}{case}{contestant}{metric} = [value, ...]; and the
# order in which names came
my (%values, %order, @about, %verified);
open(my $results, '<', $ARGV[0]) or die "$ARGV[0]: $!\n";
while (<$results>)
{
	chomp;
	my ($part, $case, $contestant, $metric, $run, $value) = split /\t/;
	if ($part eq 'about')
	{
		push @about, [ $case, $value ];
		next;
	}
	if ($metric eq 'verified users')
	{
		$verified{$part}{$value} = 1;
		next;
	}
	push @{ $values{$part}{$case}{$contestant}{$metric} }, $value;
	foreach ([ '', $part ], [ $part, "$case\t$contestant" ], [ "$part metrics", $metric ])
	{
		my ($list, $name) = @$_;
		push @{ $order{$list} }, $name unless grep { $_ eq $name } @{ $order{$list} };
	}
}
close($results);
my %about = map { @$_ } @about;

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	my $half = int(@sorted / 2);
	return @sorted % 2 ? $sorted[$half] : ($sorted[ $half - 1 ] + $sorted[$half]) / 2;
}

# The median of the samples that a selector part/case/contestant/metric names;
# undef if there are none.
sub selected
{
	my ($part, $case, $contestant, $metric) = split m{/}, $_[0];
	my $samples = $values{$part}{$case}{$contestant}{$metric};
	return $samples ? median(@$samples) : undef;
}

# A number for people: three digits, or all before the point.
sub readable
{
	my ($number) = @_;
	return '' unless defined $number;
	my $size = abs($number);
	my $text = $size >= 100 ? sprintf('%.0f', $number) : $size >= 10 ? sprintf('%.1f', $number) : sprintf('%.2f', $number);
	1 while $text =~ s/^(-?\d+)(\d{3})/$1,$2/;
	return $text;
}

# A ratio of the medians that two selectors name, or the first if the second
# is "-"; undef if one is missing.
sub figure
{
	my ($numerator, $denominator) = @_;
	my $value = selected($numerator);
	return $value if $denominator eq '-';
	my $base = selected($denominator);
	return defined $value && $base ? $value / $base : undef;
}

# Table rows of the figures; those not measured are left out.
sub figures
{
	my @rows = ([ 'what', 'figure', 'by CPU time', 'reach', 'beyond', '' ]);
	open(my $file, '<', dirname($0) . '/figures.tsv') or die "figures.tsv: $!\n";
	while (<$file>)
	{
		next if /^#/;
		chomp;
		my ($what, $numerator, $denominator, $unit, $better, $reach, $beyond) = split /\t/;
		$what =~ s/\{(\w+)\}/readable($about{$1})/ge;
		my $value = figure($numerator, $denominator);
		next unless defined $value;
		my $by_cpu;
		if ($denominator ne '-' && $numerator =~ m{/rate$})
		{
			my @cpu = map { my $selector = $_; $selector =~ s{/rate$}{/cpu_rate}; $selector } $numerator, $denominator;
			$by_cpu = figure(@cpu);
		}
		my $met = sub { return $_[0] ne '-' && ($better eq 'more' ? $value >= $_[0] : $value <= $_[0]) };
		push @rows, [
			$what, readable($value) . ($unit eq '×' ? '' : " $unit"), readable($by_cpu), $reach, $beyond,
			$met->($beyond) ? 'beyond' : $met->($reach) ? 'reached' : $reach eq '-' ? '' : 'not yet' ];
	}
	close($file);
	return @rows;
}

# Table rows of a part: all that was measured.
sub details
{
	my ($part) = @_;
	my @metrics = @{ $order{"$part metrics"} };
	my @rows = ([ 'case', 'contestant', map { $_ eq 'rate' ? ($_, 'lowest', 'highest') : $_ } @metrics ]);
	foreach (@{ $order{$part} })
	{
		my ($case, $contestant) = split /\t/;
		my $found = $values{$part}{$case}{$contestant};
		push @rows, [
			$case, $contestant,
			map {
				my @sorted = sort { $a <=> $b } @{ $found->{$_} // [] };
				my @shown = @sorted ? (median(@sorted)) : (undef);
				push @shown, $sorted[0], $sorted[-1] if $_ eq 'rate';
				map { readable($_) } @shown;
			} @metrics ];
	}
	return @rows;
}

# A table, in Markdown or in columns.
sub table
{
	my @rows = @_;
	my $text = '';
	if ($into)
	{
		my ($head, @body) = map { '| ' . join(' | ', map { s/\|/\\|/gr } @$_) . " |\n" } @rows;
		return $head . '|' . '---|' x @{ $rows[0] } . "\n" . join('', @body);
	}
	my @width;
	foreach my $row (@rows)
	{
		foreach my $i (0 .. $#$row)
		{
			my $length = length_shown($row->[$i]);
			$width[$i] = $length if $length > ($width[$i] // 0);
		}
	}
	foreach my $row (@rows)
	{
		my $line = join('  ', map { my $pad = ' ' x ($width[$_] - length_shown($row->[$_]));
			$row->[$_] =~ /^-?[\d,.]+( \S+)?$/ && $_ > 0 ? $pad . $row->[$_] : $row->[$_] . $pad } 0 .. $#$row);
		$line =~ s/ +$//;
		$text .= "$line\n";
	}
	return $text;
}

# How many characters there are in UTF-8 text.
sub length_shown
{
	my $bytes = $_[0];
	utf8::decode($bytes);
	return length($bytes);
}

sub report
{
	my $heading = $into ? '### ' : '';
	my $text = '';
	$text .= "The quick form has been run: it shows that everything works, its figures mean little.\n\n"
	  if $about{form} ne 'full';
	$text .= "${heading}Figures\n\n" . table(figures()) . "\n";
	foreach my $part (@{ $order{''} })
	{
		$text .= "$heading$part\n\n" . table(details($part));
		$text .= "\nverified users: " . join('; ', sort keys %{ $verified{$part} }) . "\n" if $verified{$part};
		$text .= "\n";
	}
	$text .= "${heading}How it was measured\n\n" . table([ 'setting', 'value' ], @about);
	return $text;
}

# The chart: events a second by number of segments, and under an old snapshot.
sub chart
{
	my @contestants = ([ bare => 'bare table' ], [ trigger => 'trigger' ], [ audience => 'audience_manager' ]);
	my @snapshots = ([ 'no snapshot' => 'no other session' ], [ 'old snapshot' => 'old snapshot' ]);
	my @sizes = map { /^S=(\d+), 1000 a statement\tbare$/ ? $1 : () } @{ $order{ingest} // [] };
	my $text = <<'GNUPLOT';
set terminal svg size 900,400 font 'sans-serif,12' background '#ffffff'
set multiplot layout 1,2
set border 3
set tics nomirror
set grid ytics linecolor rgb '#dddddd'
set format y '%.0s%c'
set key noenhanced below
set style data histograms
set style fill solid 1.0 noborder
set boxwidth 0.9
set title 'events/s by segments, 1,000 a statement'
set logscale y
set yrange [100:*]
$ingest << END
GNUPLOT
	foreach my $size (@sizes)
	{
		$text .= join(' ', $size, map { selected("ingest/S=$size, 1000 a statement/$_->[0]/rate") // 'NaN' } @contestants) . "\n";
	}
	my @colors = ('#bbbbbb', '#d08040', '#2060a0');
	$text .= "END\nplot " . join(', ',
		map { '$ingest using ' . ($_ + 2) . ($_ == 0 ? ':xtic(1)' : '') . " title '$contestants[$_][1]' linecolor rgb '$colors[$_]'" } 0 .. 2) . "\n";
	$text .= <<'GNUPLOT';
unset logscale y
set title 'events/s by events since a snapshot'
set yrange [0:*]
set xrange [*:*]
$snapshot << END
GNUPLOT
	foreach my $percent (0, 20, 40, 60, 80, 100)
	{
		$text .= join(' ', $percent / 100 * $about{BENCH_SNAPSHOT},
			map { selected("snapshot/$_->[0], $percent %/audience/rate") // 'NaN' } @snapshots) . "\n";
	}
	$text .= "END\nplot " . join(', ',
		map { '$snapshot using 1:' . ($_ + 2) . " with linespoints title '$snapshots[$_][1]' linewidth 2 linecolor rgb '$colors[2 - $_]'" } 0 .. 1) . "\n";
	return $text;
}

if ($chart)
{
	print chart();
}
elsif ($into)
{
	my $new = report();
	open(my $file, '<', $into) or die "$into: $!\n";
	my $document = join('', <$file>);
	close($file);
	$document =~ s/(<!-- figures: begin [^\n]*-->\n).*(<!-- figures: end -->)/$1\n$new\n$2/s or die "$into: there are no markers\n";
	open($file, '>', $into) or die "$into: $!\n";
	print $file $document;
	close($file) or die "$into: $!\n";
}
else
{
	print report();
}
