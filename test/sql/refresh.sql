--
-- Fills in chunks: refresh => 'later', segment_refresh, and all that goes on meanwhile
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
-- the next users of the fill that a segment waits for; are there more?
CREATE FUNCTION pg_temp.step(id text, users integer) RETURNS boolean LANGUAGE sql
AS 'SELECT audience.refresh_step(audience.refresh_pending(id), users)';
-- its rest, and its end
CREATE FUNCTION pg_temp.finish(id text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	fill bigint := audience.refresh_pending(id);
BEGIN
	WHILE audience.refresh_step(fill, 2) LOOP
	END LOOP;
	PERFORM audience.refresh_finish(fill);
END $$;
-- where a segment stands, and its members
CREATE FUNCTION pg_temp.stand(id text) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', s.id, s.status, CASE WHEN s.pending IS NOT NULL THEN s.pending_reason END,
		coalesce((SELECT string_agg(m.user_id, ',' ORDER BY m.user_id) FROM audience.segment_members(s.id) m), '-'))
	FROM audience.segments s WHERE s.id = $1
$$;
SELECT audience.profile_set(u, '{"country":"DE"}') FROM unnest('{ann,bob,cid,dan,eve,fay}'::text[]) u;
INSERT INTO audience.events (user_id, event_type, event_id, occurred_at, properties)
SELECT u, 'visit', u || n, audience.now() - n * interval '1 hour', '{"page":"x"}'
FROM unnest('{ann,bob,cid,dan}'::text[]) WITH ORDINALITY x (u, k), generate_series(1, k) n;

--
-- A new segment is building: nobody sees members, however far its fill is, but
-- their transitions are written as they are found.
--
SELECT audience.segment_create('visitors', 'count(visit) >= 2', refresh => 'later');
SELECT audience.segment_get('visitors')->>'status', audience.segment_count('visitors');
SELECT segment_id, phase, users_done, users_total, users_per_second, time_left FROM audience.segment_refresh_progress;
SELECT pg_temp.step('visitors', 3);
SELECT pg_temp.news();
SELECT pg_temp.stand('visitors');
SELECT count(*) FROM audience.memberships;
SELECT count(*) FROM audience.user_segments('bob');
SELECT audience.profile_get('bob')->'segments';
SELECT audience.segment_preview('IN SEGMENT ''visitors''');
SELECT node, holds FROM audience.rule_explain('NOT IN SEGMENT ''visitors''', 'bob');
SELECT segment_id, phase, users_done, users_total, users_per_second > 0, time_left > '0' FROM audience.segment_refresh_progress;
SELECT * FROM audience.verify();
-- all users are done: what is left is to say so
SELECT pg_temp.step('visitors', 4);
SELECT segment_id, phase, users_done, users_total FROM audience.segment_refresh_progress;
SELECT pg_temp.step('visitors', 4);
SELECT pg_temp.stand('visitors');
SELECT audience.refresh_finish(audience.refresh_pending('visitors'));
SELECT pg_temp.stand('visitors');
SELECT pg_temp.news();
SELECT count(*) FROM audience.segment_refresh_progress;
SELECT * FROM audience.verify();

--
-- A changed one stays visible and changes user by user, net transitions only.
--
SELECT audience.segment_update('visitors', rules => 'count(visit) BETWEEN 1 AND 3', refresh => 'later');
SELECT pg_temp.stand('visitors');
SELECT pg_temp.step('visitors', 1);
SELECT pg_temp.stand('visitors');
SELECT pg_temp.step('visitors', 2);
SELECT pg_temp.step('visitors', 1);
SELECT pg_temp.stand('visitors');
SELECT pg_temp.news();
SELECT * FROM audience.verify();
SELECT pg_temp.finish('visitors');
SELECT pg_temp.stand('visitors');
SELECT audience.segment_get('visitors')->'version';
SELECT * FROM audience.verify();
-- the same rules are no change, and neither is a name
SELECT audience.segment_update('visitors', name => 'V', rules => 'count(visit) BETWEEN 1 AND 3', refresh => 'later');
SELECT pg_temp.stand('visitors');
SELECT pg_temp.news();

