//! Many threads on one file store: writes, reads, checkpoints and forgetting at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};

use super::PieceStore;
use super::fixture::{Place, Sample, entry};

/// Pieces that share blocks of the file system with their neighbours, in files that share pieces.
fn sample() -> Sample {
    let mut files = vec![entry("big", 300_000)];
    files.extend((0..40).map(|i| entry(&format!("small/{i}"), 1_500 + i * 13)));
    Sample::new(5_000, files)
}

/// Each piece has its own lock, as the engine never reads a piece that it forgets; neighbours are free to do anything.
#[test]
fn neighbours_of_what_is_forgotten_and_rewritten_stay_right() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    let pieces = sample.pieces();
    let present: Vec<RwLock<bool>> = pieces.iter().map(|_| RwLock::new(false)).collect();
    let stop = AtomicBool::new(false);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4_u64)
            .map(|seed| {
                let (sample, store, pieces, present, wrong) = (&sample, &store, &pieces, &present, &wrong);
                scope.spawn(move || {
                    let mut choice = fastrand::Rng::with_seed(seed);
                    for _ in 0..600 {
                        let at = choice.usize(..pieces.len());
                        let piece = pieces[at];
                        match choice.u8(..10) {
                            0 => {
                                let mut present = present[at].write().unwrap();
                                store.forget_piece(piece).unwrap();
                                *present = false;
                            }
                            1..=4 => {
                                let mut present = present[at].write().unwrap();
                                store.write_piece(piece, &sample.blocks(piece)).unwrap();
                                *present = true;
                            }
                            _ => {
                                let present = present[at].read().unwrap();
                                let expected = sample.piece_content(piece);
                                let mut read = vec![0; expected.len()];
                                if *present {
                                    store.read_piece(piece, 0..expected.len() as u32, &mut read).unwrap();
                                    if read != expected {
                                        wrong.lock().unwrap().push(piece);
                                    }
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.checkpoint().unwrap();
                std::thread::yield_now();
            }
        });
        let outcomes: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        stop.store(true, Ordering::Relaxed);
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
    assert_eq!(wrong.into_inner().unwrap(), []);
    drop(store);
    // Without a last checkpoint: the journal and the record together know all.
    let (store, found) = place.open(&sample);
    let expected: Vec<u32> =
        (0..).zip(&present).filter(|(_, p)| *p.read().unwrap()).map(|(i, _)| i).collect();
    assert_eq!(found, expected);
    for piece in found {
        let piece = sample.piece(piece);
        let expected = sample.piece_content(piece);
        let mut read = vec![0; expected.len()];
        store.read_piece(piece, 0..expected.len() as u32, &mut read).unwrap();
        assert!(read == expected, "{piece:?}");
    }
}
