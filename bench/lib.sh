# shellcheck shell=bash
#
# lib.sh: what the parts of the benchmark have in common.  Sourced by run.sh,
# after scripts/lib.sh.
#
# A part is a file parts/NAME.sh, sourced with PART set, that measures and
# adds samples to the results: lines of
#
#     part, case, contestant, metric, run, value        separated by tabs
#
# figures.tsv says which of them make the figures of the report.  A part dies
# if what it finds is wrong.

# the event table of each contestant
declare -A TABLE=([bare]=bare.events [trigger]=peer.events [audience]=audience.events)

COPIES=()                       # databases that go when the part is over

# emit CASE CONTESTANT RUN: reads lines of metric and value, adds them to the
# results.
emit() {
	awk -F'\t' -v OFS='\t' -v part="$PART" -v case="$1" -v who="$2" -v run="$3" \
		'$2 != "" { print part, case, who, $1, run, $2 }' >>"$RESULTS"
}

# sample CASE CONTESTANT RUN METRIC VALUE: adds one.
sample() {
	printf '%s\t%s\n' "$4" "$5" | emit "$1" "$2" "$3"
}

# columns DATABASE SQL: the one row that it gives, as lines of column and value.
columns() {
	sql -x -F $'\t' -d "$1" -c "$2"
}

# value COLUMN: that column's, from such lines.
value() {
	awk -F'\t' -v column="$1" '$1 == column { print $2 }'
}

# calculate EXPRESSION: its value, by awk.
calculate() {
	awk "BEGIN { printf \"%.6g\", $1 }"
}

# timed TEXT COMMAND...: runs it and says how long it took.
timed() {
	local text=$1 start=$EPOCHREALTIME
	shift
	"$@"
	printf '  %-58s %8.1f s\n' "$text" "$(calculate "$EPOCHREALTIME - $start")"
}

# now_of DATABASE EVENT: the time of that event of the stream.
now_of() {
	sql -d "$1" -c "SELECT bench.clock(occurred_at) FROM bench.stage WHERE id = $2"
}

# create_database NAME TEMPLATE: a copy, in place of what had that name.
create_database() {
	sql -c "DROP DATABASE IF EXISTS $1" -c "CREATE DATABASE $1 TEMPLATE $2 STRATEGY file_copy"
}

# copy_database NAME TEMPLATE: a copy to work in, until drop_copies.
copy_database() {
	create_database "$1" "$2"
	COPIES+=("$1")
}

drop_copies() {
	local name
	for name in "${COPIES[@]}"; do
		sql -c "DROP DATABASE IF EXISTS $name"
	done
	COPIES=()
}

database_exists() {
	[ "$(sql -c "SELECT count(*) FROM pg_database WHERE datname = '$1'")" -eq 1 ]
}

# fill_database: the rest of making a template, see there.
fill_database() {
	local name=$1 kind=$2 size=$3
	timed "$name: segments" sql -d "$name" -c "CALL bench.use_segments('$kind', $size)"
	timed "$name: attributes" sql -d "$name" -c "CALL bench.set_attributes()"
	timed "$name: history" sql -d "$name" -c "CALL bench.feed('audience.events', 10000, 1, $BENCH_HISTORY)"
	sql -d "$name" -c "VACUUM ANALYZE"
}

# template KIND SIZE [live]: sets TEMPLATE to a database in which so many
# segments, with rules of that kind, have seen the history; makes it if it is
# not there.  "live": the history ends now, for sessions that go by the clock.
template() {
	local live=${3:-}
	TEMPLATE=$1_$2${live:+_live}
	! database_exists "$TEMPLATE" || return 0
	create_database "$TEMPLATE" base
	if [ -n "$live" ]; then
		sql -d "$TEMPLATE" -c "DELETE FROM bench.stage WHERE id > $BENCH_HISTORY" \
			-c "UPDATE bench.stage SET occurred_at = occurred_at + (now() - (SELECT max(occurred_at) FROM bench.stage))" \
			-c "VACUUM ANALYZE bench.stage"
	fi
	fill_database "$TEMPLATE" "$1" "$2"
}

# work_copy NAME KIND SIZE [live]: a database to measure in, vacuumed, and
# behind a checkpoint.
work_copy() {
	template "$2" "$3" "${4:-}"
	copy_database "$1" "$TEMPLATE"
	sql -d "$1" -c "VACUUM ANALYZE" -c "CHECKPOINT"
}

# warm_up DATABASE CONTESTANT...: feeds them the first slice after the history,
# so that most pages have been written since the checkpoint.  To make a database
# is one, too: make all of them first.
warm_up() {
	local database=$1 contestant
	shift
	for contestant in "$@"; do
		sql -d "$database" -c "CALL bench.feed('${TABLE[$contestant]}', 1000, $((BENCH_HISTORY + 1)), $((BENCH_HISTORY + BENCH_SLICE)))"
	done
}

# stream DATABASE CASE CONTESTANT RUN BATCH FIRST LAST: feeds these events of
# the stream, and adds the samples of bench.run and the WAL's.
stream() {
	local found
	found=$(columns "$1" "CALL bench.run('${TABLE[$3]}', $5, $6, $7)")
	{
		grep -v '^wal_' <<<"$found"
		wal_per_event "$(value wal_from <<<"$found")" "$(value wal_to <<<"$found")" $(($7 - $6))
	} | emit "$2" "$3" "$4"
}

