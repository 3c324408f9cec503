//! A hybrid made by another implementation (libtorrent 2.1) of a small directory: nested and unicode names, an empty
//! file, an executable, a link, pads, and a file longer than a piece. Its hashes are libtorrent's own.

use super::*;
use crate::merkle;

const HYBRID: &str = "ZDQ6aW5mb2Q5OmZpbGUgdHJlZWQ1OmEuYmluZDA6ZDY6bGVuZ3RoaTEwMDAwMGUxMTpwaWVjZXMgcm9vdDMyOmRI1Sl5y8AZ\
     5u3MOzPuYN0+ZgpZpA9pOmYddKo/UchdZWU1OmVtcHR5ZDA6ZDY6bGVuZ3RoaTBlZWUyOmxuZDA6ZDQ6YXR0cjI6eGwxMjpz\
     eW1saW5rIHBhdGhsMzpzdWIzOnJ1bmVlZTM6c3ViZDM6cnVuZDA6ZDQ6YXR0cjE6eDY6bGVuZ3RoaTIwMDAwZTExOnBpZWNl\
     cyByb290MzI6AMeS2miIiSBz3XmaxfvBqxEWvQDbFI49Yt7RoupRukRlZTY6w7wudHh0ZDA6ZDY6bGVuZ3RoaTJlMTE6cGll\
     Y2VzIHJvb3QzMjqPQ0NGZI9rlt+J3akBxRdrEKbYOWHdPBrIi1my3DJ6pGVlZWU1OmZpbGVzbGQ2Omxlbmd0aGkxMDAwMDBl\
     NDpwYXRobDU6YS5iaW5lZWQ0OmF0dHIxOnA2Omxlbmd0aGkzMTA3MmU0OnBhdGhsNDoucGFkNTozMTA3MmVlZDY6bGVuZ3Ro\
     aTBlNDpwYXRobDU6ZW1wdHllZWQ0OmF0dHIyOnhsNjpsZW5ndGhpMGU0OnBhdGhsMjpsbmUxMjpzeW1saW5rIHBhdGhsMzpz\
     dWIzOnJ1bmVlZDQ6YXR0cjE6eDY6bGVuZ3RoaTIwMDAwZTQ6cGF0aGwzOnN1YjM6cnVuZWVkNDphdHRyMTpwNjpsZW5ndGhp\
     MTI3NjhlNDpwYXRobDQ6LnBhZDU6MTI3NjhlZWQ2Omxlbmd0aGkyZTQ6cGF0aGwzOnN1YjY6w7wudHh0ZWVkNDphdHRyMTpw\
     NjpsZW5ndGhpMzI3NjZlNDpwYXRobDQ6LnBhZDU6MzI3NjZlZWUxMjptZXRhIHZlcnNpb25pMmU0Om5hbWUxOmQxMjpwaWVj\
     ZSBsZW5ndGhpMzI3NjhlNjpwaWVjZXMxMjA6qZznrNu1itphsV/u7l0XTIZZKgPsodshiNlQOpgJ4UjTz+/lz+SwD6ZYgQaH\
     n1zCI4UkkRI9tkZHYPQSFebLExyK+5WeTa8snMWhtFZ9qn8Y0b+95crxLTZ67AxHV0NMfp6VM1Dz0OOfD3TVIpe+JhloWBn2\
     s48SZTEyOnBpZWNlIGxheWVyc2QzMjpkSNUpecvAGebtzDsz7mDdPmYKWaQPaTpmHXSqP1HIXTEyODqItej8UeghLQ36XyQo\
     TyUlLFHLER4g3M8uNLz32pLA8dMxdZ6xo0TdZH70jeSHXaG5MguD5PaGP5lNBNa/358Yw8QRJ0odvHRUPgBjq1nRDY9FJFHm\
     qYIaWwb1cWxb6v98XW9asvKJzGos5mCe1s3EnaKClP7agl7QovC5JTj3A2Vl";

/// The contents of `a.bin` and `sub/run`.
fn ramp(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n / 7) as u8 ^ (n >> 14) as u8).collect()
}

#[test]
fn a_hybrid_of_libtorrent_reads_with_its_hashes_names_and_layers() {
    let bytes = data_encoding::BASE64.decode(HYBRID.as_bytes()).unwrap();
    let metainfo = Metainfo::parse(&bytes).unwrap();
    assert_eq!(metainfo.hashes.v1, "ea829a937873eaba952d871cede2a1ea1cdc9983".parse().ok());
    let v2 = "53f1e636bd8bb35cb0bcf17e48d3e1efa0e4aa1c5d95e2db197a779e4f8cf277";
    assert_eq!(metainfo.hashes.v2, v2.parse().ok());

    let shown: Vec<_> = metainfo.info.files.iter().filter(|file| !file.is_pad).collect();
    let names: Vec<_> =
        shown.iter().map(|file| (file.path.to_string(), file.bytes, file.is_executable)).collect();
    let expected = [
        ("a.bin", 100_000, false),
        ("empty", 0, false),
        ("ln", 0, true),
        ("sub/run", 20_000, true),
        ("sub/ü.txt", 2, false),
    ];
    assert_eq!(names, expected.map(|(name, bytes, is_executable)| (name.to_owned(), bytes, is_executable)));
    assert_eq!(shown[2].symlink.as_ref().unwrap().to_string(), "sub/run");

    let leaves = |bytes| ramp(bytes).chunks(16 * 1024).map(merkle::hash_block).collect::<Vec<_>>();
    assert_eq!(shown[0].root, Some(merkle::root(&leaves(100_000))));
    assert_eq!(shown[3].root, Some(merkle::root(&leaves(20_000))));
    assert_eq!(shown[4].root, Some(merkle::hash_block(b"hi")));
    let layer: Vec<_> = leaves(100_000).chunks(2).map(|piece| merkle::piece_node(piece, 1)).collect();
    assert_eq!(metainfo.piece_layer(&shown[0].root.unwrap()).unwrap()[..], layer.concat());
    let v1_piece = metainfo.info.piece_hash(metainfo.info.geometry.piece(0).unwrap());
    assert_eq!(v1_piece, Some(InfoHash::of_info(&ramp(32_768)).as_bytes()), "the same function, SHA-1");
    assert_eq!(Metainfo::parse(&metainfo.to_bytes()), Ok(metainfo));
}
