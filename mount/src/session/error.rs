//! Why a mount could not be made or taken down; each text says what to do next.

use std::io;
use std::path::PathBuf;

/// Why mounting failed. Nothing is mounted then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// There is nothing at the mount point.
    #[error("{} does not exist: create the directory first", .0.display())]
    Missing(PathBuf),
    /// The mount point is no directory.
    #[error("{} is not a directory; name the directory to mount on last", .0.display())]
    NotADirectory(PathBuf),
    /// A wtfs is mounted there and alive.
    #[error(
        "{} has a wtfs mounted already: `wtfs add {} SOURCE` adds a torrent to it, `wtfs unmount {}` takes it down",
        .0.display(), .0.display(), .0.display()
    )]
    AlreadyMounted(PathBuf),
    /// A mount whose daemon is gone.
    #[error(
        "{} is a stale mount, its daemon is gone: `fusermount3 -u {}` or `wtfs unmount {}` clears it",
        .0.display(), .0.display(), .0.display()
    )]
    Stale(PathBuf),
    /// The mount point cannot be looked at.
    #[error("cannot use {} as a mount point: {error}", .mount_point.display())]
    Unusable {
        /// The place.
        mount_point: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The kernel's device is missing or closed to this user.
    #[error(
        "cannot open /dev/fuse: {0} (it needs the kernel module, `modprobe fuse`, and access for this user)"
    )]
    NoDevice(io::Error),
    /// An ordinary user needs the helper program.
    #[error("fusermount3 is needed to mount as an ordinary user: install the package fuse3")]
    NoHelper,
    /// The administrator has not allowed it.
    #[error("other users may be let in only when /etc/fuse.conf has a line `user_allow_other`")]
    AllowOtherRefused,
    /// The kernel or the helper said no.
    #[error("mounting was refused: {0}")]
    Refused(#[source] io::Error),
    /// The kernel and this process could not agree.
    #[error("the kernel did not accept the file system: {0}")]
    Handshake(#[source] io::Error),
    /// Threads could not be started.
    #[error("cannot start a thread: {0}")]
    Threads(#[source] io::Error),
}

/// Why unmounting failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnmountError {
    /// There is no wtfs at that place.
    #[error("{} has no wtfs mounted; `wtfs status` lists the mounts that are served", .0.display())]
    NotMounted(PathBuf),
    /// In use; answered with a lazy unmount and not seen outside.
    #[error("the mount is in use")]
    Busy,
    /// The kernel or the helper said no.
    #[error("unmounting was refused: {0}")]
    Refused(#[source] io::Error),
    /// It did not end in time.
    #[error("unmounting did not end in time")]
    TimedOut,
}
