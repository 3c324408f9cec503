//! Other people's clients find each other through the hub's tracker, whichever protocol each of them speaks.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;
use wtfs_testkit::{process, ramp::Ramp, wait::eventually};

use crate::support::{
    clients,
    hub::Hub,
    libtorrent::{self, Libtorrent, MadeTorrent},
    need::{self, Need, missing},
    stage::{PATIENCE, Stage},
};

const BYTES: u64 = 2_000_003;

/// A hub that shares nothing, and a file that others have.
struct World {
    hub: Hub,
    data: PathBuf,
    // Last: its directory goes when nobody writes there any more.
    stage: Stage,
}

impl World {
    fn new(name: &str) -> Self {
        Self::with(name, &[])
    }

    /// With settings of the hub.
    fn with(name: &str, variables: &[(&'static str, &str)]) -> Self {
        let mut stage = Stage::new(name);
        for (variable, value) in variables {
            stage.set_variable(variable, value);
        }
        let root = stage.subdir("root");
        let hub = Hub::start(&stage, &root, &[]);
        let data = stage.subdir("seeded");
        let file = data.join("tracked.bin");
        Ramp::new(53).write_file(&file, BYTES).expect("the scratch directory can be written");
        Self { stage, hub, data }
    }

    fn http(&self) -> String {
        self.hub.url("/announce")
    }

    fn udp(&self) -> String {
        format!("udp://{}/announce", self.hub.addr)
    }

    fn torrent(&self, trackers: &[String]) -> MadeTorrent {
        libtorrent::create(&self.stage, &self.data.join("tracked.bin"), 64 << 10, trackers)
    }

    #[track_caller]
    fn check(&self, folder: &str) {
        let file = self.stage.join(folder).join("tracked.bin");
        Ramp::new(53).check_file(&file, BYTES).expect("every byte is right");
    }
}

#[test]
fn libtorrent_finds_a_seeder_of_one_protocol_by_another() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let world = World::new("hub-libtorrent");
    for (seeds, leeches) in [(world.http(), world.udp()), (world.udp(), world.http())] {
        let torrent = world.torrent(&[seeds]);
        let _seeder = Libtorrent::seeder(&world.stage, &torrent.path, &world.data);
        let torrent = world.torrent(std::slice::from_ref(&leeches));
        let folder = if leeches.starts_with("udp") { "over-udp" } else { "over-http" };
        let save = world.stage.subdir(folder);
        let mut leecher = Libtorrent::leecher(&world.stage, &torrent.path, &save, &[]);
        leecher.wait_complete(PATIENCE);
        world.check(folder);
    }
}

#[test]
fn aria2_and_libtorrent_find_transmission() {
    let needs = [Need::Libtorrent, Need::Program("transmission-cli"), Need::Program("aria2c")];
    if missing(&needs) {
        return;
    }
    let world = World::new("hub-transmission");
    let torrent = world.torrent(&[world.http()]);
    // Transmission does not connect to loopback addresses, but is found there.
    let (_seeder, _) = clients::transmission(&world.stage, &torrent.path, &world.data);
    eventually("Transmission is known", PATIENCE, || (seeders(&world.hub, &torrent) == 1).then_some(()));
    let save = world.stage.subdir("by-libtorrent");
    let mut leecher = Libtorrent::leecher(&world.stage, &torrent.path, &save, &[]);
    leecher.wait_complete(PATIENCE);
    world.check("by-libtorrent");
    // With its DHT off aria2 has no UDP socket, and asks no tracker over UDP.
    let save = world.stage.subdir("by-aria2");
    let mut aria2 = clients::aria2(&world.stage, &torrent.path, &save);
    let status = aria2.wait(PATIENCE);
    assert!(status.success(), "{status}");
    world.check("by-aria2");
}

#[test]
fn a_mount_finds_a_seeder_through_the_hub_and_is_found() {
    if missing(&[Need::Fuse, Need::Libtorrent]) {
        return;
    }
    // The hub sees who has no address bound as 127.0.0.1, so it is the mount that finds the leecher, when it asks again.
    let world = World::with("hub-mounts", &[("WTFS_HUB_ANNOUNCE_INTERVAL", "10s")]);
    let torrent = world.torrent(&[world.udp()]);
    let seeder = Libtorrent::seeder(&world.stage, &torrent.path, &world.data);
    let mount = world.stage.mount(&[&torrent.magnet(&[], &[world.http()])], &[]);
    let found = mount.wait_for_entry("tracked.bin");
    Ramp::new(53).check_file(&found, BYTES).expect("every byte is right");
    drop(seeder);
    let save = world.stage.subdir("from-the-mount");
    let torrent = world.torrent(&[world.udp()]);
    let mut leecher = Libtorrent::leecher(&world.stage, &torrent.path, &save, &[]);
    leecher.wait_complete(PATIENCE);
    world.check("from-the-mount");
}

/// Seeders of a torrent, as the hub counts them.
fn seeders(hub: &Hub, torrent: &MadeTorrent) -> usize {
    let hash: String = (0..40).step_by(2).map(|at| format!("%{}", &torrent.info_hash[at..at + 2])).collect();
    let body = hub.get(&format!("/scrape?info_hash={hash}")).body;
    let text = String::from_utf8_lossy(&body).into_owned();
    let count = text.split_once("8:completei").and_then(|(_, rest)| rest.split('e').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no numbers in {text}"))
}

#[test]
fn after_the_hub_was_killed_clients_come_back_and_are_found_again() {
    if missing(&[Need::Libtorrent]) {
        return;
    }
    let mut world = World::with("hub-killed", &[("WTFS_HUB_ANNOUNCE_INTERVAL", "10s")]);
    let torrent = world.torrent(&[world.http()]);
    let (_seed, _) = world.stage.seed(&torrent.path, &world.data.join("tracked.bin"), &[]);
    eventually("the seeder is known", PATIENCE, || (seeders(&world.hub, &torrent) == 1).then_some(()));
    world.hub.process.signal(rustix::process::Signal::KILL);
    world.hub.process.wait(Duration::from_secs(60));
    let (root, addr) = (world.stage.join("root"), world.hub.addr);
    world.hub = Hub::start_at(&world.stage, &root, addr, &[]);
    // It asks less and less often while nobody answers.
    eventually("it has come back", Duration::from_secs(400), || {
        (seeders(&world.hub, &torrent) == 1).then_some(())
    });
    let save = world.stage.subdir("after");
    let mut leecher = Libtorrent::leecher(&world.stage, &torrent.path, &save, &[]);
    leecher.wait_complete(PATIENCE);
    world.check("after");
}

#[test]
fn the_clients_of_web_pages_meet_over_web_sockets() {
    if missing(&[Need::Program("node"), Need::NpmTracker]) {
        return;
    }
    let world = World::new("hub-websockets");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tracker_client.mjs");
    let hashes = ["e9ff00220d0a5c7f80a0000102030405060708ff", "00ff00220d0a5c7f80a0000102030405060708fe"];
    for (path, hash) in ["/announce", "/"].into_iter().zip(hashes) {
        let url = format!("ws://{}{path}", world.hub.addr);
        let mut command = std::process::Command::new("node");
        command.arg(script).arg(need::node_modules()).args([&url, hash]);
        let done = process::run(command, PATIENCE);
        let said: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{done:?}"));
        assert_eq!(said["warnings"], serde_json::json!([]), "{said}");
        assert_eq!(said["update"], serde_json::json!({"complete": 1, "incomplete": 1}), "{said}");
        assert_eq!(said["matches"], true, "the answer is to the offer: {said}");
        assert!(said["asked"].as_str().is_some_and(|id| id.starts_with("2d4c454543482dfefe")), "{said}");
        assert!(said["answered"].as_str().is_some_and(|id| id.starts_with("2d534545442dfefe")), "{said}");
        let counts = serde_json::json!({"complete": 1, "incomplete": 1, "downloaded": 0});
        assert_eq!((&said["scrape"], &said["infoHash"]), (&counts, &Value::from(hash)), "{said}");
        assert_eq!(said["completed"], serde_json::json!({"complete": 2, "incomplete": 0}), "{said}");
    }
}
