//! The hub's library: what stands in its roots, and what else its engine has that is not closed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wtfs_proto::hub::{Origin, TorrentEntry, TorrentState};
use wtfs_proto::id::InfoHash;
use wtfs_torrent::{Phase, Session, Torrent};

use crate::closed_swarms::ClosedSwarms;
use crate::library::{Item, Library};
use crate::roots::Roots;

/// Items of the engine's torrents that are kept: making one anew costs a look at its paths.
const ITEMS_MAX: usize = 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shelves {
    roots: Roots,
    session: Session,
    closed: ClosedSwarms,
    items: Mutex<HashMap<InfoHash, Arc<Item>>>,
}

impl Shelves {
    pub(crate) fn new(roots: Roots, session: Session, closed: ClosedSwarms) -> Self {
        Self { roots, session, closed, items: Mutex::default() }
    }

    /// The engine's torrents that may be listed.
    fn open(&self) -> impl Iterator<Item = Torrent> {
        self.session.torrents().into_iter().filter(|torrent| !self.closed.hold(torrent.info_hash()))
    }

    fn item(&self, torrent: Torrent) -> Option<Arc<Item>> {
        let metainfo = torrent.metainfo()?;
        let hash = torrent.info_hash();
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        // The same metainfo in memory is the same torrent: one that was removed and added again has another.
        if let Some(item) = items.get(&hash).filter(|item| Arc::ptr_eq(item.metainfo(), &metainfo)) {
            return Some(item.clone());
        }
        let item = Arc::new(Item::of_engine(torrent)?);
        if items.len() >= ITEMS_MAX {
            items.clear();
        }
        items.insert(hash, item.clone());
        Some(item)
    }
}

impl Library for Shelves {
    fn list(&self) -> Vec<TorrentEntry> {
        let mut all = self.roots.list();
        let others = self.open().filter(|torrent| self.roots.by_hash(torrent.info_hash()).is_none());
        all.extend(others.map(|torrent| entry(&torrent)));
        all
    }

    fn by_hash(&self, info_hash: InfoHash) -> Option<Arc<Item>> {
        self.roots.by_hash(info_hash).or_else(|| {
            let torrent = self.session.torrent(info_hash)?;
            // Asked by another of its hashes it is the same.
            if self.closed.hold(torrent.info_hash()) { None } else { self.item(torrent) }
        })
    }

    fn by_name(&self, name: &str) -> Option<Arc<Item>> {
        self.roots.by_name(name).or_else(|| self.item(self.open().find(|torrent| torrent.name() == name)?))
    }
}

fn entry(torrent: &Torrent) -> TorrentEntry {
    let status = torrent.status();
    let (state, reason) = match status.phase {
        Phase::Metadata => (TorrentState::Metadata, None),
        Phase::Checking { .. } => (TorrentState::Hashing, None),
        Phase::Failed { message } => (TorrentState::Refused, Some(message)),
        _ => (TorrentState::Ready, None),
    };
    TorrentEntry {
        name: status.name,
        info_hash: Some(status.info_hash),
        state,
        origin: Origin::Swarm,
        total_bytes: status.total_bytes,
        hashed_bytes: None,
        pieces: status.pieces,
        pieces_present: status.pieces_present,
        reason,
    }
}
