"""wtfs and its rivals, each started for one measurement at an address of its own and ended after it."""

import json
import os
import shutil
import time

from .processes import HERE, LIBC, BenchError, JsonProcess, Process, run

MNT_DETACH = 2


def mounted(path):
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return any(line.split()[4] == path for line in file)


def detach(path):
    """Takes a mount away without asking who uses it; nothing to do when there is none."""
    for _ in range(4):
        if not mounted(path):
            return
        LIBC.umount2(path.encode(), MNT_DETACH)


def wait_for(fact, seconds, what, process):
    end = time.monotonic() + seconds
    while not fact():
        if not process.runs():
            raise BenchError(f"{what}: ended early: {process.tail()}")
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {seconds} s: {process.tail()}")
        time.sleep(0.002)


class Place:
    """Scratch directories, loopback addresses and log names, no two alike."""

    def __init__(self, scratch, space):
        self.scratch, self.space, self.count = scratch, space, 0

    def number(self):
        self.count += 1
        return self.count

    def dir(self, name):
        path = os.path.join(self.scratch, f"{name}-{self.number()}")
        os.makedirs(path)
        return path

    def log(self, name):
        return os.path.join(self.scratch, f"{name}-{self.number()}.log")

    def address(self):
        # Clients keep one connection per address, so everybody gets one; all of 127.0.0.0/8 is local.
        n = self.number()
        return f"127.0.{1 + n // 250}.{1 + n % 250}:{6900 + n % 1000}"


class Seeders:
    """One or more libtorrent sessions in one process that all have the whole torrent; "checked" ones have hashed it."""

    def __init__(self, tools, place, torrent, listen=None, count=1, space=None, checked=False):
        self.addresses = listen or [place.address() for _ in range(count)]
        command = [tools.python, os.path.join(HERE, "lt.py"), "sessions", json.dumps({"listen": self.addresses})]
        self.process = JsonProcess(command, place.log("seeder"), space or place.space)
        self.process.ask(cmd="seed", torrent=torrent.path, save=torrent.save, checked=checked)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()

    def counters(self):
        return self.process.ask(cmd="counters")


class Leecher:
    """libtorrent downloading to disk."""

    def __init__(self, tools, place, listen=None, space=None):
        listen = listen or place.address()
        command = [tools.python, os.path.join(HERE, "lt.py"), "sessions", json.dumps({"listen": [listen]})]
        self.process = JsonProcess(command, place.log("leecher"), space or place.space)
        self.save = place.dir("saved")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        shutil.rmtree(self.save, ignore_errors=True)

    def download(self, torrent, peers, seconds=300):
        return self.process.ask(
            cmd="download", torrent=torrent.path, save=self.save, peers=peers, seconds=seconds, within=seconds + 60)


class Wtfs:
    """`wtfs mount` of some torrents, with its own cache unless one is given."""

    def __init__(self, tools, place, torrents, peers=(), cache=None, listen=None, space=None, flags=(), within=120):
        self.tools, self.place, self.space = tools, place, space or place.space
        self.dir, self.owns_cache = place.dir("mnt"), cache is None
        self.cache = cache or place.dir("cache")
        self.run_dir = place.dir("run")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": self.run_dir,
            "XDG_RUNTIME_DIR": self.run_dir,
            "XDG_STATE_HOME": self.run_dir,
            "XDG_CONFIG_HOME": self.run_dir,
            "RUST_LOG": os.environ.get("WTFS_BENCH_LOG", "warn"),
        }
        peer_flags = [word for peer in peers for word in ("--peer", peer)]
        command = [
            tools.wtfs, "mount", "--cache-dir", self.cache, "--listen", listen or place.address(), *peer_flags, *flags,
            *torrents, self.dir]
        self.process = Process(command, place.log("wtfs"), self.space, env=self.env)
        began = time.monotonic()
        try:
            wait_for(lambda: mounted(self.dir), within, "wtfs mount", self.process)
        except BaseException:
            self.__exit__()
            raise
        self.start_s = time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        detach(self.dir)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if self.owns_cache:
            shutil.rmtree(self.cache, ignore_errors=True)

    def path(self, torrent):
        return os.path.join(self.dir, torrent.name)

    def status_of_process(self):
        """What the process of this mount says; `None` while it does not answer. Others run on this machine too."""
        said = json.loads(run([self.tools.wtfs, "status", "--json"], 30, env=self.env))
        return next((process for process in said if process["path"] == os.path.realpath(self.dir)), None)

    def status(self):
        said = self.status_of_process()
        return said["torrents"] if said else []

    def wait_connected(self, count, seconds=20):
        """Until the torrent is connected to so many peers: what is measured after it is reading, not meeting."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if sum(len(torrent["peers"]) for torrent in self.status()) >= count:
                return
            time.sleep(0.05)
        raise BenchError(f"not connected to {count} peers within {seconds} s")


class Btfs:
    """Debian's btfs; it takes peers only from a magnet link."""

    def __init__(self, tools, place, torrent, peers):
        self.dir, self.data = place.dir("mnt"), place.dir("btfs")
        magnet = f"magnet:?xt=urn:btih:{torrent.info_hash}" + "".join(f"&x.pe={peer}" for peer in peers)
        port = 7000 + place.number()
        command = [
            tools.btfs, "-f", f"--data-directory={self.data}", f"--min-port={port}", f"--max-port={port}", magnet,
            self.dir]
        env = {"PATH": os.environ["PATH"], "HOME": self.data}
        self.process = Process(command, place.log("btfs"), place.space, env=env)
        try:
            wait_for(lambda: mounted(self.dir), 20, "btfs", self.process)
            # Its directory fills when the metadata has come; listed by a child, so that a hang ends at the deadline.
            end = time.monotonic() + 60
            while torrent.name.encode() not in run(["ls", self.dir], 30):
                if time.monotonic() > end:
                    raise BenchError("btfs: no metadata within 60 s")
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        detach(self.dir)
        self.process.end()
        shutil.rmtree(self.data, ignore_errors=True)


class Rqbit:
    """rqbit's HTTP stream of one torrent."""

    def __init__(self, tools, place, torrent, peers):
        self.data = place.dir("rqbit")
        self.space = place.space
        address = place.address()
        port = 7000 + place.number()
        command = [
            tools.rqbit, "--http-api-listen-addr", address, "--disable-dht", "--disable-dht-persistence",
            "--disable-lsd", "--listen-port", str(port), "--disable-upnp-port-forward", "--ipv4-only", "server", "start",
            "--disable-persistence", self.data]
        env = {"PATH": os.environ["PATH"], "HOME": self.data}
        self.process = Process(command, place.log("rqbit"), place.space, env=env)
        self.base = f"http://{address}"
        try:
            self._add(torrent, peers)
        except BaseException:
            self.__exit__()
            raise

    def _add(self, torrent, peers):
        url = f"{self.base}/torrents?overwrite=true&initial_peers={','.join(peers)}"
        curl = ["curl", "-sS", "--fail-with-body", "--max-time", "30", "--data-binary", f"@{torrent.path}", url]
        end = time.monotonic() + 30
        while True:
            try:
                said = json.loads(run(curl, 40, self.space))
                break
            except BenchError:
                if time.monotonic() > end or not self.process.runs():
                    raise
                time.sleep(0.2)
        self.url = f"{self.base}/torrents/{said['id']}/stream/0"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()
        shutil.rmtree(self.data, ignore_errors=True)
