//! What can go wrong in a file operation, and the one place where it becomes an errno.
//!
//! Everything above speaks [`FsError`]; raw numbers exist only in [`FsError::errno`], an exhaustive `match` without a
//! wildcard, so that a new variant cannot be forgotten. The cause of a failed read travels inside the error up to
//! the log line: a program sees `EIO`, the operator sees why.

use std::error::Error;
use std::sync::Arc;

/// A cause kept for the log: whatever the content's owner had to say.
pub type Cause = Arc<dyn Error + Send + Sync + 'static>;

/// Why a file operation failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// No entry of that name.
    #[error("no such entry")]
    NotFound,
    /// An inode number the tree no longer knows: its torrent was removed.
    #[error("the entry is gone from the tree")]
    Stale,
    /// A name that no entry can have, because it is longer than a component may be.
    #[error("the name is too long")]
    NameTooLong,
    /// A directory operation on something else.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// An operation that the kind of entry does not have, or arguments out of range.
    #[error("invalid argument")]
    InvalidArgument,
    /// Anything that would change the tree or a file.
    #[error("the file system is read-only")]
    ReadOnly,
    /// What was written makes no torrent, or it cannot be added; the reason is in the log.
    #[error("refused: {0}")]
    Refused(String),
    /// An entry that is not removed; the reason is in the log.
    #[error("not removed: {0}")]
    NotRemoved(String),
    /// More was written than is taken.
    #[error("more than a torrent file or a line may have")]
    TooLarge,
    /// An attribute of a file that is only passing through.
    #[error("not supported")]
    NotSupported,
    /// A handle that was never given out or is closed.
    #[error("no such open file")]
    BadHandle,
    /// All handles are in use.
    #[error("too many open files in this mount")]
    TooManyHandles,
    /// No extended attribute of that name.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is smaller than the value.
    #[error("the value does not fit the buffer")]
    BufferTooSmall,
    /// `SEEK_DATA` or `SEEK_HOLE` at or behind the end of the file.
    #[error("offset is beyond the end of the file")]
    BeyondEnd,
    /// A signal awaits the caller.
    #[error("interrupted by a signal")]
    Interrupted,
    /// The mount is being taken down.
    #[error("the mount is going away")]
    Closing,
    /// Whoever owns the entry does not let this mount's user have it; the cause says what to do.
    #[error("refused by its owner: {0}")]
    Denied(Cause),
    /// Nobody gave the bytes, or the answer to a look-up, before the deadline.
    #[error("no source gave the data in time: {0}")]
    TimedOut(Cause),
    /// The cache's disk is full and nothing could be evicted.
    #[error("no space for the data: {0}")]
    NoSpace(Cause),
    /// The bytes could not be had; never a short read and never zeros instead.
    #[error("read failed: {0}")]
    Io(Cause),
}

/// How loudly a failure is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loudness {
    /// Everyday answers such as "no such entry".
    Quiet,
    /// Somebody did not get bytes they had a right to.
    Warn,
}

impl FsError {
    /// An [`FsError::Io`] around any error.
    pub fn io(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Io(Arc::new(cause))
    }

    /// The errno the kernel gets. Decided here and nowhere else.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            // ESTALE, not ENOENT: the kernel then walks the path again with fresh look-ups before it gives up.
            Self::Stale => libc::ESTALE,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::InvalidArgument => libc::EINVAL,
            Self::ReadOnly => libc::EROFS,
            Self::Refused(_) => libc::EINVAL,
            // Not EINVAL: `rm -f` takes that for a name that cannot exist and says nothing.
            Self::NotRemoved(_) => libc::EBUSY,
            Self::TooLarge => libc::EFBIG,
            // What `cp -p` and `mv` take as "this file system has no such attributes", and go on.
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::BadHandle => libc::EBADF,
            // ENFILE is the system's limit, EMFILE the caller's own: this one is ours, so the system's.
            Self::TooManyHandles => libc::ENFILE,
            Self::NoAttribute => libc::ENODATA,
            Self::BufferTooSmall => libc::ERANGE,
            Self::BeyondEnd => libc::ENXIO,
            Self::Interrupted => libc::EINTR,
            // What the kernel itself answers once the connection is gone: the same thing a moment earlier.
            Self::Closing => libc::ENOTCONN,
            Self::Denied(_) => libc::EACCES,
            // Not ETIMEDOUT: readers know EIO from a failing disk and act on it; few know ETIMEDOUT from read(2).
            Self::TimedOut(_) => libc::EIO,
            Self::NoSpace(_) => libc::ENOSPC,
            Self::Io(_) => libc::EIO,
        }
    }

    pub(crate) fn loudness(&self) -> Loudness {
        match self {
            Self::Denied(_)
            | Self::TimedOut(_)
            | Self::NoSpace(_)
            | Self::Io(_)
            | Self::TooManyHandles => Loudness::Warn,
            Self::NotFound
            | Self::Stale
            | Self::NameTooLong
            | Self::NotADirectory
            | Self::IsADirectory
            | Self::InvalidArgument
            | Self::ReadOnly
            | Self::TooLarge
            | Self::NotSupported
            // Logged where it happened.
            | Self::Refused(_)
            | Self::NotRemoved(_)
            | Self::BadHandle
            | Self::NoAttribute
            | Self::BufferTooSmall
            | Self::BeyondEnd
            | Self::Interrupted
            | Self::Closing => Loudness::Quiet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Arc::new(std::io::Error::other("piece 7 had 0 sources for 60 s"))
    }

    #[test]
    fn every_error_has_the_errno_that_programs_expect() {
        let table = [
            (FsError::NotFound, libc::ENOENT),
            (FsError::Stale, libc::ESTALE),
            (FsError::NameTooLong, libc::ENAMETOOLONG),
            (FsError::NotADirectory, libc::ENOTDIR),
            (FsError::IsADirectory, libc::EISDIR),
            (FsError::InvalidArgument, libc::EINVAL),
            (FsError::ReadOnly, libc::EROFS),
            (FsError::Refused("no torrent".into()), libc::EINVAL),
            (FsError::NotRemoved("in use".into()), libc::EBUSY),
            (FsError::TooLarge, libc::EFBIG),
            (FsError::NotSupported, libc::EOPNOTSUPP),
            (FsError::BadHandle, libc::EBADF),
            (FsError::TooManyHandles, libc::ENFILE),
            (FsError::NoAttribute, libc::ENODATA),
            (FsError::BufferTooSmall, libc::ERANGE),
            (FsError::BeyondEnd, libc::ENXIO),
            (FsError::Interrupted, libc::EINTR),
            (FsError::Closing, libc::ENOTCONN),
            (FsError::Denied(cause()), libc::EACCES),
            (FsError::TimedOut(cause()), libc::EIO),
            (FsError::NoSpace(cause()), libc::ENOSPC),
            (FsError::Io(cause()), libc::EIO),
        ];
        for (error, errno) in table {
            assert_eq!(error.errno(), errno, "{error:?}");
            // The kernel takes only 1..=511 and turns anything else into EINVAL.
            assert!((1..512).contains(&errno));
        }
    }

    #[test]
    fn the_cause_of_a_failed_read_survives_into_the_text() {
        for error in [FsError::TimedOut(cause()), FsError::NoSpace(cause()), FsError::Io(cause())] {
            assert!(error.to_string().contains("piece 7 had 0 sources"), "{error}");
            assert_eq!(error.loudness(), Loudness::Warn);
        }
        assert_eq!(FsError::Interrupted.loudness(), Loudness::Quiet);
    }
}
