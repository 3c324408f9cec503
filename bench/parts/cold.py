"""Reading what is not there yet, and reading it again: wtfs, libtorrent's own download, btfs and rqbit, in turn."""

import os

from . import content
from .clients import Btfs, Leecher, Rqbit, Seeders, Wtfs
from .processes import BenchError, read

MIB = 1 << 20
BLOCK = 16384
# Below it the daemon cannot have copied the data: the kernel read the cached file by itself.
PASSTHROUGH_S_PER_GB = 0.03


def rate(bytes_, seconds):
    return bytes_ / 1e6 / seconds


class Bench:
    """What all rows are made with."""

    def __init__(self, tools, place, results, options):
        self.tools, self.place, self.results, self.options = tools, place, results, options
        self._torrents = {}

    def torrent(self, size=None, version="v1", piece_bytes=MIB):
        size = size or self.options.size
        key = (size, version, piece_bytes)
        if key not in self._torrents:
            data = os.path.join(self.place.scratch, f"random-{size // MIB}.bin")
            if not os.path.exists(data):
                content.random_file(data, size)
            out = f"{data}.{version}.{piece_bytes}.torrent"
            self._torrents[key] = content.make(self.tools, data, out, piece_bytes, version)
        # What earlier rows wrote must not be flushed on this one's time.
        os.sync()
        return self._torrents[key]

    def measure(self, subject, rows, what):
        """Runs one measurement; where it cannot be made, each of its rows says so and the run goes on."""
        try:
            what()
        except (BenchError, OSError, ValueError, KeyError) as error:
            text = str(error) or type(error).__name__
            self.options.say(f"{subject}: {text}")
            for row in rows:
                if subject not in row.samples:
                    row.failures.setdefault(subject, []).append(text)

    @staticmethod
    def add(row, subject, value):
        row.samples.setdefault(subject, []).append(value)
        row.failures.pop(subject, None)


def given(seeders, size):
    """Of the seeder's whole life, since some rivals begin to fetch before anybody reads."""
    totals = seeders.counters()
    return totals["requests"] / (size / BLOCK), max(0, totals["uploaded_bytes"] - size) / 1e6


