//! A WebSocket tracker in the same process: what a hub is to its own engine.
//!
//! Announced to like any other, but reached without a network: nothing between the two can be listening elsewhere, ask
//! for a certificate, or take one for a stranger.

use std::sync::Arc;

use tokio::sync::mpsc;

/// Messages that may wait in one direction; whoever sends more waits, or gives the line up.
pub const LOCAL_QUEUE: usize = 64;

/// The engine's end of a line to a tracker in the same process: texts as they stand in the frames of a web socket.
/// Dropping either half hangs up.
#[derive(Debug)]
pub struct LocalLine {
    /// What the engine says.
    pub to_tracker: mpsc::Sender<String>,
    /// What the tracker says.
    pub from_tracker: mpsc::Receiver<String>,
}

impl LocalLine {
    /// A new line: the engine's end, and for the tracker what it hears and where it speaks.
    pub fn new() -> (Self, mpsc::Receiver<String>, mpsc::Sender<String>) {
        let (to_tracker, heard) = mpsc::channel(LOCAL_QUEUE);
        let (says, from_tracker) = mpsc::channel(LOCAL_QUEUE);
        (Self { to_tracker, from_tracker }, heard, says)
    }
}

/// A tracker in the same process. Must not block.
pub trait LocalTracker: std::fmt::Debug + Send + Sync {
    /// A new line to it. It is closed at once if the tracker takes no more.
    fn connect(&self) -> LocalLine;
}

/// Where a tracker in the same process is, and the tracker.
#[derive(Debug, Clone)]
pub struct OwnTracker {
    /// Stands for it in lists of trackers: `ws://..` or `wss://..`.
    pub url: String,
    /// Itself.
    pub tracker: Arc<dyn LocalTracker>,
}
