# What tests of the Kafka bridge rely on (AudKafka.pm, scripts/kafka.sh): what
# is sent comes back as it was, faults are real, each listener lets in who has
# the right credentials and nobody else.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# Runs code that must die; returns why.
sub error_of
{
	my ($code) = @_;
	eval { $code->(); 1 } and return 'no error';
	return $@;
}

# Messages in one line each, without what differs from run to run.
sub lines_of
{
	return join "\n", map {
		my $message = $_;
		join '|', $message->{partition}, $message->{offset}, map { $_ // 'NULL' } $message->{key}, $message->{value}
	} @_;
}

my $kafka = start_kafka();
my $script = "$FindBin::RealBin/../../scripts/kafka.sh";
my @dir = ('--dir', $kafka->dir);

# Runs kafka.sh with lines to read; returns its exit status and all it prints.
sub by_hand
{
	my ($in, @arguments) = @_;
	my $out = '';
	IPC::Run::run([ $script, @arguments ], '<', \$in, '>', \$out, '2>&1', IPC::Run::timeout(120));
	return ($? >> 8, $out);
}

#
# what is sent comes back
#
my $binary = join '', map { chr } 0 .. 255, 10, 13, 0;
my $large = 'big' . ("\0\1\n\xff" x 5_000_000);
my $moment = 1_234_567_890_123;

$kafka->create_topic('kinds', 3);
is_deeply(
	[ $kafka->produce(
			'kinds',
			{ key => 'both', value => 'text', partition => 0 },
			{ key => 'tombstone', partition => 0 },
			{ value => 'no key', partition => 0 },
			{ key => '', value => '', partition => 0 },
			{ key => $binary, value => $binary, partition => 1 },
			{
				key => 'headers',
				value => 'v',
				partition => 1,
				timestamp => $moment,
				headers => [ [ a => '1' ], [ a => '2' ], [ none => undef ], [ empty => '' ], [ bytes => $binary ] ]
			},
			{ key => 'large', value => $large, partition => 2 }) ],
	[ [ 0, 0 ], [ 0, 1 ], [ 0, 2 ], [ 0, 3 ], [ 1, 0 ], [ 1, 1 ], [ 2, 0 ] ],
	'produce tells where the messages are');

my @messages = $kafka->consume('kinds');
is_deeply([ map { [ @$_{qw(partition offset)} ] } @messages ],
	[ [ 0, 0 ], [ 0, 1 ], [ 0, 2 ], [ 0, 3 ], [ 1, 0 ], [ 1, 1 ], [ 2, 0 ] ],
	'all of them come back, by partition and offset');
is_deeply([ map { [ @$_{qw(key value)} ] } @messages[ 0 .. 3 ] ],
	[ [ 'both', 'text' ], [ 'tombstone', undef ], [ undef, 'no key' ], [ '', '' ] ],
	'null is not empty');
ok($messages[4]{key} eq $binary && $messages[4]{value} eq $binary, 'every byte');
is_deeply($messages[5]{headers},
	[ [ a => '1' ], [ a => '2' ], [ none => undef ], [ empty => '' ], [ bytes => $binary ] ],
	'headers: twice the same, null, empty, binary, in their order');
is_deeply($messages[0]{headers}, [], 'none where there were none');
is($messages[5]{timestamp}, $moment, 'a timestamp of years ago');
cmp_ok(abs($messages[0]{timestamp} / 1000 - time()), '<', 300, 'or the present');
is(length $messages[6]{value}, length $large, 'a value of 20 MB has its length');
ok($messages[6]{value} eq $large, 'and its bytes');

is(lines_of($kafka->consume('kinds', partition => 0, offset => 2)), "0|2|NULL|no key\n0|3||", 'a part of a partition');
like(error_of(sub { $kafka->produce('kinds', { value => "\x{263a}" }) }), qr/not bytes/, 'characters are refused');
like(error_of(sub { $kafka->produce('kinds', { value => 'x' x 34_000_000 }) }), qr/MSG_SIZE_TOO_LARGE/, 'more than 32 MB is refused');

#
# topics
#
is_deeply($kafka->topics, { kinds => 3 }, 'topics are listed');
like(error_of(sub { $kafka->produce('missing', { value => 'x' }) }), qr/UNKNOWN_(TOPIC_OR_PART|TOPIC)/, 'no topic is made by producing');
like(error_of(sub { $kafka->consume('missing') }), qr/UNKNOWN_TOPIC_OR_PART/, 'or by consuming');
like(error_of(sub { $kafka->create_topic('kinds') }), qr/TOPIC_ALREADY_EXISTS/, 'a topic is made once');

$kafka->create_topic('grows');
$kafka->produce('grows', map { { key => $_, value => "v$_" } } 1 .. 3);
$kafka->add_partitions('grows', 3);
is_deeply([ $kafka->watermarks('grows') ], [ [ 0, 3 ], [ 0, 0 ], [ 0, 0 ] ], 'a topic gets more partitions');
is_deeply([ $kafka->produce('grows', { key => 'x', value => 'y', partition => 2 }) ], [ [ 2, 0 ] ], 'which take messages');
is(lines_of($kafka->consume('grows')), "0|0|1|v1\n0|1|2|v2\n0|2|3|v3\n2|0|x|y", 'and give them');

is($kafka->delete_records('grows', 0, 2), 2, 'records before an offset are deleted');
is(lines_of($kafka->consume('grows', partition => 0)), '0|2|3|v3', 'the others stay');
like(error_of(sub { $kafka->consume('grows', partition => 0, offset => 1) }), qr/OFFSET_OUT_OF_RANGE|AUTO_OFFSET_RESET/, 'to read a deleted one is an error');
like(error_of(sub { $kafka->delete_records('grows', 0, 20) }), qr/OFFSET_OUT_OF_RANGE/, 'no records are deleted that there are not');

$kafka->delete_topic('grows');
is_deeply($kafka->topics, { kinds => 3 }, 'a topic is deleted');
$kafka->create_topic('grows', 2);
is_deeply([ $kafka->watermarks('grows') ], [ [ 0, 0 ], [ 0, 0 ] ], 'and made again, empty');

$kafka->create_topic('ages', 1, 'retention.ms' => 1000);
$kafka->produce('ages', { value => 'old', timestamp => $moment });
my $until = time() + 60;
my ($marks) = $kafka->watermarks('ages');
while ($marks->[0] == 0 && time() < $until)
{
	usleep(100_000);
	($marks) = $kafka->watermarks('ages');
}
is_deeply($marks, [ 1, 1 ], 'retention is done, where a topic has some');

#
# transactions
#
$kafka->create_topic('paid');
$kafka->begin('teller');
$kafka->produce_in('teller', 'paid', { key => 'a', value => 'aborted' });
is(lines_of($kafka->consume('paid')), '', 'what is not committed is hidden');
is(lines_of($kafka->consume('paid', isolation => 'read_uncommitted')), '0|0|a|aborted', 'but from those who ask for it');
$kafka->abort('teller');
$kafka->begin('teller');
$kafka->produce_in('teller', 'paid', { key => 'a', value => 'committed' });
$kafka->produce('paid', { key => 'b', value => 'plain' });
is(lines_of($kafka->consume('paid')), '', 'nothing is read past an open transaction');
$kafka->commit('teller');
is(lines_of($kafka->consume('paid')), "0|2|a|committed\n0|3|b|plain", 'an aborted one stays hidden; its marker takes an offset');

#
# faults
#
sub pid_of_broker
{
	my $pid = slurp_file($kafka->dir . '/pid');
	chomp $pid;
	return $pid;
}

my $before = lines_of($kafka->consume('kinds', partition => 0));
my $first = pid_of_broker();
$kafka->kill;
is((by_hand('', 'status', @dir))[0], 3, 'after kill -9 there is no such process');
like(error_of(sub { $kafka->topics(timeout => 2) }), qr/timeout/, 'nor an answer');
$kafka->start;
isnt(pid_of_broker(), $first, 'started again it is another process');
is(lines_of($kafka->consume('kinds', partition => 0)), $before, 'with the data');
is_deeply($kafka->topics, { ages => 1, grows => 2, kinds => 3, paid => 1 }, 'and the topics');
is_deeply([ $kafka->produce('kinds', { value => 'after', partition => 0 }) ], [ [ 0, 4 ] ], 'it goes on where it was');

$kafka->pause;
like(error_of(sub { $kafka->topics(timeout => 2) }), qr/timeout/, 'a paused broker does not answer');
ok(kill(0, pid_of_broker()), 'but is there');
$kafka->continue;
is_deeply([ $kafka->produce('kinds', { value => 'continued', partition => 0 }) ], [ [ 0, 5 ] ], 'continued it does');

$kafka->pause;
$kafka->restart;
is(lines_of($kafka->consume('kinds', partition => 0, offset => 4)), "0|4|NULL|after\n0|5|NULL|continued", 'a paused broker can be stopped, and started');

#
# listeners
#
is((stat $kafka->password_file)[2] & 07777, 0600, 'the password is for its owner');
foreach my $way (
	[ 'SASL_PLAINTEXT', 'PLAIN' ], [ 'SASL_PLAINTEXT', 'SCRAM-SHA-256' ], ['SSL'],
	[ 'SASL_SSL', 'PLAIN' ], [ 'SASL_SSL', 'SCRAM-SHA-256' ])
{
	my ($protocol, $mechanism) = @$way;
	my @way = (protocol => $protocol, mechanism => $mechanism);
	my $name = join ' ', @$way;
	my $client = $kafka->client(@way);
	my ($where) = $client->produce('kinds', { key => $name, value => 'sent', partition => 1 });
	my ($message) = $client->consume('kinds', partition => 1, offset => $where->[1]);

	is($message->{key}, $name, "$name: sends and receives");
	$client->close;
	if ($mechanism)
	{
		$client = $kafka->client(@way, password => 'wrong');
		like(error_of(sub { $client->topics }), qr/^_AUTHENTICATION:/, "$name: refuses another password");
		$client->close;
		$client = $kafka->client(@way, user => 'somebody');
		like(error_of(sub { $client->topics }), qr/^_AUTHENTICATION:/, "$name: refuses another user");
		$client->close;
	}
	else
	{
		$client = $kafka->client(@way, ca => $kafka->dir . '/client.pem');
		like(error_of(sub { $client->topics }), qr/^_SSL:/, "$name: the certificate is not of another authority");
		$client->close;
		$client = $kafka->client(
			@way,
			config => {
				'ssl.certificate.location' => $kafka->dir . '/client.pem',
				'ssl.key.location' => $kafka->dir . '/client.key'
			});
		is(ref $client->topics, 'HASH', "$name: takes a client's certificate");
		$client->close;
		$client = $kafka->client(@way, config => { 'bootstrap.servers' => $kafka->bootstrap('SSL') =~ s/127.0.0.1/localhost/r });
		is(ref $client->topics, 'HASH', "$name: the certificate is for localhost as well");
		$client->close;
	}
}
my $client = $kafka->client(config => { 'bootstrap.servers' => $kafka->bootstrap('SASL_PLAINTEXT') });
isnt(error_of(sub { $client->topics(timeout => 2) }), 'no error', 'SASL is not left out');
$client->close;

#
# kafka.sh by hand
#
is_deeply([ by_hand('', 'topics', @dir, 'create', 'lines', 2, 'cleanup.policy=delete') ], [ 0, '' ], 'kafka.sh topics create');
is_deeply([ by_hand("k\tvalue with spaces\nno key\nk\t\n", 'produce', @dir, 'lines') ], [ 0, '' ], 'kafka.sh produce');
my (undef, $lines) = by_hand('', 'consume', @dir, 'lines');
is_deeply(
	[ sort map { s/^[01]\t\d+\t//r } split /\n/, $lines ],
	[ "NULL\tno key\t", "k\tNULL\t", "k\tvalue with spaces\t" ],
	'kafka.sh consume');
is_deeply([ by_hand('', 'topics', @dir) ], [ 0, "ages\t1\ngrows\t2\nkinds\t3\nlines\t2\npaid\t1\n" ], 'kafka.sh topics');
is_deeply([ by_hand('', 'topics', @dir, 'describe', 'grows') ], [ 0, "partition 0: offsets 0 to 0\npartition 1: offsets 0 to 0\n" ], 'kafka.sh topics describe');
is_deeply([ by_hand('', 'topics', @dir, 'delete', 'missing') ], [ 1, "delete_topic: Broker: Unknown topic or partition\n" ], 'kafka.sh tells errors');
is((by_hand('', 'bogus'))[0], 2, 'and wrong use');
is((by_hand('', 'status', @dir))[0], 0, 'kafka.sh status: it runs');
my $other_files = PostgreSQL::Test::Utils::tempdir('other');
append_to_file("$other_files/file", '');
my ($status, $told) = by_hand('', 'start', '--dir', $other_files);
is($status, 1, 'no broker is made in a directory with other files');
like($told, qr/has other files in it/, 'which is said');

$kafka->stop;
is((by_hand('', 'status', @dir))[0], 3, 'stopped, it does not');
is((by_hand("x\ty\n", 'produce', @dir, 'lines'))[0], 1, 'nor takes anything');

# a process that is not the broker is left alone, whatever the file says
my $other = fork // die "could not fork: $!";
if ($other == 0)
{
	exec 'sleep', '300' or POSIX::_exit(1);
}
append_to_file($kafka->dir . '/pid', "$other\n");
is((by_hand('', 'kill', @dir))[0], 0, 'a pid file that is out of date');
ok(kill(0, $other), 'does no harm to another process');
kill 'KILL', $other;
waitpid $other, 0;

done_testing();
