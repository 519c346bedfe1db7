--
-- Segments: making, changing, filling and leaving them
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers

--
-- ids
--
SELECT audience.segment_create('High Value Users', '{"conditions":[{"field":"totalSpent","operator":"gt","value":1000}]}');
SELECT audience.segment_get('high_value_users') - 'createdAt' - 'updatedAt';
SELECT key, value::text ~ '^"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(\.[0-9]{1,6})?Z"$' AS is_timestamp
FROM jsonb_each(audience.segment_get('high_value_users')) WHERE key ~ 'At$' ORDER BY key;
SELECT audience.segment_create('  --Ein  Größer/kleiner 42 !', 'true');
SELECT length(id) <= 63, id LIKE 'ab\_ab\_ab\_%'
FROM audience.segment_create(repeat('ab ', 40), 'false') id;
SELECT audience.segment_create('Named', 'false', id => 'My own Id');
SELECT pg_temp.try($$SELECT audience.segment_create('!!!', 'true')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('', 'true')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('high value-users', 'true')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('other', 'true', id => 'high_value_users')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('other', 'true', id => '')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('other', 'true', id => repeat('x', 256))$$);
SELECT pg_temp.try($$SELECT audience.segment_create('no rule')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('wrong type', 'true', 'fluid')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('a list with a rule', 'true', 'static')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('bad rule', '{"field":"a","operator":"gtt","value":1}')$$);
SELECT pg_temp.try($$SELECT audience.segment_create(NULL, 'true')$$);
SELECT pg_temp.try(format('SELECT audience.segment_delete(%L)', id))
FROM audience.segments WHERE id <> 'high_value_users' ORDER BY id COLLATE "C";
SELECT audience.segment_delete('high_value_users');
SELECT count(*) FROM audience.segments;

--
-- a segment is filled from the profiles and events there are
--
SELECT audience.event_ingest('{"eventId":"e1","userId":"ann","eventType":"purchase","timestamp":"2026-02-27T10:00:00Z","properties":{"amount":1000.99}}');
SELECT audience.event_ingest('{"eventId":"e2","userId":"bob","eventType":"purchase","timestamp":"2026-02-28T10:00:00Z","properties":{"amount":1000}}');
SELECT audience.event_ingest('{"eventId":"e3","userId":"cid","eventType":"login","timestamp":"2026-01-01T10:00:00Z"}');
SELECT audience.profile_set('dan', '{"country":"DE"}');
SELECT audience.segment_create('rich', '{"field":"totalSpent","operator":"gt","value":1000}', description => 'more than 1000');
SELECT audience.segment_create('recent', 'count(*, LAST ''7 days'') >= 1');
SELECT audience.segment_create('silent', '{"event":"*","window":{"last":"14 days"},"operator":"eq","value":0}');
SELECT audience.segment_create('german', '{"field":"country","operator":"eq","value":"DE"}');
SELECT audience.segment_create('recent and poor', 'IN SEGMENT ''recent'' AND NOT IN SEGMENT ''rich''');
SELECT segment_id, user_id, source, entered_at FROM audience.memberships ORDER BY segment_id COLLATE "C", user_id COLLATE "C";
SELECT pg_temp.news();
SELECT seq IS NOT NULL, occurred_at, recorded_at > '2026-01-01', segment_version, metadata->'segmentVersion'
FROM audience.transitions ORDER BY seq LIMIT 1;
SELECT s.id, audience.segment_count(s.id), s.status, s.version, s.active FROM audience.segments s ORDER BY s.id COLLATE "C";
SELECT * FROM audience.segment_members('silent') ORDER BY 1;
SELECT * FROM audience.segment_members('rich');
SELECT * FROM audience.user_segments('bob') ORDER BY 1;
SELECT count(*) FROM audience.user_segments('nobody');

