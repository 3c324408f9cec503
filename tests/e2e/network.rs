//! Connections are made over IPv4 and IPv6, in and out, and stay within the limits the user sets.

use std::{
    net::TcpListener,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use wtfs_testkit::{
    http_tracker::{Answer, HttpTracker},
    peer::{Content, Fault, PeerConfig, ScriptedPeer, Start},
    process::Process,
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    mount::Mount,
    need::{Need, missing},
    reading::assert_ramp_at_once,
    stage::{PATIENCE, Stage, text},
};

const RAMP: u64 = 81;

fn torrent(bytes: u64) -> TorrentFile {
    TorrentFile::ramp("sent.bin", Ramp::new(RAMP), bytes, 64 << 10, &[])
}

fn content() -> Content {
    Content::Ramp(Ramp::new(RAMP))
}

/// `wtfs seed` of a torrent's data at this address, and the address it says it listens at.
fn seed_at(stage: &Stage, torrent: &TorrentFile, listen: &str, flags: &[&str]) -> (Process, String) {
    let data = stage.subdir("seeded");
    Ramp::new(RAMP).write_file(&data.join("sent.bin"), torrent.total_bytes).expect("writable");
    let (source, data) = (text(&stage.write_torrent(torrent)), text(&data));
    let args = [&["seed", "--listen", listen][..], flags, &[&source, &data]].concat();
    let mut seed = stage.spawn("seed", &args);
    let (addr, _) = seed.wait_for_line("wtfs seed serves", PATIENCE, 0, |line| {
        let listening = line.strip_prefix("seeding ")?.split_once("listening on ")?.1;
        listening.split([' ', ';']).next().map(str::to_owned)
    });
    (seed, addr)
}

#[test]
fn wtfs_gets_from_wtfs_over_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6 on its loopback");
        return;
    }
    let stage = Stage::new("ipv6");
    let bytes = 3_000_001;
    let torrent = torrent(bytes);
    let (_seed, listen) = seed_at(&stage, &torrent, "[::1]:0", &[]);
    let (out, source) = (stage.subdir("out"), text(&stage.write_torrent(&torrent)));
    let args = ["get", "--listen", "[::1]:0", "--peer", &listen, "-o", &text(&out), &source];
    let _said = stage.run(&args).expect_success("wtfs get");
    Ramp::new(RAMP).check_file(&out.join("sent.bin"), bytes).expect("every byte is right");
}

/// How long `wtfs get` takes from this peer, with these flags.
#[track_caller]
fn time_get(stage: &Stage, torrent: &TorrentFile, out: &Path, flags: &[&str]) -> Duration {
    let (source, out_text) = (text(&stage.write_torrent(torrent)), text(out));
    let start = Instant::now();
    let args = [&["get", "--listen", "127.0.0.1:0", "-o", &out_text][..], flags, &[&source]].concat();
    let _said = stage.run(&args).expect_success("wtfs get");
    let took = start.elapsed();
    Ramp::new(RAMP).check_file(&out.join("sent.bin"), torrent.total_bytes).expect("every byte is right");
    took
}

#[test]
fn a_download_limit_is_kept() {
    let stage = Stage::new("limit-down");
    let torrent = torrent(8 << 20);
    let seeder = ScriptedPeer::seeder(&torrent, content(), Start::Open);
    let peer = seeder.addr().to_string();
    let took = time_get(&stage, &torrent, &stage.subdir("out"), &["--peer", &peer, "--download-limit", "2M"]);
    // Four seconds; the first second may come at once.
    assert!(took > Duration::from_millis(2900), "8 MiB at 2 MiB/s took {took:?}");
}

#[test]
fn an_upload_limit_is_kept() {
    let stage = Stage::new("limit-up");
    let torrent = torrent(8 << 20);
    let listen = wtfs_testkit::net::fresh_addr();
    let _seed = seed_at(&stage, &torrent, &listen.to_string(), &["--upload-limit", "2M"]);
    let leech = ScriptedPeer::with_fault(&torrent, content(), Fault::Leech);
    let start = Instant::now();
    leech.dial(listen).expect("wtfs seed listens");
    let blocks = (8 << 20) / (16 << 10);
    eventually("all blocks", PATIENCE, || (leech.counts().good_blocks_received == blocks).then_some(()));
    let took = start.elapsed();
    assert!(took > Duration::from_millis(2900), "8 MiB at 2 MiB/s took {took:?}");
}

#[test]
fn many_incoming_connections_are_limited_and_do_not_stop_a_reader() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("limit-peers");
    let torrent = torrent(2 << 20);
    let seeder = ScriptedPeer::seeder(&torrent, content(), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let flags = ["--peer", &seeder.addr().to_string(), "--max-peers", "20"];
    let mount = stage.mount(&[&source], &flags);
    eventually("the seeder is met", PATIENCE, || (seeder.counts().handshakes > 0).then_some(()));
    let silent: Vec<_> = (0..200).filter_map(|_| std::net::TcpStream::connect(mount.listen()).ok()).collect();
    Ramp::new(RAMP).check_file(&mount.join("sent.bin"), 2 << 20).expect("every byte is right");
    let peers = mount.torrent_status()["peers"].as_array().map_or(0, Vec::len);
    assert!(peers <= 20, "{peers} peers are connected");
    drop(silent);
}

