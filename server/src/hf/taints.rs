//! Who may have wrong bytes of a file and must not go on from there: what it has is not the file's beginning, and it may
//! never find out. Pure, told the time.
//!
//! A download that is taken up again asks for a range with an open end (huggingface_hub, the crate hf-hub, curl, wget,
//! llama.cpp). Nobody knows who had how much of a file before it was thrown away: a client may have another address by
//! now, and the hub may have been killed since. So of such a file it is noted who began it since, and nobody else
//! may go on with it; who is not known begins once more than it had to. Ranges with an end are of those who read here and
//! there: they are refused only to who was cut off in the middle of what was wrong, and only for a while.
//!
//! Clients behind one address count as one, and so does a network of IPv6: one of them that begins again opens the way
//! for all.

use std::net::IpAddr;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use wtfs_proto::hf::ContentId;
use wtfs_torrent::hf::blobs::Discard;

use super::limits::network_of;
use super::recent::Recent;

/// For how long ranges are refused. Who was cut off and goes on by itself does so at once.
const TERM: Duration = Duration::from_secs(600);

/// For how long downloads are not taken up again that were begun before their file was thrown away.
const RESUME_TERM: Duration = Duration::from_secs(7 * 24 * 3600);

const CLIENTS_MAX: usize = 4096;

/// How a range was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeEnd {
    /// Up to here.
    Given,
    /// Whatever is left.
    Open,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Taints {
    cut_off: Recent<(ContentId, IpAddr), Instant>,
    /// After how many discards a client began a file.
    begun: Recent<(ContentId, IpAddr), u32>,
}

impl Default for Taints {
    fn default() -> Self {
        Self { cut_off: Recent::new(CLIENTS_MAX), begun: Recent::new(CLIENTS_MAX) }
    }
}

impl Taints {
    /// Notes that a client was cut off in the middle of wrong bytes of a blob.
    pub(crate) fn note(&mut self, id: ContentId, client: IpAddr, now: Instant) {
        self.cut_off.put((id, network_of(client)), now, 1);
    }

    /// Whether a client may be sent a range, which is not empty, of a blob. Must be asked before any of it is read.
    pub(crate) fn allows(
        &mut self,
        id: ContentId,
        client: IpAddr,
        (range, end): (&Range<u64>, RangeEnd),
        discard: Option<Discard>,
        (now, today): (Instant, SystemTime),
    ) -> bool {
        let key = (id, network_of(client));
        let cut_off = self.cut_off.find(&key).copied();
        if range.start == 0 {
            // One byte is asked for by who looks how long a file is.
            if range.end > 1 {
                self.cut_off.remove(&key);
                if let Some(discard) = discard {
                    self.begun.put(key, discard.times, 1);
                }
            }
            return true;
        }
        if cut_off.is_some_and(|since| now.saturating_duration_since(since) < TERM) {
            return false;
        }
        match discard {
            // A clock that was set back makes it last longer.
            Some(Discard { times, at })
                if end == RangeEnd::Open && today.duration_since(at).unwrap_or_default() < RESUME_TERM =>
            {
                self.begun.find(&key) == Some(&times)
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ContentId = ContentId::Sha256([1; 32]);

    /// What clients ask at a time after the start; the hub's memory of a file that was thrown away at the start.
    struct World {
        taints: Taints,
        start: (Instant, SystemTime),
        discard: Option<Discard>,
    }

    impl World {
        fn new() -> Self {
            Self { taints: Taints::default(), start: (Instant::now(), SystemTime::now()), discard: None }
        }

        fn thrown_away(&mut self) {
            let times = self.discard.map_or(0, |discard| discard.times) + 1;
            self.discard = Some(Discard { times, at: self.start.1 });
        }

        fn asks(&mut self, client: &str, range: Range<u64>, end: RangeEnd, after: Duration) -> bool {
            let client = client.parse().expect("an address");
            let now = (self.start.0 + after, self.start.1 + after);
            self.taints.allows(ID, client, (&range, end), self.discard, now)
        }

        fn resumes(&mut self, client: &str) -> bool {
            self.asks(client, 10..100, RangeEnd::Open, Duration::ZERO)
        }
    }

    #[test]
    fn only_who_began_a_file_after_it_was_thrown_away_goes_on_with_it() {
        let mut world = World::new();
        let (ada, bob, soon) = ("192.0.2.1", "2001:db8::1", Duration::ZERO);
        assert!(world.asks(ada, 0..100, RangeEnd::Given, soon) && world.resumes(ada) && world.resumes(bob));
        world.thrown_away();
        assert!(!world.resumes(ada), "what it has is of before");
        assert!(!world.resumes(bob), "nobody knows what it has");
        // Looking how long the file is is no beginning.
        assert!(world.asks(ada, 0..1, RangeEnd::Given, soon) && !world.resumes(ada));
        assert!(world.asks(ada, 10..20, RangeEnd::Given, soon), "it reads here and there");
        assert!(world.asks(ada, 0..100, RangeEnd::Open, soon) && world.resumes(ada));
        assert!(world.asks(bob, 0..100, RangeEnd::Open, soon) && world.resumes("2001:db8::2"));
        world.thrown_away();
        assert!(!world.resumes(ada), "also what came the second time was wrong");
        world.taints = Taints::default();
        assert!(!world.resumes(bob), "nor after a restart");
        assert!(!world.asks(bob, 10..100, RangeEnd::Open, RESUME_TERM - Duration::from_secs(1)));
        assert!(world.asks(bob, 10..100, RangeEnd::Open, RESUME_TERM));
    }

    #[test]
    fn who_is_not_remembered_any_more_begins_again() {
        let mut world = World::new();
        world.thrown_away();
        for n in 0..=CLIENTS_MAX {
            let client = IpAddr::from([10, 0, (n >> 8) as u8, n as u8]).to_string();
            assert!(world.asks(&client, 0..100, RangeEnd::Open, Duration::ZERO) && world.resumes(&client));
        }
        assert!(!world.resumes("10.0.0.0"));
    }

    #[test]
    fn who_was_cut_off_gets_no_range_for_a_while_and_nobody_else_is_refused_any() {
        let mut world = World::new();
        let part =
            |world: &mut World, client: &str, after| world.asks(client, 10..20, RangeEnd::Given, after);
        let (ada, bob) = ("192.0.2.1", "192.0.2.2");
        world.taints.note(ID, ada.parse().expect("an address"), world.start.0);
        world.thrown_away();
        assert!(!part(&mut world, ada, TERM / 2) && part(&mut world, bob, TERM / 2));
        assert!(part(&mut world, ada, TERM));
        assert!(world.asks(ada, 0..100, RangeEnd::Given, TERM / 2) && part(&mut world, ada, TERM / 2));
    }
}
