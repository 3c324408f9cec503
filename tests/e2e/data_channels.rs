//! Native peers over data channels: they meet at a WebSocket tracker, other people's or the hub's, with and without TLS, over
//! IPv6 and through a proxy, and the hub is one of them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::mpsc,
    thread,
};

use serde_json::Value;
use wtfs_testkit::{net, process::Process, ramp::Ramp, torrent_file::TorrentFile, wait::eventually};

use crate::operations::certificate;
use crate::support::{
    hub::Hub,
    need::{Need, missing, node_modules},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 3_000_017;
const PIECE: u32 = 64 << 10;

fn content() -> Ramp {
    Ramp::new(67)
}

/// The WebSocket tracker of the npm package.
fn npm_tracker(stage: &Stage, addr: SocketAddr) -> Process {
    let mut command = Command::new("node");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/browser/tracker.mjs"));
    command.arg(node_modules()).args([addr.ip().to_string(), addr.port().to_string()]);
    let mut process = Process::spawn("tracker", command, &stage.log("tracker"));
    process.wait_for_line("the tracker listens", PATIENCE, 0, |line| (line == "listening").then_some(()));
    process
}

/// A file and its torrent, of which only a WebSocket tracker is known.
fn shared(stage: &Stage, tracker: &str) -> (PathBuf, PathBuf) {
    let data = stage.subdir("seeded").join("shared.bin");
    content().write_file(&data, BYTES).expect("the scratch directory can be written");
    let torrent = TorrentFile::ramp("shared.bin", content(), BYTES, PIECE, &[tracker.to_owned()]);
    (data, stage.write_torrent(&torrent))
}

fn source<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["sources"].as_array()?.iter().find(|source| source["kind"] == kind)
}

/// What came over data channels is everything, and over TCP nothing.
#[track_caller]
fn check_sources(status: impl Fn() -> Value) {
    let status = eventually("all of it is counted", PATIENCE, || {
        let status = status();
        (source(&status, "webrtc")?["downloaded_bytes"].as_u64()? >= BYTES).then_some(status)
    });
    let over_tcp = source(&status, "tcp").map_or(0, |tcp| tcp["downloaded_bytes"].as_u64().unwrap_or(0));
    assert_eq!(over_tcp, 0, "{status}");
}

/// A mount and a seed that know nothing of each other but the tracker; the seed comes first, and the other time last.
fn meet_at(name: &str, start: impl Fn(&Stage) -> (Box<dyn std::any::Any>, String)) {
    for seed_first in [true, false] {
        let stage = Stage::new(name);
        let (_tracker, url) = start(&stage);
        let (data, torrent) = shared(&stage, &url);
        let seed = || stage.seed(&torrent, &data, &["--cache-dir", &text(&stage.join("seed-cache"))]);
        let before = seed_first.then(seed);
        let mount = stage.mount(&[&text(&torrent)], &["--read-timeout", "300s"]);
        let path = mount.wait_for_entry("shared.bin");
        let reading = thread::spawn(move || content().check_file(&path, BYTES));
        let after = (!seed_first).then(|| {
            eventually("the mount is announced", PATIENCE, || {
                let status = mount.torrent_status();
                (status["trackers"][0]["state"] == "working").then_some(())
            });
            seed()
        });
        reading.join().expect("the reader ends").expect("every byte is right");
        check_sources(|| mount.torrent_status());
        drop((before, after));
        mount.unmount();
    }
}

#[test]
fn a_mount_reads_what_a_seed_has_that_it_meets_at_other_peoples_tracker() {
    if missing(&[Need::Fuse, Need::Program("node"), Need::NpmTracker]) {
        return;
    }
    meet_at("channels-npm", |stage| {
        let addr = net::fresh_addr();
        (Box::new(npm_tracker(stage, addr)), format!("ws://{addr}"))
    });
}

#[test]
fn a_mount_reads_what_a_seed_has_that_it_meets_at_a_hub() {
    if missing(&[Need::Fuse]) {
        return;
    }
    meet_at("channels-hub", |stage| {
        let hub = Hub::start(stage, &stage.subdir("nothing"), &["--no-webrtc"]);
        let url = format!("ws://{}/announce", hub.addr);
        (Box::new(hub), url)
    });
}

