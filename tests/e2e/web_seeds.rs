//! A torrent is read from web servers alone: from the URL of its .torrent and by its magnet link, and whatever goes wrong
//! with the server, reads are right or end in an error that names it.

use std::{fs, os::unix::fs::FileExt as _, process::Command};

use serde_json::{Value, json};
use wtfs_testkit::{
    net,
    origin::{Body, Fault, Origin},
    process,
    ramp::{self, Ramp},
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    content::Tree,
    libtorrent,
    mount::Mount,
    need::{Need, missing},
    nginx::Nginx,
    reading::{self, assert_ramp},
    stage::{PATIENCE, Stage, text},
};

const NEEDS: &[Need] = &[Need::Fuse];
const BYTES: u64 = 6_000_011;
const PIECE: u32 = 64 << 10;

fn content() -> Ramp {
    Ramp::new(77)
}

fn torrent() -> TorrentFile {
    TorrentFile::ramp("seeded.bin", content(), BYTES, PIECE, &[])
}

/// A .torrent at `/x.torrent` and the file below `/files/`.
fn origin() -> Origin {
    Origin::start([
        ("/x.torrent".to_owned(), Body::Bytes(torrent().bytes.into())),
        ("/files/seeded.bin".to_owned(), Body::Ramp(content(), 0, BYTES)),
    ])
}

fn web_seed(mount: &Mount<'_>) -> Value {
    mount.torrent_status()["web_seeds"][0].clone()
}

/// The status once it shows that all came from the first web seed: it is published a few times a second.
#[track_caller]
fn status_with_all(mount: &Mount<'_>) -> Value {
    eventually("the status shows what the web seed gave", PATIENCE, || {
        Some(mount.torrent_status()).filter(|status| status["web_seeds"][0]["downloaded_bytes"] == BYTES)
    })
}

#[test]
fn by_the_url_of_its_torrent_and_by_magnet_a_torrent_is_read_from_nothing_but_its_web_seed() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("web-seed");
    let server = origin();
    let (url, seed) = (server.url("/x.torrent"), server.url("/files/"));
    let escape = |url: &str| url.replace(':', "%3A").replace('/', "%2F");
    let hash = torrent().hash_hex();
    let magnet = format!("magnet:?xt=urn:btih:{hash}&xs={}&ws={}", escape(&url), escape(&seed));
    let other = format!("magnet:?xt=urn:btih:{hash}&as={}", escape(&url));
    for (source, flags) in [
        (url.as_str(), vec!["--web-seed", seed.as_str()]),
        (magnet.as_str(), vec![]),
        (other.as_str(), vec!["--web-seed", seed.as_str()]),
    ] {
        let mount = stage.mount(&[source], &flags);
        let path = mount.wait_for_entry("seeded.bin");
        content().check_file(&path, BYTES).unwrap_or_else(|error| panic!("{source}: {error}"));
        let status = status_with_all(&mount);
        assert_eq!(status["downloaded_bytes"], BYTES, "{source}: {status}");
        assert_eq!(status["peers"], json!([]), "{source}");
        assert_eq!(status["web_seeds"][0]["url"], seed.as_str(), "{source}");
        let text = stage.run(&["status"]).expect_success("wtfs status");
        assert!(text.contains(&format!("web seed {seed}: ")), "{text}");
        mount.unmount();
        fs::remove_dir_all(stage.join("cache")).expect("our own cache");
    }
}

#[test]
fn what_is_added_to_a_running_mount_with_a_web_seed_is_read_again_after_a_restart() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("web-seed-added");
    let server = origin();
    let dir = stage.subdir("added");
    let start = || Mount::start(&stage, &[], &[], &dir, net::fresh_addr());
    let mount = start();
    let (source, seed) = (text(&stage.write_torrent(&torrent())), server.url("/files/seeded.bin"));
    let added = stage.run(&["add", &text(&dir), &source, "--web-seed", &seed]);
    let _said = added.expect_success("wtfs add");
    assert_ramp(&mount.join("seeded.bin"), content(), &reading::random_plan(1, BYTES, 5));
    mount.unmount();
    let mount = start();
    content().check_file(&mount.join("seeded.bin"), BYTES).expect("every byte is right");
    let refused = stage.run(&["add", &text(&dir), &source, "--web-seed", "ftp://x/"]);
    assert_eq!(refused.code(), Some(2), "{refused:?}");
}

