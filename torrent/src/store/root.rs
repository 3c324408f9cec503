//! The data directory, and the only way into it: component by component, never through a symbolic link.
//!
//! Names come from a torrent and the directory may have been written by anyone who can write there, so each component
//! is opened relative to the descriptor of the one before with `O_NOFOLLOW`: a planted link is an error, never a way
//! out. The data directory's own path is the user's and may contain links. A walk and not `openat2`: container
//! profiles refuse that call, and parents have to be made one by one anyway.
//!
//! Holds no descriptor between calls, so that a thousand idle torrents cost none.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::StoreError;
use super::open_files::Access;

/// Directory a path's last component lies in, and whether a missing one is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parents {
    MustExist,
    Make,
}

/// Whether a new file gets the executable bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Executable {
    Yes,
    No,
}

/// A data file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) fd: OwnedFd,
    pub(crate) bytes: u64,
    mode: Mode,
}

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct DataRoot {
    path: PathBuf,
}

const WALK: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// `NONBLOCK`: a FIFO in a file's place must not hang the open. It means nothing for regular files.
const OPEN: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

impl DataRoot {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The path for messages.
    pub(crate) fn display_path(&self, relative: &Path) -> PathBuf {
        self.path.join(relative)
    }

    /// What tells this directory from another: its inode number and its canonical path. `None` when it is not there.
    pub(crate) fn identity(&self) -> Option<(u64, PathBuf)> {
        let canonical = self.path.canonicalize().ok()?;
        Some((canonical.metadata().ok()?.ino(), canonical))
    }

    /// Opens an existing regular file; `None` when it or a directory above it is missing.
    ///
    /// # Errors
    /// [`StoreError::WrongType`] when anything else is in its place or in a parent's.
    pub(crate) fn open(&self, relative: &Path, access: Access) -> Result<Option<Found>, StoreError> {
        match self.parent(relative, Parents::MustExist)? {
            Some(parent) => self.open_in(&parent, relative, access),
            None => Ok(None),
        }
    }

