# AudSession: a psql that stays connected, for tests that measure one backend.
#
#     my $session = AudSession->new($node, $database);
#     my $out = $session->ask($sql);          # waits; what it printed, errors too
#     $session->{pid}, $session->{state}      # of the backend; SQLSTATE of the last ask
#     $session->finish;
package AudSession;

use strict;
use warnings;

use IPC::Run ();

# Connects.
sub new
{
	my ($class, $node, $db) = @_;
	my $self = bless { in => '', out => '' }, $class;

	$self->{psql} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($db // 'postgres') ],
		'<', \$self->{in}, '>', \$self->{out}, '2>&1', IPC::Run::timer(3600));
	($self->{pid}) = $self->ask("SELECT 'pid ' || pg_backend_pid()") =~ /pid ([0-9]+)/
	  or die "could not connect: $self->{out}";
	return $self;
}

# Hands a statement on without waiting for its end; with "timed", psql says how
# long it took.
sub begin
{
	my ($self, $sql, $timed) = @_;

	$self->{out} = '';
	$self->{in} .= ($timed ? "\\timing on\n" : '') . "$sql\n;\n" . ($timed ? "\\timing off\n" : '') . "\\echo <:SQLSTATE>\n";
	$self->{psql}->pump_nb;
	return;
}

# Has it ended?
sub ended
{
	my ($self) = @_;
	return $self->{out} =~ /<\w*>\n\z/;
}

# Waits for the end of what was begun; returns what it printed.
sub wait
{
	my ($self) = @_;

	$self->{psql}->pump until $self->ended;
	$self->{out} =~ s/<(\w*)>\n\z//;
	$self->{state} = $1;
	return $self->{out};
}

# A statement from beginning to end.
sub ask
{
	my ($self, $sql) = @_;

	$self->begin($sql);
	return $self->wait;
}

# The same; it must not fail.
sub must
{
	my ($self, $sql) = @_;
	my $out = $self->ask($sql);

	die "$sql\n$out" if $self->{state} ne '00000';
	chomp $out;
	return $out;
}

# Disconnects.
sub finish
{
	my ($self) = @_;

	$self->{in} .= "\\q\n";
	$self->{psql}->finish;
	return;
}

1;
