//! Browsers, seeds and mounts are one swarm: a mount reads what a browser has, a browser downloads what a seed or a mount
//! has, whoever of the two offered, by other people's tracker and by the hub's, near by and 20 ms away.

use std::{
    fs::File,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use wtfs_testkit::{net, process::Process, ramp::Ramp, torrent_file::TorrentFile, wait::eventually};

use crate::support::{
    browser::{BROWSER, Browser, PATIENCE, READ_TIMEOUT, sha256_of},
    hub::Hub,
    mount::Mount,
    need::{Need, missing, node_modules},
    stage::{Stage, text},
};

const BYTES: u64 = 6_000_011;
const PIECE: u32 = 64 << 10;

fn content() -> Ramp {
    Ramp::new(61)
}

/// Whose tracker peers meet at.
#[derive(Debug)]
enum Tracker {
    Npm { _process: Process, addr: SocketAddr },
    Hub(Hub),
}

impl Tracker {
    /// The WebSocket tracker of the npm package.
    fn npm(stage: &Stage) -> Self {
        let addr = net::fresh_addr();
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/browser/tracker.mjs"));
        command.arg(node_modules()).args([addr.ip().to_string(), addr.port().to_string()]);
        let mut process = Process::spawn("tracker", command, &stage.log("tracker"));
        process.wait_for_line("the tracker listens", PATIENCE, 0, |line| (line == "listening").then_some(()));
        Self::Npm { _process: process, addr }
    }

    /// A hub that shares nothing.
    fn hub(stage: &Stage) -> Self {
        Self::Hub(Hub::start(stage, &stage.subdir("nothing"), &[]))
    }

    fn url(&self) -> String {
        match self {
            Self::Npm { addr, .. } => format!("ws://{addr}"),
            Self::Hub(hub) => format!("ws://{}/announce", hub.addr),
        }
    }
}

/// A file, its torrent with one tracker, and a browser.
struct World {
    browser: Browser,
    tracker: Tracker,
    data: PathBuf,
    torrent: PathBuf,
    // Last: its directory goes when nobody writes there any more.
    stage: Stage,
}

impl World {
    fn new(name: &str, tracker: fn(&Stage) -> Tracker) -> Self {
        let stage = Stage::new(name);
        let data = stage.join("shared.bin");
        content().write_file(&data, BYTES).expect("the scratch directory can be written");
        let tracker = tracker(&stage);
        let torrent =
            stage.write_torrent(&TorrentFile::ramp("shared.bin", content(), BYTES, PIECE, &[tracker.url()]));
        let browser = Browser::start(&stage);
        Self { stage, data, torrent, tracker, browser }
    }

    fn mount(&self) -> Mount<'_> {
        self.stage.mount(&[&text(&self.torrent)], &["--read-timeout", READ_TIMEOUT])
    }
}

/// The only peer of a mount that is a browser, once there is one.
#[track_caller]
fn browser_peer(mount: &Mount<'_>) -> Value {
    eventually("a browser is connected", PATIENCE, || {
        let status = mount.torrent_status();
        status["peers"].as_array()?.iter().find(|peer| peer["source"] == "webrtc").cloned()
    })
}

fn read(mount: &Mount<'_>) {
    let path = mount.wait_for_entry("shared.bin");
    content().check_file(&path, BYTES).unwrap_or_else(|error| panic!("{error}"));
}

fn check_leech(done: &Value, data: &Path) {
    assert_eq!(done["sha256"], sha256_of(data), "{done}");
}

#[test]
fn a_mount_that_comes_second_offers_and_reads_what_a_browser_has() {
    if missing(BROWSER) || missing(&[Need::NpmTracker]) {
        return;
    }
    for tracker in [Tracker::npm, Tracker::hub] {
        let mut world = World::new("browser-seeds", tracker);
        let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker.url());
        world.browser.seed("seed", &torrent, &data, &[&url]);
        let mount = world.mount();
        // Looked at before all is read: two that have everything have no use for each other.
        let peer = browser_peer(&mount);
        read(&mount);
        assert_eq!(peer["direction"], "outgoing", "{peer}");
        assert!(peer["client"].as_str().is_some_and(|client| client.contains("WebTorrent")), "{peer}");
        eventually("the status shows that all of it was downloaded, once", PATIENCE, || {
            (mount.torrent_status()["downloaded_bytes"] == BYTES).then_some(())
        });
        mount.unmount();
    }
}

