//! The port through which the hub sees torrents, and the engine behind it.

use std::sync::Arc;

use serde::Serialize;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::{Session, Torrent};

/// One torrent in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The info hash that names its swarm, in hexadecimal.
    pub info_hash: String,
    /// Its name.
    pub name: String,
    /// Bytes of all its files; 0 while the metadata is missing.
    pub total_bytes: u64,
    /// Pieces it has in all.
    pub pieces: u32,
    /// Pieces that are here.
    pub pieces_present: u32,
}

/// Something that has torrents. Its methods answer at once.
pub trait Library: std::fmt::Debug + Send + Sync + 'static {
    /// All of them, in an order that stays.
    fn list(&self) -> Vec<Listed>;

    /// The metainfo of one, by any of its info hashes; `None` if it is not here or its metadata is still missing.
    fn metainfo(&self, info_hash: InfoHash) -> Option<Arc<Metainfo>>;
}

impl Library for Session {
    fn list(&self) -> Vec<Listed> {
        self.torrents().iter().map(listed).collect()
    }

    fn metainfo(&self, info_hash: InfoHash) -> Option<Arc<Metainfo>> {
        self.torrent(info_hash)?.metainfo()
    }
}

fn listed(torrent: &Torrent) -> Listed {
    let status = torrent.status();
    Listed {
        info_hash: status.info_hash,
        name: status.name,
        total_bytes: status.total_bytes,
        pieces: status.pieces,
        pieces_present: status.pieces_present,
    }
}
