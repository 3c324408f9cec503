#!/usr/bin/env python3
"""Reads files in every way that programs do, and compares each byte with the original; for bench/soak.

prober.py '<json>' prints one line of JSON and ends after "seconds". "files" are pairs of a path and its original. What
it does is fixed by "seed": reads of random lengths at random places, through several handles at once, by offset and by
position, sequential, backward, strided and by page fault; handles are opened anew, and the kernel is told to forget
pages, so that the file system is asked again. A page fault that cannot be served is a SIGBUS: mappings are read in a
child.

prober.py stall '<json>' has "count" threads read one block each, "step" bytes apart, and tells what became of them.

Nothing here decides what is allowed: errors and their times are told, and so are reads longer than "limit_s".
"""

import json
import mmap
import os
import random
import signal
import sys
import threading
import time

HANDLES = 6
MOST = 1 << 20
TOLD = 20


class Prober:
    def __init__(self, options):
        self.chosen = random.Random(options["seed"])
        self.limit_s = options["limit_s"]
        self.end = time.monotonic() + options["seconds"]
        self.originals = {}
        self.handles = []
        self.files = [tuple(pair) for pair in options["files"]]
        self.ways = [getattr(self, name) for name in options.get("ways", WAYS)]
        self.said = {"reads": 0, "bytes": 0, "wrong": [], "slow": [], "errors": [], "longest_s": 0.0}
        self.taken = []

    def original(self, path):
        if path not in self.originals:
            self.originals[path] = os.open(path, os.O_RDONLY)
        return self.originals[path]

    def tell(self, kind, **what):
        if len(self.said[kind]) < TOLD:
            self.said[kind].append({"at": time.monotonic(), **what})

    def length(self, size):
        """As many short reads as long ones: the exponent is uniform, not the length."""
        return max(1, min(size, int(2 ** self.chosen.uniform(0, 20))))

    def place(self, size, length):
        if self.chosen.random() < 0.05:
            return size - length
        at = self.chosen.randrange(size - length + 1)
        # Half of them where pages and blocks begin.
        return at - at % 4096 if self.chosen.random() < 0.5 else at

    def judge(self, handle, at, want, found, took):
        self.said["reads"] += 1
        self.said["bytes"] += len(found)
        self.taken.append(took)
        if took > self.limit_s:
            self.tell("slow", path=handle["path"], offset=at, length=want, seconds=took)
        right = os.pread(self.original(handle["original"]), want, at)
        if len(found) < len(right):
            # The kernel gives what it has and tells of the error next time: an error, if what is there is right.
            self.tell("errors", path=handle["path"], offset=at, errno="short", seconds=took)
            right = right[:len(found)]
        if found != right:
            first = next((i for i, (a, b) in enumerate(zip(found, right)) if a != b), min(len(found), len(right)))
            self.tell("wrong", path=handle["path"], offset=at, asked=want, got=len(found), first=at + first)

    def read(self, handle, at, length, how=None):
        began = time.monotonic()
        try:
            found = how() if how else os.pread(handle["fd"], length, at)
        except OSError as error:
            self.failed(handle, at, error.errno, began)
            return
        self.judge(handle, at, length, found, time.monotonic() - began)

    def failed(self, handle, at, errno, began):
        took = time.monotonic() - began
        self.taken.append(took)
        self.tell("errors", path=handle["path"], offset=at, errno=errno, seconds=took)
        if took > self.limit_s:
            self.tell("slow", path=handle["path"], offset=at, length=0, seconds=took)
        # A file system that is gone answers at once: not to be asked a million times.
        time.sleep(0.05)

    def handle(self):
        if len(self.handles) < HANDLES or self.chosen.random() < 0.03:
            self.open()
        return self.chosen.choice(self.handles) if self.handles else None

    def open(self):
        path, original = self.chosen.choice(self.files)
        if len(self.handles) >= HANDLES:
            os.close(self.handles.pop(self.chosen.randrange(HANDLES))["fd"])
        began = time.monotonic()
        try:
            fd = os.open(path, os.O_RDONLY)
            size = os.fstat(fd).st_size
        except OSError as error:
            self.failed({"path": path}, 0, error.errno, began)
            return
        handle = {"path": path, "original": original, "fd": fd, "size": size}
        if size != os.fstat(self.original(original)).st_size:
            self.tell("wrong", path=path, size=size)
        if size:
            self.handles.append(handle)
        else:
            os.close(fd)

    def by_offset(self, handle):
        length = self.length(handle["size"])
        self.read(handle, self.place(handle["size"], length), length)

    def by_position(self, handle):
        length = self.length(handle["size"])
        at = self.place(handle["size"], length)
        os.lseek(handle["fd"], at, os.SEEK_SET)
        self.read(handle, at, length, lambda: os.read(handle["fd"], length))

    def beyond_the_end(self, handle):
        length = self.length(handle["size"])
        self.read(handle, handle["size"] - length // 2, length)

    def stretch(self, handle, step_of):
        """Some reads at equal distances."""
        length = min(self.length(handle["size"]), 256 << 10)
        step, count = step_of(length), self.chosen.randrange(2, 24)
        at = self.place(handle["size"], length)
        for _ in range(count):
            if not 0 <= at < handle["size"] or time.monotonic() > self.end:
                return
            self.read(handle, at, length)
            at += step

    def forward(self, handle):
        self.stretch(handle, lambda length: length)

    def backward(self, handle):
        self.stretch(handle, lambda length: -length)

    def strided(self, handle):
        self.stretch(handle, lambda length: length + self.chosen.randrange(1, 1 << 20))

    def forget(self, handle):
        size = handle["size"]
        length = self.chosen.choice([0, self.length(size)])
        at = 0 if length == 0 else self.place(size, length)
        os.posix_fadvise(handle["fd"], at, length, os.POSIX_FADV_DONTNEED)

    def by_fault(self, handle):
        size = handle["size"]
        length = self.length(size)
        at = self.place(size, length)
        base = at - at % mmap.ALLOCATIONGRANULARITY
        flags = self.chosen.choice([mmap.MAP_SHARED, mmap.MAP_PRIVATE])
        try:
            mapped = mmap.mmap(handle["fd"], at + length - base, flags, mmap.PROT_READ, offset=base)
        except OSError as error:
            self.failed(handle, at, error.errno, time.monotonic())
            return
        again = self.chosen.random() < 0.5
        began = time.monotonic()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            # Nothing of the parent's runs in here.
            try:
                os.close(reading)
                found = mapped[at - base:at - base + length]
                if again:
                    mapped.madvise(mmap.MADV_DONTNEED)
                    os.posix_fadvise(handle["fd"], base, at + length - base, os.POSIX_FADV_DONTNEED)
                    if mapped[at - base:at - base + length] != found:
                        found = b""
                view = memoryview(found)
                while view:
                    view = view[os.write(writing, view):]
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            found = pipe.read()
        status = os.waitpid(child, 0)[1]
        mapped.close()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS:
            self.failed(handle, at, "SIGBUS", began)
        else:
            self.judge(handle, at, length, found, time.monotonic() - began)

    def run(self):
        while time.monotonic() < self.end:
            handle = self.handle()
            if handle:
                self.chosen.choice(self.ways)(handle)
        taken = sorted(self.taken)
        if taken:
            self.said["longest_s"] = taken[-1]
            self.said["p50_ms"] = taken[len(taken) // 2] * 1e3
            self.said["p99_ms"] = taken[int(len(taken) * 0.99)] * 1e3
        return self.said


WAYS = [
    "by_offset", "by_offset", "by_position", "beyond_the_end", "forward", "backward", "strided", "forget", "by_fault",
    "by_fault"]


def stall(options):
    """A line "waiting" once every thread is about to read; the outcome at the end."""
    fd = os.open(options["path"], os.O_RDONLY)
    original = os.open(options["original"], os.O_RDONLY)
    ready = threading.Barrier(options["count"] + 1)
    counts = {"right": 0, "wrong": 0}
    lock = threading.Lock()

    def read(number):
        at = options["start"] + number * options["step"]
        ready.wait()
        try:
            outcome = "right" if os.pread(fd, 4096, at) == os.pread(original, 4096, at) else "wrong"
        except OSError as error:
            outcome = f"errno {error.errno}"
        with lock:
            counts[outcome] = counts.get(outcome, 0) + 1

    threading.stack_size(256 << 10)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(options["count"])]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.monotonic()
    print(json.dumps({"waiting": True}), flush=True)
    for thread in threads:
        thread.join()
    return {**counts, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    if sys.argv[1] == "stall":
        print(json.dumps(stall(json.loads(sys.argv[2]))))
    else:
        print(json.dumps(Prober(json.loads(sys.argv[1])).run()))
