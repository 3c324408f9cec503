//! The virtual network and its clock: links between two nodes, with delay, rate, jitter, stalls and loss.
//!
//! A link carries bytes in order, each direction on its own, as TCP does; what is on the way when a link is cut is
//! gone, and each end hears of the cut only later. Messages are torn at random places. Nothing here knows what the
//! bytes mean.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use bytes::Bytes;
use wtfs_proto::time::Moment;

use super::gathered::Gathered;
use super::random::Random;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(pub(crate) usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct LinkId(usize);

/// What happens at a moment.
#[derive(Debug)]
pub(crate) enum Happening {
    Bytes {
        link: LinkId,
        to: NodeId,
        data: Bytes,
    },
    Closed {
        link: LinkId,
        to: NodeId,
    },
    /// The link is free for the next block.
    Serve {
        link: LinkId,
        from: NodeId,
    },
    Tick(NodeId),
    /// The disk pool comes to a gathered piece.
    Verify(NodeId, Box<Gathered>),
    /// A reader goes on with its script.
    Read(NodeId),
    /// A reader loses interest in the oldest of its reads.
    Withdraw(NodeId),
    /// Two nodes try to connect.
    Connect(NodeId, NodeId),
    /// Something breaks.
    Fault,
    Leave(NodeId),
    Return(NodeId),
}

/// One direction of a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path {
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) bytes_per_s: u64,
}

#[derive(Debug)]
struct Direction {
    path: Path,
    busy_until: Moment,
    last_arrival: Moment,
}

#[derive(Debug)]
struct Link {
    ends: [NodeId; 2],
    directions: [Direction; 2],
    is_open: bool,
    /// When it last stood still.
    stalled_until: Moment,
}

impl Link {
    fn direction_from(&mut self, from: NodeId) -> &mut Direction {
        &mut self.directions[usize::from(self.ends[1] == from)]
    }
}

#[derive(Debug)]
struct Scheduled {
    at: Moment,
    number: u64,
    what: Happening,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as the heap wants it; at one moment what was scheduled first comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

#[derive(Debug)]
pub(crate) struct Network {
    now: Moment,
    heap: BinaryHeap<Scheduled>,
    scheduled: u64,
    links: Vec<Link>,
    random: Random,
}

impl Network {
    pub(crate) fn new(random: Random) -> Self {
        Self { now: Moment::ZERO, heap: BinaryHeap::new(), scheduled: 0, links: Vec::new(), random }
    }

    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    pub(crate) fn schedule(&mut self, after: Duration, what: Happening) {
        self.at(self.now + after, what);
    }

    pub(crate) fn scheduled(&self) -> u64 {
        self.scheduled
    }

    fn at(&mut self, at: Moment, what: Happening) {
        self.scheduled += 1;
        self.heap.push(Scheduled { at, number: self.scheduled, what });
    }

    /// Turns the clock to what happens next.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        let next = self.heap.pop()?;
        self.now = next.at;
        Some(next.what)
    }

    /// `there` leads from the first end to the second.
    pub(crate) fn open(&mut self, ends: [NodeId; 2], there: Path, back: Path) -> LinkId {
        let direction = |path| Direction { path, busy_until: self.now, last_arrival: self.now };
        let directions = [direction(there), direction(back)];
        self.links.push(Link { ends, directions, is_open: true, stalled_until: Moment::ZERO });
        LinkId(self.links.len() - 1)
    }

    pub(crate) fn is_open(&self, link: LinkId) -> bool {
        self.links[link.0].is_open
    }

    pub(crate) fn open_links(&self) -> Vec<LinkId> {
        (0..self.links.len()).filter(|index| self.links[*index].is_open).map(LinkId).collect()
    }

    pub(crate) fn ends(&self, link: LinkId) -> [NodeId; 2] {
        self.links[link.0].ends
    }

    pub(crate) fn stalled_until(&self, link: LinkId) -> Moment {
        self.links[link.0].stalled_until
    }

    /// When the sender may put its next block on the link.
    pub(crate) fn free_in(&mut self, link: LinkId, from: NodeId) -> Duration {
        let now = self.now;
        self.links[link.0].direction_from(from).busy_until.saturating_sub(now)
    }

    pub(crate) fn send(&mut self, link: LinkId, from: NodeId, data: Bytes) {
        if !self.is_open(link) || data.is_empty() {
            return;
        }
        let now = self.now;
        let torn_at = if self.random.is_hit(10) { self.random.index(data.len()) } else { 0 };
        let jitter = self.random.next();
        let to = self.links[link.0].ends.into_iter().find(|end| *end != from).expect("a link has two ends");
        let direction = self.links[link.0].direction_from(from);
        let time = Duration::from_secs_f64(data.len() as f64 / direction.path.bytes_per_s as f64);
        direction.busy_until = direction.busy_until.max(now) + time;
        let jitter = direction.path.jitter.mul_f64((jitter % 1000) as f64 / 1000.0);
        let first = (direction.busy_until + direction.path.delay + jitter).max(direction.last_arrival);
        let second = if torn_at > 0 { first + Duration::from_micros(300) } else { first };
        direction.last_arrival = second;
        let mut rest = data;
        if torn_at > 0 {
            let head = rest.split_to(torn_at);
            self.at(first, Happening::Bytes { link, to, data: head });
        }
        self.at(second, Happening::Bytes { link, to, data: rest });
    }

    /// Nothing moves on the link for a while.
    pub(crate) fn stall(&mut self, link: LinkId, time: Duration) {
        let until = self.now + time;
        let link = &mut self.links[link.0];
        link.stalled_until = link.stalled_until.max(until);
        for direction in &mut link.directions {
            direction.busy_until = direction.busy_until.max(until);
        }
    }

    /// Cuts a link. The end that did it knows; the other one, or both, hear of it a little later.
    pub(crate) fn close(&mut self, link: LinkId, by: Option<NodeId>) {
        if !self.is_open(link) {
            return;
        }
        self.links[link.0].is_open = false;
        for end in self.ends(link) {
            if Some(end) != by {
                let after = self.random.millis(1, 400);
                self.schedule(after, Happening::Closed { link, to: end });
            }
        }
    }
}
