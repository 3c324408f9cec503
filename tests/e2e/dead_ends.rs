//! What cannot be done is said at once, in a sentence that says what to do next, and ends.

use std::fs;

use serde_json::Value;
use wtfs_testkit::{
    http_tracker::{Answer, HttpTracker},
    net,
    peer::{Content, ScriptedPeer, Start},
    ramp::Ramp,
    scratch::is_mount_point,
    torrent_file::TorrentFile,
};

use crate::support::{
    hub::Hub,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

fn torrent(name: &str, ramp: Ramp, trackers: &[&str]) -> TorrentFile {
    let trackers: Vec<String> = trackers.iter().map(|url| (*url).to_owned()).collect();
    TorrentFile::ramp(name, ramp, 24 << 20, 256 << 10, &trackers)
}

#[test]
fn a_download_that_fills_the_disk_says_so_in_one_line_and_ends() {
    let stage = Stage::new("get-full");
    let Some(disk) = stage.small_disk(12) else { return };
    let ramp = Ramp::new(201);
    let torrent = torrent("too-large.bin", ramp, &[]);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let (source, peer) = (text(&stage.write_torrent(&torrent)), seeder.addr().to_string());
    let done = stage.run(&["get", &source, "-o", &text(&disk), "--peer", &peer]);
    assert_eq!(done.code(), Some(5), "{done:?}");
    assert!(done.stderr.contains("no space left") && done.stderr.contains("make room"), "{done:?}");
    let complaints = done.stderr.lines().filter(|line| line.contains("no space left")).count();
    assert_eq!(complaints, 1, "one line says it: {done:?}");
    assert!(!done.stderr.contains("ERROR"), "{done:?}");
}

#[test]
fn a_download_without_a_network_says_what_is_missing_and_ends() {
    let stage = Stage::new("get-offline");
    let source = text(&stage.write_torrent(&torrent("away.bin", Ramp::new(202), &[])));
    let out = text(&stage.subdir("out"));
    let done = stage.run(&["get", "--offline", &source, "-o", &out]);
    assert_eq!(done.code(), Some(5), "{done:?}");
    assert!(done.stderr.contains("do without --offline"), "{done:?}");
    let done = stage.run(&["get", "--offline", "0123456789abcdef0123456789abcdef01234567", "-o", &out]);
    assert_eq!(done.code(), Some(3), "{done:?}");
    assert!(done.stderr.contains("offline"), "{done:?}");
}

#[test]
fn who_could_be_asked_by_nobody_is_told_to_name_somebody() {
    let stage = Stage::new("get-nobody");
    let out = text(&stage.subdir("out"));
    let hash = "0123456789abcdef0123456789abcdef01234567";
    let done = stage.run(&["get", hash, "-o", &out, "--stall-timeout", "1s"]);
    assert_eq!(done.code(), Some(5), "{done:?}");
    assert!(done.stderr.contains("--tracker") && done.stderr.contains("--peer"), "{done:?}");
}

#[test]
fn a_place_that_cannot_be_mounted_on_is_told_before_any_tracker_is() {
    let stage = Stage::new("mount-nowhere");
    let tracker = HttpTracker::start(Answer::Peers(Vec::new()));
    let source = text(&stage.write_torrent(&torrent("x.bin", Ramp::new(203), &[&tracker.announce_url()])));
    let file = stage.join("file");
    fs::write(&file, "").expect("written");
    let places = [(text(&stage.join("missing")), "create the directory"), (text(&file), "not a directory")];
    for (place, said) in places.into_iter().chain([("/".to_owned(), "cannot use /")]) {
        for how in [&["mount"][..], &["mount", "--daemon"]] {
            let done = stage.run(&[how, &[source.as_str(), place.as_str()]].concat());
            assert_eq!(done.code(), Some(4), "{done:?}");
            assert!(done.stderr.contains(said), "{done:?}");
        }
    }
    assert!(tracker.requests().is_empty(), "nothing was announced");
}

#[test]
fn who_waits_for_a_hub_is_told_which() {
    let mut stage = Stage::new("hub-silent");
    let silent = HttpTracker::start(Answer::Silence);
    let endpoint = silent.url("");
    stage.set_variable("HF_ENDPOINT", &endpoint);
    let out = text(&stage.subdir("out"));
    let mut get = stage.spawn("get", &["get", "hf://org/name", "-o", &out]);
    let told = format!("! wtfs: waiting for {} to answer", endpoint.trim_start_matches("http://"));
    get.wait_for_line("it says whom it waits for", PATIENCE, 0, |line| (line == told).then_some(()));
    get.signal(rustix::process::Signal::INT);
    assert_eq!(get.wait(PATIENCE).code(), Some(5), "{}", get.text());
    assert_eq!(get.lines().iter().filter(|line| **line == told).count(), 1, "{}", get.text());
}

#[test]
fn what_is_no_hub_is_not_mounted_as_one() {
    let stage = Stage::new("no-hub");
    let dir = text(&stage.subdir("mnt/none"));
    for answer in [Answer::Status(404), Answer::Garbage] {
        let other = HttpTracker::start(answer);
        let address = other.url("/hf");
        let done = stage.run(&["mount", &address, &dir]);
        assert_eq!(done.code(), Some(3), "{done:?}");
        let says = |part: &str| done.stderr.contains(part);
        assert!(says(&format!("{address} is no hub")) && says("http://HOST:PORT/hf"), "{done:?}");
        assert!(!is_mount_point(dir.as_ref()));
    }
}

#[test]
fn a_hub_that_is_away_is_mounted_with_a_warning_and_one_that_is_there_without() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("hub-away");
    let busy = HttpTracker::start(Answer::Status(503));
    let warned = |line: &str| line.contains("does not answer now").then_some(());
    for address in [busy.url("/hf"), format!("http://{}/hf", net::refused_addr())] {
        let mut mount = stage.mount(&[&address], &[]);
        mount.process().wait_for_line("the hub is told to be away", PATIENCE, 0, warned);
        mount.unmount();
    }
    let asked = busy.requests().len();
    assert!(asked > 0);
    let hub = Hub::start(&stage, &stage.subdir("root"), &["--hf-offline"]);
    for (address, flags) in [(hub.url("/hf"), &[][..]), (busy.url("/hf"), &["--offline"])] {
        let mut mount = stage.mount(&[&address], flags);
        let lines = mount.process().lines();
        assert!(!lines.iter().any(|line| warned(line).is_some()), "{lines:?}");
        mount.unmount();
    }
    assert_eq!(busy.requests().len(), asked, "without a network nobody is asked");
    hub.end();
}

