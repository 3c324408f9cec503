"""A swarm whose members come and go, over a path that delays and loses packets, read in every way at once."""

import os
import signal
import time

from .clients import Wtfs
from .content import MIB
from .paths import Path
from .soaking import Fio, Member, Readers, allocated, compare_whole, median, say

DELAY_MS, LOSS, RATE = 10, 0.01, 20_000_000
READ_TIMEOUT_S = 20
CACHE_MIB = 80
# What pieces in flight may hold (the default of --memory is 96 MiB), and the rest of the process.
PEAK_MB = 200
# A source that came back is met, lets us download, and has given a piece over this path within so many seconds.
MEET_S = 10


class Churn:
    """Kills and starts members every few seconds, so that one source of each torrent lives but for short black-outs.

    Once, in a soak of five minutes and more, all are away for longer than the read time-out: then reads must fail.
    """

    def __init__(self, soak, members, torrents, seconds):
        self.chosen, self.members, self.torrents = soak.chosen, members, torrents
        now = time.monotonic()
        self.next_at = now + 5
        self.dark_at = now + 45 + self.chosen.uniform(0, 30)
        self.long_dark_at = now + seconds / 2 if seconds >= 300 else None
        self.dark_until, self.counts = None, {"killed": 0, "ended": 0, "started": 0, "black-outs": 0}

    def stop(self, member):
        is_kill = self.chosen.random() < 0.7
        self.counts["killed" if is_kill else "ended"] += 1
        member.stop(signal.SIGKILL if is_kill else signal.SIGTERM)

    def start(self, member):
        self.counts["started"] += 1
        member.start()

    def darken(self, now, seconds):
        for member in self.members:
            if member.is_alive:
                self.counts["killed"] += 1
                member.stop()
        self.counts["black-outs"] += 1
        self.dark_until = now + seconds

    def alive_for(self, torrent):
        return [m for m in self.members if m.is_alive and torrent in m.torrents]

    def may_stop(self, member):
        """Another one that has lived long enough to be met stays for each of its torrents."""
        now = time.monotonic()
        settled = lambda other: other is not member and now - other.since > MEET_S
        return all(any(map(settled, self.alive_for(torrent))) for torrent in member.torrents)

    def turn(self):
        now = time.monotonic()
        if self.dark_until is not None:
            if now < self.dark_until:
                return
            self.dark_until = None
            for member in self.chosen.sample(self.members, len(self.members) // 2):
                self.start(member)
            self.next_at = now + 2
        for torrent in self.torrents:
            if not self.alive_for(torrent):
                self.start(self.chosen.choice([m for m in self.members if torrent in m.torrents]))
        if self.long_dark_at is not None and now > self.long_dark_at:
            say("swarm: nobody is there for longer than the read time-out")
            self.darken(now, READ_TIMEOUT_S * 2)
            self.long_dark_at = None
        elif now > self.dark_at:
            self.darken(now, self.chosen.uniform(2, 6))
            self.dark_at = now + 60 + self.chosen.uniform(0, 60)
        elif now > self.next_at:
            self.next_at = now + self.chosen.uniform(1.5, 4)
            member = self.chosen.choice(self.members)
            if not member.is_alive:
                self.start(member)
            elif self.may_stop(member):
                self.stop(member)


def judge_errors(soak, errors, members, torrents):
    """An error is right only when no source was there for long enough to give anything within the read time-out."""
    right = 0
    for error in errors:
        begin = error["at"] - READ_TIMEOUT_S
        is_of = lambda torrent: error["path"] == "fio" or f"/{torrent.name}" in error["path"]
        having = [member for member in members if any(map(is_of, member.torrents))]
        lived = max(m.lived(begin, error["at"]) for m in having)
        if lived < MEET_S:
            right += 1
        else:
            soak.found(f"a read failed while a source lived for {lived:.1f} s of its {READ_TIMEOUT_S}: {error}")
    soak.saw("reads that failed while nobody was there", right)


def soak(soak):
    seconds = soak.seconds(10)
    big = soak.data("big.bin", 192 * MIB + 12345)
    for number in range(20):
        soak.data(os.path.join("many", f"part-{number:02}.bin"), int(2 ** soak.chosen.uniform(10, 22.5)))
    many = os.path.join(os.path.dirname(big), "many")
    fio = os.path.join(many, "verify.fio")
    fio_bytes = 64 * MIB
    Fio.write(fio, fio_bytes)
    torrents = [soak.torrent(big, 512 << 10), soak.torrent(many, 256 << 10, "hybrid")]
    total = sum(os.path.getsize(os.path.join(many, name)) for name in os.listdir(many)) + os.path.getsize(big)
    soak.saw("MiB of data, cache", [total // MIB, CACHE_MIB])

    path_of = dict(delay_ms=DELAY_MS, loss=LOSS, congestion="cubic", hosts=12, more=["--rate", str(RATE)])
    members = []
    try:
        with Path(soak.tools, soak.place, seed=soak.asked.seed, **path_of) as path:
            listen = f"{path.near_address}:7100"
            for number, address in enumerate(path.far_addresses[:9]):
                kind = "libtorrent" if number < 5 else "wtfs"
                having = torrents if kind == "libtorrent" else [torrents[number % 2]]
                # Every second one comes by itself, the others have to be found again.
                client = listen if number % 2 else None
                members.append(Member(soak, kind, f"{address}:7000", path.far, having, client))
            peers = [member.address for member in members]
            flags = ("--cache-size", f"{CACHE_MIB}M", "--read-timeout", f"{READ_TIMEOUT_S}s")
            sources = [torrent.path for torrent in torrents]
            with Wtfs(soak.tools, soak.place, sources, peers, listen=listen, space=path.near, flags=flags) as mount:
                read_all(soak, mount, torrents, members, seconds, fio_bytes)
                soak.saw("path, packets", path.process.ask(cmd="counters"))
    finally:
        for member in members:
            member.stop()


def read_all(soak, mount, torrents, members, seconds, fio_bytes):
    big, many = torrents
    files = [[mount.path(big), big.data]] * 12
    files += [[os.path.join(mount.path(many), name), os.path.join(many.data, name)] for name in os.listdir(many.data)]
    for member in members[:4] + members[6:8]:
        member.start()
    churn = Churn(soak, members, torrents, seconds)
    end = time.monotonic() + seconds
    verify = os.path.join(mount.path(many), "verify.fio")
    peak_disk, rss, fio, rounds, errors = 0, [], None, 0, []
    next_disk = 0.0
    with Readers(soak, files, 6, READ_TIMEOUT_S) as readers:
        try:
            while (now := time.monotonic()) < end:
                if not mount.process.runs():
                    soak.found(f"the mount ended: {mount.process.tail()}")
                    return
                churn.turn()
                readers.tend(end)
                if fio is not None and (said := fio.errors()) is not None:
                    errors += said
                    fio = None
                if fio is None and end - now > 12:
                    fio = Fio(soak, verify, fio_bytes, ["psync", "mmap"][rounds % 2], 8, READ_TIMEOUT_S)
                    rounds += 1
                rss.append(mount.process.rss_mb())
                if now > next_disk:
                    peak_disk = max(peak_disk, allocated(mount.cache))
                    next_disk = now + 1
                time.sleep(0.2)
            tally = readers.finish()
            while fio is not None and (said := fio.errors()) is None:
                time.sleep(0.1)
        finally:
            if fio is not None:
                fio.end()
    tally.show()
    soak.saw("runs of fio", rounds)
    judge_errors(soak, tally.errors + errors, members, torrents)
    for member in members:
        if not member.is_alive:
            member.start()
    said = mount.status()
    for torrent in torrents:
        for path, original in {(path, original) for path, original in files if f"/{torrent.name}" in path}:
            compare_whole(soak, path, original)
    soak.saw("members", churn.counts)
    peak = mount.process.peak_mb()
    soak.saw("memory, MB: median, peak, bound", [round(median(rss)), round(peak), PEAK_MB])
    if peak > PEAK_MB:
        soak.found(f"memory: {peak:.0f} MB")
    soak.saw("disk, MiB: peak, budget", [peak_disk // MIB, CACHE_MIB])
    if peak_disk > CACHE_MIB * MIB * 17 // 16 + MIB:
        soak.found(f"disk: {peak_disk // MIB} MiB with a budget of {CACHE_MIB}")
    for key in ("downloaded_bytes", "wasted_bytes", "failed_pieces", "failed_reads"):
        soak.saw(key, [torrent[key] for torrent in said])
    for torrent in said:
        if torrent["failed_pieces"] or torrent["banned"]:
            soak.found(f"honest members were taken for liars: {torrent['failed_pieces']} pieces, {torrent['banned']}")
