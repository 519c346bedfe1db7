# Every function and procedure of the extension, called with random arguments:
# none brings the server down, none raises an internal error, and a session
# that has called thousands of them has not grown.
#
# As a superuser, who may call all of them, and as a role with each level of
# access.  Functions that are internal may refuse a superuser's arguments in
# any way, but not crash.
#
# AUD_TEST_SEED and AUD_CALLS set the seed and the superuser's number of calls;
# each of the other roles makes a quarter of them.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = env_number('AUD_TEST_SEED', 1);
my $ncalls = env_number('AUD_CALLS', 20_000);
srand($seed);
note("AUD_TEST_SEED=$seed AUD_CALLS=$ncalls");

my $node = start_node('sql_fuzz', conf => "audience.strict = off\nlog_min_messages = error\nlog_statement = 'none'\n");
my @levels = qw(ingest read kafka admin);

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE public.customers (id int PRIMARY KEY, name text, total numeric, seen timestamptz, data jsonb);
INSERT INTO public.customers SELECT i, 'c' || i, i * 10, now(), jsonb_build_object('a', i) FROM generate_series(1, 20) i;
CREATE ROLE victim;
SELECT audience.trait_create('spent', 'sum', 'purchase', 'amount');
SELECT audience.segment_create('Spenders', 'spent > 100', id => 'spenders');
SELECT audience.segment_create('Recent', 'count(purchase, LAST ''30 days'') >= 1', id => 'recent');
SELECT audience.segment_create('List', type => 'static', id => 'list');
SELECT audience.events_ingest((SELECT jsonb_agg(jsonb_build_object('userId', 'u' || i % 20, 'eventType', 'purchase',
	'eventId', i::text, 'properties', jsonb_build_object('amount', i))) FROM generate_series(1, 100) i));
SQL
foreach my $level (@levels)
{
	$node->safe_psql('postgres', "CREATE ROLE f_$level LOGIN; SELECT audience.grant_access('f_$level', '$level')");
}

# one of a list
sub pick { return $_[ int rand @_ ]; }

my $long = "repeat('x', 100000)";
my @ids = ("'spenders'", "'recent'", "'list'", "'none'", "'u1'", "'u7'", "'spent'", "'purchase'", "'a'");
my @rules = ("'true'", "'false'", "'spent > 5'", "'count(purchase) >= 1'", "'in segment ''spenders'''", "'in segment ''nope'''",
	"'{\"all\":[]}'", "'sum(purchase.amount, LAST ''1 day'') > 1'", "'SEQUENCE(a, NOT b WITHIN ''1 hour'')'", "'SAMPLE(50, ''s'')'",
	"'at WITHIN LAST ''7 days'''", "'a[*].b ~ ''x+''' ", "'not a is null'", "'x'", "''", "'{'", "'{\"segment\":\"recent\"}'");
my @jsons = ("'{}'", "'[]'", "'null'", "'0'", "'\"x\"'", "'[null]'", "'[{}]'", "'{\"userId\":\"u1\",\"eventType\":\"purchase\"}'",
	"'[{\"userId\":\"u2\",\"eventType\":\"p\",\"timestamp\":1e300}]'", "'[{\"userId\":5,\"eventType\":\"p\",\"properties\":{\"amount\":1e100}}]'",
	"'{\"userId\":\"u3\",\"eventType\":\"p\",\"timestamp\":\"0001-01-01\"}'", "'{\"id\":\"new\",\"name\":\"N\",\"rules\":true}'",
	"'{\"id\":[],\"name\":{},\"rules\":7}'", "'{\"bootstrap.servers\":\"localhost:1\"}'", "'{\"a\":{\"b\":null}}'", "'[[],[[]]]'",
	"'{\"userId\":\"\",\"eventType\":null}'", "('[' || repeat('1,', 5000) || '1]')", "('\"' || $long || '\"')",
	"(repeat('[', 3000) || repeat(']', 3000))", "'{\"offset\":9223372036854775807}'");
