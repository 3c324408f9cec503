//! The JSON of the hub's own API, for whoever serves it and whoever asks.
//!
//! Only shapes. A field that a newer hub adds is passed over by an older reader; none changes its meaning.

use serde::{Deserialize, Serialize};

/// `GET /torrents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentList {
    /// Everything the hub has or is about to have.
    pub torrents: Vec<TorrentEntry>,
}

/// One torrent of the hub, or what is to become one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TorrentEntry {
    /// Name of the file or directory.
    pub name: String,
    /// The info hash in hexadecimal, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_hash: Option<String>,
    /// Where it stands.
    pub state: TorrentState,
    /// Where its data comes from.
    pub origin: Origin,
    /// Bytes of all its files; 0 while they are not known.
    pub total_bytes: u64,
    /// Bytes hashed so far, while it is being hashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hashed_bytes: Option<u64>,
    /// Pieces in all.
    pub pieces: u32,
    /// Pieces the hub has.
    pub pieces_present: u32,
    /// Why it cannot be had, for [`TorrentState::Refused`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a torrent of the hub stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TorrentState {
    /// It changed a moment ago, or waits for its turn to be hashed.
    Waiting,
    /// It is being hashed.
    Hashing,
    /// It is served.
    Ready,
    /// Its metadata is still missing.
    Metadata,
    /// It cannot be served.
    Refused,
}

/// Where a torrent's data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A shared directory.
    Root,
    /// The swarm, by way of the hub's cache.
    Swarm,
}

/// `GET /magnet/{name or info hash}`, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MagnetAnswer {
    /// Name of the torrent.
    pub name: String,
    /// The info hash in hexadecimal.
    pub info_hash: String,
    /// The magnet link, with trackers, web seed and where the `.torrent` is.
    pub magnet: String,
    /// URL of the `.torrent`.
    pub torrent: String,
}

/// `GET /model/{repository[@revision][/file]}`, and what `/torrent/…` and `/magnet/…` of it answer while it is being
/// prepared (202).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStatus {
    /// The repository as in URLs: `org/name`, `datasets/org/name`.
    pub repo: String,
    /// The commit, in hexadecimal.
    pub commit: String,
    /// The one file that is meant; none for the whole revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Where its torrent stands.
    pub state: ModelState,
    /// Files in all.
    pub files: u64,
    /// Files that are here and verified.
    pub files_present: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Bytes of them that are here.
    pub present_bytes: u64,
    /// The info hashes in hexadecimal, once there is a torrent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_hash: Option<String>,
    /// Whether the hub gives it to peers now.
    #[serde(default)]
    pub is_seeded: bool,
    /// Bytes that peers were given by this hub since it started.
    #[serde(default)]
    pub uploaded_bytes: u64,
    /// The magnet link, once there is a torrent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub magnet: Option<String>,
    /// URL of the `.torrent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torrent: Option<String>,
    /// Why there is none, for [`ModelState::Failed`] and [`ModelState::Restricted`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where the torrent of a revision or a file stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// There is none, and nobody asked for it.
    Absent,
    /// Its files are fetched and hashed.
    Preparing,
    /// There is one.
    Ready,
    /// There is none because not everybody may read the repository.
    Restricted,
    /// It could not be made; it is tried again when asked for later.
    Failed,
}

/// `GET /hf-stats`. Sums since the hub started, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HfStats {
    /// The hub that is asked.
    pub upstream: String,
    /// Bytes of files that came from there.
    pub upstream_bytes: u64,
    /// Requests to it.
    pub upstream_requests: u64,
    /// Of those, answered that we ask too often.
    pub upstream_rate_limited: u64,
    /// Of those, without an answer or with a status of 5xx.
    pub upstream_failed: u64,
    /// Bytes that clients of the Hub API were sent over HTTP, of files above all. A response counts once it is over.
    pub served_bytes: u64,
    /// Bytes that peers were given of torrents of repositories.
    pub peer_bytes: u64,
    /// Bytes that peers gave each other of torrents that the hub seeds, by what they told its tracker.
    #[serde(default)]
    pub exchanged_bytes: u64,
    /// Files that are here and verified, and their bytes, now.
    pub blobs: u64,
    /// See [`Self::blobs`].
    pub blobs_bytes: u64,
    /// Files that are being fetched.
    pub fills: Vec<HfFill>,
    /// Torrents of revisions and files, those used last first.
    pub models: Vec<ModelStatus>,
}

/// A file that is being fetched from upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HfFill {
    /// The hash that it is known by.
    pub id: String,
    /// Its length.
    pub bytes: u64,
    /// How much of it is here.
    pub present_bytes: u64,
    /// Reads that wait for it.
    pub waiting: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out_and_unknown_fields_are_passed_over() {
        let entry = TorrentEntry {
            name: "a".into(),
            info_hash: None,
            state: TorrentState::Waiting,
            origin: Origin::Root,
            total_bytes: 1,
            hashed_bytes: None,
            pieces: 0,
            pieces_present: 0,
            reason: None,
        };
        let text = serde_json::to_string(&entry).expect("written");
        assert_eq!(
            text,
            r#"{"name":"a","state":"waiting","origin":"root","total_bytes":1,"pieces":0,"pieces_present":0}"#
        );
        let newer = text.replace("\"name\"", "\"colour\":\"red\",\"name\"");
        assert_eq!(serde_json::from_str::<TorrentEntry>(&newer).expect("read"), entry);
    }
}
