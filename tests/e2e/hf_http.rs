//! `/resolve/` of the hub answers as RFC 9110 and the clients of Hugging Face want it: ranges, conditions, headers that are
//! the same for HEAD and GET, no coding, no redirect, and no word of where the bytes came from.

use std::{fs, process::Command};

use serde_json::Value;
use wtfs_testkit::{
    hf_hub::{Content, RepoKind},
    process,
    ramp::Ramp,
};

use crate::support::{
    hf::{Way, World, ask, begin, model_files, standard},
    need::{Need, missing},
    stage::{PATIENCE, text},
};

const LARGE: &str = "/org/model/resolve/main/large.bin";
const LARGE_BYTES: u64 = 12_000_000;

fn world(name: &str) -> World {
    World::with_hub(name, standard().page_size(7), &[])
}

#[test]
fn every_answer_of_resolve_carries_what_clients_need() {
    let world = world("hf-headers");
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    for (path, content) in model_files() {
        let encoded: String = path
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b == b'/' {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        for prefix in ["", "/hf"] {
            let url = format!("{prefix}/org/model/resolve/main/{encoded}");
            // Cold by HEAD first, so that HEAD cannot lean on a GET before it.
            let head = world.ask("HEAD", &url, &[]);
            let got = world.get(&url);
            assert_eq!((head.status, got.status), (200, 200), "{url}: {}", head.head);
            assert_eq!(got.body.len() as u64, content.len(), "{url}");
            let etag = got.header("ETag").expect("an ETag").to_owned();
            assert!(
                [content.sha256(), content.git_sha1()].contains(&etag.trim_matches('"').to_owned()),
                "{etag}"
            );
            assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
            for answer in [&head, &got] {
                assert_eq!(answer.header("X-Linked-Etag"), Some(&*etag), "{url}");
                assert_eq!(answer.header("X-Linked-Size"), Some(&*content.len().to_string()), "{url}");
                assert_eq!(answer.header("Content-Length"), Some(&*content.len().to_string()), "{url}");
                assert_eq!(answer.header("X-Repo-Commit"), Some(&*commit), "{url}");
                assert_eq!(answer.header("Accept-Ranges"), Some("bytes"), "{url}");
                assert_eq!(answer.header("X-Content-Type-Options"), Some("nosniff"), "{url}");
                let policy = answer.header("Content-Security-Policy").expect("a policy");
                assert!(policy.contains("default-src 'none'") && policy.contains("sandbox"), "{policy}");
                for none in
                    ["Content-Encoding", "Location", "Set-Cookie", "X-Powered-By", "X-Xet-Hash", "Via"]
                {
                    assert_eq!(answer.header(none), None, "{url}");
                }
            }
        }
    }
    world.upstream.log().assert_identity();
}

#[test]
fn ranges_are_served_cold_and_warm_as_rfc_9110_says() {
    let world = world("hf-ranges");
    let ramp = Ramp::new(2);
    for turn in ["cold", "warm"] {
        for (range, expected) in [
            ("bytes=0-0", Some((0, 1))),
            ("bytes=-7", Some((LARGE_BYTES - 7, LARGE_BYTES))),
            ("bytes=11999990-99999999999", Some((11_999_990, LARGE_BYTES))),
            ("bytes=5000000-5000099", Some((5_000_000, 5_000_100))),
            ("bytes=-99999999999", Some((0, LARGE_BYTES))),
            ("bytes=12000000-", None),
            ("bytes=-0", None),
        ] {
            let answer = world.ask("GET", LARGE, &[("Range", range)]);
            let Some((start, end)) = expected else {
                assert_eq!(answer.status, 416, "{turn} {range}");
                assert_eq!(answer.header("Content-Range"), Some("bytes */12000000"), "{turn} {range}");
                continue;
            };
            assert_eq!(answer.status, 206, "{turn} {range}: {}", answer.head);
            let said = format!("bytes {start}-{}/{LARGE_BYTES}", end - 1);
            assert_eq!(answer.header("Content-Range"), Some(&*said), "{turn} {range}");
            assert_eq!(answer.body.len() as u64, end - start, "{turn} {range}");
            ramp.check(start, &answer.body).unwrap_or_else(|wrong| panic!("{turn} {range}: {wrong}"));
        }
        for ignored in ["bytes=5-4", "bytes=a-b", "lines=0-1"] {
            assert_eq!(world.ask("GET", LARGE, &[("Range", ignored)]).status, 200, "{turn} {ignored}");
        }
        let whole = world.get(LARGE);
        ramp.check(0, &whole.body).unwrap_or_else(|wrong| panic!("{turn}: {wrong}"));
    }
    let small = world.ask("GET", "/org/model/resolve/main/config.json", &[("Range", "bytes=0-0")]);
    assert_eq!((small.status, small.header("Content-Range")), (206, Some("bytes 0-0/22")));
}

#[test]
fn an_empty_file_is_never_unsatisfiable() {
    let world = world("hf-empty");
    for range in ["bytes=0-0", "bytes=0-", "bytes=-1"] {
        let answer = world.ask("GET", "/org/model/resolve/main/pkg/__init__.py", &[("Range", range)]);
        assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("0")), "{range}");
        assert_eq!(answer.header("Content-Range"), Some("bytes */0"), "{range}");
    }
}

