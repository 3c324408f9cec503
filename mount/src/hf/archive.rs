//! What was learnt of repositories, on disk: which commit a revision was last, and what each commit holds.
//!
//! Commits never change, and those of what anybody may read are never asked about again. What is not for everybody is read
//! only in the name of who was let in, and where a hub is named that let him in; else it is as if nothing were kept,
//! and once he is refused nothing is. Names and hashes go through the same checks as a hub's answer. No token is ever
//! written here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use wtfs_proto::hf::{Commit, ContentId, Repo, RepoTree, Revision, encode_segment};
use wtfs_torrent::hf::Token;

use crate::hf::names;

mod shelf;

use shelf::{Limits, Shelf};

/// Longest name of a revision in a file's; longer ones are not kept.
const NAME_BYTES_MAX: usize = 240;

/// Commits that are kept; each is a file of some hundred bytes a file of the repository.
const COMMITS: Limits = Limits { files: 4096, bytes: 1 << 30 };

/// Names of revisions that are kept: branches of those commits, and former names of repositories.
const REFS: Limits = Limits { files: 16_384, bytes: 64 << 20 };

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

/// In whose name hubs are asked.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) token: Option<Token>,
    /// The addresses of the hubs.
    pub(super) endpoints: Vec<String>,
}

/// What a hub refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// There is no such revision.
    Revision,
    /// There is no such repository, or not for this asker.
    Repository,
}

/// See the module's documentation. Clones are the same archive.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    refs: Shelf,
    commits: Shelf,
    asker: Asker,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ref {
    repo: String,
    revision: String,
    canonical: String,
    commit: String,
    /// Whose it is, unless it is everybody's.
    right: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Snapshot<'a> {
    repo: &'a str,
    modified: Option<i64>,
    /// As a [`Ref`]'s.
    right: Option<String>,
    #[serde(borrow)]
    tree: &'a RawValue,
}

impl Asker {
    /// What stands for the right that a hub gave him, if he asked there.
    fn right(&self, endpoint: &str, repo: &Repo) -> String {
        let token = self.token.as_ref().map(Token::fingerprint);
        let mut hash = Sha256::new();
        // None of these texts holds a zero.
        for part in ["wtfs names", endpoint, &repo.to_string()] {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(token.as_ref().map_or(&[][..], |fingerprint| fingerprint));
        ContentId::Sha256(hash.finalize().into()).to_string()
    }

    fn may_see(&self, repo: &Repo, right: Option<&str>) -> bool {
        right.is_none_or(|right| self.endpoints.iter().any(|endpoint| self.right(endpoint, repo) == right))
    }
}

impl Archive {
    pub(super) fn open(dir: &Path, asker: Asker) -> Self {
        let refs = Shelf::new(dir.join("refs"), REFS);
        let commits = Shelf::new(dir.join("commits"), COMMITS);
        Self { shared: Arc::new(Shared { refs, commits, asker }) }
    }

    /// What was asked for before, as far as it is listed. Blocks on the disk.
    pub(super) fn remembered(&self) -> Vec<(Repo, Revision)> {
        self.shared.remembered()
    }

    /// What `revision` was when it was last asked about.
    pub(super) async fn find(&self, repo: Repo, revision: Revision) -> Option<Kept> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.read(&repo, &revision)).await.ok().flatten()
    }

    /// Keeps what the hub at `endpoint` says that a commit holds. What cannot be written is told in the log, and asked
    /// about again next time.
    pub(super) async fn keep_commit(&self, kept: Kept, endpoint: String) {
        let shared = Arc::clone(&self.shared);
        tell(tokio::task::spawn_blocking(move || shared.write_commit(&kept, &endpoint)).await);
    }

    /// Keeps what the hub at `endpoint` says that `revision` is; the commit is to be kept before. As
    /// [`Self::keep_commit`].
    pub(super) async fn keep_ref(&self, repo: Repo, revision: Revision, kept: Kept, endpoint: String) {
        let shared = Arc::clone(&self.shared);
        let written =
            tokio::task::spawn_blocking(move || shared.write_ref(&repo, &revision, &kept, &endpoint)).await;
        tell(written);
    }

    /// A hub says that what was found is not there, or not for the asker.
    pub(super) async fn forget(&self, repo: Repo, revision: Revision, refused: Refused) {
        let shared = Arc::clone(&self.shared);
        let forgotten = tokio::task::spawn_blocking(move || shared.forget(&repo, &revision, refused)).await;
        debug_assert!(forgotten.is_ok(), "nothing in it panics");
    }
}

