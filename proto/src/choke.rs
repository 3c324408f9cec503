//! Whom to unchoke (BEP 3): a few regular slots for those who give most, and one optimistic slot that lets everybody
//! show what they can give.
//!
//! [`choose_unchoked`] is the decision, a function of what is seen of the peers; [`Choker`] owns what has to be
//! remembered between rounds (who was unchoked since when, whose turn the optimistic slot is, when the next round is
//! due). Neither sends anything: the caller turns the outcome into Choke and Unchoke messages.
//!
//! Invariants: never more than `slots + 1` peers are unchoked, none with no slots; a peer that is not interested
//! holds no slot; every peer that stays interested is unchoked after a bounded time.
//!
//! Uninterested peers are not unchoked ahead of their interest, as some clients do: they would hold a promise that
//! cannot be bounded by slots. Instead interest makes a round due at once while a slot is free.

use core::hash::Hash;
use core::time::Duration;
use std::collections::{HashMap, HashSet};

use crate::time::Moment;

/// Time between regular rounds. BEP 3: TCP needs about this long to ramp up, so a quicker change would judge peers
/// by their slow start ("fibrillation").
pub const ROUND_INTERVAL: Duration = Duration::from_secs(10);

/// How long one peer keeps the optimistic slot (BEP 3): three rounds, enough to earn a regular slot by giving back.
pub const OPTIMISTIC_INTERVAL: Duration = Duration::from_secs(30);

/// How long a connection counts as new for the optimistic slot; two rotations, so that each newcomer is a candidate
/// at least once while it is new.
const NEWCOMER_AGE: Duration = Duration::from_secs(60);

/// How much likelier a newcomer gets the optimistic slot (BEP 3): it has no piece to trade yet.
const NEWCOMER_WEIGHT: u64 = 3;

/// How long a peer of a seed keeps its slot while others wait. Long enough for a few megabytes and for TCP to get up to
/// speed; with 4 slots and 100 waiting peers each is served within half an hour even without the optimistic slot.
const SEED_TURN: Duration = Duration::from_secs(60);

/// Rounds out of turn (a slot became free, interest arrived) are at least this far apart.
const LEAST_ROUND_GAP: Duration = Duration::from_secs(1);

/// The same while slots are free: nobody loses by such a round, and the newcomer's first byte waits for it. What is left
/// of a gap keeps a peer that flaps from holding rounds without end.
const FREE_SLOT_ROUND_GAP: Duration = Duration::from_millis(20);

/// What the decision ranks peers by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We still want pieces: those who give us most are served first.
    Downloading,
    /// We have what we want: peers take turns, the fastest receivers first, so that pieces spread quickly.
    Seeding,
}

/// What is known of one connected peer.
#[derive(Debug, Clone)]
pub struct PeerView<K> {
    /// Names the peer.
    pub key: K,
    /// The peer wants pieces from us. Peers to whom nothing may be uploaded are shown as not interested.
    pub is_interested: bool,
    /// The peer lets our requests lie; it may only hold the optimistic slot (BEP 3, anti-snubbing).
    pub is_snubbing: bool,
    /// Bytes per second that the peer gives us.
    pub download_rate: u64,
    /// Bytes per second that we give the peer.
    pub upload_rate: u64,
    /// When the connection was made.
    pub connected_at: Moment,
}

/// What is remembered of one peer between rounds.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    /// Since when the peer has been unchoked; `None` while it is choked.
    pub unchoked_since: Option<Moment>,
    /// Since when the peer has waited: its interest, or the end of its last turn.
    pub waiting_since: Moment,
    /// The peer has been unchoked at least once.
    pub is_known: bool,
}

/// Who holds the optimistic slot, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Optimistic<K> {
    /// The peer.
    pub key: K,
    /// Since when.
    pub since: Moment,
}

/// The outcome of [`choose_unchoked`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<K> {
    /// Holders of the regular slots, best first.
    pub regular: Vec<K>,
    /// Holder of the optimistic slot; not among the regular ones.
    pub optimistic: Option<Optimistic<K>>,
}

impl<K: Copy> Choice<K> {
    /// All who are to be unchoked.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.regular.iter().copied().chain(self.optimistic.as_ref().map(|optimistic| optimistic.key))
    }
}

