//! Revisions of which files were asked for lately: when all of their blobs are here, a torrent is made of each.

use std::sync::{Arc, Mutex, PoisonError};

use wtfs_proto::hf::{Repo, RepoTree};

use super::super::Snapshot;

/// Revisions that are remembered; their trees are in memory for it.
const MAX: usize = 64;

/// See the module's documentation. The last one seen stands last.
#[derive(Debug, Default)]
pub(in crate::hf) struct Sightings(Mutex<Vec<(Repo, Arc<RepoTree>)>>);

impl Sightings {
    /// Notes that something of a revision was asked for; what not everybody may read is passed over.
    pub(in crate::hf) fn note(&self, snapshot: &Snapshot) {
        if !snapshot.is_public {
            return;
        }
        let (repo, tree) = (&snapshot.pinned.repo, &snapshot.tree);
        let mut seen = self.lock();
        let at = seen.iter().rposition(|(of, known)| known.commit == tree.commit && of == repo);
        match at {
            Some(at) if at + 1 == seen.len() => return,
            Some(at) => drop(seen.remove(at)),
            None if seen.len() >= MAX => drop(seen.remove(0)),
            None => {}
        }
        seen.push((repo.clone(), tree.clone()));
    }

    pub(super) fn all(&self) -> Vec<(Repo, Arc<RepoTree>)> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Repo, Arc<RepoTree>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
