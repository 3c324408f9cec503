//! Repositories of real hubs as what the tree asks for: what they hold from the hub's API, bytes from the engine's blobs.
//!
//! Several hubs may be given, our own before the origin: each question goes to the first that answers. What was answered
//! is kept on disk, so that a mount without a network shows what it showed before; what a hub refuses is kept no longer. A
//! commit that anybody may read is asked about once and never again; where nobody can be reached, only the first who asks
//! waits for the time-outs. A token is handed to the client and the archive, and nothing here writes one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use wtfs_proto::hf::{Commit, ContentId, ErrorCode, Repo, RepoInfo, Revision, TreeFile};
use wtfs_torrent::Session;
use wtfs_torrent::hf::blobs::{Blob, Blobs, Pinned};
use wtfs_torrent::hf::{Token, Upstream, UpstreamError};

use crate::catalog::modified_from;
use crate::content::{BoxFuture, Content};
use crate::errno::{Cause, FsError};
use crate::hf::archive::{Archive, Asker, Kept, Refused};
use crate::hf::away::Away;
use crate::hf::bytes::RepoFile;
use crate::hf::dates;
use crate::hf::origins::{Hub, Origins};
use crate::hf::source::{Local, RepoError, RepoRevision, RepoSource};
use crate::hf::swarm::{Brought, SwarmConfig, Swarms};

/// Where something is known from before, hubs have so long to say what it is now.
const STALE_AFTER: Duration = Duration::from_secs(5);

/// Whether hubs may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// They may.
    Online,
    /// What is known is all there is.
    Offline,
}

/// Where repositories come from.
#[derive(Debug, Clone)]
pub struct RepositoriesConfig {
    /// Whom to ask, in this order.
    pub hubs: Vec<Upstream>,
    /// In whose name.
    pub token: Option<Token>,
    /// Whether to ask at all.
    pub reach: Reach,
    /// Where what was learnt is kept.
    pub dir: std::path::PathBuf,
    /// Whose torrents of files are joined.
    pub swarms: Option<SwarmConfig>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Repositories {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: RepositoriesConfig,
    archive: Archive,
    blobs: Blobs,
    swarms: Option<Arc<Swarms>>,
    /// Of blobs that were thrown away because they were not what their hash says: how often, when they were last opened.
    replaced: Mutex<HashMap<ContentId, u32>>,
    /// Nobody answered.
    away: Mutex<Away>,
    /// Nobody gave an answer of use, so that what is known is shown as it was.
    useless: Mutex<Away>,
    /// Bytes that each hub was asked for by itself and gave.
    gave: Vec<Arc<AtomicU64>>,
}

/// Bytes of files by who gave them, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Traffic {
    /// Peers in the swarms of files; a hub is one of them too.
    pub peers: u64,
    /// Our own hub over HTTP, in swarms too.
    pub hub: u64,
    /// Where the repositories come from.
    pub origin: u64,
}

impl Repositories {
    /// Over the session's blobs; its tasks run on `runtime`.
    pub fn open(config: RepositoriesConfig, session: &Session, runtime: Handle) -> Self {
        let endpoints = config.hubs.iter().map(|hub| hub.endpoint().to_owned()).collect();
        let archive = Archive::open(&config.dir, Asker { token: config.token.clone(), endpoints });
        let swarms = config.swarms.clone().filter(|_| config.reach == Reach::Online);
        let swarms = swarms.map(|swarms| Arc::new(Swarms::new(session.clone(), swarms, runtime)));
        let blobs = session.blobs().clone();
        let (replaced, away, useless) = (Mutex::default(), Mutex::default(), Mutex::default());
        let gave = config.hubs.iter().map(|_| Arc::default()).collect();
        Self { shared: Arc::new(Shared { config, archive, blobs, swarms, replaced, away, useless, gave }) }
    }

    /// What came from whom. Never waits.
    pub fn traffic(&self) -> Traffic {
        let shared = &self.shared;
        let Brought { peers, hub } =
            shared.swarms.as_ref().map(|swarms| swarms.brought()).unwrap_or_default();
        let mut traffic = Traffic { peers, hub, origin: 0 };
        for (at, gave) in shared.gave.iter().enumerate() {
            // The first is ours where there is one: it is who makes torrents.
            let is_ours = at == 0 && shared.config.swarms.is_some();
            *(if is_ours { &mut traffic.hub } else { &mut traffic.origin }) += gave.load(Ordering::Relaxed);
        }
        traffic
    }

