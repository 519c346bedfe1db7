# shellcheck shell=bash
#
# snapshot: the stream while another session holds an old snapshot, against
# the same stream without, slice by slice; the last of six comes after
# BENCH_SNAPSHOT events.

slice=$((BENCH_SNAPSHOT / 5))
for ((run = 1; run <= BENCH_RUNS; run++)); do
	work_copy no_snapshot busy 100
	work_copy old_snapshot busy 100
	warm_up no_snapshot audience
	warm_up old_snapshot audience
	hold_snapshot old_snapshot
	first=$((BENCH_HISTORY + BENCH_SLICE + 1))
	for percent in 0 20 40 60 80 100; do
		for database in no_snapshot old_snapshot; do
			stream $database "${database/_/ }, $percent %" audience $run 1000 $first $((first + slice - 1))
		done
		first=$((first + slice))
	done
	release_snapshot
done
for database in no_snapshot old_snapshot; do
	check $database "$(verify_users 100)"
done
