//! Whatever goes wrong upstream ends in the right bytes or in an honest error: never in wrong bytes, and never in a request to
//! somebody who was not to be asked.

use std::{io, net::TcpListener, time::Duration};

use wtfs_testkit::{
    hf_hub::{Fault, FaultKind, HfHub, HfHubBuilder, Side},
    net,
    ramp::Ramp,
    wait,
};

use crate::support::{
    hf::{Reply, World},
    stage::PATIENCE,
};

const BYTES: u64 = 5_000_000;

/// `w0.bin` and so on, each a ramp of its own number.
fn weights(count: u64) -> HfHubBuilder {
    let mut builder = HfHub::builder().model("org/model").file("config.json", "{}");
    for n in 0..count {
        builder = builder.ramp(&format!("w{n}.bin"), n, BYTES);
    }
    builder
}

fn take(world: &World, n: u64) -> Reply {
    world.get(&format!("/org/model/resolve/main/w{n}.bin"))
}

/// What a client may keep: an answer that says 200 and is as long as announced.
fn is_taken(answer: &Reply) -> bool {
    answer.status == 200 && answer.is_complete()
}

#[track_caller]
fn assert_right(answer: &Reply, n: u64, what: &str) {
    assert!(is_taken(answer), "{what}: {} and {} bytes, {:?}", answer.head, answer.body.len(), answer.error);
    assert_eq!(answer.body.len() as u64, BYTES, "{what}");
    Ramp::new(n).check(0, &answer.body).unwrap_or_else(|wrong| panic!("{what}: {wrong}"));
}

#[test]
fn a_transfer_that_fails_on_the_way_is_finished_without_the_client_noticing() {
    let faults = [
        Fault::cdn(FaultKind::Truncate { after: 1_000_001 }).times(1),
        Fault::cdn(FaultKind::Truncate { after: 700_000 }).times(3),
        Fault::cdn(FaultKind::Truncate { after: 0 }).times(1),
        Fault::cdn(FaultKind::Reset { after: Some(1_500_000) }).times(1),
        Fault::cdn(FaultKind::Reset { after: None }).times(1),
        Fault::cdn(FaultKind::Status(503)).times(2),
        Fault::cdn(FaultKind::Status(403)).times(1),
        Fault::cdn(FaultKind::RateLimit { seconds: 1 }).times(1),
        Fault::cdn(FaultKind::NoRange).times(1),
        Fault::cdn(FaultKind::NoRange),
        Fault::cdn(FaultKind::BadRange { by: 1 }).times(1),
        Fault::cdn(FaultKind::NoLength),
        Fault::cdn(FaultKind::NoEtag),
        Fault::cdn(FaultKind::WrongLength(-1)).times(1),
        Fault::cdn(FaultKind::WrongLength(1)).times(1),
        Fault::cdn(FaultKind::Slow { rate: 3_000_000 }),
        Fault::cdn(FaultKind::Page("<html>log in first</html>".to_owned())).times(1),
        Fault::cdn(FaultKind::Delay(Duration::from_secs(3))).times(1),
        Fault::hub(FaultKind::Status(503)).times(1),
        Fault::hub(FaultKind::RateLimit { seconds: 1 }).times(1),
        Fault::hub(FaultKind::Reset { after: None }).times(1),
    ];
    let world = World::with_hub("hf-faults", weights(faults.len() as u64), &[]);
    // What is known of the repository is known before anything goes wrong.
    assert_eq!(world.get("/api/models/org/model/tree/main").status, 200);
    for (n, fault) in (0_u64..).zip(faults) {
        let what = format!("{fault:?}");
        world.upstream.fault(fault.path(&format!("*/w{n}.bin*")));
        let before = world.upstream.log().of(&format!("*/w{n}.bin*")).count();
        assert_right(&take(&world, n), n, &what);
        let met = world.upstream.log().of(&format!("*/w{n}.bin*"));
        assert!(met.0[before..].iter().any(|request| !request.faults().is_empty()), "{what} was not met");
        world.upstream.log().assert_no_token_at_cdn();
    }
}

