//! The torrent as WebSocket trackers' sockets see it: what it wants, and where connections that came about there go.
//!
//! Owns nothing: the torrent's task decides. What is done here is the handshake, which takes its time.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wtfs_proto::id::{InfoHash, PeerId};

use crate::peer_task::handshake;
use crate::session::Engine;
use crate::torrent::{Command, Shared};
use crate::tracker::ws::Swarm;
use crate::transport::{Connection, Direction};

/// See the module's documentation.
pub(super) struct Rendezvous {
    pub(super) shared: Arc<Shared>,
    pub(super) engine: Arc<Engine>,
}

impl std::fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rendezvous").field(&self.shared.info_hash()).finish()
    }
}

impl Swarm for Rendezvous {
    fn wanted(&self) -> usize {
        self.shared.acquaintances.wanted()
    }

    fn has_room(&self) -> bool {
        self.shared.acquaintances.room() > 0
    }

    fn connected(&self) -> usize {
        self.shared.acquaintances.connected()
    }

    fn is_connected(&self, peer_id: PeerId) -> bool {
        self.shared.acquaintances.is_connected(peer_id)
    }

    fn is_gone(&self) -> bool {
        self.shared.commands.is_closed()
    }

    fn welcome(&self, mut connection: Connection, info_hash: InfoHash) -> BoxFuture<'static, ()> {
        let (shared, engine) = (self.shared.clone(), self.engine.clone());
        async move {
            let (addr, hashes) = (connection.addr, shared.hashes);
            let shaken = match connection.direction {
                Direction::Outgoing => {
                    handshake::initiate(&mut connection, info_hash, &hashes, engine.peer_id).await
                }
                Direction::Incoming => {
                    let find = |hash| hashes.contains(hash).then_some(());
                    handshake::accept(&mut connection, engine.peer_id, find).await.map(|(theirs, ())| theirs)
                }
            };
            match shaken {
                Ok(theirs) => {
                    let command = Command::Incoming(Box::new((connection, theirs)));
                    if shared.commands.try_send(command).is_err() {
                        tracing::debug!(%addr, "dropped: the torrent is busy or closed");
                    }
                }
                Err(error) => tracing::debug!(%addr, %error, "a data channel came to nothing"),
            }
        }
        .boxed()
    }
}
