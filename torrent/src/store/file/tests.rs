//! What the file store does with a disk: layout, restarts, damage, and things planted in its way.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;

use wtfs_proto::metainfo::FileEntry;
use wtfs_proto::path::TorrentPath;

use super::super::fixture::{Place, Sample, entry, pad};
use super::super::record::RecordFile;
use super::super::{DataOwner, PieceStore, StoreError, TryRead};
use super::FileStore;

const PIECE: u32 = 16 * 1024;

/// Several files in a piece, files over several pieces, empty ones, a pad, an executable and a link.
fn sample() -> Sample {
    let link_target = TorrentPath::from_components(["a", "big"]).unwrap();
    Sample::new(
        PIECE,
        vec![
            entry("a/big", 100_000),
            entry("a/b/c/small", 10),
            entry("empty", 0),
            FileEntry { is_executable: true, ..entry("run", 5_000) },
            pad(".pad/1", 9_678),
            entry("ünïcode", 50_000),
            FileEntry { symlink: Some(link_target), ..entry("x/y/link", 0) },
        ],
    )
}

fn write_all(store: &FileStore, sample: &Sample) {
    for piece in sample.pieces() {
        store.write_piece(piece, &sample.blocks(piece)).unwrap();
    }
}

fn assert_reads(store: &FileStore, sample: &Sample, piece: u32) {
    let piece = sample.piece(piece);
    let expected = sample.piece_content(piece);
    let mut read = vec![1; expected.len()];
    store.read_piece(piece, 0..expected.len() as u32, &mut read).unwrap();
    assert!(read == expected, "{piece:?} reads back wrong");
}

#[test]
fn a_complete_torrent_lies_on_disk_as_it_was_shared() {
    let (sample, place) = (sample(), Place::new());
    let (store, present) = place.open(&sample);
    assert!(present.is_empty());
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    store.materialise_links().unwrap();
    store.materialise_links().unwrap();
    let root = place.data_dir().join("t");
    for (index, path) in [(0, "a/big"), (1, "a/b/c/small"), (2, "empty"), (3, "run"), (5, "ünïcode")] {
        assert!(std::fs::read(root.join(path)).unwrap() == sample.file_content(index), "{path}");
    }
    assert!(root.join("run").metadata().unwrap().permissions().mode() & 0o100 != 0);
    assert!(root.join("a/big").metadata().unwrap().permissions().mode() & 0o111 == 0);
    assert!(!root.join(".pad").exists());
    assert_eq!(std::fs::read(root.join("x/y/link")).unwrap(), sample.file_content(0));
}

#[test]
fn every_range_of_files_and_pieces_reads_back() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    for (index, _) in sample.metainfo.info.files.iter().enumerate() {
        let content = sample.file_content(index);
        let len = content.len();
        for (from, to) in [(0, len), (len / 3, len / 2), (len.saturating_sub(1), len), (len, len)] {
            let mut read = vec![1; to - from];
            store.read_file(sample.file(index), from as u64, &mut read).unwrap();
            assert!(read == content[from..to], "file {index} {from}..{to}");
        }
        let past = store.read_file(sample.file(index), len as u64, &mut [0]);
        assert!(matches!(past, Err(StoreError::Range { .. })), "{past:?}");
    }
    for piece in sample.pieces() {
        assert_reads(&store, &sample, piece.get());
        let mut read = [0; 7];
        store.read_piece(piece, 3..10, &mut read).unwrap();
        assert_eq!(read, sample.piece_content(piece)[3..10]);
        assert!(store.read_piece(piece, 3..11, &mut read).is_err());
        assert!(store.read_piece(piece, PIECE - 3..PIECE + 4, &mut read).is_err());
    }
}