    /// Opens a regular file for writing; makes it, empty, and the directories above it when they are missing.
    ///
    /// # Errors
    /// As [`DataRoot::open`], and when something cannot be made.
    pub(crate) fn open_or_create(
        &self,
        relative: &Path,
        executable: Executable,
    ) -> Result<Found, StoreError> {
        let path = self.display_path(relative);
        let parent = self
            .parent(relative, Parents::Make)?
            .ok_or_else(|| StoreError::Vanished { path: path.clone() })?;
        let bits = if executable == Executable::Yes { 0o777 } else { 0o666 };
        let flags = OPEN | OFlags::RDWR | OFlags::CREATE;
        let name = last(relative);
        match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(bits)) {
            Ok(fd) => self.regular(fd, relative),
            Err(errno) => Err(self.explain("create", errno, &parent, name, relative, "a file")),
        }
    }

    /// Adds the executable bits wherever the file can be read.
    ///
    /// # Errors
    /// When the system refuses, as for a file of another user.
    pub(crate) fn make_executable(&self, found: &Found, relative: &Path) -> Result<(), StoreError> {
        let readable = found.mode & (Mode::RUSR | Mode::RGRP | Mode::ROTH);
        let wanted = found.mode | Mode::from_raw_mode(readable.as_raw_mode() >> 2);
        if wanted == found.mode {
            return Ok(());
        }
        rustix::fs::fchmod(&found.fd, wanted)
            .map_err(StoreError::errno("make executable", &self.display_path(relative)))
    }

    /// Makes a symbolic link with exactly this text; does nothing when it is there already.
    ///
    /// # Errors
    /// [`StoreError::WrongType`] when something else is in its place.
    pub(crate) fn make_link(&self, relative: &Path, target: &Path) -> Result<(), StoreError> {
        let path = self.display_path(relative);
        let parent = self
            .parent(relative, Parents::Make)?
            .ok_or_else(|| StoreError::Vanished { path: path.clone() })?;
        let name = last(relative);
        match rustix::fs::symlinkat(target, &parent, name) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match rustix::fs::readlinkat(&parent, name, Vec::new()) {
                Ok(found) if found.to_bytes() == target.as_os_str().as_encoded_bytes() => Ok(()),
                Ok(_) => Err(wrong_type(path, "another symbolic link", "a symbolic link")),
                Err(errno) => Err(self.explain("read", errno, &parent, name, relative, "a symbolic link")),
            },
            Err(errno) => Err(StoreError::errno("link", &path)(errno)),
        }
    }

    /// Removes a file or link; a missing one is no error.
    ///
    /// # Errors
    /// When a directory is in its place or the system refuses.
    pub(crate) fn remove_file(&self, relative: &Path) -> Result<(), StoreError> {
        let Some(parent) = self.parent(relative, Parents::MustExist)? else { return Ok(()) };
        let name = last(relative);
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.explain("remove", errno, &parent, name, relative, "a file")),
        }
    }

    /// Removes a directory if it is there and empty.
    ///
    /// # Errors
    /// When the system refuses for any other reason than that it is not empty.
    pub(crate) fn remove_empty_dir(&self, relative: &Path) -> Result<(), StoreError> {
        let Some(parent) = self.parent(relative, Parents::MustExist)? else { return Ok(()) };
        match rustix::fs::unlinkat(&parent, last(relative), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(StoreError::errno("remove", &self.display_path(relative))(errno)),
        }
    }

    /// The directory itself, if it is there.
    pub(crate) fn open_dir(&self) -> Result<Option<OwnedFd>, StoreError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::errno("open", &self.path)(errno)),
        }
    }

    fn open_in(
        &self,
        parent: &OwnedFd,
        relative: &Path,
        access: Access,
    ) -> Result<Option<Found>, StoreError> {
        let flags = match access {
            Access::Read => OPEN | OFlags::RDONLY,
            Access::ReadWrite => OPEN | OFlags::RDWR,
        };
        let name = last(relative);
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => self.regular(fd, relative).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.explain("open", errno, parent, name, relative, "a file")),
        }
    }

    fn regular(&self, fd: OwnedFd, relative: &Path) -> Result<Found, StoreError> {
        let path = self.display_path(relative);
        let stat = rustix::fs::fstat(&fd).map_err(StoreError::errno("stat", &path))?;
        if kind(&stat) != FileType::RegularFile {
            return Err(wrong_type(path, describe(&stat), "a file"));
        }
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Found { fd, bytes, mode: Mode::from_raw_mode(stat.st_mode & 0o7777) })
    }

    fn parent(&self, relative: &Path, parents: Parents) -> Result<Option<OwnedFd>, StoreError> {
        let mut dir = match rustix::fs::open(&self.path, WALK, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT) if parents == Parents::MustExist => return Ok(None),
            Err(Errno::NOENT) => {
                std::fs::create_dir_all(&self.path).map_err(StoreError::at("create", &self.path))?;
                rustix::fs::open(&self.path, WALK, Mode::empty())
                    .map_err(StoreError::errno("open", &self.path))?
            }
            Err(errno) => return Err(StoreError::errno("open", &self.path)(errno)),
        };
        let above = relative.parent().unwrap_or(Path::new(""));
        let mut walked = PathBuf::new();
        for component in above {
            walked.push(component);
            dir = match self.step(&dir, component, &walked, parents)? {
                Some(next) => next,
                None => return Ok(None),
            };
        }
        Ok(Some(dir))
    }

    fn step(
        &self,
        dir: &OwnedFd,
        name: &OsStr,
        walked: &Path,
        parents: Parents,
    ) -> Result<Option<OwnedFd>, StoreError> {
        let open = || rustix::fs::openat(dir, name, WALK | OFlags::NOFOLLOW, Mode::empty());
        let mut opened = open();
        if matches!(opened, Err(Errno::NOENT)) && parents == Parents::Make {
            match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o777)) {
                // Another thread may have been first.
                Ok(()) | Err(Errno::EXIST) => opened = open(),
                Err(errno) => {
                    return Err(StoreError::errno("create directory", &self.display_path(walked))(errno));
                }
            }
        }
        match opened {
            Ok(next) => Ok(Some(next)),
            Err(Errno::NOENT) if parents == Parents::MustExist => Ok(None),
            Err(errno) => Err(self.explain("open", errno, dir, name, walked, "a directory")),
        }
    }

    /// Turns an error of an open into one that says what is in the way.
    fn explain(
        &self,
        op: &'static str,
        errno: Errno,
        dir: &OwnedFd,
        name: &OsStr,
        relative: &Path,
        expected: &'static str,
    ) -> StoreError {
        let path = self.display_path(relative);
        let in_the_way = [Errno::LOOP, Errno::NOTDIR, Errno::ISDIR, Errno::NXIO, Errno::NODEV, Errno::INVAL];
        if in_the_way.contains(&errno)
            && let Ok(stat) = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        {
            return wrong_type(path, describe(&stat), expected);
        }
        StoreError::errno(op, &path)(errno)
    }
}

fn wrong_type(path: PathBuf, found: &'static str, expected: &'static str) -> StoreError {
    StoreError::WrongType { path, found, expected }
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn describe(stat: &Stat) -> &'static str {
    match kind(stat) {
        FileType::RegularFile => "a file",
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Unknown => "something else",
    }
}

/// The last component. A torrent's paths have one; the empty name makes any system call fail with `ENOENT`.
fn last(relative: &Path) -> &OsStr {
    relative.file_name().unwrap_or_default()
}
