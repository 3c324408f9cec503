//! Sockets for the hub: HTTP and the UDP tracker at the same addresses and port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait to be accepted: a burst of clients must not be refused.
const BACKLOG: i32 = 4096;

/// What a tracker's bursts may take up in the kernel. It gives less without being asked to raise its limit.
const UDP_BUFFER_BYTES: usize = 4 << 20;

/// Tries to find a port that is free for TCP and for UDP.
const TRIES: usize = 16;

/// Bound sockets, one of each kind for each address.
#[derive(Debug)]
pub struct Listeners {
    /// For [`Hub::serve`](crate::Hub::serve).
    pub http: Vec<TcpListener>,
    /// For [`Hub::serve_udp`](crate::Hub::serve_udp); empty where UDP was not wanted.
    pub udp: Vec<UdpSocket>,
}

/// Whether a tracker over UDP is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    /// At the port of HTTP.
    SamePort,
    /// Not at all.
    Off,
}

/// Every address of this machine, both families.
pub fn everywhere(port: u16) -> Vec<SocketAddr> {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    all.map(|ip| SocketAddr::new(ip, port)).to_vec()
}

/// Binds. Port 0 takes one that is free at all addresses. Must run on a tokio runtime.
///
/// # Errors
/// When an address cannot be had. IPv6 may be missing altogether if others are left.
pub fn bind(addrs: &[SocketAddr], udp: Udp) -> io::Result<Listeners> {
    let mut tries = 0;
    loop {
        tries += 1;
        match bind_once(addrs, udp) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && addrs.first().is_some_and(|addr| addr.port() == 0)
                    && tries < TRIES => {}
            outcome => return outcome,
        }
    }
}

fn bind_once(addrs: &[SocketAddr], udp: Udp) -> io::Result<Listeners> {
    let mut listeners = Listeners { http: Vec::new(), udp: Vec::new() };
    let mut port = addrs.first().map_or(0, SocketAddr::port);
    for addr in addrs {
        let addr = SocketAddr::new(addr.ip(), if addr.port() == 0 { port } else { addr.port() });
        let http = match tcp(addr) {
            Err(error) if is_family_missing(&error) && addrs.len() > 1 => {
                tracing::debug!(%addr, %error, "that family is not to be had here");
                continue;
            }
            http => http?,
        };
        port = http.local_addr()?.port();
        if udp == Udp::SamePort {
            listeners.udp.push(self::udp(SocketAddr::new(addr.ip(), port))?);
        }
        listeners.http.push(http);
    }
    if listeners.http.is_empty() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    Ok(listeners)
}

fn is_family_missing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // Both families get a socket of their own, so that addresses are what they look like.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for old connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    for outcome in
        [socket.set_recv_buffer_size(UDP_BUFFER_BYTES), socket.set_send_buffer_size(UDP_BUFFER_BYTES)]
    {
        if let Err(error) = outcome {
            tracing::debug!(%error, "the socket keeps its small buffers");
        }
    }
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn http_and_udp_share_a_port_that_was_free() {
        let addrs: Vec<SocketAddr> = everywhere(0)
            .iter()
            .map(|addr| if addr.is_ipv4() { ([127, 0, 0, 1], 0).into() } else { *addr })
            .collect();
        let listeners = bind(&addrs, Udp::SamePort).expect("bound");
        let port = listeners.http[0].local_addr().expect("bound").port();
        assert!(port != 0 && listeners.http.len() == listeners.udp.len());
        let ports = listeners.udp.iter().map(|socket| socket.local_addr().expect("bound").port());
        assert!(ports.eq(listeners.http.iter().map(|_| port)));
        let taken = bind(&[([127, 0, 0, 1], port).into()], Udp::Off).expect_err("taken");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }
}
