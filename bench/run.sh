#!/bin/bash
#
# run.sh: the benchmark.  See README.md here for what it measures.
#
# Settings, from the environment: BENCH_USERS, BENCH_HISTORY (events before
# the first measurement), BENCH_SLICE (events per run), BENCH_RUNS (runs per
# figure), BENCH_SIZES (numbers of segments), BENCH_ROWS (rows of the scan).
# BENCH_QUICK=1 picks small ones.

set -euo pipefail
BENCH=$(cd "$(dirname "$0")" && pwd -P)
# shellcheck source=scripts/lib.sh
. "$BENCH/../scripts/lib.sh"

if [ "${BENCH_QUICK:-0}" = 1 ]; then
	: "${BENCH_USERS:=2000}" "${BENCH_HISTORY:=10000}" "${BENCH_SLICE:=3000}" "${BENCH_ROWS:=50000}"
fi
: "${BENCH_USERS:=100000}" "${BENCH_HISTORY:=500000}" "${BENCH_SLICE:=20000}" "${BENCH_ROWS:=1000000}"
: "${BENCH_RUNS:=3}" "${BENCH_SIZES:=10 100 1000}"
BATCH=1000
SEED=1

finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM
	set +e
	if [ "$status" -ne 0 ] && [ -n "$SCRATCH" ] && [ -f "$SCRATCH/log/server-bench.log" ]; then
		tail -n 20 "$SCRATCH/log/server-bench.log" >&2
	fi
	remove_scratch
	exit "$status"
}

# timed TEXT COMMAND...: runs it and says how long it took.
timed() {
	local text=$1 start=$EPOCHREALTIME
	shift
	"$@"
	awk -v t="$text" -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%-60s %8.1f s\n", t, b - a }'
}

show() {
	"$PG_BIN/psql" -X -q -v ON_ERROR_STOP=1 -P footer=off -c "$1"
}

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages postgresql-$PG_MAJOR postgresql-server-dev-$PG_MAJOR make gcc libc6-dev flex bison
make_scratch bench
build_project all || die "the build failed"
start_server bench <<-CONF
	shared_buffers = 2GB
	max_wal_size = 8GB
	checkpoint_timeout = 30min
	jit = off
	work_mem = 64MB
	maintenance_work_mem = 512MB
	max_parallel_workers_per_gather = 0
	# tables are vacuumed before each size instead, for all contestants alike
	autovacuum = off
	synchronous_commit = off
CONF

say "machine: $(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) cores, $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)"
say "system: $(uname -sr), $(sql -c 'SELECT version()' | cut -d, -f1)"
say "load: $BENCH_USERS users, $BENCH_HISTORY events of history, then $BENCH_RUNS runs of $BENCH_SLICE events for each figure, $BATCH events a statement"
say ""

LARGEST=0
for size in $BENCH_SIZES; do
	LARGEST=$((size > LARGEST ? size : LARGEST))
done

# the stream ends in the past: no event is ahead of the clock
"$TOP/scripts/generate_events.pl" events --users "$BENCH_USERS" \
	--events $((BENCH_HISTORY + BENCH_RUNS * BENCH_SLICE)) --seed $SEED --visit 1 --until 1767225600 >events.tsv
"$TOP/scripts/generate_events.pl" attributes --users "$BENCH_USERS" --seed $SEED >attributes.tsv
"$BENCH/generate_rules.pl" "$LARGEST" >rules.tsv

# results are in the database postgres; each size gets a copy of "base"
say "setting up"
sql -f "$BENCH/result.sql" -c 'CREATE DATABASE base'
sql -d base -c 'CREATE EXTENSION audience_manager' -f "$BENCH/schema.sql" -f "$BENCH/peer.sql"
sql -d base -f "$BENCH/candidate.sql" >/dev/null
sql -d base <<'SQL'
\copy bench.stage (user_id, occurred_at, event_id, event_type, properties, context) FROM events.tsv
\copy bench.attributes FROM attributes.tsv
\copy bench.rules FROM rules.tsv
VACUUM ANALYZE bench.stage, bench.attributes, bench.rules;
SQL
timed "  attributes, trigger" sql -d base -c "INSERT INTO peer.profiles SELECT user_id, attributes FROM bench.attributes"
timed "  history, bare table" sql -d base -c "CALL bench.feed('bare.events', 10000, 1, $BENCH_HISTORY)"
timed "  history, trigger without rules" sql -d base -c "CALL bench.feed('peer.events', 10000, 1, $BENCH_HISTORY)"

