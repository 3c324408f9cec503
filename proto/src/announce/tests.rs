//! The rules of the schedule, each as one behaviour, and a random walk that checks its invariants against a naive
//! record of what was said to whom.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn tiers(names: &[&[&str]]) -> Vec<Vec<String>> {
    names.iter().map(|tier| tier.iter().map(|name| format!("http://{name}/announce")).collect()).collect()
}

/// Always the same draw: the order of a tier is whatever it makes, and the jitter is at its least.
fn zero() -> u64 {
    0
}

fn outcome(interval_s: u32, min_interval_s: Option<u32>) -> AnnounceOutcome {
    AnnounceOutcome { interval_s, min_interval_s, peers: 3, ..AnnounceOutcome::default() }
}

fn schedule(names: &[&[&str]]) -> AnnounceSchedule {
    AnnounceSchedule::new(&tiers(names), WebSockets::Unused, Duration::ZERO, &mut zero)
}

fn due(schedule: &mut AnnounceSchedule, now: Moment) -> Vec<Announce> {
    std::iter::from_fn(|| schedule.poll(now)).collect()
}

fn host(schedule: &AnnounceSchedule, announce: Announce) -> String {
    let url = schedule.tracker(announce.tracker).unwrap().url();
    url.trim_start_matches("http://").trim_end_matches("/announce").to_owned()
}

#[test]
fn announces_to_one_tracker_of_each_tier_with_started() {
    let mut schedule = schedule(&[&["a", "b"], &["c"]]);
    let first = due(&mut schedule, Duration::ZERO);
    assert_eq!(first.len(), 2);
    assert!(first.iter().all(|announce| announce.event == AnnounceEvent::Started));
    assert_eq!(schedule.next_wake(Duration::ZERO), None, "both tiers wait for answers");
}

#[test]
fn failure_moves_on_to_the_next_of_the_tier_at_once() {
    let mut schedule = schedule(&[&["a", "b", "c"]]);
    let mut tried = Vec::new();
    for _ in 0..3 {
        let announce = schedule.poll(Duration::ZERO).unwrap();
        tried.push(host(&schedule, announce));
        schedule.handle_failure(announce.tracker, Duration::ZERO, "refused".to_owned(), None, &mut zero);
    }
    tried.sort();
    assert_eq!(tried, ["a", "b", "c"]);
    assert_eq!(schedule.poll(Duration::ZERO), None);
    assert_eq!(schedule.next_wake(Duration::ZERO), Some(RETRY_FIRST));
}

#[test]
fn working_tracker_moves_to_the_front_and_is_kept() {
    let mut schedule = schedule(&[&["a", "b"]]);
    let bad = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_failure(bad.tracker, Duration::ZERO, "refused".to_owned(), None, &mut zero);
    let good = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_success(good.tracker, Duration::ZERO, outcome(1800, None));
    let order: Vec<_> = schedule.iter().map(|(_, tracker, _)| tracker.url().to_owned()).collect();
    assert_eq!(order[0], schedule.tracker(good.tracker).unwrap().url());
    assert_eq!(schedule.poll(1799 * SECOND), None, "the failed one is not tried while the other works");
    assert_eq!(schedule.next_wake(Duration::ZERO), Some(1800 * SECOND));
    let again = schedule.poll(1800 * SECOND).unwrap();
    assert_eq!(again, Announce { tracker: good.tracker, event: AnnounceEvent::None });
}

#[test]
fn failed_active_tracker_gives_way_to_its_tier() {
    let mut schedule = schedule(&[&["a", "b"]]);
    let first = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_success(first.tracker, Duration::ZERO, outcome(60, None));
    let again = schedule.poll(60 * SECOND).unwrap();
    assert_eq!(again.tracker, first.tracker);
    schedule.handle_failure(again.tracker, 60 * SECOND, "timed out".to_owned(), None, &mut zero);
    let other = schedule.poll(60 * SECOND).unwrap();
    assert_ne!(other.tracker, first.tracker);
    assert_eq!(other.event, AnnounceEvent::Started, "the other has not heard of us");
}

#[test]
fn interval_of_zero_is_raised_and_of_a_day_is_lowered() {
    for (stated, expected) in [(0, INTERVAL_FLOOR), (86_400, INTERVAL_CEILING), (900, 900 * SECOND)] {
        let mut schedule = schedule(&[&["a"]]);
        let announce = schedule.poll(Duration::ZERO).unwrap();
        schedule.handle_success(announce.tracker, Duration::ZERO, outcome(stated, None));
        assert_eq!(schedule.next_wake(Duration::ZERO), Some(expected));
    }
}

