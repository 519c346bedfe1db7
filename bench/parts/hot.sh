# shellcheck shell=bash
#
# hot: streams in which few users do much, against the stream as it is; and a
# user with very many events in its windows, against one with few.

# hot_users SHARE USERS FIRST LAST: gives that share of these events to so many
# users of a name of their own.
hot_users() {
	sql -d hot -c "UPDATE bench.stage SET user_id = 'hot' || $2 || '_' || (id % $2)
		WHERE id BETWEEN $3 AND $4 AND abs(hashint8(id) % 1000) < 1000 * $1"
}

# one_user NAME EVENTS: puts that many events of one user in the last 30 days at
# the stream's end, then as many as one slice to follow them at the same rate.
# Sets FIRST to the first of the latter.
one_user() {
	sql -d hot -c "INSERT INTO bench.stage (user_id, occurred_at, event_id, event_type, properties, context)
		SELECT '$1', '$at'::timestamptz + n * interval '30 days' / $2, '$1-' || n, event_type, properties, context
		FROM (SELECT row_number() OVER (ORDER BY copy, id) - $2 AS n, s.*
			  FROM generate_series(0, $2 / $BENCH_HISTORY + 1) copy, bench.stage s WHERE s.id <= $BENCH_HISTORY) s
		WHERE n <= $slice" -c "VACUUM ANALYZE bench.stage"
	FIRST=$(sql -d hot -c "SELECT max(id) - $slice + 1 FROM bench.stage")
	timed "hot: $2 events of $1" sql -d hot -c "CALL bench.feed('audience.events', 10000, $((FIRST - $2)), $((FIRST - 1)))"
}

work_copy hot busy 100
warm_up hot audience
first=$((BENCH_HISTORY + BENCH_SLICE + 1))
for ((run = 1; run <= BENCH_RUNS; run++)); do
	for case in "as it is:0:1" "10 users half:0.5:10" "1 user 1 %:0.01:1" "1 user half:0.5:1"; do
		IFS=: read -r case share users <<<"$case"
		last=$((first + BENCH_SLICE - 1))
		[ "$share" = 0 ] || hot_users "$share" "$users" $first $last
		stream hot "$case" audience $run 1000 $first $last
		first=$((last + 1))
	done
done
check hot "$(verify_users 100)" hot

# a window of 1,000 events lasts for 30 days, so few are enough to follow
slice=5000
at=$(now_of hot $((first - 1)))
for user in few:1000 many:$BENCH_WINDOW; do
	IFS=: read -r case events <<<"$user"
	one_user "$case" "$events"
	stream hot "$case in the window" audience 1 1000 "$FIRST" $((FIRST + slice - 1001))
	stream hot "$case in the window, 1 a statement" audience 1 1 $((FIRST + slice - 1000)) $((FIRST + slice - 1))
	check hot 1 "$case"
done
