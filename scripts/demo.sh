#!/bin/bash
#
# demo.sh: the extension at work on a made-up shop's event stream.
#
#     scripts/demo.sh [--kafka] [--keep] [--events N]
#
# Builds the project, starts a private PostgreSQL server, makes segments, puts
# sixty days of events in as they would have come, and shows what became of
# them.  With --kafka they come by way of a real Kafka broker, which is started
# as well, and what becomes of them goes out there, too.  Needs nothing but
# Debian 12 (for the broker also Maven Central) and leaves nothing behind (see
# lib.sh), unless --keep is given: then what was started stays up for a look
# around.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

EVENTS=100000
USERS=5000
BATCH=1000
KEEP=false
KAFKA=false

usage() {
	say "usage: scripts/demo.sh [--kafka] [--keep] [--events N]" >&2
	exit 2
}

while [ $# -gt 0 ]; do
	case $1 in
	--kafka) KAFKA=true ;;
	--keep) KEEP=true ;;
	--events)
		EVENTS=${2:-}
		[[ $EVENTS =~ ^[1-9][0-9]{0,8}$ ]] || usage
		shift
		;;
	*) usage ;;
	esac
	shift
done

finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM
	set +e
	if [ "$status" -ne 0 ] || ! $KEEP; then
		[ -z "$SCRATCH" ] || [ ! -d "$SCRATCH/kafka" ] || kafka kill
		remove_scratch
	fi
	exit "$status"
}

# title TEXT: a heading of the output.
title() {
	printf '\n== %s\n' "$*"
}

# show SQL: a query's result as a table.
show() {
	"$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 -P footer=off -P null=- -c "$1"
}

