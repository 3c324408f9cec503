//! The hub's own peer among others: one by address and by line, and under no rule that is for strangers.

use std::time::Duration;

use wtfs_proto::id::{InfoHash, PeerId};
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_proto::tracker::ws::{Announce, Answer, Request, Response, Sdp};
use wtfs_torrent::tracker::local::{LocalLine, LocalTracker};

use super::Presence;
use crate::tracker::tests::Running;
use crate::tracker::ws::tests::Browser;
use crate::tracker::{SocketConfig, TrackerConfig};

const LONG: Duration = Duration::from_secs(120);
const OWN: PeerId = PeerId::new(*b"-WT0001-the-hubs-own");

fn hash(n: u8) -> InfoHash {
    InfoHash::new([n; 20])
}

async fn announce(line: &mut LocalLine, info_hash: InfoHash, event: AnnounceEvent) {
    let announce = Announce {
        info_hash,
        peer_id: OWN,
        uploaded: 0,
        downloaded: 0,
        left: Some(0),
        event,
        num_want: Some(0),
        offers: Vec::new(),
    };
    line.to_tracker.send(Request::Announce(announce).encode()).await.expect("heard");
}

async fn next(line: &mut LocalLine) -> String {
    let said = tokio::time::timeout(LONG, line.from_tracker.recv()).await.expect("in time");
    said.expect("the line is open")
}

#[tokio::test]
async fn the_hubs_own_peer_is_one_and_meets_browsers() {
    let running = Running::start(TrackerConfig::default()).await;
    let mut line = running.tracker.connect();
    announce(&mut line, hash(1), AnnounceEvent::Started).await;
    let answer = next(&mut line).await;
    assert!(matches!(Response::decode(&answer), Ok(Response::Announce { complete: 1, incomplete: 0, .. })));
    let addr = "192.0.2.7:6881".parse().expect("an address");
    running.tracker.announce_own(hash(1), OWN, addr, Presence::Seed);
    announce(&mut line, hash(1), AnnounceEvent::None).await;
    let answer = next(&mut line).await;
    assert!(matches!(Response::decode(&answer), Ok(Response::Announce { complete: 1, incomplete: 0, .. })));
    let stats = running.tracker.stats();
    assert_eq!(
        (stats.peers, stats.peers_v4, stats.peers_browser),
        (1, 1, 1),
        "one peer, reached in two ways"
    );

    let mut browser = Browser::connect(&running).await;
    browser.announce(hash(1), 3, "started", 7, 1).await;
    assert_eq!(browser.next_counts().await, (1, 1));
    let offer = next(&mut line).await;
    let Ok(Response::Offer { info_hash, peer_id, offer }) = Response::decode(&offer) else {
        panic!("{offer}")
    };
    let answer = Answer {
        info_hash,
        peer_id: OWN,
        to_peer_id: peer_id,
        offer_id: offer.offer_id,
        sdp: Sdp::new("v=0 of the hub"),
    };
    line.to_tracker.send(Request::Answer(answer).encode()).await.expect("heard");
    let came = browser.next_answer().await;
    assert_eq!(came, "v=0 of the hub");
    drop(line);
    let freed = async {
        while running.tracker.stats().relay.sockets != 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, freed).await.expect("the line's place is free");
    assert_eq!(running.tracker.stats().peers_v4, 1, "its address stays");
}

#[tokio::test]
async fn rules_for_strangers_do_not_hold_for_the_hubs_own_peer() {
    let mut config = TrackerConfig {
        requests_per_second: 1,
        request_burst: 1,
        sockets: SocketConfig { max_swarms: 1, ..SocketConfig::default() },
        ..TrackerConfig::default()
    };
    config.access.passkeys = vec!["secret".to_owned()];
    let running = Running::start(config).await;
    let mut line = running.tracker.connect();
    for n in 0..100 {
        announce(&mut line, hash(n), AnnounceEvent::Started).await;
        let answer = next(&mut line).await;
        assert!(matches!(Response::decode(&answer), Ok(Response::Announce { .. })), "{answer}");
    }
    assert_eq!(running.tracker.stats().peers, 100);
    running.stop.cancel();
    let ended = async { while line.from_tracker.recv().await.is_some() {} };
    tokio::time::timeout(LONG, ended).await.expect("the line ends with the tracker");
}
