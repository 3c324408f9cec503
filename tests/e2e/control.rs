//! Torrents come and go while a mount runs and are there again after a restart; files of a mount are fetched before
//! they are read, kept, and readable without a network as far as they are local.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use wtfs_testkit::{
    net,
    peer::{Content, ScriptedPeer, Start},
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    mount::Mount,
    need::{Need, missing},
    reading::names,
    stage::{PATIENCE, Stage, text, torrents},
};

const BYTES: u64 = 4 << 20;
const PIECE: u32 = 64 << 10;
/// The exit code where a source cannot be used.
const BAD_SOURCE: i32 = 3;
/// The exit code where no mount is served.
const BAD_MOUNT: i32 = 4;

fn torrent(name: &str, seed: u64) -> TorrentFile {
    TorrentFile::ramp(name, Ramp::new(seed), BYTES, PIECE, &[])
}

fn seeder(torrent: &TorrentFile, seed: u64) -> ScriptedPeer {
    ScriptedPeer::seeder(torrent, Content::Ramp(Ramp::new(seed)), Start::Open)
}

/// The names in the root, but for that of the control files.
fn entries(mount: &Mount<'_>) -> Vec<String> {
    let shown = names(mount.dir()).into_iter().map(|name| name.to_string_lossy().into_owned());
    shown.filter(|name| name != ".wtfs").collect()
}

#[test]
fn what_is_added_to_a_running_mount_is_read_and_there_again_until_it_is_removed() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("add-remove");
    let (one, two) = (torrent("one.bin", 71), torrent("two.bin", 72));
    let (from_one, from_two) = (seeder(&one, 71), seeder(&two, 72));
    let peers = [from_one.addr().to_string(), from_two.addr().to_string()];
    let flags = ["--peer", &peers[0], "--peer", &peers[1]];
    let dir = stage.subdir("mnt/place");
    let start =
        |more: &[&str]| Mount::start(&stage, &[], &[&flags[..], more].concat(), &dir, net::fresh_addr());
    let place = text(&dir);

    let mount = start(&[]);
    assert_eq!(entries(&mount), Vec::<String>::new());
    let path = stage.write_torrent(&one);
    // Relative to where the command runs, which is not where the mount was made.
    let relative = text(path.strip_prefix(stage.path()).expect("below the stage"));
    let _said = stage.run(&["add", &place, &relative]).expect_success("wtfs add");
    let magnet = format!("magnet:?xt=urn:btih:{}&dn=two", two.hash_hex());
    let _said = stage.run(&["add", &place, &magnet]).expect_success("wtfs add");
    Ramp::new(71).check_file(&mount.join("one.bin"), BYTES).expect("every byte is right");
    let _shown = mount.wait_for_entry("two.bin");
    Ramp::new(72).check_file(&mount.join("two.bin"), BYTES).expect("every byte is right");

    let twice = stage.run(&["add", &place, &text(&path)]);
    assert_eq!(twice.code(), Some(BAD_SOURCE), "{twice:?}");
    let nowhere = stage.run(&["add", &text(&stage.subdir("elsewhere")), &text(&path)]);
    assert_eq!(nowhere.code(), Some(BAD_MOUNT), "{nowhere:?}");

    // Where it was added from may be gone by the next start.
    std::fs::remove_file(&path).expect("our own file");
    mount.unmount();
    let mount = start(&[]);
    eventually("both are back", PATIENCE, || {
        let mut found = entries(&mount);
        found.sort();
        (found == ["one.bin", "two.bin"]).then_some(())
    });
    let _said = stage.run(&["remove", &place, "one.bin"]).expect_success("wtfs remove");
    assert_eq!(entries(&mount), ["two.bin"]);
    let gone = stage.run(&["remove", &place, "one.bin"]);
    assert_eq!(gone.code(), Some(BAD_SOURCE), "{gone:?}");
    mount.unmount();

    let mount = start(&[]);
    let _shown = mount.wait_for_entry("two.bin");
    assert_eq!(entries(&mount), ["two.bin"], "what was removed stays away");
    let dropped = ["remove", "--drop-data", &place, &two.hash_hex()];
    let _said = stage.run(&dropped).expect_success("wtfs remove --drop-data");
    let data = stage.join("cache/wtfs/data").join(two.hash_hex());
    assert!(!data.exists(), "{} is still there", data.display());
    mount.unmount();
}

