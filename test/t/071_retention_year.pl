# A year goes by, a day at a time, under a steady stream of events with
# retention: the tables and indexes it works on do not grow, and what can still
# be asked of history is right.
#
# AUD_TEST_YEAR_USERS is how many users there are.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $users = env_number('AUD_TEST_YEAR_USERS', 300);
my $node = start_node('retention_year', conf => "fsync = off\nsynchronous_commit = off\n");
my $dir = PostgreSQL::Test::Utils::tempdir();

$node->safe_psql('postgres', <<"SQL");
SET audience.now = '2026-01-01';
SELECT audience.trait_create('items', 'count_distinct', 'buy', 'item');
SELECT audience.trait_create('firstItem', 'first', 'buy', 'item');
SELECT audience.trait_create('days', 'days_active');
SELECT audience.trait_create('week', 'sum', 'buy', 'amount', time_window => '7 days');
SELECT audience.segment_create('Lately', 'count(*, LAST ''2 days'') >= 2', id => 'lately');
SELECT audience.segment_create('Buyers', 'week >= 25', id => 'buyers');
SELECT audience.segment_create('Silent', 'count(*, LAST ''3 days'') = 0', id => 'silent');
SELECT audience.segment_create('Path', 'SEQUENCE(see, buy WITHIN ''1 day''; LAST ''4 days'')', id => 'path');
SELECT audience.segment_create('Loyal', 'days >= 100', id => 'loyal');
CREATE TABLE sizes (day int, name text, bytes bigint);
CREATE TABLE members (at timestamptz, segment_id text, user_id text);
CREATE TABLE replay AS SELECT user_id, occurred_at, event_id, event_type, properties FROM audience.events;

-- one day: its events, what is due, and all steps of retention
CREATE FUNCTION day(d int) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	today date := date '2026-01-01' + d;
BEGIN
	PERFORM set_config('audience.now', today::text || 'T23:59:59.5Z', false);
	PERFORM audience.run_due();
	WITH new AS (
		INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
		SELECT 'u' || u, today + random() * interval '23 hours', d || '-' || n,
			(ARRAY['see', 'buy'])[1 + (random())::int],
			jsonb_build_object('amount', (random() * 20)::int, 'item', 'item ' || (random() * 40)::int, 'page', repeat('x', (random() * 60)::int))
		-- everybody has better and worse weeks
		FROM generate_series(1, $users) u, generate_series(1, 2) n
		WHERE random() < 0.25 + 0.2 * sin(u + d / 5.0)
		RETURNING user_id, occurred_at, event_id, event_type, properties)
	INSERT INTO replay SELECT * FROM new WHERE random() < 0.002;
	-- and in the evening it is so
	IF d % 3 = 0 OR d > 355 THEN
		INSERT INTO members SELECT audience.now(), segment_id, user_id FROM audience.memberships;
	END IF;
END \$\$;
SQL
append_to_file("$dir/year.sql", "SET audience.event_retention = '30d';\nSET audience.transition_retention = '30d';\n");
for my $day (1 .. 365)
{
	append_to_file("$dir/year.sql", "SELECT day($day);\n"
		# each step a transaction, as the worker makes them
		. "SELECT FROM generate_series(1, 10) WHERE audience.run_retention(1000);\n"
		. ($day % 7 ? '' : "VACUUM audience.events, audience.transition_log, audience.profiles, audience.timers, audience.event_bases, audience.retention, audience.definition_version;\n")
		. ($day % 10 && $day != 365 ? '' : <<"SQL"));
INSERT INTO sizes SELECT $day, c.relname, pg_relation_size(c.oid) FROM pg_class c
WHERE c.relnamespace = 'audience'::regnamespace AND c.relname IN ('events', 'events_pkey', 'transition_log', 'transition_log_pkey', 'event_bases', 'event_bases_pkey', 'profiles', 'timers');
SQL
}
my ($status, undef, $error) = $node->psql('postgres', "\\i $dir/year.sql", on_error_stop => 1);
is($error, '', 'a year goes by');

my %size;
$size{ $_->[0] }{ $_->[1] } = $_->[2] foreach rows_of($node, 'SELECT name, day, bytes FROM sizes');
foreach my $name (sort keys %size)
{
	note(sprintf '%-20s %s', $name, join ' ', map { "$_: " . int($size{$name}{$_} / 1024) . ' kB' } grep { $_ % 30 == 0 || $_ == 365 } sort { $a <=> $b } keys %{ $size{$name} });
}
foreach my $name (qw(events events_pkey transition_log transition_log_pkey))
{
	my ($early, $late) = @{ $size{$name} }{ 110, 365 };
	cmp_ok($late, '<=', 1.3 * $early, "$name has levelled off: $early bytes after 110 days, $late after 365");
}
is($node->safe_psql('postgres', q{SELECT count(*) FROM audience.events WHERE occurred_at < '2026-11-30'}), '0', 'no old events are left');
verify_empty($node, 'verify() finds no difference');

# history, for as long as it is kept, against what was recorded
is($node->safe_psql('postgres', <<'SQL'), '', 'members at a time in the past');
WITH moment AS (
	SELECT DISTINCT m.at FROM members m, audience.retention r WHERE r.kind = 'transitions' AND m.at >= r.complete_from
), told AS (
	SELECT t.at, s.id, u FROM moment t, audience.segments s, audience.segment_members_at(s.id, t.at) u
), recorded AS (
	SELECT m.at, m.segment_id, m.user_id FROM members m JOIN moment USING (at)
)
(SELECT 'told', * FROM (TABLE told EXCEPT TABLE recorded) a UNION ALL SELECT 'recorded', * FROM (TABLE recorded EXCEPT TABLE told) b LIMIT 10)
SQL
cmp_ok($node->safe_psql('postgres', q{SELECT count(DISTINCT m.at) FROM members m, audience.retention r WHERE r.kind = 'transitions' AND m.at >= r.complete_from}),
	'>', 10, 'which was looked at often enough');
($status, undef, $error) = $node->psql('postgres', q{SELECT audience.segment_members_at('lately', '2026-11-01')});
like($error, qr/history is not complete at that time/, 'earlier ones cannot be told');

# all of the past that was sent once may be sent again: it is refused
my ($replayed, $refused, $there) = split /\|/, $node->safe_psql('postgres', <<'SQL');
SET audience.now = '2027-01-02';
CREATE FUNCTION replayed(r replay) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
	VALUES (r.user_id, r.occurred_at, r.event_id, r.event_type, r.properties) ON CONFLICT DO NOTHING;
	RETURN CASE WHEN FOUND THEN 'new' ELSE 'there' END;
EXCEPTION WHEN datetime_field_overflow THEN
	RETURN 'refused';
END $$;
SELECT count(*), count(*) FILTER (WHERE r = 'refused'), count(*) FILTER (WHERE r = 'there') FROM (SELECT replayed(p) r FROM replay p OFFSET 0) s;
SQL
cmp_ok($refused, '>', 0, "$refused of $replayed replayed events were refused");
is($refused + $there, $replayed, 'the others are there');
verify_empty($node, 'verify() finds no difference after that');

$node->stop;
done_testing();
