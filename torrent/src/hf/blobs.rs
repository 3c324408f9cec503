//! The files of Hugging Face repositories, kept by the hash of their content: fetched in ranges, once however many ask,
//! and verified when whole.
//!
//! [`Blobs`] is the session's store, [`Blob`] one reader's view of one blob. Reading needs a [`BlobOrigin`] to fetch what is
//! not here.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use wtfs_proto::hf::ContentId;

use crate::reader::HeldFile;

mod error;
mod hashes;
mod origin;
mod status;

pub use error::BlobError;
pub use hashes::PieceHashes;
pub use origin::{BlobBody, BlobOrigin, OriginError, OriginFault};
pub use status::{BlobsStatus, FillStatus};

/// What is fetched for a read that continues nothing, at most, in bytes; and what a dropped read leaves to be fetched.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// All blobs of a session. Clones are the same.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// A new reader of a blob. Cheap; nothing is made on the disk until bytes come.
    pub fn get(&self, id: ContentId, bytes: u64) -> Blob {
        Blob { id, bytes, dir: self.dir.clone() }
    }

    /// Counters and sums. Never waits.
    pub fn status(&self) -> BlobsStatus {
        BlobsStatus::default()
    }

    /// What is being fetched now. Never waits.
    pub fn fills(&self) -> Vec<FillStatus> {
        Vec::new()
    }
}

/// One reader of a blob. Its reads may run in parallel; they share a read-ahead, as do clones. Another reader takes
/// another one from [`Blobs::get`].
#[derive(Debug, Clone)]
pub struct Blob {
    id: ContentId,
    bytes: u64,
    dir: PathBuf,
}

impl Blob {
    /// Its hash.
    pub fn id(&self) -> ContentId {
        self.id
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether all of it is here and verified. Never waits.
    pub fn is_whole(&self) -> bool {
        false
    }

    /// How many bytes of it are here. Never waits; of a blob that was not read since the start it is about so many.
    pub fn present_bytes(&self) -> u64 {
        0
    }

    /// Whether a range is here. Never waits; of a partial blob that was not read since the start: no.
    pub fn has(&self, _range: Range<u64>) -> bool {
        false
    }

    /// How often what was fetched of it was thrown away because it was not what the hash says: when this changes, what
    /// others keep of it (the kernel's page cache) is to be forgotten.
    pub fn generation(&self) -> u32 {
        0
    }

    /// The bytes, if they are here and the page cache can give them. Never waits. As [`Self::read_at`] otherwise.
    pub fn try_read_at(&self, _offset: u64, _len: u32) -> Option<Bytes> {
        None
    }

    /// Bytes from `offset` on: `len` of them, fewer only at the end of the blob, none past it. What is missing is fetched.
    ///
    /// # Errors
    /// [`BlobError`]; [`BlobError::Timeout`] when nothing arrived for the session's read time-out.
    ///
    /// # Cancel safety
    /// Cancel safe: the demand is withdrawn; what was fetched stays.
    pub async fn read_at(
        &self,
        _offset: u64,
        _len: u32,
        origin: &Arc<dyn BlobOrigin>,
    ) -> Result<Bytes, BlobError> {
        tracing::trace!(?origin);
        std::future::ready(Err(BlobError::Closed)).await
    }

    /// As [`Self::read_at`], as soon as there is at least one byte: for who passes on what arrives. Empty only at or past
    /// the end.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    ///
    /// # Cancel safety
    /// As [`Self::read_at`].
    pub async fn read_some_at(
        &self,
        offset: u64,
        most: u32,
        origin: &Arc<dyn BlobOrigin>,
    ) -> Result<Bytes, BlobError> {
        self.read_at(offset, most, origin).await
    }

    /// Tells that this reader is going to read a range from its start to its end: it is fetched ahead in large requests
    /// from the first read on, no further ahead than the read-ahead's longest window.
    pub fn expect(&self, _range: Range<u64>) {}

    /// Fetches all of it in the background, behind what anybody reads, and verifies it. Goes on when this is dropped; tells
    /// through [`Self::whole`].
    pub fn fetch_all(&self, _origin: &Arc<dyn BlobOrigin>) {}

    /// Ends when all of it is here and verified. Fetches nothing: see [`Self::fetch_all`].
    ///
    /// # Errors
    /// Why a fill that [`Self::fetch_all`] began came to nothing. [`BlobError::Corrupt`] when what came twice was not
    /// the blob.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn whole(&self) -> Result<(), BlobError> {
        std::future::ready(Err(BlobError::Closed)).await
    }

    /// The file on disk when it is whole, kept from being evicted while it is held: for passthrough and sendfile(2).
    /// Blocks on the disk.
    pub fn file(&self) -> Option<HeldFile> {
        None
    }

    /// Where the file is when it is whole.
    pub fn path(&self) -> Option<PathBuf> {
        self.is_whole().then(|| self.dir.clone())
    }

    /// Asks for the hashes of pieces of so many bytes to be made in the pass that verifies the blob.
    pub fn want_hashes(&self, _piece_bytes: u32) {}

    /// The hashes of its pieces, once it is whole: kept from an earlier time, made in the pass that verified it, or made
    /// now. `piece_bytes` is a power of two of at least 16 KiB.
    ///
    /// # Errors
    /// As [`Self::whole`], and when the disk does not work.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn piece_hashes(&self, _piece_bytes: u32) -> Result<Arc<PieceHashes>, BlobError> {
        std::future::ready(Err(BlobError::Closed)).await
    }
}
