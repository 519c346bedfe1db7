# shellcheck shell=bash
#
# kafka: the way of events in by Kafka against INSERT ... SELECT of the same
# events, S = 10; then how long an event's transition takes to come back, and
# what memory the workers need meanwhile.  The broker is a real one, on the same
# machine, and takes its share of it.

: "${BENCH_KAFKA_EVENTS:=$((BENCH_SLICE * 10))}" "${BENCH_KAFKA_SECONDS:=$((BENCH_SECONDS * 60))}"

install_packages python3-confluent-kafka
"$TOP/scripts/kafka.sh" start --dir "$SCRATCH/kafka" --port "${BENCH_KAFKA_PORT:-19492}" | tee kafka.out
BROKER=$(sed -n 's/.* at \([0-9.]*:[0-9]*\),.*/\1/p' kafka.out | head -n 1)
[ -n "$BROKER" ] || die "no broker"
# kafka VERB ARGUMENT...: kafka.sh with this part's broker, which run.sh ends if we do not.
kafka() {
	local verb=$1
	shift
	"$TOP/scripts/kafka.sh" "$verb" --dir "$SCRATCH/kafka" "$@"
}

# set_workers LIST: the databases that have workers.
set_workers() {
	sql -d postgres -c "ALTER SYSTEM SET audience.databases = '$1'" -c 'SELECT pg_reload_conf()' >/dev/null
}

# wait_for DATABASE SECONDS CONDITION: until it holds.
wait_for() {
	local until=$((SECONDS + $2))
	while [ "$(sql -d "$1" -c "SELECT $3")" != t ]; do
		[ $SECONDS -lt $until ] || die "waited $2 s in vain: $3"
		sleep 0.2
	done
}

sed -n "$((BENCH_HISTORY + 1)),$((BENCH_HISTORY + BENCH_KAFKA_EVENTS))p" events.tsv >arriving.tsv
[ "$(wc -l <arriving.tsv)" -eq "$BENCH_KAFKA_EVENTS" ] || die "there are not $BENCH_KAFKA_EVENTS events"

for ((run = 1; run <= BENCH_RUNS; run++)); do
	work_copy "kafka_$run" busy 10 live
	sql -d "kafka_$run" -f "$BENCH/sql/kafka.sql" -c "\\copy bench.arriving (user_id, occurred_at, event_id, event_type, properties, context) FROM arriving.tsv" \
		-c "UPDATE bench.arriving SET occurred_at = now() - interval '10 minutes' * ($BENCH_KAFKA_EVENTS - id) / $BENCH_KAFKA_EVENTS" \
		-c "VACUUM ANALYZE bench.arriving"
	copy_database "inserted_$run" "kafka_$run"
	sql -d "inserted_$run" -c "CHECKPOINT"
	sql -d "kafka_$run" -c "\\copy (SELECT key, value FROM bench.arriving_messages ORDER BY id) TO messages.tsv"
	kafka topics create "events-$run" 8
	kafka produce "events-$run" <messages.tsv

	columns "inserted_$run" "CALL bench.arrive(1000)" | emit "S=10" "INSERT of 1000" "$run"
	check "inserted_$run" "$(verify_users 10)"

	sql -d "kafka_$run" -c "SELECT audience.kafka_cluster_set('main', jsonb_build_object('bootstrap.servers', '$BROKER'))" \
		-c "SELECT audience.kafka_source_create('events-$run')" >/dev/null
	set_workers "kafka_$run"
	wait_for "kafka_$run" 600 "coalesce(sum(next_offset) = $BENCH_KAFKA_EVENTS, false) FROM audience.kafka_offsets"
	columns "kafka_$run" "SELECT (count(*) / extract(epoch FROM max(o.moved_at) - min(e.received_at))) AS rate
		FROM audience.events e JOIN bench.arriving a USING (user_id, occurred_at, event_id),
			(SELECT max(moved_at) AS moved_at FROM audience.kafka_offsets) o" | emit "S=10" Kafka "$run"
	[ "$(sql -d "kafka_$run" -c "SELECT count(*) FROM audience.events JOIN bench.arriving USING (user_id, occurred_at, event_id)")" -eq "$BENCH_KAFKA_EVENTS" ] ||
		die "not all events have come, or not once"
	check "kafka_$run" "$(verify_users 10)"
	set_workers postgres
	wait_for postgres 30 "NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'kafka_$run')"
done

kafka topics create latency-events 8
kafka topics create latency-segments 8
work_copy latency busy 10 live
sql -d latency -c "SELECT audience.segment_create('Latency', 'last(latency.on) = true')" \
	-c "SELECT audience.kafka_cluster_set('main', jsonb_build_object('bootstrap.servers', '$BROKER'))" \
	-c "SELECT audience.kafka_source_create('latency-events')" \
	-c "SELECT audience.kafka_sink_create('latency-segments', 'transitions')" >/dev/null
set_workers latency
wait_for latency 60 "count(*) = 8 FROM audience.stat_kafka_source WHERE state = 'running'"

# memory DATABASE: kB of private pages of consumer and relay
memory() {
	local pid
	for pid in $(sql -d "$1" -c "SELECT pid FROM audience.stat_kafka_source WHERE pid IS NOT NULL UNION SELECT pid FROM audience.stat_kafka_sink WHERE pid IS NOT NULL"); do
		awk '/^Private_(Clean|Dirty)/ { sum += $2 } END { print sum }' "/proc/$pid/smaps_rollup"
	done | awk '{ sum += $1 } END { print sum / 1024 }'
}
"$BENCH/kafka_latency.py" "$BROKER" latency-events latency-segments 1000 "$BENCH_KAFKA_SECONDS" 20011 >latency.out &
LATENCY=$!
run=0
while kill -0 $LATENCY 2>/dev/null; do
	sleep $((BENCH_KAFKA_SECONDS / 20 + 1))
	run=$((run + 1))
	sample "1000 events/s" workers $run memory "$(memory latency)"
done
wait $LATENCY
emit "1000 events/s" "event to transition" 1 <latency.out
cat latency.out
[ "$(value lost <latency.out)" -eq 0 ] || die "transitions were lost"
awk -F'\t' '$1 == "kafka" && $4 == "memory" { print "memory after sample " $5 ": " $6 " MB" }' "$RESULTS"
check latency "$(verify_users 10)"
set_workers postgres
kafka stop
