//! Hashing the pieces of a list of files: one reader in the order of the files, and a hasher on each core.
//!
//! The reader fills buffers of a bounded pool and hands them out by runs of whole pieces, each run to one hasher, which
//! gives the buffers back. So the disk sees one sequential read, a piece larger than the pool still passes through it,
//! and memory does not grow with the piece size.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rustix::fs::{Advice, OFlags};
use sha1::{Digest, Sha1};
use wtfs_proto::geometry::Geometry;

use super::walk::SourceFile;
use super::{CreateError, CreateProgress};
use crate::stamp::Stamp;

/// One buffer: large enough that handing it over costs nothing beside hashing it.
const BUFFER_BYTES: usize = 1 << 20;

/// Buffers of one hasher: two whole runs, so that it has one to hash while the next is read, within bounds.
const BUFFERS_PER_HASHER: std::ops::RangeInclusive<usize> = 2..=32;

/// Buffers of all hashers together: 128 MiB.
const MAX_BUFFERS: usize = 128;

/// What a hasher gets.
struct Segment {
    /// The first piece of a run, when the run begins with this segment.
    first_piece: Option<usize>,
    bytes: Vec<u8>,
}

type PieceHash = (usize, [u8; 20]);

/// The SHA-1 of all pieces, one behind the other.
pub(super) fn hash_files(
    files: &[SourceFile],
    geometry: &Geometry,
    on_progress: &(dyn Fn(CreateProgress) + Sync),
    cancel: &AtomicBool,
) -> Result<Vec<u8>, CreateError> {
    let piece_bytes = usize::try_from(geometry.piece_bytes()).unwrap_or(usize::MAX);
    let piece_count = usize::try_from(geometry.piece_count()).unwrap_or(usize::MAX);
    let run_pieces = (BUFFER_BYTES / piece_bytes).max(1);
    let run_buffers = (run_pieces * piece_bytes).div_ceil(BUFFER_BYTES);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let hashers = cores.min(piece_count.div_ceil(run_pieces)).max(1);
    let each = (2 * run_buffers).clamp(*BUFFERS_PER_HASHER.start(), *BUFFERS_PER_HASHER.end());
    let buffers = (hashers * each).min(MAX_BUFFERS.max(hashers));

    let mut hashes = vec![0; piece_count * 20];
    std::thread::scope(|scope| {
        let (give_back, free) = sync_channel(buffers);
        let mut queues = Vec::with_capacity(hashers);
        let mut threads = Vec::with_capacity(hashers);
        for _ in 0..hashers {
            // As many as there are buffers: sending never waits, taking a free buffer does.
            let (queue, segments) = sync_channel(buffers);
            let give_back = give_back.clone();
            queues.push(queue);
            threads.push(scope.spawn(move || hash_segments(&segments, &give_back, piece_bytes)));
        }
        drop(give_back);
        let mut reader = Reader {
            queues,
            free,
            unused: buffers,
            run_bytes: run_pieces * piece_bytes,
            run_pieces,
            run: 0,
            sent_in_run: 0,
            buffer: Vec::new(),
            progress: CreateProgress { hashed_bytes: 0, total_bytes: geometry.total_bytes() },
            on_progress,
            cancel,
        };
        let read = files.iter().try_for_each(|file| reader.read(file));
        reader.send();
        // Ends the hashers.
        drop(reader);
        for thread in threads {
            match thread.join() {
                Ok(found) => place(&mut hashes, &found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        read
    })?;
    Ok(hashes)
}

fn place(hashes: &mut [u8], found: &[PieceHash]) {
    for (piece, hash) in found {
        if let Some(slot) = hashes.get_mut(piece * 20..(piece + 1) * 20) {
            slot.copy_from_slice(hash);
        }
    }
}

fn hash_segments(
    segments: &Receiver<Segment>,
    give_back: &SyncSender<Vec<u8>>,
    piece_bytes: usize,
) -> Vec<PieceHash> {
    let mut found = Vec::new();
    let mut sha1 = Sha1::new();
    let mut filled = 0;
    let mut piece = 0;
    for segment in segments {
        if let Some(first) = segment.first_piece {
            piece = first;
        }
        let mut rest = segment.bytes.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(piece_bytes - filled));
            sha1.update(now);
            filled += now.len();
            if filled == piece_bytes {
                found.push((piece, sha1.finalize_reset().into()));
                piece += 1;
                filled = 0;
            }
            rest = later;
        }
        // The reader may be gone already.
        let _ = give_back.send(segment.bytes);
    }
    if filled > 0 {
        // Only the torrent's last piece is short.
        found.push((piece, sha1.finalize().into()));
    }
    found
}

struct Reader<'r> {
    queues: Vec<SyncSender<Segment>>,
    free: Receiver<Vec<u8>>,
    /// Buffers that were not allocated yet: small torrents need few.
    unused: usize,
    run_bytes: usize,
    run_pieces: usize,
    run: usize,
    sent_in_run: usize,
    /// Being filled.
    buffer: Vec<u8>,
    progress: CreateProgress,
    on_progress: &'r (dyn Fn(CreateProgress) + Sync),
    cancel: &'r AtomicBool,
}

impl Reader<'_> {
    fn read(&mut self, source: &SourceFile) -> Result<(), CreateError> {
        if source.entry.symlink.is_some() {
            return Ok(());
        }
        let path = &source.path;
        // Should it have become a pipe meanwhile, opening must not wait; what it is shows in the stamp.
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .map_err(CreateError::at("open", path))?;
        check_unchanged(source, &file)?;
        // Only advice.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let mut left = source.entry.bytes;
        while left > 0 {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(CreateError::Cancelled);
            }
            if self.room() == 0 {
                self.send();
            }
            let now = left.min(self.room() as u64);
            let read = file.by_ref().take(now).read_to_end(&mut self.buffer);
            let read = read.map_err(CreateError::at("read", path))? as u64;
            if read == 0 {
                return Err(CreateError::Changed { path: path.clone() });
            }
            left -= read;
            self.progress.hashed_bytes += read;
        }
        check_unchanged(source, &file)
    }

    /// Bytes that the buffer still takes.
    fn room(&self) -> usize {
        (self.run_bytes - self.sent_in_run).min(BUFFER_BYTES) - self.buffer.len()
    }

    /// Hands the buffer to the hasher of the run and takes another one; waits while all are in use.
    fn send(&mut self) {
        let first_piece = (self.sent_in_run == 0).then_some(self.run * self.run_pieces);
        let bytes = std::mem::take(&mut self.buffer);
        self.sent_in_run += bytes.len();
        let hasher = self.run % self.queues.len();
        if self.sent_in_run == self.run_bytes {
            self.run += 1;
            self.sent_in_run = 0;
        }
        if let (false, Some(queue)) = (bytes.is_empty(), self.queues.get(hasher)) {
            // A hasher that is gone has panicked, which its join tells.
            let _ = queue.send(Segment { first_piece, bytes });
        }
        self.buffer = match self.unused.checked_sub(1) {
            Some(unused) => {
                self.unused = unused;
                Vec::with_capacity(BUFFER_BYTES.min(self.run_bytes))
            }
            None => self.free.recv().unwrap_or_default(),
        };
        self.buffer.clear();
        (self.on_progress)(self.progress);
    }
}

fn check_unchanged(source: &SourceFile, file: &File) -> Result<(), CreateError> {
    let now = file.metadata().map_err(CreateError::at("stat", &source.path))?;
    if Stamp::of(&now) == source.stamp {
        return Ok(());
    }
    Err(CreateError::Changed { path: source.path.clone() })
}
