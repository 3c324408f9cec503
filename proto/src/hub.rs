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
