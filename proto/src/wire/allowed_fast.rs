//! The pieces that a choked peer may request all the same (BEP 6).
//!
//! Owns the choice of the set, which both ends can compute: it follows from the torrent and the peer's IPv4 network
//! alone, so a peer cannot get other pieces by connecting again. Sending them and honouring them is for the caller.
//!
//! Invariant: the set holds distinct pieces of the torrent, in the canonical order of BEP 6, and the work to find it
//! is bounded.

use std::net::Ipv4Addr;

use sha1::{Digest, Sha1};

use crate::id::InfoHash;

/// The number of pieces that clients commonly allow.
pub const DEFAULT_PIECES: usize = 10;

/// The hash is taken this often for each piece wanted, at most, and gives five candidates each time. Only a torrent with
/// hardly more pieces than are wanted can end with fewer, and a smaller set is as valid.
const HASHES_PER_PIECE: usize = 8;

/// The pieces to allow to a peer: `wanted` of them, fewer if the torrent has fewer.
pub fn allowed_fast(ip: Ipv4Addr, info_hash: InfoHash, piece_count: u32, wanted: usize) -> Vec<u32> {
    let wanted = wanted.min(usize::try_from(piece_count).unwrap_or(usize::MAX));
    let [a, b, c, _] = ip.octets();
    let mut seed = [&[a, b, c, 0], &info_hash.as_bytes()[..]].concat();
    let mut allowed = Vec::new();
    for _ in 0..wanted.saturating_mul(HASHES_PER_PIECE) {
        if allowed.len() >= wanted {
            break;
        }
        seed = Sha1::digest(&seed).to_vec();
        let (words, _) = seed.as_chunks::<4>();
        for piece in words.iter().map(|word| u32::from_be_bytes(*word) % piece_count) {
            if allowed.len() < wanted && !allowed.contains(&piece) {
                allowed.push(piece);
            }
        }
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_examples_of_bep_6_come_out() {
        let set =
            |wanted| allowed_fast(Ipv4Addr::new(80, 4, 4, 200), InfoHash::new([0xaa; 20]), 1313, wanted);
        assert_eq!(set(7), [1059, 431, 808, 1217, 287, 376, 1188]);
        assert_eq!(set(9), [1059, 431, 808, 1217, 287, 376, 1188, 353, 508]);
    }

    proptest! {
        #[test]
        fn the_pieces_are_distinct_and_exist(ip: Ipv4Addr, hash: [u8; 20], count in 0_u32..2000, wanted in 0_usize..20) {
            let mut set = allowed_fast(ip, InfoHash::new(hash), count, wanted);
            prop_assert!(set.len() <= wanted && set.iter().all(|&piece| piece < count));
            let len = set.len();
            prop_assert!(len == wanted || count < 100);
            set.sort_unstable();
            set.dedup();
            prop_assert_eq!(set.len(), len);
        }
    }
}