--
-- Ingestion judges by the new rule from the first moment, users whom the fill
-- has not come to too, by aggregates that nobody has asked for before; a new
-- user is whole from the start, ahead of the fill and behind it.
--
SELECT audience.segment_create('readers', 'count_distinct(read.title) >= 1 AND count(visit, LAST ''2 hours'') >= 1', refresh => 'later');
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES
	('dan', 'read', 'd', '{"title":"t"}'), ('eve', 'read', 'e', '{"title":"t"}');
SELECT pg_temp.news();
SELECT pg_temp.step('readers', 2);
INSERT INTO audience.events (user_id, event_type, event_id, properties) VALUES
	('abe', 'read', 'a', '{"title":"t"}'), ('abe', 'visit', 'b', '{}'), ('zoe', 'read', 'z', '{"title":"t"}'), ('zoe', 'visit', 'y', '{}'),
	('ann', 'read', 'n', '{"title":"t"}');
SELECT pg_temp.news();
SELECT audience.segment_update('visitors', rules => 'count(visit) >= 1 AND first(visit.page) = ''x''', refresh => 'later');
SELECT audience.event_ingest('{"userId":"eve","eventId":"e2","eventType":"visit","properties":{"page":"x"}}');
SELECT audience.event_ingest('{"userId":"bob","eventId":"b2","eventType":"read","properties":{"title":"u"}}');
SELECT pg_temp.news();
SELECT pg_temp.stand('visitors');
SELECT * FROM audience.verify();
-- two fills at once: the newer one ends the older, not the other way round
SELECT segment_id, phase, users_done, users_total FROM audience.segment_refresh_progress ORDER BY fill;
SELECT pg_temp.step('readers', 100);
SELECT audience.refresh_finish(audience.refresh_pending('readers'));
SELECT pg_temp.stand(id) FROM unnest('{visitors,readers}'::text[]) id;
SELECT audience.segment_update('readers', rules => 'count_distinct(read.title) >= 1', refresh => 'later');
SELECT segment_id, phase, users_done, users_total FROM audience.segment_refresh_progress ORDER BY fill;
SELECT pg_temp.finish('readers');
SELECT pg_temp.stand(id) FROM unnest('{visitors,readers}'::text[]) id;
SELECT count(*) FROM audience.segment_refresh_progress;
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- What reads users is right for those whom a fill has not come to.
--
SELECT audience.segment_create('late', 'sum(visit.weight) IS NULL OR count(visit, LAST ''150 minutes'') >= 2', refresh => 'later');
SELECT audience.segment_preview((SELECT rules FROM audience.segments WHERE id = 'late'));
SELECT p.user_id FROM audience.profiles p, audience.segments s WHERE s.id = 'late' AND p OPERATOR(audience.|=) s.rules ORDER BY 1;
SELECT node, actual, holds FROM audience.segment_explain('late', 'dan');
SELECT user_id, action FROM audience.segment_diff('late', 'count(visit, LAST ''150 minutes'') >= 2');
SELECT audience.rule_score(rules, 'ann') FROM audience.segments WHERE id = 'late';
SELECT audience.profile_get('dan');
--
-- What writes users makes them whole: each of these brings one in line.
--
SELECT pg_temp.news();
SELECT audience.profile_set('bob', '{"plan":"pro"}');
SELECT pg_temp.news();
SELECT audience.profile_rebuild(ARRAY['cid']);
SELECT pg_temp.news();
SELECT audience.segment_create('list', type => 'static', refresh => 'later');
SELECT audience.segment_add('list', ARRAY['dan']);
SELECT pg_temp.news();
SELECT audience.profile_merge('fay', 'eve');
SELECT pg_temp.news();
SELECT audience.profile_erase('abe') ->> 'profiles';
SELECT * FROM audience.verify();
-- by time: the only timers are those of users that are whole
SET audience.now = '2026-03-01T14:10:00Z';
SELECT audience.run_due();
SELECT pg_temp.news();
SELECT * FROM audience.verify();
SELECT pg_temp.finish('late');
SELECT pg_temp.news();
SELECT pg_temp.stand('late');
SELECT audience.run_due();
SELECT * FROM audience.verify();

