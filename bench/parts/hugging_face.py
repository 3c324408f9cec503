"""The hub's Hugging Face proxy: beside nginx for a file that is there, beside olah (a mirror from PyPI) and the origin
itself for what is not. The origin is testkit's `hf-emulator`, on addresses of its own."""

import json
import os
import shutil
import sys
import time

from . import content, tools
from .clients import wait_for
from .hf_sharing import sharing
from .processes import HERE, BenchError, Process, run
from .webseed import Nginx, children_cpu_s, fetch, wrk

MIB = 1 << 20
CONNECTIONS = 8
SLOW_BYTES = 200 * 1000 * 1000
SLOW_RATE = 1000 * 1000
FILES = 2000
# For olah, which gets some five of them a second.
FEW_FILES = 100
REPO, FEW = "bench/model", "bench/few"
FILE = "weights.safetensors"


class Origin:
    """The emulated huggingface.co; it ends with its standard input."""

    def __init__(self, bench, *described, space=None):
        self.stdin, self.end_of_input = os.pipe()
        self.said = bench.place.log("hf-emulator-said")
        with open(self.said, "wb") as out:
            self.process = Process(
                [bench.tools.hf_emulator, *described], bench.place.log("hf-emulator"),
                space or bench.place.space, stdin=self.stdin, stdout=out)
        os.close(self.stdin)
        try:
            wait_for(lambda: self._words()[:1] == ["hub"], 60, "hf-emulator", self.process)
        except BaseException:
            self.__exit__()
            raise
        self.url, self.cdn = self._words()[1], self._words()[3]

    def _words(self):
        with open(self.said, encoding="ascii") as file:
            return file.read().split()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.end_of_input)
        self.process.end()


class Mirror:
    """Something that serves what the origin has, from a cache that is empty at the start."""

    def __init__(self, bench, name, command, address, home, space=None):
        self.url, self.home, self.space = f"http://{address}", home, space or bench.place.space
        env = {"PATH": os.environ["PATH"], "HOME": home, "XDG_RUNTIME_DIR": home, "RUST_LOG": "warn"}
        self.process = Process(command, bench.place.log(name), self.space, env=env)
        host, port = address.rsplit(":", 1)
        probe = f"import socket; socket.create_connection(('{host}', {port}), 1)"

        def answers():
            try:
                run([sys.executable, "-c", probe], 30, self.space)
                return True
            except BenchError:
                return False

        try:
            wait_for(answers, 60, name, self.process)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        shutil.rmtree(self.home, ignore_errors=True)


def netloc(url):
    return url.partition("://")[2]


def hub(bench, origin):
    return hub_at(bench, origin, bench.place.address(), bench.place.address(), bench.place.space)


def hub_at(bench, origin, address, peer_address, space):
    home = bench.place.dir("hub")
    command = [
        bench.tools.wtfs, "serve", "--listen", address, "--peer-listen", peer_address,
        "--cache-dir", os.path.join(home, "cache"), "--hf-upstream", origin.url,
        "--allow-upstream-host", netloc(origin.url), "--allow-upstream-host", netloc(origin.cdn)]
    return Mirror(bench, "hub", command, address, home, space)


def olah(bench, origin):
    if not bench.tools.olah:
        raise BenchError("olah cannot be had from PyPI")
    address, home = bench.place.address(), bench.place.dir("olah")
    host, port = address.rsplit(":", 1)
    command = [
        os.path.join(os.path.dirname(bench.tools.olah), "olah-cli"), "--host", host, "--port", port,
        "--hf-scheme", "http", "--hf-netloc", netloc(origin.url), "--hf-lfs-netloc", netloc(origin.cdn),
        "--mirror-scheme", "http", "--mirror-netloc", address, "--mirror-lfs-netloc", address,
        "--repos-path", os.path.join(home, "repos"), "--log-path", os.path.join(home, "logs")]
    return Mirror(bench, "olah", command, address, home)


def resolved(url, file=FILE):
    return f"{url}/{REPO}/resolve/main/{file}"


def timed_first_byte(space, url, asked):
    """Seconds until the first byte of the body; the rest is not waited for."""
    script = os.path.join(HERE, "first_byte.py")
    return json.loads(run([sys.executable, "-B", script, url, asked], 120, space))["seconds"]


