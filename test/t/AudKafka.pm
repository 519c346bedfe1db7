# AudKafka: a Kafka broker for a TAP test, and clients of it.
#
#     my $kafka = start_kafka();              # scripts/kafka.sh, on free ports
#     $kafka->create_topic('t', 3, 'cleanup.policy' => 'compact');
#     my @where = $kafka->produce('t', { key => 'k', value => $bytes });
#     my @messages = $kafka->consume('t');
#     $kafka->kill; $kafka->start;            # its data is still there
#
# Keys and values are bytes; undef is Kafka's null.  Whatever fails dies with
# librdkafka's name of the error, or what else went wrong.
#
# The broker ends with the test, also with one that dies; its log is kept
# beside the servers'.  The work of a client is done by test/kafka_client.py,
# one process for each, which takes one request after the other.
package AudKafka;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use IO::Socket::INET;
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(start_kafka);

my $top = abs_path(dirname(__FILE__) . '/../..');
my @brokers;

# Makes and starts a broker.  advertise => the port that its clients are told.
sub start_kafka
{
	my (%option) = @_;
	my $self = bless {
		%option,
		dir => abs_path(PostgreSQL::Test::Utils::tempdir('kafka')),
		owner => $$,
		clients => []
	}, __PACKAGE__;

	# so that END has its turn
	foreach my $signal (qw(HUP INT TERM))
	{
		$SIG{$signal} = sub { exit 1; }
		  unless defined $SIG{$signal} && $SIG{$signal} ne 'DEFAULT';
	}
	push @brokers, $self;

	# between our look and the broker's bind, somebody may take a port
	for (my $try = 1;; $try++)
	{
		$self->{port} = free_ports();
		last if eval { $self->start; 1 };
		die $@ if $try == 5 || $@ !~ /Address already in use/;
	}
	$self->{client} = $self->client;
	return $self;
}

# The first of five ports in a row that are free.  They are below those that
# systems give to outgoing connections, and PostgreSQL's tests to servers.
sub free_ports
{
	for (1 .. 200)
	{
		my $first = 20000 + int(rand(10000));
		my @sockets = grep { defined } map {
			IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $_, Listen => 1, ReuseAddr => 1)
		} $first .. $first + 4;

		return $first if @sockets == 5;
	}
	die 'found no free ports';
}

# Runs kafka.sh on the broker; returns what it prints.
sub script
{
	my ($self, $command, @arguments) = @_;
	my ($out, $error) = ('', '');

	# known to teardown, as a signal may come while it runs
	$self->{running} = IPC::Run::start([ "$top/scripts/kafka.sh", $command, '--dir', $self->{dir}, @arguments ],
		'<', \undef, '>', \$out, '2>', \$error, IPC::Run::timeout(300));
	my $done = $self->{running}->finish;
	delete $self->{running};
	die "kafka.sh $command: $error" unless $done;
	return $out;
}

# Starts it again on its data, at its port.
sub start
{
	my ($self) = @_;
	$self->script('start', '--port', $self->{port}, defined $self->{advertise} ? ('--advertise', $self->{advertise}) : ());
	return;
}

sub stop { $_[0]->script('stop'); return; }

# kill -9
sub kill { $_[0]->script('kill'); return; }

# SIGSTOP: connections stay, nothing is answered
sub pause { $_[0]->script('pause'); return; }

sub continue { $_[0]->script('continue'); return; }

sub restart
{
	my ($self) = @_;
	$self->stop;
	$self->start;
	return;
}

# The broker's directory, password of the SASL user "audience", certificates.
sub dir { return $_[0]->{dir}; }
sub ca { return "$_[0]->{dir}/ca.pem"; }
sub password_file { return "$_[0]->{dir}/password"; }

sub password
{
	my ($self) = @_;
	my $password = PostgreSQL::Test::Utils::slurp_file($self->password_file);
	chomp $password;
	return $password;
}

