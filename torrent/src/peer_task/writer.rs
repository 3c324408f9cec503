//! The writing half of a connection: our messages, keep-alives, and the blocks the peer asked for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use wtfs_proto::geometry::BLOCK_BYTES;
use wtfs_proto::peer::conduct::{Conduct, Junk};
use wtfs_proto::time::Moment;
use wtfs_proto::wire::message::{BlockRequest, Message, encode_piece_header};

use super::{CloseReason, HasFast, PeerCommand, PeerContext, PeerEvent};
use crate::clock::Clock;
use crate::torrent::Content;
use crate::transport::Writer;

/// Requests of one peer kept waiting; what we announce as `reqq` (BEP 10).
pub(crate) const UPLOAD_QUEUE: u32 = 500;

/// Bytes read from the store and written to the socket in one go.
const UPLOAD_BATCH: usize = 256 * 1024;

/// Peers close a connection on which nothing comes for two minutes (BEP 3).
const KEEP_ALIVE: Duration = Duration::from_secs(100);

/// A peer that takes nothing for this long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes until the connection ends; says why it did.
pub(super) async fn write_task(
    writer: Writer,
    context: PeerContext,
    mut inbox: mpsc::Receiver<PeerCommand>,
) -> CloseReason {
    let mut out = Out {
        writer,
        buffer: BytesMut::new(),
        uploads: VecDeque::new(),
        is_choking: true,
        allowed_fast: Vec::new(),
        clock: Clock::start(),
        conduct: Conduct::new(Moment::ZERO),
        context,
    };
    loop {
        match out.turn(&mut inbox).await {
            Ok(()) => {}
            Err(reason) => return reason,
        }
    }
}

struct Out {
    writer: Writer,
    buffer: BytesMut,
    uploads: VecDeque<BlockRequest>,
    is_choking: bool,
    /// Pieces the peer was told it may ask for while it is choked (BEP 6).
    allowed_fast: Vec<u32>,
    clock: Clock,
    conduct: Conduct,
    context: PeerContext,
}

impl Out {
    /// Takes what is in the inbox, writes it, then serves a batch of uploads.
    async fn turn(&mut self, inbox: &mut mpsc::Receiver<PeerCommand>) -> Result<(), CloseReason> {
        if self.uploads.is_empty() {
            match tokio::time::timeout(KEEP_ALIVE, inbox.recv()).await {
                Ok(Some(command)) => self.apply(command)?,
                Ok(None) => return Err(CloseReason::Shutdown),
                Err(_) => Message::KeepAlive.encode(&mut self.buffer),
            }
        }
        while let Ok(command) = inbox.try_recv() {
            self.apply(command)?;
        }
        self.flush().await?;
        self.serve_batch().await
    }