--
-- segments that refer to segments change in the same statement
--
SELECT audience.event_ingest('{"eventId":"e4","userId":"bob","eventType":"purchase","timestamp":"2026-03-01T11:00:00Z","properties":{"amount":0.01}}');
SELECT pg_temp.news();
SELECT audience.segment_dependents('rich');
SELECT audience.segment_dependents('german');
SELECT pg_temp.try($$SELECT audience.segment_delete('rich')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('lost', '{"segment":"nowhere"}')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('self', '{"segment":"self"}')$$);
SELECT audience.segment_create('chain a', 'IN SEGMENT ''recent_and_poor''');
SELECT audience.segment_create('chain b', 'NOT IN SEGMENT ''chain_a''');
SELECT audience.segment_create('chain c', 'IN SEGMENT ''chain_b'' AND eventCount > 0');
SELECT pg_temp.news();
SELECT pg_temp.try($$SELECT audience.segment_update('rich', rules => 'IN SEGMENT ''chain_c''')$$);
SELECT pg_temp.try($$SELECT audience.segment_update('chain_a', rules => 'NOT IN SEGMENT ''chain_a''')$$);
SELECT audience.event_ingest('{"eventId":"e5","userId":"cid","eventType":"login","timestamp":"2026-03-01T11:30:00Z"}');
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- changing
--
SELECT audience.segment_update('rich', name => 'Rich people');
SELECT audience.segment_get('rich') - 'createdAt' - 'updatedAt';
SELECT audience.segment_update('rich', rules => '{"field":"totalSpent","operator":"gt","value":1000.5}');
SELECT audience.segment_get('rich') - 'createdAt' - 'updatedAt';
SELECT pg_temp.news();
SELECT audience.segment_update('rich', description => 'over 1000.50', active => false);
SELECT audience.segment_get('rich') - 'createdAt' - 'updatedAt';
SELECT pg_temp.news();
SELECT audience.segment_count('rich');
SELECT audience.event_ingest('{"eventId":"e6","userId":"dan","eventType":"purchase","timestamp":"2026-03-01T11:40:00Z","properties":{"amount":5000}}');
SELECT pg_temp.news();
SELECT audience.segment_update('rich', active => true);
SELECT pg_temp.news();
SELECT audience.segment_update('rich');
SELECT pg_temp.news();
SELECT pg_temp.try($$SELECT audience.segment_update('nowhere', name => 'x')$$);
SELECT * FROM audience.verify();

--
-- lists
--
SELECT audience.segment_create('VIP', type => 'static');
SELECT audience.segment_create('not vip', 'NOT IN SEGMENT ''vip'' AND eventCount > 0');
SELECT pg_temp.news();
SELECT audience.segment_add('vip', ARRAY['bob', 'new one', 'bob']);
SELECT audience.segment_add('vip', ARRAY['bob']);
SELECT audience.segment_add('vip', ARRAY[]::text[]);
SELECT pg_temp.news();
SELECT * FROM audience.segment_members('vip') ORDER BY 1;
SELECT audience.profile_get('new one');
SELECT audience.segment_remove('vip', ARRAY['bob', 'nobody']);
SELECT pg_temp.news();
SELECT pg_temp.try($$SELECT audience.segment_add('rich', ARRAY['bob'])$$);
SELECT pg_temp.try($$SELECT audience.segment_remove('rich', ARRAY['bob'])$$);
SELECT pg_temp.try($$SELECT audience.segment_add('nowhere', ARRAY['bob'])$$);
SELECT pg_temp.try($$SELECT audience.segment_remove('nowhere', ARRAY['bob'])$$);
SELECT pg_temp.try($$SELECT audience.segment_add('vip', ARRAY['ok', NULL])$$);
SELECT pg_temp.try($$SELECT audience.segment_add('vip', ARRAY['ok', ''])$$);
SELECT pg_temp.try($$SELECT audience.segment_update('vip', rules => 'true')$$);
SELECT count(*) FROM audience.profiles WHERE user_id = 'ok';
-- a list comes back as it was
SELECT audience.segment_update('vip', active => false);
SELECT pg_temp.news();
SELECT audience.segment_update('vip', active => true);
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- whole, from JSON
--
SELECT audience.segment_put('{"name":"Put in","type":"DYNAMIC","rules":{"field":"country","operator":"eq","value":"DE"},"description":"x"}');
SELECT audience.segment_get('put_in') - 'createdAt' - 'updatedAt';
SELECT audience.segment_put('{"name":"Put again","id":"put_in","rules":{"field":"country","operator":"exists"}}');
SELECT audience.segment_get('put_in') - 'createdAt' - 'updatedAt';
SELECT pg_temp.news();
SELECT audience.segment_put('{"name":"Put again","id":"put_in","rules":{"field":"country","operator":"exists"},"active":false}');
SELECT audience.segment_put('{"name":"List","type":"Static"}');
SELECT pg_temp.news();
SELECT pg_temp.try($$SELECT audience.segment_put('{"rules":true}')$$);
SELECT pg_temp.try($$SELECT audience.segment_put('[]')$$);
SELECT pg_temp.try($$SELECT audience.segment_put('{"name":"x","rules":{"field":"a"}}')$$);
SELECT pg_temp.try($$SELECT audience.segment_put('{"name":"x","rules":true,"active":"yes"}')$$);
SELECT pg_temp.try($$SELECT audience.segment_put('{"name":7,"rules":true}')$$);
SELECT pg_temp.try($$SELECT audience.segment_put('{"name":"x","rules":true,"type":"fluid"}')$$);

