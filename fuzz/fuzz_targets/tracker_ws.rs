//! Any text as a message of a WebTorrent client or tracker: no panic, and what was read is written as the same message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wtfs_proto::tracker::ws::{MAX_OFFERS, Request, Response};

fuzz_target!(|text: &str| {
    if let Ok(request) = Request::decode(text) {
        if let Request::Announce(announce) = &request {
            assert!(announce.offers.len() <= MAX_OFFERS);
            for offer in &announce.offers {
                let _ = offer.sdp.text();
            }
        }
        let written = request.encode();
        assert_eq!(Request::decode(&written), Ok(request.clone()));
    }
    if let Ok(response) = Response::decode(text) {
        let written = response.encode();
        let again = Response::decode(&written).expect("our own message reads back");
        // A reason is clipped to whole characters, which may clip again.
        if !matches!(response, Response::Failure { .. }) {
            assert_eq!(again, response);
        }
    }
});