# wal_per_event FROM TO EVENTS: bytes of WAL, "wal" without full-page images,
# "wal_fpi" those.
wal_per_event() {
	# what was committed asynchronously must be on disk
	sql -c "SET synchronous_commit = on" -c "SELECT pg_logical_emit_message(true, 'bench', '')" >/dev/null
	"${AS_USER[@]}" "$PG_BIN/pg_waldump" -p "$SCRATCH/bench/pg_wal" -s "$1" -e "$2" --stats |
		tr -d '[]' | awk -v events="$3" '/^Total/ { printf "wal\t%.1f\nwal_fpi\t%.1f\n", $3 / events, $5 / events; seen = 1 } END { exit !seen }'
}

# check DATABASE [USERS [FROM]]: audience.verify() must be empty; with USERS,
# for so many only, from the one named FROM on, or from the middle.
check() {
	local database=$1 users=${2:-} from=${3:-} problems text=all start=$EPOCHREALTIME
	local middle="(SELECT user_id FROM audience.profiles ORDER BY user_id OFFSET (SELECT count(*) / 2 FROM audience.profiles) LIMIT 1)"
	[ -z "$from" ] || middle="(SELECT max(user_id) FROM audience.profiles WHERE user_id < '$from')"
	if [ -z "$users" ]; then
		problems=$(sql -d "$database" -c "SELECT * FROM audience.verify()")
	else
		problems=$(sql -d "$database" -c "WITH lowest (id) AS MATERIALIZED (SELECT coalesce($middle, '')),
			range AS (SELECT user_id FROM audience.profiles, lowest WHERE user_id > id ORDER BY user_id LIMIT $users)
			SELECT found FROM lowest, bench.verify(id, (SELECT max(user_id) FROM range)) found")
		text="$users${from:+ from $from on}"
	fi
	if [ -n "$problems" ]; then
		head -n 10 <<<"$problems" >&2
		die "$database: audience.verify() found differences"
	fi
	printf '  %-58s %8.1f s\n' "$database: verify, users: $text; no differences" "$(calculate "$EPOCHREALTIME - $start")"
	sample "$database" audience 1 "verified users" "$text"
}

# verify_users SEGMENTS: how many users check is to look at with so many
# segments: none said, which is all, unless that takes longer than to measure.
verify_users() {
	[ $(($1 * BENCH_USERS)) -le "$BENCH_VERIFY" ] || printf '%d\n' $((BENCH_VERIFY / $1))
}

# some_processors N: the first N of the processors that this may run on, or all if
# there are fewer, for taskset.
some_processors() {
	awk -F'[:,[:space:]]+' -v wanted="$1" '/^Cpus_allowed_list/ {
		for (i = 2; i <= NF; i++)
		{
			ends = split($i, range, "-")
			for (cpu = range[1]; $i != "" && cpu <= range[ends] && n < wanted; cpu++)
				list = list (n++ ? "," : "") cpu
		}
		print list
	}' /proc/self/status
}

# single DATABASE CONTESTANT CLIENTS COMMIT USERS [OPTION...]: prepared INSERTs of
# one event each, pgbench/USERS.sql, with that synchronous_commit.  What pgbench
# says is in pgbench.out.
#
# Clients and their sessions have as many processors as there are clients.  A
# client and its session take turns; on two processors each waits for the other
# one's to wake up, which takes longer than an INSERT does, and they move from
# the one case to the other as it happens.  (Sessions inherit from the
# postmaster.)
single() {
	local database=$1 contestant=$2 clients=$3 commit=$4 users=$5 postmaster processors all status=0
	shift 5
	postmaster=$(head -n 1 "$SCRATCH/bench/postmaster.pid")
	processors=$(some_processors "$clients")
	all=$(some_processors 100000)
	"${AS_USER[@]}" taskset -cp "$processors" "$postmaster" >/dev/null
	PGOPTIONS="-c search_path=${TABLE[$contestant]%.*} -c synchronous_commit=$commit" \
		taskset -c "$processors" "$PG_BIN/pgbench" -n -M prepared -c "$clients" -j "$clients" -T "$BENCH_SECONDS" \
		-D users="$BENCH_USERS" -D clients="$clients" -f "$BENCH/pgbench/$users.sql" "$@" "$database" >pgbench.out 2>pgbench.err || status=$?
	"${AS_USER[@]}" taskset -cp "$all" "$postmaster" >/dev/null
	[ "$status" -eq 0 ] || die "pgbench failed: $(tail -n 3 pgbench.err)"
}

# hold_snapshot DATABASE: a session there opens a snapshot and keeps it, until
# release_snapshot.
hold_snapshot() {
	PGAPPNAME=bench_snapshot "$PG_BIN/psql" -X -q -At -d "$1" -c 'BEGIN ISOLATION LEVEL REPEATABLE READ' \
		-c 'SELECT count(*) FROM audience.profiles' -c 'SELECT pg_sleep(86400)' >/dev/null 2>&1 &
	HOLDER=$!
	until [ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bench_snapshot' AND wait_event = 'PgSleep'")" = 1 ]; do
		kill -0 "$HOLDER" 2>/dev/null || die "the session with the snapshot has ended"
		sleep 0.1
	done
}

release_snapshot() {
	sql -c "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'bench_snapshot'" >/dev/null
	wait "$HOLDER" || true
}