#[test]
fn a_peer_that_knows_the_seeder_is_enough_to_find_it() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("pex");
    let torrent = torrent(1 << 20);
    let seeder = ScriptedPeer::seeder(&torrent, content(), Start::Open);
    let friend = ScriptedPeer::start(PeerConfig {
        listen: None,
        torrent: torrent.clone(),
        content: content(),
        fault: Fault::StallAfter(0),
        start: Start::Held,
        introduces: vec![seeder.addr()],
    });
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--peer", &friend.addr().to_string()]);
    Ramp::new(RAMP).check_file(&mount.join("sent.bin"), 1 << 20).expect("every byte is right");
    assert!(friend.counts().introductions > 0);
    assert_eq!(friend.counts().payload_sent, 0);
    assert!(seeder.counts().payload_sent >= 1 << 20);
}

#[test]
fn a_seeder_that_goes_away_and_comes_back_is_found_again() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("comes-back");
    let bytes = 6 << 20;
    let torrent = torrent(bytes);
    let first = ScriptedPeer::with_fault(&torrent, content(), Fault::CloseAfter(100));
    let addr = first.addr();
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--peer", &addr.to_string(), "--read-timeout", "400s"]);
    let path = mount.join("sent.bin");
    thread::scope(|scope| {
        let reader = scope.spawn(|| Ramp::new(RAMP).check_file(&path, bytes));
        eventually("the seeder has gone away", PATIENCE, || (first.counts().faults > 0).then_some(()));
        drop(first);
        let _back = ScriptedPeer::start(PeerConfig {
            listen: Some(addr),
            torrent: torrent.clone(),
            content: content(),
            fault: Fault::None,
            start: Start::Open,
            introduces: Vec::new(),
        });
        reader.join().expect("the reader does not panic").expect("every byte is right");
    });
}

#[test]
fn a_client_that_is_told_of_itself_is_not_confused() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("itself");
    let torrent = torrent(1 << 20);
    let seeder = ScriptedPeer::seeder(&torrent, content(), Start::Open);
    let listen = wtfs_testkit::net::fresh_addr();
    // Trackers name whoever announced, so everybody hears of themselves.
    let tracker = HttpTracker::start(Answer::Peers(vec![listen, seeder.addr()]));
    let source = text(&stage.write_torrent(&torrent));
    let own = listen.to_string();
    let dir = stage.subdir("mnt/itself");
    let flags = ["--tracker", &tracker.announce_url(), "--peer", &own];
    let mount = Mount::start(&stage, &[&source], &flags, &dir, listen);
    Ramp::new(RAMP).check_file(&mount.join("sent.bin"), 1 << 20).expect("every byte is right");
    let is_itself = |peer: &serde_json::Value| peer["addr"] == *own;
    eventually("it has let go of itself", PATIENCE, || {
        (!mount.torrent_status()["peers"].as_array()?.iter().any(is_itself)).then_some(())
    });
}

#[test]
fn a_small_memory_budget_still_reads_large_pieces() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("small-memory");
    let bytes = 40 << 20;
    let torrent = TorrentFile::ramp("sent.bin", Ramp::new(RAMP), bytes, 8 << 20, &[]);
    let seeder = ScriptedPeer::seeder(&torrent, content(), Start::Open);
    let source = text(&stage.write_torrent(&torrent));
    let mut mount = stage.mount(&[&source], &["--peer", &seeder.addr().to_string(), "--memory", "1M"]);
    assert_ramp_at_once(&mount.join("sent.bin"), Ramp::new(RAMP), bytes, 8, 20);
    Ramp::new(RAMP).check_file(&mount.join("sent.bin"), bytes).expect("every byte is right");
    let peak = mount.process().peak_memory_bytes().expect("the daemon runs");
    // A piece and what the process takes by itself: not the pieces of eight readers.
    assert!(peak < 100 << 20, "{} MiB were resident", peak >> 20);
}

#[test]
fn a_magnet_in_base32_is_the_same_torrent() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("base32");
    let torrent = torrent(500_000);
    let seeder = ScriptedPeer::seeder(&torrent, content(), Start::Open);
    let link = format!("magnet:?xt=urn:btih:{}&x.pe={}", base32(&torrent.info_hash), seeder.addr());
    let mount = stage.mount(&[&link], &[]);
    let found = mount.wait_for_entry("sent.bin");
    Ramp::new(RAMP).check_file(&found, 500_000).expect("every byte is right");
}

/// RFC 4648, for 20 bytes: 32 digits and no padding.
fn base32(bytes: &[u8; 20]) -> String {
    let digit = |i: usize| {
        let bit = |j: usize| bytes[j / 8] >> (7 - j % 8) & 1;
        let value = (0..5).fold(0, |value, j| value << 1 | bit(i * 5 + j));
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(value)])
    };
    (0..32).map(digit).collect()
}