#[test]
fn need_of_peers_brings_the_announce_forward_to_the_minimum_interval() {
    let mut schedule = schedule(&[&["a"]]);
    let announce = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_success(announce.tracker, SECOND, outcome(1800, Some(300)));
    schedule.want_peers(10 * SECOND);
    assert_eq!(schedule.next_wake(10 * SECOND), Some(300 * SECOND));
    schedule.want_peers(400 * SECOND);
    assert_eq!(schedule.next_wake(400 * SECOND), Some(300 * SECOND), "it never moves back");
}

#[test]
fn need_of_peers_shortens_a_long_back_off() {
    let mut schedule = schedule(&[&["a"]]);
    let mut now = Duration::ZERO;
    for _ in 0..12 {
        let announce = schedule.poll(now).unwrap();
        schedule.handle_failure(announce.tracker, now, "refused".to_owned(), None, &mut zero);
        now = schedule.next_wake(now).unwrap();
    }
    let announce = schedule.poll(now).unwrap();
    schedule.handle_failure(announce.tracker, now, "refused".to_owned(), None, &mut zero);
    assert!(schedule.next_wake(now).unwrap() - now > RETRY_CEILING_IN_NEED);
    schedule.want_peers(now);
    assert_eq!(schedule.next_wake(now), Some(now + RETRY_CEILING_IN_NEED));
}

#[test]
fn completed_is_said_once_to_a_tracker_that_knows_us() {
    let mut schedule = schedule(&[&["a"], &["b"]]);
    let first = due(&mut schedule, Duration::ZERO);
    schedule.handle_success(first[0].tracker, Duration::ZERO, outcome(1800, Some(1800)));
    schedule.handle_failure(first[1].tracker, Duration::ZERO, "refused".to_owned(), None, &mut zero);
    schedule.handle_completed(SECOND);
    schedule.handle_completed(SECOND);
    let said = due(&mut schedule, SECOND);
    assert_eq!(said, [Announce { tracker: first[0].tracker, event: AnnounceEvent::Completed }]);
    schedule.handle_success(first[0].tracker, SECOND, outcome(1800, Some(1800)));
    assert!(due(&mut schedule, SECOND).is_empty());
    let late = due(&mut schedule, RETRY_FIRST);
    assert_eq!(late, [Announce { tracker: first[1].tracker, event: AnnounceEvent::Started }]);
}

#[test]
fn completion_during_started_is_said_right_after_it() {
    let mut schedule = schedule(&[&["a"]]);
    let started = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_completed(SECOND);
    schedule.handle_success(started.tracker, 2 * SECOND, outcome(1800, None));
    let said = schedule.poll(2 * SECOND).unwrap();
    assert_eq!(said.event, AnnounceEvent::Completed);
}

#[test]
fn completed_that_failed_is_said_again() {
    let mut schedule = schedule(&[&["a"]]);
    let started = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_success(started.tracker, Duration::ZERO, outcome(1800, None));
    schedule.handle_completed(SECOND);
    let said = schedule.poll(SECOND).unwrap();
    schedule.handle_failure(said.tracker, SECOND, "timed out".to_owned(), None, &mut zero);
    assert_eq!(schedule.poll(SECOND + RETRY_FIRST), Some(said));
}

#[test]
fn stopped_goes_to_those_that_accepted_started_and_ends_the_schedule() {
    let mut schedule = schedule(&[&["a"], &["b"], &["c"]]);
    let first = due(&mut schedule, Duration::ZERO);
    schedule.handle_success(first[0].tracker, Duration::ZERO, outcome(60, None));
    schedule.handle_failure(first[1].tracker, Duration::ZERO, "refused".to_owned(), None, &mut zero);
    assert_eq!(schedule.stop(), [first[0].tracker]);
    assert!(schedule.stop().is_empty(), "stopped is said once");
    assert_eq!(schedule.next_wake(100 * SECOND), None);
    assert_eq!(schedule.poll(100 * SECOND), None);
}

#[test]
fn websocket_and_unknown_schemes_are_listed_and_never_tried() {
    let urls = ["wss://a/announce", "gopher://b/", "no url at all"].map(str::to_owned).to_vec();
    let mut schedule = AnnounceSchedule::new(&[urls], WebSockets::Unused, Duration::ZERO, &mut zero);
    assert_eq!(schedule.poll(Duration::ZERO), None);
    assert_eq!(schedule.next_wake(Duration::ZERO), None);
    let states: Vec<_> = schedule.iter().map(|(_, tracker, next)| (tracker.state().clone(), next)).collect();
    assert_eq!(states.iter().filter(|(state, _)| *state == TrackerState::NeedsWebRtc).count(), 1);
    assert_eq!(states.iter().filter(|(state, _)| matches!(state, TrackerState::Unusable(_))).count(), 2);
    assert!(states.iter().all(|(_, next)| next.is_none()));
}

