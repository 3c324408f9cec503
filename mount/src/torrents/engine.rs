//! The engine's torrents and readers as what the tree and the mount ask for; the only file that knows both.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::geometry::FileIndex;
use wtfs_proto::id::InfoHash;
use wtfs_proto::metainfo::Metainfo;
use wtfs_torrent::{FileReader, OpenError, ReadError, Torrent, TorrentStatus};

use crate::content::{BackingFile, BoxFuture, Content};
use crate::errno::FsError;
use crate::torrents::source::{Progress, TorrentSource};

impl TorrentSource for Torrent {
    fn info_hash(&self) -> InfoHash {
        Self::info_hash(self)
    }

    fn name(&self) -> String {
        Self::name(self)
    }

    fn metainfo(&self) -> Option<Arc<Metainfo>> {
        Self::metainfo(self)
    }

    fn arrival(&self) -> BoxFuture<'static, Result<Arc<Metainfo>, String>> {
        let torrent = self.clone();
        Box::pin(async move { torrent.wait_metainfo().await.map_err(|error| error.to_string()) })
    }

    fn describe_wait(&self) -> String {
        describe_wait(&self.status())
    }

    fn progress(&self) -> Progress {
        let (pieces_present, pieces) = self.pieces();
        Progress { pieces_present, pieces }
    }

    fn local_bytes(&self, file: FileIndex) -> u64 {
        self.file_local_bytes(file)
    }

    fn local_ranges(&self, file: FileIndex, limit: usize) -> Vec<Range<u64>> {
        self.file_local_ranges(file, limit)
    }

    fn open(&self, file: FileIndex) -> Result<Arc<dyn Content>, FsError> {
        match Self::open(self, file) {
            Ok(reader) => Ok(Arc::new(reader)),
            Err(OpenError::NoSuchFile) => Err(FsError::Stale),
            Err(error) => Err(FsError::io(error)),
        }
    }
}

impl Content for FileReader {
    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn try_read_at(&self, offset: u64, len: u32) -> Option<Bytes> {
        Self::try_read_at(self, offset, len)
    }

    fn read_at(&self, offset: u64, len: u32) -> BoxFuture<'_, Result<Bytes, FsError>> {
        Box::pin(async move { Self::read_at(self, offset, len).await.map_err(read_failed) })
    }

    fn is_backed(&self) -> bool {
        self.is_whole()
    }

    fn backing_file(&self) -> Option<BackingFile> {
        let held = self.data_file()?;
        Some(BackingFile { file: held.file, guard: Box::new(held.hold) })
    }
}

fn read_failed(error: ReadError) -> FsError {
    match error {
        ReadError::Timeout { .. } => FsError::TimedOut(Arc::new(error)),
        ReadError::NoSpace => FsError::NoSpace(Arc::new(error)),
        // Every other reason, also of a later version of the engine, is a read that failed.
        _ => FsError::io(error),
    }
}

fn describe_wait(status: &TorrentStatus) -> String {
    let mut text = format!(
        "It comes from peers: {} connected, {} known.\n",
        status.peers.len(),
        status.servers.known_peers
    );
    for peer in &status.peers {
        // Writing to a String does not fail.
        let _ = writeln!(text, "  peer {} {}", peer.addr, tame(&peer.client));
    }
    if status.servers.trackers.is_empty() {
        text.push_str("No tracker is known: add one to the magnet (tr=) or name a peer.\n");
    }
    for tracker in &status.servers.trackers {
        let _ = write!(text, "  tracker {}: {} peers", host(&tracker.url), tracker.peers);
        if let Some(message) = &tracker.message {
            let _ = write!(text, ", {}", tame(message));
        }
        text.push('\n');
    }
    text
}

/// Scheme and host: the rest of an announce URL may hold the user's passkey.
fn host(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

/// One line, whatever a stranger sent.
fn tame(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_timed_out_read_is_an_input_output_error_that_names_the_piece() {
        let timeout =
            ReadError::Timeout { piece: 7, sources: 0, connected: 3, waited: Duration::from_secs(60) };
        let error = read_failed(timeout);
        assert_eq!(error.errno(), libc::EIO);
        assert!(error.to_string().contains("piece 7"), "{error}");
        assert_eq!(read_failed(ReadError::NoSpace).errno(), libc::ENOSPC);
        assert_eq!(read_failed(ReadError::Closed).errno(), libc::EIO);
    }

    #[test]
    fn passkeys_are_not_shown() {
        assert_eq!(host("https://t.example:443/abcdef0123/announce"), "https://t.example:443");
        assert_eq!(host("udp://t.example:6969"), "udp://t.example:6969");
        assert_eq!(host("http://t.example?passkey=1"), "http://t.example");
        assert_eq!(host("nonsense"), "nonsense");
    }

    #[test]
    fn strangers_cannot_write_lines() {
        assert_eq!(tame("a\nb\u{1b}[0m"), "a b [0m");
    }
}
