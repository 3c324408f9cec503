//! The geometry against a model that lists the owner of each byte.

use super::*;
use proptest::prelude::*;

const fn packed(bytes: u64) -> FileLayout {
    FileLayout { bytes, alignment: Alignment::Packed, is_pad: false }
}

const fn aligned(bytes: u64) -> FileLayout {
    FileLayout { bytes, alignment: Alignment::PieceStart, is_pad: false }
}

/// One entry a byte of the address space: the file and the offset in it; `None` in a hole.
fn owners(piece_bytes: u32, files: &[FileLayout]) -> Vec<Option<(u32, u64)>> {
    let mut bytes = Vec::new();
    for (file, layout) in (0..).zip(files) {
        while layout.bytes > 0
            && layout.alignment == Alignment::PieceStart
            && !bytes.len().is_multiple_of(piece_bytes as usize)
        {
            bytes.push(None);
        }
        bytes.extend((0..layout.bytes).map(|offset| Some((file, offset))));
    }
    bytes
}

fn layouts() -> impl Strategy<Value = Vec<FileLayout>> {
    let bytes = prop_oneof![Just(0), 1_u64..8, 1_u64..120];
    let file = (bytes, any::<bool>(), any::<bool>());
    let style = 0..3;
    (style, prop::collection::vec(file, 0..12)).prop_map(|(style, files)| {
        let layout = |(bytes, mixed, is_pad)| {
            let is_packed = style == 0 || (style == 1 && mixed);
            let alignment = if is_packed { Alignment::Packed } else { Alignment::PieceStart };
            FileLayout { bytes, alignment, is_pad }
        };
        files.into_iter().map(layout).collect()
    })
}

proptest! {
    #[test]
    fn pieces_and_spans_agree_with_the_list_of_bytes(
        piece_bytes in 1_u32..40, files in layouts(), from in 0_u32..45, to in 0_u32..45,
    ) {
        let geometry = Geometry::new(piece_bytes, &files).expect("small layouts fit");
        let model = owners(piece_bytes, &files);
        let pieces: Vec<&[Option<(u32, u64)>]> = model.chunks(piece_bytes as usize).collect();
        prop_assert_eq!(geometry.piece_count() as usize, pieces.len());
        prop_assert_eq!(geometry.pieces().count(), pieces.len());
        let mut total = 0;
        for (piece, bytes) in geometry.pieces().zip(&pieces) {
            let data: Vec<(u32, u64)> = bytes.iter().copied().flatten().collect();
            prop_assert!(bytes[..data.len()].iter().all(Option::is_some), "holes are only at the end");
            prop_assert_eq!(geometry.piece_len(piece) as usize, data.len());
            total += data.len() as u64;
            let mut at = from;
            let mut listed = Vec::new();
            for span in geometry.spans(piece, from..to) {
                prop_assert!(span.bytes > 0);
                prop_assert_eq!(span.piece_begin, at);
                prop_assert_eq!(span.is_pad, files[span.file.get() as usize].is_pad);
                at += span.bytes;
                listed.extend((0..u64::from(span.bytes)).map(|i| (span.file.get(), span.file_offset + i)));
            }
            let end = (to as usize).min(data.len());
            prop_assert_eq!(&listed, data.get(from as usize..end).unwrap_or(&[]));
        }
        prop_assert_eq!(geometry.total_bytes(), total);
    }

    #[test]
    fn the_pieces_of_a_range_are_those_that_hold_its_bytes(
        piece_bytes in 1_u32..40, files in layouts(), from in 0_u64..130, to in 0_u64..130,
    ) {
        let geometry = Geometry::new(piece_bytes, &files).expect("small layouts fit");
        let model = owners(piece_bytes, &files);
        for file in geometry.files() {
            let mut expected: Vec<u32> = Vec::new();
            for (piece, bytes) in (0..).zip(model.chunks(piece_bytes as usize)) {
                let is_hit = |(owner, offset)| owner == file.get() && from <= offset && offset < to;
                if bytes.iter().copied().flatten().any(is_hit) {
                    expected.push(piece);
                }
            }
            let range = geometry.pieces_of(file, from..to);
            prop_assert_eq!(range.len() as usize, expected.len());
            prop_assert_eq!(range.first().map(PieceIndex::get), expected.first().copied());
            prop_assert_eq!(range.is_empty(), expected.is_empty());
            let mut backwards: Vec<u32> = range.clone().rev().map(PieceIndex::get).collect();
            backwards.reverse();
            prop_assert_eq!(&backwards, &expected);
            prop_assert_eq!(range.map(PieceIndex::get).collect::<Vec<_>>(), expected);
            let address = model.iter().position(|owner| *owner == Some((file.get(), from)));
            let located = geometry.locate(file, from).map(|(piece, begin)| (piece.get() as usize, begin as usize));
            let piece = piece_bytes as usize;
            prop_assert_eq!(located, address.map(|address| (address / piece, address % piece)));
        }
    }

    #[test]
    fn a_request_is_allowed_exactly_when_all_its_bytes_exist(
        total in 0_u64..200_000, piece_bytes in 1_u32..300_000, piece in 0_u32..4, begin: u32, len: u32,
    ) {
        let geometry = Geometry::new(piece_bytes, &[packed(total)]);
        prop_assume!(geometry.is_ok());
        let geometry = geometry.expect("assumed");
        for (begin, len) in [(begin, len), (begin % 200_000, len % 200_000)] {
            let piece_start = u64::from(piece) * u64::from(piece_bytes);
            let piece_end = total.min(piece_start + u64::from(piece_bytes));
            let end = piece_start + u64::from(begin) + u64::from(len);
            let is_allowed = (1..=MAX_REQUEST_BYTES).contains(&len) && end <= piece_end;
            prop_assert_eq!(geometry.check_request(piece, begin, len).is_ok(), is_allowed);
        }
    }
}

