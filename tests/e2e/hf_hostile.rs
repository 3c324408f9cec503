//! Nobody gets through the hub what is not theirs, and nobody puts into it what others then get: not by another
//! repository that names the same hash, not by a page in a browser, not by a header, and not by names that climb out.

use serde_json::json;
use wtfs_testkit::{
    hf_hub::{Content, Fault, FaultKind, HfHub, RepoKind, Side},
    ramp::Ramp,
    wait,
};

use crate::support::{
    hf::{ALICE, CLIENTS, Way, World, ask, bearer, begin, cache_dir, standard, starts},
    need::{Need, missing},
    stage::PATIENCE,
};

const WEIGHTS: &str = "/org/gated/resolve/main/weights.bin";

#[test]
fn naming_the_hash_of_a_gated_file_does_not_open_it() {
    // Bob's own repository lists a file with the hash of a gated one, which upstream does not give him.
    let builder = standard().model("bob/trick").ramp("mine.bin", 5, 300_000).ramp("honest.bin", 9, 100_000);
    let world = World::with_hub("hf-trick", builder, &[]);
    let alice = world.ask("GET", WEIGHTS, &[("Authorization", &bearer(ALICE))]);
    assert_eq!(alice.status, 200);
    world.upstream.fault(Fault::hub(FaultKind::Status(403)).path("/bob/trick/resolve/*/mine.bin*"));
    assert_eq!(world.get("/bob/trick/resolve/main/honest.bin").status, 200);
    for range in ["bytes=0-", "bytes=0-99"] {
        let bob = world.ask("GET", "/bob/trick/resolve/main/mine.bin", &[("Range", range)]);
        let secret = Ramp::new(5).bytes(0, 32);
        assert!(!bob.body.windows(32).any(|part| part == secret), "{range}: {}", bob.head);
        assert!(bob.status >= 400, "{range}: {}", bob.head);
    }
    // Nor is there a torrent of it, by which peers would get it.
    let torrent = "/torrent/bob/trick/mine.bin";
    wait::eventually("it is known that there is no torrent", PATIENCE, || {
        let model = world.get("/model/bob/trick/mine.bin");
        assert_ne!(world.get(torrent).status, 200);
        (model.status >= 400 || model.json()["state"] == "failed").then_some(())
    });
    assert_ne!(world.get(torrent).status, 200);
    // Once upstream gives it to everybody there, everybody gets it.
    world.upstream.clear_faults();
    let open = wait::eventually("everybody gets it", PATIENCE, || {
        Some(world.get("/bob/trick/resolve/main/mine.bin")).filter(|open| open.status == 200)
    });
    Ramp::new(5).check(0, &open.body).expect("the ramp");
}

#[test]
fn a_gated_file_is_still_closed_to_others_after_a_restart() {
    let builder = standard().model("bob/trick").ramp("mine.bin", 5, 300_000);
    let mut world = World::with_hub("hf-trick-restart", builder, &[]);
    assert_eq!(world.ask("GET", WEIGHTS, &[("Authorization", &bearer(ALICE))]).status, 200);
    world.kill_hub();
    world.upstream.fault(Fault::hub(FaultKind::Status(403)).path("/bob/trick/resolve/*/mine.bin*"));
    world.start_hub(&[]);
    let bob = world.get("/bob/trick/resolve/main/mine.bin");
    assert!(bob.status >= 400, "{}", bob.head);
    world.upstream.stop();
    assert!(world.get("/bob/trick/resolve/main/mine.bin").status >= 400);
}

