# What is done to tables, roles, schemas and databases while others use them:
# ingestion goes on in sessions that were there before, in new ones and
# meanwhile, nothing is lost, and what cannot work is refused or says so.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;

use AudTest;
use AudWorkers;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $node = start_node('lifecycle', no_extension => 1,
	conf => "allow_in_place_tablespaces = on\nmax_prepared_transactions = 10\nlog_statement = none\nmax_connections = 50\n");
my $dir = PostgreSQL::Test::Utils::tempdir();
my $n = 0;
my ($old, $prepared);

# Definitions of all kinds, and users.
my $setup = <<'SQL';
CREATE EXTENSION audience_manager;
SELECT audience.trait_create('pages', 'count_distinct', 'view', 'page');
SELECT audience.segment_create('Buyers', 'count(buy) >= 1');
SELECT audience.segment_create('Lately', 'count(buy, LAST ''10 days'') >= 1');
SELECT audience.segment_create('Readers', 'pages >= 2 AND NOT IN SEGMENT ''lately''');
SELECT audience.segment_create('List', type => 'static');
SELECT audience.segment_add('list', ARRAY['u1', 'listed']);
INSERT INTO audience.events (user_id, event_type, event_id, occurred_at, properties)
SELECT 'u' || n % 50, (ARRAY['buy', 'view', 'view'])[1 + n % 3], 'e' || n, now() - n * interval '1 hour', jsonb_build_object('page', n % 7)
FROM generate_series(1, 500) n;
SQL
$node->safe_psql('postgres', $setup);

# Runs what must succeed in a session that was there before.
sub in_old
{
	my ($session, $sql) = @_;
	return $session->query_safe($sql);
}

# Sessions that have used the extension: one with its plans and what it remembers
# of rows, one with a prepared statement as well.
sub open_sessions
{
	$old = $node->background_psql('postgres', on_error_stop => 0, timeout => 60);
	in_old($old, q{INSERT INTO audience.events (user_id, event_type) SELECT 'u' || n, 'view' FROM generate_series(1, 20) n});
	in_old($old, q{SELECT audience.profile_set('u1', '{"a":1}'), audience.profile_get('u1'), audience.run_due()});
	$prepared = $node->background_psql('postgres', on_error_stop => 0, timeout => 60);
	in_old($prepared, q{PREPARE ingest (text, text, text) AS INSERT INTO audience.events (user_id, event_type, event_id, occurred_at) VALUES ($1, $2, $3, audience.now())});
	in_old($prepared, q{PREPARE members AS SELECT count(*) FROM audience.memberships WHERE segment_id = 'buyers'});
	in_old($prepared, q{PREPARE asks AS SELECT count(*) > 10 FROM audience.profiles p WHERE p OPERATOR(audience.|=) 'count(buy) >= 1'});
	in_old($prepared, "EXECUTE ingest('u1', 'view', 'p$_'); EXECUTE members") foreach map { ++$n } 1 .. 6;
	return;
}

sub close_sessions
{
	$old->quit;
	$prepared->quit;
	return;
}

