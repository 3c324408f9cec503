//! Many clients, slow origins, crashes and full disks: one copy is fetched however many want it, the first byte does not wait
//! for the last one, and what a fill leaves behind is never taken for the whole.

use std::{fs, io::Read as _, path::PathBuf, process::Command, thread, time::Duration};

use serde_json::json;
use wtfs_testkit::{
    hf_hub::{Content, Fault, FaultKind, HfHub, Side},
    process,
    ramp::Ramp,
    wait,
};

use crate::support::{
    hf::{NEWEST, Reply, Way, World, begin, cache_dir, starts},
    need::{Need, missing},
    stage::{PATIENCE, text},
};

const PATH: &str = "/org/model/resolve/main/w.bin";

fn world(name: &str, bytes: u64) -> World {
    World::with_hub(name, HfHub::builder().model("org/model").ramp("w.bin", 1, bytes), &[])
}

#[track_caller]
fn assert_right(answer: &Reply, bytes: u64) {
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert_eq!(answer.body.len() as u64, bytes, "{:?}", answer.error);
    Ramp::new(1).check(0, &answer.body).expect("the ramp");
}

/// What is on its way when a request is given up for another one is sent in vain; that happens whenever this machine, or
/// who plays upstream on it, stands still for a second. A second copy is far more.
#[track_caller]
fn assert_one_copy(world: &World, bytes: u64) {
    let fetched = world.upstream.log().at(Side::Cdn).sent_bytes();
    eprintln!("{fetched} bytes were fetched for {bytes}");
    assert!((bytes..2 * bytes).contains(&fetched), "{fetched} bytes were fetched for {bytes}");
}

#[test]
fn thirty_clients_at_once_cost_one_copy() {
    const BYTES: u64 = 24 << 20;
    let world = world("hf-flight", BYTES);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..30).map(|_| scope.spawn(|| world.get(PATH))).collect();
        for client in clients {
            assert_right(&client.join().expect("it ends"), BYTES);
        }
    });
    assert_one_copy(&world, BYTES);
}

#[test]
fn a_hundred_downloads_by_one_address_are_served_in_their_turn() {
    const BYTES: u64 = 4 << 20;
    let world = world("hf-hundred", BYTES);
    assert_eq!(world.ask("HEAD", PATH, &[]).status, 200);
    world.upstream.fault(Fault::cdn(FaultKind::Slow { rate: BYTES / 2 }));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..100).map(|_| scope.spawn(|| world.get(PATH))).collect();
        for client in clients {
            assert_right(&client.join().expect("it ends"), BYTES);
        }
    });
    assert_one_copy(&world, BYTES);
}

#[test]
fn the_first_byte_of_a_slow_file_does_not_wait_for_the_rest() {
    const BYTES: u64 = 200 << 20;
    let world = world("hf-slow", BYTES);
    assert_eq!(world.ask("HEAD", PATH, &[]).status, 200);
    world.upstream.fault(Fault::cdn(FaultKind::Hold { at: 1_000_000 }));
    let mut stream = begin(world.addr(Way::Hub), "GET", PATH, &[], "");
    let mut head = Vec::new();
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let mut first = [0; 1000];
    stream.read_exact(&mut first).expect("the first bytes");
    Ramp::new(1).check(0, &first).expect("the ramp");
    let sent = world.upstream.log().at(Side::Cdn).sent_bytes();
    assert!(sent < BYTES / 10, "{sent} bytes came before the first was passed on");
}

#[test]
fn a_range_of_a_vast_file_is_answered_by_fetching_only_near_it() {
    const BYTES: u64 = 100 << 30;
    let builder = HfHub::builder().model("org/model").file("w.bin", Content::Vast { seed: 1, len: BYTES });
    let world = World::with_hub("hf-vast", builder, &[]);
    for start in [70 << 30, 0, BYTES - 1000] {
        let range = format!("bytes={start}-{}", start + 999);
        let answer = world.ask("GET", PATH, &[("Range", &range)]);
        assert_eq!(answer.status, 206, "{}", answer.head);
        assert_eq!(answer.body.len(), 1000, "{start}");
        Ramp::new(1).check(start, &answer.body).expect("the ramp");
    }
    let fetched = world.upstream.log().at(Side::Cdn).sent_bytes();
    assert!(fetched <= 64 << 20, "{fetched} bytes were fetched for three thousand");
}

