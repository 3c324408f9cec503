//! Read-ahead against made-up readers. The test plays the engine: the last plan stands until it is replaced.

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const REQUEST: u32 = 128 << 10;
const PAGE: u32 = 4096;

/// A handle with the plan that stands.
struct Handle {
    readahead: Readahead,
    plan: Vec<Range<u64>>,
    pattern: Pattern,
    plans: usize,
    now: Moment,
}

impl Handle {
    fn new(file_bytes: u64) -> Self {
        let readahead = Readahead::new(file_bytes, ReadaheadConfig::default());
        Self { readahead, plan: vec![], pattern: Pattern::Random, plans: 0, now: Moment::ZERO }
    }

    /// Reads; true if the start of the read was planned for.
    fn read(&mut self, offset: u64, len: u32) -> bool {
        self.now += Duration::from_millis(1);
        let was_planned = self.wants(offset);
        if let Some(plan) = self.readahead.handle_read(self.now, offset, len) {
            self.plan = plan.ranges;
            self.pattern = plan.pattern;
            self.plans += 1;
        }
        was_planned
    }

    fn wants(&self, offset: u64) -> bool {
        self.plan.iter().any(|range| range.contains(&offset))
    }

    fn planned(&self) -> u64 {
        self.plan.iter().map(|range| range.end - range.start).sum()
    }
}

fn splitmix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 29)
}

#[test]
fn a_sequential_reader_gets_a_small_window_at_its_second_read_and_the_largest_soon_after() {
    let mut handle = Handle::new(GIB);
    handle.read(0, REQUEST);
    assert!(handle.plan.is_empty());
    handle.read(128 * KIB, REQUEST);
    assert_eq!((handle.plan.len(), &handle.plan[0]), (1, &(256 * KIB..768 * KIB)));
    assert_eq!(handle.pattern, Pattern::Forward);
    for read in 2..14 {
        assert!(handle.read(read * 128 * KIB, REQUEST), "read {read} was not planned for");
    }
    assert_eq!(handle.planned(), 32 * MIB);
}

#[test]
fn the_window_ends_with_the_file() {
    let mut handle = Handle::new(MIB + 5);
    for read in 0..9 {
        handle.read(read * 128 * KIB, REQUEST);
        assert!(handle.plan.iter().all(|range| range.end <= MIB + 5));
    }
    assert_eq!(handle.readahead.handle_read(handle.now, MIB + 5, PAGE), None);
    assert_eq!(handle.readahead.handle_read(handle.now, u64::MAX, PAGE), None);
    assert_eq!(handle.readahead.handle_read(handle.now, 0, 0), None);
}

#[test]
fn a_reader_of_pages_does_not_make_a_plan_for_each() {
    let mut handle = Handle::new(GIB);
    for page in 0..16_384 {
        let was_planned = handle.read(page * u64::from(PAGE), PAGE);
        assert!(was_planned || page < 2, "page {page} was not planned for");
    }
    assert!(handle.plans < 40, "{} plans for 64 MiB", handle.plans);
}

#[test]
fn a_backward_reader_is_planned_for_nearest_part_first() {
    let mut handle = Handle::new(GIB);
    for read in 1..30 {
        let was_planned = handle.read(GIB - read * 128 * KIB, REQUEST);
        assert!(was_planned || read < 5, "read {read} was not planned for");
    }
    assert_eq!(handle.pattern, Pattern::Backward);
    assert_eq!(handle.planned(), 32 * MIB);
    assert!(handle.plan.windows(2).all(|pair| pair[0].start == pair[1].end), "{:?}", handle.plan);
}

#[test]
fn constant_strides_are_predicted_in_both_directions() {
    for sign in [1_i64, -1] {
        let mut handle = Handle::new(GIB);
        for step in 0..100_i64 {
            let offset = GIB / 2;
            let offset = offset.checked_add_signed(sign * step * 3_000_000).expect("inside the file");
            let was_planned = handle.read(offset, PAGE);
            assert!(was_planned || step < 3, "step {step} was not planned for");
        }
        assert_eq!(handle.pattern, Pattern::Strided);
        assert_eq!(handle.plan.len(), 32, "as many pieces as the window holds");
        assert!(handle.planned() <= 32 * u64::from(PAGE));
    }
}

