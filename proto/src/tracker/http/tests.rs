//! Queries and bodies against the forms seen in the wild, against each other, and against any bytes.

use super::*;
use crate::tracker::MAX_TEXT_BYTES;
use proptest::prelude::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash::new(*b"\x124Vx\x9a\xbc\xde\xf1#Eg\x89\xab\xcd\xef\x12#Eg\x89"),
        peer_id: PeerId::new(*b"-WF0100-abcdefghijkl"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: AnnounceEvent::None,
        num_want: None,
        key: 0xBEEF,
        ip: None,
        tracker_id: None,
    }
}

#[test]
fn a_query_has_the_form_that_trackers_expect() {
    assert_eq!(
        announce_query(&request()),
        "info_hash=%124Vx%9A%BC%DE%F1%23Eg%89%AB%CD%EF%12%23Eg%89&peer_id=-WF0100-abcdefghijkl&port=6881\
         &uploaded=1&downloaded=2&left=3&compact=1&key=0000BEEF"
    );
    let more = AnnounceRequest {
        event: AnnounceEvent::Started,
        num_want: Some(50),
        ip: Some("::1".parse().expect("an address")),
        tracker_id: Some("a b&c".to_owned()),
        ..request()
    };
    assert!(announce_query(&more).ends_with("&event=started&numwant=50&ip=%3A%3A1&trackerid=a%20b%26c"));
}

#[test]
fn the_query_of_another_client_is_read() {
    let query = "info_hash=%124Vx%9a%bc%de%f1%23Eg%89%ab%cd%ef%12%23Eg%89&peer_id=-TR4060-kq5e7y0wl1ab&port=51413\
        &uploaded=0&downloaded=0&left=1048576&numwant=80&key=7c1e5d0a&compact=1&supportcrypto=1&event=started";
    let read = parse_announce_query(query).expect("a query");
    assert_eq!(read.info_hash, request().info_hash);
    assert_eq!((read.port, read.left, read.num_want, read.key), (51_413, 1 << 20, Some(80), 0x7c1e_5d0a));
    assert_eq!(read.event, AnnounceEvent::Started);
}

#[test]
fn what_is_beside_the_point_may_be_missing_or_wrong() {
    let query = "info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1&left=Infinity&numwant=-1\
        &event=paused&key=not-hex&uploaded=&ip=example.org";
    let read = parse_announce_query(query).expect("the point is there");
    assert_eq!((read.left, read.num_want, read.event), (u64::MAX, None, AnnounceEvent::None));
    assert_eq!((read.uploaded, read.ip, read.tracker_id), (0, None, None));
    assert_eq!(read.key, parse_announce_query(query).expect("again").key);
}

#[test]
fn a_wrong_parameter_is_named() {
    let refused = |query: &str| parse_announce_query(query).expect_err("refused").to_string();
    assert_eq!(refused(""), "the query has no info_hash that is 20 bytes, percent-encoded");
    assert!(refused("info_hash=aaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1").contains("info_hash"));
    assert!(
        refused("info_hash=aaaaaaaaaaaaaaaaaaa%2&peer_id=bbbbbbbbbbbbbbbbbbbb&port=1").contains("info_hash")
    );
    assert!(refused("info_hash=aaaaaaaaaaaaaaaaaaaa&port=1").contains("peer_id"));
    let port = refused("info_hash=aaaaaaaaaaaaaaaaaaaa&peer_id=bbbbbbbbbbbbbbbbbbbb&port=65536");
    assert_eq!(port, "the query has no port that is a number up to 65535");
}

#[test]
fn compact_peers_of_both_families_are_read() {
    let body = b"d8:completei5e11:external ip4:\x09\x08\x07\x0610:incompletei7e8:intervali900e12:min intervali60e\
        5:peers12:\x01\x02\x03\x04\x1a\xe1\x01\x02\x03\x05\0\x006:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x50\
        10:tracker id2:id15:warning message4:slowe";
    assert_eq!(
        decode_announce_response(body),
        Ok(AnnounceResponse {
            interval_s: 900,
            min_interval_s: Some(60),
            seeders: Some(5),
            leechers: Some(7),
            peers: vec![addr("1.2.3.4:6881"), addr("[2001:db8::1]:80")],
            tracker_id: Some("id".to_owned()),
            warning: Some("slow".to_owned()),
            external_ip: Some("9.8.7.6".parse().expect("an address")),
        })
    );
}

