//! Random histories of storing, reading, evicting, pinning and reopening beside a naive model, seeded; and readers on
//! many threads against one owner that stores and evicts. A byte is never wrong, a sum never off, a pinned file whole.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wtfs_proto::geometry::PieceIndex;

use super::ledger::Ledger;
use super::pins::{Pinned, Pins};
use super::victims::{Candidate, Victims};
use super::{Budget, Room};
use crate::config::SessionConfig;
use crate::present::PresentMap;
use crate::store::fixture::{Place, Sample, entry};
use crate::store::{FileStore, StateDir};
use crate::torrent::Content;

const PIECE_BYTES: u32 = 8192;

/// Two large files, and small ones that share pieces with each other and with the large.
fn sample() -> Sample {
    let mut files = vec![entry("first", 200_000)];
    files.extend((0..6).map(|i| entry(&format!("small/{i}"), 3_000 + i * 701)));
    files.push(entry("last", 150_001));
    Sample::new(PIECE_BYTES, files)
}

fn budget(cache_bytes: u64) -> Arc<Budget> {
    let config = SessionConfig {
        cache_bytes: Some(cache_bytes),
        min_free_bytes: 0,
        ..SessionConfig::new(PathBuf::from("/"))
    };
    Budget::new(&config).0
}

fn open(sample: &Sample, place: &Place, budget: &Arc<Budget>) -> Arc<Content> {
    let (store, present) = FileStore::open(place.config(), Arc::clone(&sample.metainfo)).unwrap();
    let geometry = &sample.metainfo.info.geometry;
    let present = PresentMap::new(&present);
    let ledger = Ledger::new(Some(Arc::clone(budget)), geometry, &present);
    let pins = Pins::load(Some(StateDir::new(place.state(""))), geometry);
    Arc::new(Content {
        metainfo: Arc::clone(&sample.metainfo),
        store: Arc::new(store),
        present,
        total_bytes: sample.metainfo.info.display_total(),
        ledger,
        pins,
    })
}

fn store(content: &Content, sample: &Sample, piece: PieceIndex) {
    content.store.write_piece(piece, &sample.blocks(piece)).unwrap();
    content.mark_present(piece);
}

fn is_pinned(content: &Content, piece: PieceIndex) -> bool {
    content.geometry().spans(piece, 0..u32::MAX).any(|span| content.pins.contains(span.file))
}

/// Evicts as the torrent's task does; returns what went.
fn evict(content: &Content, pieces: impl Iterator<Item = PieceIndex>) -> Vec<PieceIndex> {
    let gone = content.take_for_eviction(pieces, |piece| is_pinned(content, piece));
    content.store.forget_pieces(&gone).unwrap();
    for piece in &gone {
        content.mark_evicted(*piece);
    }
    gone
}

/// Reads a range of a file as a reader does; `None` when a piece of it is not there.
fn read(content: &Arc<Content>, file: usize, offset: u64, len: usize) -> Option<Vec<u8>> {
    let geometry = content.geometry();
    let file = geometry.file(file).unwrap();
    let pieces = geometry.pieces_of(file, offset..offset + len as u64);
    let pieces = pieces.first().unwrap().get()..pieces.last_piece().unwrap().get() + 1;
    let _in_use = content.use_pieces(pieces.clone());
    if !content.present.has_all(pieces) {
        return None;
    }
    let mut bytes = vec![0; len];
    content.store.read_file(file, offset, &mut bytes).unwrap();
    Some(bytes)
}

fn random_range(choice: &mut fastrand::Rng, sample: &Sample) -> (usize, u64, usize) {
    let file = choice.usize(..sample.metainfo.info.files.len());
    let bytes = sample.metainfo.info.files[file].bytes;
    let offset = choice.u64(..bytes);
    (file, offset, choice.usize(1..=30_000.min((bytes - offset) as usize)))
}

/// What the model knows: which pieces are there, in the order of their last use.
struct Model {
    by_use: Vec<PieceIndex>,
    pinned: BTreeSet<usize>,
}

impl Model {
    fn handle_use(&mut self, piece: PieceIndex) {
        self.by_use.retain(|other| *other != piece);
        self.by_use.push(piece);
    }
}

