#!/usr/bin/perl
#
# pack.pl: keeps the smallest inputs of corpora in test/fuzz/corpus.
#
#     pack.pl DIRECTORY
#
# DIRECTORY has a directory for each target, as run.sh keeps them.  Of each
# target as many inputs as fit into 24 kB are kept, a line each, escaped.
use strict;
use warnings;

use FindBin;

my ($directory) = @ARGV;
die "usage: pack.pl DIRECTORY\n" unless defined $directory;
mkdir "$FindBin::RealBin/corpus";
foreach my $path (glob "$directory/*/")
{
	my ($target) = $path =~ m{([a-z]+)/\z} or next;
	my $size = 0;
	my %lines;

	foreach my $file (sort { -s $a <=> -s $b || $a cmp $b } glob "$path*")
	{
		open my $in, '<:raw', $file or die "could not open $file: $!\n";
		local $/;
		my $input = <$in> // '';
		close $in;
		$input =~ s/([^ -\[\]-~])/sprintf '\\x%02x', ord $1/ge;
		next if $input eq '' || $lines{$input};
		$size += length($input) + 1;
		last if $size > 24 * 1024;
		$lines{$input} = 1;
	}
	open my $out, '>:raw', "$FindBin::RealBin/corpus/$target" or die "could not write: $!\n";
	print $out map { "$_\n" } sort keys %lines;
	close $out or die "could not write: $!\n";
}
