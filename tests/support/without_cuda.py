"""Lets the PyTorch that PyPI has start where there is no CUDA: without a GPU nothing of CUDA is called, but all of it is linked.

    without_cuda.py SITE_PACKAGES

For each of CUDA's libraries that PyTorch names and that is not installed an empty one is made beside PyTorch's own, with the
symbols that are looked for, none of which returns. The runtime has to be the real one: it is what tells that there is no GPU.
Saves the 4 GB of the real ones, and a third of one by giving back to the disk what programs for GPUs PyTorch's own have in them.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

# These are asked for in no version, and so found in whatever library is open.
UNVERSIONED = re.compile(r" U ((?:nccl|cusparseLt|cuFile|cu[A-Z])\w*)\n")
HOLDER = "libnccl.so.2"
# All others have the name of their library for a version, but those of this one.
OTHERWISE = {"libnvshmem_host.so.3": "NVSHMEM"}
# The driver's: opened only where there is one.
DRIVER = "libcuda.so.1"
# Where a library keeps programs for GPUs: place and length, in hexadecimal.
PROGRAMS = re.compile(r"\.nv_fatbin +PROGBITS +\w+ (\w+) (\w+)")


def said(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(packages):
    torch = os.path.join(packages, "torch/lib")
    present = {os.path.basename(path) for path in glob.glob(packages + "/nvidia/*/lib/*")}
    ours = glob.glob(torch + "/lib*.so")
    named = set(re.findall(r"NEEDED.*\[(lib(?:cu|nv|nccl)\w*\.so\.\d+)\]", said("readelf", "-dW", *ours)))
    symbols = said("nm", "-D", "--undefined-only", *ours)
    versioned = set(re.findall(r" [Uw] (\w+)@(\S+)", symbols))
    for library in sorted(named - present - {DRIVER}):
        version = OTHERWISE.get(library, library)
        wanted = {symbol for symbol, of in versioned if of == version}
        if library == HOLDER:
            wanted |= set(UNVERSIONED.findall(symbols))
        with tempfile.TemporaryDirectory() as scratch:
            source, script = os.path.join(scratch, "empty.s"), os.path.join(scratch, "versions")
            with open(source, "w") as file:
                file.write(".text\n" + "".join(f".globl {s}\n{s}:\n" for s in sorted(wanted)) + "ud2\n" + ".quad 0\n" * 8)
                file.write('.section .note.GNU-stack,"",@progbits\n')
            link = ["cc", "-shared", "-nostdlib", source, f"-Wl,-soname,{library}", "-o", os.path.join(torch, library)]
            if library != HOLDER:
                with open(script, "w") as file:
                    file.write(f"{version} {{ global: *; }};\n")
                link.append(f"-Wl,--version-script,{script}")
            subprocess.run(link, check=True)
    for library in ours:
        for place, length in PROGRAMS.findall(said("readelf", "-SW", library)):
            hole = ["--offset", str(int(place, 16)), "--length", str(int(length, 16))]
            # Where the file system has no holes they stay.
            subprocess.run(["fallocate", "--punch-hole", *hole, library], check=False, capture_output=True)


main(sys.argv[1])
