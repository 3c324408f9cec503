//! Whole torrents through [`Metainfo::parse`]: what passes, what is refused and with which words.

use proptest::prelude::*;

use super::*;
use crate::bencode::{DictEncoder, Encoder};
use crate::path::TorrentPath;

mod hybrid;
mod round_trip;
mod vectors;

const PIECE: u32 = 16 * 1024;

fn encode(write: impl FnOnce(&mut DictEncoder)) -> Vec<u8> {
    let mut out = Encoder::new();
    out.dict(write);
    out.finish()
}

/// The raw bytes of one file of `files`.
fn file(path: &[&[u8]], bytes: i64) -> Vec<u8> {
    encode(|d| {
        d.int("length", bytes);
        d.list("path", |l| path.iter().for_each(|component| l.bytes(component)));
    })
}

/// A v1 `info` whose parts can be changed afterwards, and the `.torrent` of nothing else.
fn info_with(change: impl FnOnce(&mut DictEncoder)) -> Vec<u8> {
    encode(|d| {
        d.bytes("name", "t");
        d.int("piece length", PIECE.into());
        d.int("length", 1);
        d.bytes("pieces", [7; 20]);
        change(d);
    })
}

fn torrent(info: &[u8]) -> Vec<u8> {
    encode(|d| d.raw("info", info))
}

fn parse_info(info: &[u8]) -> Result<Metainfo, MetainfoError> {
    let parsed = Metainfo::parse(&torrent(info));
    let from_peers = Metainfo::from_info(Bytes::copy_from_slice(info), vec![], vec![]);
    assert_eq!(parsed, from_peers, "one rule, wherever info comes from");
    parsed
}

fn with_files(files: &[Vec<u8>], total: u64) -> Result<Metainfo, MetainfoError> {
    parse_info(&info_with(|d| {
        d.list("files", |l| files.iter().for_each(|file| l.raw(file)));
        d.bytes("pieces", vec![7; 20 * total.div_ceil(PIECE.into()) as usize]);
    }))
}

fn refusal(info: &[u8]) -> String {
    parse_info(info).unwrap_err().to_string()
}

#[test]
fn a_single_file_is_named_by_the_torrent() {
    let metainfo = parse_info(&info_with(|d| {
        d.int("length", 20_000);
        d.bytes("pieces", [[1; 20], [2; 20]].concat());
        d.int("private", 1);
        d.bytes("source", "tag");
    }))
    .unwrap();
    let info = &metainfo.info;
    assert_eq!((info.layout, info.version, info.is_private), (Layout::SingleFile, Version::V1, true));
    assert_eq!(info.source.as_deref(), Some("tag"));
    assert_eq!(info.files[0].path.components(), ["t"]);
    assert_eq!(info.display_total(), 20_000);
    assert_eq!(info.geometry.piece_count(), 2);
    let hash = |n| info.piece_hash(info.geometry.piece(n).unwrap());
    assert_eq!((hash(0), hash(1)), (Some(&[1; 20]), Some(&[2; 20])));
    assert_eq!(metainfo.hashes, InfoHashes { v1: Some(InfoHash::of_info(&metainfo.info_bytes)), v2: None });
}

#[test]
fn the_info_hash_is_of_the_bytes_as_they_came() {
    // Unsorted, with a repeated and an unknown key: a re-encoding would hash to something else.
    let info = b"d4:name1:t4:name1:u6:lengthi0e6:pieces0:12:piece lengthi16384e1:xlee";
    let whole = [b"d4:info", &info[..], b"8:announce8:http://ae\r\n"].concat();
    let metainfo = Metainfo::parse(&whole).unwrap();
    assert_eq!(&metainfo.info_bytes[..], info);
    assert_eq!(metainfo.hashes.v1, Some(InfoHash::of_info(info)));
    assert_eq!(metainfo.info.name, "t", "the first of equal keys counts");
    assert_eq!(metainfo.announce, [["http://a"]], "what follows the dictionary is no one's concern");
    assert!(metainfo.to_bytes().windows(info.len()).any(|window| window == info));
}

