//! The torrents of a running mount: added and removed while it runs, from wherever that is asked for, and remembered.
//!
//! Changes go one after the other: session first and tree second when one is added, the other way round when one is
//! removed, so that no entry is shown without a torrent behind it. Remembered is what was added at run time; what stood
//! on the command line stands there again next time. Removing forgets.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use wtfs_mount::TorrentTree;
use wtfs_proto::id::InfoHash;
use wtfs_torrent::{RemovedData, Session, Source, Torrent};

use crate::config::Settings;
use crate::control::Fate;
use crate::engine;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::table::printable;

mod errands;
mod files;
mod memory;

pub(crate) use errands::Errands;
pub(crate) use files::{Extent, FILES_AT_ONCE, Far, Keep, TICK};
pub(crate) use memory::Memory;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Roster {
    session: Session,
    tree: TorrentTree,
    settings: Settings,
    peers: Vec<SocketAddr>,
    /// `None` where no state directory is known: nothing is remembered then.
    memory: Mutex<Option<Memory>>,
}

/// Where a torrent comes from decides whether it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    CommandLine,
    RunTime,
}

/// A torrent or a repository that was added or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// Of a torrent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) info_hash: Option<String>,
    /// Of a repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    /// Of its entry: in the mount's root, or with its owner's below it.
    pub(crate) name: String,
}

impl Roster {
    pub(crate) fn new(
        session: &Session,
        tree: &TorrentTree,
        settings: &Settings,
        peers: Vec<SocketAddr>,
        memory: Option<Memory>,
    ) -> Self {
        let (session, tree, settings) = (session.clone(), tree.clone(), settings.clone());
        Self { session, tree, settings, peers, memory: Mutex::new(memory) }
    }

    /// Adds a torrent to the session, the tree and, if it came at run time, the memory.
    ///
    /// # Cancel safety
    /// Dropped, it is added all the same.
    pub(crate) async fn add(self: &Arc<Self>, source: Source, origin: Origin) -> anyhow::Result<Changed> {
        let roster = Arc::clone(self);
        tokio::spawn(async move { roster.add_now(source, origin).await }).await?
    }

    async fn add_now(&self, source: Source, origin: Origin) -> anyhow::Result<Changed> {
        let mut memory = self.memory.lock().await;
        let torrent = self.enter(source.clone()).await?;
        let hash = torrent.info_hash();
        if origin == Origin::RunTime
            && let Some(memory) = memory.as_mut()
            && let Err(error) = tokio::task::block_in_place(|| memory.remember(hash, &source))
        {
            tracing::warn!(%error, torrent = %hash, "a torrent that was added is not remembered");
        }
        let changed = self.describe(&torrent);
        tracing::info!(torrent = %hash, entry = changed.name, "added");
        Ok(changed)
    }

    async fn enter(&self, source: Source) -> anyhow::Result<Torrent> {
        let options = engine::add_options(&self.settings, &source, &self.peers);
        engine::warn_of_nobody(&self.settings, &source, &options);
        let torrent = engine::add(&self.session, source, options).await?;
        if let Err(error) = self.tree.add(Arc::new(torrent.clone())) {
            self.session.remove(torrent.info_hash(), RemovedData::Keep).await;
            return Err(ended(Exit::Source, error.to_string()));
        }
        Ok(torrent)
    }

    /// Adds what was added at run time before. What cannot be is told in the log and stays remembered.
    pub(crate) async fn recall(&self) {
        let memory = self.memory.lock().await;
        let Some(sources) = memory.as_ref().map(|memory| tokio::task::block_in_place(|| memory.sources()))
        else {
            return;
        };
        for (hash, source) in sources {
            if self.session.torrent(hash).is_some() {
                continue;
            }
            if let Err(error) = self.enter(source).await {
                tracing::warn!(torrent = %hash, "what was added before cannot be used: {error:#}");
            }
        }
    }

    /// Takes a torrent out by the name of its entry or an info hash.
    ///
    /// # Cancel safety
    /// Dropped, it is removed all the same.
    pub(crate) async fn remove(self: &Arc<Self>, which: String, fate: Fate) -> anyhow::Result<Changed> {
        let roster = Arc::clone(self);
        tokio::spawn(async move { roster.remove_now(&which, fate).await }).await?
    }

    async fn remove_now(&self, which: &str, fate: Fate) -> anyhow::Result<Changed> {
        let mut memory = self.memory.lock().await;
        let torrent = self.find(which).ok_or_else(|| {
            ended(Exit::Source, format!("the mount has no torrent {}; `ls` shows them", printable(which)))
        })?;
        let hash = torrent.info_hash();
        let changed = self.describe(&torrent);
        if let Some(memory) = memory.as_mut() {
            tokio::task::block_in_place(|| memory.forget(hash))
                .or_end(Exit::Failure, || "the torrent cannot be forgotten".into())?;
        }
        self.tree.remove(hash);
        let data = match fate {
            Fate::Keep => RemovedData::Keep,
            Fate::Drop => RemovedData::Drop,
        };
        self.session.remove(hash, data).await;
        tracing::info!(torrent = %hash, entry = changed.name, ?fate, "removed");
        Ok(changed)
    }

    /// A torrent by the name of its entry or an info hash.
    pub(crate) fn find(&self, which: &str) -> Option<Torrent> {
        let is_named =
            |torrent: &Torrent| self.tree.entry_name(torrent.info_hash()).as_deref() == Some(which);
        let by_name = || self.session.torrents().into_iter().find(is_named);
        let by_hash = || self.session.torrent(which.parse::<InfoHash>().ok()?);
        by_name().or_else(by_hash)
    }

    fn describe(&self, torrent: &Torrent) -> Changed {
        let hash = torrent.info_hash();
        let name = self.tree.entry_name(hash).unwrap_or_else(|| torrent.name());
        Changed { info_hash: Some(hash.to_string()), commit: None, name }
    }
}
