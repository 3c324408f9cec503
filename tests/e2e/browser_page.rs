//! The hub's page is a peer: it reads what is asked of it and no more, forward, backward, across pieces and tensor by
//! tensor; what it has outlives a reload, within a bound; a mount reads what a tab has, a tab what the hub has.

use std::{fs, path::Path};

use serde_json::{Value, json};
use wtfs_testkit::{hf_hub::HfHub, ramp::Ramp, wait::eventually};

use crate::support::{
    browser::{BROWSER, PATIENCE, READ_TIMEOUT, sha256_of},
    hf,
    hub::Hub,
    need::missing,
    page::{BYTES, World, content},
    stage::{Stage, text},
};

const HOSTILE: &str = r#"<img src=x onerror="window.ran=1">.txt"#;

/// A safetensors file; the bytes of each of its tensors, by name.
fn write_safetensors(path: &Path) -> Vec<(String, Vec<u8>)> {
    let numbers = |from: u16| -> Vec<u8> {
        (0..40_000).flat_map(|i| (f32::from(from) + i as f32).to_le_bytes()).collect()
    };
    let mut tensors: Vec<_> =
        (0..24_u16).map(|layer| (format!("layers.{layer}.weight"), numbers(layer))).collect();
    tensors.push(("norm.bias".to_owned(), [0x80, 0x3F].repeat(64)));
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, bytes) in &tensors {
        let (dtype, shape) =
            if name == "norm.bias" { ("BF16", json!([64])) } else { ("F32", json!([200, 200])) };
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes.len()] }),
        );
        at += bytes.len();
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(tensors.iter().flat_map(|(_, bytes)| bytes));
    fs::write(path, file).expect("the scratch directory can be written");
    tensors
}

#[test]
fn ranges_are_read_on_demand_forward_backward_and_across_pieces() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-ranges");
    world.visit("a", json!({}));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    let (start, len) = (3_000_001, 100_003);
    let said = world.ask("a", "read", json!({ "start": start, "length": len }));
    world.check_read(&said, start, len);
    let first: Vec<String> = content().bytes(start, 16).iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = world.ask("a", "hex", json!({}));
    let shown = shown.as_str().expect("text").replace("  ", " ");
    assert!(shown.starts_with(&format!("{start:08x} {}", first.join(" "))), "{shown}");
    // Only what was read was fetched, and a little ahead: not the file.
    let pieces = world.ask("a", "pieces", json!({}));
    let have = pieces["have"].as_u64().expect("a number");
    assert!((1..=20).contains(&have), "{pieces}");
    let said = world.ask("a", "move", json!({ "direction": "forward" }));
    world.check_read(&said, start + len, len);
    for back in 0..3 {
        let said = world.ask("a", "move", json!({ "direction": "back" }));
        world.check_read(&said, start - back * len, len);
    }
    let said = world.ask("a", "read", json!({ "start": 0, "length": BYTES / 2 }));
    world.check_read(&said, 0, BYTES / 2);
    // What is behind the end is not there, and said so by a shorter range.
    let said = world.ask("a", "read", json!({ "start": BYTES - 10, "length": 4096 }));
    world.check_read(&said, BYTES - 10, 10);
    let said = world.ask("a", "whole", json!({}));
    world.check_read(&said, 0, BYTES);
    world.check_calm("a");
}

