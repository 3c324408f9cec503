//! The body of a response: bytes of a file, as cheaply as the connection allows.
//!
//! Where the request came with a [`Lane`], a file on disk goes to the socket by sendfile(2); elsewhere it is read and
//! copied. Either way the network's threads do not wait for a disk: what the page cache does not hold is read on a thread
//! for blocking work first. What is only in the swarm is read through the engine, verified, piece by piece.
//!
//! A response is only whole if the file was unchanged after its bytes were handed over: the last ones are kept back until
//! then, so that otherwise the client sees a response that ends too early. Of a file that nothing changes none are.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Semaphore;
use wtfs_torrent::store::SealedFile;
use wtfs_torrent::{FileReader, HeldFile, ReadError};

use crate::serving::lane::{Lane, PART_BYTES_MAX, Part, Vouched};

/// Bytes of one read where bytes are copied: a compromise of system calls and memory for each response.
const COPY_BYTES: u64 = 256 << 10;

/// Less than this is not worth two system calls: it is read and sent at once.
const SENDFILE_BYTES_MIN: u64 = 32 << 10;

/// What is kept back until the file was looked at again.
const TAIL_BYTES: u64 = 1 << 10;

/// How far apart the page cache is asked for what it holds. It is filled by read-ahead in runs of 128 KiB and more.
const PROBE_BYTES: u64 = 64 << 10;

/// Reads of disks under way at once, in the whole process: more answer no sooner, and each has a thread.
static DISK_READS: Semaphore = Semaphore::const_new(32);

/// Where the bytes of a response are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// In a file.
    File(Arc<dyn Vouched>),
    /// With the engine, or to be fetched by it.
    Reader(FileReader),
}

impl Vouched for SealedFile {
    fn file(&self) -> &File {
        Self::file(self)
    }

    fn check(&self) -> io::Result<()> {
        Self::check(self).map_err(io::Error::other)
    }
}

/// Nothing changes it while it is held.
impl Vouched for HeldFile {
    fn file(&self) -> &File {
        &self.file
    }

    fn check(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

/// A body of these bytes. Lane or none, it is of exactly that length, or it fails.
pub(crate) fn body(source: Source, range: Range<u64>, lane: Option<Lane>) -> Body {
    match source {
        Source::File(file) => {
            let left = Stretch { file, lane, range };
            Body::from_stream(stream::try_unfold(left, Stretch::next))
        }
        Source::Reader(reader) => {
            Body::from_stream(stream::try_unfold((reader, range), |(reader, range)| async move {
                if range.is_empty() {
                    return Ok::<_, ReadError>(None);
                }
                let len = u32::try_from((range.end - range.start).min(COPY_BYTES)).unwrap_or(u32::MAX);
                let bytes = reader.read_at(range.start, len).await?;
                if bytes.is_empty() {
                    return Err(ReadError::Closed);
                }
                let rest = range.start + bytes.len() as u64..range.end;
                Ok(Some((bytes, (reader, rest))))
            }))
        }
    }
}

/// What is left of a response.
#[derive(Debug)]
struct Stretch {
    file: Arc<dyn Vouched>,
    lane: Option<Lane>,
    range: Range<u64>,
}

impl Stretch {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let left = self.range.end - self.range.start;
        if left == 0 {
            return Ok(None);
        }
        let start = self.range.start;
        if let Some(lane) = self.lane.as_ref().filter(|_| left >= SENDFILE_BYTES_MIN) {
            let tail = if self.file.is_fixed() { 0 } else { TAIL_BYTES };
            let now = (left - tail).min(PART_BYTES_MAX as u64);
            warm(&self.file, start..start + now).await?;
            let bytes = usize::try_from(now).unwrap_or(PART_BYTES_MAX);
            if let Some(frame) = lane.announce(Part { source: self.file.clone(), offset: start, bytes }) {
                self.range.start += now;
                return Ok(Some((frame, self)));
            }
        }
        let now = if left <= COPY_BYTES { left } else { COPY_BYTES.min(left - TAIL_BYTES) };
        let bytes = read(&self.file, start, usize::try_from(now).unwrap_or_default()).await?;
        self.file.check()?;
        self.range.start += now;
        Ok(Some((bytes, self)))
    }
}

/// Bytes of a file, read without leaving this thread if the page cache has them.
async fn read(file: &Arc<dyn Vouched>, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(len);
    if let Ok(filled) =
        rustix::io::preadv2(file.file(), &mut [IoSliceMut::new(&mut buffer)], offset, ReadWriteFlags::NOWAIT)
        && filled == len
    {
        return Ok(buffer.freeze());
    }
    let file = file.clone();
    blocking(move || {
        use std::os::unix::fs::FileExt as _;
        file.file().read_exact_at(&mut buffer, offset)?;
        Ok(buffer.freeze())
    })
    .await
}

/// Sees to it that the page cache holds a range, so that sendfile does not wait for the disk.
async fn warm(file: &Arc<dyn Vouched>, range: Range<u64>) -> io::Result<()> {
    if is_warm(file.file(), &range) {
        return Ok(());
    }
    let file = file.clone();
    blocking(move || {
        use std::os::unix::fs::FileExt as _;
        // For this part and the next one, so that the disk works while this one is sent.
        let ahead = std::num::NonZero::new(2 * (range.end - range.start));
        let _advice = rustix::fs::fadvise(file.file(), range.start, ahead, rustix::fs::Advice::WillNeed);
        let mut scratch = vec![0; 64 << 10];
        let mut at = range.start;
        while at < range.end {
            let most = usize::try_from(range.end - at).map_or(scratch.len(), |left| left.min(scratch.len()));
            match file.file().read_at(scratch.get_mut(..most).unwrap_or_default(), at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => at += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })
    .await
}

/// Whether the page cache seems to hold a range: asked at points, since asking for all of it would be reading it.
fn is_warm(file: &File, range: &Range<u64>) -> bool {
    let mut byte = [0];
    let mut at = range.start;
    loop {
        let probed = rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
        match probed {
            Ok(1) => {}
            // Interrupted is as good as not known.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => return false,
            // A file system that cannot tell: reading ahead is the only way.
            Err(_) => return false,
        }
        if at + 1 >= range.end {
            return true;
        }
        at = (at + PROBE_BYTES).min(range.end - 1);
    }
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    // Never closed.
    let turn = DISK_READS.acquire().await.map_err(io::Error::other)?;
    let job = move || {
        let outcome = job();
        // A read goes on when the client who asked has gone: until then it has its turn.
        drop(turn);
        outcome
    };
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|lost| Err(io::Error::other(lost)))
}
