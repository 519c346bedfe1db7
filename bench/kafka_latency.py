#!/usr/bin/python3
"""Measures the way of an event through Kafka and the database and back.

    kafka_latency.py BOOTSTRAP EVENTS_TOPIC SEGMENTS_TOPIC RATE SECONDS USERS

One process produces events at a rate; each event makes its user enter or leave
a segment with the rule "last(latency.on) = true".  The transition that comes
back names the event, whose id holds when it was handed to the producer; the
other process takes the time when it receives that.  There must be so many users
that none has two events in one batch, which would cancel each other out.

The first 5 seconds, or the first half of a shorter run, are warming up.  Prints
lines of metric and value: percentiles in milliseconds, how many were measured,
and how many never came back.
"""
import json
import os
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition

bootstrap, events, segments, rate, seconds, users = sys.argv[1:]
rate, seconds, users = int(rate), float(seconds), int(users)
total = int(rate * seconds)
warm = min(total // 2, 5 * rate)
run = "%x" % time.monotonic_ns()


def produce(ready):
    """Sends the events, those of a millisecond at once, when it is told to."""
    os.read(ready, 1)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all"})
    producer.list_topics(events, 10)
    start = time.monotonic()
    i = 0
    while i < total:
        due = min(total, int((time.monotonic() - start) * rate) + 1)
        while i < due:
            user = "latency-%s-%d" % (run, i % users)
            value = {"eventId": "%s-%d-%d" % (run, i, time.monotonic_ns()), "userId": user, "eventType": "latency",
                     "timestamp": int(time.time() * 1000), "properties": {"on": i // users % 2 == 0}}
            producer.produce(events, json.dumps(value), user)
            i += 1
        producer.poll(0)
        time.sleep(0.001)
    producer.flush(30)


# before there is anything of librdkafka's in this process
ready, tell_ready = os.pipe()
child = os.fork()
if child == 0:
    os.close(tell_ready)
    produce(ready)
    os._exit(0)

# from the end of each partition on, which is known before the first event
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "latency-" + run, "enable.auto.commit": False})
partitions = consumer.list_topics(segments, 10).topics[segments].partitions
consumer.assign([TopicPartition(segments, p, consumer.get_watermark_offsets(TopicPartition(segments, p), 10)[1])
                 for p in partitions])
consumer.poll(0.5)
os.write(tell_ready, b"x")

samples = []
received = set()
heard = time.monotonic()
running = True
while len(received) < total and (running or time.monotonic() - heard < 10):
    message = consumer.poll(0.5)
    now = time.monotonic_ns()
    if running and os.waitpid(child, os.WNOHANG) != (0, 0):
        running, heard = False, time.monotonic()
    if message is None or message.error():
        continue
    event = json.loads(message.value())["metadata"].get("eventId", "").split("-")
    if event[0] != run or event[1] in received:
        continue
    heard = time.monotonic()
    received.add(event[1])
    if int(event[1]) >= warm:
        samples.append((now - int(event[2])) / 1e6)
consumer.close()
if running:
    os.waitpid(child, 0)

samples.sort()
for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
    print("%s\t%.1f" % (name, samples[min(int(len(samples) * part), len(samples) - 1)]))
print("measured\t%d" % len(samples))
print("lost\t%d" % (total - len(received)))
