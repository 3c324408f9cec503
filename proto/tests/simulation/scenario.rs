//! Swarms made from a seed: who takes part, what each has and does, and what breaks.

use std::ops::RangeInclusive;
use std::time::Duration;

use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::swarm::picker::Filling;
use wtfs_proto::time::Moment;

use super::node::{Character, Conduct};
use super::random::Random;
use super::reads::{Movement, Script};
use super::torrent::{Shape, Torrent};

/// How quick the links of a node are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speed {
    Quick,
    Slow,
}

/// Whether a node stays for as long as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loyalty {
    Stays,
    ComesAndGoes,
    LeavesForEver(Moment),
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) character: Character,
    pub(crate) present: Bitfield,
    pub(crate) speed: Speed,
    pub(crate) loyalty: Loyalty,
}

/// Links are cut or stall, peers leave, pieces are evicted, until the storm is over.
#[derive(Debug, Clone)]
pub(crate) struct Storm {
    pub(crate) until: Moment,
    pub(crate) pause_ms: RangeInclusive<u64>,
}

#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) shape: Shape,
    pub(crate) members: Vec<Member>,
    pub(crate) storm: Option<Storm>,
    /// The virtual time by which everybody must have all.
    pub(crate) limit: Moment,
}

impl Scenario {
    /// A bit of everything. All pieces are always somewhere among the honest.
    pub(crate) fn stormy(random: &mut Random) -> Self {
        let mut scenario = Self::harsh(random);
        let piece_bytes = u64::from(Torrent::of(scenario.shape).geometry.piece_bytes());
        let is_liar = |member: &Member| matches!(member.character.conduct, Conduct::Liar { .. });
        let has_liar = scenario.members.iter().any(is_liar);
        for member in &mut scenario.members {
            let character = &mut member.character;
            character.budget_bytes = character.budget_bytes.max(2 * piece_bytes);
            if has_liar {
                character.reject_percent = 0;
                character.queue_limit = 250;
            }
        }
        scenario
    }

    /// The same where memory is short, down to less than a piece, and where peers refuse requests beside a liar.
    pub(crate) fn harsh(random: &mut Random) -> Self {
        let shape = [Shape::Small, Shape::Ragged, Shape::Long][random.index(3)];
        let torrent = Torrent::of(shape);
        let mut members = Vec::new();
        if random.is_hit(60) {
            members.push(Member::seed(&torrent, Loyalty::Stays));
        } else {
            members.extend(partial_peers(&torrent, random));
        }
        for _ in 0..random.between(1, 3) {
            members.push(Member::filler(&torrent, random));
        }
        for _ in 0..random.between(1, 2) {
            members.push(Member::reader(&torrent, random));
        }
        if random.is_hit(50) {
            let conduct = Conduct::Liar { percent: random.between(5, 100) };
            members.push(Member::seed(&torrent, Loyalty::ComesAndGoes).with_conduct(conduct));
        }
        if random.is_hit(40) {
            let seed = Member::seed(&torrent, Loyalty::ComesAndGoes);
            members.push(Member { speed: Speed::Slow, ..seed });
        }
        if random.is_hit(30) {
            members.push(Member::seed(&torrent, Loyalty::ComesAndGoes).with_conduct(Conduct::Silent));
        }
        for member in &mut members {
            let character = &mut member.character;
            character.queue_limit = if random.is_hit(30) { random.between(2, 20) as usize } else { 250 };
            character.reject_percent = if random.is_hit(20) { random.between(1, 10) } else { 0 };
            character.allowed_fast = random.below(6) as usize;
            character.slots = random.between(1, 8) as usize;
        }
        let storm = Storm { until: Duration::from_secs(random.between(5, 60)), pause_ms: 100..=3_000 };
        Self { shape, members, storm: Some(storm), limit: Duration::from_secs(1_800) }
    }

