//! Torrents (BEP 3) written by hand: honest ones of any size in no time, and ones no honest program would write.

use std::{fs, io, path::Path};

use sha1::{Digest as _, Sha1};

use crate::{bencode::Value, ramp::Ramp};

/// A .torrent in memory.
#[derive(Clone, Debug)]
pub struct TorrentFile {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// The encoded `info` dictionary.
    pub info: Vec<u8>,
    /// SHA-1 of `info`.
    pub info_hash: [u8; 20],
    /// Nominal piece length, in bytes.
    pub piece_bytes: u32,
    /// Sum of all files, in bytes.
    pub total_bytes: u64,
}

impl TorrentFile {
    /// Wraps an `info` dictionary with the trackers of one tier each.
    ///
    /// # Panics
    /// When `info` has no `piece length`.
    #[must_use]
    pub fn from_info(info: &Value, total_bytes: u64, trackers: &[String]) -> Self {
        let piece_bytes = info.get("piece length").and_then(Value::as_int).expect("a piece length");
        let piece_bytes = u32::try_from(piece_bytes).expect("a piece length that fits");
        let mut entries = Vec::new();
        if let Some(first) = trackers.first() {
            entries.push((b"announce".to_vec(), Value::bytes(first)));
            let tiers = trackers.iter().map(|t| Value::List(vec![Value::bytes(t)])).collect();
            entries.push((b"announce-list".to_vec(), Value::List(tiers)));
        }
        entries.push((b"info".to_vec(), info.clone()));
        let encoded = info.encode();
        Self {
            bytes: Value::Dict(entries).encode(),
            info_hash: sha1(&encoded),
            info: encoded,
            piece_bytes,
            total_bytes,
        }
    }

    /// A single file of `total_bytes` whose piece hashes are `hashes`.
    #[must_use]
    pub fn single(
        name: &str,
        total_bytes: u64,
        piece_bytes: u32,
        hashes: &[u8],
        trackers: &[String],
    ) -> Self {
        let info = Value::dict([
            ("length", Value::Int(i64::try_from(total_bytes).expect("below 2^63"))),
            ("name", Value::bytes(name)),
            ("piece length", Value::Int(i64::from(piece_bytes))),
            ("pieces", Value::bytes(hashes)),
        ]);
        Self::from_info(&info, total_bytes, trackers)
    }

    /// A single file that holds the ramp from its start.
    #[must_use]
    pub fn ramp(name: &str, ramp: Ramp, total_bytes: u64, piece_bytes: u32, trackers: &[String]) -> Self {
        let mut hashes = Vec::new();
        let mut piece = vec![0; piece_bytes as usize];
        let mut at = 0;
        while at < total_bytes {
            let len = usize::try_from(total_bytes - at).unwrap_or(usize::MAX).min(piece.len());
            ramp.fill(at, &mut piece[..len]);
            hashes.extend_from_slice(&sha1(&piece[..len]));
            at += len as u64;
        }
        Self::single(name, total_bytes, piece_bytes, &hashes, trackers)
    }

    /// A single file of zeros: one hash is enough for all whole pieces, so 10 GiB take no time.
    #[must_use]
    pub fn zeros(name: &str, total_bytes: u64, piece_bytes: u32, trackers: &[String]) -> Self {
        let piece = vec![0; piece_bytes as usize];
        let whole = usize::try_from(total_bytes / u64::from(piece_bytes)).expect("pieces fit in memory");
        let rest = usize::try_from(total_bytes % u64::from(piece_bytes)).expect("shorter than a piece");
        let mut hashes = sha1(&piece).repeat(whole);
        if rest != 0 {
            hashes.extend_from_slice(&sha1(&piece[..rest]));
        }
        Self::single(name, total_bytes, piece_bytes, &hashes, trackers)
    }

    /// A directory torrent whose files, each given by raw path components and content, are laid end to end.
    /// Nothing is checked: names may be as hostile as they like.
    #[must_use]
    pub fn directory(name: &[u8], files: &[(Vec<&[u8]>, Vec<u8>)], piece_bytes: u32) -> Self {
        let content: Vec<u8> = files.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        let hashes: Vec<u8> = content.chunks(piece_bytes as usize).flat_map(sha1).collect();
        let entries = files
            .iter()
            .map(|(path, bytes)| {
                let path = path.iter().map(Value::bytes).collect();
                let length = i64::try_from(bytes.len()).expect("below 2^63");
                Value::dict([("length", Value::Int(length)), ("path", Value::List(path))])
            })
            .collect();
        let info = Value::dict([
            ("files", Value::List(entries)),
            ("name", Value::bytes(name)),
            ("piece length", Value::Int(i64::from(piece_bytes))),
            ("pieces", Value::bytes(hashes)),
        ]);
        Self::from_info(&info, content.len() as u64, &[])
    }

    /// Writes the .torrent.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, &self.bytes)
    }

    /// The info hash in lower-case hex.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        hex(&self.info_hash)
    }

    /// How many pieces it has.
    ///
    /// # Panics
    /// When there are more than 2^32.
    #[must_use]
    pub fn piece_count(&self) -> u32 {
        u32::try_from(self.total_bytes.div_ceil(u64::from(self.piece_bytes))).expect("fewer than 2^32 pieces")
    }
}

/// SHA-1 of some bytes.
#[must_use]
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torrent_of_zeros_equals_one_hashed_in_full() {
        let zeros = TorrentFile::zeros("z", 100_000, 32_768, &[]);
        let data = vec![0_u8; 100_000];
        let hashes: Vec<u8> = data.chunks(32_768).flat_map(sha1).collect();
        let plain = TorrentFile::single("z", 100_000, 32_768, &hashes, &[]);
        assert_eq!(zeros.info_hash, plain.info_hash);
        assert_eq!(zeros.piece_count(), 4);
    }

    #[test]
    fn the_hash_is_that_of_the_info_dictionary_in_the_file() {
        let torrent = TorrentFile::ramp("r", Ramp::new(1), 50_000, 16_384, &["http://t/announce".to_owned()]);
        let (value, len) = Value::decode_prefix(&torrent.bytes).expect("it is bencoded");
        assert_eq!(len, torrent.bytes.len());
        let info = value.get("info").expect("there is an info dictionary").encode();
        assert_eq!(sha1(&info), torrent.info_hash);
        assert_eq!(value.get("announce").and_then(Value::as_bytes), Some(&b"http://t/announce"[..]));
    }
}
