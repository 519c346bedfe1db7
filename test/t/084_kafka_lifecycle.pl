# The lives of the workers that talk to Kafka: brokers, sources, sinks,
# extensions and databases that come and go under traffic; copies of a
# database; processes that end; encryption and secrets; who sees what.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $kafka = start_kafka();
my $node = start_node('main', conf => worker_conf());
my $password = $kafka->password;

# Runs SQL; what it prints.
sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

sub wait_sql
{
	my ($name, $query, $is, %option) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return wait_for($option{on} // $node, $name, $query, is => $is, within => 30, %option);
}

# SQL: how many workers of a kind a database has.
sub workers_sql { return "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'audience $_[0]' AND datname = '" . ($_[1] // 'postgres') . "'"; }

sub source_sql { return "SELECT $_[1] FROM audience.stat_kafka_source WHERE source = '$_[0]' LIMIT 1"; }
sub sink_sql { return "SELECT $_[1] FROM audience.stat_kafka_sink WHERE sink = '$_[0]'"; }

# How the cluster is reached.
sub set_cluster
{
	my ($name, $db, %options) = @_;
	$options{'bootstrap.servers'} //= $kafka->bootstrap;
	my $pairs = join ', ', map { quote($_) . ', ' . quote($options{$_}) } sort keys %options;
	return sql("SELECT audience.kafka_cluster_set('$name', jsonb_build_object($pairs))", $db);
}

# Produces events of users to a topic.
sub produce_events
{
	my ($topic, $prefix, $n) = @_;
	$kafka->produce($topic, map { { key => "$prefix$_", value => qq({"userId":"$prefix$_","eventId":"$prefix$_","eventType":"view"}) } } 1 .. $n);
	return;
}

sub count_sql { return "SELECT count(*) FROM audience.events WHERE user_id LIKE '$_[0]%'"; }

# A topic's messages whose keys begin so: how many, and how many different.
sub sent
{
	my ($topic, $prefix) = @_;
	my %seen;
	my @messages = grep { $_->{key} =~ /^$prefix/ } $kafka->consume($topic);
	foreach my $message (@messages)
	{
		my ($id) = map { $_->[1] } grep { $_->[0] eq 'audience-event-id' } @{ $message->{headers} };
		$seen{$id} = 1;
	}
	return scalar(@messages) . ' ' . keys %seen;
}

#
# a broker that is away at the start
#
$kafka->stop;
set_cluster('main', 'postgres');
sql("SELECT audience.kafka_source_create('in', options => '{\"max_bad\":1}'); SELECT audience.kafka_sink_create('out', 'transitions')");
sql("SELECT audience.segment_create('viewers', 'count(view) >= 1')");
wait_sql('no broker: the source waits', source_sql('in', "state = 'waiting for broker' AND last_error IS NOT NULL AND partition IS NULL AND pid IS NOT NULL"), 't');
wait_sql('and the sink', sink_sql('out', "state = 'waiting for broker' AND last_error IS NOT NULL"), 't');
like(sql(source_sql('in', 'last_error')), qr/refused|down|[Tt]imed out|transport failure/, 'the view says why');
sql(qq(SELECT audience.event_ingest('{"userId":"early$_","eventId":"e","eventType":"view"}'))) foreach 1 .. 5;
is(sql(sink_sql('out', 'depth, acked, oldest IS NOT NULL')), '5|0|t', 'events are taken meanwhile, and what is to be sent waits');
$kafka->start;
$kafka->create_topic('in', 3);
$kafka->create_topic('out', 3);
wait_sql('the broker is there: the source runs', source_sql('in', 'state'), 'running');
wait_sql('and the sink sends', sink_sql('out', 'depth, state'), '0|running');
is(sent('out', 'early'), '5 5', 'all that waited');
produce_events('in', 'first', 10);
wait_sql('messages come in', count_sql('first'), 10);
wait_sql('and what became of them goes out', sink_sql('out', 'depth'), 0);

#
# pause and resume
#
sql("SELECT audience.kafka_source_pause('in'); SELECT audience.kafka_sink_pause('out')");
wait_sql('paused: no consumer is needed', workers_sql('consumer'), 0);
wait_sql('nor a relay', workers_sql('relay'), 0);
is(sql(source_sql('in', 'state')) . ' ' . sql(sink_sql('out', 'state')), 'paused paused', 'the views say so');
produce_events('in', 'paused', 10);
sql(q(SELECT audience.event_ingest('{"userId":"wait","eventId":"e","eventType":"view"}')));
sleep 0.5;
is(sql(count_sql('paused')) . ' ' . sql(sink_sql('out', 'depth')), '0 1', 'nothing is taken, nothing sent');
sql("SELECT audience.kafka_source_resume('in'); SELECT audience.kafka_sink_resume('out')");
wait_sql('resumed: messages come in', count_sql('paused'), 10);
wait_sql('and go out', sink_sql('out', 'depth'), 0);

#
# processes that end, reloads, under traffic
#
my $sent = 0;
foreach my $kind (qw(consumer relay scheduler launcher))
{
	my $pid = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience $kind' AND coalesce(datname, 'postgres') = 'postgres'");
	produce_events('in', 'ended' . ++$sent . '-', 300);
	sql("SELECT pg_terminate_backend($pid)");
	wait_sql("$kind terminated: another comes", "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'audience $kind' AND coalesce(datname, 'postgres') = 'postgres' AND pid <> $pid", 1);
}
wait_sql('all messages are taken', count_sql('ended'), $sent * 300);
foreach my $n (1 .. 5)
{
	produce_events('in', "reload$n-", 300);
	$node->reload;
}
wait_sql('reloads lose nothing', count_sql('reload'), 1500);
wait_sql('all is sent', sink_sql('out', 'depth'), 0);
my ($messages, $different) = split / /, sent('out', 'ended');
is($different, $sent * 300, 'all transitions are');
cmp_ok($messages, '<', 2 * $different, 'some of them twice, at most');
is(sent('out', 'reload'), '1500 1500', 'none is sent twice by a reload');
is(sql("SELECT count(*) FROM audience.kafka_dead_letters"), 0, 'no dead letter');

#
# a broker that does not answer
#
$kafka->pause;
sql(q(SELECT audience.events_ingest(jsonb_agg(jsonb_build_object('userId', 'slow' || n, 'eventId', 'e', 'eventType', 'view'))) FROM generate_series(1, 2000) n));
cmp_ok(sql(sink_sql('out', 'depth')), '>', 0, 'a broker that does not answer: the queue is seen to grow');
sql(q(SELECT audience.events_ingest(jsonb_agg(jsonb_build_object('userId', 'slower' || n, 'eventId', 'e', 'eventType', 'view'))) FROM generate_series(1, 1000) n));
is(sql(sink_sql('out', 'depth')), 3000, 'by all of it');
is(sql(count_sql('slow')), 3000, 'and events are taken');
$kafka->continue;
wait_sql('it answers again: all is sent', sink_sql('out', 'depth'), 0);
is((split / /, sent('out', 'slow'))[1], 3000, 'and nothing is missing');

#
# sources, sinks, extensions and databases that go, under traffic
#
produce_events('in', 'drop', 5000);
wait_sql('messages come', "SELECT EXISTS (SELECT FROM audience.events WHERE user_id LIKE 'drop%')", 't');
sql("SELECT audience.kafka_source_drop('in')");
wait_sql('a source is dropped: the consumer leaves', workers_sql('consumer'), 0);
is(sql("SELECT count(*) FROM audience.kafka_offsets") . sql("SELECT count(*) FROM audience.stat_kafka_source"), '00', 'nothing is left of it');
sql("SELECT audience.kafka_source_create('in')");
wait_sql('made anew it reads from the first message', "SELECT sum(next_offset) FROM audience.kafka_offsets", 10 + 10 + 300 * $sent + 1500 + 5000);
is(sql(count_sql('drop')), 5000, 'and stores each once');

# events ingested by a session on and on, until it is ended or the table is gone
sub start_traffic
{
	my ($db) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir() . '/traffic.sql';
	append_to_file($path, q(SELECT count(audience.event_ingest(jsonb_build_object('userId', 'traffic' || n, 'eventType', 'view'))) FROM generate_series(1, 20) n) . "\n\\watch 0.01\n");
	my $out = '';
	my $h = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr($db), '-v', 'ON_ERROR_STOP=1', '-f', $path ], '<', \undef, '>', \$out, '2>&1', IPC::Run::timeout(120));
	return $h;
}
my $traffic = start_traffic('postgres');
produce_events('in', 'sink', 5000);
wait_sql('something is to be sent', "SELECT EXISTS (SELECT FROM audience.events WHERE user_id LIKE 'sink%')", 't');
sql("SELECT audience.kafka_sink_drop('out')");
wait_sql('a sink is dropped: the relay leaves', workers_sql('relay'), 0);
is(sql('SELECT count(*) FROM audience.kafka_outbox'), 0, 'nothing waits for it');
sql("SELECT audience.kafka_sink_create('out', 'transitions')");
wait_sql('made anew it sends', sink_sql('out', 'acked > 0 OR depth = 0'), 't');
$traffic->kill_kill;
wait_sql('messages came in beside', count_sql('sink'), 5000);
verify_empty($node);
replay_ok($node);

foreach my $try (1, 2)
{
	$traffic = start_traffic('postgres');
	produce_events('in', "gone$try-", 3000);
	wait_sql('messages come', "SELECT EXISTS (SELECT FROM audience.events WHERE user_id LIKE 'gone%' OR user_id LIKE 'traffic%')", 't');
	# sessions hold tables in an order of their own, which is theirs to mind
	$traffic->kill_kill;
	my ($status, undef, $error) = $node->psql('postgres', 'DROP EXTENSION audience_manager');
	is($status, 0, 'DROP EXTENSION under traffic') or diag($error);
	wait_sql('the consumer leaves', workers_sql('consumer'), 0);
	wait_sql('the relay leaves', workers_sql('relay'), 0);
	sql('CREATE EXTENSION audience_manager');
	set_cluster('main', 'postgres');
	sql("SELECT audience.segment_create('viewers', 'count(view) >= 1'); SELECT audience.kafka_source_create('in'); SELECT audience.kafka_sink_create('out', 'transitions')");
	wait_sql('CREATE EXTENSION: messages are read from the first', count_sql("gone$try-"), 3000);
}
sql("SELECT audience.kafka_source_drop('in'); SELECT audience.kafka_sink_drop('out')");

$node->safe_psql('postgres', 'CREATE DATABASE busy');
sql('CREATE EXTENSION audience_manager', 'busy');
set_cluster('main', 'busy');
sql("SELECT audience.segment_create('viewers', 'count(view) >= 1'); SELECT audience.kafka_sink_create('out', 'transitions'); SELECT audience.kafka_source_create('in')", 'busy');
wait_sql('another database reads', 'SELECT EXISTS (SELECT FROM audience.events)', 't', db => 'busy');
my $began = time();
my ($status, undef, $error) = $node->psql('postgres', 'DROP DATABASE busy');
is($status, 0, 'DROP DATABASE under traffic') or diag($error);
# a worker that does not leave is waited for half a minute
cmp_ok(time() - $began, '<', 20, 'is prompt');

#
# a copy of a database is silent until it is told otherwise
#
$node->safe_psql('postgres', 'CREATE DATABASE live');
$kafka->create_topic($_) foreach qw(live-in live-out);
sql('CREATE EXTENSION audience_manager', 'live');
set_cluster('main', 'live');
sql("SELECT audience.segment_create('viewers', 'count(view) >= 1'); SELECT audience.kafka_source_create('live-in'); SELECT audience.kafka_sink_create('live-out', 'transitions')", 'live');
produce_events('live-in', 'l', 10);
wait_sql('ten are taken', count_sql('l'), 10, db => 'live');
wait_sql('and sent', 'SELECT depth FROM audience.stat_kafka_sink', 0, db => 'live');
sql("SELECT audience.kafka_source_pause('live-in'); SELECT audience.kafka_sink_pause('live-out')", 'live');
sql(q(SELECT audience.event_ingest('{"userId":"unsent","eventId":"e","eventType":"view"}')), 'live');
$kafka->produce('live-in', { value => 'bad' });
my $dump = PostgreSQL::Test::Utils::tempdir() . '/live.sql';
$node->command_ok([ 'pg_dump', '-d', $node->connstr('live'), '-f', $dump ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copied TEMPLATE live');
is(sql("SELECT state FROM audience.stat_kafka_source UNION SELECT state FROM audience.stat_kafka_sink", 'copied'), 'not activated', 'a copy of a database is not activated');
$node->safe_psql('postgres', 'DROP DATABASE live');
$node->safe_psql('postgres', 'DROP DATABASE copied');

my $other = start_node('other', no_extension => 1, conf => worker_conf());
foreach my $on ($node, $other)
{
	$on->safe_psql('postgres', 'CREATE DATABASE restored');
	$on->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $on->connstr('restored'), '-f', $dump, '-o', '/dev/null' ], 'restore');
	$on->safe_psql('restored', "SELECT audience.kafka_source_resume('live-in'); SELECT audience.kafka_sink_resume('live-out')");
}
wait_for($other, 'restored on another server', 'SELECT state FROM audience.stat_scheduler', db => 'restored', is => 'sleeping', within => 30);
produce_events('live-in', 'later', 5);
sleep 1.5;
foreach my $on ($node, $other)
{
	is($on->safe_psql('restored', "SELECT state, partition, next_offset FROM audience.stat_kafka_source UNION ALL SELECT state, depth::int, NULL FROM audience.stat_kafka_sink"), "not activated|0|10\nnot activated|1|", 'not activated');
	is($on->safe_psql('restored', workers_sql('consumer', 'restored')) . $on->safe_psql('restored', workers_sql('relay', 'restored')), '00', 'no worker');
}
is(sent('live-out', 'unsent'), '0 0', 'nothing was sent');
my @ids = map { $_->{headers}[0][1] } $kafka->consume('live-out');
$node->safe_psql('postgres', 'DROP DATABASE restored');
$other->safe_psql('restored', 'SELECT audience.kafka_activate()');
wait_sql('activated it goes on where the other was', 'SELECT next_offset, state FROM audience.stat_kafka_source', '16|running', db => 'restored', on => $other);
wait_sql('and sends', 'SELECT depth FROM audience.stat_kafka_sink', 0, db => 'restored', on => $other);
is($other->safe_psql('restored', 'SELECT count(*) FROM audience.events'), 16, 'nothing is missing, or twice');
is($other->safe_psql('restored', 'SELECT "offset", sqlstate FROM audience.kafka_dead_letters'), '10|22P02', 'the bad one is a dead letter');
is(sent('live-out', '(unsent|later)'), '6 6', 'what was not sent is sent');
my ($installation) = $ids[0] =~ m{^([^/]*)/};
is(scalar(grep { $_->{headers}[0][1] =~ m{^\Q$installation\E/} } $kafka->consume('live-out')), 16, 'by the same installation');
verify_empty($other, undef, 'restored');
$other->stop;

#
# encryption, passwords
#
my $secrets = PostgreSQL::Test::Utils::tempdir();
sub write_secret
{
	my ($name, $content, $mode) = @_;
	my $path = "$secrets/$name";
	unlink $path;
	append_to_file($path, $content);
	chmod $mode // 0600, $path;
	return "file:$path";
}
my %ways = (
	ssl => { 'security.protocol' => 'ssl', 'ssl.ca.location' => $kafka->ca, 'bootstrap.servers' => $kafka->bootstrap('SSL') },
	plain => { 'security.protocol' => 'sasl_plaintext', 'sasl.mechanism' => 'PLAIN', 'sasl.username' => 'audience', 'sasl.password' => write_secret('plain', "$password\nsecond line\n"), 'bootstrap.servers' => $kafka->bootstrap('SASL_PLAINTEXT') },
	scram => { 'security.protocol' => 'sasl_plaintext', 'sasl.mechanism' => 'SCRAM-SHA-256', 'sasl.username' => 'audience', 'sasl.password' => write_secret('scram', $password, 0640), 'bootstrap.servers' => $kafka->bootstrap('SASL_PLAINTEXT') },
	both => { 'security.protocol' => 'sasl_ssl', 'sasl.mechanism' => 'SCRAM-SHA-256', 'ssl.ca.location' => $kafka->ca, 'sasl.username' => 'audience', 'sasl.password' => write_secret('both', "$password\r\n"), 'bootstrap.servers' => $kafka->bootstrap('SASL_SSL') });
foreach my $way (sort keys %ways)
{
	$kafka->create_topic("$way-$_") foreach qw(in out);
	set_cluster($way, 'postgres', %{ $ways{$way} });
	sql("SELECT audience.kafka_source_create('$way-in', cluster => '$way'); SELECT audience.kafka_sink_create('$way-out', 'segments', '$way')");
}
sql("SELECT audience.segment_create('told', 'false')");
foreach my $way (sort keys %ways)
{
	produce_events("$way-in", $way, 3);
	wait_sql("$way: messages come in", count_sql($way), 3);
	wait_sql("$way: and go out", sink_sql("$way/$way-out", 'acked, depth, state'), '1|0|running');
	is(sent("$way-out", 'told'), '1 1', "$way: to the topic");
}

# another authority, and a file that is not there
set_cluster('other', 'postgres', %{ $ways{ssl} }, 'ssl.ca.location' => $kafka->dir . '/client.pem');
set_cluster('absent', 'postgres', %{ $ways{plain} }, 'sasl.password' => "file:$secrets/absent");
set_cluster('open', 'postgres', %{ $ways{plain} }, 'sasl.password' => write_secret('open', $password, 0644));
set_cluster('wrong', 'postgres', %{ $ways{scram} }, 'sasl.password' => write_secret('wrong', "not $password"));
set_cluster('empty', 'postgres', %{ $ways{scram} }, 'sasl.password' => write_secret('empty', "\n"));
set_cluster('odd', 'postgres', 'security.protocol' => 'rot13');
set_cluster('pipe', 'postgres', %{ $ways{scram} }, 'sasl.password' => "file:$secrets/pipe");
PostgreSQL::Test::Utils::system_or_bail('mkfifo', '-m', '0600', "$secrets/pipe");
my %wrong = (
	other => qr/certificate verify failed|SSL handshake failed|broker certificate/,
	absent => qr/^could not open file "\Q$secrets\E\/absent": No such file or directory$/,
	open => qr/^file "\Q$secrets\E\/open" must be open to nobody but its owner and, for reading, its group \(chmod 0600 or 0640\)$/,
	wrong => qr/[Aa]uthentication/,
	empty => qr/^file "\Q$secrets\E\/empty" is empty$/,
	odd => qr/security.protocol/,
	pipe => qr/^"\Q$secrets\E\/pipe" is not a file$/);
foreach my $name (sort keys %wrong)
{
	sql("SELECT audience.kafka_source_create('plain-in', cluster => '$name'); SELECT audience.kafka_sink_create('wrong-$name', 'transitions', '$name')");
}

# Polls until an error is seen.
sub wait_error
{
	my ($query, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $error = sql($query);
	foreach (1 .. 200)
	{
		last if $error =~ $pattern;
		sleep 0.1;
		$error = sql($query);
	}
	return like($error, $pattern, $name);
}
foreach my $name (sort keys %wrong)
{
	wait_error(source_sql("$name/plain-in", 'last_error'), $wrong{$name}, "$name: the source says what is wrong");
	wait_error(sink_sql("$name/wrong-$name", 'last_error'), $wrong{$name}, "$name: and the sink");
	wait_sql("$name: it waits", source_sql("$name/plain-in", "state, next_offset"), 'waiting for broker|');
}
# mended, and read again
write_secret($_, $password) foreach qw(open wrong absent empty);
unlink "$secrets/pipe";
write_secret('pipe', $password);
$kafka->create_topic("wrong-$_") foreach qw(open wrong absent empty pipe);
$node->reload;
foreach my $name (qw(open wrong absent empty pipe))
{
	wait_sql("$name: mended and reloaded, it runs", source_sql("$name/plain-in", 'state, next_offset'), 'running|3');
	wait_sql("$name: and so does the sink", sink_sql("$name/wrong-$name", 'state, depth'), 'running|0');
}

# what is broken on reload leaves what works in force
my $consumer = sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience consumer'");
write_secret('plain', "$password\n", 0644);
unlink "$secrets/scram";
$node->reload;
wait_error("SELECT string_agg(message, ' ') FROM audience.stat_kafka_errors WHERE id IN ('plain/plain-in', 'scram/scram-in')", qr/(?=.*must be open to nobody)(?=.*No such file)/s, 'broken on reload: the source says so');
wait_error("SELECT string_agg(message, ' ') FROM audience.stat_kafka_errors WHERE id IN ('plain/plain-out', 'scram/scram-out')", qr/(?=.*must be open to nobody)(?=.*No such file)/s, 'and the sink');
$node->reload;
sql("SELECT audience.segment_update('told', name => 'Told')");
foreach my $way (qw(plain scram))
{
	produce_events("$way-in", "still$way", 2);
	wait_sql("$way: messages still come in", count_sql("still$way"), 2);
	wait_sql("$way: and go out", sink_sql("$way/$way-out", 'acked, depth'), '2|0');
}
is(sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'audience consumer'"), $consumer, 'by the same process');
my @refused = slurp_file($node->logfile) =~ /new options of Kafka cluster "scram" cannot be used/g;
is(scalar(@refused) >= 2, 1, 'the log says so');
write_secret($_, $password) foreach qw(plain scram);
$node->reload;
wait_sql('mended: nothing is wrong', "SELECT count(*) FROM audience.stat_kafka_source WHERE source ~ '^(plain|scram)' AND state <> 'running'", 0);

#
# who sees what
#
sql("CREATE ROLE reader LOGIN; SELECT audience.grant_access('reader', 'read'); CREATE ROLE statistician LOGIN IN ROLE pg_read_all_stats; SELECT audience.grant_access('statistician', 'read')");
wait_sql('it waits', source_sql('odd/plain-in', 'state'), 'waiting for broker');
my $what = "SELECT state, last_error FROM audience.stat_kafka_source WHERE source = 'odd/plain-in' UNION ALL SELECT 'sink', last_error FROM audience.stat_kafka_sink WHERE sink = 'odd/wrong-odd' UNION ALL (SELECT 'error', message FROM audience.stat_kafka_errors WHERE id = 'odd/plain-in' LIMIT 1)";
is($node->safe_psql('postgres', "SET ROLE reader; $what"), "waiting for broker|<insufficient privilege>\nsink|<insufficient privilege>\nerror|<insufficient privilege>", 'readers see states, but no error');
like($node->safe_psql('postgres', "SET ROLE statistician; $what"), qr/^waiting for broker\|[^<\n]*security.protocol[^<\n]*\nsink\|[^<\n]+\nerror\|[^<\n]+$/, 'who reads all statistics does');

#
# a secret is nowhere but in its file
#
my $seen = '';
foreach my $relation (split /\n/, sql("SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'audience'::regnamespace AND c.relkind IN ('r', 'v') UNION ALL SELECT 'pg_stat_activity' UNION ALL SELECT 'pg_settings'"))
{
	$seen .= sql("SELECT string_agg(v::text, ' ') FROM $relation v");
}
like($seen, qr/\Q$secrets\E\/both/, 'where the secrets are is seen');
unlike($seen, qr/\Q$password\E/, 'what they are is not: tables and views');
$node->command_ok([ 'pg_dumpall', '-d', $node->connstr('postgres'), '-f', "$secrets/dump" ], 'pg_dumpall');
unlike(slurp_file("$secrets/dump"), qr/\Q$password\E/, 'nor in a dump');
unlike(slurp_file($node->logfile), qr/\Q$password\E/, 'nor in the log');
sql('CHECKPOINT');
my ($out, $err) = ('', '');
IPC::Run::run([ 'grep', '-rlF', '-f', $kafka->password_file, $node->data_dir ], '>', \$out, '2>', \$err);
is($out, '', 'nor in any file of the data directory');

#
# it all was quiet
#
verify_empty($node);
replay_ok($node);
# a client's line has its name before the word
unlike(slurp_file($_->logfile), qr/PANIC|\[\d+\] FATAL|terminated by signal|TRAP/, 'nothing crashed') foreach $node, $other;
done_testing();
