"""The world that a run has to itself, a network namespace and a scratch directory, and taking both away."""

import contextlib
import os
import shutil

from . import tools
from .clients import detach
from .processes import BenchError, Namespace, run


def own_network(stack):
    """A namespace with nothing but loopback: no rival can reach anybody, and no other traffic is measured."""
    name = f"wtfs-bench-{os.getpid()}"
    run(["ip", "netns", "add", name], 20)
    stack.callback(run, ["ip", "netns", "del", name], 20)
    space = Namespace(name)
    run(["ip", "link", "set", "lo", "up"], 20, space)
    return space


def scratch(stack):
    path = os.path.join(tools.ROOT, "target", "bench", f"work-{os.getpid()}")
    os.makedirs(path)

    def remove():
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            left = [line.split()[4] for line in file]
        for mount in left:
            if mount.startswith(f"{path}/"):
                detach(mount)
        shutil.rmtree(path, ignore_errors=True)

    stack.callback(remove)
    return path


def remove_stale():
    """Takes away what a killed run left, which is known by the id of a process that is gone."""
    folder = os.path.join(tools.ROOT, "target", "bench")
    names = os.listdir(folder) if os.path.isdir(folder) else []
    for name in names:
        if name.startswith("work-") and not os.path.exists(f"/proc/{name[5:]}"):
            path = os.path.join(folder, name)
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
                for mount in [line.split()[4] for line in file]:
                    if mount.startswith(f"{path}/"):
                        detach(mount)
            shutil.rmtree(path, ignore_errors=True)
    spaces = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    for name in spaces:
        if name.startswith("wtfs-bench-") and not os.path.exists(f"/proc/{name.split('-')[2]}"):
            with contextlib.suppress(BenchError):
                run(["ip", "netns", "del", name], 20)
