//! What a file's content is known by before it is here: the hash that the Hub names it by.
//!
//! Files in LFS or Xet have the SHA-256 of their content, those in git the SHA-1 of git's blob, which covers the length
//! too. Both are what the Hub sends as `ETag` and what its clients name their cached files.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use thiserror::Error;

/// The hash of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentId {
    /// SHA-256 of the bytes.
    Sha256([u8; 32]),
    /// SHA-1 of `blob <length>\0` and the bytes, as git makes it.
    GitSha1([u8; 20]),
}

impl ContentId {
    /// The bytes of the hash, 32 or 20.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(hash) => hash,
            Self::GitSha1(hash) => hash,
        }
    }

    /// The hash in an `ETag` or `X-Linked-Etag`, weak and quoted or not.
    ///
    /// # Errors
    /// [`NotAnId`] when it is neither hash.
    pub fn from_etag(etag: &str) -> Result<Self, NotAnId> {
        let etag = etag.trim();
        etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"').parse()
    }
}

/// A text that is neither 64 nor 40 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a content's hash is 64 (SHA-256) or 40 (git) hexadecimal digits")]
pub struct NotAnId;

impl FromStr for ContentId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if !matches!(text.len(), 40 | 64) {
            return Err(NotAnId);
        }
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| NotAnId)?;
        if let Ok(hash) = <[u8; 32]>::try_from(&bytes[..]) {
            return Ok(Self::Sha256(hash));
        }
        bytes.try_into().map(Self::GitSha1).map_err(|_| NotAnId)
    }
}

impl fmt::Display for ContentId {
    /// Lower-case hexadecimal: what an `ETag` holds between its quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.as_bytes()))
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Sha256(_) => "sha256",
            Self::GitSha1(_) => "git",
        };
        write!(f, "{kind}:{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_says_which_hash_it_is() {
        let (sha256, git) = ("AB".repeat(32), "0c".repeat(20));
        assert_eq!(sha256.parse(), Ok(ContentId::Sha256([0xab; 32])));
        assert_eq!(git.parse(), Ok(ContentId::GitSha1([0x0c; 20])));
        assert_eq!(ContentId::Sha256([0xab; 32]).to_string(), sha256.to_lowercase());
        for text in ["", "abc", &"g".repeat(40), &"a".repeat(63), &"ü".repeat(20)] {
            assert_eq!(text.parse::<ContentId>(), Err(NotAnId), "{text}");
        }
    }

    #[test]
    fn an_etag_is_read_quoted_weak_or_bare() {
        let hash = "0c".repeat(20);
        for etag in [format!("\"{hash}\""), format!("W/\"{hash}\""), hash] {
            assert_eq!(ContentId::from_etag(&etag), Ok(ContentId::GitSha1([0x0c; 20])), "{etag}");
        }
        assert_eq!(ContentId::from_etag("\"x\""), Err(NotAnId));
    }
}
