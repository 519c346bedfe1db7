# What the scheduler does besides timers: it fills what was to be filled later,
# goes on with a fill that was interrupted, and does retention.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use Test::More;

my $node = start_node('jobs', conf => worker_conf() . "fsync = off\naudience.worker_naptime = 1\n");

$node->safe_psql('postgres', <<'SQL');
INSERT INTO audience.events (user_id, event_type, occurred_at, event_id)
SELECT 'u' || i % 20000, (ARRAY['view', 'buy', 'view'])[1 + i % 3], now() - i * interval '1 minute', i
FROM generate_series(1, 60000) i;
SQL

#
# fills
#
$node->safe_psql('postgres', q{SELECT audience.segment_create('buyers', 'count(buy, LAST ''30 days'') >= 1', refresh => 'later')});
wait_for($node, 'a segment that was to be filled later is filled', q{SELECT status FROM audience.segments WHERE id = 'buyers'}, is => 'ready', within => 30);
is($node->safe_psql('postgres', q{SELECT audience.segment_count('buyers')}),
	$node->safe_psql('postgres', q{SELECT count(DISTINCT user_id) FROM audience.events WHERE event_type = 'buy' AND occurred_at > now() - interval '30 days'}),
	'with whom the rule holds for');
verify_empty($node);

# references make a chain of fills
$node->safe_psql('postgres', <<'SQL');
BEGIN;
SELECT audience.segment_create('First', 'eventCount >= 2', id => 'first', refresh => 'later');
SELECT audience.segment_create('Second', 'IN SEGMENT ''first'' AND IN SEGMENT ''buyers''', id => 'second', refresh => 'later');
SELECT audience.segment_update('buyers', rules => 'count(buy) >= 1', refresh => 'later');
COMMIT;
SQL
wait_for($node, 'segments of segments, too', q{SELECT count(*) FROM audience.segments WHERE pending IS NOT NULL OR status <> 'ready'}, is => 0, within => 30);
is($node->safe_psql('postgres', q{SELECT audience.segment_count('second')}),
	$node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT FROM audience.events GROUP BY user_id HAVING count(*) >= 2 AND bool_or(event_type = 'buy')) u}),
	'right to the end of the chain');
is($node->safe_psql('postgres', 'SELECT count(*) FROM audience.segment_refresh_progress'), 0, 'and nothing goes on');
verify_empty($node);

# a CALL that was interrupted: the scheduler is kept out, so that there is something left
$node->safe_psql('postgres', "ALTER DATABASE postgres SET audience.now = ''; ALTER SYSTEM SET audience.databases = 'none'");
$node->reload;
wait_state($node, 'not running', 'without a scheduler');
$node->safe_psql('postgres', q{SELECT audience.segment_update('first', rules => 'eventCount >= 3', refresh => 'later')});
$node->safe_psql('postgres', q{SELECT audience.refresh_step(max(fill), 1000) FROM audience.refreshes});
is($node->safe_psql('postgres', 'SELECT segment_id, phase, users_done, users_total FROM audience.segment_refresh_progress'),
	'first|filling|1000|20000', 'a fill stands where it was left');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET audience.databases');
$node->reload;
wait_for($node, 'the scheduler goes on with it', q{SELECT count(*) FROM audience.refreshes}, is => 0, within => 30);
verify_empty($node);
is(scheduler_field($node, 'errors'), 0, 'without errors');

# somebody holds a user's row: the fill that comes to it waits, timers go on
$node->safe_psql('postgres', set_timers("SELECT 'timer', now() + interval '1 day'"));
my $holder = $node->background_psql('postgres');
$holder->query_safe(q{BEGIN; SELECT FROM audience.profiles WHERE user_id = 'u7' FOR UPDATE});
$node->safe_psql('postgres', q{SELECT audience.segment_create('held', 'eventCount >= 3', refresh => 'later')});
wait_for($node, 'a fill comes to a row that is held', q{SELECT users_done > 0 FROM audience.segment_refresh_progress WHERE segment_id = 'held'}, within => 30);
$node->safe_psql('postgres', set_timers("SELECT 'timer', now()"));
wait_for($node, 'timers go on', q{SELECT count(*) FROM audience.timers WHERE user_id = 'timer'}, is => 0);
is($node->safe_psql('postgres', q{SELECT status FROM audience.segments WHERE id = 'held'}), 'building', 'while the fill waits');
$holder->query_safe('COMMIT');
$holder->quit;
wait_for($node, 'and ends when the row is free', q{SELECT status FROM audience.segments WHERE id = 'held'}, is => 'ready', within => 30);
verify_empty($node);

# a deadlock with a transaction of several statements is others in the way, too, and no error
is($node->safe_psql('postgres', <<'SQL'), "2\n2", 'a step that is given up because of a deadlock is tried again later');
BEGIN;
INSERT INTO audience.refreshes (segment_number) SELECT number FROM audience.segments WHERE id = 'held';
CREATE FUNCTION public.deadlock() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = 'deadlock_detected'; END $$;
CREATE OR REPLACE FUNCTION audience.refresh_step(fill bigint, users integer DEFAULT NULL) RETURNS boolean LANGUAGE sql AS 'SELECT public.deadlock(); SELECT false';
CREATE OR REPLACE FUNCTION audience.run_retention(chunk integer DEFAULT 1000) RETURNS boolean LANGUAGE sql AS 'SELECT public.deadlock(); SELECT false';
SELECT audience.refresh_work();
SELECT audience.retention_work();
ROLLBACK;
SQL

#
# retention
#
is($node->safe_psql('postgres', q{SELECT count(*) > 0 FROM audience.events WHERE occurred_at < now() - interval '40 days'}), 't', 'there are old events');
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET audience.event_retention = '20d'});
wait_for($node, 'events that nobody needs are removed', q{SELECT count(*) FROM audience.events WHERE occurred_at < now() - interval '21 days'}, is => 0, within => 60);
is($node->safe_psql('postgres', q{SELECT sum((audience.profile_get(user_id) ->> 'eventCount')::int) FROM audience.profiles}), 60000, 'and still counted');
verify_empty($node);
is(scheduler_field($node, 'errors'), 0, 'without errors');

$node->stop;
done_testing();
