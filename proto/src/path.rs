//! Names inside a torrent, made safe once: whatever a [`TorrentPath`] holds can be joined to a directory and stays in
//! it.
//!
//! Invariant: every component is a non-empty UTF-8 string of at most 255 bytes without `/` and NUL that is neither `.`
//! nor `..`; there is at least one; together with the separators they have at most 4,096 bytes. A name that breaks
//! this is refused, with two exceptions that lose nothing: empty components of a list are dropped, as in libtorrent,
//! and bytes that are not UTF-8 are written as `%XX` (U+FFFD would make different names equal). Case, white space and
//! normalisation stay as they came: two names are equal only if their bytes are.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

/// Longest component in bytes: `NAME_MAX` of every common file system.
pub const MAX_COMPONENT_BYTES: usize = 255;

/// Longest path in bytes, separators included: `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4096;

/// Why a name cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// No component, or only empty ones.
    #[error("the name is empty")]
    Empty,
    /// A component that means a directory by position, not a name.
    #[error("'.' and '..' are no names")]
    Dots,
    /// A separator inside a component, an absolute path among them.
    #[error("a component contains '/'")]
    Slash,
    /// A zero byte.
    #[error("a component contains a zero byte")]
    Nul,
    /// A component no file system takes.
    #[error("a component has {bytes} bytes, at most {MAX_COMPONENT_BYTES} are possible")]
    ComponentTooLong {
        /// Its length, after bytes that are not UTF-8 were escaped.
        bytes: usize,
    },
    /// A path no system call takes.
    #[error("the path has more than {MAX_PATH_BYTES} bytes")]
    PathTooLong,
}

/// A relative path of at least one component that cannot leave the directory it is joined to.
///
/// Ordered by components, so that a directory's entries stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentPath {
    components: Box<[String]>,
}

impl TorrentPath {
    /// Checks raw components as a torrent lists them.
    ///
    /// # Errors
    /// [`PathError`] for the first rule broken; empty components are dropped first.
    pub fn from_components<C: AsRef<[u8]>>(raw: impl IntoIterator<Item = C>) -> Result<Self, PathError> {
        let mut components = Vec::new();
        let mut bytes = 0_usize;
        for component in raw {
            let component = component.as_ref();
            if component.is_empty() {
                continue;
            }
            let component = safe_component(component)?;
            bytes += component.len() + usize::from(bytes > 0);
            if bytes > MAX_PATH_BYTES {
                return Err(PathError::PathTooLong);
            }
            components.push(component);
        }
        if components.is_empty() {
            return Err(PathError::Empty);
        }
        Ok(Self { components: components.into() })
    }

    /// The components, outermost first; never empty.
    pub fn components(&self) -> &[String] {
        &self.components
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.components.last().map_or("", String::as_str)
    }

    /// The path for the file system, to be joined to a directory.
    pub fn to_relative_path(&self) -> PathBuf {
        self.components.iter().collect()
    }

    /// What a symbolic link at `link` must contain to lead to this path, both seen from the same directory: up to that
    /// directory, then down.
    pub fn target_from(&self, link: &Self) -> PathBuf {
        let up = std::iter::repeat_n("..", link.components.len() - 1);
        up.chain(self.components.iter().map(String::as_str)).collect()
    }

    /// Whether `other` lies below this path.
    pub fn is_parent_of(&self, other: &Self) -> bool {
        other.components.len() > self.components.len() && other.components.starts_with(&self.components)
    }
}

impl fmt::Display for TorrentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, component) in self.components.iter().enumerate() {
            if at > 0 {
                f.write_str("/")?;
            }
            f.write_str(component)?;
        }
        Ok(())
    }
}

/// One name as a torrent gives it, checked by the rules of this module; bytes that are not UTF-8 become `%XX`.
///
/// # Errors
/// [`PathError`], for an empty name too.
pub fn safe_component(raw: &[u8]) -> Result<String, PathError> {
    match raw {
        b"" => return Err(PathError::Empty),
        b"." | b".." => return Err(PathError::Dots),
        _ if raw.contains(&b'/') => return Err(PathError::Slash),
        _ if raw.contains(&0) => return Err(PathError::Nul),
        // Escaping only makes it longer, so a hostile megabyte need not be copied first.
        _ if raw.len() > MAX_COMPONENT_BYTES => return Err(PathError::ComponentTooLong { bytes: raw.len() }),
        _ => {}
    }
    let name = escape_invalid(raw);
    if name.len() > MAX_COMPONENT_BYTES {
        return Err(PathError::ComponentTooLong { bytes: name.len() });
    }
    Ok(name)
}