#[test]
fn conditions_are_kept() {
    let world = world("hf-conditions");
    let etag = world.ask("HEAD", LARGE, &[]).header("ETag").expect("an ETag").to_owned();
    for method in ["GET", "HEAD"] {
        let known = world.ask(method, LARGE, &[("If-None-Match", &etag)]);
        assert_eq!((known.status, known.header("ETag")), (304, Some(&*etag)), "{method}");
        assert!(known.header("X-Repo-Commit").is_some(), "{method}");
        assert!(known.body.is_empty(), "{method}");
    }
    assert_eq!(world.ask("HEAD", LARGE, &[("If-None-Match", "\"other\"")]).status, 200);
    let ranged = |tag: &str| world.ask("GET", LARGE, &[("Range", "bytes=0-9"), ("If-Range", tag)]).status;
    assert_eq!((ranged(&etag), ranged("\"other\"")), (206, 200));
    assert_eq!(world.ask("HEAD", LARGE, &[("Range", "bytes=0-9")]).status, 200);
}

#[test]
fn nothing_is_compressed_on_the_way() {
    let world = world("hf-coding");
    for path in ["/org/model/resolve/main/config.json", LARGE] {
        let answer = world.ask("GET", path, &[("Accept-Encoding", "gzip, br")]);
        assert_eq!(answer.header("Content-Encoding"), None, "{path}");
        assert!(answer.is_complete() && answer.header("Content-Length").is_some(), "{path}");
        let control = answer.header("Cache-Control").unwrap_or_default();
        assert!(control.contains("no-transform"), "{path}: {control}");
    }
}

#[test]
fn raw_gives_the_pointer_and_resolve_the_content() {
    let world = world("hf-raw");
    let raw = world.get("/org/model/raw/main/large.bin");
    let text = String::from_utf8_lossy(&raw.body).into_owned();
    let sha256 = Content::ramp(2, LARGE_BYTES).sha256();
    assert_eq!(
        text,
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 12000000\n")
    );
    assert_eq!(world.get("/org/model/raw/main/config.json").body, b"{\"model_type\": \"bert\"}");
}

#[test]
fn paths_that_climb_out_lead_nowhere() {
    let world = world("hf-climb");
    world.upstream.clear_log();
    for path in [
        "/org/model/resolve/main/../../../../etc/passwd",
        "/org/model/resolve/main/..%2f..%2f..%2fetc/passwd",
        "/org/model/resolve/main/%2e%2e/%2e%2e/etc/passwd",
        "/org/model/resolve/..%2f..%2fx/config.json",
        "/org/..%2fmodel/resolve/main/config.json",
        "/org/model/resolve/main/a%00b",
        "/org/model/resolve/main/a%5cb",
        "/org/model/resolve/main//config.json",
        "/org/model/resolve/main/%ff",
        "/api/models/org/../model",
        "/api/models/org/mod--el",
        "/api/models/org/model.git",
        "/api/models/org/model/tree/main/..%2f..",
    ] {
        let answer = world.get(path);
        assert!((400..=404).contains(&answer.status), "{path}: {}", answer.head);
        assert!(!answer.body.windows(5).any(|five| five == b"root:"), "{path}");
    }
    world.upstream.log().assert_silent("for names that cannot be");
}

