"""kafka_client.py: a Kafka client for kafka.sh and for the tests (AudKafka.pm).

    kafka_client.py NAME=VALUE... COMMAND ARGUMENT...   runs one command
    kafka_client.py NAME=VALUE...                       serves requests

NAME=VALUE are settings of librdkafka, bootstrap.servers at the least.

Commands for people print plain lines:

    list                                  topics and their partitions
    create_topic NAME PARTITIONS [CONFIG=VALUE...]
    delete_topic NAME
    add_partitions NAME TOTAL
    delete_records NAME PARTITION OFFSET  all before OFFSET; -1 is all
    describe NAME                         watermarks, settings not the default

Requests are read from standard input, and each is answered on standard
output before the next is read.  Either is a JSON object in one line, then the
bytes of its keys, values and headers' values, which the object gives as
lengths, or null where there is none: of each message the key's, the value's,
those of the headers, with nothing in between.  So bytes are never escaped,
which a value of 20 MB would make slow.

A reply has "ok": true, or false with "error", and "code", librdkafka's name
of the error, where it is Kafka's.  Requests have "command", and may have
"timeout" in seconds (30).  What each takes, and what the reply has besides:

    configure       config: more settings, as an object, before all else
    create_topic    topic, partitions, config
    delete_topic    topic
    add_partitions  topic, total
    delete_records  topic, partition, offset    low: first offset that is left
    list                                        topics: partitions by name
    watermarks      topic                       partitions: [partition, low, high]
    produce         topic, messages: {key, value, partition, headers, timestamp},
                    where headers are [name, length] and all may be left out;
                    transaction: its name       offsets: [partition, offset]
    begin, commit, abort    transaction: name, which is its transactional.id
    consume         topic, partition (all), offset (first), count (to the end),
                    isolation (read_committed)  messages, with offset; those
                                                of a partition in their order

Commands that change topics return when the change can be seen and used.
"""

import ctypes
import json
import signal
import sys
import time

from confluent_kafka import (Consumer, KafkaError, KafkaException, Producer,
                             TopicPartition, OFFSET_BEGINNING)
from confluent_kafka.admin import (AdminClient, ConfigResource, ConfigSource,
                                   NewPartitions, NewTopic)

MAX_MESSAGE = 33554432          # bytes, as in kafka.sh
PR_SET_PDEATHSIG = 1            # of linux/prctl.h


class Failure(Exception):
    """What goes wrong beside Kafka's own errors."""


class Deadline:
    """The time that a request may take."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        """Seconds left; raises Failure if there are none."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise Failure("timeout")
        return left


