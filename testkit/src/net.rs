//! Addresses for tests that run side by side: a loopback address of its own for every party of every test, and
//! ports that are free on it and stay so.
//!
//! Many clients keep one connection per IP, so two parties on 127.0.0.1 would shut each other out. All of
//! 127.0.0.0/8 is local on Linux, so there is an address for each.
//!
//! Invariant: nobody who does not ask for an address by name takes one that was given here. A /16 belongs to one process
//! for as long as it lives, whoever else tests on this machine; and the ports are none that the kernel gives to who
//! asks for any, on all addresses at once perhaps.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr as LocalAddr, UnixDatagram},
    },
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Second octets to choose from. 0 stays out: 127.0.0.1 belongs to everybody, 127.0.0.53 is often a resolver.
const SECONDS: Range<u32> = 1..251;
/// Below it are ports that programs like to have by default.
const LOWEST_PORT: u16 = 12_000;
/// Ports that a process tries first, each another eightieth of them.
const PORTS_EACH: u32 = 80;

/// The second octet of this process's addresses, and what keeps it from others: an abstract socket, which goes with the
/// process, however that ends.
fn second_octet() -> u32 {
    static HELD: OnceLock<(u32, Option<UnixDatagram>)> = OnceLock::new();
    let take = || {
        let begin = std::process::id();
        let octets = (0..SECONDS.len() as u32).map(|n| SECONDS.start + (begin + n) % SECONDS.len() as u32);
        let hold = |octet: &u32| {
            let name = format!("wtfs-testkit-127.{octet}");
            UnixDatagram::bind_addr(&LocalAddr::from_abstract_name(name).ok()?).ok()
        };
        let mut free = octets.filter_map(|octet| hold(&octet).map(|held| (octet, Some(held))));
        // With 250 such processes at once the ports are still probed.
        free.next().unwrap_or((SECONDS.start + begin % SECONDS.len() as u32, None))
    };
    HELD.get_or_init(take).0
}

/// A loopback address that no other caller gets, in this process or another that is alive.
#[must_use]
pub fn loopback() -> Ipv4Addr {
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let third = (n / 250) % 250;
    let fourth = 1 + n % 250;
    let octet = |v: u32| u8::try_from(v).expect("below 256 by the remainders above");
    Ipv4Addr::new(127, octet(second_octet()), octet(third), octet(fourth))
}

/// Ports below those that the kernel gives to who binds or connects without a wish: any of those may be taken on all
/// addresses between the probing here and the use. `None` where the kernel gives nearly all.
fn ports_on_request() -> Option<Range<u16>> {
    let given = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let lowest: u16 = given.split_whitespace().next()?.parse().ok()?;
    (lowest >= 2 * LOWEST_PORT).then_some(LOWEST_PORT..lowest)
}

/// An address with a port that is free for TCP and for UDP.
///
/// # Panics
/// When no port is free.
#[must_use]
pub fn free_addr(ip: Ipv4Addr) -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let ports = ports_on_request();
    for _ in 0..1000 {
        let port = ports.as_ref().map_or(0, |ports| {
            let at = second_octet() * PORTS_EACH + TRIED.fetch_add(1, Ordering::Relaxed);
            ports.start + u16::try_from(at % ports.len() as u32).expect("fewer than there are ports")
        });
        let Ok(tcp) = TcpListener::bind((ip, port)) else { continue };
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
    use crate::process::Process;
    use std::{collections::HashSet, process::Command, time::Duration};

    #[test]
    fn no_two_callers_get_one_address() {
        let all: HashSet<_> = (0..1000).map(|_| loopback()).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
    }

    #[test]
    fn a_free_address_can_be_bound_and_nobody_gets_its_port_unasked() {
        let addr = fresh_addr();
        TcpListener::bind(addr).expect("it is free");
        let on_request = ports_on_request();
        assert!(on_request.is_none_or(|ports| ports.contains(&addr.port())), "{addr}");
    }

    /// Set for the child of the next test.
    const TELL: &str = "WTFS_TEST_TELL_ADDRESS";

    /// Not a test of its own: does nothing unless the next one starts it in a child.
    #[test]
    fn child_that_tells_its_address_and_waits() {
        if std::env::var_os(TELL).is_some() {
            println!("address {}", loopback());
            let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        }
    }

    #[test]
    fn processes_that_live_at_once_share_no_address() {
        let scratch = crate::scratch::Scratch::new("net");
        let mut seconds = HashSet::from([loopback().octets()[1]]);
        let mut children = Vec::new();
        for n in 0..3 {
            let mut command = Command::new(std::env::current_exe().expect("this test binary"));
            command
                .args(["--exact", "net::tests::child_that_tells_its_address_and_waits", "--nocapture"])
                .env(TELL, "1");
            let mut child = Process::spawn("child", command, &scratch.join(format!("{n}.log")));
            let told = |line: &str| line.split_once("address ")?.1.parse::<Ipv4Addr>().ok();
            let (address, _) = child.wait_for_line("its address", Duration::from_secs(120), 0, told);
            assert!(seconds.insert(address.octets()[1]), "{address} is another's too");
            children.push(child);
        }
    }
}