#[test]
fn a_transfer_that_stops_is_taken_up_again() {
    let world = World::with_hub("hf-stall", weights(1), &[]);
    world.upstream.fault(Fault::cdn(FaultKind::Stall { after: 1_000_000 }).times(1));
    assert_right(&take(&world, 0), 0, "a stall");
}

#[test]
fn a_signed_url_that_expires_is_asked_for_again() {
    // Long enough to be used in time on a machine that does much else.
    let world = World::with_hub("hf-expiry", weights(1).cdn_expiry(Duration::from_secs(4)), &[]);
    world.upstream.fault(Fault::cdn(FaultKind::Truncate { after: 900_000 }).times(4));
    world.upstream.fault(Fault::cdn(FaultKind::Delay(Duration::from_millis(5500))).skip(1).times(2));
    assert_right(&take(&world, 0), 0, "expiry");
}

#[test]
fn a_corrupt_byte_is_thrown_away_and_fetched_again() {
    let world = World::with_hub("hf-corrupt", weights(3), &[]);
    for (n, at) in [(0, 0), (1, BYTES / 2), (2, BYTES - 1)] {
        world.upstream.fault(Fault::cdn(FaultKind::Corrupt { at }).path(&format!("*/w{n}.bin*")).times(1));
        // A client may be cut off, and comes back; what it gets whole is right.
        let mut taken = None;
        for _ in 0..5 {
            let answer = take(&world, n);
            if is_taken(&answer) {
                taken = Some(answer);
                break;
            }
        }
        assert_right(&taken.expect("it comes after a few turns"), n, &format!("a flipped bit at {at}"));
        assert_right(&take(&world, n), n, "once more");
    }
}

#[test]
fn what_is_corrupt_for_ever_is_never_given_whole_nor_kept() {
    let world = World::with_hub("hf-lying", weights(1), &[]);
    world.upstream.fault(Fault::cdn(FaultKind::Corrupt { at: 4_000_000 }));
    for _ in 0..3 {
        let answer = take(&world, 0);
        assert!(!is_taken(&answer), "corrupt bytes were served as good: {}", answer.head);
        assert!(answer.status == 200 || (500..=504).contains(&answer.status), "{}", answer.head);
    }
    world.upstream.clear_faults();
    // For a minute nobody is asked for it again.
    let right = wait::eventually("it is fetched again", PATIENCE, || Some(take(&world, 0)).filter(is_taken));
    assert_right(&right, 0, "with an honest upstream again");
}

#[test]
fn what_upstream_says_instead_of_an_answer_is_neither_passed_on_nor_kept() {
    let world = World::with_hub("hf-garbage", weights(1), &[]);
    let path = "/api/models/org/model/tree/main?recursive=true";
    for fault in [
        Fault::hub(FaultKind::Page("<html>log in first</html>".to_owned())),
        Fault::hub(FaultKind::Truncate { after: 20 }),
        Fault::hub(FaultKind::Status(500)),
        Fault::hub(FaultKind::Status(503)),
        Fault::hub(FaultKind::RateLimit { seconds: 1 }),
        Fault::hub(FaultKind::Reset { after: None }),
        Fault::hub(FaultKind::Reset { after: Some(20) }),
    ] {
        let what = format!("{fault:?}");
        world.upstream.fault(fault.path("/api/models/*"));
        let answer = world.get(path);
        assert!(matches!(answer.status, 429 | 500..=504), "{what}: {}", answer.head);
        assert_eq!(answer.header("X-Error-Code"), None, "{what}: nobody said that it does not exist");
        assert!(!answer.body.windows(6).any(|part| part == b"log in"), "{what}");
        world.upstream.clear_faults();
    }
    wait::eventually("an honest upstream is passed on again", PATIENCE, || {
        (world.get(path).status == 200).then_some(())
    });
}

/// A place where nobody may come.
struct Trap(TcpListener);

