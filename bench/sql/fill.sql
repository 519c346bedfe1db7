--
-- fill.sql: many users with many events, and a segment of them made by
-- segment_create and by hand.
--
CREATE SCHEMA hand;
CREATE TABLE hand.members (user_id text PRIMARY KEY, entered_at timestamptz NOT NULL);
CREATE TABLE hand.log (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	user_id text NOT NULL,
	entered boolean NOT NULL,
	at timestamptz NOT NULL
);

-- Events of 60 days, up to the first of 2026, evenly spread; of any user as
-- often as of another.  All are evaluated as of the end.
CREATE PROCEDURE bench.make_events(users int, events bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('audience.now', '2026-01-01', false);
	FOR start IN 1 .. events BY 50000 LOOP
		INSERT INTO audience.events (user_id, occurred_at, event_id, event_type, properties)
		SELECT 'user' || lpad((random[1] % users)::text, 8, '0'), '2026-01-01'::timestamptz - (events - n) * (interval '60 days' / events),
			   'e' || n,
			   CASE WHEN random[2] % 100 < 50 THEN 'page_view' WHEN random[2] % 100 < 80 THEN 'purchase' ELSE 'login' END,
			   jsonb_build_object('amount', random[3] % 20000 / 100.0, 'productId', random[4] % 5000)
		FROM generate_series(start, least(start + 49999, events)) n,
			LATERAL (SELECT array_agg(abs(hashint8extended(n, seed) % 1000000007)) FROM generate_series(1, 4) seed) r (random);
		COMMIT;
	END LOOP;
END $$;

-- Makes the segment, measured, by the extension or by hand.
CREATE FUNCTION bench.fill_by(who text, OUT seconds float8, OUT cpu float8) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('audience.now', '2026-01-01', false);
	SELECT m.seconds, m.cpu INTO seconds, cpu
	FROM bench.measure(CASE who
		WHEN 'audience' THEN $q$SELECT audience.segment_create('Buyers', 'count(purchase WHERE amount > 50, LAST ''30 days'') >= 2')$q$
		ELSE $q$WITH buyers AS (
				INSERT INTO hand.members (user_id, entered_at)
				SELECT user_id, '2026-01-01' FROM audience.events
				WHERE event_type = 'purchase' AND (properties->>'amount')::numeric > 50
				  AND occurred_at > timestamptz '2026-01-01' - interval '30 days' AND occurred_at <= '2026-01-01'
				GROUP BY user_id HAVING count(*) >= 2
				RETURNING user_id, entered_at
			)
			INSERT INTO hand.log (user_id, entered, at) SELECT user_id, true, entered_at FROM buyers$q$
		END) m;
END $$;

CREATE FUNCTION bench.fill_differs() RETURNS TABLE (user_id text) LANGUAGE sql AS $$
	SELECT coalesce(m.user_id, h.user_id)
	FROM audience.segment_members('buyers') m FULL JOIN hand.members h ON h.user_id = m.user_id
	WHERE m.user_id IS NULL OR h.user_id IS NULL
	UNION ALL
	-- it must have found somebody
	SELECT 'nobody' WHERE NOT EXISTS (SELECT FROM hand.members)
$$;

CREATE FUNCTION bench.fill_reset() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE hand.members, hand.log;
	PERFORM set_config('audience.now', '2026-01-01', false);
	PERFORM audience.segment_delete('buyers');
	RETURN 'done';
END $$;
