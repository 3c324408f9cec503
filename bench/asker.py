#!/usr/bin/env python3
"""A scripted peer in raw bytes that asks a client which gives pieces up for them; for bench/soak.

asker.py '<json>' connects to "peer", keeps the book of what the client says it has (bitfield, have, and lt_donthave of
BEP 54), and asks at random: mostly for blocks the client says it has, and with every tenth request for one that the
client said it has no longer. It ends with its standard input, and prints one line of JSON then: what was answered with
right bytes, with wrong ones, rejected (BEP 6), or not answered within "patience_s".
"""

import json
import os
import random
import select
import socket
import struct
import sys
import time

BLOCK = 16384
IN_FLIGHT = 8
CHOKE, UNCHOKE, INTERESTED, HAVE, BITFIELD, REQUEST, PIECE = 0, 1, 2, 4, 5, 6, 7
HAVE_ALL, HAVE_NONE, REJECT, EXTENDED = 14, 15, 16, 20
DONT_HAVE = 7


class Asker:
    def __init__(self, options):
        self.chosen = random.Random(options["seed"])
        self.patience_s = options["patience_s"]
        self.piece_bytes, self.size = options["piece_bytes"], options["size"]
        self.pieces = -(-self.size // self.piece_bytes)
        self.original = os.open(options["original"], os.O_RDONLY)
        self.has, self.gone, self.asked = set(), set(), {}
        self.unchoked, self.rest, self.next_at = False, b"", 0.0
        self.pause_s = options["pause_s"]
        self.said = {
            "told_gone": 0, "asked": 0, "right": 0, "rejected": 0, "asked_gone": 0, "gone_right": 0, "gone_rejected": 0,
            "wrong": 0, "unanswered": 0, "choked": 0, "closed": 0}
        host, _, port = options["peer"].rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 20, (options["from"], 0))
        self.socket.sendall(
            b"\x13BitTorrent protocol" + bytes([0, 0, 0, 0, 0, 0x10, 0, 0x04]) + bytes.fromhex(options["info_hash"])
            + b"-SK0001-" + self.chosen.randbytes(12))
        self.send(EXTENDED, b"\x00d1:md11:lt_donthavei%deee" % DONT_HAVE)
        self.send(HAVE_NONE)
        self.send(INTERESTED)

    def send(self, kind, payload=b""):
        self.socket.sendall(struct.pack(">IB", len(payload) + 1, kind) + payload)

    def messages(self):
        """Messages that have come whole; the handshake is taken off first."""
        if self.rest[:1] == b"\x13":
            if len(self.rest) < 68:
                return
            self.rest = self.rest[68:]
        while len(self.rest) >= 4:
            length = int.from_bytes(self.rest[:4], "big")
            if len(self.rest) < 4 + length:
                return
            message, self.rest = self.rest[4:4 + length], self.rest[4 + length:]
            if message:
                yield message[0], message[1:]

    def handle(self, kind, payload):
        if kind == UNCHOKE:
            self.unchoked = True
        elif kind == CHOKE:
            self.unchoked = False
            self.said["choked"] += 1
        elif kind == HAVE:
            piece = int.from_bytes(payload, "big")
            self.has.add(piece)
            self.gone.discard(piece)
        elif kind == BITFIELD:
            self.has = {p for p in range(self.pieces) if payload[p // 8] & (0x80 >> p % 8)}
        elif kind == HAVE_ALL:
            self.has = set(range(self.pieces))
        elif kind == EXTENDED and payload[0] == DONT_HAVE:
            piece = int.from_bytes(payload[1:], "big")
            self.said["told_gone"] += 1
            self.has.discard(piece)
            self.gone.add(piece)
        elif kind in (PIECE, REJECT):
            self.handle_answer(kind, payload)

    def handle_answer(self, kind, payload):
        piece, begin = struct.unpack_from(">II", payload)
        was = self.asked.pop((piece, begin), None)
        if kind == PIECE:
            right = os.pread(self.original, len(payload) - 8, piece * self.piece_bytes + begin)
            if was is None or payload[8:] != right or len(right) == 0:
                self.said["wrong"] += 1
            else:
                self.said["gone_right" if was["gone"] else "right"] += 1
        elif was is not None:
            self.said["gone_rejected" if was["gone"] else "rejected"] += 1

    def ask(self):
        now = time.monotonic()
        for key in [key for key, was in self.asked.items() if now - was["at"] > self.patience_s]:
            del self.asked[key]
            self.said["unanswered"] += 1
        while self.unchoked and len(self.asked) < IN_FLIGHT and now >= self.next_at:
            from_gone = bool(self.gone) and self.chosen.random() < 0.1
            pieces = self.gone if from_gone else self.has
            if not pieces:
                return
            piece = self.chosen.choice(sorted(pieces))
            length = min(self.piece_bytes, self.size - piece * self.piece_bytes)
            begin = BLOCK * self.chosen.randrange(-(-length // BLOCK))
            self.next_at = now + self.pause_s
            if (piece, begin) in self.asked:
                return
            self.asked[piece, begin] = {"at": now, "gone": from_gone}
            self.said["asked_gone" if from_gone else "asked"] += 1
            self.send(REQUEST, struct.pack(">III", piece, begin, min(BLOCK, length - begin)))

    def run(self):
        while True:
            ready = select.select([self.socket, sys.stdin], [], [], 0.01)[0]
            if sys.stdin in ready and not os.read(sys.stdin.fileno(), 4096):
                return self.said
            if self.socket in ready:
                part = self.socket.recv(1 << 18)
                if not part:
                    self.said["closed"] += 1
                    sys.stdin.buffer.read()
                    return self.said
                self.rest += part
                for kind, payload in self.messages():
                    self.handle(kind, payload)
            self.ask()


if __name__ == "__main__":
    asker = Asker(json.loads(sys.argv[1]))
    try:
        found = asker.run()
    except OSError as error:
        found = asker.said | {"closed": 1, "error": repr(error)}
    print(json.dumps(found))