--
-- A fill that is going on is superseded by a change, later or now.
--
SELECT audience.segment_create('turns', 'eventCount >= 1', refresh => 'later');
SELECT pg_temp.step('turns', 3);
SELECT audience.segment_update('turns', rules => 'eventCount >= 3', refresh => 'later');
SELECT segment_id, phase, users_done, users_total FROM audience.segment_refresh_progress;
SELECT pg_temp.stand('turns');
SELECT pg_temp.step('turns', 2);
SELECT pg_temp.news();
SELECT audience.segment_update('turns', rules => 'eventCount = 4');
SELECT pg_temp.stand('turns');
SELECT pg_temp.news();
SELECT count(*) FROM audience.segment_refresh_progress;
SELECT * FROM audience.verify();
-- made inactive while it is building, those found leave; active again later
SELECT audience.segment_create('gone', 'max(visit.x) IS NULL', refresh => 'later');
SELECT pg_temp.step('gone', 2);
SELECT audience.segment_update('gone', active => false);
SELECT pg_temp.stand('gone');
SELECT pg_temp.news();
SELECT audience.segment_update('gone', active => true, refresh => 'later');
SELECT pg_temp.stand('gone');
SELECT pg_temp.step('gone', 1);
SELECT pg_temp.stand('gone');
SELECT * FROM audience.verify();
-- deleted while it is building, and what only it has asked for with it
SELECT audience.segment_delete('gone');
SELECT pg_temp.news();
SELECT count(*) FROM audience.segment_refresh_progress;
SELECT count(*) FROM audience.aggregates WHERE pending IS NOT NULL;
SELECT * FROM audience.verify();
-- an inactive one has nobody to look for
SELECT audience.segment_create('asleep', 'eventCount >= 1', active => false, refresh => 'later');
SELECT pg_temp.stand('asleep');
SELECT audience.segment_update('asleep', rules => 'eventCount >= 2', refresh => 'later');
SELECT count(*) FROM audience.segment_refresh_progress;
SELECT audience.segment_delete('asleep');

--
-- An aggregate that one fill is making serves others: a segment made later or
-- now, a trait; and it stays when the one that asked first is deleted.
--
SELECT audience.segment_create('first', 'days_active(visit) >= 1', refresh => 'later');
SELECT pg_temp.step('first', 2);
SELECT audience.segment_create('second', 'days_active(visit) = 0', refresh => 'later');
SELECT audience.segment_delete('first');
SELECT segment_id, phase, users_done FROM audience.segment_refresh_progress;
SELECT audience.event_ingest('{"userId":"zoe","eventId":"z2","eventType":"visit"}');
SELECT audience.event_ingest('{"userId":"eve","eventId":"z2","eventType":"read"}');
SELECT pg_temp.finish('second');
SELECT pg_temp.stand('second');
SELECT count(*) FROM audience.aggregates WHERE pending IS NOT NULL;
SELECT * FROM audience.verify();
SELECT audience.segment_create('third', 'min(visit.n) IS NULL', refresh => 'later');
SELECT pg_temp.step('third', 2);
SELECT audience.segment_create('fourth', 'NOT min(visit.n) IS NULL OR eventCount = 0');
SELECT pg_temp.stand(id) FROM unnest('{third,fourth}'::text[]) id;
SELECT * FROM audience.verify();
SELECT audience.segment_delete('third');
SELECT audience.event_ingest('{"userId":"zoe","eventId":"z3","eventType":"visit","properties":{"n":1}}');
SELECT pg_temp.stand('fourth');
SELECT * FROM audience.verify();
SELECT audience.segment_create('fifth', 'last(visit.n) = 1', refresh => 'later');
SELECT audience.trait_create('last_n', 'last', 'visit', 'n');
SELECT audience.profile_get('zoe')->'last_n';
SELECT count(*) FROM audience.aggregates WHERE pending IS NOT NULL;
SELECT audience.trait_drop('last_n');
SELECT pg_temp.finish('fifth');
SELECT pg_temp.stand('fifth');
SELECT * FROM audience.verify();
SELECT count(*) > 0 FROM pg_temp.news();