def sequential(bench):
    """The main row, with what it cost, and the same data again from what is local then."""
    row = bench.results.row
    size = f"{bench.options.size // MIB} MiB, 1 MiB pieces"
    cold = row("cold", f"cold sequential read, {size}", "MB/s", "more", rival="libtorrent", target=1.0)
    begun = row("cold-begun", "the same, from the start of the program to the last byte", "s", "less")
    gap = row("gap", "its longest wait for 1 MiB", "ms", "less")
    peak = row("peak", "peak memory while doing so", "MB", "less", rival="libtorrent", limit=150)
    cpu = row("cpu", "processor time for it", "s/GB", "less", rival="libtorrent", target=1.0)
    asked = row("requests", "requests sent, per block of 16 KiB", "", "less", rival="libtorrent")
    wasted = row("wasted", "bytes received beyond the file's", "MB", "less", rival="libtorrent")
    again = row("again", "the same again, same mount (the kernel's pages)", "MB/s", "more", rival="native")
    local = row("local", "the same again, pages of the mount dropped", "MB/s", "more", rival="native", target=0.5)
    anew = row("anew", "the same again after a new mount", "MB/s", "more", rival="native", target=0.5)
    through = row("local-through", "the same through the daemon (--no-passthrough)", "MB/s", "more", rival="native", target=0.5)
    own = row("local-cpu", "processor time of the daemon for that", "s/GB", "less")
    restart = row("restart", "start of that mount", "s", "less")
    torrent = bench.torrent()
    fetched = [cold, peak, cpu, asked, wasted]

    def costs(subject, process, before_cpu, seeders, size):
        bench.add(peak, subject, process.peak_mb())
        bench.add(cpu, subject, (process.cpu_s() - before_cpu) / (size / 1e9))
        ratio, more = given(seeders, size)
        bench.add(asked, subject, ratio)
        bench.add(wasted, subject, more)

    def file_again(subject, path):
        said = read(mode="sequential", path=path, original=torrent.data)
        return rate(said["bytes"], said["seconds"])

    def ours():
        cache = bench.place.dir("cache")
        with Seeders(bench.tools, bench.place, torrent) as seeders:
            with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses, cache=cache) as mount:
                mount.wait_connected(1)
                mount.process.forget_peak()
                used = mount.process.cpu_s()
                said = read(mode="sequential", path=mount.path(torrent), original=torrent.data)
                expect_all(said, torrent)
                bench.add(gap, "wtfs", said["longest_s"] * 1e3)
                bench.add(cold, "wtfs", rate(said["bytes"], said["seconds"]))
                bench.add(begun, "wtfs", mount.start_s + said["seconds"])
                costs("wtfs", mount.process, used, seeders, torrent.size)
                bench.add(again, "wtfs", file_again("wtfs", mount.path(torrent)))
                drop_pages(mount.path(torrent))
                bench.add(local, "wtfs", file_again("wtfs", mount.path(torrent)))
        with Wtfs(bench.tools, bench.place, [torrent.path], cache=cache) as mount:
            bench.add(restart, "wtfs", mount.start_s)
            used = mount.process.cpu_s()
            bench.add(anew, "wtfs", file_again("wtfs", mount.path(torrent)))
            bench.add(own, "wtfs", (mount.process.cpu_s() - used) / (torrent.size / 1e9))
        with Wtfs(bench.tools, bench.place, [torrent.path], cache=cache, flags=["--no-passthrough"]) as mount:
            bench.add(through, "wtfs", file_again("wtfs", mount.path(torrent)))
        if own.value("wtfs") < PASSTHROUGH_S_PER_GB:
            anew.target = local.target = 0.95
        native = os.path.join(bench.place.scratch, "native.bin")
        bench.options.run(["cp", torrent.data, native], 120)
        file_again("native", native)
        speed = file_again("native", native)
        for one in (again, local, anew, through):
            bench.add(one, "native", speed)
        os.unlink(native)
        bench.options.run(["rm", "-rf", cache], 60)

    def libtorrent():
        with Seeders(bench.tools, bench.place, torrent) as seeders, Leecher(bench.tools, bench.place) as leecher:
            leecher.process.forget_peak()
            used = leecher.process.cpu_s()
            said = leecher.download(torrent, seeders.addresses)
            expect_all(said, torrent)
            bench.add(cold, "libtorrent", rate(said["bytes"], said["seconds"]))
            costs("libtorrent", leecher.process, used, seeders, torrent.size)

    def btfs():
        with Seeders(bench.tools, bench.place, torrent) as seeders:
            with Btfs(bench.tools, bench.place, torrent, seeders.addresses) as mount:
                mount.process.forget_peak()
                used = mount.process.cpu_s()
                path = os.path.join(mount.dir, torrent.name)
                # As a whole it would take minutes: so much of it as this time gives is enough for a rate.
                said = read(mode="sequential", path=path, seconds=bench.options.slow_seconds)
                bench.add(cold, "btfs", rate(said["bytes"], said["seconds"]))
                bench.add(peak, "btfs", mount.process.peak_mb())
                bench.add(cpu, "btfs", (mount.process.cpu_s() - used) / (said["bytes"] / 1e9))
                if said["bytes"] == torrent.size:
                    ratio, more = given(seeders, torrent.size)
                    bench.add(asked, "btfs", ratio)
                    bench.add(wasted, "btfs", more)
                    said = read(mode="sequential", path=path, seconds=bench.options.slow_seconds)
                    bench.add(local, "btfs", rate(said["bytes"], said["seconds"]))

    def rqbit():
        with Seeders(bench.tools, bench.place, torrent) as seeders:
            with Rqbit(bench.tools, bench.place, torrent, seeders.addresses) as server:
                used = server.process.cpu_s()
                said = read(mode="http", url=server.url, space=bench.place.space)
                expect_all(said, torrent)
                bench.add(cold, "rqbit", rate(said["bytes"], said["seconds"]))
                costs("rqbit", server.process, used, seeders, torrent.size)

    for turn in range(bench.options.turns):
        bench.measure("wtfs", [*fetched, begun, again, local, anew, through, own, restart], ours)
        bench.measure("libtorrent", fetched, libtorrent)
        if bench.tools.rqbit:
            bench.measure("rqbit", fetched, rqbit)
        if bench.tools.btfs and turn == 0:
            bench.measure("btfs", fetched, btfs)


