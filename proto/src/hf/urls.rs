//! The Hub's addresses: paths below an endpoint, each component percent-encoded.
//!
//! Names of files hold spaces, `#`, `%` and `?`, and a revision with slashes is one component of a path. Paths made here
//! begin with a slash and belong after an endpoint without one (`https://huggingface.co`, `http://hub:8080/hf`).

use std::fmt::Write as _;

use super::{FilePath, Repo, Revision};

/// One component for a URL: all but the unreserved characters of RFC 3986 escaped.
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// A file's path for a URL: the slashes stay.
pub fn encode_path(path: &FilePath) -> String {
    let segments: Vec<String> = path.segments().map(encode_segment).collect();
    segments.join("/")
}

/// What a component of a URL stands for, decoded once. A `%` that begins no escape stands for itself, since some
/// clients do not encode names; `None` for what is not UTF-8.
pub fn decode_segment(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2))
            && let Ok(byte) = u8::try_from(high << 4 | low)
        {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(byte);
            at += 1;
        }
    }
    String::from_utf8(decoded).ok()
}

impl Repo {
    /// `/api/models/org/name`: what the Hub tells of it.
    pub fn api_path(&self) -> String {
        format!("/api/{}/{}", self.kind.api(), self.id)
    }

    /// `/api/models/org/name/{verb}/{revision}`, with `verb` one of `revision`, `tree`, `paths-info`, `commits`.
    pub fn api_path_at(&self, verb: &str, revision: &Revision) -> String {
        format!("{}/{verb}/{}", self.api_path(), encode_segment(revision.as_str()))
    }

    /// `/org/name/resolve/{revision}/{file}`: a file's bytes.
    pub fn resolve_path(&self, revision: &Revision, file: &FilePath) -> String {
        format!("{}{}", self.resolve_root(revision), encode_path(file))
    }

    /// `/org/name/resolve/{revision}/`: what the paths of a revision's files are joined to.
    pub fn resolve_root(&self, revision: &Revision) -> String {
        format!("/{self}/resolve/{}/", encode_segment(revision.as_str()))
    }

    /// `/org/name/raw/{revision}/{file}`: what git holds of a file, which is a pointer for one in LFS.
    pub fn raw_path(&self, revision: &Revision, file: &FilePath) -> String {
        format!("/{self}/raw/{}/{}", encode_segment(revision.as_str()), encode_path(file))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_those_of_the_hub() {
        let repo = Repo::parse("datasets/org/name").expect("a repository");
        let revision = Revision::parse("refs/pr/1").expect("a revision");
        let file = FilePath::parse("sub dir/we ird#1%.bin").expect("a path");
        assert_eq!(repo.api_path(), "/api/datasets/org/name");
        assert_eq!(repo.api_path_at("tree", &revision), "/api/datasets/org/name/tree/refs%2Fpr%2F1");
        assert_eq!(
            repo.resolve_path(&revision, &file),
            "/datasets/org/name/resolve/refs%2Fpr%2F1/sub%20dir/we%20ird%231%25.bin"
        );
        let model = Repo::parse("gpt2").expect("a repository");
        let config = FilePath::parse("config.json").expect("a path");
        assert_eq!(model.raw_path(&Revision::main(), &config), "/gpt2/raw/main/config.json");
    }

    #[test]
    fn a_sign_that_begins_no_escape_is_itself() {
        for (text, decoded) in [("a%20b", "a b"), ("100%", "100%"), ("%zz%2", "%zz%2"), ("%252e", "%2e")] {
            assert_eq!(decode_segment(text).as_deref(), Some(decoded), "{text}");
        }
        assert_eq!(decode_segment("%ff"), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in any::<String>()) {
            let encoded = encode_segment(&text);
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
            prop_assert_eq!(decode_segment(&encoded), Some(text));
        }

        #[test]
        fn nothing_decodes_to_more_than_it_was(text in any::<String>()) {
            if let Some(decoded) = decode_segment(&text) {
                prop_assert!(decoded.len() <= text.len());
            }
        }
    }
}
