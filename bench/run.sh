#!/bin/bash
#
# run.sh: the benchmark.  See README.md here for what it measures, and for the
# settings, which are environment variables.  BENCH_QUICK=1 picks small ones.
#
# The results are in bench/results, as full.tsv or quick.tsv.

set -euo pipefail
BENCH=$(cd "$(dirname "$0")" && pwd -P)
# shellcheck source=scripts/lib.sh
. "$BENCH/../scripts/lib.sh"
# shellcheck source=bench/lib.sh
. "$BENCH/lib.sh"

FORM=full
if [ "${BENCH_QUICK:-0}" = 1 ]; then
	FORM=quick
	: "${BENCH_USERS:=2000}" "${BENCH_HISTORY:=10000}" "${BENCH_SLICE:=2000}" "${BENCH_RUNS:=1}" "${BENCH_COPY:=20000}"
	: "${BENCH_MANY:=1000}" "${BENCH_ROWS:=50000}" "${BENCH_SECONDS:=1}" "${BENCH_SNAPSHOT:=4000}" "${BENCH_WINDOW:=20000}"
	: "${BENCH_FILL_USERS:=10000}" "${BENCH_FILL_EVENTS:=100000}" "${BENCH_VERIFY:=10000}"
fi
: "${BENCH_USERS:=100000}" "${BENCH_HISTORY:=500000}" "${BENCH_SLICE:=40000}" "${BENCH_RUNS:=3}" "${BENCH_COPY:=500000}"
: "${BENCH_MANY:=10000}" "${BENCH_ROWS:=1000000}" "${BENCH_SECONDS:=10}" "${BENCH_SNAPSHOT:=100000}" "${BENCH_WINDOW:=1000000}"
: "${BENCH_FILL_USERS:=1000000}" "${BENCH_FILL_EVENTS:=10000000}"
: "${BENCH_SIZES:=10 100 1000}" "${BENCH_COPY_SIZES:=10 100}" "${BENCH_VERIFY:=1000000}"
: "${BENCH_PARTS:=ingest copy routing scan latency snapshot clients hot fill memory storage}"
: "${BENCH_RESULTS:=$BENCH/results/$FORM.tsv}"
SEED=1

finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM
	set +e
	if [ "$status" -ne 0 ] && [ -n "$SCRATCH" ] && [ -f "$SCRATCH/log/server-bench.log" ]; then
		tail -n 20 "$SCRATCH/log/server-bench.log" >&2
	fi
	[ ! -d "$SCRATCH/kafka" ] || "$TOP/scripts/kafka.sh" kill --dir "$SCRATCH/kafka"
	remove_scratch
	exit "$status"
}

# about THING VALUE: a line of the results that says how they came about.
about() {
	PART=about sample "$1" "" 1 "" "$2"
	say "$1: $2"
}

# The database that all others are copies of: the stream, the extension with
# traits and no segments, and bare table and trigger with the history behind
# them, no rules.
make_base() {
	local stream=$((BENCH_HISTORY + BENCH_SLICE * (4 * BENCH_RUNS + 2) + BENCH_SNAPSHOT)) lines many=$BENCH_MANY
	lines=$((BENCH_HISTORY + BENCH_COPY * BENCH_RUNS))
	lines=$((lines > stream ? lines : stream))

	# the history is of 30 days, and all of it in the past
	"$TOP/scripts/generate_events.pl" events --users "$BENCH_USERS" --events "$lines" --seed $SEED --visit 1 \
		--days "$(calculate "30 * $lines / $BENCH_HISTORY")" --until 1767225600 >events.tsv
	head -n "$stream" events.tsv >stage.tsv
	"$TOP/scripts/generate_events.pl" attributes --users "$BENCH_USERS" --seed $SEED >attributes.tsv
	"$BENCH/generate_rules.pl" busy 1000 >rules.tsv
	"$BENCH/generate_rules.pl" seldom $((many > 1000 ? many : 1000)) >>rules.tsv

	sql -c 'CREATE DATABASE base'
	sql -d base -c 'CREATE EXTENSION audience_manager' -f "$BENCH/sql/schema.sql" -f "$BENCH/sql/peer.sql"
	sql -d base -f "$BENCH/sql/candidate.sql" >/dev/null
	sql -d base <<-'SQL'
		\copy bench.stage (user_id, occurred_at, event_id, event_type, properties, context) FROM stage.tsv
		\copy bench.attributes FROM attributes.tsv
		\copy bench.rules FROM rules.tsv
		INSERT INTO peer.profiles SELECT user_id, attributes FROM bench.attributes;
		VACUUM ANALYZE;
	SQL
	timed "history, bare table" sql -d base -c "CALL bench.feed('bare.events', 10000, 1, $BENCH_HISTORY)"
	timed "history, trigger without rules" sql -d base -c "CALL bench.feed('peer.events', 10000, 1, $BENCH_HISTORY)"
	sql -d base -c 'VACUUM ANALYZE'
}

for part in $BENCH_PARTS; do
	[ -f "$BENCH/parts/$part.sh" ] || die "there is no part $part"
done

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages "${BUILD_PACKAGES[@]}"
mkdir -p "$(dirname "$BENCH_RESULTS")"
RESULTS=$(cd "$(dirname "$BENCH_RESULTS")" && pwd -P)/$(basename "$BENCH_RESULTS")
: >"$RESULTS"
make_scratch bench
build_project all || die "the build failed"
start_server bench <<-CONF
	shared_preload_libraries = 'audience_manager'
	# no workers in the databases that are measured
	audience.databases = 'postgres'
	shared_buffers = ${BENCH_SHARED_BUFFERS:-2GB}
	max_wal_size = 8GB
	checkpoint_timeout = 60min
	jit = off
	work_mem = 64MB
	maintenance_work_mem = 512MB
	max_parallel_workers_per_gather = 0
	# tables are vacuumed before each measurement instead, for all contestants alike
	autovacuum = off
	synchronous_commit = off
	client_min_messages = warning
CONF

about form "$FORM"
about date "$(date -u +%Y-%m-%d)"
about machine "$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo), $(nproc) cores, $(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)"
about system "$(uname -sr), $(sql -c 'SELECT version()' | cut -d, -f1)"
about version "$(git -C "$TOP" describe --always --dirty 2>/dev/null || echo unknown)"
about load "$(cut -d ' ' -f 1-3 /proc/loadavg) before the start"
for setting in USERS HISTORY SLICE RUNS COPY MANY ROWS SECONDS SNAPSHOT WINDOW FILL_USERS FILL_EVENTS VERIFY; do
	setting=BENCH_$setting
	about "$setting" "${!setting}"
done

say "setting up"
make_base
for PART in $BENCH_PARTS; do
	say "$PART"
	# shellcheck source=/dev/null
	. "$BENCH/parts/$PART.sh"
	drop_copies
done

say ""
"$BENCH/report.pl" "$RESULTS"
say "The results are in $RESULTS"
