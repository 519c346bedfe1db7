#!/bin/bash
#
# kafka.sh: a real Apache Kafka of one node, for tests and for trying the
# Kafka bridge.  Its jars come from Maven Central, all else from Debian 12.
#
#     scripts/kafka.sh fetch                      gets the jars, if not there;
#                                                 its last line is where
#     scripts/kafka.sh start [--dir D] [--port P] [--advertise Q]
#                                                 starts the broker, waits
#                                                 until it answers
#     scripts/kafka.sh stop|kill [--dir D]        clean stop; kill -9
#     scripts/kafka.sh pause|continue [--dir D]   SIGSTOP; SIGCONT
#     scripts/kafka.sh status [--dir D]           exit status 0 if it runs,
#                                                 paused or not; 3 if not
#     scripts/kafka.sh topics [--dir D] list
#     scripts/kafka.sh topics [--dir D] create NAME [PARTITIONS] [CONFIG=VALUE...]
#     scripts/kafka.sh topics [--dir D] delete NAME
#     scripts/kafka.sh topics [--dir D] add-partitions NAME TOTAL
#     scripts/kafka.sh topics [--dir D] delete-records NAME PARTITION OFFSET
#                                                 all before OFFSET; -1: all
#     scripts/kafka.sh topics [--dir D] describe NAME
#     scripts/kafka.sh produce [--dir D] TOPIC    sends lines KEY<TAB>VALUE of
#                                                 standard input
#     scripts/kafka.sh consume [--dir D] TOPIC [--follow]
#
# produce: a line without a tab has no key, an empty value is sent as null.
# It returns when the broker has all; the status is 0 only if it took all.
# consume: prints partition, offset, key, value and headers, separated by
# tabs, from the first message to the last, or on and on with --follow; what
# is null prints as NULL.  Binary values are for a program, not for lines.
#
# All that belongs to a broker is in its directory D (default
# audience-kafka-USER in TMPDIR or /tmp), which must be new, empty or made by
# this script.  A broker started again on its D goes on with its data, after
# kill -9 as well, at the port it had; then remove D to be rid of it.
#
#     D/password          password of the SASL user "audience", mode 0600
#     D/ca.pem            certificate authority, for ssl.ca.location
#     D/client.pem, .key  a certificate for clients, if one is to be shown
#     D/kafka.log         the broker's log
#     D/pid               its process
#
# It listens at 127.0.0.1 (the TLS certificate is for localhost as well):
#
#     P     (default 9092) PLAINTEXT; clients are told to connect to Q, where
#           something must pass on what they say, if --advertise was given
#     P+1   the controller's, of no use to clients
#     P+2   SASL_PLAINTEXT, mechanisms PLAIN and SCRAM-SHA-256
#     P+3   SSL, client certificate optional
#     P+4   SASL_SSL, mechanisms PLAIN and SCRAM-SHA-256
#
# Jars are kept in AUDIENCE_KAFKA_JARS, by default in audience-manager in the
# user's cache directory.  It appears as a whole or not at all.
#
# Called by root, the broker runs as root, but D/password and D/client.key
# belong to the user postgres, whose servers connect with them.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

KAFKA_POM=$TOP/scripts/kafka-pom.xml
KAFKA_VERSION=$(sed -n 's,.*<kafka.version>\(.*\)</kafka.version>.*,\1,p' "$KAFKA_POM")
MAX_MESSAGE=33554432            # bytes

DIR=
PORT=
ADVERTISE=
FOLLOW=
WORK=                           # temporary directory of a fetch
STARTING=                       # set while a broker may run that does not answer

usage() {
	sed -n '/^#     scripts/,/^#$/{ /^#$/d; s/^#  *//; p }' "$0" >&2
	exit 2
}

# At exit, whatever the reason: nothing half-made is left.
finish() {
	trap '' INT TERM HUP
	# the broker is the only thing that is ever put in the background
	[ -z "$STARTING" ] || [ -z "${!:-}" ] || kill -KILL "$!" 2>/dev/null || true
	[ -z "$WORK" ] || rm -rf "$WORK"
	remove_no_cluster_conf
}

