# Random rules over random documents: |= must be what the same condition is in
# plain SQL.
#
# The conditions are written by a translator of their own below, in terms of
# jsonb_typeof(), casts and subqueries, so that it shares nothing with the
# evaluator.  Each rule is evaluated as a constant, as a value out of a table,
# over rows whose columns are the document's fields, and through GIN indexes
# of both kinds.
#
# AUD_SEED, AUD_RULES and AUD_DOCUMENTS set the seed and the sizes.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use Test::More;

my $seed = env_number('AUD_SEED', 20261120);
my $nrules = env_number('AUD_RULES', 500);
my $ndocs = env_number('AUD_DOCUMENTS', 300);
srand($seed);
note "seed $seed, $nrules rules, $ndocs documents";

sub pick { return $_[ int rand @_ ]; }
sub chance { return rand() < $_[0]; }

my @texts = ('', 'a', 'A', 'ab', 'Abc', 'abc', 'b', '5', 'true', 'a%', 'a_c', 'x y', "it's", 'q"', 'z');
my @numbers = ('0', '-1', '1', '1.0', '5', '5.00', '2.5', '1000.99', '9007199254740993', '9007199254740992', '1e3', '-0.5');
my @times = ('2026-11-20', '2026-11-20T12:00:00Z', '2026-11-20 12:00', '2026-11-20T13:00:00+01:00', '2026-11-19T12:00:00.5Z',
	'2026-11-20T13:00:00.000001Z', '2026-11-21T12:00:00Z', '2026-12-01', '2025-02-28T23:59:59-05');
my @bad_times = ('2026-11-20Z', '2026-11-20T12:00:00z', '20 Nov 2026', '2026-11-20T12');
my @versions = ('1.0.0', '1.2.3', '1.10.0', '2.0.0', '0.9.9', '10.0.0');
my @bad_versions = ('1.0', 'v1.0.0', '01.0.0');
my @keys = qw(a b c);