--
-- References: who refers to a segment that is building sees no members, and
-- is filled when it is whole.
--
SELECT audience.segment_create('base', 'eventCount >= 2', refresh => 'later');
SELECT audience.segment_create('in base', 'IN SEGMENT ''base''');
SELECT audience.segment_create('not base', 'NOT IN SEGMENT ''base''');
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
SELECT audience.event_ingest('{"userId":"dan","eventId":"d9","eventType":"visit"}');
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
SELECT pg_temp.finish('base');
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
SELECT * FROM audience.verify();
SELECT audience.event_ingest('{"userId":"dan","eventId":"d10","eventType":"visit"}');
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
CALL audience.segment_refresh('in_base');
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
SELECT * FROM audience.verify();
-- a change moves those that refer to it with it, user by user
SELECT count(*) > 0 FROM pg_temp.news();
SELECT audience.segment_update('base', rules => 'eventCount >= 4', refresh => 'later');
SELECT pg_temp.step('base', 2);
SELECT pg_temp.step('base', 1);
SELECT pg_temp.news();
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
SELECT audience.event_ingest('{"userId":"zoe","eventId":"z9","eventType":"visit"}');
SELECT pg_temp.news();
SELECT * FROM audience.verify();
SELECT pg_temp.finish('base');
SELECT pg_temp.stand(id) FROM unnest('{base,in_base,not_base}'::text[]) id;
SELECT * FROM audience.verify();

-- a chain made at once: each is shown when it has seen the members of the one
-- before it, and one CALL goes to the end of the chain
SELECT audience.segment_create('one', 'eventCount >= 1', refresh => 'later');
SELECT audience.segment_create('two', 'NOT IN SEGMENT ''one''', refresh => 'later');
SELECT audience.segment_create('three', 'IN SEGMENT ''two''', refresh => 'later');
SELECT pg_temp.finish('three');
SELECT pg_temp.stand(id) FROM unnest('{one,two,three}'::text[]) id;
SELECT * FROM audience.verify();
CALL audience.segment_refresh('one');
SELECT pg_temp.stand(id) FROM unnest('{one,two,three}'::text[]) id;
CALL audience.segment_refresh('two');
SELECT pg_temp.stand(id) FROM unnest('{one,two,three}'::text[]) id;
SELECT * FROM audience.verify();
SELECT audience.segment_update('one', active => false);
SELECT audience.segment_update('one', active => true, refresh => 'later');
CALL audience.segment_refresh('one');
SELECT pg_temp.stand(id) FROM unnest('{one,two,three}'::text[]) id;
SELECT id FROM audience.segments WHERE pending IS NOT NULL;
SELECT * FROM audience.verify();
-- one that is made inactive leaves those that refer to it what they wait for
SELECT audience.segment_create('four', 'IN SEGMENT ''one'' OR eventCount >= 1', refresh => 'later');
SELECT audience.segment_update('one', rules => 'eventCount >= 4', refresh => 'later');
SELECT audience.segment_update('one', active => false);
SELECT pg_temp.stand(id) FROM unnest('{one,two,three,four}'::text[]) id;
SELECT * FROM audience.verify();
CALL audience.segment_refresh('four');
SELECT pg_temp.stand(id) FROM unnest('{one,two,three,four}'::text[]) id;
SELECT * FROM audience.verify();

--
-- What there is to say against it.
--
SELECT pg_temp.try($$SELECT audience.segment_create('x', 'true', refresh => 'x')$$);
SELECT pg_temp.try($$SELECT audience.segment_create('x', 'true', refresh => NULL)$$);
SELECT pg_temp.try($$SELECT audience.segment_update('base', refresh => 'soon')$$);
CALL audience.segment_refresh('nowhere');
CALL audience.segment_refresh('list');
CALL audience.segment_refresh(NULL);
SELECT audience.segment_update('list', active => false, refresh => 'later');
SELECT audience.segment_update('list', active => true, refresh => 'later');
SELECT pg_temp.stand('list');
SELECT audience.segment_update('base', active => false, refresh => 'later');
CALL audience.segment_refresh('base');
SELECT audience.segment_update('base', active => true, refresh => 'later');
BEGIN;
CALL audience.segment_refresh('base');
ROLLBACK;
SELECT pg_temp.stand('base');
SELECT audience.refresh_step(-1);
SELECT audience.refresh_finish(-1);
CALL audience.segment_refresh('base');
SELECT pg_temp.stand('base');
SELECT * FROM audience.verify();

