//! A mount of repositories: the whole namespace of a hub, or one repository as the root, and `.wtfs` beside.
//!
//! Names that are known answer at once; others are asked about in a task ([`Tree::search`]), once however many ask, and
//! not again for a while where there is nothing. A repository is pinned to the commit that it had when it was entered, and
//! follows its branch only while nobody reads from it. The state is a leaf lock held for map look-ups and for
//! putting in what was found out; nothing is asked under it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use wtfs_proto::hf::{Commit, ContentId, FilePath, Repo, RepoKind, Revision};

use crate::attributes::{self, RANGES_MAX, percent, ranges_text};
use crate::catalog::{Catalog, modified_from};
use crate::changes::Changes;
use crate::content::{BoxFuture, Content, MemoryContent};
use crate::errno::FsError;
use crate::inode::InodeNo;
use crate::torrents::ControlFile;
use crate::torrents::control::{self, ControlFiles};
use crate::tree::{Caching, Cookie, Listed, Node, NodeKind, Tree, Volume};

mod archive;
mod away;
mod bytes;
mod chosen;
mod dates;
mod misses;
mod names;
mod occupied;
mod origins;
mod place;
mod repositories;
mod source;
mod space;
mod swarm;
mod view;

pub use bytes::{RepoFile, Unread};
pub use chosen::{ChoiceError, Chosen};
pub use repositories::{Reach, Repositories, RepositoriesConfig, Traffic};
pub use source::{Local, RepoError, RepoRevision, RepoSource};

pub use swarm::SwarmConfig;

use misses::Misses;
use place::{Opened, Place, Shown};
use space::{Item, Space, Spot, What};

/// The position of `.wtfs` in the root; the others follow.
const CONTROL_COOKIE: u64 = 1;

/// How a mount of repositories treats what it learnt.
#[derive(Debug, Clone, Copy)]
pub struct HfTreeConfig {
    /// How long a branch is believed to stand where it stood. After that the next look-up has it asked about, and the new
    /// commit shows from then on, unless a file was open meanwhile.
    pub refresh: Duration,
    /// How long a repository that is not there is not asked about again.
    pub absence: Duration,
    /// How often it is asked whether a repository that is the root has a newer commit. It is told, and not shown.
    pub look: Duration,
    /// How many revisions are held in memory. Beyond, those that were used longest ago are forgotten, and found out again
    /// when they are entered; but for the root, those that anybody has a file of open or sits in, those of which files
    /// are pinned, and those that were used within [`Self::rest`].
    pub revisions: usize,
    /// How many files they may have together: some hundred bytes each.
    pub files: usize,
    /// How long a revision is held after it was used.
    pub rest: Duration,
}

impl Default for HfTreeConfig {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        let look = 10 * minute;
        Self { refresh: minute, absence: minute, look, revisions: 2048, files: 1 << 20, rest: minute }
    }
}

/// What a mount shows of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// As it was asked for.
    pub repo: Repo,
    /// As it was asked for.
    pub revision: Revision,
    /// What it stands for.
    pub commit: Commit,
    /// How many files it has.
    pub files: usize,
    /// Their size.
    pub total_bytes: u64,
    /// How much of that is on this machine.
    pub local_bytes: u64,
    /// Files that a person pinned.
    pub pinned_files: usize,
    /// Their size.
    pub pinned_bytes: u64,
    /// What the revision stands for now, where a mount of this one repository keeps showing the commit it was made with.
    pub newer: Option<Commit>,
}

/// Why a path of a repository cannot be a mount's root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The repository was not pinned before.
    #[error("the repository is not known yet")]
    NotPinned,
    /// The revision does not have it.
    #[error("the revision has no {0}")]
    NotThere(FilePath),
    /// It is a file.
    #[error("{0} is a file; mount the directory that it is in")]
    NotADirectory(FilePath),
}

/// The tree of a mount of repositories. Clones are the same tree.
#[derive(Debug, Clone)]
pub struct HfTree {
    shared: Arc<Shared>,
}

