//! `wtfs serve` makes torrents of what stands in a directory; other people's clients download them from its web seed
//! alone and from a swarm of it and mounts; it follows changes, is known again after a kill, and ends without cutting
//! anybody off.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
    time::Duration,
};

use wtfs_testkit::{net, process, ramp::Ramp, wait::eventually};

use crate::support::{
    clients,
    content::Tree,
    hub::Hub,
    libtorrent::{self, Libtorrent},
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 24 * 1024 * 1024 + 777;
/// Clients take their time.
const LONG: Duration = Duration::from_secs(180);

/// A root with one file and one directory.
fn filled(stage: &Stage) -> (Ramp, Tree) {
    let ramp = Ramp::new(51);
    let root = stage.subdir("shared");
    ramp.write_file(&root.join("single.bin"), BYTES).expect("the scratch directory can be written");
    let mut tree = Tree::default();
    tree.file("config.json", 1234);
    tree.file("empty", 0);
    tree.file("weights/model-1.safetensors", 5_000_001);
    tree.file("weights/model-2.safetensors", 3_000_000);
    tree.file("日本語/ファイル 名.bin", 70_000);
    tree.write(&root.join("model"));
    (ramp, tree)
}

fn check_both(saved: &Path, ramp: Ramp, tree: &Tree) {
    ramp.check_file(&saved.join("single.bin"), BYTES).expect("every byte is right");
    let wrong = tree.differences(&saved.join("model"));
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn libtorrent_downloads_from_the_web_seed_alone() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("hub-libtorrent");
    let (ramp, tree) = filled(&stage);
    let hub = Hub::start(&stage, &stage.join("shared"), &[]);
    let saved = stage.subdir("saved");
    for name in ["single.bin", "model"] {
        let torrent = hub.save_web_seeded(&stage, name);
        let mut leecher = Libtorrent::leecher(&stage, &torrent, &saved, &[]);
        let stats = leecher.wait_complete(LONG);
        assert_eq!(stats.failed_bytes, 0);
    }
    check_both(&saved, ramp, &tree);
    hub.end();
}

#[test]
fn aria2_downloads_from_the_web_seed_alone() {
    if missing(&[Need::Program("aria2c")]) {
        return;
    }
    let stage = Stage::new("hub-aria2");
    let (ramp, tree) = filled(&stage);
    let hub = Hub::start(&stage, &stage.join("shared"), &[]);
    let saved = stage.subdir("saved");
    for name in ["single.bin", "model"] {
        let torrent = hub.save_web_seeded(&stage, name);
        let status = clients::aria2(&stage, &torrent, &saved).wait(LONG);
        assert!(status.success(), "{status}");
    }
    check_both(&saved, ramp, &tree);
    hub.end();
}

#[test]
fn transmission_downloads_from_the_web_seed_alone() {
    if missing(&[Need::Program("transmission-cli")]) {
        return;
    }
    let stage = Stage::new("hub-transmission");
    let (ramp, tree) = filled(&stage);
    let hub = Hub::start(&stage, &stage.join("shared"), &[]);
    let saved = stage.subdir("saved");
    for name in ["single.bin", "model"] {
        let torrent = hub.save_web_seeded(&stage, name);
        let (_process, _) = clients::transmission(&stage, &torrent, &saved);
        // It writes a file under its own name at once, so the bytes are the only sign.
        eventually("Transmission has it all", LONG, || match name {
            // Files without bytes it does not make.
            "model" => {
                let wrong = tree.differences(&saved.join("model"));
                wrong.iter().all(|wrong| wrong.starts_with("empty:")).then_some(())
            }
            _ => ramp.check_file(&saved.join("single.bin"), BYTES).ok(),
        });
    }
    hub.end();
}

#[test]
fn a_swarm_of_the_hub_and_a_mount_forms_on_the_hubs_trackers() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("hub-swarm");
    let (ramp, _) = filled(&stage);
    let hub = Hub::start(&stage, &stage.join("shared"), &[]);
    hub.wait_ready("single.bin");
    // The mount knows nothing but the URL of the .torrent.
    let mount = stage.mount(&[&hub.url("/torrent/single.bin.torrent")], &[]);
    ramp.check_file(&mount.join("single.bin"), BYTES).expect("every byte is right");
    // So does libtorrent, and finds both.
    let torrent = hub.save_torrent(&stage, "single.bin");
    let saved = stage.subdir("saved");
    let mut leecher = Libtorrent::leecher(&stage, &torrent, &saved, &[]);
    leecher.wait_complete(LONG);
    ramp.check_file(&saved.join("single.bin"), BYTES).expect("every byte is right");
    let hash = hub.wait_ready("single.bin");
    let escaped: String =
        hash.as_bytes().chunks(2).map(|two| format!("%{}", String::from_utf8_lossy(two))).collect();
    // A client with several addresses may be counted for each.
    eventually("the tracker counts the hub, the mount and libtorrent as seeds", LONG, || {
        let scraped = hub.get(&format!("/scrape?info_hash={escaped}")).body;
        let text = String::from_utf8_lossy(&scraped).into_owned();
        let (_, rest) = text.split_once("8:completei")?;
        rest.split('e').next()?.parse::<u32>().ok().filter(|&seeds| seeds >= 3)
    });
    drop(mount);
    hub.end();
}

