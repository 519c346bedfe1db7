#!/bin/bash
#
# run.sh: fuzzes the extension's readers; see README.md.
#
#     test/fuzz/run.sh [TARGET...]
#
# FUZZ_SECONDS    for each target (60)
# FUZZ_TOTAL      instead, for all targets together
# FUZZ_KEEP       directory where what was found, and the corpora, are kept
# FUZZ_SANITIZE   sanitizers: undefined, or address,undefined, for which the
#                 server has them, too (undefined)
#
# The last line is "N inputs of N targets, N findings"; the exit status is 0
# only if every target ran and nothing was found.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

FUZZ=test/fuzz
CLANG=14
SANITIZE=${FUZZ_SANITIZE:-undefined}
ALL=(rule recv jsonb path operator timestamp duration version like number merge packed state message event ingest)
SERVER_SANITIZED=
FINDINGS=0
INPUTS=0
TARGETS=0
CLOSING=

# Prints how it is used.
usage() {
	say "usage: test/fuzz/run.sh [TARGET...]" >&2
	say "targets: ${ALL[*]}" >&2
	exit 2
}

# At exit, whatever the reason.
finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM
	set +e
	[ -z "$SCRATCH" ] || keep
	remove_scratch
	[ -z "$CLOSING" ] || say "$CLOSING"
	exit "$status"
}

