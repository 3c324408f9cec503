//! A UDP relay in front of one address: whoever sends to the relay reaches that address over a path with a delay, a loss, a
//! rate and a queue, and is answered over another such path. No privileges, no namespaces, no netem.
//!
//! Each sender is given a socket of its own towards the target, as a NAT does, so that protocols which tell peers by
//! their address (ICE) go through it unchanged. A test hands out the relay's address in place of the target's.
//!
//! Datagrams are counted by direction and by size, so that a test can tell how often data is acknowledged; and the path
//! can be cut, which is what a killed peer looks like from the other side.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::path::{Direction, Profile};

/// Datagrams of at least this many bytes carry data; shorter ones acknowledge, or check the way.
pub const DATA_BYTES_MIN: usize = 600;

/// Senders known at once. More are ignored.
const FLOWS_MAX: usize = 16;

/// Datagrams read from one socket before those that are due are sent.
const BATCH: usize = 64;

/// How soon the end of the relay is noticed.
const NAP: Duration = Duration::from_millis(20);

/// Room for bursts in the kernel: what is lost must be lost by the path.
const SOCKET_BYTES: usize = 4 << 20;

/// Datagrams carried in one direction.
#[derive(Debug, Default)]
pub struct Tally {
    data: AtomicU64,
    short: AtomicU64,
}

impl Tally {
    /// Those of at least [`DATA_BYTES_MIN`].
    #[must_use]
    pub fn data(&self) -> u64 {
        self.data.load(Relaxed)
    }

    /// The shorter ones.
    #[must_use]
    pub fn short(&self) -> u64 {
        self.short.load(Relaxed)
    }

    fn count(&self, len: usize) {
        let counter = if len >= DATA_BYTES_MIN { &self.data } else { &self.short };
        counter.fetch_add(1, Relaxed);
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    is_cut: AtomicBool,
    to_target: Tally,
    from_target: Tally,
}

/// A running relay; it ends when it is dropped.
#[derive(Debug)]
pub struct UdpRelay {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl UdpRelay {
    /// Stands in front of `target`, with the same path in both directions.
    ///
    /// # Panics
    /// When no address can be bound.
    #[must_use]
    pub fn start(target: SocketAddr, profile: &Profile, seed: u64) -> Self {
        let front = bind(target.ip()).expect("an address of the target's family can be bound");
        let addr = front.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let relay = Relay {
            front,
            target,
            profile: profile.clone(),
            seed,
            flows: Vec::new(),
            start: Instant::now(),
            shared: Arc::clone(&shared),
            buffer: vec![0; 1 << 16],
        };
        let thread = thread::spawn(move || relay.run());
        Self { addr, shared, thread: Some(thread) }
    }

    /// What to hand out in place of the target.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on nothing gets through.
    pub fn cut(&self) {
        self.shared.is_cut.store(true, Relaxed);
    }

    /// What was carried towards the target.
    #[must_use]
    pub fn to_target(&self) -> &Tally {
        &self.shared.to_target
    }

    /// What was carried from the target.
    #[must_use]
    pub fn from_target(&self) -> &Tally {
        &self.shared.from_target
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has panicked already, if it did: nothing to add.
            let _ = thread.join();
        }
    }
}

/// The address of the first UDP candidate (RFC 8839) in a session description: what to put a relay in front of.
#[must_use]
pub fn candidate_of(sdp: &str) -> Option<SocketAddr> {
    sdp.lines().filter_map(|line| line.strip_prefix("a=candidate:")).find_map(|candidate| {
        let fields: Vec<_> = candidate.split_ascii_whitespace().collect();
        let [_, _, transport, _, ip, port, ..] = fields[..] else { return None };
        let addr = SocketAddr::new(ip.parse().ok()?, port.parse().ok()?);
        transport.eq_ignore_ascii_case("udp").then_some(addr)
    })
}

/// A session description whose only candidate is `addr`; none at all without one.
#[must_use]
pub fn with_candidate(sdp: &str, addr: Option<SocketAddr>) -> String {
    let mut lines: Vec<String> =
        sdp.lines().filter(|line| !line.starts_with("a=candidate:")).map(str::to_owned).collect();
    lines.extend(
        addr.map(|addr| format!("a=candidate:1 1 udp 2130706431 {} {} typ host", addr.ip(), addr.port())),
    );
    lines.iter().map(|line| format!("{}\r\n", line.trim_end())).collect()
}

/// One sender and the way to the target and back.
struct Flow {
    sender: SocketAddr,
    socket: UdpSocket,
    there: Direction,
    back: Direction,
}

struct Relay {
    front: UdpSocket,
    target: SocketAddr,
    profile: Profile,
    seed: u64,
    flows: Vec<Flow>,
    start: Instant,
    shared: Arc<Shared>,
    buffer: Vec<u8>,
}

impl Relay {
    fn run(mut self) {
        while !self.shared.stop.load(Relaxed) {
            self.take_from_senders();
            self.take_from_target();
            self.send_due();
            self.wait();
        }
    }

    fn take_from_senders(&mut self) {
        for _ in 0..BATCH {
            let Ok((len, from)) = self.front.recv_from(&mut self.buffer) else { return };
            if self.shared.is_cut.load(Relaxed) || len == 0 {
                continue;
            }
            let now = self.start.elapsed();
            if let Some(flow) = self.flow(from) {
                let flow = &mut self.flows[flow];
                put(&mut flow.there, now, &self.buffer[..len]);
            }
        }
    }

    fn take_from_target(&mut self) {
        for flow in &mut self.flows {
            for _ in 0..BATCH {
                let Ok(len) = flow.socket.recv(&mut self.buffer) else { break };
                if self.shared.is_cut.load(Relaxed) || len == 0 {
                    continue;
                }
                put(&mut flow.back, self.start.elapsed(), &self.buffer[..len]);
            }
        }
    }

