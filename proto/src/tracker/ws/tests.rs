//! Messages as the clients there are write them, against each other, and against any text.

use proptest::prelude::*;

use super::*;

fn hash() -> InfoHash {
    InfoHash::new(*b"\x00\x1f\"\\\x7f\x80\xe9\xffabcdefghijkl")
}

fn id(byte: u8) -> PeerId {
    PeerId::new([byte; 20])
}

/// As `JSON.stringify` writes it: nothing but quotes, backslashes and control characters is escaped.
const ANNOUNCE: &str = r#"{"numwant":2,"uploaded":0,"downloaded":5,"left":null,"event":"started","action":"announce","info_hash":"\u0000\u001f\"\\\u007f\u0080éÿabcdefghijkl","peer_id":"-WW0300-abcdefghijkl","offers":[{"offer":{"type":"offer","sdp":"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"},"offer_id":"ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ"}],"trackerid":"x","unknown":[[{}]]}"#;

#[test]
fn an_announce_of_a_browser_is_read() {
    let Ok(Request::Announce(announce)) = Request::decode(ANNOUNCE) else { panic!("no announce") };
    assert_eq!((announce.info_hash, announce.left, announce.num_want), (hash(), None, Some(2)));
    assert_eq!((announce.event, announce.downloaded), (AnnounceEvent::Started, 5));
    assert_eq!(announce.offers.len(), 1);
    assert_eq!(announce.offers[0].offer_id, OfferId([0xff; 20]));
    assert_eq!(announce.offers[0].sdp.text(), "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n");
    let offer = Response::Offer { info_hash: hash(), peer_id: id(b'p'), offer: announce.offers[0].clone() };
    assert!(
        offer.encode().contains(r#""offer":{"type":"offer","sdp":"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"}"#)
    );
}

#[test]
fn a_message_with_an_answer_is_an_answer() {
    let text = r#"{"action":"announce","info_hash":"aaaaaaaaaaaaaaaaaaaa","peer_id":"bbbbbbbbbbbbbbbbbbbb",
        "to_peer_id":"cccccccccccccccccccc","answer":{"type":"answer","sdp":"v=0"},"offer_id":"dddddddddddddddddddd"}"#;
    let sdp = Sdp::new("v=0");
    let offer_id = OfferId([b'd'; 20]);
    let answer = Answer {
        info_hash: InfoHash::new([b'a'; 20]),
        peer_id: id(b'b'),
        to_peer_id: id(b'c'),
        offer_id,
        sdp,
    };
    assert_eq!(Request::decode(text), Ok(Request::Answer(answer)));
}

