//! The hub's page where not all is as one would wish: no storage, a full disk, a film longer than may be kept, another
//! tab beside it, thousands of pieces and files, nobody who has the torrent, no pointer, and a path of another's site.

use std::{fs, path::Path};

use serde_json::{Value, json};
use wtfs_testkit::{net, ramp::Ramp, torrent_file::TorrentFile};

use crate::support::{
    browser::{BROWSER, sha256_of},
    need::missing,
    page::{BYTES, World},
};

/// A sound of so many seconds, at 8,000 bytes each.
fn write_sound(path: &Path, seconds: u32) {
    let (rate, bytes) = (8000_u32, seconds * 8000);
    let mut wave = b"RIFF".to_vec();
    wave.extend((36 + bytes).to_le_bytes());
    wave.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wave.extend(rate.to_le_bytes());
    wave.extend(rate.to_le_bytes());
    wave.extend(b"\x01\0\x08\0data");
    wave.extend(bytes.to_le_bytes());
    wave.extend((0..bytes).map(|at| 0x80 ^ (at / 40 % 2) as u8));
    fs::write(path, wave).expect("the scratch directory can be written");
}

#[test]
fn a_film_longer_than_may_be_kept_is_streamed_and_sought_beside_a_tab_that_has_none_of_it() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-film");
    write_sound(&world.stage.join("shared/film.wav"), 2000);
    world.hub().wait_ready("film.wav");
    // Both are pages of the one service worker.
    world.visit("other", json!({ "profile": "one" }));
    world.ask("other", "pick", json!({ "torrent": "long.bin" }));
    world.visit("a", json!({ "profile": "one", "keep": 2 << 20 }));
    world.ask("a", "pick", json!({ "torrent": "film.wav" }));
    let playable = world.ask("a", "playable", json!({}));
    assert_eq!((&playable["duration"], &playable["source"]), (&json!(2000), &json!("http")));
    for to in [1900, 50, 1000] {
        assert_eq!(world.ask("a", "seek", json!({ "to": to })), to);
    }
    let kept = world.ask("a", "kept", json!({}));
    assert!(kept.as_u64().is_some_and(|used| used <= 2 << 20), "{kept}");
    // It is sixteen megabytes: what is not played is not fetched.
    let received = world.ask("a", "text", json!({ "selector": "#down-note" }));
    let received = received.as_str().and_then(|told| told.strip_suffix(" received")).expect("what came");
    let (number, unit) = received.split_once(' ').expect("a number and its unit");
    let number: f64 = number.parse().expect("a number");
    assert!(unit == "KB" || (unit == "MB" && number < 10.0), "{received}");
    world.check_calm("a");
    world.check_calm("other");
}

#[test]
fn pieces_are_kept_in_memory_where_a_browser_lends_no_storage_or_its_disk_is_full() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-storage");
    for (tab, storage, told) in
        [("none", json!("none"), "lends no storage"), ("full", json!(100), "no more room on the disk")]
    {
        world.visit(tab, json!({ "storage": storage }));
        world.ask(tab, "pick", json!({ "torrent": "long.bin" }));
        let pieces = world.ask(tab, "fetchAll", json!({}));
        let said = world.ask(tab, "whole", json!({}));
        world.check_read(&said, 0, BYTES);
        world.ask(tab, "waitText", json!({ "selector": "#kept-text", "text": told }));
        world.check_calm(tab);
        let after = world.ask(tab, "reload", json!({}));
        let (all, after) = (&pieces["have"], after["from"]["kept"].as_u64().expect("a number"));
        let is_kept = if tab == "none" { after == 0 } else { (1..=100).contains(&after) };
        assert!(is_kept, "{after} of {all} after a reload");
    }
}

#[test]
fn what_cannot_be_opened_is_told_with_what_helps_and_the_keyboard_is_enough() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-nobody");
    world.visit("a", json!({}));
    let refused = |world: &mut World, magnet: &str| {
        let told = world.ask("a", "refused", json!({ "magnet": magnet }));
        told.as_str().expect("text").to_owned()
    };
    assert!(refused(&mut world, "long.bin").contains("no magnet link"));
    let second = format!("magnet:?xt=urn:btmh:1220{}", "ab".repeat(32));
    assert!(refused(&mut world, &second).contains("version 2"));
    let unknown = format!("magnet:?xt=urn:btih:{}&dn=%3Cb%3Enobody%20has%20it", "ab".repeat(20));
    world.ask("a", "paste", json!({ "magnet": unknown }));
    world.ask("a", "waitText", json!({ "selector": "#name", "text": "<b>nobody has it" }));
    world.ask("a", "waitFocus", json!({ "focus": "name" }));
    world.ask("a", "waitText", json!({ "selector": "#peer-none", "text": "no tracker knows anybody else" }));
    // It survives a reload, and is left by the keyboard: past two buttons, the first of which does nothing yet.
    world.ask("a", "press", json!({ "keys": ["Tab", "Tab", "Enter"] }));
    world.ask("a", "waitText", json!({ "selector": "#link-text", "text": "Nothing open" }));
    world.ask("a", "waitFocus", json!({ "focus": "pick-search" }));
    world.ask("a", "waitText", json!({ "selector": "#choices", "text": "long.bin" }));
    world.ask("a", "press", json!({ "keys": ["Tab", "Enter"] }));
    world.ask("a", "waitText", json!({ "selector": "#name", "text": "long.bin" }));
    world.ask("a", "waitFocus", json!({ "focus": "name" }));
    world.check_calm("a");
}

