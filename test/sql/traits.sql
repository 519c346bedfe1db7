--
-- Traits: what is computed from a user's events
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT name, aggregate, event_type, property, filter, time_window FROM audience.traits ORDER BY name COLLATE "C";
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties, context) VALUES
 ('ann', '2026-02-20 10:00', 'e1', 'buy', '{"amount":10.10,"item":"b","list":[1,2],"o":{"k":"x"}}', '{"device":"phone"}'),
 ('ann', '2026-02-20 10:00', 'E2', 'buy', '{"amount":20.20,"item":"a","list":[1,2]}', '{"device":"desk"}'),
 ('ann', '2026-02-21 23:59:59.999999', 'e3', 'buy', '{"amount":"30","item":"a","list":[2,1],"o":{"k":null}}', NULL),
 ('ann', '2026-02-22 00:00', 'e4', 'buy', '{"amount":null,"item":"b","o":{"k":"y"}}', '{"device":"phone"}'),
 ('ann', '2026-03-01 12:00', 'e5', 'buy', '{"amount":0.1,"item":1.0}', '{}'),
 ('ann', '2026-03-01 12:00', 'e6', 'see', '{"amount":99999999999999999999.000000001,"item":1}', '{}'),
 ('bob', '2026-03-01 12:00', 'e1', 'other', '{}', '{}');

--
-- every aggregate, filled from the events there are
--
SELECT audience.trait_create('t_count', 'count', 'buy');
SELECT audience.trait_create('t_count_amount', 'count', 'buy', 'amount');
SELECT audience.trait_create('t_sum', 'sum', 'buy', 'amount');
SELECT audience.trait_create('t_sum_all', 'sum', property => 'amount');
SELECT audience.trait_create('t_avg', 'avg', 'buy', 'amount');
SELECT audience.trait_create('t_min', 'min', 'buy', 'amount');
SELECT audience.trait_create('t_max', 'max', 'buy', 'amount');
SELECT audience.trait_create('t_first', 'first', 'buy', 'item');
SELECT audience.trait_create('t_last', 'last', 'buy', 'amount');
SELECT audience.trait_create('t_last_list', 'last', 'buy', 'list');
SELECT audience.trait_create('t_distinct', 'count_distinct', NULL, 'item');
SELECT audience.trait_create('t_distinct_list', 'count_distinct', 'buy', 'list');
SELECT audience.trait_create('t_distinct_nested', 'count_distinct', 'buy', 'o.k');
SELECT audience.trait_create('t_frequent', 'most_frequent', 'buy', 'item');
SELECT audience.trait_create('t_days', 'days_active', 'buy');
SELECT audience.trait_create('t_first_time', 'first_time', 'buy');
SELECT audience.trait_create('t_last_time', 'last_time', 'buy');
SELECT audience.trait_create('t_filtered', 'sum', 'buy', 'amount', filter => 'item = ''b'' AND "$context".device = ''phone''');
SELECT audience.trait_create('t_window', 'sum', NULL, 'amount', time_window => '7 days 2 hours');
SELECT audience.trait_create('t_window_days', 'days_active', 'buy', time_window => '8 days 12:00:00');
SELECT name, aggregate, event_type, property, filter, time_window FROM audience.traits WHERE name IN ('t_filtered', 't_window', 'totalSpent') ORDER BY name COLLATE "C";
SELECT key, value FROM jsonb_each(audience.profile_get('ann')) WHERE key LIKE 't\_%' ORDER BY key COLLATE "C";
SELECT key, value FROM jsonb_each(audience.profile_get('bob')) WHERE key LIKE 't\_%' ORDER BY key COLLATE "C";
SELECT * FROM audience.verify();

--
-- kept up as events come, late ones too
--
INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties) VALUES
 ('ann', '2026-02-01', 'l1', 'buy', '{"amount":-5,"item":"z"}'),
 ('ann', '2026-03-01 12:30', 'l2', 'buy', '{"amount":1e3,"item":"a"}');
SELECT key, value FROM jsonb_each(audience.profile_get('ann')) WHERE key LIKE 't\_%' ORDER BY key COLLATE "C";
SELECT * FROM audience.verify();

--
-- segments by traits
--
SELECT audience.segment_create('bought twice', 't_count >= 2');
SELECT audience.segment_create('spent exactly', 't_sum = 1025.4');
SELECT audience.segment_create('huge', 't_sum_all > 99999999999999999999');
SELECT audience.segment_create('never bought', 't_count = 0');
SELECT audience.segment_create('no average', 't_avg IS NULL');
SELECT segment_id, user_id FROM audience.memberships ORDER BY 1, 2;
-- a new trait hides an attribute: the rules see it at once
SELECT audience.profile_set('bob', '{"plan":"pro"}');
SELECT audience.segment_create('pro', 'plan = ''pro''');
SELECT pg_temp.news();
SELECT audience.trait_create('plan', 'last', 'subscribe', 'plan');
SELECT pg_temp.news();
SELECT audience.profile_get('bob');
SELECT pg_temp.try($$SELECT audience.trait_drop('plan')$$);
SELECT audience.segment_delete('pro');
SELECT audience.trait_drop('plan');
SELECT audience.profile_get('bob');
SELECT pg_temp.news();
SELECT * FROM audience.verify();

--
-- errors
--
SELECT pg_temp.try($$SELECT audience.trait_drop('t_sum')$$);
SELECT pg_temp.try($$SELECT audience.trait_drop('nowhere')$$);
SELECT pg_temp.try($$SELECT audience.trait_drop('totalSpent')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('t_sum', 'sum', NULL, 'amount')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('totalSpent', 'sum', NULL, 'amount')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('userId', 'count')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('1st', 'count')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('a b', 'count')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('a.b', 'count')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('', 'count')$$);
SELECT pg_temp.try($$SELECT audience.trait_create(NULL, 'count')$$);
SELECT pg_temp.try(format('SELECT audience.trait_create(%L, ''count'')', repeat('x', 64)));
SELECT pg_temp.try(format('SELECT audience.trait_create(%L, ''count'')', repeat('x', 63)));
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'median', NULL, 'amount')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'sum')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'first')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'sum', NULL, 'a..b')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', '')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', time_window => '1 month')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', time_window => '-1 day')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', time_window => '0')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', filter => 'count(a) > 1')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', filter => 'IN SEGMENT ''a''')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', filter => 'SAMPLE(5, ''a'')')$$);
SELECT pg_temp.try($$SELECT audience.trait_create('x', 'count', filter => 'a > ')$$);
SELECT * FROM audience.verify();
