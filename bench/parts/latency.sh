# shellcheck shell=bash
#
# latency: a prepared INSERT of one event, a commit each, one client.

work_copy latency busy 100 live
for ((run = 1; run <= BENCH_RUNS; run++)); do
	for commit in off on; do
		for contestant in bare audience; do
			single latency $contestant 1 "$commit" zipf -l --log-prefix="$SCRATCH/log/latency"
			cut -d ' ' -f 3 "$SCRATCH"/log/latency.* | sort -n | awk '
				{ us[NR] = $1 }
				END { printf "p50\t%d\np99\t%d\ninserts\t%d\n", us[int(NR * 0.5) + 1], us[int(NR * 0.99) + 1], NR }' |
				emit "S=100, synchronous_commit $commit" $contestant $run
			rm "$SCRATCH"/log/latency.*
		done
	done
done
check latency "$(verify_users 100)"
