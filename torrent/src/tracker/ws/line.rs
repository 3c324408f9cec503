//! The way to a WebSocket tracker: texts in both directions, over a web socket or within the process.
//!
//! Owns how a text is framed and how big one may be; what it says is nobody's concern here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_util::sync::PollSender;

use super::Place;
use crate::http::HttpClient;
use crate::http::upgrade::WebSocket;
use crate::tracker::AnnounceError;
use crate::tracker::local::LocalLine;

/// The longest message taken. An offer has one to three thousand bytes, sixteen thousand at most.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Bytes read from a socket at once.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Bytes that may wait to be written besides the message that is.
const MAX_WRITE_BUFFER_BYTES: usize = 256 << 10;
/// How long DNS, TCP, TLS and the handshake may take together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// An open way to a tracker. Reads and writes at once: a tracker may stop reading until we have read what it says.
pub(super) struct Line {
    wire: Wire,
    /// Something was given to the socket and may not be on its way.
    is_unflushed: bool,
}

enum Wire {
    Socket { socket: Box<WebSocket>, place: Place },
    Local { to: PollSender<String>, from: mpsc::Receiver<String> },
}

/// What is said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Text(String),
    /// Asks for a sign of life.
    Ping,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Text(String),
    /// Nothing that has to be answered by us; the tracker is alive.
    Sign,
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Heard(Heard),
    /// All that waited to be said is on its way.
    Written,
}

/// Whether a turn may take what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hearing {
    On,
    Off,
}

impl Line {
    /// Opens a web socket.
    pub(super) async fn open(http: &HttpClient, url: &str) -> Result<Self, AnnounceError> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES))
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE_BUFFER_BYTES);
        let opened = http.web_socket(url, config, OPEN_TIMEOUT).await?;
        let place = if opened.is_public { Place::Far } else { Place::Near };
        let wire = Wire::Socket { socket: Box::new(opened.socket), place };
        Ok(Self { wire, is_unflushed: false })
    }

    /// A line within the process.
    pub(super) fn local(line: LocalLine) -> Self {
        let wire = Wire::Local { to: PollSender::new(line.to_tracker), from: line.from_tracker };
        Self { wire, is_unflushed: false }
    }

    /// Where the tracker is, as far as it matters to peers found there.
    pub(super) fn place(&self) -> Place {
        match self.wire {
            Wire::Socket { place, .. } => place,
            Wire::Local { .. } => Place::Near,
        }
    }

    /// Whether it is worth asking whether the other end is still there.
    pub(super) fn can_die_silently(&self) -> bool {
        matches!(self.wire, Wire::Socket { .. })
    }

    /// Says what waits, until something is heard or all is said. The error says how the line broke.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn turn(
        &mut self,
        outbox: &mut VecDeque<Said>,
        hearing: Hearing,
    ) -> Result<Turn, String> {
        poll_fn(|context| {
            if hearing == Hearing::On
                && let Poll::Ready(heard) = self.poll_hear(context)
            {
                return Poll::Ready(heard.map(Turn::Heard));
            }
            self.poll_say(context, outbox).map_ok(|()| Turn::Written)
        })
        .await
    }

    fn poll_say(
        &mut self,
        context: &mut Context<'_>,
        outbox: &mut VecDeque<Said>,
    ) -> Poll<Result<(), String>> {
        while !outbox.is_empty() {
            match &mut self.wire {
                Wire::Socket { socket, .. } => {
                    ready!(socket.poll_ready_unpin(context)).map_err(|error| error.to_string())?;
                    let message = match outbox.pop_front() {
                        Some(Said::Text(text)) => Message::Text(text.into()),
                        Some(Said::Ping) => Message::Ping(bytes::Bytes::new()),
                        None => break,
                    };
                    socket.start_send_unpin(message).map_err(|error| error.to_string())?;
                }
                Wire::Local { to, .. } => {
                    ready!(to.poll_reserve(context)).map_err(|_| CLOSED.to_owned())?;
                    if let Some(Said::Text(text)) = outbox.pop_front() {
                        to.send_item(text).map_err(|_| CLOSED.to_owned())?;
                    }
                }
            }
            self.is_unflushed = true;
        }
        if !self.is_unflushed {
            return Poll::Pending;
        }
        if let Wire::Socket { socket, .. } = &mut self.wire {
            ready!(socket.poll_flush_unpin(context)).map_err(|error| error.to_string())?;
        }
        self.is_unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_hear(&mut self, context: &mut Context<'_>) -> Poll<Result<Heard, String>> {
        let socket = match &mut self.wire {
            Wire::Socket { socket, .. } => socket,
            Wire::Local { from, .. } => {
                let heard = ready!(from.poll_recv(context)).map(Heard::Text);
                return Poll::Ready(heard.ok_or_else(|| CLOSED.to_owned()));
            }
        };
        Poll::Ready(match ready!(socket.poll_next_unpin(context)) {
            Some(Ok(Message::Text(text))) => Ok(Heard::Text(text.as_str().to_owned())),
            // Some trackers send their JSON as bytes.
            Some(Ok(Message::Binary(bytes))) => Ok(Heard::Text(String::from_utf8_lossy(&bytes).into_owned())),
            Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                Err(format!("it says {:?}", frame.reason.as_str()))
            }
            Some(Ok(Message::Close(_))) | None => Err(CLOSED.to_owned()),
            Some(Ok(_)) => Ok(Heard::Sign),
            Some(Err(error)) => Err(error.to_string()),
        })
    }
}

const CLOSED: &str = "it was closed";