#[test]
fn a_try_read_gets_cached_bytes_once_the_file_is_open() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    let mut read = vec![0; 50_000];
    let outcome = store.try_read_file(sample.file(5), 0, &mut read).unwrap();
    assert!(outcome == TryRead::WouldBlock || read == sample.file_content(5));
    drop(store);
    let (store, _) = place.open(&sample);
    // Not yet open: opening could wait.
    assert_eq!(store.try_read_file(sample.file(5), 0, &mut read).unwrap(), TryRead::WouldBlock);
}

#[test]
fn nothing_is_on_disk_before_the_first_write_and_files_are_sparse_after_it() {
    let sample = Sample::new(PIECE, vec![entry("one", 64 << 20), entry("two", 1 << 20)]);
    let place = Place::new();
    let (store, _) = place.open(&sample);
    assert!(!place.data_dir().exists());
    let piece = sample.piece(1000);
    store.write_piece(piece, &sample.blocks(piece)).unwrap();
    let one = place.data_dir().join("t/one").metadata().unwrap();
    assert_eq!(one.len(), 64 << 20);
    assert!(one.blocks() * 512 < 1 << 20);
    assert!(!place.data_dir().join("t/two").exists());
}

#[test]
fn pieces_survive_a_restart_with_and_without_a_checkpoint() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    for piece in [0, 3] {
        store.write_piece(sample.piece(piece), &sample.blocks(sample.piece(piece))).unwrap();
    }
    store.checkpoint().unwrap();
    store.write_piece(sample.piece(7), &sample.blocks(sample.piece(7))).unwrap();
    drop(store);
    let (store, present) = place.open(&sample);
    assert_eq!(present, [0, 3, 7]);
    for piece in [0, 3, 7] {
        assert_reads(&store, &sample, piece);
    }
    // What the journal brought back becomes durable like anything else.
    store.checkpoint().unwrap();
    assert!(std::fs::read(place.state("journal")).unwrap().iter().all(|byte| *byte == 0));
    drop(store);
    assert_eq!(place.open(&sample).1, [0, 3, 7]);
}

#[test]
fn a_journalled_piece_whose_bytes_never_arrived_is_not_present() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    for piece in [1, 2] {
        store.write_piece(sample.piece(piece), &sample.blocks(sample.piece(piece))).unwrap();
    }
    drop(store);
    let path = place.data_dir().join("t/a/big");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[PIECE as usize..2 * PIECE as usize].fill(0);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(place.open(&sample).1, [2]);
}

#[test]
fn a_damaged_record_costs_the_pieces_and_nothing_else() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    std::fs::write(place.state("record"), b"garbage").unwrap();
    let (store, present) = place.open(&sample);
    assert!(present.is_empty());
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    assert_eq!(place.open(&sample).1.len(), sample.pieces().len());
}

#[test]
fn files_removed_or_cut_while_closed_lose_just_their_pieces_for_good() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    let root = place.data_dir().join("t");
    std::fs::remove_file(root.join("run")).unwrap();
    std::fs::File::options().write(true).open(root.join("a/big")).unwrap().set_len(40_000).unwrap();
    // `run` lies in piece 6 alone; 40,000 bytes are pieces 0 and 1 and a part of 2.
    let (store, present) = place.open(&sample);
    assert_eq!(present, [0, 1, 7, 8, 9, 10]);
    // Making the files anew must not bring back what the old record said of them.
    store.write_piece(sample.piece(5), &sample.blocks(sample.piece(5))).unwrap_err();
    drop(store);
    std::fs::remove_file(root.join("a/big")).unwrap();
    let (store, present) = place.open(&sample);
    assert_eq!(present, [7, 8, 9, 10]);
    store.write_piece(sample.piece(6), &sample.blocks(sample.piece(6))).unwrap();
    drop(store);
    assert_eq!(place.open(&sample).1, [6, 7, 8, 9, 10]);
}

#[test]
fn a_file_made_anew_by_someone_else_is_seen_by_its_holes() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    let path = place.data_dir().join("t/a/big");
    std::fs::remove_file(&path).unwrap();
    std::fs::File::create(&path).unwrap().set_len(100_000).unwrap();
    assert_eq!(place.open(&sample).1, [7, 8, 9, 10]);
}

