//! A connection within the process: two ends of a pipe. For tests of the engine, where no socket is wanted.

use std::net::SocketAddr;

use super::{Connection, Direction, TransportKind};

/// Both ends of a new connection: the first is the outgoing end of whoever is at `from`, the second the incoming end
/// at `to`. `buffer_bytes` bounds what is on its way in each direction.
pub(crate) fn pair(from: SocketAddr, to: SocketAddr, buffer_bytes: usize) -> (Connection, Connection) {
    let (near, far) = tokio::io::duplex(buffer_bytes);
    let end = |stream, addr, direction| {
        let (reader, writer) = tokio::io::split::<tokio::io::DuplexStream>(stream);
        Connection {
            reader: Box::new(reader),
            writer: Box::new(writer),
            addr,
            kind: TransportKind::Memory,
            direction,
            fingerprint: None,
        }
    };
    (end(near, to, Direction::Outgoing), end(far, from, Direction::Incoming))
}