#[test]
fn a_head_is_answered_from_metadata_while_the_bytes_are_late() {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let world = world("hf-late", 3_000_000);
    // Less than the ten seconds after which clients give up, also where all takes longer.
    world.upstream.fault(Fault::cdn(FaultKind::Delay(Duration::from_secs(5))).times(1));
    assert_eq!(world.ask("HEAD", PATH, &[]).status, 200);
    world.upstream.log().at(Side::Cdn).assert_silent("before the bytes are asked for");
    let step = json!({ "do": "download", "id": "org/model", "file": "w.bin", "cache_dir": cache_dir(&world, "late") });
    assert_eq!(world.client(NEWEST, Way::Hub).does(step)["sha256"], *Content::ramp(1, 3_000_000).sha256());
}

#[test]
fn a_client_that_leaves_takes_nothing_with_it() {
    const BYTES: u64 = 20_000_000;
    let world = world("hf-leaves", BYTES);
    world.upstream.fault(Fault::cdn(FaultKind::Hold { at: 8_000_000 }));
    let mut stream = begin(world.addr(Way::Hub), "GET", PATH, &[], "");
    stream.read_exact(&mut vec![0; 6_000_000]).expect("the beginning");
    drop(stream);
    let before = world.upstream.log().at(Side::Cdn).count();
    world.upstream.clear_faults();
    assert_right(&world.get(PATH), BYTES);
    // What it was given stays, and is not asked for again.
    let after = starts(&world.upstream.log().at(Side::Cdn)).split_off(before);
    assert!(after.iter().all(|start| *start >= 5_900_000), "{after:?}");
    assert_one_copy(&world, BYTES);
}

#[test]
fn a_hub_that_is_killed_in_a_fill_goes_on_with_what_it_has() {
    const BYTES: u64 = 30_000_000;
    let mut world = world("hf-killed", BYTES);
    world.upstream.fault(Fault::cdn(FaultKind::Hold { at: 14_000_000 }));
    let mut stream = begin(world.addr(Way::Hub), "GET", PATH, &[], "");
    stream.read_exact(&mut vec![0; 12_000_000]).expect("the beginning");
    // Once a second it is written down what is on the disk for good.
    wait::eventually("some of it is recorded", PATIENCE, || {
        let is_record = |(path, bytes): &(PathBuf, u64)| {
            path.extension().is_some_and(|name| name == "log") && *bytes > 56
        };
        world.cached_files().iter().any(is_record).then_some(())
    });
    world.kill_hub();
    drop(stream);
    world.upstream.clear_faults();
    world.upstream.clear_log();
    world.start_hub(&[]);
    assert_right(&world.get(PATH), BYTES);
    let starts = starts(&world.upstream.log().at(Side::Cdn));
    assert!(!starts.is_empty() && starts.iter().all(|start| *start > 0), "it began anew: {starts:?}");
    // And whole it stays, over another crash and without upstream.
    wait::eventually("it is kept as whole", PATIENCE, || {
        (world.get("/hf-stats").json()["blobs"] == 1).then_some(())
    });
    world.kill_hub();
    world.upstream.stop();
    world.start_hub(&[]);
    assert_right(&world.get(PATH), BYTES);
}

