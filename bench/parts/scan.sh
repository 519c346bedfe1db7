# shellcheck shell=bash
#
# scan: one rule over many documents and rows, against jsonpath and against a
# WHERE on typed columns, no index.

copy_database scan base
sql -d scan -v rows="$BENCH_ROWS" -v users="$BENCH_USERS" -f "$BENCH/sql/scan.sql"
sql -d scan -F $'\t' -v runs="$BENCH_RUNS" -f "$BENCH/sql/scan_run.sql" | while IFS=$'\t' read -r case form run milliseconds cpu; do
	printf 'ms\t%s\ncpu_ms\t%s\n' "$milliseconds" "$cpu" | emit "$case" "$form" "$run"
done
