//! Three machines that read the same file of a repository at once, through a hub whose link is a tenth of theirs: upstream
//! gives one copy, and the machines give each other much of what the hub would have to send again.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use wtfs_testkit::hf_hub::{Content, HfHub};
use wtfs_testkit::lan::Lan;

use crate::support::{
    hf::{Way, World},
    mount::Mount,
    need::{Need, missing},
    stage::{PATIENCE, text},
};

const READERS: usize = 3;
/// What the hub's link sends in a second; those of the others ten times as much.
const HUB_RATE: u64 = 2 << 20;
const LENGTH: u64 = 32 << 20;
const PORT: u16 = 8080;

/// The hub on the first machine, mounts on the others.
fn lan() -> Option<Lan> {
    let mut rates = vec![HUB_RATE];
    rates.resize(1 + READERS, 10 * HUB_RATE);
    match Lan::new(&rates) {
        Ok(lan) => Some(lan),
        Err(error) => {
            assert!(std::env::var_os("WTFS_REQUIRE_FUSE").is_none(), "no machines can be made here: {error}");
            eprintln!("skipped: no machines can be made here: {error}");
            None
        }
    }
}

#[test]
fn three_machines_that_read_at_once_are_sent_less_by_their_hub_than_a_copy_each() {
    if missing(&[Need::Fuse, Need::Program("ip"), Need::Program("tc"), Need::Program("nsenter")]) {
        return;
    }
    let Some(lan) = lan() else { return };
    // What is started here is on the hub's machine.
    lan.on(0, || read_at_once(&lan));
}

fn read_at_once(lan: &Lan) {
    let builder = HfHub::builder().model("org/big").ramp("model.safetensors", 17, LENGTH);
    let hub: SocketAddr = format!("{}:{PORT}", lan.address(0)).parse().expect("an address");
    let world = World::with_hub_at(
        "hf-sharing",
        builder,
        hub,
        &["--peer-listen", &format!("{}:6881", lan.address(0))],
    );
    let expected = Content::ramp(17, LENGTH).read(0, usize::try_from(LENGTH).expect("small"));
    // The hub has it: over its own machine's loopback.
    assert!(world.get("/org/big/resolve/main/model.safetensors").body == expected);
    wtfs_testkit::wait::eventually("its torrent is made", PATIENCE, || {
        (world.get("/torrent/org/big/model.safetensors").status == 200).then_some(())
    });
    let below = world.endpoint(Way::HubBelow);
    let mounts: Vec<Mount<'_>> = (1..=READERS)
        .map(|at| {
            let cache = text(&world.stage.subdir(format!("cache-{at}")));
            let dir = world.stage.subdir(format!("mnt/{at}"));
            let listen = format!("{}:6881", lan.address(at)).parse().expect("an address");
            let flags = ["--cache-dir", &cache];
            Mount::start_in(&world.stage, &lan.space(at), &[&below], &flags, &dir, listen)
        })
        .collect();
    for mount in &mounts {
        assert!(mount.join("org/big").is_dir());
    }
    let (before, began) = (lan.sent_bytes(0), Instant::now());
    std::thread::scope(|scope| {
        let readers: Vec<_> = mounts
            .iter()
            .map(|mount| {
                scope.spawn(|| fs::read(mount.join("org/big/model.safetensors")).expect("read") == expected)
            })
            .collect();
        assert!(readers.into_iter().all(|reader| reader.join().expect("no panic")), "bytes differ");
    });
    let (sent, took) = (lan.sent_bytes(0) - before, began.elapsed());
    let came = world.get("/hf-stats").json()["upstream_bytes"].as_u64().expect("a sum");
    assert!(came < 2 * LENGTH, "{came} bytes came from upstream for {LENGTH}");
    let alone = Duration::from_secs(READERS as u64 * LENGTH / HUB_RATE);
    eprintln!(
        "the hub sent {sent} bytes for {READERS} times {LENGTH} in {took:?}, by itself it needs {alone:?}"
    );
    // The hub's link is busy until the last one has all: how much sooner that is hangs on how fast this machine is at being
    // the others. Half a copy at least is what they give each other then.
    let most = READERS as u64 * LENGTH - LENGTH / 2;
    assert!(sent < most, "the hub sent {sent} bytes for {READERS} times {LENGTH} in {took:?}");
}
