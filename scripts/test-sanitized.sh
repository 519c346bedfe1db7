#!/bin/bash
#
# test-sanitized.sh: runs the tests on a PostgreSQL that watches every access
# to memory, with assertions on.
#
#     scripts/test-sanitized.sh address|valgrind [ARGUMENT...]   scripts/test.sh ARGUMENT...
#     scripts/test-sanitized.sh --server address|valgrind        makes the server if it is not there
#     scripts/test-sanitized.sh --remove address|valgrind        removes it
#
# "address": server and extension are built by clang with AddressSanitizer and
# UndefinedBehaviorSanitizer.  What palloc gives out is guarded, too: by way of
# PostgreSQL's own hints to valgrind, which test/sanitize/valgrind/memcheck.h
# hands to AddressSanitizer.
#
# "valgrind": the server runs under valgrind's memcheck, which also knows what
# was never written.  It is many times slower: for the regress suite and single
# tests; TAP tests have deadlines that it may not meet.
#
# PostgreSQL is built from Debian's source package, the newest that can be had,
# from the mirrors that apt uses, without a change to apt's configuration or
# lists.  That takes some minutes.  It is kept in AUDIENCE_SANITIZED, by default
# in audience-manager in the user's cache directory, and serves the next run as
# it is, unless this file would now build it in another way.
#
# Before the tests the server has to report errors that test/sanitize/probe.c
# makes on purpose.  Then whatever is reported, by any process at any time, is
# shown and counts as a failed test, but for what test/sanitize/known lists.  The
# last line and the exit status are otherwise those of scripts/test.sh.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

CLANG=14
SANITIZE=$TOP/test/sanitize
RUN_PID=
CLOSING=                        # the last line, printed when all is cleaned up

usage() {
	say "usage: scripts/test-sanitized.sh address|valgrind [regress|isolation|tap] [NAME...]" >&2
	say "       scripts/test-sanitized.sh --server|--remove address|valgrind" >&2
	exit 2
}

# set_kind KIND: sets how the server of that kind is made, and SERVER, the
# directory where it is kept.
set_kind() {
	KIND=$1
	case $KIND in
	address)
		PACKAGES=("clang-$CLANG" "libclang-rt-$CLANG-dev" "llvm-$CLANG")
		COMPILER=clang-$CLANG
		FLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined"
		# what each must report; bytes that were never written are no matter here
		PROBES=(overrun overread freed reset shrunk malloced undefined assertion)
		;;
	valgrind)
		PACKAGES=(valgrind)
		COMPILER=gcc
		FLAGS="-O1 -g -fno-omit-frame-pointer"
		PROBES=(overrun overread freed reset shrunk malloced unwritten assertion)
		;;
	*) usage ;;
	esac
	default_to_cache AUDIENCE_SANITIZED "sanitized servers"
	mkdir -p "$AUDIENCE_SANITIZED"
	SERVER=$(cd "$AUDIENCE_SANITIZED" && pwd -P)/postgresql-$PG_MAJOR-$KIND
}

# Keeps others away from the kept server until this process and its children
# end, or until it is unlocked.
lock_server() {
	exec 9>>"$SERVER.lock"
	flock 9
}

# What the kept server must have been made by, in a word.
recipe() {
	{
		declare -f build_server make_wrapper
		say "$COMPILER $FLAGS"
		cat "$SANITIZE/valgrind/memcheck.h"
	} | sha256sum | cut -d ' ' -f 1
}

# own_apt PROGRAM ARGUMENT...: apt-get or apt-cache with lists of its own, of
# the source packages of the Debian archives that this machine's apt knows.
own_apt() {
	local archive=$SCRATCH/apt
	"$1" -q -o "Dir::Etc::sourcelist=$archive/sources.list" -o Dir::Etc::sourceparts=- \
		-o "Dir::State::lists=$archive/lists" -o "Dir::Cache=$archive/cache" "${@:2}"
}

