//! The emulator as a plain HTTP client sees it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

use super::*;
use crate::ramp::Ramp;

/// One answer as it came: an error of the connection ends the body.
struct Got {
    status: u16,
    head: String,
    body: Vec<u8>,
    error: Option<std::io::ErrorKind>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

fn ask(method: &str, url: &str, headers: &str) -> Got {
    let rest = url.strip_prefix("http://").expect("absolute");
    let (host, path) = rest.split_once('/').expect("with a path");
    let mut stream = TcpStream::connect(host).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    let request = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).err().map(|error| error.kind());
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Got { status: 0, head: String::new(), body: received, error };
    };
    let head = String::from_utf8(received[..end].to_vec()).expect("a head is text");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
    Got { status, head, body: received[end + 4..].to_vec(), error }
}

fn get(url: &str) -> Got {
    ask("GET", url, "")
}

const LARGE: u64 = 300_000;

fn hub() -> HfHub {
    HfHub::builder()
        .account("alice", "hf_alice")
        .account("bob", "hf_bob")
        .model("org/name")
        .file("config.json", "{\"a\": 1}")
        .file("sub dir/we ird#1%.txt", "odd")
        .ramp("model.safetensors", 1, LARGE)
        .tag("v1")
        .file("config.json", "{\"a\": 2}")
        .alias("name")
        .model("org/gated")
        .gated()
        .grant("hf_alice")
        .ramp("w.bin", 2, 1000)
        .model("org/secret")
        .private()
        .grant("hf_alice")
        .file("a.txt", "a")
        .model("org/shut")
        .access(Access::Disabled)
        .start()
}

/// Follows the one redirect of a file.
fn location(hub: &HfHub, path: &str) -> String {
    let found = get(&format!("{}{path}", hub.endpoint()));
    let location = found.header("Location").unwrap_or_else(|| panic!("{path}: {}", found.head)).to_owned();
    if location.starts_with('/') { format!("{}{location}", hub.endpoint()) } else { location }
}

#[test]
fn a_large_file_is_redirected_to_the_other_origin_which_takes_no_token() {
    let hub = hub();
    let head = ask("HEAD", &format!("{}/org/name/resolve/main/model.safetensors", hub.endpoint()), "");
    let sha256 = Content::ramp(1, LARGE).sha256();
    assert_eq!(head.status, 302);
    assert_eq!(head.header("X-Linked-Etag"), Some(&*format!("\"{sha256}\"")));
    assert_eq!(head.header("X-Linked-Size"), Some("300000"));
    assert_eq!(head.header("X-Repo-Commit"), Some(&*hub.commit_of(RepoKind::Model, "org/name", "main")));
    let url = head.header("Location").expect("a place");
    assert!(url.starts_with(&hub.cdn()), "{url}");
    let whole = get(url);
    assert_eq!((whole.status, whole.header("Content-Length")), (200, Some("300000")));
    assert_ne!(whole.header("ETag"), Some(&*format!("\"{sha256}\"")));
    assert_eq!(whole.header("X-Linked-Etag"), None);
    Ramp::new(1).check(0, &whole.body).expect("the ramp");
    let part = ask("GET", url, "Range: bytes=1000-1999\r\n");
    assert_eq!((part.status, part.header("Content-Range")), (206, Some("bytes 1000-1999/300000")));
    Ramp::new(1).check(1000, &part.body).expect("the ramp");
    assert_eq!(part.body.len(), 1000);
    assert_eq!(ask("GET", url, "Range: bytes=300000-\r\n").header("Content-Range"), Some("bytes */300000"));
    assert_eq!(ask("GET", url, "Authorization: Bearer hf_alice\r\n").status, 400);
    assert_eq!(get(&url.replace("Expires=", "Expires=9")).status, 403);
    let log = hub.log().at(Side::Cdn).of("*/org/name/model.safetensors?*");
    assert_eq!(log.of("*").count(), 5);
    assert_eq!(log.0[0].sent_bytes(), LARGE);
}

#[test]
fn a_signed_url_expires() {
    let hub = HfHub::builder().cdn_expiry(Duration::ZERO).model("o/n").ramp("w.bin", 1, 10).start();
    let url = location(&hub, "/o/n/resolve/main/w.bin");
    crate::wait::eventually("it expires", Duration::from_secs(20), || {
        (get(&url).status == 403).then_some(())
    });
}

