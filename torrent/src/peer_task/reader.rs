//! The reading half of a connection: frames messages out of the stream without copying payload.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use wtfs_proto::peer::conduct::{Conduct, Junk};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{Decoder, Message};

use super::{Block, CloseReason, PeerCommand, PeerContext, PeerEvent};
use crate::clock::Clock;
use crate::transport::Reader;

/// The largest single read: sixteen blocks. Larger ones gain nothing measurable and cost memory per peer.
pub(super) const MAX_READ: usize = 256 * 1024;
/// The read of an idle connection.
const MIN_READ: usize = 4 * 1024;

/// The largest message taken. Blocks are 16 KiB (13 bytes of header); a bitfield of four million pieces is 512 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;

/// A peer that says nothing for this long is gone: clients send a keep-alive every two minutes (BEP 3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// Messages that carry no block which a peer may send in one [`FLOOD_PERIOD`]. A `have` for each piece of a large
/// torrent fits; an endless stream of junk does not.
const FLOOD_LIMIT: u32 = 100_000;
const FLOOD_PERIOD: Duration = Duration::from_secs(10);

/// Reads until the connection ends; says why it did.
pub(super) async fn read_task(
    mut reader: Reader,
    context: PeerContext,
    writer: mpsc::Sender<PeerCommand>,
) -> CloseReason {
    let mut buffer = BytesMut::new();
    let mut want = MIN_READ;
    let decoder = Decoder { max_message_bytes: MAX_MESSAGE };
    let mut flood = Flood::new();
    loop {
        buffer.reserve(want);
        let read = match tokio::time::timeout(IDLE_TIMEOUT, reader.read_buf(&mut buffer)).await {
            Err(_) => return CloseReason::Idle(IDLE_TIMEOUT.as_secs()),
            Ok(Err(error)) => return error.into(),
            Ok(Ok(0)) => return CloseReason::Eof,
            Ok(Ok(read)) => read,
        };
        context.engine.download_limit.take(read as u64).await;
        if read >= want {
            want = (want * 4).min(MAX_READ);
        } else if read < want / 8 {
            want = (want / 2).max(MIN_READ);
        }
        if let Err(reason) = dispatch(&mut buffer, &decoder, want, &context, &writer, &mut flood).await {
            return reason;
        }
    }
}

/// Cuts the buffer into messages and sends each where it belongs.
async fn dispatch(
    buffer: &mut BytesMut,
    decoder: &Decoder,
    want: usize,
    context: &PeerContext,
    writer: &mpsc::Sender<PeerCommand>,
    flood: &mut Flood,
) -> Result<(), CloseReason> {
    let mut blocks = Vec::new();
    loop {
        let length = buffer.len();
        let Some(message) = decoder.decode(buffer)? else { break };
        match message {
            Message::Piece { piece, begin, data } => {
                blocks.push(Block { piece, begin, data });
                continue;
            }
            Message::KeepAlive | Message::Unknown { .. } => flood.junk(length - buffer.len())?,
            Message::Request(request) => {
                flood.count()?;
                serve(writer, PeerCommand::Serve(request)).await?;
            }
            Message::Cancel(request) => {
                flood.count()?;
                serve(writer, PeerCommand::Unserve(request)).await?;
            }
            other => {
                flood.count()?;
                // Order matters: a block that came before a choke or reject was still an answer to a request.
                send_blocks(&mut blocks, want, context).await?;
                send(context, PeerEvent::Message(other)).await?;
            }
        }
    }
    send_blocks(&mut blocks, want, context).await
}

/// Waits for the writer: a peer that asks and does not read is not read either, until that takes too long for the writer.
async fn serve(writer: &mpsc::Sender<PeerCommand>, command: PeerCommand) -> Result<(), CloseReason> {
    writer.send(command).await.map_err(|_| CloseReason::Shutdown)
}

async fn send_blocks(blocks: &mut Vec<Block>, want: usize, context: &PeerContext) -> Result<(), CloseReason> {
    if blocks.is_empty() {
        return Ok(());
    }
    let payload: usize = blocks.iter().map(|b| b.data.len()).sum();
    if payload * 4 < want {
        // A slice keeps the whole read buffer alive. A peer that wraps each block in junk would make us hold many
        // times what we count; then a copy is cheaper.
        for block in blocks.iter_mut() {
            block.data = Bytes::copy_from_slice(&block.data);
        }
    }
    send(context, PeerEvent::Blocks(std::mem::take(blocks))).await
}

async fn send(context: &PeerContext, event: PeerEvent) -> Result<(), CloseReason> {
    context.events.send((context.source, event)).await.map_err(|_| CloseReason::Shutdown)
}

/// Counts messages without payload, and those of them that nobody further on sees.
#[derive(Debug)]
struct Flood {
    count: u32,
    since: tokio::time::Instant,
    clock: Clock,
    conduct: Conduct,
}

impl Flood {
    fn new() -> Self {
        let (clock, conduct) = (Clock::start(), Conduct::new(Moment::ZERO));
        Self { count: 0, since: tokio::time::Instant::now(), clock, conduct }
    }

    /// A message that nobody has a use for.
    fn junk(&mut self, bytes: usize) -> Result<(), CloseReason> {
        Ok(self.conduct.handle_junk(Junk::Message { bytes }, 0, self.clock.now())?)
    }

    fn count(&mut self) -> Result<(), CloseReason> {
        self.count += 1;
        if self.count < FLOOD_LIMIT {
            return Ok(());
        }
        if self.since.elapsed() < FLOOD_PERIOD {
            return Err(CloseReason::Violation("sent an endless stream of small messages"));
        }
        (self.count, self.since) = (0, tokio::time::Instant::now());
        Ok(())
    }
}
