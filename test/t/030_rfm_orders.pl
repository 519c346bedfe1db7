# Published customer segments of a real order history, to the customer.
#
# Ten segments are stated as rules over recency, frequency and value; a
# customer belongs to the first that holds.  Each is a segment "rule and in
# none of the earlier ones", so segments that refer to segments are tested with
# it, once filled by the events as they come and once from the events there
# are.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use JSON::PP;
use List::Util qw(shuffle);
use Test::More;

my ($orders_file, $rules_file, $published_file) =
  shared_or_skip('rfm_orders.csv.gz', 'rfm_orders_rules.json',
	'rfm_orders_segments_published.csv');

my @orders = read_csv($orders_file);
my $spec = do
{
	local $/;
	open my $file, '<', $rules_file or die "could not open $rules_file: $!";
	decode_json(<$file>);
};
my %published = map { $_->{segment} => $_ } read_csv($published_file);
my $now = "$spec->{reference_date}T00:00:00Z";

# Orders lie at midnight: "at most n days ago" is "after now - (n + 1) days".
sub rule_of
{
	my ($predicate) = @_;
	my ($field, $operator, $value) = @$predicate{qw(field operator value)};

	if ($field eq 'recencyDays')
	{
		return $operator eq 'lte'
		  ? { field => 'lastActivity', operator => 'within_last',
			value => ($value + 1) . ' days' }
		  : { field => 'lastActivity', operator => 'before_last',
			value => "$value days" };
	}
	my %trait = (purchaseCount => 'orders', totalSpent => 'spent');
	return { field => $trait{$field}, operator => $operator, value => $value };
}

# The statements that make the ten segments, their ids behind a prefix.
sub segments_sql
{
	my ($prefix) = @_;
	my (@earlier, $sql);

	foreach my $segment (@{ $spec->{segments} })
	{
		my $id = $prefix . lc($segment->{segment} =~ s/[^A-Za-z]+/_/gr);
		my $rule = {
			all => [
				(map { rule_of($_) } @{ $segment->{rule}{and} }),
				(map { { segment => $_, operator => 'not_in' } } @earlier) ] };
		$sql .= sprintf
		  "SELECT audience.segment_create(%s, %s::audience.rule, id => %s);\n",
		  quote($segment->{segment}), quote(encode_json($rule)), quote($id);
		push @earlier, $id;
	}
	return $sql;
}

my $node = start_node('rfm');

$node->safe_psql(
	'postgres',
	"SET audience.now = '$now';
SELECT audience.trait_create('spent', 'sum', 'order', 'revenue');
SELECT audience.trait_create('orders', 'count', 'order');
" . segments_sql('live_'));

# in any order, in statements of different sizes
srand(1);
my $n = 0;
my @rows = shuffle map {
	[ $_->{customer_id}, "$_->{order_date}T00:00:00Z", 'o' . $n++, 'order',
		encode_json({ revenue => $_->{revenue} + 0 }) ]
} @orders;
my $sql = "SET audience.now = '$now';\n";
foreach my $size (1, 10, 100, 1000, scalar @rows)
{
	$sql .= copy_rows(
		'audience.events (user_id, occurred_at, event_id, event_type, properties)',
		splice(@rows, 0, $size));
	last unless @rows;
}
run_script($node, $sql);
$node->safe_psql('postgres',
	"SET audience.now = '$now';\n" . segments_sql('filled_'));

is( $node->safe_psql('postgres', 'SELECT count(*) FROM audience.profiles'),
	scalar(keys %{ { map { $_->{customer_id} => 1 } @orders } }),
	'a profile for each customer');

foreach my $prefix ('live_', 'filled_')
{
	my @got = rows_of($node, <<"SQL");
SELECT s.name, count(DISTINCT m.user_id), count(*),
	sum((e.properties->>'revenue')::numeric)
FROM audience.segments s
	JOIN audience.memberships m ON m.segment_id = s.id
	JOIN audience.events e ON e.user_id = m.user_id
WHERE s.id LIKE '$prefix%'
GROUP BY s.name
SQL
	my %got = map { $_->[0] => "$_->[1] customers, $_->[2] orders, $_->[3]" } @got;

	is($got{$_},
		"$published{$_}{customers} customers, $published{$_}{orders} orders, $published{$_}{revenue}",
		"$prefix: $_ as published")
	  foreach sort keys %published;
	is(scalar(keys %got), scalar(keys %published), "$prefix: no other segment has members");
}

verify_empty($node);
replay_ok($node);
$node->stop;
done_testing();
