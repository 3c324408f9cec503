//! How the proxy is set up. Plain values with defaults.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use wtfs_proto::hf::{NameError, Repo};

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

/// Of which repositories that not everybody may read there are torrents too.
///
/// Such a torrent is given to callers alone whom upstream lets read the repository. But who has its info hash can fetch
/// all of it from its peers, for as long as there are any: a right that is taken back does not take that back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PrivateSwarms {
    /// Of none.
    #[default]
    None,
    /// Of these.
    Of(Vec<Repo>),
    /// Of whatever a caller may read.
    All,
}

/// Neither `all` nor the id of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither 'all' nor the id of a repository: {source}")]
pub struct ParsePrivateSwarmsError {
    text: String,
    source: NameError,
}

impl PrivateSwarms {
    /// Of texts: `all` among them is all, the others are ids: `org/name`, `datasets/org/name`, `spaces/org/name`.
    ///
    /// # Errors
    /// Names the first text that is neither.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, ParsePrivateSwarmsError> {
        let mut repos = Vec::new();
        let mut is_all = false;
        for text in texts {
            match text {
                "all" => is_all = true,
                text => {
                    let wrong = |source| ParsePrivateSwarmsError { text: text.to_owned(), source };
                    repos.push(Repo::parse(text).map_err(wrong)?);
                }
            }
        }
        Ok(match repos {
            _ if is_all => Self::All,
            repos if repos.is_empty() => Self::None,
            repos => Self::Of(repos),
        })
    }

    /// Whether a repository is among them, by its id as upstream has it.
    pub(crate) fn include(&self, repo: &Repo) -> bool {
        match self {
            Self::None => false,
            Self::Of(repos) => repos
                .iter()
                .any(|of| of.kind == repo.kind && of.id.as_str().eq_ignore_ascii_case(repo.id.as_str())),
            Self::All => true,
        }
    }
}

impl fmt::Display for PrivateSwarms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Of(repos) => {
                for (n, repo) in repos.iter().enumerate() {
                    write!(f, "{}{repo}", if n == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::All => f.write_str("all"),
        }
    }
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
    /// How long a client waits for an answer: as long upstream is asked, and a failure is told by a status; half as long
    /// where something older can be served, and a file that is not long is held back until it is verified. Clients give
    /// up after 10 s.
    pub patience: Duration,
    /// Which private and gated repositories peers may be given, too. None by default.
    pub private_swarms: PrivateSwarms,
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
            patience: Duration::from_secs(8),
            private_swarms: PrivateSwarms::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_swarms_are_none_unless_named_and_never_of_a_namesake() {
        let repo = |text| Repo::parse(text).expect("a repository");
        assert!(!PrivateSwarms::default().include(&repo("org/name")));
        assert_eq!(PrivateSwarms::parse([]), Ok(PrivateSwarms::None));
        let some = PrivateSwarms::parse(["org/name", "datasets/org/data"]).expect("ids");
        assert!(some.include(&repo("Org/name")) && some.include(&repo("datasets/org/data")));
        assert!(!some.include(&repo("org/data")) && !some.include(&repo("datasets/org/name")));
        assert!(!some.include(&repo("org/name2")));
        let all = PrivateSwarms::parse(["org/name", "all"]).expect("a word");
        assert!(all == PrivateSwarms::All && all.include(&repo("spaces/x/y")));
        let error = PrivateSwarms::parse(["org/name", "org/x..y"]).expect_err("refused");
        assert!(error.to_string().starts_with("\"org/x..y\" is neither"), "{error}");
        assert!(PrivateSwarms::parse(["everything/../x"]).is_err());
    }
}
