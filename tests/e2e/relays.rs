//! Native peers that reach each other by a TURN server alone, coturn: what they send goes through it byte for byte, and one
//! that refuses us is said and stands in nobody's way.

use std::{
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use wtfs_testkit::{net, process::Process, ramp::Ramp, torrent_file::TorrentFile, wait::eventually};

use crate::support::{
    hub::Hub,
    need::{Need, missing},
    stage::{PATIENCE, Stage, text},
};

const BYTES: u64 = 3_000_017;

fn content() -> Ramp {
    Ramp::new(71)
}

/// A TURN server that knows ada, whose password is `secret`.
struct Turn {
    process: Process,
    addr: SocketAddr,
}

impl Turn {
    fn start(stage: &Stage) -> Self {
        let addr = net::fresh_addr();
        let (ip, port, dir) = (addr.ip(), addr.port(), stage.subdir("turn"));
        let mut command = Command::new("turnserver");
        command.args([
            "-n",
            "--lt-cred-mech",
            "--user=ada:secret",
            "--realm=wtfs.test",
            "--allow-loopback-peers",
        ]);
        command.args([
            "--no-cli",
            "--no-tls",
            "--no-dtls",
            "--no-tcp",
            "--log-file=stdout",
            "--simple-log",
            "-v",
        ]);
        command.args([format!("--listening-ip={ip}"), format!("--listening-port={port}")]);
        command.args([format!("--relay-ip={ip}"), format!("--pidfile={}", dir.join("pid").display())]);
        command.arg(format!("--userdb={}", dir.join("users").display()));
        let process = Process::spawn("turnserver", command, &stage.log("turnserver"));
        eventually("coturn answers", PATIENCE, || does_answer(addr).then_some(()));
        Self { process, addr }
    }

    /// How often it began to relay for somebody.
    fn allocations(&self) -> usize {
        self.process.lines().iter().filter(|line| line.contains("ALLOCATE processed, success")).count()
    }
}

/// Whether a STUN server answers a binding request (RFC 8489, section 5).
fn does_answer(addr: SocketAddr) -> bool {
    let mut request = [0; 20];
    request[1] = 1;
    request[4..8].copy_from_slice(&[0x21, 0x12, 0xA4, 0x42]);
    let socket = UdpSocket::bind((addr.ip(), 0)).expect("loopback can be bound");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a socket");
    socket.send_to(&request, addr).is_ok() && socket.recv_from(&mut [0; 512]).is_ok()
}

/// A file, and its torrent, of which only the hub's WebSocket tracker is known.
fn shared(stage: &Stage, hub: &Hub) -> (PathBuf, PathBuf) {
    let data = stage.subdir("seeded").join("shared.bin");
    content().write_file(&data, BYTES).expect("the scratch directory can be written");
    let tracker = format!("ws://{}/announce", hub.addr);
    let torrent = TorrentFile::ramp("shared.bin", content(), BYTES, 64 << 10, &[tracker]);
    (data, stage.write_torrent(&torrent))
}

#[test]
fn what_is_sent_by_a_relay_alone_arrives_byte_for_byte() {
    if missing(&[Need::Program("turnserver")]) {
        return;
    }
    let stage = Stage::new("relays");
    let turn = Turn::start(&stage);
    let hub = Hub::start(&stage, &stage.subdir("nothing"), &["--no-webrtc"]);
    let (data, torrent) = shared(&stage, &hub);
    let file = stage.join("password");
    std::fs::write(&file, "secret\n").expect("the scratch directory can be written");
    let (server, file) = (format!("turn:ada@{}", turn.addr), text(&file));
    let flags = ["--ice-server", &server, "--turn-password-file", &file, "--ice-relay-only"];
    let caches = [text(&stage.join("seed-cache")), text(&stage.join("other"))];
    let _seed = stage.seed(&torrent, &data, &[&flags[..], &["--cache-dir", &caches[0]]].concat());
    let (got, listen, torrent) = (stage.subdir("got"), net::fresh_addr().to_string(), text(&torrent));
    let get = ["get", "--listen", &listen, "--cache-dir", &caches[1], "-o", &text(&got)];
    // What did not come about at first does with the next announce, a minute later.
    let done = stage.run_within(3 * PATIENCE, &[&get[..], &flags, &[&torrent]].concat());
    let _said = done.expect_success("wtfs get");
    content().check_file(&got.join("shared.bin"), BYTES).expect("every byte is right");
    // One at each end; what it says of them may be read later.
    eventually("both were relayed", PATIENCE, || (turn.allocations() >= 2).then_some(()));
}

#[test]
fn a_relay_that_refuses_us_is_said_and_stands_in_nobodys_way() {
    if missing(&[Need::Program("turnserver")]) {
        return;
    }
    let mut stage = Stage::new("relays-refused");
    let turn = Turn::start(&stage);
    let hub = Hub::start(&stage, &stage.subdir("nothing"), &["--no-webrtc"]);
    let (data, torrent) = shared(&stage, &hub);
    let _seed = stage.seed(&torrent, &data, &["--cache-dir", &text(&stage.join("seed-cache"))]);
    stage.set_variable("WTFS_ICE_SERVERS", &format!("turn:ada:mistaken@{}", turn.addr));
    let torrent = text(&torrent);
    // It waits a second for servers, which is less than a machine with too much to do may take: the next one waits anew.
    let said = (0..20).find_map(|turn| {
        let (got, cache) = (stage.subdir(format!("got/{turn}")), format!("cache {turn}"));
        let listen = net::fresh_addr().to_string();
        let get = ["get", "--listen", &listen, "--cache-dir", &cache, "-o", &text(&got), &torrent];
        let done = stage.run_within(3 * PATIENCE, &get);
        let _said = done.expect_success("wtfs get");
        content().check_file(&got.join("shared.bin"), BYTES).expect("every byte is right");
        let is_late = done.stderr.contains("no TURN server answers in time");
        (!is_late).then_some(done.stderr)
    });
    let said = said.expect("the server answers within a second, one time of many");
    assert!(said.contains("no TURN server relays for us: it refuses the user or the password"), "{said}");
    assert!(said.contains(&turn.addr.to_string()) && !said.contains("mistaken"), "{said}");
    assert_eq!(turn.allocations(), 0, "{:#?}", turn.process.lines());
}

#[test]
fn a_server_that_cannot_be_is_refused_at_once_and_its_password_is_not_repeated() {
    let stage = Stage::new("relays-mistyped");
    for (flags, reason) in [
        (&["--ice-server", "turns:ada:secret@host"][..], "over UDP alone"),
        (&["--ice-server", "turn:ada@host"], "wants a password"),
        (&["--ice-server", "turn:ada:secret@host:port"], "port"),
        (&["--ice-server", "host"], "stun:HOST"),
        (&["--ice-relay-only"], "wants a TURN server"),
        (
            &["--ice-server", "turn:ada@host", "--turn-password-file", "/nonexistent/file"],
            "/nonexistent/file",
        ),
    ] {
        let done = stage.run(&[&["get", "nothing.torrent"][..], flags].concat());
        assert!(!done.success() && done.stderr.contains(reason), "{flags:?}: {}", done.stderr);
        assert!(!done.stderr.contains("secret"), "{flags:?}: {}", done.stderr);
    }
}