#[test]
fn the_hubs_own_token_serves_this_machine_and_no_page_in_a_browser() {
    let mut world = World::new("hf-own-token", standard());
    let file = world.stage.join("token");
    std::fs::write(&file, ALICE).expect("the scratch directory can be written");
    world.start_hub(&["--hf-token-file", file.to_str().expect("UTF-8")]);
    let own = world.get(WEIGHTS);
    assert_eq!(own.status, 200, "{}", own.head);
    for (name, value) in [
        ("Origin", "http://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
        ("X-Forwarded-For", "192.0.2.1"),
    ] {
        let page = world.ask("GET", WEIGHTS, &[(name, value)]);
        assert_ne!(page.status, 200, "{name}: {}", page.head);
        assert_eq!(page.header("Access-Control-Allow-Origin"), None, "{name}");
    }
    // A name that was made to lead here.
    let stolen =
        raw(&world, &format!("GET {WEIGHTS} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"));
    assert!(!stolen.starts_with("HTTP/1.1 200"), "{stolen}");
    // Who shows a token is judged by that one.
    assert_eq!(world.ask("GET", WEIGHTS, &[("Authorization", "Bearer hf_nobody")]).status, 401);
}

/// Sends these bytes and gives the head of the answer.
fn raw(world: &World, request: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(world.addr(Way::Hub)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut received = Vec::new();
    let _ended = stream.read_to_end(&mut received);
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(received.len());
    String::from_utf8_lossy(&received[..end]).into_owned()
}

#[test]
fn a_header_of_one_client_is_in_no_answer_to_another() {
    let world = World::with_hub("hf-poison", standard().page_size(4), &[]);
    let path = "/api/models/org/model/tree/main?recursive=true&limit=4";
    let poison = raw(
        &world,
        &format!(
            "GET {path} HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\nX-Forwarded-Proto: https\r\n\
             Forwarded: host=evil.example\r\nConnection: close\r\n\r\n"
        ),
    );
    assert!(poison.contains("200") || poison.contains("421") || poison.contains("400"), "{poison}");
    let clean = world.get(path);
    assert_eq!(clean.status, 200);
    let link = clean.header("Link").expect("more pages");
    assert!(link.contains(&world.addr(Way::Hub).to_string()) && !link.contains("evil"), "{link}");
}

#[test]
fn names_that_climb_out_are_not_passed_on() {
    let mut builder = HfHub::builder().model("org/odd").file("good.txt", "good");
    for name in [
        "../../../../tmp/evil.txt",
        "/etc/evil.txt",
        "a/../../evil.txt",
        "a//b.txt",
        "nul\u{0}.txt",
        "back\\slash.txt",
    ] {
        builder = builder.file(name, "evil");
    }
    let world = World::with_hub("hf-odd-names", builder, &[]);
    for path in ["/api/models/org/odd/tree/main?recursive=true", "/api/models/org/odd"] {
        let answer = world.get(path);
        assert!(matches!(answer.status, 200 | 502), "{path}: {}", answer.head);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        for evil in ["../", "/etc/", "//", "\\u0000", "\\\\"] {
            assert!(answer.status == 502 || !text.contains(evil), "{path} passes {evil} on: {text}");
        }
    }
    let good = world.get("/org/odd/resolve/main/good.txt");
    assert!(good.status == 502 || good.body == b"good", "{}", good.head);
    eprintln!("of a repository with names that climb out the good file is answered {}", good.status);
}

#[test]
fn bodies_that_nobody_needs_are_refused() {
    let world = World::with_hub("hf-bodies", standard(), &[]);
    let path = "/api/models/org/model/paths-info/main";
    let huge = format!("{{\"paths\":[\"{}\"]}}", "a".repeat(3 << 20));
    let answer = ask(world.addr(Way::Hub), "POST", path, &[("Content-Type", "application/json")], &huge);
    assert!(matches!(answer.status, 400 | 413), "{}", answer.head);
    for body in ["{", "[]", "{\"paths\":7}", "{\"paths\":[7]}"] {
        let answer = ask(world.addr(Way::Hub), "POST", path, &[("Content-Type", "application/json")], body);
        assert!((400..500).contains(&answer.status) || answer.body == b"[]", "{body}: {}", answer.head);
    }
}

#[test]
fn a_client_that_goes_on_from_corrupt_bytes_does_not_end_with_them() {
    const BYTES: u64 = 25_000_000;
    let mut builder = HfHub::builder().model("org/model");
    for n in 0..4 {
        builder = builder.ramp(&format!("w{n}.bin"), n, BYTES);
    }
    let world = World::with_hub("hf-resumed", builder, &[]);
    for (n, version) in (0_u64..).zip(CLIENTS) {
        if missing(&[Need::HfClient(version)]) {
            continue;
        }
        // Before the ten megabytes after which clients go on.
        let fault = Fault::cdn(FaultKind::Corrupt { at: 1_000_000 }).path(&format!("*/w{n}.bin*"));
        world.upstream.fault(fault.times(1));
        let cache = cache_dir(&world, version);
        let step =
            json!({ "do": "download", "id": "org/model", "file": format!("w{n}.bin"), "cache_dir": cache });
        let expected = Content::ramp(n, BYTES).sha256();
        let client = world.client(version, Way::Hub);
        let mut turns = 0;
        loop {
            turns += 1;
            let done = client.steps(std::slice::from_ref(&step)).remove(0);
            if let Some(file) = done.get("ok") {
                assert_eq!(file["sha256"], *expected, "{version} keeps corrupt bytes after {turns} turns");
                break;
            }
            assert!(turns < 5, "{version}: {done}");
        }
        eprintln!("{version} had the right file after {turns} turns");
    }
}

#[test]
fn an_upstream_that_dies_in_a_fill_and_comes_back_is_gone_on_with() {
    use std::io::Read as _;
    const BYTES: u64 = 16_000_000;
    const HELD_AT: u64 = 5_000_000;
    let mut world =
        World::with_hub("hf-dies", HfHub::builder().model("org/model").ramp("w.bin", 1, BYTES), &[]);
    let path = "/org/model/resolve/main/w.bin";
    world.upstream.fault(Fault::cdn(FaultKind::Hold { at: HELD_AT }));
    let mut stream = begin(world.addr(Way::Hub), "GET", path, &[], "");
    let mut received = vec![0; 4_000_000];
    stream.read_exact(&mut received).expect("the beginning");
    world.upstream.stop();
    let cut = std::thread::spawn(move || {
        let _ended = stream.read_to_end(&mut received);
        received
    });
    world.upstream.clear_faults();
    world.upstream.clear_log();
    world.upstream.restart();
    let received = cut.join().expect("it ends");
    let end = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    Ramp::new(1).check(0, &received[end..]).expect("what came is right, whole or not");
    eprintln!("upstream died after {HELD_AT} bytes; the client has {} of {BYTES}", received.len() - end);
    let whole = world.get(path);
    assert_eq!((whole.status, whole.body.len() as u64), (200, BYTES));
    Ramp::new(1).check(0, &whole.body).expect("the ramp");
    // What a client was given is not asked for again.
    let starts = starts(&world.upstream.log().at(Side::Cdn));
    assert!(starts.iter().all(|start| (3_900_000..BYTES).contains(start)), "{starts:?}");
    assert!(!starts.is_empty());
}

#[test]
fn commits_that_upstream_rewrites_under_one_name_do_not_mix() {
    let world = World::with_hub(
        "hf-mixed",
        HfHub::builder().model("org/m").file("a.json", "1").file("b.json", "1"),
        &[],
    );
    let first = world.upstream.commit_of(RepoKind::Model, "org/m", "main");
    let a = world.get("/org/m/resolve/main/a.json");
    world.upstream.push(
        RepoKind::Model,
        "org/m",
        "main",
        [("a.json".to_owned(), "2"), ("b.json".to_owned(), "2")],
    );
    let b = world.get("/org/m/resolve/main/b.json");
    // Within the time for which a branch is believed both are of one commit; afterwards of the other.
    assert_eq!(a.header("X-Repo-Commit"), Some(&*first));
    let expected: &[u8] = if b.header("X-Repo-Commit") == Some(&*first) { b"1" } else { b"2" };
    assert_eq!(b.body, expected, "{}", b.head);
}
