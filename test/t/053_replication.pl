# A standby answers and, promoted, goes on; events that come by logical
# replication are stored and not evaluated, until profile_rebuild().
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 'logical', extra => [ '--encoding=UTF8', '--locale=C' ]);
$primary->append_conf('postgresql.conf', "audience.strict = on\ntimezone = 'UTC'\njit = off\n");
$primary->start;
$primary->safe_psql('postgres', <<'SQL');
CREATE EXTENSION audience_manager;
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.segment_create('Lately', 'count(login, LAST ''1 day'') >= 2');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1']);
INSERT INTO audience.events (user_id, event_id, event_type, properties)
SELECT 'u' || n % 10, n, (ARRAY['login', 'purchase'])[1 + n % 2], jsonb_build_object('amount', n)
FROM generate_series(1, 100) n;
SQL
$primary->backup('backup');

my $memberships = 'SELECT segment_id, user_id, entered_at, source FROM audience.memberships ORDER BY 1, 2';

#
# a standby
#
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->safe_psql('postgres', q{SELECT audience.event_ingest('{"userId":"new","eventType":"purchase","eventId":"1","properties":{"amount":101}}')});
$primary->wait_for_catchup($standby);

is($standby->safe_psql('postgres', $memberships), $primary->safe_psql('postgres', $memberships),
	'a standby has the memberships');
is($standby->safe_psql('postgres', "SELECT audience.profile_get('new')->>'totalSpent'"), '101', 'and answers');
is($standby->safe_psql('postgres', "SELECT matching FROM audience.segment_preview('totalSpent > 100')"),
	$standby->safe_psql('postgres', "SELECT audience.segment_count('spenders')"), 'previews too');
my ($status, $out, $error) = $standby->psql('postgres',
	q{SELECT audience.event_ingest('{"userId":"new","eventType":"purchase"}')});
like($error, qr/read-only/, 'but takes no events');

$primary->stop;
$standby->promote;
verify_empty($standby, 'promoted: verify() finds no difference');
$standby->safe_psql('postgres', <<'SQL');
SELECT audience.event_ingest('{"userId":"after","eventType":"purchase","eventId":"1","properties":{"amount":101}}');
SELECT audience.segment_create('After', 'count(purchase) >= 1');
SQL
is($standby->safe_psql('postgres', "SELECT string_agg(segment_id, ' ' ORDER BY segment_id) FROM audience.memberships WHERE user_id = 'after'"),
	'after spenders', 'promoted: events and definitions as ever');
verify_empty($standby, 'promoted: and after them');
replay_ok($standby);

#
# logical replication
#
my $subscriber = start_node('subscriber');
$subscriber->safe_psql('postgres', "SELECT audience.segment_create('Spenders', 'totalSpent > 100')");
$standby->safe_psql('postgres', 'CREATE PUBLICATION events FOR TABLE audience.events');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION events CONNECTION '"
	  . $standby->connstr . " dbname=postgres' PUBLICATION events");
$subscriber->wait_for_subscription_sync($standby, 'events');
$standby->safe_psql('postgres', q{SELECT audience.event_ingest('{"userId":"streamed","eventType":"purchase","eventId":"1","properties":{"amount":101}}')});
$standby->wait_for_catchup('events');

is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM audience.events'),
	$standby->safe_psql('postgres', 'SELECT count(*) FROM audience.events'), 'subscriber: events are stored');
is($subscriber->safe_psql('postgres', 'SELECT (SELECT count(*) FROM audience.memberships), (SELECT count(*) FROM audience.transitions)'),
	'0|0', 'and not evaluated');
is($subscriber->safe_psql('postgres', 'SELECT audience.profile_rebuild() = (SELECT count(DISTINCT user_id) FROM audience.events)'),
	't', 'profile_rebuild() takes all their users');
is($subscriber->safe_psql('postgres', "SELECT user_id FROM audience.memberships WHERE segment_id = 'spenders' ORDER BY 1"),
	$standby->safe_psql('postgres', "SELECT user_id FROM audience.memberships WHERE segment_id = 'spenders' ORDER BY 1"),
	'and evaluates them');
verify_empty($subscriber, 'subscriber: verify() finds no difference');

$subscriber->stop;
$standby->stop;
done_testing();
