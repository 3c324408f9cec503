//! Random histories of a file store, crashes and damage among them, beside a naive model.
//!
//! What must hold after each step: every piece that is reported as present reads back right. And as far as the history
//! damaged nothing: no piece is lost.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;

use super::fixture::{Place, Sample, entry, pad};
use super::{FileStore, PieceStore};

/// Neither a multiple of the block size of the file system nor of the blocks written.
const PIECE_BYTES: u32 = 5_000;

#[derive(Debug, Clone)]
enum Step {
    Write(u32),
    Read(u32),
    Checkpoint,
    Forget(Vec<u32>),
    Restart(Damage),
}

/// What happens to the disk while the store is closed.
#[derive(Debug, Clone)]
enum Damage {
    /// The process died.
    None,
    /// The journal is gone.
    JournalLost,
    /// The journal ends at this permille of its length.
    JournalTorn(u32),
    /// The journal is the one of the last restart: its removal was not durable.
    JournalOld,
    /// Power was lost: no byte that was written since the last checkpoint arrived, but the journal did.
    DataLost,
    /// The newest record ends at this permille of its length.
    RecordTorn(u32),
    /// A byte of the newest record is another.
    RecordFlipped(u32),
    /// Someone removed a file.
    FileRemoved(usize),
    /// Someone made a file anew, empty but of its full length.
    FileEmptied(usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => Just(Damage::None),
        1 => Just(Damage::JournalLost),
        1 => (0..1000_u32).prop_map(Damage::JournalTorn),
        1 => Just(Damage::JournalOld),
        2 => Just(Damage::DataLost),
        1 => (0..1000_u32).prop_map(Damage::RecordTorn),
        1 => (0..1000_u32).prop_map(Damage::RecordFlipped),
        1 => (0..FILES.len()).prop_map(Damage::FileRemoved),
        1 => (0..FILES.len()).prop_map(Damage::FileEmptied),
    ]
}

const FILES: [(&str, u64); 5] =
    [("a/one", 23_456), ("a/two", 100), ("three", 4_096), (".pad", 2_348), ("four", 40_000)];

const PIECES: u32 = 14;

fn sample() -> Sample {
    let file =
        |&(path, bytes): &(&str, u64)| if path == ".pad" { pad(path, bytes) } else { entry(path, bytes) };
    Sample::new(PIECE_BYTES, FILES.iter().map(file).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..PIECES).prop_map(Step::Write),
        3 => (0..PIECES).prop_map(Step::Read),
        2 => Just(Step::Checkpoint),
        2 => prop::collection::vec(0..PIECES, 1..4).prop_map(Step::Forget),
        3 => damage().prop_map(Step::Restart),
    ]
}

/// The store under test beside what is known about it.
struct Run {
    sample: Sample,
    place: Place,
    store: Option<FileStore>,
    present: BTreeSet<u32>,
    /// Those that no loss of power may take.
    durable: BTreeSet<u32>,
    old_journal: Option<Vec<u8>>,
}

impl Run {
    fn new() -> Self {
        let (sample, place) = (sample(), Place::new());
        let (store, present) = place.open(&sample);
        assert!(present.is_empty());
        Self {
            sample,
            place,
            store: Some(store),
            present: BTreeSet::new(),
            durable: BTreeSet::new(),
            old_journal: None,
        }
    }

    fn step(&mut self, step: &Step) {
        let store = self.store.as_ref().expect("open between the steps");
        match step {
            Step::Write(piece) => {
                let piece = self.sample.piece(*piece);
                store.write_piece(piece, &self.sample.blocks(piece)).unwrap();
                self.present.insert(piece.get());
            }
            Step::Read(piece) => {
                if self.present.contains(piece) {
                    self.assert_right(*piece);
                }
            }
            Step::Checkpoint => {
                store.checkpoint().unwrap();
                self.durable = self.present.clone();
            }
            Step::Forget(pieces) => {
                let indices: Vec<_> = pieces.iter().map(|&piece| self.sample.piece(piece)).collect();
                let was_any = pieces.iter().any(|piece| self.present.contains(piece));
                store.forget_pieces(&indices).unwrap();
                self.present.retain(|piece| !pieces.contains(piece));
                if was_any {
                    self.durable = self.present.clone();
                }
            }
            Step::Restart(damage) => self.restart(damage),
        }
    }

