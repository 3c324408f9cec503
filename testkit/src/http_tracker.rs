//! An HTTP tracker with faults, and with a log of what it was asked. It also serves plain bodies, for a .torrent
//! given by URL.
//!
//! Every connection is one request. The listener's thread ends when the tracker is dropped; a connection that is
//! meant to be never answered is held open until then.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{bencode::Value, net};

/// How the tracker answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// As BEP 3 and BEP 23 say, with these peers (IPv4 ones).
    Peers(Vec<SocketAddr>),
    /// As BEP 3 says, with a `failure reason`.
    Failure(String),
    /// An HTTP status with an empty body.
    Status(u16),
    /// Status 200 and bytes that are no bencode.
    Garbage,
    /// A redirect to itself, for ever.
    RedirectLoop,
    /// The connection is closed without a word.
    Close,
    /// The request is read and never answered.
    Silence,
    /// Status 200 and a body that never ends.
    EndlessBody,
    /// Status 200 and these bytes.
    Body(Vec<u8>),
}

#[derive(Debug)]
struct Shared {
    answer: Mutex<Answer>,
    requests: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// A running tracker.
#[derive(Debug)]
pub struct HttpTracker {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl HttpTracker {
    /// Starts a tracker on a loopback address of its own.
    ///
    /// # Panics
    /// When no address can be bound.
    #[must_use]
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind((net::loopback(), 0)).expect("a loopback address can be bound");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            requests: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let (serving, watched) = (Arc::clone(&shared), Arc::clone(&shared));
        let attend = move |stream| {
            let shared = Arc::clone(&serving);
            // A client that goes away in the middle is the client's affair.
            thread::spawn(move || drop(serve(stream, addr, &shared)));
        };
        net::attend_all(listener, move || watched.stop.load(Ordering::Acquire), attend);
        Self { addr, shared }
    }

    /// Its announce URL.
    #[must_use]
    pub fn announce_url(&self) -> String {
        format!("http://{}/announce", self.addr)
    }

    /// A URL of it with this path (which begins with a slash).
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// From now on it answers so.
    pub fn set_answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// The targets (path and query) of all requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for HttpTracker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the listener's thread.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

fn serve(stream: TcpStream, addr: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim_end().is_empty() {
            break;
        }
    }
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(target.clone());
    let answer = shared.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut stream = stream;
    match answer {
        Answer::Peers(peers) => respond(&mut stream, "200 OK", "", &announce_body(&peers)),
        Answer::Failure(reason) => {
            let body = Value::dict([("failure reason", Value::bytes(reason))]).encode();
            respond(&mut stream, "200 OK", "", &body)
        }
        Answer::Status(code) => respond(&mut stream, &format!("{code} Fault"), "", b""),
        Answer::Garbage => respond(&mut stream, "200 OK", "", b"<html>\x00\xff this is no tracker</html>"),
        Answer::RedirectLoop => {
            respond(&mut stream, "302 Found", &format!("Location: http://{addr}{target}\r\n"), b"")
        }
        Answer::Close => Ok(()),
        Answer::Silence => {
            while !shared.stop.load(Ordering::Acquire) {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        Answer::EndlessBody => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nd8:interval")?;
            let part = vec![b'1'; 1 << 16];
            while !shared.stop.load(Ordering::Acquire) {
                stream.write_all(&part)?;
            }
            Ok(())
        }
        Answer::Body(body) => respond(&mut stream, "200 OK", "", &body),
    }
}

fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

fn announce_body(peers: &[SocketAddr]) -> Vec<u8> {
    Value::dict([
        ("complete", Value::Int(1)),
        ("incomplete", Value::Int(0)),
        ("interval", Value::Int(1800)),
        ("peers", Value::Bytes(compact(peers))),
    ])
    .encode()
}

/// The compact form (BEP 23) of the IPv4 addresses among `peers`.
#[must_use]
pub(crate) fn compact(peers: &[SocketAddr]) -> Vec<u8> {
    let mut out = Vec::new();
    for peer in peers {
        if let IpAddr::V4(ip) = peer.ip() {
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&peer.port().to_be_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn ask(tracker: &HttpTracker) -> Vec<u8> {
        let mut stream = TcpStream::connect(tracker.addr).expect("it listens");
        stream.write_all(b"GET /announce?x=1 HTTP/1.1\r\nHost: t\r\n\r\n").expect("it reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        answer
    }

    #[test]
    fn peers_are_given_in_compact_form_and_requests_are_logged() {
        let peer = "127.1.2.3:258".parse().expect("an address");
        let tracker = HttpTracker::start(Answer::Peers(vec![peer]));
        let answer = ask(&tracker);
        assert!(answer.ends_with(b"5:peers6:\x7f\x01\x02\x03\x01\x02e"), "{answer:?}");
        assert_eq!(tracker.requests(), ["/announce?x=1"]);
    }

    #[test]
    fn faults_follow_each_other_as_told() {
        let tracker = HttpTracker::start(Answer::Close);
        assert!(ask(&tracker).is_empty());
        tracker.set_answer(Answer::RedirectLoop);
        let answer = String::from_utf8_lossy(&ask(&tracker)).into_owned();
        assert!(answer.contains(&format!("Location: {}?x=1\r\n", tracker.announce_url())), "{answer}");
        tracker.set_answer(Answer::Status(500));
        assert!(ask(&tracker).starts_with(b"HTTP/1.1 500 "));
    }
}
