//! Any bytes as a peer's stream and as the payload of each extension: no panic, no message beyond the limit, and what
//! was decoded encodes to something that decodes the same.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use wtfs_proto::wire::extended::ExtendedHandshake;
use wtfs_proto::wire::handshake::Handshake;
use wtfs_proto::wire::message::{Decoder, Message};
use wtfs_proto::wire::metadata::MetadataMessage;
use wtfs_proto::wire::pex::PexMessage;

const MAX_MESSAGE_BYTES: usize = 4096;

fuzz_target!(|data: &[u8]| {
    if let Some(handshake) = data.first_chunk() {
        let _ = Handshake::decode(handshake);
    }
    stream(data);
    let payload = Bytes::copy_from_slice(data);
    let _ = ExtendedHandshake::decode(data)
        .map(|message| ExtendedHandshake::decode(&message.encode()).expect("ours"));
    let _ = MetadataMessage::decode(&payload).map(|message| message.encode());
    let _ = PexMessage::decode(data).map(|message| PexMessage::decode(&message.encode()).expect("ours"));
});

fn stream(data: &[u8]) {
    let decoder = Decoder::new(MAX_MESSAGE_BYTES);
    let mut buffer = BytesMut::from(data);
    loop {
        let before = buffer.len();
        let _ = decoder.needed(&buffer);
        let Ok(Some(message)) = decoder.decode(&mut buffer) else { return };
        assert!(buffer.len() < before, "a decoded message took bytes");
        // An unknown message keeps only its number.
        if !matches!(message, Message::Unknown { .. }) {
            let mut encoded = BytesMut::new();
            message.encode(&mut encoded);
            assert_eq!(decoder.decode(&mut encoded), Ok(Some(message)));
            assert!(encoded.is_empty());
        }
    }
}