/// A magnet link of what a hub shares, with its WebSocket tracker alone.
fn magnet(hub: &Hub, name: &str, scheme: &str) -> String {
    let info_hash = hub.wait_ready(name);
    format!("magnet:?xt=urn:btih:{info_hash}&tr={scheme}%3A%2F%2F{}%2Fannounce", hub.addr)
}

#[test]
fn a_hub_alone_gives_what_it_shares_over_data_channels() {
    let stage = Stage::new("channels-of-a-hub");
    let root = stage.subdir("root");
    content().write_file(&root.join("shared.bin"), BYTES).expect("the scratch directory can be written");
    let hub = Hub::start(&stage, &root, &[]);
    let magnet = magnet(&hub, "shared.bin", "ws");
    let got = stage.subdir("got");
    let listen = net::fresh_addr().to_string();
    let get = ["get", "--listen", &listen, "--cache-dir", "other", "-o", &text(&got), &magnet];
    let _said = stage.run(&get).expect_success("wtfs get");
    content().check_file(&got.join("shared.bin"), BYTES).expect("every byte is right");
    // Numbers are looked at once a second.
    let stats = eventually("the hub alone is left, and counts what it gave", PATIENCE, || {
        let stats: Value = serde_json::from_slice(&hub.get("/stats").body).expect("JSON");
        let gave = stats["engine"]["uploaded_bytes"].as_u64()?;
        (gave >= BYTES && stats["tracker"]["peers"] == 1).then_some(stats)
    });
    assert_eq!(stats["tracker"]["relay"]["answers"], 1, "{stats}");
}

#[test]
fn a_hub_behind_tls_gives_over_data_channels_too() {
    if missing(&[Need::Program("openssl")]) {
        return;
    }
    let mut stage = Stage::new("channels-tls");
    let root = stage.subdir("root");
    content().write_file(&root.join("shared.bin"), BYTES).expect("the scratch directory can be written");
    let addr = net::fresh_addr();
    let certificate = certificate(&stage, addr, 19);
    let flags = ["--tls-cert", &text(&certificate.chain), "--tls-key", &text(&certificate.key)];
    let _hub = Hub::start_at(&stage, &root, addr, &flags);
    let made = stage.run(&["create", "--json", "-t", &format!("wss://{addr}/announce"), "root/shared.bin"]);
    let made: Value = serde_json::from_str(&made.expect_success("wtfs create")).expect("JSON");
    let listen = net::fresh_addr().to_string();
    let get = ["get", "--listen", &listen, "--cache-dir", "other", "-o", "got", "shared.bin.torrent"];
    stage.subdir("got");
    // Of an authority that nobody trusts.
    let mut refused = stage.spawn("get", &[&get[..], &["-v"]].concat());
    refused.wait_for_line("it says that the tracker is not trusted", PATIENCE, 0, |line| {
        line.contains("no secure connection").then_some(())
    });
    assert!(refused.try_status().is_none(), "it goes on trying: {made}");
    refused.kill();
    assert!(content().check_file(&stage.join("got/shared.bin"), BYTES).is_err(), "nothing came");
    stage.set_variable("SSL_CERT_FILE", &text(&certificate.authority));
    let _said = stage.run(&get).expect_success("wtfs get");
    content().check_file(&stage.join("got/shared.bin"), BYTES).expect("every byte is right");
}

/// A proxy that makes tunnels (RFC 9110, section 9.3.6), and tells whereto. It ends with the test's process.
fn tunnels() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let addr = listener.local_addr().expect("a bound socket has an address");
    let (asked, whereto) = mpsc::channel();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let asked = asked.clone();
            thread::spawn(move || tunnel(client, &asked));
        }
    });
    (addr, whereto)
}

