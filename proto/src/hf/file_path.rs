//! Paths of files inside a repository.
//!
//! Invariant: on top of what [`TorrentPath`] promises, no component holds a control character or a backslash, and the
//! text is the components joined by single slashes: a path that was not in that form is refused, not mended, since two
//! spellings of one file would be two keys of a cache.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::path::{PathError, TorrentPath};

/// Why a text is no path of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FilePathError {
    /// A component that cannot be used.
    #[error(transparent)]
    Component(#[from] PathError),
    /// A slash too many: at the beginning, the end, or after another.
    #[error("the path has an empty component")]
    EmptyComponent,
    /// What terminals and other systems take for something else.
    #[error("the path contains a backslash or a control character")]
    Character,
}

/// A safe relative path of a file in a repository. Ordered by its bytes, as git orders files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Box<str>);

impl FilePath {
    /// Checks a path, decoded already.
    ///
    /// # Errors
    /// [`FilePathError`] for the first rule broken.
    pub fn parse(text: &str) -> Result<Self, FilePathError> {
        if text.chars().any(|c| c == '\\' || c.is_control()) {
            return Err(FilePathError::Character);
        }
        TorrentPath::from_components(text.split('/'))?;
        if text.split('/').any(str::is_empty) {
            return Err(FilePathError::EmptyComponent);
        }
        Ok(Self(text.into()))
    }

    /// The path with slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its components, outermost first; never none.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The directory it is in; none at the top.
    pub fn parent(&self) -> Option<Self> {
        Some(Self(self.0.rsplit_once('/')?.0.into()))
    }

    /// Whether it lies below `directory`, at whatever depth.
    pub fn is_below(&self, directory: &Self) -> bool {
        self.0.strip_prefix(&*directory.0).is_some_and(|rest| rest.starts_with('/'))
    }

    /// The path for the file system, to be joined to a directory.
    pub fn to_relative_path(&self) -> PathBuf {
        self.segments().collect()
    }

    /// The path for a torrent.
    pub fn to_torrent_path(&self) -> TorrentPath {
        TorrentPath::from_components(self.segments()).expect("it was checked when it was made")
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_names_of_files_are_names() {
        for text in
            ["config.json", "sub dir/we ird#1%.bin", "größe/模型.bin", ".gitattributes", "a/..b", "a?b"]
        {
            let path = FilePath::parse(text).expect(text);
            assert_eq!((path.as_str(), path.to_torrent_path().to_string()), (text, text.to_owned()));
        }
        let path = FilePath::parse("a/b/c").expect("a path");
        assert_eq!((path.file_name(), path.segments().count()), ("c", 3));
        assert_eq!(path.parent(), FilePath::parse("a/b").ok());
        assert!(path.is_below(&FilePath::parse("a").expect("a path")));
        assert!(!path.is_below(&path) && !FilePath::parse("ab/c").expect("a path").is_below(&path));
    }

    #[test]
    fn paths_that_lead_out_or_have_two_spellings_are_refused() {
        for text in [
            "",
            "/",
            "/etc/passwd",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "./a",
            "a/.",
            "a\0b",
            "a\\b",
            "a\nb",
            "\u{85}",
        ] {
            assert!(FilePath::parse(text).is_err(), "{text:?}");
        }
        assert!(FilePath::parse(&"x".repeat(256)).is_err());
        assert!(FilePath::parse(&["x"; 2100].join("/")).is_err());
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_directory_it_is_joined_to(text in prop_oneof!["[./a%\\\\]{0,8}", any::<String>()]) {
            if let Ok(path) = FilePath::parse(&text) {
                let relative = path.to_relative_path();
                prop_assert!(relative.components().all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(relative.components().count(), path.segments().count());
                prop_assert_eq!(path.to_torrent_path().to_string(), text);
            }
        }
    }
}
