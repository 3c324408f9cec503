//! The map against a naive one, and what its promises mean one by one.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const TTL: Duration = Duration::from_secs(100);
const SECRET: Secret = Secret::new([0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210]);

fn shard() -> Shard {
    Shard::new(Memory { peers: TTL, torrents: 3 * TTL }, SECRET)
}

fn hash(number: u32) -> InfoHash {
    let mut bytes = [7; 20];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    InfoHash::new(bytes)
}

fn peer_id(number: u32) -> PeerId {
    PeerId::new(*hash(number).as_bytes())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn socket(number: u32) -> SocketId {
    SocketId::new(number).expect("not zero")
}

/// A leecher with an IPv4 address of its own that wants everybody.
fn leecher(number: u32) -> Announce {
    Announce {
        info_hash: hash(0),
        peer_id: peer_id(number),
        from: IpAddr::from((0x0800_0000 + number).to_be_bytes()),
        contact: Contact::Port(6881),
        key: 0,
        progress: Progress::Leecher,
        event: AnnounceEvent::None,
        wanted: Wanted::Addresses,
        want: 1000,
        uploaded_bytes: 0,
    }
}

/// Announces, and gives the ids that were drawn.
fn tell(shard: &mut Shard, at_s: u64, announce: &Announce) -> Result<(Answer, Vec<PeerId>), Refusal> {
    let mut drawn = Vec::new();
    let answer = shard.announce(
        Duration::from_secs(at_s),
        fastrand::u64(..),
        Room::Open,
        announce,
        |peer: Drawn<'_>| drawn.push(*peer.peer_id),
    )?;
    Ok((answer, drawn))
}

fn counts(complete: u32, incomplete: u32, downloaded: u32) -> ScrapeEntry {
    ScrapeEntry { complete, downloaded, incomplete }
}

/// A client of the model: its peer id, its key, and where it announces from. None is taken for another by design.
struct Someone {
    id: u32,
    key: u32,
    homes: &'static [&'static str],
    has_socket: bool,
}

const SOMEONES: &[Someone] = &[
    Someone { id: 1, key: 1, homes: &["8.1.1.1", "2001:db8::1"], has_socket: false },
    Someone { id: 1, key: 2, homes: &["8.2.2.2"], has_socket: false },
    Someone { id: 2, key: 0, homes: &["8.3.3.3"], has_socket: true },
    Someone { id: 2, key: 0, homes: &["8.4.4.4"], has_socket: true },
    Someone { id: 3, key: 0, homes: &["2001:db8:1::1", "2001:db8:1::2"], has_socket: false },
    Someone { id: 4, key: 3, homes: &["8.5.5.5"], has_socket: true },
];

#[derive(Debug, Clone, Default)]
struct Record {
    v4: Option<(u64, u16)>,
    v6: Option<(u64, u16)>,
    socket: Option<SocketId>,
    is_seed: bool,
    seen_s: u64,
}

#[derive(Debug, Default)]
struct Model {
    /// By torrent and place in [`SOMEONES`].
    records: BTreeMap<(u32, usize), Record>,
    downloaded: BTreeMap<u32, u32>,
    touched_s: BTreeMap<u32, u64>,
}

impl Model {
    fn expire(&mut self, now_s: u64) {
        self.records.retain(|_, record| now_s - record.seen_s <= TTL.as_secs());
        let has_peers = |torrent| self.records.keys().any(|(own, _)| *own == torrent);
        self.touched_s.retain(|torrent, at| has_peers(*torrent) || now_s - *at <= 3 * TTL.as_secs());
        let touched = &self.touched_s;
        self.downloaded.retain(|torrent, _| touched.contains_key(torrent));
    }

