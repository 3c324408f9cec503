//! Keyed hashing of ids, and walks over a range in an order of chance.
//!
//! Owns no state. The hash is not cryptographic: it has to keep a stranger who chooses ids, and never sees a hash, from
//! filling one bucket, no more.
//!
//! Invariant: a walk visits every number of its range once.

/// The key of a table's hashes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secret([u64; 2]);

impl Secret {
    /// A key of the caller's randomness.
    pub(crate) const fn new(random: [u64; 2]) -> Self {
        Self(random)
    }

    /// The hash of 20 bytes in the context of a number.
    pub(super) fn of(&self, context: u32, bytes: &[u8; 20]) -> u32 {
        let (first, rest) = (u64_of(&bytes[..8]), &bytes[8..]);
        let (second, third) = (u64_of(&rest[..8]), u64_of(&rest[4..]));
        let mixed = fold(first ^ self.0[0], second ^ self.0[1]);
        let mixed =
            fold(mixed ^ third, u64::from(context) ^ self.0[0].rotate_left(32) ^ 0x9E37_79B9_7F4A_7C15);
        (mixed ^ mixed >> 32) as u32
    }

    /// A number below `of` by which an id is assigned, independent of the hash in the tables.
    pub(crate) fn part(&self, bytes: &[u8; 20], of: usize) -> usize {
        let hash = self.of(u32::MAX, bytes);
        (hash as usize).checked_rem(of).unwrap_or(0)
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Both halves of the long product: every input bit reaches every output bit.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// All numbers below `total`, from a chosen start in chosen strides. Each number is equally likely at each place.
pub(super) fn walk(total: u32, random: u64) -> impl Iterator<Item = u32> {
    let total = u64::from(total).max(1);
    let start = (random >> 32) % total;
    // A stride without a factor in common with the total reaches every number. 1 is one, so this ends.
    let mut stride = 1 + (random & 0xFFFF_FFFF) % total;
    while gcd(stride, total) != 1 {
        stride = stride % total + 1;
    }
    // Below 2^64: both are below 2^32.
    (0..total).map(move |step| ((start + step * stride) % total) as u32)
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_walk_visits_every_number_once(total in 1_u32..500, random: u64) {
            let mut visited: Vec<u32> = walk(total, random).collect();
            visited.sort_unstable();
            prop_assert_eq!(visited, (0..total).collect::<Vec<_>>());
        }
    }

    #[test]
    fn hashes_differ_by_key_context_and_every_byte() {
        let secret = Secret::new([0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210]);
        let base = secret.of(1, &[7; 20]);
        assert_ne!(base, secret.of(2, &[7; 20]));
        assert_ne!(base, Secret::new([1, 0xFEDC_BA98_7654_3210]).of(1, &[7; 20]));
        for at in 0..20 {
            let mut bytes = [7; 20];
            bytes[at] ^= 1;
            assert_ne!(base, secret.of(1, &bytes), "byte {at}");
        }
    }

    #[test]
    fn consecutive_ids_spread_evenly() {
        let secret = Secret::new([0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210]);
        let mut buckets = [0_u32; 16];
        for number in 0_u32..16_000 {
            let mut id = [0; 20];
            id[16..].copy_from_slice(&number.to_be_bytes());
            buckets[secret.part(&id, 16)] += 1;
        }
        assert!(buckets.iter().all(|count| (800..1200).contains(count)), "{buckets:?}");
    }
}
