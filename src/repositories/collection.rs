//! What a running mount of repositories can be asked to do: to show another one, to keep files, to fetch them.
//!
//! Files are named by a path in the mount, which is one that was looked up, or as `hf://...`, which is found out first.
//! Nothing here goes through the mount itself.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::to_value;
use tokio::task::JoinSet;
use wtfs_mount::{ChoiceError, Chosen, HfTree, Repositories, Traffic};
use wtfs_proto::hf::{HfSource, Repo, Revision};
use wtfs_torrent::hf::blobs::Pinned;
use wtfs_torrent::prometheus::{Exposition, Kind};

use crate::control::{Shows, Tell};
use crate::exit::{Exit, OrEnd as _, ended};
use crate::roster::{Changed, Extent, FILES_AT_ONCE, Far, Keep, TICK};
use crate::table::printable;
use crate::units::ByteRange;

/// What is in the root of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    /// Owners, and their repositories below them.
    Namespace,
    /// One repository.
    Repository(Repo, Revision),
}

/// The repositories of a running mount. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    pub(crate) tree: HfTree,
    repositories: Repositories,
    root: Root,
}

impl Collection {
    pub(crate) fn new(tree: HfTree, repositories: Repositories, root: Root) -> Self {
        Self { tree, repositories, root }
    }

    /// For who looks for the mount that shows something.
    pub(crate) fn shows(&self) -> Shows {
        match &self.root {
            Root::Namespace => Shows::Namespace,
            Root::Repository(repo, revision) => {
                Shows::Repository { repo: repo.to_string(), revision: revision.to_string() }
            }
        }
    }

    /// What came from whom.
    pub(crate) fn traffic(&self) -> Traffic {
        self.repositories.traffic()
    }

    /// Adds its numbers; docs/metrics.md lists them.
    pub(crate) fn count(&self, text: &mut Exposition) {
        let pinned = self.tree.pinned();
        text.one(
            "wtfs_repositories",
            Kind::Gauge,
            "Repositories and revisions that were looked at",
            pinned.len(),
        );
        let kept = pinned.iter().map(|pinned| pinned.pinned_bytes).sum::<u64>();
        text.one("wtfs_repositories_pinned_bytes", Kind::Gauge, "Bytes of their pinned files", kept);
        let Traffic { peers, hub, origin } = self.traffic();
        let name = "wtfs_repositories_source_bytes_total";
        text.family(name, Kind::Counter, "Bytes of their files by who gave them");
        for (source, bytes) in [("peers", peers), ("hub", hub), ("origin", origin)] {
            text.sample(name, &[("source", source)], bytes);
        }
    }

    /// Finds out what a repository is, so that it is listed.
    ///
    /// # Cancel safety
    /// Dropped, it may be listed all the same.
    pub(crate) async fn add(&self, typed: &str, web_seeds: &[String]) -> anyhow::Result<Changed> {
        if !HfSource::is_meant_by(typed) {
            let text = "this is a mount of repositories; a torrent goes into a mount of its own: wtfs mount SOURCE DIR";
            return Err(ended(Exit::Usage, text));
        }
        if !web_seeds.is_empty() {
            return Err(ended(Exit::Usage, "--web-seed is for torrents"));
        }
        if let Root::Repository(repo, revision) = &self.root {
            let text = format!(
                "this mount is {repo}@{revision} alone; mount hf:// on another directory, which takes any number of them"
            );
            return Err(ended(Exit::Usage, text));
        }
        let source = read(typed)?;
        if source.path.is_some() {
            return Err(ended(Exit::Usage, "a repository is added as a whole; leave the path away"));
        }
        let (repo, revision) = self.find_out(&source).await?;
        let chosen = self.tree.files_of(&repo, &revision, None);
        let commit = chosen.ok().map(|chosen| chosen.revision.commit.to_string());
        let name = match revision == Revision::main() {
            true => repo.to_string(),
            false => format!("{repo}@{}", revision.as_str().replace('/', "%2F")),
        };
        tracing::info!(entry = name, "added");
        Ok(Changed { info_hash: None, commit, name })
    }

