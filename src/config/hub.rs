//! The keys of the hub: the table `[hub]` of config.toml, the variables `WTFS_HUB_*`, and what they come to.
//!
//! As in `layer.rs`, a missing key shows the layer below. A new key goes into [`HubLayer`], its two functions, what
//! makes a [`HubConfig`] of it, and docs/config.md; tests fail for each place that was forgotten.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wtfs_server::{
    AccessLog, Audience, HfConfig, HfMode, HubConfig, PrivateSwarms, PublicUrl, TlsFiles, TrustedProxies,
    listen,
};
use wtfs_torrent::SessionConfig;

use super::{Directories, Environment};
use crate::exit::{Exit, OrEnd as _, ended};
use crate::logging::AccessLines;
use crate::units::TimeSpan;

/// The port of HTTP and of the UDP tracker when none is given.
const DEFAULT_PORT: u16 = 8080;

/// The keys of `[hub]`; `WTFS_HUB_` and a key in capitals is its variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HubLayer {
    /// Directories whose entries are shared.
    pub(crate) roots: Option<Vec<PathBuf>>,
    /// `PORT`, `ADDRESS` or `ADDRESS:PORT` of HTTP and the UDP tracker.
    pub(crate) listen: Option<String>,
    /// Where others reach the hub.
    pub(crate) public_url: Option<String>,
    /// Whether there is a UDP tracker.
    pub(crate) udp: Option<bool>,
    /// How long a file must have been left alone before it is hashed.
    pub(crate) quiet: Option<TimeSpan>,
    /// How often the roots are looked through.
    pub(crate) rescan: Option<TimeSpan>,
    /// Connections in all.
    pub(crate) max_connections: Option<usize>,
    /// Connections from one address.
    pub(crate) max_connections_per_ip: Option<usize>,
    /// How long a client may take for a request's head, and idle.
    pub(crate) header_timeout: Option<TimeSpan>,
    /// How long a client may take nothing of a response.
    pub(crate) write_timeout: Option<TimeSpan>,
    /// How long responses may go on after the hub is told to stop.
    pub(crate) grace: Option<TimeSpan>,
    /// Networks of reverse proxies.
    pub(crate) trusted_proxies: Option<Vec<String>>,
    /// The certificate chain, in PEM.
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    pub(crate) tls_key: Option<PathBuf>,
    /// Whether and how requests are logged.
    pub(crate) access_log: Option<AccessLines>,
    /// Who may see `/metrics`.
    pub(crate) metrics_allow: Option<Vec<String>>,
    /// Who may see the dashboard and `/stats`.
    pub(crate) stats_allow: Option<Vec<String>>,
    /// When clients of the HTTP and UDP tracker are asked to come back.
    pub(crate) announce_interval: Option<TimeSpan>,
    /// The same for web sockets.
    pub(crate) websocket_interval: Option<TimeSpan>,
    /// Announces a second from one address.
    pub(crate) announce_rate: Option<u32>,
    /// Web sockets open at once.
    pub(crate) max_websockets: Option<usize>,
    /// Web sockets of one address.
    pub(crate) max_websockets_per_ip: Option<usize>,
    /// A file of the only info hashes that are tracked.
    pub(crate) allow_file: Option<PathBuf>,
    /// A file of info hashes that are not tracked.
    pub(crate) deny_file: Option<PathBuf>,
    /// Words of which one must stand in announce URLs.
    pub(crate) passkeys: Option<Vec<String>>,
    /// Web pages that may open web sockets.
    pub(crate) origins: Option<Vec<String>>,
    /// Whether Hugging Face is served at all.
    pub(crate) hf: Option<bool>,
    /// The Hugging Face hub that is asked.
    pub(crate) hf_upstream: Option<String>,
    /// Further hosts that it may redirect to.
    pub(crate) hf_allow_upstream_hosts: Option<Vec<String>>,
    /// A file with the hub's own token.
    pub(crate) hf_token_file: Option<PathBuf>,
    /// Who may read with the hub's own token.
    pub(crate) hf_token_allow: Option<Vec<String>>,
    /// Whether only the cache is served.
    pub(crate) hf_offline: Option<bool>,
    /// Private and gated repositories of which there are torrents too; `all` is all of them.
    pub(crate) hf_swarm_private: Option<Vec<String>>,
    /// How long a branch is believed to mean the same commit.
    pub(crate) hf_ref_ttl: Option<TimeSpan>,
    /// How long a token's right is believed.
    pub(crate) hf_grant_ttl: Option<TimeSpan>,
    /// How much longer while upstream is away.
    pub(crate) hf_stale_grants: Option<TimeSpan>,
}

