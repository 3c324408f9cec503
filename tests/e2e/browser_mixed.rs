//! A mount is fed at once by a peer over TCP, a web seed and a browser; each leaves in turn in the middle, and the read
//! goes on.

use std::{fs::File, os::unix::fs::FileExt as _, thread, time::Duration};

use serde_json::json;
use wtfs_testkit::{
    origin::{Body, Fault, Origin},
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::{eventually, within},
};

use crate::support::{
    browser::{BROWSER, Browser, PATIENCE, READ_TIMEOUT},
    hub::Hub,
    mount::Mount,
    need::missing,
    stage::{Stage, text},
};

const PIECE: u32 = 256 << 10;
const PIECES: u64 = 600;
/// How many reads are under way at once: with one alone, the quickest source would answer all.
const AT_ONCE: u64 = 8;
/// Bytes a second of each source but the browser: some pieces take it longer than a loaded machine keeps a browser waiting.
const RATE: u64 = 2 << 20;
const BYTES: u64 = PIECES * PIECE as u64 - 999;

fn content() -> Ramp {
    Ramp::new(71)
}

/// Bytes that came from each kind of source so far.
fn gave(mount: &Mount<'_>) -> [u64; 3] {
    let status = mount.torrent_status();
    ["tcp", "web_seed", "webrtc"].map(|kind| {
        let sources = status["sources"].as_array().into_iter().flatten();
        sources.filter(|one| one["kind"] == kind).filter_map(|one| one["downloaded_bytes"].as_u64()).sum()
    })
}

/// Which pieces are read next: all of them once, in an order that no read-ahead foresees.
struct Reads {
    file: File,
    next: u64,
}

impl Reads {
    /// Reads some pieces at once; fewer where the file ends.
    #[track_caller]
    fn some(&mut self) {
        let end = PIECES.min(self.next + AT_ONCE);
        let file = &self.file;
        thread::scope(|scope| {
            for at in self.next..end {
                // 600 and 167 have no common factor.
                scope.spawn(move || check_piece(file, at * 167 % PIECES));
            }
        });
        self.next = end;
    }

    /// Reads until each of these kinds gave something more.
    #[track_caller]
    fn until_all_gave(&mut self, mount: &Mount<'_>, kinds: &[usize]) {
        let before = gave(mount);
        loop {
            self.some();
            // It is published a few times a second: more is read only if it says that not all gave.
            let have_all = || {
                let now = gave(mount);
                kinds.iter().all(|&kind| now[kind] > before[kind]).then_some(())
            };
            if within(Duration::from_secs(1), have_all).is_some() {
                return;
            }
            assert!(self.next < PIECES, "the file is too short for this test: {before:?}");
        }
    }
}

fn check_piece(file: &File, piece: u64) {
    let start = piece * u64::from(PIECE);
    let len = usize::try_from((BYTES - start).min(PIECE.into())).expect("fits");
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, start).unwrap_or_else(|error| panic!("piece {piece}: {error}"));
    content().check(start, &bytes).unwrap_or_else(|wrong| panic!("piece {piece}: {wrong:?}"));
}

const TCP: usize = 0;
const WEB_SEED: usize = 1;
const WEBRTC: usize = 2;

#[test]
fn a_read_goes_on_while_a_browser_a_web_seed_and_a_tcp_peer_leave_in_turn() {
    if missing(BROWSER) {
        return;
    }
    let stage = Stage::new("mixed");
    let hub = Hub::start(&stage, &stage.subdir("nothing"), &[]);
    let tracker = format!("ws://{}/announce", hub.addr);
    let data = stage.join("mixed.bin");
    content().write_file(&data, BYTES).expect("the scratch directory can be written");
    let made = TorrentFile::ramp("mixed.bin", content(), BYTES, PIECE, std::slice::from_ref(&tracker));
    let torrent = stage.write_torrent(&made);
    let web = Origin::start([("/files/mixed.bin".to_owned(), Body::Ramp(content(), 0, BYTES))]);
    // A web server or a peer over TCP that is as fast as the machine would leave nothing for a browser that has no turn.
    web.always(Some(Fault::Slow(RATE)));
    let limit = RATE.to_string();
    let (mut seed, seed_addr) = stage.seed(&torrent, &data, &["--no-webrtc", "--upload-limit", &limit]);
    let mut browser = Browser::start(&stage);
    browser.seed("one", &torrent, &data, &[&tracker]);

    let (web_url, peer) = (web.url("/files/"), seed_addr.to_string());
    let mount = stage.mount(
        &[&text(&torrent)],
        &["--peer", &peer, "--web-seed", &web_url, "--read-timeout", READ_TIMEOUT],
    );
    let file = File::open(mount.wait_for_entry("mixed.bin")).expect("it is there");
    let mut reads = Reads { file, next: 0 };
    let is_connected = |kind: &str| {
        let status = mount.torrent_status();
        status["peers"].as_array().is_some_and(|peers| peers.iter().any(|peer| peer["source"] == kind))
    };
    eventually("a browser and a TCP peer are connected", PATIENCE, || {
        (is_connected("webrtc") && is_connected("tcp")).then_some(())
    });
    reads.until_all_gave(&mount, &[TCP, WEB_SEED, WEBRTC]);

    // The tab dies without a word while blocks are asked of it.
    browser.ask("crash", json!({ "tab": "one" }));
    reads.until_all_gave(&mount, &[TCP, WEB_SEED]);
    eventually("the dead browser is noticed", PATIENCE, || (!is_connected("webrtc")).then_some(()));

    drop(web);
    reads.until_all_gave(&mount, &[TCP]);

    browser.seed("two", &torrent, &data, &[&tracker]);
    eventually("another browser is connected", PATIENCE, || is_connected("webrtc").then_some(()));
    seed.kill();
    eventually("the dead peer is noticed", PATIENCE, || (!is_connected("tcp")).then_some(()));
    reads.until_all_gave(&mount, &[WEBRTC]);
    while reads.next < PIECES {
        reads.some();
    }
    mount.unmount();
    hub.end();
}
