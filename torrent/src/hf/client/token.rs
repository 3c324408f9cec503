//! A secret by which a hub knows who asks. It is shown to nobody: it has no `Display`, and `Debug` hides it.

use std::fmt;
use std::sync::Arc;

use reqwest::header::HeaderValue;
use sha2::{Digest as _, Sha256};

/// Longest token that is sent on; those of the Hub have 37 characters.
const BYTES_MAX: usize = 4096;

/// An access token. Clones share the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// A text that no header could carry as a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is 1 to {BYTES_MAX} visible ASCII characters")]
pub struct TokenError;

impl Token {
    /// Takes a token as it stands in a file or variable; white space around it is dropped.
    ///
    /// # Errors
    /// [`TokenError`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let is_token =
            !text.is_empty() && text.len() <= BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
        if is_token { Ok(Self(text.into())) } else { Err(TokenError) }
    }

    /// The token of an `Authorization` header; `None` for other schemes and for nonsense.
    pub fn of_authorization(header: &str) -> Option<Self> {
        let (scheme, token) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        Self::parse(token).ok()
    }

    /// What stands for the token wherever it is remembered: its SHA-256.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// The `Authorization` header, marked so that the HTTP library hides it too.
    pub(super) fn header(&self) -> HeaderValue {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {}", self.0)).expect("visible ASCII is a header's value");
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_to_nobody() {
        let token = Token::parse(" hf_secret\n").expect("a token");
        assert_eq!(format!("{token:?}"), "Token(hidden)");
        assert!(!format!("{:?}", token.header()).contains("secret"));
        assert_eq!(token.header(), "Bearer hf_secret");
        assert_eq!(token.fingerprint(), <[u8; 32]>::from(Sha256::digest(b"hf_secret")));
    }

    #[test]
    fn what_no_header_carries_is_no_token() {
        for text in ["", " ", "a b", "a\nb", "ü", "a\0", &"x".repeat(BYTES_MAX + 1)] {
            assert_eq!(Token::parse(text), Err(TokenError), "{text:.20}");
        }
        assert!(!TokenError.to_string().contains("secret"));
    }

    #[test]
    fn a_bearer_header_holds_a_token_and_no_other_does() {
        assert_eq!(Token::of_authorization("bearer  hf_x "), Token::parse("hf_x").ok());
        for header in ["", "hf_x", "Basic aGY=", "Bearer", "Bearer ", "Bearer a b"] {
            assert_eq!(Token::of_authorization(header), None, "{header}");
        }
    }
}
