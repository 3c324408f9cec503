//! Links as people, pages and other clients write them; and that a written link reads back.

use proptest::prelude::*;

use super::*;

const HEX: &str = "d0d14c926e6e99761a2fdcff27b403d96376eff6";
const HEX_V2: &str = "caf1e1c30e81cb361b9ee167c4aa64228a7fa4fa9f6105232b28ad099f3a302e";

fn magnet(link: &str) -> Magnet {
    Magnet::parse(link).unwrap()
}

#[test]
fn every_parameter_is_read_in_its_order() {
    let magnet = magnet(&format!(
        "magnet:?xt=urn:btih:{HEX}&xt=urn:btmh:1220{HEX_V2}&dn=a+b%20c%2B&tr=udp%3A%2F%2Ft%3A1&tr=http://u/a?x=1\
         &ws=http%3A%2F%2Fw%2F&xs=http%3A%2F%2Fx%2Ft.torrent&as=http%3A%2F%2Fy%2F&x.pe=1.2.3.4:5\
         &x.pe=[2001:db8::1]:6881&x.pe=example.org:1&so=0,2,4-7&unknown=1&empty&"
    ));
    assert_eq!(magnet.hashes.v1, HEX.parse().ok());
    assert_eq!(magnet.hashes.v2, HEX_V2.parse().ok());
    assert_eq!(magnet.display_name.as_deref(), Some("a b c+"));
    assert_eq!(magnet.trackers, ["udp://t:1", "http://u/a?x=1"]);
    assert_eq!(magnet.web_seeds, ["http://w/"]);
    assert_eq!(magnet.exact_sources, ["http://x/t.torrent"]);
    assert_eq!(magnet.acceptable_sources, ["http://y/"]);
    let peers: Vec<String> = magnet.peers.iter().map(PeerAddr::to_string).collect();
    assert_eq!(peers, ["1.2.3.4:5", "[2001:db8::1]:6881", "example.org:1"]);
    assert_eq!(magnet.peers[1].socket_addr(), "[2001:db8::1]:6881".parse().ok());
    assert_eq!(magnet.peers[2].socket_addr(), None);
    assert_eq!(magnet.selected, Some(vec![0..=0, 2..=2, 4..=7]));
}

#[test]
fn base32_numbered_keys_html_escapes_and_any_case_are_read() {
    let hash: InfoHash = HEX.parse().unwrap();
    let base32 = data_encoding::BASE32_NOPAD.encode(hash.as_bytes());
    let magnet = magnet(&format!(
        " MAGNET:?XT.1=URN:BTIH:{base32}&amp;tr.1=http%3a%2f%2fa&amp;TR.22=http://b&amp;tr=http://a&dn=50%&dn=late\n"
    ));
    assert_eq!(magnet.hashes, InfoHashes::from(hash));
    assert_eq!(magnet.trackers, ["http://a", "http://b"], "a repetition is dropped");
    assert_eq!(magnet.display_name.as_deref(), Some("50%"), "a stray % is itself, the first name counts");
}

#[test]
fn advice_that_makes_no_sense_is_skipped() {
    let magnet = magnet(&format!(
        "magnet:?xt=urn:btih:{HEX}&xt=urn:sha1:ABC&xt=%FF&tr=%ff%fe&tr=&x.pe=nohost&x.pe=[::1:5&x.pe=a%20b:1\
         &x.pe=h:0&x.pe=:1&x.pe=::1:80&dn="
    ));
    assert_eq!(magnet, Magnet::new(HEX.parse::<InfoHash>().unwrap().into()));
}