impl Shared {
    fn remembered(&self) -> Vec<(Repo, Revision)> {
        let mut found = Vec::new();
        for place in self.refs.places() {
            if found.len() >= REMEMBERED_MAX {
                break;
            }
            let Some(known) = self.read_ref(&place) else { continue };
            let parsed = Repo::parse(&known.repo).ok().zip(Revision::parse(&known.revision).ok());
            // What it stood for may have made room for others.
            let is_kept =
                || known.parts().is_some_and(|(repo, commit)| self.commit_place(&repo, commit).exists());
            found.extend(parsed.filter(|(_, revision)| revision.commit().is_none() && is_kept()));
        }
        found.sort();
        found
    }

    fn read(&self, repo: &Repo, revision: &Revision) -> Option<Kept> {
        if let Some(commit) = revision.commit()
            && let Some(kept) = self.read_commit(repo, commit)
        {
            return Some(kept);
        }
        let place = self.ref_place(repo, revision)?;
        let known = self.read_ref(&place)?;
        let is_it = known.repo == repo.to_string() && known.revision == revision.as_str();
        let (canonical, commit) = known.parts().filter(|_| is_it)?;
        let kept = self.read_commit(&canonical, commit)?;
        self.refs.touch(&place);
        Some(kept)
    }

    fn read_commit(&self, repo: &Repo, commit: Commit) -> Option<Kept> {
        let place = self.commit_place(repo, commit);
        let text = self.commits.read(&place)?;
        let read = serde_json::from_slice::<Snapshot<'_>>(&text).map_err(|error| error.to_string());
        let read = read.and_then(|snapshot| {
            let tree =
                RepoTree::from_json(snapshot.tree.get().as_bytes()).map_err(|error| error.to_string())?;
            let is_it = snapshot.repo == repo.to_string() && tree.commit == commit;
            if is_it { Ok((snapshot, tree)) } else { Err("it is of something else".into()) }
        });
        match read {
            Ok((snapshot, tree)) => {
                if !self.asker.may_see(repo, snapshot.right.as_deref()) {
                    return None;
                }
                self.commits.touch(&place);
                let (modified, is_public) = (snapshot.modified, snapshot.right.is_none());
                Some(Kept { repo: repo.clone(), modified, is_public, tree: Arc::new(tree) })
            }
            Err(why) => {
                self.commits.discard(&place, &why);
                None
            }
        }
    }

    /// A ref that the asker may see.
    fn read_ref(&self, place: &Path) -> Option<Ref> {
        let text = self.refs.read(place)?;
        let known: Ref = match serde_json::from_slice(&text) {
            Ok(known) => known,
            Err(error) => {
                self.refs.discard(place, &error);
                return None;
            }
        };
        let (canonical, _) = known.parts()?;
        self.asker.may_see(&canonical, known.right.as_deref()).then_some(known)
    }

    fn write_commit(&self, kept: &Kept, endpoint: &str) -> io::Result<()> {
        let tree = RawValue::from_string(kept.tree.to_json())?;
        let (name, modified, right) = (kept.repo.to_string(), kept.modified, self.right(kept, endpoint));
        let snapshot = Snapshot { repo: &name, modified, right, tree: &tree };
        let place = self.commit_place(&kept.repo, kept.tree.commit);
        self.commits.write(&place, &serde_json::to_vec(&snapshot)?)
    }

    fn write_ref(&self, repo: &Repo, revision: &Revision, kept: &Kept, endpoint: &str) -> io::Result<()> {
        let Some(place) = self.ref_place(repo, revision) else { return Ok(()) };
        let known = Ref {
            repo: repo.to_string(),
            revision: revision.to_string(),
            canonical: kept.repo.to_string(),
            commit: kept.tree.commit.to_string(),
            right: self.right(kept, endpoint),
        };
        let is_same = self.read_ref(&place).is_some_and(|before| before == known);
        if is_same { Ok(()) } else { self.refs.write(&place, &serde_json::to_vec(&known)?) }
    }

