//! A small cache is read at random while seeders come and go, and killed at random moments: every byte is right, the
//! budget holds, and what survives a kill is what was recorded. `bench/soak` does the same for long, over bad paths.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use wtfs_testkit::{
    peer::{Content, ScriptedPeer, Start},
    process::Process,
    ramp::Ramp,
    torrent_file::TorrentFile,
    wait::eventually,
};

use crate::support::{
    mount::Mount,
    need::{Need, missing},
    reading::random_plan,
    stage::{PATIENCE, Stage, text, walk},
};

const NEEDS: &[Need] = &[Need::Fuse];
const BYTES: u64 = 24 << 20;
const BUDGET: u64 = BYTES / 4;
const PIECE_BYTES: u32 = 64 << 10;
const READERS: u64 = 4;
/// Reads that wait may overdraw the budget by a sixteenth; records and the metainfo are no pieces.
const SLACK: u64 = BUDGET / 16 + (1 << 20);

fn budget() -> String {
    BUDGET.to_string()
}

/// Reads at random places of a cold file, each time as if for the first time, until `count` reads or an error.
fn read_at_random(
    path: &Path,
    ramp: Ramp,
    seed: u64,
    count: usize,
    done: &AtomicU64,
) -> Result<(), Interrupted> {
    let file = File::open(path).map_err(Interrupted::Failed)?;
    let mut buffer = Vec::new();
    for (offset, len) in random_plan(seed, BYTES, count) {
        // Else the kernel would answer what it was given once.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
            .map_err(|e| Interrupted::Failed(e.into()))?;
        buffer.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            let at = offset + filled as u64;
            let n = file.read_at(&mut buffer[filled..], at).map_err(Interrupted::Failed)?;
            ramp.check(at, &buffer[filled..filled + n]).map_err(|e| Interrupted::Wrong(e.to_string()))?;
            if n == 0 {
                return Err(Interrupted::Wrong(format!("the file ends at {at}")));
            }
            filled += n;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Why a reader ended early.
#[derive(Debug)]
enum Interrupted {
    Wrong(String),
    /// Told to whoever runs the test.
    Failed(#[allow(dead_code)] io::Error),
}

/// Bytes that the cache takes up on the disk.
fn allocated(stage: &Stage) -> u64 {
    let cache = stage.join("cache");
    let files = walk(&cache).into_iter();
    files.filter_map(|path| fs::symlink_metadata(cache.join(path)).ok()).map(|m| m.blocks() * 512).sum()
}

/// Another seeder, which connects to the mount by itself. Two processes do not share one torrent's cache.
fn newcomer(stage: &Stage, mount: &Mount<'_>, torrent: &Path, data: &Path, number: u64) -> Process {
    let peer = mount.listen().to_string();
    let cache = text(&stage.subdir(format!("seeder-{number}")));
    stage.seed(torrent, data, &["--peer", &peer, "--cache-dir", &cache]).0
}

#[test]
fn a_quarter_of_the_data_is_kept_and_all_of_it_read_right_while_seeders_come_and_go() {
    if missing(NEEDS) {
        return;
    }
    const READS: usize = 40;
    const SWAPS: u64 = 5;
    let stage = Stage::new("come-and-go");
    let ramp = Ramp::new(81);
    let torrent = stage.write_torrent(&TorrentFile::ramp("shared.bin", ramp, BYTES, PIECE_BYTES, &[]));
    let data = stage.subdir("seeded");
    ramp.write_file(&data.join("shared.bin"), BYTES).expect("the scratch directory can be written");
    let mount = stage.mount(&[&text(&torrent)], &["--cache-size", &budget(), "--read-timeout", "400s"]);
    let path = mount.join("shared.bin");
    let (done, swaps) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut seeder = newcomer(&stage, &mount, &torrent, &data, 0);

    thread::scope(|scope| {
        let read = |seed| {
            let (path, done, swaps) = (&path, &done, &swaps);
            // However quick the reads are, seeders come and go while they are made.
            scope.spawn(move || {
                let mut rounds = 0;
                while rounds == 0 || swaps.load(Ordering::Relaxed) < SWAPS {
                    read_at_random(path, ramp, seed + READERS * rounds, READS, done)?;
                    rounds += 1;
                }
                Ok::<(), Interrupted>(())
            })
        };
        let readers: Vec<_> = (0..READERS).map(read).collect();
        while readers.iter().any(|reader| !reader.is_finished()) {
            // Every third time nobody is there in between.
            let number = swaps.load(Ordering::Relaxed) + 1;
            if number % 3 == 2 {
                seeder.kill();
            }
            let next = newcomer(&stage, &mount, &torrent, &data, number);
            seeder.kill();
            seeder = next;
            swaps.store(number, Ordering::Relaxed);
            let before = done.load(Ordering::Relaxed);
            let (most, is_over) = (allocated(&stage), |n| n > BUDGET + SLACK);
            assert!(!is_over(most), "{most} bytes on the disk with a budget of {BUDGET}");
            eventually("some reads are done", PATIENCE, || {
                let is_done = done.load(Ordering::Relaxed) >= before + 10;
                (is_done || readers.iter().all(|reader| reader.is_finished())).then_some(())
            });
        }
        for reader in readers {
            reader.join().expect("readers do not panic").expect("every read is whole and right");
        }
    });
    let evicted = &mount.process_status()["cache"]["evicted_bytes"];
    assert!(evicted.as_u64() > Some(BYTES / 2), "too little was given up to show anything: {evicted}");
    let torrent = mount.torrent_status();
    assert_eq!((&torrent["failed_pieces"], &torrent["failed_reads"]), (&0.into(), &0.into()), "{torrent}");
    mount.unmount();
}

#[test]
fn killed_at_random_moments_under_reading_and_eviction_it_never_reads_a_wrong_byte() {
    if missing(NEEDS) {
        return;
    }
    let stage = Stage::new("kill-evict");
    let ramp = Ramp::new(82);
    let torrent = TorrentFile::ramp("killed.bin", ramp, BYTES, PIECE_BYTES, &[]);
    let seeder = ScriptedPeer::seeder(&torrent, Content::Ramp(ramp), Start::Open);
    let mut sources: Vec<String> = (0..20).map(|n| text(&stage.write_torrent(&nobodys(n)))).collect();
    sources.push(text(&stage.write_torrent(&torrent)));
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let peer = seeder.addr().to_string();
    let flags = ["--peer", &peer, "--cache-size", &budget(), "--read-timeout", "400s"];

    // When each kill comes, in reads that were done; the same in every run.
    for (round, kill_after) in [3, 41, 0, 90, 17, 64].into_iter().enumerate() {
        let mount = stage.mount(&sources, &flags);
        let (path, done) = (mount.join("killed.bin"), AtomicU64::new(0));
        let wrong: Vec<String> = thread::scope(|scope| {
            let read = |reader| {
                let (path, done, seed) = (&path, &done, 100 * round as u64 + reader);
                scope.spawn(move || read_at_random(path, ramp, seed, 1000, done))
            };
            let readers: Vec<_> = (0..READERS).map(read).collect();
            eventually("so many reads are done", PATIENCE, || {
                let is_over = readers.iter().any(|reader| reader.is_finished());
                (done.load(Ordering::Relaxed) >= kill_after || is_over).then_some(())
            });
            mount.crash();
            let ended = readers.into_iter().map(|reader| reader.join().expect("readers do not panic"));
            ended
                .filter_map(|end| match end {
                    Err(Interrupted::Wrong(what)) => Some(what),
                    Ok(()) | Err(Interrupted::Failed(_)) => None,
                })
                .collect()
        });
        assert!(wrong.is_empty(), "round {round}: {wrong:?}");
        assert!(done.load(Ordering::Relaxed) >= kill_after, "round {round}: reads failed before the kill");
        let most = allocated(&stage);
        assert!(most <= BUDGET + SLACK, "round {round}: {most} bytes on the disk with a budget of {BUDGET}");
    }
    drop(seeder);
    let kept = read_alone(&stage, &sources, ramp);
    assert!(kept >= BUDGET / 4, "only {kept} bytes survived");
}

/// What the last kill left is read with no network, and with no budget, so that all of it stays: right bytes, or an
/// error. Gives how many could be read.
fn read_alone(stage: &Stage, sources: &[&str], ramp: Ramp) -> u64 {
    let mount = stage.mount(sources, &["--offline"]);
    let status = mount.process_status();
    let torrents = status["torrents"].as_array().expect("torrents");
    let ours = torrents.iter().find(|torrent| torrent["name"] == "killed.bin").expect("it is there");
    let present = ours["pieces_present"].as_u64().expect("a count") * u64::from(PIECE_BYTES);
    let file = File::open(mount.join("killed.bin")).expect("it can be opened");
    let mut buffer = vec![0; PIECE_BYTES as usize];
    let mut right = 0;
    for offset in (0..BYTES).step_by(PIECE_BYTES as usize) {
        if file.read_exact_at(&mut buffer, offset).is_ok() {
            ramp.check(offset, &buffer).expect("what is there is right");
            right += u64::from(PIECE_BYTES);
        }
    }
    assert_eq!(right, present, "what is said to be present can be read, and no more");
    drop(file);
    mount.unmount();
    right
}

/// A torrent that nobody has.
fn nobodys(number: u64) -> TorrentFile {
    TorrentFile::ramp(&format!("nobodys-{number}.bin"), Ramp::new(1000 + number), 64 << 10, 16 << 10, &[])
}
