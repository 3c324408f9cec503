//! The asking half of a scripted peer: downloads correctly and checks each block, or asks for what must not be
//! asked.

use std::{io, time::Duration};

use super::{
    Fault, RequestFault,
    serve::{Block, Connection, id},
};
use crate::torrent_file::TorrentFile;

/// Requests in flight of a correct download.
const IN_FLIGHT: usize = 32;
/// The usual unit of a request.
const BLOCK_BYTES: u32 = 16 * 1024;
/// How many requests a flood is made of.
const FLOOD_REQUESTS: usize = 100_000;

/// True when the peer with this fault asks for blocks rather than having them.
pub(super) fn asks(fault: Fault) -> bool {
    matches!(fault, Fault::Requests(_) | Fault::Leech)
}

/// The state of a peer that asks.
#[derive(Debug)]
pub(super) struct Leech {
    has: Vec<bool>,
    piece_bytes: u32,
    total_bytes: u64,
    next: (u32, u32),
    asked: Vec<Block>,
    again: Vec<Block>,
    unchoked: bool,
}

impl Leech {
    pub(super) fn new(torrent: &TorrentFile) -> Self {
        Self {
            has: vec![false; torrent.piece_count() as usize],
            piece_bytes: torrent.piece_bytes,
            total_bytes: torrent.total_bytes,
            next: (0, 0),
            asked: Vec::new(),
            again: Vec::new(),
            unchoked: false,
        }
    }

    pub(super) fn handle(&mut self, on: &mut Connection<'_>, kind: u8, payload: &[u8]) -> io::Result<()> {
        match kind {
            id::UNCHOKE => {
                self.unchoked = true;
                if let Fault::Requests(fault) = on.shared().config.fault {
                    return self.misbehave(on, fault);
                }
            }
            id::CHOKE => self.unchoked = false,
            // With the fast extension a choke by itself takes nothing back: each request is answered or rejected.
            id::REJECT => {
                let rejected = Block::parse(payload);
                if let Some(at) = self.asked.iter().position(|block| Some(*block) == rejected) {
                    self.again.push(self.asked.swap_remove(at));
                }
            }
            id::HAVE => {
                let piece = payload.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize);
                if let Some(has) = piece.and_then(|p| self.has.get_mut(p)) {
                    *has = true;
                }
            }
            id::HAVE_ALL => self.has.fill(true),
            id::BITFIELD => {
                for (i, has) in self.has.iter_mut().enumerate() {
                    *has = payload.get(i / 8).is_some_and(|byte| byte & (0x80 >> (i % 8)) != 0);
                }
            }
            id::PIECE => {
                self.receive(on, payload);
                if self.asked.is_empty() && self.next.0 as usize == self.has.len() {
                    // It has it all: others may have its place.
                    on.send(id::NOT_INTERESTED, &[])?;
                }
            }
            _ => {}
        }
        if self.unchoked && on.shared().config.fault == Fault::Leech {
            self.ask(on)?;
        }
        Ok(())
    }

    fn receive(&mut self, on: &Connection<'_>, payload: &[u8]) {
        let Some((head, data)) = payload.split_first_chunk::<8>() else { return };
        let piece = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let begin = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let length = u32::try_from(data.len()).unwrap_or(0);
        let block = Block { piece, begin, length };
        let was_asked = self.asked.iter().position(|b| *b == block).map(|i| self.asked.swap_remove(i));
        let is_good = was_asked.is_some() && on.right_bytes(block).is_some_and(|right| right == data);
        on.count(|c| {
            c.blocks_received += 1;
            c.good_blocks_received += u64::from(is_good);
        });
    }

    /// Keeps requests in flight; a piece the client does not have yet holds up those after it.
    fn ask(&mut self, on: &mut Connection<'_>) -> io::Result<()> {
        while self.asked.len() < IN_FLIGHT {
            if let Some(block) = self.again.pop() {
                self.asked.push(block);
                request(on, block)?;
                continue;
            }
            let (piece, begin) = self.next;
            if self.has.get(piece as usize) != Some(&true) {
                return Ok(());
            }
            let piece_end = self.total_bytes.min(u64::from(piece + 1) * u64::from(self.piece_bytes));
            let left = piece_end - (u64::from(piece) * u64::from(self.piece_bytes) + u64::from(begin));
            let length = u32::try_from(left).unwrap_or(u32::MAX).min(BLOCK_BYTES);
            self.next = match u64::from(length) == left {
                true => (piece + 1, 0),
                false => (piece, begin + length),
            };
            let block = Block { piece, begin, length };
            self.asked.push(block);
            request(on, block)?;
        }
        Ok(())
    }

    fn misbehave(&mut self, on: &mut Connection<'_>, fault: RequestFault) -> io::Result<()> {
        let last = u32::try_from(self.has.len() - 1).unwrap_or(u32::MAX);
        let whole = Block { piece: 0, begin: 0, length: BLOCK_BYTES };
        let bad = match fault {
            RequestFault::BeyondEnd => Block { piece: last, begin: self.piece_bytes - 1, ..whole },
            RequestFault::NoSuchPiece => Block { piece: u32::MAX, ..whole },
            RequestFault::HugeLength => Block { length: 1 << 31, ..whole },
            RequestFault::ZeroLength => Block { length: 0, ..whole },
            RequestFault::Flood => return flood_requests(on, whole),
        };
        on.count(|c| c.faults += 1);
        (0..10).try_for_each(|_| request(on, bad))
    }
}

fn request(on: &mut Connection<'_>, block: Block) -> io::Result<()> {
    let payload = [block.piece, block.begin, block.length].map(u32::to_be_bytes).concat();
    on.send(id::REQUEST, &payload)
}

fn flood_requests(on: &mut Connection<'_>, block: Block) -> io::Result<()> {
    on.count(|c| c.faults += 1);
    // Not reading while asking: a client that answers each request at once must not pile the answers up.
    on.stream().set_write_timeout(Some(Duration::from_secs(2)))?;
    let payload = [block.piece, block.begin, block.length].map(u32::to_be_bytes).concat();
    for _ in 0..FLOOD_REQUESTS {
        on.count(|c| c.flood_bytes += 17);
        on.send(id::REQUEST, &payload)?;
    }
    Ok(())
}
