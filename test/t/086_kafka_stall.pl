# A connection that is neither closed nor alive: what a consumer has asked for
# never comes, while new connections work.  After a minute it is given up, and
# what was missed is read once.
#
# The clients reach the broker through a process that passes on what they say,
# and, when told to, nothing more of what the broker answers to those
# connections that have fetched messages.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# the number of requests for messages in Kafka's protocol
use constant FETCH => 1;

my $deaf = PostgreSQL::Test::Utils::tempdir() . '/deaf';
my $door = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20, ReuseAddr => 1) or die "cannot listen: $!";
my $kafka = start_kafka(advertise => $door->sockport);
my $proxy = fork() // die "cannot fork: $!";
if ($proxy == 0)
{
	# without END blocks, which are the parent's
	eval { pass_on(); };
	print STDERR $@;
	POSIX::_exit(1);
}
END
{
	my $status = $?;
	kill 'KILL', $proxy if $proxy;
	waitpid($proxy, 0) if $proxy;
	$? = $status;
}

my $node = start_node('stall', conf => worker_conf());
my $bootstrap = $kafka->bootstrap;

# librdkafka would find out by itself, sooner or later
$node->safe_psql('postgres', qq{
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers":"$bootstrap","socket.timeout.ms":"300000"}');
SELECT audience.kafka_source_create('in')});
$kafka->create_topic('in', 1);

# Sends messages numbered so.
sub view
{
	my @numbers = @_;
	$kafka->produce('in', map { { key => 'u', value => qq({"userId":"viewer","eventId":"$_","eventType":"view"}) } } @numbers);
	return;
}

view(1 .. 5);
wait_for($node, 'messages come in', 'SELECT count(*) FROM audience.events', is => 5);
append_to_file($deaf, '');
# a fetch that is answered already is none that is waited for
sleep 2;
my $began = time;
view(6 .. 10);
wait_for($node, 'it is seen that there is more',
	'SELECT lag > 0 FROM audience.stat_kafka_source', is => 't', within => 60);
is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.events'), 5, 'but nothing comes');
wait_for($node, 'the connection is given up',
	q{SELECT count(*) > 0 FROM audience.stat_kafka_errors WHERE message ~ 'nothing came for a minute'}, is => 't', within => 150);
cmp_ok(time - $began, '>', 50, 'after a minute');
wait_for($node, 'what was missed comes', 'SELECT count(*) FROM audience.events', is => 10, within => 60);
view(11);
wait_for($node, 'and so on', q{SELECT string_agg(event_id, ' ' ORDER BY event_id::int) FROM audience.events}, is => join(' ', 1 .. 11));
wait_for($node, 'the source runs', 'SELECT state FROM audience.stat_kafka_source', is => 'running');
is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.kafka_dead_letters'), 0, 'no dead letters');
$node->stop;
done_testing();

# Passes on everything between clients and the broker, for ever.
sub pass_on
{
	my $select = IO::Select->new($door);
	my %ends;    # socket => { other => socket, at_client, of => both, asks => it is the client }

	while (1)
	{
		foreach my $socket ($select->can_read(0.2))
		{
			if ($socket == $door)
			{
				my $client = $door->accept or next;
				my $broker = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $kafka->{port});
				next unless $broker;
				my %connection = (requests => '');
				$ends{$client} = { socket => $client, other => $broker, of => \%connection, asks => 1 };
				$ends{$broker} = { socket => $broker, other => $client, of => \%connection };
				$select->add($client, $broker);
				next;
			}
			my $end = $ends{$socket} or next;
			my $bytes;
			unless (sysread($socket, $bytes, 65536))
			{
				foreach my $one ($socket, $end->{other})
				{
					$select->remove($one);
					delete $ends{$one};
					close $one;
				}
				next;
			}
			note_requests($end->{of}, $bytes) if $end->{asks};
			syswrite($end->{other}, $bytes) unless $end->{of}{deaf} && !$end->{asks};
		}
		next unless -e $deaf;
		$_->{of}{deaf} = 1 foreach grep { $_->{of}{fetches} } values %ends;
		unlink $deaf;
	}
	return;
}

# Looks whether there is a request for messages among the bytes of a client.
sub note_requests
{
	my ($connection, $bytes) = @_;
	$connection->{requests} .= $bytes;
	while (length $connection->{requests} >= 6)
	{
		my ($length, $key) = unpack 'N n', $connection->{requests};
		$connection->{fetches} = 1 if $key == FETCH;
		last if length $connection->{requests} < 4 + $length;
		substr($connection->{requests}, 0, 4 + $length, '');
	}
	return;
}
