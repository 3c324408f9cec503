//! TCP: connecting, accepting, and the socket options that matter for bulk data.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Connection, Direction, TransportKind};

/// Waiting connections the kernel keeps for us.
const BACKLOG: i32 = 256;

/// Opens a listening socket. IPv6 sockets take IPv6 only, so that one for each family can share a port.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A port in TIME_WAIT after a restart is free to be taken again.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects, from `local` if one is given.
pub(crate) async fn connect(
    addr: SocketAddr,
    local: Option<IpAddr>,
    timeout: Duration,
) -> io::Result<Connection> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if let Some(local) = local.filter(|ip| ip.is_ipv6() == addr.is_ipv6() && !ip.is_unspecified()) {
        socket.bind(SocketAddr::new(local, 0))?;
    }
    let stream = tokio::time::timeout(timeout, socket.connect(addr))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(from_stream(stream, addr, Direction::Outgoing))
}

/// Wraps an established stream.
pub(crate) fn from_stream(stream: TcpStream, addr: SocketAddr, direction: Direction) -> Connection {
    tune(&stream);
    let (reader, writer) = stream.into_split();
    Connection {
        reader: Box::new(QuickAck(reader)),
        writer: Box::new(writer),
        addr: SocketAddr::new(addr.ip().to_canonical(), addr.port()),
        kind: TransportKind::Tcp,
        direction,
        fingerprint: None,
    }
}

/// Acknowledges what was read at once.
///
/// Many clients leave Nagle's algorithm on: the last, short segment of a burst of blocks is then held back until all
/// before it is acknowledged, and we would acknowledge 40 ms later. A reader that waits for one piece feels each of
/// those. The kernel forgets the option (tcp(7)), so it is set again after every read: 0.2 us.
#[derive(Debug)]
struct QuickAck(OwnedReadHalf);

impl AsyncRead for QuickAck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(context, buffer);
        if read.is_ready()
            && let Err(error) = rustix::net::sockopt::set_tcp_quickack(self.0.as_ref(), true)
        {
            tracing::trace!(%error, "TCP_QUICKACK not set");
        }
        read
    }
}

/// Requests are small and must not wait for more (Nagle). BBR keeps a lossy path full where cubic collapses: at 20 ms
/// and 1 % loss it moved 60 times as much; where the kernel has it not, its default stays.
fn tune(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    for (option, result) in
        [("TCP_NODELAY", stream.set_nodelay(true)), ("TCP_CONGESTION", socket.set_tcp_congestion(b"bbr"))]
    {
        if let Err(error) = result {
            tracing::trace!(option, %error, "socket option not set");
        }
    }
}