my %values = (
	text => [ @ids, @rules, "''", $long, "'now'", "'later'", "'dynamic'", "'static'", "'sum'", "'count'", "'read'", "'admin'",
		"'public.customers'", "'é😀'", "E'\\\\x'", "'%'", "'2026-11-20'", "'\"'", "E'\\n'", "'earliest'" ],
	name => [ "'a'", "''", "'customers'" ],
	cstring => [ @rules, "''" ],
	'audience.rule' => \@rules,
	jsonb => \@jsons,
	integer => [ 0, 1, -1, 2, 7, 1000, 1001, 2147483647, '-2147483648' ],
	smallint => [ 0, 1, -1, 32767, -32768 ],
	bigint => [ 0, 1, -1, 5, '9223372036854775807', "'-9223372036854775808'" ],
	oid => [ 0, 1, 1259, 4294967295, "'public.customers'::regclass::oid", "'audience.events'::regclass::oid" ],
	boolean => [ 'true', 'false' ],
	bytea => [ "'\\x'", "'\\x00'", "'\\x0300000001000000000000000007ffffffffff0000'", "'\\xffffffffffffffffffffffffffff'",
		"'\\x0101010101010101'", "decode(repeat('02', 5000), 'hex')", "'\\x7b7d'", "'\\x00ffffffff0f0203'" ],
	'double precision' => [ 0, 1, -1, "'NaN'", "'Infinity'", "'-Infinity'", 1e308 ],
	numeric => [ 0, 1, "'NaN'", "'Infinity'", '1e1000' ],
	interval => [ "'0'", "'1 day'", "'-1 day'", "'1 month'", "'100000 years'", "'1 microsecond'" ],
	'timestamp with time zone' => [ 'now()', "'infinity'", "'-infinity'", "'4713-01-01 BC'", "'294276-12-31'", "'2026-01-01'" ],
	regclass => [ "'public.customers'", "'audience.events'", "'pg_class'", 0, 4294967295, "'audience.profiles_pkey'" ],
	regrole => [ "'victim'", 0, 4294967295 ],
	regprocedure => [ 0, "'now()'" ],
	regtype => [ 0, "'text'" ],
	record => [ "ROW(1, 'a')", 'ROW()', "ROW(NULL::int, '{}'::jsonb)" ],
	'audience.profiles' => [
		"(SELECT p FROM audience.profiles p ORDER BY user_id LIMIT 1)",
		"ROW('u1', NULL, NULL, now(), now(), '\\xffff', '\\xffffffffff', '{}')",
		"ROW('nobody', NULL, NULL, NULL, NULL, NULL, NULL, NULL)" ],
	'audience.kafka_installation' => [ '(SELECT i FROM audience.kafka_installation i)' ],
	'audience.segments' => [
		"(SELECT s FROM audience.segments s ORDER BY id LIMIT 1)", "(SELECT s FROM audience.segments s ORDER BY id DESC LIMIT 1)" ]);

# a random value of a type, as SQL
sub value
{
	my ($type) = @_;
	return "NULL::$type" if rand() < 0.07;
	if ($type =~ /\A(.*)\[\]\z/)
	{
		my $element = $1;
		return "'{}'::$type" if rand() < 0.15;
		return "array_fill(" . value($element) . ", '{2,2}')" if rand() < 0.05;
		my $n = rand() < 0.05 ? 300 : 1 + int rand 4;
		return 'ARRAY[' . join(', ', map { value($element) } 1 .. $n) . "]::$type";
	}
	return "NULL" unless $values{$type};
	my $value = pick(@{ $values{$type} });
	return $type eq 'record' ? $value : "($value)::$type";
}

my @routines = map { { oid => $_->[0], name => $_->[1], kind => $_->[2], internal => $_->[3] eq 't', types => [ split /;/, $_->[4] ], set => $_->[5] eq 't' } }
  rows_of($node, <<"SQL");
SELECT p.oid, p.proname, p.prokind,
	coalesce(obj_description(p.oid, 'pg_proc'), '') ~ '^(internal|for |I/O|support|implementation)' ,
	coalesce((SELECT string_agg(format_type(t, NULL), ';' ORDER BY n) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY a (t, n)), ''),
	p.proretset
