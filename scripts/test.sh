#!/bin/bash
#
# test.sh: builds the project with -Werror and runs its tests.
#
#     scripts/test.sh                         everything
#     scripts/test.sh regress|isolation|tap   one suite
#     scripts/test.sh lint                    what compilers and checkers say (scripts/lint.sh quick)
#     scripts/test.sh SUITE NAME...           some tests of it
#
# Needs nothing but Debian 12, and Maven Central for the tests of Kafka, once:
# missing packages are installed, all else goes on in a scratch directory (see
# lib.sh).  Regress and isolation tests share a server; TAP tests, which make
# their own, run beside them.
#
# The last line is "N passed, N failed", with ", N skipped" where something
# was: a regress or isolation test counts one, a TAP file each assertion, and
# one failure more if it ended badly without a failed one; of lint, each file
# and checker.  The exit status is
# 0 only if something passed and nothing failed.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PASSED=0
FAILED=0
SKIPPED=0
TAP_PID=
CLOSING=                        # the last line, printed when all is cleaned up

usage() {
	say "usage: scripts/test.sh [regress|isolation|tap] [NAME...] | lint" >&2
	exit 2
}

# uses_kafka TESTS: is there one of these TAP tests that has a Kafka broker?
uses_kafka() {
	local name
	for name in $1; do
		! grep -q '^use AudKafka' "$TOP/test/t/$name.pl" || return 0
	done
	return 1
}

# Gets Kafka's jars, and tells the tests where they can read them.  Where they
# cannot be had, the tests of Kafka fail, and only they.
provide_kafka() {
	local jars
	if ! jars=$("$TOP/scripts/kafka.sh" fetch); then
		say "There are no jars of Kafka: its tests will fail."
		return 0
	fi
	jars=$(tail -n 1 <<<"$jars")
	if ! "${AS_USER[@]}" test -r "$jars" -a -x "$jars"; then
		cp -r "$jars" "$SCRATCH/kafka"
		jars=$SCRATCH/kafka
	fi
	export AUDIENCE_KAFKA_JARS=$jars
}

# Ends the TAP tests if they still run, with the servers they have started.
stop_tap() {
	local data
	[ -n "$TAP_PID" ] || return 0
	kill -TERM -- "-$TAP_PID" 2>/dev/null || true
	wait "$TAP_PID" 2>/dev/null || true
	for data in "$SCRATCH"/src/tmp_check/t_*_data/pgdata; do
		stop_data_directory "$data"
	done
	TAP_PID=
}

# Ends the brokers of tests that were killed and could not do it.
stop_brokers() {
	local data
	for data in "$SCRATCH"/src/tmp_check/kafka_*; do
		[ ! -f "$data/pid" ] || "${AS_USER[@]}" "$SCRATCH/src/scripts/kafka.sh" kill --dir "$data" || true
	done
}

# Keeps the logs of a run that failed, and says where.
keep_logs() {
	local kept path
	kept=$(mktemp -d "${TMPDIR:-/tmp}/audience-test-logs.XXXXXX")
	for path in log src/regression.diffs src/regression.out src/results src/output_iso src/tmp_check/log; do
		[ ! -e "$SCRATCH/$path" ] || cp -r "$SCRATCH/$path" "$kept/"
	done
	say "Logs are in $kept"
}

# At exit, whatever the reason.
finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM
	set +e
	stop_tap
	[ -z "$SCRATCH" ] || stop_brokers
	if [ -n "$SCRATCH" ] && [ "$status" -ne 0 ]; then
		keep_logs
	fi
	remove_scratch
	[ -z "$CLOSING" ] || say "$CLOSING"
	exit "$status"
}