# Sets JARS, the directory of the jars.
set_jars() {
	default_to_cache AUDIENCE_KAFKA_JARS "Kafka's jars" "kafka-$KAFKA_VERSION"
	JARS=$AUDIENCE_KAFKA_JARS
}

have_jars() {
	[ -f "$JARS/kafka_2.13-$KAFKA_VERSION.jar" ]
}

# Gets the jars into JARS.  They are put together beside it and renamed, so
# that two that fetch do not see each other's halves; the second finds it made.
fetch() {
	local parent maven
	set_jars
	have_jars && return 0
	[ ! -e "$JARS" ] || rmdir "$JARS" 2>/dev/null ||
		die "$JARS has something else than the jars of Kafka $KAFKA_VERSION: remove it"

	install_packages maven openjdk-$JAVA_MAJOR-jre-headless
	parent=$(dirname "$JARS")
	mkdir -p "$parent" || die "cannot write to $parent: set AUDIENCE_KAFKA_JARS"
	WORK=$(mktemp -d "$JARS.XXXXXX") || die "cannot write to $parent: set AUDIENCE_KAFKA_JARS"

	say "Fetching Apache Kafka $KAFKA_VERSION"
	maven=(mvn -q -B -C -Dstyle.color=never -f "$KAFKA_POM")
	[ -n "${HOME:-}" ] && [ -w "$HOME" ] || maven+=("-Dmaven.repo.local=$WORK/repository")
	"${maven[@]}" dependency:copy-dependencies "-DoutputDirectory=$WORK/jars" >"$WORK/log" 2>&1 || {
		tail -n 20 "$WORK/log" >&2
		die "Maven could not fetch Apache Kafka"
	}
	[ -f "$WORK/jars/kafka_2.13-$KAFKA_VERSION.jar" ] || die "Maven gave no kafka_2.13-$KAFKA_VERSION.jar"
	chmod -R a+rX,go-w "$WORK/jars"
	mv -T "$WORK/jars" "$JARS" 2>/dev/null || have_jars || die "could not make $JARS"
	rm -rf "$WORK"
	WORK=
}

# find_java: sets JAVA, the command with the options that every use has.
find_java() {
	local java
	install_packages openjdk-$JAVA_MAJOR-jre-headless
	java=$(compgen -G "/usr/lib/jvm/java-$JAVA_MAJOR-openjdk-*/bin/java" | head -n 1)
	JAVA=("${java:-java}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData
		-Djava.net.preferIPv4Stack=true "-Djava.io.tmpdir=$DIR/tmp"
		"-Dlog4j.configuration=file:$DIR/log4j.properties" -cp "$JARS/*")
}

# Makes DIR an absolute path.  It need not be there.
set_dir() {
	DIR=${DIR:-${TMPDIR:-/tmp}/audience-kafka-$(id -un)}
	DIR=$(realpath -m -- "$DIR")
	# it goes into a properties file and a list of directories
	[[ $DIR =~ ^[A-Za-z0-9/._+@=-]+$ ]] || die "use a directory of letters, digits and /._+@=- : $DIR"
}

# Sets PORT to the one that the broker of DIR was started with.
read_port() {
	[ -f "$DIR/port" ] || die "there is no broker in $DIR: use start"
	PORT=$(<"$DIR/port")
}

# Prints the broker's process; fails if it does not run.  A process that is
# not DIR's, with the number of one that was, does not count.
broker_pid() {
	local pid
	pid=$(cat "$DIR/pid" 2>/dev/null) || return 1
	[[ $pid =~ ^[0-9]+$ ]] || return 1
	tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | grep -qxF -- "$DIR/server.properties" || return 1
	printf '%s\n' "$pid"
} 2>/dev/null

broker_paused() {
	[ "$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null)" = T ]
}

# wait_gone SECONDS: until the broker has ended; fails if it does not.
wait_gone() {
	local until=$((SECONDS + $1))
	while broker_pid >/dev/null; do
		[ $SECONDS -lt $until ] || return 1
		sleep 0.05
	done
}

# Gives a secret to the user whose servers read it.
give_secret() {
	chmod 600 "$@"
	if [ "$(id -u)" -eq 0 ] && id postgres >/dev/null 2>&1; then
		chown postgres "$@"
	fi
}

