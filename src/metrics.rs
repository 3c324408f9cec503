//! Counters for Prometheus: a text of [`SessionStatus`], and a responder for `--metrics` that gives it to who asks.
//!
//! The responder speaks as much HTTP/1.0 as a scraper needs: one GET a connection. A request is bounded in length and
//! time and so is the number of askers; nothing of a request is used but its first line. docs/metrics.md lists the names;
//! a test holds it to what is said here. Names carry their unit; info hashes are labels, names of torrents are not.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use wtfs_torrent::{LatencyStatus, Session, SessionStatus, TorrentStatus};

/// No request is longer.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// How long one asker may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Askers served at once; further ones wait in the socket's own queue.
const ASKERS_MAX: usize = 4;

/// Where to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed.strip_prefix("unix:") {
            Some("") => Err("`unix:` lacks the path of a socket".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => typed
                .parse()
                .map(Self::Tcp)
                .map_err(|_| format!("`{typed}` is not ADDRESS:PORT, such as 127.0.0.1:9100, or unix:PATH")),
        }
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Responder {
    socket: Option<PathBuf>,
    _stop: DropGuard,
}

impl Responder {
    /// Begins to answer. Must run on a tokio runtime.
    ///
    /// # Errors
    /// The place is taken or not ours.
    pub(crate) async fn open(place: &Place, session: &Session) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let seats = Arc::new(Semaphore::new(ASKERS_MAX));
        let session = session.clone();
        let mut socket = None;
        match place {
            Place::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await?;
                let accept = async move {
                    loop {
                        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                        let Some((asker, _)) = accepted(listener.accept().await).await else { continue };
                        tokio::spawn(serve(asker, session.clone(), seat));
                    }
                };
                tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
            }
            Place::Unix(path) => {
                // Left by a process that was killed; anything but a socket is not ours to take away.
                if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                    fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                socket = Some(path.clone());
                let accept = async move {
                    loop {
                        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
                        let Some((asker, _)) = accepted(listener.accept().await).await else { continue };
                        tokio::spawn(serve(asker, session.clone(), seat));
                    }
                };
                tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
            }
        }
        Ok(Self { socket, _stop: stop.drop_guard() })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            let _ = fs::remove_file(socket);
        }
    }
}

async fn accepted<T>(outcome: io::Result<T>) -> Option<T> {
    match outcome {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "metrics cannot be asked for");
            // Out of file descriptors: asking again at once would spin.
            tokio::time::sleep(PATIENCE).await;
            None
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut asker: S,
    session: Session,
    _seat: tokio::sync::OwnedSemaphorePermit,
) {
    let answered = tokio::time::timeout(PATIENCE, async {
        let request = request(&mut asker).await?;
        let reply = reply(&request, || text(&session.status()));
        asker.write_all(&reply).await?;
        asker.shutdown().await
    });
    if !matches!(answered.await, Ok(Ok(()))) {
        tracing::debug!("a request for metrics was not answered");
    }
}

/// The request up to the empty line.
async fn request(asker: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let n = asker.read(&mut part).await?;
        if n == 0 || request.len() + n > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.extend_from_slice(&part[..n]);
    }
    Ok(request)
}

