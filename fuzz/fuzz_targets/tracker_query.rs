//! Any text as the query of an announce or a scrape: no panic, and what was understood is understood the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wtfs_proto::tracker::http::{self, AnnounceResponse, ResponseForm};

fuzz_target!(|query: &str| {
    let form = http::response_form(query);
    if let Ok(mut request) = http::parse_announce_query(query) {
        // Shown to people: clipped to whole characters, which may clip again.
        request.tracker_id = None;
        let again = http::parse_announce_query(&http::announce_query(&request));
        assert_eq!(again.as_ref(), Ok(&request));
        let peers = vec![([1, 2, 3, 4], request.port.max(1)).into(), ([0; 16], 1).into()];
        let response = AnnounceResponse { interval_s: 1, peers, ..AnnounceResponse::default() };
        let body = match form {
            ResponseForm::Compact => http::encode_announce_response(&response),
            ResponseForm::Dictionaries => http::encode_announce_dictionaries(&response, &[request.peer_id]),
            ResponseForm::DictionariesWithoutId => http::encode_announce_dictionaries(&response, &[]),
        };
        assert_eq!(http::decode_announce_response(&body), Ok(response));
    }
    if let Ok(hashes) = http::parse_scrape_query(query) {
        assert!(hashes.len() <= http::MAX_SCRAPE_HASHES);
        assert_eq!(http::parse_scrape_query(&http::scrape_query(&hashes)), Ok(hashes));
    }
});
