//! SIGINT and SIGTERM: the first asks for a clean end, the second ends at once.
//!
//! Commands select on [`Stop::wait`]; nothing else in the process installs handlers. What must not be left behind even
//! by a second signal is given as `last_act`: it runs on the signal task and must not wait for the work it cuts short.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that SIGINT ended: 128 + 2.
const ENDED_BY_SECOND_SIGNAL: i32 = 130;

/// Resolves once the user has asked to stop. Clones share the wish.
#[derive(Clone, Debug)]
pub(crate) struct Stop(CancellationToken);

impl Stop {
    /// Starts to listen. Must run on a tokio runtime.
    pub(crate) fn install(last_act: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let token = CancellationToken::new();
        let asked = token.clone();
        tokio::spawn(async move {
            either(&mut interrupt, &mut terminate).await;
            asked.cancel();
            either(&mut interrupt, &mut terminate).await;
            eprintln!("wtfs: stopped at once, as asked twice");
            last_act();
            std::process::exit(ENDED_BY_SECOND_SIGNAL);
        });
        Ok(Self(token))
    }

    /// # Cancel safety
    /// Cancel safe: a signal that came is remembered.
    pub(crate) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