#[test]
fn a_browser_that_comes_second_offers_to_a_mount_that_waits_and_its_read_goes_on() {
    if missing(BROWSER) || missing(&[Need::NpmTracker]) {
        return;
    }
    for tracker in [Tracker::npm, Tracker::hub] {
        let mut world = World::new("browser-comes", tracker);
        let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker.url());
        let World { stage, browser, .. } = &mut world;
        let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
        let path = mount.wait_for_entry("shared.bin");
        // It is in the swarm before the browser is: the read waits, for there is nobody.
        let reader = std::thread::spawn(move || {
            let mut first = [0; 4096];
            File::open(path)?.read_exact(&mut first)?;
            content().check(0, &first).map_err(|wrong| std::io::Error::other(format!("{wrong:?}")))
        });
        eventually("the read waits", PATIENCE, || {
            (mount.torrent_status()["trackers"][0]["state"] == "working").then_some(())
        });
        browser.seed("seed", &torrent, &data, &[&url]);
        reader.join().expect("no panic").unwrap_or_else(|error| panic!("{error}"));
        let peer = browser_peer(&mount);
        assert_eq!(peer["direction"], "incoming", "{peer}");
        read(&mount);
        mount.unmount();
    }
}

#[test]
fn a_browser_downloads_from_a_seed_whichever_of_the_two_offers() {
    if missing(BROWSER) || missing(&[Need::NpmTracker]) {
        return;
    }
    for tracker in [Tracker::npm, Tracker::hub] {
        let mut world = World::new("browser-leeches", tracker);
        let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker.url());
        // The browser is there first: the seed's offers reach it.
        world.browser.leech("first", &torrent, &[&url]);
        let (_seed, _) = world.stage.seed(&torrent, &data, &[]);
        let done = world.browser.ask("done", serde_json::json!({ "tab": "first" }));
        check_leech(&done, &data);
        assert!(
            done["peers"].as_array().is_some_and(|peers| peers.iter().all(|peer| peer["client"] == "WF")),
            "{done}"
        );
        world.browser.ask("close", serde_json::json!({ "tab": "first" }));
        // The seed is there first: the browser's offers reach it.
        world.browser.leech("second", &torrent, &[&url]);
        let done = world.browser.ask("done", serde_json::json!({ "tab": "second" }));
        check_leech(&done, &data);
    }
}

#[test]
fn two_browsers_and_a_mount_give_each_other_what_one_of_them_had() {
    if missing(BROWSER) || missing(&[Need::NpmTracker]) {
        return;
    }
    for tracker in [Tracker::npm, Tracker::hub] {
        let mut world = World::new("browser-three", tracker);
        let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker.url());
        world.browser.seed("seed", &torrent, &data, &[&url]);
        let World { stage, browser, .. } = &mut world;
        let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
        browser.leech("leech", &torrent, &[&url]);
        read(&mount);
        let done = browser.ask("done", serde_json::json!({ "tab": "leech" }));
        check_leech(&done, &data);
        // The first goes: what the mount has is enough for a third.
        browser.ask("close", serde_json::json!({ "tab": "seed" }));
        browser.ask("close", serde_json::json!({ "tab": "leech" }));
        browser.leech("late", &torrent, &[&url]);
        let done = browser.ask("done", serde_json::json!({ "tab": "late" }));
        check_leech(&done, &data);
        let gave =
            done["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["client"] == "WF"));
        assert!(gave, "nobody but the mount was there: {done}");
        mount.unmount();
    }
}

#[test]
fn a_browser_that_is_far_away_is_told_of_every_two_or_three_datagrams_that_came_from_it() {
    if missing(BROWSER) || missing(&[Need::NpmTracker]) {
        return;
    }
    // It sends four datagrams each time it hears of some, and nothing else until it does: who acknowledged at once all
    // that is read from a socket at once would be given 0.25 MB/s by it. Nearness hides that.
    let mut world = World::new("browser-far", Tracker::npm);
    let (torrent, data, url) = (world.torrent.clone(), world.data.clone(), world.tracker.url());
    let World { stage, browser, .. } = &mut world;
    let options = serde_json::json!({
        "tab": "far", "role": "seed", "torrent": text(&torrent), "data": text(&data), "trackers": [url], "delayMs": 10,
    });
    let opened = browser.ask("open", options);
    assert_eq!(opened["errors"], serde_json::json!([]));
    let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", READ_TIMEOUT]);
    read(&mount);
    let carried = browser.ask("carried", serde_json::json!({ "tab": "far" }));
    let count = |what: &str| carried[what].as_u64().expect("a number");
    eprintln!("over the long way went {carried}");
    // A datagram holds less than 1,300 bytes: all of it went the long way.
    assert!(count("data") > BYTES / 1300, "{carried}");
    // Two at a time, and before them one for which a second was waited for.
    assert!(count("data") <= 3 * count("short"), "{carried}");
    mount.unmount();
}
