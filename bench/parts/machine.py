"""What the machine is, so that a table can be compared with another one, or not."""

import os
import platform
import subprocess


def first_line(path, default="unknown"):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return default


def facts(data_dir):
    model = "unknown"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    with open("/proc/meminfo", encoding="ascii") as file:
        memory = int(file.readline().split()[1]) / 1024 / 1024
    df = subprocess.run(["df", "--output=fstype", data_dir], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gib": round(memory, 1),
        "kernel": platform.release(),
        "file system": (df.stdout.split() or ["unknown"])[-1],
        "tcp congestion control": first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load when it began": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
