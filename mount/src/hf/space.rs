//! What stands where in a mount of repositories: pure state, changed only by what was found out.
//!
//! A *pin* is a repository and a revision as they were asked for, and the commit they stand for now. From the pins
//! follows every name: `org/repo[@revision]` for each, links for names that were given up, and
//! `.cache-view/models--org--repo/{refs,snapshots,trees,.no_exist}` in the shape of the clients' cache. Directories that
//! are in no revision are *spots*, made when they are first looked up. Numbers are hashes of the path and, where it matters,
//! of the commit, so they are the same after a restart.
//!
//! Bounded: spots that exist only because somebody asked for a name are forgotten, oldest first. What a commit holds is
//! forgotten too when there is much of it ([`Space::idle`], [`Space::forget`]); its pin stays, and is resolved anew when
//! it is entered. That is never done to one of which the kernel knows a number, so that every number that is out stays
//! what it was.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wtfs_proto::hf::{Commit, Repo, RepoKind, Revision};

use crate::hf::names;
use crate::hf::place::{Place, ROOT_TAG, Shown};
use crate::inode::{InodeNo, TreeTag};

mod pins;

use pins::Pins;

/// Spots that hang on nothing but a look-up.
const LOOSE_MAX: usize = 8192;

/// The slot of a spot's number under its tag.
const SPOT_SLOT: u32 = 1;

/// The view in the shape of the clients' cache.
pub(super) const CACHE_VIEW: &str = ".cache-view";

/// Names that are taken out of the state at once for a listing; the kernel asks for some hundred.
const LISTED_AT_ONCE: usize = 512;

/// In that view; found, but not listed.
const LOCKS: &str = ".locks";

/// What an entry is that belongs to no revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Owners and repositories of a kind; for models: the root.
    Kind(RepoKind),
    /// What one owner has.
    Owner(RepoKind, Box<str>),
    CacheView,
    /// Where clients want a directory for each repository, though they lock nothing that is there already.
    Locks,
    Cached(Repo),
    /// Names of revisions below a prefix that ends with a slash or is empty.
    Refs(Repo, String),
    Snapshots(Repo),
    Trees(Repo),
    NoExist(Repo),
    /// A directory in which a file stands for each that the revision lacks; with its path, which ends with a slash or is
    /// empty.
    Lacks(Repo, Commit, String),
    /// A directory without entries.
    Empty,
    Link(PathBuf),
    Text(Bytes),
    /// The list of a revision's files as the clients keep it.
    TreeText(Repo, Commit),
}

#[derive(Debug)]
pub(super) struct Spot {
    path: Box<str>,
    pub(super) ino: InodeNo,
    pub(super) parent: InodeNo,
    pub(super) what: What,
}

/// What an inode number or a name leads to.
#[derive(Debug, Clone)]
pub(super) enum Item {
    Spot(Arc<Spot>),
    /// A place's directories.
    Place(Arc<Place>),
    /// A revision's files.
    Files(Arc<Shown>),
}

/// How long something stays when it is looked up by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Firm,
    Loose,
}

impl Item {
    fn shown(&self) -> Option<&Arc<Shown>> {
        match self {
            Self::Spot(_) => None,
            Self::Place(place) => Some(&place.shown),
            Self::Files(shown) => Some(shown),
        }
    }
}

#[derive(Debug)]
pub(super) struct Space {
    items: HashMap<TreeTag, Item>,
    by_key: HashMap<Box<str>, TreeTag>,
    pins: Pins,
    shown: HashMap<(Repo, Commit), Arc<Shown>>,
    loose: VecDeque<Box<str>>,
    root: Item,
}

impl Space {
    /// Nothing but the directories that are always there, and with what its root is.
    pub(super) fn new() -> (Self, Arc<Spot>) {
        let what = What::Kind(RepoKind::Model);
        let root = Spot { path: "".into(), ino: InodeNo::ROOT, parent: InodeNo::ROOT, what };
        let root = Arc::new(root);
        let space = Self {
            items: HashMap::new(),
            by_key: HashMap::new(),
            pins: Pins::default(),
            shown: HashMap::new(),
            loose: VecDeque::new(),
            root: Item::Spot(Arc::clone(&root)),
        };
        (space, root)
    }