# make_certificate NAME SUBJECT EXTENSIONS: DIR/NAME.key and DIR/NAME.pem,
# signed by DIR/ca.key, or by itself where NAME is ca.
make_certificate() {
	local key=$DIR/$1.key by=()
	(umask 077 && openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$key" 2>/dev/null)
	if [ "$1" = ca ]; then
		by=(-signkey "$key")
	else
		by=(-CA "$DIR/ca.pem" -CAkey "$DIR/ca.key" -CAcreateserial)
	fi
	openssl req -new -key "$key" -subj "$2" |
		openssl x509 -req "${by[@]}" -days 3650 -sha256 -out "$DIR/$1.pem" -extfile <(printf '%s\n' "$3") 2>/dev/null
}

# Writes the broker's configuration, which has the password in it.
write_properties() {
	local password
	password=$(<"$DIR/password")
	cat >"$DIR/log4j.properties" <<-PROPERTIES
		log4j.rootLogger=INFO, stdout
		log4j.appender.stdout=org.apache.log4j.ConsoleAppender
		log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
		log4j.appender.stdout.layout.ConversionPattern=%d %p %m (%c{1})%n
		log4j.logger.kafka.server.KafkaConfig=WARN
		log4j.logger.org.apache.zookeeper=WARN
	PROPERTIES
	(umask 077 && : >"$DIR/server.properties")
	cat >"$DIR/server.properties" <<-PROPERTIES
		process.roles=broker,controller
		node.id=1
		controller.quorum.voters=1@127.0.0.1:$((PORT + 1))
		controller.listener.names=CONTROLLER
		inter.broker.listener.name=PLAINTEXT
		listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL
		listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1)),SASL_PLAINTEXT://127.0.0.1:$((PORT + 2)),SSL://127.0.0.1:$((PORT + 3)),SASL_SSL://127.0.0.1:$((PORT + 4))
		advertised.listeners=PLAINTEXT://127.0.0.1:${ADVERTISE:-$PORT},SASL_PLAINTEXT://127.0.0.1:$((PORT + 2)),SSL://127.0.0.1:$((PORT + 3)),SASL_SSL://127.0.0.1:$((PORT + 4))

		sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
		listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_audience="$password";
		listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_audience="$password";
		listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
		ssl.keystore.type=PEM
		ssl.keystore.location=$DIR/server.keystore
		ssl.truststore.type=PEM
		ssl.truststore.location=$DIR/ca.pem
		listener.name.ssl.ssl.client.auth=requested

		log.dirs=$DIR/data
		auto.create.topics.enable=false
		offsets.topic.replication.factor=1
		offsets.topic.num.partitions=1
		transaction.state.log.replication.factor=1
		transaction.state.log.min.isr=1
		transaction.state.log.num.partitions=1
		group.initial.rebalance.delay.ms=0

		# a batch must fit into a segment
		message.max.bytes=$MAX_MESSAGE
		log.segment.bytes=$MAX_MESSAGE
		log.index.size.max.bytes=1048576

		# messages of years ago stay; topics that say otherwise are served soon
		log.retention.ms=-1
		log.initial.task.delay.ms=500
		log.retention.check.interval.ms=1000
		log.cleaner.backoff.ms=1000
		log.cleaner.dedupe.buffer.size=4194304

		# after kill -9 the controller takes no broker until the old one's
		# session has run out
		broker.session.timeout.ms=2000
		broker.heartbeat.interval.ms=250

		num.network.threads=2
		num.io.threads=2
		background.threads=2
		num.recovery.threads.per.data.dir=1
	PROPERTIES
}