    fn announce(&mut self, now_s: u64, torrent: u32, who: usize, announce: &Announce) -> Result<(), ()> {
        let namesake = |(own, other): &(u32, usize)| {
            *own == torrent && *other != who && SOMEONES[*other].id == SOMEONES[who].id
        };
        let is_taken = self.records.iter().any(|(key, record)| namesake(key) && record.socket.is_some());
        let is_known = self.records.contains_key(&(torrent, who));
        if announce.event == AnnounceEvent::Stopped {
            if let Some(record) = self.records.get_mut(&(torrent, who)) {
                match announce.contact {
                    Contact::Port(_) => (record.v4, record.v6) = (None, None),
                    Contact::Socket(_) => record.socket = None,
                }
                if record.v4.is_none() && record.v6.is_none() && record.socket.is_none() {
                    self.records.remove(&(torrent, who));
                }
            }
            return Ok(());
        }
        if !is_known && is_taken && matches!(announce.contact, Contact::Socket(_)) {
            // The torrent is known by the other one's announce.
            return Err(());
        }
        self.touched_s.insert(torrent, now_s);
        let is_seed = announce.progress == Progress::Seed;
        let record = self.records.entry((torrent, who)).or_default();
        if announce.event == AnnounceEvent::Completed && is_seed && !record.is_seed {
            *self.downloaded.entry(torrent).or_default() += 1;
        }
        (record.is_seed, record.seen_s) = (is_seed, now_s);
        match announce.contact {
            Contact::Port(port) => {
                let place = if announce.from.is_ipv4() { &mut record.v4 } else { &mut record.v6 };
                *place = (port != 0).then_some((now_s, port));
            }
            Contact::Socket(socket) => record.socket = Some(socket),
        }
        let is_fresh = |(seen_s, _): &(u64, u16)| now_s - seen_s <= TTL.as_secs();
        (record.v4, record.v6) = (record.v4.filter(is_fresh), record.v6.filter(is_fresh));
        Ok(())
    }

    fn counts(&self, torrent: u32) -> ScrapeEntry {
        let mut counts = ScrapeEntry {
            downloaded: self.downloaded.get(&torrent).copied().unwrap_or(0),
            ..ScrapeEntry::default()
        };
        for record in self.records.iter().filter(|((own, _), _)| *own == torrent).map(|(_, record)| record) {
            if record.is_seed {
                counts.complete += 1;
            } else {
                counts.incomplete += 1;
            }
        }
        counts
    }

    /// Ports and sockets that may be drawn.
    fn eligible(
        &self,
        torrent: u32,
        who: usize,
        announce: &Announce,
    ) -> BTreeSet<(Option<u16>, Option<u16>, Option<SocketId>)> {
        let others = self.records.iter().filter(|((own, other), _)| *own == torrent && *other != who);
        let useful = others.filter(|(_, record)| announce.progress == Progress::Leecher || !record.is_seed);
        let told = useful.map(|(_, record)| {
            let (v4, v6) = (record.v4.map(|(_, port)| port), record.v6.map(|(_, port)| port));
            match announce.wanted {
                Wanted::Addresses => (v4, v6, None),
                Wanted::V4 => (v4, None, None),
                Wanted::V6 => (None, v6, None),
                Wanted::Sockets => (None, None, record.socket),
            }
        });
        told.filter(|told| *told != (None, None, None)).collect()
    }
}

