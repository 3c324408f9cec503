//! BEP 52: trees, layers, and hybrids whose halves must agree.

use super::*;
use crate::merkle;

/// Bytes that differ from block to block.
fn ramp(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n / 7) as u8 ^ (n >> 14) as u8).collect()
}

struct Made {
    root: [u8; 32],
    layer: Vec<u8>,
}

/// Root and piece layer of a file, straight from the definition.
fn make(content: &[u8]) -> Made {
    let leaves: Vec<_> = content.chunks(16 * 1024).map(merkle::hash_block).collect();
    let height = (PIECE * 2 / BLOCK_BYTES).ilog2();
    let layer: Vec<_> = leaves.chunks(1 << height).map(|piece| merkle::piece_node(piece, height)).collect();
    Made { root: merkle::root(&leaves), layer: layer.concat() }
}

fn node(d: &mut DictEncoder, name: &str, bytes: i64, root: Option<[u8; 32]>) {
    d.dict(name, |d| {
        d.dict("", |d| {
            d.int("length", bytes);
            if let Some(root) = root {
                d.bytes("pieces root", root);
            }
        });
    });
}

/// Pieces of two blocks, so that a layer is not the leaves themselves.
fn v2_info(tree: impl FnOnce(&mut DictEncoder), change: impl FnOnce(&mut DictEncoder)) -> Vec<u8> {
    encode(|d| {
        d.bytes("name", "t");
        d.int("piece length", i64::from(PIECE) * 2);
        d.int("meta version", 2);
        d.dict("file tree", tree);
        change(d);
    })
}

#[test]
fn a_v2_tree_gives_files_in_order_each_on_its_own_pieces() {
    let (big, small) = (make(&ramp(100_000)), make(&ramp(10)));
    let info = v2_info(
        |tree| {
            tree.dict("dir", |dir| {
                node(dir, "big", 100_000, Some(big.root));
                node(dir, "empty", 0, None);
            });
            node(tree, "small", 10, Some(small.root));
        },
        |_| (),
    );
    let whole = encode(|d| {
        d.raw("info", &info);
        d.dict("piece layers", |d| {
            d.bytes(big.root, &big.layer);
            d.bytes([0; 32], "of an unknown file");
        });
    });
    let metainfo = Metainfo::parse(&whole).unwrap();
    let paths: Vec<String> = metainfo.info.files.iter().map(|f| f.path.to_string()).collect();
    assert_eq!(paths, ["dir/big", "dir/empty", "small"]);
    assert_eq!((metainfo.info.version, metainfo.info.layout), (Version::V2, Layout::Directory));
    assert_eq!(metainfo.hashes, InfoHashes { v1: None, v2: Some(InfoHashV2::of_info(&info)) });
    assert_eq!(metainfo.info.geometry.piece_count(), 5, "four of the big file, one of the small");
    assert_eq!(metainfo.info.files[0].root, Some(big.root));
    assert_eq!(metainfo.info.files[1].root, None);
    assert!(metainfo.info.pieces.is_empty());
    assert_eq!(metainfo.info.piece_hash(metainfo.info.geometry.piece(0).unwrap()), None);
    assert_eq!(metainfo.piece_layer(&big.root), Some(&Bytes::from(big.layer.clone())));
    assert_eq!(metainfo.piece_layers.len(), 1);
    assert_eq!(Metainfo::parse(&metainfo.to_bytes()), Ok(metainfo));
}

#[test]
fn one_file_of_the_torrents_name_is_a_single_file() {
    let root = Some([1; 32]);
    let layout = |name: &str| parse_info(&v2_info(|t| node(t, name, 5, root), |_| ())).unwrap().info.layout;
    assert_eq!(layout("t"), Layout::SingleFile);
    assert_eq!(layout("other"), Layout::Directory);
}

#[test]
fn layers_that_do_not_belong_to_their_file_are_refused() {
    let made = make(&ramp(100_000));
    let parse = |layer: &[u8]| {
        Metainfo::parse(&encode(|d| {
            d.raw("info", &v2_info(|t| node(t, "t", 100_000, Some(made.root)), |_| ()));
            d.dict("piece layers", |d| d.bytes(made.root, layer));
        }))
        .map_err(|e| e.to_string())
    };
    assert!(parse(&made.layer).is_ok());
    let mut changed = made.layer.clone();
    changed[40] ^= 1;
    assert_eq!(parse(&changed).unwrap_err(), "piece layers: those of 't' do not hash to its root");
    for wrong in [&made.layer[..127], &made.layer[..96], b""] {
        assert_eq!(parse(wrong).unwrap_err(), "piece layers: those of 't' have not 32 bytes for each piece");
    }
}