# The address of a listener: PLAINTEXT, SASL_PLAINTEXT, SSL or SASL_SSL.
sub bootstrap
{
	my ($self, $protocol) = @_;
	my %place = (PLAINTEXT => 0, SASL_PLAINTEXT => 2, SSL => 3, SASL_SSL => 4);
	my $place = $place{ $protocol // 'PLAINTEXT' } // die "no listener $protocol";
	return '127.0.0.1:' . ($self->{port} + $place);
}

# Another client.  Options: protocol (PLAINTEXT), mechanism (PLAIN), user and
# password, ca, and config => more of librdkafka's settings.
sub client
{
	my ($self, %option) = @_;
	my $protocol = $option{protocol} // 'PLAINTEXT';
	my %config = (
		'bootstrap.servers' => $self->bootstrap($protocol),
		'security.protocol' => $protocol,
		'reconnect.backoff.max.ms' => 500);

	if ($protocol =~ /SASL/)
	{
		$config{'sasl.mechanisms'} = $option{mechanism} // 'PLAIN';
		$config{'sasl.username'} = $option{user} // 'audience';
		$config{'sasl.password'} = $option{password} // $self->password;
	}
	$config{'ssl.ca.location'} = $option{ca} // $self->ca if $protocol =~ /SSL/;

	my $client = AudKafka::Client->new($top, { %config, %{ $option{config} // {} } });
	push @{ $self->{clients} }, $client;
	return $client;
}

# What a client can do, done by the broker's own.
foreach my $method (
	qw(create_topic delete_topic add_partitions delete_records topics watermarks
	produce produce_in begin commit abort consume))
{
	no strict 'refs';
	*{$method} = sub { my $self = shift; return $self->{client}->$method(@_); };
}

# Ends the broker and its clients for good.
sub teardown
{
	my ($self) = @_;
	my $log = basename($0, '.pl') . '_' . basename($self->{dir}) . '.log';

	$_->close foreach @{ $self->{clients} };
	# it ends what it was about to start
	eval { (delete $self->{running})->kill_kill(grace => 30); 1 } or warn $@
	  if $self->{running};
	eval { $self->kill; 1 } or warn $@;
	copy("$self->{dir}/kafka.log", "$PostgreSQL::Test::Utils::log_path/$log");
	return;
}

END
{
	# a test's own exit status stays
	local $?;
	foreach my $broker (@brokers)
	{
		$broker->teardown if $broker->{owner} == $$;
	}
}

package AudKafka::Client;

use IPC::Open3;
use JSON::PP;

my $json = JSON::PP->new->utf8->canonical;

# A client of these settings.  Its process is started by the first request.
sub new
{
	my ($class, $directory, $config) = @_;
	return bless { program => "$directory/test/kafka_client.py", config => $config }, $class;
}

# Starts the process.
sub open
{
	my ($self) = @_;
	my $log = "$PostgreSQL::Test::Utils::log_path/" . File::Basename::basename($0, '.pl') . '_kafka_client.log';

	CORE::open(my $error, '>>', $log) or die "could not open $log: $!";
	$self->{owner} = $$;
	$self->{pid} = open3(my $in, my $out, '>&' . fileno($error), '/usr/bin/python3', $self->{program});
	close $error;
	binmode $_ foreach $in, $out;
	$self->{in} = $in;
	$self->{out} = $out;
	# not as arguments, which everybody can see
	$self->request({ command => 'configure', config => $self->{config} });
	return;
}

# Ends the process.  The next request starts another.
sub close
{
	my ($self) = @_;
	my $pid = delete $self->{pid};

	return unless defined $pid && $self->{owner} == $$;
	CORE::close(delete $self->{in});
	CORE::close(delete $self->{out});
	local $?;
	CORE::kill('KILL', $pid);
	waitpid($pid, 0);
	return;
}

# The bytes of the keys, values and headers of messages, in the protocol's
# order; they leave their lengths behind.
sub take_bytes
{
	my ($messages) = @_;
	my @bytes;
	my $take = sub {
		my ($data) = @_;
		return undef unless defined $data;
		utf8::downgrade($data, 1) or die 'a message has characters that are not bytes';
		push @bytes, $data;
		return length $data;
	};

	my @taken = map {
		my %message = %$_;
		$message{$_} = $take->($message{$_}) foreach qw(key value);
		$message{headers} = [ map { [ $_->[0], $take->($_->[1]) ] } @{ $message{headers} } ]
		  if $message{headers};
		$message{$_} += 0 foreach grep { defined $message{$_} } qw(partition timestamp);
		\%message;
	} @$messages;
	return (\@taken, @bytes);
}

# So many bytes of a reply; undef for undef.
sub read_bytes
{
	my ($self, $length) = @_;
	return undef unless defined $length;
	my $data = '';
	while (length $data < $length)
	{
		read($self->{out}, $data, $length - length $data, length $data)
		  or die 'kafka_client.py has ended';
	}
	return $data;
}

# Sends a request, whose "messages" have their bytes in them, and returns the
# reply.
sub request
{
	my ($self, $request) = @_;
	my %request = (timeout => 30, %$request);
	my $reply;

	$self->open unless defined $self->{pid};
	($request{messages}, my @bytes) = take_bytes($request{messages}) if $request{messages};

	# it keeps its deadline itself, but for calls of librdkafka that do not
	eval {
		local $SIG{ALRM} = sub { die "timeout: no answer from kafka_client.py\n"; };
		alarm $request{timeout} + 30;
		print { $self->{in} } $json->encode(\%request), "\n", @bytes or die "kafka_client.py has ended: $!";
		$self->{in}->flush;
		my $line = readline $self->{out};
		die 'kafka_client.py has ended' unless defined $line;
		$reply = $json->decode($line);
		foreach my $message (@{ $reply->{messages} // [] })
		{
			$message->{$_} = $self->read_bytes($message->{$_}) foreach qw(key value);
			$_->[1] = $self->read_bytes($_->[1]) foreach @{ $message->{headers} };
		}
		alarm 0;
		1;
	} or do
	{
		my $error = $@;
		alarm 0;
		$self->close;
		die $error;
	};
	die(($reply->{code} // 'error') . ": $reply->{error}\n") unless $reply->{ok};
	return $reply;
}

# A topic of one partition, or so many, with settings.
sub create_topic
{
	my ($self, $topic, $partitions, %config) = @_;
	$self->request({ command => 'create_topic', topic => $topic, partitions => ($partitions // 1) + 0, config => \%config });
	return;
}

sub delete_topic
{
	my ($self, $topic) = @_;
	$self->request({ command => 'delete_topic', topic => $topic });
	return;
}

# Gives a topic so many partitions in all.
sub add_partitions
{
	my ($self, $topic, $total) = @_;
	$self->request({ command => 'add_partitions', topic => $topic, total => $total + 0 });
	return;
}

# Deletes a partition's messages before an offset; returns the first offset
# that is left.
sub delete_records
{
	my ($self, $topic, $partition, $offset) = @_;
	return $self->request({ command => 'delete_records', topic => $topic, partition => $partition + 0, offset => $offset + 0 })
	  ->{low};
}

# The topics' numbers of partitions, by name.
sub topics
{
	my ($self, %option) = @_;
	return $self->request({ command => 'list', %option })->{topics};
}

# Of a topic's partitions in turn: [ first offset, offset of the next ].
sub watermarks
{
	my ($self, $topic) = @_;
	return map { [ @$_[ 1, 2 ] ] } @{ $self->request({ command => 'watermarks', topic => $topic })->{partitions} };
}

# Sends messages: { key, value, partition, headers => [ [ name, value ], ... ],
# timestamp (milliseconds) }.  Returns for each [ partition, offset ].
sub produce
{
	my ($self, $topic, @messages) = @_;
	return @{ $self->request({ command => 'produce', topic => $topic, messages => \@messages })->{offsets} };
}

# The same within a transaction that was begun.
sub produce_in
{
	my ($self, $transaction, $topic, @messages) = @_;
	return @{ $self->request({ command => 'produce', transaction => $transaction, topic => $topic, messages => \@messages })->{offsets} };
}

# Transactions, by the producer's transactional.id.
foreach my $command (qw(begin commit abort))
{
	no strict 'refs';
	*{$command} = sub {
		my ($self, $transaction) = @_;
		$self->request({ command => $command, transaction => $transaction });
		return;
	};
}

# The messages of a topic, by partition and offset, with all that produce takes
# and offset.  Options: partition, offset (the first), count (instead of to the
# end; waits for them), isolation (read_committed), timeout (30).
sub consume
{
	my ($self, $topic, %option) = @_;
	$option{$_} += 0 foreach grep { defined $option{$_} } qw(partition offset count timeout);
	return @{ $self->request({ command => 'consume', topic => $topic, %option })->{messages} };
}

1;
