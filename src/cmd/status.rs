//! `wtfs status`: asks every running wtfs of this user what it does.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::print_text;
use crate::cli::Status;
use crate::config::{Layer, Loaded};
use crate::control;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::table::{Align, Table, printable};
use crate::units::{ByteSize, count};

pub(super) fn run(args: &Status, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let runtime = settings.directories.runtime();
    let Some(pause) = args.watch else {
        print_text(&shown(args, runtime)?)?;
        return Ok(Exit::Success);
    };
    if pause.0.is_zero() {
        return Err(ended(Exit::Usage, "--watch must be more than 0"));
    }
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let block = shown(args, runtime)?;
        // Over what was there, each line cleared to its end, and then the rest: no flicker of an empty screen. In a pipe
        // a block each time.
        let block = match is_terminal {
            true => format!("\x1b[H{}\x1b[J", block.replace('\n', "\x1b[K\n")),
            false => block + "\n",
        };
        match std::io::stdout().lock().write_all(block.as_bytes()).and_then(|()| std::io::stdout().flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Exit::Success),
            written => written?,
        }
        std::thread::sleep(pause.0);
    }
}

/// What is running now, as it is printed.
fn shown(args: &Status, runtime: &Path) -> anyhow::Result<String> {
    let answers: Vec<Value> =
        control::ask_all(runtime).or_end(Exit::Failure, || "running processes cannot be asked".into())?;
    if args.json {
        return Ok(serde_json::to_string_pretty(&answers)? + "\n");
    }
    if answers.is_empty() {
        return Ok("nothing is running\n".into());
    }
    let mut text = String::new();
    for answer in answers {
        match serde_json::from_value::<Process>(answer) {
            Ok(process) => text += &process.text(),
            Err(error) => {
                tracing::warn!(%error, "a running wtfs of another version was not understood; try --json")
            }
        }
    }
    Ok(text)
}

/// What this command needs of a process's answer. Unknown keys are passed over: the other may be of another version.
#[derive(Debug, Deserialize)]
struct Process {
    pid: u32,
    role: String,
    path: Option<PathBuf>,
    listening: Vec<String>,
    #[serde(default)]
    cache: Option<Cache>,
    torrents: Vec<Torrent>,
}

#[derive(Debug, Deserialize)]
struct Cache {
    limit_bytes: Option<u64>,
    used_bytes: u64,
    evicted_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Torrent {
    name: String,
    phase: String,
    #[serde(default)]
    message: Option<String>,
    total_bytes: u64,
    pieces: u32,
    pieces_present: u32,
    downloaded_bytes: u64,
    uploaded_bytes: u64,
    download_rate: u64,
    upload_rate: u64,
    waiting_reads: usize,
    peers: Vec<Peer>,
    banned: Vec<Banned>,
    trackers: Vec<Tracker>,
}

#[derive(Debug, Deserialize)]
struct Peer {
    addr: String,
    client: String,
    #[serde(default)]
    transport: String,
    downloaded_bytes: u64,
    uploaded_bytes: u64,
    download_rate: u64,
    upload_rate: u64,
}

#[derive(Debug, Deserialize)]
struct Banned {
    addr: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Tracker {
    url: String,
    state: String,
    message: Option<String>,
    next_announce_s: Option<u64>,
    seeders: Option<u32>,
    leechers: Option<u32>,
}

impl Process {
    fn text(&self) -> String {
        let path = self.path.as_ref().map_or_else(String::new, |path| format!(" {}", path.display()));
        let mut text = format!(
            "{}{path} (process {}, listening on {})\n",
            self.role,
            self.pid,
            self.listening.join(" ")
        );
        if let Some(cache) = &self.cache {
            text += &cache.text();
        }
        for torrent in &self.torrents {
            text += &torrent.text();
        }
        text
    }
}

impl Cache {
    fn text(&self) -> String {
        let limit = self.limit_bytes.map(|limit| format!(" of {}", ByteSize(limit))).unwrap_or_default();
        let mut text = format!("  cache: {}{limit} used", ByteSize(self.used_bytes));
        if self.evicted_bytes > 0 {
            text += &format!(", {} given up", ByteSize(self.evicted_bytes));
        }
        text + "\n"
    }
}

impl Torrent {
    fn text(&self) -> String {
        let state = match (self.phase.as_str(), &self.message) {
            ("metadata", _) => "its metadata has not come yet".to_owned(),
            ("checking", _) => "what is there is being checked".to_owned(),
            (_, Some(message)) => format!("failed: {}", printable(message)),
            _ => {
                let share = u64::from(self.pieces_present) * 100 / u64::from(self.pieces.max(1));
                format!("{share} % of {} local", ByteSize(self.total_bytes))
            }
        };
        let mut text = format!(
            "  {}: {state}; {} down ({}/s), {} up ({}/s), {}",
            printable(&self.name),
            ByteSize(self.downloaded_bytes),
            ByteSize(self.download_rate),
            ByteSize(self.uploaded_bytes),
            ByteSize(self.upload_rate),
            count(self.peers.len(), "peer")
        );
        if self.waiting_reads > 0 {
            text += &format!(", {} waiting", count(self.waiting_reads, "read"));
        }
        text.push('\n');
        text + &self.kinds_text() + &self.peers_text() + &self.trackers_text()
    }

