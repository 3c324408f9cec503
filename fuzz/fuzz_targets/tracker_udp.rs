//! Any datagram as what a UDP tracker receives and what it answers: no panic, and what was read is read the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wtfs_proto::compact::Family;
use wtfs_proto::tracker::udp::{Request, Response};

fuzz_target!(|datagram: &[u8]| {
    let written = match Request::decode(datagram) {
        Ok(Request::Connect(connect)) => Some(connect.encode()),
        Ok(Request::Announce(announce)) => Some(announce.encode()),
        Ok(Request::Scrape(scrape)) => Some(scrape.encode()),
        Err(_) => None,
    };
    if let Some(written) = written {
        assert_eq!(Request::decode(&written), Request::decode(datagram));
    }
    for family in [Family::V4, Family::V6] {
        if let Ok(response) = Response::decode(datagram, family) {
            let written = response.encode(family);
            assert!(written.len() <= 1500);
            Response::decode(&written, family).expect("our own datagram reads back");
        }
    }
});
