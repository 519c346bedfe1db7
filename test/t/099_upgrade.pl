# ALTER EXTENSION UPDATE makes of each released version what a fresh installation
# is, with users' data in it; the library serves objects of older versions until
# then, and refuses newer ones.
#
# Released versions are those in sql/released.  So that this says something
# while there are none, and to try the comparison itself, versions are made up:
# their scripts are put beside the installed ones, and removed again.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudCatalog;
use AudTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $node = start_node('upgrade', no_extension => 1);
my $scripts = $node->config_data('--sharedir') . '/extension';
my @made;
my $ndatabases = 0;

plan skip_all => "$scripts cannot be written" unless -w $scripts;

# also where the test dies
END { unlink @made; }

# Puts a script beside the installed ones.
sub make_script
{
	my ($name, $text) = @_;
	my $path = "$scripts/audience_manager--$name.sql";

	die "$path is there already" if -e $path && !grep { $_ eq $path } @made;
	push @made, $path;
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	close $file;
	return;
}

# A text with one place changed, which must be there.
sub change
{
	my ($text, $from, $to) = @_;
	my $at = index $text, $from;

	die "not found: $from" if $at < 0 || index($text, $from, $at + 1) >= 0;
	substr $text, $at, length $from, $to;
	return $text;
}

# A new database with a version of the extension.
sub database
{
	my ($version) = @_;
	my $db = 'd' . ++$ndatabases;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION audience_manager' . (defined $version ? " VERSION '$version'" : ''));
	return $db;
}

# What a fresh installation of a version is like.
my %fresh;
sub fresh_catalog
{
	my ($version) = @_;
	return $fresh{$version} //= [ catalog_of($node, database($version)) ];
}

my $now = "SET audience.now = '2026-03-01T12:00:00Z';";

# Definitions and users: what every version since the first knows.
my $fill = <<"SQL";
$now
SELECT audience.trait_create('logins', 'count', 'login', time_window => '7 days');
SELECT audience.trait_create('items', 'count_distinct', 'purchase', 'item');
SELECT audience.segment_create('Spenders', 'totalSpent > 100.5', description => 'rich');
SELECT audience.segment_create('Lately', 'count(login, LAST ''2 days'') >= 1');
SELECT audience.segment_create('Both', 'IN SEGMENT ''spenders'' AND NOT IN SEGMENT ''lately''');
SELECT audience.segment_create('Items', 'items >= 2 OR SEQUENCE(login, purchase WITHIN ''1 day'')');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1', 'listed only']);
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
SELECT 'u' || n % 50, timestamptz '2026-03-01 12:00Z' - n * interval '7 hours', 'e' || n, (ARRAY['login', 'purchase', 'view'])[1 + n % 3],
	jsonb_build_object('amount', n % 60 + 0.25, 'item', (ARRAY['a1', 'a2', 'b'])[1 + n % 3])
FROM generate_series(1, 500) n;
SELECT audience.profile_set('u' || n, jsonb_build_object('country', 'DE', 'n', n)) FROM generate_series(1, 10) n;
SELECT audience.profile_merge('u7', 'u8');
SELECT audience.segment_update('spenders', rules => 'totalSpent > 200');
CREATE TABLE public.uses (rule audience.rule, hit bool GENERATED ALWAYS AS (audience.rule_holds('{"a":2}', rule)) STORED);
INSERT INTO public.uses VALUES ('{"field":"a","operator":"gt","value":1}');
CREATE INDEX ON public.uses (rule);
SQL

# Uses it, so that an old state is read and written.
sub use_it
{
	my ($db, $key, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql($db, <<"SQL"), "new$key\nt", "$label: events and timers go on");
$now
SELECT FROM audience.events_ingest('[{"userId":"u20","eventType":"purchase","eventId":"$key","properties":{"amount":5000}},{"userId":"new$key","eventType":"purchase","eventId":"$key","properties":{"amount":5000}}]');
SELECT user_id FROM audience.memberships WHERE segment_id = 'spenders' AND user_id = 'new$key';
SET audience.now = '2026-03-02T12:00:00Z';
SELECT audience.run_due() >= 0;
SQL
	verify_empty($node, "$label: verify() finds no difference", $db);
	return;
}

