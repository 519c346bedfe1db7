# The rule cases of another product (Unleash's client specification, in our
# rule JSON), each as its authors expect it, over jsonb and over a row.
#
# A case whose constant is malformed for us must be refused at input.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use JSON::PP;
use Test::More;

my $path = ($ENV{AUD_SHARED} // '../shared') . '/cases/rules_unleash.jsonl';
plan skip_all => "no cases at $path (set AUD_SHARED)" unless -r $path;

my $json = JSON::PP->new->canonical->utf8->allow_nonref;
my @cases = map { $json->decode($_) } AudTest::read_jsonl($path);
my $node = start_node('unleash');

my $script = <<'SQL';
SET client_min_messages = warning;
CREATE TABLE cases (n int, rule text, data jsonb, result text);
CREATE FUNCTION evaluate(rule text, data jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	compiled audience.rule;
BEGIN
	compiled := rule;
	-- as a variable, as a constant, and over a row with the document in a column
	IF (data OPERATOR(audience.|=) compiled) IS DISTINCT FROM audience.jsonb_match(data, compiled) THEN
		RETURN 'operator and function differ';
	END IF;
	RETURN (data OPERATOR(audience.|=) compiled)::text;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE;
END $$;
SQL
$script .= copy_rows('cases (n, rule, data)',
	map { [ $_, $json->encode($cases[$_]{rule}), $json->encode($cases[$_]{data}) ] } 0 .. $#cases);
$script .= "UPDATE cases SET result = evaluate(rule, data);\n"
  . "SELECT n, result FROM cases ORDER BY n;\n";

my %result = map { split /\|/ } grep { /\|/ } split /\n/, run_script($node, $script);
my $refused = 0;
foreach my $n (0 .. $#cases)
{
	my $case = $cases[$n];
	my $expected = $case->{may_reject} ? qr/^(?:22P02|false)$/ : $case->{expect} ? qr/^true$/ : qr/^false$/;

	$refused++ if $result{$n} eq '22P02';
	like($result{$n}, $expected, "$case->{id} $case->{name}");
}
note scalar(@cases) . " cases, $refused refused at input";
cmp_ok(scalar(@cases), '>', 0, 'there were cases');
is($refused, scalar(grep { $_->{may_reject} } @cases), 'malformed constants are refused');

$node->stop;
done_testing();