#[test]
fn the_hubs_servers_for_finding_a_way_are_used() {
    if missing(BROWSER) {
        return;
    }
    // Nobody listens there: on one machine no server is needed.
    let far = net::fresh_addr();
    let (stun, turn) = (format!("stun:{far}"), format!("turn:ada:secret@{far}"));
    let mut world = World::with_flags("page-servers", &["--ice-server", &stun, "--ice-server", &turn]);
    world.visit("a", json!({ "isWebSeeded": false }));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    let said = world.ask("a", "read", json!({ "start": 0, "length": 100_000 }));
    world.check_read(&said, 0, 100_000);
    let used = world.ask("a", "iceServers", json!({ "until": 3 }));
    let used = used.as_array().and_then(|all| all.last()).expect("a connection");
    let (stun, turn) = (&used[0], &used[1]);
    assert_eq!(stun["urls"], format!("stun:{far}"), "{used}");
    assert_eq!((&turn["username"], &turn["credential"]), (&json!("ada"), &json!("secret")), "{used}");
    world.check_calm("a");
}

#[test]
fn thousands_of_pieces_and_files_are_read_without_the_tab_growing() {
    if missing(BROWSER) {
        return;
    }
    const PIECE: u32 = 16 << 10;
    const PIECES: u64 = 10_000;
    let content = Ramp::new(68);
    let mut world = World::new("page-large");
    let many = world.stage.join("shared/many");
    fs::create_dir(&many).expect("the scratch directory can be written");
    for n in 0..2000 {
        fs::write(many.join(format!("shard-{n:04}.txt")), format!("this is {n}\n"))
            .expect("the scratch directory can be written");
    }
    let data = world.stage.join("large.bin");
    let bytes = PIECES * u64::from(PIECE);
    content.write_file(&data, bytes).expect("the scratch directory can be written");
    let tracker = format!("ws://{}/announce", world.hub().addr);
    let made = TorrentFile::ramp("large.bin", content, bytes, PIECE, &[tracker]);
    let torrent = world.stage.write_torrent(&made);
    let (_seed, _) = world.stage.seed(&torrent, &data, &[]);

    world.visit("a", json!({ "keep": 32 << 20 }));
    world.ask("a", "magnet", json!({ "magnet": format!("magnet:?xt=urn:btih:{}", made.hash_hex()) }));
    world.ask("a", "waitText", json!({ "selector": "#map-count", "text": "of 10,000" }));
    let read = |world: &mut World, start: u64, len: u64| {
        let said = world.ask("a", "read", json!({ "start": start, "length": len }));
        let path = world.stage.join("range");
        let wanted = content.bytes(start, usize::try_from(len).expect("fits"));
        fs::write(&path, wanted).expect("the scratch directory can be written");
        assert_eq!(said["sha256"], sha256_of(&path), "{said}");
    };
    read(&mut world, bytes - 100_000, 100_000);
    let before = world.ask("a", "memory", json!({})).as_u64().expect("a number");
    for turn in 0..24 {
        read(&mut world, (turn * 6) << 20, 2 << 20);
    }
    // More was read than may be kept, and much more than the tab has grown by.
    let after = world.ask("a", "memory", json!({})).as_u64().expect("a number");
    assert!(after < before + (24 << 20), "from {before} to {after} bytes");
    let kept = world.ask("a", "kept", json!({}));
    assert!(kept.as_u64().is_some_and(|used| used <= 32 << 20), "{kept}");

    world.ask("a", "click", json!({ "selector": "#close" }));
    world.hub().wait_ready("many");
    world.ask("a", "pick", json!({ "torrent": "many" }));
    world.ask("a", "waitText", json!({ "selector": "#files-note", "text": "1,500 more files" }));
    world.ask("a", "click", json!({ "selector": "#file-search" }));
    world.ask(
        "a",
        "press",
        json!({ "keys": "shard-1999".split("").filter(|key| !key.is_empty()).collect::<Vec<_>>() }),
    );
    world.ask("a", "pick", json!({ "file": "shard-1999.txt" }));
    world.ask("a", "waitText", json!({ "selector": "#shown pre", "text": "this is 1999" }));
    world.check_calm("a");
}

#[test]
fn below_a_path_of_another_site_the_page_works_and_asks_nobody_else() {
    if missing(BROWSER) {
        return;
    }
    let front = net::fresh_addr().to_string();
    let place = format!("http://{front}/deep/hub");
    let mut world = World::with_flags("page-below", &["--public-url", &place]);
    write_sound(&world.stage.join("shared/sound.wav"), 20);
    world.hub().wait_ready("sound.wav");
    let hub = world.hub().url("");
    world.ask("", "front", json!({ "addr": front, "prefix": "/deep/hub", "hub": hub }));
    world.visit("a", json!({ "url": format!("{place}/browser") }));
    world.ask("a", "pick", json!({ "torrent": "sound.wav" }));
    assert_eq!(world.ask("a", "playable", json!({}))["duration"], 20);
    world.ask("a", "click", json!({ "selector": "#close" }));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    let pieces = world.ask("a", "fetchAll", json!({}));
    let said = world.ask("a", "whole", json!({}));
    world.check_read(&said, 0, BYTES);
    let gave = |kind: &str| pieces["from"][kind].as_u64().expect("a number");
    assert_eq!(gave("web-seed") + gave("native"), pieces["have"].as_u64().expect("a number"), "{pieces}");
    world.check_calm("a");
    let hosts: Value = world.ask("a", "hosts", json!({}));
    assert_eq!(hosts, json!([front]));
}
