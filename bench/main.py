"""The bench's entry: what is asked for, a world of its own to run in, and the report. See bench/README.md."""

import argparse
import contextlib
import os
import signal
import sys
import time

from parts import browsers, channels, cold, growth, hugging_face, machine, paths, report, results, tools, trackers, webseed
from parts.clients import Place
from parts.processes import run
from parts.worlds import own_network, remove_stale, scratch

ROOT = tools.ROOT
MIB = 1 << 20
GROUPS = {
    "cold": cold.sequential,
    "random": cold.random_reads,
    "seeders": cold.seeders_count,
    "paths": paths.slow_paths,
    "torrents": growth.torrents,
    "files": growth.files,
    "pieces": growth.pieces,
    "readers": growth.readers,
    "webseed": webseed.ranged_gets,
    "trackers": trackers.trackers,
    "webrtc": channels.channels,
    "browsers": browsers.browsers,
    "huggingface": hugging_face.proxy,
}


class Options:
    """How much is measured: all of it, or what fits into five minutes."""

    def __init__(self, asked):
        quick = asked.quick
        self.size = (asked.size_mib or (256 if quick else 1024)) * MIB
        self.turns = asked.turns or (1 if quick else 3)
        self.samples = 100 if quick else 500
        self.slow_seconds = 15 if quick else 60
        self.seeder_counts = [4] if quick else [1, 4, 30]
        self.path_cases = ["20ms-bbr"] if quick else list(paths.CASES)
        self.path_bytes = (64 if quick else 256) * MIB
        self.path_seconds = 10 if quick else 20
        self.torrent_counts = [1, 100] if quick else [1, 100, 1000]
        self.idle_seconds = 5 if quick else 20
        self.file_counts = [10, 10_000] if quick else [10, 60_000]
        self.piece_counts = [1000, 20_000] if quick else [1000, 100_000]
        self.reader_counts = [1, 64] if quick else [1, 64, 1000]
        self.load_seconds = 5 if quick else 10
        self.socket_count = 1000 if quick else 10_000
        self.channel_count = 50 if quick else 200

    @staticmethod
    def say(text):
        print(f"bench: {text}", file=sys.stderr, flush=True)

    @staticmethod
    def run(command, within):
        return run(command, within)


def parse(argv):
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a subset with small data, in less than five minutes")
    parser.add_argument("--rqbit", action="store_true", help="build rqbit to compare with it; this takes long")
    parser.add_argument("--only", metavar="GROUPS", help=f"only these, with commas between: {', '.join(GROUPS)}")
    parser.add_argument("--size-mib", type=int, help="size of the data [default: 1024; 256 with --quick]")
    parser.add_argument("--turns", type=int, help="runs of each throughput row [default: 3; 1 with --quick]")
    parser.add_argument("--write", metavar="FILE", help="where the document goes [default: docs/performance.md for a "
                        "whole run, target/bench/performance.md otherwise]")
    parser.add_argument("--add", metavar="FILE", help="the document goes behind what this file has already")
    asked = parser.parse_args(argv)
    asked.groups = asked.only.split(",") if asked.only else list(GROUPS)
    unknown = [name for name in asked.groups if name not in GROUPS]
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}")
    return asked


def stop(*_):
    raise KeyboardInterrupt


def main(argv):
    asked = parse(argv)
    if os.geteuid() != 0:
        sys.exit("bench: run it as root: it makes mounts and network namespaces")
    signal.signal(signal.SIGTERM, stop)
    options = Options(asked)
    found = results.Results()
    is_whole = not asked.quick and not asked.only
    with contextlib.ExitStack() as stack:
        remove_stale()
        things = tools.Tools(asked.rqbit)
        place = Place(scratch(stack), own_network(stack))
        facts = machine.facts(place.scratch)
        if not things.rqbit:
            found.notes.append("rqbit was not measured: `bench/run --rqbit` builds it")
        bench = cold.Bench(things, place, found, options)
        command = " ".join(["bench/run", *argv])
        before = None
        if asked.add:
            with open(asked.add, encoding="utf-8") as file:
                before = file.read()
        default = os.path.join(ROOT, "docs" if is_whole else os.path.join("target", "bench"), "performance.md")
        for number, name in enumerate(asked.groups, 1):
            began = time.monotonic()
            options.say(f"{name} ...")
            GROUPS[name](bench)
            options.say(f"{name} took {time.monotonic() - began:.0f} s")
            # After each, so that a run that is cut short leaves what it measured, and says what it did not.
            missing = asked.groups[number:]
            cut = [f"the run ended before these groups: {', '.join(missing)}"] if missing else []
            found.notes.extend(cut)
            versions = things.versions()
            report.write(found, facts, versions, command, ROOT, asked.add or asked.write or default, before)
            del found.notes[len(found.notes) - len(cut):]
    for name, value in {**facts, **versions}.items():
        print(f"{name}: {value}")
    print()
    print(report.plain(found))
    for note in [*found.notes, *report.failures(found)]:
        print(f"note: {note}")
    return 1 if found.failed_rows() else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("bench: interrupted")
