"""Files over HTTP: `wtfs serve` beside nginx with sendfile, asked by wrk in turn: pieces at random places, and whole
files, from the page cache and from the disk."""

import json
import os
import shutil
import time

from . import content, tools
from .processes import HERE, BenchError, Process, run

MIB = 1 << 20
CONNECTIONS = 8
SMALL = 64 << 10


def fetch(space, url, out="-"):
    """A GET from where the servers are; all of them run in a network of their own."""
    return run(["curl", "-sS", "--fail", "--noproxy", "*", "-o", out, url], 300, space)


class Hub:
    """`wtfs serve` of one directory."""

    def __init__(self, bench, root, names):
        self.address, self.home, self.space = bench.place.address(), bench.place.dir("hub"), bench.place.space
        env = {"PATH": os.environ["PATH"], "HOME": self.home, "XDG_RUNTIME_DIR": self.home, "RUST_LOG": "warn"}
        command = [
            bench.tools.wtfs, "serve", "--listen", self.address, "--peer-listen", bench.place.address(), "--root", root,
            "--cache-dir", os.path.join(self.home, "cache")]
        self.process = Process(command, bench.place.log("hub"), bench.place.space, env=env)
        try:
            self.hashes = self._wait_ready(set(names))
        except BaseException:
            self.__exit__()
            raise

    def _wait_ready(self, names):
        end = time.monotonic() + 300
        while time.monotonic() < end:
            if not self.process.runs():
                raise BenchError(f"wtfs serve ended early: {self.process.tail()}")
            try:
                listed = json.loads(fetch(self.space, f"http://{self.address}/torrents"))["torrents"]
            except BenchError:
                listed = []
            ready = {entry["name"]: entry["info_hash"] for entry in listed if entry["state"] == "ready"}
            if names <= ready.keys():
                return ready
            time.sleep(0.1)
        raise BenchError("the shared files were not ready within 300 s")

    def url(self, name):
        return f"http://{self.address}/seed/{self.hashes[name]}/{name}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        shutil.rmtree(self.home, ignore_errors=True)


