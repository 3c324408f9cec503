//! Simulated swarms: the protocol crate's own types, joined as the engine joins them, on a virtual network with a
//! virtual clock.
//!
//! Each run follows from its seed. What is asserted are promises, not outcomes: no unverified byte is served or read,
//! no block is outstanding at more than two sources, the memory budget holds, only liars are banned, and every liar
//! that did harm; every read ends, and with data if somebody could serve it; a fill ends when the honest have all
//! pieces between them; random reads cost the pieces they touch.
//!
//! `WTFS_SIM_COUNT` sets how many swarms are run; `WTFS_SIM_SEED` replays the one that a failure names.

mod simulation {
    pub(crate) mod gathered;
    pub(crate) mod network;
    pub(crate) mod node;
    pub(crate) mod peer;
    pub(crate) mod random;
    pub(crate) mod reads;
    pub(crate) mod scenario;
    pub(crate) mod swarm;
    pub(crate) mod torrent;
}

use simulation::random::Random;
use simulation::scenario::Scenario;
use simulation::swarm::Swarm;

/// Swarms run when nobody says otherwise.
const COUNT: u64 = 50;

/// Says how to see a failure again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay this swarm with WTFS_SIM_SEED={}", self.0);
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the code under test reads no environment; its test harness may"
)]
fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a number")))
}

/// The seeds to run: one given, or `share` of a hundred of the usual count.
fn seeds(share: u64) -> Vec<u64> {
    match setting("WTFS_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..(setting("WTFS_SIM_COUNT").unwrap_or(COUNT) * share).div_ceil(100)).collect(),
    }
}

fn run(seed: u64, scenario: fn(&mut Random) -> Scenario) -> Swarm {
    let mut random = Random::new(seed);
    let scenario = scenario(&mut random);
    let mut swarm = Swarm::new(scenario, random);
    swarm.run();
    swarm
}

#[test]
fn the_promises_hold_in_a_storm() {
    for seed in seeds(100) {
        let _replay = Replay(seed);
        run(seed, Scenario::stormy);
    }
}

#[test]
fn the_promises_hold_when_memory_is_short_and_peers_refuse() {
    for seed in seeds(100) {
        let _replay = Replay(seed);
        run(seed, Scenario::harsh);
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in seeds(10) {
        let _replay = Replay(seed);
        let once = run(seed, Scenario::stormy).fingerprint();
        assert_eq!(run(seed, Scenario::stormy).fingerprint(), once);
    }
}

#[test]
fn random_reads_cost_the_pieces_they_touch() {
    for seed in seeds(20) {
        let _replay = Replay(seed);
        let swarm = run(seed, Scenario::random_reads);
        let reader = swarm.nodes.last().expect("the reader comes last");
        let touched: u64 = reader.tally.touched.iter().map(|piece| swarm.torrent.piece_len(*piece)).sum();
        let (fetched, allowed) = (reader.tally.downloaded, 2 * touched);
        assert!(fetched <= allowed, "{fetched} bytes were fetched for pieces of {touched} bytes");
        assert_eq!(reader.reads.timed_out, 0);
    }
}

#[test]
fn a_forsaken_reader_is_told_so() {
    for seed in seeds(20) {
        let _replay = Replay(seed);
        let swarm = run(seed, Scenario::forsaken);
        let reader = swarm.nodes.last().expect("the reader comes last");
        assert!(reader.has_all() || reader.reads.timed_out > 0, "where did the data come from?");
    }
}
