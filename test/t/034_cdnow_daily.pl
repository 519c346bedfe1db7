# The CDNOW sample as it came: day by day, for 546 days.
#
# Each day's purchases are ingested as of that day's end, and run_due brings
# everyone there.  At the end of every day each segment must have the
# members that a plain recomputation from the events finds: windows that lose
# events, customers who fall silent, sequences whose last step is that nothing
# happens.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use Test::More;
use Time::Local qw(timegm);

my ($purchases_file) = shared_or_skip('cdnow_sample.csv.gz');
my @purchases = read_csv($purchases_file);
my $first = timegm(0, 0, 0, 1, 0, 1997);
my $days = 546;

# a time of day for each, so that moments are not all midnight
my %day;
my $n = 0;
foreach my $purchase (@purchases)
{
	my $second = ++$n * 7919 % 86400;

	push @{ $day{ $purchase->{date} } },
	  [ $purchase->{sample_id}, sprintf('%sT%02d:%02d:%02dZ', $purchase->{date}, $second / 3600, $second / 60 % 60, $second % 60),
		"p$n", 'purchase', "{\"value\":$purchase->{dollar_value},\"cds\":$purchase->{number_of_cds}}" ];
}

my $node = start_node('cdnow_daily', conf => "fsync = off\n");

$node->safe_psql('postgres', <<'SQL');
SET audience.now = '1996-12-31T00:00:00Z';
SELECT audience.segment_create('Fresh', 'count(purchase, LAST ''7 days'') >= 1');
SELECT audience.segment_create('Regular', 'count(purchase, LAST ''60 days'') >= 3');
SELECT audience.segment_create('Spender', 'sum(purchase.value, LAST ''30 days'') > 50');
SELECT audience.segment_create('Silent', 'count(purchase, LAST ''90 days'') = 0');
SELECT audience.segment_create('Bulk', 'max(purchase.cds, LAST ''45 days'') >= 4');
SELECT audience.segment_create('Returning', 'lastActivity WITHIN LAST ''20 days'' AND NOT first_time(purchase) WITHIN LAST ''20 days''');
SELECT audience.segment_create('Lost', 'SEQUENCE(purchase, NOT purchase WITHIN ''120 days'')');
CREATE TABLE daily (at timestamptz, segment_id text, members bigint);
SQL

my $sql = "CREATE TEMPORARY TABLE looked (n bigint);\n";
my $run_due = "INSERT INTO looked SELECT audience.run_due();\n";
foreach my $d (0 .. $days - 1)
{
	my @date = gmtime($first + $d * 86400);
	my $date = sprintf '%d-%02d-%02d', $date[5] + 1900, $date[4] + 1, $date[3];

	# the day's purchases come before run_due on one day, after it on the next
	$sql .= "SET audience.now = '${date}T23:59:59.999999Z';\n";
	$sql .= $run_due if $d % 2;
	$sql .= copy_rows('audience.events (user_id, occurred_at, event_id, event_type, properties)',
		@{ $day{$date} })
	  if $day{$date};
	$sql .= $run_due unless $d % 2;
	$sql .= "INSERT INTO daily SELECT audience.now(), s.id, count(m.segment_id) FROM audience.segments s\n"
	  . "LEFT JOIN audience.memberships m ON m.segment_id = s.id GROUP BY s.id;\n";
}
run_script($node, $sql);

# per segment and day: what was counted, and what the events give
is($node->safe_psql('postgres', <<'SQL'), '', 'every day, each segment has the members that the events give');
WITH event AS MATERIALIZED (
	SELECT user_id, occurred_at AS t, event_id, (properties ->> 'value')::numeric AS value, (properties ->> 'cds')::numeric AS cds,
		lead(occurred_at) OVER (PARTITION BY user_id ORDER BY occurred_at) AS next
	FROM audience.events),
day AS (SELECT DISTINCT at FROM daily),
per_user AS (
	SELECT at, user_id,
		count(*) FILTER (WHERE t > at - interval '7 days') >= 1 AS fresh,
		count(*) FILTER (WHERE t > at - interval '60 days') >= 3 AS regular,
		sum(value) FILTER (WHERE t > at - interval '30 days') > 50 AS spender,
		count(*) FILTER (WHERE t > at - interval '90 days') = 0 AS silent,
		max(cds) FILTER (WHERE t > at - interval '45 days') >= 4 AS bulk,
		max(t) > at - interval '20 days' AND min(t) <= at - interval '20 days' AS returning_,
		bool_or(at > t + interval '120 days' AND (next IS NULL OR next > t + interval '120 days' OR next = t AND NOT EXISTS (
			SELECT FROM event e WHERE e.user_id = event.user_id AND e.t > event.t AND e.t <= event.t + interval '120 days'))) AS lost
	FROM day JOIN event ON t <= at GROUP BY at, user_id),
expected AS (
	SELECT at, unnest('{fresh,regular,spender,silent,bulk,returning,lost}'::text[]) AS segment_id,
		unnest(ARRAY[count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE regular), count(*) FILTER (WHERE spender), count(*) FILTER (WHERE silent),
			count(*) FILTER (WHERE bulk), count(*) FILTER (WHERE returning_), count(*) FILTER (WHERE lost)]) AS members
	FROM per_user GROUP BY at)
SELECT segment_id, at, d.members, e.members FROM daily d FULL JOIN expected e USING (at, segment_id)
WHERE d.members IS DISTINCT FROM e.members ORDER BY 2, 1 LIMIT 10
SQL
is($node->safe_psql('postgres', 'SELECT count(DISTINCT at), bool_and(members > 0) FROM (SELECT at, segment_id, max(members) OVER (PARTITION BY segment_id) AS members FROM daily) d'),
	"$days|t", "$days days, and no segment is always empty");
is($node->safe_psql('postgres', <<'SQL'), '0', 'who left or entered by time did so at the moment of an event and a window');
SELECT count(*) FROM audience.transitions t
WHERE reason = 'expired' AND NOT EXISTS (
	SELECT FROM audience.events e, unnest('{7,20,30,45,60,90,120}'::int[]) d
	WHERE e.user_id = t.user_id AND t.occurred_at IN (e.occurred_at + d * interval '1 day', e.occurred_at + d * interval '1 day' + interval '1 microsecond'))
SQL

verify_empty($node);
replay_ok($node);
$node->stop;
done_testing();
