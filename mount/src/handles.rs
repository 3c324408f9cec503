//! The table of open files.
//!
//! A handle number is used once and never again, so a late request for a closed file cannot reach another one. The table
//! is bounded: a program that opens without end gets `ENFILE`, not this process's memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::content::Content;
use crate::errno::FsError;
use crate::tree::Node;

/// The number of an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HandleId(pub(crate) u64);

/// An open file: its content, and what it was when it was opened (it may leave the tree meanwhile).
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) node: Node,
    pub(crate) content: Arc<dyn Content>,
}

#[derive(Debug)]
pub(crate) struct HandleTable {
    open: RwLock<HashMap<u64, Arc<OpenFile>>>,
    next: AtomicU64,
    limit: usize,
}

impl HandleTable {
    pub(crate) fn new(limit: usize) -> Self {
        Self { open: RwLock::default(), next: AtomicU64::new(1), limit }
    }

    pub(crate) fn insert(&self, file: Arc<OpenFile>) -> Result<HandleId, FsError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.limit {
            return Err(FsError::TooManyHandles);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(id, file);
        Ok(HandleId(id))
    }

    pub(crate) fn find(&self, id: HandleId) -> Result<Arc<OpenFile>, FsError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&id.0).cloned().ok_or(FsError::BadHandle)
    }

    /// Closing twice is harmless; reads that are under way keep their content.
    pub(crate) fn remove(&self, id: HandleId) -> Option<Arc<OpenFile>> {
        // Dropped by the caller, outside of the lock: dropping a reader may do work.
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&id.0)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::content::MemoryContent;
    use crate::inode::InodeNo;
    use crate::tree::{Caching, NodeKind};

    fn file() -> Arc<OpenFile> {
        let node = Node {
            ino: InodeNo::own(9),
            parent: InodeNo::ROOT,
            kind: NodeKind::File,
            bytes: 1,
            local_bytes: 1,
            permissions: 0o444,
            links: 1,
            modified: SystemTime::UNIX_EPOCH,
            caching: Caching::Immutable,
        };
        Arc::new(OpenFile { node, content: Arc::new(MemoryContent::new(&b"x"[..])) })
    }

    #[test]
    fn a_closed_handle_is_never_valid_again() {
        let table = HandleTable::new(8);
        let first = table.insert(file()).unwrap();
        table.remove(first);
        table.remove(first);
        let second = table.insert(file()).unwrap();
        assert_ne!(first, second);
        assert_eq!(table.find(first).unwrap_err().errno(), libc::EBADF);
        assert!(table.find(second).is_ok());
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_full_table_refuses_and_recovers() {
        let table = HandleTable::new(2);
        let first = table.insert(file()).unwrap();
        table.insert(file()).unwrap();
        assert_eq!(table.insert(file()).unwrap_err().errno(), libc::ENFILE);
        table.remove(first);
        assert!(table.insert(file()).is_ok());
    }
}
