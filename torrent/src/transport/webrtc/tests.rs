//! The transport as a peer sees it: pairs of factories, over loopback and through a relay that delays, loses and cuts.
//!
//! Nothing here knows the library: another backend would have to pass the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wtfs_testkit::path::Profile;
use wtfs_testkit::udp_relay::{UdpRelay, candidate_of, with_candidate};

use super::*;
use crate::transport::{Direction, TransportKind};

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(120);

fn policy() -> RtcPolicy {
    RtcPolicy {
        addresses: AddressFilter { only: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..AddressFilter::default() },
        ..RtcPolicy::default()
    }
}

/// A factory with its own tasks, so that a test can wait for their end.
struct Side {
    factory: RtcFactory,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Side {
    fn new(policy: RtcPolicy) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        Self { factory: RtcFactory::new(policy, tasks.clone(), shutdown.clone()), tasks, shutdown }
    }

    /// Waits until no task is left.
    async fn is_idle(&self) {
        self.tasks.close();
        tokio::time::timeout(LIMIT, self.tasks.wait()).await.expect("all tasks end");
        self.tasks.reopen();
        assert_eq!(self.factory.connections(), 0);
    }
}

/// Connects two sides; the offerer's end first.
async fn connect(offers: &Side, answers: &Side) -> (Connection, Connection) {
    let (offer, pending) = offers.factory.offer().await.unwrap();
    let (answer, answered) = answers.factory.answer(&offer).await.unwrap();
    let (ours, theirs) = tokio::join!(pending.accept(&answer), answered.connected());
    (ours.unwrap(), theirs.unwrap())
}

/// Connects two sides whose only way is by a relay in front of the offerer.
async fn connect_through(
    offers: &Side,
    answers: &Side,
    profile: &Profile,
) -> (UdpRelay, Connection, Connection) {
    let (offer, pending) = offers.factory.offer().await.unwrap();
    let relay = UdpRelay::start(candidate_of(&offer).unwrap(), profile, 7);
    let offer = with_candidate(&offer, Some(relay.addr()));
    let (answer, answered) = answers.factory.answer(&offer).await.unwrap();
    let answer = with_candidate(&answer, None);
    let (ours, theirs) = tokio::join!(pending.accept(&answer), answered.connected());
    (relay, ours.unwrap(), theirs.unwrap())
}

/// Bytes that tell their offset apart.
fn content(len: usize) -> Vec<u8> {
    wtfs_testkit::ramp::Ramp::new(5).bytes(0, len)
}

fn sum(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_as_they_were_sent_in_both_directions_at_once() {
    let (a, b) = (Side::new(policy()), Side::new(policy()));
    let (mut ours, mut theirs) = connect(&a, &b).await;
    assert_eq!((ours.kind, ours.direction), (TransportKind::WebRtc, Direction::Outgoing));
    assert_eq!((theirs.kind, theirs.direction), (TransportKind::WebRtc, Direction::Incoming));
    assert!(ours.addr.ip().is_loopback() && theirs.addr.ip().is_loopback());
    assert_ne!(ours.addr, theirs.addr);
    let sent = content(8 << 20);
    let transfer = async |from: &mut super::super::Writer, to: &mut super::super::Reader| {
        let write = async {
            // Odd sizes: what is written together need not arrive together.
            for part in sent.chunks(50_001) {
                from.write_all(part).await.unwrap();
            }
        };
        let mut got = vec![0; sent.len()];
        let (_, read) = tokio::join!(write, to.read_exact(&mut got));
        read.unwrap();
        assert_eq!(sum(&got), sum(&sent));
    };
    let both = async {
        tokio::join!(
            transfer(&mut ours.writer, &mut theirs.reader),
            transfer(&mut theirs.writer, &mut ours.reader)
        )
    };
    tokio::time::timeout(LIMIT, both).await.unwrap();
    drop((ours, theirs));
    a.is_idle().await;
    b.is_idle().await;
}