-- whoever may define segments may call it
CREATE ROLE "regress audience filler";
SELECT audience.grant_access('"regress audience filler"', 'admin');
SET ROLE "regress audience filler";
SELECT audience.segment_create('filled', 'eventCount >= 4', refresh => 'later');
CALL audience.segment_refresh('filled');
SELECT segment_id FROM audience.segment_refresh_progress;
SELECT count(*) > 0 FROM audience.segment_members('filled');
SELECT audience.segment_delete('filled');
RESET ROLE;
DROP OWNED BY "regress audience filler";
DROP ROLE "regress audience filler";

--
-- A refresh of a healthy segment writes nothing, and says nothing when it is
-- quick; who is wrong is put right by it.
--
SELECT count(*) > 0 FROM pg_temp.news();
SET client_min_messages = notice;
CALL audience.segment_refresh('visitors');
SET client_min_messages = warning;
SELECT pg_temp.news();
SELECT count(*) FROM audience.segment_refresh_progress;
BEGIN;
UPDATE audience.profiles SET members = '' WHERE user_id = 'dan';
SELECT problem, user_id, segment_id FROM audience.verify() WHERE segment_id = 'visitors';
SELECT audience.refresh_begin('visitors') IS NOT NULL;
SELECT pg_temp.finish('visitors');
SELECT t.action, t.reason, t.segment_id FROM audience.transitions t WHERE t.user_id = 'dan' ORDER BY seq DESC LIMIT 1;
SELECT problem, user_id, segment_id FROM audience.verify() WHERE segment_id = 'visitors';
ROLLBACK;

--
-- Reasons: what a fill finds is its own; what a statement changes meanwhile is
-- the statement's, but where nobody can tell what was before.
--
SELECT audience.refresh_begin('visitors') IS NOT NULL;
SELECT audience.event_ingest('{"userId":"hal","eventId":"h1","eventType":"read"}');
SELECT audience.event_ingest('{"userId":"eve","eventId":"v3","eventType":"read","properties":{"title":"w"}}');
SELECT pg_temp.step('visitors', 100);
SELECT audience.event_ingest('{"userId":"hal","eventId":"h2","eventType":"visit","properties":{"page":"x"}}');
SELECT pg_temp.news();
SELECT pg_temp.finish('visitors');
SELECT audience.segment_update('visitors', rules => 'count(visit) >= 2', refresh => 'later');
SELECT audience.segment_create('not visitors', 'NOT IN SEGMENT ''visitors''', refresh => 'later');
SELECT audience.event_ingest('{"userId":"hal","eventId":"h3","eventType":"login"}');
SELECT audience.event_ingest('{"userId":"ann","eventId":"a3","eventType":"visit","properties":{"page":"x"}}');
SELECT audience.event_ingest('{"userId":"eve","eventId":"v4","eventType":"visit","properties":{"page":"x"}}');
SELECT audience.event_ingest('{"userId":"hal","eventId":"h4","eventType":"visit","properties":{"page":"x"}}');
SELECT pg_temp.news();
CALL audience.segment_refresh('not_visitors');
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- After all of it, the history replays to the memberships.
--
SELECT id FROM audience.segments WHERE pending IS NOT NULL OR status <> 'ready';
SELECT l.user_id, l.segment_id FROM (
	SELECT DISTINCT ON (user_id, segment_id) user_id, segment_id, action FROM audience.transitions
	ORDER BY user_id, segment_id, seq DESC) l WHERE l.action = 'added'
EXCEPT SELECT user_id, segment_id FROM audience.memberships;
SELECT user_id, segment_id FROM audience.memberships
EXCEPT SELECT l.user_id, l.segment_id FROM (
	SELECT DISTINCT ON (user_id, segment_id) user_id, segment_id, action FROM audience.transitions
	ORDER BY user_id, segment_id, seq DESC) l WHERE l.action = 'added';
SELECT * FROM audience.verify();
