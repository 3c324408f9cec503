//! What stands where in a mount of repositories: pure state, changed only by what was found out.
//!
//! A *pin* is a repository and a revision as they were asked for, and the commit they stand for now. From the pins
//! follows every name: `org/repo[@revision]` for each, links for names that were given up, and
//! `.cache-view/models--org--repo/{refs,snapshots,trees,.no_exist}` in the shape of the clients' cache. Directories that
//! are in no revision are *spots*, made when they are first looked up. Numbers are hashes of the path and, where it matters,
//! of the commit, so they are the same after a restart.
//!
//! Bounded: spots that exist only because somebody asked for a name are forgotten, oldest first.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wtfs_proto::hf::{Commit, Repo, RepoKind, Revision};

use crate::hf::names;
use crate::hf::place::{Place, ROOT_TAG, Shown};
use crate::inode::{InodeNo, TreeTag};

/// Spots that hang on nothing but a look-up.
const LOOSE_MAX: usize = 8192;

/// Commits that no pin stands for any more and that are still readable by whoever sits in their directories.
const SUPERSEDED_MAX: usize = 64;

/// The slot of a spot's number under its tag.
const SPOT_SLOT: u32 = 1;

/// The view in the shape of the clients' cache.
pub(super) const CACHE_VIEW: &str = ".cache-view";

/// In that view; found, but not listed.
const LOCKS: &str = ".locks";

/// Positions of fixed entries come first in a listing.
const FIRST_PIN: u64 = 16;

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

#[derive(Debug)]
struct Pin {
    /// Nothing for one that is remembered and was not asked for since.
    shown: Option<Arc<Shown>>,
    checked: Instant,
}

/// How long something stays when it is looked up by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    Firm,
    Loose,
}