# pick DIRECTORY SUFFIX [NAME...]: the names of the tests there are, or NAMEs,
# each of which must be one.
pick() {
	local directory=$1 suffix=$2 path name
	shift 2
	if [ $# -eq 0 ]; then
		for path in "$TOP/$directory"/*"$suffix"; do
			[ ! -f "$path" ] || basename "$path" "$suffix"
		done
		return 0
	fi
	for name in "$@"; do
		name=$(basename "$name" "$suffix")
		[ -f "$TOP/$directory/$name$suffix" ] || die "there is no test $directory/$name$suffix"
		say "$name"
	done
}

# run_pg_regress SUITE LOG DIFFS MAKE-ARGUMENT...: runs one of the two suites
# of pg_regress, shows each test's result as it comes, and counts them.
run_pg_regress() {
	local suite=$1 log=$SCRATCH/log/$2 diffs=$SCRATCH/src/$3 status=0 passed failed
	shift 3
	project_make installcheck TAP_TESTS= "$@" 2>&1 | tee "$log" |
		sed -u -n -E "s/^((test|parallel group) |(not )?ok [0-9]).*/$suite: &/p" || status=$?
	# "test NAME ... ok"; from PostgreSQL 16 on "ok 1 - NAME"
	passed=$(grep -c -E '^(test .* \.\.\. ok|ok [0-9])' "$log") || true
	failed=$(grep -c -E '^(test .* \.\.\. FAILED|not ok [0-9])' "$log") || true
	if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
		tail -n 20 "$log"
		failed=1
	fi
	if [ -s "$diffs" ]; then
		say "$suite: regression.diffs"
		head -n 500 "$diffs"
	fi
	say "$suite: $passed passed, $failed failed"
	PASSED=$((PASSED + passed))
	FAILED=$((FAILED + failed))
}

# Has compilers and checkers look, and counts.  Those of other releases than
# Debian 12 find other things.
run_lint() {
	local log=$SCRATCH/log/lint.log passed failed
	if ! grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then
		say "lint: skipped: its tools are those of Debian 12"
		SKIPPED=$((SKIPPED + 1))
		return 0
	fi
	"$TOP/scripts/lint.sh" quick >"$log" 2>&1 || true
	cat "$log"
	if [[ $(tail -n 1 "$log") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
		passed=${BASH_REMATCH[1]} failed=${BASH_REMATCH[2]}
	else
		passed=0 failed=1
	fi
	PASSED=$((PASSED + passed))
	FAILED=$((FAILED + failed))
}

# start_tap FILES: starts the TAP tests in a process group of their own.
start_tap() {
	setsid "${AS_USER[@]}" make -s -C "$SCRATCH/src" "PG_CONFIG=$PG_CONFIG" with_llvm=no \
		installcheck REGRESS= ISOLATION= PROVE_FLAGS='-j2 -v' "PROVE_TESTS=$1" \
		>"$SCRATCH/log/tap.log" 2>&1 </dev/null &
	TAP_PID=$!
}

# Waits for the TAP tests, shows a line per file, and counts.  prove writes
# to a file, so it gives each test file's output in one piece.
finish_tap() {
	local log=$SCRATCH/log/tap.log status=0 passed failed skipped count
	wait "$TAP_PID" || status=$?
	TAP_PID=
	count=$(awk '
		function close_file() {
			if (file == "")
				return
			printf "tap: %-36s %d passed, %d failed, %d skipped\n", file, p, f, s > "/dev/stderr"
			passed += p; failed += f; skipped += s
		}
		/^test\/t\/[^ ]+\.pl +\.\./ {
			close_file(); file = $1; p = f = s = 0
			if ($0 ~ /\.\. skipped/) { s = 1; print "tap: skipped: " $0 > "/dev/stderr" }
		}
		/^Test Summary Report/ { close_file(); file = "" }
		file == "" {
			# died, or left its plan, without a failed assertion
			if ($0 ~ /^test\/t\/[^ ]+ +\(Wstat: .* Failed: 0\)/) { failed++; print "tap: ended badly: " $0 > "/dev/stderr" }
			next
		}
		# seeds of random tests, and what they come to
		/^# AUD_/ { print "tap: " file ": " substr($0, 3) > "/dev/stderr"; next }
		/^ok [0-9]+.*# *[Ss][Kk][Ii][Pp]/ { s++; print "tap: skipped: " file ": " $0 > "/dev/stderr"; next }
		/^ok [0-9]/ || /^not ok [0-9].*# *TODO/ { p++; next }
		/^not ok [0-9]/ { f++; print "tap: " file ": " $0 > "/dev/stderr" }
		END { close_file(); print passed + 0, failed + 0, skipped + 0 }' "$log" 2>"$SCRATCH/log/tap.summary")
	read -r passed failed skipped <<<"$count"
	cat "$SCRATCH/log/tap.summary"
	if [ "$status" -ne 0 ]; then
		grep -E -A 8 '^#   Failed test|^# (Looks like|died)|^Bailout|^Can.t |syntax error' "$log" | head -n 100 || true
		if [ "$failed" -eq 0 ]; then
			tail -n 20 "$log"
			failed=1
		fi
	fi
	say "tap: $passed passed, $failed failed, $skipped skipped"
	PASSED=$((PASSED + passed))
	FAILED=$((FAILED + failed))
	SKIPPED=$((SKIPPED + skipped))
}

SUITE=all
if [ $# -gt 0 ]; then
	SUITE=$1
	shift
fi
LINT=
REGRESS=
ISOLATION=
TAP=
case $SUITE in
all)
	LINT=1
	REGRESS=$(pick test/sql .sql)
	ISOLATION=$(pick test/isolation/specs .spec)
	TAP=$(pick test/t .pl)
	;;
regress) REGRESS=$(pick test/sql .sql "$@") ;;
isolation) ISOLATION=$(pick test/isolation/specs .spec "$@") ;;
tap) TAP=$(pick test/t .pl "$@") ;;
lint)
	[ $# -eq 0 ] || usage
	exec "$TOP/scripts/lint.sh" quick
	;;
*) usage ;;
esac

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages "${BUILD_PACKAGES[@]}" libipc-run-perl
if uses_kafka "$TAP"; then
	install_packages openjdk-$JAVA_MAJOR-jre-headless openssl kcat python3-confluent-kafka
