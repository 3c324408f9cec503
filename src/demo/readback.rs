//! The reading side of `wtfs demo`: compares what a mount shows with the files it was made from, byte for byte.
//!
//! Runs as a process of its own, as every real reader does. (A process must not read its own mount: a thread of it that
//! is stuck in the kernel would keep the process, and with it the mount, from ending.) Says what it found as one JSON
//! object on its standard output.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use wtfs_mount::MappedFile;

use super::repository::Noise;
use crate::exit::{Exit, ended};

/// Bytes per read in order and per copy from a mapping.
const STRIDE: usize = 1 << 20;
/// Bytes per read at random: what a loader takes to look at a tensor's first rows.
const RANDOM_BYTES: usize = 4 << 10;
const RANDOM_READS: u64 = 256;

/// How a row of the report was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    InOrder,
    AtRandom,
    Mapped,
}

/// Where the bytes were before they were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Locality {
    /// With others, if not read ahead already.
    Cold,
    /// On this machine.
    Local,
}

/// One way of reading one or more files, all bytes equal to the source.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) pattern: Pattern,
    pub(crate) state: Locality,
    pub(crate) what: String,
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// From opening to the first bytes.
    pub(crate) first_byte: Duration,
}

/// Which file is read how while nothing of it is local yet; then everything, in each way.
pub(crate) fn run(mounted: &Path, source: &Path) -> anyhow::Result<Vec<Row>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in
        std::fs::read_dir(mounted).with_context(|| format!("{} cannot be listed", mounted.display()))?
    {
        files.push(entry?.file_name().into());
    }
    files.sort();
    let expected = std::fs::read_dir(source)?.count();
    if files.len() != expected {
        return Err(ended(Exit::BadData, format!("the mount shows {} files of {expected}", files.len())));
    }
    let (shards, rest): (Vec<PathBuf>, Vec<PathBuf>) = files
        .iter()
        .cloned()
        .partition(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    let mut rows = Vec::new();
    for (number, pattern) in [Pattern::InOrder, Pattern::AtRandom, Pattern::Mapped].into_iter().enumerate() {
        if let Some(shard) = shards.get(number) {
            let what = format!("shard {}, cold", number + 1);
            rows.push(read(mounted, source, std::slice::from_ref(shard), pattern, Locality::Cold, what)?);
        }
    }
    let remaining: Vec<PathBuf> = shards.iter().skip(1).chain(&rest).cloned().collect();
    rows.push(read(mounted, source, &remaining, Pattern::InOrder, Locality::Cold, "the rest".into())?);
    for pattern in [Pattern::InOrder, Pattern::AtRandom, Pattern::Mapped] {
        rows.push(read(mounted, source, &files, pattern, Locality::Local, "all, now local".into())?);
    }
    Ok(rows)
}

fn read(
    mounted: &Path,
    source: &Path,
    files: &[PathBuf],
    pattern: Pattern,
    state: Locality,
    what: String,
) -> anyhow::Result<Row> {
    let mut row = Row { pattern, state, what, bytes: 0, elapsed: Duration::ZERO, first_byte: Duration::ZERO };
    for (number, file) in files.iter().enumerate() {
        let mut check = Check { source: File::open(source.join(file))?, name: file, expected: Vec::new() };
        let path = mounted.join(file);
        let opened = Instant::now();
        let mut clock = Clock { spent: Duration::ZERO, first_byte: None };
        let reading = match pattern {
            Pattern::InOrder => read_in_order(&path, &mut check, &mut clock),
            Pattern::AtRandom => read_at_random(&path, &mut check, &mut clock, number as u64),
            Pattern::Mapped => read_mapped(&path, &mut check, &mut clock),
        };
        row.bytes += reading.with_context(|| format!("reading {}", path.display()))?;
        if number == 0 {
            row.first_byte = clock.first_byte.unwrap_or_else(|| opened.elapsed());
        }
        row.elapsed += clock.spent;
    }
    Ok(row)
}

/// Counts the time of reading, not that of comparing.
struct Clock {
    spent: Duration,
    first_byte: Option<Duration>,
}

impl Clock {
    fn time<T>(&mut self, read: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let read = read();
        self.spent += start.elapsed();
        read
    }

    fn has_bytes(&mut self) {
        let spent = self.spent;
        self.first_byte.get_or_insert(spent);
    }
}

struct Check<'a> {
    source: File,
    name: &'a Path,
    expected: Vec<u8>,
}

