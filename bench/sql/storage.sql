--
-- storage.sql: traits, so that there are 20 with those of candidate.sql and the
-- built-in three; and what a user takes.
--
SELECT audience.trait_create('averageOrder', 'avg', 'purchase', 'amount');
SELECT audience.trait_create('largestOrder', 'max', 'purchase', 'amount');
SELECT audience.trait_create('firstPurchase', 'first_time', 'purchase');
SELECT audience.trait_create('lastCategory', 'last', NULL, 'category');
SELECT audience.trait_create('firstCategory', 'first', NULL, 'category');
SELECT audience.trait_create('categories', 'count_distinct', 'page_view', 'category');
SELECT audience.trait_create('daysActive', 'days_active');
SELECT audience.trait_create('lastLogin', 'last_time', 'login');
SELECT audience.trait_create('purchases90d', 'count', 'purchase', time_window => '90 days');

CREATE FUNCTION bench.storage(
	OUT profile_bytes float8, OUT total_bytes float8, OUT event_bytes float8,
	OUT traits float8, OUT memberships float8, OUT events float8) LANGUAGE sql AS $$
	SELECT pg_table_size('audience.profiles') / users,
		   (pg_total_relation_size('audience.profiles') + pg_total_relation_size('audience.timers')) / users,
		   pg_total_relation_size('audience.events') / users,
		   (SELECT count(*) FROM audience.traits),
		   (SELECT count(*) FROM audience.memberships) / users,
		   (SELECT count(*) FROM audience.events) / users
	FROM (SELECT count(*)::float8 AS users FROM audience.profiles) counted
$$;