#[derive(Debug, Clone)]
struct Step {
    pause_s: u64,
    torrent: u32,
    who: usize,
    home: usize,
    /// 0: port 0, 1: its port, 2 and 3: sockets.
    contact: u8,
    progress: Progress,
    event: AnnounceEvent,
    wanted: Wanted,
    want: usize,
    random: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = (
        prop::sample::select(vec![Progress::Seed, Progress::Leecher]),
        prop::sample::select(vec![
            AnnounceEvent::None,
            AnnounceEvent::Started,
            AnnounceEvent::Completed,
            AnnounceEvent::Stopped,
        ]),
        prop::sample::select(vec![Wanted::Addresses, Wanted::V4, Wanted::V6, Wanted::Sockets]),
        prop_oneof![Just(0_usize), Just(1), Just(2), Just(50)],
    );
    let pause_s = prop_oneof![8 => 0_u64..20, 1 => 90_u64..120, 1 => 250_u64..400];
    let step = (pause_s, 0_u32..2, 0..SOMEONES.len(), 0_usize..2, 0_u8..4, what, any::<u64>());
    let step =
        step.prop_map(|(pause_s, torrent, who, home, contact, (progress, event, wanted, want), random)| {
            Step { pause_s, torrent, who, home, contact, progress, event, wanted, want, random }
        });
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn it_answers_as_a_naive_map_would(steps in steps()) {
        let (mut shard, mut model, mut now_s) = (shard(), Model::default(), 1000);
        for step in steps {
            now_s += step.pause_s;
            let someone = &SOMEONES[step.who];
            let number = u32::try_from(step.who).expect("few");
            let contact = match step.contact {
                0 => Contact::Port(0),
                which @ (2 | 3) if someone.has_socket => Contact::Socket(socket(10 * number + u32::from(which))),
                _ => Contact::Port(1000 + u16::try_from(number).expect("few")),
            };
            let announce = Announce {
                info_hash: hash(step.torrent),
                peer_id: peer_id(someone.id),
                from: ip(someone.homes[step.home % someone.homes.len()]),
                contact,
                // Over a web socket nobody says a key.
                key: if matches!(contact, Contact::Socket(_)) { 0 } else { someone.key },
                progress: step.progress,
                event: step.event,
                wanted: step.wanted,
                want: step.want,
                uploaded_bytes: 0,
            };
            let now = Duration::from_secs(now_s);
            shard.expire(now, usize::MAX);
            model.expire(now_s);
            let mut drawn = Vec::new();
            let answer = shard.announce(now, step.random, Room::Open, &announce, |peer| {
                drawn.push((peer.v4.map(|addr| addr.port()), peer.v6.map(|addr| addr.port()), peer.socket));
            });
            match model.announce(now_s, step.torrent, step.who, &announce) {
                Ok(()) => prop_assert_eq!(answer.map(|answer| answer.counts), Ok(model.counts(step.torrent))),
                Err(()) => prop_assert!(matches!(answer, Err(Refusal::Taken { .. })), "{:?}", answer),
            }
            if announce.event == AnnounceEvent::Stopped || answer.is_err() {
                prop_assert_eq!(drawn.len(), 0);
            } else {
                let eligible = model.eligible(step.torrent, step.who, &announce);
                prop_assert_eq!(drawn.len(), eligible.len().min(step.want));
                let distinct: BTreeSet<_> = drawn.iter().copied().collect();
                prop_assert_eq!(distinct.len(), drawn.len());
                prop_assert!(distinct.is_subset(&eligible), "{:?} of {:?}", distinct, eligible);
            }
            let totals = shard.totals();
            let count = |is_so: fn(&Record) -> bool| model.records.values().filter(|record| is_so(record)).count();
            prop_assert_eq!(totals, Totals {
                torrents: model.touched_s.len(),
                peers: model.records.len(),
                seeds: count(|record| record.is_seed),
                v4: count(|record| record.v4.is_some()),
                v6: count(|record| record.v6.is_some()),
                sockets: count(|record| record.socket.is_some()),
            });
            for (torrent, who) in model.records.keys() {
                let id = peer_id(SOMEONES[*who].id);
                let sockets: Vec<_> = SOMEONES.iter().enumerate()
                    .filter(|(_, other)| other.id == SOMEONES[*who].id)
                    .filter_map(|(other, _)| model.records.get(&(*torrent, other))?.socket)
                    .collect();
                let found = shard.socket_of(hash(*torrent), id);
                prop_assert!(found.map_or(sockets.is_empty(), |found| sockets.contains(&found)));
            }
        }
    }
}

