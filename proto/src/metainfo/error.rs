//! Why bytes are no torrent. Every variant names the key or the entry at fault, so that the message alone says what
//! is wrong with the file; none carries more than a short printable piece of the input.

use thiserror::Error;

use crate::bencode::DecodeError;
use crate::geometry::GeometryError;
use crate::path::PathError;

/// Why a `.torrent` or an `info` dictionary was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MetainfoError {
    /// Not bencode.
    #[error("not bencode: {0}")]
    Bencode(#[from] DecodeError),
    /// A required key is not there.
    #[error("{key}: missing")]
    Missing {
        /// Path of the key.
        key: String,
    },
    /// A key with a value of another kind or form.
    #[error("{key}: expected {expected}")]
    WrongValue {
        /// Path of the key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A name that no file may have.
    #[error("unsafe name '{entry}': {source}")]
    UnsafeName {
        /// The name, printable and shortened.
        entry: String,
        /// Which rule it breaks.
        source: PathError,
    },
    /// Two entries of one name.
    #[error("two files are named '{entry}'")]
    DuplicateName {
        /// The name.
        entry: String,
    },
    /// An entry that is a file and a directory.
    #[error("'{file}' is a file and also the directory of '{entry}'")]
    FileAsDirectory {
        /// The file.
        file: String,
        /// An entry below it.
        entry: String,
    },
    /// A symbolic link to a place that is not in the torrent.
    #[error("the link '{entry}' leads out of the torrent")]
    LinkLeavesTorrent {
        /// The link.
        entry: String,
    },
    /// `pieces` does not have 20 bytes for each piece.
    #[error("pieces: {bytes} bytes of hashes, {pieces} pieces need {}", u64::from(*pieces) * 20)]
    PieceHashes {
        /// Bytes there are.
        bytes: usize,
        /// Pieces the files make up.
        pieces: u32,
    },
    /// More of something than is ever needed.
    #[error("{what}: more than {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are possible.
        limit: u64,
    },
    /// The v1 and the v2 half of a hybrid describe different files.
    #[error("the v1 and v2 file lists differ at '{entry}': {problem}")]
    Inconsistent {
        /// The first entry that differs.
        entry: String,
        /// How.
        problem: &'static str,
    },
    /// Piece hashes of a v2 file that do not belong to it.
    #[error("piece layers: those of '{entry}' {problem}")]
    PieceLayer {
        /// The file.
        entry: String,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// Files and piece length make no torrent.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

impl MetainfoError {
    pub(crate) fn missing(key: impl Into<String>) -> Self {
        Self::Missing { key: key.into() }
    }

    pub(crate) fn wrong(key: impl Into<String>, expected: &'static str) -> Self {
        Self::WrongValue { key: key.into(), expected }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_what_and_where() {
        let cases: [(MetainfoError, &str); 13] = [
            (DecodeError::Overflow { offset: 7 }.into(), "not bencode: the number at offset 7 is too large"),
            (MetainfoError::missing("info"), "info: missing"),
            (MetainfoError::wrong("piece length", "an integer"), "piece length: expected an integer"),
            (
                MetainfoError::UnsafeName { entry: "a/..".into(), source: PathError::Dots },
                "unsafe name 'a/..': '.' and '..' are no names",
            ),
            (MetainfoError::DuplicateName { entry: "a".into() }, "two files are named 'a'"),
            (
                MetainfoError::FileAsDirectory { file: "a".into(), entry: "a/b".into() },
                "'a' is a file and also the directory of 'a/b'",
            ),
            (MetainfoError::LinkLeavesTorrent { entry: "a".into() }, "the link 'a' leads out of the torrent"),
            (
                MetainfoError::PieceHashes { bytes: 21, pieces: 2 },
                "pieces: 21 bytes of hashes, 2 pieces need 40",
            ),
            (MetainfoError::TooMany { what: "files", limit: 5 }, "files: more than 5"),
            (
                MetainfoError::Inconsistent { entry: "a".into(), problem: "another length" },
                "the v1 and v2 file lists differ at 'a': another length",
            ),
            (
                MetainfoError::PieceLayer { entry: "a".into(), problem: "do not hash to its root" },
                "piece layers: those of 'a' do not hash to its root",
            ),
            (GeometryError::ZeroPieceBytes.into(), "the piece size is zero"),
            (
                MetainfoError::Geometry(GeometryError::TooManyPieces { count: 1 }),
                "1 pieces, at most 4294967295 are possible",
            ),
        ];
        for (error, message) in cases {
            assert_eq!(error.to_string(), message);
        }
    }
}
