//! Ill-behaved clients of a hub: slow, silent, endless, meaningless and too many. Each kind is a function that goes on
//! until it is told to stop, and counts what it was answered.
//!
//! Nothing here judges; a kind that is never answered counts nothing.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};

/// How long a kind rests between two rounds, so that it leaves some of the machine to the others.
const REST: Duration = Duration::from_millis(20);

/// A connection that ends sooner was never taken in.
const STOOD: Duration = Duration::from_secs(2);

/// How long one answer is waited for, longer than the hub waits for a head; a client that gets none goes on with the next.
const ANSWER: Duration = Duration::from_secs(90);

/// Ends all kinds when it goes, also by a panic.
#[derive(Debug, Default)]
pub(crate) struct Stop(AtomicBool);

impl Stop {
    pub(crate) fn guard(&self) -> StopGuard<'_> {
        StopGuard(self)
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// See [`Stop`].
#[derive(Debug)]
pub(crate) struct StopGuard<'a>(&'a Stop);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// How often something happened.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicUsize);

impl Count {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, more: usize) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }
}

/// What the kinds were answered.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Slow and silent connections that the hub ended.
    pub(crate) hung_up: Count,
    /// Connections closed at once, without a word.
    pub(crate) turned_away: Count,
    /// Requests without end or sense that got an error or were cut off.
    pub(crate) refused: Count,
    /// The same that got anything else.
    pub(crate) believed: Count,
    /// Announces of a flood that were answered.
    pub(crate) announced: Count,
    /// Announces of a flood that were told to come back later.
    pub(crate) too_often: Count,
    /// Web sockets that the hub closed for what they said.
    pub(crate) sockets_closed: Count,
    /// Web sockets not let in.
    pub(crate) sockets_refused: Count,
    /// Datagrams sent that mean nothing.
    pub(crate) datagrams: Count,
    /// Answers to them.
    pub(crate) datagrams_answered: Count,
}

/// A connection from an address of ours.
pub(crate) fn dial(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = bound(from)?;
    connect(&stream, &to)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    Ok(stream)
}

fn bound(from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(from, 0))?;
    Ok(socket.into())
}

/// Connections that send a request and read nothing of the answer. They stand until they are dropped.
#[track_caller]
pub(crate) fn deaf(from: Ipv4Addr, to: SocketAddr, count: usize, request: &[u8]) -> Vec<TcpStream> {
    let open = || {
        let mut stream = bound(from)?;
        // Else the kernel takes megabytes in our name.
        sockopt::set_socket_recv_buffer_size(&stream, 4096)?;
        connect(&stream, &to)?;
        stream.set_nonblocking(true)?;
        // As much as fits: a server that does not read is no error here.
        let mut rest = request;
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        io::Result::Ok(stream)
    };
    (0..count).map(|_| open().expect("the hub accepts")).collect()
}

/// Connections that send one byte of a head after the other, or nothing at all. Each that is hung up on is replaced
/// until the end; then those that stand are given back.
pub(crate) fn slow(
    stop: &Stop,
    counts: &Counts,
    from: Ipv4Addr,
    to: SocketAddr,
    head: Head,
) -> Vec<TcpStream> {
    let (count, begin, byte): (_, &[u8], &[u8]) = match head {
        Head::Endless(count) => (count, b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-A: ", b"a"),
        Head::None(count) => (count, b"", b""),
    };
    let mut standing: Vec<(TcpStream, Instant)> = Vec::new();
    while !stop.is_set() {
        while standing.len() < count {
            let Ok(mut stream) = dial(from, to) else { break };
            if stream.write_all(begin).is_ok() && stream.set_nonblocking(true).is_ok() {
                standing.push((stream, Instant::now()));
            }
        }
        standing.retain_mut(|(stream, since)| {
            let is_sent = byte.is_empty() || stream.write(byte).is_ok();
            let is_open = is_sent && !has_ended(stream);
            if !is_open {
                let ended = if since.elapsed() > STOOD { &counts.hung_up } else { &counts.turned_away };
                ended.add(1);
            }
            is_open
        });
        thread::sleep(REST);
    }
    standing.into_iter().map(|(stream, _)| stream).collect()
}

/// What [`slow`] connections send, and how many there are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Head {
    Endless(usize),
    None(usize),
}