    fn restart(&mut self, damage: &Damage) {
        self.store = None;
        let journal = self.place.state("journal");
        let before = std::fs::read(&journal).ok();
        // Which pieces must be there again, and which may be.
        let mut must = self.present.clone();
        match damage {
            Damage::None => {}
            Damage::JournalLost => {
                let _ = std::fs::remove_file(&journal);
                must = self.durable.clone();
            }
            Damage::JournalTorn(permille) => {
                cut(&journal, *permille);
                must = self.durable.clone();
            }
            Damage::JournalOld => {
                if let Some(old) = &self.old_journal {
                    std::fs::write(&journal, old).unwrap();
                }
                must = self.durable.clone();
            }
            Damage::DataLost => {
                let lost: Vec<u32> = self.present.difference(&self.durable).copied().collect();
                lost.iter().for_each(|&piece| self.scramble(piece));
                must = self.durable.clone();
            }
            Damage::RecordTorn(permille) => {
                let path = self.place.state("record");
                if let Ok(bytes) = std::fs::read(&path) {
                    std::fs::write(&path, &bytes[..in_newest_record(&bytes, *permille)]).unwrap();
                }
                must.clear();
                self.durable.clear();
            }
            Damage::RecordFlipped(permille) => {
                let path = self.place.state("record");
                if let Ok(mut bytes) = std::fs::read(&path).map_err(drop).and_then(non_empty) {
                    let at = in_newest_record(&bytes, *permille);
                    bytes[at] ^= 0x40;
                    std::fs::write(&path, bytes).unwrap();
                }
                must.clear();
                self.durable.clear();
            }
            Damage::FileRemoved(file) | Damage::FileEmptied(file) => {
                let path = self.file_path(*file);
                let existed = std::fs::remove_file(&path).is_ok();
                if existed && matches!(damage, Damage::FileEmptied(_)) {
                    std::fs::File::create(&path).unwrap().set_len(FILES[*file].1).unwrap();
                }
                if existed {
                    let geometry = &self.sample.metainfo.info.geometry;
                    for piece in geometry.pieces_of(self.sample.file(*file), 0..u64::MAX) {
                        must.remove(&piece.get());
                    }
                }
            }
        }
        self.old_journal = before.or(self.old_journal.take());
        let (store, found) = self.place.open(&self.sample);
        self.store = Some(store);
        self.present = found.into_iter().collect();
        if !self.durable.is_subset(&self.present) {
            // A record that vouches for what is gone is replaced at once, by all that is there.
            self.durable = self.present.clone();
        }
        let missing: Vec<u32> = must.difference(&self.present).copied().collect();
        assert!(missing.is_empty(), "lost {missing:?} after {damage:?}");
        for &piece in &self.present {
            self.assert_right(piece);
        }
    }

    fn file_path(&self, file: usize) -> PathBuf {
        self.place.data_dir().join("t").join(FILES[file].0)
    }

    /// Makes a piece's stored bytes wrong.
    fn scramble(&self, piece: u32) {
        let geometry = &self.sample.metainfo.info.geometry;
        for span in geometry.spans(self.sample.piece(piece), 0..u32::MAX).filter(|span| !span.is_pad) {
            let path = self.file_path(span.file.get() as usize);
            let file = std::fs::File::options().write(true).open(path).unwrap();
            // The fixture's bytes are never zero.
            let zeros = vec![0; span.bytes as usize];
            std::os::unix::fs::FileExt::write_all_at(&file, &zeros, span.file_offset).unwrap();
        }
    }

    fn assert_right(&self, piece: u32) {
        let store = self.store.as_ref().expect("open between the steps");
        let piece = self.sample.piece(piece);
        let expected = self.sample.piece_content(piece);
        let mut read = vec![0; expected.len()];
        store.read_piece(piece, 0..expected.len() as u32, &mut read).unwrap();
        assert!(read == expected, "{piece:?} is reported as present and wrong");
    }
}

fn non_empty(bytes: Vec<u8>) -> Result<Vec<u8>, ()> {
    if bytes.is_empty() { Err(()) } else { Ok(bytes) }
}

/// A byte of the newest record: both slots have a block of the disk, and one of them is blank.
fn in_newest_record(bytes: &[u8], permille: u32) -> usize {
    const USED: usize = 8 + 8 + 20 + 4 + 8 + 32 + (PIECES as usize).div_ceil(8) + 32;
    let begin = if bytes.starts_with(b"wtfsrec") { 0 } else { 4096 };
    (begin + USED * permille as usize / 1000).min(bytes.len().saturating_sub(1))
}

fn cut(path: &std::path::Path, permille: u32) {
    if let Ok(bytes) = std::fs::read(path) {
        let len = bytes.len() * permille as usize / 1000;
        std::fs::write(path, &bytes[..len]).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_makes_a_wrong_byte_present(steps in prop::collection::vec(step(), 1..40)) {
        let mut run = Run::new();
        prop_assert_eq!(run.sample.pieces().len(), PIECES as usize);
        for step in &steps {
            run.step(step);
        }
        run.restart(&Damage::None);
    }
}
