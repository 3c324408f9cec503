//! SIGINT, SIGTERM and, when the terminal is closed, SIGHUP: the first asks for a clean end, the second ends at once.
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
        let mut signals = Signals::install()?;
        let token = CancellationToken::new();
        let asked = token.clone();
        tokio::spawn(async move {
            signals.any().await;
            asked.cancel();
            signals.any().await;
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

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // `nohup` asks for just that: to go on.
            hangup: if is_hangup_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn any(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether this process was started with SIGHUP ignored.
fn is_hangup_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status))
}

/// Bit 0 of `SigIgn` in proc(5) is signal 1, SIGHUP.
fn ignores_hangup(status: &str) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nohup_is_noticed() {
        assert!(ignores_hangup("Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigBlk:\t1\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
