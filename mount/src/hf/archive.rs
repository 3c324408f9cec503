//! What was learnt of repositories, on disk: which commit a revision was last, and what each commit holds.
//!
//! One file each, replaced by rename after it is durable; a file that cannot be read is as if it were not there, so a torn
//! or foreign one costs a question and never a wrong answer. Commits never change and are never asked about again. No
//! token is ever written here.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wtfs_proto::hf::{Commit, Repo, RepoTree, Revision, encode_segment};

use crate::hf::names;

/// Of the files' format.
const VERSION: u32 = 1;

/// Longest name of a file; longer revisions are not kept.
const NAME_BYTES_MAX: usize = 240;

/// Larger files are not read: a million entries of a tree are some 250 MB.
const FILE_BYTES_MAX: u64 = 512 << 20;

/// Revisions listed at start; what is beyond is found when it is asked for.
const REMEMBERED_MAX: usize = 10_000;

/// One commit of a repository, as it was answered.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// Under its canonical name.
    pub(super) repo: Repo,
    /// Seconds since 1970.
    pub(super) modified: Option<i64>,
    pub(super) is_public: bool,
    pub(super) tree: Arc<RepoTree>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    dir: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Ref {
    version: u32,
    repo: String,
    revision: String,
    canonical: String,
    commit: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Snapshot<'a> {
    version: u32,
    repo: &'a str,
    modified: Option<i64>,
    is_public: bool,
    #[serde(borrow)]
    tree: &'a RawValue,
}

impl Archive {
    pub(super) fn open(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// What was asked for before, as far as it is listed. Blocks on the disk.
    pub(super) fn remembered(&self) -> Vec<(Repo, Revision)> {
        let mut found = Vec::new();
        let Ok(repos) = fs::read_dir(self.dir.join("refs")) else { return found };
        for file in repos.flatten().filter_map(|repo| fs::read_dir(repo.path()).ok()).flatten().flatten() {
            if found.len() >= REMEMBERED_MAX {
                break;
            }
            let Some(known) = read_ref(&file.path()) else { continue };
            let parsed = Repo::parse(&known.repo).ok().zip(Revision::parse(&known.revision).ok());
            found.extend(parsed.filter(|(_, revision)| revision.commit().is_none()));
        }
        found.sort();
        found
    }

    /// What `revision` was when it was last asked about.
    pub(super) async fn find(&self, repo: Repo, revision: Revision) -> Option<Kept> {
        let archive = self.clone();
        tokio::task::spawn_blocking(move || archive.read(&repo, &revision)).await.ok().flatten()
    }

    fn read(&self, repo: &Repo, revision: &Revision) -> Option<Kept> {
        if let Some(commit) = revision.commit()
            && let Some(kept) = self.read_commit(repo, commit)
        {
            return Some(kept);
        }
        let known = read_ref(&self.ref_path(repo, revision)?)?;
        let is_it = known.repo == repo.to_string() && known.revision == revision.as_str();
        let (canonical, commit) = (Repo::parse(&known.canonical).ok()?, known.commit.parse().ok()?);
        if is_it { self.read_commit(&canonical, commit) } else { None }
    }

    fn read_commit(&self, repo: &Repo, commit: Commit) -> Option<Kept> {
        let text = read_file(&self.commit_path(repo, commit))?;
        let snapshot: Snapshot<'_> = serde_json::from_slice(&text).ok()?;
        let tree = RepoTree::from_json(snapshot.tree.get().as_bytes()).ok()?;
        let is_it = snapshot.version == VERSION && snapshot.repo == repo.to_string() && tree.commit == commit;
        let (modified, is_public) = (snapshot.modified, snapshot.is_public);
        is_it.then(|| Kept { repo: repo.clone(), modified, is_public, tree: Arc::new(tree) })
    }

    /// Keeps an answer. What cannot be written is told in the log, and asked about again next time.
    pub(super) async fn keep(&self, repo: Repo, revision: Revision, kept: Kept) {
        let archive = self.clone();
        let written = tokio::task::spawn_blocking(move || archive.write(&repo, &revision, &kept)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what a hub said is not kept for a time without network");
        }
    }

    fn write(&self, repo: &Repo, revision: &Revision, kept: &Kept) -> io::Result<()> {
        let commit = kept.tree.commit;
        let path = self.commit_path(&kept.repo, commit);
        if !path.exists() {
            let tree = RawValue::from_string(kept.tree.to_json())?;
            let (name, modified, is_public) = (kept.repo.to_string(), kept.modified, kept.is_public);
            let snapshot = Snapshot { version: VERSION, repo: &name, modified, is_public, tree: &tree };
            replace(&path, &serde_json::to_vec(&snapshot)?)?;
        }
        let Some(path) = self.ref_path(repo, revision) else { return Ok(()) };
        let known = Ref {
            version: VERSION,
            repo: repo.to_string(),
            revision: revision.to_string(),
            canonical: kept.repo.to_string(),
            commit: commit.to_string(),
        };
        let is_same = read_ref(&path).is_some_and(|old| {
            (old.commit, old.canonical) == (known.commit.clone(), known.canonical.clone())
        });
        if is_same { Ok(()) } else { replace(&path, &serde_json::to_vec(&known)?) }
    }

    fn commit_path(&self, repo: &Repo, commit: Commit) -> PathBuf {
        self.dir.join("commits").join(names::folder(repo)).join(format!("{commit}.json"))
    }

    fn ref_path(&self, repo: &Repo, revision: &Revision) -> Option<PathBuf> {
        let name = format!("{}.json", encode_segment(revision.as_str()));
        (name.len() <= NAME_BYTES_MAX).then(|| self.dir.join("refs").join(names::folder(repo)).join(name))
    }
}

fn read_file(path: &Path) -> Option<Vec<u8>> {
    let length = fs::metadata(path).ok()?.len();
    if length > FILE_BYTES_MAX { None } else { fs::read(path).ok() }
}

fn read_ref(path: &Path) -> Option<Ref> {
    let known: Ref = serde_json::from_slice(&read_file(path)?).ok()?;
    (known.version == VERSION).then_some(known)
}

/// Whole or not at all, also over a crash.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = dir.join(format!(".{}-{number}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _nothing_to_lose = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use wtfs_proto::hf::TreePages;