#[test]
fn a_fresh_mount_forgets_what_was_added() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("fresh");
    let path = text(&stage.write_torrent(&torrent("one.bin", 73)));
    let dir = stage.subdir("mnt/place");
    let start = |flags: &[&str]| Mount::start(&stage, &[], flags, &dir, net::fresh_addr());
    let mount = start(&[]);
    let _said = stage.run(&["add", &text(&dir), &path]).expect_success("wtfs add");
    mount.unmount();
    for flags in [&["--fresh"][..], &[]] {
        let mount = start(flags);
        assert_eq!(entries(&mount), Vec::<String>::new(), "{flags:?}");
        mount.unmount();
    }
}

#[test]
fn what_was_prefetched_is_read_without_a_network_and_the_rest_fails_at_once() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("prefetch");
    let torrent = torrent("film.bin", 74);
    let seeder = seeder(&torrent, 74);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--peer", &seeder.addr().to_string()]);
    let file = text(&mount.join("film.bin"));
    let said = stage.run(&["prefetch", "--json", &format!("{file}:0-1M")]).expect_success("wtfs prefetch");
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((&said["files"], &said["bytes"]), (&1.into(), &(1 << 20).into()));
    let _said = stage.run(&["pin", &file]).expect_success("wtfs pin");
    // The status is published a few times a second.
    let asked_for = (1 << 20) / u64::from(PIECE);
    eventually("the range is there", PATIENCE, || {
        (mount.torrent_status()["pieces_present"].as_u64() >= Some(asked_for)).then_some(())
    });
    mount.unmount();

    let mut mount = stage.mount(&[&source], &["--offline", "--read-timeout", "600s"]);
    let said = mount.process().text();
    assert!(
        said.lines().any(|line| line.starts_with("mounted ") && line.ends_with("without a network")),
        "{said}"
    );
    eventually("just the range that was asked for is there", PATIENCE, || {
        (mount.torrent_status()["pieces_present"] == asked_for).then_some(())
    });
    let mut there = vec![0; 1 << 20];
    let opened = File::open(mount.join("film.bin")).expect("it is shown");
    opened.read_exact_at(&mut there, 0).expect("it is local");
    assert!(there == Ramp::new(74).bytes(0, there.len()), "the bytes are right");
    let start = Instant::now();
    let missing = opened.read_at(&mut there[..4096], BYTES - 4096).expect_err("it is not local");
    assert_eq!(missing.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(start.elapsed() < Duration::from_secs(60), "it waited: {:?}", start.elapsed());
    let _said = stage.run(&["unpin", &text(&mount.join("film.bin"))]).expect_success("wtfs unpin");
    let more = stage.run(&["prefetch", &text(&mount.join("film.bin"))]);
    assert!(!more.success(), "{more:?}");
    drop(opened);

    // What the mount says of itself is told in it as well.
    let mut told = String::new();
    let read = File::open(mount.join(".wtfs/log")).and_then(|mut log| log.read_to_string(&mut told));
    assert!(read.is_ok() && told.contains("offline"), "{told}");
    mount.unmount();
}