#[test]
fn files_carry_the_attributes_of_bep_47() {
    let entry = |path: &str, change: &dyn Fn(&mut DictEncoder)| {
        encode(|d| {
            d.list("path", |l| path.split('/').for_each(|c| l.bytes(c)));
            d.int("length", 3);
            change(d);
        })
    };
    let files = [
        entry("bin/run", &|d| d.bytes("attr", "xh")),
        entry(".pad/3", &|d| d.bytes("attr", "p")),
        entry("link", &|d| {
            d.bytes("attr", "l");
            d.list("symlink path", |l| ["bin", "run"].iter().for_each(|c| l.bytes(c)));
        }),
        entry(".pad/3", &|d| d.bytes("attr", "p")),
        entry("_____padding_file_0_x", &|_| ()),
        entry("sum", &|d| d.bytes("sha1", [9; 20])),
    ];
    let metainfo = with_files(&files, 15).unwrap();
    let files = &metainfo.info.files;
    assert!(files[0].is_executable && files[0].is_hidden && !files[0].is_pad);
    assert!(files[1].is_pad && files[3].is_pad && files[4].is_pad, "BitComet's pads too");
    assert_eq!(files[2].symlink.as_ref().unwrap().to_string(), "bin/run");
    assert_eq!(files[2].bytes, 0, "a link has no content, whatever its length says");
    assert_eq!(files[5].sha1, Some([9; 20]));
    assert_eq!(metainfo.info.display_total(), 6);
}

#[test]
fn utf_8_names_are_preferred_and_others_escaped() {
    let both = encode(|d| {
        d.int("length", 1);
        d.list("path", |l| l.bytes(b"gr\xfc\xdfe"));
        d.list("path.utf-8", |l| l.bytes("größe"));
    });
    let broken = encode(|d| {
        d.int("length", 0);
        d.list("path", |l| l.bytes(b"caf\xe9"));
        d.list("path.utf-8", |l| l.bytes(b"caf\xe8"));
    });
    let metainfo = parse_info(&info_with(|d| {
        d.bytes("name", b"\xff");
        d.bytes("name.utf-8", "ÿ");
        d.list("files", |l| [both, broken].iter().for_each(|file| l.raw(file)));
    }))
    .unwrap();
    assert_eq!(metainfo.info.name, "ÿ");
    assert_eq!(metainfo.info.files[0].path.to_string(), "größe");
    assert_eq!(metainfo.info.files[1].path.to_string(), "caf%E9");
}

#[test]
fn hostile_names_are_refused_and_the_message_names_the_entry() {
    let ok = file(&[b"fine"], 1);
    let long = [b'x'; 4096];
    let cases: [(&[&[u8]], &str); 8] = [
        (&[b"a", b"..", b"b"], "unsafe name 'a/../b': '.' and '..' are no names"),
        (&[b"."], "unsafe name '.': '.' and '..' are no names"),
        (&[b"/etc/passwd"], "unsafe name '/etc/passwd': a component contains '/'"),
        (&[b"a\0b"], "unsafe name 'a\\0b': a component contains a zero byte"),
        (&[&long], "a component has 4096 bytes, at most 255 are possible"),
        (&[&long[..200]; 40], "the path has more than 4096 bytes"),
        (&[], "unsafe name 'files[1]': the name is empty"),
        (&[b""], "unsafe name '': the name is empty"),
    ];
    for (path, message) in cases {
        let error = with_files(&[ok.clone(), file(path, 1)], 2).unwrap_err().to_string();
        assert!(error.ends_with(message), "{error}");
        assert!(error.len() < 300, "short enough for a line: {error}");
    }
    for name in [&b".."[..], b"a/b", b"", b"\0", &long] {
        let error = refusal(&info_with(|d| d.bytes("name", name)));
        assert!(error.starts_with("unsafe name '"), "{error}");
    }
}

