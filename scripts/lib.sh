# shellcheck shell=bash
# shellcheck disable=SC2034 # who sources it uses what is set here
#
# lib.sh: what test.sh, demo.sh and bench/run.sh have in common.  Sourced.
#
# Each of them works on PostgreSQL servers of its own, made from a private
# copy of the installed PostgreSQL in a scratch directory:
#
#     SCRATCH/src      a copy of this checkout, built there
#     SCRATCH/pg       a copy of PostgreSQL, the extension installed into it
#     SCRATCH/sock     the servers' Unix sockets (no TCP port is opened)
#     SCRATCH/NAME     data directory of server NAME; SCRATCH/log its log
#
# PostgreSQL finds its files relative to its binaries, and pg_config's answers
# follow, as long as lib, share and include keep their places under one
# prefix.  So nothing is written to the checkout or to the system but missing
# Debian packages, and several runs can go on side by side.
#
# Nothing but apt-get runs as root: root steps down to the user "postgres".

# Another version of PostgreSQL than Debian 12's: test-pg.sh says so.
PG_MAJOR=${AUDIENCE_PG_MAJOR:-15}

# Where PostgreSQL is copied from, laid out as Debian's in /usr: test-sanitized.sh
# has one of its own.
PG_ROOT=${AUDIENCE_PG_ROOT:-/usr}

# Debian packages that building and running the project takes.
BUILD_PACKAGES=(
	"postgresql-$PG_MAJOR" "postgresql-server-dev-$PG_MAJOR" make gcc libc6-dev flex bison
	librdkafka-dev libjansson-dev
)

# The Java that Kafka runs on: Debian 12 has 17, what comes after it 21.
JAVA_MAJOR=21
! grep -q '^VERSION_CODENAME=bookworm' /etc/os-release || JAVA_MAJOR=17

# The project's top directory.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

SCRATCH=
AS_USER=()                      # prefix of commands that must not run as root
SERVERS=()                      # names of the servers that were started
NO_CLUSTER_CONF=                # set while install_packages keeps it in /etc
NO_CLUSTER_DIR=

umask 022
export LC_ALL=C.UTF-8
unset CDPATH MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
for variable in $(compgen -e PG); do
	unset "$variable"
done
unset variable

say() {
	printf '%s\n' "$*"
}

die() {
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# as_root COMMAND...: runs it as root, through sudo where needed.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "cannot run as root and there is no sudo: $*"
	fi
}

# default_to_cache VARIABLE WHAT [NAME]: what keeps WHAT for the next run is, where
# the variable is not set, audience-manager[/NAME] in the user's cache directory.
default_to_cache() {
	local cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
	[ -z "${!1:-}" ] || return 0
	[ -n "$cache" ] || die "set $1, the directory for $2"
	printf -v "$1" '%s' "$cache/audience-manager${3:+/$3}"
}

