# Nested documents as they come: whole orders as the properties of events.
#
# Each rule over arrays of objects, arrays of text and geographical fields that
# some orders lack is compared with plain SQL over the same JSON, for the
# segment kept up while the orders came in and for segment_preview().
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use JSON::PP;
use Test::More;

my $orders_file = shared_or_skip('ecommerce_orders.jsonl.gz');
my @orders = read_jsonl($orders_file);
my $now = '2017-01-01T00:00:00Z';

# id, rule, the condition over an order "o" (all of a user's orders are "e")
# that a user has to fulfil
my @cases = (
	[ 'first_product', '{"event":"order","where":{"field":"products[0].category","operator":"eq","value":"Men\'s Shoes"}}',
		q{bool_or(o->'products'->0->>'category' = 'Men''s Shoes')} ],
	[ 'last_product', '{"event":"order","where":{"field":"products[-1].quantity","operator":"gte","value":2}}',
		q{bool_or((o->'products'->-1->>'quantity')::numeric >= 2)} ],
	[ 'any_product', '{"event":"order","where":{"field":"products[*].category","operator":"eq","value":"Women\'s Accessories"},"operator":"gte","value":40}',
		q{count(*) FILTER (WHERE EXISTS (SELECT FROM jsonb_array_elements(o->'products') p WHERE p->>'category' = 'Women''s Accessories')) >= 40} ],
	[ 'product_price', '{"event":"order","where":{"field":"products[*].price","operator":"gt","value":150}}',
		q{bool_or(EXISTS (SELECT FROM jsonb_array_elements(o->'products') p WHERE (p->>'price')::numeric > 150))} ],
	[ 'integer_key', '{"event":"order","where":{"field":"products.1.manufacturer","operator":"starts_with","value":"Low Tide"},"operator":"gte","value":15}',
		q{count(*) FILTER (WHERE o->'products'->1->>'manufacturer' LIKE 'Low Tide%') >= 15} ],
	[ 'contains', '{"event":"order","where":{"field":"category","operator":"contains","value":"Men\'s Shoes"},"operator":"gte","value":40}',
		q{count(*) FILTER (WHERE o->'category' ? 'Men''s Shoes') >= 40} ],
	[ 'element', '{"event":"order","where":{"field":"category","operator":"eq","value":"Men\'s Shoes"},"operator":"gte","value":40}',
		q{count(*) FILTER (WHERE o->'category' ? 'Men''s Shoes') >= 40} ],
	[ 'whole_array', '{"event":"order","where":{"field":"category","operator":"eq","value":["Men\'s Clothing","Men\'s Shoes"]},"operator":"gte","value":5}',
		q{count(*) FILTER (WHERE o->'category' = '["Men''s Clothing","Men''s Shoes"]') >= 5} ],
	[ 'contains_all', '{"event":"order","where":{"field":"category","operator":"contains_all","value":["Women\'s Clothing","Women\'s Accessories","Women\'s Shoes"]}}',
		q{bool_or(o->'category' ?& ARRAY['Women''s Clothing','Women''s Accessories','Women''s Shoes'])} ],
	[ 'contains_none', '{"event":"order","where":{"field":"manufacturer","operator":"contains_none","value":["Elitelligence","Low Tide Media","Oceanavigations"]},"operator":"gt","value":50}',
		q{count(*) FILTER (WHERE NOT o->'manufacturer' ?| ARRAY['Elitelligence','Low Tide Media','Oceanavigations']) > 50} ],
	[ 'no_region', '{"event":"order","where":{"field":"geoip.region_name","operator":"not_exists"},"operator":"gte","value":1}',
		q{bool_or(o->'geoip'->'region_name' IS NULL)} ],
	[ 'no_region_anywhere', '{"event":"order","where":{"field":"geoip.region_name","operator":"exists"},"operator":"eq","value":0}',
		q{count(o->'geoip'->'region_name') = 0} ],
	[ 'region_not_eq', '{"event":"order","where":{"field":"geoip.region_name","operator":"neq","value":"New York"},"operator":"gte","value":100}',
		q{count(*) FILTER (WHERE o->'geoip'->>'region_name' IS DISTINCT FROM 'New York') >= 100} ],
	[ 'region_not_north', '{"event":"order","where":{"not":{"field":"geoip.location.lat","operator":"gt","value":35.5}},"operator":"gte","value":1}',
		q{bool_or(coalesce(not (o->'geoip'->'location'->>'lat')::numeric > 35.5, true))} ],
	[ 'spent', '{"event":"order","aggregate":"sum","property":"taxful_total_price","operator":"gt","value":9000.75}',
		q{sum((o->>'taxful_total_price')::numeric) > 9000.75} ],
	[ 'average', '{"event":"order","aggregate":"avg","property":"taxful_total_price","operator":"between","value":[70,75]}',
		q{avg((o->>'taxful_total_price')::numeric) BETWEEN 70 AND 75} ],
	[ 'largest', '{"event":"order","aggregate":"max","property":"products[0].taxful_price","operator":"lt","value":100}',
		q{max((o->'products'->0->>'taxful_price')::numeric) < 100} ],
	[ 'distinct_days', '{"event":"order","aggregate":"days_active","operator":"gte","value":30}',
		q{count(DISTINCT ((o->>'order_date')::timestamptz AT TIME ZONE 'UTC')::date) >= 30} ],
	[ 'distinct_lists', '{"event":"order","aggregate":"count_distinct","property":"category","operator":"gte","value":14}',
		q{count(DISTINCT o->'category') >= 14} ],
	[ 'first_city', '{"event":"order","aggregate":"first","property":"geoip.city_name","operator":"in","value":["Cairo","Dubai","New York"]}',
		q{(array_agg(o->'geoip'->>'city_name' ORDER BY (o->>'order_date')::timestamptz, o->>'order_id' COLLATE "C") FILTER (WHERE o->'geoip'->'city_name' IS NOT NULL))[1] IN ('Cairo','Dubai','New York')} ],
	[ 'usual_weekday', '{"event":"order","aggregate":"most_frequent","property":"day_of_week","operator":"eq","value":"Friday"}',
		q{(SELECT d FROM (SELECT x->>'day_of_week' d, count(*) n FROM unnest(array_agg(o)) x GROUP BY 1) w ORDER BY n DESC, to_jsonb(d) LIMIT 1) = 'Friday'} ],
	[ 'last_week', '{"event":"order","window":{"last":"7 days"},"aggregate":"sum","property":"total_quantity","operator":"gte","value":60}',
		q{coalesce(sum((o->>'total_quantity')::numeric) FILTER (WHERE (o->>'order_date')::timestamptz > timestamptz '2017-01-01Z' - interval '7 days'), 0) >= 60} ],
	[ 'gender_text', '{"event":"order","where":{"all":[{"field":"customer_gender","operator":"eq","value":"female","ci":true},{"field":"email","operator":"regex","value":"^m.*-family\\\\.zzz$"}]}}',
		q{bool_or(lower(o->>'customer_gender') = 'female' AND o->>'email' ~ '^m.*-family\.zzz$')} ],
	[ 'empty_phone', '{"event":"order","where":{"field":"customer_phone","operator":"is_empty"},"operator":"gte","value":120}',
		q{count(*) FILTER (WHERE coalesce(o->>'customer_phone', '') = '') >= 120} ],
);

