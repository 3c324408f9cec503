"""Several mounts that read the same repository through one hub at once, where the hub's link is the narrow one: how much of
it the mounts give each other."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

from . import content
from .clients import Wtfs
from .lan import Lan
from .processes import BenchError, read, run

READERS = 3
MB = 1000 * 1000
HUB_RATE = 20 * MB
READER_RATE = 10 * HUB_RATE
PORT = 8080


class Rows:
    """The rows of one state of the hub."""

    def __init__(self, bench, key, state, rival, size):
        row = bench.results.row
        self.seconds = row(
            key, f"{READERS} mounts read one file of {size // MB} MB at once through one hub, {state}; its link "
            f"{HUB_RATE // MB} MB/s, theirs {READER_RATE // MB}", "s", "less", rival=rival)
        self.sent = row(f"{key}-sent", "the same: copies that the hub sent", "copies", "less", limit=READERS - 1)
        self.upstream = row(f"{key}-upstream", "the same: copies that came from upstream in all", "copies", "less", limit=1.1)
        self.all = [self.seconds, self.sent, self.upstream]


class World:
    """A hub on the first machine, its origin beside it, readers on the others."""

    def __init__(self, bench, lan, hub, path):
        self.bench, self.lan, self.hub, self.path = bench, lan, hub, path
        self.size = os.path.getsize(path)

    def url(self, repo, name):
        return f"{self.hub.url}/{repo}/resolve/main/{name}"

    def warm(self, url):
        # From the hub's own machine: that does not go over its link.
        run(["curl", "-sS", "--fail", "--noproxy", "*", "-o", "/dev/null", url], 600, self.lan.machines[0])

    def upstream_bytes(self):
        stats = ["curl", "-sS", "--fail", "--noproxy", "*", f"{self.hub.url}/hf-stats"]
        return json.loads(run(stats, 60, self.lan.machines[0]))["upstream_bytes"]

    def together(self, one):
        """Does it for each reader at once; seconds until the last is done, and what the hub sent meanwhile."""
        before, began = self.lan.sent_bytes(0), time.monotonic()
        with ThreadPoolExecutor(READERS) as pool:
            for done in [pool.submit(one, at) for at in range(1, READERS + 1)]:
                done.result()
        took = time.monotonic() - began
        return took, self.lan.sent_bytes(0) - before


def mounts(world, rows, repo, name):
    """Fresh mounts read all of it."""
    bench, lan = world.bench, world.lan
    running = []
    try:
        for at in range(1, READERS + 1):
            flags = dict(listen=f"{lan.addresses[at]}:6881", space=lan.machines[at])
            mount = Wtfs(bench.tools, bench.place, [f"{world.hub.url}/hf"], **flags)
            running.append(mount)
            run(["ls", os.path.join(mount.dir, repo)], 60)

        def one(at):
            path = os.path.join(running[at - 1].dir, repo, name)
            said = read(mode="sequential", path=path, original=world.path, within=600)
            if said["bytes"] != world.size:
                raise BenchError(f"{said['bytes']} bytes were read instead of {world.size}")
        took, sent = world.together(one)
    finally:
        for mount in running:
            mount.__exit__()
    bench.add(rows.seconds, "wtfs", took)
    bench.add(rows.sent, "wtfs", sent / world.size)
    bench.add(rows.upstream, "wtfs", world.upstream_bytes() / world.size)


def downloads(world, rows, repo, name):
    """The same file by clients that know nothing of each other."""
    def one(at):
        run(["curl", "-sS", "--fail", "--noproxy", "*", "-o", "/dev/null", world.url(repo, name)], 600, world.lan.machines[at])
    took, sent = world.together(one)
    world.bench.add(rows.seconds, "hub alone", took)
    world.bench.add(rows.sent, "hub alone", sent / world.size)


def sharing(bench, origin_of, hub_of, repo, name):
    """The rows. `origin_of` and `hub_of` start those."""
    size = min(bench.options.size, 500 * MB)
    there = Rows(bench, "hf-three", "which has it", "hub alone", size)
    cold = Rows(bench, "hf-three-cold", "which has nothing", None, size)
    folder = bench.place.dir("origin")
    path = os.path.join(folder, "models", repo, name)
    os.makedirs(os.path.dirname(path))
    content.random_file(path, size)
    try:
        with Lan([HUB_RATE] + [READER_RATE] * READERS) as lan:
            machine, address = lan.machines[0], lan.addresses[0]

            def with_hub(what, rows, subject):
                def one():
                    with origin_of(bench, folder, space=machine) as origin:
                        with hub_of(bench, origin, f"{address}:{PORT}", f"{address}:6881", machine) as hub:
                            what(World(bench, lan, hub, path))
                bench.measure(subject, rows.all, one)

            def each_alone(world):
                world.warm(world.url(repo, name))
                downloads(world, there, repo, name)

            def together(world):
                world.warm(world.url(repo, name))
                mounts(world, there, repo, name)

            with_hub(each_alone, there, "hub alone")
            for _ in range(bench.options.turns):
                with_hub(together, there, "wtfs")
                with_hub(lambda world: mounts(world, cold, repo, name), cold, "wtfs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