    fn right(&self, kept: &Kept, endpoint: &str) -> Option<String> {
        (!kept.is_public).then(|| self.asker.right(endpoint, &kept.repo))
    }

    fn forget(&self, repo: &Repo, revision: &Revision, refused: Refused) {
        let place = self.ref_place(repo, revision);
        let known = place.as_ref().and_then(|place| self.read_ref(place));
        let gone = match refused {
            Refused::Revision => {
                let commit = revision.commit().map(|commit| self.commit_place(repo, commit));
                place.into_iter().chain(commit).try_for_each(absent_is_fine)
            }
            Refused::Repository => {
                let canonical = known.and_then(|known| known.parts()).map(|(canonical, _)| canonical);
                [Some(repo.clone()), canonical].into_iter().flatten().try_for_each(|repo| {
                    self.refs.forget(&names::folder(&repo))?;
                    self.commits.forget(&names::folder(&repo))
                })
            }
        };
        if let Err(error) = gone {
            tracing::warn!(%repo, %error, "what was kept of what a hub refuses now cannot be taken away");
        }
    }

    fn commit_place(&self, repo: &Repo, commit: Commit) -> PathBuf {
        self.commits.place(&names::folder(repo), &commit.to_string())
    }

    fn ref_place(&self, repo: &Repo, revision: &Revision) -> Option<PathBuf> {
        let name = encode_segment(revision.as_str());
        (name.len() <= NAME_BYTES_MAX).then(|| self.refs.place(&names::folder(repo), &name))
    }
}

impl Ref {
    /// What it stands for.
    fn parts(&self) -> Option<(Repo, Commit)> {
        Some((Repo::parse(&self.canonical).ok()?, self.commit.parse().ok()?))
    }
}

/// What could not be kept is asked about again.
fn tell(written: Result<io::Result<()>, tokio::task::JoinError>) {
    if let Ok(Err(error)) = written {
        tracing::warn!(%error, "what a hub said is not kept for a time without network");
    }
}