#[test]
fn dictionary_peers_are_read_without_host_names() {
    let body = b"d8:intervali1e5:peersld2:ip7:1.2.3.47:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti6881ee\
        d2:ip9:localhost4:porti1eed2:ip3:::14:porti2eed2:ip3:::14:porti0eed2:ip3:::14:porti99999eei5eee";
    let response = decode_announce_response(body).expect("a response");
    assert_eq!(response.peers, [addr("1.2.3.4:6881"), addr("[::1]:2")]);
}

#[test]
fn peers_are_told_as_dictionaries_to_who_declines_the_compact_form() {
    assert_eq!(response_form("port=1"), ResponseForm::Compact);
    assert_eq!(response_form("compact=1&no_peer_id=1"), ResponseForm::Compact);
    assert_eq!(response_form("compact=0"), ResponseForm::Dictionaries);
    assert_eq!(response_form("no_peer_id=1&compact=0"), ResponseForm::DictionariesWithoutId);
    let peers = vec![addr("1.2.3.4:6881"), addr("[2001:db8::1]:80")];
    let response = AnnounceResponse { interval_s: 9, peers, ..AnnounceResponse::default() };
    let ids = [PeerId::new([b'a'; 20]), PeerId::new([b'b'; 20])];
    assert_eq!(
        encode_announce_dictionaries(&response, &ids),
        b"d8:intervali9e5:peersld2:ip7:1.2.3.47:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti6881ee\
        d2:ip11:2001:db8::17:peer id20:bbbbbbbbbbbbbbbbbbbb4:porti80eeee"
    );
    let without = encode_announce_dictionaries(&response, &[]);
    assert!(!String::from_utf8_lossy(&without).contains("peer id"));
    assert_eq!(decode_announce_response(&without), Ok(response));
}

#[test]
fn a_refusal_is_told_in_the_trackers_words() {
    let refused = |body: &[u8]| decode_announce_response(body).expect_err("refused").to_string();
    assert_eq!(
        refused(&encode_failure("torrent not registered")),
        "the tracker refuses: torrent not registered"
    );
    assert_eq!(refused(b"d14:failure reason5:a\x1b\nb e"), "the tracker refuses: a  b");
    let long = [b"d14:failure reason5000:".as_slice(), &[b'x'; 5000], b"e"].concat();
    assert!(refused(&long).len() < MAX_TEXT_BYTES + 30);
    assert!(matches!(decode_scrape_response(&encode_failure("no")), Err(TrackerError::Failure { .. })));
}

#[test]
fn what_is_no_response_says_why() {
    let refused = |body: &[u8]| decode_announce_response(body).expect_err("refused").to_string();
    assert!(refused(b"<html>").starts_with("a response that cannot be read: byte 0x3c at offset 0"));
    assert_eq!(refused(b"le"), "the response is a list, expected a dictionary");
    assert_eq!(refused(b"d5:peers5:12345e"), "peers: 5 bytes of addresses, expected a multiple of 6");
    assert_eq!(refused(b"d6:peers65:12345e"), "peers6: 5 bytes of addresses, expected a multiple of 18");
    assert_eq!(refused(b"d5:peersi1ee"), "the response has no peers that is a string or a list");
    assert!(refused(&b"d1:a".repeat(100_000)).contains("nested deeper"));
}

#[test]
fn numbers_out_of_range_are_clipped_and_missing_ones_have_defaults() {
    let response = decode_announce_response(b"d8:completei-5e8:intervali99999999999ee").expect("a response");
    assert_eq!((response.interval_s, response.seeders), (u32::MAX, Some(0)));
    assert_eq!(decode_announce_response(b"de").expect("a response").interval_s, DEFAULT_INTERVAL_S);
}

#[test]
fn no_more_than_the_limit_of_peers_is_taken() {
    let body = [b"d5:peers60000:".as_slice(), &[1; 60_000], b"e"].concat();
    assert_eq!(decode_announce_response(&body).expect("a response").peers.len(), MAX_PEERS);
}