    /// Pins files, or takes that back: what is pinned stays once it is here, whatever the cache's size says.
    ///
    /// # Errors
    /// When it cannot be saved; then all is as it was.
    ///
    /// # Cancel safety
    /// Dropped, they may or may not be pinned.
    pub async fn set_pinned(&self, files: &[TreeFile], pinned: Pinned) -> Result<(), FsError> {
        let ids: Vec<ContentId> = files.iter().map(|file| file.id).collect();
        let blobs = self.shared.blobs.clone();
        let set = tokio::task::spawn_blocking(move || blobs.set_pinned(&ids, pinned)).await;
        match set {
            Ok(set) => set.map_err(|error| FsError::Io(Arc::new(error))),
            Err(lost) => Err(FsError::Io(Arc::new(lost))),
        }
    }
}

/// An error in words for the person who mounts.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

fn told(text: String) -> Cause {
    Arc::new(Told(text))
}

impl Shared {
    async fn resolve(self: Arc<Self>, repo: Repo, revision: Revision) -> Result<RepoRevision, RepoError> {
        let known = self.read(repo.clone(), revision.clone()).await;
        // A right may be taken back, though a commit never changes.
        let is_settled = |kept: &&Kept| kept.is_public && revision.commit() == Some(kept.tree.commit);
        if let Some(kept) = known.as_ref().filter(is_settled) {
            return Ok(shown(kept.clone()));
        }
        if self.config.reach == Reach::Offline {
            return known.map(shown).ok_or_else(|| {
                let text =
                    format!("{repo}@{revision} was never looked at before; mount it once without --offline");
                RepoError::NoRepo(told(text))
            });
        }
        let away = self.away().left(Instant::now());
        let Some(known) = known else {
            if let Some(left) = away {
                let seconds = left.as_secs() + 1;
                let text =
                    format!("{repo}@{revision}: no hub could be reached; it is tried again in {seconds} s");
                return Err(RepoError::Unreachable(told(text)));
            }
            return self.ask_all(&repo, &revision).await.map(shown);
        };
        if away.or(self.useless().left(Instant::now())).is_some() {
            return Ok(shown(known));
        }
        let why = match tokio::time::timeout(STALE_AFTER, self.ask_all(&repo, &revision)).await {
            Ok(Err(RepoError::Unreachable(why) | RepoError::Garbage(why))) => why,
            Ok(asked) => {
                let refused = match &asked {
                    Err(RepoError::NoRevision(_)) => Some(Refused::Revision),
                    Err(_) => Some(Refused::Repository),
                    Ok(_) => None,
                };
                if let Some(refused) = refused {
                    self.archive.forget(repo, revision, refused).await;
                }
                return asked.map(shown);
            }
            Err(_) => told(format!("no hub answered within {} s", STALE_AFTER.as_secs())),
        };
        self.useless().note(Instant::now());
        tracing::warn!(%repo, %revision, commit = %known.tree.commit, "it is shown as it was before: {why}");
        Ok(shown(known))
    }

    fn away(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn useless(&self) -> MutexGuard<'_, Away> {
        self.useless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask_all(&self, repo: &Repo, revision: &Revision) -> Result<Kept, RepoError> {
        let (mut first, mut is_anybody_there) = (None, self.config.hubs.is_empty());
        for hub in &self.config.hubs {
            let asked = self.ask(hub, repo, revision).await;
            if !asked.as_ref().is_err_and(is_silent) {
                is_anybody_there = true;
                self.away().end();
            }
            match asked {
                Ok(kept) => return Ok(kept),
                Err(error) => {
                    let told = explain(hub, repo, revision, &error, self.config.token.as_ref());
                    if !is_passing(&error) {
                        return Err(told);
                    }
                    tracing::debug!(%repo, %revision, "{error}");
                    first.get_or_insert(told);
                }
            }
        }
        if !is_anybody_there {
            self.away().note(Instant::now());
        }
        let nobody = || RepoError::Unreachable(told(format!("{repo}: no hub is configured to ask")));
        Err(first.unwrap_or_else(nobody))
    }

    async fn ask(&self, hub: &Upstream, repo: &Repo, revision: &Revision) -> Result<Kept, UpstreamError> {
        let token = self.config.token.as_ref();
        let info = hub.info(repo, revision, token).await?;
        let canonical = Repo { kind: repo.kind, id: info.id.clone() };
        let endpoint = hub.endpoint().to_owned();
        let known = self.read(canonical.clone(), info.commit.into()).await;
        let kept = match known.filter(|known| known.is_public == info.is_public()) {
            Some(known) => known,
            None => {
                let tree = hub.tree(&canonical, info.commit, token).await?;
                if tree.refused() > 0 {
                    let refused = tree.refused();
                    tracing::warn!(%repo, refused, "entries whose names cannot be used do not show");
                }
                let kept = kept(canonical, &info, tree);
                self.archive.keep_commit(kept.clone(), endpoint.clone()).await;
                kept
            }
        };
        self.archive.keep_ref(repo.clone(), revision.clone(), kept.clone(), endpoint).await;
        Ok(kept)
    }

    /// What a revision is now, and nothing else of it; nothing is kept.
    async fn look(self: Arc<Self>, repo: Repo, revision: Revision) -> Option<Commit> {
        let away = self.away().left(Instant::now());
        if self.config.reach == Reach::Offline || away.or(self.useless().left(Instant::now())).is_some() {
            return None;
        }
        let token = self.config.token.as_ref();
        for hub in &self.config.hubs {
            match hub.info(&repo, &revision, token).await {
                Ok(info) => return Some(info.commit),
                Err(error) => tracing::debug!(%repo, %revision, "{error}"),
            }
        }
        None
    }

    async fn read(&self, repo: Repo, revision: Revision) -> Option<Kept> {
        self.archive.find(repo, revision).await
    }

    /// Notes the blob's generation, and says whether it is the one that was noted before.
    fn is_as_before(&self, blob: &Blob) -> bool {
        let generation = blob.generation();
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        if generation == 0 && !replaced.contains_key(&blob.id()) {
            return true;
        }
        replaced.insert(blob.id(), generation) == Some(generation)
    }

    fn blob(&self, file: &TreeFile) -> Blob {
        self.blobs.get(file.id, file.bytes)
    }
}

fn kept(repo: Repo, info: &RepoInfo, tree: wtfs_proto::hf::RepoTree) -> Kept {
    let modified = info.last_modified.as_deref().and_then(dates::seconds);
    Kept { repo, modified, is_public: info.is_public(), tree: Arc::new(tree) }
}

fn shown(kept: Kept) -> RepoRevision {
    RepoRevision {
        repo: kept.repo,
        commit: kept.tree.commit,
        modified: modified_from(kept.modified),
        is_public: kept.is_public,
        tree: kept.tree,
    }
}

/// Whether nobody answered.
fn is_silent(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Unreachable(_) | UpstreamError::Timeout { .. })
}