class Client:
    """The commands, each a method that gets the request and its deadline."""

    def __init__(self, config):
        self.config = config
        self.refusal = None
        self.plain_producer = None
        self.transactions = {}
        self.admin_client = None

    def configure(self, request, _deadline):
        self.config.update(request["config"])
        return {}

    def note_error(self, error):
        """Keeps why connections are refused; what waits for one that works
        knows nothing of it."""
        if error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL):
            self.refusal = error

    def admin(self):
        if self.admin_client is None:
            self.admin_client = AdminClient({**self.config, "error_cb": self.note_error})
        return self.admin_client

    def consumer(self, isolation="read_committed"):
        return Consumer({
            **self.config,
            "error_cb": self.note_error,
            "group.id": "kafka_client",     # no group is joined
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "isolation.level": isolation,
            "fetch.message.max.bytes": MAX_MESSAGE,
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 50})

    def producer(self, more):
        return Producer({
            **self.config,
            "error_cb": self.note_error,
            "acks": "all",
            "partitioner": "murmur2_random",
            "message.max.bytes": MAX_MESSAGE,
            **more})

    def metadata(self, deadline, topic=None, handle=None):
        """The topics, or one of them, as the broker describes them."""
        # a producer with nothing to send is false
        handle = self.admin() if handle is None else handle
        options = {} if topic is None else {"topic": topic}
        self.refusal = None
        while True:
            try:
                return handle.list_topics(timeout=min(0.5, deadline.left()), **options).topics
            except KafkaException as error:
                if error.args[0].code() not in (KafkaError._TRANSPORT, KafkaError._TIMED_OUT):
                    raise
                handle.poll(0)
                if self.refusal is not None:
                    raise KafkaException(self.refusal) from None

    def partitions(self, topic, deadline, handle=None):
        """The topic's partitions that have a leader; None if there is no
        such topic."""
        found = self.metadata(deadline, topic, handle)[topic]
        if found.error is not None:
            if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                return None
            raise KafkaException(found.error)
        return sorted(p.id for p in found.partitions.values()
                      if p.error is None and p.leader >= 0)

    def topic_partitions(self, topic, deadline, handle=None):
        """The same for a topic that must be there."""
        found = self.partitions(topic, deadline, handle)
        if found is None:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return found

    def wait_partitions(self, topic, count, deadline):
        """Until the topic has so many partitions, which answer, or is gone
        (None)."""
        while True:
            found = self.partitions(topic, deadline)
            if (None if found is None else len(found)) == count:
                break
            time.sleep(min(0.02, deadline.left()))
        # metadata may name a leader that does not yet know that it leads
        while count is not None:
            try:
                self.watermarks({"topic": topic}, deadline)
                break
            except KafkaException as error:
                if not error.args[0].retriable() and error.args[0].code() not in (
                        KafkaError.NOT_LEADER_FOR_PARTITION,
                        KafkaError.UNKNOWN_TOPIC_OR_PART):
                    raise
                time.sleep(min(0.02, deadline.left()))

    def create_topic(self, request, deadline):
        topic = request["topic"]
        count = int(request.get("partitions", 1))
        new = NewTopic(topic, num_partitions=count, replication_factor=1,
                       config=request.get("config") or {})
        for future in self.admin().create_topics(
                [new], operation_timeout=deadline.left()).values():
            future.result(deadline.left())
        self.wait_partitions(topic, count, deadline)
        return {}

    def delete_topic(self, request, deadline):
        topic = request["topic"]
        for future in self.admin().delete_topics(
                [topic], operation_timeout=deadline.left()).values():
            future.result(deadline.left())
        self.wait_partitions(topic, None, deadline)
        return {}

    def add_partitions(self, request, deadline):
        topic = request["topic"]
        total = int(request["total"])
        for future in self.admin().create_partitions(
                [NewPartitions(topic, total)],
                operation_timeout=deadline.left()).values():
            future.result(deadline.left())
        self.wait_partitions(topic, total, deadline)
        return {}

    def delete_records(self, request, deadline):
        return {"low": delete_records(
            self.config, request["topic"], int(request["partition"]),
            int(request["offset"]), deadline)}

    def list(self, _request, deadline):
        topics = self.metadata(deadline)
        return {"topics": {name: len(topic.partitions)
                           for name, topic in sorted(topics.items())
                           if not name.startswith("__")}}

    def watermarks(self, request, deadline):
        topic = request["topic"]
        consumer = self.consumer()
        try:
            rows = []
            for partition in self.topic_partitions(topic, deadline, consumer):
                low, high = consumer.get_watermark_offsets(
                    TopicPartition(topic, partition), timeout=deadline.left())
                rows.append([partition, low, high])
            return {"partitions": rows}
        finally:
            consumer.close()

    def transaction(self, request):
        try:
            return self.transactions[request["transaction"]]
        except KeyError:
            raise Failure("no such transaction") from None

    def begin(self, request, deadline):
        name = request["transaction"]
        if name not in self.transactions:
            producer = self.producer({"transactional.id": name})
            producer.init_transactions(deadline.left())
            self.transactions[name] = producer
        self.transactions[name].begin_transaction()
        return {}

    def commit(self, request, deadline):
        self.transaction(request).commit_transaction(deadline.left())
        return {}

    def abort(self, request, deadline):
        self.transaction(request).abort_transaction(deadline.left())
        return {}

    def produce(self, request, deadline):
        """Sends messages; returns where they are when all are acknowledged."""
        topic = request["topic"]
        if request.get("transaction") is not None:
            producer = self.transaction(request)
        else:
            if self.plain_producer is None:
                self.plain_producer = self.producer({})
            producer = self.plain_producer
        # a producer would wait for a topic that is missing, and learns only
        # by and by of partitions that were added
        self.topic_partitions(topic, deadline, producer)
        messages = request["messages"]
        where = [None] * len(messages)
        failed = []

        def delivered(index):
            def callback(error, message):
                if error is not None:
                    failed.append(error)
                else:
                    where[index] = [message.partition(), message.offset()]
            return callback

        for index, message in enumerate(messages):
            options = {}
            if message.get("partition") is not None:
                options["partition"] = message["partition"]
            if message.get("timestamp") is not None:
                options["timestamp"] = message["timestamp"]
            if message.get("headers"):
                options["headers"] = [tuple(h) for h in message["headers"]]
            while True:
                try:
                    producer.produce(topic, message.get("value"),
                                     message.get("key"),
                                     on_delivery=delivered(index), **options)
                    break
                except BufferError:
                    producer.poll(min(0.1, deadline.left()))
            producer.poll(0)
        if producer.flush(deadline.left()) > 0:
            producer.purge()
            producer.flush(1)
            raise Failure("timeout: not all messages were acknowledged")
        if failed:
            raise KafkaException(failed[0])
        return {"offsets": where}

    def consume(self, request, deadline):
        """Reads to the end of each partition, or until there are so many
        messages."""
        topic = request["topic"]
        count = request.get("count")
        consumer = self.consumer(request.get("isolation") or "read_committed")
        messages = []
        try:
            partitions = self.topic_partitions(topic, deadline, consumer)
            if request.get("partition") is not None:
                partitions = [request["partition"]]
            offset = request.get("offset")
            consumer.assign([
                TopicPartition(topic, p, OFFSET_BEGINNING if offset is None else offset)
                for p in partitions])
            open_ones = set(partitions)
            while open_ones if count is None else len(messages) < count:
                try:
                    message = consumer.poll(deadline.left())
                except Failure:
                    raise Failure(f"timeout: {len(messages)} messages came") from None
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    open_ones.add(message.partition())
                    messages.append(describe_message(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_ones.discard(message.partition())
                elif not error.retriable() and error.code() != KafkaError._TRANSPORT:
                    raise KafkaException(error)
        finally:
            consumer.close()
        messages.sort(key=lambda m: (m["partition"], m["offset"]))
        return {"messages": messages}

    def describe(self, topic, deadline):
        """Lines about a topic."""
        rows = self.watermarks({"topic": topic}, deadline)["partitions"]
        lines = [f"partition {p}: offsets {low} to {high}" for p, low, high in rows]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        for future in self.admin().describe_configs([resource]).values():
            lines += [f"{name}={entry.value}"
                      for name, entry in sorted(future.result(deadline.left()).items())
                      if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value]
        return lines


def describe_message(message):
    """A message as the reply has it."""
    kind, timestamp = message.timestamp()
    return {
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": timestamp if kind != 0 else None,
        "key": message.key(),
        "value": message.value(),
        "headers": [list(h) for h in message.headers() or []]}


class PartitionOffset(ctypes.Structure):
    """rd_kafka_topic_partition_t"""
    _fields_ = [("topic", ctypes.c_char_p), ("partition", ctypes.c_int32),
                ("offset", ctypes.c_int64), ("metadata", ctypes.c_void_p),
                ("metadata_size", ctypes.c_size_t), ("opaque", ctypes.c_void_p),
                ("err", ctypes.c_int), ("_private", ctypes.c_void_p)]


class PartitionList(ctypes.Structure):
    """rd_kafka_topic_partition_list_t"""
    _fields_ = [("cnt", ctypes.c_int), ("size", ctypes.c_int),
                ("elems", ctypes.POINTER(PartitionOffset))]


def delete_records(config, topic, partition, offset, deadline):
    """Deletes a partition's messages before an offset (-1: all), and returns
    the first that is left.  Debian's confluent_kafka does not know the call,
    the librdkafka below it does."""
    lib = ctypes.CDLL("librdkafka.so.1")
    for name in ("conf_new", "new", "queue_new", "queue_poll", "DeleteRecords_new",
                 "event_DeleteRecords_result"):
        getattr(lib, "rd_kafka_" + name).restype = ctypes.c_void_p
    lib.rd_kafka_topic_partition_list_new.restype = ctypes.POINTER(PartitionList)
    lib.rd_kafka_topic_partition_list_add.restype = ctypes.POINTER(PartitionOffset)
    lib.rd_kafka_DeleteRecords_result_offsets.restype = ctypes.POINTER(PartitionList)
    lib.rd_kafka_event_error_string.restype = ctypes.c_char_p
    lib.rd_kafka_err2name.restype = ctypes.c_char_p
    pointer = ctypes.c_void_p
    text = ctypes.create_string_buffer(512)

    conf = pointer(lib.rd_kafka_conf_new())
    for name, value in config.items():
        if lib.rd_kafka_conf_set(conf, name.encode(), str(value).encode(), text, 512) != 0:
            lib.rd_kafka_conf_destroy(conf)
            raise Failure(text.value.decode())
    handle = pointer(lib.rd_kafka_new(0, conf, text, ctypes.c_size_t(512)))
    if not handle:
        lib.rd_kafka_conf_destroy(conf)
        raise Failure(text.value.decode())
    queue = pointer(lib.rd_kafka_queue_new(handle))
    wanted = lib.rd_kafka_topic_partition_list_new(1)
    lib.rd_kafka_topic_partition_list_add(wanted, topic.encode(), partition).contents.offset = offset
    delete = pointer(lib.rd_kafka_DeleteRecords_new(wanted))
    event = pointer(None)
    try:
        lib.rd_kafka_DeleteRecords(handle, ctypes.byref(delete), ctypes.c_size_t(1), None, queue)
        event = pointer(lib.rd_kafka_queue_poll(queue, int(deadline.left() * 1000)))
        if not event:
            raise Failure("timeout")
        if lib.rd_kafka_event_error(event) != 0:
            raise Failure(lib.rd_kafka_event_error_string(event).decode())
        result = pointer(lib.rd_kafka_event_DeleteRecords_result(event))
        row = lib.rd_kafka_DeleteRecords_result_offsets(result).contents.elems[0]
        if row.err != 0:
            raise KafkaException(KafkaError(row.err))
        return row.offset
    finally:
        if event:
            lib.rd_kafka_event_destroy(event)
        lib.rd_kafka_DeleteRecords_destroy(delete)
        lib.rd_kafka_topic_partition_list_destroy(wanted)
        lib.rd_kafka_queue_destroy(queue)
        lib.rd_kafka_destroy(handle)


def read_bytes(length):
    """So many bytes of standard input; None for None."""
    if length is None:
        return None
    data = sys.stdin.buffer.read(length)
    if len(data) != length:
        raise EOFError
    return data


def read_messages(messages):
    """Puts the bytes that follow a request in the place of their lengths."""
    for message in messages:
        message["key"] = read_bytes(message.get("key"))
        message["value"] = read_bytes(message.get("value"))
        for header in message.get("headers") or []:
            header[1] = read_bytes(header[1])


def write_reply(reply):
    """Writes a reply; lengths come in the place of its bytes."""
    blobs = []

    def length(data):
        if data is None:
            return None
        blobs.append(data)
        return len(data)

    for message in reply.get("messages", []):
        message["key"] = length(message["key"])
        message["value"] = length(message["value"])
        for header in message["headers"]:
            header[1] = length(header[1])
    out = sys.stdout.buffer
    out.write(json.dumps(reply).encode() + b"\n")
    for blob in blobs:
        out.write(blob)
    out.flush()


COMMANDS = ("configure", "create_topic", "delete_topic", "add_partitions",
            "delete_records", "list", "watermarks", "produce", "begin",
            "commit", "abort", "consume")


def serve(client):
    """Answers requests until standard input ends, or who started it does: it
    may be in the middle of a call that waits for a broker that is no more."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        read_messages(request.get("messages", []))
        try:
            if request["command"] not in COMMANDS:
                raise Failure("no such command")
            deadline = Deadline(request.get("timeout", 30))
            reply = getattr(client, request["command"])(request, deadline)
            reply["ok"] = True
        except KafkaException as error:
            reply = {"ok": False, "error": error.args[0].str(),
                     "code": error.args[0].name()}
        except Failure as error:
            reply = {"ok": False, "error": str(error)}
        except TimeoutError:
            reply = {"ok": False, "error": "timeout"}
        except (KeyError, TypeError, ValueError) as error:
            reply = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        write_reply(reply)


def run(client, command, arguments):
    """Runs one command of those for people."""
    deadline = Deadline(30)
    # a few of librdkafka's calls do not keep the time they are given
    signal.alarm(60)
    if command == "list" and not arguments:
        for name, count in client.list({}, deadline)["topics"].items():
            print(f"{name}\t{count}")
    elif command == "describe" and len(arguments) == 1:
        print("\n".join(client.describe(arguments[0], deadline)))
    elif command == "create_topic" and len(arguments) >= 2:
        config = dict(argument.split("=", 1) for argument in arguments[2:])
        client.create_topic({"topic": arguments[0], "partitions": arguments[1],
                             "config": config}, deadline)
    elif command == "delete_topic" and len(arguments) == 1:
        client.delete_topic({"topic": arguments[0]}, deadline)
    elif command == "add_partitions" and len(arguments) == 2:
        client.add_partitions({"topic": arguments[0], "total": arguments[1]}, deadline)
    elif command == "delete_records" and len(arguments) == 3:
        low = client.delete_records(dict(zip(("topic", "partition", "offset"), arguments)), deadline)
        print(f"first offset: {low['low']}")
    else:
        raise Failure(f"wrong use of {command}")


def main():
    arguments = sys.argv[1:]
    config = {}
    while arguments and "=" in arguments[0]:
        name, value = arguments.pop(0).split("=", 1)
        config[name] = value
    client = Client(config)
    if not arguments:
        serve(client)
        return
    try:
        run(client, arguments[0], arguments[1:])
    except KafkaException as error:
        sys.exit(f"{arguments[0]}: {error.args[0].str()}")
    except TimeoutError:
        sys.exit(f"{arguments[0]}: timeout")
    except (Failure, ValueError) as error:
        sys.exit(f"{arguments[0]}: {error}")


main()
