//! Trackers that are dead, broken or lying do not keep a torrent from the one that works, and `wtfs status` says of
//! each how it is.

use serde_json::Value;
use wtfs_testkit::{
    http_tracker::{Answer, HttpTracker},
    net,
    peer::{Content, ScriptedPeer, Start},
    ramp::Ramp,
    torrent_file::TorrentFile,
    udp_tracker::UdpTracker,
    wait::eventually,
};

use crate::support::{
    clients::OpenTracker,
    libtorrent::{self, Libtorrent},
    mount::Mount,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 2_000_003;

fn torrent(trackers: &[String]) -> TorrentFile {
    TorrentFile::ramp("tracked.bin", Ramp::new(51), BYTES, 64 << 10, trackers)
}

fn seeder() -> ScriptedPeer {
    ScriptedPeer::seeder(&torrent(&[]), Content::Ramp(Ramp::new(51)), Start::Open)
}

fn tracker_state(status: &Value, url: &str) -> Value {
    let mut all = status["trackers"].as_array().into_iter().flatten();
    all.find(|tracker| tracker["url"] == url).cloned().unwrap_or(Value::Null)
}

#[track_caller]
fn wait_for_state(mount: &Mount<'_>, url: &str, state: &str) -> Value {
    eventually(&format!("{url} is {state}"), PATIENCE, || {
        Some(tracker_state(&mount.torrent_status(), url)).filter(|tracker| tracker["state"] == state)
    })
}

#[test]
fn beside_broken_trackers_the_working_one_is_used_and_the_status_tells_them_apart() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("trackers");
    let seeder = seeder();
    let broken = [
        Answer::Status(500),
        Answer::Status(404),
        Answer::Garbage,
        Answer::RedirectLoop,
        Answer::Close,
        Answer::Failure("no such torrent here".to_owned()),
    ]
    .map(HttpTracker::start);
    let mut urls: Vec<String> = broken.iter().map(HttpTracker::announce_url).collect();
    urls.push(format!("http://{}/announce", net::refused_addr()));
    urls.push("http://no-such-host.invalid/announce".to_owned());
    urls.push("udp://no-such-host.invalid:6969/announce".to_owned());
    let good = HttpTracker::start(Answer::Peers(vec![seeder.addr()]));
    let source = text(&stage.write_torrent(&torrent(&[urls.clone(), vec![good.announce_url()]].concat())));
    let mount = stage.mount(&[&source], &[]);

    // Before it is asked again: others may take as long as a resolver does.
    let _looping = wait_for_state(&mount, &broken[3].announce_url(), "error");
    let redirects = broken[3].requests().len();
    assert!(redirects < 50, "{redirects} redirects were followed");
    Ramp::new(51).check_file(&mount.join("tracked.bin"), BYTES).expect("every byte is right");
    let _working = wait_for_state(&mount, &good.announce_url(), "working");
    for url in &urls {
        let tracker = wait_for_state(&mount, url, "error");
        assert!(tracker["message"].as_str().is_some_and(|text| !text.is_empty()), "{tracker}");
    }
    let refusal = tracker_state(&mount.torrent_status(), &broken[5].announce_url());
    assert!(
        refusal["message"].as_str().is_some_and(|text| text.contains("no such torrent here")),
        "{refusal}"
    );
    // The log names each once and not at each turn, without its path, which may hold a secret.
    let again = eventually("a tracker failed again", PATIENCE, || {
        let tracker = tracker_state(&mount.torrent_status(), &broken[0].announce_url());
        tracker["failures"].as_u64().filter(|failures| *failures > 1)
    });
    let log = std::fs::read_to_string(mount.join(".wtfs/log")).expect("readable");
    let place = broken[0].announce_url().replace("/announce", "");
    let told = log.lines().filter(|line| line.contains("tracker failed") && line.contains(&place)).count();
    assert_eq!(told, 1, "it failed {again} times: {log}");
    assert!(!log.contains("/announce"), "{log}");
}