    fn send_due(&mut self) {
        let is_cut = self.shared.is_cut.load(Relaxed);
        let now = self.start.elapsed();
        for flow in &mut self.flows {
            // Counted first: whoever has got a datagram finds it counted. What the kernel then refuses is lost on the way.
            while let Some(body) = flow.there.due(now) {
                if !is_cut {
                    self.shared.to_target.count(body.len());
                    let _ = flow.socket.send(body);
                }
                flow.there.pop();
            }
            while let Some(body) = flow.back.due(now) {
                if !is_cut {
                    self.shared.from_target.count(body.len());
                    let _ = self.front.send_to(body, flow.sender);
                }
                flow.back.pop();
            }
        }
    }

    /// Sleeps until something comes or something is due.
    fn wait(&self) {
        let now = self.start.elapsed();
        let due = self.flows.iter().flat_map(|flow| [flow.there.next_due(), flow.back.next_due()]).flatten();
        let nap = due.min().map_or(NAP, |due| due.saturating_sub(now).min(NAP));
        let mut fds: Vec<PollFd<'_>> = std::iter::once(&self.front)
            .chain(self.flows.iter().map(|flow| &flow.socket))
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: nap.subsec_nanos().into() };
        // Interrupted or not, the loop looks again.
        let _ = poll(&mut fds, Some(&timeout));
    }

    fn flow(&mut self, sender: SocketAddr) -> Option<usize> {
        if let Some(known) = self.flows.iter().position(|flow| flow.sender == sender) {
            return Some(known);
        }
        if self.flows.len() >= FLOWS_MAX {
            return None;
        }
        let socket = bind(self.target.ip()).ok()?;
        socket.connect(self.target).ok()?;
        let seed = self.seed + 2 * self.flows.len() as u64;
        let there = Direction::new(self.profile.clone(), seed);
        let back = Direction::new(self.profile.clone(), seed + 1);
        self.flows.push(Flow { sender, socket, there, back });
        Some(self.flows.len() - 1)
    }
}

fn put(path: &mut Direction, now: Duration, body: &[u8]) {
    // No memory left is a queue that is full.
    if let Some(slot) = path.slot() {
        slot[..body.len()].copy_from_slice(body);
        path.commit(now, body.len());
    }
}

fn bind(like: IpAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((like, 0))?;
    socket.set_nonblocking(true)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn ends() -> (UdpSocket, UdpSocket) {
        let bind = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket
        };
        (bind(), bind())
    }

    #[test]
    fn datagrams_go_there_and_back_after_the_delay_and_are_counted() {
        let (sender, target) = ends();
        let profile = Profile { delay: 30 * MS, in_flight_bytes: 1 << 20, ..Profile::default() };
        let relay = UdpRelay::start(target.local_addr().unwrap(), &profile, 1);
        let start = Instant::now();
        sender.send_to(&[1; 1000], relay.addr()).unwrap();
        let mut buffer = [0; 2000];
        let (len, from) = target.recv_from(&mut buffer).unwrap();
        assert_eq!(len, 1000);
        target.send_to(&[2; 50], from).unwrap();
        let (len, from) = sender.recv_from(&mut buffer).unwrap();
        assert_eq!((len, from), (50, relay.addr()));
        assert!(start.elapsed() >= 60 * MS);
        assert_eq!((relay.to_target().data(), relay.to_target().short()), (1, 0));
        assert_eq!((relay.from_target().data(), relay.from_target().short()), (0, 1));
    }

    #[test]
    fn two_senders_are_told_apart() {
        let (first, target) = ends();
        let (second, _) = ends();
        let profile = Profile { in_flight_bytes: 1 << 20, ..Profile::default() };
        let relay = UdpRelay::start(target.local_addr().unwrap(), &profile, 1);
        let mut buffer = [0; 100];
        first.send_to(b"first", relay.addr()).unwrap();
        let (_, as_first) = target.recv_from(&mut buffer).unwrap();
        second.send_to(b"second", relay.addr()).unwrap();
        let (_, as_second) = target.recv_from(&mut buffer).unwrap();
        assert_ne!(as_first, as_second);
        target.send_to(b"to the first", as_first).unwrap();
        let len = first.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"to the first");
    }

    #[test]
    fn nothing_passes_once_it_is_cut() {
        let (sender, target) = ends();
        let profile = Profile { in_flight_bytes: 1 << 20, ..Profile::default() };
        let relay = UdpRelay::start(target.local_addr().unwrap(), &profile, 1);
        let mut buffer = [0; 100];
        sender.send_to(b"before", relay.addr()).unwrap();
        target.recv(&mut buffer).unwrap();
        relay.cut();
        sender.send_to(b"after", relay.addr()).unwrap();
        target.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        target.recv(&mut buffer).unwrap_err();
    }

    #[test]
    fn a_description_is_given_another_candidate() {
        let sdp = "v=0\r\na=candidate:1 1 tcp 9 10.0.0.1 9 typ host\r\n\
            a=candidate:1 1 udp 9 10.0.0.2 4000 typ host\r\na=mid:0\r\n";
        assert_eq!(candidate_of(sdp), Some("10.0.0.2:4000".parse().unwrap()));
        let relayed = with_candidate(sdp, Some("127.0.0.1:7".parse().unwrap()));
        assert_eq!(candidate_of(&relayed), Some("127.0.0.1:7".parse().unwrap()));
        assert_eq!(relayed.matches("a=candidate").count(), 1);
        assert_eq!(with_candidate(sdp, None), "v=0\r\na=mid:0\r\n");
    }
}