#[test]
fn nothing_is_written_through_the_hub() {
    let world = world("hf-writes");
    world.upstream.clear_log();
    for (method, path) in [
        ("POST", "/api/models/org/model/commit/main"),
        ("POST", "/api/repos/create"),
        ("PUT", "/org/model/resolve/main/config.json"),
        ("DELETE", "/api/models/org/model"),
        ("POST", "/api/models/org/model/preupload/main"),
        ("POST", "/org/model.git/info/lfs/objects/batch"),
    ] {
        let answer = ask(world.addr(Way::Hub), method, path, &[("Content-Type", "application/json")], "{}");
        assert!(matches!(answer.status, 404 | 405), "{method} {path}: {}", answer.head);
    }
    world.upstream.log().assert_silent("for writes");
}

#[test]
fn paths_info_takes_a_form_and_json() {
    let world = world("hf-paths-info");
    for prefix in ["", "/hf"] {
        let path = format!("{prefix}/api/models/org/model/paths-info/main");
        for (kind, body) in [
            (
                "application/x-www-form-urlencoded",
                "paths=config.json&paths=sub+dir%2Fa%2Bb%26c%3Dd%3F.txt&paths=none&expand=false",
            ),
            ("application/json", r#"{"paths":["config.json","sub dir/a+b&c=d?.txt","none"],"expand":false}"#),
        ] {
            let answer = ask(world.addr(Way::Hub), "POST", &path, &[("Content-Type", kind)], body);
            assert_eq!(answer.status, 200, "{kind}: {}", answer.head);
            let found = answer.json();
            let names: Vec<_> =
                found.as_array().expect("a list").iter().map(|entry| &entry["path"]).collect();
            assert_eq!(names, ["config.json", "sub dir/a+b&c=d?.txt"], "{kind}");
        }
    }
}

/// All pages of a listing, and every Link on the way.
fn pages(world: &World, way: Way, path: &str) -> (Vec<Value>, Vec<String>) {
    let below = if way == Way::HubBelow { "/hf" } else { "" };
    let origin = format!("http://{}", world.addr(way));
    let (mut entries, mut links) = (Vec::new(), Vec::new());
    let mut next = format!("{below}{path}");
    loop {
        let answer = ask(world.addr(way), "GET", &next, &[], "");
        assert_eq!(answer.status, 200, "{next}");
        entries.extend(answer.json().as_array().expect("a list").iter().cloned());
        let Some(link) = answer.header("Link") else { return (entries, links) };
        let url =
            link.strip_prefix('<').and_then(|link| link.split_once(">; rel=\"next\"")).expect("a Link").0;
        url.strip_prefix(&origin).unwrap_or_else(|| panic!("{url} leads away")).clone_into(&mut next);
        assert!(next.starts_with(&format!("{below}/api/")), "{url}");
        links.push(url.to_owned());
    }
}

#[test]
fn pages_lead_to_the_hub_and_nowhere_else() {
    let world = world("hf-pages");
    for way in [Way::Hub, Way::HubBelow] {
        let (all, links) = pages(&world, way, "/api/models/org/model/tree/main?recursive=true&limit=4");
        assert_eq!((all.len(), links.len()), (15, 3), "{way:?}");
        let mut paths: Vec<_> = all.iter().map(|entry| entry["path"].to_string()).collect();
        paths.sort();
        paths.dedup();
        assert_eq!(paths.len(), 15, "{way:?}");
    }
}

#[test]
fn no_answer_names_another_origin() {
    let world = World::with_hub("hf-links", standard().with_xet().page_size(3), &[]);
    let (hub, cdn) = (world.upstream.hub_addr().to_string(), world.upstream.cdn_addr().to_string());
    for path in [
        "/api/models/org/model",
        "/api/models/org/model?blobs=true",
        "/api/models/org/model/revision/main",
        "/api/models/org/model/tree/main?recursive=true&expand=true",
        "/api/models/org/model/refs",
        "/api/models/org/model/commits/main",
        "/api/models/org/model/tree/main?recursive=true&limit=2",
        "/api/models?full=true&limit=1",
        "/api/datasets",
        "/api/spaces?expand=sdk",
        "/api/models/canonical",
        "/api/models/canonical/revision/main?expand=downloads",
        "/hf/api/models?limit=1",
        "/hf/canonical/resolve/main/config.json",
        "/torrent/org/gated",
        "/model/org/model",
        "/api/whoami-v2",
        "/api/datasets/org/data",
        "/api/spaces/org/space",
        "/api/models/org/none",
        "/api/models/org/gated/auth-check",
        "/org/model/resolve/main/config.json",
        "/org/model/resolve/main/none",
        "/org/model/resolve/none/config.json",
        "/canonical/resolve/main/config.json",
        "/org/gated/resolve/main/weights.bin",
        LARGE,
    ] {
        let answer = world.ask("HEAD", path, &[]);
        let got = world.get(path);
        let text = format!("{}\n{}\n{}", answer.head, got.head, String::from_utf8_lossy(&got.body));
        for url in text.match_indices("http").map(|(at, _)| &text[at..]) {
            let is_ours = url.starts_with(&format!("http://{}/", world.addr(Way::Hub)));
            assert!(
                is_ours || !url.starts_with("http://") && !url.starts_with("https://"),
                "{path}: {url:.80}"
            );
        }
        for foreign in [&*hub, &*cdn, "huggingface.co", "hf.co", "xet"] {
            assert!(!text.contains(foreign), "{path} names {foreign}: {}", got.head);
        }
    }
}

#[test]
fn curl_resumes_and_llama_cpp_finds_its_way() {
    if missing(&[Need::Program("curl")]) {
        return;
    }
    let world = world("hf-curl");
    let out = world.stage.join("large.bin");
    Ramp::new(2).write_file(&out, 5_000_001).expect("a part of the file");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--compressed", "-C", "-", "-o", &text(&out)]);
    curl.arg(format!("{}{LARGE}", world.endpoint(Way::Hub)));
    let _said = process::run(curl, PATIENCE).expect_success("curl -C -");
    Ramp::new(2).check_reader(fs::File::open(&out).expect("it was made"), LARGE_BYTES).expect("the ramp");
    // What llama.cpp does: refs, one page of the tree of the commit, HEAD, a whole GET, and a resumed one.
    let refs = world.get("/api/models/org/model/refs").json();
    let branches = refs["branches"].as_array().expect("branches");
    let main = branches.iter().find(|branch| branch["name"] == "main").expect("main");
    let commit = main["targetCommit"].as_str().expect("a commit");
    assert_eq!(commit.len(), 40);
    let tree = world.get(&format!("/api/models/org/model/tree/{commit}?recursive=true"));
    assert_eq!(tree.header("Link"), None, "it reads the first page alone");
    assert!(tree.json().as_array().expect("a list").iter().any(|entry| entry["path"] == "large.bin"));
    let path = format!("/org/model/resolve/{commit}/large.bin");
    assert_eq!(world.ask("HEAD", &path, &[]).header("Accept-Ranges"), Some("bytes"));
    assert_eq!(world.get(&path).status, 200);
    assert_eq!(world.ask("GET", &path, &[("Range", "bytes=1000-")]).status, 206);
}

#[test]
fn many_small_requests_over_one_connection_are_answered_in_turn() {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    let world = world("hf-keepalive");
    // The first request asks for the connection to be closed; so a bare stream of its own.
    drop(begin(world.addr(Way::Hub), "GET", "/org/model/resolve/main/config.json", &[], ""));
    let stream = std::net::TcpStream::connect(world.addr(Way::Hub)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut reader = BufReader::new(stream);
    for turn in 0..50 {
        let request = format!(
            "GET /org/model/resolve/main/config.json HTTP/1.1\r\nHost: hub\r\nX-Turn: {turn}\r\n\r\n"
        );
        reader.get_mut().write_all(request.as_bytes()).expect("it reads");
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            reader.read_line(&mut line).expect("a head");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a number");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        assert_eq!(body, b"{\"model_type\": \"bert\"}", "{turn}");
    }
}
