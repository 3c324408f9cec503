//! Hashing what lies in a data directory: which pieces are really there.
//!
//! Owns the parallel reading: each thread takes the next run of pieces and reads it in order through one buffer, so that
//! the disk sees a few long sequential reads and memory is bounded whatever the size of the torrent. Reads only, and
//! needs no state directory. Called on the user's wish (`verify`, data that was there before) and by recovery for the
//! few pieces that nothing vouches for.

use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::{FileIndex, FileSpan, PieceIndex};
use wtfs_proto::metainfo::Metainfo;

use super::StoreError;
use super::layout;
use super::open_files::Access;
use super::piece_hash::PieceHasher;
use super::root::{DataRoot, Found};
use super::spans;

/// One read. Large enough that the system call does not count, small enough to stay in the cache for the hash.
const READ_BYTES: u32 = 1 << 20;

/// What a thread takes at once: long enough to be a sequential read, short enough that the threads end together.
const RUN_BYTES: u64 = 16 << 20;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckReport {
    /// Pieces whose bytes are right.
    pub present: Bitfield,
    /// Pieces whose bytes could all be read and are wrong. Parts that were never written count, when a file system
    /// shows them as zeros.
    pub bad: Bitfield,
    /// Pieces that could not be read: a file is missing, too short, of another kind, or fails.
    pub unreadable: Bitfield,
    /// Files of which something should be on the disk and that are not there.
    pub missing_files: Vec<FileIndex>,
}

/// Hashes all pieces of a torrent whose files lie in `data_dir`, on all cores.
///
/// `on_progress` is told the bytes checked so far and their total, from several threads, some times a second or faster.
/// Blocks until done or until `cancel` is set.
///
/// # Errors
/// [`StoreError::Cancelled`] when `cancel` was set. Damaged or missing files are not errors but part of the report.
pub fn check_data(
    metainfo: &Metainfo,
    data_dir: &Path,
    on_progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<CheckReport, StoreError> {
    let all = Bitfield::full(metainfo.info.geometry.piece_count());
    check_pieces(metainfo, &DataRoot::new(data_dir.to_path_buf()), &all, on_progress, cancel)
}

/// [`check_data`] for some pieces only; the others are in none of the report's sets.
pub(super) fn check_pieces(
    metainfo: &Metainfo,
    root: &DataRoot,
    wanted: &Bitfield,
    on_progress: &(dyn Fn(u64, u64) + Sync),
    cancel: &AtomicBool,
) -> Result<CheckReport, StoreError> {
    let geometry = &metainfo.info.geometry;
    let pieces: Vec<PieceIndex> = wanted.iter_ones().filter_map(|piece| geometry.piece(piece)).collect();
    let run = usize::try_from(RUN_BYTES / u64::from(geometry.piece_bytes())).unwrap_or(1).max(1);
    let none = || Bitfield::new(geometry.piece_count());
    let job = Job {
        metainfo,
        root,
        total_bytes: pieces.iter().map(|&piece| u64::from(geometry.piece_len(piece))).sum(),
        runs: pieces.chunks(run).collect(),
        next_run: AtomicUsize::new(0),
        done_bytes: AtomicU64::new(0),
        on_progress,
        cancel,
        report: Mutex::new(CheckReport {
            present: none(),
            bad: none(),
            unreadable: none(),
            missing_files: Vec::new(),
        }),
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = cores.min(job.runs.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| job.work());
        }
        job.work();
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(StoreError::Cancelled);
    }
    let mut report = job.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.missing_files.sort_unstable();
    report.missing_files.dedup();
    Ok(report)
}

#[derive(Debug, Clone, Copy)]
enum Outcome {
    Right,
    Wrong,
    Unreadable,
}

struct Job<'j> {
    metainfo: &'j Metainfo,
    root: &'j DataRoot,
    runs: Vec<&'j [PieceIndex]>,
    next_run: AtomicUsize,
    done_bytes: AtomicU64,
    total_bytes: u64,
    on_progress: &'j (dyn Fn(u64, u64) + Sync),
    cancel: &'j AtomicBool,
    report: Mutex<CheckReport>,
}

impl Job<'_> {
    fn work(&self) {
        let piece_bytes = self.metainfo.info.geometry.piece_bytes();
        let mut reader = Reader {
            job: self,
            open: None,
            missing: Vec::new(),
            buf: vec![0; usize::try_from(piece_bytes.min(READ_BYTES)).unwrap_or_default()],
        };
        while let Some(run) = self.runs.get(self.next_run.fetch_add(1, Ordering::Relaxed)) {
            for &piece in *run {
                if self.cancel.load(Ordering::Relaxed) {
                    return;
                }
                let outcome = reader.check(piece);
                let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
                let set = match outcome {
                    Outcome::Right => &mut report.present,
                    Outcome::Wrong => &mut report.bad,
                    Outcome::Unreadable => &mut report.unreadable,
                };
                set.set(piece.get());
            }
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.missing_files.append(&mut reader.missing);
    }
}

struct Reader<'j> {
    job: &'j Job<'j>,
    /// The file read last. Runs are in the order of the files, so one is enough.
    open: Option<(FileIndex, Option<Found>)>,
    missing: Vec<FileIndex>,
    buf: Vec<u8>,
}