fn escape_invalid(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    for chunk in raw.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// Raw components as one short printable line for an error message; never for a file system.
pub(crate) fn printable<C: AsRef<[u8]>>(raw: impl IntoIterator<Item = C>) -> String {
    /// Enough to find the entry, short enough for a line of a log.
    const MAX_CHARS: usize = 120;
    let mut text = String::new();
    for (at, component) in raw.into_iter().enumerate() {
        if at > 0 {
            text.push('/');
        }
        let component = component.as_ref();
        let head = &component[..component.len().min(4 * MAX_CHARS)];
        text.extend(escape_invalid(head).chars().flat_map(char::escape_debug));
        if text.chars().count() > MAX_CHARS {
            return text.chars().take(MAX_CHARS).chain(['…']).collect();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn path(raw: &[&[u8]]) -> Result<TorrentPath, PathError> {
        TorrentPath::from_components(raw)
    }

    #[test]
    fn ordinary_and_unicode_names_stay_as_they_are() {
        let path = path(&[b"data", "größe 模型".as_bytes(), b"..hidden", b" a\\b "]).unwrap();
        assert_eq!(path.to_string(), "data/größe 模型/..hidden/ a\\b ");
        assert_eq!(path.to_relative_path(), Path::new("data/größe 模型/..hidden/ a\\b "));
        assert_eq!(path.file_name(), " a\\b ");
    }

    #[test]
    fn every_hostile_name_is_refused_with_its_reason() {
        let long = [b'x'; 256];
        let cases: [(&[&[u8]], PathError, &str); 10] = [
            (&[], PathError::Empty, "the name is empty"),
            (&[b"", b""], PathError::Empty, "the name is empty"),
            (&[b"a", b"..", b"b"], PathError::Dots, "'.' and '..' are no names"),
            (&[b"."], PathError::Dots, "'.' and '..' are no names"),
            (&[b"/etc/passwd"], PathError::Slash, "a component contains '/'"),
            (&[b"a/../../b"], PathError::Slash, "a component contains '/'"),
            (&[b"a\0b"], PathError::Nul, "a component contains a zero byte"),
            (
                &[&long],
                PathError::ComponentTooLong { bytes: 256 },
                "a component has 256 bytes, at most 255 are possible",
            ),
            (
                &[&[0xff; 100]],
                PathError::ComponentTooLong { bytes: 300 },
                "a component has 300 bytes, at most 255 are possible",
            ),
            (&[&long[..255]; 17], PathError::PathTooLong, "the path has more than 4096 bytes"),
        ];
        for (raw, error, message) in cases {
            assert_eq!(path(raw), Err(error));
            assert_eq!(error.to_string(), message);
        }
        assert!(path(&[&long[..255]; 16]).is_ok(), "4,095 bytes with their separators");
    }

    #[test]
    fn empty_components_are_dropped() {
        assert_eq!(path(&[b"", b"a", b"", b"b", b""]).unwrap().components(), ["a", "b"]);
    }

    #[test]
    fn bytes_that_are_not_utf_8_keep_names_apart() {
        assert_eq!(safe_component(b"caf\xe9"), Ok("caf%E9".into()));
        assert_ne!(safe_component(b"caf\xe9"), safe_component(b"caf\xe8"));
    }

    #[test]
    fn links_go_up_to_the_torrent_and_no_further() {
        let target = path(&[b"a", b"x"]).unwrap();
        assert_eq!(target.target_from(&path(&[b"link"]).unwrap()), Path::new("a/x"));
        assert_eq!(target.target_from(&path(&[b"b", b"c", b"link"]).unwrap()), Path::new("../../a/x"));
    }

    #[test]
    fn a_parent_is_a_parent_by_whole_components() {
        let ab = path(&[b"a", b"b"]).unwrap();
        assert!(path(&[b"a"]).unwrap().is_parent_of(&ab));
        assert!(!ab.is_parent_of(&ab));
        assert!(!path(&[b"a"]).unwrap().is_parent_of(&path(&[b"ab", b"c"]).unwrap()));
    }

    #[test]
    fn printable_names_are_short_and_have_no_control_characters() {
        assert_eq!(printable([&b"a\nb"[..], b"\xff", b"\0"]), "a\\nb/%FF/\\0");
        assert_eq!(printable([[b'x'; 1000]]).chars().count(), 121);
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_directory_it_is_joined_to(
            raw in prop::collection::vec(prop_oneof![any::<Vec<u8>>(), "[./a\u{0}]{0,4}".prop_map(String::into_bytes)], 0..6)
        ) {
            if let Ok(path) = TorrentPath::from_components(&raw) {
                let relative = path.to_relative_path();
                prop_assert!(relative.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(relative.components().count(), path.components().len());
                prop_assert!(relative.as_os_str().len() <= MAX_PATH_BYTES);
                prop_assert_eq!(TorrentPath::from_components(path.components()), Ok(path.clone()));
            }
        }
    }
}