# Gets the newest sources of PostgreSQL that can be had into SCRATCH/apt; sets
# VERSION to theirs, as Debian has it.  A mirror may not have those of security
# updates.
fetch_sources() {
	local archive=$SCRATCH/apt versions version
	mkdir -p "$archive/lists/partial" "$archive/cache/archives/partial"
	# apt downloads as a user of its own, where it may
	chmod 777 "$archive"
	# shellcheck disable=SC2016 # apt fills that in
	apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI) $(RELEASE)' 'Identifier: Packages' |
		awk '$1 ~ /^Debian(-Security)?$/ && $2 == "main" { print "deb-src", $3, $4, "main" }' |
		sort -u >"$archive/sources.list"
	[ -s "$archive/sources.list" ] || die "apt has no Debian mirror: run apt-get update"
	own_apt apt-get update >"$SCRATCH/log/apt.log" 2>&1 || die "apt-get update failed: $(tail -n 3 "$SCRATCH/log/apt.log")"
	versions=$(own_apt apt-cache showsrc --only-source "postgresql-$PG_MAJOR" | sed -n 's/^Version: //p' | sort -rVu)
	VERSION=
	for version in $versions; do
		if (cd "$archive" && own_apt apt-get source --download-only "postgresql-$PG_MAJOR=$version") >>"$SCRATCH/log/apt.log" 2>&1; then
			VERSION=$version
			return 0
		fi
		say "The mirror does not have the sources of PostgreSQL $version" >&2
	done
	tail -n 20 "$SCRATCH/log/apt.log" >&2
	die "could not get the sources of PostgreSQL $PG_MAJOR"
}

# Builds PostgreSQL in SCRATCH/build, and installs it in SCRATCH/made, in the
# order that lib.sh expects.
build_server() {
	local made=$SCRATCH/made build=$SCRATCH/build
	mkdir "$build"
	# as PostgreSQL released it: Debian's changes tie it to places in the system
	tar -C "$build" --strip-components=1 -xf "$SCRATCH"/apt/postgresql-"$PG_MAJOR"_*.orig.tar.*
	if [ "$KIND" = address ]; then
		mkdir "$build/src/include/valgrind"
		cp "$SANITIZE/valgrind/memcheck.h" "$build/src/include/valgrind/"
	fi
	mkdir "$made"
	[ "$(id -u)" -ne 0 ] || chown -R postgres "$build" "$made"
	"${AS_USER[@]}" env -C "$build" ./configure --quiet "CC=$COMPILER" "CFLAGS=$FLAGS" CPPFLAGS=-DUSE_VALGRIND \
		"--prefix=$made/lib/postgresql/$PG_MAJOR" "--datadir=$made/share/postgresql/$PG_MAJOR" \
		"--includedir=$made/include/postgresql/$PG_MAJOR" \
		--enable-cassert --enable-tap-tests --with-icu --without-readline || return
	# programs find libpq wherever all this is copied to
	# shellcheck disable=SC2016 # for make, and for the dynamic linker
	"${AS_USER[@]}" make -s -j"$(nproc)" -C "$build" 'rpathdir=$$ORIGIN/../lib' all || return
	# shellcheck disable=SC2016
	"${AS_USER[@]}" make -s -C "$build" 'rpathdir=$$ORIGIN/../lib' install || return
	# shellcheck disable=SC2016
	"${AS_USER[@]}" make -s -C "$build/contrib/amcheck" 'rpathdir=$$ORIGIN/../lib' install || return
	cp "$build/src/tools/valgrind.supp" "$made/"
	[ "$KIND" != valgrind ] || make_wrapper "$made/lib/postgresql/$PG_MAJOR/bin"
}

# make_wrapper DIRECTORY: puts a script in the place of the server that runs it
# under valgrind, except where initdb calls it, or where it only says something.
make_wrapper() {
	mv "$1/postgres" "$1/postgres.real"
	cat >"$1/postgres" <<'WRAPPER'
#!/bin/bash
case " $* " in
*" --boot "* | *" --check "* | *" exit_on_error=true "* | " -V "* | " --version "* | *" -C "*) exec "$0.real" "$@" ;;
esac
exec valgrind --quiet --leak-check=no --trace-children=yes --num-callers=30 \
	--error-markers=VALGRINDERROR-BEGIN,VALGRINDERROR-END \
	"--suppressions=$AUDIENCE_VALGRIND/valgrind.supp" "--suppressions=$AUDIENCE_VALGRIND/own.supp" \
	"--log-file=$AUDIENCE_VALGRIND/reports/valgrind.%p" "$0.real" "$@"
WRAPPER
	chmod 755 "$1/postgres"
}

