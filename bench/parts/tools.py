"""What the bench runs: wtfs and the emulators, built in release; and the rivals, installed where they are missing."""

import os
import shutil
import subprocess
import sys

from .processes import BenchError, run

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBTORRENT = "2.1.1"
RQBIT = "9.0.1"
NPM_TRACKER = "11.2.3"
OLAH = "0.5.4"
HUGGINGFACE_HUB = "2.4.0"


def target_dir():
    return os.environ.get("CARGO_TARGET_DIR") or os.path.join(ROOT, "target")


def tools_dir():
    return os.path.join(ROOT, "target", "bench-tools")


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def shown(command, within):
    """Runs a slow command with its output on the user's terminal."""
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=within, check=False)
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(command)} failed")


def build(package, binary):
    shown(["cargo", "build", "--release", "--locked", "-p", package, "--bin", binary], 3600)
    return os.path.join(target_dir(), "release", binary)


def wtfs():
    """The program under test: WTFS_BIN, or a release build of this tree."""
    given = os.environ.get("WTFS_BIN")
    return given if given else build("wtfs", "wtfs")


def path_emulator():
    given = os.environ.get("WTFS_PATH_EMULATOR")
    return given if given else build("wtfs-testkit", "path-emulator")


def tracker_load():
    given = os.environ.get("WTFS_TRACKER_LOAD")
    return given if given else build("wtfs-testkit", "tracker-load")


def hf_emulator():
    given = os.environ.get("WTFS_HF_EMULATOR")
    return given if given else build("wtfs-testkit", "hf-emulator")


def olah():
    """A Python with olah, a mirror of Hugging Face, and with Hugging Face's own client; `None` where PyPI has none."""
    home = os.path.join(tools_dir(), "olah")
    python = os.path.join(home, "bin", "python3")
    versions = f"('{OLAH}', '{HUGGINGFACE_HUB}')"
    check = (
        "import sys; from importlib.metadata import version as v; "
        f"sys.exit((v('olah'), v('huggingface_hub')) != {versions})")
    try:
        run([python, "-c", check], 60)
        return python
    except BenchError:
        pass
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(tools_dir(), exist_ok=True)
    say(f"fetching olah {OLAH} from PyPI")
    try:
        run([sys.executable, "-m", "venv", home], 300)
        wanted = [f"olah=={OLAH}", f"huggingface_hub=={HUGGINGFACE_HUB}"]
        run([python, "-m", "pip", "install", "-q", "--no-input", *wanted], 600)
    except BenchError as error:
        say(f"without olah: {error}")
        return None
    return python


def npm_tracker():
    """The server of the npm package `bittorrent-tracker`; `None` without node and npm."""
    if not apt("node", "nodejs") or not apt("npm", "npm"):
        return None
    home = os.path.join(tools_dir(), "node")
    server = os.path.join(home, "node_modules", "bittorrent-tracker", "server.js")
    if not os.path.exists(server):
        say(f"fetching bittorrent-tracker {NPM_TRACKER} from npm")
        os.makedirs(home, exist_ok=True)
        install = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", home]
        try:
            run([*install, f"bittorrent-tracker@{NPM_TRACKER}"], 600)
        except BenchError as error:
            say(f"without bittorrent-tracker: {error}")
            return None
    return server


def apt(program, package):
    """The path of a program from Debian, `None` where it cannot be had."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path or not shutil.which("apt-get"):
        return path
    say(f"installing {package}")
    env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
    try:
        try:
            run(install, 600, env=env)
        except BenchError:
            run(["apt-get", "update", "-q"], 600, env=env)
            run(install, 600, env=env)
    except BenchError as error:
        say(f"without {package}: {error}")
    return shutil.which(program)


def apt_version(package):
    try:
        return run(["dpkg-query", "-W", "-f", "${Version}", package], 20).decode()
    except BenchError:
        return "unknown"


def libtorrent():
    """A Python that imports libtorrent: a virtual environment of the bench's own."""
    home = os.path.join(tools_dir(), "python")
    python = os.path.join(home, "bin", "python3")
    check = f"import libtorrent, sys; sys.exit(not libtorrent.version.startswith('{LIBTORRENT}'))"

    def works(program):
        try:
            run([program, "-c", check], 60)
            return True
        except BenchError:
            return False

    if works(python):
        return python
    shutil.rmtree(home, ignore_errors=True)
    os.makedirs(tools_dir(), exist_ok=True)
    if works(sys.executable):
        run([sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", home], 120)
    else:
        say(f"fetching libtorrent {LIBTORRENT} from PyPI")
        try:
            run([sys.executable, "-c", "import ensurepip, venv"], 60)
        except BenchError:
            apt("no-such-program-of-python3-venv", "python3-venv")
        run([sys.executable, "-m", "venv", home], 300)
        run([python, "-m", "pip", "install", "-q", "--no-input", f"libtorrent=={LIBTORRENT}"], 600)
    if not works(python):
        raise SystemExit(f"bench: libtorrent {LIBTORRENT} does not load in {home}")
    return python


def rqbit(may_build):
    """rqbit from crates.io, which takes long to build: only when asked for, or there from an earlier run."""
    path = os.path.join(tools_dir(), "bin", "rqbit")
    if not os.path.exists(path) and may_build:
        say(f"building rqbit {RQBIT}: this takes long")
        # Without its web pages and its database, which need npm and PostgreSQL to build; neither is measured.
        features = ["--no-default-features", "--features", "rust-tls"]
        install = ["cargo", "install", "rqbit", "--version", RQBIT, "--locked", "--root", tools_dir(), *features]
        shown([*install, "--target-dir", os.path.join(tools_dir(), "rqbit-build")], 3600)
        shutil.rmtree(os.path.join(tools_dir(), "rqbit-build"), ignore_errors=True)
    return path if os.path.exists(path) else None


class Tools:
    """Everything that is run, by path; a rival that is missing is `None`, and its rows say so."""

    def __init__(self, may_build_rqbit):
        for program, package in (("nsenter", "util-linux"), ("ip", "iproute2"), ("fusermount3", "fuse3")):
            if not apt(program, package):
                raise SystemExit(f"bench: {program} is needed (Debian package {package})")
        self.wtfs = wtfs()
        self.python = libtorrent()
        self.btfs = apt("btfs", "btfs")
        self.rqbit = rqbit(may_build_rqbit)
        self._emulator = self._tracker_load = None
        self._hf_emulator = None
        self._npm_tracker = self._olah = ()

    @property
    def tracker_load(self):
        if self._tracker_load is None:
            self._tracker_load = tracker_load()
        return self._tracker_load

    @property
    def hf_emulator(self):
        if self._hf_emulator is None:
            self._hf_emulator = hf_emulator()
        return self._hf_emulator

    @property
    def olah(self):
        if self._olah == ():
            self._olah = olah()
        return self._olah

    @property
    def npm_tracker(self):
        if self._npm_tracker == ():
            self._npm_tracker = npm_tracker()
        return self._npm_tracker

    @property
    def emulator(self):
        if self._emulator is None:
            self._emulator = path_emulator()
        return self._emulator

    def versions(self):
        found = {"wtfs": run([self.wtfs, "--version"], 20).decode().strip(), "libtorrent": LIBTORRENT}
        if self.btfs:
            found["btfs"] = apt_version("btfs")
        if self.rqbit:
            found["rqbit"] = run([self.rqbit, "--version"], 20).decode().strip()
        if self._npm_tracker:
            found["bittorrent-tracker"] = NPM_TRACKER
        if self._olah:
            found["olah"], found["huggingface_hub"] = OLAH, HUGGINGFACE_HUB
        return found
