//! Inode numbers that are the same after a restart.
//!
//! A number is `tag << 32 | slot`: the tag is a hash of the torrent, the slot a hash of the path inside it. So a
//! number leads to its torrent without a table of all files of all torrents, and backup tools, NFS clients and the
//! kernel's own caches see the same file as the same file tomorrow. Tag 0 is kept for the mount's own entries (root,
//! control files), slots 0 and 1 of each tag for what stands in for a torrent before its metadata is there.
//!
//! The hash is written out here because std's hashers may change between compiler releases.

use std::fmt;

/// An inode number of a mount. Zero does not occur: the kernel reads it as "no entry".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeNo(u64);

impl InodeNo {
    /// The root directory; fixed by the kernel.
    pub const ROOT: Self = Self(1);

    /// `None` for zero.
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number itself.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of `slot` under `tag`.
    pub const fn of(tag: TreeTag, slot: u32) -> Self {
        Self(((tag.0 as u64) << 32) | slot as u64)
    }

    /// One of the mount's own entries; `number` must not be zero.
    pub(crate) const fn own(number: u32) -> Self {
        assert!(number != 0, "inode 0 does not exist");
        Self(number as u64)
    }

    /// The torrent this number belongs to; `None` for the mount's own entries.
    pub const fn tag(self) -> Option<TreeTag> {
        TreeTag::new((self.0 >> 32) as u32)
    }
}

impl fmt::Display for InodeNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for InodeNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InodeNo({:#x})", self.0)
    }
}

/// The upper half of all inode numbers of one torrent. Never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TreeTag(u32);

impl TreeTag {
    /// `None` for zero, which is the mount's own.
    pub const fn new(tag: u32) -> Option<Self> {
        if tag == 0 { None } else { Some(Self(tag)) }
    }

    /// The tag for a torrent named by `seed` (its info hash). `attempt` is 0, and 1, 2, ... when a tag is taken in
    /// this mount already.
    pub fn derive(seed: &[u8], attempt: u32) -> Self {
        let hash = PathHash::new(seed).finish(attempt);
        Self(((hash >> 32) as u32).max(1))
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// FNV-1a over the bytes, spread by the finaliser of splitmix64.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathHash(u64);

impl PathHash {
    pub(crate) fn new(seed: &[u8]) -> Self {
        Self(0xcbf2_9ce4_8422_2325).bytes(seed)
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    /// The state below a directory: `a/b` and `ab` differ because `/` occurs in no component.
    pub(crate) fn component(self, name: &[u8]) -> Self {
        self.bytes(b"/").bytes(name)
    }

    pub(crate) fn finish(self, attempt: u32) -> u64 {
        let mut z = self.0.wrapping_add(u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_leads_back_to_its_torrent() {
        let tag = TreeTag::derive(b"some info hash", 0);
        assert_eq!(InodeNo::of(tag, 77).tag(), Some(tag));
        assert_eq!(InodeNo::ROOT.tag(), None);
        assert_eq!(InodeNo::new(0), None);
    }

    #[test]
    fn the_hash_never_changes_between_releases() {
        // Computed elsewhere and written down: a change here changes every inode number of every user.
        let root = PathHash::new(&[7; 20]);
        assert_eq!(
            root.component(b"weights").component(b"model.safetensors").finish(0),
            0x19b4_6446_5de6_74a4
        );
        assert_eq!(root.finish(1), 0x4d09_a18e_b516_1f1e);
    }

    #[test]
    fn attempts_and_boundaries_give_other_numbers() {
        let root = PathHash::new(b"seed");
        assert_ne!(root.component(b"a").component(b"b").finish(0), root.component(b"ab").finish(0));
        assert_ne!(root.finish(0), root.finish(1));
        assert_ne!(TreeTag::derive(b"x", 0), TreeTag::derive(b"x", 1));
    }
}