    use super::*;

    fn kept(repo: &str, commit: &str) -> Kept {
        let mut pages = TreePages::default();
        let page = format!(r#"[{{"type":"file","path":"a b/c.bin","oid":"{commit}","size":7}}]"#);
        pages.push(page.as_bytes()).expect("a page");
        let tree = Arc::new(pages.finish(commit.parse().expect("a commit")));
        Kept { repo: Repo::parse(repo).expect("a repository"), modified: Some(1), is_public: true, tree }
    }

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    #[tokio::test]
    async fn what_was_answered_is_there_for_another_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = Archive::open(dir.path().join("hf"));
        let (asked, branch) = (Repo::parse("gpt2").unwrap(), Revision::parse("refs/pr/1").unwrap());
        assert!(archive.find(asked.clone(), branch.clone()).await.is_none());
        archive.keep(asked.clone(), branch.clone(), kept("openai-community/gpt2", ONE)).await;
        archive.keep(asked.clone(), branch.clone(), kept("openai-community/gpt2", TWO)).await;
        let again = Archive::open(dir.path().join("hf"));
        let found = again.find(asked.clone(), branch.clone()).await.expect("kept");
        assert_eq!(
            (found.repo.to_string(), found.tree.commit.to_string()),
            ("openai-community/gpt2".into(), TWO.into())
        );
        assert_eq!((found.modified, found.tree.files()[0].path.as_str()), (Some(1), "a b/c.bin"));
        // The earlier commit is still known by itself.
        let by_commit = again.find(found.repo, Revision::parse(ONE).unwrap()).await.expect("kept");
        assert_eq!(by_commit.tree.commit.to_string(), ONE);
        assert_eq!(again.remembered(), [(asked, branch)]);
    }

    #[tokio::test]
    async fn a_torn_file_is_as_if_it_were_not_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = Archive::open(dir.path().to_owned());
        let (repo, main) = (Repo::parse("org/repo").unwrap(), Revision::main());
        archive.keep(repo.clone(), main.clone(), kept("org/repo", ONE)).await;
        let path = archive.commit_path(&repo, ONE.parse().unwrap());
        let whole = fs::read(&path).expect("written");
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).expect("torn");
            assert!(archive.find(repo.clone(), main.clone()).await.is_none(), "{length}");
        }
    }
}
