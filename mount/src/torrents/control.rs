//! The directory `.wtfs` in a mount's root: small files whose text is made when they are opened.
//!
//! As in /proc their size reads 0, because it is known only when the text is made, and making it for each `stat` of a
//! mount with a thousand torrents would be dear. They are read past the page cache, so programs read on to the end.

use std::ffi::OsStr;
use std::fmt;
use std::sync::Arc;

use crate::content::{Content, MemoryContent};
use crate::inode::InodeNo;

/// The directory's name.
pub(crate) const NAME: &str = ".wtfs";

/// The directory's number.
pub(crate) const DIRECTORY: InodeNo = InodeNo::own(2);

/// The number of the first file.
const FIRST_FILE: u32 = 3;

/// One control file.
#[derive(Clone)]
pub struct ControlFile {
    name: String,
    render: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
    writing: Writing,
}

/// Whether a control file can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writing {
    Refused,
    TakesLines,
}

impl ControlFile {
    /// A file `.wtfs/<name>` whose bytes `render` makes at each opening. It runs on a thread that serves the kernel and
    /// must not wait for anything.
    pub fn new(name: impl Into<String>, render: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self { name: name.into(), render: Arc::new(render), writing: Writing::Refused }
    }

    /// The file `.wtfs/<name>` into which lines are written that name sources to add; reading it shows `help`. One per
    /// mount, for a mount with a [`Control`](crate::Control).
    pub fn for_sources(name: impl Into<String>, help: &'static str) -> Self {
        Self { writing: Writing::TakesLines, ..Self::new(name, move || help.into()) }
    }
}

impl fmt::Debug for ControlFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of them; fixed for the life of the mount.
#[derive(Debug)]
pub(crate) struct ControlFiles(Vec<ControlFile>);

impl ControlFiles {
    pub(crate) fn new(files: Vec<ControlFile>) -> Self {
        Self(files)
    }

    fn ino(at: usize) -> Option<InodeNo> {
        let at = u32::try_from(at).ok()?;
        Some(InodeNo::own(FIRST_FILE.checked_add(at)?))
    }

    fn at(&self, ino: InodeNo) -> Option<&ControlFile> {
        let at = ino.get().checked_sub(u64::from(FIRST_FILE))?;
        self.0.get(usize::try_from(at).ok()?)
    }

    pub(crate) fn contains(&self, ino: InodeNo) -> bool {
        self.at(ino).is_some()
    }

    /// The one that takes lines.
    pub(crate) fn lines_file(&self) -> Option<InodeNo> {
        Self::ino(self.0.iter().position(|file| file.writing == Writing::TakesLines)?)
    }

    pub(crate) fn lookup(&self, name: &OsStr) -> Option<InodeNo> {
        Self::ino(self.0.iter().position(|file| OsStr::new(&file.name) == name)?)
    }

    /// Names and numbers behind the position `after`, which counts from 1.
    pub(crate) fn after(&self, after: u64) -> impl Iterator<Item = (u64, &str, InodeNo)> {
        let skip = usize::try_from(after).unwrap_or(usize::MAX);
        let files = self.0.iter().enumerate().skip(skip);
        files.filter_map(|(at, file)| Some((at as u64 + 1, file.name.as_str(), Self::ino(at)?)))
    }

    pub(crate) fn open(&self, ino: InodeNo) -> Option<Arc<dyn Content>> {
        Some(Arc::new(MemoryContent::new((self.at(ino)?.render)())))
    }
}
