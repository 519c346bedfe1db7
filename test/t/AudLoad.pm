# AudLoad: many sessions that do everything at once, and what the server has
# confirmed to each of them.
#
# A load belongs to a database.  start() forks clients, each with a session (a
# psql, driven statement by statement) that does random work and writes down
# what it is about to do and what the server has said to that.  finish()
# waits for them and reads these notes into a model of what must be in the
# database: what was confirmed is there, what was refused is not, and what was
# neither, because the session was lost, is there as a whole or not at all.
# differences() compares the model with the database, which also settles what
# was open.
#
# What is told of in a note:
#   events	those of one transaction, there together or not at all
#   attribute	one that only this client sets, to a number that rises
#   segment	a definition that only this client changes; its description is new
#			each time
#   trait		likewise, there or not
#   erase		a user that only this client erases: its events before are gone
#
# Users: s0 to s11 are everybody's.  m0 to m4 are merged into one another.
# e0 to e9 are each a client's to erase; others ingest for them as well.
package AudLoad;

use strict;
use warnings;

use IO::Handle;
use IPC::Open2;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time sleep);

use AudTest;
use AudWorkers;

my $json = JSON::PP->new->canonical;

# settings of a server for loads: what happens now and then happens often
our $conf = worker_conf() . <<'CONF';
max_prepared_transactions = 30
audience.worker_naptime = 1
audience.max_distinct_values = 8
min_parallel_table_scan_size = 0
parallel_setup_cost = 0
autovacuum = on
autovacuum_naptime = 1s
autovacuum_vacuum_threshold = 20
autovacuum_vacuum_scale_factor = 0.1
log_statement = none
log_line_prefix = '%m [%p] %a '
CONF

# what a statement may be refused with, whatever the others do
my %expected_error = map { $_ => 1 } (
	'40001',    # serialization, but not at READ COMMITTED; in the stress test, it is tried again
	'40P01',    # deadlock: counted
	'55P03',    # definitions are busy
	'57014',    # the test has canceled it
	'22008',    # an event before the watermark of retention
	'2BP01',    # referred to
	'42704',    # a user or segment that is gone
	'42710',    # a trait whose name is taken by one that was open
	'42P17');   # a cycle

# A load for a database of a node.  Options: seed; dir for the notes; wait =>
# audience.definition_wait of the clients; retry => serialization failures are
# tried again; clients => how many of each kind; maintenance => what may be done
# to a table besides VACUUM and VACUUM FULL; crowd => users whom nobody else
# knows, so that fills take several steps.
sub new
{
	my ($class, %option) = @_;
	my $self = bless {
		db => 'postgres', seed => 1, retry => 0, wait => '1s', maintenance => [], crowd => 1000,
		clients => { ingest => 4, define => 2, care => 2 },
		%option,
		groups => {}, attributes => {}, segments => {}, traits => {},
		counts => {}, done => 0, unexpected => [], runs => 0, running => []
	}, $class;
	$self->{dir} //= PostgreSQL::Test::Utils::tempdir();
	return $self;
}

# The definitions that are there from the start, and retention.
sub prepare
{
	my ($self, $node) = @_;
	my $db = $self->{db};

	$node->safe_psql($db, <<"SQL");
SELECT audience.trait_create('buys', 'count', 'purchase');
SELECT audience.trait_create('pages', 'count_distinct', 'view', 'page');
SELECT audience.segment_create('Spenders', 'totalSpent >= 200', id => 'spenders');
SELECT audience.segment_create('Lately', 'count(view, LAST ''2 seconds'') >= 3', id => 'lately');
SELECT audience.segment_create('Quiet', 'count(*, LAST ''1.5 seconds'') = 0 AND NOT IN SEGMENT ''lately''', id => 'quiet');
SELECT audience.segment_create('Left', 'SEQUENCE(view, NOT purchase WITHIN ''1 second''; LAST ''4 seconds'')', id => 'left');
SELECT audience.segment_create('Active', 'lastActivity WITHIN LAST ''0.7 seconds''', id => 'active');
SELECT audience.segment_create('Odd', 'buys >= 5 AND NOT IN SEGMENT ''spenders''', id => 'odd');
SELECT audience.segment_create('Rated', 'any >= 20 OR a4 >= 10', id => 'rated');
SELECT audience.segment_create('List', type => 'static', id => 'list');
INSERT INTO audience.events (user_id, occurred_at, event_type, properties)
SELECT 'c' || n, now() - interval '5 minutes' + k * interval '1 minute', (ARRAY['view', 'purchase'])[1 + n % 2], '{"page":1,"amount":30}'
FROM generate_series(1, $self->{crowd}) n, generate_series(1, 2) k;
VACUUM ANALYZE audience.events, audience.profiles;
ALTER DATABASE "$db" SET audience.event_retention = '10min';
ALTER DATABASE "$db" SET audience.transition_retention = '1min';
SQL
	return;
}

