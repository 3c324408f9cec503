//! Content in which every byte is a function of a seed and its offset, so that a read from a wrong place, a
//! stale page or a swapped block is seen at once, and any range can be checked without keeping the original.
//!
//! The stream is cut into 8-byte words; word `i` is the SplitMix64 output for `seed + i * golden ratio`. No two
//! aligned blocks of one ramp are equal in practice, and it does not compress.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    path::Path,
};

/// How many bytes are generated or compared at a time when whole files are written or checked.
const STEP_BYTES: usize = 1 << 20;

/// One endless stream of bytes, named by its seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    seed: u64,
}

/// The first byte that differs from the ramp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Offset in the ramp, in bytes.
    pub offset: u64,
    /// The byte that should be there; `None` when the content is longer than it should be.
    pub expected: Option<u8>,
    /// The byte that is there; `None` when the content ends early.
    pub found: Option<u8>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: expected {:02x?}, found {:02x?}", self.offset, self.expected, self.found)
    }
}

impl std::error::Error for Mismatch {}

impl Ramp {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    fn word(self, index: u64) -> u64 {
        let mut z = self.seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Writes the bytes at `offset..offset + out.len()` into `out`.
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let mut index = offset / 8;
        let skip = (offset % 8) as usize;
        let mut rest = out;
        if skip != 0 {
            let word = self.word(index).to_le_bytes();
            let take = rest.len().min(8 - skip);
            rest[..take].copy_from_slice(&word[skip..skip + take]);
            rest = &mut rest[take..];
            index += 1;
        }
        let mut words = rest.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word(index).to_le_bytes());
            index += 1;
        }
        let tail = words.into_remainder();
        let word = self.word(index).to_le_bytes();
        tail.copy_from_slice(&word[..tail.len()]);
    }

    /// The bytes at `offset..offset + len`.
    #[must_use]
    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.fill(offset, &mut out);
        out
    }

    /// Compares `found` with the bytes at `offset`.
    ///
    /// # Errors
    /// The first byte that differs.
    pub fn check(self, offset: u64, found: &[u8]) -> Result<(), Mismatch> {
        let mut expected = vec![0; found.len().min(STEP_BYTES)];
        let mut at = offset;
        for part in found.chunks(STEP_BYTES) {
            let expected = &mut expected[..part.len()];
            self.fill(at, expected);
            if part != expected {
                let (i, (&e, &f)) =
                    expected.iter().zip(part).enumerate().find(|(_, (e, f))| e != f).expect("slices differ");
                return Err(Mismatch { offset: at + i as u64, expected: Some(e), found: Some(f) });
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes a file of `len` bytes that holds the ramp from its start; parents are made as needed.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_file(self, path: &Path, len: u64) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = fs::File::create(path)?;
        let mut buffer = vec![0; STEP_BYTES];
        let mut at = 0;
        while at < len {
            let part = usize::try_from(len - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
            self.fill(at, &mut buffer[..part]);
            file.write_all(&buffer[..part])?;
            at += part as u64;
        }
        Ok(())
    }

    /// Checks that all that `source` yields is the ramp from its start, and that it is `len` bytes.
    ///
    /// # Errors
    /// Those of reading; a difference is `InvalidData` and holds a [`Mismatch`].
    pub fn check_reader(self, mut source: impl io::Read, len: u64) -> io::Result<()> {
        let mut buffer = vec![0; STEP_BYTES];
        let mut at = 0;
        loop {
            let n = source.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            self.check(at, &buffer[..n]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            at += n as u64;
        }
        if at == len {
            return Ok(());
        }
        let short = self.bytes(at, 1).first().copied().filter(|_| at < len);
        let mismatch = Mismatch { offset: at.min(len), expected: short, found: None };
        Err(io::Error::new(io::ErrorKind::InvalidData, mismatch))
    }

    /// Checks a whole file against the ramp, its length too.
    ///
    /// # Errors
    /// As [`Ramp::check_reader`].
    pub fn check_file(self, path: &Path, len: u64) -> io::Result<()> {
        self.check_reader(fs::File::open(path)?, len)
    }
}

/// Makes a file of `len` zero bytes that takes no space.
///
/// # Errors
/// Those of the file system.
pub fn write_sparse_zeros(path: &Path, len: u64) -> io::Result<()> {
    fs::File::create(path)?.set_len(len)
}

/// Checks that `source` yields exactly `len` zero bytes.
///
/// # Errors
/// Those of reading, or `InvalidData`.
pub fn check_zeros(source: impl io::Read, len: u64) -> io::Result<()> {
    let mut buffer = Vec::new();
    source.take(len + 1).read_to_end(&mut buffer)?;
    if buffer.len() as u64 == len && buffer.iter().all(|&b| b == 0) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("not {len} zero bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_equals_that_part_of_the_whole() {
        let ramp = Ramp::new(7);
        let whole = ramp.bytes(0, 100);
        for from in 0..40 {
            for to in from..100 {
                assert_eq!(ramp.bytes(from as u64, to - from), whole[from..to], "{from}..{to}");
            }
        }
    }

    #[test]
    fn a_shift_by_one_byte_is_seen() {
        let ramp = Ramp::new(7);
        let found = ramp.bytes(4097, 64);
        assert_eq!(ramp.check(4097, &found), Ok(()));
        assert!(ramp.check(4096, &found).is_err());
        assert!(Ramp::new(8).check(4097, &found).is_err());
    }

    #[test]
    fn the_first_differing_byte_is_named() {
        let ramp = Ramp::new(1);
        let mut found = ramp.bytes(1000, 3 * STEP_BYTES);
        let at = 2 * STEP_BYTES + 5;
        found[at] ^= 0xff;
        let mismatch = ramp.check(1000, &found).expect_err("one byte was changed");
        assert_eq!(mismatch.offset, 1000 + at as u64);
        assert_eq!(mismatch.found, Some(found[at]));
    }

    #[test]
    fn a_file_that_ends_early_or_late_is_seen() {
        let ramp = Ramp::new(3);
        let bytes = ramp.bytes(0, 1000);
        assert!(ramp.check_reader(&bytes[..], 1000).is_ok());
        assert!(ramp.check_reader(&bytes[..], 1001).is_err());
        assert!(ramp.check_reader(&bytes[..], 999).is_err());
    }
}
