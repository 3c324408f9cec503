"""A thousand reads on sources that are dead though connected: nothing else waits for them, and they go on later."""

import json
import os
import signal
import subprocess
import sys
import time

from .clients import Seeders, Wtfs, mounted
from .content import MIB
from .processes import HERE, BenchError, JsonProcess, run
from .soaking import median

COUNT, PROCESSES = 1000, 8
PIECE_BYTES = 64 << 10
READ_TIMEOUT_S = 300
QUICK_S = 1.0
PEAK_MB = 200


class Stalled:
    """prober.py with reads that wait."""

    def __init__(self, soak, path, torrent, count, start):
        options = {
            "path": path, "original": torrent.data, "count": count, "start": start * PIECE_BYTES, "step": PIECE_BYTES}
        command = [sys.executable, "-B", os.path.join(HERE, "prober.py"), "stall", json.dumps(options)]
        self.process = JsonProcess(command, soak.place.log("stalled"))

    def outcome(self, within):
        return self.process.read_line(within)

    def end(self):
        self.process.end()


def soak(soak):
    # Room for twice the reads, a piece each: none is answered by what another fetched.
    dead = soak.torrent(soak.data("dead.bin", 2 * COUNT * PIECE_BYTES), PIECE_BYTES)
    local = soak.torrent(soak.data("local.bin", 64 * MIB), 256 << 10)
    flags = ("--read-timeout", f"{READ_TIMEOUT_S}s")
    with Seeders(soak.tools, soak.place, local) as seeder, Seeders(soak.tools, soak.place, dead, count=3) as dying, \
            Wtfs(soak.tools, soak.place, [dead.path, local.path], seeder.addresses + dying.addresses,
                 flags=flags) as mount:
        fetch_half(soak, mount, local)
        mount.wait_connected(4)
        stalled = []
        try:
            dying.process.child.send_signal(signal.SIGSTOP)
            stalled = begin(soak, mount, dead, 0)
            soak.saw("memory with the reads stalled, MB", round(mount.process.rss_mb()))
            measure(soak, mount, local)
            dying.process.child.send_signal(signal.SIGCONT)
            outcome = gather(stalled, 120)
            soak.saw("when the sources live again", outcome)
            if outcome.get("right") != COUNT:
                soak.found(f"of {COUNT} stalled reads not all were answered: {outcome}")
            dying.process.child.send_signal(signal.SIGSTOP)
            stalled = begin(soak, mount, dead, COUNT)
            unmount(soak, mount)
            outcome = gather(stalled, 20)
            soak.saw("when it was unmounted", outcome)
            if outcome.get("wrong") or outcome.get("right", 0) > COUNT // 10:
                soak.found(f"reads on dead sources were answered: {outcome}")
        finally:
            for process in stalled:
                process.end()
            dying.process.child.send_signal(signal.SIGCONT)


def fetch_half(soak, mount, local):
    """Half of it: a whole file the kernel would read alone, and it is the daemon that must stay quick."""
    try:
        run(["cmp", "-n", str(local.size // 2), mount.path(local), local.data], 120)
    except BenchError as error:
        soak.found(f"local data: {error}")


def begin(soak, mount, torrent, start):
    each = COUNT // PROCESSES
    stalled = [Stalled(soak, mount.path(torrent), torrent, each, start + n * each) for n in range(PROCESSES)]
    end = time.monotonic() + 30
    while (waiting := sum(said["waiting_reads"] for said in mount.status())) < COUNT:
        if time.monotonic() > end:
            # What was asked before the sources stopped may still have come.
            if waiting < COUNT * 9 // 10:
                raise BenchError(f"only {waiting} of {COUNT} reads wait")
            break
        time.sleep(0.05)
    soak.saw("reads that wait", waiting)
    return stalled


def gather(stalled, within):
    total = {}
    for process in stalled:
        for key, value in process.outcome(within).items():
            if key != "seconds":
                total[key] = total.get(key, 0) + value
        process.end()
    return total


def measure(soak, mount, local):
    taken = {"ls -lR": [], "stat": [], "a local read": [], "status": []}
    path = mount.path(local)
    fd = os.open(path, os.O_RDONLY)
    original = os.open(local.data, os.O_RDONLY)
    try:
        for _ in range(20):
            for name, command in (("ls -lR", ["ls", "-lR", mount.dir]), ("stat", ["stat", path])):
                began = time.monotonic()
                run(command, 30)
                taken[name].append(time.monotonic() - began)
            began = time.monotonic()
            mount.status()
            taken["status"].append(time.monotonic() - began)
            at = soak.chosen.randrange(local.size // 2 - MIB)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.monotonic()
            found = os.pread(fd, MIB, at)
            taken["a local read"].append(time.monotonic() - began)
            if found != os.pread(original, MIB, at):
                soak.found(f"wrong bytes of local data at {at}")
    finally:
        os.close(fd)
        os.close(original)
    for name, times in taken.items():
        soak.saw(f"{name}, ms: median, longest of 20", [round(1e3 * value, 1) for value in (median(times), max(times))])
        if max(times) > QUICK_S:
            soak.found(f"{name} took {max(times):.2f} s while {COUNT} reads waited")
    peak = mount.process.peak_mb()
    soak.saw("memory, peak MB, bound", [round(peak), PEAK_MB])
    if peak > PEAK_MB:
        soak.found(f"memory: {peak:.0f} MB")


def unmount(soak, mount):
    began = time.monotonic()
    run([mount.tools.wtfs, "unmount", mount.dir], 60, env=mount.env)
    try:
        mount.process.child.wait(30)
    except subprocess.TimeoutExpired:
        soak.found("the daemon did not end after it was unmounted")
    took = time.monotonic() - began
    soak.saw("unmounting and the daemon's end, s", round(took, 2))
    if took > 2 * QUICK_S or mounted(mount.dir):
        soak.found(f"unmounting took {took:.2f} s while {COUNT} reads waited; still mounted: {mounted(mount.dir)}")