#[test]
fn blocks_tile_each_piece() {
    let geometry = Geometry::new(40_000, &[packed(90_000)]).expect("fits");
    let lens = |piece| {
        let piece = geometry.piece(piece).expect("in range");
        (0..geometry.block_count(piece)).map(|block| geometry.block_len(piece, block)).collect::<Vec<_>>()
    };
    assert_eq!(lens(0), [16_384, 16_384, 7_232]);
    assert_eq!(lens(2), [10_000]);
    let last = geometry.piece(2).expect("in range");
    assert_eq!(geometry.block_len(last, 1), 0);
    assert_eq!(geometry.block_len(last, u32::MAX), 0);
}

#[test]
fn only_exact_blocks_are_taken() {
    let geometry = Geometry::new(40_000, &[packed(90_000)]).expect("fits");
    let taken = |piece, begin, len| geometry.check_block(piece, begin, len).map(|(p, b)| (p.get(), b));
    assert_eq!(taken(0, 16_384, 16_384), Some((0, 1)));
    assert_eq!(taken(0, 32_768, 7_232), Some((0, 2)));
    assert_eq!(taken(2, 0, 10_000), Some((2, 0)));
    for (piece, begin, len) in [
        (0, 1, 16_384),
        (0, 0, 16_383),
        (0, 0, 32_768),
        (0, 32_768, 16_384),
        (0, 49_152, 0),
        (2, 16_384, 0),
        (3, 0, 16_384),
        (u32::MAX, u32::MAX, u32::MAX),
    ] {
        assert_eq!(taken(piece, begin, len), None, "{piece} {begin} {len}");
    }
}

#[test]
fn aligned_files_end_in_short_pieces() {
    let geometry = Geometry::new(10, &[aligned(15), aligned(0), aligned(3), aligned(20)]).expect("fits");
    let lens: Vec<u32> = geometry.pieces().map(|piece| geometry.piece_len(piece)).collect();
    assert_eq!(lens, [10, 5, 3, 10, 10]);
    assert_eq!(geometry.total_bytes(), 38);
    let last = geometry.file(3).expect("in range");
    assert_eq!(geometry.pieces_of(last, 0..u64::MAX).map(PieceIndex::get).collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn a_request_error_names_what_was_possible() {
    let geometry = Geometry::new(40_000, &[packed(90_000)]).expect("fits");
    assert_eq!(geometry.check_request(3, 0, 1), Err(RequestError::NoSuchPiece { piece: 3, piece_count: 3 }));
    assert_eq!(geometry.check_request(0, 0, 0), Err(RequestError::Length { len: 0 }));
    assert_eq!(
        geometry.check_request(2, u32::MAX, 2).expect_err("past the end").to_string(),
        "bytes 4294967295+2 were requested of a piece of 10000 bytes"
    );
}

#[test]
fn impossible_layouts_are_refused() {
    assert_eq!(Geometry::new(0, &[]), Err(GeometryError::ZeroPieceBytes));
    let half = 1 << 62;
    assert_eq!(
        Geometry::new(u32::MAX, &[packed(half), packed(half), packed(1)]),
        Err(GeometryError::TooLong { file: 2 })
    );
    assert_eq!(Geometry::new(u32::MAX, &[packed(u64::MAX)]), Err(GeometryError::TooLong { file: 0 }));
    assert_eq!(Geometry::new(1, &[packed(1 << 32)]), Err(GeometryError::TooManyPieces { count: 1 << 32 }));
    assert_eq!(Geometry::new(1, &[]).expect("empty").piece_count(), 0);
}

#[test]
fn an_index_of_another_torrent_reads_as_nothing() {
    let large = Geometry::new(1, &[packed(10), packed(10)]).expect("fits");
    let small = Geometry::new(16, &[packed(3)]).expect("fits");
    let piece = large.piece(19).expect("in range");
    let file = large.file(1).expect("in range");
    assert_eq!(small.piece_len(piece), 0);
    assert_eq!(small.spans(piece, 0..16).count(), 0);
    assert_eq!(small.file_len(file), 0);
    assert!(small.pieces_of(file, 0..10).is_empty());
}
