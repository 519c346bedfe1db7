# Workers that exchange messages with Kafka as a role of their own: it needs
# what grant_access(..., 'kafka') gives, and no more; and triggers that somebody
# has put on the events run as that role, not as a superuser.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudKafka;
use AudTest;
use AudWorkers;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = start_kafka();
my $node = start_node('role', conf => worker_conf());
my $bootstrap = $kafka->bootstrap;

$kafka->create_topic($_, 2) foreach qw(user-events user-segments segment-updates);
$node->safe_psql('postgres', <<"SQL");
CREATE ROLE bridge;
CREATE ROLE bystander;
SELECT audience.grant_access('bridge', 'kafka');
ALTER DATABASE postgres SET audience.kafka_role = 'bridge';
CREATE TABLE public.seen (who text, superuser text);
GRANT INSERT ON public.seen TO bridge;
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	BEGIN
		RESET ROLE;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	INSERT INTO public.seen VALUES (current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user));
	RETURN NULL;
END \$\$;
CREATE TRIGGER see AFTER INSERT ON audience.events FOR EACH ROW EXECUTE FUNCTION public.see();
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers": "$bootstrap"}');
SELECT audience.kafka_source_create('user-events');
SELECT audience.kafka_source_create('segment-updates', 'segments');
SELECT audience.kafka_sink_create('user-segments', 'transitions');
SQL

$kafka->produce('segment-updates',
	{ key => 'buyers', value => '{"segmentId":"buyers","action":"created","segment":{"name":"Buyers","rules":"count(purchase) >= 1"}}' });
wait_for($node, 'a definition came in', "SELECT EXISTS (SELECT FROM audience.segments WHERE id = 'buyers')");
$kafka->produce(
	'user-events',
	{ key => 'u', value => '{"userId":"u","eventType":"purchase","properties":{"amount":150}}' },
	{ key => 'u', value => '{"userId":"u","eventType":' });
wait_for($node, 'what was sent came in', "SELECT (SELECT count(*) = 2 FROM audience.memberships) AND (SELECT count(*) = 1 FROM audience.kafka_dead_letters)");
wait_for($node, 'what became of it went out', 'SELECT depth = 0 AND acked = 2 FROM audience.stat_kafka_sink');
is(scalar(() = $kafka->consume('user-segments')), 2, 'two messages are in the topic');
is($node->safe_psql('postgres', 'SELECT DISTINCT who, superuser FROM public.seen'),
	'bridge|false', 'a trigger on events ran as the role, and could not become anybody else');

# what it may not do
foreach my $forbidden (
	q(SELECT audience.kafka_cluster_set('x', '{"bootstrap.servers": "x"}')),
	q(SELECT audience.kafka_source_create('x')),
	q(SELECT * FROM audience.profiles),
	q(SELECT audience.profile_erase('u')),
	q(DELETE FROM audience.events),
	q(UPDATE audience.segments SET active = false))
{
	my ($status) = $node->psql('postgres', "SET ROLE bridge; $forbidden", on_error_stop => 1);
	isnt($status, 0, "the role may not: $forbidden");
}

# a source that stops is stopped by the role, too
$node->safe_psql('postgres', "SELECT audience.kafka_source_seek('user-events', '1000', 0)");
wait_for($node, 'a source stops', "SELECT (SELECT stopped LIKE 'offset 1000 of partition 0 is not there%' FROM audience.kafka_sources WHERE id = 'user-events')");
$node->safe_psql('postgres', "SELECT audience.kafka_source_seek('user-events', 'earliest'), audience.kafka_source_resume('user-events')");
wait_for($node, 'and goes on', "SELECT (SELECT sum(next_offset) = 2 FROM audience.stat_kafka_source WHERE source = 'user-events')");

# a role without these privileges, and one that is not there
foreach my $role (qw(bystander nobody_at_all))
{
	$node->safe_psql('postgres', "ALTER DATABASE postgres SET audience.kafka_role = '$role'");
	$kafka->produce('user-events', { key => 'v', value => qq({"userId":"v","eventType":"purchase","eventId":"$role"}) });
	my $pattern = $role eq 'bystander' ? 'permission denied for' : 'role "nobody_at_all" does not exist';
	wait_log($node, qr/$pattern/, "$role: the log says why nothing comes in");
}
$node->safe_psql('postgres', 'ALTER DATABASE postgres RESET audience.kafka_role');
wait_for($node, 'as the owner all comes in', "SELECT (SELECT count(*) = 2 FROM audience.events WHERE user_id = 'v')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.events'), '3', 'each event once');
verify_empty($node);

$node->stop;
$kafka->stop;
done_testing();
