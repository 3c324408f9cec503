//! The task that frees space: when the cache passes its mark, and when the disk itself is full.
//!
//! Chooses what to free over all torrents and leaves the freeing to each torrent's task, which alone knows what may go
//! at that moment. One round at a time: what it frees is counted before the next begins. Never holds anything back
//! itself; that the torrents fetch less while the cache is full is theirs to see to.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use wtfs_proto::bitfield::Bitfield;
use wtfs_proto::geometry::PieceIndex;

use super::Relief;
use super::victims::{Candidate, Victims};
use crate::hf::blobs::shared::Spare;
use crate::session::Engine;
use crate::torrent::{Command, Shared, Torrent};

/// How often the disk's free space is looked at while nothing happens: others may fill it.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// After a round in which nothing could go, the next one waits: everything is in use or pinned.
const FRUITLESS_PAUSE: Duration = Duration::from_millis(50);

/// Data of torrents that the session does not have is first looked for after this long: those that it is about to add
/// are not to lose theirs. A disk that is full does not wait for it.
const LOOK_FOR_DORMANT_AFTER: Duration = Duration::from_secs(60);

/// Then again this often: other processes leave theirs too.
const LOOK_FOR_DORMANT_EVERY: Duration = Duration::from_secs(600);

/// Runs until the session closes.
pub(crate) async fn evict_task(engine: Arc<Engine>, mut requests: mpsc::Receiver<Relief>) {
    let mut scan_at = Instant::now() + LOOK_FOR_DORMANT_AFTER;
    // What is to stay free binds from the first piece on.
    let budget = engine.budget.clone();
    if engine.disk.run(move || budget.measure()).await.is_err() {
        return;
    }
    loop {
        let mut asked = Vec::new();
        tokio::select! {
            biased;
            () = engine.cancel.cancelled() => return,
            request = requests.recv() => asked.extend(request),
            () = engine.budget.wake.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        while let Ok(request) = requests.try_recv() {
            asked.push(request);
        }
        let budget = engine.budget.clone();
        let is_scan_due = Instant::now() >= scan_at;
        if is_scan_due {
            scan_at = Instant::now() + LOOK_FOR_DORMANT_EVERY;
        }
        let look = move || {
            if is_scan_due {
                budget.dormant.scan();
            }
            budget.measure();
        };
        if engine.disk.run(look).await.is_err() {
            return;
        }
        let asked_bytes = asked.iter().map(|request| request.bytes).fold(0, u64::saturating_add);
        let need = engine.budget.excess().max(asked_bytes);
        if need == 0 {
            continue;
        }
        let freed = tokio::select! {
            biased;
            () = engine.cancel.cancelled() => return,
            freed = evict(&engine, need) => freed,
        };
        if freed == 0 && !asked.is_empty() {
            // The disk is full of something: the next request may find what it is.
            scan_at = scan_at.min(Instant::now());
        }
        tracing::debug!(need, freed, "evicted");
        engine.budget.handle_round(freed);
        for request in asked {
            // Whoever asked may be gone.
            let _gone = request.reply.send(freed);
        }
        if freed == 0 {
            tokio::select! {
                () = engine.cancel.cancelled() => return,
                () = tokio::time::sleep(FRUITLESS_PAUSE) => {}
            }
        }
    }
}

/// Frees what nobody has open, and then the oldest pieces, that come to `need` bytes; returns how many bytes it were.
async fn evict(engine: &Arc<Engine>, need: u64) -> u64 {
    let budget = engine.budget.clone();
    let Ok(dormant) = engine.disk.run(move || budget.dormant.evict(need)).await else { return 0 };
    engine.budget.evicted.add(dormant);
    if dormant >= need {
        return dormant;
    }
    dormant + evict_pieces(engine, need - dormant).await
}

async fn evict_pieces(engine: &Arc<Engine>, need: u64) -> u64 {
    let torrents = engine.torrents();
    let (offered, blobs) = (torrents.clone(), engine.budget.blobs());
    let choose = move || {
        let spare = blobs.as_ref().map_or_else(Vec::new, |blobs| blobs.spare());
        let mut batches = choose(&offered, &spare, need);
        // Blobs have no task of their own.
        let chosen = batches.remove(&offered.len()).unwrap_or_default();
        let chosen: Vec<Spare> =
            chosen.into_iter().filter_map(|at| spare.get(usize::try_from(at).ok()?).copied()).collect();
        let freed = blobs.map_or(0, |blobs| blobs.evict(&chosen));
        (pieces_of(&offered, batches), freed)
    };
    let Ok((batches, freed_of_blobs)) = engine.disk.run(choose).await else { return 0 };
    engine.budget.evicted.add(freed_of_blobs);
    let mut answers = Vec::new();
    for (number, pieces) in batches {
        let Some(torrent) = torrents.get(number) else { continue };
        let (reply, answer) = oneshot::channel();
        if torrent.shared.commands.send(Command::Evict { pieces, reply }).await.is_ok() {
            answers.push(answer);
        }
    }
    // A torrent that stops meanwhile frees nothing.
    let freed = futures_util::future::join_all(answers).await;
    freed_of_blobs + freed.into_iter().map(|freed| freed.unwrap_or(0)).sum::<u64>()
}

/// What is kept twice, then what has been used longest ago, torrent by torrent and the blobs behind them. Looks at every
/// piece of the cache.
pub(super) fn choose(torrents: &[Torrent], blobs: &[Spare], need: u64) -> BTreeMap<usize, Vec<u32>> {
    let mut victims = Victims::new(need);
    for (number, torrent) in torrents.iter().enumerate() {
        let Some(content) = torrent.shared.content().filter(|content| content.ledger.is_budgeted()) else {
            continue;
        };
        let geometry = content.geometry();
        let (protected, copied) = (protected(&torrent.shared), torrent.shared.copied());
        for piece in content.present.to_bitfield().iter_ones().filter_map(|piece| geometry.piece(piece)) {
            let at = piece.get();
            if content.ledger.is_in_use(at) || protected.as_ref().is_some_and(|set| set.get(at)) {
                continue;
            }
            let (start, bytes) = (geometry.piece_offset(piece), u64::from(geometry.piece_len(piece)));
            // What is kept twice goes before anything that is kept once.
            let touched =
                if covers(&copied, &(start..start + bytes)) { 0 } else { content.ledger.touched(at) };
            victims.offer(Candidate { touched, torrent: number, piece: at, bytes });
        }
    }
    for (number, spare) in blobs.iter().enumerate() {
        let Ok(piece) = u32::try_from(number) else { break };
        let (touched, bytes) = (spare.touched, spare.bytes);
        victims.offer(Candidate { touched, torrent: torrents.len(), piece, bytes });
    }
    victims.into_batches()
}

/// Whether one of `ranges`, which are in order and apart, has all of `range`.
fn covers(ranges: &[Range<u64>], range: &Range<u64>) -> bool {
    let first = ranges.partition_point(|there| there.end < range.end);
    ranges.get(first).is_some_and(|there| there.start <= range.start)
}

fn pieces_of(torrents: &[Torrent], batches: BTreeMap<usize, Vec<u32>>) -> Vec<(usize, Vec<PieceIndex>)> {
    let index = |number: usize, pieces: Vec<u32>| {
        let geometry = torrents.get(number)?.shared.content()?.geometry();
        Some((number, pieces.into_iter().filter_map(|piece| geometry.piece(piece)).collect()))
    };
    batches.into_iter().filter_map(|(number, pieces)| index(number, pieces)).collect()
}

/// The pieces of files that are pinned or held; `None` when there are no such files.
fn protected(shared: &Shared) -> Option<Bitfield> {
    let content = shared.content()?;
    let mut files = content.pins.files();
    files.extend(shared.held_files());
    if files.is_empty() {
        return None;
    }
    let geometry = content.geometry();
    let mut set = Bitfield::new(geometry.piece_count());
    for file in files {
        for piece in geometry.pieces_of(file, 0..geometry.file_len(file)) {
            set.set(piece.get());
        }
    }
    Some(set)
}
