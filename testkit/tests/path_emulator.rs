//! The path emulator delays what goes through it by what was asked for, and leaves nothing behind, however it ends.
//! Needs root, `/dev/net/tun` and `ip`; where they are missing the test says so and shows nothing.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use wtfs_testkit::{process::Process, scratch::Scratch, wait};

const PATIENCE: Duration = Duration::from_secs(120);
const DELAY: Duration = Duration::from_millis(30);

fn space(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Does this in a thread of its own that has moved into a namespace.
fn inside<T: Send + 'static>(name: &str, what: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let file = File::open(space(name)).expect("the namespace is there");
    thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter it");
        what()
    })
}

/// The value of the first `"namespace":"..."` and of the second.
fn namespaces(line: &str) -> Option<(String, String)> {
    let mut found = line.split("\"namespace\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    Some((found.next()?.to_owned(), found.next()?.to_owned()))
}

#[test]
fn a_connection_through_it_sees_the_delay_and_a_killed_emulator_leaves_no_namespace() {
    let has_ip = Command::new("ip").arg("-V").output().is_ok_and(|done| done.status.success());
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() || !has_ip {
        assert!(std::env::var_os("WTFS_REQUIRE_FUSE").is_none(), "this needs root, /dev/net/tun and ip");
        eprintln!("skipped: this needs root, /dev/net/tun and ip");
        return;
    }
    let scratch = Scratch::new("path-emulator");
    let mut command = Command::new(env!("CARGO_BIN_EXE_path-emulator"));
    command.args(["--delay-ms", &DELAY.as_millis().to_string(), "--congestion", "reno"]);
    let mut emulator = Process::spawn("path-emulator", command, &scratch.join("log"));
    let ((near, far), _) = emulator.wait_for_line("the namespaces", PATIENCE, 0, namespaces);

    let listener = inside(&far, || TcpListener::bind("10.77.2.1:5000").expect("the address is there"));
    let listener = listener.join().expect("the thread ends");
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a byte comes");
        stream.write_all(&byte).expect("it can be sent back");
    });
    let asked = inside(&near, || {
        let start = Instant::now();
        let mut stream = TcpStream::connect("10.77.2.1:5000").expect("the path carries packets");
        let connected = start.elapsed();
        stream.write_all(b"x").expect("it can be sent");
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("it comes back");
        (connected, start.elapsed())
    });
    let (connected, answered) = asked.join().expect("the thread ends");
    echo.join().expect("the thread ends");
    assert!(connected >= 2 * DELAY, "connected after {connected:?}: a round trip is {:?}", 2 * DELAY);
    assert!(answered >= 4 * DELAY, "answered after {answered:?}");

    // The guard kills it with SIGKILL: what is left is left to the keeper.
    drop(emulator);
    wait::eventually("the namespaces are gone", PATIENCE, || {
        (!space(&near).exists() && !space(&far).exists()).then_some(())
    });
}