#[test]
fn each_peer_is_drawn_as_often_as_another() {
    let mut shard = shard();
    for number in 0..1000 {
        tell(&mut shard, 0, &leecher(number)).expect("accepted");
    }
    let mut drawn: BTreeMap<PeerId, u32> = BTreeMap::new();
    let asking = Announce { want: 10, ..leecher(0) };
    for _ in 0..20_000 {
        let (_, peers) = tell(&mut shard, 0, &asking).expect("accepted");
        assert_eq!(peers.len(), 10);
        peers.into_iter().for_each(|id| *drawn.entry(id).or_default() += 1);
    }
    assert_eq!(drawn.len(), 999, "all but the one that asks");
    // 200 on average with a deviation of 14: six deviations.
    assert!(drawn.values().all(|count| (115..285).contains(count)), "{:?}", drawn.values().minmax());
}

trait MinMax {
    fn minmax(self) -> Option<(u32, u32)>;
}

impl<'a, I: Iterator<Item = &'a u32> + Clone> MinMax for I {
    fn minmax(self) -> Option<(u32, u32)> {
        Some((*self.clone().min()?, *self.max()?))
    }
}

#[test]
fn seeds_are_told_leechers_alone() {
    let mut shard = shard();
    let seed = |number| Announce { progress: Progress::Seed, ..leecher(number) };
    tell(&mut shard, 0, &seed(1)).expect("accepted");
    tell(&mut shard, 0, &leecher(2)).expect("accepted");
    assert_eq!(tell(&mut shard, 0, &seed(3)).expect("accepted").1, [peer_id(2)]);
    assert_eq!(tell(&mut shard, 0, &leecher(4)).expect("accepted").1.len(), 3);
}

#[test]
fn a_stranger_does_not_take_a_peers_place() {
    let mut shard = shard();
    let own = Announce { key: 77, ..leecher(1) };
    tell(&mut shard, 0, &own).expect("accepted");
    let stranger = Announce { from: ip("9.9.9.9"), ..leecher(1) };
    let stop = Announce { event: AnnounceEvent::Stopped, ..stranger };
    tell(&mut shard, 1, &stop).expect("accepted");
    assert_eq!(shard.scrape(hash(0)), Some(counts(0, 1, 0)));
    tell(&mut shard, 1, &stranger).expect("accepted");
    assert_eq!(shard.scrape(hash(0)), Some(counts(0, 2, 0)), "beside it");
    let moved = Announce { from: ip("7.7.7.7"), ..own };
    tell(&mut shard, 2, &moved).expect("accepted");
    assert_eq!(shard.scrape(hash(0)), Some(counts(0, 2, 0)), "the key shows that it is the same");
    let crowd = (0..10).map(|last| Announce { from: IpAddr::from([9, 9, 8, last]), ..leecher(1) });
    let refused = crowd.filter(|announce| tell(&mut shard, 3, announce) == Err(Refusal::Crowded)).count();
    assert_eq!(refused, 8, "four of one name");
}

#[test]
fn a_browser_that_reconnects_takes_its_place_again_and_another_does_not() {
    let mut shard = shard();
    let browser = |from: &str, number| Announce {
        from: ip(from),
        contact: Contact::Socket(socket(number)),
        wanted: Wanted::Sockets,
        ..leecher(1)
    };
    tell(&mut shard, 0, &browser("8.8.8.8", 1)).expect("accepted");
    let refused = tell(&mut shard, 1, &browser("9.9.9.9", 2));
    assert_eq!(refused, Err(Refusal::Taken { by: socket(1) }));
    let (answer, _) = tell(&mut shard, 2, &browser("8.8.8.8", 3)).expect("accepted");
    assert_eq!(answer.replaced, Some(socket(1)));
    shard.leave(hash(0), peer_id(1), socket(1));
    assert_eq!(shard.socket_of(hash(0), peer_id(1)), Some(socket(3)), "the old socket's end means nothing");
    shard.leave(hash(0), peer_id(1), socket(3));
    assert_eq!(shard.scrape(hash(0)), Some(counts(0, 0, 0)));
}