# Makes the server, if it is not there or would now be made otherwise.
make_server() {
	local new=$SERVER.new
	if [ "$(cat "$SERVER/recipe" 2>/dev/null)" = "$(recipe)" ]; then
		return 0
	fi
	fetch_sources
	say "Building PostgreSQL $VERSION for $KIND" >&2
	if ! build_server >"$SCRATCH/log/server.log" 2>&1; then
		tail -n 40 "$SCRATCH/log/server.log" >&2
		die "could not build PostgreSQL"
	fi
	rm -rf "$SCRATCH/build" "$new"
	cp -a "$SCRATCH/made" "$new"
	say "$VERSION" >"$new/version"
	recipe >"$new/recipe"
	rm -rf "$SERVER" "$SCRATCH/made"
	mv -T "$new" "$SERVER"
}

# Sets the environment in which the sanitizers report to files in
# SCRATCH/reports.
set_environment() {
	local common
	"${AS_USER[@]}" mkdir "$SCRATCH/reports"
	chmod 777 "$SCRATCH/reports"
	# no leaks: a process of PostgreSQL leaves to its end what it has.  Programs
	# and libpq have some objects twice (odr).  An assertion that fails aborts.
	common=log_path=$SCRATCH/reports/sanitizer:log_exe_name=1:print_stacktrace=1:handle_abort=1
	common+=:detect_leaks=0:detect_odr_violation=0:abort_on_error=1:allocator_may_return_null=1:quarantine_size_mb=32
	common+=:external_symbolizer_path=/usr/lib/llvm-$CLANG/bin/llvm-symbolizer
	export ASAN_OPTIONS=$common UBSAN_OPTIONS=print_stacktrace=1
	if [ "$KIND" = valgrind ]; then
		export AUDIENCE_VALGRIND=$SCRATCH
		cp "$SERVER/valgrind.supp" "$SCRATCH/valgrind.supp"
		cp "$SANITIZE/valgrind.supp" "$SCRATCH/own.supp"
	fi
}

# The files in SCRATCH/reports that report something.
list_reports() {
	# valgrind has a file for each process; what aborts is an assertion that failed
	find "$SCRATCH/reports" -type f -name 'sanitizer.*' -size +0
	find "$SCRATCH/reports" -type f -name 'valgrind.*' -size +0 -exec \
		grep -l -E 'VALGRINDERROR-BEGIN|Process terminating with default action of signal (4|6|7|8|11) ' {} +
}

