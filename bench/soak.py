#!/usr/bin/env python3
"""The soak's entry: what is asked for, a world of its own to run in, and the summary. See bench/README.md."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time

from parts import crashes, evictions, machine, stalls, swarms, tools
from parts.clients import Place
from parts.processes import BenchError, run
from parts.soaking import Soak
from parts.worlds import own_network, remove_stale, scratch

SOAKS = {"swarm": swarms.soak, "eviction": evictions.soak, "kill": crashes.soak, "stalled": stalls.soak}


class Tools:
    """What is run, by path."""

    def __init__(self):
        needed = {"nsenter": "util-linux", "ip": "iproute2", "fusermount3": "fuse3", "fio": "fio"}
        for program, package in needed.items():
            if not tools.apt(program, package):
                raise SystemExit(f"soak: {program} is needed (Debian package {package})")
        self.wtfs, self.emulator, self.python = tools.wtfs(), tools.path_emulator(), tools.libtorrent()


def parse(argv):
    parser = argparse.ArgumentParser(prog="bench/soak", description=__doc__)
    parser.add_argument("--only", metavar="SOAKS", help=f"only these, with commas between: {', '.join(SOAKS)}")
    parser.add_argument("--minutes", type=float, help="length of the swarm and eviction soaks [default: 10 and 3]")
    parser.add_argument("--kills", type=int, default=50, help="rounds of the kill soak [default: 50]")
    parser.add_argument("--seed", type=int, help="fixes what is read, and whom is killed when [default: the time]")
    parser.add_argument("--keep", action="store_true", help="keep the logs of a soak that found something")
    asked = parser.parse_args(argv)
    asked.soaks = asked.only.split(",") if asked.only else list(SOAKS)
    unknown = [name for name in asked.soaks if name not in SOAKS]
    if unknown:
        parser.error(f"no such soak: {', '.join(unknown)}")
    asked.seed = int(time.time()) if asked.seed is None else asked.seed
    return asked


def stop(*_):
    raise KeyboardInterrupt


def show(soak):
    print(f"\n{soak.name}: {'FAILED' if soak.findings else 'passed'}")
    for key, value in soak.seen.items():
        print(f"  {key}: {json.dumps(value)}")
    for finding in soak.findings:
        print(f"  FOUND {finding}")
    sys.stdout.flush()


def main(argv):
    asked = parse(argv)
    if os.geteuid() != 0:
        sys.exit("soak: run it as root: it makes mounts and network namespaces")
    signal.signal(signal.SIGTERM, stop)
    soaks = []
    with contextlib.ExitStack() as stack:
        remove_stale()
        things = Tools()
        path = scratch(stack)
        facts = machine.facts(path)
        version = run([things.wtfs, "--version"], 20).decode().strip()
        print(f"{version}, seed {asked.seed}, {json.dumps(facts)}", flush=True)
        for name in asked.soaks:
            with contextlib.ExitStack() as own:
                place = Place(os.path.join(path, name), own_network(own))
                os.makedirs(place.scratch)
                soak = Soak(name, things, place, asked)
                soaks.append(soak)
                began = time.monotonic()
                try:
                    SOAKS[name](soak)
                except BenchError as error:
                    soak.found(f"the soak could not go on: {error}")
                soak.saw("seconds", round(time.monotonic() - began))
                if asked.keep and soak.findings:
                    soak.keep_logs()
            show(soak)
    return 1 if any(soak.findings for soak in soaks) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("soak: interrupted")