type Flight = watch::Receiver<Option<Result<(), RepoError>>>;

#[derive(Debug)]
struct Shared {
    space: RwLock<Space>,
    /// What the root is when it is the namespace; the view for clients' caches hangs on it in any case.
    base: Arc<Spot>,
    control: ControlFiles,
    source: Arc<dyn RepoSource>,
    flights: Mutex<HashMap<(Repo, Revision), Flight>>,
    misses: Mutex<Misses<(Repo, Revision)>>,
    /// What the root's revision stands for now, when that is not what is shown.
    newer: Mutex<Option<Commit>>,
    /// Held while a revision is put in: two must not choose one tag. Taken before `space`.
    admitting: Mutex<()>,
    /// Missing as long as it is not mounted.
    changes: OnceLock<Changes>,
    runtime: Handle,
    config: HfTreeConfig,
}

impl HfTree {
    /// The namespace of what `source` knows. Questions run on `runtime`.
    pub fn new(
        source: Arc<dyn RepoSource>,
        runtime: Handle,
        control: Vec<ControlFile>,
        config: HfTreeConfig,
    ) -> Self {
        let (mut space, base) = Space::new();
        let now = Instant::now();
        for (repo, revision) in source.remembered() {
            space.remember(repo, revision, now);
        }
        Self {
            shared: Arc::new(Shared {
                space: RwLock::new(space),
                base,
                control: ControlFiles::new(control),
                source,
                flights: Mutex::default(),
                misses: Mutex::new(Misses::new(config.absence)),
                newer: Mutex::default(),
                admitting: Mutex::new(()),
                changes: OnceLock::new(),
                runtime,
                config,
            }),
        }
    }

    /// Finds out what `revision` of `repo` is, and shows it from now on.
    ///
    /// # Errors
    /// Why it cannot be shown.
    ///
    /// # Cancel safety
    /// Dropped, it may still be found out and shown.
    pub async fn pin(&self, repo: Repo, revision: Revision) -> Result<(), RepoError> {
        self.find_out(repo, revision).await
    }

