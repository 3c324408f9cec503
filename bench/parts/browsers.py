"""Data channels to a browser: a mount reads what a tab of Chromium has, and a tab downloads what a seed has (webtorrent.js)."""

import contextlib
import os
import shutil
import subprocess

from . import channels, tools
from .clients import Wtfs
from .cold import MIB, rate
from .paths import Path
from .processes import BenchError, JsonProcess, read

CASES = {"0ms": ("no delay", 0), "20ms": ("20 ms round trip", 10)}
# What a tab is given to seed is all in its memory.
SIZE_MAX = 64 * MIB


class Chromium(JsonProcess):
    """The driver of the end-to-end tests with its Chromium, in a network namespace."""

    def __init__(self, bench, space):
        here = os.path.join(tools.ROOT, "tests", "support", "browser")
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/root"), ".cache")
        playwright = os.path.join(cache, "wtfs-test", "node", "node_modules", "playwright-core", "index.mjs")
        webtorrent = os.path.join(tools.ROOT, "web", "node_modules", "webtorrent", "dist", "webtorrent.min.js")
        chromium = shutil.which("chromium")
        for part in (playwright, webtorrent, chromium):
            if not part or not os.path.exists(part):
                raise BenchError("Chromium, playwright-core or webtorrent is missing: scripts/setup test installs them")
        home = bench.place.dir("chromium")
        env = {"PATH": os.environ["PATH"], "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        command = ["node", os.path.join(here, "driver.mjs"), playwright, chromium, webtorrent, here]
        super().__init__(command, bench.place.log("chromium"), space, env=env)
        self.count = 0

    def tell(self, command, within=120, **options):
        self.count += 1
        said = self.ask(within, id=self.count, command=command, **options)
        if "error" in said:
            raise BenchError(f"{command}: {said['error']}")
        return said["ok"]

    def __exit__(self, *_):
        # It ends Chromium when nobody will ask any more.
        self.child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(20)
        self.end()


def browsers(bench):
    torrent = bench.torrent(min(bench.options.size, SIZE_MAX))
    for key, (title, delay_ms) in CASES.items():
        row = bench.results.row
        limit = 10 if key == "20ms" else None
        up = row(f"chromium-up-{key}", f"a mount reads what a tab of Chromium has, {title}", "MB/s", "more", limit=limit)
        down = row(f"chromium-down-{key}", f"a tab of Chromium downloads from `wtfs seed`, {title}", "MB/s", "more")

        def over(way, delay_ms=delay_ms, up=up, down=down):
            with Path(bench.tools, bench.place, delay_ms, 0.0, "cubic", 1) as path:
                near, far = path.near_address, path.far_addresses[0]
                tracker = f"ws://{far}:7070/announce"
                with channels.hub(bench, f"{far}:7070", path.far), Chromium(bench, path.near) as chromium:
                    if way == "up":
                        tab = {"role": "seed", "data": torrent.data}
                        chromium.tell("open", tab="a", torrent=torrent.path, trackers=[tracker], **tab)
                        flags = ["--tracker", tracker]
                        with Wtfs(bench.tools, bench.place, [torrent.path], [], listen=f"{far}:7100", space=path.far, flags=flags) as mount:
                            mount.wait_connected(1, 60)
                            channels.check_kind(mount, "webrtc")
                            seconds = bench.options.path_seconds
                            said = read(mode="sequential", path=mount.path(torrent), seconds=seconds, within=seconds + 120)
                            bench.add(up, "wtfs", rate(said["bytes"], said["seconds"]))
                        return
                    with channels.seed(bench, torrent, f"{far}:7000", path.far, ["--tracker", tracker]):
                        chromium.tell("open", tab="a", role="leech", torrent=torrent.path, trackers=[tracker])
                        said = chromium.tell("done", within=300, tab="a")["transfer"]
                        bench.add(down, "wtfs", rate(said["bytes"], said["seconds"]))

        for _ in range(bench.options.turns):
            bench.measure("wtfs", [up], lambda over=over: over("up"))
            bench.measure("wtfs", [down], lambda over=over: over("down"))