fn run(seed: u64) {
    let (sample, place) = (sample(), Place::new());
    let limit = u64::from(PIECE_BYTES) * 16;
    let mut choice = fastrand::Rng::with_seed(seed);
    let mut shared = budget(limit);
    let mut content = open(&sample, &place, &shared);
    let pieces = sample.pieces();
    let mut model = Model { by_use: Vec::new(), pinned: BTreeSet::new() };
    let (mut evictions, mut right_reads) = (0, 0);
    for step in 0..400 {
        match choice.u8(..20) {
            0..=7 => {
                let piece = *choice.choice(&pieces).unwrap();
                if !content.present.get(piece.get()) && shared.room() > Room::ReadsOnly {
                    store(&content, &sample, piece);
                    model.handle_use(piece);
                }
            }
            8..=15 => {
                let (file, offset, len) = random_range(&mut choice, &sample);
                let expected = &sample.file_content(file)[offset as usize..offset as usize + len];
                let read = read(&content, file, offset, len);
                let index = sample.file(file);
                let touched = content.geometry().pieces_of(index, offset..offset + len as u64);
                let is_there = touched.clone().all(|piece| model.by_use.contains(&piece));
                assert_eq!(read.is_some(), is_there, "seed {seed} step {step}");
                assert!(read.is_none_or(|read| read == expected), "seed {seed} step {step}: wrong bytes");
                right_reads += usize::from(is_there);
                for piece in touched.filter(|piece| content.present.get(piece.get())) {
                    model.handle_use(piece);
                }
            }
            16 => {
                let file = choice.usize(..8);
                let pinned = if choice.bool() && model.pinned.len() < 2 { Pinned::Yes } else { Pinned::No };
                content.pins.set(sample.file(file), pinned).unwrap();
                match pinned {
                    Pinned::Yes => model.pinned.insert(file),
                    Pinned::No => model.pinned.remove(&file),
                };
            }
            17 => {
                // As a crash: nothing is made durable first. What is there is found again.
                if choice.bool() {
                    content.store.checkpoint().unwrap();
                }
                drop(content);
                assert_eq!(shared.stored(), 0, "seed {seed} step {step}: a closed torrent holds nothing");
                shared = budget(limit);
                content = open(&sample, &place, &shared);
                // The order of use is not kept.
                model.by_use.sort_unstable();
            }
            _ => {
                let need = shared.excess();
                let mut victims = Victims::new(need);
                for piece in pieces.iter().filter(|piece| content.present.get(piece.get())) {
                    if !is_pinned(&content, *piece) {
                        let (touched, bytes) =
                            (content.ledger.touched(piece.get()), content.geometry().piece_len(*piece));
                        victims.offer(Candidate {
                            touched,
                            torrent: 0,
                            piece: piece.get(),
                            bytes: bytes.into(),
                        });
                    }
                }
                let chosen = victims.into_batches().remove(&0).unwrap_or_default();
                let before = model.by_use.clone();
                let gone = evict(&content, chosen.iter().map(|piece| sample.piece(*piece)));
                assert_eq!(gone.len(), chosen.len(), "seed {seed} step {step}: nobody uses anything");
                evictions += gone.len();
                model.by_use.retain(|piece| !gone.contains(piece));
                for piece in &gone {
                    let is_in_pinned = content
                        .geometry()
                        .spans(*piece, 0..u32::MAX)
                        .any(|span| model.pinned.contains(&(span.file.get() as usize)));
                    assert!(!is_in_pinned, "seed {seed} step {step}: a pinned piece went");
                }
                let unpinned: u64 =
                    model.by_use.iter().filter(|piece| !is_pinned(&content, **piece)).count() as u64;
                assert!(
                    need == 0 || unpinned == 0 || shared.excess() == 0,
                    "seed {seed} step {step}: {} of {limit} bytes, {before:?}",
                    shared.stored()
                );
            }
        }
        let sum: u64 = model.by_use.iter().map(|piece| u64::from(content.geometry().piece_len(*piece))).sum();
        assert_eq!(shared.stored(), sum, "seed {seed} step {step}");
        assert!(sum <= limit + u64::from(PIECE_BYTES), "seed {seed} step {step}: {sum} of {limit} bytes");
    }
    assert!(evictions > 10 && right_reads > 5, "seed {seed}: {evictions} evictions, {right_reads} reads");
}

