//! What is refused is refused in the words that every client of Hugging Face understands, over plain HTTP and below a path
//! too; and what is gated or private is given to those alone whose right to it was checked, in the cache or not.

use serde_json::json;
use wtfs_testkit::{
    hf_hub::{Access, HfHub, RepoKind},
    ramp::Ramp,
};

use crate::support::{
    hf::{ALICE, BOB, CLIENTS, Way, World, ask, bearer, cache_dir, failed_as, ok, standard},
    need::{Need, missing},
};

const WEIGHTS: &str = "/org/gated/resolve/main/weights.bin";

/// Status, X-Error-Code and X-Error-Message of an answer with or without a token.
#[track_caller]
fn refusal(world: &World, path: &str, token: Option<&str>) -> (u16, Option<String>, Option<String>) {
    let shown = token.map(bearer);
    let headers: Vec<_> = shown.iter().map(|shown| ("Authorization", &**shown)).collect();
    let (got, head) = (world.ask("GET", path, &headers), world.ask("HEAD", path, &headers));
    assert_eq!(got.status, head.status, "{path}");
    let header = |name: &str| got.header(name).map(str::to_owned);
    assert_eq!(header("X-Error-Code").as_deref(), head.header("X-Error-Code"), "{path}");
    (got.status, header("X-Error-Code"), header("X-Error-Message"))
}

#[test]
fn each_refusal_has_its_status_and_its_code() {
    let world = World::with_hub("hf-refusals", standard(), &[]);
    for below in ["", "/hf"] {
        let code = |path: &str, token| {
            let (status, code, _) = refusal(&world, &format!("{below}{path}"), token);
            (status, code.unwrap_or_default())
        };
        let is = |status, code: &str| (status, code.to_owned());
        for path in [
            "/api/models/org/model/revision/none",
            "/org/model/resolve/none/config.json",
            "/api/models/org/model/tree/none",
        ] {
            assert_eq!(code(path, None), is(404, "RevisionNotFound"), "{path}");
        }
        for path in [
            "/org/model/resolve/main/none.json",
            "/api/models/org/model/tree/main/none",
            "/org/model/raw/main/none",
        ] {
            assert_eq!(code(path, None), is(404, "EntryNotFound"), "{path}");
        }
        // Private or not there at all: nobody can tell.
        for id in ["org/none", "org/secret"] {
            for path in [
                format!("/api/models/{id}"),
                format!("/{id}/resolve/main/config.json"),
                format!("/api/models/{id}/tree/main"),
            ] {
                assert_eq!(code(&path, None), is(401, "RepoNotFound"), "{path}");
                assert_eq!(code(&path, Some(BOB)), is(404, "RepoNotFound"), "{path}");
            }
        }
        assert_eq!(code("/org/secret/resolve/main/config.json", Some(ALICE)), is(200, ""));
        assert_eq!(code("/api/models/org/gated", None), is(200, ""));
        assert_eq!(code("/api/models/org/gated/tree/main", None), is(200, ""));
        for path in [WEIGHTS, "/org/gated/resolve/main/config.json", "/api/models/org/gated/auth-check"] {
            assert_eq!(code(path, None), is(401, "GatedRepo"), "{path}");
            assert_eq!(code(path, Some(BOB)), is(403, "GatedRepo"), "{path}");
            assert_eq!(code(path, Some(ALICE)), is(200, ""), "{path}");
        }
        let (status, shut, message) =
            refusal(&world, &format!("{below}/org/shut/resolve/main/a"), Some(ALICE));
        let expected = "Access to this resource is disabled.";
        assert_eq!((status, shut, message.as_deref()), (403, None, Some(expected)));
        // A token that nobody has opens nothing; what is public needs none.
        for path in [WEIGHTS, "/org/secret/resolve/main/config.json", "/api/whoami-v2"] {
            assert_eq!(code(path, Some("hf_nobody")).0, 401, "{path}");
        }
        assert_eq!(code("/api/whoami-v2", None).0, 401);
    }
    let missing = world.get("/org/model/resolve/main/none.json");
    let commit = world.upstream.commit_of(RepoKind::Model, "org/model", "main");
    assert_eq!(missing.header("X-Repo-Commit"), Some(&*commit), "clients remember by it what is not there");
}

