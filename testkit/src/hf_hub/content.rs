//! What a file of a repository holds: bytes in memory, a ramp of any length, or a file on disk; and its hashes.
//!
//! Bytes are made when they are asked for, so that a file of many gigabytes costs nothing until it is read.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::ramp::Ramp;

/// How many bytes are hashed at a time.
const STEP: usize = 1 << 20;

/// The bytes of one file.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Arc<[u8]>),
    /// So many bytes of the ramp of this seed, from its start.
    Ramp {
        /// The ramp's seed.
        seed: u64,
        /// In bytes.
        len: u64,
    },
    /// As [`Content::Ramp`], but too long to be hashed in a test: the sha256 that is announced is made up. For what
    /// is never fetched whole.
    Vast {
        /// The ramp's seed.
        seed: u64,
        /// In bytes.
        len: u64,
    },
    /// A file on disk, which must stay as it is.
    File(PathBuf),
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into_bytes().into())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// The two hashes by which the hub names content.
#[derive(Clone, Debug)]
pub(super) struct Hashes {
    /// In hex; of the bytes as they are.
    pub(super) sha256: String,
    /// In hex; of `blob <length>\0` and the bytes, as git does.
    pub(super) git_sha1: String,
}

impl Content {
    /// A ramp.
    #[must_use]
    pub fn ramp(seed: u64, len: u64) -> Self {
        Self::Ramp { seed, len }
    }

    /// In bytes.
    ///
    /// # Panics
    /// When a file on disk is gone.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Ramp { len, .. } | Self::Vast { len, .. } => *len,
            Self::File(path) => {
                fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).len()
            }
        }
    }

    /// True for no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes at an offset, which must lie within.
    ///
    /// # Panics
    /// When they do not, or a file on disk cannot be read.
    #[must_use]
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).expect("within memory");
                bytes[start..start + len].to_vec()
            }
            Self::Ramp { seed, .. } | Self::Vast { seed, .. } => Ramp::new(*seed).bytes(offset, len),
            Self::File(path) => {
                let mut out = vec![0; len];
                let file = fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                file.read_exact_at(&mut out, offset)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                out
            }
        }
    }

    /// In hex. Of a [`Content::Vast`] it is made up.
    #[must_use]
    pub fn sha256(&self) -> String {
        self.hashes().sha256
    }

    /// In hex: what git calls the blob.
    #[must_use]
    pub fn git_sha1(&self) -> String {
        self.hashes().git_sha1
    }

    pub(super) fn hashes(&self) -> Hashes {
        match self {
            Self::Vast { seed, len } => {
                let text = format!("vast {seed} {len}");
                Hashes { sha256: hex(&Sha256::digest(&text)), git_sha1: hex(&Sha1::digest(&text)) }
            }
            Self::Ramp { seed, len } => {
                // Tests of one process often serve the same ramps.
                static KNOWN: OnceLock<Mutex<HashMap<(u64, u64), Hashes>>> = OnceLock::new();
                let known = KNOWN.get_or_init(Mutex::default);
                let found = known.lock().unwrap_or_else(PoisonError::into_inner).get(&(*seed, *len)).cloned();
                found.unwrap_or_else(|| {
                    let made = self.hash();
                    known.lock().unwrap_or_else(PoisonError::into_inner).insert((*seed, *len), made.clone());
                    made
                })
            }
            Self::Bytes(_) | Self::File(_) => self.hash(),
        }
    }

    fn hash(&self) -> Hashes {
        let len = self.len();
        let (mut sha256, mut git) = (Sha256::new(), Sha1::new());
        git.update(format!("blob {len}\0"));
        let mut at = 0;
        while at < len {
            let take = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
            let bytes = self.read(at, take);
            sha256.update(&bytes);
            git.update(&bytes);
            at += take as u64;
        }
        Hashes { sha256: hex(&sha256.finalize()), git_sha1: hex(&git.finalize()) }
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_sha256sum() {
        let content = Content::from("hello\n");
        assert_eq!(content.git_sha1(), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(content.sha256(), "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }

    #[test]
    fn a_ramp_is_hashed_as_its_bytes_are() {
        let bytes = Ramp::new(7).bytes(0, 3_000_000);
        assert_eq!(Content::ramp(7, 3_000_000).sha256(), Content::from(bytes).sha256());
    }
}