# Makes a new DIR: password, certificates, formatted storage.  DIR/state says
# whether it came to an end.
make_dir() {
	local storage
	printf 'new\n' >"$DIR/state"
	rm -rf "$DIR/data"
	mkdir -p "$DIR/data" "$DIR/tmp"

	install_packages openssl
	(umask 077 && openssl rand -hex 16 >"$DIR/password")
	make_certificate ca '/CN=audience-manager test CA' 'basicConstraints=critical,CA:TRUE'
	make_certificate server '/CN=localhost' 'subjectAltName=IP:127.0.0.1,DNS:localhost'
	make_certificate client '/CN=audience' 'extendedKeyUsage=clientAuth'
	(umask 077 && cat "$DIR/server.key" "$DIR/server.pem" >"$DIR/server.keystore")
	rm -f "$DIR/ca.srl" "$DIR/ca.key" "$DIR/server.key" "$DIR/server.pem"
	write_properties

	# by way of a file, as everybody can see a command's arguments
	storage=$DIR/tmp/format
	(umask 077 && printf '%s\n' kafka.tools.StorageTool format \
		--cluster-id "$(openssl rand 16 | basenc --base64url | tr -d = | sed 's/^-/A/')" --config "$DIR/server.properties" \
		--add-scram "\"SCRAM-SHA-256=[name=audience,password=$(<"$DIR/password")]\"" >"$storage")
	"${JAVA[@]}" "@$storage" >"$DIR/kafka.log" 2>&1 || {
		tail -n 20 "$DIR/kafka.log" >&2
		die "could not format $DIR/data"
	}
	rm -f "$storage"
	give_secret "$DIR/password" "$DIR/client.key"
	printf 'ready\n' >"$DIR/state"
}

# Tells how to reach a broker that runs.
tell() {
	say "Kafka $KAFKA_VERSION is at 127.0.0.1:$PORT, process $1, directory $DIR"
	say "SASL_PLAINTEXT at 127.0.0.1:$((PORT + 2)), SSL at 127.0.0.1:$((PORT + 3)), SASL_SSL at 127.0.0.1:$((PORT + 4))"
	say "Stop it with: scripts/kafka.sh stop --dir $DIR"
}

start() {
	local pid before until
	fetch
	find_java
	install_packages kcat
	mkdir -p "$DIR"
	[ -O "$DIR" ] || die "$DIR belongs to another user"
	if [ ! -f "$DIR/state" ] && [ -n "$(find "$DIR" -mindepth 1 ! -name lock -print -quit)" ]; then
		die "$DIR has other files in it"
	fi
	exec 9>"$DIR/lock"
	flock -w 120 9 || die "another start on $DIR takes too long"

	if pid=$(broker_pid); then
		[ "${PORT:-$(<"$DIR/port")}" = "$(<"$DIR/port")" ] || die "the broker of $DIR runs at port $(<"$DIR/port")"
		read_port
		tell "$pid"
		return 0
	fi
	if [ -z "$PORT" ] && [ -f "$DIR/port" ]; then
		read_port
	fi
	PORT=${PORT:-9092}
	if [ "$(cat "$DIR/state" 2>/dev/null)" != ready ]; then
		make_dir
	else
		write_properties
	fi
	printf '%s\n' "$PORT" >"$DIR/port"

	before=$(stat -c %s "$DIR/kafka.log")
	STARTING=yes
	# in a session of its own, so that no terminal's interrupt comes to it
	setsid "${JAVA[@]}" -Xms64m -Xmx512m -XX:+ExitOnOutOfMemoryError \
		kafka.Kafka "$DIR/server.properties" >>"$DIR/kafka.log" 2>&1 </dev/null 9>&- &
	pid=$!
	printf '%s\n' "$pid" >"$DIR/pid"

	until=$((SECONDS + 90))
	until tail -c "+$((before + 1))" "$DIR/kafka.log" | grep -q 'Kafka Server started' &&
		timeout 10 kcat -L -m 2 -b "127.0.0.1:$PORT" >/dev/null 2>&1; do
		if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $until ]; then
			tail -c "+$((before + 1))" "$DIR/kafka.log" | grep -E ' (ERROR|FATAL) |Exception' | head -n 10 >&2 || true
			die "the broker did not start; its log is $DIR/kafka.log"
		fi
		sleep 0.05
	done
	STARTING=
	tell "$pid"
}

# end_broker SIGNAL: ends the broker, if it runs.
end_broker() {
	local pid
	if pid=$(broker_pid); then
		kill "-$1" "$pid"
		# one that is paused takes no signal but this and KILL
		kill -CONT "$pid" 2>/dev/null || true
		wait_gone 60 || die "process $pid of $DIR does not end"
	fi
	rm -f "$DIR/pid"
}