impl Check<'_> {
    fn compare(&mut self, offset: u64, got: &[u8]) -> anyhow::Result<()> {
        self.expected.resize(got.len(), 0);
        self.source.read_exact_at(&mut self.expected, offset)?;
        match self.expected.iter().zip(got).position(|(expected, got)| expected != got) {
            None => Ok(()),
            Some(at) => {
                let at = offset + at as u64;
                Err(ended(
                    Exit::BadData,
                    format!("{} differs from its source at byte {at}", self.name.display()),
                ))
            }
        }
    }

    fn is_whole(&self, bytes: u64) -> anyhow::Result<()> {
        let expected = self.source.metadata()?.len();
        if bytes == expected {
            return Ok(());
        }
        Err(ended(Exit::BadData, format!("{} has {bytes} bytes, its source {expected}", self.name.display())))
    }
}

fn read_in_order(path: &Path, check: &mut Check<'_>, clock: &mut Clock) -> anyhow::Result<u64> {
    let mut file = clock.time(|| File::open(path))?;
    let mut buffer = vec![0; STRIDE];
    let mut at = 0;
    loop {
        let count = clock.time(|| file.read(&mut buffer))?;
        clock.has_bytes();
        if count == 0 {
            check.is_whole(at)?;
            return Ok(at);
        }
        check.compare(at, &buffer[..count])?;
        at += count as u64;
    }
}

fn read_at_random(path: &Path, check: &mut Check<'_>, clock: &mut Clock, seed: u64) -> anyhow::Result<u64> {
    let file = clock.time(|| File::open(path))?;
    let bytes = file.metadata()?.len();
    check.is_whole(bytes)?;
    let mut buffer = vec![0; RANDOM_BYTES];
    let mut noise = Noise(seed);
    let mut read = 0;
    for _ in 0..RANDOM_READS {
        let offset = noise.below(bytes);
        let length = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(RANDOM_BYTES);
        clock.time(|| file.read_exact_at(&mut buffer[..length], offset))?;
        clock.has_bytes();
        check.compare(offset, &buffer[..length])?;
        read += length as u64;
    }
    Ok(read)
}

fn read_mapped(path: &Path, check: &mut Check<'_>, clock: &mut Clock) -> anyhow::Result<u64> {
    let mapped = clock.time(|| MappedFile::open(path))?;
    check.is_whole(mapped.len() as u64)?;
    let mut buffer = vec![0; STRIDE];
    let mut at = 0;
    while at < mapped.len() {
        // The first page alone, so that its time is the time to the first byte.
        let wanted = if at == 0 { RANDOM_BYTES } else { STRIDE };
        let count = clock.time(|| mapped.copy_at(at, &mut buffer[..wanted]));
        clock.has_bytes();
        check.compare(at as u64, &buffer[..count])?;
        at += count;
    }
    Ok(at as u64)
}

/// Writes the rows for the parent.
pub(crate) fn say(rows: &[Row]) -> io::Result<()> {
    serde_json::to_writer(io::stdout().lock(), rows).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::super::repository;
    use super::*;
    use crate::exit::exit_of;

    fn two_copies() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for root in [&one, &two] {
            repository::make(root, 4 << 20, 3).expect("made");
        }
        (dir, one, two)
    }

    #[test]
    fn equal_directories_read_equal_in_every_way() {
        let (_dir, one, two) = two_copies();
        let rows = run(&one, &two).expect("equal");
        assert_eq!(rows.len(), 7);
        assert!(rows.iter().all(|row| row.bytes > 0));
    }

    #[test]
    fn one_wrong_byte_is_found_and_named() {
        let (_dir, one, two) = two_copies();
        let path = one.join("model-00004-of-00004.safetensors");
        let file = File::options().read(true).write(true).open(path).expect("opened");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 777_777).expect("read");
        file.write_all_at(&[!byte[0]], 777_777).expect("written");
        let error = run(&one, &two).expect_err("different");
        assert_eq!(exit_of(&error), Exit::BadData);
        assert!(format!("{error:#}").contains("at byte 777777"), "{error:#}");
    }

    #[test]
    fn a_short_file_is_found() {
        let (_dir, one, two) = two_copies();
        File::options().write(true).open(one.join("config.json")).and_then(|f| f.set_len(10)).expect("cut");
        assert_eq!(exit_of(&run(&one, &two).expect_err("different")), Exit::BadData);
    }
}