/// Whether another hub, or an earlier answer, may do instead.
fn is_passing(error: &UpstreamError) -> bool {
    error.is_transient() || matches!(error, UpstreamError::Garbage { .. } | UpstreamError::Refused { .. })
}

/// What went wrong, and what to do next.
fn explain(
    hub: &Upstream,
    repo: &Repo,
    revision: &Revision,
    error: &UpstreamError,
    token: Option<&Token>,
) -> RepoError {
    let mut text = format!("{repo}@{revision}: {error}");
    // Writing to a String does not fail.
    let _ = match error {
        UpstreamError::NotFound { code: ErrorCode::RevisionNotFound, .. } => {
            write!(text, "; name a branch, a tag or a whole commit behind the @")
        }
        UpstreamError::NotFound { .. } if token.is_none() => {
            write!(text, "; check the name, and set HF_TOKEN if the repository is private")
        }
        UpstreamError::NotFound { .. } => write!(text, "; check the name, and that the token may see it"),
        _ => write!(text, "{}", advice(hub.endpoint(), repo, error, token)),
    };
    let cause = told(text);
    match error {
        UpstreamError::NotFound { code: ErrorCode::RevisionNotFound, .. } => RepoError::NoRevision(cause),
        UpstreamError::NotFound { .. } => RepoError::NoRepo(cause),
        UpstreamError::Gated { .. }
        | UpstreamError::Disabled { .. }
        | UpstreamError::Unauthorized { .. }
        | UpstreamError::Forbidden { .. } => RepoError::Denied(cause),
        UpstreamError::Garbage { .. } | UpstreamError::TooLarge { .. } => RepoError::Garbage(cause),
        _ => RepoError::Unreachable(cause),
    }
}

/// What a person can do about an error of a hub; with its own semicolon, or nothing.
pub(super) fn advice(endpoint: &str, repo: &Repo, error: &UpstreamError, token: Option<&Token>) -> String {
    match error {
        UpstreamError::Gated { .. } if token.is_none() => {
            format!("; accept its licence at {endpoint}/{repo}, set HF_TOKEN and mount again")
        }
        UpstreamError::Gated { .. } => format!("; accept its licence at {endpoint}/{repo}"),
        UpstreamError::Unauthorized { .. } | UpstreamError::Forbidden { .. } if token.is_none() => {
            "; set HF_TOKEN and mount again".into()
        }
        UpstreamError::Unauthorized { .. } | UpstreamError::Forbidden { .. } => {
            "; set HF_TOKEN to a token that may read it and mount again".into()
        }
        UpstreamError::RateLimited { .. } if token.is_none() => {
            "; with HF_TOKEN set the limit is higher".into()
        }
        UpstreamError::Unreachable(_) | UpstreamError::Timeout { .. } => {
            format!("; check that {endpoint} can be reached, or name another hub with --hub or --hf-endpoint")
        }
        UpstreamError::Refused { host, why } if *why == UpstreamError::NOT_ALLOWED => {
            format!("; if you trust it, --allow-upstream-host {host} lets it be asked")
        }
        _ => String::new(),
    }
}

