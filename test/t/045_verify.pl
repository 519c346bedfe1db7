# verify() is empty on a healthy database, whatever rules and traits there are,
# and names each damage, and nothing else.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use Test::More;

my $node = start_node('verify');
my $now = "SET audience.now = '2026-06-10T12:00:00Z';\n";

# What verify() lists after a damage that is taken back: lines of
# problem|user|segment|detail, with N for each number of a transition.
sub problems_after
{
	my ($damage) = @_;
	my $out = $node->safe_psql('postgres', <<"SQL");
BEGIN;
SET LOCAL session_replication_role = replica;
$damage;
SELECT problem, user_id, segment_id,
	CASE problem WHEN 'transition' THEN regexp_replace(detail, 'number \\d+', 'number N') ELSE detail END
FROM audience.verify() ORDER BY problem, user_id, segment_id, 4;
ROLLBACK;
SQL
	return split /\n/, $out;
}

# A damage must give exactly these lines.
sub damage_is
{
	my ($label, $damage, @expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_deeply([ problems_after($damage) ], \@expected, $label)
	  or diag(join("\n", problems_after($damage)));
	return;
}

# The number of a segment, as SQL.
sub number_of
{
	my ($id) = @_;
	return "(SELECT number FROM audience.segments WHERE id = '$id')";
}

# A statement that takes memberships of a user away, enters one (for good, with
# another instant too), or adds a transition to the user's history.
sub leave
{
	my ($user, $id) = @_;
	return "UPDATE audience.profiles SET members = audience.members_remove(members, "
	  . number_of($id) . ") WHERE user_id = '$user'";
}

sub enter
{
	my ($user, $number, $at) = @_;
	return "UPDATE audience.profiles SET members = members_with(members, $number, "
	  . ($at // 'now()') . ") WHERE user_id = '$user'";
}

sub history
{
	my ($user, $number, $added, $reason) = @_;
	return "INSERT INTO audience.transition_log (user_id, occurred_at, reason, entries) "
	  . "VALUES ('$user', now(), '$reason', audience.transition_entry($number, $added, 1))";
}

#
# A small database of which everything is known
#
# memberships with one more or another, packed by hand in the machine's byte
# order: twice the count and 1, times in microseconds from 2000 on, numbers,
# ascending, and which time is whose
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION native(big_endian bytea) RETURNS bytea LANGUAGE sql AS $$
	SELECT CASE WHEN audience.member_since('\x0300000000000000000000000100000000', 1) IS NULL THEN big_endian
		ELSE (SELECT string_agg(substring(big_endian FROM i FOR 1), '' ORDER BY i DESC)
			FROM generate_series(1, length(big_endian)) i) END
$$;
CREATE FUNCTION members_with(members bytea, number int, at timestamptz) RETURNS bytea LANGUAGE sql AS $$
	SELECT native(int4send(count(*)::int * 2 + 1)) ||
		string_agg(native(int8send((extract(epoch FROM m.at - '2000-01-01Z') * 1000000)::bigint)), '' ORDER BY m.number) ||
		string_agg(native(int4send(m.number)), '' ORDER BY m.number) ||
		string_agg(substring(int4send(m.slot::int) FROM 4), '' ORDER BY m.number)
	FROM (SELECT a.*, row_number() OVER (ORDER BY a.number) - 1 AS slot FROM (
		SELECT l.* FROM audience.members_list(members) l WHERE l.segment_number <> members_with.number
		UNION ALL SELECT members_with.number, members_with.at) a (number, at)) m
$$;
SQL
verify_empty($node, 'nothing there');
$node->safe_psql('postgres', $now . <<'SQL');
SELECT audience.trait_create('plan', 'last', 'signup', 'plan');
SELECT audience.trait_create('spare', 'count', 'nothing');
SELECT audience.segment_create('Spenders', 'totalSpent > 100');
SELECT audience.segment_create('German', $$IN SEGMENT 'spenders' AND country = 'DE'$$);
SELECT audience.segment_create('Converted', $$SEQUENCE(signup, purchase WITHIN '2 days')$$);
SELECT audience.segment_create('Off', 'eventCount >= 0', active => false);
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_create('Closed', type => 'static', active => false);
SELECT audience.profile_set('ann', '{"country":"DE"}');
SELECT audience.profile_set('dan', '{"country":"DE"}');
SELECT audience.events_ingest('[
	{"userId":"ann","eventId":"1","eventType":"signup","timestamp":"2026-06-01T00:00:00Z","properties":{"plan":"pro"}},
	{"userId":"ann","eventId":"2","eventType":"purchase","timestamp":"2026-06-02T00:00:00Z","properties":{"amount":70.5}},
	{"userId":"ann","eventId":"3","eventType":"purchase","timestamp":"2026-06-09T00:00:00Z","properties":{"amount":50}},
	{"userId":"bob","eventId":"1","eventType":"signup","timestamp":"2026-06-01T00:00:00Z","properties":{"plan":"free"}}]');
SELECT audience.segment_add('list', '{bob,cy}');
SELECT audience.segment_add('closed', '{bob}');
SQL
is( $node->safe_psql(
		'postgres',
		q{SELECT string_agg(segment_id || ' ' || user_id, ', ' ORDER BY segment_id, user_id) FROM audience.memberships}),
	'converted ann, german ann, list bob, list cy, spenders ann',
	'memberships to begin with');
verify_empty($node);
is($node->safe_psql('postgres', "BEGIN READ ONLY; SELECT count(*) FROM audience.verify(); COMMIT"),
	'0', 'in a read-only transaction');
is($node->safe_psql('postgres', "SET audience.now = '2030-01-01'; SELECT count(*) FROM audience.verify()"),
	'0', 'each user as of its last evaluation, not as of now');

# memberships
damage_is('a membership is gone',
	leave('ann', 'spenders'),
	'membership|ann|spenders|is no member, but the rule holds',
	'transition|ann|spenders|the last one is number N, "added", but there is no membership');
damage_is('a membership too many',
	enter('bob', number_of('spenders')),
	'membership|bob|spenders|is a member, but the rule does not hold',
	'transition|bob|spenders|there is a membership, but no transition');
damage_is('a member of an inactive segment',
	enter('bob', number_of('off')),
	'membership|bob|off|is a member, but the segment is inactive',
	'transition|bob|off|there is a membership, but no transition');
damage_is('all memberships of a user are gone',
	"UPDATE audience.profiles SET members = NULL WHERE user_id = 'ann'",
	map({ "membership|ann|$_|is no member, but the rule holds" } qw(converted german spenders)),
	map({ "transition|ann|$_|the last one is number N, \"added\", but there is no membership" } qw(converted german spenders)));
damage_is('the memberships are those of another user',
	"UPDATE audience.profiles SET members = (SELECT members FROM audience.profiles WHERE user_id = 'cy') WHERE user_id = 'dan'",
	q(static|dan|list|is a member, but history does not have it, or the segment is inactive),
	'transition|dan|list|there is a membership, but no transition');
damage_is('an attribute has changed behind the engine',
	q(UPDATE audience.profiles SET attributes = '{"country":"FR"}' WHERE user_id = 'ann'),
	'membership|ann|german|is a member, but the rule does not hold');

# static lists
damage_is('a static membership is gone',
	leave('cy', 'list'),
	q(static|cy|list|is no member, but history has it),
	'transition|cy|list|the last one is number N, "added", but there is no membership');
damage_is('a static membership too many',
	enter('dan', number_of('list')),
	q(static|dan|list|is a member, but history does not have it, or the segment is inactive),
	'transition|dan|list|there is a membership, but no transition');
damage_is('a static segment is inactive, but history has members',
	"UPDATE audience.segments SET active = false WHERE id = 'list'",
	'transition|bob|list|the last one is number N, "added", but there is no membership',
	'transition|cy|list|the last one is number N, "added", but there is no membership');
damage_is('a static segment is active, but history has no members',
	"UPDATE audience.segments SET active = true WHERE id = 'closed'",
	q(static|bob|closed|is a member, but history does not have it, or the segment is inactive),
	'transition|bob|closed|there is a membership, but no transition');
# nothing but the list itself says who is in it
damage_is('another list of an inactive static segment', enter('dan', number_of('closed')));

# transitions
damage_is('an instant of entering is another',
	enter('ann', number_of('german'), "'2026-01-01'"),
	'transition|ann|german|the membership was entered at 2026-01-01T00:00:00Z, the last one, number N, occurred at 2026-06-10T12:00:00Z');
damage_is('an instant of a transition is another',
	"UPDATE audience.transition_log SET occurred_at = '2026-01-01' WHERE user_id = 'cy'",
	'transition|cy|list|the membership was entered at 2026-06-10T12:00:00Z, the last one, number N, occurred at 2026-01-01T00:00:00Z');
damage_is('transitions of one moment are gone',
	"DELETE FROM audience.transition_log WHERE user_id = 'ann'",
	map({ "transition|ann|$_|there is a membership, but no transition" } qw(converted german spenders)));
damage_is('all but one transition of a moment are gone',
	"UPDATE audience.transition_log SET entries = audience.transition_entry(" . number_of('spenders') . ", true, 1) WHERE user_id = 'ann'",
	map({ "transition|ann|$_|there is a membership, but no transition" } qw(converted german)));
damage_is('a list is gone from history',
	"DELETE FROM audience.transition_log WHERE user_id = 'cy'",
	q(static|cy|list|is a member, but history does not have it, or the segment is inactive),
	'transition|cy|list|there is a membership, but no transition');
damage_is('a transition too many',
	history('ann', number_of('german'), 'false', 'manual'),
	'transition|ann|german|there is a membership, but the last one is number N, "removed"');
damage_is('a transition twice',
	"INSERT INTO audience.transition_log (user_id, occurred_at, reason, entries) SELECT user_id, occurred_at, reason, entries FROM audience.transition_log WHERE user_id = 'cy'",
	'transition|cy|list|number N, "added", follows "added"');
damage_is('a transition twice in one moment',
	"UPDATE audience.transition_log SET entries = entries || entries WHERE user_id = 'cy'",
	'transition|cy|list|number N, "added", follows "added"');
my $forgotten = "INSERT INTO audience.segment_numbers (number, segment_id) VALUES (777, 'forgotten');\n";
damage_is('a history that begins with leaving',
	$forgotten . history('gone', 777, 'false', 'merge'),
	'transition|gone|forgotten|number N, "removed", follows none');
damage_is('a history of a user and a segment that are gone, but in turns',
	$forgotten . history('gone', 777, 'true', 'backfill') . ";\n" . history('gone', 777, 'false', 'merge'));
damage_is('a history that says a user of no profile is in',
	history('gone', number_of('spenders'), 'true', 'backfill'),
	'transition|gone|spenders|the last one is number N, "added", but there is no membership');

# timers: each is what the profile says, and whom time has moved has one that
# is due; the state of before there was a segment has none
$node->safe_psql('postgres', $now . <<'SQL');
SELECT audience.profile_set('tim', '{"until":"2026-06-20"}');
CREATE TABLE untimed AS SELECT user_id, state FROM audience.profiles WHERE user_id = 'tim';
SELECT audience.segment_create('Soon', $$until WITHIN NEXT '3 days'$$);
SQL
my $untimed = "UPDATE audience.profiles SET state = untimed.state FROM untimed WHERE profiles.user_id = 'tim';\n"
  . 'DELETE FROM audience.timers';
damage_is('a timer is gone', "DELETE FROM audience.timers WHERE user_id = 'tim'",
	'timer|tim||it is set to nothing, the profile has 2026-06-17T00:00:00Z');
damage_is('a timer is late', "UPDATE audience.timers SET due_at = '2026-06-17T00:00:00.000001Z'",
	'timer|tim||it is set to 2026-06-17T00:00:00.000001Z, the profile has 2026-06-17T00:00:00Z');
damage_is('a timer of nobody', "INSERT INTO audience.timers (user_id, due_at) VALUES ('gone', '2026-06-17')",
	'timer|gone||it is set to 2026-06-17T00:00:00Z, the profile has nothing');
damage_is('no timer, before it is due', "SET LOCAL audience.now = '2026-06-16T23:59:59.999999Z';\n$untimed");
damage_is('no timer, when it is due', "SET LOCAL audience.now = '2026-06-17T00:00:00Z';\n$untimed",
	'timer|tim|soon|by time alone the user has entered, but no timer is due');
damage_is('a timer that is due', "SET LOCAL audience.now = '2026-06-17T00:00:00Z'");
$node->safe_psql('postgres', "SET audience.now = '2026-06-17T00:00:00Z'; SELECT audience.run_due()");
damage_is('no timer, when leaving is due', "SET LOCAL audience.now = '2026-06-20T00:00:00Z';\n"
	  . $untimed . ";\nUPDATE audience.profiles SET evaluated_at = '2026-06-17' WHERE user_id = 'tim'",
	'timer|tim|soon|by time alone the user has left, but no timer is due');
$node->safe_psql('postgres', "SELECT audience.segment_delete('soon'); SELECT audience.profile_erase('tim')");
verify_empty($node);

# numbers of segments
my $german = $node->safe_psql('postgres', 'SELECT number FROM audience.segments WHERE id = ' . "'german'");
damage_is('a number means nothing',
	'DELETE FROM audience.segment_numbers WHERE number = ' . number_of('german'),
	'orphan|ann||row 1 of the history is about segment number ' . $german . ', which never was',
	'orphan||german|its number ' . $german . ' is not among segment_numbers',
	'transition|ann|german|there is a membership, but no transition');
damage_is('a number means another segment',
	"UPDATE audience.segment_numbers SET segment_id = 'off' WHERE number = " . number_of('german'),
	'orphan||german|its number ' . $german . ' is not among segment_numbers',
	'transition|ann|german|there is a membership, but no transition',
	'transition|ann|off|the last one is number N, "added", but there is no membership');

damage_is('a transition of a segment that never was',
	history('cy', 99999, 'true', 'backfill') . ";\nUPDATE audience.transition_log SET seq = 4711 WHERE seq = (SELECT max(seq) FROM audience.transition_log)",
	'orphan|cy||row 4711 of the history is about segment number 99999, which never was');
damage_is('packed memberships with something behind them',
	"UPDATE audience.profiles SET members = members || '\\x00' WHERE user_id = 'cy'",
	'membership|cy||the packed memberships are damaged');

# profiles
damage_is('first_seen is another',
	"UPDATE audience.profiles SET first_seen = '2026-05-01' WHERE user_id = 'bob'",
	'profile|bob||first and last seen are 2026-05-01T00:00:00Z and 2026-06-01T00:00:00Z, the events give 2026-06-01T00:00:00Z and 2026-06-01T00:00:00Z');
damage_is('last_seen without events',
	"UPDATE audience.profiles SET last_seen = '2026-05-01' WHERE user_id = 'dan'",
	'profile|dan||first and last seen are missing and 2026-05-01T00:00:00Z, the events give missing and missing');
damage_is('a profile that was never evaluated',
	"UPDATE audience.profiles SET state = NULL WHERE user_id = 'dan'",
	'profile|dan||it has not been evaluated: there is no state');
damage_is('a profile is gone',
	"DELETE FROM audience.profiles WHERE user_id = 'ann'",
	'profile|ann||there are events (3), but no profile',
	map({ "transition|ann|$_|the last one is number N, \"added\", but there is no membership" } qw(converted german spenders)));
damage_is('an event of an unknown user, stored without evaluation',
	"INSERT INTO audience.events (user_id, event_id, event_type) VALUES ('eve', '1', 'x')",
	'profile|eve||there are events (1), but no profile');
damage_is('a profile that the engine did not make',
	"INSERT INTO audience.profiles (user_id, evaluated_at, members) VALUES ('eve', now(), members_with(NULL, " . number_of('spenders') . ', now()))',
	'membership|eve|spenders|is a member, but the rule does not hold',
	'profile|eve||it has not been evaluated: there is no state',
	'transition|eve|spenders|there is a membership, but no transition');

# orphans
damage_is('a member of a segment that does not exist',
	enter('ann', 99999),
	'orphan|ann||is a member of segment number 99999, which does not exist');
damage_is('a segment is gone',
	"DELETE FROM audience.segments WHERE id = 'converted'",
	'orphan|ann||is a member of segment number ' . $node->safe_psql('postgres', 'SELECT ' . number_of('converted')) . ', which does not exist',
	'transition|ann|converted|the last one is number N, "added", but there is no membership');
damage_is('a trait that nothing keeps',
	"UPDATE audience.traits SET aggregate_number = 77 WHERE name = 'spare'",
	'orphan|||trait "spare" is kept by aggregate number 77, which does not exist',
	# the count that was its own is nobody's now, and right
	);

# events and states
damage_is('an event is gone',
	"DELETE FROM audience.events WHERE user_id = 'ann' AND event_id = '3'",
	'membership|ann|german|is a member, but the rule does not hold',
	'membership|ann|spenders|is a member, but the rule does not hold',
	'profile|ann||first and last seen are 2026-06-01T00:00:00Z and 2026-06-09T00:00:00Z, the events give 2026-06-01T00:00:00Z and 2026-06-02T00:00:00Z',
	'trait|ann||trait "eventCount" is 3, the events give 2',
	'trait|ann||trait "lastActivity" is 2026-06-09T00:00:00Z, the events give 2026-06-02T00:00:00Z',
	'trait|ann||trait "totalSpent" is 120.5, the events give 70.5');
damage_is('an event has another type',
	"UPDATE audience.events SET event_type = 'other' WHERE user_id = 'ann' AND event_id = '1'",
	'membership|ann|converted|is a member, but the rule does not hold',
	'trait|ann||aggregate {"sequence": [{"event": "signup"}, {"event": "purchase", "within": "2 days"}]} is true, the events give false',
	'trait|ann||trait "plan" is pro, the events give missing');
damage_is('the state is that of another user',
	"UPDATE audience.profiles SET state = (SELECT state FROM audience.profiles WHERE user_id = 'bob') WHERE user_id = 'cy'",
	'trait|cy||trait "eventCount" is 1, the events give 0',
	'trait|cy||trait "lastActivity" is 2026-06-01T00:00:00Z, the events give missing',
	'trait|cy||trait "plan" is free, the events give missing');
verify_empty($node, 'all damages are taken back');

#
# Every kind of node, trait and window; then any event that is taken away, and
# any state that is another's, is noticed, and nobody else is named
#
$node->safe_psql('postgres', $now . <<'SQL');
SELECT audience.trait_create('a' || i, aggregate, 'b*', 'n', time_window => CASE WHEN i % 2 = 0 THEN interval '9 days' END)
FROM unnest('{count,sum,avg,min,max,first,last,count_distinct,most_frequent,days_active,first_time,last_time,min,max,sum,avg,first,last,most_frequent}'::text[])
	WITH ORDINALITY t (aggregate, i);
SELECT audience.trait_create('shape', 'last', NULL, 'list[*].x');
SELECT audience.segment_create('s' || i, rule::audience.rule)
FROM unnest(ARRAY[
	$$count((a, b*) WHERE n > 2 AND $context.c IS NOT NULL, LAST '5 days') >= 2$$,
	$$sum(*.n WHERE ($type IN ('a', 'b1') AND NOT ($id = 'e1' OR $time AFTER '2026-06-08')), FROM '2026-05-20' TO '2026-06-05') > 3$$,
	$$count(* WHERE "$type" = 'x' OR $context IS EMPTY) < 3$$,
	$$count(*, LAST '36600000 days') > 3 AND count(*, LAST '878399999 hours') > 3 AND count(*, LAST '0.000001 seconds') = 0$$,
	$$count(* WHERE at WITHIN LAST '6 days') > 0$$,
	$$SEQUENCE(a, NOT c, b* WHERE (n > 1) WITHIN '3 days', c; LAST '20 days')$$,
	$$SEQUENCE(a, b1 WITHIN '12 hours', NOT (a, c) WHERE (n > 0) WITHIN '1 day')$$,
	$$SEQUENCE(*, NOT c, *, *, NOT c, *; FROM '2026-05-25')$$,
	$$a7 = 3 OR a9 IN (1, 2) OR a12 WITHIN LAST '3 days' OR shape[0] = 1 OR shape CONTAINS 2$$,
	$$NONE(IN SEGMENT 's1', IN SEGMENT 's6', userId = 'u3') AND NOT IN SEGMENT 'list'$$,
	$$ANY(TRUE, FALSE) AND ALL(SAMPLE(50, 'seed'), NOT SAMPLE(10, 'seed'), NONE())$$,
	$$userId LIKE 'u%' AND "userId".x IS NULL AND a1.x IS NULL AND "a.b"."c d" = 'it''s \ %'$$,
	$$IN SEGMENT 's10' AND NOT (IN SEGMENT 's11' AND IN SEGMENT 's12')$$,
	$$last_time(a) BEFORE LAST '4 days' AND first(b*.n, LAST '9 days') IS NOT NULL AND avg(b*.n) BETWEEN 1 AND 4$$,
	$$SEQUENCE(a WHERE (n > 3), NOT (a, b1), NOT c, b2 WHERE (n > 3) WITHIN '9 days')$$]) WITH ORDINALITY t (rule, i);
SELECT audience.profile_set('u' || i, jsonb_build_object('a.b', jsonb_build_object('c d', E'it''s \\ %')))
FROM generate_series(0, 39, 3) i;
SQL
for my $step (0 .. 3)
{
	my $at = '2026-06-' . (10 + 3 * $step) . 'T12:00:00Z';
	$node->safe_psql('postgres', <<"SQL");
SET audience.now = '$at';
SELECT setseed(0.4$step);
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context)
SELECT 'u' || (random() * 39)::int,
	date_trunc('hour', timestamptz '$at' - random() * interval '25 days') + (random() * 2)::int * interval '30 minutes',
	'e' || i + 1000 * $step, ('{a,a,b1,b2,c}'::text[])[1 + (random() * 4)::int],
	CASE (random() * 5)::int WHEN 0 THEN '{"n":null}' WHEN 1 THEN '{"n":"text","\$type":"x"}'
		ELSE jsonb_build_object('n', round((random() * 5)::numeric, 1), 'at', timestamptz '$at' - random() * interval '20 days',
			'list', jsonb_build_array(jsonb_build_object('x', (random() * 3)::int), jsonb_build_object('x', 2))) END,
	CASE WHEN random() < 0.5 THEN '{"c":1}'::jsonb END
FROM generate_series(1, 300) i;
SQL
	verify_empty($node, "all kinds of rules, as of $at");
}
note($node->safe_psql('postgres', 'SELECT segment_id, count(*) FROM audience.memberships GROUP BY 1 ORDER BY 1'));
is($node->safe_psql('postgres', <<'SQL'), '', 'each rule holds for some and not for others');
SELECT id FROM audience.segments s
WHERE id ~ '^s[0-9]' AND audience.segment_count(id) NOT BETWEEN 1 AND (SELECT count(*) - 1 FROM audience.profiles)
SQL

# sequences as their definition reads, choosing events by brute force
sub sequence_is
{
	my ($segment, $from, $where) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is($node->safe_psql('postgres', <<"SQL"), '', "segment $segment is what its sequence says");
WITH event AS (
	SELECT e.*, p.evaluated_at AS at, CASE WHEN jsonb_typeof(properties -> 'n') = 'number' THEN (properties ->> 'n')::numeric END AS n
	FROM audience.events e JOIN audience.profiles p USING (user_id)),
by_hand AS (SELECT DISTINCT user_id FROM $from WHERE $where),
members AS (SELECT user_id FROM audience.memberships WHERE segment_id = '$segment')
(TABLE by_hand EXCEPT TABLE members) UNION ALL (TABLE members EXCEPT TABLE by_hand)
SQL
	return;
}

sequence_is('s6', 'event a JOIN event b USING (user_id) JOIN event c USING (user_id)', <<'SQL');
a.event_type = 'a' AND b.event_type LIKE 'b%' AND b.n > 1 AND c.event_type = 'c'
AND (a.occurred_at, a.event_id) < (b.occurred_at, b.event_id) AND (b.occurred_at, b.event_id) < (c.occurred_at, c.event_id)
AND b.occurred_at <= a.occurred_at + interval '3 days'
AND NOT EXISTS (SELECT FROM event x WHERE x.user_id = a.user_id AND x.event_type = 'c'
	AND (x.occurred_at, x.event_id) > (a.occurred_at, a.event_id) AND (x.occurred_at, x.event_id) < (b.occurred_at, b.event_id))
AND a.occurred_at > a.at - interval '20 days' AND c.occurred_at <= c.at + interval '1 hour'
SQL
sequence_is('s7', 'event a JOIN event b USING (user_id)', <<'SQL');
a.event_type = 'a' AND b.event_type = 'b1'
AND (a.occurred_at, a.event_id) < (b.occurred_at, b.event_id)
AND b.occurred_at <= a.occurred_at + interval '12 hours' AND b.at > b.occurred_at + interval '1 day'
AND NOT EXISTS (SELECT FROM event x WHERE x.user_id = a.user_id AND x.event_type IN ('a', 'c') AND x.n > 0
	AND x.occurred_at > b.occurred_at AND x.occurred_at <= b.occurred_at + interval '1 day')
SQL
sequence_is('s15', 'event a JOIN event b USING (user_id)', <<'SQL');
a.event_type = 'a' AND a.n > 3 AND b.event_type = 'b2' AND b.n > 3
AND (a.occurred_at, a.event_id) < (b.occurred_at, b.event_id)
AND b.occurred_at <= a.occurred_at + interval '9 days'
AND NOT EXISTS (SELECT FROM event x WHERE x.user_id = a.user_id AND x.event_type IN ('a', 'b1', 'c')
	AND (x.occurred_at, x.event_id) > (a.occurred_at, a.event_id) AND (x.occurred_at, x.event_id) < (b.occurred_at, b.event_id))
SQL

my @victims = rows_of($node, q{SELECT user_id, occurred_at, event_id FROM audience.events WHERE user_id ~ '^u' ORDER BY md5(event_id) LIMIT 12});
foreach my $victim (@victims)
{
	my ($user, $time, $id) = @$victim;
	my @problems = problems_after("DELETE FROM audience.events WHERE user_id = '$user' AND occurred_at = '$time' AND event_id = '$id'");
	my @kinds = grep { /\Atrait\|\Q$user\E\|\|trait "eventCount"/ } @problems;

	ok(@kinds == 1 && !(grep { !/\A(?:trait|membership|profile)\|\Q$user\E\|/ } @problems),
		"event $id of user $user is missed") or diag(join("\n", @problems));
}

# with its neighbour's state, a user differs in whatever the two differ in
is_deeply(
	[ grep { !/\|u1\|/ } problems_after("UPDATE audience.profiles SET state = (SELECT state FROM audience.profiles WHERE user_id = 'u2') WHERE user_id = 'u1'") ],
	[], 'a state that is another\'s names nobody else');
my $differ = $node->safe_psql('postgres', <<'SQL');
SELECT count(*) FROM (SELECT aggregate, value FROM audience.profile_values('{u1}', false)) a
	FULL JOIN (SELECT aggregate, value FROM audience.profile_values('{u2}', false)) b USING (aggregate)
WHERE a.value IS DISTINCT FROM b.value
SQL
cmp_ok($differ, '>', 15, 'the two users differ');
is(scalar(grep { /\Atrait\|u1\|/ } problems_after("UPDATE audience.profiles SET state = (SELECT state FROM audience.profiles WHERE user_id = 'u2') WHERE user_id = 'u1'")),
	$differ, 'and each such aggregate is named');

# what only generated statements call
is(($node->psql('postgres', "SELECT audience.verify_property('{}', 'a = 1')"))[2] =~ /not one of an event's property/ ? 1 : 0,
	1, 'a property of what is no event');
is(($node->psql('postgres', "SELECT audience.verify_leaf('{}', 'count() > 1', now())"))[2] =~ /for profiles only/ ? 1 : 0,
	1, 'a leaf that needs a profile');

#
# Many users: several ranges
#
$node->safe_psql('postgres', $now . <<'SQL');
INSERT INTO audience.events (user_id, event_id, event_type, properties)
SELECT 'v' || i, '1', 'purchase', '{"amount":200}' FROM generate_series(1, 20500) i;
SQL
verify_empty($node, 'several ranges of users');
damage_is('damage at both ends and behind the last profile',
	leave('ann', 'spenders') . ";\n" . leave('v9999', 'spenders') . ";\n"
	  . "INSERT INTO audience.events (user_id, event_id, event_type) VALUES ('zoe', '1', 'x')",
	'membership|ann|spenders|is no member, but the rule holds',
	'membership|v9999|spenders|is no member, but the rule holds',
	'profile|zoe||there are events (1), but no profile',
	'transition|ann|spenders|the last one is number N, "added", but there is no membership',
	'transition|v9999|spenders|the last one is number N, "added", but there is no membership');
replay_ok($node);

done_testing();
