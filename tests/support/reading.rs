//! Reading files of a mount in the ways programs do, and comparing with the original on every byte.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use wtfs_testkit::{process, ramp::Ramp};

use super::need;

const STEP_BYTES: usize = 1 << 20;

/// Reads both files from start to end and asserts that they are equal.
#[track_caller]
pub(crate) fn assert_same(found: &Path, original: &Path) {
    if let Err(error) = compare(found, original) {
        panic!("{} differs from {}: {error}", found.display(), original.display());
    }
}

fn compare(found: &Path, original: &Path) -> io::Result<()> {
    let (mut found, mut original) = (File::open(found)?, File::open(original)?);
    let (mut a, mut b) = (vec![0; STEP_BYTES], vec![0; STEP_BYTES]);
    let mut at = 0_u64;
    loop {
        let n = read_full(&mut found, &mut a)?;
        let m = read_full(&mut original, &mut b)?;
        if a[..n] != b[..m] {
            let first = a[..n].iter().zip(&b[..m]).position(|(x, y)| x != y).unwrap_or(n.min(m));
            return Err(io::Error::other(format!("at byte {}", at + first as u64)));
        }
        if n == 0 {
            return Ok(());
        }
        at += n as u64;
    }
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Where and how much to read, one after the other.
pub(crate) type Plan = Vec<(u64, usize)>;

/// `count` reads at odd places and of odd lengths, the same for the same seed.
pub(crate) fn random_plan(seed: u64, len: u64, count: usize) -> Plan {
    let numbers = Ramp::new(seed).bytes(0, count * 16);
    let read = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let place = |pair: &[u8]| {
        let offset = read(&pair[..8]) % len;
        let want = 1 + read(&pair[8..]) % 200_000;
        (offset, usize::try_from(want.min(len - offset)).expect("a short length"))
    };
    numbers.chunks_exact(16).map(place).collect()
}

/// The whole file from its end to its start, in steps that are no multiple of anything.
pub(crate) fn backward_plan(len: u64, step: u64) -> Plan {
    let mut end = len;
    let mut plan = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(step);
        plan.push((start, usize::try_from(end - start).expect("a short length")));
        end = start;
    }
    plan
}

/// Follows the plan on a file that holds the ramp and asserts that every read is whole and right.
#[track_caller]
pub(crate) fn assert_ramp(path: &Path, ramp: Ramp, plan: &Plan) {
    if let Err(error) = follow(path, ramp, plan) {
        panic!("{}: {error}", path.display());
    }
}

fn follow(path: &Path, ramp: Ramp, plan: &Plan) -> io::Result<()> {
    let file = File::open(path)?;
    let mut buffer = Vec::new();
    for &(offset, len) in plan {
        buffer.resize(len, 0);
        let mut filled = 0;
        while filled < len {
            let n = file.read_at(&mut buffer[filled..], offset + filled as u64)?;
            if n == 0 {
                return Err(io::Error::other(format!("ends at {}", offset + filled as u64)));
            }
            filled += n;
        }
        ramp.check(offset, &buffer).map_err(io::Error::other)?;
    }
    Ok(())
}

/// `readers` threads at once, each with a handle and a random plan of its own.
#[track_caller]
pub(crate) fn assert_ramp_at_once(path: &Path, ramp: Ramp, len: u64, readers: u64, count: usize) {
    let failures: Vec<String> = thread::scope(|scope| {
        let work = |seed| move || follow(path, ramp, &random_plan(seed, len, count));
        let running: Vec<_> = (0..readers).map(|seed| scope.spawn(work(seed))).collect();
        let results = running.into_iter().map(|thread| thread.join().expect("readers do not panic"));
        results.filter_map(Result::err).map(|e| e.to_string()).collect()
    });
    assert!(failures.is_empty(), "{}: {failures:?}", path.display());
}

/// Python maps both files and compares them in shuffled parts; numpy is not needed.
const MMAP: &str = r"
import mmap, random, sys
with open(sys.argv[1], 'rb') as f, open(sys.argv[2], 'rb') as g:
    a = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    b = mmap.mmap(g.fileno(), 0, access=mmap.ACCESS_READ)
    if len(a) != len(b):
        sys.exit(f'{len(a)} bytes, not {len(b)}')
    step = 777777
    starts = list(range(0, len(a), step))
    random.Random(int(sys.argv[3])).shuffle(starts)
    for i in starts[: int(sys.argv[4])]:
        if a[i:i + step] != b[i:i + step]:
            sys.exit(f'the parts at {i} differ')
";

/// Compares two files through memory maps of Python, in `parts` shuffled parts at most.
#[track_caller]
pub(crate) fn assert_same_mapped(found: &Path, original: &Path, parts: usize, deadline: Duration) {
    let mut command = Command::new(need::python());
    command.args(["-c", MMAP]).arg(found).arg(original).args(["7", &parts.to_string()]);
    let _said = process::run(command, deadline).expect_success("mapped files are equal");
}

/// Starts `cat FILE > /dev/null` as an ordinary reader, one that a Ctrl-C ends: shells have what they start in the
/// background ignore SIGINT, which these tests hand on when they run there.
pub(crate) fn cat(path: &Path, log: &Path) -> process::Process {
    let mut command = Command::new("sh");
    command.args(["-c", "exec env --default-signal=INT cat \"$0\" > /dev/null"]).arg(path);
    process::Process::spawn("cat", command, log)
}

/// As [`cat`], of the first bytes alone.
pub(crate) fn cat_start(path: &Path, bytes: u64, log: &Path) -> process::Process {
    let mut command = Command::new("sh");
    command.args(["-c", "exec head -c \"$1\" \"$0\" > /dev/null"]).arg(path).arg(bytes.to_string());
    process::Process::spawn("head", command, log)
}

/// An extended attribute that is text.
pub(crate) fn attribute(path: &Path, name: &str) -> String {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).expect("an attribute");
    String::from_utf8(value[..length].to_vec()).expect("text")
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the directory can be listed");
    let mut names: Vec<PathBuf> = entries.map(|e| e.expect("an entry").file_name().into()).collect();
    names.sort();
    names
}