impl RepoSource for Repositories {
    fn resolve(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Result<RepoRevision, RepoError>> {
        Box::pin(Arc::clone(&self.shared).resolve(repo, revision))
    }

    fn look(&self, repo: Repo, revision: Revision) -> BoxFuture<'static, Option<Commit>> {
        Box::pin(Arc::clone(&self.shared).look(repo, revision))
    }

    fn is_pinned(&self, file: &TreeFile) -> bool {
        self.shared.blobs.is_pinned(&file.id)
    }

    fn remembered(&self) -> Vec<(Repo, Revision)> {
        self.shared.archive.remembered()
    }

    fn local(&self, file: &TreeFile) -> Local {
        if file.bytes == 0 {
            return Local { bytes: 0, is_verified: true };
        }
        let blob = self.shared.blob(file);
        let is_verified = blob.is_whole();
        let bytes = if is_verified { file.bytes } else { blob.present_bytes().min(file.bytes) };
        Local { bytes, is_verified }
    }

    fn local_ranges(&self, file: &TreeFile, limit: usize) -> Vec<Range<u64>> {
        let blob = self.shared.blob(file);
        if blob.is_whole() {
            return std::iter::once(0..file.bytes).collect();
        }
        let mut ranges = blob.present_ranges();
        ranges.truncate(limit);
        ranges
    }

    fn open(&self, revision: &RepoRevision, file: &TreeFile) -> Result<Arc<dyn Content>, FsError> {
        Ok(Arc::new(self.file(revision, file)))
    }
}

impl Repositories {
    /// A file, to be read or fetched. Nothing is asked yet.
    pub fn file(&self, revision: &RepoRevision, file: &TreeFile) -> RepoFile {
        let config = &self.shared.config;
        let hubs = match config.reach {
            Reach::Online => config.hubs.as_slice(),
            Reach::Offline => &[],
        };
        let origins = hubs.iter().zip(&self.shared.gave).map(|(hub, gave)| {
            let (repo, path, token) = (revision.repo.clone(), file.path.clone(), config.token.clone());
            let origin = Arc::new(hub.file(repo, revision.commit, path, file.bytes, token));
            Hub { origin, brought: Arc::clone(gave) }
        });
        let blob = self.shared.blob(file);
        let swarm = self.shared.swarms.as_ref().and_then(|swarms| swarms.of(revision, file, &blob));
        let is_as_before = self.shared.is_as_before(&blob);
        RepoFile {
            is_as_before,
            blob,
            origin: Arc::new(Origins::new(swarm, origins.collect())),
            label: format!("{}@{}/{}", revision.repo, revision.commit, file.path),
            repo: revision.repo.clone(),
            // The last is where people are sent: a hub of our own shows no licence.
            endpoint: config.hubs.last().map_or_else(String::new, |hub| hub.endpoint().to_owned()),
            token: config.token.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use wtfs_torrent::hf::UpstreamConfig;
    use wtfs_torrent::{ListenConfig, PortPolicy, SessionConfig};

    use super::*;

    #[tokio::test]
    async fn where_nobody_answers_who_looks_for_another_name_does_not_wait_for_that_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = SessionConfig::new(dir.path().to_owned());
        let addrs = vec![std::net::Ipv4Addr::LOCALHOST.into()];
        config.listen = ListenConfig { port: 0, port_policy: PortPolicy::Exact, addrs };
        let session = Session::open(config).await.expect("a session");
        let nobody = wtfs_testkit::net::refused_addr();
        let hub = Upstream::new(session.http().clone(), UpstreamConfig::at(format!("http://{nobody}")));
        let config = RepositoriesConfig {
            hubs: vec![hub.expect("an address")],
            token: None,
            reach: Reach::Online,
            dir: dir.path().join("names"),
            swarms: None,
        };
        let repositories = Repositories::open(config, &session, Handle::current());
        let refusal = async |name: &str| {
            let repo = Repo::parse(name).expect("a name");
            let refused = repositories.resolve(repo, Revision::main()).await.expect_err("nobody is there");
            assert!(matches!(refused, RepoError::Unreachable(_)), "{refused}");
            refused.to_string()
        };
        let first = refusal("org/one").await;
        assert!(first.contains("check that"), "{first}");
        let second = refusal("org/two").await;
        assert!(second.contains("org/two@main") && second.contains("tried again in"), "{second}");
        // Until somebody is there.
        repositories.shared.away().end();
        assert_eq!(refusal("org/one").await, first);
        session.shutdown().await;
    }
}
