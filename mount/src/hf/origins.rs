//! All who have the same file, asked one after the other: peers, our own hub, then where it has it from.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use wtfs_torrent::hf::UpstreamError;
use wtfs_torrent::hf::blobs::{BlobBody, BlobOrigin, OriginError, OriginFault};

use crate::content::BoxFuture;
use crate::hf::swarm::Slot;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Origins {
    /// Peers, before all others.
    swarm: Option<Arc<Slot>>,
    hubs: Vec<Hub>,
}

/// A hub that has the file, and where its bytes are counted.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) origin: Arc<dyn BlobOrigin>,
    pub(super) brought: Arc<AtomicU64>,
}

/// What a hub gives: counted, and left for the file's swarm as soon as there is one. A request of a reader in order is a
/// long one; the hub would send all of it to each of those who began before its torrent was made.
struct HubBody {
    body: Box<dyn BlobBody>,
    brought: Arc<AtomicU64>,
    swarm: Option<Arc<Slot>>,
    /// What it is yet to give.
    rest: Range<u64>,
}

impl HubBody {
    /// The swarm's body for the rest, once there is one. It is asked for once.
    async fn of_swarm(&mut self) -> Option<Box<dyn BlobBody>> {
        self.swarm.as_ref().filter(|swarm| swarm.is_joined())?;
        let swarm = self.swarm.take()?;
        swarm.open(self.rest.clone()).await
    }
}

impl BlobBody for HubBody {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Bytes, OriginError>>> {
        Box::pin(async move {
            if self.rest.is_empty() {
                return self.body.next().await;
            }
            if let Some(body) = self.of_swarm().await {
                self.body = body;
                self.brought = Arc::default();
            }
            let next = self.body.next().await;
            if let Some(Ok(bytes)) = &next {
                self.brought.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                self.rest.start = self.rest.end.min(self.rest.start + bytes.len() as u64);
            }
            next
        })
    }
}

impl Origins {
    /// None at all: nothing is asked, what is not local cannot be had.
    pub(super) fn new(swarm: Option<Arc<Slot>>, hubs: Vec<Hub>) -> Self {
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
            let passed_over = self.swarm.as_ref().filter(|swarm| swarm.is_distrusted());
            if let Some(swarm) = &self.swarm
                && let Some(body) = swarm.open(range.clone()).await
            {
                return Ok(body);
            }
            let mut first = None;
            for Hub { origin, brought } in &self.hubs {
                match origin.open(range.clone()).await {
                    Ok(body) => {
                        let (brought, swarm, rest) = (Arc::clone(brought), self.swarm.clone(), range);
                        return Ok(Box::new(HubBody { body, brought, swarm, rest }));
                    }
                    Err(error) if !is_gone_around(&error) => return Err(error),
                    Err(error) => {
                        tracing::debug!(origin = origin.describe(), "{error}");
                        first.get_or_insert(error);
                    }
                }
            }
            // With nobody else left, slow peers are better than none.
            if let Some(swarm) = passed_over
                && let Some(body) = swarm.open_at_last(range).await
            {
                return Ok(body);
            }
            let nobody =
                || OriginError::new(OriginFault::Offline, "it is not here, and the mount is offline");
            Err(first.unwrap_or_else(nobody))
        })
    }

    fn describe(&self) -> String {
        self.hubs.first().map_or_else(|| "nobody".to_owned(), |hub| hub.origin.describe())
    }

    fn site(&self) -> String {
        self.hubs.first().map_or_else(|| "nobody".to_owned(), |hub| hub.origin.site())
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
            let hub = |origin: Arc<dyn BlobOrigin>| Hub { origin, brought: Arc::default() };
            let origins =
                Origins::new(None, vec![hub(first_origin), hub(Arc::clone(&second) as Arc<dyn BlobOrigin>)]);
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
