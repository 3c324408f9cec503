//! `wtfs serve` in a test's own world, and a client that asks it one thing at a time.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use wtfs_testkit::{bencode, net, process::Process, wait};

use super::stage::{PATIENCE, Stage, text};

/// A running hub.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
}

/// One answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Hub {
    /// Starts a hub that shares `root`, and waits until it says that it serves.
    #[track_caller]
    pub(crate) fn start(stage: &Stage, root: &Path, flags: &[&str]) -> Self {
        let addr = net::fresh_addr();
        Self::start_at(stage, root, addr, flags)
    }

    /// As [`Hub::start`], at an address.
    #[track_caller]
    pub(crate) fn start_at(stage: &Stage, root: &Path, addr: SocketAddr, flags: &[&str]) -> Self {
        let (listen, peers, root) = (addr.to_string(), net::fresh_addr().to_string(), text(root));
        let is_told = flags.contains(&"--peer-listen");
        let ours = if is_told { vec![] } else { vec!["--peer-listen", peers.as_str()] };
        let args = [&["serve", "--listen", &listen, "--root", &root][..], &ours, flags].concat();
        let mut process = stage.spawn("serve", &args);
        process.wait_for_line("wtfs serve serves", PATIENCE, 0, |line| {
            line.starts_with("serving at ").then_some(())
        });
        Self { process, addr }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(path, "")
    }

    /// Asks for some bytes of a file.
    #[track_caller]
    pub(crate) fn get_range(&self, path: &str, range: Range<u64>) -> Answer {
        self.ask(path, &format!("Range: bytes={}-{}\r\n", range.start, range.end - 1))
    }

    #[track_caller]
    pub(crate) fn ask(&self, path: &str, header: &str) -> Answer {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{header}\r\n", self.addr);
        let mut stream = TcpStream::connect(self.addr).expect("the hub accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.write_all(request.as_bytes()).expect("the hub reads");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("the hub answers");
        let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&received[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        Answer { status, head, body: received[end + 4..].to_vec() }
    }

    /// What it lists.
    #[track_caller]
    pub(crate) fn torrents(&self) -> Vec<Value> {
        let list: Value = serde_json::from_slice(&self.get("/torrents").body).expect("JSON");
        list["torrents"].as_array().expect("a list").clone()
    }

    /// Waits until a name is served; gives its info hash.
    #[track_caller]
    pub(crate) fn wait_ready(&self, name: &str) -> String {
        wait::eventually(&format!("{name} is served"), PATIENCE, || {
            let torrents = self.torrents();
            let entry = torrents.iter().find(|entry| entry["name"] == name && entry["state"] == "ready")?;
            entry["info_hash"].as_str().map(str::to_owned)
        })
    }

    /// Waits until a path is answered with this status.
    #[track_caller]
    pub(crate) fn wait_status(&self, path: &str, status: u16) -> Answer {
        wait::eventually(&format!("{path} is {status}"), PATIENCE, || {
            Some(self.get(path)).filter(|answer| answer.status == status)
        })
    }

    /// Saves the `.torrent` of a name.
    #[track_caller]
    pub(crate) fn save_torrent(&self, stage: &Stage, name: &str) -> PathBuf {
        self.wait_ready(name);
        let answer = self.get(&format!("/torrent/{name}.torrent"));
        assert_eq!(answer.status, 200, "{}", answer.head);
        let path = stage.join(format!("torrents/{name}.torrent"));
        fs::write(&path, answer.body).expect("the scratch directory can be written");
        path
    }

    /// As [`Hub::save_torrent`], with the web seed of BEP 19 alone: without trackers nobody finds a peer.
    #[track_caller]
    pub(crate) fn save_web_seeded(&self, stage: &Stage, name: &str) -> PathBuf {
        let path = self.save_torrent(stage, name);
        let bytes = fs::read(&path).expect("just written");
        let (mut torrent, _) = bencode::Value::decode_prefix(&bytes).expect("bencode");
        let bencode::Value::Dict(entries) = &mut torrent else { panic!("no dictionary") };
        entries.retain(|(key, _)| !matches!(&key[..], b"announce" | b"announce-list" | b"httpseeds"));
        fs::write(&path, torrent.encode()).expect("the scratch directory can be written");
        path
    }

    /// How much it has hashed since its start. Its log may be read later than it answers.
    #[track_caller]
    pub(crate) fn hashed(&self) -> usize {
        let metrics = String::from_utf8_lossy(&self.get("/metrics").body).into_owned();
        let count =
            metrics.lines().find_map(|line| line.strip_prefix("wtfs_hub_hashed_total ")?.parse().ok());
        count.unwrap_or_else(|| panic!("no count in {metrics}"))
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.process.signal(rustix::process::Signal::TERM);
        let status = self.process.wait(Duration::from_secs(60));
        assert!(status.success(), "{status}");
    }
}
