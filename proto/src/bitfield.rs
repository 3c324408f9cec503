//! A set of piece indices, in memory and as the wire carries it (BEP 3: high bit of the first byte is piece 0).
//!
//! Owns the conversion and the counting. Never grows: the length is the torrent's piece count, and an index outside it
//! reads as absent and is not settable.
//!
//! Invariant: `ones` is the number of set bits, and bits past `len` in the last word are zero, so whole words can be
//! combined without a mask.

/// A fixed-length set of bits with a running count.
#[derive(Clone, PartialEq, Eq)]
pub struct Bitfield {
    /// Bit `i` is bit `i % 64` (from the low end) of word `i / 64`.
    words: Box<[u64]>,
    len: u32,
    ones: u32,
}

/// Why a bitfield of a peer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BitfieldError {
    /// Not one byte for each eight pieces.
    #[error("a bitfield of {found} bytes, expected {expected}")]
    Length {
        /// Bytes for the torrent's piece count.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A bit is set behind the last piece (BEP 3 demands zeros).
    #[error("a bit is set behind the last of {len} pieces")]
    SpareBits {
        /// The torrent's piece count.
        len: u32,
    },
}

const WORD_BITS: u32 = 64;

impl Bitfield {
    /// A set of `len` bits, none of them set.
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; index(len.div_ceil(WORD_BITS))].into_boxed_slice(), len, ones: 0 }
    }

    /// A set of `len` bits, all of them set.
    pub fn full(len: u32) -> Self {
        let mut words = vec![u64::MAX; index(len.div_ceil(WORD_BITS))].into_boxed_slice();
        let tail = len % WORD_BITS;
        if tail != 0
            && let Some(last) = words.last_mut()
        {
            *last = (1 << tail) - 1;
        }
        Self { words, len, ones: len }
    }

    /// Reads the payload of a `bitfield` message for a torrent of `len` pieces.
    ///
    /// # Errors
    /// When the byte length is not exact or a spare bit is set; nothing is allocated before the length is right.
    pub fn from_wire(bytes: &[u8], len: u32) -> Result<Self, BitfieldError> {
        let expected = index(len.div_ceil(8));
        if bytes.len() != expected {
            return Err(BitfieldError::Length { expected, found: bytes.len() });
        }
        let mut words = Vec::with_capacity(index(len.div_ceil(WORD_BITS)));
        for eight in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(eight) {
                *to = from.reverse_bits();
            }
            words.push(u64::from_le_bytes(word));
        }
        let tail = len % WORD_BITS;
        if tail != 0 && words.last().is_some_and(|last| last >> tail != 0) {
            return Err(BitfieldError::SpareBits { len });
        }
        let ones = words.iter().map(|word| word.count_ones()).sum();
        Ok(Self { words: words.into_boxed_slice(), len, ones })
    }

    /// The payload of a `bitfield` message.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.words.iter().flat_map(|word| word.to_le_bytes()).map(u8::reverse_bits).collect();
        bytes.truncate(index(self.len.div_ceil(8)));
        bytes
    }

    /// Whether a bit is set; false outside the set.
    pub fn get(&self, bit: u32) -> bool {
        self.words.get(index(bit / WORD_BITS)).is_some_and(|word| word >> (bit % WORD_BITS) & 1 == 1)
    }

    /// Sets a bit; without effect outside the set. Returns whether it was clear before.
    pub fn set(&mut self, bit: u32) -> bool {
        if bit >= self.len {
            return false;
        }
        let Some(word) = self.words.get_mut(index(bit / WORD_BITS)) else { return false };
        let mask = 1 << (bit % WORD_BITS);
        let is_new = *word & mask == 0;
        *word |= mask;
        self.ones += u32::from(is_new);
        is_new
    }

    /// Clears a bit; without effect outside the set. Returns whether it was set before.
    pub fn clear(&mut self, bit: u32) -> bool {
        let Some(word) = self.words.get_mut(index(bit / WORD_BITS)) else { return false };
        let mask = 1 << (bit % WORD_BITS);
        let was_set = *word & mask != 0;
        *word &= !mask;
        self.ones -= u32::from(was_set);
        was_set
    }

    /// How many bits are set, in constant time.
    pub const fn count_ones(&self) -> u32 {
        self.ones
    }

    /// How many bits there are.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether there are no bits at all (not: whether none is set).
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all bits are set; true for a set of no bits.
    pub const fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// The set bits in rising order.
    pub fn iter_ones(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.words).flat_map(|(position, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.checked_sub(1)?;
                Some(position * WORD_BITS + bit)
            })
        })
    }

    /// The first clear bit at or behind `from`.
    pub fn first_zero_from(&self, from: u32) -> Option<u32> {
        let start = from / WORD_BITS;
        let mut below = (1_u64 << (from % WORD_BITS)) - 1;
        for (position, word) in (start..).zip(self.words.get(index(start)..)?) {
            let rest = word | std::mem::take(&mut below);
            if rest != u64::MAX {
                return Some(position * WORD_BITS + rest.trailing_ones()).filter(|&bit| bit < self.len);
            }
        }
        None
    }

    /// The words, low bit first; bits behind the end are zero. For set operations over two fields of one torrent.
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