    /// Makes a directory of a revision the root.
    pub(super) fn set_root(&mut self, shown: Arc<Shown>, top: u32) {
        let place = Arc::new(Place { shown, tag: ROOT_TAG, parent: InodeNo::ROOT, top, path: "".into() });
        self.items.insert(ROOT_TAG, Item::Place(Arc::clone(&place)));
        self.root = Item::Place(place);
    }

    /// What the mount shows for good, if it is one repository.
    pub(super) fn root_commit(&self) -> Option<Commit> {
        match &self.root {
            Item::Place(place) => Some(place.shown.revision.commit),
            Item::Spot(_) | Item::Files(_) => None,
        }
    }

    pub(super) fn item(&self, ino: InodeNo) -> Option<Item> {
        if ino == InodeNo::ROOT {
            return Some(self.root.clone());
        }
        let item = self.items.get(&ino.tag()?)?;
        if let Some(shown) = item.shown() {
            // While nothing can be forgotten: what is found stays for now.
            shown.is_used();
        }
        Some(item.clone())
    }

    /// The revision that a number is of, unless it is none of a revision's.
    pub(super) fn shown_at(&self, ino: InodeNo) -> Option<&Shown> {
        self.items.get(&ino.tag()?)?.shown().map(Arc::as_ref)
    }

    /// A commit that is shown already.
    pub(super) fn shown(&self, repo: &Repo, commit: Commit) -> Option<Arc<Shown>> {
        let shown = self.shown.get(&(repo.clone(), commit))?;
        shown.is_used();
        Some(Arc::clone(shown))
    }

    pub(super) fn all_shown(&self) -> impl Iterator<Item = &Arc<Shown>> {
        self.shown.values()
    }

    /// Pins that are resolved, as they were asked for.
    pub(super) fn pinned(&self) -> impl Iterator<Item = (&Repo, &Revision, &Arc<Shown>)> {
        self.pins.all().filter_map(|(repo, revision, pin)| Some((repo, revision, pin.shown.as_ref()?)))
    }

    /// A tag that nobody has. In the order of asking, which is the same for the same questions.
    pub(super) fn free_tag(&self, seed: &str) -> TreeTag {
        let mut attempt = 0;
        loop {
            let tag = TreeTag::derive(seed.as_bytes(), attempt);
            if tag != ROOT_TAG && !self.items.contains_key(&tag) {
                return tag;
            }
            attempt += 1;
        }
    }

    /// A revision that was resolved by an earlier process.
    pub(super) fn remember(&mut self, repo: Repo, revision: Revision, now: Instant) {
        self.pins.entry(repo, revision, now);
    }

    /// Shows what `asked` stands for, also under the canonical name. One that is being read stays as it is.
    pub(super) fn admit(
        &mut self,
        asked: (Repo, Revision),
        shown: &Arc<Shown>,
        now: Instant,
        quiet: Duration,
    ) {
        let canonical = shown.revision.repo.clone();
        let by_commit = Revision::from(shown.revision.commit);
        self.shown.entry((canonical.clone(), shown.revision.commit)).or_insert_with(|| Arc::clone(shown));
        self.items.entry(shown.catalog.tag()).or_insert_with(|| Item::Files(Arc::clone(shown)));
        let (repo, revision) = asked;
        let is_renamed = repo != canonical;
        let names = [Some((repo, revision.clone())), is_renamed.then_some((canonical, revision))];
        for (repo, revision) in names.into_iter().flatten() {
            // A commit of its own is found by its pin too, but it is no name that anybody listed.
            let is_commit = revision == by_commit;
            let pin = self.pins.entry(repo, revision, now);
            pin.checked = now;
            let is_kept = |old: &Arc<Shown>| !is_commit && !old.is_idle(now, quiet);
            if pin.shown.as_ref().is_some_and(is_kept) {
                continue;
            }
            // What it stood for until now stays readable for whoever sits in its directories.
            pin.shown = Some(Arc::clone(shown));
        }
    }