#[test]
fn a_record_does_not_vouch_for_another_data_directory() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    let elsewhere = place.outside().join("elsewhere");
    std::fs::create_dir_all(elsewhere.join("t/a")).unwrap();
    let mut bytes = sample.file_content(0).to_vec();
    bytes[20_000] ^= 1;
    std::fs::write(elsewhere.join("t/a/big"), bytes).unwrap();
    let config = super::FileStoreConfig { data_dir: elsewhere, ..place.config() };
    let (_store, present) = FileStore::open(config, Arc::clone(&sample.metainfo)).unwrap();
    assert_eq!(present.iter_ones().collect::<Vec<_>>(), [0, 2, 3, 4, 5]);
}

#[test]
fn a_renamed_data_directory_keeps_its_pieces() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    let moved = place.outside().join("moved");
    std::fs::rename(place.data_dir(), &moved).unwrap();
    let config = super::FileStoreConfig { data_dir: moved, ..place.config() };
    let (_store, present) = FileStore::open(config, Arc::clone(&sample.metainfo)).unwrap();
    assert!(present.is_full());
}

#[test]
fn forgetting_frees_the_space_of_the_piece_and_no_neighbour_s_byte() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    let path = place.data_dir().join("t/a/big");
    let before = path.metadata().unwrap().blocks();
    store.forget_pieces(&[sample.piece(2), sample.piece(3)]).unwrap();
    let freed = (before - path.metadata().unwrap().blocks()) * 512;
    assert_eq!(freed, u64::from(2 * PIECE));
    store.forget_piece(sample.piece(6)).unwrap();
    for piece in [0, 1, 4, 5, 7, 8, 9, 10] {
        assert_reads(&store, &sample, piece);
    }
    drop(store);
    let (store, present) = place.open(&sample);
    assert_eq!(present, [0, 1, 4, 5, 7, 8, 9, 10]);
    store.write_piece(sample.piece(2), &sample.blocks(sample.piece(2))).unwrap();
    assert_reads(&store, &sample, 2);
}

#[test]
fn forgetting_everything_frees_blocks_that_pieces_share() {
    let sample = Sample::new(5_000, vec![entry("one", 50_000)]);
    let place = Place::new();
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    for piece in sample.pieces() {
        store.forget_piece(piece).unwrap();
    }
    assert_eq!(place.data_dir().join("t/one").metadata().unwrap().blocks(), 0);
}

/// Two pieces share a block and the second leaves the state while the record that still names it was just written: a
/// hole in the block, filled again by the first, would make zeros of what the record vouches for.
#[test]
fn a_hole_spares_what_the_record_on_disk_still_names() {
    let sample = Sample::new(5_000, vec![entry("one", 10_000)]);
    let place = Place::new();
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    let recorded = store.state().present.clone();
    let [first, second] = [0, 1].map(|piece| sample.piece(piece));
    let mut after_first = recorded.clone();
    after_first.clear(first.get());
    // Both are given up; the record that is on the disk was written in between.
    for piece in [first, second] {
        store.state().present.clear(piece.get());
    }
    store.punch_absent(&[first, second], &after_first);
    let mut read = vec![0; 5_000];
    store.read_piece(second, 0..5_000, &mut read).unwrap();
    assert!(read == sample.piece_content(second), "the record vouches for it");
    store.punch_absent(&[first, second], &wtfs_proto::bitfield::Bitfield::new(2));
    assert_eq!(place.data_dir().join("t/one").metadata().unwrap().blocks(), 0);
}

#[test]
fn forgetting_what_is_not_there_changes_nothing() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    store.write_piece(sample.piece(0), &sample.blocks(sample.piece(0))).unwrap();
    store.forget_pieces(&[sample.piece(1), sample.piece(7)]).unwrap();
    // Not even a checkpoint: what was written is as little durable as before.
    let pieces = sample.pieces().len() as u32;
    let record = RecordFile::new(place.state("record"), sample.metainfo.hashes.primary(), pieces);
    assert_eq!(record.load(), None);
    assert_reads(&store, &sample, 0);
}

