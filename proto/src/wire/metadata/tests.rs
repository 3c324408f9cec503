//! The messages against the BEP's examples and any bytes; the assembler against honest, lying and silent sources.

use super::*;
use crate::id::{InfoHash, InfoHashV2};
use proptest::prelude::*;

fn info(bytes: usize) -> Bytes {
    (0..bytes).map(|i| u8::try_from(i % 251).expect("small")).collect()
}

fn assembler(info: &[u8]) -> MetadataAssembler<u8> {
    MetadataAssembler::new(InfoHash::of_info(info).into())
}

/// Lets `source` answer all it is asked from `info`, and returns what the last piece led to.
fn serve(
    assembler: &mut MetadataAssembler<u8>,
    source: u8,
    info: &Bytes,
) -> Option<Result<Progress, MetadataError>> {
    let mut last = None;
    while let Some(asked) = assembler.next_request(source) {
        let MetadataMessage::Data { piece, total_size, data } = MetadataMessage::answer(Some(info), asked)
        else {
            panic!("piece {asked} is not in the dictionary");
        };
        last = Some(assembler.handle_data(source, piece, total_size, data));
    }
    last
}

#[test]
fn the_examples_of_bep_9_are_read() {
    let decode = |payload: &'static [u8]| MetadataMessage::decode(&Bytes::from_static(payload));
    assert_eq!(decode(b"d8:msg_typei0e5:piecei0ee"), Ok(MetadataMessage::Request { piece: 0 }));
    let data = Bytes::from_static(b"xxxxxxxx");
    assert_eq!(
        decode(b"d8:msg_typei1e5:piecei0e10:total_sizei34256eexxxxxxxx"),
        Ok(MetadataMessage::Data { piece: 0, total_size: 34_256, data })
    );
    assert_eq!(decode(b"d8:msg_typei2e5:piecei0ee"), Ok(MetadataMessage::Reject { piece: 0 }));
}

#[test]
fn what_cannot_be_read_says_why() {
    let refused =
        |payload: &'static [u8]| MetadataMessage::decode(&Bytes::from_static(payload)).expect_err("refused");
    assert_eq!(refused(b"d8:msg_typei3e5:piecei0ee"), MetadataError::UnknownType { found: 3 });
    assert_eq!(refused(b"d8:msg_typei0e5:piecei-1ee"), MetadataError::Field { field: "piece" });
    assert_eq!(refused(b"d8:msg_typei1e5:piecei0eexx"), MetadataError::Field { field: "total_size" });
    assert_eq!(refused(b"de"), MetadataError::Field { field: "msg_type" });
    assert_eq!(refused(b"le").to_string(), "the metadata message is a list, expected a dictionary");
    assert!(refused(b"x").to_string().starts_with("a metadata message that cannot be read"));
}

#[test]
fn requests_outside_the_dictionary_or_without_one_are_rejected() {
    let info = info(METADATA_PIECE_BYTES + 1);
    let answer = |piece| MetadataMessage::answer(Some(&info), piece);
    assert!(matches!(answer(1), MetadataMessage::Data { data, total_size: 16_385, .. } if data.len() == 1));
    assert_eq!(answer(2), MetadataMessage::Reject { piece: 2 });
    assert_eq!(answer(u32::MAX), MetadataMessage::Reject { piece: u32::MAX });
    assert_eq!(MetadataMessage::answer(None, 0), MetadataMessage::Reject { piece: 0 });
}

#[test]
fn a_source_is_asked_for_each_piece_once_and_the_whole_is_verified() {
    let info = info(2 * METADATA_PIECE_BYTES + 5);
    let mut assembler = assembler(&info);
    assembler.add_source(1, info.len() as u64).expect("a good size");
    let asked: Vec<u32> = std::iter::from_fn(|| assembler.next_request(1)).collect();
    assert_eq!(asked, [0, 1, 2]);
    let MetadataMessage::Data { total_size, data, .. } = MetadataMessage::answer(Some(&info), 2) else {
        panic!("there is a piece 2");
    };
    assert_eq!(assembler.handle_data(1, 2, total_size, data.clone()), Ok(Progress::Kept));
    assert_eq!(assembler.progress(), Some((5, info.len())));
    assert_eq!(assembler.handle_data(1, 2, total_size, data), Ok(Progress::Unasked));
    assert_eq!(assembler.handle_data(1, 3, total_size, Bytes::new()), Ok(Progress::Unasked));
    for piece in [1, 0] {
        let at = piece as usize * METADATA_PIECE_BYTES;
        let progress = assembler.handle_data(1, piece, total_size, info.slice(at..at + METADATA_PIECE_BYTES));
        let expected = if piece == 0 { Progress::Complete(info.clone()) } else { Progress::Kept };
        assert_eq!(progress, Ok(expected));
    }
}