/// Decides who is unchoked.
///
/// `turns` must hold each interested peer of `view`; a peer without one counts as having waited since it connected.
/// `optimistic` is the present holder; it keeps the slot for [`OPTIMISTIC_INTERVAL`] unless it earned a regular
/// one or lost interest. `random` gives uniformly distributed numbers.
pub fn choose_unchoked<K: Copy + Eq + Hash>(
    view: &[PeerView<K>],
    now: Moment,
    slots: usize,
    role: Role,
    turns: &HashMap<K, Turn>,
    optimistic: Option<Optimistic<K>>,
    random: &mut impl FnMut() -> u64,
) -> Choice<K> {
    if slots == 0 {
        return Choice { regular: Vec::new(), optimistic: None };
    }
    let turn = |peer: &PeerView<K>| {
        turns.get(&peer.key).copied().unwrap_or(Turn {
            unchoked_since: None,
            waiting_since: peer.connected_at,
            is_known: false,
        })
    };
    let mut ranked: Vec<(&PeerView<K>, Turn)> =
        view.iter().filter(|peer| peer.is_interested).map(|peer| (peer, turn(peer))).collect();
    // Equal peers change places at random, else the order of the caller's list would decide for ever.
    shuffle(&mut ranked, random);
    let is_optimist = |key: K| optimistic.is_some_and(|held| held.key == key);
    let mut candidates = ranked.clone();
    match role {
        Role::Downloading => {
            ranked.retain(|(peer, _)| !peer.is_snubbing);
            ranked.sort_by_key(|(peer, turn)| {
                (core::cmp::Reverse((peer.download_rate, peer.upload_rate)), turn.waiting_since)
            });
        }
        Role::Seeding => {
            // The optimistic peer keeps its own slot for its time; a regular one goes to somebody else who wants it.
            if ranked.len() > slots && optimistic.is_some_and(|held| is_in_time(held, now)) {
                ranked.retain(|(peer, _)| !is_optimist(peer.key));
            }
            ranked.sort_by_key(|(peer, turn)| seeding_rank(peer, turn, now));
        }
    }
    ranked.truncate(slots);
    let regular: Vec<K> = ranked.iter().map(|(peer, _)| peer.key).collect();

    candidates.retain(|(peer, _)| !regular.contains(&peer.key));
    let kept = optimistic
        .filter(|held| is_in_time(*held, now) && candidates.iter().any(|(peer, _)| peer.key == held.key));
    let optimistic = kept.or_else(|| {
        // The holder has had its time; it stays only if nobody else wants the slot.
        let others: Vec<_> = candidates.iter().copied().filter(|(peer, _)| !is_optimist(peer.key)).collect();
        let pool = if others.is_empty() { &candidates } else { &others };
        draw(pool, now, random).map(|key| Optimistic { key, since: now })
    });
    Choice { regular, optimistic }
}

fn is_in_time<K>(held: Optimistic<K>, now: Moment) -> bool {
    now.saturating_sub(held.since) < OPTIMISTIC_INTERVAL
}

/// Order of a seed's slots: whoever's turn is not over, fastest first; then who waits, longest first; then those whose
/// turn is over, fastest first (they stay while nobody waits).
fn seeding_rank<K>(peer: &PeerView<K>, turn: &Turn, now: Moment) -> (u8, u64, Moment) {
    match turn.unchoked_since {
        Some(since) if now.saturating_sub(since) < SEED_TURN => {
            (0, u64::MAX - peer.upload_rate, Moment::ZERO)
        }
        None => (1, 0, turn.waiting_since),
        Some(_) => (2, u64::MAX - peer.upload_rate, Moment::ZERO),
    }
}

/// Draws the optimistic peer: newcomers three times as likely; but whoever has waited for so long that chance must have
/// passed it over (two fair rotations) comes first, so that waiting is bounded.
fn draw<K: Copy>(pool: &[(&PeerView<K>, Turn)], now: Moment, random: &mut impl FnMut() -> u64) -> Option<K> {
    let fair_rotations = u32::try_from(pool.len()).unwrap_or(u32::MAX).saturating_mul(2);
    let (longest, turn) = pool.iter().min_by_key(|(_, turn)| turn.waiting_since)?;
    if now.saturating_sub(turn.waiting_since) > OPTIMISTIC_INTERVAL.saturating_mul(fair_rotations) {
        return Some(longest.key);
    }
    let weight = |peer: &PeerView<K>, turn: &Turn| {
        let is_new = !turn.is_known && now.saturating_sub(peer.connected_at) < NEWCOMER_AGE;
        if is_new { NEWCOMER_WEIGHT } else { 1 }
    };
    let total: u64 = pool.iter().map(|(peer, turn)| weight(peer, turn)).sum();
    let mut ticket = random() % total.max(1);
    for (peer, turn) in pool {
        match ticket.checked_sub(weight(peer, turn)) {
            Some(rest) => ticket = rest,
            None => return Some(peer.key),
        }
    }
    None
}

/// Fisher and Yates. The bias of the remainder is below 2^-40 for any real number of peers.
fn shuffle<T>(items: &mut [T], random: &mut impl FnMut() -> u64) {
    for end in (1..items.len()).rev() {
        let other = random() % (end as u64 + 1);
        items.swap(end, usize::try_from(other).unwrap_or(end));
    }
}

/// What a round changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundChanges<K> {
    /// To be told Unchoke.
    pub unchoke: Vec<K>,
    /// To be told Choke.
    pub choke: Vec<K>,
}

/// The memory of the choking rounds of one torrent.
#[derive(Debug, Clone)]
pub struct Choker<K> {
    slots: usize,
    turns: HashMap<K, Turn>,
    optimistic: Option<Optimistic<K>>,
    next_round: Moment,
    last_round: Option<Moment>,
}

