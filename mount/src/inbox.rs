//! What programs are writing into the mount: `.torrent` files on their way into the root, and lines for `.wtfs/add`.
//!
//! Keeps bytes in memory, bounded, and says when an [`Errand`] is complete; others run it. Knows neither FUSE nor the
//! engine. Its handles have the top bit set, so that none is ever mistaken for one of the handle table.
//!
//! When a request is complete: a `.torrent` when its writer closes it, because closing reports an error to `cp`; a line
//! when it ends, because a shell looks at the result of `write` and not of `close`; a line without an end at close.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use crate::errno::FsError;
use crate::handles::HandleId;
use crate::inode::InodeNo;
use crate::tree::{Caching, Node, NodeKind};

/// Longest `.torrent` taken.
const TORRENT_BYTES_MAX: usize = 32 << 20;

/// Longest line taken; a magnet with a hundred trackers has a tenth of it.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Files written at once. With their bounds this bounds the memory.
const LETTERS_MAX: usize = 16;

const TORRENT_SUFFIX: &[u8] = b".torrent";

/// Marks this table's handles.
const HANDLE_BIT: u64 = 1 << 63;

/// Numbers of files being written, far from those of the mount's other own entries.
const FIRST_INO: u32 = 1 << 30;

/// What is to be done with something that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Errand {
    Torrent(Bytes),
    Sources(Vec<String>),
}

/// Files being written.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    letters: Mutex<Letters>,
}

#[derive(Debug, Default)]
struct Letters {
    by_handle: HashMap<u64, Letter>,
    next: u32,
}

#[derive(Debug)]
struct Letter {
    kind: Kind,
    bytes: Vec<u8>,
}

#[derive(Debug)]
enum Kind {
    Torrent { name: OsString, ino: InodeNo, since: SystemTime },
    Lines,
}

impl Inbox {
    /// Begins a file in the root.
    ///
    /// # Errors
    /// `ReadOnly` for any name but that of a `.torrent`, `TooManyHandles`.
    pub(crate) fn create(&self, name: &OsStr) -> Result<(HandleId, Node), FsError> {
        let text = name.as_encoded_bytes();
        if !text.ends_with(TORRENT_SUFFIX) {
            return Err(FsError::ReadOnly);
        }
        let mut letters = self.lock();
        let number = letters.next();
        let ino = InodeNo::own(FIRST_INO + number % FIRST_INO);
        let kind = Kind::Torrent { name: name.to_owned(), ino, since: SystemTime::now() };
        let handle = letters.insert(number, kind)?;
        let node = letters.by_handle.get(&handle.0).and_then(Letter::node).ok_or(FsError::BadHandle)?;
        Ok((handle, node))
    }

    /// Begins to take lines.
    ///
    /// # Errors
    /// `TooManyHandles`.
    pub(crate) fn open_lines(&self) -> Result<HandleId, FsError> {
        let mut letters = self.lock();
        let number = letters.next();
        letters.insert(number, Kind::Lines)
    }

    /// Whether a handle is one of this table.
    pub(crate) fn owns(handle: HandleId) -> bool {
        handle.0 & HANDLE_BIT != 0
    }

    /// A file that is being written.
    pub(crate) fn node(&self, ino: InodeNo) -> Option<Node> {
        self.find(|node, _| node.ino == ino)
    }

    /// A file that is being written, by its name in the root.
    pub(crate) fn lookup(&self, name: &OsStr) -> Option<Node> {
        self.find(|_, found| found == name)
    }

    fn find(&self, is_it: impl Fn(&Node, &OsStr) -> bool) -> Option<Node> {
        self.lock().by_handle.values().find_map(|letter| match &letter.kind {
            Kind::Torrent { name, .. } => letter.node().filter(|node| is_it(node, name)),
            Kind::Lines => None,
        })
    }

    /// Takes bytes; lines that are complete now are to be carried out.
    ///
    /// # Errors
    /// `TooLarge`, `BadHandle`.
    pub(crate) fn write(
        &self,
        handle: HandleId,
        offset: u64,
        data: &[u8],
    ) -> Result<Option<Errand>, FsError> {
        let mut letters = self.lock();
        let letter = letters.by_handle.get_mut(&handle.0).ok_or(FsError::BadHandle)?;
        match letter.kind {
            Kind::Torrent { .. } => {
                let start = usize::try_from(offset).map_err(|_| FsError::TooLarge)?;
                let end = start.checked_add(data.len()).ok_or(FsError::TooLarge)?;
                if end > TORRENT_BYTES_MAX {
                    return Err(FsError::TooLarge);
                }
                if letter.bytes.len() < end {
                    letter.bytes.resize(end, 0);
                }
                letter.bytes[start..end].copy_from_slice(data);
                Ok(None)
            }
            // One behind the other, whatever the offset: `>` and `>>` mean the same here.
            Kind::Lines => {
                if letter.bytes.len() + data.len() > LINE_BYTES_MAX {
                    return Err(FsError::TooLarge);
                }
                letter.bytes.extend_from_slice(data);
                let Some(end) = letter.bytes.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
                let complete: Vec<u8> = letter.bytes.drain(..=end).collect();
                Ok(lines(&complete))
            }
        }
    }

    /// Cuts or extends a `.torrent` that is being written.
    ///
    /// # Errors
    /// `TooLarge`, `BadHandle`.
    pub(crate) fn resize(&self, ino: InodeNo, bytes: u64) -> Result<(), FsError> {
        let size = usize::try_from(bytes).ok().filter(|size| *size <= TORRENT_BYTES_MAX);
        let size = size.ok_or(FsError::TooLarge)?;
        let mut letters = self.lock();
        let found = letters.by_handle.values_mut().find(|letter| letter.ino() == Some(ino));
        found.ok_or(FsError::BadHandle)?.bytes.resize(size, 0);
        Ok(())
    }

