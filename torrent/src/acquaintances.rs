//! Whom a torrent is connected with and how many more it wants, for those who do not run in its task: a tracker's socket
//! asks before it answers an offer or has one made.
//!
//! Written by the torrent's task alone. It may be out of date by a moment; the task decides when a connection comes.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wtfs_proto::id::PeerId;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Acquaintances(Mutex<State>);

#[derive(Debug)]
struct State {
    connected: HashSet<PeerId>,
    wanted: usize,
    room: usize,
}

impl Default for State {
    /// A torrent that has just been added: trackers may answer before its task has said anything.
    fn default() -> Self {
        Self { connected: HashSet::new(), wanted: 1, room: 1 }
    }
}

impl Acquaintances {
    /// Peers that are looked for, and peers that would be taken.
    pub(crate) fn set_room(&self, wanted: usize, room: usize) {
        let mut state = self.lock();
        (state.wanted, state.room) = (wanted, room);
    }

    pub(crate) fn handle_connected(&self, peer_id: PeerId) {
        self.lock().connected.insert(peer_id);
    }

    pub(crate) fn handle_closed(&self, peer_id: PeerId) {
        self.lock().connected.remove(&peer_id);
    }

    pub(crate) fn connected(&self) -> usize {
        self.lock().connected.len()
    }

    pub(crate) fn is_connected(&self, peer_id: PeerId) -> bool {
        self.lock().connected.contains(&peer_id)
    }

    pub(crate) fn wanted(&self) -> usize {
        self.lock().wanted
    }

    pub(crate) fn room(&self) -> usize {
        self.lock().room
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each step is a plain assignment: a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
