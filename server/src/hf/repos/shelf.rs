//! What is known of repositories, on disk: `{kind}--{owner}--{name}/` with `refs.json`, and `{commit}.info.json` and
//! `{commit}.tree.json` for each commit. Blocks on the disk.
//!
//! Files are replaced by renaming, never written in place. They may be lost at any time, and when there are too many the
//! oldest are.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wtfs_proto::hf::{Commit, Repo, RepoId, RepoInfo, RepoKind, RepoTree, Revision};

use super::Openness;

/// The longest file that is read: a tree of a million files.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// All files together.
const SHELF_BYTES_MAX: u64 = 1 << 30;

/// Names of revisions kept of one repository.
const REFS_OF_ONE_MAX: usize = 256;

/// What a revision's name was found to mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefRecord {
    /// The repository's id as upstream has it.
    pub(super) id: RepoId,
    pub(super) commit: Commit,
    pub(super) openness: Openness,
}

impl RefRecord {
    pub(super) fn repo(&self, kind: RepoKind) -> Option<Repo> {
        Some(Repo { kind, id: self.id.clone() })
    }
}

/// What is known of a repository's revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefsRecord {
    pub(super) refs: BTreeMap<String, RefRecord>,
    /// What was learned last, of whatever revision.
    pub(super) latest: RefRecord,
}

/// As they are written.
#[derive(Debug, Serialize, Deserialize)]
struct WireRef {
    id: String,
    commit: String,
    open: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct WireRefs {
    refs: BTreeMap<String, WireRef>,
    latest: WireRef,
}

impl WireRef {
    fn of(record: &RefRecord) -> Self {
        let open = match record.openness {
            Openness::Open => "open",
            Openness::Gated => "gated",
            Openness::Private { is_gated: false } => "private",
            Openness::Private { is_gated: true } => "private-gated",
            Openness::Disabled => "disabled",
        };
        Self { id: record.id.to_string(), commit: record.commit.to_string(), open: open.to_owned() }
    }

    fn read(&self) -> Option<RefRecord> {
        let openness = match self.open.as_str() {
            "open" => Openness::Open,
            "gated" => Openness::Gated,
            "private" => Openness::Private { is_gated: false },
            "private-gated" => Openness::Private { is_gated: true },
            "disabled" => Openness::Disabled,
            _ => return None,
        };
        Some(RefRecord { id: RepoId::parse(&self.id).ok()?, commit: self.commit.parse().ok()?, openness })
    }
}

impl RefsRecord {
    pub(super) fn new(latest: RefRecord) -> Self {
        Self { refs: BTreeMap::new(), latest }
    }

    /// Whether this is what is known already.
    pub(super) fn says(&self, revision: &Revision, record: &RefRecord) -> bool {
        self.latest == *record && self.refs.get(revision.as_str()) == Some(record)
    }

    /// Adds a name. Where there are too many, another goes.
    pub(super) fn add(&mut self, revision: &Revision, record: RefRecord) {
        self.refs.insert(revision.as_str().to_owned(), record.clone());
        self.latest = record;
        while self.refs.len() > REFS_OF_ONE_MAX {
            let other = self.refs.keys().find(|name| *name != revision.as_str() && *name != "main").cloned();
            let Some(other) = other else { break };
            self.refs.remove(&other);
        }
    }

    fn to_json(&self) -> String {
        let refs = self.refs.iter().map(|(name, record)| (name.clone(), WireRef::of(record))).collect();
        json!(WireRefs { refs, latest: WireRef::of(&self.latest) }).to_string()
    }

    fn from_json(bytes: &[u8]) -> Option<Self> {
        let wire: WireRefs = serde_json::from_slice(bytes).ok()?;
        let refs = wire.refs.into_iter().filter_map(|(name, record)| Some((name, record.read()?))).collect();
        Some(Self { refs, latest: wire.latest.read()? })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    /// About how much is there; `u64::MAX` until it was looked.
    bytes: AtomicU64,
}

impl Shelf {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, bytes: AtomicU64::new(u64::MAX) }
    }

    /// An id has no `--`, so that no two repositories share a directory.
    fn place(&self, repo: &Repo, file: &str) -> PathBuf {
        let id = repo.id.as_str().replace('/', "--");
        self.dir.join(format!("{}--{id}", repo.kind.api())).join(file)
    }

    pub(super) fn refs(&self, repo: &Repo) -> Option<RefsRecord> {
        RefsRecord::from_json(&read(&self.place(repo, "refs.json"))?)
    }

    pub(super) fn keep_refs(&self, repo: &Repo, refs: &RefsRecord) {
        self.keep(&self.place(repo, "refs.json"), refs.to_json().as_bytes());
    }

    pub(super) fn info(&self, repo: &Repo, commit: Commit) -> Option<RepoInfo> {
        let info = RepoInfo::parse(&read(&self.place(repo, &format!("{commit}.info.json")))?).ok()?;
        (info.commit == commit && info.id == repo.id).then_some(info)
    }

