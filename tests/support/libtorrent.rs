//! libtorrent, driven through `lt_peer.py`: the other people's client that seeds, leeches and makes torrents.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ChildStdin, Command},
    time::Duration,
};

use serde_json::{Value, json};
use wtfs_testkit::{
    net,
    process::{self, Process},
    wait,
};

use super::{
    need,
    stage::{PATIENCE, Stage},
};

fn script(stage: &Stage, mode: &str, options: &Value) -> Command {
    let mut command = Command::new(need::python());
    stage.isolate(&mut command);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/lt_peer.py");
    command.args(["-W", "ignore", script, mode]).arg(options.to_string());
    command
}

/// A torrent that libtorrent made.
#[derive(Clone, Debug)]
pub(crate) struct MadeTorrent {
    pub(crate) path: PathBuf,
    pub(crate) info_hash: String,
    pub(crate) piece_bytes: u64,
    pub(crate) pieces: u64,
    pub(crate) total_bytes: u64,
}

impl MadeTorrent {
    fn from_json(path: &Path, said: &Value) -> Self {
        let number = |key: &str| said[key].as_u64().expect("a number");
        Self {
            path: path.to_owned(),
            info_hash: said["info_hash"].as_str().expect("a hash").to_owned(),
            piece_bytes: number("piece_bytes"),
            pieces: number("pieces"),
            total_bytes: number("total_bytes"),
        }
    }

    /// A magnet link with these peers (BEP 9, `x.pe`) and trackers.
    pub(crate) fn magnet(&self, peers: &[SocketAddr], trackers: &[String]) -> String {
        magnet(&self.info_hash, peers, trackers)
    }
}

/// A magnet link of an info hash in hex.
pub(crate) fn magnet(info_hash: &str, peers: &[SocketAddr], trackers: &[String]) -> String {
    let mut link = format!("magnet:?xt=urn:btih:{info_hash}");
    for peer in peers {
        link.push_str(&format!("&x.pe={peer}"));
    }
    for tracker in trackers {
        let escaped = tracker.replace(':', "%3A").replace('/', "%2F").replace('?', "%3F");
        link.push_str(&format!("&tr={escaped}"));
    }
    link
}

/// Makes a v1 torrent of `data` with libtorrent.
#[track_caller]
pub(crate) fn create(stage: &Stage, data: &Path, piece_bytes: u32, trackers: &[String]) -> MadeTorrent {
    let more = json!({ "trackers": trackers });
    create_with(stage, data, piece_bytes, &more)
}

/// As [`create`], with further options of `lt_peer.py create`.
#[track_caller]
pub(crate) fn create_with(stage: &Stage, data: &Path, piece_bytes: u32, more: &Value) -> MadeTorrent {
    let name = data.file_name().expect("data has a name").to_string_lossy().into_owned();
    let out = stage.join(format!("torrents/{name}.torrent"));
    let mut options = json!({ "path": data, "out": out, "piece_bytes": piece_bytes, "version": "v1" });
    let (Some(all), Some(more)) = (options.as_object_mut(), more.as_object()) else {
        panic!("not an object")
    };
    all.extend(more.clone());
    let said = process::run(script(stage, "create", &options), PATIENCE).expect_success("libtorrent creates");
    MadeTorrent::from_json(&out, &serde_json::from_str(&said).expect("JSON"))
}

/// What libtorrent makes of a .torrent file.
#[track_caller]
pub(crate) fn describe(stage: &Stage, torrent: &Path) -> Value {
    let options = json!({ "path": torrent });
    let said = process::run(script(stage, "describe", &options), PATIENCE).expect_success("libtorrent loads");
    serde_json::from_str(&said).expect("JSON")
}

/// Counters of one torrent.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    /// Payload sent, in bytes.
    pub(crate) uploaded: u64,
    /// Payload received, in bytes.
    pub(crate) downloaded: u64,
    /// Bytes that failed the hash check.
    pub(crate) failed_bytes: u64,
    pub(crate) is_seeding: bool,
}

