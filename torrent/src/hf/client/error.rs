//! Why a hub gave nothing, in the terms that a caller can act on. The texts name hosts, never URLs or tokens.

use std::time::Duration;

use wtfs_proto::hf::{Commit, ErrorCode};

use crate::http::HttpError;

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamSetupError {
    /// The endpoint.
    #[error("the address of a hub is http:// or https:// with a host, and no user, query or fragment")]
    Endpoint,
    /// An allowed host.
    #[error("'{text}' is no host: write host, host:port or *.domain")]
    Host {
        /// What was configured.
        text: String,
    },
}

/// Why a hub gave nothing, or nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// It says that there is no such repository, revision or file. A repository that the caller may not see is not there
    /// either.
    #[error("{host} has no such {}", what(*code))]
    NotFound {
        /// The hub.
        host: String,
        /// What is missing.
        code: ErrorCode,
        /// The commit that has no such file, if it said so.
        commit: Option<Commit>,
    },
    /// The repository's content is for those whom its owner let in.
    #[error("the repository is gated on {host}: its content needs a token of somebody who was let in")]
    Gated {
        /// The hub.
        host: String,
    },
    /// The hub took the repository down.
    #[error("the repository is disabled on {host}")]
    Disabled {
        /// The hub.
        host: String,
    },
    /// It does not know the token.
    #[error("{host} does not accept the token")]
    Unauthorized {
        /// The hub.
        host: String,
    },
    /// The token's rights do not reach so far.
    #[error("{host} does not allow this")]
    Forbidden {
        /// The hub.
        host: String,
    },
    /// It was asked too often.
    #[error("{host} limits how often it is asked")]
    RateLimited {
        /// The hub.
        host: String,
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// It answered that it cannot.
    #[error("{host} answered with HTTP status {status}")]
    Unavailable {
        /// The host that answered.
        host: String,
        /// 408 or 5xx, or what another host says that keeps the files.
        status: u16,
        /// How long to wait, if it said so.
        retry_after: Option<Duration>,
    },
    /// A link to a file's bytes was not accepted any more. A new one is to be asked for.
    #[error("{host} does not accept the link to the file any more")]
    Expired {
        /// The host that keeps the files.
        host: String,
    },
    /// No connection, or one that broke.
    #[error(transparent)]
    Unreachable(HttpError),
    /// It did not answer, or stopped sending.
    #[error("{host} did not answer in time")]
    Timeout {
        /// The host.
        host: String,
    },
    /// It sends us to where we do not go.
    #[error("{host}, to which the hub sends us, is not asked: {why}")]
    Refused {
        /// The host that it named.
        host: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// What came cannot be what was asked for: a page for people, another file's range or length, broken JSON.
    #[error("what {host} sent cannot be used: {why}")]
    Garbage {
        /// The host.
        host: String,
        /// What is wrong with it.
        why: String,
    },
    /// The answer is longer than any that makes sense.
    #[error("the answer of {host} is too long")]
    TooLarge {
        /// The host.
        host: String,
    },
    /// A file's bytes ended before all were there.
    #[error("what {host} sent broke off")]
    CutShort {
        /// The host.
        host: String,
    },
}

fn what(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::RepoNotFound | ErrorCode::GatedRepo | ErrorCode::DisabledRepo => "repository",
        ErrorCode::RevisionNotFound => "revision",
        ErrorCode::EntryNotFound => "file",
    }
}

impl UpstreamError {
    /// Why a host is refused that the configuration may allow.
    pub const NOT_ALLOWED: &str = "it is not among the hosts that are allowed";

    /// Whether asking again later may help, with nothing else changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. }
            | Self::Unavailable { .. }
            | Self::Expired { .. }
            | Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::CutShort { .. } => true,
            Self::NotFound { .. }
            | Self::Gated { .. }
            | Self::Disabled { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Refused { .. }
            | Self::Garbage { .. }
            | Self::TooLarge { .. } => false,
        }
    }

    /// How long the hub asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The error of this module for one of the HTTP client.
    pub(super) fn of_http(error: HttpError) -> Self {
        match error {
            HttpError::Timeout { host } => Self::Timeout { host },
            HttpError::OutOfReach { host, what } => Self::Refused { host, why: what },
            HttpError::TooLarge { host, .. } => Self::TooLarge { host },
            error => Self::Unreachable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_wrong_and_whether_to_come_again() {
        let host = || "hub.example".to_owned();
        let retry_after = Some(Duration::from_secs(3));
        let not_found = |code| UpstreamError::NotFound { host: host(), code, commit: None };
        let cases = [
            (not_found(ErrorCode::RepoNotFound), "hub.example has no such repository", false),
            (not_found(ErrorCode::RevisionNotFound), "hub.example has no such revision", false),
            (not_found(ErrorCode::EntryNotFound), "hub.example has no such file", false),
            (
                UpstreamError::Gated { host: host() },
                "the repository is gated on hub.example: its content needs a token of somebody who was let in",
                false,
            ),
            (UpstreamError::Disabled { host: host() }, "the repository is disabled on hub.example", false),
            (UpstreamError::Unauthorized { host: host() }, "hub.example does not accept the token", false),
            (UpstreamError::Forbidden { host: host() }, "hub.example does not allow this", false),
            (
                UpstreamError::RateLimited { host: host(), retry_after },
                "hub.example limits how often it is asked",
                true,
            ),
            (
                UpstreamError::Unavailable { host: host(), status: 503, retry_after },
                "hub.example answered with HTTP status 503",
                true,
            ),
            (
                UpstreamError::Expired { host: host() },
                "hub.example does not accept the link to the file any more",
                true,
            ),
            (
                UpstreamError::of_http(HttpError::Timeout { host: host() }),
                "hub.example did not answer in time",
                true,
            ),
            (
                UpstreamError::of_http(HttpError::OutOfReach { host: host(), what: "this machine" }),
                "hub.example, to which the hub sends us, is not asked: this machine",
                false,
            ),
            (
                UpstreamError::Garbage { host: host(), why: "it is no JSON".into() },
                "what hub.example sent cannot be used: it is no JSON",
                false,
            ),
            (
                UpstreamError::of_http(HttpError::TooLarge { host: host(), limit: 1 }),
                "the answer of hub.example is too long",
                false,
            ),
            (UpstreamError::CutShort { host: host() }, "what hub.example sent broke off", true),
            (
                UpstreamError::of_http(HttpError::Connect { host: host(), reason: "refused".into() }),
                "could not connect to hub.example: refused",
                true,
            ),
        ];
        for (error, text, is_transient) in cases {
            assert_eq!((error.to_string().as_str(), error.is_transient()), (text, is_transient));
        }
    }
}