#[test]
fn scrape_urls_follow_bep_48() {
    let scrape = |url| scrape_url(url);
    assert_eq!(scrape("http://example.com/announce").as_deref(), Some("http://example.com/scrape"));
    assert_eq!(scrape("http://example.com/x/announce").as_deref(), Some("http://example.com/x/scrape"));
    assert_eq!(scrape("http://example.com/announce.php").as_deref(), Some("http://example.com/scrape.php"));
    assert_eq!(
        scrape("http://example.com/announce?x2%0644").as_deref(),
        Some("http://example.com/scrape?x2%0644")
    );
    assert_eq!(scrape("http://example.com/a"), None);
    assert_eq!(scrape("http://example.com/announce?x=2/4"), None);
    assert_eq!(scrape("http://example.com/x%064announce"), None);
    assert_eq!(scrape(""), None);
}

#[test]
fn scrapes_come_back_both_ways() {
    let hashes = [InfoHash::new([7; 20]), InfoHash::new([b'&'; 20])];
    assert_eq!(parse_scrape_query(&scrape_query(&hashes)), Ok(hashes.to_vec()));
    assert_eq!(parse_scrape_query(""), Ok(vec![]));
    assert!(parse_scrape_query("info_hash=short").is_err());
    let entry = ScrapeEntry { complete: 1, downloaded: 2, incomplete: 3 };
    let entries = [(hashes[0], entry), (hashes[1], ScrapeEntry::default())].into();
    for min_interval_s in [None, Some(900)] {
        let sent = ScrapeResponse { entries: BTreeMap::clone(&entries), min_interval_s };
        assert_eq!(decode_scrape_response(&encode_scrape_response(&sent)), Ok(sent));
    }
    assert!(decode_scrape_response(b"d5:filesd3:abcdeee").expect("a response").entries.is_empty());
    assert_eq!(
        decode_scrape_response(b"de").expect_err("no files").to_string(),
        "the response has no files that is a dictionary"
    );
}

fn options<T: std::fmt::Debug + 'static>(
    some: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<Option<T>> {
    prop::option::of(some).boxed()
}

proptest! {
    #[test]
    fn announces_come_back(
        hash: [u8; 20], id: [u8; 20], port: u16, numbers: (u64, u64), left in 0..i64::MAX.unsigned_abs(),
        event in prop::sample::select(vec![
            AnnounceEvent::None, AnnounceEvent::Started, AnnounceEvent::Stopped, AnnounceEvent::Completed,
        ]),
        num_want: Option<u32>, key: u32, ip: Option<IpAddr>,
        tracker_id in options("[!-~é&=+%]{1,40}"), is_left_known: bool,
    ) {
        let sent = AnnounceRequest {
            info_hash: InfoHash::new(hash),
            peer_id: PeerId::new(id),
            port,
            uploaded: numbers.0,
            downloaded: numbers.1,
            left: if is_left_known { left } else { u64::MAX },
            event,
            num_want,
            key,
            ip,
            tracker_id,
        };
        prop_assert_eq!(parse_announce_query(&announce_query(&sent)), Ok(sent));
    }

    #[test]
    fn responses_come_back_v4_first(
        interval_s: u32, min_interval_s: Option<u32>, seeders: Option<u32>, leechers: Option<u32>,
        peers in prop::collection::vec((any::<IpAddr>(), 1_u16..), 0..30),
        tracker_id in options("[!-~]{1,40}"), warning in options("[!-~]{1,40}"), external_ip: Option<IpAddr>,
    ) {
        let peers = peers.into_iter().map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port)).collect();
        let mut sent = AnnounceResponse {
            interval_s, min_interval_s, seeders, leechers, peers, tracker_id, warning, external_ip,
        };
        let received = decode_announce_response(&encode_announce_response(&sent));
        sent.peers.sort_by_key(SocketAddr::is_ipv6);
        prop_assert_eq!(received, Ok(sent));
    }

    #[test]
    fn any_text_or_bytes_are_read_or_refused(text in "(info_hash=|peer_id=|&|%|[a-f0-9]|.){0,40}", bytes: Vec<u8>) {
        let _ = parse_announce_query(&text);
        let _ = parse_scrape_query(&text);
        let _ = scrape_url(&text);
        let _ = decode_announce_response(&bytes);
        let _ = decode_scrape_response(&bytes);
        let framed = [format!("d5:peers{}:", bytes.len()).as_bytes(), &bytes, b"e"].concat();
        prop_assert_eq!(decode_announce_response(&framed).is_ok(), bytes.len().is_multiple_of(6));
    }
}