#[test]
fn tensors_are_loaded_out_of_order_and_no_others_are_fetched() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-tensors");
    let model = world.stage.subdir("shared").join("model");
    fs::create_dir(&model).expect("the scratch directory can be written");
    let tensors = write_safetensors(&model.join("model #1 100%?.safetensors"));
    fs::write(model.join("config.json"), b"{}").expect("the scratch directory can be written");
    world.hub().wait_ready("model");
    world.visit("a", json!({}));
    world.ask("a", "pick", json!({ "torrent": "model", "file": "safetensors" }));
    let names = ["layers.17.weight", "layers.2.weight", "norm.bias"];
    let said = world.ask("a", "tensors", json!({ "names": names }));
    for (said, name) in said.as_array().expect("a list").iter().zip(names) {
        let (_, bytes) = tensors.iter().find(|(known, _)| known == name).expect("one of ours");
        let path = world.stage.join("tensor");
        fs::write(&path, bytes).expect("the scratch directory can be written");
        assert_eq!(said["sha256"], sha256_of(&path), "{said}");
    }
    assert_eq!((&said[0]["dtype"], &said[0]["shape"]), (&json!("F32"), &json!("200 × 200")));
    let told = said[0]["told"].as_str().expect("text");
    assert!(told.starts_with("17 … 40,016, mean 20,017"), "{told}");
    assert_eq!(said[2]["told"], "1 … 1, mean 1 ± 0, 0 zeros");
    let (pieces, all) = (world.ask("a", "pieces", json!({})), world.hub().torrents());
    let all = all.iter().find(|entry| entry["name"] == "model").and_then(|entry| entry["pieces"].as_u64());
    let have = pieces["have"].as_u64().expect("a number");
    assert!(have * 4 < all.expect("it is listed"), "{pieces} of {all:?}");
    world.check_calm("a");
}

#[test]
fn a_repository_of_hugging_face_is_opened_by_its_name_and_loaded_tensor_by_tensor() {
    if missing(BROWSER) {
        return;
    }
    let stage = Stage::new("page-repository");
    let upstream = HfHub::builder()
        .model("org/model")
        .file("config.json", "{}")
        .file("sub dir/we ird#1%.safetensors", hf::safetensors(1, 100))
        .start();
    let (endpoint, hub, cdn) =
        (upstream.endpoint(), upstream.hub_addr().to_string(), upstream.cdn_addr().to_string());
    let flags = ["--hf-upstream", &endpoint, "--allow-upstream-host", &hub, "--allow-upstream-host", &cdn];
    let mut world = World::on(stage, &flags);
    eventually("its torrent is made", PATIENCE, || {
        (world.hub().get("/torrent/org/model").status == 200).then_some(())
    });
    // The dashboard calls it so too, and leads to the page.
    let url = world.hub().url("/");
    let told = world.ask("dashboard", "models", json!({ "url": url }));
    assert_eq!(told["models"][0]["name"], "org/model", "{told}");
    let open = told["models"][0]["open"].as_str().expect("a link");
    assert!(open.starts_with(&world.hub().url("/browser/#")), "{told}");
    assert_eq!(told["bytes"]["From upstream"], "819 KB", "{told}");
    // By data channels, and by HTTP alone: no server has the pads between its files.
    for (tab, has_webrtc, state) in [("channels", true, "live"), ("http", false, "polling")] {
        world.visit(tab, json!({ "isWebSeeded": !has_webrtc, "hasWebRtc": has_webrtc }));
        world.ask(tab, "pick", json!({ "torrent": "org/model", "state": state, "file": "safetensors" }));
        assert_eq!(world.ask(tab, "text", json!({ "selector": "#name" })), "org/model");
        let said = world.ask(tab, "tensors", json!({ "names": ["b.weight", "a.weight"] }));
        let half = 100 * 1024 * 4;
        let bytes = Ramp::new(1).bytes(0, 2 * half);
        for (said, bytes) in said.as_array().expect("a list").iter().zip([&bytes[half..], &bytes[..half]]) {
            let path = world.stage.join("tensor");
            fs::write(&path, bytes).expect("the scratch directory can be written");
            assert_eq!(said["sha256"], sha256_of(&path), "{said}");
        }
        let pieces = world.ask(tab, "fetchAll", json!({}));
        let from = if has_webrtc { "native" } else { "web-seed" };
        assert_eq!(pieces["from"][from], pieces["have"], "{pieces}");
        world.check_calm(tab);
    }
}

