//! The origin of blobs for a hub that is offline: it is never asked for anything.

use std::ops::Range;

use futures_util::future::{BoxFuture, FutureExt as _};
use wtfs_torrent::hf::blobs::{BlobBody, BlobOrigin, OriginError, OriginFault};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Nobody;

impl BlobOrigin for Nobody {
    fn open(&self, _range: Range<u64>) -> BoxFuture<'_, Result<Box<dyn BlobBody>, OriginError>> {
        let refused = Err(OriginError::new(OriginFault::Offline, "this hub is offline"));
        std::future::ready(refused).boxed()
    }

    fn describe(&self) -> String {
        "offline".to_owned()
    }
}
