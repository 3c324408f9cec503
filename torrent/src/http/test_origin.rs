//! A tiny HTTP origin for the tests of this crate's clients: one canned behaviour for each path, on loopback.
//!
//! Written on bare sockets on purpose: it must be able to answer what no HTTP library would let it answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// No resolver asks the network for it, and none finds it: its first label is longer than any may be (RFC 1035).
pub(crate) const NO_SUCH_HOST: &str =
    "no-such-host-no-such-host-no-such-host-no-such-host-no-such-host.invalid";

/// What a path does.
#[derive(Debug, Clone)]
pub(crate) enum Behaviour {
    /// Status line's rest, extra header lines (each with its CRLF) and body.
    Answer(&'static str, String, Vec<u8>),
    /// These bytes and nothing else, then the connection is closed.
    Raw(Vec<u8>),
    /// Closes without a byte.
    Close,
    /// Accepts the request and is silent.
    Silence,
    /// A body with no end and no length.
    Endless,
}

impl Behaviour {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Answer("200 OK", String::new(), body.into())
    }

    pub(crate) fn redirect(to: &str) -> Self {
        Self::Answer("302 Found", format!("Location: {to}\r\n"), Vec::new())
    }
}

/// The running origin; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Origin {
    pub(crate) async fn start(paths: impl IntoIterator<Item = (&'static str, Behaviour)>) -> Self {
        Self::start_at("127.0.0.1:0", paths).await
    }

    pub(crate) async fn start_at(
        bind: &str,
        paths: impl IntoIterator<Item = (&'static str, Behaviour)>,
    ) -> Self {
        let listener = TcpListener::bind(bind).await.expect("loopback can be bound");
        let address = listener.local_addr().expect("a bound listener has an address");
        let paths: Arc<HashMap<&'static str, Behaviour>> = Arc::new(paths.into_iter().collect());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&paths), Arc::clone(&seen)));
            }
        });
        Self { address, requests, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The heads of the requests so far, first line and headers.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no holder panics").clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    paths: Arc<HashMap<&'static str, Behaviour>>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let behaviour = paths.get(path).cloned();
    seen.lock().expect("no holder panics").push(head);
    let bytes = match behaviour {
        None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
        Some(Behaviour::Answer(status, headers, body)) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            [head.into_bytes(), body].concat()
        }
        Some(Behaviour::Raw(bytes)) => bytes,
        Some(Behaviour::Close) => return,
        Some(Behaviour::Silence) => std::future::pending().await,
        Some(Behaviour::Endless) => {
            let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
            let mut more = stream.write_all(head).await.is_ok();
            while more {
                more = stream.write_all(&[b'x'; 4096]).await.is_ok();
            }
            return;
        }
    };
    // A client may hang up early, which is not this origin's concern.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.shutdown().await;
}
