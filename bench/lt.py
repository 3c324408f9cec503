#!/usr/bin/env python3
"""libtorrent for the bench: it makes torrents, seeds them, and is the rival that downloads them to disk.

lt.py make '<json>'       makes a .torrent, prints one line of JSON, and ends
lt.py sessions '<json>'   one session per address of "listen" in this process; commands as lines of JSON on standard
                          input, one line of JSON back for each; ends with its standard input

TCP only, no DHT, no local discovery, no encryption, no limits: what is measured comes from the peers that were named.
Everything else is libtorrent's default.
"""

import json
import os
import sys
import time

import libtorrent as lt

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
    files.add_file(os.path.basename(path), os.path.getsize(path))
    flags = {"v1": lt.create_torrent.v1_only, "v2": lt.create_torrent.v2_only}[options["version"]]
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
        """Every session of this process seeds the torrent; the data is what it was made from, so no hashing."""
        params = self.parameters(command)
        params.flags |= lt.torrent_flags.seed_mode
        self.handles += [session.add_torrent(params) for session in self.sessions]
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


def main():
    mode, options = sys.argv[1], json.loads(sys.argv[2])
    if mode == "make":
        make(options)
    elif mode == "sessions":
        Sessions(options).serve()
        # Leaving at once: there is no tracker that would have to be told.
        os._exit(0)
    else:
        sys.exit(f"no such mode: {mode}")


if __name__ == "__main__":
    main()