# Keeps what was found and, if that is wanted, the corpora.
keep() {
	local found=("$SCRATCH"/found/*)
	if [ -n "${FUZZ_KEEP:-}" ]; then
		mkdir -p "$FUZZ_KEEP"
		cp -r "$SCRATCH/found" "$SCRATCH/corpus" "$SCRATCH/log" "$FUZZ_KEEP/"
	elif [ -e "${found[0]}" ]; then
		FUZZ_KEEP=$(mktemp -d "${TMPDIR:-/tmp}/audience-fuzz.XXXXXX")
		cp -r "$SCRATCH/found" "$SCRATCH/log" "$FUZZ_KEEP/"
	else
		return 0
	fi
	say "Kept in $FUZZ_KEEP"
}

# As lib.sh's, with clang's instrumentation, and the harness in the module.
project_make() {
	"${AS_USER[@]}" make -s -C "$SCRATCH/src" "PG_CONFIG=$PG_CONFIG" with_llvm=no "${FUZZ_MAKE[@]}" "$@"
}

# Sets PG_ROOT to a server with AddressSanitizer, if that is wanted.
choose_server() {
	# its programs leave to their end what they have, and share objects with libpq
	export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0
	if [[ $SANITIZE == *address* ]] && [ -z "${AUDIENCE_PG_ROOT:-}" ]; then
		PG_ROOT=$("$TOP/scripts/test-sanitized.sh" --server address | tail -n 1)
	fi
	case $("$PG_ROOT/lib/postgresql/$PG_MAJOR/bin/pg_config" --cflags) in
	*-fsanitize=address*) SERVER_SANITIZED=1 ;;
	*) [[ $SANITIZE != *address* ]] || die "the PostgreSQL in $PG_ROOT has no AddressSanitizer" ;;
	esac
}

# Sets FUZZ_MAKE, for project_make, and PRELOAD.
configure() {
	local source objects=() runtime flags
	runtime=$("clang-$CLANG" -print-file-name=lib/linux)
	for source in "$TOP"/src/*.c; do
		# harness/events.c takes its place
		[ "$(basename "$source")" = ingest_json.c ] || objects+=("src/$(basename "$source" .c).o")
	done
	objects+=(src/rule_scan.o src/rule_gram.o bgworker/kafka_check.o)
	for source in "$TOP/$FUZZ"/*.c; do
		objects+=("$FUZZ/$(basename "$source" .c).o")
	done
	# a checkout in which something was built has the generated files
	mapfile -t objects < <(printf '%s\n' "${objects[@]}" | sort -u)
	flags="-g -fsanitize=fuzzer-no-link -fno-sanitize-recover=all -fno-omit-frame-pointer"
	if [ -n "$SERVER_SANITIZED" ]; then
		# its own flags have the sanitizers, and it has their runtime
		PRELOAD=
	else
		PRELOAD=$runtime/libclang_rt.ubsan_standalone-x86_64.so
		flags+=" -fsanitize=$SANITIZE -shared-libsan -DUSE_ASSERT_CHECKING=1"
	fi
	FUZZ_MAKE=(
		"CC=clang-$CLANG"
		"OBJS=${objects[*]}"
		"PG_CPPFLAGS=-Isrc"
		"PG_CFLAGS_EXTRA=$flags -Wno-unknown-warning-option -Wno-ignored-optimization-argument -Wno-unused-command-line-argument"
		"SHLIB_LINK=-Wl,-Bsymbolic-functions -Wl,--wrap=AllocSetContextCreateInternal $runtime/libclang_rt.fuzzer_no_main-x86_64.a -lstdc++ -ljansson -lm -lpthread"
	)
}

# single_user LOG: runs statements from standard input, a line each, in a
# single-user server; its exit status is the server's.
single_user() {
	# with addresses at random the sanitizer's own places may be taken
	"${AS_USER[@]}" setarch "$(uname -m)" -R env "LD_PRELOAD=$PRELOAD" \
		"ASAN_OPTIONS=$ASAN_OPTIONS:abort_on_error=1:allocator_may_return_null=1" \
		UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
		"$PG_BIN/postgres" --single -D "$SCRATCH/data" -c fsync=off -c log_min_messages=warning \
		-c audience.now=2026-11-19T12:00:00Z postgres >"$1" 2>&1
}

# fuzz TARGET SECONDS: runs a target; a line of what came of it.
fuzz() {
	local target=$1 seconds=$2 log=$SCRATCH/log/$1.log status=0 executions coverage corpus found
	local arguments=(
		"-max_total_time=$seconds" -max_len=4096 -timeout=30 -rss_limit_mb=0 -detect_leaks=0 -print_final_stats=1
		"-dict=$SCRATCH/corpus/dictionary" "-artifact_prefix=$SCRATCH/found/$target-"
		"-seed=${FUZZ_SEED:-$(date +%s)}" "$SCRATCH/corpus/$target"
	)
	local before after
	before=$(find "$SCRATCH/found" -type f | wc -l)
	printf "SELECT fuzz.run('%s', '{%s}')\n" "$target" "$(IFS=,; printf '%s' "${arguments[*]}")" |
		timeout -k 5 $((seconds + 120)) nice -n 10 bash -c "$(declare -f single_user); AS_USER=(${AS_USER[*]@Q}) PRELOAD='$PRELOAD' PG_BIN='$PG_BIN' SCRATCH='$SCRATCH'; single_user '$log'" ||
		status=$?
	after=$(find "$SCRATCH/found" -type f | wc -l)
	found=$((after - before))
	executions=$(sed -n 's/^stat::number_of_executed_units: //p' "$log" | tail -n 1)
	coverage=$(grep -o 'cov: [0-9]* ft: [0-9]*' "$log" | tail -n 1) || true
	corpus=$(find "$SCRATCH/corpus/$target" -type f | wc -l)
	if [ -z "$executions" ]; then
		# it ended before its time
		executions=$(sed -n -E 's/^#([0-9]+).*/\1/p' "$log" | tail -n 1)
		[ "$found" -gt 0 ] || found=1
		tail -n 60 "$log"
	elif [ "$status" -ne 0 ] && [ "$found" -eq 0 ]; then
		found=1
		tail -n 20 "$log"
	fi
	say "fuzz: $(printf '%-10s' "$target") ${executions:-0} inputs in $seconds s, ${coverage:-no coverage}, corpus $corpus, $found found"
	FINDINGS=$((FINDINGS + found))
	INPUTS=$((INPUTS + ${executions:-0}))
	TARGETS=$((TARGETS + 1))
	# a server that was killed says so once
	rm -f "$SCRATCH/data/postmaster.pid"
}

for target in "$@"; do
	[[ " ${ALL[*]} " == *" $target "* ]] || usage
done
[ $# -gt 0 ] || set -- "${ALL[@]}"
SECONDS_EACH=${FUZZ_SECONDS:-60}
[ -z "${FUZZ_TOTAL:-}" ] || SECONDS_EACH=$(((FUZZ_TOTAL + $# - 1) / $#))

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages "${BUILD_PACKAGES[@]}" "clang-$CLANG" "libclang-rt-$CLANG-dev" perl
make_scratch fuzz
choose_server
configure
say "Building"
# shellcheck disable=SC2119 # our arguments are targets
if ! build_project; then
	CLOSING="0 inputs of 0 targets, 1 findings: the build failed"
	exit 1
fi
"${AS_USER[@]}" "$PG_BIN/initdb" -D "$SCRATCH/data" -U postgres -E UTF8 --locale=C.UTF-8 -A trust --no-sync >"$SCRATCH/log/initdb.log" 2>&1
"${AS_USER[@]}" mkdir "$SCRATCH/found" "$SCRATCH/corpus"
"${AS_USER[@]}" perl "$SCRATCH/src/$FUZZ/seeds.pl" "$SCRATCH/src" "$SCRATCH/corpus" "${ALL[@]}"
if ! single_user "$SCRATCH/log/setup.log" <"$SCRATCH/src/$FUZZ/setup.sql" || grep -q 'ERROR:' "$SCRATCH/log/setup.log"; then
	tail -n 40 "$SCRATCH/log/setup.log"
	CLOSING="0 inputs of 0 targets, 1 findings: the server could not be set up"
	exit 1
fi
for target in "$@"; do
	fuzz "$target" "$SECONDS_EACH"
done
CLOSING="$INPUTS inputs of $TARGETS targets, $FINDINGS findings"
[ "$FINDINGS" -eq 0 ]
