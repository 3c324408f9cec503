//! What is asked for by writing into the mount, carried out as `wtfs add` and `wtfs remove` would.

use std::sync::Arc;

use wtfs_mount::{BoxFuture, Control};
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::Source;

use super::{Origin, Roster};
use crate::control::Fate;
use crate::engine;
use crate::exit;

/// The mount's way to the roster.
#[derive(Debug)]
pub(crate) struct Errands {
    roster: Arc<Roster>,
    /// What becomes of the data of an entry that is removed.
    removed: Fate,
}

impl Errands {
    pub(crate) fn new(roster: &Arc<Roster>, removed: Fate) -> Self {
        Self { roster: Arc::clone(roster), removed }
    }

    async fn add(&self, source: anyhow::Result<Source>) -> Result<(), String> {
        let added = async { self.roster.add(source?, Origin::RunTime).await };
        in_words(added.await.map(drop))
    }
}

impl Control for Errands {
    fn add_torrent(&self, bytes: bytes::Bytes) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let parsed = tokio::task::block_in_place(|| Metainfo::parse(&bytes));
            self.add(parsed.map(|metainfo| Source::Metainfo(Box::new(metainfo))).map_err(Into::into)).await
        })
    }

    fn add_source(&self, text: String) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.add(engine::source(&text).await).await })
    }

    fn remove_entry(&self, torrent: InfoHash) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let removed = self.roster.remove(torrent.to_string(), self.removed).await;
            in_words(removed.map(drop))
        })
    }
}

fn in_words(outcome: anyhow::Result<()>) -> Result<(), String> {
    outcome.map_err(|error| exit::sentence_of(&error))
}
