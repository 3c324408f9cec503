//! All who have the same file, asked one after the other: peers, our own hub, then where it has it from.

use std::ops::Range;
use std::sync::Arc;

use wtfs_torrent::hf::UpstreamError;
use wtfs_torrent::hf::blobs::{BlobBody, BlobOrigin, OriginError, OriginFault};

use crate::content::BoxFuture;
use crate::hf::swarm::Slot;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Origins {
    /// Peers, before all others.
    swarm: Option<Arc<Slot>>,
    hubs: Vec<Arc<dyn BlobOrigin>>,
}

impl Origins {
    /// None at all: nothing is asked, what is not local cannot be had.
    pub(super) fn new(swarm: Option<Arc<Slot>>, hubs: Vec<Arc<dyn BlobOrigin>>) -> Self {
        Self { swarm, hubs }
    }
}

/// Whether the next is asked. Whoever may not read it at our hub may not read it, and a hub that is busy or broke off is
/// asked again: going around it is for one that is not there or has not got it, since it spares those behind it.
fn is_gone_around(error: &OriginError) -> bool {
    let upstream = error.source.as_ref().and_then(|source| source.downcast_ref::<UpstreamError>());
    match (error.fault, upstream) {
        (OriginFault::Forbidden, _) => false,
        (OriginFault::Transient, Some(upstream)) => {
            matches!(upstream, UpstreamError::Unreachable(_) | UpstreamError::Timeout { .. })
        }
        (OriginFault::Transient, None) => true,
        (OriginFault::Gone | OriginFault::Lying | OriginFault::Offline, _) => true,
    }
}

impl BlobOrigin for Origins {
    fn open(&self, range: Range<u64>) -> BoxFuture<'_, Result<Box<dyn BlobBody>, OriginError>> {
        Box::pin(async move {
            if let Some(swarm) = &self.swarm
                && let Some(body) = swarm.open(range.clone()).await
            {
                return Ok(body);
            }
            let mut first = None;
            for origin in &self.hubs {
                match origin.open(range.clone()).await {
                    Ok(body) => return Ok(body),
                    Err(error) if !is_gone_around(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(origin = origin.describe(), "{error}");
                        first.get_or_insert(error);
                    }
                }
            }
            let nobody =
                || OriginError::new(OriginFault::Offline, "it is not here, and the mount is offline");
            Err(first.unwrap_or_else(nobody))
        })
    }

    fn describe(&self) -> String {
        self.hubs.first().map_or_else(|| "nobody".to_owned(), |origin| origin.describe())
    }

    fn site(&self) -> String {
        self.hubs.first().map_or_else(|| "nobody".to_owned(), |origin| origin.site())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Debug)]
    struct Fails(OriginFault, AtomicU32);

    impl BlobOrigin for Fails {
        fn open(&self, _: Range<u64>) -> BoxFuture<'_, Result<Box<dyn BlobBody>, OriginError>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Err(OriginError::new(self.0, format!("{:?}", self.0))) })
        }
        fn describe(&self) -> String {
            format!("{:?}", self.0)
        }
    }

    #[tokio::test]
    async fn the_next_is_asked_unless_the_first_refuses() {
        for (first, asked_second) in [
            (OriginFault::Transient, 1),
            (OriginFault::Gone, 1),
            (OriginFault::Lying, 1),
            (OriginFault::Forbidden, 0),
        ] {
            let second = Arc::new(Fails(OriginFault::Gone, AtomicU32::new(0)));
            let first_origin: Arc<dyn BlobOrigin> = Arc::new(Fails(first, AtomicU32::new(0)));
            let origins = Origins::new(None, vec![first_origin, Arc::clone(&second) as Arc<dyn BlobOrigin>]);
            let error = origins.open(0..1).await.err().expect("both fail");
            assert_eq!((error.fault, second.1.load(Ordering::SeqCst)), (first, asked_second));
        }
        let busy = UpstreamError::Unavailable { host: "hub".into(), status: 503, retry_after: None };
        assert!(!is_gone_around(&busy.into()));
        assert!(is_gone_around(&UpstreamError::Timeout { host: "hub".into() }.into()));
        let error = Origins::new(None, Vec::new()).open(0..1).await.err().expect("nobody is asked");
        assert_eq!(error.fault, OriginFault::Offline);
    }
}
