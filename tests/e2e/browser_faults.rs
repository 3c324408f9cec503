//! Trackers that go and come back, tabs that are killed, peers that never answer, answer nonsense, stop in the middle of a
//! message or flood: reads go on, what misbehaves is dropped, and nothing of it stays behind.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use wtfs_testkit::{ramp::Ramp, torrent_file::TorrentFile, wait::eventually};

use crate::support::{
    browser::{BROWSER, Browser, PATIENCE, READ_TIMEOUT},
    hub::Hub,
    mount::Mount,
    need::missing,
    stage::{Stage, text},
};

const BYTES: u64 = 4_000_003;
const PIECE: u32 = 64 << 10;
/// As much as a slow seed gives while peers that misbehave are waited for, however long that takes.
const LONG_BYTES: u64 = 600 * PIECE as u64 - 99;
/// A connection on which nothing comes ends after two minutes and a half: what is noticed within this is noticed otherwise.
const NOTICED_WITHIN: Duration = Duration::from_secs(120);
/// What a daemon may have grown by when all is over: allocators give little back.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// Tasks it may have more then: an announce that is under way, the connection to a seed that was not there yet.
const TASKS_MORE_MAX: u64 = 16;

/// Threads it may have more then: some end only when nothing came to do for a while.
const THREADS_MORE_MAX: usize = 24;

fn content() -> Ramp {
    Ramp::new(73)
}

/// A hub that shares nothing but its tracker, a torrent, and a browser.
struct World {
    browser: Browser,
    hub: Hub,
    torrent: std::path::PathBuf,
    data: std::path::PathBuf,
    hash: String,
    pieces: u64,
    // Last: its directory goes when nobody writes there any more.
    stage: Stage,
}

impl World {
    fn new(name: &str, bytes: u64) -> Self {
        let stage = Stage::new(name);
        let hub = Hub::start(&stage, &stage.subdir("nothing"), &[]);
        let data = stage.join("faulty.bin");
        content().write_file(&data, bytes).expect("the scratch directory can be written");
        let tracker = format!("ws://{}/announce", hub.addr);
        let made = TorrentFile::ramp("faulty.bin", content(), bytes, PIECE, &[tracker]);
        let torrent = stage.write_torrent(&made);
        let browser = Browser::start(&stage);
        let pieces = bytes.div_ceil(PIECE.into());
        Self { stage, hub, torrent, data, hash: made.hash_hex(), pieces, browser }
    }

    fn tracker(&self) -> String {
        format!("ws://{}/announce", self.hub.addr)
    }
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    tasks: u64,
    sockets: usize,
    threads: usize,
    memory_bytes: u64,
}

fn held(mount: &Mount<'_>) -> Held {
    let mine = mount.process_status();
    let (pid, tasks) = (&mine["pid"], mine["tasks"].as_u64().expect("it counts its tasks"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let number = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel tells it");
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
    };
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let sockets = fds
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count();
    let threads = usize::try_from(number("Threads:")).expect("fits");
    Held { tasks, sockets, threads, memory_bytes: number("VmRSS:") * 1024 }
}

fn webrtc_peers(mount: &Mount<'_>) -> usize {
    let status = mount.torrent_status();
    let peers = status["peers"].as_array().into_iter().flatten();
    peers.filter(|peer| peer["source"] == "webrtc").count()
}

#[test]
fn a_read_that_waits_for_the_tracker_goes_on_when_it_comes_back() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("faults-tracker", BYTES);
    let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker());
    let World { stage, hub, browser, .. } = &mut world;
    let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
    let path = mount.wait_for_entry("faulty.bin");
    eventually("the tracker is reached", PATIENCE, || {
        (mount.torrent_status()["trackers"][0]["state"] == "working").then_some(())
    });
    let (addr, root) = (hub.addr, stage.join("nothing"));
    hub.process.kill();
    let reader = thread::spawn(move || content().check_file(&path, BYTES));
    eventually("the mount notices", PATIENCE, || {
        (mount.torrent_status()["trackers"][0]["state"] != "working").then_some(())
    });
    *hub = Hub::start_at(stage, &root, addr, &[]);
    // Somebody who has it comes by the tracker that is back: only a new announce can lead to the mount.
    browser.seed("seed", &torrent, &data, &[&url]);
    reader.join().expect("no panic").unwrap_or_else(|error| panic!("{error}"));
    mount.unmount();
}

#[test]
fn a_tab_that_is_killed_is_noticed_and_its_place_is_taken() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("faults-killed", BYTES);
    let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker());
    let World { stage, browser, .. } = &mut world;
    let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
    let path = mount.wait_for_entry("faulty.bin");
    for round in 0..3 {
        let tab = format!("seed {round}");
        browser.seed(&tab, &torrent, &data, &[&url]);
        eventually("the browser is connected", PATIENCE, || (webrtc_peers(&mount) == 1).then_some(()));
        if round < 2 {
            browser.ask("crash", json!({ "tab": tab }));
            eventually("it is noticed", NOTICED_WITHIN, || (webrtc_peers(&mount) == 0).then_some(()));
        }
    }
    content().check_file(&path, BYTES).unwrap_or_else(|error| panic!("{error}"));
    browser.ask("close", json!({ "tab": "seed 2" }));
    eventually("it has gone", PATIENCE, || (webrtc_peers(&mount) == 0).then_some(()));
    // Offers that nobody answered have theirs until they lapse.
    eventually("hardly a socket is left", PATIENCE, || (held(&mount).sockets < 40).then_some(()));
    mount.unmount();
}

