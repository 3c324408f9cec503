//! Any bytes: no panic, errors point inside the input, and what is read writes to something that reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wtfs_proto::bencode::{Encoder, decode, decode_prefix};

fuzz_target!(|data: &[u8]| {
    match decode(data) {
        Err(error) => assert!(error.offset() <= data.len()),
        Ok(value) => {
            let mut once = Encoder::new();
            once.value(&value);
            let once = once.finish();
            let mut twice = Encoder::new();
            twice.value(&decode(&once).expect("canonical output decodes"));
            assert_eq!(twice.finish(), once);
        }
    }
    if let Ok((_, used)) = decode_prefix(data) {
        assert!(decode(&data[..used]).is_ok());
    }
});
