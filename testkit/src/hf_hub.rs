//! huggingface.co as its clients see it, on two loopback origins: the hub (API, `/resolve/`) and the CDN that signed URLs
//! of large files lead to. With the traps of the real one, faults, and a log of what was asked.
//!
//! Faithful on purpose: git files are redirected (307, relative, with a query) to `/api/resolve-cache/…`, files in LFS
//! (302) to an expiring URL of the other origin, which answers 400 to Authorization and has an ETag that is no hash of
//! the content; X-Linked-* stand on the hub's answers alone; text is compressed for who asks, then has no length, and from
//! the CDN no ranges; repositories that are private are hidden (401 without a token, 404 with one); listings are paged by an
//! absolute Link. Left out: HTTP/2, TLS, git, uploads, a working Xet store (it is advertised only), several ranges.
//!
//! It owns what it serves and the two listeners, which end when it is dropped. Runs on threads of its own: usable from
//! plain tests and from those of a runtime.

mod admin;
mod answer;
mod api;
mod body;
mod builder;
mod content;
mod directory;
mod fault;
mod files;
mod listing;
mod log;
mod repo;
mod route;
mod serve;
mod signed;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use self::{
    builder::HfHubBuilder,
    content::Content,
    fault::{Fault, FaultKind, Side},
    log::{Log, Request},
    repo::{Access, RepoKind},
};
use self::{
    builder::Settings,
    repo::{Entry, Repo},
    serve::Serving,
};

/// What both origins share.
#[derive(Debug)]
struct State {
    settings: Settings,
    hub: SocketAddr,
    cdn: SocketAddr,
    repos: Mutex<Vec<Repo>>,
    /// Token and name.
    accounts: Mutex<Vec<(String, String)>>,
    faults: Arc<Mutex<Vec<Fault>>>,
    log: Mutex<Vec<Request>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running emulator. Dropping it closes both origins and all their connections.
#[derive(Debug)]
pub struct HfHub {
    state: Arc<State>,
    serving: Option<Serving>,
}

impl HfHub {
    /// Begins to describe what it holds.
    pub fn builder() -> HfHubBuilder {
        HfHubBuilder::new()
    }

    /// Serves a directory: `models/org/name/…`, `datasets/…`, `spaces/…`. `name@rev` beside `name` is a branch of it.
    ///
    /// # Panics
    /// When the directory cannot be read, or no port is free.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        Self::builder().directory(dir).start()
    }

    fn launch(state: State) -> Self {
        let state = Arc::new(state);
        let serving = Serving::start(&state);
        Self { state, serving: Some(serving) }
    }

