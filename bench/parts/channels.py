"""Data channels (WebRTC) beside TCP: the same seed and mount, which meet at a hub's WebSocket tracker or are told of each other."""

import os
import time

from . import content
from .clients import Wtfs, wait_for
from .cold import MIB, rate
from .paths import Path
from .processes import BenchError, Process, read

# What it is, one-way delay in ms; without one it is loopback.
CASES = {"0ms": ("loopback", None), "20ms": ("20 ms round trip", 10)}


class Running:
    """A command of wtfs that says when it serves, with a home of its own."""

    def __init__(self, bench, name, words, space, ready):
        place = bench.place
        self.home = place.dir(name)
        env = {key: self.home for key in ("HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")}
        # All have few addresses here, for which no limit for each is made; and nobody waits for minutes to meet.
        env.update(PATH=os.environ["PATH"], WTFS_HUB_WEBSOCKET_INTERVAL="30s", WTFS_HUB_ANNOUNCE_RATE="0")
        self.process = Process([bench.tools.wtfs, *words], place.log(name), space, env=env)

        def is_ready():
            with open(self.process.log, encoding="utf-8", errors="replace") as file:
                return any(line.startswith(ready) for line in file)

        try:
            wait_for(is_ready, 120, name, self.process)
        except BaseException:
            self.process.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()


def hub(bench, address, space):
    words = ["serve", "--listen", address, "--peer-listen", f"{address.rpartition(':')[0]}:0", "--no-webrtc", "--no-hf"]
    return Running(bench, "hub", words, space, "serving at ")


def seed(bench, torrent, address, space, flags):
    words = ["seed", "--listen", address, *flags, torrent.path, torrent.save]
    return Running(bench, "seed", words, space, "seeding ")


def transfers(bench):
    """A cold sequential read from one wtfs by another, over a data channel and over TCP, in turn."""
    torrent = bench.torrent(min(bench.options.size, 256 * MIB))
    for key, (title, delay_ms) in CASES.items():
        row = bench.results.row
        limit = 100 if key == "0ms" else None
        speed = row(f"channel-{key}", f"cold sequential read over a data channel, {title}", "MB/s", "more", rival="TCP", limit=limit)
        used = row(f"channel-{key}-cpu", "processor time of both ends for it", "s/GB", "less", rival="TCP")
        gap = row(f"channel-{key}-gap", "its longest wait for 1 MiB", "ms", "less", rival="TCP")
        peak = row(f"channel-{key}-peak", "peak memory of the reader", "MB", "less", rival="TCP")
        rows = [speed, used, gap, peak]

        def one(subject, near, far, host, rows=rows):
            speed, used, gap, peak = rows
            ours, theirs = f"{host[0]}:7100", f"{host[1]}:7000"
            with hub(bench, f"{host[1]}:7070", far):
                if subject == "wtfs":
                    flags, peers = ["--tracker", f"ws://{host[1]}:7070/announce"], []
                else:
                    flags, peers = ["--no-webrtc"], [theirs]
                with seed(bench, torrent, theirs, far, flags) as seeding:
                    with Wtfs(bench.tools, bench.place, [torrent.path], peers, listen=ours, space=near, flags=flags) as mount:
                        mount.wait_connected(1, 60)
                        check_kind(mount, "webrtc" if subject == "wtfs" else "tcp")
                        before = mount.process.cpu_s() + seeding.process.cpu_s()
                        seconds = bench.options.path_seconds
                        said = read(mode="sequential", path=mount.path(torrent), seconds=seconds, within=seconds + 120)
                        spent = mount.process.cpu_s() + seeding.process.cpu_s() - before
                        bench.add(speed, subject, rate(said["bytes"], said["seconds"]))
                        bench.add(used, subject, spent / (said["bytes"] / 1e9))
                        bench.add(gap, subject, said["longest_s"] * 1e3)
                        bench.add(peak, subject, mount.process.peak_mb())

        def over(subject, one=one, delay_ms=delay_ms):
            if delay_ms is None:
                one(subject, bench.place.space, bench.place.space, ("127.0.0.1", "127.0.0.2"))
                return
            with Path(bench.tools, bench.place, delay_ms, 0.0, "cubic", 1) as path:
                one(subject, path.near, path.far, (path.near_address, path.far_addresses[0]))

        for _ in range(bench.options.turns):
            for subject in ("wtfs", "TCP"):
                bench.measure(subject, rows, lambda over=over, subject=subject: over(subject))


def check_kind(mount, kind):
    kinds = {peer["source"] for torrent in mount.status() for peer in torrent["peers"]}
    if kinds != {kind}:
        raise BenchError(f"connected over {', '.join(sorted(kinds)) or 'nothing'}, not {kind}")


def idle(bench):
    """Two mounts of many torrents that nobody has, connected in each of them, against one that is connected to nobody."""
    count = bench.options.channel_count
    row = bench.results.row
    each = row("channels-idle-each", f"{count} idle data channels: memory of each", "kB", "less")
    cpu = row("channels-idle-cpu", f"{count} idle data channels: processor", "% of a core", "less")
    meet = row("channels-idle-meet", f"{count} data channels: until all are open", "s", "less")
    folder = bench.place.dir("idle")
    paths = [content.small_torrent(os.path.join(folder, f"{n:05}.torrent"), n) for n in range(count)]

    def mount(*flags):
        return Wtfs(bench.tools, bench.place, paths, flags=flags)

    def ours():
        space = bench.place.space
        with mount("--no-webrtc") as alone:
            time.sleep(2)
            without = alone.process.rss_mb()
        with hub(bench, "127.0.0.2:7070", space):
            flags = ["--tracker", "ws://127.0.0.2:7070/announce"]
            with mount(*flags), mount(*flags) as second:
                began = time.monotonic()
                second.wait_connected(count, 120)
                bench.add(meet, "wtfs", time.monotonic() - began)
                # Offers that nobody answered any more are gone by then.
                time.sleep(55)
                bench.add(each, "wtfs", (second.process.rss_mb() - without) * 1000 / count)
                used = second.process.cpu_s()
                time.sleep(bench.options.idle_seconds)
                bench.add(cpu, "wtfs", (second.process.cpu_s() - used) / bench.options.idle_seconds * 100)

    bench.measure("wtfs", [each, cpu, meet], ours)


def channels(bench):
    transfers(bench)
    idle(bench)
