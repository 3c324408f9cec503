//! The codec against itself, against the layouts of the BEPs, and against any bytes.

use super::*;
use proptest::prelude::*;

fn encoded(message: &Message) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

fn block_requests() -> impl Strategy<Value = BlockRequest> {
    any::<(u32, u32, u32)>().prop_map(|(piece, begin, length)| BlockRequest { piece, begin, length })
}

fn hash_requests() -> impl Strategy<Value = HashRequest> {
    any::<([u8; 32], u32, u32, u32, u32)>().prop_map(
        |(pieces_root, base_layer, index, length, proof_layers)| HashRequest {
            pieces_root,
            base_layer,
            index,
            length,
            proof_layers,
        },
    )
}

fn payloads() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![
        prop::sample::select(vec![
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::HaveAll,
            Message::HaveNone,
            Message::Unknown { id: 10 },
            Message::Unknown { id: 255 },
        ]),
        any::<u32>().prop_map(Message::Have),
        any::<u32>().prop_map(Message::Suggest),
        any::<u32>().prop_map(Message::AllowedFast),
        any::<u16>().prop_map(Message::Port),
        payloads().prop_map(Message::Bitfield),
        block_requests().prop_map(Message::Request),
        block_requests().prop_map(Message::Cancel),
        block_requests().prop_map(Message::Reject),
        (any::<u32>(), any::<u32>(), payloads()).prop_map(|(piece, begin, data)| Message::Piece {
            piece,
            begin,
            data
        }),
        (any::<u8>(), payloads()).prop_map(|(id, payload)| Message::Extended { id, payload }),
        hash_requests().prop_map(Message::HashRequest),
        hash_requests().prop_map(Message::HashReject),
        (hash_requests(), 0_usize..4)
            .prop_map(|(request, n)| Message::Hashes { request, hashes: vec![7; 32 * n].into() }),
    ]
}

proptest! {
    #[test]
    fn a_stream_cut_anywhere_gives_the_messages_that_went_in(
        sent in prop::collection::vec(messages(), 0..12), step in 1_usize..64,
    ) {
        let mut stream = BytesMut::new();
        for message in &sent {
            message.encode(&mut stream);
        }
        let decoder = Decoder::new(1000);
        let mut buf = BytesMut::new();
        let mut received = Vec::new();
        for part in stream.chunks(step) {
            buf.extend_from_slice(part);
            while let Some(message) = decoder.decode(&mut buf).expect("own messages are valid") {
                received.push(message);
            }
            prop_assert!(decoder.needed(&buf) > 0, "an undecoded rest lacks something");
        }
        prop_assert!(buf.is_empty());
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn any_bytes_are_taken_whole_or_not_at_all(
        head in prop::collection::vec(prop_oneof![Just(0_u8), 0_u8..60, any::<u8>()], 0..6),
        tail in prop::collection::vec(any::<u8>(), 0..120),
        limit in 0_usize..200,
    ) {
        let decoder = Decoder::new(limit);
        let mut buf: BytesMut = head.iter().chain(&tail).copied().collect();
        loop {
            let before = buf.clone();
            let needed = decoder.needed(&buf);
            match decoder.decode(&mut buf) {
                Ok(Some(message)) => {
                    let length = u32::from_be_bytes(before[..4].try_into().expect("a prefix"));
                    prop_assert_eq!(before.len() - buf.len(), 4 + size(length));
                    prop_assert_eq!(needed, 0);
                    prop_assert_eq!(&before[before.len() - buf.len()..], &buf);
                    if !matches!(message, Message::Unknown { .. }) {
                        prop_assert_eq!(&encoded(&message), &before[..4 + size(length)]);
                    }
                }
                Ok(None) => {
                    prop_assert!(needed > 0 && needed <= limit + 4);
                    prop_assert_eq!(before, buf);
                    break;
                }
                Err(_) => {
                    prop_assert_eq!(before, buf);
                    break;
                }
            }
        }
    }

    #[test]
    fn needed_is_exactly_what_is_missing(message in messages(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&message);
        let decoder = Decoder::new(1000);
        let part = &whole[..cut.index(whole.len())];
        let mut buf = BytesMut::from(part);
        prop_assert_eq!(decoder.decode(&mut buf), Ok(None));
        let missing = whole.len() - part.len();
        let expected = if part.len() < 4 { 4 - part.len() } else { missing };
        prop_assert_eq!(decoder.needed(part), expected);
    }
}

#[test]
fn blocks_are_cut_from_the_read_buffer_without_a_copy() {
    const BLOCKS: u32 = 16;
    let mut buf = BytesMut::with_capacity(512 * 1024);
    for block in 0..BLOCKS {
        encode_piece_header(7, block * 16_384, 16_384, &mut buf);
        let fill = u8::try_from(block).expect("small");
        buf.put_bytes(fill, 16_384);
    }
    let memory = buf.as_ptr_range();
    let decoder = Decoder::for_torrent(1000);
    for block in 0..BLOCKS {
        let message = decoder.decode(&mut buf).expect("valid");
        let Some(Message::Piece { piece: 7, begin, data }) = message else { panic!("{message:?}") };
        assert_eq!(begin, block * 16_384);
        assert_eq!(data.len(), 16_384);
        assert!(data.iter().all(|&byte| u32::from(byte) == block));
        assert!(memory.contains(&data.as_ptr()), "the block was copied");
    }
    assert_eq!(decoder.decode(&mut buf), Ok(None));
}

#[test]
fn the_bytes_are_those_of_the_beps() {
    let request = BlockRequest { piece: 1, begin: 0x4000, length: 0x4000 };
    let cases: [(Message, &[u8]); 9] = [
        (Message::KeepAlive, &[0, 0, 0, 0]),
        (Message::Unchoke, &[0, 0, 0, 1, 1]),
        (Message::Have(258), &[0, 0, 0, 5, 4, 0, 0, 1, 2]),
        (Message::Request(request), &[0, 0, 0, 13, 6, 0, 0, 0, 1, 0, 0, 0x40, 0, 0, 0, 0x40, 0]),
        (
            Message::Piece { piece: 1, begin: 2, data: Bytes::from_static(b"x") },
            &[0, 0, 0, 10, 7, 0, 0, 0, 1, 0, 0, 0, 2, b'x'],
        ),
        (Message::Port(6881), &[0, 0, 0, 3, 9, 0x1a, 0xe1]),
        (Message::HaveAll, &[0, 0, 0, 1, 14]),
        (Message::AllowedFast(9), &[0, 0, 0, 5, 17, 0, 0, 0, 9]),
        (Message::Extended { id: 3, payload: Bytes::from_static(b"de") }, &[0, 0, 0, 4, 20, 3, b'd', b'e']),
    ];
    for (message, bytes) in cases {
        assert_eq!(encoded(&message), bytes, "{message:?}");
    }
    let hashes = HashRequest { pieces_root: [9; 32], base_layer: 1, index: 2, length: 3, proof_layers: 4 };
    let bytes = encoded(&Message::HashRequest(hashes));
    assert_eq!(bytes[..5], [0, 0, 0, 49, 21]);
    assert_eq!(bytes[5..37], [9; 32]);
    assert_eq!(bytes[37..], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]);
}

