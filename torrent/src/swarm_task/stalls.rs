//! Why reads wait: a look, at each report, at what the first missing piece of each lacks.
//!
//! Changes nothing and decides nothing; people read it. A read counts from [`STALLED_AFTER`] on, so that an ordinary
//! fetch is no stall.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use wtfs_proto::time::Moment;

use super::SwarmTask;
use crate::budget::Room as CacheRoom;
use crate::status::{Counters, StallCause, StallStatus, WaitStatus};

/// A read that waits longer than this is held up by something: a fetch takes a few round trips.
const STALLED_AFTER: Moment = Duration::from_millis(500);

/// What the last look found.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    looked_at: Moment,
    reads: [usize; StallCause::ALL.len()],
    longest: Moment,
}

/// All that matters of a piece a read waits for.
#[derive(Debug, Clone, Copy, Default)]
struct Scene {
    is_making_space: bool,
    is_verifying: bool,
    is_under_way: bool,
    is_contested: bool,
    is_room_missing: bool,
    is_memory_missing: bool,
    is_download_limited: bool,
    /// Connected sources.
    connected: usize,
    /// Those that have the piece.
    having: usize,
    /// Those of them that let us ask.
    open: usize,
}

impl Scene {
    fn cause(&self) -> StallCause {
        match self {
            Self { is_making_space: true, .. } => StallCause::NoSpace,
            Self { is_verifying: true, .. } => StallCause::Disk,
            Self { is_room_missing: true, is_under_way: false, .. } => StallCause::NoSpace,
            Self { connected: 0, .. } => StallCause::NoPeers,
            Self { having: 0, .. } => StallCause::NoSource,
            Self { open: 0, .. } => StallCause::Choked,
            Self { is_contested: true, .. } => StallCause::HashFailed,
            Self { is_download_limited: true, .. } => StallCause::DownloadLimit,
            Self { is_memory_missing: true, is_under_way: false, .. } => StallCause::Memory,
            _ => StallCause::Late,
        }
    }
}

impl Stalls {
    /// For people.
    pub(super) fn status(&self, waiting_reads: usize, counters: &Counters) -> WaitStatus {
        WaitStatus {
            waiting_reads,
            failed_reads: counters.failed_reads.total(),
            longest_wait_ms: u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX),
            stalls: self.by_cause(counters),
            not_stored: None,
        }
    }

    fn by_cause(&self, counters: &Counters) -> Vec<StallStatus> {
        let all = StallCause::ALL.into_iter().map(|cause| StallStatus {
            cause,
            reads: self.reads[cause as usize],
            total_ms: counters.stalled(cause).total(),
        });
        all.filter(|stall| stall.reads > 0 || stall.total_ms > 0).collect()
    }
}

impl SwarmTask {
    /// Looks why reads wait. Costs a look at each peer for each piece that is waited for, and nothing where none is.
    pub(super) fn look_at_stalls(&mut self, now: Moment) {
        let since = now.saturating_sub(std::mem::replace(&mut self.upkeep.stalls.looked_at, now));
        let mut found = Stalls { looked_at: now, ..Stalls::default() };
        let mut held_up: BTreeMap<u32, (usize, u64)> = BTreeMap::new();
        for (piece, waited) in self.download.iter().flat_map(|download| download.demands.waits(now)) {
            found.longest = found.longest.max(waited);
            if waited >= STALLED_AFTER {
                let (reads, held_ms) = held_up.entry(piece).or_default();
                *reads += 1;
                *held_ms += u64::try_from(since.min(waited).as_millis()).unwrap_or(0);
            }
        }
        for (piece, (reads, held_ms)) in held_up {
            let cause = self.stall_cause(piece);
            found.reads[cause as usize] += reads;
            self.shared.counters.stalled(cause).add(held_ms);
        }
        self.upkeep.stalls = found;
    }

    /// Why a piece that is waited for is not there.
    pub(super) fn stall_cause(&self, piece: u32) -> StallCause {
        let Some(download) = &self.download else { return StallCause::Disk };
        let geometry = download.content.geometry();
        let len = geometry.piece(piece).map_or(0, |piece| u64::from(geometry.piece_len(piece)));
        let in_flight = self.engine.in_flight_bytes.load(Ordering::Relaxed);
        let having = self.peers.values().filter(|peer| peer.bits().is_some_and(|bits| bits.get(piece)));
        let is_open = |peer: &&super::peers::Peer| {
            !peer.stance.is_choking_us || peer.stance.allowed_fast.contains(&piece)
        };
        let scene = Scene {
            is_making_space: self.eviction.is_making_space_for(piece),
            is_verifying: download.picker.is_verifying(piece),
            is_under_way: download.picker.is_partial(piece),
            is_contested: download.picker.is_contested(piece),
            is_room_missing: download.content.ledger.room() == CacheRoom::Nothing,
            is_memory_missing: in_flight.saturating_add(len) > self.engine.config.memory_bytes,
            is_download_limited: self.engine.download_limit.is_holding_back(),
            connected: self.peers.len(),
            having: having.clone().count(),
            open: having.filter(is_open).count(),
        };
        scene.cause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_that_is_missing_is_the_cause() {
        let fair = Scene { connected: 3, having: 2, open: 1, ..Scene::default() };
        let busy = Scene { is_under_way: true, ..fair };
        for (scene, cause) in [
            (Scene::default(), StallCause::NoPeers),
            (Scene { is_room_missing: true, ..Scene::default() }, StallCause::NoSpace),
            (Scene { having: 0, open: 0, ..fair }, StallCause::NoSource),
            (Scene { open: 0, is_memory_missing: true, ..fair }, StallCause::Choked),
            (Scene { is_memory_missing: true, ..fair }, StallCause::Memory),
            (Scene { is_memory_missing: true, ..busy }, StallCause::Late),
            (Scene { is_room_missing: true, ..busy }, StallCause::Late),
            (Scene { is_download_limited: true, ..busy }, StallCause::DownloadLimit),
            (Scene { is_contested: true, is_download_limited: true, ..busy }, StallCause::HashFailed),
            (Scene { is_verifying: true, connected: 0, ..busy }, StallCause::Disk),
            (Scene { is_verifying: true, is_making_space: true, ..busy }, StallCause::NoSpace),
            (fair, StallCause::Late),
        ] {
            assert_eq!(scene.cause(), cause, "{scene:?}");
        }
    }

    #[test]
    fn only_causes_that_ever_were_are_told() {
        let counters = Counters::default();
        let mut stalls = Stalls::default();
        assert!(stalls.status(0, &counters).stalls.is_empty());
        counters.stalled(StallCause::Choked).add(7);
        stalls.reads[StallCause::Late as usize] = 2;
        let told = stalls.status(2, &counters).stalls;
        assert_eq!(told[0], StallStatus { cause: StallCause::Choked, reads: 0, total_ms: 7 });
        assert_eq!(told[1], StallStatus { cause: StallCause::Late, reads: 2, total_ms: 0 });
    }
}