#[test]
fn web_socket_trackers_are_asked_beside_the_others_of_their_tier() {
    let tier = ["http://a/announce", "wss://b", "udp://c:1", "ws://d"].map(str::to_owned).to_vec();
    let next = vec!["http://e/announce".to_owned()];
    let mut schedule = AnnounceSchedule::new(&[tier, next], WebSockets::Used, Duration::ZERO, &mut zero);
    let first = due(&mut schedule, Duration::ZERO);
    let kinds: Vec<_> = first.iter().filter_map(|due| Some(schedule.tracker(due.tracker)?.kind())).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == TrackerKind::WebSocket).count(), 1, "{kinds:?}");
    assert_eq!(kinds.len(), 3, "one of each kind, and the one of the next tier");
    let numbers: Vec<_> = schedule.iter().map(|(number, ..)| number).collect();
    assert_eq!(numbers, [0, 0, 0, 0, 1]);
}

#[test]
fn after_a_lost_connection_started_is_said_again() {
    let urls = [vec!["ws://a".to_owned()]];
    let mut schedule = AnnounceSchedule::new(&urls, WebSockets::Used, Duration::ZERO, &mut zero);
    let first = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_success(first.tracker, Duration::ZERO, outcome(120, None));
    schedule.handle_lost(first.tracker, SECOND, "it broke off".to_owned(), &mut zero);
    let state = schedule.tracker(first.tracker).unwrap().state().clone();
    assert_eq!(state, TrackerState::Failing("it broke off".to_owned()));
    assert!(schedule.clone().stop().is_empty(), "it does not know us any more");
    // A hybrid's other swarm was lost too.
    schedule.handle_lost(first.tracker, SECOND, "it broke off".to_owned(), &mut zero);
    assert_eq!(schedule.next_wake(SECOND), Some(SECOND + RETRY_FIRST));
    let again = schedule.poll(SECOND + RETRY_FIRST).unwrap();
    assert_eq!(again.event, AnnounceEvent::Started);
    // Lost while an announce is under way: that fails by itself.
    schedule.handle_lost(again.tracker, SECOND + RETRY_FIRST, "it broke off".to_owned(), &mut zero);
    assert_eq!(schedule.poll(100 * SECOND), None);
    schedule.handle_failure(again.tracker, 7 * SECOND, "it broke off".to_owned(), None, &mut zero);
    assert_eq!(schedule.poll(100 * SECOND).unwrap().event, AnnounceEvent::Started);
}

#[test]
fn lists_are_bounded_and_repeated_urls_kept_once() {
    let many: Vec<String> = (0..1000).map(|i| format!("udp://tracker-{i}:80")).collect();
    let mut list = vec![many.clone(), many];
    list.push(vec![String::new(), format!("http://{}/", "x".repeat(MAX_URL_BYTES))]);
    let schedule = AnnounceSchedule::new(&list, WebSockets::Unused, Duration::ZERO, &mut zero);
    assert_eq!(schedule.iter().count(), MAX_TRACKERS);
}

#[test]
fn a_tracker_added_later_is_due_at_once() {
    let mut schedule = schedule(&[&["a"]]);
    let announce = schedule.poll(Duration::ZERO).unwrap();
    schedule.handle_success(announce.tracker, Duration::ZERO, outcome(1800, None));
    let added =
        schedule.add_tier(&["http://a/announce".to_owned(), "udp://b:1".to_owned()], SECOND, &mut zero);
    assert_eq!(added, 1);
    let announce = schedule.poll(SECOND).unwrap();
    assert_eq!(schedule.tracker(announce.tracker).unwrap().url(), "udp://b:1");
}

#[test]
fn what_a_tracker_says_is_cut_and_freed_of_control_characters() {
    let mut schedule = schedule(&[&["a"]]);
    let announce = schedule.poll(Duration::ZERO).unwrap();
    let message = format!("\u{1b}[2J{}", "é".repeat(1000));
    schedule.handle_failure(announce.tracker, Duration::ZERO, message, None, &mut zero);
    let TrackerState::Failing(kept) = schedule.tracker(announce.tracker).unwrap().state() else {
        panic!("it failed");
    };
    assert!(kept.len() <= MAX_MESSAGE_BYTES && !kept.contains('\u{1b}'));
}

#[test]
fn wait_asked_for_by_a_tracker_is_respected_up_to_an_hour() {
    for (asked, expected) in [(1, RETRY_FIRST), (600, 600 * SECOND), (1_000_000, RETRY_CEILING)] {
        let mut schedule = schedule(&[&["a"]]);
        let announce = schedule.poll(Duration::ZERO).unwrap();
        let message = "busy".to_owned();
        schedule.handle_failure(announce.tracker, Duration::ZERO, message, Some(asked * SECOND), &mut zero);
        assert_eq!(schedule.next_wake(Duration::ZERO), Some(expected));
    }
}

