"""kill -9 at random moments while much is read, fetched and given up, with a hundred torrents in the mount."""

import os
import signal
import time

from .clients import Seeders, Wtfs, detach
from .content import MIB, small_torrent
from .soaking import Readers, Tally, compare_whole, in_mib, median, read_bytes

DATA_MIB, CACHE_MIB, TORRENTS, READERS = 512, 128, 100, 4
PIECE_BYTES = 256 << 10
# So slow that what may be unsettled is far less than what is present: hashing it all again would be seen.
RATE = 12_000_000
READ_TIMEOUT_S = 30
READY_S = 1.0
# What may be hashed again at a start is what was stored since the last checkpoint. One is begun every 2 s and may take
# as long on a slow disk; the program itself and its records are the rest.
UNSETTLED_S = 5
OWN_BYTES = 8 * MIB


class Life:
    """One life of the mount, as it was when it ended."""

    def __init__(self):
        self.present, self.seconds = 0, 0.0

    def unsettled_bytes(self):
        """What it may have stored since a checkpoint: not more than it could fetch in that time."""
        return min(self.seconds + 1, UNSETTLED_S) * RATE


class Starts:
    """What each start after a kill took, and what it found."""

    def __init__(self, soak):
        self.soak, self.seconds, self.read, self.present, self.lost = soak, [], [], [], []

    def judge(self, mount, torrent, before):
        number = len(self.seconds) + 1
        read = read_bytes(mount.process.pid)
        entries = len(os.listdir(mount.dir))
        present = present_bytes(mount, torrent)
        self.seconds.append(mount.start_s)
        self.read.append(read)
        self.present.append(before.present)
        self.lost.append(max(0, before.present - present))
        found = lambda what: self.soak.found(f"after kill {number} {what}")
        if mount.start_s > READY_S:
            found(f"it took {mount.start_s:.2f} s until the mount was ready")
        if entries < TORRENTS:
            found(f"{entries} of {TORRENTS} entries were there at the start")
        if read > OWN_BYTES + before.unsettled_bytes():
            found(f"{read / MIB:.0f} MiB were read before it was ready, of {before.present / MIB:.0f} present")
        # What was being given up when it died is gone too: a gap of the budget.
        if self.lost[-1] > before.unsettled_bytes() + 2 * CACHE_MIB * MIB // 16:
            found(f"{present / MIB:.0f} MiB were present, {before.present / MIB:.0f} before")

    def show(self):
        self.soak.saw("kills", len(self.seconds))
        if self.seconds:
            self.soak.saw("ready after, s: median, longest", [
                round(value, 3) for value in (median(self.seconds), max(self.seconds))])
            self.soak.saw("read from files until then, MiB: median, most", in_mib(median(self.read), max(self.read)))
            self.soak.saw("read of what was present, all starts together", round(sum(self.read) / sum(self.present), 3))
            self.soak.saw("present at the kill, MiB: median, most", in_mib(median(self.present), max(self.present)))
            self.soak.saw("no longer present after it, MiB: median, most", in_mib(median(self.lost), max(self.lost)))


def soak(soak):
    torrent = soak.torrent(soak.data("data.bin", DATA_MIB * MIB), PIECE_BYTES)
    folder = soak.place.dir("torrents")
    sources = [small_torrent(os.path.join(folder, f"{n}.torrent"), n) for n in range(TORRENTS - 1)] + [torrent.path]
    cache = soak.place.dir("cache")
    budget = ("--cache-size", f"{CACHE_MIB}M")
    tally, starts, life = Tally(soak), Starts(soak), None
    with Seeders(soak.tools, soak.place, torrent) as seeders:
        seeders.process.ask(cmd="limit", upload=RATE)

        def mounting(*flags):
            flags = ("--read-timeout", f"{READ_TIMEOUT_S}s", *flags)
            return Wtfs(soak.tools, soak.place, sources, seeders.addresses, cache=cache, flags=flags)

        for number in range(soak.asked.kills):
            with mounting(*budget) as mount:
                if life:
                    starts.judge(mount, torrent, life)
                life = read_and_kill(soak, mount, torrent, tally)
            if number % 10 == 9:
                # With no budget, so that all of it stays.
                with mounting("--offline") as mount:
                    starts.judge(mount, torrent, life)
                    read_alone(soak, mount, torrent)
                life = None
        read_whole(soak, seeders, mounting, torrent)
    tally.show()
    starts.show()


def present_bytes(mount, torrent):
    """Bytes that are present of the torrent with data."""
    said = next(said for said in mount.status() if said["info_hash"] == torrent.info_hash)
    return said["pieces_present"] * torrent.piece_bytes


def read_and_kill(soak, mount, torrent, tally):
    """Readers at work, and the end at a random moment."""
    life, began = Life(), time.monotonic()
    end = began + soak.chosen.uniform(0.1, 5.0)
    with Readers(soak, [[mount.path(torrent), torrent.data]], READERS, READ_TIMEOUT_S, each_s=60) as readers:
        readers.tally = tally
        # They outlive the mount a little, and are to see errors then, not bytes.
        readers.tend(end + 1.5)
        while True:
            life.present = present_bytes(mount, torrent)
            left = end - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(0.1, left))
        killed_at = time.monotonic()
        mount.process.child.send_signal(signal.SIGKILL)
        mount.process.child.wait(20)
        detach(mount.dir)
        before = len(tally.errors)
        readers.finish()
        for error in tally.errors[before:]:
            if error["at"] < killed_at:
                soak.found(f"a read failed before the kill: {error}")
    life.seconds = killed_at - began
    return life


def read_alone(soak, mount, torrent):
    """What a crash left is read with no network: right bytes or an error, and all that is said to be present."""
    present, right = present_bytes(mount, torrent), 0
    with open(mount.path(torrent), "rb", buffering=0) as file, open(torrent.data, "rb") as original:
        for at in range(0, torrent.size, torrent.piece_bytes):
            try:
                said = os.pread(file.fileno(), torrent.piece_bytes, at)
            except OSError:
                continue
            if said != os.pread(original.fileno(), torrent.piece_bytes, at):
                soak.found(f"wrong bytes with no network at {at}")
            right += len(said)
    if right < present:
        soak.found(f"{present} bytes are said to be present, {right} could be read with no network")


def read_whole(soak, seeders, mounting, torrent):
    """Everything is read once more with room for all: what is present is not fetched again."""
    seeders.process.ask(cmd="limit", upload=0)
    with mounting() as mount:
        present = present_bytes(mount, torrent)
        before = seeders.counters()["uploaded_bytes"]
        compare_whole(soak, mount.path(torrent), torrent.data)
        sent = seeders.counters()["uploaded_bytes"] - before
        missing = torrent.size - present
        soak.saw("at the end, MiB: present, missing, fetched for it", in_mib(present, missing, sent))
        if sent > missing * 1.02 + 2 * MIB:
            soak.found(f"{sent} bytes were fetched for the {missing} that were missing")