#[test]
fn a_small_file_is_redirected_on_the_hub_and_compressed_for_who_asks() {
    let hub = hub();
    let url = location(&hub, "/org/name/resolve/v1/config.json");
    assert!(url.contains("/api/resolve-cache/models/org/name/"), "{url}");
    let plain = get(&url);
    assert_eq!((plain.status, &plain.body[..]), (200, &b"{\"a\": 1}"[..]));
    let oid = format!("\"{}\"", Content::from("{\"a\": 1}").git_sha1());
    assert_eq!(plain.header("ETag"), Some(&*oid));
    assert_eq!(ask("GET", &url, &format!("If-None-Match: {oid}\r\n")).status, 304);
    let packed = ask("GET", &url, "Accept-Encoding: gzip\r\n");
    assert_eq!((packed.status, packed.header("Content-Length")), (200, None));
    assert_eq!(packed.header("ETag"), Some(&*format!("W/{oid}")));
    let part = ask("GET", &url, "Accept-Encoding: gzip\r\nRange: bytes=0-0\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &b"{"[..]));
    // Old clients drop the query.
    assert_eq!(get(url.split('?').next().expect("a part")).body, b"{\"a\": 1}");
    let odd = get(&location(&hub, "/org/name/resolve/main/sub%20dir/we%20ird%231%25.txt"));
    assert_eq!(odd.body, b"odd");
}

#[test]
fn the_cdn_compresses_text_and_forgets_the_range() {
    let hub = HfHub::builder().model("o/n").ramp("large.csv", 1, 11 << 20).start();
    let url = location(&hub, "/o/n/resolve/main/large.csv");
    let packed = ask("GET", &url, "Accept-Encoding: gzip\r\nRange: bytes=0-0\r\n");
    assert_eq!((packed.status, packed.header("Content-Length")), (200, None));
    assert_eq!(packed.header("Content-Encoding"), Some("gzip"));
    assert_eq!(ask("GET", &url, "Range: bytes=0-0\r\n").status, 206);
}

#[test]
fn listings_are_paged_by_an_absolute_link() {
    let mut builder = HfHub::builder().page_size(7).model("o/n");
    for n in 0..20 {
        builder = builder.file(&format!("d{}/f{n}", n % 3), "x");
    }
    let hub = builder.start();
    let mut url = format!("{}/api/models/o/n/tree/main?recursive=True", hub.endpoint());
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let page = get(&url);
        assert_eq!(page.status, 200, "{url}");
        names.extend(page.json().as_array().expect("a list").iter().map(|entry| entry["path"].to_string()));
        pages += 1;
        let Some(link) = page.header("Link") else { break };
        url = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("a Link").0.to_owned();
        assert!(url.starts_with(&hub.endpoint()), "{url}");
    }
    assert_eq!((pages, names.len()), (4, 23));
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 23);
    assert_eq!(get(&format!("{}/api/models/o/n/tree/main?cursor=7", hub.endpoint())).status, 400);
}

#[test]
fn what_may_not_be_known_looks_as_if_it_were_not_there() {
    let hub = hub();
    let api = |id: &str, headers: &str| {
        let got = ask("GET", &format!("{}/api/models/{id}", hub.endpoint()), headers);
        (got.status, got.header("X-Error-Code").map(str::to_owned))
    };
    let alice = "Authorization: Bearer hf_alice\r\n";
    let bob = "Authorization: Bearer hf_bob\r\n";
    let missing = Some("RepoNotFound".to_owned());
    for id in ["org/secret", "org/none"] {
        assert_eq!(api(id, ""), (401, None), "{id}");
        assert_eq!(api(id, bob), (404, missing.clone()), "{id}");
    }
    assert_eq!(api("org/secret", alice), (200, None));
    assert_eq!(api("org/name", "Authorization: Bearer hf_x\r\n"), (401, None));
    assert_eq!(api("org/shut", alice), (403, None));
    assert_eq!(api("org/gated", ""), (200, None));
    let file = |headers: &str| {
        let got = ask("GET", &format!("{}/org/gated/resolve/main/w.bin", hub.endpoint()), headers);
        (got.status, got.header("X-Error-Code").map(str::to_owned))
    };
    let gated = Some("GatedRepo".to_owned());
    assert_eq!([file(""), file(bob), file(alice)], [(401, gated.clone()), (403, gated), (302, None)]);
    hub.revoke(RepoKind::Model, "org/gated", "hf_alice");
    assert_eq!(file(alice).0, 403);
}

