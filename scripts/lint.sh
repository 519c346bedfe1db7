#!/bin/bash
#
# lint.sh: has compilers and checkers look at everything that is written here.
#
#     scripts/lint.sh              all of these parts
#     scripts/lint.sh PART...      some of them
#
#     gcc, clang    every C file with -Wall -Wextra -Werror and more (below);
#                   clang with assertions on
#     comments      every C function has a comment before it (of SQL's objects
#                   the regress test "comments" knows)
#     shell         shellcheck
#     perl          perl -wc
#     critic        perlcritic (scripts/lint/perlcriticrc)
#     cppcheck      scripts/lint/postgresql.cfg tells it about PostgreSQL
#     analyzer      gcc -fanalyzer
#     tidy          clang-tidy, which .clang-tidy tells what to look for
#
# "quick" are gcc, clang, comments, shell and perl, which take less than a
# minute of two cores and are part of scripts/test.sh; all of it takes some
# minutes.  A file that a part finds nothing in counts as one passed, and the
# last line is "N passed, N failed"; the exit status is 0 only if nothing
# failed.  The tools are those of Debian 12, so that everybody's find the same.
#
# Warnings that are off, and why:
#
#     -Wno-unused-parameter            callbacks, hooks and SQL-callable functions
#                                      have the parameters that PostgreSQL gives them
#     -Wno-missing-field-initializers  what an initializer leaves out is zero, and
#                                      tables of settings and nodes count on it
#     -Wno-ignored-attributes          (clang) PostgreSQL was configured with gcc, and
#                                      has its headers ask for gcc's "gnu_printf"
#
# A finding that is none is marked where it is, with the reason.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

CLANG=14
QUICK=(gcc clang comments shell perl)
ALL=("${QUICK[@]}" critic cppcheck analyzer tidy)
PASSED=0
FAILED=0
CLOSING=                        # the last line, printed when all is cleaned up

WARNINGS=(
	-Wall -Wextra -Werror -Wno-unused-parameter -Wno-missing-field-initializers
	-Wdate-time -Wformat=2 -Wmissing-prototypes -Wold-style-definition -Wpointer-arith
	-Wshadow -Wstrict-prototypes -Wundef -Wvla -Wwrite-strings
)
GCC_WARNINGS=(
	-Wcast-qual -Wduplicated-branches -Wduplicated-cond -Wimplicit-fallthrough=5
	-Wjump-misses-init -Wlogical-op -Wnull-dereference -Wtrampolines -Wunused-const-variable=2
)
CLANG_WARNINGS=(
	-Wno-ignored-attributes -Wassign-enum -Wcomma -Wconditional-uninitialized -Wenum-conversion
	-Wimplicit-fallthrough -Wloop-analysis -Wmissing-variable-declarations -Wshift-sign-overflow
	-Wstring-concatenation -Wunreachable-code-return -Wunused-const-variable
)

usage() {
	say "usage: scripts/lint.sh [quick] [PART...]" >&2
	say "parts: ${ALL[*]}" >&2
	exit 2
}

# At exit, whatever the reason.
finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM
	set +e
	remove_scratch
	[ -z "$CLOSING" ] || say "$CLOSING"
	exit "$status"
}

# is_wanted PART: is it among the parts to be done?
is_wanted() {
	[[ " $PARTS " == *" $1 "* ]]
}

