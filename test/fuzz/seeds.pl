#!/usr/bin/perl
#
# seeds.pl: what fuzzing starts from.
#
#     seeds.pl SOURCE DIRECTORY TARGET...
#
# Writes for each target the directory DIRECTORY/TARGET with inputs, a file
# each: those made of what the project's tests and documents hold, those that
# earlier runs came to (test/fuzz/corpus/TARGET, a line each, escaped), and
# those that once failed (test/fuzz/regressions/TARGET-*).  And a dictionary
# of the language's words, DIRECTORY/dictionary.
use strict;
use warnings;

use Digest::SHA qw(sha1_hex);

my ($source, $directory, @targets) = @ARGV;
my %is_target = map { $_ => 1 } @targets;

# The whole of a file, as bytes.
sub slurp
{
	my ($path) = @_;
	open my $file, '<:raw', $path or die "could not open $path: $!\n";
	local $/;
	my $text = <$file>;
	close $file;
	return $text // '';
}

# Writes a file.
sub spew
{
	my ($path, $text) = @_;
	open my $file, '>:raw', $path or die "could not write $path: $!\n";
	print $file $text;
	close $file or die "could not write $path: $!\n";
	return;
}

# Adds an input of a target.
sub add
{
	my ($target, @pieces) = @_;
	my $input = join "\0", @pieces;
	return if !$is_target{$target} || length $input > 4096;
	spew("$directory/$target/" . sha1_hex($input), $input);
	return;
}

mkdir "$directory/$_" foreach @targets;

# the texts of SQL literals, and the documents' examples
my @texts;
foreach my $path (glob("$source/test/sql/*.sql"), glob("$source/sql/parts/*.sql"))
{
	my $sql = slurp($path);
	while ($sql =~ /(?<![\w'])(E?)'((?:[^']|'')*)'/g)
	{
		my ($escaped, $text) = ($1, $2);
		next if $escaped;
		$text =~ s/''/'/g;
		push @texts, $text;
	}
}
foreach my $path ("$source/README.md", glob("$source/docs/*.md"))
{
	foreach my $line (split /\n/, slurp($path))
	{
		push @texts, $line =~ s/^    //r if $line =~ /^    \S/;
		push @texts, $line =~ /`([^`]+)`/g;
	}
}
my %seen;
@texts = grep { length && length() < 2000 && !$seen{$_}++ } @texts;

my @objects = grep { /\A\s*\{.*\}\s*\z/s } @texts;
my @small = grep { length() < 200 } @objects;
my $document = '{"a": {"b": [1, "x", null]}, "tags": ["sale", 7], "country": "US", "amount": 12.5}';
my @versions = grep { /\A\d+\.\d+\.\d+/ } @texts;
my @patterns = grep { length() < 100 && /[%_\\]/ } @texts;
my @numbers = grep { /\A-?[0-9.eE+-]+\z/ } @texts, qw(0 -0 1 -1 0.1 1e5 1e-5 9007199254740993 123456789012345678901234567890.5);
my @values = ('null', 'true', '0', '-1.50', '"x"', '"2026-11-20T09:38:00Z"', '"30 days"', '"1.2.3-rc.1+b"', '["a","B"]', '[1,2]', '{"a":[1]}', '[]', '""', '3600', '["^a.*(b|c)$"]', '"a%_"');
my @operators = slurp("$source/src/rule_names.c") =~ /"(\w+)"/g;

my $n = 0;
foreach my $text (@texts)
{
	add('rule', $text, $n++ % 3 ? () : $document);
	add('path', $text, $document) if $text =~ /\A[\w.\[\]\$*"-]{1,60}\z/;
	add('timestamp', $text) if $text =~ /\A\d{4}-\d/;
	add('duration', $text) if $text =~ /\A(?:@ *)?-?[\d.]+ *[a-z]|\AP[\dT]|\A\d+:\d/;
	add('message', $text) if $text =~ /\A\s*[\{\[]/;
	add('event', $text) if $text =~ /"userId"/;
	add('ingest', $text =~ /\A\s*\[/ ? $text : "[$text]") if $text =~ /"userId"/;
}
foreach my $text (@objects)
{
	add('jsonb', $text, $document);
	add('recv', "\x01$text");
}
foreach my $text (@small[0 .. ($#small < 100 ? $#small : 100)])
{
	add('merge', $text, $document);
	add('merge', $document, $text);
	add('ingest', $text) unless $text =~ /"userId"/;
}
for my $i (0 .. $#versions)
{
	add('version', map { $versions[ ($i + $_) % @versions ] } 0 .. 2);
}
add('like', $_, 'a%b_c\\') foreach @patterns;
add('like', 'a%b', 'aXbXb');
for my $i (0 .. $#numbers)
{
	add('number', $numbers[$i], $numbers[ ($i * 7 + 3) % @numbers ]);
}
foreach my $operator (@operators)
{
	add('operator', $operator, $values[ $n++ % @values ], $values[ $n * 5 % @values ]) foreach 1 .. 4;
}
# memberships: instants, numbers, places among the instants; transitions; states
add('packed', pack('Lqqa*', 4, 0, 1_000_000, pack('SSS', 5, 7, 9) . pack('CCC', 0, 1, 0)));
add('packed', pack('Lqa*', 3, 1, pack('LL', 70000, 80000) . pack('CC', 0, 0)));
add('packed', pack('C*', 2, 5, 0, 3, 9, 6, 1 .. 8));
add('packed', pack('C*', 2, 4, 3, 4));
foreach my $number (1 .. 12)
{
	add('state', pack('C*', 1, 3, 2, 4, $number + 0, 6, 0, 2, 2, 20, 40, 2));
	add('state', pack('C*', 1, 0, 232 - 256 & 255, 7, 8, 0, 3, 255, 4, 1, 2, 3, $number));
}

# what earlier runs came to, and what once failed
foreach my $target (@targets)
{
	my $path = "$source/test/fuzz/corpus/$target";
	foreach my $line (-e $path ? split /\n/, slurp($path) : ())
	{
		$line =~ s/\\x([0-9a-f]{2})/chr hex $1/ge;
		add($target, $line);
	}
	foreach my $file (glob "$source/test/fuzz/regressions/$target-*")
	{
		my $input = slurp($file);
		spew("$directory/$target/" . sha1_hex($input), $input);
	}
}

# the words
my %words;
foreach my $path ("$source/src/rule_names.c", "$source/src/rule_scan.l", "$source/src/rule_read.c",
	"$source/src/rule_read_event.c", "$source/src/duration_text.c", "$source/src/ingest_json.c")
{
	my $text = slurp($path);
	$words{$1} = 1 while $text =~ /"([A-Za-z_]{2,16})"/g;
}
$words{$_} = 1 foreach '{"', '":', '"}', '[*]', '\\u0000', '\\ud800', '$type', '$time', '$id', '$context.', '/*', '--',
  '1e400', '<=', '!~*', '2026-11-20', '+01:00', '\'\'', '1 day';
spew("$directory/dictionary", join '', map { '"' . s/(["\\])/\\$1/gr . "\"\n" } sort keys %words);