#[test]
fn what_a_reader_skipped_stays_wanted_until_it_is_read() {
    let mut handle = Handle::new(GIB);
    for read in [0, 1, 2, 4, 5, 6, 7, 8] {
        handle.read(read * 128 * KIB, REQUEST);
    }
    assert!(handle.wants(3 * 128 * KIB), "{:?}", handle.plan);
    handle.read(3 * 128 * KIB, REQUEST);
    for read in 9..14 {
        handle.read(read * 128 * KIB, REQUEST);
    }
    assert!(!handle.wants(3 * 128 * KIB), "{:?}", handle.plan);
}

#[test]
fn a_seek_moves_the_window_and_the_old_place_is_given_up() {
    let mut handle = Handle::new(GIB);
    for read in 0..20 {
        handle.read(read * 128 * KIB, REQUEST);
    }
    for read in 0..10 {
        handle.read(GIB / 2 + read * 128 * KIB, REQUEST);
    }
    assert!(handle.plan.iter().all(|range| range.start >= GIB / 2), "{:?}", handle.plan);
    assert_eq!(handle.readahead.active_streams(), 1);
    handle.read(20 * 128 * KIB, REQUEST);
    assert!(handle.wants(21 * 128 * KIB), "a reader that comes back is known");
}

#[test]
fn a_stream_that_idles_is_forgotten_when_others_read() {
    let mut handle = Handle::new(GIB);
    for read in 0..4 {
        handle.read(read * 128 * KIB, REQUEST);
    }
    handle.now += FORGET_AFTER;
    handle.read(GIB / 2, PAGE);
    assert!(handle.plan.is_empty());
}

#[test]
fn random_reads_in_between_do_not_push_a_sequential_stream_out() {
    let mut handle = Handle::new(64 * GIB);
    let mut seed = 9;
    for read in 0..400 {
        let was_planned = handle.read(read * 128 * KIB, REQUEST);
        assert!(was_planned || read < 2, "read {read} was not planned for");
        for _ in 0..3 {
            let page = 16 * GIB + splitmix(&mut seed) % (48 * GIB) / 4096 * 4096;
            handle.read(page, PAGE);
        }
    }
}

#[test]
fn a_sequence_of_jumps_turns_out_to_be_strided() {
    let mut handle = Handle::new(GIB);
    for read in 0..10 {
        handle.read(read * 128 * KIB, REQUEST);
    }
    for step in 2..20 {
        handle.read(step * MIB + 512 * KIB, PAGE);
    }
    assert_eq!(handle.pattern, Pattern::Strided);
    assert!(handle.planned() < MIB, "{:?}", handle.plan);
}

#[test]
fn requests_that_start_in_reverse_order_end_up_as_a_forward_stream() {
    let mut handle = Handle::new(GIB);
    for read in [3, 2, 1, 0, 4, 5, 6, 7, 8, 9, 10] {
        handle.read(GIB / 2 + read * 128 * KIB, REQUEST);
    }
    assert_eq!(handle.pattern, Pattern::Forward);
    assert!(handle.wants(GIB / 2 + 11 * 128 * KIB));
}

#[test]
fn a_window_of_zero_plans_nothing() {
    let mut handle = Handle::new(GIB);
    handle.readahead.set_max_window(0);
    for read in 0..50 {
        handle.read(read * 128 * KIB, REQUEST);
        assert_eq!(handle.planned(), 0);
    }
}

/// A reader whose 400 requests overtake each other, and how many of them were not planned for.
fn overtaking(mut seed: u64, in_flight: usize) -> (Handle, u32) {
    let mut handle = Handle::new(GIB);
    let mut flight: Vec<u64> = Vec::new();
    let mut unplanned = 0;
    for read in 0..400_u64 {
        flight.push(read * 128 * KIB);
        if flight.len() == in_flight {
            let next = splitmix(&mut seed) as usize % flight.len();
            // The oldest request is never overtaken by more than the jitter.
            let next = if flight[0] + 12 * 128 * KIB < flight[flight.len() - 1] { 0 } else { next };
            let offset = flight.remove(next);
            unplanned += u32::from(!handle.read(offset, REQUEST));
        }
    }
    (handle, unplanned)
}

