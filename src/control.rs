//! How the commands of one user talk to that user's running processes: a Unix socket each, lines of JSON both ways.
//!
//! The sockets stand in one directory that only their owner may enter; whoever else owns it or may write to it makes
//! it refused, since `/tmp` (the place where `XDG_RUNTIME_DIR` is missing) is everybody's. Shells, service managers and
//! fstab differ in whether they have an `XDG_RUNTIME_DIR`: so an asker looks wherever a socket may stand. One [`Request`] a
//! connection; the reply is one line, after any number of lines of progress. [`socket`] answers, [`asking`] asks.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::ByteRange;

mod asking;
mod socket;

pub(crate) use asking::{ask_all, find_mount, mounts, order};
pub(crate) use socket::{Answers, Carried, Control, Tell};

/// No request is longer: a magnet link with some hundred trackers.
const REQUEST_BYTES_MAX: u64 = 256 << 10;
/// No reply is longer: some thousand torrents.
const REPLY_BYTES_MAX: u64 = 64 << 20;
/// How long either side waits for the other, other than for work to be done. A process that is not stopped may still wait
/// seconds for its turn on a machine with too much to do, and would be told of as if it were not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a running process can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(crate) enum Request {
    /// What it does.
    Status,
    /// What it is, in a few words.
    Who,
    /// Adds a torrent or a repository to a mount.
    Add {
        /// As typed, a path made absolute.
        source: String,
        /// Web seeds besides its own.
        #[serde(default)]
        web_seeds: Vec<String>,
    },
    /// Takes one out of a mount.
    Remove {
        /// The name of its entry, or an info hash of it.
        torrent: String,
        data: Fate,
    },
    /// Keeps files whatever the cache's size says.
    Pin {
        /// Relative to the mount, or hf://...; a directory is all files below it.
        path: String,
    },
    /// Takes that back.
    Unpin {
        /// As above.
        path: String,
    },
    /// Fetches a range of each file.
    Prefetch {
        /// As above.
        path: String,
        range: ByteRange,
    },
}

/// What becomes of the data of a torrent that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    Keep,
    Drop,
}

/// What a process says of itself to be found by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Who {
    pub(crate) pid: u32,
    pub(crate) role: Role,
    /// The mount point, or where the data goes or lies; not UTF-8 is shown as U+FFFD.
    pub(crate) path: Option<String>,
    /// Of a mount of repositories only.
    #[serde(default)]
    pub(crate) shows: Option<Shows>,
}

/// What a mount of repositories shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shows {
    /// Any, below its owner.
    Namespace,
    /// One, as it was asked for.
    Repository { repo: String, revision: String },
}

/// What a process runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Mount,
    Seed,
    Get,
    Serve,
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply<T> {
    Status(T),
    Progress(T),
    Done(T),
    /// The request was understood and could not be carried out; with the code that the command ends with.
    Failed {
        exit: i32,
        sentence: String,
    },
    /// It was no request.
    Error(String),
}

fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
        Ok(()) => check_private(dir),
        Err(error) => Err(error),
    }
}

fn check_private(dir: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(dir)?;
    let is_ours = metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || metadata.mode() & 0o022 != 0 {
        let dir = dir.display();
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{dir} is not this user's alone; remove it, or set XDG_RUNTIME_DIR"),
        ));
    }
    Ok(())
}

#[cfg(test)]
#[path = "control/tests.rs"]
mod tests;