#[test]
fn numbers_may_be_fractions_huge_or_nonsense() {
    let left = |left: &str| {
        let text = format!(
            r#"{{"action":"announce","info_hash":"{0}","peer_id":"{0}","left":{left}}}"#,
            "a".repeat(20)
        );
        match Request::decode(&text) {
            Ok(Request::Announce(announce)) => announce.left,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(left("0"), Some(0));
    assert_eq!(left("1.5"), Some(1));
    assert_eq!(left("1e30"), Some(u64::MAX));
    for nonsense in ["null", "-1", "\"0\"", "{}", "[1]", "true"] {
        assert_eq!(left(nonsense), None, "{nonsense}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let refused = |text: &str| Request::decode(text).expect_err("refused").to_string();
    assert!(refused("").starts_with("no message of this protocol: EOF"));
    assert!(refused("[]").starts_with("no message of this protocol"));
    assert_eq!(refused("{}"), "the message has no action that is announce or scrape");
    assert_eq!(
        refused(r#"{"action":"announce","info_hash":"short"}"#),
        "the message has no info_hash that is 20 characters below U+0100"
    );
    let wide = r#"{"action":"announce","info_hash":"ĀĀĀĀĀĀĀĀĀĀĀĀĀĀĀĀĀĀĀĀ"}"#;
    assert!(refused(wide).contains("info_hash"));
    let no_sdp = format!(
        r#"{{"action":"announce","info_hash":"{0}","peer_id":"{0}","to_peer_id":"{0}","offer_id":"{0}","answer":{{"sdp":7}}}}"#,
        "a".repeat(20)
    );
    assert_eq!(refused(&no_sdp), "the message has no answer that is a session description");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    // What nobody asks for is skipped without recursion.
    assert!(refused(&format!(r#"{{"x":{deep}}}"#)).contains("no action"));
}

#[test]
fn offers_are_limited_in_number_and_length() {
    let offer = |sdp: &str| format!(r#"{{"offer_id":"{}","offer":{{"sdp":"{sdp}"}}}}"#, "o".repeat(20));
    let count = |offers: &[String]| {
        let text = format!(
            r#"{{"action":"announce","info_hash":"{0}","peer_id":"{0}","offers":[{1}]}}"#,
            "a".repeat(20),
            offers.join(",")
        );
        match Request::decode(&text) {
            Ok(Request::Announce(announce)) => announce.offers.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(count(&vec![offer("v=0"); MAX_OFFERS + 5]), MAX_OFFERS);
    assert_eq!(count(&[offer(&"x".repeat(MAX_SDP_BYTES)), offer("v=0")]), 1);
    assert_eq!(count(&["null".to_owned(), "7".to_owned(), offer("v=0"), "{}".to_owned()]), 1);
}

#[test]
fn scrapes_take_one_hash_or_many() {
    let many = vec![hash(), InfoHash::new([b'x'; 20])];
    assert_eq!(Request::decode(&Request::Scrape(many.clone()).encode()), Ok(Request::Scrape(many.clone())));
    let one = r#"{"action":"scrape","info_hash":"xxxxxxxxxxxxxxxxxxxx"}"#;
    assert_eq!(Request::decode(one), Ok(Request::Scrape(vec![many[1]])));
    assert_eq!(Request::decode(r#"{"action":"scrape"}"#), Ok(Request::Scrape(vec![])));
    assert!(Request::decode(r#"{"action":"scrape","info_hash":7}"#).is_err());
}

fn twenty() -> impl Strategy<Value = [u8; 20]> {
    any::<[u8; 20]>()
}

fn sdp() -> impl Strategy<Value = Sdp<'static>> {
    any::<String>().prop_map(|text| Sdp::new(&text))
}

fn offer() -> impl Strategy<Value = Offer<'static>> {
    (twenty(), sdp()).prop_map(|(id, sdp)| Offer { offer_id: OfferId(id), sdp })
}

fn request() -> impl Strategy<Value = Request<'static>> {
    let events =
        [AnnounceEvent::None, AnnounceEvent::Started, AnnounceEvent::Stopped, AnnounceEvent::Completed];
    let numbers = (any::<u64>(), any::<u64>(), any::<Option<u64>>(), any::<Option<u32>>());
    let announce = (
        twenty(),
        twenty(),
        numbers,
        prop::sample::select(events.to_vec()),
        prop::collection::vec(offer(), 0..4),
    );
    prop_oneof![
        announce.prop_map(|(hash, id, (uploaded, downloaded, left, num_want), event, offers)| {
            Request::Announce(Announce {
                info_hash: InfoHash::new(hash),
                peer_id: PeerId::new(id),
                uploaded,
                downloaded,
                left,
                event,
                num_want,
                offers,
            })
        }),
        (twenty(), twenty(), twenty(), offer()).prop_map(|(hash, id, to, offer)| Request::Answer(Answer {
            info_hash: InfoHash::new(hash),
            peer_id: PeerId::new(id),
            to_peer_id: PeerId::new(to),
            offer_id: offer.offer_id,
            sdp: offer.sdp,
        })),
        prop::collection::vec(twenty().prop_map(InfoHash::new), 0..5).prop_map(Request::Scrape),
    ]
}

fn response() -> impl Strategy<Value = Response<'static>> {
    let entry = |(complete, downloaded, incomplete)| ScrapeEntry { complete, downloaded, incomplete };
    let entries = prop::collection::btree_map(
        twenty().prop_map(InfoHash::new),
        any::<(u32, u32, u32)>().prop_map(entry),
        0..5,
    );
    prop_oneof![
        (twenty(), any::<(u32, u32, u32)>()).prop_map(|(hash, (interval_s, complete, incomplete))| {
            Response::Announce { info_hash: InfoHash::new(hash), interval_s, complete, incomplete }
        }),
        (twenty(), twenty(), offer()).prop_map(|(hash, id, offer)| Response::Offer {
            info_hash: InfoHash::new(hash),
            peer_id: PeerId::new(id),
            offer,
        }),
        (twenty(), twenty(), offer()).prop_map(|(hash, id, offer)| Response::Answer {
            info_hash: InfoHash::new(hash),
            peer_id: PeerId::new(id),
            offer_id: offer.offer_id,
            sdp: offer.sdp,
        }),
        entries.prop_map(|entries| Response::Scrape(entries.into_iter().collect())),
        (any::<Option<[u8; 20]>>(), "[!-~]{0,40}")
            .prop_map(|(hash, reason)| Response::Failure { info_hash: hash.map(InfoHash::new), reason }),
    ]
}

/// The entries of a scrape in the order of their hashes: an object has none.
fn sorted(response: Response<'_>) -> Response<'_> {
    match response {
        Response::Scrape(mut entries) => {
            entries.sort_by_key(|(hash, _)| *hash);
            Response::Scrape(entries)
        }
        other => other,
    }
}

proptest! {
    #[test]
    fn requests_come_back(request in request()) {
        let text = request.encode();
        prop_assert_eq!(Request::decode(&text), Ok(request.clone()));
    }

    #[test]
    fn responses_come_back(response in response()) {
        let text = response.encode();
        prop_assert_eq!(Response::decode(&text).map(sorted), Ok(response.clone()));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([\\[\\]{}:,\"]|action|announce|info_hash|offers|\\\\u00ff|.){0,60}") {
        let _ = Request::decode(&text);
        let _ = Response::decode(&text);
    }

    #[test]
    fn descriptions_come_back(text: String) {
        prop_assert_eq!(Sdp::new(&text).text(), text);
    }
}
