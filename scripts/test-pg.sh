#!/bin/bash
#
# test-pg.sh: runs the tests on a version of PostgreSQL that this machine does
# not have.
#
#     scripts/test-pg.sh 15|17|18 [ARGUMENT...]   scripts/test.sh ARGUMENT...
#     scripts/test-pg.sh --remove 15|17|18        removes what is kept of it
#
# Each version runs in a chroot of the Debian release that has it, which
# debootstrap makes of the mirror that this machine's apt uses
# (AUDIENCE_DEBIAN_MIRROR: another): 15 bookworm, 17 trixie, 18 forky, which is
# not released yet and changes from day to day; no release has 16.  A chroot
# takes some minutes and 2 GB.  It is kept in AUDIENCE_CHROOTS, by default in
# audience-manager in the user's cache directory, and serves the next run as it
# is; remove it to have one with newer packages.
#
# The test of pg_upgrade starts from PostgreSQL 15, which a chroot of another
# version does not have.  The one of the chroot of 15 is shown to it, with the
# extension, and with the libraries that it has not got itself.  What is upgraded
# must not know more than what it becomes: a minor version may bring something
# that another major version has from a certain minor version on only.  So
# security updates are in the chroots of later versions, but not in that of 15.
#
# The checkout, the test data and Kafka's jars are mounted in the chroot, to be
# read only.  All mounts and all processes are in namespaces of their own, and
# the kernel removes them when the run ends, however it ends.
#
# Needs root, and Debian with debootstrap.  The last line and the exit
# status are those of scripts/test.sh.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

OLD_MAJOR=15                    # what pg_upgrade starts from
RUN_PID=
CHROOT=

usage() {
	say "usage: scripts/test-pg.sh 15|17|18 [regress|isolation|tap] [NAME...]" >&2
	say "       scripts/test-pg.sh --remove 15|17|18" >&2
	exit 2
}

# set_version VERSION: sets MAJOR, SUITE, the Debian release that has it, and
# CHROOT, its directory.
set_version() {
	MAJOR=$1
	case $MAJOR in
	15) SUITE=bookworm ;;
	17) SUITE=trixie ;;
	18) SUITE=forky ;;
	*) usage ;;
	esac
	default_to_cache AUDIENCE_CHROOTS "chroots"
	mkdir -p "$AUDIENCE_CHROOTS"
	CHROOT=$(cd "$AUDIENCE_CHROOTS" && pwd -P)/chroot-$SUITE
}

# Keeps others away from the chroot until this process and its children end.
lock_chroot() {
	exec 9>>"$CHROOT.lock"
	flock -n 9 || die "there is another run in $CHROOT"
}

# find_mirror LABEL: where this machine's apt has the archive of that label from,
# Debian or Debian-Security; nothing if it has not got it.
find_mirror() {
	# shellcheck disable=SC2016 # apt fills that in
	apt-get indextargets --format '$(REPO_URI) $(LABEL) $(COMPONENT)' 'Identifier: Packages' |
		awk -v label="$1" '$2 == label && $3 == "main" && !n++ { print $1 }'
}

# Makes the chroot.  Until it is whole it has another name.
make_chroot() {
	local mirror security script=() new=$CHROOT.new
	[ ! -d "$CHROOT" ] || return 0
	mirror=${AUDIENCE_DEBIAN_MIRROR:-$(find_mirror Debian)}
	[ -n "$mirror" ] || die "apt has no Debian mirror: run apt-get update, or set AUDIENCE_DEBIAN_MIRROR"
	security=$(find_mirror Debian-Security)
	# one that is older than the release knows it by its predecessor
	[ -e "/usr/share/debootstrap/scripts/$SUITE" ] || script=(/usr/share/debootstrap/scripts/sid)

	say "Making a chroot of Debian $SUITE"
	rm -rf "$new"
	debootstrap --variant=minbase --include=ca-certificates "$SUITE" "$new" "$mirror" "${script[@]}" \
		>"$SCRATCH/log/debootstrap.log" 2>&1 || {
		tail -n 20 "$SCRATCH/log/debootstrap.log" >&2
		die "debootstrap failed"
	}
	# a release that is not out has none; of 15's see above
	if [ -n "$security" ] && [ "$SUITE" != forky ] && [ "$MAJOR" -ne "$OLD_MAJOR" ]; then
		printf 'deb %s %s-security main\n' "$security" "$SUITE" >"$new/etc/apt/sources.list.d/security.list"
	fi
	# how this machine's apt reaches its mirror, and what it makes of its dates
	apt-config dump | grep -E '^Acquire::((http|https|Check-|ForceIPv)|Retries)' >"$new/etc/apt/apt.conf.d/90machine" || true
	# installing a server starts nothing
	printf '#!/bin/sh\nexit 101\n' >"$new/usr/sbin/policy-rc.d"
	chmod 755 "$new/usr/sbin/policy-rc.d"
	mv -T "$new" "$CHROOT"
}

# show DIRECTORY NAME: mounts it at /mnt/NAME of the chroot, read-only.
show() {
	mkdir -p "$CHROOT/mnt/$2"
	mount --bind "$1" "$CHROOT/mnt/$2"
	mount -o remount,bind,ro "$CHROOT/mnt/$2"
}

# Makes the chroot if it is not there, and mounts what every use of it needs.
enter_chroot() {
	make_chroot
	# of a run that was killed
	find "$CHROOT/tmp" -mindepth 1 -maxdepth 1 -name 'audience-*' ! -name 'audience-test-logs.*' -exec rm -rf {} +
	cp -L /etc/resolv.conf /etc/hosts "$CHROOT/etc/"
	mount -t proc proc "$CHROOT/proc"
	mount -t tmpfs -o mode=1777 tmpfs "$CHROOT/dev/shm"
	show "$TOP" project
}

