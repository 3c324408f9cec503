//! The members of one swarm in one row, ordered by what they can be reached by and whether they have everything.
//!
//! Owns who stands where. A place is given to each kind, a *zone*, so that "any leecher with an IPv4 address" is a few
//! stretches of the row, and drawing from it costs what is drawn.
//!
//! Invariant: `ends` never decrease, the last is the length of the row, and a member stands in its own zone.

/// Addresses and the socket by which a member can be reached, as bits.
pub(super) mod reach {
    /// Listens on an IPv4 address.
    pub(crate) const V4: u8 = 1;
    /// Listens on an IPv6 address.
    pub(crate) const V6: u8 = 2;
    /// Is told offers over its web socket.
    pub(crate) const SOCKET: u8 = 4;
}

const REACHES: u8 = 8;
const ZONES: usize = 2 * REACHES as usize;

/// A kind of member: how it is reached, and whether it has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Zone(u8);

impl Zone {
    pub(super) const fn leecher(reach: u8) -> Self {
        Self(reach & (REACHES - 1))
    }

    pub(super) const fn seed(reach: u8) -> Self {
        Self(reach & (REACHES - 1) | REACHES)
    }

    pub(super) const fn is_seed(self) -> bool {
        self.0 & REACHES != 0
    }

    pub(super) const fn reach(self) -> u8 {
        self.0 & (REACHES - 1)
    }

    pub(super) const fn with_reach(self, reach: u8) -> Self {
        Self(self.0 & REACHES | reach & (REACHES - 1))
    }
}

/// Members by place.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: Vec<u32>,
    ends: [u32; ZONES],
}

/// Told when a member's place changes.
pub(super) type Moved<'a> = &'a mut dyn FnMut(u32, u32);

impl Roster {
    pub(super) fn len(&self) -> u32 {
        self.ends[ZONES - 1]
    }

    /// Members that have everything.
    pub(super) fn seeds(&self) -> u32 {
        self.len() - self.ends[usize::from(REACHES) - 1]
    }

    pub(super) fn member(&self, place: u32) -> u32 {
        self.members[place as usize]
    }

    /// Adds a member; its place is told.
    pub(super) fn insert(&mut self, member: u32, zone: Zone, moved: Moved<'_>) {
        if self.members.len() == self.members.capacity() {
            // Most swarms are tiny: growing by a half keeps their slack small.
            self.members.reserve_exact((self.members.len() / 2).max(1));
        }
        self.members.push(member);
        let place = self.ends[ZONES - 1];
        self.ends[ZONES - 1] += 1;
        moved(member, place);
        self.shift(place, ZONES - 1, usize::from(zone.0), moved);
    }

    /// Moves the member at a place to another zone.
    pub(super) fn change(&mut self, place: u32, from: Zone, to: Zone, moved: Moved<'_>) {
        self.shift(place, usize::from(from.0), usize::from(to.0), moved);
    }

    /// Takes the member at a place out.
    pub(super) fn remove(&mut self, place: u32, zone: Zone, moved: Moved<'_>) {
        let place = self.shift(place, usize::from(zone.0), ZONES - 1, moved);
        let last = self.ends[ZONES - 1] - 1;
        self.swap(place, last, moved);
        self.members.pop();
        self.ends[ZONES - 1] = last;
        if self.members.len() * 4 < self.members.capacity() {
            self.members.shrink_to(self.members.len() * 2);
        }
    }

    /// The stretches of the row that hold members reached by any of `reach`.
    pub(super) fn stretches(&self, reach: u8, whom: Whom) -> impl Iterator<Item = (u32, u32)> + '_ {
        let zones = match whom {
            Whom::Leechers => usize::from(REACHES),
            Whom::Everybody => ZONES,
        };
        (0..zones).filter(move |zone| *zone as u8 & reach != 0).filter_map(|zone| {
            let start = zone.checked_sub(1).map_or(0, |before| self.ends[before]);
            let end = self.ends[zone];
            (start < end).then_some((start, end))
        })
    }

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        self.members.capacity() * size_of::<u32>()
    }

    /// Carries the member at a place over the bounds between two zones, and says where it stands then.
    fn shift(&mut self, mut place: u32, from: usize, to: usize, moved: Moved<'_>) -> u32 {
        for zone in from..to {
            self.ends[zone] -= 1;
            self.swap(place, self.ends[zone], moved);
            place = self.ends[zone];
        }
        for zone in (to..from).rev() {
            self.swap(place, self.ends[zone], moved);
            place = self.ends[zone];
            self.ends[zone] += 1;
        }
        place
    }

    fn swap(&mut self, a: u32, b: u32, moved: Moved<'_>) {
        if a != b {
            self.members.swap(a as usize, b as usize);
            moved(self.members[a as usize], a);
            moved(self.members[b as usize], b);
        }
    }
}

/// Who is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// Those who lack something: all that is of use to a seed.
    Leechers,
    /// All.
    Everybody,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn zone(number: u8) -> Zone {
        if number < REACHES { Zone::leecher(number) } else { Zone::seed(number - REACHES) }
    }

    proptest! {
        #[test]
        fn every_member_stands_in_its_zone(steps in prop::collection::vec((0_u8..3, 0_u32..12, 0_u8..16), 0..200)) {
            let mut roster = Roster::default();
            let mut places: BTreeMap<u32, u32> = BTreeMap::new();
            let mut zones: BTreeMap<u32, u8> = BTreeMap::new();
            for (step, member, to) in steps {
                let mut moved = |member, place| { places.insert(member, place); };
                match (step, zones.get(&member).copied()) {
                    (0 | 1, None) => roster.insert(member, zone(to), &mut moved),
                    (1 | 2, Some(from)) => {
                        let place = places[&member];
                        roster.change(place, zone(from), zone(to), &mut |member, place| { places.insert(member, place); });
                    }
                    (0, Some(from)) => {
                        let place = places[&member];
                        roster.remove(place, zone(from), &mut |member, place| { places.insert(member, place); });
                        places.remove(&member);
                        zones.remove(&member);
                        continue;
                    }
                    _ => continue,
                }
                zones.insert(member, to);
                prop_assert_eq!(roster.len() as usize, zones.len());
                prop_assert_eq!(roster.seeds() as usize, zones.values().filter(|zone| **zone >= REACHES).count());
                for (member, zone) in &zones {
                    let place = places[member];
                    prop_assert_eq!(roster.member(place), *member);
                    let start = zone.checked_sub(1).map_or(0, |zone| roster.ends[usize::from(zone)]);
                    prop_assert!(place >= start && place < roster.ends[usize::from(*zone)]);
                }
                for reach in 0..8 {
                    let drawn = |whom| roster.stretches(reach, whom).map(|(start, end)| end - start).sum::<u32>();
                    let fits = |zone: &&u8| **zone & reach != 0;
                    prop_assert_eq!(drawn(Whom::Everybody) as usize, zones.values().filter(fits).count());
                    let leechers = zones.values().filter(|zone| **zone < REACHES).filter(fits).count();
                    prop_assert_eq!(drawn(Whom::Leechers) as usize, leechers);
                }
            }
        }
    }
}