#[test]
fn a_liar_is_named_and_does_not_spoil_the_honest() {
    let info = info(METADATA_PIECE_BYTES * 2);
    let mut lie = info.to_vec();
    lie[20_000] ^= 1;
    let mut assembler = assembler(&info);
    for source in [1, 2] {
        assembler.add_source(source, info.len() as u64).expect("a good size");
    }
    let first = assembler.next_request(2).expect("a place is free");
    assert_eq!(serve(&mut assembler, 1, &lie.into()), Some(Ok(Progress::Lied)));
    assert_eq!(assembler.next_request(1), None, "a liar is not asked again");
    let data = info.slice(..METADATA_PIECE_BYTES);
    assert_eq!(assembler.handle_data(2, first, info.len() as u64, data), Ok(Progress::Kept));
    assert_eq!(serve(&mut assembler, 2, &info), Some(Ok(Progress::Complete(info.clone()))));
}

#[test]
fn a_wrong_size_of_one_source_does_not_keep_others_from_sending() {
    let info = info(100);
    let mut assembler = assembler(&info);
    assembler.add_source(1, 50).expect("possible");
    assembler.add_source(2, 100).expect("possible");
    assert_eq!(serve(&mut assembler, 1, &info.slice(..50)), Some(Ok(Progress::Lied)));
    assert_eq!(serve(&mut assembler, 2, &info), Some(Ok(Progress::Complete(info.clone()))));
}

#[test]
fn silent_sources_give_their_place_to_others() {
    let info = info(100);
    let mut assembler = assembler(&info);
    for source in 0..5 {
        assembler.add_source(source, 100).expect("a good size");
    }
    let asked: Vec<_> = (0..5).map(|source| assembler.next_request(source)).collect();
    assert_eq!(asked, [Some(0), Some(0), Some(0), None, None]);
    assembler.rest(0);
    assert_eq!(assembler.next_request(0), None);
    let late = assembler.handle_data(0, 0, 100, info.clone());
    assert_eq!(late, Ok(Progress::Unasked), "what was withdrawn may still arrive");
    assert_eq!(assembler.next_request(3), Some(0));
    assembler.remove_source(1);
    assembler.retry_rested();
    assert_eq!(assembler.next_request(0), Some(0));
}

#[test]
fn sizes_that_contradict_are_refused_and_the_source_forgotten() {
    let info = info(METADATA_PIECE_BYTES + 100);
    let mut assembler = assembler(&info);
    for size in [0, MAX_METADATA_BYTES as u64 + 1, u64::MAX] {
        assert_eq!(assembler.add_source(1, size), Err(MetadataError::Size { found: size }));
    }
    let size = info.len() as u64;
    assembler.add_source(1, size).expect("a good size");
    assert_eq!(assembler.next_request(1), Some(0));
    let changed = assembler.handle_data(1, 0, size + 1, info.slice(..METADATA_PIECE_BYTES));
    assert_eq!(changed, Err(MetadataError::SizeChanged { announced: size, found: size + 1 }));
    assembler.add_source(2, size).expect("a good size");
    assert_eq!(assembler.next_request(2), Some(0));
    let short = assembler.handle_data(2, 0, size, info.slice(..5)).expect_err("too short");
    assert_eq!(short.to_string(), "metadata piece 0 has 5 bytes, expected 16384");
    assert_eq!(assembler.source_count(), 0);
}

#[test]
fn a_hybrid_must_fit_both_hashes() {
    let info = info(10);
    let v2 = Some(InfoHashV2::of_info(b"other"));
    let mut assembler = MetadataAssembler::new(InfoHashes { v1: Some(InfoHash::of_info(&info)), v2 });
    assembler.add_source(1, 10).expect("a good size");
    assert_eq!(serve(&mut assembler, 1, &info), Some(Ok(Progress::Lied)));
}

#[test]
fn the_number_of_sources_is_bounded() {
    let mut assembler = MetadataAssembler::new(InfoHash::new([0; 20]).into());
    for source in 0..MAX_SOURCES {
        assembler.add_source(source, 1).expect("room");
    }
    assert_eq!(assembler.add_source(MAX_SOURCES, 1), Err(MetadataError::TooManySources));
    assert_eq!(assembler.add_source(0, 1), Ok(()), "a known one is no more");
}

proptest! {
    #[test]
    fn messages_come_back(piece: u32, size in 0..=i64::MAX.unsigned_abs(), data: Vec<u8>) {
        let data = Bytes::from(data);
        for sent in [
            MetadataMessage::Request { piece },
            MetadataMessage::Data { piece, total_size: size, data },
            MetadataMessage::Reject { piece },
        ] {
            prop_assert_eq!(MetadataMessage::decode(&sent.encode()), Ok(sent));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, piece: u32, size: u64) {
        let bytes = Bytes::from(bytes);
        if let Ok(MetadataMessage::Data { data, .. }) = MetadataMessage::decode(&bytes) {
            prop_assert!(bytes.ends_with(&data));
        }
        let mut assembler = assembler(b"de");
        assembler.add_source(1, 2).expect("a good size");
        assembler.next_request(1);
        let progress = assembler.handle_data(1, piece, size, bytes.clone());
        prop_assert_eq!(matches!(progress, Ok(Progress::Complete(_))), piece == 0 && size == 2 && bytes == "de");
    }
}
