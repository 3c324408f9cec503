//! Datagrams against the layouts of BEP 15 and BEP 41, against each other, and against any bytes.

use super::*;
use proptest::prelude::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn announce() -> AnnounceRequest {
    AnnounceRequest {
        connection_id: 0x0102_0304_0506_0708,
        transaction_id: 0x1112_1314,
        request: crate::tracker::AnnounceRequest {
            info_hash: InfoHash::new([0xaa; 20]),
            peer_id: PeerId::new([0xbb; 20]),
            port: 6881,
            uploaded: 3,
            downloaded: 1,
            left: 2,
            event: AnnounceEvent::Started,
            num_want: None,
            key: 0x2122_2324,
            ip: None,
            tracker_id: None,
        },
        url_data: String::new(),
    }
}

#[test]
fn requests_have_the_layout_of_bep_15() {
    let connect = ConnectRequest { transaction_id: 7 }.encode();
    assert_eq!(connect, [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 0, 0, 0, 7]);
    let bytes = announce().encode();
    assert_eq!(bytes.len(), 98);
    assert_eq!(bytes[..16], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0x11, 0x12, 0x13, 0x14]);
    assert_eq!(bytes[16..56], [[0xaa; 20], [0xbb; 20]].concat());
    assert_eq!(bytes[56..80], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(bytes[80..88], [0, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(bytes[88..], [0x21, 0x22, 0x23, 0x24, 0xff, 0xff, 0xff, 0xff, 0x1a, 0xe1]);
}

#[test]
fn url_data_follows_as_options_of_at_most_255_bytes() {
    let url_data = format!("/announce?passkey={}", "x".repeat(300));
    let bytes = AnnounceRequest { url_data: url_data.clone(), ..announce() }.encode();
    assert_eq!(bytes[98..101], [2, 255, b'/']);
    assert_eq!(bytes[98 + 257..98 + 259], [2, 63]);
    let Ok(Request::Announce(read)) = Request::decode(&bytes) else { panic!("an announce") };
    assert_eq!(read.url_data, url_data);
    let long = AnnounceRequest { url_data: "x".repeat(MAX_URL_DATA_BYTES + 1), ..announce() };
    assert_eq!(long.encode().len(), 98, "a part of a token is a wrong token");
}

#[test]
fn options_that_are_unknown_padding_or_malformed_are_passed_over() {
    let url_data = |options: &[u8]| {
        let bytes = [&announce().encode(), options].concat();
        let Ok(Request::Announce(read)) = Request::decode(&bytes) else { panic!("an announce") };
        read.url_data
    };
    assert_eq!(url_data(&[1, 1, 9, 2, b'x', b'x', 2, 2, b'/', b'a', 2, 1, b'b', 0, 2, 1, b'c']), "/ab");
    assert_eq!(url_data(&[2, 5, b'/']), "");
    assert_eq!(url_data(&[2]), "");
    assert_eq!(url_data(&[2, 1, 0xff]), "");
}

#[test]
fn url_data_is_the_path_and_the_query() {
    assert_eq!(url_data("udp://tracker.example:80/announce"), "/announce");
    assert_eq!(url_data("udp://tracker.example:80/a/b?c=d/e#f"), "/a/b?c=d/e");
    assert_eq!(url_data("udp://tracker.example:80?c=d"), "?c=d");
    assert_eq!(url_data("udp://tracker.example:80/"), "");
    assert_eq!(url_data("udp://tracker.example:80"), "");
    assert_eq!(url_data(""), "");
}

#[test]
fn peers_are_read_by_the_family_of_the_socket() {
    let mut datagram = vec![0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 7, 8, 0, 0, 0, 5, 0, 0, 0, 6];
    datagram.extend([1, 2, 3, 4, 0x1a, 0xe1, 5, 6, 7, 8, 0, 0, 9, 9, 9, 9, 0, 1]);
    let read = |family| Response::decode(&datagram, family);
    let expected =
        |peers| Response::Announce { transaction_id: 9, interval_s: 1800, leechers: 5, seeders: 6, peers };
    assert_eq!(read(Family::V4), Ok(expected(vec![addr("1.2.3.4:6881"), addr("9.9.9.9:1")])));
    assert_eq!(read(Family::V6), Ok(expected(vec![addr("[102:304:1ae1:506:708:0:909:909]:1")])));
    datagram.pop();
    let cut = Response::decode(&datagram, Family::V4).expect_err("cut");
    assert_eq!(cut.to_string(), "peers: 17 bytes of addresses, expected a multiple of 6");
}

#[test]
fn a_response_fits_one_datagram_and_holds_one_family() {
    let peers = |text: &str| vec![addr(text); 1000];
    for (family, own, other) in
        [(Family::V4, "1.2.3.4:5", "[2001:db8::1]:5"), (Family::V6, "[2001:db8::1]:5", "1.2.3.4:5")]
    {
        let response = Response::Announce {
            transaction_id: 1,
            interval_s: 2,
            leechers: 3,
            seeders: 4,
            peers: [peers(other), peers(own)].concat(),
        };
        let datagram = response.encode(family);
        assert!((1400..=1452).contains(&datagram.len()), "{}", datagram.len());
        let Ok(Response::Announce { peers, .. }) = Response::decode(&datagram, family) else {
            panic!("a response")
        };
        assert!(peers.iter().all(|peer| *peer == addr(own)));
    }
    let entries = vec![ScrapeEntry::default(); 100];
    assert_eq!(Response::Scrape { transaction_id: 1, entries }.encode(Family::V4).len(), 8 + 74 * 12);
}

#[test]
fn what_cannot_be_read_says_what_was_expected() {
    let request = |bytes: &[u8]| Request::decode(bytes).expect_err("refused").to_string();
    assert_eq!(request(&[0; 15]), "a request of 15 bytes, expected at least 16");
    assert_eq!(request(&[0; 16]), "protocol id 0x0, expected 0x41727101980");
    assert_eq!(request(&announce().encode()[..97]), "an announce request of 97 bytes, expected at least 98");
    let scrape = ScrapeRequest { connection_id: 1, transaction_id: 2, info_hashes: vec![] }.encode();
    assert_eq!(
        request(&scrape),
        "a scrape request of 16 bytes, expected 16 and 20 for each of 1 to 74 torrents"
    );
    assert_eq!(request(&[1; 16]), "action 16843009 in a datagram, expected 0 to 2");
    let response = |bytes: &[u8]| Response::decode(bytes, Family::V4).expect_err("refused").to_string();
    assert_eq!(response(&[0; 7]), "a response of 7 bytes, expected at least 8");
    assert_eq!(response(&[0; 15]), "a connect response of 15 bytes, expected at least 16");
    assert_eq!(response(&[1; 8]), "action 16843009 in a datagram, expected 0 to 3");
    assert_eq!(
        response(&[0, 0, 0, 2, 0, 0, 0, 0, 1]),
        "a scrape response of 9 bytes, expected 8 and 12 for each torrent"
    );
}

#[test]
fn a_refusal_is_fit_to_be_shown() {
    let datagram = b"\0\0\0\x03\0\0\0\x05no\x1b such\0";
    let refusal = Response::Error { transaction_id: 5, message: "no  such".to_owned() };
    assert_eq!(Response::decode(datagram, Family::V4), Ok(refusal));
}

proptest! {
    #[test]
    fn requests_come_back(
        connection_id: u64, transaction_id: u32, hash: [u8; 20], id: [u8; 20], port: u16,
        numbers: (u64, u64, u64),
        event in prop::sample::select(vec![
            AnnounceEvent::None, AnnounceEvent::Started, AnnounceEvent::Stopped, AnnounceEvent::Completed,
        ]),
        num_want in prop::option::of(0..=i32::MAX.unsigned_abs()), key: u32,
        ip in prop::option::of(any::<Ipv4Addr>().prop_filter("unset", |ip| !ip.is_unspecified())),
        url_data in "[ -~]{0,600}",
        hashes in prop::collection::vec(any::<[u8; 20]>(), 1..=MAX_SCRAPE_HASHES),
    ) {
        let (uploaded, downloaded, left) = numbers;
        let request = crate::tracker::AnnounceRequest {
            info_hash: InfoHash::new(hash), peer_id: PeerId::new(id), port, uploaded, downloaded, left, event,
            num_want, key, ip: ip.map(IpAddr::V4), tracker_id: None,
        };
        let sent = AnnounceRequest { connection_id, transaction_id, request, url_data };
        prop_assert_eq!(Request::decode(&sent.encode()), Ok(Request::Announce(sent)));
        let info_hashes = hashes.into_iter().map(InfoHash::new).collect();
        let sent = ScrapeRequest { connection_id, transaction_id, info_hashes };
        prop_assert_eq!(Request::decode(&sent.encode()), Ok(Request::Scrape(sent)));
        let sent = ConnectRequest { transaction_id };
        prop_assert_eq!(Request::decode(&sent.encode()), Ok(Request::Connect(sent)));
    }

    #[test]
    fn responses_come_back(
        transaction_id: u32, connection_id: u64, numbers: (u32, u32, u32),
        v4 in prop::collection::vec((any::<Ipv4Addr>(), 1_u16..), 0..70),
        entries in prop::collection::vec(any::<(u32, u32, u32)>(), 0..MAX_SCRAPE_HASHES),
        message in "[!-~]{0,100}",
    ) {
        let (interval_s, leechers, seeders) = numbers;
        let peers = v4.into_iter().map(SocketAddr::from).collect();
        let entries = entries.into_iter()
            .map(|(complete, downloaded, incomplete)| ScrapeEntry { complete, downloaded, incomplete }).collect();
        for sent in [
            Response::Connect { transaction_id, connection_id },
            Response::Announce { transaction_id, interval_s, leechers, seeders, peers },
            Response::Scrape { transaction_id, entries },
            Response::Error { transaction_id, message },
        ] {
            let received = Response::decode(&sent.encode(Family::V4), Family::V4);
            prop_assert_eq!(received.as_ref().map(Response::transaction_id), Ok(transaction_id));
            prop_assert_eq!(received, Ok(sent));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, action in 0_u32..5) {
        let framed = [&PROTOCOL_ID.to_be_bytes()[..], &action.to_be_bytes(), &bytes].concat();
        for datagram in [&bytes[..], &framed, &framed[8..]] {
            let _ = Request::decode(datagram);
            for family in [Family::V4, Family::V6] {
                let _ = Response::decode(datagram, family);
            }
        }
    }
}