impl Trap {
    fn new() -> Self {
        let listener = TcpListener::bind(net::fresh_addr()).expect("a loopback address");
        listener.set_nonblocking(true).expect("a socket");
        Self(listener)
    }

    fn url(&self) -> String {
        format!("http://{}/stolen", self.0.local_addr().expect("it is bound"))
    }

    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        let came = self.0.accept().map(|(_, from)| from);
        assert_eq!(came.err().map(|error| error.kind()), Some(io::ErrorKind::WouldBlock), "{what}");
    }
}

#[test]
fn redirects_to_where_nobody_may_be_sent_are_not_followed() {
    let trap = Trap::new();
    let port = trap.0.local_addr().expect("it is bound").port();
    let targets = [
        FaultKind::Redirect(trap.url()),
        FaultKind::Redirect(trap.url().replace("http://", "http://someone@")),
        FaultKind::Redirect(format!("http://localhost:{port}/")),
        FaultKind::Redirect("http://169.254.169.254/latest/meta-data/".to_owned()),
        FaultKind::Redirect("https://huggingface.co.attacker.invalid/x".to_owned()),
        FaultKind::Redirect("file:///etc/passwd".to_owned()),
        FaultKind::Redirect("//169.254.169.254/x".to_owned()),
        FaultKind::RedirectLoop,
    ];
    let count = 2 * targets.len() as u64;
    let world = World::with_hub("hf-redirects", weights(count), &[]);
    assert_eq!(world.get("/api/models/org/model/tree/main").status, 200);
    let sides = [Side::Hub, Side::Cdn];
    for (n, (side, kind)) in
        (0_u64..).zip(sides.iter().flat_map(|side| targets.iter().map(move |kind| (side, kind))))
    {
        let fault = match side {
            Side::Hub => Fault::hub(kind.clone()),
            Side::Cdn => Fault::cdn(kind.clone()),
        };
        world.upstream.fault(fault.path(&format!("*/w{n}.bin*")));
        let answer = take(&world, n);
        assert!(!is_taken(&answer), "{side:?} {kind:?}: {}", answer.head);
        assert!(answer.status == 200 || answer.status == 502, "{side:?} {kind:?}: {}", answer.head);
        trap.assert_untouched(&format!("{side:?} {kind:?}"));
        assert!(
            world.upstream.log().of(&format!("*/w{n}.bin*")).count() < 100,
            "{kind:?} is followed for ever"
        );
    }
}

#[test]
fn a_link_to_the_next_page_is_not_followed_to_another_place() {
    let trap = Trap::new();
    let world = World::with_hub("hf-link", weights(3), &[]);
    let link = format!("<{}?cursor=x>; rel=\"next\"", trap.url());
    world.upstream.fault(Fault::hub(FaultKind::Header("Link".to_owned(), link)).path("*/tree/*"));
    let answer = world.get("/api/models/org/model/tree/main?recursive=true");
    assert_eq!(answer.status, 502, "{}", answer.head);
    trap.assert_untouched("a Link");
    world.upstream.clear_faults();
    let endless = format!(
        "<{}/api/models/org/model/tree/main?recursive=true>; rel=\"next\"",
        world.upstream.endpoint()
    );
    world.upstream.fault(Fault::hub(FaultKind::Header("Link".to_owned(), endless)).path("*/tree/*"));
    let answer = world.get("/api/models/org/model/tree/main?recursive=true");
    assert_ne!(answer.status, 200, "pages that never end");
}

#[test]
fn a_token_goes_to_upstream_alone() {
    use crate::support::hf::{ALICE, bearer, standard};
    let world = World::with_hub("hf-token", standard(), &[]);
    let answer =
        world.ask("GET", "/org/gated/resolve/main/weights.bin", &[("Authorization", &bearer(ALICE))]);
    assert_eq!(answer.status, 200);
    let log = world.upstream.log();
    assert!(log.at(Side::Hub).0.iter().any(|request| request.authorization.is_some()), "it was passed on");
    log.assert_no_token_at_cdn();
    assert!(log.at(Side::Cdn).count() > 0);
}
