//! A mount of torrents: one entry in the root for each, and `.wtfs` beside them.
//!
//! A directory for a torrent of many files, the file itself for one of a single file, a small text for one whose
//! metadata is still missing. Entries come and go while mounted; each keeps its position in the root's listing for life.
//! The state is a leaf lock held for map look-ups only: every answer is made from an `Arc` taken out of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::ops::{Bound, ControlFlow};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use tokio::runtime::Handle;
use wtfs_proto::id::InfoHash;

use crate::catalog::modified_from;
use crate::changes::Changes;
use crate::content::Content;
use crate::errno::FsError;
use crate::inode::{InodeNo, TreeTag};
use crate::tree::{Caching, Cookie, Listed, Node, NodeKind, Tree, Volume};

pub(crate) mod control;
mod engine;
mod entry;
mod names;
mod source;

pub use control::ControlFile;
pub use source::{Progress, TorrentSource};

use control::ControlFiles;
use entry::{Place, View};

/// The position of `.wtfs` in the root; torrents follow.
const CONTROL_COOKIE: u64 = 1;

/// Entries taken out of the lock at a time; about what one request for a listing holds.
const LIST_BATCH: usize = 256;

/// Why a torrent got no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It is in this mount already.
    #[error("the torrent {0} is in this mount already")]
    Duplicate(InfoHash),
}

/// The tree of a mount of torrents. Clones are the same tree.
#[derive(Debug, Clone)]
pub struct TorrentTree {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    control: ControlFiles,
    changes: OnceLock<Changes>,
    runtime: Handle,
    /// Held while a torrent is added: a tag must not be chosen twice while a tree is being built. Taken before `state`.
    adding: Mutex<()>,
}

#[derive(Debug)]
struct State {
    places: BTreeMap<u64, Arc<Place>>,
    by_name: HashMap<String, u64>,
    by_tag: HashMap<TreeTag, u64>,
    by_hash: HashMap<InfoHash, u64>,
    next_cookie: u64,
}

impl TorrentTree {
    /// An empty mount. Waits for metadata run on `runtime`.
    pub fn new(runtime: Handle, control: Vec<ControlFile>) -> Self {
        let state = State {
            places: BTreeMap::new(),
            by_name: HashMap::new(),
            by_tag: HashMap::new(),
            by_hash: HashMap::new(),
            next_cookie: CONTROL_COOKIE + 1,
        };
        let control = ControlFiles::new(control);
        let (state, changes) = (RwLock::new(state), OnceLock::new());
        Self { shared: Arc::new(Shared { state, control, changes, runtime, adding: Mutex::new(()) }) }
    }