/// Whether the other side closed. Throws away what was received.
fn has_ended(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 512];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Asks for something small again and again, each time on a connection of its own, from an address that has as many
/// as it may have.
pub(crate) fn one_too_many(stop: &Stop, counts: &Counts, from: Ipv4Addr, to: SocketAddr) {
    while !stop.is_set() {
        let told = exchange(from, to, b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        counts.turned_away.add(usize::from(told.is_closed && told.bytes.is_empty()));
        thread::sleep(REST);
    }
}

/// What came back, and whether the other side closed the connection: with its last words or with a reset.
#[derive(Debug, Default)]
struct Told {
    bytes: Vec<u8>,
    is_closed: bool,
}

/// Sends and reads until the other side closes.
fn exchange(from: Ipv4Addr, to: SocketAddr, request: &[u8]) -> Told {
    dial(from, to).map_or_else(|_| Told::default(), |stream| exchange_on(stream, request))
}

fn exchange_on(mut stream: TcpStream, request: &[u8]) -> Told {
    // Who is cut off in the middle of its words still reads what it was told.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    let is_closed = end.map_or_else(|error| error.kind() != io::ErrorKind::WouldBlock, |_| true);
    Told { bytes, is_closed }
}

/// Heads without end, lengths that contradict each other, and bytes that mean nothing; each at least once.
pub(crate) fn nonsense(stop: &Stop, counts: &Counts, from: Ipv4Addr, to: SocketAddr) {
    let requests = [
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(1 << 20)).into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: h\r\nX-A: {}\r\n\r\n", "b".repeat(1 << 20)).into_bytes(),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X-A: b\r\n".repeat(10_000)).into_bytes(),
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a client that wants TLS\r\n\r\n".to_vec(),
        b"\x13BitTorrent protocol\0\0\0\0\0\0\0\0 a peer that is lost here\r\n\r\n".to_vec(),
        (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect(),
        vec![0; 70_000],
        b"\r\n".repeat(50_000),
    ];
    loop {
        for request in &requests {
            let Told { bytes, is_closed } = exchange(from, to, request);
            let is_refused = is_closed && (bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 4"));
            if is_refused { counts.refused.add(1) } else { counts.believed.add(1) }
        }
        if stop.is_set() {
            return;
        }
    }
}

/// Announces, many in a row on one connection, and reads the answers.
pub(crate) fn announce_flood(stop: &Stop, counts: &Counts, from: Ipv4Addr, to: SocketAddr) {
    let mut number = 0_u32;
    while !stop.is_set() {
        let mut requests = String::new();
        for i in 0..200 {
            number += 1;
            let end = if i == 199 { "Connection: close\r\n" } else { "" };
            // Another torrent and another peer each time.
            requests += &format!(
                "GET /announce?info_hash=flood-{number:014}&peer_id=-XX0001-{number:012}&port=7000&left=1&compact=1 \
                 HTTP/1.1\r\nHost: h\r\n{end}\r\n"
            );
        }
        let told = exchange(from, to, requests.as_bytes());
        counts.announced.add(occurrences(&told.bytes, b"8:interval"));
        counts.too_often.add(occurrences(&told.bytes, b"too many requests from this address"));
    }
}

fn occurrences(text: &[u8], of: &[u8]) -> usize {
    text.windows(of.len()).filter(|window| *window == of).count()
}

/// The request that opens a web socket.
pub(crate) const UPGRADE: &[u8] =
    b"GET /announce HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A frame as clients send it (RFC 6455, section 5.2), masked with zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Web sockets that break the protocol or say nothing that a tracker knows; each way at least once.
pub(crate) fn broken_sockets(stop: &Stop, counts: &Counts, from: Ipv4Addr, to: SocketAddr) {
    let text = |json: &str| frame(0x81, json.as_bytes());
    let many = |json: &str| text(json).repeat(30);
    let frames = [
        // Not masked, with reserved bits, of a kind that there is not, without a beginning.
        vec![0x81, 2, b'{', b'}'],
        frame(0xF1, b"{}"),
        frame(0x83, b"{}"),
        frame(0x80, b"{}"),
        // A ping in pieces, a ping too long, a close of one byte, text that is not UTF-8.
        frame(0x09, b"ping"),
        frame(0x89, &[0; 200]),
        frame(0x88, b"x"),
        frame(0x81, &[0xFF, 0xFE]),
        // As long as can be said, and longer than can be said.
        [&[0x82, 0xFF][..], &(i64::MAX as u64).to_be_bytes(), &[0; 4]].concat(),
        [&[0x82, 0xFF][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat(),
        // A message of a megabyte, whole and in pieces.
        frame(0x81, &vec![b'['; 1 << 20]),
        [frame(0x01, &[b'['; 1000]), frame(0x00, &[b'['; 1000]).repeat(1000)].concat(),
        many(&"[".repeat(60_000)),
        many("{\"action\":"),
        many("{\"action\":\"announce\"}"),
        many("{\"action\":\"announce\",\"info_hash\":1e999,\"peer_id\":[],\"offers\":{}}"),
        many("{\"action\":\"scrape\",\"info_hash\":[[[]]]}"),
        frame(0x82, &[0xFF; 300]).repeat(30),
    ];
    loop {
        for frames in &frames {
            let Some(stream) = open_socket(from, to, counts) else { continue };
            let is_closed = exchange_on(stream, frames).is_closed;
            if is_closed { counts.sockets_closed.add(1) } else { counts.believed.add(1) }
        }
        if stop.is_set() {
            return;
        }
    }
}

/// A web socket, if it is let in.
fn open_socket(from: Ipv4Addr, to: SocketAddr, counts: &Counts) -> Option<TcpStream> {
    let mut stream = dial(from, to).ok()?;
    stream.write_all(UPGRADE).ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    counts.sockets_refused.add(usize::from(head.starts_with(b"HTTP/1.1 429")));
    head.starts_with(b"HTTP/1.1 101").then_some(stream)
}

/// Opens web sockets and keeps them, more than one address may have.
pub(crate) fn hoarded_sockets(
    counts: &Counts,
    from: Ipv4Addr,
    to: SocketAddr,
    count: usize,
) -> Vec<TcpStream> {
    (0..count).filter_map(|_| open_socket(from, to, counts)).collect()
}

/// Datagrams of all lengths that are no request, or one of somebody who was given no connection id.
pub(crate) fn datagrams(stop: &Stop, counts: &Counts, from: Ipv4Addr, to: SocketAddr) {
    let socket = UdpSocket::bind((from, 0)).expect("loopback addresses can be bound");
    socket.connect(to).expect("an address");
    socket.set_nonblocking(true).expect("a socket");
    let mut buffer = [0; 2048];
    let mut state = 1_u32;
    while !stop.is_set() {
        for length in (0..1400_usize).step_by(7).chain([16, 98, 36, 2048, 60_000]) {
            let mut datagram: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            // Every other one says that it is an announce, or a scrape; never that it is a connect request.
            if let Some(action) = datagram.get_mut(8..12) {
                action.copy_from_slice(&(1 + state % 2).to_be_bytes());
            }
            counts.datagrams.add(usize::from(socket.send(&datagram).is_ok()));
            while socket.recv(&mut buffer).is_ok() {
                counts.datagrams_answered.add(1);
            }
        }
        thread::sleep(REST);
    }
}