def expect_all(said, torrent):
    if said["bytes"] != torrent.size:
        raise BenchError(f"{said['bytes']} of {torrent.size} bytes in {said['seconds']:.1f} s")


def drop_pages(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def random_reads(bench):
    """4 KiB at places in pieces that were never touched: what a seek costs."""
    row = bench.results.row
    p50 = row("random-p50", "cold random 4 KiB, median, v1 pieces of 1 MiB", "ms", "less", rival="btfs", limit=2.5)
    p99 = row("random-p99", "the same, 99th percentile", "ms", "less", rival="btfs", limit=10)
    fetched = row("random-bytes", "bytes fetched for each read", "KiB", "less", rival="btfs")
    v2_p50 = row("random-v2-p50", "cold random 4 KiB, median, v2 pieces of 1 MiB", "ms", "less", limit=1)
    v2_p99 = row("random-v2-p99", "the same, 99th percentile", "ms", "less", limit=5)
    count = bench.options.samples

    def keep(subject, rows, said, seeders):
        bench.add(rows[0], subject, said["p50_ms"])
        bench.add(rows[1], subject, said["p99_ms"])
        if len(rows) > 2:
            bench.add(rows[2], subject, seeders.counters()["uploaded_bytes"] / said["count"] / 1024)

    def ours(torrent, rows):
        with Seeders(bench.tools, bench.place, torrent, checked=True) as seeders:
            with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses) as mount:
                mount.wait_connected(1)
                said = read(mode="random", path=mount.path(torrent), original=torrent.data, count=count, piece_bytes=MIB)
                keep("wtfs", rows, said, seeders)

    def btfs(torrent, rows):
        with Seeders(bench.tools, bench.place, torrent, checked=True) as seeders:
            with Btfs(bench.tools, bench.place, torrent, seeders.addresses) as mount:
                said = read(
                    mode="random", path=os.path.join(mount.dir, torrent.name), original=torrent.data, count=count,
                    piece_bytes=MIB, seconds=bench.options.slow_seconds)
                keep("btfs", rows, said, seeders)

    def rqbit(torrent, rows):
        with Seeders(bench.tools, bench.place, torrent, checked=True) as seeders:
            with Rqbit(bench.tools, bench.place, torrent, seeders.addresses) as server:
                said = read(
                    mode="http-random", url=server.url, original=torrent.data, count=count, piece_bytes=MIB,
                    size=torrent.size, space=bench.place.space)
                keep("rqbit", rows, said, seeders)

    v1 = bench.torrent()
    rows = [p50, p99, fetched]
    bench.measure("wtfs", rows, lambda: ours(v1, rows))
    if bench.tools.btfs:
        bench.measure("btfs", rows, lambda: btfs(v1, rows))
    if bench.tools.rqbit:
        bench.measure("rqbit", rows, lambda: rqbit(v1, rows))
    v2 = bench.torrent(version="v2")
    v2_rows = [v2_p50, v2_p99, row("random-v2-bytes", "bytes fetched for each read, v2", "KiB", "less")]
    bench.measure("wtfs", v2_rows, lambda: ours(v2, v2_rows))


def seeders_count(bench):
    """The cold sequential read from 1, 4 and 30 seeders."""
    torrent = bench.torrent()
    for count in bench.options.seeder_counts:
        row = bench.results.row(
            f"seeders-{count}", f"cold sequential read from {count} seeders", "MB/s", "more", rival="libtorrent",
            target=1.0)

        def ours(count=count, row=row):
            with Seeders(bench.tools, bench.place, torrent, count=count) as seeders:
                with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses) as mount:
                    mount.wait_connected(count)
                    said = read(mode="sequential", path=mount.path(torrent), original=torrent.data)
                    expect_all(said, torrent)
                    bench.add(row, "wtfs", rate(said["bytes"], said["seconds"]))

        def libtorrent(count=count, row=row):
            with Seeders(bench.tools, bench.place, torrent, count=count) as seeders:
                with Leecher(bench.tools, bench.place) as leecher:
                    said = leecher.download(torrent, seeders.addresses)
                    expect_all(said, torrent)
                    bench.add(row, "libtorrent", rate(said["bytes"], said["seconds"]))

        for _ in range(bench.options.turns):
            bench.measure("wtfs", [row], ours)
            bench.measure("libtorrent", [row], libtorrent)
