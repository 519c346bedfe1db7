# shellcheck shell=bash
#
# memory: a session's memory for many compiled rules, and how long its first
# event takes, from when the connection stands; against a bare table.

work_copy memory seldom "$BENCH_MANY"
now=$(now_of memory "$BENCH_HISTORY")
for ((run = 1; run <= BENCH_RUNS; run++)); do
	for contestant in bare audience; do
		PGOPTIONS="-c audience.now=$now" sql -F $'\t' -d memory -v target="${TABLE[$contestant]}" \
			-v user="user$(printf '%06d' "$run")" -f "$BENCH/sql/memory.sql" |
			emit many $contestant $run
	done
done
check memory "$(verify_users "$BENCH_MANY")"
