//! An HTTP origin with faults, and with a log of what it was asked: a web seed that is honest, broken or lying.
//!
//! Written on bare sockets, so that it can answer what no HTTP library would let it answer. Connections are kept alive
//! as HTTP/1.1 says, unless the fault is that they are not. The listener's thread ends when the origin is dropped; a
//! connection that is held open on purpose ends then too.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{net, ramp::Ramp};

/// How many bytes are made and sent at a time.
const STEP: usize = 64 << 10;

/// What lies at a path.
#[derive(Clone, Debug)]
pub enum Body {
    /// These bytes.
    Bytes(Arc<Vec<u8>>),
    /// So many bytes of a ramp, from this offset on.
    Ramp(Ramp, u64, u64),
    /// So many zeros.
    Zeros(u64),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Ramp(_, _, len) | Self::Zeros(len) => *len,
        }
    }

    fn fill(&self, offset: u64, out: &mut [u8]) {
        match self {
            Self::Bytes(bytes) => {
                let from = usize::try_from(offset).expect("inside the bytes");
                out.copy_from_slice(&bytes[from..from + out.len()]);
            }
            Self::Ramp(ramp, start, _) => ramp.fill(start + offset, out),
            Self::Zeros(_) => out.fill(0),
        }
    }
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status with these header lines (each with its CRLF) and an empty body.
    Status(u16, String),
    /// The body is cut off after so many bytes, and the connection closed.
    Truncate(u64),
    /// After so many bytes of the body nothing more comes.
    Stall(u64),
    /// The request is read and never answered.
    Silence,
    /// The connection is closed without a word.
    Close,
    /// Every byte is another one.
    WrongBytes,
    /// Status 200 and the whole file, whatever was asked for.
    IgnoreRange,
    /// 302 to this with the target behind it.
    Redirect(String),
    /// 301 to this with the target behind it.
    Moved(String),
    /// A range that begins one byte later than was asked for, and says so.
    WrongRange,
    /// A `Content-Length` that says one byte too many, after which the connection is closed.
    WrongLength,
    /// The body says that it is compressed.
    Compressed,
    /// The body in chunks, without a length.
    Chunked,
    /// The body at so many bytes a second.
    Slow(u64),
}

/// One request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Path and query.
    pub target: String,
    /// First and last byte of its `Range` header.
    pub range: Option<(u64, Option<u64>)>,
    /// All header lines.
    pub headers: String,
}

#[derive(Debug)]
struct Shared {
    files: HashMap<String, Body>,
    /// For requests by piece (BEP 17): the length of a piece.
    piece_bytes: u64,
    /// Faults of the next answers, each with how many.
    next: Mutex<VecDeque<(usize, Fault)>>,
    always: Mutex<Option<Fault>>,
    requests: Mutex<Vec<Request>>,
    sent_bytes: AtomicU64,
    stop: AtomicBool,
}

/// A running origin.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Serves these paths (which begin with a slash) on a loopback address of its own.
    ///
    /// # Panics
    /// When no address can be bound.
    #[must_use]
    pub fn start(files: impl IntoIterator<Item = (String, Body)>) -> Self {
        Self::start_for_pieces(files, 0)
    }

    /// As [`Origin::start`]; a target with `piece=` in its query is answered as BEP 17 says, of a torrent whose pieces
    /// have this length and whose whole content is the file at the path.
    ///
    /// # Panics
    /// When no address can be bound.
    #[must_use]
    pub fn start_for_pieces(files: impl IntoIterator<Item = (String, Body)>, piece_bytes: u64) -> Self {
        let listener = TcpListener::bind((net::loopback(), 0)).expect("a loopback address can be bound");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            files: files.into_iter().collect(),
            piece_bytes,
            next: Mutex::default(),
            always: Mutex::default(),
            requests: Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let (serving, watched) = (Arc::clone(&shared), Arc::clone(&shared));
        let attend = move |stream| {
            let shared = Arc::clone(&serving);
            // A client that goes away in the middle is the client's affair.
            thread::spawn(move || drop(converse(stream, &shared)));
        };
        net::attend_all(listener, move || watched.stop.load(Ordering::Acquire), attend);
        Self { addr, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A URL of it with this path (which begins with a slash).
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// From now on every answer has this fault, or none.
    pub fn always(&self, fault: Option<Fault>) {
        *lock(&self.shared.always) = fault;
    }

    /// The next `count` answers that have no fault planned yet have this one.
    pub fn next(&self, count: usize, fault: Fault) {
        lock(&self.shared.next).push_back((count, fault));
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// Bytes of bodies sent so far.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the listener's thread.
        let _ = TcpStream::connect_timeout(&self.addr, Duration::from_secs(1));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a connection is used for another request.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Again,
    Close,
}

fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader)? {
        lock(&shared.requests).push(request.clone());
        if answer(&mut stream, &request, shared)? == Then::Close || shared.stop.load(Ordering::Acquire) {
            break;
        }
    }
    Ok(())
}

fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut headers, mut range) = (String::new(), None);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = parse_range(value.trim());
        }
        headers.push_str(&header);
    }
    Ok(Some(Request { target, range, headers }))
}

fn parse_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()))
}

fn planned(shared: &Shared) -> Option<Fault> {
    let mut next = lock(&shared.next);
    let Some((count, fault)) = next.front_mut() else { return lock(&shared.always).clone() };
    let fault = fault.clone();
    *count -= 1;
    if *count == 0 {
        next.pop_front();
    }
    Some(fault)
}

fn answer(stream: &mut TcpStream, request: &Request, shared: &Shared) -> io::Result<Then> {
    let fault = planned(shared);
    match &fault {
        Some(Fault::Status(code, headers)) => {
            write!(stream, "HTTP/1.1 {code} Fault\r\n{headers}Content-Length: 0\r\n\r\n")?;
            return Ok(Then::Again);
        }
        Some(Fault::Silence) => return hold(shared),
        Some(Fault::Close) => return Ok(Then::Close),
        Some(Fault::Redirect(to) | Fault::Moved(to)) => {
            let code = if matches!(fault, Some(Fault::Moved(_))) { "301 Moved" } else { "302 Found" };
            let target = &request.target;
            write!(stream, "HTTP/1.1 {code}\r\nLocation: {to}{target}\r\nContent-Length: 0\r\n\r\n")?;
            return Ok(Then::Again);
        }
        _ => {}
    }
    let path = request.target.split('?').next().unwrap_or_default();
    let Some(body) = shared.files.get(path) else {
        write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(Then::Again);
    };
    let (mut start, end, is_partial) = match asked(request, body, shared) {
        Ok(asked) => asked,
        Err(()) => {
            let whole = body.len();
            write!(
                stream,
                "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{whole}\r\nContent-Length: 0\r\n\r\n"
            )?;
            return Ok(Then::Again);
        }
    };
    let is_partial = is_partial && fault != Some(Fault::IgnoreRange);
    let end = if fault == Some(Fault::IgnoreRange) { body.len() } else { end };
    if fault == Some(Fault::IgnoreRange) {
        start = 0;
    }
    if fault == Some(Fault::WrongRange) {
        start += 1;
    }
    head(stream, fault.as_ref(), is_partial, start..end, body.len())?;
    send(stream, fault.as_ref(), body, start..end, shared)
}

/// First byte, end, and whether it is a part.
fn asked(request: &Request, body: &Body, shared: &Shared) -> Result<(u64, u64, bool), ()> {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
    if let Some(piece) = value("piece=") {
        let begin = piece.parse::<u64>().map_err(drop)? * shared.piece_bytes;
        let end = (begin + shared.piece_bytes).min(body.len());
        let Some((first, last)) = value("ranges=").and_then(|ranges| ranges.split_once('-')) else {
            return Ok((begin, end, false));
        };
        let (first, last) = (first.parse::<u64>().map_err(drop)?, last.parse::<u64>().map_err(drop)?);
        return Ok((begin + first, (begin + last + 1).min(end), false));
    }
    match request.range {
        None => Ok((0, body.len(), false)),
        Some((first, _)) if first >= body.len() => Err(()),
        Some((first, last)) => Ok((first, last.map_or(body.len(), |last| (last + 1).min(body.len())), true)),
    }
}

