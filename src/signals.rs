//! SIGINT, SIGTERM and, when the terminal is closed, SIGHUP: the first asks for a clean end, the second ends at once.
//!
//! What comes within [`ONE_WISH`] of the first is the first: timeout(1), for one, signals its child and then their group.
//!
//! Commands select on [`Stop::wait`]; nothing else in the process installs handlers. What must not be left behind even
//! by a second signal is given as `last_act`: it runs on the signal task and must not wait for the work it cuts short.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that SIGINT ended: 128 + 2.
const ENDED_BY_SECOND_SIGNAL: i32 = 130;

/// Signals so close together are one wish. Nobody presses a key twice in this time who has seen what the first did.
const ONE_WISH: Duration = Duration::from_millis(250);

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
            asked_again(&mut signals).await;
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

/// Where signals come from.
trait Source: Send {
    /// Waits for one.
    fn any(&mut self) -> impl Future<Output = ()> + Send;
}

/// After the first signal: waits for one that is a wish of its own.
async fn asked_again(signals: &mut impl Source) {
    let same_wish = async {
        loop {
            signals.any().await;
        }
    };
    let Err(_) = tokio::time::timeout(ONE_WISH, same_wish).await;
    signals.any().await;
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
}

impl Source for Signals {
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
    use tokio::sync::mpsc;

    use super::*;

    impl Source for mpsc::Receiver<()> {
        async fn any(&mut self) {
            let _sent = self.recv().await;
        }
    }

    /// What is there already when the wait begins is taken before any time counts.
    #[tokio::test]
    async fn signals_close_together_are_one_wish_and_a_later_one_is_another() {
        let (send, mut come) = mpsc::channel(2);
        for _ in 0..2 {
            send.send(()).await.expect("taken");
        }
        let again = tokio::spawn(async move { asked_again(&mut come).await });
        while send.capacity() < 2 && !send.is_closed() {
            tokio::task::yield_now().await;
        }
        assert!(!send.is_closed() && !again.is_finished(), "they are the first one still");
        // Closed once one counted, however many came too soon.
        while send.send(()).await.is_ok() {
            tokio::time::sleep(ONE_WISH / 5).await;
        }
        again.await.expect("a wish of its own");
    }

    #[test]
    fn nohup_is_noticed() {
        assert!(ignores_hangup("Name:\tx\nSigBlk:\t0\nSigIgn:\t0000000000001001\n"));
        assert!(!ignores_hangup("Name:\tx\nSigBlk:\t1\nSigIgn:\t0000000000001000\n"));
        assert!(!ignores_hangup(""));
    }
}
