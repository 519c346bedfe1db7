# shellcheck shell=bash
#
# fill: segment_create of a rule over events, with very many profiles and
# events there are, against the members and their log written by hand; and the
# preview of a rule.

copy_database fill base
sql -d fill -f "$BENCH/sql/fill.sql"
timed "fill: $BENCH_FILL_EVENTS events of $BENCH_FILL_USERS users" \
	sql -d fill -c "CALL bench.make_events($BENCH_FILL_USERS, $BENCH_FILL_EVENTS)"
sql -d fill -c "VACUUM ANALYZE" -c "CHECKPOINT"
for ((run = 1; run <= BENCH_RUNS; run++)); do
	for contestant in hand audience; do
		columns fill "SELECT seconds, cpu FROM bench.fill_by('$contestant')" | emit filled $contestant $run
	done
	[ -z "$(sql -d fill -c "SELECT 1 FROM bench.fill_differs() LIMIT 1")" ] || die "segment_create and the query by hand differ"
	if [ "$run" -eq 1 ]; then
		check fill "$(verify_users 10)"
	fi
	columns fill "SELECT seconds, cpu FROM bench.measure(\$\$SELECT matching FROM audience.segment_preview('totalSpent > 100 AND eventCount >= 5')\$\$, true)" |
		emit preview audience $run
	sql -d fill -c "SELECT bench.fill_reset()" -c "VACUUM audience.profiles" >/dev/null
done
