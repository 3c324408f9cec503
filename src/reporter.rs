//! What a running process tells about itself and does when it is asked: the answers behind `control.rs`.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value, to_value};
use tokio::runtime::Handle;
use wtfs_mount::Traffic;
use wtfs_proto::hf::HfSource;
use wtfs_torrent::hf::blobs::BlobsStatus;
use wtfs_torrent::{Session, SessionStatus};

use crate::config::Settings;
use crate::control::{Answers, Carried, Control, Request, Role, Tell, Who};
use crate::engine;
use crate::exit::{Exit, ended};
use crate::repositories::Collection;
use crate::roster::{Keep, Origin, Roster};

/// What one running process tells `wtfs status`.
#[derive(Debug, Serialize)]
pub(crate) struct ProcessStatus {
    pid: u32,
    version: &'static str,
    role: Role,
    /// Tasks of its runtime that have not ended.
    tasks: Option<usize>,
    /// The mount point, or where the data goes or lies.
    path: Option<PathBuf>,
    #[serde(flatten)]
    session: SessionStatus,
    /// Of a mount of repositories only.
    #[serde(flatten)]
    repositories: Option<RepositoriesStatus>,
}

/// What a mount of repositories shows, and how their files fare.
#[derive(Debug, Serialize)]
struct RepositoriesStatus {
    repositories: Vec<RepositoryStatus>,
    /// Bytes of their files by who gave them.
    sources: Traffic,
    blobs: BlobsStatus,
}

#[derive(Debug, Serialize)]
struct RepositoryStatus {
    repo: String,
    revision: String,
    commit: String,
    files: usize,
    total_bytes: u64,
    local_bytes: u64,
    pinned_files: usize,
    pinned_bytes: u64,
    /// What the revision stands for by now, in a mount that stays at the commit above.
    newer_commit: Option<String>,
}

/// What this process tells about itself, asked for again each time.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    session: Session,
    role: Role,
    runtime: Option<Handle>,
    path: Option<PathBuf>,
    /// Of a mount of torrents only.
    roster: Option<Arc<Roster>>,
    /// Of a mount of repositories only.
    collection: Option<Collection>,
}

impl Reporter {
    pub(crate) fn new(session: &Session, role: Role, path: Option<PathBuf>) -> Self {
        let runtime = Handle::try_current().ok();
        Self { session: session.clone(), role, runtime, path, roster: None, collection: None }
    }

    /// With this a mount takes orders.
    pub(crate) fn with_roster(self, roster: Arc<Roster>) -> Self {
        Self { roster: Some(roster), ..self }
    }

    /// With this it tells of them too, and takes orders.
    pub(crate) fn with_collection(self, collection: Collection) -> Self {
        Self { collection: Some(collection), ..self }
    }

    fn repositories(&self) -> Option<RepositoriesStatus> {
        let describe = |pinned: wtfs_mount::Pinned| RepositoryStatus {
            repo: pinned.repo.to_string(),
            revision: pinned.revision.to_string(),
            commit: pinned.commit.to_string(),
            files: pinned.files,
            total_bytes: pinned.total_bytes,
            local_bytes: pinned.local_bytes,
            pinned_files: pinned.pinned_files,
            pinned_bytes: pinned.pinned_bytes,
            newer_commit: pinned.newer.map(|commit| commit.to_string()),
        };
        let collection = self.collection.as_ref()?;
        let repositories = collection.tree.pinned().into_iter().map(describe).collect();
        let (sources, blobs) = (collection.traffic(), self.session.blobs().status());
        Some(RepositoriesStatus { repositories, sources, blobs })
    }

    /// Never waits.
    pub(crate) fn status(&self) -> ProcessStatus {
        ProcessStatus {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            role: self.role,
            tasks: self.runtime.as_ref().map(|runtime| runtime.metrics().num_alive_tasks()),
            path: self.path.clone(),
            session: self.session.status(),
            repositories: self.repositories(),
        }
    }

    /// Lets other commands see this process while the result lives. Where that cannot be, the process does its work
    /// unseen, with a warning.
    pub(crate) fn show(self, settings: &Settings) -> Option<Control> {
        Control::open(settings.directories.runtime(), Arc::new(self))
            .inspect_err(|error| tracing::warn!(%error, "`wtfs status` will not see this process"))
            .ok()
    }
}

impl Answers for Reporter {
    fn status(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&Self::status(self))
    }

    fn who(&self) -> Who {
        let path = self.path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let shows = self.collection.as_ref().map(Collection::shows);
        Who { pid: std::process::id(), role: self.role, path, shows }
    }

    fn carry_out(&self, order: Request, tell: Tell) -> Carried {
        let (roster, collection) = (self.roster.clone(), self.collection.clone());
        Box::pin(async move {
            if let Some(collection) = collection {
                return of_repositories(&collection, order, &tell).await;
            }
            let roster = roster.ok_or_else(|| ended(Exit::Usage, "only a mount can do that"))?;
            let done = match order {
                Request::Add { source, .. } if HfSource::is_meant_by(&source) => {
                    let text = "this is a mount of torrents; repositories go into a mount of their own: wtfs mount hf:// DIR";
                    return Err(ended(Exit::Usage, text));
                }
                Request::Add { source, web_seeds } => {
                    let source = engine::with_web_seeds(engine::source(&source).await?, &web_seeds)?;
                    to_value(roster.add(source, Origin::RunTime).await?)
                }
                Request::Remove { torrent, data } => to_value(roster.remove(torrent, data).await?),
                Request::Pin { path } => to_value(roster.keep(&path, Keep::Pinned).await?),
                Request::Unpin { path } => to_value(roster.keep(&path, Keep::Unpinned).await?),
                Request::Prefetch { path, range } => to_value(roster.prefetch(&path, range, &tell).await?),
                Request::Status | Request::Who => return Err(ended(Exit::Failure, "that is no order")),
            };
            Ok(done?)
        })
    }
}

async fn of_repositories(
    collection: &Collection,
    order: Request,
    tell: &Tell,
) -> anyhow::Result<serde_json::Value> {
    let done = match order {
        Request::Add { source, web_seeds } => to_value(collection.add(&source, &web_seeds).await?),
        Request::Pin { path } => to_value(collection.keep(&path, Keep::Pinned).await?),
        Request::Unpin { path } => to_value(collection.keep(&path, Keep::Unpinned).await?),
        Request::Prefetch { path, range } => to_value(collection.prefetch(&path, range, tell).await?),
        Request::Remove { .. } => {
            let text = "a repository is not removed: it shows where it is looked up, and what nobody uses makes room by itself";
            return Err(ended(Exit::Usage, text));
        }
        Request::Status | Request::Who => return Err(ended(Exit::Failure, "that is no order")),
    };
    Ok(done?)
}