#[test]
fn curl_gets_what_it_asks_for() {
    if missing(&[Need::Program("curl")]) {
        return;
    }
    let stage = Stage::new("hub-curl");
    let (ramp, _) = filled(&stage);
    let hub = Hub::start(&stage, &stage.join("shared"), &[]);
    let hash = hub.wait_ready("single.bin");
    let url = hub.url(&format!("/seed/{hash}/single.bin"));
    let curl = |args: &[&str]| {
        let mut command = Command::new("curl");
        stage.isolate(&mut command);
        command.args(["-sS", "--fail", "--noproxy", "*"]).args(args).arg(&url);
        process::run(command, PATIENCE)
    };
    for (range, from, bytes) in
        [("0-99", 0, 100), ("1000000-1999999", 1_000_000, 1_000_000), ("-777", BYTES - 777, 777)]
    {
        let done = curl(&["-r", range]);
        assert!(done.success(), "{range}");
        assert_eq!(done.stdout.len(), bytes, "{range}");
        ramp.check(from, &done.stdout).expect("the right bytes");
    }
    // Cut off, and gone on with.
    let out = stage.join("resumed");
    fs::write(&out, ramp.bytes(0, 9_000_000)).expect("the scratch directory can be written");
    assert!(curl(&["-C", "-", "-o", &text(&out)]).success());
    ramp.check_file(&out, BYTES).expect("every byte is right");
    // 22 is what curl ends with for a status of 400 and above.
    assert_eq!(curl(&["-r", "999999999-"]).code(), Some(22));
    let head = curl(&["-I"]).out();
    assert!(head.contains(&format!("content-length: {BYTES}")), "{head}");
    hub.end();
}

#[test]
fn a_source_is_fetched_for_whoever_asks_and_kept() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let stage = Stage::new("hub-source");
    let (ramp, data) = (Ramp::new(53), stage.subdir("data"));
    ramp.write_file(&data.join("elsewhere.bin"), BYTES).expect("the scratch directory can be written");
    let torrent = libtorrent::create(&stage, &data.join("elsewhere.bin"), 128 << 10, &[]);
    let mut seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
    let peer = seeder.addr().to_string();
    let hub = Hub::start(&stage, &stage.subdir("shared"), &["--peer", &peer, &text(&torrent.path)]);
    hub.wait_ready("elsewhere.bin");
    let url = format!("/seed/{}/elsewhere.bin", torrent.info_hash);
    let part = hub.get_range(&url, 5_000_000..5_000_100);
    ramp.check(5_000_000, &part.body).expect("the right bytes");
    assert!(seeder.stats().uploaded < BYTES / 2, "no more than was asked for, and what is read ahead");
    ramp.check_reader(&hub.get(&url).body[..], BYTES).expect("every byte is right");
    drop(seeder);
    ramp.check_reader(&hub.get(&url).body[..], BYTES).expect("every byte is right, from here alone");
    hub.end();
}

#[test]
fn after_a_kill_nothing_is_hashed_again() {
    let stage = Stage::new("hub-kill");
    let (ramp, _) = filled(&stage);
    let root = stage.join("shared");
    for i in 0..20 {
        fs::write(root.join(format!("small-{i}")), vec![i; 5000])
            .expect("the scratch directory can be written");
    }
    let mut hub = Hub::start(&stage, &root, &[]);
    let before = hub.wait_ready("single.bin");
    hub.wait_ready("model");
    eventually("all are served", PATIENCE, || {
        (hub.torrents().iter().filter(|entry| entry["state"] == "ready").count() == 22).then_some(())
    });
    assert_eq!(hub.hashed(), 22);
    let addr = hub.addr;
    hub.process.kill();
    drop(hub);

    fs::write(root.join("new"), vec![7; 6000]).expect("the scratch directory can be written");
    let hub = Hub::start_at(&stage, &root, addr, &[]);
    hub.wait_ready("new");
    assert_eq!(hub.wait_ready("single.bin"), before);
    eventually("all are served", PATIENCE, || {
        (hub.torrents().iter().filter(|entry| entry["state"] == "ready").count() == 23).then_some(())
    });
    assert_eq!(hub.hashed(), 1, "only what is new");
    let answer = hub.get("/files/single.bin");
    ramp.check_reader(&answer.body[..], BYTES).expect("every byte is right");
    hub.end();
}