    pub(super) fn keep_info(&self, repo: &Repo, info: &RepoInfo) {
        self.keep(&self.place(repo, &format!("{}.info.json", info.commit)), info.json.to_string().as_bytes());
    }

    pub(super) fn tree(&self, repo: &Repo, commit: Commit) -> Option<RepoTree> {
        let tree = RepoTree::from_json(&read(&self.place(repo, &format!("{commit}.tree.json")))?).ok()?;
        (tree.commit == commit).then_some(tree)
    }

    pub(super) fn keep_tree(&self, repo: &Repo, tree: &RepoTree) {
        self.keep(&self.place(repo, &format!("{}.tree.json", tree.commit)), tree.to_json().as_bytes());
    }

    pub(super) fn answer(&self, repo: &Repo, name: &str) -> Option<Vec<u8>> {
        read(&self.place(repo, &format!("{name}.answer.json")))
    }

    pub(super) fn keep_answer(&self, repo: &Repo, name: &str, bytes: &[u8]) {
        self.keep(&self.place(repo, &format!("{name}.answer.json")), bytes);
    }

    fn keep(&self, place: &Path, bytes: &[u8]) {
        if let Err(error) = write(place, bytes) {
            // It is in memory, and can be fetched again.
            tracing::debug!(%error, place = %place.display(), "not written down");
            return;
        }
        if self.bytes.load(Ordering::Relaxed) == u64::MAX {
            let there = files(&self.dir).iter().map(|(_, _, bytes)| bytes).sum();
            self.bytes.store(there, Ordering::Relaxed);
        } else if self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed) > SHELF_BYTES_MAX {
            self.make_room();
        }
    }

    /// Takes away the oldest, down to a half.
    fn make_room(&self) {
        let mut files = files(&self.dir);
        files.sort_by_key(|(_, written, _)| *written);
        let mut there: u64 = files.iter().map(|(_, _, bytes)| bytes).sum();
        for (path, _, bytes) in files {
            if there <= SHELF_BYTES_MAX / 2 {
                break;
            }
            if fs::remove_file(path).is_ok() {
                there = there.saturating_sub(bytes);
            }
        }
        self.bytes.store(there, Ordering::Relaxed);
    }
}

fn read(place: &Path) -> Option<Vec<u8>> {
    (fs::metadata(place).ok()?.len() <= FILE_BYTES_MAX).then(|| fs::read(place).ok())?
}

fn write(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = place.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    // Two that write at once must not write into one file.
    let fresh = dir.join(format!(".{:016x}.part", fastrand::u64(..)));
    let written = fs::File::create_new(&fresh).and_then(|mut file| {
        file.write_all(bytes)?;
        fs::rename(&fresh, place)
    });
    if written.is_err() {
        let _gone = fs::remove_file(&fresh);
    }
    written
}

/// All files two levels down, when they were written, and how long they are.
fn files(dir: &Path) -> Vec<(PathBuf, SystemTime, u64)> {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    entries(dir)
        .flat_map(|below| entries(&below.path()).collect::<Vec<_>>())
        .filter_map(|entry| {
            let about = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((entry.path(), about.modified().ok()?, about.len()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(text: &str) -> Repo {
        Repo::parse(text).expect("a repository")
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart_and_a_torn_file_is_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = Shelf::new(dir.path().to_owned());
        let (one, other) = (repo("org/name"), repo("datasets/org/name"));
        let record = |digit: &str, openness| RefRecord {
            id: one.id.clone(),
            commit: digit.repeat(40).parse().expect("a commit"),
            openness,
        };
        let mut refs = RefsRecord::new(record("1", Openness::Open));
        for (digit, openness) in [
            ("2", Openness::Gated),
            ("3", Openness::Private { is_gated: true }),
            ("4", Openness::Private { is_gated: false }),
            ("5", Openness::Disabled),
        ] {
            refs.add(
                &Revision::parse(&format!("refs/pr/{digit}")).expect("a revision"),
                record(digit, openness),
            );
        }
        shelf.keep_refs(&one, &refs);
        let again = Shelf::new(dir.path().to_owned());
        assert_eq!(again.refs(&one), Some(refs));
        assert_eq!(again.refs(&other), None);
        fs::write(again.place(&one, "refs.json"), b"{\"refs\":{").expect("written");
        assert_eq!(again.refs(&one), None);
    }

    #[test]
    fn names_of_one_repository_are_bounded_and_main_stays() {
        let record = RefRecord {
            id: RepoId::parse("org/name").expect("an id"),
            commit: Commit([1; 20]),
            openness: Openness::Open,
        };
        let mut refs = RefsRecord::new(record.clone());
        refs.add(&Revision::main(), record.clone());
        for n in 0..1000 {
            refs.add(&Revision::parse(&format!("v{n}")).expect("a revision"), record.clone());
        }
        assert_eq!(refs.refs.len(), REFS_OF_ONE_MAX);
        assert!(refs.refs.contains_key("main") && refs.refs.contains_key("v999"));
    }
}
