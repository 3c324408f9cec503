"""kill -9 at random moments while much is read, fetched and given up, with a hundred torrents in the mount."""

import os
import signal
import time

from .clients import Seeders, Wtfs, detach
from .content import MIB, small_torrent

from .soaking import Readers, compare_whole, read_bytes

DATA_MIB, CACHE_MIB, TORRENTS, READERS = 512, 128, 100, 4
PIECE_BYTES = 256 << 10
RATE = 24_000_000
READ_TIMEOUT_S = 30
READY_S = 1.0
# What may be hashed again at a start is what was stored since the last checkpoint. One is begun every 2 s and may take as
# long on a slow disk; the program itself and its records are the rest.
UNSETTLED_S = 6
OWN_BYTES = 8 * MIB


def soak(soak):
    torrent = soak.torrent(soak.data(os.path.join(soak.place.scratch, "seeded", "data.bin"), DATA_MIB * MIB), PIECE_BYTES)
    folder = soak.place.dir("torrents")
    sources = [small_torrent(os.path.join(folder, f"{n}.torrent"), n) for n in range(TORRENTS - 1)] + [torrent.path]
    cache = soak.place.dir("cache")
    starts, reads, kept, unsettled = [], [], [], []
    with Seeders(soak.tools, soak.place, torrent) as seeders:
        seeders.process.ask(cmd="limit", upload=RATE)
        mounting = lambda *flags: Wtfs(
            soak.tools, soak.place, sources, seeders.addresses, cache=cache,
            flags=("--read-timeout", f"{READ_TIMEOUT_S}s", "--fresh", *flags))
        budget = ("--cache-size", f"{CACHE_MIB}M")
        present, lived = 0, 0.0
        tallies = Readers(soak, [], 0, READ_TIMEOUT_S).tally
        for number in range(soak.asked.kills + 1):
            with mounting(*budget) as mount:
                starts.append(mount.start_s)
                entries = len(os.listdir(mount.dir))
                reads.append(read_bytes(mount.process.pid))
                found = mine(mount, torrent)
                if entries < TORRENTS:
                    soak.found(f"after kill {number} {entries} of {TORRENTS} entries were there at the start")
                if number:
                    judge_start(soak, number, starts[-1], reads[-1], present, found, lived, (kept, unsettled))
                if number < soak.asked.kills:
                    lived = read_and_kill(soak, mount, torrent, tallies)
                    present = lived.pop("present")
                    lived = lived["seconds"]
            if number and number % 10 == 0:
                offline(soak, mounting("--offline", *budget), torrent)
        finally_whole(soak, seeders, mounting, torrent)
        tallies.show()
    soak.saw("kills", soak.asked.kills)
    soak.saw("ready after, s: median, longest", [round(sorted(starts[1:])[len(starts[1:]) // 2], 3), round(max(starts[1:]), 3)])
    soak.saw("MiB read by the process until ready: median, most", [
        round(value / MIB, 1) for value in (sorted(reads[1:])[len(reads[1:]) // 2], max(reads[1:]))])
    soak.saw("MiB present before the kills: median", round(sorted(kept)[len(kept) // 2] / MIB, 1) if kept else 0)
    soak.saw("MiB lost by a kill: most", round(max(unsettled) / MIB, 1) if unsettled else 0)


def mine(mount, torrent):
    """Bytes of the torrent with data that are present."""
    said = next(said for said in mount.status() if said["info_hash"] == torrent.info_hash)
    return {"present": said["pieces_present"] * torrent.piece_bytes, "fetched": said["downloaded_bytes"]}


def judge_start(soak, number, took, read, present, found, lived, notes):
    kept, unsettled = notes
    kept.append(present)
    unsettled.append(max(0, present - found["present"]))
    if took > READY_S:
        soak.found(f"after kill {number} it took {took:.2f} s until the mount was ready")
    # It cannot have stored more since the checkpoint than it lived to fetch.
    since = min(lived + 1, UNSETTLED_S) * RATE
    if read > OWN_BYTES + since:
        soak.found(f"after kill {number} {read / MIB:.0f} MiB were read before it was ready, of {present / MIB:.0f} present")
    if present - found["present"] > since + CACHE_MIB * MIB // 16:
        soak.found(f"after kill {number} {found['present']} bytes were present, {present} before")


def read_and_kill(soak, mount, torrent, tally):
    """Readers at work, and the end at a random moment."""
    began = time.monotonic()
    end = began + soak.chosen.uniform(0.1, 5.0)
    files = [[mount.path(torrent), torrent.data]]
    last = mine(mount, torrent)
    with Readers(soak, files, READERS, READ_TIMEOUT_S, each_s=60) as readers:
        readers.tally = tally
        # What began ends with the mount: readers are to outlive it a little, and to see errors then, not bytes.
        readers.tend(end + 1.5)
        while (now := time.monotonic()) < end:
            last = mine(mount, torrent)
            time.sleep(min(0.1, max(0.0, end - now)))
        failed_before = time.monotonic()
        mount.process.child.send_signal(signal.SIGKILL)
        mount.process.child.wait(20)
        seconds = time.monotonic() - began
        detach(mount.dir)
        before = len(tally.errors)
        readers.finish()
        for error in tally.errors[before:]:
            if error["at"] < failed_before:
                soak.found(f"a read failed before the kill: {error}")
    return {"present": last["present"], "seconds": seconds}


def offline(soak, mounting, torrent):
    """What a crash left is read with no network: right bytes or an error, and most of it is there."""
    with mounting as mount:
        found = mine(mount, torrent)
        right = 0
        with open(mount.path(torrent), "rb", buffering=0) as file, open(torrent.data, "rb") as original:
            for at in range(0, torrent.size, torrent.piece_bytes):
                try:
                    said = os.pread(file.fileno(), torrent.piece_bytes, at)
                except OSError:
                    continue
                if said != os.pread(original.fileno(), torrent.piece_bytes, at):
                    soak.found(f"wrong bytes with no network at {at}")
                right += len(said)
        if right < found["present"]:
            soak.found(f"{found['present']} bytes are said to be present, {right} could be read with no network")


def finally_whole(soak, seeders, mounting, torrent):
    """Everything is read once more with room for all: what is present is not fetched again."""
    seeders.process.ask(cmd="limit", upload=0)
    with mounting() as mount:
        present = mine(mount, torrent)["present"]
        before = seeders.counters()["uploaded_bytes"]
        compare_whole(soak, mount.path(torrent), torrent.data)
        sent = seeders.counters()["uploaded_bytes"] - before
        missing = torrent.size - present
        soak.saw("at the end, MiB: present, missing, fetched for it", [
            round(value / MIB, 1) for value in (present, missing, sent)])
        if sent > missing * 1.02 + 2 * MIB:
            soak.found(f"{sent} bytes were fetched for the {missing} that were missing")