#[test]
fn other_names_redirect_and_keep_the_rest_of_the_url() {
    let hub = hub();
    for id in ["name", "ORG/Name"] {
        let got = get(&format!("{}/api/models/{id}/tree/main?recursive=true", hub.endpoint()));
        let expected = "/api/models/org/name/tree/main?recursive=true";
        assert_eq!((got.status, got.header("Location")), (307, Some(expected)), "{id}");
        let got = get(&format!("{}/{id}/resolve/main/config.json", hub.endpoint()));
        assert_eq!((got.status, got.header("Location")), (307, Some("/org/name/resolve/main/config.json")));
    }
}

#[test]
fn errors_carry_their_codes() {
    let hub = hub();
    let got = get(&format!("{}/org/name/resolve/nope/config.json", hub.endpoint()));
    assert_eq!((got.status, got.header("X-Error-Code")), (404, Some("RevisionNotFound")));
    let got = get(&format!("{}/org/name/resolve/main/nope", hub.endpoint()));
    assert_eq!((got.status, got.header("X-Error-Code")), (404, Some("EntryNotFound")));
    assert!(got.header("X-Repo-Commit").is_some());
}

#[test]
fn refs_move_and_commits_stay() {
    let hub = hub();
    let (kind, id) = (RepoKind::Model, "org/name");
    let (main, tag) = (hub.commit_of(kind, id, "main"), hub.commit_of(kind, id, "v1"));
    assert_ne!(main, tag);
    assert_eq!(main, self::hub().commit_of(kind, id, "main"), "commits follow from what they hold");
    let pushed = hub.push(kind, id, "main", [("new.txt".to_owned(), "n")]);
    assert_eq!(hub.commit_of(kind, id, "main"), pushed);
    assert_eq!(get(&location(&hub, "/org/name/resolve/main/new.txt")).body, b"n");
    hub.set_ref(kind, id, "main", &tag);
    assert_eq!(get(&location(&hub, "/org/name/resolve/main/config.json")).body, b"{\"a\": 1}");
    let refs = get(&format!("{}/api/models/org/name/refs", hub.endpoint())).json();
    assert_eq!(refs["branches"][0]["targetCommit"], *tag);
    assert_eq!(refs["tags"][0]["name"], "v1");
}

#[test]
fn bodies_break_as_they_are_told_to() {
    let hub = hub();
    let url = location(&hub, "/org/name/resolve/main/model.safetensors");
    let once = |kind| hub.fault(Fault::cdn(kind).path("*model.safetensors*").times(1));

    once(FaultKind::Truncate { after: 100_000 });
    let got = get(&url);
    assert_eq!((got.body.len(), got.header("Content-Length"), got.error), (100_000, Some("300000"), None));

    once(FaultKind::Reset { after: Some(100_000) });
    let got = get(&url);
    assert_eq!((got.body.len(), got.error), (100_000, Some(std::io::ErrorKind::ConnectionReset)));

    once(FaultKind::Reset { after: None });
    let got = get(&url);
    assert_eq!((got.status, got.error), (0, Some(std::io::ErrorKind::ConnectionReset)));

    once(FaultKind::Corrupt { at: 250_000 });
    let part = ask("GET", &url, "Range: bytes=200000-\r\n");
    assert_eq!(Ramp::new(1).check(200_000, &part.body).expect_err("a flipped bit").offset, 250_000);

    once(FaultKind::NoRange);
    assert_eq!(ask("GET", &url, "Range: bytes=0-0\r\n").status, 200);

    once(FaultKind::BadRange { by: 5 });
    let got = ask("GET", &url, "Range: bytes=0-9\r\n");
    assert_eq!(got.header("Content-Range"), Some("bytes 5-14/300000"));

    once(FaultKind::NoLength);
    let got = get(&url);
    assert_eq!((got.header("Content-Length"), got.header("Transfer-Encoding")), (None, Some("chunked")));

    once(FaultKind::WrongLength(-1));
    assert_eq!(get(&url).header("Content-Length"), Some("299999"));

    once(FaultKind::Status(503));
    assert_eq!(get(&url).status, 503);

    once(FaultKind::RateLimit { seconds: 3 });
    assert_eq!(get(&url).header("RateLimit"), Some("\"resolvers\";r=0;t=3"));

    once(FaultKind::NoEtag);
    assert_eq!(get(&url).header("ETag"), None);

    once(FaultKind::Redirect("http://169.254.169.254/".to_owned()));
    assert_eq!(get(&url).header("Location"), Some("http://169.254.169.254/"));

    let got = get(&url);
    assert_eq!((got.status, got.body.len()), (200, 300_000), "all faults are spent");
}