impl HubLayer {
    pub(super) fn from_environment(environment: &Environment) -> anyhow::Result<Self> {
        let list = |name: &str| -> anyhow::Result<Option<Vec<String>>> {
            let text = environment.text(name)?;
            Ok(text.map(|list| list.split_whitespace().map(str::to_owned).collect()))
        };
        // Paths may hold blanks: as in PATH, a colon stands between them.
        let roots = environment.path("WTFS_HUB_ROOTS");
        Ok(Self {
            roots: roots.map(|roots| std::env::split_paths(&roots).collect()),
            listen: environment.text("WTFS_HUB_LISTEN")?,
            public_url: environment.text("WTFS_HUB_PUBLIC_URL")?,
            udp: environment.parse("WTFS_HUB_UDP")?,
            quiet: environment.parse("WTFS_HUB_QUIET")?,
            rescan: environment.parse("WTFS_HUB_RESCAN")?,
            max_connections: environment.parse("WTFS_HUB_MAX_CONNECTIONS")?,
            max_connections_per_ip: environment.parse("WTFS_HUB_MAX_CONNECTIONS_PER_IP")?,
            header_timeout: environment.parse("WTFS_HUB_HEADER_TIMEOUT")?,
            write_timeout: environment.parse("WTFS_HUB_WRITE_TIMEOUT")?,
            grace: environment.parse("WTFS_HUB_GRACE")?,
            trusted_proxies: list("WTFS_HUB_TRUSTED_PROXIES")?,
            tls_cert: environment.path("WTFS_HUB_TLS_CERT"),
            tls_key: environment.path("WTFS_HUB_TLS_KEY"),
            access_log: environment.parse("WTFS_HUB_ACCESS_LOG")?,
            metrics_allow: list("WTFS_HUB_METRICS_ALLOW")?,
            stats_allow: list("WTFS_HUB_STATS_ALLOW")?,
            announce_interval: environment.parse("WTFS_HUB_ANNOUNCE_INTERVAL")?,
            websocket_interval: environment.parse("WTFS_HUB_WEBSOCKET_INTERVAL")?,
            announce_rate: environment.parse("WTFS_HUB_ANNOUNCE_RATE")?,
            max_websockets: environment.parse("WTFS_HUB_MAX_WEBSOCKETS")?,
            max_websockets_per_ip: environment.parse("WTFS_HUB_MAX_WEBSOCKETS_PER_IP")?,
            allow_file: environment.path("WTFS_HUB_ALLOW_FILE"),
            deny_file: environment.path("WTFS_HUB_DENY_FILE"),
            passkeys: list("WTFS_HUB_PASSKEYS")?,
            origins: list("WTFS_HUB_ORIGINS")?,
            hf: environment.parse("WTFS_HUB_HF")?,
            hf_upstream: environment.text("WTFS_HUB_HF_UPSTREAM")?,
            hf_allow_upstream_hosts: list("WTFS_HUB_HF_ALLOW_UPSTREAM_HOSTS")?,
            hf_token_file: environment.path("WTFS_HUB_HF_TOKEN_FILE"),
            hf_token_allow: list("WTFS_HUB_HF_TOKEN_ALLOW")?,
            hf_offline: environment.parse("WTFS_HUB_HF_OFFLINE")?,
            hf_swarm_private: list("WTFS_HUB_HF_SWARM_PRIVATE")?,
            hf_ref_ttl: environment.parse("WTFS_HUB_HF_REF_TTL")?,
            hf_grant_ttl: environment.parse("WTFS_HUB_HF_GRANT_TTL")?,
            hf_stale_grants: environment.parse("WTFS_HUB_HF_STALE_GRANTS")?,
        })
    }

