-- One event of a client's own users.
\set u :client_id + 1 + :clients * random(0, :users / :clients - 1)
\set p random(0, 4999)
\set t random(1, 100)
INSERT INTO events (user_id, event_type, properties)
VALUES (concat('user', lpad(:u, 6, '0')),
	CASE WHEN (:t)::int <= 70 THEN 'page_view' WHEN (:t)::int <= 85 THEN 'add_to_cart' WHEN (:t)::int <= 95 THEN 'purchase' ELSE 'login' END,
	jsonb_build_object('category', 'books', 'productId', (:p)::int, 'amount', (:p)::int / 50.0));