fn head(
    stream: &mut TcpStream,
    fault: Option<&Fault>,
    is_partial: bool,
    range: std::ops::Range<u64>,
    whole: u64,
) -> io::Result<()> {
    let mut head =
        String::from(if is_partial { "HTTP/1.1 206 Partial Content\r\n" } else { "HTTP/1.1 200 OK\r\n" });
    if is_partial {
        head += &format!("Content-Range: bytes {}-{}/{whole}\r\n", range.start, range.end - 1);
    }
    let bytes = range.end - range.start;
    match fault {
        Some(Fault::Chunked) => head += "Transfer-Encoding: chunked\r\n",
        Some(Fault::WrongLength) => head += &format!("Content-Length: {}\r\n", bytes + 1),
        _ => head += &format!("Content-Length: {bytes}\r\n"),
    }
    if fault == Some(&Fault::Compressed) {
        head += "Content-Encoding: gzip\r\n";
    }
    write!(stream, "{head}\r\n")
}

fn send(
    stream: &mut TcpStream,
    fault: Option<&Fault>,
    body: &Body,
    range: std::ops::Range<u64>,
    shared: &Shared,
) -> io::Result<Then> {
    let end = match fault {
        Some(Fault::Truncate(after) | Fault::Stall(after)) => range.end.min(range.start + after),
        _ => range.end,
    };
    let mut at = range.start;
    let mut buffer = vec![0; STEP];
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(STEP).min(match fault {
            Some(Fault::Slow(rate)) => usize::try_from(rate / 20).unwrap_or(STEP).clamp(1, STEP),
            _ => STEP,
        });
        let part = &mut buffer[..step];
        body.fill(at, part);
        if fault == Some(&Fault::WrongBytes) {
            part.iter_mut().for_each(|byte| *byte ^= 0x5a);
        }
        if fault == Some(&Fault::Chunked) {
            write!(stream, "{step:x}\r\n")?;
        }
        stream.write_all(part)?;
        if fault == Some(&Fault::Chunked) {
            stream.write_all(b"\r\n")?;
        }
        shared.sent_bytes.fetch_add(step as u64, Ordering::Relaxed);
        at += step as u64;
        if matches!(fault, Some(Fault::Slow(_))) {
            thread::sleep(Duration::from_millis(50));
        }
        if shared.stop.load(Ordering::Acquire) {
            return Ok(Then::Close);
        }
    }
    match fault {
        Some(Fault::Chunked) => {
            stream.write_all(b"0\r\n\r\n")?;
            Ok(Then::Again)
        }
        Some(Fault::Truncate(_)) if end < range.end => Ok(Then::Close),
        Some(Fault::WrongLength) => Ok(Then::Close),
        Some(Fault::Stall(_)) if end < range.end => hold(shared),
        _ => Ok(Then::Again),
    }
}

/// Keeps the connection open without a word.
fn hold(shared: &Shared) -> io::Result<Then> {
    while !shared.stop.load(Ordering::Acquire) {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(Then::Close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn origin() -> Origin {
        Origin::start([("/x".to_owned(), Body::Bytes(Arc::new((0..=99).collect())))])
    }

    fn ask(origin: &Origin, range: &str) -> String {
        let mut stream = TcpStream::connect(origin.addr()).expect("it listens");
        write!(stream, "GET /x HTTP/1.1\r\nHost: t\r\nRange: bytes={range}\r\n\r\n").expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("open");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("it answers");
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[test]
    fn ranges_are_served_and_logged() {
        let origin = origin();
        let answer = ask(&origin, "65-66");
        assert!(answer.starts_with("HTTP/1.1 206 "), "{answer}");
        assert!(answer.contains("Content-Range: bytes 65-66/100\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nAB"), "{answer}");
        assert!(ask(&origin, "100-").starts_with("HTTP/1.1 416 "));
        assert_eq!(origin.requests()[0].range, Some((65, Some(66))));
    }

    #[test]
    fn faults_follow_each_other_and_then_the_lasting_one() {
        let origin = origin();
        origin.next(1, Fault::Truncate(1));
        origin.next(1, Fault::WrongRange);
        origin.always(Some(Fault::Status(503, "Retry-After: 1\r\n".to_owned())));
        assert!(ask(&origin, "65-66").ends_with("\r\n\r\nA"));
        assert!(ask(&origin, "65-66").contains("bytes 66-66/100"));
        for _ in 0..2 {
            assert!(ask(&origin, "65-66").contains("503 Fault\r\nRetry-After: 1\r\n"));
        }
        origin.always(None);
        assert!(ask(&origin, "65-66").ends_with("\r\n\r\nAB"));
    }
}
