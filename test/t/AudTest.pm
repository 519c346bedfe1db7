# AudTest: what the TAP tests of audience_manager share.
#
# A test that uses it starts a server of its own with start_node(), fills it,
# and ends with verify_empty(), the recomputation of everything from the
# events, and replay_ok(), the history against the memberships.
#
# Test data that is not part of the source is read from the directory that
# AUD_SHARED names (default: ../shared beside the source).  Where it is
# missing, shared_or_skip() skips the file and says so.
package AudTest;

use strict;
use warnings;

use Exporter 'import';
use IO::Uncompress::Gunzip qw($GunzipError);
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  start_node verify_empty replay_ok replay_sql
  shared_or_skip read_csv read_jsonl
  quote copy_rows rows_of run_script env_number
  try_psql start_load end_load);

# Starts a server with the extension in database "postgres" and returns its
# node.  Options: conf => more lines for postgresql.conf; no_extension => 1;
# initdb => more arguments of it; install_path => another PostgreSQL, where
# defined.
sub start_node
{
	my ($name, %option) = @_;
	my @path = defined $option{install_path} ? (install_path => $option{install_path}) : ();
	my $node = PostgreSQL::Test::Cluster->new($name, @path);

	$node->init(extra => [ '--encoding=UTF8', '--locale=C', @{ $option{initdb} // [] } ]);
	$node->append_conf(
		'postgresql.conf', "
audience.strict = on
timezone = 'UTC'
datestyle = 'ISO, MDY'
jit = off
autovacuum = off
" . ($option{conf} // ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION audience_manager')
	  unless $option{no_extension};
	return $node;
}

# The whole of verify() must be empty; what it lists is shown where it is not.
sub verify_empty
{
	my ($node, $label, $db) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $node->safe_psql(
			$db // 'postgres',
			'SELECT * FROM audience.verify() LIMIT 20'),
		'',
		$label // 'verify() finds no difference');
	return;
}

# A query without rows where the history, replayed, gives the memberships and
# each membership was entered and left in turns.
sub replay_sql
{
	return <<'SQL';
WITH history AS (
	SELECT user_id, segment_id, action, seq,
		lag(action) OVER own AS before,
		lead(seq) OVER own IS NULL AS is_last
	FROM audience.transitions
	WINDOW own AS (PARTITION BY user_id, segment_id ORDER BY seq)),
replayed AS (
	SELECT user_id, segment_id FROM history WHERE is_last AND action = 'added'),
stored AS (
	SELECT user_id, segment_id FROM audience.memberships)
SELECT 'in history only', * FROM (TABLE replayed EXCEPT TABLE stored) a
UNION ALL
SELECT 'in memberships only', * FROM (TABLE stored EXCEPT TABLE replayed) b
UNION ALL
SELECT 'not in turns', user_id, segment_id FROM history
WHERE action = coalesce(before, 'removed')
SQL
}

# Replaying the history gives the memberships.
sub replay_ok
{
	my ($node, $label, $db) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is( $node->safe_psql($db // 'postgres', replay_sql() . ' LIMIT 20'),
		'', $label // 'the history replayed is the memberships');
	return;
}

# The path of a file of test data; skips the whole test where it is not there.
sub shared_or_skip
{
	my (@names) = @_;
	my $dir = $ENV{AUD_SHARED} // '../shared';
	my @paths = map { "$dir/data/$_" } @names;

	foreach my $path (@paths)
	{
		plan skip_all => "no test data at $path (set AUD_SHARED)"
		  unless -r $path;
	}
	return wantarray ? @paths : $paths[0];
}

# The lines of a file, unpacked where its name ends in .gz, without line ends.
sub read_lines
{
	my ($path) = @_;
	my $file = IO::Uncompress::Gunzip->new($path, Transparent => 1)
	  or die "could not open $path: $GunzipError";
	my @lines;

	while (defined(my $line = $file->getline))
	{
		$line =~ s/[\r\n]+\z//;
		push @lines, $line;
	}
	return @lines;
}

# A CSV file with a head line and no quoted commas, as hashes by column name.
sub read_csv
{
	my ($path) = @_;
	my ($head, @lines) = read_lines($path);
	my @columns = split /,/, $head;
	my @rows;

	foreach my $line (@lines)
	{
		my %row;
		@row{@columns} = split /,/, $line, -1;
		push @rows, \%row;
	}
	return @rows;
}

# A file of one JSON document a line, as text.
sub read_jsonl
{
	my ($path) = @_;
	return grep { length } read_lines($path);
}

# A text as an SQL literal.
sub quote
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	my $escaped = $text =~ s/'/''/gr;
	return $escaped =~ /\\/ ? "E'" . ($escaped =~ s/\\/\\\\/gr) . "'" : "'$escaped'";
}

# A COPY of rows (array references) into a table with its column list.
sub copy_rows
{
	my ($table, @rows) = @_;
	my $sql = "COPY $table FROM STDIN;\n";

	foreach my $row (@rows)
	{
		my @fields = @$row;
		foreach my $field (@fields)
		{
			if (!defined $field) { $field = '\N'; next; }
			$field =~ s/\\/\\\\/g;
			$field =~ s/\t/\\t/g;
			$field =~ s/\n/\\n/g;
			$field =~ s/\r/\\r/g;
		}
		$sql .= join("\t", @fields) . "\n";
	}
	return "$sql\\.\n";
}

# The rows of a query as array references of text; a null is ''.
sub rows_of
{
	my ($node, $sql, $db) = @_;
	my $out = $node->safe_psql($db // 'postgres', $sql);
	return map { [ split /\|/, $_, -1 ] } split /\n/, $out;
}

# Runs a script of any size, by way of a file: psql would otherwise stop
# reading at an error while we still write.  Returns what it printed; dies with
# the error of one that fails, or in list context returns (status, output,
# error).
sub run_script
{
	my ($node, $sql, $db) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/script.sql';

	append_to_file($path, $sql);
	my ($status, $out, $error) = $node->psql($db // 'postgres', "\\i $path");
	return ($status, $out, $error) if wantarray;
	die substr($error, 0, 2000) if $status != 0;
	return $out;
}

# As $node->psql, where the server may go down or come up: the status is 2, too, where
# psql has ended before it had read the statement.
sub try_psql
{
	my ($node, $db, $sql, %option) = @_;
	my @result = eval { $node->psql($db, $sql, %option) };

	return @result if @result;
	die $@ unless $@ =~ /Broken pipe/;
	return (2, '', $@);
}

# Sessions that do the same again and again, by pgbench, until end_load().  "scripts":
# pgbench's own, each perhaps with a weight ("...@9").  Options: db; clients;
# rate => so many a second, of all of them; as fast as they can without; log =>
# prefix of pgbench's logs, which lack the end of the last line or lines.  Returns
# when each has begun.
sub start_load
{
	my ($node, $scripts, %option) = @_;
	my %load = (out => '', err => '');
	my $clients = $option{clients} // 3;
	my $db = $option{db} // 'postgres';

	$load{handle} = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', $clients, '-T', '900',
			(defined $option{rate} ? ('-R', $option{rate}) : ()),
			(defined $option{log} ? ('-l', "--log-prefix=$option{log}") : ()), (map { ('-f', $_) } @$scripts),
			$node->connstr($db) . ' application_name=pgbench'
		],
		'>', \$load{out}, '2>', \$load{err});
	$node->poll_query_until($db, "SELECT count(*) = $clients FROM pg_stat_activity WHERE application_name = 'pgbench' AND query <> ''")
	  or die "pgbench does nothing: $load{err}";
	return \%load;
}

# Ends it; none of its sessions may have seen an error.
sub end_load
{
	my ($load, $label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$load->{handle}->signal('TERM');
	$load->{handle}->finish;
	is($load->{err} =~ s/^(pgbench: (warning|hint)|pgbench \().*\n?//gmr, '', "$label: who ingests sees no error");
	return;
}

# A number from the environment, for the sizes and seeds of random tests.
sub env_number
{
	my ($name, $default) = @_;
	my $value = $ENV{$name};
	return defined $value && $value =~ /\A[0-9]+\z/ ? $value + 0 : $default;
}

1;