    fn drop_all(&mut self, gone: &[Arc<Shown>]) {
        let gone: HashMap<TreeTag, &Arc<Shown>> =
            gone.iter().map(|shown| (shown.catalog.tag(), shown)).collect();
        let is_gone =
            |shown: &Arc<Shown>| gone.get(&shown.catalog.tag()).is_some_and(|one| Arc::ptr_eq(one, shown));
        self.shown.retain(|_, shown| !is_gone(shown));
        for pin in self.pins.all_mut() {
            if pin.shown.as_ref().is_some_and(is_gone) {
                pin.shown = None;
            }
        }
        self.items.retain(|_, item| !item.shown().is_some_and(is_gone));
        let items = &self.items;
        self.by_key.retain(|_, tag| items.contains_key(tag));
    }

    /// Revisions that nobody used for `rest`, what was used longest ago first. Never the root's.
    pub(super) fn idle(&self, now: Instant, rest: Duration) -> Vec<Arc<Shown>> {
        let is_idle = |shown: &&Arc<Shown>| !self.is_root(shown) && shown.is_unused(now, rest);
        let mut idle: Vec<_> = self.shown.values().filter(is_idle).cloned().collect();
        idle.sort_by_cached_key(|shown| shown.last_use());
        idle
    }

    /// Forgets what these hold, unless it was used a moment ago, or the kernel knows a number of it.
    pub(super) fn forget(&mut self, gone: Vec<Arc<Shown>>, now: Instant, rest: Duration) {
        let gone: Vec<_> =
            gone.into_iter().filter(|shown| !shown.is_known() && shown.is_unused(now, rest)).collect();
        if !gone.is_empty() {
            self.drop_all(&gone);
        }
    }

    fn is_root(&self, shown: &Arc<Shown>) -> bool {
        matches!(&self.root, Item::Place(place) if Arc::ptr_eq(&place.shown, shown))
    }

    /// Where a revision stands.
    pub(super) fn places_of(&self, shown: &Arc<Shown>) -> Vec<Arc<Place>> {
        let places = self.items.values().filter_map(|item| match item {
            Item::Place(place) if Arc::ptr_eq(&place.shown, shown) => Some(Arc::clone(place)),
            _ => None,
        });
        places.collect()
    }

    /// Whether a name that may come to mean another commit should be asked about again.
    pub(super) fn is_due(&self, repo: &Repo, revision: &Revision, now: Instant, after: Duration) -> bool {
        self.pins.get(repo, revision).is_some_and(|pin| {
            revision.commit().is_none()
                && now.saturating_duration_since(pin.checked) >= after
                && pin.shown.as_ref().is_some_and(|shown| shown.is_idle(now, after))
        })
    }

    pub(super) fn resolved(&self, repo: &Repo, revision: &Revision) -> Option<Arc<Shown>> {
        self.pins.get(repo, revision)?.shown.clone()
    }

    /// A commit of a repository, under whatever name it is asked for.
    pub(super) fn commit(&self, repo: &Repo, commit: Commit) -> Option<Arc<Shown>> {
        let is_it = |shown: &&Arc<Shown>| shown.revision.commit == commit;
        self.pins.of(repo).filter_map(|(_, pin)| pin.shown.as_ref()).find(is_it).cloned()
    }

