//! Addresses for tests that run side by side: a loopback address of its own for every party of every test, and
//! ports that are free on it.
//!
//! Many clients keep one connection per IP, so two parties on 127.0.0.1 would shut each other out. All of
//! 127.0.0.0/8 is local on Linux, so there is an address for each.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A loopback address that no other caller in this process gets. The second octet comes from the process id,
/// so that two test binaries at once seldom meet; ports are probed anyway.
#[must_use]
pub fn loopback() -> Ipv4Addr {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    // 127.0.x.y stays out: 127.0.0.1 belongs to everybody, 127.0.0.53 is often a resolver.
    let second = 1 + std::process::id() % 250;
    let third = (n / 250) % 250;
    let fourth = 1 + n % 250;
    let octet = |v: u32| u8::try_from(v).expect("below 256 by the remainders above");
    Ipv4Addr::new(127, octet(second), octet(third), octet(fourth))
}

/// An address with a port that was free for TCP and for UDP a moment ago.
///
/// # Panics
/// When no port is free.
#[must_use]
pub fn free_addr(ip: Ipv4Addr) -> SocketAddr {
    for _ in 0..100 {
        let tcp = TcpListener::bind((ip, 0)).expect("loopback addresses can be bound");
        let addr = tcp.local_addr().expect("a bound socket has an address");
        if UdpSocket::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port of {ip} is free for TCP and UDP");
}

/// A fresh loopback address with a free port.
#[must_use]
pub fn fresh_addr() -> SocketAddr {
    free_addr(loopback())
}

/// Has each connection served, in the order they come, until `is_over`, which is asked when one has come.
pub(crate) fn attend_all(
    listener: TcpListener,
    is_over: impl Fn() -> bool + Send + 'static,
    attend: impl Fn(TcpStream) + Send + 'static,
) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            if is_over() {
                return;
            }
            if let Ok(stream) = stream {
                attend(stream);
            }
        }
    });
}

/// An address at which nobody listens: connections are refused at once.
#[must_use]
pub fn refused_addr() -> SocketAddr {
    fresh_addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_callers_get_one_address() {
        let all: HashSet<_> = (0..1000).map(|_| loopback()).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }

    #[test]
    fn a_free_address_can_be_bound() {
        let addr = fresh_addr();
        TcpListener::bind(addr).expect("it was free");
    }
}
