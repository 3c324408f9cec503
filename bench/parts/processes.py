"""Processes that the bench owns: each dies with it, is ended by its own id, and can be asked what it used."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TICKS = os.sysconf("SC_CLK_TCK")
LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """A measurement that could not be made: its row says so, and the run goes on."""


def die_with_parent(sig=signal.SIGKILL):
    def prepare():
        LIBC.prctl(PR_SET_PDEATHSIG, sig)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return prepare


class Namespace:
    """Where commands run: the host's network, or a namespace by its name under /run/netns."""

    def __init__(self, name=None):
        self.name = name

    def wrap(self, command):
        # nsenter and not `ip netns exec`: that makes a mount namespace too, and a mount made in it is seen nowhere else.
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *command] if self.name else list(command)


class Process:
    """A child in its own process group, with its output in a file."""

    def __init__(self, command, log, space=Namespace(), stdin=None, env=None, stdout=None, die=signal.SIGKILL):
        self.log = log
        with open(log, "ab") as out:
            self.child = subprocess.Popen(
                space.wrap(command), stdin=stdin or subprocess.DEVNULL, stdout=stdout or out, stderr=out,
                env=env, start_new_session=True, preexec_fn=die_with_parent(die))
        self.pid = self.child.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def runs(self):
        return self.child.poll() is None

    def end(self, patience=5.0):
        """SIGTERM, then SIGKILL, to this child alone."""
        for sig, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
            if not self.runs():
                return
            self.child.send_signal(sig)
            try:
                self.child.wait(wait)
            except subprocess.TimeoutExpired:
                continue

    def cpu_s(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def _status_mb(self, key):
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith(key):
                    return int(line.split()[1]) * 1024 / 1e6
        return 0.0

    def peak_mb(self):
        return self._status_mb("VmHWM:")

    def rss_mb(self):
        return self._status_mb("VmRSS:")

    def threads(self):
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def forget_peak(self):
        """Makes VmHWM begin anew; where the kernel does not allow it the peak is that of the whole life."""
        try:
            with open(f"/proc/{self.pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")
        except OSError:
            pass

    def tail(self):
        with open(self.log, "rb") as file:
            return file.read()[-600:].decode(errors="replace").strip()


class JsonProcess(Process):
    """A child that answers each line of JSON with one line of JSON."""

    def __init__(self, command, log, space=Namespace(), env=None, die=signal.SIGKILL):
        super().__init__(command, log, space, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, die=die)
        self.rest = b""
        try:
            self.ready = self.read_line(60)
        except BaseException:
            self.end()
            raise

    def read_line(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.child.stdout], [], [], left)[0]:
                raise BenchError(f"no answer within {seconds} s: {self.tail()}")
            part = os.read(self.child.stdout.fileno(), 65536)
            if not part:
                raise BenchError(f"ended early: {self.tail()}")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\n")
        return json.loads(line)

    def ask(self, within=60, **command):
        self.child.stdin.write(json.dumps(command).encode() + b"\n")
        self.child.stdin.flush()
        said = self.read_line(within)
        if "failed" in said:
            raise BenchError(said["failed"])
        return said


def run(command, within, space=Namespace(), env=None, cwd=None):
    """Runs a command to its end and gives its standard output; it is killed at the deadline."""
    try:
        done = subprocess.run(
            space.wrap(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=within, env=env, cwd=cwd,
            preexec_fn=die_with_parent(), check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{command[0]} was not done within {within} s") from error
    except OSError as error:
        raise BenchError(str(error)) from error
    if done.returncode != 0:
        text = (done.stderr or done.stdout).decode(errors="replace").strip()[-600:]
        raise BenchError(f"{' '.join(map(str, command[:3]))} failed ({done.returncode}): {text}")
    return done.stdout


def read(within=180, space=Namespace(), **options):
    """One run of reader.py; wrong bytes are an error, not a result."""
    command = [sys.executable, "-B", os.path.join(HERE, "reader.py"), json.dumps(options)]
    said = json.loads(run(command, within, space))
    if said.get("wrong"):
        raise BenchError("wrong bytes were read")
    if said.get("failed"):
        raise BenchError(f"reads failed: {said['failed']}")
    return said