    fn apply(&mut self, command: PeerCommand) -> Result<(), CloseReason> {
        match command {
            PeerCommand::Messages(messages) => {
                for message in &messages {
                    if let Message::AllowedFast(piece) = message {
                        self.allowed_fast.push(*piece);
                    }
                    message.encode(&mut self.buffer);
                }
            }
            // Only web seeds are asked so, and they have no writer.
            PeerCommand::Fetch(_) => {}
            PeerCommand::Choke => {
                self.is_choking = true;
                Message::Choke.encode(&mut self.buffer);
                let queued = std::mem::take(&mut self.uploads);
                for request in queued {
                    if self.allowed_fast.contains(&request.piece) {
                        self.uploads.push_back(request);
                    } else {
                        self.refuse(request);
                    }
                }
            }
            PeerCommand::Unchoke => {
                self.is_choking = false;
                Message::Unchoke.encode(&mut self.buffer);
            }
            PeerCommand::Serve(request) => self.queue(request)?,
            PeerCommand::Unserve(request) => {
                if let Some(at) = self.uploads.iter().position(|r| *r == request) {
                    self.uploads.remove(at);
                    // BEP 6: a cancelled request is answered too.
                    self.refuse(request);
                } else {
                    self.junk()?;
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, request: BlockRequest) -> Result<(), CloseReason> {
        let Some(content) = self.context.shared.content() else {
            self.refuse(request);
            return self.junk();
        };
        let piece = content
            .geometry()
            .check_request(request.piece, request.begin, request.length)
            .map_err(|_| CloseReason::Violation("asked for bytes outside the torrent"))?;
        let is_allowed = !self.is_choking || self.allowed_fast.contains(&piece.get());
        let is_present = content.present.get(piece.get());
        if !is_present {
            self.context.shared.counters.absent_requests.add(1);
        }
        let is_servable = is_allowed && is_present;
        if is_servable && self.uploads.len() < UPLOAD_QUEUE as usize {
            self.uploads.push_back(request);
            Ok(())
        } else {
            self.refuse(request);
            self.junk()
        }
    }

    /// A request or cancel came that leads to nothing.
    fn junk(&mut self) -> Result<(), CloseReason> {
        let pieces = self.context.shared.content().map_or(0, |content| content.geometry().piece_count());
        Ok(self.conduct.handle_junk(Junk::Answer { bytes: 0 }, pieces, self.clock.now())?)
    }

    fn refuse(&mut self, request: BlockRequest) {
        if self.context.has_fast == HasFast::Yes {
            Message::Reject(request).encode(&mut self.buffer);
        }
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let writing = self.writer.write_all(&self.buffer);
        tokio::time::timeout(WRITE_TIMEOUT, writing).await.map_err(|_| CloseReason::TooSlow)??;
        self.buffer.clear();
        Ok(())
    }

    async fn serve_batch(&mut self) -> Result<(), CloseReason> {
        let mut batch = Vec::new();
        let mut bytes = 0_usize;
        while let Some(request) = self.uploads.front() {
            let len = request.length as usize;
            if !batch.is_empty() && bytes + len > UPLOAD_BATCH {
                break;
            }
            bytes += len;
            batch.push(*request);
            self.uploads.pop_front();
        }
        if batch.is_empty() {
            return Ok(());
        }
        let Some(content) = self.context.shared.content().cloned() else { return Ok(()) };
        self.context.engine.upload_limit.take(bytes as u64).await;
        let mut buffer = std::mem::take(&mut self.buffer);
        let requests = batch.clone();
        let read = self.context.engine.disk.run(move || {
            let outcome = read_blocks(&content, &requests, &mut buffer);
            (outcome, buffer)
        });
        let (outcome, buffer) = read.await.map_err(|_| CloseReason::Shutdown)?;
        self.buffer = buffer;
        let mut sent = 0;
        for (request, is_read) in batch.into_iter().zip(outcome) {
            if is_read {
                sent += u64::from(request.length);
            } else {
                self.refuse(request);
            }
        }
        self.flush().await?;
        self.conduct.handle_blocks(sent / u64::from(BLOCK_BYTES));
        let counters = &self.context.shared.counters;
        counters.uploaded.add(sent);
        let event = PeerEvent::Uploaded(sent);
        self.context.events.send((self.context.source, event)).await.map_err(|_| CloseReason::Shutdown)
    }
}

/// Appends a piece message for each request that could be read; says which could.
fn read_blocks(content: &Arc<Content>, requests: &[BlockRequest], out: &mut BytesMut) -> Vec<bool> {
    let mut read = |request: &BlockRequest| {
        let Some(piece) = content.geometry().piece(request.piece) else { return false };
        let _in_use = content.use_pieces(request.piece..request.piece + 1);
        if !content.present.get(request.piece) {
            // Evicted while the request waited.
            return false;
        }
        let start = out.len();
        encode_piece_header(request.piece, request.begin, request.length, out);
        let body = out.len();
        out.resize(body + request.length as usize, 0);
        let range = request.begin..request.begin + request.length;
        match content.store.read_piece(piece, range, &mut out[body..]) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(piece = request.piece, %error, "a present piece could not be read");
                out.truncate(start);
                false
            }
        }
    };
    requests.iter().map(&mut read).collect()
}