/// A running libtorrent session.
#[derive(Debug)]
pub(crate) struct Libtorrent {
    process: Process,
    stdin: ChildStdin,
    addr: SocketAddr,
    next_id: u64,
    next_line: usize,
}

impl Libtorrent {
    /// Starts a session at an address of its own.
    #[track_caller]
    pub(crate) fn start(stage: &Stage) -> Self {
        let addr = net::fresh_addr();
        let command = script(stage, "peer", &json!({ "listen": addr.to_string() }));
        let mut process = Process::spawn("libtorrent", command, &stage.log("libtorrent"));
        let stdin = process.take_stdin().expect("not taken before");
        let (_, next_line) = process.wait_for_line("libtorrent is ready", PATIENCE, 0, |line| {
            line.contains("\"ready\"").then_some(())
        });
        Self { process, stdin, addr, next_id: 0, next_line }
    }

    /// A session that seeds this torrent, whose data is below `save`, as `"t"`.
    #[track_caller]
    pub(crate) fn seeder(stage: &Stage, torrent: &Path, save: &Path) -> Self {
        let mut session = Self::start(stage);
        session.command(json!({ "cmd": "add", "name": "t", "torrent": torrent, "save": save, "seed": true }));
        session
    }

    /// A session that downloads this torrent from these peers into `save`, as `"t"`.
    #[track_caller]
    pub(crate) fn leecher(stage: &Stage, torrent: &Path, save: &Path, peers: &[SocketAddr]) -> Self {
        let mut session = Self::start(stage);
        session.leech(torrent, save, peers);
        session
    }

    /// Begins to download this torrent from these peers into `save`, as `"t"`.
    #[track_caller]
    pub(crate) fn leech(&mut self, torrent: &Path, save: &Path, peers: &[SocketAddr]) {
        let add = json!({ "cmd": "add", "name": "t", "torrent": torrent, "save": save, "peers": peers });
        self.command(add);
    }

    /// As [`Libtorrent::leecher`], from a magnet link.
    #[track_caller]
    pub(crate) fn magnet_leecher(stage: &Stage, magnet: &str, save: &Path, peers: &[SocketAddr]) -> Self {
        let mut session = Self::start(stage);
        session.command(json!({ "cmd": "add", "name": "t", "magnet": magnet, "save": save, "peers": peers }));
        session
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Limits the upload of the torrent, in bytes a second; 0 is no limit.
    #[track_caller]
    pub(crate) fn limit_upload(&mut self, bytes: u64) {
        self.command(json!({ "cmd": "limit", "name": "t", "upload": bytes }));
    }

    #[track_caller]
    pub(crate) fn stats(&mut self) -> Stats {
        let said = self.command(json!({ "cmd": "stats", "name": "t" }));
        let number = |key: &str| said[key].as_u64().unwrap_or_else(|| panic!("{key} in {said}"));
        Stats {
            uploaded: number("uploaded"),
            downloaded: number("downloaded"),
            failed_bytes: number("failed_bytes"),
            is_seeding: said["seeding"] == true,
        }
    }

    /// Waits until the download is whole.
    #[track_caller]
    pub(crate) fn wait_complete(&mut self, deadline: Duration) -> Stats {
        wait::eventually("libtorrent has it all", deadline, || Some(self.stats()).filter(|s| s.is_seeding))
    }

    #[track_caller]
    fn command(&mut self, mut command: Value) -> Value {
        self.next_id += 1;
        let id = self.next_id;
        command["id"] = id.into();
        writeln!(self.stdin, "{command}").expect("libtorrent runs");
        let answer = |line: &str| serde_json::from_str::<Value>(line).ok().filter(|said| said["id"] == id);
        let (said, next) = self.process.wait_for_line("an answer", PATIENCE, self.next_line, answer);
        self.next_line = next;
        assert!(said.get("failed").is_none(), "libtorrent: {command} failed: {said}");
        said
    }
}