    /// The entry `name` of a spot, as far as it is known.
    pub(super) fn enter(&mut self, spot: &Spot, name: &str) -> Option<Item> {
        match &spot.what {
            What::Kind(kind) => self.enter_kind(spot, *kind, name),
            What::Owner(kind, owner) => {
                let (repo, revision) = names::repository(*kind, Some(owner), name)?;
                let shown = self.resolved(&repo, &revision)?;
                Some(self.repository(spot, name, &repo, &revision, &shown))
            }
            What::CacheView if name == LOCKS => Some(self.spot(spot, name, "", What::Locks, Hold::Firm)),
            What::Locks => {
                names::of_folder(name)?;
                Some(self.spot(spot, name, "", What::Empty, Hold::Loose))
            }
            What::CacheView => {
                let repo = names::of_folder(name)?;
                self.pins.of(&repo).any(|(_, pin)| pin.shown.is_some()).then_some(())?;
                Some(self.spot(spot, name, "", What::Cached(repo), Hold::Firm))
            }
            What::Cached(repo) => {
                let what = match name {
                    "refs" => What::Refs(repo.clone(), String::new()),
                    "snapshots" => What::Snapshots(repo.clone()),
                    "trees" => What::Trees(repo.clone()),
                    ".no_exist" => What::NoExist(repo.clone()),
                    "blobs" => What::Empty,
                    _ => return None,
                };
                Some(self.spot(spot, name, "", what, Hold::Firm))
            }
            What::Refs(repo, prefix) => self.enter_refs(spot, repo, prefix, name),
            What::Snapshots(repo) => {
                let shown = self.commit(repo, exact_commit(name)?)?;
                Some(self.place(spot, name, &shown))
            }
            What::Trees(repo) => {
                let commit = exact_commit(name.strip_suffix(".json")?)?;
                self.commit(repo, commit)?;
                Some(self.spot(spot, name, "", What::TreeText(repo.clone(), commit), Hold::Firm))
            }
            What::NoExist(repo) => {
                let commit = exact_commit(name)?;
                self.commit(repo, commit)?;
                let what = What::Lacks(repo.clone(), commit, String::new());
                Some(self.spot(spot, name, "", what, Hold::Firm))
            }
            What::Lacks(repo, commit, prefix) => self.enter_lacks(spot, repo, *commit, prefix, name),
            What::Empty | What::Link(_) | What::Text(_) | What::TreeText(..) => None,
        }
    }

    fn enter_kind(&mut self, spot: &Spot, kind: RepoKind, name: &str) -> Option<Item> {
        if kind == RepoKind::Model {
            let what = match name {
                CACHE_VIEW => Some(What::CacheView),
                "datasets" => Some(What::Kind(RepoKind::Dataset)),
                "spaces" => Some(What::Kind(RepoKind::Space)),
                _ => None,
            };
            if let Some(what) = what {
                return Some(self.spot(spot, name, "", what, Hold::Firm));
            }
        }
        let (repo, revision) = names::repository(kind, None, name)?;
        let is_plain = !name.contains('@');
        if is_plain && self.pins.has_owner(kind, name) {
            return Some(self.spot(spot, name, "", What::Owner(kind, name.into()), Hold::Firm));
        }
        if let Some(shown) = self.resolved(&repo, &revision) {
            return Some(self.repository(spot, name, &repo, &revision, &shown));
        }
        // Every space has an owner, so there is nothing to ask.
        let is_met = || self.by_key.contains_key(key(spot, name, "").as_str());
        (is_plain && (kind == RepoKind::Space || is_met())).then(|| self.owner(spot, kind, name))
    }

    /// The directory of an owner of whom nothing is known.
    pub(super) fn owner(&mut self, spot: &Spot, kind: RepoKind, name: &str) -> Item {
        self.spot(spot, name, "", What::Owner(kind, name.into()), Hold::Loose)
    }

    /// The repository itself, or a link to where it is now.
    fn repository(
        &mut self,
        spot: &Spot,
        name: &str,
        asked: &Repo,
        revision: &Revision,
        shown: &Arc<Shown>,
    ) -> Item {
        let canonical = &shown.revision.repo;
        if canonical == asked {
            return self.place(spot, name, shown);
        }
        let mut target = PathBuf::new();
        if asked.id.owner().is_some() {
            target.push("..");
        }
        if let Some(owner) = canonical.id.owner() {
            target.push(owner);
        }
        target.push(names::entry(canonical, revision));
        let mark = target.display().to_string();
        self.spot(spot, name, &mark, What::Link(target), Hold::Firm)
    }

