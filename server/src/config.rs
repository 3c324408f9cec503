//! How a hub is set up. Plain values with defaults; reading files, flags and the environment is the command's business.

use std::path::PathBuf;
use std::time::Duration;

use wtfs_torrent::SessionConfig;

use crate::access_log::AccessLog;
use crate::audience::Audience;
use crate::client_addr::TrustedProxies;
use crate::hf::HfConfig;
use crate::places::PublicUrl;
use crate::serving::ServingConfig;
use crate::tls::TlsFiles;
use crate::tracker::TrackerConfig;

/// Everything a [`Hub`](crate::Hub) can be told at its start.
#[derive(Debug, Clone)]
pub struct HubConfig {
    /// Directories whose entries are shared: each file or directory directly in one is a torrent. They are only read.
    pub roots: Vec<PathBuf>,
    /// The engine: where its cache is and where peers connect to. What the hub remembers of the roots is kept in `hub`
    /// in the cache directory.
    pub session: SessionConfig,
    /// Where others reach the hub; what they call it in their requests if not given.
    pub public_url: Option<PublicUrl>,
    /// The port of the UDP tracker, for the torrents' lists of trackers; `None` where none is served.
    pub udp_port: Option<u16>,
    /// How long a file must have been left alone before it is hashed. Short times hash in vain what is still written.
    pub quiet: Duration,
    /// How often the roots are looked through, whatever the kernel tells of changes.
    pub rescan: Duration,
    /// The tracker.
    pub tracker: TrackerConfig,
    /// Limits of the HTTP server.
    pub serving: ServingConfig,
    /// Reverse proxies whose word about the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// TLS on all listeners of [`Hub::serve`](crate::Hub::serve); `None` is plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Whether requests are logged.
    pub access_log: AccessLog,
    /// Who may see `/metrics`.
    pub metrics_audience: Audience,
    /// Who may see the dashboard and `/stats`.
    pub stats_audience: Audience,
    /// The caching proxy of Hugging Face; `None` serves none.
    pub hf: Option<HfConfig>,
}

impl HubConfig {
    /// The defaults, with no roots and all state under `cache_dir`.
    pub fn new(cache_dir: PathBuf) -> Self {
        Self {
            roots: Vec::new(),
            session: SessionConfig::new(cache_dir),
            public_url: None,
            udp_port: None,
            quiet: Duration::from_secs(2),
            rescan: Duration::from_secs(60),
            tracker: TrackerConfig::default(),
            serving: ServingConfig::default(),
            trusted_proxies: TrustedProxies::default(),
            tls: None,
            access_log: AccessLog::Off,
            metrics_audience: Audience::own_machine(),
            stats_audience: Audience::Everybody,
            hf: Some(HfConfig::default()),
        }
    }
}
