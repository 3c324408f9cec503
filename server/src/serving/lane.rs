//! Parts of files that go from the page cache to the socket without passing through this process.
//!
//! hyper sends `Bytes` and nothing else. So a body says "here come N bytes of a file" with a frame of N bytes cut from
//! [`MARKER`], which nobody reads, and puts the file's part into the connection's [`Lane`] beforehand. The connection's
//! [`Wire`](super::wire::Wire) sees at which address a slice lies, and calls sendfile(2) in its place.
//!
//! Invariants: frames and parts come in the same order and the same lengths. A lane is only to be had from a connection
//! whose wire knows it: on any other server the request has none, and bodies are read and copied. A wire that finds a
//! marker without a part ends the connection; the marker's own bytes are never sent.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The longest part that one frame announces: long enough to be rare, short enough that connections take turns.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;

/// Never read and never written, so that it takes up addresses and no memory.
static MARKER: LazyLock<Box<[u8]>> = LazyLock::new(|| vec![0; PART_BYTES_MAX].into_boxed_slice());

/// Whether a slice is cut from the marker.
pub(crate) fn is_marker(slice: &[u8]) -> bool {
    let marker = MARKER.as_ptr_range();
    !slice.is_empty() && marker.contains(&slice.as_ptr())
}

/// An open file that must be as it was when its bytes were vouched for.
pub(crate) trait Vouched: fmt::Debug + Send + Sync + 'static {
    fn file(&self) -> &File;

    /// Whether it still is. Called after bytes were read from it.
    fn check(&self) -> io::Result<()>;
}

/// Some bytes of a file.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) source: Arc<dyn Vouched>,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// The parts that a connection's frames stand for, in the order of the frames.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lane(Arc<Mutex<VecDeque<Part>>>);

impl Lane {
    /// Queues a part and gives the frame that stands for it. At most [`PART_BYTES_MAX`] bytes, and at least one.
    pub(crate) fn announce(&self, part: Part) -> Option<Bytes> {
        let frame = MARKER.get(..part.bytes).filter(|frame| !frame.is_empty())?;
        self.parts().push_back(part);
        Some(Bytes::from_static(frame))
    }

    pub(crate) fn parts(&self) -> MutexGuard<'_, VecDeque<Part>> {
        // Whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Null(File);

    impl Vouched for Null {
        fn file(&self) -> &File {
            &self.0
        }

        fn check(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn part(bytes: usize) -> Part {
        Part { source: Arc::new(Null(File::open("/dev/null").expect("there"))), offset: 0, bytes }
    }

    #[test]
    fn frames_are_told_from_all_other_bytes_wherever_they_are_cut() {
        let lane = Lane::default();
        let frame = lane.announce(part(1000)).expect("a frame");
        assert!(is_marker(&frame) && is_marker(&frame.slice(999..)));
        assert!(!is_marker(&[0; 1000]) && !is_marker(&[]) && !is_marker(&frame.slice(1000..)));
        assert_eq!(lane.parts().len(), 1);
    }

    #[test]
    fn a_part_that_no_frame_can_stand_for_is_not_queued() {
        let lane = Lane::default();
        assert!(lane.announce(part(0)).is_none() && lane.announce(part(PART_BYTES_MAX + 1)).is_none());
        assert!(lane.parts().is_empty());
    }
}
