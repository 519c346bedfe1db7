#!/usr/bin/perl
# comments.pl FILE...: which C functions have no comment before them.  A
# function's name stands at the beginning of a line, as in all of PostgreSQL, so
# no parser is needed.  The exit status is 1 if there is one without.
use strict;
use warnings;

my $missing = 0;

# Ends a file's lines before those of a grammar's or scanner's rules: what is
# between two lines of "%%" is no C.
sub c_lines
{
	my ($file) = @_;
	open my $handle, '<', $file or die "cannot read $file: $!\n";
	my @lines = <$handle>;
	close $handle;
	return @lines if $file !~ /[.][ly]$/;
	my $rules = 0;
	for my $line (@lines)
	{
		if ($line =~ /^%%/) { $rules = !$rules; $line = "\n"; }
		elsif ($rules) { $line = "\n"; }
	}
	return @lines;
}

for my $file (@ARGV)
{
	my @lines = c_lines($file);
	for my $i (1 .. $#lines)
	{
		next unless $lines[$i] =~ /^([a-z_]\w*)\(/;
		my $name = $1;

		# a definition: its arguments end before a line that is "{"
		my $end = $i;
		$end++ while $end < $#lines && $lines[$end] !~ /\)[^()]*$/;
		next if $end >= $#lines || $lines[ $end + 1 ] !~ /^\{/;

		# its type is on the line before; attributes may be, too
		my $before = $i - 1;
		$before-- while $before > 0 && $lines[$before] =~ /^\w[\w *(),]*$/;
		next if $lines[$before] =~ m{\*/\s*$};
		printf "%s:%d: function %s has no comment before it\n", $file, $i + 1, $name;
		$missing = 1;
	}
}
exit $missing;
