//! The HTTP front end over real sockets.

use super::*;
use crate::tracker::tests::Running;
use crate::tracker::{AccessConfig, TrackerConfig};
use wtfs_proto::id::InfoHash;
use wtfs_proto::tracker::AnnounceEvent;
use wtfs_proto::tracker::http::{
    announce_query, decode_announce_response, decode_scrape_response, scrape_query,
};

pub(in crate::tracker) fn request(info_hash: InfoHash, peer: u8, port: u16) -> AnnounceRequest {
    AnnounceRequest {
        info_hash,
        peer_id: PeerId::new([peer; 20]),
        port,
        uploaded: 0,
        downloaded: 0,
        left: 1,
        event: AnnounceEvent::Started,
        num_want: None,
        key: u32::from(peer),
        ip: None,
        tracker_id: None,
    }
}

const HASH: InfoHash = InfoHash::new([0xE9; 20]);

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

async fn announce(running: &Running, request: &AnnounceRequest, headers: &str) -> AnnounceResponse {
    let (head, body) = running.get(&format!("/announce?{}", announce_query(request)), headers).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain"), "{head}");
    decode_announce_response(&body).expect("a response")
}

async fn refused(running: &Running, target: &str) -> String {
    let (head, body) = running.get(target, "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    decode_announce_response(&body).expect_err("refused").to_string()
}

#[tokio::test]
async fn clients_find_each_other_and_leave() {
    let running = Running::start(TrackerConfig::default()).await;
    let first = announce(&running, &request(HASH, 1, 7001), "").await;
    assert_eq!((first.seeders, first.leechers, first.peers.len()), (Some(0), Some(1), 0));
    assert_eq!(first.external_ip, Some("127.0.0.1".parse().expect("an address")));
    assert!((810..=990).contains(&first.interval_s) && first.min_interval_s == Some(30));
    let seed = AnnounceRequest { left: 0, event: AnnounceEvent::Completed, ..request(HASH, 2, 7002) };
    assert_eq!(announce(&running, &seed, "").await.peers, [addr("127.0.0.1:7001")]);
    assert_eq!(announce(&running, &request(HASH, 1, 7001), "").await.peers, [addr("127.0.0.1:7002")]);
    let none = AnnounceRequest { num_want: Some(0), ..request(HASH, 1, 7001) };
    assert!(announce(&running, &none, "").await.peers.is_empty());
    let (_, body) =
        running.get(&format!("/scrape?{}", scrape_query(&[HASH, InfoHash::new([1; 20])])), "").await;
    let scraped = decode_scrape_response(&body).expect("a response");
    let entry = wtfs_proto::tracker::ScrapeEntry { complete: 1, downloaded: 1, incomplete: 1 };
    let none = wtfs_proto::tracker::ScrapeEntry::default();
    assert_eq!(scraped.entries, BTreeMap::from([(HASH, entry), (InfoHash::new([1; 20]), none)]));
    let gone = AnnounceRequest { event: AnnounceEvent::Stopped, ..request(HASH, 1, 7001) };
    let last = announce(&running, &gone, "").await;
    assert_eq!((last.seeders, last.leechers, last.peers.len()), (Some(1), Some(0), 0));
}

#[tokio::test]
async fn peers_come_as_dictionaries_to_who_asks_for_them() {
    let running = Running::start(TrackerConfig::default()).await;
    announce(&running, &request(HASH, 1, 7001), "").await;
    let query = announce_query(&request(HASH, 2, 7002)).replace("compact=1", "compact=0");
    let (_, body) = running.get(&format!("/announce?{query}"), "").await;
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("d2:ip9:127.0.0.17:peer id20:") && text.contains("4:porti7001e"), "{text}");
    let (_, body) = running.get(&format!("/announce?{query}&no_peer_id=1"), "").await;
    assert!(!String::from_utf8_lossy(&body).contains("peer id"));
}

#[tokio::test]
async fn an_address_is_believed_of_a_proxy_and_not_of_a_client() {
    let running = Running::start(TrackerConfig::default()).await;
    let claims =
        AnnounceRequest { ip: Some("6.6.6.6".parse().expect("an address")), ..request(HASH, 1, 7001) };
    let told = announce(&running, &claims, "").await;
    assert_eq!(told.external_ip, Some("127.0.0.1".parse().expect("an address")));
    let forwarded = "X-Forwarded-For: 6.6.6.6, 8.8.4.4\r\n";
    let told = announce(&running, &request(HASH, 2, 7002), forwarded).await;
    assert_eq!(told.external_ip, Some("8.8.4.4".parse().expect("an address")));
    assert!(told.peers.is_empty(), "a loopback address is of no use there");
    let v6 = "Forwarded: for=\"[2001:db8::7]:99\"\r\n";
    let told = announce(&running, &request(HASH, 3, 7003), v6).await;
    assert_eq!(told.peers, [addr("8.8.4.4:7002")]);
    let told = announce(&running, &request(HASH, 1, 7001), "").await;
    let mut peers = told.peers;
    peers.sort_unstable();
    assert_eq!(peers, [addr("8.8.4.4:7002"), addr("[2001:db8::7]:7003")]);
}

#[tokio::test]
async fn refusals_are_said_in_bencode() {
    let running = Running::start(TrackerConfig::default()).await;
    assert!(refused(&running, "/announce").await.contains("no info_hash"));
    assert!(refused(&running, "/announce?info_hash=%zz").await.contains("no info_hash"));
    assert!(refused(&running, "/scrape").await.contains("has to name torrents"));
    let stats = running.tracker.stats();
    assert_eq!((stats.http.announces, stats.http.malformed), (0, 3));
}

#[tokio::test]
async fn a_passkey_opens_the_tracker_on_either_side() {
    let access = AccessConfig { passkeys: vec!["sesame".to_owned()], ..AccessConfig::default() };
    let running = Running::start(TrackerConfig { access, ..TrackerConfig::default() }).await;
    let query = announce_query(&request(HASH, 1, 7001));
    assert!(refused(&running, &format!("/announce?{query}")).await.contains("needs a passkey"));
    assert!(refused(&running, &format!("/announce/guess?{query}")).await.contains("needs a passkey"));
    for path in ["/announce/sesame", "/sesame/announce"] {
        let (_, body) = running.get(&format!("{path}?{query}"), "").await;
        assert_eq!(decode_announce_response(&body).expect("a response").leechers, Some(1));
    }
    for path in ["/scrape/sesame", "/sesame/scrape"] {
        let (_, body) = running.get(&format!("{path}?{}", scrape_query(&[HASH])), "").await;
        assert_eq!(decode_scrape_response(&body).expect("a response").entries.len(), 1);
    }
    assert!(
        refused(&running, &format!("/scrape?{}", scrape_query(&[HASH]))).await.contains("needs a passkey")
    );
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_to_wait_and_others_are_not() {
    let config = TrackerConfig { requests_per_second: 1, request_burst: 3, ..TrackerConfig::default() };
    let running = Running::start(config).await;
    let query = announce_query(&request(HASH, 1, 7001));
    let target = format!("/announce?{query}");
    let mut said = String::new();
    for _ in 0..10 {
        let (_, body) = running.get(&target, "").await;
        if let Err(error) = decode_announce_response(&body) {
            said = error.to_string();
            break;
        }
    }
    assert!(said.contains("too many requests from this address, come back in"), "{said}");
    announce(&running, &request(HASH, 2, 7002), "X-Forwarded-For: 8.8.8.8\r\n").await;
    assert!(running.tracker.stats().http.rejected >= 1);
}
