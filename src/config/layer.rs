//! One layer of settings: a file, the environment or the flags. Every key is optional; a missing one shows the layer
//! below. A new key goes into the struct, [`Layer::from_environment`], [`Layer::over`] and docs/config.md; tests fail
//! for each place that was forgotten.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Environment, HubLayer};
use crate::units::{ByteSize, DiskShare, TimeSpan};

/// The keys of config.toml; `WTFS_` and a key in capitals is its variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    /// Where pieces and their records are kept.
    pub(crate) cache_dir: Option<PathBuf>,
    /// Bytes of data kept in the cache, or a share of its disk.
    pub(crate) cache_size: Option<DiskShare>,
    /// Bytes left free on the cache's disk.
    pub(crate) min_free: Option<ByteSize>,
    /// Whether to do without a network.
    pub(crate) offline: Option<bool>,
    /// `PORT`, `ADDRESS` or `ADDRESS:PORT` for peers to connect to.
    pub(crate) listen: Option<String>,
    /// Connections of all torrents together.
    pub(crate) max_peers: Option<usize>,
    /// Connections of one torrent.
    pub(crate) max_peers_per_torrent: Option<usize>,
    /// Connection attempts under way at once.
    pub(crate) max_half_open: Option<usize>,
    /// Bytes a second.
    pub(crate) upload_limit: Option<ByteSize>,
    /// Bytes a second.
    pub(crate) download_limit: Option<ByteSize>,
    /// Budget of all buffers and pieces in flight.
    pub(crate) memory: Option<ByteSize>,
    /// How long a read may wait without progress.
    pub(crate) read_timeout: Option<TimeSpan>,
    /// Whether to serve others.
    pub(crate) upload: Option<bool>,
    /// Whether peers in browsers take part.
    pub(crate) webrtc: Option<bool>,
    /// `stun:HOST[:PORT]` or `turn:USER[:PASSWORD]@HOST[:PORT]` each, or `none` alone.
    pub(crate) ice_servers: Option<Vec<String>>,
    /// Holds the password of the TURN servers that are named without one.
    pub(crate) turn_password_file: Option<PathBuf>,
    /// Whether peers over WebRTC are reached by TURN servers alone.
    pub(crate) ice_relay_only: Option<bool>,
    /// Whether hosts that nobody named may be in private networks.
    pub(crate) allow_private_hosts: Option<bool>,
    /// Trackers to announce to beside a torrent's own.
    pub(crate) trackers: Option<Vec<String>>,
    /// Whether other users may enter a mount.
    pub(crate) allow_other: Option<bool>,
    /// Log filter in the syntax of `RUST_LOG`.
    pub(crate) log: Option<String>,
    /// The hub's own keys.
    #[serde(default, skip_serializing_if = "HubLayer::is_empty")]
    pub(crate) hub: HubLayer,
}

impl Layer {
    pub(super) fn from_environment(environment: &Environment) -> anyhow::Result<Self> {
        Ok(Self {
            cache_dir: environment.path("WTFS_CACHE_DIR"),
            cache_size: environment.parse("WTFS_CACHE_SIZE")?,
            min_free: environment.parse("WTFS_MIN_FREE")?,
            offline: environment.parse("WTFS_OFFLINE")?,
            listen: environment.text("WTFS_LISTEN")?,
            max_peers: environment.parse("WTFS_MAX_PEERS")?,
            max_peers_per_torrent: environment.parse("WTFS_MAX_PEERS_PER_TORRENT")?,
            max_half_open: environment.parse("WTFS_MAX_HALF_OPEN")?,
            upload_limit: environment.parse("WTFS_UPLOAD_LIMIT")?,
            download_limit: environment.parse("WTFS_DOWNLOAD_LIMIT")?,
            memory: environment.parse("WTFS_MEMORY")?,
            read_timeout: environment.parse("WTFS_READ_TIMEOUT")?,
            upload: environment.parse("WTFS_UPLOAD")?,
            webrtc: environment.parse("WTFS_WEBRTC")?,
            ice_servers: environment
                .text("WTFS_ICE_SERVERS")?
                .map(|list| list.split_whitespace().map(str::to_owned).collect()),
            turn_password_file: environment.path("WTFS_TURN_PASSWORD_FILE"),
            ice_relay_only: environment.parse("WTFS_ICE_RELAY_ONLY")?,
            allow_private_hosts: environment.parse("WTFS_ALLOW_PRIVATE_HOSTS")?,
            trackers: environment
                .text("WTFS_TRACKERS")?
                .map(|list| list.split_whitespace().map(str::to_owned).collect()),
            allow_other: environment.parse("WTFS_ALLOW_OTHER")?,
            log: environment.text("WTFS_LOG")?,
            hub: HubLayer::from_environment(environment)?,
        })
    }