/// One of them; whatever goes wrong ends it.
fn tunnel(client: TcpStream, asked: &mpsc::Sender<String>) -> Option<()> {
    let mut head = BufReader::new(client.try_clone().ok()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        head.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let to = lines.first()?.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    let server = TcpStream::connect(&to).ok()?;
    // The test may have seen enough.
    let _over = asked.send(to);
    let (mut to_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    to_client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let back = thread::spawn(move || {
        let mut server = server;
        let _ended = std::io::copy(&mut server, &mut to_client);
        let _gone = to_client.shutdown(Shutdown::Both);
    });
    let _ended = std::io::copy(&mut head, &mut to_server);
    let _gone = to_server.shutdown(Shutdown::Both);
    back.join().ok()
}

#[test]
fn a_tracker_with_tls_is_reached_through_a_proxy() {
    if missing(&[Need::Program("openssl")]) {
        return;
    }
    let mut stage = Stage::new("channels-proxy");
    let root = stage.subdir("root");
    content().write_file(&root.join("shared.bin"), BYTES).expect("the scratch directory can be written");
    let addr = net::fresh_addr();
    let certificate = certificate(&stage, addr, 23);
    let flags = ["--tls-cert", &text(&certificate.chain), "--tls-key", &text(&certificate.key)];
    let _hub = Hub::start_at(&stage, &root, addr, &flags);
    let _made = stage.run(&["create", "-t", &format!("wss://{addr}/announce"), "root/shared.bin"]);
    stage.set_variable("SSL_CERT_FILE", &text(&certificate.authority));
    let (proxy, whereto) = tunnels();
    stage.set_variable("https_proxy", &format!("http://{proxy}"));
    let (got, listen) = (stage.subdir("got"), net::fresh_addr().to_string());
    let get = ["get", "--listen", &listen, "--cache-dir", "other", "-o", &text(&got), "shared.bin.torrent"];
    let _said = stage.run(&get).expect_success("wtfs get");
    content().check_file(&got.join("shared.bin"), BYTES).expect("every byte is right");
    assert_eq!(whereto.try_recv().as_deref(), Ok(addr.to_string().as_str()), "the tracker, by the proxy");
}

#[test]
fn a_tracker_is_reached_over_ipv6() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        assert!(std::env::var_os("WTFS_REQUIRE_INTEROP").is_none_or(|value| value != "1"), "no IPv6 here");
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    // A port that nobody is given who asks for any.
    let addr = SocketAddr::from((Ipv6Addr::LOCALHOST, net::fresh_addr().port()));
    let stage = Stage::new("channels-ipv6");
    let root = stage.subdir("root");
    content().write_file(&root.join("shared.bin"), BYTES).expect("the scratch directory can be written");
    let hub = Hub::start_at(&stage, &root, addr, &[]);
    hub.wait_ready("shared.bin");
    let _made = stage.run(&["create", "-t", &format!("ws://{addr}/announce"), "root/shared.bin"]);
    let (got, listen) = (stage.subdir("got"), net::fresh_addr().to_string());
    let get = ["get", "--listen", &listen, "--cache-dir", "other", "-o", &text(&got), "shared.bin.torrent"];
    let _said = stage.run(&get).expect_success("wtfs get");
    content().check_file(&got.join("shared.bin"), BYTES).expect("every byte is right");
}

#[test]
fn without_webrtc_neither_a_hub_nor_a_mount_meets_anybody() {
    if missing(&[Need::Fuse]) {
        return;
    }
    let stage = Stage::new("channels-off");
    let root = stage.subdir("root");
    content().write_file(&root.join("shared.bin"), BYTES).expect("the scratch directory can be written");
    let hub = Hub::start(&stage, &root, &["--no-webrtc"]);
    let url = format!("ws://{}/announce", hub.addr);
    hub.wait_ready("shared.bin");
    let (_, torrent) = shared(&stage, &url);
    let mount = stage.mount(&[&text(&torrent)], &["--no-webrtc"]);
    eventually("the tracker is said to be of no use", PATIENCE, || {
        (mount.torrent_status()["trackers"][0]["state"] == "needs-webrtc").then_some(())
    });
    let stats: Value = serde_json::from_slice(&hub.get("/stats").body).expect("JSON");
    assert_eq!(stats["tracker"]["relay"]["sockets"], 0, "{stats}");
    mount.unmount();
}
