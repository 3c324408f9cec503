#!/usr/bin/env python3
"""libtorrent for the bench: it makes torrents, seeds them, and is the rival that downloads them to disk.

lt.py make '<json>'       makes a .torrent, prints one line of JSON, and ends
lt.py sessions '<json>'   one session per address of "listen" in this process; commands as lines of JSON on standard
                          input, one line of JSON back for each; ends with its standard input
lt.py member '<json>'     seeds all of "torrents" (pairs of a .torrent and where its data is) and keeps connecting to
                          "peers", until it is ended; nothing is said or asked

TCP only, no DHT, no local discovery, no encryption, no limits: what is measured comes from the peers that were named.
Everything else is libtorrent's default.
"""

import json
import os
import re
import sys
import time

import libtorrent as lt

# It chooses blocks ahead of asking for them, and does not take back what it chose.
QUEUE_S = 10
SAID = re.compile(r"(==>|<==) (REQUEST|HAVE|DONT_HAVE) \[ piece: (\d+)")
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": lt.enc_policy.disabled,
    "in_enc_policy": lt.enc_policy.enabled,
    "allowed_enc_level": lt.enc_level.plaintext,
    "unchoke_slots_limit": -1,
    "connection_speed": 200,
    "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
}


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def make(options):
    files = lt.file_storage()
    path = options["path"]
    for file in [path] if os.path.isfile(path) else sorted(os.path.join(path, name) for name in os.listdir(path)):
        files.add_file(os.path.relpath(file, os.path.dirname(path)), os.path.getsize(file))
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only, "hybrid": 0}[options["version"]]
    torrent = lt.create_torrent(files, options["piece_bytes"], flags)
    lt.set_piece_hashes(torrent, os.path.dirname(path))
    with open(options["out"], "wb") as out:
        out.write(lt.bencode(torrent.generate()))
    info = lt.torrent_info(options["out"])
    say({"info_hash": str(info.info_hashes().get_best()), "pieces": info.num_pieces()})


class Sessions:
    def __init__(self, options):
        self.sessions = []
        for listen in options["listen"]:
            settings = dict(SETTINGS, listen_interfaces=listen, outgoing_interfaces=listen.rpartition(":")[0])
            self.sessions.append(lt.session(settings))
        deadline = time.monotonic() + 30
        while any(session.listen_port() == 0 for session in self.sessions):
            if time.monotonic() > deadline:
                sys.exit("libtorrent does not listen")
            time.sleep(0.01)
        self.handles = []
        say({"ready": True})

    def parameters(self, command):
        params = lt.add_torrent_params()
        params.ti = lt.torrent_info(command["torrent"])
        params.save_path = command["save"]
        params.flags &= ~lt.torrent_flags.paused
        params.flags &= ~lt.torrent_flags.auto_managed
        return params

    def seed(self, command):
        """Every session of this process seeds the torrent. The data is what it was made from: unless "checked" it is
        not hashed before, but piece by piece when a peer first asks for some of it."""
        params = self.parameters(command)
        if not command.get("checked"):
            params.flags |= lt.torrent_flags.seed_mode
        self.handles += [session.add_torrent(params) for session in self.sessions]
        deadline = time.monotonic() + 600
        while not all(handle.status().is_seeding for handle in self.handles):
            if time.monotonic() > deadline:
                sys.exit("libtorrent did not check its data")
            time.sleep(0.02)
        return {}

    def download(self, command):
        """The first session downloads the torrent, to the end or for "seconds"."""
        start = time.monotonic()
        session = self.sessions[0]
        handle = session.add_torrent(self.parameters(command))
        for peer in command["peers"]:
            ip, _, port = peer.rpartition(":")
            handle.connect_peer((ip, int(port)))
        end = start + command["seconds"]
        done = False
        while not done and time.monotonic() < end:
            session.wait_for_alert(50)
            done = any(isinstance(alert, lt.torrent_finished_alert) for alert in session.pop_alerts())
        seconds = time.monotonic() - start
        status = handle.status()
        return {
            "seconds": seconds,
            "bytes": status.total_done,
            "complete": done,
            "redundant_bytes": status.total_redundant_bytes,
        }

    def limit(self, command):
        """Bytes a second that each torrent sends at most; 0 is no limit."""
        for handle in self.handles:
            handle.set_upload_limit(command["upload"])
        return {}

    def watch(self, command):
        """The first session downloads slowly from peers that give pieces up, and its log of what they say is kept."""
        session = self.sessions[0]
        session.apply_settings({
            "alert_mask": lt.alert.category_t.peer_log_notification, "alert_queue_size": 1_000_000,
            "download_rate_limit": command["rate"], "max_out_request_queue": 4})
        self.watched = {"gone": {}, "told": 0, "asked": 0, "asked_queued": 0, "asked_again": 0}
        params = self.parameters(command)
        handle = session.add_torrent(params)
        handle.set_download_limit(command["rate"])
        for peer in command["peers"]:
            ip, _, port = peer.rpartition(":")
            handle.connect_peer((ip, int(port)))
        self.handles.append(handle)
        return {}

    def watched_so_far(self, _command):
        """How often it was told that a piece is gone, and how often it asked for one all the same."""
        said = self.watched
        for alert in self.sessions[0].pop_alerts():
            if not isinstance(alert, lt.peer_log_alert):
                continue
            told = SAID.search(alert.message())
            if told is None:
                continue
            way, kind, piece = told.group(1), told.group(2), int(told.group(3))
            if way == "==>" and kind == "REQUEST":
                said["asked"] += 1
                if piece in said["gone"]:
                    is_old = time.monotonic() - said["gone"][piece] > QUEUE_S
                    said["asked_again" if is_old else "asked_queued"] += 1
            elif way == "<==" and kind == "DONT_HAVE":
                said["told"] += 1
                said["gone"][piece] = time.monotonic()
            elif way == "<==" and kind == "HAVE":
                said["gone"].pop(piece, None)
        return {key: said[key] for key in ("told", "asked", "asked_queued", "asked_again")} | {
            "bytes": self.handles[-1].status().total_payload_download}

    def counters(self, _command):
        """What the sessions gave in all, and how many requests came in."""
        totals = {"uploaded_bytes": 0, "requests": 0}
        for session in self.sessions:
            session.post_session_stats()
            deadline = time.monotonic() + 10
            values = None
            while values is None and time.monotonic() < deadline:
                session.wait_for_alert(100)
                for alert in session.pop_alerts():
                    if isinstance(alert, lt.session_stats_alert):
                        values = alert.values
            if values is not None:
                totals["uploaded_bytes"] += values["net.sent_payload_bytes"]
                totals["requests"] += values["ses.num_incoming_request"]
        return totals

    def serve(self):
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = getattr(self, command["cmd"])(command)
            except Exception as error:  # the bench reports it and goes on with the next row
                answer = {"failed": repr(error)}
            say(answer)


def member(options):
    sessions = Sessions({"listen": [options["listen"]]})
    for torrent, save in options["torrents"]:
        sessions.seed({"torrent": torrent, "save": save})
    while True:
        for handle in sessions.handles:
            for peer in options["peers"]:
                ip, _, port = peer.rpartition(":")
                handle.connect_peer((ip, int(port)))
        time.sleep(2)


def main():
    mode, options = sys.argv[1], json.loads(sys.argv[2])
    if mode == "make":
        make(options)
    elif mode == "member":
        member(options)
    elif mode == "sessions":
        Sessions(options).serve()
        # Leaving at once: there is no tracker that would have to be told.
        os._exit(0)
    else:
        sys.exit(f"no such mode: {mode}")


if __name__ == "__main__":
    main()
