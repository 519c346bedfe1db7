--
-- scan.sql: users' documents, and the same as rows with typed columns.
--
CREATE UNLOGGED TABLE bench.documents AS
SELECT p.doc FROM generate_series(1, :rows / :users + 1) copy, peer.profiles p LIMIT :rows;

CREATE UNLOGGED TABLE bench.typed AS
SELECT (doc->>'totalSpent')::float8 AS "totalSpent", (doc->>'orderCount')::int AS "orderCount",
	   (doc->>'eventCount')::int AS "eventCount", (doc->>'pageViews')::int AS "pageViews", (doc->>'cartAdds')::int AS "cartAdds",
	   (doc->>'purchases30d')::int AS "purchases30d", (doc->>'spend30d')::float8 AS "spend30d", (doc->>'views7d')::int AS "views7d",
	   (doc->>'carts7d')::int AS "carts7d", (doc->>'age')::int AS age, doc->>'country' AS country, doc->>'plan' AS plan,
	   doc->>'device' AS device, doc->>'language' AS language, (doc->>'emailOptIn')::boolean AS "emailOptIn", doc->>'channel' AS channel
FROM bench.documents;

VACUUM ANALYZE bench.documents, bench.typed;

-- the rules, each in three spellings
CREATE TABLE bench.scans (name text PRIMARY KEY, rule text, path text, condition text);
INSERT INTO bench.scans VALUES
	('1 condition', $$country = 'DE'$$, $$$.country == "DE"$$, $$country = 'DE'$$),
	('2 conditions, and', $$totalSpent > 1000 AND country = 'DE'$$, $$$.totalSpent > 1000 && $.country == "DE"$$,
		$$"totalSpent" > 1000 AND country = 'DE'$$),
	('2 conditions, or', $$eventCount >= 50 OR purchases30d >= 3$$, $$$.eventCount >= 50 || $.purchases30d >= 3$$,
		$$"eventCount" >= 50 OR "purchases30d" >= 3$$),
	('4 conditions', $$country IN ('DE', 'FR', 'IT') AND plan = 'pro' AND emailOptIn = true AND totalSpent > 100$$,
		$$($.country == "DE" || $.country == "FR" || $.country == "IT") && $.plan == "pro" && $.emailOptIn == true && $.totalSpent > 100$$,
		$$country IN ('DE', 'FR', 'IT') AND plan = 'pro' AND "emailOptIn" AND "totalSpent" > 100$$);
