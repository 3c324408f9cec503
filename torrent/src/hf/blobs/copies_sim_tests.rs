//! What many readers of one cold blob cost its origin, in a time of its own: the board and the readers' windows as they
//! are, flights that follow the board as `flight` does, an origin at any pace, and a disk that takes no time.
//!
//! One step is a millisecond. Nothing of it depends on how fast this machine is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::ahead::ReadAhead;
use super::board::{Ahead, Board, Demand, Leave, REST_BYTES};
use super::flight::{LATE_BYTES, PAUSE_TIMEOUT, Pace};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What sockets of a fast network hold.
const AHEAD: u64 = 32 * MIB;

/// Reads of a mount take so much at a time.
const READ_BYTES: u64 = 256 * KIB;

/// Readers of one mount at once.
const ABREAST: usize = 3;

/// Far more steps than any of this takes.
const MOST_MS: u64 = 600_000;

/// How many bytes each answer brings in a millisecond.
type Rate = fn(u64) -> u64;

/// A request under way.
struct Flight {
    begin: u64,
    /// Where its answer ends, whatever becomes of its claim.
    end: u64,
    at: u64,
    pace: Pace,
    /// Milliseconds in which nothing came, or nobody read on.
    late: u64,
    paused: u64,
}

/// One of a mount's readers: goes through its range from the beginning to the end.
struct Reader {
    id: u64,
    range: Range<u64>,
    at: u64,
    ahead: ReadAhead,
    demand: Option<u64>,
    /// It reads on then.
    rests_until: u64,
}

/// Ranges that grow, each read by a reader of its own, some at once.
struct Mount {
    readers: Vec<Reader>,
    pause_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    AFill,
}

struct World {
    now: u64,
    bytes: u64,
    rate: Rate,
    board: Board<()>,
    flights: BTreeMap<u64, Flight>,
    mounts: Vec<Mount>,
    requests: Vec<Range<u64>>,
    given: u64,
    /// Also what sockets held when nobody read on.
    sent: u64,
}

impl World {
    fn new(bytes: u64, rate: Rate, beside: Beside) -> Self {
        let mut board = Board::new(bytes);
        board.fill = (beside == Beside::AFill).then_some(());
        let mut numbers = 1..;
        let mut mount = |first: u64, pause_ms| {
            let (mut readers, mut at, mut step) = (Vec::new(), 0, first);
            while at < bytes {
                let range = at..(at + step).min(bytes);
                let mut ahead = ReadAhead::new(bytes, 32 * MIB);
                ahead.expect(range.clone());
                let id = numbers.next().unwrap_or(0);
                (at, step) = (range.end, (2 * step).min(8 * MIB));
                readers.push(Reader { id, at: range.start, range, ahead, demand: None, rests_until: 0 });
            }
            readers.reverse();
            Mount { readers, pause_ms }
        };
        let mounts = vec![mount(256 * KIB, 0), mount(MIB, 1), mount(MIB, 3)];
        Self {
            now: 0,
            bytes,
            rate,
            board,
            flights: BTreeMap::new(),
            mounts,
            requests: Vec::new(),
            given: 0,
            sent: 0,
        }
    }

    fn is_over(&self) -> bool {
        self.mounts.iter().all(|mount| mount.readers.is_empty()) && self.board.claims.is_empty()
    }

    fn run(mut self) -> Self {
        self.board.plan();
        while !self.is_over() {
            assert!(self.now < MOST_MS, "it does not end: {:?}", self.board.claims);
            self.now += 1;
            let mut mounts = std::mem::take(&mut self.mounts);
            for mount in &mut mounts {
                self.read(mount);
            }
            self.mounts = mounts;
            let claims: Vec<u64> = self.board.claims.keys().copied().collect();
            for claim in claims {
                self.fly(claim);
            }
            // Of claims that went meanwhile.
            let gone: Vec<u64> =
                self.flights.keys().filter(|id| !self.board.claims.contains_key(id)).copied().collect();
            gone.into_iter().for_each(|claim| self.land(claim));
        }
        assert!(self.board.is_complete());
        self
    }

    /// Every reader that may reads what it can.
    fn read(&mut self, mount: &mut Mount) {
        let oldest = mount.readers.len();
        for number in (oldest.saturating_sub(ABREAST)..oldest).rev() {
            let reader = &mut mount.readers[number];
            if reader.at == reader.range.end || self.now < reader.rests_until {
                continue;
            }
            let wanted = reader.at..(reader.at + READ_BYTES).min(reader.range.end);
            if reader.demand.is_none() {
                let demand = Demand { range: wanted.clone(), reader: reader.id, origin: () };
                reader.demand = Some(self.board.add_demand(demand));
                if let Some(window) = reader.ahead.handle_read(&wanted) {
                    let ahead = Ahead { window: window.ranges, reach: window.reach, origin: () };
                    let is_any = !ahead.window.is_empty();
                    self.board.aheads.remove(&reader.id);
                    if is_any {
                        self.board.aheads.insert(reader.id, ahead);
                    }
                    self.board.plan();
                }
            }
            if !self.board.is_served(&wanted) {
                self.board.plan();
            }
            let here = self.board.present.end_of_run(wanted.start).min(wanted.end);
            if here > wanted.start {
                if let Some(demand) = reader.demand.take() {
                    self.board.demands.remove(&demand);
                }
                (reader.at, reader.rests_until) = (here, self.now + mount.pause_ms);
                if reader.at == reader.range.end {
                    self.board.aheads.remove(&reader.id);
                }
            }
        }
        // The next one begins once the oldest is done.
        while mount.readers.last().is_some_and(|reader| reader.at == reader.range.end) {
            mount.readers.pop();
        }
    }