# Events go in, of users who are there and of new ones, by all roads, in sessions
# that were there before and a new one, and are evaluated; all is as it should be.
sub goes_on
{
	my ($label) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $k = ++$n;
	my $new = "new$k";

	in_old($old, "INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u1', 'view', 'o$k'), ('u2', 'buy', 'o$k'), ('${new}a', 'buy', 'o$k')");
	in_old($old, "SELECT audience.event_ingest('{\"userId\":\"${new}b\",\"eventType\":\"buy\",\"eventId\":\"o$k\"}'), audience.profile_set('${new}c', '{\"k\":$k}')");
	in_old($prepared, "EXECUTE ingest('u3', 'view', 'q$k'); EXECUTE ingest('${new}d', 'buy', 'q$k'); EXECUTE members");
	is(in_old($prepared, 'EXECUTE asks'), 't', "$label: a prepared rule on profiles");
	my ($status, $out, $error) = $node->psql('postgres', <<"SQL");
SELECT audience.events_ingest('[{"userId":"u4","eventType":"view","eventId":"n$k"},{"userId":"${new}e","eventType":"buy","eventId":"n$k"}]');
COPY audience.events (user_id, event_type, event_id) FROM STDIN;
u5	view	n$k
${new}f	buy	n$k
\\.
SELECT audience.run_due();
SELECT string_agg(user_id, ' ' ORDER BY user_id) FROM audience.memberships WHERE segment_id = 'buyers' AND user_id ~ '^$new';
SQL
	is($error . '|' . ($out =~ s/.*\n//sr), "|${new}a ${new}b ${new}d ${new}e ${new}f", "$label: ingestion goes on");
	verify_empty($node, "$label: verify() finds no difference");
	return;
}

# Does something, in a session of its own, and everything goes on.
sub after
{
	my ($label, $sql) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (undef, undef, $error) = $node->psql('postgres', "SET client_min_messages = warning;\n$sql");

	is($error, '', $label) or return;
	goes_on($label);
	return;
}

# What must be refused, and how; everything goes on.
sub refused
{
	my ($label, $sql, $like) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (undef, undef, $error) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql");

	like($error, $like, "$label: refused");
	return;
}

open_sessions();
goes_on('before');

# Others who ingest all the time, for a few users and for new ones.  None of them
# must ever see an error.
append_to_file("$dir/load.sql", <<'SQL');
\set u random(1, 60)
\set v random(1, 1000000)
INSERT INTO audience.events (user_id, event_type, properties) VALUES ('u' || :u, 'view', '{"page":1}'), ('v' || :v % 3000, 'buy', '{}');
SELECT audience.profile_set('u' || :u, jsonb_build_object('v', :v));
SQL
my $load = start_load($node, ["$dir/load.sql"], rate => 60);

#
# files
#
my @tables = split /\n/, $node->safe_psql('postgres', "SELECT oid::regclass FROM pg_class WHERE relnamespace = 'audience'::regnamespace AND relkind = 'r' ORDER BY 1");
cmp_ok(scalar @tables, '>', 15, 'there are tables');
my @hot = map { "audience.$_" } qw(events profiles timers transition_log);

after('VACUUM FULL', join ';', map { "VACUUM FULL ANALYZE $_" } @tables);
after('CLUSTER', join ';', map { "CLUSTER $_ USING " . (split /\./)[1] . '_pkey' } @hot, 'audience.segments', 'audience.aggregates', 'audience.traits');
after('REINDEX', 'REINDEX SCHEMA audience');
after('REINDEX CONCURRENTLY', join ';', 'REINDEX SCHEMA CONCURRENTLY audience', map { "REINDEX TABLE CONCURRENTLY $_" } (@hot[ 1, 2 ]) x 3);
$node->safe_psql('postgres', "CREATE TABLESPACE space LOCATION ''");
after('tables to another tablespace', join ';', map { "ALTER TABLE $_ SET TABLESPACE space" } @tables);
after('indexes to another tablespace', "ALTER INDEX ALL IN TABLESPACE pg_default SET TABLESPACE space NOWAIT" =~ s/ NOWAIT//r);
after('indexes to another tablespace, concurrently', 'REINDEX (TABLESPACE pg_default, CONCURRENTLY) TABLE audience.profiles; REINDEX (TABLESPACE pg_default, CONCURRENTLY) TABLE audience.events');
after('all back', 'ALTER TABLE ALL IN TABLESPACE space SET TABLESPACE pg_default; ALTER INDEX ALL IN TABLESPACE space SET TABLESPACE pg_default');
after('unlogged, and logged again', join ';', map { ("ALTER TABLE $_ SET UNLOGGED", "ALTER TABLE $_ SET LOGGED") } @hot);
after('storage', <<'SQL');
ALTER TABLE audience.profiles ALTER state SET STORAGE EXTENDED, ALTER members SET STORAGE MAIN, ALTER attributes SET COMPRESSION pglz, SET (fillfactor = 100), ALTER user_id SET STATISTICS 500;
ALTER TABLE audience.profiles REPLICA IDENTITY FULL;
ALTER TABLE audience.events ALTER properties SET STORAGE EXTERNAL, SET (toast_tuple_target = 256, autovacuum_enabled = off);
CREATE STATISTICS audience.together ON user_id, event_type FROM audience.events;
ANALYZE audience.events, audience.profiles;
SQL
$node->safe_psql('postgres', 'DROP STATISTICS audience.together; ALTER TABLE audience.profiles REPLICA IDENTITY DEFAULT, ALTER state SET STORAGE EXTERNAL, ALTER members SET STORAGE EXTERNAL, SET (fillfactor = 70)');

#
# what users put on the tables
#
after('indexes', <<'SQL');
CREATE INDEX CONCURRENTLY ON audience.profiles USING gin (attributes);
CREATE INDEX CONCURRENTLY ON audience.profiles USING brin (last_seen);
CREATE INDEX CONCURRENTLY ON audience.profiles ((attributes->>'k')) WHERE user_id > 'm';
CREATE UNIQUE INDEX CONCURRENTLY profiles_too ON audience.profiles (user_id) INCLUDE (last_seen);
CREATE INDEX CONCURRENTLY ON audience.events (event_type, occurred_at);
CREATE INDEX CONCURRENTLY ON audience.timers USING hash (user_id);
CREATE INDEX ON audience.transition_log (occurred_at);
SQL
after('a unique index less', 'DROP INDEX CONCURRENTLY audience.profiles_too');
after('triggers and keys', <<'SQL');
CREATE TABLE public.seen (what text, n bigint);
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (TG_TABLE_NAME || ' ' || TG_OP || ' ' || TG_LEVEL, 1); RETURN NULL; END $$;
CREATE TRIGGER see_row AFTER INSERT ON audience.events FOR EACH ROW EXECUTE FUNCTION public.see();
CREATE TRIGGER see_statement AFTER INSERT ON audience.events FOR EACH STATEMENT EXECUTE FUNCTION public.see();
CREATE TRIGGER see_profile AFTER INSERT OR UPDATE ON audience.profiles FOR EACH ROW EXECUTE FUNCTION public.see();
CREATE TABLE public.friends (user_id text COLLATE "C" REFERENCES audience.profiles ON DELETE CASCADE, friend text COLLATE "C" REFERENCES audience.profiles);
CREATE TABLE public.notes (user_id text COLLATE "C", at timestamptz, id text COLLATE "C", FOREIGN KEY (user_id, at, id) REFERENCES audience.events);
INSERT INTO public.friends VALUES ('u1', 'u2');
INSERT INTO public.notes SELECT user_id, occurred_at, event_id FROM audience.events LIMIT 10;
SQL
is($node->safe_psql('postgres', 'SELECT count(DISTINCT what) FROM public.seen'), 4, 'the triggers fire');
refused('TRUNCATE that cascades to events', 'CREATE TABLE public.tenants (id text PRIMARY KEY); ALTER TABLE audience.events ADD tenant text REFERENCES public.tenants; TRUNCATE public.tenants CASCADE', qr/0A000.*events are append-only/s);
goes_on('a column that refers to another table');
refused('an event that others refer to', q{SELECT audience.profile_erase((SELECT min(user_id) FROM public.notes))}, qr/23503/);
after('no more triggers and keys', 'ALTER TABLE audience.events DROP tenant; DROP TABLE public.tenants, public.friends, public.notes; DROP FUNCTION public.see() CASCADE; DROP TABLE public.seen');
after('columns', <<'SQL');
CREATE SEQUENCE public.numbers;
ALTER TABLE audience.profiles ADD tenant text NOT NULL DEFAULT 'us', ADD number int DEFAULT nextval('public.numbers'), ADD days double precision GENERATED ALWAYS AS (extract(epoch FROM last_seen - first_seen)) STORED,
	ADD id bigint GENERATED ALWAYS AS IDENTITY, ADD made timestamptz NOT NULL DEFAULT clock_timestamp();
ALTER TABLE audience.timers ADD note text NOT NULL DEFAULT 'timer';
ALTER TABLE audience.transition_log ADD note text NOT NULL DEFAULT 'log', ADD id bigint GENERATED BY DEFAULT AS IDENTITY;
ALTER TABLE audience.events ADD tenant text NOT NULL DEFAULT 'us', ADD shop text;
ALTER TABLE audience.segments ADD owner text DEFAULT 'me';
ALTER TABLE audience.traits ADD owner text NOT NULL DEFAULT 'me';
SQL
is($node->safe_psql('postgres', <<'SQL'), "0|0|0|0|0\nowned\nme", 'whose defaults the engine honours');
SELECT (SELECT count(*) FROM audience.profiles WHERE tenant IS DISTINCT FROM 'us'), (SELECT count(*) - count(DISTINCT number) FROM audience.profiles),
	(SELECT count(*) - count(DISTINCT id) FROM audience.profiles),
	(SELECT count(*) FROM audience.timers WHERE note IS DISTINCT FROM 'timer'), (SELECT count(*) FROM audience.transition_log WHERE note IS DISTINCT FROM 'log' OR id IS NULL);
SELECT audience.segment_create('Owned', 'count(view) > 3');
SELECT owner FROM audience.segments WHERE id = 'owned';
SQL
after('no more columns', <<'SQL');
ALTER TABLE audience.profiles DROP tenant, DROP number, DROP days, DROP id, DROP made;
ALTER TABLE audience.timers DROP note;
ALTER TABLE audience.transition_log DROP note, DROP id;
ALTER TABLE audience.events DROP tenant, DROP shop;
ALTER TABLE audience.segments DROP owner;
ALTER TABLE audience.traits DROP owner;
DROP SEQUENCE public.numbers;
SELECT audience.segment_delete('owned');
SQL
after('VACUUM FULL of tables with holes', join ';', map { "VACUUM FULL $_" } @hot);

# The load is stopped for what others would notice.
my $new_users = q{SELECT count(*) FROM audience.profiles WHERE user_id LIKE 'v%'};
ok($node->poll_query_until('postgres', "SELECT ($new_users) > 100"), 'others ingest meanwhile');
end_load($load, 'all of that');
verify_empty($node, 'verify() after all of that');
replay_ok($node, 'the history replayed is the memberships after all of that');

#
# TRUNCATE
#
my $counts = 'SELECT (SELECT count(*) FROM audience.events), (SELECT count(*) FROM audience.memberships), (SELECT count(*) FROM audience.transitions)';
my $before = $node->safe_psql('postgres', $counts);
refused("TRUNCATE $_", "TRUNCATE $_ CASCADE", qr/0A000/) foreach map { "audience.$_" } qw(events profiles timers transition_log event_bases retention definition_version aggregates traits segments segment_numbers);
refused('TRUNCATE of several', 'TRUNCATE audience.events, audience.profiles RESTART IDENTITY', qr/0A000: events are append-only/);
is($node->safe_psql('postgres', $counts), $before, 'TRUNCATE: nothing is gone');

#
# keys that are not those that the tables were made with
#
foreach my $table (qw(events profiles timers))
{
	my $key = $table eq 'events' ? 'user_id, occurred_at, event_id' : 'user_id';
	my $other = $table eq 'events' ? 'event_id, user_id, occurred_at' : $table eq 'timers' ? 'due_at, user_id' : 'user_id) INCLUDE (evaluated_at';

	$node->safe_psql('postgres', "BEGIN; ALTER TABLE audience.$table DROP CONSTRAINT ${table}_pkey; ALTER TABLE audience.$table ADD CONSTRAINT other PRIMARY KEY ($other); COMMIT");
	if ($table eq 'profiles')
	{
		goes_on('a key that includes a column');
	}
	else
	{
		my $error = $old->query_safe(<<'SQL' =~ s/\n/ /gr);
DO $$ BEGIN PERFORM audience.profile_rebuild('{u1,u2}'); PERFORM audience.run_due(); INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy'), ('only then', 'buy'); RAISE EXCEPTION 'none';
EXCEPTION WHEN object_not_in_prerequisite_state THEN PERFORM set_config('my.error', SQLERRM, false); END $$; SELECT current_setting('my.error');
SQL
		is($error, "table \"$table\" has another primary key than it was made with", "$table with another key");
	}
	after("$table with its key again", "BEGIN; ALTER TABLE audience.$table DROP CONSTRAINT other; ALTER TABLE audience.$table ADD PRIMARY KEY ($key); COMMIT");
}

#
# partitions
#
refused('events as a partition', 'CREATE TABLE public.all_events (LIKE audience.events) PARTITION BY RANGE (occurred_at); ALTER TABLE public.all_events ATTACH PARTITION audience.events DEFAULT',
	qr/trigger "events_on_their_own" prevents table "events" from becoming a partition/);
refused('events as a child', 'CREATE TABLE public.parent (user_id text COLLATE "C" NOT NULL); ALTER TABLE audience.events INHERIT public.parent', qr/trigger "events_on_their_own" prevents table "events" from becoming an inheritance child/);
$node->safe_psql('postgres', 'DROP TABLE public.all_events, public.parent');
after('profiles as a partition', 'CREATE TABLE public.people (LIKE audience.profiles) PARTITION BY RANGE (user_id); ALTER TABLE public.people ATTACH PARTITION audience.profiles FOR VALUES FROM (MINVALUE) TO (\'zz\')');
refused('a user who does not belong into it', q{INSERT INTO audience.events (user_id, event_type) VALUES ('zzz', 'buy')}, qr/23514.*violates partition constraint/s);
after('on its own again', 'ALTER TABLE public.people DETACH PARTITION audience.profiles; DROP TABLE public.people');

# a user's own partitions, asked by a rule: columns in another order, one that
# came later, and an index here and there
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE public.orders (id int, total numeric, placed timestamptz, country text, data jsonb) PARTITION BY RANGE (id);
CREATE TABLE public.orders1 PARTITION OF public.orders FOR VALUES FROM (0) TO (1000);
CREATE TABLE public.orders2 (data jsonb, gone int, country text, placed timestamptz, total numeric, id int);
ALTER TABLE public.orders2 DROP gone;
CREATE TABLE public.orders3 (LIKE public.orders);
CREATE INDEX ON public.orders1 (total);
CREATE INDEX ON public.orders2 USING gin (data);
INSERT INTO public.orders1 SELECT n, n, now(), (ARRAY['DE', 'FR'])[1 + n % 2], jsonb_build_object('vip', n % 5 = 0) FROM generate_series(0, 999) n;
INSERT INTO public.orders2 (id, total, placed, country, data) SELECT n, n, now(), (ARRAY['DE', 'FR'])[1 + n % 2], jsonb_build_object('vip', n % 5 = 0) FROM generate_series(1000, 1999) n;
INSERT INTO public.orders3 SELECT n, n, now(), (ARRAY['DE', 'FR'])[1 + n % 2], jsonb_build_object('vip', n % 5 = 0) FROM generate_series(2000, 2999) n;
ANALYZE public.orders;
SQL
my $asks = q{EXECUTE asked};
in_old($old, q{PREPARE asked AS SELECT count(*), sum(id) FROM public.orders o WHERE o OPERATOR(audience.|=) 'total >= 900 AND country = ''DE'' AND data.vip = true'::audience.rule});
my $by_hand = q{SELECT count(*), sum(id) FROM public.orders WHERE total >= 900 AND country = 'DE' AND data->>'vip' = 'true'};
foreach my $step (
	'', 'ALTER TABLE public.orders ATTACH PARTITION public.orders2 FOR VALUES FROM (1000) TO (2000)',
	'ALTER TABLE public.orders ATTACH PARTITION public.orders3 FOR VALUES FROM (2000) TO (3000)',
	'ALTER TABLE public.orders DETACH PARTITION public.orders1 CONCURRENTLY',
	'ALTER TABLE public.orders ADD more text DEFAULT \'x\'',
	'ALTER TABLE public.orders1 ADD more text; ALTER TABLE public.orders DETACH PARTITION public.orders2; ALTER TABLE public.orders ATTACH PARTITION public.orders1 FOR VALUES FROM (0) TO (1000)',
	'ALTER TABLE public.orders DROP placed', 'CREATE INDEX ON public.orders (country, total); ANALYZE public.orders')
{
	$node->safe_psql('postgres', $step) if $step;
	is(in_old($old, $asks), $node->safe_psql('postgres', $by_hand), 'a rule on partitions: ' . ($step || 'as it was made'));
}

#
# prepared transactions
#
$node->safe_psql('postgres', q{BEGIN; INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('u1', 'buy', 't1'), ('twophase', 'buy', 't1'); PREPARE TRANSACTION 'events'});
$node->safe_psql('postgres', q{BEGIN; INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('rolled back', 'buy', 't2'); PREPARE TRANSACTION 'undone'});
my (undef, undef, $error) = $node->psql('postgres', q{SET audience.definition_wait = '100ms'; SELECT audience.segment_create('Waits', 'true')});
like($error, qr/DETAIL:  Waited for prepared transaction "events", "undone"/, 'prepared ingestion keeps definitions');
close_sessions();
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', q{SELECT count(*) FROM audience.profiles WHERE user_id IN ('twophase', 'rolled back')}), 0, 'a crash between: nothing is seen of it');
$node->safe_psql('postgres', q{COMMIT PREPARED 'events'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'undone'});
open_sessions();
is($node->safe_psql('postgres', q{SELECT string_agg(user_id, ' ') FROM audience.memberships WHERE segment_id = 'buyers' AND user_id IN ('twophase', 'rolled back')}), 'twophase', 'committed and rolled back');
goes_on('prepared events');
$node->safe_psql('postgres', q{BEGIN; SELECT audience.segment_create('Prepared', 'count(buy) >= 2'), audience.trait_create('buys', 'count', 'buy'); PREPARE TRANSACTION 'definitions'});
(undef, undef, $error) = $node->psql('postgres', q{SET lock_timeout = '100ms'; INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy')});
like($error, qr/lock timeout/, 'a prepared change of definitions keeps ingestion');
close_sessions();
$node->stop('immediate');
$node->start;
(undef, undef, $error) = $node->psql('postgres', q{SET lock_timeout = '100ms'; INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy')});
like($error, qr/lock timeout/, 'after a crash, too');
$old = $node->background_psql('postgres', on_error_stop => 0, timeout => 60);
in_old($old, q{SELECT audience.profile_get('u1')});
$node->safe_psql('postgres', q{COMMIT PREPARED 'definitions'});
is(in_old($old, q{INSERT INTO audience.events (user_id, event_type) VALUES ('two', 'buy'), ('two', 'buy'); SELECT audience.profile_get('two')->>'buys', audience.profile_get('two')->'segments' ? 'prepared'}), '2|t', 'a session that was there before knows of it');
$old->quit;
open_sessions();
goes_on('prepared definitions');
$node->safe_psql('postgres', q{BEGIN; SELECT audience.segment_update('prepared', rules => 'false'); PREPARE TRANSACTION 'definitions'});
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'definitions'});
goes_on('definitions rolled back');
is($node->safe_psql('postgres', q{SELECT count(*) FROM audience.memberships WHERE segment_id = 'prepared' AND user_id = 'two'}), 1, 'definitions rolled back: nothing has changed');

#
# schema, owner, extension
#
refused('ALTER EXTENSION SET SCHEMA', 'ALTER EXTENSION audience_manager SET SCHEMA public', qr/0A000.*does not support SET SCHEMA/s);
$node->safe_psql('postgres', 'ALTER SCHEMA audience RENAME TO crowd');
refused('events in a schema of another name', q{INSERT INTO crowd.events (user_id, event_type) VALUES ('u1', 'buy')}, qr/0A000: extension "audience_manager" is not installed/);
after('the schema has its name again', 'ALTER SCHEMA crowd RENAME TO audience');

$node->safe_psql('postgres', q{CREATE ROLE first SUPERUSER; CREATE ROLE second; CREATE ROLE shop; SELECT audience.grant_access('shop', 'ingest')});
refused('DROP OWNED of a role that others depend on', 'DROP OWNED BY postgres', qr/cannot drop objects owned by|are required by the database system/);
after('a role with access is gone', 'DROP OWNED BY shop; DROP ROLE shop');
my $owners = q{SELECT string_agg(DISTINCT pg_get_userbyid(o), ' ') FROM (SELECT proowner FROM pg_proc WHERE pronamespace = 'audience'::regnamespace UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = 'audience'::regnamespace AND relkind <> 'i') x (o)};
close_sessions();
$node->safe_psql('postgres', 'DROP EXTENSION audience_manager; DROP SCHEMA audience');
$node->safe_psql('postgres', "SET SESSION AUTHORIZATION first; $setup");
open_sessions();
is($node->safe_psql('postgres', $owners), 'first', 'the extension is its owner\'s');
after('the owner has another name', 'ALTER ROLE first RENAME TO premier');
after('REASSIGN OWNED', 'REASSIGN OWNED BY premier TO second');
is($node->safe_psql('postgres', $owners), 'second', 'it is another\'s');
after('definitions by an owner who is no superuser', q{SET ROLE second; SELECT audience.segment_create('Second', 'count(view) >= 2'); SELECT audience.profile_merge('u7', 'u8'); SELECT audience.profile_erase('u9'); SELECT audience.profile_rebuild()});
is($node->safe_psql('postgres', q{SELECT count(*) > 0 FROM audience.memberships WHERE segment_id = 'second'}), 't', 'are filled');

$node->safe_psql('postgres', 'CREATE TABLE public.uses (rule audience.rule, p audience.profiles); CREATE VIEW public.lists AS SELECT * FROM audience.memberships');
refused('DROP EXTENSION with dependents', 'DROP EXTENSION audience_manager', qr/2BP01/);
goes_on('DROP EXTENSION refused');
in_old($old, 'SET client_min_messages = error');
in_old($old, 'BEGIN; DROP EXTENSION audience_manager CASCADE; ROLLBACK');
goes_on('DROP EXTENSION rolled back');
in_old($prepared, 'DEALLOCATE ALL');
refused('CREATE EXTENSION where the schema is not a superuser\'s', 'BEGIN; DROP EXTENSION audience_manager CASCADE; CREATE EXTENSION audience_manager; COMMIT', qr/42501/);
in_old($old, 'BEGIN; DROP EXTENSION audience_manager CASCADE; ALTER SCHEMA audience OWNER TO CURRENT_USER; CREATE EXTENSION audience_manager; COMMIT');
is(in_old($old, q{SELECT audience.segment_create('Buyers', 'count(buy) >= 1'); INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy'), ('u2', 'view'); SELECT string_agg(user_id, ' ') FROM audience.memberships}), "buyers\nu1", 'dropped and made in one transaction: the session goes on');
is(in_old($prepared, q{INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy'), ('u2', 'buy'); SELECT count(*) FROM audience.memberships}), 2, 'and others that were there');
verify_empty($node, 'dropped and made in one transaction');
in_old($old, 'DROP EXTENSION audience_manager CASCADE');
$error = $prepared->query_safe(q{DO $$ BEGIN PERFORM audience.now(); EXCEPTION WHEN undefined_function THEN PERFORM set_config('my.error', SQLSTATE, false); END $$; SELECT current_setting('my.error')});
is($error, '42883', 'dropped: it is not there');
in_old($old, 'BEGIN; CREATE EXTENSION audience_manager; ' . q{SELECT audience.segment_create('Buyers', 'count(buy) >= 1'); INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy'); ROLLBACK});
in_old($old, 'BEGIN; CREATE EXTENSION audience_manager; DROP EXTENSION audience_manager; CREATE EXTENSION audience_manager; COMMIT');
is(in_old($old, q{SELECT audience.segment_create('Buyers', 'count(buy) >= 1'); INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy'); SELECT count(*) FROM audience.memberships}), "buyers\n1", 'made, undone, made, dropped and made again');
verify_empty($node, 'made again');
close_sessions();

#
# databases
#
$node->safe_psql('template1', 'CREATE EXTENSION audience_manager; SELECT audience.segment_create(\'Buyers\', \'count(buy) >= 1\')');
$node->safe_psql('postgres', 'CREATE DATABASE made; ALTER DATABASE made RENAME TO renamed; ALTER DATABASE renamed SET TABLESPACE space; CREATE DATABASE copy TEMPLATE renamed STRATEGY file_copy');
foreach my $db (qw(renamed copy))
{
	is($node->safe_psql($db, q{INSERT INTO audience.events (user_id, event_type) VALUES ('u1', 'buy'); SELECT count(*) FROM audience.memberships}), 1, "in template1, made of it, renamed, moved, copied: $db");
	verify_empty($node, "verify() in $db", $db);
}

$node->stop;
done_testing();
