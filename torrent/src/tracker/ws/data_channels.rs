//! The [`Factory`] behind which the session's WebRTC transport stands.
//!
//! Peers found at a tracker in the internet have to know how we look from outside, so STUN servers are asked; those found
//! at a tracker on this machine or in a private network reach our own addresses, and nobody else is told.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answered, Described, Factory, Offered, Place};
use crate::config::{DEFAULT_STUN, IceServer, RelayPolicy};
use crate::transport::Connection;
use crate::transport::webrtc::{PendingAnswer, PendingOffer, RtcError, RtcFactory, RtcPolicy};

/// The session's data channels.
#[derive(Debug)]
pub(crate) struct DataChannels {
    near: RtcFactory,
    far: RtcFactory,
}

impl DataChannels {
    /// `servers` are asked for every peer, if given; else the default ones are for those far away.
    pub(crate) fn new(
        servers: Option<&[IceServer]>,
        relay: RelayPolicy,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let near = RtcFactory::new(RtcPolicy { relay, ..RtcPolicy::default() }, tasks, shutdown);
        match servers {
            Some(servers) => {
                let near = near.with_servers(servers.to_vec());
                Self { far: near.clone(), near }
            }
            None => {
                let usual = DEFAULT_STUN.iter().filter_map(|url| url.parse().ok()).collect();
                Self { far: near.with_servers(usual), near }
            }
        }
    }

    fn of(&self, place: Place) -> RtcFactory {
        match place {
            Place::Near => self.near.clone(),
            Place::Far => self.far.clone(),
        }
    }
}

impl Factory for DataChannels {
    fn offer(&self, place: Place) -> BoxFuture<'static, Described<dyn Offered>> {
        let factory = self.of(place);
        async move {
            let (sdp, pending) = factory.offer().await?;
            Ok((sdp, Box::new(pending) as Box<dyn Offered>))
        }
        .boxed()
    }

    fn answer(&self, offer: String, place: Place) -> BoxFuture<'static, Described<dyn Answered>> {
        let factory = self.of(place);
        async move {
            let (sdp, pending) = factory.answer(&offer).await?;
            Ok((sdp, Box::new(pending) as Box<dyn Answered>))
        }
        .boxed()
    }
}

impl Offered for PendingOffer {
    fn accept(self: Box<Self>, answer: String) -> BoxFuture<'static, Result<Connection, RtcError>> {
        (*self).accept(&answer).boxed()
    }
}

impl Answered for PendingAnswer {
    fn connected(self: Box<Self>) -> BoxFuture<'static, Result<Connection, RtcError>> {
        async move { (*self).connected().await }.boxed()
    }
}