/// Dying between the record and the hole, or in the middle of a write, must not leave blocks that nobody counts.
#[test]
fn what_a_crash_left_half_written_or_half_given_up_takes_no_space() {
    let (sample, place) = (sample(), Place::new());
    let open = || {
        let config = super::FileStoreConfig { owner: DataOwner::Store, ..place.config() };
        FileStore::open(config, Arc::clone(&sample.metainfo)).unwrap()
    };
    let (store, _) = open();
    for piece in [1, 3] {
        store.write_piece(sample.piece(piece), &sample.blocks(sample.piece(piece))).unwrap();
    }
    store.checkpoint().unwrap();
    let path = place.data_dir().join("t/a/big");
    let blocks = || path.metadata().unwrap().blocks() * 512;
    assert_eq!(blocks(), u64::from(2 * PIECE));
    // The journal has the entry, half of the bytes are there.
    store.journal.append(&[sample.piece(2)]).unwrap();
    let half = sample.piece_content(sample.piece(2))[..PIECE as usize / 2].to_vec();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &half, u64::from(2 * PIECE)).unwrap();
    drop((store, file));
    assert_eq!(blocks(), u64::from(2 * PIECE + PIECE / 2));
    let (store, present) = open();
    assert_eq!(present.iter_ones().collect::<Vec<_>>(), [1, 3]);
    store.checkpoint().unwrap();
    assert_eq!(blocks(), u64::from(2 * PIECE));
    // Given up and recorded so, but still on the disk: it is found again, and counts.
    store.journal.append(&[sample.piece(3)]).unwrap();
    let mut without = store.state().present.clone();
    without.clear(3);
    store.write_record(without).unwrap();
    drop(store);
    let (store, present) = open();
    assert_eq!(present.iter_ones().collect::<Vec<_>>(), [1, 3]);
    for piece in [1, 3] {
        assert_reads(&store, &sample, piece);
    }
}

#[test]
fn a_planted_link_leads_no_write_or_read_outside() {
    let (sample, place) = (sample(), Place::new());
    let target = place.outside().join("victim");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("big"), b"precious").unwrap();
    std::fs::create_dir_all(place.data_dir().join("t")).unwrap();
    // As a directory on the way.
    symlink(&target, place.data_dir().join("t/a")).unwrap();
    let (store, _) = place.open(&sample);
    let refused = store.write_piece(sample.piece(0), &sample.blocks(sample.piece(0)));
    assert!(matches!(refused, Err(StoreError::WrongType { found: "a symbolic link", .. })), "{refused:?}");
    // As the file itself.
    std::fs::remove_file(place.data_dir().join("t/a")).unwrap();
    std::fs::create_dir(place.data_dir().join("t/a")).unwrap();
    symlink(target.join("big"), place.data_dir().join("t/a/big")).unwrap();
    let refused = store.write_piece(sample.piece(0), &sample.blocks(sample.piece(0)));
    assert!(matches!(refused, Err(StoreError::WrongType { found: "a symbolic link", .. })), "{refused:?}");
    assert!(store.read_file(sample.file(0), 0, &mut [0; 8]).is_err());
    assert_eq!(std::fs::read(target.join("big")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1);
}