#[test]
fn clashing_names_are_refused() {
    let refused =
        |a: &[&[u8]], b: &[&[u8]]| with_files(&[file(a, 1), file(b, 1)], 2).unwrap_err().to_string();
    assert_eq!(refused(&[b"a", b"b"], &[b"a", b"", b"b"]), "two files are named 'a/b'");
    assert_eq!(refused(&[b"a", b"b"], &[b"a"]), "'a' is a file and also the directory of 'a/b'");
    // Equal by eye or on another system, but other bytes: two names.
    let nfc_and_nfd = [file(&["é".as_bytes()], 1), file(&["e\u{301}".as_bytes()], 1), file(&[b"E"], 1)];
    assert!(with_files(&nfc_and_nfd, 3).is_ok());
}

#[test]
fn links_out_of_the_torrent_are_refused() {
    let link = |target: &[&str]| {
        encode(|d| {
            d.bytes("attr", "l");
            d.list("path", |l| l.bytes("ln"));
            d.list("symlink path", |l| target.iter().for_each(|c| l.bytes(c)));
        })
    };
    for target in [&["..", "x"][..], &["/etc/passwd"], &["a/../../b"], &[]] {
        let error = with_files(&[link(target), file(&[b"a"], 1)], 1).unwrap_err().to_string();
        assert_eq!(error, "the link 'ln' leads out of the torrent");
    }
    let through_a_link = [link(&["a"]), file(&[b"ln", b"x"], 1)];
    let error = with_files(&through_a_link, 1).unwrap_err().to_string();
    assert_eq!(error, "'ln' is a file and also the directory of 'ln/x'", "nothing is written through a link");
    let alone = info_with(|d| {
        d.bytes("attr", "l");
        d.list("symlink path", |l| l.bytes("x"));
        d.bytes("pieces", "");
    });
    assert_eq!(refusal(&alone), "the link 't' leads out of the torrent");
    let no_target = info_with(|d| d.bytes("attr", "l"));
    assert_eq!(refusal(&no_target), "symlink path of 't': missing");
}