class Nginx:
    """Two workers with sendfile and open files kept, as an operator would tune it for this."""

    def __init__(self, bench, nginx, root):
        self.address, self.home, self.space = bench.place.address(), bench.place.dir("nginx"), bench.place.space
        settings = f"""
daemon off; worker_processes 2; pid {self.home}/pid; error_log {self.home}/error.log;
events {{ worker_connections 1024; }}
http {{
  sendfile on; tcp_nopush on; keepalive_requests 1000000; access_log off; open_file_cache max=100 inactive=60s;
  client_body_temp_path {self.home}/a; proxy_temp_path {self.home}/b; fastcgi_temp_path {self.home}/c;
  uwsgi_temp_path {self.home}/d; scgi_temp_path {self.home}/e;
  default_type application/octet-stream;
  server {{ listen {self.address} reuseport; root {root}; }}
}}
user root;
"""
        path = os.path.join(self.home, "nginx.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(settings)
        self.process = Process([nginx, "-c", path], bench.place.log("nginx"), bench.place.space)
        try:
            self._wait_listening()
        except BaseException:
            self.__exit__()
            raise

    def _wait_listening(self):
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if not self.process.runs():
                raise BenchError(f"nginx ended early: {self.process.tail()}")
            try:
                fetch(self.space, self.url("small.bin"))
                return
            except BenchError:
                time.sleep(0.05)
        raise BenchError("nginx did not listen within 20 s")

    def url(self, name):
        return f"http://{self.address}/{name}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        shutil.rmtree(self.home, ignore_errors=True)


def wrk(space, program, url, seconds, pieces=0, connections=CONNECTIONS, seed=1):
    """What wrk counted; an answer that is no success is an error."""
    env = dict(os.environ, RANGES=str(pieces), SEED=str(seed))
    command = [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s",
               "-s", os.path.join(HERE, "ranges.lua"), url]
    said = json.loads(run(command, seconds + 90, space, env=env).decode().strip().splitlines()[-1])
    if said["errors"]:
        raise BenchError(f"wrk counted {said['errors']} errors in {said['requests']} requests")
    return said


def forget_pages(path):
    """Takes a file out of the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def children_cpu_s(process):
    """Of a process and its children, since nginx works in children."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
        pids = [process.pid, *map(int, file.read().split())]
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def ranged_gets(bench):
    """The rows."""
    nginx, program = tools.apt("nginx", "nginx-light"), tools.apt("wrk", "wrk")
    if not nginx or not program:
        bench.results.notes.append("the web seed was not measured: nginx or wrk cannot be had")
        return
    row = bench.results.row
    size = f"{bench.options.size // MIB} MiB"
    at = f"{CONNECTIONS} connections"
    ranges = row("ranges", f"GETs of 1 MiB at random places of a file of {size}, {at}", "MB/s", "more", rival="nginx",
                 target=0.8)
    latency = row("ranges-p99", "the same: time of the slowest in a hundred", "ms", "less", rival="nginx")
    cpu = row("ranges-cpu", "the same: processor time of the server", "s/GB", "less", rival="nginx")
    whole = row("whole", f"GETs of a whole file of {size}, 2 connections", "MB/s", "more", rival="nginx", target=0.8)
    small = row("small-files", f"GETs of a whole file of 64 KiB, {at}", "requests/s", "more", rival="nginx")
    cold = row("cold-ranges", f"GETs of 1 MiB at random places, nothing of the file in memory, {at}", "MB/s", "more",
               rival="nginx", target=0.8)
    cold_whole = row("cold-whole", "one GET of the whole file, nothing of it in memory", "MB/s", "more", rival="nginx",
                     target=0.8)
    root = bench.place.dir("shared")
    large = content.random_file(os.path.join(root, "large.bin"), bench.options.size)
    content.random_file(os.path.join(root, "small.bin"), SMALL)
    os.sync()
    pieces = bench.options.size // MIB
    # Left alone for as long as the hub waits before it hashes.
    time.sleep(2.5)
    with Hub(bench, root, ["large.bin", "small.bin"]) as hub, Nginx(bench, nginx, root) as rival:
        for turn in range(bench.options.turns):
            for name, server in (("wtfs", hub), ("nginx", rival)):
                def one(name=name, server=server, turn=turn):
                    seconds = 5
                    with open(large, "rb") as file:
                        while file.read(MIB):
                            pass
                    before = children_cpu_s(server.process)
                    said = wrk(server.space, program, server.url("large.bin"), seconds, pieces, seed=turn + 1)
                    used = children_cpu_s(server.process) - before
                    bench.add(ranges, name, said["bytes"] / 1e6 / said["seconds"])
                    bench.add(latency, name, said["p99_ms"])
                    bench.add(cpu, name, used / (said["bytes"] / 1e9))
                    said = wrk(server.space, program, server.url("large.bin"), seconds, connections=2)
                    bench.add(whole, name, said["bytes"] / 1e6 / said["seconds"])
                    said = wrk(server.space, program, server.url("small.bin"), seconds)
                    bench.add(small, name, said["requests"] / said["seconds"])
                    forget_pages(large)
                    # Shorter than it takes to read all of it once.
                    said = wrk(server.space, program, server.url("large.bin"), 1, pieces, seed=turn + 1)
                    bench.add(cold, name, said["bytes"] / 1e6 / said["seconds"])
                    forget_pages(large)
                    began = time.monotonic()
                    fetch(server.space, server.url("large.bin"), "/dev/null")
                    bench.add(cold_whole, name, bench.options.size / 1e6 / (time.monotonic() - began))
                bench.measure(name, [ranges, whole, small, cold, cold_whole], one)
    os.unlink(large)
