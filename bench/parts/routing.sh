# shellcheck shell=bash
#
# routing: what a statement costs by the number of segments, if their rules
# seldom change hands; what evaluation costs per touched user, and what a
# change of membership.
#
# Evaluation is the CPU time per touched user beyond that of a database with
# the same aggregates and one segment.  A change is the CPU time of rules that
# change often beyond that of as many that do not, over the changes beyond
# theirs; that includes evaluating what leads to them.

# name in the results: kind and number of rules
declare -A rules_of=([1]="seldom 1" [10]="seldom 10" [1000]="seldom 1000" [many]="seldom $BENCH_MANY" [busy]="busy 1000")

for size in 1 10 1000 many busy; do
	read -r kind number <<<"${rules_of[$size]}"
	work_copy "routing_$size" "$kind" "$number"
done
for size in 1 10 1000 many busy; do
	warm_up "routing_$size" audience
done
for ((run = 1; run <= BENCH_RUNS; run++)); do
	first=$((BENCH_HISTORY + run * BENCH_SLICE + 1))
	for size in 1 10 1000 many busy; do
		stream "routing_$size" "$size" audience $run 1000 $first $((first + BENCH_SLICE - 1))
	done
done
awk -F'\t' -v OFS='\t' '
	$1 == "routing" { value[$2, $4, $5] = $6; runs = $5 }
	function per_user(size) { return (value[size, "cpu_us", run] - value[1, "cpu_us", run]) / value[size, "users", run] }
	END {
		for (run = 1; run <= runs; run++) {
			print "routing", "1000", "audience", "us_per_user", run, per_user("1000")
			print "routing", "many", "audience", "us_per_user", run, per_user("many")
			print "routing", "busy", "audience", "us_per_user", run, per_user("busy")
			print "routing", "busy", "audience", "us_per_change", run,
				(value["busy", "cpu_us", run] - value["1000", "cpu_us", run]) / (value["busy", "changes", run] - value["1000", "changes", run])
		}
	}' "$RESULTS" >derived.tsv
cat derived.tsv >>"$RESULTS"
for size in 1 10 1000 many busy; do
	read -r _ number <<<"${rules_of[$size]}"
	check "routing_$size" "$(verify_users "$number")"
done