# Updates a database while others ingest, who see no error.
sub update_under_load
{
	my ($from, $to) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $db = database($from);
	my $path = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
	my $count = 'SELECT count(*) FROM audience.events WHERE event_type = \'load\'';

	append_to_file($path, "INSERT INTO audience.events (user_id, event_type) SELECT 'l' || (random() * 50)::int, 'load' FROM generate_series(1, 3);\nSELECT audience.profile_set('l1', '{}');\n");
	$node->safe_psql($db, $fill);
	my $load = start_load($node, [$path], db => $db);
	$node->poll_query_until($db, "SELECT ($count) > 100") or die "nobody ingests: $load->{err}";
	my ($status, undef, $error) = $node->psql($db, "ALTER EXTENSION audience_manager UPDATE TO '$to'");
	is($error, '', "$from to $to, while others ingest");
	my $before = $node->safe_psql($db, $count);
	ok($node->poll_query_until($db, "SELECT ($count) > $before + 100"), 'who go on');
	end_load($load, "$from to $to");
	verify_empty($node, "$from to $to, while others ingest: verify() finds no difference", $db);
	return;
}

# What users see.
sub contents
{
	my ($db) = @_;
	return join "\n--\n", map { $node->safe_psql($db, $_) }
	  'SELECT name, aggregate, event_type, property, filter, time_window FROM audience.traits ORDER BY name',
	  'SELECT id, name, type, rules, description, active, status, version FROM audience.segments ORDER BY id',
	  'SELECT user_id, occurred_at, event_id, event_type, properties, context FROM audience.events ORDER BY user_id, occurred_at, event_id',
	  'SELECT user_id, audience.profile_get(user_id) FROM audience.profiles ORDER BY user_id',
	  'SELECT segment_id, user_id, entered_at, source FROM audience.memberships ORDER BY segment_id, user_id',
	  'SELECT user_id, segment_id, action, reason, occurred_at, event_id, segment_version FROM audience.transitions ORDER BY user_id, seq',
	  'SELECT user_id, due_at FROM audience.timers ORDER BY user_id', 'SELECT rule, hit FROM public.uses';
}

# The options of a database's tables and rows that pg_dump would write.
sub dump_of
{
	my ($db) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . "/$db.sql";

	PostgreSQL::Test::Utils::system_or_bail($node->installed_command('pg_dump'), '-h', $node->host, '-p', $node->port, '-f', $path, $db);
	# newer ones have a key of their own in it
	return slurp_file($path) =~ s/^\\(un)?restrict .*\n//gmr =~ s/^(COPY audience\.\w+ )\(.*?\) /$1/gmr;
}