#[test]
fn an_entry_goes_by_rmdir_or_rm_and_its_data_too_where_the_mount_was_told_so() {
    if missing(&[Need::Fuse]) {
        return;
    }
    for drops in [false, true] {
        let stage = Stage::new("rmdir");
        let model = TorrentFile::directory(b"model", &[(vec![b"sub", b"a.bin"], vec![7; 100_000])], PIECE);
        let film = torrent("film.bin", 75);
        let contents = [Content::Bytes(Arc::new(vec![7; 100_000])), Content::Ramp(Ramp::new(75))];
        let seeders: Vec<ScriptedPeer> = [&model, &film]
            .into_iter()
            .zip(contents)
            .map(|(torrent, content)| ScriptedPeer::seeder(torrent, content, Start::Open))
            .collect();
        let sources = [&model, &film].map(|torrent| text(&stage.write_torrent(torrent)));
        let addrs: Vec<String> = seeders.iter().map(|seeder| seeder.addr().to_string()).collect();
        let mut flags = vec!["--peer", &addrs[0], "--peer", &addrs[1]];
        flags.extend(drops.then_some("--rm-drops-data"));
        let mount = stage.mount(&[&sources[0], &sources[1]], &flags);
        assert!(std::fs::read(mount.join("model/sub/a.bin")).expect("read") == [7; 100_000]);
        Ramp::new(75).check_file(&mount.join("film.bin"), BYTES).expect("every byte is right");
        let data = [&model, &film].map(|torrent| stage.join("cache/wtfs/data").join(torrent.hash_hex()));
        assert!(data.iter().all(|data| data.exists()), "{data:?}");

        // What is inside of an entry is as fixed as its bytes, so that `rm -r` takes nothing away.
        let inside = std::fs::remove_dir_all(mount.join("model")).expect_err("refused");
        assert_eq!(inside.raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
        std::fs::remove_dir(mount.join("model")).expect("rmdir, though it is not empty");
        std::fs::remove_file(mount.join("film.bin")).expect("rm");
        // What takes long goes on behind the answer.
        eventually("both are gone", PATIENCE, || entries(&mount).is_empty().then_some(()));
        eventually("the data is as the mount was told", PATIENCE, || {
            data.iter().all(|data| data.exists() != drops).then_some(())
        });
        mount.unmount();
    }
}

#[test]
fn status_tells_how_reads_went_and_what_is_kept() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("seen");
    let torrent = torrent("seen.bin", 76);
    let seeder = seeder(&torrent, 76);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--peer", &seeder.addr().to_string(), "--pin", "seen.bin"]);
    Ramp::new(76).check_file(&mount.join("seen.bin"), BYTES).expect("every byte is right");
    let status = eventually("the pin and the bytes are told", PATIENCE, || {
        let status = stage.try_status()?;
        let torrent = torrents(&status).find(|torrent| torrent["name"] == "seen.bin")?.clone();
        let is_pinned = torrent["pins"][0]["local_bytes"] == BYTES && torrent["pinned_files"] == 1;
        let tcp = torrent["sources"].as_array()?.iter().find(|source| source["kind"] == "tcp")?.clone();
        (is_pinned && tcp["downloaded_bytes"].as_u64() >= Some(BYTES)).then_some(status)
    });
    let reads = &status[0]["reads"];
    let fetched = reads["sources"]["count"].as_u64().expect("a number");
    let buckets = reads["sources"]["buckets"].as_array().expect("buckets");
    assert!(fetched > 0 && reads["sources"]["p99_us"].as_u64() > Some(0), "{reads}");
    assert_eq!(buckets.iter().filter_map(|bucket| bucket["count"].as_u64()).sum::<u64>(), fetched);
    let told = std::fs::read_to_string(mount.join(".wtfs/status.json")).expect("it can be read");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["torrents"][0]["pinned_bytes"], BYTES);
    // The disk is looked at every few seconds.
    eventually("all of it is told to people too", PATIENCE, || {
        let text = stage.run(&["status"]).expect_success("wtfs status");
        let parts = ["fetched (half within", "pinned: 1 file, 4 MiB", "    tcp: ", "free on its disk"];
        parts.iter().all(|part| text.contains(part)).then_some(())
    });
    mount.unmount();
}
