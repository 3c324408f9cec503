"""Eviction under load: a cache of a quarter of the data, read at random, and peers that ask for what was given up."""

import json
import os
import subprocess
import sys
import time

from .clients import Seeders, Wtfs
from .content import MIB
from .processes import HERE, JsonProcess, Process
from .soaking import Readers, allocated, compare_whole, in_mib, median

DATA_MIB, CACHE_MIB, READERS = 256, 64, 8
PIECE_BYTES = 256 << 10
READ_TIMEOUT_S = 30
# Reads may overdraw by a gap (a sixteenth) when all else is in use; records and the metainfo are not data.
SLACK_BYTES = CACHE_MIB * MIB // 16 + MIB
PATIENCE_S = 30


class Asker:
    """asker.py, a scripted peer of the mount."""

    def __init__(self, soak, torrent, mount_address, own_address):
        options = {
            "peer": mount_address, "from": own_address, "info_hash": torrent.info_hash, "size": torrent.size,
            "piece_bytes": torrent.piece_bytes, "original": torrent.data, "seed": soak.chosen.getrandbits(32),
            "patience_s": PATIENCE_S, "pause_s": 0.02}
        self.out = soak.place.log("asker")
        command = [sys.executable, "-B", os.path.join(HERE, "asker.py"), json.dumps(options)]
        self.process = Process(command, self.out, soak.place.space, stdin=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()

    def finish(self):
        self.process.child.stdin.close()
        self.process.child.wait(20)
        with open(self.out, encoding="utf-8") as file:
            return json.loads(file.read())


class Watcher:
    """libtorrent as a slow peer of the mount, with its own log of what it was told and what it asked."""

    def __init__(self, soak, torrent, mount_address):
        options = {"listen": [soak.place.address()]}
        command = [soak.tools.python, os.path.join(HERE, "lt.py"), "sessions", json.dumps(options)]
        self.process = JsonProcess(command, soak.place.log("watcher"), soak.place.space)
        save = soak.place.dir("watched")
        # Slower than everything else: what it asks for is long gone from the mount's cache and comes back.
        self.process.ask(cmd="watch", torrent=torrent.path, save=save, peers=[mount_address], rate=400_000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.end()

    def so_far(self):
        return self.process.ask(cmd="watched_so_far")


def soak(soak):
    seconds = soak.seconds(3)
    torrent = soak.torrent(soak.data("data.bin", DATA_MIB * MIB), PIECE_BYTES)
    soak.saw("MiB of data, budget", [DATA_MIB, CACHE_MIB])
    listen = soak.place.address()
    flags = ("--cache-size", f"{CACHE_MIB}M", "--read-timeout", f"{READ_TIMEOUT_S}s")
    with Seeders(soak.tools, soak.place, torrent) as seeders, \
            Wtfs(soak.tools, soak.place, [torrent.path], seeders.addresses, listen=listen, flags=flags) as mount:
        mount.wait_connected(1)
        host = soak.place.address().rpartition(":")[0]
        files = [[mount.path(torrent), torrent.data]]
        disk, told = [], {}
        with Asker(soak, torrent, listen, host) as asker, Watcher(soak, torrent, listen) as watcher, \
                Readers(soak, files, READERS, READ_TIMEOUT_S) as readers:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                readers.tend(end)
                disk.append(allocated(mount.cache))
                if disk[-1] > CACHE_MIB * MIB + SLACK_BYTES:
                    soak.found(f"{disk[-1]} bytes on the disk, the budget is {CACHE_MIB * MIB}")
                told = watcher.so_far()
                time.sleep(1)
            tally = readers.finish()
            asked = asker.finish()
        tally.show()
        for error in tally.errors:
            soak.found(f"a read failed: {error}")
        compare_whole(soak, mount.path(torrent), torrent.data)
        cache = cache_status(mount)
        allowed = CACHE_MIB * MIB + SLACK_BYTES
        soak.saw("disk, MiB: median, peak, budget, allowed", in_mib(median(disk), max(disk), CACHE_MIB * MIB, allowed))
        soak.saw("GB given up", round(cache["evicted_bytes"] / 1e9, 2))
        soak.saw("memory, peak MB", round(mount.process.peak_mb()))
    judge_peers(soak, asked, told)
    if cache["evicted_bytes"] < DATA_MIB * MIB:
        soak.found(f"too little was given up to show anything: {cache}")


def cache_status(mount):
    return mount.status_of_process()["cache"]


def judge_peers(soak, asked, told):
    soak.saw("a scripted peer", asked)
    soak.saw("libtorrent as a peer", told)
    if asked["wrong"] or asked["unanswered"]:
        soak.found("requests of a scripted peer were answered wrong, or not at all")
    if asked["closed"]:
        soak.found(f"the mount left a peer that asked for what had been given up: {asked}")
    if asked["told_gone"] == 0 or asked["gone_rejected"] == 0 or asked["right"] == 0:
        soak.found("the scripted peer saw too little to show anything")
    if told["told"] == 0:
        soak.found("libtorrent was never told that a piece is gone")
    if told["asked_again"]:
        soak.found(f"libtorrent asked {told['asked_again']} times for what it was told is gone")
