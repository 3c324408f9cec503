//! The 68 bytes that open a connection (BEP 3), in both roles.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_proto::id::{InfoHash, InfoHashes, PeerId};
use wtfs_proto::wire::handshake::{Handshake, HandshakeError, Reserved};

use crate::transport::Connection;

/// How long a peer may take over its handshake.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Why a handshake did not come to a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the handshake took more than {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("it answered for another torrent")]
    WrongTorrent,
    #[error("it is ourselves")]
    Ourselves,
    #[error("it asked for a torrent that is not here")]
    UnknownTorrent,
}

/// What we can do, as the handshake's reserved bits say it.
fn reserved() -> Reserved {
    Reserved::default().with_extension_protocol().with_fast()
}

async fn read(connection: &mut Connection) -> Result<Handshake, OpenError> {
    let mut bytes = [0; 68];
    connection.reader.read_exact(&mut bytes).await?;
    Ok(Handshake::decode(&bytes)?)
}

/// Speaks first, of the torrent called `named`; the answer may be any of its names.
pub(crate) async fn initiate(
    connection: &mut Connection,
    named: InfoHash,
    hashes: &InfoHashes,
    peer_id: PeerId,
) -> Result<Handshake, OpenError> {
    let exchange = async {
        let mut ours = Handshake { reserved: reserved(), info_hash: named, peer_id };
        if hashes.v1.is_some() && hashes.v2.is_some() {
            // A peer that speaks v2 answers with that hash, and gives hashes of blocks from then on.
            ours.reserved = ours.reserved.with_v2();
        }
        connection.writer.write_all(&ours.encode()).await?;
        let theirs = read(connection).await?;
        if !hashes.contains(theirs.info_hash) {
            return Err(OpenError::WrongTorrent);
        }
        if theirs.peer_id == peer_id {
            return Err(OpenError::Ourselves);
        }
        Ok(theirs)
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| OpenError::Timeout)?
}

/// Listens, looks the torrent up, and answers.
pub(crate) async fn accept<T>(
    connection: &mut Connection,
    peer_id: PeerId,
    find: impl FnOnce(InfoHash) -> Option<T>,
) -> Result<(Handshake, T), OpenError> {
    let exchange = async {
        let theirs = read(connection).await?;
        let found = find(theirs.info_hash).ok_or(OpenError::UnknownTorrent)?;
        if theirs.peer_id == peer_id {
            return Err(OpenError::Ourselves);
        }
        let ours = Handshake { reserved: reserved(), info_hash: theirs.info_hash, peer_id };
        connection.writer.write_all(&ours.encode()).await?;
        Ok((theirs, found))
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| OpenError::Timeout)?
}