fn absent_is_fine(path: PathBuf) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wtfs_proto::hf::TreePages;

    use super::*;

    const HUB: &str = "http://hub";
    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    fn kept(repo: &str, commit: &str) -> Kept {
        let mut pages = TreePages::default();
        let page = format!(r#"[{{"type":"file","path":"a b/c.bin","oid":"{commit}","size":7}}]"#);
        pages.push(page.as_bytes()).expect("a page");
        let tree = Arc::new(pages.finish(commit.parse().expect("a commit")));
        Kept { repo: Repo::parse(repo).expect("a repository"), modified: Some(1), is_public: true, tree }
    }

    /// As the process of somebody opens it.
    fn opened(dir: &Path, token: Option<&str>, endpoints: &[&str]) -> Archive {
        let token = token.map(|token| Token::parse(token).expect("a token"));
        let endpoints = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
        Archive::open(dir, Asker { token, endpoints })
    }

    fn keep(archive: &Archive, repo: &Repo, revision: &Revision, kept: &Kept) {
        archive.shared.write_commit(kept, HUB).expect("written");
        archive.shared.write_ref(repo, revision, kept, HUB).expect("written");
    }

    #[tokio::test]
    async fn what_was_answered_is_there_for_another_process() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = opened(dir.path(), None, &[HUB]);
        let (asked, branch) = (Repo::parse("gpt2").unwrap(), Revision::parse("refs/pr/1").unwrap());
        assert!(archive.find(asked.clone(), branch.clone()).await.is_none());
        for commit in [ONE, TWO] {
            let kept = kept("openai-community/gpt2", commit);
            archive.keep_commit(kept.clone(), HUB.into()).await;
            archive.keep_ref(asked.clone(), branch.clone(), kept, HUB.into()).await;
        }
        // Also for another person with another hub.
        let again = opened(dir.path(), Some("hf_other"), &["http://elsewhere"]);
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

    #[test]
    fn what_is_not_for_everybody_is_there_only_for_who_was_let_in_where_he_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let (repo, main) = (Repo::parse("org/secret").unwrap(), Revision::main());
        let by_commit: Revision = Revision::parse(ONE).unwrap();
        let closed = Kept { is_public: false, ..kept("org/secret", ONE) };
        let alice = opened(dir.path(), Some("hf_alice"), &["http://other", HUB]);
        keep(&alice, &repo, &main, &closed);
        for (token, endpoint, is_shown) in [
            (Some("hf_alice"), HUB, true),
            (Some("hf_alice"), "http://other", false),
            (Some("hf_bob"), HUB, false),
            (None, HUB, false),
        ] {
            let archive = opened(dir.path(), token, &[endpoint]);
            for revision in [&main, &by_commit] {
                let found = archive.shared.read(&repo, revision);
                assert_eq!(found.is_some(), is_shown, "{token:?} {endpoint} {revision}");
                assert!(found.is_none_or(|found| !found.is_public));
            }
            assert_eq!(archive.remembered().len(), usize::from(is_shown), "{token:?} {endpoint}");
        }
        // Where it is everybody's from then on, it is; and the other way round.
        let nobody = opened(dir.path(), None, &[HUB]);
        keep(&alice, &repo, &main, &kept("org/secret", ONE));
        assert!(nobody.shared.read(&repo, &main).expect("kept").is_public);
        keep(&alice, &repo, &main, &closed);
        assert!(nobody.shared.read(&repo, &main).is_none() && nobody.remembered().is_empty());
        // Whose token was asked with last may see it.
        let bob = opened(dir.path(), Some("hf_bob"), &[HUB]);
        keep(&bob, &repo, &main, &closed);
        assert!(bob.shared.read(&repo, &main).is_some() && alice.shared.read(&repo, &main).is_none());
    }

    #[test]
    fn what_a_hub_refuses_is_not_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = opened(dir.path(), None, &[HUB]);
        let [former, repo, other] = ["gpt2", "org/repo", "org/other"].map(|name| Repo::parse(name).unwrap());
        let (main, branch) = (Revision::main(), Revision::parse("dev").unwrap());
        for revision in [&main, &branch] {
            keep(&archive, &former, revision, &kept("org/repo", ONE));
            keep(&archive, &repo, revision, &kept("org/repo", ONE));
            keep(&archive, &other, revision, &kept("org/other", TWO));
        }
        archive.shared.forget(&repo, &branch, Refused::Revision);
        assert!(archive.shared.read(&repo, &branch).is_none() && archive.shared.read(&repo, &main).is_some());
        archive.shared.forget(&former, &main, Refused::Repository);
        for revision in [&main, &branch, &Revision::parse(ONE).unwrap()] {
            assert!(archive.shared.read(&repo, revision).is_none(), "{revision}");
            assert!(archive.shared.read(&former, revision).is_none(), "{revision}");
        }
        assert_eq!(archive.remembered(), [(other.clone(), branch), (other, main)]);
    }

    #[test]
    fn a_torn_or_foreign_file_is_as_if_it_were_not_there_and_is_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = opened(dir.path(), None, &[HUB]);
        let (repo, main) = (Repo::parse("org/repo").unwrap(), Revision::main());
        let commit = archive.shared.commit_place(&repo, ONE.parse().unwrap());
        let name = archive.shared.ref_place(&repo, &main).expect("short");
        for place in [&commit, &name] {
            keep(&archive, &repo, &main, &kept("org/repo", ONE));
            let whole = fs::read(place).expect("written");
            for length in [0, 1, whole.len() / 2, whole.len() - 1] {
                fs::write(place, &whole[..length]).expect("torn");
                assert!(archive.shared.read(&repo, &main).is_none(), "{length}");
                keep(&archive, &repo, &main, &kept("org/repo", ONE));
                assert!(archive.shared.read(&repo, &main).is_some());
            }
        }
        // Whole, but not what its name says.
        let other = archive.shared.commit_place(&repo, TWO.parse().unwrap());
        fs::copy(&commit, &other).expect("copied");
        assert!(archive.shared.read(&repo, &Revision::parse(TWO).unwrap()).is_none() && !other.exists());
        archive.shared.commits.write(&other, b"no JSON").expect("written");
        assert!(archive.shared.read(&repo, &Revision::parse(TWO).unwrap()).is_none() && !other.exists());
    }
}