# seconds_since START: with one decimal; START as $EPOCHREALTIME gave it.
seconds_since() {
	awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

# Reads how many events are in, a line per batch, and shows every tenth part.
show_progress() {
	local count shown=0
	while read -r count; do
		if [ $((count * 10 / EVENTS)) -gt "$shown" ]; then
			shown=$((count * 10 / EVENTS))
			printf '   %9d of %d events, %s s\n' "$count" "$EVENTS" "$(seconds_since "$1")"
		fi
	done
}

# kafka VERB ARGUMENT...: kafka.sh with the demo's broker.
kafka() {
	local verb=$1
	shift
	"$TOP/scripts/kafka.sh" "$verb" --dir "$SCRATCH/kafka" "$@"
}

# A port behind which four more are free, too.
free_port() {
	local port offset free
	for ((port = 19092; port < 29092; port += 10)); do
		free=true
		for offset in 0 1 2 3 4; do
			! (: <"/dev/tcp/127.0.0.1/$((port + offset))") 2>/dev/null || free=false
		done
		! $free || break
	done
	say "$port"
}

# load_by_copy: the stream by COPY, with the clock set to the events' time.
load_by_copy() {
	title "Events: 60 days up to now, in batches of $BATCH by COPY"
	"$TOP/scripts/generate_events.pl" script --users $USERS --events "$EVENTS" --batch $BATCH >events.sql
	START=$EPOCHREALTIME
	sql -f events.sql | show_progress "$START"
	show_rate

	# the events came with the clock set to their time; this brings those whom time
	# has changed since to the present
	START=$EPOCHREALTIME
	say "$(sql -c 'SELECT audience.run_due()') users whom time alone may have changed looked at in $(seconds_since "$START") s"
}

# Says how fast the events came since START.
show_rate() {
	awk -v n="$EVENTS" -v s="$(seconds_since "$START")" \
		'BEGIN { printf "%d events a second, every membership decided on the way\n", n / (s > 0 ? s : 0.1) }'
}

# wait_for SECONDS CONDITION: until the database says that it holds.
wait_for() {
	local until=$((SECONDS + $1))
	while [ "$(sql -c "SELECT $2")" != t ]; do
		[ $SECONDS -lt $until ] || die "waited $1 s in vain: $2"
		sleep 0.1
	done
}

# load_by_kafka: the stream as messages of topic user-events, and what becomes
# of it to topic user-segments.
load_by_kafka() {
	title "A Kafka broker, topics, and the bridge"
	kafka start --port "$(free_port)" | tee kafka.out
	BROKER=$(sed -n 's/^Kafka.* at \([0-9.]*:[0-9]*\),.*/\1/p' kafka.out)
	kafka topics create user-events 4
	kafka topics create user-segments 4
	kafka topics create segment-updates 1
	sql <<-SQL
		SELECT audience.kafka_cluster_set('main', '{"bootstrap.servers": "$BROKER"}');
		SELECT 'source ' || audience.kafka_source_create('user-events');
		SELECT 'source ' || audience.kafka_source_create('segment-updates', 'segments');
		SELECT 'sink ' || audience.kafka_sink_create('user-segments', 'transitions');
	SQL

	title "Events: 60 days up to now, as messages of topic user-events; the first that come out of user-segments"
	"$TOP/scripts/generate_events.pl" messages --users $USERS --events "$EVENTS" >messages.tsv
	kafka consume user-segments --follow 2>/dev/null | head -n 8 &
	kafka produce user-events <messages.tsv
	START=$EPOCHREALTIME
	wait_for 600 "coalesce(sum(next_offset) FILTER (WHERE topic = 'user-events') = $EVENTS, false) FROM audience.stat_kafka_source"
	show_rate
	wait_for 60 "depth = 0 FROM audience.stat_kafka_sink"
	show "SELECT topic, partition, state, next_offset, lag, messages, batches, dead_letters FROM audience.stat_kafka_source ORDER BY 1, 2"
	show "SELECT topic, state, depth, sent, acked FROM audience.stat_kafka_sink"

	say "$(kafka consume user-segments | wc -l) messages are in topic user-segments"

	title "Live: a definition and an event as messages, and what comes back"
	printf '%s\t%s\n' here_right_now '{"segmentId":"here_right_now","action":"created","segment":{"id":"here_right_now","name":"Here Right Now","type":"dynamic","rules":"count(*, LAST '"'2 seconds'"') >= 1"}}' |
		kafka produce segment-updates
	wait_for 60 "EXISTS (SELECT FROM audience.segments WHERE id = 'here_right_now')"
	printf '%s\t%s\n' visitor '{"userId":"visitor","eventType":"page_view"}' | kafka produce user-events
	wait_for 60 "count(*) = 2 FROM audience.transitions WHERE user_id = 'visitor' AND segment_id = 'here_right_now'"
	wait_for 60 "depth = 0 FROM audience.stat_kafka_sink"
	kafka consume user-segments | grep -F visitor | cut -f 3-4
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages "${BUILD_PACKAGES[@]}"

title "Build, and a private server"
make_scratch demo
build_project all || die "the build failed"
start_server demo <<-CONF
	shared_buffers = 512MB
	max_wal_size = 4GB
	shared_preload_libraries = 'audience_manager'
	# a stream by COPY comes with a clock of its own: no scheduler until it is in
	audience.databases = '$($KAFKA || say none)'
CONF
sql -c 'CREATE EXTENSION audience_manager'
show "SELECT extname AS extension, extversion AS version, current_setting('server_version') AS postgresql
      FROM pg_extension WHERE extname = 'audience_manager'"

title "Segments"
sql >/dev/null <<'SQL'
SET client_min_messages = warning;

-- traits beside those that are there from the start
SELECT audience.trait_create('orderCount', 'count', 'purchase');
SELECT audience.trait_create('spend30d', 'sum', 'purchase', 'amount', time_window => '30 days');

-- totals
SELECT audience.segment_create('High Value Users',
	'{"conditions":[{"field":"totalSpent","operator":"gt","value":1000}]}');
-- a sliding window
SELECT audience.segment_create('Big Spenders This Month', 'spend30d > 500');
SELECT audience.segment_create('Electronics Fans',
	'count(purchase WHERE category == ''electronics'', LAST ''30 days'') >= 2');
-- absence
SELECT audience.segment_create('Gone Quiet', 'count(*, LAST ''14 days'') = 0 AND eventCount >= 5');
-- attributes
SELECT audience.segment_create('Newsletter DACH', 'country IN (''DE'', ''AT'', ''CH'') AND emailOptIn = true');
SELECT audience.segment_create('Paying Plans', '{"field":"plan","operator":"in","value":["pro","enterprise"]}');
-- a segment of segments
SELECT audience.segment_create('VIP', 'IN SEGMENT ''high_value_users'' AND IN SEGMENT ''paying_plans''');
-- sequences
SELECT audience.segment_create('Cart to Purchase in an Hour',
	'SEQUENCE(add_to_cart, purchase WITHIN ''1 hour''; LAST ''30 days'')');
SELECT audience.segment_create('Cart Abandoners',
	'SEQUENCE(add_to_cart, NOT purchase WITHIN ''1 day''; LAST ''7 days'')');
-- a list
SELECT audience.segment_create('Beta Testers', type => 'static');
SQL
show "SELECT id, type, audience.rule_expression(rules) AS rule FROM audience.segments ORDER BY created_at, id"

title "Users: attributes"
"$TOP/scripts/generate_events.pl" attributes --users $USERS >attributes.tsv
START=$EPOCHREALTIME
sql <<'SQL'
CREATE TEMP TABLE attributes (user_id text, attributes jsonb);
\copy attributes FROM attributes.tsv
SELECT sum(audience.profiles_set(batch)) || ' profiles set'
FROM (SELECT jsonb_agg(jsonb_build_object('userId', user_id, 'attributes', attributes)) AS batch
      FROM (SELECT *, row_number() OVER (ORDER BY user_id) / 1000 AS n FROM attributes) numbered
      GROUP BY n) batches;
SELECT audience.segment_add('beta_testers', array_agg(user_id)) || ' users put on the list beta_testers'
FROM (SELECT user_id FROM attributes ORDER BY md5(user_id) LIMIT 100) chosen;
SQL
say "$(seconds_since "$START") s"

if $KAFKA; then
	load_by_kafka
else
	load_by_copy
fi

title "Segments and their sizes"
show "SELECT s.id, s.name, s.type, audience.segment_count(s.id) AS members,
             count(t.*) FILTER (WHERE t.action = 'added') AS entered,
             count(t.*) FILTER (WHERE t.action = 'removed') AS \"left\"
      FROM audience.segments s LEFT JOIN audience.transitions t ON t.segment_id = s.id
      GROUP BY s.id, s.name, s.type ORDER BY members DESC, s.id"

title "Who entered and left lately"
show "SELECT to_char(occurred_at, 'YYYY-MM-DD HH24:MI') AS \"when\", user_id, action, segment_id, reason, event_id
      FROM audience.transitions WHERE event_id IS NOT NULL
      ORDER BY occurred_at DESC, user_id, segment_id LIMIT 12"

if ! $KAFKA; then
	title "Time alone: the scheduler at work"
	sql >/dev/null <<-'SQL'
		ALTER SYSTEM SET audience.databases = '';
		SELECT pg_reload_conf();
		SELECT audience.segment_create('Here Right Now', 'count(*, LAST ''2 seconds'') >= 1');
		SELECT audience.event_ingest('{"userId":"visitor","eventType":"page_view"}');
		SELECT pg_sleep(2.5);
	SQL
	show "SELECT user_id, action, segment_id, reason, occurred_at, recorded_at - occurred_at AS late
	      FROM audience.transitions WHERE user_id = 'visitor' AND segment_id = 'here_right_now' ORDER BY seq"
fi
show "SELECT state, next_due_at, due, done, errors FROM audience.stat_scheduler"

SOMEONE=$(sql -c "SELECT user_id FROM audience.memberships WHERE segment_id IN ('vip', 'high_value_users')
                  GROUP BY user_id ORDER BY count(*) DESC, user_id LIMIT 1")
[ -n "$SOMEONE" ] || SOMEONE=$(sql -c "SELECT user_id FROM audience.profiles ORDER BY user_id LIMIT 1")
title "One user: audience.profile_get('$SOMEONE')"
sql -c "SELECT jsonb_pretty(audience.profile_get('$SOMEONE'))"

title "Why: audience.segment_explain('cart_abandoners', '$SOMEONE') and of vip"
show "SELECT repeat('  ', depth) || node AS node, actual, holds FROM audience.segment_explain('cart_abandoners', '$SOMEONE')
      UNION ALL
      SELECT repeat('  ', depth) || node, actual, holds FROM audience.segment_explain('vip', '$SOMEONE')"

title "Check: audience.verify() recomputes everything from the events"
START=$EPOCHREALTIME
PROBLEMS=$(sql -c 'SELECT count(*) FROM audience.verify()')
say "$PROBLEMS differences, in $(seconds_since "$START") s"
if [ "$PROBLEMS" -ne 0 ]; then
	show "SELECT * FROM audience.verify() LIMIT 20"
	exit 1
fi

if $KEEP; then
	STOP="$PG_BIN/pg_ctl -D $SCRATCH/demo -m fast stop"
	[ "$(id -u)" -ne 0 ] || STOP="runuser -u postgres -- $STOP"
	! $KAFKA || STOP="$STOP && $TOP/scripts/kafka.sh stop --dir $SCRATCH/kafka"
	title "The server stays up"
	say "connect:  $PG_BIN/psql -h $PGHOST -p $PGPORT -U postgres"
	! $KAFKA || say "broker:   $BROKER, or scripts/kafka.sh consume --dir $SCRATCH/kafka user-segments --follow"
	say "stop:     (cd / && $STOP && rm -rf $SCRATCH)"
else
	title "Done"
	say "The server and its data are gone.  With --keep they stay:"
	say "    scripts/demo.sh --keep"
	say "prints the psql command that connects, and how to stop the server."
fi