    /// Adds a torrent; returns the name of its entry. Without metadata the entry is a text until it arrives.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add(&self, source: Arc<dyn TorrentSource>) -> Result<String, EntryError> {
        let hash = source.info_hash();
        let (guard, removed) = entry::wait_guard();
        let _adding = self.shared.adding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.entry_name(hash).is_some() {
            return Err(EntryError::Duplicate(hash));
        }
        let tag = self.with(|state| state.free_tag(hash));
        let view = match source.metainfo() {
            Some(metainfo) => View::build(tag, source.as_ref(), metainfo),
            None => View::Waiting { since: SystemTime::now() },
        };
        let is_waiting = matches!(view, View::Waiting { .. });
        let place = Place { tag, name: String::new(), source: Arc::clone(&source), view, _waiting: guard };
        let name = self.write(|state| state.insert(hash, place));
        self.tell(&name);
        if is_waiting {
            let shared = Arc::downgrade(&self.shared);
            self.shared.runtime.spawn(async move {
                let arrived = tokio::select! {
                    () = removed.cancelled() => return,
                    arrived = source.arrival() => arrived,
                };
                let built = tokio::task::spawn_blocking(move || match arrived {
                    Ok(metainfo) => View::build(tag, source.as_ref(), metainfo),
                    Err(message) => View::Failed { message },
                });
                if let (Ok(view), Some(shared)) = (built.await, shared.upgrade()) {
                    Self { shared }.replace(hash, view);
                }
            });
        }
        Ok(name)
    }

    /// Takes a torrent out; false if it was not there. Files that are open stay readable as far as the engine allows.
    pub fn remove(&self, hash: InfoHash) -> bool {
        let removed: Option<Arc<Place>> = self.write(|state| state.remove(hash));
        let was_there = removed.is_some();
        if let Some(place) = removed {
            self.tell(&place.name);
        }
        was_there
    }

    /// The name of a torrent's entry now.
    pub fn entry_name(&self, hash: InfoHash) -> Option<String> {
        self.with(|state| {
            state.by_hash.get(&hash).and_then(|at| state.places.get(at)).map(|place| place.name.clone())
        })
    }

    fn replace(&self, hash: InfoHash, view: View) {
        let names = self.write(|state| {
            let cookie = *state.by_hash.get(&hash)?;
            let old = state.places.get(&cookie)?.clone();
            state.by_name.remove(&old.name);
            let place = Place {
                tag: old.tag,
                name: String::new(),
                source: Arc::clone(&old.source),
                view,
                _waiting: Arc::clone(&old._waiting),
            };
            Some((old.name.clone(), state.put(cookie, place)))
        });
        if let Some((old, new)) = names {
            tracing::info!(torrent = %hash, entry = new, "the metadata is here");
            self.tell(&old);
            self.tell(&new);
        }
    }

    /// Never under the lock.
    fn tell(&self, name: &str) {
        if let Some(changes) = self.shared.changes.get() {
            changes.entry_changed(InodeNo::ROOT, OsStr::new(name));
        }
    }

    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.shared.state.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The torrent an inode number belongs to.
    fn place(&self, ino: InodeNo) -> Option<Arc<Place>> {
        let tag = ino.tag()?;
        self.with(|state| state.by_tag.get(&tag).and_then(|at| state.places.get(at)).cloned())
    }

    fn own_node(&self, ino: InodeNo) -> Option<Node> {
        let (kind, parent, links) = if ino == InodeNo::ROOT {
            // One link says "do not derive the number of subdirectories from this" to find and its kin: they come and go.
            (NodeKind::Directory, InodeNo::ROOT, 1)
        } else if ino == control::DIRECTORY {
            (NodeKind::Directory, InodeNo::ROOT, 2)
        } else if self.shared.control.contains(ino) {
            (NodeKind::File, control::DIRECTORY, 1)
        } else {
            return None;
        };
        let permissions = match kind {
            NodeKind::Directory => 0o555,
            NodeKind::File | NodeKind::Symlink if self.shared.control.lines_file() == Some(ino) => 0o644,
            NodeKind::File | NodeKind::Symlink => 0o444,
        };
        Some(Node {
            ino,
            parent,
            kind,
            bytes: 0,
            local_bytes: 0,
            permissions,
            links,
            modified: modified_from(None),
            caching: Caching::Volatile,
        })
    }

    fn list_root(&self, after: Cookie, visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>) {
        if after.0 < CONTROL_COOKIE
            && let Some(node) = self.own_node(control::DIRECTORY)
            && visit(Listed { cookie: Cookie(CONTROL_COOKIE), name: OsStr::new(control::NAME), node })
                .is_break()
        {
            return;
        }
        let mut at = after.0.max(CONTROL_COOKIE);
        loop {
            let batch: Vec<(u64, Arc<Place>)> = self.with(|state| {
                let behind = state.places.range((Bound::Excluded(at), Bound::Unbounded));
                behind.take(LIST_BATCH).map(|(cookie, place)| (*cookie, Arc::clone(place))).collect()
            });
            let Some((last, _)) = batch.last() else { return };
            at = *last;
            for (cookie, place) in &batch {
                let Some(node) = place.top() else { continue };
                let listed = Listed { cookie: Cookie(*cookie), name: OsStr::new(&place.name), node };
                if visit(listed).is_break() {
                    return;
                }
            }
        }
    }

    fn list_control(&self, after: Cookie, visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>) {
        for (cookie, name, ino) in self.shared.control.after(after.0) {
            let Some(node) = self.own_node(ino) else { continue };
            if visit(Listed { cookie: Cookie(cookie), name: OsStr::new(name), node }).is_break() {
                return;
            }
        }
    }
}

impl State {
    /// In the order in which torrents come, so that the same sources get the same numbers again.
    fn free_tag(&self, hash: InfoHash) -> TreeTag {
        let mut attempt = 0;
        loop {
            let tag = TreeTag::derive(hash.as_bytes(), attempt);
            if !self.by_tag.contains_key(&tag) {
                return tag;
            }
            attempt += 1;
        }
    }

    fn insert(&mut self, hash: InfoHash, place: Place) -> String {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        self.by_hash.insert(hash, cookie);
        self.by_tag.insert(place.tag, cookie);
        self.put(cookie, place)
    }

    /// Names a place and puts it at its position.
    fn put(&mut self, cookie: u64, mut place: Place) -> String {
        let (wish, shape) = place.view.wish(place.source.as_ref());
        let hash = place.source.info_hash().to_string();
        let is_taken = |name: &str| name == control::NAME || self.by_name.contains_key(name);
        place.name = names::unique(&wish, shape, &hash, is_taken);
        let name = place.name.clone();
        self.by_name.insert(name.clone(), cookie);
        self.places.insert(cookie, Arc::new(place));
        name
    }

    fn remove(&mut self, hash: InfoHash) -> Option<Arc<Place>> {
        let place = self.places.remove(&self.by_hash.remove(&hash)?)?;
        self.by_name.remove(&place.name);
        self.by_tag.remove(&place.tag);
        Some(place)
    }
}

