# shellcheck shell=bash
#
# copy: one COPY of many events into the bare table and into the extension's,
# by turns.

for size in $BENCH_COPY_SIZES; do
	work_copy copy busy "$size"
	for ((run = 1; run <= BENCH_RUNS; run++)); do
		first=$((BENCH_HISTORY + (run - 1) * BENCH_COPY + 1))
		sed -n "$first,$((first + BENCH_COPY - 1))p" events.tsv >copy.tsv
		at=$(tail -n 1 copy.tsv | cut -f 2)
		for contestant in bare audience; do
			found=$(columns copy "SELECT $BENCH_COPY / seconds AS rate, $BENCH_COPY / cpu AS cpu_rate
				FROM set_config('audience.now', bench.clock('$at'), false),
					bench.measure(\$\$COPY ${TABLE[$contestant]} (user_id, occurred_at, event_id, event_type, properties, context)
						FROM '$SCRATCH/copy.tsv'\$\$)")
			emit "S=$size" $contestant $run <<<"$found"
		done
	done
	check copy "$(verify_users "$size")"
done