proptest! {
    #[test]
    fn back_off_grows_and_stays_within_its_bounds(failures in 1u32.., draw in any::<u64>()) {
        let wait = backoff(failures, &mut || draw);
        prop_assert!((RETRY_FIRST..=RETRY_CEILING).contains(&wait));
        let twice_later = backoff(failures.saturating_add(2), &mut || draw);
        prop_assert!(twice_later >= wait || wait >= RETRY_CEILING.mul_f64(0.75));
    }

    #[test]
    fn shuffle_keeps_every_tracker_of_a_tier(count in 0usize..20, seed in any::<u64>()) {
        let urls: Vec<String> = (0..count).map(|i| format!("http://{i}/")).collect();
        let mut state = seed;
        let mut random = move || { state = state.wrapping_mul(6364136223846793005).wrapping_add(1); state >> 33 };
        let schedule = AnnounceSchedule::new(std::slice::from_ref(&urls), WebSockets::Unused, Duration::ZERO, &mut random);
        let mut kept: Vec<_> = schedule.iter().map(|(_, tracker, _)| tracker.url().to_owned()).collect();
        kept.sort();
        let mut expected = urls;
        expected.sort();
        prop_assert_eq!(kept, expected);
    }

    /// Any sequence of answers, failures, needs and completion keeps the promises of the module's header.
    #[test]
    fn any_history_keeps_the_invariants(
        sizes in prop::collection::vec(1usize..4, 1..4),
        steps in prop::collection::vec((0u8..8, any::<u16>(), 0u32..5000), 1..150),
    ) {
        let mut number = 0;
        let tiers: Vec<Vec<String>> = sizes.iter().map(|&size| (0..size).map(|_| {
            number += 1;
            format!("http://{number}/")
        }).collect()).collect();
        let mut draw = 1u64;
        let mut random = move || { draw = draw.wrapping_mul(6364136223846793005).wrapping_add(7); draw >> 20 };
        let mut schedule = AnnounceSchedule::new(&tiers, WebSockets::Unused, Duration::ZERO, &mut random);
        let mut now = Duration::ZERO;
        let mut flying: Vec<Announce> = Vec::new();
        let mut last_success: BTreeMap<TrackerIndex, (Moment, u32)> = BTreeMap::new();
        let mut completed: BTreeMap<TrackerIndex, u32> = BTreeMap::new();
        for (action, choice, seconds) in steps {
            match action {
                0 | 1 => now += Duration::from_secs(u64::from(seconds)),
                2 => if let Some(wake) = schedule.next_wake(now) { now = now.max(wake) },
                3 => schedule.want_peers(now),
                4 if choice % 8 == 0 => schedule.handle_completed(now),
                _ if flying.is_empty() => {}
                _ => {
                    let announce = flying.swap_remove(usize::from(choice) % flying.len());
                    if action % 2 == 0 {
                        schedule.handle_failure(announce.tracker, now, "x".to_owned(), None, &mut random);
                        last_success.remove(&announce.tracker);
                    } else {
                        let min = seconds / 2;
                        schedule.handle_success(announce.tracker, now, outcome(seconds, Some(min)));
                        last_success.insert(announce.tracker, (schedule.tracker(announce.tracker).unwrap()
                            .last_announce().unwrap(), min));
                        if announce.event == AnnounceEvent::Completed {
                            *completed.entry(announce.tracker).or_default() += 1;
                        }
                    }
                }
            }
            while let Some(announce) = schedule.poll(now) {
                let is_known = schedule.tracker(announce.tracker).unwrap().accepted_started();
                prop_assert_eq!(announce.event == AnnounceEvent::Started, !is_known);
                if let Some(&(last, min)) = last_success.get(&announce.tracker)
                    && announce.event == AnnounceEvent::None {
                    let floor = Duration::from_secs(u64::from(min)).clamp(INTERVAL_FLOOR, INTERVAL_CEILING);
                    prop_assert!(now >= last + floor);
                }
                flying.push(announce);
                prop_assert!(flying.len() <= sizes.len(), "at most one under way in a tier");
            }
            prop_assert!(completed.values().all(|&count| count <= 1));
            prop_assert_eq!(
                schedule.next_wake(now).is_none(), flying.len() == sizes.len(),
                "a tier that does not wait for an answer always has a next time"
            );
        }
        let stopped = schedule.stop();
        prop_assert!(last_success.keys().all(|known| stopped.contains(known)));
    }
}
