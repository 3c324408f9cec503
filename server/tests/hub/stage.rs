//! A hub on directories of its own, and a client that sees every byte of an answer.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wtfs_server::{Hub, HubConfig};

/// For what must happen soon; generous, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Bytes of which each differs from its neighbours far and near.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ bytes as u64;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        })
        .collect()
}

/// A root and a cache, gone at the end.
pub(crate) struct Stage {
    pub(crate) dir: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("root")).expect("made");
        Self { dir }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Writes a file below the root, last written an hour ago.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(&path, bytes).expect("written");
        age(&path, Duration::from_secs(3600));
        path
    }

    pub(crate) fn config(&self) -> HubConfig {
        let mut config = HubConfig::new(self.dir.path().join("cache"));
        config.roots = vec![self.root()];
        config.session.listen.port = 0;
        config.session.listen.addrs = vec![Ipv4Addr::LOCALHOST.into()];
        config.quiet = Duration::from_millis(300);
        // Those who look at the ends of these say so.
        config.serving.grace = PATIENCE;
        config.serving.write_timeout = PATIENCE;
        config
    }

    pub(crate) async fn start(&self) -> Served {
        Served::start(self.config()).await
    }
}

/// Sets when a file was last written.
pub(crate) fn age(path: &Path, ago: Duration) {
    let file = fs::OpenOptions::new().append(true).open(path).expect("there");
    file.set_modified(std::time::SystemTime::now() - ago).expect("set");
}

/// A hub that is being served.
pub(crate) struct Served {
    pub(crate) hub: Hub,
    pub(crate) addr: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) async fn start(config: HubConfig) -> Self {
        let hub = Hub::open(config).await.expect("opened");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let serving = tokio::spawn({
            let (hub, stop) = (hub.clone(), stop.clone());
            async move { hub.serve(listener, stop).await }
        });
        Self { hub, addr, stop, serving }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        ask(self.addr, method, path, headers).await
    }

    /// Sends the head of a request, whose answer is read bit by bit.
    pub(crate) async fn send(&self, head: &str) -> Listening {
        let mut stream = TcpStream::connect(self.addr).await.expect("connects");
        stream.write_all(head.as_bytes()).await.expect("sent");
        Listening { stream, received: Vec::new() }
    }

    pub(crate) async fn ask_with_body(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Answer {
        ask_with_body(self.addr, method, path, headers, body).await
    }

    /// Waits until a path is answered with this status.
    pub(crate) async fn wait_for(&self, path: &str, status: u16) -> Answer {
        let start = Instant::now();
        loop {
            let answer = self.get(path).await;
            if answer.status == status {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "{path} is still {}: {}", answer.status, self.list().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn until_metric(&self, line: &str) {
        let start = Instant::now();
        loop {
            let metrics = self.get("/metrics").await.text();
            if metrics.lines().any(|other| other == line) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no {line} in {metrics}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The info hash of what is served under a name, once it is.
    pub(crate) async fn hash_of(&self, name: &str) -> String {
        self.wait_for(&format!("/torrent/{}.torrent", name.replace(' ', "%20")), 200).await;
        let list: serde_json::Value = serde_json::from_str(&self.list().await).expect("JSON");
        let entry = list["torrents"].as_array().expect("a list").iter().find(|entry| entry["name"] == name);
        entry.expect("listed")["info_hash"].as_str().expect("ready").to_owned()
    }

    pub(crate) async fn list(&self) -> String {
        self.get("/torrents").await.text()
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.serving.await.expect("no panic").expect("ends well");
        self.hub.shutdown().await;
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Listening {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Listening {
    /// What came, once that is enough.
    pub(crate) async fn until(&mut self, is_enough: impl Fn(&Answer) -> bool) -> Answer {
        let reading = async {
            loop {
                if let Some(answer) = answer(&self.received).filter(&is_enough) {
                    return answer;
                }
                let read = self.stream.read_buf(&mut self.received).await.expect("read");
                assert!(read > 0, "it ended: {:?}", answer(&self.received).map(|answer| answer.body.len()));
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("in time")
    }

    /// All that comes, whether it ends well or not.
    pub(crate) async fn finish(mut self) -> Answer {
        let reading = self.stream.read_to_end(&mut self.received);
        // A reset is an end too.
        let _end = tokio::time::timeout(PATIENCE, reading).await.expect("in time");
        answer(&self.received).expect("an answer")
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Waits until something is so that nothing tells of.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not yet: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks on a connection of its own and reads to its end.
pub(crate) async fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Answer {
    ask_with_body(addr, method, path, headers, &[]).await
}

/// The same with a body, whose length stands among the headers.
pub(crate) async fn ask_with_body(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let host = if headers.to_ascii_lowercase().contains("host:") { "" } else { "Host: hub.test:99\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n");
    stream.write_all(&[request.as_bytes(), body].concat()).await.expect("sent");
    let mut received = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut received))
        .await
        .expect("in time")
        .expect("received");
    answer(&received).unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&received)))
}

pub(crate) fn answer(received: &[u8]) -> Option<Answer> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head, body: received[end + 4..].to_vec() })
}
