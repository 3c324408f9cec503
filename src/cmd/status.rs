//! `wtfs status`: asks every running wtfs of this user what it does.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::print_text;
use crate::cli::Status;
use crate::config::{Layer, Loaded};
use crate::control;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::table::{Align, Table, printable};
use crate::units::{ByteSize, TimeSpan, count};

pub(super) fn run(args: &Status, loaded: Loaded) -> anyhow::Result<Exit> {
    let settings = loaded.resolve(Layer::default())?;
    let runtimes = settings.directories.runtimes();
    let Some(pause) = args.watch else {
        print_text(&shown(args, &runtimes)?)?;
        return Ok(Exit::Success);
    };
    if pause.0.is_zero() {
        return Err(ended(Exit::Usage, "--watch must be more than 0"));
    }
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let block = shown(args, &runtimes)?;
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
fn shown(args: &Status, runtimes: &[&Path]) -> anyhow::Result<String> {
    let answers: Vec<Value> =
        control::ask_all(runtimes).or_end(Exit::Failure, || "running processes cannot be asked".into())?;
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

/// Pinned files of a torrent that are named.
const PINS_NAMED: usize = 10;

/// What this command needs of a process's answer. Unknown keys are passed over: the other may be of another version.
#[derive(Debug, Deserialize)]
struct Process {
    pid: u32,
    role: String,
    path: Option<PathBuf>,
    listening: Vec<String>,
    #[serde(default)]
    cache: Option<Cache>,
    #[serde(default)]
    reads: Option<Reads>,
    torrents: Vec<Torrent>,
    #[serde(default)]
    repositories: Vec<Repository>,
    #[serde(default)]
    sources: Option<Sources>,
    #[serde(default)]
    blobs: Option<Blobs>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    repo: String,
    revision: String,
    commit: String,
    files: usize,
    total_bytes: u64,
    local_bytes: u64,
    #[serde(default)]
    pinned_files: usize,
    #[serde(default)]
    pinned_bytes: u64,
    #[serde(default)]
    newer_commit: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Sources {
    peers: u64,
    hub: u64,
    origin: u64,
}

#[derive(Debug, Deserialize)]
struct Blobs {
    origin_bytes: u64,
    read_bytes: u64,
    fills: u64,
}

#[derive(Debug, Deserialize)]
struct Cache {
    limit_bytes: Option<u64>,
    used_bytes: u64,
    evicted_bytes: u64,
    #[serde(default)]
    disk_free_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Reads {
    at_once: Latency,
    disk: Latency,
    sources: Latency,
    failed: BTreeMap<String, u64>,
    withdrawn: u64,
}

#[derive(Debug, Deserialize)]
struct Latency {
    count: u64,
    p50_us: Option<u64>,
    p99_us: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Torrent {
    name: String,
    phase: String,
    #[serde(default)]
    message: Option<String>,
    #[serde(flatten)]
    check: Check,
    total_bytes: u64,
    pieces: u32,
    pieces_present: u32,
    downloaded_bytes: u64,
    uploaded_bytes: u64,
    download_rate: u64,
    upload_rate: u64,
    #[serde(flatten)]
    waits: Waits,
    #[serde(flatten)]
    kept: Kept,
    #[serde(default)]
    sources: Vec<Source>,
    peers: Vec<Peer>,
    banned: Vec<Banned>,
    trackers: Vec<Tracker>,
    #[serde(default)]
    web_seeds: Vec<WebSeed>,
}

/// How far the hashing of what was there is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Check {
    checked_bytes: u64,
    to_check_bytes: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waits {
    waiting_reads: usize,
    longest_wait_ms: u64,
    stalls: Vec<Stall>,
    not_stored: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Stall {
    cause: String,
    reads: usize,
    total_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Kept {
    pinned_files: usize,
    pinned_bytes: u64,
    pins: Vec<Pin>,
    prefetches: Vec<Prefetch>,
}

#[derive(Debug, Deserialize)]
struct Pin {
    path: String,
    bytes: u64,
    local_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Prefetch {
    path: String,
    done_bytes: u64,
    total_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Source {
    kind: String,
    connected: usize,
    download_rate: u64,
    upload_rate: u64,
    downloaded_bytes: u64,
    uploaded_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Peer {
    addr: String,
    client: String,
    #[serde(default)]
    source: String,
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
struct WebSeed {
    url: String,
    state: String,
    reason: Option<String>,
    downloaded_bytes: u64,
    download_rate: u64,
}

#[derive(Debug, Deserialize)]
struct Tracker {
    url: String,
    state: String,
    message: Option<String>,
    next_announce_s: Option<u64>,
    seeders: Option<u32>,
    leechers: Option<u32>,
    #[serde(default)]
    external_ip: Option<String>,
}

impl Process {
    fn text(&self) -> String {
        let path = self.path.as_ref().map_or_else(String::new, |path| format!(" {}", path.display()));
        let listening = match self.listening.as_slice() {
            [] => "without a network".to_owned(),
            addrs => format!("listening on {}", addrs.join(" ")),
        };
        let mut text = format!("{}{path} (process {}, {listening})\n", self.role, self.pid);
        if let Some(cache) = &self.cache {
            text += &cache.text();
        }
        if let Some(reads) = &self.reads {
            text += &reads.text();
        }
        if let Some(blobs) = self.blobs.as_ref().filter(|_| self.role == "mount") {
            text += &blobs.text(self.sources.as_ref());
        }
        for repository in &self.repositories {
            text += &repository.text();
        }
        for torrent in &self.torrents {
            text += &torrent.text();
        }
        text
    }
}

impl Repository {
    fn text(&self) -> String {
        let short = |commit: &str| printable(&commit.chars().take(12).collect::<String>());
        let (repo, revision) = (printable(&self.repo), printable(&self.revision));
        let files = count(self.files, "file");
        let share = share(self.local_bytes, self.total_bytes);
        let mut text = format!("  {repo}@{revision} ({}): {files}, {share}", short(&self.commit));
        if self.pinned_files > 0 {
            let (files, bytes) = (count(self.pinned_files, "file"), ByteSize(self.pinned_bytes));
            text += &format!(", {files} ({bytes}) pinned");
        }
        if let Some(newer) = &self.newer_commit {
            text += &format!("; {revision} is {} by now: mount it again to see that", short(newer));
        }
        text + "\n"
    }
}

impl Blobs {
    fn text(&self, sources: Option<&Sources>) -> String {
        let (read, fetched) = (ByteSize(self.read_bytes), ByteSize(self.origin_bytes));
        let fills = u32::try_from(self.fills).unwrap_or(u32::MAX);
        let now = count(fills as usize, "file");
        let by = sources.map(|Sources { peers, hub, origin }| {
            let (peers, hub, origin) = (ByteSize(*peers), ByteSize(*hub), ByteSize(*origin));
            format!(" (peers gave {peers}, the hub {hub}, the origin {origin})")
        });
        format!("  files: {read} read, {fetched} fetched{}, {now} being fetched\n", by.unwrap_or_default())
    }
}

impl Cache {
    fn text(&self) -> String {
        let limit = self.limit_bytes.map(|limit| format!(" of {}", ByteSize(limit))).unwrap_or_default();
        let mut text = format!("  cache: {}{limit} used", ByteSize(self.used_bytes));
        if self.evicted_bytes > 0 {
            text += &format!(", {} given up", ByteSize(self.evicted_bytes));
        }
        if let Some(free) = self.disk_free_bytes {
            text += &format!(", {} free on its disk", ByteSize(free));
        }
        text + "\n"
    }
}

impl Reads {
    /// Empty before the first read.
    fn text(&self) -> String {
        let mut parts = Vec::new();
        let latencies =
            [(&self.at_once, "at once"), (&self.disk, "from the disk"), (&self.sources, "fetched")];
        for (latency, how) in latencies {
            if let Some(median) = latency.p50_us {
                let most = latency.p99_us.map(|us| format!(", 99 % {}", time(us))).unwrap_or_default();
                parts.push(format!("{} {how} (half within {}{most})", latency.count, time(median)));
            }
        }
        for (reason, reads) in self.failed.iter().filter(|(_, reads)| **reads > 0) {
            parts.push(format!("{reads} failed ({})", printable(&reason.replace('_', " "))));
        }
        if self.withdrawn > 0 {
            parts.push(format!("{} given up by the reader", self.withdrawn));
        }
        if parts.is_empty() { String::new() } else { format!("  reads: {}\n", parts.join(", ")) }
    }
}

fn time(us: u64) -> TimeSpan {
    TimeSpan(Duration::from_micros(us))
}

/// How much of something is local.
fn share(done: u64, total: u64) -> String {
    format!("{} % of {} local", percent(done, total), ByteSize(total))
}

fn percent(done: u64, total: u64) -> u128 {
    u128::from(done) * 100 / u128::from(total.max(1))
}

/// A cause of stalls in words; one of a later version by its name.
fn in_words(cause: &str) -> String {
    let words = match cause {
        "disk" => "the disk takes long to store what came",
        "no_space" => "there is no room in the cache until something else goes",
        "no_peers" => "nobody is connected",
        "no_source" => "nobody who is connected has the piece",
        "choked" => "all who have the piece choke us",
        "hash_failed" => "the piece came with a wrong hash and is fetched again",
        "download_limit" => "the download limit holds it back",
        "memory" => "pieces in flight hold all the memory there is for them",
        "late" => "what was asked for is late",
        other => return printable(other),
    };
    words.to_owned()
}

impl Torrent {
    fn text(&self) -> String {
        let state = match (self.phase.as_str(), &self.message) {
            ("metadata", _) => "its metadata has not come yet".to_owned(),
            ("checking", _) => {
                let (done, all) = (self.check.checked_bytes, self.check.to_check_bytes);
                format!("what is there is being checked, {} % of {}", percent(done, all), ByteSize(all))
            }
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
        text.push('\n');
        text + &self.waits_text()
            + &self.kept_text()
            + &self.kinds_text()
            + &self.peers_text()
            + &self.trackers_text()
            + &self.web_seeds_text()
    }

    /// Which reads wait and for what, and what held reads up before.
    fn waits_text(&self) -> String {
        let mut text = String::new();
        if self.waits.waiting_reads > 0 {
            let (reads, longest) = (count(self.waits.waiting_reads, "read"), self.waits.longest_wait_ms);
            text += &format!("    {reads} waiting, the longest for {}\n", time(longest.saturating_mul(1000)));
        }
        if let Some(why) = &self.waits.not_stored {
            text += &format!("    nothing can be stored: {}\n", printable(why));
        }
        for stall in &self.waits.stalls {
            let (why, total) = (in_words(&stall.cause), time(stall.total_ms.saturating_mul(1000)));
            text += &match stall.reads {
                0 => format!("    held up for {total} so far: {why}\n"),
                reads => format!("    {} held up, {total} so far: {why}\n", count(reads, "read")),
            };
        }
        text
    }

    /// What is pinned or being fetched because somebody said so.
    fn kept_text(&self) -> String {
        let mut text = String::new();
        if self.kept.pinned_files > 0 {
            let (files, bytes) = (count(self.kept.pinned_files, "file"), ByteSize(self.kept.pinned_bytes));
            text += &format!("    pinned: {files}, {bytes}\n");
        }
        for pin in self.kept.pins.iter().take(PINS_NAMED) {
            text += &format!("      {}: {}\n", printable(&pin.path), share(pin.local_bytes, pin.bytes));
        }
        if self.kept.pinned_files > PINS_NAMED {
            text += &format!("      and {} more\n", self.kept.pinned_files - PINS_NAMED);
        }
        for prefetch in &self.kept.prefetches {
            let far = share(prefetch.done_bytes, prefetch.total_bytes);
            text += &format!("    being fetched: {}: {far}\n", printable(&prefetch.path));
        }
        text
    }

    /// The rates of each kind of source together.
    fn kinds_text(&self) -> String {
        let line = |source: &Source| {
            let [down_rate, up_rate, down, up] =
                [source.download_rate, source.upload_rate, source.downloaded_bytes, source.uploaded_bytes]
                    .map(ByteSize);
            let kind = printable(&source.kind.replace('_', " "));
            let connected = source.connected;
            format!("    {kind}: {connected} connected, {down} down ({down_rate}/s), {up} up ({up_rate}/s)\n")
        };
        self.sources.iter().map(line).collect()
    }

    fn peers_text(&self) -> String {
        let mut table = Table::new([
            ("peer", Align::Left),
            ("over", Align::Left),
            ("client", Align::Left),
            ("down", Align::Right),
            ("rate", Align::Right),
            ("up", Align::Right),
            ("rate", Align::Right),
        ]);
        for peer in &self.peers {
            table.row([
                peer.addr.clone(),
                printable(&peer.source),
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
            if let Some(ip) = &tracker.external_ip {
                line += &format!(", sees us at {}", printable(ip));
            }
            if let Some(message) = &tracker.message {
                line += &format!(": {}", printable(message));
            }
            line + "\n"
        };
        self.trackers.iter().map(describe).collect()
    }

    fn web_seeds_text(&self) -> String {
        let describe = |seed: &WebSeed| {
            let (url, down, rate) =
                (printable(&seed.url), ByteSize(seed.downloaded_bytes), ByteSize(seed.download_rate));
            let reason = seed.reason.as_deref().map(|reason| format!(": {}", printable(reason)));
            let reason = reason.unwrap_or_default();
            format!("    web seed {url}: {}, {down} down ({rate}/s){reason}\n", seed.state)
        };
        self.web_seeds.iter().map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_check_shows_how_far_it_is_and_a_disk_that_refuses_is_named() {
        let torrent = json!({
            "name": "a", "phase": "checking", "checked_bytes": 512, "to_check_bytes": 2048, "total_bytes": 0, "pieces": 0,
            "pieces_present": 0, "downloaded_bytes": 0, "uploaded_bytes": 0, "download_rate": 0, "upload_rate": 0,
            "not_stored": "no space left: write /d/f", "peers": [], "banned": [], "trackers": [],
        });
        let text = serde_json::from_value::<Torrent>(torrent).expect("understood").text();
        assert!(text.contains("a: what is there is being checked, 25 % of 2 KiB;"), "{text}");
        assert!(text.contains("nothing can be stored: no space left: write /d/f"), "{text}");
    }

    #[test]
    fn a_process_is_told_with_its_peers_and_what_ails_its_trackers() {
        let answer = json!({
            "pid": 7, "version": "9", "role": "mount", "path": "/mnt", "listening": ["127.0.0.1:1"], "new": 1,
            "cache": {"limit_bytes": 4096, "used_bytes": 2048, "peak_bytes": 2048, "evicted_bytes": 1024,
                      "disk_free_bytes": 1048576},
            "reads": {"at_once": {"count": 3, "p50_us": 8, "p99_us": 16}, "disk": {"count": 0, "p50_us": null, "p99_us": null},
                      "sources": {"count": 1, "p50_us": 32768, "p99_us": 32768},
                      "failed": {"timed_out": 2, "offline": 0}, "withdrawn": 1},
            "torrents": [{
                "name": "a\u{1b}b", "phase": "ready", "total_bytes": 2048, "pieces": 2, "pieces_present": 1,
                "downloaded_bytes": 1024, "uploaded_bytes": 0, "download_rate": 0, "upload_rate": 0,
                "waiting_reads": 3, "longest_wait_ms": 2500, "banned": [],
                "stalls": [{"cause": "choked", "reads": 2, "total_ms": 4000}, {"cause": "late", "reads": 0, "total_ms": 900}],
                "pinned_files": 1, "pinned_bytes": 2048, "pins": [{"path": "d/\u{7}f", "bytes": 2048, "local_bytes": 1024}],
                "prefetches": [{"path": "g", "done_pieces": 1, "total_pieces": 4, "done_bytes": 1024, "total_bytes": 4096}],
                "sources": [{"kind": "tcp", "connected": 1, "download_rate": 2048, "upload_rate": 0,
                             "downloaded_bytes": 1024, "uploaded_bytes": 0}],
                "peers": [{"addr": "10.0.0.1:2", "client": "lt", "source": "tcp", "downloaded_bytes": 1024, "uploaded_bytes": 0,
                           "download_rate": 2048, "upload_rate": 0}],
                "web_seeds": [{"url": "http://w/\u{7}", "state": "waiting", "reason": "answered with HTTP status 500",
                               "downloaded_bytes": 1024, "download_rate": 0, "outstanding": 0}],
                "trackers": [{"url": "http://t/announce", "state": "failed", "message": "no such name",
                              "next_announce_s": 60, "seeders": null, "leechers": null, "external_ip": "192.0.2.1"}],
            }],
        });
        let process: Process = serde_json::from_value(answer).expect("understood");
        let text = process.text();
        for part in [
            "mount /mnt (process 7",
            "cache: 2 KiB of 4 KiB used, 1 KiB given up, 1 MiB free on its disk",
            "reads: 3 at once (half within 8 µs, 99 % 16 µs), 1 fetched (half within 32 ms, 99 % 32 ms), 2 failed (timed out), \
             1 given up by the reader",
            "a\u{fffd}b: 50 % of 2 KiB local",
            "3 reads waiting, the longest for 2.5 s",
            "2 reads held up, 4 s so far: all who have the piece choke us",
            "held up for 900 ms so far: what was asked for is late",
            "pinned: 1 file, 2 KiB",
            "d/\u{fffd}f: 50 % of 2 KiB local",
            "being fetched: g: 25 % of 4 KiB local",
            "10.0.0.1:2",
            "tcp: 1 connected, 1 KiB down (2 KiB/s), 0 B up (0 B/s)",
            "web seed http://w/\u{fffd}: waiting, 1 KiB down (0 B/s): answered with HTTP status 500",
            "tracker http://t/announce: failed, asked again in 60 s, sees us at 192.0.2.1: no such name",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
}