    /// Makes what was pinned, or the directory `path` of it, the root of the mount, for good.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn set_root(
        &self,
        repo: &Repo,
        revision: &Revision,
        path: Option<&FilePath>,
    ) -> Result<(), RootError> {
        let shown = self.with(|space| space.resolved(repo, revision)).ok_or(RootError::NotPinned)?;
        let mut top = Catalog::ROOT;
        if let Some(path) = path {
            for name in path.segments() {
                let next = shown.catalog.lookup(top, OsStr::new(name));
                top = next.ok_or_else(|| RootError::NotThere(path.clone()))?;
            }
            if shown.catalog.children(top).is_none() {
                return Err(RootError::NotADirectory(path.clone()));
            }
        }
        let commit = shown.revision.commit;
        self.change(|space| space.set_root(shown, top));
        if revision.commit().is_none() {
            let looking =
                look_for_newer(Arc::downgrade(&self.shared), repo.clone(), revision.clone(), commit);
            self.shared.runtime.spawn(looking);
        }
        Ok(())
    }

    /// What is shown, in order of names.
    pub fn pinned(&self) -> Vec<Pinned> {
        let pins: Vec<(Repo, Revision, Arc<Shown>)> = self.with(|space| {
            let pins = space.pinned();
            pins.map(|(repo, revision, shown)| (repo.clone(), revision.clone(), Arc::clone(shown))).collect()
        });
        let root = self.with(Space::root_commit);
        let newer = *self.shared.newer.lock().unwrap_or_else(PoisonError::into_inner);
        let describe = |(repo, revision, shown): (Repo, Revision, Arc<Shown>)| {
            let files = shown.revision.tree.files();
            let pinned = files.iter().filter(|file| self.shared.source.is_pinned(file));
            // Lengths are what a hub says, and who makes them up must not make sums wrap around.
            let (pinned_files, pinned_bytes) =
                pinned.fold((0, 0_u64), |(files, bytes), file| (files + 1, bytes.saturating_add(file.bytes)));
            let local = files.iter().map(|file| self.shared.source.local(file).bytes.min(file.bytes));
            Pinned {
                commit: shown.revision.commit,
                files: files.len(),
                total_bytes: shown.catalog.total_bytes(),
                local_bytes: local.fold(0, u64::saturating_add),
                pinned_files,
                pinned_bytes,
                newer: newer.filter(|_| root == Some(shown.revision.commit)),
                repo,
                revision,
            }
        };
        pins.into_iter().map(describe).collect()
    }

    /// Asks once, however many want to know.
    fn find_out(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Result<(), RepoError>> {
        let key = (repo, revision);
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let flight = flights.get(&key).cloned().unwrap_or_else(|| {
            let (told, flight) = watch::channel(None);
            flights.insert(key.clone(), flight.clone());
            let tree = self.clone();
            self.shared.runtime.spawn(async move {
                let landing = Landing { shared: Arc::clone(&tree.shared), key };
                let outcome = tree.ask(&landing.key).await;
                drop(landing);
                told.send_replace(Some(outcome));
            });
            flight
        });
        Box::pin(async move {
            let mut flight = flight;
            let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
            outcome.unwrap_or_else(|| Err(RepoError::Unreachable(Arc::new(Abandoned))))
        })
    }

    async fn ask(&self, key: &(Repo, Revision)) -> Result<(), RepoError> {
        let found = self.shared.source.resolve(key.0.clone(), key.1.clone()).await;
        match found {
            Ok(revision) => {
                let (tree, asked) = (self.clone(), key.clone());
                let admitted = tokio::task::spawn_blocking(move || tree.admit(asked, revision)).await;
                admitted.unwrap_or_else(|_| Err(RepoError::Unreachable(Arc::new(Abandoned))))
            }
            Err(error) => {
                if error.is_absence() {
                    let mut misses = self.shared.misses.lock().unwrap_or_else(PoisonError::into_inner);
                    misses.note(key.clone(), Instant::now());
                }
                Err(error)
            }
        }
    }

    /// Takes some ten milliseconds for tens of thousands of files.
    fn admit(&self, asked: (Repo, Revision), revision: RepoRevision) -> Result<(), RepoError> {
        let _admitting = self.shared.admitting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.with(|space| space.shown(&revision.repo, revision.commit));
        let shown = match known {
            Some(shown) => shown,
            None => {
                let tag = self.with(|space| space.free_tag(&place::seed(&revision)));
                let built = Shown::build(tag, revision);
                Arc::new(built.map_err(|error| RepoError::Garbage(Arc::new(error)))?)
            }
        };
        let (now, quiet) = (Instant::now(), self.shared.config.refresh);
        self.change(|space| space.admit(asked, &shown, now, quiet));
        self.make_room(&shown, now);
        Ok(())
    }

    /// Forgets revisions where there are too many, but not the newest. Those of which the kernel knows something it is
    /// asked to forget, and they go another time; not where a program is seen to be in one: it would be in no directory
    /// any more. Blocks on /proc.
    fn make_room(&self, newest: &Arc<Shown>, now: Instant) {
        let HfTreeConfig { revisions, files, rest, .. } = self.shared.config;
        let size = |shown: &Shown| (1, shown.revision.tree.files().len());
        let add = |(a, b): (usize, usize), (c, d): (usize, usize)| (a + c, b + d);
        let held = self.with(|space| space.all_shown().map(|shown| size(shown)).fold((0, 0), add));
        if held.0 <= revisions && held.1 <= files {
            return;
        }
        // Somewhat more than has to, since all that is known is gone through for it.
        let mut too_many = held.0.saturating_sub(revisions - revisions / 8);
        let mut too_much = held.1.saturating_sub(files - files / 8);
        let (mut unknown, mut known) = (Vec::new(), Vec::new());
        for shown in self.with(|space| space.idle(now, rest)) {
            if too_many == 0 && too_much == 0 {
                break;
            }
            let mut files = shown.revision.tree.files().iter();
            if Arc::ptr_eq(&shown, newest) || files.any(|file| self.source().is_pinned(file)) {
                continue;
            }
            if !shown.is_known() {
                unknown.push(Arc::clone(&shown));
            } else if shown.ask_back() {
                known.push(Arc::clone(&shown));
            } else {
                // Somebody sits in it.
                continue;
            }
            let (one, its_files) = size(&shown);
            (too_many, too_much) = (too_many.saturating_sub(one), too_much.saturating_sub(its_files));
        }
        self.change(|space| space.forget(unknown, now, rest));
        let Some(changes) = self.shared.changes.get().filter(|_| !known.is_empty()) else { return };
        let occupied = occupied::directories();
        for shown in known {
            let places = self.with(|space| space.places_of(&shown));
            if !places.iter().any(|place| occupied.iter().any(|dir| occupied::is_in(dir, &place.path))) {
                places.iter().for_each(|place| changes.entry_changed(place.parent, place.name()));
            }
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Space) -> T) -> T {
        look(&self.shared.space.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Space) -> T) -> T {
        change(&mut self.shared.space.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn source(&self) -> &dyn RepoSource {
        self.shared.source.as_ref()
    }

    /// What an inode number leads to; the mount's own files do not.
    fn item(&self, ino: InodeNo) -> Option<Item> {
        self.with(|space| space.item(ino))
    }

    fn own_node(&self, ino: InodeNo) -> Option<Node> {
        if ino == control::DIRECTORY {
            Some(own(ino, InodeNo::ROOT, NodeKind::Directory, 0))
        } else if self.shared.control.contains(ino) {
            Some(own(ino, control::DIRECTORY, NodeKind::File, 0))
        } else {
            None
        }
    }

    fn spot_node(&self, spot: &Spot) -> Node {
        let (kind, bytes) = match &spot.what {
            What::Text(text) => (NodeKind::File, text.len() as u64),
            // Made when it is opened; read past the page cache, so programs read on to its end.
            What::TreeText(..) => (NodeKind::File, 0),
            What::Link(target) => (NodeKind::Symlink, target.as_os_str().len() as u64),
            _ => (NodeKind::Directory, 0),
        };
        own(spot.ino, spot.parent, kind, bytes)
    }

    fn item_node(&self, item: &Item) -> Option<Node> {
        match item {
            Item::Spot(spot) => Some(self.spot_node(spot)),
            Item::Place(place) => place.top_node(self.source()),
            Item::Files(_) => None,
        }
    }

    /// The entry of a directory of a revision.
    fn find_in(&self, place: &Place, dir: InodeNo, name: &OsStr) -> Result<Node, FsError> {
        let index = place.find(dir).ok_or(FsError::NotADirectory)?;
        let found = place.shown.catalog.lookup(index, name).ok_or(FsError::NotFound)?;
        place.node(found, self.source()).ok_or(FsError::NotFound)
    }

    fn find_at(&self, spot: &Spot, name: &OsStr) -> Result<Node, FsError> {
        let name = name.to_str().ok_or(FsError::NotFound)?;
        let item = self.change(|space| space.enter(spot, name)).ok_or(FsError::NotFound)?;
        if let (Item::Place(_), Some((repo, revision))) = (&item, spot.wanted(name)) {
            self.follow(repo, revision);
        }
        self.item_node(&item).ok_or(FsError::NotFound)
    }

    /// Has a branch asked about again when it is time; the answer is for whoever looks next.
    fn follow(&self, repo: Repo, revision: Revision) {
        let after = self.shared.config.refresh;
        if self.with(|space| space.is_due(&repo, &revision, Instant::now(), after)) {
            drop(self.find_out(repo, revision));
        }
    }

    /// The spot that `parent` is, for names beyond those of a revision.
    fn spot_of(&self, parent: InodeNo) -> Option<Arc<Spot>> {
        match self.item(parent)? {
            Item::Spot(spot) => Some(spot),
            Item::Place(_) | Item::Files(_) => None,
        }
    }

    fn list_spot(&self, spot: &Spot, after: Cookie, visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>) {
        let mut after = after.0;
        loop {
            let names = self.with(|space| space.names(spot, after));
            let Some((last, _)) = names.last() else { return };
            after = *last;
            for (position, name) in names {
                let known = self.change(|space| space.enter(spot, &name));
                let node = known.and_then(|item| self.item_node(&item));
                // Known by name only: what it is shows when it is looked up.
                let node = node
                    .unwrap_or_else(|| own(spot.number_until_known(&name), spot.ino, NodeKind::Directory, 0));
                if visit(Listed { cookie: Cookie(position), name: OsStr::new(&name), node }).is_break() {
                    return;
                }
            }
        }
    }

    fn list_place(
        &self,
        place: &Place,
        dir: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        let index = place.find(dir).ok_or(FsError::NotADirectory)?;
        let catalog = &place.shown.catalog;
        let children = catalog.children(index).ok_or(FsError::NotADirectory)?;
        let skip = usize::try_from(after.0).unwrap_or(usize::MAX);
        for (cookie, child) in (1..).zip(children).skip(skip) {
            let (Some(entry), Some(node)) = (catalog.entry(child), place.node(child, self.source())) else {
                continue;
            };
            if visit(Listed { cookie: Cookie(cookie), name: OsStr::new(entry.name()), node }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// `user.wtfs.*` of an entry; names and values together, in the order they are listed.
    fn attributes(&self, ino: InodeNo) -> Vec<(&'static str, String)> {
        let (shown, file) = match self.item(ino) {
            Some(Item::Place(place)) => (Arc::clone(&place.shown), None),
            Some(Item::Files(shown)) => {
                let file = shown.file(ino).map(|(_, file)| file.clone());
                (shown, file)
            }
            Some(Item::Spot(_)) | None => return Vec::new(),
        };
        let revision = &shown.revision;
        let mut found = vec![
            ("user.wtfs.repo", revision.repo.to_string()),
            ("user.wtfs.commit", revision.commit.to_string()),
        ];
        let Some(file) = file else { return found };
        let name = match file.id {
            ContentId::Sha256(_) => "user.wtfs.sha256",
            ContentId::GitSha1(_) => "user.wtfs.git_sha1",
        };
        let local = self.source().local(&file);
        let ranges = self.source().local_ranges(&file, RANGES_MAX + 1);
        found.push((name, file.id.to_string()));
        found.push(("user.wtfs.local_bytes", local.bytes.to_string()));
        found.push(("user.wtfs.local_ranges", ranges_text(&ranges)));
        found.push(("user.wtfs.verified_bytes", if local.is_verified { file.bytes } else { 0 }.to_string()));
        found.push(("user.wtfs.progress", percent(local.bytes, file.bytes)));
        found
    }
}

/// Asks now and then whether the root's revision has a newer commit, as long as there is the tree.
async fn look_for_newer(shared: Weak<Shared>, repo: Repo, revision: Revision, shown: Commit) {
    let Some(pause) = shared.upgrade().map(|shared| shared.config.look) else { return };
    loop {
        tokio::time::sleep(pause).await;
        let Some(looking) = shared.upgrade().map(|shared| shared.source.look(repo.clone(), revision.clone()))
        else {
            return;
        };
        let found = looking.await;
        let (Some(now), Some(shared)) = (found, shared.upgrade()) else { continue };
        let newer = (now != shown).then_some(now);
        let before = {
            let mut known = shared.newer.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, newer)
        };
        if let Some(commit) = newer.filter(|_| before != newer) {
            tracing::info!(%repo, %revision, %shown, %commit, "there is a newer commit; mount it again to see that");
        }
    }
}

/// Takes a question out of the list of those under way, however it ends.
#[derive(Debug)]
struct Landing {
    shared: Arc<Shared>,
    key: (Repo, Revision),
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the question was given up because the process ends")]
struct Abandoned;

/// An entry of the mount's own. One link for directories says "do not derive the number of subdirectories from this" to
/// find and its kin: they come and go.
fn own(ino: InodeNo, parent: InodeNo, kind: NodeKind, bytes: u64) -> Node {
    let permissions = match kind {
        NodeKind::Directory => 0o555,
        NodeKind::File => 0o444,
        NodeKind::Symlink => 0o777,
    };
    let modified = modified_from(None);
    let caching = Caching::Volatile;
    Node { ino, parent, kind, bytes, local_bytes: bytes, permissions, links: 1, modified, caching }
}

impl Tree for HfTree {
    fn node(&self, ino: InodeNo) -> Option<Node> {
        if let Some(node) = self.own_node(ino) {
            return Some(node);
        }
        match self.item(ino)? {
            Item::Spot(spot) => Some(self.spot_node(&spot)),
            Item::Place(place) => place.node(place.find(ino)?, self.source()),
            Item::Files(shown) => shown.file_node(shown.file(ino)?.0, InodeNo::ROOT, self.source()),
        }
    }

    fn lookup(&self, parent: InodeNo, name: &OsStr) -> Result<Node, FsError> {
        if parent == InodeNo::ROOT && name == control::NAME {
            return self.own_node(control::DIRECTORY).ok_or(FsError::NotFound);
        }
        if parent == control::DIRECTORY {
            let ino = self.shared.control.lookup(name).ok_or(FsError::NotFound)?;
            return self.own_node(ino).ok_or(FsError::NotFound);
        }
        match self.item(parent).ok_or(FsError::Stale)? {
            Item::Place(_) if parent == InodeNo::ROOT && name == space::CACHE_VIEW => {
                self.find_at(&self.shared.base, name)
            }
            Item::Place(place) => self.find_in(&place, parent, name),
            Item::Spot(spot) if self.spot_node(&spot).kind == NodeKind::Directory => {
                self.find_at(&spot, name)
            }
            Item::Spot(_) | Item::Files(_) => Err(FsError::NotADirectory),
        }
    }

    fn search(&self, parent: InodeNo, name: &OsStr) -> Option<BoxFuture<'static, Result<Node, FsError>>> {
        let (spot, name) = (self.spot_of(parent)?, name.to_str()?.to_owned());
        let (repo, revision) = spot.wanted(&name)?;
        // A name in the root that is no repository may be that of an owner.
        let owner = match &spot.what {
            What::Kind(kind) if !name.contains('@') => Some(*kind),
            _ => None,
        };
        let key = (repo, revision);
        let is_absent = {
            let misses = self.shared.misses.lock().unwrap_or_else(PoisonError::into_inner);
            misses.holds(&key, Instant::now())
        };
        if is_absent && owner.is_none() {
            return None;
        }
        let asking = (!is_absent).then(|| self.find_out(key.0, key.1));
        let tree = self.clone();
        Some(Box::pin(async move {
            let outcome = match asking {
                Some(asking) => asking.await,
                None => return tree.owner_node(&spot, owner.unwrap_or(RepoKind::Model), &name),
            };
            match (outcome, owner) {
                (Ok(()), _) => tree.find_at(&spot, OsStr::new(&name)),
                (Err(error), Some(kind)) if error.is_absence() => tree.owner_node(&spot, kind, &name),
                (Err(error), _) => Err(error.into()),
            }
        }))
    }

    fn list(
        &self,
        dir: InodeNo,
        after: Cookie,
        visit: &mut dyn FnMut(Listed<'_>) -> ControlFlow<()>,
    ) -> Result<(), FsError> {
        if dir == control::DIRECTORY {
            for (cookie, name, ino) in self.shared.control.after(after.0) {
                let Some(node) = self.own_node(ino) else { continue };
                if visit(Listed { cookie: Cookie(cookie), name: OsStr::new(name), node }).is_break() {
                    break;
                }
            }
            return Ok(());
        }
        match self.item(dir).ok_or(FsError::Stale)? {
            Item::Place(place) => self.list_place(&place, dir, after, visit),
            Item::Spot(spot) if self.spot_node(&spot).kind == NodeKind::Directory => {
                let own = self.own_node(control::DIRECTORY).filter(|_| dir == InodeNo::ROOT && after.0 == 0);
                if let Some(node) = own {
                    let cookie = Cookie(CONTROL_COOKIE);
                    if visit(Listed { cookie, name: OsStr::new(control::NAME), node }).is_break() {
                        return Ok(());
                    }
                }
                self.list_spot(&spot, after, visit);
                Ok(())
            }
            Item::Spot(_) | Item::Files(_) => Err(FsError::NotADirectory),
        }
    }

    fn read_link(&self, ino: InodeNo) -> Result<PathBuf, FsError> {
        match self.item(ino).ok_or(FsError::Stale)? {
            Item::Spot(spot) => match &spot.what {
                What::Link(target) => Ok(target.clone()),
                _ => Err(FsError::InvalidArgument),
            },
            Item::Place(_) | Item::Files(_) => Err(FsError::InvalidArgument),
        }
    }

    fn open(&self, ino: InodeNo) -> Result<Arc<dyn Content>, FsError> {
        if let Some(content) = self.shared.control.open(ino) {
            return Ok(content);
        }
        if ino == control::DIRECTORY {
            return Err(FsError::IsADirectory);
        }
        match self.item(ino).ok_or(FsError::Stale)? {
            Item::Place(_) => Err(FsError::IsADirectory),
            Item::Files(shown) => {
                let (_, file) = shown.file(ino).ok_or(FsError::Stale)?;
                let content = self.shared.source.open(&shown.revision, file)?;
                Ok(Arc::new(Opened::new(Arc::clone(&shown), content)))
            }
            Item::Spot(spot) => match &spot.what {
                What::Text(text) => Ok(Arc::new(MemoryContent::new(text.clone()))),
                What::TreeText(repo, commit) => {
                    let shown = self.with(|space| space.commit(repo, *commit)).ok_or(FsError::Stale)?;
                    Ok(Arc::new(MemoryContent::new(view::tree_text(&shown.revision.tree))))
                }
                What::Link(_) => Err(FsError::InvalidArgument),
                _ => Err(FsError::IsADirectory),
            },
        }
    }

    fn attribute_names(&self, ino: InodeNo) -> Vec<String> {
        self.attributes(ino).into_iter().map(|(name, _)| name.to_owned()).collect()
    }

    fn attribute(&self, ino: InodeNo, name: &OsStr) -> Option<Vec<u8>> {
        // `ls -l` asks for every file's access lists and labels: nothing is to be counted for those.
        if !name.as_encoded_bytes().starts_with(attributes::PREFIX) {
            return None;
        }
        let found = self.attributes(ino).into_iter().find(|(found, _)| OsStr::new(found) == name);
        found.map(|(_, value)| value.into_bytes())
    }

    fn told(&self, ino: InodeNo) {
        self.with(|space| space.shown_at(ino).map(Shown::is_told));
    }

    fn forgotten(&self, ino: InodeNo, times: u64) {
        self.with(|space| space.shown_at(ino).map(|shown| shown.is_forgotten(times)));
    }

    fn attach(&self, changes: Changes) {
        // A tree is mounted once; of a second mount the kernel would keep what it knows.
        let _already_mounted = self.shared.changes.set(changes);
    }

    fn volume(&self) -> Volume {
        self.with(|space| {
            let mut volume = Volume::default();
            for shown in space.all_shown() {
                volume.total_bytes = volume.total_bytes.saturating_add(shown.catalog.total_bytes());
                volume.entries += shown.catalog.len() as u64;
            }
            volume
        })
    }
}

impl HfTree {
    fn owner_node(&self, spot: &Spot, kind: RepoKind, name: &str) -> Result<Node, FsError> {
        let item = self.change(|space| space.owner(spot, kind, name));
        self.item_node(&item).ok_or(FsError::NotFound)
    }
}

#[cfg(test)]
#[path = "hf/tests.rs"]
mod tests;