#[test]
fn a_full_disk_ends_in_an_error_or_in_right_bytes_and_in_nothing_half() {
    const BYTES: u64 = 24 << 20;
    let builder = HfHub::builder().model("org/model").ramp("w.bin", 1, BYTES).ramp("small.bin", 2, 200_000);
    let mut world = World::new("hf-full", builder);
    let Some(disk) = world.stage.small_disk(12) else { return };
    world.start_hub(&["--cache-dir", &text(&disk)]);
    let answer = world.get(PATH);
    if answer.status == 200 && answer.is_complete() {
        assert_right(&answer, BYTES);
    } else {
        assert!(answer.status == 200 || (500..=507).contains(&answer.status), "{}", answer.head);
    }
    // What fits is served as ever, and the hub lives.
    wait::eventually("a small file is served", PATIENCE, || {
        let small = world.get("/org/model/resolve/main/small.bin");
        (small.status == 200 && Ramp::new(2).check(0, &small.body).is_ok() && small.is_complete())
            .then_some(())
    });
    assert_eq!(world.ask("HEAD", PATH, &[]).status, 200);
}

#[test]
fn what_does_not_fit_the_budget_is_given_up_and_readers_notice_nothing() {
    const BYTES: u64 = 8 << 20;
    let mut builder = HfHub::builder().model("org/model");
    for n in 0..8 {
        builder = builder.ramp(&format!("w{n}.bin"), n, BYTES);
    }
    let world = World::with_hub("hf-budget", builder, &["--cache-size", "24MiB"]);
    for turn in 0..2 {
        for n in 0..8 {
            let answer = world.get(&format!("/org/model/resolve/main/w{n}.bin"));
            assert_eq!((answer.status, answer.body.len() as u64), (200, BYTES), "{turn} {n}");
            Ramp::new(n).check(0, &answer.body).unwrap_or_else(|wrong| panic!("{turn} {n}: {wrong}"));
        }
    }
    wait::eventually("the cache is within its size", PATIENCE, || {
        let mut du = Command::new("du");
        du.args(["-s", "-B1"]).arg(world.stage.join("cache"));
        let said = process::run(du, PATIENCE).out();
        let used: u64 = said.split_whitespace().next()?.parse().ok()?;
        (used <= (24 << 20) + (3 << 20)).then_some(())
    });
}

#[test]
fn the_same_content_in_two_repositories_is_fetched_once() {
    const BYTES: u64 = 3_000_000;
    let builder =
        HfHub::builder().model("org/one").ramp("w.bin", 1, BYTES).model("org/two").ramp("v.bin", 1, BYTES);
    let world = World::with_hub("hf-shared", builder, &[]);
    assert_right(&world.get("/org/one/resolve/main/w.bin"), BYTES);
    assert_right(&world.get("/org/two/resolve/main/v.bin"), BYTES);
    let log = world.upstream.log().at(Side::Cdn);
    assert_eq!((log.of("*org/one*").count() > 0, log.of("*org/two*").count()), (true, 0));
}

#[test]
fn many_small_files_cost_no_request_to_the_api_each() {
    if missing(&[Need::HfClient(NEWEST)]) {
        return;
    }
    let mut builder = HfHub::builder().model("org/model");
    for n in 0..300 {
        builder = builder.file(&format!("d{}/f{n}.txt", n % 7), format!("{n}"));
    }
    let mut world = World::new("hf-small", builder);
    // However long it takes, it is not asked again meanwhile what is known.
    world.stage.set_variable("WTFS_HUB_HF_REF_TTL", "1h");
    world.stage.set_variable("WTFS_HUB_HF_PUBLIC_TTL", "1h");
    world.start_hub(&[]);
    let step = json!({ "do": "snapshot", "id": "org/model", "cache_dir": cache_dir(&world, "small") });
    let done = world.client(NEWEST, Way::Hub).does(step);
    assert_eq!(done["files"].as_object().map(serde_json::Map::len), Some(300));
    let log = world.upstream.log().at(Side::Hub);
    assert!(log.of("/api/models/*").count() <= 5, "{}", log.of("/api/models/*").count());
    // Each file costs its redirect and its bytes, and some of them once more on a machine that stands still for a moment.
    assert!(log.count() < 3 * 300, "{}", log.count());
    let kept = fs::read_dir(world.stage.join("cache")).is_ok();
    assert!(kept, "it keeps what it fetched");
}