    /// This layer on top of `lower`. Lists are replaced, not joined: a flag can then also take away.
    pub(super) fn over(self, lower: Self) -> Self {
        Self {
            cache_dir: self.cache_dir.or(lower.cache_dir),
            cache_size: self.cache_size.or(lower.cache_size),
            min_free: self.min_free.or(lower.min_free),
            offline: self.offline.or(lower.offline),
            listen: self.listen.or(lower.listen),
            max_peers: self.max_peers.or(lower.max_peers),
            max_peers_per_torrent: self.max_peers_per_torrent.or(lower.max_peers_per_torrent),
            max_half_open: self.max_half_open.or(lower.max_half_open),
            upload_limit: self.upload_limit.or(lower.upload_limit),
            download_limit: self.download_limit.or(lower.download_limit),
            memory: self.memory.or(lower.memory),
            read_timeout: self.read_timeout.or(lower.read_timeout),
            upload: self.upload.or(lower.upload),
            webrtc: self.webrtc.or(lower.webrtc),
            ice_servers: self.ice_servers.or(lower.ice_servers),
            turn_password_file: self.turn_password_file.or(lower.turn_password_file),
            ice_relay_only: self.ice_relay_only.or(lower.ice_relay_only),
            allow_private_hosts: self.allow_private_hosts.or(lower.allow_private_hosts),
            trackers: self.trackers.or(lower.trackers),
            allow_other: self.allow_other.or(lower.allow_other),
            log: self.log.or(lower.log),
            hub: self.hub.over(lower.hub),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// No key left out: a new field does not compile until it stands here.
    pub(in crate::config) fn full() -> Layer {
        Layer {
            cache_dir: Some("/c".into()),
            cache_size: Some(DiskShare::Percent(80)),
            min_free: Some(ByteSize(1 << 30)),
            offline: Some(true),
            listen: Some("6881".into()),
            max_peers: Some(1),
            max_peers_per_torrent: Some(2),
            max_half_open: Some(3),
            upload_limit: Some(ByteSize(4 << 10)),
            download_limit: Some(ByteSize(5 << 20)),
            memory: Some(ByteSize(6 << 30)),
            read_timeout: Some(TimeSpan(std::time::Duration::from_secs(7))),
            upload: Some(false),
            webrtc: Some(false),
            ice_servers: Some(vec!["stun:a:1".into(), "turn:ada@b".into()]),
            turn_password_file: Some("/turn".into()),
            ice_relay_only: Some(true),
            allow_private_hosts: Some(true),
            trackers: Some(vec!["udp://t:1".into(), "http://u/announce".into()]),
            allow_other: Some(true),
            log: Some("wtfs=debug".into()),
            hub: crate::config::hub::tests::full(),
        }
    }

    fn keys() -> Vec<String> {
        let table = toml::Table::try_from(full()).expect("a table");
        // The hub's keys have a test of their own.
        table.keys().filter(|key| *key != "hub").cloned().collect()
    }

    #[test]
    fn the_documentation_lists_every_key_and_its_variable() {
        let text = include_str!("../../docs/config.md");
        for key in keys() {
            assert!(text.contains(&format!("`{key}`")), "docs/config.md does not explain `{key}`");
            let variable = format!("`WTFS_{}`", key.to_uppercase());
            assert!(text.contains(&variable), "docs/config.md does not name {variable}");
        }
    }

    #[test]
    fn a_file_reads_back_as_it_was_written() {
        let text = toml::to_string(&full()).expect("written");
        assert_eq!(toml::from_str::<Layer>(&text).expect("read"), full());
    }

    #[test]
    fn every_key_has_its_variable() {
        let environment = Environment::from([
            ("WTFS_CACHE_DIR", "/c"),
            ("WTFS_CACHE_SIZE", "80%"),
            ("WTFS_MIN_FREE", "1G"),
            ("WTFS_OFFLINE", "true"),
            ("WTFS_LISTEN", "6881"),
            ("WTFS_MAX_PEERS", "1"),
            ("WTFS_MAX_PEERS_PER_TORRENT", "2"),
            ("WTFS_MAX_HALF_OPEN", "3"),
            ("WTFS_UPLOAD_LIMIT", "4K"),
            ("WTFS_DOWNLOAD_LIMIT", "5M"),
            ("WTFS_MEMORY", "6G"),
            ("WTFS_READ_TIMEOUT", "7s"),
            ("WTFS_UPLOAD", "false"),
            ("WTFS_WEBRTC", "false"),
            ("WTFS_ICE_SERVERS", "stun:a:1 turn:ada@b"),
            ("WTFS_TURN_PASSWORD_FILE", "/turn"),
            ("WTFS_ICE_RELAY_ONLY", "true"),
            ("WTFS_ALLOW_PRIVATE_HOSTS", "true"),
            ("WTFS_TRACKERS", "udp://t:1 http://u/announce"),
            ("WTFS_ALLOW_OTHER", "true"),
            ("WTFS_LOG", "wtfs=debug"),
            ("WTFS_HUB_LISTEN", "80"),
        ]);
        let hub = HubLayer { listen: Some("80".into()), ..HubLayer::default() };
        assert_eq!(Layer::from_environment(&environment).expect("parsed"), Layer { hub, ..full() });
    }

    #[test]
    fn a_variable_that_does_not_parse_is_named() {
        let environment = Environment::from([("WTFS_MEMORY", "much")]);
        let error = Layer::from_environment(&environment).expect_err("refused");
        assert!(format!("{error:#}").contains("WTFS_MEMORY=much"), "{error:#}");
    }

    #[test]
    fn a_missing_key_shows_the_layer_below() {
        assert_eq!(Layer::default().over(full()), full());
        assert_eq!(full().over(Layer::default()), full());
        let lower = Layer { listen: Some("1".into()), ..full() };
        assert_eq!(full().over(lower).listen.as_deref(), Some("6881"));
    }
}
