//! How bytes of one blob go: all of them because they are wrong or the room is needed, or some parts of a blob that is larger
//! than the room there is.
//!
//! They stop being present first and go from the disk afterwards; whoever copied some of them meanwhile finds that the epoch
//! is another one and looks again.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::super::error::BlobError;
use super::super::place::Part;
use super::super::ranges::RangeSet;
use super::super::segments;
use super::{CORRUPT_FOR, MAX_STRIKES, Phase, State, UNSEEN};

impl State {
    /// Forgets what was fetched, which is wrong. Returns the file to remove.
    pub(in crate::hf::blobs) fn discard(self: &Arc<Self>, now: SystemTime) -> Option<Arc<Part>> {
        let mut inner = self.lock();
        self.shared.discards.note(self.id, now);
        self.shared.counters.corrupt.add(1);
        inner.generation = inner.generation.wrapping_add(1) % UNSEEN;
        inner.strikes += 1;
        let part = inner.empty();
        if inner.strikes >= MAX_STRIKES {
            inner.phase = Phase::Corrupt { until: Instant::now() + CORRUPT_FOR };
            inner.board.fill = None;
            inner.board.aheads.clear();
            inner.fill_error = Some(BlobError::Corrupt);
        }
        self.shared.unset(&self.key());
        self.launch(&mut inner);
        drop(inner);
        self.moved.notify_waiters();
        part
    }

    /// The disk lost some of what was written to `part`: it is not present any more.
    pub(in crate::hf::blobs) fn lose(self: &Arc<Self>, part: &Arc<Part>, ranges: &RangeSet) {
        let mut inner = self.lock();
        if !inner.files.part.as_ref().is_some_and(|current| Arc::ptr_eq(current, part)) {
            return;
        }
        if inner.phase != Phase::Open || inner.verify.is_running {
            // Being judged, or judged, by what the page cache said.
            inner.verify.is_stale = true;
            return;
        }
        inner.epoch += 1;
        let mut lost = 0;
        for range in ranges.iter() {
            lost += inner.board.present.remove(range.clone());
            inner.verify.lose(range.start);
        }
        self.shared.shrink(self.key(), lost);
        self.launch(&mut inner);
        drop(inner);
        self.moved.notify_waiters();
    }

    /// Forgets all of it because the disk lost some. Returns the file to remove.
    pub(in crate::hf::blobs) fn lose_all(self: &Arc<Self>) -> Option<Arc<Part>> {
        let mut inner = self.lock();
        let part = inner.empty();
        inner.phase = Phase::Open;
        self.shared.unset(&self.key());
        self.launch(&mut inner);
        drop(inner);
        self.moved.notify_waiters();
        part
    }

    /// Whether nobody has to do with it now, so that it may go.
    pub(in crate::hf::blobs) fn is_idle(&self) -> bool {
        self.lock().is_idle()
    }

    /// Gives up all of it, if nobody has to do with it now. Returns what it took up, and its partial file.
    pub(in crate::hf::blobs) fn give_up(&self) -> Option<(u64, Option<Arc<Part>>)> {
        let mut inner = self.lock();
        if !inner.is_idle() {
            return None;
        }
        let part = inner.empty();
        inner.phase = Phase::Open;
        // Changes no byte that anybody read: the generation stays.
        Some((self.shared.unset(&self.key()), part))
    }

    /// What of a partial blob may go by parts: what nobody waits for, reads next or fetches.
    pub(in crate::hf::blobs) fn spare_segments(&self) -> Vec<(u64, u32, u64)> {
        let inner = self.lock();
        if !inner.can_spare() {
            return Vec::new();
        }
        let mut spare = Vec::new();
        for (segment, touched) in inner.segments.iter() {
            let range = segments::range_of(segment);
            let range = range.start..range.end.min(self.bytes);
            let missing = inner.board.present.gaps(&range);
            let here = (range.end - range.start).saturating_sub(missing);
            if here > 0 && !inner.is_wanted(&range) {
                spare.push((segment, touched, here));
            }
        }
        spare
    }

    /// Takes segments out of what is present, as far as nobody wants them now. Returns the file they are in, and what
    /// was taken.
    pub(in crate::hf::blobs) fn take_segments(&self, segments: &[u64]) -> Option<(Arc<Part>, RangeSet)> {
        let mut inner = self.lock();
        if !inner.can_spare() {
            return None;
        }
        let part = inner.files.part.clone()?;
        inner.epoch += 1;
        let mut taken = RangeSet::default();
        for segment in segments {
            let range = segments::range_of(*segment);
            let range = range.start..range.end.min(self.bytes);
            if inner.is_wanted(&range) {
                continue;
            }
            let mut here = RangeSet::default();
            let mut at = range.start;
            while let Some(start) = inner.board.present.next_from(at).filter(|start| *start < range.end) {
                let end = inner.board.present.end_of_run(start).min(range.end);
                here.insert(start..end);
                at = end;
            }
            for range in here.iter() {
                inner.board.present.remove(range.clone());
                inner.unsynced.remove(range.clone());
                inner.going.insert(range.clone());
                taken.insert(range);
            }
            inner.segments.forget(*segment);
            inner.verify.lose(range.start);
        }
        self.shared.shrink(self.key(), taken.bytes());
        Some((part, taken))
    }

    /// What was taken is freed on the disk, or stays there.
    pub(in crate::hf::blobs) fn given_up(&self, ranges: &RangeSet) {
        let mut inner = self.lock();
        for range in ranges.iter() {
            inner.going.remove(range);
        }
        drop(inner);
        self.moved.notify_waiters();
    }

    /// Ends when nothing of a range is about to be freed on the disk: what is written there before would go with it.
    pub(in crate::hf::blobs) async fn until_given_up(&self, range: &Range<u64>) {
        loop {
            let mut moved = pin!(self.moved.notified());
            moved.as_mut().enable();
            if !self.lock().going.covers_any(range) {
                return;
            }
            moved.await;
        }
    }
}