#[test]
fn what_a_tab_has_outlives_a_reload_and_the_hub_and_a_mount_reads_it() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-keeps");
    let torrent = world.hub().save_torrent(&world.stage, "long.bin");
    world.visit("a", json!({}));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    let pieces = world.ask("a", "fetchAll", json!({}));
    let all = pieces["have"].clone();
    let gave = |kind: &str| pieces["from"][kind].as_u64().expect("a number");
    assert_eq!(
        json!(gave("web-seed") + gave("native")),
        all,
        "the hub gave it, one way or the other: {pieces}"
    );
    // The hub has it no more: what is left of it is in the tab.
    fs::remove_file(world.stage.join("shared/long.bin")).expect("it was there");
    world.hub().wait_status("/torrent/long.bin.torrent", 404);
    let pieces = world.ask("a", "reload", json!({}));
    assert_eq!((&pieces["have"], &pieces["from"]["kept"]), (&all, &all), "{pieces}");
    let said = world.ask("a", "whole", json!({}));
    world.check_read(&said, 0, BYTES);
    {
        let mount = world.stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
        let path = mount.wait_for_entry("long.bin");
        content().check_file(&path, BYTES).unwrap_or_else(|error| panic!("{error}"));
        eventually("the status shows that the tab gave all of it", PATIENCE, || {
            let status = mount.torrent_status();
            let sources = status["sources"].as_array()?;
            let gave = |kind| sources.iter().find(|one| one["kind"] == kind)?["downloaded_bytes"].as_u64();
            let (channels, others) = (gave("webrtc")?, [gave("tcp"), gave("web_seed")]);
            assert!(others.iter().all(|bytes| bytes.is_none_or(|bytes| bytes == 0)), "{status}");
            // More if a channel broke in the middle of a piece.
            (channels >= BYTES).then_some(())
        });
        mount.unmount();
    }
    // Let go, nothing is left: also after a reload.
    world.ask("a", "click", json!({ "selector": "#clear" }));
    world.ask("a", "waitText", json!({ "selector": "#kept-text", "text": "Nothing is kept" }));
    let pieces = world.ask("a", "pieces", json!({}));
    assert_eq!(pieces["have"], 0, "{pieces}");
}

#[test]
fn what_is_kept_has_a_bound_and_a_file_larger_than_it_is_read_all_the_same() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-bound");
    world.visit("a", json!({ "keep": 2 << 20 }));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    for _ in 0..2 {
        let said = world.ask("a", "whole", json!({}));
        world.check_read(&said, 0, BYTES);
    }
    let kept = world.ask("a", "kept", json!({}));
    let used = kept.as_u64().expect("a number");
    assert!((1 << 20..=2 << 20).contains(&used), "{used} bytes are kept");
    let said = world.ask("a", "read", json!({ "start": 5, "length": 700_000 }));
    world.check_read(&said, 5, 700_000);
    world.check_calm("a");
}

#[test]
fn a_browser_alone_with_the_hub_downloads_by_data_channel() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-channel");
    world.visit("a", json!({ "isWebSeeded": false }));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    let said = world.ask("a", "read", json!({ "start": 4_000_000, "length": 300_000 }));
    world.check_read(&said, 4_000_000, 300_000);
    let pieces = world.ask("a", "fetchAll", json!({}));
    assert_eq!(pieces["from"]["native"], pieces["have"], "{pieces}");
    let said = world.ask("a", "whole", json!({}));
    world.check_read(&said, 0, BYTES);
    world.check_calm("a");
}

#[test]
fn two_tabs_give_each_other_what_one_has_by_a_magnet_link() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-tabs");
    let magnet = String::from_utf8(world.hub().get("/magnet/long.bin").body).expect("text");
    world.visit("a", json!({ "profile": "one" }));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    world.ask("a", "fetchAll", json!({}));
    fs::remove_file(world.stage.join("shared/long.bin")).expect("it was there");
    world.hub().wait_status("/torrent/long.bin.torrent", 404);
    // The metadata too can come from nobody but the other tab: the hub has the .torrent no more.
    world.visit("b", json!({ "profile": "two" }));
    world.ask("b", "magnet", json!({ "magnet": magnet.trim() }));
    let pieces = world.ask("b", "fetchAll", json!({}));
    assert_eq!(pieces["from"]["browser"], pieces["have"], "{pieces}");
    let said = world.ask("b", "whole", json!({}));
    world.check_read(&said, 0, BYTES);
}