#[test]
fn a_private_address_is_told_to_neighbours_alone() {
    let mut shard = shard();
    let at = |number, from: &str| Announce { from: ip(from), ..leecher(number) };
    tell(&mut shard, 0, &at(1, "192.168.1.5")).expect("accepted");
    tell(&mut shard, 0, &at(2, "127.0.0.1")).expect("accepted");
    tell(&mut shard, 0, &at(3, "8.8.8.8")).expect("accepted");
    let mut told = |number, from| {
        let (_, mut drawn) = tell(&mut shard, 0, &at(number, from)).expect("accepted");
        drawn.sort_unstable();
        drawn
    };
    assert_eq!(told(4, "9.9.9.9"), [peer_id(3)]);
    assert_eq!(told(5, "10.0.0.1"), [peer_id(1), peer_id(3), peer_id(4)]);
    assert_eq!(told(6, "127.0.0.1"), [peer_id(1), peer_id(2), peer_id(3), peer_id(4), peer_id(5)]);
}

#[test]
fn a_full_map_answers_newcomers_and_forgets_them() {
    let mut shard = shard();
    let mut say = |room, announce: &Announce| {
        let mut drawn = 0;
        let answer = shard.announce(Duration::ZERO, 1, room, announce, |_| drawn += 1);
        (answer.map(|answer| answer.counts), drawn)
    };
    assert_eq!(say(Room::Open, &leecher(1)), (Ok(counts(0, 1, 0)), 0));
    assert_eq!(say(Room::None, &leecher(2)), (Ok(counts(0, 1, 0)), 1), "told of the first, not remembered");
    assert_eq!(say(Room::None, &leecher(1)), (Ok(counts(0, 1, 0)), 0), "who is known stays");
    let other = Announce { info_hash: hash(9), ..leecher(3) };
    assert_eq!(say(Room::NoTorrents, &other).0, Err(Refusal::Full));
    let stop = Announce { event: AnnounceEvent::Stopped, ..leecher(1) };
    assert_eq!(say(Room::NoTorrents, &stop).0, Ok(counts(0, 0, 0)));
    assert_eq!(say(Room::NoTorrents, &other).0, Ok(counts(0, 1, 0)), "an empty torrent made room");
}

#[test]
fn an_old_address_of_another_family_is_forgotten_while_the_peer_stays() {
    let mut shard = shard();
    let v4 = Announce { key: 5, ..leecher(1) };
    let v6 = Announce { from: ip("2001:db8::1"), ..v4 };
    tell(&mut shard, 0, &v6).expect("accepted");
    tell(&mut shard, 60, &v4).expect("accepted");
    assert_eq!((shard.totals().v4, shard.totals().v6), (1, 1));
    tell(&mut shard, 120, &v4).expect("accepted");
    assert_eq!((shard.totals().v4, shard.totals().v6, shard.totals().peers), (1, 0, 1));
}

#[test]
fn a_hundred_thousand_peers_take_few_bytes_and_leave_none_behind() {
    let mut shard = shard();
    for number in 0..100_000 {
        let announce = Announce { info_hash: hash(number % 1000), want: 0, ..leecher(number) };
        tell(&mut shard, 0, &announce).expect("accepted");
    }
    let each = shard.heap_bytes() / 100_000;
    println!("{each} bytes a peer");
    assert!(each <= 180, "{each} bytes a peer");
    shard.expire(TTL + Duration::from_secs(1), usize::MAX);
    assert_eq!(shard.totals().peers, 0);
    shard.expire(4 * TTL + Duration::from_secs(1), usize::MAX);
    assert_eq!(shard.totals(), Totals::default());
    assert!(shard.heap_bytes() < 2000, "{} bytes", shard.heap_bytes());
}
