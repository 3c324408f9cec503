//! What is known of repositories: which commit a branch means, what upstream tells of a commit, and its tree.
//!
//! A commit never changes, so what is known of one is kept for good, in memory and in `hf/repos` of the cache directory; a
//! branch or tag is believed for a while, and longer only while upstream cannot be asked. Who may see it is not decided
//! here: see [`rights`](super::rights). Whatever is on the disk was fetched and can be fetched again: a file that cannot
//! be read is one that is not there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wtfs_proto::hf::{Commit, Repo, RepoInfo, RepoTree, Revision};

use super::recent::Recent;

mod shelf;

use shelf::{RefRecord, RefsRecord, Shelf};

/// Names of revisions remembered.
const REFS_MAX: usize = 16_384;

/// Entries of trees and infos in memory, one weighing about 300 bytes.
const TREE_ENTRIES_MAX: usize = 400_000;

/// What is known of a revision's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ref {
    /// The repository as upstream has it now.
    pub(crate) repo: Repo,
    pub(crate) commit: Commit,
    /// What was open to everybody when it was asked for.
    pub(crate) openness: Openness,
    /// Whether that may still be believed.
    pub(crate) age: Age,
}

/// How open a repository is, as upstream told last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Openness {
    /// All may read all.
    Open,
    /// All may see what there is, and only some its content.
    Gated,
    /// Only some may see it. Of these, perhaps only some its content.
    Private {
        is_gated: bool,
    },
    Disabled,
}

/// Whether something may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Age {
    Fresh,
    /// Only while upstream cannot be asked.
    Stale,
}

/// What a look finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Ref(Ref),
    /// Upstream said a moment ago that there is no such revision.
    Missing,
    Nothing,
}

#[derive(Debug, Clone)]
struct Noted {
    /// `None` is: there is none.
    record: Option<RefRecord>,
    /// `None` for what is known from an earlier run.
    at: Option<Instant>,
}

#[derive(Debug)]
struct State {
    refs: Recent<(Repo, Revision), Noted>,
    /// Repositories whose records were read from the disk, and how open they are.
    repos: Recent<Repo, Option<Arc<RefsRecord>>>,
    infos: Recent<(Repo, Commit), Arc<RepoInfo>>,
    trees: Recent<(Repo, Commit), Arc<RepoTree>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Repos {
    state: Mutex<State>,
    shelf: Arc<Shelf>,
    ref_ttl: Duration,
    missing_ttl: Duration,
}

impl Repos {
    /// Touches no disk yet.
    pub(crate) fn new(dir: std::path::PathBuf, ref_ttl: Duration, missing_ttl: Duration) -> Self {
        let state = State {
            refs: Recent::new(REFS_MAX),
            repos: Recent::new(REFS_MAX),
            infos: Recent::new(TREE_ENTRIES_MAX),
            trees: Recent::new(TREE_ENTRIES_MAX),
        };
        Self { state: Mutex::new(state), shelf: Arc::new(Shelf::new(dir)), ref_ttl, missing_ttl }
    }

    /// What is known of a revision of a repository, by the name it is asked by. Reads the disk when nothing is.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn find(&self, typed: &Repo, revision: &Revision, now: Instant) -> Found {
        let noted = self.lock().refs.find(&(typed.clone(), revision.clone())).cloned();
        let age = |at: Option<Instant>, ttl: Duration| match at {
            Some(at) if now.saturating_duration_since(at) < ttl => Age::Fresh,
            _ => Age::Stale,
        };
        let (record, age) = match noted {
            Some(Noted { record: Some(record), at }) => (record, age(at, self.ref_ttl)),
            Some(Noted { record: None, at }) if age(at, self.missing_ttl) == Age::Fresh => {
                return Found::Missing;
            }
            _ => {
                let Some(recorded) = self.recorded(typed).await else { return Found::Nothing };
                match (recorded.refs.get(revision.as_str()), revision.commit()) {
                    (Some(record), _) => (record.clone(), Age::Stale),
                    // Known by another name of it.
                    (None, Some(commit)) => (RefRecord { commit, ..recorded.latest.clone() }, Age::Stale),
                    (None, None) => return Found::Nothing,
                }
            }
        };
        let Some(repo) = record.repo(typed.kind) else { return Found::Nothing };
        // What a commit means does not age.
        let age = if revision.commit().is_some() { Age::Fresh } else { age };
        Found::Ref(Ref { repo, commit: record.commit, openness: record.openness, age })
    }

    /// How open a repository is, as upstream told last.
    pub(crate) fn openness(&self, typed: &Repo) -> Option<Openness> {
        self.lock().repos.find(typed)?.as_ref().map(|record| record.latest.openness)
    }

    /// The repository as upstream has it now, as far as it is known by this name.
    pub(crate) fn canonical(&self, typed: &Repo) -> Repo {
        let mut state = self.lock();
        let known = state.repos.find(typed).and_then(|record| record.as_ref()?.latest.repo(typed.kind));
        known.unwrap_or_else(|| typed.clone())
    }

    async fn recorded(&self, typed: &Repo) -> Option<Arc<RefsRecord>> {
        if let Some(recorded) = self.lock().repos.find(typed) {
            return recorded.clone();
        }
        let (shelf, repo) = (self.shelf.clone(), typed.clone());
        let read = tokio::task::spawn_blocking(move || shelf.refs(&repo)).await.ok().flatten().map(Arc::new);
        let mut state = self.lock();
        if state.repos.find(typed).is_none() {
            state.repos.put(typed.clone(), read.clone(), 1);
        }
        read
    }

