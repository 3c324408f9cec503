//! Rounds over made-up peers in virtual time.

use proptest::prelude::*;

use super::*;

fn seconds(count: u64) -> Moment {
    Duration::from_secs(count)
}

/// A splitmix64 sequence: the same seed gives the same rounds.
fn random(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

fn peer(key: u32, download_rate: u64) -> PeerView<u32> {
    PeerView {
        key,
        is_interested: true,
        is_snubbing: false,
        download_rate,
        upload_rate: 0,
        connected_at: Moment::ZERO,
    }
}

#[test]
fn those_who_give_most_hold_the_regular_slots() {
    let view: Vec<_> = (0..20).map(|key| peer(key, u64::from(key) * 1_000)).collect();
    let choice =
        choose_unchoked(&view, seconds(0), 4, Role::Downloading, &HashMap::new(), None, &mut random(1));
    assert_eq!(choice.regular, [19, 18, 17, 16]);
    let optimistic = choice.optimistic.expect("sixteen peers wait");
    assert!(optimistic.key < 16);
    assert_eq!(choice.keys().count(), 5);
}

#[test]
fn a_peer_that_lets_requests_lie_only_gets_the_optimistic_slot() {
    let mut view = vec![peer(1, 9_000), peer(2, 10)];
    view[0].is_snubbing = true;
    let choice =
        choose_unchoked(&view, seconds(0), 4, Role::Downloading, &HashMap::new(), None, &mut random(1));
    assert_eq!(choice.regular, [2]);
    assert_eq!(choice.optimistic.map(|held| held.key), Some(1));
}

#[test]
fn no_slots_unchoke_nobody_and_uninterested_peers_hold_none() {
    let mut view = vec![peer(1, 9_000), peer(2, 10)];
    let mut choker = Choker::new(0);
    let changes = choker.handle_round(seconds(0), Role::Downloading, &view, &mut random(1));
    assert_eq!(changes.unchoke, [0; 0]);
    choker.set_slots(seconds(1), 4);
    assert_eq!(choker.poll_timeout(), seconds(1));
    view[0].is_interested = false;
    let changes = choker.handle_round(seconds(1), Role::Downloading, &view, &mut random(1));
    assert_eq!(changes.unchoke, [2]);
    assert_eq!(choker.unchoked_count(), 1);
}

#[test]
fn the_optimistic_slot_stays_for_thirty_seconds_and_then_moves_on() {
    let view: Vec<_> = (0..10).map(|key| peer(key, u64::from(key) * 1_000)).collect();
    let mut choker = Choker::new(2);
    let mut random = random(7);
    choker.handle_round(seconds(0), Role::Downloading, &view, &mut random);
    let first = choker.optimistic.expect("eight peers wait").key;
    for now in [10, 20] {
        let changes = choker.handle_round(seconds(now), Role::Downloading, &view, &mut random);
        assert_eq!((changes.unchoke.len(), changes.choke.len()), (0, 0));
    }
    let changes = choker.handle_round(seconds(30), Role::Downloading, &view, &mut random);
    assert_eq!(changes.choke, [first]);
    assert_eq!(changes.unchoke.len(), 1);
    assert_ne!(changes.unchoke, [first]);
}

#[test]
fn an_optimistic_peer_that_gives_back_earns_a_regular_slot_and_frees_its_own() {
    let mut view: Vec<_> = (0..6).map(|key| peer(key, u64::from(key) * 1_000)).collect();
    let mut choker = Choker::new(2);
    let mut random = random(3);
    choker.handle_round(seconds(0), Role::Downloading, &view, &mut random);
    let lucky = choker.optimistic.expect("four peers wait").key;
    view[lucky as usize].download_rate = 1_000_000;
    let changes = choker.handle_round(seconds(10), Role::Downloading, &view, &mut random);
    assert!(choker.is_unchoked(lucky));
    assert_ne!(choker.optimistic.map(|held| held.key), Some(lucky));
    assert_eq!(choker.unchoked_count(), 3);
    assert!(!changes.choke.contains(&lucky));
}

#[test]
fn newcomers_get_the_optimistic_slot_three_times_as_often() {
    let mut view: Vec<_> = (0..10).map(|key| peer(key, 0)).collect();
    for newcomer in &mut view[..5] {
        newcomer.connected_at = seconds(100);
    }
    for star in 10..12 {
        view.push(peer(star, 1_000_000));
    }
    let mut random = random(11);
    let waited = Turn { unchoked_since: None, waiting_since: seconds(90), is_known: false };
    let turns: HashMap<u32, Turn> = (0..12).map(|key| (key, waited)).collect();
    let draws = 4_000;
    let new = (0..draws)
        .filter(|_| {
            let choice =
                choose_unchoked(&view, seconds(120), 2, Role::Downloading, &turns, None, &mut random);
            choice.optimistic.expect("ten peers wait").key < 5
        })
        .count();
    assert!((2_850..3_150).contains(&new), "{new} of {draws}");
}

#[test]
fn a_seed_lets_peers_take_turns_and_keeps_the_fastest_while_nobody_waits() {
    let mut view: Vec<_> = (0..3).map(|key| peer(key, 0)).collect();
    let mut choker = Choker::new(3);
    let mut random = random(5);
    choker.handle_round(seconds(0), Role::Seeding, &view, &mut random);
    for round in 1..30 {
        let changes = choker.handle_round(seconds(round * 10), Role::Seeding, &view, &mut random);
        assert_eq!(changes, RoundChanges { unchoke: vec![], choke: vec![] });
    }
    view.extend((3..8).map(|key| peer(key, 0)));
    let mut served = HashSet::new();
    for round in 30..60 {
        served.extend(choker.handle_round(seconds(round * 10), Role::Seeding, &view, &mut random).unchoke);
        assert_eq!(choker.unchoked_count(), 4);
    }
    assert!((0..8).all(|key| served.contains(&key)), "{served:?}");
}

#[test]
fn interest_and_free_slots_bring_the_round_forward_but_not_without_end() {
    let mut choker = Choker::new(1);
    choker.handle_round(seconds(0), Role::Seeding, &[peer(1, 0)], &mut random(1));
    assert_eq!(choker.poll_timeout(), seconds(10));
    choker.handle_interested(Duration::from_millis(100));
    assert_eq!(choker.poll_timeout(), seconds(1));
    let view = [peer(1, 0), peer(2, 0)];
    let changes = choker.handle_round(seconds(1), Role::Seeding, &view, &mut random(1));
    assert_eq!(changes.unchoke, [2]);
    choker.handle_interested(seconds(2));
    assert_eq!(choker.poll_timeout(), seconds(11), "all slots are taken");
    choker.handle_disconnected(seconds(3), 9);
    assert_eq!(choker.poll_timeout(), seconds(11), "a stranger frees nothing");
    choker.handle_uninterested(seconds(3), 1);
    assert_eq!(choker.poll_timeout(), seconds(3));
    let view = [PeerView { is_interested: false, ..peer(1, 0) }, peer(2, 0), peer(3, 0)];
    let changes = choker.handle_round(seconds(3), Role::Seeding, &view, &mut random(1));
    assert_eq!((changes.choke, changes.unchoke), (vec![1], vec![3]));
    choker.handle_disconnected(seconds(5), 3);
    assert_eq!((choker.poll_timeout(), choker.is_unchoked(3)), (seconds(5), false));
}

#[test]
fn slots_grow_with_the_upload_limit() {
    assert_eq!(Choker::<u32>::slots_for(Some(0)), 0);
    assert_eq!(Choker::<u32>::slots_for(Some(1)), 2);
    assert_eq!(Choker::<u32>::slots_for(Some(40_000)), 4);
    assert_eq!(Choker::<u32>::slots_for(Some(500_000)), 14);
    assert_eq!(Choker::<u32>::slots_for(Some(u64::MAX)), 64);
    assert_eq!(Choker::<u32>::slots_for(None), 32);
}

fn any_view() -> impl Strategy<Value = Vec<PeerView<u32>>> {
    prop::collection::vec(any::<(bool, bool, u16, u16, u8)>(), 0..40).prop_map(|peers| {
        let view = peers.into_iter().enumerate().map(|(index, (wants, snubs, down, up, age))| PeerView {
            key: u32::try_from(index).expect("at most forty"),
            is_interested: wants,
            is_snubbing: snubs,
            download_rate: down.into(),
            upload_rate: up.into(),
            connected_at: seconds(age.into()),
        });
        view.collect()
    })
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Downloading), Just(Role::Seeding)]
}

