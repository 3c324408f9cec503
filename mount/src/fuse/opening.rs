//! Answering opens: read through this process, or by the kernel from a complete data file (passthrough).
//!
//! Passthrough needs Linux 6.9 and `CAP_SYS_ADMIN`. Where it is not to be had nobody notices but by the speed: the file
//! is then read through this process. Which of the two is decided once for all handles of an inode, see [`Modes`].

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use tokio::runtime::Handle;

use crate::content::BackingFile;
use crate::handles::{HandleId, OpenFile};
use crate::modes::{Candidate, Modes, Opening};
use crate::tree::Caching;

/// Smaller files are read through this process: a few pages are answered sooner than a data file is opened and told
/// to the kernel, and they stay in the kernel's cache over closes.
const PASSTHROUGH_MIN_BYTES: u64 = 256 << 10;

/// How a new handle's file is read.
#[derive(Debug)]
pub(crate) struct Opens {
    modes: Arc<Modes<Backing, Waiting>>,
    runtime: Handle,
    /// Whether the kernel takes data files; false as soon as it says that it never will.
    is_able: Arc<AtomicBool>,
}

/// A data file as the kernel knows it. The kernel lets go of it first, then the hold on the file ends.
#[derive(Debug)]
struct Backing {
    id: BackingId,
    _guard: Box<dyn std::fmt::Debug + Send + Sync>,
}

#[derive(Debug)]
struct Waiting {
    handle: FileHandle,
    flags: FopenFlags,
    reply: ReplyOpen,
}

impl Opens {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { modes: Arc::default(), runtime, is_able: Arc::default() }
    }

    /// The kernel agreed to passthrough.
    pub(crate) fn allow_passthrough(&self) {
        self.is_able.store(true, Ordering::Relaxed);
    }

    /// Answers an open, now or from the pool for blocking work. Never waits.
    pub(crate) fn answer(&self, file: &Arc<OpenFile>, handle: HandleId, flags: FopenFlags, reply: ReplyOpen) {
        let open = Waiting { handle: FileHandle(handle.0), flags, reply };
        if !is_tracked(file) {
            return open.cached();
        }
        let is_candidate = self.is_able.load(Ordering::Relaxed)
            && file.node.bytes >= PASSTHROUGH_MIN_BYTES
            && file.content.is_backed();
        let candidate = if is_candidate { Candidate::Yes } else { Candidate::No };
        match self.modes.open(file.node.ino, candidate, open) {
            Opening::Cached(open) => open.cached(),
            Opening::Direct(open, backing) => open.direct(&backing),
            Opening::Queued => {}
            Opening::Decide(open, decision) => {
                let (file, is_able) = (Arc::clone(file), Arc::clone(&self.is_able));
                self.runtime.spawn_blocking(move || {
                    let backing = file.content.backing_file().and_then(|data| open.back(data, &is_able));
                    let (backing, waiting) = decision.settle(backing);
                    for open in std::iter::once(open).chain(waiting) {
                        match &backing {
                            Some(backing) => open.direct(backing),
                            None => open.cached(),
                        }
                    }
                });
            }
        }
    }

    /// A handle is closed; its file as [`Opens::answer`] saw it.
    pub(crate) fn closed(&self, file: &OpenFile) {
        if is_tracked(file) {
            self.modes.close(file.node.ino);
        }
    }
}

/// What changes by itself is read past every cache, which the kernel allows beside any other way.
fn is_tracked(file: &OpenFile) -> bool {
    file.node.caching != Caching::Volatile
}

impl Waiting {
    /// Tells the kernel of a data file.
    fn back(&self, data: BackingFile, is_able: &AtomicBool) -> Option<Backing> {
        match self.reply.open_backing(&data.file) {
            Ok(id) => Some(Backing { id, _guard: data.guard }),
            Err(error) => {
                if is_final(&error) && is_able.swap(false, Ordering::Relaxed) {
                    tracing::debug!(
                        "local files are read through this process: passthrough is refused: {error}"
                    );
                }
                None
            }
        }
    }

    fn cached(self) {
        self.reply.opened(self.handle, self.flags);
    }

    fn direct(self, backing: &Backing) {
        // Whatever concerns the page cache is not this file's any more, and the kernel refuses it beside passthrough.
        let flags = self.flags & FopenFlags::FOPEN_NOFLUSH;
        self.reply.opened_passthrough(self.handle, flags, &backing.id);
    }
}

/// No privilege, no such call: it will be so for every file. A file system that cannot back is a matter of one file.
fn is_final(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOTTY | libc::ENOSYS))
}