# Dies if the broker cannot answer.
require_broker() {
	local pid
	pid=$(broker_pid) || die "there is no broker running in $DIR"
	! broker_paused "$pid" || die "the broker in $DIR is paused"
}

# Runs a command of kafka_client.py on the broker.
client() {
	install_packages python3-confluent-kafka
	require_broker
	exec /usr/bin/python3 "$TOP/test/kafka_client.py" "bootstrap.servers=127.0.0.1:$PORT" "$@"
}

topics() {
	local name=${2:-}
	[[ -z $name || $name =~ ^[A-Za-z0-9._-]+$ ]] || die "this cannot be a topic's name: $name"
	case ${1:-list}:$# in
	list:[01]) client list ;;
	create:2) client create_topic "$name" 1 ;;
	create:*)
		[ $# -ge 2 ] || usage
		shift 2
		local partitions=1
		if [[ $1 != *=* ]]; then
			partitions=$1
			shift
		fi
		[[ $partitions =~ ^[1-9][0-9]*$ ]] || usage
		client create_topic "$name" "$partitions" "$@"
		;;
	delete:2) client delete_topic "$name" ;;
	describe:2) client describe "$name" ;;
	add-partitions:3)
		[[ $3 =~ ^[1-9][0-9]*$ ]] || usage
		client add_partitions "$name" "$3"
		;;
	delete-records:4)
		[[ $3 =~ ^[0-9]+$ && $4 =~ ^(-1|[0-9]+)$ ]] || usage
		client delete_records "$name" "$3" "$4"
		;;
	*) usage ;;
	esac
}

# Runs kcat on the broker.
run_kcat() {
	install_packages kcat
	require_broker
	# newer libraries warn of what kcat itself sets; errors come all the same
	exec kcat -b "127.0.0.1:$PORT" -X log_level=3 "$@"
}

[ $# -gt 0 ] || usage
COMMAND=$1
shift
ARGUMENTS=()
while [ $# -gt 0 ]; do
	case $1 in
	--dir)
		[[ -n ${2:-} && $COMMAND != fetch ]] || usage
		DIR=$2
		shift
		;;
	--port)
		[ "$COMMAND" = start ] || usage
		[[ ${2:-} =~ ^[1-9][0-9]{0,4}$ && $2 -le 65531 ]] || usage
		PORT=$2
		shift
		;;
	--advertise)
		[ "$COMMAND" = start ] || usage
		[[ ${2:-} =~ ^[1-9][0-9]{0,4}$ && $2 -le 65535 ]] || usage
		ADVERTISE=$2
		shift
		;;
	--follow)
		[ "$COMMAND" = consume ] || usage
		FOLLOW=yes
		;;
	--*) usage ;;
	*) ARGUMENTS+=("$1") ;;
	esac
	shift
done
set -- "${ARGUMENTS[@]}"
[ "$COMMAND" = fetch ] || set_dir
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

case $COMMAND:$# in
fetch:0)
	fetch
	say "$JARS"
	;;
start:0) start ;;
stop:0) end_broker TERM ;;
kill:0) end_broker KILL ;;
pause:0 | continue:0)
	PID=$(broker_pid) || die "there is no broker running in $DIR"
	case $COMMAND in
	pause) kill -STOP "$PID" ;;
	continue) kill -CONT "$PID" ;;
	esac
	;;
status:0)
	PID=$(broker_pid) || {
		say "No broker runs in $DIR"
		exit 3
	}
	read_port
	tell "$PID"
	if broker_paused "$PID"; then
		say "It is paused: go on with scripts/kafka.sh continue --dir $DIR"
	fi
	;;
topics:*)
	read_port
	topics "$@"
	;;
produce:1)
	read_port
	run_kcat -P -t "$1" -K $'\t' -Z -X acks=all -X partitioner=murmur2_random -X "message.max.bytes=$MAX_MESSAGE"
	;;
consume:1)
	read_port
	set -- -C -q -t "$1" -Z -o beginning -f '%p\t%o\t%k\t%s\t%h\n' -X "fetch.message.max.bytes=$MAX_MESSAGE"
	[ -n "$FOLLOW" ] || set -- "$@" -e
	run_kcat "$@"
	;;
*) usage ;;
esac