#[test]
fn reads_are_right_whatever_the_server_does_now_and_then() {
    if missing(NEEDS) {
        return;
    }
    let faults = [
        (3, Fault::Status(500, String::new())),
        (2, Fault::Status(503, "Retry-After: 1\r\n".to_owned())),
        (2, Fault::Status(429, "Retry-After: 0\r\n".to_owned())),
        (4, Fault::Close),
        (3, Fault::WrongRange),
        (3, Fault::WrongLength),
        (2, Fault::Stall(100_000)),
        (1, Fault::Silence),
        (1_000_000, Fault::Truncate(70_000)),
        (1_000_000, Fault::Chunked),
        (1_000_000, Fault::Slow(3_000_000)),
    ];
    let stage = Stage::new("web-seed-faults");
    let source = text(&stage.write_torrent(&torrent()));
    std::thread::scope(|scope| {
        let (stage, source) = (&stage, &source);
        for (number, (count, fault)) in faults.into_iter().enumerate() {
            scope.spawn(move || {
                let server = origin();
                server.next(count, fault.clone());
                let (seed, cache) = (server.url("/files/"), text(&stage.subdir(format!("cache-{number}"))));
                let flags = ["--web-seed", &seed, "--cache-dir", &cache, "--read-timeout", "400s"];
                let mount = stage.mount(&[source], &flags);
                let checked = content().check_file(&mount.join("seeded.bin"), BYTES);
                checked.unwrap_or_else(|error| panic!("{fault:?}: {error}: {}", web_seed(&mount)));
                assert_eq!(mount.torrent_status()["failed_pieces"], 0, "{fault:?}");
            });
        }
    });
}

#[test]
fn where_the_server_is_of_no_use_a_read_ends_in_an_error_and_the_log_names_it() {
    if missing(NEEDS) {
        return;
    }
    let private = origin();
    let faults = [
        (Fault::Status(500, String::new()), "waiting", "answered with HTTP status 500"),
        (Fault::Status(404, String::new()), "waiting", "answered with HTTP status 404"),
        (Fault::Status(403, String::new()), "waiting", "answered with HTTP status 403"),
        (Fault::Close, "waiting", "127."),
        (Fault::WrongRange, "waiting", "sends another range"),
        (Fault::Truncate(0), "waiting", "127."),
        (Fault::WrongBytes, "banned", "sent data with a wrong hash"),
        (Fault::IgnoreRange, "left", "ignores Range"),
        (Fault::Compressed, "left", "compresses"),
        (Fault::Redirect(private.url("")), "left", "is not asked: it is this machine"),
    ];
    let stage = Stage::new("web-seed-useless");
    let source = text(&stage.write_torrent(&torrent()));
    std::thread::scope(|scope| {
        let (stage, source) = (&stage, &source);
        for (number, (fault, state, reason)) in faults.into_iter().enumerate() {
            scope.spawn(move || {
                let server = origin();
                server.always(Some(fault.clone()));
                let (seed, cache) = (server.url("/files/"), text(&stage.subdir(format!("cache-{number}"))));
                let flags = ["--web-seed", &seed, "--cache-dir", &cache, "--read-timeout", "4s"];
                let mut mount = stage.mount(&[source], &flags);
                let at = format!("skip={}", BYTES / 65_536 - 2);
                let read_in_vain = || {
                    let mut command = Command::new("dd");
                    command.args(["of=/dev/null", "bs=64K", "count=1", &at]);
                    command.arg(format!("if={}", mount.join("seeded.bin").display()));
                    let done = process::run(command, PATIENCE);
                    assert!(done.stderr.contains("Input/output error"), "{fault:?}: {done:?}");
                };
                read_in_vain();
                assert_eq!(reading::names(mount.dir()).len(), 2, "{fault:?}: the listing still works");
                let found = eventually(&format!("{fault:?}: the seed is {state}"), PATIENCE, || {
                    let found = web_seed(&mount);
                    if found["state"] != state {
                        // It is asked only while a read waits, which may have ended before it had answered.
                        read_in_vain();
                    }
                    (found["state"] == state).then_some(found)
                });
                let told = found["reason"].as_str().unwrap_or_default();
                assert!(told.contains(reason), "{fault:?}: {found}");
                let names_it = |line: &str| {
                    let is_it = line.contains("a read got no data") && line.contains(&seed);
                    assert!(!is_it || line.contains("torrent{ih="), "which torrent? {line}");
                    is_it.then_some(())
                };
                mount.process().wait_for_line("the log names the seed", PATIENCE, 0, names_it);
            });
        }
    });
    assert_eq!(private.requests(), [], "the host behind the redirect was never asked");
}