#[test]
fn a_tracker_that_never_answers_and_one_that_never_ends_hold_up_nothing() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("trackers-slow");
    let seeder = seeder();
    let slow = [Answer::Silence, Answer::EndlessBody].map(HttpTracker::start);
    let good = HttpTracker::start(Answer::Peers(vec![seeder.addr()]));
    let mut urls: Vec<String> = slow.iter().map(HttpTracker::announce_url).collect();
    urls.push(good.announce_url());
    let source = text(&stage.write_torrent(&torrent(&urls)));
    let mut mount = stage.mount(&[&source], &["--read-timeout", "100s"]);
    Ramp::new(51).check_file(&mount.join("tracked.bin"), BYTES).expect("every byte is right");
    let _endless = wait_for_state(&mount, &urls[1], "error");
    let peak = mount.process().peak_memory_bytes().expect("the daemon runs");
    assert!(peak < 200 << 20, "{} MiB were resident", peak >> 20);
}

#[test]
fn an_http_tracker_is_told_of_start_and_stop() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("tracker-events");
    let seeder = seeder();
    let good = HttpTracker::start(Answer::Peers(vec![seeder.addr()]));
    let torrent = torrent(&[good.announce_url()]);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &[]);
    Ramp::new(51).check_file(&mount.join("tracked.bin"), BYTES).expect("every byte is right");
    let port = format!("port={}", mount.listen().port());
    mount.unmount();

    // What was sent before the end may be read after it.
    let requests = eventually("it was told of the end", PATIENCE, || {
        let requests = good.requests();
        requests.iter().any(|request| request.contains("event=stopped")).then_some(requests)
    });
    let first = requests.first().expect("it was announced to");
    assert!(first.contains("event=started"), "{requests:?}");
    assert!(first.contains("left=2000003"), "{requests:?}");
    assert!(requests.iter().all(|request| request.contains(&port)), "{requests:?}");
    let hash: String = torrent.info_hash.iter().map(|byte| format!("%{byte:02X}")).collect();
    let asked = unescaped(first);
    assert!(asked.contains(&unescaped(&hash)), "{first}");
}

/// Bytes of a percent-encoded text, one char each, so that both spellings of a byte compare equal.
fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) if bytes[at] == b'%' => {
                out.push(char::from(byte));
                at += 3;
            }
            _ => {
                out.push(char::from(bytes[at]));
                at += 1;
            }
        }
    }
    out
}

#[test]
fn a_udp_tracker_gives_the_peers() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("tracker-udp");
    let seeder = seeder();
    let good = UdpTracker::start(&[seeder.addr()]);
    let torrent = torrent(&[good.announce_url()]);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &[]);
    Ramp::new(51).check_file(&mount.join("tracked.bin"), BYTES).expect("every byte is right");
    assert!(good.announces().contains(&torrent.info_hash));
    let _working = wait_for_state(&mount, &good.announce_url(), "working");
}

#[test]
fn a_tracker_given_on_the_command_line_is_used() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("tracker-flag");
    let seeder = seeder();
    let good = HttpTracker::start(Answer::Peers(vec![seeder.addr()]));
    let source = text(&stage.write_torrent(&torrent(&[])));
    let mount = stage.mount(&[&source], &["--tracker", &good.announce_url()]);
    Ramp::new(51).check_file(&mount.join("tracked.bin"), BYTES).expect("every byte is right");
}

#[test]
fn clients_find_each_other_through_opentracker_over_http_and_udp() {
    if missing(&[Need::Fuse, Need::Libtorrent, Need::Program("opentracker")]) {
        return;
    }
    let stage = Stage::new("opentracker");
    let data = stage.subdir("seeded");
    Ramp::new(51).write_file(&data.join("tracked.bin"), BYTES).expect("the scratch directory can be written");
    let plain = libtorrent::create(&stage, &data.join("tracked.bin"), 64 << 10, &[]);
    let tracker = OpenTracker::start(&stage, &[&plain.info_hash]);
    for url in [tracker.http_url(), tracker.udp_url()] {
        let torrent =
            libtorrent::create(&stage, &data.join("tracked.bin"), 64 << 10, std::slice::from_ref(&url));
        let _seeder = Libtorrent::seeder(&stage, &torrent.path, &data);
        let cache = text(&stage.subdir(format!("cache-{}", url.len())));
        let mount = stage.mount(&[&torrent.magnet(&[], &[url])], &["--cache-dir", &cache]);
        let found = mount.wait_for_entry("tracked.bin");
        Ramp::new(51).check_file(&found, BYTES).expect("every byte is right");
    }
}
