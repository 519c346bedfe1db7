-- One event of any user, some of them much more often than others.
\set u random_zipfian(1, :users, 1.05)
\set p random(0, 4999)
\set t random(1, 100)
INSERT INTO events (user_id, event_type, properties)
VALUES (concat('user', lpad(:u, 6, '0')),
	CASE WHEN (:t)::int <= 70 THEN 'page_view' WHEN (:t)::int <= 85 THEN 'add_to_cart' WHEN (:t)::int <= 95 THEN 'purchase' ELSE 'login' END,
	jsonb_build_object('category', 'books', 'productId', (:p)::int, 'amount', (:p)::int / 50.0));
