//! The answering side: this process's socket.
//!
//! Asking is bounded in length and time, so a stuck asker costs nothing. Orders may take as long as they need; they are
//! bounded in number, and one whose asker has gone is dropped, unless it has begun something that must be finished.

use std::fmt;
use std::fs;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{PATIENCE, REQUEST_BYTES_MAX, Reply, Request, Who, make_private};
use crate::exit::{exit_of, sentence_of};

/// Askers read from at once; further ones wait in the socket's own queue.
const ASKERS_MAX: usize = 8;
/// Orders under way at once.
const ORDERS_MAX: usize = 64;
/// Lines of progress that may wait for a slow asker; the next ones are left out.
const PROGRESS_QUEUE: usize = 4;

/// Where an order that is under way says how far it is.
pub(crate) type Tell = mpsc::Sender<Value>;

/// An order being carried out.
pub(crate) type Carried = Pin<Box<dyn Future<Output = anyhow::Result<Value>> + Send>>;

/// What a process answers with.
pub(crate) trait Answers: fmt::Debug + Send + Sync + 'static {
    /// What it does now, as JSON. Never waits.
    fn status(&self) -> serde_json::Result<Box<RawValue>>;

    fn who(&self) -> Who;

    /// Carries out anything else. Dropped when the asker goes.
    fn carry_out(&self, order: Request, tell: Tell) -> Carried;
}

/// Answers askers until it is dropped, which removes the socket too.
#[derive(Debug)]
pub(crate) struct Control {
    pub(super) path: PathBuf,
    _stop: DropGuard,
}

impl Control {
    /// Opens this process's socket in `dir` and answers on it. Must run on a tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be made or is not ours alone; the socket cannot be bound.
    pub(crate) fn open(dir: &Path, answers: Arc<dyn Answers>) -> io::Result<Self> {
        make_private(dir)?;
        let path = dir.join(format!("{}.sock", std::process::id()));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // A process that had this id before us left it.
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept_task(listener, answers)));
        Ok(Self { path, _stop: stop.drop_guard() })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn accept_task(listener: UnixListener, answers: Arc<dyn Answers>) {
    let seats = Arc::new(Semaphore::new(ASKERS_MAX));
    let orders = Arc::new(Semaphore::new(ORDERS_MAX));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((asker, _)) => {
                let (answers, orders) = (Arc::clone(&answers), Arc::clone(&orders));
                tokio::spawn(async move {
                    if let Err(error) = answer(asker, answers, seat, orders).await {
                        tracing::debug!(%error, "a control request was not answered");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                // Out of file descriptors: asking again at once would spin.
                tokio::time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn answer(
    asker: UnixStream,
    answers: Arc<dyn Answers>,
    seat: OwnedSemaphorePermit,
    orders: Arc<Semaphore>,
) -> io::Result<()> {
    let (input, mut output) = asker.into_split();
    let mut input = BufReader::new(input.take(REQUEST_BYTES_MAX));
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, input.read_line(&mut line)).await??;
    let order = match serde_json::from_str(&line) {
        Ok(Request::Status) => {
            let status = answers.status().map_err(io::Error::other)?;
            return say(&mut output, &Reply::Status(status)).await;
        }
        Ok(Request::Who) => return say(&mut output, &Reply::Done(answers.who())).await,
        Ok(order) => order,
        Err(error) => return say(&mut output, &error_reply(format!("not a request: {error}"))).await,
    };
    drop(seat);
    let Ok(_order) = orders.try_acquire() else {
        return say(&mut output, &error_reply("too many orders are under way; try again".into())).await;
    };
    let (tell, mut told) = mpsc::channel(PROGRESS_QUEUE);
    let mut work = pin!(answers.carry_out(order, tell));
    let mut more = [0];
    loop {
        tokio::select! {
            outcome = &mut work => {
                while let Ok(progress) = told.try_recv() {
                    say(&mut output, &Reply::Progress(progress)).await?;
                }
                let reply = match outcome {
                    Ok(done) => Reply::Done(done),
                    Err(error) => {
                        Reply::Failed { exit: exit_of(&error) as i32, sentence: sentence_of(&error) }
                    }
                };
                return say(&mut output, &reply).await;
            }
            Some(progress) = told.recv() => say(&mut output, &Reply::Progress(progress)).await?,
            // Nothing more is to come: this is the asker's end.
            _gone = input.read(&mut more) => return Ok(()),
        }
    }
}

fn error_reply(sentence: String) -> Reply<Value> {
    Reply::Error(sentence)
}

async fn say<T: Serialize>(output: &mut OwnedWriteHalf, reply: &Reply<T>) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply).map_err(io::Error::other)?;
    line.push(b'\n');
    tokio::time::timeout(PATIENCE, output.write_all(&line)).await?
}
