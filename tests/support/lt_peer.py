#!/usr/bin/env python3
"""libtorrent as the other side of a test.

lt_peer.py create '<json>'   makes a .torrent, prints what it is as one line of JSON, and ends
lt_peer.py peer '<json>'     one session: commands as lines of JSON on standard input, one line of JSON
                             back for each, with the same "id"; ends with its standard input

No DHT, no local discovery, no port mapping, no uTP, no encryption: what a test sees comes from the peers it
named. Several connections per address are allowed, and nothing is limited unless a command says so.
"""

import json
import os
import sys
import time

import libtorrent as lt


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def create(options):
    files = lt.file_storage()
    add_sorted(files, options["path"])
    flags = {"v1": lt.create_torrent.v1_only, "hybrid": 0, "v2": lt.create_torrent.v2_only}[options["version"]]
    torrent = lt.create_torrent(files, options.get("piece_bytes", 0), flags)
    for tier, url in enumerate(options.get("trackers", [])):
        torrent.add_tracker(url, tier)
    for url in options.get("webseeds", []):
        torrent.add_url_seed(url)
    if options.get("private"):
        torrent.set_priv(True)
    if options.get("comment"):
        torrent.set_comment(options["comment"])
    lt.set_piece_hashes(torrent, os.path.dirname(options["path"]))
    with open(options["out"], "wb") as out:
        out.write(lt.bencode(torrent.generate()))
    describe(options["out"])


def add_sorted(files, path):
    """Adds what libtorrent's own add_files would, but in the order of the names and not of the directory entries:
    that differs between file systems, and with it the info hash."""
    parent = os.path.dirname(path)
    if os.path.isfile(path):
        files.add_file(os.path.basename(path), os.path.getsize(path))
        return
    found = [os.path.join(top, name) for top, _, names in os.walk(path) for name in names]
    for file in sorted(found, key=lambda file: file.encode().split(b"/")):
        files.add_file(os.path.relpath(file, parent), os.path.getsize(file))


def describe(path):
    info = lt.torrent_info(path)
    hashes = info.info_hashes()
    say({
        "info_hash": str(hashes.v1 if hashes.has_v1() else hashes.v2)[:40],
        "piece_bytes": info.piece_length(),
        "pieces": info.num_pieces(),
        "total_bytes": info.total_size(),
        "private": info.priv(),
        "files": [info.files().file_path(i) for i in range(info.num_files())],
    })


SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "out_enc_policy": lt.enc_policy.disabled,
    "in_enc_policy": lt.enc_policy.enabled,
    "unchoke_slots_limit": -1,
    "connection_speed": 200,
    "min_reconnect_time": 1,
    "announce_to_all_tiers": True,
    "announce_to_all_trackers": True,
    "allowed_enc_level": lt.enc_level.plaintext,
    "validate_https_trackers": False,
    "ssrf_mitigation": False,
    "alert_mask": lt.alert.category_t.error_notification | lt.alert.category_t.status_notification,
}


class Peer:
    def __init__(self, options):
        settings = dict(SETTINGS)
        ip, _, port = options["listen"].rpartition(":")
        settings["listen_interfaces"] = options["listen"]
        settings["outgoing_interfaces"] = ip
        settings.update(options.get("settings", {}))
        self.session = lt.session(settings)
        self.torrents = {}
        deadline = time.monotonic() + 20
        while self.session.listen_port() == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        say({"event": "ready", "listen": f"{ip}:{self.session.listen_port()}"})

    def add(self, command):
        if "magnet" in command:
            params = lt.parse_magnet_uri(command["magnet"])
        else:
            params = lt.add_torrent_params()
            params.ti = lt.torrent_info(command["torrent"])
        params.save_path = command["save"]
        params.flags &= ~lt.torrent_flags.paused
        params.flags &= ~lt.torrent_flags.auto_managed
        if command.get("seed"):
            # The data is what the torrent was made from: no need to hash it again.
            params.flags |= lt.torrent_flags.seed_mode
        handle = self.session.add_torrent(params)
        self.torrents[command["name"]] = handle
        for peer in command.get("peers", []):
            self.connect(handle, peer)
        return {}

    @staticmethod
    def connect(handle, peer):
        ip, _, port = peer.rpartition(":")
        handle.connect_peer((ip.strip("[]"), int(port)))

    def stats(self, command):
        handle = self.torrents[command["name"]]
        status = handle.status()
        return {
            "uploaded": status.total_payload_upload,
            "downloaded": status.total_payload_download,
            "failed_bytes": status.total_failed_bytes,
            "redundant_bytes": status.total_redundant_bytes,
            "progress": status.progress,
            "seeding": status.is_seeding,
            "peers": status.num_peers,
            "error": status.errc.message() if status.errc.value() else "",
        }

    def limit(self, command):
        handle = self.torrents[command["name"]]
        handle.set_upload_limit(command.get("upload", 0))
        handle.set_download_limit(command.get("download", 0))
        return {}

    def remove(self, command):
        self.session.remove_torrent(self.torrents.pop(command["name"]))
        return {}

    def serve(self):
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = getattr(self, command["cmd"])(command)
            except Exception as error:  # told to the test, which fails with it
                answer = {"failed": repr(error)}
            say({"id": command["id"], **answer})


def main():
    mode, options = sys.argv[1], json.loads(sys.argv[2])
    if mode == "create":
        create(options)
    elif mode == "describe":
        describe(options["path"])
    elif mode == "peer":
        peer = Peer(options)
        peer.serve()
        # Leaving quickly: the session's own shutdown would announce "stopped" and wait for it.
        os._exit(0)
    else:
        sys.exit(f"no such mode: {mode}")


if __name__ == "__main__":
    main()
