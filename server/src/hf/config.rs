//! How the proxy is set up. Plain values with defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::audience::Audience;

/// Whether upstream may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HfMode {
    /// It may.
    #[default]
    Online,
    /// Never: what is in the cache is served, and nothing else.
    Offline,
}

/// Settings of the caching proxy of a Hugging Face hub.
#[derive(Debug, Clone)]
pub struct HfConfig {
    /// The hub that is asked, `https://huggingface.co` by default: `http(s)://HOST[:PORT][/PREFIX]`.
    pub upstream: String,
    /// Hosts, besides those of `upstream` and of Hugging Face, that upstream may redirect to, private ones too: `HOST`
    /// or `HOST:PORT`.
    pub allowed_hosts: Vec<String>,
    /// A file with the hub's own token, read at the start: used for callers of `token_audience` who have none.
    pub token_file: Option<PathBuf>,
    /// Who may read with the hub's own token. This machine by default.
    pub token_audience: Audience,
    /// Whether upstream is asked at all.
    pub mode: HfMode,
    /// How long a branch or tag is believed to mean the same commit. Long times hide updates, short ones cost a request
    /// each.
    pub ref_ttl: Duration,
    /// How long it is believed that a repository is public.
    pub public_ttl: Duration,
    /// How long it is believed that a token may read a private or gated repository: as long a revocation may take.
    pub grant_ttl: Duration,
    /// How long it is believed that somebody may not, or that there is no such repository.
    pub denial_ttl: Duration,
    /// How long after `grant_ttl` a token's right still counts while upstream is away. Zero by default.
    pub stale_grants: Duration,
    /// Downloads of files that are not here yet, under way for one client at once.
    pub fetches_per_client: usize,
}

impl Default for HfConfig {
    fn default() -> Self {
        Self {
            upstream: "https://huggingface.co".to_owned(),
            allowed_hosts: Vec::new(),
            token_file: None,
            token_audience: Audience::own_machine(),
            mode: HfMode::Online,
            ref_ttl: Duration::from_secs(30),
            public_ttl: Duration::from_secs(600),
            grant_ttl: Duration::from_secs(300),
            denial_ttl: Duration::from_secs(30),
            stale_grants: Duration::ZERO,
            fetches_per_client: 64,
        }
    }
}