--
-- previews
--
SELECT matching, total, users FROM audience.segment_preview('eventCount >= 1', 2);
SELECT matching, total, array_length(users, 1) FROM audience.segment_preview('true', 3);
SELECT matching, total, users FROM audience.segment_preview('false');
SELECT matching, total, cardinality(users) FROM audience.segment_preview('true', 0);
SELECT matching, total FROM audience.segment_preview('IN SEGMENT ''rich''');
SELECT * FROM audience.segment_diff('rich', 'totalSpent < 2000') ORDER BY user_id COLLATE "C";
SELECT * FROM audience.segment_diff('rich', 'totalSpent > 1000.50');
SELECT pg_temp.try($$SELECT audience.segment_diff('nowhere', 'true')$$);
-- exactly, by doing it and undoing it
BEGIN;
SELECT audience.segment_update('rich', rules => 'totalSpent > 4000');
SELECT pg_temp.news();
ROLLBACK;
SELECT audience.segment_get('rich')->'rules', audience.segment_count('rich');
SELECT pg_temp.news();

--
-- why
--
SELECT depth, node, actual, holds FROM audience.segment_explain('recent_and_poor', 'ann');
SELECT depth, node, actual, holds FROM audience.segment_explain('rich', 'cid');
SELECT depth, node, actual, holds FROM audience.segment_explain('silent', 'cid');
SELECT pg_temp.try($$SELECT audience.segment_explain('rich', 'nobody')$$);
SELECT pg_temp.try($$SELECT audience.segment_explain('nowhere', 'ann')$$);

--
-- history
--
SET audience.now = '2026-03-02T12:00:00Z';
SELECT audience.event_ingest('{"eventId":"e7","userId":"cid","eventType":"purchase","properties":{"amount":7000}}');
SELECT pg_temp.news();
SELECT audience.segment_members_at('rich', '2026-02-28T00:00:00Z') ORDER BY 1;
SELECT audience.segment_members_at('rich', '2026-03-01T12:00:00Z') ORDER BY 1;
SELECT audience.segment_members_at('rich', '2026-03-02T11:59:59Z') ORDER BY 1;
SELECT user_id FROM audience.segment_members_at('rich', '2026-03-02T12:00:00Z') ORDER BY 1;
SELECT pg_temp.try($$SELECT audience.segment_members_at('nowhere', '2026-03-02T12:00:00Z')$$);

--
-- deleting: members leave, the history stays
--
SELECT audience.segment_delete('chain_c');
SELECT audience.segment_delete('chain_b');
SELECT audience.segment_delete('chain_a');
SELECT audience.segment_delete('recent_and_poor');
SELECT audience.segment_delete('rich');
SELECT pg_temp.news();
SELECT count(*) FROM audience.memberships WHERE segment_id = 'rich';
SELECT action, reason, count(*) FROM audience.transitions WHERE segment_id = 'rich' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT pg_temp.try($$SELECT audience.segment_delete('rich')$$);
SELECT pg_temp.try($$SELECT audience.segment_get('rich')$$);
SELECT pg_temp.try($$SELECT audience.segment_count('rich')$$);
SELECT pg_temp.try($$SELECT audience.segment_members('rich')$$);
-- a new segment of an old name starts anew
SELECT audience.segment_create('rich', 'totalSpent > 6000');
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- definitions and events in one transaction, undone in parts
--
BEGIN;
SELECT audience.event_ingest('{"eventId":"x1","userId":"eve","eventType":"login"}');
SELECT audience.segment_create('logged in', 'count(login) >= 1');
SAVEPOINT s;
SELECT audience.segment_update('logged_in', rules => 'count(login) >= 2');
SELECT audience.trait_create('logins', 'count', 'login');
SELECT audience.segment_create('by trait', 'logins >= 1');
SELECT audience.event_ingest('{"eventId":"x2","userId":"fay","eventType":"login"}');
SELECT segment_id, user_id FROM audience.memberships WHERE segment_id IN ('logged_in', 'by_trait') ORDER BY 1, 2;
SAVEPOINT s2;
SELECT audience.segment_delete('by_trait');
SELECT audience.trait_drop('logins');
SELECT audience.event_ingest('{"eventId":"x3","userId":"fay","eventType":"login"}');
SELECT segment_id, user_id FROM audience.memberships WHERE segment_id IN ('logged_in', 'by_trait') ORDER BY 1, 2;
ROLLBACK TO s2;
SELECT segment_id, user_id FROM audience.memberships WHERE segment_id IN ('logged_in', 'by_trait') ORDER BY 1, 2;
SELECT audience.event_ingest('{"eventId":"x4","userId":"gus","eventType":"login"}');
SELECT segment_id, user_id FROM audience.memberships WHERE segment_id IN ('logged_in', 'by_trait') ORDER BY 1, 2;
ROLLBACK TO s;
SELECT audience.event_ingest('{"eventId":"x5","userId":"gus","eventType":"login"}');
SELECT segment_id, user_id FROM audience.memberships WHERE segment_id IN ('logged_in', 'by_trait') ORDER BY 1, 2;
COMMIT;
SELECT pg_temp.news();
SELECT audience.event_ingest('{"eventId":"x6","userId":"hal","eventType":"login"}');
SELECT pg_temp.news();
SELECT * FROM audience.verify();
