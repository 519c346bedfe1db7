--
-- peer.sql: what a good PL/pgSQL programmer would write by hand instead: one
-- trigger per statement, set-based throughout.
--
-- It keeps a document per user and counters per user and day, matches every
-- touched user with every rule by jsonpath, and writes the differences to the
-- memberships and to a log.  Its windows are whole days as of the user's last
-- event, where audience_manager's slide to the microsecond.
--
CREATE SCHEMA peer;

CREATE TABLE peer.events (LIKE bare.events INCLUDING ALL);

CREATE TABLE peer.profiles (user_id text COLLATE "C" PRIMARY KEY, doc jsonb NOT NULL) WITH (fillfactor = 70);

CREATE TABLE peer.days (
	user_id text COLLATE "C" NOT NULL,
	day date NOT NULL,
	purchases int NOT NULL,
	spend numeric NOT NULL,
	views int NOT NULL,
	carts int NOT NULL,
	PRIMARY KEY (user_id, day)
) WITH (fillfactor = 80);

CREATE TABLE peer.rules (n int PRIMARY KEY, path jsonpath NOT NULL);

CREATE TABLE peer.memberships (user_id text COLLATE "C", n int, entered_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, n));

CREATE TABLE peer.changes (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	user_id text COLLATE "C" NOT NULL,
	n int NOT NULL,
	entered boolean NOT NULL,
	at timestamptz NOT NULL DEFAULT now()
);

CREATE FUNCTION peer.follow_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	-- counters per day, for the windows
	INSERT INTO peer.days AS d (user_id, day, purchases, spend, views, carts)
	SELECT user_id, (occurred_at AT TIME ZONE 'UTC')::date,
		   count(*) FILTER (WHERE event_type = 'purchase'),
		   coalesce(sum((properties->>'amount')::numeric) FILTER (WHERE event_type = 'purchase'), 0),
		   count(*) FILTER (WHERE event_type = 'page_view'),
		   count(*) FILTER (WHERE event_type = 'add_to_cart')
	FROM fresh
	WHERE event_type IN ('purchase', 'page_view', 'add_to_cart')
	GROUP BY 1, 2
	ORDER BY 1, 2
	ON CONFLICT (user_id, day) DO UPDATE
	SET purchases = d.purchases + excluded.purchases, spend = d.spend + excluded.spend,
		views = d.views + excluded.views, carts = d.carts + excluded.carts;

	-- documents, then memberships of their users
	WITH batch AS MATERIALIZED (
		SELECT user_id, count(*) AS events,
			   count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
			   coalesce(sum((properties->>'amount')::numeric) FILTER (WHERE event_type = 'purchase'), 0) AS spend,
			   count(*) FILTER (WHERE event_type = 'page_view') AS views,
			   count(*) FILTER (WHERE event_type = 'add_to_cart') AS carts,
			   (max(occurred_at) AT TIME ZONE 'UTC')::date AS today,
			   (max(occurred_at) FILTER (WHERE event_type = 'purchase') AT TIME ZONE 'UTC')::date AS bought
		FROM fresh
		GROUP BY user_id
	),
	windowed AS MATERIALIZED (
		SELECT b.*, w.*
		FROM batch b, LATERAL (
			SELECT coalesce(sum(purchases), 0) AS purchases30, coalesce(sum(spend), 0) AS spend30,
				   coalesce(sum(d.views) FILTER (WHERE day > b.today - 7), 0) AS views7,
				   coalesce(sum(d.carts) FILTER (WHERE day > b.today - 7), 0) AS carts7
			FROM (SELECT day, purchases, spend, views, carts FROM peer.days
				  WHERE user_id = b.user_id AND day > b.today - 30) d) w
	),
	touched AS (
		INSERT INTO peer.profiles AS p (user_id, doc)
		SELECT user_id, jsonb_build_object(
				   'totalSpent', spend, 'orderCount', purchases, 'eventCount', events, 'pageViews', views, 'cartAdds', carts,
				   'purchases30d', purchases30, 'spend30d', spend30, 'views7d', views7, 'carts7d', carts7)
			   || CASE WHEN bought IS NULL THEN '{}'
				  ELSE jsonb_build_object('lastPurchase', bought, 'daysSincePurchase', today - bought) END
			   || jsonb_build_object('today', today)
		FROM windowed
		ORDER BY user_id
		ON CONFLICT (user_id) DO UPDATE
		SET doc = p.doc || excluded.doc
			|| jsonb_build_object(
				   'totalSpent', coalesce((p.doc->>'totalSpent')::numeric, 0) + (excluded.doc->>'totalSpent')::numeric,
				   'orderCount', coalesce((p.doc->>'orderCount')::bigint, 0) + (excluded.doc->>'orderCount')::bigint,
				   'eventCount', coalesce((p.doc->>'eventCount')::bigint, 0) + (excluded.doc->>'eventCount')::bigint,
				   'pageViews', coalesce((p.doc->>'pageViews')::bigint, 0) + (excluded.doc->>'pageViews')::bigint,
				   'cartAdds', coalesce((p.doc->>'cartAdds')::bigint, 0) + (excluded.doc->>'cartAdds')::bigint)
			|| CASE WHEN excluded.doc ? 'lastPurchase' OR NOT p.doc ? 'lastPurchase' THEN '{}'
			   ELSE jsonb_build_object('daysSincePurchase', (excluded.doc->>'today')::date - (p.doc->>'lastPurchase')::date) END
		RETURNING p.user_id, p.doc
	),
	wanted AS MATERIALIZED (
		SELECT t.user_id, r.n FROM touched t CROSS JOIN peer.rules r WHERE t.doc @@ r.path
	),
	present AS MATERIALIZED (
		SELECT m.user_id, m.n
		FROM batch b, LATERAL (SELECT user_id, n FROM peer.memberships WHERE user_id = b.user_id OFFSET 0) m
	),
	entered AS (
		INSERT INTO peer.memberships (user_id, n)
		SELECT user_id, n FROM (SELECT user_id, n FROM wanted EXCEPT SELECT user_id, n FROM present) missing
		RETURNING user_id, n
	),
	surplus AS MATERIALIZED (
		SELECT user_id, n FROM present EXCEPT SELECT user_id, n FROM wanted
	),
	gone AS (
		DELETE FROM peer.memberships m USING surplus s
		WHERE m.user_id = s.user_id AND m.n = s.n
		RETURNING m.user_id, m.n
	)
	INSERT INTO peer.changes (user_id, n, entered)
	SELECT user_id, n, true FROM entered
	UNION ALL
	SELECT user_id, n, false FROM gone;

	RETURN NULL;