#[test]
fn a_link_that_does_not_name_one_torrent_is_refused_with_the_reason() {
    let other = "0".repeat(40);
    let cases = [
        ("http://example.org/".to_owned(), "not a magnet link: it does not begin with 'magnet:?'".to_owned()),
        ("magné".into(), "not a magnet link: it does not begin with 'magnet:?'".into()),
        ("magnet:?dn=x".into(), "the link names no torrent: no xt=urn:btih: or xt=urn:btmh:".into()),
        (
            "magnet:?xt=urn:btih:abc".into(),
            "xt: an info hash has 40 (hex) or 32 (Base32) characters, this has 3".into(),
        ),
        (
            format!("magnet:?xt=urn:btmh:1114{other}"),
            "xt: urn:btmh must be 1220 and 64 hex digits (SHA-256)".into(),
        ),
        (
            format!("magnet:?xt=urn:btih:{HEX}&xt=urn:btih:{other}"),
            format!("the link names two different torrents: {HEX} and {other}"),
        ),
        (
            format!("magnet:?xt=urn:btih:{HEX}&so=1,x"),
            "so: 'x' is no list of file indices such as 0,2,4-7".into(),
        ),
        (
            format!("magnet:?xt=urn:btih:{HEX}&so=7-4"),
            "so: '7-4' is no list of file indices such as 0,2,4-7".into(),
        ),
        (
            format!("magnet:?dn={}", "x".repeat(MAX_MAGNET_BYTES)),
            "the link has 65547 bytes, at most 65536 are read".into(),
        ),
    ];
    for (link, message) in cases {
        assert_eq!(Magnet::parse(&link).unwrap_err().to_string(), message);
    }
    let peer = "x".parse::<PeerAddr>().unwrap_err().to_string();
    assert_eq!(peer, "'x' is no peer: expected host:port, an IPv6 address in brackets");
}

#[test]
fn lists_are_cut_at_a_length_no_honest_link_has() {
    let trackers: String = (0..MAX_ENTRIES + 5).map(|n| format!("&tr=http://{n}")).collect();
    assert_eq!(magnet(&format!("magnet:?xt=urn:btih:{HEX}{trackers}")).trackers.len(), MAX_ENTRIES);
}

#[test]
fn a_hostile_display_name_is_never_a_file_name() {
    let name = |dn: &str| magnet(&format!("magnet:?xt=urn:btih:{HEX}&dn={dn}")).safe_name();
    assert_eq!(name("model"), "model");
    for dn in ["..", "%2Fetc%2Fpasswd", "a%00", ""] {
        assert_eq!(name(dn), HEX);
    }
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{1,20}".prop_map(|s| s.trim().to_owned()).prop_filter("not empty", |s| !s.is_empty())
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::btree_set(text(), 0..4).prop_map(|set| set.into_iter().collect())
}

prop_compose! {
    fn any_magnet()(
        v1 in any::<Option<[u8; 20]>>(), v2 in any::<[u8; 32]>(), both in any::<bool>(),
        display_name in prop::option::of(text()),
        (trackers, web_seeds, exact_sources, acceptable_sources) in (texts(), texts(), texts(), texts()),
        peers in prop::collection::btree_set(any::<(IpAddr, u16)>(), 0..4),
        selected in prop::option::of(prop::collection::vec((any::<u32>(), any::<u32>()), 1..4)),
    ) -> Magnet {
        Magnet {
            hashes: InfoHashes {
                v1: v1.map(InfoHash::new),
                v2: (both || v1.is_none()).then(|| InfoHashV2::new(v2)),
            },
            display_name, trackers, web_seeds, exact_sources, acceptable_sources,
            peers: peers.into_iter().map(|(ip, port)| SocketAddr::new(ip, port.max(1)).into())
                .collect::<std::collections::BTreeSet<PeerAddr>>().into_iter().collect(),
            selected: selected.map(|s| s.into_iter().map(|(a, b)| a.min(b)..=a.max(b)).collect()),
        }
    }
}

proptest! {
    #[test]
    fn a_written_link_reads_back_the_same(magnet in any_magnet()) {
        let link = magnet.to_string();
        prop_assert!(link.is_ascii());
        prop_assert_eq!(Magnet::parse(&link), Ok(magnet));
    }

    #[test]
    fn arbitrary_text_never_panics_and_what_is_read_is_stable(
        tail in prop_oneof![any::<String>(), "[a-z.0-9=&%:+,\\-]{0,80}"]
    ) {
        let _ = Magnet::parse(&tail);
        let _ = tail.parse::<PeerAddr>();
        if let Ok(magnet) = Magnet::parse(&format!("magnet:?xt=urn:btih:{HEX}&{tail}")) {
            prop_assert_eq!(Magnet::parse(&magnet.to_string()), Ok(magnet));
        }
    }
}