# Has the server make errors; dies if one of them is not reported.
probe_server() {
	local bin=$SCRATCH/server/lib/postgresql/$PG_MAJOR/bin probe flags
	flags=$("$bin/pg_config" --cflags)
	# shellcheck disable=SC2086 # they are words
	"${AS_USER[@]}" "$COMPILER" $flags -fPIC -shared "-I$("$bin/pg_config" --includedir-server)" \
		-o "$SCRATCH/probe.so" "$SANITIZE/probe.c" || die "could not build probe.c"
	"${AS_USER[@]}" "$bin/initdb" -D "$SCRATCH/probe" -U postgres --no-locale --no-sync >"$SCRATCH/log/initdb.log" 2>&1 || {
		tail -n 20 "$SCRATCH/log/initdb.log" "$SCRATCH"/reports/* >&2
		die "initdb failed"
	}
	[ -z "$(list_reports)" ] || die "initdb made reports: $(list_reports | xargs head -n 40)"
	for probe in "${PROBES[@]}"; do
		printf '%s\n' "CREATE FUNCTION pg_temp.probe(text) RETURNS void AS '$SCRATCH/probe' LANGUAGE c" \
			"SELECT pg_temp.probe('$probe')" |
			"${AS_USER[@]}" "$bin/postgres" --single -D "$SCRATCH/probe" -c fsync=off postgres >"$SCRATCH/log/probe-$probe.log" 2>&1 || true
		list_reports | xargs -r grep -q "\bprobe_$probe\b" || {
			tail -n 20 "$SCRATCH/log/probe-$probe.log" >&2
			die "the error \"$probe\" that probe.c makes is not reported"
		}
		# of a process that was killed
		rm -f "$SCRATCH"/reports/* "$SCRATCH/probe/postmaster.pid"
	done
	say "Errors made on purpose are reported: ${PROBES[*]}"
}

# Copies standard input to standard output, line by line as they come, but for
# the last one, which goes to the file.
all_but_last() {
	local line next
	if IFS= read -r line; then
		while IFS= read -r next; do
			printf '%s\n' "$line"
			line=$next
		done
		printf '%s\n' "$line" >"$1"
	fi
}

# run_tests ARGUMENT...: runs test.sh on the server; its status is TEST_STATUS.
# Its last line is kept in SCRATCH/log/last.
run_tests() {
	local pipe=$SCRATCH/log/pipe lines
	mkfifo "$pipe"
	: >"$SCRATCH/log/last"
	all_but_last "$SCRATCH/log/last" <"$pipe" &
	lines=$!
	# with addresses at random the sanitizer's own places may be taken
	AUDIENCE_PG_ROOT=$SCRATCH/server setarch "$(uname -m)" -R "$TOP/scripts/test.sh" "$@" >"$pipe" 2>&1 &
	RUN_PID=$!
	TEST_STATUS=0
	wait "$RUN_PID" || TEST_STATUS=$?
	RUN_PID=
	wait "$lines" || true
}

# is_known REPORT: is it one of those in test/sanitize/known?
is_known() {
	local functions
	functions=$(sed -n 's/^ *#[0-9]* 0x[0-9a-f]* in \([^ ]*\) .*/\1/p' "$1" | tr '\n' ' ')
	grep -q -E -f <(grep -v -E "^(#|$)" "$SANITIZE/known") <<<"$functions"
}

# Shows the reports, and sets CLOSING: the last line of test.sh, with each
# report a failure more.  Fails if anything did.
close() {
	local last reports=0 known=0 kept file
	last=$(cat "$SCRATCH/log/last")
	while read -r file; do
		if is_known "$file"; then
			known=$((known + 1))
			continue
		fi
		[ "$reports" -gt 0 ] || kept=$(mktemp -d "${TMPDIR:-/tmp}/audience-reports.XXXXXX")
		reports=$((reports + 1))
		cp "$file" "$kept/"
		# a report has some 50 lines; the same one may come many times
		if [ "$reports" -le 20 ]; then
			say "$KIND: $(basename "$file")"
			head -n 60 "$file"
		fi
	done < <(list_reports)
	[ "$reports" -eq 0 ] || say "Reports are in $kept"
	say "$KIND: PostgreSQL $(cat "$SERVER/version") with assertions, $reports reports, and $known that are known of PostgreSQL itself"
	if [[ $last =~ ^[0-9]+\ passed,\ [0-9]+\ failed ]]; then
		CLOSING=$(awk -v reports="$reports" '{ $3 += reports; print }' <<<"$last")
	else
		# it ended before it had one: that is what it ended with
		say "$last"
		CLOSING="0 passed, $((reports + 1)) failed"
	fi
	[ "$reports" -eq 0 ] && [ "$TEST_STATUS" -eq 0 ]
}

# At exit, whatever the reason.
finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM HUP
	set +e
	if [ -n "$RUN_PID" ]; then
		kill -TERM "$RUN_PID" 2>/dev/null
		wait "$RUN_PID" 2>/dev/null
	fi
	remove_scratch
	[ -z "$CLOSING" ] || say "$CLOSING"
	exit "$status"
}

ONLY_SERVER=
case ${1:-} in
--server)
	[ $# -eq 2 ] || usage
	ONLY_SERVER=1
	shift
	;;
--remove)
	[ $# -eq 2 ] || usage
	set_kind "$2"
	lock_server
	rm -rf "$SERVER" "$SERVER.new" "$SERVER.lock"
	exit
	;;
esac
[ $# -gt 0 ] || usage
set_kind "$1"
shift

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

install_packages "${BUILD_PACKAGES[@]}" "${PACKAGES[@]}" libicu-dev zlib1g-dev bzip2 >&2
make_scratch sanitized
lock_server
ASAN_OPTIONS=detect_leaks=0 make_server
if [ -n "$ONLY_SERVER" ]; then
	say "$SERVER"
	exit
fi
# where whoever the tests run as can read it
cp -a "$SERVER" "$SCRATCH/server"
exec 9>&-
set_environment
probe_server
run_tests "$@"
close
