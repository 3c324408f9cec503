"""Machines on one switch, each a network namespace with a link of its own rate; the switch is a namespace too, so that
nothing is made in the host's network and everything goes with the namespaces."""

import contextlib
import os

from .processes import BenchError, Namespace, run


class Lan:
    """Machine number n, from 0 on, has the address 10.99.0.(n + 1); `rates` are bytes a second of what each may send."""

    count = 0

    def __init__(self, rates):
        Lan.count += 1
        stem = f"wtfs-bench-{os.getpid()}-{Lan.count}"
        self.switch = f"{stem}s"
        self.machines = [Namespace(f"{stem}m{at}") for at in range(len(rates))]
        self.addresses = [f"10.99.0.{at + 1}" for at in range(len(rates))]
        try:
            self._make(rates)
        except BaseException:
            self.__exit__()
            raise

    def _make(self, rates):
        ip(["netns", "add", self.switch])
        ip(["-n", self.switch, "link", "add", "sw", "type", "bridge"])
        ip(["-n", self.switch, "link", "set", "sw", "up"])
        for at, (machine, rate) in enumerate(zip(self.machines, rates)):
            ip(["netns", "add", machine.name])
            ip(["-n", machine.name, "link", "add", "eth", "type", "veth", "peer", "name", f"port{at}", "netns", self.switch])
            ip(["-n", self.switch, "link", "set", f"port{at}", "master", "sw", "up"])
            ip(["-n", machine.name, "addr", "add", f"{self.addresses[at]}/24", "dev", "eth"])
            for device in ("lo", "eth"):
                ip(["-n", machine.name, "link", "set", device, "up"])
            # A twentieth of a second of bytes may wait, as in a usual switch.
            run([
                "tc", "-n", machine.name, "qdisc", "add", "dev", "eth", "root", "tbf", "rate", f"{rate * 8}bit",
                "burst", str(max(rate // 250, 64 << 10)), "latency", "50ms"], 20)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in [machine.name for machine in self.machines] + [self.switch]:
            with contextlib.suppress(BenchError):
                ip(["netns", "del", name])

    def sent_bytes(self, at):
        """What a machine has sent, as its link counts it."""
        said = run(["cat", "/proc/net/dev"], 20, self.machines[at]).decode()
        line = next(line for line in said.splitlines() if line.strip().startswith("eth:"))
        return int(line.split()[9])


def ip(words):
    run(["ip", *words], 20)