#[test]
fn an_honest_seed_beside_a_liar_serves_and_only_the_liar_is_banned() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("web-seed-liar");
    let (liar, honest) = (origin(), origin());
    liar.always(Some(Fault::WrongBytes));
    // Else it might do the whole job before the liar comes to lie.
    honest.always(Some(Fault::Status(503, "Retry-After: 1\r\n".to_owned())));
    let source = text(&stage.write_torrent(&torrent()));
    let (bad, good) = (liar.url("/files/"), honest.url("/files/"));
    let flags = ["--web-seed", &bad, "--web-seed", &good, "--read-timeout", "400s"];
    let mount = stage.mount(&[&source], &flags);
    let path = mount.join("seeded.bin");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| content().check_file(&path, BYTES));
        eventually("the liar is banned", PATIENCE, || {
            (mount.torrent_status()["web_seeds"][0]["state"] == "banned").then_some(())
        });
        honest.always(None);
        reader.join().expect("the reader does not panic").expect("every byte is right");
    });
    let status = mount.torrent_status();
    assert_eq!(status["web_seeds"][0]["state"], "banned", "{status}");
    assert_ne!(status["web_seeds"][1]["state"], "banned", "{status}");
}

#[test]
fn a_redirect_into_the_own_network_is_followed_where_the_user_allows_it() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("web-seed-allowed");
    let (outer, inner) = (origin(), origin());
    outer.always(Some(Fault::Redirect(inner.url(""))));
    let source = text(&stage.write_torrent(&torrent()));
    let mount = stage.mount(&[&source], &["--web-seed", &outer.url("/files/"), "--allow-private-hosts"]);
    content().check_file(&mount.join("seeded.bin"), BYTES).expect("every byte is right");
    assert!(!inner.requests().is_empty());
    // A .torrent by URL is under the same rule.
    let refused = stage.run(&["info", &outer.url("/x.torrent")]);
    assert_eq!(refused.code(), Some(3), "{refused:?}");
    assert!(refused.stderr.contains("private hosts"), "{refused:?}");
}

#[test]
fn a_repository_is_read_from_nginx_in_every_version_of_the_format() {
    if missing(&[Need::Fuse, Need::Libtorrent, Need::Program("nginx")]) {
        return;
    }
    let stage = Stage::new("web-seed-nginx");
    let site = stage.subdir("site");
    let tree = Tree::repository();
    tree.write(&site.join("repo"));
    let nginx = Nginx::start(&stage, &site);
    for version in ["v1", "hybrid", "v2"] {
        let more = json!({ "version": version, "webseeds": [nginx.url("/")] });
        let made = libtorrent::create_with(&stage, &site.join("repo"), PIECE, &more);
        let mount = stage.mount(&[&text(&made.path)], &[]);
        assert_eq!(tree.differences(&mount.join("repo")), Vec::<String>::new(), "{version}");
        let status = mount.torrent_status();
        assert_eq!((&status["failed_pieces"], &status["wasted_bytes"]), (&json!(0), &json!(0)), "{status}");
        mount.unmount();
        fs::remove_dir_all(stage.join("cache")).expect("our own cache");
    }
    let wrong: Vec<String> = nginx
        .requests()
        .into_iter()
        .filter(|line| !line.starts_with("206") && !line.starts_with("200"))
        .collect();
    assert_eq!(wrong, Vec::<String>::new(), "padding or what does not exist was asked for");
}

