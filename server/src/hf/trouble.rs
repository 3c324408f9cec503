//! What an error of upstream or of the blobs means for who asked: the one place where that is decided.

use wtfs_proto::hf::ErrorCode;
use wtfs_torrent::hf::UpstreamError;
use wtfs_torrent::hf::blobs::{BlobError, OriginFault};

use super::refusal::{Asker, Refusal};
use super::rights::Denial;

/// What came of a question to upstream that was not answered as hoped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It says no to who asks.
    Denied(Denial),
    /// It knows no such revision.
    Missing,
    /// It knows no such file.
    NoEntry,
    /// It cannot be asked now: what is known already may be used.
    Away(Refusal),
    /// It cannot be used.
    Failed(Refusal),
}

impl Trouble {
    /// Of a question that was asked with a token or without one.
    pub(crate) fn of(error: &UpstreamError, asker: Asker) -> Self {
        match error {
            UpstreamError::NotFound { code: ErrorCode::RevisionNotFound, .. } => Self::Missing,
            UpstreamError::NotFound { code: ErrorCode::EntryNotFound, .. } => Self::NoEntry,
            UpstreamError::NotFound { .. } => Self::Denied(Denial::Hidden),
            UpstreamError::Gated { .. } => Self::Denied(Denial::Gated),
            UpstreamError::Disabled { .. } => Self::Denied(Denial::Disabled),
            // To who shows no token, upstream says so of what it hides.
            UpstreamError::Unauthorized { .. } if asker == Asker::Anonymous => Self::Denied(Denial::Hidden),
            UpstreamError::Unauthorized { .. } => Self::Denied(Denial::BadToken),
            UpstreamError::Forbidden { .. } => Self::Denied(Denial::Hidden),
            UpstreamError::RateLimited { retry_after, .. } => Self::Away(Refusal::RateLimited(*retry_after)),
            UpstreamError::Unavailable { retry_after, .. } => Self::Away(Refusal::Unavailable(*retry_after)),
            UpstreamError::Unreachable(_) => Self::Away(Refusal::Unavailable(None)),
            UpstreamError::Timeout { .. } => Self::Away(Refusal::Timeout),
            UpstreamError::CutShort { .. } | UpstreamError::Expired { .. } => {
                Self::Away(Refusal::BadGateway(error.to_string()))
            }
            // A page for people in the place of an answer is what a captive portal sends.
            UpstreamError::Garbage { .. } => Self::Away(Refusal::BadGateway(error.to_string())),
            _ => Self::Failed(Refusal::BadGateway(error.to_string())),
        }
    }

    /// What is told to who asked, where nothing else can be done.
    pub(crate) fn refusal(self, asker: Asker) -> Refusal {
        match self {
            Self::Denied(denial) => Refusal::Denied(denial, asker),
            Self::Missing => Refusal::Revision("unknown".to_owned()),
            Self::NoEntry => Refusal::Nowhere,
            Self::Away(refusal) | Self::Failed(refusal) => refusal,
        }
    }
}

/// What is told of a blob that could not be read.
pub(crate) fn of_blob(error: &BlobError, asker: Asker) -> Refusal {
    match error {
        BlobError::Origin { error, .. } => {
            let known = error.source.as_deref().and_then(|source| source.downcast_ref::<UpstreamError>());
            match (known.map(|known| Trouble::of(known, asker)), error.fault) {
                // It is listed: that it is not there is upstream's fault.
                (Some(Trouble::Missing | Trouble::NoEntry), _) | (None, OriginFault::Gone) => {
                    Refusal::BadGateway("upstream lists this file and does not have it".to_owned())
                }
                (Some(trouble), _) => trouble.refusal(asker),
                (None, OriginFault::Transient) => Refusal::Unavailable(error.retry_after),
                (None, OriginFault::Forbidden) => Refusal::Denied(Denial::Gated, asker),
                (None, OriginFault::Lying) => Refusal::BadGateway(error.why.to_string()),
                (None, OriginFault::Offline) => Refusal::Offline,
            }
        }
        BlobError::Timeout { .. } => Refusal::Timeout,
        BlobError::Offline => Refusal::Offline,
        BlobError::Corrupt | BlobError::Replaced => {
            Refusal::BadGateway("what upstream sends is not what the file's hash says".to_owned())
        }
        BlobError::NoSpace => Refusal::Full,
        BlobError::Closed => Refusal::Unavailable(None),
        _ => Refusal::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_hidden_or_missing_only_on_upstreams_word() {
        let host = || "hub.example".to_owned();
        let not_found = |code| UpstreamError::NotFound { host: host(), code, commit: None };
        let unauthorized = UpstreamError::Unauthorized { host: host() };
        let of = |error: &UpstreamError| Trouble::of(error, Asker::SignedIn);
        assert_eq!(of(&not_found(ErrorCode::RepoNotFound)), Trouble::Denied(Denial::Hidden));
        assert_eq!(of(&not_found(ErrorCode::RevisionNotFound)), Trouble::Missing);
        assert_eq!(of(&unauthorized), Trouble::Denied(Denial::BadToken));
        assert_eq!(Trouble::of(&unauthorized, Asker::Anonymous), Trouble::Denied(Denial::Hidden));
        for away in [
            UpstreamError::Timeout { host: host() },
            UpstreamError::Unavailable { host: host(), status: 503, retry_after: None },
            UpstreamError::RateLimited { host: host(), retry_after: None },
            UpstreamError::Garbage { host: host(), why: "a page for people".into() },
        ] {
            assert!(matches!(of(&away), Trouble::Away(_)), "{away}");
        }
        let refused = UpstreamError::Refused { host: host(), why: "this machine" };
        assert!(matches!(of(&refused), Trouble::Failed(Refusal::BadGateway(_))));
    }
}