#[test]
fn things_of_another_kind_in_a_file_s_place_are_named_and_left_alone() {
    let (sample, place) = (sample(), Place::new());
    let big = place.data_dir().join("t/a/big");
    std::fs::create_dir_all(&big).unwrap();
    let (store, _) = place.open(&sample);
    let write = || store.write_piece(sample.piece(0), &sample.blocks(sample.piece(0)));
    let error = write().unwrap_err();
    assert!(matches!(error, StoreError::WrongType { found: "a directory", .. }), "{error}");
    std::fs::remove_dir(&big).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &big,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let error = write().unwrap_err();
    assert!(matches!(error, StoreError::WrongType { found: "a pipe", .. }), "{error}");
    std::fs::remove_file(&big).unwrap();
    std::fs::write(&big, vec![7; 100_001]).unwrap();
    let error = write().unwrap_err();
    assert!(matches!(error, StoreError::FileLength { expected: 100_000, found: 100_001, .. }), "{error}");
    std::fs::remove_file(&big).unwrap();
    std::fs::remove_dir(big.parent().unwrap()).unwrap();
    std::fs::write(big.parent().unwrap(), b"x").unwrap();
    let error = write().unwrap_err();
    assert!(
        matches!(error, StoreError::WrongType { found: "a file", expected: "a directory", .. }),
        "{error}"
    );
}

#[test]
fn a_file_that_vanishes_while_open_is_an_error_and_never_zeros() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    let (store, _) = place.open(&sample);
    std::fs::remove_file(place.data_dir().join("t/a/big")).unwrap();
    let read = store.read_file(sample.file(0), 0, &mut [0; 8]);
    assert!(matches!(read, Err(StoreError::Vanished { .. })), "{read:?}");
    let write = store.write_piece(sample.piece(0), &sample.blocks(sample.piece(0)));
    assert!(matches!(write, Err(StoreError::Vanished { .. })), "{write:?}");
}

#[test]
fn pieces_that_the_disk_lost_are_named_and_no_longer_present() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    for piece in [0, 8] {
        store.write_piece(sample.piece(piece), &sample.blocks(sample.piece(piece))).unwrap();
    }
    // The sync cannot find the file any more, which is as good as a sync that fails.
    store.open_files.close_store(store.id);
    std::fs::remove_file(place.data_dir().join("t/a/big")).unwrap();
    let error = store.checkpoint().unwrap_err();
    let StoreError::NotDurable { pieces, .. } = error else { panic!("{error}") };
    assert_eq!(pieces, [sample.piece(0)]);
    store.checkpoint().unwrap();
    drop(store);
    assert_eq!(place.open(&sample).1, [8]);
}

#[test]
fn wrong_lengths_of_blocks_are_refused() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    let mut blocks = sample.blocks(sample.piece(0));
    blocks.pop();
    let error = store.write_piece(sample.piece(0), &blocks).unwrap_err();
    assert!(matches!(error, StoreError::PieceLength { .. }), "{error}");
}

#[test]
fn two_stores_cannot_open_one_torrent() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    let error = FileStore::open(place.config(), Arc::clone(&sample.metainfo)).unwrap_err();
    let own = std::process::id();
    assert!(matches!(error, StoreError::Locked { pid: Some(pid), .. } if pid == own), "{error}");
    drop(store);
    place.open(&sample);
}

#[test]
fn what_a_check_found_replaces_the_record() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    drop(store);
    std::fs::remove_file(place.state("record")).unwrap();
    let (store, present) = place.open(&sample);
    assert!(present.is_empty());
    let never = std::sync::atomic::AtomicBool::new(false);
    let report = super::super::check_data(&sample.metainfo, &place.data_dir(), &|_, _| {}, &never).unwrap();
    store.adopt(&report.present);
    store.checkpoint().unwrap();
    drop(store);
    assert_eq!(place.open(&sample).1.len(), sample.pieces().len());
}

#[test]
fn deleting_takes_the_torrent_s_files_and_leaves_the_user_s() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.materialise_links().unwrap();
    store.checkpoint().unwrap();
    let root = place.data_dir().join("t");
    std::fs::write(root.join("a/own"), b"mine").unwrap();
    store.delete_data().unwrap();
    assert_eq!(std::fs::read(root.join("a/own")).unwrap(), b"mine");
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(root.join("a")).unwrap().count(), 1);
    drop(store);
    assert!(place.open(&sample).1.is_empty());
}