proptest! {
    #[test]
    fn rounds_hold_the_slots_and_report_exactly_the_changes(
        rounds in prop::collection::vec((any_view(), any_role(), 0_u64..40, 0_usize..6), 1..30),
        seed: u64,
    ) {
        let mut choker = Choker::new(4);
        let mut random = random(seed);
        let mut now = Moment::ZERO;
        let mut unchoked: HashSet<u32> = HashSet::new();
        for (view, role, pause, slots) in rounds {
            now += seconds(pause);
            choker.set_slots(now, slots);
            let changes = choker.handle_round(now, role, &view, &mut random);
            unchoked.retain(|key| view.iter().any(|peer| peer.key == *key));
            for key in &changes.choke {
                prop_assert!(unchoked.remove(key), "{} was choked already", key);
            }
            for key in &changes.unchoke {
                prop_assert!(unchoked.insert(*key), "{} was unchoked already", key);
            }
            let most = if slots == 0 { 0 } else { slots + 1 };
            prop_assert!(unchoked.len() <= most);
            prop_assert_eq!(choker.unchoked_count(), unchoked.len());
            for peer in &view {
                prop_assert_eq!(choker.is_unchoked(peer.key), unchoked.contains(&peer.key));
                prop_assert!(peer.is_interested || !unchoked.contains(&peer.key));
            }
            let willing = view.iter().filter(|peer| peer.is_interested && !peer.is_snubbing).count();
            prop_assert!(unchoked.len() >= willing.min(slots), "a slot was left empty");
            prop_assert!(choker.poll_timeout() > now);
        }
    }

    /// Even against rates that never change and the worst luck, nobody who wants something waits for ever.
    #[test]
    fn every_interested_peer_is_unchoked_in_the_end(
        rates in prop::collection::vec((0_u64..1_000, any::<bool>()), 1..25),
        slots in 1_usize..5,
        role in any_role(),
        luck: u64,
    ) {
        let view: Vec<_> = rates
            .iter()
            .enumerate()
            .map(|(index, (rate, snubs))| {
                let key = u32::try_from(index).expect("at most 25");
                PeerView { is_snubbing: *snubs, ..peer(key, *rate) }
            })
            .collect();
        let mut choker = Choker::new(slots);
        let mut served: HashSet<u32> = HashSet::new();
        // Three rotations for each peer: two until chance has had its go, one for those who wait longer.
        let rounds = 3 * 3 * (rates.len() as u64 + 1);
        for round in 0..rounds {
            served.extend(choker.handle_round(seconds(round * 10), role, &view, &mut || luck).unchoke);
        }
        let missing: Vec<u32> = (0..rates.len() as u32).filter(|key| !served.contains(key)).collect();
        prop_assert!(missing.is_empty(), "{:?} never unchoked", missing);
    }
}

#[test]
fn a_newcomer_takes_a_free_slot_at_once_even_right_after_a_round_over_nobody() {
    let mut choker: Choker<u32> = Choker::new(4);
    let nobody = choker.handle_round(Moment::ZERO, Role::Seeding, &[], &mut || 0);
    assert!(nobody.unchoke.is_empty());
    choker.handle_interested(Moment::from_millis(2));
    assert_eq!(choker.poll_timeout(), Moment::from_millis(2));
    let peer = |key| PeerView {
        key,
        is_interested: true,
        is_snubbing: false,
        download_rate: 0,
        upload_rate: 0,
        connected_at: Moment::ZERO,
    };
    choker.handle_round(Moment::from_millis(2), Role::Seeding, &[peer(1)], &mut || 0);
    choker.handle_interested(Moment::from_millis(3));
    assert!(choker.poll_timeout() <= Moment::from_millis(30), "{:?}", choker.poll_timeout());
}
