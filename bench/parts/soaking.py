"""What the soaks share: findings, readers that are watched from outside, and members of a swarm that can be killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from . import tools
from .content import MIB, Torrent
from .processes import HERE, BenchError, Process, run

# A read that makes no progress ends after the mount's read time-out; this is for a loaded machine.
MARGIN_S = 10


def say(text):
    print(f"soak: {text}", file=sys.stderr, flush=True)


class Soak:
    """One soak: what it may use, what it saw, and what it found wrong."""

    def __init__(self, name, things, place, asked):
        self.name, self.tools, self.place, self.asked = name, things, place, asked
        self.chosen = random.Random(asked.seed)
        self.seen, self.findings = {}, []

    def saw(self, key, value):
        self.seen[key] = value

    def found(self, what):
        # Some are enough to know; thousands would hide the others.
        if len(self.findings) < 40:
            self.findings.append(what)
            say(f"{self.name}: FOUND {what}")

    def seconds(self, default_minutes):
        return 60 * (default_minutes if self.asked.minutes is None else self.asked.minutes)

    def keep_logs(self):
        out = os.path.join(tools.ROOT, "target", "soak-logs", f"{self.name}-{self.asked.seed}")
        os.makedirs(out, exist_ok=True)
        for name in os.listdir(self.place.scratch):
            if name.endswith(".log"):
                shutil.copy(os.path.join(self.place.scratch, name), out)
        say(f"logs are in {out}")

    def data(self, name, size):
        """A file that the seed fixes, below the directory from which members seed."""
        path = os.path.join(self.place.scratch, "seeded", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            for at in range(0, size, MIB):
                file.write(self.chosen.randbytes(min(MIB, size - at)))
        return path

    def torrent(self, data, piece_bytes, version="v1"):
        out = f"{data}.torrent"
        options = {"path": data, "out": out, "piece_bytes": piece_bytes, "version": version}
        said = run([self.tools.python, os.path.join(HERE, "lt.py"), "make", json.dumps(options)], 300)
        return Torrent(out, data, piece_bytes, json.loads(said)["info_hash"])


class Reader:
    """prober.py at work, and what it said when it has ended."""

    def __init__(self, soak, files, seconds, timeout_s, **more):
        limit = timeout_s + MARGIN_S
        options = {"files": files, "seed": soak.chosen.getrandbits(32), "seconds": seconds, "limit_s": limit, **more}
        self.soak, self.out = soak, soak.place.log("reader")
        command = [sys.executable, "-B", os.path.join(HERE, "prober.py"), json.dumps(options)]
        self.process = Process(command, self.out)
        # One operation may be a stretch of reads; each of them ends within the limit, and the stretch sees the end.
        self.late_at = time.monotonic() + seconds + limit + 30

    def said(self):
        """What it found, `None` while it runs. One that does not end is a hang, and is told where it hangs."""
        if self.process.runs():
            if time.monotonic() < self.late_at:
                return None
            self.soak.found(f"a reader hangs: {where_it_hangs(self.process.pid)}")
            self.process.end()
            return {"reads": 0, "bytes": 0, "wrong": [], "slow": [], "errors": [], "longest_s": 0.0}
        try:
            with open(self.out, encoding="utf-8") as file:
                return json.loads(file.read())
        except ValueError as error:
            raise BenchError(f"a reader broke: {self.process.tail()}") from error
        finally:
            os.unlink(self.out)

    def end(self):
        self.process.end()


def where_it_hangs(pid):
    told = []
    for name in ("wchan", "syscall", "stack"):
        try:
            with open(f"/proc/{pid}/{name}", encoding="ascii", errors="replace") as file:
                told.append(f"{name} {file.read(600).strip()}")
        except OSError:
            pass
    return "; ".join(told)


class Tally:
    """The sum of what readers said; wrong bytes and slow reads are findings at once."""

    def __init__(self, soak):
        self.soak = soak
        self.reads, self.bytes, self.longest_s, self.errors = 0, 0, 0.0, []
        self.p50_ms, self.p99_ms = [], []

    def add(self, said):
        self.reads += said["reads"]
        self.bytes += said["bytes"]
        self.longest_s = max(self.longest_s, said["longest_s"])
        self.errors += said["errors"]
        if "p50_ms" in said:
            self.p50_ms.append(said["p50_ms"])
            self.p99_ms.append(said["p99_ms"])
        for wrong in said["wrong"]:
            self.soak.found(f"wrong bytes: {wrong}")
        for slow in said["slow"]:
            self.soak.found(f"a read that took too long: {slow}")

    def show(self):
        self.soak.saw("reads compared", self.reads)
        self.soak.saw("GB compared", round(self.bytes / 1e9, 2))
        self.soak.saw("wrong bytes or hangs", len(self.soak.findings))
        self.soak.saw("longest read, s", round(self.longest_s, 2))
        if self.p50_ms:
            both = [round(median(values), 2) for values in (self.p50_ms, self.p99_ms)]
            self.soak.saw("read p50 and p99 (medians over the readers), ms", both)


class Readers:
    """So many readers, each replaced by another when it ends: programs come and go too."""

    def __init__(self, soak, files, count, timeout_s, each_s=20, **more):
        self.soak, self.files, self.timeout_s, self.each_s, self.more = soak, files, timeout_s, each_s, more
        self.tally = Tally(soak)
        self.running = []
        self.count = count

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for reader in self.running:
            reader.end()

    def tend(self, end):
        """Starts what is missing and hears what has ended; none runs beyond `end`."""
        for reader in list(self.running):
            said = reader.said()
            if said is not None:
                self.running.remove(reader)
                self.tally.add(said)
        left = end - time.monotonic()
        while len(self.running) < self.count and left > 1:
            seconds = min(left, self.each_s * self.soak.chosen.uniform(0.5, 1.5))
            self.running.append(Reader(self.soak, self.files, seconds, self.timeout_s, **self.more))

    def finish(self):
        while self.running:
            self.tend(0)
            time.sleep(0.05)
        return self.tally


class Fio:
    """fio reading a file that fio wrote: it checks the sum and the place that each of its blocks carries."""

    def __init__(self, soak, path, size, engine, seconds, timeout_s):
        self.soak, self.began = soak, time.monotonic()
        command = [
            "fio", "--name=soak", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k", f"--size={size}",
            f"--ioengine={engine}", "--numjobs=4", "--verify=crc32c", "--verify_fatal=1", "--time_based",
            f"--runtime={max(1, int(seconds))}", "--invalidate=1", f"--max_latency={timeout_s + MARGIN_S}s",
            f"--randseed={soak.chosen.getrandbits(31)}", "--group_reporting", "--verify_state_save=0"]
        self.process = Process(command, soak.place.log("fio"))
        self.late_at = self.began + seconds + timeout_s + MARGIN_S + 30

    @staticmethod
    def write(path, size):
        run([
            "fio", "--name=soak", f"--filename={path}", "--rw=write", "--bs=4k", f"--size={size}", "--ioengine=psync",
            "--verify=crc32c", "--do_verify=0", "--verify_state_save=0"], 120)

    def errors(self):
        """`None` while it runs; then errors as a reader tells them, none when all was right."""
        if self.process.runs():
            if time.monotonic() < self.late_at:
                return None
            self.soak.found(f"fio hangs: {where_it_hangs(self.process.pid)}")
            self.process.end()
            return []
        text = self.process.tail()
        with open(self.process.log, encoding="utf-8", errors="replace") as file:
            text = file.read()
        os.unlink(self.process.log)
        if self.process.child.returncode == 0:
            return []
        now = time.monotonic()
        if "Input/output error" in text or "SIGBUS" in text or "signal=7" in text:
            return [{"at": now, "path": "fio", "offset": 0, "errno": "EIO of fio", "seconds": now - self.began}]
        self.soak.found(f"fio failed: {text[:1500]}")
        return []

    def end(self):
        self.process.end()


class Member:
    """A seeder that can be killed and started again at the same address."""

    def __init__(self, soak, kind, address, space, torrents, client):
        self.soak, self.kind, self.address, self.space, self.client = soak, kind, address, space, client
        self.torrents = torrents
        self.home = soak.place.dir("member")
        self.process, self.since = None, 0.0
        # Pairs of when it began and when it ended.
        self.lives = []

    @property
    def is_alive(self):
        return self.process is not None and self.process.runs()

    def start(self):
        log = os.path.join(self.soak.place.scratch, f"{os.path.basename(self.home)}.log")
        if self.kind == "libtorrent":
            options = {
                "listen": self.address, "peers": [self.client] if self.client else [],
                "torrents": [[torrent.path, torrent.save] for torrent in self.torrents]}
            command = [self.soak.tools.python, os.path.join(HERE, "lt.py"), "member", json.dumps(options)]
            env = None
        else:
            peer = ["--peer", self.client] if self.client else []
            torrent = self.torrents[0]
            command = [
                self.soak.tools.wtfs, "seed", "--listen", self.address, "--cache-dir", os.path.join(self.home, "cache"),
                *peer, torrent.path, torrent.data]
            env = {"PATH": os.environ["PATH"], "RUST_LOG": "warn", "HOME": self.home}
            env |= {f"XDG_{name}": self.home for name in ("RUNTIME_DIR", "STATE_HOME", "CONFIG_HOME")}
        self.process = Process(command, log, self.space, env=env)
        self.since = time.monotonic()

    def stop(self, sig=signal.SIGKILL):
        """Ends it at once, or asks it to end."""
        if self.process is None:
            return
        self.lives.append((self.since, time.monotonic()))
        try:
            self.process.child.send_signal(sig)
            self.process.child.wait(3)
        except subprocess.TimeoutExpired:
            self.process.child.kill()
            self.process.child.wait(10)
        self.process = None

    def lived(self, begin, end):
        """The longest it lived without a break within these moments, in seconds."""
        lives = self.lives + ([(self.since, end)] if self.process else [])
        return max((min(to, end) - max(since, begin) for since, to in lives), default=0.0)


def median(values):
    return sorted(values)[len(values) // 2] if values else None


def in_mib(*values):
    return [round(value / MIB, 1) for value in values]


def allocated(path):
    """Bytes that the files below take up on the disk."""
    total = 0
    for top, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_blocks * 512
            except OSError:
                continue
    return total


def compare_whole(soak, path, original, within=300):
    """Reads a file from start to end in a child; a difference is a finding."""
    try:
        run(["cmp", path, original], within)
    except BenchError as error:
        soak.found(f"{path} read as a whole: {error}")


def read_bytes(pid):
    """What a process has read by system calls since it began."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return int(file.readline().split()[1])