#[test]
fn a_torrent_of_many_files_stays_within_the_open_files() {
    let sample = Sample::new(PIECE, (0..600).map(|i| entry(&format!("{}/{i}", i % 7), 100)).collect());
    let place = Place::new();
    let files = Arc::new(super::OpenFiles::new(4));
    let (store, _) = FileStore::open_with(place.config(), Arc::clone(&sample.metainfo), files).unwrap();
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (store, sample) = (&store, &sample);
            scope.spawn(move || {
                for index in (part..600).step_by(4) {
                    let mut read = [0; 100];
                    store.read_file(sample.file(index), 0, &mut read).unwrap();
                    assert_eq!(read, sample.file_content(index));
                }
            });
        }
    });
}

#[test]
fn a_checkpoint_with_nothing_new_does_not_touch_the_disk() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    store.checkpoint().unwrap();
    let written = place.state("record").metadata().unwrap();
    store.checkpoint().unwrap();
    let again = place.state("record").metadata().unwrap();
    assert_eq!((written.ino(), written.ctime_nsec()), (again.ino(), again.ctime_nsec()));
    let pieces = sample.pieces().len() as u32;
    let record = RecordFile::new(place.state("record"), sample.metainfo.hashes.primary(), pieces);
    assert!(record.load().unwrap().present.is_full());
}

#[test]
fn a_whole_file_is_opened_past_the_store_and_locked_against_eviction() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    assert!(store.open_file(sample.file(0)).is_none(), "nothing is there yet");
    write_all(&store, &sample);
    let mut opened = store.open_file(sample.file(0)).unwrap();
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut opened, &mut read).unwrap();
    assert!(read == sample.file_content(0));
    let path = place.data_dir().join("t/a/big");
    let evictor = std::fs::File::open(&path).unwrap();
    let exclusive = || rustix::fs::flock(&evictor, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(exclusive().is_err());
    drop(opened);
    // A process that another test is starting has what was open then for a moment more.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while exclusive().is_err() {
        assert!(std::time::Instant::now() < deadline, "it is still held");
        std::thread::yield_now();
    }
    assert!(store.open_file(sample.file(0)).is_none(), "it is being evicted");
    drop(evictor);
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_001).unwrap();
    assert!(store.open_file(sample.file(0)).is_none(), "it is longer than in the torrent");
}

#[test]
fn a_link_in_the_place_of_a_file_is_not_opened_past_the_store() {
    let (sample, place) = (sample(), Place::new());
    let (store, _) = place.open(&sample);
    write_all(&store, &sample);
    let path = place.data_dir().join("t/a/big");
    std::fs::rename(&path, place.data_dir().join("elsewhere")).unwrap();
    symlink(place.data_dir().join("elsewhere"), &path).unwrap();
    assert!(store.open_file(sample.file(0)).is_none());
}

#[test]
fn a_file_of_our_own_that_was_cut_short_is_written_again_and_a_users_is_left_alone() {
    for owner in [DataOwner::User, DataOwner::Store] {
        let (sample, place) = (sample(), Place::new());
        let open = || {
            let config = super::FileStoreConfig { owner, ..place.config() };
            FileStore::open(config, Arc::clone(&sample.metainfo)).unwrap()
        };
        let (store, _) = open();
        write_all(&store, &sample);
        store.checkpoint().unwrap();
        drop(store);
        let path = place.data_dir().join("t/a/big");
        std::fs::File::options().write(true).open(path).unwrap().set_len(40_000).unwrap();
        let (store, present) = open();
        assert!(present.get(0) && !present.get(4));
        let written = store.write_piece(sample.piece(4), &sample.blocks(sample.piece(4)));
        match owner {
            DataOwner::User => assert!(matches!(written, Err(StoreError::FileLength { .. }))),
            DataOwner::Store => {
                written.unwrap();
                assert_reads(&store, &sample, 4);
            }
        }
    }
}