my $node = start_node('orders');

$node->safe_psql('postgres',
	"SET audience.now = '$now';\n" . join '',
	map { sprintf "SELECT audience.segment_create(%s, %s::audience.rule);\n",
		  quote($_->[0]), quote($_->[1]) } @cases);

my (@rows, @staged);
foreach my $line (@orders)
{
	my $order = decode_json($line);
	push @rows, [ $order->{customer_id}, $order->{order_date}, $order->{order_id},
		'order', $line ];
	push @staged, [$line];
}
my $sql = "SET audience.now = '$now';\nCREATE TABLE staged (o jsonb);\n"
  . copy_rows('staged (o)', @staged);
$sql .= copy_rows(
	'audience.events (user_id, occurred_at, event_id, event_type, properties)',
	splice(@rows, 0, 800))
  while @rows;
run_script($node, $sql);
# windows slide with now: all users as of the same moment
$node->safe_psql('postgres',
	"SET audience.now = '$now'; SELECT audience.profile_rebuild()");

is($node->safe_psql('postgres',
		'SELECT count(*), count(DISTINCT properties) FROM audience.events'),
	scalar(@orders) . '|' . scalar(@orders),
	'every order is an event');

foreach my $case (@cases)
{
	my ($id, $rule, $condition) = @$case;
	my $users = $node->safe_psql('postgres',
		"SELECT o->>'customer_id' FROM staged GROUP BY 1 HAVING $condition ORDER BY 1");
	my $count = () = $users =~ /^/mg;

	is( $node->safe_psql('postgres',
			"SELECT user_id FROM audience.segment_members('$id') ORDER BY 1"),
		$users,
		"$id as SQL over the documents ($count of 46 users)");
	is( $node->safe_psql('postgres',
			"SET audience.now = '$now'; SELECT array_to_string(users, E'\\n') FROM (SELECT ARRAY(SELECT unnest(users) ORDER BY 1) AS users FROM audience.segment_preview("
			  . quote($rule) . '::audience.rule, 100)) p'),
		$users,
		"$id by segment_preview()");
}

verify_empty($node);
replay_ok($node);
$node->stop;
done_testing();
