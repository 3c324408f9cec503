//! A UDP tracker (BEP 15): connect and announce, with given peers, and a count of what it was asked.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{http_tracker::compact, net};

const MAGIC: [u8; 8] = 0x0417_2710_1980_u64.to_be_bytes();
const CONNECTION_ID: [u8; 8] = *b"wtfs-udp";

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    info_hashes: Mutex<Vec<[u8; 20]>>,
}

/// A running tracker.
#[derive(Debug)]
pub struct UdpTracker {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl UdpTracker {
    /// Starts a tracker on a loopback address of its own, which names these peers.
    ///
    /// # Panics
    /// When no address can be bound.
    #[must_use]
    pub fn start(peers: &[SocketAddr]) -> Self {
        let socket = UdpSocket::bind((net::loopback(), 0)).expect("a loopback address can be bound");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a positive time");
        let addr = socket.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let peers = compact(peers);
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !serving.stop.load(Ordering::Acquire) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                if let Some(reply) = reply(&buffer[..len], &peers, &serving) {
                    // A lost datagram is ordinary: the client asks again.
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        Self { addr, shared }
    }

    /// Its announce URL.
    #[must_use]
    pub fn announce_url(&self) -> String {
        format!("udp://{}/announce", self.addr)
    }

    /// The info hash of each announce so far.
    #[must_use]
    pub fn announces(&self) -> Vec<[u8; 20]> {
        self.shared.info_hashes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for UdpTracker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
    }
}

fn reply(request: &[u8], peers: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let action = request.get(8..12)?;
    let transaction = request.get(12..16)?;
    if request.get(..8)? == MAGIC && action == [0, 0, 0, 0] {
        return Some([&[0, 0, 0, 0], transaction, &CONNECTION_ID].concat());
    }
    if request.get(..8)? == CONNECTION_ID && action == [0, 0, 0, 1] && request.len() >= 98 {
        let hash = request.get(16..36)?.try_into().ok()?;
        shared.info_hashes.lock().unwrap_or_else(PoisonError::into_inner).push(hash);
        let [interval, leechers, seeders] = [1800_u32, 0, 1].map(u32::to_be_bytes);
        return Some([&[0, 0, 0, 1], transaction, &interval, &leechers, &seeders, peers].concat());
    }
    Some([&[0, 0, 0, 3], transaction, b"not understood"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connect_and_an_announce_give_the_peers() {
        let tracker = UdpTracker::start(&["127.1.2.3:258".parse().expect("an address")]);
        let socket = UdpSocket::bind((net::loopback(), 0)).expect("a loopback address can be bound");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a positive time");
        let mut buffer = [0; 100];
        let ask = |request: &[u8], buffer: &mut [u8]| {
            socket.send_to(request, tracker.addr).expect("it can be sent");
            socket.recv(buffer).expect("it answers")
        };
        let n = ask(&[&MAGIC[..], &[0, 0, 0, 0], b"abcd"].concat(), &mut buffer);
        assert_eq!(&buffer[..n], [&[0, 0, 0, 0], &b"abcd"[..], &CONNECTION_ID].concat());
        let announce = [&CONNECTION_ID[..], &[0, 0, 0, 1], b"efgh", &[7; 82]].concat();
        let n = ask(&announce, &mut buffer);
        assert_eq!(&buffer[20..n], b"\x7f\x01\x02\x03\x01\x02");
        assert_eq!(tracker.announces(), [[7; 20]]);
    }
}