    /// This layer on top of `lower`.
    pub(super) fn over(self, lower: Self) -> Self {
        Self {
            roots: self.roots.or(lower.roots),
            listen: self.listen.or(lower.listen),
            public_url: self.public_url.or(lower.public_url),
            udp: self.udp.or(lower.udp),
            quiet: self.quiet.or(lower.quiet),
            rescan: self.rescan.or(lower.rescan),
            max_connections: self.max_connections.or(lower.max_connections),
            max_connections_per_ip: self.max_connections_per_ip.or(lower.max_connections_per_ip),
            header_timeout: self.header_timeout.or(lower.header_timeout),
            write_timeout: self.write_timeout.or(lower.write_timeout),
            grace: self.grace.or(lower.grace),
            trusted_proxies: self.trusted_proxies.or(lower.trusted_proxies),
            tls_cert: self.tls_cert.or(lower.tls_cert),
            tls_key: self.tls_key.or(lower.tls_key),
            access_log: self.access_log.or(lower.access_log),
            metrics_allow: self.metrics_allow.or(lower.metrics_allow),
            stats_allow: self.stats_allow.or(lower.stats_allow),
            announce_interval: self.announce_interval.or(lower.announce_interval),
            websocket_interval: self.websocket_interval.or(lower.websocket_interval),
            announce_rate: self.announce_rate.or(lower.announce_rate),
            max_websockets: self.max_websockets.or(lower.max_websockets),
            max_websockets_per_ip: self.max_websockets_per_ip.or(lower.max_websockets_per_ip),
            allow_file: self.allow_file.or(lower.allow_file),
            deny_file: self.deny_file.or(lower.deny_file),
            passkeys: self.passkeys.or(lower.passkeys),
            origins: self.origins.or(lower.origins),
            hf: self.hf.or(lower.hf),
            hf_upstream: self.hf_upstream.or(lower.hf_upstream),
            hf_allow_upstream_hosts: self.hf_allow_upstream_hosts.or(lower.hf_allow_upstream_hosts),
            hf_token_file: self.hf_token_file.or(lower.hf_token_file),
            hf_token_allow: self.hf_token_allow.or(lower.hf_token_allow),
            hf_offline: self.hf_offline.or(lower.hf_offline),
            hf_swarm_private: self.hf_swarm_private.or(lower.hf_swarm_private),
            hf_ref_ttl: self.hf_ref_ttl.or(lower.hf_ref_ttl),
            hf_grant_ttl: self.hf_grant_ttl.or(lower.hf_grant_ttl),
            hf_stale_grants: self.hf_stale_grants.or(lower.hf_stale_grants),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a UDP tracker is wanted.
    pub(crate) fn udp(&self) -> listen::Udp {
        if self.udp.unwrap_or(true) { listen::Udp::SamePort } else { listen::Udp::Off }
    }

    /// Where to listen.
    pub(crate) fn addrs(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let Some(typed) = &self.listen else { return Ok(listen::everywhere(DEFAULT_PORT)) };
        if let Ok(port) = typed.parse() {
            return Ok(listen::everywhere(port));
        }
        if let Ok(addr) = typed.parse() {
            return Ok(vec![addr]);
        }
        if let Ok(ip) = typed.trim_matches(['[', ']']).parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, DEFAULT_PORT)]);
        }
        Err(ended(Exit::Usage, format!("`{typed}` is not PORT, ADDRESS or ADDRESS:PORT to listen on")))
    }

    /// What the hub is told.
    pub(crate) fn config(
        &self,
        directories: &Directories,
        session: SessionConfig,
    ) -> anyhow::Result<HubConfig> {
        let mut config = HubConfig::new(session.cache_dir.clone());
        config.session = session;
        let roots = self.roots.iter().flatten();
        config.roots = roots.map(|root| directories.expand(root)).collect::<anyhow::Result<_>>()?;
        if let Some(url) = &self.public_url {
            config.public_url = Some(url.parse::<PublicUrl>().or_end(Exit::Usage, || "public_url".into())?);
        }
        if let Some(networks) = &self.trusted_proxies {
            config.trusted_proxies = TrustedProxies::parse(networks.iter().map(String::as_str))
                .or_end(Exit::Usage, || "trusted_proxies".into())?;
        }
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| directories.expand(path)).transpose();
        config.tls = match (file(&self.tls_cert)?, file(&self.tls_key)?) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
            (None, None) => None,
            _ => return Err(ended(Exit::Usage, "tls_cert and tls_key go together".to_owned())),
        };
        config.access_log = match self.access_log {
            None | Some(AccessLines::Off) => AccessLog::Off,
            Some(AccessLines::On | AccessLines::Json) => AccessLog::On,
        };
        let audience = |texts: &[String], key: &str| {
            Audience::parse(texts.iter().map(String::as_str)).or_end(Exit::Usage, || key.to_owned())
        };
        if let Some(texts) = &self.metrics_allow {
            config.metrics_audience = audience(texts, "metrics_allow")?;
        }
        if let Some(texts) = &self.stats_allow {
            config.stats_audience = audience(texts, "stats_allow")?;
        }
        let positive = |value: Option<TimeSpan>, default, key: &str| match value {
            Some(span) if span.0.is_zero() => Err(ended(Exit::Usage, format!("{key} must be more than 0"))),
            Some(span) => Ok(span.0),
            None => Ok(default),
        };
        config.quiet = self.quiet.map_or(config.quiet, |span| span.0);
        config.rescan = positive(self.rescan, config.rescan, "rescan")?;
        let serving = &mut config.serving;
        serving.connections_max = self.max_connections.unwrap_or(serving.connections_max);
        serving.connections_per_ip = self.max_connections_per_ip.unwrap_or(serving.connections_per_ip);
        serving.header_timeout = positive(self.header_timeout, serving.header_timeout, "header_timeout")?;
        serving.write_timeout = positive(self.write_timeout, serving.write_timeout, "write_timeout")?;
        serving.grace = self.grace.map_or(serving.grace, |span| span.0);
        let tracker = &mut config.tracker;
        tracker.interval = positive(self.announce_interval, tracker.interval, "announce_interval")?;
        tracker.socket_interval =
            positive(self.websocket_interval, tracker.socket_interval, "websocket_interval")?;
        // A peer that keeps to a longer interval must not be forgotten before it comes back.
        tracker.peer_timeout =
            tracker.peer_timeout.max(tracker.interval.max(tracker.socket_interval) * 7 / 3);
        tracker.min_interval = tracker.min_interval.min(tracker.interval);
        tracker.requests_per_second = self.announce_rate.unwrap_or(tracker.requests_per_second);
        tracker.sockets.max = self.max_websockets.unwrap_or(tracker.sockets.max);
        tracker.sockets.max_per_subscriber =
            self.max_websockets_per_ip.unwrap_or(tracker.sockets.max_per_subscriber);
        tracker.access.allow_file = file(&self.allow_file)?;
        tracker.access.deny_file = file(&self.deny_file)?;
        tracker.access.passkeys = self.passkeys.clone().unwrap_or_default();
        tracker.access.origins = self.origins.clone().unwrap_or_default();
        config.hf = self.hf(directories)?;
        Ok(config)
    }

    /// What the proxy of Hugging Face is told; `None` where there is to be none.
    fn hf(&self, directories: &Directories) -> anyhow::Result<Option<HfConfig>> {
        if self.hf == Some(false) {
            return Ok(None);
        }
        let mut hf = HfConfig::default();
        if let Some(upstream) = &self.hf_upstream {
            // Read here too, so that a wrong one is a fault of usage.
            upstream.parse::<PublicUrl>().or_end(Exit::Usage, || "hf_upstream".into())?;
            hf.upstream = upstream.clone();
        }
        hf.allowed_hosts = self.hf_allow_upstream_hosts.clone().unwrap_or_default();
        hf.token_file = self.hf_token_file.as_ref().map(|path| directories.expand(path)).transpose()?;
        if let Some(texts) = &self.hf_token_allow {
            hf.token_audience = Audience::parse(texts.iter().map(String::as_str))
                .or_end(Exit::Usage, || "hf_token_allow".into())?;
        }
        hf.mode = if self.hf_offline == Some(true) { HfMode::Offline } else { HfMode::Online };
        if let Some(texts) = &self.hf_swarm_private {
            hf.private_swarms = PrivateSwarms::parse(texts.iter().map(String::as_str))
                .or_end(Exit::Usage, || "hf_swarm_private".into())?;
        }
        hf.ref_ttl = self.hf_ref_ttl.map_or(hf.ref_ttl, |span| span.0);
        hf.grant_ttl = self.hf_grant_ttl.map_or(hf.grant_ttl, |span| span.0);
        hf.stale_grants = self.hf_stale_grants.map_or(hf.stale_grants, |span| span.0);
        Ok(Some(hf))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    /// No key left out: a new field does not compile until it stands here.
    pub(in crate::config) fn full() -> HubLayer {
        let time = |s| Some(TimeSpan(Duration::from_secs(s)));
        HubLayer {
            roots: Some(vec!["/a b".into(), "/c".into()]),
            listen: Some("127.0.0.1:80".into()),
            public_url: Some("https://hub.example".into()),
            udp: Some(false),
            quiet: time(1),
            rescan: time(2),
            max_connections: Some(3),
            max_connections_per_ip: Some(4),
            header_timeout: time(5),
            write_timeout: time(6),
            grace: time(7),
            trusted_proxies: Some(vec!["127.0.0.1".into(), "10.0.0.0/8".into()]),
            tls_cert: Some("/cert.pem".into()),
            tls_key: Some("/key.pem".into()),
            access_log: Some(AccessLines::Json),
            metrics_allow: Some(vec!["10.0.0.0/8".into()]),
            stats_allow: Some(vec!["192.168.0.0/16".into()]),
            announce_interval: time(8),
            websocket_interval: time(9),
            announce_rate: Some(10),
            max_websockets: Some(11),
            max_websockets_per_ip: Some(12),
            allow_file: Some("/allow".into()),
            deny_file: Some("/deny".into()),
            passkeys: Some(vec!["p".into(), "q".into()]),
            origins: Some(vec!["https://a.example".into()]),
            hf: Some(true),
            hf_upstream: Some("https://hf.example".into()),
            hf_allow_upstream_hosts: Some(vec!["cdn.example".into(), "127.0.0.1:9".into()]),
            hf_token_file: Some("/token".into()),
            hf_token_allow: Some(vec!["10.1.0.0/16".into()]),
            hf_offline: Some(true),
            hf_swarm_private: Some(vec!["org/name".into()]),
            hf_ref_ttl: time(13),
            hf_grant_ttl: time(14),
            hf_stale_grants: time(15),
        }
    }

    fn keys() -> Vec<String> {
        toml::Table::try_from(full()).expect("a table").keys().cloned().collect()
    }

    #[test]
    fn the_documentation_lists_every_key_and_its_variable() {
        let text = include_str!("../../docs/config.md");
        for key in keys() {
            let row = format!("| `hub.{key}` | `WTFS_HUB_{}`", key.to_uppercase());
            assert!(text.contains(&row), "docs/config.md has no row that begins {row}");
        }
    }

    #[test]
    fn every_key_has_its_variable() {
        let environment = Environment::from([
            ("WTFS_HUB_ROOTS", "/a b:/c"),
            ("WTFS_HUB_LISTEN", "127.0.0.1:80"),
            ("WTFS_HUB_PUBLIC_URL", "https://hub.example"),
            ("WTFS_HUB_UDP", "false"),
            ("WTFS_HUB_QUIET", "1s"),
            ("WTFS_HUB_RESCAN", "2s"),
            ("WTFS_HUB_MAX_CONNECTIONS", "3"),
            ("WTFS_HUB_MAX_CONNECTIONS_PER_IP", "4"),
            ("WTFS_HUB_HEADER_TIMEOUT", "5s"),
            ("WTFS_HUB_WRITE_TIMEOUT", "6s"),
            ("WTFS_HUB_GRACE", "7s"),
            ("WTFS_HUB_TRUSTED_PROXIES", "127.0.0.1 10.0.0.0/8"),
            ("WTFS_HUB_TLS_CERT", "/cert.pem"),
            ("WTFS_HUB_TLS_KEY", "/key.pem"),
            ("WTFS_HUB_ACCESS_LOG", "json"),
            ("WTFS_HUB_METRICS_ALLOW", "10.0.0.0/8"),
            ("WTFS_HUB_STATS_ALLOW", "192.168.0.0/16"),
            ("WTFS_HUB_ANNOUNCE_INTERVAL", "8s"),
            ("WTFS_HUB_WEBSOCKET_INTERVAL", "9s"),
            ("WTFS_HUB_ANNOUNCE_RATE", "10"),
            ("WTFS_HUB_MAX_WEBSOCKETS", "11"),
            ("WTFS_HUB_MAX_WEBSOCKETS_PER_IP", "12"),
            ("WTFS_HUB_ALLOW_FILE", "/allow"),
            ("WTFS_HUB_DENY_FILE", "/deny"),
            ("WTFS_HUB_PASSKEYS", "p q"),
            ("WTFS_HUB_ORIGINS", "https://a.example"),
            ("WTFS_HUB_HF", "true"),
            ("WTFS_HUB_HF_UPSTREAM", "https://hf.example"),
            ("WTFS_HUB_HF_ALLOW_UPSTREAM_HOSTS", "cdn.example 127.0.0.1:9"),
            ("WTFS_HUB_HF_TOKEN_FILE", "/token"),
            ("WTFS_HUB_HF_TOKEN_ALLOW", "10.1.0.0/16"),
            ("WTFS_HUB_HF_OFFLINE", "true"),
            ("WTFS_HUB_HF_SWARM_PRIVATE", "org/name"),
            ("WTFS_HUB_HF_REF_TTL", "13s"),
            ("WTFS_HUB_HF_GRANT_TTL", "14s"),
            ("WTFS_HUB_HF_STALE_GRANTS", "15s"),
        ]);
        assert_eq!(HubLayer::from_environment(&environment).expect("parsed"), full());
    }

    #[test]
    fn a_missing_key_shows_the_layer_below() {
        assert_eq!(HubLayer::default().over(full()), full());
        assert_eq!(full().over(HubLayer::default()), full());
        let lower = HubLayer { listen: Some("1".into()), ..full() };
        assert_eq!(full().over(lower).listen.as_deref(), Some("127.0.0.1:80"));
    }

    #[test]
    fn every_key_reaches_the_hub() {
        let directories = Directories::of(&Environment::from([("HOME", "/home/ada")]));
        let made = |layer: HubLayer| {
            layer
                .config(&directories, SessionConfig::new("/cache".into()))
                .map(|config| format!("{config:?}"))
        };
        let default = made(HubLayer::default()).expect("made");
        // Taken by the command, not by the hub.
        let elsewhere = ["listen", "udp"];
        let all = toml::Table::try_from(full()).expect("a table");
        for (key, value) in all.clone().into_iter().filter(|(key, _)| !elsewhere.contains(&key.as_str())) {
            // It is on by default, and off is what makes a difference.
            let value = if key == "hf" { toml::Value::Boolean(false) } else { value };
            let mut one = toml::Table::from_iter([(key.clone(), value)]);
            // Neither goes without the other.
            for (key, other) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
                if one.contains_key(key) {
                    one.insert(other.to_owned(), all[other].clone());
                }
            }
            let one: HubLayer = one.try_into().expect("a layer");
            assert_ne!(made(one).expect("made"), default, "{key} changes nothing");
        }
    }

    #[test]
    fn values_that_cannot_work_are_refused() {
        let directories = Directories::of(&Environment::from([("HOME", "/home/ada")]));
        for layer in [
            HubLayer { public_url: Some("hub".into()), ..HubLayer::default() },
            HubLayer { rescan: Some(TimeSpan(Duration::ZERO)), ..HubLayer::default() },
            HubLayer { trusted_proxies: Some(vec!["x".into()]), ..HubLayer::default() },
            HubLayer { tls_cert: Some("/cert.pem".into()), ..HubLayer::default() },
            HubLayer { metrics_allow: Some(vec!["x".into()]), ..HubLayer::default() },
            HubLayer { hf_swarm_private: Some(vec!["org/..".into()]), ..HubLayer::default() },
            HubLayer { stats_allow: Some(vec!["x".into()]), ..HubLayer::default() },
            HubLayer { hf_upstream: Some("ftp://x".into()), ..HubLayer::default() },
            HubLayer { hf_token_allow: Some(vec!["x".into()]), ..HubLayer::default() },
        ] {
            let error = layer.config(&directories, SessionConfig::new("/c".into())).expect_err("refused");
            assert_eq!(crate::exit::exit_of(&error), Exit::Usage);
        }
        let nowhere = HubLayer { listen: Some("all".into()), ..HubLayer::default() };
        assert_eq!(crate::exit::exit_of(&nowhere.addrs().expect_err("refused")), Exit::Usage);
    }

    #[test]
    fn a_place_to_listen_is_read_in_each_form() {
        let read = |typed: &str| {
            HubLayer { listen: Some(typed.into()), ..HubLayer::default() }.addrs().expect("addresses")
        };
        assert_eq!(read("80"), listen::everywhere(80));
        assert_eq!(read("127.0.0.1:1"), [SocketAddr::from(([127, 0, 0, 1], 1))]);
        assert_eq!(read("127.0.0.1"), [SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT))]);
        assert_eq!(read("[::1]:2"), ["[::1]:2".parse::<SocketAddr>().expect("an address")]);
        assert_eq!(HubLayer::default().addrs().expect("addresses"), listen::everywhere(DEFAULT_PORT));
    }
}