#[test]
fn every_client_raises_the_error_that_is_meant() {
    let world = World::with_hub("hf-raised", standard(), &[]);
    for version in CLIENTS {
        if missing(&[Need::HfClient(version)]) {
            continue;
        }
        for way in [Way::Hub, Way::HubBelow] {
            let cache = cache_dir(&world, &format!("{version}-{way:?}"));
            let step = |id: &str, file: &str, revision: &str, token: serde_json::Value| json!({ "do": "download", "id": id, "file": file, "revision": revision, "token": token, "cache_dir": cache });
            let no = json!(false);
            let cases = [
                (step("org/none", "config.json", "main", no.clone()), "RepositoryNotFoundError"),
                (step("org/none", "config.json", "main", json!(BOB)), "RepositoryNotFoundError"),
                (step("org/secret", "config.json", "main", no.clone()), "RepositoryNotFoundError"),
                (step("org/secret", "config.json", "main", json!(BOB)), "RepositoryNotFoundError"),
                (step("org/model", "config.json", "none", no.clone()), "RevisionNotFoundError"),
                (step("org/model", "none.json", "main", no.clone()), "EntryNotFoundError"),
                (step("org/gated", "weights.bin", "main", no.clone()), "GatedRepoError"),
                (step("org/gated", "weights.bin", "main", json!(BOB)), "GatedRepoError"),
            ];
            let mut steps: Vec<_> = cases.iter().map(|(step, _)| step.clone()).collect();
            steps.push(step("org/gated", "weights.bin", "main", json!(ALICE)));
            steps.push(json!({ "do": "no_exist", "id": "org/model", "file": "none.json", "token": no, "cache_dir": cache }));
            let done = world.client(version, way).steps(&steps);
            for ((step, class), result) in cases.iter().zip(&done) {
                assert!(failed_as(result, class), "{version} {way:?} {step}: {result}");
            }
            assert_eq!(ok(&done[cases.len()])["bytes"], 300_000, "{version}");
            assert_eq!(ok(&done[cases.len() + 1])["remembered"], true, "{version}: {:?}", done.last());
        }
    }
}

#[test]
fn what_is_cached_of_a_gated_repository_is_given_to_nobody_else() {
    let mut world = World::with_hub("hf-gated", standard(), &[]);
    let by = |world: &World, path: &str, token: Option<&str>| {
        let shown = token.map(bearer);
        let mut headers: Vec<_> = shown.iter().map(|shown| ("Authorization", &**shown)).collect();
        headers.push(("Range", "bytes=0-99"));
        ask(world.addr(Way::Hub), "GET", path, &headers, "")
    };
    let commit = world.upstream.commit_of(RepoKind::Model, "org/gated", "main");
    let first = world.ask("GET", WEIGHTS, &[("Authorization", &bearer(ALICE))]);
    assert_eq!(first.status, 200);
    Ramp::new(5).check(0, &first.body).expect("the ramp");
    let secret =
        world.ask("GET", "/org/secret/resolve/main/weights.bin", &[("Authorization", &bearer(ALICE))]);
    Ramp::new(6).check(0, &secret.body).expect("the ramp");
    let pinned = WEIGHTS.replace("main", &commit);
    for path in [WEIGHTS, &pinned] {
        for (token, status) in [(None, 401), (Some(BOB), 403), (Some("hf_nobody"), 401), (Some(ALICE), 206)] {
            let answer = by(&world, path, token);
            assert_eq!(answer.status, status, "{path} {token:?}");
            assert!(status == 206 || !answer.body.windows(16).any(|part| part == Ramp::new(5).bytes(0, 16)));
        }
    }
    for token in [None, Some(BOB), Some("hf_nobody")] {
        let answer = by(&world, "/org/secret/resolve/main/weights.bin", token);
        assert!(matches!(answer.status, 401 | 404), "{token:?}: {}", answer.head);
        let listing = by(&world, "/api/models/org/secret/tree/main", token);
        assert!(matches!(listing.status, 401 | 404), "{token:?}: {}", listing.head);
    }
    // Nothing of it is on the swarm's side either.
    for path in
        ["/torrent/org/gated", "/magnet/org/gated", "/torrent/org/secret", "/torrent/org/gated/weights.bin"]
    {
        let answer = world.get(path);
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.head);
    }
    let listed = String::from_utf8_lossy(&world.get("/hf-stats").body).into_owned();
    assert!(!listed.contains("secret"), "{listed}");
    // The tokens are nowhere: not in what the hub says, not in what it keeps.
    world.end_hub();
    for (path, _) in world.cached_files() {
        let bytes = std::fs::read(&path).expect("it can be read");
        assert!(!bytes.windows(ALICE.len()).any(|part| part == ALICE.as_bytes()), "{}", path.display());
    }
    for log in crate::support::stage::walk(&world.stage.join("logs")) {
        let name = world.stage.join("logs").join(&log);
        if log.to_string_lossy().starts_with("serve") && name.is_file() {
            let said = std::fs::read_to_string(&name).expect("it can be read");
            assert!(!said.contains(ALICE) && !said.contains("Signature="), "{}", log.display());
        }
    }
}