#[derive(Debug)]
pub(super) struct Space {
    items: HashMap<TreeTag, Item>,
    by_key: HashMap<Box<str>, TreeTag>,
    pins: BTreeMap<(Repo, Revision), Pin>,
    order: BTreeMap<u64, (Repo, Revision)>,
    shown: HashMap<(Repo, Commit), Arc<Shown>>,
    superseded: VecDeque<(Repo, Commit)>,
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
            pins: BTreeMap::new(),
            order: BTreeMap::new(),
            shown: HashMap::new(),
            superseded: VecDeque::new(),
            loose: VecDeque::new(),
            root: Item::Spot(Arc::clone(&root)),
        };
        (space, root)
    }

    /// Makes a directory of a revision the root.
    pub(super) fn set_root(&mut self, shown: Arc<Shown>, top: u32) {
        let place = Arc::new(Place { shown, tag: ROOT_TAG, parent: InodeNo::ROOT, top });
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
        self.items.get(&ino.tag()?).cloned()
    }

    /// A commit that is shown already.
    pub(super) fn shown(&self, repo: &Repo, commit: Commit) -> Option<Arc<Shown>> {
        self.shown.get(&(repo.clone(), commit)).cloned()
    }

    pub(super) fn all_shown(&self) -> impl Iterator<Item = &Arc<Shown>> {
        self.shown.values()
    }

    /// Pins that are resolved, as they were asked for.
    pub(super) fn pinned(&self) -> impl Iterator<Item = (&Repo, &Revision, &Arc<Shown>)> {
        self.pins.iter().filter_map(|((repo, revision), pin)| Some((repo, revision, pin.shown.as_ref()?)))
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
        self.pin_of(repo, revision, now);
    }

    fn pin_of(&mut self, repo: Repo, revision: Revision, now: Instant) -> &mut Pin {
        let position = self.order.last_key_value().map_or(FIRST_PIN, |(last, _)| last + 1);
        let key = (repo, revision);
        if !self.pins.contains_key(&key) {
            self.order.insert(position, key.clone());
        }
        self.pins.entry(key).or_insert(Pin { shown: None, checked: now })
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
        let mut left = None;
        let (repo, revision) = asked;
        let is_renamed = repo != canonical;
        let names = [Some((repo, revision.clone())), is_renamed.then_some((canonical, revision))];
        for (repo, revision) in names.into_iter().flatten() {
            // A commit of its own is found by its pin too, but it is no name that anybody listed.
            let is_commit = revision == by_commit;
            let pin = self.pin_of(repo, revision, now);
            pin.checked = now;
            let is_kept = |old: &Arc<Shown>| !is_commit && !old.is_idle(now, quiet);
            if pin.shown.as_ref().is_some_and(is_kept) {
                continue;
            }
            if let Some(old) = pin.shown.replace(Arc::clone(shown))
                && old.revision.commit != shown.revision.commit
            {
                left = Some((old.revision.repo.clone(), old.revision.commit));
            }
        }
        if let Some(left) = left {
            self.superseded.push_back(left);
            self.forget_superseded();
        }
    }

    fn forget_superseded(&mut self) {
        while self.superseded.len() > SUPERSEDED_MAX {
            let Some(key) = self.superseded.pop_front() else { return };
            let Some(old) = self.shown.get(&key) else { continue };
            let is_pinned = |pin: &Pin| pin.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, old));
            if self.pins.values().any(is_pinned) {
                continue;
            }
            let old = Arc::clone(old);
            self.shown.remove(&key);
            self.items.retain(|_, item| match item {
                Item::Files(shown) => !Arc::ptr_eq(shown, &old),
                Item::Place(place) => !Arc::ptr_eq(&place.shown, &old),
                Item::Spot(_) => true,
            });
            let items = &self.items;
            self.by_key.retain(|_, tag| items.contains_key(tag));
        }
    }

    /// Whether a name that may come to mean another commit should be asked about again.
    pub(super) fn is_due(&self, repo: &Repo, revision: &Revision, now: Instant, after: Duration) -> bool {
        let pin = self.pins.get(&(repo.clone(), revision.clone()));
        pin.is_some_and(|pin| {
            revision.commit().is_none()
                && now.saturating_duration_since(pin.checked) >= after
                && pin.shown.as_ref().is_some_and(|shown| shown.is_idle(now, after))
        })
    }

    pub(super) fn resolved(&self, repo: &Repo, revision: &Revision) -> Option<Arc<Shown>> {
        self.pins.get(&(repo.clone(), revision.clone()))?.shown.clone()
    }

    /// A commit of a repository, under whatever name it is asked for.
    pub(super) fn commit(&self, repo: &Repo, commit: Commit) -> Option<Arc<Shown>> {
        let is_it = |shown: &&Arc<Shown>| shown.revision.commit == commit;
        self.pins_of(repo).filter_map(|(_, pin)| pin.shown.as_ref()).find(is_it).cloned()
    }

    fn pins_of<'a>(&'a self, repo: &'a Repo) -> impl Iterator<Item = (&'a Revision, &'a Pin)> {
        // The empty prefix of all revisions of a repository has no value of its own: so from the repository's first pin on.
        let mine = self.pins.iter().skip_while(move |((found, _), _)| found < repo);
        mine.take_while(move |((found, _), _)| found == repo).map(|((_, revision), pin)| (revision, pin))
    }

    fn has_owner(&self, kind: RepoKind, owner: &str) -> bool {
        self.pins.keys().any(|(repo, _)| repo.kind == kind && repo.id.owner() == Some(owner))
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
                self.pins_of(&repo).any(|(_, pin)| pin.shown.is_some()).then_some(())?;
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
        if is_plain && self.has_owner(kind, name) {
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
        let has_more = self.pins_of(repo).any(|(revision, _)| revision.as_str().starts_with(&below));
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
        if let Some(Item::Place(place)) = self.at(&key)
            && Arc::ptr_eq(&place.shown, shown)
        {
            return Item::Place(place);
        }
        let tag = self.free_tag(&key);
        let top = crate::catalog::Catalog::ROOT;
        let place = Item::Place(Arc::new(Place { shown: Arc::clone(shown), tag, parent: spot.ino, top }));
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

    /// The names in a spot, each with its position, in order.
    pub(super) fn names(&self, spot: &Spot) -> Vec<(u64, String)> {
        let fixed = |names: &[&str]| (1..).zip(names.iter().map(|name| (*name).to_owned())).collect();
        let pins = || self.order.iter().map(|(position, (repo, revision))| (*position, repo, revision));
        let known = |repo: &Repo, revision: &Revision| self.resolved(repo, revision);
        match &spot.what {
            What::Kind(kind) => {
                let mut names: Vec<(u64, String)> = match kind {
                    RepoKind::Model => {
                        (2..).zip([CACHE_VIEW, "datasets", "spaces"].map(str::to_owned)).collect()
                    }
                    RepoKind::Dataset | RepoKind::Space => Vec::new(),
                };
                names.extend(distinct(pins().filter(|(_, repo, _)| repo.kind == *kind).filter_map(
                    |(at, repo, revision)| {
                        let name = repo.id.owner().map(str::to_owned);
                        let is_listed = revision.commit().is_none();
                        Some((at, name.or_else(|| is_listed.then(|| names::entry(repo, revision)))?))
                    },
                )));
                names
            }
            What::Owner(kind, owner) => distinct(
                pins()
                    .filter(|(_, repo, revision)| {
                        repo.kind == *kind && repo.id.owner() == Some(owner) && revision.commit().is_none()
                    })
                    .map(|(at, repo, revision)| (at, names::entry(repo, revision))),
            ),
            What::CacheView => distinct(pins().map(|(at, repo, _)| (at, names::folder(repo)))),
            What::Cached(_) => fixed(&["refs", "snapshots", "trees", ".no_exist", "blobs"]),
            What::Refs(repo, prefix) => distinct(pins().filter_map(|(at, found, revision)| {
                let is_name = found == repo && revision.commit().is_none();
                let below = is_name.then(|| revision.as_str().strip_prefix(prefix.as_str())).flatten()?;
                known(found, revision)?;
                Some((at, below.split('/').next()?.to_owned()))
            })),
            What::Snapshots(repo) | What::Trees(repo) | What::NoExist(repo) => {
                let suffix = if matches!(spot.what, What::Trees(_)) { ".json" } else { "" };
                distinct(pins().filter(|(_, found, _)| *found == repo).filter_map(|(at, found, revision)| {
                    Some((at, format!("{}{suffix}", known(found, revision)?.revision.commit)))
                }))
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
