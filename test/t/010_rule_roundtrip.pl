# Random rules, out and back: text, binary, text form, jsonb; mutated binary
# rules, which must error and never crash; and mutated input in both forms,
# for which rule_validate() must say what rule_in() does and never raise.
#
# AUD_SEED, AUD_RULES and AUD_MUTANTS set the seed and the sizes.
#
# The binary part talks to the server itself: no SQL function can be given the
# bytes of a parameter in binary, and a COPY BINARY ends at its first error.
use strict;
use warnings;
use utf8;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use Encode qw(decode encode);
use IO::Socket::UNIX;
use Test::More;

my $seed = env_number('AUD_SEED', 20261120);
my $nrules = env_number('AUD_RULES', 4000);
my $nmutants = env_number('AUD_MUTANTS', 100_000);
srand($seed);
note "seed $seed";

# one of a list
sub pick { return $_[ int rand @_ ]; }
# true so often
sub chance { return rand() < $_[0]; }

# ---- a rule as JSON text, written in one of the ways it can be

my %escapes = ('"' => '\\"', "\\" => "\\\\", "\n" => '\\n', "\t" => '\\t',
	"\b" => '\\b', "\x01" => '\\u0001', "\r" => '\\r');

sub string
{
	my ($s) = @_;
	$s =~ s/(["\\\n\t\b\r\x01])/$escapes{$1}/g;
	$s =~ s/([^\x00-\x7f])/chance(0.3) && ord($1) < 0x10000 ? sprintf('\\u%04x', ord $1) : $1/ge;
	return "\"$s\"";
}

# names: plain, keywords of the text form in all cases, and ugly ones
my @words = qw(a b amount totalSpent user_id last count first all any none exists
  sample sequence not and OR In true FALSE null where Where between ci contains is
  empty like ilike starts ends with at before after within next segment semver json
  from to max most_frequent x1 _y $z $context $type $time $id $contextual);
my @ugly = ('a.b', 'a b', '', '"', 'a"b', "it's", '[0]', '[*]', 'x[1]', '0', '7', '-1',
	'-0', '007', '2147483648', '-2147483648', '1e5', '*', 'a*', '--', '/*', '*/', ';',
	'a,b', 'é', 'ключ', '日本', '😀', "tab\t", "nl\n", "\\", 'a\\', '$', 'a-b', '~', '0.1',
	"\x01", 'TRUE', "''", '""', '(', ')');
my @texts = (@words, @ugly, 'purchase', 'electronics', '50%', '_x_', 'A' x 200);

sub number
{
	return pick(
		0, 1, -1, '1.0', '-0', '0.5', '-2.50', '1e3', '1E-3', '12.5e+2', '1e400', '1e-400',
		'9007199254740993', '123456789012345678901234567890.123456789', '0.000000',
		'-0.0e5', int(rand 1e6), sprintf('%.4f', rand 1e4));
}

sub scalar_value { return pick(\&number, \&number, sub { string(pick(@texts)) }, sub { pick('true', 'false') })->(); }

# any JSON; $null: may be null
sub json
{
	my ($depth, $null) = @_;
	return 'null' if $null && chance(0.1);
	return scalar_value() if $depth <= 0 || chance(0.5);
	return '[' . join(',', map { json($depth - 1, 1) } 1 .. int rand 4) . ']' if chance(0.5);
	my %seen;
	return '{' . join(', ', map { string($_) . ': ' . json($depth - 1, 1) }
		grep { !$seen{$_}++ } map { pick(@texts) } 1 .. int rand 4) . '}';
}

sub list
{
	my ($item, $min) = @_;
	return '[' . join(',', map { $item->() } 1 .. ($min // 0) + int rand 4) . ']';
}

# a key of a path, quoted if it has to be or by chance
sub path_key
{
	my $key = chance(0.7) ? pick(@words) : pick(@ugly);
	return $key if $key !~ /[.\[\]"]/ && $key ne '' && chance(0.9);
	return '"' . ($key =~ s/"/""/gr) . '"';
}

sub path
{
	my ($in_where) = @_;
	my $path = chance(0.1) ? pick('$context', '$context.ip', '$type', '$time', '$id') : path_key();

	# nothing may follow these in "where"
	return string($path) if $in_where && $path =~ /\A\$(?:type|time|id)\z/;
	while (chance(0.4))
	{
		$path .= pick(sub { '.' . path_key() }, sub { '.' . path_key() }, sub { '.' . int rand 20 },
			sub { '[' . pick(0, 3, -1, 2147483647) . ']' }, sub { '[*]' })->();
	}
	return string($path);
}

my @durations = ('"30 days"', '"1 day"', '"36 hours"', '"1.5 seconds"', '"90 min"', '"2 weeks"',
	'"PT1H30M"', '"1 02:03:04.5"', '"1 us"', '0.25', '3600', '86400', '1e2', '"1 d -1 us"');
my @times = ('"2026-11-20"', '"2026-11-20T09:38:00.123456Z"', '"1999-12-31 23:59:59+05:30"',
	'"2000-01-01T00:00Z"', '"0001-01-01"', '"2026-01-02T03:04:05.5-08"');
my @versions = ('"1.0.0"', '"2.0.0-rc.1"', '"10.20.30+build.5"', '"0.0.0-alpha.1.x+0"');
my @regexes = ('"^a.*b$"', '"[0-9]+"', '"(?i)x|y"', '"\\\\d{2,}"', '"\'"', '""');
my @patterns = ('"%x_"', '"a\\\\%"', '"\\\\\\\\"', '"\'%\'"', '""');

sub member { my ($key, $value) = @_; return qq("$key": $value); }

# the members of a test
sub test_members
{
	my @ci = chance(0.3) ? member('ci', pick('true', 'false')) : ();
	my @no_ci = chance(0.1) ? member('ci', 'false') : ();
	my $ordered = pick([ sub { number() } ], [ sub { string(pick(@texts)) } ], [ sub { pick('true', 'false') } ])->[0];
	my ($op, $value, @fold) = @{ pick(
		sub { [ pick(qw(eq neq = == equals != <>)), json(3), @ci ] },
		sub { [ pick(qw(eq neq)), 'null' ] },
		sub { [ pick(qw(gt gte lt lte > >= < <=)), $ordered->(), @no_ci ] },
		sub { [ pick(qw(between not_between)), pick('[1,2]', '[-1e3,1.0]', '["A","a"]', '["x","x"]', '[false,true]'), @no_ci ] },
		sub { [ pick(qw(in not_in contains_any contains_all contains_none)), list(sub { json(2) }), @ci ] },
		sub { [ pick(qw(contains not_contains)), pick(scalar_value(), '{"a": [null]}'), @ci ] },
		sub { [ pick(qw(starts_with not_starts_with ends_with not_ends_with)),
			chance(0.5) ? string(pick(@texts)) : list(sub { string(pick(@texts)) }), @ci ] },
		sub { [ pick(qw(like not_like)), chance(0.5) ? pick(@patterns) : list(sub { pick(@patterns) }), @ci ] },
		sub { [ pick(qw(ilike not_ilike)), chance(0.5) ? pick(@patterns) : list(sub { pick(@patterns) }) ] },
		sub { [ pick(qw(regex not_regex)), chance(0.5) ? pick(@regexes) : list(sub { pick(@regexes) }), @ci ] },
		sub { [ pick(qw(iregex not_iregex)), chance(0.5) ? pick(@regexes) : list(sub { pick(@regexes) }) ] },
		sub { [ pick(qw(exists not_exists is_empty not_empty)), undef ] },
		sub { [ 'exists', pick('true', 'false') ] },
		sub { [ pick(qw(before at_or_before after at_or_after)), pick(@times) ] },
		sub { [ pick(qw(within_last before_last within_next after_next)), pick(@durations) ] },
		sub { [ pick(qw(semver_eq semver_neq semver_gt semver_gte semver_lt semver_lte)), pick(@versions) ] })->() };

	return (member(pick(qw(operator operator op)), string($op)),
		(defined $value ? member('value', $value) : ()), @fold);
}

# an object of these members in any order
sub object
{
	my @members = @_;
	for (my $i = $#members; $i > 0; $i--)
	{
		my $j = int rand($i + 1);
		@members[ $i, $j ] = @members[ $j, $i ];
	}
	return '{' . join(pick(',', ', ', " ,\n"), @members) . '}';
}

sub event_name
{
	my $name = pick(@texts);
	$name = 'e' if $name eq '';
	return string(pick($name, $name, substr($name, 0, 100) . '*', '*'));
}

sub events { return chance(0.8) ? event_name() : list(\&event_name, 1); }

sub window
{
	return () if chance(0.5);
	return member('window', pick('{"last": ' . pick(@durations) . '}', '{"from": "2025-01-01"}',
		'{"to": "2026-06-01", "from": "2026-05-31T23:59:59.9Z"}'));
}

sub event
{
	my ($depth) = @_;
	my @members = (member('event', events()), window());
	push @members, member('where', rule($depth - 1, 1)) if chance(0.4);
	if (chance(0.3))
	{
		push @members, member('aggregate', '"count"') if chance(0.5);
		push @members, member('property', path(0)) if chance(0.3);
		push @members, member('operator', '"gte"'), member('value', pick(1, '1.0', 2)) if chance(0.3);
		return object(@members);
	}
	my $aggregate = pick(qw(count sum avg min max first last count_distinct most_frequent
		days_active first_time last_time));
	push @members, member('property', path(0))
	  if chance(0.2) || $aggregate !~ /\A(?:count|days_active|first_time|last_time)\z/;
	return object(@members, member('aggregate', qq("$aggregate")), test_members());
}

sub sequence
{
	my ($depth) = @_;
	my $n = 1 + int rand 4;
	my @steps;
	foreach my $i (1 .. $n)
	{
		my $absent = $i > 1 && chance(0.3) && !($i == $n && $steps[-1] =~ /"absent": true/);
		my @members = (member('event', events()));
		push @members, member('where', rule($depth - 1, 1)) if chance(0.3);
		push @members, member('absent', $absent ? 'true' : 'false') if $absent || chance(0.1);
		push @members, member('within', pick(@durations))
		  if $absent ? $i == $n : $i > 1 && chance(0.5);
		push @steps, object(@members);
	}
	return object(member('sequence', '[' . join(',', @steps) . ']'), window());
}

sub rule
{
	my ($depth, $in_where) = @_;
	if ($depth > 0 && chance(0.5))
	{
		my $list = '[' . join(',', map { rule($depth - 1, $in_where) } 1 .. int rand 4) . ']';
		return pick(
			sub { object(member(pick(qw(all any none and or)), $list)) },
			sub { object(member(pick(qw(conditions rules)), $list),
				(chance(0.7) ? member(pick(qw(logic combinator operator)), pick('"all"', '"Any"', '"NONE"', '"AND"', '"or"')) : ())) },
			sub { object(member('not', rule($depth - 1, $in_where))) })->();
	}
	return pick('true', 'false') if chance(0.05);
	return object(member('field', path($in_where)), test_members()) if $in_where || chance(0.5);
	return pick(
		sub { event($depth) }, sub { event($depth) }, sub { sequence($depth) },
		sub { object(member('segment', string(pick('vip', "it's", 'a b', '"'))),
			(chance(0.7) ? member('operator', pick('"in"', '"not_in"')) : ())) },
		sub { object(member('sample', object(member('percent', pick(0, 100, 50, 33.3, '1e-7', '0.1')),
			member('seed', string(pick(@texts)))))) })->();
}

# ---- round trips in SQL

my $node = start_node('rule_roundtrip');
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET search_path = audience, public');
$node->safe_psql('postgres', 'CREATE TABLE input (id int, json text)');

my @json = map { rule(4, 0) } 1 .. $nrules;
for (my $i = 0; $i < @json; $i += 500)
{
	my $end = $i + 499 < $#json ? $i + 499 : $#json;
	$node->safe_psql('postgres',
		encode('UTF-8', copy_rows('input', map { [ $_, $json[$_] ] } $i .. $end)));
}

is($node->safe_psql('postgres', q{
SELECT i.id, v.error, v.location, i.json FROM input i, rule_validate(i.json) v WHERE NOT v.valid LIMIT 5}),
	'', 'all random rules are rules');

$node->safe_psql('postgres', q{
CREATE TABLE rules AS SELECT id, json::rule AS rule FROM input;
CREATE TABLE forms AS SELECT id, rule, rule::text AS text, rule_expression(rule) AS expression FROM rules;
});

# rows where $condition does not hold, as the test's result
sub holds
{
	my ($condition, $name) = @_;
	is($node->safe_psql('postgres',
			"SELECT id, text, expression FROM forms WHERE ($condition) IS NOT TRUE LIMIT 5"), '', $name);
	return;
}

holds('text::rule = rule', 'what goes out comes back equal');
holds('(text::rule)::text = text', 'and is spelt the same');
holds('text::jsonb::rule = rule AND rule::jsonb = text::jsonb', 'through jsonb too');
holds('to_jsonb(text)::rule = rule', 'and through a jsonb string');
holds('expression::rule = rule', 'the text form comes back equal');
holds('rule_expression(expression::rule) = expression', 'and is spelt the same');
holds(q{jsonb_build_object('expr', expression)::rule = rule}, 'inside expr too');
holds('rule_hash(text::rule) = rule_hash(rule) AND rule_hash_extended(expression::rule, 7) = rule_hash_extended(rule, 7)',
	'equal rules hash alike');
holds('pg_column_size(text::rule) = pg_column_size(expression::rule)', 'and have one size');
holds(q{rule_send(expression::rule) = rule_send(rule) AND rule_send(rule) = '\x01'::bytea || convert_to(text, 'UTF8')},
	'the binary form is a version and the JSON');

is($node->safe_psql('postgres', q{
SELECT count(*) FROM forms a JOIN forms b ON a.id < b.id AND a.id % 20 = 0
WHERE (a.rule = b.rule) <> (a.text = b.text)
   OR (a.rule < b.rule) <> (a.text COLLATE "C" < b.text COLLATE "C")
   OR rule_cmp(a.rule, b.rule) <> -rule_cmp(b.rule, a.rule)}),
	'0', 'rules compare as their canonical forms do');

my $file = $node->basedir . '/rules.bin';
$node->safe_psql('postgres', qq{
COPY rules TO '$file' (FORMAT binary);
CREATE TABLE copied (id int, rule rule);
COPY copied FROM '$file' (FORMAT binary)});
is($node->safe_psql('postgres', 'SELECT count(*) FROM rules r JOIN copied c USING (id, rule)'),
	$nrules, 'COPY BINARY gives the same back');

# ---- mutated binary

# a connection that speaks the protocol
$node->safe_psql('postgres', q{
-- what is wrong with an input, as both tell it
CREATE FUNCTION check_input(input text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	verdict record;
	parsed rule;
	detail text;
BEGIN
	verdict := rule_validate(input);
	IF verdict.valid THEN
		parsed := input;
		RETURN parsed::text::rule = parsed AND rule_expression(parsed)::rule = parsed;
	END IF;
	BEGIN
		parsed := input;
	EXCEPTION WHEN invalid_text_representation THEN
		GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
		RETURN CASE WHEN detail = format('At %s: %s.', verdict.location, verdict.error)
			THEN 'invalid' ELSE detail END;
	WHEN program_limit_exceeded OR statement_too_complex THEN
		RETURN CASE WHEN verdict.location IS NULL THEN 'limit' ELSE verdict.location END;
	END;
	RETURN 'valid after all';
END $$});
my $socket = IO::Socket::UNIX->new(Peer => $node->host . '/.s.PGSQL.' . $node->port)
  or die "could not connect: $!";
binmode $socket;

sub message { my ($type, $body) = @_; return $type . pack('N', 4 + length $body) . $body; }

sub receive
{
	my $buffer = '';
	while (length $buffer < 5) { read($socket, $buffer, 5 - length $buffer, length $buffer) or die 'connection lost'; }
	my ($type, $len) = unpack 'aN', $buffer;
	my $body = '';
	while (length $body < $len - 4) { read($socket, $body, $len - 4 - length $body, length $body) or die 'connection lost'; }
	return ($type, $body);
}

sub wait_ready
{
	my $state = '';
	for (;;)
	{
		my ($type, $body) = receive();
		$state = $1 if $type eq 'E' && $body =~ /(?:\A|\0)C([^\0]+)\0/;
		$state = unpack('x2 N/a', $body) if $type eq 'D';
		return $state if $type eq 'Z';
	}
}

my $user = getpwuid $>;
my $startup = pack 'N', 196608;
$startup .= "$_\0" foreach 'user', $user, 'database', 'postgres', 'client_encoding', 'UTF8',
  'search_path', 'audience,public';
print $socket pack('N', 5 + length $startup), $startup, "\0";
$socket->flush;
wait_ready();
my $oid = $node->safe_psql('postgres', q{SELECT 'audience.rule'::regtype::oid});
print $socket message('P', "s\0SELECT (\$1::text::rule = \$1 AND rule_expression(\$1)::rule = \$1)::text\0" . pack('nN', 1, $oid)), message('S', '');
$socket->flush;
is(wait_ready(), '', 'the connection is ready');

my @wire = map { encode 'UTF-8', $_ }
  split /\n/, decode('UTF-8', $node->safe_psql('postgres', q{SELECT text FROM forms WHERE length(text) < 2000 ORDER BY id}));

# some bytes of a rule changed, removed, doubled, or swapped for another's
sub mutate
{
	my $bytes = "\x01" . pick(@wire);
	foreach (1 .. pick(1, 1, 1, 2, 5))
	{
		my $at = int rand(1 + length $bytes);
		my $len = int rand(pick(2, 8, 40));
		pick(
			sub { substr($bytes, $at, 1) = chr int rand 256 if $at < length $bytes },
			sub { vec($bytes, $at, 8) = vec($bytes, $at, 8) ^ (1 << int rand 8) if $at < length $bytes },
			sub { substr($bytes, $at, $len) = '' },
			sub { substr($bytes, $at, 0) = substr $bytes, $at, $len },
			sub { substr($bytes, $at, 0) = pick('"', '{', '}', '[', ']', ',', ':', '0', "\0", '\\', 'null', 'e9', '*', '\\u0000', '-', '$', '.') },
			sub { my $other = pick(@wire); substr($bytes, $at) = substr $other, int rand length $other },
			sub { $bytes = substr $bytes, 0, $at })->();
	}
	return $bytes;
}

# Runs a prepared statement with $count parameters that $make gives, in text
# (format 0) or binary (1).  Returns how often each result or SQLSTATE came, and
# some of the parameters whose result was not as expected.
sub run_mutants
{
	my ($statement, $format, $count, $expected, $make) = @_;
	my %states;
	my @wrong;
	for (my $done = 0; $done < $count; $done += 100)
	{
		# many at once, each with its own Sync, so that none depends on another
		my @batch = map { $make->() } 1 .. 100;
		print $socket map { message('B', "\0$statement\0" . pack('nnn', 1, $format, 1) . pack('N/a', $_) . pack('n', 0))
			  . message('E', "\0" . pack('N', 0)) . message('S', '') } @batch;
		$socket->flush;
		foreach my $bytes (@batch)
		{
			my $state = wait_ready();
			$states{$state}++;
			push @wrong, $state . ' ' . unpack('H*', $bytes) if $state !~ $expected && @wrong < 5;
		}
	}
	note join ', ', map { "$_: $states{$_}" } sort keys %states;
	return (\%states, \@wrong);
}

my ($states, $wrong) = run_mutants('s', 1, $nmutants,
	qr/\A(?:true|22P02|22P03|54000|54001)\z/, \&mutate);
is("@$wrong", '', "$nmutants mutated binary rules are rules or errors");
cmp_ok($states->{'22P02'}, '>', 0, 'some are errors');
cmp_ok($states->{true}, '>', 0, 'some are rules');

# ---- mutated input

print $socket message('P', "t\0SELECT check_input(\$1)\0" . pack('nN', 1, 25)), message('S', '');
$socket->flush;
is(wait_ready(), '', 'the statement is ready');

my @said = split /\n/, decode('UTF-8', $node->safe_psql('postgres',
		q{SELECT expression FROM forms WHERE length(expression) < 2000 AND expression !~ '\n' ORDER BY id}));
push @said, map { s/\n/ /gr } grep { length() < 2000 } @json;

my @tokens = (qw(AND OR NOT IN SEGMENT WHERE LAST FROM TO WITHIN CI NULL TRUE JSON count sum ALL ANY
	SEQUENCE SAMPLE EXISTS), qw(( ) [ ] { } " ' . ; : * = < > ~ - + 0 1.5 null [*]), ',', '--', '/*', '"expr": "');

# some characters removed, doubled, or swapped for another rule's
sub mutate_text
{
	my $text = pick(@said);
	foreach (1 .. pick(1, 1, 2, 4))
	{
		my $at = int rand(1 + length $text);
		my $len = int rand(pick(2, 8, 40));
		pick(
			sub { substr($text, $at, $len) = '' },
			sub { substr($text, $at, 0) = substr $text, $at, $len },
			sub { substr($text, $at, 0) = pick(@tokens) },
			sub { substr($text, $at, 0) = ' ' . pick(@tokens) . ' ' },
			sub { my $other = pick(@said); substr($text, $at) = substr $other, int rand length $other })->();
	}
	return encode('UTF-8', $text);
}

my $ntexts = int($nmutants / 2);
($states, $wrong) = run_mutants('t', 0, $ntexts, qr/\A(?:true|invalid|limit)\z/, \&mutate_text);
is("@$wrong", '', "$ntexts mutated inputs are rules or errors, as rule_validate says");
cmp_ok($states->{invalid}, '>', 0, 'some are errors');
cmp_ok($states->{true}, '>', 0, 'some are rules');
close $socket;

# characters that are escaped, and that the database's encoding does not have
foreach my $encoding (qw(LATIN1 SQL_ASCII))
{
	my $db = lc $encoding;
	$node->safe_psql('postgres', "CREATE DATABASE $db ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager');
	my $validate = sub { $node->safe_psql($db, "SELECT * FROM audience.rule_validate(\$\$$_[0]\$\$)") };
	is($validate->('{"field":"n","operator":"eq","value":"\\u0041\\\\u20ac"}'), 't||', "$encoding: one that it has");
	is($validate->('{"field":"n","operator":"eq","value":"\\u00fc"}'),
		$encoding eq 'LATIN1' ? 't||' : 'f|malformed JSON: the encoding has no such character|character 38', "$encoding: one that LATIN1 has");
	is($validate->(qq({"field":"n","operator":"eq","value":$_})), 'f|malformed JSON: the encoding has no such character|character 38', "$encoding: $_")
	  foreach '"\u20ac"', '"x\"\u20ac"', '"\ud83d\ude00"';
	is($validate->('a = 1 AND a = JSON \'{"\\u20ac":1}\''), 'f|malformed JSON in the literal: the encoding has no such character|character 20', "$encoding: in a literal");
	my (undef, undef, $error) = $node->psql($db, "\\set VERBOSITY verbose\n" . q(SELECT '{"field":"\u20ac","operator":"exists"}'::audience.rule));
	like($error, qr/22P02: +invalid rule/, "$encoding: as input");
}

is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server lives');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/terminated by signal|TRAP:/, 'and never crashed');

$node->stop;
done_testing();
