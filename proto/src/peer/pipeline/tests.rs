//! The pipeline against a modelled source: a path with a delay and a rate, told in virtual time.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// A source behind a path: each request takes `delay`, and blocks leave one after the other at `rate` bytes/s.
struct Source {
    delay: Duration,
    rate: f64,
    /// (sent, arrives) of the requests on their way, oldest first.
    queue: VecDeque<(Moment, Moment)>,
    free_at: Moment,
    received: u64,
    longest_latency: Duration,
}

impl Source {
    fn new(delay: Duration, rate: f64) -> Self {
        Self {
            delay,
            rate,
            queue: VecDeque::new(),
            free_at: Moment::ZERO,
            received: 0,
            longest_latency: Duration::ZERO,
        }
    }

    fn request(&mut self, now: Moment, count: usize) {
        for _ in 0..count {
            self.free_at = self.free_at.max(now) + seconds(BLOCK_BYTES / self.rate);
            self.queue.push_back((now, self.free_at + self.delay));
        }
    }

    /// Keeps the pipeline full until `end`; returns the time of the last block.
    fn run(&mut self, pipeline: &mut Pipeline, mut now: Moment, end: Moment) -> Moment {
        while now < end {
            let free = pipeline.free();
            pipeline.handle_sent(now, free);
            self.request(now, free);
            let (sent, arrives) = self.queue.pop_front().expect("the window is at least one");
            now = now.max(arrives);
            self.received += 16_384;
            self.longest_latency = self.longest_latency.max(now - sent);
            pipeline.handle_block(now, 16_384, now - sent);
            assert!((1..=500).contains(&pipeline.window()));
        }
        now
    }
}

fn pipeline() -> Pipeline {
    Pipeline::new(Moment::ZERO, PipelineConfig::default())
}

#[test]
fn a_loopback_source_is_driven_at_full_speed_within_tens_of_milliseconds() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(MS / 10, 800e6));
    source.run(&mut pipeline, Moment::ZERO, 100 * MS);
    assert_eq!(pipeline.window(), 500);
    let before = source.received;
    source.run(&mut pipeline, 100 * MS, 1_100 * MS);
    assert!(source.received - before > 780_000_000, "{}", source.received - before);
}

#[test]
fn a_long_fat_path_is_filled_after_a_few_round_trips_and_the_queue_stays_short() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(20 * MS, 50e6));
    let now = source.run(&mut pipeline, Moment::ZERO, 400 * MS);
    let before = source.received;
    source.longest_latency = Duration::ZERO;
    source.run(&mut pipeline, now, now + 5_000 * MS);
    assert!(source.received - before > 245_000_000, "{}", source.received - before);
    assert_eq!(pipeline.phase(), Phase::Steady);
    assert!(source.longest_latency < 200 * MS, "{:?}", source.longest_latency);
}

#[test]
fn an_urgent_block_behind_a_slow_source_waits_about_the_queue_time() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(50 * MS, 1e6));
    let now = source.run(&mut pipeline, Moment::ZERO, 3_000 * MS);
    source.longest_latency = Duration::ZERO;
    source.run(&mut pipeline, now, now + 5_000 * MS);
    assert!(source.longest_latency < 300 * MS, "{:?}", source.longest_latency);
    let expected = pipeline.expected_latency();
    assert!(expected > 50 * MS && expected < 300 * MS, "{expected:?}");
    assert!(pipeline.late_after() > expected);
}

#[test]
fn the_queue_does_not_feed_on_itself_over_minutes() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(30 * MS, 5e6));
    let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(300));
    let least = pipeline.least_latency().expect("blocks came");
    assert!(least < 60 * MS, "{least:?}");
    assert!(pipeline.window() < 80, "{}", pipeline.window());
    let received = source.received as f64 / now.as_secs_f64();
    assert!(received > 4.9e6, "probing costs nearly nothing: {received}");
}

#[test]
fn a_path_that_grew_longer_is_noticed_by_the_probe() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(10 * MS, 10e6));
    let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(5));
    source.delay = 300 * MS;
    let now = source.run(&mut pipeline, now, now + Duration::from_secs(30));
    assert!(pipeline.least_latency() >= Some(300 * MS), "{:?}", pipeline.least_latency());
    let before = source.received;
    source.run(&mut pipeline, now, now + Duration::from_secs(5));
    assert!(source.received - before > 48_000_000, "{}", source.received - before);
}

