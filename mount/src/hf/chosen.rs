//! Files that somebody named: by a path in the mount, or by repository, revision and path.
//!
//! Nothing is asked of anybody: what is named must be known, as it is once it was looked up or pinned.

use std::ffi::OsStr;

use wtfs_proto::hf::{FilePath, Repo, Revision, TreeFile};

use super::HfTree;
use super::place::Shown;
use super::source::RepoRevision;
use super::space::Item;
use crate::catalog::Catalog;
use crate::errno::FsError;
use crate::inode::InodeNo;
use crate::tree::Tree as _;

/// Files of one revision.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// Which revision.
    pub revision: RepoRevision,
    /// Which of its files; at least one.
    pub files: Vec<TreeFile>,
}

/// Why a name means no files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChoiceError {
    /// There is nothing of that name.
    #[error("there is no such file or directory")]
    NotThere,
    /// It is a directory above repositories, or beside them.
    #[error("it is in no repository; name one, or something in it")]
    NoRepository,
    /// A directory without files.
    #[error("there are no files in it")]
    Empty,
}

impl HfTree {
    /// The files at and below `path`, which is relative to the mount and goes through no links.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub fn files_at(&self, path: &str) -> Result<Chosen, ChoiceError> {
        let mut at = InodeNo::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty() && *name != ".") {
            let found = self.lookup(at, OsStr::new(name));
            at = found
                .map_err(|error| match error {
                    FsError::NotADirectory | FsError::NotFound => ChoiceError::NotThere,
                    _ => ChoiceError::NoRepository,
                })?
                .ino;
        }
        match self.item(at) {
            Some(Item::Place(place)) => {
                let top = place.find(at).ok_or(ChoiceError::NotThere)?;
                chosen(&place.shown, |path| is_below(&place.shown.catalog, top, path))
            }
            Some(Item::Files(shown)) => {
                let (_, file) = shown.file(at).ok_or(ChoiceError::NotThere)?;
                Ok(Chosen { revision: shown.revision.clone(), files: vec![file.clone()] })
            }
            Some(Item::Spot(_)) | None => Err(ChoiceError::NoRepository),
        }
    }

    /// The files at and below `path` of the repository that is the root, whether its root or a directory of it is; all of them
    /// without one.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub fn files_of_root(&self, path: Option<&FilePath>) -> Result<Chosen, ChoiceError> {
        match self.item(InodeNo::ROOT) {
            Some(Item::Place(place)) => below(&place.shown, path),
            _ => Err(ChoiceError::NoRepository),
        }
    }

    /// The files at and below `path` of a revision that was pinned; all of them without one.
    ///
    /// # Errors
    /// [`ChoiceError`].
    pub fn files_of(
        &self,
        repo: &Repo,
        revision: &Revision,
        path: Option<&FilePath>,
    ) -> Result<Chosen, ChoiceError> {
        let shown = self.with(|space| space.resolved(repo, revision)).ok_or(ChoiceError::NotThere)?;
        below(&shown, path)
    }
}

fn below(shown: &Shown, path: Option<&FilePath>) -> Result<Chosen, ChoiceError> {
    let Some(path) = path else { return chosen(shown, |_| true) };
    let below = format!("{path}/");
    let found = chosen(shown, |file| file == path || file.as_str().starts_with(&below));
    found.map_err(|_| ChoiceError::NotThere)
}

fn chosen(shown: &Shown, is_meant: impl Fn(&FilePath) -> bool) -> Result<Chosen, ChoiceError> {
    let files = shown.revision.tree.files().iter();
    let files: Vec<TreeFile> = files.filter(|file| is_meant(&file.path)).cloned().collect();
    if files.is_empty() {
        Err(ChoiceError::Empty)
    } else {
        Ok(Chosen { revision: shown.revision.clone(), files })
    }
}

/// Whether a file lies below a directory of its revision.
fn is_below(catalog: &Catalog, top: u32, path: &FilePath) -> bool {
    let mut at = Catalog::ROOT;
    let mut names = path.segments();
    while at != top {
        let Some(next) = names.next().and_then(|name| catalog.lookup(at, OsStr::new(name))) else {
            return false;
        };
        at = next;
    }
    true
}