FROM pg_proc p
WHERE p.pronamespace = 'audience'::regnamespace AND p.prokind IN ('f', 'p')
	AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
	AND 'internal'::regtype <> ALL (p.proargtypes::oid[])
ORDER BY p.proname, p.oid
SQL
cmp_ok(scalar @routines, '>', 80, scalar(@routines) . ' functions and procedures to call');
my %unknown;
foreach my $routine (@routines)
{
	$unknown{$_} = 1 foreach grep { !$values{ s/\[\]\z//r } } @{ $routine->{types} };
}
is(join(', ', sort keys %unknown), '', 'there are values for every type of argument');

# Calls functions as a role, and judges what came of it.
sub run_as
{
	my ($role, $calls, $label) = @_;
	my $superuser = $role eq 'postgres';
	my $memory = "SELECT 'memory ' || sum(total_bytes) FROM pg_backend_memory_contexts;\n";
	my @lines = (
		"\\set VERBOSITY verbose\n", "SET statement_timeout = '10s';\n", "SET lock_timeout = '2s';\n", "SET client_min_messages = error;\n");
	my @called;

	# who may see the memory is who may call this
	$node->safe_psql('postgres', "GRANT pg_read_all_stats TO $role; GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO $role;"
		. " GRANT SELECT ON pg_backend_memory_contexts TO $role")
	  unless $superuser;
	for my $i (1 .. $calls)
	{
		my $routine = pick(@routines);
		my $arguments = join ', ', map { value($_) } @{ $routine->{types} };
		my $statement = $routine->{kind} eq 'p' ? "CALL audience.$routine->{name}($arguments)"
		  : "SELECT count(f) FROM audience.$routine->{name}($arguments) f";
		push @lines, "$statement;\n";
		$called[$#lines] = $routine;
		push @lines, $memory if $i == int($calls / 2) || $i == $calls;
	}
	my $path = PostgreSQL::Test::Utils::tempdir() . "/fuzz_$role.sql";
	append_to_file($path, join '', @lines);
	my ($out, $error) = ('', '');
	my $status = $node->psql('postgres', undef, extra_params => [ '-U', $role, '-f', $path ],
		stdout => \$out, stderr => \$error, on_error_stop => 0, timeout => 600);
	is($status, 0, "$label: the session lives");

	my (%states, @internal);
	while ($error =~ /^psql:[^\n]*?:(\d+): (?:ERROR|FATAL|PANIC):  ([0-9A-Z]{5}): ([^\n]*)/mg)
	{
		my ($line, $state, $message) = ($1, $2, $3);
		my $routine = $called[ $line - 1 ];
		$states{$state}++;
		push @internal, "$state $message: " . substr($lines[ $line - 1 ], 0, 300)
		  if $state eq 'XX000' && !($superuser && $routine && $routine->{internal});
	}
	my %seen;
	@internal = grep { !$seen{ s/[0-9]+/0/gr =~ s/\(.*//sr }++ } @internal;
	is(join('', @internal), '', "$label: no internal error");
	my ($half, $full) = $out =~ /memory (\d+)/g;
	ok(defined $full, "$label: memory was measured");
	cmp_ok(($full // 0) - ($half // 0), '<', 8 * 1024 * 1024, "$label: the session does not grow")
	  or diag "from $half to $full bytes";
	my $failed = 0;
	$failed += $_ foreach values %states;
	cmp_ok($calls - $failed, '>', $superuser ? $calls / 20 : 0, "$label: some calls come to something");
	note "$label: $calls calls, $failed errors, memory $half to $full: "
	  . join ', ', map { "$_ $states{$_}" } sort { $states{$b} <=> $states{$a} } keys %states;
	return;
}

run_as('postgres', $ncalls, 'superuser');
run_as("f_$_", int($ncalls / 4), "level $_") foreach @levels;

is($node->safe_psql('postgres', 'SELECT 1'), '1', 'the server lives');
my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|TRAP:|was terminated by signal|server process .* exited with exit code/, 'no crash in the log');
$node->stop;

done_testing();
