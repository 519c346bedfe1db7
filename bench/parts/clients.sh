# shellcheck shell=bash
#
# clients: two clients against one, with users of their own, and with users
# that they share and of whom few do most; in statements of 1,000 events and
# in single INSERTs.

# together CASE RUN N: the events of N clients, those of bench.split, at once.
together() {
	local start first last jobs=() job
	sql -d clients -F ' ' -c "SELECT starts, ends FROM bench.split($next, $((next + BENCH_SLICE - 1)), $3, '$1' = 'users of their own')" >ranges
	next=$((next + BENCH_SLICE))
	start=$EPOCHREALTIME
	while read -r first last; do
		sql -d clients -c "CALL bench.feed('audience.events', 1000, $first, $last)" &
		jobs+=($!)
	done <ranges
	for job in "${jobs[@]}"; do
		wait "$job"
	done
	sample "$1, 1000 a statement" "audience, $3 clients" "$2" rate "$(calculate "$BENCH_SLICE / ($EPOCHREALTIME - $start)")"
}

work_copy clients busy 100
warm_up clients audience
next=$((BENCH_HISTORY + BENCH_SLICE + 1))
for ((run = 1; run <= BENCH_RUNS; run++)); do
	for case in "users of their own" "shared users"; do
		for clients in 1 2; do
			together "$case" $run $clients
		done
	done
done
check clients "$(verify_users 100)"

work_copy clients busy 100 live
for ((run = 1; run <= BENCH_RUNS; run++)); do
	for users in own zipf; do
		case=$([ $users = own ] && echo "users of their own" || echo "shared users")
		for clients in 1 2; do
			for contestant in bare audience; do
				single clients $contestant $clients off $users
				sample "$case, single INSERT" "$contestant, $clients clients" $run rate "$(awk '/^tps/ { print $3 }' pgbench.out)"
			done
		done
	done
done
check clients "$(verify_users 100)"
