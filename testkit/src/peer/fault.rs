//! The things a scripted peer can do wrong, one at a time.

/// What the peer does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: an honest seeder.
    None,
    /// Flips a byte in every `every`-th block it sends (1: in all of them).
    WrongBytes {
        /// 1 or more.
        every: u64,
    },
    /// Blocks of a wrong length.
    WrongLength(LengthFault),
    /// Right after the handshake, and with every answer, blocks nobody asked for.
    UnaskedBlocks,
    /// Answers a request with the right bytes, labelled as a piece that does not exist.
    PieceOutOfRange,
    /// A message whose length prefix says 2^31 - 1 bytes, and then bytes without end.
    HugeMessage,
    /// Without end, and without ever answering a request.
    Endless(Stream),
    /// A bitfield that does not fit the torrent.
    Bitfield(BitfieldFault),
    /// Random bytes in place of a handshake.
    GarbageHandshake,
    /// A handshake for another torrent.
    WrongInfoHash,
    /// After this many blocks, no more answers on any connection.
    StallAfter(u64),
    /// After this many blocks, every connection is closed.
    CloseAfter(u64),
    /// Asks the client for things it must not be asked.
    Requests(RequestFault),
    /// Wrong metadata (BEP 9).
    Metadata(MetadataFault),
    /// An extension handshake (BEP 10) of lists in lists in lists.
    DeepExtensionHandshake,
    /// Asks the client for every block, correctly, and checks what comes.
    Leech,
}

/// How the length of a block is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthFault {
    /// One byte too few.
    Short,
    /// One byte too many.
    Long,
    /// No bytes at all.
    Empty,
    /// A `piece` message too short for its own header.
    Headless,
}

/// What comes without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Keep-alives: four zero bytes each.
    KeepAlives,
    /// Messages of an unknown kind, 64 bytes each.
    Unknown,
    /// `have` of piece 0, again and again.
    Haves,
    /// Extension handshakes, again and again.
    ExtensionHandshakes,
}

/// How a bitfield is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitfieldFault {
    /// A byte too few.
    Short,
    /// A byte too many.
    Long,
    /// Half a mebibyte too many.
    Enormous,
    /// Set bits after the last piece.
    SpareBits,
}

/// What the peer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// Blocks beyond the end of the last piece.
    BeyondEnd,
    /// Pieces that do not exist.
    NoSuchPiece,
    /// 2^31 bytes at once.
    HugeLength,
    /// Nothing: a length of zero.
    ZeroLength,
    /// The same block a hundred thousand times, without reading what comes.
    Flood,
}

/// How the metadata is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataFault {
    /// The extension handshake says that it has 2^40 bytes.
    EnormousSize,
    /// The extension handshake says one byte too few.
    ShortSize,
    /// The size is right, the bytes are not.
    WrongBytes,
    /// Requests are never answered.
    Silence,
}