for size in $BENCH_SIZES; do
	database=segments_$size
	sql -c "CREATE DATABASE $database TEMPLATE base"
	timed "  $size rules, trigger" sql -d "$database" -c "CALL peer.use_rules($size)"
	timed "  $size segments, audience_manager" sql -d "$database" -c "CALL bench.use_segments($size)"
	timed "  attributes, audience_manager" sql -d "$database" -c "CALL bench.set_attributes()"
	timed "  history, audience_manager" sql -d "$database" -c "CALL bench.feed('audience.events', 10000, 1, $BENCH_HISTORY)"
	sql -d "$database" -c "VACUUM ANALYZE" -c "CHECKPOINT"
	first=$((BENCH_HISTORY + 1))
	for ((run = 1; run <= BENCH_RUNS; run++)); do
		last=$((first + BENCH_SLICE - 1))
		for contestant in "bare table|bare.events|" "trigger|peer.events|peer.changes" \
			"audience_manager|audience.events|audience.transitions"; do
			IFS='|' read -r name target history <<<"$contestant"
			sql -d "$database" -c "CALL bench.run('$name', $size, '$target', nullif('$history', ''), $BATCH, $first, $last)"
		done
		first=$((last + 1))
	done
	sql -d "$database" -c "COPY bench.result TO STDOUT" | sql -c "COPY bench.result FROM STDIN"
	if [ "$size" -eq 10 ]; then
		problems=$(sql -d "$database" -c "SELECT count(*) FROM audience.verify()")
		say "  audience.verify(): $problems differences; the trigger's check: $(sql -d "$database" -c 'SELECT count(*) FROM peer.check()')"
		[ "$problems" -eq 0 ] || die "audience.verify() found differences"
	fi
	[ "$size" = "${BENCH_SIZES##* }" ] || sql -c "DROP DATABASE $database"
done

say ""
say "events taken in, $BATCH a statement; medians of $BENCH_RUNS runs"
show "SELECT segments, contestant,
             round(percentile_cont(0.5) WITHIN GROUP (ORDER BY events / seconds)) AS \"events/s\",
             round(min(events / seconds)) AS lowest, round(max(events / seconds)) AS highest,
             round(sum(events) / nullif(sum(cpu), 0)) AS \"per CPU second\",
             round(percentile_cont(0.5) WITHIN GROUP (ORDER BY (wal / events)::float8)) AS \"WAL bytes/event\",
             round(avg(changes::numeric / events), 3) AS \"changes/event\"
      FROM bench.result GROUP BY segments, contestant
      ORDER BY segments, array_position('{bare table,trigger,audience_manager}', contestant)"
sql <<'SQL'
WITH median AS (
	SELECT segments, contestant, percentile_cont(0.5) WITHIN GROUP (ORDER BY events / seconds) AS rate
	FROM bench.result GROUP BY segments, contestant
)
SELECT format('ratio: %s segments: audience_manager takes %sx the events of the trigger, %s of the bare table',
			  a.segments, round((a.rate / t.rate)::numeric, 1), round((a.rate / b.rate)::numeric, 3))
FROM median a JOIN median t USING (segments) JOIN median b USING (segments)
WHERE a.contestant = 'audience_manager' AND t.contestant = 'trigger' AND b.contestant = 'bare table'
ORDER BY a.segments;
SQL

say ""
say "one rule over $BENCH_ROWS documents, no index; medians of $BENCH_RUNS runs"
sql -d "$database" -v rows="$BENCH_ROWS" -v users="$BENCH_USERS" -v runs="$BENCH_RUNS" <<'SQL'
CREATE UNLOGGED TABLE bench.documents AS
SELECT p.doc FROM generate_series(1, :rows / :users + 1) copy, peer.profiles p LIMIT :rows;
VACUUM ANALYZE bench.documents;
CREATE TEMP TABLE scans AS
SELECT form, run, (bench.time(query)).*
FROM generate_series(0, :runs) run, (VALUES
	('jsonpath @@', $q$SELECT count(*) FROM bench.documents WHERE doc @@
		'($.country == "DE" || $.country == "FR" || $.country == "IT") && $.plan == "pro" && $.emailOptIn == true && $.totalSpent > 100'$q$),
	('rule |=', $q$SELECT count(*) FROM bench.documents WHERE doc OPERATOR(audience.|=)
		'{"all":[{"field":"country","operator":"in","value":["DE","FR","IT"]},{"field":"plan","operator":"eq","value":"pro"},
		         {"field":"emailOptIn","operator":"eq","value":true},{"field":"totalSpent","operator":"gt","value":100}]}'$q$)
) forms (form, query);
-- the first round only warms up
SELECT format('  %-12s %s ms, %s M rows/s, %s rows', form, round((percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) * 1000)::numeric),
			  round((:rows / 1e6 / percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds))::numeric, 2), min(said))
FROM scans WHERE run > 0 GROUP BY form ORDER BY form;
SELECT format('ratio: the rule scans %sx as fast as jsonpath, and finds %s rows',
			  round((percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE form = 'jsonpath @@')
				/ percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) FILTER (WHERE form = 'rule |='))::numeric, 2),
			  CASE WHEN min(said) = max(said) THEN 'the same' ELSE 'OTHER' END)
FROM scans WHERE run > 0;
SQL