#[test]
fn ranges_beyond_four_gibibytes_of_a_file_are_read_from_nginx() {
    const TOTAL: u64 = 9 << 30;
    if missing(&[Need::Fuse, Need::Program("nginx")]) {
        return;
    }
    let stage = Stage::new("web-seed-huge");
    let site = stage.subdir("site");
    let huge = site.join("huge.bin");
    ramp::write_sparse_zeros(&huge, TOTAL).expect("a sparse file takes no space");
    let torrent = TorrentFile::zeros("huge.bin", TOTAL, 1 << 20, &[]);
    let nginx = Nginx::start(&stage, &site);
    let source = text(&stage.write_torrent(&torrent));
    let mount = stage.mount(&[&source], &["--web-seed", &nginx.url("/huge.bin")]);
    let file = fs::File::open(mount.join("huge.bin")).expect("it can be opened");
    for offset in [0, (4 << 30) - 2048, (4 << 30) + 1, (7 << 30) + 12_345, TOTAL - 4096] {
        let mut buffer = [0xff; 4096];
        file.read_exact_at(&mut buffer, offset).expect("it can be read");
        assert_eq!(buffer, [0; 4096], "at {offset}");
    }
    let status = mount.torrent_status();
    assert!(status["downloaded_bytes"].as_u64().is_some_and(|bytes| bytes <= 12 << 20), "{status}");
    // nginx writes a line when it is done with the answer.
    let far = eventually("the last range is in the log", PATIENCE, || {
        let far = nginx.requests().into_iter().filter(|line| line.contains("bytes=9662627840-")).count();
        (far > 0).then_some(far)
    });
    assert_eq!(far, 1, "{:?}", nginx.requests());
}

#[test]
fn a_download_from_a_web_seed_alone_goes_on_where_it_was_when_the_server_comes_back() {
    let stage = Stage::new("web-seed-get");
    let server = origin();
    let source = text(&stage.write_torrent(&torrent()));
    // Half of it, then nothing but refusals: the command ends by its stall time-out.
    server.next(20, Fault::Truncate(150_000));
    server.always(Some(Fault::Status(503, "Retry-After: 1\r\n".to_owned())));
    let (seed, out) = (server.url("/files/"), text(&stage.subdir("out")));
    let args = ["get", &source, "--web-seed", &seed, "-o", &out];
    let first = stage.run(&[&args[..], &["--stall-timeout", "20s"]].concat());
    assert_eq!(first.code(), Some(5), "{first:?}");
    assert!(first.stderr.contains(&format!("{seed} answered with HTTP status 503")), "{first:?}");
    server.always(None);
    let _said = stage.run(&args).expect_success("wtfs get");
    content().check_file(&stage.join("out/seeded.bin"), BYTES).expect("every byte is right");
    assert!(server.sent_bytes() < BYTES * 3 / 2, "{} bytes were sent", server.sent_bytes());
}

#[test]
fn status_shows_web_seeds_as_a_kind_of_source() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("web-seed-status");
    let server = origin();
    let source = text(&stage.write_torrent(&torrent()));
    let mount = stage.mount(&[&source], &["--web-seed", &server.url("/files/seeded.bin?token=secret")]);
    content().check_file(&mount.join("seeded.bin"), BYTES).expect("every byte is right");
    let torrent = status_with_all(&mount);
    let kinds = torrent["sources"].as_array().cloned().unwrap_or_default();
    let web = kinds.iter().find(|kind| kind["kind"] == "web_seed").expect("there is one");
    assert_eq!(web["downloaded_bytes"], BYTES, "{torrent}");
    assert!(!torrent.to_string().contains("secret"), "{torrent}");
}