#[test]
fn what_changes_in_the_root_changes_on_the_hub() {
    let stage = Stage::new("hub-changes");
    filled(&stage);
    let root = stage.join("shared");
    let hub = Hub::start(&stage, &root, &[]);
    let before = hub.wait_ready("single.bin");
    hub.wait_ready("model");
    // In place, under its old length: not a byte of it is given under the old hash from here on.
    let mut file = fs::OpenOptions::new().write(true).open(root.join("single.bin")).expect("it is there");
    file.write_all(b"changed").expect("it can be written");
    drop(file);
    assert_eq!(hub.get(&format!("/seed/{before}/single.bin")).status, 404);
    hub.wait_status("/files/single.bin", 200);
    assert_ne!(hub.wait_ready("single.bin"), before);
    fs::write(root.join("added"), vec![1; 9000]).expect("it can be written");
    hub.wait_status("/files/added", 200);
    fs::rename(root.join("model"), root.join("renamed")).expect("it can be renamed");
    hub.wait_status("/files/renamed/config.json", 200);
    hub.wait_status("/files/model/config.json", 404);
    fs::remove_dir_all(root.join("renamed")).expect("it can be removed");
    hub.wait_status("/files/renamed/config.json", 404);
    hub.end();
}

#[test]
fn a_signal_lets_a_response_finish() {
    let mut stage = Stage::new("hub-graceful");
    stage.set_variable("WTFS_HUB_GRACE", "600s");
    let root = stage.subdir("shared");
    let (ramp, bytes) = (Ramp::new(52), 64 << 20);
    ramp.write_file(&root.join("big"), bytes).expect("the scratch directory can be written");
    let mut hub = Hub::start(&stage, &root, &[]);
    hub.wait_ready("big");
    let mut stream = TcpStream::connect(hub.addr).expect("the hub accepts");
    stream.write_all(b"GET /files/big HTTP/1.1\r\nHost: h\r\n\r\n").expect("the hub reads");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("the hub answers");
        head.push(byte[0]);
    }
    hub.process.signal(rustix::process::Signal::TERM);
    eventually("new connections are refused", PATIENCE, || {
        TcpStream::connect(hub.addr).is_err().then_some(())
    });
    assert!(hub.process.try_status().is_none(), "it waits for the response");
    hub.process.wait_for_line("it says what it waits for", PATIENCE, 0, |line| {
        line.contains("Ctrl-C once more").then_some(())
    });
    ramp.check_reader(&mut stream, bytes).expect("every byte is right");
    let status = hub.process.wait(PATIENCE);
    assert!(status.success(), "{status}");
}

#[test]
fn the_printed_configuration_can_be_used_and_a_root_that_is_not_there_is_named() {
    let stage = Stage::new("hub-config");
    let root = stage.subdir("shared");
    let listen = net::fresh_addr().to_string();
    let printed = stage
        .run(&["serve", "--print-config", "--root", &text(&root), "--listen", &listen])
        .expect_success("wtfs serve --print-config");
    assert!(printed.contains("[hub]") && printed.contains(&listen), "{printed}");
    let file = stage.join("config.toml");
    fs::write(&file, &printed).expect("the scratch directory can be written");
    let again = stage.run(&["serve", "--print-config", "--config", &text(&file)]);
    assert_eq!(again.expect_success("wtfs serve --print-config"), printed);
    for (root, hint) in [("/nonexistent/root", "create the directory"), (&text(&file), "give a directory")] {
        let refused = stage.run(&["serve", "--root", root, "--listen", &listen]);
        assert_eq!(refused.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains(root) && refused.stderr.contains(hint), "{refused:?}");
    }
    let named = ["serve", "--hf-swarm-private", "org/right", "--hf-swarm-private", "org/not..right"];
    let refused = stage.run(&[&named[..], &["--root", &text(&root), "--listen", &listen]].concat());
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("org/not..right") && !refused.stderr.contains("org/right"),
        "{refused:?}"
    );
}