# with_library SCRIPT: runs it in the chroot, after lib.sh.
with_library() {
	chroot "$CHROOT" "${SETTINGS[@]}" "AUDIENCE_PG_MAJOR=$MAJOR" \
		bash -c "set -euo pipefail; . /mnt/project/scripts/lib.sh; $1" test-pg.sh
}

# Puts the PostgreSQL that pg_upgrade starts from into SCRATCH/old, with the
# extension, and the libraries of its programs into SCRATCH/old/libraries.
make_old() {
	local MAJOR SUITE CHROOT
	set_version "$OLD_MAJOR"
	exec 8>>"$CHROOT.lock"
	flock 8
	enter_chroot
	mkdir -p "$SCRATCH/old" "$CHROOT/mnt/out"
	mount --bind "$SCRATCH/old" "$CHROOT/mnt/out"
	say "Building for PostgreSQL $MAJOR"
	# what compiles queries needs LLVM, and nothing else does; ldd fails for what is no program
	# shellcheck disable=SC2016 # for the shell in the chroot
	with_library '
		trap remove_scratch EXIT
		install_packages "${BUILD_PACKAGES[@]}"
		make_scratch old
		build_project PG_CFLAGS_EXTRA=-Werror
		rm -rf pg/lib/postgresql/*/lib/bitcode pg/lib/postgresql/*/lib/llvmjit*
		cp -a pg/. /mnt/out/
		mkdir /mnt/out/libraries
		{ find pg/lib -type f -exec ldd {} + 2>/dev/null || true; } |
			awk '"'"'$2 == "=>" && $3 ~ /^\// { print $1, $3 }'"'"' | sort -u |
			while read -r name path; do
				cp -L "$path" "/mnt/out/libraries/$name"
			done'
	flock -u 8
}

# Takes from these libraries those that the chroot has itself.
remove_known_libraries() {
	local name
	# they are known only when the server is installed
	# shellcheck disable=SC2016 # for the shell in the chroot
	with_library 'install_packages "${BUILD_PACKAGES[@]}"'
	chroot "$CHROOT" ldconfig -p | awk '/=>/ { print $1 }' | sort -u |
		while read -r name; do
			rm -f "$SCRATCH/old/libraries/$name"
		done
}

# run_inside [ARGUMENT...]: what goes on in the namespaces: the chroot, and
# test.sh in it.
run_inside() {
	SETTINGS=(env -u TMPDIR -u XDG_CACHE_HOME HOME=/root)
	if [ "$MAJOR" -ne "$OLD_MAJOR" ] && tests_upgrade "$@"; then
		make_old
	fi
	enter_chroot
	if [ -d "$SCRATCH/old" ]; then
		remove_known_libraries
		show "$SCRATCH/old" old
		SETTINGS+=("AUDIENCE_OLD_PG=/mnt/old/lib/postgresql/$OLD_MAJOR" LD_LIBRARY_PATH=/mnt/old/libraries)
	fi
	if [ -d "${AUD_SHARED:=$TOP/../shared}" ]; then
		show "$AUD_SHARED" shared
		SETTINGS+=(AUD_SHARED=/mnt/shared)
	fi
	if [ -n "$JARS" ]; then
		show "$JARS" kafka
		SETTINGS+=(AUDIENCE_KAFKA_JARS=/mnt/kafka)
	fi
	say "In $CHROOT, which is the root of the paths below"
	chroot "$CHROOT" "${SETTINGS[@]}" "AUDIENCE_PG_MAJOR=$MAJOR" /mnt/project/scripts/test.sh "$@"
}

# Will test.sh with these arguments run the test of pg_upgrade?
tests_upgrade() {
	case ${1:-all} in
	all) return 0 ;;
	tap) [ $# -eq 1 ] || [[ " ${*:2} " == *pg_upgrade* ]] ;;
	*) return 1 ;;
	esac
}

# Ends what was started, and removes what is not kept.
finish() {
	local status=$?
	trap - EXIT
	trap '' INT TERM HUP
	if [ -n "$RUN_PID" ]; then
		# with it goes all that is in its namespaces
		kill -KILL "$RUN_PID" 2>/dev/null || true
		wait "$RUN_PID" 2>/dev/null || true
	fi
	[ -z "$SCRATCH" ] || remove_scratch
	exit "$status"
}

[ $# -gt 0 ] || usage
case $1 in
--inside)
	# called by the script itself, in namespaces of their own
	SCRATCH=$2
	JARS=$3
	set_version "$4"
	run_inside "${@:5}"
	exit
	;;
--remove)
	[ $# -eq 2 ] || usage
	[ "$(id -u)" -eq 0 ] || die "needs root"
	set_version "$2"
	lock_chroot
	rm -rf --one-file-system "$CHROOT" "$CHROOT.new" "$CHROOT.lock"
	exit
	;;
esac
set_version "$1"
shift
[ "$(id -u)" -eq 0 ] || die "needs root"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
lock_chroot
install_packages debootstrap

JARS=
case ${1:-all} in
all | tap)
	# without them test.sh tries for itself
	JARS=$("$TOP/scripts/kafka.sh" fetch | tail -n 1) || JARS=
	;;
esac
SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/audience-test-pg.XXXXXX")
mkdir "$SCRATCH/log"

unshare --mount --pid --ipc --fork --kill-child --mount-proc \
	"$TOP/scripts/test-pg.sh" --inside "$SCRATCH" "$JARS" "$MAJOR" "$@" &
RUN_PID=$!
status=0
wait "$RUN_PID" || status=$?
RUN_PID=
exit "$status"
