//! What a path inside the mount means to the engine: files of torrents, to keep or to fetch.
//!
//! The names in a mount are those of the torrents, so that a path is looked up in the metainfo; nothing here goes
//! through the mount itself.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::to_value;
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::metainfo::{Info, Layout};
use wtfs_torrent::{Prefetch, ReadError, Torrent};

use super::Roster;
use crate::control::Tell;
use crate::exit::{Exit, OrEnd as _, ended};
use crate::table::printable;
use crate::units::ByteRange;

/// Files fetched at once: a directory of small ones would else wait for each in turn.
pub(crate) const FILES_AT_ONCE: usize = 8;
/// How often progress is told.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Whether files stay whatever the cache's size says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    Pinned,
    Unpinned,
}

/// How much a command was about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// How far a prefetch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Far {
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
}

struct Chosen {
    torrent: Torrent,
    file: FileIndex,
    bytes: u64,
}

impl Roster {
    /// Pins or unpins all files at and below `path`, which is relative to the mount.
    ///
    /// # Cancel safety
    /// Dropped, some of them are.
    pub(crate) async fn keep(&self, path: &str, keep: Keep) -> anyhow::Result<Extent> {
        let mut extent = Extent::default();
        for chosen in self.files_at(path)? {
            let kept = match keep {
                Keep::Pinned => chosen.torrent.pin(chosen.file).await,
                Keep::Unpinned => chosen.torrent.unpin(chosen.file).await,
            };
            kept.or_end(Exit::Failure, || format!("{} stays as it was", printable(path)))?;
            extent.files += 1;
            extent.bytes += chosen.bytes;
        }
        Ok(extent)
    }

    /// As [`Self::keep`], but waits until it is known which files there are.
    ///
    /// # Cancel safety
    /// Dropped, some of them are pinned.
    pub(crate) async fn pin_when_known(&self, path: &str) -> anyhow::Result<Extent> {
        for torrent in self.torrents_at(&parts_of(path)) {
            torrent.wait_metainfo().await.or_end(Exit::Source, || printable(&torrent.name()))?;
        }
        self.keep(path, Keep::Pinned).await
    }

    /// Fetches `range` of all files at and below `path`.
    ///
    /// # Cancel safety
    /// Cancel safe: dropped, it ends; what came stays.
    pub(crate) async fn prefetch(&self, path: &str, range: ByteRange, tell: &Tell) -> anyhow::Result<Extent> {
        let chosen = self.files_at(path)?;
        let ranges: Vec<Range<u64>> = chosen.iter().map(|chosen| range.within(chosen.bytes)).collect();
        let total_bytes = ranges.iter().map(|range| range.end - range.start).sum();
        let mut waiting = chosen.iter().zip(ranges);
        let mut running: VecDeque<(Prefetch, u64)> = VecDeque::new();
        let mut finished = 0;
        loop {
            while running.len() < FILES_AT_ONCE
                && let Some((chosen, range)) = waiting.next()
            {
                let bytes = range.end - range.start;
                let begun = chosen.torrent.prefetch(chosen.file, range);
                running.push_back((begun.or_end(Exit::Source, || printable(path))?, bytes));
            }
            let Some((first, bytes)) = running.front() else { break };
            tokio::select! {
                outcome = first.wait() => {
                    outcome.map_err(|error| unfetched(path, error))?;
                    finished += bytes;
                    running.pop_front();
                }
                () = tokio::time::sleep(TICK) => {
                    let under_way = |(prefetch, bytes): &(Prefetch, u64)| prefetch.progress().done_bytes.min(*bytes);
                    let done_bytes = finished + running.iter().map(under_way).sum::<u64>();
                    // An asker that does not read misses some.
                    let _told = tell.try_send(to_value(Far { done_bytes, total_bytes })?);
                }
            }
        }
        Ok(Extent { files: chosen.len(), bytes: total_bytes })
    }

    /// All files at and below a path; of an empty one those of the whole mount.
    fn files_at(&self, path: &str) -> anyhow::Result<Vec<Chosen>> {
        let parts = parts_of(path);
        let mut chosen = Vec::new();
        for torrent in self.torrents_at(&parts) {
            let Some(metainfo) = torrent.metainfo() else {
                return Err(ended(
                    Exit::Source,
                    format!(
                        "the metadata of {} has not come yet; try again when it has",
                        printable(&torrent.name())
                    ),
                ));
            };
            for (file, bytes) in below(&metainfo.info, parts.get(1..).unwrap_or_default()) {
                chosen.push(Chosen { torrent: torrent.clone(), file, bytes });
            }
        }
        if chosen.is_empty() {
            return Err(ended(Exit::Source, format!("the mount has no file at {}", printable(path))));
        }
        Ok(chosen)
    }

    fn torrents_at(&self, parts: &[&str]) -> Vec<Torrent> {
        match parts.first() {
            Some(entry) => self.find(entry).into_iter().collect(),
            None => self.session.torrents(),
        }
    }
}

fn parts_of(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect()
}

/// The files of a torrent whose path begins with `parts`, which do not name the torrent itself.
fn below<'a>(info: &'a Info, parts: &'a [&str]) -> impl Iterator<Item = (FileIndex, u64)> + 'a {
    let files = info.files.iter().enumerate().filter(|(_, entry)| !entry.is_pad && entry.symlink.is_none());
    let wanted = files.filter(move |(_, entry)| match info.layout {
        Layout::SingleFile => parts.is_empty(),
        Layout::Directory => {
            let path = entry.path.components();
            path.len() >= parts.len() && path.iter().zip(parts).all(|(one, other)| one == other)
        }
    });
    wanted.filter_map(|(at, entry)| Some((info.geometry.file(at)?, entry.bytes)))
}

fn unfetched(path: &str, error: ReadError) -> anyhow::Error {
    ended(Exit::Incomplete, format!("{} could not be fetched: {error}", printable(path)))
}

#[cfg(test)]
mod tests {
    use wtfs_proto::metainfo::{FileEntry, InfoBuilder, Metainfo, MetainfoBuilder};
    use wtfs_proto::path::TorrentPath;

    use super::*;

    fn directory() -> Metainfo {
        let mut info = InfoBuilder::directory("model", 16 << 10);
        for (bytes, path) in [(1, &["a"][..]), (2, &["ab", "c"]), (4, &["b", "c"]), (8, &["b", "d", "e"])] {
            let path = TorrentPath::from_components(path.iter().copied()).expect("a path");
            info.push(FileEntry::new(path, bytes));
        }
        MetainfoBuilder::new(info.finish(&[0; 20]).expect("built")).expect("valid").finish()
    }

    #[test]
    fn a_path_means_the_files_at_and_below_it() {
        let metainfo = directory();
        let bytes = |parts: &[&str]| below(&metainfo.info, parts).map(|(_, bytes)| bytes).sum::<u64>();
        assert_eq!(bytes(&[]), 15);
        assert_eq!(bytes(&["a"]), 1);
        assert_eq!(bytes(&["b"]), 12);
        assert_eq!(bytes(&["b", "d"]), 8);
        assert_eq!(bytes(&["b", "d", "e"]), 8);
        assert_eq!(bytes(&["b", "d", "e", "f"]), 0);
        assert_eq!(bytes(&["c"]), 0);
    }
}