    fn enter_refs(&mut self, spot: &Spot, repo: &Repo, prefix: &str, name: &str) -> Option<Item> {
        let full = format!("{prefix}{name}");
        let revision = Revision::parse(&full).ok()?;
        if revision.commit().is_none()
            && let Some(shown) = self.resolved(repo, &revision)
        {
            // Without a line's end: the clients take all of the file for the commit.
            let commit = shown.revision.commit.to_string();
            return Some(self.spot(spot, name, &commit.clone(), What::Text(commit.into()), Hold::Loose));
        }
        let below = format!("{full}/");
        let has_more = self.pins.of(repo).any(|(revision, _)| revision.as_str().starts_with(&below));
        let is_directory = has_more || ["refs", "refs/pr", "refs/convert"].contains(&full.as_str());
        is_directory.then(|| self.spot(spot, name, "/", What::Refs(repo.clone(), below), Hold::Loose))
    }

    /// What the revision has is not missing. Of what it lacks nobody knows whether it would be a file or a directory: a
    /// name with a dot in it is taken for a file's.
    fn enter_lacks(
        &mut self,
        spot: &Spot,
        repo: &Repo,
        commit: Commit,
        prefix: &str,
        name: &str,
    ) -> Option<Item> {
        let shown = self.commit(repo, commit)?;
        let full = format!("{prefix}{name}");
        let below = format!("{full}/");
        let tree = &shown.revision.tree;
        if tree.find(&full).is_some() {
            return None;
        }
        let is_directory = tree.find_directory(&full).is_some();
        let what = if is_directory || !name.contains('.') {
            What::Lacks(repo.clone(), commit, below)
        } else {
            What::Text(Bytes::new())
        };
        Some(self.spot(spot, name, "", what, Hold::Loose))
    }

    fn place(&mut self, spot: &Spot, name: &str, shown: &Arc<Shown>) -> Item {
        let key = key(spot, name, &shown.revision.commit.to_string());
        shown.is_used();
        if let Some(Item::Place(place)) = self.at(&key)
            && Arc::ptr_eq(&place.shown, shown)
        {
            return Item::Place(place);
        }
        let tag = self.free_tag(&key);
        let top = crate::catalog::Catalog::ROOT;
        let path = format!("{}/{name}", spot.path).into();
        let place = Place { shown: Arc::clone(shown), tag, parent: spot.ino, top, path };
        let place = Item::Place(Arc::new(place));
        self.items.insert(tag, place.clone());
        self.by_key.insert(key.into(), tag);
        place
    }

    /// `mark` tells apart what one name means at different times.
    fn spot(&mut self, parent: &Spot, name: &str, mark: &str, what: What, hold: Hold) -> Item {
        let key = key(parent, name, mark);
        if let Some(Item::Spot(spot)) = self.at(&key)
            && spot.what == what
        {
            return Item::Spot(spot);
        }
        let tag = self.free_tag(&key);
        let path = format!("{}/{name}", parent.path).into();
        let ino = InodeNo::of(tag, SPOT_SLOT);
        let spot = Item::Spot(Arc::new(Spot { path, ino, parent: parent.ino, what }));
        self.items.insert(tag, spot.clone());
        self.by_key.insert(key.as_str().into(), tag);
        if hold == Hold::Loose {
            self.loose.push_back(key.into());
            while self.loose.len() > LOOSE_MAX {
                let Some(oldest) = self.loose.pop_front() else { break };
                if let Some(tag) = self.by_key.remove(&oldest) {
                    self.items.remove(&tag);
                }
            }
        }
        spot
    }

    fn at(&self, key: &str) -> Option<Item> {
        self.items.get(self.by_key.get(key)?).cloned()
    }

