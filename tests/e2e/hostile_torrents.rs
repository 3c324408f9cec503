//! A .torrent that is damaged, absurd or built to hurt is refused with a message: no panic, no hang, no memory.

use std::fs;

use wtfs_testkit::{
    bencode::Value,
    process::{self, Finished},
    ramp::Ramp,
    torrent_file::TorrentFile,
};

use crate::support::stage::{PATIENCE, Stage, text};

/// The exit code for a torrent that cannot be used.
const BAD_SOURCE: i32 = 3;

/// `wtfs info` with four gigabytes of address space, so that a length which is
/// believed shows as a crash.
#[track_caller]
fn info(stage: &Stage, bytes: &[u8]) -> Finished {
    let path = stage.join("torrents/hostile.torrent");
    fs::write(&path, bytes).expect("the scratch directory can be written");
    let mut command = std::process::Command::new("sh");
    stage.isolate(&mut command);
    // Each thread takes address space too, whether it is used or not, and by itself there are as many as there are cores.
    command.env("TOKIO_WORKER_THREADS", "2").env("MALLOC_ARENA_MAX", "2");
    command.args([
        "-c",
        "ulimit -v 4000000; exec \"$0\" info \"$1\"",
        env!("CARGO_BIN_EXE_wtfs"),
        &text(&path),
    ]);
    process::run(command, PATIENCE)
}

/// Says what is wrong with an answer that should be a refusal. Who hangs is killed and has no code.
fn complaint(what: &str, done: &Finished) -> Option<String> {
    let is_refusal = done.code() == Some(BAD_SOURCE) && !done.stderr.trim().is_empty();
    let is_calm = !done.stderr.contains("panicked");
    (!is_refusal || !is_calm).then(|| format!("{what}: {:?} {:?}: {}", done.status, done.took, done.stderr))
}

/// A single-file torrent with these entries in place of the right ones.
fn with(entries: &[(&str, Value)]) -> Vec<u8> {
    let right = [
        ("length", Value::Int(50_000)),
        ("name", Value::bytes("n")),
        ("piece length", Value::Int(16_384)),
        ("pieces", Value::bytes([7; 80])),
    ];
    let pick = |(key, value): (&'static str, Value)| {
        let replaced = entries.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
        (key.as_bytes().to_vec(), replaced.unwrap_or(value))
    };
    let info = Value::Dict(right.into_iter().map(pick).collect());
    Value::dict([("info", info)]).encode()
}

#[test]
fn the_model_of_these_torrents_is_accepted() {
    let stage = Stage::new("hostile-model");
    let _said = info(&stage, &with(&[])).expect_success("wtfs info of a sound torrent");
}

#[test]
fn absurd_numbers_are_refused() {
    let stage = Stage::new("hostile-numbers");
    let cases = [
        ("a negative length", with(&[("length", Value::Int(-1))])),
        ("a length of 2^63 - 1", with(&[("length", Value::Int(i64::MAX))])),
        ("a length beyond the pieces", with(&[("length", Value::Int(70_000))])),
        ("a length short of the pieces", with(&[("length", Value::Int(16_384))])),
        ("a piece length of zero", with(&[("piece length", Value::Int(0))])),
        ("a negative piece length", with(&[("piece length", Value::Int(-16_384))])),
        ("a piece length of 2^62", with(&[("piece length", Value::Int(1 << 62))])),
        ("hashes cut in the middle", with(&[("pieces", Value::bytes([7; 79]))])),
        ("no hashes", with(&[("pieces", Value::bytes([]))])),
        ("hashes that are a number", with(&[("pieces", Value::Int(4))])),
        ("a name that is a list", with(&[("name", Value::List(Vec::new()))])),
        ("an empty name", with(&[("name", Value::bytes(""))])),
    ];
    let wrong: Vec<String> =
        cases.iter().filter_map(|(what, bytes)| complaint(what, &info(&stage, bytes))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hostile_bencode_is_refused() {
    let stage = Stage::new("hostile-bencode");
    let deep = [b"d4:info".to_vec(), b"l".repeat(1_000_000)].concat();
    let closed = [b"d4:info".to_vec(), b"l".repeat(500_000), b"e".repeat(500_001)].concat();
    let wide = [b"d4:infol".to_vec(), b"le".repeat(20_000_000), b"ee".to_vec()].concat();
    let cases: [(&str, &[u8]); 12] = [
        ("nothing", b""),
        ("a number", b"i1e"),
        ("a list", b"le"),
        ("no info", b"d8:announce3:abce"),
        ("info that is no dictionary", b"d4:infoi1ee"),
        ("lists without bottom", &deep),
        ("lists within lists", &closed),
        ("forty million bytes of empty lists", &wide),
        ("a string longer than the file", b"d4:info99999999999:x"),
        ("a string length beyond all numbers", b"d4:info99999999999999999999999999:x"),
        ("a number without an end", b"d4:infoi1111111111111111111111111111111"),
        ("a negative string length", b"d4:info-1:x"),
    ];
    let wrong: Vec<String> =
        cases.iter().filter_map(|(what, bytes)| complaint(what, &info(&stage, bytes))).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_torrent_cut_anywhere_is_refused() {
    let stage = Stage::new("hostile-cut");
    let whole =
        TorrentFile::ramp("cut.bin", Ramp::new(1), 300_000, 16 << 10, &["http://t/a".to_owned()]).bytes;
    let mut wrong = Vec::new();
    for len in (0..whole.len()).step_by(whole.len() / 25) {
        wrong.extend(complaint(&format!("cut at {len}"), &info(&stage, &whole[..len])));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_torrent_with_any_byte_changed_never_makes_it_panic_or_hang() {
    let stage = Stage::new("hostile-bits");
    let whole =
        TorrentFile::ramp("bits.bin", Ramp::new(1), 60_000, 16 << 10, &["http://t/a".to_owned()]).bytes;
    let mut wrong = Vec::new();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x11;
        let done = info(&stage, &bytes);
        let is_calm = matches!(done.code(), Some(0 | BAD_SOURCE)) && !done.stderr.contains("panicked");
        if !is_calm {
            wrong.push(format!("byte {at}: {done:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