#[test]
fn what_leads_to_repositories_is_no_torrent() {
    let stage = Stage::new("no-torrent");
    for (typed, hint) in [
        ("hf://org/name", "wtfs get"),
        ("https://huggingface.co/org/name", "write hf://org/name"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1/hf"),
    ] {
        let done = stage.run(&["info", typed]);
        assert_eq!(done.code(), Some(3), "{done:?}");
        assert!(done.stderr.contains(hint), "{done:?}");
    }
}

#[test]
fn the_doctor_names_what_a_machine_lacks() {
    let stage = Stage::new("doctor");
    let said = stage.run(&["doctor", "--json"]);
    let findings: Value = serde_json::from_str(&said.out()).expect("JSON");
    let named = |what: &str| {
        let findings = findings.as_array().expect("a list").iter();
        findings.filter(|finding| finding["what"] == what).collect::<Vec<_>>()
    };
    for what in ["/dev/fuse", "fusermount3", "cache", "state", "open files", "port", "Hugging Face"] {
        assert_eq!(named(what).len(), 1, "{what}: {findings}");
    }
    if !missing(&[Need::Fuse]) {
        assert_eq!(named("/dev/fuse")[0]["verdict"], "good", "{findings}");
    }
    let mut poor = Stage::new("doctor-poor");
    poor.set_variable("XDG_CACHE_HOME", "/proc/nowhere");
    let done = poor.run(&["doctor"]);
    assert_eq!(done.code(), Some(1), "{done:?}");
    assert!(done.out().contains("BAD   cache") && done.out().contains("--cache-dir"), "{done:?}");
}
