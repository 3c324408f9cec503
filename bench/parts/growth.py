"""How cost grows with torrents, files, pieces and open readers; wtfs alone, each against its own smaller self."""

import os
import time

from . import content
from .clients import Seeders, Wtfs
from .cold import MIB, expect_all, rate
from .processes import read, run


def timed(command, within=120):
    start = time.monotonic()
    run(command, within)
    return time.monotonic() - start


def torrents(bench):
    """1 to 1,000 torrents mounted that nobody has and nobody reads."""
    folder = bench.place.dir("idle")
    paths = [
        content.small_torrent(os.path.join(folder, f"{n:05}.torrent"), n) for n in range(max(bench.options.torrent_counts))
    ]
    for count in bench.options.torrent_counts:
        is_many = count == 1000
        row = bench.results.row
        start = row(f"torrents-{count}-start", f"{count} torrents: start", "s", "less")
        memory = row(f"torrents-{count}-rss", f"{count} torrents: memory", "MB", "less", limit=200 if is_many else None)
        idle = row(
            f"torrents-{count}-cpu", f"{count} torrents: processor while idle", "% of a core", "less",
            limit=1 if is_many else None)
        names = row(f"torrents-{count}-names", f"{count} torrents: `ls`", "ms", "less", limit=50 if is_many else None)
        listing = row(f"torrents-{count}-ls", f"{count} torrents: `ls -l`", "ms", "less")
        stop = row(f"torrents-{count}-stop", f"{count} torrents: end", "s", "less")

        def ours(count=count, start=start, memory=memory, idle=idle, names=names, listing=listing, stop=stop):
            mount = Wtfs(bench.tools, bench.place, paths[:count])
            with mount:
                bench.add(start, "wtfs", mount.start_s)
                bench.add(names, "wtfs", timed(["ls", mount.dir]) * 1e3)
                bench.add(listing, "wtfs", timed(["ls", "-l", mount.dir]) * 1e3)
                # What starting began may still be under way: idle is what comes after it.
                time.sleep(2)
                used = mount.process.cpu_s()
                time.sleep(bench.options.idle_seconds)
                bench.add(idle, "wtfs", (mount.process.cpu_s() - used) / bench.options.idle_seconds * 100)
                bench.add(memory, "wtfs", mount.process.rss_mb())
                began = time.monotonic()
                mount.process.end(60)
                bench.add(stop, "wtfs", time.monotonic() - began)

        bench.measure("wtfs", [start, memory, idle, names, listing, stop], ours)


def files(bench):
    """One torrent of 10 to 60,000 files."""
    folder = bench.place.dir("files")
    for count in bench.options.file_counts:
        path = content.many_files(os.path.join(folder, f"{count}.torrent"), count)
        row = bench.results.row
        start = row(f"files-{count}-start", f"{count:,} files: start", "s", "less")
        memory = row(f"files-{count}-rss", f"{count:,} files: memory", "MB", "less")
        find = row(f"files-{count}-find", f"{count:,} files: `find`", "s", "less")
        long = row(f"files-{count}-ls", f"{count:,} files: `ls -lR`", "s", "less")

        def ours(path=path, start=start, memory=memory, find=find, long=long, count=count):
            with Wtfs(bench.tools, bench.place, [path]) as mount:
                bench.add(start, "wtfs", mount.start_s)
                bench.add(find, "wtfs", timed(["find", mount.dir]))
                bench.add(long, "wtfs", timed(["ls", "-lR", mount.dir]))
                bench.add(memory, "wtfs", mount.process.rss_mb())

        bench.measure("wtfs", [start, memory, find, long], ours)


def pieces(bench):
    """One file of 1,000 to 100,000 pieces of 16 KiB."""
    for count in bench.options.piece_counts:
        row = bench.results.row
        start = row(f"pieces-{count}-start", f"{count:,} pieces: start", "s", "less")
        speed = row(f"pieces-{count}-cold", f"{count:,} pieces: cold sequential read", "MB/s", "more")
        memory = row(f"pieces-{count}-peak", f"{count:,} pieces: peak memory", "MB", "less")
        used = row(f"pieces-{count}-cpu", f"{count:,} pieces: processor time", "s/GB", "less")

        def ours(count=count, start=start, speed=speed, memory=memory, used=used):
            torrent = content.zeros(bench.tools, bench.place.scratch, count)
            with Seeders(bench.tools, bench.place, torrent) as seeders:
                with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses) as mount:
                    bench.add(start, "wtfs", mount.start_s)
                    mount.wait_connected(1)
                    before = mount.process.cpu_s()
                    said = read(mode="sequential", path=mount.path(torrent), original=torrent.data)
                    expect_all(said, torrent)
                    bench.add(speed, "wtfs", rate(said["bytes"], said["seconds"]))
                    bench.add(memory, "wtfs", mount.process.peak_mb())
                    bench.add(used, "wtfs", (mount.process.cpu_s() - before) / (torrent.size / 1e9))
            os.unlink(torrent.data)

        bench.measure("wtfs", [start, speed, memory, used], ours)


def readers(bench):
    """One file read through 1 to 1,000 handles at once, each a stretch of its own, all cold."""
    torrent = bench.torrent(min(bench.options.size, 512 * MIB))
    for count in bench.options.reader_counts:
        row = bench.results.row
        speed = row(f"readers-{count}-cold", f"{count:,} readers: cold read in all", "MB/s", "more")
        worst = row(f"readers-{count}-worst", f"{count:,} readers: longest read", "s", "less")
        memory = row(f"readers-{count}-peak", f"{count:,} readers: peak memory", "MB", "less", limit=150)

        def ours(count=count, speed=speed, worst=worst, memory=memory):
            with Seeders(bench.tools, bench.place, torrent) as seeders:
                with Wtfs(bench.tools, bench.place, [torrent.path], seeders.addresses) as mount:
                    mount.wait_connected(1)
                    said = read(mode="many", path=mount.path(torrent), readers=count)
                    bench.add(speed, "wtfs", rate(said["bytes"], said["seconds"]))
                    bench.add(worst, "wtfs", said["worst_read_s"])
                    bench.add(memory, "wtfs", mount.process.peak_mb())

        bench.measure("wtfs", [speed, worst, memory], ours)