#[test]
fn missing_and_wrong_keys_are_named() {
    let raw = |text: &str| refusal(text.as_bytes());
    assert_eq!(raw("d6:lengthi1ee"), "name: missing");
    assert_eq!(raw("d4:namei1ee"), "name: expected a string");
    assert_eq!(raw("d4:name1:te"), "piece length: missing");
    assert_eq!(raw("d4:name1:t12:piece lengthi1ee"), "length of 't': missing");
    assert_eq!(raw("d6:lengthi1e4:name1:t12:piece lengthi1ee"), "pieces: missing");
    assert_eq!(raw("d6:lengthi1e4:name1:t12:piece lengthi1e6:piecesi1ee"), "pieces: expected a string");
    let with = |change: &dyn Fn(&mut DictEncoder)| refusal(&info_with(change));
    assert_eq!(with(&|d| d.int("length", -1)), "length of 't': expected an integer of 0 or more");
    assert_eq!(with(&|d| d.bytes("length", "1")), "length of 't': expected an integer of 0 or more");
    assert_eq!(with(&|d| d.int("files", 1)), "files: expected a list");
    assert_eq!(with(&|d| d.list("files", |_| ())), "files: expected at least one file");
    assert_eq!(with(&|d| d.list("files", |l| l.int(1))), "files[0]: expected a dictionary");
    assert_eq!(with(&|d| d.list("files", |l| l.dict(|_| ()))), "path of files[0]: missing");
    let path_of_ints = |d: &mut DictEncoder| d.list("files", |l| l.dict(|d| d.list("path", |l| l.int(1))));
    assert_eq!(with(&path_of_ints), "path of files[0]: expected a list of strings");
    assert_eq!(with(&|d| d.int("meta version", 3)), "meta version: expected 1 or 2");
    for bytes in [0, -1, i64::MAX, 1 + (512 << 20)] {
        let message = "piece length: expected an integer from 1 to 536870912";
        assert_eq!(with(&|d| d.int("piece length", bytes)), message);
    }
    let outer = |text: &str| Metainfo::parse(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(outer("de"), "info: missing");
    assert_eq!(outer("d4:infoi1ee"), "info: expected a dictionary");
    assert_eq!(outer("le"), "the file: expected a dictionary");
    assert_eq!(outer("d4:infod"), "not bencode: the data ends at offset 8, expected a key (a string) or e");
    let trailing = [&info_with(|_| ())[..], b"x"].concat();
    let error = Metainfo::from_info(trailing.into(), vec![], vec![]).unwrap_err().to_string();
    assert!(error.starts_with("not bencode: 1 bytes after the end"), "{error}");
}

#[test]
fn hashes_must_fit_the_pieces_exactly() {
    for bytes in [0, 19, 21, 40] {
        let error = refusal(&info_with(|d| d.bytes("pieces", vec![0; bytes])));
        assert_eq!(error, format!("pieces: {bytes} bytes of hashes, 1 pieces need 20"));
    }
}

#[test]
fn absurd_sizes_are_refused_before_anything_is_made_of_them() {
    let content = "bytes of content: more than 9007199254740992";
    assert_eq!(refusal(&info_with(|d| d.int("length", i64::MAX))), content);
    let files = [file(&[b"a"], i64::MAX), file(&[b"b"], i64::MAX), file(&[b"c"], i64::MAX)];
    assert_eq!(with_files(&files, 1).unwrap_err().to_string(), content, "the sum does not wrap");
    let many = info_with(|d| {
        d.int("length", 1 << 52);
        d.int("piece length", 1 << 29);
    });
    assert_eq!(refusal(&many), "pieces: more than 4194304");
    let too_many_for_u32 = info_with(|d| {
        d.int("length", 1 << 53);
        d.int("piece length", 1);
    });
    assert!(refusal(&too_many_for_u32).ends_with("pieces, at most 4294967295 are possible"));
}

#[test]
fn empty_content_has_no_pieces() {
    let files = [file(&[b"a"], 0), file(&[b"b", b"c"], 0)];
    let metainfo = with_files(&files, 0).unwrap();
    assert_eq!((metainfo.info.geometry.piece_count(), metainfo.info.display_total()), (0, 0));
}

#[test]
fn what_stands_outside_info_is_advice() {
    let metainfo = Metainfo::parse(&encode(|d| {
        d.raw("info", &info_with(|_| ()));
        d.bytes("announce", "http://ignored");
        d.list("announce-list", |l| {
            l.list(|l| ["http://a", " http://b ", "http://a", "", "\u{0}"].iter().for_each(|u| l.bytes(u)));
            l.list(|l| l.bytes("http://a"));
            l.list(|l| l.bytes(b"\xff"));
            l.int(3);
            l.bytes("http://flat");
        });
        d.bytes("url-list", "http://w/");
        d.list("httpseeds", |l| l.bytes("http://h/"));
        d.bytes("comment", b"caf\xe9");
        d.bytes("created by", "x");
        d.bytes("creation date", "yesterday");
        d.list("nodes", |l| {
            l.list(|l| {
                l.bytes("router.example");
                l.int(6881);
            });
            l.list(|l| l.bytes("no port"));
            l.list(|l| {
                l.bytes("h");
                l.int(65_536);
            });
        });
        d.int("piece layers", 1);
    }))
    .unwrap();
    assert_eq!(metainfo.announce, [vec!["http://a", "http://b", "\u{0}"], vec!["http://flat"]]);
    assert_eq!(
        (&metainfo.url_list[..], &metainfo.http_seeds[..]),
        (&["http://w/".into()][..], &["http://h/".into()][..])
    );
    assert_eq!(metainfo.comment.as_deref(), Some("caf\u{fffd}"));
    assert_eq!(metainfo.creation_date, None);
    assert_eq!(metainfo.nodes, [("router.example".to_owned(), 6881)]);
}

#[test]
fn whatever_peers_may_give_can_be_stored_and_read_again() {
    let deepest = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
    let with_depth =
        |depth| Metainfo::from_info(info_with(|d| d.raw("x", &deepest(depth))).into(), vec![], vec![]);
    let metainfo = with_depth(126).unwrap();
    assert_eq!(Metainfo::parse(&metainfo.to_bytes()), Ok(metainfo));
    assert!(with_depth(127).is_err());
}