# ---------------------------------------------------------------------------
# clients

# Starts the clients, which work for so many seconds, or until their session ends.
sub start
{
	my ($self, $node, $seconds, %option) = @_;
	my $number = 0;
	my $run = ++$self->{runs};

	unlink $self->stop_file;
	foreach my $kind (sort keys %{ $self->{clients} })
	{
		foreach (1 .. $self->{clients}{$kind})
		{
			my $client = $number++;
			my $notes = "$self->{dir}/$self->{db}_${run}_$client";
			my $pid = fork() // die "could not fork: $!";

			if ($pid == 0)
			{
				# nothing of the test's own ends may run here
				eval { $self->client_main($node, $client, $kind, $notes, time + $seconds, %option); };
				print STDERR "client $client: $@" if $@;
				POSIX::_exit($@ ? 1 : 0);
			}
			push @{ $self->{running} }, { pid => $pid, client => $client, kind => $kind, notes => $notes };
		}
	}
	return;
}

sub pick { return $_[ int rand @_ ] }

# A client's life.
sub client_main
{
	my ($self, $node, $client, $kind, $notes, $until, %option) = @_;
	my $seed = ($self->{seed} * 1_000_003 + $self->{runs} * 1009 + $client * 17) % 2**31;
	my %weights;

	srand($seed);
	$self->{client} = $client;
	$self->{id} = "$self->{runs}_$client";
	$self->{n} = 0;
	open $self->{notes}, '>', $notes or die "$notes: $!";
	$self->{level} = $option{level} // pick(('read committed') x 4, 'repeatable read', 'serializable');
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=' . ($self->{level} =~ s/ /\\ /gr)
	  . " -c audience.definition_wait=$self->{wait}";
	local $ENV{PGAPPNAME} = "load $kind $client";
	open STDERR, '>>', "$self->{dir}/$self->{db}_psql.err" or die $!;
	local $SIG{PIPE} = 'IGNORE';
	$self->connect($node);
	$self->note_down('level', 0, $self->{level});

	if ($kind eq 'ingest')
	{
		%weights = (one => 6, many => 6, copy => 4, event_ingest => 4, events_ingest => 4, profile_set => 4,
			profiles_set => 2, transaction => 4, prepared => $option{prepared} // 1, old => 2, list => 1);
	}
	elsif ($kind eq 'define')
	{
		%weights = (segment => 10, trait => 3, refresh => 3, many => 1, undone => 2, prepared_segment => $option{prepared} // 1);
	}
	else
	{
		%weights = (run_due => 6, rebuild => 3, rebuild_all => 1, retention => 6, merge => 4, erase => 3, many => 2, refresh => 1, vacuum => 1);
	}
	delete @weights{qw(transaction prepared undone)} if $option{single};
	my @work = map { ($_) x $weights{$_} } sort keys %weights;
	while (time < $until)
	{
		my $method = 'do_' . pick(@work);
		# a session that the test has ended is followed by another, but none by one
		# of a server that was started anew
		last if !$self->$method && (-e $self->stop_file || !$self->connect($node) || -e $self->stop_file);
		my $pause = $option{pause} // 0.01;
		sleep rand($pause) if $pause > 0;
	}
	close $self->{in};
	return;
}

# Begins a session; false if there is none to be had.
sub connect
{
	my ($self, $node) = @_;

	close $self->{in} if $self->{in};
	waitpid $self->{psql}, 0 if $self->{psql};
	$self->{psql} = open2($self->{out}, $self->{in}, $node->installed_command('psql'),
		'-X', '-q', '-At', '-v', 'ON_ERROR_STOP=0', $self->{db});
	$self->{in}->autoflush(1);
	return ($self->statement('SELECT 1;') // '') eq 'ok';
}

# While this file is there, a session that is lost is the client's last.
sub stop_file
{
	my ($self) = @_;
	return "$self->{dir}/stop";
}

# What happens to sessions from now on is what ends the run.
sub last_sessions
{
	my ($self) = @_;
	append_to_file($self->stop_file, '');
	return;
}

# Sends a statement and waits for the answer.  'ok', an SQLSTATE, or undef where
# the session is lost.
sub statement
{
	my ($self, $sql) = @_;
	my $out = $self->{out};

	print { $self->{in} } "$sql\n\\echo \@\@ :ERROR :SQLSTATE :LAST_ERROR_MESSAGE\n" or return;
	while (my $line = <$out>)
	{
		next unless $line =~ /^@@ (\w+) (\w*) ?(.*)$/;
		$self->{message} = $3;
		return 'ok' if $1 ne 'true';
		# psql may be there for a moment without a connection
		return $2 eq '' || $2 =~ /^(57P0|08)/ ? undef : $2;
	}
	return;
}

# Writes a note, as one piece.
sub note_down
{
	my ($self, @note) = @_;
	syswrite $self->{notes}, $json->encode(\@note) . "\n";
	return;
}

# Does something that is one statement or, in a transaction, several; false where
# the session is lost.  "facts" is what it comes to if it is confirmed.  In a
# comment each statement says whether it is alone in its transaction.
sub perform
{
	my ($self, $kind, $facts, @statements) = @_;
	my $alone = @statements == 1;
	my $answer;

	for (my $tries = 1;; $tries++)
	{
		my $n = $self->{n}++;

		$self->note_down('begin', $n, $kind, $facts);
		foreach my $sql ($alone ? @statements : ('BEGIN;', @statements))
		{
			$answer = $self->statement(($alone ? '/*alone*/ ' : '/*in a transaction*/ ') . $sql) // return 0;
			# prepared is prepared: the test may have canceled it
			for (my $more = 0; $answer ne 'ok' && $sql =~ /^COMMIT PREPARED/ && $more < 1000; $more++)
			{
				$answer = $self->statement($sql) // return 0;
			}
			last if $answer ne 'ok';
			if ($sql =~ /^PREPARE TRANSACTION '(.*)'/)
			{
				$self->note_down('prepared', $n, $1);
				sleep rand(0.05);
			}
		}
		if ($answer ne 'ok' && !$alone)
		{
			$self->statement('ROLLBACK;') // return 0;
		}
		$self->note_down('done', $n, $answer, $answer eq 'ok' ? () : $self->{message});
		last unless $self->{retry} && $answer eq '40001' && $tries < 1000;
		sleep rand(0.01);
	}
	$self->{last} = $answer;
	return 1;
}

sub instant
{
	my ($seconds) = @_;
	my $micros = int(($seconds - int($seconds)) * 1e6);
	return POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime(int($seconds))) . sprintf('.%06dZ', $micros);
}

# So many new events of any users, as [user, id, type, time, properties].
sub new_events
{
	my ($self, $n, %option) = @_;
	my $group = 'g' . $self->{id} . '_' . $self->{n};
	my @events;

	foreach my $k (1 .. $n)
	{
		my $user = $option{user} // pick((map { "s$_" } 0 .. 11) x 2, map { "m$_" } 0 .. 4);
		my $type = pick('view', 'view', 'purchase');
		my $at = time - (rand() < 0.5 ? rand(0.01) : rand(3));

		$at -= rand(1800) if $option{old};
		push @events, [ $user, "$group-" . ++$self->{nevents}, $type, instant($at),
			$json->encode($type eq 'purchase' ? { amount => int rand 20 } : { page => int rand 30 }) ];
	}
	# events of users whom somebody may erase are not told of
	push @events, [ 'e' . int rand 10, "x$self->{id}-" . ++$self->{nevents}, 'view', instant(time), '{}' ]
	  if $n > 1 && rand() < 0.2;
	return @events;
}

# What is told of events.
sub events_facts
{
	return { events => [ map { [ $_->[0], $_->[1], $_->[3] ] } grep { $_->[1] =~ /^g/ } @_ ] };
}

sub insert_sql
{
	return 'INSERT INTO audience.events (user_id, event_id, event_type, occurred_at, properties) VALUES '
	  . join(', ', map { '(' . join(', ', map { quote($_) } @$_) . ')' } @_) . ';';
}

sub event_json
{
	my ($event) = @_;
	return {
		userId => $event->[0], eventId => $event->[1], eventType => $event->[2],
		timestamp => $event->[3], properties => $json->decode($event->[4]) };
}

sub do_one
{
	my ($self) = @_;
	my @events = $self->new_events(1);
	return $self->perform('insert one', events_facts(@events), insert_sql(@events));
}

sub do_many
{
	my ($self) = @_;
	my @events = $self->new_events(2 + int rand 20);
	return $self->perform('insert', events_facts(@events), insert_sql(@events));
}

sub do_old
{
	my ($self) = @_;
	my @events = $self->new_events(1, old => 1);
	return $self->perform('insert old', events_facts(@events), insert_sql(@events));
}

sub do_copy
{
	my ($self) = @_;
	my @events = $self->new_events(2 + int rand 40);
	my $path = "$self->{dir}/$self->{db}_copy_$self->{client}";

	# psql would take rows for statements where a COPY from it is refused
	open my $file, '>', $path or die "$path: $!";
	print $file map { join("\t", @$_) . "\n" } @events;
	close $file;
	return $self->perform('copy', events_facts(@events),
		"COPY audience.events (user_id, event_id, event_type, occurred_at, properties) FROM '$path';");
}

sub do_event_ingest
{
	my ($self) = @_;
	my @events = $self->new_events(1);
	return $self->perform('event_ingest', events_facts(@events),
		'SELECT audience.event_ingest(' . quote($json->encode(event_json($events[0]))) . ');');
}

sub do_events_ingest
{
	my ($self) = @_;
	my @events = $self->new_events(2 + int rand 15);
	return $self->perform('events_ingest', events_facts(@events),
		'SELECT audience.events_ingest(' . quote($json->encode([ map { event_json($_) } @events ])) . ');');
}

# The next value of the attribute that only this client sets.
sub next_attribute
{
	my ($self, $user) = @_;
	my $key = "a$self->{client}";
	my $known = $self->{attributes}{"$user $key"} // { high => 0 };
	my $value = ($self->{mine}{"$user $key"} // $known->{high}) + 1;

	$self->{mine}{"$user $key"} = $value;
	return ($key, $value);
}

sub do_profile_set
{
	my ($self) = @_;
	my $user = 's' . int rand 12;
	my ($key, $value) = $self->next_attribute($user);
	return $self->perform('profile_set', { attributes => [ [ $user, $key, $value ] ] },
		"SELECT audience.profile_set('$user', '{\"$key\":$value,\"any\":$value}');");
}

sub do_profiles_set
{
	my ($self) = @_;
	my %users = map { ('s' . int rand 12) => 1 } 1 .. 4;
	my @facts = map { [ $_, $self->next_attribute($_) ] } sort keys %users;
	return $self->perform('profiles_set', { attributes => \@facts },
		'SELECT audience.profiles_set(' . quote($json->encode([ map { { userId => $_->[0], attributes => { $_->[1] => $_->[2] } } } @facts ])) . ');');
}

# Several statements that must be there together.
sub transaction_facts
{
	my ($self) = @_;
	my @first = $self->new_events(1 + int rand 5);
	my @second = $self->new_events(1 + int rand 5);
	my $user = 's' . int rand 12;
	my ($key, $value) = $self->next_attribute($user);
	return ({ %{ events_facts(@first, @second) }, attributes => [ [ $user, $key, $value ] ] },
		insert_sql(@first), "SELECT audience.profile_set('$user', '{\"$key\":$value}');",
		rand() < 0.3 ? ('SAVEPOINT s;', 'SELECT audience.run_due(3);', 'ROLLBACK TO s;') : (),
		insert_sql(@second));
}

sub do_transaction
{
	my ($self) = @_;
	my ($facts, @statements) = $self->transaction_facts;
	return $self->perform('transaction', $facts, @statements, 'COMMIT;');
}

sub do_prepared
{
	my ($self) = @_;
	my ($facts, @statements) = $self->transaction_facts;
	my $gid = "$self->{db} $self->{id} $self->{n}";
	return $self->perform('prepared', { %$facts, gid => $gid }, @statements,
		"PREPARE TRANSACTION '$gid';", "COMMIT PREPARED '$gid';");
}

sub do_list
{
	my ($self) = @_;
	my $verb = pick('add', 'add', 'remove');
	my $user = "l$self->{client}_" . int rand 4;
	return $self->perform('static list', { list => [ $user, $verb eq 'add' ? 1 : 0 ] },
		"SELECT audience.segment_$verb('list', ARRAY['$user', '$user']);");
}

# A rule of some kind.
sub random_rule
{
	my ($self) = @_;
	my $n = 1 + int rand 12;
	my $own = "d$self->{client}_" . int rand 4;
	return pick(
		"totalSpent >= " . 20 * $n, "buys >= $n", "pages >= $n", "count(view, LAST '$n seconds') >= 2",
		"sum(purchase.amount, LAST '5 seconds') > $n", "count_distinct(view.page) >= $n AND any > $n",
		"SEQUENCE(view, purchase WITHIN '$n seconds'; LAST '1 minute')", "lastActivity WITHIN LAST '$n seconds'",
		"a$n > 3 AND NOT IN SEGMENT 'odd'", "IN SEGMENT 'lately' OR IN SEGMENT '$own'", "t$self->{client}_1 > $n",
		"max(purchase.amount) > $n AND count(*, LAST '3 seconds') = 0", "NOT IN SEGMENT '$own' AND eventCount > $n");
}

# A change of one of this client's segments: its id, what it comes to, a statement.
sub segment_change
{
	my ($self) = @_;
	my $id = "d$self->{client}_" . int rand 4;
	my $known = $self->{segments}{$id};
	my $exists = $self->{defined}{$id} // ($known ? $known->{states}[-1] ne 'none' : 0);
	my $rule = $self->random_rule;
	my $mark = "mark $self->{id} $self->{n}";
	my $active = rand() < 0.85 ? 'true' : 'false';
	my $later = rand() < 0.6 ? 'later' : 'now';
	my $state = $json->encode([ $mark, $rule, $active ]);
	my $roll = rand();

	if (rand() < 0.25)
	{
		return ($id, $state, 'SELECT audience.segment_put(' . quote($json->encode({
			id => $id, name => $id, rules => $rule, description => $mark,
			active => $active eq 'true' ? JSON::PP::true : JSON::PP::false })) . ');');
	}
	if (!$exists)
	{
		return ($id, $state, "SELECT audience.segment_create('$id', " . quote($rule)
			  . ", id => '$id', description => '$mark', active => $active, refresh => '$later');");
	}
	if ($roll < 0.7)
	{
		return ($id, $state, "SELECT audience.segment_update('$id', rules => " . quote($rule)
			  . ", description => '$mark', active => $active, refresh => '$later');");
	}
	return ($id, 'none', "SELECT audience.segment_delete('$id');");
}

# Makes a change known to those that follow, if it was confirmed.
sub segment_changed
{
	my ($self, $id, $state) = @_;
	$self->{defined}{$id} = $state ne 'none' if $self->{last} eq 'ok';
	return 1;
}

sub do_segment
{
	my ($self) = @_;
	my ($id, $state, $sql) = $self->segment_change;
	$self->perform('definition', { segment => [ $id, $state ] }, $sql) or return 0;
	return $self->segment_changed($id, $state);
}

# A definition in a prepared transaction.
sub do_prepared_segment
{
	my ($self) = @_;
	my ($id, $state, $sql) = $self->segment_change;
	my $gid = "$self->{db} $self->{id} $self->{n}";
	$self->perform('prepared definition', { segment => [ $id, $state ] },
		$sql, "PREPARE TRANSACTION '$gid';", "COMMIT PREPARED '$gid';") or return 0;
	return $self->segment_changed($id, $state);
}

# Events under a definition that is then undone, and under the one before.
sub do_undone
{
	my ($self) = @_;
	my (undef, undef, $sql) = $self->segment_change;
	my @inside = $self->new_events(3);
	my @events = $self->new_events(1 + int rand 5);
	return $self->perform('undone definition', events_facts(@events),
		'SAVEPOINT s;', $sql, insert_sql(@inside), 'ROLLBACK TO s;', insert_sql(@events), 'COMMIT;');
}

sub do_trait
{
	my ($self) = @_;
	my $name = "t$self->{client}_" . int rand 3;
	my $known = $self->{traits}{$name};
	my $exists = $self->{has_trait}{$name} // ($known ? $known->{states}[-1] : 0);
	my $definition = pick("'count', 'view'", "'max', 'purchase', 'amount'", "'count', null, time_window => '2 seconds'",
		"'days_active'", "'sum', 'purchase', 'amount', 'amount > 5'");
	my $sql = $exists ? "SELECT audience.trait_drop('$name');" : "SELECT audience.trait_create('$name', $definition);";

	$self->perform('trait', { trait => [ $name, $exists ? 0 : 1 ] }, $sql) or return 0;
	$self->{has_trait}{$name} = $exists ? 0 : 1 if $self->{last} eq 'ok';
	return 1;
}

sub do_refresh
{
	my ($self) = @_;
	my $id = pick('spenders', 'lately', 'odd', map { my $c = $_; map { "d${c}_$_" } 0 .. 3 } $self->define_clients);
	return $self->perform('segment_refresh', {}, "CALL audience.segment_refresh('$id');");
}

# The numbers of the clients that define; they come after those that care.
sub define_clients
{
	my ($self) = @_;
	my $first = $self->{clients}{care};
	return $first .. $first + $self->{clients}{define} - 1;
}

sub do_run_due
{
	my ($self) = @_;
	return $self->perform('run_due', {}, 'SELECT audience.run_due(' . pick('', 1 + int rand 10) . ');');
}

sub do_rebuild
{
	my ($self) = @_;
	my $users = join ', ', map { "'" . pick('s', 'm', 'e') . int(rand 12) . "'" } 1 .. 4;
	return $self->perform('profile_rebuild', {}, "SELECT audience.profile_rebuild(ARRAY[$users]);");
}

sub do_rebuild_all
{
	my ($self) = @_;
	return $self->perform('profile_rebuild', {}, 'SELECT audience.profile_rebuild();');
}

# A step of retention.  A pass begins once an hour, so the last one is made to
# be long ago now and then.
sub do_retention
{
	my ($self) = @_;
	return $self->perform('retention', {}, q{UPDATE audience.retention SET started_at = '-infinity' WHERE position IS NULL;})
	  if rand() < 0.2;
	return $self->perform('retention', {}, 'SELECT audience.run_retention(' . (1 + int rand 40) . ');');
}

# What an administrator does to tables: rows move, and indexes are made anew.
sub do_vacuum
{
	my ($self) = @_;
	my $table = 'audience.' . pick('profiles', 'profiles', 'timers', 'events', 'transition_log');
	return $self->perform('vacuum', {}, pick(('VACUUM') x 4, 'VACUUM FULL', @{ $self->{maintenance} }) . " $table;");
}

sub do_merge
{
	my ($self) = @_;
	my $from = int rand 5;
	my $into = ($from + 1 + int rand 4) % 5;
	return $self->perform('profile_merge', {}, "SELECT audience.profile_merge('m$from', 'm$into');");
}

# Events of a user, of whom then nothing is left.
sub do_erase
{
	my ($self) = @_;
	my @care = (0 .. $self->{clients}{care} - 1);
	my $mine = int(rand(10 / @care)) * @care + $self->{client};
	my @events = $self->new_events(1, user => "e$mine");

	return 1 if $mine > 9;
	$self->perform('insert one', events_facts(@events), insert_sql(@events)) or return 0;
	return 1 if rand() < 0.5;
	return $self->perform('profile_erase', { erase => "e$mine" }, "SELECT audience.profile_erase('e$mine');");
}

# ---------------------------------------------------------------------------
# the model

# Waits for the clients, for so many seconds at most, and reads their notes.
# durable => 0: what was confirmed may be lost nevertheless, the last of it.
# Gives what went wrong.
sub finish
{
	my ($self, %option) = @_;
	my $until = time + ($option{within} // 60);
	my @problems;

	foreach my $client (@{ $self->{running} })
	{
		while (waitpid($client->{pid}, POSIX::WNOHANG()) == 0)
		{
			if (time > $until)
			{
				push @problems, "client $client->{client} ($client->{kind}) does not end";
				kill 'KILL', $client->{pid};
			}
			sleep 0.005;
		}
		push @problems, "client $client->{client} ended badly" if $? != 0 && !@problems;
		$self->read_notes($client, $option{durable} // 1);
	}
	$self->{running} = [];
	push @problems, splice @{ $self->{unexpected} };
	return @problems;
}

# Ends the clients at once.
sub abandon
{
	my ($self) = @_;
	my @pids = map { $_->{pid} } @{ $self->{running} };

	kill 'KILL', @pids;
	waitpid $_, 0 foreach @pids;
	$self->{running} = [];
	return;
}

# Takes over what one client has written down.
sub read_notes
{
	my ($self, $client, $durable) = @_;
	my %begun;

	open my $file, '<', $client->{notes} or return;
	while (my $line = <$file>)
	{
		my ($what, $n, @rest) = @{ $json->decode($line) };
		if ($what eq 'begin')
		{
			$begun{$n} = { kind => $rest[0], facts => $rest[1], order => $n };
		}
		elsif ($what eq 'prepared')
		{
			$begun{$n}{prepared} = $rest[0];
		}
		elsif ($what eq 'level')
		{
			$client->{level} = $rest[0];
		}
		else
		{
			my ($answer, $message) = @rest;
			$begun{$n}{answer} = $answer;
			$self->{done}++;
			$self->{counts}{ $begun{$n}{kind} }{$answer}++;
			push @{ $self->{unexpected} }, "$begun{$n}{kind}: $answer $message"
			  if $answer ne 'ok' && (!$expected_error{$answer} || $answer eq '40001' && $client->{level} eq 'read committed');
		}
	}
	close $file;
	unlink $client->{notes};
	foreach my $n (sort { $a <=> $b } keys %begun)
	{
		$self->{counts}{ $begun{$n}{kind} }{lost}++ unless defined $begun{$n}{answer};
		$self->enter($client, $begun{$n}, $durable);
	}
	return;
}

# Enters what was done into the model.
sub enter
{
	my ($self, $client, $done, $durable) = @_;
	my $facts = $done->{facts};
	my $answer = $done->{answer} // '';
	my $refused = $answer ne '' && $answer ne 'ok';
	my $sure = $answer eq 'ok' && $durable;

	if ($facts->{events} && @{ $facts->{events} })
	{
		my $name = $facts->{events}[0][1] =~ s/-.*//r;
		$self->{groups}{$name} = {
			session => "$self->{runs}_$client->{client}", order => $done->{order}, events => $facts->{events},
			confirmed => $answer eq 'ok', gid => $done->{prepared}, durable => $durable,
			state => $sure ? 'there' : $refused ? 'not there' : 'open' };
	}
	foreach my $fact (@{ $facts->{attributes} // [] })
	{
		my ($user, $key, $value) = @$fact;
		my $known = $self->{attributes}{"$user $key"} //= { low => 0, high => 0 };
		$known->{high} = $value unless $refused;
		$known->{low} = $value if $sure;
		# a value may have been tried again
		$known->{refused} = [ grep { $_ != $value } @{ $known->{refused} // [] } ];
		push @{ $known->{refused} }, $value if $refused;
	}
	foreach my $name (grep { $facts->{$_} } qw(segment trait list))
	{
		my ($id, $state) = @{ $facts->{$name} };
		my $known = $self->{"${name}s"}{$id} //= { states => [ $name eq 'segment' ? 'none' : 0 ] };
		$known->{states} = [] if $sure;
		push @{ $known->{states} }, $state unless $refused;
	}
	if (defined $facts->{erase} && !$refused)
	{
		foreach my $group (grep { $_->{events}[0][0] eq $facts->{erase} } values %{ $self->{groups} })
		{
			next if $group->{state} eq 'not there';
			$group->{state} = $sure ? 'not there' : 'open';
			$group->{erased} = 1;
		}
	}
	return;
}

# Ends the prepared transactions that a crash has left, either way; what was
# prepared for sure, and is not there, must have been committed.
sub resolve_prepared
{
	my ($self, $node) = @_;
	my %there = map { $_->[0] => 1 }
	  rows_of($node, 'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()', $self->{db});

	foreach my $group (values %{ $self->{groups} })
	{
		next unless $group->{state} eq 'open' && defined $group->{gid};
		$group->{state} = 'there' if !$there{ $group->{gid} } && $group->{durable};
	}
	$node->safe_psql($self->{db}, (rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_'") foreach sort keys %there;
	return scalar keys %there;
}

# What is in the database and not in the model, or the reverse.  Settles what was open.
sub differences
{
	my ($self, $node) = @_;
	my $db = $self->{db};
	my @problems;

	push @problems, $self->event_differences($node);

	my %actual = map { ("$_->[0] $_->[1]" => $_->[2]) } rows_of($node,
		q{SELECT user_id, a.key, a.value FROM audience.profiles, jsonb_each_text(attributes) a WHERE a.key ~ '^a[0-9]+$'}, $db);
	foreach my $name (sort keys %{ $self->{attributes} })
	{
		my $known = $self->{attributes}{$name};
		my $value = $actual{$name} // 0;
		push @problems, "attribute $name is $value, not $known->{low} to $known->{high}"
		  if $value < $known->{low} || $value > $known->{high} || grep { $_ == $value } @{ $known->{refused} // [] };
		$self->{attributes}{$name} = { low => $value, high => $value };
	}

	my %segment = map { ($_->[0] => $json->encode([ @$_[ 1, 2, 3 ] ])) } rows_of($node,
		q{SELECT id, description, replace(rules::text, '|', '!'), active::text FROM audience.segments WHERE id ~ '^d[0-9]'}, $db);
	$self->learn_rules($node);
	foreach my $id (sort keys %{ $self->{segments} })
	{
		my %allowed = map { $self->canonical($_) => $_ } @{ $self->{segments}{$id}{states} };
		my $is = $segment{$id} // 'none';
		push @problems, "segment $id is $is, not " . join(' or ', sort keys %allowed) unless exists $allowed{$is};
		$self->{segments}{$id}{states} = [ $allowed{$is} // $is ];
	}

	my %trait = map { ($_->[0] => 1) } rows_of($node, 'SELECT name FROM audience.traits', $db);
	my %listed = map { ($_->[0] => 1) } rows_of($node, q{SELECT user_id FROM audience.segment_members('list')}, $db);
	foreach my $set ([ traits => \%trait ], [ lists => \%listed ])
	{
		my ($name, $there) = @$set;
		foreach my $id (sort keys %{ $self->{$name} // {} })
		{
			my $is = $there->{$id} // 0;
			push @problems, "$name: $id is " . ($is ? 'there' : 'not there')
			  unless grep { $_ == $is } @{ $self->{$name}{$id}{states} };
			$self->{$name}{$id}{states} = [$is];
		}
	}
	return @problems;
}

# Asks how the database writes the rules that segments may have.
sub learn_rules
{
	my ($self, $node) = @_;
	my %rules = map { $json->decode($_)->[1] => 1 } grep { $_ ne 'none' } map { @{ $_->{states} } } values %{ $self->{segments} };
	my @new = grep { !exists $self->{canonical}{$_} } sort keys %rules;

	return unless @new;
	@{ $self->{canonical} }{@new} = map { $_->[0] } rows_of($node, 'SELECT replace(r::audience.rule::text, \'|\', \'!\') FROM unnest(ARRAY['
		  . join(', ', map { quote($_) } @new) . ']) WITH ORDINALITY u (r, n) ORDER BY n', $self->{db});
	return;
}

# A segment's state as the database would show it.
sub canonical
{
	my ($self, $state) = @_;

	return $state if $state eq 'none';
	my ($mark, $rule, $active) = @{ $json->decode($state) };
	return $json->encode([ $mark, $self->{canonical}{$rule}, $active ]);
}

# The events: those of a group are there together, and so are the last before it
# that the same session was told of.  What retention may have taken is counted.
sub event_differences
{
	my ($self, $node) = @_;
	my $db = $self->{db};
	my ($watermark) = map { $_->[0] } rows_of($node,
		q{SELECT coalesce(audience.timestamp_text((SELECT complete_from FROM audience.retention WHERE kind = 'events')), '0')}, $db);
	my %actual = map { ($_->[1] => $_->[0]) } rows_of($node, q{SELECT user_id, event_id FROM audience.events WHERE event_id ~ '^g'}, $db);
	my %told = map { ($_->[0] => 1) } rows_of($node, q{SELECT DISTINCT event_id FROM audience.transitions WHERE event_id ~ '^g'}, $db);
	my %first_missing;
	my (%low, %high);
	my @problems;

	foreach my $name (sort { $self->{groups}{$a}{order} <=> $self->{groups}{$b}{order} } keys %{ $self->{groups} })
	{
		my $group = $self->{groups}{$name};
		my @kept = grep { sprintf('%-27s', $_->[2]) ge sprintf('%-27s', $watermark) } @{ $group->{events} };
		my @there = grep { exists $actual{ $_->[1] } } @{ $group->{events} };
		my @missing = grep { !exists $actual{ $_->[1] } } @kept;
		my $session = $group->{session};

		if ($group->{state} eq 'open' && (@there || @kept))
		{
			$group->{state} = @there ? 'there' : 'not there';
			# what a session does later is there only if this is
			if (!$group->{erased} && $group->{confirmed})
			{
				$first_missing{$session} //= $name if $group->{state} eq 'not there';
				push @problems, "$name is there, but not $first_missing{$session} before it"
				  if $group->{state} eq 'there' && defined $first_missing{$session};
			}
		}
		if ($group->{state} eq 'there')
		{
			push @problems, "$name: " . scalar(@missing) . ' of ' . scalar(@{ $group->{events} }) . ' events are missing' if @missing;
			foreach (@there)
			{
				my ($given, $is) = ($_->[0], $actual{ $_->[1] });
				push @problems, "$_->[1] of $given is $is\'s" if $given ne $is && ($given !~ /^m/ || $is !~ /^m/);
			}
		}
		elsif ($group->{state} eq 'not there')
		{
			push @problems, "$name: " . scalar(@there) . ' events are there' if @there;
			push @problems, "$name: transitions, but no events" if grep { $told{ $_->[1] } } @{ $group->{events} };
		}
		foreach (@{ $group->{events} })
		{
			my $owner = $_->[0] =~ /^m/ ? 'm' : $_->[0];
			$high{$owner}++ if $group->{state} ne 'not there';
			$low{$owner}++ if $group->{state} eq 'there';
		}
	}

	# what was counted is what was confirmed, whether it is still there or not
	foreach my $row (rows_of($node, <<'SQL', $db))
SELECT CASE WHEN user_id LIKE 'm%' THEN 'm' ELSE user_id END, sum((audience.profile_get(user_id) ->> 'eventCount')::bigint)
FROM audience.profiles WHERE user_id ~ '^[sm]' GROUP BY 1
SQL
	{
		my ($user, $n) = @$row;
		my ($low, $high) = ($low{$user} // 0, $high{$user} // 0);
		push @problems, "$user has counted $n events, not $low" . ($high > $low ? " to $high" : '') if $n < $low || $n > $high;
	}
	return @problems;
}

# A query without rows where the history, replayed, gives the memberships, and
# each was entered and left in turns; what was before may have been removed.
sub replay_kept_sql
{
	return AudTest::replay_sql() =~ s/coalesce\(before, 'removed'\)/before/r;
}

# Checks tables and indexes, in which the engine writes without the executor, by
# extension amcheck; no rows, or an error.
sub sound_sql
{
	return <<'SQL';
SELECT c.relname, v.* FROM pg_class c CROSS JOIN LATERAL verify_heapam(c.oid) v
WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind = 'r';
DO $$
DECLARE
	i regclass;
BEGIN
	FOR i IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind = 'i' AND c.relam = 403 LOOP
		PERFORM bt_index_parent_check(i, true);
	END LOOP;
END $$;
SQL
}

# How often what was answered how, in a line.
sub summary
{
	my ($self) = @_;
	my $counts = $self->{counts};
	return join '; ', map {
		my $kind = $_;
		"$kind: " . join ', ', map { "$counts->{$kind}{$_} $_" } sort keys %{ $counts->{$kind} }
	} sort keys %$counts;
}

1;