/// By how much differs from one disorder to the next, one in ten thousand comes to thrice the usual: the same ones always.
#[test]
fn requests_out_of_order_are_planned_for_all_the_same() {
    const DISORDERS: u32 = 64;
    for in_flight in 2..12 {
        let all: u32 = (0..DISORDERS).map(|seed| overtaking(u64::from(seed), in_flight).1).sum();
        assert!(all < 12 * DISORDERS, "{in_flight} in flight: {all} of {} were not", 400 * DISORDERS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Requests of one reader that overtake each other by up to 2 MiB are still one stream.
    #[test]
    fn requests_out_of_order_are_one_stream(seed: u64, in_flight in 2_usize..12) {
        let (handle, _) = overtaking(seed, in_flight);
        prop_assert_eq!(handle.pattern, Pattern::Forward);
        prop_assert_eq!(handle.readahead.active_streams(), 1);
    }

    #[test]
    fn each_of_several_interleaved_streams_gets_a_window(
        count in 1_u64..=16,
        len in prop_oneof![Just(PAGE), Just(REQUEST)],
        seed: u64,
    ) {
        let mut handle = Handle::new(16 * GIB);
        let mut seed = seed;
        let starts: Vec<u64> =
            (0..count).map(|stream| stream * (900 * MIB) + splitmix(&mut seed) % (100 * MIB)).collect();
        for step in 0..200 {
            for start in &starts {
                handle.read(start + step * u64::from(len), len);
            }
        }
        for start in &starts {
            prop_assert!(handle.wants(start + 200 * u64::from(len)), "{} of {:?}: {:?}", start, starts, handle.plan);
        }
        prop_assert!(handle.planned() <= 32 * MIB);
    }

    /// Chance adjacency may start a stream now and then; it must stay the exception.
    #[test]
    fn random_access_plans_next_to_nothing(seed: u64) {
        let mut handle = Handle::new(4 * GIB);
        let mut seed = seed;
        let mut wasted = 0;
        for _ in 0..500 {
            let plans = handle.plans;
            handle.read(splitmix(&mut seed) % (4 * GIB) / 4096 * 4096, PAGE);
            if handle.plans > plans {
                wasted += handle.planned();
            }
        }
        prop_assert!(wasted <= 4 * MIB, "{} bytes planned", wasted);
    }

    #[test]
    fn plans_hold_their_bounds_whatever_is_read(
        file_bytes in 1_u64..200 * MIB,
        window in 0_u64..40 * MIB,
        reads in prop::collection::vec((0_u64..8, 0_u64..64, 0_u32..300_000, 0_u64..20_000), 1..300),
    ) {
        let config = ReadaheadConfig { max_window: window, ..ReadaheadConfig::default() };
        let mut readahead = Readahead::new(file_bytes, config);
        let mut now = Moment::ZERO;
        for (region, step, len, pause_ms) in reads {
            now += Duration::from_millis(pause_ms);
            let offset = region * 25 * MIB + step * 64 * KIB;
            let Some(plan) = readahead.handle_read(now, offset, len) else { continue };
            prop_assert!(plan.total_bytes() <= window);
            prop_assert!(plan.ranges.len() <= MAX_RANGES);
            prop_assert!(readahead.streams.len() <= 16);
            let mut sorted = plan.ranges.clone();
            sorted.sort_by_key(|range| range.start);
            for range in &sorted {
                prop_assert!(range.start < range.end && range.end <= file_bytes, "{:?}", range);
            }
            for pair in sorted.windows(2) {
                prop_assert!(pair[0].end <= pair[1].start, "{:?} overlap", pair);
            }
        }
    }

    /// Offsets near the end of the number range must not overflow anything.
    #[test]
    fn offsets_at_the_end_of_the_number_range_are_harmless(
        reads in prop::collection::vec((any::<u64>(), any::<u32>()), 1..60),
        step in any::<u32>(),
    ) {
        let mut readahead = Readahead::new(u64::MAX, ReadaheadConfig::default());
        for (offset, len) in reads {
            readahead.handle_read(Moment::ZERO, offset, len);
            for back in 0..6 {
                readahead.handle_read(Moment::ZERO, u64::MAX - back * u64::from(step), len);
                readahead.handle_read(Moment::ZERO, back * u64::from(step), len);
            }
        }
    }
}