impl Reader<'_> {
    fn check(&mut self, piece: PieceIndex) -> Outcome {
        let geometry = &self.job.metainfo.info.geometry;
        let mut hasher = PieceHasher::new(self.job.metainfo, piece);
        for span in geometry.spans(piece, 0..u32::MAX) {
            if self.feed(&mut hasher, span).is_none() {
                self.advance(u64::from(geometry.piece_len(piece) - span.piece_begin));
                return Outcome::Unreadable;
            }
        }
        if hasher.finish() { Outcome::Right } else { Outcome::Wrong }
    }

    fn feed(&mut self, hasher: &mut PieceHasher<'_>, span: FileSpan) -> Option<()> {
        if span.is_pad {
            self.buf.fill(0);
        } else {
            self.open(span.file).filter(|found| found.bytes >= span.file_offset + u64::from(span.bytes))?;
        }
        let mut done = 0;
        while done < span.bytes {
            let now = (span.bytes - done).min(READ_BYTES);
            let part = self.buf.get_mut(..usize::try_from(now).ok()?)?;
            if !span.is_pad {
                let fd = &self.open.as_ref()?.1.as_ref()?.fd;
                if let Err(error) = spans::read_exact(fd, part, span.file_offset + u64::from(done)) {
                    tracing::warn!(
                        file = %self.job.root.display_path(&layout::path_of(&self.job.metainfo.info, span.file)).display(),
                        offset = span.file_offset, ?error, "a file cannot be read; its piece counts as missing"
                    );
                    return None;
                }
            }
            hasher.update(part);
            done += now;
            self.advance(u64::from(now));
        }
        Some(())
    }

    fn open(&mut self, file: FileIndex) -> Option<&Found> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            let path = layout::path_of(&self.job.metainfo.info, file);
            let found = self.job.root.open(&path, Access::Read).unwrap_or_else(|error| {
                tracing::warn!(%error, "a file of the torrent cannot be opened");
                None
            });
            if found.is_none() {
                self.missing.push(file);
            }
            self.open = Some((file, found));
        }
        self.open.as_ref()?.1.as_ref()
    }

    fn advance(&self, bytes: u64) {
        let done = self.job.done_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // A file that fails in the middle of a span is counted twice in part.
        (self.job.on_progress)(done.min(self.job.total_bytes), self.job.total_bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::fixture::{Place, Sample, entry, pad};

    fn ones(set: &Bitfield) -> Vec<u32> {
        set.iter_ones().collect()
    }

    fn check(sample: &Sample, place: &Place) -> CheckReport {
        check_data(&sample.metainfo, &place.data_dir(), &|_, _| {}, &AtomicBool::new(false)).unwrap()
    }

    /// Writes the files by hand: what is checked was made by anyone.
    fn lay_out(sample: &Sample, place: &Place) {
        for (index, file) in sample.metainfo.info.files.iter().enumerate().filter(|(_, file)| !file.is_pad) {
            let path = place.data_dir().join("t").join(file.path.to_relative_path());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, sample.file_content(index)).unwrap();
        }
    }

    #[test]
    fn right_wrong_and_missing_pieces_are_told_apart() {
        let files = vec![entry("a", 35_000), pad(".pad", 5_000), entry("b", 10_000), entry("c", 30_000)];
        let (sample, place) = (Sample::new(10_000, files), Place::new());
        lay_out(&sample, &place);
        assert!(check(&sample, &place).present.is_full());
        let root = place.data_dir().join("t");
        let mut bytes = sample.file_content(0).to_vec();
        bytes[15_000] ^= 1;
        std::fs::write(root.join("a"), bytes).unwrap();
        std::fs::remove_file(root.join("b")).unwrap();
        std::fs::File::options().write(true).open(root.join("c")).unwrap().set_len(20_001).unwrap();
        let report = check(&sample, &place);
        assert_eq!(ones(&report.present), [0, 2, 3, 5, 6]);
        assert_eq!(ones(&report.bad), [1]);
        assert_eq!(ones(&report.unreadable), [4, 7]);
        assert_eq!(report.missing_files, [sample.file(2)]);
    }

    #[test]
    fn nothing_there_is_nothing_present() {
        let (sample, place) = (Sample::new(10_000, vec![entry("a", 35_000)]), Place::new());
        let report = check(&sample, &place);
        assert_eq!(report.unreadable.count_ones(), 4);
        assert_eq!(report.missing_files, [sample.file(0)]);
    }

    #[test]
    fn progress_ends_at_the_total_and_cancelling_stops() {
        let (sample, place) = (Sample::new(1 << 20, vec![entry("a", 40 << 20)]), Place::new());
        lay_out(&sample, &place);
        let most = AtomicU64::new(0);
        let on_progress = |done: u64, total: u64| {
            assert_eq!(total, 40 << 20);
            most.fetch_max(done, Ordering::Relaxed);
        };
        let never = AtomicBool::new(false);
        let report = check_data(&sample.metainfo, &place.data_dir(), &on_progress, &never).unwrap();
        assert!(report.present.is_full());
        assert_eq!(most.into_inner(), 40 << 20);
        let cancel = AtomicBool::new(false);
        let stop = |_: u64, _: u64| cancel.store(true, Ordering::Relaxed);
        let stopped = check_data(&sample.metainfo, &place.data_dir(), &stop, &cancel);
        assert!(matches!(stopped, Err(StoreError::Cancelled)), "{stopped:?}");
    }
}
