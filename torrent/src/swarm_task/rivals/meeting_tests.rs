//! Two of this client that meet in several ways at once, over TCP and data channels: every order in which the two ends
//! can hear of their connections, and of the end of each, is gone through. In each the same connection is left to both.

use std::collections::HashSet;

use super::tests::{KIN, addr, nowhere, old};
use super::*;

/// A way in which they meet.
#[derive(Debug, Clone, Copy)]
struct Way {
    kind: TransportKind,
    /// Which side dialled or offered.
    by: usize,
}

const fn dialled(by: usize) -> Way {
    Way { kind: TransportKind::Tcp, by }
}

const fn offered(by: usize) -> Way {
    Way { kind: TransportKind::WebRtc, by }
}

/// What a side knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct End {
    heard: Vec<usize>,
    connected: Option<usize>,
    held: Vec<usize>,
    /// Those that this side has closed.
    closed: Vec<usize>,
}

type Ends = [End; 2];

struct Meeting<'a> {
    ways: &'a [Way],
    /// Whether the address dialled is where the peer says it listens, when its data channel has already said so.
    is_known: bool,
}

impl Meeting<'_> {
    fn direction(&self, side: usize, way: usize) -> Direction {
        if self.ways[way].by == side { Direction::Outgoing } else { Direction::Incoming }
    }

    fn way(&self, side: usize, way: usize) -> (TransportKind, Direction) {
        (self.ways[way].kind, self.direction(side, way))
    }

    fn judge(&self, side: usize, connected: usize, new: usize) -> Verdict {
        let there = addr(1, 6881);
        let port = self.is_known.then_some(there.port());
        let about = old(KIN[1 - side], self.ways[connected].kind, self.direction(side, connected), port);
        judge(&about, (self.ways[new].kind, self.direction(side, new), there), KIN[side], nowhere)
    }

    /// As the torrent's task does it when it hears of a connection.
    fn take(&self, ends: &mut Ends, side: usize, new: usize) {
        let end = &mut ends[side];
        let Some(connected) = end.connected else {
            end.connected = Some(new);
            return;
        };
        match self.judge(side, connected, new) {
            Verdict::Goes => end.closed.push(new),
            // Both come from one address.
            Verdict::Waits if end.held.iter().any(|held| self.way(side, *held) == self.way(side, new)) => {
                end.closed.push(new);
            }
            Verdict::Waits => end.held.push(new),
            Verdict::Replaces => {
                end.closed.push(connected);
                end.connected = Some(new);
                self.admit(ends, side);
            }
        }
    }

    fn admit(&self, ends: &mut Ends, side: usize) {
        for way in std::mem::take(&mut ends[side].held) {
            self.take(ends, side, way);
        }
    }

    /// All that may happen next.
    fn next(&self, ends: &Ends) -> Vec<Ends> {
        let mut all = Vec::new();
        for side in 0..2 {
            for way in (0..self.ways.len()).filter(|way| !ends[side].heard.contains(way)) {
                let mut next = ends.clone();
                next[side].heard.push(way);
                next[side].heard.sort_unstable();
                self.take(&mut next, side, way);
                all.push(next);
            }
            // Only what is used is read, and known to have ended.
            if let Some(way) = ends[side].connected.filter(|way| ends[1 - side].closed.contains(way)) {
                let mut next = ends.clone();
                next[side].connected = None;
                next[side].closed.push(way);
                self.admit(&mut next, side);
                all.push(next);
            }
        }
        for end in all.iter_mut().flatten() {
            end.closed.sort_unstable();
        }
        all
    }

    fn assert_one_is_left(&self) {
        let mut seen = HashSet::new();
        let mut open = vec![Ends::default()];
        while let Some(ends) = open.pop() {
            if !seen.insert(ends.clone()) {
                continue;
            }
            let next = self.next(&ends);
            if next.is_empty() {
                // What is held now is hung up on in a while, and was used by neither.
                let [one, other] = [ends[0].connected, ends[1].connected];
                assert!(one.is_some() && one == other, "{ends:#?} of {:?}, {}", self.ways, self.is_known);
            }
            open.extend(next);
        }
    }
}

#[test]
fn two_that_meet_over_tcp_and_a_data_channel_at_once_keep_one_and_the_same() {
    for is_known in [false, true] {
        for ways in [
            vec![dialled(0), offered(0)],
            vec![dialled(0), offered(1)],
            vec![dialled(1), offered(0)],
            vec![dialled(1), offered(1)],
            vec![offered(0), offered(1)],
            vec![dialled(0), dialled(1)],
            vec![dialled(0), dialled(1), offered(0)],
            vec![dialled(0), dialled(1), offered(1)],
            vec![dialled(0), offered(0), offered(1)],
            vec![dialled(1), offered(0), offered(1)],
            vec![dialled(0), dialled(1), offered(0), offered(1)],
        ] {
            Meeting { ways: &ways, is_known }.assert_one_is_left();
        }
    }
}