fn reply(request: &[u8], metrics: impl FnOnce() -> String) -> Vec<u8> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some(b"GET"), Some(b"/" | b"/metrics")) => ("200 OK", metrics()),
        (Some(b"GET"), Some(_)) => ("404 Not Found", "metrics are at /metrics\n".into()),
        _ => ("405 Method Not Allowed", "only GET\n".into()),
    };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    format!("HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// Name, kind and meaning of a number that each torrent has.
type OfTorrent = (&'static str, &'static str, &'static str, fn(&TorrentStatus) -> u64);

const OF_TORRENTS: &[OfTorrent] = &[
    ("wtfs_torrent_downloaded_bytes_total", "counter", "Payload received, wasted too", |t| {
        t.downloaded_bytes
    }),
    ("wtfs_torrent_uploaded_bytes_total", "counter", "Payload sent", |t| t.uploaded_bytes),
    ("wtfs_torrent_wasted_bytes_total", "counter", "Payload received in vain", |t| t.wasted_bytes),
    ("wtfs_torrent_failed_pieces_total", "counter", "Pieces whose hash was wrong", |t| t.failed_pieces),
    ("wtfs_torrent_failed_reads_total", "counter", "Reads that ended without data", |t| t.waits.failed_reads),
    ("wtfs_torrent_waiting_reads", "gauge", "Reads that wait for data", |t| t.waits.waiting_reads as u64),
    ("wtfs_torrent_pieces", "gauge", "Pieces in all", |t| t.pieces.into()),
    ("wtfs_torrent_pieces_present", "gauge", "Pieces verified and stored", |t| t.pieces_present.into()),
    ("wtfs_torrent_size_bytes", "gauge", "Bytes of all files", |t| t.total_bytes),
    ("wtfs_torrent_in_flight_bytes", "gauge", "Memory of pieces on their way", |t| t.in_flight_bytes),
    ("wtfs_torrent_pinned_bytes", "gauge", "Bytes of pinned files", |t| t.kept.pinned_bytes),
    ("wtfs_torrent_prefetches", "gauge", "Prefetches under way", |t| t.kept.prefetches.len() as u64),
    ("wtfs_torrent_peers", "gauge", "Connected peers", |t| t.peers.len() as u64),
];

/// Name, kind and meaning of numbers that each torrent has for each value of a label, and that label.
type ByLabel =
    (&'static str, &'static str, &'static str, &'static str, fn(&TorrentStatus) -> Vec<(&'static str, f64)>);

#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
const BY_LABEL: &[ByLabel] = &[
    ("wtfs_torrent_source_downloaded_bytes_total", "counter", "Payload received", "source", |t| {
        t.sources.iter().map(|s| (s.kind.name(), s.downloaded_bytes as f64)).collect()
    }),
    ("wtfs_torrent_source_uploaded_bytes_total", "counter", "Payload sent", "source", |t| {
        t.sources.iter().map(|s| (s.kind.name(), s.uploaded_bytes as f64)).collect()
    }),
    ("wtfs_torrent_sources", "gauge", "Connected sources", "source", |t| {
        t.sources.iter().map(|s| (s.kind.name(), s.connected as f64)).collect()
    }),
    ("wtfs_torrent_stalled_reads", "gauge", "Reads held up now", "cause", |t| {
        t.waits.stalls.iter().map(|s| (s.cause.name(), s.reads as f64)).collect()
    }),
    ("wtfs_torrent_stall_seconds_total", "counter", "Time reads were held up, added up", "cause", |t| {
        t.waits.stalls.iter().map(|s| (s.cause.name(), s.total_ms as f64 / 1e3)).collect()
    }),
];

/// One histogram of `name`; buckets count what is below them too, as Prometheus wants it.
#[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floating point")]
fn histogram(out: &mut String, name: &str, answered: &str, latency: &LatencyStatus) {
    let mut below = 0;
    for bucket in &latency.buckets {
        below += bucket.count;
        let bound = bucket.up_to_us.map_or_else(|| "+Inf".to_owned(), |us| (us as f64 / 1e6).to_string());
        let _ = writeln!(out, "{name}_bucket{{answered=\"{answered}\",le=\"{bound}\"}} {below}");
    }
    let _ = writeln!(out, "{name}_sum{{answered=\"{answered}\"}} {}", latency.sum_us as f64 / 1e6);
    let _ = writeln!(out, "{name}_count{{answered=\"{answered}\"}} {below}");
}

/// All counters in the text format of Prometheus, version 0.0.4.
fn text(status: &SessionStatus) -> String {
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n{name} {value}");
    };
    one("wtfs_torrents", "gauge", "Torrents of this process", status.torrents.len() as u64);
    one("wtfs_cache_used_bytes", "gauge", "Data kept in the cache", status.cache.used_bytes);
    one(
        "wtfs_cache_evicted_bytes_total",
        "counter",
        "Data given up to make room",
        status.cache.evicted_bytes,
    );
    if let Some(limit) = status.cache.limit_bytes {
        one("wtfs_cache_limit_bytes", "gauge", "Data the cache may hold now", limit);
    }
    if let Some(free) = status.cache.disk_free_bytes {
        one("wtfs_cache_disk_free_bytes", "gauge", "Free space of the cache's disk", free);
    }
    one("wtfs_reads_withdrawn_total", "counter", "Reads given up by the reader", status.reads.withdrawn);
    let reads = &status.reads;
    let _ = writeln!(
        out,
        "# HELP wtfs_read_seconds How long reads took, by what answered them.\n# TYPE wtfs_read_seconds histogram"
    );
    for (answered, latency) in
        [("at_once", &reads.at_once), ("disk", &reads.disk), ("sources", &reads.sources)]
    {
        histogram(&mut out, "wtfs_read_seconds", answered, latency);
    }
    let _ = writeln!(
        out,
        "# HELP wtfs_reads_failed_total Reads that ended without data.\n# TYPE wtfs_reads_failed_total counter"
    );
    for (reason, count) in reads.failed.by_reason() {
        let _ = writeln!(out, "wtfs_reads_failed_total{{reason=\"{reason}\"}} {count}");
    }
    for (name, kind, help, label, values) in BY_LABEL {
        let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for torrent in &status.torrents {
            for (which, value) in values(torrent) {
                let hash = &torrent.info_hash;
                let _ = writeln!(out, "{name}{{info_hash=\"{hash}\",{label}=\"{which}\"}} {value}");
            }
        }
    }
    for (name, kind, help, value) in OF_TORRENTS {
        let _ = writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for torrent in &status.torrents {
            let _ = writeln!(out, "{name}{{info_hash=\"{}\"}} {}", torrent.info_hash, value(torrent));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use wtfs_torrent::{ListenConfig, PortPolicy, SessionConfig};

    use super::*;

    #[test]
    fn a_place_is_an_address_or_a_socket() {
        assert_eq!("127.0.0.1:9".parse(), Ok(Place::Tcp(([127, 0, 0, 1], 9).into())));
        assert_eq!("unix:/run/x".parse(), Ok(Place::Unix("/run/x".into())));
        for typed in ["", "9100", "unix:", "localhost:9"] {
            assert!(typed.parse::<Place>().is_err(), "{typed}");
        }
    }

    #[test]
    fn only_a_get_of_the_metrics_is_answered_with_them() {
        let status = |request: &[u8]| {
            let reply = reply(request, || "wtfs_torrents 0\n".into());
            String::from_utf8(reply).expect("text").lines().next().map(str::to_owned)
        };
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\n\r\n").as_deref(), Some("HTTP/1.0 200 OK"));
        assert_eq!(status(b"GET /etc/passwd HTTP/1.1\r\n\r\n").as_deref(), Some("HTTP/1.0 404 Not Found"));
        assert_eq!(
            status(b"POST /metrics HTTP/1.1\r\n\r\n").as_deref(),
            Some("HTTP/1.0 405 Method Not Allowed")
        );
        assert_eq!(status(b"\r\n\r\n").as_deref(), Some("HTTP/1.0 405 Method Not Allowed"));
    }

    #[test]
    fn the_documentation_lists_every_name() {
        let docs = include_str!("../docs/metrics.md");
        let own = [
            "wtfs_torrents",
            "wtfs_cache_used_bytes",
            "wtfs_cache_evicted_bytes_total",
            "wtfs_cache_limit_bytes",
            "wtfs_cache_disk_free_bytes",
            "wtfs_read_seconds",
            "wtfs_reads_failed_total",
            "wtfs_reads_withdrawn_total",
        ];
        let of_torrents = OF_TORRENTS.iter().map(|(name, ..)| *name);
        let by_label = BY_LABEL.iter().map(|(name, ..)| *name);
        for name in own.into_iter().chain(of_torrents).chain(by_label) {
            assert!(docs.contains(&format!("| `{name}` |")), "docs/metrics.md does not list {name}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_asks_is_told_and_the_socket_goes_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let listen = ListenConfig {
            port: 0,
            port_policy: PortPolicy::Exact,
            addrs: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        };
        let config = SessionConfig { listen, ..SessionConfig::new(dir.path().join("cache")) };
        let session = Session::open(config).await.expect("opened");
        let path = dir.path().join("metrics");
        let responder = Responder::open(&Place::Unix(path.clone()), &session).await.expect("bound");
        let mut asker = UnixStream::connect(&path).await.expect("connected");
        asker.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("sent");
        let mut told = String::new();
        asker.read_to_string(&mut told).await.expect("answered");
        assert!(
            told.contains("\nwtfs_torrents 0\n") && told.contains("\nwtfs_cache_used_bytes 0\n"),
            "{told}"
        );
        for line in [
            "wtfs_read_seconds_bucket{answered=\"at_once\",le=\"0.000004\"} 0",
            "wtfs_read_seconds_bucket{answered=\"sources\",le=\"+Inf\"} 0",
            "wtfs_read_seconds_count{answered=\"disk\"} 0",
            "wtfs_reads_failed_total{reason=\"offline\"} 0",
        ] {
            assert!(told.lines().any(|told| told == line), "{line} is missing in:\n{told}");
        }
        drop(responder);
        assert!(!path.exists());
        session.shutdown().await;
    }
}