impl std::fmt::Debug for Bitfield {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bitfield({} of {})", self.ones, self.len)
    }
}

/// A u32 as an index: usize has at least 32 bits on every platform this runs on.
const fn index(value: u32) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn from_model(model: &[bool]) -> Bitfield {
        let mut field = Bitfield::new(u32::try_from(model.len()).expect("a small model"));
        for (bit, _) in (0..).zip(model).filter(|(_, set)| **set) {
            assert!(field.set(bit));
        }
        field
    }

    #[test]
    fn piece_zero_is_the_high_bit_of_the_first_byte() {
        let mut field = Bitfield::new(10);
        field.set(0);
        field.set(9);
        assert_eq!(field.to_wire(), [0b1000_0000, 0b0100_0000]);
    }

    #[test]
    fn a_wrong_length_or_a_spare_bit_is_refused() {
        assert_eq!(Bitfield::from_wire(&[0], 9), Err(BitfieldError::Length { expected: 2, found: 1 }));
        assert_eq!(Bitfield::from_wire(&[0, 0, 0], 9), Err(BitfieldError::Length { expected: 2, found: 3 }));
        assert_eq!(Bitfield::from_wire(&[0, 0x40], 9), Err(BitfieldError::SpareBits { len: 9 }));
        assert!(Bitfield::from_wire(&[0, 0x80], 9).is_ok());
        assert!(Bitfield::from_wire(&[], 0).is_ok());
    }

    #[test]
    fn an_index_outside_is_absent_and_cannot_be_set() {
        let mut field = Bitfield::new(65);
        assert!(!field.set(65) && !field.set(127) && !field.set(u32::MAX));
        assert!(!field.get(65) && !field.get(u32::MAX) && !field.clear(u32::MAX));
        assert_eq!(field.first_zero_from(u32::MAX), None);
        assert_eq!(field.words(), [0, 0]);
    }

    #[test]
    fn a_field_of_no_bits_is_full_and_empty() {
        assert!(Bitfield::new(0).is_full() && Bitfield::full(0).is_empty());
        assert_eq!(Bitfield::new(0).first_zero_from(0), None);
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_vector_of_bools(
            mut model in prop::collection::vec(any::<bool>(), 0..300),
            flips in prop::collection::vec((0_usize..310, any::<bool>()), 0..40),
        ) {
            let mut field = from_model(&model);
            for (bit, value) in flips {
                let wire_bit = u32::try_from(bit).expect("small");
                let before = model.get(bit).copied();
                if value {
                    prop_assert_eq!(field.set(wire_bit), before == Some(false));
                } else {
                    prop_assert_eq!(field.clear(wire_bit), before == Some(true));
                }
                if let Some(slot) = model.get_mut(bit) {
                    *slot = value;
                }
            }
            let ones: Vec<u32> = (0..).zip(&model).filter(|(_, set)| **set).map(|(bit, _)| bit).collect();
            prop_assert_eq!(index(field.count_ones()), ones.len());
            prop_assert_eq!(field.is_full(), ones.len() == model.len());
            prop_assert_eq!(field.iter_ones().collect::<Vec<_>>(), ones);
            for from in 0..310_usize {
                let wire_from = u32::try_from(from).expect("small");
                let expected = (from..model.len()).find(|&bit| !model[bit]);
                prop_assert_eq!(field.first_zero_from(wire_from).map(index), expected);
                prop_assert_eq!(field.get(wire_from), model.get(from).copied().unwrap_or(false));
            }
            prop_assert_eq!(Bitfield::from_wire(&field.to_wire(), field.len()), Ok(field));
        }

        #[test]
        fn any_bytes_are_read_exactly_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20), len in 0_u32..170) {
            if let Ok(field) = Bitfield::from_wire(&bytes, len) {
                prop_assert_eq!(field.to_wire(), bytes);
            }
        }

        #[test]
        fn a_full_field_has_each_bit(len in 0_u32..300) {
            prop_assert_eq!(Bitfield::full(len), from_model(&vec![true; index(len)]));
        }
    }
}
