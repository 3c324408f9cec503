//! Blocks waiting to be asked of a web seed, cut into runs: blocks that follow each other and become one ranged GET.
//!
//! Blocks that a `read()` waits for go first; within a kind the order is that of arrival. Invariant: a block waits at
//! most once.

use std::collections::BTreeMap;

use wtfs_proto::geometry::{Geometry, PieceIndex};
use wtfs_proto::swarm::picker::BlockKey;

/// Whether somebody waits for a block now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// A `read()` does.
    Read,
    /// It is fetched ahead.
    Rest,
}

/// How far one run may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bounds {
    /// Over the borders of pieces and files.
    Torrent,
    /// To the end of its piece (BEP 17).
    Piece,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<BlockKey, (Haste, u64)>,
    reads: BTreeMap<u64, BlockKey>,
    rest: BTreeMap<u64, BlockKey>,
    next: u64,
}

impl Queue {
    pub(super) fn push(&mut self, key: BlockKey, haste: Haste) {
        if self.waiting.contains_key(&key) {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.waiting.insert(key, (haste, number));
        self.order(haste).insert(number, key);
    }

    /// Whether the block was waiting.
    pub(super) fn remove(&mut self, key: BlockKey) -> bool {
        let Some((haste, number)) = self.waiting.remove(&key) else { return false };
        self.order(haste).remove(&number);
        true
    }

    pub(super) fn len(&self, haste: Haste) -> usize {
        match haste {
            Haste::Read => self.reads.len(),
            Haste::Rest => self.rest.len(),
        }
    }

    /// Takes the blocks of those pieces.
    pub(super) fn take_pieces(&mut self, is_among: impl Fn(PieceIndex) -> bool) -> Vec<BlockKey> {
        let keys: Vec<BlockKey> = self.waiting.keys().copied().filter(|key| is_among(key.piece)).collect();
        for key in &keys {
            self.remove(*key);
        }
        keys
    }

    /// Takes the block that is next, and those that follow it in the torrent, whoever waits for them.
    pub(super) fn take_run(
        &mut self,
        haste: Haste,
        most: usize,
        bounds: Bounds,
        geometry: &Geometry,
    ) -> Vec<BlockKey> {
        let mut next = self.order(haste).first_key_value().map(|(_, key)| *key);
        let mut run = Vec::new();
        while let Some(key) = next.filter(|_| run.len() < most) {
            if !self.remove(key) {
                break;
            }
            run.push(key);
            next = following(key, bounds, geometry);
        }
        run
    }

    fn order(&mut self, haste: Haste) -> &mut BTreeMap<u64, BlockKey> {
        match haste {
            Haste::Read => &mut self.reads,
            Haste::Rest => &mut self.rest,
        }
    }
}

fn following(key: BlockKey, bounds: Bounds, geometry: &Geometry) -> Option<BlockKey> {
    let block = key.block + 1;
    if block < geometry.block_count(key.piece) {
        return Some(BlockKey { piece: key.piece, block });
    }
    let piece = geometry.piece(key.piece.get() + 1).filter(|_| bounds == Bounds::Torrent)?;
    Some(BlockKey { piece, block: 0 })
}

#[cfg(test)]
mod tests {
    use wtfs_proto::geometry::{Alignment, FileLayout};

    use super::*;

    /// Five pieces of four blocks, the last one short.
    fn geometry() -> Geometry {
        let files = [FileLayout { bytes: 300_000, alignment: Alignment::Packed, is_pad: false }];
        Geometry::new(64 << 10, &files).expect("valid")
    }

    fn key(geometry: &Geometry, at: u32) -> BlockKey {
        BlockKey { piece: geometry.piece(at / 4).expect("in range"), block: at % 4 }
    }

    fn numbers(run: &[BlockKey]) -> Vec<u32> {
        run.iter().map(|key| key.piece.get() * 4 + key.block).collect()
    }

    #[test]
    fn blocks_that_follow_each_other_are_one_run_over_pieces() {
        let geometry = geometry();
        let mut queue = Queue::default();
        for at in [5, 3, 4, 9, 0] {
            queue.push(key(&geometry, at), Haste::Rest);
        }
        let mut take = || numbers(&queue.take_run(Haste::Rest, 100, Bounds::Torrent, &geometry));
        assert_eq!([take(), take(), take(), take()], [vec![5], vec![3, 4], vec![9], vec![0]]);
        assert!(take().is_empty());
    }

    #[test]
    fn a_read_goes_first_and_takes_along_what_follows() {
        let geometry = geometry();
        let mut queue = Queue::default();
        for at in 0..12 {
            queue.push(key(&geometry, at), if at == 6 { Haste::Read } else { Haste::Rest });
        }
        let run = queue.take_run(Haste::Read, 4, Bounds::Torrent, &geometry);
        assert_eq!(numbers(&run), [6, 7, 8, 9]);
        assert_eq!((queue.len(Haste::Read), queue.len(Haste::Rest)), (0, 8));
    }

    #[test]
    fn a_run_within_a_piece_ends_with_it() {
        let geometry = geometry();
        let mut queue = Queue::default();
        (2..7).for_each(|at| queue.push(key(&geometry, at), Haste::Rest));
        assert_eq!(numbers(&queue.take_run(Haste::Rest, 100, Bounds::Piece, &geometry)), [2, 3]);
        assert_eq!(numbers(&queue.take_run(Haste::Rest, 100, Bounds::Piece, &geometry)), [4, 5, 6]);
    }

    #[test]
    fn what_is_removed_or_pushed_twice_is_not_asked_twice() {
        let geometry = geometry();
        let mut queue = Queue::default();
        for at in [1, 2, 2, 3] {
            queue.push(key(&geometry, at), Haste::Rest);
        }
        assert!(queue.remove(key(&geometry, 2)));
        assert!(!queue.remove(key(&geometry, 2)));
        assert_eq!(numbers(&queue.take_run(Haste::Rest, 100, Bounds::Torrent, &geometry)), [1]);
        assert_eq!(numbers(&queue.take_pieces(|piece| piece.get() == 0)), [3]);
        assert_eq!(queue.len(Haste::Rest), 0);
    }
}