    /// The rates of each kind of source together.
    fn kinds_text(&self) -> String {
        let mut kinds: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
        for peer in &self.peers {
            let (peers, down, up) = kinds.entry(&peer.transport).or_default();
            *peers += 1;
            *down += peer.download_rate;
            *up += peer.upload_rate;
        }
        let kinds = kinds.into_iter().filter(|(kind, _)| !kind.is_empty());
        let line = |(kind, (peers, down, up)): (&str, (usize, u64, u64))| {
            let (peers, down, up) = (count(peers, "peer"), ByteSize(down), ByteSize(up));
            format!("    over {}: {peers}, {down}/s down, {up}/s up\n", printable(kind))
        };
        kinds.map(line).collect()
    }

    fn peers_text(&self) -> String {
        let mut table = Table::new([
            ("peer", Align::Left),
            ("client", Align::Left),
            ("down", Align::Right),
            ("rate", Align::Right),
            ("up", Align::Right),
            ("rate", Align::Right),
        ]);
        for peer in &self.peers {
            table.row([
                peer.addr.clone(),
                printable(&peer.client),
                ByteSize(peer.downloaded_bytes).to_string(),
                format!("{}/s", ByteSize(peer.download_rate)),
                ByteSize(peer.uploaded_bytes).to_string(),
                format!("{}/s", ByteSize(peer.upload_rate)),
            ]);
        }
        let mut text = if self.peers.is_empty() { String::new() } else { table.render(4) };
        for banned in &self.banned {
            text += &format!("    banned {}: {}\n", banned.addr, printable(&banned.reason));
        }
        text
    }

    fn trackers_text(&self) -> String {
        let describe = |tracker: &Tracker| {
            let mut line = format!("    tracker {}: {}", printable(&tracker.url), tracker.state);
            if let (Some(seeders), Some(leechers)) = (tracker.seeders, tracker.leechers) {
                line += &format!(", {seeders} complete, {leechers} not");
            }
            if let Some(seconds) = tracker.next_announce_s {
                line += &format!(", asked again in {seconds} s");
            }
            if let Some(message) = &tracker.message {
                line += &format!(": {}", printable(message));
            }
            line + "\n"
        };
        self.trackers.iter().map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_process_is_told_with_its_peers_and_what_ails_its_trackers() {
        let answer = json!({
            "pid": 7, "version": "9", "role": "mount", "path": "/mnt", "listening": ["127.0.0.1:1"], "new": 1,
            "cache": {"limit_bytes": 4096, "used_bytes": 2048, "peak_bytes": 2048, "evicted_bytes": 1024},
            "torrents": [{
                "name": "a\u{1b}b", "phase": "ready", "total_bytes": 2048, "pieces": 2, "pieces_present": 1,
                "downloaded_bytes": 1024, "uploaded_bytes": 0, "download_rate": 0, "upload_rate": 0,
                "waiting_reads": 3, "banned": [],
                "peers": [{"addr": "10.0.0.1:2", "client": "lt", "transport": "tcp", "downloaded_bytes": 1024, "uploaded_bytes": 0,
                           "download_rate": 2048, "upload_rate": 0}],
                "trackers": [{"url": "http://t/announce", "state": "failed", "message": "no such name",
                              "next_announce_s": 60, "seeders": null, "leechers": null}],
            }],
        });
        let process: Process = serde_json::from_value(answer).expect("understood");
        let text = process.text();
        for part in [
            "mount /mnt (process 7",
            "cache: 2 KiB of 4 KiB used, 1 KiB given up",
            "a\u{fffd}b: 50 % of 2 KiB local",
            "3 reads waiting",
            "10.0.0.1:2",
            "over tcp: 1 peer, 2 KiB/s down, 0 B/s up",
            "tracker http://t/announce: failed, asked again in 60 s: no such name",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
}