#[test]
fn media_play_names_are_text_and_the_page_fits_a_phone() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-looks");
    let root = world.stage.join("shared");
    fs::write(root.join(HOSTILE), "plain\n").expect("the scratch directory can be written");
    fs::write(root.join("tone.wav"), tone()).expect("the scratch directory can be written");
    world.hub().wait_ready(HOSTILE);
    world.hub().wait_ready("tone.wav");
    world.visit("a", json!({}));
    for width in [1280, 768, 360] {
        let fits = world.ask("a", "fits", json!({ "width": width }));
        assert!(
            fits["content"].as_u64() <= fits["window"].as_u64() && fits["unnamed"] == 0,
            "{width}: {fits}"
        );
    }
    world.ask("a", "pick", json!({ "torrent": HOSTILE }));
    let name = world.ask("a", "text", json!({ "selector": "#name" }));
    assert_eq!(name, HOSTILE);
    world.ask("a", "waitText", json!({ "selector": "#shown pre", "text": "plain" }));
    world.ask("a", "waitText", json!({ "selector": "#kept .name", "text": HOSTILE }));
    for width in [1280, 768, 360] {
        let fits = world.ask("a", "fits", json!({ "width": width }));
        assert!(
            fits["content"].as_u64() <= fits["window"].as_u64() && fits["unnamed"] == 0,
            "{width}: {fits}"
        );
    }
    world.ask("a", "click", json!({ "selector": "#close" }));
    world.ask("a", "pick", json!({ "torrent": "tone.wav" }));
    let playable = world.ask("a", "playable", json!({}));
    assert_eq!((&playable["duration"], &playable["source"]), (&json!(2), &json!("http")), "it is streamed");
    // A file of a torrent is no page of this site, whoever links to it.
    let opened = world.ask("a", "status", json!({ "path": playable["path"] }));
    assert_eq!(opened, 404);
    let problems = world.ask("a", "problems", json!({}));
    assert_eq!(problems, json!([]));
}

/// Two seconds of silence.
fn tone() -> Vec<u8> {
    let (rate, bytes) = (8000_u32, 16_000_u32);
    let mut wave = b"RIFF".to_vec();
    wave.extend((36 + bytes).to_le_bytes());
    wave.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wave.extend(rate.to_le_bytes());
    wave.extend(rate.to_le_bytes());
    wave.extend(b"\x01\0\x08\0data");
    wave.extend(bytes.to_le_bytes());
    wave.extend(std::iter::repeat_n(0x80, 16_000));
    wave
}

#[test]
fn the_page_says_when_the_hub_is_gone_and_comes_back_with_it() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("page-lost");
    world.visit("a", json!({ "isWebSeeded": false }));
    world.ask("a", "pick", json!({ "torrent": "long.bin" }));
    let hub = world.hub.take().expect("it runs");
    let (addr, root) = (hub.addr, world.stage.join("shared"));
    hub.end();
    let lost = world.ask("a", "link", json!({ "state": "lost" }));
    assert!(lost["alert"].as_str().is_some_and(|told| told.contains("No tracker can be reached")), "{lost}");
    // A read waits, and goes on when the hub is back: as tracker, and as peer.
    let reading = world.browser.begin("read", json!({ "tab": "a", "start": 1000, "length": 200_000 }));
    world.hub = Some(Hub::start_at(&world.stage, &root, addr, &[]));
    let said = world.browser.finish(reading, "read");
    world.check_read(&said, 1000, 200_000);
    let back = world.ask("a", "link", json!({ "state": "live" }));
    assert_eq!(back["alert"], Value::Null);
}
