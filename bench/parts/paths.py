"""Reading over a long path, with and without loss: two namespaces joined by the testkit's path emulator."""

import os
import signal
import time

from .clients import Leecher, Seeders, Wtfs
from .cold import rate
from .processes import JsonProcess, Namespace, read

# What it is, one-way delay in ms, loss in each direction, congestion control of both ends, seeders at the far end.
CASES = {
    "20ms-cubic": ("20 ms round trip, cubic", 10, 0.0, "cubic", 1),
    "20ms-bbr": ("20 ms round trip, bbr", 10, 0.0, "bbr", 1),
    "20ms-loss-cubic": ("20 ms and 1 % loss each way, cubic", 10, 0.01, "cubic", 1),
    "20ms-loss-cubic-30": ("20 ms and 1 % loss each way, cubic, 30 seeders", 10, 0.01, "cubic", 30),
    "20ms-loss-bbr": ("20 ms and 1 % loss each way, bbr", 10, 0.01, "bbr", 1),
}


class Path:
    """The emulator while it runs, and the two namespaces it joins."""

    def __init__(self, tools, place, delay_ms, loss, congestion, hosts, seed=1, more=()):
        command = [
            tools.emulator, "--delay-ms", str(delay_ms), "--loss", str(loss), "--congestion", congestion, "--seed",
            str(seed), "--hosts", str(hosts), *more]
        self.process = JsonProcess(command, place.log("path"), die=signal.SIGTERM)
        near, far = self.process.ready["ends"]
        self.near, self.far = Namespace(near["namespace"]), Namespace(far["namespace"])
        self.near_address, self.far_addresses = near["addresses"][0], far["addresses"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        # Its keeper takes the namespaces away a moment later; waited for, so that a run that ends leaves none.
        end = time.monotonic() + 5
        names = [f"/run/netns/{space.name}" for space in (self.near, self.far)]
        while any(map(os.path.exists, names)) and time.monotonic() < end:
            time.sleep(0.01)


def slow_paths(bench):
    """A cold sequential read for so long, and libtorrent's download for as long, over each path in turn."""
    torrent = bench.torrent(bench.options.path_bytes)
    seconds = bench.options.path_seconds
    for key in bench.options.path_cases:
        title, *how = CASES[key]
        count = how[-1]
        row = bench.results.row(f"path-{key}", f"cold sequential read, {title}", "MB/s", "more", rival="libtorrent", target=1.0)
        used = bench.results.row(f"path-{key}-cpu", "processor time for it", "s/GB", "less", rival="libtorrent")
        seek = bench.results.row(f"path-{key}-seek", "cold random 4 KiB there, median", "ms", "less")

        def ours(path, seeders, row=row, used=used, count=count):
            listen = f"{path.near_address}:7100"
            flags = dict(listen=listen, space=path.near)
            with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses, **flags) as mount:
                mount.wait_connected(count)
                before = mount.process.cpu_s()
                said = read(mode="sequential", path=mount.path(torrent), seconds=seconds, within=seconds + 60)
                bench.add(row, "wtfs", rate(said["bytes"], said["seconds"]))
                bench.add(used, "wtfs", (mount.process.cpu_s() - before) / (said["bytes"] / 1e9))

        def seeks(path, seeders, seek=seek, count=count):
            listen = f"{path.near_address}:7300"
            flags = dict(listen=listen, space=path.near)
            with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses, **flags) as mount:
                mount.wait_connected(count)
                said = read(
                    mode="random", path=mount.path(torrent), original=torrent.data, count=30, seconds=seconds,
                    piece_bytes=torrent.piece_bytes, within=seconds + 90)
                bench.add(seek, "wtfs", said["p50_ms"])

        def libtorrent(path, seeders, row=row, used=used):
            listen = f"{path.near_address}:7200"
            with Leecher(bench.tools, bench.place, listen=listen, space=path.near) as leecher:
                before = leecher.process.cpu_s()
                said = leecher.download(torrent, seeders.addresses, seconds)
                bench.add(row, "libtorrent", rate(said["bytes"], said["seconds"]))
                bench.add(used, "libtorrent", (leecher.process.cpu_s() - before) / (said["bytes"] / 1e9))

        def one(what, how=how):
            with Path(bench.tools, bench.place, *how) as path:
                listen = [f"{address}:7000" for address in path.far_addresses]
                with Seeders(bench.tools, bench.place, torrent, listen=listen, space=path.far) as seeders:
                    what(path, seeders)

        for _ in range(bench.options.turns):
            bench.measure("wtfs", [row, used], lambda one=one, ours=ours: one(ours))
            bench.measure("wtfs", [seek], lambda one=one, seeks=seeks: one(seeks))
            bench.measure("libtorrent", [row, used], lambda one=one, libtorrent=libtorrent: one(libtorrent))