# Updates a database with data from one version to another, which must be as if
# installed.  "lacks" => a pattern: the comparison must find that.
sub update
{
	my ($from, $to, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $label = "$from to $to";
	my $db = database($from);

	$node->safe_psql($db, $fill);
	use_it($db, 'before', "$label, the library first") unless $option{lacks};
	my $session = $node->background_psql($db);
	$session->query_safe("SET audience.now = '2026-03-02T12:00:00Z'");
	$session->query_safe(q{INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u1', 'login', 'there before')});
	my $loads = q{SELECT value FROM audience.engine_work() WHERE counter = 'definition_loads'};
	my $loaded = $session->query_safe($loads);
	my $before = contents($db);

	$node->safe_psql($db, "ALTER EXTENSION audience_manager UPDATE TO '$to'");
	is(contents($db), $before, "$label: the same is there");
	$session->query_safe(q{INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u1', 'login', 'there after')});
	cmp_ok($session->query_safe($loads), '>', $loaded, "$label: sessions that are there take notice") unless $option{lacks};
	$session->quit;

	my @differences = catalog_differences(fresh_catalog($to), [ catalog_of($node, $db) ]);
	if ($option{lacks})
	{
		like(join("\n", @differences), $option{lacks}, "$label: is found");
		return $db;
	}
	is(join("\n", @differences), '', "$label: all objects are as in a fresh installation");
	use_it($db, 'after', "$label, updated");

	# and so is what a dump of both holds, with the same in them
	my $second = database($to);
	$node->safe_psql($second, $fill);
	my @tables = dump_of($db) =~ /^(COPY audience\.\w+)/gm;
	is_deeply(\@tables, [ dump_of($second) =~ /^(COPY audience\.\w+)/gm ], "$label: a dump takes the same tables");
	is((dump_of($db) =~ /^(ALTER|GRANT|REVOKE|COMMENT) .*audience\..*$/gm)[0], undef, "$label: and nothing of the extension but its rows");
	$node->safe_psql('postgres', "DROP DATABASE $second");
	return $db;
}

#
# one version in three places
#
my $version = $node->safe_psql('postgres', q{SELECT default_version FROM pg_available_extensions WHERE name = 'audience_manager'});
my ($in_makefile) = slurp_file("$top/Makefile") =~ /^EXTVERSION = (\S+)$/m;
my ($in_library) = slurp_file("$top/src/version.h") =~ /^#define AUD_VERSION\s+"(.*)"$/m;
is($in_makefile, $version, 'the Makefile has the version of the control file');
is($in_library =~ s/^(\d+\.\d+).*/$1/r, $version =~ s/^(\d+\.\d+).*/$1/r, 'and so has the library');

#
# released versions
#
my $current = slurp_file("$scripts/audience_manager--$version.sql");
my %released = map { m{--([^/]+)\.sql$} => slurp_file($_) } glob "$top/sql/released/audience_manager--*.sql";
note('released versions: ' . (join(', ', sort keys %released) || 'none'));
is($released{$version} // $current, $current, 'the install script of a released version is not changed');
ok($version eq '1.0' || exists $released{'1.0'}, 'the first version is kept');
make_script($_, $released{$_}) foreach grep { $_ ne $version } keys %released;
foreach my $old (sort grep { $_ ne $version } keys %released)
{
	isnt($node->safe_psql('postgres', "SELECT path FROM pg_extension_update_paths('audience_manager') WHERE source = '$old' AND target = '$version'"),
		'', "there is a way from $old to $version")
	  or next;
	update($old, $version);
	update_under_load($old, $version);
}
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT source, ', ') FROM pg_extension_update_paths('audience_manager') WHERE source ~ '^[0-9.]+\$' AND path IS NULL AND target = '$version' AND source <> '$version'"),
	'', 'no version has no way to the newest');

#
# a version made up, with a change of every kind
#
my ($begin, $end) = ("SELECT audience.definitions_lock();\n", "UPDATE audience.aggregates SET number = number WHERE false;\n");
my $next = "$version.1";

# [in the install script from, to, in the update script, what the comparison says without it]
my $note_table = <<'SQL';
CREATE SEQUENCE audience.note_seq AS integer INCREMENT 2;
CREATE TABLE audience.notes (id integer NOT NULL DEFAULT nextval('audience.note_seq') PRIMARY KEY, user_id text COLLATE "C" NOT NULL, note text DEFAULT 'x', CHECK (note <> '')) WITH (fillfactor = 90);
SQL
my $hello = "CREATE FUNCTION audience.hello(name text DEFAULT 'you') RETURNS text AS \$\$ SELECT 'hello ' || name \$\$ LANGUAGE sql STABLE STRICT PARALLEL SAFE COST 7 SET search_path = pg_catalog, pg_temp;\n";
my $users_sql = 'CREATE FUNCTION audience.user_segments(';
my ($user_segments) = $current =~ /^(\Q$users_sql\E.*?^\$\$ LANGUAGE[^;]*;\n)/ms or die 'no user_segments';
my $user_segments_new = $user_segments =~ s/\bSTABLE\b/STABLE COST 123/r =~ s/AS \$\$/AS \$\$\n\t-- another body/r;
my ($segments_table) = $current =~ /^(CREATE TABLE audience\.segments \(.*?^\);\n)/ms or die 'no segments';
my $privileges = '-- Privileges: what PUBLIC keeps';

my @changes = (
	[ undef, $note_table, $note_table, qr/^- member: table audience\.notes/m ],
	[ undef, 'ALTER SEQUENCE audience.note_seq OWNED BY audience.notes.id;', undef, qr/^- sequence audience\.note_seq:.*notes/m ],
	[ undef, 'CREATE INDEX notes_idx ON audience.notes (user_id) WHERE note IS NOT NULL;', undef, qr/^- index: .*notes_idx/m ],
	[ undef, q{COMMENT ON TABLE audience.notes IS 'notes';}, undef, qr/^- comment on table audience\.notes: notes$/m ],
	[ undef, q{COMMENT ON COLUMN audience.notes.note IS 'a note';}, undef, qr/^- comment on column note of table audience\.notes: a note$/m ],
	[ undef, q{SELECT pg_catalog.pg_extension_config_dump('audience.notes', 'WHERE note IS NOT NULL');}, undef, qr/^- dumped: audience\.notes WHERE note IS NOT NULL$/m ],
	[ undef, q{SELECT pg_catalog.pg_extension_config_dump('audience.note_seq', '');}, undef, qr/^- dumped: audience\.note_seq/m ],
	[ undef, q{CREATE TRIGGER notes_guard BEFORE TRUNCATE ON audience.notes FOR EACH STATEMENT EXECUTE FUNCTION audience.truncate_guard();}, undef, qr/^- trigger: .*notes_guard/m ],
	[ undef, 'ALTER TABLE audience.notes ENABLE ALWAYS TRIGGER notes_guard;', undef, qr/^- trigger: .*notes_guard.*enabled A/m ],
	[ undef, 'CREATE VIEW audience.all_notes WITH (security_barrier) AS SELECT * FROM audience.notes;', undef, qr/^- view audience\.all_notes/m ],
	[ undef, 'GRANT SELECT ON audience.all_notes TO pg_monitor;', undef, qr/^- privileges from the start on view audience\.all_notes/m ],
	[ undef, $hello, undef, qr/^- function audience\.hello/m ],
	[ undef, q{COMMENT ON FUNCTION audience.hello(text) IS 'greets';}, undef, qr/^- comment on function audience\.hello/m ],
	# the install script does that for all functions there are
	[ undef, '', 'REVOKE ALL ON FUNCTION audience.hello(text) FROM PUBLIC;', qr/^- function audience\.hello.*privileges postgres=X.postgres\n/m ],
	[ undef, '', 'REVOKE ALL ON audience.notes, audience.all_notes FROM PUBLIC; REVOKE ALL ON SEQUENCE audience.note_seq FROM PUBLIC;', qr/^- audience\.notes: .*privileges postgres=/m ],
	[ $user_segments, $user_segments_new, $user_segments_new =~ s/^CREATE/CREATE OR REPLACE/r, qr/^- function audience\.user_segments.*another body/m ],
	[ $segments_table, $segments_table =~ s/\tpending_reason text,\n/\tpending_reason text,\n\tcolour text NOT NULL DEFAULT 'grey' CHECK (colour <> ''),\n/r,
		q{ALTER TABLE audience.segments ADD COLUMN colour text NOT NULL DEFAULT 'grey' CHECK (colour <> '');}, qr/^- audience\.segments, column 14: colour/m ],
	[ undef, q{COMMENT ON COLUMN audience.segments.colour IS 'for people';}, undef, qr/^- comment on column colour of table audience\.segments/m ],
	[ ') WITH (fillfactor = 80);', ') WITH (fillfactor = 75);', 'ALTER TABLE audience.event_bases SET (fillfactor = 75);', qr/^- audience\.event_bases: .*fillfactor=75/m ],
	[ undef, 'ALTER TABLE audience.traits ALTER property SET STATISTICS 500, ALTER event_type SET STORAGE EXTERNAL;', undef, qr/^- audience\.traits, column 4: .*statistics 500/m ],
	[ undef, 'ALTER FUNCTION audience.segment_id(text) SET work_mem = \'1MB\';', undef, qr/^- function audience\.segment_id.*work_mem/m ],
	[ undef, q{UPDATE audience.traits SET aggregate_number = 2 WHERE name = 'eventCount';}, undef, undef ],
	[ "COMMENT ON SCHEMA audience IS 'audience_manager: events, traits, rules, segments and memberships';", "COMMENT ON SCHEMA audience IS 'another';", "COMMENT ON SCHEMA audience IS 'another';", qr/^- comment on schema audience: another$/m ],
);
my $install = $current;
my $appended = '';
foreach my $one (@changes)
{
	if (defined $one->[0]) { $install = change($install, $one->[0], $one->[1]); }
	else { $appended .= "$one->[1]\n"; }
	$one->[2] //= $one->[1];
}
# privileges come last, as they do
make_script($next, change($install, $privileges, "-- made up\n$appended$privileges"));
make_script("$version--$next", join "\n", $begin, (map { $_->[2] } @changes), $end);
my $db = update($version, $next);
update_under_load($version, $next);
is($node->safe_psql($db, q{SELECT audience.hello(), (SELECT string_agg(DISTINCT colour, ' ') FROM audience.segments)}), 'hello you|grey', 'the new version is what it should be');

# a script that misses one of the changes (and what needs it) is found
{
	my %need = (0 => [ 1 .. 10, 14 ], 11 => [ 12, 13 ], 7 => [8], 9 => [ 10, 14 ], 16 => [17]);
	my @rounds = (
		# what nothing else needs
		[ grep { my $i = $_; defined $changes[$i][3] && !$need{$i} } 0 .. $#changes ],
		# what something else needs, with that
		map { [ $_, @{ $need{$_} } ] } sort { $a <=> $b } keys %need);

	foreach my $round (@rounds)
	{
		my %left_out = map { $_ => 1 } @$round;
		make_script("$version--$next", join "\n", $begin, (map { $changes[$_][2] } grep { !$left_out{$_} } 0 .. $#changes), $end);
		my $short = database($version);
		$node->safe_psql($short, "ALTER EXTENSION audience_manager UPDATE TO '$next'");
		my $differences = join "\n", catalog_differences(fresh_catalog($next), [ catalog_of($node, $short) ]), '';
		# the privileges of what is not there at all are not told of
		like($differences, $changes[$_][3], "missing, and found: " . substr($changes[$_][2] =~ s/\n.*//sr, 0, 100))
		  foreach grep { defined $changes[$_][3] } @$round;
		$node->safe_psql('postgres', "DROP DATABASE $short");
	}
}

# one that does too much
make_script("$version--$next", join "\n", $begin, (map { $_->[2] } @changes), 'CREATE TABLE audience.left_over (i int); GRANT SELECT ON audience.segments TO PUBLIC; ALTER TABLE audience.notes ADD gone int; ALTER TABLE audience.notes DROP gone;', $end);
update($version, $next, lacks => qr/^\+ audience\.notes, column 4: .*dropped t.*^\+ audience\.segments: .*=r.postgres.*^\+ member: table audience\.left_over/ms);

#
# objects that are older than the library, which are not updated yet
#
make_script('0.9', change($current, "\tpending_reason text,\n", '') =~ s/^COMMENT ON COLUMN audience\.segments\.pending_reason.*?;\n//msr);
make_script("0.9--$version", "${begin}ALTER TABLE audience.segments ADD COLUMN pending_reason text;\nCOMMENT ON COLUMN audience.segments.pending_reason IS 'reason of that fill''s transitions';\n$end");
$db = database('0.9');
my (undef, undef, $error) = $node->psql($db, "\\set VERBOSITY verbose\nINSERT INTO audience.events (user_id, event_type) VALUES ('u', 'login')");
like($error, qr/55000: table "segments" has no column "pending_reason"\nHINT:  .*run ALTER EXTENSION audience_manager UPDATE/, 'what the library misses of older objects it says');
$node->safe_psql($db, 'ALTER EXTENSION audience_manager UPDATE');
$node->safe_psql($db, $fill);
use_it($db, 'updated', 'updated then');

make_script('0.8', $current =~ s/\tentries bytea,\n\tmessage json,\n/\tentries bytea,\n/r =~ s/^COMMENT ON COLUMN audience\.kafka_outbox\.message .*?;\n//msr =~ s/^CREATE FUNCTION audience\.kafka_outbox_messages\(.*?(?=^CREATE )//msr);
$db = database('0.8');
$node->safe_psql($db, <<'SQL');
INSERT INTO audience.segment_numbers VALUES (1, 'all');
INSERT INTO audience.segments (id, name, type, rules, number) VALUES ('all', 'All', 'dynamic', 'count() >= 1', 1);
INSERT INTO audience.kafka_sinks (id, cluster, topic, stream) VALUES ('t', 'main', 't', 'transitions');
SQL
(undef, undef, $error) = $node->psql($db, "\\set VERBOSITY verbose\nINSERT INTO audience.events (user_id, event_type) VALUES ('u', 'login')");
like($error, qr/55000: table "kafka_outbox" lacks columns\nHINT:  .*run ALTER EXTENSION audience_manager UPDATE/, 'also of tables that are written without statements');

#
# objects that are newer than the library: a session that was there before
#
my ($major, $minor) = $version =~ /^(\d+)\.(\d+)/;
my $newer = "$major." . ($minor + 1);
make_script("$version--$newer", "$begin$end");
make_script("$newer--$version", "$begin$end");
$db = database();
$node->safe_psql($db, $fill);
my $session = $node->background_psql($db);
$session->query_safe(q{INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u1', 'login', 'before')});
$node->safe_psql($db, "ALTER EXTENSION audience_manager UPDATE TO '$newer'");
is($session->query_safe(<<'SQL'), "55000 library of extension \"audience_manager\" is older than its objects in this database", 'a session with an older library is refused');
DO $$ BEGIN INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'login'); RAISE EXCEPTION 'none';
EXCEPTION WHEN object_not_in_prerequisite_state THEN PERFORM set_config('my.error', SQLSTATE || ' ' || SQLERRM, false); END $$; SELECT current_setting('my.error');
SQL
$session->quit;
(undef, undef, $error) = $node->psql($db, "SELECT audience.segment_create('More', 'true')");
like($error, qr/DETAIL:  The library is of version \Q$in_library\E, the objects are of version \Q$newer\E\.\nHINT:  Reconnect/, 'and is told which versions there are');
$node->safe_psql($db, "ALTER EXTENSION audience_manager UPDATE TO '$version'");
use_it($db, 'back', 'objects of the library\'s version again');

$node->stop;
done_testing();