#[test]
fn a_source_that_slows_down_loses_its_window_soon() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(20 * MS, 20e6));
    let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(2));
    let fast = pipeline.window();
    source.rate = 1e6;
    source.run(&mut pipeline, now, now + Duration::from_secs(8));
    assert!(pipeline.window() * 8 < fast, "{fast} -> {}", pipeline.window());
}

#[test]
fn a_source_that_speeds_up_is_followed() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(20 * MS, 1e6));
    let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(3));
    source.rate = 20e6;
    let now = source.run(&mut pipeline, now, now + Duration::from_secs(2));
    let before = source.received;
    source.run(&mut pipeline, now, now + Duration::from_secs(2));
    assert!(source.received - before > 38_000_000, "{}", source.received - before);
}

#[test]
fn requests_that_are_not_sent_do_not_count_against_the_source() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(20 * MS, 20e6));
    let mut now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(2));
    while let Some((sent, arrives)) = source.queue.pop_front() {
        now = now.max(arrives);
        pipeline.handle_block(now, 16_384, now - sent);
    }
    let (rate, window) = (pipeline.rate(), pipeline.window());
    for _ in 0..50 {
        now += Duration::from_secs(1);
        pipeline.handle_sent(now, 1);
        now += 21 * MS;
        pipeline.handle_block(now, 16_384, 21 * MS);
    }
    assert_eq!(pipeline.rate(), rate);
    assert!(pipeline.window().abs_diff(window) <= 1);
    assert_eq!(pipeline.phase(), Phase::Steady);
}

#[test]
fn silence_snubs_and_the_next_block_starts_over() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(20 * MS, 20e6));
    let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(2));
    let timeout = pipeline.request_timeout();
    assert_eq!(timeout, LEAST_TIMEOUT);
    let later = now + timeout;
    pipeline.handle_timeout(later);
    assert!(pipeline.is_snubbed());
    assert_eq!(pipeline.window(), 1);
    assert_eq!(pipeline.request_timeout(), 2 * LEAST_TIMEOUT);
    assert!(pipeline.expected_latency() >= LEAST_TIMEOUT);
    pipeline.handle_withdrawn(pipeline.outstanding());
    pipeline.handle_stray_block(later + MS, 16_384);
    assert!(!pipeline.is_snubbed());
    assert_eq!((pipeline.window(), pipeline.outstanding()), (FLOOR, 0));
    assert_eq!(pipeline.request_timeout(), LEAST_TIMEOUT);
}

#[test]
fn a_time_out_while_blocks_still_come_shrinks_the_window_without_a_snub() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(20 * MS, 20e6));
    let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(2));
    let window = pipeline.window();
    pipeline.handle_timeout(now);
    assert!(!pipeline.is_snubbed());
    assert!(pipeline.window() <= window / 2 + 1);
}

#[test]
fn an_idle_connection_is_not_snubbed_for_its_silence_before_the_request() {
    let mut pipeline = pipeline();
    pipeline.handle_sent(Moment::ZERO, 1);
    pipeline.handle_block(20 * MS, 16_384, 20 * MS);
    let later = Duration::from_secs(600);
    pipeline.handle_sent(later, 1);
    pipeline.handle_timeout(later + MS);
    assert!(!pipeline.is_snubbed());
}

#[test]
fn the_remote_limit_and_rejections_bound_the_window() {
    let (mut pipeline, mut source) = (pipeline(), Source::new(MS / 10, 500e6));
    pipeline.set_remote_limit(250);
    let now = source.run(&mut pipeline, Moment::ZERO, 500 * MS);
    assert_eq!(pipeline.window(), 250);
    let outstanding = pipeline.outstanding();
    for _ in 0..150 {
        pipeline.handle_reject(now);
    }
    assert_eq!(pipeline.window(), outstanding - 150);
    pipeline.set_remote_limit(0);
    assert_eq!(pipeline.window(), 1);
}