    /// Notes what upstream told of a revision, by the name it was asked by. Writes it down.
    ///
    /// # Cancel safety
    /// Cancel safe: it may not be written down.
    pub(crate) async fn note(
        &self,
        typed: &Repo,
        revision: &Revision,
        info: Arc<RepoInfo>,
        openness: Openness,
        now: Instant,
    ) {
        let record = RefRecord { id: info.id.clone(), commit: info.commit, openness };
        let canonical = Repo { kind: typed.kind, id: info.id.clone() };
        let mut repos = vec![typed.clone()];
        if canonical != *typed {
            repos.push(canonical.clone());
        }
        let mut known = Vec::new();
        for repo in repos {
            known.push((self.recorded(&repo).await, repo));
        }
        let mut records = Vec::new();
        let is_news;
        {
            let mut state = self.lock();
            let weight = 1 + info.json.get("siblings").and_then(|list| list.as_array()).map_or(0, Vec::len);
            let key = (canonical.clone(), info.commit);
            is_news = state.infos.find(&key).is_none_or(|known| *known != info);
            state.infos.put(key, info.clone(), weight);
            for (known, repo) in known {
                let noted = Noted { record: Some(record.clone()), at: Some(now) };
                state.refs.put((repo.clone(), revision.clone()), noted, 1);
                // Another note may have come in between.
                let known = state.repos.find(&repo).cloned().flatten().or(known);
                if known.as_ref().is_some_and(|known| known.says(revision, &record)) {
                    continue;
                }
                let known = known.map(Arc::unwrap_or_clone);
                let mut refs = known.unwrap_or_else(|| RefsRecord::new(record.clone()));
                refs.add(revision, record.clone());
                let refs = Arc::new(refs);
                state.repos.put(repo.clone(), Some(refs.clone()), 1);
                records.push((repo, refs));
            }
        }
        if !is_news && records.is_empty() {
            return;
        }
        let shelf = self.shelf.clone();
        let written = tokio::task::spawn_blocking(move || {
            if is_news {
                shelf.keep_info(&canonical, &info);
            }
            for (repo, refs) in records {
                shelf.keep_refs(&repo, &refs);
            }
        });
        if let Err(error) = written.await {
            tracing::warn!(%error, "what is known of a repository was not written down");
        }
    }

    /// Notes that upstream knows no such revision.
    pub(crate) fn note_missing(&self, typed: &Repo, revision: &Revision, now: Instant) {
        let noted = Noted { record: None, at: Some(now) };
        self.lock().refs.put((typed.clone(), revision.clone()), noted, 1);
    }

    /// What upstream told of a commit.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn info(&self, repo: &Repo, commit: Commit) -> Option<Arc<RepoInfo>> {
        let key = (repo.clone(), commit);
        if let Some(info) = self.lock().infos.find(&key) {
            return Some(info.clone());
        }
        let (shelf, repo) = (self.shelf.clone(), repo.clone());
        let read = tokio::task::spawn_blocking(move || shelf.info(&repo, commit)).await.ok().flatten()?;
        let info = Arc::new(read);
        let weight = 1 + info.json.get("siblings").and_then(|list| list.as_array()).map_or(0, Vec::len);
        self.lock().infos.put(key, info.clone(), weight);
        Some(info)
    }

    /// The tree of a commit.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn tree(&self, repo: &Repo, commit: Commit) -> Option<Arc<RepoTree>> {
        let key = (repo.clone(), commit);
        if let Some(tree) = self.lock().trees.find(&key) {
            return Some(tree.clone());
        }
        let (shelf, repo) = (self.shelf.clone(), repo.clone());
        let read = tokio::task::spawn_blocking(move || shelf.tree(&repo, commit)).await.ok().flatten()?;
        let tree = Arc::new(read);
        self.keep_in_memory(key, &tree);
        Some(tree)
    }

    /// Keeps the tree of a commit.
    ///
    /// # Cancel safety
    /// Cancel safe: it may not be written down.
    pub(crate) async fn keep_tree(&self, repo: &Repo, tree: Arc<RepoTree>) {
        self.keep_in_memory((repo.clone(), tree.commit), &tree);
        let (shelf, repo) = (self.shelf.clone(), repo.clone());
        let written = tokio::task::spawn_blocking(move || shelf.keep_tree(&repo, &tree)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "a repository's tree was not written down");
        }
    }

    /// Answers of other kinds, kept by the repository and a name: what upstream says of its branches, say.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn answer(&self, repo: &Repo, name: &'static str) -> Option<Vec<u8>> {
        let (shelf, repo) = (self.shelf.clone(), repo.clone());
        tokio::task::spawn_blocking(move || shelf.answer(&repo, name)).await.ok().flatten()
    }

    /// Keeps such an answer.
    ///
    /// # Cancel safety
    /// Cancel safe: it may not be written down.
    pub(crate) async fn keep_answer(&self, repo: &Repo, name: &'static str, bytes: Vec<u8>) {
        let (shelf, repo) = (self.shelf.clone(), repo.clone());
        let written = tokio::task::spawn_blocking(move || shelf.keep_answer(&repo, name, &bytes)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "an answer was not written down");
        }
    }

    /// How many commits' trees are in memory.
    pub(crate) fn tree_count(&self) -> usize {
        self.lock().trees.len()
    }

    fn keep_in_memory(&self, key: (Repo, Commit), tree: &Arc<RepoTree>) {
        let weight = 1 + tree.files().len() + tree.directories().len();
        self.lock().trees.put(key, tree.clone(), weight);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