sub json_text { my ($s) = @_; $s =~ s/(["\\])/\\$1/g; return qq("$s"); }

sub scalar_json
{
	my $r = rand;
	return json_text(pick(@texts)) if $r < 0.35;
	return pick(@numbers) if $r < 0.65;
	return pick('true', 'false') if $r < 0.8;
	return json_text(pick(@times, @bad_times)) if $r < 0.92;
	return json_text(pick(@versions, @bad_versions));
}

sub any_json
{
	my ($depth) = @_;
	my $r = rand;
	return 'null' if $r < 0.08;
	return scalar_json() if $depth == 0 || $r < 0.55;
	return '[' . join(',', map { any_json($depth - 1) } 1 .. int rand 4) . ']' if $r < 0.8;
	return object_json($depth - 1);
}

sub object_json
{
	my ($depth) = @_;
	return '{' . join(',', map { qq("$_":) . any_json($depth) } grep { chance(0.7) } @keys) . '}';
}

# ---- a rule: [JSON, SQL over "d"]

# SQL of the values a path reaches: a subquery with column v
sub reached
{
	my (@steps) = @_;
	my $sql = 'SELECT d AS v';
	my $n = 0;
	foreach my $step (@steps)
	{
		my $from = 'r' . ++$n;
		my $value = $step eq '*' ? undef
		  : $step =~ /^-?\d+$/ ? "CASE jsonb_typeof($from.v) WHEN 'array' THEN $from.v -> ($step) END"
		  : "CASE jsonb_typeof($from.v) WHEN 'object' THEN $from.v -> '$step' END";
		$sql = defined $value
		  ? "SELECT x AS v FROM ($sql) $from, LATERAL (SELECT $value) s(x) WHERE x IS NOT NULL"
		  : "SELECT x AS v FROM ($sql) $from, LATERAL jsonb_array_elements(CASE jsonb_typeof($from.v) WHEN 'array' THEN $from.v ELSE '[]' END) s(x)";
	}
	return $sql;
}

sub path
{
	my @steps = (pick(@keys));
	while (chance(0.35)) { push @steps, pick(@keys, @keys, 0, 1, -1, '*'); }
	my $text = join '', map { my $s = $steps[$_]; $s eq '*' || $s =~ /^-?\d/ ? "[$s]" : ($_ ? '.' : '') . $s } 0 .. $#steps;
	return ($text, reached(@steps));
}

my $text_of = "(x #>> '{}')";
sub if_type { my ($type, $sql) = @_; return "CASE jsonb_typeof(x) WHEN '$type' THEN $sql ELSE false END"; }

# is the jsonb $name, by default x, equal to a constant?
sub equals
{
	my ($constant, $ci, $name) = @_;
	$name //= 'x';
	return "(jsonb_typeof($name) = 'string' AND lower($name #>> '{}') = lower(" . quote($constant) . "::jsonb #>> '{}'))" if $ci && $constant =~ /^"/;
	return "$name = " . quote($constant) . '::jsonb';
}

sub ordered
{
	my ($op, $constant) = @_;
	my $value = quote($constant) . '::jsonb';
	return if_type('string', "$text_of COLLATE \"C\" $op ($value #>> '{}') COLLATE \"C\"") if $constant =~ /^"/;
	return if_type('boolean', "x::boolean $op $constant") if $constant =~ /^[tf]/;
	return if_type('number', "x::numeric $op $constant");
}

# of texts, for any of the constants
sub textual
{
	my ($template, @constants) = @_;
	return if_type('string', '(' . join(' OR ', map { my $s = quote($_); my $t = $template; $t =~ s/\?/$s/g; $t } @constants) . ')');
}

my $time_of = "CASE WHEN jsonb_typeof(x) = 'string' AND $text_of ~ '^\\d{4}-\\d\\d-\\d\\d([T ]\\d\\d:\\d\\d(:\\d\\d(\\.\\d+)?)?(Z|[+-]\\d\\d(:\\d\\d)?)?)?\$' THEN $text_of" . "::timestamptz END";
my $version_of = "CASE WHEN jsonb_typeof(x) = 'string' AND $text_of ~ '^(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\\.(0|[1-9]\\d*)\$' THEN string_to_array($text_of, '.')::numeric[] END";
my $now = "timestamptz '2026-11-20 12:00:00Z'";
my %compare = (gt => '>', gte => '>=', lt => '<', lte => '<=', eq => '=');

# (operator, value in JSON or undef, ci, SQL over x, over the whole v or else also its elements, SQL if missing)
sub test
{
	my $r = int rand 14;
	my $ci = chance(0.25);
	if ($r <= 1)
	{
		my $c = chance(0.2) ? (any_json(2) =~ s/null/0/gr) : scalar_json();
		$ci = 0 if $c =~ /^[\[{]/;
		return ('eq', 'neq', $c, $ci, equals($c, $ci), 0);
	}
	if ($r <= 3)
	{
		my ($op) = pick(qw(gt gte lt lte));
		my $c = scalar_json();
		return ($op, undef, $c, 0, ordered($compare{$op}, $c), 0);
	}
	if ($r == 4)
	{
		my @pair = chance(0.5) ? sort { $a <=> $b } pick(@numbers), pick(@numbers) : map { json_text($_) } sort { $a cmp $b } pick(@texts), pick(@texts);
		return ('between', 'not_between', '[' . join(',', @pair) . ']', 0, ordered('>=', $pair[0]) . ' AND ' . ordered('<=', $pair[1]), 0);
	}
	if ($r == 5)
	{
		my @list = map { scalar_json() } 1 .. pick(0, 1, 2, 3, 12);
		return ('in', 'not_in', '[' . join(',', @list) . ']', $ci, '(' . join(' OR ', 'false', map { equals($_, $ci) } @list) . ')', 0);
	}
	if ($r == 6)
	{
		my $c = scalar_json();
		my $text = $c =~ /^"/ ? if_type('string', $ci ? "strpos(lower($text_of), lower(" . quote($c) . "::jsonb #>> '{}')) > 0" : "strpos($text_of, " . quote($c) . "::jsonb #>> '{}') > 0") : 'false';
		my $element = equals($c, $ci, 'e');
		return ('contains', 'not_contains', $c, $ci, "($text OR EXISTS (SELECT FROM jsonb_array_elements(CASE jsonb_typeof(x) WHEN 'array' THEN x ELSE '[]' END) e WHERE $element))", 1);
	}
	if ($r == 7)
	{
		my @list = map { scalar_json() } 1 .. pick(0, 1, 2, 3, 10);
		my $all = chance(0.4);
		my @each = map { 'EXISTS (SELECT FROM jsonb_array_elements(x) e WHERE ' . equals($_, $ci, 'e') . ')' } @list;
		my $sql = if_type('array', '(' . join($all ? ' AND ' : ' OR ', ($all ? 'true' : 'false'), @each) . ')');
		return ($all ? 'contains_all' : 'contains_any', $all ? undef : 'contains_none', '[' . join(',', @list) . ']', $ci, $sql, 1);
	}
	if ($r == 8)
	{
		my @constants = map { pick(@texts) } 1 .. (chance(0.6) ? 1 : 3);
		my $json = @constants == 1 ? json_text($constants[0]) : '[' . join(',', map { json_text($_) } @constants) . ']';
		my ($t, $c) = $ci ? ("lower($text_of)", 'lower(?)') : ($text_of, '?');
		return ('starts_with', 'not_starts_with', $json, $ci, textual("starts_with($t, $c)", @constants), 0) if chance(0.5);
		return ('ends_with', 'not_ends_with', $json, $ci, textual("right($t, length($c)) = $c", @constants), 0);
	}
	if ($r == 9)
	{
		my @constants = map { pick('a%', '%c', '%b%', '_', '%', '', 'a\\%', 'A_c', '%a%c', '%_%_%') } 1 .. (chance(0.6) ? 1 : 2);
		my $json = @constants == 1 ? json_text($constants[0]) : '[' . join(',', map { json_text($_) } @constants) . ']';
		return ('like', 'not_like', $json, 0, textual("$text_of LIKE ?", @constants), 0) if chance(0.5);
		return ('ilike', 'not_ilike', $json, 0, textual("$text_of ILIKE ?", @constants), 0);
	}
	if ($r == 10)
	{
		my @constants = map { pick('^a', 'c$', 'b', '^.$', '', '[0-9]+', 'A.c', '^(a|x)') } 1 .. (chance(0.6) ? 1 : 2);
		my $json = @constants == 1 ? json_text($constants[0]) : '[' . join(',', map { json_text($_) } @constants) . ']';
		return ('regex', 'not_regex', $json, 0, textual("$text_of ~ ?", @constants), 0) if chance(0.5);
		return ('iregex', 'not_iregex', $json, 0, textual("$text_of ~* ?", @constants), 0);
	}
	if ($r == 11)
	{
		return ('exists', 'not_exists', undef, 0, "x <> 'null'", 1) if chance(0.5);
		return ('is_empty', 'not_empty', undef, 0, q{x IN ('null', '""', '[]', '{}')}, 1, 'true');
	}
	if ($r == 12)
	{
		if (chance(0.5))
		{
			my ($op, $sql) = @{ pick([ 'before', '<' ], [ 'at_or_before', '<=' ], [ 'after', '>' ], [ 'at_or_after', '>=' ]) };
			my $t = pick(@times);
			return ($op, undef, qq("$t"), 0, "coalesce($time_of $sql timestamptz '$t', false)", 0);
		}
		my ($op, $sql) = @{ pick([ 'within_last', "t > $now - d AND t <= $now + interval '1 hour'" ], [ 'before_last', "t <= $now - d" ],
				[ 'within_next', "t > $now AND t <= $now + d" ], [ 'after_next', "t > $now + d" ]) };
		my $d = pick('1 day', '24 hours', '1 second', '300 days', '1 hour');
		return ($op, undef, qq("$d"), 0, "coalesce((SELECT $sql FROM (SELECT $time_of, interval '$d') s(t, d)), false)", 0);
	}
	my $op = pick(qw(eq gt gte lt lte));
	my $version = pick(@versions);
	return ("semver_$op", $op eq 'eq' ? 'semver_neq' : undef, qq("$version"), 0, "coalesce($version_of $compare{$op} string_to_array('$version', '.')::numeric[], false)", 0);
}

sub leaf
{
	my ($path, $reached) = path();
	my ($op, $negated, $value, $ci, $sql, $whole, $missing) = test();
	my $negate = defined $negated && chance(0.35);
	my $holds = $whole ? "EXISTS (SELECT FROM reached r(x) WHERE $sql)"
	  : "EXISTS (SELECT FROM reached r(v), LATERAL (SELECT v UNION ALL SELECT e FROM jsonb_array_elements(CASE jsonb_typeof(v) WHEN 'array' THEN v ELSE '[]' END) e) s(x) WHERE $sql)";
	$holds = "($holds OR NOT EXISTS (SELECT FROM reached))" if defined $missing;
	my $json = '{"field":' . json_text($path) . ',"operator":"' . ($negate ? $negated : $op) . '"'
	  . (defined $value ? ",\"value\":$value" : '') . ($ci && ($value // '') =~ /"/ && $op =~ /^(eq|in|contains|starts_with|ends_with)/ ? ',"ci":true' : '') . '}';
	return [ $json, "(WITH reached AS ($reached) SELECT " . ($negate ? 'NOT ' : '') . $holds . ')' ];
}

sub rule
{
	my ($depth) = @_;
	return leaf() if $depth == 0 || chance(0.5);
	my @children = map { rule($depth - 1) } 1 .. 1 + int rand 3;
	my $json = '[' . join(',', map { $_->[0] } @children) . ']';
	my $kind = pick(qw(all any none not));
	return [ qq({"not":$children[0][0]}), "(NOT $children[0][1])" ] if $kind eq 'not';
	my $joined = '(' . join($kind eq 'all' ? ' AND ' : ' OR ', map { $_->[1] } @children) . ')';
	return [ qq({"$kind":$json}), $kind eq 'none' ? "(NOT $joined)" : $joined ];
}

# ---- the documents, and each rule over all of them

my $node = start_node('operators');
my @docs = map { chance(0.04) ? any_json(2) : object_json(2) } 1 .. $ndocs;
my @rules = map { rule(2) } 1 .. $nrules;

my $script = "SET search_path = audience, public;\nSET audience.now = '2026-11-20T12:00:00Z';\nSET client_min_messages = warning;\n"
  . "CREATE TABLE docs (id int, d jsonb);\n" . copy_rows('docs', map { [ $_, $docs[$_] ] } 0 .. $#docs)
  . "CREATE TABLE doc_rows AS SELECT id, d, d -> 'a' AS a, d -> 'b' AS b, d -> 'c' AS c FROM docs WHERE jsonb_typeof(d) = 'object';\n"
  . "CREATE TABLE path_docs AS TABLE docs;\nCREATE INDEX ON docs USING gin (d);\nCREATE INDEX ON path_docs USING gin (d jsonb_path_ops);\n"
  . "CREATE INDEX ON doc_rows USING gin (a);\nANALYZE;\n";
foreach my $n (0 .. $#rules)
{
	my ($json, $sql) = @{ $rules[$n] };
	my $const = quote($json) . '::rule';
	$script .= "CREATE TEMP TABLE truth AS SELECT id, $sql AS holds FROM docs;\n"
	  . "SELECT 'constant', $n, id FROM docs JOIN truth USING (id) WHERE (d |= $const) IS DISTINCT FROM holds;\n"
	  . "SELECT 'value', $n, id FROM docs JOIN truth USING (id), (SELECT $const AS r OFFSET 0) x WHERE (d |= r) IS DISTINCT FROM holds;\n"
	  . "SELECT 'row', $n, r.id FROM doc_rows r JOIN truth USING (id) WHERE (r |= $const) IS DISTINCT FROM holds;\n"
	  . "SET enable_seqscan = off;\n"
	  . "SELECT 'jsonb_ops', $n, id FROM (SELECT id FROM docs WHERE d |= $const) i FULL JOIN (SELECT id FROM truth WHERE holds) t USING (id) WHERE i IS NULL OR t IS NULL;\n"
	  . "SELECT 'jsonb_path_ops', $n, id FROM (SELECT id FROM path_docs WHERE d |= $const) i FULL JOIN (SELECT id FROM truth WHERE holds) t USING (id) WHERE i IS NULL OR t IS NULL;\n"
	  . "SELECT 'indexed row', $n, id FROM (SELECT id FROM doc_rows r WHERE r |= $const) i FULL JOIN (SELECT id FROM truth JOIN doc_rows USING (id) WHERE holds) t USING (id) WHERE i IS NULL OR t IS NULL;\n"
	  . "RESET enable_seqscan;\n"
	  . "SELECT 'holding', sum(holds::int) FROM truth;\nDROP TABLE truth;\n";
}
my ($status, $out, $error) = run_script($node, $script);
is($status, 0, 'all rules are evaluated') or diag(substr($error, 0, 2000));

my $holding = 0;
my @wrong;
foreach my $line (split /\n/, $out)
{
	my ($kind, @fields) = split /\|/, $line;
	if ($kind eq 'holding') { $holding += $fields[0]; }
	else { push @wrong, $line; }
}
foreach my $line (@wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ])
{
	my ($kind, $n, $id) = split /\|/, $line;
	diag "$kind: $rules[$n][0] over $docs[$id]";
}
is(scalar(@wrong), 0, "$nrules rules over $ndocs documents are what SQL says");

my $share = $holding / ($nrules * $ndocs);
note sprintf('%d pairs, %.0f %% hold', $nrules * $ndocs, 100 * $share);
cmp_ok($share, '>', 0.1, 'enough of them hold');
cmp_ok($share, '<', 0.9, 'enough of them do not');

$node->stop;
done_testing();