#[test]
fn an_endless_message_is_refused_from_its_length_alone() {
    let mut buf = BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..]);
    let decoder = Decoder::for_torrent(10);
    let error = decoder.decode(&mut buf).expect_err("too long");
    assert_eq!(error.to_string(), "a message of 4294967295 bytes was announced, at most 132096 are taken");
    assert_eq!(decoder.needed(&buf), 0);
}

#[test]
fn the_limit_grows_with_the_bitfield() {
    assert_eq!(Decoder::for_torrent(8 << 20).max_message_bytes, (1 << 20) + 1);
}

#[test]
fn a_wrong_size_names_the_message_and_the_right_size() {
    let refused = |bytes: &[u8]| {
        let mut buf = BytesMut::from(bytes);
        Decoder::new(1000).decode(&mut buf).expect_err("a wrong size").to_string()
    };
    assert_eq!(refused(&[0, 0, 0, 2, 0, 0]), "a choke message with 1 bytes of payload, expected 0");
    assert_eq!(refused(&[0, 0, 0, 2, 4, 0]), "a have message with 1 bytes of payload, expected 4");
    assert_eq!(refused(&[0, 0, 0, 2, 6, 0]), "a request message with 1 bytes of payload, expected 12");
    assert_eq!(
        refused(&[0, 0, 0, 5, 7, 0, 0, 0, 0]),
        "a piece message with 4 bytes of payload, expected at least 8"
    );
    assert_eq!(refused(&[0, 0, 0, 1, 20]), "a extended message with 0 bytes of payload, expected at least 1");
    let mut hashes = vec![0, 0, 0, 50, 22];
    hashes.resize(54, 0);
    assert_eq!(refused(&hashes), "a hashes message with 1 bytes of hashes, expected a multiple of 32");
}

#[test]
fn payloads_are_not_written_to_logs() {
    let message = Message::Piece { piece: 3, begin: 16_384, data: vec![0; 16_384].into() };
    assert_eq!(format!("{message:?}"), "Piece(3: 16384+16384)");
}