    /// What a close completes. A descriptor that was only passed on is closed without anything written.
    pub(crate) fn flush(&self, handle: HandleId) -> Option<Errand> {
        let mut letters = self.lock();
        letters.by_handle.get_mut(&handle.0)?.take()
    }

    /// The last close; what was not flushed is still to be carried out.
    pub(crate) fn release(&self, handle: HandleId) -> Option<Errand> {
        let mut letter = self.lock().by_handle.remove(&handle.0)?;
        letter.take()
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        // Whole between any two statements.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Letters {
    fn next(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn insert(&mut self, number: u32, kind: Kind) -> Result<HandleId, FsError> {
        if self.by_handle.len() >= LETTERS_MAX {
            return Err(FsError::TooManyHandles);
        }
        let handle = HANDLE_BIT | u64::from(number);
        self.by_handle.insert(handle, Letter { kind, bytes: Vec::new() });
        Ok(HandleId(handle))
    }
}

impl Letter {
    fn ino(&self) -> Option<InodeNo> {
        match self.kind {
            Kind::Torrent { ino, .. } => Some(ino),
            Kind::Lines => None,
        }
    }

    fn node(&self) -> Option<Node> {
        let Kind::Torrent { ino, since, .. } = self.kind else { return None };
        Some(Node {
            ino,
            parent: InodeNo::ROOT,
            kind: NodeKind::File,
            bytes: self.bytes.len() as u64,
            local_bytes: self.bytes.len() as u64,
            permissions: 0o600,
            links: 1,
            modified: since,
            caching: Caching::Volatile,
        })
    }

    fn take(&mut self) -> Option<Errand> {
        let bytes = std::mem::take(&mut self.bytes);
        match self.kind {
            Kind::Torrent { .. } if bytes.is_empty() => None,
            Kind::Torrent { .. } => Some(Errand::Torrent(bytes.into())),
            Kind::Lines => lines(&bytes),
        }
    }
}

/// Lines that are not empty. Bytes that are no text make a line that names nothing, and is refused as such.
fn lines(bytes: &[u8]) -> Option<Errand> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    (!lines.is_empty()).then_some(Errand::Sources(lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources<const N: usize>(lines: [&str; N]) -> Option<Errand> {
        Some(Errand::Sources(lines.map(str::to_owned).to_vec()))
    }

    #[test]
    fn a_torrent_is_complete_when_it_is_closed_and_only_once() {
        let inbox = Inbox::default();
        let (handle, node) = inbox.create(OsStr::new("a.torrent")).unwrap();
        assert!(Inbox::owns(handle));
        assert_eq!(inbox.flush(handle), None, "a shell closes its copy of the descriptor first");
        assert_eq!(inbox.write(handle, 3, b"lo").unwrap(), None);
        assert_eq!(inbox.write(handle, 0, b"hel").unwrap(), None);
        assert_eq!(inbox.lookup(OsStr::new("a.torrent")).map(|node| node.bytes), Some(5));
        inbox.resize(node.ino, 4).unwrap();
        assert_eq!(inbox.flush(handle), Some(Errand::Torrent(Bytes::from_static(b"hell"))));
        assert_eq!(inbox.release(handle), None);
        assert_eq!(inbox.node(node.ino), None);
        assert_eq!(inbox.write(handle, 0, b"late").unwrap_err().errno(), libc::EBADF);
    }

    #[test]
    fn nothing_but_a_torrent_is_taken_and_not_without_bound() {
        let inbox = Inbox::default();
        for name in ["notes.txt", "torrent", ".a.torrent.XyZ"] {
            assert_eq!(inbox.create(OsStr::new(name)).unwrap_err().errno(), libc::EROFS, "{name}");
        }
        let (handle, node) = inbox.create(OsStr::new("big.torrent")).unwrap();
        for offset in [TORRENT_BYTES_MAX as u64, u64::MAX] {
            assert_eq!(inbox.write(handle, offset, b"x").unwrap_err().errno(), libc::EFBIG);
        }
        assert_eq!(inbox.resize(node.ino, u64::MAX).unwrap_err().errno(), libc::EFBIG);
        for _ in 1..LETTERS_MAX {
            inbox.open_lines().unwrap();
        }
        assert_eq!(inbox.open_lines().unwrap_err().errno(), libc::ENFILE);
    }

    #[test]
    fn a_line_is_carried_out_when_it_ends_or_is_closed() {
        let inbox = Inbox::default();
        let handle = inbox.open_lines().unwrap();
        assert_eq!(inbox.write(handle, 0, b"magnet:?xt=").unwrap(), None);
        assert_eq!(
            inbox.write(handle, 0, b"1\r\n\n /a b \nhttp").unwrap(),
            sources(["magnet:?xt=1", "/a b"])
        );
        assert_eq!(inbox.write(handle, 99, b"://x").unwrap(), None);
        assert_eq!(inbox.flush(handle), sources(["http://x"]));
        assert_eq!(inbox.release(handle), None);
        let handle = inbox.open_lines().unwrap();
        let too_long = vec![b'x'; LINE_BYTES_MAX + 1];
        assert_eq!(inbox.write(handle, 0, &too_long).unwrap_err().errno(), libc::EFBIG);
    }
}