/// Reads the piece at this place of an order that no read-ahead foresees.
fn check_piece(file: &fs::File, at: u64) {
    // 600 and 167 have no common factor.
    let start = at * 167 % LONG_BYTES.div_ceil(PIECE.into()) * u64::from(PIECE);
    let len = usize::try_from((LONG_BYTES - start).min(PIECE.into())).expect("fits");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start).unwrap_or_else(|error| panic!("at {start}: {error}"));
    content().check(start, &bytes).unwrap_or_else(|wrong| panic!("at {start}: {wrong:?}"));
}

/// Opens a tab with four peers that misbehave, waits until the tracker knows them.
#[track_caller]
fn besiege(browser: &mut Browser, kind: &str, (tracker, hash, pieces): (&str, &str, u64)) {
    let options =
        json!({ "tab": kind, "kind": kind, "count": 4, "tracker": tracker, "hash": hash, "pieces": pieces });
    browser.ask("hostile", options);
}

/// Waits until a tab with peers that misbehave says this of itself: that a channel was `open`, that all were `dropped`, or
/// that what was to be said is `poured`.
#[track_caller]
fn wait_told(browser: &mut Browser, kind: &str, until: &str) -> Value {
    browser.ask("told", json!({ "tab": kind, "until": until }))
}

/// Waits until a process holds hardly more than it did.
#[track_caller]
fn wait_released(mount: &Mount<'_>, before: Held) {
    let mut after = held(mount);
    let released = wtfs_testkit::wait::within(PATIENCE, || {
        after = held(mount);
        let is_released = after.sockets <= before.sockets + 4
            && after.tasks <= before.tasks + TASKS_MORE_MAX
            && after.threads <= before.threads + THREADS_MORE_MAX
            && after.memory_bytes <= before.memory_bytes + GROWTH_BYTES_MAX;
        is_released.then_some(())
    });
    assert!(released.is_some(), "something stays behind: {before:?}, {after:?}");
}

#[test]
fn peers_that_never_answer_or_stop_in_the_middle_hold_up_nobody_and_leave_nothing() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("faults-silent", BYTES);
    let (torrent, data, url, hash, pieces) =
        (world.torrent.clone(), world.data.clone(), world.tracker(), world.hash.clone(), world.pieces);
    let World { stage, browser, .. } = &mut world;
    let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
    let path = mount.wait_for_entry("faulty.bin");
    eventually("the tracker is reached", PATIENCE, || {
        (mount.torrent_status()["trackers"][0]["state"] == "working").then_some(())
    });
    let before = held(&mount);
    let kinds = ["silent", "garbage", "mute", "half", "cut"];
    for kind in kinds {
        besiege(browser, kind, (&url, &hash, pieces));
    }
    for kind in ["mute", "half", "cut"] {
        wait_told(browser, kind, "open");
    }
    // One that is honest comes last: what it has is read past all the others.
    browser.seed("honest", &torrent, &data, &[&url]);
    content().check_file(&path, BYTES).unwrap_or_else(|error| panic!("{error}"));
    // Who does not shake hands is hung up on while its tab is still there.
    for kind in ["mute", "half"] {
        wait_told(browser, kind, "dropped");
    }
    for kind in kinds.into_iter().chain(["honest"]) {
        browser.ask("close", json!({ "tab": kind }));
    }
    eventually("none is left", PATIENCE, || (webrtc_peers(&mount) == 0).then_some(()));
    // Sockets of offers that nobody answered go when the offers lapse.
    wait_released(&mount, before);
    mount.unmount();
}

#[test]
fn peers_that_flood_or_lie_are_dropped_while_a_read_goes_on_and_leave_nothing() {
    if missing(BROWSER) {
        return;
    }
    let mut world = World::new("faults-flood", LONG_BYTES);
    let (torrent, data, url, hash, pieces) =
        (world.torrent.clone(), world.data.clone(), world.tracker(), world.hash.clone(), world.pieces);
    let World { stage, browser, .. } = &mut world;
    // Who is honest is slow, so that something is left to be asked of the others.
    let (_seed, seed) = stage.seed(&torrent, &data, &["--no-webrtc", "--upload-limit", "100K"]);
    let peer = seed.to_string();
    // What floods is read and thrown away, and too much of it or a lie about lengths or blocks ends it.
    for (kind, until) in [("flood", "poured"), ("endless", "dropped"), ("liar", "dropped")] {
        // Each in a world of its own: everything in this browser has the same addresses, and where many were banned
        // nobody is listened to for a while.
        let cache = text(&stage.join(format!("cache of {kind}")));
        let flags = ["--read-timeout", READ_TIMEOUT, "--peer", &peer, "--cache-dir", &cache];
        let mount = stage.mount(&[&text(&torrent)], &flags);
        let path = mount.wait_for_entry("faulty.bin");
        eventually("the tracker is reached", PATIENCE, || {
            (mount.torrent_status()["trackers"][0]["state"] == "working").then_some(())
        });
        let before = held(&mount);
        let file = fs::File::open(&path).expect("it is there");
        besiege(browser, kind, (&url, &hash, pieces));
        wait_told(browser, kind, "open");
        if kind == "liar" {
            eventually("the mount has somebody to be lied to by", PATIENCE, || {
                (webrtc_peers(&mount) > 0).then_some(())
            });
        }
        // Pieces that are not here yet, until it is over; and some in any case.
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                for at in 0..pieces {
                    check_piece(&file, at);
                    if at >= 6 && is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
                panic!("all is read, and it is not over yet");
            });
            let told = wait_told(browser, kind, until);
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(told["errors"], json!([]), "{kind}: {told}");
            reading.join().expect("no panic");
        });
        browser.ask("close", json!({ "tab": kind }));
        eventually("none is left", PATIENCE, || (webrtc_peers(&mount) == 0).then_some(()));
        drop(file);
        wait_released(&mount, before);
        mount.unmount();
    }
}