#[test]
fn no_history_gives_a_wrong_byte_or_an_overdrawn_budget() {
    for seed in 0..12 {
        run(seed);
    }
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let (sample, place, shared) = (sample(), Place::new(), budget(1 << 30));
    let content = open(&sample, &place, &shared);
    for piece in sample.pieces().into_iter().take(8) {
        store(&content, &sample, piece);
    }
    // Each use is older than the store that follows it.
    for (used, stored) in [(3, 8), (0, 9), (3, 10)] {
        drop(content.use_pieces(used..used + 1));
        store(&content, &sample, sample.piece(stored));
    }
    let mut order: Vec<u32> = (0..11).collect();
    order.sort_by_key(|piece| content.ledger.touched(*piece));
    assert_eq!(order, [1, 2, 4, 5, 6, 7, 8, 0, 9, 3, 10]);
}

#[test]
fn what_is_used_is_put_back_and_goes_once_it_is_not() {
    let (sample, place, shared) = (sample(), Place::new(), budget(1 << 30));
    let content = open(&sample, &place, &shared);
    let pieces = [sample.piece(0), sample.piece(1)];
    pieces.iter().for_each(|piece| store(&content, &sample, *piece));
    let in_use = content.use_pieces(1..2);
    assert_eq!(evict(&content, pieces.into_iter()), [pieces[0]]);
    assert!(content.present.get(1) && !content.present.get(0));
    drop(in_use);
    assert_eq!(evict(&content, pieces.into_iter()), [pieces[1]]);
    assert_eq!((shared.stored(), shared.status().evicted_bytes), (0, 2 * u64::from(PIECE_BYTES)));
}

/// One owner stores and evicts as fast as it can, as a torrent's task does; readers must never see a hole.
#[test]
fn readers_on_many_threads_never_see_what_is_being_evicted() {
    let (sample, place, shared) = (sample(), Place::new(), budget(1 << 30));
    let content = open(&sample, &place, &shared);
    let pieces = sample.pieces();
    pieces.iter().for_each(|piece| store(&content, &sample, *piece));
    let is_over = AtomicBool::new(false);
    let reads = AtomicU32::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3_u64)
            .map(|seed| {
                let (content, sample, wrong, is_over, reads) = (&content, &sample, &wrong, &is_over, &reads);
                scope.spawn(move || {
                    let mut choice = fastrand::Rng::with_seed(seed);
                    while !is_over.load(Ordering::Relaxed) {
                        let (file, offset, len) = random_range(&mut choice, sample);
                        let Some(bytes) = read(content, file, offset, len) else { continue };
                        reads.fetch_add(1, Ordering::Relaxed);
                        if bytes != sample.file_content(file)[offset as usize..offset as usize + len] {
                            wrong.lock().unwrap().push((file, offset, len));
                        }
                    }
                })
            })
            .collect();
        let mut choice = fastrand::Rng::with_seed(99);
        let (mut rounds, mut evicted) = (0, 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        // Until both sides did much, whoever of them gets to run.
        while rounds < 150 || evicted <= 100 || reads.load(Ordering::Relaxed) <= 100 {
            if Instant::now() > deadline {
                is_over.store(true, Ordering::Relaxed);
                panic!("{evicted} evicted, {} read", reads.load(Ordering::Relaxed));
            }
            rounds += 1;
            let some: Vec<PieceIndex> = choice.choose_multiple(pieces.iter().copied(), 6);
            evicted += evict(&content, some.into_iter()).len();
            let missing = pieces.iter().filter(|piece| !content.present.get(piece.get()));
            let again: Vec<PieceIndex> = choice.choose_multiple(missing.copied(), 5);
            again.iter().for_each(|piece| store(&content, &sample, *piece));
        }
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert!(wrong.lock().unwrap().is_empty(), "{:?}", wrong.lock().unwrap());
}
