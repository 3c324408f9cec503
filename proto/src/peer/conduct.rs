//! How much of what is legal and of no use a peer may send: messages that say what is known, answers to nothing, and
//! payload that nobody asked for.
//!
//! A bucket fills with what each of these costs us, and empties with time and with what is of use. Overflowing ends the
//! connection. Pure: told the time. Invariant: the level never passes what is allowed by more than one message.
//!
//! The bounds are far from what clients do. A client's chatter is a message or two a second, one for each piece it gets
//! (which is news, and free), and a list of peers a minute. What looks like junk and is not: blocks that crossed a cancel,
//! at most as many as were asked for; a client that says by `have` what its bitfield said, once for each piece; rejects of
//! requests withdrawn meanwhile; requests that crossed a choke, some hundreds each time.

use crate::time::Moment;

/// What is put up with at once, besides a message for each piece.
const ALLOWANCE: u64 = 20_000;

/// What is forgiven in a second: so much costs us a thousandth of a core and 128 KB.
const FORGIVEN_PER_SECOND: u64 = 500;

/// What a block of use makes up for.
const FORGIVEN_PER_BLOCK: u64 = 4;

/// Parts that the cost of a message is counted in.
const UNITS: u64 = 8;

/// Bytes that cost as much as a message.
const BYTES_PER_MESSAGE: u64 = 256;

/// What of no use a peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Junk {
    /// A message that says nothing new, or that we have no use for, of this many bytes.
    Message {
        /// Of its payload.
        bytes: usize,
    },
    /// It gave a piece up: news, but such as can go back and forth for ever. A small cache that is read through does so
    /// as fast as it gets pieces.
    Change,
    /// It made us look anew at whom to ask or to serve: choke, unchoke, interested or not, peers to connect to. Clients do
    /// so every ten seconds at most.
    Turn,
    /// It said anew which pieces it has, all of them at once.
    Pieces {
        /// Pieces of the torrent, all of which are looked at.
        count: u32,
    },
    /// It made us answer something of this many bytes, outside of what it may ask for.
    Answer {
        /// Of the answer.
        bytes: usize,
    },
}

impl Junk {
    /// In parts of what a message costs that is only read and thrown away.
    fn cost(self) -> u64 {
        match self {
            Self::Change => 1,
            Self::Message { bytes } | Self::Answer { bytes } => {
                UNITS * (1 + bytes as u64 / BYTES_PER_MESSAGE)
            }
            Self::Turn => UNITS * 50,
            Self::Pieces { count } => UNITS * (100 + u64::from(count) / 64),
        }
    }
}

/// There was too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sends too much that is of no use")]
pub struct TooMuch;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Conduct {
    level: u64,
    at: Moment,
}

impl Conduct {
    /// Nothing so far.
    pub fn new(now: Moment) -> Self {
        Self { level: 0, at: now }
    }

    /// Something of no use came, of a torrent of so many pieces (0 while their number is unknown).
    ///
    /// # Errors
    /// When it is one too many.
    pub fn handle_junk(&mut self, junk: Junk, pieces: u32, now: Moment) -> Result<(), TooMuch> {
        // What is too little to count stays until it is more.
        let passed = u64::try_from(now.saturating_sub(self.at).as_millis()).unwrap_or(u64::MAX);
        let forgiven = passed.saturating_mul(FORGIVEN_PER_SECOND) / 1000;
        self.level = self.level.saturating_sub(forgiven.saturating_mul(UNITS));
        self.at += Moment::from_millis(forgiven.saturating_mul(1000) / FORGIVEN_PER_SECOND);
        self.level = self.level.saturating_add(junk.cost());
        if self.level > (ALLOWANCE + u64::from(pieces)) * UNITS { Err(TooMuch) } else { Ok(()) }
    }

    /// Blocks came that were asked for, or went.
    pub fn handle_blocks(&mut self, count: u64) {
        self.level = self.level.saturating_sub(count.saturating_mul(FORGIVEN_PER_BLOCK * UNITS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: Junk = Junk::Message { bytes: 0 };

    /// How many of `junk` are taken when `per_second` come for as long as `seconds`.
    fn taken(junk: Junk, pieces: u32, per_second: u64, seconds: u64) -> Option<u64> {
        let mut conduct = Conduct::new(Moment::ZERO);
        (0..per_second * seconds).find(|number| {
            let now = Moment::from_micros(number * 1_000_000 / per_second);
            conduct.handle_junk(junk, pieces, now).is_err()
        })
    }

    #[test]
    fn a_flood_ends_soon_and_a_trickle_never_does() {
        assert_eq!(taken(MESSAGE, 0, 10_000_000, 1), Some(ALLOWANCE + 1));
        assert!(taken(MESSAGE, 0, 1000, 60).is_some_and(|messages| messages < 50_000));
        assert_eq!(taken(MESSAGE, 0, 400, 3600), None);
        assert_eq!(taken(Junk::Turn, 0, 5, 3600), None);
        assert!(taken(Junk::Turn, 0, 100, 60).is_some());
    }

    #[test]
    fn long_messages_cost_more() {
        let junk = Junk::Message { bytes: 64 << 10 };
        let messages = taken(junk, 0, 1_000_000, 1).expect("it ends");
        assert!((50..100).contains(&messages), "{messages}");
    }

    #[test]
    fn whoever_repeats_its_bitfield_by_haves_stays() {
        assert_eq!(taken(MESSAGE, 1_000_000, 1_000_000, 1), None);
        assert!(taken(MESSAGE, 1_000_000, 1_000_000, 2).is_some());
    }

    #[test]
    fn a_large_torrents_pieces_said_anew_cost_what_they_make_us_do() {
        assert!(taken(Junk::Pieces { count: 1 << 20 }, 0, 1000, 1).is_some_and(|times| times < 3));
        assert_eq!(taken(Junk::Pieces { count: 1000 }, 1000, 1, 3600), None);
    }

    #[test]
    fn what_is_of_use_makes_up_for_what_is_not() {
        let mut conduct = Conduct::new(Moment::ZERO);
        for _ in 0..1_000_000 {
            conduct.handle_blocks(1);
            for _ in 0..FORGIVEN_PER_BLOCK {
                conduct.handle_junk(MESSAGE, 0, Moment::ZERO).expect("it serves us");
            }
        }
    }

    #[test]
    fn blocks_that_crossed_their_cancel_are_no_abuse() {
        // As many as may be asked for at once, each of them twice.
        let block = Junk::Message { bytes: 16 << 10 };
        let mut conduct = Conduct::new(Moment::ZERO);
        for _ in 0..256 {
            conduct.handle_junk(block, 0, Moment::ZERO).expect("races happen");
        }
        // A day of it, at one a second.
        for second in 0..86_400 {
            conduct.handle_junk(block, 0, Moment::from_secs(second)).expect("races happen");
        }
    }
}
