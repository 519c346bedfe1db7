# Fuzzing of everything that reads input, for a minute: test/fuzz/README.md.
#
# Starts from all that was ever found, so that it is also the test that this
# stays mended.  scripts/test.sh installs clang; where it cannot be had, this
# is skipped.  FUZZ_TOTAL sets the seconds for all targets.
use strict;
use warnings;

use FindBin;
use Test::More;

my $source = "$FindBin::RealBin/../..";

plan skip_all => 'clang-14 with its runtime libraries is not installed'
  unless -x '/usr/bin/clang-14'
  && -e '/usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer_no_main-x86_64.a';

plan skip_all => 'libFuzzer is not for valgrind' if defined $ENV{AUDIENCE_VALGRIND};

$ENV{FUZZ_TOTAL} //= 60;
$ENV{FUZZ_SEED} //= 1;
my @lines = split /\n/, `$source/test/fuzz/run.sh 2>&1`;
my $status = $? >> 8;
my $targets = 0;

foreach my $line (@lines)
{
	note $line;
	next unless $line =~ /\Afuzz: +(\w+) +(\d+) inputs.* (\d+) found\z/;
	$targets++;
	ok($2 > 0 && $3 == 0, "$1: $2 inputs, $3 found");
}
my ($all) = `sed -n 's/^ALL=(\\(.*\\))/\\1/p' $source/test/fuzz/run.sh`;
is($targets, scalar(split ' ', $all), 'every target ran');
is($status, 0, 'nothing was found') or diag join "\n", @lines[ -80 .. -1 ];

done_testing();
