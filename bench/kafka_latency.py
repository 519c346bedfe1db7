#!/usr/bin/python3
"""Measures the way of an event through Kafka and the database and back.

    kafka_latency.py BOOTSTRAP EVENTS_TOPIC SEGMENTS_TOPIC RATE SECONDS USERS

Produces events at a rate; each makes its user enter or leave segment
"latency".  The transition that comes back names the event, and the time
between handing that to the producer and receiving the transition is a sample.
The first tenth, at most 5 seconds, is warming up.  There must be so many users
that none has two events in one batch, which would cancel each other out.
Prints lines of metric and value: percentiles in milliseconds, how many were
measured, and how many never came back.
"""
import json
import sys
import threading
import time

from confluent_kafka import Consumer, Producer

bootstrap, events, segments, rate, seconds, users = sys.argv[1:]
rate, seconds, users = int(rate), float(seconds), int(users)
total = int(rate * seconds)
sent = [0.0] * total
samples = [None] * total
produced = threading.Event()


def receive():
    """Notes when transitions come, until all have or none do for ten seconds after the last event."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "latency-%f" % time.time(),
                         "auto.offset.reset": "earliest", "enable.auto.commit": False, "fetch.wait.max.ms": 5})
    consumer.subscribe([segments])
    left, heard = total, time.monotonic()
    while left > 0 and not (produced.is_set() and time.monotonic() - heard > 10):
        message = consumer.poll(0.05)
        if message is None or message.error():
            continue
        now = time.monotonic()
        event = json.loads(message.value())["metadata"].get("eventId", "")
        if not event.startswith("latency-"):
            continue
        heard = now
        number = int(event[len("latency-"):])
        if samples[number] is None:
            samples[number] = now - sent[number]
            left -= 1
    consumer.close()


producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "all"})
receiver = threading.Thread(target=receive)
receiver.start()
time.sleep(3)
start = time.monotonic()
for i in range(total):
    due = start + i / rate
    while True:
        wait = due - time.monotonic()
        if wait <= 0:
            break
        producer.poll(min(wait, 0.001))
    user = "latency-%d" % (i % users)
    value = {"eventId": "latency-%d" % i, "userId": user, "eventType": "latency",
             "timestamp": int(time.time() * 1000), "properties": {"on": i // users % 2 == 0}}
    sent[i] = time.monotonic()
    producer.produce(events, json.dumps(value), user)
producer.flush(30)
produced.set()
receiver.join()

measured = samples[min(total // 10, 5 * rate):]
times = sorted(s for s in measured if s is not None)
for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
    print("%s\t%.1f" % (name, times[min(int(len(times) * part), len(times) - 1)] * 1000))
print("measured\t%d" % len(times))
print("lost\t%d" % sum(s is None for s in samples))