#[test]
fn a_stalled_body_stays_open_and_a_slow_one_takes_its_time() {
    let hub = hub();
    let url = location(&hub, "/org/name/resolve/main/model.safetensors");
    hub.fault(Fault::cdn(FaultKind::Slow { rate: 150_000 }).times(1));
    let began = std::time::Instant::now();
    assert_eq!(get(&url).body.len(), 300_000);
    assert!(began.elapsed() > Duration::from_millis(1700), "{:?}", began.elapsed());
    hub.fault(Fault::cdn(FaultKind::Stall { after: 10 }).times(1));
    let mut stream = TcpStream::connect(hub.cdn_addr()).expect("it listens");
    let path = url.strip_prefix(&hub.cdn()).expect("on the CDN");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: c\r\n\r\n").expect("it reads");
    stream.set_read_timeout(Some(Duration::from_millis(400))).expect("a socket");
    let mut received = Vec::new();
    let error = stream.read_to_end(&mut received).expect_err("it stalls");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    assert!(received.ends_with(&Ramp::new(1).bytes(0, 10)));
}

#[test]
fn it_goes_down_and_comes_back_at_the_same_addresses() {
    let mut hub = hub();
    let url = format!("{}/api/models/org/name", hub.endpoint());
    assert_eq!(get(&url).status, 200);
    hub.stop();
    assert!(TcpStream::connect(hub.hub_addr()).is_err());
    hub.restart();
    assert_eq!(get(&url).status, 200);
}

#[test]
fn xet_is_advertised_only_when_it_is_to_be() {
    for (builder, expected) in [(HfHub::builder(), false), (HfHub::builder().with_xet(), true)] {
        let hub = builder.model("o/n").ramp("w.bin", 1, 10).start();
        let tree = get(&format!("{}/api/models/o/n/tree/main", hub.endpoint())).json();
        assert_eq!(tree[0].get("xetHash").is_some(), expected);
        let head = ask("HEAD", &format!("{}/o/n/resolve/main/w.bin", hub.endpoint()), "");
        assert_eq!(head.header("X-Xet-Hash").is_some(), expected);
        assert_eq!(head.header("Link").is_some(), expected);
    }
}

#[test]
fn it_is_controlled_over_http_too() {
    let hub = hub();
    let body = r#"{"kind":"status","status":418,"side":"hub","times":1}"#;
    let headers = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(ask("POST", &format!("{}/_admin/fault", hub.endpoint()), &headers).status, 200);
    assert_eq!(get(&format!("{}/api/models/org/name", hub.endpoint())).status, 418);
    let log = get(&format!("{}/_admin/log", hub.endpoint())).json();
    assert_eq!(log[0]["faults"][0], "status");
    assert_eq!(log.as_array().map(Vec::len), Some(1));
}

#[test]
fn a_directory_is_served_as_it_lies() {
    let dir = crate::scratch::Scratch::new("hf-hub");
    std::fs::write(dir.subdir("models/org/name").join("a.txt"), "main").expect("a file");
    std::fs::write(dir.subdir("models/org/name@dev").join("a.txt"), "dev").expect("a file");
    Ramp::new(3).write_file(&dir.join("datasets/o/d/data/x.parquet"), 5000).expect("a file");
    let hub = HfHub::start(dir.path());
    assert_eq!(get(&location(&hub, "/org/name/resolve/main/a.txt")).body, b"main");
    assert_eq!(get(&location(&hub, "/org/name/resolve/dev/a.txt")).body, b"dev");
    let url = location(&hub, "/datasets/o/d/resolve/main/data/x.parquet");
    Ramp::new(3).check(0, &get(&url).body).expect("the ramp");
}