#[test]
fn an_unmeasured_source_has_stated_defaults() {
    let pipeline = pipeline();
    assert_eq!(pipeline.window(), INITIAL_WINDOW);
    assert_eq!(pipeline.request_timeout(), INITIAL_TIMEOUT);
    assert_eq!(pipeline.expected_latency(), UNKNOWN_LATENCY);
    assert_eq!((pipeline.rate(), pipeline.least_latency()), (0, None));
}

#[derive(Debug, Clone)]
enum Event {
    Sent(usize),
    Block(u32, u64),
    Stray(u32),
    Timeout,
    Reject,
    Withdrawn(usize),
    Limit(u32),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_usize..600).prop_map(Event::Sent),
        (0_u32..20_000, 0_u64..100_000_000_000).prop_map(|(bytes, ns)| Event::Block(bytes, ns)),
        (0_u32..20_000).prop_map(Event::Stray),
        Just(Event::Timeout),
        Just(Event::Reject),
        (0_usize..600).prop_map(Event::Withdrawn),
        any::<u32>().prop_map(Event::Limit),
    ]
}

#[test]
fn a_block_is_late_at_twice_the_expected_latency_however_much_that_varies() {
    let mut pipeline = Pipeline::new(Duration::ZERO, PipelineConfig::default());
    for round in 0..50_u64 {
        let sent = Duration::from_secs(round);
        // Every fifth block is retransmitted.
        let latency = if round % 5 == 0 { 400 * MS } else { 20 * MS };
        pipeline.handle_sent(sent, 1);
        pipeline.handle_block(sent + latency, 16_384, latency);
    }
    let expected = pipeline.expected_latency();
    assert!(expected < 60 * MS, "{expected:?}");
    assert_eq!(pipeline.late_after(), expected * 2);
}

proptest! {
    /// Whatever a source does, in whatever order, the outputs stay within their bounds.
    #[test]
    fn outputs_stay_within_their_bounds(
        events in prop::collection::vec((event(), 0_u64..5_000_000_000), 1..200),
    ) {
        let mut pipeline = pipeline();
        let mut now = Moment::ZERO;
        let mut limit = usize::MAX;
        for (event, pause_ns) in events {
            now += Duration::from_nanos(pause_ns);
            match event {
                Event::Sent(count) => pipeline.handle_sent(now, count),
                Event::Block(bytes, ns) => pipeline.handle_block(now, bytes, Duration::from_nanos(ns)),
                Event::Stray(bytes) => pipeline.handle_stray_block(now, bytes),
                Event::Timeout => pipeline.handle_timeout(now),
                Event::Reject => pipeline.handle_reject(now),
                Event::Withdrawn(count) => pipeline.handle_withdrawn(count),
                Event::Limit(reqq) => {
                    limit = (reqq as usize).max(1);
                    pipeline.set_remote_limit(reqq);
                }
            }
            prop_assert!((1..=500.min(limit)).contains(&pipeline.window()));
            prop_assert!((LEAST_TIMEOUT..=LONGEST_TIMEOUT).contains(&pipeline.request_timeout()));
            prop_assert!(pipeline.late_after() > pipeline.expected_latency());
            prop_assert!(!pipeline.is_snubbed() || pipeline.window() == 1);
        }
    }

    /// For any path: the rate is reached and the queue is no longer than asked for.
    #[test]
    fn any_steady_path_is_used_well_with_a_short_queue(delay_ms in 0_u32..200, rate_mb in 1_u32..40) {
        let rate = f64::from(rate_mb) * 1e6;
        let (mut pipeline, mut source) = (pipeline(), Source::new(delay_ms * MS, rate));
        let now = source.run(&mut pipeline, Moment::ZERO, Duration::from_secs(6));
        let before = source.received;
        source.longest_latency = Duration::ZERO;
        let end = source.run(&mut pipeline, now, now + Duration::from_secs(20));
        let reached = (source.received - before) as f64 / (end - now).as_secs_f64();
        prop_assert!(reached > 0.95 * rate, "{} of {}", reached, rate);
        prop_assert!(source.longest_latency < delay_ms * MS + 300 * MS, "{:?}", source.longest_latency);
    }
}