# each PART FILES COMMAND...: runs the command for each of the files (a list,
# one a line), as many at a time as there are processors, the file's name in
# the place of {}.  Shows what it says of files that it fails for, and counts.
each() {
	local part=$1 files=$2 results=$SCRATCH/log/$1 passed failed
	shift 2
	"${AS_USER[@]}" mkdir -p "$results"
	# shellcheck disable=SC2016 # the other bash is to expand it
	printf '%s\n' "$files" | "${AS_USER[@]}" xargs -P "$(nproc)" -I{} bash -c '
		results=$1 file=$2
		shift 2
		log=$results/${file//\//_}
		"${@//@FILE@/$file}" </dev/null >"$log.log" 2>&1 || mv "$log.log" "$log.failed"
	' bash "$results" {} "${@//\{\}/@FILE@}"
	passed=$(find "$results" -name '*.log' | wc -l)
	failed=$(find "$results" -name '*.failed' | wc -l)
	find "$results" -name '*.failed' -size +0 | sort | xargs -r head -q -n 60
	say "lint: $part $passed passed, $failed failed"
	PASSED=$((PASSED + passed))
	FAILED=$((FAILED + failed))
}

# Makes the copy of the checkout that is looked at, with the files that are
# generated, and goes there.
prepare() {
	make_scratch lint
	copy_checkout
	cd "$SCRATCH/src"
	"${AS_USER[@]}" bison -Wno-deprecated -d -o src/rule_gram.c src/rule_gram.y
	"${AS_USER[@]}" flex -o src/rule_scan.c src/rule_scan.l
	# only the generated: their warnings are bison's and flex's
	INCLUDES=(
		-Isrc -Ibgworker -isystem "$("/usr/lib/postgresql/$PG_MAJOR/bin/pg_config" --includedir-server)"
	)
	C_FILES=$(printf '%s\n' src/*.c bgworker/*.c test/fuzz/*.c)
	OWN_C_FILES=$(grep -v -x -E 'src/rule_(gram|scan)\.c' <<<"$C_FILES")
	PERL_FILES=$(find . -name '*.p[lm]' | sort)
	SHELL_FILES=$(grep -l -r -E '^#!/bin/(ba)?sh|^# shellcheck shell=' --include='*.sh' --include=run . | sort)
}

PARTS=${*:-${ALL[*]}}
PARTS=${PARTS//quick/${QUICK[*]}}
for part in $PARTS; do
	[[ " ${ALL[*]} " == *" $part "* ]] || usage
done

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

PACKAGES=("${BUILD_PACKAGES[@]}")
! is_wanted clang || PACKAGES+=("clang-$CLANG")
! is_wanted shell || PACKAGES+=(shellcheck)
! is_wanted perl || PACKAGES+=(libipc-run-perl)
! is_wanted critic || PACKAGES+=(libperl-critic-perl)
! is_wanted cppcheck || PACKAGES+=(cppcheck)
! is_wanted tidy || PACKAGES+=("clang-tidy-$CLANG")
install_packages "${PACKAGES[@]}"
prepare

# as PostgreSQL is built itself, and optimized: flow is looked at only then
COMPILE=(-std=gnu99 -D_GNU_SOURCE -fno-strict-aliasing -fwrapv "${INCLUDES[@]}")
! is_wanted gcc || {
	each gcc "$OWN_C_FILES" gcc "${COMPILE[@]}" -O2 "${WARNINGS[@]}" "${GCC_WARNINGS[@]}" -c -o /dev/null {}
	# what flex makes takes a buffer for granted that it has made itself
	each gcc-generated "$(grep -x -E 'src/rule_(gram|scan)\.c' <<<"$C_FILES")" \
		gcc "${COMPILE[@]}" -O2 "${WARNINGS[@]}" "${GCC_WARNINGS[@]}" -Wno-null-dereference -c -o /dev/null {}
}
! is_wanted clang || each clang "$C_FILES" "clang-$CLANG" "${COMPILE[@]}" -O2 -DUSE_ASSERT_CHECKING \
	"${WARNINGS[@]}" "${CLANG_WARNINGS[@]}" -c -o /dev/null {}
! is_wanted comments || each comments "$(printf '%s\n' "$OWN_C_FILES" src/*.[hly] bgworker/*.h test/fuzz/*.h | grep -v -x src/rule_gram.h)" \
	perl scripts/lint/comments.pl {}
! is_wanted shell || each shell "$SHELL_FILES" shellcheck -x -e SC2317 {}	# it does not see what traps call
# shellcheck disable=SC2016 # the other bash is to expand it
! is_wanted perl || each perl "$PERL_FILES" env "PERL5LIB=test/t:/usr/lib/postgresql/$PG_MAJOR/lib/pgxs/src/test/perl" \
	bash -c '[ "$(perl -wc "$1" 2>&1)" = "$1 syntax OK" ] || perl -wc "$1"' bash {}
! is_wanted critic || each critic "$PERL_FILES" perlcritic --quiet --profile scripts/lint/perlcriticrc {}
! is_wanted cppcheck || each cppcheck "$OWN_C_FILES" cppcheck --quiet --error-exitcode=1 --inline-suppr \
	--language=c --std=c11 --platform=unix64 --enable=warning,performance,portability,style \
	--library=scripts/lint/postgresql.cfg --library=posix --library=gnu \
	--suppressions-list=scripts/lint/cppcheck.suppressions -Isrc -Ibgworker {}
! is_wanted analyzer || each analyzer "$OWN_C_FILES" gcc "${COMPILE[@]}" -O2 -DUSE_ASSERT_CHECKING -Werror -fanalyzer -c -o /dev/null {}
! is_wanted tidy || each tidy "$OWN_C_FILES" "clang-tidy-$CLANG" --quiet {} -- "${COMPILE[@]}" -DUSE_ASSERT_CHECKING

CLOSING="$PASSED passed, $FAILED failed"
[ "$FAILED" -eq 0 ]