    /// Good sources and one reader that jumps about.
    pub(crate) fn random_reads(random: &mut Random) -> Self {
        let shape = Shape::Wide;
        let torrent = Torrent::of(shape);
        let mut members: Vec<Member> =
            (0..random.between(1, 4)).map(|_| Member::seed(&torrent, Loyalty::Stays)).collect();
        let script = Script {
            movement: Movement::Random,
            reads_left: 60,
            read_bytes: 4096,
            position: 0,
            withdrawn: 0,
        };
        members.push(Member::with_script(&torrent, script, random));
        Self { shape, members, storm: None, limit: Duration::from_secs(600) }
    }

    /// A reader whose sources leave one after the other, for ever.
    pub(crate) fn forsaken(random: &mut Random) -> Self {
        let shape = Shape::Small;
        let torrent = Torrent::of(shape);
        let mut members: Vec<Member> = (0..random.between(1, 3))
            .map(|_| Member::seed(&torrent, Loyalty::LeavesForEver(random.millis(100, 3_000))))
            .collect();
        let script = Script {
            movement: Movement::Sequential { parallel: random.between(1, 4) as usize },
            reads_left: 200,
            read_bytes: 64 << 10,
            position: 0,
            withdrawn: 0,
        };
        members.push(Member::with_script(&torrent, script, random));
        Self { shape, members, storm: None, limit: Duration::from_secs(200 * 70) }
    }
}

impl Member {
    fn seed(torrent: &Torrent, loyalty: Loyalty) -> Self {
        Self {
            character: Character {
                conduct: Conduct::Honest,
                filling: Filling::OnDemand,
                slots: 8,
                budget_bytes: 0,
                queue_limit: 250,
                reject_percent: 0,
                allowed_fast: 0,
                max_readahead_bytes: 0,
                script: None,
            },
            present: Bitfield::full(torrent.piece_count()),
            speed: Speed::Quick,
            loyalty,
        }
    }

    fn with_conduct(mut self, conduct: Conduct) -> Self {
        self.character.conduct = conduct;
        self
    }

    fn leech(torrent: &Torrent, random: &mut Random) -> Self {
        let mut member = Self::seed(torrent, Loyalty::Stays);
        member.character.budget_bytes = random.between(1, 8 * u64::from(torrent.geometry.piece_bytes()));
        member.character.max_readahead_bytes = random.between(0, torrent.total_bytes());
        member.present = Bitfield::new(torrent.piece_count());
        member
    }

    fn filler(torrent: &Torrent, random: &mut Random) -> Self {
        let mut member = Self::leech(torrent, random);
        member.character.filling = Filling::Everything;
        if random.is_hit(30) {
            member.character.script = Some(script(torrent, random));
        }
        for piece in 0..torrent.piece_count() {
            if random.is_hit(10) {
                member.present.set(piece);
            }
        }
        member
    }

    fn reader(torrent: &Torrent, random: &mut Random) -> Self {
        let script = script(torrent, random);
        Self::with_script(torrent, script, random)
    }

    fn with_script(torrent: &Torrent, script: Script, random: &mut Random) -> Self {
        let mut member = Self::leech(torrent, random);
        member.character.script = Some(script);
        member
    }
}

fn script(torrent: &Torrent, random: &mut Random) -> Script {
    let movement = match random.below(3) {
        0 => Movement::Sequential { parallel: random.between(1, 8) as usize },
        1 => Movement::Random,
        _ => Movement::Seeking,
    };
    Script {
        movement,
        reads_left: random.between(10, 60) as usize,
        read_bytes: [4 << 10, 16 << 10, 128 << 10][random.index(3)],
        position: random.below(torrent.total_bytes()),
        withdrawn: random.below(20),
    }
}

/// Two to four peers that have all pieces between them and come and go.
fn partial_peers(torrent: &Torrent, random: &mut Random) -> Vec<Member> {
    let count = random.between(2, 4) as usize;
    let mut members: Vec<Member> = (0..count).map(|_| Member::leech(torrent, random)).collect();
    for member in &mut members {
        member.loyalty = Loyalty::ComesAndGoes;
    }
    for piece in 0..torrent.piece_count() {
        let first = random.index(count);
        members[first].present.set(piece);
        if random.is_hit(30) {
            let second = random.index(count);
            members[second].present.set(piece);
        }
    }
    members
}