def snapshot(bench, url, home, repo, files):
    """Files a second of one `snapshot_download` by a client with an empty cache; what it got is counted."""
    program = (
        "import json, os, sys, time\n"
        "from huggingface_hub import snapshot_download\n"
        "began = time.monotonic()\n"
        "got = snapshot_download(sys.argv[1])\n"
        "took = time.monotonic() - began\n"
        "files = [os.path.join(at, name) for at, _, names in os.walk(got) for name in names]\n"
        "print(json.dumps({'seconds': took, 'files': len(files), 'bytes': sum(map(os.path.getsize, files))}))\n")
    env = {
        "PATH": os.environ["PATH"], "HOME": home, "HF_HOME": home, "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    said = json.loads(run([bench.tools.olah, "-c", program, repo], 600, bench.place.space, env=env))
    shutil.rmtree(home, ignore_errors=True)
    if said["files"] != files:
        raise BenchError(f"{said['files']} files came instead of {files}")
    return files / said["seconds"]


def proxy(bench):
    """The rows."""
    if not bench.tools.olah:
        bench.results.notes.append("olah was not measured: it cannot be had from PyPI")
    warm(bench)
    first_bytes(bench)
    snapshots(bench)
    sharing(bench, Origin, hub_at, REPO, FILE)


def warm(bench):
    """Ranges of a file that the hub has, beside nginx with the same bytes."""
    nginx, program = tools.apt("nginx", "nginx-light"), tools.apt("wrk", "wrk")
    if not nginx or not program:
        bench.results.notes.append("warm ranges of the proxy were not measured: nginx or wrk cannot be had")
        return
    row = bench.results.row
    size = bench.options.size
    ranges = row(
        "hf-ranges", f"Hugging Face proxy, GETs of 1 MiB at random places of a file of {size // MIB} MiB that is "
        f"there, {CONNECTIONS} connections", "MB/s", "more", rival="nginx", target=0.8)
    cpu = row("hf-ranges-cpu", "the same: processor time of the server", "s/GB", "less", rival="nginx")
    fill = row("hf-fill", "the same file the first time, through the hub from its origin", "MB/s", "more",
               rival="origin")
    repo = bench.place.dir("origin")
    path = os.path.join(repo, "models", REPO, FILE)
    os.makedirs(os.path.dirname(path))
    content.random_file(path, size)
    shared = bench.place.dir("shared")
    os.link(path, os.path.join(shared, FILE))
    content.random_file(os.path.join(shared, "small.bin"), 1024)
    with Origin(bench, repo) as origin, hub(bench, origin) as ours, Nginx(bench, nginx, shared) as rival:
        def first(subject, server):
            began = time.monotonic()
            run(["curl", "-sSL", "--fail", "--noproxy", "*", "-o", "/dev/null", resolved(server.url)], 600, ours.space)
            took = time.monotonic() - began
            if server is ours:
                same_bytes(server, path, size)
            bench.add(fill, subject, size / 1e6 / took)
        bench.measure("origin", [fill], lambda: first("origin", origin))
        bench.measure("wtfs", [fill], lambda: first("wtfs", ours))
        for turn in range(bench.options.turns):
            for name, server, url in (("wtfs", ours, resolved(ours.url)), ("nginx", rival, rival.url(FILE))):
                def one(name=name, server=server, url=url, turn=turn):
                    before = children_cpu_s(server.process)
                    said = wrk(server.space, program, url, 5, size // MIB, seed=turn + 1)
                    used = children_cpu_s(server.process) - before
                    bench.add(ranges, name, said["bytes"] / 1e6 / said["seconds"])
                    bench.add(cpu, name, used / (said["bytes"] / 1e9))
                bench.measure(name, [ranges, cpu], one)
    os.unlink(path)


def same_bytes(server, path, size):
    """A piece from the middle is the origin's."""
    at = size // 2
    got = run(["curl", "-sS", "--fail", "--noproxy", "*", "-r", f"{at}-{at + MIB - 1}", resolved(server.url)], 60,
              server.space)
    with open(path, "rb") as file:
        file.seek(at)
        if file.read(MIB) != got:
            raise BenchError("the hub served wrong bytes")


def first_bytes(bench):
    """A file of 200 MB that comes at 1 MB/s, asked for by who nobody asked for it before."""
    row = bench.results.row
    asked = {
        "": row("hf-first", "first byte of a cold file of 200 MB at 1 MB/s", "s", "less", limit=0.2),
        f"{SLOW_BYTES // 2}-{SLOW_BYTES // 2 + 65535}": row(
            "hf-first-range", "the same, of 64 KiB in its middle", "s", "less", limit=0.2),
    }
    with Origin(bench, "--ramp", f"{REPO}/{FILE}={SLOW_BYTES}", "--rate", str(SLOW_RATE)) as origin:
        for _ in range(bench.options.turns):
            for name, start in (("wtfs", hub), ("olah", olah)):
                for span, into in asked.items():
                    def one(name=name, start=start, span=span, into=into):
                        with start(bench, origin) as server:
                            bench.add(into, name, timed_first_byte(server.space, resolved(server.url), span))
                    bench.measure(name, [into], one)


def snapshots(bench):
    """`snapshot_download` of many small files."""
    if not bench.tools.olah:
        return
    row = bench.results.row
    cold = row("hf-snapshot-cold", f"snapshot_download of {FILES:,} files of 2 kB, nothing in the mirror's cache (olah: "
               f"{FEW_FILES})", "files/s", "more", rival="origin")
    again = row("hf-snapshot-warm", "the same by a second client", "files/s", "more", rival="origin")
    both = [cold, again]
    with Origin(bench, "--small", f"{REPO}={FILES}", "--small", f"{FEW}={FEW_FILES}") as origin:
        for _ in range(bench.options.turns):
            def straight():
                for into in both:
                    bench.add(into, "origin", snapshot(bench, origin.url, bench.place.dir("client"), REPO, FILES))
            bench.measure("origin", both, straight)
            for name, start, repo, files in (("wtfs", hub, REPO, FILES), ("olah", olah, FEW, FEW_FILES)):
                def one(name=name, start=start, repo=repo, files=files):
                    with start(bench, origin) as server:
                        for into in both:
                            bench.add(into, name, snapshot(bench, server.url, bench.place.dir("client"), repo, files))
                bench.measure(name, both, one)