#[test]
fn a_revoked_token_gets_nothing_more() {
    let mut world = World::new("hf-revoked", standard());
    world.stage.set_variable("WTFS_HUB_HF_GRANT_TTL", "0s");
    world.start_hub(&[]);
    let by_alice =
        |world: &World, path: &str| world.ask("GET", path, &[("Authorization", &bearer(ALICE))]).status;
    assert_eq!(by_alice(&world, WEIGHTS), 200);
    assert_eq!(by_alice(&world, "/org/secret/resolve/main/config.json"), 200);
    world.upstream.revoke(RepoKind::Model, "org/gated", ALICE);
    assert_eq!(by_alice(&world, WEIGHTS), 403);
    world.upstream.retire_token(ALICE);
    assert_eq!(by_alice(&world, "/org/secret/resolve/main/config.json"), 401);
}

#[test]
fn with_upstream_gone_public_content_stays_and_gated_content_does_not() {
    let mut world = World::new("hf-gone", standard());
    world.stage.set_variable("WTFS_HUB_HF_GRANT_TTL", "0s");
    world.start_hub(&[]);
    let public = "/org/model/resolve/main/config.json";
    assert_eq!(world.get(public).status, 200);
    assert_eq!(world.ask("GET", WEIGHTS, &[("Authorization", &bearer(ALICE))]).status, 200);
    world.upstream.stop();
    assert_eq!(world.get(public).status, 200);
    for token in [Some(ALICE), Some(BOB), None] {
        let (status, code, _) = refusal(&world, WEIGHTS, token);
        assert!(matches!(status, 401 | 403 | 502..=504), "{token:?}: {status}");
        assert_ne!(
            code.as_deref(),
            Some("RepoNotFound"),
            "it is not said to be gone when nobody could be asked"
        );
    }
    // What was never seen is not said to be missing either.
    let (status, code, _) = refusal(&world, "/api/models/org/data-never-seen", None);
    assert!((502..=504).contains(&status), "{status}");
    assert_eq!(code, None);
}

#[test]
fn offline_the_hub_asks_nobody_and_keeps_to_the_rules() {
    let mut world = World::with_hub("hf-offline", standard(), &[]);
    assert_eq!(world.get("/org/model/resolve/main/config.json").status, 200);
    assert_eq!(world.ask("GET", WEIGHTS, &[("Authorization", &bearer(ALICE))]).status, 200);
    world.end_hub();
    world.start_hub(&["--hf-offline"]);
    world.upstream.clear_log();
    let here = world.get("/org/model/resolve/main/config.json");
    assert_eq!((here.status, &here.body[..]), (200, &b"{\"model_type\": \"bert\"}"[..]));
    assert!((500..=504).contains(&world.get("/org/model/resolve/main/large.bin").status));
    for headers in [&[][..], &[("Authorization", &*bearer(BOB))]] {
        let answer = world.ask("GET", WEIGHTS, headers);
        assert_ne!(answer.status, 200, "{headers:?}");
    }
    world.upstream.log().assert_silent("offline");
}

#[test]
fn a_repository_that_becomes_private_is_no_longer_given_to_everybody() {
    let builder = HfHub::builder().model("org/model").file("config.json", "{}").ramp("w.bin", 1, 100_000);
    let mut world = World::new("hf-closed", builder);
    world.stage.set_variable("WTFS_HUB_HF_REF_TTL", "0s");
    world.stage.set_variable("WTFS_HUB_HF_PUBLIC_TTL", "0s");
    world.start_hub(&[]);
    assert_eq!(world.get("/org/model/resolve/main/w.bin").status, 200);
    world.upstream.set_access(RepoKind::Model, "org/model", Access::Private);
    assert!(matches!(world.get("/org/model/resolve/main/w.bin").status, 401 | 404));
}