impl<K: Copy + Eq + Hash> Choker<K> {
    /// A choker with `slots` regular slots, under which nobody is unchoked. The first round is due at once.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self { slots, turns: HashMap::new(), optimistic: None, next_round: Moment::ZERO, last_round: None }
    }

    /// Regular slots for an upload limit in bytes per second (`None`: no limit).
    ///
    /// The square root keeps each slot's share growing with the limit (libtorrent and the first client agree on the
    /// shape): 4 slots at 40 kB/s, 14 at 500 kB/s, 63 at 10 MB/s. Without a limit 32, which fills any uplink with peers
    /// of 30 Mbit/s and more and bounds the disk's queue.
    #[must_use]
    pub fn slots_for(upload_limit: Option<u64>) -> usize {
        match upload_limit {
            Some(0) => 0,
            Some(limit) => usize::try_from((limit / 2_500).isqrt()).unwrap_or(64).clamp(2, 64),
            None => 32,
        }
    }

    /// Changes the number of regular slots, from the next round on; the round is made due.
    pub fn set_slots(&mut self, now: Moment, slots: usize) {
        if self.slots != slots {
            self.slots = slots;
            self.hasten(now);
        }
    }

    /// When the next round is due: call [`Choker::handle_round`] then.
    #[must_use]
    pub fn poll_timeout(&self) -> Moment {
        self.next_round
    }

    /// Whether the last round left the peer unchoked.
    #[must_use]
    pub fn is_unchoked(&self, key: K) -> bool {
        self.turns.get(&key).is_some_and(|turn| turn.unchoked_since.is_some())
    }

    /// How many peers are unchoked; at most the slots plus one.
    #[must_use]
    pub fn unchoked_count(&self) -> usize {
        self.turns.values().filter(|turn| turn.unchoked_since.is_some()).count()
    }

    /// A peer became interested. While a slot is free it need not wait for the regular round.
    pub fn handle_interested(&mut self, now: Moment) {
        let unchoked = self.unchoked_count();
        if unchoked < self.slots {
            self.hasten_by(now, FREE_SLOT_ROUND_GAP);
        } else if self.slots > 0 && unchoked == self.slots {
            self.hasten(now);
        }
    }

    /// A peer lost its interest. If it held a slot, a round is made due, which will choke it.
    pub fn handle_uninterested(&mut self, now: Moment, key: K) {
        if self.is_unchoked(key) {
            self.hasten(now);
        }
    }

    /// A peer disconnected. If it held a slot, a round is made due.
    pub fn handle_disconnected(&mut self, now: Moment, key: K) {
        self.optimistic = self.optimistic.filter(|held| held.key != key);
        if self.turns.remove(&key).is_some_and(|turn| turn.unchoked_since.is_some()) {
            self.hasten(now);
        }
    }

    /// Holds a round over all connected peers. Peers missing in `view` are forgotten without a message.
    pub fn handle_round(
        &mut self,
        now: Moment,
        role: Role,
        view: &[PeerView<K>],
        random: &mut impl FnMut() -> u64,
    ) -> RoundChanges<K> {
        // A round over nobody decided nothing, and nobody need wait after it.
        if !view.is_empty() {
            self.last_round = Some(now);
        }
        self.next_round = now.saturating_add(ROUND_INTERVAL);
        let unknown = Turn { unchoked_since: None, waiting_since: now, is_known: false };
        let mut turns: HashMap<K, Turn> = HashMap::with_capacity(view.len());
        for peer in view {
            let turn = self.turns.get(&peer.key).copied();
            if peer.is_interested || turn.is_some_and(|turn| turn.unchoked_since.is_some()) {
                turns.insert(peer.key, turn.unwrap_or(unknown));
            }
        }
        let choice = choose_unchoked(view, now, self.slots, role, &turns, self.optimistic, random);
        let chosen: HashSet<K> = choice.keys().collect();
        let mut changes = RoundChanges { unchoke: Vec::new(), choke: Vec::new() };
        for peer in view {
            let Some(turn) = turns.get_mut(&peer.key) else { continue };
            match (chosen.contains(&peer.key), turn.unchoked_since) {
                (true, None) => {
                    *turn = Turn { unchoked_since: Some(now), is_known: true, ..*turn };
                    changes.unchoke.push(peer.key);
                }
                (false, Some(_)) => {
                    *turn = Turn { unchoked_since: None, waiting_since: now, ..*turn };
                    changes.choke.push(peer.key);
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        self.turns = turns;
        self.optimistic = choice.optimistic;
        changes
    }

    fn hasten(&mut self, now: Moment) {
        self.hasten_by(now, LEAST_ROUND_GAP);
    }

    fn hasten_by(&mut self, now: Moment, gap: Duration) {
        let earliest = self.last_round.map_or(now, |last| last.saturating_add(gap).max(now));
        self.next_round = self.next_round.min(earliest);
    }
}

#[cfg(test)]
mod tests;
