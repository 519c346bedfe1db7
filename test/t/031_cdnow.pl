# Repeat purchases of the CDNOW sample as the R package BTYD counts them.
#
# Per customer: x, the repeat purchase days of the calibration period; t_x, the
# time of the last one and T_cal, the length of observation, in weeks; m_x, the
# mean spend of a repeat day; x_star, the purchase days after the calibration
# period.  All of them are traits here.  Purchases of one day are one event
# "day"; the single purchases are ingested as "purchase" beside it.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use List::Util qw(max);
use Test::More;

my ($purchases_file, $btyd_file) =
  shared_or_skip('cdnow_sample.csv.gz', 'cdnow_sample_cbs_btyd.csv.gz');
my @purchases = read_csv($purchases_file);
my @btyd = read_csv($btyd_file);

my $calibration_end = '1997-09-30';
# the most purchase days that anyone has after it
my $most = max(map { $_->{x_star} } @btyd);
my $columns =
  'audience.events (user_id, occurred_at, event_id, event_type, properties)';

# the events of the days that a test accepts, in cents to stay exact
sub events_of
{
	my ($accept) = @_;
	my (%cents, @rows);
	my $n = 0;

	foreach my $purchase (@purchases)
	{
		$n++;
		next unless $accept->($purchase->{date});
		my ($whole, $fraction) = split /\./, $purchase->{dollar_value};
		$cents{"$purchase->{sample_id},$purchase->{date}"} +=
		  $whole * 100 + substr(($fraction // '') . '00', 0, 2);
		push @rows,
		  [ $purchase->{sample_id}, "$purchase->{date}T00:00:00Z", "p$n", 'purchase',
			"{\"value\":$purchase->{dollar_value}}" ];
	}
	foreach my $key (sort keys %cents)
	{
		my ($id, $date) = split /,/, $key;
		push @rows, [ $id, "${date}T00:00:00Z", "d$date", 'day',
			sprintf('{"value":%d.%02d}', $cents{$key} / 100, $cents{$key} % 100) ];
	}
	return @rows;
}

my $node = start_node('cdnow');

$node->safe_psql('postgres', <<"SQL");
SET audience.now = '1996-12-31T00:00:00Z';
SELECT audience.trait_create('days', 'count', 'day');
SELECT audience.trait_create('daysActive', 'days_active', 'purchase');
SELECT audience.trait_create('spent', 'sum', 'day', 'value');
SELECT audience.trait_create('firstSpend', 'first', 'day', 'value');
SELECT audience.trait_create('firstDay', 'first_time', 'day');
SELECT audience.trait_create('lastDay', 'last_time', 'day');
SELECT audience.trait_create('holdout', 'count', 'day', time_window => '273 days');
SELECT audience.segment_create('holdout ' || n, format(
	'{"event":"day","operator":"gte","value":%s,"window":{"from":"1997-10-01T00:00:00Z"}}', n)::audience.rule)
FROM generate_series(1, $most) n;
SQL

# calibration: now is its last day
run_script($node,
	"SET audience.now = '${calibration_end}T00:00:00Z';\n"
	  . copy_rows($columns, events_of(sub { $_[0] le $calibration_end })));
my %calibration = map { $_->[0] => $_ } rows_of($node, <<"SQL");
SELECT user_id, (p->>'days')::int - 1, (p->>'daysActive')::int - 1,
	extract(epoch FROM (p->>'lastDay')::timestamptz - (p->>'firstDay')::timestamptz) / 604800,
	extract(epoch FROM timestamptz '${calibration_end}Z' - (p->>'firstDay')::timestamptz) / 604800,
	((p->>'spent')::numeric - (p->>'firstSpend')::numeric) / nullif((p->>'days')::int - 1, 0)
FROM audience.profiles, audience.profile_get(user_id) p
SQL

my @wrong;
foreach my $expected (@btyd)
{
	my $got = $calibration{ $expected->{sample_id} };
	push @wrong, $expected->{sample_id}
	  unless defined $got
	  && $got->[1] == $expected->{x}
	  && $got->[2] == $expected->{x}
	  && abs($got->[3] - $expected->{t_x_weeks}) < 1e-9
	  && abs($got->[4] - $expected->{T_cal_weeks}) < 1e-9
	  && abs(($got->[5] || 0) - $expected->{m_x}) < 1e-6;
}
is(scalar(keys %calibration), scalar(@btyd), 'a profile for each customer');
is("@wrong", '', 'x, t_x, T_cal and m_x of every customer');

# holdout: the purchases after it, in statements of 500; then all as of its end
my @rows = events_of(sub { $_[0] gt $calibration_end });
my $sql = "SET audience.now = '1998-06-30T00:00:00Z';\n";
$sql .= copy_rows($columns, splice(@rows, 0, 500)) while @rows;
run_script($node, $sql);
$node->safe_psql('postgres',
	"SET audience.now = '1998-06-30T00:00:00Z'; SELECT audience.profile_rebuild()");

my %holdout = map { $_->[0] => $_ } rows_of($node, <<'SQL');
SET audience.now = '1998-06-30T00:00:00Z';
SELECT user_id, (audience.profile_get(user_id)->>'holdout')::int,
	(SELECT count(*) FROM audience.memberships m WHERE m.user_id = p.user_id)
FROM audience.profiles p
SQL
my @wrong_trait =
  grep { $holdout{$_->{sample_id}}[1] != $_->{x_star} } @btyd;
my @wrong_segments =
  grep { $holdout{$_->{sample_id}}[2] != $_->{x_star} } @btyd;
is(join(' ', map { $_->{sample_id} } @wrong_trait),
	'', 'x_star of every customer, by a sliding trait');
is(join(' ', map { $_->{sample_id} } @wrong_segments),
	'', 'x_star of every customer, by the segments entered');

verify_empty($node);
replay_ok($node);
$node->stop;
done_testing();