    /// Pins or unpins the files that `name` means.
    ///
    /// # Cancel safety
    /// Dropped, they may be.
    pub(crate) async fn keep(&self, name: &str, keep: Keep) -> anyhow::Result<Extent> {
        let chosen = self.chosen(name).await?;
        let pinned = match keep {
            Keep::Pinned => Pinned::Yes,
            Keep::Unpinned => Pinned::No,
        };
        let set = self.repositories.set_pinned(&chosen.files, pinned).await;
        set.or_end(Exit::Failure, || format!("{} stays as it was", printable(name)))?;
        let bytes = chosen.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes));
        Ok(Extent { files: chosen.files.len(), bytes })
    }

    /// As [`Self::keep`] for a path of a mount that nobody has looked into yet.
    ///
    /// # Cancel safety
    /// Dropped, they may be pinned.
    pub(crate) async fn pin_at_start(&self, path: &str) -> anyhow::Result<Extent> {
        let is_known = self.root != Root::Namespace || HfSource::is_meant_by(path);
        let name = if is_known { path.to_owned() } else { format!("hf://{path}") };
        self.keep(&name, Keep::Pinned).await
    }

    /// Fetches `range` of all files that `name` means.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped, it ends; what came stays.
    pub(crate) async fn prefetch(&self, name: &str, range: ByteRange, tell: &Tell) -> anyhow::Result<Extent> {
        let chosen = self.chosen(name).await?;
        let ranges: Vec<Range<u64>> = chosen.files.iter().map(|file| range.within(file.bytes)).collect();
        let total_bytes =
            ranges.iter().fold(0, |sum: u64, range| sum.saturating_add(range.end - range.start));
        let files = chosen.files.len();
        let done = Arc::new(AtomicU64::new(0));
        let mut waiting = chosen.files.into_iter().zip(ranges);
        let mut running: JoinSet<anyhow::Result<()>> = JoinSet::new();
        loop {
            while running.len() < FILES_AT_ONCE
                && let Some((file, range)) = waiting.next()
            {
                let (content, done) = (self.repositories.file(&chosen.revision, &file), Arc::clone(&done));
                running.spawn(async move {
                    let count = |bytes| {
                        done.fetch_add(bytes, Ordering::Relaxed);
                    };
                    let is_all = range == (0..file.bytes);
                    content
                        .fetch_range(range, count)
                        .await
                        .or_end(Exit::Incomplete, || "not fetched".into())?;
                    if is_all {
                        // Also verified then, and given to peers.
                        content.fetch().await.or_end(Exit::Incomplete, || "not fetched".into())?;
                    }
                    Ok(())
                });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => ended??,
                    None => break,
                },
                () = tokio::time::sleep(TICK) => {
                    let done_bytes = done.load(Ordering::Relaxed).min(total_bytes);
                    // An asker that does not read misses some.
                    let _told = tell.try_send(to_value(Far { done_bytes, total_bytes })?);
                }
            }
        }
        Ok(Extent { files, bytes: total_bytes })
    }

    async fn chosen(&self, name: &str) -> anyhow::Result<Chosen> {
        let told = |error: ChoiceError| ended(Exit::Source, format!("{}: {error}", printable(name)));
        if !HfSource::is_meant_by(name) {
            return self.tree.files_at(name).map_err(told);
        }
        let source = read(name)?;
        if let Root::Repository(repo, revision) = &self.root {
            let is_it =
                source.repo == *repo && source.revision.as_ref().is_none_or(|asked| asked == revision);
            if !is_it {
                return Err(ended(Exit::Source, format!("this mount is {repo}@{revision} alone")));
            }
            // What is shown, not what the branch may stand for by now.
            let chosen = match &source.path {
                None => self.tree.files_of_root(None),
                Some(path) => self.tree.files_of_root(Some(path)),
            };
            return chosen.map_err(told);
        }
        let (repo, revision) = self.find_out(&source).await?;
        self.tree.files_of(&repo, &revision, source.path.as_ref()).map_err(told)
    }

    async fn find_out(&self, source: &HfSource) -> anyhow::Result<(Repo, Revision)> {
        let revision = super::pin(&self.tree, source).await?;
        Ok((source.repo.clone(), revision))
    }
}

fn read(typed: &str) -> anyhow::Result<HfSource> {
    HfSource::parse(typed).map_err(|error| super::not_a_source(typed, &error))
}
