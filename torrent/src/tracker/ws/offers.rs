//! The offers of one swarm that nobody answered yet.
//!
//! Pure: told the time, it decides which are still good. Invariant: at most [`MAX_OFFERS`] at once, each for as long as
//! offers are to live at most; one that is taken out to be answered is gone.

use std::time::Duration;

use wtfs_proto::time::Moment;
use wtfs_proto::tracker::ws::{Offer, OfferId, Sdp};

/// Offers of one swarm at once. Each costs sockets until it is answered or given up.
pub(super) const MAX_OFFERS: usize = 5;

/// One of them. `P` takes the answer.
#[derive(Debug)]
struct Waiting<P> {
    offer: Offer<'static>,
    pending: P,
    since: Moment,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Offers<P> {
    waiting: Vec<Waiting<P>>,
    life: Duration,
}

impl<P> Offers<P> {
    /// None so far; each one waits for its answer for `life`.
    pub(super) fn new(life: Duration) -> Self {
        Self { waiting: Vec::new(), life }
    }

    /// Adds a new one; it is dropped if there are enough.
    pub(super) fn add(&mut self, offer_id: OfferId, sdp: &str, pending: P, now: Moment) {
        self.expire(now);
        if self.waiting.len() < MAX_OFFERS {
            let offer = Offer { offer_id, sdp: Sdp::new(sdp) };
            self.waiting.push(Waiting { offer, pending, since: now });
        }
    }

    /// Those to send with an announce: to be answered by whoever gets them.
    pub(super) fn open(&mut self, now: Moment) -> Vec<Offer<'static>> {
        self.expire(now);
        self.waiting.iter().map(|waiting| waiting.offer.clone()).collect()
    }

    /// What takes the answer to `offer_id`, once.
    pub(super) fn take(&mut self, offer_id: OfferId, now: Moment) -> Option<P> {
        self.expire(now);
        let at = self.waiting.iter().position(|waiting| waiting.offer.offer_id == offer_id)?;
        Some(self.waiting.swap_remove(at).pending)
    }

    /// Drops what waited too long.
    pub(super) fn expire(&mut self, now: Moment) {
        self.expire_after(self.life, now);
    }

    /// Drops what waited for `life`.
    pub(super) fn expire_after(&mut self, life: Duration, now: Moment) {
        self.waiting.retain(|waiting| now.saturating_sub(waiting.since) < life);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> OfferId {
        OfferId([n; 20])
    }

    #[test]
    fn an_offer_is_sent_until_it_is_answered_or_old() {
        let mut offers = Offers::new(Duration::from_secs(50));
        offers.add(id(1), "one", 1, Moment::ZERO);
        offers.add(id(2), "two", 2, Moment::from_secs(30));
        let sent: Vec<_> = offers.open(Moment::from_secs(49)).iter().map(|offer| offer.offer_id).collect();
        assert_eq!(sent, [id(1), id(2)]);
        assert_eq!(offers.take(id(2), Moment::from_secs(49)), Some(2));
        assert_eq!(offers.take(id(2), Moment::from_secs(49)), None, "an answer counts once");
        assert_eq!(offers.take(id(1), Moment::from_secs(50)), None, "nobody waits for it any more");
        assert_eq!(offers.len(), 0);
    }

    #[test]
    fn there_are_few_at_once() {
        let mut offers = Offers::new(Duration::from_secs(50));
        for n in 0..100 {
            offers.add(id(n), "sdp", n, Moment::from_secs(u64::from(n)));
        }
        assert_eq!(offers.len(), MAX_OFFERS);
    }
}
