--
-- candidate.sql: audience_manager set up for the benchmark: the traits that
-- its rules use (totalSpent and eventCount are there from the start), and the
-- counterpart of peer.use_rules.
--
SET client_min_messages = warning;

SELECT audience.trait_create('orderCount', 'count', 'purchase');
SELECT audience.trait_create('pageViews', 'count', 'page_view');
SELECT audience.trait_create('cartAdds', 'count', 'add_to_cart');
SELECT audience.trait_create('purchases30d', 'count', 'purchase', time_window => '30 days');
SELECT audience.trait_create('spend30d', 'sum', 'purchase', 'amount', time_window => '30 days');
SELECT audience.trait_create('views7d', 'count', 'page_view', time_window => '7 days');
SELECT audience.trait_create('carts7d', 'count', 'add_to_cart', time_window => '7 days');
SELECT audience.trait_create('lastPurchase', 'last_time', 'purchase');

-- Sets the attributes of all users, a thousand at a time.
CREATE PROCEDURE bench.set_attributes() LANGUAGE plpgsql AS $$
DECLARE
	batch jsonb;
BEGIN
	-- a user's clock does not run back: it starts with the stream
	PERFORM set_config('audience.now', bench.clock(min(occurred_at)), false) FROM bench.stage;
	FOR batch IN
		SELECT jsonb_agg(jsonb_build_object('userId', user_id, 'attributes', attributes))
		FROM (SELECT *, row_number() OVER (ORDER BY user_id) / 1000 AS n FROM bench.attributes) numbered
		GROUP BY n
	LOOP
		PERFORM audience.profiles_set(batch);
	END LOOP;
END $$;

-- Segments s1 to the number wanted, of the rules of a kind.
CREATE PROCEDURE bench.use_segments(wanted_kind text, wanted int) LANGUAGE plpgsql AS $$
DECLARE
	fresh record;
BEGIN
	FOR fresh IN SELECT n, rule FROM bench.rules WHERE kind = wanted_kind AND n <= wanted ORDER BY n LOOP
		PERFORM audience.segment_create('s' || fresh.n, fresh.rule::audience.rule);
		COMMIT;
	END LOOP;
END $$;
