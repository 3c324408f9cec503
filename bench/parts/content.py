"""The data and the torrents that are measured with, all below one scratch directory."""

import hashlib
import json
import os

from .processes import HERE, run

MIB = 1 << 20


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    items = sorted((key.encode() if isinstance(key, str) else key, item) for key, item in value.items())
    return b"d" + b"".join(bencode(key) + bencode(item) for key, item in items) + b"e"


def random_file(path, size):
    with open(path, "wb", buffering=0) as file:
        for at in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - at)))
    return path


class Torrent:
    """A .torrent beside the data it was made from."""

    def __init__(self, path, data, piece_bytes, info_hash):
        self.path, self.data, self.piece_bytes, self.info_hash = path, data, piece_bytes, info_hash
        self.name = os.path.basename(data)
        self.size = os.path.getsize(data) if os.path.isfile(data) else 0

    @property
    def save(self):
        return os.path.dirname(self.data)


def make(tools, data, out, piece_bytes, version="v1"):
    """A torrent of one file, made by libtorrent."""
    options = {"path": data, "out": out, "piece_bytes": piece_bytes, "version": version}
    said = run([tools.python, os.path.join(HERE, "lt.py"), "make", json.dumps(options)], 300)
    return Torrent(out, data, piece_bytes, json.loads(said)["info_hash"])


def write_metainfo(path, info):
    with open(path, "wb") as file:
        file.write(bencode({"info": info}))
    return path


def small_torrent(path, number):
    """One of many torrents that nobody has: a file of 64 KiB in pieces of 16 KiB with made-up hashes."""
    pieces = b"".join(hashlib.sha1(b"%d %d" % (number, piece)).digest() for piece in range(4))
    info = {"name": f"idle-{number:05}.bin", "length": 65536, "piece length": 16384, "pieces": pieces}
    return write_metainfo(path, info)


def many_files(path, count):
    """A torrent of `count` files of 1000 bytes, 100 to a directory, with made-up hashes."""
    files = [{"length": 1000, "path": [f"d{n // 100:04}", f"f{n:06}.bin"]} for n in range(count)]
    pieces = b"".join(hashlib.sha1(b"%d" % n).digest() for n in range((count * 1000 + 65535) // 65536))
    return write_metainfo(path, {"name": "many", "files": files, "piece length": 65536, "pieces": pieces})


def zeros(tools, scratch, pieces):
    """A torrent of so many pieces of 16 KiB, all of them zeros: real data that takes no disk."""
    data = os.path.join(scratch, f"zeros-{pieces}.bin")
    with open(data, "wb") as file:
        file.truncate(pieces * 16384)
    path = f"{data}.torrent"
    info = {
        "name": os.path.basename(data),
        "length": pieces * 16384,
        "piece length": 16384,
        "pieces": hashlib.sha1(bytes(16384)).digest() * pieces,
    }
    write_metainfo(path, info)
    return Torrent(path, data, 16384, hashlib.sha1(bencode(info)).hexdigest())