    /// The hub's origin, as in HF_ENDPOINT: `http://127.1.2.3:4567`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.state.hub)
    }

    /// The CDN's origin.
    #[must_use]
    pub fn cdn(&self) -> String {
        format!("http://{}", self.state.cdn)
    }

    /// Where the hub listens.
    #[must_use]
    pub fn hub_addr(&self) -> SocketAddr {
        self.state.hub
    }

    /// Where the CDN listens.
    #[must_use]
    pub fn cdn_addr(&self) -> SocketAddr {
        self.state.cdn
    }

    /// What was asked so far.
    #[must_use]
    pub fn log(&self) -> Log {
        Log(lock(&self.state.log).clone())
    }

    /// Forgets what was asked so far.
    pub fn clear_log(&self) {
        lock(&self.state.log).clear();
    }

    /// Adds a fault, after those that are there.
    pub fn fault(&self, fault: Fault) {
        lock(&self.state.faults).push(fault);
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        lock(&self.state.faults).clear();
    }

    /// The list of the faults itself, for a test that watches them.
    #[must_use]
    pub fn faults(&self) -> Arc<Mutex<Vec<Fault>>> {
        Arc::clone(&self.state.faults)
    }

    /// The commit that a revision of a repository means, 40 hex digits.
    ///
    /// # Panics
    /// When there is no such repository or revision.
    #[must_use]
    #[track_caller]
    pub fn commit_of(&self, kind: RepoKind, id: &str, revision: &str) -> String {
        let mut sha = None;
        self.with_repo(kind, id, |repo| sha = repo.resolve(revision).map(|commit| commit.sha.clone()));
        sha.unwrap_or_else(|| panic!("{id} has no revision {revision}"))
    }

    /// Points a branch at a commit of the repository, which may be an earlier one.
    ///
    /// # Panics
    /// When there is no such repository or commit.
    #[track_caller]
    pub fn set_ref(&self, kind: RepoKind, id: &str, branch: &str, commit: &str) {
        self.with_repo(kind, id, |repo| {
            assert!(repo.commits.contains_key(commit), "{id} has no commit {commit}");
            repo.refs.insert(format!("refs/heads/{branch}"), commit.to_owned());
        });
    }

    /// Adds a commit to a branch that sets these files, and gives its id.
    ///
    /// # Panics
    /// When there is no such repository or branch.
    #[track_caller]
    pub fn push<C: Into<Content>>(
        &self,
        kind: RepoKind,
        id: &str,
        branch: &str,
        files: impl IntoIterator<Item = (String, C)>,
    ) -> String {
        let files: Vec<_> = files
            .into_iter()
            .map(|(path, content)| {
                let entry = Arc::new(Entry::new(&path, content.into()));
                (path, entry)
            })
            .collect();
        let mut made = None;
        self.with_repo(kind, id, |repo| {
            let parent = repo.resolve(branch).unwrap_or_else(|| panic!("{id} has no branch {branch}"));
            let (parent, mut tree) = (parent.sha.clone(), parent.files.clone());
            tree.extend(files);
            let sha = repo.add_commit(Some(parent), "Change files", tree);
            repo.refs.insert(format!("refs/heads/{branch}"), sha.clone());
            made = Some(sha);
        });
        made.expect("the repository was found")
    }

    /// Changes who may read a repository, from the next request on.
    ///
    /// # Panics
    /// When there is no such repository.
    #[track_caller]
    pub fn set_access(&self, kind: RepoKind, id: &str, access: Access) {
        self.with_repo(kind, id, |repo| repo.access = access);
    }

    /// Lets a token read a gated or private repository.
    ///
    /// # Panics
    /// When there is no such repository.
    #[track_caller]
    pub fn grant(&self, kind: RepoKind, id: &str, token: &str) {
        self.with_repo(kind, id, |repo| {
            repo.granted.insert(token.to_owned());
        });
    }

    /// Takes back what [`HfHub::grant`] gave.
    ///
    /// # Panics
    /// When there is no such repository.
    #[track_caller]
    pub fn revoke(&self, kind: RepoKind, id: &str, token: &str) {
        self.with_repo(kind, id, |repo| {
            repo.granted.remove(token);
        });
    }

    /// Makes a token known to nobody any more: every request with it is answered 401.
    pub fn retire_token(&self, token: &str) {
        lock(&self.state.accounts).retain(|(known, _)| known != token);
    }

    /// Closes both origins and all their connections: upstream is down.
    pub fn stop(&mut self) {
        self.serving = None;
    }

    /// Opens both origins again, at the same addresses.
    ///
    /// # Panics
    /// When somebody else has taken one of the addresses.
    pub fn restart(&mut self) {
        self.stop();
        self.serving = Some(Serving::start(&self.state));
    }

    #[track_caller]
    fn with_repo(&self, kind: RepoKind, id: &str, change: impl FnOnce(&mut Repo)) {
        let mut repos = lock(&self.state.repos);
        let repo = repos.iter_mut().find(|repo| repo.kind == kind && repo.id == id);
        change(repo.unwrap_or_else(|| panic!("there is no {}{id}", kind.prefix())));
    }
}

#[cfg(test)]
mod tests;
