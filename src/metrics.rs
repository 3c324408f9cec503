//! Counters for Prometheus: a responder for `--metrics` that gives them to who asks. What they are called stands in the
//! engine's `prometheus`.
//!
//! The responder speaks as much HTTP/1.0 as a scraper needs: one GET a connection. A request is bounded in length and
//! time and so is the number of askers; nothing of a request is used but its first line.
//! docs/metrics.md lists the names; a test holds it to what is said.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use wtfs_torrent::prometheus::{CONTENT_TYPE, Exposition};
use wtfs_torrent::{Session, SessionStatus};

use crate::repositories::Collection;

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

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) session: Session,
    /// There once a mount shows repositories.
    pub(crate) collection: Arc<OnceLock<Collection>>,
}

impl Subject {
    /// A session that shows no repositories.
    pub(crate) fn of(session: &Session) -> Self {
        Self { session: session.clone(), collection: Arc::default() }
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
    pub(crate) async fn open(place: &Place, subject: Subject) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut socket = None;
        match place {
            Place::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await?;
                let answering = answer_all(listener, subject);
                tokio::spawn(stop.clone().run_until_cancelled_owned(answering));
            }
            Place::Unix(path) => {
                // Left by a process that was killed; anything but a socket is not ours to take away.
                if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
                    fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                socket = Some(path.clone());
                let answering = answer_all(listener, subject);
                tokio::spawn(stop.clone().run_until_cancelled_owned(answering));
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

/// Where askers come in.
trait Door: Send + Sync + 'static {
    type Asker: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Asker>> + Send;
}

impl Door for TcpListener {
    type Asker = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Door for UnixListener {
    type Asker = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Answers each that comes, a few at once. Never ends.
async fn answer_all(door: impl Door, subject: Subject) {
    let seats = Arc::new(Semaphore::new(ASKERS_MAX));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match door.next().await {
            Ok(asker) => {
                tokio::spawn(serve(asker, subject.clone(), seat));
            }
            Err(error) => {
                tracing::warn!(%error, "metrics cannot be asked for");
                // Out of file descriptors: asking again at once would spin.
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut asker: S,
    subject: Subject,
    _seat: tokio::sync::OwnedSemaphorePermit,
) {
    let answered = tokio::time::timeout(PATIENCE, async {
        let request = request(&mut asker).await?;
        let reply = reply(&request, || text(&subject));
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
    let length = body.len();
    format!("HTTP/1.0 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}

/// All counters.
fn text(subject: &Subject) -> String {
    let status: SessionStatus = subject.session.status();
    let mut text = Exposition::new();
    text.session(&status);
    if let Some(collection) = subject.collection.get() {
        collection.count(&mut text);
        text.blobs(&subject.session.blobs().status());
    }
    text.into_text()
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_asks_is_told_what_the_documentation_lists_and_the_socket_goes_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let listen = ListenConfig {
            port: 0,
            port_policy: PortPolicy::Exact,
            addrs: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        };
        let config = SessionConfig { listen, ..SessionConfig::new(dir.path().join("cache")) };
        let session = Session::open(config).await.expect("opened");
        let path = dir.path().join("metrics");
        let responder =
            Responder::open(&Place::Unix(path.clone()), Subject::of(&session)).await.expect("bound");
        let mut asker = UnixStream::connect(&path).await.expect("connected");
        asker.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("sent");
        let mut told = String::new();
        asker.read_to_string(&mut told).await.expect("answered");
        assert!(
            told.contains("\nwtfs_torrents 0\n") && told.contains("\nwtfs_cache_used_bytes 0\n"),
            "{told}"
        );
        let docs = include_str!("../docs/metrics.md");
        for name in told.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
            assert!(docs.contains(&format!("| `{name}` |")), "docs/metrics.md does not list {name}");
        }
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