    /// The names in a spot behind a position, each with its own, in order; a part of them, and none once there are no more.
    pub(super) fn names(&self, spot: &Spot, after: u64) -> Vec<(u64, String)> {
        let fixed = |from: u64, names: &[&str]| -> Vec<(u64, String)> {
            (from..)
                .zip(names.iter().map(|name| (*name).to_owned()))
                .filter(|(position, _)| *position > after)
                .collect()
        };
        match &spot.what {
            What::Kind(kind) => {
                let mut names = match kind {
                    RepoKind::Model => fixed(2, &[CACHE_VIEW, "datasets", "spaces"]),
                    RepoKind::Dataset | RepoKind::Space => Vec::new(),
                };
                let found = self.pins.behind(after).filter(|(_, repo, _)| repo.kind == *kind);
                let found = found.filter_map(|(at, repo, revision)| match repo.id.owner() {
                    Some(owner) => {
                        self.pins.is_first_of_owner(*kind, owner, at).then(|| (at, owner.to_owned()))
                    }
                    None => revision.commit().is_none().then(|| (at, names::entry(repo, revision))),
                });
                names.extend(found.take(LISTED_AT_ONCE));
                names
            }
            What::Owner(kind, owner) => {
                let found = self.pins.of_owner_behind(*kind, owner, after);
                let listed = found.filter(|(.., revision)| revision.commit().is_none());
                listed
                    .map(|(at, repo, revision)| (at, names::entry(repo, revision)))
                    .take(LISTED_AT_ONCE)
                    .collect()
            }
            What::CacheView => {
                let firsts = self.pins.behind(after);
                let firsts = firsts.filter(|(at, repo, _)| self.pins.is_first_of_repo(repo, *at));
                firsts.map(|(at, repo, _)| (at, names::folder(repo))).take(LISTED_AT_ONCE).collect()
            }
            What::Cached(_) => fixed(1, &["refs", "snapshots", "trees", ".no_exist", "blobs"]),
            What::Refs(repo, prefix) => {
                let found = self.pins.shown_of(repo).into_iter();
                let names = distinct(found.filter_map(|(at, revision, _)| {
                    let is_name = revision.commit().is_none();
                    let below = is_name.then(|| revision.as_str().strip_prefix(prefix.as_str())).flatten()?;
                    Some((at, below.split('/').next()?.to_owned()))
                }));
                names.into_iter().filter(|(at, _)| *at > after).collect()
            }
            What::Snapshots(repo) | What::Trees(repo) | What::NoExist(repo) => {
                let suffix = if matches!(spot.what, What::Trees(_)) { ".json" } else { "" };
                let found = self.pins.shown_of(repo).into_iter();
                let names =
                    distinct(found.map(|(at, _, shown)| (at, format!("{}{suffix}", shown.revision.commit))));
                names.into_iter().filter(|(at, _)| *at > after).collect()
            }
            What::Locks
            | What::Lacks(..)
            | What::Empty
            | What::Link(_)
            | What::Text(_)
            | What::TreeText(..) => Vec::new(),
        }
    }
}

impl Spot {
    /// Whom to ask for a name that is not known, if it can be one.
    pub(super) fn wanted(&self, name: &str) -> Option<(Repo, Revision)> {
        match &self.what {
            What::Kind(kind) => names::repository(*kind, None, name),
            What::Owner(kind, owner) => names::repository(*kind, Some(owner), name),
            What::CacheView => Some((names::of_folder(name)?, Revision::main())),
            What::Refs(repo, prefix) => {
                let revision = Revision::parse(&format!("{prefix}{name}")).ok()?;
                revision.commit().is_none().then(|| (repo.clone(), revision))
            }
            What::Snapshots(repo) | What::NoExist(repo) => Some((repo.clone(), exact_commit(name)?.into())),
            What::Trees(repo) => Some((repo.clone(), exact_commit(name.strip_suffix(".json")?)?.into())),
            What::Cached(_)
            | What::Locks
            | What::Lacks(..)
            | What::Empty
            | What::Link(_)
            | What::Text(_)
            | What::TreeText(..) => None,
        }
    }

    /// The number that a name has in listings until it is known what it leads to.
    pub(super) fn number_until_known(&self, name: &str) -> InodeNo {
        InodeNo::of(TreeTag::derive(key(self, name, "?").as_bytes(), 0), SPOT_SLOT)
    }
}

fn key(parent: &Spot, name: &str, mark: &str) -> String {
    format!("hf:{}/{name}\0{mark}", parent.path)
}

/// One spelling only.
fn exact_commit(name: &str) -> Option<Commit> {
    let commit: Commit = name.parse().ok()?;
    (commit.to_string() == name).then_some(commit)
}

/// The first of each name.
fn distinct(names: impl Iterator<Item = (u64, String)>) -> Vec<(u64, String)> {
    let mut met = BTreeSet::new();
    names.filter(|(_, name)| met.insert(name.clone())).collect()
}