END $$;

CREATE TRIGGER follow AFTER INSERT ON peer.events
REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION peer.follow_events();

-- More rules, and their members from the documents there are.
CREATE PROCEDURE peer.use_rules(wanted int) LANGUAGE plpgsql AS $$
BEGIN
	WITH fresh AS (
		INSERT INTO peer.rules (n, path)
		SELECT n, path FROM bench.rules b
		WHERE kind = 'busy' AND n <= wanted AND NOT EXISTS (SELECT FROM peer.rules r WHERE r.n = b.n)
		RETURNING n, path
	)
	INSERT INTO peer.memberships (user_id, n)
	SELECT p.user_id, f.n FROM peer.profiles p CROSS JOIN fresh f WHERE p.doc @@ f.path;
END $$;

-- What the trigger keeps against the events: rows only where it is wrong.
CREATE FUNCTION peer.check() RETURNS TABLE (problem text, user_id text) LANGUAGE sql AS $$
	SELECT 'total', p.user_id
	FROM peer.profiles p
	LEFT JOIN (SELECT user_id, count(*) AS n,
					  coalesce(sum((properties->>'amount')::numeric) FILTER (WHERE event_type = 'purchase'), 0) AS spent
			   FROM peer.events GROUP BY user_id) e USING (user_id)
	WHERE coalesce((p.doc->>'eventCount')::bigint, 0) <> coalesce(e.n, 0)
	   OR coalesce((p.doc->>'totalSpent')::numeric, 0) <> coalesce(e.spent, 0)
	UNION ALL
	SELECT 'membership', coalesce(w.user_id, m.user_id)
	FROM (SELECT p.user_id, r.n FROM peer.profiles p CROSS JOIN peer.rules r WHERE p.doc @@ r.path) w
	FULL JOIN peer.memberships m ON m.user_id = w.user_id AND m.n = w.n
	WHERE w.user_id IS NULL OR m.user_id IS NULL
$$;

-- Users in whom trigger and extension differ, in the rules without a window:
-- those of the trigger are whole days as of the user's last event.  A user
-- without events has no totals in the trigger's document.
CREATE FUNCTION bench.compare() RETURNS TABLE (user_id text, n int, in_trigger boolean) LANGUAGE sql AS $$
	WITH compared AS (
		SELECT r.n
		FROM peer.rules p JOIN bench.rules r ON r.kind = 'busy' AND r.n = p.n
		WHERE r.rule !~ '(7d|30d|lastPurchase)'
	), ours AS (
		SELECT m.user_id, c.n
		FROM audience.memberships m JOIN compared c ON m.segment_id = 's' || c.n
		WHERE EXISTS (SELECT FROM peer.profiles p WHERE p.user_id = m.user_id AND p.doc ? 'eventCount')
	), theirs AS (
		SELECT m.user_id, m.n
		FROM peer.memberships m JOIN compared USING (n)
		WHERE EXISTS (SELECT FROM peer.profiles p WHERE p.user_id = m.user_id AND p.doc ? 'eventCount')
	)
	SELECT coalesce(o.user_id, t.user_id), coalesce(o.n, t.n), t.n IS NOT NULL
	FROM ours o FULL JOIN theirs t ON t.user_id = o.user_id AND t.n = o.n
	WHERE o.n IS NULL OR t.n IS NULL
$$;
