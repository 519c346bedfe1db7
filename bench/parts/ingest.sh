# shellcheck shell=bash disable=SC2154
#
# ingest: the stream in large statements, into the bare table, under the
# trigger and under the extension, by turns; and what WAL it writes.

for size in $BENCH_SIZES; do
	work_copy ingest busy "$size"
	timed "ingest: $size rules for the trigger" sql -d ingest -c "CALL peer.use_rules($size)" -c "VACUUM ANALYZE" -c "CHECKPOINT"

	warm_up ingest bare trigger audience
	first=$((BENCH_HISTORY + 1))
	for batch in 1000 10000; do
		for ((run = 1; run <= BENCH_RUNS; run++)); do
			first=$((first + BENCH_SLICE))
			for contestant in bare trigger audience; do
				stream ingest "S=$size, $batch a statement" $contestant $run $batch $first $((first + BENCH_SLICE - 1))
			done
		done
	done

	check ingest "$(verify_users "$size")"
	[ -z "$(sql -d ingest -c "SELECT 1 FROM peer.check() LIMIT 1")" ] || die "the trigger's own check found differences"
	[ -z "$(sql -d ingest -c "SELECT 1 FROM bench.compare() LIMIT 1")" ] || die "trigger and extension differ"
	say "  ingest: same memberships as the trigger's, all users, the rules without windows"
done
