//! Any text as a magnet link: no panic, and what is read is written as a link that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wtfs_proto::magnet::Magnet;
use wtfs_proto::path::safe_component;

fuzz_target!(|link: &str| {
    if let Ok(magnet) = Magnet::parse(link) {
        assert!(safe_component(magnet.safe_name().as_bytes()).is_ok());
        let canonical = magnet.to_string();
        // Escaping makes three bytes of one, so a link near the limit may pass it when written.
        if canonical.len() <= wtfs_proto::magnet::MAX_MAGNET_BYTES {
            assert_eq!(Magnet::parse(&canonical), Ok(magnet));
        }
    }
});
