//! When each piece was used last, kept over restarts: roughly, and never at the price of a sync.
//!
//! Saved now and then and at a clean end as a file beside the record: runs of pieces with equal stamps, in seconds. A
//! crash loses the last minute, a loss of power perhaps the file; either costs only a worse choice of what goes first.
//!
//! Layout, little endian: magic with the format's version (8), runs of a number of pieces (4) and their stamp (4),
//! CRC-32 of all that (4). The runs cover all pieces; absent ones are stamped 0.

use std::time::{Duration, SystemTime};

use crate::torrent::Content;

const MAGIC: [u8; 8] = *b"wtfsuse\x01";

/// The beginning of 2025.
const START: u64 = 1_735_689_600;

/// Seconds since 2025, which fit below the ticks of a run until 2093.
pub(crate) fn seconds_now() -> u32 {
    seconds_at(SystemTime::now())
}

/// As [`seconds_now`], at another time.
pub(crate) fn seconds_at(time: SystemTime) -> u32 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(since.saturating_sub(START)).unwrap_or(u32::MAX).min(super::FIRST_TICK - 1)
}

/// The time of [`seconds_at`].
pub(crate) fn time_at(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(START + u64::from(seconds))
}

fn encode(stamps: impl Iterator<Item = u32>) -> Vec<u8> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for stamp in stamps {
        match runs.last_mut() {
            Some((count, last)) if *last == stamp => *count += 1,
            _ => runs.push((1, stamp)),
        }
    }
    let mut bytes = MAGIC.to_vec();
    for (count, stamp) in runs {
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&stamp.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// The runs, if they are whole and cover just so many pieces.
fn decode(bytes: &[u8], pieces: u32) -> Option<Vec<(u32, u32)>> {
    let (rest, sum) = bytes.split_last_chunk::<4>()?;
    let runs = rest.strip_prefix(&MAGIC)?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*sum) || runs.len() % 8 != 0 {
        return None;
    }
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes).ok();
    let runs: Option<Vec<(u32, u32)>> =
        runs.chunks_exact(8).map(|run| Some((number(&run[..4])?, number(&run[4..])?))).collect();
    let runs = runs?;
    let covered: u64 = runs.iter().map(|(count, _)| u64::from(*count)).sum();
    (covered == u64::from(pieces)).then_some(runs)
}

impl Content {
    /// Takes over what an earlier run saved. Blocks on the disk.
    pub(crate) fn restore_recency(&self) {
        let pieces = self.geometry().piece_count();
        let Some(state) = self.pins.state().filter(|_| self.ledger.is_budgeted()) else { return };
        let Some(runs) = state.load_recency().and_then(|bytes| decode(&bytes, pieces)) else { return };
        let mut piece = 0;
        for (count, stamp) in runs {
            for at in piece..piece + count {
                if self.present.get(at) {
                    self.ledger.restore(at, stamp);
                }
            }
            piece += count;
        }
    }

    /// Saves it, if any piece was used since the last time. Blocks on the disk.
    pub(crate) fn save_recency(&self) {
        let Some(state) = self.pins.state() else { return };
        if !self.ledger.take_is_used() {
            return;
        }
        let now = seconds_now();
        let stamp = |piece| if self.present.get(piece) { self.ledger.stamp(piece, now) } else { 0 };
        if let Err(error) = state.save_recency(&encode((0..self.geometry().piece_count()).map(stamp))) {
            tracing::debug!(%error, "when pieces were used last is not saved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_read_back_and_damaged_or_foreign_ones_do_not() {
        let stamps = [5, 5, 5, 0, 9, 9, 1];
        let bytes = encode(stamps.into_iter());
        assert_eq!(decode(&bytes, 7), Some(vec![(3, 5), (1, 0), (2, 9), (1, 1)]));
        assert_eq!(decode(&bytes, 8), None);
        for at in 0..bytes.len() {
            assert_eq!(decode(&bytes[..at], 7), None, "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert_eq!(decode(&flipped, 7), None, "flipped at {at}");
        }
        assert_eq!(decode(&encode(std::iter::empty()), 0), Some(Vec::new()));
    }
}