    /// A millisecond of a claim's flight.
    fn fly(&mut self, id: u64) {
        let Some(claim) = self.board.claims.get_mut(&id) else { return };
        if !self.flights.contains_key(&id) {
            claim.near = self.board.pace.unwrap_or(REST_BYTES);
            self.requests.push(claim.at..claim.end);
            let (begin, end) = (claim.at, claim.end);
            let pace = Pace::default();
            self.flights.insert(id, Flight { begin, end, at: begin, pace, late: 0, paused: 0 });
        }
        let (claim_at, claim_end) = (claim.at, claim.end);
        let Some(flight) = self.flights.get_mut(&id) else { return };
        match self.board.leave(id) {
            Leave::Until(_) => {
                flight.paused = 0;
                let came = (self.rate)(self.now).min(flight.end - flight.at);
                flight.pace.add(came, Duration::from_millis(1));
                if came == 0 {
                    flight.late += 1;
                    if u128::from(flight.late) == LATE_BYTES.as_millis() {
                        if let Some(claim) = self.board.claims.get_mut(&id) {
                            claim.near = 0;
                        }
                        self.board.plan();
                    }
                    return;
                }
                flight.late = 0;
                flight.at += came;
                self.given += came;
                let near = flight.pace.near();
                self.board.pace = Some(near);
                if let Some(claim) = self.board.claims.get_mut(&id) {
                    claim.near = near;
                }
                self.board.settle(id, claim_at..(claim_at + came).min(claim_end));
            }
            Leave::Pause => {
                flight.paused += 1;
                if u128::from(flight.paused) >= PAUSE_TIMEOUT.as_millis() {
                    self.land(id);
                }
            }
            Leave::End => self.land(id),
        }
    }

    fn land(&mut self, id: u64) {
        self.board.claims.remove(&id);
        if let Some(flight) = self.flights.remove(&id) {
            self.sent += flight.end.min(flight.at + AHEAD) - flight.begin;
        }
        self.board.plan();
    }
}

/// Reads a blob of so many mebibytes; how many hundredths of it came, and were sent.
fn cost(mebibytes: u64, rate: Rate, beside: Beside) -> (u64, u64, Vec<Range<u64>>) {
    let world = World::new(mebibytes * MIB + 99, rate, beside).run();
    (100 * world.given / world.bytes, 100 * world.sent / world.bytes, world.requests)
}

fn assert_costs(rates: &[(&str, Rate)], sizes: &[u64], most_sent: u64) {
    for (what, rate) in rates {
        for beside in [Beside::Nothing, Beside::AFill] {
            for size in sizes {
                let (given, sent, requests) = cost(*size, *rate, beside);
                let told =
                    format!("{what}, {beside:?}, {size} MiB: {given} % came, {sent} % sent: {requests:?}");
                // Where a flight is cut, a part of what arrives with its last bytes is another one's.
                assert!(given <= 102 && sent <= most_sent, "{told}");
            }
        }
    }
}

#[test]
fn readers_that_go_through_a_cold_blob_at_their_own_pace_make_the_origin_send_one_copy() {
    let rates: [(&str, Rate); 4] = [
        ("32 MB/s", |_| 32 * KIB),
        ("256 MB/s", |_| 256 * KIB),
        ("2 GB/s", |_| 2 * MIB),
        ("as fast as can be", |_| 64 * MIB),
    ];
    assert_costs(&rates, &[40, 400], 104);
    // What sockets hold is nearly all of it, and all that is asked for takes a second.
    assert_costs(&[("1 MB/s", |_| KIB)], &[40], 115);
}

#[test]
fn an_origin_whose_pace_changes_sends_little_more_than_one_copy() {
    let rates: [(&str, Rate); 4] = [
        ("becomes slow", |now| if now < 100 { 256 * KIB } else { 32 * KIB }),
        ("becomes fast", |now| if now < 300 { 16 * KIB } else { 512 * KIB }),
        ("comes and goes", |now| if now / 100 % 2 == 0 { 256 * KIB } else { 16 * KIB }),
        ("stops now and then", |now| if now / 500 % 4 == 3 { 0 } else { 64 * KIB }),
    ];
    assert_costs(&rates, &[40, 400], 105);
    // Then much was asked for that does not come within a moment, and readers ask for some of it themselves.
    let bursts: [(&str, Rate); 2] = [
        ("begins with a burst", |now| if now < 2 { 2 * MIB } else { 32 * KIB }),
        ("begins with a long burst", |now| if now < 30 { MIB } else { 16 * KIB }),
    ];
    assert_costs(&bursts, &[40, 400], 125);
}
