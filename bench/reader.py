#!/usr/bin/env python3
"""Reads as a user's program would, in a process of its own, so that the bench can end it whatever the file does.

reader.py '<json>' prints one line of JSON. "mode" is one of
  sequential   a file from start to end in 1 MiB reads, or for "seconds"
  random       "count" reads of 4 KiB, each in a piece that no read of this run was in before
  many         "readers" threads, each with a handle of its own and a stretch of the file of its own
  http, http-random   the first two over ranged GETs of "url"
Where "original" is given, what was read is compared with it, outside of the time that is measured.
"""

import json
import os
import random
import sys
import threading
import time
import urllib.request

STEP = 1 << 20
SMALL = 4096


def said_wrong(original, offset, found):
    with open(original, "rb", buffering=0) as file:
        return os.pread(file.fileno(), len(found), offset) != found


def samples_differ(options, size):
    """Compares 32 places after the fact: a fast wrong answer is not a result."""
    if "original" not in options:
        return False
    chosen = random.Random(size)
    fd = os.open(options["path"], os.O_RDONLY)
    try:
        places = [chosen.randrange(max(1, size - SMALL)) for _ in range(32)]
        return any(said_wrong(options["original"], at, os.pread(fd, SMALL, at)) for at in places)
    finally:
        os.close(fd)


def sequential(options):
    buffer = bytearray(STEP)
    seconds = options.get("seconds", 600)
    total, longest, first = 0, 0.0, 0.0
    start = last = time.monotonic()
    with open(options["path"], "rb", buffering=0) as file:
        while True:
            n = file.readinto(buffer)
            now = time.monotonic()
            first = first or now - start
            longest, last = max(longest, now - last), now
            total += n
            if n == 0 or now - start > seconds:
                break
    took = time.monotonic() - start
    used = os.times()
    return {
        "bytes": total,
        "seconds": took,
        "first_s": first,
        "longest_s": longest,
        "reader_cpu_s": used.user + used.system,
        "wrong": samples_differ(options, total),
    }


def offsets(options, size):
    """One random place in each of "count" different pieces."""
    piece = options["piece_bytes"]
    chosen = random.Random(options.get("seed", 1))
    pieces = chosen.sample(range(size // piece), min(options["count"], size // piece))
    return [p * piece + chosen.randrange(piece - SMALL) for p in pieces]


def latencies(taken):
    taken = sorted(taken)
    if not taken:
        return {"count": 0}
    at = lambda q: taken[min(len(taken) - 1, int(q * len(taken)))] * 1e3
    return {"count": len(taken), "p50_ms": at(0.50), "p99_ms": at(0.99), "max_ms": taken[-1] * 1e3}


def randomly(options):
    fd = os.open(options["path"], os.O_RDONLY)
    size = os.fstat(fd).st_size
    taken, wrong = [], False
    end = time.monotonic() + options.get("seconds", 120)
    for offset in offsets(options, size):
        start = time.monotonic()
        found = os.pread(fd, SMALL, offset)
        taken.append(time.monotonic() - start)
        wrong = wrong or said_wrong(options["original"], offset, found)
        if time.monotonic() > end:
            break
    os.close(fd)
    return {**latencies(taken), "wrong": wrong}


def many(options):
    size = os.path.getsize(options["path"])
    count = options["readers"]
    stretch = size // count
    worst, failed = [0.0] * count, []
    opened = [os.open(options["path"], os.O_RDONLY) for _ in range(count)]
    ready = threading.Barrier(count + 1)

    def read(number):
        at, end = number * stretch, (number + 1) * stretch
        buffers = [bytearray(min(128 << 10, stretch))]
        ready.wait()
        try:
            while at < end:
                start = time.monotonic()
                n = os.preadv(opened[number], buffers, at)
                worst[number] = max(worst[number], time.monotonic() - start)
                if n == 0:
                    break
                at += n
        except OSError as error:
            failed.append(repr(error))

    threading.stack_size(256 << 10)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    ready.wait()
    start = time.monotonic()
    for thread in threads:
        thread.join()
    took = time.monotonic() - start
    return {"bytes": stretch * count, "seconds": took, "worst_read_s": max(worst), "failed": failed[:3]}


def http(options):
    buffer = bytearray(STEP)
    total = 0
    end = time.monotonic() + options.get("seconds", 600)
    start = time.monotonic()
    with urllib.request.urlopen(options["url"], timeout=60) as answer:
        while (n := answer.readinto(buffer)) and time.monotonic() < end:
            total += n
    return {"bytes": total, "seconds": time.monotonic() - start}


def http_randomly(options):
    taken, wrong = [], False
    end = time.monotonic() + options.get("seconds", 120)
    for offset in offsets(options, options["size"]):
        asked = urllib.request.Request(
            options["url"], headers={"Range": f"bytes={offset}-{offset + SMALL - 1}"})
        start = time.monotonic()
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found = answer.read(SMALL)
        taken.append(time.monotonic() - start)
        wrong = wrong or said_wrong(options["original"], offset, found)
        if time.monotonic() > end:
            break
    return {**latencies(taken), "wrong": wrong}


MODES = {
    "sequential": sequential,
    "random": randomly,
    "many": many,
    "http": http,
    "http-random": http_randomly,
}

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(MODES[asked["mode"]](asked)))
