"""The hub's tracker beside the one of npm's `bittorrent-tracker`: announces a second over each protocol, and memory.

The load is testkit's `tracker-load`, the same for both and in turn. It takes its share of the machine: where it is what
cannot go faster, the processor time of an announce says more than the rate.
"""

import json
import os
import subprocess
import sys

from .clients import wait_for
from .processes import HERE, BenchError, JsonProcess, Process, run

PORT = 7070
RIVAL = "bittorrent-tracker"


class Served:
    """A tracker that answers on PORT of loopback."""

    def __init__(self, command, place, env):
        self.place = place
        self.process = Process(command, place.log("tracker"), place.space, env=env)
        try:
            wait_for(self.answers, 60, "tracker", self.process)
        except BaseException:
            self.end()
            raise

    def answers(self):
        # Asked from inside the bench's network, where the tracker is.
        probe = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 1)"
        asked = subprocess.run(
            self.place.space.wrap([sys.executable, "-c", probe]), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=30, check=False)
        return asked.returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.end()


def hub(bench):
    place = bench.place
    home = place.dir("hub")
    many = "1000000"
    env = {
        "PATH": os.environ["PATH"], "HOME": home, "XDG_CACHE_HOME": home, "XDG_RUNTIME_DIR": home,
        "XDG_CONFIG_HOME": home,
        # All clients have one address here, which no limit per address is made for.
        "WTFS_HUB_ANNOUNCE_RATE": "0", "WTFS_HUB_MAX_CONNECTIONS": many, "WTFS_HUB_MAX_CONNECTIONS_PER_IP": many,
        "WTFS_HUB_MAX_WEBSOCKETS": many, "WTFS_HUB_MAX_WEBSOCKETS_PER_IP": many,
    }
    command = [bench.tools.wtfs, "serve", "--listen", f"127.0.0.1:{PORT}", "--peer-listen", "127.0.0.1:0"]
    return Served(command, place, env)


def npm(bench):
    server = bench.tools.npm_tracker
    if not server:
        raise BenchError("node and npm are needed for it")
    return Served(["node", os.path.join(HERE, "tracker.mjs"), server, str(PORT)], bench.place, dict(os.environ))


def load(bench, what, seconds, **options):
    """One run of the load generator."""
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [bench.tools.tracker_load, what, f"127.0.0.1:{PORT}", "--seconds", str(seconds), *flags]
    said = json.loads(run(command, seconds + 700, bench.place.space))
    if said["errors"] > said["answers"] / 100:
        raise BenchError(f"{said['errors']} errors beside {said['answers']} answers")
    return said


def trackers(bench):
    subjects = {"wtfs": hub, RIVAL: npm}
    for _ in range(bench.options.turns):
        for subject, start in subjects.items():
            announces(bench, subject, start)
    for subject, start in subjects.items():
        memory(bench, subject, start)
        sockets(bench, subject, start)


def announces(bench, subject, start):
    row = bench.results.row
    protocols = {"http": "HTTP", "udp": "UDP", "ws": "web sockets, each with 2 offers"}
    clients = {"http": 64, "udp": 64, "ws": 2000}
    for what, name in protocols.items():
        target = 10 if what == "ws" else None
        rate = row(f"trackers-{what}", f"announces over {name}", "/s", "more", rival=RIVAL, target=target)
        cost = row(f"trackers-{what}-cpu", f"processor time of an announce over {name}", "us", "less", rival=RIVAL)

        def once(what=what, rate=rate, cost=cost):
            with start(bench) as tracker:
                used = tracker.process.cpu_s()
                said = load(bench, what, bench.options.load_seconds, clients=clients[what])
                bench.add(rate, subject, said["per_second"])
                bench.add(cost, subject, (tracker.process.cpu_s() - used) / said["answers"] * 1e6)

        bench.measure(subject, [rate, cost], once)


def memory(bench, subject, start):
    row = bench.results.row("trackers-peers", "memory of 100,000 peers in 1,000 torrents", "MB", "less", rival=RIVAL)

    def once():
        with start(bench) as tracker:
            # The first few bring in what is needed for any.
            load(bench, "fill", 1, peers=1000)
            before = tracker.process.rss_mb()
            load(bench, "fill", 1, peers=100_000)
            bench.add(row, subject, tracker.process.rss_mb() - before)

    bench.measure(subject, [row], once)


def sockets(bench, subject, start):
    count = bench.options.socket_count
    row = bench.results.row
    memory = row("trackers-sockets", f"memory of {count:,} web sockets", "MB", "less", rival=RIVAL)
    opening = row("trackers-opening", f"{count:,} web sockets: opened and announced once each", "s", "less", rival=RIVAL)
    waits = row("trackers-waits", f"an announce over HTTP beside {count:,} web sockets, p99", "ms", "less", rival=RIVAL)

    def once():
        with start(bench) as tracker:
            before = tracker.process.rss_mb()
            command = [bench.tools.tracker_load, "hold", f"127.0.0.1:{PORT}", "--clients", str(count)]
            with JsonProcess(command, bench.place.log("hold"), bench.place.space) as held:
                if held.ready["open"] < count or held.ready["answers"] < count:
                    raise BenchError(f"of {count} sockets {held.ready['open']} opened, {held.ready['answers']} answered")
                bench.add(opening, subject, held.ready["seconds"])
                bench.add(memory, subject, tracker.process.rss_mb() - before)
                said = load(bench, "http", 3, clients=1)
                bench.add(waits, subject, said["p99_us"] / 1e3)

    bench.measure(subject, [memory, opening, waits], once)
