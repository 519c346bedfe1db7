--
-- The engine's tables are written without statements; what others may have put
-- on them is honoured all the same.
--
\getenv source PG_ABS_SRCDIR
\set helpers :source '/include/helpers.sql'
\i :helpers
SELECT audience.segment_create('buyers', 'count(buy, LAST ''10 days'') >= 1');

-- keys that refer to users, and triggers for each row
CREATE TABLE public.friends (user_id text COLLATE "C" REFERENCES audience.profiles ON DELETE CASCADE);
CREATE TABLE public.seen (n serial, what text);
CREATE FUNCTION public.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (what) VALUES (concat_ws(' ', TG_TABLE_NAME, TG_WHEN, TG_OP, CASE TG_OP WHEN 'DELETE' THEN OLD.user_id ELSE NEW.user_id END));
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE TRIGGER see_before BEFORE INSERT OR UPDATE OR DELETE ON audience.profiles FOR EACH ROW EXECUTE FUNCTION public.see();
CREATE TRIGGER see_after AFTER INSERT OR UPDATE OR DELETE ON audience.profiles FOR EACH ROW EXECUTE FUNCTION public.see();
CREATE TRIGGER see_timer AFTER INSERT OR UPDATE OR DELETE ON audience.timers FOR EACH ROW EXECUTE FUNCTION public.see();
CREATE TRIGGER see_history AFTER INSERT ON audience.transition_log FOR EACH ROW EXECUTE FUNCTION public.see();
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'buy', '1'), ('b', 'view', '2');
INSERT INTO public.friends VALUES ('a'), ('b');
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'view', '3'), ('b', 'buy', '4'), ('c', 'view', '5');
INSERT INTO public.friends VALUES ('nobody');
SELECT what FROM public.seen ORDER BY n;
SELECT * FROM audience.verify();
DROP FUNCTION public.see() CASCADE;

-- a trigger that refuses a row, and one that changes it
CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.user_id <> ''d'' THEN NEW END; END';
CREATE TRIGGER refuse BEFORE INSERT ON audience.profiles FOR EACH ROW EXECUTE FUNCTION public.refuse();
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('d', 'view', '6'), ('e', 'view', '6');
SELECT user_id FROM audience.profiles ORDER BY 1;
DROP FUNCTION public.refuse() CASCADE;
SELECT audience.profile_rebuild('{d}');
SELECT * FROM audience.verify();

-- a trigger that ingests for a user who is still to come
CREATE FUNCTION public.ingest_more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.user_id = 'a' THEN
		INSERT INTO audience.events (user_id, event_type) VALUES ('b', 'view');
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER ingest_more BEFORE UPDATE ON audience.profiles FOR EACH ROW EXECUTE FUNCTION public.ingest_more();
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'view', '7');
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'view', '8'), ('b', 'view', '8')$$);
DROP FUNCTION public.ingest_more() CASCADE;
SELECT * FROM audience.verify();

-- constraints, generated columns, and columns that nobody told the engine of
ALTER TABLE audience.profiles ADD CONSTRAINT short CHECK (length(user_id) < 3), ADD days double precision
	GENERATED ALWAYS AS (extract(epoch FROM last_seen - first_seen) / 86400) STORED;
INSERT INTO audience.events (user_id, event_type, event_id, occurred_at) VALUES ('f', 'view', '9', audience.now() - interval '3 days'), ('f', 'view', '10', audience.now());
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'view', '9');
SELECT split_part(pg_temp.try($$INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('long', 'view', '9')$$), E'\n', 1);
SELECT user_id, days FROM audience.profiles WHERE user_id IN ('a', 'f') ORDER BY 1;
ALTER TABLE audience.profiles DROP CONSTRAINT short, DROP days, ADD tenant text NOT NULL DEFAULT 'us';
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'view', '11');
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('g', 'view', '11');
SELECT tenant FROM audience.profiles WHERE user_id = 'g';
ALTER TABLE audience.profiles ALTER tenant DROP DEFAULT;
SELECT split_part(pg_temp.try($$INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('h', 'view', '11')$$), E'\n', 1);
ALTER TABLE audience.profiles DROP tenant;
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('g', 'buy', '12');
SELECT user_id FROM audience.memberships ORDER BY 1;
SELECT * FROM audience.verify();

-- rows move, all at once, and the table to another file
VACUUM FULL audience.profiles;
VACUUM FULL audience.timers;
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'buy', '13'), ('c', 'buy', '13'), ('h', 'buy', '13');
SELECT audience.profile_erase('c') ->> 'profiles';
VACUUM audience.profiles;
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('a', 'buy', '14'), ('c', 'buy', '14'), ('i', 'buy', '14');
SELECT user_id FROM audience.memberships ORDER BY 1;
SELECT * FROM audience.verify();

-- without its key a table cannot be written
ALTER TABLE audience.profiles DROP CONSTRAINT profiles_pkey CASCADE;
SELECT pg_temp.try($$INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('j', 'buy', '15')$$);
ALTER TABLE audience.profiles ADD PRIMARY KEY (user_id);
INSERT INTO audience.events (user_id, event_type, event_id) VALUES ('j', 'buy', '15');
SELECT * FROM audience.verify();
DROP TABLE public.friends, public.seen;