# Is the Debian package installed?
package_installed() {
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# install_packages PACKAGE...: installs those that are missing.  Installing
# the server creates no cluster "main" and starts nothing: the setting that
# says so is there while apt-get runs only.
install_packages() {
	local missing=() package
	local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
	for package in "$@"; do
		package_installed "$package" || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	command -v apt-get >/dev/null || die "needs these Debian packages: ${missing[*]}"
	say "Installing Debian packages: ${missing[*]}"
	as_root "${apt[@]}" update >/dev/null || die "apt-get update failed"
	as_root "${apt[@]}" install --no-install-recommends postgresql-common >/dev/null ||
		die "apt-get install postgresql-common failed"

	[ -d /etc/postgresql-common/createcluster.d ] || NO_CLUSTER_DIR=/etc/postgresql-common/createcluster.d
	NO_CLUSTER_CONF=/etc/postgresql-common/createcluster.d/audience-$$.conf
	as_root mkdir -p "$(dirname "$NO_CLUSTER_CONF")"
	printf 'create_main_cluster = false\n' | as_root tee "$NO_CLUSTER_CONF" >/dev/null
	as_root "${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null ||
		die "apt-get install failed: ${missing[*]}"
	remove_no_cluster_conf
}

# Takes away what install_packages put into /etc for the time of apt-get.
remove_no_cluster_conf() {
	[ -n "$NO_CLUSTER_CONF" ] || return 0
	as_root rm -f "$NO_CLUSTER_CONF"
	NO_CLUSTER_CONF=
	[ -z "$NO_CLUSTER_DIR" ] || as_root rmdir "$NO_CLUSTER_DIR" || true
	NO_CLUSTER_DIR=
}

# make_scratch NAME: creates SCRATCH, owned by the user that everything runs
# as, goes there, and sets AS_USER.
make_scratch() {
	SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/audience-$1.XXXXXX")
	# a socket's path has 107 bytes at most
	if [ ${#SCRATCH} -gt 80 ]; then
		rmdir "$SCRATCH"
		SCRATCH=$(mktemp -d "/tmp/audience-$1.XXXXXX")
	fi
	chmod 755 "$SCRATCH"
	if [ "$(id -u)" -eq 0 ]; then
		AS_USER=(runuser -u postgres -- env "HOME=$SCRATCH")
		chown postgres "$SCRATCH"
	fi
	cd "$SCRATCH" || die "cannot enter $SCRATCH"
	"${AS_USER[@]}" test -w "$SCRATCH" || die "user postgres cannot write to $SCRATCH"
	"${AS_USER[@]}" mkdir src pg sock log
}

# Copies this checkout to SCRATCH/src, without what a build in it may have left:
# that must not pass for ours.
copy_checkout() {
	tar -C "$TOP" -cf - --exclude=./.git --exclude='*.o' --exclude='*.bc' \
		--exclude='*.so' --exclude='*.a' --exclude=./src/rule_gram.[ch] \
		--exclude=./src/rule_scan.c --exclude='./sql/audience_manager--*.sql' \
		--exclude=./results --exclude=./output_iso --exclude=./tmp_check . |
		tar -C "$SCRATCH/src" -xf - --no-same-owner
	[ "$(id -u)" -ne 0 ] || chown -R postgres "$SCRATCH/src"
}

# build_project [MAKE-ARGUMENT...]: copies PostgreSQL and this checkout to
# SCRATCH, builds, installs.  Sets PG_BIN and PG_CONFIG.
build_project() {
	local prefix=$SCRATCH/pg
	PG_BIN=$prefix/lib/postgresql/$PG_MAJOR/bin
	PG_CONFIG=$PG_BIN/pg_config

	mkdir -p "$prefix"/{lib,share,include}/postgresql
	cp -a "$PG_ROOT/lib/postgresql/$PG_MAJOR" "$prefix/lib/postgresql/"
	cp -a "$PG_ROOT/share/postgresql/$PG_MAJOR" "$prefix/share/postgresql/"
	cp -a "$PG_ROOT/include/postgresql/." "$prefix/include/postgresql/"

	copy_checkout
	[ "$(id -u)" -ne 0 ] || chown -R postgres "$SCRATCH"

	if ! project_make -j"$(nproc)" "$@" >"$SCRATCH/log/build.log" 2>&1 ||
		! project_make install >>"$SCRATCH/log/build.log" 2>&1; then
		tail -n 40 "$SCRATCH/log/build.log" >&2
		return 1
	fi
}

# project_make ARGUMENT...: make in the copy of the checkout.  No LLVM bitcode:
# it would only serve to inline SQL-callable functions, and costs a compiler.
project_make() {
	"${AS_USER[@]}" make -s -C "$SCRATCH/src" "PG_CONFIG=$PG_CONFIG" with_llvm=no "$@"
}

# start_server NAME: makes and starts a server; reads more lines for its
# postgresql.conf from standard input.  Sets libpq's environment to it.
start_server() {
	local data=$SCRATCH/$1
	# shellcheck disable=SC2024 # the log belongs to whoever reads it
	"${AS_USER[@]}" "$PG_BIN/initdb" -D "$data" -U postgres -E UTF8 \
		--locale=C.UTF-8 -A trust --no-sync >"$SCRATCH/log/initdb-$1.log" 2>&1 ||
		die "initdb failed: $(tail -n 3 "$SCRATCH/log/initdb-$1.log")"
	{
		printf "listen_addresses = ''\n"
		printf "unix_socket_directories = '%s'\n" "$SCRATCH/sock"
		cat
	} >>"$data/postgresql.conf"

	# known to cleanup before it is there: an interrupt may come in between
	SERVERS+=("$1")
	"${AS_USER[@]}" "$PG_BIN/pg_ctl" -D "$data" -l "$SCRATCH/log/server-$1.log" -w -t 120 start >/dev/null || {
		tail -n 20 "$SCRATCH/log/server-$1.log" >&2
		die "the server did not start"
	}
	export PGHOST=$SCRATCH/sock PGPORT=5432 PGUSER=postgres PGDATABASE=postgres
}

# stop_data_directory DIRECTORY: stops the server that runs on it, if any.
stop_data_directory() {
	[ -f "$1/postmaster.pid" ] || return 0
	"${AS_USER[@]}" "$PG_BIN/pg_ctl" -D "$1" -m immediate -w -t 60 stop >/dev/null 2>&1 || true
}

# Ends what was started, and removes SCRATCH.
remove_scratch() {
	local server
	remove_no_cluster_conf
	[ -n "$SCRATCH" ] || return 0
	for server in "${SERVERS[@]}"; do
		stop_data_directory "$SCRATCH/$server"
	done
	cd /
	rm -rf "$SCRATCH"
	SCRATCH=
}

# sql ARGUMENT...: psql on the private server, plain rows, stops at errors.
sql() {
	"$PG_BIN/psql" -X -q -At -v ON_ERROR_STOP=1 "$@"
}
