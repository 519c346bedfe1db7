# Published retention of a game's launch, to the user.
#
# Of the users whose first day is d, how many were seen again on day d + k: a
# segment for each cohort and one that refers to it for each of the 110 cells.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use POSIX qw(strftime);
use Test::More;
use Time::Local qw(timegm);

my ($events_file, $published_file) =
  shared_or_skip('gamelaunch.csv.gz', 'gamelaunch_cohort_day_published.csv');
my @events = read_csv($events_file);
my @cells = read_csv($published_file);

# a day so many days later, as a timestamp
sub day_after
{
	my ($day, $days) = @_;
	my ($year, $month, $date) = split /-/, $day;
	return strftime('%Y-%m-%dT00:00:00Z',
		gmtime(timegm(0, 0, 0, $date, $month - 1, $year) + $days * 86400));
}

my $node = start_node('gamelaunch');
my $now = '2016-06-30T00:00:00Z';
my $sql = "SET audience.now = '$now';\n";
my %cohorts = map { $_->{cohort_day} => 1 } @cells;

$sql .= sprintf "SELECT audience.segment_create('cohort %s', %s::audience.rule);\n",
  $_, quote(sprintf '{"all":[
	{"event":"*","aggregate":"first_time","operator":"at_or_after","value":"%s"},
	{"event":"*","aggregate":"first_time","operator":"before","value":"%s"}]}',
	day_after($_, 0), day_after($_, 1))
  foreach sort keys %cohorts;
$sql .= sprintf "SELECT audience.segment_create('cell %s %d', %s::audience.rule);\n",
  $_->{cohort_day}, $_->{day_offset}, quote(sprintf '{"all":[
	{"segment":"%s"},
	{"event":"*","window":{"from":"%s","to":"%s"}}]}',
	"cohort_" . ($_->{cohort_day} =~ s/-/_/gr),
	day_after($_->{cohort_day}, $_->{day_offset}),
	day_after($_->{cohort_day}, $_->{day_offset} + 1))
  foreach @cells;

# the file's order is not that of time, so cohorts are corrected by late events
my $n = 0;
my @rows = map {
	[ $_->{userid}, $_->{eventDate} . 'Z', 'e' . $n++, $_->{eventName} ]
} @events;
$sql .= copy_rows(
	'audience.events (user_id, occurred_at, event_id, event_type)',
	splice(@rows, 0, 5000))
  while @rows;
run_script($node, $sql);

my %got = map { $_->[0] => $_->[1] } rows_of($node,
	"SELECT segment_id, count(*) FROM audience.memberships GROUP BY 1");
my @wrong = grep {
	my $id = "cell_$_->{cohort_day}_$_->{day_offset}" =~ s/-/_/gr;
	($got{$id} // 0) != $_->{users}
} @cells;
is(scalar(@cells), 110, 'cells published');
is(join(', ', map { "$_->{cohort_day}+$_->{day_offset}" } @wrong),
	'', 'every cell as published');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM audience.profiles'),
	scalar(keys %{ { map { $_->{userid} => 1 } @events } }),
	'a profile for each user');

verify_empty($node);
replay_ok($node);
$node->stop;
done_testing();
