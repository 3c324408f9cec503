//! Parts of files that go from the page cache to the socket without passing through this process.
//!
//! hyper sends `Bytes` and nothing else. So a body says "here come N bytes of a file" with a frame of N bytes cut from
//! [`MARKER`], which nobody reads, and puts the file's part into the connection's [`Lane`] beforehand. The connection's
//! [`Wire`](super::wire::Wire) sees at which address a slice lies, and calls sendfile(2) in its place.
//!
//! Invariants: frames and parts come in the same order and the same lengths. A lane is only to be had from a connection
//! whose wire knows it: on any other server the request has none, and bodies are read and copied. Frames are cut from
//! different places, so that a frame says which part it is: a wire that finds a frame that is not the part in front (a body
//! was dropped between the two) ends the connection. The marker's own bytes are never sent.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The longest part that one frame announces: long enough to be rare, short enough that connections take turns.
pub(crate) const PART_BYTES_MAX: usize = 1 << 20;

/// Places where frames begin, one after the other in turn: more than a connection ever has under way.
const BEGINNINGS: usize = 4096;

/// Never read and never written, so that it takes up addresses and no memory.
static MARKER: LazyLock<Box<[u8]>> =
    LazyLock::new(|| vec![0; PART_BYTES_MAX + BEGINNINGS].into_boxed_slice());

/// Where in the marker a slice begins, if it is cut from it.
pub(crate) fn place_in_marker(slice: &[u8]) -> Option<usize> {
    let place = slice.as_ptr().addr().checked_sub(MARKER.as_ptr().addr())?;
    (!slice.is_empty() && place < MARKER.len()).then_some(place)
}

/// An open file that must be as it was when its bytes were vouched for.
pub(crate) trait Vouched: fmt::Debug + Send + Sync + 'static {
    fn file(&self) -> &File;

    /// Whether it still is. Called after bytes were read from it.
    fn check(&self) -> io::Result<()>;

    /// Whether nothing can change it: then what was sent of it needs no second look.
    fn is_fixed(&self) -> bool {
        false
    }
}

/// Some bytes of a file.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) source: Arc<dyn Vouched>,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// A part that waits for its turn, or what is left of it.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) part: Part,
    /// Where in the marker its frame begins, or what is left of it.
    pub(crate) place: usize,
}

/// The parts that a connection's frames stand for, in the order of the frames.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) waiting: VecDeque<Announced>,
    count: usize,
}

/// The way from bodies to the connection's socket. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lane(Arc<Mutex<Parts>>);

impl Lane {
    /// Queues a part and gives the frame that stands for it. At most [`PART_BYTES_MAX`] bytes, and at least one.
    pub(crate) fn announce(&self, part: Part) -> Option<Bytes> {
        if !(1..=PART_BYTES_MAX).contains(&part.bytes) {
            return None;
        }
        let mut parts = self.parts();
        let place = parts.count % BEGINNINGS;
        let frame = MARKER.get(place..place + part.bytes)?;
        parts.count += 1;
        parts.waiting.push_back(Announced { part, place });
        Some(Bytes::from_static(frame))
    }

    pub(crate) fn parts(&self) -> MutexGuard<'_, Parts> {
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
    fn frames_are_told_from_all_other_bytes_and_from_each_other() {
        let lane = Lane::default();
        let (first, second) =
            (lane.announce(part(1000)).expect("a frame"), lane.announce(part(7)).expect("a frame"));
        assert_eq!((place_in_marker(&first), place_in_marker(&second)), (Some(0), Some(1)));
        assert_eq!(place_in_marker(&first.slice(999..)), Some(999));
        for other in [&[0; 1000][..], &[], &first.slice(1000..)] {
            assert_eq!(place_in_marker(other), None);
        }
        let places: Vec<usize> = lane.parts().waiting.iter().map(|announced| announced.place).collect();
        assert_eq!(places, [0, 1]);
    }

    #[test]
    fn a_part_that_no_frame_can_stand_for_is_not_queued() {
        let lane = Lane::default();
        for _ in 0..BEGINNINGS + 1 {
            assert!(lane.announce(part(PART_BYTES_MAX)).is_some_and(|frame| frame.len() == PART_BYTES_MAX));
            lane.parts().waiting.clear();
        }
        assert!(lane.announce(part(0)).is_none() && lane.announce(part(PART_BYTES_MAX + 1)).is_none());
        assert!(lane.parts().waiting.is_empty());
    }
}