impl Tree for TorrentTree {
    fn node(&self, ino: InodeNo) -> Option<Node> {
        match ino.tag() {
            None => self.own_node(ino),
            Some(_) => self.place(ino)?.node(ino),
        }
    }

    fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Node, FsError> {
        if parent == InodeNo::ROOT {
            if name == control::NAME {
                return self.own_node(control::DIRECTORY).ok_or(FsError::NotFound);
            }
            let name = name.to_str().ok_or(FsError::NotFound)?;
            let place =
                self.with(|state| state.by_name.get(name).and_then(|at| state.places.get(at)).cloned());
            return place.and_then(|place| place.top()).ok_or(FsError::NotFound);
        }
        if parent == control::DIRECTORY {
            let ino = self.shared.control.lookup(name).ok_or(FsError::NotFound)?;
            return self.own_node(ino).ok_or(FsError::NotFound);
        }
        let place = self.place(parent).ok_or(FsError::Stale)?;
        let (catalog, index) = place.find(parent).ok_or(FsError::NotADirectory)?;
        catalog.children(index).ok_or(FsError::NotADirectory)?;
        let found = catalog.lookup(index, name).ok_or(FsError::NotFound)?;
        place.catalog_node(catalog, found).ok_or(FsError::NotFound)
    }

    fn list(
        &self,
        dir: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        if dir == InodeNo::ROOT {
            self.list_root(after, visit);
            return Ok(());
        }
        if dir == control::DIRECTORY {
            self.list_control(after, visit);
            return Ok(());
        }
        let place = self.place(dir).ok_or(FsError::Stale)?;
        let (catalog, index) = place.find(dir).ok_or(FsError::NotADirectory)?;
        let children = catalog.children(index).ok_or(FsError::NotADirectory)?;
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        for (cookie, child) in (1..).zip(children).skip(skip) {
            let (Some(entry), Some(node)) = (catalog.entry(child), place.catalog_node(catalog, child)) else {
                continue;
            };
            if visit(Listed { cookie: Cookie(cookie), name: OsStr::new(entry.name()), node }).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, ino: InodeNo) -> Result<PathBuf, FsError> {
        let place = self.place(ino).ok_or(FsError::Stale)?;
        let (catalog, index) = place.find(ino).ok_or(FsError::InvalidArgument)?;
        let target = catalog.entry(index).and_then(|entry| entry.target());
        target.cloned().ok_or(FsError::InvalidArgument)
    }

    fn open(&self, ino: InodeNo) -> Result<Arc<dyn Content>, FsError> {
        if ino.tag().is_none() {
            let is_directory = ino == InodeNo::ROOT || ino == control::DIRECTORY;
            let refusal = if is_directory { FsError::IsADirectory } else { FsError::Stale };
            return self.shared.control.open(ino).ok_or(refusal);
        }
        self.place(ino).ok_or(FsError::Stale)?.open(ino)
    }

    fn attribute_names(&self, ino: InodeNo) -> Vec<String> {
        let attributes = self.place(ino).map(|place| place.attributes(ino)).unwrap_or_default();
        attributes.into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    fn attribute(&self, ino: InodeNo, name: &OsStr) -> Option<Vec<u8>> {
        // `ls -l` asks for every file's access lists and labels: nothing is to be counted for those.
        if !name.as_encoded_bytes().starts_with(crate::attributes::PREFIX) {
            return None;
        }
        let attributes = self.place(ino)?.attributes(ino);
        attributes
            .into_iter()
            .find(|(found, _)| OsStr::new(found) == name)
            .map(|(_, value)| value.into_bytes())
    }

    fn torrent_at(&self, name: &OsStr) -> Option<InfoHash> {
        let name = name.to_str()?;
        self.with(|state| {
            let place = state.by_name.get(name).and_then(|at| state.places.get(at))?;
            Some(place.source.info_hash())
        })
    }

    fn lines_file(&self) -> Option<InodeNo> {
        self.shared.control.lines_file()
    }

    fn volume(&self) -> Volume {
        self.with(|state| {
            let mut volume = Volume::default();
            for place in state.places.values() {
                volume.entries += match &place.view {
                    View::Ready { catalog, top, .. } => {
                        volume.total_bytes = volume.total_bytes.saturating_add(catalog.total_bytes());
                        catalog.len() as u64 - u64::from(*top)
                    }
                    View::Waiting { .. } | View::Failed { .. } => 1,
                };
            }
            volume
        })
    }

    fn attach(&self, changes: Changes) {
        // A tree is mounted once; a second mount of it would learn of changes by the short lifetime of the root only.
        let _already_mounted = self.shared.changes.set(changes);
    }
}

#[cfg(test)]
#[path = "torrents/tests.rs"]
mod tests;