fi
if [[ " ${TAP//$'\n'/ } " == *" 095_fuzz "* ]]; then
	# clang is for this test alone: where there is none, it is skipped
	(trap remove_no_cluster_conf EXIT && install_packages clang-14 libclang-rt-14-dev) || say "There is no clang: 095_fuzz will be skipped."
fi
make_scratch test
if uses_kafka "$TAP"; then
	provide_kafka
fi

# test material that is not part of the project, for the tests that use it
: "${AUD_SHARED:=$TOP/../shared}"
if [ -d "$AUD_SHARED" ]; then
	AUD_SHARED=$(cd "$AUD_SHARED" && pwd -P)
	if ! "${AS_USER[@]}" test -r "$AUD_SHARED" -a -x "$AUD_SHARED"; then
		cp -r "$AUD_SHARED" "$SCRATCH/shared"
		AUD_SHARED=$SCRATCH/shared
	fi
fi
export AUD_SHARED

say "Building"
if ! build_project PG_CFLAGS_EXTRA=-Werror; then
	CLOSING="0 passed, 1 failed"
	say "The build failed."
	exit 1
fi
if [ -s "$SCRATCH/log/build.log" ]; then
	cat "$SCRATCH/log/build.log"
fi

if [ -n "$TAP" ]; then
	start_tap "$(printf '%s\n' "$TAP" | sed 's,.*,test/t/&.pl,' | tr '\n' ' ')"
fi
if [ -n "$LINT" ]; then
	run_lint
fi
if [ -n "$REGRESS$ISOLATION" ]; then
	start_server regress <<-CONF
		fsync = off
		audience.strict = on
	CONF
fi
if [ -n "$REGRESS" ]; then
	run_pg_regress regress regress.log regression.diffs ISOLATION= "REGRESS=${REGRESS//$'\n'/ }"
fi
if [ -n "$ISOLATION" ]; then
	run_pg_regress isolation isolation.log output_iso/regression.diffs REGRESS= "ISOLATION=${ISOLATION//$'\n'/ }"
fi
if [ -n "$TAP" ]; then
	finish_tap
fi

CLOSING="$PASSED passed, $FAILED failed"
[ "$SKIPPED" -eq 0 ] || CLOSING="$CLOSING, $SKIPPED skipped"
if [ $((PASSED + FAILED)) -eq 0 ]; then
	say "No test ran."
	exit 1
fi
[ "$FAILED" -eq 0 ]