#[test]
fn broken_trees_are_refused() {
    let refused = |tree: &dyn Fn(&mut DictEncoder)| refusal(&v2_info(tree, |_| ()));
    let root = Some([1; 32]);
    assert_eq!(refused(&|_| ()), "file tree: expected at least one file");
    assert_eq!(refused(&|t| t.dict("a", |_| ())), "file tree: expected at least one file");
    assert_eq!(refused(&|t| t.int("a", 1)), "a: expected a dictionary");
    assert_eq!(refused(&|t| t.dict("a", |d| d.int("", 1))), "a: expected a dictionary");
    assert_eq!(refused(&|t| node(t, "..", 1, root)), "unsafe name '..': '.' and '..' are no names");
    assert_eq!(
        refused(&|t| t.dict("a", |d| node(d, "b/c", 1, root))),
        "unsafe name 'a/b/c': a component contains '/'"
    );
    assert_eq!(refused(&|t| node(t, "", 1, root)), "unsafe name '': the name is empty");
    assert_eq!(refused(&|t| node(t, "a", 1, None)), "pieces root of 'a': missing");
    assert_eq!(
        refused(&|t| t.dict("a", |d| d.dict("", |d| {
            d.int("length", 1);
            d.bytes("pieces root", [1; 31]);
        }))),
        "pieces root of 'a': expected 32 bytes"
    );
    assert_eq!(
        refused(&|t| t.dict("a", |d| {
            d.dict("", |d| d.int("length", 0));
            node(d, "b", 1, root);
        })),
        "'a' is a file and also the directory of 'a/b'"
    );
    // Equal keys are no way around the rule of names.
    let twice = b"d9:file treed1:ad0:d6:lengthi0eee1:ad0:d6:lengthi0eeee12:meta versioni2e4:name1:t12:piece lengthi16384ee";
    assert_eq!(refusal(twice), "two files are named 'a'");
    let deep = [&b"d9:file tree"[..], &b"d1:a".repeat(100_000)].concat();
    let error = Metainfo::parse(&[b"d4:info", &deep[..]].concat()).unwrap_err().to_string();
    assert_eq!(error, "not bencode: nested deeper than 128 at offset 523");
    for bytes in [1, 8192, 16_385, 3 << 14] {
        let info = v2_info(|t| node(t, "a", 1, root), |d| d.int("piece length", bytes));
        assert_eq!(refusal(&info), "piece length: expected a power of two of at least 16384 (v2)");
    }
}

/// A hybrid of `a` (20,000 bytes), a pad up to the piece boundary, and `b` (1 byte), with one thing changed.
fn hybrid(pad: i64, b_name: &str, b_bytes: i64, extra: Option<&str>) -> Vec<u8> {
    let root = Some([1; 32]);
    v2_info(
        |tree| {
            node(tree, "a", 20_000, root);
            node(tree, "b", 1, root);
            if let Some(extra) = extra {
                node(tree, extra, 0, None);
            }
        },
        |d| {
            d.list("files", |l| {
                l.raw(&file(&[b"a"], 20_000));
                l.dict(|d| {
                    d.int("length", pad);
                    d.bytes("attr", "p");
                    d.list("path", |l| l.bytes(".pad"));
                });
                l.raw(&file(&[b_name.as_bytes()], b_bytes));
            });
            d.bytes("pieces", [7; 40]);
        },
    )
}

#[test]
fn a_hybrid_has_both_hashes_and_the_roots_of_its_tree() {
    let info = hybrid(12_768, "b", 1, None);
    let metainfo = parse_info(&info).unwrap();
    assert_eq!(metainfo.info.version, Version::Hybrid);
    assert_eq!(metainfo.hashes.v1, Some(InfoHash::of_info(&info)));
    assert_eq!(metainfo.hashes.v2, Some(InfoHashV2::of_info(&info)));
    let roots: Vec<_> = metainfo.info.files.iter().map(|f| f.root.is_some()).collect();
    assert_eq!(roots, [true, false, true]);
    assert_eq!(metainfo.info.display_total(), 20_001);
}

#[test]
fn a_hybrid_whose_halves_differ_is_refused() {
    let differs = "the v1 and v2 file lists differ at ";
    let refused = |info: &[u8]| refusal(info).strip_prefix(differs).unwrap().to_owned();
    assert_eq!(refused(&hybrid(12_767, "b", 2, None)), "'b': another length or link in the v2 tree");
    assert_eq!(refused(&hybrid(12_767, "b", 1, None)), "'b': does not begin on a piece boundary");
    assert_eq!(refused(&hybrid(12_768, "c", 1, None)), "'c': another name in the v2 tree");
    assert_eq!(refused(&hybrid(12_768, "b", 1, Some("c"))), "'c': missing in the v1 list");
    let short = v2_info(
        |t| node(t, "a", 1, Some([1; 32])),
        |d| {
            d.list("files", |l| {
                l.raw(&file(&[b"a"], 1));
                l.raw(&file(&[b"b"], 1));
            });
            d.bytes("pieces", [7; 20]);
        },
    );
    assert_eq!(refused(&short), "'b': missing in the v2 tree");
}
