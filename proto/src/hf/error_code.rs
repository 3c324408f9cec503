//! The reasons that the Hub gives for a refusal, as its clients tell them apart: by headers, never by the body.

/// The whole text of `X-Error-Message` by which clients recognise a disabled repository.
pub const DISABLED_MESSAGE: &str = "Access to this resource is disabled.";

/// Why something is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// No such repository, or none that the caller may know of.
    RepoNotFound,
    /// The repository has no such branch, tag or commit.
    RevisionNotFound,
    /// The revision has no such file.
    EntryNotFound,
    /// Its content is for those whom its owner let in.
    GatedRepo,
    /// The Hub took it down.
    DisabledRepo,
}

impl ErrorCode {
    /// The value of `X-Error-Code`. A disabled repository has none: clients know it by [`DISABLED_MESSAGE`].
    pub const fn header(self) -> Option<&'static str> {
        match self {
            Self::RepoNotFound => Some("RepoNotFound"),
            Self::RevisionNotFound => Some("RevisionNotFound"),
            Self::EntryNotFound => Some("EntryNotFound"),
            Self::GatedRepo => Some("GatedRepo"),
            Self::DisabledRepo => None,
        }
    }

    /// What `X-Error-Code` and `X-Error-Message` of an answer say.
    pub fn of_headers(code: Option<&str>, message: Option<&str>) -> Option<Self> {
        let known = [Self::RepoNotFound, Self::RevisionNotFound, Self::EntryNotFound, Self::GatedRepo];
        let by_code = known.into_iter().find(|known| code.is_some() && known.header() == code.map(str::trim));
        by_code.or_else(|| (message.map(str::trim) == Some(DISABLED_MESSAGE)).then_some(Self::DisabledRepo))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_read_as_it_is_written() {
        use ErrorCode::*;
        for code in [RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo] {
            assert_eq!(ErrorCode::of_headers(code.header(), None), Some(code));
        }
        assert_eq!(ErrorCode::of_headers(DisabledRepo.header(), Some(DISABLED_MESSAGE)), Some(DisabledRepo));
        assert_eq!(ErrorCode::of_headers(None, None), None);
        assert_eq!(ErrorCode::of_headers(Some("Proxy error"), Some("x")), None);
    }
}
