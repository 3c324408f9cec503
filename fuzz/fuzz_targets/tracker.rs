//! Any bytes as what a tracker answers and as what a tracker is asked: no panic, and what we would write we can read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wtfs_proto::compact::Family;
use wtfs_proto::tracker::{http, udp};

fuzz_target!(|data: &[u8]| {
    if let Ok(response) = http::decode_announce_response(data) {
        let written = http::encode_announce_response(&response);
        http::decode_announce_response(&written).expect("our own answer reads back");
    }
    if let Ok(response) = http::decode_scrape_response(data) {
        let written = http::encode_scrape_response(&response);
        http::decode_scrape_response(&written).expect("our own answer reads back");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(request) = http::parse_announce_query(text) {
            http::parse_announce_query(&http::announce_query(&request)).expect("our own query reads back");
        }
        let _ = http::parse_scrape_query(text);
        let _ = http::scrape_url(text);
        let _ = udp::url_data(text);
    }
    let _ = udp::Request::decode(data);
    for family in [Family::V4, Family::V6] {
        if let Ok(response) = udp::Response::decode(data, family) {
            udp::Response::decode(&response.encode(family), family).expect("our own datagram reads back");
        }
    }
});
